//! Groups and members that commands make: kept in the data folders, beside a topology file that does
//! not name them (CMD-01, CMD-02, VMC-02).

use std::process::Command;
use std::time::Duration;

use config::spec::NodeSpec;
use serde_json::Value;
use tests::rig::{Plan, Process, Tree, program, said, wait_for};

const LONG: Duration = Duration::from_secs(60);

/// `node from by fed_by` of each member, and who made the group.
fn members(tree: &Tree, group: &str) -> (String, Vec<String>) {
    let out = tree.ctl(&["group", "list", group, "--json"]).expect("a list");
    let all: Value = serde_json::from_str(&out).expect("JSON");
    let list = all[0]["members"].as_array().cloned().unwrap_or_default();
    let word = |m: &Value, k: &str| m[k].as_str().unwrap_or("-").to_owned();
    let line = |m: &Value| [word(m, "node"), word(m, "from"), word(m, "fed_by")].join(" ");
    (all[0]["made_by"].as_str().unwrap_or_default().to_owned(), list.iter().map(line).collect())
}

fn write(tree: &Tree, label: &str, byte: u8) -> u64 {
    tree.open("p", label).unwrap().write(0, &[byte; 4096], true).unwrap();
    tree.cut(label, false).set
}

fn reads(tree: &Tree, node: &str, label: &str) -> u8 {
    let mut buf = [0; 4096];
    tree.open(node, label).unwrap().read(0, &mut buf).unwrap();
    buf[0]
}

/// Three nodes, of which the file has one in a group of its own; `l1` and `l2` are in none.
fn plan() -> Plan {
    let mut plan = Plan::new(&[("p", &["f1"])]).volume("vol", 8);
    for name in ["l1", "l2"] {
        let node = NodeSpec { data: name.to_owned(), ..NodeSpec::default() };
        plan.spec.nodes.insert(name.to_owned(), node);
    }
    plan
}

fn restart(tree: &Tree, nodes: &[&str]) {
    nodes.iter().for_each(|n| tree.kill(n));
    nodes.iter().for_each(|n| tree.up(n));
}

#[test]
fn a_group_made_by_commands_survives_and_is_ended_by_commands() {
    let tree = Tree::start(plan());
    tree.expect(" WARN ");
    tree.expect(" ERROR ");
    tree.refuses(&["group", "add", "g2", "l1"], "`rcpctl group create g2 --primary NODE`");
    tree.refuses(&["group", "create", "g2", "--primary", "pp"], "no node that was asked is `pp`");
    tree.refuses(&["group", "create", "G2", "--primary", "p"], "`G2` is not a group name");
    let short = ["group", "create", "g2", "--primary", "p", "--timeout", "1ms"];
    tree.refuses(&short, "must be at least 100ms");
    tree.refuses(&["group", "create", "g1", "--primary", "p"], "g1 is in the topology file");

    let make = ["group", "create", "g2", "--primary", "p", "--timeout", "1h", "--hwm", "1GiB"];
    tree.ctl(&make).expect("made");
    let again = tree.ctl(&make).expect("said again");
    assert!(again.contains("is there already"), "{again}");
    tree.refuses(&["group", "create", "g2", "--primary", "l1"], "made it, with p as its primary");
    // At once after it was answered.
    restart(&tree, &["p"]);
    tree.refuses(&["group", "add", "g2", "p"], "p is the primary of g2");
    tree.refuses(&["group", "add", "g2", "l2", "--below", "l1"], "l1 is no member of g2");
    tree.refuses(&["group", "add", "g2", "l9"], "no node that was asked is `l9`");
    tree.ctl(&["group", "add", "g2", "l1"]).expect("added");
    restart(&tree, &["l1"]);
    tree.ctl(&["group", "add", "g2", "l2", "--below", "l1"]).expect("added below");
    let tree_of_it = vec!["l1 command p", "l2 command l1", "p command -"];
    let both = || {
        let (by, all) = members(&tree, "g2");
        if all == tree_of_it && by == "command" { Ok(()) } else { Err(format!("{by}: {all:?}")) }
    };
    wait_for("the group to be known", LONG, both);
    let create = ["volume", "create", "v2", "--size", "8MiB", "--save", "8MiB", "--group", "g2"];
    let wrong = [&create[..8], &["g3"]].concat();
    tree.refuses(&wrong, "has no group `g3`");
    tree.ctl(&create).expect("a volume");
    let set = write(&tree, "v2", 1);
    for node in ["l1", "l2"] {
        tree.reaches(node, "v2", set, LONG);
    }
    restart(&tree, &["p", "l1", "l2"]);
    let set = write(&tree, "v2", 2);
    tree.reaches("l2", "v2", set, LONG);
    assert_eq!(reads(&tree, "l2", "v2"), 2);
    wait_for("the group to be known again", LONG, both);

    // Out again, one by one; what holds a replica says so, and it is still readable.
    tree.refuses(&["group", "delete", "g2"], "g2 has members: l1, l2");
    tree.refuses(&["group", "remove", "g2", "l1"], "`rcpctl group remove g2 l2` first");
    tree.refuses(&["group", "remove", "g2", "l2"], "l2 has volumes of group g2");
    restart(&tree, &["l2"]);
    assert_eq!(reads(&tree, "l2", "v2"), 2);
    tree.ctl(&["volume", "delete", "v2", "--yes", "--node", "l2"]).expect("deleted");
    tree.ctl(&["group", "remove", "g2", "l2"]).expect("out");
    tree.refuses(&["group", "remove", "g2", "l2"], "nobody that answered feeds l2");
    tree.ctl(&["group", "remove", "g2", "l1"]).expect_err("its replica is there");
    tree.ctl(&["volume", "delete", "v2", "--yes", "--node", "l1"]).expect("deleted");
    tree.ctl(&["group", "remove", "g2", "l1"]).expect("out");
    tree.refuses(&["group", "delete", "g2"], "p has volumes of group g2");
    tree.ctl(&["volume", "delete", "v2", "--yes", "--node", "p"]).expect("deleted");
    tree.ctl(&["group", "delete", "g2"]).expect("ended");
    tree.refuses(&["group", "list", "g2"], "no node that answered is in a group `g2`");
    restart(&tree, &["p", "l1", "l2"]);
    tree.refuses(&["group", "list", "g2"], "no node that answered is in a group `g2`");
    tree.refuses(&["group", "delete", "g1"], "g1 is in the topology file");
}

