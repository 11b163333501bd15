//! Connections: dialling children, handshakes, who may feed this node.
//!
//! A node dials its next hops and takes one feeder per group. A second feeder is refused while the
//! first was heard lately and did not say goodbye for good; a node that finds itself on the path
//! from the primary refuses, so that no loop can close.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use forwarder::backoff::Backoff;
use forwarder::bypass::Bypass;
use forwarder::feeder;
use forwarder::table::Table;
use rcp::proto::clock::{Mono, Wall};
use rcp::proto::frame::{
    DecodedFrame, Frame, FrameType, GoodbyeCode, Hello, JoinKey, Offer, RefuseCode, Role, StreamId,
};
use rcp::proto::ids::{GroupName, Label, NodeName, VolumeId};
use rcp::proto::pace::Pace;
use rcp::proto::session::{Event, Peer, Peers, Session, SessionConfig, Side, VERSIONS, abilities};
use rcp::proto::transport::Hop;

use super::further::Further;
use super::history::Confirm;
use super::sending::Outbound;
use super::trust::Proof;
use super::upward::{TO_DIAL, Upward};
use super::{AskId, ConnId, Effect, Level, Mover};

/// What a group is to this node, from the topology.
#[derive(Clone, Debug, Default)]
pub struct GroupPlan {
    /// This node owns the writable volumes.
    pub primary: bool,
    /// It keeps replicas of what it is fed.
    pub replica: bool,
    /// The primary according to the topology file, to tell a failover from drift.
    pub writer: Option<NodeName>,
    /// Next hops according to the topology file, to show drift.
    pub planned: Vec<NodeName>,
    /// Members of the group, and who else may feed this node.
    pub members: Vec<NodeName>,
    /// Members that keep no replica: what comes through them is the word of the node above.
    pub relays: BTreeSet<NodeName>,
    /// What a primary that comes back needs before it lets writers in.
    pub confirm: Confirm,
    /// How hops are crossed that say nothing of their own.
    pub hop: Hop,
    /// What the topology file says of single next hops of this node, to show drift.
    pub planned_ways: BTreeMap<NodeName, Hop>,
    /// What volumes of the group are to be called here, by what the group calls them.
    pub labels: BTreeMap<Label, Label>,
    /// The node above, if it is dialled from here, and how.
    pub dial_up: Option<(NodeName, Hop)>,
    /// Next hops that dial this node.
    pub dialled_by: BTreeSet<NodeName>,
    /// Nodes above this one according to the topology file, the parent first.
    pub above: Vec<NodeName>,
    /// Who is asked to feed this node, in this order, when neither its parent nor a node above does.
    pub fallbacks: Vec<NodeName>,
    /// Those whose fallback this node is, and their parents.
    pub fallback_of: BTreeMap<NodeName, NodeName>,
    /// A child that is away is not bypassed.
    pub no_bypass: bool,
    /// Replicas here that are older refuse reads.
    pub max_staleness: Option<std::time::Duration>,
}

/// A connection that came in.
#[derive(Clone, Debug)]
pub struct Accepted {
    /// Which group it named.
    pub group: GroupName,
    /// What its other side has proven.
    pub proof: Proof,
    /// Its address, without the port.
    pub from: String,
    /// When it began: the handshake has to be over soon after that, whatever came before.
    pub since: Mono,
    /// Random: with it further connections may join the session. None if it cannot have any, nor be
    /// one.
    pub secret: Option<[u8; 16]>,
}

/// A group this node is in.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) plan: GroupPlan,
    pub(super) links: BTreeMap<NodeName, Link>,
    pub(super) feeder: Option<Feeder>,
    /// Who may be that.
    pub(super) rule: feeder::Feeder,
    /// Offers whose volume is being created.
    pub(super) pending_offers: BTreeMap<VolumeId, (ConnId, Offer)>,
    /// The way up, if the parent is dialled from here.
    pub(super) up: Upward,
    /// Who is fed in the place of a child that is away.
    pub(super) bypass: Bypass,
}

