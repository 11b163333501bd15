//! SIGKILL of random nodes while data flows.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::time::Duration;

use node::limits::WINDOW_BYTES;
use tests::rig::{Clock, MIB, Plan, Random, Tree, wait_for};

use crate::load::{Ends, Load, Writer};

const LONG: Duration = Duration::from_secs(90);

/// Looks at every node and collects seeds: those that say why, and those that do not.
fn watch_seeds(tree: &Tree, load: &Load, seen: &Mutex<BTreeSet<String>>) {
    while load.on() {
        for n in tree.names() {
            let Ok(status) = tree.status(&n) else { continue };
            for v in status.volumes {
                for c in v.children.iter().filter(|c| c.state == "seeding") {
                    let why = c.reason.clone().unwrap_or_else(|| "NO REASON".to_owned());
                    let why: String = why.chars().filter(|c| !c.is_ascii_digit()).collect();
                    seen.lock().unwrap().insert(format!("{n} seeds {}: {why}", c.node));
                }
                if v.state == "seeding" && v.reason.is_none() {
                    seen.lock().unwrap().insert(format!("{n} is seeded: NO REASON"));
                }
            }
        }
        Clock::default().pace(Duration::from_millis(100));
    }
}

/// Kills for `time` and starts again; then everything must be the same everywhere.
fn kill_at_random(name: &str, save: u64, rate: u64, time: Duration) {
    let mut random = Random::seeded(name);
    let plan = Plan::tree().volume("vol", 64).save(save).cut_every(300);
    let tree = Tree::start(plan);
    // What a killed neighbour leaves is worth a warning each time.
    tree.expect(" WARN ");
    let mut writers =
        [Writer::new("vol", 0, 6000, random.fork()), Writer::new("vol", 6000, 6000, random.fork())];
    let load = Load::default();
    let seeds = Mutex::default();
    let mut kills = 0;
    std::thread::scope(|s| {
        let _ends = Ends(&load);
        for w in &mut writers {
            s.spawn(|| w.work(&tree, &load, rate / 2));
        }
        s.spawn(|| watch_seeds(&tree, &load, &seeds));
        let clock = Clock::default();
        let names = tree.names();
        while clock.passed() < time {
            let pause = Clock::default();
            pause.pace(Duration::from_millis(700 + random.below(800)));
            let node = random.of(&names).clone();
            tree.kill(&node);
            pause.pace(pause.passed() + Duration::from_millis(random.below(300)));
            tree.up(&node);
            kills += 1;
        }
    });
    let written = load.written();
    let lost: u64 = writers.iter().map(|w| w.lost).sum();
    let seeds = seeds.into_inner().unwrap();
    eprintln!(
        "{name}: {kills} kills, {} MiB written, writers lost their connection {lost} times, seeds: \
         {seeds:#?}",
        written / MIB
    );
    assert!(written >= 4 * save * MIB || save > 32, "only {written} bytes were written");
    let cut = tree.cut("vol", true);
    tree.all_same("vol", cut.set, LONG);
    for w in &writers {
        let export = format!("vol@{}", cut.set);
        w.verify("the primary", &mut tree.open("p", &export).unwrap());
        w.verify("l1", &mut tree.open("l1", &export).unwrap());
    }
    assert!(!seeds.iter().any(|s| s.contains("NO REASON")), "a seed without reason: {seeds:#?}");
    tree.quiet();
}

#[test]
fn random_kills_with_the_default_save_volume() {
    kill_at_random("kills, 1 GiB", 1024, 6 * MIB, Duration::from_secs(20));
}

#[test]
fn random_kills_with_a_save_volume_a_quarter_of_the_data() {
    kill_at_random("kills, 8 MiB", 8, 6 * MIB, Duration::from_secs(20));
}

/// Bytes sent to a child and to its sibling, as their parent counts them.
fn sent(tree: &Tree, parent: &str, children: [&str; 2]) -> [u64; 2] {
    let status = tree.status(parent).unwrap();
    let group = &status.groups[0];
    children.map(|c| group.children.iter().find(|l| l.node == c).unwrap().bytes)
}

