//! What goes down a stream, held against PROTOCOL.md, sections 6 and 7: step follows step, nothing is
//! left out, nothing comes that the receiver has, and what is said of it is so.

use std::collections::VecDeque;
use std::time::Duration;

use rcp::proto::delta::StepId;
use rcp::proto::frame::{
    Attach, DecodedFrame, Frame, HeldStep, Start, StartMode, Verified, stream_error,
};
use rcp::proto::ids::{ChunkNumber, Generation, SetNumber};
use volmcast::io::{FileId, Io, Op};
use volmcast::save::{RecordHeader, RecordKind, Ring};
use volmcast::units::LogPos;
use volmcast::volume::STOPPED_AFTER;

use super::node::{VOLUME, name};
use super::options::Kind;
use super::world::World;

/// A cause of delays is looked for among the looks of four seconds.
const LOOKED: u64 = 10_000_000;
/// Somebody who is away is looked at by a timer that is due then.
const SLACK: Duration = Duration::from_secs(1);

/// Where a receiver is taken to be.
#[derive(Debug)]
enum At {
    /// It has this state, and of the step behind it what it said.
    Behind(SetNumber, Option<HeldStep>),
    /// This chunk of this step comes next, or the header.
    Within(StepId, ChunkNumber),
}

/// What went down a stream.
#[derive(Debug, Default)]
pub(super) struct Passage {
    /// Attachments that were not answered.
    asked: VecDeque<Attach>,
    at: Option<At>,
    /// The line of the step before.
    line: Option<Generation>,
    /// It waits until its parent has more than it, and was sent nothing since.
    waits: bool,
    /// Bytes that the sender knows to be granted, and that went.
    granted: u64,
    sent: u64,
    /// When a chunk may have been too long for what was left.
    short: u64,
}

/// What is wrong, in words.
type Heeded = Result<(), String>;

fn that(holds: bool, what: impl FnOnce() -> String) -> Heeded {
    if holds { Ok(()) } else { Err(what()) }
}

impl Passage {
    /// The answer to an attachment.
    fn start(&mut self, s: &Start) -> Heeded {
        let asked = loop {
            match self.asked.pop_front() {
                // What came before it was answered by an error.
                Some(a)
                    if matches!(s.mode, StartMode::Resume | StartMode::Wait)
                        && a.state != s.from
                        && !self.asked.is_empty() => {}
                asked => break asked,
            }
        };
        let held = asked.as_ref().filter(|_| s.mode == StartMode::Resume).and_then(|a| a.next);
        self.at = Some(At::Behind(s.from, held));
        self.waits = s.mode == StartMode::Wait;
        self.sent = 0;
        let passing = asked.is_some_and(|a| !a.wants_seed && a.folded > SetNumber::ZERO);
        let catches_up = matches!(s.mode, StartMode::CatchUp { .. });
        that(!(passing && catches_up), || "catches up somebody without content".to_owned())
    }

    /// A chunk, or the header that follows the last one.
    fn data(&mut self, step: StepId, n: ChunkNumber, end: bool) -> Heeded {
        let (due, follows) = match &self.at {
            None => return Ok(()),
            Some(At::Behind(state, held)) => {
                let follows = step.base <= *state && *state < step.to;
                let held = held.filter(|h| h.to == step.to && h.base == step.base);
                (held.map_or(ChunkNumber(0), |h| h.next_chunk), follows)
            }
            Some(At::Within(id, due)) if *id == step => (*due, true),
            // What had come of that one was given up.
            Some(At::Within(id, _)) => (ChunkNumber(0), step.base == id.base),
        };
        // Sets of a line that ended were given up: the receiver hears of that in the Offer, and does not
        // heed what comes before it has asked again.
        let same = self.line.replace(step.generation).is_none_or(|l| l == step.generation);
        // What is held in part may come as a whole.
        let begins = n.0 == 0 && matches!(self.at, Some(At::Behind(..)));
        that(!same || follows && (n == due || begins), || {
            let (base, to, at) = (step.base, step.to, &self.at);
            format!("sends chunk {n} of {base}→{to} where {due} is due, at {at:?}")
        })?;
        let next =
            if end { At::Behind(step.to, None) } else { At::Within(step, ChunkNumber(n.0 + 1)) };
        self.at = Some(next);
        Ok(())
    }
}

