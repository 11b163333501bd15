//! Who the writer is: promotion, handing over, stepping down (F23, F31 to F33, FAIL-03 to FAIL-10).
//!
//! ```text
//! promote:  leave the parent ─► play what came (or no more) ─► keep the restart point
//!           ─► role and line stored (the commit point) ─► open the line ─► writers in, children told
//! sync:     hold writers ─► last set ─► (the other has it) ─► handed over, stored ─► promote there
//! resync:   fenced ─► nothing differs, or it is to be discarded ─► role stored ─► replica
//! ```
//!
//! A crash before the commit point leaves the old role, one after it the new one; asking again
//! finishes what was begun.

use std::time::Duration;

use rcp::proto::clock::{Mono, Wall};
use rcp::proto::frame::{Frame, stream_error};
use rcp::proto::ids::{Generation, NodeName, SetNumber, StateId, VolumeId};
use std::sync::Arc;
use volmcast::capture::Capture;
use volmcast::storage::Fenced;
use volmcast::volume::{CutPolicy, Ending, PlaybackPolicy, Role};

use super::history::{Writer, is_primary};
use super::{AskId, Effect, Level, Mover, Reply};
use crate::api::{ApiError, ApiErrorKind, Promoted, WriterAnswer, WriterChange};

/// How often a change that waits for the disk is looked at.
const LOOK: Duration = Duration::from_millis(10);
/// Longest time to bring a replica to rest.
const REST: Duration = Duration::from_secs(120);

/// What writers meet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Gate {
    /// They are let in.
    Open,
    /// They wait, for a bounded time. Why, in words.
    Hold(String),
    /// They are refused. Why, in words.
    Closed(String),
}

/// A change of role under way.
#[derive(Debug, Default)]
pub(super) enum Change {
    #[default]
    None,
    Promoting(Promoting),
    /// Writers wait; unless it is handed over, they are let in then.
    Holding {
        ask: AskId,
        until: Mono,
    },
    HandingOver(AskId),
    TakingBack(AskId),
    SteppingDown {
        ask: AskId,
        discards: bool,
    },
}

/// A node on its way to being the writer.
#[derive(Debug)]
pub(super) struct Promoting {
    asks: Vec<AskId>,
    id: [u8; 16],
    counter: u32,
    known: SetNumber,
    stage: Stage,
    deadline: Mono,
}

#[derive(Clone, Copy, Debug)]
enum Stage {
    Playing,
    Pinning(SetNumber),
    Making(StateId),
    Opening(StateId),
}

impl Change {
    pub(super) fn is_promotion(&self) -> bool {
        matches!(self, Self::Promoting(_))
    }

    fn is_none(&self) -> bool {
        matches!(self, Self::None)
    }

    pub(super) fn timeout(&self, now: Mono) -> Option<Mono> {
        match self {
            Self::Promoting(_) => Some(now.after(LOOK)),
            Self::Holding { until, .. } => Some(*until),
            _ => None,
        }
    }

    /// What goes on, in words.
    pub(super) fn told(&self) -> Option<String> {
        Some(match self {
            Self::None => return None,
            Self::Promoting(p) => match p.stage {
                Stage::Playing => "is being promoted: plays what it has received".to_owned(),
                Stage::Pinning(s) => format!("is being promoted: keeps the restart point {s}"),
                Stage::Making(_) | Stage::Opening(_) => {
                    "is being promoted: opens its line".to_owned()
                }
            },
            Self::Holding { .. } => "writes are held: it is being handed over".to_owned(),
            Self::HandingOver(_) | Self::TakingBack(_) => "is being handed over".to_owned(),
            Self::SteppingDown { .. } => "becomes a replica".to_owned(),
        })
    }
}

fn conflict(text: String) -> ApiError {
    ApiError::new(ApiErrorKind::Conflict, text)
}

impl Mover {
    /// Changes who the writer is; the answer comes when that is durable.
    pub(super) fn change_writer(
        &mut self,
        ask: AskId,
        change: WriterChange,
    ) -> Result<(), ApiError> {
        match change {
            WriterChange::Promote { volume, now, at } => self.promote(ask, &volume, now, at),
            WriterChange::Hold { volume, limit_ms } => {
                self.hold(ask, &volume, Duration::from_millis(limit_ms))
            }
            WriterChange::HandOver { volume, to, set } => self.hand_over(ask, &volume, &to, set),
            WriterChange::TakeBack { volume } => self.take_back(ask, &volume),
            WriterChange::Resync { volume, discard } => self.resync(ask, &volume, discard),
            WriterChange::Alone { volume } => {
                let reply = self.go_alone(&volume)?;
                self.effect(Effect::Reply { ask, reply });
                Ok(())
            }
        }
    }

