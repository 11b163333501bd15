//! Volumes, policies and what single nodes do differently: sizes, durations, labels.

use super::values::Field;
use super::{Members, bad_name, full, values, views};
use crate::diagnostics::{Problem, Report, Span};
use crate::limits::{self, MAX_BLOCKS};
use crate::plan::{Confirm, GroupPlan, Override, Playback, Policy, Scrub, VolumePlan};
use crate::raw::{RawBacking, RawGroup, RawPlayback, RawPolicy, RawTopology, RawVolume};
use crate::units::{format_size, parse_size};
use crate::value::shown;
use crate::yaml::Text;
use rcp::proto::ids::{GroupName, Label, NodeName};
use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::time::Duration;

const SAVE: (u64, u64) = (limits::MIN_SAVE, limits::MAX_SAVE);
const WHY_SAVE: &str = "a save volume holds several chunks of 1 MiB";
const AREA: (u64, u64) = (limits::MIN_SNAPSHOT_AREA, limits::MAX_SAVE);
const HWM: (u64, u64) = (limits::MIN_HWM, limits::MAX_HWM);

/// What holds where nothing else is written.
pub(super) struct Defaults {
    pub(super) memory: u64,
    save: u64,
    snapshot_area: u64,
    /// There are certificates.
    proven: bool,
}

impl Defaults {
    pub(super) fn read(raw: &RawTopology, report: &mut Report) -> Self {
        let field = |name| Field::new(name, "`defaults`");
        let memory = (limits::MIN_MEMORY, limits::MAX_MEMORY);
        Self {
            memory: values::size(
                raw.memory.as_ref(),
                field("memory"),
                memory,
                "a node needs that much to move data",
                report,
            )
            .unwrap_or(limits::DEFAULT_MEMORY),
            save: values::size(raw.save.as_ref(), field("save"), SAVE, WHY_SAVE, report)
                .unwrap_or(limits::DEFAULT_SAVE),
            snapshot_area: area(raw.snapshot_area.as_ref(), field("snapshot_area"), report)
                .unwrap_or(limits::DEFAULT_SNAPSHOT_AREA),
            proven: raw.pki.is_some(),
        }
    }
}

fn area(text: Option<&Text>, field: Field<'_>, report: &mut Report) -> Option<u64> {
    values::size(text, field, AREA, "it holds whole blocks", report)
}

/// The volumes of a group, by label. `labels` knows those of the groups before.
pub(super) fn volumes<'f>(
    raw: &'f RawGroup,
    primary: Option<&NodeName>,
    members: &Members<'_>,
    defaults: &Defaults,
    labels: &mut BTreeMap<Label, &'f Text>,
    report: &mut Report,
) -> Vec<VolumePlan> {
    let mut paths: HashMap<(NodeName, PathBuf), &Span> = HashMap::new();
    let mut out = Vec::new();
    for raw in &raw.volumes {
        let Ok(label) = Label::new(&raw.label.value) else {
            report.add(|| bad_name(&raw.label, "volume"));
            continue;
        };
        if let Some(first) = labels.get(&label) {
            report.add(|| {
                Problem::new(&raw.label.span, format!("two groups have a volume `{label}`"))
                    .label("again here")
                    .note(&first.span, "first here")
                    .hint("labels are unique in a topology: rename one of the two")
            });
            continue;
        }
        labels.insert(label.clone(), &raw.label);
        let owner = format!("volume `{label}`");
        let field = |name| Field::new(name, &owner);
        let block_size = match &raw.block_size {
            None => Some(limits::DEFAULT_BLOCK),
            Some(text) => block_size(text, field("block_size"), report),
        };
        let size = raw.size.as_ref().and_then(|text| size(text, field("size"), block_size, report));
        let save = values::size(raw.save.as_ref(), field("save"), SAVE, WHY_SAVE, report);
        let snapshot_area = area(raw.snapshot_area.as_ref(), field("snapshot_area"), report);
        let nbd_allow =
            values::allow(raw.nbd_allow.as_ref(), field("nbd_allow"), defaults.proven, report);
        let backing = backing(raw, primary, members, &mut paths, report);
        let labels = own_labels(raw, &label, members, report);
        let (Some(size), Some(block_size)) = (size, block_size) else { continue };
        out.push(VolumePlan {
            label,
            size,
            block_size,
            backing,
            labels,
            save: save.unwrap_or(defaults.save),
            snapshot_area: snapshot_area.unwrap_or(defaults.snapshot_area),
            nbd_allow,
        });
    }
    out.sort_by(|a, b| a.label.cmp(&b.label));
    out
}

