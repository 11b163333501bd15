//! (a) The NBD front end.
//!
//! *Capture off* is the same server over the plain file: the product has no switch that lets
//! writes pass unmarked; *synced*, that file is made durable every second, as a cut makes what was
//! written before it durable. *On* is a volume without cuts; *1 s cuts* the same volume while it
//! makes sets, which nobody takes.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use super::fio::{self, Load};
use super::process::{self, Process};
use super::report::Report;
use super::tree::{Plan, Tree, VOLUME};
use super::{MIB, Options, peers};

const TITLE: &str = "NBD, requests per second";
const LATENCY: &str = "NBD, 99th percentile of latency";
const CPU: &str = "NBD, processor time of the server";
const STREAM: &str = "NBD, 1 MiB sequential";
const OFF: &str = "off";
const SYNCED: &str = "off, synced";
const ON: &str = "on";
const CUTS: &str = "1 s cuts";
const NBDKIT: &str = "nbdkit file";
const QEMU: &str = "qemu-nbd";

const fn load(name: &'static str, rw: &'static str, depth: u32, fsync: u32) -> Load {
    Load { name, rw, bs: "4k", depth, fsync }
}

const LOADS: [Load; 11] = [
    load("4k write QD 1", "randwrite", 1, 0),
    load("4k write QD 16", "randwrite", 16, 0),
    load("4k write QD 64", "randwrite", 64, 0),
    load("4k write QD 1 fsync=32", "randwrite", 1, 32),
    load("4k write QD 16 fsync=32", "randwrite", 16, 32),
    load("4k write QD 64 fsync=32", "randwrite", 64, 32),
    load("4k read QD 1", "randread", 1, 0),
    load("4k read QD 16", "randread", 16, 0),
    load("4k read QD 64", "randread", 64, 0),
    Load { name: "1M write QD 4", rw: "write", bs: "1m", depth: 4, fsync: 0 },
    Load { name: "1M read QD 4", rw: "read", bs: "1m", depth: 4, fsync: 0 },
];

/// Serves a file: what our server does without a volume. `sync`: makes it durable every second.
pub(super) fn serve_file(file: &Path, socket: &Path, sync: bool) -> anyhow::Result<()> {
    let export = Arc::new(node::nbd::FileExport::open(file, false)?);
    let config = node::nbd::ServerConfig {
        unix: vec![socket.to_owned()],
        ..node::nbd::ServerConfig::default()
    };
    let _server = node::nbd::Server::start(&config, node::nbd::FixedExports::one(VOLUME, export))?;
    let file = std::fs::File::open(file)?;
    loop {
        std::thread::sleep(Duration::from_secs(1));
        if sync {
            file.sync_data()?;
        }
    }
}

/// One server with its file.
struct Contestant {
    name: &'static str,
    uri: String,
    process: Option<Process>,
}

fn uri(socket: &Path, export: &str) -> String {
    format!("nbd+unix:///{export}?socket={}", socket.display())
}

