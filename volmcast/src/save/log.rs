//! What the save volume holds, in memory: records in order, steps, free room, recent bodies.
//!
//! Invariants: `tail <= head`; nothing between the durable tail and the head is ever overwritten;
//! records are contiguous but for padding at the wrap; a step's chunks come before its set header.
//! Space is given back record by record from the tail, and may be overwritten only once the mailbox
//! names the new tail and no write to it is under way.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use rcp::proto::delta::{ChunkListSum, SetHeader, StepId};
use rcp::proto::ids::{ChunkNumber, SetNumber, VolumeId};

use super::record::{RecordHeader, RecordKind};
use super::ring::Ring;
use crate::units::LogPos;

/// One record in the ring.
#[derive(Clone, Debug)]
pub struct RecordMeta {
    /// Where its header begins.
    pub pos: LogPos,
    /// Chunk or set header.
    pub kind: RecordKind,
    /// Bytes of body.
    pub body_len: u32,
    /// The state its step leads to.
    pub to: SetNumber,
    /// Which chunk; the number of chunks for a set header.
    pub chunk: ChunkNumber,
    /// The body, while it is recent.
    pub cached: Option<Bytes>,
}

impl RecordMeta {
    /// Position just behind the record.
    #[must_use]
    pub fn end(&self) -> LogPos {
        self.pos.plus(Ring::record_len(u64::from(self.body_len)))
    }
}

/// One step (a delta set, usually) in the ring, perhaps still arriving.
#[derive(Clone, Debug)]
pub struct Step {
    /// Its identity.
    pub id: StepId,
    /// Position of its first record.
    pub first: LogPos,
    /// Sum over the chunks that are in the ring.
    pub sum: ChunkListSum,
    /// How many chunks are in the ring, counted from 0 without holes.
    pub chunks: u32,
    /// Bytes of its records.
    pub bytes: u64,
    /// Its set header and the position behind it, once that is in the ring.
    pub end: Option<(SetHeader, LogPos)>,
}

/// Attempts from here on are of steps that were staged here, of the blocks of a catch-up: no primary
/// counts that far. What such a step leads to is no state by itself, and it is never passed on.
pub const STAGED: u32 = 1 << 31;

impl Step {
    /// It was made here, of the blocks of a catch-up.
    #[must_use]
    pub fn is_staged(&self) -> bool {
        self.id.attempt.0 >= STAGED
    }
}

/// Where a consumer continues.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Located {
    /// At this position (which may be the head: nothing to send yet).
    At(LogPos),
    /// The consumer holds more than this log does.
    Ahead,
    /// What it would need next is no longer here.
    Gone,
}

/// A record was placed; these writes put it in the file.
#[derive(Debug)]
pub struct Appended {
    /// Where it stands.
    pub pos: LogPos,
    /// Position behind it.
    pub end: LogPos,
    /// What to tell [`Log::note_written`] when done, the file offset, and the pieces; a pad before
    /// the wrap is a write of its own.
    pub writes: Vec<(LogPos, u64, Vec<Bytes>)>,
}

/// Why a record could not be placed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// Not enough room until consumers advance.
    #[error("the save volume is full: {need} bytes needed, {free} free")]
    Full {
        /// Bytes the record takes, with padding.
        need: u64,
        /// Bytes that may be written.
        free: u64,
    },
}

/// The ring's contents.
#[derive(Debug)]
pub struct Log {
    ring: Ring,
    volume: VolumeId,
    tail: LogPos,
    tail_durable: LogPos,
    head: LogPos,
    /// State that holds just before the oldest complete step.
    base: SetNumber,
    records: VecDeque<RecordMeta>,
    steps: VecDeque<Step>,
    /// Appended but not yet written: start → end.
    unwritten: BTreeMap<LogPos, LogPos>,
    cached: u64,
    cache_limit: u64,
    /// First record (by position) that may still have its body cached.
    cache_from: LogPos,
}

