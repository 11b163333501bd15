//! From endless log positions to offsets in the file, and back to nowhere else.

use crate::units::LogPos;

/// Records begin at multiples of this many bytes, so that a pad record always fits.
pub const ALIGN: u64 = 64;

/// The page in which a record ends may be completed with zeroes when the record is written.
pub const PAGE: u64 = PAGE_LEN as u64;
/// The same, of memory.
pub const PAGE_LEN: usize = 4096;

/// Smallest capacity of a node's save volume: a few full chunks must fit beside each other. Checked
/// where a volume's files are opened; the arithmetic here holds for any ring of a few KiB.
pub const MIN_CAPACITY: u64 = 8 << 20;
const MIN_RING: u64 = 4 << 10;

/// The arithmetic of a ring of fixed capacity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ring {
    capacity: u64,
}

impl Ring {
    /// A ring of `capacity` bytes, rounded down to [`ALIGN`]; `None` below 4 KiB.
    #[must_use]
    pub fn new(capacity: u64) -> Option<Self> {
        (capacity >= MIN_RING).then_some(Self { capacity: capacity / ALIGN * ALIGN })
    }

    /// Bytes the ring holds.
    #[must_use]
    pub fn capacity(self) -> u64 {
        self.capacity
    }

    /// Offset in the file of a log position.
    #[must_use]
    pub fn offset(self, pos: LogPos) -> u64 {
        pos.0 % self.capacity
    }

    /// Bytes from `pos` to the end of the file, where a record must not cross.
    #[must_use]
    pub fn until_wrap(self, pos: LogPos) -> u64 {
        self.capacity - self.offset(pos)
    }

    /// End of what may be overwritten when a record that ends at `end` is written: its page, in a ring
    /// that is large enough for this not to matter and made of whole pages.
    #[must_use]
    pub fn completed(self, end: LogPos) -> LogPos {
        if !Self::completes_pages(self.capacity) {
            return end;
        }
        end.plus(self.offset(end).next_multiple_of(PAGE) - self.offset(end))
    }

    /// Whether pages are completed in a ring of this capacity.
    #[must_use]
    pub fn completes_pages(capacity: u64) -> bool {
        capacity >= MIN_CAPACITY && capacity.is_multiple_of(PAGE)
    }

    /// Bytes that a record with `body` bytes of body takes.
    #[must_use]
    pub fn record_len(body: u64) -> u64 {
        (super::record::HEADER_LEN as u64 + body).div_ceil(ALIGN) * ALIGN
    }

    /// Where a record of `len` bytes goes when the head is at `head`: its position, and the bytes
    /// of padding before it.
    #[must_use]
    pub fn place(self, head: LogPos, len: u64) -> (LogPos, u64) {
        let room = self.until_wrap(head);
        if len <= room { (head, 0) } else { (head.plus(room), room) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_completed_within_the_ring() {
        let r = Ring::new(MIN_CAPACITY).expect("large enough");
        for (end, completed) in [(0, 0), (64, PAGE), (PAGE, PAGE), (PAGE + 64, 2 * PAGE)] {
            let lap = 3 * MIN_CAPACITY;
            assert_eq!(r.completed(LogPos(lap + end)), LogPos(lap + completed));
        }
        let last = LogPos(MIN_CAPACITY - 64);
        assert_eq!(r.completed(last), LogPos(MIN_CAPACITY));
        let odd = Ring::new(MIN_CAPACITY + 64).expect("large enough");
        assert_eq!(odd.completed(last), last);
    }

    #[test]
    fn records_never_cross_the_end() {
        let r = Ring::new(MIN_CAPACITY).expect("large enough");
        let head = LogPos(MIN_CAPACITY * 3 + MIN_CAPACITY - 128);
        assert_eq!(r.place(head, 128), (head, 0));
        let (pos, pad) = r.place(head, 192);
        assert_eq!((pos, pad), (LogPos(MIN_CAPACITY * 4), 128));
        assert_eq!(r.offset(pos), 0);
        assert_eq!(Ring::new(MIN_RING - 1), None);
    }
}
