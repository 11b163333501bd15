//! Why a copy is behind, in words.
//!
//! Every node looks twice a second at what it can see itself: a replica at what holds it back, a
//! feeder at what holds back its stream to each child. A cause counts once the copy has waited for
//! something known to exist for [`TOLD`], and was there at half of the last [`LOOKS`] looks: a
//! moment's full queue is none. The first of them on the way from the primary down is the one to
//! mend; what is behind it further down follows from it.

use std::collections::VecDeque;
use std::mem::discriminant;
use std::time::Duration;

use config::units::approx_size;
use rcp::proto::clock::{Mono, Wall};
use rcp::proto::frame::StreamId;
use rcp::proto::ids::{NodeName, VolumeId};
use volmcast::volume::{Role, Waits};

use super::sending::Stage;
use super::{ConnId, Held, Level, Mover};
use crate::api::Delayed;

/// A wait that is shorter is none.
const TOLD: Duration = Duration::from_secs(2);
/// A replica that has shown nothing new for as long, although there is something, is told in the log.
const SILENT: Duration = Duration::from_secs(10);
/// Looks that are remembered.
const LOOKS: usize = 8;

/// How long something that exists has been waited for, and why.
#[derive(Debug)]
pub(super) struct Delay<C> {
    /// A position that was known to exist, and since when it is waited for.
    goal: Option<(u64, Mono, Wall)>,
    looks: VecDeque<Option<C>>,
}

impl<C> Default for Delay<C> {
    fn default() -> Self {
        Self { goal: None, looks: VecDeque::new() }
    }
}

impl<C> Delay<C> {
    /// One look: `have` is here, up to `newest` is known to exist, and `cause` stands in the way.
    fn look(&mut self, have: u64, newest: u64, cause: Option<C>, now: (Mono, Wall)) {
        if self.goal.is_none_or(|(goal, ..)| have >= goal) {
            self.goal = (newest > have).then_some((newest, now.0, now.1));
        }
        if self.goal.is_none() {
            self.looks.clear();
            return;
        }
        if self.looks.len() == LOOKS {
            self.looks.pop_front();
        }
        self.looks.push_back(cause);
    }

    /// Since when it waits, if that is long.
    fn since(&self, now: Mono, long: Duration) -> Option<Wall> {
        self.goal.filter(|(_, since, _)| now.since(*since) >= long).map(|(.., wall)| wall)
    }

    /// The cause at half of the looks or more, as it was seen last.
    fn cause(&self) -> Option<&C> {
        let same = |a: &C| {
            let all = self.looks.iter().flatten();
            all.filter(|b| discriminant(a) == discriminant(*b)).count()
        };
        self.looks.iter().rev().flatten().find(|c| 2 * same(c) >= self.looks.len())
    }
}

/// How fast a count rises, smoothed over some seconds.
#[derive(Debug, Default)]
pub(super) struct Meter {
    before: Option<(Mono, u64)>,
    /// Per second.
    rate: f64,
}

impl Meter {
    fn look(&mut self, now: Mono, count: u64) {
        let Some((at, was)) = self.before.replace((now, count)) else { return };
        let dt = now.since(at).as_secs_f64();
        // Begun anew, or no time at all.
        if count < was || dt <= 0.0 {
            return;
        }
        #[allow(clippy::cast_precision_loss)]
        let rate = (count - was) as f64 / dt;
        self.rate = self.rate * 0.7 + rate * 0.3;
    }

    /// `12 Mbit/s`, for a count of bytes.
    fn in_bits(&self) -> String {
        let bits = self.rate * 8.0;
        match bits {
            0.0..1e3 => "nothing".to_owned(),
            1e3..1e6 => format!("{:.0} kbit/s", bits / 1e3),
            1e6..1e7 => format!("{:.1} Mbit/s", bits / 1e6),
            1e7..1e9 => format!("{:.0} Mbit/s", bits / 1e6),
            _ => format!("{:.1} Gbit/s", bits / 1e9),
        }
    }
}

/// What holds back the stream to a child.
#[derive(Clone, Debug)]
pub(super) enum Brake {
    /// The hop has a limit; in words.
    Limit(String),
    /// The connection has not taken what was given to it.
    Link,
    /// The child has granted no more.
    Child,
    /// The save volume here is being read.
    Disk,
}

/// A volume's own.
#[derive(Debug, Default)]
pub(super) struct Own {
    delay: Delay<Waits>,
    /// Bytes that come into the save volume.
    coming: Meter,
    /// The log says that it stands still.
    told: bool,
}