impl Log {
    /// An empty log that continues at `at`, holding nothing after state `base`.
    #[must_use]
    pub fn new(
        ring: Ring,
        volume: VolumeId,
        at: LogPos,
        base: SetNumber,
        cache_limit: u64,
    ) -> Self {
        Self {
            ring,
            volume,
            tail: at,
            tail_durable: at,
            head: at,
            base,
            records: VecDeque::new(),
            steps: VecDeque::new(),
            unwritten: BTreeMap::new(),
            cached: 0,
            cache_limit,
            cache_from: at,
        }
    }

    /// The ring's arithmetic.
    #[must_use]
    pub fn ring(&self) -> Ring {
        self.ring
    }

    /// The volume its records belong to.
    #[must_use]
    pub fn volume(&self) -> VolumeId {
        self.volume
    }

    /// Oldest position kept.
    #[must_use]
    pub fn tail(&self) -> LogPos {
        self.tail
    }

    /// Position of the next record.
    #[must_use]
    pub fn head(&self) -> LogPos {
        self.head
    }

    /// State before the oldest step that is kept from its beginning.
    #[must_use]
    pub fn base(&self) -> SetNumber {
        self.steps.front().map_or(self.base, |s| s.id.base)
    }

    /// State that the last complete step leads to.
    #[must_use]
    pub fn state(&self) -> SetNumber {
        self.steps.iter().rev().find(|s| s.end.is_some()).map_or(self.base, |s| s.id.to)
    }

    /// The step that is still arriving, if any.
    #[must_use]
    pub fn open_step(&self) -> Option<&Step> {
        self.steps.back().filter(|s| s.end.is_none())
    }

    /// Steps in the ring, oldest first.
    pub fn steps(&self) -> impl DoubleEndedIterator<Item = &Step> {
        self.steps.iter()
    }

    /// Bytes in use, as the ring sees it. Records that were given up count until their writes have
    /// ended: what came later to the same place could otherwise be overwritten by them.
    #[must_use]
    pub fn used(&self) -> u64 {
        let tail = if rcp::planted!(RoomTooEarly) { self.tail } else { self.tail_durable };
        self.head.since(tail.min(self.written()))
    }

    /// Bytes that may be written now.
    #[must_use]
    pub fn free(&self) -> u64 {
        // With an older mailbox slot its tail may be more than a round behind what was written last.
        self.ring.capacity().saturating_sub(self.used())
    }

    /// Bytes that become free once the mailbox names the present tail.
    #[must_use]
    pub fn reclaimable(&self) -> u64 {
        self.tail.since(self.tail_durable)
    }

    /// Everything before this position has been written to the file (not: synced).
    #[must_use]
    pub fn written(&self) -> LogPos {
        self.unwritten.keys().next().copied().unwrap_or(self.head)
    }

    /// A record's writes have completed.
    pub fn note_written(&mut self, pos: LogPos) {
        self.unwritten.remove(&pos);
    }

    /// The mailbox now names `tail`: what lies before it may be overwritten.
    pub fn note_tail_durable(&mut self, tail: LogPos) {
        self.tail_durable = self.tail_durable.max(tail.min(self.tail));
    }

