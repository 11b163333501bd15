//! By how much a copy is older than what its writer has, in the writer's own time.
//!
//! Sets are cut by the writer's clock, and clocks of nodes differ by more than sets are apart. So the
//! writer tells its time along the stream (frame Clock), every node adds what has passed on its own
//! steady clock since, and lag is a difference of two moments of one clock. What it cannot see is the
//! time that the frames were under way, which is no more than a copy cannot know of anyway.

use std::time::Duration;

use rcp::proto::clock::{Mono, Wall};
use rcp::proto::frame::{Frame, Offer};
use rcp::proto::ids::{SetNumber, VolumeId};
use volmcast::volume::{Role, VolumeStatus};

use super::{Held, Mover};

/// A writer's clock that goes back by more was set; less is a frame that was long under way.
const SET_BACK: Duration = Duration::from_secs(2);

/// The time at the writer.
#[derive(Debug, Default)]
pub(super) struct WriterClock {
    /// What was heard that says the latest, and when.
    heard: Option<(Wall, Mono)>,
}

impl WriterClock {
    /// The time that a frame says. The frame that was under way the shortest counts.
    fn hear(&mut self, said: Wall, now: Mono) {
        if self.now(now).is_none_or(|known| said > known || known.since(said) > SET_BACK) {
            self.heard = Some((said, now));
        }
    }

    /// Another writer, perhaps.
    pub(super) fn forget(&mut self) {
        self.heard = None;
    }

    fn now(&self, now: Mono) -> Option<Wall> {
        let (said, at) = self.heard?;
        let passed = u64::try_from(now.since(at).as_micros()).unwrap_or(u64::MAX);
        Some(Wall(said.0.saturating_add(passed)))
    }

    /// The later of two moments of this clock; one that is to come was heard before the clock was set
    /// back, and is of no use any more.
    fn later(&self, known: Wall, heard: Wall, now: Mono) -> Wall {
        let to_come = self.now(now).is_some_and(|t| known.since(t) > SET_BACK);
        if to_come { heard } else { known.max(heard) }
    }
}

impl Held {
    /// A parent offers the volume: what it knows of another line than the last one that was offered
    /// says nothing of this one's sets.
    pub(super) fn offered_newest(&mut self, offer: &Offer) {
        let line = offer.history.last().map(|b| b.generation);
        if self.newest_of != line {
            self.begin_anew(SetNumber::ZERO);
        }
        self.newest_of = line;
        self.newest = self.newest.max(offer.newest);
    }

    /// Another line, whose writer has another clock: this is the newest set of it that is known.
    pub(super) fn begin_anew(&mut self, newest: SetNumber) {
        self.newest = newest;
        self.as_of = Wall(0);
        self.clock.forget();
    }
}

impl Mover {
    /// Seconds by which the visible state is behind what the primary has.
    pub(super) fn lag(&self, h: &Held, s: &VolumeStatus) -> Option<f64> {
        // A parent that speaks an older version does not tell.
        let now = h.clock.now(self.now).unwrap_or(self.wall);
        match h.volume.config().role {
            Role::Primary { .. } => Some(0.0),
            _ if s.visible >= h.newest && h.as_of > Wall(0) => {
                Some(now.since(h.as_of).as_secs_f64())
            }
            _ => s.visible_cut_time.map(|t| now.since(t).as_secs_f64()),
        }
    }

    /// Replicas that are older than their group wants to read are closed, and opened again.
    pub(super) fn judge_age(&mut self, id: VolumeId) {
        let Some(h) = self.volumes.get(&id) else { return };
        let most = self.groups.get(&h.group).and_then(|g| g.plan.max_staleness);
        let replica = matches!(h.volume.config().role, Role::Replica { .. });
        let why = most.filter(|_| replica).and_then(|most| {
            let lag = self.lag(h, &h.volume.status());
            let most = most.as_secs_f64();
            match lag {
                Some(lag) if lag <= most => None,
                Some(_) => Some(format!(
                    "older than {most} s, which is `max_staleness` of group {}: what is kept can be \
                     read, the newest state when it has caught up",
                    h.group
                )),
                None => Some(format!(
                    "its age is not known, and `max_staleness` of group {} is {most} s",
                    h.group
                )),
            }
        });
        if let Some(h) = self.volumes.get_mut(&id) {
            h.volume.refuse_as_old(why);
        }
    }

