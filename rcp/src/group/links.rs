//! The sessions of an endpoint: one to each child of each group, one from the parent.
//!
//! A session for a known neighbour takes the place of the one before, and what was not finished on
//! that goes on (SESS-07). Children are dialled, again and again with growing waits.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};

use super::clock::{Clock, random};
use super::core::{ConnId, Input};
use super::endpoint::ChildState;
use super::port::{Proof, Visitor};
use super::pump::Command;
use super::setup::{Child, Setup, Trust};
use super::{tasks, wire};
use crate::net::tls::{Proven, Reload};
use crate::proto::backoff::Backoff;
use crate::proto::clock::Mono;
use crate::proto::control::{Below, not_connected};
use crate::proto::frame::{Frame, GoodbyeCode, Hello, RefuseCode, Role};
use crate::proto::ids::{GroupName, NodeName};
use crate::proto::session::{Peer, Peers, Session, SessionConfig, Side, VERSIONS};

/// Frames that may wait for one connection. One that takes none for so long is cut off.
const FRAME_QUEUE: usize = 8192;
/// Sessions at a time.
const MAX_SESSIONS: usize = 1024;
/// How often certificates are looked at again.
const TRUST_EVERY: Duration = Duration::from_secs(10);

/// The way to one child.
struct Link {
    child: Child,
    conn: Option<ConnId>,
    up: bool,
    backoff: Backoff,
    /// When to dial, if there is no connection.
    next: Mono,
    down_since: Mono,
    why: Option<String>,
}

struct Routes {
    children: BTreeMap<NodeName, Link>,
    feeders: Peers,
    parent: Option<(ConnId, NodeName)>,
    /// From the first sender to this endpoint, both included.
    path: Vec<NodeName>,
}

struct Conn {
    group: GroupName,
    commands: mpsc::Sender<Command>,
    /// The child that was dialled.
    child: Option<NodeName>,
    proof: Proof,
    /// True, or gone with the session: its task has a last moment.
    over: watch::Sender<bool>,
}

/// All sessions, and the routing table.
pub(super) struct Links {
    name: NodeName,
    trust: Trust,
    instance: [u8; 16],
    keepalive: Duration,
    groups: BTreeMap<GroupName, Routes>,
    conns: BTreeMap<ConnId, Conn>,
    next_conn: u64,
    next_trust: Mono,
    clock: Arc<Clock>,
    core: mpsc::Sender<Input>,
}

impl Links {
    pub(super) fn new(
        setup: &Setup,
        instance: [u8; 16],
        clock: Arc<Clock>,
        core: mpsc::Sender<Input>,
    ) -> Self {
        let now = clock.mono();
        let link = |child: &Child| Link {
            child: child.clone(),
            conn: None,
            up: false,
            backoff: Backoff::new(),
            next: now,
            down_since: now,
            why: None,
        };
        let routes = setup.groups.iter().map(|(name, g)| {
            let routes = Routes {
                children: g.children.iter().map(|(n, c)| (n.clone(), link(c))).collect(),
                feeders: g.feeders.clone(),
                parent: None,
                path: vec![setup.name.clone()],
            };
            (name.clone(), routes)
        });
        Self {
            name: setup.name.clone(),
            trust: setup.trust.clone(),
            instance,
            keepalive: setup.keepalive,
            groups: routes.collect(),
            conns: BTreeMap::new(),
            next_conn: 0,
            next_trust: now.after(TRUST_EVERY),
            clock,
            core,
        }
    }

    fn config(&self, group: &GroupName, child: Option<&NodeName>, ask: bool) -> SessionConfig {
        let routes = self.groups.get(group);
        SessionConfig {
            versions: VERSIONS,
            node: self.name.clone(),
            instance: self.instance,
            group: group.clone(),
            path: routes.map(|r| r.path.clone()).unwrap_or_default(),
            feeder: 0,
            keepalive: self.keepalive,
            feeders: match (child, routes) {
                (None, Some(r)) => r.feeders.clone(),
                _ => Peers::Only(Vec::new()),
            },
            children: Peers::Only(child.cloned().into_iter().collect()),
            ask,
            join: None,
        }
    }

    fn add(&mut self, conn: Conn) -> ConnId {
        self.next_conn += 1;
        let id = ConnId(self.next_conn);
        self.conns.insert(id, conn);
        id
    }

    /// A connection came in.
    pub(super) fn visitor(&mut self, visitor: Visitor) {
        let Visitor { group, wire, proof } = visitor;
        if self.conns.len() >= MAX_SESSIONS {
            tracing::warn!("a session for {group} is refused: {MAX_SESSIONS} are open");
            return;
        }
        let session =
            Session::new(self.config(&group, None, true), Side::Acceptor, self.clock.mono());
        let (commands, queue) = mpsc::channel(FRAME_QUEUE);
        let (over, ends) = watch::channel(false);
        let id = self.add(Conn { group, commands, child: None, proof, over });
        let (clock, core) = (self.clock.clone(), self.core.clone());
        tasks::start(
            async move { wire::run(id, wire, session, &clock, &core, (queue, ends)).await },
        );
    }

