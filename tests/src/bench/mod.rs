//! Measurements beside other programs, in the same run and on the same disk.
//!
//! | name | what | beside |
//! |---|---|---|
//! | `nbd` | requests per second of the NBD front end, capture off, on, and on with 1 s cuts | `qemu-nbd`, `nbdkit file` |
//! | `fanout` | 1 GiB of incompressible data to 1, 4 and 8 children: into memory, and durable | `iperf3`, `fio` |
//! | `delta` | 1% of an image to 1, 4 and 8 replicas, from the demand to visible everywhere | `rsync` |
//! | `transports` | 1 GiB over one hop by TCP, TLS and QUIC, each side on a core of its own | `iperf3`, bare rustls, bare quinn |
//! | `shaped` | one hop over 50 Mbit/s, 1 % loss, 40 ms, by each transport; two hops that mix them (needs root) | `iperf3`, bare rustls, bare quinn |
//! | `hostile` | a stream to one child with 10,000 silent and some noisy strangers beside it | the same alone |
//! | `verify` | 16 replicas of a sparse volume of 64 GiB compared by digest, as a whole command | the bound |
//! | `swap` | the longest pause of a client over a planned swap, with 64 MiB that only the old writer has | the bound |
//! | `memory` | peak memory of every node while 4 GiB flow and one child is stopped | the bound |
//!
//! A figure is the median of the runs with the smallest and the largest; the contestants take
//! turns within each run. What runs is this executable itself (hidden commands), so that nothing
//! else has to be built. Every wait has a deadline, every process is ended with its owner.

mod bare;
mod delta;
mod digest;
mod facts;
mod fanout;
mod fill;
mod fio;
mod hostile;
mod memory;
mod nbd;
mod network;
mod peers;
mod process;
mod report;
mod shaped;
mod sink;
mod source;
mod swap;
mod transports;
mod tree;
mod verify;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::{Parser, Subcommand, ValueEnum};

use report::Report;

/// One mebibyte.
const MIB: u64 = 1 << 20;
/// One gibibyte.
const GIB: u64 = 1 << 30;

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum What {
    /// Everything.
    All,
    /// The NBD front end.
    Nbd,
    /// Fan-out to many children.
    Fanout,
    /// One hop over each transport.
    Transports,
    /// One hop, and two, over links that are slow, lossy and long.
    Shaped,
    /// A small change of a large image.
    Delta,
    /// What the hashes of blocks cost.
    Digest,
    /// Memory under load.
    Memory,
    /// Hostile peers beside a stream.
    Hostile,
    /// Comparing replicas by digest.
    Verify,
    /// Planned swaps under a client.
    Swap,
}

/// Measures, beside other programs, on this machine.
#[derive(Clone, Debug, Parser)]
#[command(name = "bench", args_conflicts_with_subcommands = true)]
struct Args {
    #[command(subcommand)]
    part: Option<Part>,
    /// What to measure.
    #[arg(value_enum, default_value = "all")]
    what: What,
    #[command(flatten)]
    options: Options,
}

/// How it is measured.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// How often; medians are shown.
    #[arg(long, default_value_t = 5)]
    runs: usize,
    /// Seconds of one fio or iperf3 measurement.
    #[arg(long, default_value_t = 2)]
    seconds: u64,
    /// Numbers of children or replicas.
    #[arg(long, value_delimiter = ',', default_value = "1,4,8")]
    children: Vec<usize>,
    /// MiB of the volume for `nbd`.
    #[arg(long, default_value_t = 1024)]
    nbd_mib: u64,
    /// MiB that `fanout` and `transports` deliver to each child.
    #[arg(long, default_value_t = 1024)]
    fanout_mib: u64,
    /// MiB of the image for `delta`.
    #[arg(long, default_value_t = 4096)]
    delta_mib: u64,
    /// MiB of one set for `hostile`.
    #[arg(long, default_value_t = 512)]
    hostile_mib: u64,
    /// MiB written for `memory`.
    #[arg(long, default_value_t = 4096)]
    memory_mib: u64,
    /// Only the rows whose name contains this.
    #[arg(long, default_value = "")]
    only: String,
    /// Leave the other programs out.
    #[arg(long)]
    no_peers: bool,
    /// Write everything as JSON too.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Folder for the data, on the disk to be measured; removed afterwards.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

