//! Control blocks: a command down the tree, a result from every member back up (CB-01 to CB-06).
//!
//! Who has said what, who is waited for and what ran already is [`rcp::proto::control`]'s to know;
//! here is what it means for a data mover: which blocks it executes, which state it waits for, who
//! its children are. Every application command runs at most once; hashing a volume changes nothing
//! and is simply done again.
//!
//! Every member with a replica has to have a handler for a block's kind; the primary and the node
//! that is asked run the block if they have one.

use std::time::Duration;

use bytes::Bytes;
use rcp::proto::clock::Mono;
use rcp::proto::control::{self, Below, Origin, Part, Report, Taken};
use rcp::proto::frame::{ControlBlock, ControlResult, Frame};
use rcp::proto::ids::{GroupName, Label, NodeName, SetNumber, StateId};
use rcp::proto::limits::MAX_CONTROL_BLOCK;
use volmcast::volume::Role;

use super::links::Group;
use super::{AskId, ConnId, Effect, Level, Mover, Reply};
use crate::api::{ApiError, ApiErrorKind, MemberResult};

/// Kind of block that has every replica hash a volume's first bytes.
pub const HASH: &str = "volume-hash";
/// Blocks that are kept at a time, of at most 32 KiB each; of those that are done, the oldest go
/// first.
pub(super) const MAX_PENDING: usize = 256;
/// Longest time that somebody can wait for all members.
const MAX_WAIT: Duration = Duration::from_secs(3600);
/// Beginning of the kinds that nodes handle by themselves.
pub(super) const OWN_KINDS: &str = "volume-";

/// The blocks under way at this node.
pub(super) type Blocks = control::Blocks<AskId, ConnId>;

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

/// Whether what executes such a block may read the volume.
fn reads(kind: &str) -> bool {
    kind == HASH || !kind.starts_with(OWN_KINDS)
}

