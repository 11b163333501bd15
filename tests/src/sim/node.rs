//! One simulated node: the real mover over a forgetful disk, through all its lives.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use forwarder::table::Table;
use node::mover::{AskId, ConnId, GroupPlan, Mover, MoverConfig};
use node::volumes::ReplicaVolume;
use node::volumes::open::{self, OpenPlan, Tuning};
use rcp::proto::clock::{Mono, Wall};
use rcp::proto::delta::Compression;
use rcp::proto::ids::{ChunkNumber, GroupName, Label, NodeName, SetNumber, VolumeId};
use rcp::proto::session::VERSIONS;
use rcp::proto::transport::{Connections, Hop};
use volmcast::activity::SharedLog;
use volmcast::capture::{Capture, Notice};
use volmcast::io::FileId;
use volmcast::save::Budget;
use volmcast::storage::Identity;
use volmcast::units::BlockCount;
use volmcast::volume::{CutPolicy, PlaybackPolicy, ScrubPolicy, Volume};

use super::disk::{Disk, SharedDisk};
use super::options::{Kind, Options};
use super::readers::Reader;
use super::reread::Files;
use super::steps::Sent;

/// The one volume.
pub const VOLUME: VolumeId = VolumeId([7; 16]);
/// Its label.
pub const LABEL: &str = "vol";
/// Its group.
pub const GROUP: &str = "grp";

/// Names of the nodes.
#[must_use]
pub fn name(n: usize) -> NodeName {
    NodeName::new(&format!("n{n}")).expect("a valid name")
}

fn group() -> GroupName {
    GroupName::new(GROUP).expect("a valid name")
}

/// A node.
pub struct SimNode {
    /// Its index.
    pub index: usize,
    /// What it is.
    pub kind: Kind,
    /// Rises with every start.
    pub life: u64,
    /// While it runs.
    pub mover: Option<Mover>,
    /// The files of the volume, once it has it.
    pub disk: Option<SharedDisk>,
    /// What is stored beside its files.
    pub identity: Option<Identity>,
    /// Storing it failed, and yet this is what a restart finds.
    pub on_disk: Option<Identity>,
    /// Reads states.
    pub states: Option<Rc<ReplicaVolume<SharedDisk>>>,
    /// The primary's activity log.
    pub activity: Option<Arc<SharedLog>>,
    /// The primary's tables; leaked, so that tickets can be held from one event to another.
    pub capture: Option<&'static Capture>,
    /// What the tables noticed.
    pub notices: Arc<Mutex<Vec<Notice>>>,
    /// The stored routing table.
    pub routes: Vec<u8>,
    /// Connections: link and side.
    pub conns: BTreeMap<ConnId, (u64, usize)>,
    /// When the next tick is due.
    pub tick_at: u64,
    /// Its disk answers late until then.
    pub slow_until: u64,
    /// So many of its next requests fail.
    pub io_errors: u64,
    /// A request of this life failed: the volume may have stopped.
    pub failing: bool,
    /// The digest that it knew when it was looked at last.
    pub digest: Option<(SetNumber, volmcast::digest::Sum)>,
    /// Bits of its content, or of the table of hashes, were flipped.
    pub spoilt: Option<volmcast::io::FileId>,
    /// Its content was kept and is not proven yet: blocks come that no set changed.
    pub unproven: bool,
    /// It was without a sum of its hashes since.
    pub blind: bool,
    /// Blocks of the content in which a bit flipped, with what they held before.
    pub rotted: Vec<(u64, Vec<u8>)>,
    /// A bit of its save area was flipped, in a record that is still in the log: where.
    pub rotten: Option<u64>,
    /// Where one was that is passed: an older mailbox slot may name it still.
    pub rotten_before: Option<u64>,
    /// The next step that it merges rots before.
    pub rots_when_merging: bool,
    /// It is started again then.
    pub falls_when_rotten: bool,
    /// Its newest mailbox slot was lost in the last crash.
    pub slot_lost: bool,
    /// Its file system is full until then, but for what is allocated.
    pub full_until: u64,
    /// It was full in this run.
    pub was_full: bool,
    /// Bytes of the base that were prepared for growth in this life.
    pub prepared: u64,
    /// Which parts of its volume could not go on when it was looked at last.
    pub stalls: BTreeSet<&'static str>,
    /// It will be started again because its volume stopped.
    pub rebooting: bool,
    /// The set being made when it was looked at last.
    pub draining: Option<SetNumber>,
    /// Newest state that readers could see.
    pub shown: SetNumber,
    /// What was acknowledged upwards.
    pub saved: Option<(SetNumber, ChunkNumber)>,
    /// The first place that was not said yet of a frame to it, and whether that of the next frame was.
    pub places: (u64, bool),
    /// Bytes of data that it has sent to others, over the newest connection to each.
    pub fed: BTreeMap<usize, (u64, u64)>,
    /// Who is away and lacks something: in which life of this node, what it had, and
    /// since when nothing of that changed.
    pub away: BTreeMap<String, (u64, u64, u64)>,
    /// Kept states that the mailbox listed durably and nobody gave up.
    pub kept: BTreeMap<SetNumber, u64>,
    /// Kept states that an operator gave up; the mailbox may list them a moment longer.
    pub released: BTreeSet<SetNumber>,
    /// Those that he wants to be kept again, until he is told that they are.
    pub kept_again: Vec<(AskId, SetNumber)>,
    /// Replication is stopped here, durably, since this state.
    pub halted: Option<SetNumber>,
    /// Readers that hold a state.
    pub readers: Vec<Reader>,
    /// A seed was under way when it was looked at last.
    pub seeding: bool,
    /// It was a catch-up.
    pub catching_up: bool,
    /// A catch-up was staged and not shown yet.
    pub staged: bool,
    /// The state over which it asked its parent for a catch-up last.
    pub over: Option<SetNumber>,
    /// Blocks that its parent, the primary, may still send of a catch-up that it announced, and the
    /// number of the next extent.
    pub announced: Option<(u64, u64)>,
    /// The snapshot area was full once: pins may have been broken.
    pub area_full: bool,
    /// Whether its clients are let in.
    pub open: bool,
    turns: bool,
    /// Somebody waits for its clients' requests to end.
    pub quiet: Vec<u64>,
    /// The line it followed when it was looked at last.
    pub line: Option<rcp::proto::ids::Generation>,
    /// What was seen of its present life.
    pub(super) watch: super::watch::Watch,
    /// What was seen of what is kept here.
    pub(super) keeps: super::keeps::Keeps,
    /// What was sent to it.
    pub sent: Sent,
    /// It asked for extents from the first block on.
    pub seed_anew: bool,
    /// Over which state.
    pub seed_over: Option<u64>,
    /// When it was started last.
    pub started: u64,
    /// What it was in the middle of when it fell.
    pub fell_in: Vec<&'static str>,
    /// What it stood at when it was looked at last, while it runs.
    pub(super) moment: Option<super::moments::Moment>,
    /// Log positions when it was looked at last, to see it wrap.
    pub log_head: u64,
    /// How its volume is opened.
    pub plan: OpenPlan,
    /// Sizes of its parts.
    pub tuning: Tuning,
    save: u64,
    snapshots: u64,
}

