//! Deadlines for sockets: the only place here that reads the clock.

use std::time::{Duration, Instant};

/// A point in time by which something must have happened.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Deadline(Instant);

#[expect(clippy::disallowed_methods, reason = "socket deadlines are real time by nature")]
fn now() -> Instant {
    Instant::now()
}

impl Deadline {
    /// `after` from now.
    pub(crate) fn after(after: Duration) -> Self {
        let start = now();
        Self(start.checked_add(after).unwrap_or(start))
    }

    /// What is left; `None` when it has passed.
    pub(crate) fn left(self) -> Option<Duration> {
        self.0.checked_duration_since(now()).filter(|d| !d.is_zero())
    }
}
