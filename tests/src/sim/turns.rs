//! Who the writer is changes: promotions, swaps, old writers that come back, and operators who know
//! only a part of it.

use std::sync::Arc;

use node::api::{VolumeInfo, WriterAnswer, WriterChange};
use node::mover::{Ask, AskId, Effect, Gate, NotMade, Reply};
use node::volumes::open;
use rcp::proto::ids::StateId;
use rcp::proto::transport::Hop;
use volmcast::capture::Capture;
use volmcast::digest::BlockHash;
use volmcast::io::FileId;
use volmcast::storage::Storage as _;

use super::node::{GROUP, LABEL, VOLUME, name};
use super::options::Kind;
use super::steps::When;
use super::world::{Event, World};

/// A swap without loss, step by step, by an operator who may be called away.
#[derive(Debug)]
pub struct Swap {
    from: usize,
    to: usize,
    /// The question that is not answered yet.
    asked: Option<AskId>,
    /// The last set of the old writer.
    set: Option<u64>,
    handed: bool,
    /// How often it was looked whether the other has it.
    looks: u64,
}

/// Who opened which line where. When that was may differ: a writer that lost its newest mailbox slot
/// says the moment anew.
fn lines(v: &VolumeInfo) -> Vec<(&str, u64, &str)> {
    let lines = v.history.iter();
    lines.map(|l| (l.generation.as_str(), l.forked_from, l.opened_by.as_str())).collect()
}

fn volume() -> String {
    LABEL.to_owned()
}

impl World {
    /// An operator swaps it with another.
    pub(super) fn is_swapping(&self, n: usize) -> bool {
        self.swaps.values().any(|s| s.from == n || s.to == n)
    }

    /// A writer whose clients are let in.
    pub fn some_writer(&mut self) -> Option<usize> {
        if !self.opt.turns {
            return self.nodes[0].volume().is_some().then_some(0);
        }
        let open: Vec<_> = (0..self.nodes.len())
            .filter(|n| {
                let n = &self.nodes[*n];
                n.open && n.kind == Kind::Primary && n.capture.is_some() && n.volume().is_some()
            })
            .collect();
        self.rng.pick(&open).copied()
    }

    pub(super) fn info(&self, n: usize) -> Option<VolumeInfo> {
        self.nodes[n].mover.as_ref()?.status().volumes.into_iter().find(|v| v.label == LABEL)
    }

    /// Counter of the newest line that a node that is up has heard of.
    pub(super) fn newest_counter(&self) -> u32 {
        let known = self.nodes.iter().filter_map(|n| n.volume());
        let counters = known.flat_map(|v| v.history().iter().map(|b| b.generation.counter));
        counters.max().unwrap_or(0)
    }

    pub(super) fn change(&mut self, n: usize, change: WriterChange) -> Option<AskId> {
        self.ask(n, Ask::Writer(change))
    }

    fn promote(&mut self, n: usize, now: bool, above: u32) {
        self.promote_with(n, now, above, false);
    }

    fn promote_with(&mut self, n: usize, now: bool, above: u32, lose_damaged_blocks: bool) {
        self.counters.hit("promotion demanded");
        if self.info(n).is_some_and(|v| v.damage.is_some()) {
            self.counters.hit(match lose_damaged_blocks {
                true => "promotion of a damaged replica demanded, on an operator's word",
                false => "promotion of a damaged replica demanded",
            });
        }
        self.change(
            n,
            WriterChange::Promote { volume: volume(), now, at: None, above, lose_damaged_blocks },
        );
    }

    /// Somebody who does not know that another operator is at work. And another, perhaps.
    pub fn another_turn(&mut self) {
        if self.calm.is_some() {
            return;
        }
        let promoting = |n| self.info(n).is_some_and(|v| v.promoting);
        if !self.swaps.is_empty() || (0..self.nodes.len()).any(promoting) {
            self.counters.hit("two operators at once");
        }
        if self.rng.percent(30) {
            self.after(100, 80_000, Event::Turn);
        }
        let n = self.some_node();
        self.turn(n);
    }

