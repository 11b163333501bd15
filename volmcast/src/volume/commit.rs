//! The commit pipeline: one at a time, grouping everything that became due meanwhile.
//!
//! ```text
//! idle ─► sync save volume, base, snapshot area, list of changes (those that changed) ─► write slot ─► sync slot ─► idle
//! ```
//!
//! Only when the slot is synced do its contents become [`Volume::durable`], and only then is
//! anything acknowledged, shown to readers, sent (primary) or its room reused. A failed sync ends
//! the volume: the kernel may have dropped the pages.
//!
//! A commit that changes the history is written to the other slot as well before it counts: should
//! one of them be damaged later, the other one must not name the line of an earlier writer, on which
//! this node would go on counting. So is one that gives up a kept state, whose blocks are overwritten
//! from then on without an image: the other slot must not bring it back.

use rcp::proto::ids::{ChunkNumber, SetNumber};

use super::desk::{CommitPart, Purpose};
use super::{Event, Role, Volume};
use crate::io::{FileId, IoError, Op, Outcome};
use crate::mailbox::{ConsumerMark, Mailbox, TableMark};
use crate::units::LogPos;

/// What is being committed.
#[derive(Debug)]
struct InFlight {
    mailbox: Mailbox,
    /// The other slot is to say the same.
    twice: bool,
    /// Everything before this log position is in the base once this commit is done.
    applied: LogPos,
    /// The log as of this reset.
    resets: u64,
    syncs: u8,
}

/// State of the pipeline.
#[derive(Debug, Default)]
pub(super) struct Committer {
    wanted: bool,
    in_flight: Option<InFlight>,
    /// The base was written since its last sync.
    pub(super) base_dirty: bool,
    /// So was the table of hashes.
    pub(super) hashes_dirty: bool,
    /// The snapshot area was written for a durable pin since its last sync.
    pub(super) snapshots_dirty: bool,
    /// Durably in the base.
    pub(super) applied: LogPos,
    /// Last position told to the parent.
    told: (SetNumber, ChunkNumber),
    /// The parent may not know it: its stream has started since.
    untold: bool,
    /// How often the log was emptied, and up to which time the mailbox knows.
    resets: u64,
    resets_durable: u64,
}

impl Committer {
    /// Something changed that must become durable.
    pub(super) fn request(&mut self) {
        self.wanted = true;
    }

    /// The log was emptied: what it holds from now on is not durable before the mailbox says so.
    pub(super) fn log_was_reset(&mut self) {
        self.resets += 1;
        self.wanted = true;
    }

    /// The number of the first commit that holds what is wanted now.
    pub(super) fn next_sequence(&self, durable: u64) -> u64 {
        match &self.in_flight {
            None => durable + 1,
            Some(fl) => fl.mailbox.sequence + u64::from(fl.twice) + 1,
        }
    }

    /// What the commit that is under way will make durable.
    pub(super) fn being_written(&self) -> Option<&Mailbox> {
        self.in_flight.as_ref().map(|fl| &fl.mailbox)
    }

    /// A commit is under way.
    pub(super) fn is_writing(&self) -> bool {
        self.in_flight.is_some()
    }

    pub(super) fn is_busy(&self) -> bool {
        self.wanted || self.in_flight.is_some()
    }

    /// What the parent was told last of what is durable.
    pub(super) fn told(&self) -> (SetNumber, ChunkNumber) {
        self.told
    }

    /// The mailbox does not know yet that the log was emptied.
    pub(super) fn owes_a_reset(&self) -> bool {
        self.resets != self.resets_durable
    }
}

impl Volume {
    /// At a primary, what a commit says of the sets that are finished.
    fn finished_for(&mut self, m: &mut Mailbox) {
        // A set is finished when its header is in the durable part; the header is appended only
        // after the base was synced since the cut.
        m.visible = self
            .log
            .steps()
            .filter(|s| s.end.as_ref().is_some_and(|(_, end)| *end <= m.log_head))
            .map(|s| s.id.to)
            .fold(m.visible, SetNumber::max);
        m.merged = m.visible;
        m.outgoing = Some(self.want.outgoing).filter(|o| *o > m.visible).unwrap_or_default();
        m.blocks = self.blocks_in(m.visible).unwrap_or(m.blocks);
        self.digest_commit(m);
        self.want.digest = m.digest;
        self.want.visible = m.visible;
        self.want.merged = m.merged;
        self.want.blocks = m.blocks;
    }

