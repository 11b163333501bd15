//! Made-up answers of a tree `p -> f -> l, x` and `p -> y`.

use std::collections::BTreeMap;

use super::*;
use crate::api::SuspendedInfo;

const ROUTES: [(&str, &[&str]); 2] = [("p", &["f", "y"]), ("f", &["l", "x"])];

/// The nodes that answer, and why the others do not.
pub(crate) struct Net {
    nodes: BTreeMap<String, NodeStatus>,
    dead: BTreeMap<String, String>,
}

fn link_to(node: &str) -> LinkStatus {
    LinkStatus { node: node.to_owned(), state: "connected".to_owned(), ..LinkStatus::default() }
}

impl Net {
    /// All is well, and every copy lacks the writer's two newest sets.
    pub(crate) fn new() -> Self {
        let mut nodes = BTreeMap::new();
        for node in ["p", "f", "l", "x", "y"] {
            let below = ROUTES.iter().find(|(n, _)| *n == node).map_or(&[][..], |(_, b)| b);
            let above = ROUTES.iter().find(|(_, b)| b.contains(&node)).map(|(n, _)| *n);
            let role = if above.is_none() { "primary" } else { "replica" };
            let group = GroupStatus {
                group: "g".to_owned(),
                role: if above.is_none() { "primary" } else { "leaf" }.to_owned(),
                parent: above.map(link_to),
                children: below.iter().map(|n| link_to(n)).collect(),
                ..GroupStatus::default()
            };
            let streaming = |n: &&str| ChildProgress {
                node: (*n).to_owned(),
                state: "streaming".to_owned(),
                ..ChildProgress::default()
            };
            let volume = VolumeInfo {
                label: "vol".to_owned(),
                id: "1".to_owned(),
                group: "g".to_owned(),
                role: role.to_owned(),
                state: if above.is_none() { "writable" } else { "readable" }.to_owned(),
                replicating: true,
                current_set: if above.is_none() { 9 } else { 7 },
                children: below.iter().map(streaming).collect(),
                ..VolumeInfo::default()
            };
            let status = NodeStatus {
                node: node.to_owned(),
                at_us: 100_000_000,
                groups: vec![group],
                volumes: vec![volume],
                ..NodeStatus::default()
            };
            nodes.insert(node.to_owned(), status);
        }
        Self { nodes, dead: BTreeMap::new() }
    }

    pub(crate) fn volume(&mut self, node: &str) -> &mut VolumeInfo {
        &mut self.nodes.get_mut(node).expect("a node").volumes[0]
    }

    fn hop(&mut self, from: &str, to: &str) -> &mut LinkStatus {
        let group = &mut self.nodes.get_mut(from).expect("a node").groups[0];
        group.children.iter_mut().find(|c| c.node == to).expect("a child")
    }

    pub(crate) fn stream(&mut self, from: &str, to: &str) -> &mut ChildProgress {
        self.volume(from).children.iter_mut().find(|c| c.node == to).expect("a child")
    }

    fn lost(&mut self, from: &str, to: &str, state: &str, why: &str) {
        if self.nodes.contains_key(from) {
            let hop = self.hop(from, to);
            (hop.state, hop.reason) = (state.to_owned(), Some(why.to_owned()));
            self.stream(from, to).state = "offline".to_owned();
        }
        if let Some(n) = self.nodes.get_mut(to)
            && let Some(p) = &mut n.groups[0].parent
        {
            (p.state, p.reason) = ("waiting".to_owned(), Some("the peer closed it".to_owned()));
        }
    }

    pub(crate) fn dies(&mut self, node: &str) {
        self.nodes.remove(node);
        self.dead.insert(node.to_owned(), "no rcpd is running".to_owned());
        for (from, to) in ROUTES.iter().flat_map(|(n, b)| b.iter().map(move |to| (*n, *to))) {
            if from == node || to == node {
                self.lost(from, to, "waiting", "connection refused");
            }
        }
    }

