//! Receiving a seed: the whole content, while live sets go on (COPY-10, 11; F11). Or a catch-up: the
//! blocks that changed after the state that the content holds, which is not cleared (SAVE-11).
//!
//! The sender reads its *present* content; the live stream is joined at `from` and every live set
//! is folded into the hidden base as it becomes durable. A block that a set has written is never
//! overwritten by an extent that comes later. Once all blocks have come and the set `need` is
//! folded in, the base is exactly that state and becomes visible. Nothing depends on the size of
//! the save volume, so a seed always ends. See `docs/seed.md` for why this is right.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use rcp::proto::clock::Mono;
use rcp::proto::delta::{Chunk, DeltaError, ExtentKind};
use rcp::proto::ids::SetNumber;

use super::desk::{OpenChunk, Purpose, SeedStep, Work};
use super::digest::TableWrite;
use super::images::{blocks_of, untouched};
use super::rewind::Undo;
use super::seed_proof::Proof;
use super::stalls::Part;
use super::{Event, Role, Volume};
use crate::bitmap::BlockSet;
use crate::digest::BlockHash;
use crate::io::{FileId, IoError, Op, Outcome};
use crate::mailbox::{Mailbox, SeedMark};
use crate::units::{BlockCount, BlockIndex};

/// Credit windows of extents after which progress is made durable.
const COMMIT_EVERY: u64 = 2;
/// How long to wait before trying again after the disk was full: at first, and at most.
const FULL_RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The mark that hides the replica is on its way to disk.
    Marking,
    /// The old content is being dropped.
    Clearing,
    /// Extents are welcome.
    Open,
}

/// Part of the content that came.
#[derive(Clone, Debug)]
pub(super) struct Extent {
    /// The sender goes on behind it at this block.
    next_block: u64,
    /// Newest state that anything of it may be of.
    pub(super) view: SetNumber,
    body: Bytes,
}

/// What an extent brings: content and hashes.
#[derive(Debug, Default)]
pub(super) struct Ready {
    pub(super) writes: Vec<(u64, Bytes)>,
    zeroes: Vec<(u64, u64)>,
    table: TableWrite,
}

/// A seed under way.
#[derive(Debug)]
pub(super) struct SeedIn {
    phase: Phase,
    queue: VecDeque<Extent>,
    /// An extent is being opened or written; it is kept, should the disk be full.
    pub(super) busy: Option<Extent>,
    /// What of it is to be written.
    pub(super) ready: Option<Ready>,
    /// Requests that must complete before the next stage.
    pending: usize,
    /// The disk was full: when to try again, and how long to wait after that.
    retry_at: Option<Mono>,
    wait: Duration,
    /// Blocks that live sets have written in this session.
    touched: BlockSet,
    received: u64,
    since_commit: u64,
    /// Written but not durable.
    next_block: u64,
    told: u64,
    need: Option<SetNumber>,
    /// The base may hold parts of sets up to this one, folded in an earlier life.
    pub(super) floor: SetNumber,
    /// Newest state of extents that came from other senders than the present one, or from nobody
    /// knows whom.
    others: SetNumber,
    /// Newest state of extents that came in an earlier life: a crash may have left their content
    /// without their hashes.
    pub(super) unproven: SetNumber,
    pub(super) proof: Proof,
    /// A catch-up: blocks that have come in this life, and how many the sender announced.
    pub(super) came: u64,
    pub(super) planned: u64,
    /// The commit that makes this seed's mark durable: before it, the durable mark, if there is
    /// one, is of a seed whose content this one gives up.
    pub(super) marked_by: u64,
    /// Of content that was kept: the live stream was joined one set before where it had to be.
    pub(super) joined: bool,
    /// How often the sender has said that it has no more, in this life.
    pub(super) ends: u32,
    /// Content that was kept from before is the parent's, block by block, though perhaps of a later
    /// state than is merged here: how many ends had come when that was found.
    pub(super) equal: Option<u32>,
}

