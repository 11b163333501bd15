//! What a receiver that takes nothing may hold back, and what a full save volume does to writers:
//! decisions over numbers (SAVE-09, SAVE-10).
//!
//! A receiver's place in the save volume keeps what it lacks from being overwritten. One that is
//! stopped would keep it for ever, so that there are limits in bytes, sets and time. Each is passed
//! by more than its value; whichever is passed first counts. What is given up comes back as a
//! catch-up: the blocks that changed, never a full copy.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use rcp::proto::clock::Mono;
use rcp::proto::ids::NodeName;

/// A receiver that has taken nothing of what it lacks for as long is stopped. Less is the end of a
/// connection, or a restart at either side.
pub const STOPPED_AFTER: Duration = Duration::from_secs(5);

/// The most that a stopped receiver may hold back; `None`: as much as there is room.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of the save volume.
    pub bytes: Option<u64>,
    /// Sets, one of which it has a part counted as well.
    pub sets: Option<u64>,
    /// Time since it took something, or since the first thing it lacks came.
    pub time: Option<Duration>,
}

/// What a full save volume, and a receiver that takes nothing, lead to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FullPolicy {
    /// How long writers wait for the receivers that hold the room, before those are detached;
    /// `None`: they are detached at once.
    pub suspend: Option<Duration>,
    /// Limits of every receiver.
    pub keep: Limits,
    /// Of single receivers, what differs.
    pub own: BTreeMap<NodeName, Limits>,
}

/// What a receiver holds back at a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backlog {
    /// Bytes of the save volume from what it lacks first to the end.
    pub bytes: u64,
    /// Complete sets of which it lacks something.
    pub sets: u64,
    /// For how long it has taken nothing of that.
    pub time: Duration,
}

/// Which limit was passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Passed {
    /// [`Limits::bytes`].
    Bytes {
        /// Held back.
        holds: u64,
        /// Allowed.
        limit: u64,
    },
    /// [`Limits::sets`].
    Sets {
        /// Held back.
        holds: u64,
        /// Allowed.
        limit: u64,
    },
    /// [`Limits::time`].
    Time {
        /// Allowed.
        limit: Duration,
    },
}

/// What becomes of a receiver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Its place is kept; look again then, if it has taken nothing and nothing has come.
    Keep(Option<Mono>),
    /// It is detached.
    LetGo(Passed),
}

impl fmt::Display for Passed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bytes { holds, limit } => {
                write!(f, "{holds} bytes, and `keep_bytes` allows it {limit}")
            }
            Self::Sets { holds, limit } => {
                write!(f, "{holds} sets, and `keep_sets` allows it {limit}")
            }
            Self::Time { limit } => {
                write!(f, "for longer than `keep_time` allows it, which is {limit:?}")
            }
        }
    }
}

impl Limits {
    /// Nothing is limited.
    #[must_use]
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }

    /// These, and where one is not given, that of `group`.
    #[must_use]
    pub fn or(self, group: Self) -> Self {
        Self {
            bytes: self.bytes.or(group.bytes),
            sets: self.sets.or(group.sets),
            time: self.time.or(group.time),
        }
    }

    /// The limit that is passed, if one is.
    #[must_use]
    pub fn passed(&self, b: Backlog) -> Option<Passed> {
        let bytes = self.bytes.filter(|limit| b.bytes > *limit);
        let sets = self.sets.filter(|limit| b.sets > *limit);
        let time = self.time.filter(|limit| b.time > *limit);
        bytes
            .map(|limit| Passed::Bytes { holds: b.bytes, limit })
            .or(sets.map(|limit| Passed::Sets { holds: b.sets, limit }))
            .or(time.map(|limit| Passed::Time { limit }))
    }

    /// When the limit in time will be passed by one that takes nothing since `since`.
    #[must_use]
    pub fn due(&self, since: Mono) -> Option<Mono> {
        self.time.map(|t| Mono(since.after(t).0.saturating_add(1)))
    }
}

impl FullPolicy {
    /// The limits of a receiver.
    #[must_use]
    pub fn limits_of(&self, receiver: &NodeName) -> Limits {
        self.own.get(receiver).copied().unwrap_or_default().or(self.keep)
    }

    /// No receiver has a limit.
    #[must_use]
    pub fn keeps_all(&self) -> bool {
        self.keep.is_none() && self.own.values().all(Limits::is_none)
    }

    /// Whether the receivers that have held the room since `since` are waited for no more.
    #[must_use]
    pub fn is_over(&self, since: Mono, now: Mono) -> bool {
        self.suspend.is_none_or(|limit| now.since(since) >= limit)
    }

    /// What is to be done about a receiver that has taken nothing since `since`, of what `b` says.
    #[must_use]
    pub fn judge(limits: Limits, since: Mono, now: Mono, b: Backlog) -> Verdict {
        if limits.is_none() {
            return Verdict::Keep(None);
        }
        let stopped = since.after(STOPPED_AFTER);
        if now < stopped {
            return Verdict::Keep(Some(stopped));
        }
        limits.passed(b).map_or_else(|| Verdict::Keep(limits.due(since)), Verdict::LetGo)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);

    fn backlog(bytes: u64, sets: u64, time: Duration) -> Backlog {
        Backlog { bytes, sets, time }
    }

