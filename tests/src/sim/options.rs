//! What one seed runs: shape of the tree, sizes, rates of faults.

use std::time::Duration;

use volmcast::activity::ExtentSize;
use volmcast::units::BlockSize;
use volmcast::volume::{FullPolicy, Limits};

use super::aims::Aim;
use super::rng::Rng;

/// What a node of the tree is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The writer.
    Primary,
    /// A readable copy, perhaps with children.
    Replica,
    /// It only forwards.
    Relay,
}

impl Kind {
    /// What is stored as its role.
    #[must_use]
    pub fn of(role: &str) -> Self {
        match role {
            "primary" => Self::Primary,
            "relay" => Self::Relay,
            _ => Self::Replica,
        }
    }
}

/// A node of the tree.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// What it is.
    pub kind: Kind,
    /// Its parent.
    pub parent: Option<usize>,
    /// When it is started for the first time.
    pub joins: Duration,
}

/// Everything that a seed decides before the run.
#[derive(Clone, Debug)]
pub struct Options {
    /// The nodes; the first is the primary.
    pub places: Vec<Place>,
    /// Block size.
    pub block_size: BlockSize,
    /// Blocks of the volume.
    pub blocks: u64,
    /// Capacity of the save areas.
    pub save: u64,
    /// Blocks that fit the snapshot area.
    pub snapshot_slots: u64,
    /// Payload of a chunk.
    pub chunk: u64,
    /// Credit window.
    pub window: u64,
    /// Copies kept for the drain.
    pub held: u64,
    /// Cache of recent chunks.
    pub cache: u64,
    /// Extents of the activity log.
    pub extent: ExtentSize,
    /// High-water mark and timeout of cuts.
    pub cut: (u64, Duration),
    /// High-water mark and timeout of playback.
    pub playback: (u64, Duration),
    /// How long clients write and faults happen.
    pub faults_for: Duration,
    /// Mean pause between client requests, microseconds.
    pub client_pause: u64,
    /// Mean pause between faults, microseconds.
    pub fault_pause: u64,
    /// Longest ordinary disk delay, microseconds.
    pub disk_delay: u64,
    /// Longest ordinary link delay, microseconds.
    pub link_delay: u64,
    /// In a million effects, how many are followed by a crash of the node.
    pub crash_ppm: u64,
    /// Bytes of the list of changed blocks.
    pub changes: u64,
    /// When the volume grows, and to how many blocks.
    pub growths: Vec<(Duration, u64)>,
    /// When an operator stops, starts or makes (not) persistent replication at some node.
    pub switches: Vec<Duration>,
    /// Disks fail requests, and records rot.
    pub bad_disks: bool,
    /// The writer changes: promotions, swaps, old writers that come back.
    pub turns: bool,
    /// Another operator acts while one is at work.
    pub operators: bool,
    /// Those below a node that is away are fed from above; forwarders are away for long.
    pub bypass: bool,
    /// Nodes are struck at moments at which little holds.
    pub moments: bool,
    /// Nothing goes wrong: only for a first look.
    pub calm: bool,
    /// What the run strikes at.
    pub aim: Option<Aim>,
    /// Faults and writes go on at least until so many steps were taken.
    pub steps: u64,
    /// Nodes that speak the oldest version of the protocol, a bit for each.
    pub older: u64,
    /// Nodes that mirror when they are replicas, a bit for each.
    pub mirrors: u64,
    /// Connections that carry one session.
    pub connections: u8,
    /// What happens when receivers take nothing and room runs out.
    pub full: FullPolicy,
}

