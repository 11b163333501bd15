//! RCP for applications, without volumes: send to every member of a group through a tree, and be
//! told what became of it at each (SESS-01, SESS-04 to SESS-11).
//!
//! An [`Endpoint`] is one member: it listens for whoever feeds it, feeds its children of each
//! [`Group`], and has callbacks for kinds of control blocks and for pipes. A [`Session`] with a group
//! sends
//!
//! * **control blocks** ([`Session::send`]): up to 32 KiB, executed at most once by every member, in
//!   the order in which they were sent, acknowledged by each by name;
//! * **pipes** ([`Session::pipe`]): any number of bytes, written once by the sender, passed on by
//!   every forwarder piece by piece as they come, at the pace of the slowest member that is not left
//!   out, and acknowledged by each by name at the end.
//!
//! A member that is away is named, with the reason; it gets what it missed of control blocks when it
//! is back. `docs/library.md` says what holds when something is killed, and why pipes are made as
//! they are.
//!
//! ```
//! use std::time::Duration;
//!
//! use bytes::Bytes;
//! use rcp::group::{Endpoint, Group, Setup, Trust};
//! use tokio::io::{AsyncReadExt, AsyncWriteExt};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let wait = Duration::from_secs(10);
//!
//! // A member that says how long what it is sent is.
//! let leaf = Setup::new("leaf", Trust::Loopback)?
//!     .listen("127.0.0.1:0")
//!     .group(Group::new("g1")?)
//!     .on("greet", |block| async move {
//!         match std::str::from_utf8(&block.body) {
//!             Ok(name) => Ok(Bytes::from(format!("hello {name}"))),
//!             Err(_) => Err("that is no name".to_owned()),
//!         }
//!     })
//!     .on_pipe("data", |mut pipe| async move {
//!         let mut all = Vec::new();
//!         pipe.read_to_end(&mut all).await.map_err(|e| e.to_string())?;
//!         Ok(Bytes::from(all.len().to_string()))
//!     });
//! let leaf = Endpoint::start(leaf).await?;
//!
//! // One that feeds it.
//! let addr = leaf.addr().unwrap_or_default();
//! let root = Setup::new("root", Trust::Loopback)?.group(Group::new("g1")?.child("leaf", addr)?);
//! let root = Endpoint::start(root).await?;
//! let session = root.session("g1")?;
//!
//! let acks = session.send("greet", "Ada", wait).await?;
//! assert_eq!(acks.to_string(), "leaf: done: hello Ada");
//! let acks = session.send("sing", "", wait).await?;
//! assert_eq!(
//!     acks.to_string(),
//!     "leaf: refused: no callback for control blocks `sing` at leaf"
//! );
//!
//! let mut pipe = session.pipe("data").await?;
//! pipe.write_all(&[7; 100_000]).await?;
//! let acks = pipe.finish(wait).await?;
//! assert_eq!(acks.to_string(), "leaf: done: 100000");
//! # Ok(())
//! # }
//! ```

mod clock;
mod core;
mod endpoint;
mod inbound;
mod links;
mod memory;
mod port;
mod pump;
pub mod record;
mod setup;
mod tasks;
mod wire;

pub use endpoint::{Ack, Acks, ChildState, Endpoint, GroupError, Outcome, Pipe, Session};
pub use inbound::Incoming;
pub use memory::Hub;
pub use setup::{Answer, Block, Group, Setup, SetupError, Trust};

pub use crate::proto::control::BlockId;
