//! After a failover every node ends in step, and nobody is copied in full: who is below a node without
//! a replica, who was being seeded at that moment (FAIL-11, FAIL-14, COPY-03).

use std::time::Duration;

use tests::rig::{MIB, Narrow, Plan, Random, Tree, wait_for};

use crate::load::{Ends, Load, Writer, content};

const LONG: Duration = Duration::from_secs(90);
const BLOCK: u64 = 4096;
/// Blocks that a writer counts as changed after a crash, if it wrote one of them last.
const EXTENT: u64 = 1024;

/// Writes `count` blocks from `first` on, each with a content of its own.
fn write(tree: &Tree, node: &str, first: u64, count: u64, number: u64) {
    let mut c = tree.open(node, "vol").unwrap_or_else(|e| panic!("{node}: {e}"));
    for at in (first..first + count).step_by(64) {
        let run = 64.min(first + count - at);
        let bytes: Vec<u8> = (at..at + run).flat_map(|b| content(number << 32 | b)).collect();
        c.write(at * BLOCK, &bytes, false).unwrap();
    }
    c.flush().unwrap();
}

/// Every one of `nodes` shows `set` and has, byte for byte, what `writer` kept.
#[track_caller]
fn same(tree: &Tree, writer: &str, nodes: &[&str], set: u64) {
    let export = format!("vol@{set}");
    let want = tree.all_of(writer, &export).unwrap();
    for n in nodes {
        tree.reaches(n, "vol", set, LONG);
        assert!(tree.all_of(n, &export).unwrap() == want, "{n} differs from {writer} at set {set}");
    }
}

fn fenced(tree: &Tree, node: &str, by: &str) {
    wait_for(&format!("{node} to be fenced"), LONG, || {
        let v = tree.volume(node, "vol")?;
        match v.fenced {
            Some(f) if f.contains(&format!("{by} took over")) => Ok(()),
            other => Err(format!("{}: {other:?}", v.state)),
        }
    });
}

/// What a node has sent since it was started: of seeds, of catch-ups.
fn sent(tree: &Tree, node: &str) -> (u64, u64) {
    let v = tree.volume(node, "vol").unwrap();
    (v.seed_sent, v.catch_up_sent)
}

fn seeds(tree: &Tree, node: &str) -> usize {
    tree.log(node).matches("a seed begins").count()
}

/// The children of `writer` were brought into step by what differed, and not by a copy.
#[track_caller]
fn by_what_differs(tree: &Tree, writer: &str, nodes: &[&str], blocks: u64) {
    let (seed, catch_up) = sent(tree, writer);
    eprintln!(
        "{writer} sent {seed} bytes of seeds, {catch_up} of catch-ups; {blocks} blocks differ"
    );
    assert_eq!(seed, 0, "{writer} has seeded somebody:\n{}", tree.log(writer));
    assert!(catch_up * 10 <= blocks * BLOCK * 11, "{catch_up} bytes for {blocks} blocks");
    for n in nodes {
        assert_eq!(seeds(tree, n), 0, "{n} was seeded:\n{}", tree.log(n));
    }
}

/// Its tip is what it showed beyond the fork.
#[track_caller]
fn kept_as_branch(tree: &Tree, node: &str, set: u64, first: u64, number: u64) {
    let branch = tree.volume(node, "vol").unwrap().branches.pop().expect("a branch");
    assert_eq!(branch.set, set, "{branch:?}");
    let mut block = vec![0; content(1).len()];
    let mut c = tree.open(node, &format!("vol@branch:{}", branch.name)).unwrap();
    c.read(first * BLOCK, &mut block).unwrap();
    assert!(block == content(number << 32 | first), "{node}: the branch holds something else");
}

