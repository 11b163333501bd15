//! The larger bodies of frames.

use bytes::Bytes;

use super::super::clock::Wall;
use super::super::ids::{
    Attempt, ChunkNumber, Generation, GroupName, Label, NodeName, SetNumber, StateId, VolumeId,
};

/// A volume's stream within a session; the sender numbers them, from 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(pub u16);

/// What a node is in a session, whoever dialled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// It is nearer to the primary and feeds the other.
    Sender,
    /// It is fed.
    Receiver,
}

impl Role {
    /// What the other one is.
    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Self::Sender => Self::Receiver,
            Self::Receiver => Self::Sender,
        }
    }
}

/// Who wants a session, and for what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// Lowest and highest version spoken.
    pub versions: (u16, u16),
    /// Its name.
    pub node: NodeName,
    /// Random, new at every start of the process.
    pub instance: [u8; 16],
    /// The group the session is for.
    pub group: GroupName,
    /// What the one who says hello is in it.
    pub role: Role,
    /// Nodes from the primary to this one, both included; empty from a receiver.
    pub path: Vec<NodeName>,
    /// From a receiver: the feeder number it gives the session. From a sender: 0.
    pub feeder: u32,
    /// How often it wants to see a sign of life, in milliseconds.
    pub keepalive_ms: u32,
}

/// The answer to a hello.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Welcome {
    /// The chosen version, inside both ranges.
    pub version: u16,
    /// Its name.
    pub node: NodeName,
    /// Random, new at every start of the process.
    pub instance: [u8; 16],
    /// The group, as in the hello.
    pub group: GroupName,
    /// What the one who answers is: the other role.
    pub role: Role,
    /// Nodes from the primary to this one, both included; empty from a receiver.
    pub path: Vec<NodeName>,
    /// From a receiver: the feeder number it gives the session. From a sender: 0.
    pub feeder: u32,
    /// How often it wants to see a sign of life, in milliseconds; the smaller one counts.
    pub keepalive_ms: u32,
    /// With this, further connections may join the session; never before version 1.3.
    pub join: Option<JoinKey>,
}

/// What lets a connection join a session that is up: who was not told cannot.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct JoinKey {
    /// The session's number at the acceptor.
    pub session: u64,
    /// Random, new for each session.
    pub secret: [u8; 16],
}

impl JoinKey {
    /// Whether two keys are the same, in a time that does not tell how much of them is.
    #[must_use]
    pub fn is(&self, other: &Self) -> bool {
        let pairs = self.secret.iter().zip(&other.secret);
        let differ = pairs.fold(0u8, |all, (a, b)| all | (a ^ b));
        self.session == other.session && differ == 0
    }
}

/// The secret is not for logs.
impl std::fmt::Debug for JoinKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("JoinKey").field("session", &self.session).finish_non_exhaustive()
    }
}

/// A further connection for a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Join {
    /// Who says so; the one that dialled the session.
    pub node: NodeName,
    /// As the welcome told it.
    pub key: JoinKey,
}

/// One writer's line in a volume's history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Branch {
    /// The line.
    pub generation: Generation,
    /// The last state that it shares with the line before it.
    pub forked_from: SetNumber,
    /// Which node opened it.
    pub opened_by: NodeName,
    /// When.
    pub opened_at: Wall,
}

/// A volume that a sender has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    /// The stream it will travel on.
    pub stream: StreamId,
    /// Which volume.
    pub volume: VolumeId,
    /// What operators call it.
    pub label: Label,
    /// Block size, as a power of two.
    pub block_shift: u8,
    /// Size in the newest state.
    pub volume_blocks: u64,
    /// Its history, oldest line first.
    pub history: Vec<Branch>,
    /// Oldest state from which the sender can resume.
    pub oldest: SetNumber,
    /// Newest state that it has.
    pub newest: SetNumber,
}

/// The step that a receiver holds in part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeldStep {
    /// Its attempt.
    pub attempt: Attempt,
    /// Its base.
    pub base: SetNumber,
    /// The state that it leads to.
    pub to: SetNumber,
    /// First chunk that is not held; all before it are.
    pub next_chunk: ChunkNumber,
}

/// What a receiver holds of a volume and wants to have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attach {
    /// The offered stream.
    pub stream: StreamId,
    /// The last complete step that is saved; 0 if none.
    pub state: SetNumber,
    /// On whose line that is; `None` if it holds nothing.
    pub generation: Option<Generation>,
    /// The following step, if part of it is saved without a gap.
    pub next: Option<HeldStep>,
    /// Bytes of `Chunk` and `SetEnd` bodies that may be sent at first.
    pub credit: u64,
    /// Whether it wants a seed, or wants one to go on.
    pub wants_seed: bool,
    /// First block of the seed that it does not hold.
    pub seed_from_block: u64,
    /// Last set that is folded into its hidden base.
    pub folded: SetNumber,
    /// The state that its content holds but for blocks that later states changed: those are all it
    /// needs. With `wants_seed`, of the catch-up that is to go on.
    pub over: Option<SetNumber>,
    /// Bytes of blocks that it could take just now beside its content, which stays readable: its
    /// queue may be sent as one step of no more. `None`: it knows of no such steps.
    pub stages: Option<u64>,
}

/// What a sender is going to do for a receiver that attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StartMode {
    /// Sends the steps after `from`.
    Resume,
    /// Waits until it has passed `from` itself: the receiver is ahead of it.
    Wait,
    /// Sends a seed, and beside it the steps after `from`.
    Seed,
    /// Sends the blocks that changed after the state that the receiver's content holds, and beside
    /// it the steps after `from`.
    CatchUp {
        /// How many blocks that are; 0 if the sender does not know.
        blocks: u64,
        /// How many bytes of content, before compression; 0 if the sender does not know.
        bytes: u64,
    },
}

/// The sender's decision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Start {
    /// Which stream.
    pub stream: StreamId,
    /// What will be done.
    pub mode: StartMode,
    /// The steps after this state will be sent.
    pub from: SetNumber,
    /// The feeder number that the receiver gave the session.
    pub feeder: u32,
    /// Why this and nothing cheaper, in words.
    pub reason: String,
}

/// How a subtree is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Which stream.
    pub stream: StreamId,
    /// Nodes that it speaks for.
    pub nodes: u32,
    /// Oldest state that one of them shows.
    pub played_min: SetNumber,
    /// Newest state that one of them shows.
    pub played_max: SetNumber,
    /// Oldest state that one of them has saved.
    pub saved_min: SetNumber,
    /// Nodes by the state they show; the rarest are left out.
    pub by_state: Vec<(SetNumber, u32)>,
    /// The leaves that are furthest behind.
    pub worst: Vec<LeafReport>,
}

/// How one leaf is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeafReport {
    /// Which node.
    pub node: NodeName,
    /// The state it shows.
    pub state: SetNumber,
    /// How old that is.
    pub lag_us: u64,
    /// What it is doing or waiting for, in words.
    pub text: String,
}

/// A command that travels down.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControlBlock {
    /// Its id: it runs at most once per node.
    pub id: [u8; 16],
    /// Which application it is for.
    pub kind: String,
    /// It runs once the volume has reached this state.
    pub after: Option<StateId>,
    /// For the application.
    pub body: Bytes,
    /// Hops that it has made.
    pub hops: u8,
}

/// What one node answered to a control block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControlResult {
    /// Of which control block.
    pub id: [u8; 16],
    /// Who answers.
    pub node: NodeName,
    /// Whether it worked.
    pub ok: bool,
    /// From the application, or the error in words.
    pub body: Bytes,
    /// Whether this is the last result of the subtree.
    pub done: bool,
}
