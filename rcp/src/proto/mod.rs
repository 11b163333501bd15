//! The protocol without I/O: every decision that two data movers must agree on.
//!
//! Bytes come in, values and bytes go out; time and randomness are arguments. `PROTOCOL.md` says
//! the same to the byte.

pub mod backoff;
pub mod classify;
pub mod clock;
pub mod control;
pub mod credit;
pub mod delta;
pub mod frame;
pub mod ids;
pub mod limits;
pub mod pace;
pub mod places;
pub mod session;
pub mod transport;
mod wire;
