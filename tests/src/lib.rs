//! Shared parts of the cross-crate tests: the rig of real nodes, the simulator, the measurements.

pub mod bench;
pub mod rig;
pub mod sim;
