//! Connections between movers: dialling, frames, loss.

use rcp::proto::delta::{Chunk, ExtentKind};
use rcp::proto::frame::{DecodedFrame, Frame, FrameHeader, GoodbyeCode, StartMode, Verified};
use rcp::proto::ids::{ChunkNumber, GroupName};
use rcp::proto::limits::FRAME_HEADER_LEN;

use node::mover::{Accepted, ConnId, Proof};

use super::link::{End, Item, Link};
use super::node::{GROUP, name};
use super::options::Kind;
use super::steps::When;
use super::world::{Event, World};

impl World {
    fn link_delay(&mut self) -> u64 {
        let most = self.opt.link_delay;
        let d = if self.rng.permille(5) { most * 10 } else { most };
        self.rng.range(10, d.max(11))
    }

    fn apart(&self, a: usize, b: usize) -> Option<u64> {
        self.apart.get(&(a.min(b), a.max(b))).copied().filter(|t| *t > self.now)
    }

    /// A mover dials.
    pub fn dial(&mut self, n: usize, conn: ConnId, addr: &str) {
        let Some(to) = (0..self.nodes.len()).find(|i| name(*i).as_str() == addr) else {
            self.fail(format!("n{n} dials an unknown address {addr}"));
            return;
        };
        self.next_id += 1;
        let id = self.next_id;
        let at = self.now + self.link_delay();
        let mut far = End::new(to, 0, None);
        far.stalled_until = at;
        let near = End::new(n, self.nodes[n].life, Some(conn));
        self.links.insert(id, Link { ends: [near, far], established: false });
        self.nodes[n].conns.insert(conn, (id, 0));
        self.at(at, Event::Dialled { link: id });
    }

    /// A dial comes to its end.
    pub fn dialled(&mut self, id: u64) {
        let Some(l) = self.links.get(&id) else { return };
        let (from, to) = (l.ends[0].node, l.ends[1].node);
        let up = self.nodes[to].mover.is_some();
        if !up || self.apart(from, to).is_some() {
            if let Some(l) = self.links.get_mut(&id) {
                l.ends[1].gone = true;
            }
            let wait = if up { 3_000_000 } else { 1_000 };
            let at = self.now + self.rng.range(1, wait);
            self.end_at(id, 0, at, "no connection could be made");
            return;
        }
        let (now, wall) = (self.mono(), self.wall(to));
        let group = GroupName::new(GROUP).expect("a valid name");
        let life = self.nodes[to].life;
        let Some(m) = &mut self.nodes[to].mover else { return };
        let from = "sim".to_owned();
        let conn = m.accepted(
            now,
            wall,
            Accepted { group, proof: Proof::Nothing, from, since: now, secret: Some([7; 16]) },
        );
        self.nodes[to].conns.insert(conn, (id, 1));
        if let Some(l) = self.links.get_mut(&id) {
            l.ends[1].life = life;
            l.ends[1].conn = Some(conn);
            l.established = true;
        }
        self.after_mover(to);
    }

    fn end_at(&mut self, id: u64, side: usize, at: u64, why: &'static str) {
        let Some(l) = self.links.get_mut(&id) else { return };
        let at = l.ends[side].push(at, Item::End(why));
        self.at(at, Event::Arrive { link: id, side });
    }

