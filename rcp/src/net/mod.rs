//! Sockets: the thin part between [`crate::proto`] and TCP, TLS and QUIC.
//!
//! [`conn`] reads and writes frames, [`port`] tells RCP, HTTP and TLS apart on the shared port,
//! [`tls`] and [`quic`] prove who is there, [`dial_by`] opens a connection over any of them. Everything is generic over the byte stream where it can be, spawns nothing, and
//! decides nothing that two nodes must agree on: the tasks of the node drive it.

pub mod conn;
pub mod port;
pub mod quic;
pub mod tls;

mod addresses;
mod dial;
mod error;
mod pool;
mod prefixed;
mod via;

pub use addresses::connect_tcp;
pub use dial::{ByteStream, Dial, Dialled, dial, dial_by, set_up};
pub use error::NetError;
pub use pool::Buffers;
pub use prefixed::Prefixed;
