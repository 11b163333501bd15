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
//! | `keeps` | states that are to be kept, or whoever wants them is told |
//! | `orders` | commands said in order, and a crash at each step that they have stored |
//! | `turns` | changes of who the writer is |
//! | `steps` | one blow at one step of the protocol |
//! | `aims` | blows at a node that is in the middle of one thing |
//! | `moments` | blows at moments at which little holds |
//! | `model`, `oracle` | what must be true |
//! | `weigh` | what catch-ups may cost |
//! | `report` | counters and failures |
//! | `ci` | the seeds that CI runs, on all cores |
//! | `coverage` | which fault met a node in the middle of what |
//! | `planted` | hunts for bugs that were planted on purpose |

mod aims;
pub mod ci;
pub mod client;
mod clocks;
pub mod coverage;
pub mod disk;
pub mod faults;
mod keeps;
pub mod link;
mod listen;
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
pub mod reread;
pub mod rng;
pub mod steps;
mod streams;
pub mod turns;
mod watch;
pub mod weigh;
pub mod wires;
pub mod world;

pub use ci::seeds_of_ci;
pub use options::Options;
pub use report::{Counters, Failure, Steps};

/// Steps that a run has at the least.
pub const STEPS: u64 = 10_000;

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

/// What a seed ran when it found something: what came later is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Edition {
    /// Before there were policies for full save volumes.
    Plain,
    /// Before short runs were made longer.
    Policies,
    /// As it is.
    Present,
}

/// Seeds from here on strike at a node in the middle of one thing, which they bring about.
pub const AIMED: u64 = 7_000_000;

/// Runs one seed.
///
/// # Errors
/// The first promise that was broken.
pub fn run(seed: u64, verbose: bool) -> Result<Counters, Box<Failure>> {
    run_as(Edition::Present, seed, verbose)
}

/// Runs one seed as it once was: what it found, it found so.
///
/// # Errors
/// The first promise that was broken.
pub fn run_as(edition: Edition, seed: u64, verbose: bool) -> Result<Counters, Box<Failure>> {
    world(seed, verbose, edition).run()
}

fn world(seed: u64, verbose: bool, edition: Edition) -> world::World {
    let mut rng = rng::Rng::new(seed);
    let aim = seed.checked_sub(AIMED);
    let mirrors = seed >= MIRRORS && aim.is_none();
    // What else a seed of those is.
    let kind = match seed % 5 {
        _ if aim.is_some_and(|n| aims::Aim::of(n).turns()) => TURNS,
        _ if aim.is_some_and(|n| aims::Aim::of(n).of_steps()) => BAD_DISKS,
        0..2 if aim.is_some() => BAD_DISKS,
        2..4 if aim.is_some() => BYPASS,
        _ if aim.is_some() => TURNS,
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
    if edition >= Edition::Policies {
        options.hold_back(seed);
    }
    if mirrors {
        options.mirror(seed);
    }
    if let Some(n) = aim {
        options.take_aim(n, seed);
    }
    if edition >= Edition::Present {
        options.steps = STEPS;
        if moments && turns && seed.is_multiple_of(4) {
            options.show_late(seed);
        }
    }
    world::World::new(seed, options, rng, verbose)
}
