//! The owner of the [`Mover`]: takes inputs one by one and carries out its effects.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rcp::net::tls::{Pki, Proven};
use rcp::proto::ids::{GroupName, Label, StateId, VolumeId};
use rcp::proto::transport::Hop;
use tokio::sync::{mpsc, oneshot};
use volmcast::capture::Notice;
use volmcast::io::{Outcome, Tag};
use volmcast::storage::{Identity, IdentityError, StorageError};
use volmcast::units::{BlockCount, BlockIndex};
use volmcast::volume::WorkDone;

use super::blocks::{self, Handlers};
use super::conns::{self, Destination, Incoming, Outgoing, Wire};
use super::disk;
use super::groups::Known;
use super::leaving::{NotGiven, Ways};
use super::places::Place;
use crate::api::{ApiError, ApiErrorKind, NodeStatus, RouteTable, SecurityStatus, VolumeInfo};
use crate::clock;
use crate::mover::{
    Accepted, Ask, AskId, ConnId, Effect, Level, Mover, NewReplica, Reply, TurnedAway,
};
use crate::volumes::arriving::Arriving;
use crate::volumes::moved::Moved;
use crate::volumes::names::{Entry, Names};
use crate::volumes::open::{self, OpenPlan, Opened};
use crate::volumes::owner;

/// What happens to a node.
#[derive(Debug)]
pub(super) enum Input {
    Accepted {
        accepted: Accepted,
        wire: Wire,
        peer: String,
        proven: Option<Proven>,
        /// Taken until the peer has introduced itself.
        place: Place,
    },
    /// A connection that was dialled has proven who it is to.
    Proven {
        conn: ConnId,
        proven: Proven,
    },
    TurnedAway {
        who: TurnedAway,
    },
    /// Certificates or the time have changed: look at every session again.
    Judge {
        problem: Option<String>,
    },
    Frame {
        conn: ConnId,
        incoming: Box<Incoming>,
    },
    /// Part of a long frame came.
    Alive {
        conn: ConnId,
    },
    Sent {
        conn: ConnId,
        bytes: u64,
    },
    Lost {
        conn: ConnId,
        reason: String,
        /// It is about trust.
        refused: bool,
    },
    /// What came on a connection is no sound frame.
    Nonsense {
        conn: ConnId,
        text: String,
    },
    IoDone {
        volume: VolumeId,
        tag: Tag,
        outcome: Outcome,
    },
    WorkDone {
        volume: VolumeId,
        tag: Tag,
        done: Box<WorkDone>,
    },
    Notice {
        volume: VolumeId,
        notice: Notice,
    },
    Hashed {
        id: [u8; 16],
        ok: bool,
        text: String,
    },
    BlockRecorded {
        id: [u8; 16],
        stored: Result<(), String>,
    },
    Forgotten {
        volume: VolumeId,
    },
    Grown {
        volume: VolumeId,
        blocks: BlockCount,
        prepared: Result<(), String>,
    },
    Quiet {
        volume: VolumeId,
        number: u64,
    },
    Writable {
        volume: VolumeId,
        opens: StateId,
        made: Result<Arc<crate::volumes::PrimaryVolume>, String>,
    },
    Opened {
        volume: VolumeId,
        opened: Result<Box<Opened>, String>,
        reply: Option<Waiting<VolumeInfo>>,
    },
    Ask {
        question: Ask,
        reply: oneshot::Sender<Reply>,
    },
    Status {
        reply: oneshot::Sender<NodeStatus>,
    },
    Routes {
        group: Option<String>,
        reply: Waiting<RouteTable>,
    },
    /// How volumes of a group are run from now on.
    Plan {
        group: GroupName,
        plan: Box<ReplicaPlan>,
    },
    /// Files were let go of, or could not be.
    Given {
        volume: VolumeId,
        given: Result<Moved, NotGiven>,
        ask: AskId,
    },
    /// A volume is to come with all its files, and that is stored.
    Expect {
        arriving: Box<Arriving>,
        reply: Waiting<()>,
    },
    /// A volume whose files this node has taken is to be opened.
    Take {
        volume: VolumeId,
        reply: Waiting<VolumeInfo>,
    },
    Create {
        identity: Box<Identity>,
        plan: Box<OpenPlan>,
        reply: Waiting<VolumeInfo>,
    },
    Stop,
}

