//! A node that dials the one above it (`dial: child`): behind NAT, or at an address that changes.
//!
//! Who dials changes nothing of the roles: the parent gives the session only to one of its next
//! hops, the child only to the parent that the topology names, and not while another feeds it or it
//! is itself the writer.
//!
//! When the parent does not answer, such a node dials those above it in turn, which may feed it in
//! the parent's place; and any node that nobody feeds dials the fallbacks that the topology names.
//! It returns from a fallback when one that is above it has been dialling it for a while.

use std::time::Duration;

use forwarder::backoff::Backoff;
use rcp::proto::clock::Mono;
use rcp::proto::frame::{GoodbyeCode, RefuseCode, Role};
use rcp::proto::ids::{GroupName, NodeName};
use rcp::proto::session::{CloseReason, Session, SessionConfig, Side};
use rcp::proto::transport::Hop;

use super::further::Further;
use super::links::Conn;
use super::{ConnId, Effect, Mover};

/// How long until it is looked at again whether the parent may be dialled.
const AGAIN: Duration = Duration::from_secs(1);
/// How long a new next hop has time to dial.
pub(super) const TO_DIAL: Duration = Duration::from_secs(30);

/// How long nobody has fed a node before it asks its fallbacks, and how long a node above it has to
/// dial before it returns from one.
const FALLBACK_AFTER: Duration = Duration::from_secs(5);
/// Who has not dialled for so long does not dial any more.
const DIALS_NO_MORE: Duration = Duration::from_secs(20);

/// The way up.
#[derive(Debug, Default)]
pub(super) struct Upward {
    pub(super) dial_at: Option<Mono>,
    conn: Option<ConnId>,
    backoff: Backoff,
    /// Why there is no session, in words.
    pub(super) reason: Option<String>,
    /// The feeder number of the session that is being dialled.
    number: u32,
    /// Who is dialled, or was last.
    to: Option<NodeName>,
    /// Attempts since the last session: who is next.
    turn: usize,
    /// Since when nobody has fed this node.
    unfed: Option<Mono>,
    /// A node above has been dialling since, and did so last, while a fallback feeds this one.
    wanted: Option<(Mono, Mono)>,
}

impl Upward {
    /// A session upward is up, or being set up.
    pub(super) fn is_dialling(&self) -> bool {
        self.conn.is_some()
    }
}

impl Mover {
    /// Dials parents whose time it is.
    pub(super) fn tick_upward(&mut self) {
        let now = self.now;
        let due = |u: &Upward| u.conn.is_none() && u.dial_at.is_some_and(|t| t <= now);
        let due: Vec<_> =
            self.groups.iter().filter(|(_, g)| due(&g.up)).map(|(n, _)| n.clone()).collect();
        for group in due {
            if let Err(why) = self.dial_up(&group)
                && let Some(g) = self.groups.get_mut(&group)
            {
                g.up.reason = Some(why);
                g.up.dial_at = Some(now.after(AGAIN));
            }
        }
    }

    /// Who may be dialled to feed this node, in turn.
    fn ways_up(&self, name: &GroupName) -> Vec<(NodeName, Hop)> {
        let Some(g) = self.groups.get(name) else { return Vec::new() };
        let plain = || Hop { limit: None, ..g.plan.hop.clone() };
        let mut out: Vec<(NodeName, Hop)> = g.plan.dial_up.iter().cloned().collect();
        let bypass = !out.is_empty() && !g.plan.no_bypass;
        let above = g.rule.line().iter().rev().chain(&g.plan.above).filter(|_| bypass);
        let unfed = g.up.unfed.is_some_and(|t| self.now.since(t) >= FALLBACK_AFTER);
        let last = g.plan.fallbacks.iter().filter(|_| unfed);
        for node in above.chain(last).filter(|n| **n != self.cfg.node) {
            if out.iter().all(|(n, _)| n != node) {
                out.push((node.clone(), plain()));
            }
        }
        out
    }

