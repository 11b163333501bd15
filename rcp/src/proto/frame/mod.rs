//! Session frames: everything that travels on a connection after the opening line.
//!
//! A frame is a fixed header of 16 bytes and a body. Control bodies are small and have a checksum
//! in the header. The bodies of `Chunk`, `SetEnd` and `SeedData` are a short fixed part, covered by
//! that checksum, and then a chunk or set header **as it is stored**, which has checksums of its
//! own and is passed on by reference. This module turns frames into bytes and back; which frame may
//! come when is decided by the session.

mod codes;
mod decode;
mod decoded;
mod encode;
mod header;
mod types;

pub use codes::{GoodbyeCode, RefuseCode, stream_error};
pub use decoded::{DecodedFrame, Verified};
pub use header::{FrameHeader, FrameType};
pub use types::{
    Attach, Branch, ControlBlock, ControlResult, HeldStep, Hello, Join, JoinKey, LeafReport, Offer,
    Report, Role, Start, StartMode, StreamId, Welcome,
};

use bytes::Bytes;

use super::clock::Wall;
use super::delta::DeltaError;
use super::ids::{ChunkNumber, GroupName, NodeName, SetNumber, VolumeId};
use super::wire::Malformed;

/// From this version on a welcome has a field for those who may join.
const WITH_JOINS: u16 = 4;

