//! Feeding the next hops of a child that is away (FWD-06).
//!
//! Whom, and until when, decides `forwarder::bypass`; here that becomes links beside those of the
//! routing table, which is never changed by a bypass. A node that is fed in another's place is a
//! child like any other: it attaches at its own position, and the save volume keeps what it needs.

use forwarder::bypass::{Step, Surroundings};
use forwarder::table::Line;
use rcp::proto::frame::{GoodbyeCode, RefuseCode};
use rcp::proto::ids::{GroupName, NodeName, SetNumber};
use rcp::proto::session::CloseReason;
use rcp::proto::transport::Hop;

use super::sending::{Outbound, Stage};
use super::{Held, Level, Mover};

/// What the decisions are made from.
struct Around<'a> {
    mover: &'a Mover,
    group: &'a GroupName,
}

impl Surroundings for Around<'_> {
    fn next_hops(&self, root: &NodeName, node: &NodeName) -> Vec<NodeName> {
        self.mover.table.onward(self.group, root, node).to_vec()
    }

    fn is_next_hop(&self, node: &NodeName) -> bool {
        let link = self.mover.groups.get(self.group).and_then(|g| g.links.get(node));
        *node == self.mover.cfg.node || link.is_some_and(|l| l.in_place_of.is_none())
    }

    fn has_caught_up(&self, of: &NodeName, node: &NodeName) -> Result<(), String> {
        // What a node without content is sent beside the live stream is for those below it.
        let relays = self.mover.groups.get(self.group).map(|g| &g.plan.relays);
        let relay = relays.is_some_and(|r| r.contains(of));
        let whole = relays.is_none_or(|r| !r.contains(node));
        let here = self.mover.volumes.values().filter(|h| h.group == *self.group);
        for h in here.filter(|h| !h.volume.history().is_empty() && !h.writer.is_fenced()) {
            let Some(theirs) = self.mover.out_to(h, node) else { continue };
            let label = &h.label;
            if whole && matches!(theirs.stage, Stage::Seeding | Stage::CatchingUp) {
                return Err(format!("{node} is being brought back first, volume {label}"));
            }
            let Some(out) = self.mover.out_to(h, of) else {
                return Err(format!("volume {label} is not taken by {of} yet"));
            };
            match out.stage {
                Stage::Streaming => {}
                Stage::Seeding | Stage::CatchingUp if relay => {}
                Stage::Seeding => return Err(format!("{of} is being seeded, volume {label}")),
                Stage::CatchingUp => return Err(format!("{of} is catching up, volume {label}")),
                _ => return Err(format!("{of} does not stream volume {label} yet")),
            }
            let seeded = h.seeded.get(of).copied().unwrap_or(SetNumber::ZERO);
            if out.saved.next() < theirs.saved {
                return Err(format!(
                    "volume {label}: {of} has set {}, {node} has set {}",
                    out.saved, theirs.saved
                ));
            }
            if theirs.saved < seeded && !relay {
                return Err(format!(
                    "volume {label}: {node} has set {}, and {of} nothing before set {seeded}",
                    theirs.saved
                ));
            }
        }
        Ok(())
    }
}

impl Mover {
    /// A volume's stream to a child, while there is one.
    fn out_to(&self, h: &Held, child: &NodeName) -> Option<&Outbound> {
        let conn = self.groups.get(&h.group)?.links.get(child)?.conn?;
        let c = self.conns.get(&conn)?;
        let id = h.volume.config().volume;
        c.streams_out.values().find(|o| o.volume == id)
    }

    /// Who may take the place of a feeder whose session is over, at once: the nodes above, and the
    /// fallbacks, that the topology names; any member, while the way to the feeder is not known up
    /// to the writer.
    pub(super) fn name_above(&mut self, group: &GroupName, node: &NodeName) {
        let here = self.volumes.values().filter(|h| h.group == *group);
        let mut writers = here.filter_map(|h| Some(h.volume.history().last()?.opened_by.clone()));
        let Some(g) = self.groups.get_mut(group) else { return };
        let first = g.rule.line().first();
        let known = first.is_some_and(|f| g.plan.writer.as_ref() == Some(f))
            || first.is_some_and(|f| writers.any(|w| w == *f));
        let mut named = g.plan.above.clone();
        named.extend(g.plan.fallbacks.iter().cloned());
        if !known && g.plan.members.contains(node) {
            named.push(node.clone());
        }
        g.rule.set_named(named);
    }

    /// Takes over and hands back what it is time for.
    pub(super) fn tick_bypass(&mut self) {
        let names: Vec<_> = self.groups.keys().cloned().collect();
        for name in names {
            if self.stopping || self.lets_go(&name) {
                continue;
            }
            let Some(g) = self.groups.get_mut(&name) else { continue };
            let mut bypass = std::mem::take(&mut g.bypass);
            let steps = bypass.steps(self.now, &Around { mover: self, group: &name });
            if let Some(g) = self.groups.get_mut(&name) {
                g.bypass = bypass;
            }
            for step in steps {
                match step {
                    Step::Feed { node, of, again } => self.feed_in_place(&name, node, of, again),
                    Step::Release { node, of } => self.release_to(&name, &node, &of),
                }
            }
        }
    }

