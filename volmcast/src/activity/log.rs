//! The machine: activations in, page writes and syncs out, one group commit at a time.
//!
//! A *round* writes every page with a new activation, waits for all the writes, syncs, and only
//! then shows the extents to writers. What is asked meanwhile waits for the next round, so that a
//! page is never written twice at once.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;

use super::page::{self, BYTES, Bits, CELL, CELLS_PER_PAGE, ExtentIndex, Geometry, PAGE, PER_CELL};
use super::shared::ActiveMap;
use crate::bitmap::Run;
use crate::io::{FileId, Io, IoError, Op, Outcome, Tag};
use crate::units::{BlockCount, BlockIndex};

/// Most pages in one write request.
const PAGES_PER_WRITE: u32 = 64;

/// Orders activations: done when [`ActivityLog::durable`] has reached it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ActivationSeq(pub u64);

/// Answer to an activation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// All extents were durably active already.
    Done,
    /// Wait until this is durable.
    Wait(ActivationSeq),
}

/// The log could not be written; final until the volume is opened again and verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the activity log cannot be written ({0}): no further extent can be opened for writing")]
pub struct ActivityError(pub IoError);

#[derive(Debug)]
struct Round {
    upto: ActivationSeq,
    extents: Vec<ExtentIndex>,
    /// Writes emitted and not completed.
    writes: BTreeSet<Tag>,
    sync: Option<Tag>,
}

/// The activity log of one volume; see the module.
#[derive(Debug)]
pub struct ActivityLog {
    geometry: Geometry,
    map: Arc<ActiveMap>,
    /// What the file is to say, by cell.
    cells: Vec<Bits>,
    sequence: u64,
    /// Pages with something new in them that somebody waits for.
    urgent: BTreeSet<u32>,
    /// Pages with bits taken back: written along with others, or on `flush`.
    lazy: BTreeSet<u32>,
    /// Extents asked for since the last round began.
    asked: Vec<ExtentIndex>,
    asked_seq: ActivationSeq,
    durable: ActivationSeq,
    round: Option<Round>,
    outbox: VecDeque<Io>,
    next_tag: u64,
    failed: Option<ActivityError>,
}

/// What was found on disk.
#[derive(Debug)]
pub struct Recovered {
    /// The log. Its first round writes and syncs every page again, as what was read may be in the
    /// system's cache alone (after a killed process, or a sync that failed).
    pub log: ActivityLog,
    /// When that round is durable, the extents of `active` are active.
    pub ready: ActivationSeq,
    /// Blocks that may hold writes no finished set has, in rising order.
    pub active: Vec<Run>,
    /// Cells that did not verify, all of whose extents count as active. To be reported: a crash
    /// alone does not cause any. The first round writes them anew.
    pub damaged: Vec<u32>,
}

impl ActivityLog {
    /// A new log with nothing active. Usable for activations at once; its file is complete, and a
    /// volume may be called created, when the returned sequence is durable.
    #[must_use]
    pub fn create(geometry: Geometry) -> (Self, ActivationSeq) {
        let mut log = Self::empty(geometry);
        log.urgent = (0..geometry.pages()).collect();
        log.asked_seq.0 += 1;
        (log, ActivationSeq(1))
    }

    fn empty(geometry: Geometry) -> Self {
        Self {
            geometry,
            map: Arc::new(ActiveMap::new(geometry)),
            cells: vec![[0; BYTES]; geometry.cells() as usize],
            sequence: 0,
            urgent: BTreeSet::new(),
            lazy: BTreeSet::new(),
            asked: Vec::new(),
            asked_seq: ActivationSeq(0),
            durable: ActivationSeq(0),
            round: None,
            outbox: VecDeque::new(),
            next_tag: 0,
            failed: None,
        }
    }

