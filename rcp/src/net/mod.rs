//! Sockets: the thin part between [`crate::proto`] and TCP.
//!
//! [`conn`] reads and writes frames, [`port`] tells RCP from HTTP on the shared port, [`dial`] opens
//! a connection. Everything is generic over the byte stream where it can be, spawns nothing, and
//! decides nothing that two nodes must agree on: the tasks of the node drive it.

pub mod conn;
pub mod port;

mod dial;
mod error;
mod pool;
mod prefixed;

pub use dial::{dial, dial_within};
pub use error::NetError;
pub use prefixed::Prefixed;
