//! Power cuts at any moment: the log of what a node really wrote to its disk, replayed up to a point.
//!
//! The node's disk is a file behind `qemu-nbd` with the driver `blklogwrites`, which logs every write
//! and flush in order (the format of dm-log-writes). A state that a power cut may leave is all of the
//! log up to a flush, and of what came after it any part, in any order, torn at sectors. The node is
//! started on such states, and everything it had promised by then must be there.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tests::rig::{
    Device, MIB, Mounted, Plan, Process, Random, Tree, may_mount, run, tool, wait_for,
};

use crate::load::{BLOCK, content};

const LONG: Duration = Duration::from_secs(40);
const BLOCKS: u64 = 2048;
const DISK: u64 = 96 * MIB;
const SECTOR: u64 = 512;
/// States that are tried of each node.
const STATES: u64 = 6;

/// A request of the log.
#[derive(Clone, Copy, Debug)]
struct Entry {
    at: u64,
    len: u64,
    flags: u64,
    /// Where its data lie in the log.
    data: u64,
}

const FLUSH: u64 = 1;
const FUA: u64 = 2;
const DISCARD: u64 = 4;

fn u64s<const N: usize>(log: &File, at: u64) -> [u64; N] {
    let mut bytes = vec![0; 8 * N];
    log.read_exact_at(&mut bytes, at).unwrap();
    std::array::from_fn(|i| u64::from_le_bytes(bytes[8 * i..8 * i + 8].try_into().unwrap()))
}

/// How many requests a log has.
fn entries(log: &Path) -> u64 {
    let [magic, version, n] = u64s(&File::open(log).unwrap(), 0);
    assert_eq!((magic, version), (0x6a_7366_7773_6872, 1), "not a log of writes");
    n
}

fn read_log(path: &Path) -> Vec<Entry> {
    let log = File::open(path).unwrap();
    let mut at = SECTOR;
    (0..entries(path))
        .map(|_| {
            let [sector, sectors, flags, _] = u64s(&log, at);
            let (len, data) = (sectors * SECTOR, at + SECTOR);
            at = data + if flags & DISCARD == 0 { len } else { 0 };
            Entry { at: sector * SECTOR, len, flags, data }
        })
        .collect()
}

/// Writes a request to the disk, up to `most` bytes of it.
fn apply(log: &File, disk: &File, e: Entry, most: u64) {
    let mut bytes = vec![0; usize::try_from(e.len.min(most)).unwrap()];
    if e.flags & DISCARD == 0 {
        log.read_exact_at(&mut bytes, e.data).unwrap();
    }
    disk.write_all_at(&bytes, e.at).unwrap();
}

/// Makes of `disk`, as it was at first, a state that a power cut may leave during the first requests
/// of the log; how many are certainly in it.
fn crash(log: &Path, first: u64, disk: &Path, random: &mut Random) -> u64 {
    let mut all = read_log(log);
    all.truncate(usize::try_from(first).unwrap());
    let barriers: Vec<_> = (0..all.len()).filter(|i| all[*i].flags & (FLUSH | FUA) != 0).collect();
    let last = *random.of(&barriers);
    let (log, disk) = (File::open(log).unwrap(), File::options().write(true).open(disk).unwrap());
    for e in &all[..=last] {
        apply(&log, &disk, *e, u64::MAX);
    }
    let open = all[last + 1..].iter().take_while(|e| e.flags & FLUSH == 0);
    let mut open: Vec<_> = open.copied().collect();
    while !open.is_empty() {
        let e = open.swap_remove(usize::try_from(random.below(open.len() as u64)).unwrap());
        match random.below(10) {
            0..5 => apply(&log, &disk, e, u64::MAX),
            5 if e.len > SECTOR => {
                apply(&log, &disk, e, SECTOR * (1 + random.below(e.len / SECTOR - 1)));
            }
            _ => {}
        }
    }
    last as u64 + 1
}

/// The disk of a node, whose writes are logged.
struct Logged {
    mounted: Mounted,
    device: Device,
    server: Process,
    log: PathBuf,
}