    pub(super) fn pump_commit(&mut self) {
        if !self.commit.wanted || self.commit.in_flight.is_some() || self.failed.is_some() {
            return;
        }
        // A slot never names a size that the base does not have.
        if !self.base_covers(self.want.blocks) {
            return;
        }
        let mut m = self.want.clone();
        m.sequence = self.durable.sequence + 1;
        m.log_tail = self.log.tail();
        m.log_head = self.log.written().max(m.log_tail);
        m.log_base = self.log.base();
        self.stage_for(&mut m);
        m.outgoing = SetNumber::ZERO;
        if let Role::Primary { .. } = self.cfg.role {
            self.finished_for(&mut m);
        } else if m.digest.table != TableMark::Absent {
            // Hashes are written with what is merged, and with extents.
            m.digest.hashed = m.merged;
        }
        m.consumers = self
            .consumers
            .iter()
            .map(|(name, c)| ConsumerMark { name: name.clone(), acked: c.acked() })
            .collect();
        m.had_children |= !m.consumers.is_empty();
        // At a primary a pin is made at the cut, but its state is one only when the set is finished.
        let primary = matches!(self.cfg.role, Role::Primary { .. });
        m.kept = self.listed().filter(|k| !primary || k.set <= m.visible).collect();
        let Ok(changes) = self.changes_for(&mut m) else { return };
        self.commit.wanted = false;
        if m.kept != self.durable.kept || m.aside != self.durable.aside {
            self.commit.snapshots_dirty = true;
            self.commit.base_dirty = true;
        }
        self.want.clone_from(&m);
        let history = m.history != self.durable.history && !rcp::planted!(HistoryInOneSlot);
        let twice = history || m.is_for_both_slots(&self.durable);
        let (applied, resets) = (self.merge.applied_pos(), self.commit.resets);
        let mut fl = InFlight { mailbox: m, twice, applied, resets, syncs: 0 };
        let save = fl.mailbox.log_head > self.durable.log_head && !rcp::planted!(SlotBeforeSync);
        let base = std::mem::take(&mut self.commit.base_dirty) && !rcp::planted!(MergedBeforeSync);
        let parts = [
            (save, CommitPart::SyncSave, FileId::Save),
            (base, CommitPart::SyncBase, FileId::Base),
            (std::mem::take(&mut self.commit.hashes_dirty), CommitPart::SyncHashes, FileId::Hashes),
            (
                std::mem::take(&mut self.commit.snapshots_dirty),
                CommitPart::SyncSnapshots,
                FileId::Snapshots,
            ),
        ];
        for (_, part, file) in parts.into_iter().filter(|(due, ..)| *due) {
            fl.syncs += 1;
            self.desk.io(Purpose::Commit(part), file, Op::Sync);
        }
        if let Some(op) = changes {
            fl.syncs += 1;
            self.desk.io(Purpose::Commit(CommitPart::WriteChanges), FileId::Changes, op);
        }
        let none = fl.syncs == 0;
        self.commit.in_flight = Some(fl);
        if none {
            self.write_slot();
        }
    }

    fn write_slot(&mut self) {
        let Some(fl) = &self.commit.in_flight else { return };
        let slot = match fl.mailbox.encode() {
            Ok(b) => b,
            Err(e) => {
                self.fail(format!("the mailbox cannot be written: {e}"));
                return;
            }
        };
        let offset = Mailbox::slot_offset(fl.mailbox.sequence);
        let op = Op::Write { offset, data: vec![slot] };
        self.desk.io(Purpose::Commit(CommitPart::WriteSlot), FileId::Mailbox, op);
    }

    pub(super) fn commit_io_done(&mut self, part: CommitPart, outcome: &Outcome) {
        let full = *outcome == Outcome::Failed(IoError::NoSpace);
        let changes = matches!(part, CommitPart::WriteChanges | CommitPart::SyncChanges);
        if full && changes {
            // A full disk costs a seed at most, and never the stream: the slot names no entries.
            let mark = self.changes_without_room();
            if let Some(fl) = &mut self.commit.in_flight {
                fl.mailbox.changes = mark;
            }
            self.part_done();
            return;
        }
        if *outcome != Outcome::Done {
            let what = match part {
                CommitPart::SyncSave => "sync of the save volume",
                CommitPart::SyncBase => "sync of the volume's content",
                CommitPart::SyncSnapshots => "sync of the snapshot area",
                CommitPart::WriteChanges => "write to the list of changed blocks",
                CommitPart::SyncChanges => "sync of the list of changed blocks",
                CommitPart::SyncHashes => "sync of the table of hashes",
                CommitPart::WriteSlot => "write to the mailbox",
                CommitPart::SyncSlot => "sync of the mailbox",
            };
            self.fail_io(what, outcome);
            return;
        }
        match part {
            CommitPart::WriteChanges => {
                self.desk.io(Purpose::Commit(CommitPart::SyncChanges), FileId::Changes, Op::Sync);
            }
            CommitPart::SyncSave
            | CommitPart::SyncBase
            | CommitPart::SyncSnapshots
            | CommitPart::SyncHashes => self.part_done(),
            CommitPart::SyncChanges => {
                self.changes_written();
                self.part_done();
            }
            CommitPart::WriteSlot => {
                self.desk.io(Purpose::Commit(CommitPart::SyncSlot), FileId::Mailbox, Op::Sync);
            }
            CommitPart::SyncSlot => self.slot_written(),
        }
    }

