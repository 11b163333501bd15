//! How a volume gets to another node: with its files, or by a swap. Decided from what the nodes say.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use crate::api::{NodeStatus, VolumeInfo};

/// What is to be done for one volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "way", rename_all = "snake_case")]
pub(super) enum Way {
    /// It is written there already.
    There,
    /// There is a replica, which takes over; the old writer becomes a replica of it.
    Swap,
    /// Its files go there, from storage that both nodes share; nothing is copied.
    Files {
        /// The writer.
        from: String,
    },
    /// The same, begun: they were given to the node, which has not taken them.
    Take {
        /// Who gave them.
        from: String,
        /// The node knows how to get to them.
        expected: bool,
    },
    /// The same, nearly done: the node has them, and has not opened its line.
    Open,
}

impl Way {
    /// Who has the volume's files before, if they are to go.
    pub(super) fn giver(&self) -> Option<String> {
        match self {
            Self::Files { from } | Self::Take { from, .. } => Some(from.clone()),
            Self::There | Self::Swap | Self::Open => None,
        }
    }
}

/// What an operator wants, if not whatever is possible.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Only {
    Files,
    Swap,
}

/// A volume of a group, as far as the nodes know it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Known {
    pub(super) id: String,
    pub(super) label: String,
    pub(super) group: String,
}

/// All volumes of all nodes, those on their way to another node too.
pub(super) fn volumes(nodes: &[NodeStatus]) -> Vec<Known> {
    let mut all: BTreeMap<&str, Known> = BTreeMap::new();
    let known = |id: &str, label: &str, group: &str| Known {
        id: id.to_owned(),
        label: label.to_owned(),
        group: group.to_owned(),
    };
    for v in nodes.iter().flat_map(|n| &n.volumes).filter(|v| !v.id.is_empty()) {
        all.entry(&v.id).or_insert_with(|| known(&v.id, v.in_group(), &v.group));
    }
    for m in nodes.iter().flat_map(|n| &n.moved).filter(|m| m.folder.is_some()) {
        all.entry(&m.id).or_insert_with(|| known(&m.id, &m.label, &m.group));
    }
    for a in nodes.iter().flat_map(|n| &n.arriving).filter(|a| a.given) {
        all.entry(&a.id).or_insert_with(|| known(&a.id, &a.label, &a.group));
    }
    all.into_values().collect()
}

/// The volumes that have to move: routes belong to a group, and carry all of its volumes.
pub(super) fn of_volume(name: &str, to: &str, nodes: &[NodeStatus]) -> Result<Vec<Known>, String> {
    let all = volumes(nodes);
    let named: BTreeSet<&str> = nodes
        .iter()
        .flat_map(|n| &n.volumes)
        .filter(|v| v.is_called(name))
        .map(|v| v.id.as_str())
        .collect();
    let mut found =
        all.iter().filter(|k| k.label == name || k.id == name || named.contains(k.id.as_str()));
    let (Some(one), None) = (found.next(), found.next()) else {
        let labels: Vec<_> = all.iter().map(|k| k.label.as_str()).collect();
        return Err(format!(
            "no node that answered has one volume `{name}`; there are: {}. Nothing was changed",
            if labels.is_empty() { "none".to_owned() } else { labels.join(", ") }
        ));
    };
    let group: Vec<_> = all.iter().filter(|k| k.group == one.group).collect();
    if let [only] = group.as_slice() {
        return Ok(vec![(*only).clone()]);
    }
    let labels: Vec<_> = group.iter().map(|k| k.label.as_str()).collect();
    Err(format!(
        "group {g} has several volumes ({}), and its routes carry all of them from one node: `rcpctl \
         group move {g} --to {to}` moves them together. Nothing was changed",
        labels.join(", "),
        g = one.group
    ))
}

/// All volumes of a group.
pub(super) fn of_group(group: &str, nodes: &[NodeStatus]) -> Result<Vec<Known>, String> {
    let all: Vec<_> = volumes(nodes).into_iter().filter(|k| k.group == group).collect();
    if all.is_empty() {
        let known: BTreeSet<_> = volumes(nodes).into_iter().map(|k| k.group).collect();
        let known = match known.len() {
            0 => "they have none at all".to_owned(),
            _ => format!("they have of: {}", known.into_iter().collect::<Vec<_>>().join(", ")),
        };
        return Err(format!(
            "no node that answered has a volume of a group `{group}`; {known}. Nothing was changed"
        ));
    }
    Ok(all)
}

