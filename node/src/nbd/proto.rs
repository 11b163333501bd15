//! The transmission phase to the byte (NBD, `doc/proto.md`): requests, replies, and the judgement
//! of a request against an export. Pure functions.

use super::export::{Errno, ExportInfo, Extent};
use super::limits::MAX_PAYLOAD;

/// Magic of a request.
pub const REQUEST_MAGIC: u32 = 0x2560_9513;
/// Magic of a simple reply.
pub const SIMPLE_MAGIC: u32 = 0x6744_6698;
/// Magic of a structured reply chunk.
pub const CHUNK_MAGIC: u32 = 0x668e_33ef;
/// Length of a request without payload.
pub const REQUEST_LEN: usize = 28;
/// Length of a simple reply without data.
pub const SIMPLE_LEN: usize = 16;
/// Length of a chunk's header.
pub const CHUNK_LEN: usize = 20;
/// Length of what precedes the bytes of a data chunk.
pub const DATA_CHUNK_LEN: usize = CHUNK_LEN + 8;

/// Commands.
pub mod cmd {
    #![expect(missing_docs, reason = "the names are those of the specification")]
    pub const READ: u16 = 0;
    pub const WRITE: u16 = 1;
    pub const DISC: u16 = 2;
    pub const FLUSH: u16 = 3;
    pub const TRIM: u16 = 4;
    pub const CACHE: u16 = 5;
    pub const WRITE_ZEROES: u16 = 6;
    pub const BLOCK_STATUS: u16 = 7;

    pub const FLAG_FUA: u16 = 1 << 0;
    pub const FLAG_NO_HOLE: u16 = 1 << 1;
    pub const FLAG_DF: u16 = 1 << 2;
    pub const FLAG_REQ_ONE: u16 = 1 << 3;
    pub const FLAG_FAST_ZERO: u16 = 1 << 4;
}

/// Transmission flags.
pub mod flag {
    #![expect(missing_docs, reason = "the names are those of the specification")]
    pub const HAS_FLAGS: u16 = 1 << 0;
    pub const READ_ONLY: u16 = 1 << 1;
    pub const SEND_FLUSH: u16 = 1 << 2;
    pub const SEND_FUA: u16 = 1 << 3;
    pub const ROTATIONAL: u16 = 1 << 4;
    pub const SEND_TRIM: u16 = 1 << 5;
    pub const SEND_WRITE_ZEROES: u16 = 1 << 6;
    pub const SEND_DF: u16 = 1 << 7;
    pub const CAN_MULTI_CONN: u16 = 1 << 8;
    pub const SEND_CACHE: u16 = 1 << 10;
    pub const SEND_FAST_ZERO: u16 = 1 << 11;
}

/// Structured reply chunks.
pub mod chunk {
    #![expect(missing_docs, reason = "the names are those of the specification")]
    pub const FLAG_DONE: u16 = 1;
    pub const NONE: u16 = 0;
    pub const OFFSET_DATA: u16 = 1;
    pub const OFFSET_HOLE: u16 = 2;
    pub const BLOCK_STATUS: u16 = 5;
    pub const ERROR: u16 = (1 << 15) + 1;
    pub const ERROR_OFFSET: u16 = (1 << 15) + 2;

    pub const STATE_HOLE: u32 = 1;
    pub const STATE_ZERO: u32 = 2;
}

/// What option haggling agreed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Negotiated {
    /// Structured replies are spoken.
    pub structured: bool,
    /// `base:allocation` was selected, under [`CONTEXT_ID`].
    pub block_status: bool,
}

/// The id under which `base:allocation` is reported.
pub const CONTEXT_ID: u32 = 1;

/// A request as it came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request {
    /// Command flags.
    pub flags: u16,
    /// Command.
    pub command: u16,
    /// Returned in every reply.
    pub cookie: u64,
    /// First byte.
    pub offset: u64,
    /// Bytes.
    pub len: u32,
}

/// The client is out of step: nothing after this can be understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("request magic is {0:#010x}")]
pub struct BadMagic(pub u32);

impl Request {
    /// Reads a header.
    pub fn parse(b: &[u8; REQUEST_LEN]) -> Result<Self, BadMagic> {
        let [m0, m1, m2, m3, f0, f1, c0, c1, rest @ ..] = *b;
        let magic = u32::from_be_bytes([m0, m1, m2, m3]);
        if magic != REQUEST_MAGIC {
            return Err(BadMagic(magic));
        }
        let [k0, k1, k2, k3, k4, k5, k6, k7, o0, o1, o2, o3, o4, o5, o6, o7, l0, l1, l2, l3] = rest;
        Ok(Self {
            flags: u16::from_be_bytes([f0, f1]),
            command: u16::from_be_bytes([c0, c1]),
            cookie: u64::from_be_bytes([k0, k1, k2, k3, k4, k5, k6, k7]),
            offset: u64::from_be_bytes([o0, o1, o2, o3, o4, o5, o6, o7]),
            len: u32::from_be_bytes([l0, l1, l2, l3]),
        })
    }

