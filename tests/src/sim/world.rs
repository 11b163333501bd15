//! Time, events, and the carrying out of what the movers want done.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use node::mover::{AskId, Effect, Level, NewReplica, Reply};
use rcp::proto::clock::{Mono, Wall};
use rcp::proto::ids::{Attempt, SetNumber, StateId};
use volmcast::capture::Notice;
use volmcast::io::{FileId, IoError, Op, Tag};
use volmcast::units::{BlockCount, BlockIndex};
use volmcast::volume::Work;

use super::aims::Aiming;
use super::client::Client;
use super::clocks::Clocks;
use super::disk::Submitted;
use super::link::Link;
use super::listen::{Heard, Stream};
use super::model::Model;
use super::node::{SimNode, VOLUME};
use super::options::{Kind, Options};
use super::oracle::GOES_ON;
use super::orders::Orders;
use super::report::{Counters, Failure};
use super::rng::Rng;
use super::steps::{Trap, When};
use super::streams::Passage;
use super::turns::Swap;

/// Notes kept for a failure.
const TRAIL: usize = 60;
/// Virtual time within which a healed tree must have converged, microseconds.
const LIVENESS: u64 = 180_000_000;

/// Something that happens at a moment.
#[derive(Debug)]
#[allow(missing_docs)]
pub enum Event {
    /// A node's disk answers.
    Io { node: usize, life: u64, sub: Submitted },
    /// A computation is done.
    Work { node: usize, life: u64, tag: Tag, work: Work },
    /// A notice of the capture tables.
    Notice { node: usize, life: u64, notice: Notice },
    /// The activity log is looked through.
    Forget { node: usize, life: u64 },
    /// A replica's files are made.
    Create { node: usize, life: u64, replica: Box<NewReplica> },
    /// The mover asked to be called.
    Tick { node: usize, life: u64, at: u64 },
    /// A dial comes to its end.
    Dialled { link: u64 },
    /// Something may have arrived at an end.
    Arrive { link: u64, side: usize },
    /// A client does something new.
    Client,
    /// A client's request goes on.
    Request { node: usize, id: u64, life: u64 },
    /// A write or sync of a client is done.
    Written { node: usize, id: u64, life: u64, sub: Submitted },
    /// A reader goes on.
    Read { node: usize, life: u64, id: u64 },
    /// Somebody looks at a node.
    Look,
    /// Something goes wrong, or an operator acts.
    Fault,
    /// A bit of what a replica shows flips.
    Rot { node: usize },
    /// An operator makes the volume larger.
    Grow { blocks: u64 },
    /// An operator stops or starts replication somewhere.
    Switch,
    /// No request of a writer's clients is under way.
    Quiet { node: usize, life: u64, number: u64 },
    /// What a writer needs is made.
    Writable { node: usize, life: u64, opens: StateId },
    /// An operator goes on with a swap.
    Operator { swap: u64 },
    /// Another operator acts.
    Turn,
    /// An operator who says one command after another looks.
    Order,
    /// The clock for people jumps at some node.
    Jump,
    /// The primary's files are brought to a larger size.
    Prepare { node: usize, life: u64, blocks: BlockCount },
    /// They have it, and what is new is made zero.
    Prepared { node: usize, life: u64, blocks: BlockCount, from: u64 },
    /// A blow falls on a node.
    Struck { node: usize, life: u64 },
    /// An aimed blow falls on a node.
    Aimed { node: usize, life: u64 },
    /// What is struck at is brought about.
    Provoke,
    /// An operator lets go of a child.
    LetGo { parent: usize, child: usize },
    /// A node whose volume stopped is started again.
    Reboot { node: usize, life: u64 },
    /// A node is started.
    Start { node: usize },
    /// A route is added again.
    AddRoute { parent: usize, child: usize },
    /// Faults and writes end.
    Calm,
    /// Has everything converged?
    Settled,
}

