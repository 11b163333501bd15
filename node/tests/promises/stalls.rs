//! A volume that cannot go on says why, part by part, and stops saying so when it goes on.

use std::cell::Cell;

use rcp::proto::delta::Chunk;

use super::*;

fn later(seconds: u64) -> Mono {
    Mono(NOW.0 + seconds * 1_000_000)
}

/// The parts that say why they cannot go on.
fn says(o: &Opened) -> Vec<&'static str> {
    o.volume.stalls().map(|(part, _)| part).collect()
}

fn at_state(o: &Opened) -> (SetNumber, SetNumber) {
    let m = o.volume.durable();
    (m.visible, m.merged)
}

/// An extent of a seed: blocks 0 to 63.
fn extent(view: u64) -> Chunk {
    let step = StepId {
        volume: VolumeId([7; 16]),
        generation: LINE,
        base: SetNumber::ZERO,
        to: SetNumber(view),
        attempt: Attempt(1),
    };
    let draft = ChunkDraft {
        step,
        number: ChunkNumber(0),
        block_size_shift: 12,
        flags: ChunkFlags::SEED,
        extents: vec![Extent::data(0, 64)],
        payload: Bytes::from(vec![5; 64 * 4096]),
    };
    draft.encode(Compression::Never).expect("a chunk")
}

/// The volume is opened and its table of hashes is worth nothing.
fn without_table(o: Opened, folder: &Path) -> Opened {
    o.files.file(FileId::Hashes).write_all_at(&[0xee; 28], 0).expect("spoiled");
    drop(o);
    open_at(folder)
}

#[test]
fn playback_that_begins_anew_elsewhere_stopped_no_more() {
    let dir = tempfile::tempdir().expect("temp");
    let mut o = replica(&dir.path().join("r"));
    feed(&mut o.volume, 1);
    drive(&mut o);
    feed(&mut o.volume, 2);
    healthy(&drive_at(&mut o, NOW, &no_room(FileId::Base)));
    assert!(o.volume.stalled().is_some_and(|w| w.contains("playback stopped")));
    healthy(&drive_at(&mut o, later(2), &no_room(FileId::Base)));
    assert_eq!(says(&o), ["playback"], "it was tried again, in vain");
    o.volume.catch_up_begin(SetNumber(20), BlockCount(BLOCKS), 3);
    healthy(&drive_at(&mut o, later(5), &|_| None));
    assert_eq!((o.volume.stalled(), says(&o)), (None, vec![]));
}

#[test]
fn playback_says_why_until_what_it_stopped_at_is_done() {
    let dir = tempfile::tempdir().expect("temp");
    let mut o = replica(&dir.path().join("r"));
    for set in 1..=3 {
        feed(&mut o.volume, set);
    }
    healthy(&drive_at(&mut o, NOW, &no_room(FileId::Base)));
    assert_eq!((at_state(&o).1, says(&o)), (SetNumber(0), vec!["playback"]));
    o.volume.timer(later(2), Wall(1));
    assert_eq!(says(&o), ["playback"], "nobody knows yet whether there is room");
    healthy(&drive_at(&mut o, later(2), &|_| None));
    assert_eq!((at_state(&o).1, says(&o)), (SetNumber(3), vec![]));
}

#[test]
fn a_table_that_the_disk_has_no_room_for_is_made_again_after_a_while() {
    let dir = tempfile::tempdir().expect("temp");
    let folder = dir.path().join("r");
    let mut o = replica(&folder);
    feed(&mut o.volume, 1);
    drive(&mut o);
    let mut o = without_table(o, &folder);
    let tries = Cell::new(0);
    let full = |io: &Io| {
        let failed = no_room(FileId::Hashes)(io)?;
        tries.set(tries.get() + 1);
        assert!(tries.get() < 10, "it is tried without a pause");
        Some(failed)
    };
    healthy(&drive_at(&mut o, NOW, &full));
    assert_eq!((tries.get(), says(&o)), (1, vec!["table"]));
    assert_eq!(o.volume.stalled(), None, "nothing waits for it");
    assert!(o.volume.status().reason.is_some_and(|r| r.contains("the table of hashes: free")));
    assert!(o.volume.poll_timeout().is_some_and(|t| t <= later(1)));
    // Everything else goes on.
    feed(&mut o.volume, 2);
    healthy(&drive_at(&mut o, NOW, &full));
    assert_eq!((tries.get(), at_state(&o)), (1, (SetNumber(2), SetNumber(2))));
    // Seldom, at last: all of the content may have to be read each time.
    for (seconds, tried) in [(1, 2), (2, 2), (3, 3), (6, 3), (7, 4)] {
        healthy(&drive_at(&mut o, later(seconds), &full));
        assert_eq!((tries.get(), says(&o)), (tried, vec!["table"]), "after {seconds} s");
    }
    healthy(&drive_at(&mut o, later(20), &|_| None));
    assert_eq!((says(&o), o.volume.digest().map(|d| d.0)), (vec![], Some(SetNumber(2))));
}

#[test]
fn a_writers_table_that_the_disk_has_no_room_for_is_made_again_after_a_while() {
    let dir = tempfile::tempdir().expect("temp");
    let mut o = primary(&dir.path().join("v"));
    assert!(o.volume.digest().is_some());
    let tries = Cell::new(0);
    let full = |io: &Io| {
        let failed = no_room(FileId::Hashes)(io)?;
        tries.set(tries.get() + 1);
        assert!(tries.get() < 10, "it is tried without a pause");
        Some(failed)
    };
    writable(&o).write(0, &[1; 4096]).expect("written");
    o.volume.demand_cut(false);
    healthy(&drive_at(&mut o, NOW, &full));
    assert_eq!((tries.get(), says(&o)), (1, vec!["table"]));
    healthy(&drive_at(&mut o, later(2), &full));
    assert_eq!((tries.get(), says(&o)), (2, vec!["table"]));
    // Sets are made all the same.
    writable(&o).write(4096, &[2; 4096]).expect("written");
    o.volume.demand_cut(false);
    healthy(&drive_at(&mut o, later(2), &full));
    assert_eq!((o.volume.durable().visible, o.volume.digest()), (SetNumber(2), None));
    healthy(&drive_at(&mut o, later(10), &|_| None));
    assert_eq!((says(&o), o.volume.digest().map(|d| d.0)), (vec![], Some(SetNumber(2))));
}

