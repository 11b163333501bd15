//! The only place that knows the YAML library: text to a tree with positions, and serialisable
//! values to text.
//!
//! The tree is read from parser events, not through a typed deserialiser, because that one stops
//! at its first error. Scalars stay text: what `256MiB` or `true` means is decided later, where
//! the error can name the node or volume. Reported here: syntax, two equal keys, tags, a second
//! document, and files whose aliases expand beyond the budget.

use crate::diagnostics::{Problem, Report, Span};
use crate::limits::{MAX_COST, MAX_DEPTH};
use crate::value::shown;
use serde_yaml::granit_parser::{self, ErrorKind, Event, Parser, ScalarStyle, ScanError};
use std::collections::{HashMap, HashSet};

/// Text and where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Text {
    pub(crate) value: String,
    pub(crate) span: Span,
}

/// A value of the file.
#[derive(Clone, Debug)]
pub(crate) struct Tree {
    pub(crate) kind: Kind,
    pub(crate) span: Span,
}

#[derive(Clone, Debug)]
pub(crate) enum Kind {
    /// Nothing written, `~` or `null`.
    Null,
    Text(String),
    List(Vec<Tree>),
    Map(Vec<(Text, Tree)>),
}

/// The tree of the only document, or nothing after a syntax error.
pub(crate) fn parse(text: &str, report: &mut Report) -> Option<Tree> {
    let mut loader = Loader { report, anchors: HashMap::new(), cost: 0 };
    let options = granit_parser::options! {
        flow_nesting_limit: MAX_DEPTH,
        block_nesting_limit: MAX_DEPTH,
        disallow_directives: true,
    };
    let mut events = Parser::new_from_str_with_options(text, options);
    match loader.document(&mut events) {
        Ok(tree) => tree,
        Err(Stop::Syntax(e)) => {
            loader.report.add(|| syntax(text, &e));
            None
        }
        Err(Stop::Budget(span)) => {
            loader.report.add(|| {
                Problem::new(&span, "the file is too large once its aliases are expanded")
                    .label("the limit is passed here")
                    .hint("write the values out, or use fewer aliases (`*name`)")
            });
            None
        }
    }
}

/// YAML text of a serialisable value.
pub(crate) fn write<T: serde::Serialize>(value: &T) -> Result<String, String> {
    let options = serde_yaml::ser_options! { prefer_block_scalars: false };
    serde_yaml::to_string_with_options(value, options).map_err(|e| e.to_string())
}

enum Stop {
    Syntax(ScanError),
    Budget(Span),
}

/// A collection that is being read.
enum Open {
    List(Vec<Tree>),
    Map { entries: Vec<(Text, Tree)>, seen: HashMap<String, Span>, key: Key, merge: Vec<Tree> },
}

/// What the next value in a mapping is.
enum Key {
    /// The key itself.
    Awaited,
    /// The value of this key.
    Known(Text),
    /// The value of `<<`.
    Merge,
    /// A value that is dropped, because its key was refused.
    Refused,
}

struct Frame {
    open: Open,
    span: Span,
    anchor: usize,
}

struct Loader<'r> {
    report: &'r mut Report,
    /// Finished values with an anchor, and what a copy of them costs.
    anchors: HashMap<usize, (Tree, usize)>,
    cost: usize,
}

