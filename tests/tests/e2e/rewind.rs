//! Nodes past the fork go back by the blocks that differ, and what they held is kept as a branch
//! (FAIL-11, FAIL-14, F28).

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use node::api::{BranchStatus, VolumeInfo};
use tests::rig::{Clock, Plan, Process, Tree, program, run, said, tool, wait_for};

use crate::load::content;

const LONG: Duration = Duration::from_secs(90);
const BLOCK: u64 = 4096;

/// Runs of 16 blocks, `every` blocks apart, from `first` on: `runs` of them.
fn write(tree: &Tree, node: &str, first: u64, every: u64, runs: u64, seed: u64) {
    let mut c = tree.open(node, "vol").unwrap_or_else(|e| panic!("{node}: {e}"));
    for r in 0..runs {
        let from = first + r * every;
        let bytes: Vec<u8> = (0..16).flat_map(|i| content(seed << 32 | (from + i))).collect();
        c.write(from * BLOCK, &bytes, false).unwrap();
    }
    c.flush().unwrap();
}

/// A whole export as a sparse file.
pub(crate) fn image(tree: &Tree, node: &str, export: &str, name: &str) -> Option<PathBuf> {
    let to = tree.dir().join(name);
    let mut qemu = tool("qemu-img", "qemu-utils")?;
    qemu.args(["convert", "-f", "raw", "-O", "raw"]).arg(tree.unix_uri(node, export)).arg(&to);
    run(&mut qemu);
    Some(to)
}

#[track_caller]
pub(crate) fn equal(a: &Path, b: &Path) {
    let mut qemu = tool("qemu-img", "qemu-utils").expect("it was there");
    let told = said(qemu.args(["compare", "-f", "raw", "-F", "raw"]).args([a, b]));
    assert!(told.is_ok(), "{}", told.unwrap_err());
}

fn fenced(tree: &Tree, node: &str, by: &str) {
    wait_for(&format!("{node} to be fenced"), LONG, || {
        let v = tree.volume(node, "vol")?;
        match v.fenced {
            Some(f) if f.contains(&format!("{by} took over")) => Ok(()),
            other => Err(format!("{}: {other:?}", v.state)),
        }
    });
}

/// The branches of a node are exactly what is in the files. The newest of them.
#[track_caller]
fn branches_are(tree: &Tree, node: &str, held: &[(u64, &Path)]) -> BranchStatus {
    let v: VolumeInfo = tree.volume(node, "vol").unwrap();
    let sets: Vec<_> = v.branches.iter().map(|b| b.set).collect();
    assert_eq!(sets, held.iter().map(|(s, _)| *s).collect::<Vec<_>>(), "{:?}", v.branches);
    for (b, (_, held)) in v.branches.iter().zip(held) {
        let export = format!("vol@branch:{}", b.name);
        let read = image(tree, node, &export, &format!("{node}.branch")).expect("it was there");
        equal(held, &read);
        std::fs::remove_file(read).unwrap();
    }
    v.branches.last().expect("a branch").clone()
}

/// So it is by other ways as well.
#[track_caller]
fn branch_is(tree: &Tree, node: &str, b: &BranchStatus, held: &Path) {
    let export = format!("vol@branch:{}", b.name);
    if let Some(mut nbdcopy) = tool("nbdcopy", "libnbd-bin") {
        let to = tree.dir().join(format!("{node}.nbdcopy"));
        run(nbdcopy.arg(tree.unix_uri(node, &export)).arg(&to));
        equal(held, &to);
        std::fs::remove_file(to).unwrap();
    }
    mounted(tree, node, b, held);
    let list = tree.ctl_at(node, &["branch", "list", "vol"]).unwrap();
    let show = tree.ctl_at(node, &["branch", "show", "vol", &b.name]).unwrap();
    assert!(list.contains(&b.name) && show.contains("branch drop"), "{list}\n{show}");
    let to = tree.dir().join(format!("{node}.export"));
    let to_text = to.display().to_string();
    let told = tree.ctl_at(node, &["branch", "export", "vol", &b.name, "--to", &to_text]).unwrap();
    equal(held, &to);
    eprintln!("{list}{show}{told}");
    std::fs::remove_file(to).unwrap();
}

