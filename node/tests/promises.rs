//! What a volume on real files never does, whatever happens to it in between.

#[path = "promises/coalesced.rs"]
mod coalesced;
#[path = "promises/held.rs"]
mod held;
#[path = "promises/kept.rs"]
mod kept;
#[path = "promises/lines.rs"]
mod lines;
#[path = "promises/outgoing.rs"]
mod outgoing;
#[path = "promises/released.rs"]
mod released;
#[path = "promises/staged.rs"]
mod staged;
#[path = "promises/stalls.rs"]
mod stalls;
#[path = "promises/tables.rs"]
mod tables;

use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use node::mover::Gate;
use node::nbd::{Errno, Export};
use node::volumes::open::{self, OpenPlan, Opened, Tuning};
use node::volumes::{PrimaryVolume, StateView};
use rcp::proto::clock::{Mono, Wall};
use rcp::proto::delta::{
    ChunkDraft, ChunkFlags, ChunkListSum, Compression, Extent, SetFlags, SetHeader, StepId,
};
use rcp::proto::frame::Branch;
use rcp::proto::ids::{
    Attempt, ChunkNumber, Generation, GroupName, Label, NodeName, SetNumber, VolumeId,
};
use volmcast::capture::CaptureError;
use volmcast::io::{FileId, Io, IoError, Op, Outcome};
use volmcast::mailbox::{Mailbox, SLOT_LEN};
use volmcast::storage::{Identity, Standing, Storage};
use volmcast::units::{BlockCount, BlockIndex, BlockSize};
use volmcast::volume::{CutPolicy, Event, KeepError, PlaybackPolicy, Volume};

const BLOCKS: u64 = 256;
const NOW: Mono = Mono(1_000_000);
const LINE: Generation = Generation { counter: 1, id: [1; 16] };

fn me() -> NodeName {
    NodeName::new("here").expect("valid")
}

fn plan() -> OpenPlan {
    OpenPlan {
        node: me(),
        persistent: true,
        cut: CutPolicy { hwm: 1 << 30, timeout: Duration::from_secs(3600) },
        playback: PlaybackPolicy { hwm: 0, timeout: Duration::ZERO, on_demand: false },
        compression: Compression::Never,
        import: false,
        budget: volmcast::save::Budget::new(1 << 20),
        scrub: volmcast::volume::ScrubPolicy {
            rate: 16 << 20,
            every: Duration::from_secs(24 * 3600),
        },
        full: volmcast::volume::FullPolicy::default(),
    }
}

fn identity(role: &str) -> Identity {
    Identity {
        volume: VolumeId([7; 16]),
        label: Label::new("vol").expect("valid"),
        source: None,
        group: GroupName::new("g1").expect("valid"),
        node: me(),
        role: role.to_owned(),
        block_size: BlockSize::DEFAULT,
        blocks: BlockCount(BLOCKS),
        save: 16 << 20,
        snapshots: 1 << 20,
        base: None,
        standing: Standing::default(),
    }
}

/// Carries out what the volume wants, but for what `fails` chooses.
fn drive_but(o: &mut Opened, fails: &dyn Fn(&Io) -> bool) -> Vec<Event> {
    drive_at(o, NOW, &|io| fails(io).then_some(IoError::Os(5)))
}

fn drive_at(o: &mut Opened, now: Mono, fails: &dyn Fn(&Io) -> Option<IoError>) -> Vec<Event> {
    drive_in(o, now, Wall(1), fails)
}

fn drive_in(
    o: &mut Opened,
    now: Mono,
    wall: Wall,
    fails: &dyn Fn(&Io) -> Option<IoError>,
) -> Vec<Event> {
    let v = &mut o.volume;
    let mut events = Vec::new();
    v.timer(now, wall);
    loop {
        let mut more = false;
        while let Some(io) = v.poll_io() {
            let outcome = fails(&io).map_or_else(|| o.files.perform(&io), Outcome::Failed);
            v.io_done(now, io.tag, outcome);
            more = true;
        }
        while let Some((tag, work)) = v.poll_work() {
            v.work_done(now, tag, work.run());
            more = true;
        }
        while let Some(e) = v.poll_event() {
            if matches!(e, Event::SetReady { .. }) {
                v.extents_forgotten();
            }
            events.push(e);
            more = true;
        }
        v.timer(now, wall);
        if !more {
            return events;
        }
    }
}

