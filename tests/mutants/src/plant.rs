//! The copy of the workspace: every mutant in its place, as many as the compiler lets pass.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::chosen::{Mutant, mutants};
use crate::sites::{Planted, planted};
use crate::{Res, read, root, write};

/// How often the compiler is asked.
const TIMES: usize = 40;

/// Makes the copy and builds it; `mutants.json` in it says which mutants it has.
pub fn plant(copy: &Path) -> Res<()> {
    let all = mutants()?;
    println!("{} mutants", all.len());
    copy_tree(copy)?;
    let mut dead: BTreeMap<u32, String> = BTreeMap::new();
    for _ in 0..TIMES {
        let files = put(copy, &all, &mut dead)?;
        let wrong = errors(copy)?;
        if wrong.is_empty() {
            let alive = all.len() - dead.len();
            println!("{alive} are built, {} cannot be", dead.len());
            return note(copy, &all, &dead);
        }
        let before = dead.len();
        for (file, bytes, text) in wrong {
            let ids = files.get(&file).map(|p| p.at(&bytes)).unwrap_or_default();
            dead.extend(ids.into_iter().map(|id| (id, text.clone())));
            if dead.len() == before {
                println!("{file}: {text}");
            }
        }
        println!("{} cannot be built", dead.len());
        if dead.len() == before {
            return Err("the copy cannot be built, and no mutant is to blame".to_owned());
        }
    }
    Err("the copy cannot be built".to_owned())
}

/// Every file of the tree, and beside them what makes mutants and judges them.
fn copy_tree(copy: &Path) -> Res<()> {
    let mut git = Command::new("git");
    git.args(["ls-files", "-co", "--exclude-standard"]).current_dir(root());
    let out = git.output().map_err(|e| format!("git: {e}"))?;
    for file in String::from_utf8_lossy(&out.stdout).lines() {
        let Ok(text) = std::fs::read(root().join(file)) else { continue };
        let to = copy.join(file);
        if std::fs::read(&to).is_ok_and(|old| old == text) {
            continue;
        }
        write(&to, "")?;
        std::fs::write(&to, text).map_err(|e| format!("{file}: {e}"))?;
    }
    let here = root().join("tests/mutants");
    write(&copy.join("rcp/src/mutants.rs"), &read(&here.join("made.rs"))?)?;
    let judge = copy.join("tests/src/bin/judge");
    write(&judge.join("main.rs"), &read(&here.join("judge.rs"))?)?;
    for test in ["orders", "slots", "steps"] {
        let file = format!("{test}.rs");
        let text = read(&root().join("tests/tests").join(&file))?;
        write(&judge.join(&file), &text.replace("#[test]\nfn ", "pub fn "))?;
    }
    let lib = read(&root().join("rcp/src/lib.rs"))?;
    write(&copy.join("rcp/src/lib.rs"), &format!("{lib}\npub mod mutants;\n"))
}

/// Writes the files with those mutants that are not dead.
fn put(
    copy: &Path,
    all: &[Mutant],
    dead: &mut BTreeMap<u32, String>,
) -> Res<BTreeMap<String, Planted>> {
    let names: BTreeSet<&String> = all.iter().map(|m| &m.file).collect();
    let mut files = BTreeMap::new();
    for file in names {
        let alive: Vec<_> =
            all.iter().filter(|m| m.file == *file && !dead.contains_key(&m.id)).collect();
        let prefix = if file.starts_with("rcp/") { "crate::mutants::" } else { "rcp::mutants::" };
        let text = read(&root().join(file))?;
        let (p, dropped) = planted(&text, &alive, prefix)?;
        dead.extend(dropped.into_iter().map(|(id, why)| (id, why.to_owned())));
        for m in alive {
            if !p.places.iter().any(|(id, _)| *id == m.id) {
                dead.entry(m.id).or_insert_with(|| "its place was not found".to_owned());
            }
        }
        let to = copy.join(file);
        if read(&to)? != p.text {
            write(&to, &p.text)?;
        }
        files.insert(file.clone(), p);
    }
    Ok(files)
}

/// Builds: where the compiler finds errors, and which.
fn errors(copy: &Path) -> Res<Vec<(String, Range<usize>, String)>> {
    let mut cargo = Command::new("cargo");
    cargo.args(["build", "--message-format=json", "-p", "tests", "--bin", "judge"]);
    // The longest build of all, for code that the simulation spends little time in.
    cargo.args(["--config", "profile.dev.package.node.opt-level=0"]);
    cargo.args(["--config", "profile.dev.package.node.debug=false"]);
    cargo.current_dir(copy).env("CARGO_INCREMENTAL", "0");
    let out = cargo.output().map_err(|e| format!("cargo: {e}"))?;
    let mut found = Vec::new();
    for line in String::from_utf8_lossy(&out.stdout).lines() {
        let Ok(m) = serde_json::from_str::<Value>(line) else { continue };
        if m["message"]["level"] != "error" {
            continue;
        }
        let text = m["message"]["message"].as_str().unwrap_or_default().to_owned();
        let spans = m["message"]["spans"].as_array().cloned().unwrap_or_default();
        let n = |v: &Value| usize::try_from(v.as_u64().unwrap_or(0)).unwrap_or(0);
        for s in spans.iter().filter(|s| s["is_primary"] == true) {
            let file = s["file_name"].as_str().unwrap_or_default().to_owned();
            found.push((file, n(&s["byte_start"])..n(&s["byte_end"]), text.clone()));
        }
    }
    if found.is_empty() && !out.status.success() {
        return Err(String::from_utf8_lossy(&out.stderr).into_owned());
    }
    Ok(found)
}

fn note(copy: &Path, all: &[Mutant], dead: &BTreeMap<u32, String>) -> Res<()> {
    let list: Vec<Value> = all
        .iter()
        .map(|m| json!({ "id": m.id, "name": m.name, "file": m.file, "line": m.line, "dead": dead.get(&m.id) }))
        .collect();
    write(&copy.join("mutants.json"), &serde_json::to_string_pretty(&list).unwrap_or_default())
}
