//! The campaign: each mutant is run with seeds of CI that come past it, few at first, until one of
//! them finds it.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

use serde_json::{Value, json};

use crate::{Res, read, write};

/// Seeds of CI that are taken, one of each range in turn.
const SEEDS: usize = 400;

/// After so many seeds the next mutant's turn comes, as long as there are any.
const ROUNDS: [usize; 5] = [0, 3, 15, 60, 200];

/// Mutants judged at the same time.
const AT_ONCE: usize = 2;

/// Tests of the simulation, for what no seed finds.
const TESTS: [&str; 7] =
    ["slots", "unreadable", "steps", "connections", "failover", "resync", "failback"];

/// What is known of a mutant.
#[derive(Clone, Debug, Default)]
pub struct State {
    /// Seeds that were run with it.
    pub tried: usize,
    /// How many of them went another way than without it.
    pub other: u64,
    /// What found it.
    pub found: Option<String>,
    /// Tests that did not.
    pub tests: Vec<String>,
}

/// The results so far.
pub fn states(copy: &Path) -> BTreeMap<u32, State> {
    let mut states: BTreeMap<u32, State> = BTreeMap::new();
    for line in read(&copy.join("results.jsonl")).unwrap_or_default().lines() {
        let Ok(v) = serde_json::from_str::<Value>(line) else { continue };
        let s = states.entry(number(&v["id"])).or_default();
        s.tried = s.tried.max(number(&v["tried"]) as usize);
        s.other += u64::from(number(&v["other"]));
        s.found = s.found.take().or(v["found"].as_str().map(str::to_owned));
        s.tests.extend(v["test"].as_str().map(str::to_owned));
    }
    states
}

pub fn number(v: &Value) -> u32 {
    v.as_u64().and_then(|n| u32::try_from(n).ok()).unwrap_or(0)
}

/// The mutants that were built, with their names.
pub fn built(copy: &Path) -> Res<Vec<(u32, String)>> {
    let list = read(&copy.join("mutants.json"))?;
    let list: Vec<Value> = serde_json::from_str(&list).map_err(|e| e.to_string())?;
    let alive = list.iter().filter(|m| m["dead"].is_null());
    Ok(alive.map(|m| (number(&m["id"]), m["name"].as_str().unwrap_or("").to_owned())).collect())
}

fn judge_program(copy: &Path) -> Command {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or(copy.join("target"), PathBuf::from);
    // A mutant that asks for memory without end dies before anything else does.
    let mut c = Command::new("sh");
    c.args(["-c", "ulimit -v 6000000; exec timeout 900 \"$@\"", "sh"]);
    let judge = target.join("debug/judge");
    c.arg(judge.canonicalize().unwrap_or(judge)).current_dir(copy.join("tests"));
    c
}

/// The seeds that come past each mutant, with what they say without any.
pub fn notes(copy: &Path) -> Res<BTreeMap<u32, Vec<String>>> {
    let file = copy.join("notes.txt");
    if !file.exists() {
        let half = |from: usize, to: usize| {
            let mut c = judge_program(copy);
            c.args(["note", &from.to_string(), &to.to_string()]);
            c.output().map_err(|e| format!("judge: {e}"))
        };
        let (second, first) = std::thread::scope(|s| {
            let first = s.spawn(|| half(0, SEEDS / 2));
            (half(SEEDS / 2, SEEDS), first.join())
        });
        let mut all = first.map_err(|_| "a thread died")??.stdout;
        all.extend(second?.stdout);
        write(&file, &String::from_utf8_lossy(&all))?;
    }
    let mut seeds: BTreeMap<u32, Vec<String>> = BTreeMap::new();
    for line in read(&file)?.lines() {
        let mut words = line.split_whitespace();
        let Some(seed) = words.next().filter(|s| s.contains(':')) else {
            return Err(line.to_owned());
        };
        for id in words.skip(1).filter_map(|w| w.parse().ok()) {
            seeds.entry(id).or_default().push(seed.to_owned());
        }
    }
    match seeds.is_empty() {
        true => Err(format!("{}: no seed came past any mutant", file.display())),
        false => Ok(seeds),
    }
}

