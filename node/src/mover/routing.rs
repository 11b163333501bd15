//! Live changes of the routing table (ROUTE-01 to ROUTE-05).
//!
//! `add` is checked against what is known here, then the next hop is dialled; only its welcome
//! commits the route. A refusal, a wrong address or silence leaves everything as it was. One that cannot
//! be reached may be added unasked: it is dialled until it is there, as those of the topology are.

use forwarder::table::{AddContext, Line, RouteError};
use rcp::proto::frame::{Frame, GoodbyeCode, RefuseCode};
use rcp::proto::ids::{GroupName, NodeName, VolumeId};
use rcp::proto::session::CloseReason;
use rcp::proto::transport::{Hop, Transport};

use super::further::never_several;
use super::{AskId, ConnId, Effect, Level, Mover, Reply};
use crate::api::{ApiError, ApiErrorKind, RouteEntry, RouteTable};

/// What is said of next hops, by name.
type Ways = std::collections::BTreeMap<String, String>;

/// A feeder may have let go of a next hop, and its report of that be under way.
fn kind(e: &RouteError) -> ApiErrorKind {
    match e {
        RouteError::SecondParent { .. } => ApiErrorKind::Fed,
        _ => ApiErrorKind::Conflict,
    }
}

/// Lines of one route report frame.
const LINES_PER_FRAME: usize = 256;

impl Mover {
    /// The routing table, of one group if named.
    ///
    /// # Errors
    /// Unknown group.
    pub fn routes(&self, group: Option<&str>) -> Result<RouteTable, ApiError> {
        let group = group.map(|g| self.group_named(g)).transpose()?;
        let mut entries = Vec::new();
        for (name, _) in self.groups.iter().filter(|(n, _)| group.as_ref().is_none_or(|g| g == *n))
        {
            let lines = self.table.display(Some(name)).unwrap_or_default();
            for (node, hops) in lines.into_iter().flat_map(|g| g.lines) {
                entries.push(RouteEntry {
                    group: name.to_string(),
                    node: node.to_string(),
                    next_hops: hops.iter().map(ToString::to_string).collect(),
                    ways: if node == self.cfg.node { self.ways(name, &hops) } else { Ways::new() },
                });
            }
        }
        Ok(RouteTable { revision: self.table.revision(), entries })
    }

    /// What is said of next hops of this node, in words.
    fn ways(&self, group: &GroupName, hops: &[NodeName]) -> Ways {
        let way = |h: &NodeName| (h.to_string(), self.table.hop(group, h).to_string());
        hops.iter().map(way).filter(|(_, way)| !way.is_empty()).collect()
    }

    pub(super) fn group_named(&self, name: &str) -> Result<GroupName, ApiError> {
        let known = || {
            let names: Vec<_> = self.groups.keys().map(ToString::to_string).collect();
            if names.is_empty() { "none".to_owned() } else { names.join(", ") }
        };
        self.groups.keys().find(|g| g.as_str() == name).cloned().ok_or_else(|| {
            ApiError::new(
                ApiErrorKind::NotFound,
                format!("{} is in no group `{name}`; its groups are: {}", self.cfg.node, known()),
            )
        })
    }

    /// Adds a next hop; answered when it has accepted or refused, or at once if it is not to be asked.
    pub(super) fn route_add(
        &mut self,
        ask: AskId,
        group: &str,
        next_hop: &str,
        by: Hop,
        unasked: bool,
    ) {
        let only_limit = Hop { limit: by.limit.clone(), ..Hop::default() } == by;
        if let (Ok(g), Ok(hop)) = (self.group_named(group), NodeName::new(next_hop))
            && by.limit.is_some()
            && only_limit
            && self.table.next_hops(&g).is_ok_and(|hops| hops.contains(&hop))
        {
            return self.limit_route(ask, &g, &hop, by.limit);
        }
        let by = Hop { limit: by.limit.filter(|l| !l.is_none()), ..by };
        let checked = self.check_route(group, next_hop, &by);
        if let Ok((group, hop)) = &checked
            && let Some(of) = self.link(group, hop).and_then(|l| l.in_place_of.clone())
        {
            self.let_go(group, hop, &of);
        }
        match checked {
            Ok((group, hop)) if unasked => {
                self.add_link(&group, &hop, by, None);
                self.route_confirmed(ask, &group, &hop);
            }
            Ok((group, hop)) => self.add_link(&group, &hop, by, Some(ask)),
            Err(e) => self.effect(Effect::Reply { ask, reply: Reply::Refused(e) }),
        }
    }

