//! What a group says of nodes that are away: whether they are bypassed, and who steps in last.

use super::Members;
use super::values::{self, Field};
use crate::diagnostics::{Problem, Report};
use crate::raw::RawGroup;
use rcp::proto::ids::NodeName;
use std::collections::BTreeMap;

/// Whether the next hops of a node that is away are fed by the node above it.
pub(super) fn bypass(raw: &RawGroup, title: &str, report: &mut Report) -> bool {
    let owner = format!("group {title}");
    values::boolean(raw.bypass.as_ref(), Field::new("bypass", &owner), report).unwrap_or(true)
}

/// By node, who is asked to feed it when nobody above it does.
pub(super) fn fallbacks(
    raw: &RawGroup,
    members: &Members<'_>,
    report: &mut Report,
) -> BTreeMap<NodeName, Vec<NodeName>> {
    let mut out = BTreeMap::<NodeName, Vec<NodeName>>::new();
    let title = members.group;
    for (node, list) in &raw.fallbacks {
        let Some(name) = members.resolve(node, "`fallbacks`", report) else { continue };
        let parents = &members.tree.parents;
        if members.tree.complete && !parents.contains_key(&name) {
            report.add(|| {
                let text = format!("`{name}` is the primary of group {title}: nobody feeds it");
                Problem::new(&node.span, text).label("no fallbacks").hint("remove it")
            });
            continue;
        }
        let own = out.entry(name.clone()).or_default();
        for text in list {
            let Some(fallback) = members.resolve(text, "`fallbacks`", report) else { continue };
            let mut way = std::iter::successors(Some(&fallback), |n| parents.get(*n));
            let (message, label) = if parents.get(&name) == Some(&fallback) {
                (format!("`{fallback}` feeds `{name}` anyway"), "its parent")
            } else if way.any(|n| *n == name) {
                (format!("`{fallback}` cannot feed `{name}`: it is itself below it"), "a loop")
            } else if own.contains(&fallback) {
                (format!("`{fallback}` stands twice in the fallbacks of `{name}`"), "again")
            } else {
                own.push(fallback);
                continue;
            };
            report.add(|| {
                Problem::new(&text.span, format!("{message} in group {title}"))
                    .label(label)
                    .hint("remove it, or name another member")
            });
        }
    }
    out.retain(|_, list| !list.is_empty());
    out
}