    fn feed_in_place(&mut self, group: &GroupName, node: NodeName, of: NodeName, again: bool) {
        let Some(g) = self.groups.get_mut(group) else { return };
        if g.links.contains_key(&node) {
            return;
        }
        g.links.entry(node.clone()).or_default().in_place_of = Some(of.clone());
        if !again {
            let text = format!("group {group}: {of} does not answer: feeding {node} in its place");
            self.note(Level::Warn, text);
        }
        self.add_link(group, &node, Hop::default(), None);
    }

    fn release_to(&mut self, group: &GroupName, node: &NodeName, of: &NodeName) {
        let standing = |l: &super::links::Link| l.in_place_of.is_some();
        if !self.link(group, node).is_some_and(|l| standing(l)) {
            return;
        }
        let text = format!("{of} has caught up and feeds {node} again");
        self.note(Level::Info, format!("group {group}: {text}"));
        self.drop_link(group, node, &text);
        self.pass_controls_on(group, node);
    }

    /// An operator wants a node to be fed in another's place no longer.
    pub(super) fn let_go(&mut self, group: &GroupName, node: &NodeName, of: &NodeName) {
        let text = format!("{node} is fed in the place of {of} no longer: an operator said so");
        self.note(Level::Info, format!("group {group}: {text}"));
        if let Some(g) = self.groups.get_mut(group) {
            g.bypass.leave(node);
        }
        self.drop_link(group, node, &text);
        self.pass_controls_on(group, node);
    }

    /// Nodes below a child that have places in save volumes here, and are not fed from here: they
    /// were fed in its place before this node was started.
    pub(super) fn left_from_bypass(&self, group: &GroupName, child: &NodeName) -> Vec<NodeName> {
        let Some(g) = self.groups.get(group) else { return Vec::new() };
        let here = self.volumes.values().filter(|h| h.group == *group);
        let names = here.flat_map(|h| h.volume.durable().consumers.iter().map(|c| &c.name));
        let left =
            |n: &&NodeName| !g.links.contains_key(*n) && self.table.is_below(group, child, n);
        let found: std::collections::BTreeSet<_> = names.filter(left).cloned().collect();
        found.into_iter().collect()
    }

    /// The session with a child is up.
    pub(super) fn bypass_up(&mut self, group: &GroupName, node: &NodeName) {
        let now = self.now;
        let Some(g) = self.groups.get_mut(group) else { return };
        g.bypass.up(node, now);
        let Some(of) = g.links.get(node).and_then(|l| l.in_place_of.clone()) else {
            // It feeds them again: nothing is kept for them.
            for left in self.left_from_bypass(group, node) {
                self.forget_child(group, &left);
            }
            return;
        };
        self.controls.adopt(group, node, &of);
        self.note(Level::Info, format!("group {group}: feeding {node} in the place of {of}"));
    }

    /// The session with a child ended, or none came about.
    pub(super) fn bypass_lost(&mut self, group: &GroupName, node: &NodeName, reason: &CloseReason) {
        let now = self.now;
        let Some(g) = self.groups.get_mut(group) else { return };
        let (fed, why) = match reason {
            CloseReason::Refused { code: RefuseCode::Fed, text } => (true, text.clone()),
            // Whoever refuses is alive.
            CloseReason::Refused { .. }
            | CloseReason::Untrusted(_)
            | CloseReason::Goodbye { code: GoodbyeCode::Reconfigured, .. } => {
                (false, reason.to_string())
            }
            _ => return g.bypass.lost(node, now),
        };
        g.bypass.refused(node, fed, &why, now);
        let Some(link) = g.links.get(node).filter(|_| fed) else { return };
        if link.in_place_of.is_some() {
            self.note(Level::Info, format!("group {group}: {node} is fed by another: {why}"));
            if let Some(g) = self.groups.get_mut(group) {
                g.links.remove(node);
            }
            self.pass_controls_on(group, node);
        }
        // Whoever feeds it counts it, and keeps what it needs.
        self.forget_child(group, node);
    }

    /// The next hop of this node that a child is below, or is.
    pub(super) fn root_of(&self, group: &GroupName, child: &NodeName) -> NodeName {
        let root = self.groups.get(group).and_then(|g| g.bypass.root(child));
        root.unwrap_or(child).clone()
    }

    /// A node that is fed in another's place told the routes below it.
    pub(super) fn learn_routes(
        &mut self,
        group: &GroupName,
        child: &NodeName,
        routes: &[Line],
    ) -> Result<bool, forwarder::table::RouteError> {
        let root = self.root_of(group, child);
        let news = self.table.update(group, &root, routes)?;
        self.learned |= news;
        Ok(news)
    }
}
