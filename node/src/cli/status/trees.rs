//! The tree of each group, put together from what every asked node knows.

use std::collections::{BTreeMap, BTreeSet};

use config::units::approx_size;

use crate::api::{LinkStatus, NodeStatus};
use crate::cli::text::between;

/// A link, and from which side it is seen.
#[derive(Clone, Copy)]
struct Link<'a> {
    link: &'a LinkStatus,
    now_us: u64,
    /// What its bytes are: `sent` by the parent or `received` by the child.
    bytes: &'static str,
}

/// What is known of one group.
#[derive(Default)]
struct Known<'a> {
    /// Node → next hops.
    hops: BTreeMap<&'a str, Vec<&'a str>>,
    /// Child → parent: the first that is known stays.
    parents: BTreeMap<&'a str, &'a str>,
    /// Nodes that answered: their role.
    roles: BTreeMap<&'a str, &'a str>,
    /// Child → the link above it, as its parent sees it, or else as it sees it itself.
    links: BTreeMap<&'a str, Link<'a>>,
    volumes: BTreeSet<&'a str>,
    drift: Vec<&'a str>,
}

pub(super) fn draw(
    nodes: &[&NodeStatus],
    silent: &BTreeSet<&str>,
    wanted: &dyn Fn(&str) -> bool,
) -> Vec<String> {
    let mut groups: BTreeMap<&str, Known<'_>> = BTreeMap::new();
    for node in nodes {
        for g in &node.groups {
            let known = groups.entry(&g.group).or_default();
            known.roles.insert(&node.node, &g.role);
            for child in &g.children {
                add_hop(known, &node.node, &child.node);
                let link = Link { link: child, now_us: node.at_us, bytes: "sent" };
                if known.links.get(&*child.node).is_none_or(|l| l.link.state != "connected") {
                    known.links.insert(&child.node, link);
                }
            }
            if let Some(parent) = &g.parent {
                add_hop(known, &parent.node, &node.node);
                let link = Link { link: parent, now_us: node.at_us, bytes: "received" };
                known.links.entry(&node.node).or_insert(link);
            }
            known.drift.extend(g.drift.iter().map(String::as_str));
        }
        for v in &node.volumes {
            groups.entry(&v.group).or_default().volumes.extend([v.label.as_str(), v.in_group()]);
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
        .map(|(group, known)| picture(group, known, silent))
        .collect()
}

fn has_answered(nodes: &[&NodeStatus], name: &str) -> bool {
    nodes.iter().any(|n| n.node == name)
}

/// One parent per child.
fn add_hop<'a>(known: &mut Known<'a>, from: &'a str, to: &'a str) {
    if from != to && !known.parents.contains_key(to) {
        known.parents.insert(to, from);
        known.hops.entry(from).or_default().push(to);
    }
}

fn picture(group: &str, known: &Known<'_>, silent: &BTreeSet<&str>) -> String {
    let mut names: BTreeSet<&str> = known.hops.keys().copied().collect();
    names.extend(known.roles.keys().copied());
    let mut rows: Vec<(String, &str)> = Vec::new();
    let mut shown = BTreeSet::new();
    for root in names.iter().filter(|n| !known.parents.contains_key(*n)) {
        walk(known, root, ["", ""], &mut shown, &mut rows);
    }
    // Tables of several nodes may contradict each other for a moment, and make a ring.
    for name in &names {
        walk(known, name, ["", ""], &mut shown, &mut rows);
    }
    let width = rows.iter().map(|(text, _)| text.chars().count()).max().unwrap_or(0);
    let mut out = format!("GROUP {group}\n");
    for (text, node) in rows {
        let unknown = if silent.contains(node) { "silent" } else { "not asked" };
        let role = known.roles.get(node).copied().unwrap_or(unknown);
        let link = known.links.get(node).map_or(String::new(), |l| words(*l));
        let line = format!("{text:width$}  {role:9}  {link}");
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

/// Draws a node and what is below it; what is shown already is not entered again. `before` is what
/// stands before the node, and before its children.
fn walk<'a>(
    known: &Known<'a>,
    node: &'a str,
    before: [&str; 2],
    shown: &mut BTreeSet<&'a str>,
    rows: &mut Vec<(String, &'a str)>,
) {
    if !shown.insert(node) {
        return;
    }
    let [lead, below] = before;
    rows.push((format!("{lead}{node}"), node));
    let children = known.hops.get(node).map_or(&[][..], Vec::as_slice);
    for (i, child) in children.iter().enumerate() {
        let (turn, on) =
            if i + 1 == children.len() { ("└── ", "    ") } else { ("├── ", "│   ") };
        let before = [&*format!("{below}{turn}"), &*format!("{below}{on}")];
        walk(known, child, before, shown, rows);
    }
}

/// What is said of a link, and of its bypass.
fn words(of: Link<'_>) -> String {
    let place = of.link.in_place_of.as_ref().map(|n| format!(", in the place of {n}"));
    let bypass = of.link.bypass.as_ref().map(|b| format!("; {b}"));
    format!("{}{}{}", state(of), place.unwrap_or_default(), bypass.unwrap_or_default())
}

/// `connected 2 h, 5 MiB sent` or `waiting for 12 s: connection refused`.
fn state(Link { link, now_us, bytes }: Link<'_>) -> String {
    let since = match link.since_us {
        0 => String::new(),
        since => format!(" {}", between(since, now_us)),
    };
    if link.state == "connected" {
        let by = match link.transport.as_str() {
            "" => String::new(),
            by => format!(" by {by}"),
        };
        let limit = link.limit_in_words.as_ref().map_or(String::new(), |l| format!(", {l}"));
        let several = link.connections.as_ref().map_or(String::new(), |c| format!(", {c}"));
        let size = approx_size(link.bytes);
        return format!("connected{since}{by}{several}, {size} {bytes}{limit}");
    }
    match &link.reason {
        Some(reason) => format!("{}{since}: {reason}", link.state),
        None => format!("{}{since}", link.state),
    }
}
