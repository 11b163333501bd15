//! Records read back from the file, shared by all who need them.
//!
//! A child that has left the bounded ring of recent bodies behind is served from the file. Children
//! of one volume are mostly near one another, so what was read for one is kept for the others: whole
//! stretches of neighbouring records (spans), read ahead of whoever comes first. A span goes when
//! everybody has passed it, or when room runs out and nobody who is *on* the spans has it ahead.
//!
//! Room is bounded by a share of the volume's own and by what all volumes of the node may hold
//! together ([`Budget`]). Where only spans are left that others on them still need, the one in front
//! has patience for a moment ([`Want::Wait`]), so that they stay together; then the hindmost loses
//! its span, is off, and reads for itself from there on. So a slow one costs the others that moment,
//! once for each span, and no more. Whoever has nobody behind it reads at once, room or not: a stream
//! gets slower, it does not stop.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;

use super::log::{Log, RecordMeta};
use super::record::{HEADER_LEN, RecordError, RecordHeader};
use crate::units::LogPos;

/// Neighbouring records are read together up to this many bytes.
pub const SPAN_BYTES: u64 = 1 << 20;
/// Spans read ahead of the one that is needed.
const AHEAD: usize = 3;

/// What came of wanting records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Want {
    /// These reads are to be made; none if what is wanted is under way already.
    Read(Vec<SpanRead>),
    /// There is no room but for those close behind: ask again when they went on, or without patience.
    Wait,
}

/// What several volumes may hold together, in bytes.
#[derive(Debug)]
pub struct Budget {
    limit: u64,
    used: AtomicU64,
}

impl Budget {
    /// Room for `limit` bytes.
    #[must_use]
    pub fn new(limit: u64) -> Arc<Self> {
        Arc::new(Self { limit, used: AtomicU64::new(0) })
    }

    /// Bytes held now. Above the limit only by what could not be done without.
    #[must_use]
    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    fn fits(&self, len: u64) -> bool {
        self.used().saturating_add(len) <= self.limit
    }
}

/// A read of the file: from the header of the record at `pos` to the end of the record before `end`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpanRead {
    /// First record.
    pub pos: LogPos,
    /// Behind the last record, with its padding.
    pub end: LogPos,
    /// Bytes to read: without the last padding.
    pub len: usize,
}

#[derive(Debug)]
struct Span {
    end: LogPos,
    /// `None` while it is being read.
    bytes: Option<Bytes>,
}

/// The spans of one volume.
#[derive(Debug)]
pub struct Readback {
    spans: BTreeMap<LogPos, Span>,
    held: u64,
    limit: u64,
    budget: Arc<Budget>,
    reads: u64,
}

impl Drop for Readback {
    fn drop(&mut self) {
        self.clear();
    }
}

impl Readback {
    /// Nothing yet; at most `limit` bytes, out of `budget`.
    #[must_use]
    pub fn new(limit: u64, budget: Arc<Budget>) -> Self {
        Self { spans: BTreeMap::new(), held: 0, limit, budget, reads: 0 }
    }

    /// Reads asked for so far.
    #[must_use]
    pub fn reads(&self) -> u64 {
        self.reads
    }

    /// Bytes held, or being read.
    #[must_use]
    pub fn held(&self) -> u64 {
        self.held
    }

    fn span_of(&self, pos: LogPos) -> Option<(LogPos, &Span)> {
        let (start, s) = self.spans.range(..=pos).next_back()?;
        (s.end > pos).then_some((*start, s))
    }

    /// The body of a record, if it was read.
    #[must_use]
    pub fn body(&self, r: &RecordMeta) -> Option<Bytes> {
        let (start, s) = self.span_of(r.pos)?;
        let from = usize::try_from(r.pos.since(start)).ok()? + HEADER_LEN;
        let bytes = s.bytes.as_ref()?;
        let to = from + r.body_len as usize;
        (to <= bytes.len()).then(|| bytes.slice(from..to))
    }

