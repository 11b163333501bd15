//! When a set ends: modified bytes, time, or demand (CAP-05, CAP-06, CAP-13; F10 345, 346, 350).

use std::time::Duration;

use rcp::proto::clock::Mono;

/// What ends a set; may be changed at any time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// A set ends when more bytes than this are modified.
    pub hwm_bytes: u64,
    /// A set ends when more time than this has passed since the triggers were armed.
    pub timeout: Duration,
}

impl Default for Policy {
    /// 256 MiB or ten minutes.
    fn default() -> Self {
        Self { hwm_bytes: 256 << 20, timeout: Duration::from_secs(600) }
    }
}

/// Why a set ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// An operator or program asked for it.
    Demand,
    /// More bytes modified than the high-water mark.
    HighWater,
    /// Time beyond start + timeout. If nothing was modified there is no set: say that the last one
    /// is current, and arm again.
    Timeout,
}

/// The triggers of one volume.
#[derive(Clone, Debug)]
pub struct Triggers {
    policy: Policy,
    armed_at: Mono,
    demanded: bool,
}

impl Triggers {
    /// Armed at `now`.
    #[must_use]
    pub fn new(policy: Policy, now: Mono) -> Self {
        Self { policy, armed_at: now, demanded: false }
    }

    /// Which trigger, if any, ends the set now. None while the set before is not `drained`: the
    /// boundary is put off, and the drain has priority (CAP-10).
    #[must_use]
    pub fn due(&self, now: Mono, dirty_bytes: u64, drained: bool) -> Option<Cause> {
        if !drained {
            None
        } else if self.demanded {
            Some(Cause::Demand)
        } else if dirty_bytes > self.policy.hwm_bytes {
            Some(Cause::HighWater)
        } else if now.since(self.armed_at) > self.policy.timeout {
            Some(Cause::Timeout)
        } else {
            None
        }
    }

    /// When the timeout will be due.
    #[must_use]
    pub fn deadline(&self) -> Mono {
        Mono(self.armed_at.after(self.policy.timeout).0.saturating_add(1))
    }

    /// Asks for a cut as soon as possible.
    pub fn demand(&mut self) {
        self.demanded = true;
    }

    /// A cut happened (or an idle period was reported as current): start over.
    pub fn rearm(&mut self, now: Mono) {
        self.armed_at = now;
        self.demanded = false;
    }

    /// Changes the policy; time already passed counts.
    pub fn set_policy(&mut self, policy: Policy) {
        self.policy = policy;
    }

    /// The policy in force.
    #[must_use]
    pub fn policy(&self) -> Policy {
        self.policy
    }
}

#[cfg(all(test, not(shuttle)))]
mod tests {
    use super::*;

    #[test]
    fn strictly_beyond_and_put_off_while_draining() {
        let second = 1_000_000;
        let policy = Policy { hwm_bytes: 4 * 4096, timeout: Duration::from_secs(600) };
        let mut t = Triggers::new(policy, Mono(0));
        assert_eq!(t.due(Mono(600 * second), 4 * 4096, true), None, "must exceed");
        assert_eq!(t.deadline(), Mono(600 * second + 1));
        assert_eq!(t.due(t.deadline(), 8192, true), Some(Cause::Timeout));
        assert_eq!(t.due(Mono(1), 5 * 4096, true), Some(Cause::HighWater));
        assert_eq!(t.due(t.deadline(), 5 * 4096, false), None, "put off");
        t.rearm(t.deadline());
        assert_eq!(t.due(Mono(700 * second), 0, true), None);
        t.demand();
        assert_eq!(t.due(Mono(700 * second), 0, true), Some(Cause::Demand));
        t.rearm(Mono(700 * second));
        t.set_policy(Policy { timeout: Duration::from_secs(1), ..policy });
        assert_eq!(t.due(Mono(702 * second), 0, true), Some(Cause::Timeout));
    }
}
