//! A primary whose newest mailbox slot is damaged goes on from the sets that its save volume holds
//! beyond the older one: a set that may have been sent never gets its number twice, and no line but
//! its own gets another set.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use node::volumes::open::{self, Machine, OpenPlan, Tuning};
use rcp::proto::clock::{Mono, Wall};
use rcp::proto::delta::Compression;
use rcp::proto::ids::{Generation, GroupName, Label, NodeName, SetNumber, VolumeId};
use tests::sim::disk::{Disk, SharedDisk};
use volmcast::activity::ExtentSize;
use volmcast::digest::{BlockHash, Sum};
use volmcast::io::{FileId, Io, Op, Tag};
use volmcast::mailbox::{Mailbox, SLOT_LEN};
use volmcast::save::record::{HEADER_LEN, RecordHeader};
use volmcast::save::ring::Ring;
use volmcast::storage::{Identity, Storage};
use volmcast::units::{BlockCount, BlockIndex, BlockSize, LogPos};
use volmcast::volume::{CutPolicy, PlaybackPolicy, ScrubPolicy};

const BLOCK: usize = 512;
const BLOCKS: u64 = 64;

fn identity() -> Identity {
    Identity {
        volume: VolumeId([7; 16]),
        label: Label::new("vol").unwrap(),
        source: None,
        group: GroupName::new("g").unwrap(),
        node: NodeName::new("n").unwrap(),
        role: "primary".to_owned(),
        block_size: BlockSize::from_bytes(BLOCK as u64).unwrap(),
        blocks: BlockCount(BLOCKS),
        save: 8 << 20,
        snapshots: 64 * 544,
        base: None,
        standing: volmcast::storage::Standing::default(),
    }
}

fn plan() -> OpenPlan {
    let never = Duration::from_secs(1 << 30);
    OpenPlan {
        node: NodeName::new("n").unwrap(),
        persistent: true,
        cut: CutPolicy { hwm: u64::MAX, timeout: never },
        playback: PlaybackPolicy { hwm: 0, timeout: Duration::ZERO, on_demand: false },
        compression: Compression::WherePays,
        import: false,
        budget: volmcast::save::Budget::new(1 << 20),
        scrub: ScrubPolicy { rate: 0, every: Duration::ZERO },
        full: volmcast::volume::FullPolicy::default(),
    }
}

fn tuning() -> Tuning {
    let extent = ExtentSize::from_shift(20).unwrap();
    Tuning {
        chunk_bytes: 2048,
        window: 1 << 20,
        cache: 1 << 20,
        readback: 1 << 20,
        held: 1 << 16,
        changes: 1 << 20,
        extent,
    }
}

fn start(disk: &SharedDisk) -> Machine {
    let (now, wall) = (Mono(1), Wall(1_700_000_000_000_000));
    open::assemble(&identity(), &plan(), &tuning(), disk, now, wall).expect("it opens")
}

/// The disk after a step of a commit, and what was durable then.
struct Image {
    disk: Disk,
    visible: SetNumber,
    lines: usize,
}

/// Carries everything out; an image after each step of a commit. The first set that was made
/// meanwhile.
fn settle(m: &mut Machine, disk: &SharedDisk, images: &mut Vec<Image>) -> Option<SetNumber> {
    let (mut now, mut made) = (2, None);
    loop {
        now += 1;
        made = made.or(m.volume.draining());
        if let Some(io) = m.volume.poll_io() {
            let outcome = disk.perform(&io);
            m.volume.io_done(Mono(now), io.tag, outcome);
            if io.file == FileId::Mailbox || io.op == Op::Sync {
                let (disk, durable) = (disk.0.borrow().clone(), m.volume.durable());
                images.push(Image { disk, visible: durable.visible, lines: durable.history.len() });
            }
        } else if let Some((tag, work)) = m.volume.poll_work() {
            m.volume.work_done(Mono(now), tag, work.run());
        } else if m.volume.poll_event().is_none() {
            return made;
        } else {
            m.volume.extents_forgotten();
        }
    }
}

