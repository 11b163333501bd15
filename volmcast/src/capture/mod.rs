//! The modification log of a primary: which blocks changed, cut into sets (CAP-02 … CAP-10, F10).
//!
//! Two tables of one bit per block. Writers mark the *new* one; the *old* one holds what the set
//! being drained still needs. A cut makes the new table the old one, while no write is in flight.
//! Whoever wants to overwrite a block whose old bit is set keeps its content first (CAP-09). The
//! owner (one thread at a time: the engine) cuts and drains; any number of threads write.
//!
//! # Why a set holds exactly the content at its cut
//!
//! 1. A write is bracketed by a [`WriteTicket`]; [`Capture::cut`] swaps the tables only while the
//!    gate is closed and no ticket exists. So a write is wholly before or wholly after a cut, and
//!    its mark is in the table of its side.
//! 2. After the cut nobody changes a block whose old bit is set: a writer calls
//!    [`Capture::before_write`], which returns only once it saw the bit clear.
//! 3. So a reader who finds the bit *still* set after reading has read the content at the cut.
//!    Both kinds of reader, the drain ([`Capture::take_read`]) and a writer that keeps a copy,
//!    read first and then claim the block by clearing its bit atomically: exactly one of them gets
//!    it, the others throw their copy away. No lock is held while anything is read.
//! 4. Clearing is a release and testing an acquire: a writer that sees the bit clear has the
//!    claimant's read before its own write.
//! 5. A writer clears the bit and queues its copy under the lock of the queue, and
//!    [`Capture::drained`] looks at both under that lock: a set is never taken for complete while
//!    a copy is between the table and the queue.
//!
//! Nothing here reads or writes a file, or the time: content comes through a callback of the
//! writer or stays with the owner.

mod brim;
mod gate;
mod proof;
mod table;
mod triggers;

#[cfg(test)]
mod model;
#[cfg(all(test, shuttle))]
mod shuttle_tests;
#[cfg(all(test, not(shuttle)))]
mod tests;

pub use gate::{PollTicket, WriteTicket};
pub use proof::Proof;
pub use table::{Capture, CaptureError, CaptureLimits, CutError, CutInfo, Notice, ReadOld};
pub use triggers::{Cause, Policy, Triggers};
