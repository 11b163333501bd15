//! The routing table of one node (ROUTE-01..06): its own next hops per group, and what its children
//! reported of the tree below them.
//!
//! The node's *own lines* are changed by an operator only, and every change raises the revision.
//! The *onward routes* are learned from below, replaced or forgotten with the child that reported
//! them, and never raise it. A next hop stands in one place of a tree: [`Table::add`] refuses rings
//! and second feeders as far as this table and its [`AddContext`] can see; what they cannot see, the
//! next hop itself refuses when it is asked. The table does not know which nodes are reachable.

mod check;
mod error;
mod show;
mod stored;

pub use error::RouteError;
pub use show::GroupRoutes;
pub use stored::StoredError;

use std::collections::{BTreeMap, BTreeSet};

use rcp::proto::ids::{GroupName, NodeName};
use rcp::proto::pace::Limit;
use rcp::proto::transport::Hop;

use crate::limits::{MAX_GROUPS, MAX_NAMES_BELOW, MAX_NAMES_BELOW_TOTAL, MAX_NEXT_HOPS};
use crate::near::nearest;

/// A node and its next hops, as in a route report.
pub type Line = (NodeName, Vec<NodeName>);

/// The lines that one child reported, by node.
type Onward = BTreeMap<NodeName, Vec<NodeName>>;

/// What a node knows beside its table when a route is added.
#[derive(Clone, Copy, Debug, Default)]
pub struct AddContext<'a> {
    /// The groups that exist.
    pub groups: &'a [GroupName],
    /// The nodes that may be next hops in the group.
    pub nodes: &'a [NodeName],
    /// Nodes from the primary to this one, both included; empty if not known.
    pub path: &'a [NodeName],
    /// What the next hop says of its own subtree, if it was asked.
    pub onward: &'a [Line],
}

/// Whether a route came or went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ChangeKind {
    /// It came.
    Added,
    /// It went.
    Removed,
}

/// One change of a node's own line; it can be turned round for roll-back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    kind: ChangeKind,
    group: GroupName,
    next_hop: NodeName,
    at: usize,
    hop: Hop,
    onward: Onward,
}

impl Change {
    /// Whether the route came or went.
    #[must_use]
    pub fn kind(&self) -> ChangeKind {
        self.kind
    }

    /// In which group.
    #[must_use]
    pub fn group(&self) -> &GroupName {
        &self.group
    }

    /// Which next hop.
    #[must_use]
    pub fn next_hop(&self) -> &NodeName {
        &self.next_hop
    }

    /// The change that undoes this one, onward routes included. Several changes are undone last one
    /// first.
    #[must_use]
    pub fn inverse(&self) -> Self {
        let kind = match self.kind {
            ChangeKind::Added => ChangeKind::Removed,
            ChangeKind::Removed => ChangeKind::Added,
        };
        Self { kind, ..self.clone() }
    }
}

/// What is known of one group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Routes {
    /// Never empty in a table.
    own: Vec<NodeName>,
    /// How next hops are reached that say something of their own; every key is in `own`.
    hops: BTreeMap<NodeName, Hop>,
    /// By child; every key is in `own`.
    below: BTreeMap<NodeName, Onward>,
}

impl Routes {
    fn lines_below(&self) -> impl Iterator<Item = (&NodeName, &Vec<NodeName>)> {
        self.below.values().flatten()
    }

    /// As [`Routes::lines_below`], without nodes to which no way leads from the child that told of
    /// them: what is known of those is out of date, and nobody would say so.
    fn lines_in_tree(&self) -> impl Iterator<Item = (&NodeName, &Vec<NodeName>)> {
        self.below.iter().flat_map(|(child, lines)| {
            let mut seen = BTreeSet::from([child]);
            let mut next = vec![child];
            let mut found = Vec::new();
            while let Some(node) = next.pop() {
                let Some((name, hops)) = lines.get_key_value(node) else { continue };
                next.extend(hops.iter().filter(|h| seen.insert(h)));
                found.push((name, hops));
            }
            found
        })
    }
}

/// The routing table of one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    node: NodeName,
    revision: u64,
    groups: BTreeMap<GroupName, Routes>,
}

impl Table {
    /// An empty table.
    #[must_use]
    pub fn new(node: NodeName) -> Self {
        Self { node, revision: 0, groups: BTreeMap::new() }
    }

