//! Which writer's line a state is on, and what two nodes that meet have in common (FAIL-01, F28).
//!
//! A history is the list of a volume's lines, oldest first. A line begins where a node was made the
//! writer: it shares everything up to `forked_from` with the line before it. From two histories
//! follow the last common state and which of the two is newer. Equal counters with different ids
//! mean that two nodes were made the writer without knowing of each other.

use rcp::proto::frame::Branch;
use rcp::proto::ids::{Generation, SetNumber};

/// What another node's history is to ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Relation {
    /// The same lines.
    Same,
    /// It knows a newer line; states up to `fork` are common.
    Newer {
        /// Last common state.
        fork: SetNumber,
    },
    /// We know a newer line.
    Older {
        /// Last common state.
        fork: SetNumber,
    },
    /// Two writers with one counter: neither is newer.
    Split {
        /// Last common state.
        fork: SetNumber,
    },
}

/// Every state: two histories that do not part have all of them in common.
const ALL: SetNumber = SetNumber(u64::MAX);

/// Compares our history with another node's.
#[must_use]
pub fn relate(ours: &[Branch], theirs: &[Branch]) -> Relation {
    let same = |(a, b): &(&Branch, &Branch)| {
        a.generation == b.generation && a.forked_from == b.forked_from
    };
    let shared = ours.iter().zip(theirs).take_while(same).count();
    let (a, b) = (ours.get(shared), theirs.get(shared));
    let fork = if shared > 0 {
        // A later line may begin before the next one does.
        let apart = ours[shared..].iter().chain(&theirs[shared..]);
        apart.map(|b| b.forked_from).min().unwrap_or(ALL)
    } else if ours.is_empty() || theirs.is_empty() {
        // Nobody who knows no line yet contradicts one.
        ALL
    } else {
        SetNumber::ZERO
    };
    let counter = |h: &[Branch]| h.last().map_or(0, |b| b.generation.counter);
    match (a, b) {
        (None, None) => Relation::Same,
        (None, Some(_)) => Relation::Newer { fork },
        (Some(_), None) => Relation::Older { fork },
        (Some(_), Some(_)) => match counter(ours).cmp(&counter(theirs)) {
            std::cmp::Ordering::Less => Relation::Newer { fork },
            std::cmp::Ordering::Greater => Relation::Older { fork },
            std::cmp::Ordering::Equal => Relation::Split { fork },
        },
    }
}

/// Most lines of a history.
pub const MAX_LINES: usize = 512;
/// How far the counter of one line may be above that of the line before it: nobody brings counters
/// to their end.
pub const MAX_JUMP: u32 = 1 << 20;

/// Whether a history that another node tells can be one: its counters rise, line by line, and not by
/// leaps, also above those of `ours`.
///
/// # Errors
/// What is wrong with it, in words.
pub fn plausible(ours: &[Branch], theirs: &[Branch]) -> Result<(), String> {
    if theirs.len() > MAX_LINES {
        return Err(format!("{} lines are more than {MAX_LINES}", theirs.len()));
    }
    let counters = || theirs.iter().map(|b| b.generation.counter);
    for (before, after) in counters().zip(counters().skip(1)) {
        if after <= before {
            return Err(format!("line {after} follows line {before}"));
        }
    }
    let known = ours.iter().map(|b| b.generation.counter).max().unwrap_or(0);
    let steps = std::iter::once(known).chain(counters()).zip(counters());
    for (before, after) in steps {
        if after.saturating_sub(before.max(known)) > MAX_JUMP {
            return Err(format!("line {after} comes right after line {}", before.max(known)));
        }
    }
    Ok(())
}

/// The line that a state is on: the newest that begins before it.
#[must_use]
pub fn line_of(history: &[Branch], set: SetNumber) -> Option<Generation> {
    let found = history.iter().rev().find(|b| b.forked_from < set);
    found.or(history.first()).map(|b| b.generation)
}

/// Whether a state that somebody holds on line `generation` is in this history.
#[must_use]
pub fn holds(history: &[Branch], generation: Generation, state: SetNumber) -> bool {
    let Some(at) = history.iter().position(|b| b.generation == generation) else { return false };
    // Later lines may begin before the next one does.
    history[at + 1..].iter().all(|b| state <= b.forked_from)
}

#[cfg(test)]
mod tests {
    use rcp::proto::clock::Wall;
    use rcp::proto::ids::NodeName;

    use super::*;

