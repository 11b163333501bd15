//! Records at their places in a ring.

use rcp::proto::ids::ChunkNumber;
use volmcast::save::{RecordHeader, RecordKind};
use volmcast::units::LogPos;

use super::super::super::node::VOLUME;
use super::story::Entry;

/// Bytes of a record's header, and what records are aligned to.
const HEADER: u64 = 64;

/// A ring with records.
pub(super) struct Tape {
    pub bytes: Vec<u8>,
    pub capacity: u64,
    /// Where the first record begins, or a pad before it.
    pub tail: LogPos,
    /// Where each record begins and ends: between two of them may be a pad.
    pub places: Vec<(LogPos, LogPos)>,
    end: LogPos,
}

/// What a record takes.
fn length(e: &Entry) -> u64 {
    (HEADER + e.body.len() as u64).next_multiple_of(HEADER)
}

/// Bytes of records, without pads.
pub(super) fn length_of(entries: &[Entry]) -> u64 {
    entries.iter().map(length).sum()
}

impl Tape {
    /// Nothing, from `tail` on.
    fn new(tail: LogPos, capacity: u64) -> Self {
        let bytes = vec![0; usize::try_from(capacity).unwrap_or(0)];
        Self { bytes, capacity, tail, places: Vec::new(), end: tail }
    }

    /// These records, from `tail` on.
    pub(super) fn of(entries: &[Entry], tail: LogPos, capacity: u64) -> Self {
        let mut t = Self::new(tail, capacity);
        for e in entries {
            t.add(e);
        }
        t
    }

    /// The least capacity that holds the records, if there is one that they fill to the last byte.
    pub(super) fn filled(entries: &[Entry], tail: LogPos) -> Option<Self> {
        let mut capacity = length_of(entries).max(4096);
        for _ in 0..8 {
            let t = Self::of(entries, tail, capacity);
            let used = t.end.since(tail);
            if used == capacity {
                return Some(t);
            }
            capacity = used.max(4096);
        }
        None
    }

    /// Behind the last record.
    pub(super) fn end(&self) -> LogPos {
        self.end
    }

    /// Where in the file a position is.
    pub(super) fn offset(&self, pos: LogPos) -> usize {
        usize::try_from(pos.0 % self.capacity).unwrap_or(0)
    }

    fn until_wrap(&self) -> u64 {
        self.capacity - self.end.0 % self.capacity
    }

    /// So little is left of the file that a record may be too long for it.
    pub(super) fn is_near_wrap(&self) -> bool {
        self.until_wrap() < 1024
    }

    fn put(&mut self, pos: LogPos, bytes: &[u8]) {
        let at = self.offset(pos);
        if let Some(to) = self.bytes.get_mut(at..at + bytes.len()) {
            to.copy_from_slice(bytes);
        }
    }

    /// What is left of the file is padded.
    pub(super) fn pad(&mut self, like: &Entry) {
        let left = self.until_wrap();
        let h = RecordHeader {
            kind: RecordKind::Pad,
            body_len: u32::try_from(left - HEADER).unwrap_or(0),
            pos: self.end,
            volume: VOLUME,
            to: like.to,
            chunk: ChunkNumber(like.number),
        };
        self.put(self.end, &h.encode());
        self.end = self.end.plus(left);
    }

    fn add(&mut self, e: &Entry) {
        if length(e) > self.until_wrap() {
            self.pad(e);
        }
        let begin = self.end;
        self.write(e, begin);
        self.end = begin.plus(length(e));
        self.places.push((begin, self.end));
    }

    /// Writes a record of a position where that is.
    fn write(&mut self, e: &Entry, pos: LogPos) {
        let h = RecordHeader {
            kind: if e.is_end { RecordKind::SetEnd } else { RecordKind::Chunk },
            body_len: u32::try_from(e.body.len()).unwrap_or(0),
            pos,
            volume: VOLUME,
            to: e.to,
            chunk: ChunkNumber(e.number),
        };
        self.put(pos, &h.encode());
        self.put(pos.plus(HEADER), &e.body);
    }

    /// Behind the last record stands what the round before left there.
    pub(super) fn leave_old(&mut self, e: &Entry) {
        let free = self.end.since(self.tail) + length(e) <= self.capacity;
        if let Some(before) = self.end.0.checked_sub(self.capacity).filter(|_| free)
            && length(e) <= self.until_wrap()
        {
            self.write(e, LogPos(before));
        }
    }

    /// A bit of a record rots: `bit` counts from its beginning.
    pub(super) fn flip(&mut self, record: usize, bit: u64) {
        let (from, end) = self.places[record];
        let at = self.offset(from.plus(bit / 8 % end.since(from).max(1)));
        if let Some(b) = self.bytes.get_mut(at) {
            *b ^= 1 << (bit % 8);
        }
    }
}