    /// A hello came that breaks no rule of the protocol: is its sender welcome?
    pub(super) fn asked(&mut self, conn: ConnId, hello: &Hello) {
        let Some(c) = self.conns.get(&conn) else { return };
        let no = |code, text: String| Command::Refuse(code, text);
        let known = self.groups.get(&c.group);
        let answer = match (&c.proof, known) {
            (Proof::Missing(why), _) => no(RefuseCode::Untrusted, (*why).to_owned()),
            (Proof::Names(p), _) if !p.names.contains(&hello.node) => {
                let text = format!("the certificate is not of {}", hello.node);
                no(RefuseCode::Untrusted, text)
            }
            (_, None) => {
                let text = format!("{} is not in a group {}", self.name, c.group);
                no(RefuseCode::Group, text)
            }
            (_, Some(Routes { parent: Some((_, fed)), .. })) if *fed != hello.node => {
                no(RefuseCode::Fed, format!("{} is fed by {fed}", self.name))
            }
            _ => Command::Accept,
        };
        let _ = c.commands.try_send(answer);
    }

    /// A session is up; gives the group and the child, if it is to one.
    pub(super) fn up(
        &mut self,
        conn: ConnId,
        peer: Peer,
        now: Mono,
    ) -> Option<(GroupName, NodeName)> {
        let c = self.conns.get(&conn)?;
        let (group, child) = (c.group.clone(), c.child.clone());
        let routes = self.groups.get_mut(&group)?;
        if let Some(child) = child {
            let link = routes.children.get_mut(&child)?;
            link.up = true;
            link.backoff.up(now);
            return Some((group, child));
        }
        if peer.role == Role::Sender {
            let old = routes.parent.replace((conn, peer.node.clone()));
            let path: Vec<_> = peer.path.iter().chain([&self.name]).cloned().collect();
            let moved = std::mem::replace(&mut routes.path, path.clone()) != path;
            if let Some((old, _)) = old.filter(|(old, _)| *old != conn) {
                self.close(old, GoodbyeCode::Replaced, "a newer session takes its place");
            }
            if moved {
                // Children hold the path against loops, and so have to know it.
                self.redial(&group);
            }
        }
        None
    }

    fn redial(&mut self, group: &GroupName) {
        let Some(routes) = self.groups.get(group) else { return };
        let conns: Vec<_> = routes.children.values().filter_map(|l| l.conn).collect();
        for conn in conns {
            self.close(
                conn,
                GoodbyeCode::Reconfigured,
                "the path from the first sender has changed",
            );
            if let Some(link) = self.link_of(conn) {
                link.backoff.reset();
            }
        }
    }

    fn link_of(&mut self, conn: ConnId) -> Option<&mut Link> {
        let c = self.conns.get(&conn)?;
        self.groups.get_mut(&c.group)?.children.get_mut(c.child.as_ref()?)
    }

    /// A connection is over, or could not be made.
    pub(super) fn lost(&mut self, conn: ConnId, why: &str, now: Mono) {
        if let Some(link) = self.link_of(conn).filter(|l| l.conn == Some(conn)) {
            if link.up {
                link.down_since = now;
            }
            (link.conn, link.up, link.why) = (None, false, Some(why.to_owned()));
            let [a, b, c, d, e, f, g, h, ..] = random();
            let random = u64::from_le_bytes([a, b, c, d, e, f, g, h]);
            link.next = link.backoff.failed(why, now, random);
        }
        let Some(c) = self.conns.remove(&conn) else { return };
        if let Some(routes) = self.groups.get_mut(&c.group)
            && routes.parent.as_ref().is_some_and(|(p, _)| *p == conn)
        {
            routes.parent = None;
        }
        tracing::debug!(group = %c.group, child = ?c.child, "a session is over: {why}");
    }

    /// What a child that was dialled has proven.
    pub(super) fn proven(&mut self, conn: ConnId, proven: Proven) {
        if let Some(c) = self.conns.get_mut(&conn) {
            c.proof = Proof::Names(proven);
        }
    }

    fn close(&self, conn: ConnId, code: GoodbyeCode, why: &str) {
        if let Some(c) = self.conns.get(&conn) {
            let _ = c.commands.try_send(Command::Close(code, why.to_owned()));
            // A peer that reads nothing would keep the word from being said, and itself here.
            let _ = c.over.send(true);
        }
    }

    /// Dials who is to be dialled, and looks at certificates now and then.
    pub(super) fn tick(&mut self, now: Mono) {
        let due: Vec<_> = self
            .groups
            .iter()
            .flat_map(|(g, r)| r.children.iter().map(move |(n, l)| (g, n, l)))
            .filter(|(_, _, l)| l.conn.is_none() && l.next <= now)
            .map(|(g, n, _)| (g.clone(), n.clone()))
            .collect();
        for (group, child) in due {
            self.dial(group, child);
        }
        if now >= self.next_trust {
            self.next_trust = now.after(TRUST_EVERY);
            self.judge();
        }
    }

