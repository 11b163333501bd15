//! What goes up about a subtree: minimum, maximum, counts by state, and the few worst leaves.
//!
//! One value per volume. It keeps this node's own position and the *latest* report of each child and
//! makes of them the report for the node above. Its size and cost depend on the number of children,
//! never on the leaves below. It errs on one side only: a node is never counted as further than it
//! is. Nothing is dropped because it is old: a child that is not heard any more keeps its leaves in
//! the report, and their text says since when.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use rcp::proto::clock::Mono;
use rcp::proto::frame::{LeafReport, Report, StreamId};
use rcp::proto::ids::{NodeName, SetNumber};
use rcp::proto::limits::{MAX_LEAF_TEXT, MAX_REPORT_LEAVES, MAX_REPORT_STATES};

use crate::limits::REPORT_SILENCE;

/// This node's own replica of the volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Position {
    /// The state it shows.
    pub visible: SetNumber,
    /// The last complete step that is durable; never before the visible one.
    pub saved: SetNumber,
    /// How old the visible state is.
    pub lag: Duration,
    /// What it is doing or waiting for, in words.
    pub text: String,
}

/// Why a child's report is not taken; the one before it stays.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the report of `{child}` contradicts itself: {what}")]
pub struct ReportError {
    /// Whose.
    pub child: NodeName,
    /// How.
    pub what: &'static str,
}

#[derive(Clone, Debug)]
struct Child {
    report: Report,
    heard: Mono,
    /// The report named everybody that it counted.
    named: bool,
    /// Who was taken out of the report, as they are fed in the child's place.
    without: BTreeSet<NodeName>,
}

impl Child {
    fn new(report: Report, heard: Mono) -> Self {
        let named = usize::try_from(report.nodes).is_ok_and(|n| n == report.worst.len());
        Self { report, heard, named, without: BTreeSet::new() }
    }

    /// A node below it is counted by itself, with those below it: not in what the child reported, if
    /// they were.
    fn leave_out(&mut self, node: &NodeName, theirs: &Report) {
        let again = !self.without.insert(node.clone());
        let r = &mut self.report;
        r.worst.retain(|l| l.node != *node && theirs.worst.iter().all(|w| w.node != l.node));
        if self.named {
            r.nodes = u32::try_from(r.worst.len()).unwrap_or(u32::MAX);
        } else if !again {
            r.nodes = r.nodes.saturating_sub(theirs.nodes);
            r.worst.truncate(usize::try_from(r.nodes).unwrap_or(usize::MAX));
        }
        r.by_state.clear();
    }
}

/// The subtree of one volume, as this node sees it.
#[derive(Clone, Debug)]
pub struct Aggregate {
    node: NodeName,
    silence: Duration,
    own: Option<Position>,
    children: BTreeMap<NodeName, Child>,
}

impl Aggregate {
    /// Nothing is known yet. A child that did not report for `silence` is named as silent.
    #[must_use]
    pub fn new(node: NodeName, silence: Duration) -> Self {
        Self { node, silence, own: None, children: BTreeMap::new() }
    }

    /// With the usual silence time.
    #[must_use]
    pub fn with_defaults(node: NodeName) -> Self {
        Self::new(node, REPORT_SILENCE)
    }

    /// Where this node itself is; `None` if it only relays.
    pub fn set_own(&mut self, own: Option<Position>) {
        self.own = own;
    }

    /// A child reported: takes the place of what it reported before.
    ///
    /// # Errors
    /// [`ReportError`] if the numbers contradict each other or are over the limits of a report.
    pub fn child(
        &mut self,
        child: &NodeName,
        report: Report,
        now: Mono,
    ) -> Result<(), ReportError> {
        check(&report).map_err(|what| ReportError { child: child.clone(), what })?;
        self.children.insert(child.clone(), Child::new(report, now));
        Ok(())
    }

    /// A node reported that is fed in the place of a child that is away: from its first report on
    /// it is counted by itself, and no longer in what that child reported last. What is left of that
    /// counts as its oldest.
    ///
    /// # Errors
    /// As [`Aggregate::child`].
    pub fn child_in_place(
        &mut self,
        child: &NodeName,
        of: &NodeName,
        report: Report,
        now: Mono,
    ) -> Result<(), ReportError> {
        check(&report).map_err(|what| ReportError { child: child.clone(), what })?;
        if !self.children.contains_key(child)
            && let Some(of) = self.children.get_mut(of)
        {
            of.leave_out(child, &report);
        }
        self.child(child, report, now)
    }

    /// A sign of life came from a child whose report is still what it was.
    pub fn heard(&mut self, child: &NodeName, now: Mono) {
        if let Some(c) = self.children.get_mut(child) {
            c.heard = c.heard.max(now);
        }
    }

    /// The child is no child any more.
    pub fn forget(&mut self, child: &NodeName) {
        self.children.remove(child);
    }

    /// What the child reported last.
    #[must_use]
    pub fn latest(&self, child: &NodeName) -> Option<&Report> {
        self.children.get(child).map(|c| &c.report)
    }

    /// The children that did not report for the silence time.
    pub fn silent(&self, now: Mono) -> impl Iterator<Item = &NodeName> {
        self.children
            .iter()
            .filter(move |(_, c)| now.since(c.heard) >= self.silence)
            .map(|(name, _)| name)
    }

