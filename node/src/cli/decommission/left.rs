//! What only an operator can do after a node has left the tree.

use std::path::Path;

use config::Topology;

use crate::api::NodeStatus;
use crate::cli::failover::{Nodes, topology};
use crate::cli::output::Failed;
use crate::cli::target::Target;
use crate::volumes::owner;

/// In the order in which it is done.
pub(super) fn by_hand(node: &str, nodes: &Nodes, target: &Target) -> Result<Vec<String>, Failed> {
    let mut out = Vec::new();
    let known = topology(target)?;
    let name = target.topology.as_ref().map(|f| f.display().to_string()).unwrap_or_default();
    if let Some(t) = &known {
        let lines = lines(node, t);
        out.push(format!(
            "in {name}, take out {}; then `rcpctl topology apply {name}`",
            lines.join(", ")
        ));
    }
    out.push(format!("disable its service (`systemctl disable rcpd@{node}`), if it has one"));
    let folder = nodes.client(node).and_then(|c| c.folder().map(|f| f.display().to_string()));
    let folder = folder.or_else(|| {
        let t = known.as_ref()?;
        let plan = t.nodes().find(|n| n.name.as_str() == node)?;
        Some(plan.data.display().to_string())
    });
    if let Some(folder) = folder {
        out.push(format!(
            "when nobody wants what it holds any more, delete its data folder: {folder}"
        ));
    }
    let own = nodes.all.iter().find(|n| n.node == node);
    for (label, path) in known.iter().flat_map(|t| backing(node, t, own, &owner::named)) {
        let word = match own {
            Some(_) => String::new(),
            // What it holds is not known.
            None => format!(
                ", unless {path}.rcp-owner names another node: a volume that was moved with its files \
                 lies there still"
            ),
        };
        out.push(format!(
            "and the content of {label} there, which lies outside of it: {path}{word}"
        ));
    }
    if let Some(pki) = known.as_ref().and_then(Topology::pki) {
        let pki = pki.display();
        out.push(format!(
            "revoke its certificate: `rcpctl pki revoke {node}` (in {pki}), and give `crl.pem` to all \
             nodes"
        ));
    }
    Ok(out)
}

/// Content outside the data folder that is the node's, as far as the topology says where it is: not of
/// what it does not have, or gave away with all its files, nor what is said to be another node's.
fn backing(
    node: &str,
    t: &Topology,
    own: Option<&NodeStatus>,
    owner: &dyn Fn(&Path) -> Option<String>,
) -> Vec<(String, String)> {
    let data = t.nodes().find(|n| n.name.as_str() == node).map(|n| n.data.clone());
    let mut out = Vec::new();
    for (g, v) in t.groups().flat_map(|g| g.volumes.iter().map(move |v| (g, v))) {
        let Some((_, path)) = v.backing.iter().find(|(n, _)| n.as_str() == node) else { continue };
        let (group, label) = (g.name.as_str(), v.label.as_str());
        let has = |n: &NodeStatus| {
            let went = n.moved.iter().any(|m| m.group == group && m.label == label);
            !went && n.volumes.iter().any(|v| v.group == group && v.in_group() == label)
        };
        let path = data.as_ref().map_or_else(|| path.clone(), |data| data.join(path));
        let anothers = owner(&path).is_some_and(|o| o != node);
        if own.is_none_or(has) && !anothers {
            out.push((label.to_owned(), path.display().to_string()));
        }
    }
    out
}

/// Where a topology names a node.
fn lines(node: &str, t: &Topology) -> Vec<String> {
    let mut out = vec![format!("`nodes.{node}`")];
    for g in t.groups() {
        let group = format!("groups.{}", g.name);
        let is = |n: &rcp::proto::ids::NodeName| n.as_str() == node;
        let mut put = |there: bool, what: String| {
            if there {
                out.push(format!("`{group}.{what}`"));
            }
        };
        put(is(&g.primary), "primary".to_owned());
        for (from, hops) in &g.routes {
            put(is(from), format!("routes.{from}"));
            put(!is(from) && hops.iter().any(is), format!("routes.{from}: {node}"));
        }
        put(g.feeders.iter().any(is), format!("feeders: {node}"));
        put(g.forward_only.iter().any(is), format!("forward_only: {node}"));
        put(g.overrides.keys().any(is), format!("overrides.{node}"));
        put(g.fallbacks.keys().any(is), format!("fallbacks.{node}"));
        for (n, list) in &g.fallbacks {
            put(!is(n) && list.iter().any(is), format!("fallbacks.{n}: {node}"));
        }
        for (to, table) in &g.on_failover {
            let within = table.iter().any(|(n, hops)| is(n) || hops.iter().any(is));
            put(is(to) || within, format!("on_failover.{to}"));
        }
        for v in &g.volumes {
            put(v.backing.keys().any(is), format!("volumes.{}.backing: {node}", v.label));
            put(v.labels.keys().any(is), format!("volumes.{}.as: {node}", v.label));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::VolumeInfo;
    use crate::shift::MovedStatus;

    #[test]
    fn every_place_that_names_it_is_told() {
        let text = "version: 1\nnodes:\n  p: {listen: 127.0.0.1:1, data: p}\n  f: {listen: \
                    127.0.0.1:2, data: f}\n  l: {listen: 127.0.0.1:3, data: l}\n  m: {listen: 127.0.0.1:4, data: m}\n\
                    groups:\n  g:\n    primary: p\n    routes: {p: [f, m], f: [l]}\n    fallbacks: {m: [f]}\n    \
                    on_failover: {f: {f: [p, l]}}\n    volumes: {v: {size: 8 MiB, backing: {f: x.img}}}\n";
        let t = Topology::compile(text, "t").map_err(|e| e.plain()).expect("a topology");
        let all = lines("f", &t);
        for word in [
            "nodes.f",
            "groups.g.routes.p: f",
            "groups.g.routes.f",
            "groups.g.fallbacks.m: f",
            "groups.g.on_failover.f",
            "groups.g.volumes.v.backing: f",
        ] {
            assert!(all.contains(&format!("`{word}`")), "{word}: {all:?}");
        }
        assert_eq!(lines("p", &t)[1], "`groups.g.primary`");
        let nobody = |_: &Path| None;
        let there = |own: Option<&NodeStatus>| backing("f", &t, own, &nobody);
        let [(label, path)] = &there(None)[..] else { panic!("the content of v") };
        assert!(label == "v" && path.ends_with("f/x.img"), "{path}");
        // What it has not is not its to delete, nor what it gave away, or what another uses.
        let mut f = NodeStatus { node: "f".into(), ..NodeStatus::default() };
        assert_eq!(there(Some(&f)), []);
        f.volumes = vec![VolumeInfo { label: "v".into(), group: "g".into(), ..Default::default() }];
        assert_eq!(there(Some(&f)).len(), 1);
        assert_eq!(backing("f", &t, Some(&f), &|_| Some("f".to_owned())).len(), 1);
        assert_eq!(backing("f", &t, Some(&f), &|_| Some("p".to_owned())), []);
        assert_eq!(backing("f", &t, None, &|_| Some("p".to_owned())), []);
        let moved = MovedStatus { label: "v".into(), group: "g".into(), ..Default::default() };
        f.moved = vec![moved];
        assert_eq!(there(Some(&f)), []);
    }
}
