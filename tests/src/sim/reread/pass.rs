//! One reading of a volume's files: which records count, and what the volume stands at with them.

use std::collections::BTreeMap;

use rcp::proto::delta::{SetFlags, SetHeader};
use rcp::proto::ids::{Generation, SetNumber};
use volmcast::bitmap::BlockSet;
use volmcast::history::line_of;
use volmcast::mailbox::Mailbox;
use volmcast::save::log::STAGED;
use volmcast::units::{BlockCount, BlockIndex, LogPos};
use volmcast::volume::Opened;

use super::records::{Body, Record, Run, Save, Walk};
use super::{Files, Kind, Reading};

/// One reading.
pub(super) struct Pass<'a> {
    pub files: &'a Files,
    pub slot: &'a Mailbox,
    /// The other slot is damaged, and was perhaps the newer one.
    pub old: bool,
    log: Walk,
    pub behind: Walk,
}

impl<'a> Pass<'a> {
    /// Of files with this slot.
    pub(super) fn new(files: &'a Files, slot: &'a Mailbox, old: bool) -> Self {
        let save = Save { bytes: &files.save, capacity: files.capacity, volume: files.volume };
        let round = LogPos(slot.log_tail.0 + files.capacity + 1);
        let log = save.walk(slot.log_tail, slot.log_head);
        let behind = save.walk(if old { slot.log_head } else { round }, round);
        Self { files, slot, old, log, behind }
    }

    /// A writer's line is in its identity and not in the slot.
    pub(super) fn is_unopened(&self) -> bool {
        let known = |g| self.slot.history.iter().any(|b| b.generation == g);
        self.primary() && self.files.opens.is_some_and(|g| !known(g))
    }

    /// What the volume is opened with.
    pub(super) fn read(&self) -> Reading {
        let mut reading = if self.is_damaged() { self.given_up() } else { self.whole() };
        self.keep(&mut reading.opened);
        reading
    }

    pub(super) fn primary(&self) -> bool {
        self.files.kind == Kind::Primary
    }

    pub(super) fn replica(&self) -> bool {
        self.files.kind == Kind::Replica
    }

    /// What follows the head counts: the slot that is lost had perhaps committed it, and it is not
    /// another writer's.
    pub(super) fn goes_beyond(&self) -> bool {
        self.old && !self.is_unopened()
    }

    /// Readers are served from the records of this step.
    fn is_indexed(&self, to: SetNumber) -> bool {
        self.replica() && to > self.slot.merged
    }

    /// A record before the head cannot be read as far as it is needed.
    fn is_damaged(&self) -> bool {
        let bad = |r: &Record| match &r.body {
            Body::Chunk(h, whole) => h.is_none() || self.is_indexed(r.to) && whole.is_none(),
            Body::End(h) => h.is_none(),
        };
        let log = &self.log;
        log.end != self.slot.log_head || log.crosses || log.records.iter().any(bad)
    }

