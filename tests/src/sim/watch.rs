//! What a node does from one call to the next: what it writes and for what, and whether it tells those
//! who wait for that.

use std::sync::Arc;

use node::mover::Effect;
use rcp::proto::delta::{SetFlags, SetHeader};
use rcp::proto::ids::SetNumber;
use volmcast::io::{FileId, Io, Op};
use volmcast::mailbox::{Mailbox, SLOT_LEN, TableMark};

use super::keeps::pins_of;
use super::options::Kind;
use super::world::World;

/// What was seen of a node in its present life.
#[derive(Debug, Default)]
pub(super) struct Watch {
    life: u64,
    /// A child had a place here once, in any life.
    children: bool,
    /// The number of the slot that was written last.
    slot: Option<u64>,
    /// What a restart would have found when it was looked at last.
    durable: Option<Mailbox>,
    /// Writes to the snapshot area that its last sync was for.
    synced: Option<u64>,
    /// Its runtime was told in this call to look at what can be exported.
    told: bool,
    /// A writer's newest set, and of how many it told in this call.
    finished: Option<(usize, SetNumber)>,
    told_of: u64,
    /// A set that it makes, or made last, and whether it knew its digest when that was cut.
    cut: Option<(SetNumber, bool)>,
    /// The header of a set that it made, and wrote last.
    header: Option<SetHeader>,
    /// Its activity log has not given up yet what is clean since.
    forgets: bool,
}

/// What a runtime has to look at that exports what a node holds, in words.
fn news(was: &Mailbox, now: &Mailbox) -> Option<&'static str> {
    if now.visible > was.visible && now.seed.is_none() {
        Some("a new state")
    } else if was.seed.is_some() && now.seed.is_none() {
        Some("the end of a seed")
    } else if (&now.kept, &now.aside) != (&was.kept, &was.aside) {
        Some("other kept states")
    } else if now.history != was.history {
        Some("other lines")
    } else {
        None
    }
}

/// What a slot says of these things must not be forgotten with it (FORMAT.md, section 4): in words, what is
/// wrong with one that says what `was` says.
fn must_be_in_both(was: &Mailbox, now: &Mailbox) -> Option<&'static str> {
    let staged = |m: &Mailbox| m.staged.map(|s| (s.from, s.need.is_some()));
    if was.history != now.history {
        Some("has other lines")
    } else if !pins_of(was).is_subset(&pins_of(now)) {
        Some("lists pins that are given up")
    } else if now.staged.is_some() && staged(was) != staged(now) {
        Some("stages something else")
    } else if now.outgoing > was.outgoing {
        Some("does not name what may leave")
    } else {
        None
    }
}

impl World {
    fn watch(&mut self, n: usize) -> &mut Watch {
        let node = &mut self.nodes[n];
        if node.watch.life != node.life {
            let children = node.watch.children;
            node.watch = Watch { life: node.life, children, ..Watch::default() };
        }
        &mut node.watch
    }

    /// A node asks its disk for something.
    fn watch_io(&mut self, n: usize, io: &Io) {
        let wrong = match (io.file, &io.op) {
            (FileId::Mailbox, Op::Write { offset, data }) => {
                let data: Vec<u8> = data.concat();
                self.watch_slot(n, *offset, &data)
            }
            (FileId::Save, op) => {
                self.watch_header(n, op);
                self.within(n, op)
            }
            (FileId::Base, _) => self.over_a_pin(n, io),
            (_, Op::Sync) => self.watch_sync(n, io),
            _ => None,
        };
        if let Some(what) = wrong {
            self.fail(format!("n{n}: {what}"));
        }
    }

