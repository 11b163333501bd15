//! When to dial again.

use super::clock::Mono;
use super::limits::{BACKOFF_MAX, BACKOFF_MIN};
use std::time::Duration;

/// Waits that double from 100 ms to 10 s, each spread over its upper half so that the children of
/// a parent that comes back do not all dial at once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Backoff {
    failures: u32,
}

impl Backoff {
    /// No failure yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Counts a failure and gives the moment of the next attempt; `random` is any random number.
    pub fn next(&mut self, now: Mono, random: u64) -> Mono {
        let doubled = BACKOFF_MIN.saturating_mul(1 << self.failures.min(16));
        self.failures = self.failures.saturating_add(1);
        let whole = u64::try_from(doubled.min(BACKOFF_MAX).as_micros()).unwrap_or(u64::MAX);
        let half = whole / 2;
        now.after(Duration::from_micros(half + random % (whole - half + 1)))
    }

    /// A session came up: the next failure waits for the shortest time again.
    pub fn reset(&mut self) {
        self.failures = 0;
    }

    /// Failures since the last session.
    #[must_use]
    pub fn failures(&self) -> u32 {
        self.failures
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_and_stay_bounded() {
        let mut b = Backoff::new();
        let mut upper = BACKOFF_MIN;
        for n in 0..100u64 {
            let random = n.wrapping_mul(0x9E37_79B9_7F4A_7C15);
            let wait = b.next(Mono(7), random).since(Mono(7));
            assert!(wait >= upper / 2 && wait <= upper, "{n}: {wait:?}");
            upper = (upper * 2).min(BACKOFF_MAX);
        }
        b.reset();
        assert!(b.next(Mono(0), u64::MAX).since(Mono(0)) <= BACKOFF_MIN);
    }
}
