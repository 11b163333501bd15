//! Shared parts of the cross-crate tests, and the measurements.

pub mod bench;
