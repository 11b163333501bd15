//! Who the writer is: promotion, handing over, stepping down (F23, F31 to F33, FAIL-03 to FAIL-10).
//!
//! ```text
//! promote:  leave the parent ─► play what came (or no more) ─► keep the restart point
//!           ─► role and line stored (the commit point) ─► open the line ─► writers in, children told
//! sync:     hold writers ─► last set ─► (the other has it) ─► handed over, stored ─► promote there
//! resync:   fenced ─► nothing differs, or it is to be discarded ─► role stored ─► replica
//!           fenced ─► last set ─► role stored ─► replica, taken back (`rewinding`)
//! ```
//!
//! A crash before the commit point leaves the old role, one after it the new one; asking again
//! finishes what was begun.

use std::time::Duration;

use rcp::proto::clock::{Mono, Wall};
use rcp::proto::frame::{Branch, Frame, StreamId, stream_error};
use rcp::proto::ids::{Generation, NodeName, SetNumber, StateId, VolumeId};
use std::sync::Arc;
use volmcast::capture::Capture;
use volmcast::history::{MAX_JUMP, MAX_LINES};
use volmcast::storage::Fenced;
use volmcast::volume::{CutPolicy, Ending, PlaybackPolicy, Role};

use super::damage;
use super::endings;
use super::history::{self, Writer, is_primary};
use super::rewinding::Rewinding;
use super::{AskId, ConnId, Effect, Held, Level, Mover, Reply};
use crate::api::{ApiError, ApiErrorKind, Promoted, WriterAnswer, WriterChange};

/// How often a change that waits for the disk is looked at.
const LOOK: Duration = Duration::from_millis(10);
/// Longest time to bring a replica to rest.
pub(super) const REST: Duration = Duration::from_secs(120);
/// How often the old role is stored again, if that failed.
const UNMAKE: Duration = Duration::from_secs(1);

/// What writers meet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Gate {
    /// They are let in.
    Open,
    /// They wait, for a bounded time. Why, in words.
    Hold(String),
    /// They are refused. Why, in words.
    Closed(String),
    /// They are refused, and have lost nothing: another node goes on from the state that they left.
    /// Why, in words.
    Handed(String),
}

/// A change of role under way.
#[derive(Debug, Default)]
pub(super) enum Change {
    #[default]
    None,
    Promoting(Promoting),
    /// Writers wait; unless it is handed over, they are let in then.
    Holding(Holding),
    HandingOver(AskId),
    TakingBack {
        ask: AskId,
        /// What was handed over.
        was: Fenced,
    },
    SteppingDown(SteppingDown),
    Rewinding(Rewinding),
}

/// Writers wait.
#[derive(Debug)]
pub(super) struct Holding {
    /// Who asked, until the last set is demanded.
    pub(super) ask: Option<AskId>,
    pub(super) until: Mono,
    /// Which [`Effect::AwaitQuiet`] is its own.
    pub(super) number: u64,
}

/// A writer becomes a replica.
#[derive(Debug)]
pub(super) struct SteppingDown {
    pub(super) ask: AskId,
    /// What the new writer lacks may be given up.
    pub(super) discard: bool,
    /// Which [`Effect::AwaitQuiet`] is its own.
    pub(super) number: u64,
    /// No write is under way any more, and the role is being stored: everything is given up, or
    /// nothing.
    pub(super) discards: Option<bool>,
    /// What it holds is taken back: the history of the new writer, and where it parted.
    pub(super) rewinds: Option<(Vec<Branch>, SetNumber)>,
    /// A last set is being made, until then at most.
    pub(super) cutting: Option<Mono>,
    pub(super) demanded: bool,
}

/// A node on its way to being the writer.
#[derive(Debug)]
pub(super) struct Promoting {
    asks: Vec<AskId>,
    /// What was asked for.
    now: bool,
    at: Option<u64>,
    lose: bool,
    id: [u8; 16],
    counter: u32,
    known: SetNumber,
    stage: Stage,
    deadline: Mono,
    /// The stream it was fed by.
    parent: Option<(ConnId, StreamId)>,
}

