//! Whose line a volume follows: fences, splits, and a primary's return (DESIGN 4 and 12).
//!
//! Every offer carries the sender's history. A node follows a newer one, tells the sender of an older
//! one that it is out of date ([`Frame::Fence`]), and names a split by that word. A writer that hears
//! of a newer history writes no more until an operator decides; a writer that comes back asks its
//! children first, by offering them what it has.

use std::collections::BTreeSet;

use rcp::proto::frame::{Branch, Frame, GoodbyeCode, Hello, Offer, StreamId, stream_error};
use rcp::proto::ids::{Generation, GroupName, NodeName, SetNumber, StateId, VolumeId};
use volmcast::history::{Relation, plausible, relate};
use volmcast::storage::{Fenced, Standing};
use volmcast::volume::Role;

use super::receiving::InStage;
use super::sending::Stage;
use super::{ConnId, Effect, Gate, Held, Level, Mover, Reply};
use crate::api::{ApiError, ApiErrorKind, HandedOver, HistoryLine, VolumeInfo};

/// What a primary that comes back needs before it lets writers in, once it ever had children.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Confirm {
    /// One child has taken its offer: it knows of no newer writer.
    #[default]
    OneChild,
    /// So many children, or all it has.
    Children(u32),
    /// Nothing.
    None,
}

/// A primary that has come back and waits.
#[derive(Debug)]
struct Confirming {
    need: usize,
    by: BTreeSet<NodeName>,
    children: Vec<NodeName>,
}

/// Who the writer of a volume is, as far as this node knows.
#[derive(Debug, Default)]
pub(super) struct Writer {
    /// The line this node was told to open when it took over.
    pub(super) opens: Option<StateId>,
    /// Another writer took this primary's place.
    pub(super) fenced: Option<Fenced>,
    /// A history that contradicts ours.
    pub(super) rival: Vec<Branch>,
    /// Two writers did not know of each other.
    pub(super) split: Option<String>,
    /// Why the parent's offer is not followed.
    pub(super) refuses: Option<String>,
    confirming: Option<Confirming>,
    /// It was decided whether writers may come in.
    decided: bool,
    /// It was made because the topology says so: nobody has said yet that there is no other volume of
    /// that label.
    unproven: bool,
    /// Storing another role failed, and so did storing this one again: a restart may find either.
    pub(super) role_unknown: bool,
    /// It took over, or goes on, although something was damaged, on an operator's word.
    pub(super) damaged: Option<String>,
    /// Nobody could be asked whether there is a newer writer.
    unconfirmed: Option<String>,
}

impl Writer {
    pub(super) fn is_fenced(&self) -> bool {
        self.fenced.is_some()
    }

    pub(super) fn standing(&self) -> Standing {
        Standing {
            opens: self.opens,
            fenced: self.fenced.clone(),
            discards: false,
            unproven: self.unproven,
            damaged: self.damaged.clone(),
        }
    }

    /// Of a node that follows a history; it does not forget a newer one that it has heard of.
    fn follows(&mut self, history: &[Branch]) {
        let was = std::mem::take(self);
        match relate(history, &was.rival) {
            Relation::Newer { .. } => self.rival = was.rival,
            Relation::Split { .. } => (self.rival, self.split) = (was.rival, was.split),
            Relation::Same | Relation::Older { .. } => {}
        }
    }

    /// Of a node that took over.
    pub(super) fn opened(opens: StateId) -> Self {
        Self { opens: Some(opens), decided: true, ..Self::default() }
    }

