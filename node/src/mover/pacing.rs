//! What may go to a child now, and in which order.
//!
//! Chunks, set headers and extents of seeds go while the account of the hop is even (a next hop may
//! have a limit, by the time of day) and its queue has room. Extents that were read meanwhile are
//! held in order, and little of them, because no more is asked for than what went and a little
//! ahead. Extents and the live streams take turns, so that neither waits for the other's end.
//! Acknowledgements, signs of life and everything else go at once.

use rcp::proto::clock::Mono;
use rcp::proto::frame::{Frame, Start};
use rcp::proto::ids::{GroupName, NodeName};
use rcp::proto::pace::Limit;

use super::links::Link;
use super::sending::{Outbound, Stage};
use super::{AskId, ConnId, Effect, Level, Mover, Reply};
use crate::api::{ApiError, ApiErrorKind};
use crate::limits::{SEED_AHEAD, SEED_STEP};

impl Link {
    fn rate(&self, wall: rcp::proto::clock::Wall) -> Option<u64> {
        self.by.limit.as_ref()?.at(wall)
    }
}

impl Mover {
    fn link_of(&mut self, conn: ConnId) -> Option<&mut Link> {
        let c = self.conns.get(&conn)?;
        self.groups.get_mut(&c.group)?.links.get_mut(c.peer.as_ref()?)
    }

    /// Whether data may go to the peer of a connection now; if not, it is looked at again in time.
    pub(super) fn may_send(&mut self, conn: ConnId) -> bool {
        let (now, wall) = (self.now, self.wall);
        let Some(l) = self.link_of(conn) else { return true };
        let rate = l.rate(wall);
        let ready = l.pace.ready(now, rate);
        l.waits = !ready;
        ready
    }

    /// Sends data of a seed when its turn comes.
    pub(super) fn send_or_hold(&mut self, conn: ConnId, frame: Frame) {
        let idle = self.conns.get(&conn).is_some_and(|c| c.held.is_empty());
        if idle && self.has_room(conn) && self.may_send(conn) {
            self.send_held(conn, frame);
        } else if let Some(c) = self.conns.get_mut(&conn) {
            c.held.push_back(frame);
        }
    }

    /// Sends what is held and what the streams have, in turns, as far as credit, queue and limit
    /// allow; whose turn it is, is remembered.
    pub(super) fn pump_conn(&mut self, conn: ConnId) {
        let Some(c) = self.conns.get(&conn) else { return };
        let streams: Vec<_> = c.streams_out.keys().copied().collect();
        let mut without = 0;
        while without <= streams.len() {
            if !self.has_room(conn) || !self.may_send(conn) {
                return;
            }
            let Some(c) = self.conns.get_mut(&conn) else { return };
            let turn = c.turn;
            c.turn = if turn < streams.len() { turn + 1 } else { 0 };
            let sent = match streams.get(turn) {
                Some(stream) => self.pump_stream(conn, *stream),
                None => match c.held.pop_front() {
                    Some(frame) => {
                        self.send_held(conn, frame);
                        true
                    }
                    None => false,
                },
            };
            without = if sent { 0 } else { without + 1 };
        }
    }

    fn send_held(&mut self, conn: ConnId, frame: Frame) {
        let c = self.conns.get_mut(&conn);
        let out = c.and_then(|c| c.streams_out.get_mut(&frame.stream()));
        match &frame {
            Frame::SeedData { body, .. } => {
                let len = body.len();
                if let Some(out) = out {
                    out.seed_sent += len as u64;
                }
                self.send_data(conn, frame, len);
            }
            _ => {
                if let Some(out) = out.filter(|_| matches!(frame, Frame::SeedEnd { .. })) {
                    out.stage = Stage::Streaming;
                    // Why it needed the seed or the catch-up is history.
                    out.reason = None;
                }
                self.send(conn, frame);
            }
        }
        self.grant_seeds(conn);
    }

    /// What was held of a stream is of no use any more once it begins anew or ends.
    pub(super) fn drop_held(&mut self, conn: ConnId, frame: &Frame) {
        let gone = match frame {
            Frame::Start(Start { stream, .. })
            | Frame::Withdraw { stream, .. }
            | Frame::StreamError { stream, .. } => *stream,
            _ => return,
        };
        if let Some(c) = self.conns.get_mut(&conn) {
            c.held.retain(|f| f.stream() != gone);
        }
    }

    /// Has volumes read extents for a child, as far as the child granted them, and no further ahead
    /// of what went than [`SEED_AHEAD`], for all seeds of the connection together. The one that is
    /// least ahead comes first.
    pub(super) fn grant_seeds(&mut self, conn: ConnId) {
        loop {
            let Some(c) = self.conns.get_mut(&conn) else { return };
            let ahead: u64 = c.streams_out.values().map(Outbound::seed_ahead).sum();
            let wanting = c.streams_out.values_mut().filter(|o| o.wants_extents());
            let Some(out) = wanting.min_by_key(|o| (o.seed_ahead(), o.seed_granted)) else {
                return;
            };
            if ahead >= SEED_AHEAD {
                return;
            }
            // What is ahead of the grant was sent because an extent is never cut in two.
            let from = out.seed_granted.max(out.seed_sent);
            out.seed_granted = out.seed_total.min(from.saturating_add(SEED_STEP));
            let (id, total) = (out.volume, out.seed_granted);
            let Some(child) = c.peer.clone() else { return };
            if let Some(h) = self.volumes.get_mut(&id) {
                h.volume.seed_out_credit(&child, total);
            }
            self.settle(id);
            self.relay_credit(id, &child, total);
        }
    }

    /// When a hop that data waits for may be used again.
    pub(super) fn pace_timeouts(&self) -> impl Iterator<Item = Mono> {
        let links = self.groups.values().flat_map(|g| g.links.values());
        links.filter(|l| l.waits && l.up).map(|l| l.pace.even_at())
    }

    /// Goes on where data waited for its time, or the rate has changed.
    pub(super) fn tick_paces(&mut self) {
        let links = self.groups.values().flat_map(|g| g.links.values());
        let due: Vec<_> = links.filter(|l| l.waits && l.up).filter_map(|l| l.conn).collect();
        for conn in due {
            self.pump_conn(conn);
        }
    }

    /// `rcproute add` for a next hop that is there, with a limit and nothing else: it gets that
    /// limit, at once and durably. False if that is not what is asked for.
    pub(super) fn limit_route(
        &mut self,
        ask: AskId,
        group: &GroupName,
        hop: &NodeName,
        limit: Option<Limit>,
    ) {
        let limit = limit.filter(|l| !l.is_none());
        let words = limit.as_ref().map_or("none".to_owned(), ToString::to_string);
        let reply = match self.table.limit(group, hop, limit.clone()) {
            Ok(changed) => {
                if let Some(l) = self.link(group, hop) {
                    l.by.limit = limit;
                }
                if changed {
                    self.effect(Effect::StoreRoutes(self.table.encode()));
                    let text = format!("route limited: group {group}, next hop {hop}: {words}");
                    self.note(Level::Info, text);
                }
                if let Some(conn) = self.link(group, hop).and_then(|l| l.conn) {
                    self.pump_conn(conn);
                }
                self.routes(None).map_or_else(Reply::Refused, Reply::Routes)
            }
            Err(e) => Reply::Refused(ApiError::new(ApiErrorKind::NotFound, e.to_string())),
        };
        self.effect(Effect::Reply { ask, reply });
    }
}