#[derive(Clone, Debug)]
enum Stage {
    Playing,
    Pinning(SetNumber),
    Making(StateId),
    /// It did not come about, and the disk may say that it did: the old role is stored again.
    Unmaking {
        why: String,
        again_at: Option<Mono>,
    },
    Opening(Generation),
}

/// Why there is no writable volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotMade {
    /// Nothing was changed.
    Unchanged(String),
    /// Whether the new role is on the disk is not known.
    Unknown(String),
}

impl Change {
    pub(super) fn is_promotion(&self) -> bool {
        matches!(self, Self::Promoting(_))
    }

    pub(super) fn is_none(&self) -> bool {
        matches!(self, Self::None)
    }

    pub(super) fn timeout(&self, now: Mono) -> Option<Mono> {
        match self {
            Self::Promoting(_) => Some(now.after(LOOK)),
            Self::Rewinding(_) => Some(now.after(LOOK)),
            Self::SteppingDown(s) if s.cutting.is_some() => Some(now.after(LOOK)),
            Self::Holding(hold) => Some(hold.until),
            _ => None,
        }
    }

    /// What goes on, in words.
    pub(super) fn told(&self) -> Option<String> {
        Some(match self {
            Self::None => return None,
            Self::Promoting(p) => match &p.stage {
                Stage::Playing => "is being promoted: plays what it has received".to_owned(),
                Stage::Pinning(s) => format!("is being promoted: keeps the restart point {s}"),
                Stage::Making(_) | Stage::Opening(_) => {
                    "is being promoted: opens its line".to_owned()
                }
                Stage::Unmaking { why, .. } => format!(
                    "was not promoted ({why}), and the disk has yet to say so: a restart now may \
                     make it the writer"
                ),
            },
            Self::Holding(_) => "writes are held: it is being handed over".to_owned(),
            Self::HandingOver(_) | Self::TakingBack { .. } => "is being handed over".to_owned(),
            Self::SteppingDown(s) if s.cutting.is_some() => {
                "becomes a replica: its last set is being made".to_owned()
            }
            Self::SteppingDown(_) => "becomes a replica".to_owned(),
            Self::Rewinding(r) => r.told(),
        })
    }
}

pub(super) fn conflict(text: String) -> ApiError {
    ApiError::new(ApiErrorKind::Conflict, text)
}

fn only_forwards(node: &NodeName, name: &str) -> ApiError {
    conflict(format!(
        "{node} only forwards volume {name}: it has no content to go on from; `rcpctl failover {name} \
         --plan` shows who has"
    ))
}

/// A primary has no newer line to open than the one it writes. `above`: the newest that is known.
pub(super) fn is_writer_already(h: &Held, above: u32) -> bool {
    let own = h.volume.history().last().map_or(0, |b| b.generation.counter);
    !h.writer.is_fenced() && h.writer.split.is_none() && above <= own
}

/// The counter of a new line: above all that is known here, and above what the operator knows.
fn next_counter(h: &Held, own: Generation, above: u32) -> Result<u32, String> {
    let rival = h.writer.rival.last().map_or(0, |b| b.generation.counter);
    let fence = h.writer.fenced.as_ref().map_or(0, |f| f.at.generation.counter);
    let newest = own.counter.max(rival).max(fence);
    let counter = newest.max(above).checked_add(1).filter(|c| c - newest <= MAX_JUMP);
    counter.filter(|_| h.volume.history().len() < MAX_LINES).ok_or_else(|| {
        format!(
            "no line can follow line {newest} (a history has at most {MAX_LINES} lines, with counters \
             that rise by at most {MAX_JUMP}): make a new volume and copy the content into it"
        )
    })
}

/// What is asked of a promotion.
#[derive(Clone, Copy, Debug)]
struct Wanted {
    now: bool,
    at: Option<u64>,
    above: u32,
    lose: bool,
}