/// Who feeds this node.
#[derive(Debug)]
pub(super) struct Feeder {
    pub(super) node: NodeName,
    /// While it is connected.
    pub(super) conn: Option<ConnId>,
    pub(super) path: Vec<NodeName>,
    pub(super) since: Wall,
    pub(super) sessions: u64,
    pub(super) bytes: u64,
    pub(super) reason: Option<String>,
}

/// A next hop.
#[derive(Debug, Default)]
pub(super) struct Link {
    pub(super) conn: Option<ConnId>,
    pub(super) up: bool,
    pub(super) backoff: Backoff,
    pub(super) dial_at: Option<Mono>,
    pub(super) reason: Option<String>,
    pub(super) refused: bool,
    pub(super) since: Wall,
    pub(super) bytes: u64,
    pub(super) sessions: u64,
    /// `rcproute add` waits for the outcome of the first handshake.
    pub(super) asked: Option<AskId>,
    /// How it is reached, where that differs from what the group says.
    pub(super) by: Hop,
    /// Keeps to its limit.
    pub(super) pace: Pace,
    /// Data could not go because of it.
    pub(super) waits: bool,
    /// It is fed in the place of this node, which is away: no route leads to it.
    pub(super) in_place_of: Option<NodeName>,
    /// It came by itself, since this node is one of its fallbacks: it is not dialled.
    pub(super) guest: bool,
}

impl Group {
    /// A route leads to a node, or to one that it may be fed in the place of.
    pub(super) fn feeds(&self, table: &Table, group: &GroupName, node: &NodeName) -> bool {
        let below = |l| table.is_below(group, l, node);
        self.links.contains_key(node)
            || self.plan.fallback_of.contains_key(node)
            || self.links.keys().any(below)
    }

    /// What comes from the feeder is the writer's own, perhaps passed on by nodes without content.
    pub(super) fn is_fed_by_writer(&self) -> bool {
        let path = self.feeder.as_ref().map(|f| f.path.as_slice()).unwrap_or_default();
        path.split_first().is_some_and(|(_, way)| way.iter().all(|n| self.plan.relays.contains(n)))
    }

    fn new(node: &NodeName, name: &GroupName) -> Self {
        Self {
            plan: GroupPlan::default(),
            links: BTreeMap::new(),
            feeder: None,
            rule: feeder::Feeder::with_defaults(node.clone(), name.clone()),
            pending_offers: BTreeMap::new(),
            up: Upward::default(),
            bypass: Bypass::default(),
        }
    }

    pub(super) fn timeouts(&self, now: Mono) -> impl Iterator<Item = Mono> {
        let links = self.links.values().filter_map(|l| l.dial_at);
        links.chain(self.up.dial_at).chain(self.bypass.timeout(now))
    }
}

/// One connection.
#[derive(Debug)]
pub(super) struct Conn {
    pub(super) session: Session,
    pub(super) group: GroupName,
    /// The next hop it was dialled for.
    pub(super) dialled: Option<NodeName>,
    pub(super) peer: Option<NodeName>,
    /// What the peer is in the session, once it is up.
    pub(super) peer_role: Option<Role>,
    /// Bytes handed to the runtime and not yet reported as sent.
    pub(super) queued: u64,
    pub(super) streams_out: BTreeMap<StreamId, Outbound>,
    pub(super) streams_in: BTreeMap<StreamId, VolumeId>,
    /// Data of seeds that waits for the hop's limit, and what comes after it.
    pub(super) held: VecDeque<Frame>,
    /// Whose turn it is to send data: a stream's, or that of what is held.
    pub(super) turn: usize,
    /// Feeder number of the session.
    pub(super) feeder: u32,
    /// The version of the protocol that was chosen.
    pub(super) version: u16,
    /// What the other side has proven; one that was dialled has proven its name, or need not.
    pub(super) proof: Proof,
    /// Its address, if it connected.
    pub(super) from: String,
    pub(super) closing: bool,
    /// It is a further connection of the session that this one carries.
    pub(super) of: Option<ConnId>,
    /// The place that was said of the next frame.
    pub(super) place: Option<u64>,
    /// The peer as the session knows it, once it is up.
    pub(super) met: Option<Peer>,
    /// The other connections of the session that this is the first of.
    pub(super) further: Further,
}

