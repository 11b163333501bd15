//! What is said to somebody who types the wrong thing, or the right one at the wrong moment: what
//! happened, what is safe, what to do next; and to a program, as one document.

use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;
use tests::rig::{Clock, Plan, Process, Tree, wait_for};

const LONG: Duration = Duration::from_secs(60);

/// The command is refused: one document, which says why, with this exit status.
#[track_caller]
fn refused(tree: &Tree, words: &str, status: i32, kind: &str, says: &[&str]) {
    let all: Vec<_> = words.split(' ').chain(["--json"]).collect();
    let out = tree.rcpctl(&all).output().unwrap();
    let (text, told) = (String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    eprintln!("$ rcpctl {words}\n{told}");
    let v: Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{words}: {e}: {text}"));
    let error = &v["error"];
    assert_eq!(out.status.code(), Some(status), "{words}: {v}");
    assert_eq!((&error["exit_status"], &error["kind"]), (&status.into(), &kind.into()), "{words}");
    let why = error["text"].as_str().unwrap_or_default();
    for part in says {
        assert!(why.contains(part), "{words}: `{part}` is not in: {why}");
    }
    assert!(told.contains(why.lines().next().unwrap_or("?")), "{words}: {told}");
}

/// It is carried out, or says by itself what is in the way: one document.
#[track_caller]
fn answered(tree: &Tree, words: &str) -> Value {
    let all: Vec<_> = words.split(' ').chain(["--json"]).collect();
    let out = tree.rcpctl(&all).output().unwrap();
    let text = String::from_utf8_lossy(&out.stdout);
    let v: Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{words}: {e}: {text}"));
    assert!(v.get("error").is_none(), "{words}: {v}");
    v
}

fn start() -> Tree {
    let tree = Tree::start(Plan::new(&[("p", &["l1", "l2"])]).volume("vol", 16));
    tree.expect(" WARN ");
    tree.expect(" ERROR ");
    tree.open("p", "vol").unwrap().write(0, &[1; 4096], true).unwrap();
    let set = tree.cut_at("p");
    for l in ["l1", "l2"] {
        tree.reaches(l, "vol", set, LONG);
    }
    tree
}

#[test]
fn every_refusal_is_a_document_that_says_what_to_do() {
    let tree = start();
    let holds = ["holds no volume `lov`; it has: vol"];
    let nobody = ["holds a volume `lov`", "they hold: vol"];
    for words in ["failover lov --plan", "failover lov --to l1", "failover lov --take-back"] {
        refused(&tree, words, 1, "failed", &nobody);
    }
    refused(&tree, "history lov", 1, "failed", &nobody);
    refused(&tree, "status lov", 1, "failed", &["no volume `lov`", "there are: vol"]);
    refused(&tree, "failover vol --to l3", 1, "failed", &["`l3`", "l1"]);
    let who = ["who is to take over?", "`rcpctl failover vol --plan`", "Nothing was changed"];
    refused(&tree, "failover vol", 2, "usage", &who);
    refused(&tree, "failovre vol", 2, "usage", &["failover"]);
    refused(&tree, "swap vol l1", 2, "usage", &["`rcpctl failover VOLUME --sync --to NODE`"]);
    refused(&tree, "failover vol --now", 2, "usage", &["--to"]);
    let nothing = ["has handed vol over", "nothing was changed", "`rcpctl status vol`"];
    refused(&tree, "failover vol --take-back", 1, "failed", &nothing);
    let point = ["p goes on as the writer", "it can go on from"];
    refused(&tree, "failover vol --to l1 --restart-point 99", 1, "failed", &point);
    refused(&tree, "confirm vol", 2, "usage", &["--alone", "Nothing was changed"]);
    refused(&tree, "confirm vol --alone --node l1", 1, "conflict", &["vol"]);
    refused(&tree, "confirm vol --alone", 1, "conflict", &["vol"]);
    refused(&tree, "resync vol", 1, "conflict", &["p is the writer", "--sync --to NODE"]);
    refused(&tree, "resync lov --node l1", 1, "not_found", &["no volume `lov`"]);
    refused(&tree, "branch list lov --node p", 1, "not_found", &holds);
    for verb in ["show", "diff", "mount", "export --to x"] {
        let (verb, more) = verb.split_once(' ').unwrap_or((verb, ""));
        let words = format!("branch {verb} vol b {more}");
        refused(&tree, words.trim_end(), 1, "failed", &["no branch `b`", "has none", "--node"]);
    }
    refused(&tree, "branch drop vol b", 1, "not_found", &["no branch"]);
    refused(&tree, "volume move lov --to l1", 1, "failed", &["`lov`", "there are: vol"]);
    refused(&tree, "volume move vol --to l3", 1, "failed", &["`l3`"]);
    refused(&tree, "group list g2", 1, "failed", &["`g2`", "there are: g1"]);
    refused(&tree, "group add g2 l1", 1, "failed", &["`g2`", "there are: g1"]);
    refused(&tree, "group add g1 l3", 1, "failed", &["`l3`", "those that answered are"]);
    refused(&tree, "group remove g1 p", 1, "failed", &["p is the primary", "rcpctl failover"]);
    refused(&tree, "group remove g1 l3", 1, "failed", &["nobody that answered feeds l3", "p"]);
    refused(&tree, "group move g2 --to l1", 1, "failed", &["`g2`", "g1", "Nothing was changed"]);
    refused(&tree, "group delete g1", 1, "failed", &["topology file"]);
    refused(&tree, "node decommission l3", 1, "failed", &["`l3`"]);
    // Who asks whether something is possible gets the reasons as a list.
    let no = answered(&tree, "node decommission p");
    assert!(no["refused"].as_array().is_some_and(|r| !r.is_empty()), "{no}");
    for words in ["status", "history vol", "failover vol --plan", "branch list vol", "group list"] {
        answered(&tree, words);
    }
    // What it is already, it may be told again.
    answered(&tree, "resync vol --node l1");
    answered(&tree, "failover vol --to p");
    answered(&tree, "volume move vol --to p");
    // With nobody there to change anything.
    tree.kill("l1");
    let silent = ["l1 did not answer", "those that answered: l2, p", "Nothing was changed"];
    refused(&tree, "failover vol --to l1", 1, "failed", &silent);
    refused(&tree, "failover vol --to l1 --sync", 1, "failed", &silent);
    refused(&tree, "volume move vol --to l1", 1, "failed", &["l1 did not answer", "Nothing was"]);
    refused(&tree, "resync vol --node l1", 1, "not_running", &["no rcpd is running", "rcpctl up"]);
    refused(&tree, "branch list vol --node l1", 1, "not_running", &["no rcpd is running"]);
    tree.kill("p");
    tree.kill("l2");
    let none = ["no node answered (l1, l2, p)", "`rcpctl status` says"];
    refused(&tree, "volume move vol --to p", 1, "failed", &none);
    refused(&tree, "group list g1", 1, "failed", &none);
    refused(&tree, "failover vol --plan", 1, "failed", &none);
    refused(&tree, "history vol", 1, "failed", &none);
    refused(&tree, "failover vol --take-back", 1, "failed", &none);
    // Three silent nodes are an answer to who asks how things are.
    let seen = answered(&tree, "status");
    assert_eq!(seen["silent"].as_array().map(Vec::len), Some(3), "{seen}");
}

#[test]
fn an_interrupted_failover_says_where_it_stands_and_is_finished_by_saying_it_again() {
    let tree = start();
    tree.kill("p");
    // It waits for the route to a node that stands still.
    tree.signal("l2", Signal::STOP);
    let words = ["failover", "vol", "--to", "l1", "--adopt"];
    let mut asking = Process::start(&mut tree.rcpctl(&words), &tree.dir().join("asking.log"));
    // While it still asks who is there.
    Clock::default().pace(Duration::from_millis(300));
    asking.signal(Signal::INT);
    let end = asking.wait(LONG);
    assert_eq!(end.code(), Some(130), "{}", end.log);
    for part in ["interrupted: ", "promote no other", "`rcpctl status vol`", "the same command"] {
        assert!(end.log.contains(part), "`{part}` is not in: {}", end.log);
    }
    tree.signal("l2", Signal::CONT);
    let told = tree.ctl(&words).unwrap();
    assert!(told.contains("l1 is the writer since set "), "{told}");
    let again = tree.ctl(&words).unwrap();
    assert!(again.contains("l1 was the writer already"), "{again}");
    tree.open("l1", "vol").unwrap().write(0, &[2; 4096], true).unwrap();
    let set = tree.cut_at("l1");
    wait_for("l2 to follow", LONG, || {
        let v = tree.volume("l2", "vol")?;
        if v.current_set >= set { Ok(()) } else { Err(format!("{:?}", v.reason)) }
    });
}
