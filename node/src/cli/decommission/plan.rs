//! What taking a node out of service needs, and what stands against it; decided from what the nodes and
//! the topology say.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use crate::api::{NodeStatus, VolumeInfo};
use crate::cli::failover::routes::{self, Routes};

/// What is known when it is decided.
#[derive(Debug, Default)]
pub(super) struct Scene<'a> {
    pub(super) node: &'a str,
    pub(super) nodes: &'a [NodeStatus],
    /// Asked, and silent.
    pub(super) silent: BTreeSet<String>,
    /// Groups in which commands name it.
    pub(super) listed: BTreeSet<String>,
    /// Groups in whose routes the topology names it.
    pub(super) named: BTreeSet<String>,
    /// `fallbacks` of the topology, by group.
    pub(super) fallbacks: BTreeMap<String, BTreeMap<String, Vec<String>>>,
    /// Who is to feed those that it feeds, on the operator's word.
    pub(super) below: Option<&'a str>,
    /// It never comes back, on the operator's word.
    pub(super) gone: bool,
}

/// A node that it feeds, and who is to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Home {
    pub(super) child: String,
    pub(super) parent: String,
}

/// What is to be done in one group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct InGroup {
    pub(super) group: String,
    /// Who feeds it.
    pub(super) parent: Option<String>,
    pub(super) homes: Vec<Home>,
    /// Commands made it a member, or named it otherwise.
    pub(super) listed: bool,
}

/// All of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Plan {
    /// Why not, with what to type.
    pub(super) refused: Vec<String>,
    pub(super) groups: Vec<InGroup>,
}

impl Plan {
    /// There is nothing left of it in the tree.
    pub(super) fn is_done(&self) -> bool {
        let empty = |g: &InGroup| g.parent.is_none() && g.homes.is_empty() && !g.listed;
        self.refused.is_empty() && self.groups.iter().all(empty)
    }
}

