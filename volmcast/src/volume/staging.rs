//! Receiving a catch-up without hiding anything: the blocks that changed go into the save volume, as
//! one step, and the content stays what it is until that step and the live sets after it make a state
//! (SAVE-11, PLAY-03).
//!
//! ```text
//! staged ─► extents: chunks of the step (last complete set → from) ─► its end ─► live sets … need
//!   what is visible stays visible, with its readers and kept states    └► shown at once, merged as ever
//! ```
//!
//! The live stream waits until the step has its end, so that the log has nothing out of order. What the
//! step leads to is no state before `need`: nothing between is shown, kept, proven or acknowledged.
//! `docs/catch-up.md` says why `need` is one.

use std::collections::VecDeque;
use std::time::Duration;

use rcp::proto::clock::{Mono, Wall};
use rcp::proto::delta::{Chunk, SetFlags, SetHeader, StepId};
use rcp::proto::ids::{Attempt, ChunkNumber, Generation, SetNumber};

use super::{Event, IntakeError, Role, Volume};
use crate::history::line_of;
use crate::mailbox::{Mailbox, StageMark};
use crate::save::RecordKind;
use crate::save::log::{STAGED, Step};
use crate::units::{BlockCount, LogPos};
use crate::view::Layer;

/// How long after the last live set a staged catch-up waits for the one that it needs: as long as the
/// end of a seed does, see [`super::seed_proof`].
const PATIENCE: Duration = Duration::from_secs(10);

/// What came of the live stream before the step had its end.
#[derive(Debug)]
enum Early {
    Chunk(Chunk),
    End(Box<SetHeader>),
}

/// A catch-up that is staged.
#[derive(Debug)]
pub(super) struct Staging {
    over: SetNumber,
    id: StepId,
    view: SetNumber,
    need: Option<SetNumber>,
    /// Position behind the end of the step, once it has one.
    end: Option<LogPos>,
    /// First block that is not in the log.
    next_block: u64,
    /// Ends of chunks that are not durable, and where the sender goes on behind each.
    written: VecDeque<(LogPos, u64)>,
    /// Blocks in the step.
    blocks: u64,
    /// Size of the volume, as the parent told it last.
    volume: BlockCount,
    early: VecDeque<Early>,
    early_bytes: u64,
    received: u64,
    /// Blocks that the sender announced: 0 after a restart.
    planned: u64,
    pub(super) marked_by: u64,
    told: u64,
}

impl Staging {
    /// Nothing has come, over this state.
    fn new(id: StepId, over: SetNumber, volume: BlockCount, marked_by: u64) -> Self {
        Self {
            over,
            id,
            view: id.to,
            need: None,
            end: None,
            next_block: 0,
            written: VecDeque::new(),
            blocks: 0,
            volume,
            early: VecDeque::new(),
            early_bytes: 0,
            received: 0,
            planned: 0,
            marked_by,
            told: 0,
        }
    }

    fn mark(&self) -> StageMark {
        let (over, from, view) = (self.over, self.id.to, self.view);
        StageMark { over, from, next_block: self.next_block, need: self.need, view }
    }

    /// What a slot says of it, where its end is, how many blocks have come, and what the sender was
    /// told.
    pub(super) fn standing(&self) -> (StageMark, Option<LogPos>, (u64, u64)) {
        (self.mark(), self.end, (self.blocks, self.told))
    }

    /// A state that is none.
    fn hides(&self, set: SetNumber) -> bool {
        let before = self.need.is_none_or(|n| set < n) && !rcp::planted!(StagedShown);
        set >= self.id.to && before
    }
}

impl Volume {
    /// A catch-up begins at `from`, of so many blocks. If they fit the save volume it is staged:
    /// what is visible stays so. False: it is to be applied in place.
    pub fn catch_up_stage(&mut self, from: SetNumber, volume: BlockCount, blocks: u64) -> bool {
        self.stage_drop();
        let bytes = blocks << self.cfg.block_size.shift();
        let Some(generation) = line_of(&self.want.history, from) else { return false };
        let (Some(over), true) = (self.catch_up_base(), self.may_stage(from, bytes)) else {
            return false;
        };
        self.log.abandon_open_step();
        self.intake.building = None;
        self.intake.partial = false;
        self.detach_all("detached: its parent is itself being caught up");
        if let Some(hold) = self.merge_hold() {
            self.log.trim(hold);
        }
        let id = self.stage_step(from, generation);
        let marked_by = self.commit.next_sequence(self.durable.sequence);
        let volume = volume.max(self.want.blocks);
        let new = Staging::new(id, over, volume, marked_by);
        self.staging = Some(Staging { planned: blocks, ..new });
        self.commit.request();
        self.pump();
        true
    }

