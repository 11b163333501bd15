//! What a running node knows of its groups: the topology, and what commands added to it (CMD-01,
//! CMD-02).
//!
//! `groups.yaml` in the data folder holds what commands added, in the words of the topology; it is
//! joined to the topology whenever that is read. It is stored before anything is done by it, so that
//! a node that is started again knows at least what it was answered for.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use config::{Added, AddedGroup, Topology};
use rcp::proto::ids::{GroupName, NodeName};
use volmcast::save::Budget;
use volmcast::storage::replace_file;

use super::apply;
use super::core::ReplicaPlan;
use super::start::{StartError, group_plan, io, replica_plan};
use crate::api::{ApiError, ApiErrorKind, GroupStatus, TopologyTaken};
use crate::limits;
use crate::mover::Learned;

/// Name of the file.
pub(crate) const FILE: &str = "groups.yaml";

/// What the node knows, for all who ask.
pub(super) struct Known {
    node: NodeName,
    folder: PathBuf,
    /// For what is read back from the save volumes of all groups.
    budget: Arc<Budget>,
    now: parking_lot::Mutex<Taken>,
    /// Held by whoever changes it, from the first look to the end.
    pub(super) changing: tokio::sync::Mutex<()>,
    /// Held by whoever looks at, expects or takes a volume of another node.
    pub(super) shifting: tokio::sync::Mutex<()>,
}

/// One state of it.
#[derive(Clone)]
pub(super) struct Taken {
    path: PathBuf,
    /// The topology file.
    file: Topology,
    added: Added,
    /// Both together.
    whole: Topology,
    plans: BTreeMap<GroupName, ReplicaPlan>,
    /// Groups this node makes volumes in.
    primary_of: Vec<GroupName>,
}

/// A group that a command made or changed.
pub(super) struct Defined {
    pub(super) group: GroupName,
    pub(super) plan: ReplicaPlan,
    pub(super) learned: Learned,
    pub(super) taken: Taken,
}

fn bad(text: String) -> ApiError {
    ApiError::new(ApiErrorKind::BadRequest, text)
}

fn conflict(text: String) -> ApiError {
    ApiError::new(ApiErrorKind::Conflict, text)
}

impl Taken {
    /// Durably; a crash leaves the old or the new one.
    pub(super) fn store(&self) -> Result<(), ApiError> {
        let stored = replace_file(&self.path, self.added.to_text().as_bytes());
        stored.map_err(|e| ApiError::new(ApiErrorKind::Unavailable, e.to_string()))
    }

    fn join(&self, file: &Topology, added: &Added) -> Result<Topology, String> {
        let name = self.path.display().to_string();
        file.with(added, &name).map_err(|e| e.plain())
    }
}

impl Known {
    /// From the topology and the data folder.
    ///
    /// # Errors
    /// In words: what commands added cannot be read, or contradicts the topology.
    pub(super) fn load(
        file: &Topology,
        node: &NodeName,
        folder: &Path,
    ) -> Result<Self, StartError> {
        let path = folder.join(FILE);
        let shown = path.display().to_string();
        let added = match std::fs::read_to_string(&path) {
            Ok(text) => Added::read(&text, &shown).map_err(|e| {
                StartError::Refused(format!("the groups that commands made cannot be read\n{e}"))
            })?,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Added::default(),
            Err(e) => return Err(io(shown)(e)),
        };
        let whole = file.with(&added, &shown).map_err(|e| {
            StartError::Refused(format!(
                "the topology and the groups that commands made contradict each other\n{e}"
            ))
        })?;
        let memory = whole.node(node).map_or(0, |n| n.memory);
        let budget = Budget::new(memory / limits::READBACK_SHARE);
        let plan = |g: &config::GroupPlan| (g.name.clone(), replica_plan(g, node, folder, &budget));
        let plans = whole.groups_of(node).map(plan).collect();
        let primary_of = primary_of(&whole, node);
        let now = Taken { path, file: file.clone(), added, whole, plans, primary_of };
        Ok(Self {
            node: node.clone(),
            folder: folder.to_owned(),
            budget,
            now: now.into(),
            changing: tokio::sync::Mutex::default(),
            shifting: tokio::sync::Mutex::default(),
        })
    }

    /// Whose this is.
    pub(super) fn node(&self) -> &NodeName {
        &self.node
    }

    /// The topology, with what commands added.
    pub(super) fn topology(&self) -> Topology {
        self.now.lock().whole.clone()
    }

    /// How volumes of each group are run here.
    pub(super) fn plans(&self) -> BTreeMap<GroupName, ReplicaPlan> {
        self.now.lock().plans.clone()
    }

