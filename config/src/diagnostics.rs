//! What is wrong with a topology, all of it at once: message, place, source line, hint.
//!
//! A report collects while a file is compiled; [`Diagnostics`] is the finished list, which
//! renders itself plain or coloured and can be walked through. Nothing here knows the topology.

use crate::limits::MAX_ERRORS;
use annotate_snippets::{AnnotationKind, Level, Renderer, Snippet};
use std::fmt;
use std::ops::Range;

/// Byte range in the source text.
pub(crate) type Span = Range<usize>;

/// One thing that is wrong, while the file is being compiled.
#[derive(Debug)]
pub(crate) struct Problem {
    span: Span,
    message: String,
    label: String,
    hint: Option<String>,
    notes: Vec<(Span, String)>,
}

impl Problem {
    pub(crate) fn new(span: &Span, message: impl Into<String>) -> Self {
        Self {
            span: span.clone(),
            message: message.into(),
            label: String::new(),
            hint: None,
            notes: Vec::new(),
        }
    }

    /// What is said under the marked text.
    pub(crate) fn label(mut self, label: impl Into<String>) -> Self {
        self.label = label.into();
        self
    }

    /// What to do.
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Another place that has to do with it.
    pub(crate) fn note(mut self, span: &Span, label: impl Into<String>) -> Self {
        self.notes.push((span.clone(), label.into()));
        self
    }
}

/// Collects problems; beyond [`MAX_ERRORS`] they are only counted.
#[derive(Debug, Default)]
pub(crate) struct Report {
    problems: Vec<Problem>,
    hidden: usize,
}

impl Report {
    /// Adds a problem; it is only made when there is room for it.
    pub(crate) fn add(&mut self, problem: impl FnOnce() -> Problem) {
        if self.problems.len() < MAX_ERRORS {
            self.problems.push(problem());
        } else {
            self.hidden += 1;
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.problems.is_empty()
    }

    /// The list in the order of the file, with lines and columns.
    pub(crate) fn finish(mut self, file: &str, text: &str) -> Diagnostics {
        self.problems.sort_by_key(|p| p.span.start);
        let lines = Lines::new(text);
        let place = |span: &Span| lines.place(text, span.start);
        let list = self.problems.into_iter().map(|p| {
            let (line, column) = place(&p.span);
            let notes = p.notes.into_iter().map(|(span, label)| {
                let (line, column) = place(&span);
                Note { line, column, label, span: clamp(text, &span) }
            });
            Diagnostic {
                line,
                column,
                message: p.message,
                label: p.label,
                hint: p.hint,
                notes: notes.collect(),
                span: clamp(text, &p.span),
            }
        });
        Diagnostics {
            list: list.collect(),
            hidden: self.hidden,
            file: file.to_owned(),
            text: text.to_owned(),
        }
    }
}

/// A second place that belongs to a [`Diagnostic`].
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct Note {
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// What is there.
    pub label: String,
    #[serde(skip)]
    span: Span,
}

/// One thing that is wrong with a topology.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct Diagnostic {
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// What is wrong, naming the node, group or volume.
    pub message: String,
    /// What is said under the marked text; may be empty.
    pub label: String,
    /// What to do about it.
    pub hint: Option<String>,
    /// Other places that have to do with it.
    pub notes: Vec<Note>,
    #[serde(skip)]
    span: Span,
}

/// Everything that is wrong with one topology file, in the order of the file; never empty.
///
/// `Display` is the plain rendering.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Diagnostics {
    file: String,
    #[serde(rename = "errors")]
    list: Vec<Diagnostic>,
    hidden: usize,
    #[serde(skip)]
    text: String,
}

impl Diagnostics {
    /// The file name that was given to the compiler.
    #[must_use]
    pub fn file(&self) -> &str {
        &self.file
    }

    /// Number of errors, with those that were only counted.
    #[must_use]
    pub fn count(&self) -> usize {
        self.list.len() + self.hidden
    }

