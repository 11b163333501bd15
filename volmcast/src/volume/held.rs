//! Applying a catch-up in place without hiding what was visible, where the snapshot area has room for
//! what is overwritten (SAVE-11, PLAY-03): readers see that state through a durable pin.
//!
//! ```text
//! at rest, visible = s ─► one commit: mark, pin of s ─► extents, live sets: what they overwrite is saved
//!   readers see s, through the pin ──────────────────────────────────► `need`: readers see that one
//! ```
//!
//! The pin is that of a kept state, and of one that is only *lent* to readers if nobody keeps `s`. It
//! is listed by the slot that has the mark, and by none that has not. Where the snapshot area fills, a
//! lent pin goes before any state is broken that somebody wants: readers are refused from then on, as
//! under a catch-up that was begun without it.

use std::collections::BTreeSet;

use rcp::proto::ids::SetNumber;

use super::{Event, Volume};
use crate::mailbox::Held;
use crate::snapshots::{BrokenBecause, PinId, SnapshotEvent};
use crate::units::BlockCount;

/// Of the free places for before images, those that the blocks of a catch-up may take: the others are
/// for live sets, whose blocks are overwritten meanwhile as well.
const SHARE: u64 = 2;

impl Volume {
    /// A catch-up of so many blocks begins at `from`, in place: what readers see meanwhile. Called
    /// before anything of it is done.
    pub(super) fn hold_begins(&mut self, from: SetNumber, blocks: u64) -> Option<Held> {
        let (visible, was) = (self.want.visible, self.holding());
        if was.is_some() {
            // It begins anew, perhaps at another sender.
            if from > visible && self.held_pin().is_some() {
                return was;
            }
            self.hold_ends();
            return None;
        }
        let room = u64::from(self.cfg.snapshots.free_slots()) / SHARE;
        let shown = self.unwhole().is_none()
            && self.is_whole()
            && !self.is_mirroring()
            && self.durable.visible == visible
            && (SetNumber::ZERO..from).contains(&visible)
            && visible > SetNumber::ZERO;
        if !shown || blocks == 0 || blocks > room || self.undoes_after().is_some() {
            return None;
        }
        let lent = self.kept().all(|s| s != visible);
        if lent {
            self.may_keep().ok()?;
            self.pin_durably(visible);
        }
        Some(Held { blocks: self.want.blocks, lent })
    }

    fn holding(&self) -> Option<Held> {
        self.want.held()
    }

    /// The state that is only lent to readers, in what the next slot will say.
    pub(super) fn lent(&self) -> Option<SetNumber> {
        self.holding().filter(|h| h.lent).map(|_| self.durable.visible)
    }

    /// Readers see what was visible, whatever the content holds now: through this pin, with so many
    /// blocks.
    pub(super) fn held_pin(&self) -> Option<(PinId, BlockCount)> {
        let marks = || self.want.seed.iter().chain(&self.durable.seed);
        let held = marks().next()?.held.filter(|_| marks().all(|m| m.held.is_some()))?;
        let at = self.durable.visible;
        let mut pins = self.cfg.snapshots.durable_pins().into_iter().rev();
        let (pin, _) = pins.find(|(p, s)| *s == at && !self.is_branch(*p))?;
        Some((pin, held.blocks))
    }

    /// Requests may go on with what they read of the content, through pins.
    pub(super) fn holds_readers(&mut self) -> bool {
        // Through a view with layers they may read steps of the save volume that end now.
        let layers = !self.board.view().layers.is_empty() || self.playback.held_by_readers();
        self.holding().is_some() && !layers
    }

    /// The operator wants what is lent to be kept, or no longer wants what is shown to be.
    pub(super) fn hold_is_kept(&mut self, set: SetNumber, kept: bool) -> bool {
        let at = self.durable.visible;
        let held = self.want.seed.as_mut().and_then(|m| m.held.as_mut());
        let Some(held) = held.filter(|h| h.lent == kept && set == at) else { return false };
        held.lent = !kept;
        self.list_kept();
        self.commit.request();
        self.pump();
        true
    }

    /// What was visible is not read any more: its readers are lost, or the commit that follows shows
    /// another state.
    pub(super) fn hold_ends(&mut self) {
        if let Some(set) = self.lent() {
            self.release_quietly(set);
            self.list_kept();
        }
        if let Some(mark) = &mut self.want.seed {
            mark.held = None;
        }
    }

    /// Something needs room in the snapshot area, and a durable pin would have to be broken for it.
    /// True if there will be room without that, in a while: readers are let go of first.
    pub(super) fn hold_gives_room(&mut self) -> bool {
        if self.holding().is_some() {
            self.hold_fails("the snapshot area is full");
            self.hold_goes = !self.releasing.is_empty();
        }
        self.hold_goes &= !self.releasing.is_empty();
        self.hold_goes
    }

    fn hold_fails(&mut self, why: &str) {
        let set = self.durable.visible;
        self.hold_ends();
        self.board.forsake();
        self.publish_view();
        self.commit.request();
        let text = format!(
            "state {set} is not readable any more, until the catch-up under way has ended: {why}, and \
             what it overwrites cannot be saved for readers"
        );
        self.desk.event(Event::Hidden { text });
    }

    /// Durable pins may have been broken: whoever wanted their states is told.
    pub(super) fn pins_broken(&mut self) {
        let (mut full, mut damaged) = (BTreeSet::new(), BTreeSet::new());
        for e in self.cfg.snapshots.take_events() {
            let SnapshotEvent::Broken { pin, set, durable, because } = e;
            let given_up = self.releasing.contains(&pin) || self.is_branch(pin);
            if durable && !given_up && Some(set) != self.lent() {
                match because {
                    BrokenBecause::AreaFull => full.insert(set),
                    BrokenBecause::TableDamaged => damaged.insert(set),
                };
            }
        }
        if self.holding().is_some() && self.held_pin().is_none() {
            self.hold_fails("the snapshot area is full");
        }
        self.not_kept(full, "the snapshot area is full, and the oldest states are given up first");
        self.not_kept(damaged, "the table of the snapshot area is damaged");
    }
}
