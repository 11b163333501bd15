//! From complete steps to visible states (PLAY): grouping, publication, hiding.
//!
//! A step is shown when it is durable, whole and due by the replica's own policy; the commit that
//! says so comes first, then readers see it. Views that were replaced are remembered until their
//! last request has ended, because their layers' records must not be overwritten before.

use std::collections::VecDeque;
use std::sync::Arc;

use rcp::proto::clock::{Mono, Wall};
use rcp::proto::ids::SetNumber;

use super::{Event, PlaybackPolicy, Role, Volume};
use crate::mailbox::Mailbox;
use crate::units::{BlockCount, LogPos};
use crate::view::{Layer, ViewState};

/// Complete steps on their way to readers.
#[derive(Debug, Default)]
pub(super) struct Playback {
    /// Whole steps that the base may not hold, oldest first, each with the end of its records.
    layers: VecDeque<(Arc<Layer>, LogPos)>,
    /// When the oldest step that is not visible was completed.
    gathering_since: Option<Mono>,
    due_at: Option<Mono>,
    /// Replaced views that requests may still hold.
    retired: Vec<Arc<ViewState>>,
    /// The newest cut time that was shown.
    cut_time: Wall,
    policy_override: Option<PlaybackPolicy>,
    /// A version is wanted: what had come whole then is shown at once.
    version: SetNumber,
    /// The replica is to take over: everything that came is shown at once, or a part, or nothing
    /// more is.
    pub(super) ending: Option<Ending>,
    /// And what is damaged here is the volume then.
    pub(super) as_it_is: bool,
}

/// What a replica that is to take over does with complete sets it has not shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Shows them all (F32).
    PlayAll,
    /// Shows them up to this set, which is whole here, and none after it.
    PlayTo(SetNumber),
    /// Finishes what it has begun (FAIL-07).
    PlayNoMore,
}

impl Ending {
    /// Whether a whole set may be shown.
    fn shows(self, set: SetNumber) -> bool {
        match self {
            Self::PlayAll => true,
            Self::PlayTo(last) => set <= last,
            Self::PlayNoMore => false,
        }
    }
}

impl Playback {
    pub(super) fn complete(&mut self, layer: Layer, end: LogPos) {
        self.layers.push_back((Arc::new(layer), end));
    }

    pub(super) fn clear(&mut self) {
        self.layers.clear();
        self.gathering_since = None;
        self.due_at = None;
        self.version = SetNumber::ZERO;
    }

    /// Whole steps after `state` are given up.
    pub(super) fn drop_after(&mut self, state: SetNumber) {
        self.layers.retain(|(l, _)| l.id.to <= state);
        self.version = self.version.min(state);
        self.gathering_since = None;
        self.due_at = None;
    }

    pub(super) fn timeout(&self) -> Option<Mono> {
        self.due_at
    }

    /// The group's policy counts again.
    pub(super) fn forget_policy(&mut self) {
        self.policy_override = None;
    }

    pub(super) fn bring_to(&mut self, version: SetNumber) {
        self.version = version;
    }

    pub(super) fn set_policy(&mut self, p: PlaybackPolicy) {
        self.policy_override = Some(p);
    }

    /// The whole step after `state`.
    pub(super) fn layer_after(&self, state: SetNumber) -> Option<Arc<Layer>> {
        self.layers.iter().find(|(l, _)| l.id.to > state).map(|(l, _)| l.clone())
    }

    /// Whole steps that lead to states before `to`.
    pub(super) fn layers_below(&self, to: SetNumber) -> Vec<Arc<Layer>> {
        self.layers.iter().map(|(l, _)| l).filter(|l| l.id.to < to).cloned().collect()
    }

    /// A step up to `visible` that the base may not hold, or only in part, has this block.
    pub(super) fn has_block(&self, block: u64, visible: SetNumber) -> bool {
        self.layers.iter().any(|(l, _)| l.id.to <= visible && l.has(block))
    }

