//! Who feeds whom, as far as the nodes that answered know.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::{Answer, link};
use crate::api::{GroupStatus, LinkStatus, NodeStatus, VolumeInfo};

/// The tree of one volume.
#[derive(Debug)]
pub(super) struct Tree<'a> {
    /// What its group calls the volume.
    pub(super) name: &'a str,
    pub(super) group_name: &'a str,
    nodes: BTreeMap<&'a str, &'a NodeStatus>,
    silent: BTreeMap<&'a str, &'a str>,
    volumes: BTreeMap<&'a str, &'a VolumeInfo>,
}

impl<'a> Tree<'a> {
    pub(super) fn of(volume: &str, answers: &[Answer<'a>]) -> Option<Self> {
        let mut nodes = BTreeMap::new();
        let mut silent = BTreeMap::new();
        for a in answers {
            match a.status {
                Ok(status) => drop(nodes.insert(status.node.as_str(), status)),
                Err(why) => drop(silent.insert(a.node, why)),
            }
        }
        let called = |s: &&'a NodeStatus| s.volumes.iter().find(|v| v.is_called(volume));
        // A label of one member may be another volume's elsewhere: the writer's word counts first.
        let found = nodes.values().filter_map(called);
        let meant = found.min_by_key(|v| (v.role != "primary", v.in_group() != volume))?;
        let same = |s: &&'a NodeStatus| s.volumes.iter().find(|v| v.id == meant.id);
        let volumes = nodes.iter().filter_map(|(n, s)| Some((*n, same(s)?))).collect();
        Some(Self { name: meant.in_group(), group_name: &meant.group, nodes, silent, volumes })
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
        let silent = || self.silent.get_key_value(node).map(|(n, _)| *n);
        let told = || self.groups().find_map(|(_, g)| Some(link(g, node)?.node.as_str()));
        asked.or_else(silent).or_else(told)
    }

    /// The newest writer that answered.
    pub(super) fn writer(&self) -> Option<&'a str> {
        let writes = self.volumes.iter().filter(|(_, v)| v.role == "primary");
        writes.max_by_key(|(_, v)| (v.fenced.is_none(), v.history.len())).map(|(n, _)| *n)
    }

    /// Why a node is taken for one that is not there: it did not answer, and nobody is connected to
    /// it. One that others hear of cannot be asked from here, and is not the cause of anything.
    pub(super) fn silent(&self, node: &str) -> Option<&'a str> {
        let why = self.silent.get(node).copied()?;
        let heard = |(_, g): (&str, &GroupStatus)| {
            let up = |l: &LinkStatus| l.node == node && l.state == "connected";
            g.children.iter().any(up) || g.parent.as_ref().is_some_and(up)
        };
        (!self.groups().any(heard)).then_some(why)
    }

    pub(super) fn has_answered(&self, node: &str) -> bool {
        self.nodes.contains_key(node)
    }

    /// A moment so long ago at a node.
    pub(super) fn ago(&self, node: &str, seconds: f64) -> u64 {
        let at = self.nodes.get(node).map_or(0, |s| s.at_us);
        let ago = Duration::try_from_secs_f64(seconds).unwrap_or_default();
        at.saturating_sub(u64::try_from(ago.as_micros()).unwrap_or(u64::MAX))
    }

    /// What `from` says of its hop to `to`.
    pub(super) fn link(&self, from: &str, to: &str) -> Option<&'a LinkStatus> {
        match self.group(from) {
            Some(g) => link(g, to),
            None => self.group(to)?.parent.as_ref().filter(|p| p.node == from),
        }
    }

    /// What the node above says of the hop to a node.
    pub(super) fn hop_above(&self, node: &str) -> Option<&'a LinkStatus> {
        self.groups().find_map(|(_, g)| link(g, node))
    }

    /// Nodes that have a copy, or should have.
    pub(super) fn copies(&self) -> Vec<&'a str> {
        let there = self.volumes.iter().filter(|(_, v)| v.role == "replica").map(|(n, _)| *n);
        let missing = |n: &&'a str| {
            let routed = |(_, g): (&str, &GroupStatus)| {
                link(g, n).is_some() || g.routes.values().flatten().any(|hop| hop == n)
            };
            self.silent(n).is_some() && self.groups().any(routed)
        };
        let gone = self.silent.keys().copied().filter(missing);
        // It answers, and its group has not reached it yet.
        let empty = |n: &&'a str| {
            let role = self.group(n).map(|g| g.role.as_str());
            self.volume(n).is_none() && matches!(role, Some("leaf" | "forwarder"))
        };
        let empty = self.nodes.keys().copied().filter(empty);
        there.chain(gone).chain(empty).collect::<BTreeSet<_>>().into_iter().collect()
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
        let routed = || {
            self.groups().find_map(|(_, g)| {
                let up = g.routes.iter().find(|(_, hops)| hops.iter().any(|h| h == node));
                up.map(|(up, _)| up.as_str())
            })
        };
        let found = connected
            .or_else(|| feeds(|l| l.state == "connected"))
            .or_else(|| feeds(|l| l.in_place_of.is_none()))
            .or_else(routed)
            .or_else(|| feeds(|_| true))
            .or_else(|| own.map(|p| p.node.as_str()))?;
        Some(self.known(found).unwrap_or(found))
    }
}