    /// The content is whole, nobody waits for it to be another, and half of the room that there is for
    /// the stream holds the blocks: the other half is for live sets, which wait for nothing then.
    fn may_stage(&mut self, from: SetNumber, bytes: u64) -> bool {
        let room = self.stage_room();
        self.can_stage() && from > self.log.state() && bytes > 0 && bytes <= room / 2
    }

    /// Bytes of blocks that could be staged just now in place of sets that could be had as well: none
    /// if a state is wanted that the step might lead past, or somebody is fed from here, who would
    /// have to be caught up in turn.
    pub fn stage_offer(&mut self) -> u64 {
        let free = self.consumers.len() == 0 && self.keeps_waiting.is_empty();
        if free && self.can_stage() { self.stage_room() / 2 } else { 0 }
    }

    /// What is staged and not whole leads past a state, or may do so: from which one on there are
    /// states again, if that is known.
    pub(super) fn stage_passes(&self, set: SetNumber) -> Option<Option<SetNumber>> {
        let s = self.staging.as_ref().filter(|_| self.stage_is_unshown())?;
        (set > s.id.base && s.need.is_none_or(|need| set < need)).then_some(s.need)
    }

    /// The content is whole, and nobody waits for it to be another.
    fn can_stage(&self) -> bool {
        let replica = matches!(self.cfg.role, Role::Replica { .. });
        let whole = self.unwhole().is_none()
            && self.want.visible > SetNumber::ZERO
            && self.seed_in.is_none()
            && self.staging.is_none()
            && self.digest.doubts.is_empty();
        let goes_on = self.is_replicating() && self.playback.ending.is_none();
        replica
            && whole
            && goes_on
            && !self.is_mirroring()
            && self.stage_refused.is_none_or(|at| self.want.visible > at)
    }

    /// Room for the stream once what is merged is given back: no child is fed with it any more.
    fn stage_room(&mut self) -> u64 {
        let hold = self.merge_hold().unwrap_or(self.log.head()).max(self.log.tail());
        let capacity = self.log.ring().capacity();
        let room = capacity.saturating_sub(self.log.head().since(hold) + capacity / 16);
        room - room / 8
    }

    /// The slot has the mark of what is staged now, not that of what was given up before.
    pub(super) fn stage_is_marked(&self) -> bool {
        self.staging.as_ref().is_some_and(|s| self.durable.sequence >= s.marked_by)
    }

    /// Extents are still to come.
    pub(super) fn stage_is_open(&self) -> bool {
        self.staging.as_ref().is_some_and(|s| s.end.is_none())
    }

    /// The live sets that the step needs are not all here.
    pub(super) fn stage_lacks(&self) -> bool {
        let held = self.log.state();
        self.staging.as_ref().is_some_and(|s| s.end.is_none() || s.need.is_none_or(|n| held < n))
    }

    /// The state before the step, if what is `held` is none of those after it.
    pub(super) fn stage_base(&self, held: SetNumber) -> Option<SetNumber> {
        let s = self.staging.as_ref()?;
        let none = held >= s.id.base && s.need.is_none_or(|n| held < n);
        none.then_some(s.id.base)
    }

    /// Steps after `at` are dropped: where that takes something from what is staged, all of it goes.
    pub(super) fn stage_drops(&mut self, at: SetNumber) -> SetNumber {
        let cut = |s: &Staging| s.end.is_none() || s.need.is_none_or(|n| at < n);
        match self.staging.take_if(|s| cut(s)) {
            Some(s) => at.min(s.id.base),
            None => at,
        }
    }

    /// The step or a set after it leads to no state.
    pub(super) fn stage_hides(&self, set: SetNumber) -> bool {
        self.staging.as_ref().is_some_and(|s| s.hides(set))
    }

    /// Something is staged that is not shown.
    pub(super) fn stage_is_unshown(&self) -> bool {
        self.staging.as_ref().is_some_and(|s| s.need.is_none_or(|n| self.want.visible < n))
    }

