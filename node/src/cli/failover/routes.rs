//! How the tree is put under a new writer.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use crate::api::NodeStatus;

/// Next hops by node.
pub(in crate::cli) type Routes = BTreeMap<String, Vec<String>>;

/// One change of one node's routing table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(in crate::cli) struct Step {
    /// At which node.
    pub(in crate::cli) at: String,
    /// Remove (true) or add.
    pub(in crate::cli) remove: bool,
    /// The next hop.
    pub(in crate::cli) hop: String,
}

/// The routes of a group as the nodes that answered know them; of a node itself, its own word
/// counts.
pub(in crate::cli) fn known(group: &str, nodes: &[NodeStatus]) -> Routes {
    let mut out = Routes::new();
    let of = |n: &NodeStatus| n.groups.iter().find(|g| g.group == group).cloned();
    for g in nodes.iter().filter_map(of) {
        for (node, hops) in g.routes {
            out.entry(node).or_insert(hops);
        }
    }
    for n in nodes {
        if let Some(g) = of(n) {
            let hops = g.children.iter().map(|c| c.node.clone()).collect();
            out.insert(n.node.clone(), hops);
        }
    }
    out
}

/// What `new` feeds by default: the other children of `old`, and `old` itself.
pub(in crate::cli) fn by_default(new: &str, old: Option<&str>, known: &Routes) -> Routes {
    let mut hops: Vec<String> = old
        .and_then(|o| known.get(o))
        .into_iter()
        .flatten()
        .filter(|h| *h != new)
        .cloned()
        .collect();
    hops.extend(old.filter(|o| *o != new).map(str::to_owned));
    Routes::from([(new.to_owned(), hops)])
}

/// Nodes with a copy that nobody feeds: a change of routes let go of them, and was interrupted.
pub(in crate::cli) fn unfed(
    new: &str,
    group: &str,
    nodes: &[NodeStatus],
    known: &Routes,
) -> Vec<String> {
    let holds = |n: &&NodeStatus| n.volumes.iter().any(|v| v.group == group);
    let fed = |n: &&NodeStatus| known.values().any(|hops| hops.contains(&n.node));
    let all = nodes.iter().filter(|n| n.node != new).filter(holds).filter(|n| !fed(n));
    all.map(|n| n.node.clone()).collect()
}

/// Nodes of the topology that do not answer, and that nobody would feed when they come back: whoever
/// fed them last is gone as well, and its table with it. `wanted` is what will be.
pub(in crate::cli) fn silent(
    new: &str,
    topology: &Routes,
    answered: &[NodeStatus],
    wanted: &Routes,
    known: &Routes,
) -> Vec<String> {
    let hears = |n: &String| n == new || answered.iter().any(|a| a.node == *n);
    let fed = |n: &String| wanted.values().chain(known.values()).any(|hops| hops.contains(n));
    let members: BTreeSet<_> =
        topology.iter().flat_map(|(node, hops)| std::iter::once(node).chain(hops)).collect();
    members.into_iter().filter(|n| !hears(n) && !fed(n)).cloned().collect()
}

/// The changes that lead from the routes as they are to those wanted: whoever fed a next hop, or the
/// new writer, lets it go first.
pub(in crate::cli) fn steps(new: &str, wanted: &Routes, known: &Routes) -> Vec<Step> {
    let mut out = Vec::new();
    let mut release = |hop: &str, keep: Option<&str>| {
        for (at, _) in known
            .iter()
            .filter(|(n, hops)| hops.iter().any(|h| h == hop) && Some(n.as_str()) != keep)
        {
            let step = Step { at: at.clone(), remove: true, hop: hop.to_owned() };
            if !out.contains(&step) {
                out.push(step);
            }
        }
    };
    release(new, None);
    for (at, hops) in wanted {
        for hop in hops {
            release(hop, Some(at));
        }
    }
    for (at, hops) in wanted {
        for hop in hops {
            if !known.get(at).is_some_and(|h| h.contains(hop)) {
                out.push(Step { at: at.clone(), remove: false, hop: hop.clone() });
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn routes(list: &[(&str, &[&str])]) -> Routes {
        let hops = |h: &[&str]| h.iter().map(|s| (*s).to_owned()).collect();
        list.iter().map(|(n, h)| ((*n).to_owned(), hops(h))).collect()
    }

    fn words(steps: &[Step]) -> Vec<String> {
        let word = |s: &Step| format!("{} {} {}", s.at, if s.remove { "-" } else { "+" }, s.hop);
        steps.iter().map(word).collect()
    }

    #[test]
    fn a_leaf_takes_over_from_the_root_and_feeds_what_the_root_fed() {
        let now = routes(&[("p", &["f1", "f2"]), ("f1", &["l1", "l2"]), ("f2", &["l3"])]);
        let wanted = by_default("l1", Some("p"), &now);
        assert_eq!(wanted, routes(&[("l1", &["f1", "f2", "p"])]));
        let s = words(&steps("l1", &wanted, &now));
        assert_eq!(s, ["f1 - l1", "p - f1", "p - f2", "l1 + f1", "l1 + f2", "l1 + p"]);
    }

    #[test]
    fn who_was_let_go_of_and_not_taken_on_is_found() {
        let volumes = vec![crate::api::VolumeInfo { group: "g".into(), ..Default::default() }];
        let node =
            |n: &str| NodeStatus { node: n.into(), volumes: volumes.clone(), ..Default::default() };
        let empty = NodeStatus { node: "x".into(), ..NodeStatus::default() };
        let nodes = [node("p"), node("l1"), node("l2"), node("l3"), empty];
        let now = routes(&[("l1", &["l3"]), ("gone", &["p"])]);
        assert_eq!(unfed("l1", "g", &nodes, &now), ["l2"]);
    }

    #[test]
    fn who_was_away_while_the_writer_changed_twice_is_not_forgotten() {
        let file = routes(&[("p", &["l1", "f1", "l2"]), ("f1", &["l3"])]);
        let node = |n: &str| NodeStatus { node: n.into(), ..NodeStatus::default() };
        // l1 took over from p, with f1 and l2 away, and is gone; p, whose table is empty, is next.
        let known = routes(&[("p", &[]), ("f1", &["l3"])]);
        let wanted = by_default("p", Some("l1"), &known);
        let found = silent("p", &file, &[node("p")], &wanted, &known);
        assert_eq!(found, ["f1", "l2"], "l1 is wanted, and f1 feeds l3 when it is back");
        // Who answers says by itself whether it needs a feeder.
        let found = silent("p", &file, &[node("p"), node("l2")], &wanted, &known);
        assert_eq!(found, ["f1"]);
    }

    #[test]
    fn what_is_there_already_is_not_asked_for_again() {
        let now = routes(&[("f1", &["l1", "p"])]);
        assert!(steps("f1", &routes(&[("f1", &["l1", "p"])]), &now).is_empty());
        assert_eq!(by_default("f1", None, &now), routes(&[("f1", &[])]));
    }
}
