//! A forwarder dies: its parent feeds those below it, and hands them back (FWD-06).

use std::time::Duration;

use node::api::LinkStatus;
use rustix::process::Signal;
use tests::rig::{Clock, MIB, Plan, Random, Tree, wait_for};

use crate::load::{Ends, Load, Writer};

const LONG: Duration = Duration::from_secs(90);
/// How long the leaves may stand still, on a machine with much else to do.
const GENEROUS: Duration = Duration::from_secs(15);

fn plan(save: u64) -> Plan {
    let plan = Plan::new(&[("p", &["f1", "f2"]), ("f1", &["l1", "l2"])]);
    plan.volume("vol", 64).save(save).cut_every(100)
}

/// The link to a node as its parent sees it.
fn child(tree: &Tree, parent: &str, child: &str) -> Option<LinkStatus> {
    let status = tree.status(parent).ok()?;
    status.groups[0].children.iter().find(|l| l.node == child).cloned()
}

/// The link of a node to its parent, as it sees it.
fn parent(tree: &Tree, node: &str) -> LinkStatus {
    tree.status(node).unwrap().groups[0].parent.clone().unwrap()
}

fn fed_by(tree: &Tree, node: &str, feeder: &str) {
    wait_for(&format!("{node} to be fed by {feeder}"), LONG, || {
        let p = parent(tree, node);
        if p.node == feeder && p.state == "connected" {
            Ok(())
        } else {
            Err(format!("{}: {} ({:?})\n{}", p.node, p.state, p.reason, tree.log("p")))
        }
    });
}

/// How long until a leaf shows more than the newest set of this moment.
fn goes_on(tree: &Tree, leaves: &[&str], since: &Clock) -> Duration {
    let newest = tree.volume("p", "vol").unwrap().current_set;
    let mut worst = Duration::ZERO;
    for leaf in leaves {
        let shown = || tree.volume(leaf, "vol").map_or(0, |v| v.current_set);
        while shown() <= newest {
            assert!(since.passed() < GENEROUS, "{leaf} stands still:\n{}", tree.log(leaf));
            Clock::default().pace(Duration::from_millis(10));
        }
        worst = worst.max(since.passed());
    }
    worst
}

/// What the death of a forwarder cost those below it.
#[derive(Default)]
struct Death {
    /// How long the last of them stood still.
    stood: Duration,
    /// Bytes that came twice, of those that were needed until it fed them again.
    twice: u64,
    needed: u64,
}

