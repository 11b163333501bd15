//! The checked topology: what every node is, and who sends what to whom.
//!
//! A [`Topology`] is made by [`Topology::compile`] only, so that whoever holds one need not check
//! anything again: routes form one tree per group, names are known, addresses are free, sizes are
//! within their limits. Plans are plain values with public fields.

use crate::address::HostPort;
use crate::allow::Allow;
use crate::limits;
use crate::suggest;
use crate::units::format_size;
use rcp::proto::ids::{GroupName, Label, NodeName};
use rcp::proto::transport::Hop;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Next hops by node: the content of `rcproute add` lines.
pub type RouteTable = BTreeMap<NodeName, Vec<NodeName>>;

/// A topology in which everything was checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topology {
    pub(crate) nodes: BTreeMap<NodeName, NodePlan>,
    pub(crate) groups: BTreeMap<GroupName, GroupPlan>,
    pub(crate) pki: Option<PathBuf>,
    pub(crate) source: Source,
}

/// The text that a topology was made from; no part of what it says.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    pub(crate) file: Arc<str>,
    pub(crate) text: Arc<str>,
}

impl PartialEq for Source {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Source {}

/// One data mover.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct NodePlan {
    /// Its name.
    pub name: NodeName,
    /// Where it listens: TCP for RCP and HTTP, UDP of the same number for QUIC.
    pub listen: HostPort,
    /// What other nodes dial; the same as `listen` unless written.
    pub address: HostPort,
    /// Data folder as written: relative to the folder of the topology file, or absolute.
    pub data: PathBuf,
    /// TCP address of the NBD server; without it only the Unix socket in the data folder.
    pub nbd: Option<HostPort>,
    /// Bound of everything that the node keeps in memory, in bytes.
    pub memory: u64,
    /// Listeners beyond loopback are allowed without encryption, and sessions without certificates.
    pub insecure_plaintext: bool,
    /// Who may open its NBD exports over TCP, where a volume does not say otherwise.
    pub nbd_allow: Option<Vec<Allow>>,
    /// Who may read metrics at the shared port.
    pub metrics: Door,
    /// Who may ask there whether the node is well.
    pub health: Door,
    /// Command (program, then arguments) by kind of control block.
    pub handlers: BTreeMap<String, Vec<String>>,
    /// For how long nothing is heard of a writer before the handler `writer-lost` is told.
    pub writer_lost: Duration,
}

/// Whether everybody who can connect may read something.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Door {
    /// Everybody.
    #[default]
    Open,
    /// Whoever shows a token with the scope `read`, or a certificate of a node.
    Closed,
}

impl Door {
    /// As written.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Closed => "closed",
        }
    }
}

/// A group: one primary, the tree below it, and the volumes that travel along it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct GroupPlan {
    /// Its name.
    pub name: GroupName,
    /// The only node that accepts writes.
    pub primary: NodeName,
    /// Next hops of every node that has some, in the order of the file; a tree below `primary`.
    pub routes: RouteTable,
    /// Volumes by label.
    pub volumes: Vec<VolumePlan>,
    /// When the primary closes a delta set, and what it does when room runs out.
    pub policy: Policy,
    /// Playback of replicas that `overrides` does not name.
    pub playback: Playback,
    /// What single nodes do differently.
    pub overrides: BTreeMap<NodeName, Override>,
    /// Members that keep no replica of their own.
    pub forward_only: BTreeSet<NodeName>,
    /// By the node that takes over as the writer: the routes that `rcpctl failover --adopt` makes.
    pub on_failover: BTreeMap<NodeName, RouteTable>,
    /// Whether the next hops of a node that is away are fed by the node above it (FWD-06).
    pub bypass: bool,
    /// By node, who feeds it when nobody above it does, in the order in which they are asked.
    pub fallbacks: BTreeMap<NodeName, Vec<NodeName>>,
    /// Nodes outside the group that may feed its members all the same.
    pub feeders: BTreeSet<NodeName>,
    /// How hops are crossed that say nothing of their own; the transport is always given.
    pub hop: Hop,
    /// What single hops say of their own, by sender and next hop.
    pub hops: BTreeMap<(NodeName, NodeName), Hop>,
    /// Members that dial their parent, which others are dialled by.
    pub dialling: BTreeSet<NodeName>,
    pub(crate) parents: BTreeMap<NodeName, NodeName>,
}

