//! One volume's stream to one child: where it stands, what it may be sent, what it has confirmed.
//!
//! Each child has a value of its own with its own windows and its own cursor in the source, and no
//! value knows of another: a child without credit stops only itself. The node feeds it the frames
//! that come from the child and calls [`Outbound::pump`] when there is data, credit or room in the
//! session's queue. Bodies are never copied. Whether to resume, wait or seed is decided elsewhere.

mod source;
mod state;
mod window;

pub use source::{ChunkSource, SeedNext, SeedPiece, SeedSource, Stored};
pub use state::{Illegal, StopReason, StreamEvent, StreamState, transition};

use std::fmt;

use bytes::Bytes;
use rcp::proto::clock::{Mono, Wall};
use rcp::proto::frame::{Attach, Frame, Report, Start, StartMode, StreamId, stream_error};
use rcp::proto::ids::{ChunkNumber, NodeName, SetNumber};

use window::Window;

/// What was decided about a child that attached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// What will be done.
    pub mode: StartMode,
    /// The steps after this state will be sent.
    pub from: SetNumber,
    /// The feeder number that the child gave the session.
    pub feeder: u32,
    /// Why this and nothing cheaper, in words.
    pub reason: String,
}

/// What keeps a stream from sending more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Blocked {
    /// Nothing does.
    No,
    /// There is nothing to send.
    Empty,
    /// The next record is being read from disk.
    Reading,
    /// The child has no room for the next record.
    Credit {
        /// Bytes of the next record.
        need: u64,
        /// Bytes that may be sent.
        left: u64,
    },
    /// The session's queue is full: the link is the limit.
    Queue,
}

/// What the child has confirmed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Confirmed {
    /// Last complete step that is durable there.
    pub saved: SetNumber,
    /// First chunk of the following step that is not durable.
    pub next_chunk: ChunkNumber,
    /// Oldest state that a node of its subtree shows; `None` before the first report.
    pub played: Option<SetNumber>,
}

/// Bytes and frames since the stream was made, over all its starts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sent {
    /// Bytes of chunk and set header bodies.
    pub live_bytes: u64,
    /// Bytes of seed bodies.
    pub seed_bytes: u64,
    /// Frames of all three kinds.
    pub frames: u64,
}

/// One volume's stream to one child.
#[derive(Clone, Debug)]
pub struct Outbound {
    child: NodeName,
    stream: StreamId,
    state: StreamState,
    feeder: u32,
    from: SetNumber,
    reason: String,
    live: Window,
    seed: Window,
    seq: u64,
    seed_seq: u64,
    /// Handed out by the source although over the budget; sent first.
    held: Option<Stored>,
    last: Option<(SetNumber, ChunkNumber)>,
    blocked: Blocked,
    seed_blocked: Blocked,
    confirmed: Confirmed,
    sent: Sent,
    last_heard: Mono,
}

impl Outbound {
    /// The volume was offered to the child on this stream.
    #[must_use]
    pub fn new(child: NodeName, stream: StreamId, now: Mono) -> Self {
        Self {
            child,
            stream,
            state: StreamState::Offered,
            feeder: 0,
            from: SetNumber::ZERO,
            reason: String::new(),
            live: Window::default(),
            seed: Window::default(),
            seq: 0,
            seed_seq: 0,
            held: None,
            last: None,
            blocked: Blocked::No,
            seed_blocked: Blocked::No,
            confirmed: Confirmed::default(),
            sent: Sent::default(),
            last_heard: now,
        }
    }

    /// To whom.
    #[must_use]
    pub fn child(&self) -> &NodeName {
        &self.child
    }

    /// On which stream.
    #[must_use]
    pub fn stream(&self) -> StreamId {
        self.stream
    }

    /// Where it stands.
    #[must_use]
    pub fn state(&self) -> &StreamState {
        &self.state
    }

    /// The feeder number of the current start; 0 before the first.
    #[must_use]
    pub fn feeder(&self) -> u32 {
        self.feeder
    }

    /// What the child has confirmed.
    #[must_use]
    pub fn confirmed(&self) -> Confirmed {
        self.confirmed
    }

    /// What was sent.
    #[must_use]
    pub fn sent(&self) -> Sent {
        self.sent
    }

    /// The last chunk or set header that was sent since the start.
    #[must_use]
    pub fn last_sent(&self) -> Option<(SetNumber, ChunkNumber)> {
        self.last
    }

    /// When anything last came from the child for this stream.
    #[must_use]
    pub fn last_heard(&self) -> Mono {
        self.last_heard
    }

    /// What kept the last [`Outbound::pump`] from sending more.
    #[must_use]
    pub fn blocked(&self) -> Blocked {
        self.blocked
    }

    /// What kept the last [`Outbound::pump_seed`] from sending more.
    #[must_use]
    pub fn seed_blocked(&self) -> Blocked {
        self.seed_blocked
    }