/// One run.
pub struct World {
    pub(super) seed: u64,
    pub(super) verbose: bool,
    pub(super) opt: Options,
    pub(super) rng: Rng,
    pub(super) now: u64,
    queue: BTreeMap<(u64, u64), Event>,
    next_event: u64,
    pub(super) next_id: u64,
    pub(super) nodes: Vec<SimNode>,
    pub(super) links: BTreeMap<u64, Link>,
    pub(super) heard: BTreeMap<Stream, Heard>,
    pub(super) passages: BTreeMap<Stream, Passage>,
    pub(super) client: Client,
    pub(super) model: Model,
    pub(super) counters: Counters,
    /// Pairs of nodes that cannot reach each other, and until when.
    pub(super) apart: BTreeMap<(usize, usize), u64>,
    /// Which blocks the primary put into sets, and into which attempt.
    pub(super) set_blocks: BTreeMap<SetNumber, (Attempt, BTreeSet<u64>)>,
    /// Size of the volume, as clients of the primary saw it last.
    pub(super) blocks: u64,
    /// Faults are over since.
    pub(super) calm: Option<u64>,
    pub(super) asked: BTreeSet<AskId>,
    /// One blow that is still to come.
    pub(super) trap: Option<Trap>,
    /// What an operator says, in order.
    pub(super) orders: Option<Orders>,
    /// Routes that an operator took away.
    pub(super) routes_gone: BTreeSet<(usize, usize)>,
    /// The writer that everybody is to follow in the end.
    pub(super) head: usize,
    /// Swaps under way.
    pub(super) swaps: BTreeMap<u64, Swap>,
    pub(super) clocks: Clocks,
    pub(super) aiming: Aiming,
    /// How many stretches of steps were followed by a forged volume.
    pub(super) forged: u64,
    trail: VecDeque<String>,
    failure: Option<String>,
    /// The run is over.
    pub(super) done: bool,
}

impl World {
    /// A tree that is not started yet.
    #[must_use]
    pub fn new(seed: u64, opt: Options, rng: Rng, verbose: bool) -> Self {
        let bs = usize::try_from(opt.block_size.bytes()).unwrap_or(512);
        Self {
            seed,
            verbose,
            now: 1_000_000,
            queue: BTreeMap::new(),
            next_event: 0,
            next_id: 0,
            nodes: (0..opt.places.len()).map(|i| SimNode::new(i, &opt)).collect(),
            links: BTreeMap::new(),
            heard: BTreeMap::new(),
            passages: BTreeMap::new(),
            client: Client::default(),
            model: Model::new(bs, opt.blocks),
            counters: Counters::default(),
            apart: BTreeMap::new(),
            set_blocks: BTreeMap::new(),
            blocks: opt.blocks,
            calm: None,
            asked: BTreeSet::new(),
            routes_gone: BTreeSet::new(),
            head: 0,
            swaps: BTreeMap::new(),
            clocks: Clocks::new(seed, opt.places.len()),
            aiming: Aiming::default(),
            trap: None,
            orders: None,
            forged: 0,
            trail: VecDeque::new(),
            failure: None,
            done: false,
            opt,
            rng,
        }
    }

    /// The clock that never goes back.
    #[must_use]
    pub fn mono(&self) -> Mono {
        Mono(self.now)
    }

    /// The clock for people at a node.
    #[must_use]
    pub fn wall(&self, node: usize) -> Wall {
        self.clocks.at(node, self.now)
    }

    /// Schedules an event.
    pub fn at(&mut self, at: u64, e: Event) {
        self.next_event += 1;
        self.queue.insert((at.max(self.now), self.next_event), e);
    }

    /// Schedules an event between `from` and `to` microseconds from now.
    pub fn after(&mut self, from: u64, to: u64, e: Event) {
        let at = self.now + self.rng.range(from, to);
        self.at(at, e);
    }

    /// A promise was broken.
    pub fn fail(&mut self, text: String) {
        if self.failure.is_none() {
            self.say(format!("FAILED: {text}"));
            self.failure = Some(text);
        }
    }

    /// Something for the trail.
    pub fn say(&mut self, text: String) {
        let line = format!("{:10.6} {text}", self.now as f64 / 1e6);
        if self.verbose {
            println!("{line}");
        }
        if self.trail.len() >= TRAIL {
            self.trail.pop_front();
        }
        self.trail.push_back(line);
    }