    fn busy(&self, id: VolumeId, name: &str) -> Result<(), ApiError> {
        let told = self.volumes.get(&id).and_then(|h| h.change.told());
        told.map_or(Ok(()), |t| Err(conflict(format!("volume {name} {t}; try again after that"))))
    }

    /// Makes this node the writer; answered when writers are let in.
    fn promote(
        &mut self,
        ask: AskId,
        name: &str,
        now: bool,
        at: Option<u64>,
    ) -> Result<(), ApiError> {
        let id = self.volume_named(name)?;
        let (deadline, random) = (self.now.after(REST), self.random_id());
        let node = self.cfg.node.clone();
        let Some(h) = self.volumes.get_mut(&id) else { return Ok(()) };
        if let Change::Promoting(p) = &mut h.change {
            p.asks.push(ask);
            return Ok(());
        }
        self.busy(id, name)?;
        let Some(h) = self.volumes.get_mut(&id) else { return Ok(()) };
        if let Some(why) = h.volume.failure() {
            return Err(ApiError::new(ApiErrorKind::Unavailable, why));
        }
        let own = h.volume.history().last().map(|b| b.generation);
        let Some(own) = own else {
            return Err(conflict(format!(
                "volume {name} at {node} has never heard of a writer: there is nothing to go on from"
            )));
        };
        let rival = h.writer.rival.last().map_or(0, |b| b.generation.counter);
        let fence = h.writer.fenced.as_ref().map_or(0, |f| f.at.generation.counter);
        let counter = own.counter.max(rival).max(fence) + 1;
        let known = h.newest.max(h.volume.saved_position().0);
        let p = Promoting {
            asks: vec![ask],
            id: random,
            counter,
            known,
            stage: Stage::Playing,
            deadline,
        };
        match h.volume.config().role {
            Role::Relay => {
                return Err(conflict(format!(
                    "{node} only forwards volume {name}: it has no content to go on from; `rcpctl \
                     failover {name} --plan` shows who has"
                )));
            }
            Role::Primary { .. } => {
                self.promote_writer(ask, id, p, own);
                return Ok(());
            }
            Role::Replica { .. } => {}
        }
        if let Some(why) = h.volume.refusal() {
            return Err(conflict(format!(
                "volume {name} at {node} holds no whole state ({why}): it cannot take over"
            )));
        }
        let saved = h.volume.position().0;
        if let Some(at) = at.filter(|at| *at != saved.0) {
            return Err(conflict(format!(
                "volume {name} at {node} is at set {saved} and not at set {at}: nothing was changed"
            )));
        }
        h.change = Change::Promoting(p);
        let inbound = h.inbound.take().map(|i| (i.conn, i.stream));
        h.volume.end_playback(Some(if now { Ending::PlayNoMore } else { Ending::PlayAll }));
        if let Some((conn, stream)) = inbound {
            let text = format!("{node} is being promoted and takes no more sets");
            self.send(conn, Frame::StreamError { stream, code: stream_error::STOPPED, text });
        }
        let label = name.to_owned();
        self.note(Level::Warn, format!("volume {label}: this node is being promoted"));
        self.settle(id);
        self.pump_change(id);
        Ok(())
    }

    /// It is the writer already; one that was fenced, or split, goes on from what it has, on a line
    /// that is newer than the other's.
    fn promote_writer(&mut self, ask: AskId, id: VolumeId, mut p: Promoting, own: Generation) {
        let Some(h) = self.volumes.get_mut(&id) else { return };
        let set = h.volume.durable().visible;
        if !h.writer.is_fenced() && h.writer.split.is_none() {
            let (generation, set) = (own.to_string(), set.0);
            let done = Promoted { generation, set, newest_known_set: set, fresh: false };
            let reply = Reply::Writer(WriterAnswer::Promoted(done));
            self.effect(Effect::Reply { ask, reply });
            return;
        }
        let generation = Generation { counter: p.counter, id: p.id };
        p.stage = Stage::Opening(StateId { volume: id, generation, set });
        h.change = Change::Promoting(p);
        self.open_line(id, generation);
    }

    fn open_line(&mut self, id: VolumeId, generation: Generation) {
        let wall = self.wall;
        if let Some(h) = self.volumes.get_mut(&id) {
            h.volume.open_generation(generation, wall);
        }
        self.settle(id);
    }

