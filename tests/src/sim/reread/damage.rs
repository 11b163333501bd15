//! What follows from records that cannot be read (`volmcast/FORMAT.md`, section 13).

use std::collections::BTreeMap;

use rcp::proto::delta::StepId;
use rcp::proto::ids::SetNumber;
use volmcast::mailbox::SeedMark;
use volmcast::units::{BlockCount, LogPos};
use volmcast::volume::Opened;

use super::Reading;
use super::pass::Pass;
use super::records::{Body, Record, Run};

/// Sets of which the numbers alone are taken: the newest, the size of the volume in it, and its end.
pub(super) struct Lost {
    newest: SetNumber,
    blocks: BlockCount,
    end: LogPos,
}

/// What stands behind the sets that count: records from one that is the first of a set, or behind a set
/// header, to the next such place.
struct Attempt<'a> {
    records: Vec<&'a Record>,
    /// The first number that it should have.
    first: u32,
    /// Whose it is, as far as any of it can be read.
    of: Option<StepId>,
    /// Its numbers follow each other, and all of it that can be read is of one step.
    sound: bool,
}

impl<'a> Attempt<'a> {
    /// Cuts records into attempts; the first one goes on with the step that is `open`.
    fn cut(records: impl Iterator<Item = &'a Record>, open: Option<(StepId, u32)>) -> Vec<Self> {
        let mut all: Vec<Self> = Vec::new();
        for r in records {
            let ended = all.last().is_none_or(Self::has_ended);
            if r.number == 0 || ended {
                let goes_on = open.filter(|_| all.is_empty() && r.number > 0);
                let (of, first) = (goes_on.map(|(id, _)| id), goes_on.map_or(0, |(_, n)| n));
                all.push(Self { records: Vec::new(), first, of, sound: true });
            }
            if let Some(last) = all.last_mut() {
                last.records.push(r);
            }
        }
        for a in &mut all {
            let steps = || a.of.into_iter().chain(a.records.iter().filter_map(|r| own(r)));
            let one = steps().zip(steps().skip(1)).all(|(x, y)| x == y);
            let numbers = a.records.iter().map(|r| r.number);
            let of = steps().next();
            a.sound = one && numbers.eq((a.first..).take(a.records.len()));
            a.of = of;
        }
        all
    }

    fn has_ended(&self) -> bool {
        self.records.last().is_some_and(|r| r.is_end())
    }
}

/// The step that a record says it is of, if all of it can be read.
fn own(r: &Record) -> Option<StepId> {
    r.step().filter(|_| r.is_whole())
}

impl Pass<'_> {
    /// At a writer: the set behind those that count cannot be read, but it, and perhaps more that
    /// follow, were sent, perhaps.
    pub(super) fn unreadable(
        &self,
        counts: &[&Run<'_>],
        from: LogPos,
        blocks: BlockCount,
    ) -> Option<Lost> {
        let open = counts.last().filter(|r| r.header().is_none()).map(|r| (r.id, r.chunks()));
        let behind = || self.behind.records.iter().filter(|r| r.pos >= from);
        let unreadable = behind().find(|r| !r.is_whole())?;
        let attempts = Attempt::cut(behind(), open);
        let sound = attempts.iter().take_while(|a| a.sound);
        let ours = |a: &&Attempt<'_>| a.of.is_none_or(|id| Some(id.generation) == self.ours());
        let ended = sound.filter(|a| a.has_ended()).filter(ours);
        let ends: Vec<_> = ended.filter_map(|a| a.records.last()).collect();
        let (first, last) = (ends.first()?, ends.last()?);
        let mut sizes = ends.iter().rev().filter_map(|r| match &r.body {
            Body::End(h) => h.as_ref().map(|h| BlockCount(h.volume_blocks)),
            Body::Chunk(..) => None,
        });
        // If nothing is missing before the first one, that does not follow what is there.
        let lost = unreadable.pos <= first.pos;
        let size = sizes.next().unwrap_or(blocks);
        lost.then_some(Lost { newest: last.to, blocks: size, end: last.end })
    }

    /// Of sets that cannot be read a writer takes the numbers, and gives up the log.
    pub(super) fn numbers_alone(&self, o: &mut Opened, lost: &Lost) {
        if lost.newest > o.visible {
            (o.visible, o.merged, o.blocks) = (lost.newest, lost.newest, lost.blocks);
        }
        (o.log, o.base) = ((lost.end, lost.end), o.visible);
        // Of some of them nobody knows which blocks they changed.
        o.changes_from = o.visible;
        self.no_table(o);
    }

    /// The log was damaged: it goes on behind all that was written, with nothing in it, and nobody is
    /// fed from it.
    pub(super) fn given_up(&self) -> Reading {
        let mut o = self.slot_alone();
        let head = if self.old { self.behind.end } else { self.slot.log_head };
        let last = self.behind.records.iter().rev().filter(|_| self.goes_beyond());
        let mut headers = last.filter_map(|r| match &r.body {
            Body::End(h) => h.filter(|h| Some(h.step.generation) == self.ours()),
            Body::Chunk(..) => None,
        });
        if let Some(h) = headers.next().filter(|_| self.primary()) {
            if h.step.to > o.visible {
                (o.visible, o.merged) = (h.step.to, h.step.to);
                o.blocks = BlockCount(h.volume_blocks);
            }
            o.changes_from = o.visible;
        }
        let shown = o.visible.max(o.hidden_until);
        let hides = !self.primary() && shown > o.merged;
        if hides {
            (o.visible, o.hidden_until) = (o.merged, shown);
        }
        if self.old && self.replica() {
            o.hidden_until = o.hidden_until.max(o.visible);
            o.changes_from = o.merged;
        }
        o.log = (head, head);
        o.base = if self.primary() { o.visible } else { o.merged };
        o.merges_from = self.replica().then_some(head);
        let unproven = self.replica() && (self.old || self.slot.seed.is_some());
        let worth = if unproven { self.worth_comparing(&o) } else { 0 };
        if unproven {
            let (from, view) = (o.merged, SetNumber::ZERO);
            let mark = SeedMark {
                over: None,
                from,
                next_block: worth,
                need: None,
                view,
                undo: false,
                held: None,
            };
            // Which sets its content is of, nobody knows: it is compared, whatever they are.
            o.seed = Some((mark, Some(SetNumber::ZERO)));
        }
        if self.primary() {
            self.no_table(&mut o);
        } else {
            self.judge_table_without_log(&mut o, hides, unproven.then_some(worth));
        }
        let (changed, passed) = (BTreeMap::new(), Vec::new());
        let primary = self.primary();
        Reading { opened: o, changed, damaged: true, old: false, passed, adopted: 0, primary }
    }

    /// How many blocks of content are perhaps the parent's.
    fn worth_comparing(&self, o: &Opened) -> u64 {
        match self.slot.seed {
            Some(mark) if mark.over.is_none() => mark.next_block,
            _ if o.merged == SetNumber::ZERO && o.visible == SetNumber::ZERO => 0,
            _ => o.blocks.0,
        }
    }
}
