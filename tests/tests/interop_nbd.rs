//! The NBD server against outside clients (TESTING C1, C5), its own client, and hostile peers
//! (TESTING D5, H1, H2, H4, R13).

#[path = "interop_nbd/behaviour.rs"]
mod behaviour;
#[path = "interop_nbd/hostile.rs"]
mod hostile;
#[path = "interop_nbd/outside.rs"]
mod outside;
#[path = "interop_nbd/rig.rs"]
mod rig;
