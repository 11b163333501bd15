//! The file of before images, to the byte. All numbers little-endian.
//!
//! | offset | bytes | content |
//! |---|---|---|
//! | 0 | 4096 | superblock |
//! | 4096 | 4096 | superblock, the same again; every change writes both, then syncs |
//! | 8192 | 32 × slots | slot table |
//! | S | block size × slots | slots; S = end of the table, rounded up to 4096 and to the block size |
//!
//! Superblock (the rest of its page is zero):
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 8 | magic `VCSNAPSH` |
//! | 8 | 2 | version, 1 |
//! | 10 | 1 | block size, as the exponent of two |
//! | 11 | 1 | zero |
//! | 12 | 4 | number of slots |
//! | 16 | 16 | volume |
//! | 32 | 8 | durable pins up to this one are broken |
//! | 40 | 8 | sequence: rises with every change |
//! | 48 | 460 | zero |
//! | 508 | 4 | CRC32C of the 508 bytes before |
//!
//! Slot table entry:
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 8 | pin that the image was saved for; 0 if free |
//! | 8 | 8 | block; 0 if free |
//! | 16 | 4 | CRC32C of the slot; 0 if free |
//! | 20 | 6 | order of the reservation, rising without end; 0 if free |
//! | 26 | 1 | 1: never used or withdrawn, 2: used |
//! | 27 | 1 | zero |
//! | 28 | 4 | CRC32C of: slot number (4 bytes), volume (16 bytes), the 28 bytes before |
//!
//! The whole table is written when the file is made: a zero entry is damage, never "free".
//! Releasing a pin writes nothing: which entries still matter follows from the pins that the
//! mailbox lists.

use bytes::Bytes;
use rcp::proto::ids::VolumeId;

use super::index::PinId;
use crate::units::{BlockIndex, BlockSize};

/// Bytes of a superblock's page.
pub const SUPERBLOCK: usize = 4096;
/// Bytes of a table entry.
pub const ENTRY: usize = 32;
/// Where the slot table begins.
pub const TABLE_AT: u64 = 2 * SUPERBLOCK as u64;
const MAGIC: [u8; 8] = *b"VCSNAPSH";
const VERSION: u16 = 1;
const FREE: u8 = 1;
const USED: u8 = 2;
/// Largest order that fits its six bytes.
pub const MAX_ORDER: u64 = (1 << 48) - 1;

/// Number of a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot(pub u32);

/// The shape of one file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AreaLayout {
    /// Whose file.
    pub volume: VolumeId,
    /// Size of a block, and of a slot.
    pub block: BlockSize,
    /// How many slots.
    pub slots: u32,
}

/// What a superblock says beyond the layout.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AreaState {
    /// Durable pins up to this one are broken.
    pub broken_through: PinId,
    /// Rises with every change.
    pub sequence: u64,
}

/// A table entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// Nothing of value in the slot.
    Free,
    /// A before image.
    Used {
        /// The pin it was saved for.
        pin: PinId,
        /// Of which block.
        block: BlockIndex,
        /// CRC32C of the slot.
        crc: u32,
        /// Order of its reservation.
        order: u64,
    },
}

impl AreaLayout {
    /// Where a slot's entry is.
    #[must_use]
    pub fn entry_offset(&self, slot: Slot) -> u64 {
        TABLE_AT + u64::from(slot.0) * ENTRY as u64
    }

    /// Where a slot is.
    #[must_use]
    pub fn slot_offset(&self, slot: Slot) -> u64 {
        let table_end = TABLE_AT + u64::from(self.slots) * ENTRY as u64;
        let align = self.block.bytes().max(SUPERBLOCK as u64);
        table_end.next_multiple_of(align) + (u64::from(slot.0) << self.block.shift())
    }

    /// Bytes of the file; sparse.
    #[must_use]
    pub fn file_len(&self) -> u64 {
        self.slot_offset(Slot(self.slots))
    }

    /// Bytes of the slot table.
    #[must_use]
    pub fn table_len(&self) -> u64 {
        u64::from(self.slots) * ENTRY as u64
    }

