//! What else decides about the writer, and has to know who it is: a lock service, a cluster manager,
//! whoever moves an address or mounts a file system.
//!
//! A node may have handlers for two kinds. `role-before` is asked before a volume is to be written
//! here, or no more, on somebody's order; if it fails, the order is refused, and nothing has changed.
//! `role` is told what a volume is here: whenever that is something else than it was told last, once
//! when the node starts, so that a node that died in between makes up for it, and after each answer
//! of `role-before`, whatever came of it.
//!
//! One handler runs at a time for a volume, so that what is told is never older than what was asked
//! since. A yes is for what it was asked about: if the writer changed meanwhile, the order is refused.
//! That a role is kept is nobody's decision: a writer that is started again asks its children, not a
//! handler.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use rcp::proto::ids::{Generation, GroupName, Label, VolumeId};
use volmcast::volume::Role;

use super::failover::{conflict, is_writer_already};
use super::history::{is_primary, is_writer};
use super::{AskId, Effect, Held, Level, Mover, Reply};
use crate::api::{ApiError, ApiErrorKind, VolumeInfo, WriterChange};

/// Kind of handler that is asked.
const BEFORE: &str = "role-before";
/// Kind of handler that is told.
const TOLD: &str = "role";
/// Kinds of handlers about who writes.
pub const ROLE_KINDS: [&str; 2] = [BEFORE, TOLD];

/// What a volume is at a node, as handlers know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Is {
    /// Writers are let in.
    Writer,
    /// A primary that lets nobody write: another node took its place or is to take it, or it failed.
    Fenced,
    /// A copy.
    Replica,
    /// Its files cannot be opened.
    Closed,
}

impl Is {
    fn word(self) -> &'static str {
        match self {
            Self::Writer => "writer",
            Self::Fenced => "fenced",
            Self::Replica => "replica",
            Self::Closed => "closed",
        }
    }
}

/// What a decision rests on: the newest writer that is known of, and what the volume is here.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Seen {
    own: Option<Generation>,
    rival: Option<Generation>,
    primary: bool,
    fenced: bool,
}

impl Seen {
    fn of(h: &Held) -> Self {
        Self {
            own: h.volume.history().last().map(|b| b.generation),
            rival: h.writer.rival.last().map(|b| b.generation),
            primary: is_primary(h),
            fenced: h.writer.fenced.is_some(),
        }
    }
}

/// Orders of one kind that wait for an answer.
#[derive(Debug)]
struct Question {
    change: WriterChange,
    wish: Is,
    seen: Seen,
    asks: Vec<AskId>,
}

#[derive(Debug)]
enum Handler {
    Asked(Question),
    Told(Is),
}

/// Questions and notices under way.
#[derive(Debug, Default)]
pub(super) struct Roles {
    running: BTreeMap<VolumeId, ([u8; 16], Handler)>,
    waiting: BTreeMap<VolumeId, VecDeque<Question>>,
    /// What the handler was told last.
    told: BTreeMap<VolumeId, (Is, Label)>,
    /// Volumes that may be something else now.
    look: BTreeSet<VolumeId>,
    /// Volumes that were given to other nodes with all their files: nobody writes them here.
    gone: BTreeMap<VolumeId, (GroupName, Label)>,
}

impl Roles {
    fn questions(&self, id: VolumeId) -> impl Iterator<Item = &Question> {
        let running = self.running.get(&id).and_then(|(_, h)| match h {
            Handler::Asked(q) => Some(q),
            Handler::Told(_) => None,
        });
        running.into_iter().chain(self.waiting.get(&id).into_iter().flatten())
    }

    fn questions_mut(&mut self, id: VolumeId) -> impl Iterator<Item = &mut Question> {
        let running = self.running.get_mut(&id).and_then(|(_, h)| match h {
            Handler::Asked(q) => Some(q),
            Handler::Told(_) => None,
        });
        running.into_iter().chain(self.waiting.get_mut(&id).into_iter().flatten())
    }

