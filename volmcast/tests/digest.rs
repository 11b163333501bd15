//! A digest that follows its blocks is the one that is added up from nothing, and shows every
//! difference.

use proptest::collection::vec;
use proptest::prelude::*;
use volmcast::digest::{BlockHash, Sum, hash_blocks, hashes_in, table_bytes};

const SHIFT: u8 = 9;
const BLOCK: usize = 1 << SHIFT;
const BLOCKS: usize = 48;

/// Content of one kind or another: zeroes often, the same in several places.
fn content(kind: u8) -> [u8; BLOCK] {
    let mut b = [kind & 0x0f; BLOCK];
    if kind > 0xc0 {
        b[usize::from(kind)] ^= 0x80;
    }
    b
}

#[derive(Clone)]
struct Node {
    blocks: Vec<u8>,
    table: Vec<BlockHash>,
    sum: Sum,
}

impl Node {
    fn new() -> Self {
        let table = vec![BlockHash::ZERO; BLOCKS];
        Self { blocks: vec![0; BLOCKS * BLOCK], table, sum: Sum::default() }
    }

    /// A step: the sum follows from the hashes before and after.
    fn step(&mut self, changes: &[(usize, u8)]) {
        let mut last: Vec<(usize, u8)> = Vec::new();
        for (b, kind) in changes {
            last.retain(|(x, _)| x != b);
            last.push((*b, *kind));
        }
        for (b, kind) in last {
            self.put(b, &content(kind));
        }
    }

    fn put(&mut self, b: usize, content: &[u8; BLOCK]) {
        let new = BlockHash::of(b as u64, content);
        self.sum = self.sum.minus(Sum::of(&[self.table[b]])).plus(new);
        self.table[b] = new;
        self.blocks[b * BLOCK..(b + 1) * BLOCK].copy_from_slice(content);
    }

    fn added_up(&self) -> Sum {
        Sum::of(&hash_blocks(0, &self.blocks, SHIFT))
    }

    /// Blocks whose content is not what the table says.
    fn damaged(&self) -> Vec<usize> {
        let now = hash_blocks(0, &self.blocks, SHIFT);
        (0..BLOCKS).filter(|b| now[*b] != self.table[*b]).collect()
    }
}

fn change() -> impl Strategy<Value = (usize, u8)> {
    (0..BLOCKS, any::<u8>())
}

proptest! {
    #[test]
    fn a_sum_that_follows_is_the_sum(steps in vec(vec(change(), 0..12), 1..20)) {
        let mut n = Node::new();
        for s in &steps {
            n.step(s);
            prop_assert_eq!(n.sum, n.added_up());
            let table = table_bytes(&n.table);
            prop_assert_eq!(Sum::of_table(&table), Some(n.sum));
            prop_assert_eq!(hashes_in(&table).collect::<Option<Vec<_>>>(), Some(n.table.clone()));
        }
        prop_assert!(n.damaged().is_empty());
        // larger, with nothing in the new part
        let longer = [&n.blocks[..], &[0; 4 * BLOCK]].concat();
        prop_assert_eq!(Sum::of(&hash_blocks(0, &longer, SHIFT)), n.sum);
    }
}

/// A hundred differences of each kind, every one found: by its own hash, or by the sum where content
/// and hash are wrong together.
#[test]
fn every_planted_difference_is_found() {
    let mut seed = 0x9e37_79b9_7f4a_7c15u64;
    let mut below = |n: usize| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        usize::try_from(seed % n as u64).expect("small")
    };
    let mut found = [0; 4];
    for _ in 0..100 {
        let mut n = Node::new();
        let filled = |n: usize| [u8::try_from(n).expect("small"); BLOCK];
        for b in 0..BLOCKS {
            n.put(b, &filled(b + 1));
        }
        let before = n.clone();
        let b = below(BLOCKS);
        n.put(b, &filled(100 + below(100)));
        let block = |b: usize| b * BLOCK..(b + 1) * BLOCK;

        let mut bit = n.clone();
        bit.blocks[below(BLOCKS * BLOCK)] ^= 1 << below(8);
        found[0] += u32::from(bit.damaged().len() == 1);

        let mut stale = n.clone();
        stale.blocks[block(b)].copy_from_slice(&before.blocks[block(b)]);
        found[1] += u32::from(stale.damaged() == [b]);

        let other = (b + 1 + below(BLOCKS - 1)) % BLOCKS;
        let mut swapped = n.clone();
        swapped.blocks[block(b)].copy_from_slice(&n.blocks[block(other)]);
        swapped.blocks[block(other)].copy_from_slice(&n.blocks[block(b)]);
        found[2] += u32::from(swapped.damaged().len() == 2 && swapped.added_up() != n.sum);

        let mut both = stale;
        both.table[b] = before.table[b];
        found[3] += u32::from(both.damaged().is_empty() && Sum::of(&both.table) != n.sum);
    }
    assert_eq!(found, [100; 4]);
}