    /// Someone stands before the record at `pos`, and its body is nowhere in memory. The reads that
    /// this makes necessary, and some ahead of it: nothing at or behind `limit` is read. `readers`
    /// are the places of all who read; without `patient` room is made at their cost.
    pub fn want(
        &mut self,
        log: &Log,
        pos: LogPos,
        limit: LogPos,
        readers: &[LogPos],
        patient: bool,
    ) -> Want {
        // Those on the spans; one that is off reads for itself.
        let hindmost = readers.iter().filter(|p| self.span_of(**p).is_some()).min().copied();
        let mut reads = Vec::new();
        let mut at = pos;
        for ahead in 0..=AHEAD {
            let Some(r) = log.record_from(at).filter(|r| r.end() <= limit) else { break };
            if r.cached.is_some() {
                break;
            }
            if let Some((_, s)) = self.span_of(r.pos) {
                at = s.end;
                continue;
            }
            let read = self.span_at(log, r, limit);
            let len = read.end.since(read.pos);
            let mut room = self.make_room(len, hindmost);
            if !room && ahead == 0 && hindmost.is_some_and(|h| h < pos) {
                if patient {
                    return Want::Wait;
                }
                room = self.make_room(len, None);
            }
            if ahead > 0 && !room {
                break;
            }
            self.enter(read);
            at = read.end;
            reads.push(read);
        }
        Want::Read(reads)
    }

    /// As many neighbouring records as go into one read, one at least.
    fn span_at(&self, log: &Log, first: &RecordMeta, limit: LogPos) -> SpanRead {
        let (mut end, mut len) = (first.pos, 0);
        let until = self.spans.range(first.pos..).next().map_or(limit, |(p, _)| limit.min(*p));
        for r in log.records_from(first.pos) {
            let inside = r.pos == end && r.end() <= until && r.cached.is_none();
            let wraps = log.ring().offset(r.pos) < log.ring().offset(first.pos);
            if len > 0 && (!inside || wraps || r.end().since(first.pos) > SPAN_BYTES) {
                break;
            }
            end = r.end();
            len = usize::try_from(r.pos.since(first.pos)).unwrap_or(0)
                + HEADER_LEN
                + r.body_len as usize;
        }
        SpanRead { pos: first.pos, end, len }
    }

    fn enter(&mut self, read: SpanRead) {
        let len = read.end.since(read.pos);
        self.reads += 1;
        self.held += len;
        self.budget.used.fetch_add(len, Ordering::Relaxed);
        let span = Span { end: read.end, bytes: None };
        self.spans.insert(read.pos, span);
    }

    /// Drops spans until `len` bytes fit; false if they do not. Kept are those that somebody at
    /// `hindmost` or in front of it may still come to.
    fn make_room(&mut self, len: u64, hindmost: Option<LogPos>) -> bool {
        while self.held + len > self.limit || !self.budget.fits(len) {
            let keep = |s: &Span| s.bytes.is_none() || hindmost.is_some_and(|h| s.end > h);
            let Some((start, _)) = self.spans.iter().find(|(_, s)| !keep(s)) else { return false };
            let start = *start;
            self.remove(start);
        }
        true
    }

    fn remove(&mut self, start: LogPos) -> bool {
        let Some(s) = self.spans.remove(&start) else { return false };
        let len = s.end.since(start);
        self.held -= len;
        self.budget.used.fetch_sub(len, Ordering::Relaxed);
        true
    }

    /// A read ended. Every record that the log has there is proved to be the one that belongs there.
    /// False if nobody waits for it any more.
    ///
    /// # Errors
    /// The first record that is damaged, and how: nothing of the span is kept.
    pub fn done(
        &mut self,
        log: &Log,
        read: SpanRead,
        bytes: Bytes,
    ) -> Result<bool, (LogPos, RecordError)> {
        let waits = |s: &Span| s.bytes.is_none() && s.end == read.end;
        if !self.spans.get(&read.pos).is_some_and(waits) {
            return Ok(false);
        }
        let inside = log.records_from(read.pos).take_while(|r| r.pos < read.end);
        for r in inside {
            let from = usize::try_from(r.pos.since(read.pos)).unwrap_or(usize::MAX);
            let head = bytes.get(from..).unwrap_or_default();
            let found = RecordHeader::decode(head, log.volume(), r.pos);
            let fits = found.and_then(|h| match h.body_len == r.body_len {
                true => Ok(()),
                false => Err(RecordError::Field("length")),
            });
            if let Err(e) = fits {
                self.remove(read.pos);
                return Err((r.pos, e));
            }
        }
        if let Some(s) = self.spans.get_mut(&read.pos) {
            s.bytes = Some(bytes);
        }
        Ok(true)
    }

