//! Writers against a cutter and drainer, on a volume in memory; used with real threads and with
//! the model checker. Every set must hold exactly what its cut saw.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::*;
use crate::io::IoError;
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::units::{BlockCount, BlockIndex, BlockSize};

#[cfg(shuttle)]
use shuttle::thread;
#[cfg(not(shuttle))]
use std::thread;

/// What a run is made of.
#[derive(Clone, Copy)]
pub(super) struct Shape {
    pub(super) blocks: u64,
    pub(super) writers: u64,
    pub(super) writes: u64,
    pub(super) held_blocks: u64,
    /// Abandon every so-many-th set halfway; 0: none.
    pub(super) abandon_every: u64,
    pub(super) seed: u64,
}

struct Model {
    capture: Capture,
    /// Content of a block, written one half after the other.
    base: Vec<[AtomicU64; 2]>,
    /// Blocks written since the last cut; a writer adds to it before it drops its ticket.
    changed: Mutex<BTreeMap<u64, ()>>,
    versions: AtomicU64,
    running: AtomicU64,
    done: AtomicBool,
}

fn random(state: &mut u64) -> u64 {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    *state >> 33
}

impl Model {
    fn read(&self, b: u64) -> [u64; 2] {
        let [x, y] = &self.base[b as usize];
        [x.load(Ordering::Relaxed), y.load(Ordering::Relaxed)]
    }

    fn read_into(&self, b: BlockIndex, buf: &mut [u8]) -> Result<(), IoError> {
        let [x, y] = self.read(b.0);
        buf[..8].copy_from_slice(&x.to_le_bytes());
        buf[8..16].copy_from_slice(&y.to_le_bytes());
        Ok(())
    }

    fn writer(&self, shape: Shape, n: u64) {
        let mut rng = shape.seed ^ (n + 1) << 40;
        for _ in 0..shape.writes {
            let first = random(&mut rng) % shape.blocks;
            let count = 1 + random(&mut rng) % 2.min(shape.blocks - first);
            let ticket = self.capture.enter();
            let read = &mut |b, buf: &mut [u8]| self.read_into(b, buf);
            self.capture
                .before_write(&ticket, BlockIndex(first), BlockCount(count), read)
                .expect("reads of memory succeed");
            for b in first..first + count {
                let v = self.versions.fetch_add(1, Ordering::Relaxed);
                let [x, y] = &self.base[b as usize];
                x.store(v, Ordering::Relaxed);
                y.store(v, Ordering::Relaxed);
                self.changed.lock().insert(b, ());
            }
            drop(ticket);
        }
        if self.running.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.done.store(true, Ordering::SeqCst);
        }
    }

    /// One cut and its drain; returns what the set holds, checked against what the cut saw.
    fn set(&self, rng: &mut u64, carry: &mut BTreeMap<u64, ()>, abandon: bool) -> Set {
        self.capture.close_gate();
        let (seen, mut want) = loop {
            // A cut may fail for a newcomer's blink at the gate only.
            if self.capture.is_quiet() || self.cut_is_broken() {
                let seen: Vec<_> = (0..self.base.len() as u64).map(|b| self.read(b)).collect();
                let mut want = std::mem::take(&mut *self.changed.lock());
                match self.capture.cut() {
                    Ok(_) => break (seen, want),
                    Err(CutError::NotQuiet) => self.changed.lock().append(&mut want),
                    Err(e) => panic!("{e}"),
                }
            }
            thread::yield_now();
        };
        want.append(carry);
        let mut got: Set = BTreeMap::new();
        let mut at = BlockIndex(0);
        while !self.capture.drained() {
            let mut put = |b: u64, content: [u64; 2]| {
                assert_eq!(content, seen[b as usize], "content of block {b} at the cut");
                assert_eq!(got.insert(b, content), None, "block {b} twice");
            };
            for (b, bytes) in self.capture.take_held(1) {
                let half = |i: usize| u64::from_le_bytes(bytes[i..i + 8].try_into().expect("8"));
                put(b.0, [half(0), half(8)]);
            }
            if let Some((first, count)) = self.capture.next_run(at, BlockCount(2)) {
                let read: Vec<_> = (first.0..first.0 + count.0).map(|b| self.read(b)).collect();
                for (f, c) in self.capture.take_read(first, count) {
                    (f.0..f.0 + c.0).for_each(|b| put(b, read[(b - first.0) as usize]));
                }
                at = BlockIndex(first.0 + count.0);
            } else {
                at = BlockIndex(0);
                thread::yield_now();
            }
            if abandon && random(rng).is_multiple_of(2) {
                let drained = got.keys().map(|b| BlockIndex(*b)).collect();
                self.capture.abandon_old(&drained);
                assert!(self.capture.drained());
                *carry = want;
                return BTreeMap::new();
            }
        }
        assert!(got.keys().eq(want.keys()), "set {:?}, changed {:?}", got.keys(), want.keys());
        got
    }

    fn cut_is_broken(&self) -> bool {
        #[cfg(shuttle)]
        return self.capture.bug == Some(shuttle_tests::Bug::CutInFlight);
        #[cfg(not(shuttle))]
        false
    }
}

/// Content by block: both halves, as two clients may write one block at once.
type Set = BTreeMap<u64, [u64; 2]>;

/// Runs the shape to its end. Panics if any set is wrong, or a replica fed by the sets differs.
pub(super) fn run(shape: Shape, prepare: impl FnOnce(&mut Capture)) {
    let limits = CaptureLimits { held_bytes: shape.held_blocks * 512 };
    let size = BlockSize::from_bytes(512).expect("a power of two");
    let mut capture = Capture::new(size, BlockCount(shape.blocks), limits);
    prepare(&mut capture);
    let model = Arc::new(Model {
        capture,
        base: (0..shape.blocks).map(|_| [AtomicU64::new(0), AtomicU64::new(0)]).collect(),
        changed: Mutex::default(),
        versions: AtomicU64::new(1),
        running: AtomicU64::new(shape.writers),
        done: AtomicBool::new(false),
    });
    let writers: Vec<_> = (0..shape.writers)
        .map(|n| {
            let model = model.clone();
            thread::spawn(move || model.writer(shape, n))
        })
        .collect();
    let (mut rng, mut carry, mut replica) =
        (shape.seed, BTreeMap::new(), vec![[0; 2]; model.base.len()]);
    let mut sets = 0;
    loop {
        let last = model.done.load(Ordering::SeqCst);
        sets += 1;
        let abandon = shape.abandon_every != 0 && sets % shape.abandon_every == 0 && !last;
        for (b, v) in model.set(&mut rng, &mut carry, abandon) {
            replica[b as usize] = v;
        }
        if last {
            break;
        }
        thread::yield_now();
    }
    writers.into_iter().for_each(|w| w.join().expect("writer"));
    let base: Vec<_> = (0..shape.blocks).map(|b| model.read(b)).collect();
    assert_eq!(replica, base, "no write is in no set");
    assert_eq!(model.capture.dirty_blocks().0, 0);
}
