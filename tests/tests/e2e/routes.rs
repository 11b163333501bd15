//! `rcproute` on a running tree (ROUTE-01 to ROUTE-05).

use std::process::Command;
use std::time::Duration;

use tests::rig::{MIB, Plan, Random, Tree, program, said, wait_for};

use crate::load::{Ends, Load, Writer};

const LONG: Duration = Duration::from_secs(30);

fn rcproute(tree: &Tree, node: &str, words: &[&str]) -> Result<String, String> {
    said(Command::new(program("rcproute")).arg("--dir").arg(tree.folder(node)).args(words))
}

fn stored(tree: &Tree, node: &str) -> Vec<u8> {
    std::fs::read(tree.folder(node).join("routes")).unwrap()
}

/// All nodes know who is below them, and have stored it: that is done within half a second.
#[track_caller]
fn at_rest(tree: &Tree) {
    let below = |tree: &Tree, child: &str| {
        let routes = tree.status("p").unwrap().groups[0].routes.clone();
        routes.get(child).cloned().unwrap_or_default()
    };
    wait_for("the primary to know the tree", LONG, || {
        let known = (below(tree, "f1"), below(tree, "f2"));
        let all = known.0 == ["l1"] && known.1 == ["l2"];
        if all { Ok(()) } else { Err(format!("{known:?}")) }
    });
    let all = || tree.names().iter().map(|n| stored(tree, n)).collect::<Vec<_>>();
    wait_for("the stored tables to rest", LONG, || {
        let before = all();
        std::thread::sleep(Duration::from_millis(1200));
        if all() == before { Ok(()) } else { Err("they still change".to_owned()) }
    });
}

#[track_caller]
fn refused(tree: &Tree, node: &str, words: &[&str], reasons: &[&str]) {
    let file = stored(tree, node);
    let table = tree.routes(node).unwrap();
    let said = rcproute(tree, node, words).expect_err("it was accepted");
    for r in reasons {
        assert!(said.contains(r), "`{r}` is not in the reason:\n{said}");
    }
    assert_eq!(tree.routes(node).unwrap(), table, "the table changed");
    assert!(stored(tree, node) == file, "the stored table changed");
}

/// The node shows a set that is newer than what the primary had when asked.
#[track_caller]
fn advances(tree: &Tree, node: &str) {
    let newest = tree.volume("p", "vol").unwrap().current_set;
    tree.reaches(node, "vol", newest + 1, LONG);
}

#[test]
fn routes_change_while_data_flows() {
    let mut random = Random::seeded("routes");
    let plan = Plan::new(&[("p", &["f1", "f2"]), ("f1", &["l1"]), ("f2", &["l2"])]);
    let tree = Tree::start(plan.volume("vol", 32).cut_every(200));
    // Leaves that lose their parent say so, once.
    tree.expect(" WARN ");
    let mut writer = Writer::new("vol", 0, 8000, random.fork());
    let load = Load::default();
    std::thread::scope(|s| {
        let _ends = Ends(&load);
        s.spawn(|| writer.work(&tree, &load, 4 * MIB));
        for l in ["l1", "l2"] {
            advances(&tree, l);
        }
        let shown = rcproute(&tree, "p", &["display", "group=g1"]).unwrap();
        for n in ["f1", "f2", "l1", "l2"] {
            assert!(shown.contains(n), "{n} is not shown:\n{shown}");
        }

        at_rest(&tree);
        refused(&tree, "p", &["add", "group=g1", "nexthop=nobody"], &["nobody"]);
        refused(&tree, "p", &["add", "group=gx", "nexthop=l1"], &["gx", "g1"]);
        refused(&tree, "p", &["add", "group=g1", "nexthop=f1"], &["f1", "already"]);
        // l1 is fed by f1: a second parent.
        refused(&tree, "f2", &["add", "group=g1", "nexthop=l1"], &["l1", "f1"]);
        // Loops: to the root, to the parent, to itself.
        refused(&tree, "l1", &["add", "group=g1", "nexthop=p"], &["p"]);
        refused(&tree, "l1", &["add", "group=g1", "nexthop=f1"], &["ring", "l1 -> f1 -> l1"]);
        refused(&tree, "f1", &["add", "group=g1", "nexthop=f1"], &["f1"]);
        refused(&tree, "p", &["delete", "group=g1", "nexthop=l2"], &["l2"]);
        for l in ["l1", "l2"] {
            advances(&tree, l);
        }

        // l2 moves below f1.
        rcproute(&tree, "f2", &["delete", "group=g1", "nexthop=l2"]).unwrap();
        wait_for("l2 to say that nobody feeds it", LONG, || {
            let v = tree.volume("l2", "vol")?;
            v.reason.filter(|r| r.contains("f2")).ok_or("no reason".to_owned())
        });
        advances(&tree, "l1");
        rcproute(&tree, "f1", &["add", "group=g1", "nexthop=l2"]).unwrap();
        for l in ["l1", "l2"] {
            advances(&tree, l);
        }
        wait_for("the primary to show the route below", LONG, || {
            let shown = tree.status("p").unwrap().groups[0].routes.clone();
            let below = shown.get("f1").cloned().unwrap_or_default();
            if below == ["l1", "l2"] { Ok(()) } else { Err(format!("{shown:?}")) }
        });

        // A branch is cut off and put back: it catches up.
        rcproute(&tree, "p", &["delete", "group=g1", "nexthop=f1"]).unwrap();
        advances(&tree, "f2");
        rcproute(&tree, "p", &["add", "group=g1", "nexthop=f1"]).unwrap();
        for l in ["l1", "l2"] {
            advances(&tree, l);
        }

        // The stored table rules after a restart, and the difference to the file is shown.
        tree.kill("f1");
        tree.up("f1");
        let status = tree.status("f1").unwrap();
        assert_eq!(status.groups[0].routes["f1"], ["l1", "l2"]);
        assert!(!status.groups[0].drift.is_empty(), "no drift: {:?}", status.groups[0]);
        for l in ["l1", "l2"] {
            advances(&tree, l);
        }
    });
    let cut = tree.cut("vol", true);
    for n in ["f1", "f2", "l1", "l2"] {
        tree.reaches(n, "vol", cut.set, LONG);
        tree.same(n, "vol", cut.set);
    }
    tree.quiet();
}
