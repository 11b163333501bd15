//! The NBD server against outside clients, its own client, and hostile peers.

#[path = "interop_nbd/behaviour.rs"]
mod behaviour;
#[path = "interop_nbd/hostile.rs"]
mod hostile;
#[path = "interop_nbd/outside.rs"]
mod outside;
#[path = "interop_nbd/rig.rs"]
mod rig;
#[path = "interop_nbd/tls.rs"]
mod tls;
