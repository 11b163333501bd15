//! Whether the writer is heard of. A replica whose line to it has been silent for long says so in its
//! status, and tells a handler of the operator, once, and again when it hears of it.
//!
//! A sign of the writer is its time, which it tells along the stream twice a second and which every
//! node passes on as long as it hears it itself (from a parent that speaks an older version: that it is
//! there). So a line is silent wherever between here and the writer it is cut. What it means that a line
//! is silent is not known here, and nothing follows from it by itself: whether somebody is to take over
//! is for the handler to decide, which runs one at a time on a node.
//!
//! Not silent is the line of a node that has no parent because somebody wanted it so: whose route was
//! removed, or who was the writer until now. It counts from when it is fed again.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use rcp::proto::clock::Mono;
use rcp::proto::ids::VolumeId;
use volmcast::volume::Role;

use super::links::Conn;
use super::{ConnId, Effect, Held, Level, Mover};

/// Kind of handler that is told that the line is silent.
const LOST: &str = "writer-lost";
/// Kind of handler that is told that it is not any more.
const BACK: &str = "writer-back";
/// Kinds of handlers about the line to the writer.
pub const LOST_KINDS: [&str; 2] = [LOST, BACK];

/// A node that has heard nothing for so long does not pass it on that it did.
const FRESH: Duration = Duration::from_secs(3);

/// What a handler is to be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum News {
    /// Nothing was heard since then.
    Lost(Mono),
    /// It was told so, and the writer is heard again.
    Back(Mono),
}

impl News {
    fn since(self) -> Mono {
        match self {
            Self::Lost(since) | Self::Back(since) => since,
        }
    }
}

/// The line from the writer of one volume.
#[derive(Debug, Default)]
pub(super) struct Line {
    /// The last sign of the writer, or since when it may be behind what is still coming.
    heard: Option<Mono>,
    /// The parent has none to give.
    denied: bool,
    /// It gave one since its last heartbeat.
    signed: bool,
    /// Since when this node listens without having stood still itself.
    listens: Mono,
    /// When it was looked at last.
    looked: Option<Mono>,
    /// Nobody is to feed this node.
    let_go: bool,
    /// It is silent, since then.
    silent: Option<Mono>,
    /// What the handler was told last.
    told: Option<Mono>,
}

impl Line {
    fn hear(&mut self, now: Mono) {
        self.heard = Some(now);
        (self.denied, self.signed) = (false, true);
        self.silent = None;
    }

    /// A heartbeat of a parent that tells the time as long as it hears of the writer.
    fn beat(&mut self) {
        self.denied |= !std::mem::take(&mut self.signed);
    }

    /// Part of a long frame: what comes behind it is not heard yet, and nobody is silent for that.
    fn wait_behind(&mut self, now: Mono) {
        if self.is_fresh(now) {
            self.heard = Some(now);
        }
        if !self.denied {
            self.listens = now;
        }
    }

    /// The writer was heard of just now.
    pub(super) fn is_fresh(&self, now: Mono) -> bool {
        !self.denied && self.heard.is_some_and(|t| now.since(t) <= FRESH)
    }

    /// Since when it is silent, if that is long.
    fn silent(&self) -> Option<Mono> {
        self.silent
    }

    /// Nobody feeds this node any more, as somebody wanted it.
    fn let_go(&mut self) {
        self.let_go = true;
    }

    /// Nobody is missed by who writes itself.
    fn writes(&mut self) {
        *self = Self { heard: self.heard, let_go: true, ..Self::default() };
    }

    /// `fed`: there is a parent that has the volume.
    fn look(&mut self, now: Mono, limit: Duration, fed: bool) {
        let last = self.looked.replace(now);
        if self.let_go && !fed {
            self.silent = None;
            return;
        }
        // A node that did not run has not listened, nor has one that nobody was to feed.
        let stood = last.is_none_or(|t| now.since(t) > limit / 2);
        if std::mem::take(&mut self.let_go) || (stood && self.silent.is_none()) {
            self.listens = now;
        }
        let since = self.heard.map_or(self.listens, |t| t.max(self.listens));
        if now.since(since) >= limit {
            self.silent.get_or_insert(since);
        }
    }

