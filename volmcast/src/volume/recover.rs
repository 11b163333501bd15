//! Opening a volume: what the files say is true, before anybody is let in (CAP-15).
//!
//! The mailbox decides. The durable part of the save volume is scanned header by header; records
//! beyond it are dropped, and damage inside it is named: a replica gives up the steps it cannot
//! read and fetches them again from its parent (hidden until it has reached what it had shown), a
//! primary gives up its old sets, so that children behind them are seeded.

use std::collections::BTreeSet;

use bytes::Bytes;
use rcp::proto::clock::{Mono, Wall};
use rcp::proto::delta::{Chunk, ChunkHeader, DeltaError, SetHeader, StepId};
use rcp::proto::ids::{ChunkNumber, SetNumber};
use rcp::proto::limits::CHUNK_HEADER_LEN;

use super::adopt::Beyond;
use super::changes::Changes;
use super::commit::Committer;
use super::consumers::Consumers;
use super::demands::Demands;
use super::desk::Desk;
use super::digest::Digest;
use super::drain::Drain;
use super::full::Full;
use super::growth::Growth;
use super::images::Images;
use super::intake::Intake;
use super::merge::Merge;
use super::playback::Playback;
use super::promote::WRITER;
use super::rewind::Undo;
use super::seed_in::SeedIn;
use super::seed_out::SeedOuts;
use super::stalls::{Part, Stalls};
use super::status::SetTable;
use super::switch::Switch;
use super::{Event, Role, Volume, VolumeConfig};
use crate::digest::{HEAD_LEN, table_head};
use crate::history::line_of;
use crate::io::{FileId, IoError};
use crate::mailbox::{Branch, Mailbox, MailboxError, SLOT_LEN, TableMark};
use crate::save::record::HEADER_LEN;
use crate::save::{Log, Readback, RecordHeader, RecordKind, RecordMeta, Ring};
use crate::snapshots::PinId;
use crate::units::{BlockCount, LogPos};
use crate::view::{Layer, PinBoard};

/// Reads a file of the volume while it is being opened; a range beyond its end reads as zeroes.
pub type ReadFile<'a> = &'a mut dyn FnMut(FileId, u64, usize) -> Result<Bytes, IoError>;

/// Why a volume cannot be opened.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecoverError {
    /// Its files cannot be read.
    #[error("`{}` of volume {volume} cannot be read: {source}", file.name())]
    Io {
        /// Which file.
        file: FileId,
        /// Which volume.
        volume: rcp::proto::ids::VolumeId,
        /// Why.
        source: IoError,
    },
    /// Neither mailbox slot is valid.
    #[error(
        "the mailbox of volume {volume} cannot be used: {source}; restore the file from a backup, \
         or, if this is a replica, delete the volume here and let it be seeded again"
    )]
    Mailbox {
        /// Which volume.
        volume: rcp::proto::ids::VolumeId,
        /// Why.
        source: MailboxError,
    },
    /// The configured save volume is too small.
    #[error("a save volume of {0} bytes is too small: at least 8 MiB are needed")]
    TooSmall(u64),
}

impl Volume {
    /// Creates the value for a volume that holds nothing yet.
    ///
    /// # Errors
    /// [`RecoverError::TooSmall`].
    pub fn create(cfg: VolumeConfig, now: Mono, wall: Wall) -> Result<Self, RecoverError> {
        let m = Mailbox::empty(cfg.volume, cfg.block_size, cfg.blocks);
        Self::assemble(cfg, m, now, wall)
    }

