//! Crashes, cuts, stalls, and an operator who does not sit still.

use node::api::PolicyChange;
use node::mover::{Ask, AskId};
use node::volumes::primary::prepare_growth;
use rcp::proto::ids::SetNumber;
use rcp::proto::transport::Hop;
use volmcast::io::FileId;
use volmcast::mailbox::{Mailbox, SLOT_LEN, TableMark};
use volmcast::units::{BlockCount, BlockIndex};

use super::disk::Disk;
use super::node::{GROUP, LABEL, SimNode, VOLUME, name};
use super::options::Kind;
use super::world::{Event, World};

impl World {
    /// A node is started, if it is down.
    pub fn start(&mut self, n: usize) {
        if self.nodes[n].mover.is_some() || self.stays_away(n) {
            return;
        }
        let (now, wall, random) = (self.mono(), self.wall(n), self.rng.draw());
        let opt = self.opt.clone();
        self.say(format!("n{n} starts"));
        self.nodes[n].started = self.now;
        if let Err(e) = self.nodes[n].start(&opt, now, wall, random) {
            self.fail(format!("n{n} cannot start: {e}"));
            return;
        }
        self.after_restart(n);
    }

    /// A node loses its memory, and perhaps what its disk had in its cache.
    pub fn crash(&mut self, n: usize) {
        if self.nodes[n].mover.is_none() {
            return;
        }
        self.writer_lost(n);
        let power = self.rng.percent(60);
        self.down(n, power);
    }

    /// A node whose disk failed is started again, perhaps with the machine.
    pub fn reboot(&mut self, n: usize) {
        self.crash(n);
    }

    /// A slot that was lost has not been written again.
    pub(super) fn one_slot(&self, n: usize) -> bool {
        let Some(disk) = &self.nodes[n].disk else { return false };
        let bytes = disk.0.borrow().settled(FileId::Mailbox);
        [0, 1].iter().any(|s| bytes.get(s * SLOT_LEN..).is_none_or(|b| Mailbox::decode(b).is_err()))
    }

    /// The newest mailbox slot of a node that is down rots, if the older one is whole.
    pub(super) fn lose_slot(&mut self, n: usize) {
        if self.is_stored_as_writer(n) && self.nodes[n].rotten.is_some() {
            self.counters.hit("a writer's slot spared, as its log had rotted");
            return;
        }
        let Some(disk) = self.nodes[n].disk.clone() else { return };
        let mut d = disk.0.borrow_mut();
        let of = |d: &Disk, slot: usize| {
            let bytes = d.bytes(FileId::Mailbox).get(slot * SLOT_LEN..)?;
            Mailbox::decode(bytes).ok().map(|m| (m.sequence, m.digest.table))
        };
        let (Some(a), Some(b)) = (of(&d, 0), of(&d, 1)) else { return };
        let older = if a.0 < b.0 { a.1 } else { b.1 };
        if self.nodes[n].spoilt == Some(FileId::Base) && older == TableMark::Absent {
            // Nothing would be left that says what the content was: the table is lost with the slot.
            self.counters
                .hit("a slot spared that says that there is a table, as the content had rotted");
            return;
        }
        d.flip(FileId::Mailbox, Mailbox::slot_offset(a.0.max(b.0)) + 60, 3);
        drop(d);
        self.counters.hit("newest mailbox slot lost");
        let states = std::mem::take(&mut self.nodes[n].fell_in);
        self.met("mailbox slot lost", &states);
        self.say(format!("n{n}: its newest mailbox slot rots"));
        let node = &mut self.nodes[n];
        node.slot_lost = true;
        node.rotten = node.rotten.max(node.rotten_before.take());
    }

    /// Where a writer's newest set stands is said by its newest slot, and by the records of the set.
    /// If neither can be read, nothing on the node says it: one of the two stays intact.
    pub(super) fn is_stored_as_writer(&self, n: usize) -> bool {
        let node = &self.nodes[n];
        let stored = node.on_disk.as_ref().or(node.identity.as_ref());
        node.kind == Kind::Primary || stored.is_some_and(|i| i.role == "primary")
    }

