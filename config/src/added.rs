//! What commands added to a topology: groups of their own, and members of groups that the file has
//! (CMD-01, CMD-02).
//!
//! A node keeps it beside its volumes and joins it to the file whenever that is read
//! ([`Topology::with`]). Both go through the same rules as one text, so that a command can make
//! nothing that a file could not say, and whatever contradicts is named in both places.

use crate::diagnostics::{Diagnostics, Problem, Report};
use crate::limits::VERSION;
use crate::plan::Topology;
use crate::raw::{Fields, text};
use crate::value::shown;
use crate::yaml::{self, Kind, Text, Tree};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Groups by name, as commands made them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Added {
    /// What is said of each.
    pub groups: BTreeMap<String, AddedGroup>,
}

/// One group that a command made, or the members that commands added to one of the file. Unchecked:
/// [`Topology::with`] checks it. Fields carry the names and forms of the file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AddedGroup {
    /// Rises with each change, so that an older word never replaces a newer one.
    pub revision: u64,
    /// The primary of a group that a command made; none where the file has the group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub primary: Option<String>,
    /// Members by the node that feeds them.
    #[serde(
        default,
        skip_serializing_if = "BTreeMap::is_empty",
        serialize_with = "yaml::map_of_flow_lists"
    )]
    pub routes: BTreeMap<String, Vec<String>>,
    /// When the primary closes a delta set: `hwm`, `timeout`.
    #[serde(
        default,
        skip_serializing_if = "BTreeMap::is_empty",
        serialize_with = "yaml::flow_map"
    )]
    pub policy: BTreeMap<String, String>,
}

impl AddedGroup {
    /// Who feeds a member that is listed here.
    #[must_use]
    pub fn feeder(&self, member: &str) -> Option<&str> {
        let feeds = |hops: &Vec<String>| hops.iter().any(|h| h == member);
        self.routes.iter().find(|(_, hops)| feeds(hops)).map(|(from, _)| from.as_str())
    }

    /// The members that are listed here, without the primary.
    pub fn members(&self) -> impl Iterator<Item = &str> {
        self.routes.values().flatten().map(String::as_str)
    }

    /// Lists a member below a node, and nowhere else.
    pub fn put(&mut self, member: &str, below: &str) {
        self.take(member);
        self.routes.entry(below.to_owned()).or_default().push(member.to_owned());
    }

    /// Lists a member no longer.
    pub fn take(&mut self, member: &str) {
        self.routes.values_mut().for_each(|hops| hops.retain(|h| h != member));
        self.routes.retain(|_, hops| !hops.is_empty());
    }
}

/// The text as it is written and read.
#[derive(Serialize)]
struct File<'a> {
    version: u32,
    groups: &'a BTreeMap<String, AddedGroup>,
}

impl Added {
    /// As YAML, for [`Added::read`].
    #[must_use]
    pub fn to_text(&self) -> String {
        let file = File { version: VERSION, groups: &self.groups };
        // Maps and lists of words: there is nothing in them that could not be written.
        let body = yaml::write(&file).unwrap_or_default();
        format!("# What `rcpctl group` added. Kept by rcpd; change it by commands.\n{body}")
    }

    /// Reads what [`Added::to_text`] wrote, perhaps changed by hand. `file_name` only stands in the
    /// errors.
    ///
    /// # Errors
    /// Everything that has the wrong shape. Whether names are known is not looked at.
    pub fn read(text: &str, file_name: &str) -> Result<Self, Diagnostics> {
        let mut report = Report::default();
        let tree = yaml::parse(text, &mut report);
        let groups = match tree {
            Some(tree) => read(tree, &mut report),
            None => {
                report.add(|| {
                    Problem::new(&(0..0), "there is nothing to be read")
                        .hint("remove the file if no group was made by a command")
                });
                BTreeMap::new()
            }
        };
        if report.is_empty() { Ok(Self { groups }) } else { Err(report.finish(file_name, text)) }
    }
}

