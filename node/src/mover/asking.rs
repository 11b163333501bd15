//! What operators and programs ask for.

use std::time::Duration;

use rcp::proto::frame::GoodbyeCode;
use rcp::proto::ids::{GroupName, Label, NodeName, SetNumber, VolumeId};
use rcp::proto::transport::Hop;
use volmcast::volume::{Demand, Role};

use super::{AskId, Effect, Held, Level, Mover};
use crate::api::{
    ApiError, ApiErrorKind, CutInfo, MemberResult, PolicyChange, RouteTable, WriterAnswer,
    WriterChange,
};

/// A question.
#[derive(Clone, Debug)]
pub enum Ask {
    /// Cut a set now.
    Cut {
        /// Label or UUID.
        volume: String,
        /// Keep the state readable at the primary.
        keep: bool,
    },
    /// Keep the visible state.
    Keep {
        /// Label or UUID.
        volume: String,
        /// Which state.
        set: u64,
    },
    /// Give a kept state up.
    Release {
        /// Label or UUID.
        volume: String,
        /// Which state.
        set: u64,
    },
    /// Make sets, or show them at a replica (true); or only mark changes, or save sets.
    Replicate {
        /// Label or UUID.
        volume: String,
        /// On or off.
        on: bool,
    },
    /// Bring a child back by a new seed.
    Seed {
        /// Label or UUID.
        volume: String,
        /// Which child.
        child: String,
    },
    /// Let go of a child.
    Detach {
        /// Label or UUID.
        volume: String,
        /// Which child.
        child: String,
    },
    /// Change when sets are made or played.
    Policy {
        /// Label or UUID.
        volume: String,
        /// How.
        change: PolicyChange,
    },
    /// Bring a mirror to a version (true), or have it mirror again.
    Views {
        /// Label or UUID.
        volume: String,
        /// Whether it is read from now on.
        open: bool,
    },
    /// Change the size.
    Resize {
        /// Label or UUID.
        volume: String,
        /// Bytes it is to have.
        size: u64,
    },
    /// Change who the writer is.
    Writer(WriterChange),
    /// After a hold: the volume leaves this node with all its files.
    Give {
        /// Label or UUID.
        volume: String,
        /// Which node is to have it.
        to: String,
        /// The set that the hold led to.
        set: u64,
    },
    /// Change the label.
    Rename {
        /// Label or UUID.
        volume: String,
        /// The new one.
        label: String,
    },
    /// Remove a volume from this node.
    Delete {
        /// Label or UUID.
        volume: String,
    },
    /// Have every replica hash the first bytes of a state.
    Hash {
        /// Label or UUID.
        volume: String,
        /// Which state.
        set: u64,
        /// How many bytes.
        len: u64,
        /// How long to wait for all members.
        wait: Duration,
    },
    /// Have every member of a group execute a control block.
    Block(super::Order),
    /// Take a changed topology.
    Learn(Box<super::Learned>),
    /// Leave a group.
    Leave(GroupName),
    /// Add a next hop.
    RouteAdd {
        /// Group.
        group: String,
        /// Node.
        next_hop: String,
        /// How it is reached, where that differs from what the group says.
        by: Hop,
        /// Stored without asking it, and dialled until it is there.
        unasked: bool,
    },
    /// Remove next hops.
    RouteDelete {
        /// Group, or all.
        group: Option<String>,
        /// Node, or all.
        next_hop: Option<String>,
    },
}

/// An answer.
#[derive(Clone, Debug)]
pub enum Reply {
    /// Done.
    Done,
    /// The state a cut led to.
    Cut(CutInfo),
    /// The routing table.
    Routes(RouteTable),
    /// The writer was changed.
    Writer(WriterAnswer),
    /// What every member of a group said.
    Members(Vec<MemberResult>),
    /// No.
    Refused(ApiError),
}

impl Held {
    /// Its stream from the parent runs.
    pub(super) fn is_fed(&self) -> bool {
        self.inbound.as_ref().is_some_and(|i| i.stage == super::receiving::InStage::Running)
    }

    /// Everything written before this is in the state that the answer names.
    pub(super) fn demand_cut(&mut self, ask: AskId, keep: bool) {
        let demand = self.volume.demand_cut(keep);
        self.cut_asks.push((demand, ask));
    }
}