    /// States that whole steps lead to which the base may not hold.
    pub(super) fn indexed(&self) -> impl Iterator<Item = SetNumber> + '_ {
        self.layers.iter().map(|(l, _)| l.id.to)
    }

    /// First record of the oldest step that the base may not hold.
    pub(super) fn first_pos(&self) -> Option<LogPos> {
        self.layers.front().map(|(l, _)| l.first)
    }

    /// End of the records up to the state that may be merged into the base.
    pub(super) fn end_of(&self, visible: SetNumber) -> Option<LogPos> {
        self.layers.iter().rev().find(|(l, _)| l.id.to <= visible).map(|(_, end)| *end)
    }

    /// Size of the volume in a whole step that the base may not hold.
    fn size_of(&self, set: SetNumber) -> Option<BlockCount> {
        self.layers.iter().rev().find(|(l, _)| l.id.to == set).map(|(l, _)| l.blocks)
    }

    /// First record that a request in progress may still read.
    pub(super) fn reader_hold(&mut self) -> Option<LogPos> {
        self.retired.retain(|v| Arc::strong_count(v) > 1);
        let old = self.retired.iter().flat_map(|v| v.layers.iter()).map(|l| l.first).min();
        let new = self.layers.front().map(|(l, _)| l.first);
        [old, new].into_iter().flatten().min()
    }

    /// Replaced views are still held by requests. Nobody says when the last of them ends.
    pub(super) fn held_by_readers(&mut self) -> bool {
        self.retired.retain(|v| Arc::strong_count(v) > 1);
        !self.retired.is_empty()
    }

    /// Whole steps after the visible state.
    pub(super) fn unshown(&self, visible: SetNumber) -> usize {
        self.layers.iter().filter(|(l, _)| l.id.to > visible).count()
    }

    /// The same, by their numbers.
    pub(super) fn whole_after(&self, visible: SetNumber) -> impl Iterator<Item = SetNumber> + '_ {
        self.layers.iter().map(|(l, _)| l.id.to).filter(move |to| *to > visible)
    }

    /// Blocks and sets between the visible state and the newest whole step, for status.
    pub(super) fn unmerged(&self) -> usize {
        self.layers.len()
    }
}

impl Volume {
    fn playback_policy(&self) -> Option<PlaybackPolicy> {
        match self.cfg.role {
            Role::Replica { policy } => Some(self.playback.policy_override.unwrap_or(policy)),
            _ => None,
        }
    }

    /// When steps are played.
    #[must_use]
    pub fn playback_policy_now(&self) -> PlaybackPolicy {
        let timeout = std::time::Duration::ZERO;
        let at_once = PlaybackPolicy { hwm: 0, timeout, on_demand: false };
        self.playback_policy().unwrap_or(at_once)
    }

    /// Changes when steps are played (CAP-13 at a secondary).
    pub fn set_playback_policy(&mut self, policy: PlaybackPolicy) {
        self.playback.set_policy(policy);
        self.pump();
    }

    pub(super) fn pump_playback(&mut self) {
        let Some(policy) = self.playback_policy() else { return };
        self.playback.due_at = None;
        let ending = self.playback.ending;
        let off = match ending {
            None => !self.is_replicating(),
            Some(e) => !e.shows(self.want.visible.next()),
        };
        if self.seed_in.is_some() || self.durable.seed.is_some() || off {
            return;
        }
        if self.want.hidden_until != self.durable.hidden_until || self.digest_waits() {
            // Hidden durably first: nobody reads the older state in between. And a digest that is
            // added up is that of the state that the base comes to hold.
            return;
        }
        let head = self.durable.log_head;
        let shown = self.want.visible;
        let ready = self
            .playback
            .layers
            .iter()
            .filter(|(l, end)| l.id.to > shown && *end <= head && self.is_checked(l.id.to))
            .filter(|(l, _)| ending.is_none_or(|e| e.shows(l.id.to)))
            .filter(|(l, _)| !self.stage_hides(l.id.to))
            .map(|(l, end)| (l.id.to, end.since(l.first)));
        let (mut newest, mut bytes) = (None, 0);
        for (to, len) in ready {
            newest = Some(to);
            bytes += len;
        }
        let Some(newest) = newest else {
            self.playback.gathering_since = None;
            return;
        };
        let since = *self.playback.gathering_since.get_or_insert(self.desk.now);
        let due = since.after(policy.timeout);
        let tight = self.log.free() < self.log.ring().capacity() / 3;
        let hidden = self.want.hidden_until > shown;
        let wanted = ending.is_some() || shown < self.playback.version || self.stage_is_unshown();
        if self.desk.now >= due || bytes >= policy.hwm || tight || hidden || wanted {
            // The state may be larger than the one before it.
            let size = self.playback.size_of(newest).unwrap_or(self.want.blocks);
            if !self.base_covers(size) {
                return;
            }
            self.want.blocks = size;
            self.want.digest.table = self.mark_at(newest);
            self.want.visible = newest;
            if newest >= self.want.hidden_until {
                self.want.hidden_until = SetNumber::ZERO;
            }
            self.playback.gathering_since = None;
            self.commit.request();
        } else {
            self.playback.due_at = Some(due);
        }
    }

    /// A commit was done: show what it says.
    pub(super) fn view_committed(&mut self, before: &Mailbox) {
        if !matches!(self.cfg.role, Role::Replica { .. }) {
            return;
        }
        let merged = self.durable.merged;
        let dropped = self.playback.layers.iter().take_while(|(l, _)| l.id.to <= merged).count();
        let advanced = self.durable.visible > before.visible;
        if advanced {
            let (from, to) = (before.visible, self.durable.visible);
            self.history_table.played(from, to, self.desk.wall, self.desk.now);
        }
        self.history_table.merged(merged, self.desk.now);
        if advanced
            || dropped > 0
            || before.hidden_until != self.durable.hidden_until
            || before.seed != self.durable.seed
        {
            self.playback.layers.drain(..dropped);
            self.forget_hashes();
            self.publish_view();
        }
        if advanced || (before.seed.is_some() && self.durable.seed.is_none()) {
            self.desk.event(Event::Visible { state: self.durable.visible });
        }
    }

