//! Vectors from files, the values they stand for, and strategies that make any legal value.

#![allow(dead_code, unreachable_pub)] // each test binary uses a part

use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;
use rcp::proto::clock::Mono;
use rcp::proto::clock::Wall;
use rcp::proto::delta::{
    Chunk, ChunkDraft, ChunkFlags, Compression, Extent, ExtentKind, SetFlags, SetHeader, StepId,
};
use rcp::proto::frame::*;
use rcp::proto::ids::*;
use rcp::proto::session::*;

pub const VOLUME: VolumeId = VolumeId(ascending(0x10));
pub const GENERATION: Generation = Generation { counter: 3, id: ascending(0xa0) };

pub const fn ascending(from: u8) -> [u8; 16] {
    let mut out = [0; 16];
    let mut i = 0u8;
    while i < 16 {
        out[i as usize] = from + i;
        i += 1;
    }
    out
}

/// The bytes of commented hex.
pub fn unhex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text
        .lines()
        .flat_map(|l| l.split('#').next().unwrap_or("").bytes())
        .filter(|b| !b.is_ascii_whitespace())
        .collect();
    digits
        .chunks(2)
        .map(|d| u8::from_str_radix(std::str::from_utf8(d).expect("ascii"), 16).expect("hex"))
        .collect()
}

/// The sections of a vector file: `[name]` and the bytes below it.
pub fn sections(text: &str) -> Vec<(String, Vec<u8>)> {
    let mut out = Vec::new();
    for part in text.split("\n[").skip(1) {
        let (name, body) = part.split_once("]\n").expect("section");
        out.push((name.to_owned(), unhex(body)));
    }
    out
}

pub fn node(s: &str) -> NodeName {
    NodeName::new(s).expect("node name")
}

pub fn group(s: &str) -> GroupName {
    GroupName::new(s).expect("group name")
}

pub fn step(base: u64, to: u64) -> StepId {
    StepId {
        volume: VOLUME,
        generation: GENERATION,
        base: SetNumber(base),
        to: SetNumber(to),
        attempt: Attempt(2),
    }
}

/// 512 bytes that differ from block to block.
pub fn content(i: usize) -> Vec<u8> {
    (0..512).map(|j| u8::try_from((i * 7 + j) & 0xff).expect("masked")).collect()
}

pub fn draft_raw() -> ChunkDraft {
    ChunkDraft {
        step: step(41, 42),
        number: ChunkNumber(0),
        block_size_shift: 9,
        flags: ChunkFlags::NONE,
        extents: vec![Extent::data(5, 1), Extent::data(7, 1)],
        payload: [content(1), content(2)].concat().into(),
    }
}

pub fn draft_zstd() -> ChunkDraft {
    ChunkDraft {
        number: ChunkNumber(1),
        block_size_shift: 12,
        extents: vec![Extent::data(9, 1), Extent::zero(10, 100)],
        payload: vec![0xab; 4096].into(),
        ..draft_raw()
    }
}

pub fn draft_zero() -> ChunkDraft {
    ChunkDraft {
        number: ChunkNumber(2),
        block_size_shift: 12,
        extents: vec![Extent::zero(0, 4096)],
        payload: Bytes::new(),
        ..draft_raw()
    }
}

pub fn draft_seed() -> ChunkDraft {
    ChunkDraft {
        step: step(0, 44),
        flags: ChunkFlags::SEED,
        extents: vec![Extent::data(0, 1)],
        payload: content(3).into(),
        ..draft_raw()
    }
}

pub fn set_header(chunk_list_crc: u32) -> SetHeader {
    SetHeader {
        step: step(41, 42),
        chunk_count: 3,
        block_count: 2 + 101 + 4096,
        volume_blocks: 1 << 20,
        block_shift: 12,
        cut_time: Wall(1_700_000_000_000_000),
        flags: SetFlags::DIGEST_ABSENT,
        digest: [0; 32],
        chunk_list_crc,
    }
}

pub fn encoded(d: &ChunkDraft) -> Chunk {
    d.encode(Compression::Never).expect("a legal draft")
}

