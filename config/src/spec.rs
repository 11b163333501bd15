//! A topology as plain, unchecked values: for writing one in a program, and as the canonical text
//! of a compiled one.
//!
//! A [`TopologySpec`] becomes a [`Topology`] only through text: it is written as YAML and
//! compiled, so that there is one set of rules. `Topology::to_spec` writes every value out, also
//! those that were defaults.

use crate::allow::Allow;
use crate::diagnostics::Diagnostics;
use crate::limits::{DEFAULT_WRITER_LOST, VERSION};
use crate::plan::{GroupPlan, NodePlan, OnFull, Override, Scrub, Topology, VolumePlan};
use crate::units::{format_duration, format_size};
use crate::yaml;
use rcp::proto::ids::NodeName;
use serde::Serialize;
use std::collections::BTreeMap;

/// A whole topology file. Fields carry the names and forms of the file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[allow(missing_docs)] // the names are those of docs/topology.md
pub struct TopologySpec {
    pub version: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pki: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub transport: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub congestion: Option<String>,
    #[serde(skip_serializing_if = "DefaultsSpec::is_empty", serialize_with = "yaml::flow_map")]
    pub defaults: DefaultsSpec,
    pub nodes: BTreeMap<String, NodeSpec>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub groups: BTreeMap<String, GroupSpec>,
}

/// `defaults:` of a file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[allow(missing_docs)]
pub struct DefaultsSpec {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub save: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub snapshot_area: Option<String>,
}

/// One node of a file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[allow(missing_docs)]
pub struct NodeSpec {
    pub listen: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    pub data: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nbd: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "yaml::flow_list_if_there")]
    pub nbd_allow: Option<Vec<String>>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub insecure_plaintext: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metrics: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub health: Option<String>,
    /// Command by kind of control block.
    #[serde(
        skip_serializing_if = "BTreeMap::is_empty",
        serialize_with = "yaml::map_of_flow_lists"
    )]
    pub handlers: BTreeMap<String, Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub writer_lost: Option<String>,
}

/// One group of a file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[allow(missing_docs)]
pub struct GroupSpec {
    pub primary: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub transport: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub congestion: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty", serialize_with = "yaml::flow_list")]
    pub feeders: Vec<String>,
    #[serde(
        skip_serializing_if = "BTreeMap::is_empty",
        serialize_with = "yaml::map_of_flow_lists"
    )]
    pub routes: BTreeMap<String, Vec<HopSpec>>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub volumes: BTreeMap<String, VolumeSpec>,
    #[serde(skip_serializing_if = "PolicySpec::is_empty", serialize_with = "yaml::flow_map")]
    pub policy: PolicySpec,
    #[serde(skip_serializing_if = "PlaybackSpec::is_empty", serialize_with = "yaml::flow_map")]
    pub playback: PlaybackSpec,
    #[serde(skip_serializing_if = "BTreeMap::is_empty", serialize_with = "yaml::map_of_flow_maps")]
    pub overrides: BTreeMap<String, PlaybackSpec>,
    #[serde(skip_serializing_if = "Vec::is_empty", serialize_with = "yaml::flow_list")]
    pub forward_only: Vec<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub on_failover: BTreeMap<String, BTreeMap<String, Vec<String>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bypass: Option<bool>,
    #[serde(
        skip_serializing_if = "BTreeMap::is_empty",
        serialize_with = "yaml::map_of_flow_lists"
    )]
    pub fallbacks: BTreeMap<String, Vec<String>>,
}

/// A next hop of a file: its name, or a mapping where it says more.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct HopSpec {
    pub node: String,
    pub transport: Option<String>,
    pub congestion: Option<String>,
    pub via: Option<String>,
    pub ca: Option<String>,
    pub limit: Option<String>,
    pub connections: Option<String>,
    pub dial: Option<String>,
}

impl From<&str> for HopSpec {
    fn from(node: &str) -> Self {
        Self { node: node.to_owned(), ..Self::default() }
    }
}

impl From<String> for HopSpec {
    fn from(node: String) -> Self {
        Self { node, ..Self::default() }
    }
}

