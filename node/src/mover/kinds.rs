//! Kinds of control blocks that the program carries out itself (CB-01, CB-03, VMC-05), the standard
//! kinds whose data it checks (CB-02), and the notice of a cut.
//!
//! The data of a built-in kind is text, words with one space between them: what an operator writes
//! names a volume by its label, what travels by its UUID.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use rcp::proto::control::Part;
use rcp::proto::frame::ControlBlock;
use rcp::proto::ids::{GroupName, Label, NodeName, VolumeId};
use volmcast::volume::Role;

use super::controls::OWN_KINDS;
use super::lost::LOST_KINDS;
use super::roles::ROLE_KINDS;
use super::settings::Waiter;
use super::{Effect, HASH, Level, Mover, Order};
use crate::api::{ApiError, ApiErrorKind};

/// What a new volume is to be called at single members (VMC-03): `SOURCE NODE=LABEL …`.
pub(super) const DESTINATION: &str = "volume-destination";
/// Replicas show new states again: `VOLUME`. A block that comes after one that was sent later, by the
/// time in its id, is not carried out.
pub(super) const PLAYBACK_START: &str = "volume-playback-start";
/// Replicas only save what comes.
pub(super) const PLAYBACK_STOP: &str = "volume-playback-stop";
/// An extent of the source volume was copied to all copies again: `VOLUME OFFSET LENGTH`.
pub const COPY_EXTENT: &str = "volume-copy-extent";
/// Members that are the source of a volume send it: `VOLUME`.
pub(super) const REPLICATE: &str = "volume-replicate";
/// Replicas look through all of their content now: `VOLUME BYTES_PER_SECOND`.
pub const SCRUB: &str = "volume-scrub";
/// Kind of handler that is run for every state that a node has completed.
const CUT: &str = "cut";
/// What of a file system's files is no longer as it was: a path per line.
const INVALIDATE: &str = "fs-invalidate";
/// Files that are gone: a path per line.
const DELETE: &str = "fs-delete";
/// Files that are elsewhere: old path, tab, new path, per line.
const RENAME: &str = "fs-rename";
/// Settings that have changed: `KEY=VALUE` per line.
const CONFIG: &str = "fs-config";

/// A kind that the program carries out itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Own {
    Hash,
    Destination,
    PlaybackStart,
    PlaybackStop,
    CopyExtent,
    Replicate,
    Scrub,
}

impl Own {
    pub(super) fn named(kind: &str) -> Option<Self> {
        Some(match kind {
            HASH => Self::Hash,
            DESTINATION => Self::Destination,
            PLAYBACK_START => Self::PlaybackStart,
            PLAYBACK_STOP => Self::PlaybackStop,
            COPY_EXTENT => Self::CopyExtent,
            REPLICATE => Self::Replicate,
            SCRUB => Self::Scrub,
            _ => return None,
        })
    }
}

/// A kind of handler that a node runs by itself: nobody can send it.
pub(super) fn is_nodes_own(kind: &str) -> bool {
    kind == CUT || ROLE_KINDS.contains(&kind) || LOST_KINDS.contains(&kind)
}

/// A range of a volume's bytes, as an operator names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Label or UUID.
    pub volume: String,
    /// Where it begins, in bytes.
    pub offset: u64,
    /// How long it is, in bytes; not 0.
    pub length: u64,
}

impl Extent {
    /// From the data of a [`COPY_EXTENT`] block.
    ///
    /// # Errors
    /// In words.
    pub fn read(body: &[u8]) -> Result<Self, String> {
        let [volume, offset, length] = words(body)?.try_into().map_err(|_| {
            "the data of volume-copy-extent is VOLUME OFFSET LENGTH, in bytes".to_owned()
        })?;
        let number =
            |text: &str| text.parse::<u64>().map_err(|_| format!("`{text}` is no number of bytes"));
        let (offset, length) = (number(offset)?, number(length)?);
        if length == 0 || offset.checked_add(length).is_none() {
            return Err(format!("there is no extent of {length} bytes at {offset}"));
        }
        Ok(Self { volume: volume.to_owned(), offset, length })
    }
}