    pub(super) fn writer_lost(&mut self, n: usize) {
        self.nodes[n].fell_in = self.states_of(n);
        if self.nodes[n].kind == Kind::Primary {
            self.after_writer_crash(n);
        }
        self.client.requests.retain(|_, r| r.node != n);
    }

    /// A node is away, and comes back by itself.
    pub(super) fn down(&mut self, n: usize, power: bool) {
        self.nodes[n].failing = false;
        self.nodes[n].io_errors = 0;
        let states = self.nodes[n].fell_in.clone();
        self.met(if power { "power cut" } else { "kill" }, &states);
        self.counters.hit(match (self.nodes[n].kind, power) {
            (Kind::Primary, true) => "power cut of the primary",
            (Kind::Replica, true) => "power cut of a replica",
            (Kind::Relay, true) => "power cut of a relay",
            (Kind::Primary, false) => "kill of the primary",
            (Kind::Replica, false) => "kill of a replica",
            (Kind::Relay, false) => "kill of a relay",
        });
        if self.nodes[n].seeding {
            self.counters.hit("crash of a node that is being seeded");
        }
        self.say(format!("n{n} {}", if power { "loses power" } else { "is killed" }));
        self.drop_links(n);
        self.nodes[n].drop_memory();
        if let Some(disk) = self.nodes[n].disk.clone() {
            let mut d = disk.0.borrow_mut();
            if power {
                let damage = d.crash(&mut self.rng);
                self.counters.add("torn write", damage.torn);
                self.counters.add("lost write", damage.lost);
            } else {
                d.kill(&mut self.rng);
            }
        }
        self.nodes[n].slot_lost &= self.one_slot(n);
        if self.opt.bypass && self.nodes[n].kind != Kind::Primary && self.rng.percent(8) {
            self.counters.hit("disk lost");
            self.say(format!("n{n} loses its disk"));
            let life = self.nodes[n].life;
            self.nodes[n] = SimNode::new(n, &self.opt);
            self.nodes[n].life = life;
        }
        if self.opt.bad_disks && self.rng.percent(10) {
            self.lose_slot(n);
        }
        let long = self.rng.percent(if self.opt.bypass { 60 } else { 15 });
        let (from, to) = if long { (4_000_000, 12_000_000) } else { (10_000, 1_500_000) };
        if long {
            self.counters.hit("long absence");
        }
        self.after(from, to, Event::Start { node: n });
    }

    /// Parts of writes under way are seen.
    pub fn smear(&mut self, n: usize) {
        if let Some(disk) = self.nodes[n].disk.clone() {
            disk.0.borrow_mut().smear(volmcast::io::FileId::Base, &mut self.rng);
        }
    }

    /// Somebody asks a node for something, if it is up: the number of the question.
    pub fn ask(&mut self, n: usize, question: Ask) -> Option<AskId> {
        self.nodes[n].mover.as_ref()?;
        self.next_id += 1;
        let ask = AskId(self.next_id);
        self.say(format!("n{n}: operator: {question:?}"));
        self.asked.insert(ask);
        if let Some(m) = &mut self.nodes[n].mover {
            m.ask(ask, question);
        }
        self.after_mover(n);
        Some(ask)
    }

    /// Any node.
    pub fn some_node(&mut self) -> usize {
        usize::try_from(self.rng.below(self.nodes.len() as u64)).unwrap_or(0)
    }

