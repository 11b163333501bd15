//! Queued sets that rewrite the same blocks again and again go to a child as one step: each block
//! once, beside what the child shows (SAVE-11). `docs/coalescing.md` says when, and why it is safe.
//!
//! ```text
//! child attaches ── queue long? ─► changed blocks are read ── half of the queue? ─► a catch-up, staged
//! set is ready ──── queue long? ─► changed blocks are read ── half? ─► the child is to attach again
//!                                                              └ no ─► not again before it has doubled
//! ```
//!
//! The sets stay in the save volume as long as there is room: a child that gives the step up takes
//! them, and is never hidden for it.

use std::collections::BTreeMap;
use std::time::Duration;

use rcp::proto::clock::Mono;
use rcp::proto::delta::SetFlags;
use rcp::proto::ids::{ChunkNumber, NodeName, SetNumber};

use super::changes::Reader;
use super::{Attached, Event, Role, Volume};
use crate::bitmap::BlockSet;
use crate::bitmap::changes::RegionError;
use crate::history::line_of;
use crate::save::log::Located;
use crate::units::LogPos;

/// A shorter queue is not worth the list of changed blocks, nor that a stream begins anew.
const FLOOR: u64 = 8 << 20;
/// Nor is one that takes less of the save volume than one part of so many.
const FLOOR_PART: u64 = 16;
/// More than that nothing is taken to be compressed: zeroes take next to nothing, and would make
/// everything else look small.
const MOST_COMPRESSED: u64 = 8;
/// So long a child is not called that came when it was and could take nothing: one that feeds others
/// never can.
const DEAF: Duration = Duration::from_secs(600);

/// Whole sets in the save volume that a child lacks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Queue {
    /// Bytes of their records, as they would travel.
    pub bytes: u64,
    /// How many sets.
    pub sets: u64,
    /// Blocks in them; one that several sets have counts for each.
    pub blocks: u64,
}

impl Queue {
    /// Adds a set of so many blocks, which takes so many bytes; only `left` of them are to be sent.
    fn add(&mut self, (bytes, left): (u64, u64), blocks: u64, shift: u32) {
        let blocks = blocks.min((bytes * MOST_COMPRESSED) >> shift);
        let part = u128::from(blocks) * u128::from(left) / u128::from(bytes.max(1));
        self.sets += 1;
        self.bytes += left;
        self.blocks += u64::try_from(part).unwrap_or(blocks);
    }

    /// Long enough, in a save volume of this capacity, to look which blocks are in it.
    #[must_use]
    pub fn is_long(&self, capacity: u64) -> bool {
        self.sets >= 2 && self.bytes >= FLOOR.min(capacity / FLOOR_PART)
    }

    /// Bytes that its blocks take when each is sent once and there are `union` of them, if that is
    /// half of the queue at most and a child that has `room` for content can take them. They are
    /// taken to be as compressible as those of the queue.
    #[must_use]
    pub fn as_one(&self, union: u64, shift: u32, room: u64) -> Option<u64> {
        let raw = union.checked_shl(shift).filter(|raw| *raw >> shift == union && *raw <= room)?;
        let each = u128::from(union) * u128::from(self.bytes);
        let all = each.div_ceil(u128::from(self.blocks.max(1)));
        let bytes = u64::try_from(all).unwrap_or(u64::MAX).min(raw);
        (union > 0 && bytes <= self.bytes / 2).then_some(bytes)
    }
}

/// Queues that children got as one step, since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Coalesced {
    /// Steps.
    pub steps: u64,
    /// Bytes that the sets had and the steps have not.
    pub saved: u64,
}

/// What is known of a child that can take its queue as one step.
#[derive(Debug, Default)]
struct Pace {
    /// Bytes of blocks that it could take when it attached, and when that was.
    room: u64,
    told: Mono,
    /// The queue for which it did not pay, or the child was called: not again before it has doubled.
    refused: u64,
    /// It was told to attach again for this.
    called: bool,
    /// It came when it was called and could take nothing, or was just filled: not called before.
    deaf_until: Option<Mono>,
    /// Bytes that the step that it is sent takes less than its queue.
    saves: Option<u64>,
}

