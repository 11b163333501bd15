//! A file system and a data base in use while states are cut, handed from writer to writer, and taken
//! over without warning: every state is the same at every node, nothing is lost that was not said to
//! be, and both are found whole by programs that know nothing of replication.

use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;
use tests::rig::{
    Clock, Device, Mounted, Plan, Process, Random, Tree, lacking, may_mount, program, run, said,
    tool, wait_for,
};

use crate::load::{Ends, Load};
use crate::rewind::{equal, image};

const LONG: Duration = Duration::from_secs(60);
const NODES: [&str; 3] = ["p", "l1", "l2"];
/// Who is the writer in turn: handed on ten times, and the last one dies.
const TURNS: [&str; 11] = ["p", "l1", "l2", "p", "l1", "l2", "p", "l1", "p", "l2", "p"];
/// Between two cuts of a data base under load.
const PAUSE: Duration = Duration::from_millis(600);

/// A kept state is the same at all three. The image of it at the writer.
#[track_caller]
fn same_everywhere(tree: &Tree, writer: &str, set: u64) -> PathBuf {
    let export = format!("vol@{set}");
    let want = image(tree, writer, &export, "want").expect("qemu-img was there");
    for n in NODES.into_iter().filter(|n| *n != writer) {
        tree.reaches(n, "vol", set, LONG);
        equal(&want, &image(tree, n, &export, "have").expect("qemu-img was there"));
    }
    want
}

/// What a check finds after the journal was replayed: nothing.
#[track_caller]
fn checks(image: &Path) {
    let mut replay = tool("e2fsck", "e2fsprogs").expect("it was there");
    // 1: something was done, which is the replay.
    let told = replay.args(["-p", "-E", "journal_only"]).arg(image).output().unwrap();
    assert!(told.status.code().is_some_and(|c| c < 2), "{told:?}");
    run(tool("e2fsck", "e2fsprogs").expect("it was there").arg("-fn").arg(image));
}

/// `vol` of a node as a mounted file system.
struct Used {
    mounted: Mounted,
    device: Device,
}

impl Used {
    fn at(tree: &Tree, node: &str, make: bool) -> Option<Self> {
        let device = Device::attach(&tree.unix_uri(node, "vol"), &tree.dir().join("fuse"))?;
        let path = device.path.to_str()?.to_owned();
        if make {
            let lazy = "lazy_itable_init=0,lazy_journal_init=0";
            let mut mke2fs = tool("mke2fs", "e2fsprogs")?;
            run(mke2fs.args(["-q", "-F", "-t", "ext4", "-b", "4096", "-E", lazy, &path]));
        }
        let mounted = Mounted::new(&[&path], &tree.dir().join("mnt")).expect("mount");
        Some(Self { mounted, device })
    }

    /// Everything is written, and the device is let go.
    fn leave(self) {
        self.mounted.unmount();
        drop(self.device);
    }
}

fn tree_of(mib: u64) -> Tree {
    let mut plan = Plan::new(&[("p", &["l1", "l2"])]).volume("vol", mib);
    // Every state of a test is kept.
    plan.spec.defaults.snapshot_area = Some("512 MiB".to_owned());
    let tree = Tree::start(plan);
    tree.expect(" WARN ");
    tree.expect(" ERROR ");
    tree
}

/// Hands the writer's role on, and nothing changes by it.
fn hand_over(tree: &Tree, from: &str, to: &str) {
    let before = image(tree, from, "vol", "before").expect("qemu-img was there");
    let told = tree.told(&format!("failover vol --sync --to {to}")).unwrap();
    assert!(told.contains("nothing is lost"), "{told}");
    equal(&before, &image(tree, to, "vol", "after").expect("qemu-img was there"));
}

/// `l1` is not fed any more, and the writer dies two sets later. The set that `l1` has, and the last.
fn falls_behind_and_dies(tree: &Tree, mut cut: impl FnMut() -> u64) -> (u64, u64) {
    let after = cut();
    tree.reaches("l1", "vol", after, LONG);
    let mut delete = Command::new(program("rcproute"));
    delete.arg("--dir").arg(tree.folder("p")).args(["delete", "group=g1", "nexthop=l1"]);
    run(&mut delete);
    cut();
    let newest = cut();
    tree.reaches("l2", "vol", newest, LONG);
    tree.kill("p");
    assert_eq!(newest, after + 2, "something was written all the time");
    (after, newest)
}

