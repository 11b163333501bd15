//! Going once through all blocks: to make the table of hashes from the content, or to add up what is in
//! it (`docs/digest.md`).

use std::collections::BTreeSet;
use std::time::Duration;

use rcp::proto::clock::Mono;
use rcp::proto::ids::SetNumber;

use super::demands::Demand;
use super::desk::{Purpose, TableStep, Work};
use super::digest::AT_ONCE;
use super::scrub::MAX_DOUBTS;
use super::stalls::Part;
use super::{Role, Volume};
use crate::digest::{
    BlockHash, ENTRY_LEN, Sum, TABLE_AT, hashes_in, table_bytes, table_head, table_range,
};
use crate::io::{FileId, IoError, Op, Outcome};
use crate::mailbox::TableMark;
use crate::units::{BlockCount, BlockIndex};

/// How long to wait before trying again after the disk was full: at first, and at most.
const FULL_RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// A table that the disk had no room for.
#[derive(Debug, Default)]
pub(super) struct NoRoom {
    /// When it is made again.
    until: Option<Mono>,
    /// How long that is to wait.
    wait: Duration,
    /// How far it had come.
    at: u64,
}

impl NoRoom {
    pub(super) fn timeout(&self) -> Option<Mono> {
        self.until
    }
}

/// Going through all blocks once.
#[derive(Debug)]
pub(super) struct Pass {
    /// From the content; else from the table.
    pub(super) build: bool,
    /// The file was made anew, for a build.
    pub(super) ready: bool,
    /// Blocks before this one are in the sum; all once it is `u64::MAX`.
    pub(super) cursor: u64,
    pub(super) sum: Sum,
    /// At a replica: blocks whose entry was damaged when it was read; they count nothing.
    pub(super) torn: BTreeSet<u64>,
    /// At a primary: the newest set that content which was read may belong to.
    view: SetNumber,
    /// The set that must be in the table before the sum is that of a state.
    pub(super) need: Option<SetNumber>,
    /// At a primary: the demand for the cut that closes what was read.
    demand: Option<Demand>,
    /// The request that is under way, or was last.
    pub(super) run: u64,
}

impl Pass {
    /// All is in the sum already.
    pub(super) fn done(sum: Sum) -> Self {
        Self { cursor: u64::MAX, sum, ..Self::new(false) }
    }

    pub(super) fn new(build: bool) -> Self {
        Self {
            build,
            ready: !build,
            cursor: 0,
            sum: Sum::default(),
            torn: BTreeSet::new(),
            view: SetNumber::ZERO,
            need: None,
            demand: None,
            run: 0,
        }
    }
}

impl Volume {
    /// The table is to be made or added up now.
    fn pass_is_due(&self) -> bool {
        if matches!(self.cfg.role, Role::Relay) {
            return false;
        }
        let absent = self.want.digest.table == TableMark::Absent;
        if let TableMark::Known(_) = self.want.digest.table {
            return false;
        }
        if matches!(self.cfg.role, Role::Primary { .. }) && self.want.generation().is_none() {
            // Not opened for writing yet: the set that ends a pass could not be cut.
            return false;
        }
        let seeding = self.durable.seed.is_some() || self.want.seed.is_some();
        !seeding || (!absent || self.seed_wants_proof()) && self.seed_in_open()
    }

    pub(super) fn pump_table(&mut self) {
        let due = self.pass_is_due();
        let absent = self.want.digest.table == TableMark::Absent;
        if !due || !absent {
            self.table_has_room();
        }
        if !due || self.digest.no_room.until.is_some_and(|t| self.desk.now < t) {
            return;
        }
        self.digest.no_room.until = None;
        if self.digest.pass.is_none() {
            self.digest.pass = Some(Pass::new(absent));
            if !absent {
                self.fold_resume();
            }
        }
        if self.digest.is_summed() {
            self.pass_settle();
            return;
        }
        if self.pass_is_busy() || self.table_being_written() || self.base_being_written() {
            return;
        }
        let begins = self.digest.pass.as_ref().is_some_and(|p| p.build && !p.ready);
        if begins && !self.no_slot_names_table() {
            return;
        }
        let end = self.table_end();
        let run = self.digest.next_run();
        let Some(p) = &mut self.digest.pass else { return };
        p.run = run;
        let at = |step| Purpose::Table { run, step };
        if p.build && !p.ready {
            let op = self.table_reset();
            self.desk.io(at(TableStep::Reset), FileId::Hashes, op);
        } else if p.cursor >= end {
            self.pass_through();
        } else if p.build {
            let offset = self.cfg.block_size.offset(BlockIndex(p.cursor));
            self.desk.io(at(TableStep::Map), FileId::Base, Op::NextData { offset });
        } else {
            let offset = table_range(p.cursor, 0).0;
            self.desk.io(at(TableStep::Map), FileId::Hashes, Op::NextData { offset });
        }
    }

