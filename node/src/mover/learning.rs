//! A changed topology in a running node: where nodes are, and who may feed whom. Routes stay what the
//! nodes have stored.

use std::collections::BTreeMap;

use rcp::proto::ids::{GroupName, NodeName};

use super::{GroupPlan, Level, Mover};

/// What a running node takes from a topology.
#[derive(Clone, Debug, Default)]
pub struct Learned {
    /// Addresses of all its nodes.
    pub addresses: BTreeMap<NodeName, String>,
    /// Of groups that the node is in. What it keeps and who writes is not taken from here.
    pub groups: BTreeMap<GroupName, GroupPlan>,
}

impl Mover {
    /// Takes it. Sessions that are up stay as they are; the next one is by what was learned. Nodes that
    /// are no longer there are still known as long as a route leads to them.
    pub(super) fn learn(&mut self, learned: Learned) {
        let routed = |n: &NodeName| self.groups.values().any(|g| g.links.contains_key(n));
        let gone: Vec<_> = self
            .cfg
            .addresses
            .keys()
            .filter(|n| !learned.addresses.contains_key(*n) && !routed(n))
            .cloned()
            .collect();
        for node in gone {
            self.cfg.addresses.remove(&node);
        }
        self.cfg.addresses.extend(learned.addresses);
        for (name, plan) in learned.groups {
            let Some(g) = self.groups.get_mut(&name) else { continue };
            g.bypass.set_on(!plan.no_bypass);
            if !plan.fallbacks.is_empty() && g.up.dial_at.is_none() && !g.up.is_dialling() {
                g.up.dial_at = Some(self.now);
            }
            let old = std::mem::take(&mut g.plan);
            g.plan = GroupPlan {
                primary: old.primary,
                replica: old.replica,
                confirm: old.confirm,
                hop: old.hop,
                labels: old.labels,
                max_staleness: old.max_staleness,
                dial_up: old.dial_up,
                dialled_by: old.dialled_by,
                ..plan
            };
        }
        self.note(Level::Info, "another topology was learned".to_owned());
    }
}
