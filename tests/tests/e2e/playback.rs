//! A replica's own pace, what a seed costs, what status says of it, and what stays on one node.

use std::time::Duration;

use config::spec::PlaybackSpec;
use node::http::{paths, requests};
use tests::rig::{MIB, Plan, Tree, wait_for};

const LONG: Duration = Duration::from_secs(30);

/// Writes `kib` of the volume anew and cuts.
fn round(tree: &Tree, with: u8, kib: usize) -> u64 {
    let mut c = tree.open("p", "vol").unwrap();
    // Not to be compressed.
    let mut x = u64::from(with) | 1;
    let data: Vec<u8> = (0..kib << 10)
        .map(|_| {
            x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (x >> 56) as u8
        })
        .collect();
    c.write(0, &data, true).unwrap();
    tree.cut("vol", true).set
}

#[test]
fn a_replica_plays_groups_at_its_own_high_water_mark() {
    let mut plan = Plan::new(&[("p", &["f1"]), ("f1", &["l1"])]).volume("vol", 16);
    let slow = PlaybackSpec {
        timeout: Some("1h".to_owned()),
        hwm: Some("1 MiB".to_owned()),
        ..PlaybackSpec::default()
    };
    plan.group().overrides.insert("l1".to_owned(), slow);
    let tree = Tree::start(plan);
    let mut set = 0;
    for n in 1..=3 {
        set = round(&tree, n, 64);
    }
    // Neither its time nor its size has come: it has them, and shows none (PLAY-07).
    wait_for("the leaf to save three sets", LONG, || {
        let v = tree.volume("l1", "vol")?;
        if v.saved_set == set { Ok(()) } else { Err(format!("{v:?}")) }
    });
    tree.reaches("f1", "vol", set, LONG);
    assert_eq!(tree.volume("l1", "vol").unwrap().current_set, 0);
    // Beyond its size all are one group (PLAY-06), which the table says (PLAY-11).
    let last = round(&tree, 9, 1536);
    tree.reaches("l1", "vol", last, LONG);
    let row = wait_for("the group in the table", LONG, || {
        let v = tree.volume("l1", "vol")?;
        let row = v.sets.iter().find(|r| r.group == Some(4) && r.played_in.is_some()).cloned();
        row.ok_or_else(|| format!("{:?}", v.sets))
    });
    assert_eq!((row.set, row.played_blocks), (1, Some(3 * 16 + 384)), "{row:?}");
    assert!(row.played_us.is_some());
    // A forwarder applies what it forwards to a copy of its own (GEN-04).
    tree.reaches("f1", "vol", last, LONG);
    tree.same("f1", "vol", last);
    tree.all_same("vol", last, LONG);
    // Rates are those of what was sent, and nobody sends now (SEND-05).
    let sent = 3 * 16 + 384;
    let (_, average) = tree.volume("p", "vol").unwrap().transfer_rate;
    assert!(average > 0.0 && average <= f64::from(sent) * 1.1, "{average} blocks/s of {sent}");
    tree.quiet();
}

#[test]
fn a_seed_carries_what_is_used_and_a_command_stays_where_it_was_given() {
    let plan = Plan::new(&[("p", &["f1"]), ("f1", &["l1", "l2"])]).volume("vol", 256).save(8);
    let tree = Tree::start_but(plan, &["l2"]);
    tree.expect(" WARN ");
    let mut set = 0;
    for n in 1..=20 {
        set = round(&tree, n, 1024);
    }
    tree.reaches("l1", "vol", set, LONG);
    // FWD-05: a state is kept where that was said, and nowhere else.
    let body = requests::KeptState { volume: "vol".to_owned(), set };
    let _: requests::Done = tree.post("f1", paths::KEEP, &body).unwrap();
    wait_for("the state to be kept at f1", LONG, || {
        let kept = tree.volume("f1", "vol")?.kept;
        if kept == [set] { Ok(()) } else { Err(format!("{kept:?}")) }
    });
    assert!(tree.volume("l1", "vol").unwrap().kept.is_empty());
    // COPY-05: 1 MiB of 256 is used.
    tree.up("l2");
    tree.reaches("l2", "vol", set, LONG);
    let s = tree.status("f1").unwrap();
    let link = s.groups[0].children.iter().find(|c| c.node == "l2").unwrap();
    assert!(tree.log("l2").contains("a seed begins"), "{}", tree.log("l2"));
    assert!(link.bytes < 3 * MIB, "{} bytes for 1 MiB", link.bytes);
    tree.same("l2", "vol", set);
    tree.quiet();
}
