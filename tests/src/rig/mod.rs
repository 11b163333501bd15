//! Real nodes as real processes, on loopback, in a temporary folder: for tests from outside.
//!
//! A [`Plan`] says which nodes, routes and volumes there are; [`Tree::start`] writes the topology
//! and starts the programs that users run. Everything waits with a deadline and says what it
//! waited for. Whatever is started ends with the [`Tree`]; if the test fails, the logs are shown.

mod authority;
mod binaries;
mod commands;
mod crowd;
mod mounted;
mod narrow;
mod outside;
mod plan;
mod process;
mod proxy;
mod random;
mod sites;
mod slow;
mod tree;
mod wait;

pub use authority::{Authority, Issued};
pub use binaries::{example, program};
pub use crowd::{Crowd, connect_from, many_descriptors};
pub use mounted::{Device, Mounted, may_mount};
pub use narrow::Narrow;
pub use outside::{lacking, run, said, tool};
pub use plan::{Plan, free_port};
pub use process::{Ended, Process};
pub use proxy::Proxy;
pub use random::{Random, stamp, stamped};
pub use sites::Sites;
pub use slow::SlowDisk;
pub use tree::Tree;
pub use wait::{Clock, wait_for};

/// A mebibyte.
pub const MIB: u64 = 1 << 20;