    /// The table of a first start: the node's own lines of a checked topology.
    ///
    /// # Errors
    /// [`RouteError`] for a line with the node itself, a next hop twice, or too many of them.
    pub fn from_plan(
        node: NodeName,
        planned: &BTreeMap<GroupName, Vec<NodeName>>,
    ) -> Result<Self, RouteError> {
        Self::from_plan_by(node, planned, &|_, _| Hop::default())
    }

    /// [`Table::from_plan`], with how each next hop is reached.
    ///
    /// # Errors
    /// As there.
    pub fn from_plan_by(
        node: NodeName,
        planned: &BTreeMap<GroupName, Vec<NodeName>>,
        hop_of: &dyn Fn(&GroupName, &NodeName) -> Hop,
    ) -> Result<Self, RouteError> {
        let mut table = Self::new(node);
        let groups: Vec<GroupName> = planned.keys().cloned().collect();
        for (group, hops) in planned {
            for hop in hops {
                let ctx = AddContext { groups: &groups, nodes: hops, ..AddContext::default() };
                table.add_by(group, hop, hop_of(group, hop), &ctx)?;
            }
        }
        Ok(table)
    }

    /// Whose table it is.
    #[must_use]
    pub fn node(&self) -> &NodeName {
        &self.node
    }

    /// Rises with every change of the node's own lines.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// The groups with routes.
    pub fn groups(&self) -> impl Iterator<Item = &GroupName> {
        self.groups.keys()
    }

    /// Where a command or a chunk for `group` goes from here (F17, steps 415 to 417).
    ///
    /// # Errors
    /// [`RouteError::UnknownGroup`] if there are no routes; it is sent back to the sender.
    pub fn next_hops(&self, group: &GroupName) -> Result<&[NodeName], RouteError> {
        self.routes(group).map(|r| r.own.as_slice())
    }

    /// How a next hop is reached, where that differs from what the group says.
    #[must_use]
    pub fn hop(&self, group: &GroupName, next_hop: &NodeName) -> Hop {
        self.groups.get(group).and_then(|r| r.hops.get(next_hop)).cloned().unwrap_or_default()
    }

    /// The next hops of a node below, as its side of the tree reported them; this is where a bypass
    /// of a dead child looks (FWD-06). Empty if nothing is known.
    #[must_use]
    pub fn onward(&self, group: &GroupName, child: &NodeName, node: &NodeName) -> &[NodeName] {
        self.groups
            .get(group)
            .and_then(|r| r.below.get(child))
            .and_then(|lines| lines.get(node))
            .map_or(&[], Vec::as_slice)
    }

    /// Whether `node` is below `child`, at any depth, as that side of the tree reported it.
    #[must_use]
    pub fn is_below(&self, group: &GroupName, child: &NodeName, node: &NodeName) -> bool {
        let lines = self.groups.get(group).and_then(|r| r.below.get(child));
        lines.is_some_and(|lines| lines.values().any(|hops| hops.contains(node)))
    }

    /// Adds a next hop.
    ///
    /// # Errors
    /// As [`Table::check_add`]; the table is then as before.
    pub fn add(
        &mut self,
        group: &GroupName,
        next_hop: &NodeName,
        ctx: &AddContext<'_>,
    ) -> Result<Change, RouteError> {
        self.add_by(group, next_hop, Hop::default(), ctx)
    }

    /// Adds a next hop that is reached in a way of its own.
    ///
    /// # Errors
    /// As [`Table::check_add`]; the table is then as before.
    pub fn add_by(
        &mut self,
        group: &GroupName,
        next_hop: &NodeName,
        hop: Hop,
        ctx: &AddContext<'_>,
    ) -> Result<Change, RouteError> {
        self.check_add(group, next_hop, ctx)?;
        let change = Change {
            kind: ChangeKind::Added,
            group: group.clone(),
            next_hop: next_hop.clone(),
            at: self.groups.get(group).map_or(0, |r| r.own.len()),
            hop,
            onward: collect(ctx.onward),
        };
        self.apply(&change)?;
        Ok(change)
    }

