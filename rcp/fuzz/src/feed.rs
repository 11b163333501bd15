//! Decisions and values out of the bytes that a fuzzer makes up. At the end of the bytes everything
//! is zero.

use std::time::Duration;

use bytes::Bytes;
use rcp::proto::delta::MAGIC;
use rcp::proto::frame::{Frame, FrameHeader, FrameType, Role};
use rcp::proto::ids::{GroupName, NodeName};
use rcp::proto::limits::{CHUNK_HEADER_LEN, FRAME_HEADER_LEN, SET_HEADER_LEN};
use rcp::proto::session::{Peers, SessionConfig, VERSIONS};

/// Bytes that are used up from the front.
#[derive(Debug)]
pub struct Feed<'a>(&'a [u8]);

impl<'a> Feed<'a> {
    pub fn new(data: &'a [u8]) -> Self {
        Self(data)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn rest(&self) -> &'a [u8] {
        self.0
    }

    pub fn take(&mut self, n: usize) -> &'a [u8] {
        let (now, later) = self.0.split_at(n.min(self.0.len()));
        self.0 = later;
        now
    }

    pub fn byte(&mut self) -> u8 {
        self.take(1).first().copied().unwrap_or(0)
    }

    pub fn u16(&mut self) -> u16 {
        u16::from_le_bytes([self.byte(), self.byte()])
    }

    pub fn flag(&mut self) -> bool {
        self.byte() & 1 == 1
    }

    pub fn role(&mut self) -> Role {
        if self.flag() { Role::Sender } else { Role::Receiver }
    }

    /// A few names, so that some of them are alike.
    pub fn node(&mut self) -> NodeName {
        let n = ["here", "there", "cel1-ser1", "leaf-7", "prim", "x"][usize::from(self.byte() % 6)];
        NodeName::new(n).expect("a name")
    }

    pub fn group(&mut self) -> GroupName {
        let g = ["g1", "g1", "g-1", "other"][usize::from(self.byte() % 4)];
        GroupName::new(g).expect("a name")
    }

    fn peers(&mut self) -> Peers {
        match self.byte() % 4 {
            0 => Peers::Only((0..self.byte() % 3).map(|_| self.node()).collect()),
            _ => Peers::Any,
        }
    }

    pub fn config(&mut self) -> SessionConfig {
        let newest = self.byte() % 4;
        SessionConfig {
            versions: match newest {
                0 => (u16::from(self.byte() % 4), u16::from(self.byte() % 4)),
                _ => VERSIONS,
            },
            node: self.node(),
            instance: [self.byte(); 16],
            group: self.group(),
            path: (0..self.byte() % 4).map(|_| self.node()).collect(),
            feeder: u32::from(self.byte()),
            keepalive: Duration::from_millis(u64::from(self.u16())),
            feeders: self.peers(),
            children: self.peers(),
            ask: self.flag(),
            join: None,
        }
    }

    /// A frame whose checksums hold: its type and stream, the length of its body, its body.
    pub fn frame(&mut self) -> Option<Frame> {
        let t = FrameType::ALL[usize::from(self.byte()) % FrameType::ALL.len()];
        let stream = if t.is_stream() { u16::from(self.byte()) } else { 0 };
        let len = usize::from(self.u16());
        let body = self.take(len).to_vec();
        let mut all = vec![0; FRAME_HEADER_LEN];
        all[..4].copy_from_slice(&u32::try_from(body.len()).unwrap_or(u32::MAX).to_le_bytes());
        all[4] = t.number();
        all[6..8].copy_from_slice(&stream.to_le_bytes());
        all.extend(body);
        seal(&mut all);
        parse(&all)
    }
}

/// A frame from exactly these bytes.
pub fn parse(all: &[u8]) -> Option<Frame> {
    let (head, body) = all.split_first_chunk::<FRAME_HEADER_LEN>()?;
    let header = FrameHeader::parse(head).ok()?;
    Frame::decode(&header, Bytes::copy_from_slice(body)).ok()
}

/// Writes checksums that hold into a frame, and into the chunk or set header in it: what is behind
/// a checksum is reached by nobody who has to guess it.
pub fn seal(all: &mut [u8]) {
    if all.len() < FRAME_HEADER_LEN {
        return;
    }
    let (head, body) = all.split_at_mut(FRAME_HEADER_LEN);
    let prefix = FrameType::from_number(head[4]).and_then(FrameType::data_prefix);
    if let Some(content) = prefix.and_then(|p| body.get_mut(p..)) {
        seal_content(content);
    }
    let covered = prefix.unwrap_or(body.len()).min(body.len());
    let crc = crc32c::crc32c(&body[..covered]);
    head[8..12].copy_from_slice(&crc.to_le_bytes());
    let crc = crc32c::crc32c(&head[..12]);
    head[12..16].copy_from_slice(&crc.to_le_bytes());
}

/// The same for a chunk or a set header.
pub fn seal_content(b: &mut [u8]) {
    let last = |b: &mut [u8], n: usize| {
        let crc = crc32c::crc32c(&b[..n - 4]);
        b[n - 4..n].copy_from_slice(&crc.to_le_bytes());
    };
    if !b.starts_with(&MAGIC) {
        return;
    }
    if b.len() == SET_HEADER_LEN && b[6] == 2 {
        last(b, SET_HEADER_LEN);
    } else if b.len() > CHUNK_HEADER_LEN {
        let len = u32::try_from(b.len()).unwrap_or(u32::MAX);
        b[12..16].copy_from_slice(&len.to_le_bytes());
        let crc = crc32c::crc32c(&b[CHUNK_HEADER_LEN..]);
        b[120..124].copy_from_slice(&crc.to_le_bytes());
        last(b, CHUNK_HEADER_LEN);
    }
}