    /// Runs to the end.
    ///
    /// # Errors
    /// The first broken promise.
    pub fn run(mut self) -> Result<Counters, Box<Failure>> {
        let places = self.opt.places.clone();
        for (node, p) in places.iter().enumerate() {
            let at = self.now + u64::try_from(p.joins.as_micros()).unwrap_or(0);
            self.at(at, Event::Start { node });
        }
        let calm = self.now + u64::try_from(self.opt.faults_for.as_micros()).unwrap_or(0);
        self.at(calm, Event::Calm);
        for (at, blocks) in self.opt.growths.clone() {
            let at = self.now + u64::try_from(at.as_micros()).unwrap_or(0);
            self.at(at, Event::Grow { blocks });
        }
        for at in self.opt.switches.clone() {
            let at = self.now + u64::try_from(at.as_micros()).unwrap_or(0);
            self.at(at, Event::Switch);
        }
        self.after(10_000, 400_000, Event::Client);
        self.after(100_000, 2_000_000, Event::Fault);
        self.after(1_000, 500_000, Event::Look);
        self.next_jump();
        self.begin_aiming();
        while self.failure.is_none() && !self.done {
            let Some(((at, _), e)) = self.queue.pop_first() else { break };
            self.now = at;
            self.counters.hit("events");
            self.event(e);
        }
        self.most_again();
        match self.failure.take() {
            None => Ok(self.counters),
            Some(text) => Err(Box::new(Failure {
                seed: self.seed,
                at: self.now,
                text,
                trail: self.trail.into(),
                options: format!("{:?}", self.opt),
            })),
        }
    }

    fn alive(&self, node: usize, life: u64) -> bool {
        self.nodes[node].life == life && self.nodes[node].mover.is_some()
    }