impl SeedIn {
    /// Content that was kept from before: a seed goes on at `next_block` once that is marked, in both
    /// slots, by the commit `marked_by` and the one after it.
    pub(super) fn marking(next_block: u64, marked_by: u64, joined: bool) -> Self {
        Self { marked_by, joined, ..Self::new(Phase::Marking, next_block, None) }
    }

    /// Goes on where the mailbox says, in its commit `sequence`; both slots say so, unless the content
    /// is `unproven`.
    pub(super) fn resumed(mark: SeedMark, floor: SetNumber, sequence: u64, unproven: bool) -> Self {
        let fresh = mark.next_block == 0 && mark.need.is_none() || unproven;
        let phase = if fresh { Phase::Marking } else { Phase::Open };
        let need = mark.need.map(|n| n.max(floor));
        Self {
            floor,
            others: mark.view,
            unproven: mark.view,
            marked_by: sequence,
            ..Self::new(phase, mark.next_block, need)
        }
    }

    fn new(phase: Phase, next_block: u64, need: Option<SetNumber>) -> Self {
        Self {
            floor: SetNumber::ZERO,
            others: SetNumber::ZERO,
            unproven: SetNumber::ZERO,
            proof: Proof::default(),
            came: 0,
            planned: 0,
            marked_by: 0,
            joined: false,
            ends: 0,
            equal: None,
            phase,
            queue: VecDeque::new(),
            busy: None,
            ready: None,
            pending: 0,
            retry_at: None,
            wait: FULL_RETRY.0,
            touched: BlockSet::new(),
            received: 0,
            since_commit: 0,
            next_block,
            told: next_block,
            need,
        }
    }

    pub(super) fn timeout(&self) -> Option<Mono> {
        self.retry_at.into_iter().chain(self.proof.timeout()).min()
    }

    /// The block up to which the parent was told that all is durable.
    pub(super) fn told_block(&self) -> u64 {
        self.told
    }

    /// All extents have come and are written.
    pub(super) fn is_filled(&self) -> bool {
        let open = self.phase == Phase::Open && self.need.is_some();
        open && self.queue.is_empty() && self.busy.is_none()
    }

    /// Parts of a set may be in the base, whatever is folded in as yet.
    pub(super) fn end_not_before(&mut self, set: SetNumber) {
        self.floor = self.floor.max(set);
        self.need = self.need.map(|n| n.max(set));
    }

    pub(super) fn touch(&mut self, block: u64, count: u32) {
        self.touched.insert_range(BlockIndex(block), BlockCount(u64::from(count)));
    }
}

impl Volume {
    /// A seed begins: the live stream joins at `from`, everything held before is given up. `blocks`
    /// is the size of the volume as the parent told it last: that of `from`, or of a set after it.
    pub fn seed_begin(&mut self, from: SetNumber, blocks: BlockCount) {
        self.want.blocks = blocks;
        self.join_at(from, "detached: its parent is itself being seeded");
        if matches!(self.cfg.role, Role::Relay) {
            // Nothing to fill: it goes on passing the stream on, from there.
            self.commit.request();
            self.pump();
            return;
        }
        self.hide(from, false);
        self.hold_ends();
        self.want.seed = None;
        self.digest_seeded();
        self.seed_anew(from);
        self.changes_reset(from);
        self.publish_view();
        self.commit.request();
        self.pump();
    }

    /// The live stream joins at `from`: what the log held is given up, and children begin anew.
    pub(super) fn join_at(&mut self, from: SetNumber, why: &str) {
        self.staging = None;
        self.log.reset(from);
        self.commit.log_was_reset();
        self.detach_all(why);
    }

    /// The content is about to be overwritten. What it holds of kept states and branches is saved, if
    /// `keeps`; readers end here, unless they are held.
    pub(super) fn hide(&mut self, from: SetNumber, keeps: bool) {
        if !keeps {
            self.board.forsake_kept();
            self.give_up_kept("a seed or catch-up overwrites the content");
        } else if !self.holds_readers() {
            self.board.forsake();
        }
        self.intake.building = None;
        self.intake.partial = false;
        self.playback.clear();
        self.merge.start(self.log.head(), from);
        self.want.merged = from;
        self.want.visible = self.want.visible.min(from);
    }