    /// Why writers are not let in, in words; `own` is the line of this writer.
    pub(super) fn closed(&self, label: &str, own: Option<Generation>) -> Option<String> {
        if let Some(f) = &self.fenced {
            return Some(fenced_text(f, label, own));
        }
        self.confirming.as_ref().map(|c| {
            let names: Vec<_> = c.children.iter().map(ToString::to_string).collect();
            let of =
                if c.need == 1 { "one child".to_owned() } else { format!("{} children", c.need) };
            let what = if self.unproven {
                "that it holds no other volume of this label (this one was made because the topology \
                 names this node as the primary; if it was the primary before, delete the volume \
                 here)"
            } else {
                "that there is no newer writer"
            };
            format!(
                "fenced: waiting for {of} to confirm {what} (known: {}; confirmed: {}); if all of \
                 them are gone for good and nobody was promoted: `rcpctl confirm {label} --alone` at \
                 this node (--dir, or --topology with --node)",
                names.join(", "),
                c.by.len()
            )
        })
    }
}

fn fenced_text(f: &Fenced, label: &str, own: Option<Generation>) -> String {
    if f.handed {
        return format!(
            "fenced: handed over to {} at set {}; go on with `rcpctl failover {label} --sync --to \
             {}`, or take it back with `rcpctl failover {label} --take-back`",
            f.by, f.at.set, f.by
        );
    }
    if own == Some(f.at.generation) {
        return format!(
            "fenced: this writer is older than its child {}: it was put back to set {}; `rcpctl \
             failover {label} --to {}` goes on from what the child holds, --to this node from what is \
             here",
            f.by, f.at.set, f.by
        );
    }
    format!(
        "fenced: {} took over as the writer at set {} (generation {}); `rcpctl resync {label}` \
         at this node (--dir, or --topology with --node) makes it a replica of that",
        f.by, f.at.set, f.at.generation
    )
}

/// What came of an offer that is followed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Follow {
    /// The line that was followed before.
    Same,
    /// A newer one that begins where this node is, or later.
    Newer,
    /// A newer one that begins before: what was held of the old one is given up. Why, in words.
    Rewound(String),
}

impl Follow {
    pub(super) fn past_fork(self) -> Option<String> {
        match self {
            Self::Rewound(why) => Some(why),
            Self::Same | Self::Newer => None,
        }
    }
}

impl Mover {
    /// This node has the writable side of a volume of the group.
    pub(super) fn writes_in(&self, group: &GroupName) -> bool {
        self.volumes.values().any(|h| h.group == *group && is_primary(h) && !h.writer.is_fenced())
    }

    /// Another writer took over all that this node had to feed its children in a group: somebody
    /// else may feed them.
    pub(super) fn lets_go(&self, group: &GroupName) -> bool {
        let mut here = self.volumes.values().filter(|h| h.group == *group).peekable();
        here.peek().is_some() && here.all(|h| is_primary(h) && h.writer.is_fenced())
    }

    /// Why a node that is itself fed may not feed this one: here is the writer, and that node is below
    /// it. (What it said of the way to it may be older than its feeder.) Another writer, or a node
    /// below another, may try: the one may be newer, the other is told that this one is.
    pub(super) fn not_above_a_writer(&self, group: &GroupName, hello: &Hello) -> Option<String> {
        let mut here = self.volumes.values().filter(|h| h.group == *group);
        let confirming = here.any(|h| h.writer.confirming.is_some());
        if hello.path.len() < 2 || !self.writes_in(group) || confirming {
            return None;
        }
        let groups = self.table.display(Some(group)).unwrap_or_default();
        let mut hops = groups.into_iter().flat_map(|g| g.lines).flat_map(|(_, hops)| hops);
        hops.any(|h| h == hello.node).then(|| {
            format!(
                "{} is the writer of group {group}, and {} is below it: nobody feeds a writer",
                self.cfg.node, hello.node
            )
        })
    }