    /// Of the parent: which state the live stream goes on after, while extents are to come.
    pub(super) fn stage_joins(&self) -> Option<(SetNumber, SetNumber, u64)> {
        let s = self.staging.as_ref().filter(|s| s.end.is_none())?;
        Some((s.id.to, s.over, s.next_block))
    }

    /// Where the stream from the parent goes on: the last state whose successors are wanted, and the
    /// step that has come in part.
    #[must_use]
    pub fn stream_position(&self) -> (SetNumber, Option<(StepId, ChunkNumber)>) {
        match self.stage_joins() {
            Some((from, ..)) => (from, None),
            None => (self.log.state(), self.open_step()),
        }
    }

    /// Why nobody can be fed from here, in words: the log holds a step that is not passed on, and the
    /// content is between two states.
    pub(super) fn stage_words(&self) -> Option<String> {
        self.staging.as_ref()?;
        Some(self.staging_words().unwrap_or_else(|| "a catch-up is being merged".to_owned()))
    }

    /// How far a staged catch-up is, in words, until it is shown.
    pub(super) fn staging_words(&self) -> Option<String> {
        let s = self.staging.as_ref().filter(|_| self.stage_is_unshown())?;
        Some(match s.need.filter(|_| s.end.is_some()) {
            Some(n) => format!("catching up: all blocks have come, waiting for set {n}"),
            None => self.catching_up_words("catching up", (s.blocks, s.planned)),
        })
    }

    /// Of a staged catch-up: blocks that have come, and how many were announced (0: not known).
    #[must_use]
    pub fn staged_progress(&self) -> Option<(u64, u64)> {
        let s = self.staging.as_ref().filter(|_| self.stage_is_unshown())?;
        Some((s.blocks, s.planned))
    }

    pub(super) fn stage_credit(&self) -> u64 {
        let Some(s) = &self.staging else { return 0 };
        let marked = self.durable.staged.is_some() && self.durable.sequence >= s.marked_by;
        if s.end.is_some() || !marked {
            return 0;
        }
        let waiting = self.log.head().since(self.durable.log_head);
        s.received + self.cfg.window.saturating_sub(waiting)
    }

    /// The connection is a new one: what came over the one before comes once more.
    pub(super) fn stage_attached(&mut self) {
        if let Some(s) = &mut self.staging {
            s.received = 0;
            s.early.clear();
            s.early_bytes = 0;
        }
    }

    /// The sender goes on.
    pub(super) fn stage_resume(&mut self) {
        if let Some(s) = &self.staging {
            self.desk.event(Event::SeedSaved { next_block: s.next_block });
            self.pump();
        }
    }

    /// An extent came.
    pub(super) fn stage_extent(&mut self, next_block: u64, view: SetNumber, extent: &Chunk) {
        let short = self.short_room();
        let Some(s) = self.staging.as_mut().filter(|s| s.end.is_none()) else { return };
        let len = extent.bytes().len() as u64;
        s.received += len;
        let first = extent.extents().next().map_or(0, |e| e.block);
        if first < s.next_block {
            return self.stage_give_up("an extent came twice");
        }
        if self.log.free() < len + short {
            return self.stage_give_up("the save volume has no room for the blocks that changed");
        }
        let number = ChunkNumber(self.log.open_step().map_or(0, |step| step.chunks));
        let (id, chunk) = (s.id, extent.in_step(s.id, number));
        let Some((pos, end)) = self.append(RecordKind::Chunk, id.to, number, chunk.bytes()) else {
            return self.stage_give_up("the save volume has no room for the blocks that changed");
        };
        let Some(s) = &mut self.staging else { return };
        s.next_block = next_block;
        s.view = s.view.max(view);
        s.blocks += chunk.block_count();
        s.written.push_back((end, next_block));
        let last = chunk.extents().map(|e| e.end()).max().unwrap_or(0);
        s.volume = s.volume.max(BlockCount(last));
        self.log.enter_chunk(pos, id, number, chunk.body_crc(), end.since(pos));
        let layer = self.intake.building.get_or_insert_with(|| Layer::new(id, pos));
        layer.push(pos, &chunk);
        self.hash_chunk_at(pos, chunk.bytes().clone());
        self.pump();
    }

