//! One memory budget for all connections.
//!
//! A counting semaphore that is only ever *tried*: who gets nothing does the work on its own
//! thread with its own buffers. So a client that holds memory by not reading its replies cannot
//! make another one wait.

use super::limits::{PIECE, SPARE_PIECES};
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// Bytes that may be held at once.
#[derive(Debug)]
pub struct Budget {
    total: usize,
    used: AtomicUsize,
    /// Whole pieces kept for the next request, so that large requests do not fault pages in anew.
    spare: Mutex<Vec<Vec<u8>>>,
}

/// A buffer out of the budget; returned on drop.
#[derive(Debug)]
pub struct Chunk {
    bytes: Vec<u8>,
    counted: usize,
    budget: Option<Arc<Budget>>,
}

impl Budget {
    /// A budget of `total` bytes.
    pub fn new(total: usize) -> Arc<Self> {
        Arc::new(Self { total, used: AtomicUsize::new(0), spare: Mutex::new(Vec::new()) })
    }

    /// Bytes held now.
    pub fn used(&self) -> usize {
        self.used.load(Relaxed)
    }

    /// A buffer of `len` bytes of unspecified content, or `None` when the budget is spent.
    pub fn try_take(self: &Arc<Self>, len: usize) -> Option<Chunk> {
        // a large buffer is counted as the whole piece that it is
        let counted = if len > PIECE / 4 { len.max(PIECE) } else { len };
        self.used
            .try_update(Relaxed, Relaxed, |used| {
                used.checked_add(counted).filter(|sum| *sum <= self.total)
            })
            .ok()?;
        let mut bytes =
            if counted >= PIECE { self.spare.lock().pop().unwrap_or_default() } else { Vec::new() };
        if bytes.len() < len {
            bytes = vec![0; counted];
        }
        Some(Chunk { bytes, counted, budget: Some(Arc::clone(self)) })
    }
}

impl Chunk {
    /// A small buffer outside the budget: a reply without data.
    pub fn small(bytes: Vec<u8>) -> Self {
        Self { bytes, counted: 0, budget: None }
    }

    /// The bytes; possibly more than were asked for.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The bytes, to be filled.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        let Some(budget) = self.budget.take() else { return };
        if self.counted >= PIECE {
            let mut spare = budget.spare.lock();
            if spare.len() < SPARE_PIECES {
                spare.push(std::mem::take(&mut self.bytes));
            }
        }
        budget.used.fetch_sub(self.counted, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_and_returns() {
        let b = Budget::new(3 * PIECE);
        let (one, two) = (b.try_take(PIECE + 28).unwrap(), b.try_take(PIECE).unwrap());
        assert!(one.bytes().len() >= PIECE + 28);
        assert!(b.try_take(PIECE).is_none());
        let small = b.try_take(4096).unwrap();
        assert_eq!(small.bytes().len(), 4096);
        drop((one, two, small));
        assert_eq!(b.used(), 0);
        assert!(b.try_take(usize::MAX).is_none());
        assert!(b.try_take(3 * PIECE).is_some());
        assert_eq!(b.used(), 0);
    }
}
