//! What the mailbox says of a forged log, and how much of it is left.

use bytes::Bytes;
use rcp::proto::clock::Wall;
use rcp::proto::frame::Branch;
use rcp::proto::ids::{Attempt, Generation, SetNumber};
use volmcast::digest::{HEAD_LEN, Sum, table_head};
use volmcast::mailbox::{
    ChangesMark, ConsumerMark, DigestMark, KeptState, Mailbox, SLOT_LEN, SeedMark, Settings,
    StageMark, TableMark,
};
use volmcast::units::{BlockCount, BlockSize, LogPos};

use super::super::super::node::{VOLUME, name};
use super::super::super::options::Kind;
use super::super::super::rng::Rng;
use super::story::{SHIFT, blocks_in, line};

/// Where the slot that rules stands in the story.
pub(super) struct Cut {
    pub kind: Kind,
    pub tail: LogPos,
    pub head: LogPos,
    /// Before the oldest step.
    pub base: SetNumber,
    /// The states that the log leads through, up to the head.
    pub chain: Vec<SetNumber>,
    /// The present line, and where it parted from the one before, if there was one.
    pub lines: (Generation, Option<SetNumber>),
    pub staged: Option<(SetNumber, bool)>,
}

/// A mailbox.
pub(super) struct Made {
    pub slot: Mailbox,
    pub mailbox: Bytes,
    pub hashes: Bytes,
    pub opens: Option<Generation>,
    pub marks: Vec<&'static str>,
    /// It is a writer's that has opened its line, with the newest slot lost.
    pub plain: bool,
}

/// Makes one up.
pub(super) fn make(cut: &Cut, rng: &mut Rng) -> Made {
    let mut marks = Vec::new();
    let primary = cut.kind == Kind::Primary;
    let mut slot = Mailbox {
        sequence: rng.range(2, 9),
        ..Mailbox::empty(VOLUME, BlockSize::from_shift(SHIFT).unwrap_or_default(), BlockCount(0))
    };
    let states = states(cut, rng);
    let ahead = states.visible > cut.chain.last().copied().unwrap_or_default();
    slot.settings = Settings::default();
    slot.had_children = rng.percent(50);
    slot.blocks = BlockCount(blocks_in(states.visible));
    (slot.log_tail, slot.log_head, slot.log_base) = (cut.tail.min(cut.head), cut.head, cut.base);
    (slot.visible, slot.merged) = (states.visible, states.merged);
    slot.attempt = Attempt(u32::try_from(rng.below(90)).unwrap_or(0));
    slot.changes = ChangesMark { epoch: 1, base: pick(&cut.chain, rng), ..ChangesMark::default() };
    slot.changes.base = slot.changes.base.min(slot.merged);
    history(&mut slot, cut, rng);
    let opens = opens(&mut slot, cut, rng, &mut marks);
    match cut.kind {
        Kind::Replica => replica(&mut slot, cut, rng, &mut marks),
        Kind::Primary if rng.percent(20) => slot.outgoing = slot.visible.next(),
        _ => {}
    }
    for child in 1..=rng.below(3) {
        let acked = cut.tail.0.saturating_sub(64) + rng.below(cut.head.since(cut.tail) + 200);
        let name = name(usize::try_from(child).unwrap_or(1));
        slot.consumers.push(ConsumerMark { name, acked: LogPos(acked) });
    }
    let hashes = table(&mut slot, cut, rng);
    let (mailbox, old) = lose(&mut slot, rng, &mut marks);
    let unopened = opens.is_some_and(|g| slot.history.iter().all(|b| b.generation != g));
    let plain = primary && old && !ahead && !unopened;
    Made { slot, mailbox, hashes, opens, marks, plain }
}

struct States {
    visible: SetNumber,
    merged: SetNumber,
}

fn pick(chain: &[SetNumber], rng: &mut Rng) -> SetNumber {
    rng.pick(chain).copied().unwrap_or_default()
}

/// What is shown, and what the base holds.
fn states(cut: &Cut, rng: &mut Rng) -> States {
    let last = cut.chain.last().copied().unwrap_or_default();
    if cut.kind != Kind::Replica {
        // Perhaps the log was given up since the set was finished.
        let visible = if rng.percent(6) { last.next() } else { last };
        return States { visible, merged: visible };
    }
    let visible = if rng.percent(60) { last } else { pick(&cut.chain, rng) };
    let merged = if rng.percent(40) { visible } else { pick(&cut.chain, rng).min(visible) };
    States { visible, merged }
}

fn history(slot: &mut Mailbox, cut: &Cut, rng: &mut Rng) {
    let by = |rng: &mut Rng| name(if rng.percent(25) { 0 } else { 9 });
    let (present, fork) = cut.lines;
    if let Some(forked_from) = fork {
        let (generation, opened_at) = (line(2), Wall(1));
        let first = SetNumber::ZERO;
        slot.history.push(Branch { generation, forked_from: first, opened_by: by(rng), opened_at });
        let opened_by = by(rng);
        slot.history.push(Branch { generation: present, forked_from, opened_by, opened_at });
    } else {
        let forked_from = SetNumber::ZERO;
        let (opened_by, opened_at) = (by(rng), Wall(1));
        slot.history.push(Branch { generation: present, forked_from, opened_by, opened_at });
    }
}