fn drive(o: &mut Opened) {
    healthy(&drive_but(o, &|_| false));
}

fn healthy(events: &[Event]) {
    let bad = |e: &&Event| matches!(e, Event::Failed { .. } | Event::Damage { .. });
    assert_eq!(events.iter().find(bad), None);
}

fn primary(folder: &Path) -> Opened {
    let mut o = open::create(folder, &identity("primary"), &plan(), NOW, Wall(1)).expect("created");
    o.volume.open_generation(LINE, Wall(1));
    drive(&mut o);
    writable(&o).gate().set(&Gate::Open);
    o
}

fn writable(o: &Opened) -> &PrimaryVolume {
    o.primary.as_ref().expect("a primary")
}

fn replica(folder: &Path) -> Opened {
    let mut o = open::create(folder, &identity("replica"), &plan(), NOW, Wall(1)).expect("created");
    let first = Branch {
        generation: LINE,
        forked_from: SetNumber(0),
        opened_by: NodeName::new("prim").expect("valid"),
        opened_at: Wall(1),
    };
    o.volume.adopt_history(vec![first]);
    o
}

/// Set `to` fills block `to` with `to`.
fn feed(v: &mut Volume, to: u64) {
    let end = begin(v, to);
    v.receive_set_end(&end).expect("taken");
}

/// As [`feed`], but for the set's end.
fn begin(v: &mut Volume, to: u64) -> SetHeader {
    let step = StepId {
        volume: VolumeId([7; 16]),
        generation: LINE,
        base: SetNumber(to - 1),
        to: SetNumber(to),
        attempt: Attempt(u32::try_from(to).expect("small")),
    };
    let chunk = ChunkDraft {
        step,
        number: ChunkNumber(0),
        block_size_shift: 12,
        flags: ChunkFlags::NONE,
        extents: vec![Extent::data(to, 1)],
        payload: Bytes::from(vec![u8::try_from(to).expect("small"); 4096]),
    };
    let chunk = chunk.encode(Compression::Never).expect("a chunk");
    let mut sum = ChunkListSum::new();
    sum.add(ChunkNumber(0), chunk.body_crc()).expect("in order");
    v.receive_chunk(&chunk).expect("taken");
    SetHeader {
        step,
        chunk_count: 1,
        block_count: 1,
        volume_blocks: BLOCKS,
        block_shift: 12,
        cut_time: Wall(to),
        flags: SetFlags::DIGEST_ABSENT,
        digest: [0; 32],
        chunk_list_crc: sum.crc(),
    }
}

#[test]
fn a_primary_that_stopped_acknowledges_nothing_more() {
    let dir = tempfile::tempdir().expect("temp");
    let mut o = primary(&dir.path().join("v"));
    writable(&o).write(0, &[1; 4096]).expect("written");
    writable(&o).flush().expect("durable");
    o.volume.demand_cut(false);
    let events = drive_but(&mut o, &|io| io.op == Op::Sync);
    assert!(events.iter().any(|e| matches!(e, Event::Failed { .. })), "{events:?}");
    let p = writable(&o);
    assert_eq!(p.write(4096, &[1; 4096]), Err(Errno::Io));
    assert_eq!(p.trim(0, 4096), Err(Errno::Io));
    assert_eq!(p.flush(), Err(Errno::Io));
    let mut buf = [0; 4096];
    p.read(0, &mut buf).expect("reads go on");
    assert_eq!(buf[0], 1);
}

#[test]
fn room_that_was_prepared_is_never_made_zero_again() {
    let dir = tempfile::tempdir().expect("temp");
    let o = primary(&dir.path().join("v"));
    let p = writable(&o);
    p.prepare_growth(BlockCount(2 * BLOCKS)).expect("prepared");
    // The size became durable, a client wrote, and a second preparation had begun before.
    let file = o.files.file(FileId::Base);
    file.write_all_at(&[9; 4096], BLOCKS * 4096).expect("written");
    p.prepare_growth(BlockCount(3 * BLOCKS)).expect("prepared");
    let mut buf = [0; 4096];
    file.read_exact_at(&mut buf, BLOCKS * 4096).expect("read");
    assert_eq!(buf, [9; 4096]);
}