impl Mover {
    /// Enters a group; next hops come from the stored routing table.
    pub fn add_group(&mut self, name: GroupName, plan: GroupPlan) {
        let hops: Vec<_> = self.table.next_hops(&name).map(<[_]>::to_vec).unwrap_or_default();
        let node = &self.cfg.node;
        let group = self.groups.entry(name.clone()).or_insert_with(|| Group::new(node, &name));
        group.bypass.set_on(!plan.no_bypass);
        group.plan = plan;
        let dials = group.plan.dial_up.is_some() || !group.plan.fallbacks.is_empty();
        group.up.dial_at = dials.then_some(self.now);
        for hop in hops {
            let by = self.table.hop(&name, &hop);
            self.add_link(&name, &hop, by, None);
        }
        let here: Vec<_> =
            self.volumes.iter().filter(|(_, h)| h.group == name).map(|(id, _)| *id).collect();
        for id in here {
            self.forget_removed(id);
            self.begin_confirming(id);
            // How old its states may be is known only now.
            self.judge_age(id);
        }
    }

    pub(super) fn add_link(
        &mut self,
        group: &GroupName,
        hop: &NodeName,
        by: Hop,
        asked: Option<AskId>,
    ) {
        let (now, wall) = (self.now, self.wall);
        let was_bypassed = !self.left_from_bypass(group, hop).is_empty();
        if let Some(g) = self.groups.get_mut(group) {
            let link = g.links.entry(hop.clone()).or_default();
            link.dial_at = Some(now);
            if g.plan.dialled_by.contains(hop) {
                link.dial_at = asked.map(|_| now.after(TO_DIAL));
                link.reason = Some("it dials this node (`dial: child`)".to_owned());
            }
            link.since = wall;
            link.asked = asked;
            link.by = by;
            if link.asked.is_none() && link.in_place_of.is_none() {
                g.bypass.starts(hop, was_bypassed, now);
            }
        }
        self.tick_links();
    }

    /// Nodes from the primary to this one.
    pub(super) fn path(&self, group: &GroupName) -> Vec<NodeName> {
        // Where the writer is, the path begins, whoever fed it before.
        if self.writes_in(group) {
            return vec![self.cfg.node.clone()];
        }
        let mut path = self
            .groups
            .get(group)
            .and_then(|g| g.feeder.as_ref())
            .map(|f| f.path.clone())
            .unwrap_or_default();
        path.push(self.cfg.node.clone());
        path
    }

    pub(super) fn session_config(&self, group: &GroupName) -> SessionConfig {
        let plan = self.groups.get(group).map(|g| g.plan.clone()).unwrap_or_default();
        SessionConfig {
            versions: self.cfg.versions,
            node: self.cfg.node.clone(),
            instance: self.cfg.instance,
            group: group.clone(),
            path: self.path(group),
            feeder: 0,
            keepalive: self.cfg.keepalive,
            // A writer is fed by nobody; who tries may know of a newer one.
            feeders: Peers::Only(plan.members),
            children: Peers::Any,
            ask: true,
            join: None,
        }
    }

    pub(super) fn tick_links(&mut self) {
        let now = self.now;
        if !self.stopping {
            let due: Vec<_> = self
                .groups
                .iter()
                .flat_map(|(g, group)| group.links.iter().map(move |(n, l)| (g, n, l)))
                .filter(|(_, _, l)| l.conn.is_none() && l.dial_at.is_some_and(|t| t <= now))
                .filter(|(g, _, _)| !self.lets_go(g))
                .map(|(g, n, _)| (g.clone(), n.clone()))
                .collect();
            for (group, node) in due {
                if self.groups.get(&group).is_some_and(|g| g.plan.dialled_by.contains(&node)) {
                    self.has_not_dialled(&group, &node);
                } else {
                    self.dial(&group, &node);
                }
            }
            self.tick_upward();
            self.tick_further();
        }
        let ids: Vec<_> = self
            .conns
            .iter()
            .filter(|(_, c)| c.session.poll_timeout().is_some_and(|t| t <= now))
            .map(|(id, _)| *id)
            .collect();
        for id in ids {
            if let Some(c) = self.conns.get_mut(&id) {
                c.session.handle_timeout(now);
            }
            self.drive(id);
        }
    }

