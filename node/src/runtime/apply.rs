//! A changed topology in a running node: what it takes at once, and what waits for a restart.

use std::collections::BTreeMap;

use config::Topology;
use config::diff::{Change, NodeDiff};
use rcp::proto::ids::NodeName;

use super::start::group_plan;
use crate::api::TopologyTaken;
use crate::mover::Learned;

/// What a node learns from `new`, and what there is to say; `old` is what it was started with, or
/// learned last.
///
/// # Errors
/// In words: the node is not in it.
pub(super) fn compare(
    old: &Topology,
    new: &Topology,
    node: &NodeName,
) -> Result<(Learned, TopologyTaken), String> {
    if new.node(node).is_none() {
        let names: Vec<_> = new.nodes().map(|n| n.name.as_str()).collect();
        return Err(format!(
            "{node} is not in this topology; its nodes are: {}. Nothing was changed",
            names.join(", ")
        ));
    }
    let addresses = |t: &Topology| -> BTreeMap<NodeName, String> {
        t.nodes().map(|n| (n.name.clone(), n.address.to_string())).collect()
    };
    let (before, after) = (addresses(old), addresses(new));
    let mut told = TopologyTaken::default();
    for (name, address) in after.iter().filter(|(name, _)| *name != node) {
        match before.get(name) {
            None => told.taken.push(format!("+ node {name} at {address}")),
            Some(was) if was != address => {
                told.taken.push(format!("~ node {name}: address {was} → {address}"));
            }
            Some(_) => {}
        }
    }
    let gone = before.keys().filter(|n| !after.contains_key(*n));
    told.taken.extend(gone.map(|n| format!("- node {n}")));
    let mut groups = BTreeMap::new();
    for g in new.groups_of(node).filter(|g| old.group(&g.name).is_some_and(|o| o.is_member(node))) {
        let plan = group_plan(g, node);
        let was = old.group(&g.name).map(|o| group_plan(o, node)).unwrap_or_default();
        let names = |all: &[NodeName], but: &[NodeName]| {
            let new: Vec<_> =
                all.iter().filter(|n| !but.contains(n)).map(NodeName::as_str).collect();
            new.join(", ")
        };
        for (sign, all, but) in
            [('+', &plan.members, &was.members), ('-', &was.members, &plan.members)]
        {
            let list = names(all, but);
            if !list.is_empty() {
                told.taken.push(format!("{sign} {}: may feed this node: {list}", g.name));
            }
        }
        groups.insert(g.name.clone(), plan);
    }
    for change in NodeDiff::between(old, new, node).changes {
        match &change {
            Change::Route { group, change: r } if r.node == *node => {
                let what = if r.added { "add" } else { "delete" };
                told.routes.push(format!(
                    "{change}: routes are not touched; `rcproute {node}: {what} group={group} \
                     nexthop={}`",
                    r.next_hop
                ));
            }
            // Told by whom they are of.
            Change::Route { .. } | Change::Parent { .. } => {}
            _ => told.restart.push(change.to_string()),
        }
    }
    Ok((Learned { addresses: after, groups, enters: false }, told))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topology(text: &str) -> Topology {
        Topology::compile(text, "t.yaml").expect("a topology")
    }

    const NODES: &str = "version: 1\nnodes:\n  a: {listen: \"127.0.0.1:7101\", data: ./a}\n  \
                         b: {listen: \"127.0.0.1:7102\", data: ./b}\n";

    fn with(nodes: &str, routes: &str, volume: &str) -> Topology {
        topology(&format!(
            "{NODES}{nodes}groups:\n  g1:\n    primary: a\n    routes: {routes}\n    volumes: \
             {{v: {{size: {volume}}}}}\n"
        ))
    }

    #[test]
    fn a_new_node_is_learned_and_the_rest_is_said() {
        let old = with("", "{a: [b]}", "8MiB");
        let c = "  c: {listen: \"127.0.0.1:7103\", data: ./c}\n";
        let new = with(c, "{a: [b, c]}", "16MiB");
        let a = NodeName::new("a").expect("valid");
        let (learned, told) = compare(&old, &new, &a).expect("compared");
        assert_eq!(learned.addresses.len(), 3);
        let members = &learned.groups.values().next().expect("a group").members;
        assert!(members.iter().any(|n| n.as_str() == "c"), "{members:?}");
        assert_eq!(told.taken, ["+ node c at 127.0.0.1:7103", "+ g1: may feed this node: c"]);
        let [route] = told.routes.as_slice() else { panic!("{told:?}") };
        assert!(route.contains("`rcproute a: add group=g1 nexthop=c`"), "{route}");
        let [restart] = told.restart.as_slice() else { panic!("{told:?}") };
        assert!(restart.contains("volume v: size"), "{restart}");

        let (_, told) = compare(&new, &new, &a).expect("compared");
        assert_eq!(told, TopologyTaken::default());
        let c = NodeName::new("c").expect("valid");
        let no = compare(&new, &old, &c).expect_err("not in it");
        assert!(no.contains("c is not in this topology; its nodes are: a, b"), "{no}");
    }
}
