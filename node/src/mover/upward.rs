//! A node that dials the one above it (`dial: child`): behind NAT, or at an address that changes.
//!
//! Who dials changes nothing of the roles: the parent gives the session only to one of its next
//! hops, the child only to the parent that the topology names, and not while another feeds it or it
//! is itself the writer.

use std::time::Duration;

use forwarder::backoff::Backoff;
use rcp::proto::clock::Mono;
use rcp::proto::frame::{GoodbyeCode, RefuseCode, Role};
use rcp::proto::ids::{GroupName, NodeName};
use rcp::proto::session::{CloseReason, Session, SessionConfig, Side};

use super::links::Conn;
use super::{ConnId, Effect, Mover};

/// How long until it is looked at again whether the parent may be dialled.
const AGAIN: Duration = Duration::from_secs(1);
/// How long a new next hop has time to dial.
pub(super) const TO_DIAL: Duration = Duration::from_secs(30);

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

    /// Dials the parent; or why not now.
    fn dial_up(&mut self, name: &GroupName) -> Result<(), String> {
        let now = self.now;
        if self.writes_in(name) {
            return Err("this node is the writer".to_owned());
        }
        let config = self.session_config(name);
        let Some(g) = self.groups.get_mut(name) else { return Ok(()) };
        let Some((parent, hop)) = g.plan.dial_up.clone() else {
            g.up.dial_at = None;
            return Ok(());
        };
        if g.feeder.as_ref().is_some_and(|f| f.conn.is_some()) {
            return Err("it is fed already".to_owned());
        }
        let Some(addr) = self.cfg.addresses.get(&parent).cloned() else {
            return Err(format!("{parent} has no address in the topology"));
        };
        let accepted = g.rule.offer(&parent, &[], now).map_err(|e| e.text)?;
        self.next_conn += 1;
        let conn = ConnId(self.next_conn);
        g.up.conn = Some(conn);
        g.up.dial_at = None;
        g.up.number = accepted.feeder_number;
        let config = SessionConfig { feeder: accepted.feeder_number, ..config };
        let session = Session::new(config, Side::Dialer(Role::Receiver), now);
        self.conns.insert(conn, Conn::new(session, name.clone(), Some(parent.clone())));
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
        let parent = g.plan.dial_up.as_ref().map(|(p, _)| p.clone());
        let checked = parent.map_or(Ok(()), |p| g.rule.check_path(&p, path));
        match checked {
            Ok(()) => {
                g.up.backoff.up(now);
                g.up.reason = None;
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
        g.up.reason = Some(why.to_owned());
        g.up.dial_at = Some(g.up.backoff.failed(why.to_owned(), now, random));
        if !was_up {
            // Nobody feeds this node by an attempt: another may come.
            g.rule.released(g.up.number, now);
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