    /// Writes a header.
    pub fn encode(&self) -> [u8; REQUEST_LEN] {
        let mut b = [0; REQUEST_LEN];
        b[0..4].copy_from_slice(&REQUEST_MAGIC.to_be_bytes());
        b[4..6].copy_from_slice(&self.flags.to_be_bytes());
        b[6..8].copy_from_slice(&self.command.to_be_bytes());
        b[8..16].copy_from_slice(&self.cookie.to_be_bytes());
        b[16..24].copy_from_slice(&self.offset.to_be_bytes());
        b[24..28].copy_from_slice(&self.len.to_be_bytes());
        b
    }

    /// Bytes that follow the header, whatever becomes of the request.
    pub fn payload(&self) -> u32 {
        if self.command == cmd::WRITE { self.len } else { 0 }
    }
}

/// A request that may be carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    /// Send the range; in one chunk if `df`.
    Read {
        /// Do not fragment.
        df: bool,
    },
    /// Store the payload.
    Write {
        /// Durable before the reply.
        fua: bool,
    },
    /// End of the connection; no reply.
    Disc,
    /// Make durable.
    Flush,
    /// Forget the range.
    Trim {
        /// Durable before the reply.
        fua: bool,
    },
    /// Zero the range.
    Zero {
        /// Durable before the reply.
        fua: bool,
        /// Keep it allocated.
        no_hole: bool,
        /// Fail rather than be slow.
        fast: bool,
    },
    /// Read ahead.
    Cache,
    /// Say what is allocated.
    BlockStatus {
        /// One extent is enough.
        one: bool,
    },
}

/// The transmission flags of an export.
pub fn transmission_flags(info: &ExportInfo, negotiated: Negotiated) -> u16 {
    let mut f = flag::HAS_FLAGS;
    let mut set = |on: bool, bit: u16| f |= if on { bit } else { 0 };
    let writable = !info.read_only;
    set(info.read_only, flag::READ_ONLY);
    set(writable, flag::SEND_FLUSH | flag::SEND_FUA);
    set(writable && info.can_trim, flag::SEND_TRIM);
    set(writable && info.can_zero, flag::SEND_WRITE_ZEROES);
    set(writable && info.can_zero && info.can_fast_zero, flag::SEND_FAST_ZERO);
    set(info.can_multi_conn, flag::CAN_MULTI_CONN);
    set(info.can_cache, flag::SEND_CACHE);
    set(negotiated.structured, flag::SEND_DF);
    f
}

/// Judges a request: what to do, or the error to answer with. Never panics, never wraps.
pub fn check(r: &Request, info: &ExportInfo, negotiated: Negotiated) -> Result<Op, Errno> {
    let has = |bit: u16| r.flags & bit != 0;
    // FUA is valid on every command, with no meaning on those that do not write
    let allowed = cmd::FLAG_FUA
        | match r.command {
            cmd::READ if negotiated.structured => cmd::FLAG_DF,
            cmd::WRITE_ZEROES if info.can_fast_zero => cmd::FLAG_NO_HOLE | cmd::FLAG_FAST_ZERO,
            cmd::WRITE_ZEROES => cmd::FLAG_NO_HOLE,
            cmd::BLOCK_STATUS => cmd::FLAG_REQ_ONE,
            _ => 0,
        };
    if r.command == cmd::DISC {
        return Ok(Op::Disc);
    }
    if r.flags & !allowed != 0 {
        return Err(Errno::Inval);
    }
    let fua = has(cmd::FLAG_FUA);
    let inside = r.offset.checked_add(u64::from(r.len)).is_some_and(|end| end <= info.size);
    let writes = matches!(r.command, cmd::WRITE | cmd::TRIM | cmd::WRITE_ZEROES);
    if writes && info.read_only {
        return Err(Errno::Perm);
    }
    let offered = match r.command {
        cmd::READ | cmd::WRITE | cmd::FLUSH => true,
        cmd::TRIM => info.can_trim,
        cmd::WRITE_ZEROES => info.can_zero,
        cmd::CACHE => info.can_cache,
        cmd::BLOCK_STATUS => negotiated.block_status && r.len != 0,
        _ => false,
    };
    if !offered {
        return Err(Errno::Inval);
    }
    if r.command == cmd::FLUSH {
        return if r.offset == 0 && r.len == 0 { Ok(Op::Flush) } else { Err(Errno::Inval) };
    }
    if !inside {
        return Err(if writes { Errno::NoSpc } else { Errno::Inval });
    }
    if matches!(r.command, cmd::READ | cmd::WRITE) && r.len > MAX_PAYLOAD {
        return Err(Errno::Overflow);
    }
    Ok(match r.command {
        cmd::READ => Op::Read { df: has(cmd::FLAG_DF) },
        cmd::WRITE => Op::Write { fua },
        cmd::TRIM => Op::Trim { fua },
        cmd::WRITE_ZEROES => {
            Op::Zero { fua, no_hole: has(cmd::FLAG_NO_HOLE), fast: has(cmd::FLAG_FAST_ZERO) }
        }
        cmd::CACHE => Op::Cache,
        _ => Op::BlockStatus { one: has(cmd::FLAG_REQ_ONE) },
    })
}

