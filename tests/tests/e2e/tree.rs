//! One primary, two forwarders, four leaves; clients that are not ours; twenty sets and more.

use std::path::Path;
use std::time::Duration;

use tests::rig::{Clock, Device, MIB, Mounted, Plan, Random, Tree, run, tool};

use crate::load::{Ends, Load};

const LONG: Duration = Duration::from_secs(60);
const SETS: u64 = 24;
const SIZE: u64 = 64;

/// A folder with files of all sizes.
fn populate(folder: &Path, random: &mut Random) {
    for i in 0..60u64 {
        let sub = folder.join(format!("d{}", i % 7));
        std::fs::create_dir_all(&sub).unwrap();
        let len = usize::try_from(random.below(1 << (8 + i % 12))).unwrap();
        std::fs::write(sub.join(format!("f{i}")), random.bytes(len)).unwrap();
    }
}

/// Changes files on a mounted file system until the load ends.
fn use_files(at: &Path, load: &Load, random: &mut Random) {
    while load.on() {
        let n = random.below(200);
        let file = at.join(format!("n{n}"));
        if random.below(4) == 0 {
            let _ = std::fs::remove_file(&file);
        } else {
            let len = usize::try_from(random.below(200_000)).unwrap();
            std::fs::write(&file, random.bytes(len)).unwrap();
        }
        if random.below(20) == 0 {
            let all = std::fs::File::open(at).unwrap();
            rustix::fs::syncfs(&all).unwrap();
        }
        Clock::default().pace(Duration::from_millis(5));
    }
}

fn fio(tree: &Tree, load: &Load) {
    while load.on() {
        let Some(mut fio) = tool("fio", "fio") else { return };
        fio.current_dir(tree.dir());
        fio.args(["--name=v", "--ioengine=nbd", "--iodepth=16", "--offset=0", "--size=8m"]);
        fio.args(["--rw=randwrite", "--bsrange=4k-64k", "--verify=crc32c", "--verify_fatal=1"]);
        let out = run(fio.arg(format!("--uri={}", tree.uri("p", "raw"))));
        assert!(out.contains("err= 0"), "{out}");
    }
}

fn qemu_io(tree: &Tree, load: &Load, random: &mut Random) {
    while load.on() {
        let Some(mut qemu) = tool("qemu-io", "qemu-utils") else { return };
        qemu.args(["-f", "raw", "--discard=unmap"]);
        for _ in 0..10 {
            let (at, fill) = (16 + random.below(14), 1 + random.below(255));
            for c in [
                format!("aio_write -P {fill} {at}M 1M"),
                format!("aio_write -P {fill} {}M 1M", at + 1),
                "aio_flush".to_owned(),
                format!("discard {at}M 256k"),
                format!("write -z -u {}k 300k", at * 1024 + 1000),
                format!("write -P {fill} {} 12345", at * MIB + 4097),
                format!("read -P {fill} {} 12345", at * MIB + 4097),
                format!("read -P 0 {at}M 4k"),
            ] {
                qemu.args(["-c", &c]);
            }
        }
        let out = run(qemu.arg(tree.unix_uri("p", "raw")));
        assert!(!out.contains("failed") && !out.contains("rror"), "{out}");
    }
}

/// Random writes, zeroes and trims of 32 to 48 MiB, checked against a copy in memory.
const NBDSH: &str = r"
import random
base, size = 32 << 20, 16 << 20
have = bytearray(h.pread(1 << 20, base))
for i in range(200):
    off = random.randrange(0, (1 << 20) - 70000)
    n = random.randrange(1, 70000)
    kind = random.randrange(4)
    if kind == 0:
        h.zero(n, base + off)
        have[off:off+n] = bytes(n)
    elif kind == 1:
        off &= ~4095
        h.trim(8192, base + off)
        have[off:off+8192] = bytes(8192)
    else:
        data = random.randbytes(n)
        h.pwrite(data, base + off, nbd.CMD_FLAG_FUA if i % 16 == 0 else 0)
        have[off:off+n] = data
h.flush()
assert h.pread(1 << 20, base) == have
";

fn nbdsh(tree: &Tree, load: &Load) {
    while load.on() {
        let Some(mut nbdsh) = tool("nbdsh", "python3-libnbd") else { return };
        run(nbdsh.arg("-u").arg(tree.uri("p", "raw")).args(["-c", NBDSH]));
    }
}

#[test]
fn a_file_system_and_many_writers_arrive_at_every_leaf() {
    let mut random = Random::seeded("tree");
    let tree = Tree::start(Plan::tree().volume("fs", SIZE).volume("raw", SIZE));
    let folder = tree.dir().join("files");
    populate(&folder, &mut random);
    let image = tree.dir().join("fs.img");
    std::fs::File::create(&image).unwrap().set_len(SIZE * MIB).unwrap();
    let Some(mut mke2fs) = tool("mke2fs", "e2fsprogs") else { return };
    run(mke2fs.args(["-q", "-F", "-t", "ext4", "-b", "4096", "-d"]).arg(&folder).arg(&image));
    let Some(mut copy) = tool("nbdcopy", "libnbd-bin") else { return };
    run(copy.args(["--flush", "--connections=4"]).arg(&image).arg(tree.uri("p", "fs")));
    tree.cut("fs", false);

    // In use while sets are cut: mounted where that is possible.
    let device = rustix::process::geteuid()
        .is_root()
        .then(|| Device::attach(&tree.unix_uri("p", "fs"), &tree.dir().join("fuse")))
        .flatten();
    let mounted = device.as_ref().map(|d| {
        Mounted::new(&[d.path.to_str().unwrap()], &tree.dir().join("mnt")).expect("mount")
    });
    if mounted.is_none() {
        eprintln!("\n*** not root: the file system is not mounted while sets are cut ***\n");
    }
    let load = Load::default();
    let mut sets = 0;
    let (mut one, mut two) = (random.fork(), random.fork());
    std::thread::scope(|s| {
        let _ends = Ends(&load);
        if let Some(m) = &mounted {
            s.spawn(|| use_files(&m.at, &load, &mut one));
        }
        s.spawn(|| fio(&tree, &load));
        s.spawn(|| qemu_io(&tree, &load, &mut two));
        s.spawn(|| nbdsh(&tree, &load));
        let clock = Clock::default();
        while sets < SETS {
            assert!(clock.passed() < LONG, "{sets} sets only");
            sets += u64::from(tree.cut("raw", false).fresh);
            tree.cut("fs", false);
            Clock::default().pace(Duration::from_millis(100));
        }
    });
    if let Some(m) = mounted {
        m.unmount();
    }
    drop(device);

    for label in ["raw", "fs"] {
        let cut = tree.cut(label, true);
        tree.all_same(label, cut.set, LONG);
        // And by another client, into files.
        for (node, file) in [("p", "a"), ("l4", "b")] {
            let uri = tree.uri(node, &format!("{label}@{}", cut.set));
            run(tool("nbdcopy", "libnbd-bin").unwrap().arg(uri).arg(tree.dir().join(file)));
        }
        let [a, b] = ["a", "b"].map(|f| tree.dir().join(f));
        run(tool("cmp", "diffutils").unwrap().arg(&a).arg(&b));
        if label == "fs" {
            run(tool("e2fsck", "e2fsprogs").unwrap().arg("-fn").arg(&b));
        } else {
            assert!(cut.set >= 20, "{} sets", cut.set);
        }
    }
    tree.quiet();
}