    /// An operator changes who the writer is, or what is below it.
    pub fn turn(&mut self, n: usize) {
        match self.rng.below(100) {
            0..35 => {
                let now = self.rng.percent(40);
                let above = if self.rng.percent(75) { self.newest_counter() } else { 0 };
                self.promote(n, now, above);
            }
            35..55 => {
                self.begin_swap(n);
            }
            55..75 => {
                let fenced: Vec<_> = (0..self.nodes.len())
                    .filter(|n| self.info(*n).is_some_and(|v| v.fenced.is_some()))
                    .collect();
                let Some(n) = self.rng.pick(&fenced).copied() else { return };
                let discard = self.rng.percent(50);
                self.resync(n, discard);
            }
            75..79 => {
                self.drop_branch(n);
            }
            79..95 => {
                let writer = self.some_writer();
                let parent = writer.filter(|_| self.rng.percent(70)).unwrap_or(n);
                let child = self.some_node();
                if parent != child {
                    self.counters.hit("route added by an operator");
                    let next_hop = name(child).to_string();
                    let group = GROUP.to_owned();
                    self.ask(
                        parent,
                        Ask::RouteAdd { group, next_hop, by: Hop::default(), unasked: false },
                    );
                }
            }
            _ => {
                let Some(h) = self.info(n).and_then(|v| v.handed_over) else { return };
                let to = (0..self.nodes.len()).find(|i| name(*i).as_str() == h.to);
                if let Some(to) = to {
                    self.take_back(n, to);
                }
            }
        }
    }

    /// The writer is to be another, without loss.
    pub(super) fn begin_swap(&mut self, n: usize) {
        let Some(from) = self.some_writer().filter(|f| *f != n) else { return };
        self.counters.hit("swap begun");
        self.next_id += 1;
        let id = self.next_id;
        let limit_ms = self.rng.range(50, 3_000);
        let swap = Swap { from, to: n, asked: None, set: None, handed: false, looks: 0 };
        self.swaps.insert(id, swap);
        self.step(id, from, WriterChange::Hold { volume: volume(), limit_ms });
    }

    pub(super) fn resync(&mut self, n: usize, discard: bool) {
        self.counters.hit("resync demanded");
        if discard {
            self.nodes[n].shown = rcp::proto::ids::SetNumber::ZERO;
            self.nodes[n].saved = None;
        }
        self.change(n, WriterChange::Resync { volume: volume(), discard });
    }

    /// An operator gives up what a node keeps of a line that ended.
    pub(super) fn drop_branch(&mut self, n: usize) {
        let all = self.info(n).map(|v| v.branches).unwrap_or_default();
        let Some(branch) = self.rng.pick(&all).map(|b| b.name.clone()) else { return };
        self.counters.hit("branch dropped");
        self.change(n, WriterChange::DropBranch { volume: volume(), branch });
    }

    /// Only if the other is a replica, says so, and is not about to be more.
    fn take_back(&mut self, from: usize, to: usize) {
        let idle = |v: &VolumeInfo| v.role == "replica" && !v.promoting;
        if self.info(to).is_some_and(|v| idle(&v)) {
            self.counters.hit("taken back");
            self.change(from, WriterChange::TakeBack { volume: volume() });
        }
    }

    /// A question was answered: a swap may go on.
    pub fn told(&mut self, ask: AskId, reply: &Reply) {
        if self.order_told(ask, reply) {
            return;
        }
        let Some((id, s)) = self.swaps.iter_mut().find(|(_, s)| s.asked == Some(ask)) else {
            return;
        };
        let id = *id;
        s.asked = None;
        let (from, to) = (s.from, s.to);
        match reply {
            Reply::Cut(cut) if s.set.is_none() => s.set = Some(cut.set),
            Reply::Done if !s.handed => s.handed = true,
            Reply::Writer(WriterAnswer::Promoted(p)) => {
                let (set, fresh) = (s.set, p.fresh);
                self.swaps.remove(&id);
                self.counters.hit("swap finished");
                if fresh && Some(p.set) != set {
                    self.fail(format!("a swap was to go on from set {set:?}: {p:?}"));
                }
                return;
            }
            _ => {
                self.swaps.remove(&id);
                self.take_back(from, to);
                return;
            }
        }
        if self.rng.percent(8) {
            self.counters.hit("swap left unfinished");
            self.swaps.remove(&id);
            return;
        }
        self.after(1, 20_000, Event::Operator { swap: id });
    }

