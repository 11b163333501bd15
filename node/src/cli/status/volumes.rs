//! Volumes: one line each, and one paragraph each for whoever wants to know.

use std::time::Duration;

use config::units::{approx_size, format_duration};

use crate::api::{BranchStatus, ChildProgress, NodeStatus, SubtreeStatus, VolumeInfo};
use crate::cli::columns::columns;
use crate::cli::text::{between, fill, moment, number, pause, plural, span};

/// A volume on a node.
#[derive(Clone, Copy)]
pub(super) struct Held<'a> {
    pub(super) node: &'a NodeStatus,
    pub(super) volume: &'a VolumeInfo,
}

/// A replica that shows the newest set and was heard of within this, in seconds, is level.
const LEVEL: f64 = 5.0;

/// All wanted ones: by label, in the order of the nodes.
pub(super) fn held<'a>(nodes: &[&'a NodeStatus], wanted: &dyn Fn(&str) -> bool) -> Vec<Held<'a>> {
    let mut all: Vec<Held<'a>> = nodes
        .iter()
        .flat_map(|node| node.volumes.iter().map(|volume| Held { node, volume }))
        .filter(|h| wanted(&h.volume.label) || wanted(h.volume.in_group()))
        .collect();
    all.sort_by(|a, b| {
        let key = |h: &Held<'a>| (h.volume.in_group().to_owned(), h.volume.role != "primary");
        key(a).cmp(&key(b))
    });
    all
}

