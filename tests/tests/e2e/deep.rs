//! `rcpctl verify --deep`: every replica reads all it has, finds what is wrong, and heals it.

use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use tests::rig::{Plan, Tree, program, wait_for};
use volmcast::digest::{ENTRY_LEN, table_range};

const LONG: Duration = Duration::from_secs(60);
const BLOCK: u64 = 4096;

fn verify(tree: &Tree, more: &[&str]) -> (i32, String) {
    let mut c = Command::new(program("rcpctl"));
    c.args(["verify", "vol"]).args(more).arg("--topology").arg(tree.topology());
    let out = c.output().unwrap();
    let text = |b: &[u8]| String::from_utf8_lossy(b).into_owned();
    (out.status.code().unwrap(), text(&out.stdout) + &text(&out.stderr))
}

/// Writes a block and cuts; it is in the content of all replicas then.
fn put(tree: &Tree, block: u64, byte: u8) {
    let mut c = tree.open("p", "vol").unwrap();
    c.write(block * BLOCK, &[byte; BLOCK as usize], true).unwrap();
    let set = tree.cut("vol", false).set;
    for n in ["f1", "l1"] {
        wait_for("the content holds the set", LONG, || match tree.volume(n, "vol") {
            Ok(v) if v.merged_set >= set => Ok(()),
            other => Err(format!("{other:?}")),
        });
    }
}

fn read(path: &Path, at: u64, len: usize) -> Vec<u8> {
    let mut b = vec![0; len];
    std::fs::File::open(path).unwrap().read_exact_at(&mut b, at).unwrap();
    b
}

fn write(path: &Path, at: u64, bytes: &[u8]) {
    std::fs::File::options().write(true).open(path).unwrap().write_all_at(bytes, at).unwrap();
}

fn line<'a>(text: &'a str, node: &str) -> &'a str {
    text.lines().find(|l| l.starts_with(node)).unwrap_or_default()
}

#[test]
fn a_round_on_demand_finds_and_heals() {
    let mut plan = Plan::new(&[("p", &["f1"]), ("f1", &["l1"])]).volume("vol", 16).save(16);
    plan.group().playback.scrub = Some("off".to_owned());
    let tree = Tree::start(plan);
    for n in [" WARN ", "content is damaged", "content here is not", "content differs"] {
        tree.expect(n);
    }
    for (block, byte) in [(5, 1), (9, 2), (1000, 3)] {
        put(&tree, block, byte);
    }
    assert_eq!(tree.volume("l1", "vol").unwrap().scrub_rate, Some(0));
    let (code, text) = verify(&tree, &["--deep", "--rate", "1GiB/s"]);
    assert_eq!(code, 0, "{text}");
    for n in ["f1", "l1"] {
        let said = line(&text, n);
        assert!(said.contains("equal") && said.contains("read in full: "), "{n}: {text}");
    }

    // A bit of one block.
    let folder = tree.volume_folder("l1", "vol");
    let (base, hashes) = (folder.join("base"), folder.join("hashes"));
    tree.kill("l1");
    write(&base, 9 * BLOCK + 7, &[0x55]);
    tree.up("l1");
    let (code, text) = verify(&tree, &["--deep", "--rate", "1GiB/s"]);
    assert_eq!(code, 1, "{text}");
    assert!(line(&text, "l1").contains("1 of ") && text.contains("look at the disk"), "{text}");
    assert!(line(&text, "f1").contains("read in full: "), "{text}");
    let (code, text) = verify(&tree, &["--deep", "--rate", "1GiB/s"]);
    assert_eq!(code, 0, "it was healed: {text}");

    // A block and its hash as they were before.
    let at = table_range(5, 1).0;
    let (old, old_hash) = (read(&base, 5 * BLOCK, 4096), read(&hashes, at, ENTRY_LEN as usize));
    put(&tree, 5, 4);
    tree.kill("l1");
    assert_eq!(read(&base, 5 * BLOCK, 1), [4]);
    write(&base, 5 * BLOCK, &old);
    write(&hashes, at, &old_hash);
    tree.up("l1");
    let (code, text) = verify(&tree, &["--deep", "--rate", "1GiB/s"]);
    assert_eq!(code, 1, "{text}");
    assert!(line(&text, "l1").contains("not the primary's"), "{text}");
    // That block is fetched again, and nothing else has to be done.
    wait_for("it is the same again", LONG, || match verify(&tree, &[]) {
        (0, _) => Ok(()),
        (_, text) => Err(text),
    });
    assert_eq!(read(&base, 5 * BLOCK, 1), [4]);
    assert!(tree.log("l1").contains("1 block is not what the parent has"), "{}", tree.log("l1"));
    let (code, text) = verify(&tree, &["--deep"]);
    assert_eq!(code, 0, "{text}");
    let set = tree.cut("vol", true).set;
    tree.all_same("vol", set, LONG);
    tree.quiet();
}
