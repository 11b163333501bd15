//! Who feeds whom, as far as the nodes that answered know.

use std::collections::{BTreeMap, BTreeSet};

use super::{Answer, Said, Unheard, Unknown};
use crate::api::{GroupStatus, LinkStatus, NodeStatus, VolumeInfo};

/// The tree of one volume.
#[derive(Debug)]
pub(super) struct Tree<'a> {
    /// What its group calls the volume.
    pub(super) name: &'a str,
    pub(super) group_name: &'a str,
    id: &'a str,
    nodes: BTreeMap<&'a str, &'a NodeStatus>,
    /// Who did not say it, why, and whether it is there.
    absent: BTreeMap<&'a str, (&'a str, bool)>,
    volumes: BTreeMap<&'a str, &'a VolumeInfo>,
}

impl<'a> Tree<'a> {
    pub(super) fn of(volume: &str, answers: &[Answer<'a>]) -> Result<Self, Unknown> {
        let (mut nodes, mut absent) = (BTreeMap::new(), BTreeMap::new());
        for a in answers {
            match a.said {
                Said::Status(status) => drop(nodes.insert(status.node.as_str(), status)),
                Said::Refused(why) => drop(absent.insert(a.node, (why, true))),
                Said::Nothing(why) => drop(absent.insert(a.node, (why, false))),
            }
        }
        let all = nodes.values().flat_map(|s| &s.volumes);
        let mut meant: Vec<&'a VolumeInfo> = all.filter(|v| v.is_called(volume)).collect();
        // A member may have a label of its own, which is another volume's elsewhere: what its group
        // calls it counts first.
        if meant.iter().any(|v| v.in_group() == volume) {
            meant.retain(|v| v.in_group() == volume);
        }
        let first = *meant.first().ok_or(Unknown::Nowhere)?;
        if meant.iter().any(|v| v.id != first.id) {
            let groups: BTreeSet<_> = meant.iter().map(|v| v.group.clone()).collect();
            return Err(Unknown::Several(groups.into_iter().collect()));
        }
        let same = |s: &&'a NodeStatus| s.volumes.iter().find(|v| v.id == first.id);
        let volumes = nodes.iter().filter_map(|(n, s)| Some((*n, same(s)?))).collect();
        let (name, group_name, id) = (first.in_group(), &first.group, &first.id);
        Ok(Self { name, group_name, id, nodes, absent, volumes })
    }

    /// The volume at a node.
    pub(super) fn volume(&self, node: &str) -> Option<&'a VolumeInfo> {
        self.volumes.get(node).copied()
    }

