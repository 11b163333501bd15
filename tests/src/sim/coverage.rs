//! Which fault met a node in the middle of what: pairs that never met were not tested.

use std::collections::BTreeMap;
use std::fmt;

use super::options::Kind;
use super::world::World;

/// How often each fault met each state.
pub type Met = BTreeMap<(&'static str, &'static str), u64>;

/// What can go wrong with a node.
pub const FAULTS: [&str; 11] = [
    "kill",
    "power cut",
    "connection cut",
    "one-way stall",
    "partition",
    "slow disk",
    "failed request",
    "no space left",
    "rot in the save area",
    "rot in the content",
    "mailbox slot lost",
];

/// What a node may be in the middle of.
pub const STATES: [&str; 10] = [
    "writing",
    "making a set",
    "merging",
    "seeding",
    "catching up",
    "staging",
    "undoing",
    "swapping",
    "recovering",
    "starting",
];

/// Microseconds for which a node counts as starting.
const STARTING: u64 = 500_000;

/// Why a fault cannot meet a state.
#[must_use]
pub fn never(fault: &str, state: &str) -> Option<&'static str> {
    match (fault, state) {
        ("rot in the content", "writing" | "making a set") => {
            Some("the simulation lets only the content of replicas rot")
        }
        _ => None,
    }
}

/// The table of what met, a line for each fault.
#[derive(Debug)]
pub struct Table<'a>(pub &'a Met);

impl fmt::Display for Table<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:22}", "")?;
        for s in STATES {
            write!(f, "{s:>14}")?;
        }
        for fault in FAULTS {
            write!(f, "\n{fault:22}")?;
            for state in STATES {
                match (self.0.get(&(fault, state)), never(fault, state)) {
                    (None, Some(_)) => write!(f, "{:>14}", "-")?,
                    (n, _) => write!(f, "{:>14}", n.copied().unwrap_or(0))?,
                }
            }
        }
        writeln!(f)
    }
}

impl World {
    /// What a node is in the middle of.
    pub(super) fn states_of(&self, n: usize) -> Vec<&'static str> {
        let node = &self.nodes[n];
        let Some(v) = node.volume() else { return Vec::new() };
        let m = v.durable();
        let writes = || self.client.requests.values().any(|r| r.node == n);
        let seed = m.seed.map(|s| match (s.undo, s.over) {
            (true, _) => "undoing",
            (false, Some(_)) => "catching up",
            (false, None) => "seeding",
        });
        let seed = seed.or(v.staged_progress().map(|_| "staging"));
        let replica = node.kind == Kind::Replica && seed.is_none();
        let changes = || self.is_swapping(n) || self.info(n).is_some_and(|v| v.promoting);
        let all = [
            (node.kind == Kind::Primary && writes()).then_some("writing"),
            v.draining().map(|_| "making a set"),
            (replica && m.merged < m.visible).then_some("merging"),
            seed,
            (self.opt.turns && changes()).then_some("swapping"),
            (replica && m.hidden_until > m.visible).then_some("recovering"),
            (self.now < node.started + STARTING).then_some("starting"),
        ];
        all.into_iter().flatten().collect()
    }

    /// A fault meets a node that is up.
    pub(super) fn meets(&mut self, n: usize, fault: &'static str) {
        let states = self.states_of(n);
        self.met(fault, &states);
    }

    /// A fault meets both ends of a connection.
    pub(super) fn link_meets(&mut self, id: u64, fault: &'static str) {
        let ends = self.links.get(&id).map(|l| [l.ends[0].node, l.ends[1].node]);
        for n in ends.into_iter().flatten() {
            self.meets(n, fault);
        }
    }

    /// A fault has met a node in these states.
    pub(super) fn met(&mut self, fault: &'static str, states: &[&'static str]) {
        for s in states {
            *self.counters.1.entry((fault, s)).or_default() += 1;
        }
    }
}
