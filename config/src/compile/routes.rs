//! The tree of one group: every member has one parent, and the primary is above all.
//!
//! Routes are followed from the primary first, then what is left in the order of the file; a
//! route that would give a node a second parent, or close a loop, is reported and not followed.
//! So one mistake gives one error, at the line that is most likely to be wrong.

use super::Names;
use crate::diagnostics::{Problem, Report, Span};
use crate::plan::RouteTable;
use crate::raw::RawGroup;
use rcp::proto::ids::NodeName;
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

/// The routes of a group as far as they make sense.
#[derive(Default)]
pub(super) struct Tree {
    pub(super) routes: RouteTable,
    pub(super) parents: BTreeMap<NodeName, NodeName>,
    /// Everyone who is in the routes, and the primary.
    pub(super) members: BTreeSet<NodeName>,
    /// No name was unknown: who is not a member here is none.
    pub(super) complete: bool,
}

/// A next hop in the file; nodes are indices into [`Graph::nodes`].
struct Edge<'f> {
    from: usize,
    to: usize,
    span: &'f Span,
}

#[derive(Default)]
struct Graph<'f> {
    nodes: Vec<NodeName>,
    index: HashMap<NodeName, usize>,
    /// Where the node first stands in the routes.
    seen: Vec<&'f Span>,
    edges: Vec<Edge<'f>>,
    /// Edges by the node they leave.
    leaving: Vec<Vec<usize>>,
    /// The edge that leads to the node, once one was followed.
    above: Vec<Option<usize>>,
    /// Part of a loop that was reported.
    looped: Vec<bool>,
}

pub(super) fn check(
    raw: &RawGroup,
    title: &str,
    primary: Option<&NodeName>,
    names: &Names,
    report: &mut Report,
) -> Tree {
    let mut graph = Graph::default();
    let complete = graph.read(raw, title, primary, names, report) && primary.is_some();
    let root = primary.map(|p| graph.add(p.clone(), &raw.name.span));
    graph.follow(root, title, report);
    if let (true, Some(primary)) = (complete, primary) {
        graph.unreachable(title, primary, report);
    }
    graph.into_tree(complete)
}

impl<'f> Graph<'f> {
    fn add(&mut self, name: NodeName, span: &'f Span) -> usize {
        if let Some(i) = self.index.get(&name) {
            return *i;
        }
        let i = self.nodes.len();
        self.index.insert(name.clone(), i);
        self.nodes.push(name);
        self.seen.push(span);
        self.leaving.push(Vec::new());
        self.above.push(None);
        self.looped.push(false);
        i
    }

    fn name(&self, i: usize) -> &str {
        self.nodes.get(i).map_or("", NodeName::as_str)
    }

    /// Every next hop that can be one; false if a name was unknown.
    fn read(
        &mut self,
        raw: &'f RawGroup,
        title: &str,
        primary: Option<&NodeName>,
        names: &Names,
        report: &mut Report,
    ) -> bool {
        let place = format!("`routes` of group {title}");
        let mut complete = true;
        for (from, hops) in &raw.routes {
            let Some(sender) = names.resolve(from, &place, report) else {
                complete = false;
                // its next hops are checked for typing errors all the same
                for hop in hops {
                    names.resolve(&hop.node, &place, report);
                }
                continue;
            };
            let sender = self.add(sender, &from.span);
            let mut listed: HashMap<usize, &Span> = HashMap::new();
            for hop in hops.iter().map(|h| &h.node) {
                let Some(node) = names.resolve(hop, &place, report) else {
                    complete = false;
                    continue;
                };
                if Some(&node) == primary {
                    let at = raw.primary.as_ref().map_or(&hop.span, |p| &p.span);
                    report.add(|| {
                        Problem::new(
                            &hop.span,
                            format!("`{node}` is the primary of group {title}, not a next hop"),
                        )
                        .label("the primary")
                        .note(at, "named here")
                        .hint("data flows from the primary down: remove it from this list")
                    });
                    continue;
                }
                let to = self.add(node, &hop.span);
                if to == sender {
                    report.add(|| {
                        Problem::new(
                            &hop.span,
                            format!("`{}` is its own next hop in group {title}", hop.value),
                        )
                        .label("sends to itself")
                        .hint("remove it from this list")
                    });
                    continue;
                }
                if let Some(first) = listed.insert(to, &hop.span) {
                    report.add(|| {
                        Problem::new(
                            &hop.span,
                            format!(
                                "`{}` is listed twice as next hop of `{}`",
                                hop.value, from.value
                            ),
                        )
                        .label("again here")
                        .note(first, "first here")
                        .hint("remove one of the two")
                    });
                    continue;
                }
                if let Some(leaving) = self.leaving.get_mut(sender) {
                    leaving.push(self.edges.len());
                }
                self.edges.push(Edge { from: sender, to, span: &hop.span });
            }
        }
        complete
    }

