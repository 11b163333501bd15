//! Routing tables, fan-out from one inbound stream to many children, and what flows back up.
//!
//! Pure decisions: which children a node has, how far each is, what it is sent next, what the
//! subtree below has saved and played. The stored chunk bytes come through a small trait that the
//! save volume implements; this crate knows nothing of volumes.
