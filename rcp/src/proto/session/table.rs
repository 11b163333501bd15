//! Which frame may come in which state.
//!
//! ```text
//!   dialler:   HelloSent ──Welcome──► UpSender / UpReceiver ──Goodbye, silence──► Closed
//!              ProbeSent ──ProbeReply──► Closed
//!   acceptor:  AwaitHello ──Hello──► (Deciding ──accept──►) UpSender / UpReceiver ──► Closed
//!              AwaitHello ──Probe──► Answering ──answer──► Closed
//!
//!   further connections of a session that is up:
//!   dialler:   JoinSent ──Joined──► FurtherSender / FurtherReceiver ──Goodbye, silence──► Closed
//!   acceptor:  AwaitHello ──Join──► Joining ──take in──► FurtherSender / FurtherReceiver ──► Closed
//! ```
//!
//! Every state also ends in `Closed` by a refusal, by a frame that may not come, and, before the
//! session is up, by the handshake's deadline. The table is printed in `PROTOCOL.md`, and a test
//! compares the two over every state and frame.

use super::super::frame::{FrameType, Role};

/// Where a session stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SessionState {
    /// Dialled; the hello is out.
    HelloSent,
    /// Dialled only to ask; the probe is out.
    ProbeSent,
    /// Dialled for a session that is up; the join is out.
    JoinSent,
    /// Accepted; nothing came yet.
    AwaitHello,
    /// Accepted; a hello came, and the node has to say yes or no.
    Deciding,
    /// Accepted; a probe came, and the node has to answer it.
    Answering,
    /// Accepted; a join came, and the node has to say yes or no.
    Joining,
    /// Up; this node feeds the other.
    UpSender,
    /// Up; this node is fed.
    UpReceiver,
    /// A further connection of a session in which this node feeds the other.
    FurtherSender,
    /// A further connection of a session in which this node is fed.
    FurtherReceiver,
    /// Over.
    Closed,
}

impl SessionState {
    /// All of them.
    pub const ALL: [Self; 12] = [
        Self::HelloSent,
        Self::ProbeSent,
        Self::JoinSent,
        Self::AwaitHello,
        Self::Deciding,
        Self::Answering,
        Self::Joining,
        Self::UpSender,
        Self::UpReceiver,
        Self::FurtherSender,
        Self::FurtherReceiver,
        Self::Closed,
    ];

    /// Its name, as in `PROTOCOL.md`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::HelloSent => "HelloSent",
            Self::ProbeSent => "ProbeSent",
            Self::JoinSent => "JoinSent",
            Self::AwaitHello => "AwaitHello",
            Self::Deciding => "Deciding",
            Self::Answering => "Answering",
            Self::Joining => "Joining",
            Self::UpSender => "UpSender",
            Self::UpReceiver => "UpReceiver",
            Self::FurtherSender => "FurtherSender",
            Self::FurtherReceiver => "FurtherReceiver",
            Self::Closed => "Closed",
        }
    }

    /// The state of a session that is up, seen by a node with this role.
    #[must_use]
    pub fn up(role: Role) -> Self {
        match role {
            Role::Sender => Self::UpSender,
            Role::Receiver => Self::UpReceiver,
        }
    }

    /// The state of a further connection, seen by a node with this role.
    #[must_use]
    pub fn further(role: Role) -> Self {
        match role {
            Role::Sender => Self::FurtherSender,
            Role::Receiver => Self::FurtherReceiver,
        }
    }

    /// Whether frames of the application flow.
    #[must_use]
    pub fn is_up(self) -> bool {
        self.opposite().is_some()
    }

    /// What the state of the other end is, if this one is up.
    #[must_use]
    pub fn opposite(self) -> Option<Self> {
        match self {
            Self::UpSender => Some(Self::UpReceiver),
            Self::UpReceiver => Some(Self::UpSender),
            Self::FurtherSender => Some(Self::FurtherReceiver),
            Self::FurtherReceiver => Some(Self::FurtherSender),
            _ => None,
        }
    }
}

/// What is done with a frame that came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// The session itself acts on it.
    Own,
    /// It is passed up.
    Pass,
    /// It came too late to matter.
    Ignore,
    /// It may not come: the session ends.
    Illegal,
}

/// The transition table.
#[must_use]
pub fn action(state: SessionState, frame: FrameType) -> Action {
    use FrameType as F;
    use SessionState as S;
    let own = match state {
        S::Closed => return Action::Ignore,
        S::HelloSent => matches!(frame, F::Welcome | F::Refuse | F::Goodbye),
        S::ProbeSent => matches!(frame, F::ProbeReply | F::Refuse | F::Goodbye),
        S::JoinSent => matches!(frame, F::Joined | F::Refuse | F::Goodbye),
        S::AwaitHello => matches!(frame, F::Hello | F::Probe | F::Join | F::Goodbye),
        S::Deciding | S::Answering | S::Joining => matches!(frame, F::Goodbye),
        S::UpSender | S::UpReceiver | S::FurtherSender | S::FurtherReceiver => {
            matches!(frame, F::Refuse | F::Goodbye | F::Ping | F::Pong)
        }
    };
    let pass = match state {
        S::UpSender => goes_to(frame, Role::Sender),
        S::UpReceiver => goes_to(frame, Role::Receiver),
        S::FurtherReceiver => {
            matches!(frame, F::Place | F::Chunk | F::SetEnd | F::SeedData)
        }
        _ => false,
    };
    match (own, pass) {
        (true, _) => Action::Own,
        (false, true) => Action::Pass,
        (false, false) => Action::Illegal,
    }
}

/// Whether a frame of the application may be sent to a node with this role.
fn goes_to(frame: FrameType, role: Role) -> bool {
    use FrameType as F;
    match frame {
        F::StreamError => true,
        F::Offer
        | F::Withdraw
        | F::Start
        | F::Chunk
        | F::SetEnd
        | F::Heartbeat
        | F::Clock
        | F::Sums
        | F::Place
        | F::SeedData
        | F::SeedEnd
        | F::Control
        | F::Probe => role == Role::Receiver,
        F::Attach
        | F::Fence
        | F::Doubt
        | F::Compare
        | F::Saved
        | F::Placed
        | F::Credit
        | F::Report
        | F::SeedAck
        | F::ControlResult
        | F::ProbeReply
        | F::RouteReport => role == Role::Sender,
        F::Hello
        | F::Welcome
        | F::Refuse
        | F::Goodbye
        | F::Ping
        | F::Pong
        | F::Join
        | F::Joined => false,
    }
}
