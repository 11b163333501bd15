//! The two tables, the copies kept for the draining set, and the owner's verbs.

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, OnceLock};

use bytes::{Bytes, BytesMut};

use super::brim::Brim;
use super::gate::{self, Gate, WriteTicket};
use crate::bitmap::{AtomicBitmap, BlockSet, Run};
use crate::io::IoError;
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::sync::{Condvar, Mutex, RwLock};
use crate::units::{BlockCount, BlockIndex, BlockSize};

/// Bounds of one volume's capture.
#[derive(Clone, Copy, Debug)]
pub struct CaptureLimits {
    /// Bytes of copies kept for the draining set; a writer that needs one more waits for the
    /// drain. One block always fits.
    pub held_bytes: u64,
}

impl Default for CaptureLimits {
    fn default() -> Self {
        Self { held_bytes: 4 << 20 }
    }
}

/// What the owner may want to wake up for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice {
    /// The gate is closed and the last write in flight has ended: cut now.
    Quiet,
    /// Copies wait to be taken ([`Capture::take_held`]).
    Held,
    /// Writers wait for room among the copies.
    HeldFull,
    /// The threshold given to [`Capture::tell_dirty_above`] was passed; once per cut.
    Dirty,
    /// A writer could not read a block's old content: abandon the draining set.
    Spoiled,
}

/// Why a writer may not write yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CaptureError {
    /// No room for one more copy; try again after the drain took some.
    #[error("too many copies wait to be drained")]
    HeldFull,
    /// The volume has stopped ([`Capture::stop`]): nothing is written to it any more.
    #[error("the volume has stopped")]
    Stopped,
    /// The block's content could not be read, so that the draining set cannot be completed. The
    /// owner abandons it ([`Capture::abandon_old`]); afterwards the write can be tried again.
    #[error("content of block {} cannot be kept for the set being drained: {source}", block.0)]
    Read {
        /// Which block.
        block: BlockIndex,
        /// Why.
        source: IoError,
    },
}

/// Why there was no cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CutError {
    /// The gate is open: [`Capture::close_gate`] first.
    #[error("writes are not held")]
    Open,
    /// A write is in flight.
    #[error("a write is in flight")]
    NotQuiet,
    /// The set before is not drained: put the cut off, with priority to the drain (CAP-10).
    #[error("the set before is not drained")]
    NotDrained,
}

/// Reads a whole block of the base into the buffer.
pub type ReadOld<'a> = dyn FnMut(BlockIndex, &mut [u8]) -> Result<(), IoError> + 'a;

/// What a cut found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CutInfo {
    /// Blocks of the set; none means that nothing changed since the cut before.
    pub blocks: BlockCount,
}

/// The table being marked and the table being drained.
#[derive(Clone)]
pub(super) struct Tables {
    pub(super) new: Arc<AtomicBitmap>,
    pub(super) old: Arc<AtomicBitmap>,
    /// Blocks that the table of hashes does not answer for; `None`: it answers for none.
    pub(super) written: Option<Arc<AtomicBitmap>>,
}

/// A cache line (two, for the neighbour prefetcher) of one thread's counters.
#[repr(align(128))]
pub(super) struct Stripe {
    pub(super) in_flight: AtomicU64,
    pub(super) tables: RwLock<Tables>,
}

#[derive(Default)]
struct Held {
    copies: VecDeque<(BlockIndex, Bytes)>,
    /// Bytes in `copies`, and of copies being read by writers.
    bytes: u64,
}

pub(super) struct Owner {
    pub(super) tables: Tables,
    pub(super) blocks: BlockCount,
    /// The next new table, made outside the pause.
    spare: Option<Arc<AtomicBitmap>>,
}

type Notify = Box<dyn Fn(Notice) + Send + Sync>;

