//! A node is taken out of service for good: what it fed is fed by another, from where it is, with no
//! full copy; cut short anywhere, the same command finishes it (GEN-12).

use std::time::Duration;

use tests::rig::{Clock, MIB, Plan, Process, Random, Tree, wait_for};

use crate::load::{Ends, Load, Writer};

const LONG: Duration = Duration::from_secs(90);

fn hops(tree: &Tree, node: &str) -> Vec<String> {
    let groups = tree.status(node).map(|s| s.groups).unwrap_or_default();
    groups.into_iter().flat_map(|g| g.children).map(|c| c.node).collect()
}

fn seeds(tree: &Tree, node: &str) -> usize {
    tree.log(node).matches("a seed begins").count()
}

fn plan() -> Plan {
    let routes: &[(&str, &[&str])] = &[("p", &["f", "l3"]), ("f", &["l1", "l2"])];
    Plan::new(routes).volume("vol", 32).cut_every(200)
}

#[test]
fn the_leaves_below_a_forwarder_go_on_from_where_they_are() {
    let mut random = Random::seeded("decommission");
    let tree = Tree::start(plan());
    tree.expect(" WARN ");
    tree.expect(" ERROR ");
    let mut writer = Writer::new("vol", 0, 8000, random.fork());
    let load = Load::default();
    let (mut told, mut before) = (String::new(), Vec::new());
    std::thread::scope(|s| {
        let _ends = Ends(&load);
        s.spawn(|| writer.work(&tree, &load, 4 * MIB));
        for n in ["f", "l1", "l2", "l3"] {
            tree.reaches(n, "vol", 3, LONG);
        }
        tree.refuses(&["node", "decommission", "p"], "`rcpctl group move g1 --to ");
        tree.refuses(&["node", "decommission", "f", "--below", "x"], "`x`");
        let shown = tree.ctl(&["node", "decommission", "f", "--plan"]).expect("a plan");
        assert!(shown.contains("l1 would be fed by p") && shown.contains("nothing was"), "{shown}");
        assert_eq!(hops(&tree, "f").len(), 2);
        before = ["l1", "l2"].iter().map(|n| seeds(&tree, n)).collect();
        told = tree.ctl(&["node", "decommission", "f"]).expect("out of service");
    });
    eprintln!("{told}");
    for word in ["refuses to start", "`nodes.f`", "topology apply", "delete its data folder"] {
        assert!(told.contains(word), "{word}: {told}");
    }
    let cut = tree.cut("vol", true);
    for n in ["l1", "l2", "l3"] {
        tree.reaches(n, "vol", cut.set, LONG);
        writer.verify(n, &mut tree.open(n, "vol").expect("open"));
    }
    let mut below = hops(&tree, "p");
    below.sort();
    assert_eq!(below, ["l1", "l2", "l3"]);
    // For good: it does not start, and the others remember after a restart.
    tree.kill("f");
    let end = tree.refused("f");
    assert!(end.log.contains("taken out of service"), "{}", end.log);
    let again = tree.ctl(&["node", "decommission", "f"]).expect("said again");
    assert!(again.contains("nobody feeds it"), "{again}");
    tree.kill("p");
    tree.up("p");
    wait_for("the leaves below p", LONG, || {
        let mut below = hops(&tree, "p");
        below.sort();
        if below == ["l1", "l2", "l3"] { Ok(()) } else { Err(format!("{below:?}")) }
    });
    assert_eq!([seeds(&tree, "l1"), seeds(&tree, "l2")], before[..], "a leaf was seeded");
}

#[test]
fn cut_short_anywhere_the_same_command_finishes_it() {
    let mut random = Random::seeded("decommissions");
    for (round, victim) in ["the command", "f", "p", "the command", "f", "l1"].iter().enumerate() {
        let tree = Tree::start(plan());
        tree.expect(" WARN ");
        tree.expect(" ERROR ");
        tree.open("p", "vol")
            .expect("open")
            .write(0, &[round as u8 + 1; 4096], true)
            .expect("written");
        let set = tree.cut("vol", false).set;
        for n in ["f", "l1", "l2", "l3"] {
            tree.reaches(n, "vol", set, LONG);
        }
        let before: usize = ["l1", "l2"].iter().map(|n| seeds(&tree, n)).sum();
        let words = ["node", "decommission", "f"];
        let log = tree.dir().join("short.log");
        let mut ending = Process::start(&mut tree.rcpctl(&words), &log);
        Clock::default().pace(Duration::from_millis(random.below(150)));
        match *victim {
            "the command" => ending.kill(),
            node => {
                tree.kill(node);
                let retired = || tree.folder(node).join("retired").exists();
                if !retired() {
                    // The command, which goes on, may take it out of service before it is seen to be up.
                    let up = std::panic::AssertUnwindSafe(|| tree.up(node));
                    assert!(std::panic::catch_unwind(up).is_ok() || retired(), "{node} is not up");
                }
                ending.wait(LONG);
            }
        }
        eprintln!("round {round}: {victim} ended: {}", ending.log());
        let told = wait_for("it to be out of service", LONG, || tree.ctl(&words));
        assert!(told.contains("f is out of service"), "{told}");
        assert!(tree.folder("f").join("retired").exists(), "round {round}");
        let mut below = hops(&tree, "p");
        below.sort();
        assert_eq!(below, ["l1", "l2", "l3"], "round {round}");
        tree.open("p", "vol").expect("open");
        wait_for("a write", LONG, || {
            let mut c = tree.open("p", "vol").map_err(|e| e.to_string())?;
            c.write(4096, &[round as u8 + 101; 4096], true).map_err(|e| e.to_string())
        });
        let set = tree.cut("vol", false).set;
        for n in ["l1", "l2", "l3"] {
            tree.reaches(n, "vol", set, LONG);
            let mut block = vec![0; 8192];
            tree.open(n, "vol").expect("open").read(0, &mut block).expect("read");
            assert_eq!((block[0], block[4096]), (round as u8 + 1, round as u8 + 101), "{n}");
        }
        let after: usize = ["l1", "l2"].iter().map(|n| seeds(&tree, n)).sum();
        assert_eq!(before, after, "a leaf was seeded");
    }
}

#[test]
fn a_node_that_is_gone_is_taken_out_on_the_operators_word() {
    let tree = Tree::start(plan());
    tree.expect(" WARN ");
    tree.expect(" ERROR ");
    tree.open("p", "vol").expect("open").write(0, &[1; 4096], true).expect("written");
    let set = tree.cut("vol", false).set;
    for n in ["f", "l1", "l2", "l3"] {
        tree.reaches(n, "vol", set, LONG);
    }
    tree.kill("f");
    tree.refuses(&["node", "decommission", "f"], "if it is gone for good: --gone");
    let told = wait_for("it to be out of service", LONG, || {
        tree.ctl(&["node", "decommission", "f", "--gone"])
    });
    assert!(told.contains("nobody feeds it"), "{told}");
    tree.open("p", "vol").expect("open").write(0, &[2; 4096], true).expect("written");
    let set = tree.cut("vol", false).set;
    for n in ["l1", "l2", "l3"] {
        tree.reaches(n, "vol", set, LONG);
    }
    // The last but one is let go, the only one left is not.
    for n in ["l1", "l2"] {
        tree.ctl(&["node", "decommission", n]).expect("a leaf");
    }
    tree.refuses(&["node", "decommission", "l3"], "the only replica of vol");
}
