//! Nodes as values, wired to each other in memory, over real files: who may write, and who says so
//! (FAIL-01, FAIL-04 to FAIL-07, F31, F33; promise 7).

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use forwarder::table::Table;
use node::api::WriterChange;
use node::mover::{
    Accepted, Ask, AskId, Confirm, ConnId, Effect, Gate, GroupPlan, Mover, MoverConfig, NotMade,
    Proof, Reply, TurnedAway,
};
use node::nbd::Export;
use node::volumes::open::{self, OpenPlan, Opened};
use rcp::proto::clock::{Mono, Wall};
use rcp::proto::delta::Compression;
use rcp::proto::frame::{Branch, DecodedFrame, Frame};
use rcp::proto::ids::{Generation, GroupName, Label, NodeName, SetNumber, VolumeId};
use rcp::proto::session::VERSIONS;
use rcp::proto::transport::Hop;
use volmcast::storage::{Identity, Standing, Storage};
use volmcast::units::{BlockCount, BlockSize};
use volmcast::volume::{CutPolicy, PlaybackPolicy};

#[path = "writers/damage.rs"]
mod damage;
#[path = "writers/kept.rs"]
mod kept;
#[path = "writers/lost.rs"]
mod lost;
#[path = "writers/roles.rs"]
mod roles;
#[path = "writers/seeds.rs"]
mod seeds;
#[path = "writers/waiting.rs"]
mod waiting;

const VOLUME: VolumeId = VolumeId([7; 16]);
const BLOCKS: u64 = 256;

fn name(n: &str) -> NodeName {
    NodeName::new(n).expect("valid")
}

fn group(g: &str) -> GroupName {
    GroupName::new(g).expect("valid")
}

fn plan(n: &str) -> OpenPlan {
    OpenPlan {
        node: name(n),
        persistent: true,
        cut: CutPolicy { hwm: 1 << 30, timeout: Duration::from_secs(3600) },
        playback: PlaybackPolicy { hwm: 0, timeout: Duration::ZERO, on_demand: false },
        compression: Compression::Never,
        import: false,
        budget: volmcast::save::Budget::new(1 << 20),
        scrub: volmcast::volume::ScrubPolicy {
            rate: 16 << 20,
            every: Duration::from_secs(24 * 3600),
        },
        full: volmcast::volume::FullPolicy::default(),
    }
}

fn identity(n: &str, g: &str, role: &str) -> Identity {
    Identity {
        volume: VOLUME,
        label: Label::new("vol").expect("valid"),
        source: None,
        group: group(g),
        node: name(n),
        role: role.to_owned(),
        block_size: BlockSize::DEFAULT,
        blocks: BlockCount(BLOCKS),
        save: 16 << 20,
        snapshots: 1 << 20,
        base: None,
        standing: Standing::default(),
    }
}

struct Node {
    dir: tempfile::TempDir,
    mover: Mover,
    vol: Option<Opened>,
    gates: Vec<Gate>,
    notes: Vec<String>,
    replies: BTreeMap<u64, Reply>,
    /// Writes are under way: nobody is told that there are none.
    writing: Vec<u64>,
    busy: bool,
    /// Roles cannot be stored.
    bad_disk: bool,
    made_read_only: u32,
    /// Role and state that were told the moment the role was on the disk.
    made_writer: Option<(String, String)>,
    /// Handlers that run: of which kind, and what they read.
    handled: Vec<([u8; 16], String, String)>,
}

#[derive(Default)]
struct Rig {
    now: u64,
    nodes: BTreeMap<&'static str, Node>,
    wires: BTreeMap<(&'static str, ConnId), (&'static str, ConnId)>,
    down: Vec<&'static str>,
    asked: u64,
    /// Kinds that every node has a handler for.
    handlers: std::collections::BTreeSet<String>,
    /// Frames that do not arrive.
    unheard: Option<fn(&Frame) -> bool>,
    /// What was said of extents: up to which block they are durable, and how much may come in all.
    acks: Vec<(u64, u64)>,
    /// Nodes that speak the oldest version only.
    older: Vec<&'static str>,
}

impl Rig {
    fn new() -> Self {
        Self { now: 1_000_000, ..Self::default() }
    }

    fn mono(&self) -> Mono {
        Mono(self.now)
    }

    fn wall(&self) -> Wall {
        Wall(self.now)
    }

    /// A node that feeds `hops` in its group.
    fn add(&mut self, n: &'static str, g: &str, hops: &[&str]) {
        let dir = tempfile::tempdir().expect("temp");
        self.start(n, g, hops, dir);
    }