    /// Something goes wrong, or an operator acts.
    pub fn fault(&mut self) {
        if self.calm.is_some() || self.opt.calm {
            return;
        }
        let pause = self.opt.fault_pause;
        self.after(pause / 10, pause * 2, Event::Fault);
        let n = self.some_node();
        if self.opt.bad_disks && self.rng.percent(12) {
            self.disk_fault(n);
            return;
        }
        let volume = LABEL.to_owned();
        if self.opt.turns && self.rng.percent(45) {
            if self.opt.operators {
                self.after(100, 80_000, Event::Turn);
            }
            return self.turn(n);
        }
        match self.rng.below(100) {
            0..18 => self.crash(n),
            18..34 => {
                let ids: Vec<_> = self.links.keys().copied().collect();
                if let Some(id) = self.rng.pick(&ids).copied() {
                    self.break_link(id);
                }
            }
            34..42 => {
                let ids: Vec<_> = self.links.keys().copied().collect();
                if let Some(id) = self.rng.pick(&ids).copied() {
                    self.stall_link(id);
                }
            }
            42..48 => {
                let m = self.some_node();
                if m != n {
                    self.part(n, m);
                }
            }
            48..60 => {
                let keep = self.rng.percent(40);
                self.counters.hit(if keep { "cut demanded, kept" } else { "cut demanded" });
                let writer = self.some_writer().unwrap_or(0);
                self.ask(writer, Ask::Cut { volume, keep });
            }
            60..70 => {
                // Also while it is hidden.
                let bad = self.opt.bad_disks;
                let held = self.nodes[n].volume().map(|v| v.durable().visible).filter(|_| bad);
                if self.nodes[n].kind == Kind::Replica
                    && let Some(visible) = held.or(self.visible(n))
                    && self.nodes[n].kept.len() < 4
                {
                    let set = visible.0 + self.rng.below(4);
                    self.counters.hit("keep demanded");
                    self.nodes[n].released.remove(&SetNumber(set));
                    self.ask(n, Ask::Keep { volume, set });
                }
            }
            70..78 => {
                let kept: Vec<SetNumber> = self.nodes[n].kept.keys().copied().collect();
                if let Some(set) = self.rng.pick(&kept).copied()
                    && self.nodes[n].mover.is_some()
                {
                    self.counters.hit("kept state released");
                    self.nodes[n].kept.remove(&set);
                    self.nodes[n].released.insert(set);
                    self.keep_released(n, set);
                    self.ask(n, Ask::Release { volume: volume.clone(), set: set.0 });
                    if set.0 % 4 == 3 {
                        // He thinks better of it before that is durable; for a moment it may be gone.
                        self.counters.hit("released state kept again");
                        self.nodes[n].kept_again.push((AskId(self.next_id + 1), set));
                        self.ask(n, Ask::Keep { volume, set: set.0 });
                    }
                }
            }
            78..80 => {
                if let Some(parent) = self.opt.places[n].parent {
                    self.counters.hit("seed demanded");
                    // The one command by which a state may go back.
                    self.nodes[n].shown = SetNumber::ZERO;
                    self.nodes[n].saved = None;
                    self.ask(parent, Ask::Seed { volume, child: name(n).to_string() });
                }
            }
            80..84 => {
                if let Some(parent) = self.opt.places[n].parent
                    && self.nodes[parent].mover.is_some()
                {
                    self.drop_route(parent, n);
                }
            }
            84..90 => {
                self.counters.hit("policy changed");
                let bytes = self.opt.blocks * self.opt.block_size.bytes();
                let hwm = Some(bytes * self.rng.range(1, 60) / 100);
                let timeout_ms = Some(self.rng.range(0, 2_000));
                let change = PolicyChange { hwm, timeout_ms, persistent: None };
                self.ask(n, Ask::Policy { volume, change });
            }
            90..95 => self.slow_down(n),
            95..98 => {
                self.counters.hit("burst of writes");
                self.client.burst = self.rng.range(50, 400);
                self.at(self.now, Event::Client);
            }
            _ => {
                if let Some(m) = &mut self.nodes[n].mover {
                    self.counters.hit("orderly stop");
                    m.stop();
                    self.after_mover(n);
                    self.crash(n);
                }
            }
        }
    }

    pub(super) fn break_link(&mut self, id: u64) {
        self.counters.hit("connection cut");
        self.link_meets(id, "connection cut");
        self.cut_link(id);
    }

    /// Nothing arrives at one end of a connection for a while.
    pub(super) fn stall_link(&mut self, id: u64) {
        self.counters.hit("one-way stall");
        self.link_meets(id, "one-way stall");
        let side = usize::from(self.rng.percent(50));
        let until = self.now + self.rng.range(50_000, 4_000_000);
        if let Some(l) = self.links.get_mut(&id) {
            l.ends[side].stalled_until = until;
        }
    }