    /// Nothing of the hidden content counts any more, be it of extents or of sets that were folded
    /// in: which sets those were, only the log could say.
    pub(super) fn seed_anew(&mut self, from: SetNumber) {
        self.staging = None;
        let over = self.want.seed.and_then(|s| s.over);
        let undo = over.is_some() && self.want.seed.is_some_and(|s| s.undo);
        let held = self.want.seed.filter(|_| over.is_some()).and_then(|s| s.held);
        // A seed's base is cleared; a catch-up keeps what came before.
        let view = if over.is_some() { self.seed_view() } else { SetNumber::ZERO };
        self.want.seed = Some(SeedMark { over, from, next_block: 0, need: None, view, undo, held });
        let marked_by = self.commit.next_sequence(self.durable.sequence);
        let of = |s: &SeedIn| (s.others.min(view), s.unproven.min(view));
        let (others, unproven) = self.seed_in.as_ref().map_or((view, view), of);
        let new = SeedIn::new(Phase::Marking, 0, None);
        self.stalls.clear(Part::Seed);
        self.seed_in = Some(SeedIn { marked_by, others, unproven, ..new });
    }

    /// Newest state that the extents which may be in the base are of.
    pub(super) fn seed_view(&self) -> SetNumber {
        let of = |m: Option<SeedMark>| m.map_or(SetNumber::ZERO, |m| m.view);
        of(self.want.seed).max(of(self.durable.seed))
    }

    /// The durable mark is that of the present seed.
    fn seed_marked(&self) -> bool {
        self.seed_in.as_ref().is_none_or(|s| self.durable.sequence >= s.marked_by)
    }

    /// Goes on with a seed after a restart or reconnect.
    pub fn seed_resume(&mut self) {
        if self.stage_is_open() {
            return self.stage_resume();
        }
        if let Some(mark) = self.durable.seed.filter(|_| self.seed_marked()) {
            let was = self.seed_in.take();
            if was.as_ref().is_some_and(|s| s.phase == Phase::Marking) {
                // Nothing has come yet.
                self.seed_in = was;
                self.commit.request();
                self.pump();
                return;
            }
            let floor = was.as_ref().map_or(SetNumber::ZERO, |s| s.floor);
            let resumed = SeedIn::resumed(mark, floor, self.durable.sequence, false);
            // It is tried at once; what fails then says so.
            self.stalls.clear(Part::Seed);
            self.seed_in = Some(match was {
                None => resumed,
                Some(was) => {
                    let SeedIn { touched, came, planned, others, unproven, joined, .. } = was;
                    let (ends, equal) = (was.ends, was.equal);
                    let known = SeedIn { touched, came, planned, others, unproven, ..resumed };
                    SeedIn { joined, ends, equal, ..known }
                }
            });
            self.commit.request();
            self.pump();
        }
    }

    /// Where a seed stands: first block wanted, and the state up to which the base may already
    /// hold live sets. `None` when the volume is not being seeded.
    #[must_use]
    pub fn seed_position(&self) -> Option<(u64, SetNumber)> {
        if let Some((from, _, next_block)) = self.stage_joins() {
            return Some((next_block, from));
        }
        // Also before it is durable: the log was emptied already.
        let mark = self.durable.seed.filter(|_| self.seed_marked()).or(self.want.seed)?;
        let folded = self.log.open_step().map_or(self.log.state(), |s| s.id.to);
        // What is kept of the content may hold parts of what was shown or folded in before.
        let keeps = mark.over.is_some() || self.seed_is_unproven();
        let kept = if keeps { self.want.hidden_until } else { SetNumber::ZERO };
        Some((mark.next_block, folded.max(kept)))
    }