/// Which blocks a child's queue has is being read.
#[derive(Debug)]
struct Asking {
    child: NodeName,
    after: SetNumber,
}

/// A queue that may be sent as one step, once it is known which blocks it has.
#[derive(Clone, Copy, Debug)]
pub(super) struct Queued {
    queue: Queue,
    from: SetNumber,
    room: u64,
    called: bool,
}

/// Children whose queues may be coalesced.
#[derive(Debug, Default)]
pub(super) struct Coalescing {
    children: BTreeMap<NodeName, Pace>,
    asking: Option<Asking>,
    /// End of what could be sent when the queues were looked at last.
    looked: LogPos,
    done: Coalesced,
}

impl Coalescing {
    /// After which state the blocks are wanted that changed.
    pub(super) fn asks_after(&self) -> Option<SetNumber> {
        self.asking.as_ref().map(|a| a.after)
    }
}

/// Bytes in words.
fn size(bytes: u64) -> String {
    if bytes < 1 << 20 {
        return format!("{} KiB", bytes.div_ceil(1 << 10));
    }
    format!("{}.{} MiB", bytes >> 20, ((bytes % (1 << 20)) * 10) >> 20)
}

impl Volume {
    /// Before a child attaches: bytes of blocks that it could take just now beside what it shows;
    /// `None` if it knows of no such steps.
    pub fn consumer_stages(&mut self, child: &NodeName, room: Option<u64>) {
        let Some(room) = room else {
            self.coalescing.children.remove(child);
            return;
        };
        let pace = self.coalescing.children.entry(child.clone()).or_default();
        (pace.room, pace.told) = (room, self.desk.now);
    }

    /// Queues that children got as one step, since the start.
    #[must_use]
    pub fn coalesced(&self) -> Coalesced {
        self.coalescing.done
    }

    /// It has the state to which the blocks that it was sent led it.
    pub(super) fn coalesced_arrived(&mut self, child: &NodeName) {
        let pace = self.coalescing.children.get_mut(child);
        if let Some(saved) = pace.and_then(|p| p.saves.take()) {
            self.coalescing.done.steps += 1;
            self.coalescing.done.saved += saved;
        }
    }

    /// A child was just filled. Unless its queue was sent as one step it is hidden, perhaps, until it
    /// has what came meanwhile, and attaching again would only make that more.
    pub(super) fn coalesce_later(&mut self, child: &NodeName) {
        let pace = self.coalescing.children.get_mut(child);
        if let Some(pace) = pace.filter(|p| p.saves.is_none()) {
            pace.deaf_until = Some(self.desk.now.after(DEAF));
        }
    }

    /// The newest whole state here, and where it ends; `None` if nobody can be led to it.
    fn end_of_queues(&self) -> Option<(SetNumber, LogPos)> {
        if matches!(self.cfg.role, Role::Relay) || self.cannot_seed().is_some() {
            return None;
        }
        let from = self.join_state();
        let step = self.log.steps().rev().find(|s| s.id.to == from)?;
        step.end.as_ref().map(|(_, end)| (from, *end))
    }

    /// The queue of a child whose next record stands at `cursor`, up to the state `from`, which ends
    /// at `end`: the state before it, and what is in it. `None` if it is short, or has something over
    /// which nobody is led.
    fn long_queue(
        &self,
        cursor: LogPos,
        (from, end): (SetNumber, LogPos),
    ) -> Option<(SetNumber, Queue)> {
        let capacity = self.log.ring().capacity();
        if end < cursor || end.since(cursor) < FLOOR.min(capacity / FLOOR_PART) {
            return None;
        }
        let line = line_of(&self.want.history, from)?;
        let shift = self.cfg.block_size.shift().into();
        let (mut before, mut queue) = (None, Queue::default());
        let whole = |s: &&crate::save::log::Step| s.end.as_ref().is_none_or(|(_, e)| *e > cursor);
        for s in self.log.steps().filter(whole).take_while(|s| s.id.to <= from) {
            let (header, its_end) = s.end.as_ref()?;
            let bare = header.flags.contains(SetFlags::BITMAP_ONLY);
            // The state at which a line begins is one to which others may have to go back.
            if bare || s.is_staged() || s.id.generation != line {
                return None;
            }
            before.get_or_insert(s.id.base);
            let left = s.bytes.min(its_end.since(cursor));
            queue.add((s.bytes, left), header.block_count, shift);
        }
        let before = before?;
        let kept = self.kept().any(|k| before < k && k <= from);
        (queue.is_long(capacity) && !kept).then_some((before, queue))
    }

