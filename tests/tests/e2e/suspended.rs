//! Receivers that hold back data: writes that wait for them, limits, and letting go by hand.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use node::api::{ChildProgress, VolumeInfo};
use tests::rig::{Clock, Plan, Tree, wait_for};

use crate::load::{BLOCK, content};

const LONG: Duration = Duration::from_secs(60);
/// The smallest save volume there is, in MiB; three times as much is written.
const SAVE: u64 = 8;
const WRITES: u64 = 3 * SAVE * 16;

fn plan(routes: &[(&str, &[&str])], limit: &str) -> Plan {
    let mut plan = Plan::new(routes).volume("vol", 32).save(SAVE).cut_every(100);
    plan.group().policy.hwm = Some("1 MiB".to_owned());
    plan.group().policy.on_full = Some("suspend".to_owned());
    plan.group().policy.suspend_limit = Some(limit.to_owned());
    plan
}

/// Everybody has the first set.
fn started(plan: Plan, leaves: &[&str]) -> Tree {
    let tree = Tree::start(plan);
    tree.expect(" WARN ");
    write(&tree, 0);
    for l in leaves {
        tree.reaches(l, "vol", 1, LONG);
    }
    tree
}

/// One write of 64 KiB that does not compress.
fn write(tree: &Tree, n: u64) {
    let mut c = tree.open("p", "vol").unwrap();
    put(&mut c, n);
}

fn put(c: &mut node::nbd::Client, n: u64) {
    let data: Vec<u8> = (0..16).flat_map(|i| content((1 << 40) + n * 16 + i)).collect();
    c.write(n * 16 * BLOCK as u64, &data, false).expect("no write fails for a receiver");
}

/// Writes three save volumes, counting.
fn write_all(tree: &Tree, done: &AtomicU64) {
    let mut c = tree.open("p", "vol").unwrap();
    for n in 0..WRITES {
        put(&mut c, n);
        done.store(n + 1, Ordering::SeqCst);
    }
    c.flush().unwrap();
}

fn vol(tree: &Tree, node: &str) -> VolumeInfo {
    tree.volume(node, "vol").unwrap()
}

fn child(tree: &Tree, node: &str, name: &str) -> ChildProgress {
    vol(tree, node).children.into_iter().find(|c| c.node == name).expect("a child")
}

/// The node says that it waits, and for whom.
fn waits(tree: &Tree, node: &str, by: &str) -> VolumeInfo {
    wait_for("the room to be awaited", LONG, || {
        let v = tree.volume(node, "vol")?;
        match &v.suspended {
            Some(s) if s.by == [by] => Ok(v),
            other => Err(format!("{other:?}, {} of {} bytes", v.save_used, v.save_capacity)),
        }
    })
}

fn all_same(tree: &Tree) {
    let set = tree.cut("vol", true).set;
    tree.all_same("vol", set, LONG);
    for n in tree.names() {
        let log = tree.log(&n);
        assert!(!log.contains("a seed begins"), "{n} was copied in full:\n{log}");
    }
    tree.quiet();
}

#[test]
fn writes_wait_for_a_leaf_that_is_away_and_go_on_when_it_is_back() {
    let tree = started(plan(&[("p", &["l1", "l2"])], "10min"), &["l1", "l2"]);
    tree.kill("l1");
    let done = AtomicU64::new(0);
    std::thread::scope(|s| {
        let writer = s.spawn(|| write_all(&tree, &done));
        let v = waits(&tree, "p", "l1");
        assert!(v.state.contains("writes wait"), "{}", v.state);
        let at = done.load(Ordering::SeqCst);
        assert!(at > 0 && at < WRITES, "{at} writes");
        // Said in words, with what to do, and counted; reads are served.
        let status = tree.ctl_at("p", &["status", "vol"]).unwrap_or_else(|e| e);
        for part in ["writes wait", "l1 (", "rcpctl replicate detach vol --receiver l1", "10min"] {
            assert!(status.contains(part), "{part} is missing:\n{status}");
        }
        let mut first = vec![0; BLOCK];
        tree.open("p", "vol").unwrap().read(0, &mut first).unwrap();
        assert!(first == content(1 << 40));
        Clock::default().pace(Duration::from_millis(500));
        let now = vol(&tree, "p");
        assert!(now.suspended.is_some() && now.suspended_ms > v.suspended_ms, "{now:?}");
        assert_eq!(done.load(Ordering::SeqCst), at, "a write did not wait");
        assert!(!writer.is_finished());

        tree.up("l1");
        writer.join().unwrap();
    });
    let v = vol(&tree, "p");
    assert_eq!((v.detached.full, v.detached.limits, v.detached.by_hand), (0, 0, 0));
    wait_for("the log to say that it is over", LONG, || {
        let log = tree.log("p");
        let told = log.contains(": writes wait: ") && log.contains("has room again");
        if told { Ok(()) } else { Err(log) }
    });
    assert_eq!(vol(&tree, "p").suspended, None);
    all_same(&tree);
    for n in tree.names() {
        assert!(!tree.log(&n).contains("detached: "), "{n} speaks of a detachment");
    }
}

