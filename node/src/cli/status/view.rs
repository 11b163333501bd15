//! The whole picture: nodes, trees, volumes, details, and last, next to the prompt, what is wrong.

use super::{Asked, problems, sets, trees, volumes};
use crate::api::NodeStatus;
use crate::cli::columns::columns;
use crate::cli::output::Failed;
use crate::cli::text::between;

/// What of it.
#[derive(Clone, Copy, Debug, Default)]
pub struct View<'a> {
    /// Only this volume.
    pub volume: Option<&'a str>,
    /// Details of volumes, with so many lines of their delta-set tables.
    pub lines: Option<usize>,
    /// Nodes of the topology that are not on this machine.
    pub elsewhere: &'a [String],
    /// Problems in red.
    pub colour: bool,
}

/// Draws the picture.
///
/// # Errors
/// When a volume is asked for that none of the nodes has.
pub fn render(asked: &[Asked], view: &View<'_>) -> Result<String, Failed> {
    let mut nodes: Vec<&NodeStatus> = asked.iter().filter_map(|a| a.answer.as_ref().ok()).collect();
    nodes.sort_by_key(|n| rank(n));
    let wanted = |label: &str| view.volume.is_none_or(|v| v == label);
    if let Some(volume) = view.volume
        && !nodes.is_empty()
        && !nodes
            .iter()
            .flat_map(|n| &n.volumes)
            .any(|v| v.label == volume || v.in_group() == volume)
    {
        return Err(Failed::new(not_there(volume, &nodes)));
    }
    let mut parts = Vec::new();
    if !nodes.is_empty() {
        parts.push(node_lines(&nodes));
    }
    let silent = asked.iter().filter(|a| a.answer.is_err()).map(|a| a.called.as_str()).collect();
    parts.extend(trees::draw(&nodes, &silent, &wanted));
    let held = volumes::held(&nodes, &wanted);
    if !held.is_empty() {
        parts.push(volumes::overview(&held));
    }
    if let Some(lines) = view.lines {
        parts.extend(held.iter().map(|h| volumes::detail(h)));
        parts.extend(sets::tables(&held, lines));
    }
    if !view.elsewhere.is_empty() {
        parts.push(format!("not on this machine, and not asked: {}\n", view.elsewhere.join(", ")));
    }
    let mut text = tame(&parts.join("\n"));
    text.push('\n');
    let problems = problems::find(asked, &nodes, &wanted);
    text.push_str(&problems::verdict(&problems, &nodes, &held, view.colour));
    Ok(text)
}

/// Primaries first, then forwarders, then leaves; by name among equals.
fn rank(node: &NodeStatus) -> (usize, String) {
    let roles = ["primary", "forwarder", "relay", "leaf"];
    let best = node
        .groups
        .iter()
        .filter_map(|g| roles.iter().position(|r| *r == g.role))
        .min()
        .unwrap_or(roles.len());
    (best, node.node.clone())
}

fn node_lines(nodes: &[&NodeStatus]) -> String {
    let rows: Vec<Vec<String>> = nodes
        .iter()
        .map(|n| {
            vec![
                n.node.clone(),
                between(n.started_us, n.at_us),
                n.version.clone(),
                n.listen.clone(),
                n.nbd.join(" "),
            ]
        })
        .collect();
    columns(&["NODE", "UP", "VERSION", "RCP AND HTTP", "NBD"], &rows)
}

fn not_there(volume: &str, nodes: &[&NodeStatus]) -> String {
    let mut known: Vec<&str> =
        nodes.iter().flat_map(|n| &n.volumes).map(|v| v.label.as_str()).collect();
    known.sort_unstable();
    known.dedup();
    let names: Vec<&str> = nodes.iter().map(|n| n.node.as_str()).collect();
    let list = if known.is_empty() {
        "there are none".to_owned()
    } else {
        format!("there are: {}", known.join(", "))
    };
    format!("no volume `{volume}` on {}; {list}", names.join(", "))
}

/// Words of peers reach a terminal here: no control characters but the end of a line.
pub(in crate::cli) fn tame(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\n' { '?' } else { c }).collect()
}
