//! The protocol without I/O: every decision that two data movers must agree on.

pub mod clock;
pub mod ids;
