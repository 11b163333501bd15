//! Waiting with a deadline; the only place of the tests that sleeps.

use std::fmt::Display;
use std::time::Duration;

use node::clock;
use rcp::proto::clock::Mono;

/// How often a condition is looked at.
const EVERY: Duration = Duration::from_millis(20);

/// Time since it was made.
#[derive(Clone, Copy, Debug)]
pub struct Clock(Mono);

impl Default for Clock {
    fn default() -> Self {
        Self(clock::mono())
    }
}

impl Clock {
    /// Time that has passed.
    #[must_use]
    pub fn passed(&self) -> Duration {
        clock::mono().since(self.0)
    }

    /// Lets time pass until this much has, counted from the beginning: a pace, not a proof.
    pub fn pace(&self, until: Duration) {
        std::thread::sleep(until.saturating_sub(self.passed()));
    }
}

/// Asks until there is an answer, and fails with the last reason after `deadline`.
///
/// # Panics
/// When the deadline passes.
pub fn wait_for<T, E: Display>(
    what: &str,
    deadline: Duration,
    mut ask: impl FnMut() -> Result<T, E>,
) -> T {
    let clock = Clock::default();
    loop {
        match ask() {
            Ok(v) => return v,
            Err(e) if clock.passed() > deadline => {
                panic!("waited {} s for: {what}; at last: {e}", deadline.as_secs())
            }
            Err(_) => std::thread::sleep(EVERY),
        }
    }
}
