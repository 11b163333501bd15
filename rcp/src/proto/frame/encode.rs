//! Frames to bytes.

use bytes::{BufMut, Bytes, BytesMut};

use super::super::ids::MAX_NAME;
use super::super::ids::{Generation, NodeName};
use super::super::limits::{
    FRAME_HEADER_LEN, MAX_CONTROL_BLOCK, MAX_CONTROL_KIND, MAX_DOUBTS, MAX_HISTORY, MAX_LEAF_TEXT,
    MAX_PATH, MAX_PROBE_VOLUMES, MAX_REPORT_LEAVES, MAX_REPORT_STATES, MAX_ROUTE_HOPS,
    MAX_ROUTE_NODES, MAX_SUMS, MAX_TEXT, max_blocks,
};
use super::super::wire::put_text;
use super::{
    Attach, Branch, ControlBlock, ControlResult, Frame, FrameError, FrameHeader, FrameType, Hello,
    JoinKey, Offer, Report, Role, Start, StartMode, WITH_JOINS, Welcome,
};

impl Frame {
    /// Appends the frame to `out`: a small head, and the chunk or set header by reference if it
    /// carries one.
    ///
    /// # Errors
    /// [`FrameError`] if a list or body is over its limit; `out` is then unchanged. Texts are cut
    /// to their limits instead.
    pub fn encode(&self, out: &mut Vec<Bytes>) -> Result<(), FrameError> {
        let mut head = BytesMut::with_capacity(128);
        let tail = self.encode_head(&mut head)?;
        out.push(head.freeze());
        out.extend(tail);
        Ok(())
    }

    /// Appends all of the frame but the chunk or set header to `head`, and gives that, if it
    /// carries one: to gather many small frames in one buffer.
    ///
    /// # Errors
    /// As [`encode`](Self::encode); `head` is then unchanged.
    pub fn encode_head(&self, head: &mut BytesMut) -> Result<Option<Bytes>, FrameError> {
        let start = head.len();
        head.put_bytes(0, FRAME_HEADER_LEN);
        let done = self.encode_at(head, start);
        if done.is_err() {
            head.truncate(start);
        }
        done
    }

    fn encode_at(&self, head: &mut BytesMut, start: usize) -> Result<Option<Bytes>, FrameError> {
        let frame_type = self.frame_type();
        let tail = self.put_body(head)?;
        let body = &head[start + FRAME_HEADER_LEN..];
        let len = body.len() + tail.as_ref().map_or(0, Bytes::len);
        let header = FrameHeader::build(frame_type, self.stream(), len, crc32c::crc32c(body))?;
        head[start..start + FRAME_HEADER_LEN].copy_from_slice(&header);
        Ok(tail)
    }

    fn put_body(&self, b: &mut BytesMut) -> Result<Option<Bytes>, FrameError> {
        match self {
            Self::Hello(x) => put_hello(b, x)?,
            Self::Welcome(x) => put_welcome(b, x)?,
            Self::Refuse { code, text } => put_coded(b, code.number(), text),
            Self::Goodbye { code, text } => put_coded(b, code.number(), text),
            Self::StreamError { code, text, .. } => put_coded(b, *code, text),
            Self::Fence { history, text, .. } => {
                put_history(b, FrameType::Fence, history)?;
                put_text(b, text, MAX_TEXT);
            }
            Self::Doubt { runs, .. } => {
                put_count(b, FrameType::Doubt, "runs", runs.len(), MAX_DOUBTS)?;
                runs.iter().for_each(|(first, count)| put_u64s(b, &[*first, *count]));
            }
            Self::Compare { first, each, sums, .. } => {
                put_u64s(b, &[*first, *each]);
                b.put_u16_le(*sums);
            }
            Self::Sums { state, first, each, sums, text, .. } => {
                put_u64s(b, &[state.0, *first, *each]);
                put_count(b, FrameType::Sums, "sums", sums.len(), MAX_SUMS)?;
                sums.iter().for_each(|s| b.put_u128_le(*s));
                put_text(b, text, MAX_TEXT);
            }
            Self::Ping { nonce: n }
            | Self::Pong { nonce: n }
            | Self::Joined { session: n }
            | Self::Place { number: n }
            | Self::Placed { next: n } => b.put_u64_le(*n),
            Self::Join(x) => {
                put_name(b, x.node.as_str());
                put_key(b, &x.key);
            }
            Self::Offer(x) => put_offer(b, x)?,
            Self::Withdraw { text, .. } => put_text(b, text, MAX_TEXT),
            Self::Attach(x) => put_attach(b, x),
            Self::Start(x) => put_start(b, x),
            Self::Chunk { feeder, seq, body, .. } | Self::SetEnd { feeder, seq, body, .. } => {
                b.put_u32_le(*feeder);
                b.put_u64_le(*seq);
                return Ok(Some(body.clone()));
            }
            Self::SeedData { feeder, seq, next_block, view, body, .. } => {
                b.put_u32_le(*feeder);
                put_u64s(b, &[*seq, *next_block, view.0]);
                return Ok(Some(body.clone()));
            }
            Self::Saved { feeder, state, next_chunk, .. } => {
                b.put_u32_le(*feeder);
                b.put_u64_le(state.0);
                b.put_u32_le(next_chunk.0);
            }
            Self::Credit { total, .. } => b.put_u64_le(*total),
            Self::Clock { now, .. } => b.put_u64_le(now.0),
            Self::Heartbeat { state, as_of, newest, .. } => {
                put_u64s(b, &[state.0, as_of.0, newest.0]);
            }
            Self::Report(x) => put_report(b, x)?,
            Self::SeedEnd { feeder, need, .. } => {
                b.put_u32_le(*feeder);
                b.put_u64_le(need.0);
            }
            Self::SeedAck { next_block, total, .. } => put_u64s(b, &[*next_block, *total]),
            Self::Control(x) => put_control(b, x)?,
            Self::ControlResult(x) => put_result(b, x)?,
            Self::Probe { group, path, volumes } => {
                put_name(b, group.as_str());
                put_path(b, FrameType::Probe, path)?;
                put_count(b, FrameType::Probe, "volumes", volumes.len(), MAX_PROBE_VOLUMES)?;
                volumes.iter().for_each(|v| b.put_slice(&v.0));
            }
            Self::ProbeReply { ok, text } => {
                b.put_u8(u8::from(*ok));
                put_text(b, text, MAX_TEXT);
            }
            Self::RouteReport { routes } => put_routes(b, routes)?,
        }
        Ok(None)
    }
}