#[test]
fn a_seed_that_goes_on_or_begins_anew_leaves_no_old_words() {
    let dir = tempfile::tempdir().expect("temp");
    let mut o = replica(&dir.path().join("r"));
    o.volume.seed_begin(SetNumber(3), BlockCount(BLOCKS));
    drive(&mut o);
    o.volume.receive_seed(64, SetNumber(3), &extent(3));
    healthy(&drive_at(&mut o, NOW, &no_room(FileId::Base)));
    assert!(o.volume.stalled().is_some_and(|w| w.contains("the seed has stopped")));
    // The connection is a new one.
    o.volume.seed_resume();
    drive(&mut o);
    o.volume.receive_seed(64, SetNumber(3), &extent(3));
    drive(&mut o);
    assert_eq!(says(&o), [""; 0]);
    o.volume.receive_seed_end(SetNumber(3), true);
    drive(&mut o);
    assert_eq!(at_state(&o), (SetNumber(3), SetNumber(3)));

    o.volume.catch_up_begin(SetNumber(20), BlockCount(BLOCKS), 64);
    drive(&mut o);
    o.volume.receive_seed(64, SetNumber(20), &extent(20));
    healthy(&drive_at(&mut o, NOW, &no_room(FileId::Base)));
    assert!(o.volume.stalled().is_some_and(|w| w.contains("the catch-up has stopped")));
    o.volume.catch_up_begin(SetNumber(21), BlockCount(BLOCKS), 64);
    healthy(&drive_at(&mut o, later(5), &no_room(FileId::Base)));
    assert_eq!(says(&o), [""; 0], "of this one nothing was refused yet");
}

#[test]
fn the_room_of_one_part_is_not_that_of_another() {
    let dir = tempfile::tempdir().expect("temp");
    let folder = dir.path().join("r");
    let mut o = replica(&folder);
    feed(&mut o.volume, 1);
    drive(&mut o);
    let mut o = without_table(o, &folder);
    feed(&mut o.volume, 2);
    let full = |io: &Io| no_room(FileId::Base)(io).or_else(|| no_room(FileId::Hashes)(io));
    healthy(&drive_at(&mut o, NOW, &full));
    assert_eq!(says(&o), ["playback", "table"]);
    let words = o.volume.status().reason.unwrap_or_default();
    assert!(words.starts_with("playback stopped: "), "{words}");
    assert!(words.contains("; also: no space left for the table of hashes"), "{words}");
    healthy(&drive_at(&mut o, later(2), &no_room(FileId::Hashes)));
    assert_eq!((at_state(&o).1, says(&o)), (SetNumber(2), vec!["table"]));
    healthy(&drive_at(&mut o, later(9), &|_| None));
    assert_eq!(says(&o), [""; 0]);
}

#[test]
fn a_size_that_nobody_wants_any_more_is_not_waited_for() {
    let dir = tempfile::tempdir().expect("temp");
    let mut o = replica(&dir.path().join("r"));
    feed(&mut o.volume, 1);
    drive(&mut o);
    let grown = SetHeader { volume_blocks: 2 * BLOCKS, ..begin(&mut o.volume, 2) };
    o.volume.receive_set_end(&grown).expect("taken");
    let full = |io: &Io| matches!(io.op, Op::Extend { .. }).then_some(IoError::NoSpace);
    for seconds in [0, 2, 4] {
        healthy(&drive_at(&mut o, later(seconds), &full));
        assert_eq!((at_state(&o).0, says(&o)), (SetNumber(1), vec!["size"]));
    }
    o.volume.catch_up_begin(SetNumber(20), BlockCount(BLOCKS), 3);
    healthy(&drive_at(&mut o, later(6), &full));
    assert_eq!(says(&o), [""; 0]);
}

#[test]
fn what_a_writer_says_of_a_set_ends_with_the_next() {
    let dir = tempfile::tempdir().expect("temp");
    let mut o = primary(&dir.path().join("v"));
    writable(&o).write(0, &[1; 4096]).expect("written");
    o.volume.demand_cut(false);
    // A writer cannot read what it overwrites.
    let capture = o.volume.capture().expect("a primary").clone();
    let ticket = capture.enter();
    let unreadable = &mut |_, _: &mut [u8]| Err(IoError::Os(5));
    let e = capture.before_write(&ticket, BlockIndex(0), BlockCount(1), unreadable);
    assert!(matches!(e, Err(CaptureError::Read { .. })));
    drop(ticket);
    healthy(&drive_at(&mut o, NOW, &no_room(FileId::Hashes)));
    assert_eq!(says(&o), ["sets"]);
    // What the table has no room for is another matter.
    writable(&o).write(0, &[2; 4096]).expect("written");
    healthy(&drive_at(&mut o, later(5), &no_room(FileId::Hashes)));
    assert_eq!((o.volume.durable().visible, says(&o)), (SetNumber(1), vec!["table"]));
    healthy(&drive_at(&mut o, later(15), &|_| None));
    assert_eq!(says(&o), [""; 0]);
}