    fn check_route(
        &self,
        group: &str,
        hop: &str,
        by: &Hop,
    ) -> Result<(GroupName, NodeName), ApiError> {
        let bad = |text: String| ApiError::new(ApiErrorKind::Conflict, text);
        let group = self.group_named(group)?;
        let hop = NodeName::new(hop)
            .map_err(|e| ApiError::new(ApiErrorKind::BadRequest, e.to_string()))?;
        let whole = self.groups.get(&group).map(|g| by.or(&g.plan.hop)).unwrap_or_default();
        if whole.transport == Some(Transport::Quic) && whole.via.is_some() {
            return Err(bad("QUIC does not go through an HTTP proxy: use tls".to_owned()));
        }
        if let Some(why) = never_several(&whole) {
            return Err(bad(why.to_owned()));
        }
        if whole.transport.is_some_and(|t| t != Transport::Tcp) && !self.cfg.proven {
            return Err(bad(format!(
                "{} has no certificates: set `pki` in the topology and start it again, or add \
                 transport=tcp",
                self.cfg.node
            )));
        }
        let groups: Vec<_> = self.groups.keys().cloned().collect();
        let nodes: Vec<_> = self.cfg.addresses.keys().cloned().collect();
        let path = self.path(&group);
        let ctx = AddContext { groups: &groups, nodes: &nodes, path: &path, onward: &[] };
        self.table
            .check_add(&group, &hop, &ctx)
            .map_err(|e| ApiError::new(kind(&e), e.to_string()))?;
        let link = self.groups.get(&group).and_then(|g| g.links.get(&hop));
        match link.map(|l| (&l.in_place_of, l.guest)) {
            // The route takes the place of what was done without one.
            None | Some((Some(_), _)) => {}
            Some((None, true)) => {
                let text = format!("{hop} is a guest here until its parent is back: try again");
                return Err(ApiError::new(ApiErrorKind::Fed, text));
            }
            Some((None, false)) => {
                return Err(bad(format!("{hop} is being added to group {group} already")));
            }
        }
        Ok((group, hop))
    }

    /// The next hop accepted, or is not asked: commit.
    pub(super) fn route_confirmed(&mut self, ask: AskId, group: &GroupName, hop: &NodeName) {
        let groups: Vec<_> = self.groups.keys().cloned().collect();
        let nodes: Vec<_> = self.cfg.addresses.keys().cloned().collect();
        let path = self.path(group);
        let ctx = AddContext { groups: &groups, nodes: &nodes, path: &path, onward: &[] };
        let link = self.groups.get(group).and_then(|g| g.links.get(hop));
        let by = link.map(|l| l.by.clone()).unwrap_or_default();
        let reply = match self.table.add_by(group, hop, by, &ctx) {
            Ok(_) => {
                self.effect(Effect::StoreRoutes(self.table.encode()));
                self.note(Level::Info, format!("route added: group {group}, next hop {hop}"));
                self.report_routes(group);
                self.routes(None).map_or_else(Reply::Refused, Reply::Routes)
            }
            Err(e) => {
                self.drop_link(group, hop, "the route could not be added");
                Reply::Refused(ApiError::new(kind(&e), e.to_string()))
            }
        };
        self.effect(Effect::Reply { ask, reply });
    }

    /// The next hop refused or could not be reached: nothing changes.
    pub(super) fn route_refused(
        &mut self,
        ask: AskId,
        group: &GroupName,
        hop: &NodeName,
        reason: &CloseReason,
        why: &str,
    ) {
        if let Some(g) = self.groups.get_mut(group) {
            g.links.remove(hop);
        }
        let text = format!("{hop} was not added to group {group}: {why}");
        let kind = match reason {
            CloseReason::Refused { code: RefuseCode::Fed, .. } => ApiErrorKind::Fed,
            _ => ApiErrorKind::Conflict,
        };
        let reply = Reply::Refused(ApiError::new(kind, text));
        self.effect(Effect::Reply { ask, reply });
    }

    /// Removes next hops.
    pub(super) fn route_delete(
        &mut self,
        group: Option<&str>,
        next_hop: Option<&str>,
    ) -> Result<RouteTable, ApiError> {
        let group = group.map(|g| self.group_named(g)).transpose()?;
        let hop = next_hop
            .map(NodeName::new)
            .transpose()
            .map_err(|e| ApiError::new(ApiErrorKind::BadRequest, e.to_string()))?;
        if let (Some(g), Some(node)) = (&group, &hop)
            && let Some(of) = self.link(g, node).and_then(|l| l.in_place_of.clone())
        {
            let (g, node) = (g.clone(), node.clone());
            self.let_go(&g, &node, &of);
            return self.routes(None);
        }
        let changes = self
            .table
            .delete(group.as_ref(), hop.as_ref())
            .map_err(|e| ApiError::new(ApiErrorKind::NotFound, e.to_string()))?;
        self.effect(Effect::StoreRoutes(self.table.encode()));
        for c in &changes {
            self.drop_link(c.group(), c.next_hop(), "the route was deleted");
            let (g, n) = (c.group().clone(), c.next_hop().clone());
            self.note(Level::Info, format!("route deleted: group {g}, next hop {n}"));
            self.report_routes(&g);
        }
        self.routes(None)
    }