impl Mover {
    /// Looks at every volume and at every stream to a child.
    pub(super) fn look_at_delays(&mut self) {
        let ids: Vec<_> = self.volumes.keys().copied().collect();
        for id in ids {
            self.look_at_volume(id);
            self.tell_silence(id);
        }
        let streams: Vec<_> = self
            .conns
            .iter()
            .flat_map(|(conn, c)| c.streams_out.keys().map(|stream| (*conn, *stream)))
            .collect();
        for (conn, stream) in streams {
            self.look_at_stream(conn, stream);
        }
    }

    fn look_at_volume(&mut self, id: VolumeId) {
        let now = (self.now, self.wall);
        let Some(h) = self.volumes.get_mut(&id) else { return };
        let waits = h.volume.waits_for();
        h.own.coming.look(now.0, h.volume.saved_bytes());
        let visible = h.volume.durable().visible;
        let (have, newest) = match (&h.volume.config().role, &waits) {
            (Role::Primary { .. }, Some(Waits::Making { set, .. })) => (visible.0, set.0),
            (Role::Primary { .. }, _) => (visible.0, visible.0),
            // How far a seed or catch-up is, is said already.
            _ if h.volume.durable().seed.is_some() => (visible.0, visible.0),
            (Role::Relay, _) => (h.volume.saved_position().0.0, h.newest.0),
            _ => (visible.0, h.newest.0),
        };
        h.own.delay.look(have, newest, waits, now);
    }

    fn look_at_stream(&mut self, conn: ConnId, stream: StreamId) {
        let now = (self.now, self.wall);
        let queued = self.is_queued(conn);
        let Some(c) = self.conns.get_mut(&conn) else { return };
        let (Some(child), group) = (c.peer.clone(), c.group.clone()) else { return };
        let Some(out) = c.streams_out.get_mut(&stream) else { return };
        let Some(h) = self.volumes.get(&out.volume) else { return };
        let link = self.groups.get(&group).and_then(|g| g.links.get(&child));
        let limited = link.filter(|l| l.waits).and_then(|l| l.by.limit.as_ref()?.in_words(now.1));
        let next = h.volume.consumer_next_len(&child);
        let cause = if let Some(words) = limited {
            Some(Brake::Limit(words))
        } else if next.is_some_and(|len| len > out.room()) {
            Some(Brake::Child)
        } else if queued {
            Some(Brake::Link)
        } else {
            next.map(|_| Brake::Disk)
        };
        let newest = h.volume.saved_bytes();
        let have = newest - h.volume.consumer_behind(&child).unwrap_or(0).min(newest);
        // While a seed or catch-up runs, its progress says it all.
        let newest = if out.stage == Stage::Streaming { newest } else { have };
        out.delay.look(have, newest, cause, now);
        out.going.look(now.0, out.sent);
    }

    /// That a replica shows nothing new although there is something is said once in the log, with
    /// what is known of the reason, and that it goes on.
    fn tell_silence(&mut self, id: VolumeId) {
        let Some(h) = self.volumes.get(&id) else { return };
        let silent = h.own.delay.since(self.now, SILENT).is_some()
            && !matches!(h.own.delay.cause(), Some(Waits::Playback { .. }))
            && h.volume.stalled().is_none();
        if silent == h.own.told {
            return;
        }
        let label = h.label.clone();
        let note = match self.delayed(h) {
            Some(d) if silent => {
                (Level::Warn, format!("volume {label}: nothing new for {SILENT:?}: {}", d.text))
            }
            _ if silent => return,
            _ => (Level::Info, format!("volume {label} shows new sets again")),
        };
        if let Some(h) = self.volumes.get_mut(&id) {
            h.own.told = silent;
        }
        self.note(note.0, note.1);
    }

    /// Why this node's copy is behind, for status; nothing where that is said already.
    pub(super) fn delayed(&self, h: &Held) -> Option<Delayed> {
        let since = h.own.delay.since(self.now, TOLD)?;
        let role = &h.volume.config().role;
        if !matches!(role, Role::Primary { .. }) && !h.is_fed() {
            return None;
        }
        let (cause, text) = match h.own.delay.cause() {
            Some(w) => self.of_waits(h, w),
            None => self.of_parent(h)?,
        };
        let by = match h.own.delay.cause() {
            Some(Waits::Child { name, .. }) => Some(name.to_string()),
            Some(_) => None,
            None => self.groups.get(&h.group)?.feeder.as_ref().map(|f| f.node.to_string()),
        };
        Some(Delayed { cause: cause.to_owned(), text, by, since_us: since.0 })
    }

