//! Which mutants there are: those that `cargo mutants` names in the functions that are chosen.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::{Res, read, root};

/// One mutant.
#[derive(Clone, Debug)]
pub struct Mutant {
    /// What it is chosen by, from 1 on.
    pub id: u32,
    /// File, what is done, in which function; with a number if that is done there more than once.
    pub name: String,
    pub file: String,
    pub line: usize,
    /// From 1 on.
    pub column: usize,
    pub genre: String,
    pub replacement: String,
}

/// The functions of each file, by their last names.
fn functions() -> Res<BTreeMap<String, Vec<String>>> {
    let mut all: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut file = String::new();
    for line in read(&root().join("tests/mutants/chosen"))?.lines() {
        match line.strip_suffix(':') {
            _ if line.trim().is_empty() || line.starts_with('#') => {}
            Some(name) => file = name.to_owned(),
            None => all
                .entry(file.clone())
                .or_default()
                .extend(line.split_whitespace().map(str::to_owned)),
        }
    }
    Ok(all)
}

/// All of them.
pub fn mutants() -> Res<Vec<Mutant>> {
    let functions = functions()?;
    let mut list = std::process::Command::new("cargo");
    list.args(["mutants", "--list", "--json", "--workspace"]).current_dir(root());
    for file in functions.keys() {
        list.args(["-f", file]);
    }
    let out = list.output().map_err(|e| format!("cargo mutants: {e}"))?;
    if !out.status.success() {
        let words = String::from_utf8_lossy(&out.stderr);
        return Err(format!("cargo mutants: {words} (`cargo install cargo-mutants` brings it)"));
    }
    let list: Vec<Value> = serde_json::from_slice(&out.stdout).map_err(|e| e.to_string())?;
    let (mut found, mut met) = (Vec::new(), BTreeMap::new());
    let mut used: BTreeMap<(String, String), bool> = BTreeMap::new();
    for (file, names) in &functions {
        used.extend(names.iter().map(|n| ((file.clone(), n.clone()), false)));
    }
    for m in &list {
        let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
        let (file, start) = (text(&m["file"]), &m["span"]["start"]);
        let function = text(&m["function"]["function_name"]);
        let last = function.rsplit("::").next().unwrap_or_default().to_owned();
        let Some(used) = used.get_mut(&(file.clone(), last)) else { continue };
        *used = true;
        let number = |v: &Value| v.as_u64().and_then(|n| usize::try_from(n).ok()).unwrap_or(0);
        let words = text(&m["name"]);
        let words = words.splitn(4, ':').nth(3).unwrap_or_default().trim().to_owned();
        let name = format!("{file}: {words}");
        let times: &mut u32 = met.entry(name.clone()).or_default();
        *times += 1;
        found.push(Mutant {
            id: u32::try_from(found.len() + 1).unwrap_or(0),
            name: if *times > 1 { format!("{name} ({times})") } else { name },
            file,
            line: number(&start["line"]),
            column: number(&start["column"]),
            genre: text(&m["genre"]),
            replacement: text(&m["replacement"]),
        });
    }
    let unused: Vec<_> = used.iter().filter(|(_, u)| !**u).map(|(k, _)| &k.1[..]).collect();
    if !unused.is_empty() {
        return Err(format!("no mutants in {}", unused.join(", ")));
    }
    Ok(found)
}