    /// A mover puts a frame on the wire.
    pub fn send(&mut self, n: usize, conn: ConnId, frame: Frame) {
        let Some(&(id, side)) = self.nodes[n].conns.get(&conn) else { return };
        let bytes = match &frame {
            Frame::Chunk { body, .. }
            | Frame::SetEnd { body, .. }
            | Frame::SeedData { body, .. } => body.len() as u64,
            _ => 0,
        };
        let frame = if self.rng.permille(20) { self.through_bytes(frame) } else { Some(frame) };
        let Some(frame) = frame else { return };
        let frame = match DecodedFrame::verify(frame) {
            Ok(f) => f,
            Err(e) => {
                self.fail(format!("n{n} sends a frame that does not verify: {e}"));
                return;
            }
        };
        self.note_sent(n, &frame);
        if let Some(to) = self.links.get(&id).map(|l| l.ends[1 - side].node) {
            self.listen(id, (n, to), &frame.frame);
            self.heed(id, (n, to), &frame);
            if self.spring(id, (n, to), frame.frame.frame_type(), When::Before) {
                return;
            }
            if !self.goes_again(to, &frame.frame) {
                self.weigh(n, to, &frame);
                self.weigh_again(to, &frame);
            }
        }
        if let Frame::Attach(a) = &frame.frame {
            self.nodes[n].seed_anew = a.seed_from_block == 0;
            self.nodes[n].seed_over = a.over.map(|s| s.0);
        }
        let at = self.now + self.link_delay();
        if let Some(l) = self.links.get_mut(&id) {
            let at = l.ends[1 - side].push(at, Item::Frame(Box::new(frame), bytes));
            self.at(at, Event::Arrive { link: id, side: 1 - side });
        }
    }

    /// Whether a frame goes to a node once more, because the connection that it took was lost.
    fn goes_again(&mut self, to: usize, frame: &Frame) -> bool {
        // A place is that of the one frame which follows it; a session may have none for the next.
        let Frame::Place { number } = frame else {
            return std::mem::take(&mut self.nodes[to].places.1);
        };
        let (next, _) = self.nodes[to].places;
        let again = *number > 0 && *number < next;
        self.nodes[to].places = (if again { next } else { number + 1 }, again);
        if again {
            self.counters.hit("frame sent again over another connection");
        }
        again
    }

    /// Encodes and decodes a frame, as a socket would.
    fn through_bytes(&mut self, frame: Frame) -> Option<Frame> {
        let mut parts = Vec::new();
        if let Err(e) = frame.encode(&mut parts) {
            self.fail(format!("a frame cannot be encoded: {e}"));
            return None;
        }
        let all: Vec<u8> = parts.concat();
        let head = all.first_chunk::<FRAME_HEADER_LEN>()?;
        let body = bytes::Bytes::copy_from_slice(&all[FRAME_HEADER_LEN..]);
        match FrameHeader::parse(head).and_then(|h| Frame::decode(&h, body)) {
            Ok(back) if back == frame => Some(back),
            Ok(back) => {
                self.fail(format!("a frame changed on the wire: {frame:?} became {back:?}"));
                None
            }
            Err(e) => {
                self.fail(format!("a frame cannot be read back: {e}"));
                None
            }
        }
    }

    /// Room and credit are for chunks of this length.
    fn no_longer_than_it_may_be(&mut self, c: &Chunk) {
        let size = self.opt.block_size.bytes();
        let data = c.extents().filter(|e| e.kind == ExtentKind::Data);
        let bytes = data.map(|e| u64::from(e.count) * size).sum::<u64>();
        if bytes > self.opt.chunk.max(size) {
            self.fail(format!("a chunk of {bytes} bytes, where {} are allowed", self.opt.chunk));
        }
    }

