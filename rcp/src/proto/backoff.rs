//! When to dial a child or a parent again, and what went wrong the last time.
//!
//! Waits double from 100 ms on, to half a second or an eighth of the time for which the peer has
//! been away, whatever is longer, and to 10 s at most: a peer that was started again is fed within
//! a second, one that was away for a minute within eight. Each wait is spread over its upper half, so
//! that the children of a parent that comes back do not all dial at once. A session only counts as
//! a success once it has lasted: a peer that accepts and hangs up is waited for like one that does
//! not answer.

use std::time::Duration;

use super::clock::Mono;
use super::limits::{BACKOFF_MAX, BACKOFF_MIN, BACKOFF_SOON};

/// A session that was up for this long makes the next wait the shortest again.
pub const SESSION_LASTED: Duration = Duration::from_secs(1);
/// The part of a peer's absence that the wait after it may take.
const OF_ABSENCE: u32 = 8;

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
    /// The first of these failures.
    away_since: Option<Mono>,
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
            self.reset();
        }
        let away = now.since(*self.away_since.get_or_insert(now));
        let longest = (away / OF_ABSENCE).clamp(BACKOFF_SOON, BACKOFF_MAX);
        let doubled = BACKOFF_MIN.saturating_mul(1 << self.failures.min(16));
        let whole = u64::try_from(doubled.min(longest).as_micros()).unwrap_or(u64::MAX);
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
        self.away_since = None;
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
        let (mut now, mut doubled) = (Mono(7), BACKOFF_MIN);
        for n in 0..100u64 {
            let random = n.wrapping_mul(0x9E37_79B9_7F4A_7C15);
            let longest = (now.since(Mono(7)) / OF_ABSENCE).clamp(BACKOFF_SOON, BACKOFF_MAX);
            let upper = doubled.min(longest);
            let next = b.failed("no route to host", now, random);
            let wait = next.since(now);
            assert!(wait >= upper / 2 && wait <= upper, "{n}: {wait:?}");
            (now, doubled) = (next, (doubled * 2).min(BACKOFF_MAX));
        }
        let last = b.last_failure().expect("there were some");
        assert_eq!((last.reason.as_str(), last.in_a_row), ("no route to host", 100));
        assert!(last.retry_at.since(last.at) >= BACKOFF_MAX / 2, "it was away for minutes");
    }

    #[test]
    fn who_was_away_for_a_moment_is_not_waited_for_long() {
        let mut b = Backoff::new();
        let mut now = Mono(0);
        while now.since(Mono(0)) < Duration::from_secs(4) {
            let next = b.failed("refused", now, u64::MAX);
            assert!(next.since(now) <= BACKOFF_SOON);
            now = next;
        }
        assert!(b.failures() > 8);
        // One who is up for less than a moment, again and again, is.
        for _ in 0..200 {
            b.up(now);
            now = b.failed("hung up", now, u64::MAX);
        }
        assert!(b.failed("hung up", now, 0).since(now) >= BACKOFF_MAX / 2);
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
