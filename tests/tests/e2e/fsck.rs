//! `rcpctl fsck` on the folders of real nodes: it changes nothing, and says what the next start finds.

use std::collections::BTreeMap;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use tests::rig::{Plan, Random, Tree, program};

use crate::load::Writer;

const LONG: Duration = Duration::from_secs(60);

fn fsck(folder: &Path, more: &[&str]) -> (i32, String, String) {
    let Output { status, stdout, stderr } =
        Command::new(program("rcpctl")).arg("fsck").arg(folder).args(more).output().unwrap();
    let text = |b: Vec<u8>| String::from_utf8(b).unwrap();
    (status.code().unwrap(), text(stdout), text(stderr))
}

/// Every file below a folder: its length, and when it was last changed in any way.
fn files(folder: &Path) -> BTreeMap<PathBuf, [i64; 4]> {
    let mut all = BTreeMap::new();
    for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let (path, kind) = (entry.path(), entry.file_type().unwrap());
        if kind.is_dir() {
            all.extend(files(&path));
        } else if kind.is_file() {
            let m = entry.metadata().unwrap();
            let len = i64::try_from(m.len()).unwrap();
            all.insert(path, [len, m.mtime_nsec(), m.ctime(), m.ctime_nsec()]);
        }
    }
    all
}

fn flip(path: &Path, at: u64) {
    let f = std::fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut b = [0];
    f.read_exact_at(&mut b, at).unwrap();
    f.write_all_at(&[b[0] ^ 0x10], at).unwrap();
}

#[test]
fn a_killed_node_is_explained_and_left_as_it_is() {
    let mut random = Random::seeded("fsck");
    let plan = Plan::new(&[("p", &["f1"]), ("f1", &["l1"])]).volume("vol", 16).save(16);
    let tree = Tree::start(plan);
    tree.expect(" WARN ");
    let mut writer = Writer::new("vol", 0, 4000, random.fork());
    let mut c = tree.open("p", "vol").unwrap();
    for _ in 0..40 {
        writer.once(&mut c).unwrap();
    }
    c.flush().unwrap();
    let set = tree.cut("vol", true).set;
    for n in ["f1", "l1"] {
        tree.reaches(n, "vol", set, LONG);
    }

    let (code, out, why) = fsck(&tree.folder("l1"), &[]);
    assert_eq!((code, out.as_str()), (3, ""), "{why}");
    assert!(why.contains("a node runs on") && why.contains("rcpctl down --dir"), "{why}");
    let (code, _, why) = fsck(Path::new("/proc"), &[]);
    assert!(code == 3 && why.contains("no data folder of a node"), "{why}");

    // In the middle of writes.
    for _ in 0..20 {
        writer.once(&mut c).unwrap();
    }
    for node in ["p", "f1", "l1"] {
        tree.kill(node);
        let folder = tree.folder(node);
        let before = files(&folder);
        let (code, out, why) = fsck(&folder, &["--content"]);
        assert_eq!(code, 0, "{node}: {out}{why}");
        assert!(out.contains(&format!("node {node}: all well")), "{out}");
        assert!(out.contains("next start"), "{out}");
        let (code, out, _) = fsck(&folder, &["--json"]);
        let json: serde_json::Value = serde_json::from_str(&out).unwrap();
        assert_eq!((code, json["grade"].as_str()), (0, Some("well")), "{out}");
        assert_eq!(json["volumes"][0]["label"], "vol");
        assert_eq!(files(&folder), before, "{node}: something was changed");
    }

    // What the node heals by itself, and what it does not.
    let mailbox = tree.volume_folder("l1", "vol").join("mailbox");
    let whole = std::fs::read(&mailbox).unwrap();
    let half = whole.len() as u64 / 2;
    flip(&mailbox, 100);
    let (code, out, _) = fsck(&tree.folder("l1"), &[]);
    assert!(code == 1 && out.contains("slot 0 cannot be used"), "{out}");
    flip(&mailbox, half + 100);
    let (code, out, _) = fsck(&tree.folder("l1"), &[]);
    assert_eq!(code, 2, "{out}");
    assert!(out.contains("the volume stays closed") && out.contains("volume delete"), "{out}");
    std::fs::write(&mailbox, &whole).unwrap();

    // It was locked only while it was looked at.
    for node in ["p", "f1", "l1"] {
        tree.up(node);
    }
    let mut c = tree.open("p", "vol").unwrap();
    writer.once(&mut c).unwrap();
    let set = tree.cut("vol", true).set;
    tree.all_same("vol", set, LONG);
    tree.quiet();
}