fn put_u64s(b: &mut BytesMut, all: &[u64]) {
    all.iter().for_each(|n| b.put_u64_le(*n));
}

fn put_coded(b: &mut BytesMut, code: u16, text: &str) {
    b.put_u16_le(code);
    put_text(b, text, MAX_TEXT);
}

/// Names are checked when they are made: they always fit.
fn put_name(b: &mut BytesMut, name: &str) {
    put_text(b, name, MAX_NAME);
}

fn put_count(
    b: &mut BytesMut,
    frame: FrameType,
    field: &'static str,
    n: usize,
    max: usize,
) -> Result<(), FrameError> {
    match u16::try_from(n) {
        Ok(n16) if n <= max => {
            b.put_u16_le(n16);
            Ok(())
        }
        _ => Err(FrameError::TooLong { frame, field }),
    }
}

fn put_path(b: &mut BytesMut, frame: FrameType, path: &[NodeName]) -> Result<(), FrameError> {
    put_count(b, frame, "path", path.len(), MAX_PATH)?;
    path.iter().for_each(|n| put_name(b, n.as_str()));
    Ok(())
}

fn put_blob(b: &mut BytesMut, frame: FrameType, body: &Bytes) -> Result<(), FrameError> {
    match u32::try_from(body.len()) {
        Ok(n) if body.len() <= MAX_CONTROL_BLOCK => {
            b.put_u32_le(n);
            b.put_slice(body);
            Ok(())
        }
        _ => Err(FrameError::TooLong { frame, field: "body" }),
    }
}

fn put_generation(b: &mut BytesMut, g: &Generation) {
    b.put_u32_le(g.counter);
    b.put_slice(&g.id);
}

fn role_number(role: Role) -> u8 {
    match role {
        Role::Sender => 1,
        Role::Receiver => 2,
    }
}

fn put_hello(b: &mut BytesMut, x: &Hello) -> Result<(), FrameError> {
    b.put_u16_le(x.versions.0);
    b.put_u16_le(x.versions.1);
    put_name(b, x.node.as_str());
    b.put_slice(&x.instance);
    put_name(b, x.group.as_str());
    b.put_u8(role_number(x.role));
    put_path(b, FrameType::Hello, &x.path)?;
    b.put_u32_le(x.feeder);
    b.put_u32_le(x.keepalive_ms);
    Ok(())
}

fn put_welcome(b: &mut BytesMut, x: &Welcome) -> Result<(), FrameError> {
    b.put_u16_le(x.version);
    put_name(b, x.node.as_str());
    b.put_slice(&x.instance);
    put_name(b, x.group.as_str());
    b.put_u8(role_number(x.role));
    put_path(b, FrameType::Welcome, &x.path)?;
    b.put_u32_le(x.feeder);
    b.put_u32_le(x.keepalive_ms);
    if x.version >= WITH_JOINS {
        b.put_u8(u8::from(x.join.is_some()));
        if let Some(key) = &x.join {
            put_key(b, key);
        }
    }
    Ok(())
}

fn put_key(b: &mut BytesMut, key: &JoinKey) {
    b.put_u64_le(key.session);
    b.put_slice(&key.secret);
}

