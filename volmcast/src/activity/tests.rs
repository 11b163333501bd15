//! Crashes at every point, damage of every kind, and the race of clearing against marking.

use std::sync::Arc;

use rcp::proto::ids::VolumeId;

#[cfg(not(shuttle))]
use super::page::CELL;
use super::*;
use crate::capture::{Capture, CaptureLimits};
use crate::io::{Io, Op, Outcome};
use crate::units::{BlockCount, BlockIndex, BlockSize};

fn geometry(extents: u64) -> Geometry {
    Geometry {
        volume: VolumeId([9; 16]),
        extent: ExtentSize::from_shift(20).expect("1 MiB"),
        block: BlockSize::DEFAULT,
        blocks: BlockCount(extents << 8),
    }
}

#[cfg(not(shuttle))]
/// First block and block count of an extent of 256 blocks.
fn e(n: u64) -> (BlockIndex, BlockCount) {
    (BlockIndex(n << 8), BlockCount(256))
}

/// A file of which only synced sectors are sure to survive.
#[derive(Clone, Default)]
struct Disk {
    now: Vec<u8>,
    synced: Vec<u8>,
}

impl Disk {
    fn run(&mut self, io: &Io) -> Outcome {
        match &io.op {
            Op::Write { offset, data } => {
                let mut at = *offset as usize;
                for d in data {
                    self.now.resize(self.now.len().max(at + d.len()), 0);
                    self.now[at..at + d.len()].copy_from_slice(d);
                    at += d.len();
                }
            }
            Op::Sync => self.synced = self.now.clone(),
            op => panic!("{op:?}"),
        }
        Outcome::Done
    }

    #[cfg(not(shuttle))]
    /// After a power cut: of the sectors not synced, those survive whose bit in `pick` is set.
    fn cut(&self, pick: u64) -> Vec<u8> {
        let mut out = self.synced.clone();
        out.resize(self.now.len(), 0);
        for (i, sector) in out.chunks_mut(CELL).enumerate() {
            if pick >> (i % 64) & 1 == 1 {
                sector.copy_from_slice(&self.now[i * CELL..][..sector.len()]);
            }
        }
        out
    }
}

fn pump(log: &mut ActivityLog, disk: &mut Disk) {
    while let Some(io) = log.poll_io() {
        let outcome = disk.run(&io);
        log.complete(io.tag, &outcome);
    }
}

/// The map after a restart from these bytes.
fn restarted(g: Geometry, file: &[u8]) -> (Vec<u32>, Arc<ActiveMap>) {
    let mut r = ActivityLog::recover(g, file);
    assert_eq!(r.log.map().active(), 0, "not before it is durable again");
    let mut disk = Disk::default();
    pump(&mut r.log, &mut disk);
    assert!(r.log.durable() >= r.ready && r.log.active_runs() == r.active);
    assert_eq!(disk.synced.len() as u64, g.file_len());
    (r.damaged, r.log.map())
}

fn created(extents: u64) -> (ActivityLog, Disk) {
    let mut disk = Disk::default();
    let (mut log, seq) = ActivityLog::create(geometry(extents));
    pump(&mut log, &mut disk);
    assert!(log.durable() >= seq);
    assert_eq!(disk.synced.len() as u64, geometry(extents).file_len());
    (log, disk)
}

#[cfg(not(shuttle))]
mod ordinary {
    use super::super::page::{PAGE, PER_CELL};
    use super::*;
    use crate::io::IoError;
    use proptest::prelude::*;

    /// The bytes of this form may never change.
    #[test]
    fn golden_vector() {
        let (mut log, mut disk) = created(12);
        assert!(matches!(log.activate(e(1).0, BlockCount(257)), Ok(Activation::Wait(_))));
        pump(&mut log, &mut disk);
        let mut want = vec![0; CELL];
        #[rustfmt::skip]
        want[..42].copy_from_slice(&[
            b'V', b'C', b'A', b'L', 1, 20, 0, 0, // magic, version, 1 MiB, zero
            0, 0, 0, 0,                          // cell 0
            18, 192, 44, 234,              // checksum
            2, 0, 0, 0, 0, 0, 0, 0,              // sequence
            9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, // volume
            0b110, 0,                            // extents 1 and 2
        ]);
        assert_eq!(disk.synced[..CELL], want);
        let r = ActivityLog::recover(geometry(12), &disk.synced);
        assert_eq!((r.active, r.damaged), (vec![(e(1).0, BlockCount(512))], vec![]));
    }