    /// Opens a volume from its files.
    ///
    /// # Errors
    /// [`RecoverError`] names what is wrong and what to do.
    pub fn open(
        cfg: VolumeConfig,
        now: Mono,
        wall: Wall,
        read: ReadFile<'_>,
    ) -> Result<Self, RecoverError> {
        let io = |file| {
            let volume = cfg.volume;
            move |source| RecoverError::Io { file, volume, source }
        };
        let slots = read(FileId::Mailbox, 0, 2 * SLOT_LEN).map_err(io(FileId::Mailbox))?;
        let m = Mailbox::choose(&slots, cfg.volume)
            .map_err(|source| RecoverError::Mailbox { volume: cfg.volume, source })?;
        let (tail, head) = (m.log_tail, m.log_head);
        let digest_head = read(FileId::Hashes, 0, HEAD_LEN).map_err(io(FileId::Hashes))?;
        let mut v = Self::assemble(cfg, m, now, wall)?;
        let old = Mailbox::one_damaged(&slots);
        // What the damaged slot may have said is in the records behind the head.
        let mut beyond = if old { v.look_beyond(head, read) } else { Beyond::at(head) };
        if v.has_yet_to_open() {
            beyond = Beyond { end: beyond.end, ..Beyond::at(head) };
        }
        let scanned = v.scan(tail, head, read);
        // Before it is asked what follows them: else that would seem not to follow.
        v.drop_foreign_steps();
        match scanned {
            Err(text) => {
                // Positions go on behind everything that was ever written.
                v.log.skip_to(beyond.end);
                if let Some(newest) = &beyond.newest {
                    v.adopt_numbers(newest.step.to, BlockCount(newest.volume_blocks));
                }
                v.log_damaged(tail, &text);
                if old {
                    v.seed_of_unknown_content();
                }
            }
            Ok(()) if old => v.old_slot(head, beyond.whole, read),
            Ok(()) => {}
        }
        if old && matches!(v.cfg.role, Role::Primary { .. }) {
            // It was durable, in the slot that is damaged or as a header: nobody sees it shrink until
            // the next commit names it again.
            v.durable.blocks = v.durable.blocks.max(v.want.blocks);
        }
        v.stage_recover();
        v.list_kept();
        v.settle(beyond.any);
        v.settle_kept();
        v.settle_digest(&digest_head);
        if old && matches!(v.cfg.role, Role::Primary { .. }) && beyond.whole > v.want.visible {
            // A set that cannot be read was finished, perhaps, and its hashes are in the table.
            v.digest_lost();
        }
        Ok(v)
    }

    fn assemble(
        cfg: VolumeConfig,
        m: Mailbox,
        now: Mono,
        wall: Wall,
    ) -> Result<Self, RecoverError> {
        let ring = Ring::new(cfg.save_capacity).ok_or(RecoverError::TooSmall(cfg.save_capacity))?;
        let drain = match &cfg.role {
            Role::Primary { capture, policy } => {
                capture.tell_dirty_above(policy.hwm);
                Drain::new(*policy, now, wall)
            }
            _ => Drain::default(),
        };
        let mut consumers = Consumers::default();
        for c in &m.consumers {
            // What was passed on before it was durable here is no place in this log any more.
            let acked = c.acked.min(m.log_head).max(m.log_tail);
            consumers.restore(c.name.clone(), acked);
        }
        for k in &m.aside {
            cfg.snapshots.close_line(PinId(k.pin));
        }
        let mut merge = Merge::default();
        merge.start(m.log_tail, m.merged);
        let board = PinBoard::new(cfg.snapshots.clone());
        Ok(Self {
            log: Log::new(ring, cfg.volume, m.log_tail, m.log_base, cfg.cache),
            readback: Readback::new(cfg.readback, cfg.budget.clone()),
            desk: Desk { now, wall, ..Desk::default() },
            commit: Committer::default(),
            consumers,
            coalescing: super::coalesce::Coalescing::default(),
            full: Full::default(),
            intake: Intake::default(),
            demands: Demands::default(),
            playback: Playback::default(),
            merge,
            drain,
            growth: Growth::new(m.blocks),
            switch: Switch::opened(m.settings),
            seed_in: None,
            staging: None,
            stage_refused: None,
            discarded_by: 0,
            undo: Undo::default(),
            images: Images::default(),
            seed_outs: SeedOuts::default(),
            changes: Changes::new(cfg.changes),
            digest: Digest::opened(m.sequence),
            relay_refusal: None,
            relay_no_catch_up: false,
            board,
            history_table: SetTable::default(),
            hold_goes: false,
            keeps_waiting: m.kept.iter().filter(|k| k.pin == 0).map(|k| k.set).collect(),
            unlisted: BTreeSet::new(),
            releasing: Vec::new(),
            failed: None,
            stalls: Stalls::default(),
            too_old: None,
            want: m.clone(),
            durable: m,
            cfg,
        })
    }