/// Who gave a volume away that was not taken yet, and to whom; whoever gave it may be silent.
fn given(id: &str, nodes: &[NodeStatus]) -> Option<(String, String)> {
    let gave = |n: &NodeStatus| {
        let waits = n.moved.iter().find(|m| m.id == id && m.folder.is_some());
        waits.map(|m| (n.node.clone(), m.to.clone()))
    };
    let got = |n: &NodeStatus| {
        let waits = n.arriving.iter().find(|a| a.id == id && a.given);
        waits.map(|a| (a.from.clone(), n.node.clone()))
    };
    nodes.iter().find_map(gave).or_else(|| nodes.iter().find_map(got))
}

/// Who gave a volume to a node, if that was with its files.
pub(super) fn giver(id: &str, to: &str, nodes: &[NodeStatus]) -> Option<String> {
    let gave = |n: &&NodeStatus| n.moved.iter().any(|m| m.id == id && m.to == to);
    nodes.iter().find(gave).map(|n| n.node.clone())
}

/// Decides for one volume; an error says what to type.
pub(super) fn way(
    k: &Known,
    to: &str,
    only: Option<Only>,
    nodes: &[NodeStatus],
) -> Result<Way, String> {
    let Known { id, label, group } = k;
    let of = |n: &NodeStatus| n.volumes.iter().find(|v| v.id == *id).cloned();
    let Some(target) = nodes.iter().find(|n| n.node == to) else {
        let names: Vec<_> = nodes.iter().map(|n| n.node.as_str()).collect();
        return Err(format!(
            "{to} did not answer, or was not asked; those that answered: {}. Nothing was changed",
            names.join(", ")
        ));
    };
    let writes = |v: &VolumeInfo| v.role == "primary" && v.fenced.is_none();
    let there = of(target);
    // One that was started again waits for a child, which it may have yet to be given.
    let opened = |v: &VolumeInfo| {
        let last = v.history.last().is_some_and(|l| l.opened_by == to);
        v.role == "primary" && v.handed_over.is_none() && v.rival.is_empty() && last
    };
    if there.as_ref().is_some_and(|v| writes(v) || opened(v)) {
        return Ok(Way::There);
    }
    let handed = |v: &VolumeInfo| v.handed_over.as_ref().is_some_and(|h| h.to == to);
    if there.as_ref().is_some_and(|v| v.role == "primary" && handed(v)) {
        return Ok(Way::Open);
    }
    if let Some((from, whose)) = given(id, nodes) {
        if whose != to {
            return Err(format!(
                "{label} was given to {whose} with all its files, and not taken yet: say `--to {whose}` \
                 first"
            ));
        }
        return Ok(Way::Take { from, expected: target.arriving.iter().any(|a| a.id == *id) });
    }
    if let Some(why) =
        there.as_ref().filter(|v| v.role == "primary").and_then(|v| v.fenced.as_ref())
    {
        return Err(format!(
            "{to} is a writer of {label} that is not let in: {why}. Nothing was changed"
        ));
    }
    match (there.map(|v| v.role), only) {
        (Some(role), Some(Only::Files)) => Err(format!(
            "{to} has a copy of {label} of its own (as its {role}): with its files a volume moves to a \
             node that has none; without --files it moves by a swap. Nothing was changed"
        )),
        (Some(role), _) if role == "relay" => Err(format!(
            "{to} only forwards {label}: delete what it keeps for that (`rcpctl volume delete {label} \
             --yes --node {to}`, after its route was removed), to move the files there, or take another \
             node. Nothing was changed"
        )),
        (Some(_), _) => Ok(Way::Swap),
        (None, Some(Only::Swap)) => Err(no_replica(label, group, to)),
        (None, _) => {
            let writer = nodes.iter().find(|n| of(n).as_ref().is_some_and(writes));
            let from = writer.map(|n| n.node.clone()).ok_or_else(|| {
                format!(
                    "no node that answered is the writer of {label}: `rcpctl failover {label} --plan` \
                     shows what can be done. Nothing was changed"
                )
            })?;
            Ok(Way::Files { from })
        }
    }
}

