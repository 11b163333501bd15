//! (d) Memory while much flows and one child is stopped: what a node may hold is bounded.
//!
//! Four GiB are written to a primary with three children, a cut every second; one child is stopped
//! (SIGSTOP) all the while, so that what it lacks piles up above it. Shown is the peak resident size
//! of every process (`VmHWM`).

use std::path::Path;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use super::report::Report;
use super::tree::{DEADLINE, Plan, Tree, VOLUME};
use super::{GIB, MIB, Options, facts, fill};

const TITLE: &str = "Peak memory, one of three children stopped";
/// What the topology gives a node unless it says otherwise.
const CONFIGURED: u64 = 256;
/// What the program itself may take beyond that.
const BEYOND: u64 = 32;
/// What a node may have at most, in MiB.
pub(super) const MOST: u64 = CONFIGURED + BEYOND;
const SIZE: u64 = GIB;
const SAVE: u64 = 256 * MIB;

pub(super) fn measure(root: &Path, o: &Options, report: &mut Report) -> anyhow::Result<()> {
    let needed = 4 * (SIZE + SAVE) + 4 * GIB;
    if facts::free(root) < needed {
        report.note(format!("{TITLE}: needs {} GiB free; left out", needed / GIB));
        return Ok(());
    }
    let row = format!("{} MiB written", o.memory_mib);
    for run in 0..o.runs.min(3) {
        eprintln!("memory: run {}", run + 1);
        let plan = Plan { size: SIZE, save: SAVE, children: 3, sinks: false };
        let mut tree = Tree::start(root, &plan)?;
        tree.cut_every(Some(Duration::from_secs(1)))?;
        let stopped = tree.leaves[2].0.pid();
        signal(stopped, Signal::STOP)?;
        let written = write(&tree, o.memory_mib * MIB, run as u64);
        let peaks: Vec<(String, anyhow::Result<u64>)> = [
            ("primary", tree.primary_pid()),
            ("child", tree.leaves[0].0.pid()),
            ("other child", tree.leaves[1].0.pid()),
        ]
        .map(|(name, pid)| (name.to_owned(), peak(pid)))
        .into();
        signal(stopped, Signal::CONT)?;
        written?;
        // It comes back, and all agree in the end.
        let set = tree.cut()?.set;
        tree.visible_everywhere(set)?;
        let back = peak(stopped)?;
        for (name, mib) in peaks {
            report.add(TITLE, "MiB", &row, &name, mib? as f64);
        }
        report.add(TITLE, "MiB", &row, "the stopped one, once it is back", back as f64);
        tree.end()?;
    }
    for column in ["primary", "child", "other child", "the stopped one, once it is back"] {
        report.bound(TITLE, &row, column, MOST as f64);
    }
    Ok(())
}

fn signal(pid: u32, signal: Signal) -> anyhow::Result<()> {
    let pid = Pid::from_raw(i32::try_from(pid)?);
    let pid = pid.ok_or_else(|| anyhow::anyhow!("no process"))?;
    Ok(kill_process(pid, signal)?)
}

/// Writes `bytes` of noise, once round the volume after the other.
fn write(tree: &Tree, bytes: u64, run: u64) -> anyhow::Result<()> {
    let mut c = node::nbd::Client::unix(&tree.nbd(), VOLUME, DEADLINE)?;
    let mut noise = fill::Noise::new(run);
    let mut buf = vec![0; usize::try_from(MIB)?];
    for i in 0..bytes / MIB {
        noise.fill(&mut buf);
        c.write(i * MIB % SIZE, &buf, false)?;
    }
    Ok(())
}

/// Peak resident size of a process in MiB.
pub(super) fn peak(pid: u32) -> anyhow::Result<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = text.lines().find_map(|l| l.strip_prefix("VmHWM:"));
    let kib = line.and_then(|l| l.trim().trim_end_matches(" kB").parse::<u64>().ok());
    kib.map(|k| k / 1024).ok_or_else(|| anyhow::anyhow!("process {pid} has no VmHWM"))
}