    pub(crate) fn waits_for(&mut self, node: &str, by: &str) {
        let text = format!("the save volume is full of what {by} has not taken");
        self.volume(node).suspended =
            Some(SuspendedInfo { seconds: 12.0, by: vec![by.to_owned()], text });
    }

    fn slow(&mut self, node: &str, cause: &str) {
        self.volume(node).delayed = Some(delayed(cause));
    }

    fn asked(&self) -> Vec<Answer<'_>> {
        let up = self.nodes.iter().map(|(n, s)| Answer { node: n, status: Ok(s) });
        let dead = self.dead.iter().map(|(n, why)| Answer { node: n, status: Err(why) });
        up.chain(dead).collect()
    }

    pub(crate) fn explain(&self) -> Explained {
        explain("vol", &self.asked()).expect("a volume")
    }

    /// What is named for a copy: place and kind, then those of what each follows from.
    fn named(&self, node: &str) -> Vec<(String, Kind)> {
        let found = self.explain();
        let copy = found.copies.iter().find(|c| c.node == node).expect("a copy");
        let first = copy.causes.first();
        std::iter::successors(first, |c| c.because.as_deref())
            .map(|c| (c.at.clone(), c.kind))
            .collect()
    }

    fn names(&self, node: &str, want: &[(&str, Kind)]) {
        let found = self.named(node);
        let found: Vec<_> = found.iter().map(|(at, kind)| (at.as_str(), *kind)).collect();
        assert_eq!(found, want, "{:#?}", self.explain());
    }
}

pub(crate) fn delayed(cause: &str) -> Delayed {
    let text = format!("because of the {cause}");
    Delayed { cause: cause.to_owned(), text, by: None, since_us: 90_000_000 }
}

#[test]
fn what_comes_is_no_cause() {
    let net = Net::new();
    let found = net.explain();
    assert_eq!((found.writer.as_deref(), found.newest), (Some("p"), Some(9)));
    let nodes: Vec<_> = found.copies.iter().map(|c| c.node.as_str()).collect();
    assert_eq!(nodes, ["f", "l", "x", "y"]);
    assert!(found.copies.iter().all(|c| c.causes.is_empty() && c.is_behind(found.newest)));
    assert_eq!(found.copies[1].way, ["p", "f", "l"]);
    assert!(explain("other", &net.asked()).is_none());
}

#[test]
fn every_cause_is_named_where_it_is() {
    let with = |fault: fn(&mut Net)| {
        let mut net = Net::new();
        fault(&mut net);
        net
    };
    let net = with(|n| n.stream("f", "l").delayed = Some(delayed("link")));
    net.names("l", &[("f -> l", Kind::Link)]);
    net.names("x", &[]);
    // What was granted is under way: each side points at the other.
    let net = with(|n| {
        n.stream("f", "l").delayed = Some(delayed("child"));
        n.slow("l", "link");
    });
    net.names("l", &[("f -> l", Kind::Link)]);
    with(|n| n.slow("l", "disk")).names("l", &[("l", Kind::Disk)]);
    // Those below a slow disk get what it takes.
    with(|n| n.slow("f", "disk")).names("l", &[("f", Kind::Disk)]);
    let net = with(|n| n.slow("f", "playback"));
    net.names("f", &[("f", Kind::Playback)]);
    net.names("l", &[]);
    let net = with(|n| n.volume("f").replicating = false);
    net.names("f", &[("f", Kind::Stopped)]);
    net.names("l", &[]);
    // Unless its save volume is full of what it does not show.
    let net = with(|n| {
        n.volume("f").replicating = false;
        n.slow("f", "stopped");
    });
    net.names("l", &[("f", Kind::Stopped)]);
    let net = with(|n| n.dies("f"));
    net.names("l", &[("f", Kind::Silent)]);
    net.names("f", &[("f", Kind::Silent)]);
    net.names("y", &[]);
    with(|n| n.dies("l")).names("l", &[("l", Kind::Silent)]);
    with(|n| n.dies("p")).names("l", &[("p", Kind::Silent)]);
    let net = with(|n| n.lost("f", "l", "refused", "the certificate of l expired 3 h ago"));
    net.names("l", &[("f -> l", Kind::Refused)]);
    with(|n| n.volume("p").fenced = Some("held".to_owned())).names("l", &[("p", Kind::Held)]);
    let net = with(|n| {
        n.dies("y");
        n.waits_for("p", "y");
    });
    net.names("l", &[("p", Kind::Suspended), ("y", Kind::Silent)]);
    let net = with(|n| {
        n.dies("x");
        n.waits_for("f", "x");
    });
    net.names("l", &[("f", Kind::Full), ("x", Kind::Silent)]);
    net.names("y", &[]);
}