fn serve(
    dir: &Path,
    name: &'static str,
    size: u64,
    export: &str,
    command: impl FnOnce(&Path, &Path) -> anyhow::Result<Command>,
) -> anyhow::Result<Contestant> {
    let plain: String = name.chars().filter(char::is_ascii_alphanumeric).collect();
    let (file, socket) = (dir.join(format!("{plain}.raw")), dir.join(format!("{plain}.sock")));
    std::fs::File::create(&file)?.set_len(size)?;
    let process = Process::start(&mut command(&file, &socket)?, &dir.join("servers.log"), false)?;
    let end = process::now() + 10.0;
    while std::os::unix::net::UnixStream::connect(&socket).is_err() {
        anyhow::ensure!(process::now() < end, "{name} does not come up");
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(Contestant { name, uri: uri(&socket, export), process: Some(process) })
}

fn peers_of(
    dir: &Path,
    size: u64,
    o: &Options,
    report: &mut Report,
) -> anyhow::Result<Vec<Contestant>> {
    let mut all = Vec::new();
    if let Some(program) = peers::find("nbdkit", "nbdkit", o, report) {
        all.push(serve(dir, NBDKIT, size, "", |file, socket| {
            let mut c = Command::new(program);
            c.args(["-f", "-U"]).arg(socket).arg("file").arg(file);
            Ok(c)
        })?);
    }
    if let Some(program) = peers::find("qemu-nbd", "qemu-utils", o, report) {
        all.push(serve(dir, QEMU, size, "", |file, socket| {
            let mut c = Command::new(program);
            c.args(["-f", "raw", "-t", "-e", "16", "--cache=writeback", "-k"]);
            c.arg(socket).arg(file);
            Ok(c)
        })?);
    }
    Ok(all)
}

pub(super) fn measure(root: &Path, o: &Options, report: &mut Report) -> anyhow::Result<()> {
    let Some(program) = peers::find("fio", "fio", o, report) else { return Ok(()) };
    report.note(
        "capture off is our NBD server over the plain file (there is no switch that lets a \
         volume's writes pass unmarked); fsync=32 changes nothing for reads, which are therefore \
         measured once",
    );
    let (dir, size) = (root.join("nbd"), o.nbd_mib * MIB);
    std::fs::create_dir_all(&dir)?;
    let mut all = peers_of(&dir, size, o, report)?;
    for name in [SYNCED, OFF] {
        let server = serve(&dir, name, size, VOLUME, |file, socket| {
            let mut c = process::ourselves()?;
            c.arg("nbd-file").arg(file).arg(socket);
            if name == SYNCED {
                c.arg("--sync");
            }
            Ok(c)
        })?;
        all.insert(0, server);
    }
    let plan = Plan::new(size, 2 * size, 0, false);
    let mut tree = Tree::start(&dir, &plan)?;
    let socket: PathBuf = tree.nbd();
    // Everybody's file is filled through its server, in blocks: large writes would leave large
    // folios in the page cache, in which ext4 then searches for every small write.
    for c in &all {
        fio::fill(&program, &c.uri, size)?;
    }
    // Twice round the save volume: a file that was only allocated syncs slower than one written.
    for _ in 0..3 {
        fio::fill(&program, &uri(&socket, VOLUME), size)?;
        tree.cut()?;
    }
    for name in [CUTS, ON] {
        all.insert(1, Contestant { name, uri: uri(&socket, VOLUME), process: None });
    }
    process::settle();
    let loads: Vec<_> = LOADS.iter().filter(|l| l.name.contains(&o.only)).collect();
    for run in 0..o.runs {
        for l in &loads {
            for c in &all {
                eprintln!("nbd: run {} of {}: {}: {}", run + 1, o.runs, l.name, c.name);
                if c.name == CUTS {
                    tree.cut_every(Some(Duration::from_secs(1)))?;
                }
                let pid = c.process.as_ref().map_or(tree.primary_pid(), Process::pid);
                let cpu = process::cpu_of(pid);
                let result = fio::nbd(&program, &c.uri, l, size, o.seconds)?;
                let cpu = process::cpu_of(pid) - cpu;
                if c.name == CUTS {
                    tree.cut_every(None)?;
                }
                // Nothing is left over for whoever comes next.
                if c.name == CUTS || c.name == ON {
                    tree.cut()?;
                }
                process::settle();
                if l.bs == "4k" {
                    report.add(TITLE, "1/s", l.name, c.name, result.iops);
                    report.add(CPU, "µs per request", l.name, c.name, cpu * 1e6 / result.requests);
                    report.add(LATENCY, "µs", l.name, c.name, result.p99_us);
                } else {
                    report.add(STREAM, "MB/s", l.name, c.name, result.mbps);
                }
            }
        }
    }
    for l in &loads {
        let title = if l.bs == "4k" { TITLE } else { STREAM };
        report.ratio(title, l.name, (OFF, NBDKIT), 0.8, true);
        if l.depth == 16 {
            report.ratio(title, l.name, (OFF, QEMU), 2.0, true);
        }
        report.ratio(title, l.name, (CUTS, OFF), 0.9, true);
        if l.rw.contains("write") {
            report.ratio(title, l.name, (CUTS, SYNCED), 0.9, true);
        }
    }
    if let Some(v) = tree.volume(None) {
        let pause = v.longest_pause_us as f64;
        report.add("NBD, longest pause of writers by a cut", "µs", "all loads", CUTS, pause);
    }
    tree.until("the last set is finished", |t| (t.volume(None)?.dirty_bytes == 0).then_some(()))?;
    tree.end()?;
    drop(all);
    std::fs::remove_dir_all(dir)?;
    Ok(())
}