impl Scene<'_> {
    fn status(&self, node: &str) -> Option<&NodeStatus> {
        self.nodes.iter().find(|n| n.node == node)
    }

    /// The others.
    fn others(&self) -> impl Iterator<Item = &NodeStatus> {
        self.nodes.iter().filter(|n| n.node != self.node)
    }

    fn copies(&self, id: &str) -> impl Iterator<Item = (&str, &VolumeInfo)> {
        let id = id.to_owned();
        self.others().flat_map(move |n| {
            let id = id.clone();
            n.volumes.iter().filter(move |v| v.id == id).map(|v| (n.node.as_str(), v))
        })
    }

    /// Who could write a volume in its place.
    fn successor(&self, v: &VolumeInfo) -> Option<&str> {
        let whole = self.copies(&v.id).filter(|(_, c)| c.role == "replica" && c.damage.is_none());
        whole.max_by_key(|(_, c)| c.saved_set).map(|(n, _)| n)
    }

    /// It writes, or holds what nobody else has.
    fn needed(&self) -> Vec<String> {
        let node = self.node;
        let mut out = Vec::new();
        let Some(own) = self.status(node) else { return self.needed_in_silence() };
        for v in &own.volumes {
            let (label, group) = (&v.label, &v.group);
            let moves = |to: &str| format!("`rcpctl group move {group} --to {to}`");
            match (v.role.as_str(), &v.fenced) {
                ("primary", None) => out.push(match self.successor(v) {
                    Some(to) => format!("it is the writer of {label}: {} first", moves(to)),
                    None => format!(
                        "it is the writer of {label}, and no other node has a replica: {} with all its \
                         files, if that node shares its storage, or `rcpctl group add {group} OTHER` and \
                         then the same",
                        moves("OTHER")
                    ),
                }),
                ("primary", Some(why)) => out.push(format!(
                    "it was the writer of {label}, and what it holds beyond the new one's line would be \
                     lost ({why}): `rcpctl resync {label}` at {node} first"
                )),
                ("replica", _) if !self.copies(&v.id).any(|(_, c)| c.role == "replica") => {
                    out.push(format!(
                        "it has the only replica of {label}: `rcpctl group add {group} OTHER` makes \
                         another (wait until `rcpctl status {label}` shows it in step); or, if {label} is \
                         to have none, `rcpctl volume delete {label} --yes` at {node}"
                    ));
                }
                _ => {}
            }
        }
        for m in own.moved.iter().filter(|m| m.folder.is_some()) {
            out.push(format!(
                "it gave {} to {}, which has not taken it: `rcpctl group move {} --to {}` first",
                m.label, m.to, m.group, m.to
            ));
        }
        for a in own.arriving.iter().filter(|a| a.given) {
            out.push(format!(
                "{} gave it {} with all its files, and it has not taken them: `rcpctl group move {} --to \
                 {node}` first",
                a.from, a.label, a.group
            ));
        }
        out
    }

    /// The same of a node that says nothing itself.
    fn needed_in_silence(&self) -> Vec<String> {
        let node = self.node;
        let last = |v: &&VolumeInfo| v.history.last().is_some_and(|l| l.opened_by == node);
        let labels: BTreeSet<&str> =
            self.others().flat_map(|n| &n.volumes).filter(last).map(VolumeInfo::in_group).collect();
        let told = |l: &str| {
            format!(
                "it is the writer of {l}, as far as the others know: `rcpctl failover {l} --plan` shows \
                 who can take over"
            )
        };
        let mut out: Vec<_> = labels.into_iter().map(told).collect();
        let waits = |n: &NodeStatus| {
            let given = n.arriving.iter().filter(|a| a.from == node && a.given);
            given.map(|a| (a.clone(), n.node.clone())).collect::<Vec<_>>()
        };
        for (a, to) in self.others().flat_map(waits) {
            out.push(format!(
                "it gave {} to {to} with all its files, which lie in its data folder still: `rcpctl \
                 group move {} --to {to}` first",
                a.label, a.group
            ));
        }
        out
    }

    /// Everything below a node, itself too.
    fn subtree(known: &Routes, from: &str) -> BTreeSet<String> {
        let mut all = BTreeSet::from([from.to_owned()]);
        let mut next = vec![from.to_owned()];
        while let Some(n) = next.pop() {
            for hop in known.get(&n).into_iter().flatten() {
                if all.insert(hop.clone()) {
                    next.push(hop.clone());
                }
            }
        }
        all
    }

    /// Nodes that it fed, and that nobody feeds since this was interrupted. One that was started again
    /// since does not remember by whom it was fed.
    fn let_go(&self, group: &str, known: &Routes) -> Vec<String> {
        let fed = |n: &str| known.values().any(|hops| hops.iter().any(|h| h == n));
        let begun = fed(self.node);
        let gone = self.gone && self.status(self.node).is_none();
        let copy = |n: &NodeStatus| {
            let mut own = n.volumes.iter().filter(|v| v.group == group).peekable();
            own.peek().is_some() && own.all(|v| v.role != "primary")
        };
        let was = |n: &&NodeStatus| {
            let Some(g) = n.groups.iter().find(|g| g.group == group) else { return false };
            match &g.parent {
                Some(p) if p.node == self.node => true,
                // It was fed in the place of the one that is gone, until that was forgotten.
                Some(p) => gone && p.state != "connected" && copy(n),
                None => (begun || gone) && copy(n),
            }
        };
        self.others().filter(was).filter(|n| !fed(&n.node)).map(|n| n.node.clone()).collect()
    }

    fn parent_for(
        &self,
        child: &str,
        group: &str,
        known: &Routes,
        above: Option<&str>,
    ) -> Result<String, String> {
        let below_it = Self::subtree(known, child);
        let member =
            |n: &str| self.status(n).is_some_and(|s| s.groups.iter().any(|g| g.group == group));
        let can = |n: &str| n != self.node && !below_it.contains(n) && member(n);
        if let Some(below) = self.below {
            return match can(below) {
                true => Ok(below.to_owned()),
                false => Err(format!(
                    "{below} cannot feed {child} in {group}: it did not answer, is not in the group, or \
                     is below {child} itself"
                )),
            };
        }
        let own = self.fallbacks.get(group).and_then(|f| f.get(child)).into_iter().flatten();
        own.map(String::as_str).chain(above).find(|n| can(n)).map(str::to_owned).ok_or_else(|| {
            format!(
                "nobody who answered feeds {} in {group}, so that it is not known who is to feed {child}: \
                 say --below PARENT",
                self.node
            )
        })
    }

    fn in_group(&self, group: &str, refused: &mut Vec<String>) -> InGroup {
        let known = routed(group, self.nodes);
        let feeds = |hops: &[String], n: &str| hops.iter().any(|h| h == n);
        let parent = known.iter().find(|(_, hops)| feeds(hops, self.node)).map(|(n, _)| n.clone());
        let mut children = known.get(self.node).cloned().unwrap_or_default();
        // Who did not answer cannot be told; whoever it is fed by now is its own affair.
        let fed_by_another = |c: &String| {
            known
                .iter()
                .any(|(n, hops)| n != self.node && self.status(n).is_some() && feeds(hops, c))
        };
        if self.status(self.node).is_none() {
            children.retain(|c| !fed_by_another(c));
        }
        children.extend(self.let_go(group, &known));
        children.dedup();
        // The operator's tree above it: a parent that said nothing cannot be told either.
        let writer = || {
            let writes = |n: &&NodeStatus| {
                n.volumes
                    .iter()
                    .any(|v| v.group == group && v.role == "primary" && v.fenced.is_none())
            };
            self.others().find(writes).map(|n| n.node.clone())
        };
        let above = parent.clone().filter(|p| self.status(p).is_some()).or_else(writer);
        let mut homes = Vec::new();
        for child in children {
            if self.status(&child).is_none() {
                refused.push(format!(
                    "{child}, which it feeds in {group}, did not answer, and could not be given another \
                     parent: start it; or, if it is gone for good, `rcpctl node decommission {child} \
                     --gone` first"
                ));
                continue;
            }
            match self.parent_for(&child, group, &known, above.as_deref()) {
                Ok(parent) => homes.push(Home { child, parent }),
                Err(why) => refused.push(why),
            }
        }
        if let Some(p) = parent.as_ref().filter(|p| self.status(p).is_none()) {
            refused.push(format!(
                "{p}, which feeds it in {group}, did not answer, and would go on sending: start it"
            ));
        }
        let listed = self.listed.contains(group);
        InGroup { group: group.to_owned(), parent, homes, listed }
    }
}

