//! HTTP: the status, the metrics, the volumes' bytes, and (on the Unix socket) the changes.
//!
//! [`routers`] builds the two services over a [`NodeApi`](crate::api::NodeApi);
//! [`serve_connection`] runs one of them on a connection. Nothing here listens: the shared port
//! and the control socket hand their connections over. Every wait and every buffer has a bound in
//! [`limits`]; one response is one state of a volume.

mod answer;
mod body;
mod condition;
mod conn;
mod control;
mod dashboard;
mod guard;
pub mod limits;
pub mod paths;
mod range;
pub mod requests;
mod router;
mod stall;
#[cfg(test)]
pub(crate) mod tests;
mod upgrade;
mod volume;

pub use conn::{End, serve_connection, serve_http2};
pub use guard::Guard;
pub use limits::Deadlines;
pub use router::{Routers, routers, routers_with};
pub use upgrade::{From, Upgrades};
