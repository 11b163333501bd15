//! Credits of one stream: how a receiver stops a sender before memory or disk runs out.
//!
//! Both sides count bytes of bodies since the start of the stream; totals only grow, so that a
//! grant that is lost, late or doubled does no harm.

use super::limits::MAX_CHUNK_LEN;

/// The sender's side: never sends more than was granted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SendWindow {
    granted: u64,
    sent: u64,
}

impl SendWindow {
    /// With what the receiver granted when it attached.
    #[must_use]
    pub fn new(granted: u64) -> Self {
        Self { granted, sent: 0 }
    }

    /// A new total came; a smaller one than before is old and is ignored.
    pub fn grant(&mut self, total: u64) {
        self.granted = self.granted.max(total);
    }

    /// Bytes that may be sent now.
    #[must_use]
    pub fn available(&self) -> u64 {
        self.granted.saturating_sub(self.sent)
    }

    /// Bytes sent since the start.
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.sent
    }

    /// Counts a body of `len` bytes if it may be sent, and says whether it may.
    #[must_use]
    pub fn take(&mut self, len: usize) -> bool {
        let len = u64::try_from(len).unwrap_or(u64::MAX);
        let fits = len <= self.available();
        if fits {
            self.sent += len;
        }
        fits
    }
}

/// More came than was granted: an error of the peer that ends the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{received} bytes came where {granted} were granted")]
pub struct Overrun {
    /// Bytes that came since the start.
    pub received: u64,
    /// Bytes that were granted.
    pub granted: u64,
}

/// The receiver's side: grants what it has room for, and checks that no more comes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecvWindow {
    window: u64,
    granted: u64,
    received: u64,
    freed: u64,
}

impl RecvWindow {
    /// With room for `window` bytes; at least one chunk always fits, or nothing could ever move.
    #[must_use]
    pub fn new(window: u64) -> Self {
        let window = window.max(u64::try_from(MAX_CHUNK_LEN).unwrap_or(u64::MAX));
        Self { window, granted: window, received: 0, freed: 0 }
    }

    /// The total granted so far; at first what the attach carries.
    #[must_use]
    pub fn granted(&self) -> u64 {
        self.granted
    }

    /// Bytes that came and are not freed yet.
    #[must_use]
    pub fn held(&self) -> u64 {
        self.received - self.freed
    }

    /// A body of `len` bytes came.
    ///
    /// # Errors
    /// [`Overrun`] if it was not granted; it is then not counted.
    pub fn receive(&mut self, len: usize) -> Result<(), Overrun> {
        let received = self.received.saturating_add(u64::try_from(len).unwrap_or(u64::MAX));
        if received > self.granted {
            return Err(Overrun { received, granted: self.granted });
        }
        self.received = received;
        Ok(())
    }

    /// `len` bytes of what came need no room any more.
    pub fn free(&mut self, len: usize) {
        let len = u64::try_from(len).unwrap_or(u64::MAX);
        self.freed = self.freed.saturating_add(len).min(self.received);
    }

    /// Changes the room. A smaller one takes nothing back: the grants pause until it holds.
    pub fn resize(&mut self, window: u64) {
        self.window = window.max(u64::try_from(MAX_CHUNK_LEN).unwrap_or(u64::MAX));
    }

    /// The new total, if it is worth a frame: a quarter of the room is new, or nothing is held (so
    /// that a sender whose next chunk is large is not left waiting).
    pub fn poll_grant(&mut self) -> Option<u64> {
        let total = self.freed.saturating_add(self.window);
        let fresh = total.saturating_sub(self.granted);
        if fresh == 0 || (fresh < self.window / 4 && self.held() > 0) {
            return None;
        }
        self.granted = total;
        Some(total)
    }
}

/// Whether a new total of granted bytes is worth a frame, when `told` were granted before and
/// `received` of them came: there are `much` more, or the sender may have less left than the longest
/// chunk takes ([`MAX_CHUNK_LEN`]), and must know of any at once (`PROTOCOL.md`, Credits).
#[must_use]
pub fn is_worth_telling(total: u64, told: u64, received: u64, much: u64) -> bool {
    let left = told.saturating_sub(received);
    total > told && (total - told >= much || left < MAX_CHUNK_LEN as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const CHUNK: u64 = MAX_CHUNK_LEN as u64;

    #[test]
    fn an_overrun_is_an_error_and_not_counted() {
        let mut r = RecvWindow::new(CHUNK);
        r.receive(MAX_CHUNK_LEN).expect("granted");
        assert_eq!(r.receive(1), Err(Overrun { received: CHUNK + 1, granted: CHUNK }));
        r.free(MAX_CHUNK_LEN * 2);
        assert_eq!((r.held(), r.poll_grant(), r.poll_grant()), (0, Some(2 * CHUNK), None));
    }

    #[test]
    fn old_grants_are_ignored() {
        let mut s = SendWindow::new(10);
        assert!(s.take(7));
        s.grant(5);
        assert!(!s.take(4) && s.take(3) && !s.take(1));
        s.grant(11);
        assert_eq!((s.available(), s.sent()), (1, 10));
    }

    #[test]
    fn little_is_told_to_a_sender_that_may_wait_for_it() {
        assert!(!is_worth_telling(2 * CHUNK + 1, 2 * CHUNK, CHUNK, 2));
        assert!(is_worth_telling(2 * CHUNK + 2, 2 * CHUNK, CHUNK, 2));
        assert!(is_worth_telling(2 * CHUNK + 1, 2 * CHUNK, CHUNK + 1, 2));
        assert!(!is_worth_telling(2 * CHUNK, 2 * CHUNK, 2 * CHUNK, 0), "there is nothing to tell");
    }

    proptest! {
        /// Whatever room there is: a chunk that fits into it can be sent.
        #[test]
        fn what_is_not_told_holds_up_nobody(
            received in 0..8 * CHUNK,
            left in 0..2 * CHUNK,
            room in 0..2 * CHUNK,
            much in 1..4 * CHUNK,
            len in 1..=CHUNK,
        ) {
            let (mut told, total) = (received + left, received + room);
            if is_worth_telling(total, told, received, much) {
                told = total;
            }
            prop_assert!(len > room || len <= told - received);
        }

        /// Whatever the sizes and the order of frees, losses of grants included, nothing is sent
        /// that was not granted, no more is held than the room, and when all is freed and the
        /// latest grant arrives, the largest chunk can go.
        #[test]
        fn never_over_and_never_stuck(
            steps in prop::collection::vec((0usize..=MAX_CHUNK_LEN, 0usize..3, any::<bool>()), 1..80),
            window in 0..4 * CHUNK,
        ) {
            let mut r = RecvWindow::new(window);
            let mut s = SendWindow::new(r.granted());
            for (len, frees, lost) in steps {
                if s.take(len) {
                    prop_assert!(r.receive(len).is_ok());
                }
                prop_assert!(r.held() <= window.max(CHUNK));
                r.free(len.saturating_mul(frees));
                if let Some(total) = r.poll_grant() && !lost {
                    s.grant(total);
                }
            }
            r.free(usize::MAX);
            r.poll_grant();
            s.grant(r.granted());
            prop_assert!(s.take(MAX_CHUNK_LEN));
        }
    }
}
