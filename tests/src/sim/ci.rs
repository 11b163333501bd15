//! The seeds that CI runs, and many seeds on all cores.

use std::num::NonZero;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, PoisonError};
use std::thread::{available_parallelism, scope};

use super::report::{Counters, Failure};
use super::{AIMED, BAD_DISKS, BYPASS, MIRRORS, MOMENTS, OPERATORS, TURNS};

/// Which seeds those are: from which one on, and how many.
pub const RANGES: [(u64, u64); 8] = [
    (2_000, 340),
    (BAD_DISKS, 280),
    (TURNS, 330),
    (BYPASS, 250),
    (OPERATORS, 200),
    (MOMENTS, 250),
    (MIRRORS, 150),
    (AIMED, 800),
];

/// All seeds that CI runs, one of each range in turn.
pub fn seeds_of_ci() -> impl Iterator<Item = u64> {
    let most = RANGES.iter().map(|(_, n)| *n).max().unwrap_or(0);
    let each = |i| RANGES.iter().filter(move |(_, n)| i < *n).map(move |(from, _)| from + i);
    (0..most).flat_map(each)
}

/// What came of some seeds.
#[derive(Debug, Default)]
pub struct Tally {
    /// What happened, in all of them.
    pub counters: Counters,
    /// Steps of each that did not fail, and the seed.
    pub steps: Vec<(u64, u64)>,
    /// What was found.
    pub failures: Vec<Box<Failure>>,
}

impl Tally {
    /// Adds a run.
    pub fn add(&mut self, seed: u64, run: Result<Counters, Box<Failure>>) {
        match run {
            Ok(c) => {
                self.steps.push((c.2.all(), seed));
                self.counters.merge(&c);
            }
            Err(f) => self.failures.push(f),
        }
    }

    /// Adds others.
    pub fn merge(&mut self, other: &Self) {
        self.counters.merge(&other.counters);
        self.steps.extend(&other.steps);
        self.failures.extend(other.failures.iter().cloned());
    }

    /// The shortest run: its steps and its seed.
    #[must_use]
    pub fn least(&self) -> Option<(u64, u64)> {
        self.steps.iter().copied().min()
    }

    /// Seeds and steps, in words.
    #[must_use]
    pub fn words(&self) -> String {
        let mut steps: Vec<_> = self.steps.iter().map(|(n, _)| *n).collect();
        steps.sort_unstable();
        let median = steps.get(steps.len() / 2).copied().unwrap_or(0);
        let (least, seed) = self.least().unwrap_or_default();
        let s = &self.counters.2;
        format!(
            "{} seeds, {} steps ({} messages, {} requests of disks, {} of clients); a seed had at \
             least {least} ({seed}), in the median {median}",
            steps.len(),
            s.all(),
            s.messages,
            s.ios,
            s.operations
        )
    }
}

/// Runs seeds on all cores. `each` is told of every one, in no order, and says whether to go on.
pub fn on_all_cores(
    seeds: impl Iterator<Item = u64> + Send,
    run: impl Fn(u64) -> Result<Counters, Box<Failure>> + Sync,
    each: impl FnMut(u64, Result<Counters, Box<Failure>>) -> bool + Send,
) {
    let shared = Mutex::new((seeds, each, true));
    let next = || {
        let mut all = shared.lock().unwrap_or_else(PoisonError::into_inner);
        if all.2 { all.0.next() } else { None }
    };
    let work = || {
        while let Some(seed) = next() {
            let ran = guarded(seed, &run);
            let mut all = shared.lock().unwrap_or_else(PoisonError::into_inner);
            let on = (all.1)(seed, ran);
            all.2 &= on;
        }
    };
    scope(|s| {
        for _ in 0..available_parallelism().map_or(1, NonZero::get) {
            s.spawn(work);
        }
    });
}

/// A run; a panic is a failure of its seed.
fn guarded(
    seed: u64,
    run: &impl Fn(u64) -> Result<Counters, Box<Failure>>,
) -> Result<Counters, Box<Failure>> {
    catch_unwind(AssertUnwindSafe(|| run(seed))).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string));
        Err(Box::new(Failure {
            seed,
            at: 0,
            text: format!("a panic: {}", text.unwrap_or_default()),
            trail: Vec::new(),
            options: String::new(),
        }))
    })
}

/// All seeds of CI: a tally for each of [`RANGES`].
#[must_use]
pub fn run_ci() -> Vec<Tally> {
    let mut all: Vec<_> = RANGES.iter().map(|_| Tally::default()).collect();
    let seeds = RANGES.iter().flat_map(|(from, n)| *from..from + n);
    on_all_cores(
        seeds,
        |seed| super::run(seed, false),
        |seed, ran| {
            let range = RANGES.iter().position(|(from, n)| (*from..from + n).contains(&seed));
            if let Some(tally) = range.and_then(|i| all.get_mut(i)) {
                tally.add(seed, ran);
            }
            true
        },
    );
    all
}