    /// Each slot that is written has the next number, in the other place.
    fn watch_slot(&mut self, n: usize, offset: u64, data: &[u8]) -> Option<String> {
        let m = Mailbox::decode(data).ok()?;
        let now = m.sequence;
        let d = self.nodes[n].volume()?.durable();
        if now == d.sequence + 2 && must_be_in_both(d, &m).is_none() {
            return Some(format!("slot {now} says once more what may be said by one slot"));
        }
        let before = self.watch(n).slot.replace(now)?;
        let next = now == before + 1 && offset == Mailbox::slot_offset(now);
        (!next).then(|| format!("slot {now} is written at {offset} after slot {before}"))
    }

    /// A writer writes the header of a set.
    fn watch_header(&mut self, n: usize, op: &Op) {
        let Op::Write { data, .. } = op else { return };
        let writer = self.nodes[n].volume().is_some_and(|v| v.capture().is_some());
        let header = data.get(1).filter(|_| writer && data.len() == 2);
        if let Some(h) = header.and_then(|b| SetHeader::parse(b).ok()) {
            self.watch(n).header = Some(h);
        }
    }

    /// A request on the save volume is within it.
    fn within(&self, n: usize, op: &Op) -> Option<String> {
        let disk = self.nodes[n].disk.as_ref()?.0.borrow();
        let len = disk.bytes(FileId::Save).len() as u64;
        let end = match op {
            Op::Read { offset, len } => offset + *len as u64,
            Op::Write { offset, data } => offset + data.iter().map(|d| d.len() as u64).sum::<u64>(),
            _ => return None,
        };
        (end > len).then(|| format!("a request on the save volume ends at {end}, behind {len}"))
    }

    /// A file is synced because something was written to it, or is said of it for the first time.
    fn watch_sync(&mut self, n: usize, io: &Io) -> Option<String> {
        // At a writer a pin may be given up with its set, before a slot listed it.
        if io.op != Op::Sync || self.nodes[n].kind != Kind::Replica {
            return None;
        }
        if io.file != FileId::Snapshots {
            return None;
        }
        let done = self.nodes[n].disk.as_ref()?.0.borrow().completed(io.file);
        let last = self.watch(n).synced.replace(done);
        let v = self.nodes[n].volume()?;
        let (was, will) = (v.durable(), v.being_written()?);
        let same = (&was.kept, &was.aside) == (&will.kept, &will.aside);
        (last == Some(done) && same).then(|| "the snapshot area is synced for nothing".to_owned())
    }

    /// A call of a node's mover is over, and what came of it is carried out.
    pub(super) fn watch_call(&mut self, n: usize) {
        let Some(v) = self.nodes[n].volume().filter(|v| v.failure().is_none()) else { return };
        let (sequence, draining) = (v.durable().sequence, v.draining());
        let knows = v.digest().is_some();
        // Clients write the content of a writer, and one write may cross another.
        let disk = self.nodes[n].disk.as_ref();
        let crossed = disk.and_then(|d| d.0.borrow_mut().crossed_base.take());
        if let Some(what) = crossed.filter(|_| self.nodes[n].kind == Kind::Replica) {
            self.fail(format!("n{n}: {what}"));
        }
        let w = self.watch(n);
        let (told, told_of) = (std::mem::take(&mut w.told), std::mem::take(&mut w.told_of));
        if let Some(set) = draining.filter(|set| w.cut.is_none_or(|(cut, _)| cut != *set)) {
            w.cut = Some((set, knows));
        }
        if w.forgets && draining.is_some() {
            self.fail(format!("n{n}: the next set is cut before what is clean is forgotten"));
        }
        if self.watch(n).durable.as_ref().is_none_or(|was| was.sequence != sequence) {
            for what in self.watch_commit(n, told, told_of) {
                self.fail(format!("n{n}: {what}"));
            }
        }
        self.watch_keeps(n);
    }