    /// Enters the records between `tail` and `head`.
    fn scan(&mut self, tail: LogPos, head: LogPos, read: ReadFile<'_>) -> Result<(), String> {
        let ring = self.log.ring();
        let trusts = rcp::planted!(TornTailTrusted);
        let head = if trusts { self.look_beyond(head, read).end } else { head };
        let mut pos = tail;
        while pos < head {
            let at = ring.offset(pos);
            let b = read(FileId::Save, at, HEADER_LEN).map_err(|e| e.to_string())?;
            let h = RecordHeader::decode(&b, self.cfg.volume, pos)
                .map_err(|e| format!("at position {pos}: {e}"))?;
            if h.kind == RecordKind::Pad {
                pos = pos.plus(ring.until_wrap(pos));
                self.log.skip_to(pos);
                continue;
            }
            let meta = RecordMeta {
                pos,
                kind: h.kind,
                body_len: h.body_len,
                to: h.to,
                chunk: h.chunk,
                cached: None,
            };
            let end = meta.end();
            if end > head || end.since(pos) > ring.until_wrap(pos) {
                return Err(format!("at position {pos}: the record is longer than the log"));
            }
            let body_at = at + HEADER_LEN as u64;
            if h.kind == RecordKind::SetEnd {
                let b =
                    read(FileId::Save, body_at, h.body_len as usize).map_err(|e| e.to_string())?;
                let header = SetHeader::parse(&b)
                    .map_err(|e| format!("at position {pos}: set header: {e}"))?;
                self.drop_given_up(header.step, h.chunk);
                self.log.enter_scanned(meta);
                self.scanned_end(pos, end, header);
            } else if self.indexes(h.to) {
                let b =
                    read(FileId::Save, body_at, h.body_len as usize).map_err(|e| e.to_string())?;
                let chunk = Chunk::parse(b).map_err(|e| damaged_chunk(&h, &e))?;
                self.drop_given_up(chunk.step(), h.chunk);
                self.log.enter_scanned(meta);
                self.scanned_chunk(pos, end, &chunk);
            } else {
                let b = read(FileId::Save, body_at, CHUNK_HEADER_LEN).map_err(|e| e.to_string())?;
                let header = ChunkHeader::parse(&b).map_err(|e| damaged_chunk(&h, &e))?;
                self.drop_given_up(header.step, h.chunk);
                self.log.enter_scanned(meta);
                self.scanned_header(pos, end, &header);
            }
            pos = end;
        }
        Ok(())
    }

    /// One mailbox slot is damaged: what this one says may be out of date.
    fn old_slot(&mut self, head: LogPos, whole: SetNumber, read: ReadFile<'_>) {
        let mut text = "one of the two mailbox slots is damaged; the other one is used".to_owned();
        // Both slots would say that what is staged has its end, before anything of it counts.
        let open = self.durable.staged.is_some_and(|m| m.need.is_none());
        let whole = if open { SetNumber::ZERO } else { whole };
        if !matches!(self.cfg.role, Role::Relay) && !open && !self.has_yet_to_open() {
            let sets = self.adopt_sets(head, read);
            if sets > 0 {
                text.push_str(&format!(", with {sets} sets that the save volume holds beyond it"));
            }
        }
        let whole = whole.max(self.log.state());
        self.passed_perhaps(whole);
        self.desk.event(Event::Damage { text });
        self.commit.request();
        if !self.has_yet_to_open() {
            self.give_up_unreadable(read);
        }
        // The newer slot may have shown every set that was whole, so that their blocks may be in the
        // base of a replica: it is read again when it has them all.
        let replica = matches!(self.cfg.role, Role::Replica { .. });
        if replica && whole > self.want.visible.max(self.want.hidden_until) {
            self.want.hidden_until = whole;
            // And their hashes in the table: what the steps after the visible state replaced can be
            // found nowhere any more.
            self.digest_unknown();
        }
    }

    /// States before what a replica had shown that are still to be kept, says an old slot: the newer one
    /// perhaps listed their pins, and the base has passed them. They are given up.
    fn passed_perhaps(&mut self, whole: SetNumber) {
        if matches!(self.cfg.role, Role::Replica { .. }) {
            let to_come = self.keeps_waiting.split_off(&whole.max(self.want.visible));
            let passed = std::mem::replace(&mut self.keeps_waiting, to_come);
            self.not_kept(
                passed,
                "a mailbox slot is damaged, and the content has perhaps passed that",
            );
        }
    }

    /// What a slot says is still to be kept has come meanwhile, or will not come: it was written just before
    /// that was acted on.
    fn settle_kept(&mut self) {
        let merged = self.durable.merged;
        match self.cfg.role {
            Role::Primary { .. } => self.keep_no_more(WRITER),
            // Under a seed or within a staged catch-up the base holds no state.
            Role::Replica { .. } if self.want.seed.or(self.durable.seed).is_some() => {}
            Role::Replica { .. } if self.stage_hides(merged) => {}
            Role::Replica { .. } => self.keep_reached(merged, "what came"),
            Role::Relay => {}
        }
    }

    /// One mailbox slot is damaged, and the log does not fit the other one: which sets were merged,
    /// nobody knows.
    fn seed_of_unknown_content(&mut self) {
        if matches!(self.cfg.role, Role::Replica { .. }) {
            let keep = self.want.merged;
            self.want.hidden_until = self.want.hidden_until.max(self.want.visible);
            self.content_unproven(keep);
            self.hide(keep, false);
            self.changes_reset(keep);
            self.publish_view();
        }
    }

