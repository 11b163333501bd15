//! The data mover as a value: volumes, sessions and routes of one node, joined.
//!
//! [`Mover`] is told what happened on connections, files and clocks and answers with [`Effect`]s.
//! It owns everything that decides; the `runtime` beside it owns sockets, files, threads and time,
//! and the simulator replaces the runtime. No method blocks or reads a clock.
//!
//! | file | what it decides |
//! |---|---|
//! | `links` | connections: dialling, handshakes, who may feed whom |
//! | `further` | several connections for one session |
//! | `sending` | streams to children: offers, attachments, chunks, seeds |
//! | `receiving` | streams from the parent: attachments, intake, acknowledgements |
//! | `coalescing` | queues that come as one step: offers, calls, and when the sets are taken after all |
//! | `comparing` | copies are compared with those of parents |
//! | `relaying` | seeds that pass through a node without content |
//! | `routing` | live changes of the routing table |
//! | `controls` | commands down the tree and their results |
//! | `kinds` | the program's own kinds of commands |
//! | `destinations` | what volumes of the group are to be called here |
//! | `asking` | what operators and programs ask for |
//! | `growing` | a volume becomes larger |
//! | `learning` | a changed topology |
//! | `history` | whose line is followed: fences, splits, confirmation |
//! | `failover` | who the writer is: promotion, handing over, stepping down |
//! | `roles` | programs of the node that decide about the writer, and hear of it |
//! | `lost` | whether the writer is heard of, and who is told if not |
//! | `settings` | replication on and off, triggers, persistency |
//! | `status` | what they are told |
//! | `closing` | the end of sessions |
//! | `bypass` | who is fed in the place of a child that is away |
//! | `upward` | parents that are dialled from here |
//! | `trust` | what peers have proven |

mod asking;
mod audit;
mod bypass;
mod closing;
mod coalescing;
mod comparing;
mod controls;
mod damage;
mod delay;
mod destinations;
mod endings;
mod failover;
mod full;
mod further;
mod growing;
mod handover;
mod history;
mod kinds;
mod lag;
mod learning;
mod links;
mod lost;
mod pacing;
mod receiving;
mod relaying;
mod rewinding;
mod roles;
mod routing;
mod sending;
mod settings;
mod status;
mod trust;
mod upward;
mod volumes;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use rcp::proto::clock::{Mono, Wall};
use rcp::proto::control::Journal;
use rcp::proto::frame::{DecodedFrame, Frame};
use rcp::proto::ids::{Generation, GroupName, Label, NodeName, StateId, VolumeId};
use rcp::proto::transport::Hop;
use volmcast::io::{Io, Tag};
use volmcast::storage::Standing;
use volmcast::units::{BlockCount, BlockSize};
use volmcast::volume::{Demand, Volume, Work};

use forwarder::aggregate::Aggregate;
use forwarder::table::Table;

pub use asking::{Ask, Reply};
pub use controls::{HASH, Order};
pub use destinations::{Destinations, NotDestinations};
pub use failover::{Gate, NotMade};
pub use history::Confirm;
pub use kinds::{COPY_EXTENT, Extent, SCRUB};
pub use learning::Learned;
pub use links::{Accepted, GroupPlan};
pub use lost::LOST_KINDS;
pub use roles::ROLE_KINDS;
pub use trust::{Proof, TurnedAway};

use crate::api::Stranger;
use links::{Conn, Group};
use receiving::Inbound;

/// One connection, for its whole life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnId(pub u64);

/// One question of an operator or program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AskId(pub u64);

/// What the node is.
#[derive(Clone, Debug)]
pub struct MoverConfig {
    /// Its name.
    pub node: NodeName,
    /// Random, new at every start.
    pub instance: [u8; 16],
    /// Seed for jitter.
    pub random: u64,
    /// How often neighbours see a sign of life.
    pub keepalive: Duration,
    /// Bytes that may wait for one connection's socket.
    pub queue_bytes: u64,
    /// Addresses of all nodes of the topology.
    pub addresses: BTreeMap<NodeName, String>,
    /// Routes as stored on this node.
    pub table: Table,
    /// There are certificates: hops may be encrypted.
    pub proven: bool,
    /// Versions of the protocol to speak, oldest and newest.
    pub versions: (u16, u16),
    /// Kinds of control blocks that are handled here.
    pub handlers: BTreeSet<String>,
    /// For how long nothing is heard of a writer before the handler `writer-lost` is told.
    pub writer_lost: Duration,
    /// The record of control blocks.
    pub journal: Journal,
    /// What volumes are to be called here.
    pub destinations: Destinations,
    /// Labels here whose exports the topology has a list for (`nbd_allow`): they are not renamed.
    pub listed: BTreeSet<String>,
}