    fn event(&mut self, e: Event) {
        let now = self.mono();
        let touched = match e {
            Event::Io { node, life, sub } if self.alive(node, life) => {
                let Some(disk) = self.nodes[node].disk.clone() else { return };
                let writes = sub.io.op.changes();
                let stores = writes || sub.io.op == Op::Sync;
                let what = if writes { "a write to" } else { "a sync of" };
                let what = (what, Some(sub.io.file));
                if stores && self.strike(node, When::Before, what) {
                    return;
                }
                let sparse = matches!(
                    sub.io.file,
                    FileId::Base | FileId::Snapshots | FileId::Changes | FileId::Hashes
                );
                let outcome = if writes && sparse && self.now < self.nodes[node].full_until {
                    self.counters.hit("no space left");
                    self.meets(node, "no space left");
                    disk.0.borrow_mut().fail(&sub, &mut self.rng, IoError::NoSpace)
                } else if self.nodes[node].io_errors > 0 {
                    self.nodes[node].io_errors -= 1;
                    self.nodes[node].failing = true;
                    self.counters.hit("failed request");
                    self.meets(node, "failed request");
                    disk.0.borrow_mut().fail(&sub, &mut self.rng, IoError::Os(5))
                } else {
                    disk.0.borrow_mut().complete(&sub)
                };
                self.counters.2.ios += 1;
                if stores && self.strike(node, When::After, what) {
                    return;
                }
                let wall = self.wall(node);
                if let Some(m) = &mut self.nodes[node].mover {
                    m.io_done(now, wall, VOLUME, sub.io.tag, outcome);
                }
                node
            }
            Event::Work { node, life, tag, work } if self.alive(node, life) => {
                let wall = self.wall(node);
                if let Some(m) = &mut self.nodes[node].mover {
                    m.work_done(now, wall, VOLUME, tag, work.run());
                }
                node
            }
            Event::Notice { node, life, notice } if self.alive(node, life) => {
                let wall = self.wall(node);
                if let Some(m) = &mut self.nodes[node].mover {
                    m.notice(now, wall, VOLUME, notice);
                }
                node
            }
            Event::Forget { node, life } if self.alive(node, life) => {
                self.forget(node);
                node
            }
            Event::Create { node, life, replica } if self.alive(node, life) => {
                let role = if replica.replica { "replica" } else { "relay" };
                let wall = self.wall(node);
                let n = &mut self.nodes[node];
                let identity = n.identity(replica.block_size, replica.blocks, role);
                if let Err(e) = n.create(identity, now, wall) {
                    self.fail(format!("n{node}: {e}"));
                }
                node
            }
            Event::Tick { node, life, at } if self.alive(node, life) => {
                if self.nodes[node].tick_at != at {
                    return;
                }
                self.nodes[node].tick_at = u64::MAX;
                let wall = self.wall(node);
                if let Some(m) = &mut self.nodes[node].mover {
                    m.tick(now, wall);
                }
                node
            }
            Event::Dialled { link } => return self.dialled(link),
            Event::Arrive { link, side } => return self.arrive(link, side),
            Event::Client => return self.client_event(),
            Event::Request { node, id, life } if self.alive(node, life) => {
                self.client_request(id);
                node
            }
            Event::Written { node, id, life, sub } if self.alive(node, life) => {
                self.client_written(id, &sub);
                self.look_quiet(node);
                node
            }
            Event::Quiet { node, life, number } if self.alive(node, life) => {
                let wall = self.wall(node);
                if let Some(m) = &mut self.nodes[node].mover {
                    m.writers_quiet(now, wall, VOLUME, number);
                }
                node
            }
            Event::Writable { node, life, opens } if self.alive(node, life) => {
                self.writable(node, opens);
                node
            }
            Event::Operator { swap } => return self.operator(swap),
            Event::Turn => return self.another_turn(),
            Event::Order => return self.operate(),
            Event::Jump => return self.jump(),
            Event::Read { node, life, id } if self.alive(node, life) => {
                return self.reader_step(node, id);
            }
            Event::Look => {
                let n = usize::try_from(self.rng.below(self.nodes.len() as u64)).unwrap_or(0);
                self.look(n);
                if let Some(what) = self.wrong_brake(n) {
                    self.fail(what);
                }
                self.after(1_000, 400_000, Event::Look);
                return;
            }
            Event::Fault => return self.fault(),
            Event::Rot { node } => return self.rot(node),
            Event::Grow { blocks } => return self.grow(blocks),
            Event::Switch => return self.switch(),
            Event::Prepare { node, life, blocks } if self.alive(node, life) => {
                self.prepare(node, blocks);
                node
            }
            Event::Prepared { node, life, blocks, from } if self.alive(node, life) => {
                self.prepared(node, blocks, from);
                node
            }
            Event::Struck { node, life } if self.alive(node, life) => {
                self.strike_node(node);
                return;
            }
            Event::Aimed { node, life } if self.alive(node, life) => {
                self.strike_aimed(node);
                return;
            }
            Event::Provoke => return self.provoke(),
            Event::LetGo { parent, child } => return self.let_go(parent, child),
            Event::Reboot { node, life } if self.alive(node, life) => {
                self.reboot(node);
                return;
            }
            Event::Start { node } => {
                self.start(node);
                node
            }
            Event::AddRoute { parent, child } => return self.add_route(parent, child),
            Event::Calm => return self.calm_down(),
            Event::Settled => return self.settled(),
            _ => return,
        };
        self.after_mover(touched);
    }

    /// After any call of a node's mover: effects, oracle, next tick.
    pub fn after_mover(&mut self, n: usize) {
        let life = self.nodes[n].life;
        self.observe(n);
        self.try_opening(n);
        self.try_forging();
        self.observe_stalls(n);
        self.look_for_moment(n);
        self.look_for_aim(n);
        self.look_for_merging(n);
        self.effects(n);
        if self.nodes[n].life != life {
            return;
        }
        self.watch_call(n);
        let notices: Vec<_> = match self.nodes[n].notices.lock() {
            Ok(mut all) => all.drain(..).collect(),
            Err(_) => Vec::new(),
        };
        for notice in notices {
            if self.opt.bad_disks && self.rng.permille(20) {
                self.counters.hit("notice lost");
                continue;
            }
            self.after(1, 500, Event::Notice { node: n, life, notice });
        }
        if let Some(t) = self.nodes[n].mover.as_ref().and_then(|m| m.poll_timeout()) {
            let at = t.0.max(self.now + 1);
            if at < self.nodes[n].tick_at {
                self.nodes[n].tick_at = at;
                self.at(at, Event::Tick { node: n, life, at });
            }
        }
    }

