//! The delta-set table: each set as the source made it, and as a replica played it back.
//!
//! The playback is printed on the row of the lowest set of its group; the higher ones of the
//! group have it empty. A set that no group covers is outstanding.

use config::units::approx_size;

use super::volumes::Held;
use crate::api::{SetInfo, VolumeInfo};
use crate::cli::columns::columns;
use crate::cli::text::{moment, number, plural};
use crate::limits::CHUNK_BYTES;

/// Outstanding sets that are listed one by one.
const LISTED: usize = 5;

/// One table per replica; one for the primary alone if no replica was asked.
pub(super) fn tables(held: &[Held<'_>], lines: usize) -> Vec<String> {
    let mut out = Vec::new();
    for group in held.chunk_by(|a, b| a.volume.in_group() == b.volume.in_group()) {
        // One that has lost its place to another is no source.
        let writes = |h: &&Held<'_>| h.volume.role == "primary" && h.volume.rival.is_empty();
        let source = group.iter().find(writes);
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
        out.extend(source.map(|s| differing(s.volume, r.volume)));
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

/// How many blocks differ between the source and a replica, at most, and whether the roles could be
/// exchanged at once (FAIL-19). A block that changed twice counts twice.
fn differing(source: &VolumeInfo, replica: &VolumeInfo) -> String {
    let shown = replica.current_set;
    let not = |why: &str| format!("blocks that differ: not known: {why}\n");
    if !replica.is_whole() {
        return not(&format!("the replica is {}", replica.state));
    }
    if source
        .history
        .last()
        .is_some_and(|line| line.generation != replica.generation && shown > line.forked_from)
    {
        return not("the replica shows a state of another line");
    }
    let missing = || source.sets.iter().filter(|s| s.set > shown);
    if missing().map(|s| s.set).min().unwrap_or(source.current_set + 1) > shown + 1 {
        return not("the replica is further behind than the table below goes back");
    }
    let in_sets: u64 = missing().map(|s| s.blocks).sum();
    let since = source.dirty_bytes.div_ceil(source.block_size.max(1));
    let (blocks, bytes) = (in_sets + since, (in_sets + since).saturating_mul(source.block_size));
    if blocks == 0 {
        return "blocks that differ: none; ready for a swap or failback\n".to_owned();
    }
    let ready = if bytes <= CHUNK_BYTES { "ready" } else { "not ready" };
    format!(
        "blocks that differ: at most {blocks} ({}), {in_sets} of them in outstanding sets, {since} changed \
         since the last; {ready} for a swap or failback\n",
        approx_size(bytes)
    )
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::HistoryLine;

    fn set(set: u64, blocks: u64) -> SetInfo {
        SetInfo { set, blocks, ..SetInfo::default() }
    }

    fn source() -> VolumeInfo {
        VolumeInfo {
            block_size: 4096,
            current_set: 7,
            generation: "2-b".into(),
            history: vec![HistoryLine {
                generation: "2-b".into(),
                forked_from: 4,
                ..HistoryLine::default()
            }],
            sets: vec![set(7, 3), set(6, 2), set(5, 9)],
            ..VolumeInfo::default()
        }
    }

    fn replica(shown: u64) -> VolumeInfo {
        VolumeInfo {
            state: "readable".into(),
            current_set: shown,
            generation: "2-b".into(),
            ..VolumeInfo::default()
        }
    }

    #[track_caller]
    fn says(source: &VolumeInfo, replica: &VolumeInfo, words: &str) {
        let told = differing(source, replica);
        assert!(told.contains(words), "{told}");
    }

    #[test]
    fn what_differs_is_counted_from_sets_and_from_what_changed_since() {
        says(&source(), &replica(7), "none; ready");
        says(
            &source(),
            &replica(5),
            "at most 5 (20 KiB), 5 of them in outstanding sets, 0 changed",
        );
        let changed = VolumeInfo { dirty_bytes: 4097, ..source() };
        says(&changed, &replica(7), "at most 2 (8 KiB), 0 of them in outstanding sets, 2 changed");
        says(&changed, &replica(7), "; ready for");
        let much = VolumeInfo { dirty_bytes: CHUNK_BYTES + 1, ..source() };
        says(&much, &replica(7), "; not ready for");
    }

    #[test]
    fn what_cannot_be_counted_is_not_guessed() {
        says(&source(), &replica(3), "further behind than the table below goes back");
        says(&source(), &replica(4), "at most 14");
        let forgotten = VolumeInfo { sets: Vec::new(), ..source() };
        says(&forgotten, &replica(6), "further behind");
        says(&forgotten, &replica(7), "none; ready");
        let old = |shown| VolumeInfo { generation: "1-a".into(), ..replica(shown) };
        says(&source(), &old(5), "a state of another line");
        says(&source(), &old(4), "at most 14");
        let seeded = VolumeInfo { state: "seeding".into(), ..replica(7) };
        says(&source(), &seeded, "not known: the replica is seeding");
    }
}