    /// Total bytes of extents the sender may have sent in this session.
    #[must_use]
    pub fn seed_credit(&self) -> u64 {
        match &self.seed_in {
            Some(s) if s.phase == Phase::Open => {
                let waiting: u64 = s.queue.iter().map(|e| e.body.len() as u64).sum();
                s.received + self.cfg.window.saturating_sub(waiting)
            }
            _ => self.stage_credit(),
        }
    }

    /// An extent came, nothing of which is of a state newer than `view`; behind it the sender goes
    /// on at `next_block`.
    pub fn receive_seed(&mut self, next_block: u64, view: SetNumber, chunk: &Chunk) {
        if self.stage_is_open() {
            return self.stage_extent(next_block, view, chunk);
        }
        if let Some(s) = &mut self.seed_in {
            s.received += chunk.bytes().len() as u64;
            // Once the end is known the content is whole. A sender that was told an earlier block
            // would show states behind that end.
            if s.need.is_some() {
                return;
            }
            s.queue.push_back(Extent { next_block, view, body: chunk.bytes().clone() });
            self.pump();
        }
    }

    /// What comes from here on comes from another sender.
    pub fn seed_sender_changed(&mut self) {
        self.stage_sender_changed();
        let view = self.seed_view();
        if let Some(s) = &mut self.seed_in {
            s.others = view;
        }
        if self.seed_is_unproven() {
            self.digest.compare.forget();
        }
    }

    /// All extents have been sent; the base is whole once `need` is folded in. The writer itself
    /// knows of all that any extent can hold: after a crash its open set may have a lower number.
    pub fn receive_seed_end(&mut self, need: SetNumber, by_writer: bool) {
        if self.stage_is_open() {
            return self.stage_end(need, by_writer);
        }
        // A catch-up builds on content that may hold parts of what was shown before.
        let catch_up = self.want.seed.is_some_and(|m| m.over.is_some());
        let keeps = catch_up || self.seed_is_unproven();
        let shown = if keeps { self.want.hidden_until } else { SetNumber::ZERO };
        if let Some(s) = &mut self.seed_in {
            // Another sender may have been further than this one.
            let others = if by_writer { SetNumber::ZERO } else { s.others };
            s.need = Some(need.max(s.floor).max(shown).max(others));
            s.ends += 1;
            self.pump();
        }
    }

    /// A full seed is about to clear what the content holds.
    fn seed_clears(&self) -> bool {
        let mark = self.want.seed.or(self.durable.seed);
        mark.is_some_and(SeedMark::is_empty)
            && self.seed_in.as_ref().is_some_and(|s| s.phase == Phase::Marking)
    }

    /// The base is being written by the seed: live sets wait their turn.
    pub(super) fn seed_in_open(&self) -> bool {
        self.seed_in.as_ref().is_some_and(|s| s.phase == Phase::Open)
    }

    /// The base is being written by the seed: live sets wait their turn.
    pub(super) fn seed_in_writing(&self) -> bool {
        self.seed_in.as_ref().is_some_and(|s| s.busy.is_some() || s.phase != Phase::Open)
            || self.seed_in_strays()
    }

    /// An extent of an attachment that has ended is still being opened or written.
    fn seed_in_strays(&self) -> bool {
        self.seed_in.as_ref().is_none_or(|s| s.busy.is_none())
            && (self.images.is_active()
                || self.desk.any(|p| {
                    let clears = Purpose::SeedIn(SeedStep::Clear);
                    let clears_hashes = Purpose::SeedIn(SeedStep::ClearHashes);
                    matches!(p, Purpose::SeedIn(_) | Purpose::SeedOpen)
                        && *p != clears
                        && *p != clears_hashes
                }))
    }

