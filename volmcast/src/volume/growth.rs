//! The volume becomes larger (section 4 of the design: "resize travels in the set header").
//!
//! ```text
//! primary:  files prepared (node) ─► grow ─► barrier: tables grow ─► set with the new size ─► commit
//! replica:  set header ─► base made longer ─► the commit that shows the set ─► readers
//! seed:     size offered, then of every set that is folded ─► base made longer ─► commit
//! ```
//!
//! The size in the mailbox is the size of the state that it calls visible, on every node: growth is
//! a set like any other, so that a crash leaves the old size or the new one. New blocks are zeroes
//! until somebody writes them, which nobody may before the size is durable. A relay has no content;
//! its mailbox has the size of the newest set that came.

use std::time::Duration;

use rcp::proto::clock::Mono;
use rcp::proto::ids::SetNumber;

use super::branches::branch_needs_room;
use super::desk::Purpose;
use super::stalls::Part;
use super::{Event, Role, Volume};
use crate::capture::Capture;
use crate::digest::{ENTRY_LEN, table_range};
use crate::io::{FileId, IoError, Op, Outcome};
use crate::mailbox::Mailbox;
use crate::units::{BlockCount, BlockIndex};

/// How long to wait before trying again when there was no room for a longer base.
const RETRY: Duration = Duration::from_secs(1);

/// How large things are, and how large they are to be.
#[derive(Debug)]
pub(super) struct Growth {
    /// What the base has room for; what lies beyond it in the file is not known to be zero.
    base: BlockCount,
    /// The base is being made longer.
    extending: Option<BlockCount>,
    retry_at: Option<Mono>,
    /// Somebody waits for a longer base.
    wanted: bool,
    /// The size that the next set is to have (primary).
    asked: Option<BlockCount>,
    /// What the capture tables cover (primary).
    tables: BlockCount,
}

impl Growth {
    pub(super) fn new(blocks: BlockCount) -> Self {
        Self {
            base: blocks,
            extending: None,
            retry_at: None,
            wanted: false,
            asked: None,
            tables: blocks,
        }
    }

    pub(super) fn timeout(&self) -> Option<Mono> {
        self.retry_at
    }

    /// Time has passed.
    pub(super) fn look(&mut self, now: Mono) {
        self.retry_at.take_if(|t| *t <= now);
    }

    /// A set must be made although nothing may have been written.
    pub(super) fn is_due(&self) -> bool {
        self.asked.is_some()
    }
}

impl Volume {
    /// Size of the volume in blocks, in the newest durable state.
    #[must_use]
    pub fn blocks(&self) -> BlockCount {
        self.durable.blocks
    }

    /// Size of the set that is being made or would be made now, at a primary.
    #[must_use]
    pub fn next_blocks(&self) -> BlockCount {
        self.growth.asked.unwrap_or(self.want.blocks)
    }

    /// The primary's volume becomes larger with a set that is made at once: [`Event::Resized`] says
    /// when the new size is durable. The base has that size, and the activity log covers it, before
    /// this is called.
    pub fn grow(&mut self, blocks: BlockCount) {
        if blocks <= self.next_blocks() {
            return;
        }
        self.growth.asked = Some(blocks);
        self.demand_cut(false);
    }

    /// Within the barrier of a cut: the tables get their new size.
    pub(super) fn grow_tables(&mut self, capture: &Capture) {
        let Some(blocks) = self.growth.asked.filter(|b| *b > self.growth.tables) else { return };
        match capture.grow(blocks) {
            Ok(()) => self.growth.tables = blocks,
            Err(e) => self.fail(format!("internal: the tables cannot grow: {e}")),
        }
    }

    /// At a relay: the parent says how large the volume is.
    pub fn relay_resized(&mut self, blocks: BlockCount) {
        if matches!(self.cfg.role, Role::Relay) && blocks > self.want.blocks {
            self.want.blocks = blocks;
            self.commit.request();
            self.pump();
        }
    }

