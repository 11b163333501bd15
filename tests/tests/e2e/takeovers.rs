//! The ways of a failover that an operator chooses with a word: `--now`, `--take-back`, and the routes
//! of `on_failover`; with a look at what is said.

use std::process::Command;
use std::time::Duration;

use node::api::{CutInfo, WriterAnswer, WriterChange};
use node::http::paths;
use serde_json::Value;
use tests::rig::{Plan, Tree, program, said, wait_for};

use crate::load::content;

const LONG: Duration = Duration::from_secs(60);
const BLOCK: u64 = 4096;

/// As a program reads it.
#[track_caller]
fn json(tree: &Tree, words: &str) -> Value {
    let text = tree.told(&format!("{words} --json")).unwrap_or_else(|e| panic!("{e}"));
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"))
}

/// Everything that a tired operator has to find in it.
#[track_caller]
fn says(text: &str, parts: &[&str]) {
    for p in parts {
        assert!(text.contains(p), "`{p}` is not in: {text}");
    }
}

/// One number in the first block, another in block `number`.
fn write(tree: &Tree, node: &str, number: u64) {
    let mut c = tree.open(node, "vol").unwrap_or_else(|e| panic!("{node}: {e}"));
    c.write(0, &content(number), false).unwrap();
    c.write(number * BLOCK, &content(number), true).unwrap();
}

/// The number in the first block.
fn shows(tree: &Tree, node: &str, export: &str) -> u64 {
    let mut first = [0; 8];
    let mut c = tree.open(node, export).unwrap_or_else(|e| panic!("{export} at {node}: {e}"));
    c.read(0, &mut first).unwrap_or_else(|e| panic!("{export} at {node}: {e}"));
    u64::from_le_bytes(first)
}

fn role(tree: &Tree, node: &str) -> String {
    tree.volume(node, "vol").unwrap().role
}

fn at(tree: &Tree, node: &str, words: &str) -> Result<String, String> {
    tree.ctl_at(node, &words.split(' ').collect::<Vec<_>>())
}

#[test]
fn a_replica_goes_on_from_the_restart_point_that_is_named() {
    let tree = Tree::start(Plan::new(&[("p", &["l1", "l2"])]).volume("vol", 16));
    tree.expect(" WARN ");
    tree.expect(" ERROR ");
    write(&tree, "p", 1);
    let first = tree.cut_at("p");
    tree.reaches("l1", "vol", first, LONG);
    at(&tree, "l1", &format!("delta keep vol {first}")).unwrap();
    write(&tree, "p", 2);
    tree.cut_at("p");
    tree.reaches("l1", "vol", first + 1, LONG);
    at(&tree, "l1", "replicate stop vol").unwrap();
    for number in 3..=5 {
        write(&tree, "p", number);
        tree.cut_at("p");
    }
    tree.reaches("l2", "vol", first + 4, LONG);
    wait_for("l1 to have what it does not show", LONG, || {
        let v = tree.volume("l1", "vol")?;
        let at = (v.current_set, v.saved_set);
        if at == (first + 1, first + 4) { Ok(()) } else { Err(format!("{at:?}")) }
    });
    tree.kill("p");
    // Only of what it has, and nothing that it showed is taken back.
    let point = |set: u64| tree.told(&format!("failover vol --to l1 --restart-point {set}"));
    let sets = (1..=4).map(|n| (first + n).to_string()).collect::<Vec<_>>().join(", ");
    let can = format!("it can go on from {sets} and not from set {}", first + 5);
    says(&point(first + 5).unwrap_err(), &[&can, "Nothing was changed"]);
    let kept = format!("set {first} is kept there, and later ones were shown");
    says(&point(first).unwrap_err(), &[&kept, &format!("vol@{first}")]);
    assert_eq!(role(&tree, "l1"), "replica");
    // In the words of the source systems.
    let words = format!("fs_replicate -failover vol:cel=p vol:cel=l1 -restartpoint {}", first + 3);
    let told = tree.told(&words).unwrap();
    says(
        &told,
        &[
            &format!("l1 is the writer since set {} ", first + 3),
            &format!("the restart point is kept as vol@{}", first + 3),
            "lost: 1 set",
        ],
    );
    assert_eq!(shows(&tree, "l1", "vol"), 4);
    assert_eq!(shows(&tree, "l1", &format!("vol@{first}")), 1);
    write(&tree, "l1", 9);
    let set = tree.cut_at("l1");
    tree.reaches("l2", "vol", set, LONG);
    assert_eq!(shows(&tree, "l2", "vol"), 9);
    let branch = tree.volume("l2", "vol").unwrap().branches.pop().expect("a branch");
    assert_eq!(shows(&tree, "l2", &format!("vol@branch:{}", branch.name)), 5);
    assert!(!tree.log("l2").contains("a seed begins"), "l2 was seeded");
    // What has no counterpart says what to use, and is wrong usage.
    let no = tree.told("server_mount server_2 -o ro vol /vol").unwrap_err();
    says(&no, &["`rcpctl resync VOLUME --node NODE`", "exit status: 2"]);
}