    fn news(&self) -> Option<News> {
        match (self.silent, self.told) {
            (Some(since), told) if told != Some(since) => Some(News::Lost(since)),
            // That nobody is to be heard is not that somebody is heard.
            (None, Some(since)) if !self.let_go => Some(News::Back(since)),
            _ => None,
        }
    }

    fn tell(&mut self, news: News) {
        self.told = match news {
            News::Lost(since) => Some(since),
            News::Back(_) => None,
        };
    }
}

/// A handler that was started for a volume.
#[derive(Debug)]
pub(super) struct Telling {
    block: [u8; 16],
    volume: VolumeId,
    kind: &'static str,
}

/// A replica that is to stay one for now.
fn listens(h: &Held) -> bool {
    matches!(h.volume.config().role, Role::Replica { .. }) && !h.change.is_promotion()
}

impl Mover {
    /// The parent that has this volume for this node, also while its offer waits for content that is
    /// taken back. One whose offer was refused is none.
    fn parent(&self, id: VolumeId) -> Option<ConnId> {
        let h = self.volumes.get(&id)?;
        let g = self.groups.get(&h.group)?;
        let takes = h.inbound.as_ref().map(|i| i.conn);
        let keeps = g.pending_offers.get(&id).map(|(conn, _)| *conn);
        g.feeder.as_ref()?.conn.filter(|c| [takes, keeps].contains(&Some(*c)))
    }

    /// Whether the parent, if there is one, speaks a version in which the writer's time is told.
    pub(super) fn parent_tells_time(&self, id: VolumeId) -> bool {
        let parent = self.parent(id).and_then(|c| self.conns.get(&c));
        parent.is_none_or(Conn::has_clock)
    }

    /// The parent gives a sign of the writer.
    pub(super) fn hear_of_writer(&mut self, id: VolumeId) {
        let (now, parent) = (self.now, self.parent(id));
        if let Some(h) = self.volumes.get_mut(&id).filter(|_| parent.is_some()) {
            h.line.hear(now);
        }
    }

    /// The parent itself is there. If it is too old to know of signs of the writer, that is one.
    pub(super) fn hear_of_parent(&mut self, id: VolumeId) {
        if !self.parent_tells_time(id) {
            self.hear_of_writer(id);
        } else if let Some(h) = self.volumes.get_mut(&id) {
            h.line.beat();
        }
    }

    /// Part of a long frame came from a parent.
    pub(super) fn signs_wait(&mut self, conn: ConnId) {
        let now = self.now;
        for line in self.lines_of(conn) {
            line.wait_behind(now);
        }
    }

    /// A parent lets this node go, for good. (One that is not the writer any more takes back its offer
    /// first: somebody else is to feed its children, and they wait for that.)
    pub(super) fn lines_let_go(&mut self, conn: ConnId) {
        for line in self.lines_of(conn) {
            line.let_go();
        }
    }

    /// Those that lead through a parent.
    fn lines_of(&mut self, conn: ConnId) -> impl Iterator<Item = &mut Line> {
        let all = self.volumes.keys().copied();
        let fed: BTreeSet<_> = all.filter(|id| self.parent(*id) == Some(conn)).collect();
        let all = self.volumes.iter_mut();
        all.filter(move |(id, _)| fed.contains(id)).map(|(_, h)| &mut h.line)
    }

    /// That nothing is heard of the writer although the parent is there, in words.
    pub(super) fn silence(&self, h: &Held, parent: ConnId) -> Option<String> {
        let silent = self.now.since(h.line.silent()?).as_secs();
        let peer = self.conns.get(&parent).and_then(|c| c.peer.as_ref())?;
        Some(format!("nothing was heard of the writer for {silent} s: {peer} says why"))
    }