impl Serialize for HopSpec {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let said = [
            ("transport", &self.transport),
            ("congestion", &self.congestion),
            ("via", &self.via),
            ("ca", &self.ca),
            ("limit", &self.limit),
            ("connections", &self.connections),
            ("dial", &self.dial),
        ];
        let said = said.into_iter().filter_map(|(k, v)| Some((k, v.as_ref()?)));
        if said.clone().next().is_none() {
            return serializer.serialize_str(&self.node);
        }
        serializer.collect_map(std::iter::once(("node", &self.node)).chain(said))
    }
}

/// One volume of a file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[allow(missing_docs)]
pub struct VolumeSpec {
    pub size: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub block_size: Option<String>,
    /// By node.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", serialize_with = "yaml::flow_map")]
    pub backing: BTreeMap<String, String>,
    /// Labels by node, where they differ.
    #[serde(
        rename = "as",
        skip_serializing_if = "BTreeMap::is_empty",
        serialize_with = "yaml::flow_map"
    )]
    pub labels: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub save: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub snapshot_area: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "yaml::flow_list_if_there")]
    pub nbd_allow: Option<Vec<String>>,
}

/// `policy:` of a group.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[allow(missing_docs)]
pub struct PolicySpec {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hwm: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_full: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub suspend_limit: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keep_bytes: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keep_sets: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keep_time: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub persistent: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub confirm: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compress: Option<bool>,
}

/// `playback:` of a group, or what one node does differently (`save` and `keep_*` only there).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[allow(missing_docs)]
pub struct PlaybackSpec {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hwm: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_staleness: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scrub: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scrub_every: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub views: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub save: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keep_bytes: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keep_sets: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keep_time: Option<String>,
}

/// A specification that cannot be written as text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the topology cannot be written as YAML: {0}")]
pub struct WriteError(String);

impl Default for TopologySpec {
    fn default() -> Self {
        Self {
            version: VERSION,
            pki: None,
            transport: None,
            congestion: None,
            defaults: DefaultsSpec::default(),
            nodes: BTreeMap::new(),
            groups: BTreeMap::new(),
        }
    }
}

impl DefaultsSpec {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl PolicySpec {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl PlaybackSpec {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl TopologySpec {
    /// The text of the file.
    ///
    /// # Errors
    /// Only if the YAML writer refuses, which it has no reason to.
    pub fn to_yaml(&self) -> Result<String, WriteError> {
        yaml::write(self).map_err(WriteError)
    }

    /// Checks the topology, by way of its text.
    ///
    /// # Errors
    /// [`Diagnostics`] about the text that [`TopologySpec::to_yaml`] gives.
    pub fn compile(&self, file_name: &str) -> Result<Topology, Diagnostics> {
        // should the writer refuse, what it has is empty, and so is reported
        Topology::compile(&self.to_yaml().unwrap_or_default(), file_name)
    }
}

impl Topology {
    /// The topology as plain values, with everything written out.
    #[must_use]
    pub fn to_spec(&self) -> TopologySpec {
        TopologySpec {
            pki: self.pki.as_ref().map(|p| p.to_string_lossy().into_owned()),
            nodes: self.nodes().map(|n| (n.name.to_string(), node(n))).collect(),
            groups: self.groups().map(|g| (g.name.to_string(), group(g))).collect(),
            ..TopologySpec::default()
        }
    }

