//! What an operator orders, one command after another, and a crash of one node at one durable step of
//! one of them. A command that came to nothing is said again, as the runbook has it, until it is done.
//!
//! The steps are what nodes have stored while a command is carried out: every request of a mover that
//! changes a file or makes one durable, and every time a node stores what it is. Nobody has to think of
//! them.

use std::collections::BTreeSet;

use node::api::{VolumeInfo, WriterAnswer, WriterChange};
use node::mover::{AskId, Reply};
use rcp::proto::ids::SetNumber;
use volmcast::io::FileId;
use volmcast::snapshots::PinId;

use super::node::{LABEL, name};
use super::steps::When;
use super::world::{Event, World};

/// How long clients write when a command was said, microseconds.
const WRITES: u64 = 300_000;

/// A command, or what befalls a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Clients write for so many milliseconds.
    Wait(u64),
    /// Two nodes do not reach each other for so many milliseconds, while clients write.
    Apart(usize, usize, u64),
    /// A node loses power, and stays away.
    Kill(usize),
    /// It is back.
    Start(usize),
    /// `rcpctl failover --to NODE --adopt`, also with `--now`.
    Promote(usize, bool),
    /// `rcpctl resync` at a node that wrote.
    Resync(usize),
    /// `rcpctl failover --sync --to NODE`.
    Swap(usize),
}

impl Order {
    /// What its durable steps are counted as.
    #[must_use]
    pub fn steps(self) -> Option<&'static str> {
        match self {
            Self::Promote(..) => Some("durable steps of a promotion"),
            Self::Resync(_) => Some("durable steps of a resync"),
            Self::Swap(_) => Some("durable steps of a swap"),
            _ => None,
        }
    }
}

/// The node that takes a step crashes.
#[derive(Clone, Copy, Debug)]
pub struct Strike {
    /// In which order.
    pub order: usize,
    /// At which of its steps.
    pub step: u64,
    /// Instead of it, or when it is done and nobody heard of it.
    pub when: When,
    /// The machine loses power; else the process ends.
    pub power: bool,
}

/// How far the operator is.
#[derive(Debug, Default)]
pub struct Orders {
    all: Vec<Order>,
    at: usize,
    since: u64,
    strikes: Vec<Strike>,
    /// Durable steps of the order.
    taken: u64,
    /// The question that is not answered yet, whom it was put to, and in which life.
    asked: Option<(AskId, usize, u64)>,
    /// Writers are held, at this last set, in this life of theirs.
    held: Option<(u64, u64)>,
    /// The last question was answered with no.
    refused: bool,
    down: BTreeSet<usize>,
    writer: usize,
    /// What a writer held when it was lost.
    lost: Option<Vec<u8>>,
    /// A swap is not at its end: the two contents are yet to be compared.
    compare: Option<(usize, usize)>,
}

fn volume() -> String {
    LABEL.to_owned()
}

fn lines(v: &VolumeInfo) -> Vec<(&str, u64, &str)> {
    let lines = v.history.iter();
    lines.map(|l| (l.generation.as_str(), l.forked_from, l.opened_by.as_str())).collect()
}

impl World {
    /// Has an operator order this, with crashes at steps of it.
    #[must_use]
    pub fn with_orders(mut self, all: Vec<Order>, strikes: Vec<Strike>) -> Self {
        self.orders = Some(Orders { all, strikes, since: self.now, ..Orders::default() });
        self.after(1_000, 2_000, Event::Order);
        self
    }

    /// Clients write as an order begins, and not while it waits for something.
    pub(super) fn clients_pause(&self) -> bool {
        let waits = |o: &Orders| self.now > o.since + WRITES;
        self.order().and_then(Order::steps).is_some() && self.orders.as_ref().is_some_and(waits)
    }

    fn order(&self) -> Option<Order> {
        let o = self.orders.as_ref()?;
        o.all.get(o.at).copied()
    }

