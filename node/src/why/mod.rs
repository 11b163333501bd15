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
mod way;

use std::collections::BTreeSet;

use serde::Serialize;

use crate::api::{ChildProgress, Delayed, GroupStatus, LinkStatus, NodeStatus, VolumeInfo};
use way::Tree;

/// What one node answered.
#[derive(Clone, Copy, Debug)]
pub struct Answer<'a> {
    /// The node; or what it is called by, if it has not said its name.
    pub node: &'a str,
    /// Its status, or why there is none.
    pub status: Result<&'a NodeStatus, &'a str>,
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
    /// No node has a route to it.
    Unfed,
    /// The writer makes no sets: it is fenced, held, or being made the writer.
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
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Cause {
    /// A node, or `A -> B` for the hop between two.
    pub at: String,
    /// For programs.
    pub kind: Kind,
    /// Nothing gets past it, however long one waits.
    pub stops: bool,
    /// For people.
    pub text: String,
    /// Since when, in microseconds since 1970, if that is known.
    pub since_us: Option<u64>,
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
        Self { at, kind, stops, text, since_us: None, because: None }
    }

    fn since(mut self, us: u64) -> Self {
        self.since_us = Some(us).filter(|us| *us > 0);
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
    /// The set that it shows, if its node answered.
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

/// What there is to say of a volume.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Explained {
    /// As its group calls it.
    pub volume: String,
    /// The node that writes it, if one of those asked does.
    pub writer: Option<String>,
    /// Its newest set there.
    pub newest: Option<u64>,
    /// Every copy, by node.
    pub copies: Vec<Copy>,
}

/// Says of every copy of `volume` what holds it back. `None`: none of the nodes knows the volume.
#[must_use]
pub fn explain(volume: &str, answers: &[Answer<'_>]) -> Option<Explained> {
    let tree = Tree::of(volume, answers)?;
    let writer = tree.writer();
    let newest = writer.and_then(|w| tree.volume(w)).map(|v| v.current_set);
    let copies = tree.copies().into_iter().map(|node| tree.copy(node)).collect();
    Some(Explained {
        volume: tree.name.to_owned(),
        writer: writer.map(str::to_owned),
        newest,
        copies,
    })
}

/// What is asked of a node on the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    /// To show what it got.
    Shows,
    /// To take and pass on.
    Passes,
}

impl<'a> Tree<'a> {
    fn copy(&self, node: &'a str) -> Copy {
        let way = self.way(node);
        let v = self.volume(node);
        let mut seen = BTreeSet::new();
        let mut causes = Vec::new();
        for (i, at) in way.iter().enumerate() {
            let part = if *at == node { Part::Shows } else { Part::Passes };
            causes.extend(self.at_node(at, part, &mut seen));
            if let Some(next) = way.get(i + 1) {
                causes.extend(self.at_hop(at, next));
            }
        }
        causes.extend(self.above(&way));
        only_what_is_not_said_elsewhere(&mut causes);
        if causes.is_empty() {
            causes.extend(v.and_then(|v| unexplained(node, v, self.newest())));
        }
        Copy {
            node: node.to_owned(),
            set: v.filter(|v| v.state != "failed").map(|v| v.current_set),
            lag_seconds: v.and_then(|v| v.lag_seconds),
            way: way.into_iter().map(str::to_owned).collect(),
            causes,
        }
    }

    fn newest(&self) -> Option<u64> {
        self.writer().and_then(|w| self.volume(w)).map(|v| v.current_set)
    }

    /// Nobody on the way writes: where it ends.
    fn above(&self, way: &[&str]) -> Option<Cause> {
        let top = *way.first()?;
        if self.silent(top).is_some() || self.volume(top).is_some_and(|v| v.role == "primary") {
            return None;
        }
        if !self.has_answered(top) {
            let text = "it was not asked, nor who is above it: name all nodes with --topology";
            return Some(Cause::new(top, Kind::Other, text));
        }
        Some(self.unfed(top, "no node"))
    }

    fn unfed(&self, node: &str, who: &str) -> Cause {
        let parent = self.group(node).and_then(|g| g.parent.as_ref());
        let why = parent.and_then(|p| p.reason.clone());
        let why = why.map_or(String::new(), |r| format!("; the last it heard: {r}"));
        let text = format!(
            "{who} has a route to it{why}: `rcproute PARENT: add group={} nexthop={node}` makes one",
            self.group_name
        );
        Cause::new(node, Kind::Unfed, text).since(parent.map_or(0, |p| p.since_us))
    }