    fn start(&mut self, n: &'static str, g: &str, hops: &[&str], dir: tempfile::TempDir) {
        let hops: Vec<_> = hops.iter().map(|h| name(h)).collect();
        let planned = BTreeMap::from([(group(g), hops)]);
        let planned: BTreeMap<_, _> = planned.into_iter().filter(|(_, h)| !h.is_empty()).collect();
        let all = ["p", "l1", "l2", "x"];
        let cfg = MoverConfig {
            node: name(n),
            instance: [u8::try_from(self.now % 251).expect("small"); 16],
            random: self.now + n.len() as u64,
            keepalive: Duration::from_secs(5),
            queue_bytes: 1 << 20,
            addresses: all.iter().map(|n| (name(n), (*n).to_owned())).collect(),
            table: Table::from_plan(name(n), &planned).expect("a tree"),
            proven: false,
            handlers: self.handlers.clone(),
            writer_lost: Duration::from_secs(30),
            versions: (VERSIONS.0, if self.older.contains(&n) { VERSIONS.0 } else { VERSIONS.1 }),
            journal: rcp::proto::control::Journal::default(),
            destinations: node::mover::Destinations::default(),
            listed: ["secret".to_owned()].into(),
        };
        let mover = Mover::new(cfg, self.mono(), self.wall());
        let node = Node {
            dir,
            mover,
            vol: None,
            gates: Vec::new(),
            notes: Vec::new(),
            replies: BTreeMap::new(),
            writing: Vec::new(),
            busy: false,
            bad_disk: false,
            made_read_only: 0,
            made_writer: None,
            handled: Vec::new(),
        };
        self.nodes.insert(n, node);
        let folder = self.folder(n);
        if folder.join("identity").exists() {
            let o = open::open(&folder, &plan(n), self.mono(), self.wall()).expect("opened");
            self.enter(n, o);
        }
        self.join(n, g);
    }

    fn join(&mut self, n: &'static str, g: &str) {
        let plan = GroupPlan {
            replica: true,
            members: ["p", "l1", "l2", "x"].map(name).to_vec(),
            confirm: Confirm::OneChild,
            hop: Hop::default(),
            ..GroupPlan::default()
        };
        self.node(n).mover.add_group(group(g), plan);
        self.run();
    }

    fn folder(&self, n: &str) -> std::path::PathBuf {
        self.nodes[n].dir.path().join("v")
    }

    fn node(&mut self, n: &str) -> &mut Node {
        self.nodes.get_mut(n).expect("a node")
    }

    fn create(&mut self, n: &'static str, identity: &Identity) {
        let folder = self.folder(n);
        let (now, wall) = (self.mono(), self.wall());
        let o = open::create(&folder, identity, &plan(n), now, wall).expect("created");
        self.enter(n, o);
        self.run();
    }

    fn enter(&mut self, n: &str, o: Opened) {
        let node = self.node(n);
        let Opened { identity, volume, files, primary, states, notes } = o;
        let was_primary = primary.is_some();
        let standing = identity.standing.clone();
        // What is left of it here stands for what the runtime holds.
        let (label, g) = (identity.label.clone(), identity.group.clone());
        let placeholder =
            volmcast::volume::Volume::create(volume.config().clone(), Mono(0), Wall(0))
                .expect("a value");
        node.vol = Some(Opened { identity, volume: placeholder, files, primary, states, notes });
        node.mover.add_volume(label, g, volume);
        if was_primary {
            node.mover.open_generation(VOLUME);
            node.mover.stand(VOLUME, standing);
        }
    }

    /// The node ends without a word and begins again with what its folder holds.
    fn restart(&mut self, n: &'static str, g: &str, hops: &[&str]) {
        let node = self.nodes.remove(n).expect("a node");
        let ends: Vec<_> = self.wires.iter().filter(|(a, _)| a.0 == n).map(|(_, b)| *b).collect();
        self.wires.retain(|a, b| a.0 != n && b.0 != n);
        let dir = node.dir;
        drop((node.mover, node.vol));
        let (now, wall) = (self.mono(), self.wall());
        for (peer, conn) in ends {
            self.node(peer).mover.lost(now, wall, conn, "the node is gone");
        }
        self.now += 1_000;
        self.start(n, g, hops, dir);
    }

    fn ask(&mut self, n: &str, question: Ask) -> u64 {
        self.asked += 1;
        let ask = self.asked;
        self.node(n).mover.ask(AskId(ask), question);
        self.run();
        ask
    }

    fn change(&mut self, n: &str, change: WriterChange) -> u64 {
        self.ask(n, Ask::Writer(change))
    }

    fn promote(&mut self, n: &str) -> u64 {
        let (volume, now, at, above) = ("vol".to_owned(), false, None, 0);
        let ask = self.change(
            n,
            WriterChange::Promote { volume, now, at, above, lose_damaged_blocks: false },
        );
        self.pass(100);
        ask
    }

    fn told(&self, n: &str, ask: u64) -> String {
        format!("{:?}", self.nodes[n].replies.get(&ask))
    }