/// As a file, for as long as the command runs: by what stands for `nbdfuse`, and by itself if it is
/// there.
#[track_caller]
fn mounted(tree: &Tree, node: &str, b: &BranchStatus, held: &Path) {
    let (folder, bin) = (tree.dir().join("mounted"), tree.dir().join("bin"));
    let text = folder.display().to_string();
    let words = ["branch", "mount", "vol", b.name.as_str(), text.as_str()];
    let command = |path: &str| {
        let mut c = Command::new(program("rcpctl"));
        c.args(words).arg("--dir").arg(tree.folder(node)).env("PATH", path);
        c
    };
    let uri = tree.unix_uri(node, &format!("vol@branch:{}", b.name));
    let printed = said(command("/usr/bin:/bin").arg("--print")).unwrap();
    assert!(printed.contains(&format!("nbdfuse --readonly {text} '{uri}'")), "{printed}");
    assert!(printed.contains(&format!("mount -o ro,loop,norecovery {text}/nbd /mnt")), "{printed}");
    std::fs::create_dir_all(&bin).unwrap();
    let no = said(&mut command(bin.to_str().unwrap())).unwrap_err();
    assert!(no.contains("apt-get install libnbd-bin fuse3") && !folder.exists(), "{no}");

    let (asked, ended) = (bin.join("asked"), bin.join("ended"));
    let script = format!(
        "#!/bin/sh\necho \"$@\" > '{}'\ntrap 'echo ended > {}; exit 0' TERM\n\
         while :; do /bin/sleep 0.02; done\n",
        asked.display(),
        ended.display()
    );
    std::fs::write(bin.join("nbdfuse"), script).unwrap();
    run(Command::new("chmod").arg("+x").arg(bin.join("nbdfuse")));
    let log = tree.dir().join("mounted.log");
    let mut shown = Process::start(&mut command(bin.to_str().unwrap()), &log);
    wait_for("nbdfuse to be started", LONG, || match std::fs::read_to_string(&asked) {
        Ok(words) if words.ends_with('\n') => {
            assert_eq!(words, format!("--readonly {text} {uri}\n"));
            Ok(())
        }
        other => Err(format!("{other:?}: {}", shown.log())),
    });
    shown.terminate(LONG);
    assert!(ended.exists() && !folder.exists(), "{}", shown.log());
    std::fs::remove_dir_all(&bin).unwrap();

    if tool("nbdfuse", "libnbd-bin").is_none() || !Path::new("/dev/fuse").exists() {
        return;
    }
    let mut shown = Process::start(&mut command("/usr/bin:/bin"), &log);
    let file = folder.join("nbd");
    wait_for("the file to be shown", LONG, || match std::fs::metadata(&file) {
        Ok(_) => Ok(()),
        Err(e) => Err(format!("{e}: {}", shown.log())),
    });
    equal(held, &file);
    shown.terminate(LONG);
    assert!(!folder.exists(), "{}", shown.log());
}

/// Everything that went to a child since it was taken over, extents, sets and headers, is at most so
/// many runs of 16 blocks and a tenth.
#[track_caller]
fn sent_at_most(tree: &Tree, node: &str, child: &str, runs: u64) {
    let status = tree.status(node).unwrap();
    let link = status.groups[0].children.iter().find(|l| l.node == child).expect("a child");
    let extents = tree.volume(node, "vol").unwrap().catch_up_sent;
    let (sent, differs) = (link.bytes, runs * 16 * BLOCK);
    eprintln!("{sent} bytes went to {child}, {extents} of them as extents, and {differs} differed");
    assert!(extents > 0 && sent >= extents, "{sent} bytes, {extents} of them as extents");
    assert!(sent * 10 <= differs * 11, "{sent} bytes for {differs} that differ");
}