    /// Completes what is told of a volume: a handler may be about to let it become something else.
    pub(super) fn describe(&self, id: VolumeId, v: &mut VolumeInfo) {
        for q in self.questions(id).filter(|q| !q.asks.is_empty()) {
            v.promoting |= matches!(q.change, WriterChange::Promote { .. });
            let wish = q.wish.word();
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
        Role::Primary { .. } if h.volume.failure().is_some() => Some(Is::Fenced),
        Role::Primary { .. } if !h.change.is_none() => None,
        Role::Primary { .. } if h.writer.fenced.is_some() => Some(Is::Fenced),
        Role::Primary { .. } => is_writer(h).then_some(Is::Writer),
    }
}

/// What an order makes of a volume, if that is for a handler to decide: not what is refused anyway,
/// was decided before, or is done already.
fn wish(h: &Held, change: &WriterChange) -> Option<Is> {
    if matches!(h.volume.config().role, Role::Relay) || h.volume.failure().is_some() {
        return None;
    }
    match change {
        WriterChange::Promote { above, .. } => {
            let done = is_primary(h) && is_writer_already(h, *above);
            (h.change.is_none() && !done).then_some(Is::Writer)
        }
        WriterChange::Alone { .. } => {
            (is_primary(h) && h.change.is_none() && is(h).is_none()).then_some(Is::Writer)
        }
        WriterChange::Hold { .. } => (is(h) == Some(Is::Writer)).then_some(Is::Fenced),
        // It may have let go of what it needs to write.
        WriterChange::TakeBack { .. } => {
            let handed = h.writer.fenced.as_ref().is_some_and(|f| f.handed);
            (handed && h.change.is_none()).then_some(Is::Writer)
        }
        WriterChange::HandOver { .. }
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
        if !self.cfg.handlers.contains(BEFORE) {
            return self.change_writer(ask, change);
        }
        let id = self.volume_named(change.volume())?;
        let back = matches!(change, WriterChange::TakeBack { .. });
        if back && self.hold_no_more(id) {
            self.effect(Effect::Reply { ask, reply: Reply::Done });
            return Ok(());
        }
        let Some(h) = self.volumes.get(&id) else { return Ok(()) };
        let Some(wish) = wish(h, &change) else { return self.change_writer(ask, change) };
        let (label, seen) = (h.label.clone(), Seen::of(h));
        let same = |q: &&mut Question| q.change == change && q.seen == seen;
        if let Some(q) = self.roles.questions_mut(id).find(same) {
            q.asks.push(ask);
            return Ok(());
        }
        self.note(
            Level::Info,
            format!(
                "volume {label}: the handler `{BEFORE}` is asked whether it may become {} here",
                wish.word()
            ),
        );
        let question = Question { change, wish, seen, asks: vec![ask] };
        self.roles.waiting.entry(id).or_default().push_back(question);
        self.next_handler(id);
        Ok(())
    }

    /// A hold that the handler has not decided about is not wanted any more.
    fn hold_no_more(&mut self, id: VolumeId) -> bool {
        let mut undone = Vec::new();
        for q in self.roles.questions_mut(id) {
            if matches!(q.change, WriterChange::Hold { .. }) {
                undone.append(&mut q.asks);
            }
        }
        let label = self.label_of(id);
        for ask in &undone {
            let e = conflict(format!("volume {label} is not handed over: that was undone"));
            self.effect(Effect::Reply { ask: *ask, reply: Reply::Refused(e) });
        }
        !undone.is_empty()
    }

    /// Runs the next handler of a volume, if none does.
    fn next_handler(&mut self, id: VolumeId) {
        if self.roles.running.contains_key(&id) {
            return;
        }
        let queue = self.roles.waiting.get_mut(&id);
        if let Some(q) = queue.and_then(VecDeque::pop_front) {
            let wish = q.wish;
            self.run_handler(id, BEFORE, wish, Handler::Asked(q));
            return;
        }
        self.roles.waiting.remove(&id);
        if self.cfg.handlers.contains(TOLD) {
            self.roles.look.insert(id);
        }
    }

    fn run_handler(&mut self, id: VolumeId, kind: &str, is: Is, handler: Handler) {
        let of = |h: &Held| {
            let after = h.volume.state_id(h.volume.durable().visible);
            (h.group.clone(), h.label.clone(), after)
        };
        let open = self.volumes.get(&id).map(of);
        let closed = || self.closed.get(&id).map(|c| (c.group.clone(), c.label.clone(), None));
        let gone = || self.roles.gone.get(&id).map(|(g, l)| (g.clone(), l.clone(), None));
        let Some((group, label, after)) = open.or_else(closed).or_else(gone) else { return };
        let block = self.random_id();
        self.roles.running.insert(id, (block, handler));
        let (kind, body) = (kind.to_owned(), Bytes::from(format!("{label} {}\n", is.word())));
        self.effect(Effect::Handle { id: block, kind, group, after, body });
    }

    /// Something was done that may have changed what a volume is.
    pub(super) fn role_may_differ(&mut self, e: &Effect) {
        if let Effect::Gate { volume, .. }
        | Effect::Exports { volume }
        | Effect::RemoveVolume { volume } = e
        {
            self.look_at_role(*volume);
        }
    }

    /// A volume is another node's: handlers are told so, also if one is still busy with it, and when
    /// the node is started again.
    pub fn gave(&mut self, id: VolumeId, group: GroupName, label: Label) {
        self.roles.gone.insert(id, (group, label));
        self.look_at_role(id);
    }

    /// A volume is here.
    pub(super) fn has(&mut self, id: VolumeId) {
        self.roles.gone.remove(&id);
    }

    /// A volume may be something else now.
    pub(super) fn look_at_role(&mut self, id: VolumeId) {
        if self.cfg.handlers.contains(TOLD) {
            self.roles.look.insert(id);
        }
    }

    /// Tells the handler what volumes are, where that is news.
    pub(super) fn tell_roles(&mut self) {
        for id in std::mem::take(&mut self.roles.look) {
            // Its end is looked at again.
            if self.roles.running.contains_key(&id) {
                continue;
            }
            let (is, label) = match (self.volumes.get(&id), self.closed.get(&id)) {
                (Some(h), _) if matches!(h.volume.config().role, Role::Relay) => continue,
                (Some(h), _) => (is(h), h.label.clone()),
                (None, Some(c)) => (Some(Is::Closed), c.label.clone()),
                (None, None) => match self.roles.gone.get(&id) {
                    Some((_, label)) => (Some(Is::Fenced), label.clone()),
                    None => {
                        self.roles.told.remove(&id);
                        continue;
                    }
                },
            };
            match (is, label) {
                (None, _) => drop(self.roles.look.insert(id)),
                (Some(is), label) if self.roles.told.get(&id) != Some(&(is, label.clone())) => {
                    self.roles.told.insert(id, (is, label));
                    self.run_handler(id, TOLD, is, Handler::Told(is));
                }
                _ => {}
            }
        }
    }

    /// Whether it was a question or a notice that a handler is done with.
    pub(super) fn role_handled(&mut self, block: [u8; 16], ok: bool, said: &[u8]) -> bool {
        let found = self.roles.running.iter().find(|(_, (b, _))| *b == block).map(|(id, _)| *id);
        let Some((id, (_, handler))) = found.and_then(|id| self.roles.running.remove_entry(&id))
        else {
            return false;
        };
        let said = String::from_utf8_lossy(said).into_owned();
        match handler {
            Handler::Told(_) if ok => {}
            Handler::Told(is) => {
                let text = format!(
                    "volume {}: the handler `{TOLD}` was told that it is {} here, and failed: {said}",
                    self.label_of(id),
                    is.word()
                );
                self.note(Level::Error, text);
            }
            Handler::Asked(q) => {
                // It may have done something, also if it is against it.
                self.roles.told.remove(&id);
                self.decided(id, q, ok, &said);
            }
        }
        self.next_handler(id);
        true
    }

    fn decided(&mut self, id: VolumeId, q: Question, ok: bool, said: &str) {
        if q.asks.is_empty() {
            return;
        }
        let (label, node, wish) = (self.label_of(id), self.cfg.node.clone(), q.wish.word());
        let seen = self.volumes.get(&id).map(Seen::of);
        let refused = if !ok {
            Some(format!("the handler `{BEFORE}` there is against it ({said})"))
        } else if seen.as_ref() != Some(&q.seen) {
            Some(
                "who the writer is changed while its handler was asked: look, and say it again"
                    .into(),
            )
        } else {
            None
        };
        if let Some(why) = refused {
            let text = format!(
                "volume {label} does not become {wish} at {node}: {why}; nothing was changed"
            );
            self.note(Level::Warn, text.clone());
            for ask in q.asks {
                let e = ApiError::new(ApiErrorKind::Declined, text.clone());
                self.effect(Effect::Reply { ask, reply: Reply::Refused(e) });
            }
            return;
        }
        for ask in q.asks {
            if let Err(e) = self.change_writer(ask, q.change.clone()) {
                self.effect(Effect::Reply { ask, reply: Reply::Refused(e) });
            }
        }
    }
}