    /// From the bytes of the file, of any length: what is missing counts as active.
    #[must_use]
    pub fn recover(geometry: Geometry, file: &[u8]) -> Recovered {
        let mut log = Self::empty(geometry);
        let mut damaged = Vec::new();
        for cell in 0..geometry.cells() {
            let at = cell as usize * CELL;
            let stored = file.get(at..at + CELL).unwrap_or_default();
            let bits = match page::decode(&geometry, cell, stored) {
                Some((sequence, bits)) => {
                    log.sequence = log.sequence.max(sequence);
                    bits
                }
                None => {
                    damaged.push(cell);
                    [0xff; BYTES]
                }
            };
            // Only extents that exist; the rest of the last cell is rewritten as zero.
            let first = u64::from(cell) * PER_CELL;
            for i in (0..PER_CELL.min(geometry.extents().saturating_sub(first))).filter(|i| {
                let i = *i as usize;
                bits[i / 8] >> (i % 8) & 1 == 1
            }) {
                log.put(ExtentIndex(first + i), true);
                log.asked.push(ExtentIndex(first + i));
            }
        }
        let mut active: Vec<Run> = Vec::new();
        for (first, count) in log.asked.iter().map(|e| geometry.blocks_of(*e, 1)) {
            match active.last_mut() {
                Some((f, c)) if f.0 + c.0 == first.0 => c.0 += count.0,
                _ => active.push((first, count)),
            }
        }
        log.urgent = (0..geometry.pages()).collect();
        log.asked_seq.0 += 1;
        Recovered { ready: log.asked_seq, log, active, damaged }
    }

    /// What writers look at.
    #[must_use]
    pub fn map(&self) -> Arc<ActiveMap> {
        self.map.clone()
    }

    /// The blocks of all durably active extents, as runs in rising order.
    #[must_use]
    pub fn active_runs(&self) -> Vec<Run> {
        let mut at = ExtentIndex(0);
        std::iter::from_fn(|| {
            let (e, n) = self.map.next(at)?;
            at = ExtentIndex(e.0 + n);
            Some(self.geometry.blocks_of(e, n))
        })
        .collect()
    }

    /// Asks for every extent that the blocks touch.
    ///
    /// # Errors
    /// [`ActivityError`] if the log failed before.
    pub fn activate(
        &mut self,
        first: BlockIndex,
        count: BlockCount,
    ) -> Result<Activation, ActivityError> {
        if let Some(e) = self.failed {
            return Err(e);
        }
        let (e, n) = self.geometry.extents_of(first, count);
        let end = e.0.saturating_add(n).min(self.geometry.extents());
        let before = self.asked.len();
        let mut waits = false;
        for e in (e.0..end).map(ExtentIndex) {
            if self.map.has(e) {
                continue;
            }
            waits = true;
            // Asked for already, in this round or the next: then only wait.
            if self.put(e, true) {
                self.asked.push(e);
                self.urgent.insert(page_of(e));
            }
        }
        if !waits {
            return Ok(Activation::Done);
        }
        if self.asked.len() > before {
            self.asked_seq.0 += 1;
        }
        Ok(Activation::Wait(self.asked_seq))
    }

    /// Everything up to here is durable and visible to writers.
    #[must_use]
    pub fn durable(&self) -> ActivationSeq {
        self.durable
    }

    /// Whether the log has failed, for good.
    #[must_use]
    pub fn failed(&self) -> Option<ActivityError> {
        self.failed
    }

    /// Takes back those extents of the blocks that `is_dirty` says have no mark: none in either
    /// table, and none in a set that is not yet durable. Returns how many. The file follows with a
    /// later round; until then a crash only marks too much.
    pub fn clear_clean(
        &mut self,
        first: BlockIndex,
        count: BlockCount,
        is_dirty: &mut dyn FnMut(BlockIndex, BlockCount) -> bool,
    ) -> u64 {
        let (e, n) = self.geometry.extents_of(first, count);
        let end = e.0.saturating_add(n).min(self.geometry.extents());
        let is_dirty =
            &mut |first, count| is_dirty(first, count) && !rcp::planted!(ExtentForgotten);
        let mut cleared = 0;
        let mut at = e;
        while let Some((e, _)) = self.map.next(at).filter(|(e, _)| e.0 < end) {
            at = ExtentIndex(e.0 + 1);
            let (first, count) = self.geometry.blocks_of(e, 1);
            if is_dirty(first, count) {
                continue;
            }
            // Hide, then look again: see the module about the order.
            self.map.hide(e);
            if is_dirty(first, count) {
                // Still set in the file: no page was written in between.
                self.map.show(e);
                continue;
            }
            self.put(e, false);
            self.lazy.insert(page_of(e));
            cleared += 1;
        }
        cleared
    }

    /// Has bits taken back written soon, even if nothing is activated; they are once the returned
    /// sequence is durable.
    pub fn flush(&mut self) -> ActivationSeq {
        if !self.lazy.is_empty() {
            self.urgent.append(&mut self.lazy);
            self.asked_seq.0 += 1;
        }
        self.asked_seq
    }

