//! A change of role: a replica takes over as the writer, a writer steps down (FAIL-03 to FAIL-07,
//! F23, F32, F33).
//!
//! ```text
//! replica ─ end_playback ─► plays what came, to a set, or no more ─ rest ─► keep (restart point) ─► take_over
//! primary ─ (fenced, clean) ─► step_down ─► replica at its last state
//! replica ─ (past the fork) ─► rewind_unshown, or discard ─► position in the new line, or a seed
//! ```
//!
//! Roles change in place, while nothing is under way: the save volume, kept states and children's
//! positions stay what they are. What makes a change durable is outside (the volume's identity);
//! every step here can be repeated after a crash.

use std::sync::Arc;

use rcp::proto::clock::Wall;
use rcp::proto::ids::SetNumber;

use super::drain::Drain;
use super::growth::Growth;
use super::intake::Intake;
use super::playback::Ending;
use super::{CutPolicy, PlaybackPolicy, Role, Volume};
use crate::capture::Capture;
use crate::mailbox::Branch;

/// Why a state that is still to come is not waited for.
pub(super) const WRITER: &str = "this node is the writer now, which keeps states as it cuts them";

impl Volume {
    /// The replica is to take over, or no longer (`None`): complete sets it has not shown are shown
    /// at once, or never, or up to one of them.
    pub fn end_playback(&mut self, ending: Option<Ending>) {
        self.playback.ending = ending;
        if ending.is_some() && self.stage_lacks() {
            // The node that it comes from is about to be no writer any more.
            self.stage_drop();
        }
        self.pump();
    }

    /// The state in which a replica that ends its playback has come to rest: everything that was to
    /// be shown is shown, and the base holds it, durably. `None` while it is on its way.
    #[must_use]
    pub fn rest(&self) -> Option<SetNumber> {
        let ending = self.playback.ending?;
        let at = self.durable.visible;
        let whole = self.want.visible == at
            && self.want.merged == at
            && self.durable.merged == at
            && self.merge.is_idle()
            && !self.base_being_written()
            && self.durable.seed.is_none()
            && self.want.seed.is_none()
            // Damage that was found on the way.
            && self.unwhole().is_none();
        let shown = match ending {
            Ending::PlayNoMore => true,
            Ending::PlayTo(last) => at == last,
            Ending::PlayAll => self.log.state() == at,
        };
        (whole && shown).then_some(at)
    }

