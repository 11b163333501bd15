//! One volume.

use std::path::Path;

use config::units::format_size;
use rcp::proto::clock::{Mono, Wall};
use rcp::proto::ids::{NodeName, SetNumber};
use volmcast::io::FileId;
use volmcast::mailbox::{Mailbox, MailboxError, SLOT_LEN, SeedMark, StageMark, TableMark};
use volmcast::save::Budget;
use volmcast::snapshots::layout::parse_superblocks;
use volmcast::snapshots::{PinId, PinInfo};
use volmcast::storage::{Identity, Overlay, Storage};
use volmcast::units::BlockIndex;
use volmcast::volume::{CutPolicy, Event, PlaybackPolicy, Role, Volume};

use super::content;
use super::report::{
    Change, ChangesFound, Consumer, DigestFound, Finding, Grade, Kept, SaveFound, Slot, VolumeFound,
};
use crate::limits;
use crate::volumes::open::{self, Machine, OpenPlan, Tuning};

/// Looks at the volume in a folder.
pub(super) fn look(folder: &Path, identity: &Identity, content: bool, wall: Wall) -> VolumeFound {
    let mut found = match open::reach(folder, identity, true) {
        Ok(files) => examine(identity, &files, content, wall),
        Err(e) => {
            let mut found = begin(identity);
            let slots = std::fs::read(folder.join("mailbox")).unwrap_or_default();
            found.mailbox = self::slots(&slots, &mut found.findings);
            found.findings.push(stays_closed(identity, &e));
            found
        }
    };
    found.folder = folder.display().to_string();
    if Identity::is_unfinished(folder) {
        found.next_start.push("removes the mark of a creation that was finished".to_owned());
    }
    graded(found)
}

/// Looks at the files of a volume, and with `content` also at every stored set and block. Nothing is
/// written to `files`.
#[must_use]
pub fn examine(identity: &Identity, files: &dyn Storage, content: bool, wall: Wall) -> VolumeFound {
    let mut found = begin(identity);
    match files.read(FileId::Mailbox, 0, open::MAILBOX_LEN) {
        Ok(slots) => found.mailbox = self::slots(&slots, &mut found.findings),
        Err(e) => found.findings.push(Finding::needs("mailbox", format!("cannot be read: {e}"))),
    }
    let overlay = Overlay::new(files);
    let opened =
        open::assemble(identity, &plan(&identity.node), &Tuning::default(), &overlay, NOW, wall);
    match opened {
        Err(e) => found.findings.push(stays_closed(identity, &e)),
        Ok(mut machine) => {
            notes(&mut machine, &mut found.findings);
            let v = &machine.volume;
            state(v, &mut found);
            save(v, files, &mut found);
            changes(v, files, &mut found);
            digest(v, &mut found);
            kept(v, files, &mut found);
            if content {
                content::look(v, files, &mut found);
            }
            standing(identity, &mut found);
            found.next_start = next_start(identity, v, &found);
        }
    }
    graded(found)
}

/// On this clock nothing is measured here.
const NOW: Mono = Mono(1_000_000);

fn plan(node: &NodeName) -> OpenPlan {
    OpenPlan {
        node: node.clone(),
        persistent: true,
        cut: CutPolicy { hwm: u64::MAX, timeout: std::time::Duration::MAX },
        playback: PlaybackPolicy { hwm: 0, timeout: std::time::Duration::ZERO, on_demand: false },
        compression: rcp::proto::delta::Compression::Never,
        import: false,
        budget: Budget::new(1 << 20),
        scrub: limits::NO_SCRUB,
        full: volmcast::volume::FullPolicy::default(),
    }
}

fn begin(identity: &Identity) -> VolumeFound {
    VolumeFound {
        label: identity.label.to_string(),
        volume: identity.volume.to_string(),
        group: identity.group.to_string(),
        role: identity.role.clone(),
        size: identity.block_size.offset(BlockIndex(identity.blocks.0)),
        ..VolumeFound::default()
    }
}

fn graded(mut found: VolumeFound) -> VolumeFound {
    found.grade = found.findings.iter().map(|f| f.grade).max().unwrap_or(Grade::Well);
    found
}

fn stays_closed(identity: &Identity, e: &open::OpenFailure) -> Finding {
    let text = format!("the volume stays closed, the others go on: {}", open::closed(identity, e));
    Finding::needs("volume", text)
}