    /// What the slot says, and nothing else.
    pub(super) fn slot_alone(&self) -> Opened {
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
            digest: m.digest,
        }
    }

    /// The newest set whose header stands behind the head, and the newest of which anything does.
    pub(super) fn newest_behind(&self) -> (SetNumber, SetNumber) {
        let all = || self.behind.records.iter().filter(|_| self.goes_beyond());
        let newest = |it: &mut dyn Iterator<Item = &Record>| {
            it.map(|r| r.to).max().unwrap_or(SetNumber::ZERO)
        };
        (newest(&mut all().filter(|r| r.is_end())), newest(&mut all()))
    }

    pub(super) fn ours(&self) -> Option<Generation> {
        self.slot.history.last().map(|b| b.generation)
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

    /// What the base holds is kept by a pin from now on, and what is before that was never there; under a
    /// seed, or within what is staged, the base holds no state.
    fn keep(&self, o: &mut Opened) {
        let merged = self.slot.merged;
        let within = o.staged.is_some_and(|(mark, ..)| {
            mark.from <= merged && mark.need.is_none_or(|need| merged < need)
        });
        let seeded = o.seed.is_some() || self.slot.seed.is_some();
        if self.replica() && !seeded && !within {
            o.waiting.retain(|set| *set > merged);
        }
    }

    /// The log can be read.
    fn whole(&'a self) -> Reading {
        let runs = Run::cut(&self.log.records);
        let mut counts = self.counting(&runs);
        let mut o = self.slot_alone();
        let begins = counts.first().map(|r| r.first().pos);
        if begins != self.log.records.first().map(|r| r.pos) {
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
        let (any, passed) = self.hide(&mut o, &counts);
        let lost = self.goes_beyond() && self.primary();
        let lost = lost.then(|| self.unreadable(&counts, o.log.1, o.blocks)).flatten();
        if let Some(lost) = &lost {
            self.numbers_alone(&mut o, lost);
        } else {
            self.stand(&mut o, &counts, any);
        }
        let (damaged, old, primary) = (lost.is_some(), self.old, self.primary());
        Reading { opened: o, changed, damaged, old, passed, adopted, primary }
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
    /// newest set of which the base may hold anything, and states that were still to be kept.
    fn hide(&self, o: &mut Opened, counts: &[&Run<'_>]) -> (SetNumber, Vec<SetNumber>) {
        let (whole, any) = self.newest_behind();
        let whole = if self.is_shut() { SetNumber::ZERO } else { whole };
        let whole = whole.max(state_of(counts).unwrap_or(o.base));
        let mut passed = Vec::new();
        if self.old && self.replica() {
            let gone = |set: &SetNumber| *set < whole.max(o.visible);
            passed.extend(o.waiting.extract_if(.., gone));
            if whole > o.visible.max(o.hidden_until) {
                o.hidden_until = whole;
            }
        }
        (any, passed)
    }

    /// Blocks of a catch-up are staged behind the last set, and more come.
    fn is_shut(&self) -> bool {
        self.slot.staged.is_some_and(|m| m.need.is_none())
    }

    /// Sets that follow the head, whole, each after the one before it: they were finished.
    fn finished<'r>(&self, runs: &'r [Run<'a>], mut state: SetNumber) -> Vec<&'r Run<'a>> {
        let mut all = Vec::new();
        if !self.goes_beyond() || self.is_shut() || self.files.kind == Kind::Relay {
            return all;
        }
        for (i, run) in runs.iter().enumerate() {
            if Some(run.id.generation) != self.ours() {
                // Another writer's.
                continue;
            }
            // Of the one that is open at the head the first records may have been given back.
            let begun = run.first().number == 0
                || run.header().is_some() && run.records.len() == 1
                || run.first().pos < self.slot.log_head;
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
            if steps.is_empty() {
                o.log.0 = o.log.1;
            }
        }
        self.stage(o, &mut steps);
        if self.primary() && is_open(&steps) {
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
        self.judge_table(o, &steps);
    }

    /// A catch-up that is staged goes on where the slot says: in its step, behind it, or, if nothing of
    /// it is told yet, anew.
    fn stage(&self, o: &mut Opened, steps: &mut Vec<&Run<'_>>) {
        let Some(mark) = self.slot.staged else { return };
        let is_it = |r: &&&Run<'_>| r.id.attempt.0 >= STAGED && r.id.to == mark.from;
        let found = steps.iter().find(is_it).map(|r| r.end());
        let fresh = mark.next_block == 0 && mark.need.is_none();
        let shown = mark.need.is_some_and(|n| self.slot.visible >= n);
        let known = line_of(&self.slot.history, mark.from).is_some();
        if found.is_none() && !(known && (shown || fresh)) {
            return;
        }
        if fresh && is_open(steps) {
            steps.pop();
        }
        let open = steps.last().filter(|r| r.header().is_none() && self.is_indexed(r.id.to));
        let blocks = open.map_or(0, |r| count_blocks(r));
        let end = found.flatten().or(shown.then_some(o.log.0));
        o.staged = Some((mark, end, (blocks, mark.next_block)));
    }
}

/// The last of them has no set header yet.
fn is_open(steps: &[&Run<'_>]) -> bool {
    steps.last().is_some_and(|r| r.header().is_none())
}

/// Where the last whole one of them leads.
pub(super) fn state_of(steps: &[&Run<'_>]) -> Option<SetNumber> {
    steps.iter().rev().find_map(|r| r.header()).map(|h: &SetHeader| h.step.to)
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

/// How many blocks the chunks of a step have.
fn count_blocks(run: &Run<'_>) -> u64 {
    let of = |r: &&Record| match &r.body {
        Body::Chunk(_, Some(c)) => c.extents().map(|e| u64::from(e.count)).sum(),
        _ => 0,
    };
    run.records.iter().map(of).sum()
}