/// Reads what commands added. Names and numbers stay as they are written, but for the revision.
fn read(tree: Tree, report: &mut Report) -> BTreeMap<String, AddedGroup> {
    let at = tree.span.clone();
    let known = &["version", "groups"];
    let mut top = Fields::new(tree, &at, "the file", known, &["version"], report);
    let version = top.text("version", report);
    if let Some(text) = version.filter(|t| t.value.parse() != Ok(VERSION)) {
        report.add(|| {
            Problem::new(&text.span, format!("version {} is not known", shown(&text.value)))
                .hint(format!("write `version: {VERSION}`; later versions need a later program"))
        });
    }
    let groups = top.map("groups", report);
    groups
        .into_iter()
        .map(|(name, tree)| (name.value.clone(), added(&name, tree, report)))
        .collect()
}

fn added(name: &Text, tree: Tree, report: &mut Report) -> AddedGroup {
    let what = format!("group {}", shown(&name.value));
    let known = &["revision", "primary", "routes", "policy"];
    let mut f = Fields::new(tree, &name.span, &what, known, &["revision"], report);
    let revision = f.text("revision", report).and_then(|text| {
        let number = text.value.parse().ok();
        if number.is_none() {
            report.add(|| {
                Problem::new(&text.span, format!("{} is not a revision", shown(&text.value)))
                    .hint("write the number that the other members have")
            });
        }
        number
    });
    let hops = f.lists("routes", "the next hops of", report).into_iter();
    let words = |list: Vec<Text>| list.into_iter().map(|t| t.value).collect();
    let policy = f.map("policy", report).into_iter();
    AddedGroup {
        revision: revision.unwrap_or_default(),
        primary: f.text("primary", report).map(|t| t.value),
        routes: hops.map(|(from, list)| (from.value, words(list))).collect(),
        policy: policy
            .filter_map(|(key, tree)| {
                let value = text(&key, tree, &what, report)?.value;
                Some((key.value, value))
            })
            .collect(),
    }
}

impl Topology {
    /// The topology of a file with what commands added. `file_name` is that of `added`, for the
    /// errors. What was added to `self` before is not taken along.
    ///
    /// # Errors
    /// Everything that is wrong with both together: a name that both have, a node that the file
    /// does not know, a member with two parents.
    pub fn with(&self, added: &Added, file_name: &str) -> Result<Self, Diagnostics> {
        let source = &self.source;
        let mut text = source.text.to_string();
        if !text.ends_with('\n') {
            text.push('\n');
        }
        let (offset, second) = (text.len(), added.to_text());
        text.push_str(&second);
        let mut report = Report::default();
        let base = yaml::parse(&source.text, &mut report);
        let more = yaml::parse(&second, &mut report);
        if let (Some(mut base), Some(mut more)) = (base, more) {
            shift(&mut more, offset);
            join(&mut base, more, file_name, &mut report);
            let topology = Self::checked(base, source.clone(), &mut report);
            if report.is_empty() {
                return Ok(topology);
            }
        }
        Err(report.finish_joined((&source.file, &text), (file_name, offset)))
    }
}

/// The place of everything, in a text that has `by` bytes before it.
fn shift(tree: &mut Tree, by: usize) {
    let moved = |span: &mut std::ops::Range<usize>| *span = span.start + by..span.end + by;
    moved(&mut tree.span);
    match &mut tree.kind {
        Kind::Null | Kind::Text(_) => {}
        Kind::List(items) => items.iter_mut().for_each(|t| shift(t, by)),
        Kind::Map(entries) => entries.iter_mut().for_each(|(key, t)| {
            moved(&mut key.span);
            shift(t, by);
        }),
    }
}

/// A mapping in a mapping, made where there is none.
fn within<'t>(tree: &'t mut Tree, name: &str) -> Option<&'t mut Vec<(Text, Tree)>> {
    let span = tree.span.clone();
    let Kind::Map(entries) = &mut tree.kind else { return None };
    let at = entries.iter().position(|(k, _)| k.value == name).unwrap_or_else(|| {
        let key = Text { value: name.to_owned(), span: span.start..span.start };
        entries.push((key, Tree { kind: Kind::Null, span }));
        entries.len() - 1
    });
    let (_, tree) = entries.get_mut(at)?;
    if matches!(tree.kind, Kind::Null) {
        tree.kind = Kind::Map(Vec::new());
    }
    match &mut tree.kind {
        Kind::Map(entries) => Some(entries),
        _ => None,
    }
}