    /// Places a record. `cache` keeps its body in memory for consumers near the head.
    ///
    /// # Errors
    /// [`AppendError::Full`] when it would overwrite what is still needed.
    pub fn append(
        &mut self,
        kind: RecordKind,
        to: SetNumber,
        chunk: ChunkNumber,
        body: &Bytes,
    ) -> Result<Appended, AppendError> {
        let body_len = u32::try_from(body.len()).unwrap_or(u32::MAX);
        let len = Ring::record_len(u64::from(body_len));
        let (pos, pad) = self.ring.place(self.head, len);
        let need = self.ring.completed(pos.plus(len)).since(self.head);
        if need > self.free() {
            return Err(AppendError::Full { need, free: self.free() });
        }
        let mut writes = Vec::with_capacity(2);
        if pad > 0 {
            let body_len = u32::try_from(pad - super::record::HEADER_LEN as u64).unwrap_or(0);
            let h = RecordHeader {
                kind: RecordKind::Pad,
                body_len,
                pos: self.head,
                volume: self.volume,
                to,
                chunk,
            };
            writes.push((
                self.head,
                self.ring.offset(self.head),
                vec![Bytes::copy_from_slice(&h.encode())],
            ));
            self.unwritten.insert(self.head, pos);
        }
        let h = RecordHeader { kind, body_len, pos, volume: self.volume, to, chunk };
        writes.push((
            pos,
            self.ring.offset(pos),
            vec![Bytes::copy_from_slice(&h.encode()), body.clone()],
        ));
        let end = pos.plus(len);
        self.unwritten.insert(pos, end);
        self.head = end;
        self.push_record(RecordMeta { pos, kind, body_len, to, chunk, cached: Some(body.clone()) });
        Ok(Appended { pos, end, writes })
    }

    fn push_record(&mut self, r: RecordMeta) {
        if let Some(b) = &r.cached {
            self.cached += b.len() as u64;
        }
        self.records.push_back(r);
        self.evict();
    }

    fn evict(&mut self) {
        if self.cached <= self.cache_limit {
            return;
        }
        let (from, written) = (self.index_of(self.cache_from), self.written());
        for r in self.records.range_mut(from..) {
            // What is not in the file yet can be had from nowhere else.
            if self.cached <= self.cache_limit || r.pos >= written {
                break;
            }
            if let Some(b) = r.cached.take() {
                self.cached -= b.len() as u64;
            }
            self.cache_from = r.end();
        }
    }

    /// The open step if it is this one, else a new one that begins at `pos`.
    fn step_at(&mut self, pos: LogPos, id: StepId) -> Option<&mut Step> {
        if self.open_step().is_none_or(|s| s.id != id) {
            let sum = ChunkListSum::new();
            self.steps.push_back(Step { id, first: pos, sum, chunks: 0, bytes: 0, end: None });
        }
        self.steps.back_mut()
    }

    /// Enters a chunk into the step it belongs to, opening the step with its first chunk.
    pub fn enter_chunk(
        &mut self,
        pos: LogPos,
        id: StepId,
        number: ChunkNumber,
        crc: u32,
        bytes: u64,
    ) {
        if let Some(s) = self.step_at(pos, id) {
            // A number that does not follow leaves the sum short, and the set header will not fit.
            let _ = s.sum.add(number, crc);
            s.chunks = s.chunks.max(number.0 + 1);
            s.bytes += bytes;
        }
    }

    /// Closes the open step with its header; a step without chunks is opened and closed at once.
    pub fn enter_end(&mut self, pos: LogPos, end: LogPos, header: SetHeader) {
        if let Some(s) = self.step_at(pos, header.step) {
            s.bytes += end.since(pos);
            s.end = Some((header, end));
        }
    }

    /// Enters a record found by a scan of the file.
    pub fn enter_scanned(&mut self, meta: RecordMeta) {
        self.head = meta.end();
        self.records.push_back(meta);
    }

    /// The scan met the end of the file: the next record stands at `pos`.
    pub fn skip_to(&mut self, pos: LogPos) {
        self.head = pos;
    }

    fn index_of(&self, pos: LogPos) -> usize {
        self.records.partition_point(|r| r.pos < pos)
    }

    /// The first record at or behind `pos`.
    #[must_use]
    pub fn record_from(&self, pos: LogPos) -> Option<&RecordMeta> {
        self.records.get(self.index_of(pos))
    }

    /// Records from `pos` on.
    pub fn records_from(&self, pos: LogPos) -> impl Iterator<Item = &RecordMeta> {
        self.records.range(self.index_of(pos)..)
    }

