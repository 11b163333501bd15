//! The data mover: everything that touches sockets, files, clocks and processes.

pub mod api;
pub mod limits;
pub mod mover;
pub mod nbd;
pub mod volumes;