    fn node(n: &str) -> NodeName {
        NodeName::new(n).expect("a name")
    }

    #[test]
    fn a_limit_is_passed_by_more_than_its_value() {
        let us = Duration::from_micros(1);
        let bytes = Limits { bytes: Some(100), ..Limits::default() };
        assert_eq!(bytes.passed(backlog(100, 9, S)), None);
        let over = Some(Passed::Bytes { holds: 101, limit: 100 });
        assert_eq!(bytes.passed(backlog(101, 9, S)), over);
        let sets = Limits { sets: Some(3), ..Limits::default() };
        assert_eq!(sets.passed(backlog(u64::MAX, 3, S)), None);
        let over = Some(Passed::Sets { holds: 4, limit: 3 });
        assert_eq!(sets.passed(backlog(u64::MAX, 4, S)), over);
        let time = Limits { time: Some(S), ..Limits::default() };
        assert_eq!(time.passed(backlog(u64::MAX, u64::MAX, S)), None);
        assert_eq!(time.passed(backlog(0, 0, S + us)), Some(Passed::Time { limit: S }));
    }

    #[test]
    fn a_limit_of_nothing_is_passed_by_anything() {
        let none = Limits { bytes: Some(0), sets: Some(0), time: Some(Duration::ZERO) };
        assert_eq!(none.passed(backlog(0, 0, Duration::ZERO)), None, "it lacks nothing");
        assert!(none.passed(backlog(1, 0, Duration::ZERO)).is_some());
        assert!(none.passed(backlog(0, 1, Duration::ZERO)).is_some());
    }

    #[test]
    fn without_limits_nobody_passes_one() {
        let all = Limits::default();
        assert!(all.is_none() && FullPolicy::default().keeps_all());
        assert_eq!(all.passed(backlog(u64::MAX, u64::MAX, Duration::MAX)), None);
        assert_eq!(all.due(Mono(7)), None);
    }

    #[test]
    fn the_time_is_passed_when_it_was_said_to_be() {
        let time = Limits { time: Some(S), ..Limits::default() };
        let since = Mono(500);
        let due = time.due(since).expect("a time");
        let at = |now: Mono| time.passed(backlog(1, 1, now.since(since)));
        assert_eq!(at(Mono(due.0 - 1)), None);
        assert!(at(due).is_some());
        // However long it is, there is no way round.
        let ever = Limits { time: Some(Duration::MAX), ..Limits::default() };
        assert_eq!(ever.due(since), Some(Mono(u64::MAX)));
    }

    #[test]
    fn a_receivers_own_limits_go_before_those_of_all_one_by_one() {
        let keep = Limits { bytes: Some(10), sets: Some(5), time: None };
        let own = Limits { sets: Some(50), time: Some(S), ..Limits::default() };
        let p = FullPolicy { keep, own: [(node("a"), own)].into(), ..FullPolicy::default() };
        let a = Limits { bytes: Some(10), sets: Some(50), time: Some(S) };
        assert_eq!((p.limits_of(&node("a")), p.limits_of(&node("b"))), (a, keep));
        assert!(!p.keeps_all());
        let only = FullPolicy { keep: Limits::default(), ..p };
        assert!(!only.keeps_all(), "one has limits");
        assert!(only.limits_of(&node("b")).is_none());
    }

    #[test]
    fn writers_wait_exactly_as_long_as_was_said() {
        let p = FullPolicy { suspend: Some(S), ..FullPolicy::default() };
        let since = Mono(1_000);
        assert!(!p.is_over(since, since) && !p.is_over(since, Mono(1_000_999)));
        assert!(p.is_over(since, Mono(1_001_000)));
        // To detach is not to wait at all.
        assert!(FullPolicy::default().is_over(since, since));
    }

    #[test]
    fn whoever_takes_nothing_is_given_a_moment() {
        let limits = Limits { sets: Some(1), time: Some(60 * S), ..Limits::default() };
        let since = Mono(3);
        let stopped = since.after(STOPPED_AFTER);
        let judge = |now: Mono, sets| {
            FullPolicy::judge(limits, since, now, backlog(9, sets, now.since(since)))
        };
        assert_eq!(judge(Mono(stopped.0 - 1), 2), Verdict::Keep(Some(stopped)));
        assert_eq!(judge(stopped, 2), Verdict::LetGo(Passed::Sets { holds: 2, limit: 1 }));
        assert_eq!(judge(stopped, 1), Verdict::Keep(limits.due(since)));
        let due = limits.due(since).expect("a time");
        assert_eq!(judge(due, 1), Verdict::LetGo(Passed::Time { limit: 60 * S }));
        let none = FullPolicy::judge(Limits::default(), since, due, backlog(9, 9, S));
        assert_eq!(none, Verdict::Keep(None));
    }

    #[test]
    fn words_name_the_setting() {
        for (passed, setting) in [
            (Passed::Bytes { holds: 2, limit: 1 }, "`keep_bytes` allows it 1"),
            (Passed::Sets { holds: 2, limit: 1 }, "`keep_sets` allows it 1"),
            (Passed::Time { limit: S }, "`keep_time` allows it, which is 1s"),
        ] {
            assert!(passed.to_string().contains(setting), "{passed}");
        }
    }
}