#[test]
fn those_below_a_node_without_a_replica_follow_the_new_writer() {
    let routes: &[(&str, &[&str])] = &[("p", &["f", "l2"]), ("f", &["ahead", "behind"])];
    let mut plan = Plan::new(routes).volume("vol", 64);
    plan.group().forward_only = vec!["f".to_owned()];
    let tree = Tree::start(plan);
    tree.expect(" WARN ");
    tree.expect(" ERROR ");
    write(&tree, "p", 0, 4096, 1);
    let set = tree.cut_at("p");
    for n in ["l2", "ahead", "behind"] {
        tree.reaches(n, "vol", set, LONG);
    }
    tree.kill("behind");
    write(&tree, "p", 512, 256, 2);
    let set = tree.cut_at("p");
    for n in ["l2", "ahead"] {
        tree.reaches(n, "vol", set, LONG);
    }
    // One below f, and f itself, have a set that the next writer lacks.
    tree.kill("l2");
    write(&tree, "p", 1024, 256, 3);
    let past = tree.cut_at("p");
    tree.reaches("ahead", "vol", past, LONG);
    tree.kill("p");
    tree.up("l2");
    eprintln!("{}", tree.ctl(&["failover", "vol", "--to", "l2", "--adopt"]).unwrap());
    write(&tree, "l2", 2048, 256, 4);
    tree.up("behind");
    let set = tree.cut_at("l2");
    same(&tree, "l2", &["ahead", "behind"], set);
    by_what_differs(&tree, "l2", &["ahead", "behind"], 2 * (256 + 256) + 256);
    kept_as_branch(&tree, "ahead", past, 1024, 3);
    let at = |n: &str| tree.status(n).unwrap().groups[0].parent.clone().unwrap().node;
    assert_eq!(["ahead", "behind"].map(at), ["f", "f"]);

    // And the old writer, from whom nobody takes anything any more.
    tree.up("p");
    fenced(&tree, "p", "l2");
    eprintln!("{}", tree.ctl(&["failover", "vol", "--to", "l2", "--adopt"]).unwrap());
    write(&tree, "l2", 3072, 64, 5);
    let set = tree.cut_at("l2");
    same(&tree, "l2", &["p", "ahead", "behind"], set);
    by_what_differs(&tree, "l2", &["p", "ahead", "behind"], 3 * (256 + 256) + EXTENT);
}

/// How large the volume of a seed is, how fast it comes, how much may come twice: 16 MiB between two
/// commits, a window of 8 MiB, and one piece.
const SEED: u64 = 96;
const RATE: u64 = 8 * MIB;
const TWICE: u64 = 25 * MIB;

/// A tree that holds [`SEED`] MiB, whose node `late` is not there yet, and is reached slowly.
fn with_a_late_leaf(mut plan: Plan, random: &mut Random) -> (Tree, Narrow, Writer) {
    let way = Narrow::listen(RATE);
    plan.spec.nodes.get_mut("late").unwrap().address = Some(way.addr.to_string());
    plan.group().policy.hwm = Some("1 MiB".to_owned());
    let tree = Tree::prepare(&mut plan);
    tree.expect(" WARN ");
    tree.expect(" ERROR ");
    way.lead_to(tree.addr("late"));
    for n in tree.names().iter().filter(|n| *n != "late") {
        tree.up(n);
    }
    let mut writer = Writer::new("vol", 0, SEED * MIB / BLOCK, random.fork());
    writer.fill(&tree).unwrap();
    let set = tree.cut_at("p");
    let shows = |n: &String| !["p", "late", "r"].contains(&n.as_str());
    for n in tree.names().iter().filter(|n| shows(n)) {
        tree.reaches(n, "vol", set, LONG);
    }
    (tree, way, writer)
}

/// `late` comes, and half of it is there. What was sent until then.
fn half_of_it(tree: &Tree, feeder: &str) -> u64 {
    tree.up("late");
    wait_for("half of the seed", LONG, || match sent(tree, feeder).0 {
        n if n > SEED * MIB / 2 => Ok(n),
        n => Err(format!("{n} bytes: {:?}", tree.volume(feeder, "vol").map(|v| v.children))),
    })
}

/// It went on, at `writer`, from where it was.
#[track_caller]
fn went_on(tree: &Tree, feeder: &str, before: u64, earlier: u64) {
    let now = sent(tree, feeder).0 - earlier;
    eprintln!("{before} bytes of the seed were sent before, {now} by {feeder} after it");
    assert!(now > 0, "{feeder} sent nothing");
    assert!(before + now <= SEED * MIB + TWICE, "{before} bytes before, and {now} by {feeder}");
    assert!(!tree.log("late").contains("anew"), "it began again:\n{}", tree.log("late"));
}

#[test]
fn a_seed_under_way_goes_on_at_the_node_that_took_over() {
    let mut random = Random::seeded("aftermath");
    let plan = Plan::new(&[("p", &["l1", "late"])]).volume("vol", SEED).save(64);
    let (tree, _way, writer) = with_a_late_leaf(plan, &mut random);
    let before = half_of_it(&tree, "p");
    tree.kill("p");
    eprintln!("{}", tree.ctl(&["failover", "vol", "--to", "l1", "--adopt"]).unwrap());
    let set = tree.cut_at("l1");
    same(&tree, "l1", &["late"], set);
    writer.verify("late", &mut tree.open("late", "vol").unwrap());
    went_on(&tree, "l1", before, 0);
}

