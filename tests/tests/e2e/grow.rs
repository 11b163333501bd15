//! A volume becomes larger while it is written: every node follows, whoever dies on the way.

use std::process::Command;
use std::time::Duration;

use node::http::{paths, requests};
use tests::rig::{MIB, Plan, Random, Tree, program, said, wait_for};

use crate::load::{Ends, Load, Writer};

const LONG: Duration = Duration::from_secs(30);

fn resize(tree: &Tree, mib: u64) -> Result<(), String> {
    let body = requests::Resize { volume: "vol".to_owned(), size: mib * MIB };
    let done: Result<requests::Done, _> = tree.post("p", paths::VOLUME_RESIZE, &body);
    done.map(|_| ()).map_err(|e| e.to_string())
}

fn has_size(tree: &Tree, node: &str, mib: u64) {
    wait_for(&format!("{node} to have {mib} MiB"), LONG, || {
        let v = tree.volume(node, "vol")?;
        if v.size == mib * MIB { Ok(()) } else { Err(format!("{} bytes: {:?}", v.size, v.reason)) }
    });
}

#[test]
fn a_volume_grows_under_load_and_every_node_follows() {
    let mut random = Random::seeded("grow");
    let plan = Plan::tree().volume("vol", 16).cut_every(300);
    let tree = Tree::start_but(plan, &["l4"]);
    tree.expect(" WARN ");
    let mut writer = Writer::new("vol", 0, 4000, random.fork());
    let load = Load::default();
    std::thread::scope(|s| {
        let _ends = Ends(&load);
        s.spawn(|| writer.work(&tree, &load, 8 * MIB));
        tree.reaches("l1", "vol", 2, LONG);
        let mut before = tree.open("p", "vol").unwrap();
        resize(&tree, 40).unwrap();
        // Who connects sees it at once; who was connected goes on as before.
        let mut c = tree.open("p", "vol").unwrap();
        assert_eq!((c.size(), before.size()), (40 * MIB, 16 * MIB));
        before.write(0, &[1; 4096], false).unwrap();
        assert!(before.write(16 * MIB, &[1; 4096], false).is_err());
        let mut new = vec![1; 24 << 20];
        c.read(16 * MIB, &mut new).unwrap();
        assert!(new.iter().all(|b| *b == 0), "what is new is not zero");
        c.write(39 * MIB, &[0x5a; 1 << 20], true).unwrap();
        has_size(&tree, "l1", 40);
        // A leaf that comes now is seeded or resumed with the size that it meets.
        tree.up("l4");
        // Nodes die while it grows again.
        tree.kill("l1");
        resize(&tree, 48).unwrap();
        tree.kill("f2");
        tree.kill("p");
        tree.up("p");
        assert_eq!(tree.open("p", "vol").unwrap().size(), 48 * MIB);
        tree.up("f2");
        tree.up("l1");
        let mut c = tree.open("p", "vol").unwrap();
        c.write(47 * MIB, &[0x33; 1 << 20], true).unwrap();
    });
    let cut = tree.cut("vol", true);
    tree.all_same("vol", cut.set, LONG);
    for n in tree.names() {
        has_size(&tree, &n, 48);
    }
    let mut c = tree.open("l4", "vol").unwrap();
    assert_eq!(c.size(), 48 * MIB);
    let mut end = [0; 8];
    c.read(48 * MIB - 8, &mut end).unwrap();
    assert_eq!(end, [0x33; 8]);
    tree.quiet();
}

#[test]
fn a_size_that_cannot_be_is_refused_with_the_remedy() {
    let tree = Tree::start(Plan::new(&[("p", &["l1"])]).volume("vol", 16));
    // The replica has the volume, which comes a moment after the node is up.
    tree.reaches("l1", "vol", 0, LONG);
    let rcpctl = |node: &str, size: &str| {
        let mut c = Command::new(program("rcpctl"));
        said(c.args(["volume", "resize", "vol", size, "--dir"]).arg(tree.folder(node)))
    };
    for (node, size, word) in [
        ("p", "8MiB", "cannot be made smaller"),
        ("p", "16777217B", "not a multiple"),
        ("p", "65TiB", "at most 64 TiB"),
        ("l1", "32MiB", "not the primary"),
    ] {
        let e = rcpctl(node, size).unwrap_err();
        assert!(e.contains(word), "{size} at {node}: {e}");
    }
    let e = rcpctl("p", "16MiB");
    assert!(e.is_ok(), "the size it has: {e:?}");
    // Nothing was written: the growth alone is a set.
    let set = tree.volume("p", "vol").unwrap().current_set;
    rcpctl("p", "32MiB").unwrap();
    assert_eq!(tree.volume("p", "vol").unwrap().current_set, set + 1);
    has_size(&tree, "l1", 32);
    assert_eq!(tree.open("l1", "vol").unwrap().size(), 32 * MIB);
    tree.quiet();
}