    fn dial(&mut self, group: GroupName, node: NodeName) {
        let config = self.config(&group, Some(&node), false);
        let (commands, queue) = mpsc::channel(FRAME_QUEUE);
        let (over, ends) = watch::channel(false);
        let conn = Conn {
            group: group.clone(),
            commands,
            child: Some(node.clone()),
            proof: Proof::Unasked,
            over,
        };
        let id = self.add(conn);
        let Some(link) = self.link_of(id) else { return };
        link.conn = Some(id);
        let (child, trust) = (link.child.clone(), self.trust.clone());
        let (clock, core) = (self.clock.clone(), self.core.clone());
        tasks::start(async move {
            let (wire, proven) = match wire::dial(&trust, &child, &node, &group).await {
                Ok(dialled) => dialled,
                Err(why) => {
                    let _ = core.send(Input::Unreachable { conn: id, why }).await;
                    return;
                }
            };
            if let Some(proven) = proven {
                let _ = core.send(Input::Proven { conn: id, proven }).await;
            }
            let session = Session::new(config, Side::Dialer(Role::Sender), clock.mono());
            wire::run(id, wire, session, &clock, &core, (queue, ends)).await;
        });
    }

    /// Takes new certificates and revocation lists, and ends sessions that they do not allow.
    fn judge(&mut self) {
        let Trust::Certificates(pki) = &self.trust else { return };
        if let Reload::Kept(e) = pki.reload() {
            tracing::warn!("{e}; the certificates in use stay");
        }
        for (id, c) in &self.conns {
            if let Proof::Names(proven) = &c.proof
                && let Some(untrusted) = pki.judge_again(proven)
            {
                self.close(*id, GoodbyeCode::Untrusted, &untrusted.to_string());
            }
        }
    }

    /// Says goodbye to everybody.
    pub(super) fn stop(&mut self) {
        for id in self.conns.keys() {
            self.close(*id, GoodbyeCode::Shutdown, "the endpoint was stopped");
        }
    }

    pub(super) fn group_of(&self, conn: ConnId) -> Option<GroupName> {
        self.conns.get(&conn).map(|c| c.group.clone())
    }

    pub(super) fn child_of(&self, conn: ConnId) -> Option<(GroupName, NodeName)> {
        let c = self.conns.get(&conn)?;
        Some((c.group.clone(), c.child.clone()?))
    }

    /// The next hops that a block is passed to: all of the group; of those, pieces of a pipe go to no
    /// child that has been away for too long.
    pub(super) fn for_block(
        &self,
        group: &GroupName,
        data: bool,
        now: Mono,
        patience: Duration,
    ) -> BTreeSet<NodeName> {
        let Some(routes) = self.groups.get(group) else { return BTreeSet::new() };
        let goes = |l: &Link| !data || l.up || now.since(l.down_since) < patience;
        routes.children.iter().filter(|(_, l)| goes(l)).map(|(n, _)| n.clone()).collect()
    }

    /// Why a child has been away for longer than `patience`, if it has.
    pub(super) fn away(
        &self,
        group: &GroupName,
        child: &NodeName,
        now: Mono,
        patience: Duration,
    ) -> Option<String> {
        let link = self.groups.get(group)?.children.get(child)?;
        let long = !link.up && now.since(link.down_since) >= patience;
        long.then(|| not_connected(link.why.as_deref()))
    }

    pub(super) fn below(&self, group: &GroupName, child: &NodeName) -> Below {
        match self.groups.get(group).and_then(|r| r.children.get(child)) {
            Some(l) if l.up => Below::Up,
            Some(l) => Below::Away(not_connected(l.why.as_deref())),
            None => Below::Gone,
        }
    }

    pub(super) fn children(&self, group: &GroupName) -> Vec<ChildState> {
        let children = self.groups.get(group).map(|r| r.children.iter());
        let state = |(n, l): (&NodeName, &Link)| ChildState {
            node: n.clone(),
            connected: l.up,
            why: if l.up { None } else { l.why.clone() },
        };
        children.into_iter().flatten().map(state).collect()
    }

    /// Sends a frame to a child, if it is connected.
    pub(super) fn pass(&mut self, group: &GroupName, child: &NodeName, frame: Frame) {
        let link = self.groups.get(group).and_then(|r| r.children.get(child));
        if let Some(conn) = link.filter(|l| l.up).and_then(|l| l.conn) {
            self.send(conn, frame);
        }
    }

    pub(super) fn send(&mut self, conn: ConnId, frame: Frame) {
        let Some(c) = self.conns.get(&conn) else { return };
        if let Err(mpsc::error::TrySendError::Full(_)) = c.commands.try_send(Command::Send(frame)) {
            // Its task ends with its queue; what it has not got goes over the next connection.
            self.lost(conn, "the peer does not read what it is sent", self.clock.mono());
        }
    }
}
