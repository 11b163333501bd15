//! Programs of the operator decide about changes of the writer, and hear of them.

use std::process::Command;
use std::time::Duration;

use tests::rig::{Plan, Tree, program, said, wait_for};

const LONG: Duration = Duration::from_secs(60);

/// Notes what it is asked, and is against what a file forbids.
const BEFORE: &str = r#"
read volume role
echo "may $volume become $role" >> heard-$RCP_NODE
if test -e no-$role-$RCP_NODE; then echo "another site has the lock" >&2; exit 1; fi
"#;
/// Notes what it is told.
const ROLE: &str = r#"
read volume role
echo "$volume is $role" >> heard-$RCP_NODE
"#;

/// What the handlers of a node heard since they were looked at last.
fn heard(tree: &Tree, node: &str, want: &[&str]) {
    let path = tree.dir().join(format!("heard-{node}"));
    wait_for(&format!("{node} to hear {want:?}"), LONG, || {
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        if text.lines().eq(want.iter().copied()) { Ok(()) } else { Err(text) }
    });
    std::fs::remove_file(&path).unwrap();
}

fn failover(tree: &Tree, words: &[&str]) -> Result<String, String> {
    let mut c = Command::new(program("rcpctl"));
    c.args(["failover", "vol"]).args(words).arg("--topology").arg(tree.topology());
    said(&mut c)
}

fn write(tree: &Tree, node: &str, byte: u8) {
    let mut client = tree.open(node, "vol").unwrap();
    client.write(0, &[byte; 4096], true).unwrap();
}

#[test]
fn handlers_decide_about_the_writer_and_hear_of_it() {
    let mut plan = Plan::new(&[("p", &["l1", "l2"])]).volume("vol", 16).cut_every(100);
    let scripts = tempfile::tempdir().unwrap();
    for (kind, text) in [("role-before", BEFORE), ("role", ROLE)] {
        let path = scripts.path().join(kind);
        std::fs::write(&path, text).unwrap();
        for node in plan.spec.nodes.values_mut() {
            let argv = vec!["sh".to_owned(), path.display().to_string()];
            node.handlers.insert(kind.to_owned(), argv);
        }
    }
    let tree = Tree::start(plan);
    tree.expect(" WARN ");
    tree.expect(" ERROR ");
    heard(&tree, "p", &["vol is writer"]);
    heard(&tree, "l1", &["vol is replica"]);
    heard(&tree, "l2", &["vol is replica"]);

    // A planned swap: each of the two may refuse, and the old writer goes on.
    let forbid = |what: &str| tree.dir().join(format!("no-{what}"));
    std::fs::write(forbid("fenced-p"), "").unwrap();
    let no = failover(&tree, &["--sync", "--to", "l1"]).unwrap_err();
    assert!(no.contains("vol does not become fenced at p"), "{no}");
    assert!(no.contains("another site has the lock"), "{no}");
    heard(&tree, "p", &["may vol become fenced", "vol is writer"]);
    // Nor is its refusal passed over by whoever does not ask for its last set.
    let no = failover(&tree, &["--to", "l1"]).unwrap_err();
    assert!(no.contains("vol does not become fenced at p"), "{no}");
    heard(&tree, "p", &["may vol become fenced", "vol is writer"]);
    std::fs::remove_file(forbid("fenced-p")).unwrap();
    std::fs::write(forbid("writer-l1"), "").unwrap();
    for words in [&["--sync", "--to", "l1"][..], &["--to", "l1"]] {
        let no = failover(&tree, words).unwrap_err();
        assert!(no.contains("vol does not become writer at l1"), "{no}");
        assert!(no.contains("p goes on as the writer"), "{no}");
        heard(&tree, "l1", &["may vol become writer", "vol is replica"]);
        write(&tree, "p", 1);
        let back = ["may vol become writer", "vol is writer"];
        heard(&tree, "p", &["may vol become fenced", "vol is fenced", back[0], back[1]]);
    }
    std::fs::remove_file(forbid("writer-l1")).unwrap();
    failover(&tree, &["--sync", "--to", "l1"]).unwrap();
    heard(&tree, "p", &["may vol become fenced", "vol is fenced", "vol is replica"]);
    heard(&tree, "l1", &["may vol become writer", "vol is writer"]);

    // The writer dies: nobody takes over whom the lock is not given to.
    write(&tree, "l1", 2);
    wait_for("p to show it", LONG, || {
        let mut c = tree.open("p", "vol").map_err(|e| e.to_string())?;
        let mut b = [0; 512];
        c.read(0, &mut b).map_err(|e| e.to_string())?;
        if b[0] == 2 { Ok(()) } else { Err(b[0].to_string()) }
    });
    tree.kill("l1");
    std::fs::write(forbid("writer-p"), "").unwrap();
    let no = failover(&tree, &["--to", "p"]).unwrap_err();
    assert!(no.contains("vol does not become writer at p"), "{no}");
    assert_eq!(tree.volume("p", "vol").unwrap().role, "replica");
    heard(&tree, "p", &["may vol become writer", "vol is replica"]);
    std::fs::remove_file(forbid("writer-p")).unwrap();
    failover(&tree, &["--to", "p", "--adopt"]).unwrap();
    heard(&tree, "p", &["may vol become writer", "vol is writer"]);
    write(&tree, "p", 3);
    // The old one hears that it is none any more, though nobody orders it.
    tree.up("l1");
    heard(&tree, "l1", &["vol is fenced"]);
}

