//! What an operator types on a running tree: a node more in the topology, a volume that goes or gets
//! another name, a child that cannot be seeded.

use std::process::Command;
use std::time::Duration;

use config::Topology;
use tests::rig::{Plan, Tree, program, said, wait_for};

const LONG: Duration = Duration::from_secs(60);

fn run(tool: &str, words: &str, tree: &Tree) -> Result<String, String> {
    let mut c = Command::new(program(tool));
    said(c.args(words.split(' ')).arg("--topology").arg(tree.topology()))
}

#[track_caller]
fn has(text: &str, parts: &[&str]) {
    for p in parts {
        assert!(text.contains(p), "`{p}` is not in:\n{text}");
    }
}

#[test]
fn a_node_more_is_made_known_without_a_restart() {
    let mut plan = Plan::new(&[("p", &["l1", "l2"])]).volume("vol", 8);
    let tree = Tree::prepare(&mut plan);
    let whole = std::fs::read_to_string(tree.topology()).unwrap();
    let mut spec = Topology::compile(&whole, "whole").unwrap().to_spec();
    spec.nodes.remove("l2");
    let routes = &mut spec.groups.get_mut("g1").unwrap().routes;
    routes.insert("p".to_owned(), vec!["l1".into()]);
    std::fs::write(tree.topology(), spec.to_yaml().unwrap()).unwrap();
    tree.up("p");
    tree.up("l1");
    let pid = tree.pid("p");
    let add = "p: add group=g1 nexthop=l2";
    let no = run("rcproute", add, &tree).unwrap_err();
    has(&no, &["`l2` is not a node", "rcpctl topology apply FILE"]);

    std::fs::write(tree.topology(), &whole).unwrap();
    let mut c = Command::new(program("rcpctl"));
    let told = said(c.args(["topology", "apply"]).arg(tree.topology())).unwrap();
    let l2 = format!("+ node l2 at {}", tree.addr("l2"));
    has(&told, &[&l2, "`rcproute p: add group=g1 nexthop=l2`", "l2: is not running"]);
    tree.up("l2");
    run("rcproute", add, &tree).unwrap();
    let set = tree.cut("vol", true).set;
    tree.all_same("vol", set, LONG);
    assert_eq!(tree.pid("p"), pid, "the writer was started again");
    // Nothing is left to be told.
    let mut c = Command::new(program("rcpctl"));
    let told = said(c.args(["topology", "apply"]).arg(tree.topology())).unwrap();
    has(&told, &["p: nothing new", "l1: nothing new", "l2: nothing new"]);
    tree.quiet();
}

#[test]
fn what_stays_on_other_nodes_is_said() {
    let tree = Tree::start(Plan::new(&[("p", &["l1"])]).volume("vol", 8));
    tree.expect(" WARN ");
    tree.expect(" ERROR ");
    tree.cut("vol", true);
    tree.reaches("l1", "vol", 0, LONG);

    // A node that was stopped is told from one that is elsewhere.
    assert!(run("rcpctl", "down --node l1", &tree).unwrap().contains("l1: stopped"));
    let status = run("rcpctl", "status", &tree).unwrap_err();
    has(&status, &["l1: no rcpd is running there", "1 of 2 nodes did not answer"]);
    let no = run("rcpctl", "replicate seed vol --to l1", &tree).unwrap_err();
    has(&no, &["l1 does not take volume vol now"]);

    // Its content is gone.
    tree.kill("l1");
    std::fs::remove_file(tree.volume_folder("l1", "vol").join("base")).unwrap();
    tree.up("l1");
    wait_for("the reason at p", LONG, || {
        let v = tree.volume("p", "vol")?;
        let why = v.children.first().and_then(|c| c.reason.clone()).unwrap_or_default();
        if why.contains("cannot be opened on l1") { Ok(()) } else { Err(why) }
    });
    let no = run("rcpctl", "replicate seed vol --to l1", &tree).unwrap_err();
    has(&no, &["cannot be opened on l1", "rcpctl volume delete vol --yes", "--node l1"]);
    run("rcpctl", "volume delete vol --yes --node l1", &tree).unwrap();
    let set = tree.cut("vol", true).set;
    tree.all_same("vol", set, LONG);

    let told = run("rcpctl", "volume rename vol other --node p", &tree).unwrap();
    has(&told, &["called other now on p", "(l1) go on calling it vol"]);
    let told = run("rcpctl", "volume delete other --yes --node p", &tree).unwrap();
    has(&told, &["removed on p", "replicas stay (l1)"]);
    wait_for("the replica to say that it is not offered any more", LONG, || {
        let why = tree.volume("l1", "vol")?.reason.unwrap_or_default();
        if why.contains("does not offer this volume") { Ok(()) } else { Err(why) }
    });
}
