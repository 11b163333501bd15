//! Control blocks: a command down the tree, a result from every member back up (CB-01 to CB-06).
//!
//! A block is executed here when its state is visible (`after:`), passed to every child, and kept
//! until each child has said that its subtree is done. A child that was away is told again when it
//! is back; a node that was told twice answers from what it knows: every application command is
//! entered in the [journal](journal::Journal) before it begins and before its result is told, so that it runs at most
//! once. (Hashing a volume changes nothing and is simply done again.) What is known so far flows up
//! at once, and so does why somebody is waiting, so that whoever asked can say who is missing.
//!
//! Every member with a replica has to have a handler for a block's kind; the primary and the node
//! that is asked run the block if they have one.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use rcp::proto::clock::Mono;
use rcp::proto::frame::{ControlBlock, ControlResult, Frame};
use rcp::proto::ids::{GroupName, Label, NodeName, SetNumber, StateId};
use rcp::proto::limits::MAX_CONTROL_BLOCK;
use volmcast::volume::Role;

use super::journal::{self, Known};
use super::links::Link;
use super::{AskId, ConnId, Effect, Level, Mover, Reply};
use crate::api::{ApiError, ApiErrorKind, MemberResult};

/// Kind of block that has every replica hash a volume's first bytes.
pub const HASH: &str = "volume-hash";
/// Blocks that are kept at a time, of at most 32 KiB each; of those that are done, the oldest go
/// first.
const MAX_PENDING: usize = 256;
/// A block from above that nobody asked about for this long is dropped.
const KEEP: Duration = Duration::from_secs(3600);
/// Results of one block that are kept.
const MAX_MEMBERS: usize = 16_384;
/// Beginning of the kinds that nodes handle by themselves.
const OWN_KINDS: &str = "volume-";
/// Hops after which a block is in a loop.
const MAX_HOPS: u8 = 64;

#[derive(Clone, Debug)]
enum Origin {
    /// An operator here.
    Ask { ask: AskId, deadline: Mono },
    /// The parent.
    Above { conn: ConnId },
    /// An operator here, whose time was up.
    Nobody,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Own {
    /// For its state.
    Waiting,
    /// Its beginning is being put on record.
    Beginning,
    Running,
    /// Its result is being put on record.
    Ending,
    Done,
}

/// What an operator or program wants every member to execute.
#[derive(Clone, Debug)]
pub struct Order {
    /// Which group.
    pub group: String,
    /// Id of the block; the same again is not executed again.
    pub id: [u8; 16],
    /// What to do.
    pub kind: String,
    /// Not before this state of a volume is visible; without a number, the newest that there is.
    pub after: Option<(String, Option<u64>)>,
    /// For the handler.
    pub body: Bytes,
    /// How long to wait for all members.
    pub wait: Duration,
}

fn not_connected(link: &Link) -> String {
    let why = link.reason.as_deref().unwrap_or("never was");
    format!("not connected, nor are those below it: {why}")
}

/// A block under way.
#[derive(Debug)]
pub(super) struct Pending {
    block: ControlBlock,
    group: GroupName,
    origin: Origin,
    own: Own,
    /// Children whose subtree is not done.
    waiting: BTreeSet<NodeName>,
    results: BTreeMap<NodeName, (bool, Bytes)>,
    /// The result here, until it is on record.
    held: Option<(bool, Bytes)>,
    since: Mono,
}

impl Mover {
    /// Has every replica of a group hash the first `len` bytes of a volume at a state.
    pub(super) fn ask_hash(
        &mut self,
        ask: AskId,
        volume: &str,
        set: u64,
        len: u64,
        wait: Duration,
    ) {
        let found = self.volume_named(volume).and_then(|id| {
            let h = self.volumes.get(&id);
            let state = h.and_then(|h| h.volume.state_id(rcp::proto::ids::SetNumber(set)));
            let group = h.map(|h| h.group.clone());
            state.zip(group).ok_or_else(|| {
                let text = format!("volume {volume} has no history yet");
                ApiError::new(ApiErrorKind::Conflict, text)
            })
        });
        let (state, group) = match found {
            Ok(x) => x,
            Err(e) => return self.effect(Effect::Reply { ask, reply: Reply::Refused(e) }),
        };
        let mut id = [0u8; 16];
        id[..8].copy_from_slice(&self.random().to_le_bytes());
        id[8..].copy_from_slice(&self.random().to_le_bytes());
        let block = ControlBlock {
            id,
            kind: HASH.to_owned(),
            after: Some(state),
            body: Bytes::copy_from_slice(&len.to_le_bytes()),
            hops: 0,
        };
        let deadline = self.now.after(wait);
        self.ask_control(group, block, ask, deadline);
    }

