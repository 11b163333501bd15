//! Volumes that chance makes up: two mailbox slots and a save volume, with what `volmcast/FORMAT.md`
//! (sections 5 and 13) says that crashes, changes of the writer and damage may leave there, and that is
//! rare on the disks of the simulated world. Each is opened, and read a second time.
//!
//! | file | what it is |
//! |---|---|
//! | `story` | what a log holds |
//! | `tape` | its records at their places |
//! | `slots` | what the mailbox says of it |
//! | `room` | rings that are filled to the last byte |

mod room;
mod slots;
mod story;
mod tape;

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use rcp::proto::clock::{Mono, Wall};
use rcp::proto::delta::Compression;
use rcp::proto::ids::SetNumber;
use volmcast::capture::{Capture, CaptureLimits};
use volmcast::io::FileId;
use volmcast::mailbox::Mailbox;
use volmcast::save::Budget;
use volmcast::snapshots::SnapshotStore;
use volmcast::snapshots::layout::AreaLayout;
use volmcast::units::{BlockSize, LogPos};
use volmcast::volume::{
    CutPolicy, Event, FullPolicy, MIN_CHANGES, PlaybackPolicy, Role, ScrubPolicy, Volume,
    VolumeConfig,
};

use self::slots::Cut;
use self::story::{Deed, SHIFT, Story, line};
use self::tape::Tape;
use super::super::node::{VOLUME, name};
use super::super::options::Kind;
use super::super::rng::Rng;
use super::super::world::World;
use super::{Files, Pass};

/// One step in so many is followed by a forged volume.
const FORGED: u64 = 83;

/// How often each thing happens to a set, and to one of a replica.
const DEEDS: [(u64, Deed); 14] = [
    (40, Deed::Finished),
    (10, Deed::Again),
    (6, Deed::Once),
    (4, Deed::Older),
    (6, Deed::Bare),
    (7, Deed::Foreign),
    (5, Deed::Misfit),
    (5, Deed::Disorder),
    (4, Deed::Apart),
    (6, Deed::Mixed),
    (2, Deed::Twice),
    (2, Deed::Repeated),
    (3, Deed::Joined),
    (2, Deed::Open),
];

/// A volume that nobody wrote.
struct Forged {
    files: Files,
    slot: Mailbox,
    /// What is special about it.
    marks: Vec<&'static str>,
    /// What its log holds, in words.
    words: String,
    /// The newest set that its writer has finished, if all that happened is what happens to writers.
    newest: Option<SetNumber>,
}

/// How a ring and what stands in it are spoilt.
struct Spoils {
    marks: Vec<&'static str>,
    /// The head is so many bytes before the end of a record.
    within: u64,
}

impl Forged {
    fn new(rng: &mut Rng) -> Option<Self> {
        let kind = match rng.below(100) {
            0..48 => Kind::Primary,
            48..93 => Kind::Replica,
            _ => Kind::Relay,
        };
        let filled = rng.percent(10);
        let base = SetNumber(rng.below(5));
        let mut story = Story::new(rng, base, line(2));
        story.fat = filled;
        let fork = tell(&mut story, kind, filled);
        let trimmed = trim(&mut story);
        let deeds = story.deeds.clone();
        let happens = story.happens();
        let at = cut(&mut story);
        let n = story.entries.len();
        let newest = story.state();
        let entries = std::mem::take(&mut story.entries);
        let rng = &mut *story.rng;
        let offset = 64 * rng.below(200);
        let lap = rng.below(3);
        let mut tape = place(&entries, filled, lap, offset, rng)?;
        let tail = tape.tail;
        // What a record needs before the end of the file is padded only when it comes.
        let head = at.checked_sub(1).map_or(tail, |i| tape.places[i].1);
        let spoils = spoil(&mut tape, &entries, at, rng);
        let within_set = at > 0 && at < n && !entries[at - 1].is_end;
        let cut = Cut {
            kind,
            tail,
            head: LogPos(head.0 - spoils.within),
            base,
            chain: story.stands[at].clone(),
            lines: (story.line, fork),
            staged: story.staged,
        };
        let made = slots::make(&cut, story.rng);
        let mut marks: Vec<_> = deeds.iter().map(|d| d.hit()).collect();
        marks.extend(spoils.marks.iter().chain(&made.marks));
        for (is, mark) in [
            (filled, "forged: a ring that is full"),
            (trimmed, "forged: a tail within a set"),
            (within_set, "forged: a head within a set"),
        ] {
            marks.extend(is.then_some(mark));
        }
        let whole = spoils.marks.is_empty() && made.plain && happens && !trimmed;
        let newest = (whole && kind == Kind::Primary).then_some(newest);
        let words = words(&entries, &tape, at, &deeds);
        let files = Files {
            mailbox: made.mailbox,
            save: Bytes::from(tape.bytes),
            hashes: made.hashes,
            capacity: tape.capacity,
            volume: VOLUME,
            block_size: BlockSize::from_shift(SHIFT)?,
            node: name(0),
            kind,
            opens: made.opens,
            discards: false,
        };
        Some(Self { files, slot: made.slot, marks, words, newest })
    }