    /// Time passes, in steps of 50 ms.
    fn pass(&mut self, ms: u64) {
        for _ in 0..ms.div_ceil(50) {
            self.now += 50_000;
            let (now, wall) = (self.mono(), self.wall());
            for n in self.nodes.values_mut() {
                n.mover.tick(now, wall);
            }
            self.run();
        }
    }

    fn run(&mut self) {
        let names: Vec<_> = self.nodes.keys().copied().collect();
        loop {
            let mut more = false;
            for n in &names {
                while let Some(e) = self.nodes.get_mut(n).and_then(|x| x.mover.poll_effect()) {
                    self.effect(n, e);
                    more = true;
                }
            }
            if !more {
                return;
            }
        }
    }

    fn effect(&mut self, n: &'static str, e: Effect) {
        let (now, wall) = (self.mono(), self.wall());
        let folder = self.folder(n);
        match e {
            Effect::Dial { conn, addr, group, .. } => {
                let to = self.nodes.keys().copied().find(|x| *x == addr);
                match to.filter(|to| !self.down.contains(to) && !self.down.contains(&n)) {
                    Some(to) => {
                        let a = Accepted {
                            group,
                            proof: Proof::Nothing,
                            from: n.into(),
                            since: now,
                            secret: None,
                        };
                        let there = self.node(to).mover.accepted(now, wall, a);
                        self.wires.insert((n, conn), (to, there));
                        self.wires.insert((to, there), (n, conn));
                    }
                    None => self.node(n).mover.lost(now, wall, conn, "nobody answers"),
                }
            }
            Effect::Send { frame, .. } if self.unheard.is_some_and(|not| not(&frame)) => {}
            Effect::Send { conn, frame } => {
                if let Frame::SeedAck { next_block, total, .. } = frame {
                    self.acks.push((next_block, total));
                }
                let Some((to, there)) = self.wires.get(&(n, conn)).copied() else { return };
                let bytes = 1 << 20;
                let frame = DecodedFrame::verify(frame).expect("a good frame");
                self.node(to).mover.frame(now, wall, there, frame);
                self.node(n).mover.sent(conn, bytes);
            }
            Effect::Close { conn } => {
                if let Some((to, there)) = self.wires.remove(&(n, conn)) {
                    self.wires.remove(&(to, there));
                    self.node(to).mover.lost(now, wall, there, "closed");
                }
            }
            Effect::Io { io, .. } => {
                let node = self.node(n);
                let outcome = node.vol.as_ref().expect("files").files.perform(&io);
                node.mover.io_done(now, wall, VOLUME, io.tag, outcome);
            }
            Effect::Work { tag, work, .. } => {
                self.node(n).mover.work_done(now, wall, VOLUME, tag, work.run());
            }
            Effect::CreateReplica(r) => {
                let made = identity(n, r.group.as_str(), "replica");
                let o = open::create(&folder, &made, &plan(n), now, wall).expect("created");
                self.enter(n, o);
            }
            Effect::SetFinished { .. } => self.node(n).mover.forgotten(now, wall, VOLUME),
            Effect::Reply { ask, reply } => drop(self.node(n).replies.insert(ask.0, reply)),
            Effect::Note { text, .. } => self.node(n).notes.push(text),
            Effect::Handle { id, kind, body, .. } => {
                let body = String::from_utf8_lossy(&body).into_owned();
                self.node(n).handled.push((id, kind, body));
            }
            e => self.writer_effect(n, &folder, e),
        }
    }

    fn writer_effect(&mut self, n: &str, folder: &Path, e: Effect) {
        let (now, wall) = (self.mono(), self.wall());
        let node = self.node(n);
        let Some(vol) = &mut node.vol else { return };
        match e {
            Effect::Gate { gate, .. } => {
                if let Some(p) = &vol.primary {
                    p.gate().set(&gate);
                }
                node.gates.push(gate);
            }
            Effect::AwaitQuiet { number, .. } if node.busy => node.writing.push(number),
            Effect::AwaitQuiet { number, .. } => {
                node.mover.writers_quiet(now, wall, VOLUME, number);
            }
            Effect::MakeWritable { opens, .. } => {
                if !node.mover.makes_writable(VOLUME, opens) {
                    return;
                }
                let v = node.mover.volume(VOLUME).expect("the volume");
                let (snapshots, blocks) = (v.config().snapshots.clone(), v.blocks());
                let p = open::make_writable(&vol.identity, &vol.files, snapshots, blocks)
                    .expect("writable");
                open::takes_over(&mut vol.identity, opens);
                vol.identity.store(folder).expect("stored");
                let capture = p.capture().clone();
                let made = if node.bad_disk {
                    Err(NotMade::Unknown("the disk is bad".to_owned()))
                } else {
                    vol.primary = Some(p.into());
                    Ok((capture, plan(n).cut))
                };
                node.mover.made_writable(now, wall, VOLUME, made);
                let told = node.mover.status().volumes.into_iter().next();
                node.made_writer = told.map(|v| (v.role, v.state));
            }
            Effect::MakeReadOnly { discards, .. } => {
                node.made_read_only += 1;
                let made = if node.bad_disk {
                    let mut found = vol.identity.clone();
                    open::steps_down(&mut found, discards);
                    found.store(folder).expect("stored");
                    Err("the disk is bad".to_owned())
                } else {
                    open::steps_down(&mut vol.identity, discards);
                    vol.identity.store(folder).expect("stored");
                    vol.primary = None;
                    Ok(plan(n).playback)
                };
                node.mover.made_read_only(now, wall, VOLUME, made);
            }
            Effect::StoreStanding { standing, .. } => {
                if node.bad_disk {
                    // What is in memory stays what it was.
                    let why = Err("the disk is bad".to_owned());
                    return node.mover.standing_stored(now, wall, VOLUME, why);
                }
                vol.identity.standing = standing;
                vol.identity.store(folder).expect("stored");
                node.mover.standing_stored(now, wall, VOLUME, Ok(()));
            }
            _ => {}
        }
    }

