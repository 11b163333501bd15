//! Warnings that somebody else can provoke as often as they like.

use parking_lot::Mutex;
use rcp::proto::clock::Mono;

use crate::clock;

/// Time between two warnings of one place, in µs.
const APART: u64 = 1_000_000;

/// One place that warns: at most once a second, and then with how many were left out before.
#[derive(Debug)]
pub(crate) struct Seldom {
    /// When it was said last, and how often it was not since.
    said: Mutex<(Option<Mono>, u64)>,
}

impl Seldom {
    pub(crate) const fn new() -> Self {
        Self { said: Mutex::new((None, 0)) }
    }

    /// `Some`: it is to be said now, and so many before it were not.
    pub(crate) fn turn(&self) -> Option<u64> {
        self.turn_at(clock::mono())
    }

    fn turn_at(&self, now: Mono) -> Option<u64> {
        let mut said = self.said.lock();
        let (last, left_out) = &mut *said;
        if last.is_some_and(|at| now.0.saturating_sub(at.0) < APART) {
            *left_out += 1;
            return None;
        }
        *last = Some(now);
        Some(std::mem::take(left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_out_is_counted() {
        let s = Seldom::new();
        let at = |ms: u64| s.turn_at(Mono(ms * 1000));
        assert_eq!(
            [at(5), at(6), at(1004), at(1005), at(1006), at(9000)],
            [Some(0), None, None, Some(2), None, Some(1)]
        );
    }
}