    /// What the oracle learns from a frame that leaves.
    fn note_sent(&mut self, n: usize, frame: &DecodedFrame) {
        let to = match &frame.content {
            Verified::Chunk(c) if matches!(frame.frame, Frame::Chunk { .. }) => Some(c.step().to),
            Verified::Set(h) => Some(h.step.to),
            _ => None,
        };
        if let (Kind::Primary, Verified::Chunk(c)) = (self.nodes[n].kind, &frame.content) {
            self.no_longer_than_it_may_be(c);
        }
        if let (Kind::Primary, Some(to)) = (self.nodes[n].kind, to) {
            let state = self.state_at(n, to);
            let newest = self.model.newest_sent.entry(state.0).or_default();
            *newest = (*newest).max(to);
            if Some(state.0) == self.nodes[n].line {
                self.durable_enough(n, state);
            }
        }
        if self.verbose {
            let text = match (&frame.frame, &frame.content) {
                (
                    Frame::Attach(_)
                    | Frame::Start(_)
                    | Frame::SeedEnd { .. }
                    | Frame::Saved { .. },
                    _,
                ) => Some(format!("{:?}", frame.frame)),
                (f, Verified::Chunk(c)) => {
                    let s = c.step();
                    Some(format!(
                        "{} {}→{} attempt {} chunk {}",
                        f.frame_type(),
                        s.base,
                        s.to,
                        s.attempt.0,
                        c.number()
                    ))
                }
                (_, Verified::Set(h)) => {
                    Some(format!("end of set {} of {} chunks", h.step.to, h.chunk_count))
                }
                _ => None,
            };
            if let Some(text) = text {
                self.say(format!("n{n} sends {text}"));
            }
        }
        match &frame.frame {
            Frame::Saved { state, next_chunk, .. } => {
                let new = (*state, *next_chunk);
                let old = self.nodes[n].saved.get_or_insert(new);
                *old = (*old).max(new);
            }
            Frame::Chunk { .. } if self.nodes[n].kind != Kind::Primary => {
                let open = self.nodes[n].volume().and_then(|v| v.open_step());
                if let (Some(to), Some((step, _))) = (to, open)
                    && step.to == to
                {
                    self.counters.hit("chunk cut through");
                }
            }
            Frame::SeedData { next_block, .. } if *next_block > 0 => {
                self.counters.hit("seed extent");
                if self.nodes[n].kind == Kind::Relay {
                    self.counters.hit("seed extent through a relay");
                }
            }
            Frame::SeedEnd { .. } => {
                self.counters.hit("seed ended");
                if self.nodes[n].kind == Kind::Relay {
                    self.counters.hit("seed ended through a relay");
                }
            }
            Frame::Attach(a) if a.wants_seed && a.seed_from_block > 0 => {
                let what = if a.over.is_some() { "catch-up resumed" } else { "seed resumed" };
                self.counters.hit(what);
            }
            Frame::Start(s) if s.mode == StartMode::Wait => {
                self.counters.hit("child ahead of parent")
            }
            Frame::Goodbye { code: GoodbyeCode::Protocol, text } => {
                let text = text.clone();
                self.fail(format!("n{n} says that its peer breaks the protocol: {text}"));
            }
            Frame::Joined { .. } => self.counters.hit("further connection joined"),
            _ => {}
        }
    }

    /// Something may have arrived.
    pub fn arrive(&mut self, id: u64, side: usize) {
        let now = self.now;
        let Some(l) = self.links.get_mut(&id) else { return };
        let established = l.established;
        let (from, to) = (l.ends[1 - side].node, l.ends[side].node);
        let waits = self.apart(from, to);
        let Some(l) = self.links.get_mut(&id) else { return };
        let end = &mut l.ends[side];
        if let Some(t) = waits {
            end.stalled_until = end.stalled_until.max(t);
        }
        let Some(due) = end.inbox.front().map(|(t, _)| (*t).max(end.stalled_until)) else { return };
        let due = if established || side == 0 { due } else { due.max(now + 1_000) };
        if due > now {
            if !established && side == 1 && end.gone {
                return;
            }
            self.at(due, Event::Arrive { link: id, side });
            return;
        }
        let Some((_, item)) = end.inbox.pop_front() else { return };
        let (node, life, conn, gone) = (end.node, end.life, end.conn, end.gone);
        let Some(conn) = conn.filter(|_| !gone && self.nodes[node].life == life) else { return };
        let (mono, wall) = (self.mono(), self.wall(node));
        match item {
            Item::Frame(frame, bytes) => {
                self.heed_coming(id, node, &frame.frame);
                if let Frame::Start(s) = &frame.frame {
                    // What was acknowledged before is given up: of a catch-up that is staged only the
                    // set that had come in part, which its blocks are of.
                    let saved = self.nodes[node].saved;
                    self.nodes[node].saved = match s.mode {
                        StartMode::Seed => None,
                        StartMode::CatchUp { .. } => saved.map(|(set, _)| (set, ChunkNumber(0))),
                        _ => saved,
                    };
                }
                // Over several connections a frame without a place of its own is an error.
                let one = self.opt.connections < 2;
                if bytes > 0 && self.rng.permille(3) && one {
                    // A second copy, as after a change of connection.
                    self.counters.hit("duplicate chunk");
                    self.counters.2.messages += 1;
                    if let Some(m) = &mut self.nodes[node].mover {
                        m.frame(mono, wall, conn, (*frame).clone());
                    }
                    self.after_mover(node);
                    if self.nodes[node].life != life {
                        return;
                    }
                }
                let kind = frame.frame.frame_type();
                self.counters.2.messages += 1;
                if let Some(m) = &mut self.nodes[node].mover {
                    m.frame(mono, wall, conn, *frame);
                }
                self.after_mover(node);
                if self.spring(id, (from, node), kind, When::After) {
                    return;
                }
                if bytes > 0 {
                    self.tell_sent(id, 1 - side, bytes);
                }
            }
            Item::End(why) => {
                if let Some(l) = self.links.get_mut(&id) {
                    l.ends[side].gone = true;
                }
                self.nodes[node].conns.remove(&conn);
                if let Some(m) = &mut self.nodes[node].mover {
                    m.lost(mono, wall, conn, why);
                }
                self.after_mover(node);
                self.sweep(id);
            }
        }
    }