    /// A write, if writers are let in, and a set of it.
    fn write(&mut self, n: &str, block: u64, byte: u8) {
        let p = self.nodes[n].vol.as_ref().and_then(|v| v.primary.clone()).expect("a writer");
        p.write(block * 4096, &[byte; 4096]).expect("written");
        self.ask(n, Ask::Cut { volume: "vol".to_owned(), keep: false });
    }

    fn visible(&self, n: &str) -> u64 {
        self.nodes[n].mover.volume(VOLUME).map_or(0, |v| v.durable().visible.0)
    }

    fn gate(&self, n: &str) -> &Gate {
        self.nodes[n].gates.last().expect("a gate")
    }

    #[track_caller]
    fn is_closed(&self, n: &str, word: &str) {
        match self.gate(n) {
            Gate::Closed(why) | Gate::Handed(why) if why.contains(word) => {}
            other => panic!("{n}: {other:?}; {:?}", self.nodes[n].notes),
        }
    }

    /// Whether clients may repeat at the new writer what was not answered here.
    fn may_go_on_elsewhere(&self, n: &str) -> bool {
        matches!(self.gate(n), Gate::Handed(_))
    }

    #[track_caller]
    fn is_open(&self, n: &str) {
        assert_eq!(self.gate(n), &Gate::Open, "{n}: {:?}", self.nodes[n].notes);
    }

    #[track_caller]
    fn is_held(&self, n: &str) {
        assert!(matches!(self.gate(n), Gate::Hold(_)), "{n}: {:?}", self.gate(n));
    }
}

/// A writer `p` that feeds `l1`, both at set 2.
fn two() -> Rig {
    let mut r = Rig::new();
    r.add("p", "g1", &["l1"]);
    r.create("p", &identity("p", "g1", "primary"));
    r.add("l1", "g1", &[]);
    r.pass(2_000);
    r.is_open("p");
    r.write("p", 1, 1);
    r.write("p", 2, 2);
    r.pass(200);
    assert_eq!((r.visible("p"), r.visible("l1")), (2, 2), "{:?}", r.nodes["l1"].notes);
    r
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("made");
    for e in std::fs::read_dir(from).expect("read").flatten() {
        std::fs::copy(e.path(), to.join(e.file_name())).expect("copied");
    }
}

#[test]
fn a_new_writer_fences_the_old_one_over_their_session_also_while_it_holds_writes() {
    let mut r = two();
    let volume = || "vol".to_owned();
    let hold = r.change("p", WriterChange::Hold { volume: volume(), limit_ms: 1_000 });
    assert!(r.told("p", hold).contains("Cut"), "{}", r.told("p", hold));
    let promoted = r.promote("l1");
    assert!(r.told("l1", promoted).contains("fresh: true"), "{}", r.told("l1", promoted));
    // `writable` is told of what clients can write to, and not before.
    let told = r.nodes["l1"].made_writer.clone().expect("it was promoted");
    assert_eq!((told.0.as_str(), told.1.as_str()), ("primary", "being promoted"));
    assert_eq!(r.info("l1").state, "writable");
    r.is_closed("p", "l1 took over");
    assert!(!r.may_go_on_elsewhere("p"), "what l1 lacks was acknowledged here");
    let over =
        WriterChange::HandOver { volume: volume(), to: "l2".to_owned(), set: 2, whole: true };
    let over = r.change("p", over);
    assert!(r.told("p", over).contains("Refused"), "{}", r.told("p", over));
    let back = r.change("p", WriterChange::TakeBack { volume: volume() });
    assert!(r.told("p", back).contains("Refused"), "{}", r.told("p", back));
    r.pass(3_000);
    r.is_closed("p", "l1 took over");
    r.is_open("l1");
    // And over a restart.
    r.restart("p", "g1", &["l1"]);
    r.pass(2_000);
    r.is_closed("p", "l1 took over");
}

