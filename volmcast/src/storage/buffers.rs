//! Buffers of large reads, used again once nobody holds what was read into them.
//!
//! The first touch of fresh memory costs more than copying into it; whoever streams a save volume
//! comes back to the same few buffers. One set for the whole process, because the threads that read
//! serve every volume.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;

/// Smaller buffers are cheap to make.
const WORTH_KEEPING: usize = 64 << 10;
/// Memory that is remembered, in bytes; most of it is in use elsewhere at the same time.
const KEPT_BYTES: usize = 24 << 20;

/// The process's buffers.
pub(super) static READS: Buffers = Buffers::new();

/// Remembers the last large buffers that were handed out.
#[derive(Debug)]
pub(super) struct Buffers(Mutex<Kept>);

#[derive(Debug)]
struct Kept {
    bytes: usize,
    /// With the memory behind each.
    buffers: VecDeque<(usize, Bytes)>,
}

impl Buffers {
    const fn new() -> Self {
        Self(Mutex::new(Kept { bytes: 0, buffers: VecDeque::new() }))
    }

    /// A buffer of `len` bytes of anything, to be filled; the memory behind it is at most twice that.
    pub(super) fn take(&self, len: usize) -> BytesMut {
        let fits = |(room, b): &(usize, Bytes)| (len..=2 * len).contains(room) && b.is_unique();
        if len >= WORTH_KEEPING {
            let mut kept = self.0.lock();
            if let Some(at) = kept.buffers.iter().position(fits)
                && let Some((room, b)) = kept.buffers.remove(at)
            {
                kept.bytes -= room;
                drop(kept);
                if let Ok(mut b) = b.try_into_mut() {
                    b.resize(len, 0);
                    return b;
                }
            }
        }
        BytesMut::zeroed(len)
    }

    /// Freezes a buffer that is full, and remembers it.
    pub(super) fn freeze(&self, buffer: BytesMut) -> Bytes {
        let room = buffer.capacity();
        let frozen = buffer.freeze();
        if (WORTH_KEEPING..=KEPT_BYTES).contains(&room) {
            let mut kept = self.0.lock();
            kept.bytes += room;
            kept.buffers.push_back((room, frozen.clone()));
            while kept.bytes > KEPT_BYTES
                && let Some((room, _)) = kept.buffers.pop_front()
            {
                kept.bytes -= room;
            }
        }
        frozen
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_used_again_once_nobody_holds_it() {
        let pool = Buffers::new();
        let mut b = pool.take(WORTH_KEEPING + 10);
        b.fill(1);
        let held = pool.freeze(b);
        let at = held.as_ptr();
        let other = pool.take(WORTH_KEEPING + 10);
        assert_ne!(other.as_ptr(), at, "somebody holds it");
        assert_eq!(held, vec![1; WORTH_KEEPING + 10]);
        drop(held);
        let again = pool.take(WORTH_KEEPING);
        assert_eq!((again.as_ptr(), again.len()), (at, WORTH_KEEPING));
        drop(pool.freeze(again));
        assert_eq!(pool.take(WORTH_KEEPING / 3).len(), WORTH_KEEPING / 3);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let pool = Buffers::new();
        for _ in 0..100 {
            let held: Vec<_> = (0..3).map(|_| pool.freeze(pool.take(2 << 20))).collect();
            drop(held);
            assert!(pool.0.lock().bytes <= KEPT_BYTES);
        }
        let all: Vec<_> = (0..40).map(|_| pool.freeze(pool.take(1 << 20))).collect();
        assert!(pool.0.lock().bytes <= KEPT_BYTES);
        drop(all);
    }
}