    /// All extents have come: the step gets its end, and the live stream goes on behind it.
    pub(super) fn stage_end(&mut self, need: SetNumber, by_writer: bool) {
        let cut_time = self.cut_time(self.want.visible).unwrap_or(Wall(0));
        let Some(s) = self.staging.as_mut().filter(|s| s.end.is_none()) else { return };
        // Another sender may have been further than this one, but not further than the writer.
        let view = if by_writer { SetNumber::ZERO } else { s.view };
        let open = self.log.open_step().filter(|step| step.id == s.id);
        let (chunks, sum) = open.map_or((0, None), |o| (o.chunks, o.sum.total(o.chunks)));
        let header = SetHeader {
            step: s.id,
            chunk_count: chunks,
            block_count: s.blocks,
            volume_blocks: s.volume.0,
            block_shift: self.cfg.block_size.shift(),
            cut_time,
            flags: SetFlags::DIGEST_ABSENT,
            digest: [0; 32],
            chunk_list_crc: sum.unwrap_or(0),
        };
        let (id, n) = (s.id, ChunkNumber(chunks));
        let bytes = header.to_bytes();
        let Some((pos, end)) = self.append(RecordKind::SetEnd, id.to, n, &bytes) else {
            return self.stage_give_up("the save volume has no room for the blocks that changed");
        };
        self.log.enter_end(pos, end, header);
        let mut layer = self.intake.building.take().unwrap_or_else(|| Layer::new(id, pos));
        layer.seal(cut_time, BlockCount(header.volume_blocks));
        self.playback.complete(layer, end);
        self.intake.last_at = self.desk.now;
        let Some(s) = &mut self.staging else { return };
        s.need = Some(need.max(id.to).max(view));
        s.end = Some(end);
        s.early_bytes = 0;
        let early = std::mem::take(&mut s.early);
        for e in early {
            let taken = match e {
                Early::Chunk(c) => self.receive_chunk(&c),
                Early::End(h) => self.receive_set_end(&h),
            };
            if let Err(e) = taken {
                self.desk.event(Event::Staged { text: e.to_string() });
                break;
            }
        }
        self.desk.event(Event::Room);
        self.pump();
    }

    /// Something of the live stream came before the step has its end: it was granted before.
    fn stage_early(&mut self, early: Early, len: u64) -> Result<(), IntakeError> {
        let most = 2 * self.cfg.window;
        let Some(s) = &mut self.staging else { return Ok(()) };
        s.early_bytes += len;
        if s.early_bytes > most {
            return Err(IntakeError::Overrun);
        }
        s.early.push_back(early);
        Ok(())
    }

    pub(super) fn stage_early_chunk(&mut self, chunk: &Chunk) -> Result<(), IntakeError> {
        self.stage_early(Early::Chunk(chunk.clone()), chunk.bytes().len() as u64)
    }

    pub(super) fn stage_early_end(&mut self, header: &SetHeader) -> Result<(), IntakeError> {
        let len = header.to_bytes().len() as u64;
        self.stage_early(Early::End(Box::new(*header)), len)
    }

    /// What is staged is given up: what is visible stays, and the stream begins anew behind it.
    pub(super) fn stage_drop(&mut self) {
        let Some(s) = self.staging.take() else { return };
        if s.need.is_some_and(|n| self.want.visible >= n) {
            // It is shown: its steps are as any others.
            self.staging = Some(s);
            return;
        }
        self.drop_steps_after(s.id.base);
        self.commit.request();
    }

    /// As [`stage_drop`](Self::stage_drop), and what changed comes once more, into the content.
    fn stage_give_up(&mut self, why: &str) {
        self.stage_drop();
        self.stage_refused = Some(self.want.visible);
        let text = format!(
            "{why}: the catch-up begins anew, and what is here is hidden for it, unless the sets that \
             it stood for can still be had"
        );
        self.desk.event(Event::Staged { text });
    }

    /// The sender is another one: it may be behind what the extents hold.
    pub(super) fn stage_sender_changed(&mut self) {
        if self.stage_is_open() {
            self.stage_drop();
        }
    }

