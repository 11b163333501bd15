//! Damaged content and the writer: a replica that knows of damage is not made the writer unasked, and
//! one that was made the writer goes on holding what it took over against the table of hashes.
//!
//! The table is the judge before and after: a promotion changes who writes, and proves nothing. What
//! clients write is theirs; all else is what the table says, or it is not handed out
//! ([`capture::proof`](crate::capture)).

use rcp::proto::ids::SetNumber;

use super::{Role, Volume};
use crate::bitmap::BlockSet;
use crate::mailbox::TableMark;
use crate::units::{BlockCount, BlockIndex};

impl Volume {
    /// What is known to be damaged here, or cannot be proved, so that the content must not be taken
    /// for the volume without a word from an operator; in words.
    #[must_use]
    pub fn damage(&self) -> Option<String> {
        let Role::Replica { .. } = self.cfg.role else { return None };
        if let Some(why) = self.differs_words() {
            return Some(why);
        }
        if let Some(blocks) = self.doubts_words() {
            return Some(format!("{blocks}, and not fetched again yet"));
        }
        let percent = self.digest_progress().unwrap_or(0);
        let unproven = self.want.digest.table == TableMark::Absent;
        (unproven && self.want.visible > SetNumber::ZERO).then(|| {
            format!(
                "nothing proves its content: the table of hashes is lost and is made anew from what \
                 the disk holds ({percent}%)"
            )
        })
    }

    /// Which blocks are damaged, in words.
    #[must_use]
    pub fn doubts_words(&self) -> Option<String> {
        let doubts = &self.digest.doubts;
        let first = doubts.runs().next().map(|(b, _)| b.0)?;
        Some(match doubts.count().0 {
            1 => format!("block {first} is damaged"),
            n => format!("{n} blocks are damaged, the first of them block {first}"),
        })
    }

    /// At a replica that is to take over: what is damaged or unproven here is the volume from then on
    /// (or no longer so). An operator has said so.
    pub fn take_as_it_is(&mut self, yes: bool) {
        self.playback.as_it_is = yes;
        self.publish_view();
        self.pump();
    }

    /// At the writer: what the disk holds is the volume, whatever the table of hashes says; it is made
    /// anew. An operator has said so.
    pub fn accept_content(&mut self) {
        if let Role::Primary { .. } = self.cfg.role {
            self.digest.doubts = BlockSet::new();
            self.digest_lost();
            self.pump();
        }
    }

    /// Every set that was cut is in the table.
    fn table_stands(&self) -> bool {
        let at = self.want.visible;
        self.want.digest.table != TableMark::Absent
            && self.digest.fold.applied() == Some(at)
            && self.log.state() == at
            && self.durable.visible == at
            && self.drain.draining().is_none()
            && self.capture().is_some_and(|c| c.drained())
    }

    /// At a writer that took over: from here on what is read is held against the table.
    pub(super) fn pump_proof(&mut self) {
        let took_over = self.want.history.last().is_some_and(|l| l.forked_from > SetNumber::ZERO);
        if !self.digest.proves && took_over && self.table_stands() {
            self.prove();
        }
    }

    /// The table stands, or stood when the last replica's step was merged.
    pub(super) fn prove(&mut self) {
        let known = self.want.digest.table != TableMark::Absent;
        if let Role::Primary { capture, .. } = &self.cfg.role
            && known
        {
            capture.prove();
            self.digest.proves = true;
            self.publish_view();
        }
    }

    pub(super) fn prove_no_more(&mut self) {
        self.digest.proves = false;
        if let Some(capture) = self.capture() {
            capture.prove_no_more();
        }
    }

    /// At a writer: blocks that turned out damaged and were written since are whole again.
    pub(super) fn forget_written_doubts(&mut self) {
        let Some(proof) = self.capture().and_then(|c| c.proof()) else { return };
        let whole: Vec<BlockIndex> = self
            .digest
            .doubts
            .runs()
            .flat_map(|(b, n)| b.0..b.0 + n.0)
            .map(BlockIndex)
            .filter(|b| !proof.proves(*b))
            .collect();
        for b in whole {
            self.digest.doubts.remove_range(b, BlockCount(1));
        }
    }

    /// Content that is read for a child, and its hash, belong together. At a replica they do where
    /// nothing is being merged, nor was in an earlier life: of a step that is not shown yet the base has
    /// nothing, and what the child gets is whole without it.
    pub(super) fn is_proven(&self, block: u64) -> bool {
        match &self.cfg.role {
            Role::Primary { capture, .. } => {
                capture.proof().is_some_and(|p| p.proves(BlockIndex(block)))
            }
            _ => {
                let shown = self.want.visible.max(self.want.hidden_until);
                !self.playback.has_block(block, shown)
            }
        }
    }
}
