//! The stored form of a [`BlockSet`]: runs as pairs of varints, with a checksum.
//!
//! All numbers little-endian. `varint` is LEB128: seven bits per byte, lowest first, the high bit
//! of a byte says that another follows; at most 5 bytes here, and no longer than needed.
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 4 | magic `VCBS` |
//! | 4 | 1 | version, 1 |
//! | 5 | 3 | zero |
//! | 8 | 8 | number of runs |
//! | 16 | 8 | number of blocks |
//! | 24 | 8 | bytes of the body |
//! | 32 | n | body: per run, `varint(gap)` and `varint(length − 1)` |
//! | 32 + n | 4 | CRC32C of everything before |
//!
//! `gap` is the first block of the first run; for later ones, (first block − block after the run
//! before) − 1, as two runs never touch. So a set has exactly one encoding.

use super::BlockSet;
use crate::units::{BlockCount, BlockIndex};

/// Most blocks a volume can have.
pub const MAX_BLOCKS: u64 = 1 << 34;

const MAGIC: [u8; 4] = *b"VCBS";
const VERSION: u8 = 1;
const HEAD: usize = 32;
const CRC: usize = 4;

/// Why stored bytes are not a set of blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Fewer bytes than the header announces, or more.
    #[error("block set has the wrong length")]
    Length,
    /// Another magic number.
    #[error("not a block set")]
    Magic,
    /// A version that this program does not know.
    #[error("block set of unknown version {0}")]
    Version(u8),
    /// The checksum does not hold.
    #[error("block set is damaged (checksum)")]
    Checksum,
    /// The checksum holds, yet the content breaks the format's rules.
    #[error("block set is malformed")]
    Malformed,
}

impl BlockSet {
    /// The stored form.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![0; HEAD];
        let mut end = None;
        for (first, count) in self.runs() {
            put_varint(&mut out, end.map_or(first.0, |e: u64| first.0 - e - 1));
            put_varint(&mut out, count.0 - 1);
            end = Some(first.0 + count.0);
        }
        let body = (out.len() - HEAD) as u64;
        out[..4].copy_from_slice(&MAGIC);
        out[4] = VERSION;
        out[8..16].copy_from_slice(&(self.run_count() as u64).to_le_bytes());
        out[16..24].copy_from_slice(&self.count().0.to_le_bytes());
        out[24..32].copy_from_slice(&body.to_le_bytes());
        let crc = crc32c::crc32c(&out);
        out.extend_from_slice(&crc.to_le_bytes());
        out
    }

    /// From exactly one stored form.
    ///
    /// # Errors
    /// [`DecodeError`]; memory used is bounded by the number of bytes given.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        if bytes.len() < HEAD + CRC {
            return Err(DecodeError::Length);
        }
        if bytes[..4] != MAGIC {
            return Err(DecodeError::Magic);
        }
        let (data, crc) = bytes.split_at(bytes.len() - CRC);
        if crc != crc32c::crc32c(data).to_le_bytes() {
            return Err(DecodeError::Checksum);
        }
        if data[4] != VERSION {
            return Err(DecodeError::Version(data[4]));
        }
        let (runs, blocks, body) = (u64_at(data, 8), u64_at(data, 16), u64_at(data, 24));
        if body != (data.len() - HEAD) as u64 {
            return Err(DecodeError::Length);
        }
        let mut set = Self::new();
        let mut rest = &data[HEAD..];
        let mut end = None;
        while !rest.is_empty() {
            let gap = get_varint(&mut rest)?;
            let count = get_varint(&mut rest)? + 1;
            let first = end.map_or(gap, |e: u64| e + gap + 1);
            if first + count > MAX_BLOCKS {
                return Err(DecodeError::Malformed);
            }
            set.insert_range(BlockIndex(first), BlockCount(count));
            end = Some(first + count);
        }
        if data[5..8] != [0; 3] || set.run_count() as u64 != runs || set.count().0 != blocks {
            return Err(DecodeError::Malformed);
        }
        Ok(set)
    }
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut b = [0; 8];
    b.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(b)
}

