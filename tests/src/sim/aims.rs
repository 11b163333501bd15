//! Aimed blows: a fault that falls on a node in the middle of one thing. Chance alone seldom brings
//! some pairs together, so each seed has one thing that it waits for, brings about where it is rare,
//! and strikes at with one fault after the other.

use std::collections::BTreeMap;
use std::time::Duration;

use node::api::WriterChange;
use node::mover::Ask;
use rcp::proto::ids::SetNumber;

use super::coverage::{FAULTS, STATES, never};
use super::node::{LABEL, name};
use super::options::{Kind, Options};
use super::rng::Rng;
use super::world::{Event, World};

/// What a run strikes at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Aim {
    /// What a node is to be in the middle of.
    pub state: &'static str,
    /// With which fault the blows begin.
    first: usize,
}

/// How many seeds in turn are aimed at each of [`STATES`]: more, where it is rare.
const SHARES: [(&str, u64); 10] = [
    ("writing", 1),
    ("making a set", 1),
    ("merging", 3),
    ("seeding", 2),
    ("catching up", 8),
    ("staging", 7),
    ("undoing", 4),
    ("swapping", 1),
    ("recovering", 11),
    ("starting", 1),
];

impl Aim {
    /// Of the `n`th seed that is aimed.
    #[must_use]
    pub fn of(n: u64) -> Self {
        let all = SHARES.iter().flat_map(|(state, share)| (0..*share).map(move |_| *state));
        let all: Vec<_> = all.collect();
        let at = usize::try_from(n).unwrap_or(0);
        let state = all.get(at % all.len().max(1)).copied().unwrap_or(STATES[0]);
        Self { state, first: at / all.len().max(1) }
    }

    /// Whether it needs a run in which the writer changes.
    #[must_use]
    pub fn turns(self) -> bool {
        matches!(self.state, "undoing" | "swapping")
    }

    /// Whether it is about steps that are in the save volume and not merged.
    #[must_use]
    pub fn of_steps(self) -> bool {
        matches!(self.state, "staging" | "recovering")
    }

    /// The faults that may meet the state, those first that other seeds have last.
    fn faults(self) -> impl Iterator<Item = &'static str> {
        let possible: Vec<_> =
            FAULTS.iter().copied().filter(|f| never(f, self.state).is_none()).collect();
        let n = possible.len().max(1);
        let first = self.first * 5 % n;
        (first..first + n).filter_map(move |i| possible.get(i % n).copied())
    }
}

/// Where a run stands with its blows.
#[derive(Debug, Default)]
pub(super) struct Aiming {
    /// No blow before.
    again: u64,
    /// Blows that fell.
    fallen: BTreeMap<&'static str, u64>,
    /// When a node was last seen in the middle of it.
    seen: u64,
    /// So long a node is being left behind.
    outrun: u64,
}

impl Options {
    /// A run of the `n`th seed that is aimed.
    pub fn take_aim(&mut self, n: u64, seed: u64) {
        let mut rng = Rng::new(seed.rotate_left(37));
        self.aim = Some(Aim::of(n));
        self.fault_pause = *rng.pick(&[700_000, 2_000_000]).unwrap_or(&700_000);
        self.client_pause = self.client_pause.min(30_000);
        if !self.aim.is_some_and(Aim::of_steps) {
            return;
        }
        // Many small sets, of which some are not merged, and which take a while to come.
        let bytes = self.blocks * self.block_size.bytes();
        self.save = self.save.max(bytes * rng.range(4, 10)) / 64 * 64;
        self.cut = (bytes * rng.range(2, 20) / 100, Duration::from_millis(rng.range(20, 300)));
        self.playback = (self.save, Duration::from_millis(rng.range(200, 2_000)));
        self.link_delay = self.link_delay.max(20_000);
        self.window = (2 * self.chunk + 8192).min(self.window);
        self.crash_ppm = 0;
        self.fault_pause = 2_000_000;
        for p in self.places.iter_mut().skip(1) {
            // What has no content does not know how much a catch-up is, and recovers nothing.
            p.kind = Kind::Replica;
            p.joins = p.joins.min(Duration::from_millis(300));
        }
    }
}

impl World {
    /// A run that is aimed begins.
    pub(super) fn begin_aiming(&mut self) {
        if self.opt.aim.is_some() {
            self.after(300_000, 900_000, Event::Provoke);
        }
    }

    /// A node was called: perhaps it is in the middle of what is waited for.
    pub(super) fn look_for_aim(&mut self, n: usize) {
        let Some(aim) = self.opt.aim else { return };
        if self.calm.is_some() || self.now < self.aiming.again || !self.is_in(n, aim.state) {
            return;
        }
        self.aiming.seen = self.now;
        self.aiming.again = self.now + self.rng.range(50_000, 400_000);
        // At once, or after some requests of the disk.
        let most = *self.rng.pick(&[1, 300, 3_000, 30_000]).unwrap_or(&1);
        let life = self.nodes[n].life;
        self.after(1, most, Event::Aimed { node: n, life });
    }