    #[test]
    fn one_sync_serves_all_who_asked() {
        let (mut log, mut disk) = created(100_000);
        let Ok(Activation::Wait(a)) = log.activate(e(1).0, e(1).1) else { panic!() };
        let io = log.poll_io().expect("a page write");
        // While the round runs, others ask: for the same extent, a neighbour, and far away.
        let Ok(Activation::Wait(b)) = log.activate(e(2).0, e(2).1) else { panic!() };
        let Ok(Activation::Wait(c)) = log.activate(e(99_999).0, e(1).1) else { panic!() };
        assert!(log.poll_io().is_none() && a < b && b < c);
        log.complete(io.tag, &disk.run(&io));
        let io = log.poll_io().expect("the sync");
        assert_eq!(io.op, Op::Sync);
        assert!(!log.map().covers(e(1).0, e(1).1), "not before it is durable");
        log.complete(io.tag, &disk.run(&io));
        assert_eq!(log.durable(), a);
        assert!(log.map().covers(e(1).0, e(1).1) && !log.map().covers(e(2).0, e(2).1));
        let requests: Vec<_> = std::iter::from_fn(|| {
            let io = log.poll_io()?;
            log.complete(io.tag, &disk.run(&io));
            Some(io)
        })
        .collect();
        assert_eq!((requests.len(), log.durable()), (3, c), "two pages and one sync");
        assert_eq!(log.activate(e(1).0, BlockCount(512)), Ok(Activation::Done));
    }

    #[test]
    fn failure_is_final() {
        let (mut log, mut disk) = created(10);
        for fail_sync in [false, true] {
            let mut log = ActivityLog::recover(geometry(10), &disk.synced).log;
            pump(&mut log, &mut disk);
            assert!(matches!(log.activate(e(1).0, e(1).1), Ok(Activation::Wait(_))));
            let mut io = log.poll_io().expect("write");
            if fail_sync {
                log.complete(io.tag, &disk.run(&io));
                io = log.poll_io().expect("sync");
            }
            log.complete(io.tag, &Outcome::Failed(IoError::Os(5)));
            assert_eq!(log.failed(), Some(ActivityError(IoError::Os(5))));
            assert!(log.poll_io().is_none() && !log.map().covers(e(1).0, e(1).1));
            assert!(log.activate(e(2).0, e(2).1).is_err());
        }
        let shared = SharedLog::new({
            pump(&mut log, &mut disk);
            log
        });
        let fail = &mut |_: &Io| Outcome::Failed(IoError::NoSpace);
        assert_eq!(shared.ensure(e(1).0, e(1).1, fail), Err(ActivityError(IoError::NoSpace)));
    }

    #[test]
    fn every_flip_every_cut_and_every_lost_page_marks_more_not_less() {
        let extents = PER_CELL * 9 + 5;
        let g = geometry(extents);
        let (mut log, mut disk) = created(extents);
        for n in [0, 7, PER_CELL - 1, PER_CELL, PER_CELL * 8 + 3, extents - 1] {
            log.activate(e(n).0, e(n).1).expect("works");
        }
        pump(&mut log, &mut disk);
        let truth = log.active_runs();
        let check = |file: &[u8], cell: Option<usize>| {
            let (damaged, map) = restarted(g, file);
            assert!(truth.iter().all(|(f, c)| map.covers(*f, *c)));
            if let Some(cell) = cell {
                assert_eq!(damaged, [cell as u32]);
                assert!(map.active() <= 6 + PER_CELL, "only one cell is lost");
            }
        };
        let good = disk.synced;
        assert_eq!(ActivityLog::recover(g, &good).active, truth);
        for bit in (0..CELL * 8).chain(PAGE * 8..(PAGE + CELL) * 8) {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            check(&bad, Some(bit / 8 / CELL));
        }
        for at in (0..good.len()).step_by(CELL) {
            let mut bad = good.clone();
            bad[at..at + CELL].fill(0);
            check(&bad, Some(at / CELL));
            bad[at..at + CELL].copy_from_slice(&good[(at + CELL) % good.len()..][..CELL]);
            check(&bad, Some(at / CELL));
            check(&good[..at + 100], None);
        }
        assert_eq!(restarted(g, &[]).1.active(), extents);
        let foreign = Geometry { volume: VolumeId([8; 16]), ..g };
        assert_eq!(restarted(foreign, &good).1.active(), extents);
    }

    #[test]
    fn damage_is_written_over() {
        let (_, disk) = created(10);
        let mut bad = disk.clone();
        bad.now[17] ^= 1;
        let mut r = ActivityLog::recover(geometry(10), &bad.now);
        pump(&mut r.log, &mut bad);
        assert_eq!((r.damaged.as_slice(), r.log.map().active()), (&[0][..], 10));
        r.log.clear_clean(BlockIndex(0), BlockCount(1 << 30), &mut |f, _| f.0 == 256);
        r.log.flush();
        pump(&mut r.log, &mut bad);
        let again = ActivityLog::recover(geometry(10), &bad.synced);
        assert_eq!((again.damaged, again.active), (vec![], vec![e(1)]));
    }

