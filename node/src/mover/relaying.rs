//! Seeds that pass through a node without content (`volmcast/docs/seed.md`).
//!
//! ```text
//! parent                  relay                          child
//!                                     ◄── Attach: its position is gone
//!                              Start{Seed, from} ──►           from: what the relay holds
//!   ◄── Attach: own position, extents please, once your content includes `from`
//! Start{Resume} ──►
//! live steps ──►          save volume            ──►           as for everybody
//! SeedData ──►            (not stored)           ──►           under the child's own credit
//! SeedEnd{need} ──►                              ──►
//! ```
//!
//! The parent may be a relay itself: it does the same for this node. The child cannot tell the
//! difference. One seed at a time passes for a volume; other children wait and are told why. What a
//! child grants is granted to the parent, so that never more than its window is on its way here.

use std::time::Duration;

use rcp::proto::clock::Mono;
use rcp::proto::delta::Chunk;
use rcp::proto::frame::{Frame, stream_error};
use rcp::proto::ids::{NodeName, SetNumber, VolumeId};
use volmcast::volume::Role;

use super::receiving::InStage;
use super::{Held, Mover};

/// How long not to ask again after the parent said that it cannot: asking interrupts the stream.
const REFUSED: Duration = Duration::from_secs(5);

/// How long not to offer catch-ups after the parent said that it does not know what changed.
const NO_CATCH_UP: Duration = Duration::from_secs(60);

/// What a relay asks its parent for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted {
    /// Where the extents go on.
    pub(super) block: u64,
    /// The content that they are read from must include this state.
    pub(super) folded: SetNumber,
    /// A catch-up over this state; `None`: a seed.
    pub(super) over: Option<SetNumber>,
}

/// A seed or catch-up on its way to a child.
#[derive(Debug)]
pub(super) struct Relayed {
    child: NodeName,
    /// Where its extents go on.
    next_block: u64,
    /// The content they are read from must include this state.
    folded: SetNumber,
    /// A catch-up over this state.
    over: Option<SetNumber>,
    /// What the child granted in its session, and what of it is used up.
    granted: u64,
    sent: u64,
    /// What was used up when the stream from the parent was attached last.
    before: u64,
}

/// What passes through, of one volume.
#[derive(Debug, Default)]
pub(super) struct Relaying {
    seed: Option<Relayed>,
    /// The parent could not: until when not to ask again, and why.
    refused: Option<(Mono, String)>,
    /// The parent does not know what changed: until when no catch-up is offered.
    no_catch_up: Option<Mono>,
    /// Blocks that the child wants, whatever changed.
    pub(super) doubts: Vec<(u64, u64)>,
}

impl Relaying {
    /// What an attachment to the parent asks for.
    pub(super) fn wanted(&mut self) -> Option<Wanted> {
        let s = self.seed.as_mut()?;
        s.before = s.sent;
        Some(Wanted { block: s.next_block, folded: s.folded, over: s.over })
    }

    /// Up to which block of the volume a child's seed or catch-up has passed.
    pub(super) fn progress(&self, child: &NodeName) -> Option<u64> {
        self.seed.as_ref().filter(|s| s.child == *child).map(|s| s.next_block)
    }

    /// A child's session or place is gone, and so is its seed here.
    pub(super) fn forget(&mut self, child: &NodeName) {
        self.seed.take_if(|s| s.child == *child);
    }

    /// Why no seed can pass to a child now.
    fn refusal(&self, child: &NodeName, fed: bool, now: Mono) -> Option<String> {
        if !fed {
            return Some("this node only forwards, and its parent is not connected".to_owned());
        }
        if let Some(s) = self.seed.as_ref().filter(|s| s.child != *child) {
            return Some(format!(
                "this node only forwards, and a seed for {} passes through; one at a time",
                s.child
            ));
        }
        let (_, why) = self.refused.as_ref().filter(|(until, _)| now < *until)?;
        Some(format!("this node only forwards, and its parent cannot seed: {why}"))
    }
}

fn is_relay(h: &Held) -> bool {
    matches!(h.volume.config().role, Role::Relay)
}

impl Mover {
    /// Before a child is attached: can a seed pass to it?
    pub(super) fn look_for_relaying(&mut self, id: VolumeId, child: &NodeName) {
        let now = self.now;
        let Some(h) = self.volumes.get_mut(&id).filter(|h| is_relay(h)) else { return };
        // Whatever passed to it was of its last session.
        h.relaying.forget(child);
        let on = |s: InStage| matches!(s, InStage::Running | InStage::Waiting);
        let fed = h.inbound.as_ref().is_some_and(|i| on(i.stage));
        let why = h.relaying.refusal(child, fed, now);
        h.volume.relay_cannot_seed(why);
        h.relaying.no_catch_up.take_if(|until| *until <= now);
        let parent = h.inbound.as_ref().and_then(|i| self.conns.get(&i.conn));
        let lacks = parent.is_some_and(|c| c.without_catch_ups().is_some());
        h.volume.relay_cannot_catch_up(lacks || h.relaying.no_catch_up.is_some());
    }

