//! The queue of pins with their block maps, and who owns which slot. Single-threaded; the locks are
//! in [`store`](super::store).
//!
//! The map of a released pin is folded into its older neighbour (SNAP-16), in memory only. On disk
//! an entry keeps the pin it was saved for; that it now serves an older pin follows from the rule
//! that a pin reads the *oldest* image saved for itself or any later pin.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use rcp::proto::ids::SetNumber;

use super::breach::Room;
use super::layout::{AreaLayout, AreaState, Entry, MAX_ORDER, Slot};
use crate::bitmap::BlockSet;
use crate::units::{BlockCount, BlockIndex};

/// Reservations given and not committed never span more than this many orders: so many images have
/// to be proved after a crash.
pub(super) const WINDOW: u64 = if cfg!(test) { 3 } else { 1024 };

/// Number of a pin: rises, and is never used twice in the life of a file. None has 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct PinId(pub u64);

/// How long a pin lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PinKind {
    /// Until it is released, whatever happens to the process.
    Durable,
    /// Until it is released or the process ends.
    Ephemeral,
}

/// What is known of a pin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PinInfo {
    /// The state it holds.
    pub set: SetNumber,
    /// How often it is held durably.
    pub durable: u32,
    /// How often it is held by readers.
    pub ephemeral: u32,
    /// Why it can no longer be read, if so.
    pub broken: Option<BrokenBecause>,
    /// Before images in its own map.
    pub images: u64,
}

/// Why a pin can no longer be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BrokenBecause {
    /// The area was full.
    AreaFull,
    /// An entry of the table is damaged and may have been this pin's.
    TableDamaged,
}

/// Where the content of a block of a pin is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// In a slot.
    Slot(SlotRef),
    /// In the base, if a second look, after reading it, says so again.
    Base,
}

/// A before image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotRef {
    /// In which slot.
    pub slot: Slot,
    /// Where that is in the file; one block.
    pub offset: u64,
    /// CRC32C that its bytes must have.
    pub crc: u32,
}

/// Why a pin could not be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SnapshotError {
    /// There is no such pin.
    #[error("there is no pin {}", .0.0)]
    Unknown(PinId),
    /// It is broken.
    #[error("pin {} can no longer be read: {}", pin.0, match because {
        BrokenBecause::AreaFull => "the snapshot area was full",
        BrokenBecause::TableDamaged => "the table of the snapshot area is damaged",
    })]
    Broken {
        /// Which.
        pin: PinId,
        /// Why.
        because: BrokenBecause,
    },
    /// It cannot be made durable while images are being saved for readers only; try again.
    #[error("pin {} cannot be made durable at this moment", .0.0)]
    Busy(PinId),
    /// A difference needs an older and a younger pin (DIFF-05).
    #[error("pin {} is not older than pin {}", older.0, younger.0)]
    Order {
        /// Given as the older one.
        older: PinId,
        /// Given as the younger one.
        younger: PinId,
    },
}

/// What operators should hear of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SnapshotEvent {
    /// A pin was broken.
    Broken {
        /// Which.
        pin: PinId,
        /// The state it held.
        set: SetNumber,
        /// A durable one: the loss of a promise, not only of a reader.
        durable: bool,
        /// Why.
        because: BrokenBecause,
    },
}

/// Answer to a wish to save a before image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reserve {
    /// Write the image and its entry, then commit.
    Slot(Reservation),
    /// No pin needs this block: overwrite it.
    NotNeeded,
    /// Another writer is saving this block, or too many saves are open: commit or abort your own,
    /// then try again after the next commit.
    Wait,
    /// The area is full and only durable pins are left: make this durable first, then
    /// `breach_written`, then try again.
    Breach(BreachWrite),
}

/// The right to fill a slot with the image of one block. Give it back by commit or abort.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reservation {
    /// The slot.
    pub slot: Slot,
    /// Where the image goes.
    pub offset: u64,
    /// Where its entry goes.
    pub entry_offset: u64,
    /// Of which block.
    pub block: BlockIndex,
    /// A durable pin needs the image: sync the area before the commit.
    pub must_sync: bool,
    pub(super) pin: PinId,
    pub(super) order: u64,
}

/// A durable pin is to be broken: write, sync, report back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BreachWrite {
    /// Which pin.
    pub pin: PinId,
    /// Where to write.
    pub offset: u64,
    /// What to write.
    pub bytes: Bytes,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Saved {
    pub(super) slot: Slot,
    pub(super) crc: u32,
}

#[derive(Debug, Default)]
pub(super) struct Pin {
    pub(super) set: SetNumber,
    pub(super) durable: u32,
    pub(super) ephemeral: u32,
    /// Of a line that ended: its set number may be another state's.
    pub(super) closed: bool,
    pub(super) map: BTreeMap<u64, Saved>,
}

