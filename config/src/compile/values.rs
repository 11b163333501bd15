//! One value: its text, its limits, and the error when it is outside of them.

use crate::allow::Allow;
use crate::diagnostics::{Problem, Report};
use crate::limits::MAX_PATH;
use crate::plan::Door;
use crate::suggest;
use crate::units::{format_duration, format_size, parse_duration, parse_size};
use crate::value::{ValueError, shown};
use crate::yaml::Text;
use std::path::PathBuf;
use std::time::Duration;

/// A field and whose it is, as errors name it.
#[derive(Clone, Copy)]
pub(super) struct Field<'a> {
    name: &'a str,
    owner: &'a str,
}

impl<'a> Field<'a> {
    /// `owner` with its kind: "node `a`".
    pub(super) fn new(name: &'a str, owner: &'a str) -> Self {
        Self { name, owner }
    }
}

impl std::fmt::Display for Field<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "`{}` of {}", self.name, self.owner)
    }
}

/// A value that its parser refused.
pub(super) fn refused(text: &Text, field: Field<'_>, error: ValueError) -> Problem {
    Problem::new(&text.span, format!("{field}: {}", error.message)).hint(error.hint)
}

/// A size within limits, both included; `why` explains the lower one.
pub(super) fn size(
    text: Option<&Text>,
    field: Field<'_>,
    (min, max): (u64, u64),
    why: &str,
    report: &mut Report,
) -> Option<u64> {
    let text = text?;
    match parse_size(&text.value) {
        Ok(n) if (min..=max).contains(&n) => Some(n),
        Ok(n) => {
            report.add(|| {
                let (word, limit) = if n < min { ("at least", min) } else { ("at most", max) };
                let limit = format_size(limit);
                let value = shown(&text.value);
                Problem::new(&text.span, format!("{field} must be {word} {limit}; {value} is not"))
                    .label(format!("{word} {limit}"))
                    .hint(if n < min && !why.is_empty() {
                        format!("{why}: write `{}: {limit}` or more", field.name)
                    } else {
                        format!("write a size from {} to {}", format_size(min), format_size(max))
                    })
            });
            None
        }
        Err(e) => {
            report.add(|| refused(text, field, e));
            None
        }
    }
}

/// A duration within limits, both included.
pub(super) fn duration(
    text: Option<&Text>,
    field: Field<'_>,
    (min, max): (Duration, Duration),
    report: &mut Report,
) -> Option<Duration> {
    let text = text?;
    match parse_duration(&text.value) {
        Ok(d) if (min..=max).contains(&d) => Some(d),
        Ok(d) => {
            report.add(|| {
                let (word, limit) = if d < min { ("at least", min) } else { ("at most", max) };
                let limit = format_duration(limit);
                let value = shown(&text.value);
                Problem::new(&text.span, format!("{field} must be {word} {limit}; {value} is not"))
                    .label(format!("{word} {limit}"))
                    .hint(format!(
                        "write a duration from {} to {}",
                        format_duration(min),
                        format_duration(max)
                    ))
            });
            None
        }
        Err(e) => {
            report.add(|| refused(text, field, e));
            None
        }
    }
}

/// `true` or `false`, and nothing else.
pub(super) fn boolean(text: Option<&Text>, field: Field<'_>, report: &mut Report) -> Option<bool> {
    let text = text?;
    match text.value.as_str() {
        "true" => Some(true),
        "false" => Some(false),
        other => {
            let meant = match other.to_lowercase().as_str() {
                "yes" | "on" | "true" | "y" | "1" => "true",
                "no" | "off" | "false" | "n" | "0" => "false",
                near => suggest::closest(near, ["true", "false"]).first().copied().unwrap_or(""),
            };
            report.add(|| {
                Problem::new(&text.span, format!("{field} is true or false, not {}", shown(other)))
                    .hint(match meant {
                        "" => format!("write `{0}: true` or `{0}: false`", field.name),
                        meant => format!("write `{}: {meant}`", field.name),
                    })
            });
            None
        }
    }
}

/// `open` or `closed`; closed means nothing where nobody can prove who they are.
pub(super) fn door(
    text: Option<&Text>,
    field: Field<'_>,
    proven: bool,
    report: &mut Report,
) -> Option<Door> {
    let Some(text) = text else { return Some(Door::Open) };
    match text.value.as_str() {
        "open" => return Some(Door::Open),
        "closed" if proven => return Some(Door::Closed),
        "closed" => report.add(|| {
            Problem::new(&text.span, format!("{field} cannot be closed without certificates"))
                .label("nobody could prove that they may read it")
                .hint(format!("give all nodes certificates with `pki`, or remove `{}`", field.name))
        }),
        other => report.add(|| {
            Problem::new(&text.span, format!("{field} is open or closed, not {}", shown(other)))
                .hint(format!("write `{0}: open` or `{0}: closed`", field.name))
        }),
    }
    None
}

/// Who may open NBD exports.
pub(super) fn allow(
    list: Option<&Vec<Text>>,
    field: Field<'_>,
    proven: bool,
    report: &mut Report,
) -> Option<Vec<Allow>> {
    let mut found = Vec::new();
    for text in list? {
        match text.value.parse::<Allow>() {
            Ok(Allow::Name(name)) if !proven => report.add(|| {
                Problem::new(&text.span, format!("{field}: nobody can prove to be `{name}`"))
                    .label("a name in a certificate")
                    .hint("give all nodes certificates with `pki`, or allow addresses")
            }),
            Ok(entry) if found.contains(&entry) => report.add(|| {
                Problem::new(&text.span, format!("{field} has `{entry}` twice"))
                    .hint("remove one of the two")
            }),
            Ok(entry) => found.push(entry),
            Err(e) => report.add(|| refused(text, field, e)),
        }
    }
    Some(found)
}

/// A path: not empty, not too long, without control characters.
pub(super) fn path(text: Option<&Text>, field: Field<'_>, report: &mut Report) -> Option<PathBuf> {
    let text = text?;
    let what = if text.value.is_empty() {
        "is empty"
    } else if text.value.len() > MAX_PATH {
        "is too long"
    } else if text.value.chars().any(char::is_control) {
        "contains a control character"
    } else {
        return Some(PathBuf::from(&text.value));
    };
    report.add(|| {
        Problem::new(&text.span, format!("{field}: the path {what}"))
            .hint(format!("write a path of at most {MAX_PATH} bytes"))
    });
    None
}
