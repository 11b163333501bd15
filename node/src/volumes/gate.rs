//! Whether writers are let in: a volume is written by one node at a time (promise 7).
//!
//! Asked on the client's own thread before every change. A writer that must wait does so for a
//! bounded time; who is refused gets EPERM, and status and log say why. After a planned swap, by which
//! nothing is lost, writers lose their connection instead: one that connects again, where the new
//! writer answers, goes on. After a failover that lost something they must not go on as if nothing had
//! been.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use crate::mover::Gate;
use crate::nbd::Errno;
use crate::seldom::Seldom;

/// Longest time that one write waits.
const WAIT: Duration = Duration::from_secs(10);
/// How often it is looked whether there is room again.
const ROOM: Duration = Duration::from_millis(2);
/// How often it is looked whether writers are gone.
const LOOK: Duration = Duration::from_millis(1);

const OPEN: u8 = 0;
const HOLD: u8 = 1;
const CLOSED: u8 = 2;
const HANDED: u8 = 3;

static REFUSED: Seldom = Seldom::new();

/// The gate of one writable volume.
#[derive(Debug)]
pub struct WriteGate {
    state: AtomicU8,
    /// Changes under way.
    writers: AtomicU64,
    why: Mutex<String>,
    changed: Condvar,
    /// The content is no longer the writer's: nothing may be read either.
    retired: AtomicBool,
}

/// A change under way.
#[derive(Debug)]
pub struct Pass<'a>(&'a WriteGate);

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        self.0.writers.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Default for WriteGate {
    /// Nobody is let in before somebody decides so.
    fn default() -> Self {
        Self {
            state: AtomicU8::new(HOLD),
            writers: AtomicU64::new(0),
            why: Mutex::new("the node is starting".to_owned()),
            changed: Condvar::new(),
            retired: AtomicBool::new(false),
        }
    }
}

impl WriteGate {
    /// Decides for all writers that come from now on.
    pub fn set(&self, gate: &Gate) {
        let (state, text) = match gate {
            Gate::Open => (OPEN, ""),
            Gate::Hold(why) => (HOLD, why.as_str()),
            Gate::Closed(why) => (CLOSED, why.as_str()),
            Gate::Handed(why) => (HANDED, why.as_str()),
        };
        let mut why = self.why.lock();
        text.clone_into(&mut why);
        self.state.store(state, Ordering::SeqCst);
        self.changed.notify_all();
    }

    /// Waits until no change is under way. Call it with the gate shut; blocks.
    pub fn await_quiet(&self) {
        while self.writers.load(Ordering::SeqCst) > 0 {
            std::thread::sleep(LOOK);
        }
    }

    /// The volume was given to another role: clients that still hold it get errors, or, if it was
    /// handed over, lose their connection.
    pub fn retire(&self) {
        self.retired.store(true, Ordering::SeqCst);
        let why = "this node is no longer the writer".to_owned();
        self.set(&if self.is_handed_over() { Gate::Handed(why) } else { Gate::Closed(why) });
    }

    /// Whether another node writes from the very state on with which writers ended here.
    #[must_use]
    pub fn is_handed_over(&self) -> bool {
        self.state.load(Ordering::SeqCst) == HANDED
    }

    /// Whether reads have come to an end.
    #[must_use]
    pub fn is_retired(&self) -> bool {
        self.retired.load(Ordering::SeqCst)
    }

    /// What is read is handed out only if the content was the writer's before and after: another node
    /// may have written, or cleared, what it looked at.
    ///
    /// # Errors
    /// `gone` if it was not; those of `read`.
    pub fn reading<T, E>(&self, gone: E, read: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
        if self.is_retired() {
            return Err(gone);
        }
        let found = read()?;
        if self.is_retired() { Err(gone) } else { Ok(found) }
    }