impl SimNode {
    /// A node with an empty disk.
    #[must_use]
    pub fn new(index: usize, opt: &Options) -> Self {
        let place = opt.places[index];
        let hops: Vec<_> = opt
            .places
            .iter()
            .enumerate()
            .filter(|(_, p)| p.parent == Some(index))
            .map(|(i, _)| name(i))
            .collect();
        let planned = BTreeMap::from([(group(), hops)]);
        let planned: BTreeMap<_, _> = planned.into_iter().filter(|(_, h)| !h.is_empty()).collect();
        let table = Table::from_plan(name(index), &planned).expect("a tree");
        let bs = opt.block_size.bytes();
        Self {
            index,
            kind: place.kind,
            life: 0,
            mover: None,
            disk: None,
            identity: None,
            on_disk: None,
            states: None,
            activity: None,
            capture: None,
            notices: Arc::default(),
            routes: table.encode(),
            conns: BTreeMap::new(),
            tick_at: u64::MAX,
            slow_until: 0,
            io_errors: 0,
            failing: false,
            digest: None,
            spoilt: None,
            unproven: false,
            blind: false,
            rotted: Vec::new(),
            rotten: None,
            rotten_before: None,
            rots_when_merging: false,
            falls_when_rotten: false,
            slot_lost: false,
            full_until: 0,
            was_full: false,
            prepared: 0,
            stalls: BTreeSet::new(),
            rebooting: false,
            draining: None,
            shown: SetNumber::ZERO,
            saved: None,
            places: (0, false),
            away: BTreeMap::new(),
            fed: BTreeMap::new(),
            kept: BTreeMap::new(),
            released: BTreeSet::new(),
            kept_again: Vec::new(),
            halted: None,
            readers: Vec::new(),
            seeding: false,
            catching_up: false,
            staged: false,
            over: None,
            announced: None,
            area_full: false,
            open: !opt.turns,
            turns: opt.turns,
            quiet: Vec::new(),
            line: None,
            watch: super::watch::Watch::default(),
            keeps: super::keeps::Keeps::default(),
            sent: Sent::default(),
            seed_anew: false,
            seed_over: None,
            started: 0,
            fell_in: Vec::new(),
            moment: None,
            log_head: 0,
            plan: OpenPlan {
                node: name(index),
                persistent: true,
                cut: CutPolicy { hwm: opt.cut.0, timeout: opt.cut.1 },
                playback: PlaybackPolicy {
                    hwm: opt.playback.0,
                    timeout: opt.playback.1,
                    on_demand: opt.mirrors(index),
                },
                compression: Compression::WherePays,
                import: false,
                // Scarce, too, in some worlds.
                budget: Budget::new(opt.cache / 2),
                scrub: ScrubPolicy { rate: 4 << 20, every: Duration::from_secs(3) },
                full: opt.full.clone(),
            },
            tuning: Tuning {
                chunk_bytes: opt.chunk,
                window: opt.window,
                cache: opt.cache,
                readback: opt.save / 8,
                held: opt.held,
                extent: opt.extent,
                changes: opt.changes,
            },
            save: opt.save,
            snapshots: opt.snapshot_slots * (bs + 32),
        }
    }

