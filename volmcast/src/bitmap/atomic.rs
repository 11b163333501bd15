//! A bitmap that threads mark without locks.
//!
//! A tree of width 64: a *leaf* is 64 words (4096 blocks) and one summary word; a *branch* is 64
//! leaves (2^18 blocks) and one summary word; the top has one slot per branch. Leaves and branches
//! come into being with the first mark below them and stay until the bitmap is dropped, so that a
//! 64 TiB volume of 4 KiB blocks costs 1 MiB empty, and under 2 KiB per lonely mark.
//!
//! Summary bits say "may hold marks": they are set with the first mark and never cleared. Marks
//! and clears are exact; [`AtomicBitmap::count`] may lag behind marks that are being made, but
//! never falls below the truth once no thread is marking.

use std::sync::OnceLock;

use super::Run;
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::units::{BlockCount, BlockIndex};

/// Words in a leaf, leaves in a branch. The model checker tracks every word, so it gets few.
#[cfg(not(shuttle))]
const WIDTH_SHIFT: u32 = 6;
#[cfg(shuttle)]
const WIDTH_SHIFT: u32 = 1;
const WIDTH: usize = 1 << WIDTH_SHIFT;
const LEAF_SHIFT: u32 = 6 + WIDTH_SHIFT;
const BRANCH_SHIFT: u32 = LEAF_SHIFT + WIDTH_SHIFT;

struct Leaf {
    summary: AtomicU64,
    words: [AtomicU64; WIDTH],
}

struct Branch {
    summary: AtomicU64,
    leaves: [OnceLock<Box<Leaf>>; WIDTH],
}

/// One bit per block of a volume; see the module.
pub struct AtomicBitmap {
    blocks: u64,
    count: AtomicU64,
    top: Vec<OnceLock<Box<Branch>>>,
}

fn zero() -> AtomicU64 {
    AtomicU64::new(0)
}

fn word_of(b: u64) -> usize {
    ((b >> 6) & (WIDTH as u64 - 1)) as usize
}

fn leaf_of(b: u64) -> usize {
    ((b >> LEAF_SHIFT) & (WIDTH as u64 - 1)) as usize
}

/// Bits `from..to` of a word, `to` at most 64.
fn mask(from: u32, to: u32) -> u64 {
    debug_assert!(from < to && to <= 64);
    (u64::MAX >> (64 - (to - from))) << from
}

impl AtomicBitmap {
    /// Empty, for blocks `0..blocks`.
    #[must_use]
    pub fn new(blocks: BlockCount) -> Self {
        let branches = usize::try_from(blocks.0.div_ceil(1 << BRANCH_SHIFT)).unwrap_or(usize::MAX);
        let mut top = Vec::new();
        top.resize_with(branches, OnceLock::new);
        Self { blocks: blocks.0, count: zero(), top }
    }

    /// How many blocks it has room for.
    #[must_use]
    pub fn len(&self) -> BlockCount {
        BlockCount(self.blocks)
    }

