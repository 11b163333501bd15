//! Before a step is shown at a replica: the digest of its state, from the one before it and the
//! blocks that it changes, must be the one that its header tells.
//!
//! The old hash of a block is found as its old content would be: in the newest of the steps below
//! that has it, else in the table.

use std::sync::Arc;

use rcp::proto::ids::SetNumber;

use super::desk::{Purpose, Work};
use super::digest::AT_ONCE;
use super::{Role, Volume};
use crate::digest::{BlockHash, Sum, table_range};
use crate::io::{FileId, Op, Outcome};
use crate::mailbox::TableMark;
use crate::units::{BlockIndex, LogPos};
use crate::view::{Layer, Place, Source, ViewState};

/// Chunks that are hashed at a time, of those that were not when they came.
const AHEAD: usize = 4;
/// Ranges of the table that are read at a time.
const RANGES: usize = 1024;

/// A step whose digest is being found out.
#[derive(Debug)]
pub(super) struct Check {
    run: u64,
    layer: Arc<Layer>,
    /// Next run of its index, and blocks of it that were looked at.
    next: (usize, u64),
    sum: Sum,
    reading: bool,
}

impl Volume {
    /// A chunk of the open step came: its blocks are hashed.
    pub(super) fn hash_chunk_at(&mut self, pos: LogPos, body: bytes::Bytes) {
        if self.want.seed.is_none() && self.durable.seed.is_none() {
            self.desk.work(Purpose::ChunkHash { pos }, Work::Hash(body));
        }
    }

    /// Hashes chunks of whole steps up to `to` that were not hashed when they came; true if there
    /// are any.
    fn hash_missing(&mut self, to: SetNumber) -> bool {
        let missing: Vec<_> = self
            .playback
            .layers_below(to.next())
            .iter()
            .flat_map(|l| l.chunks.iter().map(|c| (c.pos, c.body_len)))
            .filter(|(pos, _)| !self.digest.chunks.contains_key(pos))
            .collect();
        for (pos, len) in missing.iter().take(AHEAD) {
            let is = |p: &Purpose| match p {
                Purpose::ChunkHash { pos: at } | Purpose::ChunkRead { pos: at } => at == pos,
                _ => false,
            };
            if self.desk.any(is) {
                continue;
            }
            let record = self.log.record_from(*pos).filter(|r| r.pos == *pos);
            match record.and_then(|r| r.cached.clone()) {
                Some(body) => self.desk.work(Purpose::ChunkHash { pos: *pos }, Work::Hash(body)),
                None => {
                    let op = Op::Read { offset: self.log.body_offset(*pos), len: *len as usize };
                    self.desk.io(Purpose::ChunkRead { pos: *pos }, FileId::Save, op);
                }
            }
        }
        !missing.is_empty()
    }

    pub(super) fn chunk_read(&mut self, pos: LogPos, outcome: Outcome) {
        match outcome {
            // Of a step that was given up, whose room may have been used again.
            _ if pos < self.log.tail() => {}
            Outcome::Read(body) => self.desk.work(Purpose::ChunkHash { pos }, Work::Hash(body)),
            other => self.fail_io("read from the save volume", &other),
        }
    }

    pub(super) fn chunk_hashed(
        &mut self,
        pos: LogPos,
        hashes: Result<Vec<BlockHash>, rcp::proto::delta::DeltaError>,
    ) {
        match hashes {
            // Of a step that was given up meanwhile: its position is never used again.
            _ if pos < self.log.tail() => {}
            Ok(h) => {
                self.digest.chunks.insert(pos, h);
            }
            Err(e) => self.log_damaged(pos, &e.to_string()),
        }
    }

    /// Hashes of steps that are merged are not needed any more.
    pub(super) fn forget_hashes(&mut self) {
        let first = self.playback.first_pos();
        let building = self.intake.building.as_ref().map(|l| l.first);
        match [first, building].into_iter().flatten().min() {
            Some(pos) => self.digest.chunks = self.digest.chunks.split_off(&pos),
            None => self.digest.chunks.clear(),
        }
        let visible = self.durable.visible;
        self.digest.found.retain(|s, _| *s > visible);
    }

    /// Whether a whole step may be shown.
    pub(super) fn is_checked(&self, to: SetNumber) -> bool {
        match (self.want.digest.table, self.digest.chain) {
            (TableMark::Known(_), Some((at, _))) => to <= at,
            _ => true,
        }
    }

