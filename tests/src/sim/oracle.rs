//! What must be true after every step, and at the end.

use std::collections::BTreeSet;

use rcp::proto::ids::{ChunkNumber, Generation, SetNumber};
use volmcast::digest::{BlockHash, Sum, hashes_in};
use volmcast::history::line_of;
use volmcast::io::{FileId, Io, Op};
use volmcast::mailbox::DigestMark;

use super::model::{Model, State};
use super::node::VOLUME;
use super::options::Kind;
use super::world::{Event, World};

/// Seconds of lag at a node that has everything, and is told the time now and then.
const MOST_LAG: f64 = 10.0;

/// One call in so many steps is followed by an audit of the volume's parts.
const AUDITED: u64 = 4;

/// How it is said that a node goes on and denies it.
pub(super) const GOES_ON: &str = " goes on and says of its ";

/// The counter of a part of a volume that could not go on.
fn stood_still(part: &str) -> &'static str {
    match part {
        "branches" => "stood still: a seed that waits for branches",
        "images" => "stood still: what branches need",
        "seed" => "stood still: a seed",
        "playback" => "stood still: playback",
        "size" => "stood still: growth",
        "sets" => "stood still: a set",
        "save" => "stood still: a writer's save volume",
        "table" => "stood still: the table of hashes",
        _ => "stood still: something else",
    }
}

impl World {
    /// Looks at a node after any call of its mover.
    pub fn observe(&mut self, n: usize) {
        let Some(v) = self.nodes[n].volume() else { return };
        let due = self.counters.2.all().is_multiple_of(AUDITED);
        let audit = if due { v.audit() } else { Ok(()) };
        let m = v.durable();
        let (seeding, head, tail) = (m.seed.is_some(), m.log_head.0, m.log_tail.0);
        let catching_up = m.seed.is_some_and(|s| s.over.is_some());
        let m_staged = m.staged.map(|s| s.need.is_some_and(|n| m.visible >= n));
        let kept: Vec<_> = m.keeps().filter(|k| k.pin > 0).map(|k| k.set).collect();
        let area = &v.config().snapshots;
        let full = area.free_slots() == 0 || area.has_broken();
        let refused = v.refusal().is_some();
        let (draining, failure) = (v.draining(), v.failure().map(str::to_owned));
        let cut_at = draining.and_then(|set| v.cut_time(set));
        let saved = v.saved_position();
        let (blocks, cut_blocks) = (v.blocks().0, v.next_blocks().0);
        let (digest, differs) = (v.digest(), m.digest.differs);
        let line = v.history().last().map(|b| b.generation);
        self.follows(n, line);
        if let Some(f) = &failure
            && self.nodes[n].may_say(f)
        {
            // What an operator does who reads what the node says, after a while.
            if !std::mem::replace(&mut self.nodes[n].rebooting, true) {
                self.counters.hit("volume stopped by a failed request");
                let life = self.nodes[n].life;
                self.after(1, 300_000, Event::Reboot { node: n, life });
            }
            return;
        }
        if let Some(f) = failure {
            self.fail(format!("n{n}: the volume stopped: {f}"));
            return;
        }
        if let Err(e) = audit {
            self.fail(format!("n{n}: its parts do not agree: {e}"));
            return;
        }
        if draining != self.nodes[n].draining {
            if let (Some(set), Some(disk)) = (draining, self.nodes[n].disk.clone()) {
                let d = disk.0.borrow();
                let set = Model::state(line, set);
                let sizes = (d.completed(FileId::Base), cut_blocks);
                self.model.cut(set, cut_at, d.bytes(FileId::Base), sizes);
                self.counters.hit("cut");
            }
            self.nodes[n].draining = draining;
        }
        if due {
            self.audit_feeding(n);
        }
        self.observe_digest(n, digest, differs);
        self.observe_halt(n);
        self.observe_mirror(n);
        if n == self.head {
            if blocks > self.blocks {
                self.counters.hit("the volume grew");
            } else if blocks < self.blocks {
                self.fail(format!("the primary had {} blocks, now {blocks}", self.blocks));
            }
            self.blocks = blocks;
        }
        self.nodes[n].area_full |= full;
        let life = self.nodes[n].life;
        for set in &kept {
            if self.nodes[n].released.contains(set) {
                continue;
            }
            self.nodes[n].kept.entry(*set).or_insert(life);
        }
        if self.nodes[n].rotten.is_some_and(|at| tail > at) {
            self.nodes[n].rotten_before = self.nodes[n].rotten.take();
            // If it was found, the log was given up, and so was what had been acknowledged.
            self.nodes[n].saved = self.nodes[n].saved.map(|s| s.min(saved));
        }
        // Nobody gave them up; a seed or catch-up does, and so does a full area.
        let gone: Vec<_> =
            self.nodes[n].kept.keys().filter(|s| !kept.contains(s)).copied().collect();
        let hidden = refused || seeding || self.nodes[n].seeding;
        if !gone.is_empty() && !hidden && !self.broken_pins(n) {
            self.fail(format!("n{n}: kept states {gone:?} are gone while it runs"));
            return;
        }
        self.nodes[n].kept.retain(|s, _| kept.contains(s));
        if seeding && !self.nodes[n].seeding {
            self.counters.hit(match (catching_up, refused) {
                (true, false) => "readable under a catch-up in place",
                (true, true) => "replica hidden by a catch-up",
                (false, _) => "replica hidden by a seed",
            });
        }
        if !seeding && self.nodes[n].seeding {
            let what =
                if self.nodes[n].catching_up { "catch-up finished" } else { "seed finished" };
            self.counters.hit(what);
        }
        let staged = m_staged.is_some_and(|shown| !shown);
        if self.nodes[n].staged && m_staged == Some(true) {
            self.counters.hit("staged catch-up finished");
        }
        self.nodes[n].staged = staged;
        self.nodes[n].seeding = seeding;
        self.nodes[n].catching_up = catching_up;
        if head / self.opt.save > self.nodes[n].log_head / self.opt.save {
            self.counters.hit("log wrapped");
        }
        self.nodes[n].log_head = head;
        if tail > head {
            self.fail(format!("n{n}: the log's tail {tail} is beyond its head {head}"));
        }
        if self.nodes[n].kind == Kind::Replica
            && let Some(visible) = self.visible(n)
        {
            let shown = self.nodes[n].shown;
            if visible < shown {
                self.fail(format!("n{n}: the visible state went back from {shown} to {visible}"));
            }
            self.nodes[n].shown = visible;
        }
    }

