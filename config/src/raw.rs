//! The file as it is written: which fields there are, and text with its place in each.
//!
//! Checked here: shapes (a mapping, a list, a value) and field names. What a value means, and
//! whether a name is known, is checked in `compile`. A mistyped field name is reported once and
//! then read as the field that was meant, so that nothing else follows from it.

mod forms;

use crate::diagnostics::{Problem, Report, Span};
use crate::suggest;
use crate::value::shown;
use crate::yaml::{Kind, Text, Tree};
use forms::example;

#[derive(Debug, Default)]
pub(crate) struct RawTopology {
    pub(crate) version: Option<Text>,
    pub(crate) pki: Option<Text>,
    pub(crate) transport: Option<Text>,
    pub(crate) congestion: Option<Text>,
    pub(crate) nodes: Vec<RawNode>,
    pub(crate) groups: Vec<RawGroup>,
    pub(crate) save: Option<Text>,
    pub(crate) memory: Option<Text>,
    pub(crate) snapshot_area: Option<Text>,
}

#[derive(Debug)]
pub(crate) struct RawNode {
    pub(crate) name: Text,
    pub(crate) listen: Option<Text>,
    pub(crate) address: Option<Text>,
    pub(crate) data: Option<Text>,
    pub(crate) nbd: Option<Text>,
    pub(crate) memory: Option<Text>,
    pub(crate) insecure_plaintext: Option<Text>,
    pub(crate) nbd_allow: Option<Vec<Text>>,
    pub(crate) metrics: Option<Text>,
    pub(crate) health: Option<Text>,
    pub(crate) handlers: Vec<(Text, Vec<Text>)>,
    pub(crate) writer_lost: Option<Text>,
}

/// Next hops by node.
pub(crate) type RawRoutes = Vec<(Text, Vec<Text>)>;

#[derive(Debug)]
pub(crate) struct RawGroup {
    pub(crate) name: Text,
    pub(crate) primary: Option<Text>,
    pub(crate) transport: Option<Text>,
    pub(crate) congestion: Option<Text>,
    pub(crate) feeders: Vec<Text>,
    pub(crate) routes: Vec<(Text, Vec<RawHop>)>,
    pub(crate) volumes: Vec<RawVolume>,
    pub(crate) policy: RawPolicy,
    pub(crate) playback: RawPlayback,
    pub(crate) overrides: Vec<(Text, RawPlayback)>,
    pub(crate) forward_only: Vec<Text>,
    pub(crate) on_failover: Vec<(Text, RawRoutes)>,
    pub(crate) bypass: Option<Text>,
    pub(crate) fallbacks: RawRoutes,
}

/// A next hop: a name, or a mapping with the name and how it is reached.
#[derive(Debug)]
pub(crate) struct RawHop {
    pub(crate) node: Text,
    pub(crate) transport: Option<Text>,
    pub(crate) congestion: Option<Text>,
    pub(crate) via: Option<Text>,
    pub(crate) ca: Option<Text>,
    pub(crate) limit: Option<Text>,
    pub(crate) connections: Option<Text>,
    pub(crate) dial: Option<Text>,
}

#[derive(Debug)]
pub(crate) struct RawVolume {
    pub(crate) label: Text,
    pub(crate) size: Option<Text>,
    pub(crate) block_size: Option<Text>,
    pub(crate) backing: RawBacking,
    pub(crate) labels: Vec<(Text, Text)>,
    pub(crate) save: Option<Text>,
    pub(crate) snapshot_area: Option<Text>,
    pub(crate) nbd_allow: Option<Vec<Text>>,
}

/// One path, which is the primary's, or a path for each node that has one.
#[derive(Debug)]
pub(crate) enum RawBacking {
    None,
    Primary(Text),
    Nodes(Vec<(Text, Text)>),
}

#[derive(Debug, Default)]
pub(crate) struct RawPolicy {
    pub(crate) hwm: Option<Text>,
    pub(crate) timeout: Option<Text>,
    pub(crate) on_full: Option<Text>,
    pub(crate) suspend_limit: Option<Text>,
    pub(crate) keep: RawKeep,
    pub(crate) persistent: Option<Text>,
    pub(crate) confirm: Option<Text>,
    pub(crate) compress: Option<Text>,
}

/// What a stopped receiver may hold back, of a group or of one node.
#[derive(Debug, Default)]
pub(crate) struct RawKeep {
    pub(crate) bytes: Option<Text>,
    pub(crate) sets: Option<Text>,
    pub(crate) time: Option<Text>,
}

