//! When to dial a child or a parent again, and what went wrong the last time.
//!
//! Waits double from 100 ms to 10 s, each spread over its upper half, so that the children of a
//! parent that comes back do not all dial at once. A session only counts as a success once it has
//! lasted: a peer that accepts and hangs up is waited for like one that does not answer.

use std::time::Duration;

use super::clock::Mono;
use super::limits::{BACKOFF_MAX, BACKOFF_MIN};

/// A session that was up for this long makes the next wait the shortest again.
pub const SESSION_LASTED: Duration = Duration::from_secs(5);

/// The last failure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// What went wrong, in words.
    pub reason: String,
    /// When.
    pub at: Mono,
    /// Failures in a row, this one included.
    pub in_a_row: u32,
    /// When the next attempt is due.
    pub retry_at: Mono,
}

/// The attempts to reach one peer.
#[derive(Clone, Debug, Default)]
pub struct Backoff {
    failures: u32,
    up_since: Option<Mono>,
    last: Option<Failure>,
}

impl Backoff {
    /// No attempt yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A session came up.
    pub fn up(&mut self, now: Mono) {
        self.up_since = Some(now);
    }

    /// An attempt failed, or the session ended; gives the moment of the next attempt. `random` is
    /// any random number.
    pub fn failed(&mut self, reason: impl Into<String>, now: Mono, random: u64) -> Mono {
        if self.up_since.take().is_some_and(|since| now.since(since) >= SESSION_LASTED) {
            self.failures = 0;
        }
        let doubled = BACKOFF_MIN.saturating_mul(1 << self.failures.min(16));
        let whole = u64::try_from(doubled.min(BACKOFF_MAX).as_micros()).unwrap_or(u64::MAX);
        let half = whole / 2;
        let retry_at = now.after(Duration::from_micros(half + random % (whole - half + 1)));
        self.failures = self.failures.saturating_add(1);
        let reason = reason.into();
        self.last = Some(Failure { reason, at: now, in_a_row: self.failures, retry_at });
        retry_at
    }

    /// An operator changed something that makes the old failures meaningless: dial at once. What
    /// went wrong is still kept.
    pub fn reset(&mut self) {
        self.failures = 0;
    }

    /// What went wrong the last time; kept while a session is up.
    #[must_use]
    pub fn last_failure(&self) -> Option<&Failure> {
        self.last.as_ref()
    }

    /// Failures since the last session that lasted.
    #[must_use]
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// Whether a session is up.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.up_since.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_within_bounds() {
        let mut b = Backoff::new();
        let mut upper = BACKOFF_MIN;
        for n in 0..100u64 {
            let random = n.wrapping_mul(0x9E37_79B9_7F4A_7C15);
            let wait = b.failed("no route to host", Mono(7), random).since(Mono(7));
            assert!(wait >= upper / 2 && wait <= upper, "{n}: {wait:?}");
            upper = (upper * 2).min(BACKOFF_MAX);
        }
        let last = b.last_failure().expect("there were some");
        assert_eq!(
            (last.reason.as_str(), last.in_a_row, last.at),
            ("no route to host", 100, Mono(7))
        );
    }

    #[test]
    fn only_a_session_that_lasted_resets() {
        let mut b = Backoff::new();
        for _ in 0..5 {
            b.failed("refused", Mono(0), 0);
        }
        b.up(Mono(0));
        assert!(b.is_up());
        assert_eq!(b.last_failure().map(|f| f.reason.as_str()), Some("refused"));
        b.failed("hung up", Mono(1), 0);
        assert_eq!((b.failures(), b.is_up()), (6, false));

        let lasted = Mono(0).after(SESSION_LASTED);
        b.up(Mono(0));
        let again = b.failed("idle", lasted, u64::MAX);
        assert!(again.since(lasted) <= BACKOFF_MIN);
        assert_eq!(b.failures(), 1);
    }

    #[test]
    fn an_operator_can_hurry_it() {
        let mut b = Backoff::new();
        for _ in 0..9 {
            b.failed("refused", Mono(0), 0);
        }
        b.reset();
        assert!(b.failed("refused", Mono(0), 0).since(Mono(0)) <= BACKOFF_MIN);
    }

    #[test]
    fn the_end_of_time_does_not_overflow() {
        let mut b = Backoff::new();
        assert_eq!(b.failed("x", Mono(u64::MAX), 1), Mono(u64::MAX));
    }
}