/// Which of the two slots rules, and what is wrong with the other.
fn slots(file: &[u8], findings: &mut Vec<Finding>) -> Vec<Slot> {
    let part = |i: usize| {
        let from = (i * SLOT_LEN).min(file.len());
        &file[from..file.len().min(from + SLOT_LEN)]
    };
    let read = [Mailbox::decode(part(0)), Mailbox::decode(part(1))];
    let commit = |i: usize| read[i].as_ref().ok().map(|m| m.sequence);
    let newest = commit(0).max(commit(1));
    let newer = |e: &MailboxError| matches!(e, MailboxError::Version(_));
    let one = |i: usize| {
        let damaged = Mailbox::one_damaged(file);
        let (says, why) = match &read[i] {
            Ok(m) if Some(m.sequence) == newest => ("rules", None),
            Ok(_) => ("older", None),
            // The first commit leaves one as it was made.
            Err(e) if !damaged && !newer(e) && commit(1 - i) == Some(1) => ("untouched", None),
            Err(e) => ("damaged", Some(e.to_string())),
        };
        Slot { slot: i, says, commit: commit(i), why }
    };
    let slots = vec![one(0), one(1)];
    for s in slots.iter().filter(|s| s.says == "damaged") {
        let why = s.why.clone().unwrap_or_default();
        let text = match commit(1 - s.slot) {
            Some(n) => format!(
                "slot {} cannot be used ({why}): a crash tore it while it was written, which is as it \
                 should be, or it was damaged since; slot {} rules, with commit {n}, and what the \
                 other one had said is looked for in the save volume",
                s.slot,
                1 - s.slot
            ),
            None => format!("slot {} cannot be used ({why})", s.slot),
        };
        findings.push(Finding { grade: Grade::Heals, part: "mailbox", text });
    }
    slots
}

/// What the opening had to say.
fn notes(machine: &mut Machine, findings: &mut Vec<Finding>) {
    for n in machine.notes.drain(..) {
        let grade = if n.heals { Grade::Heals } else { Grade::Needs };
        findings.push(Finding { grade, part: n.file.name(), text: n.text });
    }
    while let Some(e) = machine.volume.poll_event() {
        match e {
            Event::Damage { text } => findings.push(Finding::heals("save", text)),
            Event::NeedsSeed { reason } => findings.push(Finding::heals("volume", reason)),
            Event::Doubts { text } | Event::Differs { text } => {
                findings.push(Finding::heals("content", text));
            }
            Event::Hidden { text } => findings.push(Finding::heals("content", text)),
            Event::NotKept { text, .. } => findings.push(Finding::needs("kept", text)),
            Event::Failed { text } => findings.push(Finding::needs("volume", text)),
            _ => {}
        }
    }
}

fn state(v: &Volume, found: &mut VolumeFound) {
    let m = v.durable();
    found.size = m.block_size.offset(BlockIndex(m.blocks.0));
    found.line = m.history.last().map(|b| {
        format!("{}, opened by {} after state {}", b.generation, b.opened_by, b.forked_from)
    });
    found.visible = m.visible.0;
    found.merged = m.merged.0;
    found.hidden_until = Some(m.hidden_until.0).filter(|s| *s > 0);
    let left = Some(m.outgoing).filter(|o| *o > SetNumber::ZERO).map(outgoing);
    let staged = m.staged.as_ref().map(staged);
    found.under_way = m.seed.as_ref().map(|s| under_way(s, v)).or(staged).or(left);
    found.consumers = m
        .consumers
        .iter()
        .map(|c| Consumer {
            node: c.name.to_string(),
            behind: m.log_head.0.saturating_sub(c.acked.0),
        })
        .collect();
}

fn under_way(s: &SeedMark, v: &Volume) -> String {
    let blocks = v.durable().blocks.0;
    let what = match (s.over, s.undo) {
        (None, _) => "a seed: the content was empty when it began".to_owned(),
        (Some(over), false) => format!("a catch-up over state {over}"),
        (Some(over), true) => {
            format!("a way back to state {over}: what changed after it is fetched again")
        }
    };
    let end = match s.need {
        Some(need) => format!("all blocks have come; readable once set {need} is folded in"),
        None => format!("blocks before {} of {blocks} are here", s.next_block),
    };
    let reads = match s.held {
        None => "reads are refused".to_owned(),
        Some(_) => format!("readers see state {}", v.durable().visible),
    };
    format!("{what}, joined at state {}; {end}; {reads}", s.from)
}

