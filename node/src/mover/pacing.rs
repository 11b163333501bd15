//! Limits of hops: data waits, and nothing else does.
//!
//! A next hop may have a limit, by the time of day. Chunks, set headers and extents of seeds go when
//! the account of the hop is even; what is read for a seed meanwhile is held in order, and little of
//! it, because no more is asked for than what was sent and a little ahead. Acknowledgements, signs of
//! life and everything else go at once.

use rcp::proto::clock::Mono;
use rcp::proto::frame::{Frame, Start, StreamId};
use rcp::proto::ids::{GroupName, NodeName};
use rcp::proto::pace::Limit;

use super::links::Link;
use super::{AskId, ConnId, Effect, Level, Mover, Reply};
use crate::api::{ApiError, ApiErrorKind};

/// Bytes of a seed that may be read ahead for a hop that is limited.
const SEED_AHEAD: u64 = 2 << 20;

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
        if idle && self.may_send(conn) {
            self.send_held(conn, frame);
        } else if let Some(c) = self.conns.get_mut(&conn) {
            c.held.push_back(frame);
        }
    }

    fn send_held(&mut self, conn: ConnId, frame: Frame) {
        let Frame::SeedData { stream, body, .. } = &frame else {
            self.send(conn, frame);
            return;
        };
        let (stream, len) = (*stream, body.len());
        self.send_data(conn, frame, len);
        if let Some(out) = self.conns.get_mut(&conn).and_then(|c| c.streams_out.get_mut(&stream)) {
            out.seed_sent += len as u64;
        }
        self.grant_seed(conn, stream);
    }

    /// Sends what was held as far as the limit allows; true if nothing is held any more.
    pub(super) fn pump_held(&mut self, conn: ConnId) -> bool {
        loop {
            if !self.may_send(conn) {
                return false;
            }
            let frame = self.conns.get_mut(&conn).and_then(|c| c.held.pop_front());
            let Some(frame) = frame else { return true };
            self.send_held(conn, frame);
        }
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

    /// Has a volume read extents for a child: all that the child granted, or, while the hop is
    /// limited, a little more than was sent.
    pub(super) fn grant_seed(&mut self, conn: ConnId, stream: StreamId) {
        let wall = self.wall;
        let limited = self.link_of(conn).is_some_and(|l| l.rate(wall).is_some());
        let Some(c) = self.conns.get_mut(&conn) else { return };
        let (Some(child), Some(out)) = (c.peer.clone(), c.streams_out.get_mut(&stream)) else {
            return;
        };
        let total = match limited {
            true => out.seed_total.min(out.seed_sent.saturating_add(SEED_AHEAD)),
            false => out.seed_total,
        };
        if total <= out.seed_granted {
            return;
        }
        out.seed_granted = total;
        let id = out.volume;
        if let Some(h) = self.volumes.get_mut(&id) {
            h.volume.seed_out_credit(&child, total);
        }
        self.settle(id);
        self.relay_credit(id, &child, total);
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