impl Loader<'_> {
    fn document<'t, T: granit_parser::BorrowedInput<'t>>(
        &mut self,
        events: &mut Parser<'t, T>,
    ) -> Result<Option<Tree>, Stop> {
        let mut stack: Vec<Frame> = Vec::new();
        let mut root: Option<Tree> = None;
        let mut documents = 0;
        while let Some(next) = events.next_event() {
            let (event, place) = next.map_err(Stop::Syntax)?;
            let span = place.byte_range().unwrap_or(0..0);
            if event.tag().is_some() {
                self.report.add(|| {
                    Problem::new(&span, "YAML tags are not used in a topology")
                        .label("has a tag")
                        .hint("remove the word that begins with `!`")
                });
            }
            let (done, anchor) = match event {
                Event::DocumentStart(..) => {
                    documents += 1;
                    if documents == 2 {
                        self.report.add(|| {
                            Problem::new(&span, "a topology is one YAML document")
                                .label("a second one begins here")
                                .hint("remove the `---`, and one of the two documents")
                        });
                        return Ok(root);
                    }
                    continue;
                }
                Event::Scalar(value, style, anchor, _) => {
                    self.pay(1 + value.len() / 16, &span)?;
                    let null = style == ScalarStyle::Plain
                        && matches!(&*value, "" | "~" | "null" | "Null" | "NULL");
                    let kind = if null { Kind::Null } else { Kind::Text(value.into_owned()) };
                    (Tree { kind, span }, anchor)
                }
                Event::SequenceStart(_, anchor, _) => {
                    self.pay(1, &span)?;
                    stack.push(Frame { open: Open::List(Vec::new()), span, anchor });
                    continue;
                }
                Event::MappingStart(_, anchor, _) => {
                    self.pay(1, &span)?;
                    let open = Open::Map {
                        entries: Vec::new(),
                        seen: HashMap::new(),
                        key: Key::Awaited,
                        merge: Vec::new(),
                    };
                    stack.push(Frame { open, span, anchor });
                    continue;
                }
                Event::SequenceEnd | Event::MappingEnd => {
                    let Some(frame) = stack.pop() else { continue };
                    self.close(frame)?
                }
                Event::Alias(id) => {
                    let Some((tree, cost)) = self.anchors.get(&id).cloned() else {
                        self.report.add(|| {
                            Problem::new(&span, "this alias stands within its own value")
                                .hint("an alias repeats a finished value")
                        });
                        self.place(&mut stack, &mut root, Tree { kind: Kind::Null, span });
                        continue;
                    };
                    self.pay(cost, &span)?;
                    (tree, 0)
                }
                _ => continue,
            };
            self.remember(anchor, &done)?;
            self.place(&mut stack, &mut root, done);
        }
        Ok(root)
    }

    /// A finished collection.
    fn close(&mut self, frame: Frame) -> Result<(Tree, usize), Stop> {
        let kind = match frame.open {
            Open::List(items) => Kind::List(items),
            Open::Map { mut entries, merge, .. } => {
                // explicit keys win over merged ones, earlier merges over later ones
                let mut have: HashSet<String> =
                    entries.iter().map(|(k, _)| k.value.clone()).collect();
                for tree in merge {
                    self.merge(tree, &mut entries, &mut have);
                }
                Kind::Map(entries)
            }
        };
        let span = match &kind {
            Kind::Map(entries) if frame.span.is_empty() => {
                entries.first().map_or(frame.span, |(k, _)| k.span.clone())
            }
            Kind::List(items) if frame.span.is_empty() => {
                items.first().map_or(frame.span, |t| t.span.clone())
            }
            _ => frame.span,
        };
        Ok((Tree { kind, span }, frame.anchor))
    }

    fn merge(&mut self, tree: Tree, entries: &mut Vec<(Text, Tree)>, have: &mut HashSet<String>) {
        match tree.kind {
            Kind::Map(from) => {
                entries.extend(from.into_iter().filter(|(k, _)| have.insert(k.value.clone())));
            }
            Kind::List(items) => items.into_iter().for_each(|t| self.merge(t, entries, have)),
            Kind::Null => {}
            Kind::Text(_) => self.report.add(|| {
                Problem::new(&tree.span, "`<<` takes a mapping")
                    .hint("write `<<: *name`, where `&name` stands before a mapping")
            }),
        }
    }

    /// Puts a finished value where it belongs.
    fn place(&mut self, stack: &mut [Frame], root: &mut Option<Tree>, tree: Tree) {
        let Some(frame) = stack.last_mut() else {
            root.get_or_insert(tree);
            return;
        };
        let (entries, seen, key, merge) = match &mut frame.open {
            Open::List(items) => {
                items.push(tree);
                return;
            }
            Open::Map { entries, seen, key, merge } => (entries, seen, key, merge),
        };
        *key = match std::mem::replace(key, Key::Awaited) {
            Key::Known(name) => {
                entries.push((name, tree));
                return;
            }
            Key::Merge => {
                merge.push(tree);
                return;
            }
            Key::Refused => return,
            Key::Awaited => match tree.kind {
                Kind::Text(value) if value == "<<" => Key::Merge,
                Kind::Text(value) => match seen.get(&value) {
                    Some(first) => {
                        self.report.add(|| {
                            Problem::new(&tree.span, format!("{} is written twice", shown(&value)))
                                .label("again here")
                                .note(first, "first here")
                                .hint("keep one of the two")
                        });
                        Key::Refused
                    }
                    None => {
                        seen.insert(value.clone(), tree.span.clone());
                        Key::Known(Text { value, span: tree.span })
                    }
                },
                _ => {
                    self.report.add(|| {
                        Problem::new(&tree.span, "a key must be a name")
                            .label("not a name")
                            .hint("write `name: value`")
                    });
                    Key::Refused
                }
            },
        };
    }

    fn pay(&mut self, cost: usize, span: &Span) -> Result<(), Stop> {
        self.cost += cost;
        if self.cost > MAX_COST { Err(Stop::Budget(span.clone())) } else { Ok(()) }
    }

    fn remember(&mut self, anchor: usize, tree: &Tree) -> Result<(), Stop> {
        if anchor != 0 {
            let cost = cost(tree);
            self.pay(cost, &tree.span)?;
            self.anchors.insert(anchor, (tree.clone(), cost));
        }
        Ok(())
    }
}

