//! Children that take the stream from this save volume, each at its own position.
//!
//! A consumer holds the log's tail at what is durable at the child. What happens when room runs out
//! is decided in `full`.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use rcp::proto::clock::Mono;
use rcp::proto::delta::{Chunk, SetHeader};
use rcp::proto::ids::{ChunkNumber, NodeName, SetNumber};

use super::desk::Purpose;
use super::{Event, Role, Volume};
use crate::io::{FileId, Op, Outcome};
use crate::save::RecordKind;
use crate::save::log::Located;
use crate::save::readback::{SpanRead, Want};
use crate::units::LogPos;

/// How long a child lets those close behind it come nearer before it is read for at their cost.
const PATIENCE: Duration = Duration::from_millis(20);

/// One child's place in the log.
#[derive(Clone, Debug)]
pub(super) struct Consumer {
    /// Next record to send.
    cursor: LogPos,
    /// Everything before is durable at the child.
    acked: LogPos,
    /// The newest state that it acknowledged in this session.
    said: SetNumber,
    /// A session with the child is up.
    live: bool,
    /// The child holds more than we do: nothing is sent until we have passed this state.
    waiting_for: Option<SetNumber>,
    /// Since when it has let those close behind go first (they share what is read for it).
    patient_since: Option<Mono>,
    /// Since when it has taken nothing of what it lacks.
    stuck_since: Option<Mono>,
    /// It is led to this state by blocks and what comes after them, and does not have it yet.
    led_to: Option<SetNumber>,
}

impl Consumer {
    /// Everything before `pos` is at the child, and nothing else was sent.
    fn at(pos: LogPos, live: bool) -> Self {
        Self {
            cursor: pos,
            acked: pos,
            said: SetNumber::ZERO,
            live,
            waiting_for: None,
            patient_since: None,
            stuck_since: None,
            led_to: None,
        }
    }

    pub(super) fn acked(&self) -> LogPos {
        self.acked
    }

    pub(super) fn cursor(&self) -> LogPos {
        self.cursor
    }

    pub(super) fn is_live(&self) -> bool {
        self.live
    }

    /// What it gets leads it to a state that it does not have yet: until then it acknowledges none.
    pub(super) fn is_led(&self) -> bool {
        self.live && self.led_to.is_some()
    }

    /// A session with it is up, it waits for this node, and what it gets leads it to that state.
    pub(super) fn standing(&self) -> (bool, bool, Option<SetNumber>) {
        (self.live, self.waiting_for.is_some(), self.led_to)
    }

    /// The newest state that it acknowledged in this session.
    pub(super) fn said(&self) -> SetNumber {
        self.said
    }

    /// Whatever held it up until now does not count.
    pub(super) fn is_not_stuck(&mut self) {
        self.stuck_since = None;
    }

    /// It waits for the node here, not the other way round.
    pub(super) fn waits(&self) -> bool {
        self.live && self.waiting_for.is_some()
    }

    /// Since when it has taken nothing of what there is up to `end`, if it lacks something.
    pub(super) fn stuck_since(&mut self, end: LogPos, now: Mono) -> Option<Mono> {
        if self.acked >= end {
            self.stuck_since = None;
            return None;
        }
        Some(*self.stuck_since.get_or_insert(now))
    }
}

/// All children with a place in the log.
#[derive(Debug, Default)]
pub(super) struct Consumers {
    map: BTreeMap<NodeName, Consumer>,
    /// When the first child's patience with those behind it ends.
    patient_until: Option<Mono>,
}