    fn dial(&mut self, group: &GroupName, node: &NodeName) {
        let Some(addr) = self.cfg.addresses.get(node).cloned() else {
            if let Some(l) = self.link(group, node) {
                l.dial_at = None;
                l.reason = Some(format!("{node} has no address in the topology"));
            }
            return;
        };
        let Some(hop) = self.way(group, node) else { return };
        self.next_conn += 1;
        let id = ConnId(self.next_conn);
        let cfg = self.session_config(group);
        let session = Session::new(cfg, Side::Dialer(Role::Sender), self.now);
        let mut conn = Conn::new(session, group.clone(), Some(node.clone()));
        conn.further = Further::to(&addr, node, &hop);
        self.conns.insert(id, conn);
        if let Some(l) = self.link(group, node) {
            l.conn = Some(id);
            l.dial_at = None;
        }
        let (node, group) = (node.clone(), group.clone());
        self.effect(Effect::Dial { conn: id, addr, node, hop, group });
        self.drive(id);
    }

    /// How a next hop is reached, with what its group says where it says nothing.
    pub(super) fn way(&self, group: &GroupName, node: &NodeName) -> Option<Hop> {
        let g = self.groups.get(group)?;
        Some(g.links.get(node)?.by.or(&g.plan.hop))
    }

    pub(super) fn link(&mut self, group: &GroupName, node: &NodeName) -> Option<&mut Link> {
        self.groups.get_mut(group)?.links.get_mut(node)
    }

    /// A peer connected and named a group.
    pub fn accepted(&mut self, now: Mono, wall: Wall, a: Accepted) -> ConnId {
        self.time(now, wall);
        self.next_conn += 1;
        let id = ConnId(self.next_conn);
        let can = abilities(self.cfg.versions.1).join;
        let key = a.secret.filter(|_| can).map(|secret| JoinKey { session: id.0, secret });
        let cfg = SessionConfig { join: key, ..self.session_config(&a.group) };
        let session = Session::new(cfg, Side::Acceptor, a.since);
        let mut conn = Conn::new(session, a.group, None);
        conn.further.key = key;
        conn.proof = a.proof;
        conn.from = a.from;
        self.conns.insert(id, conn);
        id
    }

    /// Bytes of frames were written to the connection's socket.
    pub fn sent(&mut self, conn: ConnId, bytes: u64) {
        if let Some(c) = self.conns.get_mut(&conn) {
            c.queued = c.queued.saturating_sub(bytes);
        }
        self.pump_conn(self.first_of(conn));
    }

    /// Part of a long frame came: the peer is alive.
    pub fn alive(&mut self, now: Mono, wall: Wall, conn: ConnId) {
        self.time(now, wall);
        if let Some(c) = self.conns.get_mut(&conn) {
            c.session.note_received(now);
        }
        self.heard_feeder(conn);
        self.signs_wait(self.first_of(conn));
    }

    /// The connection that carries the session of this one.
    fn first_of(&self, conn: ConnId) -> ConnId {
        self.conns.get(&conn).and_then(|c| c.of).unwrap_or(conn)
    }

    fn heard_feeder(&mut self, conn: ConnId) {
        let conn = self.first_of(conn);
        let Some(c) = self.conns.get(&conn).filter(|c| c.peer_role == Some(Role::Sender)) else {
            return;
        };
        if let Some(g) = self.groups.get_mut(&c.group) {
            g.rule.heard(c.feeder, self.now);
        }
    }

    /// The connection is gone (or never came about).
    pub fn lost(&mut self, now: Mono, wall: Wall, conn: ConnId, reason: &str) {
        self.time(now, wall);
        if let Some(c) = self.conns.get_mut(&conn) {
            c.session.handle_broken(reason);
        }
        self.drive(conn);
        self.conns.remove(&conn);
    }

    /// What came on the connection is no sound frame: the peer is told, and it ends.
    pub fn nonsense(&mut self, now: Mono, wall: Wall, conn: ConnId, text: &str) {
        self.time(now, wall);
        if let Some(c) = self.conns.get_mut(&conn) {
            c.session.handle_nonsense(text);
        }
        self.drive(conn);
    }