    pub(super) fn pump_seed_in(&mut self) {
        let blocked = self.seed_in_strays() || self.base_being_written() || self.table_is_taken();
        let marked = self.seed_marked() && self.durable.seed.is_some();
        let (had, now) = (self.base_blocks(), self.desk.now);
        if !self.seed_clears() {
            self.stalls.clear(Part::Branches);
        }
        let Some(s) = &mut self.seed_in else { return };
        s.proof = s.proof.at(now);
        if blocked && s.busy.is_none() || s.retry_at.is_some_and(|t| now < t) {
            return;
        }
        s.retry_at = None;
        if s.phase == Phase::Marking && marked && self.merge.is_idle() {
            if self.durable.sequence <= s.marked_by && !rcp::planted!(SeedMarkInOneSlot) {
                // In both slots, before the content is touched: should one of them be damaged later,
                // the other one must not show what is no longer there.
                self.commit.request();
                return;
            }
            if let Some(mark) = self.durable.seed.filter(|m| !m.is_empty()) {
                s.phase = Phase::Open;
                self.stalls.clear(Part::Seed);
                self.desk.event(Event::SeedSaved { next_block: mark.next_block });
                return;
            }
            if self.seed_waits_for_branches() {
                return;
            }
            let Some(s) = &mut self.seed_in else { return };
            s.phase = Phase::Clearing;
            s.touched = BlockSet::new();
            s.pending = 2;
            let len = self.cfg.block_size.offset(BlockIndex(had.0));
            self.desk.io(
                Purpose::SeedIn(SeedStep::Clear),
                FileId::Base,
                Op::Zero { offset: 0, len },
            );
            let op = self.table_reset();
            self.desk.io(Purpose::SeedIn(SeedStep::ClearHashes), FileId::Hashes, op);
            return;
        }
        if s.phase != Phase::Open || s.busy.is_some() || !self.merge.is_idle() {
            return;
        }
        if let Some((end, view)) = s.queue.front().map(|e| (BlockCount(e.next_block), e.view))
            && (!self.base_covers(end) || !self.view_is_durable(view))
        {
            return;
        }
        let Some(s) = &mut self.seed_in else { return };
        if let Some(extent) = s.queue.pop_front() {
            let body = extent.body.clone();
            s.busy = Some(extent);
            s.since_commit += body.len() as u64;
            self.desk.work(Purpose::SeedOpen, Work::Open(body, true));
            return;
        }
        let Some(need) = s.need else { return };
        let Some(mark) = self.want.seed else { return };
        if mark.need.is_none() {
            self.want.seed = Some(SeedMark { next_block: s.next_block, need: Some(need), ..mark });
            self.commit.base_dirty = true;
            self.commit.request();
        }
        if self.is_between_sets()
            && self.want.seed.is_some()
            && self.digest_ready()
            && (self.want.merged >= need && self.seed_needs_no_proof() || self.seed_is_proven())
        {
            self.seed_ends();
        }
    }

    /// The content is the state that was waited for: it is shown.
    fn seed_ends(&mut self) {
        self.content_is_proven();
        self.hold_ends();
        self.want.seed = None;
        self.want.visible = self.want.merged;
        self.want.hidden_until = SetNumber::ZERO;
        self.digest_settled(self.want.visible);
        self.commit.base_dirty = true;
        self.commit.request();
    }

    /// Nothing of a state may be in the base before a restart would know of it.
    fn view_is_durable(&mut self, view: SetNumber) -> bool {
        if self.durable.seed.is_some_and(|m| m.view >= view) {
            return true;
        }
        if let Some(mark) = self.want.seed.as_mut().filter(|m| m.view < view) {
            mark.view = view;
            self.commit.request();
        }
        false
    }