impl Consumers {
    pub(super) fn iter(&self) -> impl Iterator<Item = (&NodeName, &Consumer)> {
        self.map.iter()
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (&NodeName, &mut Consumer)> {
        self.map.iter_mut()
    }

    pub(super) fn get(&self, child: &NodeName) -> Option<&Consumer> {
        self.map.get(child)
    }

    /// Gives a place up; false if there was none.
    pub(super) fn remove(&mut self, child: &NodeName) -> bool {
        self.map.remove(child).is_some()
    }

    pub(super) fn len(&self) -> usize {
        self.map.len()
    }

    /// Where the queue of a child begins that is connected, unless blocks lead it to a later state.
    pub(super) fn queue_at(&self, child: &NodeName) -> Option<LogPos> {
        let c = self.map.get(child)?;
        let runs = c.live && c.waiting_for.is_none() && c.led_to.is_none();
        runs.then_some(c.cursor)
    }

    /// A child gets what is before `pos`, the end of `state`, as one step; false if it has no place
    /// before that.
    pub(super) fn joins(&mut self, child: &NodeName, state: SetNumber, pos: LogPos) -> bool {
        let Some(c) = self.map.get_mut(child).filter(|c| c.acked < pos) else { return false };
        *c = Consumer { led_to: Some(state), ..Consumer::at(pos, true) };
        true
    }

    /// All blocks were sent to a child: with the sets up to `need` they are a state. Those it may have
    /// acknowledged already, while the blocks came.
    pub(super) fn leads_to(&mut self, child: &NodeName, need: SetNumber) {
        if let Some(c) = self.map.get_mut(child) {
            c.led_to = (c.said < need).then_some(need);
        }
    }

    /// Who has acknowledged least, and up to where.
    pub(super) fn last(&self) -> Option<(NodeName, LogPos)> {
        self.map.iter().min_by_key(|(_, c)| c.acked).map(|(n, c)| (n.clone(), c.acked))
    }

    /// As the mailbox had it: nobody is connected yet.
    pub(super) fn restore(&mut self, name: NodeName, acked: LogPos) {
        self.map.insert(name, Consumer::at(acked, false));
    }

    pub(super) fn timeout(&self) -> Option<Mono> {
        self.patient_until
    }

    pub(super) fn clear(&mut self) -> Vec<NodeName> {
        std::mem::take(&mut self.map).into_keys().collect()
    }

    /// The child furthest behind, and how far the next one is ahead of it.
    pub(super) fn hindmost(&self) -> Option<(NodeName, LogPos, Option<LogPos>)> {
        let mut all: Vec<_> = self.map.iter().map(|(n, c)| (c.acked, n)).collect();
        all.sort();
        let (pos, name) = all.first()?;
        Some(((*name).clone(), *pos, all.get(1).map(|(p, _)| *p)))
    }
}

/// How a child was taken on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Attached {
    /// It continues at its position.
    Resume,
    /// It holds more than this node does; it waits until this node has passed it.
    Wait,
    /// It holds more of this line than its writer does: what the writer has is an old copy of itself.
    Newer {
        /// The writer's newest set.
        here: SetNumber,
    },
    /// What it needs is not here: it must be seeded, joining the live stream at this state.
    Seed {
        /// The state to join at.
        from: SetNumber,
        /// Why, in words.
        reason: String,
    },
    /// What it needs is not here, but which blocks changed is known: those are sent, and it joins
    /// the live stream at this state.
    CatchUp {
        /// The state to join at.
        from: SetNumber,
        /// Why, in words.
        reason: String,
        /// How many blocks changed; 0 if that is not known here.
        blocks: u64,
        /// Bytes of them; 0 if that is not known here.
        bytes: u64,
    },
    /// It is being found out which blocks it lacks: [`Event::Planned`] tells.
    Planning,
    /// Extents of a catch-up that passes through it cannot be had: what changed is not known.
    NoCatchUp {
        /// Why, in words.
        reason: String,
    },
    /// Neither is possible now; it should ask again later.
    NotNow {
        /// Why, in words.
        reason: String,
    },
}

/// A seed or catch-up that a child is in the middle of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seeding {
    /// First block that it lacks.
    pub block: u64,
    /// The state up to which it may hold live sets.
    pub folded: SetNumber,
    /// A catch-up, over this state.
    pub over: Option<SetNumber>,
    /// It passes through the child to one below it.
    pub passing: bool,
}