    fn tell_sent(&mut self, id: u64, side: usize, bytes: u64) {
        let Some(l) = self.links.get(&id) else { return };
        let e = &l.ends[side];
        let (n, life, gone) = (e.node, e.life, e.gone);
        if let Some(conn) = e.conn
            && !gone
            && self.nodes[n].life == life
        {
            if let Some(m) = &mut self.nodes[n].mover {
                m.sent(conn, bytes);
            }
            self.after_mover(n);
        }
    }

    /// Forgets a link that nobody holds.
    fn sweep(&mut self, id: u64) {
        let Some(l) = self.links.get(&id) else { return };
        let dead = |e: &End| e.gone || e.life != self.nodes[e.node].life;
        if dead(&l.ends[0]) && dead(&l.ends[1]) {
            self.links.remove(&id);
            self.heard.retain(|(link, _), _| *link != id);
            self.passages.retain(|(link, _), _| *link != id);
        }
    }

    /// A mover closes: what is queued still goes out.
    pub fn close(&mut self, n: usize, conn: ConnId) {
        let Some((id, side)) = self.nodes[n].conns.remove(&conn) else { return };
        let at = self.now + self.link_delay();
        if let Some(l) = self.links.get_mut(&id) {
            l.ends[side].gone = true;
        }
        self.end_at(id, 1 - side, at, "the peer closed the connection");
    }

    /// A connection breaks.
    pub fn cut_link(&mut self, id: u64) {
        for side in 0..2 {
            let at = self.now + self.link_delay();
            let Some(l) = self.links.get(&id) else { return };
            let keep =
                usize::try_from(self.rng.below(l.ends[side].inbox.len() as u64 + 1)).unwrap_or(0);
            let Some(l) = self.links.get_mut(&id) else { return };
            let at = l.ends[side].cut(keep, at);
            self.at(at, Event::Arrive { link: id, side });
        }
    }

    /// The node at one end is gone: the other may learn it at once, or from silence.
    pub fn drop_links(&mut self, n: usize) {
        let ids: Vec<_> = self
            .links
            .iter()
            .filter(|(_, l)| l.ends.iter().any(|e| e.node == n && !e.gone))
            .map(|(id, _)| *id)
            .collect();
        for id in ids {
            let Some(l) = self.links.get_mut(&id) else { continue };
            let side = usize::from(l.ends[1].node == n);
            l.ends[side].gone = true;
            let other = 1 - side;
            if self.rng.percent(70) || l.ends[other].conn.is_none() {
                let at = self.now + self.link_delay();
                let keep = self.rng.below(l_len(self, id, other) + 1);
                let keep = usize::try_from(keep).unwrap_or(0);
                if let Some(l) = self.links.get_mut(&id) {
                    let at = l.ends[other].cut(keep, at);
                    self.at(at, Event::Arrive { link: id, side: other });
                }
            } else {
                self.counters.hit("connection left half open");
            }
        }
    }
}

fn l_len(w: &World, id: u64, side: usize) -> u64 {
    w.links.get(&id).map_or(0, |l| l.ends[side].inbox.len() as u64)
}
