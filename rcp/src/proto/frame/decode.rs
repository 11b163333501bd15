//! Bytes to frames. Nothing here panics, whatever the bytes.

use bytes::Bytes;

use super::super::clock::Wall;
use super::super::ids::{
    Attempt, ChunkNumber, Generation, GroupName, Label, MAX_NAME, NodeName, SetNumber, StateId,
    VolumeId,
};
use super::super::limits::{
    MAX_BLOCK_SHIFT, MAX_CONTROL_BLOCK, MAX_CONTROL_KIND, MAX_DOUBTS, MAX_HISTORY, MAX_LEAF_TEXT,
    MAX_PATH, MAX_PROBE_VOLUMES, MAX_REPORT_LEAVES, MAX_REPORT_STATES, MAX_ROUTE_HOPS,
    MAX_ROUTE_NODES, MAX_SUMS, MAX_TEXT, MIN_BLOCK_SHIFT, max_blocks,
};
use super::super::wire::{Cursor, Malformed};
use super::{
    Attach, Branch, ControlBlock, ControlResult, Frame, FrameError, FrameHeader, FrameType,
    GoodbyeCode, HeldStep, Hello, Join, JoinKey, LeafReport, Offer, RefuseCode, Report, Role,
    Start, StartMode, StreamId, WITH_JOINS, Welcome,
};

type Get<T> = Result<T, Malformed>;

impl Frame {
    /// Reads a frame from its header and its whole body. A chunk or set header in it is not looked
    /// at (see [`super::DecodedFrame`]); it is a slice of `body`.
    ///
    /// # Errors
    /// [`FrameError`] says what is wrong.
    pub fn decode(header: &FrameHeader, body: Bytes) -> Result<Self, FrameError> {
        let frame_type = header.frame_type;
        if body.len() != header.len() {
            return Err(FrameError::Length { frame: frame_type, have: body.len() });
        }
        let covered = frame_type.data_prefix().unwrap_or(body.len());
        let proved = body.get(..covered).ok_or(FrameError::Short(frame_type))?;
        if crc32c::crc32c(proved) != header.body_crc {
            return Err(FrameError::BodyChecksum(frame_type));
        }
        let mut c = Cursor::new(body);
        let frame = read(frame_type, header.stream, &mut c)
            .map_err(|m| FrameError::malformed(frame_type, m))?;
        if c.rest().is_empty() { Ok(frame) } else { Err(FrameError::Trailing(frame_type)) }
    }
}