#[test]
fn what_follows_from_a_copy_itself_is_not_held_against_it() {
    let mut net = Net::new();
    net.stream("p", "y").delayed = Some(delayed("link"));
    net.waits_for("p", "y");
    // Its own way is slow, and everybody else waits for it.
    net.names("y", &[("p -> y", Kind::Link)]);
    net.names("l", &[("p", Kind::Suspended), ("p -> y", Kind::Link)]);
    let found = net.explain();
    let l = found.copies.iter().find(|c| c.node == "l").expect("a copy");
    assert!(!l.causes[0].stops, "it goes on, slowly");
    // A chain of full save volumes ends at who takes nothing.
    let mut net = Net::new();
    net.waits_for("p", "f");
    net.waits_for("f", "x");
    net.dies("x");
    net.names("y", &[("p", Kind::Suspended), ("f", Kind::Full), ("x", Kind::Silent)]);
    net.names("x", &[("x", Kind::Silent)]);
    // One that goes in a circle ends as well.
    let mut net = Net::new();
    net.waits_for("f", "f");
    assert_eq!(net.named("l")[0].1, Kind::Full);
}

#[test]
fn what_stops_goes_before_what_slows() {
    let mut net = Net::new();
    net.stream("p", "f").delayed = Some(delayed("link"));
    net.volume("l").replicating = false;
    net.volume("l").reason = Some("replication was stopped here by an operator".to_owned());
    net.names("l", &[("l", Kind::Stopped)]);
    let found = net.explain();
    let l = found.copies.iter().find(|c| c.node == "l").expect("a copy");
    let all: Vec<_> = l.causes.iter().map(|c| (c.at.as_str(), c.kind)).collect();
    assert_eq!(all, [("l", Kind::Stopped), ("p -> f", Kind::Link)]);
    net.names("x", &[("p -> f", Kind::Link)]);
}

#[test]
fn a_node_that_cannot_be_asked_is_not_taken_for_dead() {
    let mut net = Net::new();
    net.nodes.remove("f");
    net.dead.insert("f".to_owned(), "no route to host".to_owned());
    net.names("l", &[]);
    assert!(net.explain().copies.iter().any(|c| c.way == ["p", "f", "l"]));
    // Nor is one that nobody named.
    net.dead.clear();
    net.nodes.remove("p");
    let found = net.explain();
    let l = found.copies.iter().find(|c| c.node == "l").expect("a copy");
    assert_eq!(
        (l.way.as_slice(), l.causes[0].kind),
        (&["f".to_owned(), "l".to_owned()][..], Kind::Other)
    );
    assert!(l.causes[0].text.contains("--topology"), "{l:?}");
}

#[test]
fn a_copy_that_nobody_feeds_says_what_makes_a_route() {
    let mut net = Net::new();
    net.lost("f", "l", "waiting", "gone");
    net.nodes.get_mut("f").expect("f").groups[0].children.retain(|c| c.node != "l");
    net.volume("f").children.retain(|c| c.node != "l");
    net.names("l", &[("l", Kind::Unfed)]);
    let text =
        net.explain().copies.iter().find(|c| c.node == "l").expect("l").causes[0].text.clone();
    assert!(text.contains("add group=g nexthop=l"), "{text}");
}