    /// Another slot counts than before: what is wrong. The runtime was told of its exports, or not, and
    /// of so many sets.
    fn watch_commit(&mut self, n: usize, told: bool, told_of: u64) -> Vec<String> {
        let (kind, first) = (self.nodes[n].kind, self.records_read(n));
        // Sets that only records behind an older slot speak of were told of in the life before, and of
        // a set whose data was given up just before it counted nobody is told.
        let node = &self.nodes[n];
        let lost = node.slot_lost || node.damaged() || node.rotten_before.is_some();
        let spoilt = node.spoilt.is_some();
        let Some(v) = self.nodes[n].volume() else { return Vec::new() };
        let now = v.durable().clone();
        let writer = v.capture().map(|c| (Arc::as_ptr(c) as usize, now.visible));
        let w = self.watch(n);
        let mut wrong = Vec::new();
        w.children |= !now.consumers.is_empty();
        if now.had_children && !w.children {
            wrong.push("it says that it had children, and never had any".to_owned());
        }
        let finished = std::mem::replace(&mut w.finished, writer);
        if let (Some((c, from)), Some((same, to))) = (finished, writer)
            && c == same
            && !lost
            && to.0 != from.0 + told_of
        {
            wrong.push(format!("it tells of {told_of} finished sets between {from} and {to}"));
        }
        if let Some(at) = first.filter(|at| kind == Kind::Replica && *at < now.log_tail) {
            let tail = now.log_tail;
            wrong.push(format!("a reader reads {at:?}, and the log begins at {tail:?}"));
        }
        let Some(was) = w.durable.replace(now.clone()) else { return wrong };
        // What a set replaces in a table that rotted is not known, nor in one that was given up.
        let lacks = spoilt || now.digest.table == TableMark::Absent;
        let mute = |h: &SetHeader| {
            let bare = h.flags.contains(SetFlags::BITMAP_ONLY);
            w.cut == Some((now.visible, true)) && h.digest_sum().is_none() && !bare && !lacks
        };
        if w.header.take_if(|h| h.step.to == now.visible).is_some_and(|h| mute(&h)) {
            let to = now.visible;
            wrong.push(format!("it knew its digest, and does not tell that of set {to}"));
        }
        if let Some(what) = news(&was, &now).filter(|_| !told && !lost) {
            wrong.push(format!("its runtime is not told of {what}"));
        }
        wrong.extend(self.in_both_slots(n, &was, &now));
        wrong.extend(self.says_that_it_stages(n, &now));
        wrong
    }

    /// A catch-up that is shown is not under way any more.
    fn says_that_it_stages(&self, n: usize, now: &Mailbox) -> Option<String> {
        let v = self.nodes[n].volume().filter(|v| v.staged_progress().is_some())?;
        let need = v.opened().staged?.0.need.filter(|need| now.visible >= *need)?;
        Some(format!("it says that it catches up, and shows set {need}, which is the end of that"))
    }

    /// What must not be forgotten with one slot is in both when it counts.
    fn in_both_slots(&mut self, n: usize, was: &Mailbox, now: &Mailbox) -> Option<String> {
        must_be_in_both(was, now)?;
        let disk = self.nodes[n].disk.as_ref()?.0.borrow();
        let slots = disk.bytes(FileId::Mailbox).chunks(SLOT_LEN);
        let mut older = slots.filter_map(|s| Mailbox::decode(s).ok());
        let other = older.find(|m| m.sequence < now.sequence)?;
        drop(disk);
        self.counters.hit("said in both slots");
        let what = must_be_in_both(&other, now)?;
        Some(format!("slot {} counts, and slot {} {what}", now.sequence, other.sequence))
    }

    /// A node wants something done.
    pub(super) fn watch_effect(&mut self, n: usize, e: &Effect) {
        match e {
            Effect::Io { io, .. } => self.watch_io(n, io),
            Effect::Exports { .. } => self.watch(n).told = true,
            Effect::Note { text, .. } => self.hear_of_keeps(n, text),
            Effect::SetFinished { .. } => {
                let w = self.watch(n);
                w.told_of += 1;
                w.forgets = true;
            }
            _ => {}
        }
    }

    /// The activity log has given up what is clean.
    pub(super) fn watch_forgotten(&mut self, n: usize) {
        self.watch(n).forgets = false;
    }
}
