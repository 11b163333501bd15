//! Receiving a catch-up: what it builds on, and how it begins (SAVE-11). The rest is as for a seed
//! ([`super::seed_in`]); `docs/catch-up.md` says why it is right.

use rcp::proto::ids::SetNumber;

use super::{Event, Role, Volume};
use crate::mailbox::SeedMark;
use crate::units::BlockCount;

impl Volume {
    /// The state that the content here holds, but for blocks that later states changed: what a
    /// catch-up can build on. `None`: there is no such content.
    #[must_use]
    pub fn catch_up_base(&self) -> Option<SetNumber> {
        if !matches!(self.cfg.role, Role::Replica { .. }) {
            return None;
        }
        if let Some((_, over, _)) = self.stage_joins() {
            return Some(over);
        }
        // Also before it is durable: what was begun first is what the content may be.
        if let Some(mark) = self.want.seed.or(self.durable.seed) {
            return mark.over.filter(|_| self.durable.seed.is_none_or(|d| d.over.is_some()));
        }
        // The mark of one that ends is taken away by the same commit that says what is merged.
        Some(self.durable.merged).filter(|m| *m > SetNumber::ZERO && self.want.merged >= *m)
    }

    /// What the base holds is exactly what is shown. (A damaged table has another sum.)
    pub(super) fn is_whole(&self) -> bool {
        self.digest.doubts.is_empty()
            && self.want.seed.is_none()
            && self.durable.seed.is_none()
            && self.want.merged == self.want.visible
            && self.want.hidden_until == SetNumber::ZERO
            && self.merge_is_idle()
            && !self.base_being_written()
    }

    /// A catch-up begins, of `blocks` blocks if the sender knows: the live stream joins at `from`,
    /// the content is kept, whatever else is held is given up. `volume` is the size of the volume
    /// as the parent told it last.
    pub fn catch_up_begin(&mut self, from: SetNumber, volume: BlockCount, blocks: u64) {
        let Some(over) = self.catch_up_base() else {
            let reason = "the content here is of no use for a catch-up".to_owned();
            self.desk.event(Event::NeedsSeed { reason });
            return;
        };
        let held = self.hold_begins(from, blocks);
        if self.undoes_after().is_some() {
            // The line that ended may have grown.
            self.want.blocks = volume;
            self.base_shrunk();
        }
        self.want.blocks = self.want.blocks.max(volume);
        let whole = self.is_whole();
        self.digest_caught_up(whole);
        // Parts of what was shown once may be in the content.
        let mut shown = self.want.visible.max(self.durable.visible).max(self.log.state());
        if let Some(open) = self.log.open_step()
            && self.want.seed.or(self.durable.seed).is_some()
        {
            // While hidden, sets are folded in as they come.
            shown = shown.max(open.id.to);
        }
        self.want.hidden_until = self.want.hidden_until.max(shown);
        self.join_at(from, "detached: its parent is itself being caught up");
        let keeps = self.undoes_after().is_none_or(|over| over <= from);
        // What the list of changes names is to come again for as long as that is not the end.
        let undo = self.want.seed.or(self.durable.seed).is_some_and(|m| m.undo);
        let (over, view) = (Some(over), self.seed_view());
        self.want.seed = Some(SeedMark { over, from, next_block: 0, need: None, view, undo, held });
        self.hide(from, keeps);
        let floor = self.seed_in.as_ref().map_or(SetNumber::ZERO, |s| s.floor);
        self.seed_anew(from);
        if let Some(s) = &mut self.seed_in {
            s.planned = blocks;
            s.floor = floor;
        }
        self.publish_view();
        self.commit.request();
        self.pump();
    }

    /// Of a catch-up that comes in: blocks that have come in this life of the node, and how many
    /// the sender announced (0: it did not know).
    #[must_use]
    pub fn catch_up_progress(&self) -> Option<(u64, u64)> {
        self.want.seed.or(self.durable.seed)?.over?;
        Some(self.seed_in.as_ref().map_or((0, 0), |s| (s.came, s.planned)))
    }
}
