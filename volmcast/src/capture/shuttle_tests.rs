//! Marking × swap × drain × copy under thousands of schedules of the model checker, and proof that
//! it would have found three bugs put in on purpose.
//!
//! `RUSTFLAGS="--cfg shuttle" cargo test -p volmcast --target-dir target/shuttle shuttle_`

use super::model::{Shape, run};

/// A bug on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bug {
    /// A writer clears the old bit before it has read the block.
    ClearBeforeCopy,
    /// A cut does not wait for writes in flight.
    CutInFlight,
    /// The drain uses what it read without looking whether the block was claimed meanwhile.
    TrustTheRead,
}

const SHAPE: Shape =
    Shape { blocks: 3, writers: 2, writes: 3, held_blocks: 1, abandon_every: 0, seed: 1 };

fn seed() -> u64 {
    use shuttle::rand::Rng;
    shuttle::rand::thread_rng().r#gen()
}

#[test]
fn shuttle_every_set_holds_its_cut() {
    shuttle::check_random(|| run(Shape { seed: seed(), ..SHAPE }, |_| ()), 20_000);
}

#[test]
fn shuttle_rare_switches() {
    let f = || run(Shape { seed: seed(), held_blocks: 4, ..SHAPE }, |_| ());
    shuttle::check_pct(f, 10_000, 3);
}

#[test]
fn shuttle_abandoned_sets_lose_nothing() {
    shuttle::check_random(
        || run(Shape { seed: seed(), abandon_every: 2, ..SHAPE }, |_| ()),
        10_000,
    );
}

fn finds(bug: Bug) {
    let found = std::panic::catch_unwind(|| {
        let f = move || run(Shape { seed: seed(), ..SHAPE }, |c| c.bug = Some(bug));
        shuttle::check_random(f, 20_000);
    });
    assert!(found.is_err(), "{bug:?} went unnoticed");
}

#[test]
fn shuttle_finds_clear_before_copy() {
    finds(Bug::ClearBeforeCopy);
}

#[test]
fn shuttle_finds_cut_in_flight() {
    finds(Bug::CutInFlight);
}

#[test]
fn shuttle_finds_trusted_read() {
    finds(Bug::TrustTheRead);
}