    /// What the volume's identity says of an unfinished or forbidden role, at the start.
    pub fn stand(&mut self, id: VolumeId, standing: Standing) {
        let Some(h) = self.volumes.get_mut(&id) else { return };
        h.writer.opens = standing.opens;
        h.writer.unproven = standing.unproven;
        h.writer.damaged = standing.damaged;
        let own = h.volume.history().last().map(|b| b.generation);
        // A line that was opened since ends it.
        let holds = |f: &Fenced| match own {
            Some(g) if f.handed => g == f.at.generation,
            Some(g) => g.counter <= f.at.generation.counter,
            None => false,
        };
        let Some(f) = standing.fenced.filter(holds) else { return };
        let text = fenced_text(&f, h.label.as_str(), own);
        h.writer.fenced = Some(f);
        h.writer.decided = true;
        let label = h.label.clone();
        self.note(Level::Error, format!("volume {label}: {text}"));
        self.effect(Effect::Gate { volume: id, gate: Gate::Closed(text) });
    }

    /// Lets writers in, if nothing is against it.
    pub(super) fn open_gate(&mut self, id: VolumeId) {
        let open = self.volumes.get(&id).is_some_and(|h| {
            is_primary(h)
                && h.writer.fenced.is_none()
                && h.writer.confirming.is_none()
                && h.change.is_none()
        });
        if open {
            self.effect(Effect::Gate { volume: id, gate: Gate::Open });
        }
    }

    /// A primary was opened: does it have to ask before it lets writers in?
    pub(super) fn begin_confirming(&mut self, id: VolumeId) {
        let Some(h) = self.volumes.get_mut(&id) else { return };
        let Some(g) = self.groups.get(&h.group) else { return };
        if !is_primary(h) || std::mem::replace(&mut h.writer.decided, true) {
            return;
        }
        let m = h.volume.durable();
        let fed = |n: &&NodeName| g.feeds(&self.table, &h.group, n);
        let consumers = m.consumers.iter().map(|c| &c.name);
        let mut children: BTreeSet<_> = consumers.filter(fed).cloned().collect();
        children.extend(g.links.keys().cloned());
        let need = match g.plan.confirm {
            Confirm::None => 0,
            Confirm::OneChild => 1,
            Confirm::Children(n) => usize::try_from(n).unwrap_or(usize::MAX),
        };
        // Somebody else may have been told of its sets, or have written before it.
        let known = m.had_children || m.history.len() > 1 || !m.consumers.is_empty();
        let asks = need > 0 && (known || h.writer.unproven);
        let need = if asks { need.min(children.len()) } else { 0 };
        let label = h.label.clone();
        if need == 0 {
            if asks && known {
                let text = "unconfirmed writer: it has no child that could say whether there is a \
                            newer one"
                    .to_owned();
                self.note(Level::Warn, format!("volume {label}: {text}"));
                if let Some(h) = self.volumes.get_mut(&id) {
                    h.writer.unconfirmed = Some(text);
                }
            }
            self.open_gate(id);
            return;
        }
        let children = children.into_iter().collect();
        h.writer.confirming = Some(Confirming { need, by: BTreeSet::new(), children });
        let text = closed(h).unwrap_or_default();
        self.note(Level::Info, format!("volume {label}: {text}"));
        self.effect(Effect::Gate { volume: id, gate: Gate::Hold(text) });
    }

    /// A child has taken our offer: it knows of no newer writer. One that holds nothing knows of no
    /// writer at all, and can only say that it holds nothing else of this label.
    pub(super) fn child_confirms(&mut self, id: VolumeId, child: &NodeName, holds: bool) {
        let Some(h) = self.volumes.get_mut(&id) else { return };
        let nothing = h.volume.durable().visible == SetNumber::ZERO;
        let Some(c) = &mut h.writer.confirming else { return };
        if !(holds || nothing || h.writer.unproven) {
            return;
        }
        c.by.insert(child.clone());
        if c.by.len() < c.need {
            return;
        }
        h.writer.confirming = None;
        let proven = std::mem::take(&mut h.writer.unproven);
        let (label, standing) = (h.label.clone(), h.writer.standing());
        if proven {
            self.effect(Effect::StoreStanding { volume: id, standing });
        }
        let text = format!("volume {label}: {child} knows of no newer writer; writes are let in");
        self.note(Level::Info, text);
        self.open_gate(id);
    }

