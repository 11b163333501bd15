//! Replicas of a sparse volume of 64 GiB, compared by digest: the whole command, from its start as a
//! process to its end; and the same after every replica has read all that it holds.

use std::path::Path;
use std::process::Command;

use super::report::Report;
use super::tree::{DEADLINE, Plan, Tree, VOLUME};
use super::{GIB, MIB, Options, facts, fill, process};

const TITLE: &str = "`rcpctl verify`, 16 replicas of 64 GiB, sparse";
const SIZE: u64 = 64 * GIB;
const SAVE: u64 = 128 * MIB;
const REPLICAS: usize = 16;
/// What is written, in pieces over all of the volume.
const WRITTEN: u64 = 64 * MIB;
const PIECE: u64 = 64 << 10;
/// Most milliseconds that a comparison may take.
const MOST: f64 = 100.0;

pub(super) fn measure(root: &Path, o: &Options, report: &mut Report) -> anyhow::Result<()> {
    let needed = (REPLICAS as u64 + 1) * (SAVE + 2 * WRITTEN + 64 * MIB);
    if facts::free(root) < needed {
        report.note(format!("{TITLE}: needs {} GiB free; left out", needed / GIB + 1));
        return Ok(());
    }
    let mut tree = Tree::start(root, &Plan::new(SIZE, SAVE, REPLICAS, false))?;
    write(&tree)?;
    let set = tree.cut()?.set;
    tree.merged_everywhere(set)?;
    let row = format!("{} MiB written", WRITTEN / MIB);
    for run in 0..o.runs {
        eprintln!("verify: run {}", run + 1);
        report.add(TITLE, "ms", &row, "by digest", verify(&tree, &[])? * 1e3);
    }
    let deep = verify(&tree, &["--deep", "--rate", "1GiB/s"])?;
    report.add(TITLE, "ms", &row, "after reading all of each", deep * 1e3);
    report.bound(TITLE, &row, "by digest", MOST);
    tree.end()
}

/// Noise in pieces at equal distances.
fn write(tree: &Tree) -> anyhow::Result<()> {
    let mut c = node::nbd::Client::unix(&tree.nbd(), VOLUME, DEADLINE)?;
    let mut noise = fill::Noise::new(1);
    let mut buf = vec![0; usize::try_from(PIECE)?];
    let pieces = WRITTEN / PIECE;
    for i in 0..pieces {
        noise.fill(&mut buf);
        c.write(i * (SIZE / pieces), &buf, false)?;
    }
    Ok(())
}

/// Seconds that the command takes, which must find all equal.
fn verify(tree: &Tree, more: &[&str]) -> anyhow::Result<f64> {
    let mut c = Command::new(std::env::current_exe()?);
    c.args(["rcpctl", "verify", VOLUME, "--topology"]).arg(tree.topology()).args(more);
    let began = process::now();
    let out = c.output()?;
    let took = process::now() - began;
    let said = String::from_utf8_lossy(&out.stdout);
    let equal = said.lines().filter(|l| l.contains(" equal ")).count();
    anyhow::ensure!(
        out.status.success() && equal == REPLICAS,
        "{equal} of {REPLICAS} are equal: {said}{}",
        String::from_utf8_lossy(&out.stderr)
    );
    Ok(took)
}
