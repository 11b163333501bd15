//! What is wrong with a topology, all of it at once: message, place, source line, hint.
//!
//! A report collects while a file is compiled; [`Diagnostics`] is the finished list, which
//! renders itself plain or coloured and can be walked through. Nothing here knows the topology.

use crate::limits::MAX_ERRORS;
use annotate_snippets::{Annotation, AnnotationKind, Level, Renderer, Snippet};
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
    pub(crate) fn finish(self, file: &str, text: &str) -> Diagnostics {
        self.end(file, text, None)
    }

    /// The same of a text whose end is another file: its name, and where it begins.
    pub(crate) fn finish_joined(
        self,
        (file, text): (&str, &str),
        (second, at): (&str, usize),
    ) -> Diagnostics {
        self.end(file, text, Some(Second { file: second.to_owned(), at }))
    }

    fn end(mut self, file: &str, text: &str, second: Option<Second>) -> Diagnostics {
        self.problems.sort_by_key(|p| p.span.start);
        let lines = Lines::new(text);
        let of = |span: &Span| second.as_ref().filter(|s| span.start >= s.at);
        let place = |span: &Span| {
            let (line, column) = lines.place(text, span.start);
            let before = of(span).map_or(0, |s| lines.place(text, s.at).0 - 1);
            (line - before, column)
        };
        let list = self.problems.into_iter().map(|p| {
            let (line, column) = place(&p.span);
            let notes = p.notes.into_iter().map(|(span, label)| {
                let (line, column) = place(&span);
                Note { line, column, label, span: clamp(text, &span) }
            });
            Diagnostic {
                file: of(&p.span).map(|s| s.file.clone()),
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
            second,
        }
    }
}

/// A file whose text follows that of the first.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Second {
    file: String,
    /// Where it begins.
    at: usize,
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
    /// The file, where that is not the topology.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
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
    #[serde(skip)]
    second: Option<Second>,
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
        let files = match &self.second {
            Some(second) => format!("{} and {}", self.file, second.file),
            None => self.file.clone(),
        };
        match self.count() {
            1 => out.push_str(&format!("1 error in {files}\n")),
            n => out.push_str(&format!("{n} errors in {files}\n")),
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
        let marks = std::iter::once((AnnotationKind::Primary, &d.span, d.label.as_str()));
        let notes = d.notes.iter().map(|n| (AnnotationKind::Context, &n.span, n.label.as_str()));
        let (first, second): (Vec<_>, Vec<_>) = marks
            .chain(notes)
            .partition(|(_, span, _)| self.in_second(span) == self.in_second(&d.span));
        let mut report = title.element(self.snippet(&first));
        if !second.is_empty() {
            report = report.element(self.snippet(&second));
        }
        renderer.render(&[report.elements(hint)])
    }

    fn in_second(&self, span: &Span) -> bool {
        self.second.as_ref().is_some_and(|s| span.start >= s.at)
    }

    /// The lines from the first to the last mark, which are in one file: it may have a megabyte.
    fn snippet<'a>(
        &'a self,
        marks: &[(AnnotationKind, &Span, &'a str)],
    ) -> Snippet<'a, Annotation<'a>> {
        let first = marks.iter().map(|(_, s, _)| s.start).min().unwrap_or(0);
        let last = marks.iter().map(|(_, s, _)| s.end).max().unwrap_or(0);
        let second = self.second.as_ref().filter(|s| first >= s.at);
        let begins = second.map_or(0, |s| s.at);
        let from = self.text[begins..first].rfind('\n').map_or(begins, |i| begins + i + 1);
        let to = self.text[last..].find('\n').map_or(self.text.len(), |i| last + i);
        let line = 1 + self.text[begins..from].matches('\n').count();
        Snippet::source(&self.text[from..to])
            .path(second.map_or(self.file.as_str(), |s| s.file.as_str()))
            .line_start(line)
            .annotations(
                marks
                    .iter()
                    .map(|(kind, s, label)| kind.span(s.start - from..s.end - from).label(*label)),
            )
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
        if let Some(file) = &self.file {
            write!(f, "{file}:")?;
        }
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
