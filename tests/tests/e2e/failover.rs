//! The primary dies, a replica takes over, the primary comes back; and a swap without a disaster
//! (FAIL-01 to FAIL-10, FAIL-20, FAIL-21, F23, F31 to F33).

use std::process::Command;
use std::time::Duration;

use tests::rig::{Clock, MIB, Plan, Random, Tree, program, said, wait_for};

use crate::load::{Ends, Load, Writer, content};

const LONG: Duration = Duration::from_secs(60);

/// Every one of `nodes` shows `set` and has, byte for byte, what `writer` kept.
#[track_caller]
fn same(tree: &Tree, writer: &str, nodes: &[&str], set: u64) {
    let export = format!("vol@{set}");
    let want = tree.all_of(writer, &export).unwrap();
    for n in nodes {
        tree.reaches(n, "vol", set, LONG);
        assert!(tree.all_of(n, &export).unwrap() == want, "{n} differs from {writer} at set {set}");
    }
}

fn write_some(tree: &Tree, node: &str, first: u64) {
    let mut c = tree.open(node, "vol").unwrap_or_else(|e| panic!("{node}: {e}"));
    for i in 0..64 {
        c.write((first + i) * 4096, &content(1 << 50 | (first + i)), false).unwrap();
    }
    c.flush().unwrap();
}

#[test]
fn a_replica_takes_over_and_the_old_primary_comes_back_fenced() {
    let mut random = Random::seeded("failover");
    let routes: &[(&str, &[&str])] = &[("p", &["f1", "f2"]), ("f1", &["l1"]), ("f2", &["l2"])];
    let tree = Tree::start(Plan::new(routes).volume("vol", 32).cut_every(300));
    tree.expect(" WARN ");
    tree.expect(" ERROR ");
    let mut writer = Writer::new("vol", 0, 8000, random.fork());
    let load = Load::default();
    std::thread::scope(|s| {
        let _ends = Ends(&load);
        s.spawn(|| writer.work(&tree, &load, 8 * MIB));
        for n in ["f1", "f2", "l1", "l2"] {
            tree.reaches(n, "vol", 3, LONG);
        }
        tree.kill("p");
    });
    let shown = tree.ctl(&["failover", "vol", "--plan"]).unwrap();
    assert!(shown.contains("p, did not answer"), "{shown}");
    assert!(shown.contains("recommended: rcpctl failover vol --to "), "{shown}");
    let no = tree.ctl(&["failover", "vol", "--to", "f7"]).unwrap_err();
    assert!(no.contains("f7") && no.contains("f1, f2") && !no.contains("answer"), "{no}");
    let told = tree.ctl(&["failover", "vol", "--to", "f1", "--adopt"]).unwrap();
    eprintln!("{shown}\n{told}");
    assert!(told.contains("f1 is the writer since set"), "{told}");
    let v = tree.volume("f1", "vol").unwrap();
    assert_eq!((v.role.as_str(), v.history.len()), ("primary", 2), "{v:?}");
    let restart = v.history[1].forked_from;
    assert!(v.kept.contains(&restart), "the restart point is kept: {:?}", v.kept);

    write_some(&tree, "f1", 100);
    let set = tree.cut_at("f1");
    same(&tree, "f1", &["l1", "f2", "l2"], set);
    for n in ["f1", "l1"] {
        assert!(!tree.log(n).contains("a seed begins"), "{n} was seeded");
    }
    // The file is behind, and nothing is said that would undo the failover.
    let drift: Vec<_> =
        tree.status("f1").unwrap().groups.into_iter().flat_map(|g| g.drift).collect();
    let [drift] = drift.as_slice() else { panic!("{drift:?}") };
    assert!(drift.contains("f1 took over from p: write `primary: f1`"), "{drift}");
    assert!(drift.contains("f1: [l1, f2, p]") && !drift.contains("delete"), "{drift}");
    // Saying it again changes nothing.
    let again = tree.ctl(&["failover", "vol", "--to", "f1"]).unwrap();
    assert!(again.contains("was the writer already"), "{again}");

    tree.up("p");
    wait_for("p to be fenced", LONG, || {
        let v = tree.volume("p", "vol")?;
        match v.fenced {
            Some(f) if f.contains("f1 took over") => Ok(()),
            other => Err(format!("{}: {other:?}", v.state)),
        }
    });
    let mut c = tree.open("p", "vol").unwrap();
    let refused = c.write(0, &content(1 << 51), false).unwrap_err().to_string();
    assert!(refused.contains("read-only"), "{refused}");
    drop(c);
    let drawn = tree.ctl(&["history", "vol"]).unwrap();
    assert!(drawn.contains("opened by f1"), "{drawn}");

    // It is fenced over a restart as well, and knows then only that it is.
    let mut delete = Command::new(program("rcproute"));
    delete.arg("--dir").arg(tree.folder("f1")).args(["delete", "group=g1", "nexthop=p"]);
    said(&mut delete).unwrap();
    tree.kill("p");
    tree.up("p");
    let v = tree.volume("p", "vol").unwrap();
    assert!(v.fenced.is_some_and(|f| f.contains("f1 took over")), "{:?}", v.reason);
    let no = tree.ctl_at("p", &["resync", "vol"]).unwrap_err();
    assert!(no.contains("--discard") && no.contains("The role was not changed"), "{no}");
    tree.ctl_at("p", &["resync", "vol", "--discard"]).unwrap();
    let told = tree.ctl(&["failover", "vol", "--to", "f1", "--adopt"]).unwrap();
    eprintln!("{drawn}\n{no}\n{told}");
    write_some(&tree, "f1", 300);
    let set = tree.cut_at("f1");
    same(&tree, "f1", &["p", "l1", "f2", "l2"], set);

    wait_for("all to be ready for a failback", LONG, || {
        let shown = tree.ctl(&["status", "vol"])?;
        match shown.matches("blocks that differ: none; ready for a swap or failback").count() {
            4 => Ok(()),
            _ => Err(shown),
        }
    });

    // And back, without loss.
    let told = tree.ctl(&["failover", "vol", "--sync", "--to", "p"]).unwrap();
    assert!(told.contains("nothing is lost"), "{told}");
    eprintln!("{told}");
    write_some(&tree, "p", 500);
    let set = tree.cut_at("p");
    same(&tree, "p", &["f1", "l1", "f2", "l2"], set);
    assert_eq!(tree.volume("p", "vol").unwrap().history.len(), 3);
}

