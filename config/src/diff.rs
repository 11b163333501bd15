//! What changes for one node between two topologies, or between a topology and the routes that a
//! node has stored. A diff can be turned round, which is roll-back.

use crate::allow::Allow;
use crate::plan::{GroupPlan, Keep, NodePlan, Playback, Policy, RouteTable, Topology, VolumePlan};
use crate::units::{format_duration, format_size};
use rcp::proto::ids::{GroupName, NodeName};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// What a node has to do to get from one topology to another; empty if nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeDiff {
    /// The node that is looked at.
    pub node: NodeName,
    /// The changes, those of the node first, then by group.
    pub changes: Vec<Change>,
}

/// One change. `Display` is a line for the operator.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Change {
    /// The node is new in the topology.
    NodeAdded(NodePlan),
    /// The node is no longer in the topology.
    NodeRemoved(NodePlan),
    /// Addresses, data folder or memory; a restart is needed.
    Node {
        /// Before.
        from: Box<NodePlan>,
        /// After.
        to: Box<NodePlan>,
    },
    /// The node becomes a member of a group.
    Joined(GroupName),
    /// The node is no longer a member of a group.
    Left(GroupName),
    /// The group has another primary.
    Primary {
        /// Which group.
        group: GroupName,
        /// Before.
        from: NodeName,
        /// After.
        to: NodeName,
    },
    /// This node receives from another parent.
    Parent {
        /// Which group.
        group: GroupName,
        /// Before; none where the node was the primary.
        from: Option<NodeName>,
        /// After; none where the node becomes the primary.
        to: Option<NodeName>,
    },
    /// A next hop more or less, at the node or below it.
    Route {
        /// Which group.
        group: GroupName,
        /// What happened to the route.
        change: RouteDiff,
    },
    /// The node keeps a replica from now on, or no longer.
    KeepsReplica {
        /// Which group.
        group: GroupName,
        /// Whether it does afterwards.
        now: bool,
    },
    /// A volume more.
    VolumeAdded {
        /// Which group.
        group: GroupName,
        /// What it will be.
        volume: VolumePlan,
    },
    /// A volume less.
    VolumeRemoved {
        /// Which group.
        group: GroupName,
        /// What it was.
        volume: VolumePlan,
    },
    /// Size, backing, label or capacities of a volume, as they are for this node.
    Volume {
        /// Which group.
        group: GroupName,
        /// Before.
        from: Box<VolumePlan>,
        /// After.
        to: Box<VolumePlan>,
    },
    /// The primary's policy.
    Policy {
        /// Which group.
        group: GroupName,
        /// Before.
        from: Policy,
        /// After.
        to: Policy,
    },
    /// This node's playback.
    Playback {
        /// Which group.
        group: GroupName,
        /// Before.
        from: Playback,
        /// After.
        to: Playback,
    },
    /// What a receiver that this node feeds may hold back.
    Keep {
        /// Which group.
        group: GroupName,
        /// Which receiver.
        receiver: NodeName,
        /// Before.
        from: Keep,
        /// After.
        to: Keep,
    },
}

/// One next hop that is in one table and not in the other.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RouteDiff {
    /// Who sends.
    pub node: NodeName,
    /// To whom.
    pub next_hop: NodeName,
    /// In the new table only; otherwise in the old one only.
    pub added: bool,
}

/// Next hops in which two tables differ, by node; their order is no difference. For the drift
/// between a topology and a stored table: `old` is what rules, `new` what the file says.
#[must_use]
pub fn routes(old: &RouteTable, new: &RouteTable) -> Vec<RouteDiff> {
    let pairs = |t: &RouteTable| -> BTreeSet<(NodeName, NodeName)> {
        t.iter().flat_map(|(n, hops)| hops.iter().map(|h| (n.clone(), h.clone()))).collect()
    };
    let (old, new) = (pairs(old), pairs(new));
    old.symmetric_difference(&new)
        .map(|pair| RouteDiff {
            added: new.contains(pair),
            node: pair.0.clone(),
            next_hop: pair.1.clone(),
        })
        .collect()
}