    /// Gives every node its parent; second parents and loops are reported.
    fn follow(&mut self, root: Option<usize>, title: &str, report: &mut Report) {
        let mut followed = vec![false; self.edges.len()];
        let mut queue: VecDeque<usize> = root.into_iter().collect();
        while let Some(node) = queue.pop_front() {
            for e in self.leaving.get(node).cloned().unwrap_or_default() {
                if let Some(done) = followed.get_mut(e) {
                    *done = true;
                }
                if let Some(child) = self.take(e, title, report) {
                    queue.push_back(child);
                }
            }
        }
        for e in (0..self.edges.len()).filter(|e| followed.get(*e) == Some(&false)) {
            self.take(e, title, report);
        }
    }

    /// Follows one edge; the child, if it had no parent before.
    fn take(&mut self, e: usize, title: &str, report: &mut Report) -> Option<usize> {
        let &Edge { from, to, span } = self.edges.get(e)?;
        let first = self.above.get(to).copied().flatten();
        if let Some(chain) = self.chain(from, to) {
            for i in &chain {
                if let Some(l) = self.looped.get_mut(*i) {
                    *l = true;
                }
            }
            report.add(|| {
                let ring = self.ring(&chain);
                Problem::new(span, format!("the routes of group {title} form a loop: {ring}"))
                    .label(format!("leads back to `{}`", self.name(to)))
                    .hint("remove one of these next hops: from the primary, one way leads to each node")
            });
            return None;
        }
        let Some(first) = first.and_then(|i| self.edges.get(i)) else {
            *self.above.get_mut(to)? = Some(e);
            return Some(to);
        };
        report.add(|| {
            let (a, b, node) = (self.name(first.from), self.name(from), self.name(to));
            Problem::new(
                span,
                format!("`{node}` has two parents in group {title}: `{a}` and `{b}`"),
            )
            .label(format!("second parent, `{b}`"))
            .note(first.span, format!("first parent, `{a}`"))
            .hint("a node receives a group from one parent: remove one of the two next hops")
        });
        None
    }

    /// The nodes from `top` down to `node`, if `top` is above it or the same.
    fn chain(&self, node: usize, top: usize) -> Option<Vec<usize>> {
        let mut chain = vec![node];
        let mut at = node;
        while at != top {
            at = self.edges.get(self.above.get(at).copied().flatten()?)?.from;
            chain.push(at);
        }
        chain.reverse();
        Some(chain)
    }

    /// `a → b → c → a`, shortened in the middle when it is long.
    fn ring(&self, chain: &[usize]) -> String {
        let mut names: Vec<&str> = chain.iter().map(|i| self.name(*i)).collect();
        if names.len() > 12 {
            names.splice(6..names.len() - 5, ["…"]);
        }
        names.extend(chain.first().map(|i| self.name(*i)));
        names.join(" → ")
    }

    /// Reports each part of the routes that hangs below nobody, once, at its top.
    fn unreachable(&self, title: &str, primary: &NodeName, report: &mut Report) {
        for (i, node) in self.nodes.iter().enumerate() {
            let top = self.above.get(i) == Some(&None);
            let looped = self.looped.get(i) == Some(&true);
            let Some(span) = self.seen.get(i) else { continue };
            if top && !looped && node != primary {
                report.add(|| {
                    Problem::new(span, format!("no route of group {title} leads to `{node}`"))
                        .label(format!("not reached from the primary `{primary}`"))
                        .hint(format!(
                            "make `{node}` a next hop of a node that is reached, or remove it"
                        ))
                });
            }
        }
    }

    fn into_tree(self, complete: bool) -> Tree {
        let mut tree = Tree { complete, ..Tree::default() };
        // in the order of the file, which is the order of the edges
        for (e, edge) in self.edges.iter().enumerate() {
            if self.above.get(edge.to) != Some(&Some(e)) {
                continue;
            }
            let (Some(from), Some(to)) = (self.nodes.get(edge.from), self.nodes.get(edge.to))
            else {
                continue;
            };
            tree.routes.entry(from.clone()).or_default().push(to.clone());
            tree.parents.insert(to.clone(), from.clone());
        }
        tree.members = self.nodes.into_iter().collect();
        tree
    }
}
