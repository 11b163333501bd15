//! The control blocks under way at one node, as a value.
//!
//! A block is executed here when its node says that it may be, passed to every child, and kept until
//! each child has said that its subtree is done. A child that was away is told again when it is
//! back; a node that was told twice answers from what it knows: whatever changes something is
//! entered in the [`Journal`] before it begins and before its result is told, so that it runs at
//! most once. What is known so far flows up at once, and so does why somebody is waiting, so that
//! whoever asked can say who is missing.
//!
//! `A` names who asked here, `C` a connection; both are the node's.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use bytes::Bytes;

use super::super::clock::{Mono, Wall};
use super::super::frame::{ControlBlock, ControlResult};
use super::super::ids::{GroupName, NodeName};
use super::journal::{BlockId, Journal, Known, MAX_RESULT};
use super::report::{Below, Report};

/// A block from above that nobody asked about for this long is dropped.
const KEEP: Duration = Duration::from_secs(3600);
/// Members of one block whose results are kept.
const MAX_MEMBERS: usize = 4096;
/// Bytes of results from below the children that are kept, so that 256 blocks stay below 64 MiB whatever a child says.
const MAX_TEXT: usize = 256 << 10;
/// Hops after which a block is in a loop.
const MAX_HOPS: u8 = 64;

/// Who wants a block executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin<A, C> {
    /// Somebody here, who waits until then.
    Ask {
        /// Who.
        ask: A,
        /// Until when.
        deadline: Mono,
    },
    /// The parent.
    Above {
        /// By which connection.
        conn: C,
    },
    /// Somebody here, whose time was up.
    Nobody,
}

/// How far this node's own part of a block is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Own {
    /// For leave to begin.
    Waiting,
    /// Its beginning is being put on record.
    Beginning,
    /// It runs.
    Running,
    /// Its result is being put on record.
    Ending,
    /// It is over, or there never was one.
    Done,
}

/// What a node has to do for a block itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// Nothing.
    Nothing,
    /// Execute it, at most once: with a record.
    Once,
    /// Execute it; doing it again does no harm.
    Repeatable,
    /// It can be answered at once: whether it succeeded, and the result.
    Told(bool, Bytes),
}

/// A block that is to be taken up, and for whom.
#[derive(Clone, Debug)]
pub struct Order<A, C> {
    /// For which group.
    pub group: GroupName,
    /// The block.
    pub block: ControlBlock,
    /// Who wants it.
    pub origin: Origin<A, C>,
    /// Who has to be passed it.
    pub children: BTreeSet<NodeName>,
    /// What there is to do here.
    pub part: Part,
}

/// What the node has to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect<A, C> {
    /// Send a result up.
    Tell {
        /// By which connection.
        conn: C,
        /// What.
        result: ControlResult,
    },
    /// Send a block to a child, if it is connected; [`Blocks::for_child`] brings it up again.
    Pass {
        /// In which group.
        group: GroupName,
        /// To whom.
        child: NodeName,
        /// What.
        block: ControlBlock,
    },
    /// Make an entry of the record durable; the answer goes to [`Blocks::recorded`].
    Record {
        /// Of which block.
        id: BlockId,
        /// The bytes.
        bytes: Vec<u8>,
        /// They replace the whole file; else they are appended.
        whole: bool,
    },
    /// Execute a block; the result goes to [`Blocks::done`].
    Run {
        /// In which group.
        group: GroupName,
        /// Which.
        block: ControlBlock,
    },
    /// Answer who asked: all is done, or time is up.
    Answer {
        /// Whom.
        ask: A,
        /// With what.
        report: Report,
    },
    /// Note an error for the operator.
    Note(String),
}

/// What became of a block that came from above or was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// It is known: nothing is to be done for it.
    Known,
    /// It is new: [`Blocks::begin`] it.
    New,
    /// It cannot be taken; a parent was told, somebody here has to be.
    No(&'static str),
}