    /// The volume, while the node runs and has it.
    #[must_use]
    pub fn volume(&self) -> Option<&Volume> {
        self.mover.as_ref()?.volume(VOLUME)
    }

    /// Starts the node with what its disk holds.
    ///
    /// # Errors
    /// The volume cannot be opened.
    pub fn start(
        &mut self,
        opt: &Options,
        now: Mono,
        wall: Wall,
        random: u64,
    ) -> Result<(), String> {
        self.life += 1;
        let place = opt.places[self.index];
        let mut instance = [0; 16];
        instance[..8].copy_from_slice(&random.to_le_bytes());
        let table = Table::decode(&self.routes).map_err(|e| format!("stored routes: {e}"))?;
        let all: Vec<_> = (0..opt.places.len()).map(name).collect();
        let relay = |i: &usize| opt.places.get(*i).is_some_and(|p| p.kind == Kind::Relay);
        let relays = (0..opt.places.len()).filter(relay).map(name).collect();
        let cfg = MoverConfig {
            node: name(self.index),
            instance,
            random,
            keepalive: Duration::from_millis(500),
            queue_bytes: (opt.window / 2).max(opt.chunk * 2),
            addresses: all.iter().map(|n| (n.clone(), n.to_string())).collect(),
            table,
            proven: false,
            versions: (VERSIONS.0, if opt.older(self.index) { VERSIONS.0 } else { VERSIONS.1 }),
            writer_lost: std::time::Duration::from_secs(30),
            handlers: std::collections::BTreeSet::new(),
            journal: rcp::proto::control::Journal::default(),
            destinations: node::mover::Destinations::default(),
            listed: std::collections::BTreeSet::new(),
        };
        self.mover = Some(Mover::new(cfg, now, wall));
        if self.disk.is_some() {
            self.open(now, wall)?;
        } else if self.kind == Kind::Primary {
            let blocks = BlockCount(opt.blocks);
            let identity = self.identity(opt.block_size, blocks, "primary");
            self.create(identity, now, wall)?;
        }
        let plan = GroupPlan {
            primary: place.kind == Kind::Primary,
            replica: place.kind == Kind::Replica || opt.turns && place.kind == Kind::Primary,
            writer: None,
            planned: Vec::new(),
            members: all,
            relays,
            confirm: if opt.turns {
                node::mover::Confirm::OneChild
            } else {
                node::mover::Confirm::None
            },
            hop: Hop { connections: Connections::new(opt.connections), ..Hop::default() },
            no_bypass: !opt.bypass,
            ..GroupPlan::default()
        };
        if let Some(m) = &mut self.mover {
            m.add_group(group(), plan);
        }
        Ok(())
    }

    /// The identity of the volume here.
    #[must_use]
    pub fn identity(
        &self,
        block_size: volmcast::units::BlockSize,
        blocks: BlockCount,
        role: &str,
    ) -> Identity {
        Identity {
            volume: VOLUME,
            label: Label::new(LABEL).expect("a valid label"),
            source: None,
            group: group(),
            node: name(self.index),
            role: role.to_owned(),
            block_size,
            blocks,
            save: self.save,
            snapshots: self.snapshots,
            base: None,
            standing: volmcast::storage::Standing::default(),
        }
    }

    /// Makes the volume's files and opens it.
    ///
    /// # Errors
    /// In words.
    pub fn create(&mut self, identity: Identity, now: Mono, wall: Wall) -> Result<(), String> {
        let disk = SharedDisk(Rc::new(RefCell::new(Disk::new(open::sizes(&identity)))));
        open::format(&identity, &self.plan, &self.tuning, &disk).map_err(|e| e.to_string())?;
        self.disk = Some(disk);
        self.identity = Some(identity);
        self.open(now, wall)
    }