/// A volume of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct VolumePlan {
    /// Its label, unique in the topology.
    pub label: Label,
    /// Size in bytes, a multiple of the block size.
    pub size: u64,
    /// Block size in bytes, a power of two.
    pub block_size: u64,
    /// Backing files or devices of the nodes that name one; relative to the node's data folder.
    pub backing: BTreeMap<NodeName, PathBuf>,
    /// What the volume is called on the nodes that call it otherwise (VMC-03).
    pub labels: BTreeMap<NodeName, Label>,
    /// Capacity of the save volume in bytes, where a node's override does not say otherwise.
    pub save: u64,
    /// Capacity of the snapshot area in bytes.
    pub snapshot_area: u64,
    /// Who may open its NBD exports over TCP, on every node; goes before the node's list.
    pub nbd_allow: Option<Vec<Allow>>,
}

/// When a primary closes a delta set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Policy {
    /// High-water mark: bytes of modified data.
    pub hwm: u64,
    /// Time since the last cut.
    pub timeout: Duration,
    /// What happens when the save volume is full.
    pub on_full: OnFull,
    /// How long writes wait then, where they do.
    pub suspend_limit: Duration,
    /// What a stopped receiver that `overrides` does not name may hold back.
    pub keep: Keep,
    /// Replication goes on by itself after a restart (CAP-16).
    pub persistent: bool,
    /// What a primary that comes back needs before it lets writers in, once it had children.
    pub confirm: Confirm,
    /// Chunks are compressed where that pays; else never.
    pub compress: bool,
}

/// Who has to confirm to a primary that comes back that there is no newer writer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Confirm {
    /// One of its children.
    #[default]
    OneChild,
    /// One of its children, also where the volume is new: the node may have lost its disk.
    Always,
    /// So many of them, or all it has.
    Children(u32),
    /// Nobody.
    None,
}

/// When a replica plays back what it has received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Playback {
    /// Time to wait for more sets; zero plays every set at once.
    pub timeout: Duration,
    /// Bytes that end the waiting.
    pub hwm: u64,
    /// A replica that is older refuses reads; `None`: whatever its age, it is read.
    pub max_staleness: Option<Duration>,
    /// How replicas look through their content for damage.
    pub scrub: Scrub,
    /// Whether a replica is read.
    pub views: Views,
}

/// Whether a replica is read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Views {
    /// Every state that it reaches.
    #[default]
    Always,
    /// It mirrors: nothing, before a version is wanted.
    OnDemand,
}

impl Views {
    /// As in a topology.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Always => "always",
            Self::OnDemand => "on_demand",
        }
    }
}

/// How a replica looks through its content for damage, in the background.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scrub {
    /// Bytes per second; 0: it does not.
    pub rate: u64,
    /// From the end of one round to the beginning of the next.
    pub every: Duration,
}

impl Default for Scrub {
    fn default() -> Self {
        Self { rate: limits::DEFAULT_SCRUB, every: limits::DEFAULT_SCRUB_EVERY }
    }
}

impl Scrub {
    /// The rate as the file has it: `16MiB/s` or `off`.
    #[must_use]
    pub fn rate_words(self) -> String {
        match self.rate {
            0 => "off".to_owned(),
            rate => format!("{}/s", format_size(rate)),
        }
    }
}

/// What one node does differently from its group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Override {
    /// Playback timeout.
    pub timeout: Option<Duration>,
    /// Playback high-water mark in bytes.
    pub hwm: Option<u64>,
    /// The age from which on reads are refused.
    pub max_staleness: Option<Duration>,
    /// Bytes per second of the search for damage; 0: there is none.
    pub scrub: Option<u64>,
    /// From the end of one round of it to the beginning of the next.
    pub scrub_every: Option<Duration>,
    /// Whether it is read as a replica.
    pub views: Option<Views>,
    /// Capacity of each save volume of the group on this node, in bytes.
    pub save: Option<u64>,
    /// What it may hold back as a receiver, where that differs.
    pub keep: Keep,
}

/// The most that a stopped receiver may hold back in the save volume of the node that feeds it;
/// `None`: as much as there is room.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Keep {
    /// Bytes.
    pub bytes: Option<u64>,
    /// Delta sets.
    pub sets: Option<u64>,
    /// Time since it took something.
    pub time: Option<Duration>,
}

/// What a full save volume does to the stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum OnFull {
    /// The consumer that is furthest behind is detached, and returns by catch-up.
    #[default]
    Detach,
    /// Writes wait, for a bounded time; then the same.
    Suspend,
}

/// What a node is in one group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Takes the writes.
    Primary,
    /// Keeps a replica and sends on.
    Forwarder,
    /// Sends on without a replica of its own.
    ForwarderOnly,
    /// Keeps a replica, sends to nobody.
    Leaf,
}