    fn slot_written(&mut self) {
        match self.commit.in_flight.as_mut().filter(|fl| fl.twice) {
            Some(fl) => {
                fl.twice = false;
                fl.mailbox.sequence += 1;
                self.write_slot();
            }
            None => self.committed(),
        }
    }

    fn part_done(&mut self) {
        let Some(fl) = &mut self.commit.in_flight else { return };
        fl.syncs -= 1;
        if fl.syncs == 0 {
            self.write_slot();
        }
    }

    fn committed(&mut self) {
        let Some(fl) = self.commit.in_flight.take() else { return };
        let before = std::mem::replace(&mut self.durable, fl.mailbox);
        self.commit.applied = self.commit.applied.max(fl.applied);
        self.commit.resets_durable = fl.resets;
        self.log.note_tail_durable(self.durable.log_tail);
        if self.durable.log_tail > before.log_tail {
            self.desk.event(Event::Room);
        }
        if before.held().is_some() {
            // Before the pin goes that they read through.
            self.publish_view();
        }
        self.release_unlisted();
        if self.durable.kept != before.kept || self.durable.aside != before.aside {
            self.desk.event(Event::Kept);
        }
        self.keep_answered();
        if self.durable.history != before.history {
            self.desk.event(Event::History);
        }
        self.size_committed(&before);
        self.settings_committed(&before);
        self.digest_committed(&before);
        self.tell_saved();
        if let Role::Primary { .. } = self.cfg.role {
            self.sets_became_ready(before.visible);
        } else {
            self.seed_in_committed(&before);
            self.stage_committed();
            self.view_committed(&before);
        }
    }

    /// The position that is durable here: last complete step, next chunk of the one after it.
    #[must_use]
    pub fn saved_position(&self) -> (SetNumber, ChunkNumber) {
        if self.commit.resets_durable != self.commit.resets {
            return self.commit.told;
        }
        let head =
            if rcp::planted!(AckBeforeSync) { self.log.head() } else { self.durable.log_head };
        let mut state = self.log.base();
        let mut next = ChunkNumber(0);
        for s in self.log.steps() {
            match &s.end {
                Some((_, end)) if *end <= head => {
                    state = s.id.to;
                    next = ChunkNumber(0);
                }
                _ => {
                    next = self
                        .log
                        .records_from(s.first)
                        .take_while(|r| r.to == s.id.to && r.end() <= head)
                        .filter(|r| r.kind == crate::save::RecordKind::Chunk)
                        .last()
                        .map_or(ChunkNumber(0), |r| ChunkNumber(r.chunk.0 + 1));
                    break;
                }
            }
        }
        match self.stage_base(state) {
            Some(base) => (base, ChunkNumber(0)),
            None => (state, next),
        }
    }

    /// The stream from a parent has started: what it heard before, or another did, does not count.
    pub fn tell_saved_anew(&mut self) {
        self.commit.untold = true;
        self.tell_saved();
    }

    /// The position that the parent is to know; `None` while what is there is no state yet.
    #[must_use]
    pub fn acknowledged(&self) -> Option<(SetNumber, ChunkNumber)> {
        let now = self.saved_position();
        let staged = self.stage_base(now.0).is_some();
        (!staged && self.commit.resets_durable == self.commit.resets).then_some(now)
    }

    fn tell_saved(&mut self) {
        let Some(now) = self.acknowledged() else { return };
        if now != self.commit.told || std::mem::take(&mut self.commit.untold) {
            self.commit.told = now;
            self.commit.untold = false;
            self.desk.event(Event::Saved { state: now.0, next: now.1 });
        }
    }
}
