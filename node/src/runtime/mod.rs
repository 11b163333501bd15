//! The running node: one task owns the [`Mover`]; others move bytes and wait for it.
//!
//! ```text
//!  listener ─► classify ─┬─► reader ─► core queue ─► Mover ─► effects ─┬─► writer of a connection
//!                        └─► HTTP                                      ├─► disk and computation threads
//!  NBD threads ─► volumes (capture tables, views)                      └─► replies, logs, routes
//! ```
//!
//! The core task never waits for anything but its queue and the clock. Every queue has a bound;
//! what a peer may have in flight is bounded in bytes before it is read.

mod apply;
mod arriving;
mod blocks;
mod certificates;
mod conns;
mod core;
mod disk;
mod door;
pub(crate) mod groups;
mod handle;
mod leaving;
mod lobby;
mod places;
mod port;
mod retired;
mod same;
mod start;
#[cfg(test)]
mod steps_tests;
mod stored;
mod tables;
mod writer;

pub use handle::NodeHandle;
pub use start::{Running, StartError, start};