#[test]
fn an_import_that_was_cut_short_is_still_an_import() {
    let dir = tempfile::tempdir().expect("temp");
    let folder = dir.path().join("v");
    let image = dir.path().join("image");
    std::fs::write(&image, vec![5; usize::try_from(BLOCKS * 4096).expect("small")]).expect("made");
    let id = Identity { base: Some(image), ..identity("primary") };
    // As far as `create` comes until the folder is a volume.
    let import = OpenPlan { import: true, ..plan() };
    let files = volmcast::storage::Files::create(&folder, &id, open::sizes(&id)).expect("made");
    open::format(&id, &import, &Tuning::default(), &files).expect("formatted");
    drop(files);
    id.store(&folder).expect("named");
    // The next start knows nothing of the import.
    let o = open::open(&folder, &plan(), NOW, Wall(1)).expect("opened");
    let capture = o.volume.capture().expect("a primary");
    assert_eq!(capture.dirty_blocks(), BlockCount(BLOCKS));
}

#[test]
fn what_is_no_longer_there_is_an_error_and_never_a_hole() {
    let dir = tempfile::tempdir().expect("temp");
    let mut o = replica(&dir.path().join("r"));
    feed(&mut o.volume, 1);
    drive(&mut o);
    let states = o.states.clone().expect("readable");
    let pin = states.board().pin_visible().expect("visible");
    let view = StateView::pinned(states, pin, BLOCKS * 4096, None, false, String::new());
    let holes = view.block_status(0, BLOCKS * 4096, 100).expect("told");
    assert!(holes.iter().any(|e| e.zero) && holes.iter().any(|e| !e.zero));
    o.volume.seed_begin(SetNumber(9), BlockCount(BLOCKS));
    drive(&mut o);
    assert_eq!(view.block_status(0, BLOCKS * 4096, 100).err(), Some(Errno::Io));
    // A primary that is one no more.
    let o = primary(&dir.path().join("p"));
    let p = writable(&o);
    p.block_status(0, 4096, 1).expect("told");
    p.gate().retire();
    assert_eq!(p.block_status(0, 4096, 1).err(), Some(Errno::Io));
}

fn open_at(folder: &Path) -> Opened {
    let mut o = open::open(folder, &plan(), NOW, Wall(1)).expect("opened");
    o.volume.resume();
    o
}

fn no_room(file: FileId) -> impl Fn(&Io) -> Option<IoError> {
    move |io| {
        let writes = matches!(io.op, Op::Write { .. } | Op::Scatter { .. });
        (writes && io.file == file).then_some(IoError::NoSpace)
    }
}

#[test]
fn a_replica_whose_content_is_about_to_go_keeps_no_state_of_it() {
    let dir = tempfile::tempdir().expect("temp");
    let mut o = replica(&dir.path().join("r"));
    for set in 1..=2 {
        feed(&mut o.volume, set);
        drive(&mut o);
    }
    o.volume.seed_begin(SetNumber(2), BlockCount(BLOCKS));
    // The mark is on its way.
    let e = o.volume.keep_state(SetNumber(2)).expect_err("it goes");
    assert_eq!(e, KeepError::Hidden { asked: SetNumber(2), until: SetNumber(3) });
    o.volume.keep_state(SetNumber(4)).expect("that is to come");
    drive(&mut o);
    assert!(o.volume.keep_state(SetNumber(2)).is_err());
    assert_eq!(o.volume.kept().collect::<Vec<_>>(), [SetNumber(4)]);
}

#[test]
fn a_state_that_is_fetched_again_is_not_kept_before_it_is_whole() {
    let dir = tempfile::tempdir().expect("temp");
    let folder = dir.path().join("r");
    let mut o = replica(&folder);
    feed(&mut o.volume, 1);
    drive(&mut o);
    feed(&mut o.volume, 2);
    healthy(&drive_at(&mut o, NOW, &no_room(FileId::Base)));
    let m = o.volume.durable();
    assert_eq!((m.visible, m.merged), (SetNumber(2), SetNumber(1)));
    drop(o);
    std::fs::write(folder.join("save"), vec![0; 16 << 20]).expect("spoiled");
    let mut o = open_at(&folder);
    drive_but(&mut o, &|_| false);
    let e = o.volume.keep_state(SetNumber(1)).expect_err("parts of 2 may be there");
    assert_eq!(e, KeepError::Hidden { asked: SetNumber(1), until: SetNumber(2) });
    o.volume.keep_state(SetNumber(2)).expect("it will be whole");
}

