//! Hashes of blocks and their sum, the digest of a volume in one state (DESIGN section 4).
//!
//! The digest is the sum, modulo 2^128, of the hashes of all blocks. A block's hash includes its
//! number, so that two blocks whose content is swapped do not cancel; that of a block of zeroes is 0,
//! so that unused blocks cost nothing and a volume may grow. A sum is told from the one before by the
//! blocks that changed: minus the old hash, plus the new one.
//!
//! The table beside the content keeps each hash with a checksum of its own. So a hash that rotted on
//! the disk is not taken for content that did, and never gets into a sum.

use std::fmt;

use bytes::{BufMut, Bytes, BytesMut};
use rcp::proto::ids::VolumeId;
use xxhash_rust::xxh3::xxh3_128_with_seed;

/// Bytes of one entry of the table.
pub const ENTRY_LEN: u64 = 20;
/// Where the table begins in its file; before it stands the head.
pub const TABLE_AT: u64 = 4096;
/// Bytes of the head.
pub const HEAD_LEN: usize = 28;
const MAGIC: [u8; 4] = *b"VCBH";
const VERSION: u8 = 2;
/// Bytes of a hash.
const LEN: usize = 16;
const ENTRY: usize = ENTRY_LEN as usize;

/// Hash of one block, with its number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BlockHash(pub u128);

/// A sum of block hashes.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Sum(pub u128);

impl BlockHash {
    /// Of a block of zeroes.
    pub const ZERO: Self = Self(0);

    /// Of a block's content.
    #[must_use]
    pub fn of(block: u64, content: &[u8]) -> Self {
        if is_zero(content) {
            return Self::ZERO;
        }
        Self(xxh3_128_with_seed(content, block).max(1))
    }
}

impl Sum {
    /// With one more block.
    #[must_use]
    pub fn plus(self, h: BlockHash) -> Self {
        Self(self.0.wrapping_add(h.0))
    }

    /// With another sum added.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self(self.0.wrapping_add(other.0))
    }

    /// Without what another sum has.
    #[must_use]
    pub fn minus(self, other: Self) -> Self {
        Self(self.0.wrapping_sub(other.0))
    }

    /// Of some hashes.
    #[must_use]
    pub fn of(hashes: &[BlockHash]) -> Self {
        hashes.iter().fold(Self::default(), |s, h| s.plus(*h))
    }

    /// Of hashes as the table has them; `None` if one of them is damaged.
    #[must_use]
    pub fn of_table(bytes: &[u8]) -> Option<Self> {
        hashes_in(bytes).try_fold(Self::default(), |s, h| Some(s.plus(h?)))
    }

    /// As a set header carries it.
    #[must_use]
    pub fn to_header(self) -> [u8; 32] {
        let mut b = [0; 32];
        b[..LEN].copy_from_slice(&self.0.to_le_bytes());
        b
    }
}

impl fmt::Debug for Sum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Display for Sum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// Hashes of consecutive blocks from `first` on, from their content.
#[must_use]
pub fn hash_blocks(first: u64, content: &[u8], shift: u8) -> Vec<BlockHash> {
    let blocks = content.chunks(1 << shift).zip(first..);
    blocks.map(|(c, b)| BlockHash::of(b, c)).collect()
}

/// Hashes as the table has them.
#[must_use]
pub fn table_bytes(hashes: &[BlockHash]) -> Bytes {
    let mut b = BytesMut::with_capacity(hashes.len() * ENTRY);
    for h in hashes {
        let hash = h.0.to_le_bytes();
        b.put_slice(&hash);
        b.put_u32_le(check(&hash));
    }
    b.freeze()
}

/// Hashes out of the bytes of the table; `None` for an entry that is not what was stored, which says
/// nothing of its block.
pub fn hashes_in(bytes: &[u8]) -> impl Iterator<Item = Option<BlockHash>> {
    let (entries, _) = bytes.as_chunks::<ENTRY>();
    entries.iter().map(|e| {
        let (hash, rest) = e.split_first_chunk::<LEN>()?;
        let whole = rest == check(hash).to_le_bytes();
        whole.then_some(BlockHash(u128::from_le_bytes(*hash)))
    })
}

