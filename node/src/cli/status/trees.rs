//! The tree of each group, put together from what every asked node knows.

use std::collections::{BTreeMap, BTreeSet};

use config::units::approx_size;

use crate::api::{LinkStatus, NodeStatus};
use crate::cli::text::between;

/// What is known of one group.
#[derive(Default)]
struct Known<'a> {
    /// Node → next hops.
    hops: BTreeMap<&'a str, Vec<&'a str>>,
    /// Nodes that answered: their role.
    roles: BTreeMap<&'a str, &'a str>,
    /// Child → the link above it, as its parent sees it, or else as it sees it itself.
    links: BTreeMap<&'a str, (&'a LinkStatus, u64)>,
    volumes: BTreeSet<&'a str>,
    drift: Vec<&'a str>,
}

pub(super) fn draw(nodes: &[&NodeStatus], wanted: &dyn Fn(&str) -> bool) -> Vec<String> {
    let mut groups: BTreeMap<&str, Known<'_>> = BTreeMap::new();
    for node in nodes {
        for g in &node.groups {
            let known = groups.entry(&g.group).or_default();
            known.roles.insert(&node.node, &g.role);
            for child in &g.children {
                add_hop(known, &node.node, &child.node);
                known.links.insert(&child.node, (child, node.at_us));
            }
            if let Some(parent) = &g.parent {
                add_hop(known, &parent.node, &node.node);
                known.links.entry(&node.node).or_insert((parent, node.at_us));
            }
            known.drift.extend(g.drift.iter().map(String::as_str));
        }
        for v in &node.volumes {
            groups.entry(&v.group).or_default().volumes.insert(&v.label);
        }
    }
    // What a node knows of the tree below counts where the nodes themselves said nothing.
    for g in nodes.iter().flat_map(|n| &n.groups) {
        let Some(known) = groups.get_mut(g.group.as_str()) else { continue };
        for (from, hops) in g.routes.iter().filter(|(from, _)| !has_answered(nodes, from)) {
            for to in hops {
                add_hop(known, from, to);
            }
        }
    }
    groups
        .iter()
        .filter(|(_, known)| known.volumes.is_empty() || known.volumes.iter().any(|v| wanted(v)))
        .filter(|(_, known)| !known.roles.is_empty())
        .map(|(group, known)| picture(group, known))
        .collect()
}

fn has_answered(nodes: &[&NodeStatus], name: &str) -> bool {
    nodes.iter().any(|n| n.node == name)
}

/// One parent per child: the first that is known stays.
fn add_hop<'a>(known: &mut Known<'a>, from: &'a str, to: &'a str) {
    if known.hops.values().any(|hops| hops.contains(&to)) || from == to {
        return;
    }
    known.hops.entry(from).or_default().push(to);
}

fn picture(group: &str, known: &Known<'_>) -> String {
    let below: BTreeSet<&str> = known.hops.values().flatten().copied().collect();
    let mut names: BTreeSet<&str> = known.hops.keys().copied().collect();
    names.extend(known.roles.keys().copied());
    let mut rows: Vec<(String, &str)> = Vec::new();
    for root in names.iter().filter(|n| !below.contains(*n)) {
        walk(known, root, "", "", &mut rows);
    }
    let width = rows.iter().map(|(text, _)| text.chars().count()).max().unwrap_or(0);
    let mut out = format!("GROUP {group}\n");
    for (text, node) in rows {
        let role = known.roles.get(node).copied().unwrap_or("not asked");
        let link = known.links.get(node).map_or(String::new(), |(link, now)| words(link, *now));
        let line = format!("{text:width$}  {role:9}  {link}");
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

/// Tables of several nodes may contradict each other for a moment: what is shown already is not
/// entered again.
fn walk<'a>(
    known: &Known<'a>,
    node: &'a str,
    lead: &str,
    below: &str,
    rows: &mut Vec<(String, &'a str)>,
) {
    if rows.iter().any(|(_, shown)| *shown == node) {
        return;
    }
    rows.push((format!("{lead}{node}"), node));
    let children = known.hops.get(node).map_or(&[][..], Vec::as_slice);
    for (i, child) in children.iter().enumerate() {
        let (turn, on) =
            if i + 1 == children.len() { ("└── ", "    ") } else { ("├── ", "│   ") };
        walk(known, child, &format!("{below}{turn}"), &format!("{below}{on}"), rows);
    }
}

/// `connected 2 h, 5 MiB` or `waiting for 12 s: connection refused`.
fn words(link: &LinkStatus, now_us: u64) -> String {
    let since = match link.since_us {
        0 => String::new(),
        since => format!(" {}", between(since, now_us)),
    };
    if link.state == "connected" {
        return format!("connected{since}, {} sent", approx_size(link.bytes));
    }
    match &link.reason {
        Some(reason) => format!("{}{since}: {reason}", link.state),
        None => format!("{}{since}", link.state),
    }
}