/// Kills the forwarder `f1` below `above` under load, and has it come back (`empty`: without
/// anything).
fn kill_and_return(tree: &Tree, above: &str, empty: bool) -> Death {
    let leaves = ["l1", "l2"];
    let set = tree.cut("vol", false).set;
    for n in ["l1", "l2", "f2"] {
        tree.reaches(n, "vol", set, LONG);
    }
    let before: Vec<u64> = leaves.iter().map(|l| parent(tree, l).bytes).collect();
    let sibling = parent(tree, "f2").bytes;
    let killed = Clock::default();
    tree.kill("f1");
    let through_f1: Vec<u64> = leaves.iter().map(|l| parent(tree, l).bytes).collect();
    assert!(leaves.iter().all(|l| parent(tree, l).node == "f1"), "taken over within no time");
    let stood = goes_on(tree, &leaves, &killed);
    let mut death = Death { stood, ..Death::default() };
    eprintln!("f1 killed (empty: {empty}): the leaves went on after {stood:?}");
    for l in leaves {
        fed_by(tree, l, above);
        let at = child(tree, above, l).unwrap();
        assert_eq!(at.in_place_of.as_deref(), Some("f1"));
    }
    let words = child(tree, above, "f1").unwrap().bypass.unwrap();
    assert!(words.contains("f1 is away since "), "{words}");
    assert!(words.ends_with(": feeding l1 and l2 in its place"), "{words}");
    // Each tells of itself when it has something to tell.
    wait_for("f1, f2, l1 and l2 to be counted once each", LONG, || {
        let below = tree.volume(above, "vol")?.subtree;
        if below.as_ref().is_some_and(|s| s.nodes == 4) {
            Ok(())
        } else {
            Err(format!("{below:?}"))
        }
    });
    Clock::default().pace(Duration::from_secs(2));

    if empty {
        std::fs::remove_dir_all(tree.folder("f1")).unwrap();
    }
    tree.up("f1");
    let since = Clock::default();
    // What was sent to them in its place, as long as that is said.
    let mut instead = [0u64; 2];
    wait_for("f1 to feed l1 and l2 again", LONG, || {
        for (l, sent) in leaves.iter().zip(&mut instead) {
            *sent = child(tree, above, l).map_or(*sent, |l| l.bytes.max(*sent));
        }
        match leaves.iter().map(|l| parent(tree, l)).find(|p| p.node != "f1") {
            None => Ok(()),
            Some(p) => Err(format!("{p:?}: {:?}", child(tree, above, "f1"))),
        }
    });
    let stood = goes_on(tree, &leaves, &Clock::default());
    eprintln!("f1 back: handed back within {:?}, and they went on after {stood:?}", since.passed());
    assert!(child(tree, above, "l1").is_none());
    assert_eq!(child(tree, above, "f1").unwrap().bypass, None);
    let set = tree.cut("vol", false).set;
    for n in ["l1", "l2", "f1", "f2"] {
        tree.reaches(n, "vol", set, LONG);
    }
    let needed = parent(tree, "f2").bytes - sibling;
    for (i, l) in leaves.iter().enumerate() {
        let all = through_f1[i] - before[i] + instead[i] + parent(tree, l).bytes;
        let twice = all.saturating_sub(needed);
        death.twice += twice;
        death.needed += needed;
        let [all, needed, twice] = [all >> 10, needed >> 10, twice >> 10];
        eprintln!("{l}: {all} KiB came, {needed} KiB were needed, {twice} KiB came twice");
        // What the sibling gets is the measure; both may be in the middle of a set.
        assert!(twice * 100 <= needed.max(20 << 10), "{twice} KiB of {needed} came twice");
    }
    death
}

/// Under load, a forwarder is killed and comes back; nobody below it is seeded.
fn die_and_return(name: &str, empty: bool) {
    let mut random = Random::seeded(name);
    // So small that what was written before is not in it any more, or so large that it is.
    let tree = Tree::start(plan(if empty { 32 } else { 256 }));
    tree.expect(" WARN ");
    let mut writer = Writer::new("vol", 0, 14_000, random.fork());
    writer.fill(&tree).unwrap();
    let set = tree.cut("vol", false).set;
    for n in ["l1", "l2", "f1", "f2"] {
        tree.reaches(n, "vol", set, LONG);
    }
    let seeds = |n: &str| tree.log(n).matches(": a seed begins").count();
    let before = ["l1", "l2", "f1"].map(seeds);
    let load = Load::default();
    std::thread::scope(|s| {
        let _ends = Ends(&load);
        s.spawn(|| writer.work(&tree, &load, 6 * MIB));
        kill_and_return(&tree, "p", empty);
    });
    let set = tree.cut("vol", true).set;
    tree.all_same("vol", set, LONG);
    let export = format!("vol@{set}");
    writer.verify("l1", &mut tree.open("l1", &export).unwrap());
    let after = ["l1", "l2", "f1"].map(seeds);
    let f1 = before[2] + usize::from(empty);
    assert_eq!(after, [before[0], before[1], f1], "{}", tree.log("l1"));
    tree.quiet();
}

#[test]
fn those_below_a_dead_forwarder_go_on_and_are_handed_back() {
    die_and_return("bypass", false);
}

#[test]
fn a_forwarder_that_lost_its_disk_is_brought_up_beside_those_below_it() {
    die_and_return("bypass, empty", true);
}

fn written(tree: &Tree, byte: u8) -> u64 {
    tree.open("p", "vol").unwrap().write(0, &[byte; 4096], true).unwrap();
    tree.cut("vol", true).set
}

