//! `rcpctl fsck` over small volumes in memory, whose files are damaged in every way that fits: it
//! ends, and never says that all is well where the node would complain.

mod disks;

use node::fsck::{Grade, VolumeFound, examine};
use rcp::proto::clock::Wall;
use rcp::proto::ids::{ChunkNumber, NodeName, SetNumber};
use volmcast::digest::{BlockHash, ENTRY_LEN, Sum, table_range};
use volmcast::io::FileId;
use volmcast::mailbox::SLOT_LEN;
use volmcast::storage::{Identity, Nothing, Overlay, Storage};
use volmcast::units::{BlockCount, BlockIndex};
use volmcast::volume::Event;

use disks::{BLOCKS, drive, feed, follow, format, identity, line, opened};

/// A replica with three sets, the second of which is kept.
fn replica() -> (Identity, Overlay<'static>) {
    let id = identity("replica");
    let disk = Overlay::new(&Nothing);
    format(&id, &disk);
    let mut m = opened(&id, &disk).expect("opened");
    follow(&mut m);
    // So that the save volume keeps what came.
    let below = NodeName::new("below").expect("valid");
    m.volume.consumer_attach(&below, SetNumber(0), ChunkNumber(0), None, None);
    let mut sum = Sum::default();
    for to in 1..=3 {
        let content = vec![u8::try_from(to).expect("small"); 4096];
        sum = sum.plus(BlockHash::of(to, &content));
        feed(&mut m, to, &[(to, content)], sum);
        drive(&mut m, &disk);
        if to == 2 {
            m.volume.keep_state(SetNumber(2)).expect("kept");
            drive(&mut m, &disk);
        }
    }
    assert_eq!(m.volume.digest(), Some((SetNumber(3), sum)));
    (id, disk)
}

/// A primary with two sets, and writes after them.
fn primary() -> (Identity, Overlay<'static>) {
    let id = identity("primary");
    let disk = Overlay::new(&Nothing);
    format(&id, &disk);
    let mut m = opened(&id, &disk).expect("opened");
    m.volume.open_generation(line(), Wall(1));
    drive(&mut m, &disk);
    for set in 1..=2u8 {
        let capture = m.volume.capture().expect("a primary").clone();
        capture.mark_range(BlockIndex(u64::from(set)), BlockCount(1));
        disk.write(FileId::Base, u64::from(set) * 4096, &[set; 4096]).expect("written");
        m.volume.demand_cut(false);
        drive(&mut m, &disk);
    }
    assert_eq!(m.volume.durable().visible, SetNumber(2));
    (id, disk)
}

/// What the node itself says of the files, up to a while after its start.
fn complaint(id: &Identity, files: &dyn Storage) -> Option<String> {
    let disk = Overlay::new(files);
    let mut m = match opened(id, &disk) {
        Ok(m) => m,
        Err(e) => return Some(e.to_string()),
    };
    if let Some(n) = m.notes.first() {
        return Some(n.text.clone());
    }
    m.volume.resume();
    let bad = drive(&mut m, &disk).into_iter().find_map(|e| match e {
        Event::Damage { text } | Event::Failed { text } | Event::Doubts { text } => Some(text),
        Event::Differs { text } => Some(text),
        Event::NeedsSeed { reason } => Some(reason),
        _ => None,
    });
    bad.or_else(|| m.volume.failure().map(str::to_owned))
}

fn look(id: &Identity, files: &dyn Storage) -> VolumeFound {
    examine(id, files, true, Wall(1))
}