    /// What the table's mark is once `to` is visible.
    pub(super) fn mark_at(&self, to: SetNumber) -> TableMark {
        match self.want.digest.table {
            TableMark::Known(_) => match (self.digest.found.get(&to), self.digest.chain) {
                (Some(sum), _) => TableMark::Known(*sum),
                (None, Some((at, sum))) if at == to => TableMark::Known(sum),
                _ => TableMark::Kept,
            },
            other => other,
        }
    }

    pub(super) fn pump_check(&mut self) {
        if !matches!(self.cfg.role, Role::Replica { .. })
            || self.want.seed.is_some()
            || self.durable.seed.is_some()
            || !matches!(self.want.digest.table, TableMark::Known(_))
        {
            self.digest.check = None;
            return;
        }
        loop {
            let Some((at, before)) = self.digest.chain else { return };
            if self.digest.check.is_none() {
                let Some(layer) = self.playback.layer_after(at) else { return };
                if layer.id.base > at {
                    self.digest_unknown();
                    return;
                }
                if self.hash_missing(layer.id.to) {
                    return;
                }
                let run = self.digest.next_run();
                self.digest.check =
                    Some(Check { run, layer, next: (0, 0), sum: before, reading: false });
            }
            let Some(check) = self.digest.check.take() else { return };
            if check.reading {
                self.digest.check = Some(check);
                return;
            }
            if check.next.0 < check.layer.runs.len() {
                if !self.check_some(check) {
                    return;
                }
                continue;
            }
            let to = check.layer.id.to;
            self.digest.chain = Some((to, check.sum));
            self.digest.found.insert(to, check.sum);
            let known = self.want.digest.differs > SetNumber::ZERO;
            if self.stage_hides(to) {
                continue;
            }
            if !self.compare_digest(to, check.sum) && !known {
                // Content or table: the table is made anew from the content, which will tell.
                self.digest_lost();
                return;
            }
        }
    }

    /// The next blocks of a step; false if nothing goes on before the table was read.
    fn check_some(&mut self, mut check: Check) -> bool {
        let shift = self.cfg.block_size.shift();
        let below = ViewState {
            layers: self.playback.layers_below(check.layer.id.to),
            ..ViewState::default()
        };
        let (mut ranges, mut blocks) = (Vec::new(), 0);
        while ranges.len() < RANGES && blocks < AT_ONCE {
            let Some(r) = check.layer.runs.get(check.next.0) else { break };
            let skip = check.next.1;
            let count = (u64::from(r.count) - skip).min(AT_ONCE - blocks);
            let first = r.block + skip;
            if let Place::Chunk { chunk, offset } = r.place {
                let from = (u64::from(offset) >> shift) + skip;
                let new = self.sum_in(&check.layer, chunk, from, count);
                let Some(new) = new else { return self.check_again() };
                check.sum = check.sum.and(new);
            }
            for piece in below.resolve(SetNumber(u64::MAX), BlockIndex(first), count, shift) {
                match piece.source {
                    Source::Zero => {}
                    Source::Chunk { layer, chunk, offset } => {
                        let from = u64::from(offset) >> shift;
                        let Some(old) = self.sum_in(&layer, chunk, from, piece.count) else {
                            return self.check_again();
                        };
                        check.sum = check.sum.minus(old);
                    }
                    Source::Base => ranges.push(table_range(piece.block.0, piece.count)),
                }
            }
            blocks += count;
            check.next = if skip + count < u64::from(r.count) {
                (check.next.0, skip + count)
            } else {
                (check.next.0 + 1, 0)
            };
        }
        check.reading = !ranges.is_empty();
        let (run, reading) = (check.run, check.reading);
        self.digest.check = Some(check);
        if reading {
            let op = Op::Gather { ranges };
            self.desk.io(Purpose::CheckRead { run }, FileId::Hashes, op);
        }
        !reading
    }

    /// Hashes that should be in memory are not: the sum is found out from the table.
    fn check_again(&mut self) -> bool {
        self.digest_unknown();
        false
    }

    fn sum_in(&self, layer: &Layer, chunk: u32, from: u64, count: u64) -> Option<Sum> {
        let hashes = self.digest.chunks.get(&layer.chunks.get(chunk as usize)?.pos)?;
        let from = usize::try_from(from).ok()?;
        Some(Sum::of(hashes.get(from..from + usize::try_from(count).ok()?)?))
    }

    pub(super) fn check_read(&mut self, run: u64, outcome: Outcome) {
        let Some(check) = self.digest.check.as_mut().filter(|c| c.run == run) else { return };
        match outcome {
            Outcome::Read(b) => {
                let Some(old) = Sum::of_table(&b) else {
                    self.digest_unknown();
                    return;
                };
                check.sum = check.sum.minus(old);
                check.reading = false;
            }
            other => self.fail_io("read from the table of hashes", &other),
        }
    }
}
