//! From the save volume into the base (PLAY-03, PLAY-09), and the folding of live sets under a
//! seed.
//!
//! Records are walked in log order. Chunks of one step are disjoint and may be written at the same
//! time; a step begins only when the one before is written in full, and when the pins on the state
//! between them have entered the snapshot queue. Before a block is overwritten, its content is kept
//! for the youngest pin that lacks it. Everything is idempotent: after a crash the walk starts
//! again at the durable position.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use rcp::proto::clock::Mono;
use rcp::proto::delta::{Chunk, DeltaError, Extent, ExtentKind, PlacedExtent};
use rcp::proto::ids::SetNumber;

use super::branches::{branch_needs_room, branch_of};
use super::desk::{MergeStep, OpenChunk, Purpose, Work};
use super::digest::TableWrite;
use super::fold::runs;
use super::stalls::Part;
use super::{Role, Volume};
use crate::digest::{BlockHash, hashes_in, table_range, tells};
use crate::io::{FileId, IoError, Op, Outcome};
use crate::save::{RecordHeader, RecordKind};
use crate::snapshots::{PinId, Reservation, Reserve};
use crate::units::{BlockCount, BlockIndex, LogPos};

/// Chunks of one step that are written at the same time.
pub(super) const PARALLEL: usize = 4;
/// Before images kept at a time by one chunk.
const IMAGES: usize = 64;
/// How long to wait before trying again after the disk was full.
const FULL_RETRY: Duration = Duration::from_secs(1);

/// One chunk on its way into the base.
#[derive(Debug)]
struct Job {
    pos: LogPos,
    to: SetNumber,
    /// Requests that must complete before the next stage.
    pending: usize,
    chunk: Option<(Chunk, Bytes)>,
    /// Blocks whose before image is not in the snapshot area yet.
    images: Vec<BlockIndex>,
    /// The images being read now.
    reading: Vec<BlockIndex>,
    /// Images written but not entered in the index yet.
    written: Vec<(Reservation, u32)>,
    /// What is being written to the snapshot area, and whether the disk had no room for it.
    image_write: Option<Op>,
    full: bool,
    /// A durable pin that there is no room for is being marked as broken.
    breach: Option<PinId>,
    /// Hashes of the blocks in the payload.
    hashes: Vec<BlockHash>,
    /// What is written to the table beside the content.
    table: TableWrite,
    /// Hashes of the images being read now, if they are known.
    image_hashes: Vec<Option<BlockHash>>,
    stage: Stage,
}

impl Job {
    fn new(pos: LogPos, to: SetNumber) -> Self {
        Self {
            pos,
            to,
            pending: 0,
            chunk: None,
            images: Vec::new(),
            reading: Vec::new(),
            written: Vec::new(),
            image_write: None,
            full: false,
            breach: None,
            hashes: Vec::new(),
            table: TableWrite::default(),
            image_hashes: Vec::new(),
            stage: Stage::Body,
        }
    }

    /// It holds places in the snapshot area that are not in the index yet.
    fn is_saving(&self) -> bool {
        self.breach.is_some() || !self.written.is_empty()
    }
}