impl Mover {
    /// Takes a question; the answer comes as [`Effect::Reply`].
    pub fn ask(&mut self, ask: AskId, question: Ask) {
        let done = match question {
            Ask::RouteAdd { group, next_hop, by, unasked } => {
                return self.route_add(ask, &group, &next_hop, by, unasked);
            }
            Ask::Hash { volume, set, len, wait } => {
                return self.ask_hash(ask, &volume, set, len, wait);
            }
            Ask::Block(order) => return self.ask_block(ask, order),
            Ask::RouteDelete { group, next_hop } => {
                self.route_delete(group.as_deref(), next_hop.as_deref()).map(Reply::Routes)
            }
            Ask::Cut { volume, keep } => match self.cut(ask, &volume, keep) {
                Ok(()) => return,
                Err(e) => Err(e),
            },
            Ask::Resize { volume, size } => match self.resize(ask, &volume, size) {
                Ok(()) => return,
                Err(e) => Err(e),
            },
            Ask::Keep { volume, set } => match self.keep(ask, &volume, SetNumber(set)) {
                Ok(()) => return,
                Err(e) => Err(e),
            },
            Ask::Release { volume, set } => self.release(&volume, SetNumber(set)),
            Ask::Replicate { volume, on } => match self.replicate(ask, &volume, on) {
                Ok(()) => return,
                Err(e) => Err(e),
            },
            Ask::Seed { volume, child } => self.seed_child(&volume, &child),
            Ask::Detach { volume, child } => self.detach_child(&volume, &child),
            Ask::Policy { volume, change } => match self.policy(ask, &volume, &change) {
                Ok(()) => return,
                Err(e) => Err(e),
            },
            Ask::Views { volume, open } => match self.views(ask, &volume, open) {
                Ok(()) => return,
                Err(e) => Err(e),
            },
            Ask::Writer(change) => match self.order_writer(ask, change) {
                Ok(()) => return,
                Err(e) => Err(e),
            },
            Ask::Give { volume, to, set } => match self.give_away(ask, &volume, &to, set) {
                Ok(()) => return,
                Err(e) => Err(e),
            },
            Ask::Learn(learned) => {
                self.learn(*learned);
                Ok(Reply::Done)
            }
            Ask::Leave(group) => self.leave_group(&group).map(|()| Reply::Done),
            Ask::Rename { volume, label } => self.rename(&volume, &label),
            Ask::Delete { volume } => self.delete(&volume),
        };
        let reply = done.unwrap_or_else(Reply::Refused);
        self.effect(Effect::Reply { ask, reply });
    }

    pub(super) fn with_volume(
        &mut self,
        id: VolumeId,
        f: impl FnOnce(&mut volmcast::volume::Volume),
    ) {
        if let Some(h) = self.held(id) {
            f(&mut h.volume);
        }
        self.settle(id);
    }

    /// The volume of this name, or an error that lists those there are.
    ///
    /// # Errors
    /// Unknown volume.
    pub fn volume_named(&self, name: &str) -> Result<VolumeId, ApiError> {
        self.find(name).ok_or_else(|| {
            let known: Vec<_> = self.labels().map(|(l, _)| l.to_string()).collect();
            let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            ApiError::new(
                ApiErrorKind::NotFound,
                format!("no volume `{name}` on {}; there are: {known}", self.cfg.node),
            )
        })
    }

    pub(super) fn primary_of(&self, name: &str) -> Result<VolumeId, ApiError> {
        let id = self.volume_named(name)?;
        let h = self.volumes.get(&id);
        if h.is_some_and(|h| matches!(h.volume.config().role, Role::Primary { .. })) {
            return Ok(id);
        }
        Err(ApiError::new(
            ApiErrorKind::Conflict,
            format!(
                "{} is not the primary of volume {name}: ask the node that `rcpctl status` shows as \
                 primary",
                self.cfg.node
            ),
        ))
    }

    fn cut(&mut self, ask: AskId, name: &str, keep: bool) -> Result<(), ApiError> {
        let id = self.primary_of(name)?;
        if let Some(h) = self.volumes.get_mut(&id) {
            if let Some(why) = h.volume.failure() {
                return Err(ApiError::new(ApiErrorKind::Unavailable, why));
            }
            if keep {
                h.volume.may_keep().map_err(|e| {
                    ApiError::new(ApiErrorKind::Conflict, format!("volume {name}: {e}"))
                })?;
            }
        }
        if let Some(h) = self.held(id) {
            h.demand_cut(ask, keep);
        }
        self.settle(id);
        Ok(())
    }

