//! SIGTERM: an orderly end within its deadline, and a start that goes on where it was.

use std::time::Duration;

use node::limits::STOP_DEADLINE;
use tests::rig::{Clock, MIB, Plan, Random, Tree};

use crate::load::{Ends, Load, Writer};

const LONG: Duration = Duration::from_secs(30);

#[test]
fn sigterm_finishes_and_a_restart_resumes() {
    let mut random = Random::seeded("restart");
    let tree = Tree::start(Plan::tree().volume("vol", 64).cut_every(500));
    tree.expect(" WARN ");
    let mut writer = Writer::new("vol", 0, 14_000, random.fork());
    let load = Load::default();
    std::thread::scope(|s| {
        let _ends = Ends(&load);
        s.spawn(|| writer.work(&tree, &load, 8 * MIB));
        tree.reaches("l1", "vol", 2, LONG);
        for n in ["l1", "f1", "p", "f2", "p"] {
            let clock = Clock::default();
            clock.pace(Duration::from_millis(600));
            let end = tree.stop(n, STOP_DEADLINE + Duration::from_secs(2));
            let took = clock.passed();
            assert!(end.log.contains("has stopped"), "{}", end.log);
            let left = ["rcpd.sock", "rcpd.pid"].map(|f| tree.folder(n).join(f).exists());
            assert_eq!(left, [false, false], "something was left over");
            tree.up(n);
            eprintln!("restart: {n} stopped and up again in {took:?} and {:?}", clock.passed());
            let newest = tree.volume("p", "vol").unwrap().current_set;
            tree.reaches("l1", "vol", newest + 1, LONG);
        }
    });
    // What was acknowledged just before the end is in the last set.
    let end = tree.stop("p", STOP_DEADLINE + Duration::from_secs(2));
    assert!(end.log.contains("has stopped"), "{}", end.log);
    tree.up("p");
    let cut = tree.cut("vol", true);
    tree.all_same("vol", cut.set, LONG);
    let export = format!("vol@{}", cut.set);
    writer.verify("p", &mut tree.open("p", &export).unwrap());
    writer.verify("l4", &mut tree.open("l4", &export).unwrap());
    for n in tree.names() {
        assert!(!tree.log(&n).contains("seed"), "{n} was seeded:\n{}", tree.log(&n));
    }
    tree.quiet();
}
