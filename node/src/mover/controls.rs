//! Control blocks: a command down the tree, a result from every member back up (CB-05, CB-06).
//!
//! A block is executed here when its state is visible (`after:`), passed to every child, and kept
//! until each child has said that its subtree is done. A child that was away is told again when it
//! is back; a node that was told twice answers from what it has, or does the work again: every kind
//! is harmless to repeat. What is known so far flows up at once, so that whoever waits can say who
//! is missing.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use rcp::proto::clock::Mono;
use rcp::proto::frame::{ControlBlock, ControlResult, Frame};
use rcp::proto::ids::{GroupName, NodeName};
use volmcast::volume::Role;

use super::{AskId, ConnId, Effect, Mover, Reply};
use crate::api::{ApiError, ApiErrorKind, MemberResult};

/// Kind of block that has every replica hash a volume's first bytes.
pub const HASH: &str = "volume-hash";
/// Blocks that are kept at a time; the oldest go first.
const MAX_PENDING: usize = 256;
/// A block from above that nobody asked about for this long is dropped.
const KEEP: Duration = Duration::from_secs(3600);

#[derive(Clone, Debug)]
enum Origin {
    /// An operator here.
    Ask { ask: AskId, deadline: Mono },
    /// The parent.
    Above { conn: ConnId },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Own {
    Waiting,
    Running,
    Done,
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
        self.begin_control(group, block, Origin::Ask { ask, deadline });
    }

    fn begin_control(&mut self, group: GroupName, block: ControlBlock, origin: Origin) {
        while self.controls.len() >= MAX_PENDING {
            let oldest = self.controls.iter().min_by_key(|(_, p)| p.since).map(|(id, _)| *id);
            if let Some(id) = oldest {
                self.controls.remove(&id);
            }
        }
        let id = block.id;
        let waiting: BTreeSet<_> =
            self.groups.get(&group).map(|g| g.links.keys().cloned().collect()).unwrap_or_default();
        let replica = self.groups.get(&group).is_some_and(|g| g.plan.replica && !g.plan.primary);
        let own = if replica { Own::Waiting } else { Own::Done };
        let p = Pending {
            block,
            group,
            origin,
            own,
            waiting: waiting.clone(),
            results: BTreeMap::new(),
            since: self.now,
        };
        self.controls.insert(id, p);
        for child in waiting {
            self.pass_control(id, &child);
        }
        self.try_control(id);
        self.check_control(id);
    }

    /// A block came from the parent.
    pub(super) fn control_from_above(&mut self, conn: ConnId, block: ControlBlock) {
        if block.kind != HASH {
            let text = format!(
                "no application is registered at {} for control blocks `{}`",
                self.cfg.node, block.kind
            );
            let node = self.cfg.node.clone();
            let body = Bytes::from(text);
            let result = ControlResult { id: block.id, node, ok: false, body, done: true };
            self.send(conn, Frame::ControlResult(result));
            return;
        }
        let Some(group) = self.conns.get(&conn).map(|c| c.group.clone()) else { return };
        let id = block.id;
        if let Some(p) = self.controls.get_mut(&id) {
            // Told again: the parent lost what we had said.
            p.origin = Origin::Above { conn };
            let known: Vec<_> = p.results.iter().map(|(n, r)| (n.clone(), r.clone())).collect();
            for (node, (ok, body)) in known {
                let r = ControlResult { id, node, ok, body, done: false };
                self.send(conn, Frame::ControlResult(r));
            }
            self.check_control(id);
            return;
        }
        let block = ControlBlock { hops: block.hops.saturating_add(1), ..block };
        self.begin_control(group, block, Origin::Above { conn });
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

    /// Executes a block here if its state is visible.
    fn try_control(&mut self, id: [u8; 16]) {
        let Some(p) = self.controls.get_mut(&id) else { return };
        let Some(after) = p.block.after else { return };
        if p.own != Own::Waiting {
            return;
        }
        let Some(h) = self.volumes.get(&after.volume) else { return };
        let visible = h.volume.durable().visible >= after.set && h.volume.refusal().is_none();
        if !visible || !matches!(h.volume.config().role, Role::Replica { .. }) {
            return;
        }
        p.own = Own::Running;
        let len = p.block.body.first_chunk::<8>().map_or(0, |b| u64::from_le_bytes(*b));
        let label = h.label.clone();
        self.effects.push_back(Effect::Hash { id, label, state: after, len });
    }

    /// Looks at all blocks: some may have become possible, some are overdue.
    pub(super) fn tick_controls(&mut self) {
        let ids: Vec<_> = self.controls.keys().copied().collect();
        for id in ids {
            self.try_control(id);
            self.check_control(id);
        }
        let now = self.now;
        self.controls
            .retain(|_, p| matches!(p.origin, Origin::Ask { .. }) || now.since(p.since) < KEEP);
    }

    /// The work of a block was done here.
    pub fn control_done(&mut self, now: Mono, id: [u8; 16], ok: bool, body: Bytes) {
        self.now = self.now.max(now);
        let node = self.cfg.node.clone();
        let Some(p) = self.controls.get_mut(&id) else { return };
        p.own = Own::Done;
        p.results.insert(node.clone(), (ok, body.clone()));
        if let Origin::Above { conn } = p.origin {
            let r = ControlResult { id, node, ok, body, done: false };
            self.send(conn, Frame::ControlResult(r));
        }
        self.check_control(id);
    }

    /// A child tells a result of its subtree.
    pub(super) fn control_from_below(&mut self, conn: ConnId, r: ControlResult) {
        let Some(child) = self.conns.get(&conn).and_then(|c| c.peer.clone()) else { return };
        let Some(p) = self.controls.get_mut(&r.id) else { return };
        if !r.body.is_empty() {
            p.results.insert(r.node.clone(), (r.ok, r.body.clone()));
        }
        if r.done {
            p.waiting.remove(&child);
        }
        let id = r.id;
        if let Origin::Above { conn } = p.origin
            && !r.body.is_empty()
        {
            self.send(conn, Frame::ControlResult(ControlResult { done: false, ..r }));
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
                self.controls.remove(&id);
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
                Some(l) => format!("not connected: {}", l.reason.as_deref().unwrap_or("never was")),
                None => "its route was deleted".to_owned(),
            };
            if !p.results.contains_key(child) {
                out.push(MemberResult { node: child.to_string(), ok: false, text: why });
            }
        }
        out
    }
}
