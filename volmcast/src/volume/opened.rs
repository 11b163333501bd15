//! What an opening made of the files, for who reads them a second time and compares.

use std::collections::{BTreeMap, BTreeSet};

use rcp::proto::delta::StepId;
use rcp::proto::ids::{NodeName, SetNumber};

use super::Volume;
use crate::bitmap::BlockSet;
use crate::mailbox::{DigestMark, SeedMark, StageMark};
use crate::units::{BlockCount, LogPos};

/// What a volume stands at before it has done anything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opened {
    /// Steps of the log, oldest first: identity, number behind the last chunk, position behind the set
    /// header if it has come.
    pub steps: Vec<(StepId, u32, Option<LogPos>)>,
    /// Where the log begins, and goes on.
    pub log: (LogPos, LogPos),
    /// The state before the oldest step.
    pub base: SetNumber,
    /// The state that is shown.
    pub visible: SetNumber,
    /// The state that the base holds.
    pub merged: SetNumber,
    /// Reads are refused until this one is shown.
    pub hidden_until: SetNumber,
    /// Size of the volume.
    pub blocks: BlockCount,
    /// Steps that readers are served from.
    pub indexed: Vec<SetNumber>,
    /// Chunks of the open step that are indexed; its first ones are missing.
    pub open: (bool, bool),
    /// Where the merge goes on.
    pub merges_from: Option<LogPos>,
    /// A seed, its mark, and the newest set of which parts may be in the base.
    pub seed: Option<(SeedMark, Option<SetNumber>)>,
    /// A staged catch-up, where its end is, how many blocks of the step that is coming are here, and
    /// from which block on the sender is told to go on.
    pub staged: Option<(StageMark, Option<LogPos>, (u64, u64))>,
    /// States that are still to be kept.
    pub waiting: BTreeSet<SetNumber>,
    /// Up to where the children have everything.
    pub children: BTreeMap<NodeName, LogPos>,
    /// What changed after this state is known.
    pub changes_from: SetNumber,
    /// What the table of hashes is worth.
    pub digest: DigestMark,
}

impl Volume {
    /// What it stands at.
    #[must_use]
    pub fn opened(&self) -> Opened {
        let step = |s: &crate::save::Step| (s.id, s.chunks, s.end.as_ref().map(|(_, end)| *end));
        let replica = matches!(self.cfg.role, super::Role::Replica { .. });
        let w = &self.want;
        Opened {
            steps: self.log.steps().map(step).collect(),
            log: (self.log.tail(), self.log.head()),
            base: self.log.base(),
            visible: w.visible,
            merged: w.merged,
            hidden_until: w.hidden_until,
            blocks: w.blocks,
            indexed: self.playback.indexed().collect(),
            open: (self.intake.building.is_some(), self.intake.partial),
            merges_from: replica.then(|| self.merge.applied_pos()),
            seed: w.seed.map(|m| (m, self.seed_in.as_ref().map(|s| s.floor))),
            staged: self.staging.as_ref().map(super::staging::Staging::standing),
            waiting: self.keeps_waiting.clone(),
            changes_from: w.changes.base,
            digest: w.digest,
            children: self.consumers.iter().map(|(n, c)| (n.clone(), c.acked())).collect(),
        }
    }

    /// Blocks of the step to `set` are known to have changed, or it is known that this is not known.
    #[must_use]
    pub fn knows_changed(&self, set: SetNumber, blocks: &BlockSet) -> bool {
        let known = self.changes.noted(set);
        let all = |s: &BlockSet| blocks.iter().all(|b| s.contains(b));
        self.want.changes.base >= set || blocks.is_empty() || known.is_some_and(all)
    }
}
