//! The primary's table: the hashes of a set are written when the set is durable, never before. What
//! a crash keeps from the table is found again in the save volume, which holds a set until then.

use std::collections::BTreeMap;

use bytes::Bytes;
use rcp::proto::delta::{Chunk, ChunkHeader, DeltaError, Extent, ExtentKind, SetFlags};
use rcp::proto::ids::{Attempt, SetNumber};

use super::desk::{FoldStep, Purpose, Work};
use super::digest::TableWrite;
use super::pass::Pass;
use super::{Role, Volume};
use crate::bitmap::BlockSet;
use crate::digest::{BlockHash, Sum, table_range};
use crate::io::{FileId, IoError, Op, Outcome};
use crate::mailbox::TableMark;
use crate::save::record::HEADER_LEN;
use crate::save::{RecordHeader, RecordKind};
use crate::units::LogPos;

/// Hashes of fresh chunks that are kept in memory, so that the chunks need not be read again.
const FRESH: usize = 1 << 18;

/// Blocks of a chunk, and the hashes of those in its payload.
#[derive(Debug)]
struct Hashed {
    extents: Vec<Extent>,
    hashes: Vec<BlockHash>,
}

/// The walk over finished sets.
#[derive(Debug, Default)]
pub(super) struct Fold {
    /// Next record, and the newest set that is in the table; `None`: there is no table.
    at: Option<(LogPos, SetNumber)>,
    /// Chunks made in this life that are not in the table.
    fresh: BTreeMap<LogPos, Hashed>,
    held: usize,
    /// The chunk that is on its way, and its request.
    busy: Option<(u64, Option<Hashed>, TableWrite)>,
}

impl Fold {
    /// The newest set that is in the table in full.
    pub(super) fn applied(&self) -> Option<SetNumber> {
        self.at.filter(|_| self.busy.is_none()).map(|(_, set)| set)
    }

    /// The same, although the next one is on its way.
    pub(super) fn reached(&self) -> Option<SetNumber> {
        self.at.map(|(_, set)| set)
    }

    fn take(&mut self, pos: LogPos) -> Option<Hashed> {
        self.fresh = self.fresh.split_off(&pos);
        let h = self.fresh.remove(&pos);
        self.held = self.fresh.values().map(|h| h.hashes.len()).sum();
        h
    }
}

impl Volume {
    /// A chunk of the set being drained was appended.
    pub(super) fn fold_fresh(&mut self, pos: LogPos, chunk: &Chunk, hashes: Vec<BlockHash>) {
        let f = &mut self.digest.fold;
        if f.at.is_some() && f.held + hashes.len() <= FRESH {
            f.held += hashes.len();
            f.fresh.insert(pos, Hashed { extents: extents(chunk), hashes });
        }
    }

    /// The table begins with what the content holds now: sets that are finished later follow.
    pub(super) fn fold_anew(&mut self) {
        if matches!(self.cfg.role, Role::Primary { .. }) {
            let at = self.durable.visible;
            self.digest.fold = Fold { at: Some((self.first_after(at), at)), ..Fold::default() };
        }
    }

    /// The replica becomes the writer: its table stands at the visible state, and stays the judge of
    /// what is not written again, unless an operator said otherwise.
    pub(super) fn digest_of_writer(&mut self) {
        let at = self.want.visible;
        let damaged = self.want.digest.differs > SetNumber::ZERO || !self.digest.doubts.is_empty();
        self.want.digest.hashed = at;
        self.want.digest.differs = SetNumber::ZERO;
        self.digest.chunks.clear();
        if std::mem::take(&mut self.playback.as_it_is) && damaged {
            // What the content holds is the volume from here on.
            self.digest.doubts = BlockSet::new();
            self.digest_lost();
        }
        let table = self.keeps_table();
        self.digest.fold = Fold { at: table.then(|| (self.log.head(), at)), ..Fold::default() };
        self.digest_layers_gone();
        self.prove();
    }

    /// The writer becomes a replica at the visible state.
    pub(super) fn digest_of_reader(&mut self) {
        let whole = self.digest.fold.applied() == Some(self.want.visible);
        let building = self.want.digest.table == TableMark::Absent;
        if building || !whole {
            self.digest_lost();
        } else if let Some(Pass { .. }) = self.digest.pass {
            self.digest.pass = None;
        }
        self.digest.fold = Fold::default();
        self.digest.proves = false;
        self.want.digest.hashed = SetNumber::ZERO;
        self.commit.hashes_dirty = true;
        self.digest_layers_gone();
    }