fn read(frame_type: FrameType, stream: StreamId, c: &mut Cursor) -> Get<Frame> {
    Ok(match frame_type {
        FrameType::Hello => Frame::Hello(hello(c)?),
        FrameType::Welcome => Frame::Welcome(welcome(c)?),
        FrameType::Refuse => {
            Frame::Refuse { code: RefuseCode::from_number(c.u16()?), text: text(c)? }
        }
        FrameType::Goodbye => {
            Frame::Goodbye { code: GoodbyeCode::from_number(c.u16()?), text: text(c)? }
        }
        FrameType::Ping => Frame::Ping { nonce: c.u64()? },
        FrameType::Pong => Frame::Pong { nonce: c.u64()? },
        FrameType::Join => Frame::Join(Join { node: node(c)?, key: key(c)? }),
        FrameType::Joined => Frame::Joined { session: c.u64()? },
        FrameType::Place => Frame::Place { number: c.u64()? },
        FrameType::Placed => Frame::Placed { next: c.u64()? },
        FrameType::Offer => Frame::Offer(offer(stream, c)?),
        FrameType::Withdraw => Frame::Withdraw { stream, text: text(c)? },
        FrameType::Attach => Frame::Attach(attach(stream, c)?),
        FrameType::Start => Frame::Start(start(stream, c)?),
        FrameType::StreamError => Frame::StreamError { stream, code: c.u16()?, text: text(c)? },
        FrameType::Fence => Frame::Fence { stream, history: history(c)?, text: text(c)? },
        FrameType::Doubt => Frame::Doubt {
            stream,
            runs: list(c, MAX_DOUBTS, "runs", |c| Ok((c.u64()?, c.u64()?)))?,
        },
        FrameType::Compare => {
            Frame::Compare { stream, first: c.u64()?, each: c.u64()?, sums: c.u16()? }
        }
        FrameType::Sums => Frame::Sums {
            stream,
            state: set(c)?,
            first: c.u64()?,
            each: c.u64()?,
            sums: list(c, MAX_SUMS, "sums", |c| c.array().map(u128::from_le_bytes))?,
            text: text(c)?,
        },
        FrameType::Chunk => {
            Frame::Chunk { stream, feeder: c.u32()?, seq: c.u64()?, body: rest(c)? }
        }
        FrameType::SetEnd => {
            Frame::SetEnd { stream, feeder: c.u32()?, seq: c.u64()?, body: rest(c)? }
        }
        FrameType::Saved => Frame::Saved {
            stream,
            feeder: c.u32()?,
            state: set(c)?,
            next_chunk: ChunkNumber(c.u32()?),
        },
        FrameType::Credit => Frame::Credit { stream, total: c.u64()? },
        FrameType::Clock => Frame::Clock { stream, now: Wall(c.u64()?) },
        FrameType::Heartbeat => {
            Frame::Heartbeat { stream, state: set(c)?, as_of: Wall(c.u64()?), newest: set(c)? }
        }
        FrameType::Report => Frame::Report(report(stream, c)?),
        FrameType::SeedData => Frame::SeedData {
            stream,
            feeder: c.u32()?,
            seq: c.u64()?,
            next_block: c.u64()?,
            view: set(c)?,
            body: rest(c)?,
        },
        FrameType::SeedEnd => Frame::SeedEnd { stream, feeder: c.u32()?, need: set(c)? },
        FrameType::SeedAck => Frame::SeedAck { stream, next_block: c.u64()?, total: c.u64()? },
        FrameType::Control => Frame::Control(control(c)?),
        FrameType::ControlResult => Frame::ControlResult(control_result(c)?),
        FrameType::Probe => Frame::Probe {
            group: group(c)?,
            path: path(c)?,
            volumes: list(c, MAX_PROBE_VOLUMES, "volumes", |c| c.array().map(VolumeId))?,
        },
        FrameType::ProbeReply => Frame::ProbeReply { ok: c.bool("ok")?, text: text(c)? },
        FrameType::RouteReport => Frame::RouteReport {
            routes: list(c, MAX_ROUTE_NODES, "routes", |c| {
                Ok((node(c)?, list(c, MAX_ROUTE_HOPS, "next hops", node)?))
            })?,
        },
    })
}

fn list<T>(
    c: &mut Cursor,
    max: usize,
    what: &'static str,
    mut item: impl FnMut(&mut Cursor) -> Get<T>,
) -> Get<Vec<T>> {
    // no allocation ahead of the bytes: a count alone costs a peer nothing
    let n = c.count(max, what)?;
    (0..n).map(|_| item(c)).collect()
}

fn rest(c: &mut Cursor) -> Get<Bytes> {
    c.take(c.rest().len())
}

fn text(c: &mut Cursor) -> Get<String> {
    c.text(MAX_TEXT, "text")
}

fn set(c: &mut Cursor) -> Get<SetNumber> {
    c.u64().map(SetNumber)
}

fn node(c: &mut Cursor) -> Get<NodeName> {
    NodeName::new(&c.text(MAX_NAME, "node")?).map_err(|_| Malformed::Value("node"))
}

fn group(c: &mut Cursor) -> Get<GroupName> {
    GroupName::new(&c.text(MAX_NAME, "group")?).map_err(|_| Malformed::Value("group"))
}

fn path(c: &mut Cursor) -> Get<Vec<NodeName>> {
    list(c, MAX_PATH, "path", node)
}

fn generation(c: &mut Cursor) -> Get<Generation> {
    Ok(Generation { counter: c.u32()?, id: c.array()? })
}

fn role(c: &mut Cursor) -> Get<Role> {
    match c.u8()? {
        1 => Ok(Role::Sender),
        2 => Ok(Role::Receiver),
        _ => Err(Malformed::Value("role")),
    }
}

fn hello(c: &mut Cursor) -> Get<Hello> {
    Ok(Hello {
        versions: (c.u16()?, c.u16()?),
        node: node(c)?,
        instance: c.array()?,
        group: group(c)?,
        role: role(c)?,
        path: path(c)?,
        feeder: c.u32()?,
        keepalive_ms: c.u32()?,
    })
}

fn key(c: &mut Cursor) -> Get<JoinKey> {
    Ok(JoinKey { session: c.u64()?, secret: c.array()? })
}

fn welcome(c: &mut Cursor) -> Get<Welcome> {
    let version = c.u16()?;
    Ok(Welcome {
        version,
        node: node(c)?,
        instance: c.array()?,
        group: group(c)?,
        role: role(c)?,
        path: path(c)?,
        feeder: c.u32()?,
        keepalive_ms: c.u32()?,
        join: if version >= WITH_JOINS && c.bool("join")? { Some(key(c)?) } else { None },
    })
}