#[test]
fn an_old_primary_goes_back_by_what_differs_and_keeps_it_as_a_branch() {
    let tree = Tree::start(Plan::new(&[("p", &["l1"])]).volume("vol", 1024));
    tree.expect(" WARN ");
    tree.expect(" ERROR ");
    write(&tree, "p", 0, 2_000, 130, 1);
    let common = tree.cut_at("p");
    tree.reaches("l1", "vol", common, LONG);
    tree.kill("l1");
    // 6 MiB in sets that nobody has, 2 MiB in none; 1 MiB of that was empty before.
    write(&tree, "p", 2_000, 2_000, 64, 2);
    let second = tree.cut_at("p");
    write(&tree, "p", 2_000 * 65, 2_000, 32, 3);
    let third = tree.cut_at("p");
    write(&tree, "p", 2_000 * 97, 2_000, 16, 4);
    write(&tree, "p", 81_000, 2_000, 16, 4);
    tree.kill("p");

    tree.up("l1");
    tree.ctl(&["failover", "vol", "--to", "l1"]).unwrap();
    // 2 MiB, half of it in the same blocks.
    write(&tree, "l1", 2_000, 2_000, 16, 5);
    tree.cut_at("l1");
    write(&tree, "l1", 2_000 * 113, 2_000, 16, 6);

    tree.up("p");
    fenced(&tree, "p", "l1");
    let Some(held) = image(&tree, "p", "vol", "held") else { return };
    let kept = [second, third].map(|set| {
        image(&tree, "p", &format!("vol@{set}"), &format!("held.{set}")).expect("it was there")
    });
    let held =
        [(second, kept[0].as_path()), (third, kept[1].as_path()), (third + 1, held.as_path())];
    let told = tree.ctl_at("p", &["resync", "vol"]).unwrap();
    assert!(told.contains("kept as branch"), "{told}");
    eprintln!("{told}");
    let told = tree.ctl(&["failover", "vol", "--to", "l1", "--adopt"]).unwrap();
    eprintln!("{told}");
    let set = tree.cut_at("l1");
    tree.reaches("p", "vol", set, LONG);
    assert!(!tree.log("p").contains("a seed begins"), "p was seeded");
    // Of both lines, what has content now. (After the crash whole extents of the activity log counted
    // as changed: they are zeroes but for what was written, and cost next to nothing.)
    sent_at_most(&tree, "l1", "p", 64 + 32 + 16 + 16);
    let kept = format!("vol@{set}");
    let (a, b) = (image(&tree, "l1", &kept, "l1.now"), image(&tree, "p", &kept, "p.now"));
    equal(&a.unwrap(), &b.unwrap());

    let tip = branches_are(&tree, "p", &held);
    branch_is(&tree, "p", &tip, held[2].1);
    // What stayed as it was is not saved.
    assert!(tip.saved_blocks <= 16 * (64 + 32 + 16 + 16 + 16), "{tip:?}");
    // They stay over a restart, and while the new line goes on.
    tree.kill("p");
    tree.up("p");
    write(&tree, "l1", 0, 2_000, 60, 7);
    let set = tree.cut_at("l1");
    tree.reaches("p", "vol", set, LONG);
    let name = branches_are(&tree, "p", &held).name;
    for b in tree.volume("p", "vol").unwrap().branches {
        tree.ctl_at("p", &["branch", "drop", "vol", &b.name]).unwrap();
    }
    wait_for("the branch to be gone", LONG, || {
        let v = tree.volume("p", "vol")?;
        if v.branches.is_empty() { Ok(()) } else { Err(format!("{:?}", v.branches)) }
    });
    let no = tree.ctl_at("p", &["branch", "drop", "vol", &name]).unwrap_err();
    assert!(no.contains("has no branch"), "{no}");
}

