//! Who may feed this node in a group: one at a time.
//!
//! ```text
//!            offer, in path,    offer, same   offer, another     heard    released
//!            itself, too deep   node          node               (number) (number)
//! NoFeeder   refused            Fed           Fed                stays    stays
//! Fed        refused            Fed           silent:  Fed       Fed      Released
//!                                             else:    refused
//! Released   refused            Fed           Fed                stays    stays
//! ```
//!
//! Every acceptance raises the *feeder number*, which frames and acknowledgements echo; a frame with
//! another number than the current one is stale, and so are signs of life and releases under it.
//! *Silent* means that nothing was heard for the silence time. A connection that breaks is no
//! release: the feeder may come back at once, and so may a node of its *line* take its place, which
//! are those above the parent (a bypass, FWD-06), the parent of before, and those that the topology
//! names; another must wait. This module keeps no time and no session.

use std::fmt;
use std::time::Duration;

use rcp::proto::clock::Mono;
use rcp::proto::frame::RefuseCode;
use rcp::proto::ids::{GroupName, NodeName};
use rcp::proto::limits::MAX_PATH;

use crate::limits::FEEDER_SILENCE;

/// Who feeds a node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum FeederState {
    /// Nobody yet.
    #[default]
    NoFeeder,
    /// This one.
    Fed {
        /// Who.
        node: NodeName,
        /// Under which number.
        number: u32,
        /// When it was accepted.
        since: Mono,
        /// When anything last came from it.
        last_heard: Mono,
    },
    /// Nobody: the last one let go.
    Released {
        /// Who it was.
        node: NodeName,
        /// Under which number.
        number: u32,
        /// When.
        at: Mono,
    },
}

/// An offer was accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Accept {
    /// For the session's hello or welcome; frames with another number are stale.
    pub feeder_number: u32,
    /// The accepted node takes the place of another that fell silent or broke off: log it.
    pub replaces_silent: bool,
}

/// Why an offer is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RefuseKind {
    /// It has this node's name.
    Itself,
    /// This node is above the one that offers.
    Loop,
    /// The tree would be deeper than a path can say.
    TooDeep,
    /// Another feeder is alive.
    Fed,
}

impl RefuseKind {
    /// As it travels.
    #[must_use]
    pub fn code(self) -> RefuseCode {
        match self {
            Self::Itself => RefuseCode::Name,
            Self::Loop => RefuseCode::Loop,
            Self::TooDeep => RefuseCode::Peer,
            Self::Fed => RefuseCode::Fed,
        }
    }
}

/// An offer was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct Refuse {
    /// Why, for programs.
    pub kind: RefuseKind,
    /// Why, in words, with what to do.
    pub text: String,
}

/// The one feeder of a node in a group.
#[derive(Clone, Debug)]
pub struct Feeder {
    own: NodeName,
    group: GroupName,
    silence: Duration,
    last_number: u32,
    state: FeederState,
    /// Its session is over.
    broken: bool,
    /// The way from the primary to the parent, this included: of the last feeder that was not itself
    /// in it.
    line: Vec<NodeName>,
    /// Who else may step in at once.
    named: Vec<NodeName>,
}

impl Feeder {
    /// Nobody feeds it yet. A feeder that was not heard for `silence` can be replaced.
    #[must_use]
    pub fn new(own: NodeName, group: GroupName, silence: Duration) -> Self {
        Self {
            own,
            group,
            silence,
            last_number: 0,
            state: FeederState::NoFeeder,
            broken: false,
            line: Vec::new(),
            named: Vec::new(),
        }
    }

    /// With the usual silence time.
    #[must_use]
    pub fn with_defaults(own: NodeName, group: GroupName) -> Self {
        Self::new(own, group, FEEDER_SILENCE)
    }

    /// The parents that the topology names.
    pub fn set_named(&mut self, named: Vec<NodeName>) {
        self.named = named;
    }

    /// The way from the primary to the parent, as far as it is known; a node of it that feeds this
    /// one in the parent's place does not change it.
    #[must_use]
    pub fn line(&self) -> &[NodeName] {
        &self.line
    }

    /// The way to the feeder became known, or is what it was accepted with.
    pub fn placed(&mut self, node: &NodeName, path: &[NodeName]) {
        let stands_in = self.line.split_last().is_some_and(|(_, above)| above.contains(node));
        if !stands_in && path.last() == Some(node) {
            self.line = path.to_vec();
        }
    }

    /// The feeder's session is over: nothing more can come of it. Says whether the number is
    /// current.
    pub fn broke(&mut self, number: u32) -> bool {
        let current = self.is_current(number);
        self.broken |= current;
        current
    }

    fn may_step_in(&self, node: &NodeName) -> bool {
        self.broken && (self.line.contains(node) || self.named.contains(node))
    }

    /// Who feeds it.
    #[must_use]
    pub fn state(&self) -> &FeederState {
        &self.state
    }

    /// The number that frames must carry; 0 if nobody feeds it.
    #[must_use]
    pub fn number(&self) -> u32 {
        match &self.state {
            FeederState::Fed { number, .. } => *number,
            FeederState::NoFeeder | FeederState::Released { .. } => 0,
        }
    }