    /// Nobody needs what lies before `pos` any more.
    pub fn passed(&mut self, pos: LogPos) {
        while let Some(e) = self.spans.first_entry().filter(|e| e.get().end <= pos) {
            let start = *e.key();
            self.remove(start);
        }
    }

    /// Drops everything, and what is being read.
    pub fn clear(&mut self) {
        self.passed(LogPos(u64::MAX));
    }
}

#[cfg(test)]
mod tests {
    use rcp::proto::ids::{ChunkNumber, SetNumber, VolumeId};

    use super::super::record::RecordKind;
    use super::super::ring::Ring;
    use super::*;

    const VOLUME: VolumeId = VolumeId([7; 16]);

    /// A log of `n` records of `body` bytes from position `at` on that keeps none of them, and its
    /// file.
    fn log_at(at: u64, capacity: u64, n: u32, body: usize) -> (Log, Vec<u8>) {
        let ring = Ring::new(capacity).expect("large enough");
        let mut log = Log::new(ring, VOLUME, LogPos(at), SetNumber(0), 0);
        let mut file = vec![0; usize::try_from(capacity).expect("small")];
        for i in 0..n {
            let data = Bytes::from(vec![u8::try_from(i).expect("small"); body]);
            let a =
                log.append(RecordKind::Chunk, SetNumber(1), ChunkNumber(i), &data).expect("room");
            for (pos, offset, pieces) in a.writes {
                let all = pieces.concat();
                let at = usize::try_from(offset).expect("small");
                file[at..at + all.len()].copy_from_slice(&all);
                log.note_written(pos);
            }
        }
        // A body is let go of once it is in the file and another one came.
        let last = log.append(RecordKind::SetEnd, SetNumber(1), ChunkNumber(n), &Bytes::new());
        last.expect("room");
        (log, file)
    }

    fn log(capacity: u64, n: u32, body: usize) -> (Log, Vec<u8>) {
        log_at(0, capacity, n, body)
    }

    fn bytes(log: &Log, file: &[u8], r: SpanRead) -> Bytes {
        let at = usize::try_from(log.ring().offset(r.pos)).expect("small");
        Bytes::copy_from_slice(&file[at..at + r.len])
    }

    fn want(b: &mut Readback, log: &Log, pos: LogPos, limit: LogPos) -> Vec<SpanRead> {
        match b.want(log, pos, limit, &[pos], true) {
            Want::Read(r) => r,
            Want::Wait => panic!("alone, and yet told to wait"),
        }
    }

    fn records(log: &Log) -> Vec<RecordMeta> {
        log.records_from(LogPos(0)).filter(|r| r.kind == RecordKind::Chunk).cloned().collect()
    }

    #[test]
    fn neighbours_are_read_once_and_serve_everybody() {
        let (log, file) = log(1 << 20, 10, 1000);
        let budget = Budget::new(1 << 20);
        let mut b = Readback::new(1 << 20, budget.clone());
        let reads = want(&mut b, &log, LogPos(0), log.head());
        assert_eq!(reads.len(), 1, "all fit into one read: {reads:?}");
        assert_eq!(want(&mut b, &log, LogPos(0), log.head()), [], "it is under way");
        assert_eq!(b.body(&records(&log)[0]), None);
        assert_eq!(b.done(&log, reads[0], bytes(&log, &file, reads[0])), Ok(true));
        for r in records(&log) {
            let want = vec![u8::try_from(r.chunk.0).expect("small"); 1000];
            assert_eq!(b.body(&r).expect("read"), want);
        }
        assert_eq!((b.reads(), b.held()), (1, budget.used()));
        b.passed(reads[0].end);
        assert_eq!((b.held(), budget.used()), (0, 0));
    }

