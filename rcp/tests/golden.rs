//! The bytes of version 1, which may never change: every vector is what the code writes for the
//! value beside it, and reads back as it. The vectors were made by an independent program.

mod support;

use bytes::Bytes;
use rcp::proto::clock::Wall;
use rcp::proto::control::pipe::{Piece, PipeId, Writer};
use rcp::proto::delta::{
    Chunk, ChunkHeader, ChunkListSum, Compression, DeltaError, SetFlags, SetHeader,
};
use rcp::proto::frame::*;
use rcp::proto::ids::*;
use support::*;

macro_rules! vector {
    ($name:literal) => {
        unhex(include_str!(concat!("vectors/", $name, ".hex")))
    };
}

fn parsed(bytes: Vec<u8>) -> Chunk {
    Chunk::parse(Bytes::from(bytes)).expect("a golden chunk")
}

#[test]
fn chunks() {
    for (bytes, draft) in [
        (vector!("chunk_raw"), draft_raw()),
        (vector!("chunk_zero"), draft_zero()),
        (vector!("chunk_seed"), draft_seed()),
    ] {
        assert_eq!(encoded(&draft).bytes(), &bytes);
        let c = parsed(bytes);
        assert_eq!(c, encoded(&draft));
        assert_eq!(c.payload().as_ref(), Ok(&draft.payload));
        assert_eq!((c.step(), c.number(), c.flags()), (draft.step, draft.number, draft.flags));
        assert_eq!(c.extents().count(), draft.extents.len());
    }
}

#[test]
fn a_compressed_chunk() {
    let c = parsed(vector!("chunk_zstd"));
    assert!(c.is_compressed());
    assert_eq!(c.payload().expect("it decompresses"), vec![0xab; 4096]);
    // another encoder may pack better or worse, but never change what is said
    let ours = draft_zstd().encode(Compression::WherePays).expect("legal");
    assert!(ours.is_compressed());
    assert_eq!(ours.payload(), c.payload());
    assert!(ours.extents().eq(c.extents()));
    assert_eq!(c.block_count(), 101);
}

#[test]
fn uncompressed_content_is_where_the_header_says() {
    let c = parsed(vector!("chunk_raw"));
    let header = ChunkHeader::parse(&c.bytes()[..128]).expect("header alone");
    assert_eq!(&header, c.header());
    for (i, e) in c.extents().enumerate() {
        let at = header.payload_offset() + e.offset;
        assert_eq!(c.bytes()[at..at + e.len], content(i + 1));
    }
}

#[test]
fn set_headers() {
    let mut sum = ChunkListSum::new();
    for bytes in [vector!("chunk_zero"), vector!("chunk_raw"), vector!("chunk_zstd")] {
        let c = parsed(bytes);
        sum.add(c.number(), c.body_crc()).expect("three chunks");
    }
    let h = set_header(sum.total(3).expect("all three"));
    assert_eq!(h.encode().to_vec(), vector!("set_header"));
    assert_eq!(SetHeader::parse(&vector!("set_header")), Ok(h));

    let h = SetHeader {
        chunk_count: 0,
        block_count: 77,
        flags: SetFlags::DIGEST_ABSENT.with(SetFlags::BITMAP_ONLY),
        ..set_header(0)
    };
    assert_eq!(h.encode().to_vec(), vector!("set_header_bitmap_only"));
    assert_eq!(SetHeader::parse(&vector!("set_header_bitmap_only")), Ok(h));

    let mut digest = [0; 32];
    digest[..16].copy_from_slice(&7u128.to_le_bytes());
    let with = SetHeader { flags: SetFlags::default(), digest, ..set_header(0) };
    assert_eq!(SetHeader::parse(&with.encode()), Ok(with));
    assert_eq!((with.digest_sum(), h.digest_sum()), (Some(7), None));
    assert_eq!(ChunkHeader::parse(&vector!("set_header")), Err(DeltaError::HeaderChecksum));
}

