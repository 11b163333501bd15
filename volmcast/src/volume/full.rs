//! A save volume that runs full, and receivers that hold back more than they may (SAVE-08 to 10).
//!
//! No child waits for another. When room runs out, below the primary the sender above is slowed by
//! credit as long as all children are connected and equally slow. Otherwise the policy decides:
//!
//! ```text
//! room ──short──► on_full: detach ──────────────────────────────► the hindmost is detached
//!                 on_full: suspend ─► writers wait ─ suspend_limit ─► the hindmost is detached
//!                                          └─ room again ─► writers go on
//! ```
//!
//! Writers are never let wait for longer, and no write fails for it: a client that gets an error
//! makes its file system read-only, which outlasts the receiver's absence; a receiver that was
//! detached comes back by the blocks that changed. With `suspend` no set becomes larger than a part
//! of the save volume either, or it would travel without its data.

use std::time::Duration;

use rcp::proto::clock::Mono;
use rcp::proto::ids::NodeName;

use super::retention::{Backlog, FullPolicy, Verdict};
use super::{Event, Role, Volume};
use crate::units::LogPos;

/// How soon to look whether readers have let go of room that is short.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// How often, and for how long, receivers held up others or were let go, since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FullCounts {
    /// How long writers have waited for receivers.
    pub suspended: Duration,
    /// Receivers that were detached because the save volume was full.
    pub full: u64,
    /// That held back more than they may.
    pub limits: u64,
    /// That an operator let go of.
    pub by_hand: u64,
}

/// The room is awaited that receivers hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Suspension {
    /// Since when.
    pub since: Mono,
    /// For how long, before they are detached.
    pub limit: Duration,
    /// Who holds it, and bytes from what each lacks to the end; the one furthest behind first.
    pub by: Vec<(NodeName, u64)>,
    /// Writers wait here; else the parent's stream does.
    pub writers: bool,
}

/// What is under way because of receivers that take nothing.
#[derive(Debug, Default)]
pub(super) struct Full {
    /// Readers hold the room that is short: when to look again.
    look_at: Option<Mono>,
    /// When the next receiver counts as stopped, or passes its limit in time.
    limit_at: Option<Mono>,
    /// Since when the room is awaited that receivers hold.
    since: Option<Mono>,
    /// Since when the open set is as large as it may be.
    brim_since: Option<Mono>,
    /// It may be larger: no cut came in time.
    overrun: bool,
    counts: FullCounts,
}

impl Volume {
    /// Gives room back when it runs short; waits for the children that hold it, or detaches them,
    /// when nothing else helps.
    pub(super) fn make_room(&mut self) {
        self.let_go_beyond_limits();
        let held_up = self.trim_and_detach();
        let short = self.log.free() + self.log.reclaimable() < self.short_room();
        let wait = short && self.playback.held_by_readers();
        self.full.look_at = wait.then(|| self.desk.now.after(LOOK_AGAIN));
        self.suspend(held_up);
        self.bound_open_set();
    }

    pub(super) fn full_timeout(&self) -> Option<Mono> {
        let limit = self.cfg.full.suspend;
        let over = |since: Option<Mono>| Some(since?.after(limit?));
        let all = [
            self.full.look_at,
            self.full.limit_at,
            over(self.full.since),
            over(self.full.brim_since),
        ];
        all.into_iter().flatten().min()
    }

    /// Less room than this is short: a receiver must be able to grant a fraction of its window, or
    /// the stream would stand still with room left.
    pub(super) fn short_room(&self) -> u64 {
        let capacity = self.log.ring().capacity();
        let least = (3 * self.cfg.chunk_bytes).max(self.cfg.window / 2);
        // Credit leaves a sixteenth alone, and is told in eighths of the window.
        (capacity / 8).max(capacity / 16 + least).min(capacity / 3)
    }

