//! `FORMAT.md` says what the code writes.

use std::collections::BTreeMap;

use rcp::proto::clock::Wall;
use rcp::proto::ids::{
    Attempt, ChunkNumber, Generation, GroupName, Label, NodeName, SetNumber, VolumeId,
};
use volmcast::activity::{ActivityLog, ExtentSize, Geometry};
use volmcast::bitmap::BlockSet;
use volmcast::bitmap::changes::{ENTRY_HEAD, Entry};
use volmcast::digest::{self, ENTRY_LEN, HEAD_LEN, Sum, table_head, table_range};
use volmcast::io::{Op, Outcome};
use volmcast::mailbox::{
    Branch, ChangesMark, ConsumerMark, DigestMark, Held, KeptBranch, KeptState, MAX_ENTRIES,
    Mailbox, SLOT_LEN, SeedMark, Settings, TableMark,
};
use volmcast::save::record::{HEADER_LEN, MAX_BODY};
use volmcast::save::ring::{ALIGN, MIN_CAPACITY};
use volmcast::save::{RecordHeader, RecordKind};
use volmcast::snapshots::PinId;
use volmcast::snapshots::layout::{
    AreaLayout, AreaState, ENTRY, Entry as TableEntry, SUPERBLOCK, Slot, TABLE_AT,
};
use volmcast::storage::Identity;
use volmcast::units::{BlockCount, BlockIndex, BlockSize, LogPos};

const DOC: &str = include_str!("../FORMAT.md");
const VOLUME: VolumeId = VolumeId([0x5a; 16]);

/// The rows of the first table below a heading, without head and rule.
fn rows(heading: &str) -> Vec<Vec<String>> {
    let (_, below) = DOC.split_once(&format!("\n{heading}\n")).expect(heading);
    let rows = below.lines().skip_while(|l| !l.starts_with('|'));
    let cells = |l: &str| l.trim_matches('|').split('|').map(|c| c.trim().to_owned()).collect();
    rows.take_while(|l| l.starts_with('|')).skip(2).map(cells).collect()
}

/// Holds a layout against bytes: every row has its value, there is no gap, and magic, version,
/// reserved bytes and checksums are what the row says. Gives the length of the fixed part.
fn layout(heading: &str, bytes: &[u8], values: &[(&str, &[u8])]) -> usize {
    let mut values: BTreeMap<&str, &[u8]> = values.iter().copied().collect();
    let mut at = 0;
    for row in rows(heading) {
        let [offset, len, field] = &row[..] else { panic!("{heading}: {row:?}") };
        assert_eq!(*offset, at.to_string(), "{heading}: no gap before {field}");
        if len == "…" {
            break;
        }
        let len: usize = len.parse().expect("a length");
        let found = &bytes[at..at + len];
        let start = field.split([':', ',', ';']).next().unwrap_or(field);
        if start == "reserved" {
            assert!(found.iter().all(|b| *b == 0), "{heading}: {field} at {at}");
        } else if start.starts_with("magic ") {
            assert_eq!(field.split('`').nth(1).map(str::as_bytes), Some(found), "{heading}");
        } else if start == "version" {
            let number: u8 = field.split(", ").nth(1).expect("number").parse().expect("number");
            assert_eq!((found[0], found.get(1).unwrap_or(&0)), (number, &0), "{heading}");
        } else {
            // the longest name that fits
            let key = values.keys().filter(|k| field.starts_with(**k)).max_by_key(|k| k.len());
            let key = *key.unwrap_or_else(|| panic!("{heading}: nothing is known of `{field}`"));
            assert_eq!(Some(found), values.remove(key), "{heading}: {field}");
        }
        at += len;
    }
    assert!(values.is_empty(), "{heading}: the page does not list {:?}", values.keys());
    at
}

fn crc(parts: &[&[u8]]) -> [u8; 4] {
    parts.iter().fold(0, |c, p| crc32c::crc32c_append(c, p)).to_le_bytes()
}

fn name(s: &str) -> NodeName {
    NodeName::new(s).expect("valid")
}

