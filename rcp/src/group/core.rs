//! The session manager of an endpoint: one task that owns sessions, routes, blocks and pipes, and
//! never waits for anything but its next input.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};

use super::clock::{Clock, random};
use super::endpoint::{Acks, ChildState};
use super::inbound::{Inbound, Say};
use super::links::Links;
use super::port::Visitor;
use super::pump::Heard;
use super::record::Records;
use super::setup::{Block, Handler, Setup};
use super::tasks;
use crate::proto::clock::Mono;
use crate::proto::control::pipe::{self, Piece, PipeId};
use crate::proto::control::{
    BlockId, Blocks, Effect, Journal, MAX_RESULT, Order, Origin, Part, Taken,
};
use crate::proto::frame::{ControlBlock, Frame};
use crate::proto::ids::GroupName;

/// Blocks that are kept at a time, of at most 32 KiB each; of those that are done, the oldest go
/// first.
const MAX_PENDING: usize = 2048;
/// Blocks that wait for one callback.
const MAX_QUEUED: usize = 1024;
/// How often overdue things are looked for.
const TICK: Duration = Duration::from_millis(100);

/// One connection, for its whole life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct ConnId(pub(super) u64);

/// One question of the application.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct AskId(u64);

/// What comes to the core.
pub(super) enum Input {
    Visitor(Box<Visitor>),
    Heard { conn: ConnId, heard: Heard },
    Unreachable { conn: ConnId, why: String },
    Proven { conn: ConnId, proven: crate::net::tls::Proven },
    Send { group: GroupName, block: ControlBlock, wait: Duration, reply: Reply },
    Recorded { id: BlockId, stored: Result<(), String> },
    Done { id: BlockId, result: Result<Bytes, String> },
    Piece { pipe: PipeId, id: BlockId, stuck: Option<String> },
    PipeOver { pipe: PipeId, result: Result<Bytes, String> },
    Children { group: GroupName, reply: oneshot::Sender<Vec<ChildState>> },
    Stop { done: oneshot::Sender<()> },
}

/// Who is told what became of a block.
pub(super) enum Reply {
    /// Somebody who waits for it.
    Acks(oneshot::Sender<Result<Acks, &'static str>>),
    /// The window of a pipe.
    Window(OwnedSemaphorePermit, Arc<OnceLock<&'static str>>),
}

/// The core of an endpoint.
pub(super) struct Core {
    setup: Setup,
    clock: Arc<Clock>,
    input: mpsc::Receiver<Input>,
    own: mpsc::Sender<Input>,
    links: Links,
    blocks: Blocks<AskId, ConnId>,
    records: Option<Records>,
    asks: BTreeMap<AskId, (BlockId, Reply)>,
    next_ask: u64,
    workers: BTreeMap<String, mpsc::Sender<Block>>,
    inbound: Inbound,
}

impl Core {
    pub(super) fn new(
        setup: Setup,
        clock: Arc<Clock>,
        (own, input): (mpsc::Sender<Input>, mpsc::Receiver<Input>),
        (journal, records): (Journal, Option<Records>),
    ) -> Self {
        let blocks = Blocks::new(setup.name.clone(), journal, MAX_PENDING);
        let links = Links::new(&setup, random(), clock.clone(), own.clone());
        let workers = setup.handlers.iter().map(|(kind, handler)| {
            let (queue, waiting) = mpsc::channel(MAX_QUEUED);
            tasks::start(work(waiting, handler.clone(), own.clone()));
            (kind.clone(), queue)
        });
        let workers = workers.collect();
        Self {
            setup,
            clock,
            input,
            own,
            links,
            blocks,
            records,
            asks: BTreeMap::new(),
            next_ask: 0,
            workers,
            inbound: Inbound::default(),
        }
    }

    pub(super) async fn run(mut self) {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                input = self.input.recv() => match input {
                    Some(Input::Stop { done }) => {
                        self.links.stop();
                        // Whoever waits is answered by the end of this task.
                        let _ = done.send(());
                        return;
                    }
                    Some(input) => self.take(input),
                    None => return,
                },
                _ = tick.tick() => self.tick(),
            }
            self.carry_out();
        }
    }

    fn now(&self) -> Mono {
        self.clock.mono()
    }

    fn take(&mut self, input: Input) {
        let now = self.now();
        match input {
            Input::Visitor(visitor) => self.links.visitor(*visitor),
            Input::Unreachable { conn, why } => self.links.lost(conn, &why, now),
            Input::Proven { conn, proven } => self.links.proven(conn, proven),
            Input::Heard { conn, heard } => self.heard(conn, heard, now),
            Input::Send { group, block, wait, reply } => self.send(group, block, wait, reply),
            Input::Recorded { id, stored } => self.blocks.recorded(id, stored, now),
            Input::Done { id, result } => self.done(id, result),
            Input::Piece { pipe, id, stuck } => {
                let (say, end) = match stuck {
                    None => (Say::Now(true, Bytes::new()), None),
                    Some(why) => self.inbound.stuck(pipe, &why),
                };
                self.say(id, say);
                if let Some((id, say)) = end {
                    self.say(id, say);
                }
            }
            Input::PipeOver { pipe, result } => {
                if let Some((id, say)) = self.inbound.over(pipe, result) {
                    self.say(id, say);
                }
            }
            Input::Children { group, reply } => {
                let _ = reply.send(self.links.children(&group));
            }
            Input::Stop { .. } => {}
        }
    }

