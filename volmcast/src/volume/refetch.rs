//! A replica whose content is not the primary's although each block is what its hash says: blocks and
//! hashes that are of an older state together, because a disk lost the writes of both.
//!
//! The parent could tell ([`super::compare`]). If it cannot be asked, nothing here tells which blocks
//! they are. But writes that were lost had been made: the blocks are
//! among those that steps changed, and the list of changes names these, from as far back as it
//! reaches. They are put in doubt, and so come again from the parent, by a catch-up. Once is enough:
//! if the content differs after that, the list does not reach far enough, or it is not this copy that
//! is wrong.

use super::changes::Reader;
use super::{Event, Role, Volume};
use crate::bitmap::BlockSet;
use crate::bitmap::changes::RegionError;
use crate::mailbox::TableMark;
use rcp::proto::ids::SetNumber;

/// Most runs that are named to the parent: it takes twice as many.
const MAX_RUNS: usize = 1 << 15;

impl Volume {
    /// The content was read in full and differs: what changed is looked up, once.
    pub(super) fn pump_refetch(&mut self) {
        let (now, durable) = (&self.want.digest, &self.durable.digest);
        let known = matches!(now.table, TableMark::Known(_));
        let differs = now.differs > SetNumber::ZERO && known;
        if !differs
            || now.is_unproven()
            || self.digest.refetch
            || !self.digest.compare.hopeless
            || !matches!(self.cfg.role, Role::Replica { .. })
            || self.want.seed.is_some()
            || self.durable.seed.is_some()
            || (now.table, now.differs) != (durable.table, durable.differs)
        {
            return;
        }
        self.digest.refetch = true;
        self.changes_read(Reader::Differs);
    }

    /// The blocks that changed are in doubt.
    pub(super) fn refetch_found(&mut self, epoch: u64, found: Result<BlockSet, RegionError>) {
        let differs = self.want.digest.differs;
        let Ok(blocks) = found else {
            // Written anew meanwhile: once more. Else it is damaged, which whoever needs it says.
            self.digest.refetch = epoch == self.durable.changes.epoch;
            return;
        };
        if differs == SetNumber::ZERO || self.want.seed.is_some() || blocks.is_empty() {
            return;
        }
        let blocks = blocks.coarser(MAX_RUNS);
        let (n, base) = (blocks.count().0, self.durable.changes.base);
        self.digest.doubts = blocks;
        let text = format!(
            "the content differs since set {differs}, and each block is what its hash says: the {n} \
             blocks that changed after set {base} are fetched again from the parent; look at the disk"
        );
        self.desk.event(Event::Doubts { text });
    }
}