impl Mover {
    /// Changes who the writer is; the answer comes when that is durable.
    pub(super) fn change_writer(
        &mut self,
        ask: AskId,
        change: WriterChange,
    ) -> Result<(), ApiError> {
        match change {
            WriterChange::Promote { volume, now, at, above, lose_damaged_blocks: lose } => {
                self.promote(ask, &volume, Wanted { now, at, above, lose })
            }
            WriterChange::Hold { volume, limit_ms } => {
                self.hold(ask, &volume, Duration::from_millis(limit_ms))
            }
            WriterChange::HandOver { volume, to, set, whole } => {
                self.hand_over(ask, &volume, &to, (set, whole))
            }
            WriterChange::TakeBack { volume } => self.take_back(ask, &volume),
            WriterChange::Resync { volume, discard } => self.resync(ask, &volume, discard),
            WriterChange::DropBranch { volume, branch } => self.drop_branch(ask, &volume, &branch),
            WriterChange::Alone { volume } => {
                let reply = self.go_alone(&volume)?;
                self.effect(Effect::Reply { ask, reply });
                Ok(())
            }
        }
    }

    pub(super) fn busy(&self, id: VolumeId, name: &str) -> Result<(), ApiError> {
        let told = self.volumes.get(&id).and_then(|h| h.change.told());
        told.map_or(Ok(()), |t| Err(conflict(format!("volume {name} {t}; try again after that"))))
    }

    /// Makes this node the writer; answered when writers are let in.
    fn promote(&mut self, ask: AskId, name: &str, wanted: Wanted) -> Result<(), ApiError> {
        let Wanted { now, at, above, lose } = wanted;
        let id = self.volume_named(name)?;
        let (deadline, random) = (self.now.after(REST), self.random_id());
        let node = self.cfg.node.clone();
        let Some(h) = self.volumes.get_mut(&id) else { return Ok(()) };
        if let Change::Promoting(p) = &mut h.change
            && (p.now, p.at, p.lose) == (now, at, lose)
            && p.counter > above
        {
            p.asks.push(ask);
            return Ok(());
        }
        if now && !lose && at.is_none() && self.play_no_more(ask, id, above) {
            return Ok(());
        }
        self.busy(id, name)?;
        self.role_is_known(id, name)?;
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
        let counter =
            next_counter(h, own, above).map_err(|why| conflict(format!("volume {name}: {why}")))?;
        let known = h.newest.max(h.volume.saved_position().0);
        let p = Promoting {
            asks: vec![ask],
            now,
            at,
            lose,
            parent: None,
            id: random,
            counter,
            known,
            stage: Stage::Playing,
            deadline,
        };
        match h.volume.config().role {
            Role::Relay => return Err(only_forwards(&node, name)),
            Role::Primary { .. } => return self.promote_writer(ask, id, p, own, above),
            Role::Replica { .. } => {}
        }
        damage::fits(h, &node, lose)?;
        if let Some(why) = h.volume.unwhole() {
            h.volume.take_as_it_is(false);
            return Err(conflict(format!(
                "volume {name} at {node} holds no whole state ({why}): it cannot take over"
            )));
        }
        if h.volume.is_mirroring() {
            h.volume.take_as_it_is(false);
            return Err(conflict(format!(
                "volume {name} at {node} mirrors, and no version of it was made: `rcpctl replicate \
                 version {name} --node {node}` first. Nothing was changed"
            )));
        }
        let ending = endings::chosen(h, (name, &node), now, at)?;
        let inbound = h.inbound.take().map(|i| (i.conn, i.stream));
        h.change = Change::Promoting(Promoting { parent: inbound, ..p });
        let standing = damage::remembered(h);
        h.volume.end_playback(Some(ending));
        if let Some((conn, stream)) = inbound {
            let text = format!("{node} is being promoted and takes no more sets");
            self.send(conn, Frame::StreamError { stream, code: stream_error::STOPPED, text });
        }
        if let Some(standing) = standing {
            self.effect(Effect::StoreStanding { volume: id, standing });
        }
        self.note(Level::Warn, format!("volume {name}: this node is being promoted"));
        self.settle(id);
        self.pump_change(id);
        Ok(())
    }

