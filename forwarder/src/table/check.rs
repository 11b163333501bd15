//! Whether a route may be added: names, rings, second feeders, limits.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use rcp::proto::ids::{GroupName, NodeName};

use super::{AddContext, Line, RouteError, Routes, Table, collect};
use crate::near::nearest;

/// Next hops by node, from all sources that are known.
type Graph<'a> = BTreeMap<&'a NodeName, Vec<&'a NodeName>>;

impl Table {
    /// Whether [`Table::add`] would do it, without doing it: to be asked before the next hop is.
    ///
    /// # Errors
    /// [`RouteError`] names what stands against it and what to do.
    pub fn check_add(
        &self,
        group: &GroupName,
        next_hop: &NodeName,
        ctx: &AddContext<'_>,
    ) -> Result<(), RouteError> {
        self.check_names(group, next_hop, ctx)?;
        self.check_shape(group, next_hop)?;
        let none = Routes::default();
        let routes = self.groups.get(group).unwrap_or(&none);
        if let Some(cycle) = self.ring(routes, next_hop, ctx) {
            return Err(RouteError::Loop {
                node: self.node.clone(),
                group: group.clone(),
                next_hop: next_hop.clone(),
                cycle,
            });
        }
        if let Some((node, child, parent)) = self.second_parent(routes, next_hop, ctx.onward) {
            return Err(RouteError::SecondParent { node, group: group.clone(), child, parent });
        }
        self.check_room(group, next_hop, &collect(ctx.onward))
    }

    fn check_names(
        &self,
        group: &GroupName,
        next_hop: &NodeName,
        ctx: &AddContext<'_>,
    ) -> Result<(), RouteError> {
        if !ctx.groups.contains(group) {
            return Err(RouteError::UnknownGroup {
                node: self.node.clone(),
                group: group.clone(),
                near: nearest(group.as_str(), ctx.groups, GroupName::as_str).cloned(),
            });
        }
        if *next_hop != self.node && !ctx.nodes.contains(next_hop) {
            return Err(RouteError::UnknownNode {
                node: self.node.clone(),
                group: group.clone(),
                next_hop: next_hop.clone(),
                near: nearest(next_hop.as_str(), ctx.nodes, NodeName::as_str).cloned(),
            });
        }
        Ok(())
    }

    /// The ring that the route would close: a way from the next hop back to this node, over the
    /// path above, what was learned below and what the next hop says.
    fn ring(
        &self,
        routes: &Routes,
        next_hop: &NodeName,
        ctx: &AddContext<'_>,
    ) -> Option<Vec<NodeName>> {
        let mut graph = Graph::new();
        for (node, hops) in routes.lines_in_tree().chain(ctx.onward.iter().map(|(n, h)| (n, h))) {
            graph.entry(node).or_default().extend(hops);
        }
        for (i, above) in ctx.path.iter().enumerate() {
            graph.entry(above).or_default().push(ctx.path.get(i + 1).unwrap_or(&self.node));
        }
        let mut came_from: BTreeMap<&NodeName, &NodeName> = BTreeMap::new();
        let mut queue = VecDeque::from([next_hop]);
        while let Some(node) = queue.pop_front() {
            for hop in graph.get(node).into_iter().flatten() {
                if **hop == self.node {
                    return Some(self.name_ring(next_hop, node, &came_from));
                }
                if *hop != next_hop && !came_from.contains_key(hop) {
                    came_from.insert(hop, node);
                    queue.push_back(hop);
                }
            }
        }
        None
    }

    fn name_ring(
        &self,
        next_hop: &NodeName,
        last: &NodeName,
        came_from: &BTreeMap<&NodeName, &NodeName>,
    ) -> Vec<NodeName> {
        let mut back = vec![self.node.clone(), last.clone()];
        let mut at = last;
        while at != next_hop {
            let Some(before) = came_from.get(at) else { break };
            back.push((*before).clone());
            at = before;
        }
        back.push(self.node.clone());
        back.reverse();
        back
    }

    /// Who would feed a second time, whom, and who feeds it now: the next hop, or a node below it.
    fn second_parent(
        &self,
        routes: &Routes,
        next_hop: &NodeName,
        onward: &[Line],
    ) -> Option<(NodeName, NodeName, NodeName)> {
        let mut feeder: BTreeMap<&NodeName, &NodeName> =
            routes.own.iter().map(|hop| (hop, &self.node)).collect();
        for (node, hops) in routes.lines_in_tree() {
            hops.iter().for_each(|hop| {
                feeder.entry(hop).or_insert(node);
            });
        }
        let mut new: BTreeSet<(&NodeName, &NodeName)> = BTreeSet::from([(&self.node, next_hop)]);
        for (node, hops) in onward {
            new.extend(hops.iter().map(|hop| (node, hop)));
        }
        new.into_iter().find_map(|(node, child)| {
            let parent = *feeder.get(child)?;
            (parent != node).then(|| (node.clone(), child.clone(), parent.clone()))
        })
    }
}
