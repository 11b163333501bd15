//! Handing the writer's role over in order, taking it back, and giving it up (F31, F33, FAIL-04,
//! FAIL-10).

use std::time::Duration;

use rcp::proto::clock::{Mono, Wall};
use rcp::proto::frame::Branch;
use rcp::proto::ids::{NodeName, SetNumber, StateId, VolumeId};
use volmcast::history::{Relation, relate};
use volmcast::storage::{Fenced, Standing};
use volmcast::volume::PlaybackPolicy;

use super::failover::{Change, Gate, Holding, REST, SteppingDown, conflict};
use super::history::{self, is_primary};
use super::{AskId, Effect, Held, Level, Mover, Reply};
use crate::api::{ApiError, ApiErrorKind};

impl Mover {
    /// Says when no write is under way any more; the number tells one question from another.
    fn await_quiet(&mut self, id: VolumeId) -> u64 {
        self.last_quiet += 1;
        let number = self.last_quiet;
        self.effect(Effect::AwaitQuiet { volume: id, number });
        number
    }

    /// Holds writers back and makes a last set; answered with it. A hold that was answered is gone on
    /// with: whoever asked for it may have been cut short.
    pub(super) fn hold(&mut self, ask: AskId, name: &str, limit: Duration) -> Result<(), ApiError> {
        let id = self.primary_of(name)?;
        let until = self.now.after(limit);
        if let Some(h) = self.volumes.get_mut(&id)
            && let Change::Holding(hold) = &mut h.change
            && hold.ask.is_none()
        {
            hold.until = until;
            h.demand_cut(ask, false);
            self.settle(id);
            return Ok(());
        }
        self.busy(id, name)?;
        let Some(h) = self.volumes.get_mut(&id) else { return Ok(()) };
        if let Some(why) = h.volume.failure() {
            return Err(ApiError::new(ApiErrorKind::Unavailable, why));
        }
        if let Some(why) = history::closed(h).or(h.writer.split.clone()) {
            return Err(conflict(format!("volume {name}: {why}")));
        }
        let text = format!("volume {name} is being handed over");
        self.effect(Effect::Gate { volume: id, gate: Gate::Hold(text) });
        let number = self.await_quiet(id);
        if let Some(h) = self.volumes.get_mut(&id) {
            h.change = Change::Holding(Holding { ask: Some(ask), until, number });
        }
        Ok(())
    }

    /// A hold that nobody finished comes to its end.
    pub(super) fn pump_hold(&mut self, id: VolumeId) {
        let now = self.now;
        let Some(h) = self.volumes.get_mut(&id) else { return };
        if !matches!(&h.change, Change::Holding(hold) if now >= hold.until) {
            return;
        }
        let label = h.label.clone();
        let text = format!("volume {label}: it was not handed over in time; writes go on");
        self.note(Level::Warn, text.clone());
        self.end_hold(id, &text);
        self.open_gate(id);
    }

    /// Writers are held no more for being handed over.
    pub(super) fn end_hold(&mut self, id: VolumeId, why: &str) {
        let Some(h) = self.volumes.get_mut(&id) else { return };
        if !matches!(h.change, Change::Holding(_)) {
            return;
        }
        let Change::Holding(hold) = std::mem::take(&mut h.change) else { return };
        if let Some(ask) = hold.ask {
            let reply = Reply::Refused(conflict(why.to_owned()));
            self.effect(Effect::Reply { ask, reply });
        }
    }

    /// After [`Effect::AwaitQuiet`]: no write is under way.
    pub fn writers_quiet(&mut self, now: Mono, wall: Wall, id: VolumeId, number: u64) {
        self.time(now, wall);
        let Some(h) = self.held(id) else { return };
        match &mut h.change {
            Change::Holding(hold) if hold.number == number => {
                if let Some(ask) = hold.ask.take() {
                    h.demand_cut(ask, false);
                }
                self.settle(id);
            }
            Change::SteppingDown(s) if s.number == number => self.step_down(id),
            _ => {}
        }
    }