    #[test]
    fn growth() {
        let (mut log, mut disk) = created(10);
        log.activate(e(9).0, e(9).1).expect("works");
        pump(&mut log, &mut disk);
        let big = PER_CELL * 100;
        let seq = log.grow(BlockCount(big << 8)).expect("works");
        assert!(log.durable() < seq);
        pump(&mut log, &mut disk);
        assert!(log.durable() >= seq);
        let r = ActivityLog::recover(geometry(big), &disk.synced);
        assert_eq!((r.active, r.damaged), (vec![e(9)], vec![]));
        log.activate(e(big - 1).0, e(1).1).expect("works");
        pump(&mut log, &mut disk);
        assert!(log.map().covers(e(big - 1).0, e(1).1));
    }

    proptest! {
        /// At any moment and for any sectors lost, whatever writers may rely on is recovered.
        #[test]
        fn a_power_cut_forgets_nothing(
            steps in prop::collection::vec((0u8..6, 0u64..PER_CELL * 10, any::<u64>()), 1..60),
        ) {
            let extents = PER_CELL * 10;
            let (mut log, mut disk) = created(extents);
            for (step, n, pick) in steps {
                match step {
                    0 | 1 => { log.activate(e(n).0, BlockCount(1 + pick % 2000)).expect("works"); }
                    2 => { log.clear_clean(e(n).0, BlockCount(pick % 100_000), &mut |_, _| false); }
                    3 => { log.flush(); }
                    4 => pump(&mut log, &mut disk),
                    _ => if let Some(io) = log.poll_io() {
                        let done = disk.run(&io);
                        log.complete(io.tag, &done);
                    },
                }
                let (damaged, map) = restarted(geometry(extents), &disk.cut(pick));
                prop_assert!(damaged.is_empty(), "a torn page is not damage");
                for (f, c) in log.active_runs() {
                    prop_assert!(map.covers(f, c));
                }
            }
        }
    }
}

#[cfg(shuttle)]
use shuttle::thread;
#[cfg(not(shuttle))]
use std::thread;

/// Writers follow the order of the module while the owner cuts, drains and takes extents back:
/// whatever is marked, or being written, stays covered.
fn race(writes: u64, rounds: u64) {
    let (log, disk) = created(2);
    let shared = Arc::new(SharedLog::new(log));
    let disk = Arc::new(crate::sync::Mutex::new(disk));
    let limits = CaptureLimits { held_bytes: 1 << 20 };
    let capture = Arc::new(Capture::new(BlockSize::DEFAULT, BlockCount(512), limits));
    let writers: Vec<_> = (0..2u64)
        .map(|w| {
            let (shared, disk, capture) = (shared.clone(), disk.clone(), capture.clone());
            thread::spawn(move || {
                for n in 0..writes {
                    let (first, one) = (BlockIndex((n + w) % 2 * 256 + w), BlockCount(1));
                    loop {
                        shared
                            .ensure(first, one, &mut |io| disk.lock().run(io))
                            .expect("memory does not fail");
                        let ticket = capture.enter();
                        capture
                            .before_write(&ticket, first, one, &mut |_, _| Ok(()))
                            .expect("memory does not fail");
                        if !shared.map().covers(first, one) {
                            continue;
                        }
                        // Writing: the bit is durable until we are done. (The map may hide it for a
                        // moment, while the owner looks for marks and finds ours.)
                        let file = disk.lock().synced.clone();
                        let found = restarted(geometry(2), &file).1;
                        assert!(found.covers(first, one));
                        break;
                    }
                }
            })
        })
        .collect();
    for _ in 0..rounds {
        while !capture.close_gate() {
            thread::yield_now();
        }
        while capture.cut().is_err() {
            thread::yield_now();
        }
        let _ = capture.take_held(u64::MAX);
        let _ = capture.take_read(BlockIndex(0), BlockCount(512));
        while !capture.drained() {
            let _ = capture.take_held(u64::MAX);
        }
        shared.with(|log| {
            log.clear_clean(BlockIndex(0), BlockCount(512), &mut |f, c| capture.any_dirty(f, c));
            log.flush();
        });
        thread::yield_now();
    }
    writers.into_iter().for_each(|w| w.join().expect("writer"));
}

#[cfg(not(shuttle))]
#[test]
fn threads() {
    race(20_000, 20_000);
}

#[cfg(shuttle)]
#[test]
fn shuttle_no_write_goes_into_an_extent_taken_back() {
    shuttle::check_random(|| race(2, 3), 800);
}