    /// Why reads of the replica are refused, if they are.
    #[must_use]
    pub fn refusal(&self) -> Option<String> {
        let hidden = self.unwhole().filter(|_| self.held_pin().is_none());
        hidden.or_else(|| self.closed_to_readers())
    }

    /// Why there is no whole state here that anything could go on from, if so.
    #[must_use]
    pub fn unwhole(&self) -> Option<String> {
        if let Some(f) = &self.failed {
            return Some(f.clone());
        }
        match self.cfg.role {
            Role::Relay => return Some("this node only forwards; it keeps no replica".to_owned()),
            Role::Primary { .. } => return None,
            Role::Replica { .. } => {}
        }
        // From the moment on that it is wanted: the layers are gone at once.
        if let Some(s) = self.durable.seed.or(self.want.seed) {
            let total = self.durable.blocks.0.max(1);
            let percent = s.next_block.saturating_mul(100) / total;
            if self.seed_is_unproven() {
                return Some(self.unproven_words(percent.min(100)));
            }
            if s.over.is_some() {
                return Some(self.catching_up(s.need));
            }
            return Some(match s.need {
                None => format!("being seeded: {percent}% of the volume has come"),
                Some(n) => format!(
                    "being seeded: all blocks have come, waiting for set {n} (holds set {})",
                    self.durable.merged
                ),
            });
        }
        if let Some(why) = self.differs_words().filter(|_| !self.playback.as_it_is) {
            return Some(why);
        }
        let hidden = |m: &Mailbox| m.hidden_until > m.visible;
        if let Some(m) = [&self.durable, &self.want].into_iter().find(|m| hidden(m)) {
            return Some(format!(
                "damage in the save volume: sets up to {} are fetched again from the parent \
                 (holds set {})",
                m.hidden_until, m.visible
            ));
        }
        None
    }

    /// Why readers are not let in although there is a whole state, if so.
    pub(super) fn closed_to_readers(&self) -> Option<String> {
        if !matches!(self.cfg.role, Role::Replica { .. }) {
            return None;
        }
        self.is_mirroring().then(|| self.not_read()).or_else(|| self.too_old.clone())
    }

    fn catching_up(&self, need: Option<SetNumber>) -> String {
        if let Some(n) = need {
            return format!(
                "catching up: all blocks have come, waiting for set {n} (holds set {})",
                self.durable.merged
            );
        }
        let what = match self.undoes_after() {
            Some(over) => format!("taken back to set {over}, and catching up"),
            None => "catching up".to_owned(),
        };
        self.catching_up_words(&what, self.catch_up_progress().unwrap_or_default())
    }

    pub(super) fn catching_up_words(&self, what: &str, (came, planned): (u64, u64)) -> String {
        let mib = |blocks: u64| {
            let tenths = ((blocks << self.cfg.block_size.shift()) * 10) >> 20;
            if tenths < 100 {
                format!("{}.{}", tenths / 10, tenths % 10)
            } else {
                (tenths / 10).to_string()
            }
        };
        if planned == 0 {
            format!("{what}: {} MiB of changed blocks have come so far", mib(came))
        } else {
            format!("{what}: {} of {} MiB", mib(came), mib(planned))
        }
    }

    /// Refuses the newest state to readers, with the reason, because it is too old for them; or lets
    /// them have it again. What they have pinned they read on.
    pub fn refuse_as_old(&mut self, why: Option<String>) {
        if self.too_old.is_some() != why.is_some() {
            self.too_old = why;
            self.publish_view();
        }
    }

    /// Publishes what readers see now.
    pub(super) fn publish_view(&mut self) {
        let visible = self.durable.visible;
        let layers: Vec<_> = self
            .playback
            .layers
            .iter()
            .filter(|(l, _)| l.id.to <= visible)
            .map(|(l, _)| l.clone())
            .collect();
        if let Some(l) = layers.last() {
            self.playback.cut_time = l.cut_time;
        }
        let held = self.held_pin();
        let view = Arc::new(ViewState {
            visible,
            cut_time: self.playback.cut_time,
            blocks: held.map_or(self.durable.blocks, |(_, blocks)| blocks),
            refused: self.refusal(),
            held: held.map(|(pin, _)| pin),
            differs: self.differs_words().is_some() && !self.playback.as_it_is,
            hashed: self.is_hashed().then_some(self.digest.edition),
            writer: self.capture().filter(|_| self.digest.proves).cloned(),
            proven: self.proves_images().then_some(self.digest.edition),
            follows: matches!(self.cfg.role, Role::Replica { .. }),
            damaged: self.digest.doubts.clone(),
            layers,
        });
        let old = self.board.publish(view);
        if !old.layers.is_empty() {
            self.playback.retired.push(old);
        }
    }
}
