//! Routing tables, fan-out from one inbound stream to many children, and what flows back up.
//!
//! Pure decisions: which children a node has ([`table`]), who may feed it ([`feeder`]), how far each
//! child is and what it is sent next ([`outbound`]), what the subtree below has saved and played
//! ([`aggregate`]), whom it feeds in the place of a child that is away ([`bypass`]), and when to dial again ([`backoff`], which is `rcp`'s). The stored chunk bytes come through a small
//! trait that the save volume implements; this crate knows nothing of volumes, sockets or clocks.
//! `docs/routing.md` is the specification of the stored table and of the rules.

pub mod aggregate;
pub mod bypass;
pub mod feeder;
pub mod limits;
mod near;
pub mod outbound;
pub mod table;

pub use rcp::proto::backoff;