    /// How many complete steps end behind `from`, and no further than `to`.
    #[must_use]
    pub fn steps_between(&self, from: LogPos, to: LogPos) -> u64 {
        let ends_by = |pos: LogPos| {
            self.steps.partition_point(|s| s.end.as_ref().is_some_and(|(_, end)| *end <= pos))
        };
        (ends_by(to) - ends_by(from).min(ends_by(to))) as u64
    }

    /// The step that leads to `to`, if it is in the ring.
    #[must_use]
    pub fn step_to(&self, to: SetNumber) -> Option<&Step> {
        self.steps.iter().find(|s| s.id.to == to)
    }

    /// Where a consumer continues that holds everything up to `state` and, of the step after it,
    /// the chunks before `next`.
    #[must_use]
    pub fn locate(&self, state: SetNumber, next: ChunkNumber) -> Located {
        let Some(step) = self.steps.iter().find(|s| s.id.base <= state && state < s.id.to) else {
            return match state.cmp(&self.state()) {
                std::cmp::Ordering::Equal => Located::At(self.head),
                std::cmp::Ordering::Greater => Located::Ahead,
                std::cmp::Ordering::Less => Located::Gone,
            };
        };
        if step.id.base < state && next.0 > 0 {
            return Located::Gone;
        }
        // Of one whose first chunks were given back before a restart, only the header knows how many.
        let chunks = step.end.as_ref().map_or(step.chunks, |(header, _)| header.chunk_count);
        if next.0 > chunks {
            return Located::Ahead;
        }
        let found = self
            .records_from(step.first)
            .take_while(|r| r.to == step.id.to)
            .find(|r| r.kind == RecordKind::SetEnd || r.chunk >= next);
        match found {
            // A set header carries the number of its chunks: it comes next only after all of them.
            Some(r) if r.chunk == next => Located::At(r.pos),
            None if next.0 == step.chunks && step.end.is_none() => Located::At(self.head),
            _ => Located::Gone,
        }
    }

    /// Gives back everything before `pos`; the room may be used once the mailbox says so.
    pub fn trim(&mut self, pos: LogPos) {
        let pos = pos.min(self.head);
        while let Some(r) = self.records.front() {
            if r.end() > pos {
                break;
            }
            if let Some(r) = self.records.pop_front() {
                self.cached -= r.cached.as_ref().map_or(0, |b| b.len() as u64);
            }
        }
        self.tail = self.records.front().map_or(pos.max(self.tail), |r| r.pos.max(self.tail));
        while let Some(s) = self.steps.front() {
            match &s.end {
                Some((h, end)) if *end <= self.tail => {
                    self.base = h.step.to;
                    self.steps.pop_front();
                }
                _ => break,
            }
        }
    }

    /// Drops everything and continues with nothing after state `base`. Positions go on rising, so
    /// that nothing left in the file is ever taken for a live record.
    pub fn reset(&mut self, base: SetNumber) {
        self.records.clear();
        self.steps.clear();
        self.cached = 0;
        self.tail = self.head;
        self.cache_from = self.head;
        self.base = base;
    }

    /// Drops the records of the open step (an abandoned attempt) and begins behind them.
    pub fn abandon_open_step(&mut self) {
        let Some(first) = self.open_step().map(|s| s.first) else { return };
        let state = self.state();
        self.steps.pop_back();
        while self.records.back().is_some_and(|r| r.pos >= first) {
            if let Some(r) = self.records.pop_back() {
                self.cached -= r.cached.as_ref().map_or(0, |b| b.len() as u64);
            }
        }
        if self.records.is_empty() {
            self.tail = self.head;
            self.base = state;
        }
    }