    /// Has every member of a group execute a block.
    pub(super) fn ask_block(&mut self, ask: AskId, order: Order) {
        let deadline = self.now.after(order.wait.min(KEEP));
        match self.block_of(order) {
            Ok((group, block)) => self.ask_control(group, block, ask, deadline),
            Err(e) => self.effect(Effect::Reply { ask, reply: Reply::Refused(e) }),
        }
    }

    fn block_of(&self, order: Order) -> Result<(GroupName, ControlBlock), ApiError> {
        let bad = |text: String| ApiError::new(ApiErrorKind::BadRequest, text);
        let group = GroupName::new(&order.group).map_err(|e| bad(e.to_string()))?;
        if !self.groups.contains_key(&group) {
            let known: Vec<_> = self.groups.keys().map(ToString::to_string).collect();
            return Err(ApiError::new(
                ApiErrorKind::NotFound,
                format!(
                    "{} is not in a group {group}; its groups are: {}",
                    self.cfg.node,
                    known.join(", ")
                ),
            ));
        }
        Label::new(&order.kind).map_err(|e| bad(format!("the kind of a block: {e}")))?;
        if order.kind.starts_with(OWN_KINDS) {
            return Err(bad(format!("kinds that begin with `{OWN_KINDS}` are the program's own")));
        }
        if order.body.len() > MAX_CONTROL_BLOCK {
            return Err(bad(format!(
                "the data of a block is at most {MAX_CONTROL_BLOCK} bytes, this is {}: put it into a \
                 file of the volume, and send its name",
                order.body.len()
            )));
        }
        let after = match order.after {
            None => None,
            Some((volume, set)) => {
                let id = self.volume_named(&volume)?;
                let h = self.volumes.get(&id).filter(|h| h.group == group);
                let h = h.ok_or_else(|| bad(format!("volume {volume} is not of group {group}")))?;
                let newest = h.newest.max(h.volume.durable().visible);
                let set = set.map_or(newest, SetNumber);
                if set > newest {
                    return Err(bad(format!(
                        "volume {volume} has no state {set} yet, its newest is {newest}: cut first \
                         (rcpctl delta cut {volume})"
                    )));
                }
                let none = || bad(format!("volume {volume} has no history yet"));
                Some(h.volume.state_id(set).ok_or_else(none)?)
            }
        };
        let Order { id, kind, body, .. } = order;
        let block = ControlBlock { id, kind, after, body, hops: 0 };
        if self.journal.known(&block) == Known::Another {
            return Err(ApiError::new(
                ApiErrorKind::Conflict,
                "this id was used for another control block: leave --id away to get a new one",
            ));
        }
        Ok((group, block))
    }

    fn ask_control(&mut self, group: GroupName, block: ControlBlock, ask: AskId, deadline: Mono) {
        if let Some(p) = self.controls.get_mut(&block.id)
            && matches!(p.origin, Origin::Nobody)
            && (&p.block.kind, &p.block.body, p.block.after)
                == (&block.kind, &block.body, block.after)
        {
            p.origin = Origin::Ask { ask, deadline };
            return self.check_control(block.id);
        }
        let why = if self.controls.contains_key(&block.id) {
            "a control block with this id is under way here: wait for its result"
        } else if !self.room_for_control() {
            "too many control blocks are under way: wait until some have ended"
        } else {
            return self.begin_control(group, block, Origin::Ask { ask, deadline });
        };
        let e = ApiError::new(ApiErrorKind::Conflict, why);
        self.effect(Effect::Reply { ask, reply: Reply::Refused(e) });
    }

    /// Makes room for a block by dropping the oldest of those that are done.
    fn room_for_control(&mut self) -> bool {
        if self.controls.len() < MAX_PENDING {
            return true;
        }
        let done = |p: &Pending| p.own == Own::Done && p.waiting.is_empty();
        let oldest = self.controls.iter().filter(|(_, p)| done(p)).min_by_key(|(_, p)| p.since);
        let Some(id) = oldest.map(|(id, _)| *id) else { return false };
        self.controls.remove(&id);
        true
    }

