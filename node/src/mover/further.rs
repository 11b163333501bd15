//! Several connections for one session: for links that are long, fast and lossy, where one of TCP is
//! held back by its window and by every lost packet.
//!
//! The first connection is the session's: it carries everything but chunks, set headers and
//! extents, and the session ends with it. Who dialled it dials the further ones, which join with
//! the key of the welcome and carry nothing but data. Each is a [`Conn`] of its own, with its own
//! signs of life, and belongs to the first. Data go over the one with the least to send; frames
//! keep their order by their places (`rcp::proto::places`). A further connection that is lost is
//! dialled again, and what went over it goes over the others.

use std::collections::BTreeMap;

use forwarder::backoff::Backoff;
use rcp::proto::clock::Mono;
use rcp::proto::frame::{DecodedFrame, Frame, FrameType, Join, JoinKey, RefuseCode, Role};
use rcp::proto::ids::NodeName;
use rcp::proto::limits::MAX_SESSION_CONNECTIONS;
use rcp::proto::places::{Gather, PlaceError, Spread, weight};
use rcp::proto::session::{CloseReason, Peer, Session, SessionState, abilities};
use rcp::proto::transport::{Hop, Transport};

use super::links::Conn;
use super::trust::{Proof, TurnedAway};
use super::{ConnId, Effect, Level, Mover};

/// What a session has beside its first connection.
#[derive(Debug, Default)]
pub(super) struct Further {
    /// Whether each has joined.
    conns: BTreeMap<ConnId, bool>,
    /// Where the first one was dialled.
    to: Option<(String, NodeName, Hop)>,
    /// What they join with.
    pub(super) key: Option<JoinKey>,
    backoff: Backoff,
    pub(super) dial_at: Option<Mono>,
    /// Why there are fewer than were asked for.
    reason: Option<String>,
    spread: Spread<ConnId>,
    gather: Gather<DecodedFrame>,
}

impl Further {
    pub(super) fn to(addr: &str, node: &NodeName, hop: &Hop) -> Self {
        Self { to: Some((addr.to_owned(), node.clone(), hop.clone())), ..Self::default() }
    }

    fn wanted(&self) -> usize {
        self.to.as_ref().map_or(1, |(_, _, hop)| hop.wanted_connections())
    }

    fn joined(&self) -> impl Iterator<Item = ConnId> {
        self.conns.iter().filter(|(_, joined)| **joined).map(|(id, _)| *id)
    }

    /// Every frame of a stream needs a place from now on.
    fn in_places(&self) -> bool {
        self.spread.has_begun() || self.conns.values().any(|joined| *joined)
    }
}

fn is_data(t: FrameType) -> bool {
    matches!(t, FrameType::Chunk | FrameType::SetEnd | FrameType::SeedData)
}

/// Bytes of a frame that the runtime reports as sent.
fn data_bytes(frame: &Frame) -> u64 {
    match frame {
        Frame::Chunk { body, .. } | Frame::SetEnd { body, .. } | Frame::SeedData { body, .. } => {
            body.len() as u64
        }
        _ => 0,
    }
}

impl Mover {
    /// The session is up: its further connections are dialled, if this node dialled it.
    pub(super) fn begin_further(&mut self, id: ConnId, peer: &Peer) {
        let Some(c) = self.conns.get_mut(&id).filter(|c| !c.closing) else { return };
        c.met = Some(peer.clone());
        if c.further.wanted() < 2 {
            return;
        }
        let never = c.further.to.as_ref().and_then(|(_, _, hop)| never_several(hop));
        c.further.key = peer.join.filter(|_| never.is_none());
        let can = abilities(peer.version);
        c.further.reason = match c.further.key {
            Some(_) => None,
            None if never.is_some() => never.map(str::to_owned),
            None if can.join => Some(format!("{} takes no further connections", peer.node)),
            None => Some(format!(
                "{} speaks RCP {}, where a session has one connection: update it",
                peer.node, can.name
            )),
        };
        c.further.dial_at = c.further.key.map(|_| self.now);
    }

    /// Dials what is missing.
    pub(super) fn tick_further(&mut self) {
        let now = self.now;
        let due = |c: &Conn| c.further.dial_at.is_some_and(|t| t <= now);
        let due: Vec<_> = self.conns.iter().filter(|(_, c)| due(c)).map(|(id, _)| *id).collect();
        for id in due {
            self.dial_further(id);
        }
    }

