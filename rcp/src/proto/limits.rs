//! Every bound of the protocol, in one place.
//!
//! A peer that goes over one of these is refused before memory is allocated for it. The table
//! "Limits" in `PROTOCOL.md` is held against these constants by a test.

use std::time::Duration;

/// Smallest block size, as a power of two (512 B).
pub const MIN_BLOCK_SHIFT: u8 = 9;
/// Largest block size, as a power of two (1 MiB).
pub const MAX_BLOCK_SHIFT: u8 = 20;
/// Most blocks of a volume.
pub const MAX_VOLUME_BLOCKS: u64 = 1 << 34;
/// Most bytes of a volume (64 TiB).
pub const MAX_VOLUME_BYTES: u64 = 64 << 40;

/// Most blocks that a volume with this block size may have.
#[must_use]
pub fn max_blocks(block_shift: u8) -> u64 {
    MAX_VOLUME_BLOCKS.min(MAX_VOLUME_BYTES >> block_shift)
}

/// Bytes of a chunk's header.
pub const CHUNK_HEADER_LEN: usize = 128;
/// Bytes of a set header.
pub const SET_HEADER_LEN: usize = 192;
/// Bytes of one entry of a chunk's extent table.
pub const EXTENT_LEN: usize = 16;
/// Most extents of a chunk: the table is at most 64 KiB.
pub const MAX_EXTENTS: usize = 4096;
/// Most payload bytes of a chunk before compression.
pub const MAX_PAYLOAD: usize = 4 << 20;
/// Payload a chunk is filled up to where nothing says otherwise.
pub const DEFAULT_PAYLOAD: usize = 1 << 20;
/// Longest chunk.
pub const MAX_CHUNK_LEN: usize = CHUNK_HEADER_LEN + MAX_EXTENTS * EXTENT_LEN + MAX_PAYLOAD;
/// Most chunks of a step that may be held out of order while its list checksum is built.
pub const MAX_CHUNKS_OUT_OF_ORDER: usize = 65_536;

/// Bytes of a frame's header.
pub const FRAME_HEADER_LEN: usize = 16;
/// Longest body of a control frame.
pub const MAX_CONTROL_BODY: usize = 64 << 10;
/// Longest fixed part before the chunk in a data frame's body.
pub const MAX_DATA_PREFIX: usize = 28;
/// Longest body of a data frame.
pub const MAX_DATA_BODY: usize = MAX_CHUNK_LEN + MAX_DATA_PREFIX;

/// Longest explanatory text (refusals, reasons, errors); the encoder cuts longer ones.
pub const MAX_TEXT: usize = 1024;
/// Longest text of one leaf in a report; the encoder cuts longer ones.
pub const MAX_LEAF_TEXT: usize = 256;
/// Longest kind of a control block.
pub const MAX_CONTROL_KIND: usize = 64;
/// Longest body of a control block or of its result.
pub const MAX_CONTROL_BLOCK: usize = 32 << 10;
/// Most nodes of a path: the deepest tree.
pub const MAX_PATH: usize = 64;
/// Most generations in the history of an offer.
pub const MAX_HISTORY: usize = 512;
/// Most entries of a report's histogram of states.
pub const MAX_REPORT_STATES: usize = 16;
/// Most leaves named in a report.
pub const MAX_REPORT_LEAVES: usize = 8;
/// Most runs of blocks in one `Doubt` frame.
pub const MAX_DOUBTS: usize = 4000;
/// Most sums in one `Sums` frame.
pub const MAX_SUMS: usize = 256;
/// Most nodes in one route report frame.
pub const MAX_ROUTE_NODES: usize = 1024;
/// Most next hops of one node in a route report.
pub const MAX_ROUTE_HOPS: usize = 256;
/// Most volumes of one probe.
pub const MAX_PROBE_VOLUMES: usize = 1024;

/// Longest opening line, with its line end.
pub const MAX_OPENING_LINE: usize = 256;
/// Most bytes read before a connection must be classified.
pub const MAX_FIRST_BYTES: usize = 8 << 10;
/// Time within which a connection must be classified.
pub const CLASSIFY_DEADLINE: Duration = Duration::from_secs(5);
/// Time within which a connection must be made and the opening line written.
pub const DIAL_DEADLINE: Duration = Duration::from_secs(5);
/// Time from the opening line to the end of the handshake.
pub const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(5);
/// Shortest keep-alive interval that is honoured.
pub const MIN_KEEPALIVE: Duration = Duration::from_millis(100);
/// Longest keep-alive interval that is honoured.
pub const MAX_KEEPALIVE: Duration = Duration::from_secs(60);
/// A session is dead after this many keep-alive intervals of silence.
pub const IDLE_KEEPALIVES: u32 = 3;
/// Most frames that a session queues for its driver.
pub const MAX_SESSION_QUEUE: usize = 1024;
/// Most connections of one session.
pub const MAX_SESSION_CONNECTIONS: usize = 16;
/// Bytes of frames that a sender has under way in a session with several connections, before it
/// waits: they are kept until they have come.
pub const PLACES_WINDOW: usize = 16 << 20;
/// The same in frames.
pub const PLACES_FRAMES: usize = 4096;
/// Bytes of frames that a receiver holds because one before them is missing; more is an error.
pub const MAX_PLACES_BYTES: usize = PLACES_WINDOW * 2;
/// The same in frames, and how far their places may be ahead.
pub const MAX_PLACES_FRAMES: usize = PLACES_FRAMES * 4;
/// First wait before a dialler tries again.
pub const BACKOFF_MIN: Duration = Duration::from_millis(100);
/// Longest wait before a dialler tries again a peer that has not been away for long.
pub const BACKOFF_SOON: Duration = Duration::from_millis(500);
/// Longest wait before a dialler tries again.
pub const BACKOFF_MAX: Duration = Duration::from_secs(10);
