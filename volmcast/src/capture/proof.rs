//! Which blocks of a writer's content the table of hashes answers for.
//!
//! The table stands at a finished set, the content runs ahead of it. From a moment at which every
//! set that was cut is in the table, it answers for all blocks but those that are marked: those of
//! the open set, and those written later. A mark is made before the write, and the table changes only
//! in blocks that were written. So a reader who has read content and hash, and finds the block still
//! unmarked, has read what belongs together; if they differ, the block is damaged.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::Capture;
use super::table::Tables;
use crate::bitmap::AtomicBitmap;
use crate::units::BlockIndex;

/// Blocks in doubt that are remembered until somebody asks.
const MAX_DOUBTS: usize = 1 << 16;

/// What the table answered for when this was taken.
#[derive(Clone, Debug)]
pub struct Proof {
    written: Arc<AtomicBitmap>,
}

impl Capture {
    /// The table of hashes answers from now on for every block that is not marked and will not be
    /// written. Every set that was cut is in the table when this is called.
    pub fn prove(&self) {
        let mut owner = self.owner.lock();
        let written = Arc::new(AtomicBitmap::new(owner.blocks));
        let Tables { new, old, .. } = owner.tables.clone();
        let next = Tables { new, old, written: Some(written.clone()) };
        // From here on writers mark there; who marked before is found in the tables.
        self.install(&mut owner, next);
        for (first, count) in owner.tables.new.runs().chain(owner.tables.old.runs()) {
            written.set_range(first, count);
        }
    }

    /// The table of hashes answers for nothing: it is about to be made anew.
    pub fn prove_no_more(&self) {
        let mut owner = self.owner.lock();
        let next = Tables { written: None, ..owner.tables.clone() };
        self.install(&mut owner, next);
    }

    /// What the table of hashes answers for, if for anything. Take it before reading, and ask
    /// [`Capture::still_proves`] afterwards.
    #[must_use]
    pub fn proof(&self) -> Option<Proof> {
        let written = self.stripes.first()?.tables.read().written.clone()?;
        Some(Proof { written })
    }

    /// Whether what was read of a block since `proof` was taken, and its hash, belong together.
    #[must_use]
    pub fn still_proves(&self, proof: &Proof, block: BlockIndex) -> bool {
        let now = self.proof();
        now.is_some_and(|n| Arc::ptr_eq(&n.written, &proof.written)) && proof.proves(block)
    }

    /// A reader or writer found that a block is not what was stored there.
    pub fn doubt(&self, block: BlockIndex) {
        let mut d = self.doubts.lock();
        if d.len() < MAX_DOUBTS {
            d.insert(block.0);
        }
    }

    /// What was found since this was asked last.
    #[must_use]
    pub fn take_doubts(&self) -> BTreeSet<u64> {
        std::mem::take(&mut self.doubts.lock())
    }
}

impl Proof {
    /// The block was not written since.
    #[must_use]
    pub fn proves(&self, block: BlockIndex) -> bool {
        block.0 < self.written.len().0 && !self.written.test(block)
    }
}

#[cfg(all(test, not(shuttle)))]
mod tests {
    use super::super::CaptureLimits;
    use super::*;
    use crate::units::{BlockCount, BlockSize};

    fn capture() -> Capture {
        Capture::new(BlockSize::DEFAULT, BlockCount(16), CaptureLimits::default())
    }

    fn write(c: &Capture, block: u64) {
        let ticket = c.enter();
        let mut old = |_: BlockIndex, _: &mut [u8]| Ok(());
        c.before_write(&ticket, BlockIndex(block), BlockCount(1), &mut old).unwrap();
    }

    #[test]
    fn the_table_answers_for_what_nobody_wrote() {
        let c = capture();
        assert!(c.proof().is_none());
        write(&c, 1);
        c.prove();
        write(&c, 2);
        let p = c.proof().unwrap();
        let proven: Vec<_> = (0..17).filter(|b| p.proves(BlockIndex(*b))).collect();
        assert_eq!(proven, [vec![0], (3..16).collect()].concat());
        // A cut changes nothing: the set is not in the table yet.
        assert!(c.close_gate());
        c.cut().unwrap();
        assert!(!c.still_proves(&p, BlockIndex(1)) && c.still_proves(&p, BlockIndex(3)));
        write(&c, 3);
        assert!(!c.still_proves(&p, BlockIndex(3)));
        // It is made anew.
        c.prove_no_more();
        assert!(!c.still_proves(&p, BlockIndex(4)) && c.proof().is_none());
        c.prove();
        assert!(!c.still_proves(&p, BlockIndex(4)), "of another table");
    }

    #[test]
    fn growth_keeps_what_was_written() {
        let c = capture();
        c.prove();
        write(&c, 5);
        assert!(c.close_gate());
        c.grow(BlockCount(32)).unwrap();
        c.open_gate();
        let p = c.proof().unwrap();
        assert!(!p.proves(BlockIndex(5)) && p.proves(BlockIndex(6)) && p.proves(BlockIndex(31)));
    }
}
