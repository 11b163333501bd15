//! From the file and the mailbox's list of durable pins back to an index.
//!
//! An entry serves the youngest listed pin that is not younger than the pin it was saved for; of
//! several entries of a block that would serve one pin, the one saved for the oldest pin is right.
//! All others are free. A crash may leave the entry of an image that never got durable; its block
//! was not overwritten then. Only the last reservations can be such: they are to be proved. What is
//! found may be in the system's cache alone (after a killed process, or a sync that failed), so it
//! is written again and synced before anything relies on it.

use rcp::proto::ids::{SetNumber, VolumeId};

use super::index::{BrokenBecause, Found, Index, Pin, PinId, Saved, WINDOW};
use super::layout::{AreaLayout, ENTRY, Entry, Slot, parse_superblocks};
use super::store::{AreaIo, SnapshotStore};
use crate::io::IoError;
use crate::units::{BlockIndex, BlockSize};
use bytes::Bytes;

/// Why there is no index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecoverError {
    /// Neither superblock verifies: every durable pin is lost, and the file is to be made anew.
    #[error("both superblocks of the snapshot area are damaged: its pins are lost")]
    Superblock,
    /// The file is another volume's, or was made for another block size.
    #[error("the snapshot area belongs to volume {0}, or has another block size")]
    Foreign(VolumeId),
}

/// What was found.
#[derive(Debug)]
pub struct Recovered {
    /// The pins; broken ones among them are named by `take_events`.
    pub store: SnapshotStore,
    /// To be settled by [`SnapshotStore::settle`] (or [`SnapshotStore::prove`] and a sync) before
    /// the first overwrite and before writers are let in.
    pub unproved: Vec<Unproved>,
    /// Slots whose entry is damaged. If there are any, every pin of the list is broken.
    pub damaged: Vec<Slot>,
}

/// An image that may not have become durable before the crash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unproved {
    /// The pin whose map it is in.
    pub pin: PinId,
    /// Of which block.
    pub block: BlockIndex,
    /// In which slot.
    pub slot: Slot,
    /// Where that is.
    pub offset: u64,
    /// CRC32C that it should have.
    pub crc: u32,
    /// Where its entry is.
    pub entry_offset: u64,
    /// Its entry as found.
    pub entry: [u8; ENTRY],
}

/// What became of an unproved image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Proof {
    /// It is there. Write slot and entry again, and sync.
    Good,
    /// It is not, and the block was not overwritten. Write this (the entry withdrawn), and sync.
    Withdrawn {
        /// Where.
        offset: u64,
        /// What.
        bytes: Bytes,
    },
    /// It is not, and the block was overwritten: damage. Reads of the block will be refused.
    Damaged,
}

impl SnapshotStore {
    /// Rebuilds the index from the file's first 8192 bytes, its slot table (shorter if the file
    /// ends in it), and the durable pins that the mailbox lists.
    ///
    /// # Errors
    /// [`RecoverError`].
    pub fn recover(
        volume: VolumeId,
        block: BlockSize,
        superblocks: &[u8],
        table: &[u8],
        pins: &[(PinId, SetNumber)],
    ) -> Result<Recovered, RecoverError> {
        let (layout, state) = parse_superblocks(superblocks).ok_or(RecoverError::Superblock)?;
        if layout.volume != volume || layout.block != block {
            return Err(RecoverError::Foreign(layout.volume));
        }
        let mut index = Index::new(layout, state);
        index.fresh = layout.slots;
        for (id, set) in pins {
            index.pins.insert(*id, Pin { set: *set, durable: 1, ..Pin::default() });
        }
        let (mut used, damaged) = read_table(&layout, table, &mut index.free);
        let newest = used.iter().map(|u| u.order).max().unwrap_or(0);
        let last_pin = used.iter().map(|u| u.pin).chain(pins.iter().map(|p| p.0)).max();
        index.next_pin.0 = last_pin.max(Some(state.broken_through)).unwrap_or_default().0 + 1;
        index.next_order = newest + 1;
        index.breach_written(state.broken_through);
        if !damaged.is_empty() {
            while let Some((id, _)) = index.pins.first_key_value() {
                index.break_pin(*id, BrokenBecause::TableDamaged);
            }
        }
        // The oldest pin first; of two tries for one pin and block, the later first.
        used.sort_by_key(|u| (u.block, u.pin, std::cmp::Reverse(u.order)));
        let mut unproved = Vec::new();
        for u in used {
            let owner = index.pins.range(..=u.pin).next_back().map(|(id, _)| *id);
            let placed = index.place(u.pin, u.block.0, Saved { slot: u.slot, crc: u.crc });
            if let (true, Some(pin), true) = (placed, owner, newest - u.order < WINDOW) {
                let offset = layout.slot_offset(u.slot);
                unproved.push(Unproved {
                    pin,
                    block: u.block,
                    slot: u.slot,
                    offset,
                    crc: u.crc,
                    entry_offset: layout.entry_offset(u.slot),
                    entry: u.entry,
                });
            }
        }
        Ok(Recovered { store: Self::from_index(index), unproved, damaged })
    }