#[test]
fn a_kill_costs_at_most_one_window_of_repeated_bytes() {
    let mut random = Random::seeded("resend");
    let plan = Plan::new(&[("p", &["f1", "f2"]), ("f1", &["l1", "l2"])]);
    let tree = Tree::start(plan.volume("vol", 64).save(512).cut_every(200));
    tree.expect(" WARN ");
    let mut writer = Writer::new("vol", 0, 14_000, random.fork());
    writer.fill(&tree).unwrap();
    let set = tree.cut("vol", false).set;
    for n in ["l1", "l2", "f2"] {
        tree.reaches(n, "vol", set, LONG);
    }
    for (parent, victim, sibling) in [("f1", "l1", "l2"), ("p", "f1", "f2")] {
        let load = Load::default();
        let before = sent(&tree, parent, [victim, sibling]);
        let kills = 4;
        std::thread::scope(|s| {
            let _ends = Ends(&load);
            s.spawn(|| writer.work(&tree, &load, 12 * MIB));
            for _ in 0..kills {
                let clock = Clock::default();
                clock.pace(Duration::from_millis(600 + random.below(600)));
                tree.kill(victim);
                tree.up(victim);
            }
        });
        let set = tree.cut("vol", false).set;
        for n in ["l1", "l2", "f1", "f2"] {
            tree.reaches(n, "vol", set, LONG);
        }
        let after = sent(&tree, parent, [victim, sibling]);
        let [to_victim, needed] = [0, 1].map(|i| after[i] - before[i]);
        let twice = to_victim.saturating_sub(needed);
        eprintln!(
            "{victim} killed {kills} times: {} KiB sent, {} KiB needed, {} KiB twice",
            to_victim >> 10,
            needed >> 10,
            twice >> 10
        );
        assert!(twice <= kills * WINDOW_BYTES, "{twice} bytes sent twice in {kills} kills");
        let logs = format!("{}{}", tree.log(victim), tree.log(sibling));
        assert!(!logs.contains("a seed begins"), "a seed was needed:\n{logs}");
    }
    tree.quiet();
}

/// What kills cost, one after the other, of nodes in every role but one leaf below the primary.
struct Costs<'a> {
    tree: &'a Tree,
    /// Bytes that a node received before it was killed, over its lives.
    before: BTreeMap<String, u64>,
    /// From the start of a node to the first chunk that it receives, or sends if it is the primary.
    first_chunk: Vec<(Duration, String)>,
}

impl Costs<'_> {
    /// Bytes of chunks that a node has received since it was started; sent, if it is the primary.
    fn moved(&self, node: &str) -> u64 {
        let Ok(status) = self.tree.status(node) else { return 0 };
        let Some(group) = status.groups.first() else { return 0 };
        let children = group.children.iter().map(|c| c.bytes).sum();
        group.parent.as_ref().map_or(children, |p| p.bytes)
    }

    /// Bytes that it has received in all its lives.
    fn received(&self, node: &str) -> u64 {
        self.before.get(node).unwrap_or(&0) + self.moved(node)
    }

    fn kill(&mut self, node: &str) {
        let received = self.moved(node);
        self.tree.kill(node);
        *self.before.entry(node.to_owned()).or_default() += received;
        let clock = Clock::default();
        self.tree.launch(node);
        wait_for(&format!("a chunk at {node}"), LONG, || match self.moved(node) {
            0 => Err("none yet".to_owned()),
            _ => Ok(()),
        });
        let took = clock.passed();
        if took > Duration::from_secs(1) {
            eprintln!("{node}: the first chunk took {took:.1?}");
            for n in self.tree.names() {
                let log = self.tree.log(&n);
                let lines: Vec<_> = log.lines().rev().take(6).collect();
                eprintln!("  {n}:");
                lines.iter().rev().for_each(|l| eprintln!("    {l}"));
            }
        }
        self.first_chunk.push((took, node.to_owned()));
    }

    /// The waits for the first chunk, in words.
    fn waits(&self) -> String {
        let mut sorted = self.first_chunk.clone();
        sorted.sort();
        let at = |percent: usize| {
            let (took, node) = &sorted[(sorted.len() * percent / 100).min(sorted.len() - 1)];
            format!("{} ms ({node})", took.as_millis())
        };
        format!("median {}, p99 {}, longest {}", at(50), at(99), at(100))
    }
}

