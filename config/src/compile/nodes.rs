//! Data movers: names, addresses and data folders, and that no two of them get in each other's
//! way.
//!
//! Two nodes are taken to share a machine when other nodes dial them at the same host (every
//! loopback address is one host). Only such nodes can collide on an NBD port or a data folder:
//! `/var/lib/rcpd` on each of twenty machines is no mistake.

use super::values::Field;
use super::{Names, bad_name, values};
use crate::address::{Host, HostPort};
use crate::diagnostics::{Problem, Report, Span};
use crate::limits::{
    DEFAULT_WRITER_LOST, MAX_MEMORY, MAX_WRITER_LOST, MIN_MEMORY, MIN_WRITER_LOST,
};
use crate::plan::NodePlan;
use crate::raw::RawNode;
use crate::value::shown;
use crate::yaml::Text;
use rcp::proto::ids::{Label, NodeName};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Component, Path, PathBuf};

/// Beginning of the kinds of control blocks that nodes handle by themselves.
const OWN_KINDS: &str = "volume-";

/// All nodes; those with errors are missing among the plans, but not among the names.
pub(super) fn check(
    raw: &[RawNode],
    memory: u64,
    proven: bool,
    report: &mut Report,
) -> (Names, BTreeMap<NodeName, NodePlan>) {
    let mut names = Names { known: BTreeSet::new(), broken: BTreeSet::new(), none: raw.is_empty() };
    let mut plans = BTreeMap::new();
    let mut taken = Taken::default();
    for node in raw {
        let Ok(name) = NodeName::new(&node.name.value) else {
            names.broken.insert(node.name.value.clone());
            report.add(|| bad_name(&node.name, "node"));
            continue;
        };
        names.known.insert(name.clone());
        if let Some(plan) = check_one(node, name.clone(), memory, proven, &mut taken, report) {
            plans.insert(name, plan);
        }
    }
    (names, plans)
}

fn check_one<'f>(
    raw: &'f RawNode,
    name: NodeName,
    memory: u64,
    proven: bool,
    taken: &mut Taken<'f>,
    report: &mut Report,
) -> Option<NodePlan> {
    let owner = format!("node `{name}`");
    let field = |name| Field::new(name, &owner);
    let insecure =
        values::boolean(raw.insecure_plaintext.as_ref(), field("insecure_plaintext"), report);
    // a misspelt `true` is one error, not one for every listener as well
    let may_listen = insecure.unwrap_or(raw.insecure_plaintext.is_some());
    let listen = address(raw.listen.as_ref(), field("listen"), report);
    let dialled = address(raw.address.as_ref(), field("address"), report);
    let nbd = address(raw.nbd.as_ref(), field("nbd"), report);
    let bare = !(may_listen || proven);
    let beyond = |(addr, _): &&(HostPort, &Text)| bare && !addr.is_loopback();
    for (found, which) in [(&listen, "listen"), (&nbd, "nbd")] {
        if let Some((addr, text)) = found.as_ref().filter(beyond) {
            report.add(|| exposed(&name, addr, text, which));
        }
    }
    let dialled = match (dialled, &listen, &raw.address) {
        (Some((addr, text)), _, _) => {
            if addr.host().is_wildcard() {
                report.add(|| {
                    Problem::new(&text.span, format!("`{addr}` cannot be dialled"))
                        .label("stands for every address of a machine")
                        .hint("write the address at which other nodes reach this one")
                });
            }
            Some((addr, text))
        }
        (None, Some((addr, text)), None) if addr.host().is_wildcard() => {
            report.add(|| {
                Problem::new(
                    &text.span,
                    format!(
                        "`{name}` listens on every address, but which one do other nodes dial?"
                    ),
                )
                .label("stands for every address of a machine")
                .hint(format!("add `address: \"HOST:{}\"` to this node", addr.port()))
            });
            None
        }
        (None, Some(found), None) => Some(found.clone()),
        _ => None,
    };
    let data = values::path(raw.data.as_ref(), field("data"), report);
    taken.claim(&name, listen.as_ref(), dialled.as_ref(), nbd.as_ref(), &data, raw, report);
    let memory = memory_of(raw, field("memory"), memory, report)?;
    let handlers = handlers(&raw.handlers, &owner, report);
    let bounds = (MIN_WRITER_LOST, MAX_WRITER_LOST);
    let writer_lost =
        values::duration(raw.writer_lost.as_ref(), field("writer_lost"), bounds, report);
    let nbd_allow = values::allow(raw.nbd_allow.as_ref(), field("nbd_allow"), proven, report);
    let metrics = values::door(raw.metrics.as_ref(), field("metrics"), proven, report);
    let health = values::door(raw.health.as_ref(), field("health"), proven, report);
    Some(NodePlan {
        handlers,
        writer_lost: writer_lost.unwrap_or(DEFAULT_WRITER_LOST),
        name,
        listen: listen?.0,
        address: dialled?.0,
        data: data?,
        nbd: nbd.map(|(addr, _)| addr),
        memory,
        insecure_plaintext: insecure.unwrap_or(false),
        nbd_allow,
        metrics: metrics.unwrap_or_default(),
        health: health.unwrap_or_default(),
    })
}

/// Its memory, or what holds for all nodes.
fn memory_of(raw: &RawNode, field: Field<'_>, all: u64, report: &mut Report) -> Option<u64> {
    let why = "a node needs that much to move data";
    match &raw.memory {
        None => Some(all),
        text => values::size(text.as_ref(), field, (MIN_MEMORY, MAX_MEMORY), why, report),
    }
}

