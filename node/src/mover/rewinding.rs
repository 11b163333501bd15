//! Taking a node's content back to where its line parted from the one that is followed (F28).
//!
//! ```text
//! a newer line parted before what is held here ─► no more is played, what was begun is finished
//!   ─► one commit: the branch, the mark, the history ─► the pending offer is taken: a catch-up
//! ```
//!
//! A crash before the commit leaves the old line, and the next offer begins again; one after it goes
//! on with what the mark says.

use rcp::proto::frame::Branch;
use rcp::proto::ids::{SetNumber, VolumeId};
use volmcast::volume::{Ending, Role};

use super::failover::{Change, conflict};
use super::{AskId, Effect, Held, Level, Mover, Reply};
use crate::api::{ApiError, ApiErrorKind, BranchStatus, Rewound, VolumeInfo, WriterAnswer};

/// Content that is to be taken back.
#[derive(Debug)]
pub(super) struct Rewinding {
    asks: Vec<AskId>,
    history: Vec<Branch>,
    fork: SetNumber,
    /// It is on its way to the disk; the branch that is kept.
    marking: Option<Option<String>>,
    /// There is no room in the list of branches.
    full: Option<String>,
}

impl Rewinding {
    pub(super) fn told(&self) -> String {
        match (&self.marking, &self.full) {
            (None, Some(why)) => format!("is to be taken back to set {}, and {why}", self.fork),
            (None, None) => format!(
                "is to be taken back to set {}, and finishes what it was showing",
                self.fork
            ),
            (Some(_), _) => format!("is being taken back to set {}", self.fork),
        }
    }

    pub(super) fn asks(&mut self) -> Vec<AskId> {
        std::mem::take(&mut self.asks)
    }
}

impl Mover {
    /// What is here is past the fork: it is taken back, and kept as a branch; or why that cannot be.
    pub(super) fn begin_rewind(
        &mut self,
        id: VolumeId,
        history: &[Branch],
        fork: SetNumber,
        ask: Option<AskId>,
    ) -> Result<(), String> {
        let Some(h) = self.volumes.get_mut(&id) else { return Ok(()) };
        h.volume.can_rewind(fork)?;
        h.inbound = None;
        h.volume.end_playback(Some(Ending::PlayNoMore));
        let (history, asks) = (history.to_vec(), ask.into_iter().collect());
        let by = history.last().map(|b| b.opened_by.to_string()).unwrap_or_default();
        h.change = Change::Rewinding(Rewinding { asks, history, fork, marking: None, full: None });
        let (label, at) = (h.label.clone(), h.volume.reaches());
        self.note(
            Level::Warn,
            format!(
                "volume {label}: {by} took over as the writer at set {fork}, and this node is at set \
                 {at}: it is taken back to set {fork}, and what it holds is kept as a branch"
            ),
        );
        self.settle(id);
        self.pump_rewind(id);
        Ok(())
    }

    /// The volume is on its way to another line.
    pub(super) fn rewinds(&self, id: VolumeId) -> bool {
        self.volumes.get(&id).is_some_and(|h| matches!(h.change, Change::Rewinding(_)))
    }

    pub(super) fn pump_rewind(&mut self, id: VolumeId) {
        let Some(h) = self.volumes.get_mut(&id) else { return };
        let Change::Rewinding(r) = &mut h.change else { return };
        if let Some(name) = &r.marking {
            if !h.volume.undoes().is_some_and(|(_, durable)| durable) {
                return;
            }
            let name = name.clone();
            return self.rewound(id, name);
        }
        if h.volume.rest().is_some() {
            r.full = h.volume.may_branch(r.fork).err();
            if r.full.is_some() {
                return;
            }
            let history = std::mem::take(&mut r.history);
            r.marking = Some(h.volume.rewind(r.fork, history, true));
            self.effect(Effect::Exports { volume: id });
            self.settle(id);
        } else if let Err(why) = h.volume.can_rewind(r.fork) {
            // Damage that was found on the way.
            let (history, fork) = (std::mem::take(&mut r.history), r.fork);
            let asks = r.asks();
            h.change = Change::None;
            h.volume.end_playback(None);
            self.give_up(id, fork, &history, &why);
            for ask in asks {
                let e = conflict(format!(
                    "it cannot be taken back: {why}; its content is compared with its parent's"
                ));
                self.effect(Effect::Reply { ask, reply: Reply::Refused(e) });
            }
            self.attach_pending(id);
        }
    }

