//! The save volume: a wrap-around log of chunks and set headers (SAVE-01 to SAVE-11).
//!
//! A log position never wraps; [`ring`] maps it to the file. [`record`] is the layout of one
//! record; [`log`] keeps what is in the ring in memory and decides where the next record goes, what
//! may be overwritten and where a consumer continues; [`readback`] keeps what was read from the file
//! for those who have left the recent records behind. What is durable is decided by the mailbox,
//! not here.

mod audit;
pub mod log;
pub mod readback;
pub mod record;
pub mod ring;

pub use log::{AppendError, Appended, Log, RecordMeta, Step};
pub use readback::{Budget, Readback};
pub use record::{RecordError, RecordHeader, RecordKind};
pub use ring::Ring;