    /// Settles all unproved images and makes what was found durable; returns the damaged ones.
    ///
    /// # Errors
    /// As the device gave it; nothing may be overwritten then.
    pub fn settle(
        &self,
        unproved: &[Unproved],
        io: &mut dyn AreaIo,
    ) -> Result<Vec<Unproved>, IoError> {
        let size = usize::try_from(self.layout().block.bytes()).unwrap_or(usize::MAX);
        let (mut slot, mut base) = (vec![0; size], vec![0; size]);
        let mut damaged = Vec::new();
        for u in unproved {
            io.read_area(u.offset, &mut slot)?;
            io.read_base(u.block, &mut base)?;
            match self.prove(u, &slot, &base) {
                Proof::Good => {
                    io.write_area(u.offset, &slot)?;
                    io.write_area(u.entry_offset, &u.entry)?;
                }
                Proof::Withdrawn { offset, bytes } => io.write_area(offset, &bytes)?,
                Proof::Damaged => damaged.push(*u),
            }
        }
        io.sync_area()?;
        Ok(damaged)
    }

    /// Settles one unproved image: `slot` is what its slot holds, `base` what the block holds now.
    pub fn prove(&self, u: &Unproved, slot: &[u8], base: &[u8]) -> Proof {
        if crc32c::crc32c(slot) == u.crc {
            return Proof::Good;
        }
        if crc32c::crc32c(base) != u.crc {
            return Proof::Damaged;
        }
        self.with(|index| {
            let same = |s: &Saved| s.slot == u.slot;
            if let Some(pin) = index.pins.get_mut(&u.pin)
                && pin.map.get(&u.block.0).is_some_and(same)
            {
                pin.map.remove(&u.block.0);
                index.free.push(u.slot);
            }
            let bytes = Bytes::copy_from_slice(&index.layout.entry(u.slot, Entry::Free));
            Proof::Withdrawn { offset: index.layout.entry_offset(u.slot), bytes }
        })
    }
}

struct Used {
    slot: Slot,
    pin: PinId,
    block: BlockIndex,
    crc: u32,
    order: u64,
    entry: [u8; ENTRY],
}

/// Used entries and damaged ones; free slots are added to `free`, the lowest last.
fn read_table(layout: &AreaLayout, table: &[u8], free: &mut Vec<Slot>) -> (Vec<Used>, Vec<Slot>) {
    let (mut used, mut damaged) = (Vec::new(), Vec::new());
    for slot in (0..layout.slots).rev().map(Slot) {
        let at = slot.0 as usize * ENTRY;
        let stored = table.get(at..at + ENTRY).unwrap_or_default();
        match layout.parse_entry(slot, stored) {
            Some(Entry::Free) => free.push(slot),
            Some(Entry::Used { pin, block, crc, order }) => {
                let entry = layout.entry(slot, Entry::Used { pin, block, crc, order });
                used.push(Used { slot, pin, block, crc, order, entry });
            }
            None => {
                damaged.push(slot);
                free.push(slot);
            }
        }
    }
    (used, damaged)
}

impl Found {
    /// Whether `bytes`, read from the slot, are what was saved; true for the base, which has its
    /// own checks.
    #[must_use]
    pub fn verifies(&self, bytes: &[u8]) -> bool {
        match self {
            Self::Slot(s) => crc32c::crc32c(bytes) == s.crc,
            Self::Base => true,
        }
    }
}