    /// Readers will need the blocks of this step: its chunks are opened, not only listed.
    fn indexes(&self, to: SetNumber) -> bool {
        matches!(self.cfg.role, Role::Replica { .. }) && to > self.durable.merged
    }

    /// What is given up stays in the file, and what takes its place follows it: another attempt of a
    /// set; the same one, which came once more to somebody who had dropped it; the set without its
    /// data; or a writer's sets from an earlier state on (FAIL-07). The next record, chunk `number` or
    /// a header that closes so many, tells.
    pub(super) fn drop_given_up(&mut self, next: StepId, number: ChunkNumber) {
        let keep = rcp::planted!(OldAttemptKept);
        let open = self.log.open_step();
        if open.is_some_and(|s| s.id != next || s.chunks != number.0) && !keep {
            self.log.abandon_open_step();
            self.intake.building = None;
        }
        let last = self.log.steps().rev().find(|s| s.end.is_some()).map(|s| s.id);
        if last.is_some_and(|s| s.to > next.base) {
            self.drop_steps_after(next.base);
        }
    }

    /// Steps of a line that ended before them were given up; perhaps nothing has followed them yet.
    fn drop_foreign_steps(&mut self) {
        let history = &self.durable.history;
        let foreign = |s: &&crate::save::Step| {
            line_of(history, s.id.to).is_some_and(|g| g != s.id.generation)
        };
        let foreign = self.log.steps().find(foreign).map(|s| s.id.base);
        if let Some(at) = foreign.filter(|_| !rcp::planted!(ForeignStepsKept)) {
            self.drop_steps_after(at);
        }
    }

    /// Enters a chunk of which readers will need the blocks.
    pub(super) fn scanned_chunk(&mut self, pos: LogPos, end: LogPos, chunk: &Chunk) {
        self.scanned_header(pos, end, chunk.header());
        if self.indexes(chunk.step().to) {
            let layer = &mut self.intake.building;
            layer.get_or_insert_with(|| Layer::new(chunk.step(), pos)).push(pos, chunk);
        }
    }

    pub(super) fn scanned_header(&mut self, pos: LogPos, end: LogPos, chunk: &ChunkHeader) {
        if self.log.open_step().is_none() {
            self.intake.partial = chunk.number.0 > 0;
        }
        self.log.enter_chunk(pos, chunk.step, chunk.number, chunk.body_crc, end.since(pos));
    }

    pub(super) fn scanned_end(&mut self, pos: LogPos, end: LogPos, header: SetHeader) {
        let (id, cut_time) = (header.step, header.cut_time);
        let blocks = BlockCount(header.volume_blocks);
        self.intake.partial = false;
        self.history_table.arrived(&header);
        self.digest.tell(&header);
        self.log.enter_end(pos, end, header);
        if self.indexes(id.to) {
            let mut layer = self.intake.building.take().unwrap_or_else(|| Layer::new(id, pos));
            layer.seal(cut_time, blocks);
            self.playback.complete(layer, end);
        }
    }

    /// A writer that was a replica when its mailbox was written last: what the save volume holds behind
    /// the head came from the writer before, and its content does not have it.
    fn has_yet_to_open(&self) -> bool {
        let opened = |g| self.want.history.iter().any(|b| b.generation == g);
        matches!(self.cfg.role, Role::Primary { .. }) && self.cfg.opens.is_some_and(|g| !opened(g))
    }

    /// Brings the value to where it can go on. The base may hold parts of sets up to `beyond`.
    fn settle(&mut self, beyond: SetNumber) {
        match self.cfg.role {
            Role::Primary { .. } => {
                // An unfinished set is abandoned: its blocks are still marked in the activity log.
                self.log.abandon_open_step();
                if self.log.state() < self.durable.visible {
                    // Sets that are finished are, wherever their records belong; children that lack
                    // them are caught up.
                    self.log.reset(self.durable.visible);
                    self.commit.log_was_reset();
                }
            }
            Role::Replica { .. } => {
                let merged = self.durable.merged;
                let next = self
                    .log
                    .steps()
                    .rev()
                    .find(|s| s.id.to <= merged && !rcp::planted!(ReplayOverNewer))
                    .and_then(|s| s.end.as_ref().map(|(_, end)| *end))
                    .unwrap_or_else(|| self.log.tail());
                self.merge.start(next, merged);
                match self.durable.seed {
                    None => self.board.advance(merged),
                    // It begins anew: the log was damaged.
                    Some(_) if self.seed_in.is_some() => {}
                    Some(mark) => {
                        let held = self.log.open_step().map_or(self.log.state(), |s| s.id.to);
                        let sequence = self.durable.sequence;
                        let unproven = self.durable.digest.is_unproven();
                        let held = held.max(beyond);
                        self.seed_in = Some(SeedIn::resumed(mark, held, sequence, unproven));
                    }
                }
            }
            Role::Relay => {}
        }
        self.commit.applied = self.merge.applied_pos();
        self.publish_view();
    }

