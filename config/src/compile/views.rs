//! Mirrors, which are replicas with `views: on_demand`, and what does not go together with them.

use super::Members;
use super::values::Field;
use crate::diagnostics::{Problem, Report};
use crate::plan::{Override, Playback, Views};
use crate::raw::RawGroup;
use crate::suggest;
use crate::value::shown;
use crate::yaml::Text;
use rcp::proto::ids::NodeName;
use std::collections::{BTreeMap, BTreeSet};

/// Whether replicas are read.
pub(super) fn read(text: Option<&Text>, field: Field<'_>, report: &mut Report) -> Option<Views> {
    let text = text?;
    let all = [Views::Always, Views::OnDemand];
    let found = all.into_iter().find(|v| v.as_str() == text.value);
    if found.is_none() {
        report.add(|| {
            let value = shown(&text.value);
            Problem::new(&text.span, format!("{field} cannot be {value}")).hint(suggest::hint(
                &text.value,
                all.map(Views::as_str),
                "its values",
            ))
        });
    }
    found
}

/// A mirror has no readers who could find it too old, and a node that only forwards has nothing to
/// read.
pub(super) fn check(
    raw: &RawGroup,
    group: &Playback,
    overrides: &BTreeMap<NodeName, Override>,
    forward_only: &BTreeSet<NodeName>,
    members: &Members<'_>,
    report: &mut Report,
) {
    let title = members.group;
    let mirrors = |views| views == Views::OnDemand;
    let said = raw.playback.max_staleness.as_ref();
    if let Some(text) = said.filter(|_| mirrors(group.views) && group.max_staleness.is_some()) {
        report.add(|| too_old(text, &format!("the replicas of group {title}")));
    }
    for (name, raw) in &raw.overrides {
        let Some((node, own)) = overrides.iter().find(|(n, _)| n.as_str() == name.value) else {
            continue;
        };
        if let Some(text) = raw.views.as_ref().filter(|_| forward_only.contains(node)) {
            report.add(|| {
                Problem::new(&text.span, format!("`{node}` only forwards in group {title}"))
                    .label("no replica to read")
                    .hint("remove `views` here, or the node from `forward_only`")
            });
            continue;
        }
        let oldest = own.max_staleness.or(group.max_staleness);
        let text = raw.views.as_ref().or(raw.max_staleness.as_ref());
        if let Some(text) = text.filter(|_| mirrors(own.views.unwrap_or(group.views)))
            && oldest.is_some()
        {
            report.add(|| too_old(text, &format!("`{node}` in group {title}")));
        }
    }
}

fn too_old(text: &Text, whom: &str) -> Problem {
    let what = format!("`views: on_demand` and `max_staleness` do not go together for {whom}");
    Problem::new(&text.span, what)
        .label("a mirror is read when a version of it is wanted, whatever its age")
        .hint(
            "give `max_staleness` in `overrides` to those that are read, or write `views: always`",
        )
}
