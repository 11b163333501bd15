//! The file as written to the checked topology; every rule of what a topology may be.
//!
//! A part that is wrong is reported and left out, its *name* stays known, so that one slip gives
//! one error. `nodes` checks data movers and their addresses, `volumes` sizes and policies,
//! `routes` the tree.

mod full;
mod healing;
mod hops;
mod nodes;
mod routes;
mod values;
mod views;
mod volumes;

use crate::diagnostics::{Diagnostics, Problem, Report};
use crate::limits;
use crate::plan::{GroupPlan, NodePlan, RouteTable, Source, Topology};
use crate::raw::{self, RawGroup, RawTopology};
use crate::suggest;
use crate::units::{approx_size, format_size};
use crate::value::shown;
use crate::yaml::{self, Text, Tree};
use rcp::proto::ids::{GroupName, Label, NodeName};
use std::collections::{BTreeMap, BTreeSet};
use volumes::Defaults;

impl Topology {
    /// Reads and checks a topology. `file_name` only stands in the errors.
    ///
    /// # Errors
    /// Everything that is wrong with the file, at once. Only after a syntax error the rest is
    /// unknown.
    pub fn compile(text: &str, file_name: &str) -> Result<Self, Diagnostics> {
        let mut report = Report::default();
        if text.len() > limits::MAX_INPUT {
            report.add(|| {
                let size = approx_size(text.len() as u64);
                Problem::new(&(0..0), format!("the file has {size}, which is too large")).hint(
                    format!("a topology has at most {}", format_size(limits::MAX_INPUT as u64)),
                )
            });
            return Err(report.finish(file_name, ""));
        }
        let tree = yaml::parse(text, &mut report);
        if tree.is_none() && report.is_empty() {
            report.add(|| {
                Problem::new(&(0..0), "the file is empty")
                    .hint("a topology begins with `version: 1`, then `nodes:` and `groups:`")
            });
        }
        let Some(tree) = tree else { return Err(report.finish(file_name, text)) };
        let source = Source { file: file_name.into(), text: text.into() };
        let topology = Self::checked(tree, source, &mut report);
        if report.is_empty() { Ok(topology) } else { Err(report.finish(file_name, text)) }
    }

    /// What a tree says, as far as it is right; the rest is in the report.
    pub(crate) fn checked(tree: Tree, source: Source, report: &mut Report) -> Self {
        check(raw::read(tree, report), source, report)
    }
}

fn check(raw: RawTopology, source: Source, report: &mut Report) -> Topology {
    version(raw.version.as_ref(), report);
    let defaults = Defaults::read(&raw, report);
    let top = hops::top(&raw, report);
    hops::names(&raw, report);
    let proven = raw.pki.is_some();
    let (names, nodes) = nodes::check(&raw.nodes, defaults.memory, proven, report);
    let scene = Scene { names: &names, nodes: &nodes, top: &top, proven };
    let mut labels = BTreeMap::new();
    let mut groups = BTreeMap::new();
    for raw in &raw.groups {
        let name = GroupName::new(&raw.name.value);
        if name.is_err() {
            report.add(|| bad_name(&raw.name, "group"));
        }
        let plan = group(raw, name.ok(), &scene, &defaults, &mut labels, report);
        if let Some(plan) = plan {
            groups.insert(plan.name.clone(), plan);
        }
    }
    volumes::one_label_each(&raw.groups, &groups, report);
    Topology { nodes, groups, pki: top.pki, source }
}

/// What a group is read against.
struct Scene<'a> {
    names: &'a Names,
    nodes: &'a BTreeMap<NodeName, NodePlan>,
    top: &'a hops::Top,
    /// There are certificates.
    proven: bool,
}

fn version(version: Option<&Text>, report: &mut Report) {
    let Some(text) = version else { return };
    if text.value.parse() != Ok(limits::VERSION) {
        report.add(|| {
            Problem::new(&text.span, format!("version {} is not known", shown(&text.value)))
                .label("not a version of this format")
                .hint(format!(
                    "write `version: {}`; later versions need a later program",
                    limits::VERSION
                ))
        });
    }
}

fn group<'f>(
    raw: &'f RawGroup,
    name: Option<GroupName>,
    scene: &Scene<'_>,
    defaults: &Defaults,
    labels: &mut BTreeMap<Label, &'f Text>,
    report: &mut Report,
) -> Option<GroupPlan> {
    let title = shown(&raw.name.value);
    let names = scene.names;
    let primary = raw
        .primary
        .as_ref()
        .and_then(|text| names.resolve(text, &format!("the primary of group {title}"), report));
    let tree = routes::check(raw, &title, primary.as_ref(), names, report);
    let hops = hops::group(raw, &title, scene, &tree, report);
    let members = Members { group: &title, names, tree: &tree };
    let volumes = volumes::volumes(raw, primary.as_ref(), &members, defaults, labels, report);
    let policy = volumes::policy(&raw.policy, &title, report);
    let playback = volumes::playback(&raw.playback, &title, report);
    let overrides = volumes::overrides(raw, &members, report);
    let forward_only = forward_only(raw, primary.as_ref(), &members, report);
    views::check(raw, &playback, &overrides, &forward_only, &members, report);
    let on_failover = on_failover(raw, &members, report);
    let bypass = healing::bypass(raw, &title, report);
    let fallbacks = healing::fallbacks(raw, &members, report);
    Some(GroupPlan {
        name: name?,
        primary: primary?,
        routes: tree.routes,
        hop: hops.group,
        hops: hops.own,
        feeders: hops.feeders,
        dialling: hops.dialling,
        parents: tree.parents,
        volumes,
        policy,
        playback,
        overrides,
        forward_only,
        on_failover,
        bypass,
        fallbacks,
    })
}