pub(super) fn overview(held: &[Held<'_>]) -> String {
    let rows: Vec<Vec<String>> = held.iter().map(row).collect();
    let headings = [
        "VOLUME",
        "NODE",
        "ROLE",
        "STATE",
        ">SET",
        ">LAG",
        ">BEHIND",
        ">OUTSTANDING",
        "SAVE VOLUME",
        "CHILDREN",
    ];
    let mut out = columns(&headings, &rows);
    for h in held {
        if let Some(below) = &h.volume.subtree {
            out.push_str(&format!("{} below {}: ", h.volume.label, h.node.node));
            out.push_str(&subtree(below).join("; "));
            out.push('\n');
        }
    }
    out
}

fn row(h: &Held<'_>) -> Vec<String> {
    let v = h.volume;
    let primary = v.role == "primary";
    let or_dash = |text: String| if primary { "-".to_owned() } else { text };
    let mut save = fill(v.save_used, v.save_capacity);
    if let Some(full_in) = v.save_full_in_seconds {
        save.push_str(&format!(", full in {}", span(full_in)));
    }
    vec![
        called(v),
        h.node.node.clone(),
        v.role.clone(),
        v.state.clone(),
        v.current_set.to_string(),
        or_dash(v.lag_seconds.map_or("unknown".to_owned(), span)),
        or_dash(approx_size(v.lag_bytes)),
        or_dash(v.outstanding_sets.to_string()),
        save,
        children(&v.children),
    ]
}

/// `vol9 (vol1)`: its label here, and the group's where that is another.
fn called(v: &VolumeInfo) -> String {
    if v.source.is_empty() { v.label.clone() } else { format!("{} ({})", v.label, v.source) }
}

/// `2 streaming, 1 seeding 42 %`.
fn children(list: &[ChildProgress]) -> String {
    let mut states: Vec<(&str, usize, Option<f64>)> = Vec::new();
    for child in list {
        match states.iter_mut().find(|s| s.0 == child.state) {
            Some(s) => {
                s.1 += 1;
                s.2 = match (s.2, child.seed_percent) {
                    (Some(a), Some(b)) => Some(a.min(b)),
                    (a, b) => a.or(b),
                };
            }
            None => states.push((&child.state, 1, child.seed_percent)),
        }
    }
    let words: Vec<String> = states
        .into_iter()
        .map(|(state, n, percent)| match percent {
            Some(p) => format!("{n} {state} {} %", number(p)),
            None => format!("{n} {state}"),
        })
        .collect();
    if words.is_empty() { "-".to_owned() } else { words.join(", ") }
}

/// What seeds and catch-ups of children have cost.
fn extents(v: &VolumeInfo) -> Option<String> {
    let (seeds, catch_ups) = (approx_size(v.seed_sent), approx_size(v.catch_up_sent));
    let saved = match v.coalesced {
        0 => String::new(),
        n => format!("; {n} queues were sent as one step, {} less", approx_size(v.coalesced_saved)),
    };
    (v.seed_sent + v.catch_up_sent > 0)
        .then(|| format!("{seeds} by seeds, {catch_ups} by catch-ups since the start{saved}"))
}

/// What is kept of lines that ended.
fn branches(v: &VolumeInfo) -> Option<String> {
    let of = |b: &BranchStatus| format!("{}@branch:{}", v.label, b.name);
    (!v.branches.is_empty()).then(|| v.branches.iter().map(of).collect::<Vec<_>>().join(", "))
}

/// Everything about a volume on a node, in words.
pub(super) fn detail(h: &Held<'_>) -> String {
    let (v, now) = (h.volume, h.node.at_us);
    let primary = v.role == "primary";
    let mut lines = vec![format!("{} on {}: {}, {}", v.label, h.node.node, v.role, v.state)];
    let mut line = |name: &str, text: String| lines.push(format!("  {name:9}  {text}"));
    let said = [("because", &v.reason), ("mirror", &v.mirror)];
    for (name, text) in said.into_iter().filter_map(|(n, t)| Some((n, t.as_ref()?))) {
        line(name, text.clone());
    }
    if let Some(d) = &v.delayed {
        line("behind", format!("for {}: {}", between(d.since_us, now), d.text));
    }
    let cut = v
        .current_cut_us
        .map_or(String::new(), |us| format!(", cut {} UTC ({} ago)", moment(us), between(us, now)));
    line("state", format!("{}{cut}", v.current_set));
    if !v.state_id.is_empty() {
        line("id", v.state_id.clone());
    }
    line(
        "size",
        format!(
            "{} in blocks of {}, group {}, generation {}",
            approx_size(v.size),
            approx_size(v.block_size),
            v.group,
            v.generation
        ),
    );
    if let Some(text) = extents(v) {
        line("sent", text);
    }
    if primary {
        line(
            "modified",
            format!(
                "{} since the last cut; longest pause of writers {}",
                approx_size(v.dirty_bytes),
                pause(v.longest_pause_us)
            ),
        );
    } else {
        let lag = v.lag_seconds.map_or("unknown".to_owned(), span);
        line(
            "lag",
            format!(
                "{lag}, {}, {} outstanding; newest known {}, saved {}, merged {}",
                approx_size(v.lag_bytes),
                plural(v.outstanding_sets, "set"),
                v.newest_known_set,
                v.saved_set,
                v.merged_set
            ),
        );
    }
    if primary || !v.children.is_empty() {
        let (now, average) = v.transfer_rate;
        line(
            "sending",
            format!("{} blocks/s, {} blocks/s on average", number(now), number(average)),
        );
    }
    line("save", save_volume(v));
    search(v).into_iter().for_each(|text| line("search", text));
    if !v.kept.is_empty() {
        let kept: Vec<String> = v.kept.iter().map(|s| format!("{}@{s}", v.label)).collect();
        line("kept", kept.join(", "));
    }
    branches(v).into_iter().for_each(|names| line("branches", names));
    let width = v.children.iter().map(|c| c.node.len()).max().unwrap_or(0);
    for child in &v.children {
        line("child", format!("{:width$}  {}", child.node, progress(child)));
    }
    if let Some(below) = &v.subtree {
        for (i, words) in subtree(below).into_iter().enumerate() {
            line(if i == 0 { "below" } else { "" }, words);
        }
    }
    lines.join("\n") + "\n"
}

/// How a replica looks through its content for damage.
fn search(v: &VolumeInfo) -> Option<String> {
    if let Some(text) = &v.scrub_asked {
        return Some(format!("asked for: {text}"));
    }
    let last = match v.scrubbed_us {
        Some(at) => format!("last round ended {} UTC", moment(at)),
        None => "no round has ended yet".to_owned(),
    };
    Some(match (v.scrub_rate?, v.scrub_every_s) {
        (0, _) => format!("off (`scrub` in the topology); {last}"),
        (rate, every) => format!(
            "{}% of this round, {}/s, a round every {}; {last}",
            v.scrub_percent.unwrap_or(0),
            approx_size(rate),
            format_duration(Duration::from_secs(every.unwrap_or(0)))
        ),
    })
}

fn save_volume(v: &VolumeInfo) -> String {
    let full = match v.save_full_in_seconds {
        Some(s) => format!("full in {} at the present rate", span(s)),
        None => "not filling".to_owned(),
    };
    format!(
        "{} of {} (write position at {}), {full}",
        approx_size(v.save_used),
        approx_size(v.save_capacity),
        v.save_position
    )
}

fn progress(c: &ChildProgress) -> String {
    let mut text = c.state.clone();
    if let Some(percent) = c.seed_percent {
        text.push_str(&format!(" {} %", number(percent)));
    }
    text.push_str(&format!(", saved {}", c.saved_set));
    if c.behind_bytes > 0 {
        text.push_str(&format!(", {} behind", approx_size(c.behind_bytes)));
    }
    // A limit is told as the reason already.
    let told = c.reason.as_ref();
    let delayed = c.delayed.as_ref().filter(|d| told.is_none_or(|r| !r.contains(&d.text)));
    let words: Vec<&str> =
        told.into_iter().chain(delayed.map(|d| &d.text)).map(String::as_str).collect();
    if !words.is_empty() {
        text.push_str(&format!(": {}", words.join("; ")));
    }
    text
}

fn subtree(below: &SubtreeStatus) -> Vec<String> {
    let by: Vec<String> = below.by_state.iter().map(|(set, n)| format!("{n} at {set}")).collect();
    let by = if by.is_empty() { String::new() } else { format!(" ({})", by.join(", ")) };
    let (from, to) = below.played;
    let mut lines = vec![format!(
        "{}, visible {from} to {to}{by}, all have {} saved",
        plural(below.nodes.into(), "replica"),
        below.saved_min
    )];
    // A leaf that is level, and has nothing to say, is not behind.
    let behind = |(_, set, lag, words): &&(String, u64, f64, String)| {
        *set < to || *lag >= LEVEL || !words.is_empty()
    };
    for (node, set, lag, words) in below.worst.iter().filter(behind) {
        let words = if words.is_empty() { String::new() } else { format!(": {words}") };
        lines.push(format!("furthest behind: {node} at {set}, {}{words}", span(*lag)));
    }
    lines
}