/// A record for a child.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outgoing {
    /// Chunk or set header.
    pub kind: RecordKind,
    /// As it travels.
    pub body: Bytes,
    /// The state its step leads to.
    pub to: SetNumber,
    /// Which chunk.
    pub chunk: ChunkNumber,
}

impl Volume {
    /// End of what may be sent: at the primary only finished sets, elsewhere all that was appended.
    pub(super) fn sendable_end(&self) -> LogPos {
        if !matches!(self.cfg.role, Role::Primary { .. }) || rcp::planted!(SentBeforeReady) {
            return self.log.head();
        }
        let ready = self.durable.visible;
        self.log
            .steps()
            .rev()
            .find(|s| s.id.to <= ready)
            .and_then(|s| s.end.as_ref().map(|(_, end)| *end))
            .unwrap_or_else(|| self.log.tail())
    }

    /// A child that shows `state` is to be seeded although its position may be here, or, if its
    /// content is that of `over`, to be caught up. Not before this node holds that state: neither
    /// takes a child back.
    pub fn consumer_seed(
        &mut self,
        child: &NodeName,
        state: SetNumber,
        over: Option<SetNumber>,
        reason: String,
    ) -> Attached {
        if let Some(why) = &self.failed {
            return Attached::NotNow { reason: why.clone() };
        }
        let here = self.durable.visible;
        if here < state && !matches!(self.cfg.role, Role::Relay) {
            self.consumer_forget(child);
            return Attached::NotNow {
                reason: format!(
                    "{reason}; a seed must wait: {child} has set {state} already, and this node \
                     only set {here}"
                ),
            };
        }
        self.attach_for_seed(child, over, reason)
    }

    /// A child connected that holds everything up to `state` and, of the step after it, the chunks
    /// before `next`. If its content is that of `over`, the blocks that changed since may be enough
    /// for it. A child may be in the middle of a seed or catch-up.
    pub fn consumer_attach(
        &mut self,
        child: &NodeName,
        state: SetNumber,
        next: ChunkNumber,
        over: Option<SetNumber>,
        seeding: Option<Seeding>,
    ) -> Attached {
        if let Some(why) = &self.failed {
            return Attached::NotNow { reason: why.clone() };
        }
        if let Some(why) = self.stage_words() {
            self.consumer_forget(child);
            return Attached::NotNow { reason: format!("its stream must wait: {why}") };
        }
        if let Some(why) = seeding.and_then(|_| self.cannot_seed()) {
            self.consumer_forget(child);
            return Attached::NotNow { reason: format!("its seed must wait: {why}") };
        }
        // Of its own; what passes through it is another's.
        let mine = seeding.filter(|s| !s.passing).and_then(|s| s.over).or(over);
        if let Some(s) = seeding
            && let Some(Err(why)) = s.over.map(|over| self.knows_changes(over))
        {
            if s.passing {
                return Attached::NoCatchUp { reason: why };
            }
            return self.consumer_seed(child, state, None, why);
        }
        let (cursor, answer) = match self.log.locate(state, next) {
            Located::At(pos) => (pos, Attached::Resume),
            // Nothing leaves a primary that it could lose.
            Located::Ahead
                if self.capture().is_some()
                    && state > self.log.state().max(self.durable.visible) =>
            {
                self.consumer_forget(child);
                return Attached::Newer { here: self.durable.visible };
            }
            Located::Ahead => (self.log.head(), Attached::Wait),
            Located::Gone => {
                let reason = format!(
                    "the save volume begins after set {}, the child is at set {state}",
                    self.log.base()
                );
                return self.attach_for_seed(child, mine, reason);
            }
        };
        // A step whose data never was in the log cannot be passed by sending it.
        if let Some(s) = self.bitmap_only_between(state, cursor) {
            let reason = format!(
                "set {s} has no data in the save volume (larger than it, imported, or jumped over by a catch-up)"
            );
            return self.attach_for_seed(child, mine, reason);
        }
        let waiting_for = (answer == Attached::Wait).then_some(state);
        let led_to = self.consumers.get(child).and_then(|c| c.led_to);
        let led_to = led_to.filter(|_| seeding.is_some());
        let place = Consumer { waiting_for, led_to, ..Consumer::at(cursor, true) };
        self.consumers.map.insert(child.clone(), place);
        let resumes = answer == Attached::Resume && seeding.is_none();
        if resumes && self.coalesce_at_attach(child, cursor, over) {
            self.commit.request();
            self.pump();
            return Attached::Planning;
        }
        if let Some(s) = seeding {
            self.seed_out_begin(child, s.block, s.folded, s.over, None);
        } else {
            self.seed_outs.remove(child);
        }
        self.commit.request();
        self.desk.event(Event::Sendable);
        self.pump();
        answer
    }