#[derive(Debug)]
pub(super) struct Index {
    pub(super) layout: AreaLayout,
    pub(super) state: AreaState,
    /// The queue: pins that can be read, oldest first.
    pub(super) pins: BTreeMap<PinId, Pin>,
    /// Pins that cannot, until their holders let go.
    pub(super) broken: BTreeMap<PinId, (Pin, BrokenBecause)>,
    pub(super) next_pin: PinId,
    pub(super) next_order: u64,
    pub(super) free: Vec<Slot>,
    /// Slots from here on were never used.
    pub(super) fresh: u32,
    /// Reservations given and not committed, by order, and whether they will be synced.
    open: BTreeMap<u64, bool>,
    saving: BTreeSet<BlockIndex>,
    /// A superblock that breaks a durable pin is being written. One at a time: two under way may
    /// land in either order, and the later one must not be lost.
    pub(super) breaching: bool,
    /// The next pin is another one even if the tail holds the same set number.
    new_line: bool,
    pub(super) events: VecDeque<SnapshotEvent>,
}

impl Index {
    pub(super) fn new(layout: AreaLayout, state: AreaState) -> Self {
        Self {
            layout,
            state,
            pins: BTreeMap::new(),
            broken: BTreeMap::new(),
            next_pin: PinId(1),
            next_order: 1,
            free: Vec::new(),
            fresh: 0,
            open: BTreeMap::new(),
            saving: BTreeSet::new(),
            breaching: false,
            new_line: false,
            events: VecDeque::new(),
        }
    }

    pub(super) fn pin(&mut self, set: SetNumber, kind: PinKind) -> PinId {
        let tail = self
            .pins
            .last_key_value()
            .filter(|(_, p)| p.set == set && !p.closed && !self.new_line && self.may_hold(p, kind));
        let id = match tail {
            Some((id, _)) => *id,
            None => {
                let id = self.next_pin;
                self.next_pin.0 += 1;
                self.pins.insert(id, Pin { set, ..Pin::default() });
                id
            }
        };
        self.new_line = false;
        if let Some(pin) = self.pins.get_mut(&id) {
            pin.hold(kind);
        }
        id
    }

    pub(super) fn new_line(&mut self) {
        self.new_line = true;
    }

    pub(super) fn close_line(&mut self, id: PinId) {
        if let Some(pin) = self.pins.get_mut(&id) {
            pin.closed = true;
        }
    }

    pub(super) fn share(&mut self, id: PinId, kind: PinKind) -> Result<(), SnapshotError> {
        self.check(id)?;
        if self.pins.get(&id).is_some_and(|p| !self.may_hold(p, kind)) {
            return Err(SnapshotError::Busy(id));
        }
        if let Some(pin) = self.pins.get_mut(&id) {
            pin.hold(kind);
        }
        Ok(())
    }

    /// A reader's pin cannot be made durable while an image is being saved that nobody will sync.
    fn may_hold(&self, pin: &Pin, kind: PinKind) -> bool {
        kind == PinKind::Ephemeral || pin.durable > 0 || self.open.values().all(|synced| *synced)
    }

    pub(super) fn release(&mut self, id: PinId, kind: PinKind) -> Result<(), SnapshotError> {
        let broken = self.broken.get_mut(&id).map(|(p, _)| p);
        let pin = self.pins.get_mut(&id).or(broken).ok_or(SnapshotError::Unknown(id))?;
        let count = match kind {
            PinKind::Durable => &mut pin.durable,
            PinKind::Ephemeral => &mut pin.ephemeral,
        };
        *count = count.checked_sub(1).ok_or(SnapshotError::Unknown(id))?;
        if pin.durable + pin.ephemeral == 0 {
            self.broken.remove(&id);
            if let Some(pin) = self.pins.remove(&id) {
                self.fold(id, pin.map);
            }
        }
        Ok(())
    }

    /// Gives the images of a pin that left the queue to its older neighbour, or frees them.
    pub(super) fn fold(&mut self, id: PinId, map: BTreeMap<u64, Saved>) {
        for (block, saved) in map {
            self.place(id, block, saved);
        }
    }

    /// Files an image saved for `id` where it serves; false if it serves nobody and was freed.
    pub(super) fn place(&mut self, id: PinId, block: u64, saved: Saved) -> bool {
        if let Some((_, owner)) = self.pins.range_mut(..=id).next_back()
            && let std::collections::btree_map::Entry::Vacant(e) = owner.map.entry(block)
        {
            e.insert(saved);
            return true;
        }
        self.free.push(saved.slot);
        false
    }

    pub(super) fn check(&self, id: PinId) -> Result<(), SnapshotError> {
        match self.broken.get(&id) {
            Some((_, because)) => Err(SnapshotError::Broken { pin: id, because: *because }),
            None if self.pins.contains_key(&id) => Ok(()),
            None => Err(SnapshotError::Unknown(id)),
        }
    }