/// Playback of a group, or what one node does differently (`save` and `keep` only there).
#[derive(Debug, Default)]
pub(crate) struct RawPlayback {
    pub(crate) hwm: Option<Text>,
    pub(crate) timeout: Option<Text>,
    pub(crate) max_staleness: Option<Text>,
    pub(crate) scrub: Option<Text>,
    pub(crate) scrub_every: Option<Text>,
    pub(crate) views: Option<Text>,
    pub(crate) save: Option<Text>,
    pub(crate) keep: RawKeep,
}

/// Reads the tree; what does not fit is reported and left out.
pub(crate) fn read(tree: Tree, report: &mut Report) -> RawTopology {
    let at = tree.span.clone();
    let mut top = Fields::new(
        tree,
        &at,
        "the topology",
        &["version", "pki", "transport", "congestion", "nodes", "groups", "defaults"],
        &["version", "nodes"],
        report,
    );
    let version = top.text("version", report);
    let pki = top.text("pki", report);
    let transport = top.text("transport", report);
    let congestion = top.text("congestion", report);
    let at_nodes = top.place("nodes");
    let nodes = top.map("nodes", report);
    if let (true, true, Some(at)) = (nodes.is_empty(), report.is_empty(), at_nodes) {
        report.add(|| {
            Problem::new(&at, "the topology has no nodes")
                .label("nothing is written here")
                .hint(example("nodes"))
        });
    }
    let groups = top.map("groups", report);
    let defaults = top.map("defaults", report);
    let known = &["save", "memory", "snapshot_area"];
    let mut defaults = Fields::of(defaults, "`defaults`", known, report);
    RawTopology {
        version,
        pki,
        transport,
        congestion,
        nodes: nodes.into_iter().map(|(name, tree)| node(name, tree, report)).collect(),
        groups: groups.into_iter().map(|(name, tree)| group(name, tree, report)).collect(),
        save: defaults.text("save", report),
        memory: defaults.text("memory", report),
        snapshot_area: defaults.text("snapshot_area", report),
    }
}

fn node(name: Text, tree: Tree, report: &mut Report) -> RawNode {
    let what = format!("node {}", shown(&name.value));
    let known = &[
        "listen",
        "address",
        "data",
        "nbd",
        "nbd_allow",
        "memory",
        "insecure_plaintext",
        "metrics",
        "health",
        "handlers",
        "writer_lost",
    ];
    let mut f = Fields::new(tree, &name.span, &what, known, &["listen", "data"], report);
    RawNode {
        name,
        listen: f.text("listen", report),
        address: f.text("address", report),
        data: f.text("data", report),
        nbd: f.text("nbd", report),
        memory: f.text("memory", report),
        insecure_plaintext: f.text("insecure_plaintext", report),
        nbd_allow: f.list_if_there("nbd_allow", report),
        metrics: f.text("metrics", report),
        health: f.text("health", report),
        handlers: f.lists("handlers", "the command for", report),
        writer_lost: f.text("writer_lost", report),
    }
}

fn group(name: Text, tree: Tree, report: &mut Report) -> RawGroup {
    let what = format!("group {}", shown(&name.value));
    let known = &[
        "primary",
        "transport",
        "congestion",
        "feeders",
        "routes",
        "volumes",
        "policy",
        "playback",
        "overrides",
        "forward_only",
        "on_failover",
        "bypass",
        "fallbacks",
    ];
    let mut f = Fields::new(tree, &name.span, &what, known, &["primary"], report);
    let routes = f.map("routes", report);
    let volumes = f.map("volumes", report);
    let policy = f.map("policy", report);
    let playback = f.map("playback", report);
    let overrides = f.map("overrides", report);
    let on_failover = f.map("on_failover", report);
    let fallbacks = f.map("fallbacks", report);
    RawGroup {
        on_failover: on_failover
            .into_iter()
            .map(|(to, tree)| {
                let owner = format!("the routes after failover to {} in {what}", shown(&to.value));
                let routes = entries(tree, &owner, report)
                    .into_iter()
                    .map(|(from, tree)| (from, names(tree, &owner, report)))
                    .collect();
                (to, routes)
            })
            .collect(),
        primary: f.text("primary", report),
        transport: f.text("transport", report),
        congestion: f.text("congestion", report),
        feeders: f.list("feeders", report),
        routes: routes
            .into_iter()
            .map(|(from, tree)| {
                let owner = format!("the next hops of {} in {what}", shown(&from.value));
                (from, hops(tree, &owner, report))
            })
            .collect(),
        volumes: volumes.into_iter().map(|(label, tree)| volume(label, tree, report)).collect(),
        policy: read_policy(policy, &what, report),
        playback: read_playback(playback, &format!("the playback of {what}"), false, report),
        overrides: overrides
            .into_iter()
            .map(|(node, tree)| {
                let owner = format!("the override of {} in {what}", shown(&node.value));
                let entries = entries(tree, &owner, report);
                (node, read_playback(entries, &owner, true, report))
            })
            .collect(),
        forward_only: f.list("forward_only", report),
        bypass: f.text("bypass", report),
        fallbacks: fallbacks
            .into_iter()
            .map(|(node, tree)| {
                let owner = format!("the fallbacks of {} in {what}", shown(&node.value));
                (node, names(tree, &owner, report))
            })
            .collect(),
        name,
    }
}

