//! The data mover: everything that touches sockets, files, clocks and processes.

pub mod access;
pub mod api;
pub mod cli;
pub mod clock;
pub mod daemon;
pub mod demo;
pub mod fleet;
pub mod fsck;
pub mod hex;
pub mod http;
pub mod limits;
pub mod metrics;
pub mod mover;
pub mod nbd;
pub mod pki;
pub mod runtime;
mod seldom;
pub mod shift;
pub mod volumes;
pub mod why;