    /// Goes on with a change of role as far as possible.
    pub(super) fn pump_change(&mut self, id: VolumeId) {
        let now = self.now;
        let Some(h) = self.volumes.get_mut(&id) else { return };
        match &mut h.change {
            Change::Holding { until, .. } if now >= *until => {
                h.change = Change::None;
                let label = h.label.clone();
                let text = format!("volume {label}: it was not handed over in time; writes go on");
                self.note(Level::Warn, text);
                self.effect(Effect::Gate { volume: id, gate: Gate::Open });
            }
            Change::Promoting(p) => {
                let generation = Generation { counter: p.counter, id: p.id };
                match p.stage {
                    Stage::Playing => {
                        if let Some(at) = h.volume.rest() {
                            p.stage = Stage::Pinning(at);
                            if let Err(e) = h.volume.keep_state(at) {
                                return self.promotion_failed(id, &e.to_string());
                            }
                            self.settle(id);
                        } else if now >= p.deadline {
                            let why =
                                format!("it did not come to rest within {} s", REST.as_secs());
                            self.promotion_failed(id, &why);
                        }
                    }
                    Stage::Pinning(set) if h.volume.is_kept_durably(set) => {
                        let opens = StateId { volume: id, generation, set };
                        p.stage = Stage::Making(opens);
                        h.writer.opens = Some(opens);
                        self.effect(Effect::MakeWritable { volume: id, opens });
                    }
                    Stage::Opening(opens)
                        if h.volume.durable().generation() == Some(opens.generation) =>
                    {
                        self.promoted(id, opens);
                    }
                    Stage::Pinning(_) | Stage::Making(_) | Stage::Opening(_) => {}
                }
            }
            _ => {}
        }
    }

    /// After [`Effect::MakeWritable`].
    pub fn made_writable(
        &mut self,
        now: Mono,
        wall: Wall,
        id: VolumeId,
        made: Result<(Arc<Capture>, CutPolicy), String>,
    ) {
        self.time(now, wall);
        let Some(h) = self.held(id) else { return };
        let Change::Promoting(p) = &mut h.change else { return };
        let Stage::Making(opens) = p.stage else { return };
        match made {
            Ok((capture, policy)) => {
                p.stage = Stage::Opening(opens);
                h.volume.take_over(capture, policy);
                self.open_line(id, opens.generation);
            }
            Err(why) => self.promotion_failed(id, &why),
        }
    }

    fn promoted(&mut self, id: VolumeId, opens: StateId) {
        let now = self.now;
        let Some(h) = self.volumes.get_mut(&id) else { return };
        let Change::Promoting(p) = std::mem::take(&mut h.change) else { return };
        let was = std::mem::replace(&mut h.writer, Writer::opened(opens));
        h.newest = h.volume.durable().visible;
        let (label, group) = (h.label.clone(), h.group.clone());
        let standing = h.writer.standing();
        if was.is_fenced() {
            self.effect(Effect::StoreStanding { volume: id, standing });
        }
        self.note(
            Level::Warn,
            format!(
                "volume {label}: this node is the writer since set {} (generation {}); sets up to {} \
                 were known of",
                opens.set, opens.generation, p.known
            ),
        );
        if let Some(g) = self.groups.get_mut(&group) {
            let number = g.rule.number();
            g.rule.released(number, now);
            g.feeder.take_if(|f| f.conn.is_none());
        }
        // The path of all below begins here from now on.
        self.close_links(&group, "a new writer: the path begins here");
        self.effect(Effect::Exports { volume: id });
        self.effect(Effect::Gate { volume: id, gate: Gate::Open });
        let done = Promoted {
            generation: opens.generation.to_string(),
            set: opens.set.0,
            newest_known_set: p.known.0.max(opens.set.0),
            fresh: true,
        };
        for ask in p.asks {
            self.effect(Effect::Reply {
                ask,
                reply: Reply::Writer(WriterAnswer::Promoted(done.clone())),
            });
        }
    }

    /// The node stays what it was.
    fn promotion_failed(&mut self, id: VolumeId, why: &str) {
        let Some(h) = self.volumes.get_mut(&id) else { return };
        let Change::Promoting(p) = std::mem::take(&mut h.change) else { return };
        h.volume.end_playback(None);
        h.writer.opens = None;
        let (label, group) = (h.label.clone(), h.group.clone());
        let text = format!("volume {label} was not promoted: {why}");
        self.note(Level::Error, text.clone());
        for ask in p.asks {
            self.effect(Effect::Reply { ask, reply: Reply::Refused(conflict(text.clone())) });
        }
        // The parent offers it again when it connects.
        let feeder = self.groups.get(&group).and_then(|g| g.feeder.as_ref());
        if let Some(conn) = feeder.and_then(|f| f.conn) {
            self.close(conn, rcp::proto::frame::GoodbyeCode::Internal, &text);
        }
        self.settle(id);
    }