    /// True if the room is awaited that children hold.
    fn trim_and_detach(&mut self) -> bool {
        let capacity = self.log.ring().capacity();
        let short = self.short_room();
        if self.log.free() + self.log.reclaimable() >= short {
            if self.log.free() < short && self.log.reclaimable() > 0 {
                self.commit.request();
            }
            return false;
        }
        if self.fold_is_ahead() || self.merge_is_ahead() {
            // What base or table have not durably is held for them.
            self.commit.request();
        }
        for _ in 0..=self.consumers.len() {
            let hold = self.hold();
            // Old sets stay as long as there is room: give back no more than half.
            let target = LogPos(self.log.head().0.saturating_sub(capacity / 2));
            if hold > self.log.tail() {
                self.log.trim(hold.min(target.max(self.log.tail().plus(1))));
                self.commit.request();
            }
            if self.log.free() + self.log.reclaimable() >= short {
                return false;
            }
            let Some((name, pos)) = self.holds_the_room() else { return false };
            let since = self.full.since.unwrap_or(self.desk.now);
            if !self.cfg.full.is_over(since, self.desk.now) {
                return true;
            }
            self.detach_full(name, pos);
        }
        false
    }

    /// The child without which there would be room, if it is to be waited for or detached.
    fn holds_the_room(&mut self) -> Option<(NodeName, LogPos)> {
        let (name, pos, second) = self.consumers.hindmost()?;
        // It must be the child that holds the room: not our own playback, and not an unfinished
        // set, which it could not have been sent yet.
        if self.hold() < pos || self.own_hold() <= pos {
            return None;
        }
        let live = self.consumers.get(&name).is_some_and(super::consumers::Consumer::is_live);
        let far = second.is_none_or(|s| s.since(pos) > self.log.ring().capacity() / 2);
        let upstream_can_wait = !matches!(self.cfg.role, Role::Primary { .. });
        if live && upstream_can_wait && !(second.is_some() && far) {
            return None;
        }
        Some((name, pos))
    }

    fn detach_full(&mut self, name: NodeName, pos: LogPos) {
        let (capacity, behind) = (self.log.ring().capacity(), self.log.head().since(pos));
        let waited = match self.cfg.full.suspend {
            Some(limit) if self.full.since.is_some() => {
                format!(" for {limit:?}, which is all that is waited for it,")
            }
            _ => String::new(),
        };
        let reason = format!(
            "detached: the save volume ({capacity} bytes) is full{waited} and {name} is {behind} bytes \
             behind; it will be brought back by the blocks that change meanwhile"
        );
        self.full.counts.full += 1;
        self.let_go(name, reason);
    }

    /// A child's place is given up.
    pub(super) fn let_go(&mut self, child: NodeName, reason: String) {
        self.consumers.remove(&child);
        self.seed_outs.remove(&child);
        self.forget_read();
        self.commit.request();
        self.desk.event(Event::Detached { child, reason });
    }

    /// What only the child held is free: it was let go so that it is.
    fn free_what_it_held(&mut self) {
        let hold = self.hold();
        // What has come of an unfinished set is not sent twice.
        let open = self.log.open_step().map_or(hold, |s| s.first);
        let to = hold.min(open);
        if to > self.log.tail() {
            self.log.trim(to);
            self.commit.request();
        }
    }

