//! Which mutant is made. Only in a copy of the workspace that has them (`tests/mutants`).

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};

/// None is made, and it is noted which were come past.
pub const NOTE: u32 = u32::MAX;

static CHOSEN: AtomicU32 = AtomicU32::new(0);
static MET: [AtomicBool; 4096] = [const { AtomicBool::new(false) }; 4096];

/// Whether this one is made.
#[must_use]
pub fn made(id: u32) -> bool {
    let chosen = CHOSEN.load(Relaxed);
    if chosen == NOTE {
        MET[id as usize].store(true, Relaxed);
        return false;
    }
    chosen == id
}

/// From now on this one is made.
pub fn choose(id: u32) {
    CHOSEN.store(id, Relaxed);
}

/// Those that were come past since this was asked last.
pub fn met() -> Vec<u32> {
    (0..4096).filter(|id| MET[*id as usize].swap(false, Relaxed)).collect()
}