    fn bitmap_only_between(&self, state: SetNumber, from: LogPos) -> Option<SetNumber> {
        self.log
            .steps()
            .filter(|s| s.id.to > state && s.first >= from.min(s.first))
            .find(|s| {
                s.is_staged()
                    || s.end.as_ref().is_some_and(|(h, _)| {
                        h.flags.contains(rcp::proto::delta::SetFlags::BITMAP_ONLY)
                    })
            })
            .map(|s| s.id.to)
    }

    /// Takes a child on at the newest state whose successors are all in the log, to be caught up if
    /// its content is that of `over` and what changed since is known, else to be seeded.
    fn attach_for_seed(
        &mut self,
        child: &NodeName,
        over: Option<SetNumber>,
        mut reason: String,
    ) -> Attached {
        // Its place in the log, if it has one, is of no use to it and must not hold the tail.
        self.consumer_forget(child);
        if let Some(why) = self.cannot_seed() {
            return Attached::NotNow { reason: format!("{reason}; a seed must wait: {why}") };
        }
        let from = self.join_state();
        let Located::At(cursor) = self.log.locate(from, ChunkNumber(0)) else {
            return Attached::NotNow {
                reason: format!("{reason}; set {from} is not in the save volume yet"),
            };
        };
        let known = over.filter(|o| *o <= from).map(|o| (o, self.knows_changes(o)));
        let over = match known {
            Some((over, Ok(()))) => Some(over),
            Some((_, Err(why))) => {
                reason = format!("{reason}; {why}");
                None
            }
            None => None,
        };
        let relay = matches!(self.cfg.role, Role::Relay);
        let answer = (over.is_some() && !relay).then(|| (from, reason.clone()));
        let planning = answer.is_some();
        self.consumers.map.insert(child.clone(), Consumer::at(cursor, true));
        self.seed_out_begin(child, 0, from, over, answer);
        self.commit.request();
        self.desk.event(Event::Sendable);
        self.pump();
        if planning {
            Attached::Planning
        } else if over.is_some() {
            Attached::CatchUp { from, reason, blocks: 0, bytes: 0 }
        } else {
            Attached::Seed { from, reason }
        }
    }

    /// The newest state at which a child can join: its content is here, and its successors are or will
    /// be in the log.
    pub(super) fn join_state(&self) -> SetNumber {
        match self.cfg.role {
            Role::Primary { .. } => self.durable.visible,
            Role::Replica { .. } => self.durable.merged,
            Role::Relay => self.saved_position().0,
        }
    }

    /// The log was emptied: every child has to say anew where it is.
    pub(super) fn detach_all(&mut self, reason: &str) {
        for child in self.consumers.clear() {
            self.seed_outs.remove(&child);
            self.desk.event(Event::Detached { child, reason: reason.to_owned() });
        }
        self.readback.clear();
        self.commit.request();
    }

    /// The session with a child ended; its place is kept.
    pub fn consumer_leave(&mut self, child: &NodeName) {
        if let Some(c) = self.consumers.map.get_mut(child) {
            c.live = false;
        }
        self.seed_outs.remove(child);
        self.forget_read();
    }