impl World {
    /// A node puts a frame on a connection.
    pub(super) fn heed(&mut self, link: u64, (n, to): (usize, usize), frame: &DecodedFrame) {
        // Over several connections frames come by many ways.
        if self.opt.connections > 1 {
            return;
        }
        let (key, now) = ((link, frame.frame.stream()), self.now);
        if let Frame::Attach(a) = &frame.frame {
            let p = self.passages.entry(key).or_default();
            p.asked.push_back(a.clone());
            if let Err(what) = self.goes_on_staging(n, a) {
                self.fail(format!("n{n} {what}"));
            }
            return;
        }
        let longest = self.opt.chunk + self.opt.block_size.bytes() + 8192;
        let Some(p) = self.passages.get_mut(&key) else { return };
        let heeded = match (&frame.frame, &frame.content) {
            (Frame::Start(s), _) => p.start(s),
            (Frame::StreamError { code, text, .. }, _) => {
                let answers =
                    [stream_error::DIVERGED, stream_error::STOPPED, stream_error::NO_CATCH_UP];
                if answers.contains(code) {
                    p.asked.pop_front();
                }
                let has = match p.at {
                    Some(At::Behind(state, _)) => state,
                    _ => SetNumber::ZERO,
                };
                let waited = p.waits.then_some(has);
                self.let_go_rightly(n, to, (*code, text), waited)
            }
            (Frame::Chunk { .. }, Verified::Chunk(c)) => {
                p.sent += c.bytes().len() as u64;
                p.data(c.step(), c.number(), false)
            }
            (Frame::SetEnd { body, .. }, Verified::Set(h)) => {
                p.sent += body.len() as u64;
                p.data(h.step, ChunkNumber(h.chunk_count), true)
            }
            _ => Ok(()),
        };
        if let Some(p) = self.passages.get_mut(&key)
            && matches!(frame.frame, Frame::Chunk { .. } | Frame::SetEnd { .. })
        {
            if p.granted < p.sent + longest {
                p.short = now;
            }
            if std::mem::take(&mut p.waits) && self.said_of(n, to).as_deref() == Some("waiting") {
                self.fail(format!("n{n} sends sets to n{to}, and says that it waits"));
            }
        }
        if let Err(what) = heeded {
            self.fail(format!("n{n} {what}, to n{to}"));
        }
    }

    /// A frame comes to a node.
    pub(super) fn heed_coming(&mut self, link: u64, n: usize, frame: &Frame) {
        let now = self.now;
        let longest = self.opt.chunk + self.opt.block_size.bytes() + 8192;
        let Some(p) = self.passages.get_mut(&(link, frame.stream())) else { return };
        let was = p.granted < p.sent + longest;
        match frame {
            Frame::Attach(a) => {
                (p.granted, p.sent, p.short) = (a.credit, 0, now);
                self.nodes[n].away.clear();
            }
            Frame::Credit { total, .. } => {
                p.granted = p.granted.max(*total);
                if was {
                    p.short = now;
                }
            }
            _ => {}
        }
    }

    /// How a node says that it feeds another.
    fn said_of(&self, n: usize, to: usize) -> Option<String> {
        let status = self.nodes[n].mover.as_ref()?.status();
        let mut all = status.volumes.into_iter().flat_map(|v| v.children);
        all.find(|c| c.node == name(to).as_str()).map(|c| c.state)
    }

    /// Whose extents are to come goes on with them: what was staged stays.
    fn goes_on_staging(&self, n: usize, a: &Attach) -> Heeded {
        let Some(v) = self.nodes[n].volume() else { return Ok(()) };
        let mark = v.durable().staged.filter(|m| m.need.is_none() && m.next_block > 0);
        // It may have been given up since, or have come to its end.
        let open = |from| v.open_step().is_some_and(|(s, _)| s.to == from);
        let Some(mark) = mark.filter(|m| open(m.from)) else { return Ok(()) };
        that(a.wants_seed && a.state == mark.from, || {
            format!("stages what leads to set {}, and asks for something else: {a:?}", mark.from)
        })
    }

    /// Who is told that its place was given up has none; nobody waits for what does not come.
    fn let_go_rightly(
        &self,
        n: usize,
        to: usize,
        (code, text): (u16, &str),
        waited: Option<SetNumber>,
    ) -> Heeded {
        let Some(v) = self.nodes[n].volume() else { return Ok(()) };
        let place = v.places().any(|p| p.child == name(to));
        that(code != stream_error::DETACHED || !place, || {
            format!("has let go of somebody, and keeps what it lacks: {text}")
        })?;
        let Some(state) = waited.filter(|_| text.contains(" as a part of more")) else {
            return Ok(());
        };
        let here = v.durable().log_base <= state && state <= v.saved_position().0;
        that(!here, || format!("has set {state} and what follows, and lets go: {text}"))
    }

    /// Hops keep order: nothing is missing before what comes.
    pub(super) fn refused_what_came(&mut self, n: usize, text: &str) {
        let Some((_, why)) = text.split_once("the stream starts again: ") else { return };
        let refusals = ["where frame", "where chunk"];
        if refusals.iter().any(|r| why.contains(r)) {
            self.fail(format!("n{n} refuses what its parent sends: {why}"));
        }
    }

