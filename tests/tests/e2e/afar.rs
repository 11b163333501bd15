//! Commands from a machine that runs no node: over the network, with a token.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use node::access::{Scope, Tokens};
use node::clock;
use tests::rig::{Authority, Plan, Tree, program, run, said};

const LONG: Duration = Duration::from_secs(60);

/// What an operator has elsewhere: the topology, the CA, and a token.
struct Desk<'a> {
    tree: &'a Tree,
    dir: tempfile::TempDir,
}

impl<'a> Desk<'a> {
    fn of(tree: &'a Tree) -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        std::fs::create_dir(dir.path().join("pki")).expect("a folder");
        let desk = Self { tree, dir };
        let copy = |from: PathBuf, to: &str| std::fs::copy(from, desk.file(to)).expect("a copy");
        copy(tree.topology(), "topology.yaml");
        copy(tree.pki().join("ca.pem"), "pki/ca.pem");
        desk
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A token in a file of its name.
    fn token(&self, name: &str, scope: Scope) {
        let tokens = Tokens::of(&self.tree.pki());
        let secret = tokens.create(name, scope, clock::unix_seconds(), None).expect("a token");
        std::fs::write(self.file(name), secret).expect("a file");
    }

    fn command(&self, words: &str, token: Option<&str>) -> Command {
        let mut words = words.split(' ');
        let mut c = Command::new(program(words.next().expect("a program")));
        c.env_remove("RCP_TOKEN").env_remove("RCP_DIR").args(words);
        c.arg("--topology").arg(self.file("topology.yaml"));
        if let Some(t) = token {
            c.arg("--token-file").arg(self.file(t));
        }
        c
    }
}

fn refused(command: &mut Command) -> String {
    said(command).expect_err("it was carried out")
}

#[test]
fn an_operator_elsewhere_sees_and_changes_the_tree() {
    let plan = Plan::new(&[("p", &["f1"]), ("f1", &["l1", "l2"])]).volume("vol", 16).by("tls");
    let tree = Tree::start(plan);
    let desk = Desk::of(&tree);
    desk.token("reader", Scope::Read);
    desk.token("boss", Scope::Admin);
    tree.reaches("l1", "vol", 0, LONG);

    let why = refused(&mut desk.command("rcpctl status", None));
    for part in ["f1, l1, l2, p", "on this machine", "RCP_TOKEN", "--token-file"] {
        assert!(why.contains(part), "{why}");
    }

    // The token in the environment, and in a file.
    let token = std::fs::read_to_string(desk.file("reader")).expect("the token");
    let mut status = desk.command("rcpctl status", None);
    let seen = run(status.env("RCP_TOKEN", token));
    for n in tree.names() {
        assert!(seen.contains(&n), "{n} is missing in\n{seen}");
    }
    assert!(!seen.contains("not on this machine"), "{seen}");
    let why = refused(&mut desk.command("rcpctl delta cut vol", Some("reader")));
    assert!(why.contains("`read`") && why.contains("`operate`"), "{why}");

    tree.open("p", "vol").expect("the export").write(0, &[7; 4096], true).expect("a write");
    let cut = run(&mut desk.command("rcpctl delta cut vol --keep", Some("boss")));
    assert!(cut.contains("state 1"), "{cut}");
    tree.all_same("vol", 1, LONG);
    let record = std::fs::read_to_string(tree.folder("p").join("audit.log")).expect("a record");
    assert!(record.contains("token boss") && record.contains("\"what\":\"cut\""), "{record}");

    // The whole of a planned change of the writer.
    let moved = run(&mut desk.command("rcpctl failover vol --sync --to l1", Some("boss")));
    assert!(moved.contains("l1 is the writer"), "{moved}");
    let table = run(&mut desk.command("rcproute display --node l1", Some("boss")));
    assert!(table.contains("l1 →"), "{table}");
    tree.expect(" WARN ");

    tree.quiet();
}

#[test]
fn nobody_else_answers_for_a_node() {
    let plan = Plan::new(&[("p", &["f1"]), ("f1", &["l1"])]).volume("vol", 8).by("tls");
    let tree = Tree::start(plan);
    let desk = Desk::of(&tree);
    desk.token("reader", Scope::Read);
    tree.reaches("l1", "vol", 0, LONG);

    tree.kill("l1");
    let why = refused(&mut desk.command("rcpctl status", Some("reader")));
    let silent = format!("no rcpd is running at {} (l1)", tree.addr("l1"));
    assert!(why.contains(&silent) && why.contains("1 of 3 nodes did not answer"), "{why}");

    // The certificate of f1, the first that was issued, was taken back.
    std::fs::write(desk.file("pki/crl.pem"), tree.authority().revoke(&[2])).expect("a list");
    let why = refused(&mut desk.command("rcpctl status --node f1", Some("reader")));
    assert!(why.contains("certificate of f1 was revoked"), "{why}");

    // The address of f1 leads to p.
    let (p, f1) = (tree.addr("p").to_string(), tree.addr("f1").to_string());
    let text = std::fs::read_to_string(tree.topology()).expect("the topology");
    let swapped = text.replace(&p, "?").replace(&f1, &p).replace('?', &f1);
    std::fs::write(desk.file("topology.yaml"), swapped).expect("a topology");
    let why = refused(&mut desk.command("rcpctl status --node f1", Some("reader")));
    assert!(why.contains("certificate of f1 is not one for f1"), "{why}");

    // Another CA.
    std::fs::write(desk.file("pki/ca.pem"), Authority::new("other").pem()).expect("a CA");
    std::fs::remove_file(desk.file("pki/crl.pem")).expect("no list");
    let why = refused(&mut desk.command("rcpctl status --node p", Some("reader")));
    assert!(why.contains("issued by a CA that is not in ca.pem here"), "{why}");
    std::fs::write(desk.file("reader"), "two words").expect("a file");
    let why = refused(&mut desk.command("rcpctl status --node p", Some("reader")));
    assert!(why.contains("holds no token"), "{why}");
}
