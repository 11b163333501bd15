//! A second reading of a volume's files whenever one is opened, from `volmcast/FORMAT.md` (sections 4,
//! 5, 12 and 13) alone: it lists all records, cuts them into attempts, and says which of them count,
//! where the volume goes through them one by one. Both have to come to the same. While a change of role
//! is cut short nothing is judged, because it goes on at once; and of a log that was given up, only the
//! states and positions.

mod records;
mod trial;

use std::collections::BTreeMap;

use rcp::proto::delta::{SetFlags, StepId};
use rcp::proto::ids::{Generation, SetNumber, VolumeId};
use volmcast::bitmap::BlockSet;
use volmcast::history::line_of;
use volmcast::mailbox::{Mailbox, SLOT_LEN};
use volmcast::save::log::STAGED;
use volmcast::units::{BlockCount, BlockIndex, LogPos};
use volmcast::volume::{Opened, Volume};

use self::records::{Body, Record, Run, Save, Walk};
use super::options::Kind;

/// What is on the disk of a node that starts.
pub struct Files {
    /// The two slots.
    pub mailbox: Vec<u8>,
    /// The ring.
    pub save: Vec<u8>,
    /// Bytes of the ring that count.
    pub capacity: u64,
    /// Whose it is.
    pub volume: VolumeId,
    /// What the node is.
    pub kind: Kind,
    /// The line that a writer opens, or has opened.
    pub opens: Option<Generation>,
    /// A writer's content that its parent gives up: what follows from the files is given up at once.
    pub discards: bool,
}

/// What follows from them.
pub struct Reading {
    opened: Opened,
    /// Blocks of sets that only the save volume knew of.
    changed: BTreeMap<SetNumber, BlockSet>,
    /// The log was given up: what else follows is not judged here.
    damaged: bool,
    /// How many sets only the save volume knew of.
    adopted: usize,
}

impl Files {
    /// The slot that rules, and whether the other one is damaged.
    fn slots(&self) -> Option<(Mailbox, bool)> {
        let halves: Vec<_> = self.mailbox.chunks(SLOT_LEN).take(2).collect();
        let sound: Vec<_> = halves.iter().filter_map(|s| Mailbox::decode(s).ok()).collect();
        let lost = halves.iter().any(|s| Mailbox::decode(s).is_err() && s.iter().any(|b| *b != 0));
        // Only the first commit of all leaves a slot untouched.
        let never = sound.first().is_some_and(|m| m.sequence == 1);
        let one = sound.len() == 1;
        Some((sound.into_iter().max_by_key(|m| m.sequence)?, one && (lost || !never)))
    }

    /// Reads them.
    #[must_use]
    pub fn read(&self) -> Option<Reading> {
        let (slot, old) = self.slots().filter(|_| !self.discards)?;
        let save = Save { bytes: &self.save, capacity: self.capacity, volume: self.volume };
        let primary = self.kind == Kind::Primary;
        let unopened =
            primary && self.opens.is_some_and(|g| slot.history.iter().all(|b| b.generation != g));
        if unopened {
            // The line is opened at once, and what its content lacks goes.
            return None;
        }
        let log = save.walk(slot.log_tail, slot.log_head);
        let round = LogPos(slot.log_tail.0 + self.capacity + 1);
        let behind = if old { save.walk(slot.log_head, round) } else { save.walk(round, round) };
        let p = Pass { files: self, slot: &slot, old, behind: &behind };
        Some(if p.is_damaged(&log) { p.given_up() } else { p.whole(&log) })
    }
}

/// One reading.
struct Pass<'a> {
    files: &'a Files,
    slot: &'a Mailbox,
    old: bool,
    behind: &'a Walk,
}

impl<'a> Pass<'a> {
    fn primary(&self) -> bool {
        self.files.kind == Kind::Primary
    }

    fn replica(&self) -> bool {
        self.files.kind == Kind::Replica
    }

    /// Readers are served from the records of this step.
    fn is_indexed(&self, to: SetNumber) -> bool {
        self.replica() && to > self.slot.merged
    }

