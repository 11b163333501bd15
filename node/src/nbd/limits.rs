//! Every bound of the NBD server, in one place.

use std::time::Duration;

/// Connections with an open export, at once; one more is closed and counted.
pub const MAX_CONNECTIONS: usize = 256;
/// TCP connections before that, at once; one more takes the place of the oldest.
pub const MAX_HAGGLING: usize = 64;
/// Of them, from one address.
pub const MAX_HAGGLING_FROM_ONE: usize = 48;
/// A TCP peer that says nothing for so many seconds is asked whether it is still there.
pub const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
/// From accept to the end of option haggling.
pub const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(5);
/// Options one client may send. A tool that lists asks a few per export.
pub const MAX_OPTIONS: u32 = 8192;
/// Option data that is looked at.
pub const MAX_OPTION_LEN: u32 = 16 * 1024;
/// Option data that is skipped with `ERR_TOO_BIG`; beyond it the connection is closed.
pub const MAX_OPTION_SKIP: u32 = 64 * 1024;
/// Option replies are sent when this many bytes have gathered.
pub const HANDSHAKE_OUT: usize = 64 * 1024;
/// Longest string of the protocol: names, descriptions, messages (NBD, "Conventions").
pub const MAX_STRING: usize = 4096;
/// Payload of one READ or WRITE, announced as the maximum block size.
pub const MAX_PAYLOAD: u32 = 64 * 1024 * 1024;
/// A piece of a large request: what one buffer of the budget holds at most.
pub const PIECE: usize = 1024 * 1024;
/// Smallest announced preferred block size.
pub const MIN_PREFERRED: u32 = 4096;
/// Receive buffer that every connection owns.
pub const RX_BUFFER: usize = 256 * 1024;
/// Reply buffer that every connection owns.
pub const TX_BUFFER: usize = 128 * 1024;
/// Send buffer asked of the kernel for a Unix socket, whose default holds less than one large
/// reply; TCP sizes its own. The kernel clamps it to `net.core.wmem_max`.
pub const UNIX_SEND_BUFFER: usize = 1024 * 1024;
/// Times a connection looks for the next request, giving way to others, before it sleeps.
pub const SPIN: u32 = 32;
/// A connection whose looking was in vain tries it again after this many sleeps.
pub const SPIN_AGAIN: u32 = 64;
/// Replies are sent when this many bytes have gathered, even if more requests are buffered.
pub const TX_FLUSH_BYTES: usize = 64 * 1024;
/// Replies are sent when this many have gathered, so that the client works while we do.
pub const TX_FLUSH_REPLIES: usize = 8;
/// Reads from this length on go to the worker pool when another request waits behind them.
pub const OVERLAP_MIN: usize = 256 * 1024;
/// Reads from this length on are checked for zero areas when structured replies are spoken.
pub const HOLE_CHECK_MIN: usize = 64 * 1024;
/// Zero areas shorter than this are sent as the bytes they are.
pub const HOLE_MIN: u64 = 32 * 1024;
/// Memory for pieces and for requests in the worker pool, shared by all connections.
pub const BUDGET: usize = 64 * 1024 * 1024;
/// Idle pieces that the budget keeps warm.
pub const SPARE_PIECES: usize = 8;
/// Threads for what may block; one export has at most half of them, so that another whose writes are
/// held does not hold it up.
pub const WORKERS: usize = 16;
/// Requests that wait for a worker.
pub const POOL_QUEUE: usize = 1024;
/// Requests of one connection in the pool or waiting for their reply to be sent.
pub const MAX_IN_FLIGHT: usize = 64;
/// Extents in one BLOCK_STATUS reply.
pub const MAX_EXTENTS: usize = 4096;
/// Buffer of each direction of a connection with TLS, beside what rustls holds (two records).
pub const TLS_BUFFER: usize = 32 * 1024;
/// How long a connection with TLS that has ended waits for its last bytes to be taken.
pub const TLS_LINGER: Duration = Duration::from_secs(2);
/// Stack of a connection's thread and of a worker.
pub const STACK: usize = 512 * 1024;