    /// Gives a next hop another limit, or none; true if that changed something.
    ///
    /// # Errors
    /// [`RouteError::UnknownGroup`] or [`RouteError::NoSuchHop`]; the table is then as before.
    pub fn limit(
        &mut self,
        group: &GroupName,
        next_hop: &NodeName,
        limit: Option<Limit>,
    ) -> Result<bool, RouteError> {
        if !self.routes(group)?.own.contains(next_hop) {
            return Err(self.no_such_hop(Some(group), next_hop));
        }
        let mut hop = self.hop(group, next_hop);
        if hop.limit == limit {
            return Ok(false);
        }
        hop.limit = limit;
        if let Some(routes) = self.groups.get_mut(group) {
            if hop.is_default() {
                routes.hops.remove(next_hop);
            } else {
                routes.hops.insert(next_hop.clone(), hop);
            }
            self.revision += 1;
        }
        Ok(true)
    }

    /// Removes next hops, and with them what is known below them: one, all of a group, one in every
    /// group, or all.
    ///
    /// # Errors
    /// [`RouteError::UnknownGroup`] or [`RouteError::NoSuchHop`] if what is named is not there; the
    /// table is then as before. Deleting everything of an empty table is no error.
    pub fn delete(
        &mut self,
        group: Option<&GroupName>,
        next_hop: Option<&NodeName>,
    ) -> Result<Vec<Change>, RouteError> {
        let groups: Vec<GroupName> = match group {
            Some(g) => {
                self.routes(g)?;
                vec![g.clone()]
            }
            None => self.groups.keys().cloned().collect(),
        };
        let mut doomed = Vec::new();
        for g in groups {
            for (at, hop) in self.routes(&g)?.own.iter().enumerate().rev() {
                if next_hop.is_none_or(|n| n == hop) {
                    doomed.push((g.clone(), hop.clone(), at));
                }
            }
        }
        if let (Some(n), true) = (next_hop, doomed.is_empty()) {
            return Err(self.no_such_hop(group, n));
        }
        let mut changes = Vec::with_capacity(doomed.len());
        for (group, next_hop, at) in doomed {
            let onward = self
                .groups
                .get(&group)
                .and_then(|r| r.below.get(&next_hop))
                .cloned()
                .unwrap_or_default();
            let hop = self.hop(&group, &next_hop);
            let change = Change { kind: ChangeKind::Removed, group, next_hop, at, hop, onward };
            self.apply(&change)?;
            changes.push(change);
        }
        Ok(changes)
    }

    /// Makes a change again, or undoes one with its [`Change::inverse`].
    ///
    /// # Errors
    /// [`RouteError`] if it does not fit the table any more; the table is then as before.
    pub fn apply(&mut self, change: &Change) -> Result<(), RouteError> {
        let Change { kind, group, next_hop, at, hop, onward } = change;
        match kind {
            ChangeKind::Added => {
                self.check_shape(group, next_hop)?;
                let routes = self.groups.entry(group.clone()).or_default();
                routes.own.insert((*at).min(routes.own.len()), next_hop.clone());
                if !hop.is_default() {
                    routes.hops.insert(next_hop.clone(), hop.clone());
                }
                if !onward.is_empty() {
                    routes.below.insert(next_hop.clone(), onward.clone());
                }
            }
            ChangeKind::Removed => {
                let missing = self.no_such_hop(Some(group), next_hop);
                let routes = self.groups.get_mut(group).ok_or_else(|| missing.clone())?;
                let at = routes.own.iter().position(|n| n == next_hop).ok_or(missing)?;
                routes.own.remove(at);
                routes.hops.remove(next_hop);
                routes.below.remove(next_hop);
                if routes.own.is_empty() {
                    self.groups.remove(group);
                }
            }
        }
        self.revision = self.revision.saturating_add(1);
        Ok(())
    }

    /// Replaces all that is known below a child by what it reports now, and says whether that is
    /// news. Lines without next hops need not be given.
    ///
    /// # Errors
    /// [`RouteError`] if the child is not a next hop of the group, or reports more than fits; what
    /// was known stays.
    pub fn learn(
        &mut self,
        group: &GroupName,
        child: &NodeName,
        routes: &[Line],
    ) -> Result<bool, RouteError> {
        self.set_below(group, child, collect(routes))
    }

    /// Takes one route report frame: each line replaces what was known of its node, and one without
    /// next hops says that the node forwards to nobody. Says whether that is news.
    ///
    /// # Errors
    /// As [`Table::learn`].
    pub fn update(
        &mut self,
        group: &GroupName,
        child: &NodeName,
        routes: &[Line],
    ) -> Result<bool, RouteError> {
        let mut known = self.routes(group)?.below.get(child).cloned().unwrap_or_default();
        for (node, hops) in routes {
            if hops.is_empty() {
                known.remove(node);
            } else {
                known.insert(node.clone(), hops.clone());
            }
        }
        self.set_below(group, child, known)
    }