    /// Both superblocks, to be written at offset 0.
    #[must_use]
    pub fn superblocks(&self, state: AreaState) -> Bytes {
        let mut out = vec![0; 2 * SUPERBLOCK];
        out[..8].copy_from_slice(&MAGIC);
        out[8..10].copy_from_slice(&VERSION.to_le_bytes());
        out[10] = self.block.shift();
        out[12..16].copy_from_slice(&self.slots.to_le_bytes());
        out[16..32].copy_from_slice(&self.volume.0);
        out[32..40].copy_from_slice(&state.broken_through.0.to_le_bytes());
        out[40..48].copy_from_slice(&state.sequence.to_le_bytes());
        let crc = crc32c::crc32c(&out[..508]);
        out[508..512].copy_from_slice(&crc.to_le_bytes());
        out.copy_within(..SUPERBLOCK, SUPERBLOCK);
        out.into()
    }

    /// Everything to be written when the file is made, in pieces of at most 1 MiB; sync after.
    pub fn format(&self) -> impl Iterator<Item = (u64, Bytes)> + '_ {
        const PIECE: u32 = (1 << 20) / ENTRY as u32;
        let table = (0..self.slots).step_by(PIECE as usize).map(|first| {
            let end = first.saturating_add(PIECE).min(self.slots);
            let bytes: Vec<u8> =
                (first..end).flat_map(|s| self.entry(Slot(s), Entry::Free)).collect();
            (self.entry_offset(Slot(first)), bytes.into())
        });
        table.chain(std::iter::once_with(|| (0, self.superblocks(AreaState::default()))))
    }

    /// One entry as stored.
    #[must_use]
    pub fn entry(&self, slot: Slot, entry: Entry) -> [u8; ENTRY] {
        let mut out = [0; ENTRY];
        match entry {
            Entry::Free => out[26] = FREE,
            Entry::Used { pin, block, crc, order } => {
                out[..8].copy_from_slice(&pin.0.to_le_bytes());
                out[8..16].copy_from_slice(&block.0.to_le_bytes());
                out[16..20].copy_from_slice(&crc.to_le_bytes());
                out[20..26].copy_from_slice(&order.to_le_bytes()[..6]);
                out[26] = USED;
            }
        }
        let crc = self.entry_crc(slot, &out);
        out[28..].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// A stored entry; `None` if it is damaged or another slot's or volume's.
    #[must_use]
    pub fn parse_entry(&self, slot: Slot, stored: &[u8]) -> Option<Entry> {
        let stored: &[u8; ENTRY] = stored.try_into().ok()?;
        let mut order = [0; 8];
        order[..6].copy_from_slice(&stored[20..26]);
        let entry = match stored[26] {
            FREE => Entry::Free,
            USED => Entry::Used {
                pin: PinId(le64(&stored[..8])),
                block: BlockIndex(le64(&stored[8..16])),
                crc: le32(&stored[16..20]),
                order: u64::from_le_bytes(order),
            },
            _ => return None,
        };
        (self.entry(slot, entry) == *stored).then_some(entry)
    }

    fn entry_crc(&self, slot: Slot, entry: &[u8; ENTRY]) -> u32 {
        let crc = crc32c::crc32c(&slot.0.to_le_bytes());
        crc32c::crc32c_append(crc32c::crc32c_append(crc, &self.volume.0), &entry[..28])
    }
}

/// Layout and state from the first 8192 bytes; the later of two superblocks that verify.
#[must_use]
pub fn parse_superblocks(stored: &[u8]) -> Option<(AreaLayout, AreaState)> {
    stored.chunks(SUPERBLOCK).take(2).filter_map(parse_superblock).max_by_key(|(_, s)| s.sequence)
}

fn parse_superblock(stored: &[u8]) -> Option<(AreaLayout, AreaState)> {
    if stored.len() != SUPERBLOCK || stored[..8] != MAGIC {
        return None;
    }
    let layout = AreaLayout {
        volume: VolumeId(stored[16..32].try_into().ok()?),
        block: BlockSize::from_shift(stored[10])?,
        slots: le32(&stored[12..16]),
    };
    let state =
        AreaState { broken_through: PinId(le64(&stored[32..40])), sequence: le64(&stored[40..48]) };
    (layout.superblocks(state)[..SUPERBLOCK] == *stored).then_some((layout, state))
}

fn le64(b: &[u8]) -> u64 {
    b.iter().rev().fold(0, |n, b| n << 8 | u64::from(*b))
}

fn le32(b: &[u8]) -> u32 {
    b.iter().rev().fold(0, |n, b| n << 8 | u32::from(*b))
}
