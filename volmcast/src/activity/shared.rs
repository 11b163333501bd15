//! What writer threads see: the map of active extents, and a way to activate and wait.

use std::sync::Arc;

use super::log::{Activation, ActivationSeq, ActivityError, ActivityLog};
use super::page::{ExtentIndex, Geometry};
use crate::bitmap::AtomicBitmap;
use crate::io::{Io, Outcome};
use crate::sync::atomic::{Ordering, fence};
use crate::sync::{Condvar, Mutex, MutexGuard};
use crate::units::{BlockCount, BlockIndex};

/// Extents of the largest volume (64 TiB in 1 MiB). The map has room for them from the start, so
/// that a volume grows under its writers.
const MAX_EXTENTS: BlockCount = BlockCount(1 << 26);

/// The extents whose bit is durable. Shared by all writers; changed by the log alone.
#[derive(Debug)]
pub struct ActiveMap {
    geometry: Geometry,
    extents: AtomicBitmap,
}

impl ActiveMap {
    pub(super) fn new(geometry: Geometry) -> Self {
        Self { geometry, extents: AtomicBitmap::new(MAX_EXTENTS) }
    }

    /// Whether every extent that the blocks touch is durably active. Also to be asked *after* the
    /// blocks were marked; see the module.
    #[must_use]
    pub fn covers(&self, first: BlockIndex, count: BlockCount) -> bool {
        let (e, n) = self.geometry.extents_of(first, count);
        // Pairs with the fence of `hide`: our marks are visible, or we see the bit gone.
        fence(Ordering::SeqCst);
        (e.0..e.0 + n).all(|e| self.extents.test(BlockIndex(e)))
    }

    /// How many extents are active: what would have to be looked through after a crash.
    #[must_use]
    pub fn active(&self) -> u64 {
        self.extents.count().0
    }

    pub(super) fn has(&self, e: ExtentIndex) -> bool {
        self.extents.test(BlockIndex(e.0))
    }

    pub(super) fn show(&self, e: ExtentIndex) {
        self.extents.set(BlockIndex(e.0));
    }

    pub(super) fn hide(&self, e: ExtentIndex) {
        self.extents.clear(BlockIndex(e.0));
        fence(Ordering::SeqCst);
    }

    pub(super) fn next(&self, from: ExtentIndex) -> Option<(ExtentIndex, u64)> {
        let run = self.extents.next_run(BlockIndex(from.0), BlockCount(u64::MAX));
        run.map(|(e, n)| (ExtentIndex(e.0), n.0))
    }
}

struct State {
    log: ActivityLog,
    /// A thread is doing the I/O for all.
    led: bool,
}

/// An [`ActivityLog`] behind a lock, for writer threads that may block.
pub struct SharedLog {
    map: Arc<ActiveMap>,
    state: Mutex<State>,
    progress: Condvar,
}

impl SharedLog {
    /// Shares the log.
    #[must_use]
    pub fn new(log: ActivityLog) -> Self {
        Self {
            map: log.map(),
            state: Mutex::new(State { log, led: false }),
            progress: Condvar::default(),
        }
    }

    /// The map to look at before and after marking.
    #[must_use]
    pub fn map(&self) -> &ActiveMap {
        &self.map
    }

    /// Makes the extents of the blocks durably active; returns at once if they are. Waits for
    /// I/O: hold no ticket. `io` does one request; of several waiting threads one does them all.
    ///
    /// # Errors
    /// [`ActivityError`]: final, nothing may be written into extents that are not active.
    pub fn ensure(
        &self,
        first: BlockIndex,
        count: BlockCount,
        io: &mut dyn FnMut(&Io) -> Outcome,
    ) -> Result<(), ActivityError> {
        if self.map.covers(first, count) {
            return Ok(());
        }
        let mut state = self.state.lock();
        let Activation::Wait(seq) = state.log.activate(first, count)? else { return Ok(()) };
        self.wait_for(state, seq, io)
    }

    /// Waits until the log is durable up to `seq`, doing its I/O unless another thread does.
    fn wait_for<'a>(
        &'a self,
        mut state: MutexGuard<'a, State>,
        seq: ActivationSeq,
        io: &mut dyn FnMut(&Io) -> Outcome,
    ) -> Result<(), ActivityError> {
        while state.log.durable() < seq {
            if let Some(e) = state.log.failed() {
                return Err(e);
            }
            if state.led {
                state = self.progress.wait(state);
                continue;
            }
            state.led = true;
            // Until our own is done; whoever still waits takes over.
            while state.log.durable() < seq {
                let Some(request) = state.log.poll_io() else { break };
                drop(state);
                let outcome = io(&request);
                state = self.state.lock();
                state.log.complete(request.tag, &outcome);
            }
            state.led = false;
            self.progress.notify_all();
        }
        Ok(())
    }

    /// Lets the log cover a larger volume, durably. Waits for I/O, as [`ensure`](Self::ensure) does.
    ///
    /// # Errors
    /// [`ActivityError`]: final.
    pub fn grow(
        &self,
        blocks: BlockCount,
        io: &mut dyn FnMut(&Io) -> Outcome,
    ) -> Result<(), ActivityError> {
        let mut state = self.state.lock();
        let seq = state.log.grow(blocks)?;
        self.wait_for(state, seq, io)
    }

    /// Takes extents without marks back, as [`ActivityLog::clear_clean`] does, and durably: a crash
    /// from here on marks none of them. Waits for I/O.
    ///
    /// # Errors
    /// [`ActivityError`]: final.
    pub fn forget(
        &self,
        first: BlockIndex,
        count: BlockCount,
        is_dirty: &mut dyn FnMut(BlockIndex, BlockCount) -> bool,
        io: &mut dyn FnMut(&Io) -> Outcome,
    ) -> Result<(), ActivityError> {
        let mut state = self.state.lock();
        state.log.clear_clean(first, count, is_dirty);
        let seq = state.log.flush();
        self.wait_for(state, seq, io)
    }

    /// The owner's work on the log: clearing, growth, flushing. Not while it does I/O of its own.
    pub fn with<T>(&self, f: impl FnOnce(&mut ActivityLog) -> T) -> T {
        f(&mut self.state.lock().log)
    }
}

impl std::fmt::Debug for SharedLog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SharedLog").field("map", &self.map).finish_non_exhaustive()
    }
}