fn take(tree: &mut Tree, name: &str) -> Option<Tree> {
    let Kind::Map(entries) = &mut tree.kind else { return None };
    let at = entries.iter().position(|(k, _)| k.value == name)?;
    Some(entries.remove(at).1)
}

/// Groups of `more` become groups of `base`, or their members join those that are there.
fn join(base: &mut Tree, mut more: Tree, file: &str, report: &mut Report) {
    let (Some(groups), Some(Tree { kind: Kind::Map(added), .. })) =
        (within(base, "groups"), take(&mut more, "groups"))
    else {
        return;
    };
    for (name, mut tree) in added {
        take(&mut tree, "revision");
        let own = matches!(&tree.kind, Kind::Map(e) if e.iter().any(|(k, _)| k.value == "primary"));
        let there = groups.iter().position(|(k, _)| k.value == name.value);
        let title = shown(&name.value);
        match (there.and_then(|i| groups.get_mut(i)), own) {
            (Some((key, _)), true) => report.add(|| {
                Problem::new(
                    &key.span,
                    format!("group {title} is in the file, and was made by a command as well"),
                )
                .label("in the file")
                .note(&name.span, "made by a command")
                .hint(format!(
                    "take it out of the file, or call it otherwise there; or `rcpctl group delete \
                     {}` while the file does not have it; or take it out of {file}",
                    name.value
                ))
            }),
            (Some((_, tree_of_file)), false) => {
                let hops = take(&mut tree, "routes");
                if let Some(routes) = within(tree_of_file, "routes") {
                    join_routes(routes, hops);
                }
            }
            (None, true) => groups.push((name, tree)),
            (None, false) => {
                // Nobody is left to add them to, and nothing was added.
                let empty = matches!(&tree.kind, Kind::Map(e) if e.is_empty());
                if !empty {
                    report.add(|| {
                        Problem::new(
                            &name.span,
                            format!(
                                "members were added to group {title}, which the file no longer has"
                            ),
                        )
                        .label("added by a command")
                        .hint(format!("put the group back into the file, or take it out of {file}"))
                    });
                }
            }
        }
    }
}

/// What the file says already is not said again.
fn join_routes(routes: &mut Vec<(Text, Tree)>, hops: Option<Tree>) {
    let Some(Tree { kind: Kind::Map(added), .. }) = hops else { return };
    for (from, tree) in added {
        let Some((_, list)) = routes.iter_mut().find(|(k, _)| k.value == from.value) else {
            routes.push((from, tree));
            continue;
        };
        let (Kind::List(new), true) = (tree.kind, !matches!(list.kind, Kind::Text(_))) else {
            continue;
        };
        if matches!(list.kind, Kind::Null) {
            list.kind = Kind::List(Vec::new());
        }
        let Kind::List(old) = &mut list.kind else { continue };
        let said: Vec<_> = old.iter().filter_map(hop_name).collect();
        old.extend(new.into_iter().filter(|t| hop_name(t).is_none_or(|n| !said.contains(&n))));
    }
}