/// What stands behind a hash: 0 if that is 0, so that holes are entries.
fn check(hash: &[u8; LEN]) -> u32 {
    if *hash == [0; LEN] { 0 } else { crc32c::crc32c(hash) }
}

/// What an entry says of content: that it is not what was stored there.
#[must_use]
pub fn tells(entry: Option<BlockHash>, block: u64, content: &[u8]) -> bool {
    entry.is_some_and(|h| h != BlockHash::of(block, content))
}

/// Where the hashes of some blocks stand in the table, and how many bytes they take.
#[must_use]
pub fn table_range(first: u64, count: u64) -> (u64, usize) {
    (TABLE_AT + first * ENTRY_LEN, usize::try_from(count * ENTRY_LEN).unwrap_or(usize::MAX))
}

/// What the file of the table begins with: it is this volume's, and was not lost.
#[must_use]
pub fn table_head(volume: VolumeId, shift: u8) -> Bytes {
    let mut b = BytesMut::with_capacity(HEAD_LEN);
    b.put_slice(&MAGIC);
    b.put_u8(VERSION);
    b.put_u8(shift);
    b.put_u16_le(0);
    b.put_slice(&volume.0);
    let crc = crc32c::crc32c(&b);
    b.put_u32_le(crc);
    b.freeze()
}

/// Whether a block holds zeroes only.
#[must_use]
pub fn is_zero(block: &[u8]) -> bool {
    const ZERO: [u8; 4096] = [0; 4096];
    block.chunks(ZERO.len()).all(|c| c == &ZERO[..c.len()])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_is_of_content_and_place() {
        let (a, b) = ([1u8; 4096], [2u8; 4096]);
        assert_eq!(BlockHash::of(5, &[0; 4096]), BlockHash::ZERO);
        assert_ne!(BlockHash::of(5, &a), BlockHash::of(6, &a));
        let sum = |x: &[u8], y: &[u8]| Sum::of(&[BlockHash::of(5, x), BlockHash::of(6, y)]);
        assert_ne!(sum(&a, &b), sum(&b, &a), "swapped blocks do not cancel");
        assert_eq!(sum(&a, &b).minus(Sum::of(&[BlockHash::of(6, &b)])).0, BlockHash::of(5, &a).0);
    }

    /// These may never change.
    #[test]
    fn golden_values() {
        let hex = |h: BlockHash| format!("{:032x}", h.0);
        assert_eq!(hex(BlockHash::of(0, &[0xa5; 512])), "dc81ca0bbfb21348852db2e99e233242");
        assert_eq!(hex(BlockHash::of(1 << 33, &[0xa5; 4096])), "290157cb2b9479d1e9a96990403ea195");
    }

    #[test]
    fn the_table_has_what_was_hashed() {
        let content: Vec<u8> = (0..16 * 512u32).map(|i| (i / 700) as u8).collect();
        let hashes = hash_blocks(9, &content, 9);
        assert_eq!(hashes.len(), 16);
        assert_eq!(hashes[0], BlockHash::ZERO);
        let table = table_bytes(&hashes);
        let read: Option<Vec<_>> = hashes_in(&table).collect();
        assert_eq!(read.as_ref(), Some(&hashes));
        assert_eq!(Sum::of_table(&table), Some(Sum::of(&hashes)));
        assert_eq!(table_range(9, 16), (4096 + 180, 320));
    }

    #[test]
    fn an_entry_that_rotted_says_nothing() {
        let hash = BlockHash::of(7, &[1; 512]);
        let table = table_bytes(&[hash, BlockHash::ZERO]);
        for bit in 0..table.len() * 8 {
            let mut rotten = table.to_vec();
            rotten[bit / 8] ^= 1 << (bit % 8);
            let read: Vec<_> = hashes_in(&rotten).collect();
            let at = usize::from(bit / 8 >= ENTRY);
            assert_eq!(read[at], None, "bit {bit}");
            assert!(!tells(read[at], 7, &[2; 512]), "nothing is known of the content");
            assert!(read[1 - at].is_some());
            assert_eq!(Sum::of_table(&rotten), None);
        }
        assert!(tells(Some(hash), 7, &[2; 512]) && !tells(Some(hash), 7, &[1; 512]));
    }
}