/// One message between two neighbours in the tree.
///
/// "Sender" and "receiver" are the roles in the flow of the data, whoever dialled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// First frame of whoever dialled.
    Hello(Hello),
    /// Answer to it; the session is up.
    Welcome(Welcome),
    /// The session is not wanted; the connection is closed after it.
    Refuse {
        /// Why, for programs.
        code: RefuseCode,
        /// Why, in words.
        text: String,
    },
    /// The session ends; the connection is closed after it.
    Goodbye {
        /// Why, for programs.
        code: GoodbyeCode,
        /// Why, in words.
        text: String,
    },
    /// Asks for a sign of life.
    Ping {
        /// Returned in the answer.
        nonce: u64,
    },
    /// Answer to a ping.
    Pong {
        /// As in the ping.
        nonce: u64,
    },
    /// Instead of a hello: this connection is a further one of a session that is up.
    Join(Join),
    /// Answer to it: the connection has joined.
    Joined {
        /// As in the join.
        session: u64,
    },
    /// Sender to receiver: which place the next frame on this connection has among the frames of
    /// the session that are kept in order.
    Place {
        /// From 0, without gaps.
        number: u64,
    },
    /// Receiver to sender: the frames of all places before this one have come.
    Placed {
        /// The first place that is missing.
        next: u64,
    },
    /// Sender to receiver: a volume that can be had, and its history.
    Offer(Offer),
    /// Sender to receiver: a volume can no longer be had.
    Withdraw {
        /// Which stream; its id may be offered again afterwards.
        stream: StreamId,
        /// Why, in words.
        text: String,
    },
    /// Receiver to sender: what it holds of an offered volume, and what it wants.
    Attach(Attach),
    /// Sender to receiver: what will be sent.
    Start(Start),
    /// Up: the offer is of a history that is older than what the receiver knows, or contradicts it.
    /// The stream is over.
    Fence {
        /// Which stream.
        stream: StreamId,
        /// What the receiver knows, oldest line first.
        history: Vec<Branch>,
        /// In words.
        text: String,
    },
    /// Receiver to sender, before an attachment: blocks that it wants again, whatever else it lacks,
    /// because its own are damaged or of another line. Several add up; the attachment uses them.
    Doubt {
        /// Which stream.
        stream: StreamId,
        /// First block and number of blocks of each run; at most `MAX_DOUBTS`.
        runs: Vec<(u64, u64)>,
    },
    /// Receiver to sender: it wants the sums of the sender's block hashes, to find the blocks in which
    /// the two differ. Answered by `Sums`, one after the other.
    Compare {
        /// Which stream.
        stream: StreamId,
        /// First block.
        first: u64,
        /// Blocks in each sum.
        each: u64,
        /// How many sums; at most `MAX_SUMS`.
        sums: u16,
    },
    /// Either way: this stream cannot go on; the session lives on. The receiver may attach again.
    StreamError {
        /// Which stream.
        stream: StreamId,
        /// One of [`stream_error`].
        code: u16,
        /// Why, in words.
        text: String,
    },
    /// Sender to receiver: what a `Compare` asked for.
    Sums {
        /// Which stream.
        stream: StreamId,
        /// The state that the hashes are of; some may be of a later one.
        state: SetNumber,
        /// First block, as asked.
        first: u64,
        /// Blocks in each sum, as asked.
        each: u64,
        /// The sums, by rising block; none if they cannot be told.
        sums: Vec<u128>,
        /// Why they cannot be told, in words.
        text: String,
    },
    /// Sender to receiver: a chunk.
    Chunk {
        /// Which stream.
        stream: StreamId,
        /// The feeder number of the start.
        feeder: u32,
        /// Number of this frame among the `Chunk` and `SetEnd` frames since the start, from 0.
        seq: u64,
        /// The bytes of a [`super::delta::Chunk`].
        body: Bytes,
    },
    /// Sender to receiver: a set header; its step is complete at the sender.
    SetEnd {
        /// Which stream.
        stream: StreamId,
        /// The feeder number of the start.
        feeder: u32,
        /// Counted together with chunks.
        seq: u64,
        /// The bytes of a [`super::delta::SetHeader`].
        body: Bytes,
    },
    /// Receiver to sender: what is durable there.
    Saved {
        /// Which stream.
        stream: StreamId,
        /// The feeder number of the start.
        feeder: u32,
        /// Last complete step.
        state: SetNumber,
        /// First chunk of the following step that is not durable.
        next_chunk: ChunkNumber,
    },
    /// Receiver to sender: how much may be sent in total.
    Credit {
        /// Which stream.
        stream: StreamId,
        /// Bytes of `Chunk` and `SetEnd` bodies since the start.
        total: u64,
    },
    /// Sender to receiver: how current a state is, also when nothing changes.
    Heartbeat {
        /// Which stream.
        stream: StreamId,
        /// This state …
        state: SetNumber,
        /// … was current at this time.
        as_of: Wall,
        /// Newest state that the sender knows of.
        newest: SetNumber,
    },
    /// Receiver to sender: how the subtree below it is.
    Report(Report),
    /// Sender to receiver: what time it is at the writer, by whose clock sets are cut.
    Clock {
        /// Which stream.
        stream: StreamId,
        /// The writer's time when this was sent, as far as the sender knows.
        now: Wall,
    },
    /// Sender to receiver: a piece of a seed.
    SeedData {
        /// Which stream.
        stream: StreamId,
        /// The feeder number of the start.
        feeder: u32,
        /// Number of this frame among the `SeedData` frames since the start, from 0.
        seq: u64,
        /// First block of which nothing has been said yet after this.
        next_block: u64,
        /// State that this content may already include.
        view: SetNumber,
        /// The bytes of a [`super::delta::Chunk`] with the flag `SEED`.
        body: Bytes,
    },
    /// Sender to receiver: the seed is complete.
    SeedEnd {
        /// Which stream.
        stream: StreamId,
        /// The feeder number of the start.
        feeder: u32,
        /// The receiver may be read once it has folded this set.
        need: SetNumber,
    },
    /// Receiver to sender: how far the seed is durable, and how much of it may be sent.
    SeedAck {
        /// Which stream.
        stream: StreamId,
        /// First block of which nothing durable is known.
        next_block: u64,
        /// Bytes of `SeedData` bodies since the start that may be sent in total.
        total: u64,
    },
    /// Sender to receiver: a command for the subtree.
    Control(ControlBlock),
    /// Receiver to sender: what one node answered.
    ControlResult(ControlResult),
    /// Instead of a handshake, or in a session: would you accept me as feeder of these?
    Probe {
        /// For which group.
        group: GroupName,
        /// Nodes from the primary to the one who asks, both included.
        path: Vec<NodeName>,
        /// Which volumes.
        volumes: Vec<VolumeId>,
    },
    /// Answer to a probe.
    ProbeReply {
        /// Whether it would.
        ok: bool,
        /// Why not, in words.
        text: String,
    },
    /// Receiver to sender: next hops of nodes below it (ROUTE-04). An entry replaces what was
    /// known of its node; one without next hops says that the node forwards to nobody.
    RouteReport {
        /// Node and its next hops.
        routes: Vec<(NodeName, Vec<NodeName>)>,
    },
}