    /// Nothing is written over the list of changed blocks that the durable slot names.
    pub fn observe_changes(&mut self, n: usize, io: &Io) {
        let Some(v) = self.nodes[n].volume() else { return };
        let named = v.durable().changes;
        let Op::Write { offset, data } = &io.op else { return };
        let len: u64 = data.iter().map(|d| d.len() as u64).sum();
        let crosses = *offset < named.offset + named.bytes && named.offset < offset + len;
        if io.file == FileId::Changes && crosses {
            self.fail(format!("n{n}: a write to the list of changes at {offset} spoils {named:?}"));
        }
    }

    /// A digest is right, or there is none; content that is the primary's is not said to differ.
    fn observe_digest(&mut self, n: usize, digest: Option<(SetNumber, Sum)>, differs: SetNumber) {
        if differs == DigestMark::UNPROVEN {
            self.counters.hit("content kept until it is proven");
            self.nodes[n].unproven = true;
        } else if differs > SetNumber::ZERO && !self.nodes[n].damaged() {
            let what = self.compare(n, differs);
            self.fail(format!("n{n} says that its content differs since set {differs}: {what}"));
            return;
        }
        let node = &mut self.nodes[n];
        node.unproven &= digest.is_none();
        node.blind = node.spoilt.is_some() && (node.blind || digest.is_none());
        if digest == self.nodes[n].digest {
            return;
        }
        // A rotten table has another sum, until that is noticed.
        let table = self.nodes[n].spoilt == Some(FileId::Hashes);
        if let Some((set, sum)) = digest.filter(|_| differs == SetNumber::ZERO && !table) {
            self.counters.hit("digest of a new state");
            if let Err(e) = self.model.check_digest(self.state_at(n, set), sum) {
                self.fail(format!("n{n}: {e}"));
            }
            if self.nodes[n].digest.is_none() {
                self.counters.hit("digest found out");
            }
        } else if self.nodes[n].digest.is_some() {
            self.counters.hit("digest lost");
        }
        self.nodes[n].digest = digest;
    }