/// Parts of the measurement that are processes of their own.
#[derive(Clone, Debug, Subcommand)]
enum Part {
    /// A node.
    #[command(hide = true)]
    Node(node::daemon::Args),
    /// A receiver that drops what it gets.
    #[command(hide = true)]
    Sink(sink::Args),
    /// A sender that has everything in memory.
    #[command(hide = true)]
    Source(source::Args),
    /// Holds packets back.
    #[command(hide = true)]
    Delay {
        /// The number of the queue.
        #[arg(long)]
        queue: u16,
        /// For how many milliseconds.
        #[arg(long)]
        ms: u64,
    },
    /// A library without the product around it.
    #[command(hide = true)]
    Bare(bare::Args),
    /// Hostile peers.
    #[command(hide = true)]
    Crowd(hostile::Args),
    /// The operator's command.
    #[command(hide = true, disable_help_flag = true)]
    Rcpctl {
        /// Its words.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        words: Vec<String>,
    },
    /// A file over NBD, without a volume round it.
    #[command(hide = true)]
    NbdFile {
        /// The file.
        file: PathBuf,
        /// Where to listen.
        socket: PathBuf,
        /// Make it durable every second.
        #[arg(long)]
        sync: bool,
    },
}

/// The whole program.
#[must_use]
pub fn main() -> ExitCode {
    let args = Args::parse();
    process::die_with_parent(args.part.is_some());
    let done = match args.part {
        Some(Part::Node(a)) => {
            return match node::daemon::main(&a) {
                0 => ExitCode::SUCCESS,
                _ => ExitCode::FAILURE,
            };
        }
        Some(Part::Sink(a)) => sink::main(&a),
        Some(Part::Source(a)) => source::main(&a),
        Some(Part::Delay { queue, ms }) => network::delay(queue, Duration::from_millis(ms)),
        Some(Part::Rcpctl { words }) => return node::cli::rcpctl::main_with(&words),
        Some(Part::Bare(a)) => bare::main(&a),
        Some(Part::Crowd(a)) => hostile::main(&a),
        Some(Part::NbdFile { file, socket, sync }) => nbd::serve_file(&file, &socket, sync),
        None => measure(args.what, &args.options),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("bench: {e:#}");
            ExitCode::FAILURE
        }
    }
}

fn measure(what: What, o: &Options) -> anyhow::Result<()> {
    anyhow::ensure!(o.runs > 0, "--runs must be at least 1");
    let parent = o.dir.clone().unwrap_or_else(|| PathBuf::from("target"));
    std::fs::create_dir_all(&parent).with_context(|| parent.display().to_string())?;
    let dir = tempfile::Builder::new().prefix("bench-").tempdir_in(&parent)?;
    let root = dir.path().canonicalize()?;
    process::end_in_order(&root)?;
    let mut report = Report::new(facts::machine(&root));
    report.print_facts();
    let wanted = |w: What| what == What::All || what == w;
    let mut section = |w: What, f: fn(&Path, &Options, &mut Report) -> anyhow::Result<()>| {
        if wanted(w) {
            let done = f(&root, o, &mut report);
            report.print_new();
            report.store(o.out.as_deref())?;
            return done;
        }
        Ok(())
    };
    section(What::Nbd, nbd::measure)?;
    section(What::Fanout, fanout::measure)?;
    section(What::Transports, transports::measure)?;
    section(What::Shaped, shaped::measure)?;
    section(What::Delta, delta::measure)?;
    section(What::Digest, digest::measure)?;
    section(What::Memory, memory::measure)?;
    section(What::Hostile, hostile::measure)?;
    section(What::Verify, verify::measure)?;
    section(What::Swap, swap::measure)?;
    report.print_missing();
    Ok(())
}
