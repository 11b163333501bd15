//! What else decides about the writer, and has to know who it is: a lock service, a cluster manager,
//! whoever moves an address or mounts a file system.
//!
//! A node may have handlers for two kinds. `role-before` is asked before a volume is to be written
//! here, or no more, on somebody's order; if it fails, the order is refused, and nothing has changed.
//! `role` is told what a volume is here: whenever that is something else than it was told last, and
//! once when the node starts, so that a node that died in between makes up for it. Whatever was begun
//! after `role-before` said yes ends with a `role`, also if it came to nothing.
//!
//! That a role is kept is nobody's decision: a writer that is started again asks its children, not a
//! handler.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use rcp::proto::ids::VolumeId;
use volmcast::volume::Role;

use super::history::{is_primary, is_writer};
use super::{AskId, Effect, Held, Level, Mover, Reply};
use crate::api::{ApiError, ApiErrorKind, VolumeInfo, WriterChange};

/// Kind of handler that is asked.
const BEFORE: &str = "role-before";
/// Kind of handler that is told.
const TOLD: &str = "role";

/// What a volume is at a node, as handlers know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Is {
    /// Writers are let in.
    Writer,
    /// A primary that lets nobody write: another node took its place, or is to take it.
    Fenced,
    /// A copy.
    Replica,
}

impl Is {
    fn word(self) -> &'static str {
        match self {
            Self::Writer => "writer",
            Self::Fenced => "fenced",
            Self::Replica => "replica",
        }
    }
}

/// Questions and notices under way.
#[derive(Debug, Default)]
pub(super) struct Roles {
    /// Orders that wait for an answer.
    asked: BTreeMap<[u8; 16], (AskId, VolumeId, WriterChange)>,
    telling: BTreeMap<[u8; 16], (VolumeId, Is)>,
    /// What the handler was told last.
    told: BTreeMap<VolumeId, Is>,
    /// Volumes that may be something else now.
    look: BTreeSet<VolumeId>,
}

impl Roles {
    /// Completes what is told of a volume: a handler may be about to let it become something else.
    pub(super) fn describe(&self, id: VolumeId, v: &mut VolumeInfo) {
        for (_, _, change) in self.asked.values().filter(|(_, asked, _)| *asked == id) {
            v.promoting |= matches!(change, WriterChange::Promote { .. });
            let Some((_, wish)) = wish(change) else { continue };
            let wish = wish.word();
            let text = format!("the handler `{BEFORE}` is asked whether it may become {wish} here");
            v.reason = Some(v.reason.take().map_or(text.clone(), |r| format!("{r}; {text}")));
        }
    }
}

/// `None`: a change is under way, or the writer waits for its children.
fn is(h: &Held) -> Option<Is> {
    match h.volume.config().role {
        Role::Relay => None,
        Role::Replica { .. } => (!h.change.is_promotion()).then_some(Is::Replica),
        Role::Primary { .. } if !h.change.is_none() => None,
        Role::Primary { .. } if h.writer.fenced.is_some() => Some(Is::Fenced),
        Role::Primary { .. } => is_writer(h).then_some(Is::Writer),
    }
}

/// What an order makes of which volume here, if that is for a handler to decide.
fn wish(change: &WriterChange) -> Option<(&str, Is)> {
    match change {
        WriterChange::Promote { volume, .. } | WriterChange::Alone { volume } => {
            Some((volume, Is::Writer))
        }
        WriterChange::Hold { volume, .. } => Some((volume, Is::Fenced)),
        // The rest of what was decided at `Hold`, and what changes no writer.
        WriterChange::HandOver { .. }
        | WriterChange::TakeBack { .. }
        | WriterChange::Resync { .. }
        | WriterChange::DropBranch { .. } => None,
    }
}

