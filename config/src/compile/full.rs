//! What a full save volume leads to, and what a receiver that is stopped may hold back.

use super::values::{self, Field};
use crate::diagnostics::{Problem, Report};
use crate::limits;
use crate::plan::{Keep, OnFull};
use crate::raw::{RawKeep, RawPolicy};
use crate::suggest;
use crate::value::shown;
use crate::yaml::Text;
use std::time::Duration;

const KEEP: (u64, u64) = (limits::MIN_KEEP_BYTES, limits::MAX_SAVE);

/// What happens, and how long writers wait first.
pub(super) fn policy(raw: &RawPolicy, owner: &str, report: &mut Report) -> (OnFull, Duration) {
    let field = |name| Field::new(name, owner);
    let read = raw.on_full.as_ref().map(|text| on_full(text, field("on_full"), report));
    let times = (limits::MIN_SUSPEND, limits::MAX_SUSPEND);
    let limit = &raw.suspend_limit;
    let time = values::duration(limit.as_ref(), field("suspend_limit"), times, report);
    // What was refused may have been meant so.
    if let (Some(text), None | Some(Some(OnFull::Detach))) = (limit, read) {
        report.add(|| {
            let what = field("suspend_limit");
            Problem::new(&text.span, format!("{what} says how long writes wait, and none do"))
                .label("receivers are detached at once")
                .hint("write `on_full: suspend` beside it, or remove it")
        });
    }
    (read.flatten().unwrap_or_default(), time.unwrap_or(limits::DEFAULT_SUSPEND))
}

fn on_full(text: &Text, field: Field<'_>, report: &mut Report) -> Option<OnFull> {
    match text.value.as_str() {
        "detach" => Some(OnFull::Detach),
        "suspend" => Some(OnFull::Suspend),
        other => {
            report.add(|| {
                Problem::new(&text.span, format!("{field} cannot be {}", shown(other)))
                    .hint(suggest::hint(other, ["detach", "suspend"], "its values"))
            });
            None
        }
    }
}

/// The most that a stopped receiver may hold back.
pub(super) fn keep(raw: &RawKeep, owner: &str, report: &mut Report) -> Keep {
    let field = |name| Field::new(name, owner);
    let why = "less is gone before a receiver that restarts is back";
    let times = (limits::MIN_KEEP_TIME, limits::MAX_TIMEOUT);
    Keep {
        bytes: values::size(raw.bytes.as_ref(), field("keep_bytes"), KEEP, why, report),
        sets: sets(raw.sets.as_ref(), field("keep_sets"), report),
        time: values::duration(raw.time.as_ref(), field("keep_time"), times, report),
    }
}

fn sets(text: Option<&Text>, field: Field<'_>, report: &mut Report) -> Option<u64> {
    let text = text?;
    let most = limits::MAX_KEEP_SETS;
    match text.value.parse() {
        Ok(n) if (1..=most).contains(&n) => Some(n),
        _ => {
            report.add(|| {
                let value = shown(&text.value);
                Problem::new(&text.span, format!("{field} cannot be {value}"))
                    .hint(format!("write a number of delta sets from 1 to {most}"))
            });
            None
        }
    }
}