#[test]
fn a_seed_under_way_goes_on_under_load_through_a_swap() {
    let mut random = Random::seeded("aftermath, swap");
    let plan = Plan::new(&[("p", &["l1", "late"])]).volume("vol", SEED).save(64).cut_every(200);
    let (tree, _way, mut writer) = with_a_late_leaf(plan, &mut random);
    let load = Load::default();
    let mut before = 0;
    std::thread::scope(|s| {
        let _ends = Ends(&load);
        s.spawn(|| writer.work(&tree, &load, MIB));
        before = half_of_it(&tree, "p");
        eprintln!("{}", tree.ctl(&["failover", "vol", "--sync", "--to", "l1"]).unwrap());
    });
    write(&tree, "l1", 0, 64, 1 << 20);
    let set = tree.cut_at("l1");
    same(&tree, "l1", &["p", "late"], set);
    went_on(&tree, "l1", before, 0);
}

#[test]
fn a_seed_from_a_forwarder_goes_on_when_that_takes_over_under_load() {
    let mut random = Random::seeded("aftermath, forwarder");
    let routes: &[(&str, &[&str])] = &[("p", &["f"]), ("f", &["late"])];
    let plan = Plan::new(routes).volume("vol", SEED).save(64).cut_every(200);
    let (tree, _way, mut writer) = with_a_late_leaf(plan, &mut random);
    let load = Load::default();
    let mut before = 0;
    std::thread::scope(|s| {
        let _ends = Ends(&load);
        s.spawn(|| writer.work(&tree, &load, MIB));
        before = half_of_it(&tree, "f");
        tree.kill("p");
    });
    eprintln!("{}", tree.ctl(&["failover", "vol", "--to", "f", "--adopt"]).unwrap());
    write(&tree, "f", 0, 64, 1 << 20);
    let set = tree.cut_at("f");
    same(&tree, "f", &["late"], set);
    went_on(&tree, "f", before, before);
}

/// What it has of writes that died with the writer nobody can name: all of it is in doubt, and is
/// compared.
#[track_caller]
fn compared(tree: &Tree, feeder: &str, before: u64, differ: u64) {
    went_on(tree, feeder, before, 0);
    let (log, catch_up) = (tree.log("late"), sent(tree, feeder).1);
    eprintln!("{catch_up} bytes came after the comparison\n{log}");
    assert!(log.contains("compared with its parent's content: only what differs is sent"), "{log}");
    assert!(log.contains("was compared with the parent's content, hash by hash: "), "{log}");
    assert!(catch_up > 0 && catch_up <= differ * BLOCK * 11 / 10, "{catch_up} bytes\n{log}");
    assert_eq!(seeds(tree, "late"), 1, "{log}");
}

/// The writer dies while `late` is being seeded, with writes that only `late` has.
fn dies_with_what_the_seed_holds(plan: Plan, random: &mut Random) {
    let (tree, _way, writer) = with_a_late_leaf(plan, random);
    // In no set, and in the first extents.
    write(&tree, "p", 0, 64, 1 << 20);
    let before = half_of_it(&tree, "p");
    tree.kill("p");
    eprintln!("{}", tree.ctl(&["failover", "vol", "--to", "l1", "--adopt"]).unwrap());
    let set = tree.cut_at("l1");
    same(&tree, "l1", &["late"], set);
    writer.verify("late", &mut tree.open("late", "vol").unwrap());
    compared(&tree, "l1", before, 64);
}

#[test]
fn a_seed_that_holds_what_the_new_writer_lacks_goes_on_and_is_compared() {
    let mut random = Random::seeded("aftermath, anew");
    let plan = Plan::new(&[("p", &["l1", "late"])]).volume("vol", SEED).save(64);
    dies_with_what_the_seed_holds(plan, &mut random);
}

/// The node between has no hashes either: it asks its new parent.
#[test]
fn a_seed_below_a_node_without_a_replica_is_compared_through_it() {
    let mut random = Random::seeded("aftermath, relay");
    let routes: &[(&str, &[&str])] = &[("p", &["l1", "r"]), ("r", &["late"])];
    let mut plan = Plan::new(routes).volume("vol", SEED).save(64);
    plan.group().forward_only = vec!["r".to_owned()];
    dies_with_what_the_seed_holds(plan, &mut random);
}