impl Mover {
    /// Carries an order out, if the handler of this node has nothing against it.
    pub(super) fn order_writer(
        &mut self,
        ask: AskId,
        change: WriterChange,
    ) -> Result<(), ApiError> {
        let asks = self.cfg.handlers.contains(BEFORE);
        let Some((name, wish)) = wish(&change).filter(|_| asks) else {
            return self.change_writer(ask, change);
        };
        let id = self.volume_named(name)?;
        let Some(h) = self.volumes.get(&id) else { return Ok(()) };
        // Refused anyway, or done before: nobody has to decide.
        if is(h) == Some(wish) || wish == Is::Fenced && !is_primary(h) {
            return self.change_writer(ask, change);
        }
        let label = h.label.clone();
        let text = format!(
            "volume {label}: the handler `{BEFORE}` is asked whether it may become {} here",
            wish.word()
        );
        self.note(Level::Info, text);
        let block = self.random_id();
        self.roles.asked.insert(block, (ask, id, change));
        self.handle(block, BEFORE, id, wish);
        Ok(())
    }

    fn handle(&mut self, block: [u8; 16], kind: &str, id: VolumeId, is: Is) {
        let Some(h) = self.volumes.get(&id) else { return };
        let after = h.volume.state_id(h.volume.durable().visible);
        let body = Bytes::from(format!("{} {}\n", h.label, is.word()));
        let (group, kind) = (h.group.clone(), kind.to_owned());
        self.effect(Effect::Handle { id: block, kind, group, after, body });
    }

    /// Something was done that may have changed what a volume is.
    pub(super) fn role_may_differ(&mut self, e: &Effect) {
        if let Effect::Gate { volume, .. } | Effect::Exports { volume } = e
            && self.cfg.handlers.contains(TOLD)
        {
            self.roles.look.insert(*volume);
        }
    }

    /// Tells the handler what volumes are, where that is news.
    pub(super) fn tell_roles(&mut self) {
        for id in std::mem::take(&mut self.roles.look) {
            let Some(h) = self.volumes.get(&id) else {
                self.roles.told.remove(&id);
                continue;
            };
            let waits = self.roles.telling.values().any(|(v, _)| *v == id);
            match is(h).filter(|_| !waits) {
                None => drop(self.roles.look.insert(id)),
                Some(is) if self.roles.told.get(&id) == Some(&is) => {}
                Some(is) => {
                    let block = self.random_id();
                    self.roles.told.insert(id, is);
                    self.roles.telling.insert(block, (id, is));
                    self.handle(block, TOLD, id, is);
                }
            }
        }
    }

    /// Whether it was a question or a notice that a handler is done with.
    pub(super) fn role_handled(&mut self, block: [u8; 16], ok: bool, said: &[u8]) -> bool {
        let said = String::from_utf8_lossy(said).into_owned();
        if let Some((id, is)) = self.roles.telling.remove(&block) {
            if !ok {
                let text = format!(
                    "volume {}: the handler `{TOLD}` was told that it is {} here, and failed: {said}",
                    self.label_of(id),
                    is.word()
                );
                self.note(Level::Error, text);
            }
            return true;
        }
        let Some((ask, _, change)) = self.roles.asked.remove(&block) else { return false };
        if let Err(e) = self.decided(ask, change, ok, &said) {
            self.effect(Effect::Reply { ask, reply: Reply::Refused(e) });
        }
        true
    }

    fn decided(
        &mut self,
        ask: AskId,
        change: WriterChange,
        ok: bool,
        said: &str,
    ) -> Result<(), ApiError> {
        let Some((name, wish)) = wish(&change) else { return Ok(()) };
        let id = self.volume_named(name)?;
        if !ok {
            let text = format!(
                "volume {name} does not become {} at {}: the handler `{BEFORE}` there is against it \
                 ({said}); nothing was changed",
                wish.word(),
                self.cfg.node
            );
            self.note(Level::Warn, text.clone());
            return Err(ApiError::new(ApiErrorKind::Conflict, text));
        }
        if self.cfg.handlers.contains(TOLD) {
            self.roles.told.remove(&id);
            self.roles.look.insert(id);
        }
        self.change_writer(ask, change)
    }
}
