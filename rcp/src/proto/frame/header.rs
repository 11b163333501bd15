//! The fixed header of a frame and the numbers of the types.

use std::fmt;

use super::super::limits::{
    CHUNK_HEADER_LEN, FRAME_HEADER_LEN, MAX_CONTROL_BODY, MAX_DATA_BODY, SET_HEADER_LEN,
};
use super::super::wire::{put, u16_at, u32_at};
use super::{FrameError, StreamId};

macro_rules! frame_types {
    ($($name:ident = $n:literal,)*) => {
        /// Which frame; the number on the wire is its discriminant.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        #[allow(missing_docs)] // each is described at its variant of `Frame`
        pub enum FrameType { $($name = $n,)* }

        impl FrameType {
            /// All of them, by number.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// The type with this number.
            #[must_use]
            pub fn from_number(n: u8) -> Option<Self> {
                match n {
                    $($n => Some(Self::$name),)*
                    _ => None,
                }
            }

            /// Its name, as in `PROTOCOL.md`.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Self::$name => stringify!($name),)* }
            }
        }
    };
}

frame_types! {
    Hello = 1,
    Welcome = 2,
    Refuse = 3,
    Goodbye = 4,
    Ping = 5,
    Pong = 6,
    Join = 7,
    Joined = 8,
    Place = 9,
    Placed = 10,
    Offer = 16,
    Withdraw = 17,
    Attach = 18,
    Start = 19,
    StreamError = 20,
    Fence = 21,
    Doubt = 22,
    Compare = 23,
    Chunk = 32,
    SetEnd = 33,
    Saved = 34,
    Credit = 35,
    Heartbeat = 36,
    Report = 37,
    Clock = 38,
    Sums = 39,
    SeedData = 48,
    SeedEnd = 49,
    SeedAck = 50,
    Control = 64,
    ControlResult = 65,
    Probe = 66,
    ProbeReply = 67,
    RouteReport = 68,
}

impl FrameType {
    /// The number on the wire.
    #[must_use]
    pub fn number(self) -> u8 {
        self as u8
    }

    /// Bytes of the fixed part before the chunk or set header, for the three types that carry one.
    #[must_use]
    pub fn data_prefix(self) -> Option<usize> {
        match self {
            Self::Chunk | Self::SetEnd => Some(12),
            Self::SeedData => Some(28),
            _ => None,
        }
    }

    /// Whether it belongs to a stream.
    #[must_use]
    pub fn is_stream(self) -> bool {
        use FrameType as T;
        let n = self.number();
        (T::Offer.number()..=T::SeedAck.number()).contains(&n)
    }

    /// Whether it goes down a stream, and what comes before and after it there matters.
    #[must_use]
    pub fn is_in_order(self) -> bool {
        matches!(
            self,
            Self::Offer
                | Self::Withdraw
                | Self::Start
                | Self::StreamError
                | Self::Chunk
                | Self::SetEnd
                | Self::Heartbeat
                | Self::Clock
                | Self::SeedData
                | Self::SeedEnd
        )
    }

    /// Whether a body may have this length.
    fn allows(self, len: usize) -> bool {
        match (self, self.data_prefix()) {
            (Self::SetEnd, Some(prefix)) => len == prefix + SET_HEADER_LEN,
            (_, Some(prefix)) => len > prefix + CHUNK_HEADER_LEN && len <= MAX_DATA_BODY,
            (_, None) => len <= MAX_CONTROL_BODY,
        }
    }
}

impl fmt::Display for FrameType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// The first 16 bytes of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHeader {
    /// Bytes that follow; within the limits of the type.
    pub body_len: u32,
    /// Which frame.
    pub frame_type: FrameType,
    /// Of which stream; 0 for frames of the session.
    pub stream: StreamId,
    /// CRC32C of the body, or of its fixed part in frames that carry a chunk or set header.
    pub body_crc: u32,
}

impl FrameHeader {
    /// Reads and checks a header, before anything is allocated for the body.
    ///
    /// # Errors
    /// [`FrameError`] if it is damaged, of an unknown type, or announces a body over the limits.
    pub fn parse(b: &[u8; FRAME_HEADER_LEN]) -> Result<Self, FrameError> {
        if crc32c::crc32c(&b[..12]) != u32_at(b, 12) {
            return Err(FrameError::HeaderChecksum);
        }
        let frame_type = FrameType::from_number(b[4]).ok_or(FrameError::UnknownType(b[4]))?;
        if b[5] != 0 {
            return Err(FrameError::Flags(b[5]));
        }
        let stream = StreamId(u16_at(b, 6));
        if stream != StreamId(0) && !frame_type.is_stream() {
            return Err(FrameError::Stream(frame_type));
        }
        let header = Self { body_len: u32_at(b, 0), frame_type, stream, body_crc: u32_at(b, 8) };
        if frame_type.allows(header.len()) {
            Ok(header)
        } else {
            Err(FrameError::Length { frame: frame_type, have: header.len() })
        }
    }

    /// Bytes that follow.
    #[must_use]
    pub fn len(&self) -> usize {
        usize::try_from(self.body_len).unwrap_or(usize::MAX)
    }

    /// Whether nothing follows.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.body_len == 0
    }

    /// Makes the header of a body of `len` bytes.
    pub(super) fn build(
        frame_type: FrameType,
        stream: StreamId,
        len: usize,
        body_crc: u32,
    ) -> Result<[u8; FRAME_HEADER_LEN], FrameError> {
        let bad = FrameError::Length { frame: frame_type, have: len };
        if !frame_type.allows(len) {
            return Err(bad);
        }
        let mut b = [0u8; FRAME_HEADER_LEN];
        put(&mut b, 0, &u32::try_from(len).map_err(|_| bad)?.to_le_bytes());
        b[4] = frame_type.number();
        put(&mut b, 6, &stream.0.to_le_bytes());
        put(&mut b, 8, &body_crc.to_le_bytes());
        let crc = crc32c::crc32c(&b[..12]);
        put(&mut b, 12, &crc.to_le_bytes());
        Ok(b)
    }
}