/// All bytes of a frame.
pub fn frame_bytes(f: &Frame) -> Vec<u8> {
    let mut out = Vec::new();
    f.encode(&mut out).expect("a legal frame");
    out.concat()
}

/// Reads exactly one frame.
pub fn parse_frame(b: &[u8]) -> Result<Frame, Option<FrameError>> {
    let (head, body) = b.split_first_chunk::<16>().ok_or(None)?;
    let header = FrameHeader::parse(head).map_err(Some)?;
    Frame::decode(&header, Bytes::copy_from_slice(body)).map_err(Some)
}

pub fn any_draft() -> impl Strategy<Value = ChunkDraft> {
    let extent = (0u64..1000, 1u32..6, any::<bool>());
    (vec(extent, 1..12), any::<bool>(), any::<bool>(), any::<u32>(), any::<u8>(), any::<u64>())
        .prop_map(|(runs, seed, noisy, number, fill, to)| {
            let (mut at, mut extents, mut blocks) = (0, Vec::new(), 0usize);
            for (gap, count, zero) in runs {
                let kind = if zero { ExtentKind::Zero } else { ExtentKind::Data };
                at += gap;
                extents.push(Extent { block: at, count, kind });
                at += u64::from(count);
                blocks += if zero { 0 } else { count as usize };
            }
            let mut x = u32::from(fill) | 1;
            let mut next = || {
                x = x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (x >> 24) as u8
            };
            let payload: Vec<u8> =
                (0..blocks * 512).map(|_| if noisy { next() } else { fill }).collect();
            ChunkDraft {
                step: if seed { step(0, to) } else { step(to / 2, (to / 2).saturating_add(1)) },
                number: ChunkNumber(number),
                block_size_shift: 9,
                flags: if seed { ChunkFlags::SEED } else { ChunkFlags::NONE },
                extents,
                payload: payload.into(),
            }
        })
}

fn any_node() -> impl Strategy<Value = NodeName> {
    "[a-z0-9][a-z0-9._-]{0,62}".prop_map(|s| node(&s))
}

fn any_set() -> impl Strategy<Value = SetNumber> {
    any::<u64>().prop_map(SetNumber)
}

fn any_text() -> impl Strategy<Value = String> {
    "\\PC{0,60}"
}

fn any_generation() -> impl Strategy<Value = Generation> {
    (any::<u32>(), any::<[u8; 16]>()).prop_map(|(counter, id)| Generation { counter, id })
}

fn any_role() -> impl Strategy<Value = Role> {
    prop_oneof![Just(Role::Sender), Just(Role::Receiver)]
}

fn any_stream() -> impl Strategy<Value = StreamId> {
    any::<u16>().prop_map(StreamId)
}

fn any_hello() -> impl Strategy<Value = Hello> {
    (
        any::<(u16, u16)>(),
        any_node(),
        any::<[u8; 16]>(),
        any_role(),
        vec(any_node(), 0..5),
        any::<(u32, u32)>(),
    )
        .prop_map(|(versions, node, instance, role, path, (feeder, keepalive_ms))| Hello {
            versions,
            node,
            instance,
            group: group("g-1"),
            role,
            path,
            feeder,
            keepalive_ms,
        })
}

fn any_branch() -> impl Strategy<Value = Branch> {
    (any_generation(), any_set(), any_node(), any::<u64>()).prop_map(
        |(generation, forked_from, opened_by, at)| Branch {
            generation,
            forked_from,
            opened_by,
            opened_at: Wall(at),
        },
    )
}

fn any_offer() -> impl Strategy<Value = Offer> {
    let branch = any_branch();
    (any_stream(), any::<[u8; 16]>(), 9u8..=20, any::<[u64; 3]>(), vec(branch, 0..4)).prop_map(
        |(stream, id, block_shift, n, history)| Offer {
            stream,
            volume: VolumeId(id),
            label: Label::new("vol-1.x").expect("label"),
            block_shift,
            volume_blocks: n[0] % (rcp::proto::limits::max_blocks(block_shift) + 1),
            history,
            oldest: SetNumber(n[1]),
            newest: SetNumber(n[2]),
        },
    )
}

