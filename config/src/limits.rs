//! Every bound of the topology in one place: what a file may contain, and what a value may be.

use std::time::Duration;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const TIB: u64 = 1 << 40;

/// The only version of the file format there is.
pub const VERSION: u32 = 1;
/// Largest topology file, in bytes.
pub const MAX_INPUT: usize = 1 << 20;
/// Deepest nesting of collections in a file.
pub const MAX_DEPTH: usize = 32;
/// What a file may cost after its aliases are expanded: one per value and one per 16 bytes of text.
pub const MAX_COST: usize = 250_000;
/// Errors shown for one file; more are only counted.
pub const MAX_ERRORS: usize = 100;
/// Longest path in a file, in bytes.
pub const MAX_PATH: usize = 1024;

/// Smallest block, in bytes.
pub const MIN_BLOCK: u64 = 512;
/// Largest block, in bytes.
pub const MAX_BLOCK: u64 = MIB;
/// Block size of a volume that does not name one.
pub const DEFAULT_BLOCK: u64 = 4 * KIB;
/// Largest volume, in bytes.
pub const MAX_VOLUME: u64 = 64 * TIB;
/// Largest volume, in blocks.
pub const MAX_BLOCKS: u64 = 1 << 34;

/// Smallest save volume: it must hold several chunks of 1 MiB.
pub const MIN_SAVE: u64 = 8 * MIB;
/// Save volume of a volume that does not name one.
pub const DEFAULT_SAVE: u64 = GIB;
/// Largest save volume or snapshot area.
pub const MAX_SAVE: u64 = MAX_VOLUME;
/// Smallest snapshot area.
pub const MIN_SNAPSHOT_AREA: u64 = MIB;
/// Snapshot area of a volume that does not name one.
pub const DEFAULT_SNAPSHOT_AREA: u64 = GIB;

/// Smallest memory bound of a node.
pub const MIN_MEMORY: u64 = 16 * MIB;
/// Memory bound of a node that does not name one.
pub const DEFAULT_MEMORY: u64 = 256 * MIB;
/// Largest memory bound of a node.
pub const MAX_MEMORY: u64 = 16 * TIB;

/// Smallest high-water mark.
pub const MIN_HWM: u64 = 64 * KIB;
/// High-water mark of a policy that does not name one.
pub const DEFAULT_HWM: u64 = 64 * MIB;
/// Largest high-water mark.
pub const MAX_HWM: u64 = MAX_VOLUME;
/// Smallest age from which on a replica may refuse reads: how current it is, is told twice a second.
pub const MIN_STALENESS: Duration = Duration::from_secs(2);
/// Least bytes per second of the search for damage.
pub const MIN_SCRUB: u64 = 64 * KIB;
/// Bytes per second of it, unless told otherwise.
pub const DEFAULT_SCRUB: u64 = 16 * MIB;
/// Most bytes per second of it.
pub const MAX_SCRUB: u64 = TIB;
/// Least time from the end of one round of it to the beginning of the next.
pub const MIN_SCRUB_EVERY: Duration = Duration::from_secs(60);
/// That time, unless told otherwise.
pub const DEFAULT_SCRUB_EVERY: Duration = Duration::from_secs(86_400);
/// Shortest silence of a writer that is told: each node on the way notices one after three seconds.
pub const MIN_WRITER_LOST: Duration = Duration::from_secs(5);
/// That time, unless told otherwise.
pub const DEFAULT_WRITER_LOST: Duration = Duration::from_secs(30);
/// Longest such time.
pub const MAX_WRITER_LOST: Duration = Duration::from_secs(86_400);
/// Shortest timeout that triggers a new delta set.
pub const MIN_TIMEOUT: Duration = Duration::from_millis(100);
/// Longest timeout of any policy.
pub const MAX_TIMEOUT: Duration = Duration::from_secs(365 * 86_400);
/// Shortest time that writes wait for receivers that fill the save volume.
pub const MIN_SUSPEND: Duration = Duration::from_millis(100);
/// That time, unless told otherwise: below what clients of block devices usually wait for.
pub const DEFAULT_SUSPEND: Duration = Duration::from_secs(20);
/// Longest such time.
pub const MAX_SUSPEND: Duration = Duration::from_secs(3600);
/// Fewest bytes that a stopped receiver may be told to hold back at most.
pub const MIN_KEEP_BYTES: u64 = 64 * KIB;
/// Most delta sets of that.
pub const MAX_KEEP_SETS: u64 = 1 << 32;
/// Shortest time of that.
pub const MIN_KEEP_TIME: Duration = Duration::from_millis(100);
/// Timeout of a policy that does not name one.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(600);