/// The routes of a group, without those who are fed in the place of a node that is away.
fn routed(group: &str, nodes: &[NodeStatus]) -> Routes {
    let mut known = routes::known(group, nodes);
    for n in nodes {
        for g in n.groups.iter().filter(|g| g.group == group) {
            let own = g.children.iter().filter(|c| c.in_place_of.is_none());
            known.insert(n.node.clone(), own.map(|c| c.node.clone()).collect());
        }
    }
    known
}

/// Makes the plan; pure.
pub(super) fn plan(scene: &Scene<'_>) -> Plan {
    let node = scene.node;
    let mut groups = scene.listed.clone();
    let names = scene.nodes.iter().flat_map(|n| &n.groups).map(|g| &g.group);
    for group in names.collect::<BTreeSet<_>>() {
        let known = routed(group, scene.nodes);
        let own = scene.status(node).is_some_and(|s| s.groups.iter().any(|g| g.group == *group));
        let named = known.iter().any(|(n, hops)| n == node || hops.iter().any(|h| h == node));
        // Who fed it has forgotten it, and the topology has not.
        let left = || {
            let silent = scene.gone && scene.status(node).is_none();
            silent && scene.named.contains(group) && !scene.let_go(group, &known).is_empty()
        };
        if own || named || left() {
            groups.insert(group.clone());
        }
    }
    let mut refused = scene.needed();
    let groups: Vec<_> = groups.iter().map(|g| scene.in_group(g, &mut refused)).collect();
    let mut out = Plan { refused, groups };
    if scene.status(node).is_none() && !scene.gone && !out.is_done() {
        let how = if scene.silent.contains(node) { "did not answer" } else { "was not asked" };
        out.refused.insert(
            0,
            format!(
                "{node} {how}: start it, so that it lets go of what it feeds; if it is gone for good: \
                 --gone"
            ),
        );
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{GroupStatus, HistoryLine, LinkStatus};
    use crate::shift::ArrivingStatus;

    fn volume(role: &str) -> VolumeInfo {
        let opened_by = "p".to_owned();
        let line = HistoryLine { opened_by, ..HistoryLine::default() };
        VolumeInfo {
            id: "1".into(),
            label: "vol".into(),
            group: "g".into(),
            role: role.into(),
            history: vec![line],
            ..VolumeInfo::default()
        }
    }

    fn node(name: &str, role: &str, hops: &[&str], fed_by: Option<&str>) -> NodeStatus {
        let link = |n: &str| LinkStatus { node: n.to_owned(), ..LinkStatus::default() };
        let group = GroupStatus {
            group: "g".into(),
            children: hops.iter().map(|h| link(h)).collect(),
            parent: fed_by.map(link),
            ..GroupStatus::default()
        };
        NodeStatus {
            node: name.into(),
            groups: vec![group],
            volumes: vec![volume(role)],
            ..NodeStatus::default()
        }
    }

    fn tree() -> Vec<NodeStatus> {
        vec![
            node("p", "primary", &["f"], None),
            node("f", "replica", &["l1", "l2"], Some("p")),
            node("l1", "replica", &[], Some("f")),
            node("l2", "replica", &[], Some("f")),
        ]
    }

    fn scene<'a>(nodes: &'a [NodeStatus], of: &'a str) -> Scene<'a> {
        Scene { node: of, nodes, ..Scene::default() }
    }

    fn homes(p: &Plan) -> Vec<String> {
        let all = p.groups.iter().flat_map(|g| &g.homes);
        all.map(|h| format!("{}<{}", h.child, h.parent)).collect()
    }

    #[test]
    fn what_it_feeds_goes_to_its_parent_or_where_file_or_operator_say() {
        let nodes = tree();
        let p = plan(&scene(&nodes, "f"));
        assert_eq!((homes(&p), p.refused.len()), (vec!["l1<p".into(), "l2<p".into()], 0));
        assert_eq!(p.groups[0].parent.as_deref(), Some("p"));
        let table = BTreeMap::from([("l1".to_owned(), vec!["l2".to_owned()])]);
        let fallbacks = BTreeMap::from([("g".to_owned(), table)]);
        let p = plan(&Scene { fallbacks, ..scene(&nodes, "f") });
        assert_eq!(homes(&p), ["l1<l2", "l2<p"]);
        let p = plan(&Scene { below: Some("l1"), ..scene(&nodes, "f") });
        assert_eq!(homes(&p), ["l2<l1"]);
        assert!(p.refused[0].contains("l1 cannot feed l1"), "{:?}", p.refused);
    }

    #[test]
    fn what_an_interruption_left_is_found_again() {
        // l1 was let go of, and nobody took it; l2 has its new parent.
        let nodes = [
            node("p", "primary", &["f", "l2"], None),
            node("f", "replica", &[], Some("p")),
            node("l1", "replica", &[], Some("f")),
            node("l2", "replica", &[], Some("p")),
        ];
        let p = plan(&scene(&nodes, "f"));
        assert_eq!((homes(&p), p.is_done()), (vec!["l1<p".to_owned()], false));
        // It was started again since.
        let mut forgot = nodes.clone();
        forgot[2].groups[0].parent = None;
        assert_eq!(homes(&plan(&scene(&forgot, "f"))), ["l1<p"]);
        // All is done, and it is stopped.
        let nodes = [
            node("p", "primary", &["l1", "l2"], None),
            node("l1", "replica", &[], Some("p")),
            node("l2", "replica", &[], Some("p")),
        ];
        assert!(plan(&scene(&nodes, "f")).is_done());
    }

    #[test]
    fn it_is_not_let_go_while_it_is_needed() {
        let nodes = tree();
        let p = plan(&scene(&nodes, "p"));
        assert!(p.refused[0].contains("`rcpctl group move g --to "), "{:?}", p.refused);
        let two = [node("p", "primary", &["l1"], None), node("l1", "replica", &[], Some("p"))];
        let p = plan(&scene(&two, "l1"));
        assert!(p.refused[0].contains("the only replica of vol"), "{:?}", p.refused);
        let mut old = tree();
        old[1].volumes[0] = VolumeInfo { fenced: Some("fenced: x".into()), ..volume("primary") };
        let p = plan(&scene(&old, "f"));
        assert!(p.refused[0].contains("`rcpctl resync vol` at f"), "{:?}", p.refused);
    }

    #[test]
    fn silence_is_no_consent() {
        let all = tree();
        let but = |gone: &str| all.iter().filter(|n| n.node != gone).cloned().collect::<Vec<_>>();
        // A child.
        let nodes = but("l2");
        let p = plan(&scene(&nodes, "f"));
        assert!(
            p.refused[0].contains("l2, which it feeds in g, did not answer"),
            "{:?}",
            p.refused
        );
        // The node itself; its parent knows the routes below it.
        let mut nodes = but("f");
        nodes[0].groups[0].routes.insert("f".into(), vec!["l1".into(), "l2".into()]);
        let p = plan(&scene(&nodes, "f"));
        assert!(p.refused[0].contains("if it is gone for good: --gone"), "{:?}", p.refused);
        let p = plan(&Scene { gone: true, ..scene(&nodes, "f") });
        assert_eq!((homes(&p), p.refused.len()), (vec!["l1<p".into(), "l2<p".into()], 0));
        // Its parent feeds them in its place meanwhile.
        for child in ["l1", "l2"] {
            let (node, in_place_of) = (child.to_owned(), Some("f".to_owned()));
            let guest = LinkStatus { node, in_place_of, ..LinkStatus::default() };
            nodes[0].groups[0].children.push(guest);
        }
        let p = plan(&Scene { gone: true, ..scene(&nodes, "f") });
        assert_eq!(homes(&p), ["l1<p", "l2<p"]);
        // Its parent has forgotten it, and them with it.
        let mut nodes = vec![node("p", "primary", &[], None)];
        nodes.extend(["l1", "l2"].map(|n| node(n, "replica", &[], Some("p"))));
        let named = BTreeSet::from(["g".to_owned()]);
        let p = plan(&Scene { gone: true, named: named.clone(), ..scene(&nodes, "f") });
        assert_eq!(homes(&p), ["l1<p", "l2<p"]);
        // Those of another tree are none of its.
        let p = plan(&Scene { gone: true, ..scene(&nodes, "f") });
        assert_eq!(homes(&p), Vec::<String>::new());
        // It gave a volume away, which lies in its data folder still.
        nodes[1].arriving = vec![ArrivingStatus {
            label: "vol".into(),
            group: "g".into(),
            from: "f".into(),
            given: true,
            ..ArrivingStatus::default()
        }];
        let p = plan(&Scene { gone: true, named, ..scene(&nodes, "f") });
        assert!(p.refused[0].contains("`rcpctl group move g --to l1`"), "{:?}", p.refused);
        // The writer.
        let nodes = but("p");
        let p = plan(&Scene { gone: true, ..scene(&nodes, "p") });
        assert!(p.refused[0].contains("`rcpctl failover vol --plan`"), "{:?}", p.refused);
    }
}