/// How loud a note is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// For the record.
    Info,
    /// An operator may have to look.
    Warn,
    /// An operator has to act.
    Error,
}

/// What the runtime has to do.
#[derive(Debug)]
pub enum Effect {
    /// Open a connection to `addr` and say which group it is for.
    Dial {
        /// Its id from now on.
        conn: ConnId,
        /// Where.
        addr: String,
        /// Who must be there.
        node: NodeName,
        /// How to get there.
        hop: Hop,
        /// For the opening line.
        group: GroupName,
    },
    /// Put a frame on the wire.
    Send {
        /// Which connection.
        conn: ConnId,
        /// The frame.
        frame: Frame,
    },
    /// Send what is queued, then close.
    Close {
        /// Which connection.
        conn: ConnId,
    },
    /// A request on a file of a volume.
    Io {
        /// Which volume.
        volume: VolumeId,
        /// The request.
        io: Io,
    },
    /// A computation for a volume.
    Work {
        /// Which volume.
        volume: VolumeId,
        /// Its tag.
        tag: Tag,
        /// The computation.
        work: Work,
    },
    /// Make files for a volume that the parent offers, and hand the opened volume back.
    CreateReplica(NewReplica),
    /// A set finished: the activity log may forget extents without marks (primary).
    SetFinished {
        /// Which volume.
        volume: VolumeId,
    },
    /// Bring a primary's files to a larger size: the base, then the activity log, both durable. The
    /// result goes to [`Mover::growth_prepared`].
    PrepareGrowth {
        /// Which volume.
        volume: VolumeId,
        /// Blocks it is to have.
        blocks: BlockCount,
    },
    /// Lets writers in, makes them wait, or refuses them (primary).
    Gate {
        /// Which volume.
        volume: VolumeId,
        /// What writers meet from now on.
        gate: Gate,
    },
    /// No writer is let in; say when none is under way any more, by [`Mover::writers_quiet`].
    AwaitQuiet {
        /// Which volume.
        volume: VolumeId,
        /// Which question of that kind it is.
        number: u64,
    },
    /// Make what a writer needs (capture tables, an empty activity log); then, if
    /// [`Mover::makes_writable`] says so, store the role `primary` with the line to be opened, and at
    /// once hand the tables to [`Mover::made_writable`]. Nobody may write before the next
    /// [`Effect::Gate`].
    MakeWritable {
        /// Which volume.
        volume: VolumeId,
        /// The line to be opened, and the state it begins at.
        opens: StateId,
    },
    /// Take the writable side away and store the role `replica`; the answer goes to
    /// [`Mover::made_read_only`].
    MakeReadOnly {
        /// Which volume.
        volume: VolumeId,
        /// Everything it holds is given up, also if the node is restarted in between.
        discards: bool,
    },
    /// Store what a change of role has left to do; the answer goes to [`Mover::standing_stored`].
    StoreStanding {
        /// Which volume.
        volume: VolumeId,
        /// What.
        standing: Standing,
    },
    /// A volume's label, size or visibility changed: exports must be looked at again.
    Exports {
        /// Which volume.
        volume: VolumeId,
    },
    /// The volume is no longer here: let go of its files, and write into them whose they are; then
    /// answer.
    GiveAway {
        /// Who waits.
        ask: AskId,
        /// Which volume.
        volume: VolumeId,
        /// Who is to have it.
        to: NodeName,
        /// What it has to know of its writers.
        standing: Standing,
    },
    /// Remove a volume's files.
    RemoveVolume {
        /// Which volume.
        volume: VolumeId,
    },
    /// Hash the first bytes of a state; the result goes to [`Mover::control_done`].
    Hash {
        /// Which control block asks.
        id: [u8; 16],
        /// The volume's label.
        label: Label,
        /// Which state, at least.
        state: StateId,
        /// How many bytes.
        len: u64,
    },
    /// Make the record of a control block durable, then tell [`Mover::block_recorded`].
    RecordBlock {
        /// Which block.
        id: [u8; 16],
        /// To be appended.
        bytes: Vec<u8>,
        /// They are the whole file instead.
        whole: bool,
    },
    /// Run the handler of a kind, then tell [`Mover::control_done`].
    Handle {
        /// Which block.
        id: [u8; 16],
        /// Its kind.
        kind: String,
        /// Sent to this group.
        group: GroupName,
        /// The state it waited for.
        after: Option<StateId>,
        /// For the handler.
        body: Bytes,
    },
    /// Store what volumes are to be called here, durably, then tell [`Mover::destinations_stored`].
    StoreDestinations {
        /// Which control block asks.
        id: [u8; 16],
        /// The whole file.
        bytes: Vec<u8>,
    },
    /// Store the routing table durably.
    StoreRoutes(Vec<u8>),
    /// Answer a question.
    Reply {
        /// Which.
        ask: AskId,
        /// With what.
        reply: Reply,
    },
    /// Something an operator may want to read.
    Note {
        /// How loud.
        level: Level,
        /// Names the thing and, where there is one, the remedy.
        text: String,
    },
}

