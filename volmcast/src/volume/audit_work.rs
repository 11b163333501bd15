//! What must hold of the work that a volume has under way, and of what it shows meanwhile. As slow as
//! the rest of the audit.

use std::collections::BTreeSet;

use super::audit::Held;
use super::merge::PARALLEL;
use super::{Role, Volume};
use crate::mailbox::TableMark;
use crate::snapshots::PinId;

impl Volume {
    /// At any time.
    pub(super) fn held_in_work(&self) -> Vec<Held> {
        let mut all = self.held_of_seeds();
        all.extend(self.held_of_merging());
        if let Role::Replica { .. } = self.cfg.role {
            all.extend(self.held_of_view());
        }
        all
    }

    /// A seed counts as marked when a restart would find its mark, and content that it brings is
    /// nobody's surprise.
    fn held_of_seeds(&self) -> Vec<Held> {
        let (d, w) = (&self.durable, &self.want);
        let named = |by: u64, is: bool| d.sequence < by || is;
        let seed = self.seed_in.as_ref().zip(w.seed).is_none_or(|(s, w)| {
            let is = d.seed.is_some_and(|m| (m.over, m.from) == (w.over, w.from));
            named(s.marked_by, is)
        });
        let staged = self.staging.as_ref().zip(w.staged).is_none_or(|(s, w)| {
            let is = d.staged.is_some_and(|m| (m.over, m.from) == (w.over, w.from));
            named(s.marked_by, is)
        });
        let told = self
            .seed_in
            .as_ref()
            .zip(d.seed)
            .is_none_or(|(s, m)| d.sequence < s.marked_by || m.next_block <= s.told_block());
        let busy = self.seed_in.as_ref().and_then(|s| s.busy.as_ref());
        let foreseen = busy.is_none_or(|e| d.seed.is_some_and(|m| m.view >= e.view));
        let primary = matches!(self.cfg.role, Role::Primary { .. });
        let waits = self.seed_outs.may_go_on() && !self.commit.is_busy();
        vec![
            (seed, "a seed counts as marked, and the slot has another mark or none"),
            (staged, "a staged catch-up counts as marked, and the slot has another mark or none"),
            (told, "the parent is not told how far a seed is durable"),
            (foreseen, "an extent is written of a state that the slot's mark does not know"),
            (!primary || !waits, "a child has room for extents, and nothing is done about it"),
        ]
    }

    /// No more is written at a time than is to be, and the slot names what it has to.
    fn held_of_merging(&self) -> Vec<Held> {
        let d = &self.durable;
        let replica = matches!(self.cfg.role, Role::Replica { .. });
        // A seed folds one chunk after the other.
        let most = if d.seed.is_some() { 1 } else { PARALLEL };
        let short = self.log.free() + self.log.reclaimable() < self.short_room();
        let held = replica && short && self.merge.applied_pos() > self.commit.applied;
        // A role that has just changed is told of by the next commit.
        let rests = replica && !self.commit.is_busy();
        let has_table = d.digest.table != TableMark::Absent;
        let follows = !rests || !has_table || d.digest.hashed == d.merged;
        vec![
            (self.merge.under_way().count() <= most, "too many chunks are merged at a time"),
            (!held || self.commit.is_busy(), "room is short, and what is merged is not committed"),
            (follows, "the slot's table of hashes is of another state than its content"),
        ]
    }

    /// The pins of kept states that the slot lists, and those that are given up or are of branches.
    fn pins_listed(&self) -> (BTreeSet<PinId>, BTreeSet<PinId>) {
        let lent = self.lent();
        let listed = self.durable.keeps().filter(|k| Some(k.set) != lent);
        let listed = listed.map(|k| k.pin).filter(|p| *p != 0);
        let aside = self.want.aside.iter().map(|k| PinId(k.pin));
        (listed.map(PinId).collect(), self.releasing.iter().copied().chain(aside).collect())
    }

    /// A state waits to be kept that the content holds, or is past. Under a seed the content is no state,
    /// nor is it within a staged catch-up.
    fn keeps_too_late(&self) -> bool {
        let merged = self.want.merged;
        let within = self.staging.as_ref().is_some_and(|s| {
            let mark = s.standing().0;
            mark.from <= merged && mark.need.is_none_or(|need| merged < need)
        });
        let seeded = self.want.seed.or(self.durable.seed).is_some();
        !seeded && !within && self.keeps_waiting.first().is_some_and(|s| *s <= merged)
    }

    /// Readers are shown what is durable, and why not if they are not.
    fn held_of_view(&self) -> Vec<Held> {
        let (d, view) = (&self.durable, self.board.view());
        let (shown, says) = (view.refused.as_deref(), self.refusal());
        let open = self.board.kept();
        let (listed, gone) = self.pins_listed();
        vec![
            (open.is_disjoint(&gone), "readers may open a state that is given up"),
            (open.is_subset(&listed), "readers may open a state that no slot lists"),
            (
                listed.is_subset(&(&open | &gone)),
                "readers may not open a state that is kept, and that the slot lists",
            ),
            (!self.keeps_too_late(), "a state is to be kept when it comes, and has come or gone"),
            (
                shown.is_some() || view.visible == d.visible,
                "readers are shown another state than the slot names",
            ),
            (shown.is_some() || says.is_none(), "readers are let in, and are to be refused"),
            (shown.is_none() || says.is_some(), "readers are refused, and are to be let in"),
        ]
    }
}
