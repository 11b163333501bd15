//! Every requirement that the project claims, and the test that shows it.
//!
//! The table is in `traceability/claims.rs`: id, what it asks for in our words, the tests. Here it
//! is held against the tree: each test exists and is run; every id is either shown or listed as
//! missing with the reason, never both.

mod traceability {
    pub(crate) mod claims;
}
#[allow(dead_code, reason = "the house rules use more of it")]
mod tree;

use std::collections::{BTreeMap, BTreeSet};

use traceability::claims::{CLAIMS, MISSING};

/// Areas and how many requirements each has that are claimed at this stage; gaps are numbers that
/// later work takes up.
const AREAS: [(&str, &[u32]); 17] = [
    ("GEN", &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14]),
    ("CAP", &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16]),
    ("DELTA", &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10]),
    ("SAVE", &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]),
    ("SEND", &[1, 2, 3, 4, 5]),
    ("COPY", &[1, 2, 3, 4, 5, 6, 7, 10, 11, 12]),
    ("CB", &[1, 2, 3, 4, 5, 6]),
    ("CMD", &[1, 2, 3, 4, 5, 6, 7, 8, 9, 13, 14, 15, 16, 18]),
    ("VMC", &[1, 2, 3, 4, 5, 6, 7, 8]),
    ("SESS", &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]),
    ("ROUTE", &[1, 2, 3, 4, 5, 6]),
    ("FWD", &[1, 2, 3, 4, 5, 6, 8]),
    ("PORT", &[1, 2, 3, 4, 5, 6]),
    ("PLAY", &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]),
    ("SNAP", &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10]),
    ("DIFF", &[1, 2, 3, 4, 5, 6]),
    ("FAIL", &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 14, 16, 17, 19, 20, 21, 22]),
];
const ALGORITHMS: [&str; 12] =
    ["F10", "F11", "F12", "F17", "F23", "F26", "F27", "F28", "F31", "F32", "F33", "F34"];

fn ids() -> BTreeSet<String> {
    let numbered = AREAS.iter().flat_map(|(a, n)| n.iter().map(move |n| format!("{a}-{n:02}")));
    numbered.chain(ALGORITHMS.iter().map(|f| (*f).to_owned())).collect()
}

/// Names of the functions under `#[test]`, by file.
fn tests() -> BTreeMap<String, BTreeSet<String>> {
    let mut found: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for s in tree::sources() {
        let mut marked = false;
        for line in s.text.lines().map(str::trim) {
            if line.starts_with("#[test]") || line.starts_with("#[tokio::test") {
                marked = true;
            } else if line.starts_with("#[ignore") {
                marked = false;
            } else if let Some((_, name)) = line.split_once("fn ")
                && std::mem::take(&mut marked)
            {
                let name = name.split('(').next().unwrap_or_default();
                found.entry(s.path.clone()).or_default().insert(name.to_owned());
            }
        }
    }
    found
}

#[test]
fn every_claim_names_tests_that_exist() {
    let have = tests();
    let mut wrong = Vec::new();
    for (id, said, shown) in CLAIMS {
        if said.len() < 15 || shown.is_empty() {
            wrong.push(format!("{id}: no statement, or no test"));
        }
        for test in *shown {
            let known = test
                .split_once(".rs::")
                .and_then(|(file, name)| Some(have.get(&format!("{file}.rs"))?.contains(name)));
            if known != Some(true) {
                wrong.push(format!("{id}: no test `{test}`"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_requirement_is_shown_or_said_to_be_missing() {
    let claimed: Vec<&str> = CLAIMS.iter().map(|(id, ..)| *id).collect();
    let missing: Vec<&str> = MISSING.iter().map(|(id, _)| *id).collect();
    let listed: BTreeSet<&str> = claimed.iter().chain(&missing).copied().collect();
    assert_eq!(listed.len(), claimed.len() + missing.len(), "an id stands twice");
    let ids = ids();
    let unknown: Vec<_> = listed.iter().filter(|id| !ids.contains(**id)).collect();
    assert!(unknown.is_empty(), "not among the requirements: {unknown:?}");
    let forgotten: Vec<_> = ids.iter().filter(|id| !listed.contains(id.as_str())).collect();
    assert!(forgotten.is_empty(), "neither shown nor missing: {forgotten:?}");
    println!("{} requirements, {} shown", ids.len(), claimed.len());
    for (id, why) in MISSING {
        println!("missing: {id}: {why}");
    }
}