/// A name that is not in the topology; `Display` says what was probably meant.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the topology has no {kind} `{name}`; {hint}")]
pub struct UnknownName {
    /// `node`, `group` or `volume`.
    pub kind: &'static str,
    /// What was asked for.
    pub name: String,
    /// The closest names, and the list.
    pub hint: String,
}

impl Topology {
    /// All nodes by name.
    pub fn nodes(&self) -> impl ExactSizeIterator<Item = &NodePlan> {
        self.nodes.values()
    }

    /// All groups by name.
    pub fn groups(&self) -> impl ExactSizeIterator<Item = &GroupPlan> {
        self.groups.values()
    }

    /// Folder of the certificates, as written: relative to the folder of the topology file, or
    /// absolute. Without it nothing is encrypted.
    #[must_use]
    pub fn pki(&self) -> Option<&Path> {
        self.pki.as_deref()
    }

    /// A node, if there is one of this name.
    #[must_use]
    pub fn node(&self, name: &NodeName) -> Option<&NodePlan> {
        self.nodes.get(name)
    }

    /// A group, if there is one of this name.
    #[must_use]
    pub fn group(&self, name: &GroupName) -> Option<&GroupPlan> {
        self.groups.get(name)
    }

    /// The groups that a node is a member of.
    pub fn groups_of(&self, node: &NodeName) -> impl Iterator<Item = &GroupPlan> {
        self.groups().filter(|g| g.is_member(node))
    }

    /// A volume and its group, by label.
    #[must_use]
    pub fn volume(&self, label: &Label) -> Option<(&GroupPlan, &VolumePlan)> {
        self.groups().find_map(|g| Some((g, g.volume(label)?)))
    }

    /// A node by whatever the operator typed.
    ///
    /// # Errors
    /// [`UnknownName`] with the closest names.
    pub fn require_node(&self, name: &str) -> Result<&NodePlan, UnknownName> {
        self.nodes()
            .find(|n| n.name.as_str() == name)
            .ok_or_else(|| unknown("node", name, self.nodes.keys().map(NodeName::as_str), "nodes"))
    }

    /// A group by whatever the operator typed.
    ///
    /// # Errors
    /// [`UnknownName`] with the closest names.
    pub fn require_group(&self, name: &str) -> Result<&GroupPlan, UnknownName> {
        self.groups().find(|g| g.name.as_str() == name).ok_or_else(|| {
            unknown("group", name, self.groups.keys().map(GroupName::as_str), "groups")
        })
    }

    /// A volume by whatever the operator typed.
    ///
    /// # Errors
    /// [`UnknownName`] with the closest names.
    pub fn require_volume(&self, label: &str) -> Result<(&GroupPlan, &VolumePlan), UnknownName> {
        let all = || self.groups().flat_map(|g| g.volumes.iter().map(move |v| (g, v)));
        all().find(|(_, v)| v.label.as_str() == label).ok_or_else(|| {
            let labels: Vec<_> = all().map(|(_, v)| v.label.as_str()).collect();
            unknown("volume", label, labels.iter().copied(), "volumes")
        })
    }
}

fn unknown<'a>(
    kind: &'static str,
    name: &str,
    known: impl IntoIterator<Item = &'a str> + Clone,
    plural: &str,
) -> UnknownName {
    let name: String = name.chars().take(60).collect();
    let hint = suggest::hint(&name, known, plural);
    UnknownName { kind, name, hint }
}

impl GroupPlan {
    /// Next hops of a node, in the order of the file; empty for a leaf.
    #[must_use]
    pub fn children(&self, node: &NodeName) -> &[NodeName] {
        self.routes.get(node).map_or(&[], Vec::as_slice)
    }

    /// How one hop is crossed.
    #[must_use]
    pub fn hop(&self, from: &NodeName, to: &NodeName) -> Hop {
        let own = self.hops.get(&(from.clone(), to.clone())).cloned().unwrap_or_default();
        own.or(&self.hop)
    }

    /// Who sends to this node; none for the primary.
    #[must_use]
    pub fn parent(&self, node: &NodeName) -> Option<&NodeName> {
        self.parents.get(node)
    }

    /// Whether the node is the primary or below it.
    #[must_use]
    pub fn is_member(&self, node: &NodeName) -> bool {
        *node == self.primary || self.parents.contains_key(node)
    }

    /// Every member, parents before their children, siblings in the order of the file.
    #[must_use]
    pub fn members(&self) -> Vec<&NodeName> {
        self.walk(&self.primary).collect()
    }

