//! Every bound of a node, in one place, with the sum that bounds its memory.
//!
//! Per volume: recent chunks ([`CACHE_BYTES`]), copies kept for a draining set ([`HELD_BYTES`]), and
//! what is in flight between machine and disk (a few chunks). Per connection: [`QUEUE_BYTES`] of
//! frames that wait for the socket (shared with the cache where they are the same chunks), and
//! [`SEED_AHEAD`] of extents that wait to become such frames. A session with several connections has
//! both once, shared, and one frame more for each further connection; beside them the frames that
//! have not come yet (`rcp::proto::limits::PLACES_WINDOW`, for the most part the same chunks), or, at
//! the receiver, those that came too early (the same from a peer that keeps to the protocol,
//! `MAX_PLACES_BYTES` from one that does not) and one frame of read-ahead for each further
//! connection. Credits are those of the streams and bound all of it together. For all
//! volumes together: chunks read back from save volumes for children that are behind, one part in
//! [`READBACK_SHARE`] of the node's `memory`, beyond which each child still has one read of its own;
//! and the buffers that `volmcast::storage` uses again and again (28 MiB).

use std::time::Duration;

/// Payload of one chunk.
pub const CHUNK_BYTES: u64 = 1 << 20;
/// Bytes a receiver grants ahead of what is durable: one credit window.
pub const WINDOW_BYTES: u64 = 8 << 20;
/// Recent chunks of one volume kept in memory for children near the head.
pub const CACHE_BYTES: u64 = 8 << 20;
/// Chunks of one volume that were read back from its save volume, kept for the children.
pub const READBACK_BYTES: u64 = 16 << 20;
/// The part of a node's memory that all volumes may use for such chunks: one in so many.
pub const READBACK_SHARE: u64 = 4;
/// Copies that writers keep for a draining set.
pub const HELD_BYTES: u64 = 8 << 20;
/// Frames that wait for one connection's socket.
pub const QUEUE_BYTES: u64 = 4 << 20;
/// Extents that were read for the seeds of one connection, all volumes together, and wait for their
/// turn; one more for each seed, because an extent is not cut in two.
pub const SEED_AHEAD: u64 = 8 << 20;
/// They are asked for in steps of so many bytes.
pub const SEED_STEP: u64 = 1 << 20;
/// Signs of life between neighbours.
pub const KEEPALIVE: Duration = Duration::from_secs(2);
/// Connections the shared port serves at once.
pub const MAX_CONNECTIONS: usize = 1024;
/// Connections of the shared port that have not said yet what they are, at once; one more takes the
/// place of the oldest.
pub const MAX_CLASSIFYING: usize = 256;
/// Of them, from one address.
pub const MAX_CLASSIFYING_FROM_ONE: usize = 128;
/// Connections of the shared port that speak HTTP, at once: others can be sessions.
pub const MAX_HTTP: usize = 512;
/// Of them, from one address.
pub const MAX_HTTP_FROM_ONE: usize = 256;
/// Sessions whose peer has not introduced itself, at once.
pub const MAX_GREETING: usize = 256;
/// Of them, from one address.
pub const MAX_GREETING_FROM_ONE: usize = 128;
/// Time for the headers of a request whose first line came so late that none is left.
pub const MIN_HEADER_READ: Duration = Duration::from_millis(500);
/// QUIC handshakes under way at once; beyond half of them, peers have to show their address first.
pub const MAX_HANDSHAKES: usize = 256;
/// After a write failed, the reader has this long to find what the peer said.
pub const LAST_WORDS: Duration = Duration::from_millis(500);
/// What is queued for a connection that was closed has this long to go.
pub const LAST_FRAMES: Duration = Duration::from_secs(3);
/// How often part of a long frame counts as a sign of life.
pub const PART_OF_FRAME: Duration = Duration::from_millis(500);
/// How often certificates on disk are looked at.
pub const PKI_POLL: Duration = Duration::from_secs(2);
/// How often the certificates of running sessions are judged again.
pub const PKI_JUDGE: Duration = Duration::from_secs(30);
/// Inputs that wait for the core.
pub const CORE_QUEUE: usize = 4096;
/// Frames that wait for one connection's writer.
pub const FRAME_QUEUE: usize = 8192;
/// Handlers of control blocks that run at once; others wait.
pub const MAX_HANDLERS: usize = 4;
/// Handlers about who writes that run at once, at most one for each volume; others wait.
pub const MAX_ROLE_HANDLERS: usize = 16;
/// How long the handler of a control block may run; of one about who writes, how long it may wait and
/// run.
pub const HANDLER_TIME: Duration = Duration::from_secs(60);
/// How long a handler may run that is told of a writer that is lost: a failover takes its time.
pub const LOST_HANDLER_TIME: Duration = Duration::from_secs(600);
/// Deadline for an orderly stop.
pub const STOP_DEADLINE: Duration = Duration::from_secs(10);

/// Bytes of the file, per volume, that lists which blocks changed in which step; it takes the room
/// that it needs, up to this.
pub const CHANGES_BYTES: u64 = 32 << 20;

/// A search for damage that does nothing.
pub const NO_SCRUB: volmcast::volume::ScrubPolicy =
    volmcast::volume::ScrubPolicy { rate: 0, every: std::time::Duration::MAX };