    /// The child is no longer one of ours; its place is given up.
    pub fn consumer_forget(&mut self, child: &NodeName) {
        self.seed_outs.remove(child);
        if self.consumers.map.remove(child).is_some() {
            self.forget_read();
            self.commit.request();
            self.pump();
        }
    }

    /// The child says what is durable with it.
    pub fn consumer_ack(&mut self, child: &NodeName, state: SetNumber, next: ChunkNumber) {
        let Located::At(pos) = self.log.locate(state, next) else { return };
        let Some(c) = self.consumers.map.get_mut(child) else { return };
        c.said = c.said.max(state);
        let arrived = c.led_to.take_if(|to| state >= *to).is_some();
        let further = pos > c.acked;
        if further {
            c.acked = pos;
            c.stuck_since = None;
        }
        if arrived {
            self.coalesced_arrived(child);
        }
        if further {
            self.pump();
        }
    }

    /// Takes the next record for a child, if it fits `budget` bytes. `None`: nothing to send now;
    /// [`Event::Sendable`] says when to ask again.
    pub fn consumer_next(&mut self, child: &NodeName, budget: u64) -> Option<Outgoing> {
        let limit = self.sendable_end();
        let c = self.consumers.map.get_mut(child)?;
        if !c.live || c.waiting_for.is_some() || c.cursor >= limit {
            return None;
        }
        let r = self.log.record_from(c.cursor)?;
        if r.pos >= limit || u64::from(r.body_len) > budget {
            return None;
        }
        let read = if r.cached.is_some() { None } else { self.readback.body(r) };
        let from_file = read.is_some();
        let Some(body) = r.cached.clone().or(read) else {
            let since = *c.patient_since.get_or_insert(self.desk.now);
            let until = since.after(PATIENCE);
            let (pos, patient) = (r.pos, self.desk.now < until);
            if !self.read_back(pos, limit, patient) {
                let first = self.consumers.patient_until.map_or(until, |t| t.min(until));
                self.consumers.patient_until = Some(first);
            } else if let Some(c) = self.consumers.map.get_mut(child) {
                c.patient_since = None;
            }
            return None;
        };
        c.cursor = r.end();
        c.patient_since = None;
        let (next, out) = (r.end(), Outgoing { kind: r.kind, body, to: r.to, chunk: r.chunk });
        self.forget_read();
        if from_file {
            self.read_back(next, limit, true);
            if self.consumers.patient_until.take().is_some() {
                self.desk.event(Event::Sendable);
            }
        }
        Some(out)
    }

    /// Children that held more than this node go on right behind what they hold as soon as it is here.
    pub(super) fn pump_waiting(&mut self) {
        let state = self.log.state();
        let mut met = false;
        let mut gone = Vec::new();
        for (child, c) in &mut self.consumers.map {
            if let Some(s) = c.waiting_for.take_if(|s| *s <= state) {
                match self.log.locate(s, ChunkNumber(0)) {
                    Located::At(pos) => (c.cursor, c.acked) = (pos, pos),
                    _ => gone.push((child.clone(), s)),
                }
                met = true;
            }
        }
        for (child, s) in gone {
            let reason =
                format!("detached: {child} waited for set {s}, which is here as a part of more");
            self.let_go(child, reason);
        }
        if met {
            self.desk.event(Event::Sendable);
        }
    }

    /// A child holds more than this node does.
    #[must_use]
    pub fn consumer_waits(&self, child: &NodeName) -> bool {
        self.consumers.map.get(child).is_some_and(|c| c.waiting_for.is_some())
    }

    /// Asks for the records from `pos` on, as far as they are neither in memory nor on their way;
    /// false if that has to wait for others.
    fn read_back(&mut self, pos: LogPos, limit: LogPos, patient: bool) -> bool {
        let live = self.consumers.map.values().filter(|c| c.live && c.waiting_for.is_none());
        let readers: Vec<_> = live.map(|c| c.cursor).collect();
        match self.readback.want(&self.log, pos, limit, &readers, patient) {
            Want::Wait => false,
            Want::Read(reads) => {
                for read in reads {
                    let op = Op::Read { offset: self.log.ring().offset(read.pos), len: read.len };
                    self.desk.io(Purpose::RecordRead(read), FileId::Save, op);
                }
                true
            }
        }
    }

