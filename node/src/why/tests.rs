//! Made-up answers of a tree `p -> f -> l, x` and `p -> y`.

use std::collections::BTreeMap;

use super::*;
use crate::api::{ChildProgress, Delayed, GroupStatus, LinkStatus, SuspendedInfo, VolumeInfo};

const ROUTES: [(&str, &[&str]); 2] = [("p", &["f", "y"]), ("f", &["l", "x"])];

/// The nodes that answer, and why the others do not.
pub(crate) struct Net {
    nodes: BTreeMap<String, NodeStatus>,
    dead: BTreeMap<String, String>,
    /// Whether who did not answer refused to.
    refuses: bool,
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
        Self { nodes, dead: BTreeMap::new(), refuses: false }
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
        let absent = |why| if self.refuses { Said::Refused(why) } else { Said::Nothing(why) };
        let up = self.nodes.iter().map(|(node, s)| Answer { node, said: Said::Status(s) });
        let dead = self.dead.iter().map(|(node, why)| Answer { node, said: absent(why) });
        up.chain(dead).collect()
    }

    pub(crate) fn explain(&self) -> Explained {
        explain("vol", &self.asked()).expect("a volume")
    }

    fn copy(&self, node: &str) -> Copy {
        let found = self.explain();
        found.copies.into_iter().find(|c| c.node == node).expect("a copy")
    }

    /// What is named for a copy: place and kind, then those of what each follows from.
    fn named(&self, node: &str) -> Vec<(String, Kind)> {
        let copy = self.copy(node);
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
    assert_eq!(explain("other", &net.asked()), Err(Unknown::Nowhere));
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

/// `node` runs, and the operator cannot ask it.
fn out_of_reach(node: &str, refuses: bool) -> Net {
    let mut net = Net::new();
    net.nodes.remove(node);
    net.dead.insert(node.to_owned(), "no route to host".to_owned());
    net.refuses = refuses;
    net
}

#[test]
fn a_node_that_cannot_be_asked_is_not_taken_for_dead() {
    for refuses in [false, true] {
        let net = out_of_reach("f", refuses);
        net.names("l", &[]);
        assert_eq!(net.copy("l").way, ["p", "f", "l"]);
        assert_eq!(net.copy("f").causes, []);
        let unheard = net.explain().unheard;
        assert_eq!((unheard[0].node.as_str(), unheard.len()), ("f", 1));
        // The writer least of all: those below are well, as far as they can tell.
        let mut net = out_of_reach("p", refuses);
        net.names("l", &[]);
        assert_eq!(net.explain().unheard[0].node, "p");
        net.volume("l").outstanding_sets = 2;
        let l = net.copy("l");
        assert!(l.causes[0].text.contains("no route to host"), "{l:?}");
    }
    // Nor is one that nobody named.
    let mut net = out_of_reach("p", false);
    net.dead.clear();
    net.names("l", &[]);
    net.volume("l").outstanding_sets = 2;
    let l = net.copy("l");
    assert_eq!(
        (l.way.as_slice(), l.causes[0].kind),
        (&["p", "f", "l"].map(str::to_owned)[..], Kind::Other)
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
    let text = net.copy("l").causes[0].text.clone();
    let says = "f has no route to it; the last it heard: the peer closed it: `rcproute PARENT: add \
                group=g nexthop=l` makes one";
    assert_eq!(text, says);
    // The volume is gone where the way begins.
    let mut net = Net::new();
    net.nodes.get_mut("p").expect("p").volumes.clear();
    net.names("l", &[("p", Kind::Unfed)]);
    assert!(net.copy("l").causes[0].text.contains("has not got the volume"));
}

#[test]
fn a_volume_that_cannot_be_shown_is_passed_on_while_there_is_room() {
    let mut net = Net::new();
    net.volume("f").stalled = Some("playback stopped: the disk is full".to_owned());
    net.names("f", &[("f", Kind::Stalled)]);
    net.names("l", &[]);
    net.slow("f", "disk");
    net.names("l", &[("f", Kind::Stalled)]);
    assert!(net.copy("l").causes[0].stops && net.copy("l").causes.len() == 1);
}

#[test]
fn a_seed_that_passes_holds_back_only_whom_it_is_for() {
    let mut net = Net::new();
    net.stream("p", "f").state = "seeding".to_owned();
    net.volume("f").role = "relay".to_owned();
    net.volume("x").state = "seeding".to_owned();
    net.stream("f", "x").state = "seeding".to_owned();
    net.names("l", &[]);
    net.names("x", &[("f -> x", Kind::Filling)]);
    // One that is not whole itself has nothing to pass on.
    let mut net = Net::new();
    net.stream("p", "f").state = "seeding".to_owned();
    net.volume("f").state = "seeding".to_owned();
    net.names("l", &[("p -> f", Kind::Filling)]);
}

#[test]
fn a_stream_that_ended_because_of_the_copy_is_not_named_for_it() {
    let mut net = Net::new();
    net.stream("f", "l").state = "stopped".to_owned();
    net.volume("l").state = "failed, writes wait".to_owned();
    net.names("l", &[("l", Kind::Failed)]);
    let mut net = Net::new();
    net.stream("f", "l").state = "detached".to_owned();
    net.volume("l").replicating = false;
    net.names("l", &[("l", Kind::Stopped)]);
    assert!(net.copy("l").causes[0].text.contains("rcpctl replicate start vol --node l"));
}

#[test]
fn a_writer_that_was_replaced_holds_back_those_below_it() {
    let mut net = Net::new();
    for (node, generation) in [("p", "1-aa"), ("f", "2-bb")] {
        let v = net.volume(node);
        (v.role, v.generation) = ("primary".to_owned(), generation.to_owned());
    }
    assert_eq!(net.explain().writer.as_deref(), Some("f"));
    net.names("y", &[("p", Kind::Held)]);
    net.names("p", &[("p", Kind::Held)]);
    net.names("l", &[]);
    net.volume("p").fenced = Some("f took over".to_owned());
    assert_eq!(net.copy("p").causes[0].text, "f took over");
}

#[test]
fn whoever_is_fed_in_anothers_place_does_not_wait_for_that_one() {
    let mut net = Net::new();
    net.dies("f");
    net.dies("l");
    let mut hop = link_to("l");
    (hop.state, hop.in_place_of) = ("waiting".to_owned(), Some("f".to_owned()));
    net.nodes.get_mut("p").expect("p").groups[0].children.push(hop);
    net.names("l", &[("l", Kind::Silent)]);
    net.names("f", &[("f", Kind::Silent)]);
}

#[test]
fn one_that_dials_says_itself_why_it_cannot() {
    let mut net = Net::new();
    net.lost("f", "l", "waiting", "it dials this node (`dial: child`)");
    let up = net.nodes.get_mut("l").expect("l").groups[0].parent.as_mut().expect("a parent");
    up.reason = Some("refused: the certificate of l expired 3 h ago".to_owned());
    net.names("l", &[("f -> l", Kind::Refused)]);
    assert!(
        net.copy("l").causes[0]
            .text
            .ends_with("; l says: refused: the certificate of l expired 3 h ago")
    );
}

#[test]
fn everybody_who_holds_a_full_save_volume_is_named() {
    let mut net = Net::new();
    net.dies("l");
    net.dies("x");
    net.waits_for("f", "l");
    net.volume("f").suspended.as_mut().expect("full").by.push("x".to_owned());
    let roots: Vec<_> = net.copy("f").causes.iter().map(|c| c.root().at.clone()).collect();
    assert_eq!(roots, ["l", "x"]);
    // Who takes a little stops nobody; who cannot be asked, nobody knows.
    let mut net = Net::new();
    net.waits_for("f", "x");
    assert!(!net.copy("l").causes[0].stops);
}

#[test]
fn two_volumes_of_one_name_are_told_apart() {
    let mut net = Net::new();
    let mut other = net.volume("p").clone();
    (other.id, other.group) = ("2".to_owned(), "h".to_owned());
    net.nodes.get_mut("x").expect("x").volumes.push(other.clone());
    let groups = vec!["g".to_owned(), "h".to_owned()];
    assert_eq!(explain("vol", &net.asked()), Err(Unknown::Several(groups)));
    assert!(explain("1", &net.asked()).is_ok());
    // Only one of them is called so by its group.
    other.source = "elsewhere".to_owned();
    *net.nodes.get_mut("x").expect("x").volumes.last_mut().expect("two") = other;
    assert_eq!(net.explain().writer.as_deref(), Some("p"));
}
