//! The activity log of a primary: which coarse extents may hold writes that no finished set has.
//!
//! The exact marks of [`capture`](crate::capture) live in memory. Before the *first* write into an
//! extent, a bit for that extent is made durable here; after a crash every active extent is marked
//! as modified again (CAP-14). Marking too much is allowed, too little never. So whatever does not
//! verify on disk counts as active, and a bit is taken back only when no table has a mark below it
//! and the sets that had are durable.
//!
//! [`ActivityLog`] is the machine: one owner, page writes and syncs as [`Io`](crate::io::Io), many
//! activations made durable by one sync. [`ActiveMap`] is what writers look at. [`SharedLog`] lets
//! blocking writer threads drive the machine themselves, the first of them for all.
//!
//! # A writer's order of steps
//!
//! 1. [`ActiveMap::covers`]; if not, activate and wait ([`SharedLog::ensure`], or the owner).
//!    No ticket is held meanwhile, so that a cut never waits for this I/O.
//! 2. Take a ticket, [`before_write`](crate::capture::Capture::before_write) (marks).
//! 3. [`ActiveMap::covers`] *again*: the extent may have been taken back between 1 and 2. If not
//!    covered, drop the ticket and start over; the marks that stay are harmless.
//! 4. Write.
//!
//! [`ActivityLog::clear_clean`] hides the bit first and then looks for marks; the writer marks
//! first and then looks at the bit; both with a sequentially consistent fence between. So at least
//! one of them sees the other: no write goes into an extent whose bit is being taken back.

mod log;
mod page;
mod shared;

#[cfg(test)]
mod tests;

pub use log::{Activation, ActivationSeq, ActivityError, ActivityLog, Recovered};
pub use page::{ExtentIndex, ExtentSize, Geometry};
pub use shared::{ActiveMap, SharedLog};