    /// What the node is in this group; none if it is no member.
    #[must_use]
    pub fn role(&self, node: &NodeName) -> Option<Role> {
        if *node == self.primary {
            Some(Role::Primary)
        } else if !self.is_member(node) {
            None
        } else if self.forward_only.contains(node) {
            Some(Role::ForwarderOnly)
        } else if self.children(node).is_empty() {
            Some(Role::Leaf)
        } else {
            Some(Role::Forwarder)
        }
    }

    /// The routes of the subtree that begins at a node, its own entry included (ROUTE-04): what a
    /// parent needs in order to bypass a child that died.
    #[must_use]
    pub fn below(&self, node: &NodeName) -> RouteTable {
        self.walk(node).filter_map(|n| Some((n.clone(), self.routes.get(n)?.clone()))).collect()
    }

    /// The way from the primary to a node, both included; empty if it is no member.
    #[must_use]
    pub fn path(&self, node: &NodeName) -> Vec<&NodeName> {
        let mut path = Vec::new();
        let mut at = if *node == self.primary {
            Some(&self.primary)
        } else {
            self.parents.get_key_value(node).map(|(n, _)| n)
        };
        while let Some(n) = at {
            path.push(n);
            at = self.parent(n);
        }
        path.reverse();
        path
    }

    /// A volume of this group.
    #[must_use]
    pub fn volume(&self, label: &Label) -> Option<&VolumePlan> {
        self.volumes.iter().find(|v| v.label == *label)
    }

    /// Playback policy of one node.
    #[must_use]
    pub fn playback_for(&self, node: &NodeName) -> Playback {
        let own = self.overrides.get(node).copied().unwrap_or_default();
        Playback {
            timeout: own.timeout.unwrap_or(self.playback.timeout),
            hwm: own.hwm.unwrap_or(self.playback.hwm),
            max_staleness: own.max_staleness.or(self.playback.max_staleness),
            scrub: Scrub {
                rate: own.scrub.unwrap_or(self.playback.scrub.rate),
                every: own.scrub_every.unwrap_or(self.playback.scrub.every),
            },
            views: own.views.unwrap_or(self.playback.views),
        }
    }

    /// What one node may hold back as a receiver.
    #[must_use]
    pub fn keep_for(&self, receiver: &NodeName) -> Keep {
        let own = self.overrides.get(receiver).map(|o| o.keep).unwrap_or_default();
        Keep {
            bytes: own.bytes.or(self.policy.keep.bytes),
            sets: own.sets.or(self.policy.keep.sets),
            time: own.time.or(self.policy.keep.time),
        }
    }

    /// Capacity of a volume's save volume on one node, in bytes.
    #[must_use]
    pub fn save_for(&self, volume: &VolumePlan, node: &NodeName) -> u64 {
        self.overrides.get(node).and_then(|o| o.save).unwrap_or(volume.save)
    }

    /// The node and everything below it. Ends, because routes are a tree.
    fn walk<'a>(&'a self, from: &'a NodeName) -> impl Iterator<Item = &'a NodeName> {
        let mut stack = vec![from];
        std::iter::from_fn(move || {
            let node = stack.pop()?;
            stack.extend(self.children(node).iter().rev());
            Some(node)
        })
    }
}

impl VolumePlan {
    /// Size in blocks.
    #[must_use]
    pub fn blocks(&self) -> u64 {
        self.size / self.block_size
    }

    /// What the volume is called on one node.
    #[must_use]
    pub fn label_at(&self, node: &NodeName) -> &Label {
        self.labels.get(node).unwrap_or(&self.label)
    }

    /// Backing file or device on one node; none means the file in the node's data folder.
    #[must_use]
    pub fn backing_for(&self, node: &NodeName) -> Option<&Path> {
        self.backing.get(node).map(PathBuf::as_path)
    }
}

impl Role {
    /// Keeps a volume: the primary's own, or a replica.
    #[must_use]
    pub fn has_replica(self) -> bool {
        self != Self::ForwarderOnly
    }

    /// The word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Primary => "primary",
            Self::Forwarder => "forwarder",
            Self::ForwarderOnly => "forwarder only",
            Self::Leaf => "leaf",
        }
    }
}

impl std::fmt::Display for Role {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.as_str())
    }
}

impl OnFull {
    /// The word for it in the file.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Detach => "detach",
            Self::Suspend => "suspend",
        }
    }
}

impl std::fmt::Display for Confirm {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::OneChild => f.write_str("one_child"),
            Self::Always => f.write_str("always"),
            Self::Children(n) => n.fmt(f),
            Self::None => f.write_str("none"),
        }
    }
}