    /// A primary's table goes on where the mailbox says; false if what it lacks is gone.
    pub(super) fn fold_resume(&mut self) -> bool {
        if !matches!(self.cfg.role, Role::Primary { .. }) || self.digest.fold.at.is_some() {
            return true;
        }
        let (hashed, visible) = (self.want.digest.hashed, self.want.visible);
        let mut at = hashed;
        for s in self.log.steps().filter(|s| s.id.to > hashed && s.id.to <= visible) {
            let data = |h: &rcp::proto::delta::SetHeader| !h.flags.contains(SetFlags::BITMAP_ONLY);
            if s.id.base > at || !s.end.as_ref().is_some_and(|(h, _)| data(h)) {
                return false;
            }
            at = s.id.to;
        }
        if at < visible {
            return false;
        }
        self.digest.fold = Fold { at: Some((self.first_after(hashed), hashed)), ..Fold::default() };
        true
    }

    fn first_after(&self, set: SetNumber) -> LogPos {
        self.log.steps().find(|s| s.id.to > set).map_or(self.log.head(), |s| s.first)
    }

    /// Position from which the table still needs records (primary).
    pub(super) fn fold_hold(&self) -> Option<LogPos> {
        self.digest.fold.at.map(|_| self.first_after(self.durable.digest.hashed))
    }

    /// The room that the table holds can be had by a commit.
    pub(super) fn fold_is_ahead(&self) -> bool {
        self.digest.fold.at.is_some_and(|(_, set)| set > self.durable.digest.hashed)
    }

    pub(super) fn pump_fold(&mut self) {
        if !matches!(self.cfg.role, Role::Primary { .. }) {
            return;
        }
        if !self.keeps_table() {
            self.digest.fold = Fold::default();
            return;
        }
        loop {
            if self.digest.fold.busy.is_some() || self.table_is_taken() {
                return;
            }
            let Some((next, applied)) = self.digest.fold.at else {
                if !self.fold_resume() {
                    self.digest_lost();
                }
                return;
            };
            let Some(r) = self.log.record_from(next) else { return };
            if r.to > self.durable.visible || r.end() > self.durable.log_head {
                return;
            }
            let (pos, end, to) = (r.pos, r.end(), r.to);
            if r.kind == RecordKind::SetEnd {
                let step = self.log.step_to(to).and_then(|s| s.end.as_ref());
                let without = step.is_none_or(|(h, _)| h.flags.contains(SetFlags::BITMAP_ONLY));
                if without || to <= applied {
                    self.digest_lost();
                    return;
                }
                self.digest.fold.at = Some((end, to));
                continue;
            }
            self.digest.fold.at = Some((end, applied));
            let run = self.digest.next_run();
            if let Some(hashed) = self.digest.fold.take(pos) {
                self.digest.fold.busy = Some((run, Some(hashed), TableWrite::default()));
                self.fold_write(run);
                continue;
            }
            let cached = r_body(self, pos);
            self.digest.fold.busy = Some((run, None, TableWrite::default()));
            match cached {
                Some(body) => self.fold_hash(run, body),
                None => {
                    let Some(r) = self.log.record_from(pos) else { return };
                    let len = HEADER_LEN + r.body_len as usize;
                    let op = Op::Read { offset: self.log.ring().offset(pos), len };
                    let purpose = Purpose::Fold { run, step: FoldStep::Body };
                    self.desk.io(purpose, FileId::Save, op);
                    if let Some(b) = &mut self.digest.fold.busy {
                        b.2.old = vec![(pos.0, 0)];
                    }
                }
            }
        }
    }

    fn fold_hash(&mut self, run: u64, body: Bytes) {
        let Ok(chunk) = ChunkHeader::parse(&body).and_then(|_| Chunk::parse(body.clone())) else {
            self.log_damaged(self.log.tail(), "a chunk for the table of hashes");
            return;
        };
        if let Some(b) = &mut self.digest.fold.busy {
            b.1 = Some(Hashed { extents: extents(&chunk), hashes: Vec::new() });
        }
        self.desk.work(Purpose::Fold { run, step: FoldStep::Hash }, Work::Hash(body));
    }