    /// Whether writers are let in.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.state.load(Ordering::SeqCst) == OPEN
    }

    /// Whether writers are refused.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        matches!(self.state.load(Ordering::SeqCst), CLOSED | HANDED)
    }

    /// Whether a change might have to wait.
    #[must_use]
    pub fn might_hold(&self) -> bool {
        self.state.load(Ordering::SeqCst) == HOLD
    }

    /// Lets a change in, perhaps after a wait: for a decision about who writes, and as long as the
    /// save volume is `full`, which is bounded by whoever says so (SAVE-09). One that waits for room
    /// is not under way.
    ///
    /// # Errors
    /// EPERM.
    pub fn enter(&self, full: impl Fn() -> bool) -> Result<Pass<'_>, Errno> {
        loop {
            self.writers.fetch_add(1, Ordering::SeqCst);
            let pass = Pass(self);
            let open = self.state.load(Ordering::SeqCst) == OPEN;
            if open && !full() {
                return Ok(pass);
            }
            drop(pass);
            if open {
                let mut why = self.why.lock();
                if self.state.load(Ordering::SeqCst) == OPEN {
                    self.changed.wait_for(&mut why, ROOM);
                }
                continue;
            }
            let mut why = self.why.lock();
            let held = || self.state.load(Ordering::SeqCst) == HOLD;
            if held() {
                self.changed.wait_while_for(&mut why, |_| held(), WAIT);
            }
            if self.state.load(Ordering::SeqCst) != OPEN {
                if let Some(left_out) = REFUSED.turn() {
                    if self.is_handed_over() {
                        tracing::info!(why = *why, left_out, "a writer has to connect again");
                    } else {
                        tracing::warn!(why = *why, left_out, "a write was refused");
                    }
                }
                return Err(Errno::Perm);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn what_was_read_while_the_content_went_is_not_handed_out() {
        let gate = WriteGate::default();
        assert_eq!(gate.reading("gone", || Ok(7)), Ok(7));
        assert_eq!(gate.reading("gone", || Err::<u8, _>("damaged")), Err("damaged"));
        let while_it_goes = || {
            gate.retire();
            Ok(7)
        };
        assert_eq!(gate.reading("gone", while_it_goes), Err("gone"));
        let mut looked = false;
        let after = gate.reading("gone", || {
            looked = true;
            Ok(7)
        });
        assert_eq!((after, looked), (Err("gone"), false));
    }

    #[test]
    fn a_writer_that_waits_for_room_is_not_under_way_and_can_be_refused() {
        let (gate, full) = (Arc::new(WriteGate::default()), Arc::new(AtomicBool::new(true)));
        gate.set(&Gate::Open);
        let waits = || {
            let (gate, full) = (gate.clone(), full.clone());
            std::thread::spawn(move || gate.enter(|| full.load(Ordering::SeqCst)).map(drop))
        };
        let (first, second) = (waits(), waits());
        std::thread::sleep(Duration::from_millis(20));
        assert!(!first.is_finished() && !second.is_finished());
        // A change of the writer need not wait for them.
        gate.set(&Gate::Closed("fenced".to_owned()));
        gate.await_quiet();
        assert_eq!(first.join().expect("joined"), Err(Errno::Perm));
        assert_eq!(second.join().expect("joined"), Err(Errno::Perm));
        gate.set(&Gate::Open);
        let third = waits();
        std::thread::sleep(Duration::from_millis(20));
        assert!(!third.is_finished());
        full.store(false, Ordering::SeqCst);
        assert_eq!(third.join().expect("joined"), Ok(()));
    }

    #[test]
    fn writers_wait_are_let_in_and_are_refused() {
        let gate = Arc::new(WriteGate::default());
        let waiting = std::thread::spawn({
            let gate = gate.clone();
            move || gate.enter(|| false).map(drop)
        });
        gate.set(&Gate::Open);
        assert_eq!(waiting.join().expect("joined"), Ok(()));
        let pass = gate.enter(|| false).expect("open");
        gate.set(&Gate::Closed("fenced".to_owned()));
        assert_eq!(gate.enter(|| false).map(drop), Err(Errno::Perm));
        let quiet = std::thread::spawn({
            let gate = gate.clone();
            move || gate.await_quiet()
        });
        std::thread::sleep(Duration::from_millis(20));
        assert!(!quiet.is_finished(), "a change is under way");
        drop(pass);
        quiet.join().expect("joined");
        gate.retire();
        assert!(gate.is_closed() && gate.is_retired() && !gate.is_handed_over());
    }

    #[test]
    fn who_lost_nothing_by_a_swap_may_go_on_elsewhere() {
        let gate = WriteGate::default();
        gate.set(&Gate::Handed("leaf1 writes on".to_owned()));
        assert!(gate.is_handed_over() && gate.is_closed());
        assert_eq!(gate.enter(|| false).map(drop), Err(Errno::Perm));
        // The swap is taken back.
        gate.set(&Gate::Open);
        assert!(!gate.is_handed_over() && gate.enter(|| false).is_ok());
        // It is gone on with, and what is left here becomes a replica.
        gate.set(&Gate::Handed("leaf1 writes on".to_owned()));
        gate.retire();
        assert!(gate.is_handed_over() && gate.is_retired());
        // Another writer has opened a line that does not go on from there.
        gate.set(&Gate::Closed("fenced".to_owned()));
        assert!(!gate.is_handed_over() && gate.is_closed());
    }
}