    fn dial_further(&mut self, first: ConnId) {
        let Some(c) = self.conns.get_mut(&first) else { return };
        c.further.dial_at = None;
        let (group, missing) = (c.group.clone(), c.further.wanted() - 1);
        let missing = missing.saturating_sub(c.further.conns.len());
        let (Some(key), Some(peer)) = (c.further.key, c.met.clone()) else { return };
        let Some((addr, node, hop)) = c.further.to.clone() else { return };
        for _ in 0..missing {
            self.next_conn += 1;
            let id = ConnId(self.next_conn);
            let cfg = self.session_config(&group);
            let session = Session::new_join(cfg, key, peer.clone(), self.now);
            let mut conn = Conn::new(session, group.clone(), None);
            conn.of = Some(first);
            self.conns.insert(id, conn);
            if let Some(c) = self.conns.get_mut(&first) {
                c.further.conns.insert(id, false);
            }
            let (addr, node, hop) = (addr.clone(), node.clone(), hop.clone());
            self.effect(Effect::Dial { conn: id, addr, node, hop, group: group.clone() });
            self.drive(id);
        }
    }

    /// A connection came that wants to join a session.
    pub(super) fn asked_to_join(&mut self, id: ConnId, join: &Join) {
        let first = ConnId(join.key.session);
        let (now, wall) = (self.now, self.wall);
        let Some(c) = self.conns.get(&id) else { return };
        let (proof, from) = (c.proof.clone(), c.from.clone());
        let found = self.conns.get(&first).filter(|f| {
            f.group == c.group
                && f.of.is_none()
                && !f.closing
                && f.peer.as_ref() == Some(&join.node)
        });
        let answer = match found.and_then(|f| f.met.clone().zip(Some(f))) {
            Some((peer, f)) if f.further.key.is_some_and(|k| k.is(&join.key)) => {
                may_join(f, (&proof, &self.cfg.node), &join.node).map(|()| peer)
            }
            _ => Err((RefuseCode::Join, "there is no session that it could join".to_owned())),
        };
        let Some(c) = self.conns.get_mut(&id) else { return };
        match answer {
            Ok(peer) => {
                c.of = Some(first);
                c.session.take_in(now, peer, join.key.session);
                if let Some(f) = self.conns.get_mut(&first) {
                    f.further.conns.insert(id, false);
                }
            }
            Err((code, text)) => {
                c.session.refuse(code, &text);
                if code != RefuseCode::Busy {
                    let claims = Some(join.node.clone());
                    let why = format!("a connection to join a session of {}: {text}", join.node);
                    let kind = "session";
                    self.turned_away(now, wall, TurnedAway { from, claims, why, kind });
                }
            }
        }
    }

    /// A further connection is there.
    pub(super) fn joined(&mut self, id: ConnId) {
        let now = self.now;
        let Some(first) = self.conns.get(&id).and_then(|c| c.of) else { return };
        let Some(f) = self.conns.get_mut(&first) else { return };
        f.further.conns.insert(id, true);
        if f.further.joined().count() + 1 >= f.further.wanted() {
            f.further.backoff.up(now);
            f.further.reason = None;
        }
        self.pump_conn(first);
    }

    /// A further connection is over: what it carried goes over the others, and it is dialled again.
    pub(super) fn further_closed(&mut self, id: ConnId, first: ConnId, reason: &CloseReason) {
        let random = self.random();
        self.effect(Effect::Close { conn: id });
        self.conns.remove(&id);
        let (now, stopping) = (self.now, self.stopping);
        let Some(f) = self.conns.get_mut(&first).filter(|f| !f.closing) else { return };
        let joined = f.further.conns.remove(&id).unwrap_or_default();
        let text = reason.to_string();
        if f.further.to.is_some() && f.further.key.is_some() {
            if f.further.dial_at.is_none() {
                let at = f.further.backoff.failed(text.clone(), now, random);
                f.further.dial_at = Some(at).filter(|_| !stopping);
            }
            f.further.reason = Some(text.clone());
        }
        let peer = f.peer.as_ref().map(ToString::to_string).unwrap_or_default();
        let again = f.further.spread.lost(id);
        if joined {
            let text = format!(
                "group {}: a further connection with {peer} was lost, the session goes on: {text}",
                f.group
            );
            self.note(Level::Info, text);
        }
        for number in again {
            self.send_again(first, number);
        }
        self.pump_conn(first);
    }

