//! (b) The same bytes to many children.
//!
//! The clock runs from the moment at which the set is finished at the primary: until the sinks
//! have it in memory, until the children have acknowledged it as durable.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::Context;
use serde_json::Value;

use super::process::{self, Process};
use super::report::Report;
use super::tree::{Plan, Tree, VOLUME};
use super::{GIB, MIB, Options, facts, fill, fio, peers};

const MEMORY: &str = "fan-out into memory";
const DURABLE: &str = "fan-out, durable";
const CPU: &str = "fan-out, processor time";
const DETAIL: &str = "fan-out, durable in detail";
const OURS: &str = "ours";
const IPERF: &str = "iperf3, a process per stream";
const FIO: &str = "fio, write and sync";

fn row(n: usize) -> String {
    if n == 1 { "1 child".to_owned() } else { format!("{n} children") }
}

pub(super) fn measure(root: &Path, o: &Options, report: &mut Report) -> anyhow::Result<()> {
    let len = o.fanout_mib * MIB;
    let iperf = peers::find("iperf3", "iperf3", o, report);
    let fio = peers::find("fio", "fio", o, report).filter(|_| !o.no_peers);
    for &n in &o.children {
        if "memory".contains(&o.only) {
            into_memory(root, n, len, iperf.as_deref(), o, report)?;
        }
        if "durable".contains(&o.only) {
            durable(root, n, len, fio.as_deref(), o, report)?;
        }
    }
    Ok(())
}

fn into_memory(
    root: &Path,
    n: usize,
    len: u64,
    iperf: Option<&Path>,
    o: &Options,
    report: &mut Report,
) -> anyhow::Result<()> {
    let row = row(n);
    let delivered = len as f64 * n as f64;
    let mut tree = Tree::start(root, &Plan::new(len, 3 * len, n, true))?;
    for run in 0..o.runs {
        eprintln!("fanout into memory: {row}: run {} of {}", run + 1, o.runs);
        fill::export(&tree.nbd(), VOLUME, len, run as u64)?;
        let set = tree.cut()?.set;
        process::settle();
        let pids = tree.pids();
        let cpu = process::cpu_seconds(&pids);
        let took = tree.pour(set)?;
        let cpu = process::cpu_seconds(&pids) - cpu;
        report.add(MEMORY, "GB/s", &row, OURS, delivered / took / 1e9);
        let what = format!("{row}, into memory");
        report.add(CPU, "s/GiB", &what, OURS, cpu / (delivered / GIB as f64));
        if let Some(p) = iperf {
            let (rate, cpu) = iperf3(p, root, n, o.seconds)?;
            report.add(MEMORY, "GB/s", &row, IPERF, rate / 1e9);
            report.add(CPU, "s/GiB", &what, "peer", cpu);
        }
    }
    report.ratio(MEMORY, &row, (OURS, IPERF), 0.6, true);
    tree.end()
}

/// Bytes per second of all streams together, and CPU-seconds per GiB.
fn iperf3(program: &Path, root: &Path, n: usize, secs: u64) -> anyhow::Result<(f64, f64)> {
    let listeners: Vec<_> =
        (0..n).map(|_| std::net::TcpListener::bind("127.0.0.1:0")).collect::<Result<_, _>>()?;
    let ports: Vec<_> = listeners
        .iter()
        .map(|l| Ok(l.local_addr()?.port().to_string()))
        .collect::<std::io::Result<_>>()?;
    drop(listeners);
    let before = process::cpu_seconds(&[]);
    let mut servers = Vec::new();
    for p in &ports {
        let mut c = Command::new(program);
        c.args(["-s", "-1", "-B", "127.0.0.1", "-p", p]);
        servers.push(Process::start(&mut c, &root.join("iperf3.log"), false)?);
    }
    std::thread::sleep(Duration::from_millis(300));
    let clients: Vec<_> = ports
        .iter()
        .map(|p| {
            let mut c = Command::new(program);
            c.args(["-c", "127.0.0.1", "-p", p, "-J", "-t", &secs.to_string()]);
            std::thread::spawn(move || process::run(&mut c, Duration::from_secs(secs + 60)))
        })
        .collect();
    let (mut rate, mut bytes) = (0.0, 0.0);
    for c in clients {
        let text = c.join().map_err(|_| anyhow::anyhow!("a thread that waits for iperf3"))??;
        let v: Value = serde_json::from_str(&text).context("iperf3's answer")?;
        let sum = &v["end"]["sum_received"];
        rate += sum["bits_per_second"].as_f64().context("iperf3's rate")? / 8.0;
        bytes += sum["bytes"].as_f64().unwrap_or(0.0);
    }
    for s in servers {
        s.wait(Duration::from_secs(20))?;
    }
    Ok((rate, (process::cpu_seconds(&[]) - before) / (bytes / GIB as f64)))
}

fn durable(
    root: &Path,
    n: usize,
    len: u64,
    fio: Option<&Path>,
    o: &Options,
    report: &mut Report,
) -> anyhow::Result<()> {
    let row = row(n);
    let delivered = len as f64 * n as f64;
    // Content and save volume of every node, and what the filling leaves in the primary's.
    let need = (n as u64 + 2) * (len + 2 * len);
    if facts::free(root) < need {
        report.note(format!("{DURABLE}: {row} needs {} GiB free; left out", need / GIB));
        return Ok(());
    }
    for run in 0..o.runs {
        eprintln!("fanout durable: {row}: run {} of {}", run + 1, o.runs);
        // A fresh tree each time, as fio's files are fresh.
        let plan = Plan::new(len, 2 * len, n, false);
        let mut tree = Tree::start(root, &plan)?;
        tree.until("every child has made its replica", |t| {
            (0..n).all(|i| t.volume(Some(i)).is_some()).then_some(())
        })?;
        fill::export(&tree.nbd(), VOLUME, len, run as u64)?;
        process::cool_down();
        let pids = tree.pids();
        let began = process::now();
        let set = tree.cut()?.set;
        let cut = process::now();
        let cpu = process::cpu_seconds(&pids);
        let saved = tree.saved_everywhere(set)? - cut;
        let cpu_saved = process::cpu_seconds(&pids) - cpu;
        let visible = tree.visible_everywhere(set)? - cut;
        let merged = tree.merged_everywhere(set)? - cut;
        let cpu = process::cpu_seconds(&pids) - cpu;
        report.add(DURABLE, "MB/s", &row, OURS, delivered / saved / 1e6);
        for (column, value) in [
            ("cut to set finished, s", cut - began),
            ("saved everywhere, s", saved),
            ("visible everywhere, s", visible),
            ("in the content everywhere, s", merged),
            ("CPU s/GiB with the content", cpu / (delivered / GIB as f64)),
        ] {
            report.add(DETAIL, "from the finished set", &row, column, value);
        }
        let what = format!("{row}, durable");
        report.add(CPU, "s/GiB", &what, OURS, cpu_saved / (delivered / GIB as f64));
        tree.end()?;
        if let Some(p) = fio {
            let before = process::cpu_seconds(&[]);
            let took = fio::files(p, root, n, len)?;
            let cpu = process::cpu_seconds(&[]) - before;
            report.add(DURABLE, "MB/s", &row, FIO, delivered / took / 1e6);
            report.add(CPU, "s/GiB", &what, "peer", cpu / (delivered / GIB as f64));
        }
    }
    report.ratio(DURABLE, &row, (OURS, FIO), 0.7, true);
    Ok(())
}
