//! (e) One hop over each transport, into a sink in memory, beside the bare libraries.
//!
//! The sender has one core, the receiver another. *A session* has what it sends in memory, as the
//! bare libraries have; *a node* reads it from its save volume and proves it first. The clock runs
//! from the grant of credit to the last chunk that was proved.

use std::io::Write;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::Context;
use rcp::proto::transport::{Congestion, Transport};
use serde_json::Value;

use super::network::{self, Network};
use super::process::{self, Process};
use super::report::Report;
use super::tree::{DEADLINE, Plan, Tree, VOLUME};
use super::{GIB, MIB, Options, bare, fill, peers};
use crate::rig::Authority;

const RATE: &str = "one hop into memory, one core each side";
const CPU: &str = "one hop into memory, processor time";
const SESSION: &str = "a session";
const NODE: &str = "a node";
const BARE: &str = "bare library";
const IPERF: &str = "iperf3";
/// What the session may cost.
const GOAL: f64 = 0.85;

pub(super) fn measure(root: &Path, o: &Options, report: &mut Report) -> anyhow::Result<()> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    anyhow::ensure!(cores >= 2, "`transports` needs two cores, and there is one");
    let len = o.fanout_mib * MIB;
    let iperf = peers::find("iperf3", "iperf3", o, report);
    let pki = root.join("bare-pki");
    Authority::new("bare").write(&pki, &[bare::NAME, super::source::NAME]);
    for &transport in Transport::ALL {
        let row = transport.as_str();
        if !row.contains(&o.only) {
            continue;
        }
        let rig = Rig { root, pki: &pki, network: None, transport, congestion: None };
        let mut plan = Plan::new(len, 3 * len, 1, true);
        (plan.transport, plan.pinned) = (transport, true);
        let mut tree = Tree::start(root, &plan)?;
        for run in 0..o.runs {
            eprintln!("transports: {row}: run {} of {}", run + 1, o.runs);
            fill::export(&tree.nbd(), VOLUME, len, run as u64)?;
            let set = tree.cut()?.set;
            process::settle();
            let pids = tree.pids();
            let cpu = process::cpu_seconds(&pids);
            let took = tree.pour(set)?;
            let cpu = process::cpu_seconds(&pids) - cpu;
            report.add(RATE, "MB/s", row, NODE, len as f64 / took / 1e6);
            report.add(CPU, "s/GiB", row, NODE, cpu / (len as f64 / GIB as f64));
            let (rate, cpu) = session(&rig, o.fanout_mib)?;
            report.add(RATE, "MB/s", row, SESSION, rate / 1e6);
            report.add(CPU, "s/GiB", row, SESSION, cpu);
            if o.no_peers {
                continue;
            }
            let (rate, cpu) = library(&rig, o.fanout_mib)?;
            report.add(RATE, "MB/s", row, BARE, rate / 1e6);
            report.add(CPU, "s/GiB", row, BARE, cpu);
            if let Some(p) = iperf.as_deref().filter(|_| transport == Transport::Tcp) {
                let (rate, cpu) = iperf3(p, &rig, o.seconds)?;
                report.add(RATE, "MB/s", row, IPERF, rate / 1e6);
                report.add(CPU, "s/GiB", row, IPERF, cpu);
            }
        }
        report.ratio(RATE, row, (SESSION, BARE), GOAL, true);
        report.ratio(RATE, row, (SESSION, IPERF), GOAL, true);
        report.ratio(CPU, row, (SESSION, BARE), 1.0 / GOAL, false);
        report.ratio(RATE, row, (NODE, BARE), GOAL, true);
        tree.end()?;
    }
    Ok(())
}

/// Where and how the bare programs run.
pub(super) struct Rig<'a> {
    pub(super) root: &'a Path,
    pub(super) pki: &'a Path,
    /// In namespaces; else on loopback, each on a core of its own.
    pub(super) network: Option<&'a Network>,
    pub(super) transport: Transport,
    pub(super) congestion: Option<Congestion>,
}

impl Rig<'_> {
    /// A program of the sender (0) or of the receiver (1).
    fn program(&self, side: usize, program: &Path) -> Command {
        match self.network {
            None => process::on_core(side, program),
            Some(net) => network::within(net.name(side), program),
        }
    }

    /// Where the receiver listens.
    fn address(&self) -> anyhow::Result<SocketAddr> {
        Ok(match self.network {
            None => TcpListener::bind("127.0.0.1:0")?.local_addr()?,
            Some(_) => SocketAddr::new(Network::address(1).parse()?, 7102),
        })
    }
}

