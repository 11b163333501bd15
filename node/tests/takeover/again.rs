//! What was given up stays in the save volume, and what takes its place follows it there: a set of the
//! writer before, a set that comes once more, a set whose data did not fit. After a restart, also with
//! an older mailbox slot, what follows counts, and counts once.

use std::os::unix::fs::FileExt;

use volmcast::io::{Io, Op};
use volmcast::mailbox::{Mailbox, SLOT_LEN};

use super::*;

/// Carries out so many requests; the newest set that was ready, and whether there are no more.
fn drive_for(o: &mut Opened, mut requests: usize) -> (SetNumber, bool) {
    let v = &mut o.volume;
    let mut ready = SetNumber(0);
    loop {
        let mut more = false;
        while let Some(io) = v.poll_io() {
            if requests == 0 {
                return (ready, false);
            }
            requests -= 1;
            v.io_done(NOW, io.tag, o.files.perform(&io));
            while let Some(e) = v.poll_event() {
                if let Event::SetReady { set, .. } = e {
                    ready = ready.max(set);
                    v.extents_forgotten();
                }
            }
            more = true;
        }
        while let Some((tag, work)) = v.poll_work() {
            v.work_done(NOW, tag, work.run());
            more = true;
        }
        v.timer(NOW, Wall(1));
        if !more {
            return (ready, true);
        }
    }
}

fn lose_newest_slot(folder: &Path) {
    let slots = std::fs::read(folder.join("mailbox")).expect("read");
    let slots = slots.chunks(SLOT_LEN).filter_map(|s| Mailbox::decode(s).ok());
    let newest = slots.map(|m| m.sequence).max().expect("a slot");
    let file = std::fs::File::options().write(true).open(folder.join("mailbox")).expect("there");
    file.write_all_at(&[0xee; 64], Mailbox::slot_offset(newest)).expect("spoiled");
}

/// Blocks from `first` on are written, a set is made, and so many requests later the node is killed and
/// loses its newest slot. It still has what was ready to be sent. False if all had been done.
fn holds_what_was_ready(folder: &Path, mut o: Opened, blocks: u64, requests: usize) -> bool {
    let p = o.primary.clone().expect("writable");
    p.gate().set(&Gate::Open);
    for b in 0..blocks {
        p.write(b * 4096, &[9; 4096]).expect("written");
    }
    o.volume.demand_cut(false);
    let (ready, done) = drive_for(&mut o, requests);
    drop((p, o));
    lose_newest_slot(folder);
    let mut o = open::open(folder, &plan(), NOW, Wall(1)).expect("opened");
    o.volume.resume();
    drive_for(&mut o, usize::MAX);
    let visible = o.volume.durable().visible;
    assert!(visible >= ready, "{visible} of {ready}, killed after {requests} requests");
    if ready > SetNumber(0) {
        assert_eq!(o.volume.durable().generation(), line_of(o.volume.history(), ready));
        assert_eq!((block(&o, 0), block(&o, blocks - 1)), (9, 9));
    }
    !done
}

/// Chunks 0 and 1 of set 3, which write blocks 5 and 6, and its header.
fn set_3() -> ([Chunk; 2], SetHeader) {
    let step = StepId {
        volume: VOLUME,
        generation: FIRST,
        base: SetNumber(2),
        to: SetNumber(3),
        attempt: Attempt(3),
    };
    let chunk = |number: u32| {
        let draft = ChunkDraft {
            step,
            number: ChunkNumber(number),
            block_size_shift: 12,
            flags: ChunkFlags::NONE,
            extents: vec![Extent::data(5 + u64::from(number), 1)],
            payload: Bytes::from(vec![3; 4096]),
        };
        draft.encode(Compression::Never).expect("a chunk")
    };
    let chunks = [chunk(0), chunk(1)];
    let mut sum = ChunkListSum::new();
    for c in &chunks {
        sum.add(c.number(), c.body_crc()).expect("in order");
    }
    let header = SetHeader {
        step,
        chunk_count: 2,
        block_count: 2,
        volume_blocks: BLOCKS,
        block_shift: 12,
        cut_time: Wall(3),
        flags: SetFlags::DIGEST_ABSENT,
        digest: [0; 32],
        chunk_list_crc: sum.crc(),
    };
    (chunks, header)
}

/// A replica that shows set 2, and has so many records of set 3.
fn replica_at_2(folder: &Path, records: usize) -> Opened {
    let mut o = super::replica(folder);
    assert!(o.volume.rewind_unshown(SetNumber(2)));
    take(&mut o, records);
    drive(&mut o);
    o
}