    /// Looks whether writers are heard of, and tells the handler one piece of news.
    pub(super) fn look_for_writers(&mut self) {
        let (now, limit) = (self.now, self.cfg.writer_lost);
        let ids: Vec<_> = self.volumes.keys().copied().collect();
        for id in ids {
            let fed = self.parent(id).is_some();
            let Some(h) = self.volumes.get_mut(&id) else { continue };
            match h.volume.config().role {
                Role::Replica { .. } => h.line.look(now, limit, fed),
                Role::Primary { .. } => h.line.writes(),
                Role::Relay => {}
            }
        }
        self.tell_of_writers();
    }

    /// What is to be told, the oldest first: no volume waits for ever for another one.
    fn next_news(&self) -> Option<(VolumeId, News)> {
        let all = self.volumes.iter().filter(|(_, h)| listens(h));
        let news = all.filter_map(|(id, h)| Some((*id, h.line.news()?)));
        news.min_by_key(|(_, news)| news.since())
    }

    fn tell_of_writers(&mut self) {
        if self.stopping || !LOST_KINDS.iter().any(|k| self.cfg.handlers.contains(*k)) {
            return;
        }
        while self.telling.is_none() {
            let Some((id, news)) = self.next_news() else { return };
            let Some(h) = self.volumes.get_mut(&id) else { return };
            h.line.tell(news);
            let (label, set) = (h.label.clone(), h.volume.durable().visible);
            let passed = self.now.since(news.since()).as_secs();
            let (kind, level, text) = match news {
                News::Lost(_) => (
                    LOST,
                    Level::Warn,
                    format!(
                        "volume {label}: nothing was heard of its writer for {passed} s; this node \
                         shows set {set}, and `rcpctl failover {label} --plan` who could take over"
                    ),
                ),
                News::Back(_) => {
                    (BACK, Level::Info, format!("volume {label}: its writer is heard of again"))
                }
            };
            self.note(level, text);
            if self.cfg.handlers.contains(kind) {
                self.run_lost_handler(id, kind, passed);
            }
        }
    }

    fn run_lost_handler(&mut self, id: VolumeId, kind: &'static str, passed: u64) {
        let Some(h) = self.volumes.get(&id) else { return };
        let after = h.volume.state_id(h.volume.durable().visible);
        let (group, label) = (h.group.clone(), h.label.clone());
        let since = (self.wall.0 / 1_000_000).saturating_sub(passed);
        let fed_by = h.fed_by.as_ref().map(|n| format!(" {n}")).unwrap_or_default();
        let (block, body) = (self.random_id(), Bytes::from(format!("{label} {since}{fed_by}\n")));
        self.telling = Some(Telling { block, volume: id, kind });
        self.effect(Effect::Handle { id: block, kind: kind.to_owned(), group, after, body });
    }