/// The node of a next hop, whichever way it is written.
fn hop_name(tree: &Tree) -> Option<String> {
    match &tree.kind {
        Kind::Text(name) => Some(name.clone()),
        Kind::Map(fields) => {
            let (_, node) = fields.iter().find(|(k, _)| k.value == "node")?;
            hop_name(node)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcp::proto::ids::{GroupName, NodeName};

    const FILE: &str = "version: 1\nnodes:\n  a: {listen: \"127.0.0.1:7101\", data: ./a}\n  \
                        b: {listen: \"127.0.0.1:7102\", data: ./b}\n  \
                        c: {listen: \"127.0.0.1:7103\", data: ./c}\n";

    fn file(groups: &str) -> Topology {
        Topology::compile(&format!("{FILE}{groups}"), "t.yaml").expect("a topology")
    }

    fn added(name: &str, primary: Option<&str>, routes: &[(&str, &str)]) -> Added {
        let mut g = AddedGroup {
            revision: 7,
            primary: primary.map(str::to_owned),
            ..AddedGroup::default()
        };
        routes.iter().for_each(|(from, to)| g.put(to, from));
        Added { groups: [(name.to_owned(), g)].into() }
    }

    fn refused(base: &Topology, added: &Added) -> String {
        base.with(added, "a/groups.yaml").expect_err("refused").plain()
    }

    const G1: &str = "groups:\n  g1:\n    primary: a\n    routes: {a: [b]}\n";

    #[test]
    fn what_is_written_is_read_again() {
        let mut all = added("g2", Some("a"), &[("a", "b"), ("b", "c")]);
        let g = all.groups.get_mut("g2").expect("there");
        g.policy.insert("timeout".to_owned(), "1s".to_owned());
        all.groups.extend(added("g1", None, &[]).groups);
        let text = all.to_text();
        assert_eq!(Added::read(&text, "groups.yaml").expect("read"), all, "{text}");
        for (bad, word) in [
            ("version: 1\ngroups: {g2: {primry: a, revision: 1}}\n", "has no field `primry`"),
            ("version: 1\ngroups: {g2: {revision: many}}\n", "is not a revision"),
            ("version: 1\ngroups: {g2: {revision: 1, routes: {a: b}}}\n", "must be a list"),
            ("version: 2\n", "version"),
            ("", "nothing to be read"),
        ] {
            let e = Added::read(bad, "groups.yaml").expect_err(bad).plain();
            assert!(e.contains(word), "{bad}: {e}");
        }
    }

    #[test]
    fn a_group_of_a_command_obeys_the_rules_of_the_file() {
        let base = file("");
        let mut all = added("g2", Some("a"), &[("a", "b"), ("b", "c")]);
        let g = all.groups.get_mut("g2").expect("there");
        g.policy.insert("timeout".to_owned(), "1s".to_owned());
        let whole = base.with(&all, "a/groups.yaml").expect("good");
        let g2 = whole.group(&GroupName::new("g2").expect("valid")).expect("made");
        assert_eq!(g2.members().len(), 3);
        assert_eq!(g2.policy.timeout, std::time::Duration::from_secs(1));
        // From the file's own text again: nothing is added twice.
        assert_eq!(whole.with(&all, "x"), Ok(whole.clone()));
        assert_eq!(whole.with(&Added::default(), "x"), Ok(base.clone()));

        for (bad, words) in [
            (added("g2", Some("d"), &[]), vec!["there is no node `d`", "a/groups.yaml:6:14"]),
            (added("g2", Some("a"), &[("a", "b"), ("c", "a")]), vec!["is the primary"]),
            (added("G2", Some("a"), &[]), vec!["is not a group name", "write `g2`"]),
            (added("g2", Some("a"), &[("b", "c")]), vec!["g2"]),
        ] {
            let text = refused(&base, &bad);
            for word in words {
                assert!(text.contains(word), "{word}: {text}");
            }
        }
    }

    #[test]
    fn a_name_in_both_is_refused_with_both_places() {
        let text = refused(&file(G1), &added("g1", Some("b"), &[]));
        for word in [
            "group `g1` is in the file, and was made by a command as well",
            "t.yaml:7:3",
            "a/groups.yaml:4:3",
            "`rcpctl group delete g1`",
            "or take it out of a/groups.yaml",
        ] {
            assert!(text.contains(word), "{word}: {text}");
        }
    }

    #[test]
    fn members_join_a_group_of_the_file() {
        let base = file(G1);
        let whole = base.with(&added("g1", None, &[("b", "c"), ("a", "b")]), "x").expect("good");
        let g1 = whole.group(&GroupName::new("g1").expect("valid")).expect("there");
        let name = |n| NodeName::new(n).expect("valid");
        assert_eq!(g1.parent(&name("c")), Some(&name("b")));
        assert_eq!(g1.children(&name("a")), [name("b")], "said twice, there once");

        let twice = "groups:\n  g1: {primary: a, routes: {a: [b, {node: c}]}}\n";
        let text = refused(&file(twice), &added("g1", None, &[("b", "c")]));
        assert!(text.contains("two parents") && text.contains("groups.yaml"), "{text}");
        assert!(file(twice).with(&added("g1", None, &[("a", "c")]), "x").is_ok());
        let text = refused(&file(""), &added("g1", None, &[("b", "c")]));
        assert!(text.contains("which the file no longer has"), "{text}");
    }
}