    /// The next step of a swap.
    pub fn operator(&mut self, swap: u64) {
        let Some(s) = self.swaps.get_mut(&swap) else { return };
        let (from, to, Some(set)) = (s.from, s.to, s.set) else { return };
        s.looks += 1;
        let (handed, late) = (s.handed, s.looks > 40);
        if handed {
            let (now, at, above) = (false, Some(set), 0);
            self.step(
                swap,
                to,
                WriterChange::Promote {
                    volume: volume(),
                    now,
                    at,
                    above,
                    lose_damaged_blocks: false,
                },
            );
        } else if self.info(to).is_some_and(|v| v.saved_set >= set) {
            let to = name(to).to_string();
            self.step(
                swap,
                from,
                WriterChange::HandOver { volume: volume(), to, set, whole: true },
            );
        } else if late {
            self.swaps.remove(&swap);
            self.take_back(from, to);
        } else {
            self.after(10_000, 50_000, Event::Operator { swap });
        }
    }

    /// Asks for a step of a swap; the answer may come at once.
    fn step(&mut self, swap: u64, n: usize, change: WriterChange) {
        if let Some(s) = self.swaps.get_mut(&swap) {
            s.asked = Some(AskId(self.next_id + 1));
        }
        if self.change(n, change).is_none() {
            self.swaps.remove(&swap);
        }
    }

    /// Carries out what concerns who the writer is, as the runtime does it.
    pub fn writer_effect(&mut self, n: usize, e: Effect) {
        let (now, wall, life) = (self.mono(), self.wall(n), self.nodes[n].life);
        match e {
            Effect::Gate { gate, .. } => self.gate(n, &gate),
            Effect::AwaitQuiet { number, .. } => {
                self.nodes[n].quiet.push(number);
                self.look_quiet(n);
            }
            Effect::MakeWritable { opens, .. } => {
                self.after(100, 100_000, Event::Writable { node: n, life, opens });
            }
            Effect::MakeReadOnly { discards, .. } => self.make_read_only(n, discards),
            Effect::StoreStanding { standing, .. } => {
                if standing.fenced.as_ref().is_some_and(|f| f.handed) {
                    self.settle_extents(n);
                }
                if self.strike(n, When::Before, ("its standing", None)) {
                    return;
                }
                let stored = self.store(n, 2, |i| i.standing = standing);
                if self.strike(n, When::After, ("its standing", None)) {
                    return;
                }
                if let Some(m) = &mut self.nodes[n].mover {
                    m.standing_stored(now, wall, VOLUME, stored);
                }
            }
            Effect::Exports { .. } => {
                let discarded = self.nodes[n].volume().is_some_and(|v| v.is_discarded());
                if let Some(i) = self.nodes[n].identity.as_mut().filter(|_| discarded) {
                    i.standing.discards = false;
                }
            }
            _ => {}
        }
    }

    /// Stores what a node is; `percent` times in a hundred that fails, and half of those times the
    /// disk has it all the same.
    fn store(
        &mut self,
        n: usize,
        percent: u64,
        change: impl FnOnce(&mut volmcast::storage::Identity),
    ) -> Result<(), String> {
        let fails = !self.opt.calm && self.rng.percent(percent);
        let reached = fails && self.rng.percent(50);
        let node = &mut self.nodes[n];
        let Some(mut next) = node.identity.clone() else { return Err("no files".to_owned()) };
        change(&mut next);
        if !fails {
            node.on_disk = None;
            node.identity = Some(next);
            return Ok(());
        }
        self.counters.hit("role could not be stored");
        if reached {
            node.on_disk = Some(next);
        }
        Err("no".to_owned())
    }