fn volume(label: Text, tree: Tree, report: &mut Report) -> RawVolume {
    let what = format!("volume {}", shown(&label.value));
    let known = &["size", "block_size", "backing", "as", "save", "snapshot_area", "nbd_allow"];
    let mut f = Fields::new(tree, &label.span, &what, known, &["size"], report);
    let at = Text { value: "the label".to_owned(), span: label.span.clone() };
    let labels = f.map("as", report).into_iter();
    let labels =
        labels.filter_map(|(n, tree)| Some((n, text(&at, tree, &what, report)?))).collect();
    let backing = match f.take("backing") {
        None => RawBacking::None,
        Some((_, Tree { kind: Kind::Text(value), span })) => {
            RawBacking::Primary(Text { value, span })
        }
        Some((key, Tree { kind: Kind::Map(list), .. })) => RawBacking::Nodes(
            list.into_iter()
                .filter_map(|(node, tree)| Some((node, text(&key, tree, &what, report)?)))
                .collect(),
        ),
        Some((key, tree)) => {
            wrong_shape(&key, &tree, "a path, or a path for each node", &what, report);
            RawBacking::None
        }
    };
    RawVolume {
        label,
        size: f.text("size", report),
        block_size: f.text("block_size", report),
        backing,
        labels,
        save: f.text("save", report),
        snapshot_area: f.text("snapshot_area", report),
        nbd_allow: f.list_if_there("nbd_allow", report),
    }
}

fn read_policy(entries: Vec<(Text, Tree)>, what: &str, report: &mut Report) -> RawPolicy {
    let known = &[
        "hwm",
        "timeout",
        "on_full",
        "suspend_limit",
        "keep_bytes",
        "keep_sets",
        "keep_time",
        "persistent",
        "confirm",
        "compress",
    ];
    let mut f = Fields::of(entries, &format!("the policy of {what}"), known, report);
    RawPolicy {
        hwm: f.text("hwm", report),
        timeout: f.text("timeout", report),
        on_full: f.text("on_full", report),
        suspend_limit: f.text("suspend_limit", report),
        keep: read_keep(&mut f, report),
        persistent: f.text("persistent", report),
        confirm: f.text("confirm", report),
        compress: f.text("compress", report),
    }
}

fn read_keep(f: &mut Fields, report: &mut Report) -> RawKeep {
    RawKeep {
        bytes: f.text("keep_bytes", report),
        sets: f.text("keep_sets", report),
        time: f.text("keep_time", report),
    }
}

fn read_playback(
    entries: Vec<(Text, Tree)>,
    what: &str,
    of_node: bool,
    report: &mut Report,
) -> RawPlayback {
    let known: &'static [_] = if of_node {
        &[
            "timeout",
            "hwm",
            "max_staleness",
            "scrub",
            "scrub_every",
            "views",
            "save",
            "keep_bytes",
            "keep_sets",
            "keep_time",
        ]
    } else {
        &["timeout", "hwm", "max_staleness", "scrub", "scrub_every", "views"]
    };
    let mut f = Fields::of(entries, what, known, report);
    RawPlayback {
        hwm: f.text("hwm", report),
        timeout: f.text("timeout", report),
        max_staleness: f.text("max_staleness", report),
        scrub: f.text("scrub", report),
        scrub_every: f.text("scrub_every", report),
        views: f.text("views", report),
        save: f.text("save", report),
        keep: read_keep(&mut f, report),
    }
}

/// The fields of one mapping; unknown ones are reported when it is made.
pub(crate) struct Fields {
    what: String,
    entries: Vec<(Text, Tree)>,
}