    /// A child holds more of this writer's line than the writer itself: its content was put back.
    pub(super) fn child_is_newer(&mut self, id: VolumeId, child: &NodeName, here: SetNumber) {
        let Some(h) = self.volumes.get_mut(&id) else { return };
        if h.writer.is_fenced() {
            return;
        }
        let Some(at) = h.volume.state_id(here) else { return };
        self.fence_by(id, Fenced { at, by: child.clone(), handed: false });
    }

    /// An operator says that there is no other writer.
    pub(super) fn go_alone(&mut self, name: &str) -> Result<Reply, ApiError> {
        let id = self.primary_of(name)?;
        let conflict = |text: String| ApiError::new(ApiErrorKind::Conflict, text);
        let Some(h) = self.volumes.get_mut(&id) else { return Ok(Reply::Done) };
        if let Some(f) = &h.writer.fenced {
            return Err(conflict(format!(
                "volume {name}: this cannot be overridden, {}; to write here again in spite of it, \
                 `rcpctl failover {name} --to {}` opens a newer line",
                fenced_text(f, name, h.volume.history().last().map(|b| b.generation)),
                self.cfg.node
            )));
        }
        if h.writer.confirming.take().is_none() {
            return Err(conflict(format!("volume {name}: writes are let in already")));
        }
        if std::mem::take(&mut h.writer.unproven) {
            let standing = h.writer.standing();
            self.effect(Effect::StoreStanding { volume: id, standing });
        }
        self.note(
            Level::Error,
            format!(
                "volume {name}: UNCONFIRMED WRITER: an operator let writes in although no child \
                 confirmed that there is no newer writer"
            ),
        );
        self.open_gate(id);
        Ok(Reply::Done)
    }

    /// Decides whether an offer is followed; if it is not, the sender is told.
    pub(super) fn follow(
        &mut self,
        id: VolumeId,
        conn: ConnId,
        stream: StreamId,
        theirs: &[Branch],
    ) -> Option<Follow> {
        let from = self.peer_name(conn);
        let h = self.volumes.get_mut(&id)?;
        let label = h.label.clone();
        let ours = h.volume.history().to_vec();
        match relate(&ours, theirs) {
            Relation::Same => {
                h.writer.follows(theirs);
                Some(Follow::Same)
            }
            Relation::Newer { fork } => {
                h.writer.follows(theirs);
                let held = h.volume.reaches();
                h.begin_anew(held.min(fork));
                if held <= fork {
                    h.volume.adopt_history(theirs.to_vec());
                    return Some(Follow::Newer);
                }
                let by = theirs.last().map(|b| b.opened_by.to_string()).unwrap_or_default();
                let first = fork.next();
                if h.volume.rewind_unshown(fork) {
                    h.volume.adopt_history(theirs.to_vec());
                    let why = format!(
                        "sets {first} to {held} of the writer before {by} had come and were not \
                         shown: they are dropped"
                    );
                    self.note(Level::Warn, format!("volume {label}: {why}"));
                    self.effect(Effect::Exports { volume: id });
                    return Some(Follow::Rewound(why));
                }
                // The offer is taken when the content is on its way back.
                let cannot = self.begin_rewind(id, theirs, fork, None).err()?;
                Some(Follow::Rewound(self.give_up(id, fork, theirs, &cannot)))
            }
            Relation::Older { fork } => {
                let by = ours.last().map(|b| b.opened_by.to_string()).unwrap_or_default();
                let why = format!(
                    "{from} offers the line of a writer that {by} took over from at set {fork}: it \
                     is not followed"
                );
                self.refuse_offer(id, conn, stream, ours, &why);
                None
            }
            Relation::Split { fork } => {
                let why = self.split(id, &ours, theirs, fork);
                self.refuse_offer(id, conn, stream, ours, &why);
                None
            }
        }
    }

