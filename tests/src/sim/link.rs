//! Connections: ordered queues of frames in both directions that can be slow, stall and break.

use std::collections::VecDeque;

use rcp::proto::frame::DecodedFrame;

use node::mover::ConnId;

/// What travels.
#[derive(Debug)]
pub enum Item {
    /// A frame, with the bytes that are reported as sent.
    Frame(Box<DecodedFrame>, u64),
    /// The other end has closed, or the connection broke.
    End(&'static str),
}

/// One end of a connection.
#[derive(Debug)]
pub struct End {
    /// Which node.
    pub node: usize,
    /// Which life of the node.
    pub life: u64,
    /// The node's name for it, once it has one.
    pub conn: Option<ConnId>,
    /// On the way to this end: when each arrives.
    pub inbox: VecDeque<(u64, Item)>,
    /// Nothing is delivered to this end any more.
    pub gone: bool,
    /// Nothing arrives here before that.
    pub stalled_until: u64,
}

/// A connection.
#[derive(Debug)]
pub struct Link {
    /// Dialler and acceptor.
    pub ends: [End; 2],
    /// The acceptor has it.
    pub established: bool,
}

impl End {
    /// An end that has received nothing.
    #[must_use]
    pub fn new(node: usize, life: u64, conn: Option<ConnId>) -> Self {
        Self { node, life, conn, inbox: VecDeque::new(), gone: false, stalled_until: 0 }
    }

    /// Adds an item that arrives at `at`, or after what is before it.
    pub fn push(&mut self, at: u64, item: Item) -> u64 {
        let last = self.inbox.back().map_or(0, |(t, _)| *t);
        let at = at.max(last).max(self.stalled_until);
        self.inbox.push_back((at, item));
        at
    }

    /// The connection breaks: keeps what has arrived in the first `keep` places, then the end.
    pub fn cut(&mut self, keep: usize, at: u64) -> u64 {
        self.inbox.truncate(keep);
        self.push(at, Item::End("the connection was reset"))
    }
}
