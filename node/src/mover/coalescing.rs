//! Queues that are sent as one step: a child is called to attach again, and what the node here says
//! that it could stage (`volmcast/docs/coalescing.md`).

use rcp::proto::frame::{Frame, Start, stream_error};
use rcp::proto::ids::{NodeName, VolumeId};
use volmcast::volume::{Role, Volume};

use super::sending::{Outbound, Stage};
use super::{Effect, Level, Mover};

/// What the parent was told that could be staged here.
#[derive(Debug, Default)]
pub(super) struct Told {
    /// Bytes, with the last attachment.
    bytes: u64,
    /// What it answered could not be staged: the next attachment says so.
    none: bool,
}

impl Told {
    /// What the next attachment says; nothing can be staged if it wants something else than sets.
    pub(super) fn tell(&mut self, volume: &mut Volume, plain: bool) -> Option<u64> {
        let none = std::mem::take(&mut self.none) || !plain;
        self.bytes = if none { 0 } else { volume.stage_offer() };
        matches!(volume.config().role, Role::Replica { .. }).then_some(self.bytes)
    }

    /// A catch-up of so many bytes stands for sets that can be had, and could be staged when that was
    /// said, but not any more: a state is to be kept, somebody is fed from here, or replication was
    /// stopped. Then the next attachment offers nothing.
    pub(super) fn gives_way(&mut self, volume: &mut Volume, bytes: u64) -> bool {
        let stages = volume.staged_progress().is_some();
        self.gives_way_to(bytes, stages, || volume.stage_offer())
    }

    /// The same, if something `stages` already, or with what could be staged by now.
    fn gives_way_to(&mut self, bytes: u64, stages: bool, offer: impl FnOnce() -> u64) -> bool {
        let gives_way = self.stands_for_sets(bytes) && !stages && offer() < bytes;
        self.none |= gives_way;
        gives_way
    }

    /// A sender chooses a step in place of sets only if it is no larger than what was offered.
    fn stands_for_sets(&self, bytes: u64) -> bool {
        bytes > 0 && bytes <= self.bytes
    }

    /// A catch-up of so many bytes cannot be staged: whether it may stand for sets that can be had,
    /// because it is no larger than what was offered, or what was being staged (`was`) stood for
    /// some. Only once: then the next attachment offers nothing.
    pub(super) fn falls_back(&mut self, bytes: u64, was: bool) -> bool {
        self.none = was || self.stands_for_sets(bytes);
        self.none
    }
}

impl Mover {
    /// A catch-up begins, of so many blocks and bytes: staged if that can be, else in place. False: it
    /// may stand for sets that can be had, and nothing is hidden for it; the parent is to be told.
    pub(super) fn catch_up_begins(&mut self, id: VolumeId, s: &Start, size: (u64, u64)) -> bool {
        let label = self.label_of(id);
        let (blocks, bytes) = size;
        let Some(h) = self.volumes.get_mut(&id) else { return true };
        let was = h.volume.staged_progress().is_some();
        let staged = h.volume.catch_up_stage(s.from, h.offered, blocks);
        if !staged {
            if h.inbound.as_mut().is_some_and(|i| i.staging.falls_back(bytes, was)) {
                return false;
            }
            h.volume.catch_up_begin(s.from, h.offered, blocks);
        }
        let what = if staged { "a staged catch-up" } else { "a catch-up" };
        let text = format!("volume {label}: {what} begins at set {}: {}", s.from, s.reason);
        self.note(Level::Info, text);
        self.effect(Effect::Exports { volume: id });
        true
    }

    /// A catch-up stands for sets that can be had, and could not be staged: those come.
    pub(super) fn takes_the_sets(&mut self, id: VolumeId) {
        let label = self.label_of(id);
        let why = "what waits could be staged when it attached, and not any more";
        self.note(Level::Info, format!("volume {label}: the sets are taken one by one: {why}"));
        self.attach(id);
    }

    /// What waits for a child is less as one step: it is to attach again.
    pub(super) fn call_again(&mut self, id: VolumeId, child: &NodeName, reason: String) {
        let Some((conn, stream, _)) = self.stream_to(id, child) else { return };
        let out = self.conns.get_mut(&conn).and_then(|c| c.streams_out.get_mut(&stream));
        let goes = |o: &&mut Outbound| o.stage == Stage::Streaming || o.is_filled();
        let Some(out) = out.filter(goes) else { return };
        out.stage = Stage::Stopped;
        out.reason = Some(reason.clone());
        let label = self.label_of(id);
        self.note(Level::Info, format!("volume {label}: {child} is called again: {reason}"));
        self.send(conn, Frame::StreamError { stream, code: stream_error::AGAIN, text: reason });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_offered_stands_for_no_sets() {
        let told = |bytes| Told { bytes, none: false };
        assert!(told(100).falls_back(100, false));
        assert!(!told(100).falls_back(101, false), "no sender chose that instead of sets");
        assert!(!told(0).falls_back(1, false));
        assert!(!told(100).falls_back(0, false), "a node without content knows no number");
        assert!(told(0).falls_back(1, true), "what was being staged may stand for some");
    }

    #[test]
    fn what_cannot_be_staged_any_more_gives_way_to_the_sets_once() {
        let mut told = Told { bytes: 100, none: false };
        assert!(!told.gives_way_to(100, false, || 100), "it can still be staged");
        assert!(!told.gives_way_to(100, true, || 0), "what is being staged goes on");
        assert!(!told.gives_way_to(101, false, || 0), "there are no sets for it");
        assert!(!told.none);
        assert!(told.gives_way_to(100, false, || 99));
        assert!(told.none, "the next attachment offers nothing");
    }
}