/// What the nodes say of a failover after which `lost` sets are gone, and are in truth: `l1` fell
/// behind `l2`, the writer dies, `l1` takes over all the same. `after` is the set it has.
fn take_over(tree: &Tree, after: u64, newest: u64) {
    let held = image(tree, "l2", "vol", "held").expect("qemu-img was there");
    let plan: Value =
        serde_json::from_str(&tree.told("failover vol --plan --json").unwrap()).unwrap();
    assert_eq!(plan["recommended"], "l2", "{plan}");
    let told: Value =
        serde_json::from_str(&tree.told("failover vol --to l1 --adopt --json").unwrap()).unwrap();
    assert_eq!(told["loss"]["sets"], newest - after, "{told}");
    // The promoted content is exactly its last durable state, as the dead writer kept it.
    tree.up("p");
    let kept = format!("vol@{after}");
    let want = image(tree, "p", &kept, "want").expect("qemu-img was there");
    equal(&want, &image(tree, "l1", "vol", "have").expect("qemu-img was there"));
    equal(&want, &image(tree, "l1", &kept, "have").expect("qemu-img was there"));
    // What was said to be lost is what differs, and not one byte of it is gone.
    let lost = image(tree, "p", &format!("vol@{newest}"), "lost").expect("qemu-img was there");
    equal(&lost, &held);
    let bytes = told["loss"]["bytes"].as_u64().expect("bytes");
    let differ = differing(&want, &lost);
    assert!((differ..=3 * differ).contains(&bytes), "{bytes} said, {differ} differ");
    let branch = wait_for("l2 to go back", LONG, || {
        let v = tree.volume("l2", "vol")?;
        v.branches.last().map(|b| b.name.clone()).ok_or(v.state)
    });
    let branch = format!("vol@branch:{branch}");
    equal(&held, &image(tree, "l2", &branch, "have").expect("qemu-img was there"));
}

/// Bytes of the blocks that differ.
fn differing(a: &Path, b: &Path) -> u64 {
    let [a, b] = [a, b].map(|f| std::fs::read(f).unwrap());
    assert_eq!(a.len(), b.len());
    let pairs = a.chunks(4096).zip(b.chunks(4096));
    pairs.filter(|(a, b)| a != b).map(|(a, _)| a.len() as u64).sum()
}

/// An archive of small files, and how it is unpacked again and again.
struct Archive {
    file: PathBuf,
    unpacked: AtomicU64,
}

impl Archive {
    /// About 6 MiB in 400 files.
    fn make(dir: &Path, random: &mut Random) -> Option<Self> {
        let from = dir.join("files");
        for i in 0..400u64 {
            let sub = from.join(format!("d{}", i % 23));
            std::fs::create_dir_all(&sub).unwrap();
            let len = usize::try_from(random.below(1 << (8 + i % 10))).unwrap();
            std::fs::write(sub.join(format!("f{i}")), random.bytes(len)).unwrap();
        }
        let file = dir.join("files.tar");
        run(tool("tar", "tar")?.arg("-cf").arg(&file).arg("-C").arg(&from).arg("."));
        Some(Self { file, unpacked: AtomicU64::new(0) })
    }

    /// Until the load ends or the disk is gone. Two trees are left.
    fn unpack(&self, at: &Path, load: &Load) {
        while load.on() {
            let n = self.unpacked.load(Ordering::Relaxed) + 1;
            let to = at.join(format!("t{n}"));
            let done = std::fs::create_dir_all(&to).map_err(|e| e.to_string()).and_then(|()| {
                let mut tar = tool("tar", "tar").ok_or("no tar")?;
                said(tar.arg("-xf").arg(&self.file).arg("-C").arg(&to))
            });
            let all = std::fs::File::open(at).and_then(|f| Ok(rustix::fs::syncfs(f)?));
            if done.is_err() || all.is_err() {
                return;
            }
            self.unpacked.store(n, Ordering::Relaxed);
            let _ = std::fs::remove_dir_all(at.join(format!("t{}", n.saturating_sub(2))));
        }
    }

    /// Waits until one more is on the disk.
    fn goes_on(&self) {
        let before = self.unpacked.load(Ordering::Relaxed);
        wait_for("an archive to be unpacked", LONG, || {
            let now = self.unpacked.load(Ordering::Relaxed);
            if now > before { Ok(()) } else { Err(now) }
        });
    }

