//! Reading content together with its hashes.

use volmcast::digest::{BlockHash, hashes_in, table_range};
use volmcast::io::{FileId, IoError};
use volmcast::storage::Storage;
use volmcast::units::{BlockIndex, BlockSize};

/// Reads `out.len()` bytes at `start` of the base, which lie within the `count` blocks from `first`
/// on, and gives the blocks whose content is not what the table of hashes says.
///
/// # Errors
/// The system's.
pub(super) fn read(
    files: &(impl Storage + ?Sized),
    bs: BlockSize,
    (first, count): (BlockIndex, u64),
    start: u64,
    out: &mut [u8],
) -> Result<Vec<u64>, IoError> {
    let (from, len) = (bs.offset(first), usize::try_from(count << bs.shift()).unwrap_or(0));
    let whole = from == start && len == out.len();
    let mut around = if whole { Vec::new() } else { vec![0; len] };
    let blocks = if whole { &mut *out } else { &mut around[..] };
    files.read_into(FileId::Base, from, blocks)?;
    let wrong = differ(files, first, blocks, bs)?;
    if !whole {
        let skip = usize::try_from(start - from).unwrap_or(0);
        out.copy_from_slice(&around[skip..skip + out.len()]);
    }
    Ok(wrong)
}

/// The blocks from `first` on whose `content` is not what the table of hashes says.
///
/// # Errors
/// The system's.
pub(super) fn differ(
    files: &(impl Storage + ?Sized),
    first: BlockIndex,
    content: &[u8],
    bs: BlockSize,
) -> Result<Vec<u64>, IoError> {
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
        return Ok(Vec::new());
    }
    let pairs = content.chunks(1 << bs.shift()).zip(hashes_in(table)).zip(first.0..);
    let wrong = pairs.filter(|((content, hash), block)| BlockHash::of(*block, content) != *hash);
    Ok(wrong.map(|(_, block)| block).collect())
}