#[test]
fn with_now_a_replica_goes_on_from_what_readers_see() {
    let tree = Tree::start(Plan::new(&[("p", &["l1", "l2"])]).volume("vol", 16));
    tree.expect(" WARN ");
    tree.expect(" ERROR ");
    write(&tree, "p", 1);
    let first = tree.cut_at("p");
    for n in ["l1", "l2"] {
        tree.reaches(n, "vol", first, LONG);
    }
    // Its readers stay where they are; what comes is saved.
    said(
        Command::new(program("rcpctl"))
            .args(["replicate", "stop", "vol", "--dir"])
            .arg(tree.folder("l1")),
    )
    .unwrap();
    for number in 2..=4 {
        write(&tree, "p", number);
        tree.cut_at("p");
    }
    let last = first + 3;
    tree.reaches("l2", "vol", last, LONG);
    wait_for("l1 to have what it does not show", LONG, || {
        let v = tree.volume("l1", "vol")?;
        let at = (v.current_set, v.saved_set);
        if at == (first, last) { Ok(()) } else { Err(format!("{at:?}")) }
    });
    tree.kill("p");
    let plan = json(&tree, "failover vol --plan");
    let l1 = plan["candidates"].as_array().unwrap().iter().find(|c| c["node"] == "l1").unwrap();
    assert_eq!((l1["loss"]["sets"].as_u64(), l1["loss_now"]["sets"].as_u64()), (Some(0), Some(3)));

    let told = tree.told("failover vol --to l1 --now --adopt").unwrap();
    let lost = format!("(sets {} to {last})", first + 1);
    let writer = format!("l1 is the writer since set {first} ");
    let point = format!("the restart point is kept as vol@{first}");
    says(
        &told,
        &[&writer, &point, "lost: 3 sets", &lost, "p does not answer; l1 goes on dialling it"],
    );
    assert_eq!(shows(&tree, "l1", "vol"), 1);
    // The other one showed more: that is a branch there, and can be had from it.
    write(&tree, "l1", 9);
    let set = tree.cut_at("l1");
    tree.reaches("l2", "vol", set, LONG);
    assert_eq!(shows(&tree, "l2", "vol"), 9);
    let branch = tree.volume("l2", "vol").unwrap().branches.pop().expect("a branch");
    assert_eq!(branch.set, last);
    assert_eq!(shows(&tree, "l2", &format!("vol@branch:{}", branch.name)), 4);
    let again = json(&tree, "failover vol --to l1 --now");
    assert_eq!(again["promoted"]["fresh"], false, "{again}");
    assert!(!tree.log("l2").contains("a seed begins"), "l2 was seeded");
    // The old writer is dialled, hears of it, and is a replica after the same command.
    tree.up("p");
    wait_for("p to hear who took over", LONG, || {
        let v = tree.volume("p", "vol")?;
        match v.fenced {
            Some(f) if f.contains("l1 took over") => Ok(()),
            other => Err(format!("{other:?}, {:?}", v.reason)),
        }
    });
    let told = tree.told("failover vol --to l1 --adopt").unwrap();
    says(&told, &["l1 was the writer already", "p is a replica of l1", "is kept there as branch"]);
    tree.reaches("p", "vol", set, LONG);
    assert_eq!(shows(&tree, "p", "vol"), 9);
}

/// What a swap leaves that ended between its last two steps.
fn handed_over(tree: &Tree, from: &str, to: &str) -> u64 {
    let ask = |change: &WriterChange| -> WriterAnswer {
        tree.post(from, paths::WRITER, change).unwrap_or_else(|e| panic!("{e}"))
    };
    let volume = || "vol".to_owned();
    let held = ask(&WriterChange::Hold { volume: volume(), limit_ms: 30_000 });
    let WriterAnswer::Held(CutInfo { set, .. }) = held else { panic!("{held:?}") };
    tree.reaches(to, "vol", set, LONG);
    ask(&WriterChange::HandOver { volume: volume(), to: to.to_owned(), set, whole: true });
    set
}