/// `only` chooses by a part of the name, or, as `1/3`, every third one.
pub fn is_meant(id: u32, name: &str, only: &str) -> bool {
    let part = only.split_once('/').and_then(|(k, n)| Some((k.parse().ok()?, n.parse().ok()?)));
    part.map_or(name.contains(only), |(k, n): (u32, u32)| n > 0 && id % n == k % n)
}

/// Judges those mutants that `only` chooses, and says how it stands.
pub fn judge(copy: &Path, only: &str) -> Res<()> {
    let seeds = notes(copy)?;
    let built = built(copy)?;
    let none = Vec::new();
    for r in ROUNDS.windows(2) {
        let states = states(copy);
        let alive = |id: &u32| states.get(id).is_none_or(|s| s.found.is_none() && s.tried < r[1]);
        let mine = built.iter().filter(|(id, name)| is_meant(*id, name, only) && alive(id));
        let due: Vec<(u32, Vec<String>)> = mine
            .filter_map(|(id, _)| {
                let all = seeds.get(id).unwrap_or(&none);
                let tried = states.get(id).map_or(0, |s| s.tried);
                let part = all.get(tried..r[1].min(all.len()))?;
                (!part.is_empty()).then(|| (*id, part.to_vec()))
            })
            .collect();
        println!("up to seed {}: {} mutants", r[1], due.len());
        in_turn(copy, due, |(id, part)| {
            let mut c = judge_program(copy);
            c.arg(id.to_string()).args(part);
            let tried = part.len() + states.get(id).map_or(0, |s| s.tried);
            match said(c) {
                Ok(other) => json!({ "id": id, "tried": tried, "other": other }),
                Err(why) => json!({ "id": id, "tried": tried, "found": why }),
            }
        })?;
    }
    for test in TESTS {
        let states = states(copy);
        let alive = |id: &u32| {
            states.get(id).is_none_or(|s| s.found.is_none() && !s.tests.contains(&test.to_owned()))
        };
        let due: Vec<u32> = built
            .iter()
            .filter(|(id, name)| is_meant(*id, name, only) && alive(id))
            .map(|(id, _)| *id)
            .collect();
        println!("{test}: {} mutants", due.len());
        in_turn(copy, due, |id| {
            let mut c = judge_program(copy);
            c.args([&id.to_string(), test]);
            let found = said(c).err();
            json!({ "id": id, "test": test, "found": found })
        })?;
    }
    let (states, mut found) = (states(copy), 0);
    for (id, _) in &built {
        found += u32::from(states.get(id).is_some_and(|s| s.found.is_some()));
    }
    println!("{found} of {} are found", built.len());
    Ok(())
}

/// Runs them, some at once, and writes down what comes of each.
fn in_turn<T: Send + Sync>(copy: &Path, due: Vec<T>, run: impl Fn(&T) -> Value + Sync) -> Res<()> {
    let file = std::fs::File::options().create(true).append(true).open(copy.join("results.jsonl"));
    let file = Mutex::new(file.map_err(|e| e.to_string())?);
    let queue = Mutex::new(due.iter());
    let next = || queue.lock().ok().and_then(|mut q| q.next());
    std::thread::scope(|s| {
        for _ in 0..AT_ONCE {
            s.spawn(|| {
                while let Some(one) = next() {
                    let v = run(one);
                    if let Ok(mut f) = file.lock() {
                        let _ = writeln!(f, "{v}");
                    }
                }
            });
        }
    });
    Ok(())
}

/// How many seeds went another way; the error is what found the mutant.
fn said(mut c: Command) -> Result<u32, String> {
    let out = c.output().map_err(|e| e.to_string())?;
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    let last = text.lines().next_back().unwrap_or_default();
    if let Some(other) = last.strip_prefix("alive ") {
        return Ok(other.parse().unwrap_or(0));
    }
    Err(last.strip_prefix("found ").unwrap_or("the process died").to_owned())
}