fn put_varint(out: &mut Vec<u8>, mut n: u64) {
    while n >= 0x80 {
        out.push((n & 0x7f) as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

fn get_varint(rest: &mut &[u8]) -> Result<u64, DecodeError> {
    let mut n = 0;
    for i in 0..5 {
        let (&b, tail) = rest.split_first().ok_or(DecodeError::Malformed)?;
        *rest = tail;
        n |= u64::from(b & 0x7f) << (7 * i);
        if b & 0x80 == 0 {
            return if b == 0 && i > 0 { Err(DecodeError::Malformed) } else { Ok(n) };
        }
    }
    Err(DecodeError::Malformed)
}

#[cfg(all(test, not(shuttle)))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The bytes of this form may never change.
    #[test]
    fn golden_vector() {
        let set: BlockSet = [(0u64, 2u64), (5, 1), (300, 128)]
            .map(|(f, c)| (BlockIndex(f), BlockCount(c)))
            .into_iter()
            .collect();
        #[rustfmt::skip]
        let head = [
            b'V', b'C', b'B', b'S', // magic
            1, 0, 0, 0,             // version, zero
            3, 0, 0, 0, 0, 0, 0, 0, // runs
            131, 0, 0, 0, 0, 0, 0, 0, // blocks: 2 + 1 + 128
            7, 0, 0, 0, 0, 0, 0, 0, // bytes of the body
            0, 1,                   // from 0, two blocks
            2, 0,                   // 2, 3 and 4 are not in it; block 5
            0xa5, 2, 127,           // gap 294 − 1 = 293; 128 blocks from 300
        ];
        let bytes = set.encode();
        assert_eq!(bytes[..head.len()], head);
        assert_eq!(bytes[head.len()..], GOLDEN_CRC);
        assert_eq!(BlockSet::decode(&bytes), Ok(set));
    }
    const GOLDEN_CRC: [u8; 4] = [1, 229, 101, 27];

    #[test]
    fn every_flip_and_every_cut_is_found() {
        let set: BlockSet = (0..40u64).map(|n| BlockIndex(n * n)).collect();
        let bytes = set.encode();
        for bit in 0..bytes.len() * 8 {
            let mut bad = bytes.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(BlockSet::decode(&bad).is_err(), "bit {bit}");
        }
        for n in 0..bytes.len() {
            assert!(BlockSet::decode(&bytes[..n]).is_err(), "first {n} bytes");
        }
        assert_eq!(BlockSet::decode(&[0; 64]), Err(DecodeError::Magic));
    }

    proptest! {
        #[test]
        fn sets_survive(runs in prop::collection::vec((0..MAX_BLOCKS - 5000, 1u64..5000), 0..50)) {
            let set: BlockSet =
                runs.into_iter().map(|(f, c)| (BlockIndex(f), BlockCount(c))).collect();
            prop_assert_eq!(BlockSet::decode(&set.encode()), Ok(set));
        }

        #[test]
        fn malformed_bytes_with_a_good_checksum_are_refused_or_canonical(
            body in prop::collection::vec(any::<u8>(), 0..40), runs in 0u64..6, blocks in 0u64..200,
        ) {
            let mut bytes = BlockSet::new().encode();
            bytes.truncate(HEAD);
            bytes[8..16].copy_from_slice(&runs.to_le_bytes());
            bytes[16..24].copy_from_slice(&blocks.to_le_bytes());
            bytes[24..32].copy_from_slice(&(body.len() as u64).to_le_bytes());
            bytes.extend(body);
            bytes.extend(crc32c::crc32c(&bytes).to_le_bytes());
            if let Ok(set) = BlockSet::decode(&bytes) {
                prop_assert_eq!(set.encode(), bytes);
            }
        }
    }
}