    /// The child attached and this was decided: gives the start frame. Sequence numbers and windows
    /// begin anew, the source's cursor for the child must stand behind `decision.from` (or where the
    /// attach says), and the seed's window is opened by the first seed acknowledgement.
    ///
    /// # Errors
    /// [`Illegal`] if the stream has started already, or ended for good.
    pub fn start(
        &mut self,
        attach: &Attach,
        decision: Decision,
        now: Mono,
    ) -> Result<Frame, Illegal> {
        let Decision { mode, from, feeder, reason } = decision;
        self.step(StreamEvent::Start(mode))?;
        self.last_heard = now.max(self.last_heard);
        self.feeder = feeder;
        self.from = from;
        self.live = Window::new(attach.credit);
        self.seed = Window::default();
        (self.seq, self.seed_seq) = (0, 0);
        (self.held, self.last) = (None, None);
        (self.blocked, self.seed_blocked) = (Blocked::No, Blocked::No);
        let next_chunk = attach.next.map_or(ChunkNumber(0), |held| held.next_chunk);
        self.confirmed = Confirmed { saved: attach.state, next_chunk, ..self.confirmed };
        self.reason.clone_from(&reason);
        Ok(Frame::Start(Start { stream: self.stream, mode, from, feeder, reason }))
    }

    /// This node now shows or holds `newest`: a child that was ahead is served once that is what it
    /// holds, or later. Says whether it was waiting and is served from now on.
    pub fn reached(&mut self, newest: SetNumber) -> bool {
        let served = self.state == StreamState::Waiting && newest >= self.from;
        served && self.step(StreamEvent::Passed).is_ok()
    }

    /// A `Saved` frame came; says whether it told anything new. One of an older feeder, or one that
    /// goes back, does not.
    pub fn saved(
        &mut self,
        feeder: u32,
        state: SetNumber,
        next_chunk: ChunkNumber,
        now: Mono,
    ) -> bool {
        if self.stale(feeder, now) {
            return false;
        }
        let fresh = (state, next_chunk) > (self.confirmed.saved, self.confirmed.next_chunk);
        if fresh {
            (self.confirmed.saved, self.confirmed.next_chunk) = (state, next_chunk);
        }
        fresh
    }

    /// A `Credit` frame came.
    pub fn credit(&mut self, total: u64, now: Mono) {
        self.last_heard = now.max(self.last_heard);
        self.live.grant(total);
    }

    /// A `SeedAck` frame came.
    pub fn seed_ack(&mut self, total: u64, now: Mono) {
        self.last_heard = now.max(self.last_heard);
        self.seed.grant(total);
    }

    /// A `Report` frame came; its content is the aggregate's business.
    pub fn report(&mut self, report: &Report, now: Mono) {
        self.last_heard = now.max(self.last_heard);
        if report.nodes > 0 {
            self.confirmed.played = Some(report.played_min);
        }
    }

    /// Chunk and set end frames as long as the child's window and the queue last: `queue_room` is
    /// overrun by at most one frame, the window never.
    pub fn pump(&mut self, source: &mut dyn ChunkSource, queue_room: u64) -> Vec<Frame> {
        let mut out = Vec::new();
        let mut room = queue_room;
        if !self.state.is_live() {
            return out;
        }
        loop {
            if room == 0 {
                self.blocked = Blocked::Queue;
                return out;
            }
            let left = self.live.available();
            let Some(stored) = self.held.take().or_else(|| source.next(&self.child, left)) else {
                self.blocked = match source.peek(&self.child) {
                    None => Blocked::Empty,
                    Some(need) if need > left => Blocked::Credit { need, left },
                    Some(_) => Blocked::Reading,
                };
                if self.blocked == Blocked::Empty {
                    // legal in every live state
                    let _ = self.step(StreamEvent::Drained);
                }
                return out;
            };
            let need = len(&stored.body);
            if !self.live.take(need) {
                self.blocked = Blocked::Credit { need, left };
                self.held = Some(stored);
                return out;
            }
            room = room.saturating_sub(need.max(1));
            out.push(self.data_frame(stored));
        }
    }