#[test]
fn clients_may_go_on_elsewhere_if_the_next_writer_is_known_to_have_all() {
    for whole in [true, false] {
        let mut r = two();
        let volume = || "vol".to_owned();
        let hold = r.change("p", WriterChange::Hold { volume: volume(), limit_ms: 1_000 });
        assert!(r.told("p", hold).contains("Cut"), "{}", r.told("p", hold));
        let (to, set) = ("l1".to_owned(), r.visible("p"));
        let over = r.change("p", WriterChange::HandOver { volume: volume(), to, set, whole });
        assert!(r.told("p", over).contains("Done"), "{}", r.told("p", over));
        r.is_closed("p", "l1");
        assert_eq!(r.may_go_on_elsewhere("p"), whole);
        let promoted = r.promote("l1");
        assert!(r.told("l1", promoted).contains("fresh: true"), "{}", r.told("l1", promoted));
        r.pass(3_000);
        assert_eq!(r.may_go_on_elsewhere("p"), whole, "{:?}", r.gate("p"));
    }
}

/// Else nothing would limit what is kept for it, and a status would show it as served.
#[test]
fn nobody_is_taken_for_connected_to_a_volume_that_was_handed_over() {
    let mut r = two();
    let served = |r: &Rig| {
        let v = r.nodes["p"].mover.volume(VOLUME).expect("it stays until another took over");
        v.places().map(|p| (p.child.to_string(), p.live)).collect::<Vec<_>>()
    };
    assert_eq!(served(&r), [("l1".to_owned(), true)]);
    let volume = || "vol".to_owned();
    r.change("p", WriterChange::Hold { volume: volume(), limit_ms: 1_000 });
    let (to, set) = ("l1".to_owned(), r.visible("p"));
    let over = r.change("p", WriterChange::HandOver { volume: volume(), to, set, whole: true });
    assert!(r.told("p", over).contains("Done"), "{}", r.told("p", over));
    assert_eq!(served(&r), [("l1".to_owned(), false)], "its place stays");
    assert_eq!(r.nodes["p"].mover.audit(), Ok(()));
}

#[test]
fn a_hold_whose_asker_was_cut_short_is_gone_on_with_by_the_next() {
    let mut r = two();
    let volume = || "vol".to_owned();
    let hold = || WriterChange::Hold { volume: volume(), limit_ms: 1_000 };
    let set =
        |told: &str| told.split("set: ").nth(1).and_then(|t| t.split(',').next()?.parse().ok());
    r.change("p", hold());
    r.pass(800);
    // Answered at once, with what is there, and for as long again.
    let second = r.change("p", hold());
    let told = r.told("p", second);
    let set: u64 = set(&told).unwrap_or_else(|| panic!("{told}"));
    assert_eq!(set, r.visible("p"));
    r.pass(800);
    let over = WriterChange::HandOver { volume: volume(), to: "l1".to_owned(), set, whole: true };
    let over = r.change("p", over);
    assert!(r.told("p", over).contains("Done"), "{}", r.told("p", over));
    r.is_closed("p", "l1");
}

#[test]
fn a_hold_that_is_not_decided_yet_is_waited_for() {
    let mut r = two();
    let hold = || WriterChange::Hold { volume: "vol".to_owned(), limit_ms: 1_000 };
    r.node("p").busy = true;
    r.change("p", hold());
    let second = r.change("p", hold());
    assert!(r.told("p", second).contains("try again after that"), "{}", r.told("p", second));
    r.pass(2_000);
    r.is_open("p");
}

#[test]
fn stepping_down_waits_for_writes_under_way() {
    let mut r = two();
    r.promote("l1");
    r.is_closed("p", "l1 took over");
    r.node("p").busy = true;
    let resync = r.change("p", WriterChange::Resync { volume: "vol".to_owned(), discard: false });
    r.pass(500);
    assert_eq!(r.nodes["p"].made_read_only, 0);
    let (now, wall) = (r.mono(), r.wall());
    let [number] = r.nodes["p"].writing[..] else { panic!("one question") };
    // An answer to another question does not count.
    r.node("p").mover.writers_quiet(now, wall, VOLUME, number + 1);
    r.run();
    assert_eq!(r.nodes["p"].made_read_only, 0);
    r.node("p").mover.writers_quiet(now, wall, VOLUME, number);
    r.run();
    assert_eq!(r.nodes["p"].made_read_only, 1);
    assert!(r.told("p", resync).contains("Done"), "{}", r.told("p", resync));
}