/// The modification log of one volume; see the module.
pub struct Capture {
    block_size: BlockSize,
    limits: CaptureLimits,
    pub(super) gate: Gate,
    pub(super) stripes: Box<[Stripe]>,
    pub(super) owner: Mutex<Owner>,
    held: Mutex<Held>,
    room: Condvar,
    spoiled: AtomicBool,
    stopped: AtomicBool,
    dirty_above: AtomicU64,
    dirty_told: AtomicBool,
    pub(super) brim: Brim,
    notify: OnceLock<Notify>,
    /// Blocks whose content is not what their hash says.
    pub(super) doubts: Mutex<BTreeSet<u64>>,
    #[cfg(all(test, shuttle))]
    pub(super) bug: Option<super::shuttle_tests::Bug>,
}

impl Capture {
    /// Nothing marked, gate open.
    #[must_use]
    pub fn new(block_size: BlockSize, blocks: BlockCount, limits: CaptureLimits) -> Self {
        let empty = || Arc::new(AtomicBitmap::new(blocks));
        let tables = Tables { new: empty(), old: empty(), written: None };
        Self {
            block_size,
            limits,
            gate: Gate::default(),
            stripes: gate::stripes(|| Stripe {
                in_flight: AtomicU64::new(0),
                tables: RwLock::new(tables.clone()),
            }),
            owner: Mutex::new(Owner { tables: tables.clone(), blocks, spare: Some(empty()) }),
            held: Mutex::default(),
            room: Condvar::default(),
            spoiled: AtomicBool::new(false),
            stopped: AtomicBool::new(false),
            dirty_above: AtomicU64::new(u64::MAX),
            dirty_told: AtomicBool::new(false),
            brim: Brim::default(),
            notify: OnceLock::new(),
            doubts: Mutex::default(),
            #[cfg(all(test, shuttle))]
            bug: None,
        }
    }

    /// Has `notify` called with every [`Notice`], by the thread that caused it, possibly more than
    /// once for one cause. It must not block nor call back. Only the first call counts.
    pub fn on_notice(&self, notify: impl Fn(Notice) + Send + Sync + 'static) {
        let _ = self.notify.set(Box::new(notify));
    }

    /// From how many modified bytes on [`Notice::Dirty`] is given.
    pub fn tell_dirty_above(&self, bytes: u64) {
        self.dirty_above.store(bytes, Ordering::Relaxed);
        self.dirty_told.store(false, Ordering::Relaxed);
    }

    /// Marks the blocks that a write is about to change, and keeps the content of those that the
    /// draining set still needs: `read_old(block, buf)` reads a whole block of the base. Waits for
    /// the drain when too many copies are kept.
    ///
    /// The write may begin only after this returned `Ok`, and must end before the ticket is
    /// dropped.
    ///
    /// # Errors
    /// [`CaptureError::Read`] or [`CaptureError::Stopped`]; the write must not happen. Marks already
    /// made stay: too many marks are allowed, too few never.
    pub fn before_write(
        &self,
        ticket: &WriteTicket<'_>,
        first: BlockIndex,
        count: BlockCount,
        read_old: &mut ReadOld<'_>,
    ) -> Result<(), CaptureError> {
        self.mark(ticket, first, count, read_old, true)
    }

    /// As [`before_write`](Self::before_write), but [`CaptureError::HeldFull`] instead of waiting;
    /// calling again is harmless.
    ///
    /// # Errors
    /// [`CaptureError`].
    pub fn try_before_write(
        &self,
        ticket: &WriteTicket<'_>,
        first: BlockIndex,
        count: BlockCount,
        read_old: &mut ReadOld<'_>,
    ) -> Result<(), CaptureError> {
        self.mark(ticket, first, count, read_old, false)
    }

