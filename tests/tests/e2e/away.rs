//! A leaf that is away for many times what the save volume holds, and comes back for what changed.

use std::time::Duration;

use tests::rig::{Clock, MIB, Plan, Random, Tree, wait_for};

use crate::load::{Ends, Load, Writer};

const LONG: Duration = Duration::from_secs(90);
/// The smallest save volume there is.
const SAVE: u64 = 8;
/// Blocks that change while the leaf is away.
const CHANGED: u64 = 1024;

/// Ten times the save volume is written, into few blocks; nothing else happens afterwards.
fn overwrite(tree: &Tree, writer: &mut Writer) {
    let load = Load::default();
    std::thread::scope(|s| {
        let _ends = Ends(&load);
        s.spawn(|| writer.work(tree, &load, 24 * MIB));
        wait_for("ten save volumes to be written", LONG, || {
            let now = load.written();
            if now >= 10 * SAVE * MIB { Ok(()) } else { Err(format!("{} MiB", now / MIB)) }
        });
    });
    tree.cut("vol", false);
}

fn sent(tree: &Tree, node: &str) -> (u64, u64) {
    let v = tree.volume(node, "vol").unwrap();
    (v.seed_sent, v.catch_up_sent)
}

/// A leaf of this tree, away for long, comes back to `p` for the blocks that changed.
fn comes_back(mut plan: Plan, later: &[&str], leaf: &str, name: &str) {
    let mut random = Random::seeded(name);
    plan.group().policy.hwm = Some("1 MiB".to_owned());
    // It is seeded first: the volume is filled before it comes.
    let tree = Tree::start_but(plan.volume("vol", 64).save(SAVE).cut_every(200), later);
    tree.expect(" WARN ");
    let mut all = Writer::new("vol", 2000, 12_000, random.fork());
    let mut few = Writer::new("vol", 100, CHANGED, random.fork());
    all.fill(&tree).unwrap();
    few.fill(&tree).unwrap();
    let cut = tree.cut("vol", false);
    for n in later {
        tree.up(n);
    }
    tree.reaches(leaf, "vol", cut.set, LONG);
    let before = sent(&tree, "p");
    assert!(before.0 > 40 * MIB, "a seed of {} bytes", before.0);
    tree.kill(leaf);
    overwrite(&tree, &mut few);
    let newest = tree.volume("p", "vol").unwrap().current_set;
    tree.up(leaf);
    tree.reaches(leaf, "vol", newest, LONG);
    let now = sent(&tree, "p");
    let (seeds, catch_ups) = (now.0 - before.0, now.1 - before.1);
    let union = CHANGED * 4096;
    eprintln!("away: {leaf} came back for {catch_ups} bytes; {union} had changed");
    assert_eq!(seeds, 0, "{leaf} was seeded:\n{}", tree.log(leaf));
    assert!(catch_ups > union / 2, "{leaf} came back for {catch_ups} bytes only");
    assert!(catch_ups * 100 <= union * 105, "{catch_ups} bytes for {union}");
    let log = tree.log(leaf);
    assert!(log.contains("a catch-up begins"), "{log}");
    let cut = tree.cut("vol", true);
    tree.all_same("vol", cut.set, LONG);
    all.verify(leaf, &mut tree.open(leaf, "vol").unwrap());
    few.verify(leaf, &mut tree.open(leaf, "vol").unwrap());
    tree.quiet();
}

#[test]
fn a_long_absence_costs_the_blocks_that_changed() {
    comes_back(Plan::new(&[("p", &["l1"])]), &["l1"], "l1", "away");
}

#[test]
fn so_it_does_below_a_node_without_content() {
    let mut plan = Plan::new(&[("p", &["f1"]), ("f1", &["l1"])]);
    plan.group().forward_only = vec!["f1".to_owned()];
    comes_back(plan, &["f1", "l1"], "l1", "away below");
}

#[test]
fn without_the_list_of_changes_a_leaf_is_seeded_and_told_why() {
    let mut random = Random::seeded("unlisted");
    let mut plan = Plan::new(&[("p", &["l1"])]).volume("vol", 32);
    plan.group().policy.hwm = Some("1 MiB".to_owned());
    let tree = Tree::start(plan.save(SAVE).cut_every(200));
    tree.expect(" WARN ");
    tree.expect("the list of changed blocks is damaged");
    let mut few = Writer::new("vol", 100, CHANGED, random.fork());
    few.fill(&tree).unwrap();
    let cut = tree.cut("vol", false);
    tree.reaches("l1", "vol", cut.set, LONG);
    tree.kill("l1");
    overwrite(&tree, &mut few);
    let list = tree.volume_folder("p", "vol").join("changes");
    let mut bytes = std::fs::read(&list).unwrap();
    assert!(!bytes.is_empty());
    bytes.fill(0x55);
    std::fs::write(&list, bytes).unwrap();
    tree.up("l1");
    let cut = tree.cut("vol", true);
    tree.all_same("vol", cut.set, LONG);
    few.verify("l1", &mut tree.open("l1", "vol").unwrap());
    wait_for("the reason to be told", LONG, || {
        let log = tree.log("l1");
        let told =
            log.contains("a seed begins") && log.contains("list of changed blocks is damaged");
        if told { Ok(()) } else { Err(log) }
    });
    Clock::default().pace(Duration::from_millis(100));
    tree.quiet();
}
