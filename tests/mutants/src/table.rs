//! The figures, file by file, and what survives without a word in `survivors`.

use std::collections::BTreeMap;
use std::path::Path;

use crate::campaign::{State, is_meant, notes, number, states};
use crate::{Res, read, root};

/// Of one file.
#[derive(Default)]
struct Row {
    mutants: u32,
    unviable: u32,
    found: u32,
    classes: BTreeMap<String, u32>,
}

/// What `survivors` says of each: `CLASS: NAME`, and below it, further in, why.
fn classes() -> Res<BTreeMap<String, String>> {
    let text = read(&root().join("tests/mutants/survivors"))?;
    let lines = text.lines().filter(|l| !l.starts_with([' ', '#']) && !l.is_empty());
    let pair = |l: &str| l.split_once(": ").map(|(c, n)| (n.to_owned(), c.to_owned()));
    Ok(lines.filter_map(pair).collect())
}

/// Prints them, of the mutants that `only` chooses.
pub fn table(copy: &Path, only: &str) -> Res<()> {
    let list = read(&copy.join("mutants.json"))?;
    let list: Vec<serde_json::Value> = serde_json::from_str(&list).map_err(|e| e.to_string())?;
    let (states, seeds, classes) = (states(copy), notes(copy)?, classes()?);
    let mut rows: BTreeMap<String, Row> = BTreeMap::new();
    let none = State::default();
    for m in &list {
        let (id, name) = (number(&m["id"]), m["name"].as_str().unwrap_or_default());
        if !is_meant(id, name, only) {
            continue;
        }
        let mut count = |row: &str| {
            let row = rows.entry(row.to_owned()).or_default();
            let state = states.get(&id).unwrap_or(&none);
            row.mutants += 1;
            if !m["dead"].is_null() {
                row.unviable += 1;
            } else if state.found.is_some() {
                row.found += 1;
            } else {
                let past = seeds.contains_key(&id);
                let class = classes.get(name).map_or(if past { "open" } else { "unmet" }, |c| c);
                *row.classes.entry(class.to_owned()).or_default() += 1;
            }
        };
        count(m["file"].as_str().unwrap_or_default());
        count("all");
        let state = states.get(&id).unwrap_or(&none);
        if m["dead"].is_null() {
            let past = seeds.get(&id).map_or(0, Vec::len);
            let (line, tried, other) = (number(&m["line"]), state.tried, state.other);
            match (&state.found, classes.get(name)) {
                (Some(why), Some(class)) => println!("found, and yet {class}: {name}: {why}"),
                (None, None) => {
                    println!(
                        "{id} line {line}: {name}: {other} of {tried} differ, {past} come past"
                    );
                }
                _ => {}
            }
        }
    }
    println!("| file | mutants | unviable | killed | survivors |\n|---|---:|---:|---:|---|");
    for (file, r) in rows {
        let classes: Vec<_> = r.classes.iter().map(|(c, n)| format!("{n} {c}")).collect();
        let (all, dead, found) = (r.mutants, r.unviable, r.found);
        println!("| `{file}` | {all} | {dead} | {found} | {} |", classes.join(", "));
    }
    Ok(())
}
