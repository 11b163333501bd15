//! Pins: points in time kept true by before images (SNAP-01 … SNAP-16, DIFF-01 … DIFF-06, F26, F27,
//! F34). One mechanism for an operator's snapshots, an export's view and a merge under readers.
//!
//! A *pin* freezes the base as it is now. The pins of a volume form a queue, oldest first. Whoever
//! is about to change a block of the base first saves its content for the youngest pin, if that
//! has none of the block yet (F26); a read of pin N looks through the pins N, N+1, … and then in
//! the base (F27); what changed between two pins is in their indices alone (F34). Before images lie
//! in one bounded area, a slot of one block each, described by a table.
//!
//! Pins are *ephemeral* (a reader's; they end with the process) or *durable* (they outlive it: the
//! mailbox lists them).
//!
//! # What callers must keep to
//!
//! 1. **Save, commit, then overwrite.** [`SnapshotStore::preserve`] does it: slot data, table
//!    entry, a sync if a durable pin needs the image, commit, and only then does the base change.
//! 2. **No pin while a block is being overwritten.** At the primary, pins are made inside the
//!    barrier of a cut. A writer calls `preserve` *before* it takes its ticket (so that a cut never
//!    waits for that I/O), and under the ticket asks [`SnapshotStore::needs_copy`] again: a pin may
//!    have been made in between; then it drops the ticket and starts over. At a replica the one
//!    owner of the merge makes the pins.
//! 3. **A durable pin exists once** base and area were synced after [`SnapshotStore::pin`] and the
//!    mailbox lists it, durably. **It is released** only after the mailbox, durably, no longer lists it:
//!    slots are used again at once.
//! 4. After recovery every [`Unproved`] image is settled before the first overwrite.
//!
//! # A full area never stops the writer
//!
//! The oldest ephemeral pin is broken, then the next; its readers get an error. Durable pins are
//! broken last, the oldest first, after that was made durable in the superblock.
//!
//! No file is touched here; the layout is in [`layout`].

pub mod layout;

mod breach;
mod index;
mod recover;
mod store;

#[cfg(all(test, not(shuttle)))]
mod damage_tests;
#[cfg(test)]
mod race_tests;
#[cfg(test)]
mod rig;
#[cfg(all(test, not(shuttle)))]
mod tests;

pub use index::{
    BreachWrite, BrokenBecause, Found, PinId, PinInfo, PinKind, Reservation, Reserve, SlotRef,
    SnapshotError, SnapshotEvent,
};
pub use recover::{Proof, RecoverError, Recovered, Unproved};
pub use store::{AreaIo, PinReadError, SnapshotStore};