#[test]
fn a_volume_is_offered_in_its_own_group_only() {
    let mut r = two();
    r.join("p", "g2");
    r.add("x", "g2", &["p"]);
    r.create("x", &identity("x", "g2", "primary"));
    // Its history is that of p, and one line more.
    let mut history = r.nodes["p"].mover.volume(VOLUME).expect("p").history().to_vec();
    let generation = Generation { counter: 2, id: [9; 16] };
    let line = Branch { generation, forked_from: SetNumber(1), ..history[0].clone() };
    history.push(line);
    let folder = r.folder("x");
    drop(r.nodes.remove("x"));
    let _ = folder;
    r.wires.retain(|a, b| a.0 != "x" && b.0 != "x");
    r.add("x", "g2", &["p"]);
    let folder = r.folder("x");
    let made = identity("x", "g2", "replica");
    let (now, wall) = (r.mono(), r.wall());
    let mut o = open::create(&folder, &made, &plan("x"), now, wall).expect("created");
    o.volume.adopt_history(history);
    r.enter("x", o);
    r.run();
    r.pass(3_000);
    r.is_open("p");
    let said = |n: &str, w: &str| r.nodes[n].notes.iter().any(|t| t.contains(w));
    assert!(said("p", "is offered in group g2, and is of group g1"), "{:?}", r.nodes["p"].notes);
}

#[test]
fn a_next_hop_that_another_feeds_may_be_asked_for_again_and_an_unreachable_one_is_dialled() {
    let mut r = Rig::new();
    r.add("p", "g1", &["l1"]);
    r.create("p", &identity("p", "g1", "primary"));
    r.add("l1", "g1", &["l2"]);
    r.add("l2", "g1", &[]);
    r.pass(2_000);
    let add = |hop: &str, unasked| Ask::RouteAdd {
        group: "g1".to_owned(),
        next_hop: hop.to_owned(),
        by: Hop::default(),
        unasked,
    };
    // As l1 says it; that it has let go may be on its way.
    let no = r.ask("p", add("l2", false));
    assert!(r.told("p", no).contains("kind: Fed"), "{}", r.told("p", no));
    let gone = Ask::RouteDelete { group: Some("g1".to_owned()), next_hop: Some("l2".to_owned()) };
    r.ask("l1", gone);
    r.pass(500);
    let yes = r.ask("p", add("l2", false));
    r.pass(500);
    assert!(r.told("p", yes).contains("Routes"), "{}", r.told("p", yes));
    // Nobody is there.
    let no = r.ask("p", add("x", false));
    r.pass(10_000);
    assert!(r.told("p", no).contains("kind: Conflict"), "{}", r.told("p", no));
    let yes = r.ask("p", add("x", true));
    assert!(r.told("p", yes).contains("Routes"), "{}", r.told("p", yes));
    r.add("x", "g1", &[]);
    r.write("p", 1, 1);
    r.pass(15_000);
    assert_eq!(r.visible("x"), r.visible("p"));
}

#[test]
fn a_writer_that_was_put_back_waits_for_a_word_and_a_new_line_rewinds_its_child() {
    let mut r = two();
    let kept = tempfile::tempdir().expect("temp");
    r.restart("p", "g1", &["l1"]);
    copy(&r.folder("p"), kept.path());
    r.pass(2_000);
    r.is_open("p");
    r.write("p", 3, 3);
    r.write("p", 4, 4);
    r.pass(200);
    assert_eq!(r.visible("l1"), 4);
    copy(kept.path(), &r.folder("p"));
    r.restart("p", "g1", &["l1"]);
    r.pass(2_000);
    r.is_closed("p", "older than its child l1");
    assert!(!r.nodes["p"].gates.contains(&Gate::Open), "{:?}", r.nodes["p"].gates);
    r.restart("p", "g1", &["l1"]);
    r.is_closed("p", "older than its child l1");
    let alone = r.change("p", WriterChange::Alone { volume: "vol".to_owned() });
    assert!(r.told("p", alone).contains("Refused"));
    r.promote("p");
    r.pass(5_000);
    r.is_open("p");
    r.write("p", 5, 5);
    r.pass(5_000);
    // What may have been written since set 2 is marked again, and made a set at the end of the seed.
    assert_eq!(r.visible("l1"), r.visible("p"), "{:#?}", r.nodes["l1"].notes);
    assert!(r.visible("p") > 2);
    let states = r.nodes["l1"].vol.as_ref().and_then(|v| v.states.clone()).expect("states");
    let pin = states.board().pin_visible().expect("shown");
    let mut buf = [9; 4096];
    for (block, byte) in [(1, 1), (2, 2), (3, 0), (4, 0), (5, 5)] {
        states.read(&pin, block * 4096, &mut buf).expect("read");
        assert_eq!(buf[0], byte, "block {block}");
    }
}

