//! What a slot says of what comes in or has left: a seed, a catch-up, a staged one, extents of a writer.

use bytes::{Buf, BufMut, BytesMut};
use rcp::proto::ids::SetNumber;

use super::{
    BRANCHES_SINCE, ChangesMark, FIRST_VERSION, HELD_SINCE, Held, Mailbox, STAGED_SINCE, SeedMark,
    StageMark, VIEWS_SINCE,
};
use crate::units::BlockCount;

/// What a slot says of a catch-up that is staged and has no end yet; one more if it has.
const STAGED: u64 = 9;
/// What a slot of a primary says whose extents have left with content of a set that is not finished.
const OUTGOING: u64 = 11;
/// Added to what a slot says of a catch-up: what was visible is read from a kept state.
const HELD: u64 = 16;
/// Added to that: the kept state goes with the catch-up.
const LENT: u64 = 32;

/// At most one of these is said by a slot.
#[derive(Default)]
pub(super) struct UnderWay {
    pub(super) seed: Option<SeedMark>,
    pub(super) staged: Option<StageMark>,
    pub(super) outgoing: SetNumber,
}

/// What comes or has left, and the list of changes.
pub(super) fn get_seed(
    version: u16,
    merged: SetNumber,
    b: &mut &[u8],
) -> Option<(UnderWay, ChangesMark)> {
    let (kind, from, next_block, need) = (
        b.try_get_u64_le().ok()?,
        b.try_get_u64_le().ok()?,
        b.try_get_u64_le().ok()?,
        b.try_get_u64_le().ok()?,
    );
    let over = if version == FIRST_VERSION { 0 } else { b.try_get_u64_le().ok()? };
    let view = if version < VIEWS_SINCE { 0 } else { b.try_get_u64_le().ok()? };
    let changes = if version == FIRST_VERSION {
        ChangesMark { base: merged, ..ChangesMark::default() }
    } else {
        let mut u64s = [0u64; 4];
        for x in &mut u64s {
            *x = b.try_get_u64_le().ok()?;
        }
        let [offset, bytes, epoch, base] = u64s;
        ChangesMark { offset, bytes, epoch, base: SetNumber(base) }
    };
    if kind == OUTGOING && version >= STAGED_SINCE {
        let zero = (from, next_block, need, over) == (0, 0, 0, 0) && view > 0;
        let under_way = UnderWay { outgoing: SetNumber(view), ..UnderWay::default() };
        return zero.then_some((under_way, changes));
    }
    if (STAGED..HELD).contains(&kind) {
        let (over, from, view) = (SetNumber(over), SetNumber(from), SetNumber(view));
        let need = match (kind - STAGED, need) {
            (0, 0) => None,
            (1, need) => Some(SetNumber(need)),
            _ => return None,
        };
        let staged = Some(StageMark { over, from, next_block, need, view });
        let under_way = UnderWay { staged, ..UnderWay::default() };
        return (version >= STAGED_SINCE).then_some((under_way, changes));
    }
    let blocks = BlockCount(0);
    let held = match kind & (HELD + LENT) {
        0 => None,
        HELD => Some(Held { blocks, lent: false }),
        h if h == HELD + LENT => Some(Held { blocks, lent: true }),
        _ => return None,
    };
    let kind = kind & !(HELD + LENT);
    if held.is_some() && (version < HELD_SINCE || !(3..=4).contains(&kind)) {
        return None;
    }
    let seed = (kind > 0).then(|| SeedMark {
        over: (kind > 2).then_some(SetNumber(over)),
        from: SetNumber(from),
        next_block,
        need: (kind.is_multiple_of(2)).then_some(SetNumber(need)),
        view: SetNumber(view),
        undo: kind > 4,
        held,
    });
    // What has no meaning is zero.
    let idle = match kind {
        0 => (from, next_block, need, over, view) == (0, 0, 0, 0, 0),
        1 => (need, over) == (0, 0),
        2 => over == 0,
        3 => need == 0 && version > FIRST_VERSION,
        4 => version > FIRST_VERSION,
        7 => need == 0 && version >= BRANCHES_SINCE,
        k => k == 8 && version >= BRANCHES_SINCE,
    };
    // Nobody knows what the extents may hold: a seed begins anew, with an empty base.
    let seed = match seed {
        Some(s) if version < VIEWS_SINCE => {
            Some(SeedMark { over: None, next_block: 0, need: None, ..s })
        }
        s => s,
    };
    idle.then_some((UnderWay { seed, ..UnderWay::default() }, changes))
}

/// The first six numbers of that.
pub(super) fn put_under_way(b: &mut BytesMut, m: &Mailbox) {
    match (&m.seed, &m.staged) {
        (None, None) if m.outgoing > SetNumber::ZERO => {
            b.put_u64_le(OUTGOING);
            b.put_bytes(0, 32);
            b.put_u64_le(m.outgoing.0);
        }
        (None, None) => b.put_bytes(0, 48),
        (None, Some(s)) => {
            b.put_u64_le(STAGED + u64::from(s.need.is_some()));
            b.put_u64_le(s.from.0);
            b.put_u64_le(s.next_block);
            b.put_u64_le(s.need.map_or(0, |n| n.0));
            b.put_u64_le(s.over.0);
            b.put_u64_le(s.view.0);
        }
        (Some(s), _) => {
            let end = u64::from(s.need.is_some());
            let over = 2 * u64::from(s.over.is_some());
            let held = s.held.map_or(0, |h| HELD + if h.lent { LENT } else { 0 });
            b.put_u64_le(1 + end + over + 4 * u64::from(s.undo) + held);
            b.put_u64_le(s.from.0);
            b.put_u64_le(s.next_block);
            b.put_u64_le(s.need.map_or(0, |n| n.0));
            b.put_u64_le(s.over.map_or(0, |n| n.0));
            b.put_u64_le(s.view.0);
        }
    }
}

/// Size of the state that readers see under the catch-up of the slot; zero if they see none.
pub(super) fn get_held(version: u16, seed: Option<&mut SeedMark>, b: &mut &[u8]) -> Option<()> {
    let shown = if version < HELD_SINCE { 0 } else { b.try_get_u64_le().ok()? };
    let held = seed.and_then(|s| s.held.as_mut());
    if held.is_some() != (shown > 0) {
        return None;
    }
    if let Some(held) = held {
        held.blocks = BlockCount(shown);
    }
    Some(())
}
