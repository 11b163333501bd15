//! Commands for every member of a group: never before their data, never twice (CB-01 to CB-06).

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use tests::rig::{Plan, Tree, program, said, wait_for};

const LONG: Duration = Duration::from_secs(60);
const ID: &str = "11111111-2222-4333-8444-555555555555";

/// Sends a block from `p`; what was said, and whether all is well.
fn send(tree: &Tree, words: &[&str]) -> Result<String, String> {
    let mut c = Command::new(program("rcpctl"));
    c.args(["block", "send", "g1"]).args(words).arg("--dir").arg(tree.folder("p"));
    said(&mut c)
}

fn write(tree: &Tree, byte: u8) {
    let mut client = tree.open("p", "vol").unwrap();
    client.write(0, &[byte; 4096], true).unwrap();
}

fn written(tree: &Tree, node: &str, name: &str) -> String {
    std::fs::read_to_string(tree.dir().join(format!("{name}-{node}"))).unwrap_or_default()
}

/// A plan whose members append a line to a file of their own per block; kind `slow` takes a while in
/// between, and shows by another file that it has begun.
fn plan() -> (Plan, tempfile::TempDir) {
    let mut plan = Plan::new(&[("p", &["f1", "l3"]), ("f1", &["l1", "l2"])]).volume("vol", 16);
    let scripts = tempfile::tempdir().unwrap();
    let script = |name: &str, text: &str| -> PathBuf {
        let path = scripts.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let note = script("note", "cat >> note-$RCP_NODE; echo >> note-$RCP_NODE; echo noted\n");
    let slow = script("slow", "echo x >> begun-$RCP_NODE; sleep 3; echo x >> slow-$RCP_NODE\n");
    for (name, node) in &mut plan.spec.nodes {
        let mut handle = |kind: &str, path: &PathBuf| {
            let argv = vec!["sh".to_owned(), path.display().to_string()];
            node.handlers.insert(kind.to_owned(), argv);
        };
        if name != "p" {
            handle("note", &note);
            handle("slow", &slow);
        }
        if name == "l1" {
            handle("only-l1", &note);
        }
    }
    (plan, scripts)
}

#[test]
fn a_command_runs_once_at_every_member_and_not_before_its_data() {
    let (plan, _scripts) = plan();
    let tree = Tree::start(plan);
    tree.expect(" WARN ");
    let members = ["f1", "l1", "l2", "l3"];
    let data = tree.dir().join("data");
    std::fs::write(&data, "drop /a/b").unwrap();
    let data = data.display().to_string();

    write(&tree, 7);
    let set = tree.cut("vol", false).set;
    let after = format!("vol@{set}");
    let words = ["note", "--id", ID, "--after", &after, "--data", &data];
    let out = send(&tree, &words).expect("every member");
    assert_eq!(out.matches("done    noted").count(), members.len(), "{out}");
    for m in members {
        assert_eq!(written(&tree, m, "note"), "drop /a/b\n");
    }
    // Again, also after a restart: the same results, and nothing more is done.
    tree.kill("l1");
    tree.up("l1");
    let again = send(&tree, &words).expect("every member");
    assert_eq!(again, out);
    for m in members {
        assert_eq!(written(&tree, m, "note"), "drop /a/b\n");
    }
    // The same id for something else.
    let other = send(&tree, &["note", "--id", ID]).unwrap_err();
    assert_eq!(other.matches("its id was used for another control block").count(), 2, "{other}");

    // Nobody handles it; nobody but one does; there is no such state.
    let none = send(&tree, &["nothing"]).unwrap_err();
    for m in members {
        assert!(
            none.contains(&format!("no handler for control blocks `nothing` at {m}:")),
            "{none}"
        );
    }
    let one = send(&tree, &["only-l1"]).unwrap_err();
    assert!(one.contains("3 of 4 members have not executed it"), "{one}");
    let early = send(&tree, &["note", "--after", "vol@99"]).unwrap_err();
    assert!(early.contains("has no state 99 yet"), "{early}");

    // A member that is not there is named, with those that wait for data; it runs the block when it
    // is back, after its data.
    tree.kill("l2");
    write(&tree, 8);
    tree.cut("vol", false);
    let late = send(&tree, &["note", "--after", "vol", "--wait", "2"]).unwrap_err();
    assert!(late.contains("1 of 4 members have not executed it"), "{late}");
    let line = late.lines().find(|l| l.starts_with("l2 ")).expect("a line about l2");
    assert!(line.contains("MISSING not connected"), "{late}");
    tree.up("l2");
    wait_for("l2 to run the block", LONG, || match written(&tree, "l2", "note").as_str() {
        "drop /a/b\n\n" => Ok(()),
        other => Err(format!("{other:?}")),
    });
    assert!(tree.volume("l2", "vol").unwrap().current_set > set);

    // From a node in the middle only itself and who is below it are reached, and only if that is meant.
    let from = |words: &[&str]| {
        let mut c = Command::new(program("rcpctl"));
        said(
            c.args(["block", "send", "g1", "note"]).args(words).arg("--dir").arg(tree.folder("f1")),
        )
    };
    let e = from(&[]).unwrap_err();
    assert!(e.contains("f1 is a forwarder of group g1") && e.contains("--below"), "{e}");
    let out = from(&["--below"]).expect("all of them");
    assert_eq!(out.matches("done    noted").count(), 3, "{out}");
}

#[test]
fn a_command_that_a_kill_cuts_short_does_not_run_twice() {
    let (plan, _scripts) = plan();
    let tree = Tree::start(plan);
    tree.expect(" WARN ");
    let words = ["slow", "--id", ID, "--wait", "60"];
    let first = std::thread::scope(|s| {
        let sending = s.spawn(|| send(&tree, &words));
        wait_for("l1 to begin", LONG, || match written(&tree, "l1", "begun").as_str() {
            "x\n" => Ok(()),
            other => Err(format!("{other:?}")),
        });
        tree.kill("l1");
        tree.up("l1");
        sending.join().unwrap()
    });
    let first = first.unwrap_err();
    let again = send(&tree, &words).unwrap_err();
    for out in [first, again] {
        assert!(out.contains("1 of 4 members have not executed it"), "{out}");
        let line = out.lines().find(|l| l.starts_with("l1 ")).expect("a line about l1");
        assert!(line.contains("it was begun, and the node was stopped before it ended"), "{out}");
    }
    for m in ["f1", "l1", "l2", "l3"] {
        assert_eq!(written(&tree, m, "begun"), "x\n", "{m}");
    }
}
