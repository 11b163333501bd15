//! Shared parts of the cross-crate tests.

pub mod rig;
pub mod sim;