    /// A child was told that a seed or catch-up begins, or goes on: its extents are asked for.
    pub(super) fn relay_seed(&mut self, id: VolumeId, child: &NodeName, wanted: Wanted) {
        let Some(h) = self.volumes.get_mut(&id).filter(|h| is_relay(h)) else { return };
        h.relaying.seed = Some(Relayed {
            child: child.clone(),
            next_block: wanted.block,
            folded: wanted.folded,
            over: wanted.over,
            granted: 0,
            sent: 0,
            before: 0,
        });
        self.attach(id);
    }

    /// The child grants `total` bytes of extents in its session.
    pub(super) fn relay_credit(&mut self, id: VolumeId, child: &NodeName, total: u64) {
        let Some(h) = self.volumes.get_mut(&id) else { return };
        if let Some(s) = h.relaying.seed.as_mut().filter(|s| s.child == *child) {
            s.granted = s.granted.max(total);
            self.relay_grant(id);
        }
    }

    /// An incoming seed is durable up to a block.
    pub(super) fn seed_saved(&mut self, id: VolumeId, next_block: u64) {
        self.effect(super::Effect::Exports { volume: id });
        let Some(h) = self.volumes.get_mut(&id) else { return };
        let Some(i) = &mut h.inbound else { return };
        // Before the answer the total is still that of the stream before, and would be taken for one
        // of the stream that follows.
        if !matches!(i.stage, InStage::Running | InStage::Waiting) {
            return;
        }
        let total = h.volume.seed_credit();
        i.seed_told = i.seed_told.max(total);
        let said = i.seed_said.replace((next_block, total));
        if said == Some((next_block, total)) {
            return;
        }
        let (conn, stream) = (i.conn, i.stream);
        self.send(conn, Frame::SeedAck { stream, next_block, total });
    }

    /// Grants the parent what the child granted.
    pub(super) fn relay_grant(&mut self, id: VolumeId) {
        let Some(h) = self.volumes.get_mut(&id) else { return };
        let (Some(s), Some(i)) = (&h.relaying.seed, &mut h.inbound) else { return };
        if !matches!(i.stage, InStage::Running | InStage::Waiting) {
            return;
        }
        let total = s.granted.saturating_sub(s.before);
        if total <= i.seed_told {
            return;
        }
        i.seed_told = total;
        let (conn, stream, next_block) = (i.conn, i.stream, s.next_block);
        self.send(conn, Frame::SeedAck { stream, next_block, total });
    }

    /// An extent came from the parent: it goes to the child it is for.
    pub(super) fn relay_extent(
        &mut self,
        id: VolumeId,
        next_block: u64,
        view: SetNumber,
        chunk: &Chunk,
    ) {
        let Some(h) = self.volumes.get_mut(&id) else { return };
        let Some(s) = &mut h.relaying.seed else { return };
        s.sent += chunk.bytes().len() as u64;
        s.next_block = next_block;
        let child = s.child.clone();
        self.seed_chunk(id, &child, next_block, view, chunk);
    }

    /// All extents have come from the parent.
    pub(super) fn relay_end(&mut self, id: VolumeId, need: SetNumber) {
        let Some(h) = self.volumes.get_mut(&id) else { return };
        if let Some(s) = h.relaying.seed.take() {
            self.seed_end(id, &s.child, need);
        }
    }

    /// The parent cannot serve the stream; if that is because of the seed, the stream goes on
    /// without it.
    pub(super) fn relay_refused(&mut self, id: VolumeId, why: &str) {
        let until = self.now.after(REFUSED);
        let Some(h) = self.volumes.get_mut(&id) else { return };
        let Some(s) = h.relaying.seed.take() else { return };
        h.relaying.refused = Some((until, why.to_owned()));
        let Some((conn, stream, _)) = self.stream_to(id, &s.child) else { return };
        let text = format!("the seed cannot go on: the parent cannot seed: {why}");
        self.stop_stream(conn, stream, stream_error::STOPPED, text);
    }

    /// The parent speaks a version without catch-ups: one that passes cannot go on.
    pub(super) fn relay_without_catch_up(&mut self, id: VolumeId, why: &str) {
        let Some(h) = self.volumes.get(&id) else { return };
        if h.relaying.seed.as_ref().is_some_and(|s| s.over.is_some()) {
            self.relay_no_catch_up(id, why);
        }
    }

    /// The parent does not know what changed: the child is told to ask again, and gets a seed.
    pub(super) fn relay_no_catch_up(&mut self, id: VolumeId, why: &str) {
        let until = self.now.after(NO_CATCH_UP);
        let Some(h) = self.volumes.get_mut(&id) else { return };
        h.relaying.no_catch_up = Some(until);
        let Some(s) = h.relaying.seed.take() else { return };
        h.volume.consumer_forget(&s.child);
        self.detached(id, &s.child, format!("its catch-up cannot go on: {why}"));
        self.settle(id);
    }
}