#[test]
fn frames() {
    let vectors = sections(include_str!("vectors/frames.hex"));
    let values = frame_values();
    let mut seen: Vec<FrameType> = Vec::new();
    assert_eq!(vectors.len(), values.len());
    for ((name, bytes), value) in vectors.into_iter().zip(values) {
        assert_eq!(frame_bytes(&value), bytes, "{name}");
        assert_eq!(parse_frame(&bytes).as_ref(), Ok(&value), "{name}");
        assert!(name.starts_with(value.frame_type().name()), "{name}");
        DecodedFrame::verify(value.clone()).expect("sound content");
        seen.push(value.frame_type());
    }
    seen.dedup();
    assert_eq!(seen, FrameType::ALL, "one vector at least for every type");
}

#[test]
fn pipes() {
    let mut id = [0; 12];
    id.copy_from_slice(&ascending(0x20)[..12]);
    let (mut writer, open) = Writer::open(PipeId(id), "data");
    let data = writer.data(Bytes::from_static(b"hello\n")).expect("short enough");
    let given_up = writer.clone().end(true);
    let blocks = [open, data, writer.end(false), given_up];
    let vectors = sections(include_str!("vectors/pipe.hex"));
    assert_eq!(vectors.len(), blocks.len());
    for ((name, bytes), block) in vectors.into_iter().zip(blocks) {
        let piece = Piece::read(&block).expect("sound");
        assert!(format!("{piece:?}").starts_with(if name == "GivenUp" { "End" } else { &name }));
        assert_eq!(PipeId::of(&block.id).0, PipeId(id));
        let value = Frame::Control(block);
        assert_eq!(frame_bytes(&value), bytes, "{name}");
        assert_eq!(parse_frame(&bytes), Ok(value), "{name}");
    }
}

