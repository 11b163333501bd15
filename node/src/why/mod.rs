//! Why copies are behind: what every node can see itself, put together along the way from the writer.
//!
//! A node says what holds it back, and what holds back its streams to the next hops; much of that
//! follows from something elsewhere. So a copy's way is walked from the writer down, and what only
//! points elsewhere is followed there: a child that takes nothing, a save volume that is full of what
//! somebody has not taken. Of what is found, that which stops a copy is named before that which slows
//! it, as nothing else helps before that is mended; and then what is further up before what is further
//! down.

#[cfg(test)]
pub(crate) mod tests;
mod walk;
mod way;

use serde::Serialize;

use crate::api::NodeStatus;
use way::Tree;

/// What one node answered.
#[derive(Clone, Copy, Debug)]
pub struct Answer<'a> {
    /// The node; or what it is called by, if its name is not known.
    pub node: &'a str,
    /// Its status, if it said it.
    pub said: Said<'a>,
}

/// What came back from a node.
#[derive(Clone, Copy, Debug)]
pub enum Said<'a> {
    /// Its status.
    Status(&'a NodeStatus),
    /// It is there, and did not say it to who asked: why.
    Refused(&'a str),
    /// No answer: why.
    Nothing(&'a str),
}

/// What kind of thing holds a copy back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// A node does not answer, and is not connected to its neighbours.
    Silent,
    /// One side of a hop does not admit the other.
    Refused,
    /// A hop has no connection.
    Away,
    /// No node feeds it, or the one at the top has not got the volume.
    Unfed,
    /// The writer makes no sets that count: it is fenced, replaced, or yet to become the writer.
    Held,
    /// An operator stopped replication there, or a restart did.
    Stopped,
    /// Writes wait for receivers that hold the room of the writer's save volume.
    Suspended,
    /// A save volume on the way is full of what a receiver has not taken.
    Full,
    /// A volume was closed.
    Failed,
    /// A volume cannot go on by itself: a full disk, most of all.
    Stalled,
    /// The content differs from the writer's and is compared and mended.
    Differs,
    /// A seed or a catch-up is under way, or waited for.
    Filling,
    /// A connection takes less than comes.
    Link,
    /// A route has a limit.
    Limit,
    /// A disk takes less than comes.
    Disk,
    /// Readers of older states hold the room of a save volume.
    Readers,
    /// The playback policy gathers sets.
    Playback,
    /// None of these; the text says what is known.
    Other,
}

/// One thing that holds a copy back.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Cause {
    /// A node, or `A -> B` for the hop between two.
    pub at: String,
    /// For programs.
    pub kind: Kind,
    /// As things are, nothing gets past it; else it only slows what comes.
    pub stops: bool,
    /// For people.
    pub text: String,
    /// For how long, by the clock of the node that says so, if that is known.
    pub for_seconds: Option<f64>,
    /// It follows from this, which is to be mended.
    pub because: Option<Box<Cause>>,
}

impl Cause {
    fn new(at: impl Into<String>, kind: Kind, text: impl Into<String>) -> Self {
        let stops = !matches!(
            kind,
            Kind::Filling
                | Kind::Link
                | Kind::Limit
                | Kind::Disk
                | Kind::Readers
                | Kind::Playback
                | Kind::Other
        );
        let (at, text) = (at.into(), text.into());
        Self { at, kind, stops, text, for_seconds: None, because: None }
    }

    fn lasting(mut self, seconds: Option<f64>) -> Self {
        self.for_seconds = seconds;
        self
    }

    /// What it follows from in the end: this is to be mended.
    #[must_use]
    pub fn root(&self) -> &Self {
        self.because.as_deref().map_or(self, Self::root)
    }
}

/// One copy, and what holds it back.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Copy {
    /// Its node.
    pub node: String,
    /// The set that it shows, if its node said so.
    pub set: Option<u64>,
    /// Seconds by which that is older than what the writer has, as its node counts.
    pub lag_seconds: Option<f64>,
    /// The nodes that its sets pass, the writer first.
    pub way: Vec<String>,
    /// The one to mend comes first; then what would hold it back next.
    pub causes: Vec<Cause>,
}

impl Copy {
    /// Whether it lacks something that its writer has, or could have.
    #[must_use]
    pub fn is_behind(&self, newest: Option<u64>) -> bool {
        !self.causes.is_empty() || newest.is_some_and(|n| self.set.is_none_or(|s| s < n))
    }
}

/// A node that did not say its status, although it is there: its neighbours hear of it, or it refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Unheard {
    /// The node.
    pub node: String,
    /// Why it is not heard.
    pub why: String,
}

/// What there is to say of a volume.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Explained {
    /// As its group calls it.
    pub volume: String,
    /// The node that writes it, if one of those that answered does.
    pub writer: Option<String>,
    /// Its newest set there.
    pub newest: Option<u64>,
    /// Every copy, by node.
    pub copies: Vec<Copy>,
    /// Nodes of which nothing is known but what their neighbours say.
    pub unheard: Vec<Unheard>,
}

/// Why nothing can be said of a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unknown {
    /// None of the nodes that answered knows it.
    Nowhere,
    /// Volumes of these groups go by that name.
    Several(Vec<String>),
}

/// Says of every copy of `volume` (its label, or its UUID) what holds it back.
///
/// # Errors
/// If it is not known which volume that is.
pub fn explain(volume: &str, answers: &[Answer<'_>]) -> Result<Explained, Unknown> {
    let tree = Tree::of(volume, answers)?;
    let writer = tree.writer();
    let newest = writer.and_then(|w| tree.volume(w)).map(|v| v.current_set);
    let copies = tree.copies().into_iter().map(|node| tree.copy(node)).collect();
    Ok(Explained {
        volume: tree.name.to_owned(),
        writer: writer.map(str::to_owned),
        newest,
        copies,
        unheard: tree.unheard(),
    })
}
