//! The end of sessions: what is left to do for those at the other end.

use std::time::Duration;

use rcp::proto::clock::Wall;
use rcp::proto::frame::{GoodbyeCode, RefuseCode, Role};
use rcp::proto::ids::{GroupName, NodeName};
use rcp::proto::session::CloseReason;

use super::{AskId, ConnId, Effect, Level, Mover};

/// How soon a child is dialled again that another feeds.
const FED_AGAIN: Duration = Duration::from_millis(500);

/// A child without a session now.
struct Lost {
    node: NodeName,
    /// Who waits for the outcome of its first handshake.
    asked: Option<AskId>,
    guest: bool,
}

impl Mover {
    pub(super) fn close(&mut self, id: ConnId, code: GoodbyeCode, text: &str) {
        if let Some(c) = self.conns.get_mut(&id) {
            c.session.close(code, text);
        }
        self.drive(id);
    }

    pub(super) fn closed(&mut self, id: ConnId, reason: &CloseReason) {
        let random = self.random();
        let Some(c) = self.conns.get_mut(&id) else { return };
        if std::mem::replace(&mut c.closing, true) {
            return;
        }
        if let Some(first) = c.of {
            return self.further_closed(id, first, reason);
        }
        let (group, peer, role) = (c.group.clone(), c.peer.clone(), c.peer_role);
        let name = c.dialled.clone().or(peer.clone());
        self.end_further(id);
        self.effect(Effect::Close { conn: id });
        let text = reason.to_string();
        if let Some(child) = peer.as_ref().filter(|_| role == Some(Role::Receiver)) {
            self.leave_streams(id, &group, child);
        }
        self.upward_closed(id, &group, role.is_some(), &text);
        let lost = name.and_then(|node| self.child_closed(id, &group, node, (reason, random)));
        self.feeder_closed(id, &group, reason);
        let level = if self.stopping { Level::Info } else { Level::Warn };
        if let Some(Lost { node, asked, guest }) = lost {
            if asked.is_none() {
                self.bypass_lost(&group, &node, reason);
            }
            if guest {
                self.drop_link(&group, &node, "it is gone");
            }
            if let Some(ask) = asked {
                self.route_refused(ask, &group, &node, reason, &text);
            } else if role.is_some() {
                self.note(level, format!("lost {node} of group {group}: {text}"));
            }
        } else if role == Some(Role::Sender) {
            let node = peer.map(|p| p.to_string()).unwrap_or_default();
            self.note(level, format!("lost the parent {node} of group {group}: {text}"));
        }
        // What it still had to send was handed over before; nobody tells us when that is done.
        self.conns.remove(&id);
    }

    /// The streams of a session to a child are over; its places stay.
    fn leave_streams(&mut self, id: ConnId, group: &GroupName, child: &NodeName) {
        let outs = self.conns.get_mut(&id).map(|c| std::mem::take(&mut c.streams_out));
        // A newer session with the same child may already be streaming.
        let link = self.groups.get(group).and_then(|g| g.links.get(child));
        if link.is_some_and(|l| l.conn != Some(id)) {
            return;
        }
        for out in outs.into_iter().flat_map(|o| o.into_values()) {
            if let Some(h) = self.volumes.get_mut(&out.volume) {
                h.volume.consumer_leave(child);
                h.relaying.forget(child);
            }
        }
    }

    /// If the session was the one with a child: it is dialled again.
    fn child_closed(
        &mut self,
        id: ConnId,
        group: &GroupName,
        node: NodeName,
        (reason, random): (&CloseReason, u64),
    ) -> Option<Lost> {
        let (now, wall) = (self.now, self.wall);
        let g = self.groups.get_mut(group)?;
        let dials = g.plan.dialled_by.contains(&node);
        let l = g.links.get_mut(&node).filter(|l| l.conn == Some(id))?;
        // An attempt that failed is not when it was lost.
        if l.up || l.since == Wall(0) {
            l.since = wall;
        }
        l.conn = None;
        l.up = false;
        l.refused = matches!(reason, CloseReason::Refused { .. } | CloseReason::Untrusted(_));
        l.reason = Some(reason.to_string());
        let mut dial_at = l.backoff.failed(reason.to_string(), now, random);
        if let CloseReason::Refused { code: RefuseCode::Fed, .. } = reason {
            // Perhaps by the node above, in the place of this one: until it lets go.
            dial_at = dial_at.min(now.after(FED_AGAIN));
        }
        l.dial_at = (!dials).then_some(dial_at);
        Some(Lost { asked: l.asked.take(), guest: l.guest, node })
    }

    /// If the session was the one with the feeder: nothing comes any more.
    fn feeder_closed(&mut self, id: ConnId, group: &GroupName, reason: &CloseReason) {
        let (now, wall) = (self.now, self.wall);
        let number = self.conns.get(&id).map_or(0, |c| c.feeder);
        if let CloseReason::Goodbye { code: GoodbyeCode::Reconfigured, .. } = reason {
            self.lines_let_go(id);
        }
        let Some(g) = self.groups.get_mut(group) else { return };
        let Some(f) = g.feeder.as_mut().filter(|f| f.conn == Some(id)) else { return };
        f.conn = None;
        f.since = wall;
        f.reason = Some(reason.to_string());
        g.rule.broke(number);
        if let CloseReason::Goodbye { code: GoodbyeCode::Reconfigured, .. } = reason {
            g.rule.released(number, now);
        }
        for h in self.volumes.values_mut().filter(|h| h.group == *group) {
            h.inbound = None;
        }
    }

    /// Ends all sessions in order; nothing is dialled any more.
    pub fn stop(&mut self) {
        self.stopping = true;
        let ids: Vec<_> = self.conns.keys().copied().collect();
        for id in ids {
            self.close(id, GoodbyeCode::Shutdown, "the node is being stopped");
        }
    }
}