fn outgoing(set: SetNumber) -> String {
    format!(
        "a seed or catch-up of others, which have something of set {set}: it is made, be it empty"
    )
}

fn staged(s: &StageMark) -> String {
    let end = match s.need {
        Some(need) => format!("all blocks have come; set {need} is the first that is shown"),
        None => format!("blocks before {} are in the save volume", s.next_block),
    };
    format!("a staged catch-up over state {}, joined at state {}; {end}", s.over, s.from)
}

fn save(v: &Volume, files: &dyn Storage, found: &mut VolumeFound) {
    let s = v.save_content(&mut |file, at, len| files.read(file, at, len));
    let primary = matches!(v.config().role, Role::Primary { .. });
    let open = s
        .open
        .map(|(to, next)| format!("set {to} is here up to chunk {next}: the parent goes on there"));
    let beyond = s.beyond.map(|(bytes, to)| {
        let what = if primary {
            "it was being made, nothing of it had left the node, and its blocks are in the next set"
        } else {
            "it was not acknowledged, and comes again"
        };
        format!(
            "{} of set {to} lie behind the head: {what} (as it should be after a crash)",
            format_size(bytes)
        )
    });
    found.save = Some(SaveFound {
        tail: s.tail.0,
        head: s.head.0,
        used: s.used,
        capacity: s.capacity,
        records: s.records,
        sets: s.sets,
        oldest: s.oldest.0,
        newest: s.newest.0,
        open,
        beyond,
    });
}

fn changes(v: &Volume, files: &dyn Storage, found: &mut VolumeFound) {
    if matches!(v.config().role, Role::Relay) {
        return;
    }
    let mark = v.durable().changes;
    match v.changes_content(&mut |file, at, len| files.read(file, at, len)) {
        Ok(c) => {
            found.changes = Some(ChangesFound {
                since: mark.base.0,
                entries: c.entries,
                blocks: c.blocks.0,
                bytes: mark.bytes,
            });
        }
        Err(e) => found.findings.push(Finding::heals(
            "changes",
            format!(
                "the list of changed blocks is damaged ({e}): it is given up when it is needed, and \
                 children that need it are seeded"
            ),
        )),
    }
}

fn digest(v: &Volume, found: &mut VolumeFound) {
    if matches!(v.config().role, Role::Relay) {
        return;
    }
    let m = v.durable();
    let was = m.digest;
    let primary = matches!(v.config().role, Role::Primary { .. });
    let known = v.digest().map(|(_, sum)| sum.to_string());
    found.digest = Some(DigestFound {
        table: match was.table {
            TableMark::Known(_) => "known",
            TableMark::Kept => "kept",
            TableMark::Absent => "absent",
        },
        digest: known.clone(),
        at: if primary { was.hashed.0 } else { m.merged.0 },
        searched: was.scrub_next,
        searched_at: was.scrubbed.0,
    });
    if v.table_is_lost() {
        let text = "the table of hashes cannot be used (its head is not this volume's, or it does not go \
                    as far as the content): it is made anew from the content, in the background";
        found.findings.push(Finding::heals("hashes", text));
    }
    if was.differs > SetNumber::ZERO {
        let why = v.refusal().unwrap_or_default();
        found.findings.push(match was.table {
            TableMark::Known(_) => Finding::needs("content", why),
            _ => Finding::heals("content", why),
        });
    }
}

