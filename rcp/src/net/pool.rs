//! Buffers of large frames, used again once nobody holds them.
//!
//! The first touch of fresh memory costs more than receiving into it; a connection that streams
//! chunks comes back to the same few buffers.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::{Bytes, BytesMut};

/// Smaller buffers are cheap to make.
const WORTH_KEEPING: usize = 64 << 10;

/// Buffers of chunks that are kept to be used again: more than a receiver keeps as its recent
/// chunks, because those come back only when they have left that ring.
const SLOTS: usize = 16;

/// The buffers of large frames of one connection. Its streams share them, because what a connection
/// may keep must not grow with its streams.
#[derive(Clone, Debug)]
pub struct Buffers(Arc<Mutex<Pool>>);

impl Default for Buffers {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Pool::new(SLOTS))))
    }
}

impl Buffers {
    fn with<T>(&self, f: impl FnOnce(&mut Pool) -> T) -> T {
        f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn take(&self, len: usize) -> BytesMut {
        self.with(|p| p.take(len))
    }

    pub(super) fn freeze(&self, buffer: BytesMut) -> Bytes {
        self.with(|p| p.freeze(buffer))
    }

    pub(super) fn reused(&self) -> u64 {
        self.with(|p| p.reused)
    }
}

/// Remembers the last few large buffers that were handed out.
#[derive(Debug)]
struct Pool {
    slots: usize,
    /// What was handed out, with the memory behind it.
    kept: VecDeque<(usize, Bytes)>,
    reused: u64,
}

impl Pool {
    fn new(slots: usize) -> Self {
        Self { slots, kept: VecDeque::with_capacity(slots), reused: 0 }
    }

    /// An empty buffer with room for `len` bytes, and at most for twice as many: whoever keeps what
    /// comes into it counts its bytes, not the memory behind them. Of those that are free the one that
    /// was filled last: more of it is in the cache.
    fn take(&mut self, len: usize) -> BytesMut {
        let fits = |(room, b): &(usize, Bytes)| (len..=2 * len).contains(room) && b.is_unique();
        if len >= WORTH_KEEPING
            && let Some(at) = self.kept.iter().rposition(fits)
            && let Some(Ok(mut buffer)) = self.kept.remove(at).map(|(_, b)| b.try_into_mut())
        {
            buffer.clear();
            if buffer.capacity() >= len {
                self.reused += 1;
                return buffer;
            }
        }
        BytesMut::with_capacity(len)
    }

    /// Freezes a buffer that is full, and remembers it.
    fn freeze(&mut self, buffer: BytesMut) -> Bytes {
        let room = buffer.capacity();
        let frozen = buffer.freeze();
        if frozen.len() >= WORTH_KEEPING && self.slots > 0 {
            if self.kept.len() >= self.slots {
                self.kept.pop_front();
            }
            self.kept.push_back((room, frozen.clone()));
        }
        frozen
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_of_one_connection_keep_no_more_than_one_of_them() {
        let connection = Buffers::default();
        for _ in 0..64 {
            let lane = connection.clone();
            let mut held = Vec::new();
            for _ in 0..SLOTS {
                let mut b = lane.take(WORTH_KEEPING);
                b.resize(WORTH_KEEPING, 1);
                held.push(lane.freeze(b));
            }
        }
        assert_eq!(connection.with(|p| p.kept.len()), SLOTS);
        assert!(connection.reused() > 0);
    }

    #[test]
    fn a_buffer_comes_back_once_nobody_holds_it() {
        let mut p = Pool::new(2);
        let mut b = p.take(WORTH_KEEPING);
        b.resize(WORTH_KEEPING, 1);
        let b = p.freeze(b);
        let part = b.slice(10..20);
        drop(b);
        let other = p.take(WORTH_KEEPING);
        assert_eq!((p.reused, other.len()), (0, 0));
        assert_eq!(part, [1; 10][..]);
        drop(part);
        let small = p.take(WORTH_KEEPING / 2);
        let large = p.take(WORTH_KEEPING + 1);
        assert_eq!((p.reused, small.len(), large.len()), (0, 0, 0));
        let again = p.take(WORTH_KEEPING);
        assert_eq!((p.reused, again.len()), (1, 0));
        assert!(again.capacity() >= WORTH_KEEPING);
    }
}