    /// Content and table of hashes of a node against a state and against each other, in words.
    fn compare(&self, n: usize, set: SetNumber) -> String {
        let Some(disk) = self.nodes[n].disk.clone() else { return "no files".to_owned() };
        let d = disk.0.borrow();
        let content = d.bytes(FileId::Base);
        let here = self.model.check(self.state_at(n, set), 0, content);
        let here = here.err().unwrap_or_else(|| "the content is that state".to_owned());
        let hashes = self.model.table(content);
        let (at, len) = volmcast::digest::table_range(0, hashes.len() as u64);
        let table = d.bytes(FileId::Hashes);
        let at = usize::try_from(at).unwrap_or(0);
        let table = table.get(at..(at + len).min(table.len())).unwrap_or_default();
        let listed = hashes_in(table).chain(std::iter::repeat(Some(BlockHash::ZERO)));
        let other = (0u64..).zip(hashes.iter().zip(listed)).filter(|(_, (a, b))| Some(**a) != *b);
        let other: Vec<_> = other.map(|(b, _)| b).collect();
        format!("{here}; hashes that are not those of the content: {other:?}")
    }

    /// Nobody is let in to a mirror of which no version was made.
    fn observe_mirror(&mut self, n: usize) {
        let Some(v) = self.nodes[n].volume().filter(|v| v.is_mirroring()) else { return };
        let whole = v.unwhole().is_none() && v.durable().visible > SetNumber::ZERO;
        let Some(states) = &self.nodes[n].states else { return };
        if states.board().pin_visible().is_ok() {
            self.fail(format!("n{n} mirrors, and is read"));
        } else if whole {
            self.counters.hit("mirror with a whole set not read");
        }
    }

    /// What stood still at a node, and what of it went on.
    pub(super) fn observe_stalls(&mut self, n: usize) {
        let Some(v) = self.nodes[n].volume() else { return };
        let now: BTreeSet<_> = v.stalls().map(|(part, _)| part).collect();
        let was = std::mem::replace(&mut self.nodes[n].stalls, now.clone());
        for part in now.difference(&was) {
            self.counters.hit(stood_still(part));
        }
    }

    /// While replication is stopped, a replica shows what it showed.
    fn observe_halt(&mut self, n: usize) {
        let Some(v) = self.nodes[n].volume() else { return };
        let m = v.durable();
        // What it has lost it shows again when it is back.
        let whole = m.seed.is_none() && m.hidden_until <= m.visible;
        let halted = !v.is_replicating() && v.settings_durable() && whole;
        let visible = m.visible;
        if !halted || self.nodes[n].kind != Kind::Replica {
            self.nodes[n].halted = None;
        } else if let Some(was) = self.nodes[n].halted.replace(visible)
            && was != visible
            && self.nodes[n].shown > SetNumber::ZERO
            // Whoever is to take over shows what has come.
            && !self.info(n).is_some_and(|v| v.promoting)
        {
            self.fail(format!("n{n} is stopped at state {was} and shows {visible}"));
        } else {
            self.counters.hit("looked at while stopped");
        }
    }

    /// The line of a state at a node.
    #[must_use]
    pub fn state_at(&self, n: usize, set: SetNumber) -> State {
        let history = self.nodes[n].volume().map_or(&[][..], |v| v.history());
        Model::state(line_of(history, set), set)
    }

    /// A node follows another line than before: that is the one way by which states go back.
    fn follows(&mut self, n: usize, line: Option<Generation>) {
        let was = std::mem::replace(&mut self.nodes[n].line, line);
        if self.opt.turns && was.is_some() && was != line {
            self.counters.hit("node followed another line");
            self.nodes[n].shown = SetNumber::ZERO;
            self.nodes[n].saved = None;
        }
    }

    /// A writer lost its memory: what left it must be in what it kept.
    pub fn after_writer_crash(&mut self, n: usize) {
        let line = self.nodes[n].line;
        if let Some((line, sent)) = line.and_then(|l| Some((l, *self.model.newest_sent.get(&l)?))) {
            self.durable_enough(n, (line, sent));
        }
        let Some(disk) = self.nodes[n].disk.clone() else { return };
        let durable = disk.0.borrow().durable_through(FileId::Base);
        if durable < self.client.flushed_through.get(&n).copied().unwrap_or(0) {
            self.fail("a flushed write is not durable".to_owned());
        }
        for node in &mut self.nodes {
            if let Some(s) = &mut node.saved {
                // A new attempt of the open set voids the chunks of the old one.
                s.1 = ChunkNumber(0);
            }
        }
    }

    /// What is sent of a set, the primary itself must not be able to lose.
    pub fn durable_enough(&mut self, n: usize, set: State) {
        let Some(disk) = self.nodes[n].disk.clone() else { return };
        let durable = disk.0.borrow().durable_through(FileId::Base);
        let needed = self.model.writes_at(set);
        if durable < needed {
            self.fail(format!(
                "set {} leaves the primary, but only {durable} of the {needed} writes before it \
                 are durable there",
                set.1
            ));
        }
    }

