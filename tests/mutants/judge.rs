//! Runs seeds with one mutant: a program of a copy of the workspace that has them (`tests/mutants`).
//!
//! `judge note FROM TO`: without any, a sum of what each of those seeds of CI does, and the mutants
//! that it comes past. `judge N SEED:SUM…`: whether one of these finds mutant N, and if not, how many
//! went another way; a test of the simulation may stand for a seed.

use std::hash::{DefaultHasher, Hash, Hasher};

mod orders;
mod slots;
mod steps;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::time::Duration;

use rcp::mutants::{NOTE, choose, met};
use tests::sim::{Counters, run, seeds_of_ci};

/// A seed takes a tenth of a second; one that takes so much longer has found something.
const TOO_LONG: Duration = Duration::from_secs(20);

/// The same of a test, which takes some seconds.
const TEST_TOO_LONG: Duration = Duration::from_secs(300);

/// A whole test of the simulation.
fn test(name: &str) {
    match name {
        "slots" => slots::a_damaged_newest_slot_costs_no_set(),
        "unreadable" => slots::a_set_that_cannot_be_read_behind_an_old_slot_keeps_its_number(),
        "steps" => steps::a_blow_at_every_step_costs_at_most_a_window(),
        "connections" => steps::a_blow_at_every_step_of_several_connections(),
        "failover" => orders::a_crash_at_any_step_of_a_failover(),
        "resync" => orders::a_crash_at_any_step_of_a_resync(),
        _ => orders::a_crash_at_any_step_of_a_failback(),
    }
}

/// How long this program has run on a processor: other programs make no seed too long.
fn used() -> Duration {
    let text = std::fs::read_to_string("/proc/self/schedstat").unwrap_or_default();
    let nanos = text.split_whitespace().next().and_then(|n| n.parse().ok());
    Duration::from_nanos(nanos.unwrap_or(0))
}

/// What is said of a seed, or of a test: the check that spoke, else a sum of what happened.
fn one(seed: &str) -> Result<u64, String> {
    let run = |seed: &str| match seed.parse() {
        Ok(seed) => run(seed, false),
        Err(_) => {
            test(seed);
            Ok(Counters::default())
        }
    };
    match catch_unwind(AssertUnwindSafe(|| run(seed))) {
        Ok(Ok(counters)) => {
            let mut sum = DefaultHasher::new();
            counters.to_string().hash(&mut sum);
            Ok(sum.finish())
        }
        Ok(Err(failure)) => Err(failure.text.replace('\n', " ")),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string));
            Err(format!("a panic: {}", text.unwrap_or_default().replace('\n', " ")))
        }
    }
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    std::panic::set_hook(Box::new(|_| {}));
    if args[0] == "note" {
        let (from, to): (usize, usize) = (args[1].parse().unwrap(), args[2].parse().unwrap());
        for seed in seeds_of_ci().take(to).skip(from) {
            choose(NOTE);
            let began = used();
            let found = one(&seed.to_string());
            let took = (used() - began).as_millis();
            let met: Vec<_> = met().iter().map(ToString::to_string).collect();
            match found {
                Ok(sum) => println!("{seed}:{sum} {took} {}", met.join(" ")),
                Err(why) => println!("{seed} fails without a mutant: {why}"),
            }
        }
        return;
    }
    let id: u32 = args[0].parse().unwrap();
    let now: &'static Mutex<(String, Duration)> = Box::leak(Box::default());
    std::thread::spawn(move || {
        loop {
            std::thread::sleep(Duration::from_secs(1));
            let (seed, began) = now.lock().unwrap().clone();
            let most = if seed.parse::<u64>().is_ok() { TOO_LONG } else { TEST_TOO_LONG };
            if used().saturating_sub(began) > most {
                println!("found {seed} it takes too long");
                std::process::exit(0);
            }
        }
    });
    let mut other = 0;
    choose(id);
    for arg in &args[1..] {
        let (seed, sum) = arg.split_once(':').unwrap_or((arg, ""));
        *now.lock().unwrap() = (seed.to_owned(), used());
        match one(seed) {
            Ok(with) => other += u32::from(with.to_string() != sum),
            Err(why) => {
                println!("found {seed} {why}");
                return;
            }
        }
    }
    println!("alive {other}");
}