    /// The last tree that was finished is all there.
    #[track_caller]
    fn is_at(&self, at: &Path) {
        let last = at.join(format!("t{}", self.unpacked.load(Ordering::Relaxed)));
        let mut tar = tool("tar", "tar").expect("it was there");
        run(tar.arg("--compare").arg("-f").arg(&self.file).arg("-C").arg(last));
    }
}

#[test]
fn a_file_system_in_use_is_handed_on_ten_times_and_then_taken_over() {
    if !may_mount("a file system that is handed on") {
        return;
    }
    let mut random = Random::seeded("oracle");
    let tree = tree_of(64);
    let Some(archive) = Archive::make(tree.dir(), &mut random) else { return };
    for (round, writer) in TURNS.into_iter().enumerate() {
        let used = Used::at(&tree, writer, round == 0);
        let Some(used) = used else { return assert_eq!(round, 0) };
        if round > 0 {
            archive.is_at(&used.mounted.at);
        }
        let load = Load::default();
        let last = std::thread::scope(|s| {
            let _ends = Ends(&load);
            s.spawn(|| archive.unpack(&used.mounted.at, &load));
            let cut = || {
                archive.goes_on();
                tree.cut_at(writer)
            };
            (0..2).for_each(|_| checks(&same_everywhere(&tree, writer, cut())));
            if round + 1 < TURNS.len() {
                return None;
            }
            Some(falls_behind_and_dies(&tree, cut))
        });
        if let Some((after, newest)) = last {
            drop(used);
            take_over(&tree, after, newest);
        } else {
            used.leave();
            hand_over(&tree, writer, TURNS[round + 1]);
        }
    }
    let used = Used::at(&tree, "l1", false).expect("it was there");
    std::fs::write(used.mounted.at.join("new"), "written by the new writer").unwrap();
    used.leave();
    checks(&same_again(&tree, "l1"));
}

/// All of them follow the new writer.
fn same_again(tree: &Tree, writer: &str) -> PathBuf {
    wait_for("the old writer to follow", LONG, || {
        tree.told(&format!("failover vol --to {writer} --adopt"))?;
        let v = tree.volume("p", "vol")?;
        if v.role == "replica" { Ok(()) } else { Err(v.state) }
    });
    let set = tree.cut_at(writer);
    same_everywhere(tree, writer, set)
}

/// PostgreSQL with its data on the volume.
struct Postgres {
    bin: PathBuf,
    uid: u32,
    gid: u32,
    dir: PathBuf,
}

impl Postgres {
    fn find(dir: &Path) -> Option<Self> {
        let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
        let bin = versions.map(|v| v.path().join("bin")).find(|b| b.join("postgres").exists());
        let Some(bin) = bin else {
            lacking("PostgreSQL is missing", "apt-get install postgresql");
            return None;
        };
        let id =
            |what: &str| run(tool("id", "coreutils")?.args([what, "postgres"])).trim().parse().ok();
        let (uid, gid) = (id("-u")?, id("-g")?);
        // It may walk through to its data, and has a place for its socket.
        std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o711)).unwrap();
        let socket = dir.join("pg");
        std::fs::create_dir_all(&socket).unwrap();
        std::os::unix::fs::chown(&socket, Some(uid), Some(gid)).unwrap();
        Some(Self { bin, uid, gid, dir: dir.to_owned() })
    }

    /// A program of it, as its user.
    fn program(&self, name: &str) -> Command {
        let mut c = Command::new("timeout");
        c.args(["-k", "5", "90"]).arg(self.bin.join(name));
        c.uid(self.uid).gid(self.gid).current_dir(self.dir.join("pg"));
        c.env("PGHOST", self.dir.join("pg"))
            .env("PGUSER", "postgres")
            .env("PGDATABASE", "postgres");
        c
    }

    fn make(&self, at: &Path) {
        let data = at.join("data");
        std::fs::create_dir(&data).unwrap();
        std::os::unix::fs::chown(&data, Some(self.uid), Some(self.gid)).unwrap();
        run(self.program("initdb").args(["-A", "trust", "-k", "--wal-segsize=1", "-D"]).arg(&data));
    }

    /// A server of it; recovers by itself.
    fn serve(&self, at: &Path) -> Process {
        let data = at.join("data");
        let _ = std::fs::remove_file(data.join("postmaster.pid"));
        let mut c = Command::new(self.bin.join("postgres"));
        c.uid(self.uid).gid(self.gid).current_dir(self.dir.join("pg"));
        c.arg("-D").arg(&data).arg("-k").arg(self.dir.join("pg"));
        for set in ["listen_addresses=", "max_wal_size=16MB", "min_wal_size=4MB"] {
            c.args(["-c", set]);
        }
        let server = Process::start(&mut c, &self.dir.join("postgres.log"));
        wait_for("PostgreSQL to answer", LONG, || {
            said(self.program("psql").args(["-c", "select 1"])).map_err(|_| server.log())
        });
        server
    }

    /// Transactions that are in it, which is whole.
    #[track_caller]
    fn whole(&self) -> u64 {
        let ask = "select count(*), coalesce(sum(delta), 0), (select sum(abalance) from \
                   pgbench_accounts), (select sum(tbalance) from pgbench_tellers), (select \
                   sum(bbalance) from pgbench_branches) from pgbench_history";
        let told = run(self.program("psql").args(["-At", "-c", ask]));
        let numbers: Vec<i64> = told.trim().split('|').map(|n| n.parse().unwrap()).collect();
        assert!(numbers[1..].windows(2).all(|w| w[0] == w[1]), "sums differ: {told}");
        run(self.program("pg_amcheck").args(["--install-missing", "--heapallindexed", "-a"]));
        u64::try_from(numbers[0]).unwrap()
    }

    /// Transactions until the load ends or the server is gone. Counts those that were answered.
    fn work(&self, load: &Load) {
        const CLIENTS: u64 = 4;
        const EACH: u64 = 25;
        while load.on() {
            let mut c = self.program("pgbench");
            let (clients, each) = (CLIENTS.to_string(), EACH.to_string());
            if said(c.args(["-n", "-c", &clients, "-t", &each])).is_err() {
                return;
            }
            load.bytes.fetch_add(CLIENTS * EACH, Ordering::Relaxed);
        }
    }
}