    /// The size in a state whose set header the save volume holds.
    pub(super) fn blocks_in(&self, set: SetNumber) -> Option<BlockCount> {
        self.log.step_to(set)?.end.as_ref().map(|(h, _)| BlockCount(h.volume_blocks))
    }

    /// What the base has room for.
    pub(super) fn base_blocks(&self) -> BlockCount {
        self.growth.base
    }

    /// The volume is smaller than it was: what lies beyond is not zero.
    pub(super) fn base_shrunk(&mut self) {
        self.growth.base = self.growth.base.min(self.want.blocks);
    }

    /// Whether the base has room for that many blocks; if not, it is being made longer, and whoever
    /// asks will be asked to look again.
    pub(super) fn base_covers(&mut self, blocks: BlockCount) -> bool {
        if blocks <= self.growth.base || !matches!(self.cfg.role, Role::Replica { .. }) {
            return true;
        }
        self.growth.wanted = true;
        let own = self.growth.base;
        if let Some(k) = self.want.aside.iter().find(|k| k.blocks > own) {
            let what = "making the volume longer";
            self.stalls.set(Part::Size, branch_needs_room(what, &k.name()));
            self.growth.retry_at = Some(self.desk.now.after(RETRY));
            return false;
        }
        let wait = self.table_is_taken() || self.table_being_reset();
        if self.growth.extending.is_none() && self.growth.retry_at.is_none() && !wait {
            self.growth.extending = Some(blocks);
            // What an earlier life wrote there is void, in the table as in the base.
            let from = self.growth.base.0;
            let (offset, _) = table_range(from, 0);
            let len = (blocks.0 - from) * ENTRY_LEN;
            self.desk.io(Purpose::ExtendTable, FileId::Hashes, Op::Zero { offset, len });
        }
        false
    }

    /// The table has zeroes behind the end of the base, which becomes longer.
    pub(super) fn table_extended(&mut self, outcome: &Outcome) {
        if *outcome != Outcome::Done {
            self.base_extended(outcome);
            return;
        }
        self.commit.hashes_dirty = true;
        let Some(blocks) = self.growth.extending else { return };
        let at = |b: BlockCount| self.cfg.block_size.offset(BlockIndex(b.0));
        let op = Op::Extend { from: at(self.growth.base), len: at(blocks) };
        self.desk.io(Purpose::Extend, FileId::Base, op);
    }

    pub(super) fn base_extended(&mut self, outcome: &Outcome) {
        let Some(blocks) = self.growth.extending.take() else { return };
        if *outcome == Outcome::Done {
            self.growth.base = self.growth.base.max(blocks);
            if self.want.seed.is_some() {
                // Extents may go beyond the size of the state that was joined; the set that made
                // the volume so large follows them.
                self.want.blocks = self.want.blocks.max(blocks);
            }
            self.commit.base_dirty = true;
            self.stalls.clear(Part::Size);
            return;
        }
        if *outcome != Outcome::Failed(IoError::NoSpace) {
            self.fail_io("making the volume's content longer", outcome);
            return;
        }
        let bytes = self.cfg.block_size.offset(BlockIndex(blocks.0));
        self.growth.retry_at = Some(self.desk.now.after(RETRY));
        let words = format!(
            "the volume has grown to {bytes} bytes and its content here cannot: make room on its \
             file system, or enlarge the device; it goes on by itself"
        );
        self.stalls.set(Part::Size, words);
    }

    /// Everybody was asked to look again: if nobody wants a longer base any more, nothing waits for
    /// it, as when other content is fetched.
    pub(super) fn look_at_size(&mut self) {
        let g = &mut self.growth;
        let wanted = std::mem::take(&mut g.wanted);
        if !wanted && g.extending.is_none() && g.retry_at.is_none() {
            self.stalls.clear(Part::Size);
        }
    }

    /// A commit was done: tell of a new size.
    pub(super) fn size_committed(&mut self, before: &Mailbox) {
        let blocks = self.durable.blocks;
        if self.growth.asked.is_some_and(|asked| blocks >= asked) {
            self.growth.asked = None;
        }
        if blocks != before.blocks {
            self.desk.event(Event::Resized { blocks });
        }
    }
}