impl NodeDiff {
    /// What changes for `node`.
    #[must_use]
    pub fn between(old: &Topology, new: &Topology, node: &NodeName) -> Self {
        let mut changes = Vec::new();
        match (old.node(node), new.node(node)) {
            (None, Some(n)) => changes.push(Change::NodeAdded(n.clone())),
            (Some(n), None) => changes.push(Change::NodeRemoved(n.clone())),
            (Some(a), Some(b)) if a != b => {
                changes.push(Change::Node { from: Box::new(a.clone()), to: Box::new(b.clone()) })
            }
            _ => {}
        }
        let names: BTreeSet<&GroupName> =
            old.groups_of(node).chain(new.groups_of(node)).map(|g| &g.name).collect();
        for name in names {
            let member = |t: &Topology| t.group(name).is_some_and(|g| g.is_member(node));
            match (member(old), member(new)) {
                (false, true) => changes.push(Change::Joined(name.clone())),
                (true, false) => changes.push(Change::Left(name.clone())),
                _ => {}
            }
            if let (Some(a), Some(b)) = (old.group(name), new.group(name)) {
                group(a, b, node, &mut changes);
            }
        }
        Self { node: node.clone(), changes }
    }

    /// Nothing changes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// The way back.
    #[must_use]
    pub fn reversed(&self) -> Self {
        Self {
            node: self.node.clone(),
            changes: self.changes.iter().map(Change::reversed).collect(),
        }
    }
}

fn group(a: &GroupPlan, b: &GroupPlan, node: &NodeName, changes: &mut Vec<Change>) {
    let group = || a.name.clone();
    if a.primary != b.primary {
        let (from, to) = (a.primary.clone(), b.primary.clone());
        changes.push(Change::Primary { group: group(), from, to });
    }
    let both = a.is_member(node) && b.is_member(node);
    if both && a.parent(node) != b.parent(node) {
        let (from, to) = (a.parent(node).cloned(), b.parent(node).cloned());
        changes.push(Change::Parent { group: group(), from, to });
    }
    for change in routes(&a.below(node), &b.below(node)) {
        changes.push(Change::Route { group: group(), change });
    }
    if !both {
        return;
    }
    let keeps = |g: &GroupPlan| g.role(node).is_some_and(|r| r.has_replica());
    if keeps(a) != keeps(b) {
        changes.push(Change::KeepsReplica { group: group(), now: keeps(b) });
    }
    for v in &a.volumes {
        let from = for_node(a, v, node);
        match b.volume(&v.label).map(|v| for_node(b, v, node)) {
            None => changes.push(Change::VolumeRemoved { group: group(), volume: from }),
            Some(to) if to != from => changes.push(Change::Volume {
                group: group(),
                from: Box::new(from),
                to: Box::new(to),
            }),
            Some(_) => {}
        }
    }
    for v in b.volumes.iter().filter(|v| a.volume(&v.label).is_none()) {
        changes.push(Change::VolumeAdded { group: group(), volume: for_node(b, v, node) });
    }
    if a.policy != b.policy {
        changes.push(Change::Policy { group: group(), from: a.policy, to: b.policy });
    }
    let (from, to) = (a.playback_for(node), b.playback_for(node));
    if from != to {
        changes.push(Change::Playback { group: group(), from, to });
    }
    // What changes for all is told as the policy.
    let own = |g: &GroupPlan, n: &NodeName| g.overrides.get(n).map(|o| o.keep).unwrap_or_default();
    let fed = |g: &GroupPlan| g.routes.get(node).cloned().unwrap_or_default();
    let fed: BTreeSet<NodeName> = fed(a).into_iter().chain(fed(b)).collect();
    for receiver in fed.iter().filter(|n| own(a, n) != own(b, n)) {
        let (from, to) = (a.keep_for(receiver), b.keep_for(receiver));
        changes.push(Change::Keep { group: group(), receiver: receiver.clone(), from, to });
    }
}

