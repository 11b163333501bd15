//! What happened in a run, counted, and why it failed.

use std::collections::BTreeMap;

use super::coverage::Met;

/// Counters of one run or of many.
#[derive(Clone, Debug, Default)]
pub struct Counters(pub BTreeMap<&'static str, u64>, pub Met);

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