    pub(super) fn fold_hashed(&mut self, run: u64, hashes: Result<Vec<BlockHash>, DeltaError>) {
        let Some((_, Some(h), _)) = self.digest.fold.busy.as_mut().filter(|b| b.0 == run) else {
            return;
        };
        match hashes {
            Ok(hashes) => {
                h.hashes = hashes;
                self.fold_write(run);
            }
            Err(e) => self.log_damaged(self.log.tail(), &e.to_string()),
        }
    }

    /// Writes the hashes of the chunk at hand, after those that a pass has counted were read.
    fn fold_write(&mut self, run: u64) {
        let Some((_, Some(h), _)) = &self.digest.fold.busy else { return };
        let w = self.table_write(runs(&h.extents, &h.hashes));
        if !w.old.is_empty() {
            let op = Op::Gather { ranges: w.old.clone() };
            self.desk.io(Purpose::Fold { run, step: FoldStep::Old }, FileId::Hashes, op);
            if let Some(b) = &mut self.digest.fold.busy {
                b.2 = w;
            }
            return;
        }
        self.fold_put(run, w);
    }

    fn fold_put(&mut self, run: u64, w: TableWrite) {
        if w.is_empty() {
            self.digest.fold.busy = None;
            return;
        }
        let op = Op::Scatter { writes: w.writes, zeroes: w.zeroes };
        self.desk.io(Purpose::Fold { run, step: FoldStep::Write }, FileId::Hashes, op);
    }

    pub(super) fn fold_io_done(&mut self, run: u64, step: FoldStep, outcome: Outcome) {
        let Some((_, _, w)) = self.digest.fold.busy.as_mut().filter(|b| b.0 == run) else {
            // Of a table that was given up.
            return;
        };
        match (step, outcome) {
            (FoldStep::Body, Outcome::Read(b)) => {
                let pos = LogPos(w.old.first().map_or(0, |(p, _)| *p));
                match RecordHeader::decode(&b, self.cfg.volume, pos) {
                    Ok(h) => {
                        let end = (HEADER_LEN + h.body_len as usize).min(b.len());
                        self.fold_hash(run, b.slice(HEADER_LEN..end));
                    }
                    Err(e) => self.log_damaged(pos, &e.to_string()),
                }
            }
            (FoldStep::Old, Outcome::Read(b)) => {
                let w = std::mem::take(w);
                self.pass_replaces(&b, w.new);
                self.fold_put(run, w);
            }
            (FoldStep::Write, Outcome::Done) => {
                self.commit.hashes_dirty = true;
                self.digest.fold.busy = None;
            }
            (FoldStep::Write, Outcome::Failed(IoError::NoSpace)) => {
                self.digest_lost();
                self.table_has_no_room(0);
            }
            (_, other) => self.fail_io("access to the table of hashes", &other),
        }
    }

    /// At a cut: the sum over which the next set's digest can be told.
    pub(super) fn digest_at_cut(&self) -> Option<Sum> {
        match (self.want.digest.table, self.digest.chain) {
            (TableMark::Known(_), Some((at, sum))) if at == self.want.visible => Some(sum),
            _ => None,
        }
    }

    /// The hashes that a chunk of the set being drained replaces.
    pub(super) fn drain_old_hashes(&mut self, attempt: Attempt, chunk: &Chunk, new: Sum) {
        let ranges = chunk.extents().map(|e| table_range(e.block, u64::from(e.count))).collect();
        let op = Op::Gather { ranges };
        self.desk.io(Purpose::DrainHashes { attempt, new }, FileId::Hashes, op);
    }
}

fn r_body(v: &Volume, pos: LogPos) -> Option<Bytes> {
    let r = v.log.record_from(pos).filter(|r| r.pos == pos)?;
    r.cached.clone()
}

fn extents(chunk: &Chunk) -> Vec<Extent> {
    chunk.extents().map(|e| Extent { block: e.block, count: e.count, kind: e.kind }).collect()
}

/// The runs of a chunk with their hashes; `None` for zeroes.
pub(super) fn runs<'a>(
    extents: &'a [Extent],
    hashes: &'a [BlockHash],
) -> impl Iterator<Item = (u64, u64, Option<&'a [BlockHash]>)> {
    let mut rest = hashes;
    extents.iter().map(move |e| {
        let hashes = (e.kind == ExtentKind::Data).then(|| {
            let (now, later) = rest.split_at((e.count as usize).min(rest.len()));
            rest = later;
            now
        });
        (e.block, u64::from(e.count), hashes)
    })
}