/// The line that a writer opens: one that the slot knows, or does not know yet.
fn opens(
    slot: &mut Mailbox,
    cut: &Cut,
    rng: &mut Rng,
    marks: &mut Vec<&'static str>,
) -> Option<Generation> {
    if cut.kind != Kind::Primary {
        return None;
    }
    match rng.below(100) {
        0..16 => {
            marks.push("forged: a line that is not opened yet");
            Some(line(7))
        }
        16..22 if slot.history.len() > 1 => {
            // What was written of it stands behind the head.
            marks.push("forged: a line that is not opened yet");
            slot.history.pop().map(|b| b.generation)
        }
        22..50 => rng.pick(&slot.history).map(|b| b.generation),
        _ => None,
    }
}

/// What only a replica has under way.
fn replica(slot: &mut Mailbox, cut: &Cut, rng: &mut Rng, marks: &mut Vec<&'static str>) {
    let last = cut.chain.last().copied().unwrap_or_default();
    if rng.percent(20) {
        slot.hidden_until = SetNumber(slot.visible.0 + rng.below(4));
    }
    if rng.percent(30) {
        for _ in 0..rng.range(1, 3) {
            let set = SetNumber(slot.merged.0 + rng.below(5));
            slot.kept.push(KeptState { pin: 0, set });
        }
    }
    let from = match cut.staged {
        Some((to, _)) if rng.percent(70) => Some(to),
        _ if rng.percent(20) => Some(SetNumber(last.0 + rng.below(2)).max(SetNumber(1))),
        _ => None,
    };
    if let Some(from) = from {
        marks.push("forged: a staged catch-up");
        let whole = cut.staged.is_some_and(|(_, whole)| whole) ^ rng.percent(25);
        let need = whole.then(|| SetNumber(from.0 + rng.below(3)));
        let next_block = if rng.percent(35) { 0 } else { 16 };
        let (over, view) = (slot.merged, from);
        slot.staged = Some(StageMark { over, from, next_block, need, view });
    } else if rng.percent(20) {
        marks.push("forged: a seed under way");
        let over = rng.percent(50).then_some(slot.merged);
        let need = rng.percent(40).then(|| last.next());
        slot.seed = Some(SeedMark {
            over,
            from: slot.merged,
            next_block: rng.pick(&[0, 16, 40]).copied().unwrap_or(0),
            need,
            view: SetNumber(rng.below(9)),
            undo: over.is_some() && rng.percent(20),
            held: None,
        });
    }
}

/// What the slot says of the table of hashes, and how that begins.
fn table(slot: &mut Mailbox, cut: &Cut, rng: &mut Rng) -> Bytes {
    let sum = Sum(u128::from(rng.draw()));
    let all = [TableMark::Absent, TableMark::Kept, TableMark::Known(sum), TableMark::Known(sum)];
    let table = rng.pick(&all).copied().unwrap_or_default();
    let hashed = match cut.kind {
        _ if table == TableMark::Absent => SetNumber::ZERO,
        Kind::Primary if rng.percent(50) => slot.visible,
        Kind::Primary => pick(&cut.chain, rng).min(slot.visible),
        Kind::Replica if rng.percent(10) => pick(&cut.chain, rng).min(slot.merged),
        _ => SetNumber::ZERO,
    };
    slot.digest = DigestMark { table, hashed, ..DigestMark::default() };
    if slot.seed.is_some() && rng.percent(20) {
        slot.digest.differs = DigestMark::UNPROVEN;
    } else if cut.kind == Kind::Replica && rng.percent(5) {
        slot.digest.differs = slot.visible;
    }
    match rng.percent(5) {
        true => Bytes::from(vec![0; HEAD_LEN]),
        false => Bytes::copy_from_slice(&table_head(VOLUME, SHIFT)[..]),
    }
}

/// Writes both slots, and loses the newer one, mostly; whether it is lost.
fn lose(slot: &mut Mailbox, rng: &mut Rng, marks: &mut Vec<&'static str>) -> (Bytes, bool) {
    let mut bytes = vec![0; 2 * SLOT_LEN];
    let put = |bytes: &mut Vec<u8>, m: &Mailbox| {
        let at = usize::try_from(Mailbox::slot_offset(m.sequence)).unwrap_or(0);
        let slot = m.encode().expect("a slot");
        bytes[at..at + slot.len()].copy_from_slice(&slot);
        at
    };
    let how = rng.below(100);
    if how < 20 {
        let before = Mailbox { sequence: slot.sequence - 1, ..slot.clone() };
        put(&mut bytes, &before);
        put(&mut bytes, slot);
        return (Bytes::from(bytes), false);
    }
    if how < 26 {
        marks.push("forged: the first commit");
        slot.sequence = 1;
    }
    let newer = Mailbox { sequence: slot.sequence + 1, ..slot.clone() };
    put(&mut bytes, slot);
    let lost = match how {
        20..23 | 26..40 => {
            marks.push("forged: a slot of zeroes");
            slot.sequence > 1
        }
        _ => {
            let at = put(&mut bytes, &newer);
            let bit = rng.pick(&[8, 21, 60, 90]).copied().unwrap_or(60);
            bytes[at + bit] ^= 8;
            marks.push("forged: a damaged slot");
            true
        }
    };
    (Bytes::from(bytes), lost)
}
