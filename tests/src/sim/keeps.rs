//! States that an operator wants to be kept (`volmcast/src/volume/keep.rs`): they are, or he is told that
//! they are not; and the content goes on from one only when a restart would know its pin.

use std::collections::BTreeSet;

use rcp::proto::ids::SetNumber;
use volmcast::io::{FileId, Io, Op};
use volmcast::mailbox::{KeptState, Mailbox};
use volmcast::volume::Volume;

use super::options::Kind;
use super::world::World;

/// What was seen of a node's kept states in its present life.
#[derive(Debug, Default)]
pub(super) struct Keeps {
    life: u64,
    /// The slot that counted when it was looked at last.
    sequence: u64,
    /// States that were still to come then.
    waiting: BTreeSet<SetNumber>,
    /// Those that are a pin which that slot listed.
    pinned: BTreeSet<SetNumber>,
    /// Pins that a slot has listed which counted.
    listed: BTreeSet<u64>,
    /// States of which was said since then that they are no longer kept.
    told: BTreeSet<SetNumber>,
    /// States that an operator gave up since then.
    released: BTreeSet<SetNumber>,
}

/// The states that a note says are no longer kept.
fn told_of(text: &str) -> BTreeSet<SetNumber> {
    let words = text.split_once(" no longer kept: ").map_or("", |(words, _)| words);
    let states = words.split_once(": state").map_or("", |(_, states)| states);
    let numbers = states.split(|c: char| !c.is_ascii_digit()).filter_map(|n| n.parse().ok());
    numbers.map(SetNumber).collect()
}

/// The durable pins that a slot lists, be it of branches.
pub(super) fn pins_of(m: &Mailbox) -> BTreeSet<u64> {
    let kept = m.kept.iter().map(|k| k.pin).filter(|p| *p != 0);
    kept.chain(m.aside.iter().map(|k| k.pin)).collect()
}

/// A pin, not a state that is still to come.
fn is_pin(k: &KeptState) -> bool {
    k.pin != 0
}

impl World {
    /// An operator gives up a kept state.
    pub(super) fn keep_released(&mut self, n: usize, set: SetNumber) {
        self.nodes[n].keeps.released.insert(set);
    }

    /// A node says something.
    pub(super) fn hear_of_keeps(&mut self, n: usize, text: &str) {
        let told = told_of(text);
        if !told.is_empty() {
            self.counters.hit("told of states that are no longer kept");
            self.nodes[n].keeps.told.extend(told);
        }
    }

    /// A call of a node's mover is over, and what came of it is carried out.
    pub(super) fn watch_keeps(&mut self, n: usize) {
        let node = &self.nodes[n];
        let (Some(v), k) = (node.volume(), &node.keeps) else { return };
        let same = k.life == node.life;
        if same
            && k.sequence == v.durable().sequence
            && k.told.is_empty()
            && k.waiting == *v.keeps_waiting()
        {
            return;
        }
        let lost = self.not_kept(n, v, same);
        let keeping: Vec<_> = v.keeping().collect();
        let d = v.durable();
        let (sequence, listed) = (d.sequence, pins_of(d));
        let pinned = keeping.iter().filter(|k| listed.contains(&k.pin)).map(|k| k.set).collect();
        let (life, waiting) = (node.life, v.keeps_waiting().clone());
        let k = &mut self.nodes[n].keeps;
        let mut all = if same { std::mem::take(&mut k.listed) } else { BTreeSet::new() };
        all.extend(listed);
        *k = Keeps { life, sequence, waiting, pinned, listed: all, ..Keeps::default() };
        if let Some(set) = lost {
            self.fail(format!("n{n}: state {set} was to be kept, and is not, and nobody is told"));
        }
    }

    /// A state that was kept, or was to be, is neither, and nobody has said so.
    fn not_kept(&self, n: usize, v: &Volume, same: bool) -> Option<SetNumber> {
        let (node, k) = (&self.nodes[n], &self.nodes[n].keeps);
        let now: BTreeSet<_> = v.keeping().map(|k| k.set).collect();
        // What a restart begins with is what the slot says that rules.
        let slot = v.durable().keeps().map(|k| k.set);
        let was: BTreeSet<_> = match same {
            true => k.waiting.union(&k.pinned).copied().collect(),
            false => slot.collect(),
        };
        // A pin may be broken where the area is full, and become that of a branch.
        let broken = node.area_full || v.config().snapshots.has_broken();
        let pinned = |set: &SetNumber| !k.waiting.contains(set);
        let excused = |set: &SetNumber| pinned(set) && (broken || v.undoes().is_some());
        let known = |set: &SetNumber| {
            now.contains(set) || k.told.contains(set) || k.released.contains(set) || excused(set)
        };
        was.into_iter().find(|set| !known(set))
    }

    /// Nothing is written over a state that is kept before a slot has listed its pin: after a crash it
    /// would be waited for, and be gone.
    pub(super) fn over_a_pin(&self, n: usize, io: &Io) -> Option<String> {
        let writes = matches!(io.op, Op::Scatter { .. } | Op::Zero { .. });
        let node = &self.nodes[n];
        if io.file != FileId::Base || !writes || node.kind != Kind::Replica {
            return None;
        }
        let (v, before) = (node.volume()?, &node.keeps);
        let listed = |k: &KeptState| {
            // One that was released and is wanted again was listed before.
            let once = before.life == node.life && before.listed.contains(&k.pin);
            once || v.durable().kept.iter().any(|d| d.pin == k.pin)
        };
        let bare = v.keeping().filter(is_pin).find(|k| !listed(k))?;
        Some(format!("the content goes on from state {}, and no slot has its pin", bare.set))
    }
}