    /// A child attached that goes on at `cursor`, with content of `over`: true if it is looked which
    /// blocks its queue has. [`Event::Planned`] tells what it gets.
    pub(super) fn coalesce_at_attach(
        &mut self,
        child: &NodeName,
        cursor: LogPos,
        over: Option<SetNumber>,
    ) -> bool {
        let newest = self.end_of_queues();
        let long = newest.and_then(|newest| self.long_queue(cursor, newest));
        let Some(pace) = self.coalescing.children.get_mut(child) else { return false };
        let called = std::mem::take(&mut pace.called);
        // What it was sent before it gave up.
        pace.saves = None;
        pace.deaf_until = (called && pace.room == 0).then(|| self.desk.now.after(DEAF));
        let (Some((before, queue)), Some((from, _))) = (long, newest) else { return false };
        let room = pace.room;
        pace.refused = queue.bytes;
        let over = over.filter(|o| *o <= before && self.knows_changes(*o).is_ok());
        let Some(over) = over.filter(|_| room > 0) else { return false };
        self.seed_out_begin(child, 0, from, Some(over), Some((from, String::new())));
        self.seed_outs.queued(child, Queued { queue, from, room, called });
        true
    }

    /// It is known how many blocks the queue of a child has: why it gets those, in words; `None` if
    /// it takes the sets, which it was told.
    pub(super) fn coalesce(
        &mut self,
        child: &NodeName,
        queued: Queued,
        union: Option<u64>,
    ) -> Option<String> {
        let Queued { queue, from, room, called } = queued;
        let shift = self.cfg.block_size.shift().into();
        let bytes = union.and_then(|u| queue.as_one(u, shift, room));
        let at = match self.log.locate(from, ChunkNumber(0)) {
            Located::At(pos) => Some(pos),
            _ => None,
        };
        if let (Some(bytes), Some(at)) = (bytes, at)
            && self.consumers.joins(child, from, at)
        {
            if let Some(pace) = self.coalescing.children.get_mut(child) {
                pace.saves = Some(queue.bytes - bytes);
            }
            self.commit.request();
            let what = if called { "that waited for it" } else { "that it lacked when it came" };
            let (all, sets, one) = (size(queue.bytes), queue.sets, size(bytes));
            return Some(format!("{all} in {sets} sets {what} are sent as {one} of blocks"));
        }
        self.seed_outs.remove(child);
        self.desk.event(Event::Planned { child: child.clone(), answer: Attached::Resume });
        self.desk.event(Event::Sendable);
        None
    }

    /// Looks at the queues of children that are connected, when there is more to send.
    pub(super) fn pump_coalescing(&mut self) {
        if self.coalescing.children.is_empty() || self.coalescing.asking.is_some() {
            return;
        }
        let Some(newest) = self.end_of_queues() else { return };
        if std::mem::replace(&mut self.coalescing.looked, newest.1) == newest.1 {
            return;
        }
        let mut children = std::mem::take(&mut self.coalescing.children);
        children.retain(|name, _| self.consumers.get(name).is_some());
        for (name, pace) in &mut children {
            let Some(cursor) = self.consumers.queue_at(name).filter(|_| !self.seed_outs.has(name))
            else {
                continue;
            };
            let Some((after, queue)) = self.long_queue(cursor, newest) else {
                pace.refused = 0;
                continue;
            };
            if pace.deaf_until.is_some_and(|until| self.desk.now < until) {
                continue;
            }
            if queue.bytes / 2 >= pace.refused && self.knows_changes(after).is_ok() {
                // The others have their turn when this is known.
                pace.refused = queue.bytes;
                self.coalescing.asking = Some(Asking { child: name.clone(), after });
                break;
            }
        }
        self.coalescing.children = children;
        if self.coalescing.asking.is_some() {
            self.changes_read(Reader::Queue);
        }
    }