    /// The report for the node above; `None` while nothing is known of any node.
    #[must_use]
    pub fn report(&self, stream: StreamId, now: Mono) -> Option<Report> {
        let mut total = Total::default();
        if let Some(own) = &self.own {
            total.add_own(&self.node, own);
        }
        for (name, child) in self.children.iter().filter(|(_, c)| c.report.nodes > 0) {
            let silent = now.since(child.heard);
            total.add_child(name, &child.report, (silent >= self.silence).then_some(silent));
        }
        total.finish(stream)
    }
}

/// What is wrong with a report, if anything is.
fn check(r: &Report) -> Result<(), &'static str> {
    let counted = r.by_state.iter().fold(0u64, |n, (_, c)| n + u64::from(*c));
    let inside = |s: SetNumber| s >= r.played_min && s <= r.played_max;
    if r.by_state.len() > MAX_REPORT_STATES || r.worst.len() > MAX_REPORT_LEAVES {
        Err("it has more states or leaves than a report may have")
    } else if r.nodes == 0 && (counted > 0 || !r.worst.is_empty()) {
        Err("it speaks for no node and yet counts or names some")
    } else if r.nodes > 0 && r.played_min > r.played_max {
        Err("its oldest state is newer than its newest")
    } else if counted > u64::from(r.nodes) {
        Err("it counts more nodes by state than it speaks for")
    } else if r.worst.len() > usize::try_from(r.nodes).unwrap_or(usize::MAX) {
        Err("it names more leaves than it speaks for")
    } else if !r.by_state.iter().all(|(s, _)| inside(*s))
        || !r.worst.iter().all(|l| inside(l.state))
    {
        Err("it names a state outside its oldest and newest")
    } else {
        Ok(())
    }
}

#[derive(Default)]
struct Total {
    nodes: u32,
    played: Option<(SetNumber, SetNumber)>,
    saved_min: Option<SetNumber>,
    by_state: BTreeMap<SetNumber, u32>,
    worst: Vec<LeafReport>,
}

impl Total {
    fn add_own(&mut self, node: &NodeName, own: &Position) {
        self.nodes = self.nodes.saturating_add(1);
        self.range(own.visible, own.visible);
        self.saved(own.saved.max(own.visible));
        self.count(own.visible, 1);
        self.worst.push(LeafReport {
            node: node.clone(),
            state: own.visible,
            lag_us: micros(own.lag),
            text: cut(&own.text),
        });
    }

    fn add_child(&mut self, child: &NodeName, r: &Report, silent: Option<Duration>) {
        self.nodes = self.nodes.saturating_add(r.nodes);
        self.range(r.played_min, r.played_max);
        self.saved(r.saved_min);
        let mut uncounted = r.nodes;
        for (state, n) in &r.by_state {
            self.count(*state, *n);
            uncounted = uncounted.saturating_sub(*n);
        }
        // nodes of which a report does not say more count as the oldest
        self.count(r.played_min, uncounted);
        self.worst.extend(r.worst.iter().map(|leaf| match silent {
            None => leaf.clone(),
            Some(d) => LeafReport {
                lag_us: leaf.lag_us.saturating_add(micros(d)),
                text: cut(&{
                    let silent = format!("`{child}` has not reported for {} s", d.as_secs());
                    match leaf.text.as_str() {
                        "" => silent,
                        before => format!("{silent}; before: {before}"),
                    }
                }),
                ..leaf.clone()
            },
        }));
    }

    fn range(&mut self, min: SetNumber, max: SetNumber) {
        let (a, b) = self.played.unwrap_or((min, max));
        self.played = Some((a.min(min), b.max(max)));
    }

    fn saved(&mut self, saved: SetNumber) {
        self.saved_min = Some(self.saved_min.map_or(saved, |s| s.min(saved)));
    }

    fn count(&mut self, state: SetNumber, n: u32) {
        if n > 0 {
            let have = self.by_state.entry(state).or_default();
            *have = have.saturating_add(n);
        }
    }

    fn finish(mut self, stream: StreamId) -> Option<Report> {
        let (played_min, played_max) = self.played?;
        self.worst.sort_by(|a, b| rank(a).cmp(&rank(b)));
        self.worst.truncate(MAX_REPORT_LEAVES);
        Some(Report {
            stream,
            nodes: self.nodes,
            played_min,
            played_max,
            saved_min: self.saved_min.unwrap_or(played_min),
            by_state: fold(self.by_state),
            worst: self.worst,
        })
    }
}

/// Furthest behind first: older state, then more lag, then by name.
fn rank(leaf: &LeafReport) -> (SetNumber, Reverse<u64>, &NodeName) {
    (leaf.state, Reverse(leaf.lag_us), &leaf.node)
}

/// At most as many states as a report may have, oldest first: the oldest stays, then those with the
/// most nodes (of equal ones the newer); the rest is counted with the oldest, which claims too
/// little for them and never too much.
fn fold(by_state: BTreeMap<SetNumber, u32>) -> Vec<(SetNumber, u32)> {
    let mut all = by_state.into_iter();
    let Some((oldest, mut at_oldest)) = all.next() else { return Vec::new() };
    let mut rest: Vec<(SetNumber, u32)> = all.collect();
    rest.sort_by_key(|(state, n)| Reverse((*n, *state)));
    for (_, n) in rest.drain((MAX_REPORT_STATES - 1).min(rest.len())..) {
        at_oldest = at_oldest.saturating_add(n);
    }
    rest.push((oldest, at_oldest));
    rest.sort_unstable();
    rest
}

/// At most as long as the text of a leaf may be, cut between characters.
fn cut(text: &str) -> String {
    let mut end = text.len().min(MAX_LEAF_TEXT);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}

fn micros(d: Duration) -> u64 {
    u64::try_from(d.as_micros()).unwrap_or(u64::MAX)
}
