//! A set of blocks as maximal runs: what changed in a finished set, a union of such, a difference.

use std::collections::BTreeMap;

use super::Run;
use crate::units::{BlockCount, BlockIndex};

/// Blocks, kept as maximal runs (never adjacent, never overlapping) in rising order.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct BlockSet {
    /// First block → block after the last.
    runs: BTreeMap<u64, u64>,
    count: u64,
}

impl BlockSet {
    /// No blocks.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// How many blocks.
    #[must_use]
    pub fn count(&self) -> BlockCount {
        BlockCount(self.count)
    }

    /// How many runs; memory and stored size go with it.
    #[must_use]
    pub fn run_count(&self) -> usize {
        self.runs.len()
    }

    /// Whether there is no block in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Whether the block is in it.
    #[must_use]
    pub fn contains(&self, block: BlockIndex) -> bool {
        self.runs.range(..=block.0).next_back().is_some_and(|(_, end)| block.0 < *end)
    }

    /// Adds one block; true if it was not in it.
    pub fn insert(&mut self, block: BlockIndex) -> bool {
        !self.contains(block) && self.insert_range(block, BlockCount(1)).0 == 1
    }

    /// Adds a range; returns how many were not in it.
    pub fn insert_range(&mut self, first: BlockIndex, count: BlockCount) -> BlockCount {
        if count.0 == 0 {
            return BlockCount(0);
        }
        let before = self.count;
        let (mut from, mut to) = (first.0, first.0.saturating_add(count.0));
        // Swallow every run that touches the new one, from the right.
        while let Some((&s, &e)) = self.runs.range(..=to).next_back() {
            if e < from {
                break;
            }
            self.runs.remove(&s);
            self.count -= e - s;
            from = from.min(s);
            to = to.max(e);
        }
        self.runs.insert(from, to);
        self.count += to - from;
        BlockCount(self.count - before)
    }

    /// Removes a range; returns how many were in it.
    pub fn remove_range(&mut self, first: BlockIndex, count: BlockCount) -> BlockCount {
        if count.0 == 0 {
            return BlockCount(0);
        }
        let before = self.count;
        let (from, to) = (first.0, first.0.saturating_add(count.0));
        while let Some((&s, &e)) = self.runs.range(..to).next_back() {
            if e <= from {
                break;
            }
            self.runs.remove(&s);
            self.count -= e - s;
            for (a, z) in [(s, from.min(e)), (to.max(s), e)] {
                if a < z {
                    self.runs.insert(a, z);
                    self.count += z - a;
                }
            }
            if s <= from {
                break;
            }
        }
        BlockCount(before - self.count)
    }

    /// Adds every block of `other`.
    pub fn union(&mut self, other: &Self) {
        for (first, count) in other.runs() {
            self.insert_range(first, count);
        }
    }

    /// The runs, in rising order.
    pub fn runs(&self) -> impl DoubleEndedIterator<Item = Run> + '_ {
        self.runs.iter().map(|(s, e)| (BlockIndex(*s), BlockCount(e - s)))
    }

    /// The blocks, in rising order.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = BlockIndex> + '_ {
        self.runs.iter().flat_map(|(s, e)| *s..*e).map(BlockIndex)
    }

    /// The first block at or after `from`, with those that follow it directly, at most `max`.
    #[must_use]
    pub fn next_run(&self, from: BlockIndex, max: BlockCount) -> Option<Run> {
        let inside = self.runs.range(..=from.0).next_back().filter(|(_, e)| from.0 < **e);
        let (first, end) = match inside {
            Some((_, e)) => (from.0, *e),
            None => self.runs.range(from.0..).next().map(|(s, e)| (*s, *e))?,
        };
        Some((BlockIndex(first), BlockCount((end - first).min(max.0.max(1)))))
    }
}

impl FromIterator<BlockIndex> for BlockSet {
    fn from_iter<I: IntoIterator<Item = BlockIndex>>(blocks: I) -> Self {
        let mut set = Self::new();
        for b in blocks {
            set.insert_range(b, BlockCount(1));
        }
        set
    }
}

impl FromIterator<Run> for BlockSet {
    fn from_iter<I: IntoIterator<Item = Run>>(runs: I) -> Self {
        let mut set = Self::new();
        for (first, count) in runs {
            set.insert_range(first, count);
        }
        set
    }
}

impl std::fmt::Debug for BlockSet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.runs.iter().map(|(s, e)| *s..*e)).finish()
    }
}

#[cfg(all(test, not(shuttle)))]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn it_is_a_set(ops in prop::collection::vec((0u64..200, 0u64..40, any::<bool>()), 0..60)) {
            let mut set = BlockSet::new();
            let mut model = BTreeSet::new();
            for (first, n, add) in ops {
                let (f, c) = (BlockIndex(first), BlockCount(n));
                if add {
                    let new = (first..first + n).filter(|b| model.insert(*b)).count();
                    prop_assert_eq!(set.insert_range(f, c).0, new as u64);
                } else {
                    let gone = (first..first + n).filter(|b| model.remove(b)).count();
                    prop_assert_eq!(set.remove_range(f, c).0, gone as u64);
                }
                prop_assert!(set.iter().map(|b| b.0).eq(model.iter().copied()));
                prop_assert_eq!(set.count().0, model.len() as u64);
                let ends: Vec<u64> = set.runs().map(|(s, c)| s.0 + c.0).collect();
                prop_assert!(set.runs().skip(1).zip(ends).all(|((s, _), e)| s.0 > e), "maximal");
                let next = set.next_run(f, BlockCount(5));
                prop_assert_eq!(next.map(|r| r.0.0), model.range(first..).next().copied());
                prop_assert_eq!(set.contains(f), model.contains(&first));
            }
            let (mut even, odd): (BlockSet, BlockSet) = (
                model.iter().filter(|b| **b % 2 == 0).map(|b| BlockIndex(*b)).collect(),
                model.iter().filter(|b| **b % 2 == 1).map(|b| BlockIndex(*b)).collect(),
            );
            even.union(&odd);
            prop_assert_eq!(even, set);
        }
    }
}
