//! One blow at one step: a frame is about to leave, or was just taken, and the connection breaks or
//! one of the two nodes restarts from what its disk holds.
//!
//! The steps are the cells of the session's table in which a frame may come: nobody has to think of
//! them.

use std::collections::BTreeSet;

use rcp::proto::delta::{Chunk, ExtentKind};
use rcp::proto::frame::{DecodedFrame, Frame, FrameType, StartMode, Verified};
use rcp::proto::session::{Action, SessionState, action};
use xxhash_rust::xxh3::xxh3_64;

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
    /// Of the seed or catch-up under way: blocks with their content. A catch-up that goes on after a
    /// break sends what was written meanwhile, which nobody has got before.
    extents: BTreeSet<(u64, u64)>,
    /// Which that is: a catch-up over another state is another step, and sends for the first time
    /// what changed since.
    over: Option<u64>,
    /// Bytes of chunks, and of extents, that came again: what a broken hop costs in its live stream,
    /// and in the seed or catch-up beside it.
    again: (u64, u64),
}

impl Sent {
    /// Blocks of an extent that come for the first time, and all of it.
    fn extents_of(&mut self, c: &Chunk) -> (u64, u64) {
        let (Ok(payload), shift) = (c.payload(), c.block_shift()) else { return (0, 0) };
        let (mut fresh, mut all) = (0, 0);
        for e in c.extents().filter(|e| e.kind == ExtentKind::Data) {
            let content = payload.get(e.range()).unwrap_or_default();
            for (b, content) in (e.block..).zip(content.chunks(1 << shift)) {
                all += 1;
                fresh += u64::from(self.extents.insert((b, xxh3_64(content))));
            }
        }
        (fresh, all)
    }
}

impl World {
    /// Sets the one blow of the run.
    #[must_use]
    pub fn with_trap(mut self, trap: Trap) -> Self {
        if trap.step.frame == FrameType::Doubt {
            // Nobody names damaged blocks where there are none.
            let nodes = 0..self.nodes.len();
            let replicas: Vec<_> = nodes.filter(|n| self.nodes[*n].kind == Kind::Replica).collect();
            for node in replicas {
                self.after(2_500_000, 3_000_000, Event::Rot { node });
            }
        }
        self.trap = Some(trap);
        self
    }

    /// The step that a frame is for the node that gets it.
    fn step_of(&self, from: usize, to: usize, frame: FrameType) -> Step {
        let state = match frame {
            FrameType::Hello | FrameType::Join => SessionState::AwaitHello,
            FrameType::Joined => SessionState::JoinSent,
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
        let node = &mut self.nodes[to];
        let sent = &mut node.sent;
        let (new, bytes) = match (&frame.frame, &frame.content) {
            (Frame::Start(s), _) => {
                // A seed or catch-up that begins anew sends everything, and is counted as such.
                let beside = matches!(s.mode, StartMode::Seed | StartMode::CatchUp { .. });
                if beside && (node.seed_anew || node.seed_over != sent.over) {
                    sent.extents.clear();
                    sent.over = node.seed_over;
                    self.counters.hit("extents from the beginning");
                }
                return;
            }
            (Frame::Chunk { .. }, Verified::Chunk(c)) => {
                let (s, len) = (c.step(), c.bytes().len());
                let id = (s.base.0, s.to.0, s.attempt.0, c.number().0);
                (sent.chunks.insert(id), len)
            }
            (Frame::SeedData { .. }, Verified::Chunk(c)) => {
                let (fresh, all) = sent.extents_of(c);
                let bytes = c.bytes().len() as u64;
                let twice = bytes * (all - fresh) / all.max(1);
                sent.again.1 += twice;
                self.counters.add("bytes sent twice", twice);
                self.counters.add("bytes sent once", bytes - twice);
                return;
            }
            _ => return,
        };
        let bytes = bytes as u64;
        if !new {
            sent.again.0 += bytes;
        }
        self.counters.add(if new { "bytes sent once" } else { "bytes sent twice" }, bytes);
    }

    /// The node to which most was sent a second time, by its live stream and by seeds and catch-ups.
    pub(super) fn most_again(&mut self) {
        let most = |of: fn(&Sent) -> u64| self.nodes.iter().map(|n| of(&n.sent)).max().unwrap_or(0);
        let (live, beside) = (most(|s| s.again.0), most(|s| s.again.1));
        self.counters.add("most live bytes sent twice to a node", live);
        self.counters.add("most seed bytes sent twice to a node", beside);
    }
}