    /// Drops every step after `state`, be it whole or not, and continues behind their records.
    pub fn drop_after(&mut self, state: SetNumber) {
        self.abandon_open_step();
        let before = self.steps.iter().take_while(|s| s.id.to <= state).count();
        let Some(first) = self.steps.get(before).map(|s| s.first) else { return };
        let left = self.steps.get(before).map_or(self.base, |s| s.id.base);
        self.steps.truncate(before);
        while self.records.back().is_some_and(|r| r.pos >= first) {
            if let Some(r) = self.records.pop_back() {
                self.cached -= r.cached.as_ref().map_or(0, |b| b.len() as u64);
            }
        }
        if self.records.is_empty() {
            self.tail = self.head;
            self.base = left;
        }
    }

    /// What is kept about room against what it is kept of.
    ///
    /// # Errors
    /// What does not fit, in words.
    pub(super) fn audit_room(&self, cached: u64) -> Result<(), String> {
        let mut end = LogPos(0);
        for (from, to) in &self.unwritten {
            if *from < end || to <= from || *to > self.head {
                return Err(format!("{from:?} to {to:?} is said to be written, behind {end:?}"));
            }
            end = *to;
        }
        let written = self.unwritten.first_key_value().map_or(self.head, |(from, _)| *from);
        let used = self.head.0 - self.tail_durable.min(written).0;
        if self.tail_durable > self.tail || used != self.used() || written != self.written() {
            return Err(format!("{} bytes are used, and it says {}", used, self.used()));
        }
        if cached != self.cached {
            return Err(format!("{cached} bytes are held, and it says {}", self.cached));
        }
        Ok(())
    }

    /// File offset at which the body of the record at `pos` begins.
    #[must_use]
    pub fn body_offset(&self, pos: LogPos) -> u64 {
        self.ring.offset(pos) + super::record::HEADER_LEN as u64
    }
}

#[cfg(test)]
mod tests {
    use rcp::proto::clock::Wall;
    use rcp::proto::delta::SetFlags;
    use rcp::proto::ids::{Attempt, Generation};

    use super::*;

    /// A log as a restart reads it, when the tail had come to the set header of the step 14 → 15: the
    /// eight chunks before it were given back.
    fn tail_at_a_header() -> Log {
        let ring = Ring::new(1 << 20).expect("a ring");
        let volume = VolumeId([7; 16]);
        let mut log = Log::new(ring, volume, LogPos(4096), SetNumber(14), 0);
        let step = StepId {
            volume,
            generation: Generation { counter: 1, id: [1; 16] },
            base: SetNumber(14),
            to: SetNumber(15),
            attempt: Attempt(15),
        };
        let pos = LogPos(4096);
        let chunk = ChunkNumber(8);
        let (kind, body_len, to) = (RecordKind::SetEnd, 192, step.to);
        let meta = RecordMeta { pos, kind, body_len, to, chunk, cached: None };
        let end = meta.end();
        log.enter_scanned(meta);
        let header = SetHeader {
            step,
            chunk_count: 8,
            block_count: 8,
            volume_blocks: 64,
            block_shift: 12,
            cut_time: Wall(0),
            flags: SetFlags::DIGEST_ABSENT,
            digest: [0; 32],
            chunk_list_crc: 0,
        };
        log.enter_end(pos, end, header);
        log
    }

    #[test]
    fn a_receiver_in_the_middle_of_what_was_given_back_is_not_ahead() {
        let log = tail_at_a_header();
        assert_eq!(log.locate(SetNumber(14), ChunkNumber(7)), Located::Gone);
        assert_eq!(log.locate(SetNumber(14), ChunkNumber(0)), Located::Gone);
        assert_eq!(log.locate(SetNumber(14), ChunkNumber(8)), Located::At(LogPos(4096)));
        assert_eq!(log.locate(SetNumber(14), ChunkNumber(9)), Located::Ahead);
        assert_eq!(log.locate(SetNumber(15), ChunkNumber(0)), Located::At(log.head()));
        assert_eq!(log.locate(SetNumber(16), ChunkNumber(0)), Located::Ahead);
    }
}