/// The handlers that are told of cuts, one at a time for each volume.
#[derive(Debug, Default)]
pub(super) struct Notices {
    running: BTreeMap<[u8; 16], VolumeId>,
    /// Newer states came meanwhile.
    again: BTreeSet<VolumeId>,
}

fn words(body: &[u8]) -> Result<Vec<&str>, String> {
    let text = std::str::from_utf8(body).map_err(|_| "the data is not text".to_owned())?;
    Ok(text.split_ascii_whitespace().collect())
}

/// What a [`SCRUB`] block says: a volume, and bytes per second.
fn scrub_order(body: &[u8]) -> Result<(String, u64), String> {
    let form = || format!("the data of {SCRUB} is VOLUME BYTES_PER_SECOND");
    let [volume, rate] = words(body)?.try_into().map_err(|_| form())?;
    let rate = rate.parse::<u64>().ok().filter(|r| *r > 0).ok_or_else(form)?;
    Ok((volume.to_owned(), rate))
}

/// The data of a standard notification is what every handler may rely on.
fn check_notification(order: &Order) -> Result<(), String> {
    let kind = order.kind.as_str();
    let form = match kind {
        INVALIDATE | DELETE => "a path per line",
        RENAME => "OLD, a tab, NEW per line",
        CONFIG => "KEY=VALUE per line",
        _ => return Ok(()),
    };
    if order.after.is_none() {
        return Err(format!(
            "{kind} must not overtake the data it is about: say after which state of which volume \
             (--after VOLUME)"
        ));
    }
    let good = |line: &str| match kind {
        RENAME => line.split_once('\t').is_some_and(|(a, b)| path(a) && path(b)),
        CONFIG => {
            line.split_once('=').is_some_and(|(k, v)| path(k) && !v.contains(char::is_control))
        }
        _ => path(line),
    };
    let text = std::str::from_utf8(&order.body).unwrap_or("\0");
    match text.lines().position(|l| !good(l)) {
        _ if text.is_empty() => Err(format!("{kind} needs data: {form}")),
        None => Ok(()),
        Some(n) => {
            Err(format!("line {} of the data of {kind} is not as it should be: {form}", n + 1))
        }
    }
}

fn path(text: &str) -> bool {
    !text.is_empty() && !text.contains(char::is_control)
}

impl Mover {
    /// What a node has to do for a block of the program's own; none if it may do it once.
    pub(super) fn own_kind_part(
        &self,
        own: Own,
        block: &ControlBlock,
        (replica, primary): (bool, bool),
    ) -> Option<Part> {
        let does = match own {
            Own::Hash | Own::CopyExtent | Own::Scrub => replica,
            Own::Destination => !primary,
            Own::Replicate => self.sources(&block.body).next().is_some(),
            Own::PlaybackStart | Own::PlaybackStop if replica => return None,
            Own::PlaybackStart | Own::PlaybackStop => false,
        };
        Some(if does { Part::Repeatable } else { Part::Nothing })
    }

    /// The volumes of a name that this node is the source of.
    fn sources(&self, name: &[u8]) -> impl Iterator<Item = VolumeId> {
        let called = move |id: &VolumeId, label: &Label, source: &Label| {
            let id = id.to_string();
            [label.as_str(), source.as_str(), id.as_str()].iter().any(|n| n.as_bytes() == name)
        };
        let all = self.volumes.iter();
        all.filter(|(_, h)| matches!(h.volume.config().role, Role::Primary { .. }))
            .filter(move |(id, h)| called(id, &h.label, &h.source))
            .map(|(id, _)| *id)
    }

