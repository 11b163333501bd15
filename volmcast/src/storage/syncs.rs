//! Syncs of one file, for all who ask for them.
//!
//! Linux reports a failed write-back once per open file and takes the pages for clean: the next
//! `fdatasync` succeeds, and what was not written is gone. So whoever meets the error keeps it here,
//! and everybody else gets it too, for as long as the file is open. Callers that wait at the same
//! time share one sync.

use std::fs::File;
use std::io::Error;

use parking_lot::{Condvar, Mutex};

#[derive(Debug, Default)]
struct State {
    /// The system's error number of the sync that failed.
    failed: Option<i32>,
    running: bool,
    /// Syncs that were begun, and the newest one that succeeded.
    begun: u64,
    done: u64,
}

/// The syncs of one file.
#[derive(Debug, Default)]
pub(super) struct Syncs {
    state: Mutex<State>,
    changed: Condvar,
}

impl Syncs {
    /// Makes durable what was written before the call.
    ///
    /// # Errors
    /// The system's, of this sync or of any before it.
    pub(super) fn sync(&self, f: &File) -> Result<(), Error> {
        self.sync_by(&|| f.sync_data())
    }

    /// How many there have been.
    #[cfg(test)]
    pub(super) fn begun(&self) -> u64 {
        self.state.lock().begun
    }

    fn sync_by(&self, sync: &dyn Fn() -> Result<(), Error>) -> Result<(), Error> {
        let mut s = self.state.lock();
        // One that is under way may have begun before our writes.
        let mine = s.begun + 1;
        loop {
            if let Some(e) = s.failed {
                return Err(Error::from_raw_os_error(e));
            }
            if s.done >= mine {
                return Ok(());
            }
            if s.running {
                self.changed.wait(&mut s);
                continue;
            }
            s.running = true;
            s.begun += 1;
            let this = s.begun;
            drop(s);
            let result = sync();
            s = self.state.lock();
            s.running = false;
            match result {
                Ok(()) => s.done = this,
                Err(e) => {
                    let io = rustix::io::Errno::IO.raw_os_error();
                    s.failed = Some(e.raw_os_error().unwrap_or(io));
                }
            }
            self.changed.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::sync::mpsc;

    use super::*;

    /// As Linux does it: the error is reported once.
    #[test]
    fn an_error_stays_for_everybody() {
        let s = Syncs::default();
        let calls = AtomicU64::new(0);
        let once = || match calls.fetch_add(1, Ordering::SeqCst) {
            1 => Err(Error::from_raw_os_error(5)),
            _ => Ok(()),
        };
        s.sync_by(&once).expect("the disk is well");
        for _ in 0..3 {
            let e = s.sync_by(&once).expect_err("what was not written stays lost");
            assert_eq!(e.raw_os_error(), Some(5));
        }
    }

    #[test]
    fn those_who_wait_share_a_sync_that_began_after_their_writes_and_its_error() {
        for fails in [false, true] {
            let s = Arc::new(Syncs::default());
            let calls = Arc::new(AtomicU64::new(0));
            let (go, gate) = mpsc::sync_channel::<()>(1);
            let (began, begun) = mpsc::sync_channel::<()>(1);
            let first = std::thread::spawn({
                let (s, calls) = (s.clone(), calls.clone());
                move || {
                    s.sync_by(&|| {
                        calls.fetch_add(1, Ordering::SeqCst);
                        began.send(()).expect("somebody listens");
                        gate.recv().expect("somebody lets it go");
                        if fails { Err(Error::from_raw_os_error(5)) } else { Ok(()) }
                    })
                }
            });
            begun.recv().expect("it runs");
            let others: Vec<_> = (0..4)
                .map(|_| {
                    let (s, calls) = (s.clone(), calls.clone());
                    std::thread::spawn(move || {
                        s.sync_by(&|| {
                            calls.fetch_add(1, Ordering::SeqCst);
                            Ok(())
                        })
                    })
                })
                .collect();
            go.send(()).expect("it waits");
            assert_eq!(first.join().expect("joined").is_err(), fails);
            for o in others {
                assert_eq!(o.join().expect("joined").is_err(), fails);
            }
            let n = calls.load(Ordering::SeqCst);
            assert!(if fails { n == 1 } else { (2..=5).contains(&n) }, "{n} syncs");
        }
    }
}
