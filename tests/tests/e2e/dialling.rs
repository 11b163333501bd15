//! Members that nobody can dial dial their parents (`dial: child`): by IPv6 and by name, from
//! addresses that change, over each transport.

use std::process::Command;
use std::time::Duration;

use tests::rig::{Plan, Tree, free_port, program, said, wait_for};

const LONG: Duration = Duration::from_secs(60);

/// Where nobody can be reached: a name that no resolver knows (RFC 6761).
fn nowhere(node: &str) -> String {
    format!("{node}.behind-nat.invalid:7001")
}

fn by_child(plan: Plan, from: &str, to: &str) -> Plan {
    let mut plan = plan.hop(from, to, |h| h.dial = Some("child".to_owned()));
    plan.spec.nodes.get_mut(to).unwrap().address = Some(nowhere(to));
    plan
}

fn write(tree: &Tree, byte: u8) -> u64 {
    tree.open("p", "vol").unwrap().write(0, &[byte; 4096], true).unwrap();
    tree.cut("vol", true).set
}

fn route(tree: &Tree, words: &[&str]) -> Result<String, String> {
    let mut c = Command::new(program("rcproute"));
    said(c.arg("--dir").arg(tree.folder("p")).args(words))
}

#[test]
fn members_that_cannot_be_dialled_dial_their_parents_by_name_and_by_ipv6() {
    let plan = Plan::new(&[("p", &["f1", "l2"]), ("f1", &["l1"])]).volume("vol", 16);
    let plan = plan.host("p", "localhost").host("f1", "[::1]");
    let plan = by_child(by_child(plan, "p", "l2"), "f1", "l1");
    let tree = Tree::start(plan);
    tree.expect(" WARN ");
    let set = write(&tree, 1);
    tree.all_same("vol", set, LONG);
    let status = tree.status("l1").unwrap();
    let parent = status.groups[0].parent.clone().unwrap();
    assert!(parent.addr.starts_with("[::1]:") && parent.state == "connected", "{parent:?}");

    // It comes back from another address, and goes on where it was.
    let seeded = |t: &Tree| t.volume("f1", "vol").unwrap().seed_sent;
    let before = seeded(&tree);
    tree.kill("l1");
    let text = std::fs::read_to_string(tree.topology()).unwrap();
    let listen = tree.status("f1").unwrap().groups[0].children[0].clone();
    assert_eq!(listen.addr, nowhere("l1"));
    let old = format!("127.0.0.1:{}", tree.addr("l1").port());
    assert!(text.contains(&old), "{text}");
    let new = text.replace(&old, &format!("127.0.0.1:{}", free_port()));
    std::fs::write(tree.topology(), new).unwrap();
    let set = write(&tree, 2);
    tree.up("l1");
    tree.reaches("l1", "vol", set, LONG);
    tree.same("l1", "vol", set);
    assert_eq!(seeded(&tree), before, "it was seeded again");

    // The parent goes: both ends say so; it comes back, and is dialled.
    tree.kill("f1");
    wait_for("l1 to say why it has no parent", LONG, || {
        let status = tree.status("l1").map_err(|e| e.to_string())?;
        let parent = status.groups[0].parent.clone().ok_or("no parent")?;
        match parent.reason {
            Some(why) if parent.state != "connected" && !why.is_empty() => Ok(()),
            other => Err(format!("{}: {other:?}", parent.state)),
        }
    });
    tree.up("f1");
    let set = write(&tree, 3);
    tree.all_same("vol", set, LONG);

    // A route that is taken away is refused to who dials, and taken when it is there again.
    route(&tree, &["delete", "group=g1", "nexthop=l2"]).expect("deleted");
    wait_for("l2 to be refused", LONG, || {
        let log = tree.log("p");
        let status = tree.status("l2").map_err(|e| e.to_string())?;
        let parent = status.groups[0].parent.clone().ok_or("no parent")?;
        let why = parent.reason.unwrap_or_default();
        if why.contains("l2 is not a next hop of p") {
            Ok(())
        } else {
            Err(format!("{why}\n{log}"))
        }
    });
    route(&tree, &["add", "group=g1", "nexthop=l2"]).expect("it dials, and is fed");
    let set = write(&tree, 4);
    tree.all_same("vol", set, LONG);
    // Who is not there does not dial.
    route(&tree, &["delete", "group=g1", "nexthop=l2"]).expect("deleted");
    tree.kill("l2");
    let e = route(&tree, &["add", "group=g1", "nexthop=l2"]).unwrap_err();
    assert!(e.contains("has not done so within 30 s: is it up?"), "{e}");
}

#[test]
fn a_member_dials_its_parent_with_certificates() {
    for transport in ["tls", "quic"] {
        let plan = Plan::new(&[("p", &["f1"]), ("f1", &["l1"])]).volume("vol", 16).by(transport);
        let plan = plan.hop("p", "f1", |h| h.dial = Some("child".to_owned()));
        let tree = Tree::start(by_child(plan, "f1", "l1"));
        tree.expect(" WARN ");
        for byte in 1..4 {
            let set = write(&tree, byte);
            tree.all_same("vol", set, LONG);
        }
        let status = tree.status("f1").unwrap();
        let child = &status.groups[0].children[0];
        assert_eq!((child.state.as_str(), child.transport.as_str()), ("connected", transport));
    }
}