    /// A node has something stored, or has had it. True if it crashed there.
    pub(super) fn strike(
        &mut self,
        n: usize,
        when: When,
        what: (&'static str, Option<FileId>),
    ) -> bool {
        let Some(counted) = self.order().and_then(Order::steps) else { return false };
        let Some(o) = &mut self.orders else { return false };
        if when == When::Before {
            o.taken += 1;
            self.counters.hit(counted);
        }
        let here = |s: &Strike| s.order == o.at && s.step < o.taken && s.when == when;
        let Some(i) = o.strikes.iter().position(here) else { return false };
        let s = o.strikes.remove(i);
        self.say(format!("n{n} crashes: {s:?}: {what:?}"));
        self.counters.hit("crash at a durable step");
        self.writer_lost(n);
        self.down(n, s.power);
        true
    }

    /// A node that was killed stays away until it is ordered back.
    pub(super) fn stays_away(&self, n: usize) -> bool {
        self.orders.as_ref().is_some_and(|o| o.down.contains(&n))
    }

    /// An answer; true if it was the operator's question.
    pub(super) fn order_told(&mut self, ask: AskId, reply: &Reply) -> bool {
        let Some(o) = &mut self.orders else { return false };
        let Some((_, _, life)) = o.asked.take_if(|a| a.0 == ask) else { return false };
        match reply {
            Reply::Cut(cut) => o.held = Some((cut.set, life)),
            Reply::Done | Reply::Writer(WriterAnswer::Promoted(_)) => {}
            _ => {
                self.counters.hit("order refused");
                (o.held, o.refused) = (None, true);
            }
        }
        true
    }

    /// The operator looks, and says what is to be said.
    pub(super) fn operate(&mut self) {
        let Some(order) = self.order() else { return };
        if self.calm.is_some() {
            self.status_words();
            return self.fail(format!("{order:?} does not come to its end"));
        }
        let lives: Vec<_> = self.nodes.iter().map(|n| n.life).collect();
        if let Some(o) = &mut self.orders {
            o.asked = o.asked.filter(|(_, n, life)| lives[*n] == *life);
            o.held = o.held.filter(|(_, life)| lives[o.writer] == *life);
        }
        if self.obey(order) {
            self.say(format!("{order:?} is done"));
            let now = self.now;
            let Some(o) = &mut self.orders else { return };
            o.at += 1;
            (o.since, o.taken, o.asked, o.held) = (now, 0, None, None);
            if o.at == o.all.len() {
                let left = o.strikes.len();
                self.counters.add("crashes that did not come", left as u64);
                return self.at(now, Event::Calm);
            }
            self.begin();
        }
        self.after(5_000, 15_000, Event::Order);
    }

    /// What an order is, beside commands.
    fn begin(&mut self) {
        let (now, Some(order)) = (self.now, self.order()) else { return };
        match order {
            Order::Apart(a, b, ms) => {
                self.apart.insert((a.min(b), a.max(b)), now + ms * 1000);
            }
            Order::Kill(n) => {
                if let Some(o) = &mut self.orders {
                    o.down.insert(n);
                }
                self.writer_lost(n);
                self.down(n, true);
            }
            Order::Start(n) => {
                let disk = self.nodes[n].disk.clone();
                let held = disk.map(|d| d.0.borrow().bytes(FileId::Base).to_vec());
                if let Some(o) = &mut self.orders {
                    o.down.remove(&n);
                    o.lost = held;
                }
                self.at(now, Event::Start { node: n });
            }
            Order::Swap(to) => {
                if let Some(o) = &mut self.orders {
                    o.compare = Some((o.writer, to));
                }
            }
            _ => {}
        }
    }

    fn obey(&mut self, order: Order) -> bool {
        let Some(o) = &self.orders else { return false };
        let (since, writer, waits) = (o.since, o.writer, o.asked.is_some());
        match order {
            Order::Wait(ms) | Order::Apart(.., ms) => self.now >= since + ms * 1000,
            Order::Kill(_) => true,
            Order::Start(n) => self.nodes[n].mover.is_some(),
            Order::Promote(to, now) => !waits && self.failover(to, now),
            Order::Resync(n) => !waits && self.resynced(writer, n),
            Order::Swap(to) => !waits && self.swapped(writer, to),
        }
    }

    fn say_to(&mut self, n: usize, change: WriterChange) {
        let life = self.nodes[n].life;
        if let Some(o) = &mut self.orders {
            (o.asked, o.refused) = (Some((AskId(self.next_id + 1), n, life)), false);
        }
        self.change(n, change);
    }

    fn failover(&mut self, to: usize, now: bool) -> bool {
        let Some(v) = self.info(to) else { return false };
        if v.role != "primary" {
            if !v.promoting {
                let (volume, above, at) = (volume(), self.newest_counter(), None);
                let lose_damaged_blocks = false;
                self.say_to(
                    to,
                    WriterChange::Promote { volume, now, at, above, lose_damaged_blocks },
                );
            }
            return false;
        }
        self.lead(to);
        let fork = v.history.last().map_or(0, |l| l.forked_from);
        let done = v.fenced.is_none() && self.nodes[to].open && self.all_follow(to);
        if done && !self.nodes[to].volume().is_some_and(|v| v.kept().any(|s| s.0 == fork)) {
            self.fail(format!("n{to} does not keep its restart point, set {fork}"));
        }
        done
    }

    /// Everybody is to be below this node.
    fn lead(&mut self, to: usize) {
        if let Some(o) = &mut self.orders {
            o.writer = to;
        }
        self.head = to;
        self.put_below(to);
    }

    /// Whoever is not away is a replica of this writer, and shows it.
    fn all_follow(&self, writer: usize) -> bool {
        let others = (0..self.nodes.len()).filter(|n| *n != writer && !self.stays_away(*n));
        others.into_iter().all(|n| self.follows_writer(writer, n))
    }

    fn follows_writer(&self, writer: usize, n: usize) -> bool {
        let (Some(w), Some(v)) = (self.info(writer), self.info(n)) else { return false };
        let readable = v.state.starts_with("readable") && self.visible(n).is_some();
        v.role == "replica" && readable && lines(&v) == lines(&w)
    }

    fn resynced(&mut self, writer: usize, n: usize) -> bool {
        self.put_below(writer);
        let Some(v) = self.info(n) else { return false };
        if v.role == "primary" {
            // It has heard of the new writer, and is not at it already.
            let waits = v.fenced.as_ref().is_none_or(|f| f.contains("waiting for"));
            if !waits {
                self.say_to(n, WriterChange::Resync { volume: volume(), discard: false });
            }
            return false;
        }
        let done = self.all_follow(writer);
        if done {
            self.nothing_was_lost(n);
        }
        done
    }

    /// What the lost writer held is the volume, or a branch.
    fn nothing_was_lost(&mut self, n: usize) {
        let Some(lost) = self.orders.as_mut().and_then(|o| o.lost.take()) else { return };
        let node = &self.nodes[n];
        let (Some(v), Some(states)) = (node.volume(), node.states.clone()) else { return };
        let fork = v.history().last().map_or(SetNumber::ZERO, |l| l.forked_from);
        let block = usize::try_from(self.opt.block_size.bytes()).unwrap_or(512);
        let same = |b: volmcast::volume::BranchInfo| {
            let k = b.branch;
            let Some(pin) = states.board().pin_branch(PinId(k.pin), k.set, k.blocks) else {
                return false;
            };
            let mut buf = vec![0; block];
            (0u64..).zip(lost.chunks(block)).all(|(i, was)| {
                states.read(&pin, i * block as u64, &mut buf).is_ok() && buf[..was.len()] == *was
            })
        };
        let (kept, any) = (v.branches().any(same), v.branches().count());
        let at_fork = self.state_at(n, fork);
        self.counters.hit(if kept { "what was lost is a branch" } else { "nothing had diverged" });
        if !kept && !self.model.is(at_fork, &lost) {
            self.fail(format!("n{n}: what it held is in none of its {any} branches"));
        }
    }

    fn swapped(&mut self, old: usize, to: usize) -> bool {
        let (Some(was), Some(new)) = (self.info(old), self.info(to)) else { return false };
        let opened = new.history.last().is_some_and(|l| l.opened_by == name(to).as_str());
        if old == to || new.role == "primary" && new.handed_over.is_none() && opened {
            return self.after_the_swap(to);
        }
        let volume = volume();
        let held = self.orders.as_ref().and_then(|o| o.held);
        if let Some(h) = &was.handed_over {
            let (now, at, above) = (false, Some(h.set), self.newest_counter());
            let lose_damaged_blocks = false;
            if self.orders.as_ref().is_some_and(|o| o.refused) && new.role == "replica" {
                // It says that it is none.
                self.say_to(old, WriterChange::TakeBack { volume });
            } else if !new.promoting {
                self.say_to(
                    to,
                    WriterChange::Promote { volume, now, at, above, lose_damaged_blocks },
                );
            }
        } else if let Some((set, _)) = held {
            if new.saved_set >= set && new.state.starts_with("readable") {
                let to = name(to).to_string();
                self.say_to(old, WriterChange::HandOver { volume, to, set, whole: true });
            }
        } else if was.fenced.is_none() && new.saved_set >= was.current_set {
            self.say_to(old, WriterChange::Hold { volume, limit_ms: 30_000 });
        }
        false
    }

    /// The new writer is there; the others are to be its replicas.
    fn after_the_swap(&mut self, to: usize) -> bool {
        self.lead(to);
        let told = |v: &VolumeInfo| v.fenced.as_ref().is_some_and(|f| !f.contains("waiting for"));
        let others: Vec<_> = (0..self.nodes.len()).filter(|n| *n != to).collect();
        for n in others {
            let asks = self.orders.as_ref().is_some_and(|o| o.asked.is_some());
            if !asks && self.info(n).is_some_and(|v| v.role == "primary" && told(&v)) {
                self.say_to(n, WriterChange::Resync { volume: volume(), discard: false });
            }
        }
        self.nodes[to].open && self.all_follow(to)
    }

    /// Writers are let in: at one node, and after a swap to what they left.
    pub(super) fn order_opens(&mut self, n: usize) {
        let Some(o) = &mut self.orders else { return };
        let compare = o.compare.take_if(|(_, to)| *to == n);
        if let Some(m) = (0..self.nodes.len()).find(|m| *m != n && self.nodes[*m].open) {
            return self.fail(format!("n{n} lets writers in, and n{m} does as well"));
        }
        let Some((old, _)) = compare else { return };
        let of = |n: usize| {
            let disk = self.nodes[n].disk.as_ref();
            disk.map(|d| d.0.borrow().bytes(FileId::Base).to_vec())
        };
        if of(old) != of(n) {
            self.fail(format!("n{n} writes, and has not got what n{old} held"));
        }
        self.counters.hit("nothing was lost by a swap");
    }
}