#[test]
fn a_replica_past_the_fork_goes_back_by_itself() {
    let tree = Tree::start(Plan::new(&[("p", &["l1", "l2"])]).volume("vol", 1024));
    tree.expect(" WARN ");
    tree.expect(" ERROR ");
    write(&tree, "p", 0, 2_000, 80, 1);
    let common = tree.cut_at("p");
    for l in ["l1", "l2"] {
        tree.reaches(l, "vol", common, LONG);
    }
    tree.kill("l1");
    write(&tree, "p", 4_000, 2_000, 64, 2);
    let ahead = tree.cut_at("p");
    tree.reaches("l2", "vol", ahead, LONG);
    tree.kill("p");
    let Some(held) = image(&tree, "l2", &format!("vol@{ahead}"), "held") else { return };

    tree.up("l1");
    tree.ctl_at("l1", &["failover", "vol", "--to", "l1", "--alone"]).unwrap();
    write(&tree, "l1", 6_000, 2_000, 32, 3);
    tree.cut_at("l1");
    let told = tree.ctl(&["failover", "vol", "--to", "l1", "--adopt"]).unwrap();
    eprintln!("{told}");
    let set = tree.cut_at("l1");
    tree.reaches("l2", "vol", set, LONG);
    assert!(!tree.log("l2").contains("a seed begins"), "l2 was seeded");
    sent_at_most(&tree, "l1", "l2", 64);
    assert!(tree.log("l2").contains("is kept as branch"), "it says so");
    let kept = format!("vol@{set}");
    let (a, b) = (image(&tree, "l1", &kept, "l1.now"), image(&tree, "l2", &kept, "l2.now"));
    equal(&a.unwrap(), &b.unwrap());
    let tip = branches_are(&tree, "l2", &[(ahead, held.as_path())]);
    branch_is(&tree, "l2", &tip, &held);
    tree.ctl_at("l2", &["branch", "drop", "vol", &tip.name]).unwrap();
}

/// An export at two nodes, byte for byte.
#[track_caller]
fn same_export(tree: &Tree, export: &str, a: &str, b: &str) {
    let mut qemu = tool("qemu-img", "qemu-utils").expect("it was there");
    qemu.args(["compare", "-f", "raw", "-F", "raw"]).arg(tree.unix_uri(a, export));
    let told = said(qemu.arg(tree.unix_uri(b, export)));
    assert!(told.is_ok(), "{}", told.unwrap_err());
}

/// With its figures: `cargo test --release -p tests --test e2e -- --ignored --nocapture half_a_gib`.
#[test]
#[ignore = "writes 3 GiB; what it measures is in tests/docs/measurements.md"]
fn half_a_gib_of_divergence_on_a_large_volume_is_taken_back_in_seconds() {
    // 500 MiB in runs of 64 KiB, over all of 64 GiB.
    const RUNS: u64 = 8_000;
    const EVERY: u64 = 2_048;
    let mut plan = Plan::new(&[("p", &["l1"])]).volume("vol", 64 << 10).save(768);
    plan.spec.defaults.snapshot_area = Some("768 MiB".to_owned());
    let tree = Tree::start(plan);
    tree.expect(" WARN ");
    tree.expect(" ERROR ");
    write(&tree, "p", 0, EVERY, RUNS, 1);
    let common = tree.cut("vol", false).set;
    tree.reaches("l1", "vol", common, LONG);
    tree.kill("l1");
    // All of it is written anew: in two sets that nobody has, and the rest in none.
    for (from, runs) in [(0, 3_600), (3_600, 3_600), (7_200, 800)] {
        write(&tree, "p", from * EVERY, EVERY, runs, 2);
        if runs == 3_600 {
            tree.cut("vol", false);
        }
    }
    tree.kill("p");
    tree.up("l1");
    tree.ctl(&["failover", "vol", "--to", "l1"]).unwrap();
    write(&tree, "l1", 0, EVERY, 16, 3);
    tree.cut_at("l1");
    tree.up("p");
    fenced(&tree, "p", "l1");
    let Some(held) = image(&tree, "p", "vol", "held") else { return };

    let clock = Clock::default();
    let told = tree.ctl_at("p", &["resync", "vol"]).unwrap();
    let asked = clock.passed();
    tree.ctl(&["failover", "vol", "--to", "l1", "--adopt"]).unwrap();
    let set = tree.cut_at("l1");
    tree.reaches("p", "vol", set, LONG);
    let in_step = clock.passed();
    eprintln!("{told}in step after {in_step:?}, {asked:?} of it for the command");
    sent_at_most(&tree, "l1", "p", RUNS);
    assert!(!tree.log("p").contains("a seed begins"), "p was seeded");
    same_export(&tree, &format!("vol@{set}"), "l1", "p");
    let tip = tree.volume("p", "vol").unwrap().branches.pop().expect("a branch");
    let mut qemu = tool("qemu-img", "qemu-utils").expect("it was there");
    qemu.args(["compare", "-f", "raw", "-F", "raw"]);
    qemu.arg(tree.unix_uri("p", &format!("vol@branch:{}", tip.name))).arg(&held);
    run(&mut qemu);
    eprintln!("{tip:?}");
}