    /// A node was started again.
    pub fn after_restart(&mut self, n: usize) {
        let Some(v) = self.nodes[n].volume() else { return };
        let (at, held) = (v.saved_position(), v.position().0);
        let m = v.durable();
        let (visible, seeding) = (m.visible, m.seed.is_some());
        let kept: Vec<_> = v.kept().collect();
        let beyond = (visible.0 + 1..=held.0).map(SetNumber).map(|s| (s, v.cut_time(s)));
        let beyond: Vec<_> = beyond.collect();
        let pinned: Vec<_> = m.keeps().filter(|k| k.pin > 0).map(|k| k.set).collect();
        if self.nodes[n].halted.is_some() && v.is_replicating() && !self.nodes[n].slot_lost {
            self.fail(format!("n{n} was stopped and goes on after a restart"));
            return;
        }
        // A line that it was to open, and opens when it has settled.
        let opens = self.nodes[n].identity.as_ref().and_then(|i| i.standing.opens);
        let opens = opens.map(|o| o.generation);
        let opened = |g: &Generation| v.history().iter().any(|b| b.generation == *g);
        let own = v.history().last().map(|b| b.generation);
        let line = opens.filter(|g| !opened(g)).or(own);
        let slot_lost = self.nodes[n].slot_lost;
        if slot_lost {
            self.nodes[n].kept.retain(|s, _| pinned.contains(s));
        }
        if self.nodes[n].kind == Kind::Primary {
            let sent = line.and_then(|l| self.model.newest_sent.get(&l)).copied();
            let sent = sent.unwrap_or(SetNumber::ZERO);
            // With an older slot the sets behind its head are taken over, and committed later.
            for (set, at) in beyond.into_iter().filter(|_| slot_lost) {
                self.model.found(Model::state(line, set), at);
            }
            if visible < sent && !(slot_lost && held >= sent) {
                self.fail(format!("the primary recovered set {visible}, but had sent {sent}"));
            }
            return;
        }
        if let Some(saved) = self.nodes[n].saved
            && at < saved
        {
            if self.nodes[n].rotten.is_none() && !slot_lost {
                self.fail(format!("n{n} acknowledged {saved:?}, but holds {at:?} after a crash"));
            }
            self.nodes[n].saved = Some(at);
        }
        let discards = self.nodes[n].identity.as_ref().is_some_and(|i| i.standing.discards);
        if discards {
            self.nodes[n].kept.clear();
        }
        if slot_lost && self.nodes[n].rotten.is_some() {
            // Which sets were shown and merged nobody knows: what was kept may be overwritten.
            self.counters.hit("kept states given up with a lost slot and a damaged log");
            self.nodes[n].kept.retain(|s, _| kept.contains(s));
            // What a hidden one is filled with may be older than that.
            let shows = self.visible(n).unwrap_or(SetNumber::ZERO);
            self.nodes[n].shown = self.nodes[n].shown.min(shows);
        }
        let lost: Vec<_> = self.nodes[n].kept.keys().filter(|s| !kept.contains(s)).collect();
        if !lost.is_empty() && !seeding && !self.nodes[n].area_full {
            self.fail(format!("n{n}: kept states {lost:?} are not kept any more"));
        }
    }

    /// Who feeds whom in the place of a node that is back and has no route to it: for an operator.
    pub fn without_route(&self) -> Vec<(usize, String)> {
        let mut out = Vec::new();
        for (n, node) in self.nodes.iter().enumerate().filter(|_| self.opt.bypass) {
            let Some(m) = &node.mover else { continue };
            let words = |of: &str, c: &str| format!("{of} is back: feeding {c} in its place");
            for g in m.status().groups {
                let lost = |of: &str, c: &str| {
                    let b = g.children.iter().find(|l| l.node == of)?.bypass.as_ref()?;
                    (b.starts_with(&words(of, c)) && b.contains("has no route to")).then_some(())
                };
                for c in &g.children {
                    if let Some(of) = &c.in_place_of
                        && lost(of, &c.node).is_some()
                    {
                        out.push((n, c.node.clone()));
                    }
                }
            }
        }
        out
    }