    /// Nothing is built on a role that a restart may not find.
    pub(super) fn role_is_known(&mut self, id: VolumeId, name: &str) -> Result<(), ApiError> {
        let Some(h) = self.volumes.get(&id).filter(|h| h.writer.role_unknown) else {
            return Ok(());
        };
        let standing = h.writer.standing();
        self.effect(Effect::StoreStanding { volume: id, standing });
        Err(ApiError::new(
            ApiErrorKind::Internal,
            format!(
                "volume {name}: whether the disk says that this node is a replica is not known; its \
                 role is being stored again: look at the disk, and try again"
            ),
        ))
    }

    /// After a hold: writes no more, durably.
    pub(super) fn hand_over(
        &mut self,
        ask: AskId,
        name: &str,
        to: &str,
        (set, whole): (u64, bool),
    ) -> Result<(), ApiError> {
        let id = self.primary_of(name)?;
        let to = NodeName::new(to)
            .map_err(|e| ApiError::new(ApiErrorKind::BadRequest, e.to_string()))?;
        let Some(h) = self.volumes.get_mut(&id) else { return Ok(()) };
        if let Some(f) = &h.writer.fenced {
            if f.by == to && f.at.set.0 == set {
                self.effect(Effect::Reply { ask, reply: Reply::Done });
                return Ok(());
            }
            let why = history::closed(h).unwrap_or_default();
            return Err(conflict(format!("volume {name}: {why}; nothing was changed")));
        }
        let line = held_at(h, name, set)?;
        h.writer.fenced = Some(Fenced { at: line, by: to, handed: true });
        h.change = Change::HandingOver(ask);
        let (text, standing) = (history::closed(h).unwrap_or_default(), h.writer.standing());
        let gate = if whole { Gate::Handed(text) } else { Gate::Closed(text) };
        self.effect(Effect::Gate { volume: id, gate });
        self.effect(Effect::StoreStanding { volume: id, standing });
        Ok(())
    }

    /// After a hold: the volume is no longer this node's. Nothing was changed if it is refused; what
    /// the disk refuses later is answered by whoever carries [`Effect::GiveAway`] out.
    pub(super) fn give_away(
        &mut self,
        ask: AskId,
        name: &str,
        to: &str,
        set: u64,
    ) -> Result<(), ApiError> {
        let id = self.primary_of(name)?;
        let to = NodeName::new(to)
            .map_err(|e| ApiError::new(ApiErrorKind::BadRequest, e.to_string()))?;
        self.role_is_known(id, name)?;
        let Some(h) = self.volumes.get_mut(&id) else { return Ok(()) };
        if to == self.cfg.node {
            return Err(conflict(format!("volume {name} is at {to}; nothing was changed")));
        }
        let line = held_at(h, name, set)?;
        let fenced = Some(Fenced { at: line, by: to.clone(), handed: true });
        let standing = Standing { fenced: fenced.clone(), ..h.writer.standing() };
        let (group, label) = (h.group.clone(), h.label.clone());
        (h.change, h.writer.fenced) = (Change::None, fenced);
        let text = format!("volume {name} moves to {to}");
        self.note(Level::Warn, format!("{text}, at set {set}"));
        self.effect(Effect::Gate { volume: id, gate: Gate::Handed(text.clone()) });
        self.tell_roles();
        self.growth_failed(id, &text);
        self.settings_failed(id, &text);
        self.keeps_failed(id, &text);
        self.scrubs_failed(id, &text);
        self.cuts_failed(id, &text);
        self.withdraw(id, &text);
        self.volumes.remove(&id);
        self.gave(id, group, label);
        self.effect(Effect::GiveAway { ask, volume: id, to, standing });
        Ok(())
    }

