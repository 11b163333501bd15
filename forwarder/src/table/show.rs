//! What a table says to people, and to the node above.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;

use rcp::proto::ids::{GroupName, NodeName};

use super::error::names;
use super::{Line, RouteError, Routes, Table};

/// The routes of one group, this node's own line first, then those below in the order of the tree
/// (ROUTE-04, ROUTE-06).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupRoutes {
    /// Which group.
    pub group: GroupName,
    /// Each node that forwards, and its next hops.
    pub lines: Vec<Line>,
}

impl fmt::Display for GroupRoutes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.group)?;
        self.lines.iter().try_for_each(|(node, hops)| write!(f, "\n  {node} -> {}", names(hops)))
    }
}

impl Table {
    /// The routes of one group, or of all.
    ///
    /// # Errors
    /// [`RouteError::UnknownGroup`] if the group has no routes here.
    pub fn display(&self, group: Option<&GroupName>) -> Result<Vec<GroupRoutes>, RouteError> {
        match group {
            Some(g) => {
                Ok(vec![GroupRoutes { group: g.clone(), lines: self.tree(self.routes(g)?) }])
            }
            None => Ok(self
                .groups
                .iter()
                .map(|(g, r)| GroupRoutes { group: g.clone(), lines: self.tree(r) })
                .collect()),
        }
    }

    /// What the node above is told of a group: this node's own line and all below. A node without
    /// routes reports that it forwards to nobody. The node cuts it into frames.
    #[must_use]
    pub fn report(&self, group: &GroupName) -> Vec<Line> {
        match self.groups.get(group) {
            Some(r) => self.tree(r),
            None => vec![(self.node.clone(), Vec::new())],
        }
    }

    /// How the table differs from the topology file, in words; the table rules until one of the two
    /// is brought in line. The order of next hops does not matter.
    #[must_use]
    pub fn drift(&self, planned: &BTreeMap<GroupName, Vec<NodeName>>) -> Vec<String> {
        let mut out = Vec::new();
        let groups: BTreeSet<&GroupName> = self.groups.keys().chain(planned.keys()).collect();
        for group in groups {
            let have: BTreeSet<&NodeName> =
                self.groups.get(group).into_iter().flat_map(|r| &r.own).collect();
            let want: BTreeSet<&NodeName> = planned.get(group).into_iter().flatten().collect();
            let node = &self.node;
            out.extend(want.difference(&have).map(|hop| {
                format!(
                    "group `{group}`: the topology file has `{node}` -> `{hop}`, the table of \
                     `{node}` has not; `rcproute {node}: add group={group} nexthop={hop} --topology \
                     FILE` adds it"
                )
            }));
            out.extend(have.difference(&want).map(|hop| {
                format!(
                    "group `{group}`: the table of `{node}` has `{node}` -> `{hop}`, the topology \
                     file has not; `rcproute {node}: delete group={group} nexthop={hop} --topology \
                     FILE` removes it"
                )
            }));
        }
        out
    }

    /// What is wrong with the tree below as it was reported, in words: nodes with two feeders, and
    /// rings. Reports are late by nature, so a finding that goes away by itself is no error.
    #[must_use]
    pub fn conflicts(&self, group: &GroupName) -> Vec<String> {
        let Some(routes) = self.groups.get(group) else { return Vec::new() };
        let mut feeder: BTreeMap<&NodeName, &NodeName> =
            routes.own.iter().map(|hop| (hop, &self.node)).collect();
        let mut out = Vec::new();
        for (node, hops) in routes.lines_below() {
            for hop in hops {
                if *hop == self.node {
                    out.push(format!(
                        "group `{group}`: `{node}` has `{hop}` as next hop, which is above it; \
                         run `rcproute delete group={group} nexthop={hop}` at `{node}`"
                    ));
                } else if let Some(first) = feeder.insert(hop, node).filter(|first| *first != node)
                {
                    out.push(format!(
                        "group `{group}`: `{hop}` is a next hop of both `{first}` and `{node}`; \
                         delete one of the two routes"
                    ));
                }
            }
        }
        out
    }

    /// Lines from this node downwards, breadth first, each node once; lines that hang on nothing
    /// come last.
    fn tree(&self, routes: &Routes) -> Vec<Line> {
        let mut known: BTreeMap<&NodeName, &Vec<NodeName>> = routes.lines_below().collect();
        known.remove(&self.node);
        let mut out = vec![(self.node.clone(), routes.own.clone())];
        let mut queue: VecDeque<&NodeName> = routes.own.iter().collect();
        while let Some(node) = queue.pop_front() {
            if let Some(hops) = known.remove(node) {
                out.push((node.clone(), hops.clone()));
                queue.extend(hops);
            }
        }
        out.extend(known.into_iter().map(|(n, h)| (n.clone(), h.clone())));
        out
    }
}