    /// Holds writers back and makes a last set; answered with it.
    fn hold(&mut self, ask: AskId, name: &str, limit: Duration) -> Result<(), ApiError> {
        let id = self.primary_of(name)?;
        self.busy(id, name)?;
        let until = self.now.after(limit);
        let Some(h) = self.volumes.get_mut(&id) else { return Ok(()) };
        if let Some(why) = h.volume.failure() {
            return Err(ApiError::new(ApiErrorKind::Unavailable, why));
        }
        if let Some(why) = h.writer.closed(name).or(h.writer.split.clone()) {
            return Err(conflict(format!("volume {name}: {why}")));
        }
        h.change = Change::Holding { ask, until };
        let text = format!("volume {name} is being handed over");
        self.effect(Effect::Gate { volume: id, gate: Gate::Hold(text) });
        self.effect(Effect::AwaitQuiet { volume: id });
        Ok(())
    }

    /// After [`Effect::AwaitQuiet`]: no write is under way.
    pub fn writers_quiet(&mut self, now: Mono, wall: Wall, id: VolumeId) {
        self.time(now, wall);
        let Some(h) = self.held(id) else { return };
        if let Change::Holding { ask, .. } = h.change {
            h.cut_asks.push(ask);
            h.volume.demand_cut(false);
            self.settle(id);
        }
    }

    /// After a hold: writes no more, durably.
    fn hand_over(&mut self, ask: AskId, name: &str, to: &str, set: u64) -> Result<(), ApiError> {
        let id = self.primary_of(name)?;
        let to = NodeName::new(to)
            .map_err(|e| ApiError::new(ApiErrorKind::BadRequest, e.to_string()))?;
        let Some(h) = self.volumes.get_mut(&id) else { return Ok(()) };
        if h.writer.fenced.as_ref().is_some_and(|f| f.by == to && f.at.set.0 == set) {
            self.effect(Effect::Reply { ask, reply: Reply::Done });
            return Ok(());
        }
        if !matches!(h.change, Change::Holding { .. }) {
            return Err(conflict(format!(
                "volume {name}: writes are not held; nothing was changed"
            )));
        }
        let at = h.volume.durable().visible;
        if !h.volume.is_clean() || at.0 != set {
            return Err(conflict(format!(
                "volume {name} is at set {at}{}, not at set {set}: nothing was changed",
                if h.volume.is_clean() { "" } else { " and has changes since" }
            )));
        }
        let Some(line) = h.volume.state_id(at) else { return Ok(()) };
        h.writer.fenced = Some(Fenced { at: line, by: to, handed: true });
        h.change = Change::HandingOver(ask);
        let (text, standing) = (h.writer.closed(name).unwrap_or_default(), h.writer.standing());
        self.effect(Effect::Gate { volume: id, gate: Gate::Closed(text) });
        self.effect(Effect::StoreStanding { volume: id, standing });
        Ok(())
    }

    /// Undoes a hold, or handing over.
    fn take_back(&mut self, ask: AskId, name: &str) -> Result<(), ApiError> {
        let id = self.primary_of(name)?;
        let Some(h) = self.volumes.get_mut(&id) else { return Ok(()) };
        if matches!(h.change, Change::Holding { .. }) {
            h.change = Change::None;
            self.effect(Effect::Gate { volume: id, gate: Gate::Open });
            self.effect(Effect::Reply { ask, reply: Reply::Done });
            return Ok(());
        }
        if !h.change.is_none() {
            return self.busy(id, name);
        }
        match &h.writer.fenced {
            Some(f) if f.handed && h.writer.rival.is_empty() => {
                h.writer.fenced = None;
                h.change = Change::TakingBack(ask);
                let standing = h.writer.standing();
                self.effect(Effect::StoreStanding { volume: id, standing });
                Ok(())
            }
            Some(_) => Err(conflict(format!(
                "volume {name}: another node has taken over; it cannot be taken back"
            ))),
            None => Err(conflict(format!("volume {name} is neither held nor handed over"))),
        }
    }