    fn begin_control(&mut self, group: GroupName, block: ControlBlock, origin: Origin) {
        let id = block.id;
        let waiting: BTreeSet<_> =
            self.groups.get(&group).map(|g| g.links.keys().cloned().collect()).unwrap_or_default();
        let asked = matches!(origin, Origin::Ask { .. });
        let mut p = Pending {
            block,
            group,
            origin,
            own: Own::Waiting,
            waiting: waiting.clone(),
            results: BTreeMap::new(),
            held: None,
            since: self.now,
        };
        let told = self.own_part(&mut p, asked);
        self.controls.insert(id, p);
        if let Some((ok, body)) = told {
            self.own_result(id, ok, body);
        }
        for child in waiting {
            self.pass_control(id, &child);
        }
        self.try_control(id);
        self.check_control(id);
    }

    /// What this node has to do itself, or what it can say at once.
    fn own_part(&self, p: &mut Pending, asked: bool) -> Option<(bool, Bytes)> {
        let plan = self.groups.get(&p.group).map(|g| &g.plan);
        let (replica, primary) =
            plan.map_or((false, false), |p| (p.replica && !p.primary, p.primary));
        p.own = Own::Done;
        if p.block.kind == HASH {
            if replica {
                p.own = Own::Waiting;
            }
            return None;
        }
        match self.journal.known(&p.block) {
            Known::Result(ok, body) => return Some((ok, body)),
            Known::Another => {
                let text = "its id was used for another control block, which ran here";
                return Some((false, Bytes::from_static(text.as_bytes())));
            }
            Known::No => {}
        }
        if self.cfg.handlers.contains(&p.block.kind) {
            if replica || primary {
                p.own = Own::Waiting;
            }
            return None;
        }
        let must = replica && (!asked || p.waiting.is_empty());
        must.then(|| {
            let (node, kind) = (&self.cfg.node, &p.block.kind);
            let text = format!(
                "no handler for control blocks `{kind}` at {node}: write `handlers: {{{kind}: \
                 [PROGRAM]}}` for this node in the topology"
            );
            (false, Bytes::from(text))
        })
    }

    /// A block came from the parent.
    pub(super) fn control_from_above(&mut self, conn: ConnId, block: ControlBlock) {
        let Some(group) = self.conns.get(&conn).map(|c| c.group.clone()) else { return };
        let id = block.id;
        if let Some(p) = self.controls.get_mut(&id) {
            if p.block.kind != block.kind || p.block.body != block.body || p.group != group {
                let text = "its id was used for another control block, and so neither this node nor \
                            those below it execute it";
                return self.refuse_control(conn, id, text.to_owned());
            }
            // Told again: the parent lost what we had said. Whoever asked here is told as well.
            if matches!(p.origin, Origin::Above { .. }) {
                p.origin = Origin::Above { conn };
            }
            let known: Vec<_> = p.results.iter().map(|(n, r)| (n.clone(), r.clone())).collect();
            for (node, (ok, body)) in known {
                let r = ControlResult { id, node, ok, body, done: false };
                self.send(conn, Frame::ControlResult(r));
            }
            self.check_control(id);
            return;
        }
        if block.hops >= MAX_HOPS {
            let text = format!("it came over {MAX_HOPS} hops: the routes close a loop");
            return self.refuse_control(conn, id, text);
        }
        if !self.room_for_control() {
            let text = format!("{MAX_PENDING} control blocks are under way: send it again later");
            return self.refuse_control(conn, id, text);
        }
        let block = ControlBlock { hops: block.hops + 1, ..block };
        self.begin_control(group, block, Origin::Above { conn });
    }

    /// Says that neither this node nor those below it execute a block.
    fn refuse_control(&mut self, conn: ConnId, id: [u8; 16], text: String) {
        let node = self.cfg.node.clone();
        let r = ControlResult { id, node, ok: false, body: Bytes::from(text), done: true };
        self.send(conn, Frame::ControlResult(r));
    }

    /// A child came up: it is told what it has not finished.
    pub(super) fn controls_for_child(&mut self, group: &GroupName, child: &NodeName) {
        let ids: Vec<_> = self
            .controls
            .iter()
            .filter(|(_, p)| p.group == *group && p.waiting.contains(child))
            .map(|(id, _)| *id)
            .collect();
        for id in ids {
            self.pass_control(id, child);
        }
    }

    fn pass_control(&mut self, id: [u8; 16], child: &NodeName) {
        let Some(p) = self.controls.get(&id) else { return };
        let block = p.block.clone();
        let conn = self
            .groups
            .get(&p.group)
            .and_then(|g| g.links.get(child))
            .filter(|l| l.up)
            .and_then(|l| l.conn);
        if let Some(conn) = conn {
            self.send(conn, Frame::Control(block));
        }
    }

