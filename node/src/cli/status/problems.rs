//! What is wrong, in one place: the first thing to read, so it is printed last.

use std::collections::BTreeSet;

use rcp::proto::session::{abilities, version_named};

use super::Asked;
use super::view::tame;
use super::volumes::Held;
use crate::api::{Delayed, LinkStatus, NodeStatus, VolumeInfo};
use crate::cli::text::{between, plural, span};

/// A save volume that is full sooner than this is a problem.
const FULL_SOON: f64 = 3_600.0;
/// Waiting for something that exists for as long is one too.
const LATE_US: u64 = 10_000_000;

/// How bad: what is printed first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    NodeSilent,
    VolumeBlocked,
    LinkDown,
    ChildBehind,
    SoonFull,
    Security,
    Older,
    Drift,
}

/// Every problem as a line that names node, thing and reason, the worst first.
pub(super) fn find(
    asked: &[Asked],
    nodes: &[&NodeStatus],
    wanted: &dyn Fn(&str) -> bool,
) -> Vec<String> {
    let mut out: Vec<(Rank, String)> = Vec::new();
    for a in asked {
        if let Err(e) = &a.answer {
            out.push((Rank::NodeSilent, format!("{}: {e}", a.called)));
        }
    }
    // A link is told once, by the node above it if that one was asked.
    let mut told: BTreeSet<(&str, &str)> = BTreeSet::new();
    for node in nodes {
        let name = &node.node;
        security(node, &mut out);
        for g in &node.groups {
            for child in g.children.iter().filter(|c| c.state != "connected") {
                told.insert((name, &child.node));
                let text = format!("{name}: child {}", link(child, &g.group, node.at_us));
                out.push((Rank::LinkDown, text));
            }
            for bypass in g.children.iter().filter_map(|c| c.bypass.as_ref()) {
                out.push((Rank::LinkDown, format!("{name}: group {}: {bypass}", g.group)));
            }
            for c in g.children.iter().filter(|c| c.state == "connected") {
                let older = version_named(&c.version).map(abilities);
                if let Some(a) = older.filter(|a| !a.lacks.is_empty()) {
                    let (child, v, lacks) = (&c.node, a.name, a.lacks);
                    let text =
                        format!("{name}: the session with child {child} is RCP {v}: {lacks}");
                    out.push((Rank::Older, text));
                }
            }
            for drift in &g.drift {
                let text =
                    format!("{name}: routes of {} differ from the topology: {drift}", g.group);
                out.push((Rank::Drift, text));
            }
        }
    }
    for node in nodes {
        for g in &node.groups {
            if let Some(p) = g.parent.as_ref().filter(|p| p.state != "connected")
                && !told.contains(&(p.node.as_str(), node.node.as_str()))
            {
                let text = format!("{}: parent {}", node.node, link(p, &g.group, node.at_us));
                out.push((Rank::LinkDown, text));
            }
        }
        for v in node.volumes.iter().filter(|v| wanted(&v.label) || wanted(v.in_group())) {
            of_volume(node, v, &mut out);
        }
        for m in node.moved.iter().filter(|m| m.folder.is_some() && wanted(&m.label)) {
            let text = format!(
                "{}: {} was given to {} with all its files, which has not taken them; nobody writes it: \
                 `rcpctl group move {} --to {}`",
                node.node, m.label, m.to, m.group, m.to
            );
            out.push((Rank::VolumeBlocked, text));
        }
        for a in node.arriving.iter().filter(|a| wanted(&a.label)) {
            let (from, given) = (&a.from, if a.given { "was given" } else { "is to be given" });
            let text = format!(
                "{}: {} {given} to it by {from} with all its files, and it has not taken them: `rcpctl \
                 group move {} --to {}`",
                node.node, a.label, a.group, node.node
            );
            out.push((Rank::VolumeBlocked, text));
        }
    }
    out.sort_by_key(|(rank, _)| *rank);
    out.into_iter().map(|(_, text)| text).collect()
}

/// A certificate that ends sooner than this is a problem.
const CERTIFICATE_SOON_US: u64 = 3 * 3_600_000_000;

fn security(node: &NodeStatus, out: &mut Vec<(Rank, String)>) {
    let (name, s) = (&node.node, &node.security);
    let mut add = |text: String| out.push((Rank::Security, format!("{name}: {text}")));
    if let Some(problem) = &s.problem {
        add(problem.clone());
    }
    match s.certificate_until_us {
        Some(until) if until <= node.at_us => {
            let ago = between(until, node.at_us);
            add(format!("its certificate expired {ago} ago: `rcpctl pki renew {name}`"));
        }
        Some(until) if until - node.at_us < CERTIFICATE_SOON_US => {
            let left = between(node.at_us, until);
            add(format!("its certificate expires in {left}: `rcpctl pki renew {name}`"));
        }
        _ => {}
    }
    if s.plaintext {
        add("it takes sessions without certificates from anywhere (insecure_plaintext)".to_owned());
    }
    // What was an hour ago is history.
    for x in s.strangers.iter().filter(|x| x.last_us + 3_600_000_000 > node.at_us) {
        let ago = between(x.last_us, node.at_us);
        let what = if x.why.starts_with("the peer refused") {
            "was turned away by"
        } else {
            "turned away"
        };
        let times = if x.times == 1 { String::new() } else { format!(" ({} times)", x.times) };
        add(format!("{what} a peer at {} {ago} ago: {}{times}", x.from, x.why));
    }
}