    pub(super) fn seed_in_opened(&mut self, opened: Result<OpenChunk, DeltaError>) {
        let bs = self.cfg.block_size;
        let Some(s) = self.seed_in.as_mut().filter(|s| s.busy.is_some()) else { return };
        let OpenChunk { chunk, payload, hashes } = match opened {
            Ok(x) => x,
            Err(e) => {
                let reason = format!("an extent of the seed is damaged: {e}");
                self.desk.event(Event::NeedsSeed { reason });
                return;
            }
        };
        let (mut writes, mut zeroes) = (Vec::new(), Vec::new());
        let hashes = hashes.unwrap_or_default();
        let mut rows: Vec<(u64, u64, Option<&[BlockHash]>)> = Vec::new();
        let mut rest = &hashes[..];
        let catch_up = self.want.seed.filter(|m| m.over.is_some());
        for e in chunk.extents() {
            let count = u64::from(e.count);
            let data = if e.kind == ExtentKind::Data { e.count as usize } else { 0 };
            let (own, later) = rest.split_at(data.min(rest.len()));
            rest = later;
            if let Some(mark) = catch_up {
                s.came += count;
                self.changes.note(mark.from, e.block, count);
            }
            for (first, count) in untouched(&s.touched, e.block, count) {
                if e.kind == ExtentKind::Zero {
                    // A seed's need no write: the base was cleared before the first extent, and
                    // what a set has written since is newer.
                    if catch_up.is_some() {
                        zeroes.push((bs.offset(BlockIndex(first)), count << bs.shift()));
                        rows.push((first, count, None));
                    }
                    continue;
                }
                let at = usize::try_from(first - e.block).unwrap_or(usize::MAX).min(own.len());
                let n = usize::try_from(count).unwrap_or(usize::MAX).min(own.len() - at);
                rows.push((first, count, Some(&own[at..at + n])));
                let from = e.range().start
                    + usize::try_from((first - e.block) << bs.shift()).unwrap_or(usize::MAX);
                let len = usize::try_from(count << bs.shift()).unwrap_or(0);
                writes.push((bs.offset(BlockIndex(first)), payload.slice(from..from + len)));
            }
        }
        if writes.is_empty() && zeroes.is_empty() {
            self.seed_extent_written();
            return;
        }
        let mut table = self.table_write(rows.iter().copied());
        if table.old_is_long() {
            self.pass_again();
            table = self.table_write(rows.into_iter());
        }
        let Some(s) = &mut self.seed_in else { return };
        let blocks: Vec<_> = blocks_of(bs, &writes, &zeroes).collect();
        s.ready = Some(Ready { writes, zeroes, table });
        if !self.images_first(blocks.into_iter()) {
            self.seed_extent_go();
        }
    }

    /// An extent is written, once nobody needs what it replaces.
    pub(super) fn seed_extent_go(&mut self) {
        let ready = self.seed_in.as_ref().and_then(|s| s.ready.as_ref());
        // Otherwise of an attachment that has ended.
        let Some(old) = ready.map(|r| r.table.old.clone()) else { return };
        if old.is_empty() {
            self.seed_extent_write();
        } else {
            let op = Op::Gather { ranges: old };
            self.desk.io(Purpose::SeedIn(SeedStep::OldHashes), FileId::Hashes, op);
        }
    }

    /// Writes an extent and its hashes.
    fn seed_extent_write(&mut self) {
        let Some(s) = &mut self.seed_in else { return };
        let Some(Ready { writes, zeroes, table }) = s.ready.take() else { return };
        s.pending = if table.is_empty() { 1 } else { 2 };
        let op = Op::Scatter { writes, zeroes };
        self.desk.io(Purpose::SeedIn(SeedStep::Base), FileId::Base, op);
        if !table.is_empty() {
            let op = Op::Scatter { writes: table.writes, zeroes: table.zeroes };
            self.desk.io(Purpose::SeedIn(SeedStep::Hashes), FileId::Hashes, op);
        }
    }