#[test]
fn a_leaf_that_stays_away_is_detached_and_caught_up_later() {
    let tree = started(plan(&[("p", &["l1", "l2"])], "2s"), &["l1", "l2"]);
    tree.kill("l1");
    // No write fails: the first that waits does so for two seconds.
    write_all(&tree, &AtomicU64::new(0));
    let v = vol(&tree, "p");
    assert_eq!((v.detached.full, v.detached.limits, v.detached.by_hand), (1, 0, 0));
    assert!(v.suspended_ms >= 2_000, "writes waited for {} ms", v.suspended_ms);
    let l1 = child(&tree, "p", "l1");
    assert_eq!(l1.state, "detached");
    assert!(l1.reason.as_ref().is_some_and(|r| r.contains("all that is waited for")), "{l1:?}");
    let newest = vol(&tree, "p").current_set;
    tree.reaches("l2", "vol", newest, LONG);
    tree.up("l1");
    tree.reaches("l1", "vol", newest, LONG);
    assert!(tree.log("l1").contains("a catch-up begins"), "{}", tree.log("l1"));
    all_same(&tree);
}

#[test]
fn a_forwarder_that_fills_holds_back_the_primary() {
    let tree = started(plan(&[("p", &["f1"]), ("f1", &["l1", "l2"])], "10min"), &["l1", "l2"]);
    tree.kill("l1");
    std::thread::scope(|s| {
        let writer = s.spawn(|| write_all(&tree, &AtomicU64::new(0)));
        let f1 = waits(&tree, "f1", "l1");
        let why = f1.reason.unwrap_or_default();
        assert!(why.contains("nothing more is taken from the parent"), "{why}");
        waits(&tree, "p", "f1");
        assert!(!writer.is_finished());
        tree.up("l1");
        writer.join().unwrap();
    });
    all_same(&tree);
    for n in tree.names() {
        assert!(!tree.log(&n).contains("detached: "), "{n} speaks of a detachment");
    }
}

#[test]
fn a_receiver_beyond_its_limit_is_let_go_and_another_is_not() {
    let mut plan = Plan::new(&[("p", &["l1", "l2"])]).volume("vol", 32);
    plan.group().policy.keep_sets = Some(3);
    let more = config::spec::PlaybackSpec { keep_sets: Some(1_000), ..Default::default() };
    plan.group().overrides.insert("l2".to_owned(), more);
    let tree = Tree::start(plan);
    tree.expect(" WARN ");
    write(&tree, 0);
    tree.cut("vol", false);
    for l in ["l1", "l2"] {
        tree.reaches(l, "vol", 1, LONG);
        tree.kill(l);
    }
    for n in 1..=3 {
        write(&tree, n);
        tree.cut("vol", false);
    }
    Clock::default().pace(Duration::from_millis(500));
    assert_eq!(vol(&tree, "p").detached.limits, 0, "three are allowed");
    write(&tree, 4);
    tree.cut("vol", false);
    wait_for("the receiver to be let go", LONG, || match vol(&tree, "p").detached.limits {
        1 => Ok(()),
        n => Err(format!("{n} were")),
    });
    let (l1, l2) = (child(&tree, "p", "l1"), child(&tree, "p", "l2"));
    assert_eq!((l1.state.as_str(), l1.behind_bytes), ("detached", 0));
    assert!(l1.reason.is_some_and(|r| r.contains("`keep_sets` allows it 3")));
    assert_eq!(l2.state, "offline");
    assert!(l2.behind_bytes > 0, "what it lacks is kept");
    tree.up("l1");
    tree.up("l2");
    all_same(&tree);
    assert!(!tree.log("l2").contains("a catch-up begins"), "{}", tree.log("l2"));
}

#[test]
fn an_operator_lets_go_of_a_receiver() {
    let tree = started(plan(&[("p", &["l1", "l2"])], "10min"), &["l1", "l2"]);
    let detach = |who: &str| tree.ctl_at("p", &["replicate", "detach", "vol", "--receiver", who]);
    let refused = detach("l9").expect_err("nobody of that name");
    assert!(refused.contains("l9 is no receiver") && refused.contains("l1, l2"), "{refused}");
    tree.kill("l1");
    std::thread::scope(|s| {
        let writer = s.spawn(|| write_all(&tree, &AtomicU64::new(0)));
        waits(&tree, "p", "l1");
        let told = detach("l1").unwrap();
        assert!(told.contains("what l1 lacks is kept for it no longer"), "{told}");
        writer.join().unwrap();
    });
    let v = vol(&tree, "p");
    assert_eq!((v.detached.full, v.detached.limits, v.detached.by_hand), (0, 0, 1));
    let l1 = child(&tree, "p", "l1");
    assert!(l1.state == "detached" && l1.behind_bytes == 0, "{l1:?}");
    let again = detach("l1").expect_err("it holds nothing");
    assert!(again.contains("holds nothing back") && again.contains("nothing was changed"));
    tree.up("l1");
    all_same(&tree);
    assert!(tree.log("l1").contains("a catch-up begins"), "{}", tree.log("l1"));
}