    /// A record before the head cannot be read as far as it is needed.
    fn is_damaged(&self, log: &Walk) -> bool {
        let bad = |r: &Record| match &r.body {
            Body::Chunk(h, whole) => h.is_none() || self.is_indexed(r.to) && whole.is_none(),
            Body::End(h) => h.is_none(),
        };
        log.end != self.slot.log_head || log.crosses || log.records.iter().any(bad)
    }

    /// What the slot says, and nothing else.
    fn slot_alone(&self) -> Opened {
        let m = self.slot;
        Opened {
            steps: Vec::new(),
            log: (m.log_tail, m.log_head),
            base: m.log_base,
            visible: m.visible,
            merged: m.merged,
            hidden_until: m.hidden_until,
            blocks: m.blocks,
            indexed: Vec::new(),
            open: (false, false),
            merges_from: None,
            seed: None,
            staged: None,
            // A writer keeps states as it cuts them.
            waiting: m
                .kept
                .iter()
                .filter(|k| k.pin == 0 && !self.primary())
                .map(|k| k.set)
                .collect(),
            children: BTreeMap::new(),
            changes_from: m.changes.base,
        }
    }

    /// The newest set whose header stands behind the head, and the newest of which anything does.
    fn newest_behind(&self) -> (SetNumber, SetNumber) {
        let all = || self.behind.records.iter().filter(|_| self.old);
        let newest = |it: &mut dyn Iterator<Item = &'a Record>| {
            it.map(|r| r.to).max().unwrap_or(SetNumber::ZERO)
        };
        (newest(&mut all().filter(|r| r.is_end())), newest(&mut all()))
    }

    fn ours(&self) -> Option<Generation> {
        self.slot.history.last().map(|b| b.generation)
    }

    /// The log was damaged: it goes on behind all that was written, with nothing in it.
    fn given_up(&self) -> Reading {
        let mut o = self.slot_alone();
        let head = if self.old { self.behind.end } else { self.slot.log_head };
        let last = self.behind.records.iter().rev();
        let mut headers = last.filter_map(|r| match &r.body {
            Body::End(h) => h.filter(|h| Some(h.step.generation) == self.ours()),
            Body::Chunk(..) => None,
        });
        if let Some(h) = headers.next().filter(|h| self.primary() && h.step.to > o.visible) {
            (o.visible, o.merged) = (h.step.to, h.step.to);
            o.blocks = BlockCount(h.volume_blocks);
        }
        let shown = o.visible.max(o.hidden_until);
        if !self.primary() && shown > o.merged {
            (o.visible, o.hidden_until) = (o.merged, shown);
        }
        if self.old && self.replica() {
            o.hidden_until = o.hidden_until.max(o.visible);
        }
        o.log = (head, head);
        o.base = if self.primary() { o.visible } else { o.merged };
        Reading { opened: o, changed: BTreeMap::new(), damaged: true, adopted: 0 }
    }

    /// Runs that count: whole, with nothing behind them that begins before they end; and the last one,
    /// if it is open.
    fn counting<'r>(&self, runs: &'r [Run<'a>]) -> Vec<&'r Run<'a>> {
        let last = runs.len().saturating_sub(1);
        let counts = |i: usize, r: &Run<'_>| {
            let superseded = runs[i + 1..].iter().any(|later| later.id.base < r.id.to);
            !superseded && (r.header().is_some() || i == last)
        };
        let all: Vec<_> =
            runs.iter().enumerate().filter(|(i, r)| counts(*i, r)).map(|(_, r)| r).collect();
        let foreign = |r: &&&Run<'_>| {
            line_of(&self.slot.history, r.id.to).is_some_and(|g| g != r.id.generation)
        };
        match all.iter().find(foreign).map(|r| r.id.base) {
            Some(at) => all.into_iter().filter(|r| r.header().is_some() && r.id.to <= at).collect(),
            None => all,
        }
    }

    /// The log can be read.
    fn whole(&self, log: &'a Walk) -> Reading {
        let runs = Run::cut(&log.records);
        let mut counts = self.counting(&runs);
        let mut o = self.slot_alone();
        let begins = counts.first().map(|r| r.first().pos);
        if begins != log.records.first().map(|r| r.pos) {
            o.log.0 = begins.unwrap_or(self.slot.log_head);
        }
        let open = counts.last().filter(|r| r.header().is_none());
        let open = open.map(|r| r.records.clone()).unwrap_or_default();
        let fits = |r: &&Record| r.is_whole() && r.end.since(o.log.0) <= self.files.capacity;
        let readable = self.behind.records.iter().take_while(fits);
        let later = Run::cut(open.iter().copied().chain(readable));
        let finished = self.finished(&later, state_of(&counts).unwrap_or(o.base));
        if let (Some(first), false) = (finished.first(), open.is_empty()) {
            // It is one of those that are finished, or it was given up for the first of them.
            counts.pop();
            if first.first().pos >= self.slot.log_head && counts.is_empty() {
                o.log.0 = self.slot.log_head;
            }
        }
        let changed = self.take_over(&mut o, &finished);
        if let Some(first) = finished.first().filter(|_| self.primary())
            && !open.iter().all(|r| r.is_whole())
        {
            // Nobody looks whether they are of the set that follows.
            o.changes_from = o.changes_from.max(first.id.to);
        }
        let adopted = finished.len();
        counts.extend(finished);
        let any = self.hide(&mut o, &counts);
        let (merged, staged) = (self.slot.merged, self.slot.staged);
        let within =
            staged.is_some_and(|s| s.from <= merged && s.need.is_none_or(|need| merged < need));
        if self.replica() && self.slot.seed.is_none() && !within {
            // What the base holds is kept by a pin from now on; what is before it was never there.
            o.waiting.retain(|set| *set > merged);
        }
        let lost = self.old && self.primary();
        let lost = lost.then(|| self.unreadable(&counts, o.log.1, o.blocks)).flatten();
        if let Some((newest, blocks, end)) = lost {
            if newest > o.visible {
                (o.visible, o.merged, o.blocks) = (newest, newest, blocks);
            }
            (o.log, o.base) = ((end, end), o.visible);
        } else {
            self.stand(&mut o, &counts, any);
        }
        Reading { opened: o, changed, damaged: lost.is_some(), adopted }
    }

    /// A writer has what these sets say, and knows what they changed.
    fn take_over(&self, o: &mut Opened, sets: &[&Run<'_>]) -> BTreeMap<SetNumber, BlockSet> {
        let mut changed = BTreeMap::new();
        let Some(last) = sets.last() else { return changed };
        o.log.1 = last.end().unwrap_or(o.log.1);
        for run in sets.iter().filter(|_| self.primary()) {
            let Some(h) = run.header() else { continue };
            (o.visible, o.merged, o.blocks) = (h.step.to, h.step.to, BlockCount(h.volume_blocks));
            changed.insert(h.step.to, blocks_of(run));
            let told = !h.flags.contains(SetFlags::BITMAP_ONLY);
            if !told || !run.records.iter().all(|r| r.is_whole()) {
                o.changes_from = h.step.to;
            }
        }
        changed
    }

    /// What the lost slot had shown may be in the base of a replica: it shows nothing before that. The
    /// newest set of which the base may hold anything.
    fn hide(&self, o: &mut Opened, counts: &[&Run<'_>]) -> SetNumber {
        let (whole, any) = self.newest_behind();
        let whole = if self.is_shut() { SetNumber::ZERO } else { whole };
        let whole = whole.max(state_of(counts).unwrap_or(o.base));
        if self.old && self.replica() {
            o.waiting.retain(|set| *set >= whole.max(o.visible));
            if whole > o.visible.max(o.hidden_until) {
                o.hidden_until = whole;
            }
        }
        any
    }

    /// Blocks of a catch-up are staged behind the last set, and more come.
    fn is_shut(&self) -> bool {
        self.slot.staged.is_some_and(|m| m.need.is_none())
    }

    /// Sets that follow the head, whole, each after the one before it: they were finished.
    fn finished<'r>(&self, runs: &'r [Run<'a>], mut state: SetNumber) -> Vec<&'r Run<'a>> {
        let mut all = Vec::new();
        if !self.old || self.is_shut() || self.files.kind == Kind::Relay {
            return all;
        }
        for (i, run) in runs.iter().enumerate() {
            if Some(run.id.generation) != self.ours() {
                // Another writer's.
                continue;
            }
            let begun = run.first().number == 0 || run.header().is_some() && run.records.len() == 1;
            if run.id.base != state || !begun {
                break;
            }
            if run.header().is_some() {
                if !run.is_proven() {
                    break;
                }
                state = run.id.to;
                all.push(run);
                continue;
            }
            // It was given up, if what takes its place follows: never an older attempt.
            let Some(next) = runs.get(i + 1) else { break };
            let foreign = Some(next.id.generation) != self.ours();
            let older = next.id.generation == run.id.generation && next.id.attempt < run.id.attempt;
            let anew = next.first().number == 0 && (next.first().is_end() || !older);
            if !foreign && !anew {
                break;
            }
        }
        all
    }

    /// At a writer: the set behind those that count cannot be read, but it, and perhaps more that
    /// follow, were sent, perhaps. The newest of them, the size of the volume in it, and its end.
    fn unreadable(
        &self,
        counts: &[&Run<'_>],
        from: LogPos,
        blocks: BlockCount,
    ) -> Option<(SetNumber, BlockCount, LogPos)> {
        let open = counts.last().filter(|r| r.header().is_none());
        let (mut id, mut next) = (open.map(|r| r.id), open.map_or(0, |r| r.chunks()));
        let mut found = None;
        let (mut lost, mut size) = (false, blocks);
        for r in self.behind.records.iter().filter(|r| r.pos >= from) {
            if r.number == 0 {
                (id, next) = (None, 0);
            }
            let own = r.step().filter(|_| r.is_whole());
            lost |= own.is_none();
            if r.number != next || own.is_some_and(|own| id.is_some_and(|id| id != own)) {
                break;
            }
            id = id.or(own);
            next += 1;
            if !r.is_end() {
                continue;
            }
            if id.is_none_or(|id| Some(id.generation) == self.ours()) {
                if !lost {
                    break;
                }
                if let Body::End(Some(h)) = &r.body {
                    size = BlockCount(h.volume_blocks);
                }
                found = Some((r.to, size, r.end));
            }
            (id, next) = (None, 0);
        }
        found
    }

    /// What the volume stands at with these steps.
    fn stand(&self, o: &mut Opened, counts: &[&Run<'_>], any: SetNumber) {
        let m = self.slot;
        let mut steps = counts.to_vec();
        let staged = |r: &Run<'_>| r.id.attempt.0 >= STAGED;
        let meant = |r: &Run<'_>| {
            m.staged.is_some_and(|s| s.from == r.id.to && s.need.is_some() == r.header().is_some())
        };
        if let Some(i) = steps.iter().position(|r| staged(r) && r.id.to > m.merged && !meant(r)) {
            steps.truncate(i);
        }
        let fresh = m.staged.is_some_and(|s| s.next_block == 0 && s.need.is_none());
        let last_open = |steps: &[&Run<'_>]| steps.last().is_some_and(|r| r.header().is_none());
        if let Some(mark) = m.staged {
            let found = steps.iter().find(|r| staged(r) && r.id.to == mark.from);
            let shown = mark.need.is_some_and(|n| m.visible >= n);
            let known = line_of(&m.history, mark.from).is_some();
            if found.is_some() || known && (shown || fresh) {
                let end = found.and_then(|r| r.end());
                o.staged = Some((mark, end.or(shown.then_some(o.log.0))));
                if fresh && last_open(&steps) {
                    steps.pop();
                }
            }
        }
        if self.primary() && last_open(&steps) {
            steps.pop();
        }
        if steps.is_empty() && !counts.is_empty() {
            o.log.0 = o.log.1;
        }
        let state = state_of(&steps).unwrap_or(m.log_base);
        if self.primary() && state < m.visible {
            steps.clear();
            o.log.0 = o.log.1;
        }
        let empty = if self.primary() { m.log_base.max(m.visible) } else { m.log_base };
        o.base = steps.first().map_or(empty, |r| r.id.base);
        o.steps = steps.iter().map(|r| (r.id, r.chunks(), r.end())).collect();
        let whole = steps.iter().filter(|r| r.header().is_some());
        o.indexed = whole.clone().map(|r| r.id.to).filter(|to| self.is_indexed(*to)).collect();
        let open = steps.last().filter(|r| r.header().is_none());
        o.open = (
            open.is_some_and(|r| self.is_indexed(r.id.to)),
            open.is_some_and(|r| r.first().number > 0),
        );
        if self.replica() {
            let merged = whole.clone().rev().find(|r| r.id.to <= m.merged).and_then(|r| r.end());
            o.merges_from = Some(merged.unwrap_or(o.log.0));
            let held = open.map_or(state, |r| r.id.to).max(any);
            o.seed = m.seed.map(|mark| (mark, Some(held)));
        }
        let within = |at: LogPos| at.min(m.log_head).max(m.log_tail);
        o.children = m.consumers.iter().map(|c| (c.name.clone(), within(c.acked))).collect();
    }
}

/// Where the last whole one of them leads.
fn state_of(steps: &[&Run<'_>]) -> Option<SetNumber> {
    steps.iter().rev().find_map(|r| r.header()).map(|h| h.step.to)
}

/// Blocks that the chunks of a step write.
fn blocks_of(run: &Run<'_>) -> BlockSet {
    let mut set = BlockSet::new();
    for r in &run.records {
        if let Body::Chunk(_, Some(c)) = &r.body {
            for e in c.extents() {
                set.insert_range(BlockIndex(e.block), BlockCount(u64::from(e.count)));
            }
        }
    }
    set
}

impl Reading {
    /// What it came upon, if anything.
    #[must_use]
    pub fn found(&self) -> Option<&'static str> {
        match (self.damaged, self.adopted) {
            (true, _) => Some("log given up on trial"),
            (false, 0) => None,
            (false, _) => Some("sets of the save volume taken over on trial"),
        }
    }

    /// Holds what the volume made of the files against it.
    ///
    /// # Errors
    /// What it takes for something else, in words.
    pub fn check(&self, v: &Volume) -> Result<(), String> {
        let (mut expected, found) = (self.opened.clone(), v.opened());
        if self.damaged {
            // What has to come again, and who has to go, is its own business.
            expected.seed = found.seed;
            expected.children.clone_from(&found.children);
            expected.waiting.clone_from(&found.waiting);
            expected.merges_from = found.merges_from;
            expected.staged = found.staged;
            expected.open = found.open;
            expected.changes_from = found.changes_from;
        }
        if found.merges_from.is_none() {
            // It has no use for what comes.
            expected.open = found.open;
        }
        if found != expected {
            let parts = parts_of(&expected).into_iter().zip(parts_of(&found));
            let other = parts.filter(|(e, f)| e != f);
            let other: Vec<_> =
                other.map(|((what, e), (_, f))| format!("{what} {e}, it has {f}")).collect();
            return Err(format!("the files say {}", other.join("; ")));
        }
        if self.damaged {
            return Ok(());
        }
        let unknown = self.changed.iter().find(|(set, blocks)| !v.knows_changed(**set, blocks));
        match unknown {
            Some((set, _)) => Err(format!("blocks that set {set} changed are not noted")),
            None => Ok(()),
        }
    }
}

/// What an opening comes to, in words.
fn parts_of(o: &Opened) -> Vec<(&'static str, String)> {
    let step = |(id, chunks, end): &(StepId, u32, Option<LogPos>)| {
        let end = end.map_or("open".to_owned(), |end| format!("up to {end}"));
        format!("{} to {} (attempt {}, {chunks} chunks, {end})", id.base, id.to, id.attempt.0)
    };
    vec![
        ("steps", o.steps.iter().map(step).collect::<Vec<_>>().join(", ")),
        ("log", format!("{:?} over {}", o.log, o.base)),
        ("visible", format!("{} merged {}", o.visible, o.merged)),
        ("hidden until", o.hidden_until.to_string()),
        ("size", format!("{:?}", o.blocks)),
        ("indexed", format!("{:?} {:?}", o.indexed, o.open)),
        ("merge from", format!("{:?}", o.merges_from)),
        ("seed", format!("{:?}", o.seed)),
        ("staged", format!("{:?}", o.staged)),
        ("still to keep", format!("{:?}", o.waiting)),
        ("children", format!("{:?}", o.children)),
        ("changes known after", o.changes_from.to_string()),
    ]
}
