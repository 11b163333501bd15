//! Who listens to what goes up and down a stream, and holds it against PROTOCOL.md, section 6.

use node::api::LinkStatus;
use rcp::proto::frame::{Attach, Frame, StartMode, StreamId};
use rcp::proto::ids::{ChunkNumber, SetNumber};
use rcp::proto::limits::MAX_CHUNK_LEN;
use volmcast::volume::Volume;

use super::node::name;
use super::options::Kind;
use super::world::World;

/// A stream on a connection.
pub(super) type Stream = (u64, StreamId);

/// What was heard of a stream since the receiver attached.
#[derive(Debug, Default)]
pub(super) struct Heard {
    /// The node that receives it.
    to: usize,
    /// The total that it granted last.
    granted: u64,
    /// What it acknowledged last, and of a seed.
    saved: Option<(SetNumber, ChunkNumber)>,
    /// The answer was to go on, and since when it could have acknowledged something else.
    goes_on: bool,
    silent: Option<u64>,
    seed_saved: Option<(u64, u64)>,
    seed_granted: u64,
    /// It was answered.
    runs: bool,
    /// All data come this way; over several connections they go many ways.
    counts: bool,
    /// Bytes of bodies that were sent, and what the next frames have for a number.
    sent: u64,
    seed_sent: u64,
    seq: u64,
    seed_seq: u64,
}

/// Who has something to acknowledge does it in this time, in microseconds.
const SAYS: u64 = 1_000_000;
/// An eighth of the window is much.
const MUCH: u64 = 8;