#[test]
fn a_planned_swap_under_load_loses_nothing() {
    let mut random = Random::seeded("swap");
    let tree = Tree::start(Plan::new(&[("p", &["l1", "l2"])]).volume("vol", 32).cut_every(300));
    tree.expect(" WARN ");
    tree.expect(" ERROR ");
    let mut writer = Writer::new("vol", 0, 8000, random.fork());
    let load = Load::default();
    std::thread::scope(|s| {
        let _ends = Ends(&load);
        s.spawn(|| writer.work(&tree, &load, 8 * MIB));
        tree.reaches("l1", "vol", 3, LONG);
        let told = tree.ctl(&["failover", "vol", "--sync", "--to", "l1"]).unwrap();
        assert!(told.contains("nothing is lost"), "{told}");
        eprintln!("{told}");
        load.end();
        Clock::default().pace(Duration::from_millis(50));
    });
    writer.verify("l1", &mut tree.open("l1", "vol").unwrap());
    write_some(&tree, "l1", 100);
    let set = tree.cut_at("l1");
    same(&tree, "l1", &["p", "l2"], set);
    for n in ["p", "l2"] {
        assert!(!tree.log(n).contains("a seed begins"), "{n} was seeded");
    }
    // With the writer gone, a swap without loss is refused and changes nothing (FAIL-08).
    tree.kill("l1");
    let no = tree.ctl(&["failover", "vol", "--sync", "--to", "p"]).unwrap_err();
    assert!(no.contains("nothing was changed"), "{no}");
    assert_eq!(tree.volume("p", "vol").unwrap().role, "replica");
}