#[test]
fn a_leaf_that_nobody_feeds_asks_its_fallback_and_returns() {
    let mut plan = Plan::new(&[("p", &["f1", "f2"]), ("f1", &["l1"])]).volume("vol", 16);
    plan.group().bypass = Some(false);
    plan.group().fallbacks.insert("l1".to_owned(), vec!["f2".to_owned()]);
    let tree = Tree::start(plan);
    tree.expect(" WARN ");
    tree.all_same("vol", written(&tree, 1), LONG);
    tree.kill("f1");
    fed_by(&tree, "l1", "f2");
    let set = written(&tree, 2);
    tree.reaches("l1", "vol", set, LONG);
    tree.same("l1", "vol", set);
    assert_eq!(child(&tree, "f2", "l1").unwrap().in_place_of.as_deref(), Some("f1"));
    assert_eq!(child(&tree, "p", "f1").unwrap().bypass, None, "it is switched off");
    tree.up("f1");
    fed_by(&tree, "l1", "f1");
    tree.all_same("vol", written(&tree, 3), LONG);
    wait_for("f2 to forget l1", LONG, || match child(&tree, "f2", "l1") {
        None => Ok(()),
        Some(l) => Err(format!("{l:?}")),
    });
    tree.quiet();
}

#[test]
fn a_member_that_dials_its_parent_dials_the_node_above_it() {
    let plan = Plan::new(&[("p", &["f1"]), ("f1", &["l1"])]).volume("vol", 16);
    let tree = Tree::start(plan.hop("f1", "l1", |h| h.dial = Some("child".to_owned())));
    tree.expect(" WARN ");
    tree.all_same("vol", written(&tree, 1), LONG);
    tree.kill("f1");
    fed_by(&tree, "l1", "p");
    let set = written(&tree, 2);
    tree.reaches("l1", "vol", set, LONG);
    tree.up("f1");
    fed_by(&tree, "l1", "f1");
    tree.all_same("vol", written(&tree, 3), LONG);
    tree.quiet();
}

#[test]
fn a_forwarder_that_hangs_is_bypassed_and_its_old_sessions_count_for_nothing() {
    let tree = Tree::start(plan(64));
    tree.expect(" WARN ");
    tree.all_same("vol", written(&tree, 1), LONG);
    tree.signal("f1", Signal::STOP);
    let set = written(&tree, 2);
    for l in ["l1", "l2"] {
        fed_by(&tree, l, "p");
        tree.reaches(l, "vol", set, LONG);
    }
    let set = written(&tree, 3);
    // It wakes up behind both, and believes for a moment that nothing happened.
    tree.signal("f1", Signal::CONT);
    for l in ["l1", "l2"] {
        tree.reaches(l, "vol", set, LONG);
        fed_by(&tree, l, "f1");
    }
    tree.all_same("vol", written(&tree, 4), LONG);
    tree.quiet();
}

/// With its figures: `cargo test -p tests --test e2e -- --ignored --nocapture a_hundred_deaths`.
/// `DEATHS` changes how many.
#[test]
#[ignore = "a quarter of an hour; what it measures is in tests/docs/measurements.md"]
fn a_hundred_deaths_of_a_forwarder() {
    let deaths = std::env::var("DEATHS").map_or(100, |v| v.parse().expect("a number"));
    let mut random = Random::seeded("deaths");
    let plan = Plan::new(&[("p", &["f0"]), ("f0", &["f1", "f2"]), ("f1", &["l1", "l2"])]);
    let tree = Tree::start(plan.volume("vol", 64).save(256).cut_every(100));
    tree.expect(" WARN ");
    let mut writer = Writer::new("vol", 0, 14_000, random.fork());
    writer.fill(&tree).unwrap();
    let load = Load::default();
    let all: Vec<Death> = std::thread::scope(|s| {
        let _ends = Ends(&load);
        s.spawn(|| writer.work(&tree, &load, 6 * MIB));
        (0..deaths).map(|_| kill_and_return(&tree, "f0", false)).collect()
    });
    let mut stood: Vec<_> = all.iter().map(|d| d.stood).collect();
    stood.sort();
    let at = |percent: usize| stood[(deaths * percent / 100).min(deaths - 1)].as_millis();
    let (twice, needed) = all.iter().fold((0, 0), |(t, n), d| (t + d.twice, n + d.needed));
    eprintln!(
        "{deaths} deaths: the leaves went on after {} ms (median), {} ms (p99), {} ms (longest); {:.3} \
         % came twice",
        at(50),
        at(99),
        at(100),
        100.0 * twice as f64 / needed as f64
    );
    let set = tree.cut("vol", true).set;
    tree.all_same("vol", set, LONG);
    tree.quiet();
}
