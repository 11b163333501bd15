//! The delta-set table: each set as the source made it, and as a replica played it back.
//!
//! The playback is printed on the row of the lowest set of its group; the higher ones of the
//! group have it empty. A set that no group covers is outstanding.

use super::volumes::Held;
use crate::api::SetInfo;
use crate::cli::columns::columns;
use crate::cli::text::{moment, number, plural};

/// Outstanding sets that are listed one by one.
const LISTED: usize = 5;

/// One table per replica; one for the primary alone if no replica was asked.
pub(super) fn tables(held: &[Held<'_>], lines: usize) -> Vec<String> {
    let mut out = Vec::new();
    for group in held.chunk_by(|a, b| a.volume.in_group() == b.volume.in_group()) {
        let source = group.iter().find(|h| h.volume.role == "primary");
        let mut replicas: Vec<_> = group.iter().filter(|h| h.volume.role == "replica").collect();
        if replicas.is_empty() {
            out.extend(source.map(|s| table(Some(s), None, lines)));
        }
        replicas.drain(..).for_each(|r| out.push(table(source, Some(r), lines)));
    }
    out
}

fn table(source: Option<&Held<'_>>, replica: Option<&Held<'_>>, lines: usize) -> String {
    let name = |h: Option<&Held<'_>>| h.map(|h| h.node.node.clone());
    let label = source.or(replica).map_or("", |h| h.volume.in_group());
    let mut out = match (name(source), name(replica)) {
        (Some(s), Some(r)) => format!("{label}: delta sets made at {s}, played back at {r}\n"),
        (None, Some(r)) => format!("{label}: delta sets played back at {r}\n"),
        (Some(s), None) => format!("{label}: delta sets made at {s}\n"),
        (None, None) => return String::new(),
    };
    let made = source.map_or(&[][..], |h| h.volume.sets.as_slice());
    let played = replica.map_or(&[][..], |h| h.volume.sets.as_slice());
    let mut numbers: Vec<u64> = made.iter().chain(played).map(|s| s.set).collect();
    numbers.sort_unstable_by(|a, b| b.cmp(a));
    numbers.dedup();
    let row_of =
        |set: u64| (made.iter().find(|s| s.set == set), played.iter().find(|s| s.set == set));
    if let Some(r) = replica {
        out.push_str(&outstanding(&numbers, r.volume.current_set, row_of));
    }
    let rows: Vec<Vec<String>> =
        numbers.iter().take(lines).map(|set| row(*set, row_of(*set))).collect();
    if rows.is_empty() {
        out.push_str("  no delta sets yet\n");
        return out;
    }
    let headings = [
        ">Delta",
        "Create Time (UTC)",
        ">Dur",
        ">Blocks",
        "Playback Time",
        ">Dur",
        ">Blocks",
        ">DSinGroup",
    ];
    out.push_str(&columns(&headings, &rows));
    if let Some(more) = numbers.len().checked_sub(lines).filter(|n| *n > 0) {
        let more = plural(more as u64, "older set");
        out.push_str(&format!("({more}; -v {} shows all)\n", numbers.len()));
    }
    out
}

fn row(set: u64, (made, played): (Option<&SetInfo>, Option<&SetInfo>)) -> Vec<String> {
    let seconds = |s: Option<f64>| s.map_or(String::new(), |s| trimmed(&number(s)));
    let count = |n: Option<u64>| n.map_or(String::new(), |n| n.to_string());
    let time = |us: Option<u64>| us.map_or(String::new(), moment);
    // A replica knows from the header when a set was cut and how many blocks it has.
    let source = made.or(played);
    let group = played.filter(|p| p.played_us.is_some());
    vec![
        set.to_string(),
        time(source.map(|s| s.created_us)),
        seconds(source.and_then(|s| s.made_in)),
        count(source.map(|s| s.blocks)),
        time(group.and_then(|g| g.played_us)),
        seconds(group.and_then(|g| g.played_in)),
        count(group.and_then(|g| g.played_blocks)),
        count(group.and_then(|g| g.group)),
    ]
}

fn trimmed(number: &str) -> String {
    number.trim_end_matches(".0").to_owned()
}

/// `outstanding: 15 (cut 11-26 20:11:56, 1 block)`.
fn outstanding<'a>(
    numbers: &[u64],
    visible: u64,
    row_of: impl Fn(u64) -> (Option<&'a SetInfo>, Option<&'a SetInfo>),
) -> String {
    let mut waiting: Vec<u64> = numbers.iter().copied().filter(|n| *n > visible).collect();
    waiting.reverse();
    if waiting.is_empty() {
        return "outstanding: none\n".to_owned();
    }
    let words: Vec<String> = waiting
        .iter()
        .take(LISTED)
        .map(|set| match row_of(*set) {
            (Some(s), _) | (None, Some(s)) => {
                format!("{set} (cut {}, {})", moment(s.created_us), plural(s.blocks, "block"))
            }
            (None, None) => set.to_string(),
        })
        .collect();
    let more = match waiting.len().saturating_sub(LISTED) {
        0 => String::new(),
        n => format!(" and {n} more"),
    };
    format!("outstanding: {}{more}\n", words.join(", "))
}