/// With `--discard` nothing is kept of what the old writer alone has; what both have does not travel.
#[test]
fn what_both_have_is_not_sent_again_when_the_rest_is_discarded() {
    let mut random = Random::seeded("aftermath, discard");
    let plan = Plan::new(&[("p", &["l1"])]).volume("vol", SEED).save(64);
    let tree = Tree::start(plan);
    tree.expect(" WARN ");
    tree.expect(" ERROR ");
    let mut writer = Writer::new("vol", 0, SEED * MIB / BLOCK, random.fork());
    writer.fill(&tree).unwrap();
    let set = tree.cut_at("p");
    tree.reaches("l1", "vol", set, LONG);
    tree.kill("l1");
    write(&tree, "p", 512, 64, 1 << 20);
    tree.kill("p");
    tree.up("l1");
    eprintln!("{}", tree.ctl(&["failover", "vol", "--to", "l1"]).unwrap());
    write(&tree, "l1", 4096, 64, 1 << 21);
    tree.up("p");
    tree.ctl_at("p", &["resync", "vol", "--discard"]).unwrap();
    eprintln!("{}", tree.ctl(&["failover", "vol", "--to", "l1", "--adopt"]).unwrap());
    let set = tree.cut_at("l1");
    same(&tree, "l1", &["p"], set);
    let (log, (seed, catch_up)) = (tree.log("p"), sent(&tree, "l1"));
    eprintln!("{seed} bytes of seeds, {catch_up} of catch-ups\n{log}");
    assert_eq!((seed, seeds(&tree, "p")), (0, 0), "{log}");
    assert!(catch_up <= (64 + 64) * BLOCK * 11 / 10, "{catch_up} bytes\n{log}");
}

#[test]
fn who_was_away_through_two_generations_comes_back_for_what_differs() {
    const ALL: u64 = 8192;
    // So small that nothing of then is in it any more when they come back.
    let plan = Plan::new(&[("p", &["l1", "behind", "ahead"])]).volume("vol", 64).save(8);
    let tree = Tree::start(plan);
    tree.expect(" WARN ");
    tree.expect(" ERROR ");
    for part in 0..16 {
        write(&tree, "p", part * ALL / 16, ALL / 16, 1);
        let set = tree.cut_at("p");
        for n in ["l1", "behind", "ahead"] {
            tree.reaches(n, "vol", set, LONG);
        }
    }
    tree.kill("behind");
    tree.kill("l1");
    write(&tree, "p", 0, 256, 2);
    let past = tree.cut_at("p");
    tree.reaches("ahead", "vol", past, LONG);
    tree.kill("ahead");
    tree.kill("p");

    // The second generation: l1 writes, p follows it.
    tree.up("l1");
    eprintln!("{}", tree.ctl(&["failover", "vol", "--to", "l1", "--adopt"]).unwrap());
    write(&tree, "l1", 1024, 256, 3);
    tree.cut_at("l1");
    tree.up("p");
    fenced(&tree, "p", "l1");
    eprintln!("{}", tree.ctl(&["failover", "vol", "--to", "l1", "--adopt"]).unwrap());
    let set = tree.cut_at("l1");
    same(&tree, "l1", &["p"], set);
    by_what_differs(&tree, "l1", &["p"], 256 + EXTENT);

    // The third: l1 dies in turn, and is not there when they come back.
    write(&tree, "l1", 2048, 64, 4);
    tree.kill("l1");
    eprintln!("{}", tree.ctl(&["failover", "vol", "--to", "p", "--adopt"]).unwrap());
    for part in 0..4 {
        write(&tree, "p", 3072, 256, 5 + part);
        tree.cut_at("p");
        write(&tree, "p", 3328, 512, 5 + part);
        tree.cut_at("p");
    }
    assert_eq!(tree.volume("p", "vol").unwrap().history.len(), 3);
    let set = tree.cut_at("p");
    let before = sent(&tree, "p");
    assert_eq!(before, (0, 0));
    tree.up("behind");
    tree.up("ahead");
    same(&tree, "p", &["behind", "ahead"], set);
    // To both, what p wrote, what it was brought back by, and what one of them has to take back.
    let each = EXTENT + 256 + 768;
    by_what_differs(&tree, "p", &["behind", "ahead"], 2 * each);
    kept_as_branch(&tree, "ahead", past, 0, 2);
    for n in ["behind", "ahead"] {
        assert_eq!(tree.volume(n, "vol").unwrap().history.len(), 3, "{n}");
    }

    // And the writer of the second, with what nobody else has.
    tree.up("l1");
    fenced(&tree, "l1", "p");
    eprintln!("{}", tree.ctl(&["failover", "vol", "--to", "p", "--adopt"]).unwrap());
    write(&tree, "p", 0, 64, 9);
    let set = tree.cut_at("p");
    same(&tree, "p", &["l1", "behind", "ahead"], set);
    by_what_differs(&tree, "p", &["l1", "behind", "ahead"], 3 * (each + 64) + EXTENT);
}