/// The volume as one node has it: its own backing only, its own save capacity.
fn for_node(group: &GroupPlan, volume: &VolumePlan, node: &NodeName) -> VolumePlan {
    let mut own = volume.clone();
    own.backing.retain(|n, _| n == node);
    own.labels.retain(|n, _| n == node);
    own.save = group.save_for(volume, node);
    own
}

impl Change {
    /// The way back.
    #[must_use]
    pub fn reversed(&self) -> Self {
        match self.clone() {
            Self::NodeAdded(n) => Self::NodeRemoved(n),
            Self::NodeRemoved(n) => Self::NodeAdded(n),
            Self::Node { from, to } => Self::Node { from: to, to: from },
            Self::Joined(g) => Self::Left(g),
            Self::Left(g) => Self::Joined(g),
            Self::Primary { group, from, to } => Self::Primary { group, from: to, to: from },
            Self::Parent { group, from, to } => Self::Parent { group, from: to, to: from },
            Self::Route { group, change } => {
                Self::Route { group, change: RouteDiff { added: !change.added, ..change } }
            }
            Self::KeepsReplica { group, now } => Self::KeepsReplica { group, now: !now },
            Self::VolumeAdded { group, volume } => Self::VolumeRemoved { group, volume },
            Self::VolumeRemoved { group, volume } => Self::VolumeAdded { group, volume },
            Self::Volume { group, from, to } => Self::Volume { group, from: to, to: from },
            Self::Policy { group, from, to } => Self::Policy { group, from: to, to: from },
            Self::Playback { group, from, to } => Self::Playback { group, from: to, to: from },
            Self::Keep { group, receiver, from, to } => {
                Self::Keep { group, receiver, from: to, to: from }
            }
        }
    }

    /// Takes effect only when the daemon is started again.
    #[must_use]
    pub fn needs_restart(&self) -> bool {
        matches!(self, Self::Node { .. })
    }
}

impl fmt::Display for RouteDiff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.added { '+' } else { '-' };
        write!(f, "{sign} route {} → {}", self.node, self.next_hop)
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let or_none = |n: &Option<NodeName>| {
            n.as_ref().map_or("none (primary)".to_owned(), ToString::to_string)
        };
        match self {
            Self::NodeAdded(n) => write!(f, "+ node {}", n.name),
            Self::NodeRemoved(n) => write!(f, "- node {}", n.name),
            Self::Node { from, to } => {
                write!(f, "~ node {}: {}", to.name, fields(node_fields(from), node_fields(to)))
            }
            Self::Joined(g) => write!(f, "+ {g}: becomes a member"),
            Self::Left(g) => write!(f, "- {g}: no longer a member"),
            Self::Primary { group, from, to } => write!(f, "~ {group}: primary {from} → {to}"),
            Self::Parent { group, from, to } => {
                write!(f, "~ {group}: parent {} → {}", or_none(from), or_none(to))
            }
            Self::Route { group, change } => {
                let sign = if change.added { '+' } else { '-' };
                write!(f, "{sign} {group}: route {} → {}", change.node, change.next_hop)
            }
            Self::KeepsReplica { group, now: true } => write!(f, "~ {group}: keeps a replica"),
            Self::KeepsReplica { group, now: false } => {
                write!(f, "~ {group}: no longer keeps a replica")
            }
            Self::VolumeAdded { group, volume } => {
                write!(f, "+ {group}: volume {}, {}", volume.label, format_size(volume.size))
            }
            Self::VolumeRemoved { group, volume } => {
                write!(f, "- {group}: volume {}, {}", volume.label, format_size(volume.size))
            }
            Self::Volume { group, from, to } => write!(
                f,
                "~ {group}: volume {}: {}",
                to.label,
                fields(volume_fields(from), volume_fields(to))
            ),
            Self::Policy { group, from, to } => {
                write!(f, "~ {group}: policy: {}", fields(policy_fields(from), policy_fields(to)))
            }
            Self::Playback { group, from, to } => write!(
                f,
                "~ {group}: playback: {}",
                fields(playback_fields(from), playback_fields(to))
            ),
            Self::Keep { group, receiver, from, to } => write!(
                f,
                "~ {group}: receiver {receiver}: {}",
                fields(keep_fields(*from), keep_fields(*to))
            ),
        }
    }
}