fn any_attach() -> impl Strategy<Value = Attach> {
    let held = (any::<(u32, u64, u64, u32)>()).prop_map(|(a, b, t, c)| HeldStep {
        attempt: Attempt(a),
        base: SetNumber(b),
        to: SetNumber(t),
        next_chunk: ChunkNumber(c),
    });
    (
        any_stream(),
        proptest::option::of(any_generation()),
        proptest::option::of(held),
        any::<[u64; 4]>(),
        any::<bool>(),
        proptest::option::of(any_set()),
        proptest::option::of(any::<u64>()),
    )
        .prop_map(|(stream, generation, next, n, wants_seed, over, stages)| Attach {
            over,
            stages,
            stream,
            state: SetNumber(n[0]),
            generation,
            next,
            credit: n[1],
            wants_seed,
            seed_from_block: n[2],
            folded: SetNumber(n[3]),
        })
}

fn any_report() -> impl Strategy<Value = Report> {
    let leaf = (any_node(), any_set(), any::<u64>(), any_text())
        .prop_map(|(node, state, lag_us, text)| LeafReport { node, state, lag_us, text });
    (
        any_stream(),
        any::<u32>(),
        any::<[u64; 3]>(),
        vec((any_set(), any::<u32>()), 0..=16),
        vec(leaf, 0..=8),
    )
        .prop_map(|(stream, nodes, n, by_state, worst)| Report {
            stream,
            nodes,
            played_min: SetNumber(n[0]),
            played_max: SetNumber(n[1]),
            saved_min: SetNumber(n[2]),
            by_state,
            worst,
        })
}

fn any_control() -> impl Strategy<Value = ControlBlock> {
    let state = (any::<[u8; 16]>(), any_generation(), any_set())
        .prop_map(|(v, generation, set)| StateId { volume: VolumeId(v), generation, set });
    (
        any::<[u8; 16]>(),
        "[a-z]{0,64}",
        proptest::option::of(state),
        vec(any::<u8>(), 0..200),
        any::<u8>(),
    )
        .prop_map(|(id, kind, after, body, hops)| ControlBlock {
            id,
            kind,
            after,
            body: body.into(),
            hops,
        })
}

/// Any legal frame, every type among them.
pub fn any_frame() -> impl Strategy<Value = Frame> {
    prop_oneof![any_session_frame(), any_stream_frame(), any_control_frame()]
}

fn any_session_frame() -> impl Strategy<Value = Frame> {
    prop_oneof![
        any_hello().prop_map(Frame::Hello),
        (any_hello(), any::<u16>()).prop_map(|(h, version)| {
            let Hello { node, instance, group, role, path, feeder, keepalive_ms, versions } = h;
            // Earlier versions have no such field.
            let key = JoinKey { session: u64::from(versions.0), secret: instance };
            let join = (version > 3 && versions.1 % 2 == 0).then_some(key);
            Frame::Welcome(Welcome {
                version,
                node,
                instance,
                group,
                role,
                path,
                feeder,
                keepalive_ms,
                join,
            })
        }),
        (any_node(), any::<u64>(), any::<[u8; 16]>()).prop_map(|(node, session, secret)| {
            Frame::Join(Join { node, key: JoinKey { session, secret } })
        }),
        any::<u64>().prop_map(|session| Frame::Joined { session }),
        any::<u64>().prop_map(|number| Frame::Place { number }),
        any::<u64>().prop_map(|next| Frame::Placed { next }),
        (any::<u16>(), any_text())
            .prop_map(|(n, text)| Frame::Refuse { code: RefuseCode::from_number(n), text }),
        (any::<u16>(), any_text())
            .prop_map(|(n, text)| Frame::Goodbye { code: GoodbyeCode::from_number(n), text }),
        any::<u64>().prop_map(|nonce| Frame::Ping { nonce }),
        any::<u64>().prop_map(|nonce| Frame::Pong { nonce }),
    ]
}