    /// Those whose patience has ended are to be served.
    pub(super) fn pump_patience(&mut self) {
        if self.consumers.patient_until.take_if(|t| *t <= self.desk.now).is_some() {
            self.desk.event(Event::Sendable);
        }
    }

    /// Lets go of what every child has passed.
    pub(super) fn forget_read(&mut self) {
        if self.readback.held() == 0 {
            return;
        }
        let live = self.consumers.map.values().filter(|c| c.live);
        let first = live.map(|c| c.cursor).min();
        self.readback.passed(first.unwrap_or(self.log.head()));
    }

    pub(super) fn record_read_done(&mut self, read: SpanRead, outcome: Outcome) {
        let bytes = match outcome {
            Outcome::Read(b) => b,
            other => {
                self.fail_io("read from the save volume", &other);
                return;
            }
        };
        match self.readback.done(&self.log, read, bytes) {
            Ok(true) => match self.unsound(read) {
                None => self.desk.event(Event::Sendable),
                Some((pos, what)) => self.log_damaged(pos, &what),
            },
            Ok(false) => {}
            Err((pos, e)) => self.log_damaged(pos, &e.to_string()),
        }
    }

    /// The first record of what was read whose content is not what was stored: damage is never
    /// passed on.
    fn unsound(&self, read: SpanRead) -> Option<(LogPos, String)> {
        let inside = self.log.records_from(read.pos).take_while(|r| r.pos < read.end);
        inside.filter_map(|r| Some((r, self.readback.body(r)?))).find_map(|(r, body)| {
            let proof = match r.kind {
                RecordKind::Chunk => Chunk::parse(body).map(|_| ()),
                RecordKind::SetEnd => SetHeader::parse(&body).map(|_| ()),
                RecordKind::Pad => return None,
            };
            let what = proof.err()?;
            Some((r.pos, format!("record {} of set {}: {what}", r.chunk, r.to)))
        })
    }

    /// A stored body that was read for a child did not verify.
    pub fn consumer_found_damage(&mut self, what: &str) {
        self.log_damaged(self.log.tail(), what);
        self.pump();
    }

    /// Lowest position that somebody still needs.
    pub(super) fn hold(&mut self) -> LogPos {
        let children = self.consumers.map.values().map(|c| c.acked).min();
        let own = self.own_hold();
        children.map_or(own, |c| c.min(own))
    }

    /// Lowest position that is needed here, children aside.
    pub(super) fn own_hold(&mut self) -> LogPos {
        let own = self.merge_hold();
        let table = self.fold_hold();
        let drain = match self.cfg.role {
            Role::Primary { .. } => self.log.open_step().map(|s| s.first),
            _ => None,
        };
        let own = [own, drain].into_iter().flatten().min().unwrap_or_else(|| match self.cfg.role {
            // Only finished sets may be given back.
            Role::Primary { .. } => self.sendable_end(),
            _ => LogPos(self.durable.log_head.0),
        });
        table.map_or(own, |t| t.min(own))
    }

    /// Bytes of the next record that is to go to a child.
    #[must_use]
    pub fn consumer_next_len(&self, child: &NodeName) -> Option<u64> {
        let c = self.consumers.map.get(child).filter(|c| c.live && c.waiting_for.is_none())?;
        let next = self.log.record_from(c.cursor)?;
        (next.pos < self.sendable_end()).then_some(u64::from(next.body_len))
    }

    /// Bytes between a child's durable position and the head, for status.
    #[must_use]
    pub fn consumer_behind(&self, child: &NodeName) -> Option<u64> {
        self.consumers.map.get(child).map(|c| self.sendable_end().since(c.acked))
    }
}