    /// A blow falls, if its node still is where it was.
    pub(super) fn strike_aimed(&mut self, n: usize) {
        let Some(aim) = self.opt.aim else { return };
        if self.calm.is_some() {
            return;
        }
        if !self.is_in(n, aim.state) {
            self.counters.hit("blow that came too late");
            self.aiming.again = self.now;
            return;
        }
        let Some(fault) = self.due(aim, n) else { return };
        *self.aiming.fallen.entry(fault).or_default() += 1;
        self.counters.hit("aimed blow");
        self.say(format!("n{n} is {}: {fault}", aim.state));
        self.suffer(n, fault);
    }

    /// The fault that has met the state least, of those that can fall on this node now. Some do not
    /// come to anything, and are tried again: a full disk to which nothing is written.
    fn due(&self, aim: Aim, n: usize) -> Option<&'static str> {
        let met = |f: &'static str| self.counters.1.get(&(f, aim.state)).copied().unwrap_or(0);
        let tried = |f: &'static str| self.aiming.fallen.get(f).copied().unwrap_or(0);
        aim.faults().filter(|f| self.can_suffer(n, f)).min_by_key(|f| met(f).max(tried(f) / 3))
    }

    fn can_suffer(&self, n: usize, fault: &str) -> bool {
        let node = &self.nodes[n];
        match fault {
            "connection cut" | "one-way stall" => {
                self.links.values().any(|l| l.ends.iter().any(|e| e.node == n))
            }
            "rot in the save area" => node.volume().is_some_and(|v| {
                let m = v.durable();
                m.log_head > m.log_tail && !(self.is_stored_as_writer(n) && self.one_slot(n))
            }),
            "rot in the content" => node.kind == Kind::Replica,
            "mailbox slot lost" => {
                !(node.slot_lost || self.is_stored_as_writer(n) && node.rotten.is_some())
            }
            _ => true,
        }
    }

    fn is_in(&self, n: usize, state: &str) -> bool {
        match state {
            // All of its status would have to be made for more.
            "swapping" => self.is_swapping(n) && self.nodes[n].volume().is_some(),
            _ => self.states_of(n).contains(&state),
        }
    }

    /// A node suffers a fault now.
    fn suffer(&mut self, n: usize, fault: &'static str) {
        match fault {
            "kill" | "power cut" => {
                self.writer_lost(n);
                self.down(n, fault == "power cut");
            }
            "connection cut" | "one-way stall" => self.suffer_at_a_link(n, fault),
            "partition" => {
                let m = self.some_node();
                if m != n {
                    self.part(n, m);
                }
            }
            "slow disk" => self.slow_down(n),
            "failed request" => self.nodes[n].io_errors = self.rng.range(1, 2),
            "no space left" => {
                let until = self.now + self.rng.range(50_000, 2_000_000);
                self.fill_up(n, until);
            }
            "rot in the save area" => self.rot_save(n),
            "rot in the content" => self.spoil(n),
            "mailbox slot lost" => {
                self.crash(n);
                if !self.nodes[n].slot_lost {
                    self.lose_slot(n);
                }
            }
            _ => {}
        }
    }

    fn suffer_at_a_link(&mut self, n: usize, fault: &'static str) {
        let mine = self.links.iter().filter(|(_, l)| l.ends.iter().any(|e| e.node == n));
        let ids: Vec<_> = mine.map(|(id, _)| *id).collect();
        let Some(id) = self.rng.pick(&ids).copied() else { return };
        match fault {
            "connection cut" => self.break_link(id),
            _ => self.stall_link(id),
        }
    }

    /// What is waited for is brought about, if it has not come by itself for a while.
    pub(super) fn provoke(&mut self) {
        let Some(aim) = self.opt.aim else { return };
        if self.calm.is_some() {
            return;
        }
        self.after(100_000, 500_000, Event::Provoke);
        let rare = self.now > self.aiming.seen + 400_000;
        let n = self.some_node();
        match aim.state {
            "seeding" if rare => self.demand_seed(n),
            "catching up" if rare => self.leave_out(n),
            "staging" if rare => self.outrun(),
            "undoing" => self.diverge(),
            "swapping" if rare => self.begin_swap(n),
            "recovering" => self.lose_steps(n),
            "starting" if rare => self.crash(n),
            _ => {}
        }
    }

    /// A node is left out while its parent goes on, until what it lacks is gone there.
    fn leave_out(&mut self, n: usize) {
        if self.opt.turns {
            return self.crash(n);
        }
        let Some(parent) = self.opt.places[n].parent else { return };
        self.drop_route(parent, n);
        self.ask(0, Ask::Cut { volume: LABEL.to_owned(), keep: false });
    }

    /// A node hears nothing while its parent goes on, until an operator lets go of it there.
    fn outrun(&mut self) {
        let shows = |n: &usize| self.visible(*n) > Some(SetNumber::ZERO);
        let below: Vec<_> = (0..self.nodes.len())
            .filter(|_| self.now >= self.aiming.outrun)
            .filter_map(|n| Some((n, self.opt.places[n].parent.filter(|_| shows(&n))?)))
            .collect();
        let Some((n, parent)) = self.rng.pick(&below).copied() else { return };
        self.aiming.outrun = self.now + 3_000_000;
        self.part(n, parent);
        self.fill_up_at_times(n);
        self.client.burst = self.rng.range(20, 200);
        self.at(self.now, Event::Client);
        self.after(100_000, 1_500_000, Event::LetGo { parent, child: n });
    }

    /// A parent lets go of a child that lacks something; it comes again and is caught up.
    pub(super) fn let_go(&mut self, parent: usize, child: usize) {
        let volume = self.nodes[parent].volume().filter(|_| self.calm.is_none());
        match volume.and_then(|v| v.consumer_behind(&name(child))) {
            None => {}
            Some(0) if self.now > self.aiming.outrun => {}
            Some(0) => self.after(50_000, 300_000, Event::LetGo { parent, child }),
            Some(_) => {
                self.aiming.outrun = 0;
                let (volume, child) = (LABEL.to_owned(), name(child).to_string());
                self.ask(parent, Ask::Detach { volume, child });
            }
        }
    }

    /// Another writer is made by force, and who was one before is to follow it.
    fn diverge(&mut self) {
        let fenced: Vec<_> = (0..self.nodes.len())
            .filter(|n| self.info(*n).is_some_and(|v| v.fenced.is_some()))
            .collect();
        if let Some(f) = self.rng.pick(&fenced).copied() {
            if let Some(writer) = self.some_writer() {
                self.put_below(writer);
            }
            self.drop_branch(f);
            self.resync(f, false);
            return;
        }
        let whole: Vec<_> = (0..self.nodes.len())
            .filter(|n| self.nodes[*n].kind == Kind::Replica)
            .filter(|n| self.visible(*n) > Some(SetNumber::ZERO))
            .collect();
        let Some(n) = self.rng.pick(&whole).copied() else { return };
        if let Some(old) = self.some_writer()
            && old != n
            && self.rng.percent(60)
        {
            // What it writes now, the next one will not have.
            self.part(n, old);
            self.ask(old, Ask::Cut { volume: LABEL.to_owned(), keep: false });
        }
        let above = self.newest_counter();
        let change = WriterChange::Promote {
            volume: LABEL.to_owned(),
            now: true,
            at: None,
            above,
            lose_damaged_blocks: false,
        };
        self.counters.hit("promotion demanded");
        self.change(n, change);
    }

    /// A replica loses sets that it has shown and not merged.
    fn lose_steps(&mut self, n: usize) {
        let node = &self.nodes[n];
        if node.kind != Kind::Replica || node.mover.is_none() {
            return;
        }
        match self.rng.below(3) {
            0 => {
                self.crash(n);
                if !self.nodes[n].slot_lost {
                    self.lose_slot(n);
                }
            }
            _ => {
                // As soon as there are some, and it reads them again when it is back; that takes
                // longer while it cannot reach its parent.
                if let Some(parent) = self.opt.places[n].parent.filter(|_| self.rng.percent(30)) {
                    self.part(n, parent);
                }
                self.fill_up_at_times(n);
                self.slow_down(n);
                self.nodes[n].rots_when_merging = true;
                self.nodes[n].falls_when_rotten = true;
            }
        }
    }

    /// A file system is full for as long as what is brought about may take.
    fn fill_up_at_times(&mut self, n: usize) {
        if self.rng.percent(50) {
            let until = self.now + self.rng.range(500_000, 6_000_000);
            self.fill_up(n, until);
        }
    }

    /// An operator gives a node a new seed.
    fn demand_seed(&mut self, n: usize) {
        let Some(parent) = self.opt.places[n].parent else { return };
        self.counters.hit("seed demanded");
        // The one command by which a state may go back.
        self.nodes[n].shown = SetNumber::ZERO;
        self.nodes[n].saved = None;
        self.ask(parent, Ask::Seed { volume: LABEL.to_owned(), child: name(n).to_string() });
    }
}
