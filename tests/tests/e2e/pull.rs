//! A kept state is pulled into a file, and the file is brought forward by what changed (DIFF-01,
//! DIFF-09): a backup that costs what was written since the one before.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use node::api::CutInfo;
use node::http::{paths, requests};
use tests::rig::{MIB, Plan, Tree, program, run, said, tool, wait_for};

use crate::load::content;

const LONG: Duration = Duration::from_secs(90);
const BLOCK: u64 = 4096;

fn pull(tree: &Tree, node: &str, state: u64, to: &Path) -> Result<serde_json::Value, String> {
    let (state, to) = (state.to_string(), to.display().to_string());
    let told = tree.ctl_at(node, &["delta", "pull", "vol", &state, "--to", &to, "--json"])?;
    Ok(serde_json::from_str(&told).expect("JSON"))
}

/// `runs` runs of `len` blocks, `every` blocks apart.
fn write(tree: &Tree, (first, every): (u64, u64), (runs, len): (u64, u64), seed: u64) {
    let mut c = tree.open("p", "vol").unwrap();
    for r in 0..runs {
        let from = first + r * every;
        let bytes: Vec<u8> = (0..len).flat_map(|i| content(seed << 32 | (from + i))).collect();
        c.write(from * BLOCK, &bytes, false).unwrap();
    }
    c.flush().unwrap();
}

/// Cuts a state that both nodes keep.
fn kept(tree: &Tree) -> u64 {
    let body = requests::Cut { volume: "vol".to_owned(), keep: true };
    let cut: CutInfo = tree.post("p", paths::CUT, &body).unwrap();
    tree.reaches("l1", "vol", cut.set, LONG);
    tree.ctl_at("l1", &["delta", "keep", "vol", &cut.set.to_string()]).unwrap();
    cut.set
}

#[track_caller]
fn is_state(tree: &Tree, node: &str, set: u64, file: &Path) -> Option<()> {
    let export = tree.unix_uri(node, &format!("vol@{set}"));
    let mut qemu = tool("qemu-img", "qemu-utils")?;
    run(qemu.args(["compare", "-f", "raw", "-F", "raw"]).arg(file).arg(export));
    Some(())
}

fn note(file: &Path) -> PathBuf {
    PathBuf::from(format!("{}.state", file.display()))
}

#[test]
fn a_backup_is_brought_forward_by_what_changed() {
    let tree = Tree::start(Plan::new(&[("p", &["l1"])]).volume("vol", 64));
    write(&tree, (0, 64), (200, 8), 1);
    let first = kept(&tree);
    let file = tree.dir().join("backup.img");
    let told = pull(&tree, "l1", first, &file).unwrap();
    assert_eq!((told["read"].as_u64(), told["since"].as_str()), (Some(64 * MIB), None), "{told}");
    if is_state(&tree, "l1", first, &file).is_none() {
        return;
    }

    // Far apart, in what was written before and where nothing was; then some of it once more.
    write(&tree, (3, 1024), (15, 8), 2);
    kept(&tree);
    write(&tree, (3, 2048), (7, 4), 3);
    let last = kept(&tree);
    let list = tree.ctl_at("l1", &["delta", "diff", "vol", &first.to_string(), &last.to_string()]);
    let list = list.unwrap();
    assert!(list.starts_with("vol: 120 blocks of 4096 bytes changed"), "{list}");
    assert!(list.ends_with("\n14339 +8\n"), "{list}");
    // The primary keeps the same states, and says the same.
    let at_p = tree.ctl_at("p", &["delta", "diff", "vol", &first.to_string(), &last.to_string()]);
    assert_eq!(list, at_p.unwrap());
    let told = pull(&tree, "l1", last, &file).unwrap();
    assert_eq!(told["read"].as_u64(), Some(120 * BLOCK), "{told}");
    is_state(&tree, "p", last, &file);

    // The file of one node goes on at another one.
    write(&tree, (100, 1), (1, 1), 4);
    let newest = kept(&tree);
    let told = pull(&tree, "p", newest, &file).unwrap();
    assert_eq!(told["read"].as_u64(), Some(BLOCK), "{told}");
    is_state(&tree, "l1", newest, &file);

    // Another writer goes on with the same history, and the file with it.
    let swap = ["failover", "vol", "--to", "l1", "--sync", "--topology"];
    said(Command::new(program("rcpctl")).args(swap).arg(tree.topology())).unwrap();
    let mut c = tree.open("l1", "vol").unwrap();
    c.write(7 * BLOCK, &[9; 4096], true).unwrap();
    drop(c);
    let body = requests::Cut { volume: "vol".to_owned(), keep: true };
    let cut: CutInfo = tree.post("l1", paths::CUT, &body).unwrap();
    let told = pull(&tree, "l1", cut.set, &file).unwrap();
    assert_eq!(told["read"].as_u64(), Some(BLOCK), "{told}");
    is_state(&tree, "l1", cut.set, &file);
}