    pub(super) fn conn_frame(&mut self, id: ConnId, frame: DecodedFrame) {
        self.heard_feeder(id);
        if let Some(frame) = self.in_its_place(id, frame) {
            self.act_on(id, frame);
        }
    }

    /// A frame whose turn it is.
    pub(super) fn act_on(&mut self, id: ConnId, frame: DecodedFrame) {
        let now = self.now;
        let Some(c) = self.conns.get_mut(&id) else { return };
        let kind = frame.frame.frame_type();
        if matches!(kind, FrameType::Chunk | FrameType::SetEnd | FrameType::SeedData) {
            // Verified in the connection's own task; the content does not pass the session.
            if c.session.admit(now, kind) {
                self.data_frame(id, frame);
            }
        } else {
            c.session.handle_frame(now, frame.frame);
        }
        self.drive(id);
    }

    /// Sends what the session has to send and acts on its events.
    pub(super) fn drive(&mut self, id: ConnId) {
        loop {
            let Some(c) = self.conns.get_mut(&id) else { return };
            while let Some(frame) = c.session.poll_transmit() {
                self.effects.push_back(Effect::Send { conn: id, frame });
            }
            let Some(event) = c.session.poll_event() else { return };
            match event {
                Event::Asked(hello) => self.asked(id, &hello),
                Event::Up(peer) => {
                    c.peer = Some(peer.node.clone());
                    c.peer_role = Some(peer.role);
                    c.feeder = peer.feeder;
                    c.version = peer.version;
                    let met = peer.clone();
                    self.up(id, peer.node, peer.role, peer.path);
                    self.begin_further(id, &met);
                }
                Event::Joins(join) => self.asked_to_join(id, &join),
                Event::Joined => self.joined(id),
                Event::Frame(frame) => self.control_frame(id, frame),
                Event::Closed(reason) => self.closed(id, &reason),
            }
        }
    }

    /// Decides whether a peer that said hello may have its session.
    fn asked(&mut self, id: ConnId, hello: &Hello) {
        let now = self.now;
        if !self.trusts(id, &hello.node) {
            return;
        }
        let named = self.conns.get(&id).map(|c| c.group.clone());
        if let Some(group) = named.as_ref().filter(|_| hello.role == Role::Sender) {
            self.name_above(group, &hello.node);
            self.return_from_fallback(group, &hello.node);
        }
        let refused = named.and_then(|g| self.not_above_a_writer(&g, hello));
        let Some(c) = self.conns.get_mut(&id) else { return };
        let group_name = c.group.clone();
        let Some(group) = self.groups.get_mut(&group_name) else {
            let text = format!(
                "group {group_name} is not in the routing table of {}: add it there first",
                self.cfg.node
            );
            c.session.refuse(RefuseCode::Group, &text);
            return;
        };
        if hello.role == Role::Receiver {
            // It dials to be fed (a child behind NAT): only if it is one of our next hops.
            if let Some(of) = group.plan.fallback_of.get(&hello.node) {
                let guest = || Link {
                    guest: true,
                    in_place_of: Some(of.clone()),
                    since: self.wall,
                    ..Link::default()
                };
                group.links.entry(hello.node.clone()).or_insert_with(guest);
            }
            if group.links.contains_key(&hello.node) {
                c.session.accept(now, 0);
            } else {
                let text = format!(
                    "{} is not a next hop of {} for group {group_name}: rcproute add \
                     group={group_name} nexthop={}",
                    hello.node, self.cfg.node, hello.node
                );
                c.session.refuse(RefuseCode::Peer, &text);
            }
            return;
        }
        if let Some(text) = refused {
            c.session.refuse(RefuseCode::Loop, &text);
            return;
        }
        // Also to a writer: who offers it an older history is told of the newer one.
        match group.rule.offer(&hello.node, &hello.path, now) {
            Ok(accepted) => c.session.accept(now, accepted.feeder_number),
            Err(refused) => c.session.refuse(refused.kind.code(), &refused.text),
        }
    }