    fn line(counter: u32, id: u8, from: u64) -> Branch {
        Branch {
            generation: Generation { counter, id: [id; 16] },
            forked_from: SetNumber(from),
            opened_by: NodeName::new("n").expect("valid"),
            opened_at: Wall(0),
        }
    }

    #[test]
    fn a_longer_history_is_newer_and_parts_where_its_next_line_begins() {
        let old = [line(1, 1, 0)];
        let new = [line(1, 1, 0), line(2, 2, 10)];
        assert_eq!(relate(&old, &new), Relation::Newer { fork: SetNumber(10) });
        assert_eq!(relate(&new, &old), Relation::Older { fork: SetNumber(10) });
        assert_eq!(relate(&new, &new), Relation::Same);
        assert_eq!(relate(&[], &new), Relation::Newer { fork: ALL });
        assert_eq!(relate(&new, &[]), Relation::Older { fork: ALL });
    }

    #[test]
    fn one_counter_with_two_ids_is_a_split_and_a_higher_one_ends_it() {
        let a = [line(1, 1, 0), line(2, 2, 10)];
        let b = [line(1, 1, 0), line(2, 3, 7)];
        assert_eq!(relate(&a, &b), Relation::Split { fork: SetNumber(7) });
        let resolved = [line(1, 1, 0), line(2, 2, 10), line(3, 4, 12)];
        assert_eq!(relate(&b, &resolved), Relation::Newer { fork: SetNumber(7) });
        assert_eq!(relate(&resolved, &b), Relation::Older { fork: SetNumber(7) });
        let other = [line(1, 9, 0)];
        assert_eq!(relate(&old_first(), &other), Relation::Split { fork: SetNumber::ZERO });
    }

    #[test]
    fn a_later_line_that_begins_earlier_is_where_histories_part() {
        let old = [line(1, 1, 0)];
        let new = [line(1, 1, 0), line(2, 2, 10), line(3, 3, 7)];
        assert_eq!(relate(&old, &new), Relation::Newer { fork: SetNumber(7) });
        assert_eq!(relate(&new, &old), Relation::Older { fork: SetNumber(7) });
        assert_eq!(relate(&new[..2], &new), Relation::Newer { fork: SetNumber(7) });
        let a = [line(1, 1, 0), line(2, 2, 10), line(4, 4, 5)];
        let b = [line(1, 1, 0), line(2, 3, 12), line(5, 5, 8)];
        assert_eq!(relate(&a, &b), Relation::Newer { fork: SetNumber(5) });
        assert_eq!(relate(&b, &a), Relation::Older { fork: SetNumber(5) });
    }

    #[test]
    fn a_history_rises_line_by_line_and_not_by_leaps() {
        let ours = [line(1, 1, 0), line(7, 2, 10)];
        let told = |c: &[u32]| c.iter().map(|c| line(*c, 1, 0)).collect::<Vec<_>>();
        for good in [&[][..], &[1], &[1, 2, 8], &[1, 7 + MAX_JUMP], &[1, 9, 9 + MAX_JUMP]] {
            assert_eq!(plausible(&ours, &told(good)), Ok(()), "{good:?}");
        }
        for bad in [&[1, 1][..], &[3, 2], &[u32::MAX], &[1, 8 + MAX_JUMP], &[1, 2, u32::MAX]] {
            assert!(plausible(&ours, &told(bad)).is_err(), "{bad:?}");
        }
        assert!(plausible(&[], &told(&[1; MAX_LINES + 1])).is_err());
    }

    fn old_first() -> [Branch; 1] {
        [line(1, 1, 0)]
    }

    #[test]
    fn a_state_is_on_the_newest_line_that_begins_before_it() {
        let h = [line(1, 1, 0), line(2, 2, 10), line(3, 3, 12)];
        for (set, counter) in [(0, 1), (1, 1), (10, 1), (11, 2), (12, 2), (13, 3)] {
            assert_eq!(line_of(&h, SetNumber(set)).map(|g| g.counter), Some(counter), "{set}");
        }
        let g = |n: usize| h[n].generation;
        assert!(holds(&h, g(0), SetNumber(10)));
        assert!(!holds(&h, g(0), SetNumber(11)), "past the fork");
        assert!(holds(&h, g(1), SetNumber(12)));
        assert!(holds(&h, g(2), SetNumber(99)));
        assert!(!holds(&h, Generation { counter: 2, id: [7; 16] }, SetNumber(1)), "unknown line");
    }
}