    /// What a node itself is the cause of.
    fn at_node(&self, node: &'a str, part: Part, seen: &mut BTreeSet<&'a str>) -> Vec<Cause> {
        if let Some(why) = self.silent(node) {
            let said = self.hop_above(node).and_then(|l| l.reason.clone());
            let said = said.map_or(String::new(), |r| format!("; its parent says: {r}"));
            let since = self.hop_above(node).map_or(0, |l| l.since_us);
            let text = format!("it does not answer: {why}{said}");
            return vec![Cause::new(node, Kind::Silent, text).since(since)];
        }
        let Some(v) = self.volume(node) else { return Vec::new() };
        let mut found = Vec::new();
        let reason = || v.reason.clone().unwrap_or_else(|| v.state.clone());
        if v.state == "failed" {
            return vec![Cause::new(
                node,
                Kind::Failed,
                format!("its volume was closed: {}", reason()),
            )];
        }
        if v.role == "primary" {
            found.extend(of_writer(node, v));
        }
        let shows = part == Part::Shows || v.role == "primary";
        if !v.replicating && v.role != "relay" && shows {
            found.push(Cause::new(node, Kind::Stopped, reason()));
        }
        if v.differs.is_some() && shows {
            found.push(Cause::new(node, Kind::Differs, reason()));
        } else if v.state.starts_with("proving") && shows {
            found.push(Cause::new(node, Kind::Filling, reason()));
        }
        if let Some(why) = &v.stalled {
            let mut cause = Cause::new(node, Kind::Stalled, why.clone());
            // What comes may still be passed on.
            cause.stops = shows;
            found.push(cause);
        }
        found.extend(self.full(node, v, seen));
        let stopped = |d: &Delayed| d.cause == "stopped" && shows;
        found.extend(v.delayed.as_ref().filter(|d| !stopped(d)).and_then(|d| own(node, d, shows)));
        found
    }

    /// A save volume that is full of what others have not taken, once for each of them with what ails
    /// it.
    fn full(&self, node: &'a str, v: &VolumeInfo, seen: &mut BTreeSet<&'a str>) -> Vec<Cause> {
        let of_delay = || v.delayed.as_ref().filter(|d| d.cause == "child");
        let (by, text, since) = match (&v.suspended, of_delay()) {
            (Some(s), _) => (s.by.clone(), s.text.clone(), self.ago(node, s.seconds)),
            (None, Some(d)) => (d.by.iter().cloned().collect(), d.text.clone(), d.since_us),
            (None, None) => return Vec::new(),
        };
        let kind = if v.role == "primary" { Kind::Suspended } else { Kind::Full };
        let cause = Cause::new(node, kind, text).since(since);
        if !seen.insert(node) {
            return vec![cause];
        }
        let mut all: Vec<Cause> = Vec::new();
        for by in by.iter().filter_map(|by| self.known(by)) {
            let mut found = self.at_hop(node, by);
            found.extend(self.at_node(by, Part::Passes, seen));
            only_what_is_not_said_elsewhere(&mut found);
            let mut cause = cause.clone();
            cause.because = found.into_iter().next().map(Box::new);
            cause.stops = cause.root().stops;
            all.push(cause);
        }
        seen.remove(node);
        if all.is_empty() { vec![cause] } else { all }
    }

    /// What lies between two nodes.
    fn at_hop(&self, from: &'a str, to: &'a str) -> Vec<Cause> {
        // Said of the node already, with what its neighbour says of it.
        if self.silent(from).is_some() || self.silent(to).is_some() {
            return Vec::new();
        }
        let at = format!("{from} -> {to}");
        if let Some(l) = self.link(from, to).filter(|l| l.state != "connected") {
            return vec![broken(&at, l)];
        }
        let own = self.group(to).and_then(|g| g.parent.as_ref());
        if self.has_answered(from) && self.link(from, to).is_none() {
            // Its parent is another one meanwhile, or none.
            let fed = own.is_some_and(|p| p.state == "connected");
            return if fed { Vec::new() } else { vec![self.unfed(to, from)] };
        }
        let child = |v: &'a VolumeInfo| v.children.iter().find(|c| c.node == to);
        match self.volume(from).and_then(child) {
            Some(c) => {
                of_child(&at, c).or_else(|| self.under_way(&at, to, c)).into_iter().collect()
            }
            None => Vec::new(),
        }
    }

    /// Each points at the other: the child grants no more before it has what is under way, and takes
    /// all that comes. Then it is what lies between them.
    fn under_way(&self, at: &str, to: &str, c: &ChildProgress) -> Option<Cause> {
        let granted = c.delayed.as_ref().filter(|d| d.cause == "child")?;
        let own = self.volume(to)?.delayed.as_ref().filter(|d| d.cause == "link")?;
        let text = format!("{}, and all that {to} has granted is under way", own.text);
        Some(Cause::new(at, Kind::Link, text).since(granted.since_us))
    }
}

