//! The NBD server: volumes and replicas as block devices for anything that speaks NBD.
//!
//! Fixed newstyle with structured replies and `base:allocation`, over TCP and Unix sockets
//! (NetworkBlockDevice/nbd, `doc/proto.md`). [`proto`] and [`handshake`] are the protocol as pure
//! functions; `conn` runs one connection on one thread; what may block goes to a small `pool` of
//! workers. What is served comes in through [`Exports`] and [`Export`]; this room knows nothing of
//! volumes, sets or replicas. Every bound is in [`limits`].

pub mod budget;
pub mod client;
mod conn;
mod deadline;
pub mod export;
pub mod file;
pub mod handshake;
pub mod limits;
pub mod metrics;
mod outbox;
mod pool;
pub mod proto;
mod server;
mod socket;
mod spin;
mod stream;
mod task;
mod tls;

pub use budget::Budget;
pub use client::{Announced, Client, ClientError, Dialog};
pub use export::{
    Errno, Export, ExportInfo, ExportName, Exports, Extent, OpenError, OpenErrorKind, Peer,
    ReadError,
};
pub use file::{FileExport, FixedExports};
pub use metrics::Metrics;
pub use server::{Server, ServerConfig};
pub use tls::Tls;