    /// The errors, in the order of the file.
    pub fn iter(&self) -> std::slice::Iter<'_, Diagnostic> {
        self.list.iter()
    }

    /// Rendered for a log or a pipe: ASCII decoration, no escape codes.
    #[must_use]
    pub fn plain(&self) -> String {
        self.render(&Renderer::plain())
    }

    /// Rendered for a terminal, with ANSI colours.
    #[must_use]
    pub fn coloured(&self) -> String {
        self.render(&Renderer::styled())
    }

    fn render(&self, renderer: &Renderer) -> String {
        let mut out = String::new();
        for d in &self.list {
            out.push_str(&self.render_one(renderer, d));
            out.push_str("\n\n");
        }
        match self.count() {
            1 => out.push_str(&format!("1 error in {}\n", self.file)),
            n => out.push_str(&format!("{n} errors in {}\n", self.file)),
        }
        if self.hidden > 0 {
            out.push_str(&format!("(the last {} are not shown)\n", self.hidden));
        }
        out
    }

    fn render_one(&self, renderer: &Renderer, d: &Diagnostic) -> String {
        let hint = d.hint.as_deref().map(|h| Level::HELP.message(h));
        let title = Level::ERROR.primary_title(d.message.as_str());
        if self.text.is_empty() {
            let origin = annotate_snippets::Origin::path(self.file.as_str());
            return renderer.render(&[title.element(origin).elements(hint)]);
        }
        let spans = || std::iter::once(&d.span).chain(d.notes.iter().map(|n| &n.span));
        // only the lines from the first to the last mark: a file may have a megabyte
        let first = spans().map(|s| s.start).min().unwrap_or(0);
        let last = spans().map(|s| s.end).max().unwrap_or(0);
        let from = self.text[..first].rfind('\n').map_or(0, |i| i + 1);
        let to = self.text[last..].find('\n').map_or(self.text.len(), |i| last + i);
        let line = 1 + self.text[..from].matches('\n').count();
        let within = |s: &Span| s.start - from..s.end - from;
        let snippet =
            Snippet::source(&self.text[from..to])
                .path(self.file.as_str())
                .line_start(line)
                .annotation(AnnotationKind::Primary.span(within(&d.span)).label(d.label.as_str()))
                .annotations(d.notes.iter().map(|n| {
                    AnnotationKind::Context.span(within(&n.span)).label(n.label.as_str())
                }));
        renderer.render(&[title.element(snippet).elements(hint)])
    }
}

impl<'a> IntoIterator for &'a Diagnostics {
    type Item = &'a Diagnostic;
    type IntoIter = std::slice::Iter<'a, Diagnostic>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.plain().trim_end())
    }
}

impl fmt::Display for Diagnostic {
    /// One line: `12:7: message (hint)`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.line, self.column, self.message)?;
        self.hint.as_ref().map_or(Ok(()), |hint| write!(f, " ({hint})"))
    }
}

impl std::error::Error for Diagnostics {}

/// Where the lines of a text begin.
struct Lines(Vec<usize>);

impl Lines {
    fn new(text: &str) -> Self {
        Self(std::iter::once(0).chain(text.match_indices('\n').map(|(i, _)| i + 1)).collect())
    }

    /// Line and column in characters, both from 1.
    fn place(&self, text: &str, at: usize) -> (usize, usize) {
        let at = floor(text, at);
        let line = self.0.partition_point(|start| *start <= at).max(1);
        let start = self.0.get(line - 1).copied().unwrap_or(0);
        (line, 1 + text.get(start..at).map_or(0, |s| s.chars().count()))
    }
}

/// The span within the text, on one line and on character boundaries.
fn clamp(text: &str, span: &Span) -> Span {
    let start = floor(text, span.start);
    let end = floor(text, span.end.max(start));
    let line_end = text[start..].find('\n').map_or(text.len(), |i| start + i);
    start..end.min(line_end)
}

fn floor(text: &str, at: usize) -> usize {
    let mut at = at.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}
