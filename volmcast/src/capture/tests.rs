//! Single-threaded rules, the seeds' example, and the model under real threads.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rcp::proto::clock::Mono;

use super::model::{Shape, run};
use super::*;
use crate::bitmap::BlockSet;
use crate::io::IoError;
use crate::units::{BlockCount, BlockIndex, BlockSize};

fn b(n: u64) -> BlockIndex {
    BlockIndex(n)
}

const ONE: BlockCount = BlockCount(1);

fn capture(held_blocks: u64) -> Capture {
    let limits = CaptureLimits { held_bytes: held_blocks * 4096 };
    Capture::new(BlockSize::DEFAULT, BlockCount(100), limits)
}

/// A write of `content` to block `n` of `base`, as a connection does it.
fn write(c: &Capture, base: &mut [u8], n: u64, content: u8) -> Result<(), CaptureError> {
    let ticket = c.try_enter().expect("the gate is open");
    c.try_before_write(&ticket, b(n), ONE, &mut |block, buf| {
        buf.fill(base[block.0 as usize]);
        Ok(())
    })?;
    base[n as usize] = content;
    Ok(())
}

fn cut(c: &Capture) -> u64 {
    assert!(c.close_gate());
    c.cut().expect("quiet and drained").blocks.0
}

/// Vector 5.8: HWM of 4 blocks, timeout of 600 s.
#[test]
fn the_seeds_sets_and_triggers() {
    let second = 1_000_000;
    let c = capture(8);
    let base = &mut [0u8; 100];
    let policy = Policy { hwm_bytes: 4 * 4096, timeout: Duration::from_secs(600) };
    let mut t = Triggers::new(policy, Mono(0));
    for (block, content) in [(1, 10), (1, 11), (2, 20)] {
        write(&c, base, block, content).expect("room");
    }
    assert_eq!(t.due(Mono(600 * second), c.dirty_bytes(), c.drained()), None);
    let now = Mono(600 * second + 1);
    assert_eq!(t.due(now, c.dirty_bytes(), c.drained()), Some(Cause::Timeout));
    assert_eq!(cut(&c), 2);
    t.rearm(now);
    // b1 is drained with its last content; b2 is written while still to be copied.
    assert_eq!(c.next_run(b(0), ONE), Some((b(1), ONE)));
    assert_eq!((c.take_read(b(1), ONE), base[1]), (vec![(b(1), ONE)], 11));
    write(&c, base, 2, 21).expect("room");
    assert_eq!(c.next_run(b(0), ONE), None);
    assert!(!c.drained(), "the copy of b2 was not taken");
    let held = c.take_held(u64::MAX);
    assert_eq!((held.len(), held[0].0, held[0].1[0]), (1, b(2), 20));
    assert!(c.drained() && c.dirty_blocks() == ONE);
    for block in 3..7 {
        write(&c, base, block, 1).expect("room");
        assert_eq!(
            t.due(now, c.dirty_bytes(), c.drained()),
            (block == 6).then_some(Cause::HighWater)
        );
    }
    assert_eq!(cut(&c), 5);
}

#[test]
fn a_cut_waits_for_writes_and_for_the_drain() {
    let c = capture(8);
    let notices = Arc::new(AtomicUsize::new(0));
    let n = notices.clone();
    c.on_notice(move |x| {
        n.fetch_add(usize::from(x == Notice::Quiet), Ordering::SeqCst);
    });
    assert_eq!(c.cut(), Err(CutError::Open));
    let ticket = c.enter();
    assert!(!c.close_gate() && c.try_enter().is_none());
    assert_eq!(c.cut(), Err(CutError::NotQuiet));
    assert_eq!(notices.load(Ordering::SeqCst), 0);
    c.before_write(&ticket, b(7), ONE, &mut |_, _| panic!("nothing to keep")).expect("fast");
    drop(ticket);
    assert_eq!(notices.load(Ordering::SeqCst), 1);
    assert_eq!(c.cut().map(|i| i.blocks), Ok(ONE));
    assert!(!c.is_closed() && c.close_gate());
    assert_eq!(c.cut(), Err(CutError::NotDrained));
    c.open_gate();
    assert_eq!(c.take_read(b(0), BlockCount(100)), [(b(7), ONE)]);
    assert_eq!(cut(&c), 0, "an empty set is the caller's to leave out");
}

