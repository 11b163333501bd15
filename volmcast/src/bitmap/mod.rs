//! Sets of blocks: [`AtomicBitmap`] for tables that many threads mark at once, [`BlockSet`] for
//! sets that are finished, stored and combined.
//!
//! Pure: no file, no clock. Both cost memory for what they hold, not for the size of the volume.

mod atomic;
pub mod changes;
mod codec;
mod set;

pub use atomic::AtomicBitmap;
pub use codec::{DecodeError, MAX_BLOCKS};
pub use set::BlockSet;

use crate::units::{BlockCount, BlockIndex};

/// Adjacent blocks: the first one, and how many (never none).
pub type Run = (BlockIndex, BlockCount);