    /// How volumes are run that are made here in a group.
    ///
    /// # Errors
    /// In words: this node is not its primary.
    pub(super) fn as_primary(&self, group: &GroupName) -> Result<ReplicaPlan, String> {
        let now = self.now.lock();
        let plan = now.plans.get(group).filter(|_| now.primary_of.contains(group));
        plan.cloned().ok_or_else(|| {
            let known: Vec<_> = now.primary_of.iter().map(ToString::to_string).collect();
            format!(
                "this node is not the primary of a group `{group}`; it is primary of: {}",
                if known.is_empty() { "none".to_owned() } else { known.join(", ") }
            )
        })
    }

    /// Says of each group what commands said of it.
    pub(super) fn tell(&self, groups: &mut [GroupStatus]) {
        let now = self.now.lock();
        for g in groups {
            g.added = now.added.groups.get(&g.group).cloned();
        }
    }

    /// A changed topology file: what a running node takes of it, and what there is to say.
    pub(super) fn compare(&self, text: &str) -> Result<(Learned, TopologyTaken, Taken), ApiError> {
        let old = self.now.lock().clone();
        let unusable = |e: String| bad(format!("the topology is not usable\n{e}"));
        let file = Topology::compile(text, "the topology").map_err(|e| unusable(e.plain()))?;
        let whole = old.join(&file, &old.added).map_err(unusable)?;
        let (learned, told) = apply::compare(&old.whole, &whole, &self.node).map_err(bad)?;
        Ok((learned, told, Taken { file, whole, ..old }))
    }

    /// From now on it is so.
    pub(super) fn take(&self, taken: Taken) {
        *self.now.lock() = taken;
    }

    /// What a command says of a group. What is known already may be said again: whatever failed after
    /// it was said first is done then.
    ///
    /// # Errors
    /// In words: a newer word is here, or it contradicts the topology.
    pub(super) fn define(&self, name: &str, definition: AddedGroup) -> Result<Defined, ApiError> {
        let old = self.now.lock().clone();
        let node = &self.node;
        let group = GroupName::new(name).map_err(|e| bad(e.to_string()))?;
        if let Some(have) = old.added.groups.get(name)
            && have.revision >= definition.revision
            && *have != definition
        {
            return Err(conflict(format!(
                "group {name} was changed by another command meanwhile ({node} has revision {}): say \
                 it again",
                have.revision
            )));
        }
        let mut added = old.added.clone();
        added.groups.insert(name.to_owned(), definition);
        let whole = old.join(&old.file, &added).map_err(|e| bad(format!("at {node}: {e}")))?;
        let plan = whole
            .group(&group)
            .filter(|g| g.is_member(node))
            .ok_or_else(|| bad(format!("{node} is not in group {name} as it is described")))?;
        let learned = Learned {
            addresses: whole.nodes().map(|n| (n.name.clone(), n.address.to_string())).collect(),
            groups: [(group.clone(), group_plan(plan, node))].into(),
            enters: true,
        };
        let plan = replica_plan(plan, node, &self.folder, &self.budget);
        let mut taken = Taken { added, ..old };
        taken.plans.insert(group.clone(), plan.clone());
        // Other groups of the file that are new wait for a restart.
        if whole.group(&group).is_some_and(|g| g.primary == *node)
            && !taken.primary_of.contains(&group)
        {
            taken.primary_of.push(group.clone());
        }
        taken.whole = whole;
        Ok(Defined { group, plan, learned, taken })
    }

    /// What commands said of a group, as if it was said again.
    pub(super) fn again(&self, group: &GroupName) -> Option<Result<Defined, ApiError>> {
        let have = self.now.lock().added.groups.get(group.as_str()).cloned()?;
        Some(self.define(group.as_str(), have))
    }

    /// A group without what commands said of it; nothing if they said nothing.
    ///
    /// # Errors
    /// In words: the topology file has this node in the group.
    pub(super) fn forget(&self, name: &str) -> Result<Option<(GroupName, Taken)>, ApiError> {
        let old = self.now.lock().clone();
        let group = GroupName::new(name).map_err(|e| bad(e.to_string()))?;
        if old.file.group(&group).is_some_and(|g| g.is_member(&self.node)) {
            return Err(conflict(format!(
                "{} is in group {name} by the topology file: take it out there, and start it again",
                self.node
            )));
        }
        let mut added = old.added.clone();
        if added.groups.remove(name).is_none() {
            return Ok(None);
        }
        let whole = old.join(&old.file, &added).map_err(bad)?;
        let mut taken = Taken { added, whole, ..old };
        taken.plans.remove(&group);
        taken.primary_of.retain(|g| *g != group);
        Ok(Some((group, taken)))
    }
}

fn primary_of(topology: &Topology, node: &NodeName) -> Vec<GroupName> {
    topology.groups_of(node).filter(|g| g.primary == *node).map(|g| g.name.clone()).collect()
}