/// Somebody who waits for an answer.
pub(super) type Waiting<T> = oneshot::Sender<Result<T, ApiError>>;

/// Everything the core needs to act.
pub(super) struct Core {
    pub(super) mover: Mover,
    pub(super) queue: mpsc::Receiver<Input>,
    /// To give away to tasks and threads.
    pub(super) sender: mpsc::Sender<Input>,
    pub(super) folder: PathBuf,
    pub(super) names: Arc<Names>,
    pub(super) volumes: HashMap<VolumeId, Shared>,
    /// How replicas of a group are run.
    pub(super) plans: BTreeMap<GroupName, ReplicaPlan>,
    pub(super) conns: HashMap<ConnId, Outgoing>,
    pub(super) asks: HashMap<AskId, oneshot::Sender<Reply>>,
    pub(super) next_ask: u64,
    pub(super) listen: String,
    pub(super) nbd: Vec<String>,
    /// The certificates of this node, if hops are encrypted.
    pub(super) pki: Option<Arc<Pki>>,
    /// What of the status is about them.
    pub(super) security: SecurityStatus,
    /// Where relative paths of the topology start from.
    pub(super) base: PathBuf,
    pub(super) records: rcp::group::record::Records,
    pub(super) handlers: Handlers,
    /// The topology, and what commands added to it.
    pub(super) known: Arc<Known>,
    /// Volumes between this node and others.
    pub(super) ways: Ways,
}

/// How this node runs replicas of a group.
#[derive(Clone, Debug)]
pub(super) struct ReplicaPlan {
    pub(super) open: OpenPlan,
    /// Save capacity by label, and for labels not in the topology.
    pub(super) save: BTreeMap<String, u64>,
    pub(super) default_save: u64,
    pub(super) snapshots: u64,
    /// Replica content outside the data folder, by label.
    pub(super) backing: BTreeMap<String, PathBuf>,
}

/// The threaded side of a volume.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) identity: Identity,
    pub(super) disk: Arc<disk::Disk>,
    pub(super) primary: Option<Arc<crate::volumes::PrimaryVolume>>,
    pub(super) states: Option<Arc<crate::volumes::ReplicaVolume>>,
}

fn say(level: Level, text: &str) {
    match level {
        Level::Info => tracing::info!("{text}"),
        Level::Warn => tracing::warn!("{text}"),
        Level::Error => tracing::error!("{text}"),
    }
}

/// Inputs taken before the effects of all of them are carried out.
const BATCH: usize = 64;

impl Core {
    /// Runs until told to stop.
    pub(super) async fn run(mut self) {
        let mut batch = Vec::with_capacity(BATCH);
        loop {
            self.effects();
            let now = clock::mono();
            let wait = self
                .mover
                .poll_timeout()
                .map_or(Duration::from_secs(1), |t| t.since(now))
                .min(Duration::from_secs(1));
            batch.clear();
            tokio::select! {
                biased;
                n = self.queue.recv_many(&mut batch, BATCH) => if n == 0 { return },
                () = tokio::time::sleep(wait) => {}
            }
            for input in batch.drain(..) {
                if matches!(input, Input::Stop) {
                    self.mover.stop();
                    self.effects();
                    return;
                }
                self.input(input);
            }
            self.mover.tick(clock::mono(), clock::wall());
        }
    }