    /// Two nodes cannot reach each other for a while.
    pub(super) fn part(&mut self, n: usize, m: usize) {
        self.counters.hit("partition");
        self.meets(n, "partition");
        self.meets(m, "partition");
        let until = self.now + self.rng.range(100_000, 6_000_000);
        self.apart.insert((n.min(m), n.max(m)), until);
    }

    pub(super) fn slow_down(&mut self, n: usize) {
        self.counters.hit("slow disk");
        self.meets(n, "slow disk");
        let until = self.now + self.rng.range(200_000, 4_000_000);
        self.nodes[n].slow_until = until;
    }

    pub(super) fn fill_up(&mut self, n: usize, until: u64) {
        self.counters.hit("file system full");
        self.nodes[n].full_until = until;
        self.nodes[n].was_full = true;
    }

    /// An operator takes a route away for a while.
    pub(super) fn drop_route(&mut self, parent: usize, n: usize) {
        self.counters.hit("route deleted");
        let next_hop = Some(name(n).to_string());
        self.routes_gone.insert((parent, n));
        self.ask(parent, Ask::RouteDelete { group: Some(GROUP.to_owned()), next_hop });
        self.after(10_000, 3_000_000, Event::AddRoute { parent, child: n });
    }

    /// An operator makes the volume larger.
    pub fn grow(&mut self, blocks: u64) {
        self.counters.hit("growth demanded");
        let size = blocks * self.opt.block_size.bytes();
        self.ask(0, Ask::Resize { volume: LABEL.to_owned(), size });
        if self.opt.bad_disks && self.calm.is_none() && self.rng.percent(50) {
            // Somebody is impatient.
            let more = self.rng.below(4);
            self.after(1, 400_000, Event::Grow { blocks: blocks + more });
        }
    }

    /// An operator stops replication somewhere, starts it, or says whether it persists.
    pub fn switch(&mut self) {
        if self.opt.mirrors > 0 && self.rng.percent(70) {
            return self.wish();
        }
        let n = self.some_node();
        let volume = LABEL.to_owned();
        if self.rng.percent(30) {
            self.counters.hit("persistency changed");
            let persistent = Some(self.rng.percent(50));
            let change = PolicyChange { persistent, ..PolicyChange::default() };
            self.ask(n, Ask::Policy { volume, change });
        } else {
            let on = self.rng.percent(40);
            self.counters.hit(if on { "replication started" } else { "replication stopped" });
            if on {
                self.nodes[n].halted = None;
            }
            self.ask(n, Ask::Replicate { volume, on });
        }
    }

    /// An operator wants a version of a mirror, or has it mirror again.
    fn wish(&mut self) {
        let mirrors: Vec<_> = (0..self.nodes.len()).filter(|n| self.opt.mirrors(*n)).collect();
        let Some(n) = self.rng.pick(&mirrors).copied() else { return };
        let open = self.rng.percent(55);
        self.counters.hit(if open { "version wanted" } else { "mirroring again wanted" });
        self.ask(n, Ask::Views { volume: LABEL.to_owned(), open });
    }

    /// The primary's files get room, as `PrimaryVolume` does it.
    pub fn prepare(&mut self, n: usize, blocks: BlockCount) {
        let from = (self.blocks * self.opt.block_size.bytes()).max(self.nodes[n].prepared);
        let life = self.nodes[n].life;
        if self.opt.bad_disks {
            // A device without an offload for zeroes takes its time.
            self.after(1, 400_000, Event::Prepared { node: n, life, blocks, from });
        } else {
            self.prepared(n, blocks, from);
        }
    }

    /// The primary's files have room.
    pub fn prepared(&mut self, n: usize, blocks: BlockCount, from: u64) {
        let (now, wall) = (self.mono(), self.wall(n));
        let len = blocks.0 * self.opt.block_size.bytes();
        let node = &self.nodes[n];
        let (Some(disk), Some(activity)) = (&node.disk, &node.activity) else { return };
        if let Err(e) = prepare_growth(disk, activity, from, len, blocks)
            && !self.nodes[n].failing
        {
            self.fail(format!("n{n}: {e}"));
        }
        self.nodes[n].prepared = from.max(len);
        if let Some(m) = &mut self.nodes[n].mover {
            m.growth_prepared(now, wall, VOLUME, blocks, Ok(()));
        }
    }