    /// Whether it is for a volume without blocks; says nothing about marks.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.blocks == 0
    }

    /// Marked blocks.
    #[must_use]
    pub fn count(&self) -> BlockCount {
        BlockCount(self.count.load(Ordering::Acquire))
    }

    /// Whether the block is marked; blocks past the end never are.
    ///
    /// A `false` synchronises with the [`clear`](Self::clear) that made it so.
    #[must_use]
    pub fn test(&self, block: BlockIndex) -> bool {
        self.leaf(block.0).is_some_and(|l| {
            l.words[word_of(block.0)].load(Ordering::Acquire) >> (block.0 & 63) & 1 == 1
        })
    }

    /// Whether any block of the range is marked.
    #[must_use]
    pub fn any(&self, first: BlockIndex, count: BlockCount) -> bool {
        self.next_run(first, BlockCount(1))
            .is_some_and(|(b, _)| b.0 < first.0.saturating_add(count.0))
    }

    /// Marks a block; true if it was not marked. Blocks past the end are ignored (false).
    pub fn set(&self, block: BlockIndex) -> bool {
        self.set_range(block, BlockCount(1)).0 == 1
    }

    /// Marks a range, cut off at the end of the volume; returns how many were not marked before.
    pub fn set_range(&self, first: BlockIndex, count: BlockCount) -> BlockCount {
        let end = first.0.saturating_add(count.0).min(self.blocks);
        let (mut at, mut newly) = (first.0, 0);
        while at < end {
            let stop = ((at | 63) + 1).min(end);
            newly += u64::from(self.set_bits(at, word_mask(at, stop)));
            at = stop;
        }
        if newly != 0 {
            self.count.fetch_add(newly, Ordering::AcqRel);
        }
        BlockCount(newly)
    }

    /// Clears a block; true if it was marked. Of several racing clears exactly one gets true.
    pub fn clear(&self, block: BlockIndex) -> bool {
        self.clear_range(block, BlockCount(1)).0 == 1
    }

    /// Clears a range; returns how many were marked.
    pub fn clear_range(&self, first: BlockIndex, count: BlockCount) -> BlockCount {
        let mut cleared = 0;
        self.take_words(first, count, |_, got| cleared += u64::from(got.count_ones()));
        BlockCount(cleared)
    }

    /// Clears the marks of a range and returns them as maximal runs: the atomic "these are mine".
    pub fn take_range(&self, first: BlockIndex, count: BlockCount) -> Vec<Run> {
        let mut runs: Vec<Run> = Vec::new();
        self.take_words(first, count, |b, mut got| {
            while got != 0 {
                let from = got.trailing_zeros();
                let n = (got >> from).trailing_ones();
                got &= !mask(from, from + n);
                let start = b + u64::from(from);
                match runs.last_mut() {
                    Some((s, c)) if s.0 + c.0 == start => c.0 += u64::from(n),
                    _ => runs.push((BlockIndex(start), BlockCount(u64::from(n)))),
                }
            }
        });
        runs
    }

    /// Clears everything.
    pub fn clear_all(&self) {
        self.clear_range(BlockIndex(0), BlockCount(self.blocks));
    }

    /// The first marked block at or after `from`, with the marked blocks that follow it directly,
    /// at most `max` (at least one) of them.
    #[must_use]
    pub fn next_run(&self, from: BlockIndex, max: BlockCount) -> Option<Run> {
        let first = self.next_marked(from.0)?;
        let limit = first.saturating_add(max.0.max(1)).min(self.blocks);
        let mut end = first + 1;
        while end < limit {
            let Some(leaf) = self.leaf(end) else { break };
            let ones = (leaf.words[word_of(end)].load(Ordering::Acquire) >> (end & 63))
                .trailing_ones()
                .min(64 - (end & 63) as u32);
            end += u64::from(ones);
            if ones == 0 || end & 63 != 0 {
                break;
            }
        }
        Some((BlockIndex(first), BlockCount(end.min(limit) - first)))
    }

    /// All runs in rising order, as they are met.
    pub fn runs(&self) -> impl Iterator<Item = Run> + '_ {
        let mut at = 0;
        std::iter::from_fn(move || {
            let (first, count) = self.next_run(BlockIndex(at), BlockCount(u64::MAX))?;
            at = first.0 + count.0;
            Some((first, count))
        })
    }

    fn next_marked(&self, from: u64) -> Option<u64> {
        let mut at = from;
        while at < self.blocks {
            let Some(branch) = self.top.get((at >> BRANCH_SHIFT) as usize)?.get() else {
                at = (at | ((1 << BRANCH_SHIFT) - 1)) + 1;
                continue;
            };
            let leaves = branch.summary.load(Ordering::Acquire) >> leaf_of(at);
            if leaves & 1 == 0 {
                at = skip(at, LEAF_SHIFT, leaves, leaf_of(at));
                continue;
            }
            let Some(leaf) = branch.leaves[leaf_of(at)].get() else {
                at = (at | ((1 << LEAF_SHIFT) - 1)) + 1;
                continue;
            };
            let words = leaf.summary.load(Ordering::Acquire) >> word_of(at);
            if words & 1 == 0 {
                at = skip(at, 6, words, word_of(at));
                continue;
            }
            let bits = leaf.words[word_of(at)].load(Ordering::Acquire) >> (at & 63);
            if bits != 0 {
                let found = at + u64::from(bits.trailing_zeros());
                return (found < self.blocks).then_some(found);
            }
            at = (at | 63) + 1;
        }
        None
    }

    fn leaf(&self, b: u64) -> Option<&Leaf> {
        let branch = self.top.get((b >> BRANCH_SHIFT) as usize)?.get()?;
        branch.leaves[leaf_of(b)].get().map(AsRef::as_ref)
    }

    fn leaf_or_new(&self, b: u64) -> Option<&Leaf> {
        let branch = self.top.get((b >> BRANCH_SHIFT) as usize)?.get_or_init(|| {
            Box::new(Branch { summary: zero(), leaves: std::array::from_fn(|_| OnceLock::new()) })
        });
        let leaf = branch.leaves[leaf_of(b)].get_or_init(|| {
            Box::new(Leaf { summary: zero(), words: std::array::from_fn(|_| zero()) })
        });
        raise(&branch.summary, 1 << leaf_of(b));
        Some(leaf)
    }

    /// Sets `bits` of the word of block `b`; returns how many were new.
    fn set_bits(&self, b: u64, bits: u64) -> u32 {
        let Some(leaf) = self.leaf_or_new(b) else { return 0 };
        let word = &leaf.words[word_of(b)];
        // A hot block is marked already: then its line stays shared between the cores.
        if word.load(Ordering::Acquire) & bits == bits {
            return 0;
        }
        // The summary first: whoever sees the mark's count can find the mark.
        raise(&leaf.summary, 1 << word_of(b));
        (bits & !word.fetch_or(bits, Ordering::AcqRel)).count_ones()
    }

    /// Clears `bits` of the word of block `b`; returns those that were set.
    fn take(&self, b: u64, bits: u64) -> u64 {
        let Some(leaf) = self.leaf(b) else { return 0 };
        let word = &leaf.words[word_of(b)];
        if word.load(Ordering::Acquire) & bits == 0 {
            return 0;
        }
        let got = word.fetch_and(!bits, Ordering::AcqRel) & bits;
        if got != 0 {
            self.count.fetch_sub(u64::from(got.count_ones()), Ordering::AcqRel);
        }
        got
    }

    /// Clears the range; calls `f` with the block of a word's first bit and the bits cleared in it.
    fn take_words(&self, first: BlockIndex, count: BlockCount, mut f: impl FnMut(u64, u64)) {
        let end = first.0.saturating_add(count.0).min(self.blocks);
        let mut at = first.0;
        while let Some(b) = self.next_marked(at).filter(|b| *b < end) {
            let stop = ((b | 63) + 1).min(end);
            f(b & !63, self.take(b, word_mask(b, stop)));
            at = stop;
        }
    }
}

