//! Queues that are sent as one step: a child is called to attach again, and what the node here says
//! that it could stage (`volmcast/docs/coalescing.md`).

use rcp::proto::frame::{Frame, stream_error};
use rcp::proto::ids::{NodeName, VolumeId};
use volmcast::volume::{Role, Volume};

use super::sending::{Outbound, Stage};
use super::{Level, Mover};

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

    /// A catch-up of so many bytes cannot be staged: whether it may stand for sets that can be had,
    /// because it is no larger than what was offered, or what was being staged (`was`) stood for
    /// some. Only once: then the next attachment offers nothing.
    pub(super) fn falls_back(&mut self, bytes: u64, was: bool) -> bool {
        self.none = was || (bytes > 0 && bytes <= self.bytes);
        self.none
    }
}

impl Mover {
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
