//! Runs seeds of the simulation: `sim --seeds N --from M`, or one in full: `sim --seed N --verbose`.
//! With `--plant NAME` a bug is planted first, and seeds are run until one finds it.

use clap::Parser;
use tests::sim::ci::{Tally, on_all_cores};
use tests::sim::coverage::Table;
use tests::sim::{Edition, Failure, run_as};

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
    /// As the seed was when it found something: `plain`, before there were policies for full save
    /// volumes, or `policies`, before short runs were made longer.
    #[arg(long, value_name = "EDITION")]
    as_of: Option<String>,
    /// Go on after a failure.
    #[arg(long)]
    all: bool,
    /// One line per failure.
    #[arg(long)]
    short: bool,
    /// Say which fault met a node in the middle of what.
    #[arg(long)]
    coverage: bool,
    /// A bug to be planted, or `all`: seeds are run until it is found, those of CI unless `--from`
    /// says otherwise. `tests/docs/simulator.md` says how to build it.
    #[arg(long, value_name = "NAME")]
    plant: Option<String>,
}

fn main() {
    let args = Args::parse();
    if let Some(name) = &args.plant {
        std::process::exit(plant(name, &args));
    }
    let edition = match args.as_of.as_deref() {
        None => Edition::Present,
        Some("policies") => Edition::Policies,
        Some("plain") => Edition::Plain,
        Some(other) => {
            eprintln!("there is no edition `{other}`; choose `plain` or `policies`");
            std::process::exit(2);
        }
    };
    let (from, to) = args.seed.map_or((args.from, args.from + args.seeds), |s| (s, s + 1));
    let mut tally = Tally::default();
    on_all_cores(
        from..to,
        |seed| run_as(edition, seed, args.verbose),
        |seed, ran| {
            if let Err(f) = &ran {
                told(f, args.short);
            }
            let on = ran.is_ok() || args.all;
            tally.add(seed, ran);
            on
        },
    );
    print!("{}", tally.counters);
    if args.coverage {
        print!("{}", Table(&tally.counters.1));
    }
    println!("{}", tally.words());
    let failed = tally.failures.len();
    println!("{failed} of {} seeds failed", tally.steps.len() + failed);
    std::process::exit(i32::from(failed > 0));
}

fn told(f: &Failure, short: bool) {
    match short {
        true => println!("seed {}: {}", f.seed, f.text),
        false => println!("{f}\n"),
    }
}

/// The exit status.
#[cfg(planted)]
fn plant(name: &str, args: &Args) -> i32 {
    use tests::sim::planted::{Bug, blow, hunt, named, seeds_of_ci};
    let bugs = match named(name) {
        Some(bug) => vec![bug],
        None if name == "all" => Bug::ALL.to_vec(),
        None => {
            let names: Vec<_> = Bug::ALL.iter().map(|b| b.name()).collect();
            eprintln!("there is no bug `{name}` to plant; choose `all` or {}", names.join(", "));
            return 2;
        }
    };
    let mut missed = 0;
    for bug in bugs {
        if let Some(seed) = args.seed {
            println!("{}: {}", bug.name(), blow(bug, seed, args.verbose).unwrap_or_default());
            continue;
        }
        let all: Vec<u64> = match args.from {
            0 => seeds_of_ci().take(usize::try_from(args.seeds).unwrap_or(0)).collect(),
            from => (from..from + args.seeds).collect(),
        };
        let h = hunt(bug, all.into_iter());
        match &h.found {
            Some((seed, check)) => {
                println!("{}: found after {} seeds, by {seed}: {check}", bug.name(), h.seeds);
            }
            None => {
                missed += 1;
                println!(
                    "{}: not found in {} seeds, {} of which came past it ({})",
                    bug.name(),
                    h.seeds,
                    h.reached,
                    bug.words()
                );
            }
        }
    }
    i32::from(missed > 0)
}

/// The exit status.
#[cfg(not(planted))]
fn plant(name: &str, _: &Args) -> i32 {
    eprintln!(
        "`{name}` cannot be planted: this program was built without bugs; build it with \
         `RUSTC_WORKSPACE_WRAPPER=$PWD/tests/planted cargo build -p tests --bin sim`"
    );
    2
}
