//! Every bound of the HTTP service, and why it has that size.

use std::time::Duration;

/// Longest request line and headers together; the shared port decides within the same limit.
pub const MAX_HEADER_BYTES: usize = 8 << 10;
/// Most headers of one request.
pub const MAX_HEADERS: usize = 64;
/// Requests under way at once on one HTTP/2 connection.
pub const MAX_H2_STREAMS: u32 = 32;
/// How often an HTTP/2 client is asked whether it is there, and how long it may take to answer.
pub const H2_ALIVE: Duration = Duration::from_secs(20);
/// Longest body of a change: the data of a control block, in hexadecimal digits.
pub const MAX_BODY_BYTES: usize = 72 << 10;
/// The same of a topology: the largest file, with what JSON makes of its line ends.
pub const MAX_TOPOLOGY_BYTES: usize = 2 << 20;
/// Time for a body of that length.
pub const BODY_READ: Duration = Duration::from_secs(5);
/// What one read of a volume takes from the disk at once.
pub const PIECE: u64 = 1 << 20;
/// Volume reads served at the same time. Each holds up to three pieces (one being read, one on
/// offer, one in the socket's queue), so that all of them stay below 72 MiB.
pub const MAX_VOLUME_READS: usize = 24;
/// Time for the node to describe itself; it takes microseconds unless the node is stuck.
pub const STATUS: Duration = Duration::from_secs(10);
/// Longest part of a request that is repeated in an answer or a log line.
pub const MAX_ECHO: usize = 120;

/// How long a connection may take for what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadlines {
    /// From the first byte of a request (or from the end of the one before it) to the end of its
    /// headers.
    pub header_read: Duration,
    /// Without any byte taken by a client that is being sent something.
    pub write_stall: Duration,
    /// For the answer that is being sent when the service stops.
    pub drain: Duration,
}

impl Default for Deadlines {
    fn default() -> Self {
        Self {
            header_read: Duration::from_secs(5),
            write_stall: Duration::from_secs(30),
            drain: Duration::from_secs(5),
        }
    }
}