#[test]
fn mailbox_slot() {
    let m = Mailbox {
        sequence: 0x11,
        attempt: Attempt(0x12),
        log_tail: LogPos(0x13),
        log_head: LogPos(0x14),
        log_base: SetNumber(0x15),
        visible: SetNumber(0x16),
        merged: SetNumber(0x17),
        hidden_until: SetNumber(0x18),
        seed: Some(SeedMark {
            over: Some(SetNumber(0x1d)),
            from: SetNumber(0x19),
            next_block: 0x1a,
            need: Some(SetNumber(0x1b)),
            view: SetNumber(0x22),
            undo: false,
            held: None,
        }),
        changes: ChangesMark { offset: 0x1e, bytes: 0x1f, epoch: 0x20, base: SetNumber(0x21) },
        digest: DigestMark {
            table: TableMark::Known(Sum(0x27)),
            hashed: SetNumber(0x23),
            differs: SetNumber(0x24),
            scrub_next: 0x25,
            scrubbed: Wall(0x26),
        },
        history: vec![Branch {
            generation: Generation { counter: 2, id: [3; 16] },
            forked_from: SetNumber(4),
            opened_by: name("n"),
            opened_at: Wall(5),
        }],
        consumers: vec![ConsumerMark { name: name("cc"), acked: LogPos(6) }],
        kept: vec![KeptState { pin: 7, set: SetNumber(8) }],
        aside: vec![KeptBranch {
            pin: 9,
            set: SetNumber(0xa),
            line: Generation { counter: 0xb, id: [0xc; 16] },
            fork: SetNumber(0xd),
            blocks: BlockCount(0xe),
            at: Wall(0xf),
        }],
        settings: Settings { stopped: true, transient: true, opened: true },
        had_children: true,
        ..Mailbox::empty(VOLUME, BlockSize::DEFAULT, BlockCount(0x1c))
    };
    let b = m.encode().expect("fits");
    let le = u64::to_le_bytes;
    let body_len = u32::try_from(b.len() - 32).expect("small").to_le_bytes();
    let fixed: [(&str, &[u8]); 31] = [
        ("sequence", &le(0x11)),
        ("bytes of body", &body_len),
        ("checksum of the body", &crc(&[&b[32..]])),
        ("checksum of bytes", &crc(&[&b[..28]])),
        ("volume UUID", &VOLUME.0),
        ("block size", &[12]),
        ("settings", &[15]),
        ("attempt", &0x12u32.to_le_bytes()),
        ("size of the volume", &le(0x1c)),
        ("log tail", &le(0x13)),
        ("log head", &le(0x14)),
        ("log base", &le(0x15)),
        ("visible", &le(0x16)),
        ("merged", &le(0x17)),
        ("hidden until", &le(0x18)),
        ("seed: 0 none", &le(4)),
        ("seed: state", &le(0x19)),
        ("seed: blocks", &le(0x1a)),
        ("seed: readable", &le(0x1b)),
        ("catch-up: state", &le(0x1d)),
        ("seed or catch-up: newest", &le(0x22)),
        ("changes: offset", &le(0x1e)),
        ("changes: bytes", &le(0x1f)),
        ("changes: epoch", &le(0x20)),
        ("changes: base", &le(0x21)),
        ("digest: 0 there", &le(2)),
        ("digest: the sum", &0x27u128.to_le_bytes()),
        ("digest: state", &le(0x23)),
        ("differs", &le(0x24)),
        ("scrub: blocks", &le(0x25)),
        ("scrub: when", &le(0x26)),
    ];
    let end = layout("### Slot", &b, &fixed);
    let one = 1u16.to_le_bytes();
    let branch = [&one[..], &2u32.to_le_bytes(), &[3; 16], &le(4), b"\x01n", &le(5)].concat();
    let consumer = [&one[..], b"\x02cc", &le(6)].concat();
    let kept = [&one[..], &le(7), &le(8)].concat();
    let line = [&0xbu32.to_le_bytes()[..], &[0xc; 16]].concat();
    let aside = [&one[..], &le(9), &le(0xa), &line, &le(0xd), &le(0xe), &le(0xf)].concat();
    assert_eq!(b[end..], [branch, consumer, kept, aside, le(0).to_vec()].concat());
    let undoes = Mailbox { seed: m.seed.map(|s| SeedMark { undo: true, ..s }), ..m.clone() };
    assert_eq!(undoes.encode().expect("fits")[112..120], le(8));
    for (lent, kind) in [(false, 4 + 16), (true, 4 + 48)] {
        let held = Some(Held { blocks: BlockCount(0x28), lent });
        let shows = Mailbox { seed: m.seed.map(|s| SeedMark { held, ..s }), ..m.clone() };
        let b = shows.encode().expect("fits");
        assert_eq!((&b[112..120], &b[b.len() - 8..]), (&le(kind)[..], &le(0x28)[..]));
    }
    assert!(DOC.contains(&format!("Two slots of {} bytes", thousands(SLOT_LEN))));
    assert!(DOC.contains(&format!("at most {MAX_ENTRIES} entries")));
    assert_eq!(Mailbox::slot_offset(6), 0);
    assert_eq!(Mailbox::slot_offset(7), SLOT_LEN as u64);
}

