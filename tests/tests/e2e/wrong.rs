//! What a node refuses to start with: each error names the thing and the remedy.

use std::process::Command;
use std::time::Duration;

use tests::rig::{Mounted, Plan, Process, Tree, may_mount, program, said};

const LONG: Duration = Duration::from_secs(20);

fn plan() -> Plan {
    Plan::new(&[("p", &["l1", "l2"])]).volume("vol", 8).save(8)
}

#[track_caller]
fn says(text: &str, parts: &[&str]) {
    for p in parts {
        assert!(text.contains(p), "`{p}` is not in:\n{text}");
    }
}

#[test]
fn a_wrong_topology_or_an_unknown_node_is_refused() {
    let tree = Tree::prepare(&mut plan());
    let file = tree.dir().join("wrong.yaml");
    let good = std::fs::read_to_string(tree.topology()).unwrap();
    let start = |node: &str| {
        let mut c = Command::new(program("rcpd"));
        c.arg("--topology").arg(&file).args(["--node", node]);
        let mut p = Process::start(&mut c, &tree.dir().join("wrong.log"));
        let end = p.wait(LONG);
        assert_eq!(end.code(), Some(1), "{}", end.log);
        end.log
    };
    // Every error at once, each with its line.
    let wrong = good.replace("primary: p", "primary: q").replace("version: 1", "version: 9");
    assert_ne!(wrong, good);
    std::fs::write(&file, &wrong).unwrap();
    says(&start("p"), &["wrong.yaml:1:", "version", "primary: q", "help"]);
    std::fs::write(&file, "nodes: [").unwrap();
    says(&start("p"), &["wrong.yaml", "1:"]);
    std::fs::write(&file, &good).unwrap();
    says(&start("l3"), &["l3", "l1"]);
    std::fs::remove_file(&file).unwrap();
    says(&start("p"), &["wrong.yaml", "No such file"]);
}

#[test]
fn a_folder_of_another_node_or_in_use_is_refused() {
    let tree = Tree::start(plan());
    let mut c = tree.open("p", "vol").unwrap();
    c.write(0, &[5; 65536], true).unwrap();
    let set = tree.cut("vol", true).set;
    tree.all_same("vol", set, LONG);

    // A second process on the folder.
    let mut again = Process::start(&mut tree.command("l1"), &tree.dir().join("again.log"));
    let end = again.wait(LONG);
    assert_eq!(end.code(), Some(1));
    says(&end.log, &["l1", "in use", &tree.pid("l1").unwrap().to_string(), "stop it first"]);

    // Another node's folder.
    tree.stop("l1", LONG);
    tree.kill("l2");
    std::fs::rename(tree.folder("l2"), tree.dir().join("away")).unwrap();
    std::fs::rename(tree.folder("l1"), tree.folder("l2")).unwrap();
    let end = tree.refused("l2");
    assert_eq!(end.code(), Some(1));
    says(&end.log, &["belongs to node l1", "this is node l2"]);
    std::fs::rename(tree.folder("l2"), tree.folder("l1")).unwrap();
    std::fs::rename(tree.dir().join("away"), tree.folder("l2")).unwrap();
    tree.up("l1");
    tree.up("l2");
    c.write(0, &[6; 65536], true).unwrap();
    tree.expect(" WARN ");
    tree.all_same("vol", tree.cut("vol", true).set, LONG);

    // Its port is taken.
    tree.stop("l1", LONG);
    let other = std::net::TcpListener::bind(tree.addr("l1")).unwrap();
    let end = tree.refused("l1");
    says(&end.log, &[&tree.addr("l1").to_string(), "in use"]);
    drop(other);
    tree.up("l1");

    // No such export, no such state, no such volume.
    for (node, export, parts) in [
        ("l1", "nope", &["nope", "vol"][..]),
        ("l1", "vol@9999", &["9999", "vol@"]),
        ("p", "vol@follow", &["live"]),
        ("l1", "vol@x", &["x", "set number"]),
    ] {
        let e = tree.open(node, export).err().expect("it was opened").to_string();
        says(&e, parts);
    }
    let e = tree.try_cut("nope", false).unwrap_err().to_string();
    says(&e, &["nope", "vol"]);
    let mut ctl = Command::new(program("rcpctl"));
    let e = said(ctl.args(["delta", "cut", "nope", "--dir"]).arg(tree.folder("p"))).unwrap_err();
    says(&e, &["nope", "vol"]);
    tree.quiet();
}

#[test]
fn a_disk_too_small_for_a_new_volume_is_named() {
    if !may_mount("a full disk at the start") {
        return;
    }
    let mut plan = plan();
    let tree = Tree::prepare(&mut plan);
    let disk = Mounted::small(4, &tree.folder("p")).expect("mount");
    let end = tree.refused("p");
    assert_eq!(end.code(), Some(1), "{}", end.log);
    says(&end.log, &[tree.folder("p").to_str().unwrap(), "save", "No space left"]);
    // With room, the same start goes on where it was.
    disk.resize(64);
    tree.up("p");
    tree.open("p", "vol").unwrap().write(0, &[1; 4096], true).unwrap();
    tree.kill("p");
    disk.unmount();
}