    /// A disk does what disks should not.
    fn disk_fault(&mut self, n: usize) {
        match self.rng.below(100) {
            0..45 => {
                self.nodes[n].io_errors = self.rng.range(1, 4);
                return;
            }
            45..60 => {
                let until = self.now + self.rng.range(200_000, 5_000_000);
                self.fill_up(n, until);
                return;
            }
            _ => {}
        }
        if self.nodes[n].kind == super::options::Kind::Replica && self.rng.percent(50) {
            self.spoil(n);
            return;
        }
        if self.nodes[n].kind == Kind::Replica && self.rng.percent(30) {
            self.nodes[n].rots_when_merging = true;
            return;
        }
        self.rot_save(n);
    }

    /// A bit of a save area was to flip as soon as its node is merging.
    pub(super) fn look_for_merging(&mut self, n: usize) {
        if self.nodes[n].rots_when_merging
            && self.calm.is_none()
            && self.states_of(n).contains(&"merging")
        {
            self.nodes[n].rots_when_merging = false;
            self.rot_save(n);
            if std::mem::take(&mut self.nodes[n].falls_when_rotten) {
                let life = self.nodes[n].life;
                self.at(self.now + 1, Event::Reboot { node: n, life });
            }
        }
    }

    /// A bit of what a save area holds flips.
    pub(super) fn rot_save(&mut self, n: usize) {
        let Some(m) = self.nodes[n].volume().map(|v| v.durable().clone()) else { return };
        let used = m.log_head.since(m.log_tail);
        if used == 0 || self.is_stored_as_writer(n) && self.one_slot(n) {
            return;
        }
        let position = m.log_tail.0 + self.rng.below(used);
        let at = position % self.opt.save;
        let bit = u8::try_from(self.rng.below(8)).unwrap_or(0);
        self.counters.hit("bit flipped in a save area");
        self.meets(n, "rot in the save area");
        self.say(format!("n{n}: bit {bit} at {at} of the save area flips"));
        let rotten = &mut self.nodes[n].rotten;
        *rotten = Some(rotten.map_or(position, |p| p.max(position)));
        if let Some(disk) = &self.nodes[n].disk {
            disk.0.borrow_mut().flip(volmcast::io::FileId::Save, at, bit);
        }
    }

    /// As soon as a replica shows something, a bit of it flips.
    pub fn rot(&mut self, n: usize) {
        let shows = self.nodes[n].kind == Kind::Replica && self.visible(n) > Some(SetNumber::ZERO);
        match shows {
            true => self.spoil(n),
            false => self.after(100_000, 200_000, Event::Rot { node: n }),
        }
    }

    /// A bit of a replica's content flips, or of the hashes beside it.
    pub(super) fn spoil(&mut self, n: usize) {
        use volmcast::io::FileId;
        let Some(disk) = self.nodes[n].disk.clone() else { return };
        let stored = self.nodes[n].on_disk.as_ref().or(self.nodes[n].identity.as_ref());
        if stored.is_some_and(|i| i.role == "primary") {
            // It fell when it had become the writer, and does not know it yet.
            self.counters.hit("rot spared a writer that is down");
            return;
        }
        // One of the two stays intact on each node.
        let base = self.rng.percent(70);
        let blind = self.nodes[n].digest.is_none() && self.opt.aim.is_some();
        let chosen = if base && !blind { FileId::Base } else { FileId::Hashes };
        let file = self.nodes[n].spoilt.unwrap_or(chosen);
        if file == FileId::Base && self.nodes[n].digest.is_none() {
            // Its table is lost or being made: content that rots now is what the table will say.
            self.counters.hit("rot spared a node without a table");
            return;
        }
        self.nodes[n].spoilt = Some(file);
        let (from, len) = match file {
            FileId::Base => (0, self.blocks * self.opt.block_size.bytes()),
            _ => (volmcast::digest::TABLE_AT, self.blocks * volmcast::digest::ENTRY_LEN),
        };
        let at = from + self.rng.below(len);
        let bit = u8::try_from(self.rng.below(8)).unwrap_or(0);
        self.say(format!("n{n}: bit {bit} at {at} of {file:?} flips"));
        let by =
            if file == FileId::Base { "bit flipped in content" } else { "bit flipped in hashes" };
        self.counters.hit(by);
        self.meets(n, "rot in the content");
        if file == FileId::Base {
            let bs = self.opt.block_size;
            let block = at >> bs.shift();
            let from = usize::try_from(bs.offset(BlockIndex(block))).unwrap_or(0);
            let to = from + usize::try_from(bs.bytes()).unwrap_or(0);
            let was = disk.0.borrow().bytes(file).get(from..to).map(<[u8]>::to_vec);
            self.nodes[n].rotted.extend(was.map(|was| (block, was)));
        }
        disk.0.borrow_mut().flip(file, at, bit);
    }

