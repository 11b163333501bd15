//! A seeded simulation of a whole tree: real movers, volumes and sessions on one thread, in virtual
//! time, over disks that forget and links that break.
//!
//! | file | what it is |
//! |---|---|
//! | `options` | what a seed decides beforehand |
//! | `world` | time, events, and the carrying out of effects |
//! | `wires` | connections between movers |
//! | `node` | one node through its lives |
//! | `disk`, `link`, `rng` | what it stands on |
//! | `clocks` | what the nodes take for the time of day |
//! | `client` | writers at the primary |
//! | `readers` | readers of replicas and kept states |
//! | `faults` | crashes, cuts, stalls, and an operator |
//! | `orders` | commands said in order, and a crash at each step that they have stored |
//! | `turns` | changes of who the writer is |
//! | `steps` | one blow at one step of the protocol |
//! | `moments` | blows at moments at which little holds |
//! | `model`, `oracle` | what must be true |
//! | `weigh` | what catch-ups may cost |
//! | `report` | counters and failures |
//! | `coverage` | which fault met a node in the middle of what |
//! | `planted` | hunts for bugs that were planted on purpose |

pub mod client;
mod clocks;
pub mod coverage;
pub mod disk;
pub mod faults;
pub mod link;
pub mod model;
mod moments;
pub mod node;
pub mod options;
pub mod oracle;
pub mod orders;
#[cfg(planted)]
pub mod planted;
pub mod readers;
pub mod report;
pub mod rng;
pub mod steps;
pub mod turns;
pub mod weigh;
pub mod wires;
pub mod world;

pub use options::Options;
pub use report::{Counters, Failure};

/// Seeds from here on have disks that fail requests and lose bits as well.
pub const BAD_DISKS: u64 = 1_000_000;

/// Seeds from here on change who the writer is.
pub const TURNS: u64 = 2_000_000;

/// Seeds from here on have forwarders that are away for long, and those below them fed from above.
pub const BYPASS: u64 = 3_000_000;

/// Seeds from here on change who the writer is, by operators who know nothing of each other.
pub const OPERATORS: u64 = 4_000_000;

/// Seeds from here on are struck at moments at which little holds; every other one changes who the
/// writer is.
pub const MOMENTS: u64 = 5_000_000;

/// Seeds from here on have replicas that mirror, and operators who want versions of them; besides,
/// each is of one of the kinds before.
pub const MIRRORS: u64 = 6_000_000;

/// The seeds that CI runs: from which one on, and how many.
const RANGES: [(u64, u64); 7] = [
    (2_000, 300),
    (BAD_DISKS, 100),
    (TURNS, 150),
    (BYPASS, 100),
    (OPERATORS, 100),
    (MOMENTS, 100),
    (MIRRORS, 100),
];

/// All seeds that CI runs, one of each range in turn.
pub fn seeds_of_ci() -> impl Iterator<Item = u64> {
    let most = RANGES.iter().map(|(_, n)| *n).max().unwrap_or(0);
    let each = |i| RANGES.iter().filter(move |(_, n)| i < *n).map(move |(from, _)| from + i);
    (0..most).flat_map(each)
}

/// Runs one seed.
///
/// # Errors
/// The first promise that was broken.
pub fn run(seed: u64, verbose: bool) -> Result<Counters, Box<Failure>> {
    world(seed, verbose, true).run()
}

/// Runs one seed as it was before there were policies for full save volumes: what it once found, it
/// found so.
///
/// # Errors
/// The first promise that was broken.
pub fn run_plain(seed: u64, verbose: bool) -> Result<Counters, Box<Failure>> {
    world(seed, verbose, false).run()
}

fn world(seed: u64, verbose: bool, policies: bool) -> world::World {
    let mut rng = rng::Rng::new(seed);
    let mirrors = seed >= MIRRORS;
    // What else a seed of those is.
    let kind = match seed % 5 {
        _ if !mirrors => seed,
        0 => 0,
        1 => BAD_DISKS,
        2 => TURNS,
        3 => BYPASS,
        _ => OPERATORS,
    };
    let moments = kind >= MOMENTS;
    let operators = kind >= OPERATORS && !moments;
    let bypass = kind >= BYPASS && !operators && !moments;
    let turns = kind >= TURNS && !bypass && (!moments || seed.is_multiple_of(2));
    let bad_disks = kind >= BAD_DISKS && !turns && !bypass && !moments;
    let options = Options::random(&mut rng);
    let mut options = Options { bad_disks, turns, operators, moments, ..options };
    if bypass {
        options.heal(seed);
    } else if turns {
        options.take_turns(seed);
    } else {
        options.extras(seed);
    }
    if policies {
        options.hold_back(seed);
    }
    if mirrors {
        options.mirror(seed);
    }
    world::World::new(seed, options, rng, verbose)
}