/// The bits of blocks `from..to`, which share a word.
fn word_mask(from: u64, to: u64) -> u64 {
    let low = (from & 63) as u32;
    mask(low, low + (to - from) as u32)
}

/// Sets a summary bit without writing to the line when it is set.
fn raise(summary: &AtomicU64, bit: u64) {
    if summary.load(Ordering::Acquire) & bit == 0 {
        summary.fetch_or(bit, Ordering::AcqRel);
    }
}

/// From `at` to the next child that `rest` (summary shifted down to the current child) allows.
fn skip(at: u64, shift: u32, rest: u64, index: usize) -> u64 {
    let step = if rest == 0 { (WIDTH - index) as u64 } else { u64::from(rest.trailing_zeros()) };
    ((at >> shift) + step) << shift
}

impl std::fmt::Debug for AtomicBitmap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "AtomicBitmap({} of {})", self.count().0, self.blocks)
    }
}

#[cfg(all(test, not(shuttle)))]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn b(n: u64) -> BlockIndex {
        BlockIndex(n)
    }

    #[test]
    fn the_largest_volume_is_cheap_and_searchable() {
        let m = AtomicBitmap::new(BlockCount(1 << 34));
        assert_eq!(m.next_run(b(0), BlockCount(9)), None);
        for n in [0, 1 << 18, (1 << 34) - 1] {
            assert!(m.set(b(n)) && !m.set(b(n)) && m.test(b(n)));
        }
        assert!(!m.set(b(1 << 34)) && !m.test(b(1 << 34)), "past the end");
        let runs: Vec<u64> = m.runs().map(|(f, c)| f.0 * 2 + c.0 - 1).collect();
        assert_eq!(runs, [0, 1 << 19, (1 << 35) - 2]);
        assert_eq!(m.count(), BlockCount(3));
        m.clear_all();
        assert_eq!((m.count().0, m.runs().count()), (0, 0));
    }

    proptest! {
        #[test]
        fn it_is_a_set(ops in prop::collection::vec((0u64..70_000, 1u64..9000, 0u8..5), 1..40)) {
            let m = AtomicBitmap::new(BlockCount(65_000));
            let mut model = BTreeSet::new();
            for (first, n, op) in ops {
                let range = first..(first + n).min(65_000);
                let (f, c) = (b(first), BlockCount(n));
                match op {
                    0 | 1 => {
                        let new = range.filter(|x| model.insert(*x)).count() as u64;
                        prop_assert_eq!(m.set_range(f, c).0, new);
                    }
                    2 => {
                        let gone = range.filter(|x| model.remove(x)).count() as u64;
                        prop_assert_eq!(m.clear_range(f, c).0, gone);
                    }
                    3 => {
                        let gone: Vec<u64> = range.filter(|x| model.remove(x)).collect();
                        let runs = m.take_range(f, c);
                        let got: Vec<u64> =
                            runs.iter().flat_map(|(f, c)| f.0..f.0 + c.0).collect();
                        prop_assert_eq!(got, gone);
                    }
                    _ => {
                        let want = model.range(first..).next().copied();
                        let got = m.next_run(f, c);
                        prop_assert_eq!(got.map(|r| r.0.0), want);
                        if let Some((s, k)) = got {
                            let mut e = s.0;
                            while model.contains(&e) && e - s.0 < n { e += 1; }
                            prop_assert_eq!(k.0, e - s.0);
                        }
                        prop_assert_eq!(m.any(f, c), range.clone().any(|x| model.contains(&x)));
                    }
                }
                prop_assert_eq!(m.count().0, model.len() as u64);
            }
        }
    }
}