/// What single members call a volume (VMC-03).
fn own_labels(
    raw: &RawVolume,
    label: &Label,
    members: &Members<'_>,
    report: &mut Report,
) -> BTreeMap<NodeName, Label> {
    let mut out = BTreeMap::new();
    let place = format!("`as` of volume {}", shown(&raw.label.value));
    for (node, text) in &raw.labels {
        let Some(node) = members.resolve(node, &place, report) else { continue };
        match Label::new(&text.value) {
            Ok(own) if own != *label => drop(out.insert(node, own)),
            Ok(_) => {}
            Err(_) => report.add(|| bad_name(text, "volume")),
        }
    }
    out
}

/// No node has two volumes of one label, whatever the others call them.
pub(super) fn one_label_each(
    raw: &[RawGroup],
    groups: &BTreeMap<GroupName, GroupPlan>,
    report: &mut Report,
) {
    let mut taken: BTreeMap<(&NodeName, &Label), &Label> = BTreeMap::new();
    for g in groups.values() {
        for (v, node) in g.volumes.iter().flat_map(|v| g.members().into_iter().map(move |n| (v, n)))
        {
            let own = v.label_at(node);
            let Some(first) = taken.insert((node, own), &v.label) else { continue };
            let written = |r: &&RawVolume| !r.labels.is_empty();
            let of = |l: &Label| {
                let all = raw.iter().flat_map(|g| &g.volumes).filter(written);
                all.flat_map(|r| r.labels.iter().map(move |x| (r, x))).find(|(r, (n, own_text))| {
                    r.label.value == l.as_str()
                        && n.value == node.as_str()
                        && own_text.value == own.as_str()
                })
            };
            let Some((_, (_, text))) = of(&v.label).or_else(|| of(first)) else { continue };
            report.add(|| {
                Problem::new(
                    &text.span,
                    format!(
                        "volumes `{first}` and `{}` are both called `{own}` on `{node}`",
                        v.label
                    ),
                )
                .hint("labels are unique on a node: write another one")
            });
        }
    }
}

fn block_size(text: &Text, field: Field<'_>, report: &mut Report) -> Option<u64> {
    let limits = (limits::MIN_BLOCK, limits::MAX_BLOCK);
    let n = values::size(Some(text), field, limits, "it is a power of two", report)?;
    if n.is_power_of_two() {
        return Some(n);
    }
    report.add(|| {
        let (below, above) =
            (format_size(n.next_power_of_two() / 2), format_size(n.next_power_of_two()));
        Problem::new(
            &text.span,
            format!("{field} must be a power of two; {} is not", shown(&text.value)),
        )
        .hint(format!("write {below} or {above}"))
    });
    None
}

fn size(text: &Text, field: Field<'_>, block: Option<u64>, report: &mut Report) -> Option<u64> {
    let n = values::size(Some(text), field, (1, limits::MAX_VOLUME), "", report)?;
    let block = block?;
    let value = shown(&text.value);
    if !n.is_multiple_of(block) {
        report.add(|| {
            let below = n / block * block;
            let near = match (below, below.checked_add(block)) {
                (0, _) | (_, None) => format_size(block),
                (a, Some(b)) => format!("{} or {}", format_size(a), format_size(b)),
            };
            Problem::new(
                &text.span,
                format!(
                    "{field}: {value} is not a multiple of the block size, {}",
                    format_size(block)
                ),
            )
            .hint(format!("write {near}"))
        });
        return None;
    }
    if n / block > MAX_BLOCKS {
        report.add(|| {
            let most = format_size(block * MAX_BLOCKS);
            let need = format_size((n / MAX_BLOCKS).next_power_of_two());
            Problem::new(
                &text.span,
                format!("{field}: {value} has too many blocks of {}", format_size(block)),
            )
            .label(format!("at most {most} with this block size"))
            .hint(format!("write `block_size: {need}`, or a smaller size"))
        });
        return None;
    }
    Some(n)
}

