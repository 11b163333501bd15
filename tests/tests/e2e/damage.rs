//! Files that were damaged while their node was down: named, repaired or refused; the others go on.

use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

use node::http::paths;
use node::http::requests::{self, Done};
use tests::rig::{MIB, Plan, Random, Tree, wait_for};

use crate::load::Writer;

const LONG: Duration = Duration::from_secs(40);
const ROLES: [&str; 3] = ["p", "f1", "l1"];

struct Rig {
    tree: Tree,
    writer: Writer,
    random: Random,
}

impl Rig {
    /// A tree with some sets everywhere.
    fn new(name: &str) -> Self {
        let mut random = Random::seeded(name);
        let plan = Plan::new(&[("p", &["f1"]), ("f1", &["l1", "l2"])]).volume("vol", 32).save(16);
        let tree = Tree::start(plan);
        tree.expect(" WARN ");
        let writer = Writer::new("vol", 0, 8000, random.fork());
        let mut rig = Self { tree, writer, random };
        rig.write();
        rig
    }

    /// Writes something and cuts it.
    fn write(&mut self) -> u64 {
        let mut c = self.tree.open("p", "vol").unwrap();
        for _ in 0..40 {
            self.writer.once(&mut c).unwrap();
        }
        c.flush().unwrap();
        self.tree.cut("vol", false).set
    }

    fn everywhere(&self, set: u64) {
        for n in ["f1", "l1", "l2"] {
            self.tree.reaches(n, "vol", set, LONG);
        }
    }

    /// Stops a node, lets `harm` at a file of its volume, and starts the node again.
    fn harm(&mut self, node: &str, file: &str, harm: impl FnOnce(&Path, &mut Random)) {
        self.tree.kill(node);
        harm(&self.tree.volume_folder(node, "vol").join(file), &mut self.random);
        self.tree.up(node);
    }

    /// After more writes everything is the same everywhere, and nothing acknowledged is lost.
    fn converges(&mut self) {
        self.write();
        let set = self.tree.cut("vol", true).set;
        self.tree.all_same("vol", set, LONG);
        let export = format!("vol@{set}");
        self.writer.verify("p", &mut self.tree.open("p", &export).unwrap());
        self.writer.verify("l1", &mut self.tree.open("l1", &export).unwrap());
    }
}

fn flip(path: &Path, at: u64) {
    let f = std::fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut b = [0];
    f.read_exact_at(&mut b, at).unwrap();
    f.write_all_at(&[b[0] ^ 0x10], at).unwrap();
}

fn used(rig: &Rig, node: &str) -> u64 {
    rig.tree.volume(node, "vol").unwrap().save_used
}

#[test]
fn a_flipped_bit_in_a_save_volume() {
    let mut rig = Rig::new("flip");
    for node in ROLES {
        let set = rig.write();
        rig.everywhere(set);
        let used = used(&rig, node).max(1 << 20);
        rig.harm(node, "save", |path, random| {
            // In the middle of what is there: headers, payloads, whatever comes.
            for _ in 0..6 {
                flip(path, random.below(used));
            }
        });
        rig.converges();
    }
    rig.tree.expect("is damaged");
    rig.tree.quiet();
}

#[test]
fn a_zeroed_save_volume() {
    let mut rig = Rig::new("zeroed");
    for node in ROLES {
        let set = rig.write();
        rig.everywhere(set);
        rig.harm(node, "save", |path, _| {
            let len = std::fs::metadata(path).unwrap().len();
            std::fs::write(path, vec![0; usize::try_from(len).unwrap()]).unwrap();
        });
        rig.converges();
    }
    rig.tree.expect("is damaged");
    rig.tree.quiet();
}