    /// Undoes a hold, or handing over.
    pub(super) fn take_back(&mut self, ask: AskId, name: &str) -> Result<(), ApiError> {
        let id = self.primary_of(name)?;
        let Some(h) = self.volumes.get_mut(&id) else { return Ok(()) };
        if matches!(h.change, Change::Holding(_)) {
            self.end_hold(id, &format!("volume {name} is not handed over: that was undone"));
            self.open_gate(id);
            self.effect(Effect::Reply { ask, reply: Reply::Done });
            return Ok(());
        }
        if !h.change.is_none() {
            return self.busy(id, name);
        }
        self.role_is_known(id, name)?;
        let Some(h) = self.volumes.get_mut(&id) else { return Ok(()) };
        match &h.writer.fenced {
            Some(f) if f.handed && h.writer.rival.is_empty() => {
                h.change = Change::TakingBack { ask, was: f.clone() };
                h.writer.fenced = None;
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
        h.writer.role_unknown &= stored.is_err();
        let reply = |stored: Result<(), String>| match stored {
            Ok(()) => Reply::Done,
            Err(why) => Reply::Refused(ApiError::new(ApiErrorKind::Internal, why)),
        };
        match std::mem::take(&mut h.change) {
            Change::HandingOver(ask) => {
                if stored.is_ok() {
                    let text = history::closed(h).unwrap_or_default();
                    self.release_children(id, &text);
                }
                // If not: whether the disk has it is not known, and nobody writes before it is.
                self.effect(Effect::Exports { volume: id });
                self.effect(Effect::Reply { ask, reply: reply(stored) });
            }
            Change::TakingBack { ask, was } => {
                if stored.is_ok() {
                    self.open_gate(id);
                    self.offer_to_children(id);
                } else {
                    // It can be tried again.
                    h.writer.fenced.get_or_insert(was);
                }
                self.effect(Effect::Exports { volume: id });
                self.effect(Effect::Reply { ask, reply: reply(stored) });
            }
            other => h.change = other,
        }
    }

    /// A writer whose place was taken becomes a replica of the new one, once no write is under way.
    pub(super) fn resync(&mut self, ask: AskId, name: &str, discard: bool) -> Result<(), ApiError> {
        let id = self.volume_named(name)?;
        self.busy(id, name)?;
        self.role_is_known(id, name)?;
        let Some(h) = self.volumes.get_mut(&id) else { return Ok(()) };
        if !is_primary(h) {
            // It was done before.
            self.effect(Effect::Reply { ask, reply: Reply::Done });
            return Ok(());
        }
        if h.writer.fenced.is_none() {
            return Err(conflict(format!(
                "{} is the writer of volume {name} and knows of no other: to move the writer, \
                 `rcpctl failover {name} --sync --to NODE`",
                self.cfg.node
            )));
        }
        let number = self.await_quiet(id);
        if let Some(h) = self.volumes.get_mut(&id) {
            let s = SteppingDown {
                ask,
                discard,
                number,
                discards: None,
                rewinds: None,
                cutting: None,
                demanded: false,
            };
            h.change = Change::SteppingDown(s);
        }
        Ok(())
    }

    /// Nothing changes any more: what does the new writer lack?
    pub(super) fn step_down(&mut self, id: VolumeId) {
        let now = self.now;
        let Some(h) = self.volumes.get_mut(&id) else { return };
        let (name, at) = (h.label.clone(), h.volume.durable().visible);
        let way = way_back(h);
        let Change::SteppingDown(s) = &mut h.change else { return };
        let Some(f) = &h.writer.fenced else { return };
        let fork = f.at.set;
        let clean = h.volume.is_clean() && at <= fork;
        if clean || s.discard {
            s.discards = Some(!clean);
            self.effect(Effect::MakeReadOnly { volume: id, discards: !clean });
            return;
        }
        let cannot = match way {
            Ok((known, fork)) => {
                // What was written since the last set becomes a set of its own line.
                let until = *s.cutting.get_or_insert_with(|| now.after(REST));
                if h.volume.is_clean() {
                    s.rewinds = Some((known, fork));
                    (s.discards, s.cutting) = (Some(false), None);
                    self.effect(Effect::MakeReadOnly { volume: id, discards: false });
                    return;
                }
                if now < until {
                    if !std::mem::replace(&mut s.demanded, true) {
                        h.volume.demand_cut(false);
                        self.settle(id);
                    }
                    return;
                }
                format!("its last set was not finished within {} s", REST.as_secs())
            }
            Err(why) => why,
        };
        let (blocks, changed) = h.volume.given_up(fork);
        let by = f.by.clone();
        let mut what = Vec::new();
        if at > fork {
            let blocks = blocks.map_or_else(String::new, |n| format!(" with {n} blocks"));
            what.push(format!("sets {} to {at}{blocks}", fork.next()));
        }
        if changed > 0 || what.is_empty() {
            what.push(format!("up to {changed} blocks changed since its last set"));
        }
        let ask = s.ask;
        h.change = Change::None;
        let e = conflict(format!(
            "volume {name}: this node holds what {by} does not have: {}; it cannot be taken back and \
             kept as a branch: {cannot}. `--discard` gives it up, and what differs comes from {by}. \
             The role was not changed. To save it first, read the export: it is read-only now",
            what.join(", and "),
        ));
        self.effect(Effect::Reply { ask, reply: Reply::Refused(e) });
    }

    /// The role is stored, or could not be.
    pub(super) fn stepped_down(&mut self, id: VolumeId, made: Result<PlaybackPolicy, String>) {
        let Some(h) = self.volumes.get_mut(&id) else { return };
        let Change::SteppingDown(s) = &h.change else { return };
        let (ask, discards) = (s.ask, s.discards == Some(true));
        let rewinds = s.rewinds.clone();
        h.change = Change::None;
        let policy = match made {
            Ok(p) => p,
            Err(why) => {
                // The disk may say so all the same: what this node still is, is stored again.
                h.writer.role_unknown = true;
                let standing = h.writer.standing();
                self.effect(Effect::StoreStanding { volume: id, standing });
                let e = ApiError::new(ApiErrorKind::Internal, why);
                self.effect(Effect::Reply { ask, reply: Reply::Refused(e) });
                return;
            }
        };
        let writer = std::mem::take(&mut h.writer);
        let known = newest(h.volume.history(), writer.rival);
        h.volume.step_down(policy);
        let label = h.label.clone();
        h.begin_anew(match &rewinds {
            Some((_, fork)) => *fork,
            None if discards => SetNumber::ZERO,
            None => h.volume.durable().visible,
        });
        if discards {
            h.volume.discard("its parent gives its content up", known);
        } else if rewinds.is_none() {
            h.volume.adopt_history(known);
        }
        let what = if discards { "; what the new writer does not have is given up" } else { "" };
        self.note(Level::Warn, format!("volume {label}: this node is a replica now{what}"));
        self.cuts_failed(id, &format!("volume {label}: this node is a replica now"));
        self.effect(Effect::Exports { volume: id });
        if let Some((known, fork)) = rewinds {
            if let Err(why) = self.begin_rewind(id, &known, fork, Some(ask)) {
                self.give_up(id, fork, &known, &why);
                self.effect(Effect::Reply { ask, reply: Reply::Refused(conflict(why)) });
            }
        } else {
            self.effect(Effect::Reply { ask, reply: Reply::Done });
        }
        self.settle(id);
        self.attach_pending(id);
    }
}

/// The state that a hold led to, if writers have been held since.
fn held_at(h: &Held, name: &str, set: u64) -> Result<StateId, ApiError> {
    let no = |why: String| Err(conflict(format!("volume {name} {why}; nothing was changed")));
    if !matches!(&h.change, Change::Holding(hold) if hold.ask.is_none()) {
        return no("is not held: writes go on".to_owned());
    }
    let at = h.volume.durable().visible;
    match h.volume.state_id(at) {
        _ if !h.volume.is_clean() => no(format!("is at set {at}, and has changes since")),
        Some(line) if at.0 == set => Ok(line),
        _ => no(format!("is at set {at}, not at set {set}")),
    }
}

/// How a fenced writer comes back to the line of the new one without a copy: that one's history, and
/// the last common state.
fn way_back(h: &Held) -> Result<(Vec<Branch>, SetNumber), String> {
    match relate(h.volume.history(), &h.writer.rival) {
        Relation::Newer { fork } => {
            h.volume.can_rewind(fork)?;
            Ok((h.writer.rival.clone(), fork))
        }
        _ => Err(format!(
            "the line of the new writer is not known here since the restart; it is as soon as {} has a \
             route to this node",
            h.writer.fenced.as_ref().map_or("it", |f| f.by.as_str())
        )),
    }
}

/// The newer of two histories: what was known of writers is not forgotten with the content.
fn newest(ours: &[Branch], rival: Vec<Branch>) -> Vec<Branch> {
    match relate(ours, &rival) {
        Relation::Newer { .. } => rival,
        _ => ours.to_vec(),
    }
}