/// How a child is.
fn below(group: Option<&Group>, child: &NodeName) -> Below {
    match group.and_then(|g| g.links.get(child)) {
        Some(l) if l.up => Below::Up,
        Some(l) => Below::Away(control::not_connected(l.reason.as_deref())),
        None => Below::Gone,
    }
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
        let deadline = self.now.after(order.wait.min(MAX_WAIT));
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
        let order = self.sent_by_hand(&group, order)?;
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
        if self.controls.is_another(&block) {
            return Err(ApiError::new(
                ApiErrorKind::Conflict,
                "this id was used for another control block: leave --id away to get a new one",
            ));
        }
        Ok((group, block))
    }

    fn ask_control(&mut self, group: GroupName, block: ControlBlock, ask: AskId, deadline: Mono) {
        match self.controls.asked(&block, ask, deadline, self.now) {
            Taken::New => self.begin_control(group, block, Origin::Ask { ask, deadline }),
            Taken::Known => self.carry_out(),
            Taken::No(why) => {
                let e = ApiError::new(ApiErrorKind::Conflict, why);
                self.effect(Effect::Reply { ask, reply: Reply::Refused(e) });
            }
        }
    }

    fn begin_control(
        &mut self,
        group: GroupName,
        block: ControlBlock,
        origin: Origin<AskId, ConnId>,
    ) {
        let children = self.groups.get(&group).map(|g| g.links.keys().cloned().collect());
        let children: std::collections::BTreeSet<_> = children.unwrap_or_default();
        let must = matches!(origin, Origin::Above { .. }) || children.is_empty();
        let part = match self.own_part(&group, &block, must) {
            does @ (Part::Once | Part::Repeatable) => self.not_at_a_mirror(&block).unwrap_or(does),
            part => part,
        };
        let id = block.id;
        let order = control::Order { group, block, origin, children, part };
        self.controls.begin(order, self.now);
        self.try_control(id);
        self.controls.check(id, self.now);
        self.carry_out();
    }

    /// What this node has to do itself, or what it can say at once. If it `must`, it says so when it
    /// has no handler.
    fn own_part(&self, group: &GroupName, block: &ControlBlock, must: bool) -> Part {
        let plan = self.groups.get(group).map(|g| &g.plan);
        let (replica, primary) =
            plan.map_or((false, false), |p| (p.replica && !p.primary, p.primary));
        let own = super::kinds::Own::named(&block.kind);
        let part = own.and_then(|own| self.own_kind_part(own, block, (replica, primary)));
        if let Some(part) = part {
            return part;
        }
        if let Some(told) = self.controls.on_record(block) {
            return told;
        }
        if own.is_some() {
            return Part::Once;
        }
        let own_kind = super::kinds::is_nodes_own(&block.kind);
        if self.cfg.handlers.contains(&block.kind) && !own_kind {
            return if replica || primary { Part::Once } else { Part::Nothing };
        }
        if !(replica && must) {
            return Part::Nothing;
        }
        let (node, kind) = (&self.cfg.node, &block.kind);
        if own_kind {
            let text =
                format!("{node} runs its handler `{kind}` by itself, and for no control block");
            return Part::Told(false, Bytes::from(text));
        }
        let text = format!(
            "no handler for control blocks `{kind}` at {node}: write `handlers: {{{kind}: \
             [PROGRAM]}}` for this node in the topology"
        );
        Part::Told(false, Bytes::from(text))
    }

    /// What is to be done after a state is not waited for where nobody may come to see it.
    fn not_at_a_mirror(&self, block: &ControlBlock) -> Option<Part> {
        let after = block.after.filter(|_| reads(&block.kind))?;
        let h = self.volumes.get(&after.volume).filter(|h| h.volume.is_mirroring())?;
        let text = format!(
            "{} mirrors {} without consistent views: there is no state {} here to do this after",
            self.cfg.node, h.label, after.set
        );
        Some(Part::Told(false, Bytes::from(text)))
    }

    /// A block came from the parent.
    pub(super) fn control_from_above(&mut self, conn: ConnId, block: ControlBlock) {
        let Some(group) = self.conns.get(&conn).map(|c| c.group.clone()) else { return };
        match self.controls.from_above(conn, &group, &block, self.now) {
            Taken::New => self.begin_control(group, block, Origin::Above { conn }),
            Taken::Known | Taken::No(_) => self.carry_out(),
        }
    }

    /// A child came up: it is told what it has not finished.
    pub(super) fn controls_for_child(&mut self, group: &GroupName, child: &NodeName) {
        self.controls.for_child(group, child);
        self.carry_out();
    }

    /// A child is below another node again.
    pub(super) fn pass_controls_on(&mut self, group: &GroupName, child: &NodeName) {
        self.controls.passed_on(group, child, self.now);
        self.carry_out();
    }

    fn pass_control(&mut self, group: &GroupName, child: &NodeName, block: ControlBlock) {
        let link = self.groups.get(group).and_then(|g| g.links.get(child));
        if let Some(conn) = link.filter(|l| l.up).and_then(|l| l.conn) {
            self.send(conn, Frame::Control(block));
        }
    }

    /// Executes a block here if its state is visible; else says what it waits for.
    fn try_control(&mut self, id: [u8; 16]) {
        let Some((group, block)) = self.controls.get(&id) else { return };
        match block.after.and_then(|after| self.not_yet(group, after, reads(&block.kind))) {
            Some(why) => self.controls.waits(id, why),
            None => self.controls.go(id, self.now, self.wall),
        }
    }

    /// Why a block cannot be executed yet.
    fn not_yet(&self, group: &GroupName, after: StateId, reads: bool) -> Option<String> {
        let Some(h) = self.volumes.get(&after.volume).filter(|h| h.group == *group) else {
            return Some(format!("waits for volume {}, which is not here yet", after.volume));
        };
        let why = if reads { h.volume.refusal() } else { h.volume.unwhole() };
        if let Some(why) = why {
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

    fn hash_here(&mut self, block: &ControlBlock) {
        let id = block.id;
        let Some(after) = block.after else {
            let text = Bytes::from_static(b"a hash needs a state");
            return self.controls.done(id, false, text, self.now, self.wall);
        };
        let Some(h) = self.volumes.get(&after.volume) else { return };
        let len = block.body.first_chunk::<8>().map_or(0, |b| u64::from_le_bytes(*b));
        let label = h.label.clone();
        self.effects.push_back(Effect::Hash { id, label, state: after, len });
    }

    /// Does what the blocks under way ask for.
    fn carry_out(&mut self) {
        while let Some(e) = self.controls.poll_effect() {
            match e {
                control::Effect::Tell { conn, result } => {
                    self.send(conn, Frame::ControlResult(result));
                }
                control::Effect::Pass { group, child, block } => {
                    self.pass_control(&group, &child, block);
                }
                control::Effect::Record { id, bytes, whole } => {
                    self.effect(Effect::RecordBlock { id, bytes, whole });
                }
                control::Effect::Run { block, .. } if block.kind == HASH => self.hash_here(&block),
                control::Effect::Run { group, block } if block.kind.starts_with(OWN_KINDS) => {
                    self.run_own(&group, &block);
                }
                control::Effect::Run { group, block } => {
                    let ControlBlock { id, kind, after, body, .. } = block;
                    self.effect(Effect::Handle { id, kind, group, after, body });
                }
                control::Effect::Answer { ask, report } => {
                    let members = self.members(&report);
                    self.effect(Effect::Reply { ask, reply: Reply::Members(members) });
                }
                control::Effect::Note(text) => self.note(Level::Error, text),
            }
        }
    }

    /// What [`Effect::RecordBlock`] was about is durable, or why it is not.
    pub fn block_recorded(&mut self, now: Mono, id: [u8; 16], stored: Result<(), String>) {
        self.now = self.now.max(now);
        self.controls.recorded(id, stored, self.now);
        self.carry_out();
    }

    /// Looks at all blocks: some may have become possible, some are overdue.
    pub(super) fn tick_controls(&mut self) {
        for (_, block) in self.controls.waiting() {
            self.try_control(block.id);
        }
        let groups = &self.groups;
        for id in self.controls.ids() {
            self.controls.absent(id, |g, child| below(groups.get(g), child));
            self.controls.check(id, self.now);
        }
        self.controls.forget_idle(self.now);
        self.carry_out();
    }

    /// The work of a block was done here.
    pub fn control_done(&mut self, now: Mono, id: [u8; 16], ok: bool, body: Bytes) {
        self.now = self.now.max(now);
        if self.notice_done(id, ok, &body)
            || self.role_handled(id, ok, &body)
            || self.lost_handled(id, ok, &body)
        {
            return;
        }
        self.controls.done(id, ok, body, self.now, self.wall);
        self.carry_out();
    }

    /// A child tells a result of its subtree.
    pub(super) fn control_from_below(&mut self, conn: ConnId, r: ControlResult) {
        let Some(c) = self.conns.get(&conn) else { return };
        let (group, Some(child)) = (c.group.clone(), c.peer.clone()) else { return };
        self.controls.from_below(&group, &child, r, self.now);
        self.carry_out();
    }

    /// Results so far, and who is missing and why.
    fn members(&self, report: &Report) -> Vec<MemberResult> {
        let group = self.groups.get(&report.group);
        let one = |m: control::Member| MemberResult {
            node: m.node.to_string(),
            ok: m.ok,
            text: String::from_utf8_lossy(&m.text).into_owned(),
        };
        report.members(|child| below(group, child)).into_iter().map(one).collect()
    }
}
