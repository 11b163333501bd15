//! How long a client cannot write while its volume is handed to another node by a planned swap, with
//! 64 MiB that nobody else has yet, and with nothing but its own writes.
//!
//! The client writes one block after the other, each with a number of its own, and waits for every
//! answer; when its connection ends, or it is refused, it looks for the writer at both nodes and says
//! the same write again. Its pause is the longest time between two answers. After each swap every
//! block must hold the last number that was acknowledged for it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context;
use node::nbd::Client;

use super::report::Report;
use super::tree::{DEADLINE, Plan, Tree, VOLUME};
use super::{MIB, Options, fill, process};

const TITLE: &str = "planned swap, a client's longest pause";
const SIZE: u64 = 256 * MIB;
const SAVE: u64 = 512 * MIB;
const DIRTY: u64 = 64 * MIB;
const BLOCK: usize = 4096;
/// Blocks that the client writes in turn; what is dirty besides lies behind them.
const REGISTERS: u64 = 256;
/// Swaps of one run.
const SWAPS: usize = 10;
/// Most milliseconds of the 99th percentile.
const MOST: f64 = 1000.0;
/// How long the client has been at it when the swap begins.
const BEFORE: Duration = Duration::from_millis(200);
/// How often a client that lost its writer looks for it.
const LOOK: Duration = Duration::from_millis(5);

pub(super) fn measure(root: &Path, o: &Options, report: &mut Report) -> anyhow::Result<()> {
    let mut tree = Tree::start(root, &Plan::new(SIZE, SAVE, 1, false))?;
    let sockets = [tree.nbd(), tree.leaf_nbd(1)];
    let names = [super::tree::PRIMARY.to_owned(), super::tree::leaf(1)];
    fill::export(&sockets[0], VOLUME, SIZE, 1)?;
    let set = tree.cut()?.set;
    tree.merged_everywhere(set)?;
    let topology = tree.topology();
    let mut client = Registers::new(sockets.clone());
    let mut holder = 0;
    for (row, dirty) in [("64 MiB dirty", DIRTY), ("only what it writes", 0)] {
        let mut all = Vec::new();
        for swap in 0..o.runs * SWAPS {
            eprintln!("swap: {row}: {} of {}", swap + 1, o.runs * SWAPS);
            make_dirty(&sockets[holder], dirty, swap as u64)?;
            let to = 1 - holder;
            let pause = client.over(|| hand_over(&topology, &names[to]))?;
            holder = to;
            client.check(&sockets[holder])?;
            report.add(TITLE, "ms", row, "pause", pause * 1e3);
            all.push(pause * 1e3);
        }
        all.sort_by(f64::total_cmp);
        let p99 = all[(all.len() * 99).div_ceil(100) - 1];
        report.add(TITLE, "ms", row, "99th percentile", p99);
        report.bound(TITLE, row, "99th percentile", MOST);
    }
    report.note(format!(
        "{TITLE}: {} writes were acknowledged, and none is missing; {} had to be said again",
        client.acknowledged, client.again
    ));
    tree.end()
}

/// Content that no other node has.
fn make_dirty(socket: &Path, len: u64, seed: u64) -> anyhow::Result<()> {
    let mut c = Client::unix(socket, VOLUME, DEADLINE)?;
    let mut noise = fill::Noise::new(seed + 2);
    let mut buf = vec![0; usize::try_from(MIB)?];
    for at in 0..len / MIB {
        noise.fill(&mut buf);
        c.write((at + 1) * MIB, &buf, false)?;
    }
    Ok(())
}

/// The whole command, as an operator says it.
fn hand_over(topology: &Path, to: &str) -> anyhow::Result<()> {
    let mut c = Command::new(std::env::current_exe()?);
    c.args(["rcpctl", "failover", VOLUME, "--sync", "--to", to, "--topology"]).arg(topology);
    process::run(&mut c, DEADLINE).map(drop)
}

/// A client and what it was promised.
struct Registers {
    sockets: [PathBuf; 2],
    /// The number that was acknowledged last, by block.
    holds: Vec<u64>,
    acknowledged: u64,
    /// Writes that had to be said again.
    again: u64,
}

impl Registers {
    fn new(sockets: [PathBuf; 2]) -> Self {
        let holds = vec![0; usize::try_from(REGISTERS).unwrap_or(0)];
        Self { sockets, holds, acknowledged: 0, again: 0 }
    }

    /// Writes while `work` runs, and until the first answer after it; the longest pause, in seconds.
    fn over(&mut self, work: impl FnOnce() -> anyhow::Result<()> + Send) -> anyhow::Result<f64> {
        let over = AtomicBool::new(false);
        std::thread::scope(|s| {
            let working = s.spawn(|| {
                std::thread::sleep(BEFORE);
                let done = work();
                over.store(true, Ordering::SeqCst);
                done
            });
            let pause = self.write_until(&over);
            working.join().map_err(|_| anyhow::anyhow!("the swap panicked"))??;
            pause
        })
    }

    fn write_until(&mut self, over: &AtomicBool) -> anyhow::Result<f64> {
        let end = process::now() + DEADLINE.as_secs_f64();
        let mut client = self.find(end)?;
        let (mut last, mut longest) = (process::now(), 0f64);
        loop {
            let ends = over.load(Ordering::SeqCst);
            let number = self.acknowledged + 1;
            let at = number % REGISTERS;
            while client.write(at * BLOCK as u64, &content(number), false).is_err() {
                self.again += 1;
                client = self.find(end)?;
            }
            self.acknowledged = number;
            self.holds[usize::try_from(at)?] = number;
            let now = process::now();
            longest = longest.max(now - last);
            last = now;
            if ends {
                return Ok(longest);
            }
        }
    }

    /// The node that takes writes.
    fn find(&self, end: f64) -> anyhow::Result<Client> {
        loop {
            for socket in &self.sockets {
                if let Ok(c) = Client::unix(socket, VOLUME, DEADLINE)
                    && !c.announced().read_only()
                {
                    return Ok(c);
                }
            }
            anyhow::ensure!(process::now() < end, "no node takes writes within {DEADLINE:?}");
            std::thread::sleep(LOOK);
        }
    }

    /// Every block holds what was acknowledged for it last.
    fn check(&self, socket: &Path) -> anyhow::Result<()> {
        let mut c = Client::unix(socket, VOLUME, DEADLINE)?;
        let mut found = vec![0; BLOCK];
        for (at, number) in (0u64..).zip(&self.holds).filter(|(_, n)| **n > 0) {
            c.read(at * BLOCK as u64, &mut found)?;
            let is = found.first_chunk().map(|b| u64::from_le_bytes(*b)).context("a number")?;
            anyhow::ensure!(
                found == content(*number),
                "block {at} holds number {is}, and {number} was acknowledged"
            );
        }
        Ok(())
    }
}

fn content(number: u64) -> Vec<u8> {
    let mut block = vec![0; BLOCK];
    fill::Noise::new(number).fill(&mut block);
    block[..8].copy_from_slice(&number.to_le_bytes());
    block
}
