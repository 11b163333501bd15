//! Runs seeds of the simulation: `sim --seeds N --from M`, or one in full: `sim --seed N --verbose`.

use clap::Parser;
use tests::sim::{Counters, run, run_plain};

#[derive(Parser)]
struct Args {
    /// One seed.
    #[arg(long)]
    seed: Option<u64>,
    /// How many seeds.
    #[arg(long, default_value_t = 100)]
    seeds: u64,
    /// The first of them.
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// Say everything that happens.
    #[arg(long)]
    verbose: bool,
    /// Without policies for full save volumes: as the list of seeds that once failed has it.
    #[arg(long)]
    plain: bool,
    /// Go on after a failure.
    #[arg(long)]
    all: bool,
    /// One line per failure.
    #[arg(long)]
    short: bool,
}

fn main() {
    let args = Args::parse();
    let (from, to) = args.seed.map_or((args.from, args.from + args.seeds), |s| (s, s + 1));
    let mut counters = Counters::default();
    let mut failed = 0;
    for seed in from..to {
        let one = if args.plain { run_plain } else { run };
        match one(seed, args.verbose) {
            Ok(c) => counters.merge(&c),
            Err(f) => {
                failed += 1;
                if args.short {
                    println!("seed {seed}: {}", f.text);
                } else {
                    println!("{f}\n");
                }
                if !args.all {
                    break;
                }
            }
        }
    }
    print!("{counters}");
    println!("{failed} of {} seeds failed", to - from);
    std::process::exit(i32::from(failed > 0));
}