    /// When all nodes are up, everybody is fed along the routes.
    fn in_anothers_place(&self) -> Option<String> {
        let movers = self.nodes.iter().filter_map(|n| n.mover.as_ref()).filter(|_| self.opt.bypass);
        for status in movers.map(node::mover::Mover::status) {
            for c in status.groups.iter().flat_map(|g| &g.children) {
                if let Some(of) = &c.in_place_of {
                    return Some(format!("{} feeds {} in the place of {of}", status.node, c.node));
                }
                if c.state != "connected" {
                    return Some(format!("{} is not connected to {}", status.node, c.node));
                }
            }
        }
        None
    }

    /// Why the tree has not converged, if so.
    pub fn unsettled(&mut self) -> Option<String> {
        if !self.client.requests.is_empty() {
            return Some("clients still wait".to_owned());
        }
        if let Some(why) = self.unresolved() {
            return Some(why);
        }
        let head = self.head;
        let Some(v) = self.nodes[head].volume() else { return Some("no primary".to_owned()) };
        let dirty = v.capture().map_or(0, |c| c.dirty_bytes());
        let newest = v.durable().visible;
        if dirty > 0 || v.draining().is_some() || v.position().0 != newest {
            return Some(format!("the primary has {dirty} dirty bytes"));
        }
        let left = v.durable().outgoing;
        if left > newest {
            return Some(format!(
                "extents of set {left} have left the primary, which has {newest}"
            ));
        }
        for n in (0..self.nodes.len()).filter(|n| *n != head) {
            let Some(v) = self.nodes[n].volume() else {
                return Some(format!("n{n} has no volume"));
            };
            let here = match self.nodes[n].kind {
                Kind::Relay => Some(v.saved_position().0),
                _ => self.visible(n),
            };
            let (size, blocks) = (v.blocks().0, self.blocks);
            if here == Some(newest) && size != blocks {
                return Some(format!("n{n} has {size} blocks, the primary {blocks}"));
            }
            if here != Some(newest) {
                return Some(format!("n{n} shows {here:?}, the primary has {newest}"));
            }
        }
        for n in 0..self.nodes.len() {
            let Some(v) = self.nodes[n].volume() else { continue };
            // A replica looks through its content again and again.
            let whole = v.durable().merged == newest && (n != head || v.is_idle());
            if self.nodes[n].kind != Kind::Relay && v.digest().map(|d| d.0) != Some(newest) {
                return Some(format!("n{n} does not know its digest: {:?}", v.digest_words()));
            }
            if self.nodes[n].kind != Kind::Relay && !whole {
                return Some(format!("n{n} is still merging"));
            }
        }
        let told = self.in_anothers_place().or_else(|| self.wrong_lag());
        let told = told.or_else(|| self.unheard(newest)).or_else(|| self.ungranted());
        let told = told.or_else(|| self.uncounted()).or_else(|| self.unheeded());
        if let Some(why) = told {
            return Some(why);
        }
        if let Some(why) = self.still_stalled() {
            return Some(why);
        }
        for n in 0..self.nodes.len() {
            if self.nodes[n].spoilt.is_some()
                && let Some(b) = self.wrong_hash(n)
            {
                return Some(format!("n{n}: block {b} is damaged"));
            }
            if self.nodes[n].spoilt.is_some() {
                self.counters.hit("damaged node healed");
            }
        }
        self.same_content(newest);
        None
    }

    /// When everything goes on, nobody says that something does not.
    fn still_stalled(&self) -> Option<String> {
        self.nodes.iter().enumerate().find_map(|(n, node)| {
            let (part, words) = node.volume()?.stalls().next()?;
            Some(format!("n{n}{GOES_ON}{part}: {words}"))
        })
    }

    /// Everybody has everything, and whoever feeds somebody was told so: what is not acknowledged
    /// is kept for ever.
    fn unheard(&self, newest: SetNumber) -> Option<String> {
        let movers = self.nodes.iter().filter_map(|n| n.mover.as_ref());
        movers.map(node::mover::Mover::status).find_map(|status| {
            let mut children = status.volumes.iter().flat_map(|v| &v.children);
            let c = children.find(|c| c.saved_set != newest.0 || c.behind_bytes > 0)?;
            let (behind, saved) = (c.behind_bytes, c.saved_set);
            Some(format!("{} takes {} for at set {saved}, {behind} behind", status.node, c.node))
        })
    }

