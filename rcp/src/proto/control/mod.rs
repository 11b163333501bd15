//! Control blocks without I/O: a command down the tree, a result from every member back up.
//!
//! [`Blocks`] is what one node knows of the blocks under way, whoever it belongs to: the data mover
//! and the library in [`crate::group`] use the same one. The [`Journal`] is what makes "at most
//! once" hold across crashes. [`pipe`] is how a stream of bytes travels as control blocks.

mod blocks;
mod journal;
pub mod pipe;
mod report;

pub use blocks::{Blocks, Effect, Order, Origin, Own, Part, Taken};
pub use journal::{BlockId, Damaged, Full, Journal, KEEP, Known, MAX_ENTRIES, MAX_RESULT};
pub use report::{Below, Member, Report, not_connected, provisional};