    fn input(&mut self, input: Input) {
        let (now, wall) = (clock::mono(), clock::wall());
        match input {
            Input::Accepted { accepted, wire, peer, proven, place } => {
                let conn = self.mover.accepted(now, wall, accepted);
                let out =
                    conns::spawn(conn, wire, (peer, proven), self.sender.clone(), Some(place));
                self.conns.insert(conn, out);
            }
            Input::Proven { conn, proven } => {
                if let Some(c) = self.conns.get_mut(&conn) {
                    c.proven = Some(proven);
                }
            }
            Input::TurnedAway { who } => self.mover.turned_away(now, wall, who),
            Input::Judge { problem } => {
                self.security.problem = problem;
                self.judge();
            }
            Input::Frame { conn, incoming } => {
                self.mover.frame(now, wall, conn, incoming.frame);
            }
            Input::Sent { conn, bytes } => self.mover.sent(conn, bytes),
            Input::Alive { conn } => self.mover.alive(now, wall, conn),
            Input::Lost { conn, reason, refused } => {
                self.conns.remove(&conn);
                if refused {
                    self.mover.distrusted(now, wall, conn, &reason);
                } else {
                    self.mover.lost(now, wall, conn, &reason);
                }
            }
            Input::Nonsense { conn, text } => self.mover.nonsense(now, wall, conn, &text),
            Input::IoDone { volume, tag, outcome } => {
                self.mover.io_done(now, wall, volume, tag, outcome);
            }
            Input::WorkDone { volume, tag, done } => {
                self.mover.work_done(now, wall, volume, tag, *done);
            }
            Input::Notice { volume, notice } => self.mover.notice(now, wall, volume, notice),
            Input::Hashed { id, ok, text } => {
                self.mover.control_done(now, id, ok, bytes::Bytes::from(text));
            }
            Input::BlockRecorded { id, stored } => self.mover.block_recorded(now, id, stored),
            Input::Forgotten { volume } => self.mover.forgotten(now, wall, volume),
            Input::Grown { volume, blocks, prepared } => {
                self.mover.growth_prepared(now, wall, volume, blocks, prepared);
            }
            Input::Quiet { volume, number } => {
                self.mover.writers_quiet(now, wall, volume, number);
            }
            Input::Writable { volume, opens, made } => self.writable(volume, opens, made),
            Input::Opened { volume, opened, reply } => self.opened(volume, opened, reply),
            Input::Ask { question, reply } => {
                self.next_ask += 1;
                let ask = AskId(self.next_ask);
                self.asks.insert(ask, reply);
                self.mover.ask(ask, question);
            }
            Input::Status { reply } => {
                let _ = reply.send(self.status());
            }
            Input::Routes { group, reply } => {
                let _ = reply.send(self.mover.routes(group.as_deref()));
            }
            Input::Plan { group, plan } => drop(self.plans.insert(group, *plan)),
            Input::Given { volume, given, ask } => self.given(volume, given, ask),
            Input::Expect { arriving, reply } => self.expect(*arriving, reply),
            Input::Take { volume, reply } => self.take(volume, reply),
            Input::Create { identity, plan, reply } => self.create(*identity, *plan, reply),
            Input::Stop => {}
        }
        self.effects();
    }

    pub(super) fn status(&self) -> NodeStatus {
        let mut s = self.mover.status();
        self.known.tell(&mut s.groups);
        s.moved = self.moved_status();
        s.arriving = self.arriving_status();
        s.listen.clone_from(&self.listen);
        s.nbd.clone_from(&self.nbd);
        let strangers = std::mem::take(&mut s.security.strangers);
        s.security = SecurityStatus { strangers, ..self.security.clone() };
        if let Some(pki) = &self.pki {
            let seconds = u64::try_from(pki.own().not_after).unwrap_or(0);
            s.security.certificate_until_us = Some(seconds.saturating_mul(1_000_000));
        }
        s
    }

    /// Ends the sessions of peers whose certificates are no longer good.
    fn judge(&mut self) {
        let Some(pki) = self.pki.clone() else { return };
        let bad: Vec<_> = self
            .conns
            .iter()
            .filter_map(|(id, c)| Some((*id, pki.judge_again(c.proven.as_ref()?)?)))
            .collect();
        for (conn, why) in bad {
            let (now, wall) = (clock::mono(), clock::wall());
            self.mover.no_longer_trusted(now, wall, conn, &why.to_string());
            self.effects();
        }
    }

