//! Bugs planted on purpose: each takes one safeguard away, and the simulation has to find it
//! (`tests/docs/simulator.md`).
//!
//! Only `--cfg planted` compiles them in, and even then none is made before a thread has chosen one.
//! In every other build [`planted!`](crate::planted!) is `false` and this module is empty.

/// Whether this bug is to be made here.
#[cfg(not(planted))]
#[macro_export]
macro_rules! planted {
    ($bug:ident) => {
        false
    };
}

/// Whether this bug is to be made here.
#[cfg(planted)]
#[macro_export]
macro_rules! planted {
    ($bug:ident) => {
        $crate::planted::is_made($crate::planted::Bug::$bug)
    };
}

#[cfg(planted)]
pub use made::{Bug, choose, is_made, times};

#[cfg(planted)]
mod made {
    use std::cell::Cell;

    macro_rules! bugs {
        ($(#[doc = $words:literal] $bug:ident,)*) => {
            /// What can be planted.
            #[derive(Clone, Copy, Debug, PartialEq, Eq)]
            pub enum Bug {
                $(#[doc = $words] $bug,)*
            }

            impl Bug {
                /// All of them.
                pub const ALL: &[Self] = &[$(Self::$bug,)*];

                /// As it is asked for.
                #[must_use]
                pub fn name(self) -> &'static str {
                    match self {
                        $(Self::$bug => stringify!($bug),)*
                    }
                }

                /// What is wrong then.
                #[must_use]
                pub fn words(self) -> &'static str {
                    match self {
                        $(Self::$bug => $words.trim_ascii(),)*
                    }
                }
            }
        };
    }

    bugs! {
        /// What was received is acknowledged before the mailbox says that it is durable.
        AckBeforeSync,
        /// The mailbox names records of the save volume that were not synced.
        SlotBeforeSync,
        /// Room of the save volume is used again before the mailbox has given it back.
        RoomTooEarly,
        /// Every commit writes the same mailbox slot.
        SlotInPlace,
        /// A change of the history is written to one mailbox slot only.
        HistoryInOneSlot,
        /// Recovery takes chunks of an attempt that was given up for those of its successor.
        OldAttemptKept,
        /// Recovery trusts the records behind the durable end of the save volume.
        TornTailTrusted,
        /// A writer overwrites blocks of the draining set without keeping their content.
        CopyForgotten,
        /// Playback overwrites blocks of pinned states without saving them.
        ImageForgotten,
        /// A block is overwritten before the image of a kept state is durable.
        ImageNotSynced,
        /// A state that is kept again before its release is durable is released all the same.
        ReleaseNotTakenBack,
        /// The blocks to be taken back to a fork lack their first run.
        UndoSkips,
        /// Recovery keeps sets of a line that ended.
        ForeignStepsKept,
        /// The primary sends sets that are not finished.
        SentBeforeReady,
        /// A set is finished before the volume was synced since its cut.
        CutWithoutSync,
        /// The activity log forgets extents that are marked.
        ExtentForgotten,
        /// The mailbox says what the base holds before the base is synced.
        MergedBeforeSync,
        /// Extents of a seed overwrite what newer sets have written.
        SeedOverwritesLive,
        /// A seed clears the content when one mailbox slot alone says that it is hidden.
        SeedMarkInOneSlot,
        /// Content of which nobody knows what state it is counts as proven.
        UnprovenShown,
        /// What a staged catch-up leads to counts as a state before the sets that make it one.
        StagedShown,
        /// Which blocks a set changed is not remembered for catch-ups.
        ChangesForgotten,
        /// After a restart sets are merged again over newer ones.
        ReplayOverNewer,
        /// Content is handed to readers although it is not what its hash says.
        ContentUnchecked,
        /// The checksum of a chunk is not compared.
        ChecksumUnchecked,
        /// Content that is not what its hash says is sent to a child.
        DamagePassedOn,
        /// A writer that is told of a newer one is not fenced.
        FenceIgnored,
        /// A second feeder is accepted beside the first.
        TwoFeeders,
        /// Records are given back while readers' views need them.
        FreedUnderReaders,
    }

    thread_local! {
        static CHOSEN: Cell<(Option<Bug>, u64)> = const { Cell::new((None, 0)) };
    }

    /// From now on this thread makes this bug, or none.
    pub fn choose(bug: Option<Bug>) {
        CHOSEN.set((bug, 0));
    }

    /// How often this thread came past the place of the bug since it was chosen.
    #[must_use]
    pub fn times() -> u64 {
        CHOSEN.get().1
    }

    /// What [`planted!`](crate::planted!) asks.
    #[must_use]
    pub fn is_made(bug: Bug) -> bool {
        let (chosen, times) = CHOSEN.get();
        let made = chosen == Some(bug);
        if made {
            CHOSEN.set((chosen, times + 1));
        }
        made
    }
}