#[test]
fn table_of_hashes() {
    let b = table_head(VOLUME, 12);
    let fields: [(&str, &[u8]); 3] =
        [("block size", &[12]), ("volume UUID", &VOLUME.0), ("checksum", &crc(&[&b[..24]]))];
    assert_eq!(layout("### Head", &b, &fields), HEAD_LEN);
    let at = digest::TABLE_AT;
    assert!(DOC.contains(&format!("{at} + {ENTRY_LEN} × *b*")));
    assert_eq!(table_range(3, 2), (at + 3 * ENTRY_LEN, 40));
}

#[test]
fn save_record() {
    let h = RecordHeader {
        kind: RecordKind::SetEnd,
        body_len: 0x21,
        pos: LogPos(0x40),
        volume: VOLUME,
        to: SetNumber(0x22),
        chunk: ChunkNumber(0x23),
    };
    let b = h.encode();
    let fields: [(&str, &[u8]); 7] = [
        ("kind", &[2]),
        ("bytes of body", &0x21u32.to_le_bytes()),
        ("position", &0x40u64.to_le_bytes()),
        ("volume UUID", &VOLUME.0),
        ("state", &0x22u64.to_le_bytes()),
        ("number of the chunk", &0x23u32.to_le_bytes()),
        ("checksum", &crc(&[&b[..60]])),
    ];
    assert_eq!(layout("### Record", &b, &fields), HEADER_LEN);
    assert_eq!(HEADER_LEN as u64, ALIGN);
    for (kind, n) in [(RecordKind::Chunk, 1), (RecordKind::SetEnd, 2), (RecordKind::Pad, 3)] {
        assert_eq!(RecordHeader { kind, ..h }.encode()[5], n);
    }
    assert!(DOC.contains(&format!("at most {} MiB (except a pad)", MAX_BODY >> 20)));
    assert!(DOC.contains(&format!("rounded down to {ALIGN}, at least {} MiB", MIN_CAPACITY >> 20)));
}

#[test]
fn activity_cell() {
    let geometry = Geometry {
        volume: VOLUME,
        extent: ExtentSize::DEFAULT,
        block: BlockSize::DEFAULT,
        // one extent more than a page has
        blocks: BlockCount(30_209 << 10),
    };
    let (mut log, _) = ActivityLog::create(geometry);
    log.activate(BlockIndex(3777 << 10), BlockCount(1)).expect("a log that works");
    let mut file = vec![0u8; usize::try_from(geometry.file_len()).expect("small")];
    while let Some(io) = log.poll_io() {
        if let Op::Write { offset, data } = &io.op {
            let at = usize::try_from(*offset).expect("small");
            let bytes: Vec<u8> = data.iter().flat_map(|d| d.to_vec()).collect();
            file[at..at + bytes.len()].copy_from_slice(&bytes);
        }
        log.complete(io.tag, &Outcome::Done);
    }
    assert_eq!(file.len(), 2 * 4096, "30,208 extents to a page");
    let cell = &file[512..1024];
    let mut bits = [0; 472];
    bits[0] = 0b10;
    let fields: [(&str, &[u8]); 6] = [
        ("extent size", &[22]),
        ("number of the cell", &1u32.to_le_bytes()),
        ("checksum", &crc(&[&cell[..12], &cell[16..]])),
        ("sequence", &cell[16..24]),
        ("volume UUID", &VOLUME.0),
        ("extent e", &bits),
    ];
    assert_eq!(layout("### Cell", cell, &fields), 512);
}