impl Frame {
    /// Its type.
    #[must_use]
    pub fn frame_type(&self) -> FrameType {
        match self {
            Self::Hello(_) => FrameType::Hello,
            Self::Welcome(_) => FrameType::Welcome,
            Self::Refuse { .. } => FrameType::Refuse,
            Self::Goodbye { .. } => FrameType::Goodbye,
            Self::Ping { .. } => FrameType::Ping,
            Self::Pong { .. } => FrameType::Pong,
            Self::Join(_) => FrameType::Join,
            Self::Joined { .. } => FrameType::Joined,
            Self::Place { .. } => FrameType::Place,
            Self::Placed { .. } => FrameType::Placed,
            Self::Offer(_) => FrameType::Offer,
            Self::Withdraw { .. } => FrameType::Withdraw,
            Self::Attach(_) => FrameType::Attach,
            Self::Start(_) => FrameType::Start,
            Self::StreamError { .. } => FrameType::StreamError,
            Self::Fence { .. } => FrameType::Fence,
            Self::Doubt { .. } => FrameType::Doubt,
            Self::Compare { .. } => FrameType::Compare,
            Self::Sums { .. } => FrameType::Sums,
            Self::Chunk { .. } => FrameType::Chunk,
            Self::SetEnd { .. } => FrameType::SetEnd,
            Self::Saved { .. } => FrameType::Saved,
            Self::Credit { .. } => FrameType::Credit,
            Self::Heartbeat { .. } => FrameType::Heartbeat,
            Self::Clock { .. } => FrameType::Clock,
            Self::Report(_) => FrameType::Report,
            Self::SeedData { .. } => FrameType::SeedData,
            Self::SeedEnd { .. } => FrameType::SeedEnd,
            Self::SeedAck { .. } => FrameType::SeedAck,
            Self::Control(_) => FrameType::Control,
            Self::ControlResult(_) => FrameType::ControlResult,
            Self::Probe { .. } => FrameType::Probe,
            Self::ProbeReply { .. } => FrameType::ProbeReply,
            Self::RouteReport { .. } => FrameType::RouteReport,
        }
    }

    /// The stream it belongs to; 0 for frames of the session.
    #[must_use]
    pub fn stream(&self) -> StreamId {
        match self {
            Self::Offer(Offer { stream, .. })
            | Self::Withdraw { stream, .. }
            | Self::Attach(Attach { stream, .. })
            | Self::Start(Start { stream, .. })
            | Self::StreamError { stream, .. }
            | Self::Fence { stream, .. }
            | Self::Doubt { stream, .. }
            | Self::Compare { stream, .. }
            | Self::Sums { stream, .. }
            | Self::Chunk { stream, .. }
            | Self::SetEnd { stream, .. }
            | Self::Saved { stream, .. }
            | Self::Credit { stream, .. }
            | Self::Heartbeat { stream, .. }
            | Self::Clock { stream, .. }
            | Self::Report(Report { stream, .. })
            | Self::SeedData { stream, .. }
            | Self::SeedEnd { stream, .. }
            | Self::SeedAck { stream, .. } => *stream,
            _ => StreamId(0),
        }
    }
}

/// Why bytes are not a frame, or a value cannot be one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The header is damaged, or the bytes are no frame at all.
    #[error("the frame header's checksum does not hold")]
    HeaderChecksum,
    /// The body is damaged.
    #[error("the checksum of the body of a {0} frame does not hold")]
    BodyChecksum(FrameType),
    /// A type that this version does not know.
    #[error("frame type {0} is not known")]
    UnknownType(u8),
    /// Flags that this version does not know.
    #[error("frame flags {0:#x} are not known")]
    Flags(u8),
    /// A stream id on a frame of the session.
    #[error("a {0} frame belongs to no stream")]
    Stream(FrameType),
    /// The body has a length that its type may not have, or not the announced one.
    #[error("a {frame} frame may not have a body of {have} bytes")]
    Length {
        /// Its type.
        frame: FrameType,
        /// Announced or given.
        have: usize,
    },
    /// The body ends inside a field.
    #[error("the body of a {0} frame is too short")]
    Short(FrameType),
    /// Bytes are left after the last field.
    #[error("the body of a {0} frame is too long")]
    Trailing(FrameType),
    /// A field is over its limit.
    #[error("`{field}` of a {frame} frame is over its limit")]
    TooLong {
        /// Type of the frame.
        frame: FrameType,
        /// Which field.
        field: &'static str,
    },
    /// A field has a value that it may not have.
    #[error("`{field}` of a {frame} frame has a value that is not allowed")]
    Value {
        /// Type of the frame.
        frame: FrameType,
        /// Which field.
        field: &'static str,
    },
    /// The chunk or set header in it is damaged or breaks a rule.
    #[error("a {frame} frame carries no sound content: {source}")]
    Content {
        /// Type of the frame.
        frame: FrameType,
        /// What is wrong.
        source: DeltaError,
    },
}

impl FrameError {
    fn malformed(frame: FrameType, m: Malformed) -> Self {
        match m {
            Malformed::Short => Self::Short(frame),
            Malformed::TooLong(field) => Self::TooLong { frame, field },
            Malformed::Value(field) => Self::Value { frame, field },
        }
    }
}