    fn effects(&mut self, n: usize) {
        let life = self.nodes[n].life;
        while let Some(e) = self.nodes[n].mover.as_mut().and_then(node::mover::Mover::poll_effect) {
            self.effect(n, e);
            let ppm = if self.calm.is_some() { 0 } else { self.opt.crash_ppm };
            if self.rng.below(1_000_000) < ppm {
                self.counters.hit("crash between two effects");
                self.crash(n);
            }
            if self.nodes[n].life != life || self.failure.is_some() {
                return;
            }
        }
    }

    /// A delay of node `n`'s disk.
    pub fn disk_delay(&mut self, n: usize) -> u64 {
        let most = self.opt.disk_delay;
        let d = if self.rng.permille(5) { most * 20 } else { most };
        let d = self.rng.range(20, d.max(21));
        if self.nodes[n].slow_until > self.now { d * 30 } else { d }
    }

    fn effect(&mut self, n: usize, e: Effect) {
        let life = self.nodes[n].life;
        self.watch_effect(n, &e);
        match e {
            Effect::Dial { conn, addr, .. } => self.dial(n, conn, &addr),
            Effect::Send { conn, frame } => self.send(n, conn, frame),
            Effect::Close { conn } => self.close(n, conn),
            Effect::Io { io, .. } => {
                let Some(disk) = self.nodes[n].disk.clone() else {
                    self.fail(format!("n{n}: a request without files: {io:?}"));
                    return;
                };
                let writes =
                    matches!(io.op, Op::Write { .. } | Op::Zero { .. } | Op::Scatter { .. });
                if writes && io.file == FileId::Base && self.nodes[n].kind != Kind::Replica {
                    self.fail(format!(
                        "n{n}: the machine writes to the base of a {:?}",
                        self.nodes[n].kind
                    ));
                }
                self.observe_changes(n, &io);
                self.heed_record(n, &io);
                let sub = disk.0.borrow_mut().submit(io);
                if let Some(what) = disk.0.borrow_mut().crossed.take() {
                    self.fail(format!("n{n}: {what}"));
                }
                let delay = self.disk_delay(n);
                self.at(self.now + delay, Event::Io { node: n, life, sub });
            }
            Effect::Work { tag, work, .. } => {
                if n == 0 && !self.opt.turns {
                    self.note_encoded(&work);
                }
                self.after(5, 2_000, Event::Work { node: n, life, tag, work });
            }
            Effect::CreateReplica(r) => {
                self.after(100, 200_000, Event::Create { node: n, life, replica: Box::new(r) });
            }
            Effect::SetFinished { .. } => self.after(10, 20_000, Event::Forget { node: n, life }),
            Effect::PrepareGrowth { blocks, .. } => {
                self.after(100, 100_000, Event::Prepare { node: n, life, blocks });
            }
            e @ (Effect::Gate { .. }
            | Effect::AwaitQuiet { .. }
            | Effect::MakeWritable { .. }
            | Effect::MakeReadOnly { .. }
            | Effect::StoreStanding { .. }
            | Effect::Exports { .. }) => {
                if self.opt.turns {
                    self.writer_effect(n, e);
                }
            }
            Effect::GiveAway { .. } => self.fail(format!("n{n} gives the volume away")),
            Effect::RemoveVolume { .. } => self.fail(format!("n{n} removes the volume")),
            Effect::StoreRoutes(bytes) => self.nodes[n].routes = bytes,
            Effect::Reply { ask, reply } => {
                self.asked.remove(&ask);
                let node = &mut self.nodes[n];
                let again = node.kept_again.extract_if(.., |(a, _)| *a == ask).next();
                if let Some((_, set)) = again.filter(|_| matches!(reply, Reply::Done)) {
                    node.released.remove(&set);
                }
                self.told(ask, &reply);
                if let Reply::Refused(e) = &reply {
                    self.say(format!("n{n}: refused: {e:?}"));
                    self.counters.hit("operator refused");
                }
            }
            Effect::Hash { .. }
            | Effect::RecordBlock { .. }
            | Effect::Handle { .. }
            | Effect::StoreDestinations { .. } => {}
            Effect::Note { level, text } => {
                self.count_note(&text);
                self.refused_what_came(n, &text);
                self.say(format!("n{n}: {level:?}: {text}"));
                if level == Level::Error && self.nodes[n].may_say(&text) {
                    self.counters.hit("damage or failure reported");
                } else if level == Level::Error && !self.opt.turns {
                    self.fail(format!("n{n}: {text}"));
                }
            }
        }
    }