    /// Which blocks a child's queue has is known.
    pub(super) fn coalesce_found(&mut self, epoch: u64, found: Result<BlockSet, RegionError>) {
        let Some(Asking { child, .. }) = self.coalescing.asking.take() else { return };
        self.coalescing.looked = LogPos(0);
        let union = match found {
            Ok(blocks) => blocks.count().0,
            Err(e) => {
                if epoch == self.durable.changes.epoch && epoch == self.want.changes.epoch {
                    self.changes_damaged(&e);
                }
                return;
            }
        };
        let cursor = self.consumers.queue_at(&child).filter(|_| !self.seed_outs.has(&child));
        let newest = self.end_of_queues();
        let queue = cursor.zip(newest).and_then(|(c, newest)| self.long_queue(c, newest));
        let Some((_, queue)) = queue else { return };
        let Some(pace) = self.coalescing.children.get_mut(&child) else { return };
        // One that could take nothing when it came, or came long ago, may be able to by now.
        let known = pace.room > 0 && self.desk.now < pace.told.after(DEAF);
        let room = if known { pace.room } else { u64::MAX };
        if queue.as_one(union, self.cfg.block_size.shift().into(), room).is_some() {
            pace.called = true;
            let (all, sets) = (size(queue.bytes), queue.sets);
            let reason = format!("its queue is sent as one step: {all} in {sets} sets wait for it");
            self.desk.event(Event::Again { child, reason });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn queue(sets: u64, blocks: u64) -> Queue {
        let mut q = Queue::default();
        for _ in 0..sets {
            q.add((blocks * 4096, blocks * 4096), blocks, 12);
        }
        q
    }

    #[test]
    fn a_queue_is_long_from_two_sets_and_the_floor_on() {
        let q = queue(4, 512);
        assert_eq!(q, Queue { bytes: 8 * MIB, sets: 4, blocks: 2048 });
        assert!(q.is_long(1 << 40) && q.is_long(MIB));
        assert!(!Queue { bytes: q.bytes - 1, ..q }.is_long(1 << 40));
        assert!(!Queue { sets: 1, ..q }.is_long(1 << 40), "one set has each block once");
        // A small save volume has a lower floor.
        let small = Queue { bytes: MIB, sets: 2, blocks: 256 };
        assert!(small.is_long(16 * MIB) && !small.is_long(17 * MIB));
    }

    #[test]
    fn it_pays_from_half_of_it_on() {
        let q = queue(4, 512);
        assert_eq!(q.as_one(1024, 12, u64::MAX), Some(4 * MIB));
        assert_eq!(q.as_one(1025, 12, u64::MAX), None);
        assert_eq!(q.as_one(512, 12, 2 * MIB), Some(2 * MIB));
        assert_eq!(q.as_one(512, 12, 2 * MIB - 1), None, "there is no room for it");
        assert_eq!(q.as_one(0, 12, u64::MAX), None);
        assert_eq!(q.as_one(u64::MAX, 12, u64::MAX), None);
    }

    #[test]
    fn blocks_are_as_compressible_as_those_of_the_queue() {
        let mut q = Queue::default();
        for _ in 0..4 {
            q.add((2 * MIB, 2 * MIB), 1024, 12);
        }
        assert_eq!(q.as_one(2048, 12, u64::MAX), Some(4 * MIB), "8 MiB as content");
        assert_eq!(q.as_one(2049, 12, u64::MAX), None);
        // Room is for content: it may turn out not to be compressible.
        assert_eq!(q.as_one(2048, 12, 8 * MIB - 1), None);
    }

    #[test]
    fn of_a_set_that_was_sent_in_part_the_rest_counts() {
        let mut q = queue(3, 512);
        q.add((2 * MIB, MIB), 512, 12);
        assert_eq!(q, Queue { bytes: 7 * MIB, sets: 4, blocks: 1792 });
    }

    #[test]
    fn zeroes_do_not_make_everything_else_small() {
        let mut q = queue(1, 1024);
        for _ in 0..20 {
            q.add((200, 200), 100_000, 12);
        }
        assert!(q.blocks < 1050, "{q:?}");
        assert_eq!(q.as_one(101_024, 12, u64::MAX), None);
    }
}