    fn create(&mut self, identity: Identity, plan: OpenPlan, reply: Waiting<VolumeInfo>) {
        if self.mover.labels().any(|(l, _)| *l == identity.label) {
            let text = format!("volume {} exists already", identity.label);
            let _ = reply.send(Err(ApiError::new(ApiErrorKind::Conflict, text)));
            return;
        }
        if let Some(why) = self.elsewhere(&identity.group, identity.in_group()) {
            let text = format!("volume {}: {why}", identity.label);
            let _ = reply.send(Err(ApiError::new(ApiErrorKind::Conflict, text)));
            return;
        }
        self.make(identity, plan, Some(reply));
    }

    /// Why no volume of this name is made here: it is another node's, or comes from one.
    fn elsewhere(&self, group: &GroupName, label: &Label) -> Option<String> {
        let gone = self.ways.moved.values().find(|m| m.is_called(group, label));
        let comes = self.ways.arriving.values().find(|a| a.is_called(group, label));
        gone.map(|m| m.told(&self.folder))
            .or_else(|| comes.map(|a| a.told(&self.folder, self.known.node())))
    }

    /// Makes a volume's files on a thread that may block.
    fn make(&self, identity: Identity, plan: OpenPlan, reply: Option<Waiting<VolumeInfo>>) {
        let folder = self.folder.join("volumes").join(identity.volume.to_string());
        let core = self.sender.clone();
        tokio::task::spawn_blocking(move || {
            let volume = identity.volume;
            let opened = open::create(&folder, &identity, &plan, clock::mono(), clock::wall())
                .map(Box::new)
                .map_err(|e| e.to_string());
            let _ = core.blocking_send(Input::Opened { volume, opened, reply });
        });
    }

    fn opened(
        &mut self,
        volume: VolumeId,
        opened: Result<Box<Opened>, String>,
        reply: Option<Waiting<VolumeInfo>>,
    ) {
        match opened {
            Ok(o) => {
                self.enter(*o);
                self.effects();
                if let Some(reply) = reply {
                    let id = volume.to_string();
                    let info = self.mover.status().volumes.into_iter().find(|v| v.id == id);
                    let gone = || ApiError::new(ApiErrorKind::Internal, "the volume is gone");
                    let _ = reply.send(info.ok_or_else(gone));
                }
            }
            Err(text) => {
                self.ways.taking.remove(&volume);
                self.mover.replica_failed(volume, &text);
                if let Some(reply) = reply {
                    let _ = reply.send(Err(ApiError::new(ApiErrorKind::Conflict, text)));
                }
            }
        }
    }

    /// Takes an opened volume.
    pub(super) fn enter(&mut self, o: Opened) {
        let id = o.identity.volume;
        self.is_here(id);
        for note in &o.notes {
            tracing::warn!(volume = %o.identity.label, "{note}");
        }
        let (primary, standing) = (o.primary.is_some(), o.identity.standing.clone());
        if let Some(p) = &o.primary {
            self.hear(id, p);
        }
        self.volumes.insert(
            id,
            Shared {
                identity: o.identity.clone(),
                disk: disk::Disk::new(id, o.files, self.sender.clone()),
                primary: o.primary,
                states: o.states,
            },
        );
        let source = o.identity.in_group().clone();
        self.mover.add_volume_as(o.identity.label, source, o.identity.group, o.volume);
        if primary {
            self.mover.open_generation(id);
            self.mover.stand(id, standing);
        }
    }

    /// What the capture tables notice comes to the core.
    pub(super) fn hear(&self, id: VolumeId, p: &crate::volumes::PrimaryVolume) {
        let core = self.sender.clone();
        p.capture().on_notice(move |notice| {
            // A full queue means that the core is awake and will look by itself.
            let _ = core.try_send(Input::Notice { volume: id, notice });
        });
    }