    fn mark(
        &self,
        ticket: &WriteTicket<'_>,
        first: BlockIndex,
        count: BlockCount,
        read_old: &mut ReadOld<'_>,
        wait: bool,
    ) -> Result<(), CaptureError> {
        if self.is_stopped() {
            return Err(CaptureError::Stopped);
        }
        // Uncontended: only a cut or a resize writes here, and they wait for our ticket.
        let tables = self.stripes[ticket.stripe].tables.read();
        if tables.new.set_range(first, count).0 != 0 {
            self.check_dirty(&tables.new);
        }
        if let Some(written) = &tables.written {
            written.set_range(first, count);
        }
        if tables.old.count().0 == 0 || rcp::planted!(CopyForgotten) {
            return Ok(());
        }
        let end = first.0.saturating_add(count.0);
        let mut at = first;
        while let Some((block, _)) = tables.old.next_run(at, BlockCount(1)) {
            if block.0 >= end {
                break;
            }
            self.keep(&tables.old, block, read_old, wait)?;
            at = BlockIndex(block.0 + 1);
        }
        Ok(())
    }

    /// Returns once the block's old bit is clear and its content safe.
    fn keep(
        &self,
        old: &AtomicBitmap,
        block: BlockIndex,
        read_old: &mut ReadOld<'_>,
        wait: bool,
    ) -> Result<(), CaptureError> {
        let size = self.block_size.bytes();
        {
            let mut held = self.held.lock();
            while held.bytes > 0 && held.bytes + size > self.limits.held_bytes {
                if !old.test(block) {
                    return Ok(());
                }
                if self.is_stopped() {
                    return Err(CaptureError::Stopped);
                }
                self.tell(Notice::HeldFull);
                if !wait {
                    return Err(CaptureError::HeldFull);
                }
                held = self.room.wait(held);
            }
            held.bytes += size;
        }
        #[cfg(all(test, shuttle))]
        if self.bug == Some(super::shuttle_tests::Bug::ClearBeforeCopy) {
            old.clear(block);
        }
        // No lock while reading: rule 3 of the module.
        let mut copy = BytesMut::zeroed(usize::try_from(size).unwrap_or(usize::MAX));
        let read = read_old(block, &mut copy);
        let mut held = self.held.lock();
        let mine = read.is_ok() && old.clear(block);
        #[cfg(all(test, shuttle))]
        let mine = mine || self.bug == Some(super::shuttle_tests::Bug::ClearBeforeCopy);
        if mine {
            held.copies.push_back((block, copy.freeze()));
        } else {
            held.bytes -= size;
            self.room.notify_all();
        }
        drop(held);
        if mine {
            self.tell(Notice::Held);
        }
        match read {
            Err(source) if old.test(block) => {
                self.spoiled.store(true, Ordering::Release);
                self.tell(Notice::Spoiled);
                Err(CaptureError::Read { block, source })
            }
            _ => Ok(()),
        }
    }

    fn check_dirty(&self, new: &AtomicBitmap) {
        self.check_brim(new.count().0 << self.block_size.shift());
        let above = self.dirty_above.load(Ordering::Relaxed);
        if above != u64::MAX
            && new.count().0 << self.block_size.shift() > above
            && !self.dirty_told.load(Ordering::Relaxed)
            && !self.dirty_told.swap(true, Ordering::Relaxed)
        {
            self.tell(Notice::Dirty);
        }
    }

    pub(super) fn tell(&self, notice: Notice) {
        if let Some(notify) = self.notify.get() {
            notify(notice);
        }
    }
}

/// The owner's verbs.
impl Capture {
    /// Swaps the tables and opens the gate: what was marked so far is the set to drain now.
    ///
    /// # Errors
    /// [`CutError`]; the gate stays as it is, nothing changes.
    pub fn cut(&self) -> Result<CutInfo, CutError> {
        let mut owner = self.owner.lock();
        if !self.is_closed() {
            return Err(CutError::Open);
        }
        if !self.is_quiet() {
            #[cfg(all(test, shuttle))]
            if self.bug != Some(super::shuttle_tests::Bug::CutInFlight) {
                return Err(CutError::NotQuiet);
            }
            #[cfg(not(all(test, shuttle)))]
            return Err(CutError::NotQuiet);
        }
        if !self.is_drained(&owner.tables.old) {
            return Err(CutError::NotDrained);
        }
        let blocks = owner.blocks;
        let empty = || Arc::new(AtomicBitmap::new(blocks));
        let new = owner.spare.take().unwrap_or_else(empty);
        let old = owner.tables.new.clone();
        let info = CutInfo { blocks: old.count() };
        let written = owner.tables.written.clone();
        let drained = self.install(&mut owner, Tables { new, old, written });
        self.dirty_told.store(false, Ordering::Relaxed);
        self.brim.emptied();
        self.open_gate();
        // Outside the pause: give back the memory of the table drained, and make the next one.
        drop(drained);
        owner.spare = Some(empty());
        Ok(info)
    }