fn link(link: &LinkStatus, group: &str, now_us: u64) -> String {
    let since = if link.since_us == 0 {
        String::new()
    } else {
        format!(" for {}", between(link.since_us, now_us))
    };
    let reason = link.reason.as_deref().map_or(String::new(), |r| format!(": {r}"));
    format!("{} ({}, {group}): {}{since}{reason}", link.node, link.addr, link.state)
}

fn of_volume(node: &NodeStatus, v: &VolumeInfo, out: &mut Vec<(Rank, String)>) {
    let name = format!("{}: volume {}", node.node, v.label);
    match &v.reason {
        Some(reason) => {
            let first = v.state.split(',').next().unwrap_or_default();
            let text = match reason.strip_prefix(first).is_some_and(|r| r.starts_with(": ")) {
                true => format!("{name} is {reason}"),
                false => format!("{name} is {}: {reason}", v.state),
            };
            out.push((Rank::VolumeBlocked, text));
        }
        None if v.state.starts_with("failed") => {
            out.push((Rank::VolumeBlocked, format!("{name} has failed")));
        }
        None => {}
    }
    if let Some(why) = v.damage.as_ref().filter(|_| v.differs.is_none()) {
        out.push((Rank::VolumeBlocked, format!("{name}: {why}")));
    }
    if let Some(what) = &v.took_damage {
        let text = format!("{name}: it took over with damage, which is lost: {what}");
        out.push((Rank::Older, text));
    }
    // A burst into an empty one is no trend.
    let filled = v.save_used >= v.save_capacity / 4;
    if let Some(s) = v.save_full_in_seconds.filter(|s| *s < FULL_SOON && filled) {
        out.push((Rank::SoonFull, format!("{name}: its save volume is full in {}", span(s))));
    }
    if let Some(d) = v.delayed.as_ref().filter(|d| is_late(d, node.at_us)) {
        let since = between(d.since_us, node.at_us);
        out.push((Rank::ChildBehind, format!("{name} is behind for {since}: {}", d.text)));
    }
    for c in &v.children {
        if let Some(d) = c.delayed.as_ref().filter(|d| is_late(d, node.at_us)) {
            let since = between(d.since_us, node.at_us);
            let text = format!("{name}: child {} is behind for {since}: {}", c.node, d.text);
            out.push((Rank::ChildBehind, text));
        }
        let reason = c.reason.as_deref().map_or(String::new(), |r| format!(": {r}"));
        // An offline child's link is told already, with its reason.
        // That a limit holds it back was chosen.
        let chosen = c.state == "streaming"
            && c.reason.as_ref().is_some_and(|r| r.starts_with(rcp::proto::pace::LIMITED));
        if chosen {
            continue;
        }
        if c.state == "detached" || (c.reason.is_some() && c.state != "offline") {
            let text = format!("{name}: child {} is {}{reason}", c.node, c.state);
            out.push((Rank::ChildBehind, text));
        }
    }
}

/// What lasts is a problem, unless somebody wanted it so.
fn is_late(d: &Delayed, now_us: u64) -> bool {
    let wanted = matches!(d.cause.as_str(), "playback" | "limit");
    !wanted && now_us.saturating_sub(d.since_us) >= LATE_US
}

/// The last lines: all well, or the list.
pub(super) fn verdict(
    problems: &[String],
    nodes: &[&NodeStatus],
    held: &[Held<'_>],
    colour: bool,
) -> String {
    let (red, plain) = if colour { ("\x1b[31m", "\x1b[0m") } else { ("", "") };
    if !problems.is_empty() {
        let mut out = format!("{red}{}:{plain}\n", plural(problems.len() as u64, "problem"));
        for p in problems {
            out.push_str(&format!("{red}  {}{plain}\n", tame(p).replace('\n', " ")));
        }
        return out;
    }
    let lags = held.iter().filter(|h| h.volume.role == "replica").filter_map(|h| {
        Some((h.volume.lag_seconds?, h.volume.label.as_str(), h.node.node.as_str()))
    });
    let below = held.iter().flat_map(|h| {
        let worst = h.volume.subtree.iter().flat_map(|s| &s.worst);
        worst.map(|(node, _, lag, _)| (*lag, h.volume.label.as_str(), node.as_str()))
    });
    let worst = lags
        .chain(below)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map_or(String::new(), |(lag, volume, node)| {
            format!("; largest lag {} ({volume} on {node})", span(lag))
        });
    let unknown = held
        .iter()
        .filter(|h| h.volume.role == "replica" && h.volume.lag_seconds.is_none())
        .count();
    let unknown = match unknown {
        0 => String::new(),
        n => format!("; lag unknown for {}", plural(n as u64, "replica")),
    };
    format!("No problems on {}{worst}{unknown}.\n", plural(nodes.len() as u64, "node"))
}