    /// Canonical text, which compiles to an equal topology.
    ///
    /// # Errors
    /// As [`TopologySpec::to_yaml`].
    pub fn to_yaml(&self) -> Result<String, WriteError> {
        self.to_spec().to_yaml()
    }
}

fn allow(list: Option<&[Allow]>) -> Option<Vec<String>> {
    list.map(|l| l.iter().map(ToString::to_string).collect())
}

fn node(n: &NodePlan) -> NodeSpec {
    NodeSpec {
        listen: n.listen.to_string(),
        address: (n.address != n.listen).then(|| n.address.to_string()),
        data: n.data.to_string_lossy().into_owned(),
        nbd: n.nbd.as_ref().map(ToString::to_string),
        memory: Some(format_size(n.memory)),
        nbd_allow: allow(n.nbd_allow.as_deref()),
        insecure_plaintext: n.insecure_plaintext,
        metrics: Some(n.metrics.as_str().to_owned()),
        health: Some(n.health.as_str().to_owned()),
        handlers: n.handlers.clone(),
        writer_lost: (n.writer_lost != DEFAULT_WRITER_LOST).then(|| format_duration(n.writer_lost)),
    }
}

fn group(g: &GroupPlan) -> GroupSpec {
    let hop = |from: &NodeName, to: &NodeName| {
        let own = g.hops.get(&(from.clone(), to.clone())).cloned().unwrap_or_default();
        HopSpec {
            node: to.to_string(),
            transport: own.transport.map(|t| t.to_string()),
            congestion: own.congestion.map(|c| c.to_string()),
            via: own.via.map(|v| v.to_string()),
            ca: own.ca,
            limit: own.limit.map(|l| l.to_string()),
            connections: own.connections.map(|n| n.to_string()),
            dial: g.dialling.contains(to).then(|| "child".to_owned()),
        }
    };
    GroupSpec {
        primary: g.primary.to_string(),
        transport: g.hop.transport.map(|t| t.to_string()),
        congestion: g.hop.congestion.map(|c| c.to_string()),
        feeders: g.feeders.iter().map(ToString::to_string).collect(),
        routes: g
            .routes
            .iter()
            .map(|(n, hops)| (n.to_string(), hops.iter().map(|h| hop(n, h)).collect()))
            .collect(),
        volumes: g.volumes.iter().map(|v| (v.label.to_string(), volume(v))).collect(),
        policy: PolicySpec {
            hwm: Some(format_size(g.policy.hwm)),
            timeout: Some(format_duration(g.policy.timeout)),
            on_full: Some(g.policy.on_full.as_str().to_owned()),
            suspend_limit: (g.policy.on_full == OnFull::Suspend)
                .then(|| format_duration(g.policy.suspend_limit)),
            keep_bytes: g.policy.keep.bytes.map(format_size),
            keep_sets: g.policy.keep.sets,
            keep_time: g.policy.keep.time.map(format_duration),
            persistent: Some(g.policy.persistent),
            confirm: Some(g.policy.confirm.to_string()),
            compress: Some(g.policy.compress),
        },
        playback: PlaybackSpec {
            timeout: Some(format_duration(g.playback.timeout)),
            hwm: Some(format_size(g.playback.hwm)),
            max_staleness: g.playback.max_staleness.map(format_duration),
            scrub: Some(g.playback.scrub.rate_words()),
            scrub_every: Some(format_duration(g.playback.scrub.every)),
            views: Some(g.playback.views.as_str().to_owned()),
            ..PlaybackSpec::default()
        },
        overrides: g.overrides.iter().map(|(n, o)| (n.to_string(), own(o))).collect(),
        forward_only: g.forward_only.iter().map(ToString::to_string).collect(),
        bypass: Some(g.bypass),
        fallbacks: g
            .fallbacks
            .iter()
            .map(|(n, list)| (n.to_string(), list.iter().map(ToString::to_string).collect()))
            .collect(),
        on_failover: g
            .on_failover
            .iter()
            .map(|(to, table)| {
                let names = |h: &[NodeName]| h.iter().map(ToString::to_string).collect();
                let routes = table.iter().map(|(n, hops)| (n.to_string(), names(hops)));
                (to.to_string(), routes.collect())
            })
            .collect(),
    }
}

fn own(o: &Override) -> PlaybackSpec {
    PlaybackSpec {
        timeout: o.timeout.map(format_duration),
        hwm: o.hwm.map(format_size),
        max_staleness: o.max_staleness.map(format_duration),
        scrub: o.scrub.map(|rate| Scrub { rate, ..Scrub::default() }.rate_words()),
        scrub_every: o.scrub_every.map(format_duration),
        views: o.views.map(|v| v.as_str().to_owned()),
        save: o.save.map(format_size),
        keep_bytes: o.keep.bytes.map(format_size),
        keep_sets: o.keep.sets,
        keep_time: o.keep.time.map(format_duration),
    }
}

fn volume(v: &VolumePlan) -> VolumeSpec {
    let backing = v.backing.iter();
    VolumeSpec {
        size: format_size(v.size),
        block_size: Some(format_size(v.block_size)),
        backing: backing.map(|(n, p)| (n.to_string(), p.to_string_lossy().into_owned())).collect(),
        labels: v.labels.iter().map(|(n, l)| (n.to_string(), l.to_string())).collect(),
        save: Some(format_size(v.save)),
        snapshot_area: Some(format_size(v.snapshot_area)),
        nbd_allow: allow(v.nbd_allow.as_deref()),
    }
}