    /// Lets the volume grow, keeping every mark; needs the barrier, which it leaves closed.
    ///
    /// # Errors
    /// [`CutError::Open`] or [`CutError::NotQuiet`].
    pub fn grow(&self, blocks: BlockCount) -> Result<(), CutError> {
        let mut owner = self.owner.lock();
        if !self.is_closed() {
            return Err(CutError::Open);
        }
        if !self.is_quiet() {
            return Err(CutError::NotQuiet);
        }
        let larger = |from: &AtomicBitmap| {
            let to = AtomicBitmap::new(blocks);
            from.runs().for_each(|(first, count)| {
                to.set_range(first, count);
            });
            Arc::new(to)
        };
        let t = &owner.tables;
        let written = t.written.as_deref().map(larger);
        let next = Tables { new: larger(&t.new), old: larger(&t.old), written };
        owner.blocks = blocks;
        owner.spare = None;
        self.install(&mut owner, next);
        Ok(())
    }

    pub(super) fn install(&self, owner: &mut Owner, next: Tables) -> Tables {
        for stripe in &self.stripes {
            *stripe.tables.write() = next.clone();
        }
        std::mem::replace(&mut owner.tables, next)
    }

    pub(super) fn tables(&self) -> Tables {
        self.owner.lock().tables.clone()
    }

    /// The next blocks that the draining set needs, at or after `from`, at most `max`: read them
    /// from the base, then [`take_read`](Self::take_read).
    #[must_use]
    pub fn next_run(&self, from: BlockIndex, max: BlockCount) -> Option<Run> {
        self.tables().old.next_run(from, max)
    }

    /// Claims the blocks just read. Content of the runs returned is that of the cut; of the others
    /// a writer has kept a copy ([`take_held`](Self::take_held)), or they were not in the set.
    #[must_use = "what is claimed and not used is missing in the set"]
    pub fn take_read(&self, first: BlockIndex, count: BlockCount) -> Vec<Run> {
        #[cfg(all(test, shuttle))]
        if self.bug == Some(super::shuttle_tests::Bug::TrustTheRead) {
            self.tables().old.clear_range(first, count);
            return vec![(first, count)];
        }
        self.tables().old.take_range(first, count)
    }

    /// Takes copies kept by writers, oldest first: at least one if there are any, and no more than
    /// `max_bytes` otherwise. They go before [`next_run`](Self::next_run): writers may wait.
    #[must_use = "what is taken and not used is missing in the set"]
    pub fn take_held(&self, max_bytes: u64) -> Vec<(BlockIndex, Bytes)> {
        let size = self.block_size.bytes();
        let mut held = self.held.lock();
        let n = usize::try_from((max_bytes / size).max(1)).unwrap_or(usize::MAX);
        let n = n.min(held.copies.len());
        let taken: Vec<_> = held.copies.drain(..n).collect();
        held.bytes -= taken.len() as u64 * size;
        drop(held);
        if !taken.is_empty() {
            self.room.notify_all();
        }
        taken
    }

    /// Whether every block of the draining set was taken.
    #[must_use]
    pub fn drained(&self) -> bool {
        self.is_drained(&self.tables().old)
    }

    fn is_drained(&self, old: &AtomicBitmap) -> bool {
        let held = self.held.lock();
        held.copies.is_empty() && old.count().0 == 0
    }