/// Routes by the node that takes over; in each every node has one parent.
fn on_failover(
    raw: &RawGroup,
    members: &Members<'_>,
    report: &mut Report,
) -> BTreeMap<NodeName, RouteTable> {
    let mut out = BTreeMap::new();
    for (to, routes) in &raw.on_failover {
        let Some(node) = members.resolve(to, "`on_failover`", report) else { continue };
        let mut table = RouteTable::new();
        let mut fed = BTreeSet::from([node.clone()]);
        for (from, hops) in routes {
            let Some(from) = members.resolve(from, "`on_failover`", report) else { continue };
            for hop in hops {
                let Some(name) = members.resolve(hop, "`on_failover`", report) else { continue };
                if fed.insert(name.clone()) {
                    table.entry(from.clone()).or_default().push(name);
                } else {
                    report.add(|| {
                        let title = members.group;
                        Problem::new(
                            &hop.span,
                            format!("`{name}` has two parents after failover to `{node}` in group {title}"),
                        )
                        .label("fed already, or the new writer itself")
                        .hint("name each next hop once")
                    });
                }
            }
        }
        out.insert(node, table);
    }
    out
}

fn forward_only(
    raw: &RawGroup,
    primary: Option<&NodeName>,
    members: &Members<'_>,
    report: &mut Report,
) -> BTreeSet<NodeName> {
    let mut out = BTreeSet::new();
    let title = members.group;
    for text in &raw.forward_only {
        let Some(node) = members.resolve(text, "`forward_only`", report) else { continue };
        let problem = |message: String| Problem::new(&text.span, message);
        if Some(&node) == primary {
            report.add(|| {
                problem(format!("`{node}` is the primary of group {title} and keeps the volumes"))
                    .label("cannot be `forward_only`")
                    .hint("remove it from `forward_only`")
            });
        } else if members.tree.complete && !members.tree.routes.contains_key(&node) {
            report.add(|| {
                problem(format!(
                    "`{node}` would neither keep a replica of group {title} nor send it on"
                ))
                .label("has no next hops")
                .hint("give it next hops in `routes`, or remove it from `forward_only`")
            });
        } else if !out.insert(node.clone()) {
            report.add(|| {
                problem(format!("`{node}` stands twice in `forward_only`")).hint("remove one")
            });
        }
    }
    out
}

/// The names of all nodes in the file, those with errors included.
pub(crate) struct Names {
    known: BTreeSet<NodeName>,
    /// Names that are not well formed: reported where they are declared, and nowhere else.
    broken: BTreeSet<String>,
    /// There are none at all, which was reported: nothing more is said about any name.
    none: bool,
}

impl Names {
    /// The node of this name; an unknown one is reported. `place` says who speaks of it.
    fn resolve(&self, text: &Text, place: &str, report: &mut Report) -> Option<NodeName> {
        if self.none || self.broken.contains(&text.value) {
            return None;
        }
        if let Some(name) = NodeName::new(&text.value).ok().filter(|n| self.known.contains(n)) {
            return Some(name);
        }
        report.add(|| {
            let known = self.known.iter().map(NodeName::as_str);
            Problem::new(&text.span, format!("{place}: there is no node {}", shown(&text.value)))
                .label("no node of this name")
                .hint(suggest::hint(&text.value, known, "nodes"))
        });
        None
    }
}

/// What of a group is needed to tell its members from other nodes.
struct Members<'a> {
    group: &'a str,
    names: &'a Names,
    tree: &'a routes::Tree,
}

impl Members<'_> {
    /// A member of the group; an unknown node, or one outside the group, is reported.
    fn resolve(&self, text: &Text, place: &str, report: &mut Report) -> Option<NodeName> {
        let group = self.group;
        let node = self.names.resolve(text, &format!("{place} of group {group}"), report)?;
        if self.tree.complete && !self.tree.members.contains(&node) {
            report.add(|| {
                let known = self.tree.members.iter().map(NodeName::as_str);
                Problem::new(&text.span, format!("`{node}` is not a member of group {group}"))
                    .label("no route leads to it")
                    .hint(suggest::listed(known, "its members"))
            });
            return None;
        }
        Some(node)
    }
}

fn bad_name(text: &Text, kind: &str) -> Problem {
    let lower = text.value.to_lowercase();
    let problem = Problem::new(&text.span, format!("{} is not a {kind} name", shown(&text.value)))
        .label("not a name");
    let form = "1 to 63 of a-z, 0-9, `.`, `_` and `-`, beginning with a letter or digit";
    problem.hint(if lower != text.value && NodeName::new(&lower).is_ok() {
        format!("names are in lower case: write `{lower}`")
    } else {
        format!("a name has {form}")
    })
}
