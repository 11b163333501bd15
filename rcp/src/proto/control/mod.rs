//! Control blocks without I/O: a command down the tree, a result from every member back up.
//!
//! [`Blocks`] is what one node knows of the blocks under way, whoever it belongs to: the data mover
//! and the library in [`crate::group`] use the same one. The [`Journal`] is what makes "at most
//! once" hold across crashes. [`pipe`] is how a stream of bytes travels as control blocks.

mod blocks;
mod journal;
pub mod pipe;

pub use blocks::{
    Below, Blocks, Effect, Member, Order, Origin, Own, Part, Report, Taken, not_connected,
    provisional,
};
pub use journal::{BlockId, Damaged, Full, Journal, KEEP, Known, MAX_ENTRIES, MAX_RESULT};