    /// Whether a writer could not read old content, so that the set must be abandoned.
    #[must_use]
    pub fn spoiled(&self) -> bool {
        self.spoiled.load(Ordering::Acquire)
    }

    /// The owner does nothing more, for good: whoever waits for it is let go with
    /// [`CaptureError::Stopped`], and so is everybody who comes later.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::SeqCst);
        self.open_gate();
        // Under the lock, or a writer that has just looked would sleep on.
        drop(self.held.lock());
        self.room.notify_all();
    }

    /// Whether [`stop`](Self::stop) was called.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::SeqCst)
    }

    /// Gives the draining set up: whatever it still needs, and what was `already_drained` for it,
    /// belongs to the next one. Writers may go on meanwhile.
    pub fn abandon_old(&self, already_drained: &BlockSet) {
        let owner = self.owner.lock();
        let Tables { new, old, .. } = &owner.tables;
        // The lock of the copies: no writer can move a block from the table to the queue meanwhile.
        let mut held = self.held.lock();
        // Marked in the new table before it leaves the old one.
        old.runs().for_each(|(first, count)| {
            new.set_range(first, count);
        });
        old.clear_all();
        let dropped = std::mem::take(&mut held.copies);
        for (block, _) in &dropped {
            new.set(*block);
        }
        held.bytes -= dropped.len() as u64 * self.block_size.bytes();
        already_drained.runs().for_each(|(first, count)| {
            new.set_range(first, count);
        });
        self.spoiled.store(false, Ordering::Release);
        drop(held);
        self.room.notify_all();
        self.check_dirty(new);
    }

    /// Marks a range as modified without a write: recovery, or an import.
    pub fn mark_range(&self, first: BlockIndex, count: BlockCount) {
        let Tables { new, written, .. } = self.tables();
        new.set_range(first, count);
        if let Some(written) = written {
            written.set_range(first, count);
        }
        self.check_dirty(&new);
    }

    /// Takes marks back, where the content is known to be that of the last set (recovery, by
    /// hash). Only before writers are let in.
    pub fn unmark_range(&self, first: BlockIndex, count: BlockCount) {
        self.tables().new.clear_range(first, count);
    }

    /// Blocks modified since the last cut.
    #[must_use]
    pub fn dirty_blocks(&self) -> BlockCount {
        self.tables().new.count()
    }

    /// Bytes modified since the last cut, in whole blocks: what the high-water mark is for.
    #[must_use]
    pub fn dirty_bytes(&self) -> u64 {
        self.dirty_blocks().0 << self.block_size.shift()
    }

    /// Blocks that the draining set still needs from the base.
    #[must_use]
    pub fn undrained_blocks(&self) -> BlockCount {
        self.tables().old.count()
    }

    /// Whether any block of the range is marked in either table, or a copy of it waits: then its
    /// extent stays in the activity log.
    #[must_use]
    pub fn any_dirty(&self, first: BlockIndex, count: BlockCount) -> bool {
        let tables = self.tables();
        if tables.new.any(first, count) || tables.old.any(first, count) {
            return true;
        }
        let held = self.held.lock();
        held.copies.iter().any(|(b, _)| *b >= first && b.0 - first.0 < count.0)
    }

    /// What the new table holds now; exact only while no write is in flight.
    #[must_use]
    pub fn new_table_snapshot(&self) -> BlockSet {
        self.tables().new.runs().collect()
    }

    /// What the draining set still needs: old table and copies not taken.
    #[must_use]
    pub fn old_table_snapshot(&self) -> BlockSet {
        let tables = self.tables();
        let held = self.held.lock();
        let mut set: BlockSet = tables.old.runs().collect();
        for (block, _) in &held.copies {
            set.insert(*block);
        }
        set
    }
}

impl std::fmt::Debug for Capture {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let t = self.tables();
        f.debug_struct("Capture").field("new", &t.new).field("old", &t.old).finish_non_exhaustive()
    }
}
