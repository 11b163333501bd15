//! Positions, counts and sizes inside a volume, one type each.
//!
//! [`LogPos`] is a position in the endless log of a save volume and never wraps; the offset in its
//! file is computed in one place only (`save::ring`).

use std::fmt;

/// Number of a block within its volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct BlockIndex(pub u64);

/// A number of blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct BlockCount(pub u64);

/// Position in the endless log of a save volume, in bytes; never wraps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct LogPos(pub u64);

impl LogPos {
    /// The position `bytes` further on.
    #[must_use]
    pub fn plus(self, bytes: u64) -> Self {
        Self(self.0 + bytes)
    }

    /// Bytes from `earlier` to this position; zero if `earlier` is later.
    #[must_use]
    pub fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl fmt::Display for LogPos {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Block size of a volume: a power of two from 512 B to 1 MiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BlockSize(u8);

impl BlockSize {
    /// 4 KiB.
    pub const DEFAULT: Self = Self(12);

    /// From a number of bytes; `None` unless a power of two from 512 B to 1 MiB.
    #[must_use]
    pub fn from_bytes(n: u64) -> Option<Self> {
        (n.is_power_of_two() && (512..=1 << 20).contains(&n))
            .then(|| Self(u8::try_from(n.trailing_zeros()).unwrap_or(12)))
    }

    /// From the exponent of two, as stored and sent.
    #[must_use]
    pub fn from_shift(shift: u8) -> Option<Self> {
        (9..=20).contains(&shift).then_some(Self(shift))
    }

    /// The exponent of two.
    #[must_use]
    pub fn shift(self) -> u8 {
        self.0
    }

    /// Bytes in one block.
    #[must_use]
    pub fn bytes(self) -> u64 {
        1 << self.0
    }

    /// Byte offset of the beginning of a block.
    #[must_use]
    pub fn offset(self, b: BlockIndex) -> u64 {
        b.0 << self.0
    }

    /// First block, and number of blocks, that the bytes `offset..offset + len` touch.
    #[must_use]
    pub fn span(self, offset: u64, len: u64) -> (BlockIndex, BlockCount) {
        let first = offset >> self.0;
        if len == 0 {
            return (BlockIndex(first), BlockCount(0));
        }
        let last = (offset + len - 1) >> self.0;
        (BlockIndex(first), BlockCount(last - first + 1))
    }
}

impl Default for BlockSize {
    fn default() -> Self {
        Self::DEFAULT
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_cover_partial_blocks() {
        let bs = BlockSize::DEFAULT;
        assert_eq!(bs.span(0, 0), (BlockIndex(0), BlockCount(0)));
        assert_eq!(bs.span(0, 4096), (BlockIndex(0), BlockCount(1)));
        assert_eq!(bs.span(4095, 2), (BlockIndex(0), BlockCount(2)));
        assert_eq!(bs.span(8192, 1), (BlockIndex(2), BlockCount(1)));
        assert_eq!(BlockSize::from_bytes(4097), None);
        assert_eq!(BlockSize::from_bytes(256), None);
        assert_eq!(BlockSize::from_bytes(4096), Some(bs));
    }
}
