//! `rcpctl fsck`: what is in the data folder of a stopped node.

use std::fmt::Write as _;
use std::path::PathBuf;

use clap::Args;
use config::units::{approx_size, format_size};

use super::output::{Failed, print, print_json};
use super::text::full_moment;
use crate::clock;
use crate::fsck::{self, DigestFound, Finding, Grade, Report, SaveFound, Slot, VolumeFound};

/// The folder could not be looked at.
const NOT_EXAMINED: u8 = 3;

/// Which folder.
#[derive(Args, Clone, Debug)]
pub(super) struct FsckArgs {
    /// Data folder of the node
    dir: PathBuf,
    /// Read every stored set, and at replicas hold each block against its hash: all of it is read
    #[arg(long)]
    content: bool,
    /// Print the answer as JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &FsckArgs) -> Result<(), Failed> {
    let report = fsck::look(&args.dir, args.content, clock::wall())
        .map_err(|e| Failed { code: NOT_EXAMINED, ..Failed::new(e.to_string()) })?;
    if args.json {
        print_json(&report)?;
    } else {
        print(&shown(&report))?;
    }
    match report.grade.code() {
        0 => Ok(()),
        code => Err(Failed { code, ..Failed::new("") }),
    }
}

fn verdict(grade: Grade) -> &'static str {
    match grade {
        Grade::Well => "all well",
        Grade::Heals => "damage that the node heals by itself",
        Grade::Needs => "damage that SOMEBODY HAS TO DO SOMETHING ABOUT",
    }
}

fn shown(r: &Report) -> String {
    let node = r.node.as_deref().unwrap_or("not known");
    let mut out = format!("{}: node {node}: {}\n", r.folder, verdict(r.grade));
    findings(&mut out, &r.findings);
    r.next_start.iter().for_each(|t| line(&mut out, "next start", t));
    if r.volumes.is_empty() {
        out.push_str("  no volumes\n");
    }
    for v in &r.volumes {
        volume(&mut out, v);
    }
    out
}

fn line(out: &mut String, name: &str, text: &str) {
    let _ = writeln!(out, "  {name:<11} {text}");
}

fn findings(out: &mut String, all: &[Finding]) {
    for f in all {
        let name = if f.grade == Grade::Needs { "DAMAGE" } else { "heals" };
        line(out, name, &format!("{}: {}", f.part, f.text));
    }
}

fn volume(out: &mut String, v: &VolumeFound) {
    let _ = writeln!(
        out,
        "{} ({} of group {}, {}, {}): {}",
        v.label,
        v.role,
        v.group,
        format_size(v.size),
        v.volume,
        verdict(v.grade)
    );
    findings(out, &v.findings);
    let slots: Vec<_> = v.mailbox.iter().map(slot).collect();
    line(out, "mailbox", &slots.join(", "));
    if let Some(text) = &v.line {
        line(out, "line", text);
    }
    if let Some(s) = &v.save {
        let hidden = v
            .hidden_until
            .map_or_else(String::new, |s| format!("; reads are refused until state {s} is back"));
        let text = match v.role.as_str() {
            "primary" => format!("newest finished set {}", v.visible),
            "relay" => format!("passed on up to set {}", s.newest),
            _ => format!("shows {}, the content holds {} in full{hidden}", v.visible, v.merged),
        };
        line(out, "state", &text);
        save(out, s);
    }
    if let Some(c) = &v.changes {
        let text = format!(
            "{} blocks after set {}, in {} entries ({})",
            c.blocks,
            c.since,
            c.entries,
            approx_size(c.bytes)
        );
        line(out, "changed", &text);
    }
    if let Some(d) = &v.digest {
        line(out, "hashes", &digest(d));
    }
    if let Some(text) = &v.under_way {
        line(out, "under way", text);
    }
    for k in &v.kept {
        let why = k.why.as_ref().map_or_else(String::new, |w| format!(": {w}"));
        line(out, "kept", &format!("{}@{}, {} blocks saved{why}", v.label, k.name, k.images));
    }
    for c in &v.consumers {
        line(out, "child", &format!("{}, {} behind", c.node, approx_size(c.behind)));
    }
    for c in &v.standing {
        let remedy = c.remedy.as_ref().map_or_else(String::new, |r| format!("; {r}"));
        line(out, "standing", &format!("{}{remedy}", c.text));
    }
    v.next_start.iter().for_each(|t| line(out, "next start", t));
}

fn slot(s: &Slot) -> String {
    let commit = s.commit.map_or_else(String::new, |n| format!(" (commit {n})"));
    let why = s.why.as_ref().map_or_else(String::new, |w| format!(" ({w})"));
    format!("slot {} {}{commit}{why}", s.slot, s.says)
}

fn save(out: &mut String, s: &SaveFound) {
    let text = format!(
        "{} sets after {} up to {}, {} records, {} of {} (tail {}, head {})",
        s.sets,
        s.oldest,
        s.newest,
        s.records,
        approx_size(s.used),
        format_size(s.capacity),
        s.tail,
        s.head
    );
    line(out, "save volume", &text);
    s.open.iter().chain(&s.beyond).for_each(|t| line(out, "", t));
}

fn digest(d: &DigestFound) -> String {
    let sum = d.digest.as_ref().map_or_else(String::new, |s| format!(", digest {s}"));
    let last = match d.searched_at {
        0 => "no round of the search has ended".to_owned(),
        at => format!("last round of the search ended {}", full_moment(at)),
    };
    let now = match d.searched {
        0 => String::new(),
        n => format!(", the present one is at block {n}"),
    };
    format!("{} at set {}{sum}; {last}{now}", d.table, d.at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown() {
        let slot = |i, says, commit| Slot { slot: i, says, commit, why: None };
        let v = VolumeFound {
            label: "vol1".to_owned(),
            volume: "u".to_owned(),
            group: "g1".to_owned(),
            role: "replica".to_owned(),
            size: 1 << 25,
            grade: Grade::Heals,
            findings: vec![Finding { grade: Grade::Heals, part: "save", text: "torn".to_owned() }],
            visible: 7,
            merged: 6,
            mailbox: vec![slot(0, "rules", Some(41)), slot(1, "damaged", None)],
            save: Some(SaveFound {
                tail: 64,
                head: 4096,
                used: 4032,
                capacity: 16 << 20,
                records: 12,
                sets: 3,
                oldest: 4,
                newest: 7,
                open: None,
                beyond: Some("a torn set".to_owned()),
            }),
            next_start: vec!["shows state 7".to_owned()],
            ..VolumeFound::default()
        };
        let r = Report {
            folder: "/d".to_owned(),
            node: Some("l1".to_owned()),
            grade: Grade::Heals,
            volumes: vec![v],
            ..Report::default()
        };
        assert_eq!(
            shown(&r),
            "/d: node l1: damage that the node heals by itself\n\
             vol1 (replica of group g1, 32MiB, u): damage that the node heals by itself\n  \
             heals       save: torn\n  \
             mailbox     slot 0 rules (commit 41), slot 1 damaged\n  \
             state       shows 7, the content holds 6 in full\n  \
             save volume 3 sets after 4 up to 7, 12 records, 3.9 KiB of 16MiB (tail 64, head 4096)\n  \
             \u{20}           a torn set\n  \
             next start  shows state 7\n"
        );
    }
}