/// A simple reply; `None` is success.
pub fn simple(cookie: u64, error: Option<Errno>) -> [u8; SIMPLE_LEN] {
    let mut b = [0; SIMPLE_LEN];
    b[0..4].copy_from_slice(&SIMPLE_MAGIC.to_be_bytes());
    b[4..8].copy_from_slice(&error.map_or(0, Errno::wire).to_be_bytes());
    b[8..16].copy_from_slice(&cookie.to_be_bytes());
    b
}

/// The header of a chunk with `len` bytes of payload.
pub fn chunk_header(cookie: u64, kind: u16, done: bool, len: u32) -> [u8; CHUNK_LEN] {
    let mut b = [0; CHUNK_LEN];
    b[0..4].copy_from_slice(&CHUNK_MAGIC.to_be_bytes());
    b[4..6].copy_from_slice(&u16::from(done).to_be_bytes());
    b[6..8].copy_from_slice(&kind.to_be_bytes());
    b[8..16].copy_from_slice(&cookie.to_be_bytes());
    b[16..20].copy_from_slice(&len.to_be_bytes());
    b
}

/// What precedes `len` bytes of data at `offset`. `len` is at most [`MAX_PAYLOAD`].
pub fn data_chunk(cookie: u64, done: bool, offset: u64, len: u32) -> [u8; DATA_CHUNK_LEN] {
    let mut b = [0; DATA_CHUNK_LEN];
    let header = chunk_header(cookie, chunk::OFFSET_DATA, done, len.saturating_add(8));
    b[..CHUNK_LEN].copy_from_slice(&header);
    b[CHUNK_LEN..].copy_from_slice(&offset.to_be_bytes());
    b
}

/// A whole hole chunk.
pub fn hole_chunk(cookie: u64, done: bool, offset: u64, len: u32) -> [u8; CHUNK_LEN + 12] {
    let mut b = [0; CHUNK_LEN + 12];
    b[..CHUNK_LEN].copy_from_slice(&chunk_header(cookie, chunk::OFFSET_HOLE, done, 12));
    b[CHUNK_LEN..CHUNK_LEN + 8].copy_from_slice(&offset.to_be_bytes());
    b[CHUNK_LEN + 8..].copy_from_slice(&len.to_be_bytes());
    b
}

/// Appends a final error: a chunk with text for a person where chunks are spoken.
pub fn error(out: &mut Vec<u8>, cookie: u64, errno: Errno, structured: bool) {
    if !structured {
        out.extend_from_slice(&simple(cookie, Some(errno)));
        return;
    }
    let text = errno.text().as_bytes();
    let text_len = u16::try_from(text.len()).unwrap_or(0);
    let text = &text[..usize::from(text_len)];
    let len = 6 + u32::from(text_len);
    out.extend_from_slice(&chunk_header(cookie, chunk::ERROR, true, len));
    out.extend_from_slice(&errno.wire().to_be_bytes());
    out.extend_from_slice(&text_len.to_be_bytes());
    out.extend_from_slice(text);
}

/// Appends the reply to BLOCK_STATUS for a request of `len` bytes: extents are clipped to it,
/// neighbours of one kind are joined. No usable extent reads as "allocated data".
pub fn block_status(out: &mut Vec<u8>, cookie: u64, len: u32, extents: &[Extent], one: bool) {
    let mut joined: Vec<(u32, u32)> = Vec::with_capacity(extents.len().min(64));
    let mut left = len;
    for e in extents {
        let part = u32::try_from(e.len).unwrap_or(u32::MAX).min(left);
        let state =
            if e.hole { chunk::STATE_HOLE } else { 0 } | if e.zero { chunk::STATE_ZERO } else { 0 };
        if part == 0 {
            continue;
        }
        left -= part;
        match joined.last_mut() {
            Some((l, s)) if *s == state => *l += part,
            _ => joined.push((part, state)),
        }
    }
    if joined.is_empty() {
        joined.push((len, 0));
    }
    if one {
        joined.truncate(1);
    }
    let body = u32::try_from(4 + 8 * joined.len()).unwrap_or(u32::MAX);
    out.extend_from_slice(&chunk_header(cookie, chunk::BLOCK_STATUS, true, body));
    out.extend_from_slice(&CONTEXT_ID.to_be_bytes());
    for (l, s) in joined {
        out.extend_from_slice(&l.to_be_bytes());
        out.extend_from_slice(&s.to_be_bytes());
    }
}

#[cfg(test)]
#[path = "proto_tests.rs"]
mod tests;