#[test]
fn a_swap_that_nobody_finished_is_taken_back_or_gone_on_with() {
    let tree = Tree::start(Plan::new(&[("p", &["l1", "l2"])]).volume("vol", 16));
    tree.expect(" WARN ");
    tree.expect(" ERROR ");
    let no = tree.told("failover vol --take-back").unwrap_err();
    says(&no, &["has handed vol over", "nothing was changed"]);
    write(&tree, "p", 1);
    let set = handed_over(&tree, "p", "l1");
    let status = tree.told("status vol").unwrap();
    let at = format!("fenced: handed over to l1 at set {set}");
    says(
        &status,
        &[&at, "`rcpctl failover vol --sync --to l1`", "`rcpctl failover vol --take-back`"],
    );
    let client = tree.open("p", "vol").and_then(|mut c| c.write(0, &content(7), false));
    assert!(client.is_err(), "a writer was let in");

    // It may be the writer: nobody says that it is not.
    tree.kill("l1");
    let no = tree.told("failover vol --take-back").unwrap_err();
    says(&no, &["l1 does not answer", "nothing was changed", "--take-back --alone"]);
    tree.up("l1");
    let back = json(&tree, "failover vol --take-back");
    assert_eq!(back["answer"], "done", "{back}");
    write(&tree, "p", 2);
    let set = tree.cut_at("p");
    for n in ["l1", "l2"] {
        tree.reaches(n, "vol", set, LONG);
        assert_eq!(shows(&tree, n, "vol"), 2);
    }
    let no = tree.told("failover vol --take-back").unwrap_err();
    says(&no, &["nothing was changed"]);

    // On the operator's word, without it.
    handed_over(&tree, "p", "l1");
    tree.kill("l1");
    let told = tree.told("failover vol --take-back --alone").unwrap();
    says(&told, &["p goes on as the writer"]);
    write(&tree, "p", 3);
    tree.up("l1");

    // It took over: there is nothing to take back; the swap is gone on with.
    handed_over(&tree, "p", "l1");
    let done = json(&tree, "failover vol --sync --to l1");
    assert_eq!((&done["node"], &done["loss"]["sets"]), (&"l1".into(), &0.into()), "{done}");
    let no = tree.told("failover vol --take-back").unwrap_err();
    says(&no, &["nothing was changed"]);
    assert_eq!(["p", "l1", "l2"].map(|n| role(&tree, n)), ["replica", "primary", "replica"]);
    assert_eq!(shows(&tree, "l1", "vol"), 3);
}

#[test]
fn the_tree_is_put_under_the_new_writer_as_the_topology_says() {
    let routes: &[(&str, &[&str])] =
        &[("p", &["f1", "l3"]), ("f1", &["f2"]), ("f2", &["l1", "l2"])];
    let mut plan = Plan::new(routes).volume("vol", 16);
    let table = |list: &[(&str, &[&str])]| {
        let hops = |h: &[&str]| h.iter().map(|s| (*s).to_owned()).collect();
        list.iter().map(|(n, h)| ((*n).to_owned(), hops(h))).collect()
    };
    // f2 lets go of l2, and f1, which has heard from it that it feeds it, takes it on at once.
    let under_f1 = table(&[("f1", &["f2", "l2", "p"]), ("f2", &["l1"]), ("l2", &["l3"])]);
    let under_p = table(&[("p", &["f1", "l3"]), ("f1", &["f2"]), ("f2", &["l1", "l2"])]);
    plan.group().on_failover = [("f1".to_owned(), under_f1), ("p".to_owned(), under_p)].into();
    let tree = Tree::start(plan);
    tree.expect(" WARN ");
    tree.expect(" ERROR ");
    let all = ["p", "f1", "f2", "l1", "l2", "l3"];
    let feeds = |node: &str| {
        let status = tree.status(node).unwrap();
        let mut hops: Vec<_> = status.groups[0].children.iter().map(|c| c.node.clone()).collect();
        hops.sort();
        hops
    };
    let mut number = 0;
    let mut goes_on = |writer: &str| {
        number += 1;
        write(&tree, writer, number);
        let set = tree.cut_at(writer);
        for n in all.into_iter().filter(|n| *n != writer) {
            tree.reaches(n, "vol", set, LONG);
            assert_eq!(shows(&tree, n, "vol"), number, "{n}");
        }
    };
    goes_on("p");
    // There and back, by swap; then without the old writer.
    for _ in 0..2 {
        let told = tree.told("failover vol --sync --to f1").unwrap();
        says(&told, &["nothing is lost", "f2 lets go of l2: removed", "f1 feeds l2: added"]);
        says(&told, &["l2 feeds l3: added", "f1 feeds p: added", "p is a replica now"]);
        assert_eq!(
            (feeds("f1"), feeds("f2")),
            (vec!["f2".into(), "l2".into(), "p".into()], vec!["l1".into()])
        );
        assert_eq!((feeds("l2"), feeds("p")), (vec!["l3".to_owned()], Vec::new()));
        goes_on("f1");
        let told = json(&tree, "failover vol --sync --to p");
        let routes = told["routes"].as_array().unwrap();
        assert!(routes.iter().all(|r| r["done"] == true) && !routes.is_empty(), "{told}");
        assert_eq!((feeds("p"), feeds("f1")), (vec!["f1".into(), "l3".into()], vec!["f2".into()]));
        goes_on("p");
    }
    tree.kill("p");
    let told = tree.told("failover vol --to f1 --adopt").unwrap();
    says(
        &told,
        &["f1 feeds l2: added", "l2 feeds l3: added", "p did not answer and keeps its route"],
    );
    says(&told, &["p does not answer; f1 goes on dialling it until it is there"]);
    let last = number_of(&tree);
    tree.up("p");
    let told = wait_for("p to be a replica", LONG, || {
        let told = tree.told("failover vol --to f1 --adopt")?;
        if role(&tree, "p") == "replica" { Ok(told) } else { Err(told) }
    });
    says(&told, &["p is a replica of f1"]);
    assert_eq!(number_of(&tree), last);
    goes_on("f1");
    for n in all {
        assert!(!tree.log(n).contains("a seed begins"), "{n} was seeded");
    }
}

fn number_of(tree: &Tree) -> u64 {
    shows(tree, "f1", "vol")
}
