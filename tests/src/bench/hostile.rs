//! (e) A stream with hostile peers beside it.
//!
//! One set goes from a primary to its child, from the cut to durable there, in turns alone and
//! beside a process that holds 10,000 connections to both which say nothing, makes several hundred
//! new ones a second, and knocks with lying frames, torn TLS and requests whose answers it does not
//! read. The primary's and the child's peak memory stand beside it.

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

use crate::rig::{Crowd, connect_from, many_descriptors};

use super::process::{self, Process};
use super::report::Report;
use super::tree::{Plan, Tree, VOLUME};
use super::{GIB, MIB, Options, facts, fill, memory};

const TITLE: &str = "A stream beside hostile peers";
const MEMORY: &str = "Peak memory beside hostile peers";
const ALONE: &str = "alone";
const BESIDE: &str = "beside them";
/// Connections that say nothing, at one time.
const SILENT: usize = 10_000;
/// New connections a second, beyond those.
const NEW: usize = 400;
/// Answers that are not read, at one time.
const GREEDY: usize = 32;
const TICK: Duration = Duration::from_millis(100);

/// Whom to molest.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Args {
    #[arg(long)]
    at: Vec<SocketAddr>,
}

/// Molests until it is killed.
pub(super) fn main(args: &Args) -> anyhow::Result<()> {
    let most = usize::try_from(many_descriptors()).unwrap_or(usize::MAX);
    anyhow::ensure!(most > SILENT + 1000, "{most} descriptors are too few: ulimit -n 20000");
    let mut crowds: Vec<_> = args.at.iter().map(|at| (*at, Crowd::default())).collect();
    let share = SILENT / crowds.len().max(1);
    for (at, crowd) in &mut crowds {
        crowd.knock(*at, share);
    }
    println!("ready");
    let mut greedy: Vec<TcpStream> = Vec::new();
    let mut round = 0_usize;
    loop {
        let began = process::now();
        for (at, crowd) in &mut crowds {
            crowd.turn_over(*at, NEW / 10 / args.at.len().max(1));
            for sent in tricks(round) {
                if let Ok(mut s) = connect_from(Ipv4Addr::new(127, 2, 0, 1), *at) {
                    let _ = s.write_all(&sent);
                }
            }
            if let Ok(mut s) = connect_from(Ipv4Addr::new(127, 3, 0, 1), *at) {
                let _ = s.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
                greedy.push(s);
            }
        }
        let over = greedy.len().saturating_sub(GREEDY);
        greedy.drain(..over);
        round += 1;
        let took = Duration::from_secs_f64((process::now() - began).max(0.0));
        std::thread::sleep(TICK.saturating_sub(took));
    }
}

/// What is sent, a little different each time.
fn tricks(round: usize) -> Vec<Vec<u8>> {
    let kind = u8::try_from(round % 256).unwrap_or(0);
    let mut frame = format!("OPEN {} RCP/1.0\r\n", super::tree::GROUP).into_bytes();
    let header = frame.len();
    frame.extend_from_slice(&[0xff; 16]);
    frame[header + 1] = kind;
    let mut hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec();
    hello.extend_from_slice(&[kind; 200]);
    vec![frame, hello, vec![kind; 4096]]
}

pub(super) fn measure(root: &Path, o: &Options, report: &mut Report) -> anyhow::Result<()> {
    let len = o.hostile_mib * MIB;
    let row = format!("{} MiB to one child, durable", o.hostile_mib);
    if facts::free(root) < 8 * len {
        report.note(format!("{TITLE}: needs {} GiB free; left out", 8 * len / GIB));
        return Ok(());
    }
    let mut tree =
        Tree::start(root, &Plan { size: len, save: 2 * len, children: 1, sinks: false })?;
    tree.until("the child has made its replica", |t| t.volume(Some(0)).is_some().then_some(()))?;
    let mut seed = 0;
    for run in 0..o.runs {
        // Which of the two comes first changes.
        for beside in [run % 2 == 1, run % 2 == 0] {
            let column = if beside { BESIDE } else { ALONE };
            eprintln!("hostile: run {} of {}, {column}", run + 1, o.runs);
            let crowd = beside.then(|| molest(&tree, root)).transpose()?;
            seed += 1;
            fill::export(&tree.nbd(), VOLUME, len, seed)?;
            process::settle();
            let set = tree.cut()?.set;
            let cut = process::now();
            let saved = tree.saved_everywhere(set)? - cut;
            tree.merged_everywhere(set)?;
            drop(crowd);
            report.add(TITLE, "MB/s", &row, column, len as f64 / saved / 1e6);
            if beside {
                for (name, pid) in
                    [("primary", tree.primary_pid()), ("child", tree.leaves[0].0.pid())]
                {
                    report.add(MEMORY, "MiB", &row, name, memory::peak(pid)? as f64);
                }
            }
        }
    }
    report.ratio(TITLE, &row, (BESIDE, ALONE), 0.9, true);
    for name in ["primary", "child"] {
        report.bound(MEMORY, &row, name, memory::MOST as f64);
    }
    tree.end()
}

fn molest(tree: &Tree, root: &Path) -> anyhow::Result<Process> {
    let mut c = process::ourselves()?;
    c.arg("crowd");
    for at in &tree.addrs {
        c.args(["--at", at]);
    }
    let p = Process::start(&mut c, &root.join("crowd.log"), true)?;
    anyhow::ensure!(p.line(Duration::from_secs(120))? == "ready", "the crowd is not ready");
    Ok(p)
}