    pub(super) fn pump_staging(&mut self) {
        let Some(s) = &self.staging else { return };
        if s.need.is_some_and(|n| self.durable.merged >= n && self.want.merged >= n) {
            self.staging = None;
            self.commit.request();
            return;
        }
        if !self.stage_is_unshown() {
            return;
        }
        if !self.digest.doubts.is_empty() || self.want.digest.differs > SetNumber::ZERO {
            // Damaged blocks come by a catch-up of their own, at once.
            return self.stage_give_up("damaged blocks are fetched again");
        }
        if self.stage_is_open() || !self.stage_lacks() {
            return;
        }
        let short = self.log.free() + self.log.reclaimable() < self.short_room();
        if short && !self.commit.is_busy() {
            self.stage_give_up("the save volume has no room for the sets that came meanwhile");
        } else if self.stage_timeout().is_some_and(|end| self.desk.now >= end) {
            self.stage_give_up("the set that is needed does not come");
        }
    }

    pub(super) fn stage_timeout(&self) -> Option<Mono> {
        let waits = self.intake.runs && self.stage_lacks() && !self.stage_is_open();
        waits.then(|| self.intake.last_at.after(PATIENCE))
    }

    /// What a commit says of it: no more than is in the part of the log that it names.
    pub(super) fn stage_for(&mut self, m: &mut Mailbox) {
        m.staged = None;
        let head = m.log_head;
        if let Some(s) = self.staging.as_ref().filter(|_| m.seed.is_none()) {
            let lacks = s.written.iter().find(|(end, _)| *end > head);
            let before = s.written.iter().rev().find(|(end, _)| *end <= head);
            let ended = s.end.is_some_and(|end| end <= head);
            let next = match (lacks, before) {
                (None, _) => s.next_block,
                (_, Some((_, next))) => *next,
                (_, None) => s.told,
            };
            m.staged =
                Some(StageMark { next_block: next, need: s.need.filter(|_| ended), ..s.mark() });
        }
    }

    pub(super) fn stage_committed(&mut self) {
        let (head, mark) = (self.durable.log_head, self.durable.staged);
        let (Some(s), Some(mark)) = (&mut self.staging, mark) else { return };
        if self.durable.sequence < s.marked_by {
            return;
        }
        while s.written.front().is_some_and(|(end, _)| *end <= head) {
            s.written.pop_front();
        }
        s.told = mark.next_block;
        if s.end.is_none() {
            self.desk.event(Event::SeedSaved { next_block: mark.next_block });
        }
    }

    /// After the save volume was scanned: goes on where the mailbox says, and drops what was given up
    /// before.
    pub(super) fn stage_recover(&mut self) {
        let (mark, visible) = (self.durable.staged, self.durable.visible);
        let shown = mark.and_then(|m| m.need).is_some_and(|n| visible >= n);
        let is_it = |s: &Step| {
            mark.is_some_and(|m| m.from == s.id.to && m.need.is_some() == s.end.is_some())
        };
        let stale = |s: &&Step| s.is_staged() && s.id.to > self.durable.merged && !is_it(s);
        let stale = self.log.steps().find(stale).map(|s| s.id.base);
        if let Some(base) = stale {
            self.drop_steps_after(base);
            self.commit.request();
        }
        let Some(mark) = mark else { return };
        let found = self.log.steps().find(|s| s.is_staged() && s.id.to == mark.from);
        let end = found.and_then(|s| s.end.as_ref()).map(|(_, end)| *end);
        let fresh = mark.next_block == 0 && mark.need.is_none();
        let id = match (found.map(|s| s.id), line_of(&self.want.history, mark.from)) {
            (Some(id), _) => id,
            (None, Some(generation)) if shown || fresh => self.stage_step(mark.from, generation),
            _ => {
                self.commit.request();
                return;
            }
        };
        if fresh {
            self.log.abandon_open_step();
            self.intake.building = None;
            self.intake.partial = false;
        }
        let blocks = self.intake.building.as_ref().map_or(0, Layer::blocks);
        self.staging = Some(Staging {
            view: mark.view,
            need: mark.need,
            end: end.or_else(|| shown.then(|| self.log.tail())),
            next_block: mark.next_block,
            blocks,
            told: mark.next_block,
            ..Staging::new(id, mark.over, self.want.blocks, self.durable.sequence)
        });
        self.intake.last_at = self.desk.now;
    }

    /// A step that no step before it is.
    fn stage_step(&self, to: SetNumber, generation: Generation) -> StepId {
        let next = self.commit.next_sequence(self.durable.sequence);
        let attempt = Attempt(STAGED | u32::try_from(next & u64::from(!STAGED)).unwrap_or(0));
        StepId { volume: self.cfg.volume, generation, base: self.log.state(), to, attempt }
    }
}
