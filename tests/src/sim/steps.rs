//! One blow at one step: a frame is about to leave, or was just taken, and the connection breaks or
//! one of the two nodes restarts from what its disk holds.
//!
//! The steps are the cells of the session's table in which a frame may come: nobody has to think of
//! them.

use std::collections::BTreeSet;

use rcp::proto::frame::{DecodedFrame, Frame, FrameType, Verified};
use rcp::proto::session::{Action, SessionState, action};

use super::options::Kind;
use super::world::{Event, World};

/// A frame that may come in a state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Step {
    /// Of the session that gets it.
    pub state: SessionState,
    /// The frame.
    pub frame: FrameType,
}

/// Every step of the table.
#[must_use]
pub fn all() -> Vec<Step> {
    let of = |state| {
        let may = move |t: &FrameType| matches!(action(state, *t), Action::Own | Action::Pass);
        FrameType::ALL.iter().copied().filter(may).map(move |frame| Step { state, frame })
    };
    SessionState::ALL.into_iter().filter(|s| *s != SessionState::Closed).flat_map(of).collect()
}

/// What happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blow {
    /// The connection breaks.
    Cut,
    /// Who sends the frame restarts.
    Sender,
    /// Who gets it restarts.
    Receiver,
}

/// When it happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// Instead of sending the frame.
    Before,
    /// When the frame was taken, before anything that came of it is durable.
    After,
}

/// One blow of a run.
#[derive(Clone, Copy, Debug)]
pub struct Trap {
    /// At which step.
    pub step: Step,
    /// What.
    pub blow: Blow,
    /// When.
    pub when: When,
    /// So many of the step pass before it.
    pub pass: u32,
}

/// What was sent to one node, to see what is sent again.
#[derive(Debug, Default)]
pub struct Sent {
    chunks: BTreeSet<(u64, u64, u32, u32)>,
    /// Of the seed or catch-up under way: one that begins anew, over another state or at another
    /// one, is another step.
    extents: BTreeSet<u64>,
    seed: Option<(Option<u64>, u64)>,
    /// Bytes of chunks, and of extents, that came again: what a broken hop costs in its live stream,
    /// and in the seed or catch-up beside it.
    again: (u64, u64),
}

impl Sent {
    /// Bytes that were sent to it a second time: in the live stream, and in a seed or catch-up.
    #[must_use]
    pub fn again(&self) -> (u64, u64) {
        self.again
    }
}

impl World {
    /// Sets the one blow of the run.
    #[must_use]
    pub fn with_trap(mut self, trap: Trap) -> Self {
        if trap.step.frame == FrameType::Doubt {
            // Nobody names damaged blocks where there are none.
            for node in (0..self.nodes.len()).filter(|n| self.nodes[*n].kind == Kind::Replica) {
                self.after(2_500_000, 3_000_000, Event::Rot { node });
            }
        }
        self.trap = Some(trap);
        self
    }

    /// The step that a frame is for the node that gets it.
    fn step_of(&self, from: usize, to: usize, frame: FrameType) -> Step {
        let state = match frame {
            FrameType::Hello => SessionState::AwaitHello,
            FrameType::Welcome | FrameType::Refuse => SessionState::HelloSent,
            // Children are fed by their parents.
            _ if self.opt.places[to].parent == Some(from) => SessionState::UpReceiver,
            _ => SessionState::UpSender,
        };
        Step { state, frame }
    }

    /// A frame leaves, or was taken, on a link. True if the blow fell.
    pub(super) fn spring(
        &mut self,
        link: u64,
        ends: (usize, usize),
        frame: FrameType,
        when: When,
    ) -> bool {
        let step = self.step_of(ends.0, ends.1, frame);
        let Some(t) = &mut self.trap else { return false };
        if t.step != step || t.when != when {
            return false;
        }
        if t.pass > 0 {
            t.pass -= 1;
            return false;
        }
        let Some(t) = self.trap.take() else { return false };
        self.say(format!("n{} to n{}: {:?} {when:?} {step:?}", ends.0, ends.1, t.blow));
        self.counters.hit("blow");
        match t.blow {
            Blow::Cut => self.cut_link(link),
            Blow::Sender => self.crash(ends.0),
            Blow::Receiver => self.crash(ends.1),
        }
        true
    }

    /// Counts what is sent to a node a second time.
    pub(super) fn weigh_again(&mut self, to: usize, frame: &DecodedFrame) {
        let sent = &mut self.nodes[to].sent;
        let (new, bytes) = match (&frame.frame, &frame.content) {
            (Frame::Start(s), _) => {
                // A seed or catch-up that begins anew sends everything, and is counted as such.
                if s.mode != rcp::proto::frame::StartMode::Resume && self.nodes[to].seed_anew {
                    self.nodes[to].sent.extents.clear();
                    self.counters.hit("extents from the beginning");
                }
                return;
            }
            (Frame::Chunk { .. }, Verified::Chunk(c)) => {
                let (s, len) = (c.step(), c.bytes().len());
                (sent.chunks.insert((s.to.0, s.attempt.0, c.number().0)), len)
            }
            (Frame::SeedData { .. }, Verified::Chunk(c)) => {
                let first = c.extents().next().map_or(0, |e| e.block);
                (sent.extents.insert(first), c.bytes().len())
            }
            _ => return,
        };
        let what = if new { "bytes sent once" } else { "bytes sent twice" };
        self.counters.add(what, bytes as u64);
    }
}