#[test]
fn a_child_that_holds_nothing_confirms_nobody() {
    let mut r = two();
    drop(r.nodes.remove("l1"));
    r.wires.retain(|a, b| a.0 != "l1" && b.0 != "l1");
    r.add("l1", "g1", &[]);
    r.restart("p", "g1", &["l1"]);
    r.pass(3_000);
    r.is_held("p");
    r.change("p", WriterChange::Alone { volume: "vol".to_owned() });
    r.is_open("p");
}

#[test]
fn who_took_over_and_can_ask_nobody_says_that_it_is_unconfirmed() {
    let mut r = two();
    r.promote("l1");
    r.is_open("l1");
    r.restart("l1", "g1", &[]);
    r.is_open("l1");
    let said = r.nodes["l1"].notes.iter().any(|t| t.contains("unconfirmed writer"));
    assert!(said, "{:?}", r.nodes["l1"].notes);
    // With a next hop it asks.
    r.down.push("p");
    r.restart("l1", "g1", &["p"]);
    r.pass(1_000);
    r.is_held("l1");
}

#[test]
fn a_volume_that_the_topology_made_waits_for_a_child() {
    let mut r = Rig::new();
    r.add("p", "g1", &["l1"]);
    let standing = Standing { unproven: true, ..Standing::default() };
    r.create("p", &Identity { standing, ..identity("p", "g1", "primary") });
    // Volumes come before groups when a node starts; nor does another start let writers in.
    for _ in 0..2 {
        r.restart("p", "g1", &["l1"]);
        r.pass(1_000);
        r.is_held("p");
    }
    r.add("l1", "g1", &[]);
    r.pass(5_000);
    r.is_open("p");
    assert!(!r.nodes["p"].vol.as_ref().expect("p").identity.standing.unproven);
}

#[test]
fn what_is_known_of_writers_is_not_given_up_with_the_content() {
    let mut r = two();
    r.promote("l1");
    r.write("l1", 9, 9);
    r.is_closed("p", "l1 took over");
    r.change("p", WriterChange::Resync { volume: "vol".to_owned(), discard: true });
    r.pass(500);
    let history = r.nodes["p"].mover.volume(VOLUME).expect("p").durable().history.clone();
    assert_eq!(history.last().map(|b| b.generation.counter), Some(2), "{history:?}");
    r.restart("p", "g1", &["l1"]);
    let history = r.nodes["p"].mover.volume(VOLUME).expect("p").durable().history.clone();
    assert_eq!(history.last().map(|b| b.generation.counter), Some(2), "{history:?}");
}

#[test]
fn a_promotion_that_the_disk_does_not_confirm_is_not_called_off_before_it_is() {
    let mut r = two();
    r.node("l1").bad_disk = true;
    let ask = r.promote("l1");
    assert!(r.told("l1", ask).contains("not known whether"), "{}", r.told("l1", ask));
    let v = &r.nodes["l1"].mover.status().volumes[0];
    assert!(v.promoting, "{:?}", v.reason);
    // What the old writer makes is not followed meanwhile.
    r.write("p", 7, 7);
    r.pass(2_500);
    assert_eq!(r.visible("l1"), 2);
    r.node("l1").bad_disk = false;
    r.pass(2_500);
    let v = &r.nodes["l1"].mover.status().volumes[0];
    assert!(!v.promoting && v.role == "replica", "{:?}", v.reason);
    assert_eq!(r.nodes["l1"].vol.as_ref().expect("l1").identity.role, "replica");
    r.pass(10_000);
    assert_eq!(r.visible("l1"), 3, "{:?}", r.nodes["l1"].notes);
}

#[test]
fn a_promotion_asked_for_otherwise_does_not_join_the_one_under_way() {
    let mut r = two();
    r.node("l1").bad_disk = true;
    r.promote("l1");
    let (volume, now, at, above) = ("vol".to_owned(), false, Some(1), 0);
    let other = r
        .change("l1", WriterChange::Promote { volume, now, at, above, lose_damaged_blocks: false });
    assert!(r.told("l1", other).contains("Refused"), "{}", r.told("l1", other));
}

#[test]
fn a_new_line_is_above_what_the_operator_knows_and_counters_do_not_leap() {
    let mut r = two();
    let promote = |above| {
        let (volume, now, at) = ("vol".to_owned(), false, None);
        WriterChange::Promote { volume, now, at, above, lose_damaged_blocks: false }
    };
    let far = r.change("l1", promote(u32::MAX));
    assert!(r.told("l1", far).contains("no line can follow"), "{}", r.told("l1", far));
    r.change("l1", promote(6));
    r.pass(200);
    let history = r.nodes["l1"].mover.volume(VOLUME).expect("l1").durable().history.clone();
    assert_eq!(history.last().map(|b| b.generation.counter), Some(7));
}

