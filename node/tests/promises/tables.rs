//! A table of hashes is made anew where it stands. Whatever ends the node meanwhile, no slot names a
//! table of which only a part was made: sets would be folded into it, and their digests be wrong.

use volmcast::digest::{Sum, hash_blocks};
use volmcast::mailbox::TableMark;

use super::staged::extent;
use super::*;

/// Carries out so many requests of what the volume wants; true if there are no more.
pub(super) fn drive_for(o: &mut Opened, mut requests: usize) -> bool {
    let v = &mut o.volume;
    loop {
        let mut more = false;
        while let Some(io) = v.poll_io() {
            if requests == 0 {
                return false;
            }
            requests -= 1;
            v.io_done(NOW, io.tag, o.files.perform(&io));
            more = true;
        }
        while let Some((tag, work)) = v.poll_work() {
            v.work_done(NOW, tag, work.run());
            more = true;
        }
        while let Some(e) = v.poll_event() {
            if matches!(e, Event::SetReady { .. }) {
                v.extents_forgotten();
            }
            more = true;
        }
        if !more {
            return true;
        }
    }
}

/// A set that writes these blocks.
fn set(o: &mut Opened, blocks: std::ops::Range<u64>, byte: u8) {
    for b in blocks {
        writable(o).write(b * 4096, &[byte; 4096]).expect("written");
    }
    o.volume.demand_cut(false);
    drive_but(o, &|_| false);
}

/// The digest of what the file of the content holds.
fn summed(folder: &Path) -> Sum {
    Sum::of(&hash_blocks(0, &std::fs::read(folder.join("base")).expect("read"), 12))
}

pub(super) fn slots(folder: &Path) -> Vec<Mailbox> {
    let slots = std::fs::read(folder.join("mailbox")).expect("read");
    slots.chunks(SLOT_LEN).filter_map(|s| Mailbox::decode(s).ok()).collect()
}

pub(super) fn lose_newest_slot(folder: &Path) {
    let newest = slots(folder).iter().map(|m| m.sequence).max().expect("a slot");
    let file = std::fs::File::options().write(true).open(folder.join("mailbox")).expect("there");
    file.write_all_at(&[0xee; 64], Mailbox::slot_offset(newest)).expect("spoiled");
}

/// The writer's table is given up, so many requests later the node is killed, and the next set is
/// made; false if that was after all was done.
fn a_writer_tells_no_wrong_digest(requests: usize, slot_is_lost: bool) -> bool {
    let dir = tempfile::tempdir().expect("temp");
    let folder = dir.path().join("v");
    let mut o = primary(&folder);
    set(&mut o, 0..9, 1);
    set(&mut o, 4..12, 2);
    assert_eq!(o.volume.digest(), Some((SetNumber(2), summed(&folder))));
    o.volume.accept_content();
    let done = drive_for(&mut o, requests);
    drop(o);
    if slot_is_lost {
        lose_newest_slot(&folder);
    }
    let mut o = open_at(&folder);
    writable(&o).gate().set(&Gate::Open);
    set(&mut o, 3..6, 3);
    let now = Some((SetNumber(3), summed(&folder)));
    assert_eq!(o.volume.digest(), now, "killed after {requests} requests, lost: {slot_is_lost}");
    !done
}

#[test]
fn a_crash_while_a_writers_table_is_made_anew_makes_no_digest_wrong() {
    for slot_is_lost in [false, true] {
        let all = (0..).take_while(|n| a_writer_tells_no_wrong_digest(*n, slot_is_lost)).count();
        assert!((8..80).contains(&all), "{all} requests to make a table");
    }
}

#[test]
fn no_slot_names_a_table_that_is_made_anew() {
    let dir = tempfile::tempdir().expect("temp");
    let folder = dir.path().join("r");
    let mut o = replica(&folder);
    feed(&mut o.volume, 1);
    drive(&mut o);
    o.files.file(FileId::Hashes).write_all_at(&[0xee; 28], 0).expect("spoiled");
    drop(o);
    let mut o = open_at(&folder);
    // Also if it ends when only one of the slots says so.
    while slots(&folder).iter().all(|m| m.digest.table != TableMark::Absent) {
        assert!(!drive_for(&mut o, 1), "nothing is written before");
    }
    drop(o);
    let mut o = open_at(&folder);
    let begun = std::cell::Cell::new(false);
    healthy(&drive_but(&mut o, &|io| {
        let writes = io.file == FileId::Hashes && matches!(io.op, Op::Scatter { .. });
        if writes && !begun.replace(true) {
            for m in slots(&folder) {
                assert_eq!(m.digest.table, TableMark::Absent, "slot {}", m.sequence);
            }
        }
        false
    }));
    assert!(begun.get());
    assert_eq!(o.volume.digest(), Some((SetNumber(1), summed(&folder))));
}

/// A replica that is killed so many requests after the first blocks of a catch-up came; false if all
/// were done.
fn a_catch_up_keeps_the_table(requests: usize, slot_is_lost: bool) -> bool {
    let dir = tempfile::tempdir().expect("temp");
    let folder = dir.path().join("r");
    let mut o = replica(&folder);
    for set in 1..=5 {
        feed(&mut o.volume, set);
        drive(&mut o);
    }
    o.volume.catch_up_begin(SetNumber(20), BlockCount(BLOCKS), 33);
    drive(&mut o);
    o.volume.receive_seed(16, SetNumber(20), &extent(0..16, 20));
    let done = drive_for(&mut o, requests);
    drop(o);
    if slot_is_lost {
        lose_newest_slot(&folder);
    }
    let mut o = open_at(&folder);
    let words = o.volume.digest_words().expect("its sum is to be found");
    assert!(words.starts_with("hashes are being added up"), "{words}, after {requests} requests");
    o.volume.seed_resume();
    drive_but(&mut o, &|_| false);
    let (next, _) = o.volume.seed_position().expect("it goes on");
    for (first, end) in [(0, 16), (16, 33)] {
        if next <= first {
            o.volume.receive_seed(end, SetNumber(20), &extent(first..end, 20));
        }
    }
    o.volume.receive_seed_end(SetNumber(20), true);
    drive_but(&mut o, &|_| false);
    assert_eq!(o.volume.digest(), Some((SetNumber(20), summed(&folder))), "{requests} requests");
    !done
}

/// Else every restart would read all of the content again.
#[test]
fn a_catch_up_that_was_cut_short_goes_on_with_the_table_that_is_there() {
    for slot_is_lost in [false, true] {
        let all = (0..).take_while(|n| a_catch_up_keeps_the_table(*n, slot_is_lost)).count();
        assert!((3..40).contains(&all), "{all} requests for some blocks");
    }
}
