//! What is fuzzed: one function for each target, from bytes to assertions.
//!
//! The targets of cargo-fuzz (`fuzz_targets/`) and the property tests that run on stable Rust
//! (`rcp/tests/fuzzed.rs`) both go in here, so that what one finds the other can repeat. Nothing in
//! here needs `std::env`, files or a fuzzer.

#![allow(dead_code, unreachable_pub)] // each target uses a part

#[path = "feed.rs"]
pub mod feed;
#[path = "first_bytes.rs"]
pub mod first_bytes;
#[path = "frames.rs"]
pub mod frames;
#[path = "handshake.rs"]
pub mod handshake;
#[path = "session.rs"]
pub mod session;