fn any_stream_frame() -> impl Strategy<Value = Frame> {
    prop_oneof![
        any_offer().prop_map(Frame::Offer),
        (any_stream(), any_text()).prop_map(|(stream, text)| Frame::Withdraw { stream, text }),
        any_attach().prop_map(Frame::Attach),
        (any_stream(), 0..4usize, any_set(), any::<(u32, u64, u64)>(), any_text()).prop_map(
            |(stream, m, from, (feeder, blocks, bytes), reason)| {
                let catch_up = StartMode::CatchUp { blocks, bytes };
                let mode = [StartMode::Resume, StartMode::Wait, StartMode::Seed, catch_up][m];
                Frame::Start(Start { stream, mode, from, feeder, reason })
            }
        ),
        (any_stream(), any::<u16>(), any_text())
            .prop_map(|(stream, code, text)| Frame::StreamError { stream, code, text }),
        (any_stream(), vec(any_branch(), 0..4), any_text())
            .prop_map(|(stream, history, text)| Frame::Fence { stream, history, text }),
        (any_stream(), vec(any::<(u64, u64)>(), 0..4))
            .prop_map(|(stream, runs)| Frame::Doubt { stream, runs }),
        (any_stream(), any::<[u64; 2]>(), any::<u16>())
            .prop_map(|(stream, [first, each], sums)| Frame::Compare { stream, first, each, sums }),
        (any_stream(), any::<[u64; 3]>(), vec(any::<u128>(), 0..4), any_text()).prop_map(
            |(stream, [state, first, each], sums, text)| {
                let state = SetNumber(state);
                Frame::Sums { stream, state, first, each, sums, text }
            }
        ),
        (any_stream(), any::<u32>(), any::<u64>(), any_draft()).prop_map(
            |(stream, feeder, seq, d)| {
                let d = ChunkDraft { flags: ChunkFlags::NONE, step: step(1, 2), ..d };
                Frame::Chunk { stream, feeder, seq, body: encoded(&d).bytes().clone() }
            }
        ),
        (any_stream(), any::<u32>(), any::<u64>(), any::<u32>()).prop_map(
            |(stream, feeder, seq, sum)| Frame::SetEnd {
                stream,
                feeder,
                seq,
                body: set_header(sum).to_bytes()
            }
        ),
        (any_stream(), any::<u32>(), any_set(), any::<u32>()).prop_map(|(stream, feeder, s, n)| {
            Frame::Saved { stream, feeder, state: s, next_chunk: ChunkNumber(n) }
        }),
        (any_stream(), any::<u64>()).prop_map(|(stream, total)| Frame::Credit { stream, total }),
        (any_stream(), any::<[u64; 3]>()).prop_map(|(stream, n)| Frame::Heartbeat {
            stream,
            state: SetNumber(n[0]),
            as_of: Wall(n[1]),
            newest: SetNumber(n[2])
        }),
        any_report().prop_map(Frame::Report),
        (any_stream(), any::<u64>())
            .prop_map(|(stream, now)| Frame::Clock { stream, now: Wall(now) }),
        (any_stream(), any::<u32>(), any::<[u64; 3]>(), any_draft()).prop_map(
            |(stream, feeder, n, d)| {
                let d = ChunkDraft { flags: ChunkFlags::SEED, step: step(0, n[2]), ..d };
                Frame::SeedData {
                    stream,
                    feeder,
                    seq: n[0],
                    next_block: n[1],
                    view: SetNumber(n[2]),
                    body: encoded(&d).bytes().clone(),
                }
            }
        ),
        (any_stream(), any::<u32>(), any_set())
            .prop_map(|(stream, feeder, need)| { Frame::SeedEnd { stream, feeder, need } }),
        (any_stream(), any::<u64>(), any::<u64>()).prop_map(|(stream, next_block, total)| {
            Frame::SeedAck { stream, next_block, total }
        }),
    ]
}