    /// A restart would go on with it.
    fn rewound(&mut self, id: VolumeId, branch: Option<String>) {
        let Some(h) = self.volumes.get_mut(&id) else { return };
        let Change::Rewinding(mut r) = std::mem::take(&mut h.change) else { return };
        let label = h.label.clone();
        h.begin_anew(r.fork);
        let kept = branch.as_ref().map_or_else(String::new, |name| {
            format!(
                "what this node held is kept as branch {name} (read it as {label}@branch:{name}), "
            )
        });
        let text = format!("{kept}and its content is taken back to set {}", r.fork);
        self.note(Level::Warn, format!("volume {label}: {text}"));
        self.effect(Effect::Exports { volume: id });
        let done = Rewound { fork: r.fork.0, branch };
        for ask in r.asks() {
            let reply = Reply::Writer(WriterAnswer::Rewound(done.clone()));
            self.effect(Effect::Reply { ask, reply });
        }
        self.settle(id);
        self.attach_pending(id);
    }

    /// Everything that is held is given up, for want of a way back. Why, in words.
    pub(super) fn give_up(
        &mut self,
        id: VolumeId,
        fork: SetNumber,
        history: &[Branch],
        cannot: &str,
    ) -> String {
        let Some(h) = self.volumes.get_mut(&id) else { return String::new() };
        let (held, first) = (h.volume.reaches(), fork.next());
        let by = history.last().map(|b| b.opened_by.to_string()).unwrap_or_default();
        let why = format!(
            "{by} took over as the writer at set {fork}, and this node was at set {held}: sets {first} \
             to {held} are given up, because they cannot be taken back: {cannot}; what is here is \
             compared with its next parent's content, and what differs comes again"
        );
        h.volume.discard(&why, history.to_vec());
        let label = h.label.clone();
        self.note(Level::Error, format!("volume {label}: {why}"));
        self.effect(Effect::Exports { volume: id });
        why
    }

    /// A branch is given up.
    pub(super) fn drop_branch(
        &mut self,
        ask: AskId,
        volume: &str,
        name: &str,
    ) -> Result<(), ApiError> {
        let id = self.volume_named(volume)?;
        let Some(h) = self.volumes.get_mut(&id) else { return Ok(()) };
        if !h.volume.drop_branch(name) {
            let known: Vec<_> = h.volume.branches().map(|b| b.branch.name()).collect();
            let known = if known.is_empty() {
                format!("{} keeps none of it", self.cfg.node)
            } else {
                format!("here are {}", known.join(", "))
            };
            let text = format!("volume {volume} has no branch {name}: {known}");
            return Err(ApiError::new(ApiErrorKind::NotFound, text));
        }
        self.note(Level::Warn, format!("volume {volume}: branch {name} is given up"));
        self.effect(Effect::Exports { volume: id });
        self.effect(Effect::Reply { ask, reply: Reply::Done });
        self.settle(id);
        Ok(())
    }
}

/// Completes what is told of a volume with its branches.
pub(super) fn describe(h: &Held, v: &mut VolumeInfo) {
    let one = |b: volmcast::volume::BranchInfo| {
        let opened_by = h.volume.history().iter().find(|l| l.generation == b.branch.line);
        BranchStatus {
            name: b.branch.name(),
            generation: b.branch.line.to_string(),
            set: b.branch.set.0,
            fork: b.branch.fork.0,
            size: h
                .volume
                .config()
                .block_size
                .offset(volmcast::units::BlockIndex(b.branch.blocks.0)),
            opened_by: opened_by.map(|l| l.opened_by.to_string()).unwrap_or_default(),
            saved_blocks: b.images,
            broken: b.broken,
            kept_us: b.branch.at.0,
        }
    };
    v.branches = h.volume.branches().map(one).collect();
    let undoes = h.volume.undoes().is_some();
    if undoes && matches!(h.volume.config().role, Role::Replica { .. }) {
        "taking back".clone_into(&mut v.state);
    }
}