#[test]
fn a_seed_does_not_end_within_a_set_for_which_there_was_no_room() {
    let dir = tempfile::tempdir().expect("temp");
    let mut o = replica(&dir.path().join("r"));
    o.volume.seed_begin(SetNumber(2), BlockCount(BLOCKS));
    drive(&mut o);
    feed(&mut o.volume, 3);
    drive(&mut o);
    let end = begin(&mut o.volume, 4);
    // Of what a disk refuses for want of room, it may have written a part.
    healthy(&drive_at(&mut o, NOW, &no_room(FileId::Base)));
    o.volume.receive_seed_end(SetNumber(3), true);
    healthy(&drive_at(&mut o, NOW, &no_room(FileId::Base)));
    let m = o.volume.durable();
    assert_eq!((m.merged, m.seed.is_some()), (SetNumber(3), true));
    o.volume.receive_set_end(&end).expect("taken");
    healthy(&drive_at(&mut o, Mono(NOW.0 + 60_000_000), &|_| None));
    let m = o.volume.durable();
    assert_eq!((m.visible, m.seed.is_some()), (SetNumber(4), false));
}

#[test]
fn a_set_that_is_given_up_leaves_no_kept_state() {
    let dir = tempfile::tempdir().expect("temp");
    let mut o = primary(&dir.path().join("v"));
    let states = o.states.clone().expect("readable");
    writable(&o).write(0, &[1; 4096]).expect("written");
    o.volume.demand_cut(true);
    assert_eq!(o.volume.draining(), Some(SetNumber(1)));
    assert!(states.board().pin_kept(SetNumber(1)).is_none(), "it may still become another");
    // A writer cannot read what it overwrites.
    let capture = o.volume.capture().expect("a primary").clone();
    let ticket = capture.enter();
    let (first, one) = (BlockIndex(0), BlockCount(1));
    let e = capture.before_write(&ticket, first, one, &mut |_, _| Err(IoError::Os(5)));
    assert!(matches!(e, Err(CaptureError::Read { .. })));
    drop(ticket);
    healthy(&drive_at(&mut o, NOW, &|_| None));
    assert_eq!(o.volume.durable().visible, SetNumber(0));
    writable(&o).write(0, &[2; 4096]).expect("written");
    healthy(&drive_at(&mut o, Mono(NOW.0 + 5_000_000), &|_| None));
    assert_eq!(o.volume.durable().visible, SetNumber(1));
    writable(&o).write(0, &[3; 4096]).expect("written");
    let pin = states.board().pin_kept(SetNumber(1)).expect("kept");
    let mut buf = [0; 4096];
    states.read(&pin, 0, &mut buf).expect("read");
    assert_eq!(buf[0], 2, "state 1 is what the set was cut from");
}

#[test]
fn a_kept_state_is_answered_for_when_it_is_durable() {
    let dir = tempfile::tempdir().expect("temp");
    let mut o = primary(&dir.path().join("v"));
    writable(&o).write(0, &[1; 4096]).expect("written");
    o.volume.demand_cut(false);
    drive(&mut o);
    o.volume.demand_cut(true);
    let answered = |e: &Event| matches!(e, Event::CutDone { .. });
    while let Some(e) = o.volume.poll_event() {
        assert!(!answered(&e), "before it is durable");
    }
    assert!(drive_but(&mut o, &|_| false).iter().any(answered));
    assert!(o.volume.is_listed_durably(SetNumber(1)));
    // Once more is once, so that one release is enough.
    o.volume.demand_cut(true);
    assert!(drive_but(&mut o, &|_| false).iter().any(answered));
    assert!(o.volume.release_state(SetNumber(1)));
    drive(&mut o);
    drive(&mut o);
    assert_eq!(o.volume.kept().count(), 0);
}

#[test]
fn a_set_under_way_answers_no_demand_that_came_after_its_cut() {
    let dir = tempfile::tempdir().expect("temp");
    let mut o = primary(&dir.path().join("v"));
    writable(&o).write(0, &[1; 4096]).expect("written");
    let first = o.volume.demand_cut(false);
    assert_eq!(o.volume.draining(), Some(SetNumber(1)));
    writable(&o).write(4096, &[2; 4096]).expect("written");
    let second = o.volume.demand_cut(true);
    let answers: Vec<_> = drive_but(&mut o, &|_| false)
        .into_iter()
        .filter_map(|e| match e {
            Event::CutDone { demand, state, fresh } => Some((demand, state, fresh)),
            _ => None,
        })
        .collect();
    assert_eq!(answers, [(first, SetNumber(1), true), (second, SetNumber(2), true)]);
    assert!(o.volume.is_listed_durably(SetNumber(2)) && !o.volume.is_listed_durably(SetNumber(1)));
}