fn backing<'f>(
    raw: &'f RawVolume,
    primary: Option<&NodeName>,
    members: &Members<'_>,
    taken: &mut HashMap<(NodeName, PathBuf), &'f Span>,
    report: &mut Report,
) -> BTreeMap<NodeName, PathBuf> {
    let mut found: Vec<(NodeName, &Text)> = Vec::new();
    match &raw.backing {
        RawBacking::None => {}
        RawBacking::Primary(text) => found.extend(primary.map(|p| (p.clone(), text))),
        RawBacking::Nodes(list) => {
            let place = format!("`backing` of volume {}", shown(&raw.label.value));
            for (node, text) in list {
                found.extend(members.resolve(node, &place, report).map(|n| (n, text)));
            }
        }
    }
    let owner = format!("volume {}", shown(&raw.label.value));
    let mut out = BTreeMap::new();
    for (node, text) in found {
        let Some(path) = values::path(Some(text), Field::new("backing", &owner), report) else {
            continue;
        };
        if let Some(first) = taken.insert((node.clone(), path.clone()), &text.span) {
            report.add(|| {
                Problem::new(
                    &text.span,
                    format!("two volumes on `{node}` have the backing {}", path.display()),
                )
                .label("again here")
                .note(first, "first here")
                .hint("each volume has a file or device of its own")
            });
        }
        out.insert(node, path);
    }
    out
}

/// The primary's policy.
pub(super) fn policy(raw: &RawPolicy, group: &str, report: &mut Report) -> Policy {
    let owner = format!("the policy of group {group}");
    let field = |name| Field::new(name, &owner);
    let times = (limits::MIN_TIMEOUT, limits::MAX_TIMEOUT);
    let (on_full, suspend_limit) = full::policy(raw, &owner, report);
    Policy {
        hwm: hwm(raw.hwm.as_ref(), field("hwm"), report).unwrap_or(limits::DEFAULT_HWM),
        timeout: values::duration(raw.timeout.as_ref(), field("timeout"), times, report)
            .unwrap_or(limits::DEFAULT_TIMEOUT),
        on_full,
        suspend_limit,
        keep: full::keep(&raw.keep, &owner, report),
        persistent: values::boolean(raw.persistent.as_ref(), field("persistent"), report)
            .unwrap_or(true),
        confirm: raw
            .confirm
            .as_ref()
            .and_then(|text| confirm(text, field("confirm"), report))
            .unwrap_or_default(),
        compress: values::boolean(raw.compress.as_ref(), field("compress"), report).unwrap_or(true),
    }
}

fn confirm(text: &Text, field: Field<'_>, report: &mut Report) -> Option<Confirm> {
    match (text.value.as_str(), text.value.parse()) {
        ("one_child" | "1", _) => Some(Confirm::OneChild),
        ("always", _) => Some(Confirm::Always),
        ("none", _) => Some(Confirm::None),
        (_, Ok(n)) if n > 0 => Some(Confirm::Children(n)),
        (other, _) => {
            report.add(|| {
                Problem::new(&text.span, format!("{field} cannot be {}", shown(other))).hint(
                    "write `one_child`, `always`, a number of children, or `none`: how many must say \
                     that there is no newer writer before a primary that comes back lets writers in",
                )
            });
            None
        }
    }
}

fn hwm(text: Option<&Text>, field: Field<'_>, report: &mut Report) -> Option<u64> {
    values::size(text, field, HWM, "smaller sets cost more than they carry", report)
}