impl Heard {
    /// What is wrong with a frame, in words.
    fn hear(&mut self, frame: &Frame, window: u64) -> Result<(), String> {
        match frame {
            Frame::Start(s) => {
                (self.runs, self.goes_on) = (true, s.mode == StartMode::Resume);
                (self.sent, self.seed_sent, self.seq, self.seed_seq) = (0, 0, 0, 0);
            }
            Frame::StreamError { .. } | Frame::Withdraw { .. } => self.goes_on = false,
            // What was counted before is not what is counted now.
            Frame::Credit { .. } | Frame::Saved { .. } | Frame::SeedAck { .. } if !self.runs => {
                return Err(format!("sends {} before it was answered", frame.frame_type()));
            }
            Frame::Credit { total, .. } => {
                let told = self.granted;
                if *total <= told {
                    return Err(format!("grants {total} where {told} were granted"));
                }
                // What is on its way has not come: there may be more left than that.
                let left = told.saturating_sub(self.sent);
                if self.counts && total - told < window / MUCH && left >= MAX_CHUNK_LEN as u64 {
                    return Err(format!("grants {total} where {left} of {told} are left"));
                }
                self.granted = *total;
            }
            Frame::Saved { state, next_chunk, .. } => {
                let new = (*state, *next_chunk);
                // Less than before is what remains where another writer's line begins.
                if self.saved.replace(new) == Some(new) {
                    return Err(format!("acknowledges {new:?} again"));
                }
            }
            Frame::SeedAck { next_block, total, .. } => {
                self.seed_granted = self.seed_granted.max(*total);
                let new = Some((*next_block, *total));
                if self.seed_saved == new {
                    return Err(format!("acknowledges {next_block} of a seed, and {total}, again"));
                }
                self.seed_saved = new;
                if self.counts && *total > self.seed_sent + window {
                    let sent = self.seed_sent;
                    return Err(format!("grants {total} of a seed where {sent} were sent"));
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// The same, of data that go down.
    fn hear_data(&mut self, frame: &Frame) -> Result<(), String> {
        let (number, next) = match frame {
            Frame::Chunk { seq, .. } | Frame::SetEnd { seq, .. } => (*seq, &mut self.seq),
            Frame::SeedData { seq, .. } => (*seq, &mut self.seed_seq),
            _ => return Ok(()),
        };
        if number != *next {
            return Err(format!("sends {} {number} where {next} is due", frame.frame_type()));
        }
        *next += 1;
        if let Frame::SeedData { body, .. } = frame {
            // An extent is never cut in two.
            let (sent, granted) = (self.seed_sent, self.seed_granted);
            if sent >= granted {
                return Err(format!(
                    "sends more than {sent} of a seed where {granted} were granted"
                ));
            }
            self.seed_sent += body.len() as u64;
        }
        if let Frame::Chunk { body, .. } | Frame::SetEnd { body, .. } = frame {
            self.sent += body.len() as u64;
            if self.sent > self.granted {
                return Err(format!("sends {} where {} were granted", self.sent, self.granted));
            }
        }
        Ok(())
    }
}

impl World {
    /// A node puts a frame on a connection.
    pub fn listen(&mut self, link: u64, (n, to): (usize, usize), frame: &Frame) {
        let key = (link, frame.stream());
        if let Frame::Attach(a) = frame {
            if let Some(what) = self.asks_wrongly(n, a) {
                self.fail(format!("n{n} {what}"));
            }
            let counts = self.opt.connections < 2;
            self.heard.insert(key, Heard { to: n, granted: a.credit, counts, ..Heard::default() });
        }
        if let Frame::Chunk { body, .. }
        | Frame::SetEnd { body, .. }
        | Frame::SeedData { body, .. } = frame
        {
            let (over, bytes) = self.nodes[n].fed.entry(to).or_default();
            let before = if std::mem::replace(over, link) == link { *bytes } else { 0 };
            *bytes = before + body.len() as u64;
        }
        if let Frame::SeedData { view, .. } = frame {
            self.may_leave(n, *view);
        }
        let window = self.opt.window;
        let Some(heard) = self.heard.get_mut(&key) else { return };
        let data = if heard.counts && heard.runs { heard.hear_data(frame) } else { Ok(()) };
        if let Err(what) = data.and_then(|()| heard.hear(frame, window)) {
            self.fail(format!("n{n} {what} to n{to}"));
        }
    }

    /// What leaves a writer in an extent is of a set that it made, or of one that a restart knows to
    /// have left.
    fn may_leave(&mut self, n: usize, view: SetNumber) {
        let Some(v) = self.nodes[n].volume().filter(|v| v.capture().is_some()) else { return };
        let known = v.durable().visible.max(v.durable().outgoing);
        if view > known {
            self.fail(format!("n{n} sends an extent of set {view}, and its slot names {known}"));
        }
    }

    /// Whoever is fed has told its parent what is durable with it, also if that has not changed since
    /// there was another parent.
    pub(super) fn unsaid(&mut self, n: usize) -> Result<(), String> {
        let node = &self.nodes[n];
        let fed = |v: &&Volume| v.failure().is_none() && v.capture().is_none();
        let Some(v) = node.volume().filter(fed) else { return Ok(()) };
        let (has, life, now) = (v.acknowledged(), node.life, self.now);
        let fed = self.heard.iter_mut().filter(|(_, h)| h.to == n && h.goes_on);
        for ((link, _), h) in fed {
            let there = self.links.get(link).is_some_and(|l| {
                // Also of what is on its way: the answer may be.
                l.ends.iter().any(|e| e.node == n && e.life == life && e.inbox.is_empty())
                    && l.ends.iter().all(|e| !e.gone)
            });
            let owed = has.filter(|has| there && h.saved != Some(*has));
            h.silent = owed.map(|_| h.silent.unwrap_or(now));
            if let (Some(has), Some(_)) = (owed, h.silent.filter(|since| now > since + SAYS)) {
                let said = h.saved;
                return Err(format!("has {has:?}, and told its parent of {said:?}"));
            }
        }
        Ok(())
    }

    /// Whoever wants a seed to go on has what it says that it has, of this seed.
    fn asks_wrongly(&self, n: usize, a: &Attach) -> Option<String> {
        let asks = a.wants_seed && a.seed_from_block > 0 && self.nodes[n].kind == Kind::Replica;
        let v = self.nodes[n].volume().filter(|_| asks)?;
        let (mark, _) = v.opened().seed?;
        // A commit that was under way when the stream ended may name more than has come once more.
        let same = v.durable().seed.filter(|d| (d.over, d.from) == (mark.over, mark.from));
        let has = mark.next_block.max(same.map_or(0, |d| d.next_block));
        let asks = a.seed_from_block;
        (asks > has).then(|| format!("wants a seed from block {asks} on, and has it up to {has}"))
    }

    /// A node counts what it sends over a connection that is there; what it could not send any more it
    /// has counted as well.
    pub(super) fn uncounted(&self) -> Option<String> {
        self.nodes.iter().find_map(|node| {
            let status = node.mover.as_ref()?.status();
            let mut links = status.groups.iter().flat_map(|g| &g.children);
            let there =
                |over: u64| self.links.get(&over).is_some_and(|l| l.ends.iter().all(|e| !e.gone));
            let fed = |of: &str, to: usize| name(to).as_str() == of;
            let sent =
                |of: &str| node.fed.iter().find(|(to, (over, _))| fed(of, **to) && there(*over));
            let less = |l: &LinkStatus| sent(&l.node).filter(|(_, (_, sent))| l.bytes < *sent);
            let (to, (_, sent)) = links.find_map(less)?;
            Some(format!("{} sent {sent} bytes to n{to} and says that it did not", status.node))
        })
    }

    /// When all is quiet, who has room has granted it.
    pub(super) fn ungranted(&self) -> Option<String> {
        self.heard.iter().filter(|(_, h)| h.runs && h.counts).find_map(|((link, _), h)| {
            let l = self.links.get(link)?;
            let open = |e: &super::link::End| {
                !e.gone && e.inbox.is_empty() && e.life == self.nodes[e.node].life
            };
            let here = l.ends.iter().all(open);
            let grantable = self.nodes[h.to].volume().filter(|_| here)?.intake_grantable();
            let left = h.granted.saturating_sub(h.sent);
            let much = grantable - h.granted.min(grantable) >= self.opt.window / MUCH;
            let due = grantable > h.granted && (much || left < MAX_CHUNK_LEN as u64);
            let (to, granted) = (h.to, h.granted);
            due.then(|| format!("n{to} granted {granted} and has room for {grantable}"))
        })
    }

    /// When all is quiet, what was sent has come, and was counted there.
    pub(super) fn untold(&self) -> Option<String> {
        let runs = self.heard.iter().filter(|(_, h)| h.runs && h.counts && h.sent > 0);
        runs.into_iter().find_map(|((link, _), h)| {
            let l = self.links.get(link)?;
            let open = |e: &super::link::End| {
                !e.gone && e.inbox.is_empty() && e.life == self.nodes[e.node].life
            };
            let node = self.nodes.get(h.to).filter(|_| l.ends.iter().all(open))?;
            let (to, sent, came) = (h.to, h.sent, node.volume()?.intake_received());
            if came != sent {
                return Some(format!("{sent} bytes were sent to n{to}, which counts {came}"));
            }
            let status = node.mover.as_ref()?.status();
            let parent = status.groups.into_iter().find_map(|g| g.parent)?;
            let less = parent.state == "connected" && parent.bytes < sent;
            less.then(|| format!("n{to} got {sent} bytes and says {}", parent.bytes))
        })
    }
}
