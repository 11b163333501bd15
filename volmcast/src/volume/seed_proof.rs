//! A seed or catch-up that is whole although not every set has come that its extents may have been of,
//! because the digest says so: a writer may have lost such a set in a crash. See `docs/seed.md`.

use std::time::Duration;

use rcp::proto::clock::Mono;

use super::Volume;
use super::pass::Pass;
use crate::mailbox::TableMark;
use crate::save::Step;

/// How long to wait for sets before the content is read in full.
const PATIENCE: Duration = Duration::from_secs(10);

/// Whether the content is read to find out if it is one state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Proof {
    /// Sets that are needed have not been waited for.
    #[default]
    Needless,
    /// They have until then.
    Waits(Mono),
    /// They do not come.
    Wanted,
}

impl Proof {
    /// As it is now.
    pub(super) fn at(self, now: Mono) -> Self {
        match self {
            Self::Waits(until) if until <= now => Self::Wanted,
            other => other,
        }
    }

    pub(super) fn timeout(self) -> Option<Mono> {
        match self {
            Self::Waits(until) => Some(until),
            _ => None,
        }
    }
}

impl Volume {
    /// The base and the table are empty.
    pub(super) fn digest_cleared(&mut self) {
        self.want.digest.table = TableMark::Kept;
        let pass = self.digest.pass.insert(Pass::new(false));
        pass.cursor = u64::MAX;
    }

    /// Whole: every set up to the newest complete one that is folded in belongs to the state.
    pub(super) fn is_between_sets(&self) -> bool {
        let at = self.merge.applied_pos();
        let within = |s: &Step| s.first < at && s.end.as_ref().is_none_or(|(_, end)| *end > at);
        !self.log.steps().any(within)
    }

    /// The hidden content is exactly the state that was folded in last, says its digest.
    pub(super) fn seed_is_proven(&mut self) -> bool {
        let (at, now) = (self.want.merged, self.desk.now);
        let Some(s) = &mut self.seed_in else { return false };
        if s.proof == Proof::Needless {
            let waits = Proof::Waits(now.after(PATIENCE));
            s.proof = if self.want.digest.is_unproven() { Proof::Wanted } else { waits };
        }
        // Before these, a crash may have left content without its hashes.
        let hashed = at >= s.floor.max(s.unproven);
        let wanted = s.proof == Proof::Wanted;
        let Some(told) = self.told(at).filter(|_| at >= self.want.hidden_until) else {
            return false;
        };
        let sum = self.digest.pass.as_ref().filter(|p| hashed || p.build);
        if let Some(p) = sum {
            return p.cursor == u64::MAX && p.sum == told && !self.table_being_written();
        }
        if wanted && self.want.digest.table != TableMark::Absent {
            self.digest_lost();
        }
        false
    }

    /// All extents have come, and the sets that would do do not: the table is made from the content.
    pub(super) fn seed_wants_proof(&self) -> bool {
        self.seed_in.as_ref().is_some_and(|s| s.proof == Proof::Wanted && s.is_filled())
    }
}