    /// An order as it is to travel.
    ///
    /// # Errors
    /// What is wrong with it, with the remedy.
    pub(super) fn sent_by_hand(
        &self,
        group: &GroupName,
        mut order: Order,
    ) -> Result<Order, ApiError> {
        let bad = |text: String| ApiError::new(ApiErrorKind::BadRequest, text);
        if is_nodes_own(&order.kind) {
            return Err(bad(format!(
                "`{}` is a handler that a node runs by itself, and not a kind of control block: call \
                 yours otherwise",
                order.kind
            )));
        }
        if !order.kind.starts_with(OWN_KINDS) {
            check_notification(&order).map_err(bad)?;
            return Ok(order);
        }
        let kind = order.kind.clone();
        let own = Own::named(&kind).filter(|own| *own != Own::Hash).ok_or_else(|| {
            bad(format!(
                "kinds that begin with `{OWN_KINDS}` are the program's own, and `{kind}` is none that \
                 can be sent: {PLAYBACK_START}, {PLAYBACK_STOP}, {COPY_EXTENT}, {REPLICATE}, \
                 {SCRUB}, {DESTINATION}"
            ))
        })?;
        let said = words(&order.body).map_err(bad)?;
        let one = || match said.as_slice() {
            [one] => Ok(*one),
            _ => Err(bad(format!("{kind} is about one volume: name it (--volume VOLUME)"))),
        };
        let body = match own {
            Own::Hash => return Err(bad(format!("{kind} cannot be sent"))),
            Own::PlaybackStart | Own::PlaybackStop => self.of_group(group, one()?)?.to_string(),
            Own::Scrub => {
                let (volume, rate) = scrub_order(&order.body).map_err(bad)?;
                format!("{} {rate}", self.of_group(group, &volume)?)
            }
            Own::Replicate => Label::new(one()?).map_err(|e| bad(e.to_string()))?.to_string(),
            Own::CopyExtent => {
                let e = Extent::read(&order.body).map_err(bad)?;
                format!("{} {} {}", self.of_group(group, &e.volume)?, e.offset, e.length)
            }
            Own::Destination => {
                let (source, all) = destinations(&order.body).map_err(bad)?;
                let members = self.groups.get(group).map_or(&[][..], |g| &g.plan.members);
                if let Some((n, _)) = all.iter().find(|(n, _)| !members.contains(n)) {
                    let known: Vec<_> = members.iter().map(ToString::to_string).collect();
                    let known = known.join(", ");
                    return Err(bad(format!(
                        "{n} is not in group {group}; its members are: {known}"
                    )));
                }
                let all = all.iter().map(|(n, l)| format!(" {n}={l}"));
                format!("{source}{}", all.collect::<String>())
            }
        };
        order.body = Bytes::from(body);
        Ok(order)
    }

    /// A volume of a group, by name.
    fn of_group(&self, group: &GroupName, name: &str) -> Result<VolumeId, ApiError> {
        let id = self.volume_named(name)?;
        if self.volumes.get(&id).is_some_and(|h| h.group == *group) {
            return Ok(id);
        }
        let text = format!("volume {name} is not of group {group}");
        Err(ApiError::new(ApiErrorKind::BadRequest, text))
    }

    /// Carries out a block of a kind of the program's own.
    pub(super) fn run_own(&mut self, group: &GroupName, block: &ControlBlock) {
        let id = block.id;
        let result = match Own::named(&block.kind) {
            Some(Own::Destination) => self.destination(group, block),
            Some(Own::PlaybackStart) => self.play_back(group, block, true),
            Some(Own::PlaybackStop) => self.play_back(group, block, false),
            Some(Own::CopyExtent) => self.extent_copied(block),
            Some(Own::Replicate) => self.replicate_own(block),
            Some(Own::Scrub) => self.scrub_own(group, block),
            Some(Own::Hash) | None => Err(format!("{} cannot be carried out here", block.kind)),
        };
        match result {
            Ok(None) => {}
            Ok(Some(text)) => self.own_done(id, Ok(text)),
            Err(text) => self.own_done(id, Err(text)),
        }
    }

    /// What came of a block of the program's own.
    pub(super) fn own_done(&mut self, id: [u8; 16], result: Result<String, String>) {
        let ok = result.is_ok();
        let text = result.unwrap_or_else(|e| e);
        self.control_done(self.now, id, ok, Bytes::from(text));
    }

    fn destination(
        &mut self,
        group: &GroupName,
        block: &ControlBlock,
    ) -> Result<Option<String>, String> {
        let (source, all) = destinations(&block.body)?;
        let own = all.into_iter().find(|(n, _)| *n == self.cfg.node).map(|(_, l)| l);
        let label = own.unwrap_or_else(|| {
            let here = self.volumes.values().find(|h| h.group == *group && h.source == source);
            here.map_or_else(|| self.label_for(group, &source), |h| h.label.clone())
        });
        self.destine(block.id, group, &source, &label)
    }

