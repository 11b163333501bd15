//! Volumes as readers and writers see them: the thin, threaded side of the volume machine.
//!
//! [`primary`] is the writable volume: every write goes through the capture tables on the client's
//! own thread. [`replica`] is a pinned or following view. [`open`] makes and opens their files.
//! [`names`] maps export names to both, [`door`] says who may open them. [`gate`] says whether writers are let in.

pub(crate) mod arriving;
pub mod changes;
pub mod door;
pub(crate) mod folder;
pub mod gate;
pub(crate) mod moved;
pub mod names;
pub(crate) mod notes;
pub mod open;
pub(crate) mod owner;
pub mod primary;
mod proven;
pub mod replica;

pub use names::Names;
pub use open::{OpenPlan, Opened};
pub use primary::PrimaryVolume;
pub use replica::{ReplicaVolume, StateView};