    /// Opens it and reads it a second time.
    fn check(&self) -> Result<(), String> {
        let f = &self.files;
        let (slot, old) = f.slots().ok_or("no slot can be read")?;
        let reading = Pass::new(f, &slot, old).read();
        let mut v = self.open()?;
        reading.check(&v)?;
        let events: Vec<Event> = std::iter::from_fn(|| v.poll_event()).collect();
        reading.check_words(&events)?;
        match self.newest {
            Some(newest) if v.opened().visible != newest => Err(format!(
                "its writer has finished set {newest}, and goes on after set {}",
                v.opened().visible
            )),
            _ => Ok(()),
        }
    }

    fn open(&self) -> Result<Volume, String> {
        let f = &self.files;
        let never = Duration::from_secs(1 << 20);
        let role = match f.kind {
            Kind::Primary => {
                let limits = CaptureLimits { held_bytes: 4096 };
                let capture = Capture::new(f.block_size, self.slot.blocks, limits);
                let policy = CutPolicy { hwm: 1 << 20, timeout: never };
                Role::Primary { capture: Arc::new(capture), policy }
            }
            Kind::Replica => Role::Replica {
                policy: PlaybackPolicy { hwm: 0, timeout: Duration::ZERO, on_demand: false },
            },
            Kind::Relay => Role::Relay,
        };
        let area = AreaLayout { volume: VOLUME, block: f.block_size, slots: 8 };
        let cfg = VolumeConfig {
            volume: VOLUME,
            node: f.node.clone(),
            block_size: f.block_size,
            blocks: self.slot.blocks,
            save_capacity: f.capacity,
            changes: MIN_CHANGES,
            scrub: ScrubPolicy { rate: 0, every: never },
            cache: 1 << 16,
            readback: 1 << 16,
            budget: Budget::new(1 << 16),
            chunk_bytes: 4096,
            window: 1 << 16,
            compression: Compression::Never,
            snapshots: Arc::new(SnapshotStore::new(area)),
            full: FullPolicy::default(),
            role,
            opens: f.opens,
        };
        let mut read = |file, offset, len| {
            let whole = match file {
                FileId::Mailbox => &f.mailbox,
                FileId::Save => &f.save,
                FileId::Hashes => &f.hashes,
                _ => &Bytes::new(),
            };
            let at = |n: usize| n.min(whole.len());
            let from = at(usize::try_from(offset).unwrap_or(usize::MAX));
            let part = whole.slice(from..at(from + len));
            if part.len() == len {
                return Ok(part);
            }
            let mut padded = BytesMut::from(&part[..]);
            padded.resize(len, 0);
            Ok(padded.freeze())
        };
        Volume::open(cfg, Mono(1), Wall(1), &mut read).map_err(|e| e.to_string())
    }
}

/// What happened while the log was written: perhaps on a line that parted, before the present one. Where
/// that began.
fn tell(story: &mut Story<'_>, kind: Kind, filled: bool) -> Option<SetNumber> {
    let parted = story.rng.percent(35);
    if parted {
        for _ in 0..story.rng.below(4) {
            story.tell(Deed::Finished);
        }
        if story.rng.percent(25) {
            story.tell(Deed::Open);
        }
    }
    let fork = parted.then(|| story.fork(line(4)));
    let sum = DEEDS.iter().map(|(n, _)| n).sum::<u64>();
    // Some logs hold nothing but what writers leave.
    let happens = story.rng.percent(45);
    let more = story.rng.below(7);
    let mut told = 0;
    while told < more || filled && tape::length_of(&story.entries) < 4096 {
        told += 1;
        if kind == Kind::Replica && story.staged.is_none() && story.rng.percent(10) {
            story.tell(Deed::Staged);
            continue;
        }
        let mut at = story.rng.below(sum);
        for (n, deed) in DEEDS {
            if at < n {
                story.tell(if happens { deed.or_usual() } else { deed });
                break;
            }
            at -= n;
        }
    }
    if !happens && story.rng.percent(20) {
        story.tell(Deed::Repeated);
    }
    fork
}

/// Perhaps the first records of the first set were given back.
fn trim(story: &mut Story<'_>) -> bool {
    let first = story.entries.iter().take_while(|e| !e.is_end).count();
    let one = story.entries.iter().take(first).enumerate();
    let first = one.take_while(|(i, e)| u32::try_from(*i) == Ok(e.number)).count();
    let trims = first > 1 && story.rng.percent(20);
    if trims {
        let n = story.rng.range(1, first as u64 - 1);
        story.trim(usize::try_from(n).unwrap_or(1));
    }
    trims
}

