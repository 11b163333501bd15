//! Tickets of writes in flight, and the gate that a cut closes.
//!
//! Dekker's handshake: a writer counts itself in, then looks at the gate; the owner closes the
//! gate, then looks at the counters; both sequentially consistent, so that one of them sees the
//! other. Counters are striped over cache lines, a thread keeps to one stripe, and a ticket leaves
//! by the stripe it came in by, so that each counter alone is right.

use std::task::Waker;

use super::table::{Capture, Notice, Stripe};
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::{Condvar, Mutex};

/// Most async writers that may wait at a closed gate; further ones are told to try again at once.
const MAX_WAKERS: usize = 4096;

#[derive(Default)]
pub(super) struct Gate {
    closed: AtomicBool,
    waiting: Mutex<Vec<Waker>>,
    opened: Condvar,
}

/// One write in flight: no cut happens while it lives. Drop it when the write has ended (it
/// reached the file, or failed). It may be held across an await and dropped by another thread.
#[must_use = "the write is in flight only while the ticket lives"]
pub struct WriteTicket<'a> {
    capture: &'a Capture,
    pub(super) stripe: usize,
}

/// What [`Capture::poll_enter`] found.
pub enum PollTicket<'a> {
    /// Go on.
    Ready(WriteTicket<'a>),
    /// The gate is closed; the waker is called when it opens.
    Waiting,
}

impl Drop for WriteTicket<'_> {
    fn drop(&mut self) {
        self.capture.leave(self.stripe);
    }
}

impl Capture {
    /// Begins a write; waits while a cut holds the gate.
    pub fn enter(&self) -> WriteTicket<'_> {
        loop {
            if let Some(ticket) = self.try_enter() {
                return ticket;
            }
            let mut waiting = self.gate.waiting.lock();
            while self.gate.closed.load(Ordering::SeqCst) {
                waiting = self.gate.opened.wait(waiting);
            }
        }
    }

    /// Begins a write, unless a cut holds the gate.
    pub fn try_enter(&self) -> Option<WriteTicket<'_>> {
        let stripe = my_stripe(self.stripes.len());
        self.stripes[stripe].in_flight.fetch_add(1, Ordering::SeqCst);
        if self.gate.closed.load(Ordering::SeqCst) {
            self.leave(stripe);
            return None;
        }
        Some(WriteTicket { capture: self, stripe })
    }

    /// Begins a write, or has `waker` called when the gate opens.
    pub fn poll_enter(&self, waker: &Waker) -> PollTicket<'_> {
        loop {
            if let Some(ticket) = self.try_enter() {
                return PollTicket::Ready(ticket);
            }
            let mut waiting = self.gate.waiting.lock();
            if !self.gate.closed.load(Ordering::SeqCst) {
                continue;
            }
            if waiting.iter().any(|w| w.will_wake(waker)) {
                return PollTicket::Waiting;
            }
            if waiting.len() < MAX_WAKERS {
                waiting.push(waker.clone());
            } else {
                waker.wake_by_ref();
            }
            return PollTicket::Waiting;
        }
    }

    /// Begins the barrier: from now on new writes wait. True if none is in flight already.
    /// Otherwise [`Notice::Quiet`] is given when the last one ends.
    pub fn close_gate(&self) -> bool {
        self.gate.closed.store(true, Ordering::SeqCst);
        self.is_quiet()
    }

    /// Ends the barrier without a cut (or after one: [`Capture::cut`] calls it).
    pub fn open_gate(&self) {
        let woken = {
            let mut waiting = self.gate.waiting.lock();
            self.gate.closed.store(false, Ordering::SeqCst);
            std::mem::take(&mut *waiting)
        };
        self.gate.opened.notify_all();
        woken.into_iter().for_each(Waker::wake);
    }

    /// Whether the gate is closed and no write is in flight. Once true it stays so until the gate
    /// opens, but for the blink in which a newcomer finds the gate closed.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        self.gate.closed.load(Ordering::SeqCst)
            && self.stripes.iter().all(|s| s.in_flight.load(Ordering::SeqCst) == 0)
    }

    /// Whether a cut holds the gate.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.gate.closed.load(Ordering::SeqCst)
    }

    fn leave(&self, stripe: usize) {
        // Also a release: whoever sees zero has everything that the write did.
        self.stripes[stripe].in_flight.fetch_sub(1, Ordering::SeqCst);
        if self.gate.closed.load(Ordering::SeqCst) && self.is_quiet() {
            self.tell(Notice::Quiet);
        }
    }
}

/// How many stripes: enough that threads seldom meet; few for the model checker.
pub(super) fn stripes(make: impl FnMut() -> Stripe) -> Box<[Stripe]> {
    let n = if cfg!(shuttle) { 2 } else { 16 };
    std::iter::repeat_with(make).take(n).collect()
}

#[cfg(not(shuttle))]
fn my_stripe(n: usize) -> usize {
    use std::sync::atomic::AtomicUsize;
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static MINE: usize = NEXT.fetch_add(1, Ordering::Relaxed);
    }
    MINE.try_with(|m| *m).unwrap_or(0) % n
}

#[cfg(shuttle)]
fn my_stripe(n: usize) -> usize {
    usize::from(shuttle::current::me()) % n
}