    /// A promotion is under way, and what it plays does not end, or takes too long: it plays no more.
    fn play_no_more(&mut self, ask: AskId, id: VolumeId, above: u32) -> bool {
        let Some(h) = self.volumes.get_mut(&id) else { return false };
        let Change::Promoting(p) = &mut h.change else { return false };
        if !matches!(p.stage, Stage::Playing) || p.at.is_some() || p.counter <= above {
            return false;
        }
        p.now = true;
        p.asks.push(ask);
        h.volume.end_playback(Some(Ending::PlayNoMore));
        self.settle(id);
        self.pump_change(id);
        true
    }

    /// It is the writer already; one that was fenced, or split, goes on from what it has, on a line
    /// that is newer than the other's.
    fn promote_writer(
        &mut self,
        ask: AskId,
        id: VolumeId,
        mut p: Promoting,
        own: Generation,
        above: u32,
    ) -> Result<(), ApiError> {
        let Some(h) = self.volumes.get_mut(&id) else { return Ok(()) };
        let set = h.volume.durable().visible;
        // An operator may know of a newer line that nobody has told this node of.
        if is_writer_already(h, above) {
            let (generation, set) = (own.to_string(), set.0);
            let damaged = if p.lose { self.accept_damage(id) } else { None };
            let done = Promoted { generation, set, newest_known_set: set, fresh: false, damaged };
            let reply = Reply::Writer(WriterAnswer::Promoted(done));
            self.effect(Effect::Reply { ask, reply });
            return Ok(());
        }
        if p.at.is_some() {
            // Its sets are its own, whatever their numbers.
            return Err(conflict(format!(
                "volume {} at {} is a writer's, and not a replica of who hands it over: nothing was \
                 changed; `rcpctl resync` makes it a replica",
                h.label, self.cfg.node
            )));
        }
        let generation = Generation { counter: p.counter, id: p.id };
        p.stage = Stage::Opening(generation);
        h.change = Change::Promoting(p);
        // A set under way is finished on the old line first.
        self.open_line(id, generation);
        Ok(())
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
        match self.volumes.get(&id).map(|h| &h.change) {
            Some(Change::Holding(_)) => self.pump_hold(id),
            Some(Change::Promoting(_)) => self.pump_promotion(id),
            Some(Change::SteppingDown(s)) if s.cutting.is_some() => self.step_down(id),
            Some(Change::Rewinding(_)) => self.pump_rewind(id),
            _ => {}
        }
    }

    fn pump_promotion(&mut self, id: VolumeId) {
        let now = self.now;
        let Some(h) = self.volumes.get_mut(&id) else { return };
        let Change::Promoting(p) = &mut h.change else { return };
        let generation = Generation { counter: p.counter, id: p.id };
        let late = now >= p.deadline;
        match &mut p.stage {
            Stage::Playing => {
                let lose = p.lose;
                if let Err(e) = damage::fits(h, &self.cfg.node, lose) {
                    return self.promotion_failed(id, &e.text);
                }
                let Change::Promoting(p) = &mut h.change else { return };
                let rest = h.volume.rest();
                let other = rest.filter(|r| p.at.is_some_and(|at| at != r.0));
                if let Some(why) = h.volume.unwhole() {
                    self.promotion_failed(id, &format!("it holds no whole state any more ({why})"));
                } else if let Some(r) = other {
                    let at = p.at.unwrap_or(0);
                    self.promotion_failed(id, &format!("it came to rest at set {r}, not at {at}"));
                } else if let Some(at) = rest {
                    p.stage = Stage::Pinning(at);
                    if let Err(e) = h.volume.keep_state(at) {
                        return self.promotion_failed(id, &e.to_string());
                    }
                    self.settle(id);
                } else if late {
                    let why = format!("it did not come to rest within {} s", REST.as_secs());
                    self.promotion_failed(id, &why);
                }
            }
            Stage::Pinning(set) if h.volume.is_kept_durably(*set) => {
                let opens = StateId { volume: id, generation, set: *set };
                p.stage = Stage::Making(opens);
                h.writer.opens = Some(opens);
                self.effect(Effect::MakeWritable { volume: id, opens });
            }
            Stage::Opening(line) if h.volume.durable().generation() == Some(*line) => {
                self.promoted(id);
            }
            Stage::Opening(_) if late && h.volume.forget_opening() => {
                let why = format!("a set was not finished within {} s", REST.as_secs());
                self.promotion_failed(id, &why);
            }
            Stage::Unmaking { again_at, .. } if again_at.is_some_and(|t| now >= t) => {
                *again_at = None;
                self.effect(Effect::MakeReadOnly { volume: id, discards: false });
            }
            _ => {}
        }
    }