impl Options {
    /// From a seed's chance.
    #[must_use]
    pub fn random(rng: &mut Rng) -> Self {
        let shape = rng.below(7);
        let r = |parent| (Kind::Replica, parent);
        let relay = |parent| (Kind::Relay, parent);
        let tree: Vec<(Kind, usize)> = match shape {
            0 => vec![r(0)],
            1 => vec![r(0), r(1)],
            2 => vec![r(0), r(0)],
            3 => vec![r(0), r(1), r(1), r(0)],
            4 => vec![r(0), r(1), r(2)],
            5 => vec![relay(0), r(1), r(1)],
            _ => vec![r(0), relay(1), r(2)],
        };
        let mut places = vec![Place { kind: Kind::Primary, parent: None, joins: Duration::ZERO }];
        for (kind, parent) in tree {
            let late = rng.percent(25);
            let joins =
                Duration::from_millis(if late { rng.range(2000, 12_000) } else { rng.below(300) });
            places.push(Place { kind, parent: Some(parent), joins });
        }
        let block_size = BlockSize::from_bytes(*rng.pick(&[512, 512, 1024, 4096]).unwrap_or(&512))
            .unwrap_or_default();
        let blocks = *rng.pick(&[64, 100, 256, 512]).unwrap_or(&64);
        let bytes = blocks * block_size.bytes();
        let chunk = block_size.bytes() * rng.range(2, 16);
        // Between a part of the volume and several volumes.
        let save = (bytes * rng.range(30, 400) / 100).max(chunk * 12).max(16 << 10) / 64 * 64;
        Self {
            places,
            block_size,
            blocks,
            save,
            snapshot_slots: blocks * rng.range(1, 8),
            chunk,
            window: (save / rng.range(2, 8)).max(2 * chunk + 8192),
            held: block_size.bytes() * rng.range(1, 32),
            cache: rng.below(save / 2),
            extent: ExtentSize::from_shift(20).unwrap_or(ExtentSize::DEFAULT),
            cut: (bytes * rng.range(2, 60) / 100, Duration::from_millis(rng.range(20, 3000))),
            playback: match rng.below(3) {
                0 => (0, Duration::ZERO),
                1 => (save / 8, Duration::from_millis(rng.range(10, 2000))),
                _ => (0, Duration::from_millis(rng.range(10, 500))),
            },
            faults_for: Duration::from_millis(rng.range(8_000, 25_000)),
            client_pause: *rng.pick(&[3_000, 10_000, 30_000, 100_000]).unwrap_or(&10_000),
            fault_pause: *rng.pick(&[300_000, 700_000, 2_000_000]).unwrap_or(&700_000),
            disk_delay: *rng.pick(&[500, 3_000, 20_000]).unwrap_or(&3_000),
            link_delay: *rng.pick(&[500, 5_000, 50_000]).unwrap_or(&5_000),
            crash_ppm: *rng.pick(&[0, 50, 200, 600]).unwrap_or(&0),
            changes: 1 << 20,
            growths: Vec::new(),
            switches: Vec::new(),
            bad_disks: false,
            turns: false,
            operators: false,
            bypass: false,
            moments: false,
            calm: false,
            aim: None,
            steps: 0,
            older: 0,
            mirrors: 0,
            connections: 1,
            full: FullPolicy::default(),
        }
    }

    /// In a share of the runs writers wait for receivers, or those may hold back little; from chance
    /// of its own: the runs of other seeds stay what they were.
    pub fn hold_back(&mut self, seed: u64) {
        let mut rng = Rng::new(seed.rotate_left(29) ^ 0x5a5a_0f0f_1234_9876);
        let share = rng.below(100);
        if share < 16 {
            self.full.suspend = Some(Duration::from_millis(rng.range(300, 6_000)));
        }
        if (8..24).contains(&share) {
            self.full.keep = Limits {
                bytes: rng.percent(50).then(|| self.save / rng.range(2, 12)),
                sets: rng.percent(50).then(|| rng.range(1, 12)),
                time: rng.percent(50).then(|| Duration::from_millis(rng.range(200, 8_000))),
            };
        }
    }

    /// A small tree in which everybody who has content may become the writer.
    pub fn take_turns(&mut self, seed: u64) {
        let mut rng = Rng::new(!seed);
        let r = |parent| (Kind::Replica, parent);
        let tree = match rng.below(6) {
            0 => vec![r(0)],
            1 => vec![r(0), r(0)],
            2 => vec![r(0), r(1)],
            3 => vec![r(0), r(0), r(1)],
            4 => vec![r(0), (Kind::Relay, 0), r(2)],
            _ => vec![r(0), r(0), r(0)],
        };
        let first = Place { kind: Kind::Primary, parent: None, joins: Duration::ZERO };
        let below = tree.into_iter().map(|(kind, parent)| {
            let joins = Duration::from_millis(if rng.percent(20) { rng.below(6000) } else { 50 });
            Place { kind, parent: Some(parent), joins }
        });
        self.places = std::iter::once(first).chain(below).collect();
        self.faults_for = Duration::from_millis(rng.range(6_000, 18_000));
        self.bad_disks = rng.percent(25);
        self.fault_pause = *rng.pick(&[150_000, 400_000, 900_000]).unwrap_or(&400_000);
        // Seeds that take their time.
        if rng.percent(50) {
            self.window = (2 * self.chunk + 8192).min(self.window);
            self.link_delay = self.link_delay.max(20_000);
        }
    }

