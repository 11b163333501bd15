//! Hunts for bugs that were planted on purpose: what the simulation does not find, it does not check.
//!
//! Only with `--cfg planted`; `tests/docs/simulator.md` says how, and lists what found each.

use std::panic::{AssertUnwindSafe, catch_unwind};

pub use rcp::planted::Bug;

pub use super::ci::seeds_of_ci;
use super::run;

/// What came of a hunt.
#[derive(Clone, Debug)]
pub struct Hunt {
    /// How many seeds were run.
    pub seeds: u64,
    /// The last of them, and the check that spoke in it. `None`: the bug was not found.
    pub found: Option<(u64, String)>,
    /// In how many seeds the place of the bug was reached, at least.
    pub reached: u64,
}

/// The bug of this name.
#[must_use]
pub fn named(name: &str) -> Option<Bug> {
    Bug::ALL.iter().copied().find(|b| b.name() == name)
}

/// Runs seeds until one of them finds the bug.
pub fn hunt(bug: Bug, seeds: impl Iterator<Item = u64>) -> Hunt {
    let mut hunt = Hunt { seeds: 0, found: None, reached: 0 };
    for seed in seeds {
        hunt.seeds += 1;
        let check = blow(bug, seed, false);
        hunt.reached += u64::from(rcp::planted::times() > 0);
        rcp::planted::choose(None);
        if let Some(check) = check {
            hunt.found = Some((seed, check));
            break;
        }
    }
    hunt
}

/// One seed with the bug: what spoke, if anything did.
#[must_use]
pub fn blow(bug: Bug, seed: u64, verbose: bool) -> Option<String> {
    rcp::planted::choose(Some(bug));
    match catch_unwind(AssertUnwindSafe(|| run(seed, verbose))) {
        Ok(Ok(_)) => None,
        Ok(Err(failure)) if verbose => Some(failure.to_string()),
        Ok(Err(failure)) => Some(failure.text),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string));
            Some(format!("a panic: {}", text.unwrap_or_default()))
        }
    }
}