impl Fields {
    /// `at` is where a missing field is reported: the name of the owner.
    pub(crate) fn new(
        tree: Tree,
        at: &Span,
        what: &str,
        known: &'static [&'static str],
        required: &[&str],
        report: &mut Report,
    ) -> Self {
        let hint = || format!("its fields are: {}", known.join(", "));
        match tree.kind {
            Kind::Map(entries) => {
                let fields = Self::of(entries, what, known, report);
                for name in required {
                    if !fields.entries.iter().any(|(k, _)| k.value == *name) {
                        report.add(|| {
                            Problem::new(at, format!("{what} has no `{name}`"))
                                .label(format!("`{name}` is missing"))
                                .hint(example(name))
                        });
                    }
                }
                return fields;
            }
            Kind::Null => report.add(|| {
                Problem::new(at, format!("{what} is empty"))
                    .label("nothing is written here")
                    .hint(hint())
            }),
            other => report.add(|| {
                Problem::new(
                    &tree.span,
                    format!("{what} must be a mapping, not {}", name_of(&other)),
                )
                .label("lines of `field: value` are expected")
                .hint(hint())
            }),
        }
        Self { what: what.to_owned(), entries: Vec::new() }
    }

    fn of(
        mut entries: Vec<(Text, Tree)>,
        what: &str,
        known: &'static [&'static str],
        report: &mut Report,
    ) -> Self {
        let is_known = |name: &str| known.contains(&name);
        let present: Vec<String> = entries.iter().map(|(k, _)| k.value.clone()).collect();
        let mut taken: Vec<&str> =
            known.iter().copied().filter(|k| present.iter().any(|p| p == k)).collect();
        for (key, _) in &mut entries {
            if is_known(&key.value) {
                continue;
            }
            report.add(|| {
                Problem::new(&key.span, format!("{what} has no field {}", shown(&key.value)))
                    .label("unknown field")
                    .hint(suggest::hint(&key.value, known.iter().copied(), "its fields"))
            });
            // read it as what was meant: nothing else should follow from a slip of the pen
            if let [meant] = suggest::closest(&key.value, known.iter().copied()).as_slice()
                && !taken.contains(meant)
            {
                taken.push(meant);
                key.value = (*meant).to_owned();
            }
        }
        entries.retain(|(key, _)| is_known(&key.value));
        Self { what: what.to_owned(), entries }
    }

    fn take(&mut self, name: &str) -> Option<(Text, Tree)> {
        let at = self.entries.iter().position(|(k, _)| k.value == name)?;
        Some(self.entries.swap_remove(at))
    }

    /// Where the name of a field stands, if it is there.
    fn place(&self, name: &str) -> Option<Span> {
        self.entries.iter().find(|(k, _)| k.value == name).map(|(k, _)| k.span.clone())
    }

    pub(crate) fn text(&mut self, name: &str, report: &mut Report) -> Option<Text> {
        let (key, tree) = self.take(name)?;
        text(&key, tree, &self.what, report)
    }

    pub(crate) fn map(&mut self, name: &str, report: &mut Report) -> Vec<(Text, Tree)> {
        match self.take(name) {
            Some((_, Tree { kind: Kind::Map(entries), .. })) => entries,
            Some((_, Tree { kind: Kind::Null, .. })) | None => Vec::new(),
            Some((key, tree)) => {
                wrong_shape(&key, &tree, "a mapping", &self.what, report);
                Vec::new()
            }
        }
    }

    fn list(&mut self, name: &str, report: &mut Report) -> Vec<Text> {
        let owner = format!("`{name}` of {}", self.what);
        self.take(name).map_or_else(Vec::new, |(_, tree)| names(tree, &owner, report))
    }

    /// A list that means something also when it is empty.
    fn list_if_there(&mut self, name: &str, report: &mut Report) -> Option<Vec<Text>> {
        self.place(name)?;
        Some(self.list(name, report))
    }

    /// A mapping of lists of values; `of` leads from an entry's key to what its list is.
    pub(crate) fn lists(
        &mut self,
        name: &str,
        of: &str,
        report: &mut Report,
    ) -> Vec<(Text, Vec<Text>)> {
        let whose = self.what.clone();
        let list = |(key, tree): (Text, Tree), report: &mut Report| {
            let owner = format!("{of} {} of {whose}", shown(&key.value));
            // What has the wrong shape is reported once.
            let reported = matches!(tree.kind, Kind::Text(_) | Kind::Map(_));
            let items = names(tree, &owner, report);
            (!reported).then_some((key, items))
        };
        self.map(name, report).into_iter().filter_map(|e| list(e, report)).collect()
    }
}