    /// Makes the file of the table empty.
    pub(super) fn table_reset(&self) -> Op {
        let blocks = self.table_end().max(self.want.blocks.0).max(self.durable.blocks.0);
        Op::Scatter {
            writes: vec![(0, table_head(self.cfg.volume, self.cfg.block_size.shift()))],
            zeroes: vec![(TABLE_AT, blocks * ENTRY_LEN)],
        }
    }

    /// All blocks were passed.
    fn pass_through(&mut self) {
        let primary = matches!(self.cfg.role, Role::Primary { .. });
        let Some(p) = &mut self.digest.pass else { return };
        p.cursor = u64::MAX;
        self.table_may_have_room();
        let Some(p) = &mut self.digest.pass else { return };
        if primary && p.build {
            self.pass_demands_cut();
            self.pump();
        } else {
            p.need = Some(SetNumber::ZERO);
            self.pass_settle();
        }
    }

    /// What was read may be of the open set: it must be closed.
    fn pass_demands_cut(&mut self) {
        let demand = self.add_demand(false);
        if let Some(p) = &mut self.digest.pass {
            p.demand = Some(demand);
        }
    }

    /// A demand was answered: a cut was made or found needless. Content that was read before belongs
    /// to its state; not if only somebody else's demand was answered.
    pub(super) fn pass_cut(&mut self, demand: Demand, state: SetNumber, fresh: bool) {
        let Some(p) = &mut self.digest.pass else { return };
        let waits = p.cursor == u64::MAX && p.need.is_none();
        if !waits || p.demand.is_some_and(|own| demand < own) {
            return;
        }
        let unchanged = !fresh && state == self.durable.visible;
        if unchanged || p.view <= state {
            p.need = Some(state);
        } else {
            // The answer was for a state that had to be kept, and newer content was read.
            self.pass_demands_cut();
        }
    }

    /// Ends a pass if the content is exactly the visible state.
    fn pass_settle(&mut self) {
        let at = self.want.visible;
        let quiet = !self.table_being_written() && !self.pass_is_busy();
        let settled = match self.cfg.role {
            Role::Primary { .. } => {
                let need = self.digest.pass.as_ref().and_then(|p| p.need);
                quiet
                    && need.is_some_and(|n| n <= at)
                    && self.drain.draining().is_none()
                    && self.log.state() == at
                    && self.durable.visible == at
                    && self.digest.fold.applied() == Some(at)
            }
            _ => {
                quiet
                    && self.want.seed.is_none()
                    && self.durable.seed.is_none()
                    && self.want.hidden_until == SetNumber::ZERO
                    && self.merge_is_idle()
                    && self.want.merged == at
                    && !self.base_being_written()
            }
        };
        if settled {
            self.digest_settled(at);
        }
    }

    pub(super) fn table_io_done(&mut self, run: u64, step: TableStep, outcome: Outcome) {
        if self.digest.pass.as_ref().is_none_or(|p| p.run != run) {
            return;
        }
        let shift = self.cfg.block_size.shift();
        let Some(p) = &mut self.digest.pass else { return };
        match (step, outcome) {
            (TableStep::Reset, Outcome::Done) => {
                p.ready = true;
                self.fold_anew();
            }
            (TableStep::Map, Outcome::NextData(None)) => {
                self.pass_read();
                self.pass_through();
            }
            (TableStep::Map, Outcome::NextData(Some(data))) if p.build => {
                self.pass_content(run, data)
            }
            (TableStep::Map, Outcome::NextData(Some(data))) => self.pass_entries(run, data),
            (TableStep::Sum, Outcome::Read(b)) => {
                let first = p.cursor;
                p.cursor += b.len() as u64 / ENTRY_LEN;
                match Sum::of_table(&b) {
                    Some(sum) => p.sum = p.sum.and(sum),
                    None => self.pass_rotted(first, &b),
                }
            }
            (TableStep::Content, Outcome::Read(content)) => {
                let first = BlockIndex(p.cursor);
                let runs = vec![(first, BlockCount(content.len() as u64 >> shift))];
                self.pass_read();
                let work = Work::HashContent { runs, content, shift };
                self.desk.work(Purpose::Table { run, step: TableStep::Hash }, work);
            }
            (TableStep::Write, Outcome::Done) => {
                self.commit.hashes_dirty = true;
                self.table_may_have_room();
            }
            (TableStep::Reset | TableStep::Write, Outcome::Failed(IoError::NoSpace)) => {
                let at = p.cursor;
                self.table_has_no_room(at);
            }
            (_, other) => {
                let what = match step {
                    TableStep::Content => "read from the volume's content",
                    _ => "access to the table of hashes",
                };
                self.fail_io(what, &other);
            }
        }
    }