    fn send_again(&mut self, first: ConnId, number: u64) {
        let over = self.least_busy(first);
        let f = self.conns.get_mut(&first);
        let Some(frame) = f.and_then(|f| f.further.spread.again(number, over)) else { return };
        self.spend(first, weight(&frame));
        self.put(over, Frame::Place { number });
        self.put(over, frame);
    }

    /// The first connection is over, and with it the session.
    pub(super) fn end_further(&mut self, first: ConnId) {
        let Some(f) = self.conns.get_mut(&first) else { return };
        f.further.dial_at = None;
        let all: Vec<_> = std::mem::take(&mut f.further.conns).into_keys().collect();
        for id in all {
            let code = rcp::proto::frame::GoodbyeCode::Shutdown;
            self.close(id, code, "the session is over");
        }
    }

    /// The connection of a session that has the least to send.
    fn least_busy(&self, first: ConnId) -> ConnId {
        let all = self.connections_of(first);
        let queued = |id: &ConnId| self.conns.get(id).map_or(u64::MAX, |c| c.queued);
        all.into_iter().min_by_key(queued).unwrap_or(first)
    }

    /// The first connection of a session and those that joined it.
    fn connections_of(&self, first: ConnId) -> Vec<ConnId> {
        let further = self.conns.get(&first).map(|f| f.further.joined());
        std::iter::once(first).chain(further.into_iter().flatten()).collect()
    }

    /// Data wait for the sockets of a session.
    pub(super) fn is_queued(&self, first: ConnId) -> bool {
        let all = self.connections_of(first);
        all.iter().any(|id| self.conns.get(id).is_some_and(|c| c.queued > 0))
    }

    /// Whether more data may be queued for a session: its connections share the room of one, and
    /// each takes one frame at least.
    pub(super) fn has_room(&self, first: ConnId) -> bool {
        let Some(f) = self.conns.get(&first) else { return false };
        let all = self.connections_of(first);
        let most = self.cfg.queue_bytes / all.len() as u64;
        let free = |id: &ConnId| self.conns.get(id).is_some_and(|c| c.queued < most.max(1));
        f.further.spread.has_room() && all.iter().any(free)
    }

    /// Puts a frame on the wire, over the first connection or, if it has a place, over the one that
    /// is least busy.
    pub(super) fn send(&mut self, id: ConnId, frame: Frame) {
        self.drop_held(id, &frame);
        let t = frame.frame_type();
        let Some(c) = self.conns.get_mut(&id) else { return };
        let placed = c.peer_role == Some(Role::Receiver) && t.is_in_order();
        if !placed || !c.further.in_places() {
            return self.put(id, frame);
        }
        if c.session.check_send(t).is_err() {
            return;
        }
        // They are said again in a moment; a connection that stands still must not gather them.
        let again = matches!(t, FrameType::Heartbeat | FrameType::Clock);
        if again && !c.further.spread.has_room() {
            return;
        }
        let over =
            if is_data(t) && c.further.spread.has_begun() { self.least_busy(id) } else { id };
        let Some(c) = self.conns.get_mut(&id) else { return };
        let number = c.further.spread.give(frame.clone(), over);
        self.put(over, Frame::Place { number });
        self.put(over, frame);
    }

    /// Puts a frame on the wire of one connection, if its session allows it now.
    fn put(&mut self, id: ConnId, frame: Frame) {
        let data = data_bytes(&frame);
        if let Some(c) = self.conns.get_mut(&id)
            && c.session.send(frame).is_ok()
        {
            c.queued += data;
            while let Some(frame) = c.session.poll_transmit() {
                self.effects.push_back(Effect::Send { conn: id, frame });
            }
        }
    }

    /// The peer has the frames of all places before this one.
    pub(super) fn placed(&mut self, id: ConnId, next: u64) {
        let Some(c) = self.conns.get_mut(&id) else { return };
        match c.further.spread.placed(next) {
            Ok(()) => self.pump_conn(id),
            Err(e) => self.out_of_place(id, &e),
        }
    }