pub(crate) fn text(key: &Text, tree: Tree, what: &str, report: &mut Report) -> Option<Text> {
    match tree.kind {
        Kind::Text(value) => Some(Text { value, span: tree.span }),
        Kind::Null => {
            report.add(|| {
                Problem::new(&key.span, format!("{} of {what} has no value", shown(&key.value)))
                    .label("nothing follows")
                    .hint("write a value, or remove the line")
            });
            None
        }
        _ => {
            wrong_shape(key, &tree, "one value", what, report);
            None
        }
    }
}

/// The entries of a mapping that may be empty.
fn entries(tree: Tree, owner: &str, report: &mut Report) -> Vec<(Text, Tree)> {
    match tree.kind {
        Kind::Map(entries) => entries,
        Kind::Null => Vec::new(),
        other => {
            report.add(|| {
                Problem::new(
                    &tree.span,
                    format!("{owner} must be a mapping, not {}", name_of(&other)),
                )
                .hint("write {field: value, field: value}")
            });
            Vec::new()
        }
    }
}

/// Next hops: names, or mappings with `node` and how it is reached.
fn hops(tree: Tree, owner: &str, report: &mut Report) -> Vec<RawHop> {
    let known = &["node", "transport", "congestion", "via", "ca", "limit", "connections", "dial"];
    let hop = |t: Tree, report: &mut Report| match t.kind {
        Kind::Text(value) => Some(RawHop {
            node: Text { value, span: t.span },
            transport: None,
            congestion: None,
            via: None,
            ca: None,
            limit: None,
            connections: None,
            dial: None,
        }),
        Kind::Map(_) => {
            let (at, what) = (t.span.clone(), format!("one of {owner}"));
            let mut f = Fields::new(t, &at, &what, known, &["node"], report);
            Some(RawHop {
                node: f.text("node", report)?,
                transport: f.text("transport", report),
                congestion: f.text("congestion", report),
                via: f.text("via", report),
                ca: f.text("ca", report),
                limit: f.text("limit", report),
                connections: f.text("connections", report),
                dial: f.text("dial", report),
            })
        }
        other => {
            report.add(|| not_a_name(&t.span, owner, &other));
            None
        }
    };
    list(tree, owner, report).into_iter().filter_map(|t| hop(t, report)).collect()
}

fn not_a_name(span: &Span, owner: &str, found: &Kind) -> Problem {
    let found = name_of(found);
    Problem::new(span, format!("{owner} must be names; this is {found}")).hint("write [name, name]")
}

/// A list of names. A single name is refused, with the brackets shown.
fn names(tree: Tree, owner: &str, report: &mut Report) -> Vec<Text> {
    let name = |t: Tree, report: &mut Report| match t.kind {
        Kind::Text(value) => Some(Text { value, span: t.span }),
        other => {
            report.add(|| not_a_name(&t.span, owner, &other));
            None
        }
    };
    list(tree, owner, report).into_iter().filter_map(|t| name(t, report)).collect()
}

/// The items of a list that may be empty. A single name is refused, with the brackets shown.
fn list(tree: Tree, owner: &str, report: &mut Report) -> Vec<Tree> {
    match tree.kind {
        Kind::List(items) => items,
        Kind::Null => Vec::new(),
        other => {
            report.add(|| {
                let found = name_of(&other);
                let hint = match &other {
                    Kind::Text(t) => format!("write [{}]", shown(t).trim_matches('`')),
                    _ => "write [name, name]".to_owned(),
                };
                Problem::new(&tree.span, format!("{owner} must be a list, not {found}")).hint(hint)
            });
            Vec::new()
        }
    }
}

fn wrong_shape(key: &Text, tree: &Tree, wanted: &str, what: &str, report: &mut Report) {
    report.add(|| {
        let found = name_of(&tree.kind);
        Problem::new(
            &tree.span,
            format!("{} of {what} must be {wanted}, not {found}", shown(&key.value)),
        )
        .label(format!("this is {found}"))
        .hint(example(&key.value))
    });
}

fn name_of(kind: &Kind) -> &'static str {
    match kind {
        Kind::Null => "nothing",
        Kind::Text(_) => "a single value",
        Kind::List(_) => "a list",
        Kind::Map(_) => "a mapping",
    }
}