/// Behind how many records the head stands. What a line begins with is in both slots.
fn cut(story: &mut Story<'_>) -> usize {
    let (least, most) = (story.begun, story.entries.len().min(story.joined));
    let again = story.deeds.last() == Some(&Deed::Repeated) && story.rng.percent(50);
    match usize::try_from(story.rng.range(least as u64, most as u64)) {
        // What stands there once more is all that follows.
        _ if again => most.saturating_sub(1).max(least),
        at => at.unwrap_or(least),
    }
}

/// Gives the records their places: in a ring that they fill, or in a larger one.
fn place(
    entries: &[story::Entry],
    filled: bool,
    lap: u64,
    offset: u64,
    rng: &mut Rng,
) -> Option<Tape> {
    if filled {
        let most = tape::length_of(entries).max(4096);
        let at = offset % most;
        let full = Tape::filled(entries, LogPos(at));
        return full.or_else(|| Tape::filled(entries, LogPos(0)));
    }
    // With room for the pad before the end of the file.
    let capacity = (tape::length_of(entries) + 1024).max(4096) + 64 * rng.below(64);
    Some(Tape::of(entries, LogPos(lap * capacity + offset % capacity), capacity))
}

/// Does damage, perhaps, or leaves what a crash leaves behind the last record.
fn spoil(tape: &mut Tape, entries: &[story::Entry], at: usize, rng: &mut Rng) -> Spoils {
    let mut s = Spoils { marks: Vec::new(), within: 0 };
    let Some(last) = entries.last() else { return s };
    if rng.percent(10) && tape.end().since(tape.tail) + 1024 <= tape.capacity {
        if tape.is_near_wrap() {
            tape.pad(last);
        }
        tape.leave_old(last);
    }
    if at > 0 && rng.percent(3) {
        s.within = 64;
        s.marks.push("forged: a head within a record");
    }
    let bits = [0, 0, 0, 1, 1, 2];
    for _ in 0..rng.pick(&bits).copied().unwrap_or(0) {
        let record = usize::try_from(rng.below(entries.len() as u64)).unwrap_or(0);
        let header = rng.percent(30);
        let from = if header { 0 } else { 64 * 8 };
        let bits = if header { 64 * 8 } else { 8 * entries[record].body.len() as u64 };
        tape.flip(record, from + rng.below(bits));
        s.marks.push(match (record < at, header) {
            (true, true) => "forged: a bit of a header before the head",
            (true, false) => "forged: a bit of a body before the head",
            (false, true) => "forged: a bit of a header behind the head",
            (false, false) => "forged: a bit of a body behind the head",
        });
    }
    s
}

/// The log, in words.
fn words(entries: &[story::Entry], tape: &Tape, at: usize, deeds: &[Deed]) -> String {
    use std::fmt::Write;
    let mut text = format!("{deeds:?} in {} bytes:", tape.capacity);
    for (i, e) in entries.iter().enumerate() {
        let head = if i == at { " | head" } else { "" };
        let what = if e.is_end { "end" } else { "chunk" };
        let step = super::records::step_of(&e.body, e.is_end);
        let step = step.map_or_else(String::new, |s| {
            format!("{}>{} {} a{:x}", s.base, s.to, s.generation.counter, s.attempt.0)
        });
        let _ = write!(text, "{head} {}: {what} {} of {step};", tape.places[i].0.0, e.number);
    }
    text
}

/// Makes up a volume, opens it, and reads it a second time; what was special about it.
///
/// # Errors
/// What the two take for something else, in words.
pub fn forged(rng: &mut Rng) -> Result<Vec<&'static str>, String> {
    if rng.percent(5) {
        room::fill(rng)?;
        return Ok(vec!["forged: a ring that is being filled"]);
    }
    let Some(f) = Forged::new(rng) else { return Ok(Vec::new()) };
    f.check().map_err(|e| {
        let Files { kind, opens, .. } = &f.files;
        format!(
            "{e}; a {kind:?} that opens {opens:?}, {:?}, with {}: {:?}",
            f.marks, f.words, f.slot
        )
    })?;
    Ok(f.marks)
}

impl World {
    /// Opens a forged volume, now and then.
    pub(in super::super) fn try_forging(&mut self) {
        let steps = self.counters.2.all();
        if steps / FORGED == self.forged {
            return;
        }
        self.forged = steps / FORGED;
        // Its own chance: the world goes on as if nothing had been.
        let mut rng = Rng::new(self.seed.rotate_left(7) ^ steps.rotate_left(32) ^ 0xf0f0_1234);
        match forged(&mut rng) {
            Ok(marks) => marks.iter().for_each(|m| self.counters.hit(m)),
            Err(e) => self.fail(format!("a forged volume: {e}")),
        }
    }
}
