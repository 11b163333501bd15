//! The session layer: RCP/1.0.
//!
//! `proto` is the protocol as a value: ids, codecs, frames and the session state machine, without
//! sockets, clock, randomness or async runtime. `net` (feature `net`, on by default) is the thin
//! part that moves bytes between those values and TCP. `PROTOCOL.md` beside this crate is the
//! specification to the byte; golden vectors in the tests hold the code against it.

pub mod planted;
pub mod proto;

#[cfg(feature = "net")]
pub mod net;

#[cfg(feature = "group")]
pub mod group;