    /// The disk is full: without a table everything else goes on, and it is made again later.
    pub(super) fn table_has_no_room(&mut self, at: u64) {
        self.digest.pass = Some(Pass::new(true));
        let n = &mut self.digest.no_room;
        n.wait = (n.wait * 2).clamp(FULL_RETRY.0, FULL_RETRY.1);
        (n.until, n.at) = (Some(self.desk.now.after(n.wait)), at);
        let words = format!(
            "no space left for the table of hashes: free space on its file system; the volume's digest \
             is not known before (tried again every {} s)",
            n.wait.as_secs()
        );
        self.stalls.set(Part::Table, words);
    }

    /// Part of a table was made.
    fn table_may_have_room(&mut self) {
        if self.digest.pass.as_ref().is_some_and(|p| p.cursor >= self.digest.no_room.at) {
            self.table_has_room();
        }
    }

    /// There was room for the table, or it is not being made.
    fn table_has_room(&mut self) {
        self.digest.no_room = NoRoom::default();
        self.stalls.clear(Part::Table);
    }

    /// The content has something next from here to there: the first of it is read.
    fn pass_content(&mut self, run: u64, (from, to): (u64, u64)) {
        let shift = self.cfg.block_size.shift();
        let end = self.table_end();
        let most = (self.cfg.chunk_bytes >> shift).max(1);
        let Some(p) = &mut self.digest.pass else { return };
        let first = (from >> shift).max(p.cursor);
        let count = to.div_ceil(1 << shift).min(end).saturating_sub(first).min(most);
        // A hole was read as well: the open set may have made it.
        if count == 0 {
            self.pass_read();
            self.pass_through();
            return;
        }
        p.cursor = first;
        self.pass_read();
        let len = usize::try_from(count << shift).unwrap_or(0);
        let op = Op::Read { offset: first << shift, len };
        self.desk.io(Purpose::Table { run, step: TableStep::Content }, FileId::Base, op);
    }

    /// As [`pass_content`](Self::pass_content), of the table.
    fn pass_entries(&mut self, run: u64, (from, to): (u64, u64)) {
        let end = self.table_end();
        let Some(p) = &mut self.digest.pass else { return };
        let entries = |at: u64| at.saturating_sub(TABLE_AT);
        let first = (entries(from) / ENTRY_LEN).max(p.cursor);
        let last = entries(to).div_ceil(ENTRY_LEN).min(end);
        let count = last.saturating_sub(first).min(AT_ONCE);
        if count == 0 {
            self.pass_through();
            return;
        }
        p.cursor = first;
        let (offset, len) = table_range(first, count);
        let purpose = Purpose::Table { run, step: TableStep::Sum };
        self.desk.io(purpose, FileId::Hashes, Op::Read { offset, len });
    }

    /// Adding up met entries that are damaged. A replica goes on without them: a crash may have torn
    /// them, and then a set that is merged again writes them, which begins the pass anew. What is left
    /// when all is merged did rot.
    fn pass_rotted(&mut self, first: u64, entries: &[u8]) {
        if matches!(self.cfg.role, Role::Primary { .. }) {
            self.digest_lost();
            return;
        }
        let Some(p) = &mut self.digest.pass else { return };
        let rest: Vec<_> = hashes_in(entries).flatten().collect();
        p.sum = p.sum.and(Sum::of(&rest));
        let damaged = hashes_in(entries).zip(first..).filter(|(e, _)| e.is_none());
        p.torn.extend(damaged.map(|(_, b)| b).take(MAX_DOUBTS - p.torn.len().min(MAX_DOUBTS)));
    }

    /// What was read of a primary's content, or found to be a hole, may be of its open set.
    fn pass_read(&mut self) {
        if matches!(self.cfg.role, Role::Primary { .. }) {
            let view = self.open_set();
            if let Some(p) = &mut self.digest.pass {
                p.view = p.view.max(view);
            }
        }
    }

    pub(super) fn table_hashed(&mut self, run: u64, hashes: &[BlockHash]) {
        let Some(p) = self.digest.pass.as_mut().filter(|p| p.run == run) else { return };
        let (offset, _) = table_range(p.cursor, 0);
        p.sum = p.sum.and(Sum::of(hashes));
        p.cursor += hashes.len() as u64;
        let op = Op::Write { offset, data: vec![table_bytes(hashes)] };
        self.desk.io(Purpose::Table { run, step: TableStep::Write }, FileId::Hashes, op);
    }
}