    /// The next frame on a connection has this place.
    pub(super) fn place(&mut self, id: ConnId, number: u64) {
        let Some(c) = self.conns.get_mut(&id) else { return };
        if c.place.replace(number).is_some() {
            self.out_of_place(id, &PlaceError::Frame(FrameType::Place));
        }
    }

    fn out_of_place(&mut self, id: ConnId, e: &PlaceError) {
        let first = self.conns.get(&id).and_then(|c| c.of).unwrap_or(id);
        for id in [id, first] {
            if let Some(c) = self.conns.get_mut(&id) {
                c.session.handle_nonsense(&e.to_string());
            }
            self.drive(id);
        }
    }

    /// A frame came that has a place, or should have one: it is held until its turn. Gives it back if
    /// it needs none.
    pub(super) fn in_its_place(&mut self, id: ConnId, frame: DecodedFrame) -> Option<DecodedFrame> {
        let t = frame.frame.frame_type();
        let c = self.conns.get_mut(&id)?;
        let (first, further) = (c.of.unwrap_or(id), c.of.is_some());
        let place = c.place.take_if(|_| t != FrameType::Place);
        let receives = |s| matches!(s, SessionState::UpReceiver | SessionState::FurtherReceiver);
        if !receives(c.session.state()) {
            return Some(frame);
        }
        let Some(number) = place else {
            let begun = further || c.further.gather.has_begun();
            if begun && t.is_in_order() {
                self.out_of_place(id, &PlaceError::Frame(t));
                return None;
            }
            return Some(frame);
        };
        if !t.is_in_order() {
            self.out_of_place(id, &PlaceError::Frame(t));
            return None;
        }
        let now = self.now;
        if c.session.admit(now, t) {
            let f = self.conns.get_mut(&first)?;
            match f.further.gather.take(number, weight(&frame.frame), frame) {
                Ok(()) => self.hand_on(first),
                Err(e) => self.out_of_place(id, &e),
            }
        }
        self.drive(id);
        None
    }

    /// Acts on the frames whose turn it is, and says how far that is.
    fn hand_on(&mut self, first: ConnId) {
        let before = self.conns.get(&first).map_or(0, |f| f.further.gather.next());
        while let Some(frame) =
            self.conns.get_mut(&first).filter(|f| !f.closing).and_then(|f| f.further.gather.pop())
        {
            self.act_on(first, frame);
        }
        let next = self.conns.get(&first).map_or(before, |f| f.further.gather.next());
        if next > before {
            self.send(first, Frame::Placed { next });
        }
    }

    /// How many connections carry a session, if several do or should.
    pub(super) fn connections_in_words(&self, conn: Option<ConnId>) -> Option<String> {
        let c = self.conns.get(&conn?).filter(|c| c.peer_role.is_some())?;
        let there = c.further.joined().count() + 1;
        let wanted = c.further.wanted();
        if there >= wanted {
            return (there > 1).then(|| format!("connections {there}"));
        }
        let why = c.further.reason.as_deref().unwrap_or("the others are being dialled");
        Some(format!("connections {there} of {wanted}: {why}"))
    }

    /// When further connections are dialled again.
    pub(super) fn further_timeouts(&self) -> impl Iterator<Item = Mono> {
        self.conns.values().filter_map(|c| c.further.dial_at)
    }
}

/// Whether a connection with this proof may join a session with `name`.
fn may_join(
    first: &Conn,
    (proof, us): (&Proof, &NodeName),
    name: &NodeName,
) -> Result<(), (RefuseCode, String)> {
    proof.check(us, name).map_err(|text| (RefuseCode::Untrusted, text))?;
    if matches!(first.proof, Proof::Names(_)) != matches!(proof, Proof::Names(_)) {
        let text = "the session is by TLS, and who wants to join it has proven nothing".to_owned();
        return Err((RefuseCode::Untrusted, text));
    }
    if first.further.conns.len() + 1 >= MAX_SESSION_CONNECTIONS {
        let text =
            format!("the session has {MAX_SESSION_CONNECTIONS} connections, which is the most");
        return Err((RefuseCode::Busy, text));
    }
    Ok(())
}

/// Why a hop has one connection although several are asked for, if it always will.
pub(super) fn never_several(hop: &Hop) -> Option<&'static str> {
    (hop.wanted_connections() > 1 && hop.transport == Some(Transport::Quic)).then_some(
        "QUIC has streams of its own, which do not hold up one another: `connections` is for tcp and tls",
    )
}
