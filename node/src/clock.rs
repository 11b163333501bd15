//! The one place that reads clocks.

use std::sync::OnceLock;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use rcp::proto::clock::{Mono, Wall};

static ORIGIN: OnceLock<Instant> = OnceLock::new();

/// Now, on the clock that never goes back.
#[must_use]
#[allow(clippy::disallowed_methods)]
pub fn mono() -> Mono {
    let origin = *ORIGIN.get_or_init(Instant::now);
    // A second ahead of the origin, so that "long ago" can be told from "never".
    Mono(u64::try_from(origin.elapsed().as_micros()).unwrap_or(u64::MAX).saturating_add(1_000_000))
}

/// Now, for people.
#[must_use]
#[allow(clippy::disallowed_methods)]
pub fn wall() -> Wall {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Wall(u64::try_from(since.as_micros()).unwrap_or(u64::MAX))
}

/// Now, in whole seconds since 1970, as certificates and tokens count.
#[must_use]
pub fn unix_seconds() -> i64 {
    i64::try_from(wall().0 / 1_000_000).unwrap_or(i64::MAX)
}