/// A block under way.
#[derive(Debug)]
struct Pending<A, C> {
    block: ControlBlock,
    group: GroupName,
    origin: Origin<A, C>,
    own: Own,
    once: bool,
    /// Children that were passed it.
    children: BTreeSet<NodeName>,
    /// Those whose subtree is not done.
    waiting: BTreeSet<NodeName>,
    /// Bytes of results.
    text: usize,
    results: BTreeMap<NodeName, (bool, Bytes)>,
    /// The result here, until it is on record.
    held: Option<(bool, Bytes)>,
    since: Mono,
}

/// The blocks under way at a node.
#[derive(Debug)]
pub struct Blocks<A, C> {
    node: NodeName,
    max: usize,
    pending: BTreeMap<BlockId, Pending<A, C>>,
    journal: Journal,
    effects: VecDeque<Effect<A, C>>,
}

impl<A: Copy, C: Copy> Blocks<A, C> {
    /// None yet; `max` are kept at a time, of at most 32 KiB each.
    #[must_use]
    pub fn new(node: NodeName, journal: Journal, max: usize) -> Self {
        Self { node, max, pending: BTreeMap::new(), journal, effects: VecDeque::new() }
    }

    /// What is to be done next.
    pub fn poll_effect(&mut self) -> Option<Effect<A, C>> {
        self.effects.pop_front()
    }