    pub(super) fn seed_in_io_done(&mut self, step: SeedStep, outcome: &Outcome) {
        use SeedStep::{ImagesProof, ImagesRead, ImagesSync, ImagesWrite};
        if matches!(step, ImagesRead | ImagesProof | ImagesWrite | ImagesSync) {
            self.images_io_done(step, outcome);
            return;
        }
        if let (SeedStep::OldHashes, Outcome::Read(old)) = (step, outcome) {
            let new = self.seed_in.as_ref().and_then(|s| s.ready.as_ref()).map(|r| r.table.new);
            // Otherwise a stray of an attachment that has ended: nothing is written.
            if let Some(new) = new {
                self.pass_replaces(old, new);
                self.seed_extent_write();
            }
            return;
        }
        if *outcome == Outcome::Failed(IoError::NoSpace) {
            self.seed_in_full(step);
            return;
        }
        if *outcome != Outcome::Done {
            let what = match step {
                SeedStep::Clear => "clearing the volume's content",
                SeedStep::OldHashes => "read from the table of hashes",
                SeedStep::ClearHashes | SeedStep::Hashes => "write to the table of hashes",
                _ => "write to the volume's content",
            };
            self.fail_io(what, outcome);
            return;
        }
        self.commit.base_dirty = true;
        self.commit.hashes_dirty = true;
        if let Some(s) = &mut self.seed_in {
            s.pending = s.pending.saturating_sub(1);
            if s.pending > 0 {
                return;
            }
        }
        match step {
            SeedStep::Clear | SeedStep::ClearHashes => {
                let Some(s) = self.seed_in.as_mut().filter(|s| s.phase == Phase::Clearing) else {
                    // Of a seed that was given up: it is cleared once more.
                    return;
                };
                s.phase = Phase::Open;
                s.wait = FULL_RETRY.0;
                self.stalls.clear(Part::Seed);
                self.digest_cleared();
                self.desk.event(Event::SeedSaved { next_block: 0 });
            }
            SeedStep::Base | SeedStep::Hashes => self.seed_extent_written(),
            _ => {}
        }
    }

    /// The disk below the replica is full: keep what came, say so, try again.
    fn seed_in_full(&mut self, step: SeedStep) {
        let now = self.desk.now;
        self.pass_again();
        let Some(s) = &mut self.seed_in else { return };
        match step {
            SeedStep::Clear | SeedStep::ClearHashes => s.phase = Phase::Marking,
            _ => {
                // Otherwise a stray of an attachment that has ended.
                let Some(extent) = s.busy.take() else { return };
                s.queue.push_front(extent);
            }
        }
        s.retry_at = Some(now.after(s.wait));
        let seconds = s.wait.as_secs();
        s.wait = (s.wait * 2).min(FULL_RETRY.1);
        let what = if self.catch_up_progress().is_some() { "catch-up" } else { "seed" };
        let words = format!(
            "the {what} has stopped: no space left for the volume's content; free space on its file \
             system and it goes on by itself (tried again every {seconds} s)"
        );
        self.stalls.set(Part::Seed, words);
    }

    fn seed_extent_written(&mut self) {
        let Some(s) = &mut self.seed_in else { return };
        self.commit.base_dirty = true;
        // Otherwise a stray of an attachment that has ended.
        let Some(extent) = s.busy.take() else { return };
        s.wait = FULL_RETRY.0;
        self.stalls.clear(Part::Seed);
        s.next_block = extent.next_block;
        let progressed = s.since_commit >= COMMIT_EVERY * self.cfg.window;
        if let Some(mark) = &mut self.want.seed {
            mark.next_block = s.next_block;
        }
        if progressed {
            s.since_commit = 0;
            self.commit.request();
        }
        self.desk.event(Event::Room);
    }

    pub(super) fn seed_in_committed(&mut self, before: &Mailbox) {
        // What was on its way when a new seed began is of the one before.
        if !self.seed_marked() {
            return;
        }
        match (before.seed, self.durable.seed) {
            (Some(mark), None) => {
                self.seed_in = None;
                self.stage_refused = None;
                self.stalls.clear(Part::Seed);
                self.undo = Undo::Unknown;
                self.doubts_fetched();
                let step = if mark.over.is_some() { "a catch-up" } else { "a seed" };
                self.keep_reached(self.durable.merged, step);
                self.board.advance(self.durable.merged);
            }
            (_, Some(mark)) => {
                if let Some(s) = &mut self.seed_in
                    && mark.next_block > s.told
                {
                    s.told = mark.next_block;
                    self.desk.event(Event::SeedSaved { next_block: mark.next_block });
                }
            }
            _ => {}
        }
    }
}