fn kept(v: &Volume, files: &dyn Storage, found: &mut VolumeFound) {
    let m = v.durable();
    let info = |pin: u64| v.config().snapshots.info(PinId(pin));
    let images = |i: &Option<PinInfo>| i.as_ref().map_or(0, |i| i.images);
    let broken = |i: &Option<PinInfo>| match i {
        None => Some("its images are gone".to_owned()),
        Some(i) => i.broken.map(|b| format!("it can no longer be read ({b:?})")),
    };
    for k in m.keeps() {
        let i = info(k.pin);
        let why = match k.pin {
            0 => Some("the content has not reached it yet".to_owned()),
            _ => broken(&i),
        };
        found.kept.push(Kept { name: k.set.to_string(), images: images(&i), why });
    }
    for k in &m.aside {
        let i = info(k.pin);
        let name = format!("branch:{}", k.name());
        found.kept.push(Kept { name, images: images(&i), why: broken(&i) });
    }
    let pins = m.kept.iter().filter(|k| k.pin > 0).count() + m.aside.len();
    let lost: Vec<_> = m
        .keeps()
        .filter(|k| k.pin > 0)
        .map(|k| (k.pin, k.set.to_string()))
        .chain(m.aside.iter().map(|k| (k.pin, k.name())))
        .filter(|(pin, _)| broken(&info(*pin)).is_some())
        .map(|(_, name)| name)
        .collect();
    if !lost.is_empty() {
        found.findings.push(Finding::needs(
            "snapshots",
            format!(
                "kept states cannot be read any more: {}; `rcpctl delta release` or `rcpctl branch \
                 drop` gives them up",
                lost.join(", ")
            ),
        ));
    }
    let supers = files.read(FileId::Snapshots, 0, 8192).unwrap_or_default();
    let half = |i: usize| {
        let one = supers.get(i * 4096..(i + 1) * 4096).unwrap_or_default();
        parse_superblocks(&[one, &[0; 4096]].concat()).is_some()
    };
    if let Some(i) = (0..2).find(|i| pins > 0 && !half(*i)) {
        let text = format!("superblock {i} is damaged: the other one counts");
        found.findings.push(Finding::heals("snapshots", text));
    }
}

/// What a change of role has left to do, or forbids.
fn standing(identity: &Identity, found: &mut VolumeFound) {
    let s = &identity.standing;
    let label = &identity.label;
    let mut tell = |text: String, remedy: Option<String>| {
        found.standing.push(Change { text, remedy });
    };
    if let Some(f) = &s.fenced {
        let text = if f.handed {
            "it was handed over in order, and no writer is let in".to_owned()
        } else {
            format!(
                "{} took its place as the writer (line {}, after state {}): no writer is let in",
                f.by, f.at.generation, f.at.set
            )
        };
        tell(text, Some(format!("`rcpctl resync {label}` makes it a replica, once it runs")));
    }
    if let Some(o) = &s.opens {
        tell(format!("it took over: it opens line {} at state {}", o.generation, o.set), None);
    }
    if s.discards {
        tell("it gives up what it holds, and is seeded".to_owned(), None);
    }
    if s.unproven {
        tell(
            "writers wait until a child has said that it holds no other volume of the label"
                .to_owned(),
            Some(format!("`rcpctl confirm {label}` lets them in, if this is the right node")),
        );
    }
    if let Some(what) = &s.damaged {
        tell(format!("it was made the writer although something was damaged: {what}"), None);
    }
}

/// What the node will do with the volume.
fn next_start(identity: &Identity, v: &Volume, found: &VolumeFound) -> Vec<String> {
    let m = v.durable();
    let mut out = Vec::new();
    let (saved, next) = v.position();
    match &v.config().role {
        Role::Primary { capture, .. } => {
            let fenced = identity.standing.fenced.is_some();
            if !fenced {
                out.push(format!("opens its exports to writers, after set {}", m.visible));
            }
            let blocks = capture.dirty_blocks().0;
            if blocks > 0 {
                out.push(format!(
                    "puts {blocks} blocks into the next set that may have been written since"
                ));
            }
        }
        Role::Replica { .. } => {
            out.push(match v.refusal() {
                Some(why) => format!("refuses reads: {why}"),
                None => format!("shows state {}", m.visible),
            });
            if saved > m.merged && m.seed.is_none() {
                out.push(format!("merges sets {} to {saved} into the content", m.merged.0 + 1));
            }
            out.push(format!("attaches to its parent at set {saved}, chunk {next} of the next"));
        }
        Role::Relay => {
            out.push(format!("attaches to its parent at set {saved}, chunk {next} of the next"));
        }
    }
    if m.settings.stopped || (m.settings.transient && found.role == "primary") {
        out.push(format!(
            "leaves replication stopped until `rcpctl replicate start {}`",
            identity.label
        ));
    }
    if let Some(words) = v.digest_words() {
        out.push(format!("finds its digest out: {words}"));
    }
    out
}