/// Damages a copy of the files, and has it looked at; true if something was found.
fn with(
    (id, disk): &(Identity, Overlay<'static>),
    what: &str,
    file: FileId,
    at: u64,
    bytes: &[u8],
) -> bool {
    let damaged = Overlay::new(disk);
    damaged.write(file, at, bytes).expect("written");
    let found = look(id, &damaged);
    if let Some(why) = complaint(id, &damaged) {
        assert_ne!(found.grade, Grade::Well, "{what}: the node says: {why}; {found:#?}");
    }
    if found.grade == Grade::Well {
        assert!(found.findings.is_empty(), "{what}: {found:#?}");
    }
    found.grade != Grade::Well
}

fn bytes(disk: &Overlay<'static>, file: FileId, at: u64, len: usize) -> Vec<u8> {
    disk.read(file, at, len).expect("read").to_vec()
}

/// Flips every bit of a range, one after the other; how many of them were found.
fn flips(v: &(Identity, Overlay<'static>), file: FileId, at: u64, len: usize) -> usize {
    let was = bytes(&v.1, file, at, len);
    let mut found = 0;
    for (at, was) in (at..).zip(was) {
        for bit in 0..8 {
            let what = format!("bit {bit} of byte {at} of {file:?}");
            found += usize::from(with(v, &what, file, at, &[was ^ (1 << bit)]));
        }
    }
    found
}

fn slot_len(disk: &Overlay<'static>, slot: usize) -> usize {
    let head = bytes(disk, FileId::Mailbox, (slot * SLOT_LEN) as u64, 32);
    32 + u32::from_le_bytes(head[16..20].try_into().expect("four")) as usize
}

#[test]
fn what_is_whole_is_well() {
    for v in [replica(), primary()] {
        let found = look(&v.0, &v.1);
        assert_eq!(found.grade, Grade::Well, "{found:#?}");
        assert_eq!(complaint(&v.0, &v.1), None);
        let says: Vec<_> = found.mailbox.iter().map(|s| s.says).collect();
        assert!(says.contains(&"rules") && says.contains(&"older"), "{says:?}");
        assert!(!found.next_start.is_empty());
        assert_eq!(found.digest.as_ref().map(|d| d.table), Some("known"));
    }
    let v = replica();
    let found = look(&v.0, &v.1);
    assert_eq!((found.visible, found.merged), (3, 3));
    assert_eq!(found.save.as_ref().map(|s| (s.sets, s.newest)), Some((3, 3)), "{found:#?}");
    assert_eq!(found.kept.len(), 1);
    assert_eq!(found.kept[0].name, "2");
    assert_eq!(found.consumers[0].node, "below");
    assert!(found.line.as_ref().is_some_and(|l| l.contains("opened by prim")), "{found:#?}");
    assert!(found.changes.is_some_and(|c| c.entries > 0 && c.blocks == 3), "{found:#?}");
}

#[test]
fn every_bit_of_a_mailbox() {
    for v in [replica(), primary()] {
        for slot in 0..2 {
            let len = slot_len(&v.1, slot);
            let found = flips(&v, FileId::Mailbox, (slot * SLOT_LEN) as u64, len);
            assert_eq!(found, 8 * len, "slot {slot}: each is found");
        }
    }
}

#[test]
fn every_sector_of_a_mailbox() {
    for v in [replica(), primary()] {
        for slot in 0..2 {
            let used = slot_len(&v.1, slot).div_ceil(512);
            for sector in 0..SLOT_LEN / 512 {
                let at = (slot * SLOT_LEN + sector * 512) as u64;
                let found = with(&v, &format!("sector at {at}"), FileId::Mailbox, at, &[0; 512]);
                assert_eq!(found, sector < used, "slot {slot}, sector {sector}");
            }
        }
        // Both.
        let both = [0; 2 * SLOT_LEN];
        let damaged = Overlay::new(&v.1);
        damaged.write(FileId::Mailbox, 0, &both).expect("written");
        let found = look(&v.0, &damaged);
        assert_eq!(found.grade, Grade::Needs);
        assert!(found.findings.iter().any(|f| f.text.contains("the volume stays closed")));
    }
}

#[test]
fn every_bit_of_record_headers_and_set_headers() {
    for v in [replica(), primary()] {
        let found = look(&v.0, &v.1).save.expect("a save volume");
        let used = usize::try_from(found.used).expect("small");
        let all = bytes(&v.1, FileId::Save, found.tail, used);
        let mut at = 0;
        let mut records = 0;
        while at + 64 <= used {
            assert_eq!(all[at..at + 4], *b"RCPR");
            let body = u32::from_le_bytes(all[at + 8..at + 12].try_into().expect("four")) as usize;
            let from = found.tail + at as u64;
            assert_eq!(flips(&v, FileId::Save, from, 64), 512, "record at {from}");
            if all[at + 5] == 2 {
                assert_eq!(flips(&v, FileId::Save, from + 64, body), 8 * body, "set header");
            }
            at += 64 + body.next_multiple_of(64);
            records += 1;
        }
        assert_eq!(records, found.records);
        for sector in 0..used / 512 {
            let at = found.tail + (sector * 512) as u64;
            assert!(with(&v, &format!("sector at {at}"), FileId::Save, at, &[0; 512]));
        }
    }
}

#[test]
fn heads_and_tables() {
    for v in [replica(), primary()] {
        assert_eq!(flips(&v, FileId::Hashes, 0, 28), 8 * 28, "head of the table");
        let c = look(&v.0, &v.1).changes.expect("a list");
        let mark = usize::try_from(c.bytes).expect("small");
        assert!(mark > 0);
        let offset =
            [0, 16 << 20].into_iter().find(|at| bytes(&v.1, FileId::Changes, *at, 4) == *b"VCCH");
        let offset = offset.expect("a region");
        assert_eq!(flips(&v, FileId::Changes, offset, mark), 8 * mark, "list of changes");
    }
    let p = primary();
    assert_eq!(flips(&p, FileId::Activity, 0, 512), 8 * 512, "the first cell");
    let r = replica();
    for half in [0, 4096] {
        assert_eq!(flips(&r, FileId::Snapshots, half, 512), 8 * 512, "superblock at {half}");
    }
}

/// What is in the data folder beside the volumes: each file that a node believes is read.
#[test]
fn every_file_of_the_data_folder() {
    // Not believed: made at each start, or written and never read, or there or not.
    const UNREAD: [&str; 7] =
        ["rcpd.lock", "rcpd.pid", "rcpd.sock", "nbd.sock", "audit.log", "refused.log", "retired"];
    let (_, below) = include_str!("../../volmcast/FORMAT.md")
        .split_once("\n## 1. The data folder\n")
        .expect("the section");
    let rows = below.lines().skip_while(|l| !l.starts_with('|')).skip(2);
    let cells = rows.take_while(|l| l.starts_with('|')).filter_map(|l| l.split('|').nth(1));
    let names: Vec<_> = cells.flat_map(|c| c.split('`').skip(1).step_by(2)).collect();
    let believed: Vec<_> =
        names.iter().filter(|n| !n.starts_with("volumes/") && !UNREAD.contains(n)).collect();
    let plain = ["node", "routes", "groups.yaml", "destinations", "blocks"];
    let ways = ["moved/UUID", "arriving/UUID"];
    assert!(believed.iter().copied().eq(plain.iter().chain(&ways)), "{believed:?}");
    let dir = tempfile::tempdir().expect("a folder");
    let write = |name: &str, text: &[u8]| std::fs::write(dir.path().join(name), text);
    let found = || node::fsck::look(dir.path(), true, Wall(1)).expect("looked at");
    for way in ["moved", "arriving"] {
        std::fs::create_dir(dir.path().join(way)).expect("a folder");
    }
    write("rcpd.lock", b"").expect("written");
    write("node", b"n1\n").expect("written");
    assert_eq!(found().grade, Grade::Well, "{:#?}", found());
    for name in believed {
        let was = std::fs::read(dir.path().join(name)).ok();
        // No text, no table, longer than what a crash may tear.
        write(name, &[0xfe; 4096]).expect("written");
        let report = found();
        assert_eq!(report.grade, Grade::Needs, "{name}: {report:#?}");
        let parts: Vec<_> = report.findings.iter().map(|f| f.part).collect();
        assert_eq!(parts, [*name]);
        let path = dir.path().join(name).display().to_string();
        assert!(report.findings[0].text.contains(&path), "{report:#?}");
        match was {
            Some(was) => write(name, &was).expect("written"),
            None => std::fs::remove_file(path).expect("removed"),
        }
    }
}

#[test]
fn content_and_hashes() {
    let v = replica();
    for block in 0..BLOCKS {
        let what = format!("block {block}");
        assert!(with(&v, &what, FileId::Base, block * 4096 + 77, &[0x55]), "{what}");
        let (at, len) = table_range(block, 1);
        for byte in 0..len as u64 {
            let other = !bytes(&v.1, FileId::Hashes, at + byte, 1)[0];
            assert!(with(&v, &what, FileId::Hashes, at + byte, &[other]), "hash of {what}");
        }
    }
    // Block and hash of an older state, together.
    let damaged = Overlay::new(&v.1);
    damaged.write(FileId::Base, 3 * 4096, &[0; 4096]).expect("written");
    damaged.write(FileId::Hashes, table_range(3, 1).0, &[0; ENTRY_LEN as usize]).expect("written");
    let found = look(&v.0, &damaged);
    assert!(found.findings.iter().any(|f| f.text.contains("lost together")), "{found:#?}");
    // That is what was not asked for.
    assert_eq!(examine(&v.0, &damaged, false, Wall(1)).grade, Grade::Well);
}