/// What makes a swap possible.
pub(super) fn no_replica(label: &str, group: &str, to: &str) -> String {
    format!(
        "{to} has no replica of {label}: `rcpctl group add {group} {to}` makes one (a seed); when \
         `rcpctl status {label}` shows it in step, say this again. Nothing was changed"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::HandedOver;
    use crate::shift::{ArrivingStatus, MovedStatus};

    fn volume(id: &str, role: &str, fenced: Option<&str>, handed: Option<&str>) -> VolumeInfo {
        VolumeInfo {
            id: id.into(),
            label: format!("v{id}"),
            group: "g".into(),
            role: role.into(),
            fenced: fenced.map(str::to_owned),
            handed_over: handed.map(|to| HandedOver { to: to.into(), set: 7 }),
            ..VolumeInfo::default()
        }
    }

    fn node(name: &str, volumes: Vec<VolumeInfo>) -> NodeStatus {
        NodeStatus { node: name.into(), volumes, ..NodeStatus::default() }
    }

    fn gave(name: &str, id: &str, to: &str, folder: Option<&str>) -> NodeStatus {
        let moved = MovedStatus {
            id: id.into(),
            label: format!("v{id}"),
            group: "g".into(),
            to: to.into(),
            folder: folder.map(str::to_owned),
        };
        NodeStatus { moved: vec![moved], ..node(name, vec![]) }
    }

    fn arriving(id: &str, from: &str, given: bool) -> ArrivingStatus {
        let (id, label, group) = (id.into(), format!("v{id}"), "g".into());
        ArrivingStatus { id, label, group, from: from.into(), given }
    }

    fn one(nodes: &[NodeStatus], only: Option<Only>) -> Result<Way, String> {
        way(&of_volume("v1", "b", nodes).expect("known")[0], "b", only, nodes)
    }

    #[test]
    fn the_way_follows_from_what_the_new_node_has() {
        let writer = || node("a", vec![volume("1", "primary", None, None)]);
        let b = |v| node("b", v);
        let from = || "a".to_owned();
        let replica = volume("1", "replica", None, None);
        assert_eq!(one(&[writer(), b(vec![])], None), Ok(Way::Files { from: from() }));
        assert_eq!(one(&[writer(), b(vec![replica.clone()])], None), Ok(Way::Swap));
        let there = b(vec![volume("1", "primary", None, None)]);
        assert_eq!(one(&[node("a", vec![replica.clone()]), there], None), Ok(Way::There));
        // Begun before.
        let given = gave("a", "1", "b", Some("/a/1"));
        let take = |expected| Ok(Way::Take { from: from(), expected });
        assert_eq!(one(&[given.clone(), b(vec![])], None), take(false));
        let comes = |given| NodeStatus { arriving: vec![arriving("1", "a", given)], ..b(vec![]) };
        assert_eq!(one(&[given.clone(), comes(true)], None), take(true));
        // Who gave it away is silent.
        assert_eq!(one(&[comes(true)], None), take(true));
        // It is to come, and was not given.
        assert_eq!(one(&[writer(), comes(false)], None), Ok(Way::Files { from: from() }));
        let why =
            of_volume("v1", "b", &[comes(false)]).expect_err("it is not known what became of it");
        assert!(why.contains("no node that answered"), "{why}");
        let taken = b(vec![volume("1", "primary", Some("fenced"), Some("b"))]);
        assert_eq!(one(&[gave("a", "1", "b", None), taken.clone()], None), Ok(Way::Open));
        assert_eq!(giver("1", "b", &[gave("a", "1", "b", None), taken]), Some(from()));
    }

    #[test]
    fn what_is_not_possible_is_refused_with_what_to_type() {
        let writer = || node("a", vec![volume("1", "primary", None, None)]);
        let b = |v| node("b", v);
        let replica = volume("1", "replica", None, None);
        for (nodes, only, says) in [
            (vec![writer(), b(vec![])], Some(Only::Swap), "`rcpctl group add g b`"),
            (vec![writer(), b(vec![replica])], Some(Only::Files), "without --files"),
            (vec![writer()], None, "b did not answer"),
            (vec![writer(), b(vec![volume("1", "relay", None, None)])], None, "only forwards"),
            (
                vec![node("a", vec![volume("1", "primary", Some("fenced"), None)]), b(vec![])],
                None,
                "`rcpctl failover v1 --plan`",
            ),
            (
                vec![gave("a", "1", "c", Some("/a/1")), b(vec![])],
                None,
                "was given to c with all its files, and not taken yet: say `--to c` first",
            ),
        ] {
            let why = one(&nodes, only).expect_err(says);
            assert!(why.contains(says), "{why}");
        }
        let waits = b(vec![volume("1", "primary", Some("fenced: waiting for one child"), None)]);
        let why = one(&[waits], None).expect_err("it waits");
        assert!(why.contains("not let in: fenced: waiting"), "{why}");
        // The same with a line of its own: it has to be given its children.
        let mut v = volume("1", "primary", Some("fenced: waiting for one child"), None);
        v.history = vec![crate::api::HistoryLine { opened_by: "b".into(), ..Default::default() }];
        assert_eq!(one(&[b(vec![v])], None), Ok(Way::There));
        let two = [node(
            "a",
            vec![volume("1", "primary", None, None), volume("2", "primary", None, None)],
        )];
        let why = of_volume("v1", "b", &two).expect_err("two");
        assert!(why.contains("`rcpctl group move g --to b`"), "{why}");
        assert_eq!(of_group("g", &two).expect("two").len(), 2);
        of_volume("v3", "b", &two).expect_err("unknown");
        of_group("h", &two).expect_err("unknown");
    }
}
