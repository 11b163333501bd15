//! Shared parts of the cross-crate tests, the simulator, and the measurements.

pub mod bench;
pub mod sim;