impl Logged {
    fn plug(raw: &Path, at: &Path, dir: &Path) -> Option<Self> {
        let (log, sock) = (dir.join("writes.log"), dir.join("disk.sock"));
        File::create(&log).unwrap().set_len(4096 * MIB).unwrap();
        tool("qemu-nbd", "qemu-utils")?;
        let mut server = Command::new("/usr/bin/qemu-nbd");
        server.args(["-t", "-e", "4", "-x", "", "-k"]).arg(&sock).arg("--image-opts");
        server.arg(format!(
            "driver=blklogwrites,file.driver=file,file.filename={},log.driver=file,\
             log.filename={},log-super-update-interval=1",
            raw.display(),
            log.display()
        ));
        let server = Process::start(&mut server, &dir.join("qemu-nbd.log"));
        wait_for("qemu-nbd", Duration::from_secs(10), || {
            if sock.exists() { Ok(()) } else { Err(server.log()) }
        });
        let uri = format!("nbd+unix:///?socket={}", sock.display());
        let device = Device::attach(&uri, &dir.join("disk"))?;
        let mounted = Mounted::new(&[device.path.to_str().unwrap()], at).unwrap();
        Some(Self { mounted, device, server, log })
    }

    fn unplug(self) -> PathBuf {
        self.mounted.unmount();
        drop(self.device);
        let mut server = self.server;
        server.kill();
        self.log
    }
}

/// What a node had promised when its log had so many requests.
#[derive(Clone, Copy, Debug, Default)]
struct Promise {
    requests: u64,
    /// Writes up to this number were flushed.
    flushed: u64,
    /// The leaf had acknowledged this set.
    saved: u64,
    /// The leaf had shown this set.
    shown: u64,
}

/// What was written, and what was promised meanwhile.
#[derive(Default)]
struct Record {
    /// Numbers that were written to each block, the last one last.
    written: BTreeMap<u64, Vec<u64>>,
    /// Number of each block in each set.
    sets: BTreeMap<u64, Vec<u64>>,
    promises: Vec<Promise>,
    last: u64,
}

impl Record {
    fn newest(&self) -> Vec<u64> {
        let of = |b| self.written.get(&b).and_then(|w| w.last()).copied().unwrap_or(0);
        (0..BLOCKS).map(of).collect()
    }

    /// Writes, flushes and cuts for a while, alone.
    fn work(&mut self, tree: &Tree, log: &Path, random: &mut Random) {
        let mut c = tree.open("p", "vol").unwrap();
        let mut flushed = 0;
        for round in 0..12 {
            for _ in 0..12 {
                let run = 1 + random.below(24);
                let first = random.below(BLOCKS - run);
                let data: Vec<u8> = (1..=run).flat_map(|i| content(self.last + i)).collect();
                c.write(first * BLOCK as u64, &data, false).unwrap();
                for b in first..first + run {
                    self.last += 1;
                    self.written.entry(b).or_default().push(self.last);
                }
            }
            if round % 3 != 1 {
                c.flush().unwrap();
                flushed = self.last;
            }
            let set = tree.cut("vol", false).set;
            self.sets.insert(set, self.newest());
            if round % 4 == 3 {
                tree.reaches("l1", "vol", set, LONG);
            }
            // The counter is read after what it is about was answered.
            let saved = tree.volume("p", "vol").unwrap().children[0].saved_set;
            let shown = tree.volume("l1", "vol").map_or(0, |v| v.current_set);
            let requests = entries(log);
            self.promises.push(Promise { requests, flushed, saved, shown });
        }
    }

    /// The newest promise that was given before the log had more requests than these.
    fn by(&self, requests: u64) -> Promise {
        self.promises.iter().rev().find(|p| p.requests <= requests).copied().unwrap_or_default()
    }

    /// Every sector holds what the last write that was flushed gave it, or a later one: what was
    /// not flushed may be there in part.
    fn holds_what_was_flushed(&self, volume: &[u8], flushed: u64) {
        for (b, block) in (0..).zip(volume.chunks(BLOCK)) {
            let written = self.written.get(&b).map_or(&[][..], Vec::as_slice);
            let least = written.iter().rev().find(|n| **n <= flushed).copied().unwrap_or(0);
            let later = written.iter().copied().filter(|n| *n > least);
            let may: Vec<_> = std::iter::once(least).chain(later).map(content).collect();
            for at in (0..BLOCK).step_by(SECTOR as usize) {
                let sector = at..at + SECTOR as usize;
                let known = may.iter().any(|c| c[sector.clone()] == block[sector.clone()]);
                assert!(known, "byte {at} of block {b}: not {least}, which was flushed, nor later");
            }
        }
    }

    /// It is exactly that set.
    fn is(&self, volume: &[u8], set: u64) {
        let zero = vec![0; usize::try_from(BLOCKS).unwrap()];
        let want = if set == 0 { &zero } else { &self.sets[&set] };
        for (b, (block, n)) in volume.chunks(BLOCK).zip(want).enumerate() {
            assert!(block == content(*n), "block {b} of set {set} is not {n}");
        }
    }
}