    /// An offer that stands was repeated with another history: goes on accordingly.
    pub(super) fn go_on(&mut self, id: VolumeId, follow: Follow) {
        let Some(i) = self.volumes.get_mut(&id).and_then(|h| h.inbound.as_mut()) else { return };
        match follow {
            Follow::Same => {}
            Follow::Newer if i.stage != InStage::Stopped => {}
            Follow::Newer => self.attach(id),
            Follow::Rewound(why) => {
                i.reason = Some(why);
                self.attach(id);
            }
        }
    }

    fn refuse_offer(
        &mut self,
        id: VolumeId,
        conn: ConnId,
        stream: StreamId,
        history: Vec<Branch>,
        why: &str,
    ) {
        let Some(h) = self.volumes.get_mut(&id) else { return };
        if h.inbound.as_ref().is_some_and(|i| i.conn == conn) {
            h.inbound = None;
        }
        let label = h.label.clone();
        let again = h.writer.refuses.replace(why.to_owned()).as_deref() == Some(why);
        if !again {
            self.note(Level::Warn, format!("volume {label}: {why}"));
        }
        self.send(conn, Frame::Fence { stream, history, text: why.to_owned() });
    }

    /// Somebody offers a volume that this node writes itself.
    pub(super) fn offered_to_writer(&mut self, conn: ConnId, offer: Offer) {
        let (id, stream) = (offer.volume, offer.stream);
        let Some(h) = self.volumes.get(&id) else { return };
        let (ours, label) = (h.volume.history().to_vec(), h.label.clone());
        match relate(&ours, &offer.history) {
            Relation::Newer { fork } => {
                if !rcp::planted!(FenceIgnored) {
                    self.fence(id, &offer.history, fork);
                }
                let text = format!(
                    "{} was the writer of volume {label} and is fenced: `rcpctl resync {label}` \
                     there makes it a replica",
                    self.cfg.node
                );
                self.send(conn, Frame::StreamError { stream, code: stream_error::FENCED, text });
                let group = self.volumes.get(&id).map(|h| h.group.clone());
                if let Some(g) = group.and_then(|g| self.groups.get_mut(&g)) {
                    g.pending_offers.insert(id, (conn, offer));
                }
            }
            Relation::Split { fork } => {
                let text = self.split(id, &ours, &offer.history, fork);
                self.send(conn, Frame::Fence { stream, history: ours, text });
            }
            Relation::Same | Relation::Older { .. } => {
                let text = format!("{} is itself the writer of volume {label}", self.cfg.node);
                self.send(conn, Frame::Fence { stream, history: ours, text });
            }
        }
        self.let_no_one_feed(conn);
    }

    /// A node below another writer was told who writes here: it does not go on as the feeder. It
    /// could become a loop, and would keep others out. (Another writer may stay: one of both will be
    /// below the other.)
    fn let_no_one_feed(&mut self, conn: ConnId) {
        let Some(c) = self.conns.get(&conn) else { return };
        let (group, number, now) = (c.group.clone(), c.feeder, self.now);
        let Some(g) = self.groups.get(&group) else { return };
        let fed = g.feeder.as_ref().filter(|f| f.conn == Some(conn));
        if !self.writes_in(&group) || fed.is_none_or(|f| f.path.len() < 2) {
            return;
        }
        let text = format!(
            "{} is the writer of group {group}, and is fed by nobody: remove this route",
            self.cfg.node
        );
        if let Some(g) = self.groups.get_mut(&group) {
            g.rule.released(number, now);
            g.feeder = None;
        }
        self.close(conn, GoodbyeCode::Reconfigured, &text);
    }