fn frame_values() -> Vec<Frame> {
    let instance = ascending(0xc0);
    let stream = StreamId(1);
    let text = str::to_owned;
    let set = SetNumber;
    vec![
        Frame::Hello(Hello {
            versions: (1, 2),
            node: node("cel1-ser1"),
            instance,
            group: group("g1"),
            role: Role::Sender,
            path: vec![node("prim"), node("cel1-ser1")],
            feeder: 0,
            keepalive_ms: 1000,
        }),
        Frame::Welcome(Welcome {
            version: 1,
            node: node("leaf-7"),
            instance,
            group: group("g1"),
            role: Role::Receiver,
            path: vec![],
            feeder: 9,
            keepalive_ms: 2000,
            join: None,
        }),
        Frame::Refuse { code: RefuseCode::Loop, text: text("leaf-7 is in the path") },
        Frame::Goodbye { code: GoodbyeCode::Shutdown, text: text("") },
        Frame::Ping { nonce: 0x0807_0605_0403_0201 },
        Frame::Pong { nonce: 0x0807_0605_0403_0201 },
        Frame::Join(Join { node: node("cel1-ser1"), key: JOIN_KEY }),
        Frame::Joined { session: 7 },
        Frame::Place { number: 0x0807_0605_0403_0201 },
        Frame::Placed { next: 0x0807_0605_0403_0202 },
        Frame::Offer(Offer {
            stream,
            volume: VOLUME,
            label: Label::new("disk.0").expect("label"),
            block_shift: 12,
            volume_blocks: 1 << 20,
            history: vec![
                Branch {
                    generation: Generation { counter: 1, id: [0; 16] },
                    forked_from: set(0),
                    opened_by: node("prim"),
                    opened_at: Wall(1_600_000_000_000_000),
                },
                Branch {
                    generation: GENERATION,
                    forked_from: set(30),
                    opened_by: node("cel1-ser1"),
                    opened_at: Wall(1_700_000_000_000_000),
                },
            ],
            oldest: set(7),
            newest: set(42),
        }),
        Frame::Withdraw { stream, text: text("volume removed") },
        Frame::Attach(Attach {
            stream,
            state: set(41),
            generation: Some(GENERATION),
            next: Some(HeldStep {
                attempt: Attempt(2),
                base: set(41),
                to: set(42),
                next_chunk: ChunkNumber(5),
            }),
            credit: 16 << 20,
            wants_seed: false,
            seed_from_block: 0,
            folded: set(0),
            over: None,
            stages: None,
        }),
        Frame::Attach(Attach {
            stream: StreamId(2),
            state: set(0),
            generation: None,
            next: None,
            credit: 16 << 20,
            wants_seed: true,
            seed_from_block: 4096,
            folded: set(40),
            over: None,
            stages: None,
        }),
        Frame::Start(Start {
            stream,
            mode: StartMode::Resume,
            from: set(41),
            feeder: 9,
            reason: text("in the save volume"),
        }),
        Frame::StreamError { stream, code: stream_error::DIVERGED, text: text("no common state") },
        Frame::Fence {
            stream,
            history: vec![Branch {
                generation: GENERATION,
                forked_from: set(30),
                opened_by: node("cel1-ser1"),
                opened_at: Wall(1_700_000_000_000_000),
            }],
            text: text("a newer writer"),
        },
        Frame::Doubt { stream, runs: vec![(5, 1), (9, 300)] },
        Frame::Compare { stream, first: 65_536, each: 256, sums: 256 },
        Frame::Chunk { stream, feeder: 9, seq: 0, body: encoded(&draft_zero()).bytes().clone() },
        Frame::SetEnd { stream, feeder: 9, seq: 3, body: vector!("set_header").into() },
        Frame::Saved { stream, feeder: 9, state: set(42), next_chunk: ChunkNumber(0) },
        Frame::Credit { stream, total: 32 << 20 },
        Frame::Heartbeat {
            stream,
            state: set(42),
            as_of: Wall(1_700_000_000_000_001),
            newest: set(43),
        },
        Frame::Report(Report {
            stream,
            nodes: 100,
            played_min: set(40),
            played_max: set(42),
            saved_min: set(41),
            by_state: vec![(set(42), 99), (set(40), 1)],
            worst: vec![LeafReport {
                node: node("leaf-7"),
                state: set(40),
                lag_us: 2_500_000,
                text: text("merging"),
            }],
        }),
        Frame::Clock { stream, now: Wall(1_700_000_000_000_003) },
        Frame::Sums {
            stream,
            state: set(42),
            first: 65_536,
            each: 256,
            sums: vec![7, u128::MAX - 1],
            text: String::new(),
        },
        Frame::SeedData {
            stream: StreamId(2),
            feeder: 9,
            seq: 0,
            next_block: 1,
            view: set(44),
            body: encoded(&draft_seed()).bytes().clone(),
        },
        Frame::SeedEnd { stream: StreamId(2), feeder: 9, need: set(45) },
        Frame::SeedAck { stream: StreamId(2), next_block: 1, total: 8 << 20 },
        Frame::Control(ControlBlock {
            id: ascending(0xd0),
            kind: text("snapshot"),
            after: Some(StateId { volume: VOLUME, generation: GENERATION, set: set(42) }),
            body: Bytes::from_static(&[1, 2, 3, 4]),
            hops: 2,
        }),
        Frame::ControlResult(ControlResult {
            id: ascending(0xd0),
            node: node("leaf-7"),
            ok: true,
            body: Bytes::from_static(b"ok"),
            done: false,
        }),
        Frame::Probe { group: group("g1"), path: vec![node("prim")], volumes: vec![VOLUME] },
        Frame::ProbeReply { ok: false, text: text("fed by cel2-ser1") },
        Frame::RouteReport {
            routes: vec![
                (node("cel1-ser1"), vec![node("leaf-7"), node("leaf-8")]),
                (node("leaf-7"), vec![]),
            ],
        },
    ]
}
