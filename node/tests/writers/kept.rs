//! States that are to be kept, and a node that becomes the writer.

use super::*;

#[test]
fn whoever_waits_for_a_state_where_the_writer_is_next_is_told() {
    let mut r = two();
    let ask = r.ask("l1", Ask::Keep { volume: "vol".to_owned(), set: 9 });
    r.pass(200);
    assert!(r.told("l1", ask).contains("Done"), "{}", r.told("l1", ask));
    let kept = |r: &Rig| {
        let v = r.nodes["l1"].mover.volume(VOLUME).expect("the volume");
        v.kept().map(|s| s.0).collect::<Vec<_>>()
    };
    assert_eq!(kept(&r), [9]);
    let promoted = r.promote("l1");
    assert!(r.told("l1", promoted).contains("fresh: true"), "{}", r.told("l1", promoted));
    assert_eq!(kept(&r), [2], "the restart point");
    let words = "volume vol: state 9 is no longer kept: this node is the writer now";
    let notes = &r.nodes["l1"].notes;
    let said: Vec<_> = notes.iter().filter(|n| n.contains("no longer kept")).collect();
    assert!(said.len() == 1 && said[0].starts_with(words), "{notes:?}");
    assert!(said[0].ends_with("`rcpctl delta cut VOLUME --keep`"), "{notes:?}");
    // A state that it cuts and keeps is one.
    r.write("l1", 3, 3);
    let cut = r.ask("l1", Ask::Cut { volume: "vol".to_owned(), keep: true });
    r.pass(200);
    assert!(r.told("l1", cut).contains("Cut"), "{}", r.told("l1", cut));
    assert!(r.nodes["l1"].mover.volume(VOLUME).expect("it").is_kept_durably(SetNumber(3)));
}