fn offer(stream: StreamId, c: &mut Cursor) -> Get<Offer> {
    let volume = VolumeId(c.array()?);
    let label = Label::new(&c.text(MAX_NAME, "label")?).map_err(|_| Malformed::Value("label"))?;
    let block_shift = c.u8()?;
    if !(MIN_BLOCK_SHIFT..=MAX_BLOCK_SHIFT).contains(&block_shift) {
        return Err(Malformed::Value("block size"));
    }
    let volume_blocks = c.u64()?;
    if volume_blocks > max_blocks(block_shift) {
        return Err(Malformed::Value("volume size"));
    }
    Ok(Offer {
        stream,
        volume,
        label,
        block_shift,
        volume_blocks,
        oldest: set(c)?,
        newest: set(c)?,
        history: history(c)?,
    })
}

fn history(c: &mut Cursor) -> Get<Vec<Branch>> {
    list(c, MAX_HISTORY, "history", |c| {
        Ok(Branch {
            generation: generation(c)?,
            forked_from: set(c)?,
            opened_by: node(c)?,
            opened_at: Wall(c.u64()?),
        })
    })
}

fn attach(stream: StreamId, c: &mut Cursor) -> Get<Attach> {
    let mut a = Attach {
        stream,
        state: set(c)?,
        generation: if c.bool("generation")? { Some(generation(c)?) } else { None },
        next: if c.bool("next")? { Some(held_step(c)?) } else { None },
        credit: c.u64()?,
        wants_seed: false,
        seed_from_block: 0,
        folded: SetNumber::ZERO,
        over: None,
        stages: None,
    };
    let wishes = c.u8()?;
    if wishes > 7 {
        return Err(Malformed::Value("wishes"));
    }
    a.wants_seed = wishes & 1 != 0;
    a.seed_from_block = c.u64()?;
    a.folded = set(c)?;
    if wishes & 2 != 0 {
        a.over = Some(set(c)?);
    }
    if wishes & 4 != 0 {
        a.stages = Some(c.u64()?);
    }
    Ok(a)
}

fn held_step(c: &mut Cursor) -> Get<HeldStep> {
    Ok(HeldStep {
        attempt: Attempt(c.u32()?),
        base: set(c)?,
        to: set(c)?,
        next_chunk: ChunkNumber(c.u32()?),
    })
}

fn start(stream: StreamId, c: &mut Cursor) -> Get<Start> {
    let mode = match c.u8()? {
        1 => StartMode::Resume,
        2 => StartMode::Wait,
        3 => StartMode::Seed,
        4 => StartMode::CatchUp { blocks: 0, bytes: 0 },
        _ => return Err(Malformed::Value("mode")),
    };
    let (from, feeder) = (set(c)?, c.u32()?);
    let mode = match mode {
        StartMode::CatchUp { .. } => StartMode::CatchUp { blocks: c.u64()?, bytes: c.u64()? },
        other => other,
    };
    Ok(Start { stream, mode, from, feeder, reason: text(c)? })
}

fn report(stream: StreamId, c: &mut Cursor) -> Get<Report> {
    Ok(Report {
        stream,
        nodes: c.u32()?,
        played_min: set(c)?,
        played_max: set(c)?,
        saved_min: set(c)?,
        by_state: list(c, MAX_REPORT_STATES, "by_state", |c| Ok((set(c)?, c.u32()?)))?,
        worst: list(c, MAX_REPORT_LEAVES, "worst", |c| {
            Ok(LeafReport {
                node: node(c)?,
                state: set(c)?,
                lag_us: c.u64()?,
                text: c.text(MAX_LEAF_TEXT, "text")?,
            })
        })?,
    })
}

fn control(c: &mut Cursor) -> Get<ControlBlock> {
    let id = c.array()?;
    let kind = c.text(MAX_CONTROL_KIND, "kind")?;
    let after = if c.bool("after")? {
        Some(StateId { volume: VolumeId(c.array()?), generation: generation(c)?, set: set(c)? })
    } else {
        None
    };
    let hops = c.u8()?;
    Ok(ControlBlock { id, kind, after, body: c.blob(MAX_CONTROL_BLOCK, "body")?, hops })
}

fn control_result(c: &mut Cursor) -> Get<ControlResult> {
    let (id, node) = (c.array()?, node(c)?);
    let (ok, done) = (c.bool("ok")?, c.bool("done")?);
    Ok(ControlResult { id, node, ok, body: c.blob(MAX_CONTROL_BLOCK, "body")?, done })
}