    fn play_back(
        &mut self,
        group: &GroupName,
        block: &ControlBlock,
        on: bool,
    ) -> Result<Option<String>, String> {
        let volume = words(&block.body)?.first().and_then(|v| v.parse().ok());
        let volume: VolumeId = volume.ok_or("it does not name a volume")?;
        let Some(h) = self.volumes.get_mut(&volume).filter(|h| h.group == *group) else {
            return Err(format!("volume {volume} is not here yet"));
        };
        if let Some(at) = sent_at(&block.id) {
            if at < h.playback_order {
                return Err(
                    "a command to start or stop playback that was sent later was carried out before"
                        .to_owned(),
                );
            }
            h.playback_order = at;
        }
        let id = self.switchable(&volume.to_string()).map_err(|e| e.text)?;
        self.switch(id, on, Waiter::Block(block.id));
        Ok(None)
    }

    fn extent_copied(&mut self, block: &ControlBlock) -> Result<Option<String>, String> {
        let e = Extent::read(&block.body)?;
        let set = block.after.map_or(0, |s| s.set.0);
        Ok(Some(format!("{} bytes at {} written again with set {set}", e.length, e.offset)))
    }

    /// Begins a round through the content; it is answered when that has ended.
    fn scrub_own(
        &mut self,
        group: &GroupName,
        block: &ControlBlock,
    ) -> Result<Option<String>, String> {
        let (volume, rate) = scrub_order(&block.body)?;
        let id = volume.parse().map_err(|_| "it does not name a volume".to_owned())?;
        let Some(h) = self.volumes.get_mut(&id).filter(|h| h.group == *group) else {
            return Err(format!("volume {volume} is not here yet"));
        };
        h.scrubbing.push(block.id);
        if let Err(why) = h.volume.scrub_now(rate) {
            h.scrubbing.retain(|b| *b != block.id);
            return Err(why);
        }
        self.settle(id);
        Ok(None)
    }

    fn replicate_own(&mut self, block: &ControlBlock) -> Result<Option<String>, String> {
        let found: Vec<_> = self.sources(&block.body).collect();
        let [volume] = found.as_slice() else {
            return Err("two volumes here are called so: name it by its UUID".to_owned());
        };
        let id = self.switchable(&volume.to_string()).map_err(|e| e.text)?;
        self.switch(id, true, Waiter::Block(block.id));
        Ok(None)
    }

    /// A state of a volume is complete here: whoever wants to know is told.
    pub(super) fn notice_of_cut(&mut self, volume: VolumeId) {
        if !self.cfg.handlers.contains(CUT) {
            return;
        }
        if self.notices.running.values().any(|v| *v == volume) {
            self.notices.again.insert(volume);
            return;
        }
        let Some(h) = self.volumes.get(&volume).filter(|h| !h.volume.is_mirroring()) else {
            return;
        };
        let primary = matches!(h.volume.config().role, Role::Primary { .. });
        let shown = h.volume.durable().visible;
        let set = if primary { h.newest.max(shown) } else { shown };
        let Some(state) = h.volume.state_id(set) else { return };
        let (group, body) = (h.group.clone(), Bytes::from(h.label.to_string()));
        let id = self.random_id();
        self.notices.running.insert(id, volume);
        let kind = CUT.to_owned();
        self.effect(Effect::Handle { id, kind, group, after: Some(state), body });
    }

    /// Whether it was the notice of a cut that a handler is done with.
    pub(super) fn notice_done(&mut self, id: [u8; 16], ok: bool, said: &[u8]) -> bool {
        let Some(volume) = self.notices.running.remove(&id) else { return false };
        if !ok {
            let label = self.label_of(volume);
            let said = String::from_utf8_lossy(said).into_owned();
            self.note(Level::Warn, format!("the handler of cuts, for volume {label}: {said}"));
        }
        if self.notices.again.remove(&volume) {
            self.notice_of_cut(volume);
        }
        true
    }
}

