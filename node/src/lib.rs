//! The data mover: everything that touches sockets, files, clocks and processes.

pub mod api;
pub mod cli;
pub mod http;
pub mod metrics;
