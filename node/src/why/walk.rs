//! From the writer down to one copy: what is found at every node and at every hop.

use std::collections::BTreeSet;

use super::way::{Tree, link};
use super::{Cause, Copy, Kind};
use crate::api::{ChildProgress, Delayed, LinkStatus, VolumeInfo};

/// What is asked of a node on the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    /// To show what it got.
    Shows,
    /// To take and pass on.
    Passes,
}

impl<'a> Tree<'a> {
    pub(super) fn copy(&self, node: &'a str) -> Copy {
        let way = self.way(node);
        let v = self.volume(node);
        let mut causes: Vec<Cause> = self.top(&way, v).into_iter().collect();
        let mut above = None;
        for at in &way {
            let part = if *at == node { Part::Shows } else { Part::Passes };
            let own = self.at_node(at, above, part, &mut BTreeSet::new());
            if let Some(above) = above {
                let mut hop = self.at_hop(above, at, part);
                // The stream ended because of that.
                if own
                    .iter()
                    .any(|c| matches!(c.kind, Kind::Stopped | Kind::Failed | Kind::Differs))
                {
                    hop.retain(|c| !matches!(c.kind, Kind::Other | Kind::Filling));
                }
                causes.extend(hop);
            }
            causes.extend(own);
            above = Some(at);
        }
        each_once(&mut causes);
        if causes.is_empty() {
            causes.extend(v.and_then(|v| self.unexplained(node, v)));
        }
        Copy {
            node: node.to_owned(),
            set: v.filter(|v| !v.state.starts_with("failed")).map(|v| v.current_set),
            lag_seconds: v.and_then(|v| v.lag_seconds),
            way: way.into_iter().map(str::to_owned).collect(),
            causes,
        }
    }