    /// Lets the log cover a larger volume. The volume may grow once the returned sequence is
    /// durable.
    ///
    /// # Errors
    /// [`ActivityError`] if the log failed before.
    pub fn grow(&mut self, blocks: BlockCount) -> Result<ActivationSeq, ActivityError> {
        if let Some(e) = self.failed {
            return Err(e);
        }
        let pages = self.geometry.pages();
        self.geometry.blocks = BlockCount(blocks.0.max(self.geometry.blocks.0));
        self.cells.resize(self.geometry.cells() as usize, [0; BYTES]);
        self.urgent.extend(pages..self.geometry.pages());
        self.asked_seq.0 += 1;
        Ok(self.asked_seq)
    }

    /// The next request, if any; call until `None`.
    pub fn poll_io(&mut self) -> Option<Io> {
        if self.failed.is_some() {
            return None;
        }
        if self.round.is_none() && (!self.urgent.is_empty() || self.asked_seq > self.durable) {
            self.begin_round();
        }
        self.outbox.pop_front()
    }

    /// Takes the outcome of a request; tags of nothing outstanding are ignored.
    pub fn complete(&mut self, tag: Tag, outcome: &Outcome) {
        let Some(round) = &mut self.round else { return };
        let synced = round.sync == Some(tag);
        if !synced && !round.writes.remove(&tag) {
            return;
        }
        if let Outcome::Failed(e) = outcome {
            self.failed = Some(ActivityError(*e));
            self.round = None;
            self.outbox.clear();
        } else if synced {
            let done = self.round.take();
            for (e, upto) in done.iter().flat_map(|r| r.extents.iter().map(|e| (*e, r.upto))) {
                debug_assert!(upto > self.durable);
                self.map.show(e);
            }
            self.durable = done.map_or(self.durable, |r| r.upto);
        } else if round.writes.is_empty() {
            let tag = Tag(self.next_tag);
            self.next_tag += 1;
            round.sync = Some(tag);
            self.outbox.push_back(Io { tag, file: FileId::Activity, op: Op::Sync });
        }
    }

    fn begin_round(&mut self) {
        let pages = std::mem::take(&mut self.urgent);
        let mut round = Round {
            upto: self.asked_seq,
            extents: std::mem::take(&mut self.asked),
            writes: BTreeSet::new(),
            sync: None,
        };
        self.sequence += 1;
        let mut left = pages.iter().copied().peekable();
        while let Some(first) = left.next() {
            let mut data = vec![self.encode_page(first)];
            while left.next_if_eq(&(first + data.len() as u32)).is_some() {
                data.push(self.encode_page(first + data.len() as u32));
                if data.len() as u32 == PAGES_PER_WRITE {
                    break;
                }
            }
            let tag = Tag(self.next_tag);
            self.next_tag += 1;
            round.writes.insert(tag);
            let op = Op::Write { offset: u64::from(first) * PAGE as u64, data };
            self.outbox.push_back(Io { tag, file: FileId::Activity, op });
        }
        self.lazy.retain(|p| !pages.contains(p));
        if round.writes.is_empty() {
            // Growth within the last page.
            let tag = Tag(self.next_tag);
            self.next_tag += 1;
            round.sync = Some(tag);
            self.outbox.push_back(Io { tag, file: FileId::Activity, op: Op::Sync });
        }
        self.round = Some(round);
    }

    fn encode_page(&self, page: u32) -> Bytes {
        let mut out = vec![0; PAGE];
        for (i, out) in out.chunks_exact_mut(CELL).enumerate() {
            let cell = page * CELLS_PER_PAGE + i as u32;
            page::encode(&self.geometry, cell, self.sequence, &self.cells[cell as usize], out);
        }
        out.into()
    }

    /// Sets what the file is to say of an extent; true if that is new.
    fn put(&mut self, e: ExtentIndex, active: bool) -> bool {
        let Some(cell) = self.cells.get_mut((e.0 / PER_CELL) as usize) else { return false };
        let (byte, bit) = ((e.0 % PER_CELL / 8) as usize, 1 << (e.0 % 8));
        let was = cell[byte] & bit != 0;
        cell[byte] = if active { cell[byte] | bit } else { cell[byte] & !bit };
        was != active
    }
}

fn page_of(e: ExtentIndex) -> u32 {
    u32::try_from(e.0 / PER_CELL).unwrap_or(u32::MAX) / CELLS_PER_PAGE
}