    /// After [`Effect::StoreStanding`].
    pub fn standing_stored(
        &mut self,
        now: Mono,
        wall: Wall,
        id: VolumeId,
        stored: Result<(), String>,
    ) {
        self.time(now, wall);
        let label = self.label_of(id);
        if let Err(why) = &stored {
            self.note(Level::Error, format!("volume {label}: its role could not be stored: {why}"));
        }
        let Some(h) = self.held(id) else { return };
        let reply = |stored: Result<(), String>| match stored {
            Ok(()) => Reply::Done,
            Err(why) => Reply::Refused(ApiError::new(ApiErrorKind::Internal, why)),
        };
        match std::mem::take(&mut h.change) {
            Change::HandingOver(ask) => {
                if stored.is_ok() {
                    let text = h.writer.closed(label.as_str()).unwrap_or_default();
                    self.release_children(id, &text);
                }
                // If not: whether the disk has it is not known, and nobody writes before it is.
                self.effect(Effect::Exports { volume: id });
                self.effect(Effect::Reply { ask, reply: reply(stored) });
            }
            Change::TakingBack(ask) => {
                if stored.is_ok() {
                    self.effect(Effect::Gate { volume: id, gate: Gate::Open });
                    self.offer_to_children(id);
                }
                self.effect(Effect::Exports { volume: id });
                self.effect(Effect::Reply { ask, reply: reply(stored) });
            }
            other => h.change = other,
        }
    }

    /// A writer whose place was taken becomes a replica of the new one.
    fn resync(&mut self, ask: AskId, name: &str, discard: bool) -> Result<(), ApiError> {
        let id = self.volume_named(name)?;
        self.busy(id, name)?;
        let Some(h) = self.volumes.get_mut(&id) else { return Ok(()) };
        if !is_primary(h) {
            // It was done before.
            self.effect(Effect::Reply { ask, reply: Reply::Done });
            return Ok(());
        }
        let Some(f) = &h.writer.fenced else {
            return Err(conflict(format!(
                "{} is the writer of volume {name} and knows of no other: to move the writer, \
                 `rcpctl failover {name} --sync --to NODE`",
                self.cfg.node
            )));
        };
        let (fork, at) = (f.at.set, h.volume.durable().visible);
        let clean = h.volume.is_clean() && at <= fork;
        if !clean && !discard {
            let (blocks, changed) = h.volume.given_up(fork);
            let by = f.by.clone();
            let mut what = Vec::new();
            if at > fork {
                let blocks = blocks.map_or_else(String::new, |n| format!(" with {n} blocks"));
                what.push(format!("sets {} to {at}{blocks}", fork.next()));
            }
            if changed > 0 {
                what.push(format!("up to {changed} blocks changed since its last set"));
            }
            return Err(conflict(format!(
                "volume {name}: this node holds what {by} does not have: {}; `--discard` gives it \
                 up, and the volume is filled anew from {by}. Nothing was changed. To save it first, \
                 read the export: it is read-only now",
                what.join(", and "),
            )));
        }
        h.change = Change::SteppingDown { ask, discards: !clean };
        self.effect(Effect::MakeReadOnly { volume: id, discards: !clean });
        Ok(())
    }

    /// After [`Effect::MakeReadOnly`].
    pub fn made_read_only(
        &mut self,
        now: Mono,
        wall: Wall,
        id: VolumeId,
        made: Result<PlaybackPolicy, String>,
    ) {
        self.time(now, wall);
        let Some(h) = self.held(id) else { return };
        let Change::SteppingDown { ask, discards } = h.change else { return };
        h.change = Change::None;
        let policy = match made {
            Ok(p) => p,
            Err(why) => {
                let e = ApiError::new(ApiErrorKind::Internal, why);
                self.effect(Effect::Reply { ask, reply: Reply::Refused(e) });
                return;
            }
        };
        h.writer = Writer::default();
        h.volume.step_down(policy);
        let label = h.label.clone();
        if discards {
            h.volume.discard("its parent gives its content up");
        }
        let what = if discards { "; what the new writer does not have is given up" } else { "" };
        self.note(Level::Warn, format!("volume {label}: this node is a replica now{what}"));
        self.effect(Effect::Exports { volume: id });
        self.effect(Effect::Reply { ask, reply: Reply::Done });
        self.settle(id);
        self.attach_pending(id);
    }

    /// The volume has stopped: nobody waits any more.
    pub(super) fn change_failed(&mut self, id: VolumeId, why: &str) {
        let Some(h) = self.volumes.get_mut(&id) else { return };
        let asks = match &h.change {
            Change::Promoting(_) => return self.promotion_failed(id, why),
            Change::Holding { ask, .. } => vec![*ask],
            _ => return,
        };
        h.change = Change::None;
        for ask in asks {
            let e = ApiError::new(ApiErrorKind::Unavailable, why);
            self.effect(Effect::Reply { ask, reply: Reply::Refused(e) });
        }
    }
}
