//! Replication stopped, started, and (not) going on by itself: at the primary and at a replica,
//! over orderly restarts and kills.

use std::process::Command;
use std::time::Duration;

use tests::rig::{Clock, MIB, Plan, Random, Tree, program, said, wait_for};

use crate::load::{Ends, Load, Writer};

const LONG: Duration = Duration::from_secs(30);

fn rcpctl(tree: &Tree, node: &str, words: &[&str]) {
    let mut c = Command::new(program("rcpctl"));
    said(c.arg("replicate").args(words).arg("--dir").arg(tree.folder(node))).unwrap();
}

fn set(tree: &Tree, node: &str) -> u64 {
    tree.volume(node, "vol").unwrap().current_set
}

fn write(tree: &Tree, with: u8) {
    tree.open("p", "vol").unwrap().write(0, &[with; 65536], true).unwrap();
}

/// No set is made (or shown) by itself, and status says why.
fn stands(tree: &Tree, node: &str, at: u64, why: &str) {
    Clock::default().pace(Duration::from_millis(700));
    let v = tree.volume(node, "vol").unwrap();
    assert_eq!(v.current_set, at, "{node}: {v:?}");
    assert!(v.reason.as_ref().is_some_and(|r| r.contains(why)), "{node}: {:?}", v.reason);
}

#[test]
fn whether_replication_goes_on_after_a_restart_is_a_setting() {
    let tree = Tree::start(Plan::new(&[("p", &["l1"])]).volume("vol", 8).cut_every(100));
    tree.expect(" WARN ");
    write(&tree, 1);
    tree.reaches("l1", "vol", 1, LONG);
    // By default it goes on.
    tree.kill("p");
    tree.up("p");
    write(&tree, 2);
    tree.reaches("l1", "vol", set(&tree, "p").max(2), LONG);

    // Stopped stays stopped (CAP-15), in order or not.
    rcpctl(&tree, "p", &["stop", "vol"]);
    let at = set(&tree, "p");
    write(&tree, 3);
    stands(&tree, "p", at, "stopped here by an operator");
    tree.stop("p", LONG);
    tree.up("p");
    stands(&tree, "p", at, "stopped here by an operator");
    tree.kill("p");
    tree.up("p");
    write(&tree, 4);
    stands(&tree, "p", at, "stopped here by an operator");
    // What changed meanwhile, over both restarts, is known: nothing is copied.
    rcpctl(&tree, "p", &["start", "vol"]);
    tree.reaches("l1", "vol", at + 1, LONG);

    // Not persistent (CAP-16): it runs, and does not after a restart.
    rcpctl(&tree, "p", &["persist", "off", "vol"]);
    let at = set(&tree, "p");
    write(&tree, 5);
    tree.reaches("l1", "vol", at + 1, LONG);
    tree.kill("p");
    tree.up("p");
    let at = set(&tree, "p");
    write(&tree, 6);
    stands(&tree, "p", at, "does not go on by itself");
    rcpctl(&tree, "p", &["start", "vol"]);
    tree.reaches("l1", "vol", at + 1, LONG);
    rcpctl(&tree, "p", &["persist", "on", "vol"]);
    tree.kill("p");
    tree.up("p");
    write(&tree, 7);
    tree.reaches("l1", "vol", set(&tree, "p").max(at + 2), LONG);

    // The same at a replica: it shows what it showed, and saves what comes.
    rcpctl(&tree, "l1", &["stop", "vol"]);
    rcpctl(&tree, "l1", &["persist", "off", "vol"]);
    let at = set(&tree, "l1");
    let mut held = [0; 1];
    tree.open("l1", "vol").unwrap().read(0, &mut held).unwrap();
    write(&tree, 8);
    wait_for("the leaf to save a set", LONG, || {
        let v = tree.volume("l1", "vol")?;
        if v.saved_set > at { Ok(()) } else { Err(format!("{v:?}")) }
    });
    stands(&tree, "l1", at, "stopped here by an operator");
    tree.kill("l1");
    tree.up("l1");
    stands(&tree, "l1", at, "stopped here by an operator");
    let mut now = [0; 1];
    tree.open("l1", "vol").unwrap().read(0, &mut now).unwrap();
    assert_eq!(now, held);
    rcpctl(&tree, "l1", &["start", "vol"]);
    tree.reaches("l1", "vol", at + 1, LONG);
    tree.kill("l1");
    tree.up("l1");
    let at = set(&tree, "l1");
    write(&tree, 9);
    stands(&tree, "l1", at, "does not go on by itself");
    rcpctl(&tree, "l1", &["start", "vol"]);
    let cut = tree.cut("vol", true);
    tree.all_same("vol", cut.set, LONG);
    for n in tree.names() {
        assert!(!tree.log(&n).contains("seed"), "{n} was seeded:\n{}", tree.log(&n));
    }
    tree.quiet();
}

#[test]
fn what_is_written_right_after_recovery_is_in_the_next_set() {
    let mut random = Random::seeded("recovery");
    let tree = Tree::start(Plan::new(&[("p", &["l1"])]).volume("vol", 64).cut_every(200));
    tree.expect(" WARN ");
    let mut writer = Writer::new("vol", 0, 8000, random.fork());
    let load = Load::default();
    std::thread::scope(|s| {
        let _ends = Ends(&load);
        s.spawn(|| writer.work(&tree, &load, 8 * MIB));
        tree.reaches("l1", "vol", 2, LONG);
        for round in 0..4u8 {
            tree.kill("p");
            tree.launch("p");
            // As soon as anybody is let in, before the node says that it is ready.
            let mut c = wait_for("the export", LONG, || tree.open("p", "vol"));
            c.write(60 * MIB + u64::from(round) * 4096, &[round + 1; 4096], true).unwrap();
            tree.came_up("p").unwrap();
            let cut = tree.cut("vol", false);
            tree.reaches("l1", "vol", cut.set, LONG);
            let mut got = [0; 4096];
            let mut leaf = tree.open("l1", "vol").unwrap();
            leaf.read(60 * MIB + u64::from(round) * 4096, &mut got).unwrap();
            assert_eq!(got, [round + 1; 4096], "round {round}");
        }
    });
    let cut = tree.cut("vol", true);
    tree.all_same("vol", cut.set, LONG);
    writer.verify("l1", &mut tree.open("l1", &format!("vol@{}", cut.set)).unwrap());
    tree.quiet();
}