    /// Executes a block here if its state is visible; else says what it waits for.
    fn try_control(&mut self, id: [u8; 16]) {
        let Some(p) = self.controls.get(&id).filter(|p| p.own == Own::Waiting) else { return };
        if let Some(why) = p.block.after.and_then(|after| self.not_yet(&p.group, after)) {
            let why = Bytes::from(why);
            if p.results.get(&self.cfg.node).is_none_or(|(_, known)| *known != why) {
                self.result(id, self.cfg.node.clone(), false, why);
            }
            return;
        }
        if p.block.kind == HASH {
            return self.hash_here(id);
        }
        let block = p.block.clone();
        match self.journal.begin(&block, self.wall) {
            Ok(bytes) => {
                if let Some(p) = self.controls.get_mut(&id) {
                    p.own = Own::Beginning;
                }
                self.record(id, bytes);
            }
            Err(e) => {
                let text = format!("not executed: {e}");
                self.own_result(id, false, Bytes::from(text));
            }
        }
    }

    /// Why a block cannot be executed yet.
    fn not_yet(&self, group: &GroupName, after: StateId) -> Option<String> {
        let Some(h) = self.volumes.get(&after.volume).filter(|h| h.group == *group) else {
            return Some(format!("waits for volume {}, which is not here yet", after.volume));
        };
        if let Some(why) = h.volume.refusal() {
            return Some(format!("waits for state {} of {}: {why}", after.set, h.label));
        }
        let d = h.volume.durable();
        let primary = matches!(h.volume.config().role, Role::Primary { .. });
        // The primary has what it has cut.
        let shown = if primary { h.newest.max(d.visible) } else { d.visible };
        let line = d.history.iter().any(|b| b.generation == after.generation);
        if !line {
            return Some(format!("waits for the history of {} that the block is about", h.label));
        }
        (shown < after.set)
            .then(|| format!("waits for state {} of {}, shows {shown}", after.set, h.label))
    }

    fn hash_here(&mut self, id: [u8; 16]) {
        let Some(p) = self.controls.get_mut(&id) else { return };
        let Some(after) = p.block.after else {
            return self.own_result(id, false, Bytes::from_static(b"a hash needs a state"));
        };
        let Some(h) = self.volumes.get(&after.volume) else { return };
        p.own = Own::Running;
        let len = p.block.body.first_chunk::<8>().map_or(0, |b| u64::from_le_bytes(*b));
        let label = h.label.clone();
        self.effects.push_back(Effect::Hash { id, label, state: after, len });
    }

    fn record(&mut self, id: [u8; 16], bytes: Vec<u8>) {
        let whole = self.journal.is_wasteful();
        let bytes = if whole { self.journal.compact(self.wall) } else { bytes };
        self.effect(Effect::RecordBlock { id, bytes, whole });
    }

    /// What [`Effect::RecordBlock`] was about is durable, or why it is not.
    pub fn block_recorded(&mut self, now: Mono, id: [u8; 16], stored: Result<(), String>) {
        self.now = self.now.max(now);
        let Some(p) = self.controls.get_mut(&id) else { return };
        match (p.own, stored) {
            (Own::Beginning, Ok(())) => {
                p.own = Own::Running;
                let (kind, body, after) =
                    (p.block.kind.clone(), p.block.body.clone(), p.block.after);
                let group = p.group.clone();
                self.effect(Effect::Handle { id, kind, group, after, body });
            }
            (Own::Beginning, Err(e)) => {
                self.journal.not_begun(&id);
                let text = format!("not executed, since it cannot be put on record: {e}");
                self.own_result(id, false, Bytes::from(text));
            }
            (Own::Ending, stored) => {
                let Some((ok, body)) = p.held.take() else { return };
                if let Err(e) = stored {
                    // It is on record that it began, so it will not run again.
                    let text = format!("the result of a control block is not on record: {e}");
                    self.note(Level::Error, text);
                }
                self.own_result(id, ok, body);
            }
            _ => {}
        }
    }

    /// Looks at all blocks: some may have become possible, some are overdue.
    pub(super) fn tick_controls(&mut self) {
        let ids: Vec<_> = self.controls.keys().copied().collect();
        for id in ids {
            self.try_control(id);
            self.absent(id);
            self.check_control(id);
        }
        let now = self.now;
        let idle = |p: &Pending| matches!(p.own, Own::Waiting | Own::Done);
        self.controls.retain(|_, p| {
            matches!(p.origin, Origin::Ask { .. }) || !idle(p) || now.since(p.since) < KEEP
        });
    }