    pub(super) fn drop_link(&mut self, group: &GroupName, hop: &NodeName, why: &str) {
        let Some(link) = self.groups.get_mut(group).and_then(|g| g.links.remove(hop)) else {
            return;
        };
        if let Some(conn) = link.conn {
            self.close(conn, GoodbyeCode::Reconfigured, why);
        }
        self.forget_child(group, hop);
        let below = self.groups.get_mut(group).map(|g| g.bypass.forget(hop)).unwrap_or_default();
        for node in below {
            self.drop_link(group, &node, why);
        }
    }

    /// A node is fed from here no more: nothing is kept for it.
    pub(super) fn forget_child(&mut self, group: &GroupName, hop: &NodeName) {
        let ids: Vec<_> =
            self.volumes.iter().filter(|(_, h)| h.group == *group).map(|(id, _)| *id).collect();
        for id in ids {
            if let Some(h) = self.volumes.get_mut(&id) {
                h.volume.consumer_forget(hop);
                h.relaying.forget(hop);
                h.below.forget(hop);
                h.detached.remove(hop);
            }
            self.settle(id);
        }
    }

    /// A volume was opened, and a crash may have come between the removal of a route and that of what
    /// was kept for it: nobody would ever take it up, and a writer would ask in vain.
    pub(super) fn forget_removed(&mut self, id: VolumeId) {
        let Some(h) = self.volumes.get(&id) else { return };
        let Some(g) = self.groups.get(&h.group) else { return };
        let names = h.volume.durable().consumers.iter().map(|c| &c.name);
        let gone: Vec<_> = names.filter(|n| !g.feeds(&self.table, &h.group, n)).cloned().collect();
        let Some(h) = self.volumes.get_mut(&id) else { return };
        for name in &gone {
            h.volume.consumer_forget(name);
        }
    }

    /// Tells the parent the routes below.
    pub(super) fn report_routes(&mut self, group: &GroupName) {
        let conn = self.groups.get(group).and_then(|g| g.feeder.as_ref()).and_then(|f| f.conn);
        let Some(conn) = conn else { return };
        let lines = self.table.report(group);
        for part in lines.chunks(LINES_PER_FRAME) {
            self.send(conn, Frame::RouteReport { routes: part.to_vec() });
        }
    }

    /// A child told the routes below it.
    pub(super) fn child_routes(&mut self, conn: ConnId, routes: Vec<Line>) {
        let Some(c) = self.conns.get(&conn) else { return };
        let (group, Some(child)) = (c.group.clone(), c.peer.clone()) else { return };
        if self.link(&group, &child).is_some_and(|l| l.guest) {
            return;
        }
        match self.learn_routes(&group, &child, &routes) {
            Ok(true) => {
                for text in self.table.conflicts(&group) {
                    self.note(Level::Error, text);
                }
                self.report_routes(&group);
            }
            Ok(false) => {}
            Err(e) => self.note(Level::Warn, format!("routes below {child}: {e}")),
        }
    }

    fn proven_as(&self, conn: ConnId, name: &NodeName) -> bool {
        self.conns.get(&conn).is_some_and(|c| c.proof.check(&self.cfg.node, name).is_ok())
    }

    /// A node asks whether it may feed this one.
    pub(super) fn probed(&mut self, conn: ConnId, group: &GroupName, path: &[NodeName]) {
        let answer = match (self.groups.get(group), path.last()) {
            (None, _) => Err(format!("{} is in no group {group}", self.cfg.node)),
            (Some(_), None) => Err("a probe without a path".to_owned()),
            (Some(_), Some(who)) if !self.proven_as(conn, who) => {
                Err(format!("{} has no proof that this is {who}", self.cfg.node))
            }
            (Some(g), Some(who)) => {
                g.rule.check(who, path, self.now).map(|_| ()).map_err(|r| r.text)
            }
        };
        let ok = answer.is_ok();
        self.send(conn, Frame::ProbeReply { ok, text: answer.err().unwrap_or_default() });
    }
}