    /// Whether the writable side that was asked for with [`Effect::MakeWritable`] is still wanted.
    /// Nothing may be stored that makes this node the writer if it is not.
    #[must_use]
    pub fn makes_writable(&self, id: VolumeId, opens: StateId) -> bool {
        let Some(h) = self.volumes.get(&id).filter(|h| h.volume.failure().is_none()) else {
            return false;
        };
        let Change::Promoting(p) = &h.change else { return false };
        matches!(&p.stage, Stage::Making(o) if *o == opens)
    }

    /// After [`Effect::MakeWritable`].
    pub fn made_writable(
        &mut self,
        now: Mono,
        wall: Wall,
        id: VolumeId,
        made: Result<(Arc<Capture>, CutPolicy), NotMade>,
    ) {
        self.time(now, wall);
        let Some(h) = self.held(id) else { return };
        let Change::Promoting(p) = &mut h.change else { return };
        let Stage::Making(opens) = p.stage else { return };
        match made {
            Ok((capture, policy)) => {
                p.stage = Stage::Opening(opens.generation);
                h.volume.take_over(capture, policy);
                self.open_line(id, opens.generation);
            }
            Err(NotMade::Unchanged(why)) => self.promotion_failed(id, &why),
            Err(NotMade::Unknown(why)) => {
                p.stage = Stage::Unmaking { why, again_at: None };
                self.effect(Effect::MakeReadOnly { volume: id, discards: false });
            }
        }
    }

    /// The old role is on the disk again, or could not be stored.
    fn unmade(&mut self, id: VolumeId, stored: Result<(), String>) {
        let again = self.now.after(UNMAKE);
        let Some(h) = self.volumes.get_mut(&id) else { return };
        let Change::Promoting(p) = &mut h.change else { return };
        let Stage::Unmaking { why, again_at } = &mut p.stage else { return };
        let Err(e) = stored else {
            let why = why.clone();
            return self.promotion_failed(id, &why);
        };
        *again_at = Some(again);
        let asks = std::mem::take(&mut p.asks);
        let text = format!(
            "volume {}: it is not known whether this node was promoted: {why}, and its old role \
             could not be stored either ({e}); until status says more, a restart may make it the \
             writer: promote no other node without looking here again",
            h.label
        );
        if !asks.is_empty() {
            self.note(Level::Error, text.clone());
        }
        for ask in asks {
            let e = ApiError::new(ApiErrorKind::Internal, text.clone());
            self.effect(Effect::Reply { ask, reply: Reply::Refused(e) });
        }
    }