    /// How many are kept, done ones included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.pending.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.pending.is_empty()
    }

    /// The ids of all, in order.
    #[must_use]
    pub fn ids(&self) -> Vec<BlockId> {
        self.pending.keys().copied().collect()
    }

    /// The blocks whose execution here waits for leave.
    #[must_use]
    pub fn waiting(&self) -> Vec<(GroupName, ControlBlock)> {
        let waiting = self.pending.values().filter(|p| p.own == Own::Waiting);
        waiting.map(|p| (p.group.clone(), p.block.clone())).collect()
    }

    /// A block, and its group.
    #[must_use]
    pub fn get(&self, id: &BlockId) -> Option<(&GroupName, &ControlBlock)> {
        self.pending.get(id).map(|p| (&p.group, &p.block))
    }

    /// Whether the id was used for something else.
    #[must_use]
    pub fn is_another(&self, block: &ControlBlock) -> bool {
        self.journal.known(block) == Known::Another
    }

    /// What the record says of a block, if it says anything.
    #[must_use]
    pub fn on_record(&self, block: &ControlBlock) -> Option<Part> {
        match self.journal.known(block) {
            Known::No => None,
            Known::Result(ok, body) => Some(Part::Told(ok, body)),
            Known::Another => {
                let text = "its id was used for another control block, which ran here";
                Some(Part::Told(false, Bytes::from_static(text.as_bytes())))
            }
        }
    }

    /// Somebody here wants a block executed. If it is under way for nobody, it is theirs from now on.
    pub fn asked(&mut self, block: &ControlBlock, ask: A, deadline: Mono, now: Mono) -> Taken {
        if let Some(p) = self.pending.get_mut(&block.id) {
            let same = (&p.block.kind, &p.block.body, p.block.after)
                == (&block.kind, &block.body, block.after);
            if same && matches!(p.origin, Origin::Nobody) {
                p.origin = Origin::Ask { ask, deadline };
                self.check(block.id, now);
                return Taken::Known;
            }
            return Taken::No(
                "a control block with this id is under way here: wait for its result",
            );
        }
        if self.room() {
            return Taken::New;
        }
        Taken::No("too many control blocks are under way: wait until some have ended")
    }

    /// A block came from the parent.
    pub fn from_above(
        &mut self,
        conn: C,
        group: &GroupName,
        block: &ControlBlock,
        now: Mono,
    ) -> Taken {
        let id = block.id;
        if let Some(p) = self.pending.get_mut(&id) {
            if p.block.kind != block.kind || p.block.body != block.body || p.group != *group {
                let text = "its id was used for another control block, and so neither this node nor \
                            those below it execute it";
                self.refuse(conn, id, text.to_owned());
                return Taken::No(text);
            }
            // Told again: the parent lost what we had said. Whoever asked here is told as well.
            if matches!(p.origin, Origin::Above { .. }) {
                p.origin = Origin::Above { conn };
            }
            for (node, (ok, body)) in p.results.clone() {
                let result = ControlResult { id, node, ok, body, done: false };
                self.effects.push_back(Effect::Tell { conn, result });
            }
            self.check(id, now);
            return Taken::Known;
        }
        if block.hops >= MAX_HOPS {
            let text = format!("it came over {MAX_HOPS} hops: the routes close a loop");
            self.refuse(conn, id, text);
            return Taken::No("the routes close a loop");
        }
        if !self.room() {
            let text = format!("{} control blocks are under way: send it again later", self.max);
            self.refuse(conn, id, text);
            return Taken::No("too many control blocks are under way");
        }
        Taken::New
    }

    /// Makes room for a block by dropping the oldest of those that are done.
    fn room(&mut self) -> bool {
        if self.pending.len() < self.max {
            return true;
        }
        let done = |p: &Pending<A, C>| p.own == Own::Done && p.waiting.is_empty();
        let oldest = self.pending.iter().filter(|(_, p)| done(p)).min_by_key(|(_, p)| p.since);
        let Some(id) = oldest.map(|(id, _)| *id) else { return false };
        self.pending.remove(&id);
        true
    }

    /// Says that neither this node nor those below it execute a block.
    fn refuse(&mut self, conn: C, id: BlockId, text: String) {
        let node = self.node.clone();
        let result = ControlResult { id, node, ok: false, body: Bytes::from(text), done: true };
        self.effects.push_back(Effect::Tell { conn, result });
    }

    /// Takes up a block that is [`Taken::New`]: passes it on, and notes what is to be done here. If
    /// that is to execute it, it waits for [`go`](Self::go).
    pub fn begin(&mut self, order: Order<A, C>, now: Mono) {
        let Order { group, mut block, origin, children, part } = order;
        let id = block.id;
        if matches!(origin, Origin::Above { .. }) {
            block.hops = block.hops.saturating_add(1);
        }
        let own = match part {
            Part::Once | Part::Repeatable => Own::Waiting,
            Part::Nothing | Part::Told(..) => Own::Done,
        };
        let pending = Pending {
            block: block.clone(),
            group: group.clone(),
            origin,
            own,
            once: part == Part::Once,
            children: children.clone(),
            waiting: children.clone(),
            text: 0,
            results: BTreeMap::new(),
            held: None,
            since: now,
        };
        self.pending.insert(id, pending);
        for child in children {
            let (group, block) = (group.clone(), block.clone());
            self.effects.push_back(Effect::Pass { group, child, block });
        }
        match part {
            Part::Told(ok, body) => self.own_result(id, ok, body, now),
            _ => self.check(id, now),
        }
    }

    /// A child came up: it is told what it has not finished, in the order of the ids.
    pub fn for_child(&mut self, group: &GroupName, child: &NodeName) {
        for p in self.pending.values() {
            if p.group == *group && p.waiting.contains(child) {
                let (group, block) = (p.group.clone(), p.block.clone());
                self.effects.push_back(Effect::Pass { group, child: child.clone(), block });
            }
        }
    }

    /// A node is a child from now on that was below one before: it is told what that one has not
    /// finished, and is waited for.
    pub fn adopt(&mut self, group: &GroupName, child: &NodeName, of: &NodeName) {
        for p in self.pending.values_mut().filter(|p| p.group == *group && p.waiting.contains(of)) {
            if p.children.insert(child.clone()) {
                p.waiting.insert(child.clone());
            }
        }
    }

    /// The reverse of [`Blocks::adopt`]: it is not waited for here any more, and what is said of it
    /// may come through another.
    pub fn passed_on(&mut self, group: &GroupName, child: &NodeName, now: Mono) {
        for id in self.ids() {
            let Some(p) = self.pending.get_mut(&id).filter(|p| p.group == *group) else { continue };
            p.children.remove(child);
            if p.waiting.remove(child) {
                self.check(id, now);
            }
        }
    }

    /// Children that have not finished a block.
    #[must_use]
    pub fn unfinished(&self, id: &BlockId) -> Vec<NodeName> {
        self.pending.get(id).map(|p| p.waiting.iter().cloned().collect()).unwrap_or_default()
    }

    /// A block must still wait here; `why` begins with "waits for".
    pub fn waits(&mut self, id: BlockId, why: String) {
        let Some(p) = self.pending.get(&id).filter(|p| p.own == Own::Waiting) else { return };
        let why = Bytes::from(why);
        if p.results.get(&self.node).is_none_or(|(_, known)| *known != why) {
            self.result(id, self.node.clone(), false, why);
        }
    }

    /// A block that waits here may begin.
    pub fn go(&mut self, id: BlockId, now: Mono, wall: Wall) {
        let Some(p) = self.pending.get_mut(&id).filter(|p| p.own == Own::Waiting) else { return };
        if !p.once {
            return self.run(id);
        }
        p.own = Own::Beginning;
        let block = p.block.clone();
        match self.journal.begin(&block, wall) {
            Ok(bytes) => self.record(id, bytes),
            Err(e) => {
                let text = format!("not executed: {e}");
                self.own_result(id, false, Bytes::from(text), now);
            }
        }
    }

    fn run(&mut self, id: BlockId) {
        let Some(p) = self.pending.get_mut(&id) else { return };
        p.own = Own::Running;
        let (group, block) = (p.group.clone(), p.block.clone());
        self.effects.push_back(Effect::Run { group, block });
    }

    fn record(&mut self, id: BlockId, bytes: Vec<u8>) {
        let whole = self.journal.is_wasteful();
        let bytes = if whole { self.journal.compact() } else { bytes };
        self.effects.push_back(Effect::Record { id, bytes, whole });
    }

    /// What [`Effect::Record`] was about is durable, or why it is not.
    pub fn recorded(&mut self, id: BlockId, stored: Result<(), String>, now: Mono) {
        let Some(p) = self.pending.get_mut(&id) else { return };
        match (p.own, stored) {
            (Own::Beginning, Ok(())) => self.run(id),
            (Own::Beginning, Err(e)) => {
                self.journal.not_begun(&id);
                let text = format!("not executed, since it cannot be put on record: {e}");
                self.own_result(id, false, Bytes::from(text), now);
            }
            (Own::Ending, stored) => {
                let Some((ok, body)) = p.held.take() else { return };
                if let Err(e) = stored {
                    // It is on record that it began, so it will not run again.
                    let text = format!("the result of a control block is not on record: {e}");
                    self.effects.push_back(Effect::Note(text));
                }
                self.own_result(id, ok, body, now);
            }
            _ => {}
        }
    }

    /// The work of a block was done here. An empty result that is good is not told by name.
    pub fn done(&mut self, id: BlockId, ok: bool, body: Bytes, now: Mono, wall: Wall) {
        let Some(p) = self.pending.get_mut(&id).filter(|p| p.own == Own::Running) else { return };
        if !p.once {
            return self.own_result(id, ok, body, now);
        }
        p.own = Own::Ending;
        p.held = Some((ok, body.slice(..body.len().min(MAX_RESULT))));
        let bytes = self.journal.done(&id, ok, &body, wall);
        self.record(id, bytes);
    }

    /// The last word of this node about a block.
    fn own_result(&mut self, id: BlockId, ok: bool, body: Bytes, now: Mono) {
        if let Some(p) = self.pending.get_mut(&id) {
            p.own = Own::Done;
        }
        if !body.is_empty() {
            self.result(id, self.node.clone(), ok, body);
        }
        self.check(id, now);
    }

    /// Notes what a node says, and passes it on.
    fn result(&mut self, id: BlockId, node: NodeName, ok: bool, body: Bytes) {
        let Some(p) = self.pending.get_mut(&id) else { return };
        let mut body = body.slice(..body.len().min(MAX_RESULT));
        // A child with a talkative subtree leaves room for this node and the other children.
        if node != self.node && !p.children.contains(&node) {
            p.text -= p.results.get(&node).map_or(0, |(_, known)| known.len());
            if p.text + body.len() > MAX_TEXT {
                body = Bytes::from_static(b"(left out: there are too many long results)");
            }
            p.text += body.len();
        }
        p.results.insert(node.clone(), (ok, body.clone()));
        if let Origin::Above { conn } = p.origin {
            let result = ControlResult { id, node, ok, body, done: false };
            self.effects.push_back(Effect::Tell { conn, result });
        }
    }

    /// Says upward which children are not connected.
    pub fn absent(&mut self, id: BlockId, below: impl Fn(&GroupName, &NodeName) -> Below) {
        let Some(p) = self.pending.get(&id) else { return };
        if !matches!(p.origin, Origin::Above { .. }) {
            return;
        }
        let news: Vec<_> = p
            .waiting
            .iter()
            .filter_map(|c| {
                let Below::Away(text) = below(&p.group, c) else { return None };
                let known = p.results.get(c).is_some_and(|(_, b)| b.as_ref() == text.as_bytes());
                (!known).then(|| (c.clone(), Bytes::from(text)))
            })
            .collect();
        for (child, text) in news {
            self.result(id, child, false, text);
        }
    }

    /// A child is not waited for any more, and why; it has not executed the block.
    pub fn leave_out(&mut self, id: BlockId, child: &NodeName, why: String, now: Mono) {
        let Some(p) = self.pending.get_mut(&id) else { return };
        if p.waiting.remove(child) {
            self.result(id, child.clone(), false, Bytes::from(why));
            self.check(id, now);
        }
    }

    /// A child of a group tells a result of its subtree: not of this node, nor of another child.
    pub fn from_below(&mut self, group: &GroupName, child: &NodeName, r: ControlResult, now: Mono) {
        let Some(p) = self.pending.get_mut(&r.id).filter(|p| p.group == *group) else { return };
        let foreign = r.node == self.node || (r.node != *child && p.children.contains(&r.node));
        if foreign || !p.children.contains(child) {
            return;
        }
        if r.done {
            p.waiting.remove(child);
        }
        // A tree has few enough members; whoever makes some up does not fill our memory.
        let known = p.results.contains_key(&r.node) || p.children.contains(&r.node);
        let room = p.results.len() < MAX_MEMBERS || known;
        let id = r.id;
        if !r.body.is_empty() && room {
            self.result(id, r.node, r.ok, r.body);
        }
        self.check(id, now);
    }

    /// Says upward, or to whoever asked, that a subtree is done, or that time is up.
    pub fn check(&mut self, id: BlockId, now: Mono) {
        let Some(p) = self.pending.get(&id) else { return };
        let done = p.own == Own::Done && p.waiting.is_empty();
        match p.origin {
            Origin::Above { conn } if done => {
                let node = self.node.clone();
                let result = ControlResult { id, node, ok: true, body: Bytes::new(), done: true };
                self.effects.push_back(Effect::Tell { conn, result });
            }
            Origin::Ask { ask, deadline } if done || now >= deadline => {
                let (group, results) = (p.group.clone(), p.results.clone());
                let report = Report { id, group, results, waiting: p.waiting.clone() };
                if done {
                    self.pending.remove(&id);
                } else if let Some(p) = self.pending.get_mut(&id) {
                    p.origin = Origin::Nobody;
                }
                self.effects.push_back(Effect::Answer { ask, report });
            }
            _ => {}
        }
    }

    /// Drops a block from above that is done, for kinds that answer alike when they are told again.
    pub fn forget_done(&mut self, id: BlockId) {
        let done = |p: &Pending<A, C>| {
            p.own == Own::Done && p.waiting.is_empty() && !matches!(p.origin, Origin::Ask { .. })
        };
        if self.pending.get(&id).is_some_and(done) {
            self.pending.remove(&id);
        }
    }

    /// Drops a block that nobody here waits for any more.
    pub fn drop_unasked(&mut self, id: BlockId) {
        let unasked = |p: &Pending<A, C>| {
            matches!(p.origin, Origin::Nobody) && matches!(p.own, Own::Waiting | Own::Done)
        };
        if self.pending.get(&id).is_some_and(unasked) {
            self.pending.remove(&id);
        }
    }

    /// Drops what nobody asked about for long.
    pub fn forget_idle(&mut self, now: Mono) {
        let idle = |p: &Pending<A, C>| matches!(p.own, Own::Waiting | Own::Done);
        self.pending.retain(|_, p| {
            matches!(p.origin, Origin::Ask { .. }) || !idle(p) || now.since(p.since) < KEEP
        });
    }
}