    fn heard(&mut self, conn: ConnId, heard: Heard, now: Mono) {
        match heard {
            Heard::Asked(hello) => self.links.asked(conn, &hello),
            Heard::Up(peer) => {
                if let Some((group, child)) = self.links.up(conn, peer, now) {
                    self.blocks.for_child(&group, &child);
                }
            }
            Heard::Frame(Frame::Control(block)) => self.take_block(conn, block, now),
            Heard::Frame(Frame::ControlResult(r)) => {
                let Some((group, child)) = self.links.child_of(conn) else { return };
                let id = r.id;
                self.blocks.from_below(&group, &child, r, now);
                self.forget_data(id);
            }
            // Volumes are not what an application's endpoint is about.
            Heard::Frame(_) => {}
            Heard::Closed(why) => self.links.lost(conn, &why.to_string(), now),
        }
    }

    /// The application sends a block.
    fn send(&mut self, group: GroupName, block: ControlBlock, wait: Duration, reply: Reply) {
        let now = self.now();
        self.next_ask += 1;
        let ask = AskId(self.next_ask);
        let deadline = now.after(wait);
        let no = match self.blocks.asked(&block, ask, deadline, now) {
            Taken::No(why) => Some(why),
            Taken::Known => None,
            Taken::New => {
                let data = block.kind == pipe::DATA;
                let children = self.links.for_block(&group, data, now, self.setup.patience);
                let origin = Origin::Ask { ask, deadline };
                let order =
                    Order { group, block: block.clone(), origin, children, part: Part::Nothing };
                self.asks.insert(ask, (block.id, reply));
                return self.blocks.begin(order, now);
            }
        };
        match (no, reply) {
            (Some(why), Reply::Acks(tx)) => {
                let _ = tx.send(Err(why));
            }
            (Some(why), Reply::Window(_, failed)) => {
                let _ = failed.set(why);
            }
            (None, reply) => {
                self.asks.insert(ask, (block.id, reply));
            }
        }
    }

    fn take_block(&mut self, conn: ConnId, block: ControlBlock, now: Mono) {
        let Some(group) = self.links.group_of(conn) else { return };
        if self.blocks.from_above(conn, &group, &block, now) != Taken::New {
            return;
        }
        let part = self.own_part(&group, &block, now);
        let (id, data) = (block.id, block.kind == pipe::DATA);
        let children = self.links.for_block(&group, data, now, self.setup.patience);
        let origin = Origin::Above { conn };
        self.blocks.begin(Order { group, block, origin, children, part }, now);
        self.blocks.go(id, now, self.clock.wall());
    }

    /// What this endpoint has to do itself, or what it can say at once.
    fn own_part(&mut self, group: &GroupName, block: &ControlBlock, now: Mono) -> Part {
        if self.setup.groups.get(group).is_some_and(|g| g.relay) {
            return Part::Nothing;
        }
        let name = &self.setup.name;
        if pipe::is_pipe(&block.kind) {
            if block.kind == pipe::DATA {
                return Part::Repeatable;
            }
            if let Some(told) = self.blocks.on_record(block) {
                return told;
            }
            let (id, _) = PipeId::of(&block.id);
            let why = match Piece::read(block) {
                Err(why) => why,
                Ok(Piece::Open { name: pipe }) if !self.setup.pipes.contains_key(&pipe) => {
                    format!("no callback for pipes `{pipe}` at {name}")
                }
                Ok(Piece::Open { .. }) if !self.inbound.room() => {
                    let text = format!("too many pipes are open at {name}: send it again later");
                    return Part::Told(false, Bytes::from(text));
                }
                Ok(Piece::Open { name }) => {
                    self.inbound.opening(id, group.clone(), name, now);
                    return Part::Once;
                }
                Ok(_) => return Part::Once,
            };
            if self.inbound.room() {
                self.inbound.refuse(id, group, &why, now);
            }
            return Part::Told(false, Bytes::from(why));
        }
        if let Some(told) = self.blocks.on_record(block) {
            return told;
        }
        if self.workers.contains_key(&block.kind) {
            return Part::Once;
        }
        let text = format!("no callback for control blocks `{}` at {name}", block.kind);
        Part::Told(false, Bytes::from(text))
    }

    fn done(&mut self, id: BlockId, result: Result<Bytes, String>) {
        let (ok, text) = match result {
            Ok(text) if text.is_empty() => (true, Bytes::from_static(b"done")),
            Ok(text) => (true, text),
            Err(why) => (false, Bytes::from(why)),
        };
        let text = text.slice(..text.len().min(MAX_RESULT));
        self.blocks.done(id, ok, text, self.now(), self.clock.wall());
    }