/// Kills nodes in turn while data flows: nothing is copied in full, nothing differs, and what is
/// sent twice is at most a window for each kill.
fn kill_in_turn(kills: u64, pause: Duration) {
    const WITNESS: &str = "l4";
    let mut random = Random::seeded("kills in turn");
    let plan = Plan::new(&[("p", &["f1", "f2", WITNESS]), ("f1", &["l1", "l2"]), ("f2", &["l3"])]);
    let tree = Tree::start(plan.volume("vol", 64).save(512).cut_every(100));
    tree.expect(" WARN ");
    let mut writer = Writer::new("vol", 0, 14_000, random.fork());
    writer.fill(&tree).unwrap();
    let set = tree.cut("vol", false).set;
    for n in tree.leaves() {
        tree.reaches(&n, "vol", set, LONG);
    }
    let load = Load::default();
    let victims: Vec<_> = tree.names().into_iter().filter(|n| n != WITNESS).collect();
    let mut costs = Costs { tree: &tree, before: BTreeMap::new(), first_chunk: Vec::new() };
    std::thread::scope(|s| {
        let _ends = Ends(&load);
        s.spawn(|| writer.work(&tree, &load, 6 * MIB));
        for _ in 0..kills {
            Clock::default().pace(pause.mul_f64(0.5 + random.below(1000) as f64 / 1000.0));
            let victim: &String = random.of(&victims);
            costs.kill(victim);
        }
    });
    let cut = tree.cut("vol", true);
    tree.all_same("vol", cut.set, LONG);
    let export = format!("vol@{}", cut.set);
    for n in ["p", "l1", "l3"] {
        writer.verify(n, &mut tree.open(n, &export).unwrap());
    }
    let needed = costs.received(WITNESS);
    let below: Vec<_> = victims.iter().filter(|n| *n != "p").collect();
    let twice: u64 = below.iter().map(|n| costs.received(n).saturating_sub(needed)).sum();
    eprintln!(
        "{kills} kills, {} MiB to each of {} nodes; first chunk after a start: {}; received twice: \
         {:.1} KiB for each kill, {:.3} % of all",
        needed / MIB,
        below.len(),
        costs.waits(),
        twice as f64 / 1024.0 / kills as f64,
        100.0 * twice as f64 / (needed * below.len() as u64) as f64
    );
    assert!(twice <= kills * WINDOW_BYTES, "{twice} bytes received twice in {kills} kills");
    for n in tree.names() {
        let log = tree.log(&n);
        let seeds = log.matches("a seed begins").count();
        assert_eq!(seeds, 0, "{n} had a seed:\n{log}");
    }
    tree.quiet();
}

#[test]
fn kills_in_turn_cost_no_copy_and_at_most_a_window_each() {
    kill_in_turn(24, Duration::from_millis(500));
}

/// With its figures: `cargo test -p tests --test e2e -- --ignored --nocapture a_thousand_kills`.
/// `KILLS` and `PAUSE_MS` change how many and how far apart.
#[test]
#[ignore = "half an hour; what it measures is in tests/docs/measurements.md"]
fn a_thousand_kills() {
    let number = |name: &str, usual: u64| {
        std::env::var(name).map_or(usual, |v| v.parse().expect("a number"))
    };
    kill_in_turn(number("KILLS", 1000), Duration::from_millis(number("PAUSE_MS", 500)));
}
