//! Limits of hops: what they hold back says so, and nothing else waits.

use std::process::Command;
use std::time::Duration;

use node::api::{ChildProgress, LinkStatus};
use tests::rig::{MIB, Plan, Random, Tree, program, said, wait_for};

const LONG: Duration = Duration::from_secs(60);

fn rcproute(tree: &Tree, words: &[&str]) -> Result<String, String> {
    said(Command::new(program("rcproute")).arg("--dir").arg(tree.folder("p")).args(words))
}

fn child(tree: &Tree, name: &str) -> ChildProgress {
    let v = tree.volume("p", "vol").unwrap();
    v.children.into_iter().find(|c| c.node == name).unwrap()
}

fn link(tree: &Tree, name: &str) -> LinkStatus {
    let group = tree.status("p").unwrap().groups.into_iter().next().unwrap();
    group.children.into_iter().find(|c| c.node == name).unwrap()
}

/// Fills the volume with what cannot be compressed, and cuts.
fn fill(tree: &Tree, random: &mut Random, keep: bool) -> u64 {
    let mut c = tree.open("p", "vol").unwrap();
    for at in 0..4 {
        c.write(at * MIB, &random.bytes(1 << 20), true).unwrap();
    }
    drop(c);
    tree.cut("vol", keep).set
}

#[track_caller]
fn held_back(tree: &Tree) {
    wait_for("the limit to be the reason", LONG, || {
        let c = child(tree, "l1");
        let reason = c.reason.clone().unwrap_or_default();
        if reason.ends_with("limited to 64 kbit/s") && c.behind_bytes > 0 {
            Ok(())
        } else {
            Err(format!("{c:?}"))
        }
    });
}

#[test]
fn a_limit_names_itself_as_the_reason_and_is_changed_live() {
    let mut random = Random::seeded("limits");
    let plan = Plan::new(&[("p", &["l1", "l2"])]).volume("vol", 8);
    let tree = Tree::start(plan.hop("p", "l1", |h| h.limit = Some("64kbit/s".to_owned())));
    for l in ["l1", "l2"] {
        wait_for("a replica", LONG, || tree.volume(l, "vol"));
    }
    let set = fill(&tree, &mut random, false);
    // Four chunks: the second may go after two minutes.
    tree.reaches("l2", "vol", set, LONG);
    held_back(&tree);
    let l = link(&tree, "l1");
    assert_eq!((l.state.as_str(), l.limit), ("connected", Some(64_000)));
    assert_eq!(l.limit_in_words.as_deref(), Some("limited to 64 kbit/s"));
    assert_eq!(link(&tree, "l2").limit, None);

    let e = rcproute(&tree, &["add", "group=g1", "nexthop=l1", "limit=20MB/s"]).unwrap_err();
    assert!(e.contains("rates are in bits"), "{e}");
    let e = rcproute(&tree, &["add", "group=g1", "nexthop=l1", "transport=tcp", "limit=9Mbit/s"]);
    assert!(e.as_ref().is_err_and(|e| e.contains("already")), "{e:?}");
    held_back(&tree);

    let shown = rcproute(&tree, &["add", "group=g1", "nexthop=l1", "limit=none"]).unwrap();
    assert!(!shown.contains("limit"), "{shown}");
    tree.reaches("l1", "vol", set, LONG);
    assert_eq!(link(&tree, "l1").sessions, l.sessions, "on the same session");

    // Stored, and there again after a restart.
    let limit = "64kbit/s@00:00-24:00,20Mbit/s@mon-fri";
    let shown = rcproute(&tree, &["add", "group=g1", "nexthop=l1", &format!("limit={limit}")]);
    let expected = "l1 (limit=64kbit/s,20Mbit/s@mon-fri)";
    assert!(shown.as_ref().is_ok_and(|s| s.contains(expected)), "{shown:?}");
    tree.expect(" WARN ");
    tree.kill("p");
    tree.up("p");
    let set = fill(&tree, &mut random, true);
    tree.reaches("l2", "vol", set, LONG);
    held_back(&tree);
    rcproute(&tree, &["add", "group=g1", "nexthop=l1", "limit=none"]).unwrap();
    tree.all_same("vol", set, LONG);
    tree.quiet();
}

#[test]
fn a_seed_keeps_to_the_limit_and_ends_without_it() {
    let mut random = Random::seeded("limited seed");
    let plan = Plan::new(&[("p", &["l2"])]).volume("vol", 8);
    let mut plan = plan.hop("p", "l2", |h| h.limit = Some("64kbit/s".to_owned()));
    plan.group().policy.timeout = Some("1h".to_owned());
    let tree = Tree::start_but(plan, &["l2"]);
    fill(&tree, &mut random, false);
    // More than the save volume keeps: only a seed brings a new replica to where the primary is.
    for _ in 0..16 {
        fill(&tree, &mut random, false);
    }
    let set = fill(&tree, &mut random, true);
    tree.up("l2");
    wait_for("the limit to hold the seed back", LONG, || {
        let v = tree.volume("p", "vol")?;
        let c = v.children.into_iter().next().ok_or("no child")?;
        let reason = c.reason.clone().unwrap_or_default();
        if c.state == "seeding" && reason.ends_with("limited to 64 kbit/s") {
            Ok(())
        } else {
            Err(format!("{c:?}"))
        }
    });
    rcproute(&tree, &["add", "group=g1", "nexthop=l2", "limit=none"]).unwrap();
    tree.expect(" WARN ");
    tree.all_same("vol", set, LONG);
}

#[test]
fn sets_go_on_beside_a_seed_over_a_limited_hop() {
    let mut random = Random::seeded("sets beside a seed");
    let plan = Plan::new(&[("p", &["l2"])]).volume("vol", 32).save(8);
    let mut plan = plan.hop("p", "l2", |h| h.limit = Some("4Mbit/s".to_owned()));
    plan.group().policy.timeout = Some("1h".to_owned());
    plan.group().policy.hwm = Some("1 MiB".to_owned());
    let tree = Tree::start_but(plan, &["l2"]);
    let mut c = tree.open("p", "vol").unwrap();
    for at in 0..24 {
        c.write(at * MIB, &random.bytes(1 << 20), false).unwrap();
    }
    c.flush().unwrap();
    tree.cut("vol", false);
    tree.up("l2");
    let seeding = || {
        let c = child(&tree, "l2");
        if c.state == "seeding" { Ok(c) } else { Err(format!("{c:?}")) }
    };
    wait_for("the seed to begin", LONG, seeding);
    // Most of a minute of seed; each of these sets takes a moment of it.
    for _ in 0..3 {
        c.write(0, &random.bytes(4096), true).unwrap();
        let set = tree.cut("vol", false).set;
        wait_for("the set to be saved while the seed goes on", LONG, || {
            let c = seeding().unwrap_or_else(|e| panic!("set {set} waited for the seed: {e}"));
            if c.saved_set >= set { Ok(()) } else { Err(format!("{c:?}")) }
        });
    }
    rcproute(&tree, &["add", "group=g1", "nexthop=l2", "limit=none"]).unwrap();
    tree.expect(" WARN ");
    let set = tree.cut("vol", true).set;
    tree.all_same("vol", set, LONG);
}