fn cost(tree: &Tree) -> usize {
    1 + match &tree.kind {
        Kind::Null => 0,
        Kind::Text(t) => t.len() / 16,
        Kind::List(items) => items.iter().map(cost).sum(),
        Kind::Map(entries) => {
            entries.iter().map(|(k, v)| 1 + k.value.len() / 16 + cost(v)).sum::<usize>()
        }
    }
}

/// A syntax error in words that help.
fn syntax(text: &str, error: &ScanError) -> Problem {
    let at = error.marker().byte_offset().unwrap_or(0);
    let problem = Problem::new(&(at..at + 1), format!("not valid YAML: {}", error.info()));
    let hint = match error.kind() {
        ErrorKind::TabNotAllowed
        | ErrorKind::TabInBlockIndentation
        | ErrorKind::TabInIndentation
        | ErrorKind::TabAtBlockScalarStart => "indent with spaces, never with tabs",
        ErrorKind::UnclosedFlowCollection { .. }
        | ErrorKind::UnexpectedEofFlowSequence
        | ErrorKind::UnexpectedEofFlowMapping
        | ErrorKind::UnexpectedEofImplicitFlowMapping
        | ErrorKind::ExpectedFlowMappingSeparator
        | ErrorKind::ExpectedFlowSequenceSeparator
        | ErrorKind::MismatchedFlowCollectionEnd { .. }
        | ErrorKind::MisplacedFlowCollectionEnd => {
            "every `[` needs its `]` and every `{` its `}`, with commas between the values"
        }
        ErrorKind::UnclosedQuotedScalar => "close the quotation mark",
        ErrorKind::UnknownAnchor => "`*name` repeats what was marked `&name` further up",
        ErrorKind::RecursionLimitExceeded => "a topology has no use for so deep a nesting",
        ErrorKind::DirectiveDisallowed => "remove the line that begins with `%`",
        ErrorKind::InvalidIndentation
        | ErrorKind::ExpectedBlockMappingKey
        | ErrorKind::SimpleKeyExpected
        | ErrorKind::InvalidSimpleKey => {
            "lines of one mapping begin in the same column, and each is `name: value`"
        }
        _ if text.get(at..at + 1) == Some("\t") => "indent with spaces, never with tabs",
        _ => "look here and at the line before: indentation, quotation marks, a space after colons",
    };
    problem.label("reading stopped here").hint(hint)
}

/// `serialize_with`: a mapping on one line, `{a: 1, b: 2}`.
pub(crate) fn flow_map<T: serde::Serialize, S: serde::Serializer>(
    value: &T,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serde::Serialize::serialize(&serde_yaml::FlowMap(value), serializer)
}

/// `serialize_with`: a list on one line, `[a, b]`.
pub(crate) fn flow_list<S: serde::Serializer>(
    value: &[String],
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serde::Serialize::serialize(&serde_yaml::FlowSeq(value), serializer)
}

/// `serialize_with`: such a list, where there is one.
pub(crate) fn flow_list_if_there<S: serde::Serializer>(
    value: &Option<Vec<String>>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    flow_list(value.as_deref().unwrap_or_default(), serializer)
}

/// `serialize_with`: a mapping whose values are lists or mappings on one line each.
pub(crate) fn map_of_flow_lists<T: serde::Serialize, S: serde::Serializer>(
    value: &std::collections::BTreeMap<String, Vec<T>>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_map(value.iter().map(|(k, v)| (k, serde_yaml::FlowSeq(v))))
}

/// See [`map_of_flow_lists`].
pub(crate) fn map_of_flow_maps<T: serde::Serialize, S: serde::Serializer>(
    value: &std::collections::BTreeMap<String, T>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_map(value.iter().map(|(k, v)| (k, serde_yaml::FlowMap(v))))
}