#[test]
fn more_kept_states_than_the_mailbox_holds_are_refused() {
    let dir = tempfile::tempdir().expect("temp");
    let mut o = replica(&dir.path().join("r"));
    for set in 1..=512 {
        o.volume.keep_state(SetNumber(set)).expect("room");
    }
    assert_eq!(o.volume.keep_state(SetNumber(513)), Err(KeepError::Many));
    drive(&mut o);
    assert_eq!(o.volume.durable().kept.len(), 512);
}

#[test]
fn a_full_file_system_holds_playback_up_and_does_not_end_it() {
    let dir = tempfile::tempdir().expect("temp");
    let mut o = replica(&dir.path().join("r"));
    for set in 1..=2 {
        feed(&mut o.volume, set);
        drive(&mut o);
    }
    let states = o.states.clone().expect("readable");
    let pin = states.board().pin_visible().expect("visible");
    feed(&mut o.volume, 3);
    let events = drive_at(&mut o, NOW, &no_room(FileId::Snapshots));
    healthy(&events);
    assert_eq!(o.volume.durable().merged, SetNumber(2));
    assert_eq!(o.volume.failure(), None);
    let later = Mono(NOW.0 + 5_000_000);
    healthy(&drive_at(&mut o, later, &|_| None));
    assert_eq!(o.volume.durable().merged, SetNumber(3));
    let mut buf = [1; 4096];
    states.read(&pin, 3 * 4096, &mut buf).expect("read");
    assert_eq!(buf[0], 0, "the held state has no block 3");
    drop(pin);
    // Nor does one that has no room for the list of changed blocks.
    feed(&mut o.volume, 4);
    let sync =
        |io: &Io| (io.file == FileId::Changes && io.op == Op::Sync).then_some(IoError::NoSpace);
    drive_at(&mut o, later, &sync);
    assert_eq!((o.volume.failure(), o.volume.durable().merged), (None, SetNumber(4)));
}

#[test]
fn an_older_slot_shows_no_state_that_the_content_has_left() {
    let dir = tempfile::tempdir().expect("temp");
    let folder = dir.path().join("r");
    let mut o = replica(&folder);
    feed(&mut o.volume, 1);
    drive(&mut o);
    feed(&mut o.volume, 2);
    // The node ends when the first block of set 2 has reached the content.
    'all: loop {
        while let Some(io) = o.volume.poll_io() {
            let outcome = o.files.perform(&io);
            if io.file == FileId::Base && matches!(io.op, Op::Scatter { .. }) {
                break 'all;
            }
            o.volume.io_done(NOW, io.tag, outcome);
        }
        while let Some((tag, work)) = o.volume.poll_work() {
            o.volume.work_done(NOW, tag, work.run());
        }
    }
    assert_eq!(o.volume.durable().visible, SetNumber(2));
    let newest = o.volume.durable().sequence;
    drop(o);
    let mut slots = std::fs::read(folder.join("mailbox")).expect("read");
    let at = usize::try_from(Mailbox::slot_offset(newest)).expect("small");
    slots[at..at + SLOT_LEN / 2].fill(0xee);
    std::fs::write(folder.join("mailbox"), slots).expect("spoiled");
    let mut o = open_at(&folder);
    let m = o.volume.durable().clone();
    assert!(m.visible < SetNumber(2) && o.volume.refusal().is_some(), "{m:?} {newest}");
    drive_but(&mut o, &|_| false);
    assert_eq!((o.volume.durable().visible, o.volume.refusal()), (SetNumber(2), None));
    let states = o.states.clone().expect("readable");
    let pin = states.board().pin_visible().expect("visible");
    let mut buf = [0; 4096];
    states.read(&pin, 2 * 4096, &mut buf).expect("read");
    assert_eq!(buf[0], 2);
}