fn take(o: &mut Opened, records: usize) {
    let (chunks, header) = set_3();
    for c in chunks.iter().take(records) {
        o.volume.receive_chunk(c).expect("taken");
    }
    if records > chunks.len() {
        o.volume.receive_set_end(&header).expect("taken");
    }
}

#[test]
fn a_writer_that_took_over_holds_its_sets_behind_those_that_it_dropped() {
    for records in 1..=3 {
        let killed_after = |requests: &usize| {
            let dir = tempfile::tempdir().expect("temp");
            let folder = dir.path().join("v");
            let mut o = replica_at_2(&folder, records);
            let at = bring_to_rest(&mut o, Ending::PlayNoMore);
            store_role(&o, &folder, at);
            drop(o);
            holds_what_was_ready(&folder, open_at(&folder), 9, *requests)
        };
        let all = (0..).take_while(killed_after).count();
        assert!((8..60).contains(&all), "{all} requests to make a set");
    }
}

#[test]
fn a_writer_holds_a_set_whose_data_it_gave_up() {
    let killed_after = |requests: &usize| {
        let dir = tempfile::tempdir().expect("temp");
        let folder = dir.path().join("v");
        let mut identity = super::replica(&dir.path().join("other")).identity.clone();
        identity.role = "primary".to_owned();
        (identity.blocks, identity.save) = (BlockCount(2048), 8 << 20);
        let mut o = open::create(&folder, &identity, &plan(), NOW, Wall(1)).expect("created");
        o.volume.open_generation(FIRST, Wall(1));
        drive(&mut o);
        holds_what_was_ready(&folder, o, 2048, *requests)
    };
    let all = (0..).step_by(3).take_while(killed_after).count();
    assert!((3..60).contains(&all), "{all} times three requests to make a set");
}

/// Two requests that are under way at the same time and write one place.
fn crossing(ios: &[Io]) -> bool {
    let places = |io: &Io| -> Vec<(u64, u64)> {
        let Op::Scatter { writes, zeroes } = &io.op else { return Vec::new() };
        let writes = writes.iter().map(|(at, b)| (*at, b.len() as u64));
        writes.chain(zeroes.iter().copied()).collect()
    };
    let meet = |a: &Io, b: &Io| {
        let meets = |(x, n): &(u64, u64), (y, m): &(u64, u64)| *x < y + m && *y < x + n;
        a.file == b.file && places(a).iter().any(|p| places(b).iter().any(|q| meets(p, q)))
    };
    ios.iter().enumerate().any(|(i, a)| ios[i + 1..].iter().any(|b| meet(a, b)))
}

#[test]
fn a_set_that_comes_once_more_counts_once() {
    for (records, older_slot) in [(1, false), (2, false), (3, false), (1, true), (2, true)] {
        let words = format!("{records} records had come, older slot: {older_slot}");
        let dir = tempfile::tempdir().expect("temp");
        let folder = dir.path().join("v");
        let mut o = replica_at_2(&folder, records);
        assert!(o.volume.rewind_unshown(SetNumber(2)));
        drive(&mut o);
        take(&mut o, 3);
        drive(&mut o);
        drop(o);
        if older_slot {
            lose_newest_slot(&folder);
        }
        let mut o = open::open(&folder, &plan(), NOW, Wall(1)).expect("opened");
        let files = o.files.clone();
        let content = o.volume.save_content(&mut |f, at, len| files.read(f, at, len));
        assert_eq!((content.sets, content.newest), (3, SetNumber(3)), "{words}");
        o.volume.set_playback_policy(AT_ONCE);
        o.volume.resume();
        loop {
            let mut ios: Vec<_> = std::iter::from_fn(|| o.volume.poll_io()).collect();
            assert!(!crossing(&ios), "{words}: {ios:?}");
            let works: Vec<_> = std::iter::from_fn(|| o.volume.poll_work()).collect();
            while o.volume.poll_event().is_some() {}
            if ios.is_empty() && works.is_empty() {
                break;
            }
            for (tag, work) in works {
                o.volume.work_done(NOW, tag, work.run());
            }
            for io in ios.drain(..) {
                o.volume.io_done(NOW, io.tag, files.perform(&io));
            }
        }
        assert_eq!(o.volume.durable().merged, SetNumber(3), "{words}");
    }
}