    fn set_below(
        &mut self,
        group: &GroupName,
        child: &NodeName,
        lines: Onward,
    ) -> Result<bool, RouteError> {
        let routes = self.routes(group)?;
        if !routes.own.contains(child) {
            return Err(self.no_such_hop(Some(group), child));
        }
        self.check_room(group, child, &lines)?;
        let Some(routes) = self.groups.get_mut(group) else { return Ok(false) };
        let before = if lines.is_empty() {
            routes.below.remove(child)
        } else {
            routes.below.insert(child.clone(), lines)
        };
        Ok(before.unwrap_or_default() != routes.below.get(child).cloned().unwrap_or_default())
    }

    /// Whether what `child` reports fits beside what the others did.
    fn check_room(
        &self,
        group: &GroupName,
        child: &NodeName,
        lines: &Onward,
    ) -> Result<(), RouteError> {
        let names = |routes: &Routes| routes.below.values().map(count).sum::<usize>();
        let new = count(lines);
        let (mut in_group, mut in_all) = (new, new);
        for (g, routes) in &self.groups {
            in_all += names(routes);
            if g == group {
                let replaced = routes.below.get(child).map_or(0, count);
                in_group += names(routes) - replaced;
                in_all -= replaced;
            }
        }
        let limit = if lines.values().any(|hops| hops.len() > MAX_NEXT_HOPS) {
            MAX_NEXT_HOPS
        } else if in_group > MAX_NAMES_BELOW {
            MAX_NAMES_BELOW
        } else if in_all > MAX_NAMES_BELOW_TOTAL {
            MAX_NAMES_BELOW_TOTAL
        } else {
            return Ok(());
        };
        Err(RouteError::TooManyBelow {
            node: self.node.clone(),
            group: group.clone(),
            child: child.clone(),
            limit,
        })
    }

    fn routes(&self, group: &GroupName) -> Result<&Routes, RouteError> {
        self.groups.get(group).ok_or_else(|| RouteError::UnknownGroup {
            node: self.node.clone(),
            group: group.clone(),
            near: nearest(group.as_str(), self.groups.keys(), GroupName::as_str).cloned(),
        })
    }

    fn no_such_hop(&self, group: Option<&GroupName>, next_hop: &NodeName) -> RouteError {
        let have: BTreeSet<&NodeName> = self
            .groups
            .iter()
            .filter(|(g, _)| group.is_none_or(|wanted| wanted == *g))
            .flat_map(|(_, r)| &r.own)
            .collect();
        let near = nearest(next_hop.as_str(), have.iter().copied(), NodeName::as_str).cloned();
        RouteError::NoSuchHop {
            node: self.node.clone(),
            group: group.cloned(),
            next_hop: next_hop.clone(),
            near,
            have: have.into_iter().take(8).cloned().collect(),
        }
    }

    /// What holds for every own line, wherever it comes from.
    fn check_shape(&self, group: &GroupName, next_hop: &NodeName) -> Result<(), RouteError> {
        let own = self.groups.get(group).map_or(&[][..], |r| r.own.as_slice());
        let (node, group, next_hop) = (self.node.clone(), group.clone(), next_hop.clone());
        if next_hop == node {
            Err(RouteError::Itself { node, group })
        } else if own.contains(&next_hop) {
            Err(RouteError::Already { node, group, next_hop })
        } else if own.len() >= MAX_NEXT_HOPS {
            Err(RouteError::Degree { node, group, next_hop, limit: MAX_NEXT_HOPS })
        } else if own.is_empty() && self.groups.len() >= MAX_GROUPS {
            Err(RouteError::TooManyGroups { node, group, limit: MAX_GROUPS })
        } else {
            Ok(())
        }
    }
}

/// Lines by node, without those that say nothing.
fn collect(lines: &[Line]) -> Onward {
    lines.iter().filter(|(_, hops)| !hops.is_empty()).cloned().collect()
}

/// Names that lines take room for.
fn count(lines: &Onward) -> usize {
    lines.values().fold(0, |n, hops| n.saturating_add(1 + hops.len()))
}
