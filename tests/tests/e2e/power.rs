//! A power cut below the primary: what was not synced is gone.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tests::rig::{
    Clock, Device, MIB, Mounted, Plan, Process, Random, Tree, may_mount, run, tool, wait_for,
};

use crate::load::{BLOCK, content};

const LONG: Duration = Duration::from_secs(40);
const BLOCKS: u64 = 4096;

/// A disk with a volatile cache: writes reach the file at a flush, or at random before it, out of
/// order. Killing the server is the power cut.
const LOSSY: &str = r#"
import nbdkit, os, random
API_VERSION = 2
S = 512
cache = {}
path = None
def config(k, v):
    global path
    if k == "file": path = v
def config_complete():
    global fd, size
    fd = os.open(path, os.O_RDWR)
    size = os.fstat(fd).st_size
def thread_model(): return nbdkit.THREAD_MODEL_SERIALIZE_ALL_REQUESTS
def open(ro): return 1
def get_size(h): return size
def can_fua(h): return nbdkit.FUA_NATIVE
def can_multi_conn(h): return True
def can_flush(h): return True
def pread(h, buf, off, flags):
    n = len(buf)
    d = bytearray(os.pread(fd, n, off))
    for i in range(0, n, S):
        c = cache.get((off + i) // S)
        if c is not None: d[i:i+S] = c
    buf[:] = d
def pwrite(h, buf, off, flags):
    b = bytes(buf)
    for i in range(0, len(b), S): cache[(off + i) // S] = b[i:i+S]
    if flags & nbdkit.FLAG_FUA:
        for i in range(0, len(b), S):
            k = (off + i) // S
            os.pwrite(fd, cache.pop(k), k * S)
    elif random.random() < 0.1:
        for k in random.sample(sorted(cache), max(1, len(cache) // 8)): os.pwrite(fd, cache.pop(k), k * S)
def flush(h, flags):
    for k, v in cache.items(): os.pwrite(fd, v, k * S)
    cache.clear()
"#;

/// The primary's disk, plugged in.
struct Disk {
    mounted: Option<Mounted>,
    device: Option<Device>,
    server: Process,
}

impl Disk {
    fn plug(raw: &Path, at: &Path, dir: &Path, n: u32) -> Option<Self> {
        let script = dir.join("lossy.py");
        std::fs::write(&script, LOSSY).unwrap();
        let sock = dir.join(format!("disk{n}.sock"));
        tool("nbdkit", "nbdkit")?;
        let mut nbdkit = Command::new("/usr/bin/nbdkit");
        nbdkit.env("PATH", "/usr/bin:/bin:/usr/sbin:/sbin").arg("-f").arg("-U").arg(&sock);
        nbdkit.args(["--filter=blocksize", "python"]).arg(&script);
        nbdkit.arg(format!("file={}", raw.display())).arg("minblock=512");
        let server = Process::start(&mut nbdkit, &dir.join("nbdkit.log"));
        wait_for("nbdkit", Duration::from_secs(10), || {
            if sock.exists() { Ok(()) } else { Err(server.log()) }
        });
        let uri = format!("nbd+unix:///?socket={}", sock.display());
        let device = Device::attach(&uri, &dir.join(format!("disk{n}")))?;
        let mounted =
            Mounted::new(&["-o", "errors=continue", device.path.to_str().unwrap()], at).unwrap();
        Some(Self { mounted: Some(mounted), device: Some(device), server })
    }

    /// The cut. The node is killed after its disk is gone: it can make nothing durable any more.
    fn cut(mut self, tree: &Tree) {
        self.server.kill();
        tree.kill("p");
        drop(self.mounted.take());
        drop(self.device.take());
    }
}

fn whole(tree: &Tree, node: &str, export: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let mut c = tree.open(node, export).unwrap();
    c.read_all(4, |_, piece| {
        out.extend_from_slice(piece);
        Ok(())
    })
    .unwrap();
    out
}

#[test]
fn replicas_are_never_ahead_of_a_primary_that_lost_power() {
    if !may_mount("a power cut") {
        return;
    }
    let mut random = Random::seeded("power");
    let mut plan = Plan::new(&[("p", &["l1"])]).volume("vol", BLOCKS * BLOCK as u64 / MIB);
    plan = plan.save(16).cut_every(200);
    plan.spec.defaults.snapshot_area = Some("16 MiB".to_owned());
    let tree = Tree::prepare(&mut plan);
    tree.expect(" WARN ");
    // The disk goes a moment before the process: it may still see its disk fail.
    tree.expect("has stopped: ");
    let raw: PathBuf = tree.dir().join("disk.raw");
    std::fs::File::create(&raw).unwrap().set_len(128 * MIB).unwrap();
    let Some(mut mkfs) = tool("mke2fs", "e2fsprogs") else { return };
    run(mkfs.args(["-q", "-F", "-t", "ext4"]).arg(&raw));
    let at = tree.folder("p");
    let Some(mut disk) = Disk::plug(&raw, &at, tree.dir(), 0) else { return };
    tree.up("l1");
    tree.up("p");
    let mut number = 1u64;
    for round in 1..=3u32 {
        let mut c = tree.open("p", "vol").unwrap();
        let clock = Clock::default();
        // The last number that was written to each block, and those before it in this round.
        let time = Duration::from_millis(1500 + random.below(500));
        while clock.passed() < time {
            let run = 1 + random.below(16);
            let first = random.below(BLOCKS - run);
            let data: Vec<u8> = (0..run).flat_map(|i| content(number + i)).collect();
            number += run;
            // No flush.
            c.write(first * BLOCK as u64, &data, false).unwrap();
        }
        disk.cut(&tree);
        let shown = tree.volume("l1", "vol").unwrap().current_set;
        disk = Disk::plug(&raw, &at, tree.dir(), round).expect("it was there before");
        tree.up("p");
        let now = tree.volume("p", "vol").unwrap().current_set;
        assert!(shown <= now, "the leaf shows set {shown}, the primary has {now}");
        // The next set has every difference.
        let cut = tree.cut("vol", true);
        tree.reaches("l1", "vol", cut.set, LONG);
        let export = format!("vol@{}", cut.set);
        let (a, b) = (whole(&tree, "p", &export), whole(&tree, "l1", &export));
        let differ = a.chunks(BLOCK).zip(b.chunks(BLOCK)).filter(|(a, b)| a != b).count();
        assert_eq!(differ, 0, "{differ} blocks differ after power cut {round}");
        // Nothing is invented: each block begins with a number that was written, or is zero.
        for (i, block) in a.chunks(BLOCK).enumerate() {
            let n = u64::from_le_bytes(block[..8].try_into().unwrap());
            assert!(n < number, "block {i} holds {n}");
        }
        let data = a.chunks(BLOCK).filter(|b| b.iter().any(|x| *x != 0)).count();
        eprintln!("power: cut {round}: leaf at {shown}, primary at {now}, {data} blocks hold data");
    }
    tree.quiet();
    disk.cut(&tree);
}