    fn gate(&mut self, n: usize, gate: &Gate) {
        self.nodes[n].open = *gate == Gate::Open;
        if *gate != Gate::Open {
            return;
        }
        self.counters.hit("writers let in");
        self.order_opens(n);
        if let Some(why) = self.info(n).and_then(|v| v.fenced) {
            self.fail(format!("n{n} lets writers in: {why}"));
        }
        let busy = self.client.requests.values().any(|r| r.node == n);
        let (Some(v), Some(disk)) = (self.nodes[n].volume(), self.nodes[n].disk.clone()) else {
            return;
        };
        let (clean, visible) = (v.is_clean(), v.durable().visible);
        if clean && !busy {
            // It may have been down since the role was stored.
            self.put_back_damaged(n, visible);
            self.counters.hit("content compared before writers were let in");
            let state = self.state_at(n, visible);
            if let Err(e) = self.model.check(state, 0, disk.0.borrow().bytes(FileId::Base)) {
                self.fail(format!("n{n} becomes the writer with another content: {e}"));
            }
        }
    }

    /// No request of a writer's clients is under way: who waits for that is told.
    pub fn look_quiet(&mut self, n: usize) {
        if self.client.requests.values().any(|r| r.node == n) {
            return;
        }
        let life = self.nodes[n].life;
        for number in std::mem::take(&mut self.nodes[n].quiet) {
            self.after(1, 5_000, Event::Quiet { node: n, life, number });
        }
    }

    /// What is handed over counts as unchanged from here on, as the runtime has it.
    fn settle_extents(&mut self, n: usize) {
        let node = &self.nodes[n];
        let Some(blocks) = node.volume().map(volmcast::volume::Volume::blocks) else { return };
        let (Some(activity), Some(capture)) = (&node.activity, node.capture) else { return };
        let Some(disk) = node.disk.clone() else { return };
        let dirty = &mut |first, count| capture.any_dirty(first, count);
        // A failure leaves too much marked, and the log says so at the next write.
        let _ = activity
            .forget(volmcast::units::BlockIndex(0), blocks, dirty, &mut |io| disk.perform(io));
    }

    /// What a writer needs is made: the role is stored, which is the moment of the promotion.
    pub fn writable(&mut self, n: usize, opens: StateId) {
        let (now, wall) = (self.mono(), self.wall(n));
        let node = &mut self.nodes[n];
        if !node.mover.as_ref().is_some_and(|m| m.makes_writable(VOLUME, opens)) {
            self.counters.hit("writable side no longer wanted");
            return;
        }
        let Some(blocks) = node.volume().map(volmcast::volume::Volume::blocks) else { return };
        let (Some(identity), Some(disk)) = (&node.identity, &node.disk) else { return };
        let made = match open::writable(identity, &node.tuning, disk, blocks) {
            Ok(made) => made,
            Err(e) => return self.fail(format!("n{n}: {e}")),
        };
        if self.strike(n, When::Before, ("its role: a writer", None)) {
            return;
        }
        if self.store(n, 4, |i| open::takes_over(i, opens)).is_err() {
            self.counters.hit("promotion of which nobody knows whether it is stored");
            if let Some(m) = &mut self.nodes[n].mover {
                m.made_writable(now, wall, VOLUME, Err(NotMade::Unknown("no".to_owned())));
            }
            return;
        }
        self.put_back_damaged(n, opens.set);
        if self.strike(n, When::After, ("its role: a writer", None)) {
            return;
        }
        if !self.opt.calm && self.rng.percent(5) {
            self.counters.hit("crash right after a promotion was stored");
            return self.crash(n);
        }
        let (capture, activity) = made;
        let node = &mut self.nodes[n];
        let notices = node.notices.clone();
        capture.on_notice(move |what| {
            if let Ok(mut all) = notices.lock() {
                all.push(what);
            }
        });
        let kept: &'static Arc<Capture> = Box::leak(Box::new(capture.clone()));
        node.capture = Some(kept);
        node.activity = Some(activity);
        node.kind = Kind::Primary;
        node.draining = None;
        let cut = node.plan.cut;
        self.counters.hit("promoted");
        if let Some(m) = &mut node.mover {
            m.made_writable(now, wall, VOLUME, Ok((capture, cut)));
        }
    }

