//! The pins shared by threads, and the two walks with I/O by the caller's hands.

use std::collections::BTreeMap;

use bytes::Bytes;
use rcp::proto::ids::SetNumber;

use super::index::{
    Found, Index, PinId, PinInfo, PinKind, Reservation, Reserve, SnapshotError, SnapshotEvent,
};
use super::layout::{AreaLayout, AreaState, Entry};
use crate::bitmap::{BlockSet, Run};
use crate::io::IoError;
use crate::sync::atomic::{AtomicUsize, Ordering};
use crate::sync::{Condvar, Mutex, RwLock};
use crate::units::{BlockCount, BlockIndex};

/// Images written before one sync.
const BATCH: usize = 64;

/// The base and the area, as a thread that may block sees them.
pub trait AreaIo {
    /// Reads a block of the base.
    ///
    /// # Errors
    /// As the system gave it.
    fn read_base(&mut self, block: BlockIndex, buf: &mut [u8]) -> Result<(), IoError>;
    /// What was read of the base is not what was stored there: it never becomes an image that proves
    /// itself.
    fn is_damaged(&mut self, block: BlockIndex, content: &[u8]) -> bool {
        let _ = (block, content);
        false
    }
    /// Reads from the area.
    ///
    /// # Errors
    /// As the system gave it.
    fn read_area(&mut self, offset: u64, buf: &mut [u8]) -> Result<(), IoError>;
    /// Writes to the area.
    ///
    /// # Errors
    /// As the system gave it.
    fn write_area(&mut self, offset: u64, data: &[u8]) -> Result<(), IoError>;
    /// Makes everything written to the area durable.
    ///
    /// # Errors
    /// As the system gave it; final.
    fn sync_area(&mut self) -> Result<(), IoError>;
}