    fn promoted(&mut self, id: VolumeId) {
        let now = self.now;
        let Some(h) = self.volumes.get_mut(&id) else { return };
        let lines = h.volume.durable().history.clone();
        let Some(line) = lines.last() else { return };
        let Change::Promoting(p) = std::mem::take(&mut h.change) else { return };
        let opens = StateId { volume: id, generation: line.generation, set: line.forked_from };
        let damaged = h.writer.damaged.take();
        let was = std::mem::replace(&mut h.writer, Writer::opened(opens));
        h.writer.damaged.clone_from(&damaged);
        h.begin_anew(h.volume.durable().visible);
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
        if let Some(what) = &damaged {
            let text = format!(
                "volume {label}: this node took over with damage, on an operator's word: {what}; what \
                 was there is lost, and what the disk holds is the volume"
            );
            self.note(Level::Error, text);
        }
        if let Some((conn, stream)) = p.parent {
            let text = format!(
                "{} took over as the writer of volume {label} at set {}",
                self.cfg.node, opens.set
            );
            self.send(conn, Frame::Fence { stream, history: lines, text });
        }
        if let Some(g) = self.groups.get_mut(&group) {
            let number = g.rule.number();
            g.rule.released(number, now);
            g.feeder.take_if(|f| f.conn.is_none());
        }
        // Who made himself known meanwhile.
        self.meets(id, &was.rival);
        let offer = self.groups.get_mut(&group).and_then(|g| g.pending_offers.remove(&id));
        if let Some((conn, offer)) = offer.filter(|(c, _)| self.conns.contains_key(c)) {
            self.offered_to_writer(conn, offer);
        }
        // The path of all below begins here from now on.
        self.close_links(&group, "a new writer: the path begins here");
        self.effect(Effect::Exports { volume: id });
        self.open_gate(id);
        let fenced = self.volumes.get(&id).and_then(history::closed);
        let reply = match fenced {
            Some(why) => Reply::Refused(conflict(format!(
                "volume {label}: this node opened its line, but it is not the newest: {why}"
            ))),
            None => Reply::Writer(WriterAnswer::Promoted(Promoted {
                generation: opens.generation.to_string(),
                set: opens.set.0,
                newest_known_set: p.known.0.max(opens.set.0),
                fresh: true,
                damaged,
            })),
        };
        for ask in p.asks {
            self.effect(Effect::Reply { ask, reply: reply.clone() });
        }
    }

    /// The node stays what it was.
    fn promotion_failed(&mut self, id: VolumeId, why: &str) {
        let Some(h) = self.volumes.get_mut(&id) else { return };
        let Change::Promoting(p) = std::mem::take(&mut h.change) else { return };
        h.volume.end_playback(None);
        let mut standing = None;
        if !is_primary(h) {
            h.volume.take_as_it_is(false);
            h.writer.opens = None;
            standing = h.writer.damaged.take().map(|_| h.writer.standing());
        }
        let (label, group) = (h.label.clone(), h.group.clone());
        if let Some(standing) = standing {
            self.effect(Effect::StoreStanding { volume: id, standing });
        }
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

    /// After [`Effect::MakeReadOnly`].
    pub fn made_read_only(
        &mut self,
        now: Mono,
        wall: Wall,
        id: VolumeId,
        made: Result<PlaybackPolicy, String>,
    ) {
        self.time(now, wall);
        match self.held(id).map(|h| &h.change) {
            Some(Change::Promoting(_)) => self.unmade(id, made.map(drop)),
            Some(Change::SteppingDown(_)) => self.stepped_down(id, made),
            _ => {}
        }
    }

    /// The volume has stopped: nobody waits any more.
    pub(super) fn change_failed(&mut self, id: VolumeId, why: &str) {
        let Some(h) = self.volumes.get_mut(&id) else { return };
        let ask = match &mut h.change {
            // The answer of the disk comes first.
            Change::Promoting(Promoting { stage: Stage::Unmaking { .. }, .. }) => return,
            Change::Promoting(Promoting { stage: Stage::Opening(_), .. }) => {
                let Change::Promoting(p) = std::mem::take(&mut h.change) else { return };
                let text = format!(
                    "volume {} has stopped while its line was being opened: {why}; when rcpd is \
                     restarted here, this node is the writer",
                    h.label
                );
                for ask in p.asks {
                    let e = ApiError::new(ApiErrorKind::Internal, text.clone());
                    self.effect(Effect::Reply { ask, reply: Reply::Refused(e) });
                }
                return;
            }
            Change::Promoting(_) => return self.promotion_failed(id, why),
            Change::Holding(hold) => hold.ask.take(),
            Change::SteppingDown(s) if s.discards.is_none() => Some(s.ask),
            Change::Rewinding(r) => {
                let asks = r.asks();
                h.change = Change::None;
                for ask in asks {
                    let e = ApiError::new(ApiErrorKind::Unavailable, why);
                    self.effect(Effect::Reply { ask, reply: Reply::Refused(e) });
                }
                return;
            }
            _ => return,
        };
        h.change = Change::None;
        if let Some(ask) = ask {
            let e = ApiError::new(ApiErrorKind::Unavailable, why);
            self.effect(Effect::Reply { ask, reply: Reply::Refused(e) });
        }
    }
}