    /// Seed frames as long as the child's seed window and the queue last, and the seed end after the
    /// last piece.
    pub fn pump_seed(&mut self, source: &mut dyn SeedSource, queue_room: u64) -> Vec<Frame> {
        let mut out = Vec::new();
        let mut room = queue_room;
        while self.state == StreamState::Seeding {
            if room == 0 {
                self.seed_blocked = Blocked::Queue;
                break;
            }
            let left = self.seed.available();
            self.seed_blocked = match source.next(&self.child, left) {
                SeedNext::Piece(piece) => {
                    let need = len(&piece.body);
                    if !self.seed.take(need) {
                        let text = format!(
                            "the seed's source gave {need} bytes where {left} fit; attach again"
                        );
                        out.push(self.fail(stream_error::PROTOCOL, text));
                        break;
                    }
                    room = room.saturating_sub(need.max(1));
                    out.push(self.seed_frame(piece));
                    Blocked::No
                }
                SeedNext::TooLong(need) => Blocked::Credit { need, left },
                SeedNext::NotYet => Blocked::Reading,
                SeedNext::Done(need) => {
                    let _ = self.step(StreamEvent::SeedDone);
                    out.push(Frame::SeedEnd { stream: self.stream, feeder: self.feeder, need });
                    Blocked::Empty
                }
            };
            if self.seed_blocked != Blocked::No {
                break;
            }
        }
        out
    }

    /// How current a state is; `None` while the child has nothing started.
    #[must_use]
    pub fn heartbeat(&self, state: SetNumber, as_of: Wall, newest: SetNumber) -> Option<Frame> {
        let started = self.state.is_live() || self.state == StreamState::Waiting;
        started.then_some(Frame::Heartbeat { stream: self.stream, state, as_of, newest })
    }

    /// The volume can no longer be had: gives the frame that says so.
    pub fn withdraw(&mut self, text: impl Into<String>) -> Frame {
        let text = text.into();
        self.stop(StopReason::Withdrawn(text.clone()));
        Frame::Withdraw { stream: self.stream, text }
    }

    /// This stream cannot go on; the child may attach again. Gives the frame that says so.
    pub fn fail(&mut self, code: u16, text: impl Into<String>) -> Frame {
        let text = text.into();
        self.stop(StopReason::StreamError { code, text: text.clone() });
        Frame::StreamError { stream: self.stream, code, text }
    }

    /// A `StreamError` came from the child, or the session ended.
    pub fn stop(&mut self, reason: StopReason) {
        self.held = None;
        // legal in every state
        let _ = self.step(StreamEvent::Stop(reason));
    }

    /// Where the stream stands and what it waits for, in words.
    #[must_use]
    pub fn describe(&self) -> String {
        let child = &self.child;
        match &self.state {
            StreamState::Offered => format!("offered; `{child}` has not attached"),
            StreamState::Waiting => {
                format!(
                    "`{child}` is ahead, at {}; waiting until this node has passed it",
                    self.from
                )
            }
            StreamState::Stopped(reason) => format!("stopped: {reason}"),
            StreamState::Resuming => {
                format!("resuming after {} ({}); {}", self.from, self.reason, self.blocked)
            }
            StreamState::Streaming => format!("streaming; {}", self.blocked),
            StreamState::Seeding => format!(
                "seeding ({}), {} bytes so far; {}",
                self.reason,
                self.seed.sent(),
                self.seed_blocked
            ),
        }
    }

    fn data_frame(&mut self, stored: Stored) -> Frame {
        let Stored { set_end, body, to, chunk } = stored;
        self.sent.live_bytes = self.sent.live_bytes.saturating_add(len(&body));
        self.sent.frames = self.sent.frames.saturating_add(1);
        self.last = Some((to, chunk));
        let (stream, feeder, seq) = (self.stream, self.feeder, self.seq);
        self.seq += 1;
        if set_end {
            Frame::SetEnd { stream, feeder, seq, body }
        } else {
            Frame::Chunk { stream, feeder, seq, body }
        }
    }

    fn seed_frame(&mut self, piece: SeedPiece) -> Frame {
        let SeedPiece { next_block, view, body } = piece;
        self.sent.seed_bytes = self.sent.seed_bytes.saturating_add(len(&body));
        self.sent.frames = self.sent.frames.saturating_add(1);
        let (stream, feeder, seq) = (self.stream, self.feeder, self.seed_seq);
        self.seed_seq += 1;
        Frame::SeedData { stream, feeder, seq, next_block, view, body }
    }

    fn stale(&mut self, feeder: u32, now: Mono) -> bool {
        let current = feeder == self.feeder && self.state != StreamState::Offered;
        if current {
            self.last_heard = now.max(self.last_heard);
        }
        !current
    }

    fn step(&mut self, event: StreamEvent) -> Result<(), Illegal> {
        self.state = transition(&self.state, event)?;
        Ok(())
    }
}

impl fmt::Display for Blocked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::No => f.write_str("sending"),
            Self::Empty => f.write_str("all that there is has been sent"),
            Self::Reading => f.write_str("the next record is being read"),
            Self::Credit { need, left } => {
                write!(f, "the child has room for {left} bytes, the next record has {need}")
            }
            Self::Queue => f.write_str("the connection takes no more just now"),
        }
    }
}

fn len(body: &Bytes) -> u64 {
    u64::try_from(body.len()).unwrap_or(u64::MAX)
}