fn any_control_frame() -> impl Strategy<Value = Frame> {
    prop_oneof![
        any_control().prop_map(Frame::Control),
        (any::<[u8; 16]>(), any_node(), any::<bool>(), any::<bool>(), vec(any::<u8>(), 0..200))
            .prop_map(|(id, node, ok, done, body)| {
                Frame::ControlResult(ControlResult { id, node, ok, body: body.into(), done })
            }),
        (vec(any_node(), 0..4), vec(any::<[u8; 16]>(), 0..5)).prop_map(|(path, v)| Frame::Probe {
            group: group("g-1"),
            path,
            volumes: v.into_iter().map(VolumeId).collect()
        }),
        (any::<bool>(), any_text()).prop_map(|(ok, text)| Frame::ProbeReply { ok, text }),
        vec((any_node(), vec(any_node(), 0..4)), 0..4)
            .prop_map(|routes| Frame::RouteReport { routes }),
    ]
}

/// A node that meets anybody.
pub fn config(name: &str) -> SessionConfig {
    SessionConfig {
        versions: VERSIONS,
        node: node(name),
        instance: ascending(name.len() as u8),
        group: group("g1"),
        path: vec![node(name)],
        feeder: 7,
        keepalive: std::time::Duration::from_secs(1),
        feeders: Peers::Any,
        children: Peers::Any,
        ask: false,
        join: None,
    }
}

/// What the vectors join with.
pub const JOIN_KEY: JoinKey = JoinKey {
    session: 7,
    secret: *b"\xe0\xe1\xe2\xe3\xe4\xe5\xe6\xe7\xe8\xe9\xea\xeb\xec\xed\xee\xef",
};

/// The peer of a session that is up, as its other end knows it.
pub fn peer_in(role: Role) -> Peer {
    Peer {
        node: node("peer"),
        instance: ascending(4),
        version: VERSIONS.1,
        role,
        path: vec![],
        feeder: 7,
        keepalive: std::time::Duration::from_secs(1),
        join: None,
    }
}

/// A session in the given state.
pub fn in_state(state: SessionState, now: Mono) -> Session {
    let hello = |role| {
        let mut s = Session::new(config("peer"), Side::Dialer(role), now);
        s.poll_transmit().expect("a hello")
    };
    let ask = |ask| SessionConfig { ask, ..config("here") };
    let mut s = match state {
        SessionState::HelloSent => Session::new(config("here"), Side::Dialer(Role::Sender), now),
        SessionState::ProbeSent => Session::new_probe(config("here"), vec![], now),
        SessionState::JoinSent => {
            Session::new_join(config("here"), JOIN_KEY, peer_in(Role::Receiver), now)
        }
        SessionState::Joining | SessionState::FurtherSender | SessionState::FurtherReceiver => {
            let cfg = SessionConfig { join: Some(JOIN_KEY), ..config("here") };
            Session::new(cfg, Side::Acceptor, now)
        }
        SessionState::Deciding => Session::new(ask(true), Side::Acceptor, now),
        _ => Session::new(ask(false), Side::Acceptor, now),
    };
    match state {
        SessionState::Deciding | SessionState::UpReceiver => {
            s.handle_frame(now, hello(Role::Sender));
        }
        SessionState::UpSender => s.handle_frame(now, hello(Role::Receiver)),
        SessionState::Answering => {
            let mut probe = Session::new_probe(config("peer"), vec![], now);
            s.handle_frame(now, probe.poll_transmit().expect("a probe"));
        }
        SessionState::Joining | SessionState::FurtherSender | SessionState::FurtherReceiver => {
            s.handle_frame(now, Frame::Join(Join { node: node("peer"), key: JOIN_KEY }));
            if state != SessionState::Joining {
                let sends = state == SessionState::FurtherSender;
                let role = if sends { Role::Receiver } else { Role::Sender };
                s.take_in(now, peer_in(role), JOIN_KEY.session);
            }
        }
        SessionState::Closed => s.close(GoodbyeCode::Shutdown, ""),
        _ => {}
    }
    while s.poll_event().is_some() {}
    while s.poll_transmit().is_some() {}
    assert_eq!(s.state(), state);
    s
}