/// What follows from something that is on the list itself is said by that alone; the rest of a full
/// save volume's receivers once.
fn only_what_is_not_said_elsewhere(causes: &mut Vec<Cause>) {
    let all: Vec<(String, Kind)> = causes.iter().map(|c| (c.at.clone(), c.kind)).collect();
    let is_there = |c: &Cause| all.iter().any(|(at, kind)| (at, *kind) == (&c.at, c.kind));
    causes.retain(|c| {
        let mut below = std::iter::successors(c.because.as_deref(), |c| c.because.as_deref());
        !below.any(|b| (&b.at, b.kind) != (&c.at, c.kind) && is_there(b))
    });
    let mut told = BTreeSet::new();
    causes.sort_by_key(|c| !c.stops);
    causes.retain(|c| told.insert((c.at.clone(), c.kind)));
}

/// What keeps a writer from making sets.
fn of_writer(node: &str, v: &VolumeInfo) -> Option<Cause> {
    let held = v.fenced.clone().or_else(|| v.split.clone()).or_else(|| {
        let swap = v.handed_over.as_ref();
        swap.map(|h| {
            format!("it was handed over to {} at set {}, which is not the writer yet", h.to, h.set)
        })
    });
    let promoting = || v.promoting.then(|| v.reason.clone().unwrap_or_else(|| v.state.clone()));
    held.or_else(promoting).map(|text| Cause::new(node, Kind::Held, text))
}

fn broken(at: &str, l: &LinkStatus) -> Cause {
    let why = l.reason.clone().unwrap_or_else(|| "no connection yet".to_owned());
    let kind =
        if l.state == "refused" || why.starts_with("refused") { Kind::Refused } else { Kind::Away };
    Cause::new(at, kind, why).since(l.since_us)
}

/// What a node says of its copy, as far as it is not said better elsewhere.
fn own(node: &str, d: &Delayed, shows: bool) -> Option<Cause> {
    let kind = match d.cause.as_str() {
        "disk" => Kind::Disk,
        "readers" => Kind::Readers,
        "playback" if shows => Kind::Playback,
        // The save volume is full, and holds back all that are below.
        "stopped" => Kind::Stopped,
        // They point elsewhere, and that was looked at.
        _ => return None,
    };
    Some(Cause::new(node, kind, d.text.clone()).since(d.since_us))
}

/// What a node says of its stream to a child.
fn of_child(at: &str, c: &ChildProgress) -> Option<Cause> {
    let reason = || c.reason.as_ref().map_or(String::new(), |r| format!(": {r}"));
    let percent = c.seed_percent.map_or(String::new(), |p| format!(" ({p:.0} % sent)"));
    match c.state.as_str() {
        "seeding" | "catching up" => {
            let text = format!("{}{percent}{}", c.state, reason());
            return Some(Cause::new(at, Kind::Filling, text));
        }
        "detached" => {
            return Some(Cause::new(at, Kind::Filling, format!("detached{}", reason())));
        }
        "stopped" => {
            let mut cause =
                Cause::new(at, Kind::Other, format!("the stream was stopped{}", reason()));
            cause.stops = true;
            return Some(cause);
        }
        _ => {}
    }
    let d = c.delayed.as_ref()?;
    let kind = match d.cause.as_str() {
        "link" => Kind::Link,
        "limit" => Kind::Limit,
        "disk" => Kind::Disk,
        // It takes no more, and says why itself.
        _ => return None,
    };
    Some(Cause::new(at, kind, d.text.clone()).since(d.since_us))
}

/// Nothing is found on the way, and yet it is behind: what the node says of itself, if anything.
fn unexplained(node: &str, v: &VolumeInfo, newest: Option<u64>) -> Option<Cause> {
    let behind = newest.is_some_and(|n| v.current_set < n) || v.outstanding_sets > 0;
    if !behind {
        return None;
    }
    let text = v.delayed.as_ref().map(|d| d.text.clone()).or_else(|| v.reason.clone())?;
    let since = v.delayed.as_ref().map_or(0, |d| d.since_us);
    Some(Cause::new(node, Kind::Other, text).since(since))
}

/// What is said of one of a node's hops in its group.
fn link<'a>(g: &'a GroupStatus, to: &str) -> Option<&'a LinkStatus> {
    g.children.iter().find(|c| c.node == to)
}