    pub(super) fn cut_done(&mut self, id: VolumeId, demand: Demand, state: SetNumber, fresh: bool) {
        let Some(h) = self.volumes.get_mut(&id) else { return };
        let answered = h.cut_asks.extract_if(.., |(d, _)| *d <= demand);
        let asks: Vec<_> = answered.map(|(_, ask)| ask).collect();
        let state_id = h.volume.state_id(state).map(|s| s.to_string()).unwrap_or_default();
        for ask in asks {
            let info = CutInfo { set: state.0, state_id: state_id.clone(), fresh };
            self.effect(Effect::Reply { ask, reply: Reply::Cut(info) });
        }
        self.effect(Effect::Exports { volume: id });
    }

    /// No cut will be made here any more.
    pub(super) fn cuts_failed(&mut self, id: VolumeId, why: &str) {
        let Some(h) = self.volumes.get_mut(&id) else { return };
        for (_, ask) in std::mem::take(&mut h.cut_asks) {
            let e = ApiError::new(ApiErrorKind::Unavailable, why);
            self.effect(Effect::Reply { ask, reply: Reply::Refused(e) });
        }
    }

    /// Answered when a restart would find it so.
    fn keep(&mut self, ask: AskId, name: &str, set: SetNumber) -> Result<(), ApiError> {
        let id = self.volume_named(name)?;
        let conflict = |text: String| ApiError::new(ApiErrorKind::Conflict, text);
        let h = self.volumes.get_mut(&id).ok_or_else(|| conflict(String::new()))?;
        if let Some(why) = h.volume.failure() {
            return Err(ApiError::new(ApiErrorKind::Unavailable, why));
        }
        h.volume.keep_state(set).map_err(|e| conflict(format!("volume {name}: {e}")))?;
        h.keeping.push((ask, set));
        self.settle(id);
        self.keeps_stored(id);
        Ok(())
    }

    /// What is kept has changed, durably: who waited for it is answered, or told that it was given
    /// up meanwhile.
    pub(super) fn keeps_stored(&mut self, id: VolumeId) {
        let Some(h) = self.volumes.get_mut(&id) else { return };
        let v = &h.volume;
        let wanted: Vec<SetNumber> = v.kept().collect();
        let (left, ended) = std::mem::take(&mut h.keeping)
            .into_iter()
            .partition(|(_, set)| !v.is_listed_durably(*set) && wanted.contains(set));
        h.keeping = left;
        let ended: Vec<(AskId, SetNumber)> = ended;
        let answers: Vec<_> =
            ended.iter().map(|(a, s)| (*a, *s, v.is_listed_durably(*s))).collect();
        for (ask, set, kept) in answers {
            let gone = || {
                let text = format!("state {set} was given up before it was kept durably");
                Reply::Refused(ApiError::new(ApiErrorKind::Conflict, text))
            };
            let reply = if kept { Reply::Done } else { gone() };
            self.effect(Effect::Reply { ask, reply });
        }
        self.effect(Effect::Exports { volume: id });
    }

    /// States are given up that were kept, or were to be: also who still waits is told.
    pub(super) fn keeps_given_up(&mut self, id: VolumeId, text: &str) {
        let label = self.label_of(id);
        self.note(Level::Warn, format!("volume {label}: {text}"));
        self.keeps_stored(id);
    }

    /// The volume stopped: nothing is kept any more.
    pub(super) fn keeps_failed(&mut self, id: VolumeId, why: &str) {
        let Some(h) = self.volumes.get_mut(&id) else { return };
        for (ask, _) in std::mem::take(&mut h.keeping) {
            let e = ApiError::new(ApiErrorKind::Unavailable, why);
            self.effect(Effect::Reply { ask, reply: Reply::Refused(e) });
        }
    }

    fn release(&mut self, name: &str, set: SetNumber) -> Result<Reply, ApiError> {
        let id = self.volume_named(name)?;
        let h = self.volumes.get_mut(&id);
        if !h.is_some_and(|h| h.volume.release_state(set)) {
            return Err(ApiError::new(
                ApiErrorKind::NotFound,
                format!("state {set} of volume {name} is not kept on {}", self.cfg.node),
            ));
        }
        self.settle(id);
        self.keeps_stored(id);
        self.effect(Effect::Exports { volume: id });
        Ok(Reply::Done)
    }

