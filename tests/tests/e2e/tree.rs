//! One primary, two forwarders, four leaves.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tests::rig::{Clock, MIB, Plan, Random, Tree, run, tool};

const LONG: Duration = Duration::from_secs(60);

#[test]
fn smoke() {
    let tree = Tree::start(Plan::tree().volume("vol", 16));
    let mut c = tree.open("p", "vol").unwrap();
    c.write(0, &[7; 1 << 20], false).unwrap();
    let cut = tree.cut("vol", true);
    tree.all_same("vol", cut.set, LONG);
    tree.quiet();
}
