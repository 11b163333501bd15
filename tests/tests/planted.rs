//! Every bug that can be planted is found: the simulation checks what it is there to check.
//!
//! Only with `--cfg planted`; see `tests/docs/simulator.md`.

#![cfg(planted)]

use tests::sim::planted::{Bug, hunt, seeds_of_ci};

/// Seeds that are run from the one that a bug is known to be found soon after.
const NEAR: u64 = 150;

/// Seeds of CI that are run after those, when the code has changed what happens in them.
const OTHERS: usize = 400;

fn is_found(bug: Bug, near: u64) {
    let hunt = hunt(bug, (near..near + NEAR).chain(seeds_of_ci().take(OTHERS)));
    match hunt.found {
        Some((seed, check)) => {
            println!("{}: after {} seeds, by {seed}: {check}", bug.name(), hunt.seeds);
        }
        None => panic!(
            "nothing found in {} seeds, {} of which came past it: {}",
            hunt.seeds,
            hunt.reached,
            bug.words()
        ),
    }
}

/// A test for each bug, with the seed from which on it is looked for.
macro_rules! found {
    ($($test:ident: $bug:ident near $seed:literal,)*) => {
        $(
            #[test]
            fn $test() {
                is_found(Bug::$bug, $seed);
            }
        )*

        #[test]
        fn every_bug_has_a_test() {
            let tested = [$(Bug::$bug),*];
            for bug in Bug::ALL {
                assert!(tested.contains(bug), "no test plants {}", bug.name());
            }
        }
    };
}

found! {
    an_ack_before_the_sync: AckBeforeSync near 2_000,
    a_slot_before_the_sync_of_what_it_names: SlotBeforeSync near 2_000,
    room_used_again_too_early: RoomTooEarly near 1_000_090,
    a_slot_overwritten_in_place: SlotInPlace near 2_000,
    a_history_in_one_slot: HistoryInOneSlot near 5_000_120,
    an_old_attempt_kept: OldAttemptKept near 4_000_000,
    steps_of_a_line_that_ended_kept: ForeignStepsKept near 5_000_000,
    a_torn_tail_trusted: TornTailTrusted near 2_000,
    a_copy_before_write_forgotten: CopyForgotten near 2_000,
    an_image_forgotten: ImageForgotten near 2_000,
    an_image_not_synced: ImageNotSynced near 4_000_000,
    a_release_not_taken_back: ReleaseNotTakenBack near 4_000_000,
    an_undo_that_skips_blocks: UndoSkips near 4_000_000,
    a_set_sent_before_it_is_finished: SentBeforeReady near 2_000,
    a_set_finished_before_the_sync: CutWithoutSync near 3_000_000,
    an_extent_forgotten: ExtentForgotten near 2_000,
    content_named_before_the_sync: MergedBeforeSync near 2_000,
    a_seed_over_newer_blocks: SeedOverwritesLive near 3_000_000,
    a_seed_marked_in_one_slot: SeedMarkInOneSlot near 5_000_190,
    content_shown_unproven: UnprovenShown near 2_000_000,
    a_staged_step_shown: StagedShown near 3_000_000,
    changes_forgotten: ChangesForgotten near 1_000_000,
    sets_replayed_over_newer_ones: ReplayOverNewer near 2_000,
    content_read_unchecked: ContentUnchecked near 1_000_000,
    a_checksum_unchecked: ChecksumUnchecked near 2_000_030,
    damage_passed_on: DamagePassedOn near 1_000_500,
    a_newer_writer_ignored: FenceIgnored near 5_000_000,
    two_feeders: TwoFeeders near 3_000_000,
    records_freed_under_readers: FreedUnderReaders near 4_000_000,
}
