//! The file to the byte: cells of 512 bytes, eight to a page of 4096, one bit per extent.
//!
//! A page is what is written, a cell is what is checked: a sector is written whole or not at all,
//! so that a page torn by a power cut leaves each cell either old or new, and both are right
//! before the sync. A cell that does not verify is therefore damage, and all its extents count as
//! active. Nothing is ever valid by being absent or zero. All numbers little-endian.
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 4 | magic `VCAL` |
//! | 4 | 1 | version, 1 |
//! | 5 | 1 | extent size, as the exponent of two (20 to 22) |
//! | 6 | 2 | zero |
//! | 8 | 4 | number of the cell in the file, from 0 |
//! | 12 | 4 | CRC32C of the cell without these four bytes |
//! | 16 | 8 | sequence: rises with every write, for people who read dumps |
//! | 24 | 16 | volume |
//! | 40 | 472 | bit e mod 3776 (lowest bit of a byte first) of cell e / 3776: extent e is active |

use rcp::proto::ids::VolumeId;

use crate::bitmap::Run;
use crate::units::{BlockCount, BlockIndex, BlockSize};

pub(super) const CELL: usize = 512;
pub(super) const PAGE: usize = 4096;
pub(super) const CELLS_PER_PAGE: u32 = 8;
const BITS_AT: usize = 40;
pub(super) const BYTES: usize = CELL - BITS_AT;
/// Extents in one cell.
pub(super) const PER_CELL: u64 = BYTES as u64 * 8;
const MAGIC: [u8; 4] = *b"VCAL";
const VERSION: u8 = 1;

/// Bits of one cell.
pub(super) type Bits = [u8; BYTES];

/// Number of an extent within its volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ExtentIndex(pub u64);

/// Bytes of an extent: 1, 2 or 4 MiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ExtentSize(u8);

impl ExtentSize {
    /// 4 MiB.
    pub const DEFAULT: Self = Self(22);

    /// From the exponent of two, as stored; `None` unless 20, 21 or 22.
    #[must_use]
    pub fn from_shift(shift: u8) -> Option<Self> {
        (20..=22).contains(&shift).then_some(Self(shift))
    }

    /// The exponent of two.
    #[must_use]
    pub fn shift(self) -> u8 {
        self.0
    }
}

impl Default for ExtentSize {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// What one activity log is about; the mailbox knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Whose log.
    pub volume: VolumeId,
    /// Size of an extent.
    pub extent: ExtentSize,
    /// Size of a block.
    pub block: BlockSize,
    /// Size of the volume.
    pub blocks: BlockCount,
}

impl Geometry {
    fn block_shift(&self) -> u32 {
        u32::from(self.extent.0 - self.block.shift())
    }

    /// Number of extents; the last one may be cut off by the end of the volume.
    #[must_use]
    pub fn extents(&self) -> u64 {
        self.blocks.0.div_ceil(1 << self.block_shift())
    }

    /// The extents that a range of blocks touches: first, and how many.
    #[must_use]
    pub fn extents_of(&self, first: BlockIndex, count: BlockCount) -> (ExtentIndex, u64) {
        let e = first.0 >> self.block_shift();
        if count.0 == 0 {
            return (ExtentIndex(e), 0);
        }
        let last = first.0.saturating_add(count.0 - 1) >> self.block_shift();
        (ExtentIndex(e), last - e + 1)
    }

    /// The blocks of adjacent extents, cut off at the end of the volume.
    #[must_use]
    pub fn blocks_of(&self, first: ExtentIndex, count: u64) -> Run {
        let from = (first.0 << self.block_shift()).min(self.blocks.0);
        let to = (first.0.saturating_add(count) << self.block_shift()).min(self.blocks.0);
        (BlockIndex(from), BlockCount(to - from))
    }

    /// Bytes of the file.
    #[must_use]
    pub fn file_len(&self) -> u64 {
        u64::from(self.pages()) * PAGE as u64
    }

    pub(super) fn pages(&self) -> u32 {
        let cells = self.extents().div_ceil(PER_CELL);
        u32::try_from(cells.div_ceil(u64::from(CELLS_PER_PAGE))).unwrap_or(u32::MAX)
    }

    pub(super) fn cells(&self) -> u32 {
        self.pages() * CELLS_PER_PAGE
    }
}

/// One cell as stored.
pub(super) fn encode(g: &Geometry, cell: u32, sequence: u64, bits: &Bits, out: &mut [u8]) {
    out[..4].copy_from_slice(&MAGIC);
    out[4] = VERSION;
    out[5] = g.extent.0;
    out[6..8].fill(0);
    out[8..12].copy_from_slice(&cell.to_le_bytes());
    out[16..24].copy_from_slice(&sequence.to_le_bytes());
    out[24..40].copy_from_slice(&g.volume.0);
    out[BITS_AT..CELL].copy_from_slice(bits);
    let crc = checksum(out);
    out[12..16].copy_from_slice(&crc.to_le_bytes());
}

/// Sequence and bits of a stored cell; `None` if anything about it is not as it must be.
pub(super) fn decode(g: &Geometry, cell: u32, stored: &[u8]) -> Option<(u64, Bits)> {
    let good = stored.len() == CELL
        && stored[..4] == MAGIC
        && stored[4] == VERSION
        && stored[5] == g.extent.0
        && stored[6..8] == [0, 0]
        && stored[8..12] == cell.to_le_bytes()
        && stored[24..40] == g.volume.0
        && stored[12..16] == checksum(stored).to_le_bytes();
    let sequence = u64::from_le_bytes(stored.get(16..24)?.try_into().ok()?);
    let bits = stored.get(BITS_AT..CELL)?.try_into().ok()?;
    good.then_some((sequence, bits))
}

fn checksum(cell: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&cell[..12]), &cell[16..])
}