/// Why a block of a pin could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PinReadError {
    /// There is no such pin, or it is broken.
    #[error(transparent)]
    Pin(#[from] SnapshotError),
    /// The device failed.
    #[error(transparent)]
    Io(#[from] IoError),
    /// The before image is damaged.
    #[error("before image of block {} of pin {} is damaged (checksum)", block.0, pin.0)]
    Damaged {
        /// Which pin was read.
        pin: PinId,
        /// Which block.
        block: BlockIndex,
    },
}

/// The pins of one volume; see the module.
#[derive(Debug)]
pub struct SnapshotStore {
    /// Pins in the queue: the fast path of a writer when there are none.
    live: AtomicUsize,
    index: RwLock<Index>,
    /// Rises with every commit, abort, breach and release: for those told to wait.
    progress: Mutex<u64>,
    progressed: Condvar,
}

impl SnapshotStore {
    /// No pins, in a file just made with [`AreaLayout::format`] (written and synced).
    #[must_use]
    pub fn new(layout: AreaLayout) -> Self {
        Self::from_index(Index::new(layout, AreaState::default()))
    }

    pub(super) fn from_index(index: Index) -> Self {
        Self {
            live: AtomicUsize::new(index.pins.len()),
            index: RwLock::new(index),
            progress: Mutex::new(0),
            progressed: Condvar::default(),
        }
    }

    pub(super) fn with<T>(&self, f: impl FnOnce(&mut Index) -> T) -> T {
        let out = {
            let mut index = self.index.write();
            let out = f(&mut index);
            self.live.store(index.pins.len(), Ordering::SeqCst);
            out
        };
        *self.progress.lock() += 1;
        self.progressed.notify_all();
        out
    }

    /// The file's shape.
    #[must_use]
    pub fn layout(&self) -> AreaLayout {
        self.index.read().layout
    }

    /// Pins the base as it is now, which is state `set`; shares the youngest pin if that holds the
    /// same state and can be held that way. No overwrite may be under way. For a durable pin, sync the area afterwards, then
    /// list it in the mailbox.
    pub fn pin(&self, set: SetNumber, kind: PinKind) -> PinId {
        self.with(|i| i.pin(set, kind))
    }

    /// The next pin shares none, even if its set number is that of the youngest pin: the history
    /// has changed (a rewind, a new generation).
    pub fn new_line(&self) {
        self.with(Index::new_line);
    }

    /// The pin is of a line that ended: no pin that is made later shares it, although its set number
    /// may be the same.
    pub fn close_line(&self, pin: PinId) {
        self.with(|i| i.close_line(pin));
    }

    /// Holds an existing pin once more. Made durable, it is subject to the same rules as a new one.
    ///
    /// # Errors
    /// Unknown, broken, or [`SnapshotError::Busy`].
    pub fn share(&self, pin: PinId, kind: PinKind) -> Result<(), SnapshotError> {
        self.with(|i| i.share(pin, kind))
    }

    /// Lets go once. The last one ends the pin: its images go to the next older pin where that
    /// needs them, the rest of its slots is free at once. For a durable pin: after the mailbox.
    ///
    /// # Errors
    /// [`SnapshotError::Unknown`] if it is not held that way.
    pub fn release(&self, pin: PinId, kind: PinKind) -> Result<(), SnapshotError> {
        self.with(|i| i.release(pin, kind))
    }

    /// The youngest pin of a state that can be read.
    #[must_use]
    pub fn find(&self, set: SetNumber) -> Option<PinId> {
        self.index.read().pins.iter().rev().find(|(_, p)| p.set == set).map(|(id, _)| *id)
    }

    /// What is known of a pin; `None` if there is none.
    #[must_use]
    pub fn info(&self, pin: PinId) -> Option<PinInfo> {
        self.index.read().info(pin)
    }

    /// All pins, broken ones too, oldest first.
    #[must_use]
    pub fn pins(&self) -> Vec<(PinId, PinInfo)> {
        let i = self.index.read();
        let mut ids: Vec<PinId> = i.pins.keys().chain(i.broken.keys()).copied().collect();
        ids.sort_unstable();
        ids.into_iter().filter_map(|id| Some((id, i.info(id)?))).collect()
    }

    /// The durable pins that the mailbox should list.
    #[must_use]
    pub fn durable_pins(&self) -> Vec<(PinId, SetNumber)> {
        let i = self.index.read();
        i.pins.iter().filter(|(_, p)| p.durable > 0).map(|(id, p)| (*id, p.set)).collect()
    }

    /// Slots that hold nothing of value.
    #[must_use]
    pub fn free_slots(&self) -> u32 {
        let i = self.index.read();
        u32::try_from(i.free.len()).unwrap_or(u32::MAX) + (i.layout.slots - i.fresh)
    }

    /// Some pin lost images for want of room, now or in an earlier life of the node.
    #[must_use]
    pub fn has_broken(&self) -> bool {
        let i = self.index.read();
        i.state.broken_through > PinId(0) || !i.broken.is_empty()
    }

    /// What happened since the last call.
    #[must_use]
    pub fn take_events(&self) -> Vec<SnapshotEvent> {
        self.index.write().events.drain(..).collect()
    }

    /// Of the blocks about to be overwritten, those of which the youngest pin has no image. One
    /// atomic load if there are no pins.
    #[must_use]
    pub fn needs_copy(&self, first: BlockIndex, count: BlockCount) -> Vec<BlockIndex> {
        if self.live.load(Ordering::SeqCst) == 0 {
            return Vec::new();
        }
        self.index.read().needs_copy(first, count)
    }

    /// Asks for a slot for the image of a block.
    #[must_use]
    pub fn reserve(&self, block: BlockIndex) -> Reserve {
        let mut index = self.index.write();
        let answer = index.reserve(block);
        self.live.store(index.pins.len(), Ordering::SeqCst);
        answer
    }

    /// The table entry to write at [`Reservation::entry_offset`]; `crc` is the CRC32C of the image.
    #[must_use]
    pub fn entry(&self, r: &Reservation, crc: u32) -> Bytes {
        self.index.read().entry(r, crc)
    }

    /// The image and its entry are written (and synced, if [`Reservation::must_sync`]): readers
    /// find it from now on, and the block may be overwritten. False if no pin needs it any more.
    pub fn commit_copy(&self, r: &Reservation, crc: u32) -> bool {
        self.with(|i| i.commit(r, crc))
    }

    /// The image could not be written: the block must not be overwritten. The slot is not used
    /// again in this life of the process. Try to write what is returned (the entry withdrawn).
    pub fn abort_copy(&self, r: &Reservation) -> (u64, Bytes) {
        self.with(|i| {
            i.close(r);
            (r.entry_offset, Bytes::copy_from_slice(&i.layout.entry(r.slot, Entry::Free)))
        })
    }

    /// The superblock of a [`Reserve::Breach`] is durable.
    pub fn breach_written(&self, pin: PinId) {
        self.with(|i| i.breach_written(pin));
    }

    /// The pin of a [`Reserve::Breach`] is not to be broken: whoever asked waits for room.
    pub fn breach_declined(&self) {
        self.with(|i| i.breaching = false);
    }

    /// Where a block of a pin is. The order for readers: look, read, **look again**; if the answer
    /// has changed, what was read is void. [`read_block`](Self::read_block) does it.
    ///
    /// # Errors
    /// Unknown or broken.
    pub fn lookup(&self, pin: PinId, block: BlockIndex) -> Result<Found, SnapshotError> {
        self.index.read().lookup(pin, block)
    }

    /// As [`lookup`](Self::lookup) for a range: adjacent blocks in the base as one run, each block
    /// in a slot by itself.
    ///
    /// # Errors
    /// Unknown or broken.
    pub fn lookup_range(
        &self,
        pin: PinId,
        first: BlockIndex,
        count: BlockCount,
    ) -> Result<Vec<(Run, Found)>, SnapshotError> {
        let index = self.index.read();
        index.check(pin)?;
        let end = first.0.saturating_add(count.0);
        let mut saved = BTreeMap::new();
        for (_, p) in index.pins.range(pin..) {
            for (b, s) in p.map.range(first.0..end) {
                saved.entry(*b).or_insert(*s);
            }
        }
        let mut out = Vec::new();
        let mut at = first.0;
        for (b, s) in saved {
            if at < b {
                out.push(((BlockIndex(at), BlockCount(b - at)), Found::Base));
            }
            out.push(((BlockIndex(b), BlockCount(1)), index.found(s)));
            at = b + 1;
        }
        if at < end {
            out.push(((BlockIndex(at), BlockCount(end - at)), Found::Base));
        }
        Ok(out)
    }

    /// The blocks changed from the older pin to the younger one (F34); their content is read from
    /// the younger.
    ///
    /// # Errors
    /// Unknown, broken, or not in this order.
    pub fn difference(&self, older: PinId, younger: PinId) -> Result<BlockSet, SnapshotError> {
        self.index.read().changed(older, Some(younger))
    }

    /// The blocks changed from the pin to the base as it is.
    ///
    /// # Errors
    /// Unknown or broken.
    pub fn changed_since(&self, pin: PinId) -> Result<BlockSet, SnapshotError> {
        self.index.read().changed(pin, None)
    }

    /// Reads one block of a pin (F27), while others may overwrite the base.
    ///
    /// # Errors
    /// [`PinReadError`].
    pub fn read_block(
        &self,
        pin: PinId,
        block: BlockIndex,
        buf: &mut [u8],
        io: &mut dyn AreaIo,
    ) -> Result<(), PinReadError> {
        loop {
            let found = self.lookup(pin, block)?;
            match found {
                Found::Slot(s) => io.read_area(s.offset, buf)?,
                Found::Base => io.read_base(block, buf)?,
            }
            // Still there: nobody had begun to overwrite it when we had read it.
            if self.lookup(pin, block)? != found {
                continue;
            }
            return if found.verifies(buf) {
                Ok(())
            } else {
                Err(PinReadError::Damaged { pin, block })
            };
        }
    }

    /// Saves before images for the blocks about to be overwritten (F26); returns when the base may
    /// be overwritten. Waits for other savers of the same blocks, never for readers or room.
    ///
    /// # Errors
    /// Reading the base or writing the area failed: the blocks must not be overwritten.
    pub fn preserve(
        &self,
        first: BlockIndex,
        count: BlockCount,
        io: &mut dyn AreaIo,
    ) -> Result<(), IoError> {
        let mut written = Vec::new();
        let blocks = self.needs_copy(first, count);
        let result = blocks.into_iter().try_for_each(|b| self.save(b, &mut written, io));
        let result = result.and_then(|()| self.commit_all(&mut written, io));
        // Only after an error is anything left.
        for (r, _) in written {
            let (offset, entry) = self.abort_copy(&r);
            let _ = io.write_area(offset, &entry);
        }
        result
    }

    fn save(
        &self,
        block: BlockIndex,
        written: &mut Vec<(Reservation, u32)>,
        io: &mut dyn AreaIo,
    ) -> Result<(), IoError> {
        loop {
            let seen = *self.progress.lock();
            match self.reserve(block) {
                Reserve::NotNeeded => return Ok(()),
                Reserve::Slot(r) => {
                    written.push((r, 0));
                    let size = usize::try_from(self.layout().block.bytes()).unwrap_or(usize::MAX);
                    let mut image = vec![0; size];
                    io.read_base(block, &mut image)?;
                    let mut crc = crc32c::crc32c(&image);
                    if io.is_damaged(block, &image) {
                        crc = !crc;
                    }
                    io.write_area(r.offset, &image)?;
                    io.write_area(r.entry_offset, &self.entry(&r, crc))?;
                    if let Some(last) = written.last_mut() {
                        last.1 = crc;
                    }
                    return if written.len() < BATCH {
                        Ok(())
                    } else {
                        self.commit_all(written, io)
                    };
                }
                // Others may wait for what we hold: let go of it before waiting for them.
                Reserve::Wait if !written.is_empty() => self.commit_all(written, io)?,
                Reserve::Wait => {
                    let mut now = self.progress.lock();
                    while *now == seen {
                        now = self.progressed.wait(now);
                    }
                }
                Reserve::Breach(b) => {
                    let durable = self
                        .commit_all(written, io)
                        .and_then(|()| io.write_area(b.offset, &b.bytes))
                        .and_then(|()| io.sync_area());
                    if let Err(e) = durable {
                        self.with(|i| i.breaching = false);
                        return Err(e);
                    }
                    self.breach_written(b.pin);
                }
            }
        }
    }

    fn commit_all(
        &self,
        written: &mut Vec<(Reservation, u32)>,
        io: &mut dyn AreaIo,
    ) -> Result<(), IoError> {
        if written.iter().any(|(r, _)| r.must_sync) {
            io.sync_area()?;
        }
        for (r, crc) in written.drain(..) {
            self.commit_copy(&r, crc);
        }
        Ok(())
    }
}