    /// Carries out everything the mover wants done.
    pub(super) fn effects(&mut self) {
        while let Some(e) = self.mover.poll_effect() {
            self.effect(e);
        }
    }

    fn effect(&mut self, e: Effect) {
        match e {
            Effect::Dial { conn, addr, node, hop, group } => {
                let to = Destination { addr, node, group, hop: self.ca_path(hop) };
                let out = conns::dial(conn, to, self.pki.clone(), self.sender.clone());
                self.conns.insert(conn, out);
            }
            Effect::Send { conn, frame } => {
                let full = self.conns.get(&conn).is_some_and(|c| !c.takes(frame));
                if full {
                    self.conns.remove(&conn);
                    let (now, wall) = (clock::mono(), clock::wall());
                    self.mover.lost(now, wall, conn, "the peer does not read what it is sent");
                }
            }
            Effect::Close { conn } => {
                // The writer sends what is queued and closes when its queue has no sender.
                self.conns.remove(&conn);
            }
            Effect::Io { volume, io } => {
                if let Some(v) = self.volumes.get(&volume) {
                    v.disk.io(io);
                }
            }
            Effect::Work { volume, tag, work } => {
                disk::work(volume, tag, work, self.sender.clone());
            }
            Effect::CreateReplica(r) => self.create_replica(r),
            Effect::SetFinished { volume } => {
                if let Some(p) = self.volumes.get(&volume).and_then(|v| v.primary.clone()) {
                    let core = self.sender.clone();
                    tokio::task::spawn_blocking(move || {
                        p.forget_clean_extents();
                        let _ = core.blocking_send(Input::Forgotten { volume });
                    });
                }
            }
            Effect::PrepareGrowth { volume, blocks } => {
                let Some(p) = self.volumes.get(&volume).and_then(|v| v.primary.clone()) else {
                    return;
                };
                let core = self.sender.clone();
                tokio::task::spawn_blocking(move || {
                    let prepared = p.prepare_growth(blocks);
                    let _ = core.blocking_send(Input::Grown { volume, blocks, prepared });
                });
            }
            e @ (Effect::Gate { .. }
            | Effect::GiveAway { .. }
            | Effect::AwaitQuiet { .. }
            | Effect::MakeWritable { .. }
            | Effect::MakeReadOnly { .. }
            | Effect::StoreStanding { .. }) => self.writer_effect(e),
            Effect::Exports { volume } => self.export(volume),
            Effect::RemoveVolume { volume } => self.remove(volume),
            Effect::Hash { id, label, state, len } => {
                disk::hash(id, &self.names, label.as_str(), state, len, self.sender.clone());
            }
            Effect::RecordBlock { id, bytes, whole } => {
                blocks::store(&self.records, id, bytes, whole, self.sender.clone());
            }
            Effect::Handle { id, kind, group, after, body } => {
                let order = blocks::Order { id, kind, group, after, body };
                self.handlers.run(order, self.sender.clone());
            }
            Effect::StoreDestinations { id, bytes } => self.store_destinations(id, &bytes),
            Effect::StoreRoutes(bytes) => {
                let folder = self.folder.clone();
                if let Err(e) = super::tables::store_routes(&folder, &bytes) {
                    tracing::error!("the routing table could not be stored: {e}");
                }
            }
            Effect::Reply { ask, reply } => {
                if let Some(r) = self.asks.remove(&ask) {
                    let _ = r.send(reply);
                }
            }
            Effect::Note { level, text } => say(level, &text),
        }
    }

    fn store_destinations(&mut self, id: [u8; 16], bytes: &[u8]) {
        let stored = super::tables::store_destinations(&self.folder, bytes);
        let stored = stored.map_err(|e| format!("the destinations: {e}"));
        self.mover.destinations_stored(clock::mono(), id, stored);
    }

    /// The file with a proxy's CA, from the folder that the topology's paths start from.
    fn ca_path(&self, mut hop: Hop) -> Hop {
        let whole = |ca: &String| self.base.join(ca).to_string_lossy().into_owned();
        hop.ca = hop.ca.as_ref().map(whole);
        hop
    }