#[test]
fn snapshot_area() {
    let l = AreaLayout { volume: VOLUME, block: BlockSize::DEFAULT, slots: 0x31 };
    let b = l.superblocks(AreaState { broken_through: PinId(0x32), sequence: 0x33 });
    let fields: [(&str, &[u8]); 6] = [
        ("block size", &[12]),
        ("number of slots", &0x31u32.to_le_bytes()),
        ("volume UUID", &VOLUME.0),
        ("durable pins", &0x32u64.to_le_bytes()),
        ("sequence", &0x33u64.to_le_bytes()),
        ("checksum", &crc(&[&b[..508]])),
    ];
    assert_eq!(layout("### Superblock", &b[..SUPERBLOCK], &fields), SUPERBLOCK);
    let entry =
        TableEntry::Used { pin: PinId(0x34), block: BlockIndex(0x35), crc: 0x36, order: 0x37 };
    let e = l.entry(Slot(2), entry);
    let fields: [(&str, &[u8]); 6] = [
        ("pin", &0x34u64.to_le_bytes()),
        ("block", &0x35u64.to_le_bytes()),
        ("checksum of the slot", &0x36u32.to_le_bytes()),
        ("order", &0x37u64.to_le_bytes()[..6]),
        ("kind", &[2]),
        ("checksum of slot number", &crc(&[&2u32.to_le_bytes(), &VOLUME.0, &e[..28]])),
    ];
    assert_eq!(layout("### Slot table entry", &e, &fields), ENTRY);
    let parts = rows("## 7. `snapshots`");
    assert_eq!(parts[2][..2], [TABLE_AT.to_string(), format!("{ENTRY} × slots")]);
    assert_eq!(l.slot_offset(Slot(1)), (TABLE_AT + 32 * 0x31).next_multiple_of(4096) + 4096);
}

#[test]
fn block_set() {
    let set: BlockSet =
        [(3u64, 2u64), (9, 1)].map(|(f, n)| (BlockIndex(f), BlockCount(n))).into_iter().collect();
    let b = set.encode();
    let fields: [(&str, &[u8]); 3] = [
        ("number of runs", &2u64.to_le_bytes()),
        ("number of blocks", &3u64.to_le_bytes()),
        ("bytes of the body", &4u64.to_le_bytes()),
    ];
    let end = layout("### Block set", &b, &fields);
    assert_eq!(b[end..end + 4], [3, 1, 3, 0]);
    assert_eq!(b[end + 4..], crc(&[&b[..end + 4]]));
}

#[test]
fn changes_entry() {
    let set: BlockSet = [(BlockIndex(3), BlockCount(2))].into_iter().collect();
    let e = Entry::new(SetNumber(0x22), &set, 1000);
    let b = e.head(VOLUME, 0x23);
    let fields: [(&str, &[u8]); 5] = [
        ("bytes of the block set", &u32::try_from(e.set.len()).expect("small").to_le_bytes()),
        ("checksum", &crc(&[&b[..12], &b[16..]])),
        ("volume UUID", &VOLUME.0),
        ("epoch", &0x23u64.to_le_bytes()),
        ("state", &0x22u64.to_le_bytes()),
    ];
    assert_eq!(layout("### Entry", &b, &fields), ENTRY_HEAD);
    assert_eq!(e.set, set.encode());
}

/// The example of section 2, with its checksum put right, is what the code writes and reads.
#[test]
fn identity() {
    let dir = tempfile::tempdir().expect("a folder");
    let (_, example) = DOC.split_once("```\nrcp-volume 1\n").expect("an example");
    let (example, _) = example.split_once("crc32c ").expect("its last line");
    let body = format!("rcp-volume 1\n{example}");
    let id = Identity {
        volume: "6f1c0000-0000-4000-8000-000000000001".parse().expect("valid"),
        label: Label::new("vol1").expect("valid"),
        source: Some(Label::new("vol7").expect("valid")),
        group: GroupName::new("g1").expect("valid"),
        node: name("cel1-ser1"),
        role: "primary".to_owned(),
        block_size: BlockSize::DEFAULT,
        blocks: BlockCount(65536),
        save: 64 << 20,
        snapshots: 1 << 30,
        base: Some("/dev/vg0/vol1".into()),
        standing: volmcast::storage::Standing::default(),
    };
    id.store(dir.path()).expect("stored");
    let found = std::fs::read_to_string(dir.path().join("identity")).expect("text");
    let crc = crc32c::crc32c(body.as_bytes());
    assert_eq!(found, format!("{body}crc32c {crc:08x}\n"));
    assert_eq!(Identity::load(dir.path(), &id.node).expect("loaded"), id);
}

#[test]
fn golden_vectors_are_where_the_page_says() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let (_, list) = DOC.split_once("golden vectors that may never change").expect("a list");
    let list = list.split("Chunks and set headers").next().expect("its end");
    let files: Vec<&str> = list.split('`').filter(|p| p.ends_with(".rs")).collect();
    assert_eq!(files.len(), 7, "{files:?}");
    for f in files {
        let path = if f.starts_with("src/") { root.join(f) } else { root.join("..").join(f) };
        let text = std::fs::read_to_string(&path).expect(f);
        assert!(text.contains("golden"), "{f}");
    }
}

fn thousands(n: usize) -> String {
    format!("{},{:03}", n / 1000, n % 1000)
}