    pub(super) fn info(&self, id: PinId) -> Option<PinInfo> {
        let broken = self.broken.get(&id).map(|(p, b)| (p, Some(*b)));
        let (pin, broken) = self.pins.get(&id).map(|p| (p, None)).or(broken)?;
        let Pin { set, durable, ephemeral, .. } = *pin;
        Some(PinInfo { set, durable, ephemeral, broken, images: pin.map.len() as u64 })
    }

    /// F26, 511–513: the blocks of which the tail has no image.
    pub(super) fn needs_copy(&self, first: BlockIndex, count: BlockCount) -> Vec<BlockIndex> {
        let Some((_, tail)) = self.pins.last_key_value() else { return Vec::new() };
        let blocks = first.0..first.0.saturating_add(count.0);
        blocks.filter(|b| !tail.map.contains_key(b)).map(BlockIndex).collect()
    }

    /// Whether a durable pin would read this block from the base.
    fn durable_needs(&self, block: u64) -> bool {
        let mut unsaved = self.pins.values().rev().take_while(|p| !p.map.contains_key(&block));
        unsaved.any(|p| p.durable > 0)
    }

    pub(super) fn reserve(&mut self, block: BlockIndex) -> Reserve {
        loop {
            let Some((pin, tail)) = self.pins.last_key_value() else { return Reserve::NotNeeded };
            if tail.map.contains_key(&block.0) {
                return Reserve::NotNeeded;
            }
            let pin = *pin;
            let oldest = self.open.first_key_value().map_or(self.next_order, |(o, _)| *o);
            if self.saving.contains(&block) || self.next_order - oldest >= WINDOW {
                return Reserve::Wait;
            }
            if let Some(slot) = self.free.pop().or_else(|| self.fresh_slot()) {
                let order = self.next_order.min(MAX_ORDER);
                self.next_order += 1;
                let must_sync = self.durable_needs(block.0);
                self.open.insert(order, must_sync);
                self.saving.insert(block);
                let offset = self.layout.slot_offset(slot);
                let entry_offset = self.layout.entry_offset(slot);
                let r = Reservation { slot, offset, entry_offset, block, must_sync, pin, order };
                return Reserve::Slot(r);
            }
            match self.make_room() {
                Room::Made => {}
                Room::OneAtATime => return Reserve::Wait,
                Room::Breach(breach) => return Reserve::Breach(breach),
            }
        }
    }

    fn fresh_slot(&mut self) -> Option<Slot> {
        (self.fresh < self.layout.slots).then(|| {
            self.fresh += 1;
            Slot(self.fresh - 1)
        })
    }

    pub(super) fn commit(&mut self, r: &Reservation, crc: u32) -> bool {
        self.close(r);
        self.place(r.pin, r.block.0, Saved { slot: r.slot, crc })
    }

    pub(super) fn close(&mut self, r: &Reservation) {
        self.open.remove(&r.order);
        self.saving.remove(&r.block);
    }

    pub(super) fn entry(&self, r: &Reservation, crc: u32) -> Bytes {
        let entry = Entry::Used { pin: r.pin, block: r.block, crc, order: r.order };
        Bytes::copy_from_slice(&self.layout.entry(r.slot, entry))
    }

    /// F27.
    pub(super) fn lookup(&self, pin: PinId, block: BlockIndex) -> Result<Found, SnapshotError> {
        self.check(pin)?;
        let saved = self.pins.range(pin..).find_map(|(_, p)| p.map.get(&block.0));
        Ok(saved.map_or(Found::Base, |s| self.found(*s)))
    }

    pub(super) fn found(&self, s: Saved) -> Found {
        let offset = self.layout.slot_offset(s.slot);
        Found::Slot(SlotRef { slot: s.slot, offset, crc: s.crc })
    }

    /// F34, 581–588: from the indices alone, in rising block order.
    pub(super) fn changed(
        &self,
        older: PinId,
        younger: Option<PinId>,
    ) -> Result<BlockSet, SnapshotError> {
        self.check(older)?;
        let pins: Vec<&Pin> = match younger {
            None => self.pins.range(older..).map(|(_, p)| p).collect(),
            Some(younger) => {
                self.check(younger)?;
                if younger <= older {
                    return Err(SnapshotError::Order { older, younger });
                }
                self.pins.range(older..younger).map(|(_, p)| p).collect()
            }
        };
        Ok(pins.iter().flat_map(|p| p.map.keys().map(|b| BlockIndex(*b))).collect())
    }
}

impl Pin {
    pub(super) fn hold(&mut self, kind: PinKind) {
        match kind {
            PinKind::Durable => self.durable += 1,
            PinKind::Ephemeral => self.ephemeral += 1,
        }
    }
}
