//! What happened in a run, counted, and why it failed.

use std::collections::BTreeMap;

use super::coverage::Met;

/// What happened, step by step: the measure of how long a run is. Timers, computations and what the
/// simulation tells itself are none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Steps {
    /// Frames that a node took.
    pub messages: u64,
    /// Requests of a node's disk that were answered, with an error or without.
    pub ios: u64,
    /// Reads, writes and flushes of clients that were answered.
    pub operations: u64,
}

impl Steps {
    /// All of them.
    #[must_use]
    pub fn all(&self) -> u64 {
        self.messages + self.ios + self.operations
    }
}

/// Counters of one run or of many.
#[derive(Clone, Debug, Default)]
pub struct Counters(pub BTreeMap<&'static str, u64>, pub Met, pub Steps);

impl Counters {
    /// Counts one.
    pub fn hit(&mut self, what: &'static str) {
        self.add(what, 1);
    }

    /// Counts several.
    pub fn add(&mut self, what: &'static str, n: u64) {
        if n > 0 {
            *self.0.entry(what).or_default() += n;
        }
    }

    /// Adds another run's.
    pub fn merge(&mut self, other: &Self) {
        for (k, n) in &other.0 {
            *self.0.entry(k).or_default() += n;
        }
        for (k, n) in &other.1 {
            *self.1.entry(*k).or_default() += n;
        }
        self.2.messages += other.2.messages;
        self.2.ios += other.2.ios;
        self.2.operations += other.2.operations;
    }

    /// How often.
    #[must_use]
    pub fn get(&self, what: &str) -> u64 {
        self.0.get(what).copied().unwrap_or(0)
    }
}

impl std::fmt::Display for Counters {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (k, n) in &self.0 {
            writeln!(f, "{n:>10}  {k}")?;
        }
        Ok(())
    }
}

/// A broken promise.
#[derive(Clone, Debug)]
pub struct Failure {
    /// Which seed.
    pub seed: u64,
    /// Virtual time, microseconds.
    pub at: u64,
    /// What, in words.
    pub text: String,
    /// The last things that happened.
    pub trail: Vec<String>,
    /// What the seed ran.
    pub options: String,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "seed {} failed at {:.6} s: {}", self.seed, self.at as f64 / 1e6, self.text)?;
        writeln!(f, "options: {}", self.options)?;
        writeln!(f, "last notes:")?;
        for t in &self.trail {
            writeln!(f, "  {t}")?;
        }
        write!(f, "replay: cargo run -p tests --bin sim -- --seed {} --verbose", self.seed)
    }
}