    /// Replicas hold sets for a while before they show them: of a writer's last ones, some lines end
    /// before they were shown.
    pub fn show_late(&mut self, seed: u64) {
        let mut rng = Rng::new(seed.rotate_left(41));
        self.playback = (self.save, Duration::from_millis(rng.range(500, 4_000)));
    }

    /// A tree with nodes below nodes that forward, which are away for long.
    pub fn heal(&mut self, seed: u64) {
        let mut rng = Rng::new(!seed);
        let r = |parent| (Kind::Replica, parent);
        let relay = |parent| (Kind::Relay, parent);
        let tree = match rng.below(6) {
            0 => vec![r(0), r(1)],
            1 => vec![r(0), r(1), r(1), r(0)],
            2 => vec![relay(0), r(1), r(1)],
            3 => vec![r(0), r(1), r(2)],
            4 => vec![r(0), relay(1), r(2), r(2)],
            _ => vec![r(0), r(1), r(2), r(2)],
        };
        let first = Place { kind: Kind::Primary, parent: None, joins: Duration::ZERO };
        let below = tree.into_iter().map(|(kind, parent)| {
            let joins = Duration::from_millis(if rng.percent(15) { rng.below(6000) } else { 50 });
            Place { kind, parent: Some(parent), joins }
        });
        self.places = std::iter::once(first).chain(below).collect();
        self.faults_for = Duration::from_millis(rng.range(10_000, 30_000));
        self.fault_pause = *rng.pick(&[400_000, 900_000, 2_500_000]).unwrap_or(&900_000);
        self.bypass = true;
    }

    /// Whether a node speaks the oldest version of the protocol.
    #[must_use]
    pub fn older(&self, node: usize) -> bool {
        self.older >> node & 1 == 1
    }

    /// Some nodes mirror; operators want versions of them, or have them mirror again.
    pub fn mirror(&mut self, seed: u64) {
        let mut rng = Rng::new(seed.rotate_left(31));
        self.mirrors = rng.range(1, 1 << self.places.len());
        for _ in 0..rng.range(2, 12) {
            let at = rng.below(u64::try_from(self.faults_for.as_millis()).unwrap_or(8_000));
            self.switches.push(Duration::from_millis(at));
        }
    }

    /// Whether a node mirrors when it is a replica.
    #[must_use]
    pub fn mirrors(&self, node: usize) -> bool {
        self.mirrors >> node & 1 == 1
    }

    /// What was added later, from chance of its own: the runs of other seeds stay what they were.
    pub fn extras(&mut self, seed: u64) {
        if seed > 1000 && seed % 8 == 6 {
            // Relays below relays, with leaves that come late or fall behind.
            let parents: Vec<_> = self.places.iter().filter_map(|p| p.parent).collect();
            for (i, p) in self.places.iter_mut().enumerate().skip(1) {
                if parents.contains(&i) {
                    p.kind = Kind::Relay;
                }
            }
        }
        if seed.is_multiple_of(3) {
            // So small that it is made coarser all the time.
            self.changes = 8 << 10;
        }
        if seed > 2000 && seed % 16 == 7 {
            // Some nodes speak the oldest version, seldom all or none.
            self.older = Rng::new(seed.rotate_left(17)).range(1, 1 << self.places.len());
        }
        if seed > 2000 && seed % 8 == 3 {
            self.connections = *Rng::new(seed.rotate_left(23)).pick(&[2, 3, 4, 5]).unwrap_or(&2);
        }
        if seed % 4 != 1 {
            return;
        }
        let mut rng = Rng::new(!seed);
        let mut blocks = self.blocks;
        for _ in 0..rng.range(1, 4) {
            let at = rng.below(u64::try_from(self.faults_for.as_millis()).unwrap_or(8_000));
            blocks += rng.range(1, self.blocks / 2);
            self.growths.push((Duration::from_millis(at), blocks));
        }
        if seed % 8 == 5 {
            for _ in 0..rng.range(2, 12) {
                let at = rng.below(u64::try_from(self.faults_for.as_millis()).unwrap_or(8_000));
                self.switches.push(Duration::from_millis(at));
            }
        }
    }
}