fn ends(mut server: Process) {
    server.signal(Signal::INT);
    let end = server.wait(LONG);
    assert_eq!(end.code(), Some(0), "{}", server.log());
}

#[test]
fn a_data_base_under_load_is_handed_on_and_then_taken_over() {
    data_base(&["p", "l1", "p"]);
}

#[test]
#[ignore = "some minutes: ten times what the test above does twice"]
fn a_data_base_under_load_is_handed_on_ten_times() {
    data_base(&TURNS);
}

fn data_base(turns: &[&str]) {
    if !may_mount("a data base that is handed on") {
        return;
    }
    let tree = tree_of(160);
    let Some(postgres) = Postgres::find(tree.dir()) else { return };
    let (mut committed, mut answered) = (0, Vec::new());
    for (round, &writer) in turns.iter().enumerate() {
        let used = Used::at(&tree, writer, round == 0);
        let Some(used) = used else { return assert_eq!(round, 0) };
        if round == 0 {
            postgres.make(&used.mounted.at);
        }
        let server = postgres.serve(&used.mounted.at);
        if round == 0 {
            run(postgres.program("pgbench").args(["-i", "-q", "-s", "1"]));
        } else {
            assert_eq!(postgres.whole(), committed, "all that were answered");
        }
        let load = Load::default();
        let last = std::thread::scope(|s| {
            let _ends = Ends(&load);
            s.spawn(|| postgres.work(&load));
            let mut cut = || {
                Clock::default().pace(PAUSE);
                let before = committed + load.written();
                let set = tree.cut_at(writer);
                answered.push((set, before));
                set
            };
            for _ in 0..3 {
                checks(&same_everywhere(&tree, writer, cut()));
            }
            if round + 1 < turns.len() {
                return None;
            }
            Some(falls_behind_and_dies(&tree, cut))
        });
        committed += load.written();
        let Some((after, newest)) = last else {
            ends(server);
            used.leave();
            hand_over(&tree, writer, turns[round + 1]);
            continue;
        };
        drop((server, used));
        take_over(&tree, after, newest);
        let used = Used::at(&tree, "l1", false).expect("it was there");
        let server = postgres.serve(&used.mounted.at);
        let found = postgres.whole();
        let least = answered.iter().find(|(set, _)| *set == after).expect("it was counted").1;
        assert!(
            found >= least && least > 0,
            "{found} transactions, {least} were answered before the cut"
        );
        ends(server);
        used.leave();
    }
    same_again(&tree, "l1");
}