fn write(m: &Machine, disk: &SharedDisk, block: u64, with: u8) {
    let capture = m.volume.capture().unwrap();
    let ticket = capture.enter();
    let (first, one) = (BlockIndex(block), BlockCount(1));
    m.activity.as_ref().unwrap().ensure(first, one, &mut |io| disk.perform(io)).unwrap();
    capture.before_write(&ticket, first, one, &mut |_, _| Ok(())).unwrap();
    let data = vec![Bytes::from(vec![with; BLOCK])];
    put(disk, FileId::Base, block * BLOCK as u64, data);
}

fn put(disk: &SharedDisk, file: FileId, offset: u64, data: Vec<Bytes>) {
    disk.perform(&Io { tag: Tag(0), file, op: Op::Write { offset, data } });
}

fn copy(image: &Disk) -> SharedDisk {
    SharedDisk(Rc::new(RefCell::new(image.clone())))
}

/// The disk at each step of the commits of seven sets, one of which makes the volume larger.
fn images() -> Vec<Image> {
    let disk = SharedDisk(Rc::new(RefCell::new(Disk::new(open::sizes(&identity())))));
    open::format(&identity(), &plan(), &tuning(), &disk).expect("formatted");
    let mut m = start(&disk);
    m.volume.open_generation(Generation { counter: 1, id: [1; 16] }, Wall(1));
    let mut images = Vec::new();
    settle(&mut m, &disk, &mut images);
    for set in 1..=7u8 {
        if set == 6 {
            // It is the writer anew.
            m.volume.open_generation(Generation { counter: 2, id: [2; 16] }, Wall(2));
            settle(&mut m, &disk, &mut images);
        }
        for b in 0..12 {
            write(&m, &disk, (u64::from(set) * 7 + b) % BLOCKS, set);
        }
        if set == 4 {
            // A set that makes the volume larger.
            put(
                &disk,
                FileId::Base,
                (BLOCKS + 32) * BLOCK as u64 - 1,
                vec![Bytes::from_static(&[0])],
            );
            m.activity
                .as_ref()
                .unwrap()
                .grow(BlockCount(BLOCKS + 32), &mut |io| disk.perform(io))
                .unwrap();
            m.volume.grow(BlockCount(BLOCKS + 32));
        }
        m.volume.demand_cut(false);
        settle(&mut m, &disk, &mut images);
        assert_eq!(m.volume.durable().visible, SetNumber(u64::from(set)));
    }
    images
}

/// The next set has the next number, and the digest is that of the content then.
fn goes_on(m: &mut Machine, disk: &SharedDisk, of: &str) {
    let before = m.volume.durable().visible;
    write(m, disk, 3, 0x77);
    m.volume.demand_cut(false);
    settle(m, disk, &mut Vec::new());
    assert_eq!(m.volume.durable().visible, before.next(), "{of}");
    assert_eq!(m.volume.audit(), Ok(()), "{of}");
    let d = disk.0.borrow();
    let blocks = (0..).zip(d.bytes(FileId::Base).chunks(BLOCK));
    let hashes: Vec<_> = blocks.map(|(block, content)| BlockHash::of(block, content)).collect();
    if let Some((_, digest)) = m.volume.digest() {
        assert_eq!(digest, Sum::of(&hashes), "{of}: the digest");
    }
}