    /// The parent says what the newest set is, as of when.
    pub(super) fn hear_newest(&mut self, id: VolumeId, newest: SetNumber, as_of: Wall) {
        let now = self.now;
        self.hear_of_parent(id);
        let Some(h) = self.volumes.get_mut(&id) else { return };
        h.newest = h.newest.max(newest);
        h.as_of = h.clock.later(h.as_of, as_of, now);
    }

    /// The parent says what time it is at the writer.
    pub(super) fn hear_clock(&mut self, id: VolumeId, said: Wall) {
        let now = self.now;
        if let Some(h) = self.volumes.get_mut(&id) {
            h.clock.hear(said, now);
        }
        self.hear_of_writer(id);
    }

    /// Says to all children what the newest state is, as of when, and what time it is at the writer, if
    /// that is heard of. Below a parent that does not tell the time, this node's own is as good as any.
    pub(super) fn heartbeats(&mut self) {
        let ids: Vec<_> = self.volumes.keys().copied().collect();
        for id in ids {
            let tells = self.parent_tells_time(id);
            let Some(h) = self.volumes.get_mut(&id) else { continue };
            let known = h.clock.now(self.now).or((!tells).then_some(self.wall));
            let mut time = known.filter(|_| h.line.is_fresh(self.now));
            if let Role::Primary { capture, .. } = &h.volume.config().role {
                let visible = h.volume.durable().visible;
                let clean = capture.dirty_bytes() == 0 && capture.drained();
                h.newest = visible;
                h.as_of =
                    if clean { self.wall } else { h.volume.cut_time(visible).unwrap_or(Wall(0)) };
                time = Some(self.wall);
            }
            let (newest, as_of) = (h.newest, h.as_of);
            for conn in self.child_conns(id) {
                let Some(c) = self.conns.get(&conn) else { continue };
                let takes = c.has_clock();
                let found = c.streams_out.iter().find(|(_, o)| o.volume == id);
                let Some(stream) = found.map(|(s, _)| *s) else { continue };
                if let Some(now) = time.filter(|_| takes) {
                    self.send(conn, Frame::Clock { stream, now });
                }
                self.send(conn, Frame::Heartbeat { stream, state: newest, as_of, newest });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_writers_time_goes_on_and_late_frames_do_not_turn_it_back() {
        let ms = |n: u64| n * 1000;
        let mut c = WriterClock::default();
        assert_eq!(c.now(Mono(5)), None);
        c.hear(Wall(ms(90_000)), Mono(ms(1_000)));
        assert_eq!(c.now(Mono(ms(1_400))), Some(Wall(ms(90_400))));
        // Sent a second later, and one and a half under way.
        c.hear(Wall(ms(91_000)), Mono(ms(2_500)));
        assert_eq!(c.now(Mono(ms(2_500))), Some(Wall(ms(91_500))));
        // One that was under way for less, and a clock that was set back.
        c.hear(Wall(ms(92_100)), Mono(ms(3_000)));
        assert_eq!(c.now(Mono(ms(3_000))), Some(Wall(ms(92_100))));
        c.hear(Wall(ms(80_000)), Mono(ms(4_000)));
        assert_eq!(c.now(Mono(ms(5_000))), Some(Wall(ms(81_000))));
    }

    #[test]
    fn what_was_heard_before_a_clock_was_set_back_does_not_count() {
        let s = |n: u64| Wall(n * 1_000_000);
        let mut c = WriterClock::default();
        // Nothing is known of the clock: the later one.
        assert_eq!(c.later(s(500), s(90), Mono(0)), s(500));
        c.hear(s(100), Mono(0));
        assert_eq!(c.later(s(99), s(98), Mono(0)), s(99));
        assert_eq!(c.later(s(98), s(99), Mono(0)), s(99));
        // Frames may overtake the time that is told, a little.
        assert_eq!(c.later(s(102), s(99), Mono(0)), s(102));
        assert_eq!(c.later(s(500), s(99), Mono(0)), s(99));
    }
}