/// A volume that a parent offered and this node does not have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewReplica {
    /// Which volume.
    pub volume: VolumeId,
    /// Its label here.
    pub label: Label,
    /// What the group calls it.
    pub source: Label,
    /// Its group.
    pub group: GroupName,
    /// Block size.
    pub block_size: BlockSize,
    /// Size.
    pub blocks: BlockCount,
    /// Keep a readable copy (false: only forward).
    pub replica: bool,
}

/// A volume whose files are here and cannot be opened: it is shown, never served, and never made
/// anew before an operator deletes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClosedVolume {
    /// Its label.
    pub label: Label,
    /// Its group.
    pub group: GroupName,
    /// `primary`, `replica` or `relay`.
    pub role: String,
    /// Why, with the remedy.
    pub why: String,
}

/// A volume of this node.
#[derive(Debug)]
struct Held {
    label: Label,
    /// What the group calls it: the label at its source.
    source: Label,
    group: GroupName,
    volume: Volume,
    inbound: Option<Inbound>,
    /// Whose stream it was attached to last.
    fed_by: Option<NodeName>,
    /// Newest set known to exist, and the moment up to which it is known to be the newest.
    newest: rcp::proto::ids::SetNumber,
    /// The line that was offered last.
    newest_of: Option<Generation>,
    as_of: Wall,
    /// What time it is there.
    clock: lag::WriterClock,
    /// Whether it is heard of.
    line: lost::Line,
    /// Size as the parent told it last.
    offered: BlockCount,
    /// Waiting for the volume to have a size.
    growing: Vec<(AskId, BlockCount)>,
    /// Who waits until a state is listed as kept, durably.
    keeping: Vec<(AskId, rcp::proto::ids::SetNumber)>,
    /// Control blocks that wait for a round through the content.
    scrubbing: Vec<[u8; 16]>,
    /// The files are being prepared for a larger size: never for two at a time.
    preparing: bool,
    /// Waiting for what was set to be durable.
    setting: Vec<settings::Waiter>,
    /// When the newest order to start or stop playback was given that was carried out here.
    playback_order: u64,
    /// Waiting for a demanded cut.
    cut_asks: Vec<(Demand, AskId)>,
    /// Seeds that pass through.
    relaying: relaying::Relaying,
    /// Questions of children, of the parent.
    comparing: comparing::Passing,
    /// Where the content of children begins that were seeded from here.
    seeded: BTreeMap<NodeName, rcp::proto::ids::SetNumber>,
    /// Why children were detached, for status.
    detached: BTreeMap<NodeName, String>,
    fill: status::Fill,
    /// What holds it back.
    own: delay::Own,
    /// What of it stands still, and the log says so.
    stalls: BTreeSet<&'static str>,
    /// The room of its save volume is awaited, and the log says so.
    suspension_told: bool,
    /// What the children report of the nodes below.
    below: Aggregate,
    /// Who the writer is, as far as this node knows.
    writer: history::Writer,
    /// A change of role under way.
    change: failover::Change,
}

/// One node.
#[derive(Debug)]
pub struct Mover {
    cfg: MoverConfig,
    now: Mono,
    wall: Wall,
    random: u64,
    volumes: BTreeMap<VolumeId, Held>,
    /// Replicas whose files are being made.
    creating: BTreeSet<VolumeId>,
    /// Volumes that are here and cannot be opened.
    closed: BTreeMap<VolumeId, ClosedVolume>,
    groups: BTreeMap<GroupName, Group>,
    conns: BTreeMap<ConnId, Conn>,
    table: Table,
    /// It knows something of the tree below that is not stored.
    learned: bool,
    destinations: Destinations,
    storing: destinations::Storing,
    notices: kinds::Notices,
    roles: roles::Roles,
    /// The handler that is being told of a writer that is lost, or back.
    telling: Option<lost::Telling>,
    /// Control blocks under way.
    controls: controls::Blocks,
    next_conn: u64,
    last_quiet: u64,
    next_report: Mono,
    effects: VecDeque<Effect>,
    /// Peers that were turned away lately.
    strangers: VecDeque<Stranger>,
    /// How many of them were noted, since when.
    knocks: (Mono, u32),
    stopping: bool,
    started: Wall,
}