    /// What rotted and nobody has noticed: the table of hashes, which a promotion keeps, must tell it
    /// from what was stored. Then an operator who was refused a read has written the block again.
    fn put_back_damaged(&mut self, n: usize, set: rcp::proto::ids::SetNumber) {
        let state = self.state_at(n, set);
        let rotted = std::mem::take(&mut self.nodes[n].rotted);
        let Some(disk) = self.nodes[n].disk.clone() else { return };
        let len = usize::try_from(self.opt.block_size.bytes()).unwrap_or(1);
        let content = disk.0.borrow().bytes(FileId::Base).to_vec();
        for (b, content) in (0..).zip(content.chunks(len)) {
            let right = |was: &[u8]| self.model.check(state, b, was).is_ok();
            if right(content) {
                continue;
            }
            let Some((_, was)) = rotted.iter().find(|(r, was)| *r == b && right(was)) else {
                continue;
            };
            let (at, n16) = volmcast::digest::table_range(b, 1);
            let at = usize::try_from(at).unwrap_or(0);
            let hash = disk.0.borrow().bytes(FileId::Hashes).get(at..at + n16).map(<[u8]>::to_vec);
            let hash = hash.unwrap_or(vec![0; n16]);
            if volmcast::digest::hashes_in(&hash).next() != Some(Some(BlockHash::of(b, was))) {
                self.fail(format!("n{n} takes over with block {b} damaged, and its hash is not that of what was stored"));
                return;
            }
            self.counters.hit("damage taken over, told by the table of hashes");
            let from = self.opt.block_size.offset(volmcast::units::BlockIndex(b));
            disk.0.borrow_mut().put_back(FileId::Base, from, was);
        }
    }

    fn make_read_only(&mut self, n: usize, discards: bool) {
        let (now, wall) = (self.mono(), self.wall(n));
        if self.client.requests.values().any(|r| r.node == n) {
            self.fail(format!("n{n} becomes a replica while a write is under way"));
        }
        if self.strike(n, When::Before, ("its role: a replica", None)) {
            return;
        }
        let stored = self.store(n, 20, |i| open::steps_down(i, discards));
        if self.strike(n, When::After, ("its role: a replica", None)) {
            return;
        }
        let node = &mut self.nodes[n];
        let playback = node.plan.playback;
        let made = stored.map(|()| playback);
        if made.is_ok() {
            node.capture = None;
            node.activity = None;
            node.open = false;
            node.kind = Kind::Replica;
            self.counters.hit("writer became a replica");
        }
        let node = &mut self.nodes[n];
        if let Some(m) = &mut node.mover {
            m.made_read_only(now, wall, VOLUME, made);
        }
    }