    /// Whether a frame with this number comes from the current feeder.
    #[must_use]
    pub fn is_current(&self, number: u32) -> bool {
        number != 0 && number == self.number()
    }

    /// Whether the feeder was not heard for the silence time; no if there is none.
    #[must_use]
    pub fn is_silent(&self, now: Mono) -> bool {
        match &self.state {
            FeederState::Fed { last_heard, .. } => now.since(*last_heard) >= self.silence,
            FeederState::NoFeeder | FeederState::Released { .. } => false,
        }
    }

    /// When the feeder will count as silent if nothing comes; `None` if there is none.
    #[must_use]
    pub fn silent_at(&self) -> Option<Mono> {
        match &self.state {
            FeederState::Fed { last_heard, .. } => Some(last_heard.after(self.silence)),
            FeederState::NoFeeder | FeederState::Released { .. } => None,
        }
    }

    /// `node` wants to feed this one; `path` has the nodes from the primary to it, both included
    /// (empty while it is not known: see [`Feeder::check_path`]).
    ///
    /// # Errors
    /// [`Refuse`] if that would be a ring, or another feeder is alive; nothing is changed.
    pub fn offer(
        &mut self,
        node: &NodeName,
        path: &[NodeName],
        now: Mono,
    ) -> Result<Accept, Refuse> {
        let replaces_silent = self.check(node, path, now)?;
        // 0 means "no number"; nothing with a number from 4 billion sessions ago is in flight
        self.last_number = self.last_number.wrapping_add(1).max(1);
        let number = self.last_number;
        self.state = FeederState::Fed { node: node.clone(), number, since: now, last_heard: now };
        self.broken = false;
        self.placed(node, path);
        Ok(Accept { feeder_number: number, replaces_silent })
    }

    /// What [`Feeder::offer`] would say, for a probe; `Ok(true)` if a feeder that is silent, or
    /// whose session is over, would be replaced.
    ///
    /// # Errors
    /// As [`Feeder::offer`].
    pub fn check(&self, node: &NodeName, path: &[NodeName], now: Mono) -> Result<bool, Refuse> {
        let (own, group) = (&self.own, &self.group);
        if node == own {
            let text = format!(
                "both ends of the session for group `{group}` are named `{own}`; give each node a \
                 name of its own in the topology file"
            );
            return Err(Refuse { kind: RefuseKind::Itself, text });
        }
        self.check_path(node, path)?;
        match &self.state {
            FeederState::Fed { node: fed_by, last_heard, .. } if fed_by != node => {
                if self.is_silent(now) || self.may_step_in(node) || rcp::planted!(TwoFeeders) {
                    return Ok(true);
                }
                let text = format!(
                    "`{own}` is fed by `{fed_by}` in group `{group}`, heard {} ago; `{node}` can \
                     feed it after {} of silence, or at once after `rcproute delete group={group} \
                     nexthop={own}` at `{fed_by}`",
                    Seconds(now.since(*last_heard)),
                    Seconds(self.silence),
                );
                Err(Refuse { kind: RefuseKind::Fed, text })
            }
            _ => Ok(false),
        }
    }

    /// Whether this node may be below a node with that path. A node that dials its parent learns the
    /// path only from the welcome and asks then.
    ///
    /// # Errors
    /// [`Refuse`] for a ring or a tree that is too deep; the feeder should then be released.
    pub fn check_path(&self, node: &NodeName, path: &[NodeName]) -> Result<(), Refuse> {
        let (own, group) = (&self.own, &self.group);
        if let Some(at) = path.iter().position(|n| n == own) {
            let ring: Vec<&str> = path[at..].iter().map(NodeName::as_str).collect();
            let text = format!(
                "`{node}` cannot feed `{own}` in group `{group}`, it is below it: {} -> {own}; run \
                 `rcproute delete group={group} nexthop={own}` at `{node}`",
                ring.join(" -> ")
            );
            return Err(Refuse { kind: RefuseKind::Loop, text });
        }
        if path.len() >= MAX_PATH {
            let text = format!(
                "`{own}` would be {} nodes below the primary of group `{group}`, the limit is {}; \
                 feed it from a node further up",
                path.len(),
                MAX_PATH - 1
            );
            return Err(Refuse { kind: RefuseKind::TooDeep, text });
        }
        Ok(())
    }

    /// Something came under this number; says whether the number is current.
    pub fn heard(&mut self, number: u32, now: Mono) -> bool {
        let current = self.is_current(number);
        if let (true, FeederState::Fed { last_heard, .. }) = (current, &mut self.state) {
            *last_heard = now.max(*last_heard);
        }
        current
    }

    /// The feeder lets go: it said so, or the route was deleted. Says whether the number is current.
    pub fn released(&mut self, number: u32, now: Mono) -> bool {
        if !self.is_current(number) {
            return false;
        }
        if let FeederState::Fed { node, number, .. } = &self.state {
            self.state = FeederState::Released { node: node.clone(), number: *number, at: now };
        }
        true
    }
}

/// A duration as an operator reads it.
struct Seconds(Duration);

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.1} s", self.0.as_secs_f64())
    }
}