    fn of_waits(&self, h: &Held, waits: &Waits) -> (&'static str, String) {
        match waits {
            Waits::Making { set, since } => {
                let took = self.now.since(*since).as_secs();
                ("disk", format!("set {set} has been in the making for {took} s: the disk is slow"))
            }
            Waits::Saving { bytes } => (
                "disk",
                format!(
                    "the disk with the save volume is slow: {} came and are not durable yet",
                    approx_size(*bytes)
                ),
            ),
            Waits::Merging { bytes } => (
                "disk",
                format!(
                    "the disk with the content is slow: {} of the save volume are not in it yet, and \
                     there is no room for more",
                    approx_size(*bytes)
                ),
            ),
            Waits::Stopped { bytes } => (
                "stopped",
                format!(
                    "replication is stopped here, and the save volume is full of {} that are not \
                     shown: `rcpctl replicate start {}`",
                    approx_size(*bytes),
                    h.label
                ),
            ),
            Waits::Child { name, bytes } => (
                "child",
                format!(
                    "the save volume is full of {} that {name} has not taken",
                    approx_size(*bytes)
                ),
            ),
            Waits::Readers { bytes } => (
                "readers",
                format!(
                    "the save volume is full of {} that readers of older states hold: it goes on when \
                     they end",
                    approx_size(*bytes)
                ),
            ),
            Waits::Playback { sets, due } => {
                let sets =
                    if *sets == 1 { "1 set is".to_owned() } else { format!("{sets} sets are") };
                let within = due.since(self.now).as_secs() + 1;
                let text =
                    format!("{sets} gathered by the playback policy, shown within {within} s");
                ("playback", text)
            }
        }
    }

    /// Nothing here stands in the way.
    fn of_parent(&self, h: &Held) -> Option<(&'static str, String)> {
        let feeder = self.groups.get(&h.group)?.feeder.as_ref()?;
        let (node, bits) = (&feeder.node, h.own.coming.in_bits());
        Some(if h.own.coming.rate * 8.0 < 1e3 {
            let newest = h.newest;
            ("parent", format!("{node} has sets up to {newest} and sends nothing: ask it why"))
        } else {
            ("link", format!("{bits} come from {node}, which says what they are limited by"))
        })
    }

    /// Why a child's copy is behind what is here.
    pub(super) fn child_delayed(
        &self,
        h: &Held,
        child: &NodeName,
        conn: ConnId,
        stream: StreamId,
    ) -> Option<Delayed> {
        let out = self.conns.get(&conn)?.streams_out.get(&stream)?;
        let since = out.delay.since(self.now, TOLD)?;
        let (goes, comes) = (out.going.in_bits(), h.own.coming.in_bits());
        let (cause, text) = match out.delay.cause()? {
            Brake::Limit(words) => ("limit", words.clone()),
            Brake::Link => ("link", format!("the connection takes {goes}, and {comes} come")),
            Brake::Child => ("child", format!("it takes no more for now: {child} says why")),
            Brake::Disk => ("disk", "the disk with the save volume here is slow".to_owned()),
        };
        let by = matches!(cause, "child").then(|| child.to_string());
        Some(Delayed { cause: cause.to_owned(), text, by, since_us: since.0 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> (Mono, Wall) {
        (Mono(0).after(Duration::from_millis(ms)), Wall(1_000_000 + ms * 1000))
    }

    #[test]
    fn only_what_stands_in_the_way_for_long_is_a_cause() {
        let mut d = Delay::default();
        // Always one set behind, and always going on: no wait is long.
        for i in 0..20u64 {
            d.look(i, i + 1, Some(Brake::Link), at(i * 500));
        }
        assert_eq!(d.since(at(9_500).0, TOLD), None);
        // It stands still; the link is busy now and then, the child takes nothing.
        for i in 20..30u64 {
            let cause = if i % 4 == 0 { Brake::Link } else { Brake::Child };
            d.look(19, 60, Some(cause), at(i * 500));
        }
        assert_eq!(d.since(at(14_500).0, TOLD), Some(at(9_500).1));
        assert!(matches!(d.cause(), Some(Brake::Child)));
        // Nothing in the way at most looks.
        for i in 30..38u64 {
            let cause = (i % 4 == 0).then_some(Brake::Link);
            d.look(19, 60, cause, at(i * 500));
        }
        assert!(d.cause().is_none());
        d.look(60, 60, Some(Brake::Link), at(20_000));
        assert_eq!((d.since(at(30_000).0, TOLD), d.cause().is_none()), (None, true));
    }

    #[test]
    fn rates_are_told_in_bits() {
        let mut m = Meter::default();
        for i in 0..40 {
            m.look(at(i * 500).0, i * 750_000);
        }
        assert_eq!(m.in_bits(), "12 Mbit/s");
        m.look(at(20_000).0, 0);
        assert_eq!(m.in_bits(), "12 Mbit/s");
    }
}