#[test]
fn a_damaged_newest_slot_costs_no_set() {
    let images = images();
    let (mut damaged, mut adopted) = (0, 0);
    for (i, Image { disk, visible: durable, lines }) in images.iter().enumerate() {
        let slots = copy(disk).read(FileId::Mailbox, 0, 2 * SLOT_LEN).unwrap();
        let used = |slot: usize| Mailbox::decode(&slots[slot * SLOT_LEN..]).is_ok();
        if !used(0) || !used(1) {
            continue;
        }
        for slot in [0, 1] {
            // A bit of the head, a bit of the body, the first sector, all of it.
            let at = (slot * SLOT_LEN) as u64;
            let bit = |o: usize| vec![Bytes::from(vec![slots[slot * SLOT_LEN + o] ^ 0x10])];
            let harms = [
                (at + 9, bit(9)),
                (at + 57, bit(57)),
                (at, vec![Bytes::from(vec![0; 512])]),
                (at, vec![Bytes::from(vec![0; SLOT_LEN])]),
            ];
            for (offset, data) in harms {
                let harmed = copy(disk);
                put(&harmed, FileId::Mailbox, offset, data);
                let old = Mailbox::choose(
                    &harmed.read(FileId::Mailbox, 0, 2 * SLOT_LEN).unwrap(),
                    identity().volume,
                );
                let old = old.expect("the other slot is whole").visible;
                let mut m = start(&harmed);
                // What was durable once is not smaller for a moment.
                let held = if *durable >= SetNumber(4) { 32 } else { 0 };
                assert!(m.volume.blocks() >= BlockCount(BLOCKS + held), "image {i}, slot {slot}");
                settle(&mut m, &harmed, &mut Vec::new());
                let now = m.volume.durable();
                assert!(
                    now.visible >= *durable,
                    "image {i}, slot {slot}: {} of {durable}",
                    now.visible
                );
                let grown = if now.visible >= SetNumber(4) { 32 } else { 0 };
                assert_eq!(now.blocks, BlockCount(BLOCKS + grown), "image {i}, slot {slot}");
                assert!(now.history.len() >= *lines, "image {i}, slot {slot}: a line is unknown");
                damaged += 1;
                adopted += u64::from(now.visible > old);
                if now.history.is_empty() {
                    continue;
                }
                goes_on(&mut m, &harmed, &format!("image {i}, slot {slot}"));
            }
        }
    }
    assert!(damaged > 60 && adopted > 10, "{damaged} damaged, {adopted} adopted sets");
}

/// Records that follow `from` in the save volume: where the body of each begins, its length, and the
/// set that it is of.
fn records(disk: &SharedDisk, from: LogPos) -> Vec<(u64, u64, SetNumber)> {
    let ring = Ring::new(identity().save).unwrap();
    let (mut pos, mut all) = (from, Vec::new());
    loop {
        let at = ring.offset(pos);
        let header = disk.read(FileId::Save, at, HEADER_LEN).unwrap();
        let Ok(h) = RecordHeader::decode(&header, identity().volume, pos) else { return all };
        let len = u64::from(h.body_len);
        all.push((at + HEADER_LEN as u64, len, h.to));
        pos = pos.plus(Ring::record_len(len));
    }
}

#[test]
fn a_set_that_cannot_be_read_behind_an_old_slot_keeps_its_number() {
    let (mut unreadable, mut sets) = (0, BTreeSet::new());
    for (i, Image { disk, visible: durable, .. }) in images().iter().enumerate() {
        let slots = copy(disk).read(FileId::Mailbox, 0, 2 * SLOT_LEN).unwrap();
        let (Ok(a), Ok(b)) = (Mailbox::decode(&slots), Mailbox::decode(&slots[SLOT_LEN..])) else {
            continue;
        };
        let (old, newest) = if a.sequence < b.sequence { (a, SLOT_LEN) } else { (b, 0) };
        let records = records(&copy(disk), old.log_head);
        for (n, (at, len, set)) in records.iter().enumerate() {
            let of = format!("image {i}, record {n} behind the old slot, of set {set}");
            let harmed = copy(disk);
            put(&harmed, FileId::Mailbox, newest as u64, vec![Bytes::from(vec![0; SLOT_LEN])]);
            let bit = harmed.read(FileId::Save, at + len / 2, 1).unwrap()[0] ^ 0x10;
            put(&harmed, FileId::Save, at + len / 2, vec![Bytes::from(vec![bit])]);
            let mut m = start(&harmed);
            let made = settle(&mut m, &harmed, &mut Vec::new());
            let now = m.volume.durable().visible;
            // It may have been sent: whoever has it takes nothing else for it.
            assert!(now >= *durable, "{of}: {now} of {durable}");
            assert!(made.is_none_or(|made| made > *durable), "{of}: {made:?} is made anew");
            assert_eq!(m.volume.audit(), Ok(()), "{of}");
            if !m.volume.durable().history.is_empty() {
                goes_on(&mut m, &harmed, &of);
            }
            unreadable += 1;
            sets.insert(*set);
        }
    }
    assert!(unreadable > 60 && sets.len() == 7, "{unreadable} records of {sets:?}");
}