    /// Who shows the newest state says so, whatever its clock shows. Older versions do not hear what
    /// the writer's clock shows.
    fn wrong_lag(&self) -> Option<String> {
        if self.opt.older != 0 {
            return None;
        }
        let replicas = self.nodes.iter().enumerate().filter(|(_, n)| n.kind == Kind::Replica);
        for (n, node) in replicas {
            let status = node.mover.as_ref()?.status();
            let lag = status.volumes.iter().find_map(|v| v.lag_seconds);
            if lag.is_none_or(|l| l > MOST_LAG) {
                return Some(format!(
                    "n{n} shows the newest state and says that its lag is {lag:?}"
                ));
            }
        }
        None
    }

    fn same_content(&mut self, newest: SetNumber) {
        let head = self.head;
        let Some(disk) = self.nodes[head].disk.clone() else { return };
        let newest = self.state_at(head, newest);
        if let Err(e) = self.model.check(newest, 0, disk.0.borrow().bytes(FileId::Base)) {
            self.fail(format!("the primary's content is not its newest state: {e}"));
        }
        for n in 0..self.nodes.len() {
            self.same_table(n);
        }
        for n in (0..self.nodes.len()).filter(|n| *n != head) {
            self.look(n);
        }
    }

    /// The table of hashes is that of the content.
    fn same_table(&mut self, n: usize) {
        if let Some(b) = self.wrong_hash(n) {
            self.fail(format!(
                "n{n}: the hash of block {b} in the table is not that of its content"
            ));
        }
    }

    /// A block whose content is not what its hash says.
    fn wrong_hash(&self, n: usize) -> Option<usize> {
        let disk = self.nodes[n].disk.clone()?;
        if self.nodes[n].kind == Kind::Relay {
            return None;
        }
        let d = disk.0.borrow();
        let len = self.blocks * self.opt.block_size.bytes();
        let base = d.bytes(FileId::Base);
        let want = self.model.table(&base[..base.len().min(usize::try_from(len).unwrap_or(0))]);
        let table = d.bytes(FileId::Hashes);
        let from = usize::try_from(volmcast::digest::TABLE_AT).unwrap_or(0);
        let mut have: Vec<_> = hashes_in(table.get(from..).unwrap_or_default()).collect();
        have.resize(want.len(), Some(BlockHash::ZERO));
        want.iter().zip(&have).position(|(a, b)| Some(*a) != *b)
    }

    /// Says in words where every node stands.
    pub fn status_words(&mut self) {
        for n in 0..self.nodes.len() {
            let Some(m) = &self.nodes[n].mover else {
                self.say(format!("n{n} is down"));
                continue;
            };
            let mut lines = Vec::new();
            let s = m.status();
            for g in &s.groups {
                for l in g.parent.iter().chain(&g.children) {
                    lines.push(format!("  link {} {}: {:?}", l.node, l.state, l.reason));
                    lines.extend(l.bypass.as_ref().map(|b| format!("    bypass: {b}")));
                }
            }
            for v in &s.volumes {
                lines.push(format!(
                    "  {} {}: visible {} saved {} merged {} newest {} reason {:?} used {}/{}",
                    v.role,
                    v.state,
                    v.current_set,
                    v.saved_set,
                    v.merged_set,
                    v.newest_known_set,
                    v.reason,
                    v.save_used,
                    v.save_capacity
                ));
                for c in &v.children {
                    lines.push(format!(
                        "    child {} {}: saved {} behind {} seed {:?} {:?}",
                        c.node, c.state, c.saved_set, c.behind_bytes, c.seed_percent, c.reason
                    ));
                }
            }
            if let Some(v) = m.volume(VOLUME) {
                let d = v.durable();
                lines.push(format!(
                    "  mailbox: tail {} head {} base {} visible {} merged {} seed {:?} hidden {} \
                     digest {:?} position {:?} consumers {:?} kept {:?} idle {}",
                    d.log_tail,
                    d.log_head,
                    d.log_base,
                    d.visible,
                    d.merged,
                    d.seed,
                    d.hidden_until,
                    d.digest,
                    v.position(),
                    d.consumers,
                    d.kept,
                    v.is_idle()
                ));
            }
            if let Some(v) = m.volume(VOLUME).filter(|v| !v.is_idle()) {
                let all = format!("{v:?}");
                let desk = all.find("purposes").unwrap_or(0);
                lines.push(format!("  under way: {:.600}", &all[desk..]));
                let commit = all.find("Committer").unwrap_or(0);
                lines.push(format!("  commit: {:.600}", &all[commit..]));
            }
            self.say(format!("n{n} ({:?}):", self.nodes[n].kind));
            for l in lines {
                self.say(l);
            }
        }
    }
}