    /// After the faults: operators agree on one writer and put everybody below it. What is left to
    /// do, in words.
    pub fn unresolved(&mut self) -> Option<String> {
        if !self.opt.turns {
            return None;
        }
        let all: Vec<_> = (0..self.nodes.len()).map(|n| self.info(n)).collect();
        let counter = |n: usize| {
            let last = self.nodes[n].volume().and_then(|v| v.history().last());
            last.map_or(0, |b| b.generation.counter)
        };
        if let Some(n) = (0..all.len()).find(|n| self.nodes[*n].mover.is_none()) {
            return Some(format!("n{n} is down"));
        }
        let busy = |v: &VolumeInfo| {
            let doing = [
                "writes are held",
                "becomes a replica",
                "is being handed over",
                "is to be taken back",
                "is being taken back",
            ];
            v.promoting || v.reason.as_ref().is_some_and(|r| doing.iter().any(|d| r.contains(d)))
        };
        let newest = self.newest_counter();
        let waits = |v: &VolumeInfo| v.fenced.as_ref().is_some_and(|f| f.contains("waiting for"));
        let writes = |n: usize| {
            all[n].as_ref().is_some_and(|v| v.role == "primary" && (v.fenced.is_none() || waits(v)))
        };
        let nodes = 0..all.len();
        let on_newest: Vec<_> = nodes.clone().filter(|n| counter(*n) == newest).collect();
        let writer = on_newest.iter().copied().find(|n| writes(*n));
        let Some(head) = writer else {
            let known = || all.iter().enumerate().filter_map(|(n, v)| Some((n, v.as_ref()?)));
            if let Some((n, v)) = known().find(|(_, v)| busy(v)) {
                return Some(format!("n{n} is busy: {:?}", v.reason));
            }
            if let Some((n, _)) = known().find(|(_, v)| v.mirrors()) {
                return Some(format!("a version of n{n} is to be made"));
            }
            let can = |n: &usize| {
                all[*n].as_ref().is_some_and(|v| {
                    v.role == "primary" || v.role == "replica" && v.state.starts_with("readable")
                })
            };
            let saved = |n: &usize| {
                let v = all[*n].as_ref();
                v.map_or(0, |v| if v.role == "primary" { v.current_set } else { v.saved_set })
            };
            let best = on_newest.iter().copied().filter(can).max_by_key(saved);
            let best = best.or_else(|| nodes.filter(can).max_by_key(saved));
            let Some(best) = best else {
                // Operators have given up every copy.
                self.counters.hit("everything was given up");
                self.done = true;
                return Some("nobody can be promoted".to_owned());
            };
            let damaged = all[best].as_ref().is_some_and(|v| v.damage.is_some());
            self.promote_with(best, false, newest, damaged);
            return Some(format!("n{best} is to be the writer"));
        };
        self.head = head;
        let info = all[head].clone().unwrap_or_default();
        if info.split.is_some() {
            self.promote(head, false, newest);
            return Some(format!("n{head} ends a split"));
        }
        self.put_below(head);
        if let Some(why) = info.fenced {
            let long = self.calm.is_some_and(|t| self.now > t + 60_000_000);
            if long {
                self.counters.hit("let in alone");
                self.change(head, WriterChange::Alone { volume: volume() });
            }
            return Some(format!("n{head}: {why}"));
        }
        for (n, v) in all.iter().enumerate().filter(|(n, _)| *n != head) {
            let Some(v) = v else { return Some(format!("n{n} has no volume")) };
            if v.role == "primary" && !busy(v) && v.fenced.is_some() && !waits(v) {
                let discard = self.rng.percent(30);
                self.resync(n, discard);
            }
            if v.reason.as_ref().is_some_and(|r| r.contains("branch drop")) {
                self.counters.hit("branch in the way");
                self.drop_branch(n);
                return Some(format!("n{n}: {:?}", v.reason));
            }
            if v.role == "primary" || lines(v) != lines(&info) {
                return Some(format!("n{n} is no replica of n{head} yet: {:?}", v.reason));
            }
        }
        None
    }

    /// All others are fed by this node alone.
    pub(super) fn put_below(&mut self, head: usize) {
        for n in 0..self.nodes.len() {
            let table = self.nodes[n].mover.as_ref().and_then(|m| m.routes(None).ok());
            let me = name(n).to_string();
            let hops: Vec<_> = table
                .iter()
                .flat_map(|t| &t.entries)
                .filter(|e| e.node == me)
                .flat_map(|e| e.next_hops.clone())
                .collect();
            let group = GROUP.to_owned();
            if n != head {
                for hop in hops {
                    let group = Some(group.clone());
                    self.ask(n, Ask::RouteDelete { group, next_hop: Some(hop) });
                }
                continue;
            }
            for child in (0..self.nodes.len()).filter(|c| *c != head) {
                let next_hop = name(child).to_string();
                if !hops.contains(&next_hop) {
                    let by = Hop::default();
                    self.ask(
                        head,
                        Ask::RouteAdd { group: group.clone(), next_hop, by, unasked: false },
                    );
                }
            }
        }
        self.routes_gone.clear();
    }
}