    fn say(&mut self, id: BlockId, say: Say) {
        if let Say::Now(ok, text) = say {
            let text = text.slice(..text.len().min(MAX_RESULT));
            self.blocks.done(id, ok, text, self.now(), self.clock.wall());
            self.forget_data(id);
        }
    }

    /// Pieces that are done need not be kept: a member that is told again knows them by number.
    fn forget_data(&mut self, id: BlockId) {
        if self.blocks.get(&id).is_some_and(|(_, b)| b.kind == pipe::DATA) {
            self.blocks.forget_done(id);
        }
    }

    /// Executes a block here.
    fn execute(&mut self, group: GroupName, block: ControlBlock) {
        let id = block.id;
        if pipe::is_pipe(&block.kind) {
            return self.execute_pipe(&group, &block);
        }
        let Some(queue) = self.workers.get(&block.kind) else { return };
        let ControlBlock { kind, body, .. } = block;
        let work = Block { id, group, kind, body };
        if queue.try_send(work).is_err() {
            let text = format!("{MAX_QUEUED} blocks wait for this callback already: send it again");
            self.done(id, Err(text));
        }
    }

    fn execute_pipe(&mut self, group: &GroupName, block: &ControlBlock) {
        let (pipe, _) = PipeId::of(&block.id);
        match Piece::read(block) {
            Err(why) => self.say(block.id, Say::Now(false, Bytes::from(why))),
            Ok(Piece::Open { name }) => {
                self.say(block.id, Say::Now(true, Bytes::from_static(b"open")));
                let Some(handler) = self.setup.pipes.get(&name) else { return };
                let patience = self.setup.patience;
                for (id, say) in self.inbound.open(pipe, handler, patience, &self.own) {
                    self.say(id, say);
                }
            }
            Ok(piece) => {
                let now = self.now();
                let say = self.inbound.piece(block.id, piece, group, now);
                self.say(block.id, say);
            }
        }
    }

    fn tick(&mut self) {
        let now = self.now();
        self.links.tick(now);
        self.inbound.tick(now);
        for id in self.blocks.ids() {
            let Some((group, block)) = self.blocks.get(&id) else { continue };
            if pipe::is_pipe(&block.kind) {
                let group = group.clone();
                for child in self.blocks.unfinished(&id) {
                    if let Some(why) = self.links.away(&group, &child, now, self.setup.patience) {
                        let text = format!("left out of this pipe: {why}");
                        self.blocks.leave_out(id, &child, text, now);
                    }
                }
            } else {
                let links = &self.links;
                self.blocks.absent(id, |g, child| links.below(g, child));
            }
            self.blocks.check(id, now);
        }
        self.blocks.forget_idle(now);
    }

    fn carry_out(&mut self) {
        while let Some(effect) = self.blocks.poll_effect() {
            match effect {
                Effect::Tell { conn, result } => {
                    self.links.send(conn, Frame::ControlResult(result));
                }
                Effect::Pass { group, child, block } => {
                    self.links.pass(&group, &child, Frame::Control(block));
                }
                Effect::Record { id, bytes, whole } => self.record(id, bytes, whole),
                Effect::Run { group, block } => self.execute(group, block),
                Effect::Answer { ask, report } => {
                    let links = &self.links;
                    let members = report.members(|child| links.below(&report.group, child));
                    match self.asks.remove(&ask) {
                        Some((id, Reply::Acks(tx))) => {
                            let _ = tx.send(Ok(Acks::new(id, members)));
                        }
                        // The window has room again. What is not done is given up: its member says
                        // at the end of the pipe what it misses.
                        Some((id, Reply::Window(share, _))) => {
                            drop(share);
                            self.blocks.drop_unasked(id);
                        }
                        None => {}
                    }
                }
                Effect::Note(text) => tracing::error!("{text}"),
            }
        }
    }

    fn record(&mut self, id: BlockId, bytes: Vec<u8>, whole: bool) {
        match &self.records {
            None => {
                let now = self.now();
                self.blocks.recorded(id, Ok(()), now);
            }
            Some(records) => {
                let core = self.own.clone();
                let told = move |stored| {
                    let _ = core.blocking_send(Input::Recorded { id, stored });
                };
                records.store(bytes, whole, Box::new(told));
            }
        }
    }
}

/// Runs one callback for block after block.
async fn work(mut waiting: mpsc::Receiver<Block>, handler: Handler, core: mpsc::Sender<Input>) {
    loop {
        let block = tokio::select! {
            b = waiting.recv() => b,
            () = core.closed() => return,
        };
        let Some(block) = block else { return };
        let id = block.id;
        let result = tasks::shielded(handler(block)).await;
        if core.send(Input::Done { id, result }).await.is_err() {
            return;
        }
    }
}