    /// A child knows of another writer than the one it is offered.
    pub(super) fn child_fences(
        &mut self,
        conn: ConnId,
        stream: StreamId,
        theirs: &[Branch],
        text: &str,
    ) {
        let Some(out) = self.conns.get_mut(&conn).and_then(|c| c.streams_out.get_mut(&stream))
        else {
            return;
        };
        out.stage = Stage::Stopped;
        out.reason = Some(text.to_owned());
        let id = out.volume;
        let Some(h) = self.volumes.get_mut(&id) else { return };
        let ours = h.volume.history().to_vec();
        if let Err(why) = plausible(&ours, theirs) {
            let label = h.label.clone();
            let text = format!("volume {label}: a history that cannot be is ignored: {why}");
            return self.note(Level::Warn, text);
        }
        match relate(&ours, theirs) {
            Relation::Same | Relation::Older { .. } => return,
            Relation::Newer { fork } if is_primary(h) => return self.fence(id, theirs, fork),
            Relation::Newer { .. } => h.writer.rival = theirs.to_vec(),
            Relation::Split { fork } => {
                self.split(id, &ours, theirs, fork);
            }
        }
        self.tell_rival(id, text);
    }

    /// The writer is further up: it is told of the other one.
    pub(super) fn tell_rival(&mut self, id: VolumeId, text: &str) {
        let Some(h) = self.volumes.get(&id) else { return };
        if let Some(i) = h.inbound.as_ref().filter(|_| !h.writer.rival.is_empty()) {
            let (conn, stream, history) = (i.conn, i.stream, h.writer.rival.clone());
            self.send(conn, Frame::Fence { stream, history, text: text.to_owned() });
        }
    }

    /// A writer holds its history against another one that it has heard of.
    pub(super) fn meets(&mut self, id: VolumeId, theirs: &[Branch]) {
        let Some(h) = self.volumes.get(&id) else { return };
        let ours = h.volume.history().to_vec();
        match relate(&ours, theirs) {
            Relation::Newer { fork } => self.fence(id, theirs, fork),
            Relation::Split { fork } => drop(self.split(id, &ours, theirs, fork)),
            Relation::Same | Relation::Older { .. } => {}
        }
    }

    /// There is a newer writer: this one writes no more.
    fn fence(&mut self, id: VolumeId, theirs: &[Branch], fork: SetNumber) {
        let Some(h) = self.volumes.get_mut(&id) else { return };
        let Some(last) = theirs.last() else { return };
        h.writer.rival = theirs.to_vec();
        h.writer.split = None;
        let at = StateId { volume: id, generation: last.generation, set: fork };
        let fenced = Fenced { at, by: last.opened_by.clone(), handed: false };
        self.fence_by(id, fenced);
    }

    fn fence_by(&mut self, id: VolumeId, fenced: Fenced) {
        let Some(h) = self.volumes.get_mut(&id) else { return };
        if h.writer.fenced.as_ref() == Some(&fenced) {
            return;
        }
        // The node to which it was handed over has begun, with the very state that was handed over.
        let goes_on = |f: Fenced| f.handed && f.by == fenced.by && f.at.set == fenced.at.set;
        let shut =
            if h.writer.fenced.take().is_some_and(goes_on) { Gate::Handed } else { Gate::Closed };
        h.writer.fenced = Some(fenced);
        h.writer.confirming = None;
        h.writer.unconfirmed = None;
        let text = closed(h).unwrap_or_default();
        let (label, standing) = (h.label.clone(), h.writer.standing());
        self.effect(Effect::Gate { volume: id, gate: shut(text.clone()) });
        self.effect(Effect::StoreStanding { volume: id, standing });
        self.note(Level::Error, format!("volume {label}: {text}"));
        self.end_hold(id, &format!("volume {label}: {text}"));
        self.release_children(id, &text);
        self.effect(Effect::Exports { volume: id });
    }

    /// Children of a writer that writes no more may be fed by others.
    pub(super) fn release_children(&mut self, id: VolumeId, text: &str) {
        self.withdraw(id, text);
        let Some(group) = self.volumes.get(&id).map(|h| h.group.clone()) else { return };
        if self.lets_go(&group) {
            self.close_links(&group, text);
        }
    }