    /// Where the way begins, if that is not at the writer.
    fn top(&self, way: &[&'a str], copy: Option<&VolumeInfo>) -> Option<Cause> {
        let top = *way.first()?;
        if self.silent(top).is_some() {
            return None;
        }
        match self.volume(top) {
            Some(v) if v.role == "primary" => {
                let newest = self.writer().filter(|w| *w != top && v.fenced.is_none())?;
                let text = format!(
                    "it is not the newest writer, {newest} is: `rcpctl failover {} --plan` shows who \
                     is, and what to do",
                    self.name
                );
                Some(Cause::new(top, Kind::Held, text))
            }
            Some(_) => Some(self.unfed(top, "no node has a route")),
            None if self.has_answered(top) => Some(self.without_volume(top)),
            None => {
                // Nothing is wrong as far as the copy itself can tell.
                copy.filter(|v| v.outstanding_sets > 0 || v.delayed.is_some())?;
                let why = match self.absent(top) {
                    Some(why) => format!("it cannot be asked from here: {why}"),
                    None => "it was not asked: name all nodes with --topology".to_owned(),
                };
                let text = format!("what holds sets back there or above is not known, as {why}");
                Some(Cause::new(top, Kind::Other, text))
            }
        }
    }

    fn without_volume(&self, node: &str) -> Cause {
        let text = match self.given_to(node) {
            Some(to) => format!(
                "it gave the volume to {to} with all its files, which has not taken it: `rcpctl group \
                 move {} --to {to}`",
                self.group_name
            ),
            None => {
                "it has not got the volume: it was deleted there, or is not there yet".to_owned()
            }
        };
        Cause::new(node, Kind::Unfed, text)
    }

    fn unfed(&self, node: &str, who: &str) -> Cause {
        let parent = self.group(node).and_then(|g| g.parent.as_ref());
        let why = parent.and_then(|p| p.reason.clone());
        let why = why.map_or(String::new(), |r| format!("; the last it heard: {r}"));
        let text = format!(
            "{who} to it{why}: `rcproute PARENT: add group={} nexthop={node}` makes one",
            self.group_name
        );
        let lasts = parent.and_then(|p| self.age(node, p.since_us));
        Cause::new(node, Kind::Unfed, text).lasting(lasts)
    }

    /// What a node itself is the cause of. `seen`: whose full save volumes led here.
    fn at_node(
        &self,
        node: &'a str,
        above: Option<&str>,
        part: Part,
        seen: &mut BTreeSet<&'a str>,
    ) -> Vec<Cause> {
        if let Some(why) = self.silent(node) {
            let hop = above.and_then(|a| Some((a, link(self.group(a)?, node)?)));
            let said = hop.and_then(|(a, l)| Some(format!("; {a} says: {}", l.reason.as_ref()?)));
            let text = format!("it does not answer: {why}{}", said.unwrap_or_default());
            let lasts = hop.and_then(|(a, l)| self.age(a, l.since_us));
            return vec![Cause::new(node, Kind::Silent, text).lasting(lasts)];
        }
        let Some(v) = self.volume(node) else { return Vec::new() };
        let reason = || v.reason.clone().unwrap_or_else(|| v.state.clone());
        if v.state.starts_with("failed") {
            let text = format!("its volume was closed: {}", reason());
            return vec![Cause::new(node, Kind::Failed, text)];
        }
        let mut found = Vec::new();
        if v.role == "primary" {
            found.extend(of_writer(node, v));
        }
        let shows = part == Part::Shows || v.role == "primary";
        if shows && !v.replicating && v.role != "relay" {
            found.push(Cause::new(node, Kind::Stopped, stopped(node, v)));
        }
        if shows && v.differs.is_some() {
            found.push(Cause::new(node, Kind::Differs, reason()));
        } else if shows && v.state.starts_with("proving") {
            found.push(Cause::new(node, Kind::Filling, reason()));
        }
        // What cannot be shown is passed on all the same, while there is room for it.
        let no_room = v.delayed.as_ref().is_some_and(|d| d.cause == "disk");
        if let Some(why) = v.stalled.as_ref().filter(|_| shows || no_room) {
            found.push(Cause::new(node, Kind::Stalled, why.clone()));
        }
        found.extend(self.full(node, v, seen));
        found.extend(v.delayed.as_ref().and_then(|d| self.own(node, v, d, shows)));
        found
    }

    /// What a node says of its copy, as far as it is not said better elsewhere.
    fn own(&self, node: &str, v: &VolumeInfo, d: &Delayed, shows: bool) -> Option<Cause> {
        let kind = match d.cause.as_str() {
            "disk" if v.stalled.is_none() => Kind::Disk,
            "readers" => Kind::Readers,
            "playback" if shows => Kind::Playback,
            // The save volume is full of what is not shown, and holds back all that are below.
            "stopped" if !shows => Kind::Stopped,
            // They point elsewhere, and that was looked at.
            _ => return None,
        };
        Some(Cause::new(node, kind, d.text.clone()).lasting(self.age(node, d.since_us)))
    }

    /// A save volume that is full of what others have not taken, once for each of them with what ails
    /// it.
    fn full(&self, node: &'a str, v: &VolumeInfo, seen: &mut BTreeSet<&'a str>) -> Vec<Cause> {
        let of_delay = || v.delayed.as_ref().filter(|d| d.cause == "child");
        let (by, text, lasts) = match (&v.suspended, of_delay()) {
            // Its words say for how long.
            (Some(s), _) => (s.by.clone(), s.text.clone(), None),
            (None, Some(d)) => {
                (d.by.iter().cloned().collect(), d.text.clone(), self.age(node, d.since_us))
            }
            (None, None) => return Vec::new(),
        };
        let kind = if v.role == "primary" { Kind::Suspended } else { Kind::Full };
        let mut cause = Cause::new(node, kind, text).lasting(lasts);
        // Unless somebody is found who takes nothing at all.
        cause.stops = false;
        if !seen.insert(node) {
            return vec![cause];
        }
        let mut all: Vec<Cause> = Vec::new();
        for by in by.iter().filter_map(|by| self.known(by)) {
            let mut found = self.at_hop(node, by, Part::Shows);
            found.extend(self.at_node(by, Some(node), Part::Passes, seen));
            each_once(&mut found);
            let mut cause = cause.clone();
            if let Some(first) = found.into_iter().next() {
                cause.stops = first.root().stops;
                cause.because = Some(Box::new(first));
            }
            all.push(cause);
        }
        seen.remove(node);
        if all.is_empty() { vec![cause] } else { all }
    }

    /// What lies between two nodes; `part`: what is asked of the lower one.
    fn at_hop(&self, from: &'a str, to: &'a str, part: Part) -> Vec<Cause> {
        // Said of the node already, with what its neighbour says of it.
        if self.silent(from).is_some() || self.silent(to).is_some() {
            return Vec::new();
        }
        let at = format!("{from} -> {to}");
        let up = self.group(to).and_then(|g| g.parent.as_ref());
        let Some(hop) = self.link(from, to) else {
            // Its parent is another one meanwhile, or none.
            let lost = self.has_answered(from) && up.is_none_or(|p| p.state != "connected");
            return lost
                .then(|| self.unfed(to, &format!("{from} has no route")))
                .into_iter()
                .collect();
        };
        if hop.state != "connected" {
            let says = if self.has_answered(from) { from } else { to };
            let lasts = self.age(says, hop.since_us);
            let other = up.filter(|p| p.node == from && p.state != "connected" && says == from);
            return vec![broken(&at, hop, to, other).lasting(lasts)];
        }
        let child = |v: &'a VolumeInfo| v.children.iter().find(|c| c.node == to);
        let Some(c) = self.volume(from).and_then(child) else { return Vec::new() };
        let found = filling(&at, c).filter(|f| {
            // Others are fed on beside somebody's seed that passes.
            let whole = self.volume(to).is_none_or(|v| v.role == "relay" || v.is_whole());
            f.kind != Kind::Filling || part == Part::Shows || !whole
        });
        let found = found.or_else(|| self.of_stream(&at, from, c));
        found.or_else(|| self.under_way(&at, from, to, c)).into_iter().collect()
    }

    /// What a node says of its stream to a child.
    fn of_stream(&self, at: &str, from: &str, c: &ChildProgress) -> Option<Cause> {
        let d = c.delayed.as_ref()?;
        let (at, kind, text) = match d.cause.as_str() {
            "link" => (at, Kind::Link, d.text.clone()),
            "limit" => (at, Kind::Limit, d.text.clone()),
            // Its own, for whomever.
            "disk" => (from, Kind::Disk, d.text.clone()),
            // It takes no more, and says why itself.
            _ => return None,
        };
        Some(Cause::new(at, kind, text).lasting(self.age(from, d.since_us)))
    }

    /// Each points at the other: the child grants no more before it has what is under way, and takes
    /// all that comes. Then it is what lies between them.
    fn under_way(&self, at: &str, from: &str, to: &str, c: &ChildProgress) -> Option<Cause> {
        let granted = c.delayed.as_ref().filter(|d| d.cause == "child")?;
        let own = self.volume(to)?.delayed.as_ref().filter(|d| d.cause == "link")?;
        let text = format!("{}, and all that {to} has granted is under way", own.text);
        Some(Cause::new(at, Kind::Link, text).lasting(self.age(from, granted.since_us)))
    }

    /// Nothing is found on the way, and yet it is behind: what the node says of itself, if it is about
    /// that.
    fn unexplained(&self, node: &str, v: &VolumeInfo) -> Option<Cause> {
        let newest = self.writer().and_then(|w| self.volume(w)).map(|v| v.current_set);
        let behind = newest.is_some_and(|n| v.current_set < n) || v.outstanding_sets > 0;
        if !behind || v.role == "primary" {
            return None;
        }
        let parent = self.group(node).and_then(|g| g.parent.as_ref());
        let cut_off = parent.is_none_or(|p| p.state != "connected");
        let (text, lasts) = match &v.delayed {
            Some(d) => (d.text.clone(), self.age(node, d.since_us)),
            None => (v.reason.clone().filter(|_| cut_off || !v.is_whole())?, None),
        };
        Some(Cause::new(node, Kind::Other, text).lasting(lasts))
    }
}

/// What keeps a writer from making sets.
fn of_writer(node: &str, v: &VolumeInfo) -> Option<Cause> {
    let handed = || {
        let h = v.handed_over.as_ref()?;
        let (to, set) = (&h.to, h.set);
        Some(format!("it was handed over to {to} at set {set}, which is not the writer yet"))
    };
    let promoting = || v.promoting.then(|| v.reason.clone().unwrap_or_else(|| v.state.clone()));
    let held = v.fenced.clone().or_else(|| v.split.clone()).or_else(handed).or_else(promoting);
    held.map(|text| Cause::new(node, Kind::Held, text))
}

/// That replication is stopped, whatever else is said of the volume first.
fn stopped(node: &str, v: &VolumeInfo) -> String {
    match &v.reason {
        Some(why) if why.contains("rcpctl replicate start") => why.clone(),
        other => {
            let also = other.as_ref().map_or(String::new(), |why| format!("; and {why}"));
            let label = &v.label;
            format!("replication is stopped: `rcpctl replicate start {label} --node {node}`{also}")
        }
    }
}

fn broken(at: &str, hop: &LinkStatus, to: &str, other: Option<&LinkStatus>) -> Cause {
    let mut why = hop.reason.clone().unwrap_or_else(|| "no connection yet".to_owned());
    let refused = |l: &LinkStatus| {
        l.state == "refused" || l.reason.as_ref().is_some_and(|r| r.starts_with("refused"))
    };
    let kind = if refused(hop) || other.is_some_and(refused) { Kind::Refused } else { Kind::Away };
    if let Some(said) = other.and_then(|o| o.reason.as_ref()).filter(|r| **r != why) {
        why.push_str(&format!("; {to} says: {said}"));
    }
    Cause::new(at, kind, why)
}

/// A child that is being brought up, or is not fed.
fn filling(at: &str, c: &ChildProgress) -> Option<Cause> {
    let why = c.reason.as_ref().map_or(String::new(), |r| format!(": {r}"));
    match c.state.as_str() {
        "seeding" | "catching up" => {
            let percent = c.seed_percent.map_or(String::new(), |p| format!(" ({p:.0} % sent)"));
            Some(Cause::new(at, Kind::Filling, format!("{}{percent}{why}", c.state)))
        }
        "detached" => Some(Cause::new(at, Kind::Filling, format!("detached{why}"))),
        "stopped" => {
            let mut cause = Cause::new(at, Kind::Other, format!("the stream was stopped{why}"));
            cause.stops = true;
            Some(cause)
        }
        _ => None,
    }
}

/// What stops first, and nothing twice: what follows from something that is on the list itself is said
/// by that alone.
fn each_once(causes: &mut Vec<Cause>) {
    fn name(c: &Cause) -> (String, Kind) {
        (c.at.clone(), c.kind)
    }
    let all: Vec<_> = causes.iter().map(name).collect();
    causes.retain(|c| {
        let mut below = std::iter::successors(c.because.as_deref(), |c| c.because.as_deref());
        !below.any(|b| name(b) != name(c) && all.contains(&name(b)))
    });
    let mut told = BTreeSet::new();
    causes.sort_by_key(|c| !c.stops);
    causes.retain(|c| told.insert((name(c), name(c.root()))));
}