/// The volume is refused with words that name `file` and a remedy; the others go on.
fn is_named(rig: &mut Rig, node: &str, file: &str, remedy: &str) {
    wait_for("the error in the log", LONG, || {
        let log = rig.tree.log(node);
        let found = log.lines().rev().find(|l| l.contains(" ERROR ") && l.contains(file));
        match found {
            Some(l) if l.contains(remedy) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
    if node == "p" {
        assert!(rig.tree.open("p", "vol").is_err(), "it was opened");
        return;
    }
    let set = rig.write();
    for n in ["f1", "l2"] {
        if node != "f1" {
            rig.tree.reaches(n, "vol", set, LONG);
        }
    }
}

#[test]
fn a_truncated_save_volume() {
    let mut rig = Rig::new("truncated");
    for node in ROLES {
        let set = rig.write();
        rig.everywhere(set);
        let cut = |path: &Path, len: u64| {
            std::fs::OpenOptions::new().write(true).open(path).unwrap().set_len(len).unwrap();
        };
        rig.harm(node, "save", |path, _| cut(path, MIB));
        is_named(&mut rig, node, "save", "truncate -s");
        // The remedies that are named work.
        if node == "l1" {
            let body = requests::Delete { volume: "vol".to_owned() };
            let _: Done = rig.tree.post(node, paths::VOLUME_DELETE, &body).unwrap();
            rig.converges();
            continue;
        }
        rig.harm(node, "save", |path, _| cut(path, 16 * MIB));
        rig.converges();
    }
    rig.tree.expect("truncated");
    rig.tree.expect("is damaged");
    rig.tree.quiet();
}

#[test]
fn a_mailbox_damaged_in_one_slot_and_in_both() {
    let mut rig = Rig::new("mailbox");
    for node in ROLES {
        for slot in 0..2 {
            let set = rig.write();
            rig.everywhere(set);
            rig.harm(node, "mailbox", |path, _| {
                let len = std::fs::metadata(path).unwrap().len();
                flip(path, slot * len / 2 + 100);
            });
            rig.converges();
        }
    }
    for node in ["l1", "f1", "p"] {
        let mut kept = Vec::new();
        rig.harm(node, "mailbox", |path, _| {
            kept = std::fs::read(path).unwrap();
            let half = kept.len() as u64 / 2;
            flip(path, 100);
            flip(path, half + 100);
        });
        is_named(&mut rig, node, "mailbox", "seeded");
        // Nothing else was touched: with the mailbox restored, it goes on.
        rig.harm(node, "mailbox", |path, _| std::fs::write(path, &kept).unwrap());
        rig.converges();
    }
    rig.tree.expect("mailbox");
    rig.tree.expect("is damaged");
    rig.tree.quiet();
}

#[test]
fn a_truncated_backing_file() {
    let mut rig = Rig::new("backing");
    for node in ["l1", "f1", "p"] {
        let set = rig.write();
        rig.everywhere(set);
        let mut kept = Vec::new();
        rig.harm(node, "base", |path, _| {
            kept = std::fs::read(path).unwrap();
            std::fs::OpenOptions::new().write(true).open(path).unwrap().set_len(MIB).unwrap();
        });
        is_named(&mut rig, node, "base", "restore");
        rig.harm(node, "base", |path, _| std::fs::write(path, &kept).unwrap());
        rig.converges();
    }
    rig.tree.expect("base");
    rig.tree.quiet();
}

/// Bits that rot in a replica's content, behind its back and while it runs, are never handed out,
/// and come again from the parent: the blocks, not the volume.
#[test]
fn a_flipped_bit_in_the_content_of_a_replica() {
    let mut rig = Rig::new("rotten");
    let block = 4096;
    for node in ["l1", "f1"] {
        let set = rig.write();
        rig.everywhere(set);
        let parent = if node == "l1" { "f1" } else { "p" };
        wait_for("the content to hold all", LONG, || {
            let v = rig.tree.volume(node, "vol")?;
            let known = v.digests.first().is_some_and(|d| d.set == set);
            if v.merged_set == set && known { Ok(()) } else { Err(v.state) }
        });
        let before = rig.tree.volume(parent, "vol").unwrap();
        let path = rig.tree.volume_folder(node, "vol").join("base");
        let content = std::fs::read(&path).unwrap();
        let size = content.len() as u64;
        let full: Vec<u64> = (0..size / block)
            .filter(|b| {
                let from = usize::try_from(b * block).unwrap();
                content[from..from + 4096].iter().any(|x| *x != 0)
            })
            .collect();
        // One that holds something, and one that holds nothing.
        let empty = (0..size / block).rev().find(|b| !full.contains(b)).unwrap();
        let rotten = [*rig.random.of(&full), empty];
        for b in rotten {
            flip(&path, b * block + rig.random.below(block));
        }
        let mut client = rig.tree.open(node, "vol").unwrap();
        let mut buf = vec![0; 4096];
        let mut refused = 0;
        for b in 0..size / block {
            let from = usize::try_from(b * block).unwrap();
            match client.read(b * block, &mut buf) {
                Ok(()) => assert_eq!(buf, content[from..from + 4096], "{node}: block {b}"),
                // The second may have been healed with the first.
                Err(_) => refused += 1,
            }
        }
        assert!(refused > 0, "{node}: a damaged block was not noticed");
        wait_for("the damaged blocks to be whole again", LONG, || {
            let now = std::fs::read(&path).unwrap();
            let v = rig.tree.volume(node, "vol")?;
            if now == content && v.reason.is_none() {
                return Ok(());
            }
            // What nobody read is not noticed before the next round: read it.
            if let Ok(mut c) = rig.tree.open(node, "vol") {
                for b in rotten {
                    let _ = c.read(b * block, &mut buf);
                }
            }
            Err(format!("{}: {:?}", v.state, v.reason))
        });
        let after = rig.tree.volume(parent, "vol").unwrap();
        assert_eq!(after.seed_sent, before.seed_sent, "{node} was not seeded");
        assert!(
            after.catch_up_sent - before.catch_up_sent < 64 << 10,
            "only what was damaged came"
        );
        assert!(rig.tree.volume(node, "vol").unwrap().damaged_blocks > 0);
        rig.converges();
    }
    let all: Vec<_> = ["p", "f1", "l1", "l2"]
        .iter()
        .map(|n| rig.tree.volume(n, "vol").unwrap().digests.first().cloned())
        .collect();
    assert!(all.iter().all(|d| d.is_some()), "{all:?}");
    rig.tree.expect("damaged");
    rig.tree.quiet();
}

/// One hundred blocks that are not what they were: flipped bits, content of an older state, content
/// of another block. Each is found by its hash, none is handed out, and each comes again by itself.
#[test]
fn one_hundred_planted_differences() {
    const BLOCK: u64 = 4096;
    let mut rig = Rig::new("hundred");
    let set = rig.write();
    rig.everywhere(set);
    let path = rig.tree.volume_folder("l1", "vol").join("base");
    let blocks =
        |content: &[u8]| -> Vec<Vec<u8>> { content.chunks(4096).map(<[u8]>::to_vec).collect() };
    let at_rest = |rig: &mut Rig| {
        let set = rig.write();
        rig.everywhere(set);
        wait_for("the content to hold all", LONG, || {
            let v = rig.tree.volume("l1", "vol")?;
            let known = v.digests.first().is_some_and(|d| d.set == set);
            if v.merged_set == set && known { Ok(()) } else { Err(v.state) }
        });
        blocks(&std::fs::read(&path).unwrap())
    };
    let old = at_rest(&mut rig);
    let (mut now, mut stale) = (Vec::new(), Vec::new());
    wait_for("33 blocks to have an older content", LONG, || {
        now = at_rest(&mut rig);
        stale = (0..now.len()).filter(|b| now[*b] != old[*b]).take(33).collect();
        if stale.len() == 33 { Ok(()) } else { Err(format!("{}", stale.len())) }
    });
    let mut full = (0..now.len()).filter(|b| !stale.contains(b) && now[*b].iter().any(|x| *x != 0));
    let rotten: Vec<usize> = full.by_ref().take(33).collect();
    let swapped: Vec<usize> = full.take(34).collect();
    assert_eq!((rotten.len(), swapped.len()), (33, 34), "too few blocks hold anything");

    let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    let put = |b: usize, content: &[u8]| file.write_all_at(content, b as u64 * BLOCK).unwrap();
    rotten.iter().for_each(|b| flip(&path, *b as u64 * BLOCK + rig.random.below(BLOCK)));
    stale.iter().for_each(|b| put(*b, &old[*b]));
    for pair in swapped.chunks(2) {
        assert_ne!(now[pair[0]], now[pair[1]]);
        put(pair[0], &now[pair[1]]);
        put(pair[1], &now[pair[0]]);
    }

    let before = rig.tree.volume("f1", "vol").unwrap();
    let mut buf = vec![0; 4096];
    wait_for("the planted differences to be found and mended", 3 * LONG, || {
        let mut client = rig.tree.open("l1", "vol").map_err(|e| e.to_string())?;
        let mut failed = 0;
        for b in rotten.iter().chain(&stale).chain(&swapped) {
            match client.read(*b as u64 * BLOCK, &mut buf) {
                Ok(()) => assert!(buf == now[*b], "block {b} was handed out as it was planted"),
                Err(_) => failed += 1,
            }
        }
        let v = rig.tree.volume("l1", "vol")?;
        if failed == 0 { Ok(()) } else { Err(format!("{failed} reads failed: {:?}", v.reason)) }
    });
    assert!(blocks(&std::fs::read(&path).unwrap()) == now, "the content is what it was");
    assert_eq!(rig.tree.volume("l1", "vol").unwrap().damaged_blocks, 100);
    let after = rig.tree.volume("f1", "vol").unwrap();
    assert_eq!(after.seed_sent, before.seed_sent, "nothing was seeded");
    let came = after.catch_up_sent - before.catch_up_sent;
    assert!(came < 200 * BLOCK, "{came} bytes came for 100 blocks");
    rig.converges();
    rig.tree.expect("damaged");
    rig.tree.quiet();
}