    fn open(&mut self, now: Mono, wall: Wall) -> Result<(), String> {
        if let Some(found) = self.on_disk.take() {
            self.identity = Some(found);
        }
        let (Some(disk), Some(identity)) = (&self.disk, &self.identity) else { return Ok(()) };
        if self.turns {
            self.kind = Kind::of(&identity.role);
        }
        let files = self.files_to_open(identity, disk);
        let m = open::assemble(identity, &self.plan, &self.tuning, disk, now, wall)
            .map_err(|e| e.to_string())?;
        if let Some(reading) = files.read() {
            reading.check(&m.volume)?;
        }
        if let Some(note) = m.notes.iter().find(|n| !self.may_say(&n.text)) {
            return Err(format!("opening the volume: {note}"));
        }
        let Some(mover) = &mut self.mover else { return Ok(()) };
        let primary = m.volume.capture().cloned();
        if let Some(capture) = &primary {
            let notices = self.notices.clone();
            capture.on_notice(move |n| {
                if let Ok(mut all) = notices.lock() {
                    all.push(n);
                }
            });
            let kept: &'static Arc<Capture> = Box::leak(Box::new(capture.clone()));
            self.capture = Some(kept);
        }
        self.activity = m.activity;
        self.states = (identity.role != "relay").then(|| {
            let board = m.volume.board().clone();
            #[allow(clippy::arc_with_non_send_sync)]
            let files = Arc::new(disk.clone());
            Rc::new(ReplicaVolume::new(files, board, m.ring, identity.block_size))
        });
        mover.add_volume(identity.label.clone(), identity.group.clone(), m.volume);
        if primary.is_some() {
            mover.open_generation(VOLUME);
            mover.stand(VOLUME, identity.standing.clone());
        }
        Ok(())
    }

    /// What its volume is opened from.
    pub(super) fn files_to_open(&self, identity: &Identity, disk: &SharedDisk) -> Files {
        let d = disk.0.borrow();
        Files {
            mailbox: d.settled(FileId::Mailbox).into(),
            save: d.settled(FileId::Save).into(),
            hashes: d.settled(FileId::Hashes).into(),
            capacity: self.save / 64 * 64,
            volume: VOLUME,
            block_size: identity.block_size,
            node: name(self.index),
            kind: Kind::of(&identity.role),
            opens: identity.standing.opens.as_ref().map(|o| o.generation),
            discards: identity.standing.discards && identity.role != "primary",
        }
    }

    /// Memory is gone.
    pub fn drop_memory(&mut self) {
        self.life += 1;
        self.readers.clear();
        self.fed.clear();
        self.kept_again.clear();
        self.mover = None;
        self.states = None;
        self.activity = None;
        self.capture = None;
        self.notices = Arc::default();
        self.conns.clear();
        self.tick_at = u64::MAX;
        self.draining = None;
        self.moment = None;
        self.quiet.clear();
        self.open &= !self.turns;
        self.prepared = 0;
        self.rebooting = false;
    }

    /// Bits of what it stores were flipped.
    #[must_use]
    pub fn damaged(&self) -> bool {
        self.rotten.is_some() || self.spoilt.is_some()
    }

    /// It found a record of the ring's next round, or of a later one, where its own should be: they
    /// may begin at the same place.
    fn is_of_a_later_round(&self, text: &str) -> bool {
        let number = |after: &str| {
            let (_, rest) = text.split_once(after)?;
            let digits = rest.split(|c: char| !c.is_ascii_digit()).next()?;
            digits.parse::<u64>().ok()
        };
        let found = number("a record of position ").zip(number("stands at position "));
        found.is_some_and(|(found, at)| found > at && (found - at) % self.save == 0)
    }

    /// What a node may say that has a bad disk, and only then.
    #[must_use]
    pub fn may_say(&self, text: &str) -> bool {
        let failed = text.contains("failed: input/output error");
        let damage = ["is damaged", "was damaged", "damaged:"].iter().any(|w| text.contains(w));
        (self.failing && failed)
            || (self.damaged() && damage)
            || (self.spoilt.is_some() && text.contains("is not the primary's"))
            || (self.damaged() && text.contains("the content differs since"))
            || (self.slot_lost && text.contains("mailbox slots"))
            // The slot before names room that was used again since.
            || (self.slot_lost && text.contains("no record begins here"))
            || (self.slot_lost && self.is_of_a_later_round(text))
            // A crash left a set that no slot ever named, torn.
            || (self.slot_lost && text.contains("cannot be read"))
            || (self.was_full && text.contains("no space left"))
    }
}