#[test]
fn a_seed_touches_nothing_before_both_slots_say_so() {
    let dir = tempfile::tempdir().expect("temp");
    let mut o = replica(&dir.path().join("r"));
    feed(&mut o.volume, 1);
    drive(&mut o);
    o.volume.seed_begin(SetNumber(1), BlockCount(BLOCKS));
    let mut cleared = false;
    while let Some(io) = o.volume.poll_io() {
        if io.file == FileId::Base && matches!(io.op, Op::Zero { .. }) {
            cleared = true;
            for slot in
                o.files.read(FileId::Mailbox, 0, 2 * SLOT_LEN).expect("read").chunks(SLOT_LEN)
            {
                assert!(Mailbox::decode(slot).expect("whole").seed.is_some());
            }
        }
        let outcome = o.files.perform(&io);
        o.volume.io_done(NOW, io.tag, outcome);
    }
    assert!(cleared);
}

#[test]
fn a_catch_up_that_begins_anew_remembers_what_was_folded_in() {
    let dir = tempfile::tempdir().expect("temp");
    let folder = dir.path().join("r");
    let mut o = replica(&folder);
    for set in 1..=5 {
        feed(&mut o.volume, set);
        drive(&mut o);
    }
    o.volume.catch_up_begin(SetNumber(20), BlockCount(BLOCKS), 3);
    drive(&mut o);
    // A part of set 21 comes, and goes into the content.
    let _ = begin(&mut o.volume, 21);
    drive(&mut o);
    // Through a relay that lost it.
    o.volume.catch_up_begin(SetNumber(20), BlockCount(BLOCKS), 3);
    drive(&mut o);
    assert_eq!(o.volume.durable().hidden_until, SetNumber(21));
    assert_eq!(o.volume.seed_position(), Some((0, SetNumber(21))));
    o.volume.receive_seed_end(SetNumber(20), true);
    drive(&mut o);
    assert!(o.volume.unwhole().is_some(), "parts of 21 are in it");
    assert_eq!(o.volume.refusal(), None, "what was visible is shown");
    // With damage in the save volume, nobody knows what was folded in.
    feed(&mut o.volume, 21);
    o.volume.catch_up_begin(SetNumber(21), BlockCount(BLOCKS), 3);
    drive(&mut o);
    feed(&mut o.volume, 22);
    drive(&mut o);
    drop(o);
    std::fs::write(folder.join("save"), vec![0; 16 << 20]).expect("spoiled");
    let o = open_at(&folder);
    assert_eq!(o.volume.catch_up_base(), None, "a seed follows");
}

/// A block and its hash that are both of an older state look right where they lie. A round of the
/// search in which nothing is merged adds the hashes up, and finds that they are not those which
/// made the digest.
#[test]
fn a_block_and_its_hash_that_are_stale_together_are_found() {
    let dir = tempfile::tempdir().expect("temp");
    let mut o = replica(&dir.path().join("v"));
    for set in 1..=5 {
        feed(&mut o.volume, set);
        drive(&mut o);
    }
    let v = &o.volume;
    assert_eq!((v.durable().visible, v.durable().merged), (SetNumber(5), SetNumber(5)));
    let (_, was) = v.digest().expect("known");
    // A day later, in the time that rounds take.
    let look = |o: &mut Opened, from: u64| {
        let mut events = Vec::new();
        for second in from..from + 60 {
            let now = Mono(NOW.0 + second * 1_000_000);
            events.extend(drive_in(o, now, Wall((1 + from) * 86_400_000_000), &|_| None));
        }
        events
    };
    let differs = |e: &Event| matches!(e, Event::Differs { .. });
    assert!(!look(&mut o, 10).iter().any(differs), "nothing is wrong yet");
    assert!(o.volume.scrub_progress().is_some_and(|(_, at)| at > Wall(1)), "a round was made");

    // The writes of set 3 are lost, in both files.
    o.files.file(FileId::Base).write_all_at(&[0; 4096], 3 * 4096).expect("written");
    let at = volmcast::digest::table_range(3, 1).0;
    o.files.file(FileId::Hashes).write_all_at(&[0; 20], at).expect("written");
    let events = look(&mut o, 100);
    assert!(events.iter().any(differs), "{events:?}");
    let v = &o.volume;
    assert_eq!(v.damaged_blocks(), 0, "each block is what its hash says");
    assert_eq!(v.differs(), Some(SetNumber(5)));
    assert!(v.refusal().is_some_and(|r| r.contains("not the primary's")), "{:?}", v.refusal());
    assert_ne!(v.digest().map(|d| d.1), Some(was), "the content was read in full");
}