/// Notes what it is told, and goes on with the handler that the project comes with.
const LOST: &str = r#"
read volume since parent
echo "$volume lost at $RCP_NODE below $parent, $RCP_VOLUME $RCP_FED_BY $((since - RCP_SILENT_SINCE)) ${RCP_STATE:+known}" >> heard-lost
echo "$volume $since $parent" | sh "$TAKE_OVER" topology.yaml test ! -e
"#;
const BACK: &str = r#"
read volume since parent
echo "$volume back at $RCP_NODE" >> heard-lost
"#;
/// Says when it begins and ends.
const SLOW: &str = r#"
read volume rest
echo "begins" >> heard-slow
sleep 2
echo "ends" >> heard-slow
"#;

/// A handler of a node that hears of a silent writer soon.
fn on_silence(plan: &mut Plan, node: &str, kind: &str, path: &std::path::Path) {
    let take_over = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/handlers/take-over");
    let rcpctl = program("rcpctl").display().to_string();
    let [rcpctl, take_over] = [format!("RCPCTL={rcpctl}"), format!("TAKE_OVER={take_over}")];
    let argv = ["env".into(), rcpctl, take_over, "sh".into(), path.display().to_string()];
    let node = plan.spec.nodes.get_mut(node).unwrap();
    node.writer_lost = Some("5s".to_owned());
    node.handlers.insert(kind.to_owned(), argv.to_vec());
}

#[test]
fn a_replica_that_hears_of_no_writer_tells_a_handler_which_may_take_over() {
    let mut plan = Plan::new(&[("p", &["l1", "l2"])]).volume("vol", 16).cut_every(100);
    let scripts = tempfile::tempdir().unwrap();
    for (kind, text) in [("writer-lost", LOST), ("writer-back", BACK)] {
        let path = scripts.path().join(kind);
        std::fs::write(&path, text).unwrap();
        on_silence(&mut plan, "l1", kind, &path);
    }
    let tree = Tree::start(plan);
    tree.expect(" WARN ");
    tree.expect(" ERROR ");
    write(&tree, "p", 1);
    let set = tree.cut_at("p");
    for n in ["l1", "l2"] {
        tree.reaches(n, "vol", set, LONG);
    }
    // Forbidden: it is told, and nothing follows; then it is told that the writer is back.
    let forbid = tree.dir().join("vol");
    std::fs::write(&forbid, "").unwrap();
    tree.kill("p");
    heard(&tree, "lost", &["vol lost at l1 below p, vol p 0 known"]);
    tree.up("p");
    heard(&tree, "lost", &["vol back at l1"]);
    assert!(tree.log("l1").contains("not to be taken over"), "{}", tree.log("l1"));
    assert_eq!(tree.volume("l1", "vol").unwrap().role, "replica");
    write(&tree, "p", 2);
    let set = tree.cut_at("p");
    tree.reaches("l1", "vol", set, LONG);
    // Allowed: it takes over, with those who are there.
    std::fs::remove_file(&forbid).unwrap();
    tree.kill("p");
    wait_for("l1 to take over", LONG, || match tree.volume("l1", "vol")?.state.as_str() {
        "writable" => Ok(()),
        other => Err(format!("{other}: {}", tree.log("l1"))),
    });
    write(&tree, "l1", 3);
    let set = tree.cut_at("l1");
    tree.reaches("l2", "vol", set, LONG);
    heard(&tree, "lost", &["vol lost at l1 below p, vol p 0 known"]);
    assert_eq!(tree.volume("l1", "vol").unwrap().history.len(), 2);
}

#[test]
fn silent_writers_of_two_volumes_are_told_one_after_the_other() {
    let plan = Plan::new(&[("p", &["l1"])]).volume("vol", 16).volume("vol2", 16);
    let mut plan = plan.cut_every(100);
    let scripts = tempfile::tempdir().unwrap();
    let path = scripts.path().join("slow");
    std::fs::write(&path, SLOW).unwrap();
    on_silence(&mut plan, "l1", "writer-lost", &path);
    let tree = Tree::start(plan);
    tree.expect(" WARN ");
    for v in ["vol", "vol2"] {
        wait_for(&format!("{v} at l1"), LONG, || tree.volume("l1", v).map(drop));
    }
    tree.kill("p");
    heard(&tree, "slow", &["begins", "ends", "begins", "ends"]);
}