    /// Dials the parent; or why not now.
    fn dial_up(&mut self, name: &GroupName) -> Result<(), String> {
        let now = self.now;
        if self.writes_in(name) {
            return Err("this node is the writer".to_owned());
        }
        let config = self.session_config(name);
        let Some(g) = self.groups.get_mut(name) else { return Ok(()) };
        if g.plan.dial_up.is_none() && g.plan.fallbacks.is_empty() {
            g.up.dial_at = None;
            return Ok(());
        }
        if g.feeder.as_ref().is_some_and(|f| f.conn.is_some()) {
            g.up.unfed = None;
            return Err("it is fed already".to_owned());
        }
        g.up.unfed.get_or_insert(now);
        let turn = g.up.turn;
        let ways = self.ways_up(name);
        let Some((parent, hop)) = ways.get(turn % ways.len().max(1)).cloned() else {
            // Whoever is above has some more time.
            if let Some(g) = self.groups.get_mut(name) {
                g.up.dial_at = Some(now.after(AGAIN));
            }
            return Ok(());
        };
        self.name_above(name, &parent);
        let Some(g) = self.groups.get_mut(name) else { return Ok(()) };
        g.up.turn += 1;
        let Some(addr) = self.cfg.addresses.get(&parent).cloned() else {
            return Err(format!("{parent} has no address in the topology"));
        };
        let accepted = g.rule.offer(&parent, &[], now).map_err(|e| e.text)?;
        self.next_conn += 1;
        let conn = ConnId(self.next_conn);
        g.up.conn = Some(conn);
        g.up.dial_at = None;
        g.up.to = Some(parent.clone());
        g.up.number = accepted.feeder_number;
        let config = SessionConfig { feeder: accepted.feeder_number, ..config };
        let session = Session::new(config, Side::Dialer(Role::Receiver), now);
        let mut c = Conn::new(session, name.clone(), Some(parent.clone()));
        c.further = Further::to(&addr, &parent, &hop);
        self.conns.insert(conn, c);
        let group = name.clone();
        self.effect(Effect::Dial { conn, addr, node: parent, hop, group });
        self.drive(conn);
        Ok(())
    }

    /// A session with the parent is up; it may turn out that this node cannot be below it.
    pub(super) fn upward_up(&mut self, conn: ConnId, group: &GroupName, path: &[NodeName]) -> bool {
        let now = self.now;
        let Some(g) = self.groups.get_mut(group).filter(|g| g.up.conn == Some(conn)) else {
            return true;
        };
        let parent = g.up.to.clone();
        let checked = parent.as_ref().map_or(Ok(()), |p| g.rule.check_path(p, path));
        match checked {
            Ok(()) => {
                if let Some(p) = parent.filter(|p| !g.plan.fallbacks.contains(p)) {
                    g.rule.placed(&p, path);
                }
                g.up.backoff.up(now);
                (g.up.reason, g.up.unfed, g.up.wanted, g.up.turn) = (None, None, None, 0);
                true
            }
            Err(refused) => {
                g.rule.released(g.up.number, now);
                self.close(conn, GoodbyeCode::Reconfigured, &refused.text);
                false
            }
        }
    }

    /// A connection is over: if it was the one upward, it is dialled again after a while.
    pub(super) fn upward_closed(
        &mut self,
        conn: ConnId,
        group: &GroupName,
        was_up: bool,
        why: &str,
    ) {
        let (now, random) = (self.now, self.random());
        let Some(g) = self.groups.get_mut(group).filter(|g| g.up.conn == Some(conn)) else {
            return;
        };
        g.up.conn = None;
        g.up.unfed.get_or_insert(now);
        g.up.reason = Some(why.to_owned());
        g.up.dial_at = Some(g.up.backoff.failed(why.to_owned(), now, random));
        if !was_up {
            // Nobody feeds this node by an attempt: another may come.
            g.rule.released(g.up.number, now);
        }
    }

    /// A node above this one dials, while a fallback feeds it: when that has gone on for a while, the
    /// fallback is let go.
    pub(super) fn return_from_fallback(&mut self, group: &GroupName, from: &NodeName) {
        let now = self.now;
        let Some(g) = self.groups.get_mut(group) else { return };
        let Some(conn) =
            g.up.conn.filter(|c| g.feeder.as_ref().is_some_and(|f| f.conn == Some(*c)))
        else {
            return;
        };
        let to = g.up.to.as_ref();
        let stepped_in = to.is_some_and(|n| g.plan.fallbacks.contains(n) && n != from);
        let above = g.plan.above.contains(from) || g.rule.line().contains(from);
        if !stepped_in || !above || g.plan.dial_up.is_some() {
            return;
        }
        let since = g.up.wanted.filter(|(_, last)| now.since(*last) < DIALS_NO_MORE);
        let since = since.map_or(now, |(since, _)| since);
        g.up.wanted = Some((since, now));
        if now.since(since) >= FALLBACK_AFTER {
            g.rule.released(g.up.number, now);
            let text = format!("{from} is back, which is above {}", self.cfg.node);
            self.close(conn, GoodbyeCode::Reconfigured, &text);
        }
    }

    /// A new next hop that dials has not done so in time.
    pub(super) fn has_not_dialled(&mut self, group: &GroupName, hop: &NodeName) {
        let Some(l) = self.link(group, hop) else { return };
        l.dial_at = None;
        let Some(ask) = l.asked.take() else { return };
        let node = &self.cfg.node;
        let text = format!(
            "it dials {node} by itself (`dial: child`), and has not done so within {} s: is it up?",
            TO_DIAL.as_secs()
        );
        let reason = CloseReason::Refused { code: RefuseCode::NotReady, text: text.clone() };
        self.route_refused(ask, group, hop, &reason, &text);
    }
}