    #[test]
    fn reads_stop_at_the_end_of_the_file_and_at_the_limit() {
        let (log, _) = log_at((1 << 20) - (270 << 10), 1 << 20, 6, 90_000);
        let all = records(&log);
        let wrapped = all.iter().position(|r| r.pos.0 >= 1 << 20).expect("it wraps");
        let mut b = Readback::new(8 << 20, Budget::new(8 << 20));
        let reads = want(&mut b, &log, all[wrapped - 2].pos, log.head());
        assert_eq!(reads[0].end, all[wrapped - 1].end());
        assert_eq!(reads[1].pos, all[wrapped].pos);
        let mut b = Readback::new(8 << 20, Budget::new(8 << 20));
        let reads = want(&mut b, &log, all[0].pos, all[3].pos);
        assert_eq!((reads.len(), reads[0].end), (1, all[2].end()));
    }

    #[test]
    fn one_in_front_waits_a_moment_for_those_close_behind() {
        let (log, file) = log(8 << 20, 6, 1 << 20);
        let all = records(&log);
        let one = all[0].end().since(all[0].pos);
        let budget = Budget::new(10 * one);
        let mut b = Readback::new(2 * one, budget.clone());
        let first = want(&mut b, &log, all[0].pos, log.head());
        assert_eq!(first.len(), 2, "the limit bounds reading ahead: {first:?}");
        for r in &first {
            b.done(&log, *r, bytes(&log, &file, *r)).expect("sound");
        }
        let readers = [all[0].pos, all[2].pos];
        assert_eq!(b.want(&log, all[2].pos, log.head(), &readers, true), Want::Wait);
        // The one behind went on: what it has passed makes room.
        let readers = [all[1].pos, all[2].pos];
        let Want::Read(next) = b.want(&log, all[2].pos, log.head(), &readers, true) else {
            panic!("there was room");
        };
        assert_eq!((next.len(), next[0].pos), (1, all[2].pos));
        b.done(&log, next[0], bytes(&log, &file, next[0])).expect("sound");
        assert!(b.body(&all[0]).is_none() && b.body(&all[1]).is_some());
        // It does not go on: it loses its span, is off, and reads for itself; nobody waits for it.
        let readers = [all[1].pos, all[3].pos];
        assert_eq!(b.want(&log, all[3].pos, log.head(), &readers, true), Want::Wait);
        let Want::Read(next) = b.want(&log, all[3].pos, log.head(), &readers, false) else {
            panic!("without patience");
        };
        assert_eq!(next[0].pos, all[3].pos);
        assert!(b.body(&all[1]).is_none());
        assert_eq!(b.held(), 2 * one);
        b.done(&log, next[0], bytes(&log, &file, next[0])).expect("sound");
        let own = b.want(&log, all[1].pos, log.head(), &readers, true);
        assert!(matches!(own, Want::Read(r) if r[0].pos == all[1].pos), "room or not");
        // What other volumes hold counts too.
        budget.used.fetch_add(10 * one, Ordering::Relaxed);
        let mut other = Readback::new(8 * one, budget.clone());
        assert_eq!(want(&mut other, &log, all[0].pos, log.head()).len(), 1);
        drop(other);
        drop(b);
        assert_eq!(budget.used(), 10 * one);
    }

    #[test]
    fn damage_is_found_and_named() {
        let (log, file) = log(1 << 20, 4, 1000);
        let all = records(&log);
        let mut b = Readback::new(1 << 20, Budget::new(1 << 20));
        let read = want(&mut b, &log, LogPos(0), log.head())[0];
        let mut bad = bytes(&log, &file, read).to_vec();
        bad[usize::try_from(all[2].pos.0).expect("small") + 9] ^= 1;
        let found = b.done(&log, read, Bytes::from(bad.clone())).expect_err("damaged");
        assert_eq!(found.0, all[2].pos);
        assert_eq!((b.held(), b.body(&all[0])), (0, None));
        // Given up meanwhile: its end says nothing.
        let read = want(&mut b, &log, LogPos(0), log.head())[0];
        b.clear();
        assert_eq!(b.done(&log, read, Bytes::from(bad)), Ok(false));
        let again = want(&mut b, &log, LogPos(0), log.head())[0];
        let short = bytes(&log, &file, again).slice(..100);
        assert!(b.done(&log, again, short).is_err(), "cut short");
    }
}