#[test]
fn a_member_joins_a_group_of_the_file_and_commands_that_were_cut_short_are_said_again() {
    let tree = Tree::start(plan());
    tree.expect(" WARN ");
    tree.expect(" ERROR ");
    let set = write(&tree, "vol", 1);
    // Cut short anywhere between its steps, and then said again.
    for after in [0, 2, 5, 9, 15, 40] {
        for words in
            [&["group", "add", "g1", "l1", "--below", "f1"][..], &["group", "add", "g1", "l2"]]
        {
            let log = tree.dir().join("cut-short.log");
            let mut short = Process::start(&mut tree.rcpctl(words), &log);
            std::thread::sleep(Duration::from_millis(after));
            short.kill();
            wait_for("the command to be taken", LONG, || tree.ctl(words));
        }
        let expected = ["f1 file p", "l1 command f1", "l2 command p", "p file -"];
        assert_eq!(members(&tree, "g1"), ("file".to_owned(), expected.map(str::to_owned).into()));
        for node in ["l1", "l2"] {
            tree.reaches(node, "vol", set, LONG);
        }
        if after == 40 {
            break;
        }
        for node in ["l1", "l2"] {
            tree.ctl(&["group", "remove", "g1", node]).expect_err("its replica is there");
            tree.ctl(&["volume", "delete", "vol", "--yes", "--node", node]).expect("deleted");
            tree.ctl(&["group", "remove", "g1", node]).expect("out");
        }
        let left = ["f1 file p", "p file -"].map(str::to_owned);
        assert_eq!(members(&tree, "g1").1, left);
    }
    restart(&tree, &["p", "f1", "l1", "l2"]);
    let set = write(&tree, "vol", 2);
    for node in ["f1", "l1", "l2"] {
        tree.reaches(node, "vol", set, LONG);
        assert_eq!(reads(&tree, node, "vol"), 2, "{node}");
    }
    // A member that does not answer is named, and learns of it when that is said again.
    tree.kill("f1");
    tree.ctl(&["group", "remove", "g1", "l2"]).expect_err("two are not told");
    tree.up("f1");
    tree.ctl(&["volume", "delete", "vol", "--yes", "--node", "l2"]).expect("deleted");
    tree.ctl(&["group", "remove", "g1", "l2"]).expect("out");
    let word = |n: &str| tree.status(n).unwrap().groups[0].added.clone();
    assert_eq!(word("f1"), word("p"));
}

#[test]
fn what_a_command_and_the_file_both_name_is_refused() {
    let tree = Tree::start(plan());
    tree.expect(" WARN ");
    tree.ctl(&["group", "create", "g2", "--primary", "p"]).expect("made");
    let file = std::fs::read_to_string(tree.topology()).unwrap();
    let both = format!("{file}  g2: {{primary: l1, routes: {{l1: [p]}}}}\n");
    assert!(file.trim_end().lines().last().is_some_and(|l| l.starts_with("  ")), "{file}");
    std::fs::write(tree.topology(), &both).unwrap();
    let says = "group `g2` is in the file, and was made by a command as well";
    let path = tree.topology().display().to_string();
    let e = said(Command::new(program("rcpctl")).args(["topology", "apply", &path])).unwrap_err();
    assert!(!e.contains("p: nothing new"), "{e}");
    let out = Command::new(program("rcpctl")).args(["topology", "apply", &path]).output().unwrap();
    let told = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(told.contains(says), "{told}");
    tree.kill("p");
    let end = tree.refused("p");
    for word in [says, "groups.yaml", "rcpctl group delete g2"] {
        assert!(end.log.contains(word), "{word}: {}", end.log);
    }
    // As the message says.
    std::fs::write(tree.topology(), &file).unwrap();
    tree.up("p");
    tree.ctl(&["group", "delete", "g2"]).expect("ended");
    std::fs::write(tree.topology(), &both).unwrap();
    restart(&tree, &["p", "l1"]);
    wait_for("the group of the file", LONG, || match members(&tree, "g2") {
        (by, _) if by == "file" => Ok(()),
        other => Err(format!("{other:?}")),
    });
}
