//! What the table of hashes is worth (`volmcast/FORMAT.md`, sections 4 and 10; `docs/digest.md`).

use rcp::proto::delta::SetFlags;
use rcp::proto::ids::SetNumber;
use volmcast::digest::{Sum, table_head};
use volmcast::mailbox::{DigestMark, TableMark};
use volmcast::volume::Opened;

use super::pass::Pass;
use super::records::Run;

impl Pass<'_> {
    /// There is a table.
    fn has_table(&self) -> bool {
        let f = self.files;
        let head = table_head(f.volume, f.block_size.shift());
        self.slot.digest.table != TableMark::Absent && f.hashes.starts_with(&head[..])
    }

    /// It is made anew.
    pub(super) fn no_table(&self, o: &mut Opened) {
        (o.digest.table, o.digest.hashed) = (TableMark::Absent, SetNumber::ZERO);
    }

    /// The log holds these steps.
    pub(super) fn judge_table(&self, o: &mut Opened, steps: &[&Run<'_>]) {
        if self.primary() {
            self.judge_table_of_writer(o, steps);
        } else if self.replica() {
            let raised = o.hidden_until > self.slot.hidden_until;
            self.judge_table_without_log(o, raised, None);
        }
    }

    /// At a writer it holds one set, and any part of the finished ones after that, which the log has to
    /// hold, with their data.
    fn judge_table_of_writer(&self, o: &mut Opened, steps: &[&Run<'_>]) {
        let (hashed, visible) = (self.slot.digest.hashed, o.visible);
        let after: Vec<_> =
            steps.iter().filter(|r| r.id.to > hashed && r.id.to <= visible).collect();
        let data =
            |r: &&&Run<'_>| r.header().is_some_and(|h| !h.flags.contains(SetFlags::BITMAP_ONLY));
        let reached =
            after.iter().try_fold(hashed, |at, r| (r.id.base <= at && data(r)).then_some(r.id.to));
        // One that cannot be had any more was finished, perhaps.
        let gone = self.newest_behind().0 > visible;
        if !self.has_table() || gone || reached.is_none_or(|at| at < visible) {
            return self.no_table(o);
        }
        if visible > self.slot.visible {
            let newest = after.iter().rev().find(|r| r.id.to == visible);
            let digest = newest.and_then(|r| r.header()).and_then(|h| h.digest_sum());
            o.digest.table = digest.map_or(TableMark::Kept, |d| TableMark::Known(Sum(d)));
        }
    }

    /// Elsewhere it stands where the content stands: nothing of the log says what it is worth. If the
    /// content has perhaps passed what is shown (`passed`), its sum is of no state that is known; where
    /// nobody knows what the content is, and `compared` blocks of it are to be, nothing is.
    pub(super) fn judge_table_without_log(
        &self,
        o: &mut Opened,
        passed: bool,
        compared: Option<u64>,
    ) {
        let known = matches!(o.digest.table, TableMark::Known(_));
        if known && (passed || compared.is_some()) {
            o.digest.table = TableMark::Kept;
        }
        if !self.replica() {
            return;
        }
        if compared.is_some() {
            (o.digest.hashed, o.digest.differs) = (SetNumber::ZERO, SetNumber::ZERO);
        }
        if compared.is_some_and(|blocks| blocks > 0) {
            o.digest.differs = DigestMark::UNPROVEN;
            self.no_table(o);
        }
        // A writer's table, which a change of role left behind.
        let last = self.slot.history.last();
        let own = last.is_some_and(|b| b.opened_by == self.files.node && o.merged > b.forked_from);
        let was = own || o.digest.hashed > SetNumber::ZERO;
        let behind = was && o.digest.hashed < o.merged;
        o.digest.hashed = SetNumber::ZERO;
        if behind || !self.has_table() {
            self.no_table(o);
        }
    }
}
