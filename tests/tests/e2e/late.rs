//! A leaf that comes late, under load, with a small save volume.

use std::time::Duration;

use tests::rig::{Clock, MIB, Plan, Random, Tree, wait_for};

use crate::load::{Ends, Load, Writer};

const LONG: Duration = Duration::from_secs(60);
/// The smallest save volume there is; twenty times as much is written while the leaf comes.
const SAVE: u64 = 8;

#[test]
fn a_late_leaf_reaches_the_stream_under_load() {
    let mut random = Random::seeded("late");
    let mut plan = Plan::new(&[("p", &["f1"]), ("f1", &["l1", "l2"])]).volume("vol", 64);
    plan.group().policy.hwm = Some("1 MiB".to_owned());
    let tree = Tree::start_but(plan.save(SAVE).cut_every(200), &["l2"]);
    tree.expect(" WARN ");
    let mut writers =
        [Writer::new("vol", 0, 8000, random.fork()), Writer::new("vol", 8000, 8000, random.fork())];
    for w in &mut writers {
        w.fill(&tree).unwrap();
    }
    tree.cut("vol", false);
    tree.reaches("l1", "vol", 1, LONG);
    let load = Load::default();
    let clock = Clock::default();
    std::thread::scope(|s| {
        let _ends = Ends(&load);
        for w in &mut writers {
            s.spawn(|| w.work(&tree, &load, 12 * MIB));
        }
        clock.pace(Duration::from_millis(500));
        let before = load.written();
        tree.up("l2");
        wait_for("the late leaf to be readable while writes go on", LONG, || {
            let v = tree.volume("l2", "vol")?;
            if v.state.starts_with("readable") && v.current_set > 0 {
                return Ok(());
            }
            Err(format!("{} at set {}: {:?}", v.state, v.current_set, v.reason))
        });
        let there = load.written() - before;
        eprintln!("late: readable after {} MiB, {:?}", there / MIB, clock.passed());
        // It stays with the stream, whatever else is written.
        wait_for("twenty save volumes to be written", LONG, || {
            let now = load.written() - before;
            if now >= 20 * SAVE * MIB { Ok(()) } else { Err(format!("{} MiB", now / MIB)) }
        });
        let newest = tree.volume("p", "vol").unwrap().current_set;
        assert!(load.on());
        tree.reaches("l2", "vol", newest, LONG);
        eprintln!("late: {} MiB in {:?}", load.written() / MIB, clock.passed());
    });
    let cut = tree.cut("vol", true);
    tree.all_same("vol", cut.set, LONG);
    for w in &writers {
        w.verify("l2", &mut tree.open("l2", "vol").unwrap());
    }
    // Nor does anybody go on saying why it was seeded.
    wait_for("f1 to have nothing to say of its children", LONG, || {
        let children = tree.volume("f1", "vol")?.children;
        let well = |c: &node::api::ChildProgress| c.state == "streaming" && c.reason.is_none();
        if children.iter().all(well) { Ok(()) } else { Err(format!("{children:?}")) }
    });
    // A parent without room says so; it does not say it thousands of times.
    for n in tree.names() {
        let (log, took) = (tree.log(&n), clock.passed().as_secs() + 10);
        let times = log.matches("detached: ").count() as u64;
        assert!(times < 20 * took, "{n} speaks of {times} detachments in {took} s");
    }
    tree.quiet();
}

#[test]
fn leaves_below_a_node_without_content_are_seeded_through_it() {
    let mut random = Random::seeded("relayed");
    let tree = [("p", &["f1"][..]), ("f1", &["f2"]), ("f2", &["l1", "l2", "l3"])];
    let mut plan = Plan::new(&tree).volume("vol", 64);
    plan.group().policy.hwm = Some("1 MiB".to_owned());
    plan.group().forward_only = vec!["f1".to_owned(), "f2".to_owned()];
    let tree = Tree::start_but(plan.save(SAVE).cut_every(200), &["l2", "l3"]);
    tree.expect(" WARN ");
    let mut writer = Writer::new("vol", 0, 12_000, random.fork());
    writer.fill(&tree).unwrap();
    tree.cut("vol", false);
    tree.reaches("l1", "vol", 1, LONG);
    let load = Load::default();
    std::thread::scope(|s| {
        let _ends = Ends(&load);
        s.spawn(|| writer.work(&tree, &load, 6 * MIB));
        // Two at once, and every node on the way dies once.
        tree.up("l2");
        tree.up("l3");
        for n in ["f2", "l2", "f1"] {
            Clock::default().pace(Duration::from_millis(300));
            tree.kill(n);
            tree.up(n);
        }
        for l in ["l2", "l3"] {
            tree.reaches(l, "vol", 1, LONG);
        }
    });
    let cut = tree.cut("vol", true);
    tree.all_same("vol", cut.set, LONG);
    writer.verify("l3", &mut tree.open("l3", "vol").unwrap());
    // What was killed after its first sets came is caught up instead.
    for l in ["l2", "l3"] {
        let log = tree.log(l);
        let filled = log.contains("a seed begins") || log.contains("a catch-up begins");
        assert!(filled, "{l} was given nothing through f1 and f2:\n{log}");
    }
    tree.quiet();
}