#[test]
fn ever_new_names_do_not_fill_the_log() {
    let mut r = Rig::new();
    r.add("p", "g1", &[]);
    for i in 0..100 {
        let claims = Some(name(&format!("n{i}")));
        let who = TurnedAway { from: "h".into(), claims, why: "no".into(), kind: "session" };
        let (now, wall) = (r.mono(), r.wall());
        r.node("p").mover.turned_away(now, wall, who);
    }
    r.run();
    assert_eq!(r.nodes["p"].notes.len(), 17);
}

#[test]
fn a_step_down_that_the_disk_does_not_confirm_leaves_a_writer_on_the_disk() {
    let mut r = two();
    r.promote("l1");
    r.is_closed("p", "l1 took over");
    r.node("p").bad_disk = true;
    let resync = r.change("p", WriterChange::Resync { volume: "vol".to_owned(), discard: true });
    assert!(r.told("p", resync).contains("the disk is bad"), "{}", r.told("p", resync));
    // While not even that can be stored, nothing is built on it.
    let promoted = r.promote("p");
    assert!(r.told("p", promoted).contains("is not known"), "{}", r.told("p", promoted));
    r.node("p").bad_disk = false;
    let promoted = r.promote("p");
    assert!(r.told("p", promoted).contains("is not known"), "it is stored again first");
    r.restart("p", "g1", &["l1"]);
    r.is_closed("p", "l1 took over");
    r.promote("p");
    r.is_open("p");
}

#[test]
fn a_label_with_a_list_of_its_own_is_neither_taken_nor_given_away() {
    let mut r = two();
    let rename = |volume: &str, label: &str| Ask::Rename {
        volume: volume.to_owned(),
        label: label.to_owned(),
    };
    let ask = r.ask("p", rename("vol", "secret"));
    let told = r.told("p", ask);
    assert!(told.contains("Refused") && told.contains("`nbd_allow`"), "{told}");
    let ask = r.ask("p", rename("vol", "other"));
    assert!(r.told("p", ask).contains("Done"), "{}", r.told("p", ask));
}

#[test]
fn a_neighbour_is_away_since_it_was_lost_however_often_it_is_tried() {
    let mut r = two();
    let child = |r: &Rig| r.nodes["p"].mover.status().groups[0].children[0].clone();
    assert_eq!(child(&r).state, "connected");
    r.down.push("l1");
    let lost = r.now + 1_000;
    r.restart("l1", "g1", &[]);
    r.pass(30_000);
    let c = child(&r);
    assert_eq!(
        (c.state.as_str(), c.reason.as_deref()),
        ("waiting", Some("the connection failed: nobody answers"))
    );
    assert!(c.since_us <= lost, "{} s ago", (r.now - c.since_us) / 1_000_000);
    r.down.clear();
    r.pass(60_000);
    assert_eq!(child(&r).state, "connected");
    assert!(child(&r).since_us > lost);
}

/// Nothing is asked for again and again: a node that has nothing to do sleeps until something is due
/// (CAP-12, FIG. 10/343 and 344).
#[test]
fn who_has_nothing_to_do_sleeps() {
    let mut r = two();
    r.pass(20_000);
    let (began, hour) = (r.now, 3_600_000_000);
    let mut wakes = BTreeMap::from([("p", 0u64), ("l1", 0)]);
    while r.now < began + hour {
        let due = |n: &Node| n.mover.poll_timeout().map_or(u64::MAX, |t| t.0);
        let next = r.nodes.values().map(due).min().expect("nodes");
        r.now = next.max(r.now + 1);
        let (now, wall) = (r.mono(), r.wall());
        for (n, node) in r.nodes.iter_mut().filter(|(_, n)| due(n) <= now.0) {
            node.mover.tick(now, wall);
            *wakes.get_mut(n).expect("known") += 1;
        }
        r.run();
        // Pings and clocks, and the set that is due once an hour.
        let passed = (r.now - began) / 1_000_000;
        assert!(wakes.values().all(|n| *n <= 20 + 4 * passed), "{wakes:?} in {passed} s");
    }
    assert!(wakes.values().all(|n| *n > 100), "{wakes:?} in an hour");
}

#[test]
fn a_replica_is_judged_as_soon_as_it_is_known_how_old_it_may_be() {
    let mut r = two();
    // Nothing is heard for five seconds.
    let later = 5_000_000;
    let (now, wall) = (Mono(r.mono().0 + later), Wall(r.wall().0 + later));
    r.node("l1").mover.tick(now, wall);
    let too_old = |r: &Rig| r.info("l1").reason.is_some_and(|why| why.contains("max_staleness"));
    assert!(!too_old(&r));
    let plan = GroupPlan {
        replica: true,
        max_staleness: Some(Duration::from_secs(2)),
        ..GroupPlan::default()
    };
    r.node("l1").mover.add_group(group("g1"), plan);
    assert!(too_old(&r), "{:?}", r.info("l1"));
    let states = r.nodes["l1"].vol.as_ref().and_then(|o| o.states.clone()).expect("a replica");
    assert!(states.board().pin_visible().is_err());
}