fn playback_timeout(
    text: Option<&Text>,
    field: Field<'_>,
    report: &mut Report,
) -> Option<Duration> {
    values::duration(text, field, (Duration::ZERO, limits::MAX_TIMEOUT), report)
}

fn max_staleness(text: Option<&Text>, field: Field<'_>, report: &mut Report) -> Option<Duration> {
    values::duration(text, field, (limits::MIN_STALENESS, limits::MAX_TIMEOUT), report)
}

/// `off`, or bytes per second: 0 is off.
fn scrub(text: Option<&Text>, field: Field<'_>, report: &mut Report) -> Option<u64> {
    let text = text?;
    let (least, most) = (limits::MIN_SCRUB, limits::MAX_SCRUB);
    match text.value.as_str() {
        "off" => return Some(0),
        value => {
            let rate = value.strip_suffix("/s").and_then(|v| parse_size(v).ok());
            if let Some(rate) = rate.filter(|r| (least..=most).contains(r)) {
                return Some(rate);
            }
        }
    }
    report.add(|| {
        Problem::new(&text.span, format!("{field} cannot be {}", shown(&text.value))).hint(format!(
            "write bytes per second such as `16MiB/s`, from {}/s to {}/s, or `off`",
            format_size(least),
            format_size(most)
        ))
    });
    None
}

fn scrub_every(text: Option<&Text>, field: Field<'_>, report: &mut Report) -> Option<Duration> {
    values::duration(text, field, (limits::MIN_SCRUB_EVERY, limits::MAX_TIMEOUT), report)
}

/// The playback of a group's replicas.
pub(super) fn playback(raw: &RawPlayback, group: &str, report: &mut Report) -> Playback {
    let owner = format!("the playback of group {group}");
    let field = |name| Field::new(name, &owner);
    Playback {
        timeout: playback_timeout(raw.timeout.as_ref(), field("timeout"), report)
            .unwrap_or(Duration::ZERO),
        hwm: hwm(raw.hwm.as_ref(), field("hwm"), report).unwrap_or(limits::DEFAULT_HWM),
        max_staleness: max_staleness(raw.max_staleness.as_ref(), field("max_staleness"), report),
        scrub: Scrub {
            rate: scrub(raw.scrub.as_ref(), field("scrub"), report)
                .unwrap_or(limits::DEFAULT_SCRUB),
            every: scrub_every(raw.scrub_every.as_ref(), field("scrub_every"), report)
                .unwrap_or(limits::DEFAULT_SCRUB_EVERY),
        },
        views: views::read(raw.views.as_ref(), field("views"), report).unwrap_or_default(),
    }
}

/// What single members do differently.
pub(super) fn overrides(
    raw: &RawGroup,
    members: &Members<'_>,
    report: &mut Report,
) -> BTreeMap<NodeName, Override> {
    let mut out = BTreeMap::new();
    for (name, raw) in &raw.overrides {
        let node = members.resolve(name, "`overrides`", report);
        let owner = format!("the override of {} in group {}", shown(&name.value), members.group);
        let field = |name| Field::new(name, &owner);
        let own = Override {
            timeout: playback_timeout(raw.timeout.as_ref(), field("timeout"), report),
            hwm: hwm(raw.hwm.as_ref(), field("hwm"), report),
            max_staleness: max_staleness(
                raw.max_staleness.as_ref(),
                field("max_staleness"),
                report,
            ),
            scrub: scrub(raw.scrub.as_ref(), field("scrub"), report),
            scrub_every: scrub_every(raw.scrub_every.as_ref(), field("scrub_every"), report),
            views: views::read(raw.views.as_ref(), field("views"), report),
            save: values::size(raw.save.as_ref(), field("save"), SAVE, WHY_SAVE, report),
            keep: full::keep(&raw.keep, &owner, report),
        };
        if let Some(node) = node.filter(|_| own != Override::default()) {
            out.insert(node, own);
        }
    }
    out
}
