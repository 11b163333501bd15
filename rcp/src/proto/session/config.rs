//! What a session is told, and what it tells.

use std::time::Duration;

use super::super::frame::{Frame, FrameType, GoodbyeCode, Hello, Join, JoinKey, RefuseCode, Role};
use super::super::ids::{GroupName, NodeName};
use super::SessionState;

/// Who opened the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// This node did, to be this in the session.
    Dialer(Role),
    /// The peer did, and says what it wants to be.
    Acceptor,
}

/// Which peers are welcome in a role.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Peers {
    /// Any of the group.
    Any,
    /// Only these; an empty list is nobody.
    Only(Vec<NodeName>),
}

impl Peers {
    /// Whether `node` is welcome.
    #[must_use]
    pub fn allows(&self, node: &NodeName) -> bool {
        match self {
            Self::Any => true,
            Self::Only(list) => list.contains(node),
        }
    }
}

/// What a node brings into a session.
#[derive(Clone, Debug)]
pub struct SessionConfig {
    /// Versions to speak, oldest and newest: [`super::VERSIONS`], or fewer of them.
    pub versions: (u16, u16),
    /// This node.
    pub node: NodeName,
    /// Random, new at every start of the process.
    pub instance: [u8; 16],
    /// The group the session is for.
    pub group: GroupName,
    /// Nodes from the primary to this one, both included.
    pub path: Vec<NodeName>,
    /// The feeder number to give the session if this node is fed in it.
    pub feeder: u32,
    /// How often to see a sign of life.
    pub keepalive: Duration,
    /// Who may feed this node.
    pub feeders: Peers,
    /// Whom this node may feed.
    pub children: Peers,
    /// Whether an acceptor asks the node ([`Event::Asked`]) before it says welcome.
    pub ask: bool,
    /// What an acceptor tells the dialler, so that further connections can join; if none, they are
    /// refused.
    pub join: Option<JoinKey>,
}

/// The other end of a session that is up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its name.
    pub node: NodeName,
    /// Its process.
    pub instance: [u8; 16],
    /// The version chosen.
    pub version: u16,
    /// What it is in the session.
    pub role: Role,
    /// Nodes from the primary to it; empty if it is fed.
    pub path: Vec<NodeName>,
    /// The feeder number that the receiver gave the session, whichever of the two that is.
    pub feeder: u32,
    /// The keep-alive interval agreed upon.
    pub keepalive: Duration,
    /// What further connections join with, if the peer told it.
    pub join: Option<JoinKey>,
}

/// What a session tells its node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A hello that breaks no rule came; answer with `accept` or `refuse`.
    Asked(Hello),
    /// The session is up.
    Up(Peer),
    /// A connection came that wants to join a session; answer with `take_in` or `refuse`.
    Joins(Join),
    /// The connection has joined its session.
    Joined,
    /// A frame for the application; only legal ones come.
    Frame(Frame),
    /// The session is over; it comes last, and once.
    Closed(CloseReason),
}

/// Why a session is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CloseReason {
    /// The peer did not want it.
    Refused {
        /// Why, for programs.
        code: RefuseCode,
        /// Why, in words.
        text: String,
    },
    /// This node did not want it.
    Rejected {
        /// Why, for programs.
        code: RefuseCode,
        /// Why, in words.
        text: String,
    },
    /// The peer ended it.
    Goodbye {
        /// Why, for programs.
        code: GoodbyeCode,
        /// Why, in words.
        text: String,
    },
    /// This node ended it.
    Local {
        /// Why, for programs.
        code: GoodbyeCode,
        /// Why, in words.
        text: String,
    },
    /// The handshake took too long.
    HandshakeTimeout,
    /// Nothing came for three keep-alive intervals.
    Idle,
    /// A frame that may not come in this state.
    Protocol {
        /// The state.
        state: SessionState,
        /// The frame.
        frame: FrameType,
    },
    /// Bytes that are no sound frame, in words.
    Nonsense(String),
    /// The connection failed, in words.
    Broken(String),
    /// One side does not trust the other's certificate, in words.
    Untrusted(String),
    /// The probe was answered.
    Probed,
}

impl std::fmt::Display for CloseReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Refused { code, text } => write!(f, "refused by the peer ({code}): {text}"),
            Self::Rejected { code, text } => write!(f, "refused here ({code}): {text}"),
            Self::Goodbye { code, text } => write!(f, "ended by the peer ({code}): {text}"),
            Self::Local { code, text } => write!(f, "ended here ({code}): {text}"),
            Self::HandshakeTimeout => f.write_str("the handshake took too long"),
            Self::Idle => f.write_str("nothing came from the peer for too long"),
            Self::Protocol { state, frame } => {
                write!(f, "a {frame} frame may not come in state {}", state.name())
            }
            Self::Nonsense(text) => write!(f, "what came is no sound frame: {text}"),
            Self::Broken(text) => write!(f, "the connection failed: {text}"),
            Self::Untrusted(text) => f.write_str(text),
            Self::Probed => f.write_str("the probe was answered"),
        }
    }
}

/// Why a frame cannot be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// Not in this state, or not by this role.
    #[error("a {frame} frame may not be sent in state {}", state.name())]
    Illegal {
        /// The state.
        state: SessionState,
        /// The frame.
        frame: FrameType,
    },
    /// The driver has not taken what is queued.
    #[error("the session's queue is full")]
    Full,
}
