//! Writers that must not begin: the save volume has no room for what they change, or the open set is
//! as large as it may be.
//!
//! It is asked before a write takes its ticket, and by whoever can wait: nobody waits in here. A write
//! that began is not held. Marks and flags are only ordered by what follows them: a writer that
//! slips through adds no more than its write.

use super::table::{Capture, Notice};
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// The two reasons.
pub(super) struct Brim {
    /// The owner says so.
    held_back: AtomicBool,
    /// From how many modified bytes on.
    above: AtomicU64,
    /// There are as many; until the next cut.
    full: AtomicBool,
}

impl Default for Brim {
    fn default() -> Self {
        Self {
            held_back: AtomicBool::new(false),
            above: AtomicU64::new(u64::MAX),
            full: AtomicBool::new(false),
        }
    }
}

impl Brim {
    /// A cut took what was modified.
    pub(super) fn emptied(&self) {
        self.full.store(false, Ordering::SeqCst);
    }
}

impl Capture {
    /// Whether a writer is to wait before it begins.
    #[must_use]
    pub fn must_wait(&self) -> bool {
        let b = &self.brim;
        (b.held_back.load(Ordering::SeqCst) || self.is_brimful()) && !self.is_stopped()
    }

    /// Writers are to wait until this is taken back.
    pub fn hold_back(&self, hold: bool) {
        self.brim.held_back.store(hold, Ordering::SeqCst);
    }

    /// Writers are to wait for the next cut once more bytes than these are modified. `u64::MAX` lets
    /// go of those that wait.
    pub fn hold_above(&self, bytes: u64) {
        self.brim.above.store(bytes, Ordering::SeqCst);
        // Said by a writer that had not heard of it, or of what is no longer modified.
        if self.brim.full.load(Ordering::SeqCst) && self.dirty_bytes() <= bytes {
            self.brim.emptied();
        }
    }

    /// Writers wait for a cut.
    #[must_use]
    pub fn is_brimful(&self) -> bool {
        let b = &self.brim;
        b.full.load(Ordering::SeqCst) && b.above.load(Ordering::SeqCst) != u64::MAX
    }

    /// So many bytes are modified.
    pub(super) fn check_brim(&self, dirty: u64) {
        let b = &self.brim;
        if dirty > b.above.load(Ordering::Relaxed) && !b.full.swap(true, Ordering::SeqCst) {
            self.tell(Notice::Dirty);
        }
    }
}

#[cfg(all(test, not(shuttle)))]
mod tests {
    use super::*;
    use crate::capture::CaptureLimits;
    use crate::units::{BlockCount, BlockIndex, BlockSize};

    const KIB: u64 = 1 << 10;

    fn capture() -> Capture {
        let size = BlockSize::from_bytes(4 * KIB).expect("a block size");
        Capture::new(size, BlockCount(64), CaptureLimits::default())
    }

    #[test]
    fn writers_wait_for_a_cut_once_more_is_modified_than_may_be() {
        let c = capture();
        c.hold_above(8 * KIB);
        c.mark_range(BlockIndex(0), BlockCount(2));
        assert!(!c.must_wait() && !c.is_brimful(), "as much as may be");
        c.mark_range(BlockIndex(9), BlockCount(1));
        assert!(c.must_wait() && c.is_brimful());
        assert!(c.close_gate());
        c.cut().expect("a cut");
        assert!(!c.must_wait() && !c.is_brimful());
    }

    #[test]
    fn without_a_bound_those_that_wait_go_on() {
        let c = capture();
        c.hold_above(0);
        c.mark_range(BlockIndex(0), BlockCount(1));
        assert!(c.must_wait());
        c.hold_above(u64::MAX);
        assert!(!c.must_wait());
        c.mark_range(BlockIndex(1), BlockCount(9));
        assert!(!c.must_wait());
    }

    #[test]
    fn nobody_waits_for_a_volume_that_stopped() {
        let c = capture();
        c.hold_back(true);
        assert!(c.must_wait() && !c.is_brimful());
        c.stop();
        assert!(!c.must_wait(), "it gets its error");
        c.hold_back(false);
        assert!(!c.must_wait());
    }
}