    /// Whether it was told of a writer what a handler is done with.
    pub(super) fn lost_handled(&mut self, block: [u8; 16], ok: bool, said: &[u8]) -> bool {
        let Some(Telling { volume, kind, .. }) = self.telling.take_if(|t| t.block == block) else {
            return false;
        };
        let (label, said) = (self.label_of(volume), String::from_utf8_lossy(said));
        let (level, how) = if ok { (Level::Info, "said") } else { (Level::Error, "failed") };
        self.note(level, format!("volume {label}: the handler `{kind}` {how}: {said}"));
        self.tell_of_writers();
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(30);

    fn s(n: u64) -> Mono {
        Mono(n * 1_000_000)
    }

    /// Looks each second, and says what there was to tell.
    fn told(l: &mut Line, seconds: std::ops::Range<u64>, fed: bool) -> Vec<(u64, News)> {
        let mut out = Vec::new();
        for n in seconds {
            l.look(s(n), LIMIT, fed);
            if let Some(news) = l.news() {
                l.tell(news);
                out.push((n, news));
            }
        }
        out
    }

    #[test]
    fn a_silent_line_is_told_once_and_so_is_its_end() {
        let mut l = Line::default();
        l.hear(s(100));
        assert_eq!(told(&mut l, 100..130, true), []);
        assert_eq!(told(&mut l, 130..500, false), [(130, News::Lost(s(100)))]);
        l.hear(s(500));
        assert_eq!(told(&mut l, 500..520, true), [(500, News::Back(s(100)))]);
        // A sign now and then is enough.
        for at in (520..900).step_by(29) {
            l.hear(s(at));
            assert_eq!(told(&mut l, at..at + 29, true), []);
        }
        assert_eq!(told(&mut l, 900..1000, true), [(927, News::Lost(s(897)))]);
    }

    #[test]
    fn a_line_that_was_back_for_a_moment_is_told_as_lost_anew() {
        let mut l = Line::default();
        l.hear(s(0));
        assert_eq!(told(&mut l, 0..40, true).len(), 1);
        l.hear(s(40));
        // While the handler runs nobody asks for news.
        for n in 40..80 {
            l.look(s(n), LIMIT, true);
        }
        assert_eq!(l.news(), Some(News::Lost(s(40))));
    }

    #[test]
    fn a_node_that_did_not_run_has_missed_nobody() {
        let mut l = Line::default();
        // Started while the writer is away: it counts from then.
        assert_eq!(told(&mut l, 1_000..1_100, false), [(1_030, News::Lost(s(1_000)))]);
        l.hear(s(1_100));
        assert_eq!(told(&mut l, 1_100..1_110, true), [(1_100, News::Back(s(1_000)))]);
        // Suspended for an hour: the frames that wait for it have not been read yet.
        assert_eq!(told(&mut l, 5_000..5_029, true), []);
        l.hear(s(5_029));
        assert_eq!(told(&mut l, 5_029..5_059, true), []);
        assert_eq!(told(&mut l, 5_059..5_070, true), [(5_059, News::Lost(s(5_029)))]);
    }

    #[test]
    fn whom_nobody_is_to_feed_misses_nobody_before_it_is_fed_again() {
        let mut l = Line::default();
        l.hear(s(0));
        assert_eq!(told(&mut l, 0..10, true), []);
        l.let_go();
        assert_eq!(told(&mut l, 10..900, false), []);
        // Its new parent is there, and says nothing of the writer.
        assert_eq!(told(&mut l, 900..905, true), []);
        assert_eq!(told(&mut l, 905..1_000, false), [(930, News::Lost(s(900)))]);
        // Taken out meanwhile: that the writer were back is not so.
        l.let_go();
        assert_eq!(told(&mut l, 1_000..1_100, false), []);
        l.hear(s(1_100));
        assert_eq!(told(&mut l, 1_100..1_110, true), [(1_100, News::Back(s(900)))]);
    }

    #[test]
    fn who_writes_misses_nobody_and_who_did_until_now_waits_to_be_fed() {
        let mut l = Line::default();
        l.hear(s(0));
        assert_eq!(told(&mut l, 0..40, false).len(), 1);
        l.writes();
        assert_eq!(l.news(), None);
        assert_eq!(told(&mut l, 50..500, false), []);
        assert_eq!(told(&mut l, 500..600, true), [(530, News::Lost(s(500)))]);
    }

    #[test]
    fn a_long_frame_over_a_slow_link_is_no_silence_but_a_parent_without_a_sign_is() {
        let mut l = Line::default();
        l.hear(s(0));
        l.beat();
        for n in 0..100 {
            l.look(s(n), LIMIT, true);
            l.wait_behind(s(n));
            assert!(l.is_fresh(s(n)));
        }
        assert_eq!(told(&mut l, 100..129, true), []);
        // What comes behind it is the word of a parent that hears nothing itself.
        l.beat();
        assert!(!l.is_fresh(s(129)));
        for n in 129..200 {
            l.wait_behind(s(n));
        }
        assert_eq!(told(&mut l, 129..200, true), [(129, News::Lost(s(99)))]);
        // A first frame that is long, or one that begins late, is no sign, and no silence either.
        let mut l = Line::default();
        for n in 4..60 {
            l.look(s(n), LIMIT, true);
            l.wait_behind(s(n));
        }
        assert!(!l.is_fresh(s(59)));
        assert_eq!(told(&mut l, 60..100, true), [(89, News::Lost(s(59)))]);
    }
}