    /// Ends the sessions with all next hops; they are dialled again unless the group is let go.
    pub(super) fn close_links(&mut self, group: &GroupName, text: &str) {
        let Some(g) = self.groups.get(group) else { return };
        let conns: Vec<_> = g.links.values().filter_map(|l| l.conn).collect();
        for conn in conns {
            self.close(conn, GoodbyeCode::Reconfigured, text);
        }
    }

    /// Two nodes were made the writer and did not know of each other.
    fn split(
        &mut self,
        id: VolumeId,
        ours: &[Branch],
        theirs: &[Branch],
        fork: SetNumber,
    ) -> String {
        let who = |h: &[Branch]| {
            h.last().map_or_else(String::new, |b| format!("{} ({})", b.opened_by, b.generation))
        };
        let Some(h) = self.volumes.get_mut(&id) else { return String::new() };
        let label = h.label.clone();
        let text = format!(
            "split-brain: {} and {} are both writers since set {fork}; both keep what they have; \
             `rcpctl failover {label} --to NODE --adopt` with the one that is to stay ends it, and \
             what the other wrote is kept as a branch",
            who(ours),
            who(theirs)
        );
        h.writer.rival = theirs.to_vec();
        if h.writer.split.replace(text.clone()).as_ref() != Some(&text) {
            self.note(Level::Error, format!("volume {label}: {text}"));
        }
        text
    }

    fn peer_name(&self, conn: ConnId) -> String {
        let peer = self.conns.get(&conn).and_then(|c| c.peer.as_ref());
        peer.map_or_else(|| "the parent".to_owned(), ToString::to_string)
    }
}

pub(super) fn is_primary(h: &Held) -> bool {
    matches!(h.volume.config().role, Role::Primary { .. })
}

/// Why writers are not let in, in words.
pub(super) fn closed(h: &Held) -> Option<String> {
    let own = h.volume.history().last().map(|b| b.generation);
    h.writer.closed(h.label.as_str(), own)
}

/// Writers are let in, as far as it was decided.
pub(super) fn is_writer(h: &Held) -> bool {
    is_primary(h) && h.writer.decided && closed(h).is_none() && h.change.is_none()
}

/// A history as it is told.
pub(super) fn lines(history: &[Branch]) -> Vec<HistoryLine> {
    let line = |b: &Branch| HistoryLine {
        generation: b.generation.to_string(),
        forked_from: b.forked_from.0,
        opened_by: b.opened_by.to_string(),
        opened_at_us: b.opened_at.0,
    };
    history.iter().map(line).collect()
}

/// Completes what is told of a volume with who its writer is.
pub(super) fn describe(h: &Held, v: &mut VolumeInfo) {
    super::rewinding::describe(h, v);
    let w = &h.writer;
    v.history = lines(&h.volume.durable().history);
    v.rival = lines(&w.rival);
    v.split.clone_from(&w.split);
    v.promoting = h.change.is_promotion();
    v.fenced = if is_primary(h) { closed(h) } else { None };
    v.confirming = is_primary(h) && w.fenced.is_none() && w.confirming.is_some();
    v.handed_over = w
        .fenced
        .as_ref()
        .filter(|f| f.handed)
        .map(|f| HandedOver { to: f.by.to_string(), set: f.at.set.0 });
    if v.fenced.is_some() && v.state.starts_with("writable") {
        v.state = v.state.replacen("writable", "fenced", 1);
    } else if v.promoting && v.state.starts_with("writable") {
        // Its role is on the disk; its line is not, and clients still get the replica.
        v.state = v.state.replacen("writable", "being promoted", 1);
    }
    let why = [w.split.clone(), v.fenced.clone(), w.unconfirmed.clone(), w.refuses.clone()];
    let why = why.into_iter().chain([h.change.told(), v.reason.take()]);
    let why: Vec<_> = why.flatten().collect();
    v.reason = (!why.is_empty()).then(|| why.join("; "));
}