#[test]
fn two_promotions_are_called_a_split_and_one_command_ends_it() {
    let tree = Tree::start(Plan::new(&[("p", &["l1", "l2"])]).volume("vol", 16));
    tree.expect(" WARN ");
    tree.expect(" ERROR ");
    write_some(&tree, "p", 0);
    let set = tree.cut_at("p");
    for l in ["l1", "l2"] {
        tree.reaches(l, "vol", set, LONG);
    }
    tree.kill("p");
    for (l, first) in [("l1", 100), ("l2", 200)] {
        // Each alone, as after a partition: only on the operator's word.
        let no = tree.ctl_at(l, &["failover", "vol", "--to", l]).unwrap_err();
        assert!(no.contains("p was not asked") || no.contains("p were not asked"), "{no}");
        tree.ctl_at(l, &["failover", "vol", "--to", l, "--alone"]).unwrap();
        write_some(&tree, l, first);
        tree.cut_at(l);
    }
    let route = |node: &str, words: &[&str]| {
        said(Command::new(program("rcproute")).arg("--dir").arg(tree.folder(node)).args(words))
    };
    route("l1", &["add", "group=g1", "nexthop=l2"]).unwrap();
    for l in ["l1", "l2"] {
        wait_for(&format!("{l} to name the split"), LONG, || {
            let v = tree.volume(l, "vol")?;
            match v.split {
                Some(s) if s.contains("split-brain") => Ok(()),
                other => Err(format!("{other:?}, {:?}", v.reason)),
            }
        });
        // Both keep what they have, and go on.
        write_some(&tree, l, 300);
        assert_eq!(tree.volume(l, "vol").unwrap().role, "primary");
    }
    let drawn = tree.ctl(&["history", "vol"]).unwrap();
    assert!(drawn.contains("another line begins here as well"), "{drawn}");
    let plan = tree.ctl(&["failover", "vol", "--plan"]).unwrap();
    assert!(plan.contains("split-brain"), "{plan}");

    tree.ctl(&["failover", "vol", "--to", "l1"]).unwrap();
    wait_for("l2 to be fenced", LONG, || {
        let v = tree.volume("l2", "vol")?;
        match v.fenced {
            Some(f) if f.contains("l1 took over") => Ok(()),
            other => Err(format!("{other:?}, {:?}", v.reason)),
        }
    });
    let told = tree.ctl_at("l2", &["resync", "vol"]).unwrap();
    assert!(told.contains("kept as branch"), "{told}");
    let set = tree.cut_at("l1");
    same(&tree, "l1", &["l2"], set);
    assert!(!tree.log("l2").contains("a seed begins"), "l2 was seeded");
}

#[test]
fn a_primary_that_can_be_reached_is_made_read_only_first() {
    let tree = Tree::start(Plan::new(&[("p", &["l1", "l2"])]).volume("vol", 16));
    tree.expect(" WARN ");
    tree.expect(" ERROR ");
    write_some(&tree, "p", 0);
    let set = tree.cut_at("p");
    for l in ["l1", "l2"] {
        tree.reaches(l, "vol", set, LONG);
    }
    let mut client = tree.open("p", "vol").unwrap();
    let told = tree.ctl(&["failover", "vol", "--to", "l1", "--adopt"]).unwrap();
    assert!(told.contains("p was made read-only first"), "{told}");
    // Its last set has everything.
    assert!(told.contains("lost: nothing\n"), "{told}");
    let refused = client.write(0, &content(1 << 51), false).unwrap_err().to_string();
    eprintln!("{told}{refused}");
    wait_for("p to hear who took over", LONG, || {
        let v = tree.volume("p", "vol")?;
        match v.fenced {
            Some(f) if f.contains("l1 took over") => Ok(()),
            other => Err(format!("{other:?}, {:?}", v.reason)),
        }
    });
    // Nothing was written since the last set: it goes on from there.
    tree.ctl_at("p", &["resync", "vol"]).unwrap();
    write_some(&tree, "l1", 100);
    let set = tree.cut_at("l1");
    same(&tree, "l1", &["p", "l2"], set);
    assert!(!tree.log("p").contains("a seed begins"), "p was seeded");
}

#[test]
fn a_primary_that_comes_back_alone_waits_for_a_child_or_an_operator() {
    let tree = Tree::start(Plan::new(&[("p", &["l1"])]).volume("vol", 16));
    tree.expect(" WARN ");
    tree.expect(" ERROR ");
    write_some(&tree, "p", 0);
    let set = tree.cut_at("p");
    tree.reaches("l1", "vol", set, LONG);
    tree.kill("l1");
    tree.kill("p");
    tree.up("p");
    let v = tree.volume("p", "vol").unwrap();
    assert!(
        v.fenced.is_some_and(|f| f.contains("fenced: waiting for one child")),
        "{:?}",
        v.reason
    );
    let mut c = tree.open("p", "vol").unwrap();
    let refused = c.write(0, &content(1 << 51), false).unwrap_err().to_string();
    let no = tree.ctl_at("p", &["confirm", "vol"]).unwrap_err();
    assert!(no.contains("--alone"), "{no}");
    tree.ctl_at("p", &["confirm", "vol", "--alone"]).unwrap();
    assert!(tree.log("p").contains("UNCONFIRMED WRITER"), "it is logged");
    write_some(&tree, "p", 10);
    eprintln!("{refused}");
    // A child's word does as well.
    tree.kill("p");
    tree.up("p");
    tree.up("l1");
    write_some(&tree, "p", 20);
    assert_eq!(tree.volume("p", "vol").unwrap().fenced, None);
    let set = tree.cut_at("p");
    same(&tree, "p", &["l1"], set);
}