#[test]
fn a_pull_that_was_interrupted_is_finished_by_the_same_command() {
    let tree = Tree::start(Plan::new(&[("p", &["l1"])]).volume("vol", 16));
    write(&tree, (0, 1), (1, 1000), 1);
    let a = kept(&tree);
    let file = tree.dir().join("backup.img");
    pull(&tree, "l1", a, &file).unwrap();
    let held = std::fs::read_to_string(note(&file)).unwrap();
    write(&tree, (10, 1), (1, 100), 2);
    let b = kept(&tree);
    write(&tree, (500, 1), (1, 100), 3);
    let c = kept(&tree);
    let of = |line: &str, set: u64| {
        let v: serde_json::Value = serde_json::from_str(line).expect("JSON");
        let id = v["state"].as_str().expect("a state").to_owned();
        format!("{}.{set}", id.rsplit_once('.').expect("a state id").0)
    };

    // It was written to behind the note's back.
    let again = std::fs::read(&file).unwrap();
    std::fs::write(&file, [1; 4096]).unwrap();
    let no = pull(&tree, "l1", b, &file).unwrap_err();
    assert!(no.contains("was written or copied after it was pulled"), "{no}");
    std::fs::write(&file, again).unwrap();

    // Killed between its first write and its last.
    let mid =
        format!("{{\"state\":{:?},\"becoming\":{:?},\"left\":null}}", of(&held, a), of(&held, b));
    std::fs::write(note(&file), &mid).unwrap();
    use std::os::unix::fs::FileExt;
    let f = std::fs::OpenOptions::new().write(true).open(&file).unwrap();
    f.write_all_at(&[7; 9000], 20 * BLOCK).unwrap();
    let no = pull(&tree, "l1", c, &file).unwrap_err();
    assert!(no.contains(&format!("a pull of state {b} was interrupted")), "{no}");
    pull(&tree, "l1", b, &file).unwrap();
    is_state(&tree, "l1", b, &file);

    // A first one that was killed.
    let whole = format!("{{\"state\":null,\"becoming\":{:?},\"left\":null}}", of(&held, c));
    std::fs::write(note(&file), whole).unwrap();
    pull(&tree, "l1", c, &file).unwrap();
    is_state(&tree, "l1", c, &file);

    // What cannot be is said.
    let no = pull(&tree, "l1", c, &file).unwrap_err();
    assert!(no.contains(&format!("holds state {c} already")), "{no}");
    let no = pull(&tree, "l1", a, &file).unwrap_err();
    assert!(no.contains("say the older one first"), "{no}");
    let no = pull(&tree, "l1", 999, &file).unwrap_err();
    assert!(no.contains("state 999 of volume vol is not kept here: the nearest"), "{no}");
    tree.ctl_at("l1", &["delta", "release", "vol", &c.to_string()]).unwrap();
    write(&tree, (1, 1), (1, 1), 5);
    let d = kept(&tree);
    wait_for("the state to be gone", LONG, || match pull(&tree, "l1", d, &file) {
        Err(no) if no.contains(&format!("state {c} of volume vol is not kept here")) => Ok(()),
        other => Err(format!("{other:?}")),
    });
    let no = pull(&tree, "l1", d, tree.dir()).unwrap_err();
    assert!(no.contains("is a folder"), "{no}");
    let no = tree.ctl_at("l1", &["delta", "diff", "vol&x=1", "1", "2"]).unwrap_err();
    assert!(no.contains("vol&x=1"), "{no}");
    std::fs::remove_file(note(&file)).unwrap();
    let no = pull(&tree, "l1", d, &file).unwrap_err();
    assert!(no.contains("which says which state it holds"), "{no}");
}