    /// What the table of hashes is worth.
    fn settle_digest(&mut self, head: &[u8]) {
        let told = self.told(self.want.visible);
        let mark = &mut self.want.digest;
        let whole = *head == *table_head(self.cfg.volume, self.cfg.block_size.shift());
        match self.cfg.role {
            Role::Relay => return,
            Role::Primary { .. } => {
                if self.want.visible > self.durable.visible && mark.table != TableMark::Absent {
                    // Sets that only the save volume knew of.
                    mark.table = told.map_or(TableMark::Kept, TableMark::Known);
                }
                if mark.table != TableMark::Absent && (!whole || !self.fold_resume()) {
                    self.digest_lost();
                }
            }
            // Not zero: it was a primary's, and the change of role was cut short.
            Role::Replica { .. } => {
                // Zero is also what a primary says that has no set in its table yet.
                let own =
                    |b: &Branch| b.opened_by == self.cfg.node && self.want.merged > b.forked_from;
                let own = self.want.history.last().is_some_and(own);
                let was = mark.hashed > SetNumber::ZERO || own;
                let behind = was && mark.hashed < self.want.merged;
                mark.hashed = SetNumber::ZERO;
                if mark.table != TableMark::Absent && (!whole || behind) {
                    self.digest_lost();
                }
            }
        }
        self.digest_layers_gone();
        self.publish_view();
    }

    /// Stored records are damaged: gives up the log and goes on without it.
    pub(super) fn log_damaged(&mut self, pos: LogPos, what: &str) {
        let text = match self.cfg.role {
            Role::Primary { .. } => {
                if self.digest.fold.reached() != Some(self.want.visible) {
                    self.digest_lost();
                }
                self.forget_data_of_sets();
                format!(
                    "the save volume is damaged ({what}, tail {pos}); its old sets were given up, \
                     the volume itself is whole; children that lack them are seeded"
                )
            }
            _ => {
                let shown = self.want.visible.max(self.want.hidden_until);
                let keep = self.want.merged;
                self.staging = None;
                self.log.reset(keep);
                // Those that read through its steps.
                self.board.forsake();
                self.intake.building = None;
                self.intake.partial = false;
                self.playback.clear();
                self.merge.start(self.log.head(), keep);
                if shown > keep {
                    self.want.hidden_until = shown;
                    self.want.visible = keep;
                    // The table may hold hashes of steps that are gone, as the content may.
                    self.digest_unknown();
                }
                self.digest.chunks.clear();
                self.digest_layers_gone();
                if self.want.seed.is_some() {
                    // Which sets were folded in, only the log could say: what goes on could end too
                    // early, with parts of later ones in the content.
                    self.give_up_kept(
                        "the save volume was damaged while the replica was being filled",
                    );
                    self.content_unproven(keep);
                    format!(
                        "the save volume was damaged while the replica was being filled ({what}, tail \
                         {pos}): what has come is compared with the parent's content at the end"
                    )
                } else {
                    format!(
                        "the save volume is damaged ({what}, tail {pos}); sets after {keep} are \
                         fetched again from the parent, reads are refused until set {shown} is back"
                    )
                }
            }
        };
        self.detach_all("the parent's save volume was damaged");
        self.publish_view();
        if matches!(self.cfg.role, Role::Primary { .. }) {
            // Until the next set is finished. Below, what is hidden says by itself how far it is.
            self.stalls.set(Part::Save, text.clone());
        }
        self.desk.event(Event::Damage { text });
        self.commit.log_was_reset();
    }

    /// The state that is held in full, for a sender: last complete step and the next chunk of the
    /// step after it.
    #[must_use]
    pub fn position(&self) -> (SetNumber, ChunkNumber) {
        (self.log.state(), ChunkNumber(self.log.open_step().map_or(0, |s| s.chunks)))
    }

    /// Oldest state from which a child can be resumed, and the newest that is held.
    #[must_use]
    pub fn log_range(&self) -> (SetNumber, SetNumber) {
        (self.log.base(), self.log.state())
    }
}

fn damaged_chunk(h: &RecordHeader, e: &DeltaError) -> String {
    format!("at position {}: chunk {} of set {}: {e}", h.pos, h.chunk, h.to)
}