    fn count_note(&mut self, text: &str) {
        for (part, name) in [
            ("a seed begins", "seed begun"),
            ("a staged catch-up begins", "catch-up staged"),
            ("the catch-up begins anew", "staged catch-up given up"),
            ("a catch-up begins", "catch-up begun"),
            ("that it lacked when it came are sent as", "queue coalesced at attach"),
            ("that waited for it are sent as", "queue coalesced in a running stream"),
            ("its queue is sent as one step", "called for its queue"),
            ("detached:", "detached"),
            ("detached: it takes nothing", "detached beyond a limit"),
            ("which is all that is waited for it", "detached after a wait"),
            (": writes wait: ", "writers waited for long"),
            ("larger than the save volume: a catch-up", "set without data"),
            ("the stream starts again", "stream started again"),
            ("the parent stopped the stream", "stream stopped by the parent"),
            (" in the place of ", "fed in another's place"),
            ("is not readable any more, until the catch-up", "shown state given up for room"),
            (" has caught up and feeds ", "handed back"),
            (" is fed by another: ", "left to who feeds it"),
        ] {
            if text.contains(part) {
                self.counters.hit(name);
            }
        }
    }

    /// The activity log gives up extents without marks, as `PrimaryVolume` does it.
    fn forget(&mut self, n: usize) {
        self.watch_forgotten(n);
        let (now, wall) = (self.mono(), self.wall(n));
        let node = &mut self.nodes[n];
        let Some(blocks) = node.volume().map(volmcast::volume::Volume::blocks) else { return };
        let (Some(activity), Some(capture)) = (&node.activity, node.capture) else { return };
        activity.with(|log| {
            log.clear_clean(BlockIndex(0), blocks, &mut |first, count| {
                capture.any_dirty(first, count)
            })
        });
        if let Some(m) = &mut node.mover {
            m.forgotten(now, wall, VOLUME);
        }
    }

    fn calm_down(&mut self) {
        if self.counters.2.all() < self.opt.steps {
            // Little has happened so far.
            self.at(self.now + 200_000, Event::Calm);
            return;
        }
        self.say("faults end".to_owned());
        self.calm = Some(self.now);
        self.apart.clear();
        for n in &mut self.nodes {
            n.slow_until = 0;
            n.full_until = 0;
            n.io_errors = 0;
        }
        for l in self.links.values_mut() {
            for e in &mut l.ends {
                e.stalled_until = e.stalled_until.min(self.now);
            }
        }
        for n in 0..self.nodes.len() {
            if self.nodes[n].mover.is_none() {
                self.after(1, 1_000_000, Event::Start { node: n });
            }
        }
        for (parent, child) in std::mem::take(&mut self.routes_gone) {
            self.after(1, 1_000_000, Event::AddRoute { parent, child });
        }
        self.after(2_000_000, 3_000_000, Event::Settled);
    }

    fn settled(&mut self) {
        match self.unsettled() {
            None => {
                self.counters.hit("runs converged");
                self.done = true;
            }
            Some(why) if self.calm.is_some_and(|t| self.now > t + LIVENESS) => {
                self.status_words();
                self.fail(format!("not converged after {} s: {why}", LIVENESS / 1_000_000));
            }
            Some(why) => {
                self.nudge();
                if ["sets", "save"].iter().any(|p| why.contains(&format!("{GOES_ON}{p}: "))) {
                    // What a writer says of these stands until its next set that is sent whole.
                    self.write_a_little();
                }
                self.after(200_000, 400_000, Event::Settled);
            }
        }
    }
}