type Fields = Vec<(&'static str, String)>;

/// `name before → after` of the fields that differ.
fn fields(from: Fields, to: Fields) -> String {
    let differ = from.into_iter().zip(to).filter(|(a, b)| a.1 != b.1);
    differ.map(|(a, b)| format!("{} {} → {}", a.0, a.1, b.1)).collect::<Vec<_>>().join(", ")
}

fn node_fields(n: &NodePlan) -> Fields {
    vec![
        ("listen", n.listen.to_string()),
        ("address", n.address.to_string()),
        ("data", n.data.display().to_string()),
        ("nbd", n.nbd.as_ref().map_or("none".to_owned(), ToString::to_string)),
        ("memory", format_size(n.memory)),
        ("nbd_allow", allow(n.nbd_allow.as_deref())),
        ("insecure_plaintext", n.insecure_plaintext.to_string()),
        ("metrics", n.metrics.as_str().to_owned()),
        ("health", n.health.as_str().to_owned()),
        ("handlers", lists(&n.handlers)),
        ("writer_lost", format_duration(n.writer_lost)),
    ]
}

fn allow(list: Option<&[Allow]>) -> String {
    let items = |l: &[Allow]| l.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    list.map_or("not given".to_owned(), |l| format!("[{}]", items(l)))
}

/// `key [item, item], key …`.
fn lists<K: ToString, V: ToString>(map: &BTreeMap<K, Vec<V>>) -> String {
    let items = |v: &Vec<V>| v.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let all: Vec<_> =
        map.iter().map(|(k, v)| format!("{} [{}]", k.to_string(), items(v))).collect();
    if all.is_empty() { "none".to_owned() } else { all.join(", ") }
}

fn volume_fields(v: &VolumePlan) -> Fields {
    let backing = v.backing.values().next();
    vec![
        ("size", format_size(v.size)),
        ("block_size", format_size(v.block_size)),
        ("backing", backing.map_or("data folder".to_owned(), |p| p.display().to_string())),
        ("as", v.labels.values().next().unwrap_or(&v.label).to_string()),
        ("save", format_size(v.save)),
        ("snapshot_area", format_size(v.snapshot_area)),
        ("nbd_allow", allow(v.nbd_allow.as_deref())),
    ]
}

fn keep_fields(k: Keep) -> Fields {
    let none = || "none".to_owned();
    vec![
        ("keep_bytes", k.bytes.map_or_else(none, format_size)),
        ("keep_sets", k.sets.map_or_else(none, |n| n.to_string())),
        ("keep_time", k.time.map_or_else(none, format_duration)),
    ]
}

fn policy_fields(p: &Policy) -> Fields {
    let mut all = keep_fields(p.keep);
    all.extend([
        ("hwm", format_size(p.hwm)),
        ("timeout", format_duration(p.timeout)),
        ("on_full", p.on_full.as_str().to_owned()),
        ("suspend_limit", format_duration(p.suspend_limit)),
        ("persistent", p.persistent.to_string()),
        ("confirm", p.confirm.to_string()),
        ("compress", p.compress.to_string()),
    ]);
    all
}

fn playback_fields(p: &Playback) -> Fields {
    vec![
        ("timeout", format_duration(p.timeout)),
        ("hwm", format_size(p.hwm)),
        ("max_staleness", p.max_staleness.map_or("none".to_owned(), format_duration)),
        ("scrub", p.scrub.rate_words()),
        ("scrub_every", format_duration(p.scrub.every)),
        ("views", p.views.as_str().to_owned()),
    ]
}