fn whole(tree: &Tree, node: &str) -> Vec<u8> {
    let mut out = Vec::new();
    tree.open(node, "vol")
        .unwrap()
        .read_all(4, |_, piece| {
            out.extend_from_slice(piece);
            Ok(())
        })
        .unwrap();
    out
}

/// Starts the node alone on a state of its disk, and holds it to what it had promised by then.
fn restarted(tree: &Tree, victim: &str, record: &Record, promised: Promise) {
    tree.up(victim);
    if victim == "p" {
        record.holds_what_was_flushed(&whole(tree, victim), promised.flushed);
        let set = tree.volume(victim, "vol").unwrap().current_set;
        assert!(set >= promised.saved, "set {set}, and the leaf has {}", promised.saved);
    } else {
        let shown = wait_for("what was saved to be shown", LONG, || {
            let shown = tree.volume(victim, "vol").map_or(0, |v| v.current_set);
            let least = promised.shown.max(promised.saved);
            if shown >= least { Ok(shown) } else { Err(format!("{shown} of {least}")) }
        });
        if shown > 0 {
            let (set, read) = wait_for("a state that is read as a whole", LONG, || {
                let state = || tree.volume(victim, "vol").map(|v| v.current_set);
                let before = state()?;
                let read = whole(tree, victim);
                // It may have gone on meanwhile, as far as it had saved.
                if state()? == before { Ok((before, read)) } else { Err("it goes on".to_owned()) }
            });
            record.is(&read, set);
        }
    }
    tree.kill(victim);
}

/// Cuts the power of one node at some of the moments of its life.
fn power_is_cut(victim: &str, states: u64) {
    if !may_mount("a power cut") {
        return;
    }
    let mut random = Random::seeded(&format!("replayed, {victim}"));
    let mut plan = Plan::new(&[("p", &["l1"])]).volume("vol", BLOCKS * BLOCK as u64 / MIB);
    plan = plan.save(16);
    plan.spec.defaults.snapshot_area = Some("8 MiB".to_owned());
    // It starts without the child that knows that it is the writer.
    plan.group().policy.confirm = Some("none".to_owned());
    let tree = Tree::prepare(&mut plan);
    tree.expect(" WARN ");
    let (raw, first) = (tree.dir().join("disk.raw"), tree.dir().join("first.raw"));
    File::create(&raw).unwrap().set_len(DISK).unwrap();
    let Some(mut mkfs) = tool("mke2fs", "e2fsprogs") else { return };
    run(mkfs.args(["-q", "-F", "-t", "ext4"]).arg(&raw));
    std::fs::copy(&raw, &first).unwrap();
    let at = tree.folder(victim);
    let Some(disk) = Logged::plug(&raw, &at, tree.dir()) else { return };
    for n in ["l1", "p"] {
        tree.up(n);
    }
    wait_for("the replica", LONG, || tree.volume("l1", "vol").map(|_| ()));
    let mut record = Record::default();
    let log = disk.log.clone();
    record.work(&tree, &log, &mut random);
    for n in ["p", "l1"] {
        tree.kill(n);
    }
    let log = disk.unplug();
    // Before, there may be no volume; after, the file system is unmounted, and does not bear that its
    // superblock is torn.
    let [begins, ends] = [record.promises.first(), record.promises.last()];
    let [begins, ends] = [begins, ends].map(|p| p.expect("it worked").requests);
    for state in 0..states {
        std::fs::copy(&first, &raw).unwrap();
        let requests = loop {
            let n = crash(&log, ends, &raw, &mut random);
            if n >= begins {
                break n;
            }
            std::fs::copy(&first, &raw).unwrap();
        };
        let promised = record.by(requests);
        eprintln!(
            "{victim}: state {state}: {requests} of {} requests, {promised:?}",
            entries(&log)
        );
        let mounted = Mounted::new(&["-o", "loop", raw.to_str().unwrap()], &at).unwrap();
        restarted(&tree, victim, &record, promised);
        mounted.unmount();
    }
    eprintln!("{victim}: {states} states of a log of {} requests", entries(&log));
    tree.quiet();
}

#[test]
fn a_primary_keeps_what_it_promised_wherever_its_log_of_writes_ends() {
    power_is_cut("p", STATES);
}

#[test]
fn a_leaf_keeps_what_it_promised_wherever_its_log_of_writes_ends() {
    power_is_cut("l1", STATES);
}

/// `STATES=500 cargo test -p tests --test e2e -- --ignored --nocapture many_states`.
#[test]
#[ignore = "a second for each state; figures are in tests/docs/measurements.md"]
fn many_states_of_a_log_of_writes() {
    let states = std::env::var("STATES").map_or(200, |v| v.parse().expect("a number"));
    power_is_cut("p", states);
    power_is_cut("l1", states);
}