    fn seed_child(&mut self, name: &str, child: &str) -> Result<Reply, ApiError> {
        let id = self.volume_named(name)?;
        let bad = |kind, text: String| ApiError::new(kind, text);
        let child =
            NodeName::new(child).map_err(|e| bad(ApiErrorKind::BadRequest, e.to_string()))?;
        let known = self
            .volumes
            .get(&id)
            .and_then(|h| self.groups.get(&h.group))
            .is_some_and(|g| g.links.contains_key(&child));
        if !known {
            return Err(bad(
                ApiErrorKind::NotFound,
                format!("{child} is not a next hop of {} for volume {name}", self.cfg.node),
            ));
        }
        self.may_be_seeded(id, name, &child)?;
        if let Some(h) = self.volumes.get_mut(&id) {
            h.volume.consumer_forget(&child);
            h.relaying.forget(&child);
        }
        self.force_seed(id, &child);
        Ok(Reply::Done)
    }

    /// A child that cannot take a seed is left as it is, with its reason.
    fn may_be_seeded(&self, id: VolumeId, name: &str, child: &NodeName) -> Result<(), ApiError> {
        let no = |text: String| Err(ApiError::new(ApiErrorKind::Conflict, text));
        let Some((conn, stream, _)) = self.stream_to(id, child) else {
            let link = self.volumes.get(&id).and_then(|h| self.groups.get(&h.group));
            let why = link.and_then(|g| g.links.get(child)?.reason.clone()).unwrap_or_default();
            let why = if why.is_empty() { why } else { format!(": {why}") };
            return no(format!(
                "{child} does not take volume {name} now{why}; when it is back it goes on by itself, or \
                 is seeded if it has to be"
            ));
        };
        let out = self.conns.get(&conn).and_then(|c| c.streams_out.get(&stream));
        let why = out.and_then(|o| o.reason.as_deref()).unwrap_or_default();
        if why.contains(" cannot be opened on ") {
            return no(format!(
                "{why}: `rcpctl volume delete {name} --yes` at {child} (--dir, or --topology with \
                 --node {child}) gives up what is there, and it is seeded at once"
            ));
        }
        Ok(())
    }

    fn rename(&mut self, name: &str, label: &str) -> Result<Reply, ApiError> {
        let id = self.volume_named(name)?;
        let label = Label::new(label)
            .map_err(|e| ApiError::new(ApiErrorKind::BadRequest, e.to_string()))?;
        if self.labels().any(|(l, other)| *l == label && other != id) {
            let text = format!("{} already has a volume {label}", self.cfg.node);
            return Err(ApiError::new(ApiErrorKind::Conflict, text));
        }
        let old = self.label_of(id);
        if let Some(listed) =
            [old.as_str(), label.as_str()].into_iter().find(|l| self.cfg.listed.contains(*l))
        {
            let text = format!(
                "the topology says by label who may open {listed} over NBD (`nbd_allow`), and another \
                 label would have another list: take the list away and start {} again, rename, then \
                 write volume and list under the new label; nothing was changed",
                self.cfg.node
            );
            return Err(ApiError::new(ApiErrorKind::Conflict, text));
        }
        if let Some(h) = self.volumes.get_mut(&id) {
            // The source's own name is the group's, until it has another.
            if h.label == h.source && matches!(h.volume.config().role, Role::Primary { .. }) {
                h.source = label.clone();
            }
            h.label = label;
        }
        self.effect(Effect::Exports { volume: id });
        Ok(Reply::Done)
    }

    fn delete(&mut self, name: &str) -> Result<Reply, ApiError> {
        let closed = self.closed.iter().find(|(_, c)| c.label.as_str() == name);
        if let Some((id, group)) = closed.map(|(id, c)| (*id, c.group.clone())) {
            self.closed.remove(&id);
            self.effect(Effect::RemoveVolume { volume: id });
            // The parent offers it again when it connects.
            let feeder = self.groups.get(&group).and_then(|g| g.feeder.as_ref());
            if let Some(conn) = feeder.and_then(|f| f.conn) {
                let text = format!("volume {name} was deleted here: it can be offered again");
                self.close(conn, GoodbyeCode::Internal, &text);
            }
            return Ok(Reply::Done);
        }
        let id = self.volume_named(name)?;
        self.withdraw(id, "the volume was deleted at the parent");
        self.volumes.remove(&id);
        self.effect(Effect::RemoveVolume { volume: id });
        Ok(Reply::Done)
    }
}