    /// Children that are stopped hold back no more than they may.
    fn let_go_beyond_limits(&mut self) {
        self.full.limit_at = None;
        if self.cfg.full.keeps_all() {
            return;
        }
        let (now, end) = (self.desk.now, self.sendable_end());
        let (mut beyond, mut next) = (Vec::new(), None::<Mono>);
        for (name, c) in self.consumers.iter_mut() {
            // One that is being brought back, or is ahead, is not stopped.
            if c.waits() || c.is_led() || self.seed_outs.has(name) {
                c.is_not_stuck();
                continue;
            }
            let Some(since) = c.stuck_since(end, now) else { continue };
            let (bytes, sets) = (end.since(c.acked()), self.log.steps_between(c.acked(), end));
            let backlog = Backlog { bytes, sets, time: now.since(since) };
            match FullPolicy::judge(self.cfg.full.limits_of(name), since, now, backlog) {
                Verdict::Keep(look) => next = next.into_iter().chain(look).min(),
                Verdict::LetGo(passed) => beyond.push((name.clone(), passed)),
            }
        }
        self.full.limit_at = next;
        let any = !beyond.is_empty();
        for (name, passed) in beyond {
            let reason = format!(
                "detached: it takes nothing and holds back {passed}; it will be brought back by the \
                 blocks that change meanwhile"
            );
            self.full.counts.limits += 1;
            self.let_go(name, reason);
        }
        if any {
            self.free_what_it_held();
        }
    }

    /// An operator lets go of a child, so that what it lacks is kept for it no longer. Bytes that it
    /// held back; `None`: it has no place here.
    pub fn consumer_let_go(&mut self, child: &NodeName) -> Option<u64> {
        let behind = self.consumer_behind(child)?;
        let reason = format!(
            "detached: an operator let go of it, {behind} bytes behind; it will be brought back by \
             the blocks that change meanwhile"
        );
        self.full.counts.by_hand += 1;
        self.let_go(child.clone(), reason);
        self.free_what_it_held();
        self.pump();
        Some(behind)
    }

    /// Writers wait while the room is awaited.
    fn suspend(&mut self, held_up: bool) {
        let now = self.desk.now;
        let writers = self.capture().is_some() && self.is_replicating();
        if held_up {
            self.full.since.get_or_insert(now);
        } else if let Some(since) = self.full.since.take()
            && writers
        {
            self.full.counts.suspended += now.since(since);
        }
        if let Some(capture) = self.capture() {
            // Where no sets are made, nothing comes into the save volume.
            capture.hold_back(held_up && writers);
        }
    }

    /// Where receivers are waited for, writers wait for the cut as well, before a set becomes too
    /// large to be sent at all; and not for ever.
    fn bound_open_set(&mut self) {
        let Some(capture) = self.capture().cloned() else { return };
        if self.cfg.full.suspend.is_none() || !self.is_replicating() {
            capture.hold_above(u64::MAX);
            self.full.brim_since = None;
            return;
        }
        let most = self.log.ring().capacity() / 4;
        if capture.is_brimful() {
            let since = *self.full.brim_since.get_or_insert(self.desk.now);
            if self.cfg.full.is_over(since, self.desk.now) {
                self.full.overrun = true;
            }
        } else {
            self.full.brim_since = None;
        }
        self.full.overrun &= capture.dirty_bytes() > most;
        if self.full.overrun {
            self.full.brim_since = None;
        }
        capture.hold_above(if self.full.overrun { u64::MAX } else { most });
    }

    /// The room that is awaited now, and who holds it.
    #[must_use]
    pub fn suspension(&self) -> Option<Suspension> {
        let (since, limit) = (self.full.since?, self.cfg.full.suspend?);
        let head = self.log.head();
        let most = self.log.ring().capacity() - self.short_room();
        let mut by: Vec<_> = self
            .consumers
            .iter()
            .map(|(name, c)| (name.clone(), head.since(c.acked())))
            .filter(|(_, behind)| *behind > most)
            .collect();
        by.sort_by_key(|(_, behind)| std::cmp::Reverse(*behind));
        let writers = self.capture().is_some() && self.is_replicating();
        Some(Suspension { since, limit, by, writers })
    }

    /// What was done about receivers that take nothing, up to now.
    #[must_use]
    pub fn full_counts(&self, now: Mono) -> FullCounts {
        let mut counts = self.full.counts;
        if let Some(s) = self.suspension().filter(|s| s.writers) {
            counts.suspended += now.since(s.since);
        }
        counts
    }
}