/// Commands by kind.
fn handlers(
    raw: &[(Text, Vec<Text>)],
    owner: &str,
    report: &mut Report,
) -> BTreeMap<String, Vec<String>> {
    let mut found = BTreeMap::new();
    for (kind, argv) in raw {
        let why = match Label::new(&kind.value) {
            Err(_) => Some("it is not a name".to_owned()),
            Ok(_) if kind.value.starts_with(OWN_KINDS) => {
                Some(format!("kinds that begin with `{OWN_KINDS}` are the program's own"))
            }
            Ok(_) => None,
        };
        if let Some(why) = why {
            report.add(|| {
                let text = format!("{owner} cannot handle the kind {}: {why}", shown(&kind.value));
                Problem::new(&kind.span, text)
                    .hint("a kind is 1 to 63 of a-z 0-9 . _ -, such as `invalidate`")
            });
        } else if argv.first().is_none_or(|a| a.value.is_empty()) {
            report.add(|| {
                let text = format!("{owner} has no program for the kind {}", shown(&kind.value));
                Problem::new(&kind.span, text)
                    .hint(format!("write `{}: [/path/to/program, argument]`", kind.value))
            });
        } else {
            let argv = argv.iter().map(|a| a.value.clone()).collect();
            found.insert(kind.value.clone(), argv);
        }
    }
    found
}

fn address<'f>(
    text: Option<&'f Text>,
    field: Field<'_>,
    report: &mut Report,
) -> Option<(HostPort, &'f Text)> {
    let text = text?;
    match text.value.parse() {
        Ok(addr) => Some((addr, text)),
        Err(e) => {
            report.add(|| values::refused(text, field, e));
            None
        }
    }
}

fn exposed(name: &NodeName, addr: &HostPort, text: &Text, field: &str) -> Problem {
    let loopback = format!("127.0.0.1:{}", addr.port());
    Problem::new(
        &text.span,
        format!("`{name}` would offer `{field}` on {addr} to other machines without encryption"),
    )
    .label("not a loopback address")
    .hint(format!(
        "write `{field}: \"{loopback}\"`, or, if the network is trusted, add \
         `insecure_plaintext: true` to `{name}`, or give all nodes certificates with `pki`"
    ))
}

/// What the nodes before this one have taken.
#[derive(Default)]
struct Taken<'f> {
    dialled: HashMap<HostPort, (NodeName, &'f Span)>,
    /// Listeners by machine and port.
    ports: HashMap<(Host, u16), Vec<Listener<'f>>>,
    folders: HashMap<(Host, PathBuf), (NodeName, &'f Span)>,
}

struct Listener<'f> {
    addr: HostPort,
    node: NodeName,
    field: &'static str,
    span: &'f Span,
}

impl<'f> Taken<'f> {
    #[allow(clippy::too_many_arguments)] // one call, all parts of one node
    fn claim(
        &mut self,
        name: &NodeName,
        listen: Option<&(HostPort, &'f Text)>,
        dialled: Option<&(HostPort, &'f Text)>,
        nbd: Option<&(HostPort, &'f Text)>,
        data: &Option<PathBuf>,
        raw: &'f RawNode,
        report: &mut Report,
    ) {
        let Some((dial, dial_text)) = dialled else { return };
        let machine = dial.host().same_machine();
        let mut told = false;
        for (found, field) in [(listen, "listen"), (nbd, "nbd")] {
            let Some((addr, text)) = found else { continue };
            let others = self.ports.entry((machine.clone(), addr.port())).or_default();
            if let Some(other) = others.iter().find(|o| o.addr.collides(addr)) {
                told |= field == "listen";
                report.add(|| taken_port(name, addr, field, &text.span, other));
            }
            others.push(Listener {
                addr: addr.clone(),
                node: name.clone(),
                field,
                span: &text.span,
            });
        }
        let first = self.dialled.entry(dial.clone()).or_insert((name.clone(), &dial_text.span));
        if first.0 != *name && !told {
            report.add(|| {
                Problem::new(
                    &dial_text.span,
                    format!("`{name}` and `{}` are both dialled at {dial}", first.0),
                )
                .label("the same address")
                .note(first.1, "first here")
                .hint("each node has an address of its own")
            });
        }
        if let (Some(data), Some(text)) = (data, &raw.data) {
            let key = (machine, plain(data));
            let first = self.folders.entry(key).or_insert((name.clone(), &text.span));
            if first.0 != *name {
                report.add(|| {
                    Problem::new(
                        &text.span,
                        format!(
                            "`{name}` and `{}` share the data folder {}",
                            first.0,
                            data.display()
                        ),
                    )
                    .label("the same folder")
                    .note(first.1, "first here")
                    .hint(format!("give each node a folder of its own, such as `data: ./{name}`"))
                });
            }
        }
    }
}

fn taken_port(
    name: &NodeName,
    addr: &HostPort,
    field: &str,
    span: &Span,
    other: &Listener<'_>,
) -> Problem {
    let message = if other.node == *name {
        format!("`{name}` would use {addr} for `{}` and for `{field}`", other.field)
    } else if other.field == field {
        format!("`{name}` and `{}` both have `{field}` on {addr}", other.node)
    } else {
        format!(
            "`{field}` of `{name}` is on {addr}, which `{}` of `{}` has",
            other.field, other.node
        )
    };
    Problem::new(span, message)
        .label("taken")
        .note(other.span, format!("first here, as `{}`", other.field))
        .hint("give each listener of a machine a port of its own")
}

/// The path without `.`, doubled slashes and `..` that can be taken back.
fn plain(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir
                if matches!(out.components().next_back(), Some(Component::Normal(_))) =>
            {
                out.pop();
            }
            other => out.push(other),
        }
    }
    out
}