fn put_offer(b: &mut BytesMut, x: &Offer) -> Result<(), FrameError> {
    if x.volume_blocks > max_blocks(x.block_shift) {
        return Err(FrameError::TooLong { frame: FrameType::Offer, field: "volume" });
    }
    b.put_slice(&x.volume.0);
    put_name(b, x.label.as_str());
    b.put_u8(x.block_shift);
    b.put_u64_le(x.volume_blocks);
    b.put_u64_le(x.oldest.0);
    b.put_u64_le(x.newest.0);
    put_history(b, FrameType::Offer, &x.history)
}

fn put_history(b: &mut BytesMut, of: FrameType, history: &[Branch]) -> Result<(), FrameError> {
    put_count(b, of, "history", history.len(), MAX_HISTORY)?;
    for h in history {
        put_generation(b, &h.generation);
        b.put_u64_le(h.forked_from.0);
        put_name(b, h.opened_by.as_str());
        b.put_u64_le(h.opened_at.0);
    }
    Ok(())
}

fn put_attach(b: &mut BytesMut, x: &Attach) {
    b.put_u64_le(x.state.0);
    b.put_u8(u8::from(x.generation.is_some()));
    if let Some(g) = &x.generation {
        put_generation(b, g);
    }
    b.put_u8(u8::from(x.next.is_some()));
    if let Some(n) = &x.next {
        b.put_u32_le(n.attempt.0);
        b.put_u64_le(n.base.0);
        b.put_u64_le(n.to.0);
        b.put_u32_le(n.next_chunk.0);
    }
    b.put_u64_le(x.credit);
    b.put_u8(
        u8::from(x.wants_seed)
            | u8::from(x.over.is_some()) << 1
            | u8::from(x.stages.is_some()) << 2,
    );
    b.put_u64_le(x.seed_from_block);
    b.put_u64_le(x.folded.0);
    if let Some(over) = x.over {
        b.put_u64_le(over.0);
    }
    if let Some(stages) = x.stages {
        b.put_u64_le(stages);
    }
}

fn put_start(b: &mut BytesMut, x: &Start) {
    b.put_u8(match x.mode {
        StartMode::Resume => 1,
        StartMode::Wait => 2,
        StartMode::Seed => 3,
        StartMode::CatchUp { .. } => 4,
    });
    b.put_u64_le(x.from.0);
    b.put_u32_le(x.feeder);
    if let StartMode::CatchUp { blocks, bytes } = x.mode {
        b.put_u64_le(blocks);
        b.put_u64_le(bytes);
    }
    put_text(b, &x.reason, MAX_TEXT);
}

fn put_report(b: &mut BytesMut, x: &Report) -> Result<(), FrameError> {
    let t = FrameType::Report;
    b.put_u32_le(x.nodes);
    b.put_u64_le(x.played_min.0);
    b.put_u64_le(x.played_max.0);
    b.put_u64_le(x.saved_min.0);
    put_count(b, t, "by_state", x.by_state.len(), MAX_REPORT_STATES)?;
    for (state, n) in &x.by_state {
        b.put_u64_le(state.0);
        b.put_u32_le(*n);
    }
    put_count(b, t, "worst", x.worst.len(), MAX_REPORT_LEAVES)?;
    for leaf in &x.worst {
        put_name(b, leaf.node.as_str());
        b.put_u64_le(leaf.state.0);
        b.put_u64_le(leaf.lag_us);
        put_text(b, &leaf.text, MAX_LEAF_TEXT);
    }
    Ok(())
}

fn put_control(b: &mut BytesMut, x: &ControlBlock) -> Result<(), FrameError> {
    if x.kind.len() > MAX_CONTROL_KIND {
        return Err(FrameError::TooLong { frame: FrameType::Control, field: "kind" });
    }
    b.put_slice(&x.id);
    put_text(b, &x.kind, MAX_CONTROL_KIND);
    b.put_u8(u8::from(x.after.is_some()));
    if let Some(s) = &x.after {
        b.put_slice(&s.volume.0);
        put_generation(b, &s.generation);
        b.put_u64_le(s.set.0);
    }
    b.put_u8(x.hops);
    put_blob(b, FrameType::Control, &x.body)
}

fn put_result(b: &mut BytesMut, x: &ControlResult) -> Result<(), FrameError> {
    b.put_slice(&x.id);
    put_name(b, x.node.as_str());
    b.put_u8(u8::from(x.ok));
    b.put_u8(u8::from(x.done));
    put_blob(b, FrameType::ControlResult, &x.body)
}

fn put_routes(b: &mut BytesMut, routes: &[(NodeName, Vec<NodeName>)]) -> Result<(), FrameError> {
    let t = FrameType::RouteReport;
    put_count(b, t, "routes", routes.len(), MAX_ROUTE_NODES)?;
    for (node, hops) in routes {
        put_name(b, node.as_str());
        put_count(b, t, "next hops", hops.len(), MAX_ROUTE_HOPS)?;
        hops.iter().for_each(|h| put_name(b, h.as_str()));
    }
    Ok(())
}