/// What a chunk writes to this block is what is there: it needs no image.
fn stays(extents: &[PlacedExtent], payload: &[u8], block: BlockIndex, now: &[u8]) -> bool {
    let at = extents.partition_point(|e| e.end() <= block.0);
    let Some(e) = extents.get(at).filter(|e| e.block <= block.0) else { return false };
    match e.kind {
        ExtentKind::Zero => now.iter().all(|x| *x == 0),
        ExtentKind::Data => {
            let skip = usize::try_from(block.0 - e.block).unwrap_or(0) * now.len();
            payload.get(e.range()).and_then(|p| p.get(skip..skip + now.len())) == Some(now)
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Body,
    Images,
    SyncImages,
    Base,
}

/// The walk.
#[derive(Debug, Default)]
pub(super) struct Merge {
    next: LogPos,
    /// State up to which the base is written in full (not: durably).
    applied: SetNumber,
    jobs: BTreeMap<u64, Job>,
    /// Jobs that were given up while before images were on their way to the snapshot area: those
    /// are seen to their end, or their blocks could never be saved again.
    saving: BTreeMap<u64, Job>,
    last_job: u64,
    retry_at: Option<Mono>,
    /// Where there was no room: until the base holds what is there, playback has stopped.
    stuck: Option<LogPos>,
    /// Jobs were given up: nothing is written before the last of their writes has ended.
    restarted: bool,
}

impl Merge {
    pub(super) fn start(&mut self, next: LogPos, applied: SetNumber) {
        let jobs = std::mem::take(&mut self.jobs);
        self.saving.extend(jobs.into_iter().filter(|(_, j)| j.is_saving()));
        // What is waited for until then stays, and so do the words for it.
        (self.next, self.applied, self.restarted) = (next, applied, true);
    }

    /// Everything before this position is written to the base.
    pub(super) fn applied_pos(&self) -> LogPos {
        self.jobs.values().map(|j| j.pos).min().unwrap_or(self.next).min(self.next)
    }

    pub(super) fn is_idle(&self) -> bool {
        self.jobs.is_empty()
    }

    /// The states that chunks lead to which are on their way into the base.
    pub(super) fn under_way(&self) -> impl Iterator<Item = SetNumber> {
        self.jobs.values().map(|j| j.to)
    }

    pub(super) fn timeout(&self) -> Option<Mono> {
        self.retry_at
    }

    /// There is nothing to play from here on.
    pub(super) fn waits_no_more(&mut self) {
        (self.retry_at, self.stuck) = (None, None);
    }

    /// What there was no room for is done, or not to be done any more.
    fn goes_on(&self) -> bool {
        let idle = self.jobs.is_empty() && !self.restarted;
        let past = self.stuck.is_none_or(|at| self.applied_pos() > at);
        self.retry_at.is_none() && self.saving.is_empty() && (idle || past)
    }
}

impl Volume {
    fn has_base(&self) -> bool {
        matches!(self.cfg.role, Role::Replica { .. })
    }

    /// A write to the base is under way, be it of a job that was given up.
    pub(super) fn base_being_written(&self) -> bool {
        self.desk.any(|p| {
            matches!(p, Purpose::Merge { step, .. } if step.writes())
                || matches!(p, Purpose::SeedIn(_))
        })
    }

    /// Position from which our own playback still needs records.
    pub(super) fn merge_hold(&mut self) -> Option<LogPos> {
        if !self.has_base() {
            return None;
        }
        let hidden = self.durable.seed.is_some() || rcp::planted!(FreedUnderReaders);
        let readers = if hidden { None } else { self.playback.reader_hold() };
        let own = self.commit.applied.min(self.merge.applied_pos());
        Some(readers.map_or(own, |r| r.min(own)))
    }

    /// The base holds more than a commit has said.
    pub(super) fn merge_is_ahead(&self) -> bool {
        self.has_base() && self.merge.applied_pos() > self.commit.applied
    }

    /// How many chunks were merged in this life.
    pub(super) fn merge_jobs(&self) -> u64 {
        self.merge.last_job
    }

    pub(super) fn merge_is_idle(&self) -> bool {
        self.merge.is_idle() && self.merge.saving.is_empty()
    }

    pub(super) fn pump_merge(&mut self) {
        if !self.has_base() || self.merge.retry_at.is_some_and(|t| self.desk.now < t) {
            return;
        }
        self.merge.retry_at = None;
        self.save_images_again();
        self.merge_on();
        if self.merge.goes_on() {
            self.merge.stuck = None;
            self.stalls.clear(Part::Playback);
        }
    }

    /// Begins with what may go into the base now.
    fn merge_on(&mut self) {
        if self.merge.restarted {
            if self.base_being_written() || !self.merge.saving.is_empty() {
                return;
            }
            self.merge.restarted = false;
        }
        self.merge_into_longer_base();
        let hidden = self.durable.seed.is_some();
        if hidden && self.want.seed.is_none() {
            // The seed ends with exactly this state: nothing more is folded under it.
            return;
        }
        let limit = if hidden {
            self.durable.log_head
        } else {
            match self.playback.end_of(self.durable.visible) {
                Some(end) => end,
                None => return,
            }
        };
        let parallel = if hidden { 1 } else { PARALLEL };
        while self.merge.jobs.len() < parallel && !self.seed_in_writing() {
            let Some(r) = self.log.record_from(self.merge.next) else { break };
            if r.end() > limit {
                break;
            }
            let (pos, end, to, kind) = (r.pos, r.end(), r.to, r.kind);
            if kind == RecordKind::SetEnd {
                if !self.merge.jobs.is_empty() {
                    break;
                }
                self.merge.next = end;
                self.step_applied(to);
                continue;
            }
            // The first chunk of a step waits for the step before it, and for the mailbox to list
            // what is kept between them.
            if self.merge.jobs.values().any(|j| j.to != to) || !self.unlisted.is_empty() {
                break;
            }
            let cached = r.cached.clone().or_else(|| self.readback.body(r));
            let len = r.body_len as usize;
            self.merge.next = end;
            self.merge.last_job += 1;
            let job = self.merge.last_job;
            self.merge.jobs.insert(job, Job::new(pos, to));
            if let Some(body) = cached {
                let hash = self.must_hash(pos);
                self.desk.work(Purpose::Open { job }, Work::Open(body, hash));
            } else {
                let offset = self.log.ring().offset(pos);
                let op = Op::Read { offset, len: crate::save::record::HEADER_LEN + len };
                let purpose = Purpose::Merge { job, step: MergeStep::Body };
                self.desk.io(purpose, FileId::Save, op);
            }
        }
    }

    /// Those before images that found no room are written again.
    fn save_images_again(&mut self) {
        let Merge { jobs, saving, .. } = &mut self.merge;
        let jobs = jobs.iter_mut().chain(saving.iter_mut()).filter(|(_, j)| j.full);
        for (id, job) in jobs {
            job.full = false;
            if let Some(op) = job.image_write.clone() {
                let purpose = Purpose::Merge { job: *id, step: MergeStep::SaveImage };
                self.desk.io(purpose, FileId::Snapshots, op);
            }
        }
    }

    /// Those that waited for a longer base may have it now.
    fn merge_into_longer_base(&mut self) {
        let waits = |j: &Job| j.stage == Stage::Base && j.chunk.is_some();
        let jobs = self.merge.jobs.iter().filter(|(_, j)| waits(j));
        for id in jobs.map(|(id, _)| *id).collect::<Vec<_>>() {
            self.merge_base(id);
        }
    }

    fn step_applied(&mut self, to: SetNumber) {
        self.merge.applied = to;
        self.want.merged = to;
        self.commit.base_dirty = true;
        self.commit.request();
        if self.durable.seed.is_some() {
            self.want.blocks = self.blocks_in(to).unwrap_or(self.want.blocks);
        } else {
            if !self.stage_hides(to) {
                let step = if self.staging.is_some() { "a catch-up" } else { "what came" };
                self.keep_reached(to, step);
            }
            self.board.advance(to);
        }
    }

    pub(super) fn merge_io_done(&mut self, id: u64, step: MergeStep, outcome: Outcome) {
        match (step, outcome) {
            (MergeStep::Body, Outcome::Read(b)) => self.merge_body(id, &b),
            (MergeStep::BeforeImages, Outcome::Read(b)) => self.merge_images_read(id, &b),
            (MergeStep::SaveImage, Outcome::Failed(IoError::NoSpace)) => self.images_full(id),
            (MergeStep::ImageHashes, Outcome::Read(b)) => {
                if let Some(job) = self.merge.jobs.get_mut(&id) {
                    job.image_hashes = hashes_in(&b).collect();
                }
                self.merge_read_images(id);
            }
            (MergeStep::OldHashes, Outcome::Read(b)) => self.merge_old_hashes(id, &b),
            (MergeStep::Base | MergeStep::Hashes, Outcome::Failed(IoError::NoSpace)) => {
                self.merge_full();
            }
            (
                MergeStep::SaveImage | MergeStep::SyncImages | MergeStep::Base | MergeStep::Hashes,
                Outcome::Done,
            ) => self.merge_part_done(id),
            (_, other) => {
                let what = match step {
                    MergeStep::Body => "read from the save volume",
                    MergeStep::BeforeImages => "read from the volume's content",
                    MergeStep::SaveImage => "write to the snapshot area",
                    MergeStep::SyncImages => "sync of the snapshot area",
                    MergeStep::Base => "write to the volume's content",
                    MergeStep::OldHashes | MergeStep::ImageHashes => {
                        "read from the table of hashes"
                    }
                    MergeStep::Hashes => "write to the table of hashes",
                };
                self.fail_io(what, &other);
            }
        }
    }

    fn merge_body(&mut self, id: u64, b: &Bytes) {
        let Some(job) = self.merge.jobs.get(&id) else { return };
        let pos = job.pos;
        match RecordHeader::decode(b, self.cfg.volume, pos) {
            Ok(h) => {
                let from = crate::save::record::HEADER_LEN;
                let body = b.slice(from..(from + h.body_len as usize).min(b.len()));
                let hash = self.must_hash(pos);
                self.desk.work(Purpose::Open { job: id }, Work::Open(body, hash));
            }
            Err(e) => self.log_damaged(pos, &e.to_string()),
        }
    }

    /// The hashes of a chunk are not known yet.
    fn must_hash(&self, pos: LogPos) -> bool {
        !self.digest.chunks.contains_key(&pos)
    }

    pub(super) fn merge_opened(&mut self, id: u64, opened: Result<OpenChunk, DeltaError>) {
        let known = self.merge.jobs.get(&id).and_then(|j| self.digest.chunks.get(&j.pos)).cloned();
        // Hidden content is nobody's, unless a branch rests on it.
        let saves = self.durable.seed.is_none() || self.saves_hidden();
        let Some(job) = self.merge.jobs.get_mut(&id) else { return };
        match opened {
            Ok(OpenChunk { chunk, payload, hashes }) => {
                job.hashes =
                    hashes.or(known).unwrap_or_else(|| super::desk::hash_chunk(&chunk, &payload));
                for e in chunk.extents() {
                    self.changes.note(job.to, e.block, u64::from(e.count));
                }
                let store = &self.cfg.snapshots;
                let hidden = self.durable.seed.is_some();
                if hidden
                    && !rcp::planted!(SeedOverwritesLive)
                    && let Some(seed) = &mut self.seed_in
                {
                    for e in chunk.extents() {
                        seed.touch(e.block, e.count);
                    }
                }
                if saves && !rcp::planted!(ImageForgotten) {
                    for e in chunk.extents() {
                        job.images.extend(
                            store.needs_copy(BlockIndex(e.block), BlockCount(u64::from(e.count))),
                        );
                    }
                }
                job.chunk = Some((chunk, payload));
                self.merge_images(id);
            }
            Err(e) => {
                let pos = job.pos;
                self.log_damaged(pos, &e.to_string());
            }
        }
    }

    /// Keeps before images, some at a time, until the base may be overwritten.
    fn merge_images(&mut self, id: u64) {
        let Some(job) = self.merge.jobs.get_mut(&id) else { return };
        if job.images.is_empty() {
            self.merge_base(id);
            return;
        }
        job.stage = Stage::Images;
        let at = job.images.len().saturating_sub(IMAGES);
        job.reading = job.images.split_off(at);
        // What is kept for readers is held against its hash, as what they read themselves is.
        job.image_hashes = Vec::new();
        let ranges: Vec<_> = job.reading.iter().map(|b| table_range(b.0, 1)).collect();
        if self.is_hashed() || self.proves_images() {
            let purpose = Purpose::Merge { job: id, step: MergeStep::ImageHashes };
            self.desk.io(purpose, FileId::Hashes, Op::Gather { ranges });
        } else {
            self.merge_read_images(id);
        }
    }

    fn merge_read_images(&mut self, id: u64) {
        let bs = self.cfg.block_size;
        let Some(job) = self.merge.jobs.get_mut(&id) else { return };
        let len = usize::try_from(bs.bytes()).unwrap_or(0);
        let ranges = job.reading.iter().map(|b| (bs.offset(*b), len)).collect();
        let purpose = Purpose::Merge { job: id, step: MergeStep::BeforeImages };
        self.desk.io(purpose, FileId::Base, Op::Gather { ranges });
    }

    fn merge_images_read(&mut self, id: u64, data: &Bytes) {
        let len = usize::try_from(self.cfg.block_size.bytes()).unwrap_or(0);
        let Some(job) = self.merge.jobs.get_mut(&id) else { return };
        let store = &self.cfg.snapshots;
        let mut writes = Vec::new();
        let mut breach = None;
        let extents: Vec<_> = job.chunk.iter().flat_map(|(c, _)| c.extents()).collect();
        for (i, b) in std::mem::take(&mut job.reading).into_iter().enumerate() {
            let Some(now) = data.get(i * len..(i + 1) * len) else { continue };
            // After a crash whole extents of the activity log are sent, and few of their blocks have
            // changed.
            if job.chunk.as_ref().is_some_and(|(_, payload)| stays(&extents, payload, b, now)) {
                continue;
            }
            match store.reserve(b) {
                Reserve::Slot(r) => {
                    let image = data.slice(i * len..(i + 1) * len);
                    let mut crc = crc32c::crc32c(&image);
                    if job.image_hashes.get(i).is_some_and(|h| tells(*h, b.0, &image)) {
                        // Damaged content never becomes an image that proves itself.
                        crc = !crc;
                        self.board.doubt(b.0);
                    }
                    writes.push((r.entry_offset, store.entry(&r, crc)));
                    writes.push((r.offset, image));
                    job.written.push((r, crc));
                }
                Reserve::NotNeeded => {}
                Reserve::Wait => job.images.push(b),
                Reserve::Breach(w) => {
                    job.images.push(b);
                    breach = Some(w);
                }
            }
        }
        let mut full = breach.as_ref().and_then(|w| branch_of(&self.want.aside, w.pin));
        if breach.is_some() && self.hold_gives_room() {
            self.cfg.snapshots.breach_declined();
            (breach, full) = (None, None);
        }
        let Some(job) = self.merge.jobs.get_mut(&id) else { return };
        if let Some(w) = breach.filter(|_| full.is_none()) {
            job.breach = Some(w.pin);
            writes.push((w.offset, w.bytes));
        }
        job.pending = 1;
        let purpose = Purpose::Merge { job: id, step: MergeStep::SaveImage };
        let nothing = writes.is_empty();
        let op = Op::Scatter { writes, zeroes: Vec::new() };
        job.image_write = Some(op.clone());
        if let Some(name) = full {
            self.cfg.snapshots.breach_declined();
            if nothing {
                // Nothing is written over the branch's content before an operator has given it up.
                job.full = true;
                let at = job.pos;
                return self.merge_stops(at, branch_needs_room("playback", &name));
            }
        }
        self.desk.io(purpose, FileId::Snapshots, op);
    }

    fn merge_part_done(&mut self, id: u64) {
        let merge = &mut self.merge;
        let given_up = merge.saving.contains_key(&id);
        let Some(job) = merge.jobs.get_mut(&id).or_else(|| merge.saving.get_mut(&id)) else {
            return;
        };
        job.pending = job.pending.saturating_sub(1);
        if job.pending > 0 {
            return;
        }
        match job.stage {
            Stage::Body => {}
            Stage::Images
                if !rcp::planted!(ImageNotSynced)
                    && (job.breach.is_some() || job.written.iter().any(|(r, _)| r.must_sync)) =>
            {
                job.stage = Stage::SyncImages;
                job.pending = 1;
                let purpose = Purpose::Merge { job: id, step: MergeStep::SyncImages };
                self.desk.io(purpose, FileId::Snapshots, Op::Sync);
            }
            Stage::Images | Stage::SyncImages => {
                job.image_write = None;
                for (r, crc) in std::mem::take(&mut job.written) {
                    self.cfg.snapshots.commit_copy(&r, crc);
                }
                if let Some(pin) = job.breach.take() {
                    self.cfg.snapshots.breach_written(pin);
                }
                if given_up {
                    self.merge.saving.remove(&id);
                } else {
                    self.merge_images(id);
                }
            }
            Stage::Base => {
                // A sync that began before this moment does not cover it.
                self.commit.base_dirty = true;
                self.commit.hashes_dirty = true;
                self.merge.jobs.remove(&id);
            }
        }
    }

    fn merge_base(&mut self, id: u64) {
        let Some(job) = self.merge.jobs.get_mut(&id) else { return };
        job.stage = Stage::Base;
        // Under a seed chunks come before the header that says how large the volume is.
        let end = job.chunk.iter().flat_map(|(c, _)| c.extents()).map(|e| e.end()).max();
        if !self.base_covers(BlockCount(end.unwrap_or(0))) || self.table_is_taken() {
            return;
        }
        let Some(job) = self.merge.jobs.get(&id).filter(|j| j.pending == 0) else { return };
        let Some((chunk, _)) = &job.chunk else { return };
        let extents: Vec<_> = chunk
            .extents()
            .map(|e| Extent { block: e.block, count: e.count, kind: e.kind })
            .collect();
        let table = self.table_write(runs(&extents, &job.hashes));
        if table.old_is_long() {
            self.pass_again();
            self.merge_base(id);
            return;
        }
        let old = table.old.clone();
        let Some(job) = self.merge.jobs.get_mut(&id) else { return };
        job.table = table;
        if !old.is_empty() {
            job.pending = 1;
            let purpose = Purpose::Merge { job: id, step: MergeStep::OldHashes };
            self.desk.io(purpose, FileId::Hashes, Op::Gather { ranges: old });
            return;
        }
        self.merge_write(id);
    }

    fn merge_old_hashes(&mut self, id: u64, old: &Bytes) {
        let Some(job) = self.merge.jobs.get_mut(&id) else { return };
        job.pending = 0;
        let new = job.table.new;
        self.pass_replaces(old, new);
        self.merge_write(id);
    }

    /// Writes the content and its hashes.
    fn merge_write(&mut self, id: u64) {
        let bs = self.cfg.block_size;
        let Some(job) = self.merge.jobs.get_mut(&id) else { return };
        let Some((chunk, payload)) = job.chunk.take() else { return };
        let table = std::mem::take(&mut job.table);
        let (mut writes, mut zeroes) = (Vec::new(), Vec::new());
        for e in chunk.extents() {
            let offset = bs.offset(BlockIndex(e.block));
            match e.kind {
                ExtentKind::Zero => zeroes.push((offset, u64::from(e.count) << bs.shift())),
                ExtentKind::Data => writes.push((offset, payload.slice(e.range()))),
            }
        }
        job.pending = if table.is_empty() { 1 } else { 2 };
        let purpose = Purpose::Merge { job: id, step: MergeStep::Base };
        self.desk.io(purpose, FileId::Base, Op::Scatter { writes, zeroes });
        if !table.is_empty() {
            let op = Op::Scatter { writes: table.writes, zeroes: table.zeroes };
            let purpose = Purpose::Merge { job: id, step: MergeStep::Hashes };
            self.desk.io(purpose, FileId::Hashes, op);
        }
    }

    /// There is no room for what is at this position: it is tried again, and why it stopped is said
    /// until that is done.
    fn merge_stops(&mut self, at: LogPos, why: impl Into<String>) {
        self.merge.retry_at = Some(self.desk.now.after(FULL_RETRY));
        self.merge.stuck = self.merge.stuck.max(Some(at));
        self.stalls.set(Part::Playback, why);
    }

    /// The file system has no room for the content that states which are held or kept need: nothing
    /// is written over it before there is.
    fn images_full(&mut self, id: u64) {
        let Merge { jobs, saving, .. } = &mut self.merge;
        let Some(job) = jobs.get_mut(&id).or_else(|| saving.get_mut(&id)) else { return };
        job.full = true;
        let at = job.pos;
        self.merge_stops(
            at,
            "playback stopped: no space left to keep what readers and kept states need; free space \
             on its file system, or end those readers, and it goes on by itself",
        );
    }

    /// The disk below the replica is full: keep everything, say so, try again.
    fn merge_full(&mut self) {
        self.pass_again();
        // Parts of that set may be in the content: a seed that folds it in does not end before it.
        if let (Some(to), Some(s)) =
            (self.merge.jobs.values().map(|j| j.to).max(), &mut self.seed_in)
        {
            s.end_not_before(to);
        }
        let back = self.merge.applied_pos();
        self.merge.start(back, self.merge.applied);
        self.merge_stops(
            back,
            "playback stopped: no space left for the volume's content; free space on its file \
             system and it goes on by itself",
        );
    }
}