    /// The work of a block was done here.
    pub fn control_done(&mut self, now: Mono, id: [u8; 16], ok: bool, body: Bytes) {
        self.now = self.now.max(now);
        let Some(p) = self.controls.get_mut(&id).filter(|p| p.own == Own::Running) else { return };
        if p.block.kind == HASH {
            return self.own_result(id, ok, body);
        }
        p.own = Own::Ending;
        p.held = Some((ok, body.slice(..body.len().min(journal::MAX_RESULT))));
        let bytes = self.journal.done(&id, ok, &body, self.wall);
        self.record(id, bytes);
    }

    /// The last word of this node about a block.
    fn own_result(&mut self, id: [u8; 16], ok: bool, body: Bytes) {
        if let Some(p) = self.controls.get_mut(&id) {
            p.own = Own::Done;
        }
        self.result(id, self.cfg.node.clone(), ok, body);
        self.check_control(id);
    }

    /// Notes what a node says, and passes it on.
    fn result(&mut self, id: [u8; 16], node: NodeName, ok: bool, body: Bytes) {
        let Some(p) = self.controls.get_mut(&id) else { return };
        p.results.insert(node.clone(), (ok, body.clone()));
        if let Origin::Above { conn } = p.origin {
            let r = ControlResult { id, node, ok, body, done: false };
            self.send(conn, Frame::ControlResult(r));
        }
    }

    /// Says upward which children are not connected.
    fn absent(&mut self, id: [u8; 16]) {
        let Some(p) = self.controls.get(&id) else { return };
        if !matches!(p.origin, Origin::Above { .. }) {
            return;
        }
        let links = self.groups.get(&p.group).map(|g| &g.links);
        let news: Vec<_> = p
            .waiting
            .iter()
            .filter_map(|c| {
                let link = links.and_then(|l| l.get(c));
                let text = link.filter(|l| !l.up).map(not_connected)?;
                let known = p.results.get(c).is_some_and(|(_, b)| b.as_ref() == text.as_bytes());
                (!known).then(|| (c.clone(), Bytes::from(text)))
            })
            .collect();
        for (child, text) in news {
            self.result(id, child, false, text);
        }
    }

    /// A child tells a result of its subtree.
    pub(super) fn control_from_below(&mut self, conn: ConnId, r: ControlResult) {
        let Some(child) = self.conns.get(&conn).and_then(|c| c.peer.clone()) else { return };
        let Some(p) = self.controls.get_mut(&r.id) else { return };
        if r.done {
            p.waiting.remove(&child);
        }
        // A tree has few enough members; whoever makes some up does not fill our memory.
        let room = p.results.len() < MAX_MEMBERS || p.results.contains_key(&r.node);
        let id = r.id;
        if !r.body.is_empty() && room {
            self.result(id, r.node, r.ok, r.body);
        }
        self.check_control(id);
    }

    /// Says upward, or to whoever asked, that a subtree is done, or that time is up.
    fn check_control(&mut self, id: [u8; 16]) {
        let Some(p) = self.controls.get(&id) else { return };
        let done = p.own == Own::Done && p.waiting.is_empty();
        match p.origin {
            Origin::Above { conn } if done => {
                let node = self.cfg.node.clone();
                let r = ControlResult { id, node, ok: true, body: Bytes::new(), done: true };
                self.send(conn, Frame::ControlResult(r));
            }
            Origin::Ask { ask, deadline } if done || self.now >= deadline => {
                let members = self.members(id);
                if done {
                    self.controls.remove(&id);
                } else if let Some(p) = self.controls.get_mut(&id) {
                    p.origin = Origin::Nobody;
                }
                self.effect(Effect::Reply { ask, reply: Reply::Members(members) });
            }
            _ => {}
        }
    }

    /// Results so far, and who is missing and why.
    fn members(&self, id: [u8; 16]) -> Vec<MemberResult> {
        let Some(p) = self.controls.get(&id) else { return Vec::new() };
        let mut out: Vec<_> = p
            .results
            .iter()
            .map(|(n, (ok, body))| MemberResult {
                node: n.to_string(),
                ok: *ok,
                text: String::from_utf8_lossy(body).into_owned(),
            })
            .collect();
        for child in &p.waiting {
            let link = self.groups.get(&p.group).and_then(|g| g.links.get(child));
            let why = match link {
                Some(l) if l.up => "it, or a node below it, has not finished".to_owned(),
                Some(l) => not_connected(l),
                None => "its route was deleted".to_owned(),
            };
            let down = link.is_none_or(|l| !l.up);
            let told = out.iter_mut().find(|m: &&mut MemberResult| m.node == child.as_str());
            match told {
                Some(m) if down && !m.ok => m.text = why,
                Some(_) => {}
                None => out.push(MemberResult { node: child.to_string(), ok: false, text: why }),
            }
        }
        out
    }
}