#[test]
fn room_for_copies_is_bounded() {
    let c = capture(2);
    let base = &mut [0u8; 100];
    (0..4).for_each(|n| write(&c, base, n, 1).expect("no copy"));
    assert_eq!(cut(&c), 4);
    write(&c, base, 0, 2).expect("room");
    write(&c, base, 1, 2).expect("room");
    assert_eq!(write(&c, base, 2, 2), Err(CaptureError::HeldFull));
    assert_eq!(base[2], 1, "not written");
    assert_eq!(c.take_held(1).len(), 1, "at least one");
    write(&c, base, 2, 2).expect("room again");
    assert_eq!(c.take_read(b(3), ONE).len(), 1);
    write(&c, base, 3, 2).expect("the drain has it");
    assert_eq!(c.take_held(u64::MAX).len(), 2);
    assert!(c.drained());
}

#[test]
fn old_content_that_cannot_be_read_spoils_the_set_and_nothing_else() {
    let c = capture(2);
    c.mark_range(b(5), BlockCount(3));
    assert_eq!(cut(&c), 3);
    assert_eq!(c.take_read(b(5), ONE).len(), 1);
    let ticket = c.enter();
    let fail = &mut |_, _: &mut [u8]| Err(IoError::Os(5));
    let e = c.before_write(&ticket, b(6), ONE, fail).expect_err("no copy");
    assert_eq!(e, CaptureError::Read { block: b(6), source: IoError::Os(5) });
    assert!(c.spoiled() && !c.drained());
    c.abandon_old(&[b(5)].into_iter().collect());
    assert!(!c.spoiled() && c.drained());
    c.before_write(&ticket, b(6), ONE, fail).expect("no copy needed any more");
    let want: BlockSet = (5..8).map(BlockIndex).collect();
    assert_eq!(c.new_table_snapshot(), want);
}

#[test]
fn who_waits_for_an_owner_that_has_stopped_is_let_go() {
    let c = Arc::new(capture(1));
    c.mark_range(b(0), BlockCount(3));
    assert_eq!(cut(&c), 3);
    write(&c, &mut [0; 100], 0, 1).expect("room for one copy");
    let writer = |n: u64| {
        let c = c.clone();
        std::thread::spawn(move || {
            let ticket = c.enter();
            c.before_write(&ticket, b(n), ONE, &mut |_, _| Ok(()))
        })
    };
    // For room; behind the gate; afterwards.
    let room = writer(1);
    std::thread::sleep(Duration::from_millis(20));
    c.close_gate();
    let gate = writer(50);
    std::thread::sleep(Duration::from_millis(20));
    assert!(!room.is_finished() && !gate.is_finished());
    c.stop();
    for w in [room, gate, writer(60)] {
        assert_eq!(w.join().expect("joined"), Err(CaptureError::Stopped));
    }
}

#[test]
fn growth_keeps_the_marks() {
    let c = capture(2);
    c.mark_range(b(1), ONE);
    assert_eq!(cut(&c), 1);
    c.mark_range(b(99), BlockCount(5));
    assert_eq!(c.grow(BlockCount(200)), Err(CutError::Open));
    assert!(c.close_gate());
    c.grow(BlockCount(200)).expect("barrier");
    c.open_gate();
    c.mark_range(b(199), ONE);
    assert!(c.any_dirty(b(1), ONE) && !c.any_dirty(b(2), ONE));
    assert_eq!((c.dirty_blocks().0, c.undrained_blocks().0), (2, 1));
}

#[test]
fn threads() {
    for seed in 0..6 {
        let shape = Shape {
            blocks: 400,
            writers: 3,
            writes: 30_000,
            held_blocks: 1 + seed * 8,
            abandon_every: seed,
            seed,
        };
        run(shape, |_| ());
    }
}

/// Prints the cost of a mark: `cargo test --release -p volmcast mark_rate -- --ignored --nocapture`.
#[test]
#[ignore = "a measurement"]
#[expect(clippy::disallowed_methods, reason = "a measurement reads the clock")]
fn mark_rate() {
    let c = Arc::new(Capture::new(BlockSize::DEFAULT, BlockCount(1 << 28), Default::default()));
    for threads in [1u64, 2] {
        let start = std::time::Instant::now();
        std::thread::scope(|s| {
            for t in 0..threads {
                let c = &c;
                s.spawn(move || {
                    let mut x = t + 1;
                    for _ in 0..3_000_000 {
                        x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                        let ticket = c.enter();
                        let read = &mut |_, _: &mut [u8]| Err(IoError::NoSpace);
                        c.before_write(&ticket, b((x >> 33) % (1 << 22)), ONE, read).expect("fast");
                    }
                });
            }
        });
        let rate = 3.0 * threads as f64 / start.elapsed().as_secs_f64();
        println!("{threads} threads: {rate:.1} M marks/s");
    }
}