impl Mover {
    /// A node without groups, volumes and connections.
    #[must_use]
    pub fn new(cfg: MoverConfig, now: Mono, wall: Wall) -> Self {
        Self {
            now,
            wall,
            random: cfg.random | 1,
            volumes: BTreeMap::new(),
            creating: BTreeSet::new(),
            closed: BTreeMap::new(),
            groups: BTreeMap::new(),
            conns: BTreeMap::new(),
            table: cfg.table.clone(),
            learned: false,
            destinations: cfg.destinations.clone(),
            storing: destinations::Storing::new(),
            notices: kinds::Notices::default(),
            roles: roles::Roles::default(),
            telling: None,
            controls: controls::Blocks::new(
                cfg.node.clone(),
                cfg.journal.clone(),
                controls::MAX_PENDING,
            ),
            next_conn: 0,
            last_quiet: 0,
            next_report: now,
            effects: VecDeque::new(),
            strangers: VecDeque::new(),
            knocks: (now, 0),
            stopping: false,
            started: wall,
            cfg,
        }
    }

    /// This node's name.
    #[must_use]
    pub fn node(&self) -> &NodeName {
        &self.cfg.node
    }

    /// The next thing to do.
    pub fn poll_effect(&mut self) -> Option<Effect> {
        if self.effects.is_empty() {
            self.tell_roles();
        }
        self.effects.pop_front()
    }

    fn effect(&mut self, e: Effect) {
        self.role_may_differ(&e);
        self.effects.push_back(e);
    }

    fn note(&mut self, level: Level, text: String) {
        self.effect(Effect::Note { level, text });
    }

    fn random_id(&mut self) -> [u8; 16] {
        let mut id = [0u8; 16];
        id[..8].copy_from_slice(&self.random().to_le_bytes());
        id[8..].copy_from_slice(&self.random().to_le_bytes());
        id
    }

    /// A number that nobody can predict well enough to synchronise reconnections (xorshift64*).
    fn random(&mut self) -> u64 {
        let mut x = self.random;
        x ^= x >> 12;
        x ^= x << 25;
        x ^= x >> 27;
        self.random = x;
        x.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// Takes a volume that was opened or created.
    pub fn add_volume(&mut self, label: Label, group: GroupName, volume: Volume) {
        self.add_volume_as(label.clone(), label, group, volume);
    }

    /// Takes a volume that was opened or created, which the group may call otherwise (VMC-03).
    pub fn add_volume_as(
        &mut self,
        label: Label,
        source: Label,
        group: GroupName,
        mut volume: Volume,
    ) {
        volume.resume();
        let id = volume.config().volume;
        self.creating.remove(&id);
        self.has(id);
        let (newest, offered) = (volume.durable().visible, volume.blocks());
        self.volumes.insert(
            id,
            Held {
                label,
                source,
                group: group.clone(),
                volume,
                inbound: None,
                fed_by: None,
                newest,
                newest_of: None,
                as_of: Wall(0),
                clock: lag::WriterClock::default(),
                line: lost::Line::default(),
                offered,
                growing: Vec::new(),
                keeping: Vec::new(),
                scrubbing: Vec::new(),
                preparing: false,
                setting: Vec::new(),
                playback_order: 0,
                cut_asks: Vec::new(),
                relaying: relaying::Relaying::default(),
                comparing: comparing::Passing::default(),
                seeded: BTreeMap::new(),
                detached: BTreeMap::new(),
                fill: status::Fill::default(),
                own: delay::Own::default(),
                stalls: BTreeSet::new(),
                suspension_told: false,
                below: Aggregate::with_defaults(self.cfg.node.clone()),
                writer: history::Writer::default(),
                change: failover::Change::default(),
            },
        );
        self.forget_removed(id);
        self.begin_confirming(id);
        // It is not known yet how old it is.
        self.judge_age(id);
        self.effect(Effect::Exports { volume: id });
        self.offer_to_children(id);
        self.attach_pending(id);
        // What was under way goes on without anybody's asking: a merge, a full save volume.
        let (now, wall) = (self.now, self.wall);
        if let Some(h) = self.volumes.get_mut(&id) {
            h.volume.timer(now, wall);
        }
        self.settle(id);
    }

    /// A volume could not be opened.
    pub fn add_closed(&mut self, id: VolumeId, volume: ClosedVolume) {
        self.note(
            Level::Error,
            format!("volume {} cannot be opened: {}", volume.label, volume.why),
        );
        self.closed.insert(id, volume);
        self.look_at_role(id);
    }

    /// The runtime could not make a replica's files.
    pub fn replica_failed(&mut self, volume: VolumeId, why: &str) {
        self.creating.remove(&volume);
        self.note(Level::Error, format!("no replica of volume {volume} could be made: {why}"));
    }

    /// A volume, for reading what is durable and where readers find its view.
    #[must_use]
    pub fn volume(&self, id: VolumeId) -> Option<&Volume> {
        self.volumes.get(&id).map(|h| &h.volume)
    }

    /// Volumes with their labels.
    pub fn labels(&self) -> impl Iterator<Item = (&Label, VolumeId)> {
        self.volumes.iter().map(|(id, h)| (&h.label, *id))
    }

    /// What a volume is called here, and in its group.
    #[must_use]
    pub fn names_of(&self, id: VolumeId) -> Option<(&Label, &Label)> {
        self.volumes.get(&id).map(|h| (&h.label, &h.source))
    }

    /// Finds a volume by label or UUID, or by what the group calls it, if that is no other's.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<VolumeId> {
        let by_label = self.volumes.iter().find(|(_, h)| h.label.as_str() == name);
        let by_id = || {
            let id: VolumeId = name.parse().ok()?;
            self.volumes.contains_key(&id).then_some(id)
        };
        let by_source = || {
            let mut called = self.volumes.iter().filter(|(_, h)| h.source.as_str() == name);
            called.next().filter(|_| called.next().is_none()).map(|(id, _)| *id)
        };
        by_label.map(|(id, _)| *id).or_else(by_id).or_else(by_source)
    }