    /// A route comes back.
    pub fn add_route(&mut self, parent: usize, child: usize) {
        if self.nodes[parent].mover.is_none() {
            self.after(100_000, 1_000_000, Event::AddRoute { parent, child });
            return;
        }
        if self.has_route(parent, child) {
            self.routes_gone.remove(&(parent, child));
            return;
        }
        self.counters.hit("route added");
        let next_hop = name(child).to_string();
        self.ask(
            parent,
            Ask::RouteAdd { group: GROUP.to_owned(), next_hop, by: Hop::default(), unasked: false },
        );
        // It may be refused, or the node may crash before it is stored.
        self.after(500_000, 3_000_000, Event::AddRoute { parent, child });
    }

    fn has_route(&self, parent: usize, child: usize) -> bool {
        let name = name(child).to_string();
        self.nodes[parent].mover.as_ref().and_then(|m| m.routes(None).ok()).is_some_and(|t| {
            t.entries.iter().any(|e| {
                e.node == super::node::name(parent).to_string() && e.next_hops.contains(&name)
            })
        })
    }

    /// An operator gives a replica a new seed where its status names that as the remedy: damaged blocks
    /// cannot be had by their number from a parent of an older version.
    fn seed_incurable(&mut self) {
        let says = |n: &usize| {
            let status = self.nodes[*n].mover.as_ref().map(node::mover::Mover::status);
            let damage = status.and_then(|s| s.volumes.into_iter().find_map(|v| v.damage));
            damage.is_some_and(|text| text.contains("give this one a new seed at its parent"))
        };
        let incurable: Vec<_> = (0..self.nodes.len()).filter(says).collect();
        for n in incurable {
            let child = name(n).to_string();
            let feeds = |p: &usize| {
                let groups = self.nodes[*p].mover.iter().flat_map(|m| m.status().groups);
                groups.flat_map(|g| g.children).any(|c| c.node == child)
            };
            let Some(parent) = (0..self.nodes.len()).find(feeds) else { continue };
            self.counters.hit("seed for a damaged node with an older parent");
            self.nodes[n].shown = SetNumber::ZERO;
            self.nodes[n].saved = None;
            self.ask(parent, Ask::Seed { volume: LABEL.to_owned(), child });
        }
    }

    /// After the faults: the last writes become a set.
    pub fn nudge(&mut self) {
        self.seed_incurable();
        for n in 0..self.nodes.len() {
            if self.nodes[n].volume().is_some_and(|v| !v.is_replicating()) {
                self.nodes[n].halted = None;
                self.ask(n, Ask::Replicate { volume: LABEL.to_owned(), on: true });
            }
        }
        for n in 0..self.nodes.len() {
            if self.nodes[n].volume().is_some_and(|v| v.is_mirroring()) {
                self.counters.hit("mirror brought to a version in the end");
                self.ask(n, Ask::Views { volume: LABEL.to_owned(), open: true });
            }
        }
        for (n, node) in self.without_route() {
            self.ask(n, Ask::RouteDelete { group: Some(GROUP.to_owned()), next_hop: Some(node) });
        }
        let head = self.head;
        let writer = self.nodes[head].volume();
        let dirty = writer.and_then(|v| v.capture()).map_or(0, |c| c.dirty_bytes());
        if dirty > 0 && self.client.requests.is_empty() {
            self.ask(head, Ask::Cut { volume: LABEL.to_owned(), keep: false });
        }
    }
}
