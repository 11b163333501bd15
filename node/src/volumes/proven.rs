//! Reading content together with its hashes.

use volmcast::digest::{hashes_in, table_range, tells};
use volmcast::io::{FileId, IoError};
use volmcast::storage::Storage;
use volmcast::units::{BlockIndex, BlockSize};

/// What the table of hashes says of blocks.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// Their content is not what was stored.
    pub(super) wrong: Vec<u64>,
    /// Their hash is not what was stored: nothing is known of the content.
    pub(super) unknown: Vec<u64>,
}

/// Reads `out.len()` bytes at `start` of the base, which lie within the `count` blocks from `first`
/// on, and holds them against the table of hashes.
///
/// # Errors
/// The system's.
pub(super) fn read(
    files: &(impl Storage + ?Sized),
    bs: BlockSize,
    (first, count): (BlockIndex, u64),
    start: u64,
    out: &mut [u8],
) -> Result<Found, IoError> {
    let (from, len) = (bs.offset(first), usize::try_from(count << bs.shift()).unwrap_or(0));
    let whole = from == start && len == out.len();
    let mut around = if whole { Vec::new() } else { vec![0; len] };
    let blocks = if whole { &mut *out } else { &mut around[..] };
    files.read_into(FileId::Base, from, blocks)?;
    let found = differ(files, first, blocks, bs)?;
    if !whole {
        let skip = usize::try_from(start - from).unwrap_or(0);
        out.copy_from_slice(&around[skip..skip + out.len()]);
    }
    Ok(found)
}

/// What the table of hashes says of the blocks from `first` on, which hold this content.
///
/// # Errors
/// The system's.
pub(super) fn differ(
    files: &(impl Storage + ?Sized),
    first: BlockIndex,
    content: &[u8],
    bs: BlockSize,
) -> Result<Found, IoError> {
    let (at, n) = table_range(first.0, content.len() as u64 >> bs.shift());
    let mut small = [0; 512];
    let mut large = Vec::new();
    let table = if n <= small.len() {
        &mut small[..n]
    } else {
        large.resize(n, 0);
        &mut large[..]
    };
    files.read_into(FileId::Hashes, at, table)?;
    if rcp::planted!(ContentUnchecked) {
        return Ok(Found::default());
    }
    let pairs = content.chunks(1 << bs.shift()).zip(hashes_in(table)).zip(first.0..);
    let mut found = Found::default();
    for ((content, entry), block) in pairs {
        if entry.is_none() {
            found.unknown.push(block);
        } else if tells(entry, block, content) {
            found.wrong.push(block);
        }
    }
    Ok(found)
}