/// When a block was sent, by its sender's clock, in milliseconds: ids of version 7 say so (RFC 9562).
fn sent_at(id: &[u8; 16]) -> Option<u64> {
    let time = id[..6].iter().fold(0, |t, b| t << 8 | u64::from(*b));
    (id[6] >> 4 == 7).then_some(time)
}

/// `SOURCE NODE=LABEL …`.
fn destinations(body: &[u8]) -> Result<(Label, BTreeMap<NodeName, Label>), String> {
    let said = words(body)?;
    let (source, pairs) = said.split_first().ok_or("it names no volume")?;
    let pair = |p: &&str| {
        let (node, label) = p.split_once('=').ok_or_else(|| format!("`{p}` is not NODE=LABEL"))?;
        let node = NodeName::new(node).map_err(|e| e.to_string())?;
        Ok((node, Label::new(label).map_err(|e| e.to_string())?))
    };
    let all = pairs.iter().map(pair).collect::<Result<Vec<_>, String>>()?;
    let many = all.len();
    let all: BTreeMap<_, _> = all.into_iter().collect();
    if all.len() < many {
        return Err("a node is named twice".to_owned());
    }
    Ok((Label::new(source).map_err(|e| e.to_string())?, all))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(kind: &str, after: bool, body: &str) -> Order {
        Order {
            group: "g1".to_owned(),
            id: [1; 16],
            kind: kind.to_owned(),
            after: after.then(|| ("vol1".to_owned(), None)),
            body: Bytes::from(body.to_owned()),
            wait: std::time::Duration::ZERO,
        }
    }

    #[test]
    fn a_standard_notification_has_its_form_and_its_state() {
        let ok = |kind: &str, body: &str| check_notification(&order(kind, true, body));
        assert_eq!(ok(INVALIDATE, "/a b\n/c\n"), Ok(()));
        assert_eq!(ok(DELETE, "/gone"), Ok(()));
        assert_eq!(ok(RENAME, "/old name\t/new\n"), Ok(()));
        assert_eq!(ok(CONFIG, "quota=1 GiB\nempty=\n"), Ok(()));
        assert_eq!(ok("drop-cache", "\0 anything"), Ok(()));
        for (kind, body, line) in [
            (INVALIDATE, "/a\n\n/c", "line 2"),
            (DELETE, "/a\tb", "line 1"),
            (RENAME, "/a\t/b\n/c", "line 2"),
            (RENAME, "/a\t", "line 1"),
            (CONFIG, "=1", "line 1"),
            (CONFIG, "quota", "line 1"),
            (INVALIDATE, "", "needs data"),
        ] {
            let e = ok(kind, body).expect_err(body);
            assert!(e.contains(line), "{kind} {body:?}: {e}");
        }
        let e = check_notification(&order(RENAME, false, "/a\t/b")).expect_err("overtakes");
        assert!(e.contains("--after"), "{e}");
    }

    #[test]
    fn an_id_of_version_7_says_when_it_was_made() {
        // The example of RFC 9562, A.6.
        let id: u128 = 0x017F_22E2_79B0_7CC3_98C4_DC0C_0C07_398F;
        assert_eq!(sent_at(&id.to_be_bytes()), Some(1_645_557_742_000));
        let four: u128 = 0x919108f7_52d1_4320_9bac_f847db4148a8;
        assert_eq!(sent_at(&four.to_be_bytes()), None);
    }

    #[test]
    fn extents_and_destinations_are_read_or_refused() {
        let e = Extent { volume: "vol1".to_owned(), offset: 4096, length: 512 };
        assert_eq!(Extent::read(b"vol1 4096 512"), Ok(e));
        for bad in ["", "vol1", "vol1 1", "vol1 0 0", "vol1 -1 2", "vol1 1 2 3"] {
            assert!(Extent::read(bad.as_bytes()).is_err(), "{bad}");
        }
        assert!(Extent::read(format!("vol1 1 {}", u64::MAX).as_bytes()).is_err());
        let (source, all) = destinations(b"vol7 n2=vol9 n3=x").expect("good");
        assert_eq!((source.as_str(), all.len()), ("vol7", 2));
        for bad in ["", "vol7 n2", "vol7 n2=", "vol7 =x", "vol7 n2=a n2=b", "VOL n2=a"] {
            assert!(destinations(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