/// Bytes per second, and CPU-seconds per GiB, of a session from memory into memory.
fn session(rig: &Rig<'_>, mib: u64) -> anyhow::Result<(f64, f64)> {
    let at = rig.address()?.to_string();
    let log = rig.root.join("session.log");
    let part = |side: usize, name: &str| -> anyhow::Result<Command> {
        let mut c = rig.program(side, &std::env::current_exe()?);
        c.args([name, "--node", bare::NAME, "--group", "bench"]);
        c.args(["--transport", rig.transport.as_str(), "--pki"]).arg(rig.pki);
        Ok(c)
    };
    let mut sink = Process::start(part(1, "sink")?.args(["--listen", &at]), &log, true)?;
    let ready = |p: &Process| -> anyhow::Result<()> {
        let said = p.line(DEADLINE).with_context(|| log.display().to_string())?;
        anyhow::ensure!(said == "ready", "{}", log.display());
        Ok(())
    };
    ready(&sink)?;
    let mut c = part(0, "source")?;
    c.args(["--to", &at, "--mib", &mib.to_string()]);
    let source = Process::start(&mut c, &log, true)?;
    ready(&source)?;
    let pids = [sink.pid(), source.pid()];
    let cpu = process::cpu_seconds(&pids);
    let began = process::now();
    sink.stdin.as_mut().context("a sink's input")?.write_all(b"go\n")?;
    while !sink.line(DEADLINE)?.starts_with("end ") {}
    let (took, cpu) = (process::now() - began, process::cpu_seconds(&pids) - cpu);
    let bytes = (mib * MIB) as f64;
    Ok((bytes / took, cpu / (bytes / GIB as f64)))
}

/// Bytes per second, and CPU-seconds per GiB, of a bare library.
pub(super) fn library(rig: &Rig<'_>, mib: u64) -> anyhow::Result<(f64, f64)> {
    let at = rig.address()?.to_string();
    let log = rig.root.join("bare.log");
    let program = |side: usize| -> anyhow::Result<Command> {
        let mut c = rig.program(side, &std::env::current_exe()?);
        c.args(["bare", "--transport", rig.transport.as_str(), "--mib", &mib.to_string()]);
        if let Some(congestion) = rig.congestion {
            c.args(["--congestion", congestion.as_str()]);
        }
        c.arg("--pki").arg(rig.pki);
        Ok(c)
    };
    let before = process::cpu_seconds(&[]);
    let sink = Process::start(program(1)?.args(["--listen", &at]), &log, true)?;
    anyhow::ensure!(sink.line(DEADLINE)? == "ready", "{}", log.display());
    let source = Process::start(program(0)?.args(["--to", &at]), &log, false)?;
    let line = sink.line(DEADLINE)?;
    source.wait(Duration::from_secs(90))?;
    sink.wait(Duration::from_secs(90))?;
    let cpu = process::cpu_seconds(&[]) - before;
    let (bytes, secs) = line.split_once(' ').context("BYTES SECONDS")?;
    let (bytes, secs): (f64, f64) = (bytes.parse()?, secs.parse()?);
    Ok((bytes / secs, cpu / (bytes / GIB as f64)))
}

/// The same of iperf3.
pub(super) fn iperf3(program: &Path, rig: &Rig<'_>, secs: u64) -> anyhow::Result<(f64, f64)> {
    let at = rig.address()?;
    let (ip, port) = (at.ip().to_string(), at.port().to_string());
    let before = process::cpu_seconds(&[]);
    let mut c = rig.program(1, program);
    c.args(["-s", "-1", "-B", &ip, "-p", &port]);
    let server = Process::start(&mut c, &rig.root.join("iperf3.log"), false)?;
    std::thread::sleep(Duration::from_millis(300));
    let mut c = rig.program(0, program);
    c.args(["-c", &ip, "-p", &port, "-J", "-t", &secs.to_string()]);
    if let Some(congestion) = rig.congestion {
        c.args(["-C", congestion.as_str()]);
    }
    let text = process::run(&mut c, Duration::from_secs(secs + 60))?;
    server.wait(Duration::from_secs(20))?;
    let v: Value = serde_json::from_str(&text).context("iperf3's answer")?;
    let sum = &v["end"]["sum_received"];
    let rate = sum["bits_per_second"].as_f64().context("iperf3's rate")? / 8.0;
    let bytes = sum["bytes"].as_f64().context("iperf3's bytes")?;
    Ok((rate, (process::cpu_seconds(&[]) - before) / (bytes / GIB as f64)))
}