    /// Records fill the save volume without gaps: the last one ends where the file ends.
    pub(super) fn heed_record(&mut self, n: usize, io: &Io) {
        let Op::Write { offset, data } = &io.op else { return };
        let Some(head) = data.first().filter(|_| io.file == FileId::Save) else { return };
        let pos = head.get(16..24).and_then(|b| b.try_into().ok()).map(u64::from_le_bytes);
        let Some(pos) = pos.map(LogPos) else { return };
        let Ok(h) = RecordHeader::decode(head, VOLUME, pos) else {
            return self.fail(format!("n{n} writes something else than records at {offset}"));
        };
        let left = self.opt.save - offset;
        let (len, what) = match h.kind {
            RecordKind::Pad => (64 + u64::from(h.body_len), "fills up the file"),
            _ => (Ring::record_len(u64::from(h.body_len)), "is there"),
        };
        let wrong = if h.kind == RecordKind::Pad { len != left } else { len > left };
        if wrong || pos.0 % self.opt.save != *offset {
            self.fail(format!("n{n}: {h:?} {what} at {offset}, {left} bytes before the end"));
        }
    }

    /// Looks at what nodes keep for others.
    pub(super) fn audit_feeding(&mut self, n: usize) {
        let Some(m) = &self.nodes[n].mover else { return };
        if let Err(e) = m.audit() {
            return self.fail(format!("n{n}: {e}"));
        }
        if let Err(e) = self.unsaid(n) {
            self.fail(format!("n{n} {e}"));
        }
        if let Err(e) = self.away_too_long(n) {
            self.fail(format!("n{n} {e}"));
        }
    }

    /// Somebody who is away holds back no more than he may.
    fn away_too_long(&mut self, n: usize) -> Heeded {
        let Some(v) = self.nodes[n].volume().filter(|v| v.failure().is_none()) else {
            return Ok(());
        };
        let policy = &v.config().full;
        if policy.keeps_all() {
            return Ok(());
        }
        let mut away = Vec::new();
        for p in v.places().filter(|p| !p.live) {
            let behind = v.consumer_behind(&p.child).unwrap_or(0);
            if behind > 0 {
                let limits = policy.limits_of(&p.child);
                away.push((p.child.to_string(), v.saved_bytes() - behind, behind, limits));
            }
        }
        let life = self.nodes[n].life;
        let was = std::mem::take(&mut self.nodes[n].away);
        for (child, at, behind, limits) in away {
            let since = was.get(&child).filter(|(of, before, _)| (*of, *before) == (life, at));
            let since = since.map_or(self.now, |(.., since)| *since);
            let time = Duration::from_micros(self.now - since);
            let bytes = limits.bytes.is_some_and(|b| behind > b);
            let late = limits.time.is_some_and(|t| time > t + SLACK);
            if time > STOPPED_AFTER + SLACK && (bytes || late) {
                return Err(format!(
                    "keeps {behind} bytes for {child}, which has been away for {time:?}: {limits:?}"
                ));
            }
            self.nodes[n].away.insert(child, (life, at, since));
        }
        Ok(())
    }

    /// Why a child is behind is said rightly: it takes no more only if it has not granted more.
    pub(super) fn wrong_brake(&self, n: usize) -> Option<String> {
        let status = self.nodes[n].mover.as_ref()?.status();
        let children = status.volumes.iter().flat_map(|v| &v.children);
        for c in children.filter(|c| c.delayed.as_ref().is_some_and(|d| d.cause == "child")) {
            let longest = self.opt.chunk + self.opt.block_size.bytes() + 8192;
            let to = (0..self.nodes.len()).find(|i| name(*i).as_str() == c.node)?;
            let over = |(link, _): &super::listen::Stream| {
                self.links.get(link).is_some_and(|l| {
                    let here = |e: &super::link::End, i: usize| {
                        e.node == i && !e.gone && e.life == self.nodes[i].life
                    };
                    let [a, b] = &l.ends;
                    here(a, n) && here(b, to) || here(a, to) && here(b, n)
                })
            };
            let mut ways = self.passages.iter().filter(|(key, _)| over(key)).peekable();
            let ample = |p: &Passage| {
                p.granted >= p.sent + longest && self.now > p.short + LOOKED && p.at.is_some()
            };
            if ways.peek().is_some() && ways.all(|(_, p)| ample(p)) {
                return Some(format!(
                    "n{n} says that {} takes no more, which has granted more for long",
                    c.node
                ));
            }
        }
        None
    }

    /// When all is quiet, nobody waits, and whoever was sent something knows it.
    pub(super) fn unheeded(&self) -> Option<String> {
        for (n, node) in self.nodes.iter().enumerate() {
            let Some(v) = node.volume() else { continue };
            if let Some(p) = v.places().find(|p| p.live && p.waits) {
                return Some(format!("n{n} lets {} wait, which has no more: {p:?}", p.child));
            }
            let status = node.mover.as_ref()?.status();
            let mut children = status.volumes.iter().flat_map(|v| &v.children);
            // What was to pass through a relay waits for a child there that went.
            let relays = self.nodes.iter().filter(|n| n.kind == Kind::Relay).map(|n| name(n.index));
            let relays: Vec<_> = relays.collect();
            let relay = |c: &str| relays.iter().any(|r| r.as_str() == c);
            if let Some(c) = children.find(|c| c.state != "streaming" && !relay(&c.node)) {
                return Some(format!("n{n} says that {} is {}", c.node, c.state));
            }
        }
        self.untold()
    }
}