    fn up(&mut self, id: ConnId, node: NodeName, role: Role, path: Vec<NodeName>) {
        let (now, wall) = (self.now, self.wall);
        let Some(c) = self.conns.get(&id) else { return };
        let (group_name, dialled) = (c.group.clone(), c.dialled.clone());
        if let Some(expected) = dialled.filter(|d| *d != node) {
            let text = format!("the node at this address is {node}, not {expected}");
            self.close(id, GoodbyeCode::Reconfigured, &text);
            if let Some(l) = self.link(&group_name, &expected) {
                l.reason = Some(text);
            }
            return;
        }
        match role {
            // The peer is fed by us.
            Role::Receiver => {
                let Some(l) = self.link(&group_name, &node) else {
                    self.close(id, GoodbyeCode::Reconfigured, "no longer a next hop");
                    return;
                };
                let old = l.conn.replace(id).filter(|old| *old != id);
                l.up = true;
                l.backoff.up(now);
                l.since = wall;
                l.reason = None;
                l.refused = false;
                l.sessions += 1;
                let asked = l.asked.take();
                if let Some(old) = old {
                    self.close(old, GoodbyeCode::Replaced, "a newer session took its place");
                }
                self.note(Level::Info, format!("feeding {node} for group {group_name}"));
                self.bypass_up(&group_name, &node);
                if let Some(ask) = asked {
                    self.route_confirmed(ask, &group_name, &node);
                }
                self.offer_all(id);
                self.controls_for_child(&group_name, &node);
            }
            // The peer feeds us.
            Role::Sender => {
                if !self.upward_up(id, &group_name, &path) {
                    return;
                }
                let Some(g) = self.groups.get_mut(&group_name) else { return };
                let (sessions, bytes) = g
                    .feeder
                    .as_ref()
                    .filter(|f| f.node == node)
                    .map_or((0, 0), |f| (f.sessions, f.bytes));
                let old = g.feeder.replace(Feeder {
                    node: node.clone(),
                    conn: Some(id),
                    path,
                    since: wall,
                    sessions: sessions + 1,
                    bytes,
                    reason: None,
                });
                if let Some(old) = old.and_then(|f| f.conn).filter(|old| *old != id) {
                    self.close(old, GoodbyeCode::Replaced, "a newer session took its place");
                }
                self.note(Level::Info, format!("fed by {node} for group {group_name}"));
                self.report_routes(&group_name);
            }
        }
    }
}

impl Conn {
    /// Why no catch-up can be had through it, if that is so.
    pub(super) fn without_catch_ups(&self) -> Option<String> {
        let can = abilities(self.version);
        let peer = self.peer.as_ref().map(ToString::to_string).unwrap_or_default();
        (!can.catch_up)
            .then(|| format!("the session with {peer} is RCP {}: {}", can.name, can.lacks))
    }

    /// Digests are told through it, and blocks that are named can be had.
    pub(super) fn has_digests(&self) -> bool {
        abilities(self.version).digest
    }

    /// Why damaged blocks cannot be had through it, if so, in words.
    pub(super) fn without_doubts(&self) -> Option<String> {
        let can = abilities(self.version);
        let peer = self.peer.as_ref().map(ToString::to_string).unwrap_or_default();
        let words = || {
            format!(
                "the session with {peer} is RCP {}, in which blocks cannot be asked for by their \
                 number",
                can.name
            )
        };
        (!can.digest).then(words)
    }

    /// Sums of block hashes can be asked for through it.
    pub(super) fn compares(&self) -> bool {
        abilities(self.version).compare
    }

    /// The writer's time is told through it.
    pub(super) fn has_clock(&self) -> bool {
        abilities(self.version).clock
    }

    pub(super) fn new(session: Session, group: GroupName, dialled: Option<NodeName>) -> Self {
        Self {
            session,
            group,
            dialled,
            peer: None,
            peer_role: None,
            queued: 0,
            streams_out: BTreeMap::new(),
            streams_in: BTreeMap::new(),
            held: VecDeque::new(),
            turn: 0,
            feeder: 0,
            version: VERSIONS.0,
            proof: Proof::Nothing,
            from: String::new(),
            closing: false,
            of: None,
            place: None,
            met: None,
            further: Further::default(),
        }
    }
}