    /// The group at a node.
    pub(super) fn group(&self, node: &str) -> Option<&'a GroupStatus> {
        self.nodes.get(node)?.groups.iter().find(|g| g.group == self.group_name)
    }

    fn groups(&self) -> impl Iterator<Item = (&'a str, &'a GroupStatus)> {
        self.nodes.keys().filter_map(|n| Some((*n, self.group(n)?)))
    }

    /// A name as it was asked or told of.
    pub(super) fn known(&self, node: &str) -> Option<&'a str> {
        let asked = self.nodes.get_key_value(node).map(|(n, _)| *n);
        let silent = || self.absent.get_key_value(node).map(|(n, _)| *n);
        let told = || self.groups().find_map(|(_, g)| Some(link(g, node)?.node.as_str()));
        asked.or_else(silent).or_else(told)
    }

    /// The newest writer that answered.
    pub(super) fn writer(&self) -> Option<&'a str> {
        let number = |v: &VolumeInfo| v.generation.split('-').next()?.parse::<u64>().ok();
        let writes = self.volumes.iter().filter(|(_, v)| v.role == "primary");
        writes.max_by_key(|(_, v)| (number(v), v.fenced.is_none())).map(|(n, _)| *n)
    }

    /// Why a node is taken for one that is not there: it did not answer, and nobody is connected to
    /// it. One that others hear of cannot be asked from here, and is not the cause of anything.
    pub(super) fn silent(&self, node: &str) -> Option<&'a str> {
        let (why, there) = *self.absent.get(node)?;
        (!there && !self.is_heard_of(node)).then_some(why)
    }

    fn is_heard_of(&self, node: &str) -> bool {
        let up = |l: &LinkStatus| l.node == node && l.state == "connected";
        self.groups().any(|(_, g)| g.children.iter().chain(&g.parent).any(up))
    }

    /// Why a node has not said its status.
    pub(super) fn absent(&self, node: &str) -> Option<&'a str> {
        self.absent.get(node).map(|(why, _)| *why)
    }

    /// Members of the group that are there, and have not said it.
    pub(super) fn unheard(&self) -> Vec<Unheard> {
        let there = self.absent.iter().filter(|(n, (_, there))| *there || self.is_heard_of(n));
        there
            .filter(|(n, _)| self.is_routed(n) || self.feeds(n))
            .map(|(n, (why, _))| Unheard { node: (*n).to_owned(), why: (*why).to_owned() })
            .collect()
    }

    fn is_routed(&self, node: &str) -> bool {
        self.groups().any(|(_, g)| {
            link(g, node).is_some() || g.routes.values().flatten().any(|hop| hop == node)
        })
    }

    fn feeds(&self, node: &str) -> bool {
        self.groups().any(|(_, g)| g.parent.as_ref().is_some_and(|p| p.node == node))
    }

    /// The node that was given the volume with all its files, if this one had it.
    pub(super) fn given_to(&self, node: &str) -> Option<&'a str> {
        let moved = &self.nodes.get(node)?.moved;
        let waits = moved.iter().find(|m| m.id == self.id && m.folder.is_some());
        waits.map(|m| m.to.as_str())
    }

    pub(super) fn has_answered(&self, node: &str) -> bool {
        self.nodes.contains_key(node)
    }

    /// Seconds that have passed at a node since a moment there, if it is known.
    #[allow(clippy::cast_precision_loss)]
    pub(super) fn age(&self, node: &str, since_us: u64) -> Option<f64> {
        let now = self.nodes.get(node)?.at_us;
        (since_us > 0).then(|| now.saturating_sub(since_us) as f64 / 1e6)
    }

    /// What `from` says of its hop to `to`.
    pub(super) fn link(&self, from: &str, to: &str) -> Option<&'a LinkStatus> {
        match self.group(from) {
            Some(g) => link(g, to),
            None => self.group(to)?.parent.as_ref().filter(|p| p.node == from),
        }
    }

    /// Nodes that have a copy or should have, and writers that were replaced.
    pub(super) fn copies(&self) -> Vec<&'a str> {
        let writer = self.writer();
        let holds = |n: &str, v: &VolumeInfo| match v.role.as_str() {
            "replica" => true,
            "primary" => writer != Some(n),
            _ => false,
        };
        let there = self.volumes.iter().filter(|(n, v)| holds(n, v)).map(|(n, _)| *n);
        // Perhaps they only forward: nobody says so.
        let absent = self.absent.keys().copied().filter(|n| self.is_routed(n));
        // It answers, and what its group has is not there yet.
        let empty = |n: &&'a str| {
            let role = self.group(n).map(|g| g.role.as_str());
            self.volume(n).is_none() && matches!(role, Some("leaf" | "forwarder"))
        };
        let empty = self.nodes.keys().copied().filter(empty);
        there.chain(absent).chain(empty).collect::<BTreeSet<_>>().into_iter().collect()
    }

    /// The nodes from the writer down to this one.
    pub(super) fn way(&self, node: &'a str) -> Vec<&'a str> {
        let mut way = vec![node];
        let mut at = node;
        while self.volume(at).is_none_or(|v| v.role != "primary")
            && let Some(up) = self.parent(at).filter(|up| !way.contains(up))
        {
            way.push(up);
            at = up;
        }
        way.reverse();
        way
    }

    /// Who feeds a node, or should.
    fn parent(&self, node: &str) -> Option<&'a str> {
        let own = self.group(node).and_then(|g| g.parent.as_ref());
        let connected = own.filter(|p| p.state == "connected").map(|p| p.node.as_str());
        let feeds = |wanted: fn(&LinkStatus) -> bool| {
            self.groups().find(|(_, g)| link(g, node).is_some_and(wanted)).map(|(n, _)| n)
        };
        let in_its_place = || {
            let dead =
                |l: &LinkStatus| l.in_place_of.as_ref().is_some_and(|n| self.silent(n).is_some());
            self.groups().find(|(_, g)| link(g, node).is_some_and(dead)).map(|(n, _)| n)
        };
        let routed = || {
            self.groups().find_map(|(_, g)| {
                let up = g.routes.iter().find(|(_, hops)| hops.iter().any(|h| h == node));
                up.map(|(up, _)| up.as_str())
            })
        };
        let found = connected
            .or_else(|| feeds(|l| l.state == "connected"))
            .or_else(in_its_place)
            .or_else(|| feeds(|l| l.in_place_of.is_none()))
            .or_else(routed)
            .or_else(|| feeds(|_| true))
            .or_else(|| own.map(|p| p.node.as_str()))?;
        Some(self.known(found).unwrap_or(found))
    }
}

/// What is said of one of a node's hops in its group.
pub(super) fn link<'a>(g: &'a GroupStatus, to: &str) -> Option<&'a LinkStatus> {
    g.children.iter().find(|c| c.node == to)
}
