//! The volume layer: from a client's write to a readable replica, without I/O of its own.
//!
//! Everything here is a value that is told what happened and says what to do next: it emits tagged
//! requests on a volume's files ([`io`]) and takes their completions, so that a simulator can
//! stall, reorder, fail or lose any of them. `FORMAT.md` beside this crate is the specification of
//! every file of a volume and of which sync orders which.

pub mod activity;
pub mod bitmap;
pub mod capture;
pub mod digest;
pub mod history;
pub mod io;
pub mod mailbox;
pub mod save;
pub mod snapshots;
pub mod storage;
pub mod sync;
pub mod units;
pub mod view;
pub mod volume;