    fn create_replica(&mut self, r: NewReplica) {
        if let Some(a) = self.ways.arriving.get(&r.volume) {
            let why = a.told(&self.folder, self.known.node());
            self.mover.replica_failed(r.volume, &why);
            return;
        }
        let Some(plan) = self.plans.get(&r.group) else {
            let why = format!("group {} is not in the topology of this node", r.group);
            self.mover.replica_failed(r.volume, &why);
            return;
        };
        let save = plan.save.get(r.source.as_str()).copied().unwrap_or(plan.default_save);
        let identity = Identity {
            volume: r.volume,
            base: plan.backing.get(r.source.as_str()).cloned(),
            source: (r.source != r.label).then_some(r.source),
            label: r.label,
            group: r.group,
            node: plan.open.node.clone(),
            role: if r.replica { "replica" } else { "relay" }.to_owned(),
            block_size: r.block_size,
            blocks: r.blocks,
            save,
            snapshots: plan.snapshots,
            standing: volmcast::storage::Standing::default(),
        };
        let open = plan.open.clone();
        self.make(identity, open, None);
    }

    /// Brings the export names in line with a volume.
    fn export(&mut self, id: VolumeId) {
        let discarded = self.mover.volume(id).is_some_and(volmcast::volume::Volume::is_discarded);
        if discarded
            && self.volumes.get(&id).is_some_and(|s| s.identity.standing.discards)
            && let Err(e) = self.store_identity(id, |i| i.standing.discards = false)
        {
            tracing::error!("the role of a volume could not be stored: {e}");
        }
        let Some(shared) = self.volumes.get_mut(&id) else { return };
        let Some((label, source)) = self.mover.names_of(id) else { return };
        let Some(v) = self.mover.volume(id) else { return };
        if shared.identity.label != *label || shared.identity.in_group() != source {
            shared.identity.label = label.clone();
            shared.identity.source = (source != label).then(|| source.clone());
            let folder = self.folder.join("volumes").join(id.to_string());
            if let Err(e) = shared.identity.store(&folder) {
                tracing::error!("the new label could not be stored: {e}");
            }
        }
        let m = v.durable();
        if let Some(p) = &shared.primary {
            p.set_blocks(m.blocks);
        }
        let entry = Entry {
            id,
            generation: m.generation(),
            size: m.block_size.offset(BlockIndex(m.blocks.0)),
            primary: shared.primary.clone(),
            states: shared.states.clone(),
            visible: m.visible,
            kept: v.kept().collect(),
            branches: v.branches().map(|b| b.branch).collect(),
        };
        self.names.set(label.as_str(), &entry);
    }

    fn remove(&mut self, id: VolumeId) {
        self.names.remove(id);
        let folder = self.folder.join("volumes").join(id.to_string());
        let node = self.known.node().clone();
        let nobodys = move |folder: &std::path::Path| {
            if let Some(base) = Identity::load(folder, &node).ok().and_then(|i| i.base) {
                owner::release(&base, id, &node);
            }
        };
        if self.volumes.remove(&id).is_none() {
            let owner = Identity::load(&folder, self.known.node());
            if let Err(StorageError::Identity(e @ IdentityError::OtherNode { .. })) = owner {
                tracing::error!("it is not removed: {e}");
                return;
            }
            nobodys(&folder);
            // One that could not be opened. At once: it may be offered again the next moment.
            let gone = Identity::remove(&folder).and_then(|()| Identity::erase(&folder));
            if let Err(e) = gone {
                tracing::error!("{} could not be removed: {e}", folder.display());
            }
            return;
        }
        tokio::task::spawn_blocking(move || {
            nobodys(&folder);
            // The name goes first: what a crash leaves is then removed at the next start. Connections
            // may still hold the files.
            let gone = Identity::remove(&folder).and_then(|()| Identity::erase(&folder));
            if let Err(e) = gone {
                tracing::error!("{} could not be removed: {e}", folder.display());
            }
        });
    }
}