    /// The sets that a replica could end its playback with: the one that it shows, and those after
    /// it that have come whole.
    pub fn endings(&self) -> impl Iterator<Item = SetNumber> + '_ {
        let shown = self.want.visible;
        let after = self.playback.whole_after(shown).filter(|set| !self.stage_hides(*set));
        std::iter::once(shown).chain(after)
    }

    /// The state is kept, and a restart would find it so.
    #[must_use]
    pub fn is_kept_durably(&self, set: SetNumber) -> bool {
        self.durable.kept.iter().any(|k| k.set == set && k.pin > 0)
    }

    /// A replica at rest becomes the writable volume. Its line is opened by
    /// [`Volume::open_generation`], which comes next; readers of states that are not kept end here.
    pub fn take_over(&mut self, capture: Arc<Capture>, policy: CutPolicy) {
        let at = self.want.visible;
        self.drop_steps_after(at);
        // What a version was wanted for has come; as a replica it mirrors again.
        self.want.settings.opened = false;
        capture.tell_dirty_above(policy.hwm);
        let newest = self.cut_time(at).unwrap_or(Wall(0)).max(self.desk.wall);
        self.drain = Drain::new(policy, self.desk.now, newest);
        self.demands.forget();
        self.growth = Growth::new(self.want.blocks);
        self.merge.waits_no_more();
        self.stalls.role_changed();
        self.intake = Intake::default();
        self.playback.ending = None;
        self.playback.clear();
        self.cfg.role = Role::Primary { capture, policy };
        self.keep_no_more(WRITER);
        self.digest_of_writer();
        if !self.is_replicating() {
            self.set_replicating(true);
        }
        self.board.forsake();
        self.publish_view();
        self.commit.request();
        self.pump();
    }

    /// Steps that came and will never be shown here: of a writer whose line ends before them. Call
    /// it before anything else is asked of a volume that was opened as a primary and has yet to open
    /// its line.
    pub fn drop_unshown(&mut self) {
        let at = self.want.visible;
        self.drop_steps_after(at);
    }

    pub(super) fn drop_steps_after(&mut self, at: SetNumber) {
        let at = self.stage_drops(at);
        self.log.drop_after(at);
        self.playback.drop_after(at);
        self.intake.building = None;
        self.intake.partial = false;
        self.digest_layers_gone();
    }

    /// The writer becomes a replica that shows its last finished set. Nothing was changed since:
    /// see [`Volume::is_clean`]; or what was changed is given up next ([`Volume::discard`]).
    pub fn step_down(&mut self, policy: PlaybackPolicy) {
        let at = self.want.visible;
        self.playback.forget_policy();
        self.want.settings.opened = false;
        self.digest_of_reader();
        self.cfg.role = Role::Replica { policy };
        self.drain = Drain::default();
        self.demands.forget();
        self.intake = Intake::default();
        self.drop_steps_after(at);
        self.playback.clear();
        self.growth = Growth::new(self.want.blocks);
        self.merge.start(self.log.head(), at);
        self.commit.applied = self.merge.applied_pos();
        self.stalls.role_changed();
        self.board.advance(at);
        self.publish_view();
        self.commit.request();
        self.pump();
    }

    /// The writable volume is exactly its last finished set.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.capture().is_none_or(|c| c.dirty_bytes() == 0 && c.drained())
            && self.drain.draining().is_none()
            && self.log.state() <= self.durable.visible
    }

    /// What a writer holds that ended at `fork` for others: blocks of its sets after that, if they
    /// are still known, and blocks changed since its last set.
    #[must_use]
    pub fn given_up(&self, fork: SetNumber) -> (Option<u64>, u64) {
        let after = self.log.steps().filter(|s| s.id.to > fork);
        let blocks: Option<u64> = after.map(|s| s.end.as_ref().map(|(h, _)| h.block_count)).sum();
        let known = self.log.base() <= fork;
        let dirty = self.capture().map_or(0, |c| c.dirty_blocks().0 + c.undrained_blocks().0);
        (blocks.filter(|_| known), dirty)
    }

    /// A replica received sets of a line that ended before them and shows none of them: they are
    /// dropped, and it stands at `fork` or before. False if it shows one.
    pub fn rewind_unshown(&mut self, fork: SetNumber) -> bool {
        if self.shows_past(fork) || self.want.seed.or(self.durable.seed).is_some() {
            return false;
        }
        self.drop_steps_after(fork);
        self.commit.request();
        self.pump();
        true
    }

    /// A replica gives up everything it holds: it refuses reads, and is filled by a seed, or by what
    /// a comparison finds to differ from its parent's content. What it knows of writers is `history` from then on: with it, content of any line goes, and
    /// knowledge of none.
    pub fn discard(&mut self, why: &str, history: Vec<Branch>) {
        self.want.history = history;
        self.staging = None;
        self.log.reset(SetNumber::ZERO);
        self.commit.log_was_reset();
        self.detach_all(why);
        self.intake = Intake::default();
        self.playback.clear();
        self.playback.ending = None;
        if matches!(self.cfg.role, Role::Replica { .. }) {
            // Nor may a catch-up build on it, before it was compared.
            self.content_unproven(SetNumber::ZERO);
            self.board.forsake_kept();
            let gone = format!("the content is given up ({why})");
            self.give_up_kept(&gone);
            self.keep_no_more(&gone);
            self.merge.start(self.log.head(), SetNumber::ZERO);
            self.want.merged = SetNumber::ZERO;
            self.want.visible = SetNumber::ZERO;
            self.want.hidden_until = SetNumber::ZERO;
            self.changes_reset(SetNumber::ZERO);
            self.publish_view();
        }
        self.discarded_by = self.commit.next_sequence(self.durable.sequence);
        self.commit.request();
        self.pump();
    }

    /// Whether every [`Volume::discard`] has come through: a restart would find nothing of what was
    /// given up.
    #[must_use]
    pub fn is_discarded(&self) -> bool {
        self.durable.sequence >= self.discarded_by
    }
}
