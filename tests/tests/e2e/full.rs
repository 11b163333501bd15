//! A full disk at each kind of node.

use std::time::Duration;

use node::nbd::{ClientError, Errno};
use tests::rig::{Mounted, Plan, Random, Tree, may_mount, wait_for};

use crate::load::{BLOCK, content};

const LONG: Duration = Duration::from_secs(60);
/// MiB: a save volume of 8 and a little fit.
const SMALL: u64 = 20;
const LARGE: u64 = 80;

/// The tree is the last: it goes first, and says what it knows while all is still there.
fn tree_on(node: &str) -> Option<(Mounted, Tree)> {
    if !may_mount("a full disk") {
        return None;
    }
    let plan = Plan::new(&[("p", &["f1"]), ("f1", &["l1", "l2"])]).volume("vol", 32);
    let mut plan = plan.save(8).cut_every(200);
    plan.group().policy.hwm = Some("1 MiB".to_owned());
    plan.spec.defaults.snapshot_area = Some("4 MiB".to_owned());
    let mut tree = None;
    for _ in 0..3 {
        let t = Tree::prepare(&mut plan);
        let disk = Mounted::small(SMALL, &t.folder(node)).expect("mount");
        for n in t.names() {
            t.launch(&n);
        }
        if t.names().iter().all(|n| t.came_up(n).is_ok()) {
            tree = Some((t, disk));
            break;
        }
    }
    let (tree, disk) = tree.expect("the nodes did not come up");
    tree.expect(" WARN ");
    Some((disk, tree))
}

/// Writes every block of the volume anew, as number `n` and following; the first that fails.
fn write_all(tree: &Tree, n: u64) -> Result<(), (u64, ClientError)> {
    let mut c = tree.open("p", "vol").map_err(|e| (0, e))?;
    for at in 0..32 * 16 {
        let data: Vec<u8> = (0..16).flat_map(|i| content(n + at * 16 + i)).collect();
        c.write(at * 16 * BLOCK as u64, &data, false).map_err(|e| (at * 16, e))?;
    }
    c.flush().map_err(|e| (0, e))
}

/// With room again all are the same, and nobody complained of anything else.
fn all_same_in_the_end(tree: &Tree, disk: Mounted) {
    let set = tree.cut("vol", true).set;
    tree.all_same("vol", set, LONG);
    tree.expect("space");
    tree.quiet();
    for n in tree.names() {
        tree.kill(&n);
    }
    disk.unmount();
}

fn replica_full(node: &str, others: &[&str]) {
    let Some((disk, tree)) = tree_on(node) else { return };
    write_all(&tree, 1 << 40).unwrap();
    let set = tree.cut("vol", false).set;
    // Said in status, with the thing and what to do; and the others go on.
    let why = wait_for("the full node to say so", LONG, || {
        let v = tree.volume(node, "vol")?;
        let full = |r: &String| r.contains("space");
        v.reason.clone().filter(full).ok_or(format!("{}: {:?}", v.state, v.reason))
    });
    eprintln!("full: {node} says: {why}");
    wait_for("the log to say so", LONG, || {
        let log = tree.log(node);
        if log.contains("has stopped: no space") || log.contains("volume vol: playback stopped") {
            Ok(())
        } else {
            Err(log)
        }
    });
    for n in others {
        tree.reaches(n, "vol", set, LONG);
    }
    disk.resize(LARGE);
    // By itself, or, where it says so, after a restart.
    let now = tree.volume(node, "vol").unwrap();
    if now.state == "failed" {
        assert!(now.reason.unwrap_or_default().contains("restarted"), "no remedy is named");
        tree.stop(node, LONG);
        tree.up(node);
    }
    all_same_in_the_end(&tree, disk);
}

#[test]
fn a_full_leaf_stops_alone() {
    replica_full("l1", &["f1", "l2"]);
}

#[test]
fn a_full_forwarder_says_so_and_goes_on_with_room() {
    replica_full("f1", &[]);
}

#[test]
fn a_leaf_that_is_full_while_it_is_seeded_goes_on_by_itself() {
    let Some((disk, tree)) = tree_on("l2") else { return };
    tree.kill("l2");
    for n in 1..=3 {
        write_all(&tree, n << 40).unwrap();
        tree.cut("vol", false);
    }
    // What it would need next is gone everywhere: it is seeded, into too little room.
    tree.up("l2");
    let why = wait_for("the leaf to say so", LONG, || {
        let v = tree.volume("l2", "vol")?;
        let full = |r: &String| r.contains("the seed has stopped: no space left");
        v.reason.clone().filter(full).ok_or(format!("{}: {:?}", v.state, v.reason))
    });
    eprintln!("full: l2 says: {why}");
    disk.resize(LARGE);
    all_same_in_the_end(&tree, disk);
}

#[test]
fn a_full_primary_is_enospc_to_its_client() {
    let Some((disk, tree)) = tree_on("p") else { return };
    let mut random = Random::seeded("full primary");
    let n = 1 << 40;
    let (failed, error) = write_all(&tree, n).expect_err("20 MiB took 32");
    assert!(matches!(error, ClientError::Remote(Errno::NoSpc)), "{error}");
    assert!(failed > 512, "only {failed} blocks were written");
    // The stream goes on, and what was acknowledged is there.
    let mut c = tree.open("p", "vol").unwrap();
    c.write(0, &content(7), true).unwrap();
    let set = tree.cut("vol", false).set;
    tree.reaches("l1", "vol", set, LONG);
    let mut replica = tree.open("l1", "vol").unwrap();
    let mut block = vec![0; BLOCK];
    for _ in 0..100 {
        let at = 1 + random.below(failed - 1);
        for c in [&mut c, &mut replica] {
            c.read(at * BLOCK as u64, &mut block).unwrap();
            assert!(block == content(n + at), "block {at} is lost");
        }
    }
    disk.resize(LARGE);
    write_all(&tree, 2 * n).unwrap();
    all_same_in_the_end(&tree, disk);
}