    /// When [`Mover::tick`] wants to be called next.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Mono> {
        let volumes = self.volumes.values().flat_map(|h| {
            let change = h.change.timeout(self.now);
            [h.volume.poll_timeout(), h.inbound.as_ref().and_then(Inbound::retry_at), change]
        });
        let sessions = self.conns.values().map(|c| c.session.poll_timeout());
        let feeding = self.groups.iter().filter(|(name, _)| !self.lets_go(name));
        let links = feeding.flat_map(|(_, g)| g.timeouts(self.now));
        volumes
            .chain(sessions)
            .flatten()
            .chain(links)
            .chain(self.pace_timeouts())
            .chain(self.further_timeouts())
            .chain([self.next_report])
            .min()
    }

    /// Time has passed.
    pub fn tick(&mut self, now: Mono, wall: Wall) {
        self.time(now, wall);
        let ids: Vec<_> = self.volumes.keys().copied().collect();
        for id in ids {
            let Some(h) = self.volumes.get_mut(&id) else { continue };
            h.volume.intake_runs(h.is_fed());
            if h.volume.poll_timeout().is_some_and(|t| t <= now) {
                h.volume.timer(now, wall);
                self.settle(id);
            }
            self.retry_attach(id);
            self.pump_change(id);
        }
        self.tick_links();
        self.tick_paces();
        self.tick_bypass();
        if now >= self.next_report {
            self.next_report = now.after(REPORT_EVERY);
            self.report();
            self.tell_suspensions();
            self.tick_controls();
            if std::mem::take(&mut self.learned) {
                self.effect(Effect::StoreRoutes(self.table.encode()));
            }
        }
    }

    /// A volume that knows the time.
    fn held(&mut self, id: VolumeId) -> Option<&mut Held> {
        let h = self.volumes.get_mut(&id)?;
        h.volume.set_time(self.now, self.wall);
        Some(h)
    }

    fn time(&mut self, now: Mono, wall: Wall) {
        self.now = self.now.max(now);
        self.wall = wall;
    }

    /// Opens a generation at a volume that has no history yet: this node is its first writer.
    pub fn open_generation(&mut self, volume: VolumeId) {
        let (wall, id) = (self.wall, self.random_id());
        if let Some(h) = self.volumes.get_mut(&volume)
            && h.volume.durable().history.is_empty()
        {
            h.volume.open_generation(Generation { counter: 1, id }, wall);
        }
        self.settle(volume);
    }

    /// A frame came.
    pub fn frame(&mut self, now: Mono, wall: Wall, conn: ConnId, frame: DecodedFrame) {
        self.time(now, wall);
        self.conn_frame(conn, frame);
    }

    fn label_of(&self, id: VolumeId) -> String {
        self.volumes.get(&id).map_or_else(|| id.to_string(), |h| h.label.to_string())
    }
}

/// How often the subtree is reported upwards and heartbeats go down.
const REPORT_EVERY: Duration = Duration::from_millis(500);
