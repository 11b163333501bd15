//! A changed topology in a running node: where nodes are, and who may feed whom. Routes stay what the
//! nodes have stored.

use std::collections::BTreeMap;

use rcp::proto::frame::GoodbyeCode;
use rcp::proto::ids::{GroupName, NodeName};

use super::{AskId, ConnId, Effect, GroupPlan, Level, Mover, Reply};
use crate::api::{ApiError, ApiErrorKind};

/// What a running node takes from a topology.
#[derive(Clone, Debug, Default)]
pub struct Learned {
    /// Addresses of all its nodes.
    pub addresses: BTreeMap<NodeName, String>,
    /// Of groups that the node is in. What it keeps and who writes is not taken from here.
    pub groups: BTreeMap<GroupName, GroupPlan>,
    /// It enters those that it is not in yet.
    pub enters: bool,
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
            let Some(g) = self.groups.get_mut(&name) else {
                if learned.enters {
                    self.note(Level::Info, format!("entered group {name}"));
                    self.add_group(name, plan);
                }
                continue;
            };
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

    /// Leaves a group for good: its routes go, and its sessions end.
    ///
    /// # Errors
    /// In words: volumes of it are here.
    pub(super) fn leave_group(&mut self, name: &GroupName) -> Result<(), ApiError> {
        let Some(group) = self.groups.get(name) else { return Ok(()) };
        let node = &self.cfg.node;
        let busy = |text: String| Err(ApiError::new(ApiErrorKind::Conflict, text));
        let open = self.volumes.values().filter(|h| h.group == *name).map(|h| h.label.as_str());
        let closed = self.closed.values().filter(|v| v.group == *name).map(|v| v.label.as_str());
        let held: Vec<_> = open.chain(closed).collect();
        if let Some(first) = held.first() {
            return busy(format!(
                "{node} has volumes of group {name}, which stay as they are, and so does the group \
                 there: {}. Delete each (`rcpctl volume delete {first} --yes` at {node}), then say \
                 this again",
                held.join(", ")
            ));
        }
        if !group.pending_offers.is_empty() {
            return busy(format!("{node} is making a volume of group {name}: say it again"));
        }
        let asked: Vec<AskId> = group.links.values().filter_map(|l| l.asked).collect();
        let hops: Vec<_> = group.links.keys().cloned().collect();
        if self.table.delete(Some(name), None).is_ok() {
            self.effect(Effect::StoreRoutes(self.table.encode()));
        }
        for hop in hops {
            self.drop_link(name, &hop, "the group was left");
        }
        let conns: Vec<ConnId> =
            self.conns.iter().filter(|(_, c)| c.group == *name).map(|(id, _)| *id).collect();
        for conn in conns {
            self.close(conn, GoodbyeCode::Reconfigured, "the group was left");
        }
        for ask in asked {
            let e = ApiError::new(ApiErrorKind::Conflict, format!("group {name} was left"));
            self.effect(Effect::Reply { ask, reply: Reply::Refused(e) });
        }
        self.groups.remove(name);
        self.note(Level::Info, format!("left group {name}"));
        Ok(())
    }
}
