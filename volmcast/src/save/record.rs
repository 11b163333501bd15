//! Layout of one record in the save volume: 64 bytes of header, then the body as it travels.
//!
//! The body (a chunk or a set header) carries its own checksums; the header ties it to a volume and
//! to one log position, so that a stale, misplaced or foreign record is never taken for a live one.

use rcp::proto::ids::{ChunkNumber, SetNumber, VolumeId};

use crate::units::LogPos;

/// Bytes of a record header.
pub const HEADER_LEN: usize = 64;
const MAGIC: [u8; 4] = *b"RCPR";
const VERSION: u8 = 1;
/// Largest body: a 4 MiB payload with its header and extent table.
pub const MAX_BODY: u32 = 5 << 20;

/// What a record holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordKind {
    /// A chunk of a step.
    Chunk,
    /// The set header that closes a step.
    SetEnd,
    /// Nothing: the rest of the file before the ring wraps.
    Pad,
}

/// Header of one record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordHeader {
    /// What follows.
    pub kind: RecordKind,
    /// Bytes of body that follow, before rounding up to the alignment.
    pub body_len: u32,
    /// The position this record was written at.
    pub pos: LogPos,
    /// The volume it belongs to.
    pub volume: VolumeId,
    /// The state its step leads to.
    pub to: SetNumber,
    /// Which chunk of the step; the number of chunks for a set header.
    pub chunk: ChunkNumber,
}

/// Why bytes are not the record that was expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// Fewer bytes than a header has.
    #[error("{0} bytes where a record header of 64 bytes was expected")]
    Short(usize),
    /// Not a record at all.
    #[error("no record begins here")]
    Magic,
    /// Written by a newer program.
    #[error("record version {0} is not known to this program")]
    Version(u8),
    /// The header's checksum does not hold.
    #[error("the record header is damaged (checksum)")]
    Checksum,
    /// A field has a value no writer produces.
    #[error("the record header has an impossible {0}")]
    Field(&'static str),
    /// A record, but not the one that belongs here.
    #[error("a record of position {found} stands at position {expected}")]
    Misplaced {
        /// The position asked for.
        expected: LogPos,
        /// The position in the record.
        found: LogPos,
    },
    /// A record of another volume.
    #[error("a record of another volume ({0}) stands here")]
    Foreign(VolumeId),
}

impl RecordHeader {
    /// The 64 bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; HEADER_LEN] {
        let mut b = [0u8; HEADER_LEN];
        b[0..4].copy_from_slice(&MAGIC);
        b[4] = VERSION;
        b[5] = match self.kind {
            RecordKind::Chunk => 1,
            RecordKind::SetEnd => 2,
            RecordKind::Pad => 3,
        };
        b[8..12].copy_from_slice(&self.body_len.to_le_bytes());
        b[16..24].copy_from_slice(&self.pos.0.to_le_bytes());
        b[24..40].copy_from_slice(&self.volume.0);
        b[40..48].copy_from_slice(&self.to.0.to_le_bytes());
        b[48..52].copy_from_slice(&self.chunk.0.to_le_bytes());
        let crc = crc32c::crc32c(&b[..60]);
        b[60..64].copy_from_slice(&crc.to_le_bytes());
        b
    }

    /// Reads and checks a header that must belong to `volume` and stand at `pos`.
    ///
    /// # Errors
    /// [`RecordError`] says what is wrong with the bytes.
    pub fn decode(b: &[u8], volume: VolumeId, pos: LogPos) -> Result<Self, RecordError> {
        let Some(b) = b.first_chunk::<HEADER_LEN>() else {
            return Err(RecordError::Short(b.len()));
        };
        if b[0..4] != MAGIC {
            return Err(RecordError::Magic);
        }
        if crc32c::crc32c(&b[..60]) != u32_at(b, 60) {
            return Err(RecordError::Checksum);
        }
        if b[4] != VERSION {
            return Err(RecordError::Version(b[4]));
        }
        let kind = match b[5] {
            1 => RecordKind::Chunk,
            2 => RecordKind::SetEnd,
            3 => RecordKind::Pad,
            _ => return Err(RecordError::Field("kind")),
        };
        let mut id = [0u8; 16];
        id.copy_from_slice(&b[24..40]);
        let h = Self {
            kind,
            body_len: u32_at(b, 8),
            pos: LogPos(u64_at(b, 16)),
            volume: VolumeId(id),
            to: SetNumber(u64_at(b, 40)),
            chunk: ChunkNumber(u32_at(b, 48)),
        };
        if h.volume != volume {
            return Err(RecordError::Foreign(h.volume));
        }
        if h.pos != pos {
            return Err(RecordError::Misplaced { expected: pos, found: h.pos });
        }
        if kind != RecordKind::Pad && h.body_len > MAX_BODY {
            return Err(RecordError::Field("length"));
        }
        if b[6..8] != [0; 2] || b[12..16] != [0; 4] || b[52..60] != [0; 8] {
            return Err(RecordError::Field("reserved field"));
        }
        Ok(h)
    }
}

fn u32_at(b: &[u8; HEADER_LEN], at: usize) -> u32 {
    let mut x = [0u8; 4];
    x.copy_from_slice(&b[at..at + 4]);
    u32::from_le_bytes(x)
}

fn u64_at(b: &[u8; HEADER_LEN], at: usize) -> u64 {
    let mut x = [0u8; 8];
    x.copy_from_slice(&b[at..at + 8]);
    u64::from_le_bytes(x)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> RecordHeader {
        RecordHeader {
            kind: RecordKind::Chunk,
            body_len: 0x0102_0304,
            pos: LogPos(0x40),
            volume: VolumeId([0xaa; 16]),
            to: SetNumber(7),
            chunk: ChunkNumber(3),
        }
    }

    #[test]
    fn golden_vector() {
        let h = RecordHeader { body_len: 0x0002_0304, ..sample() };
        let hex: String = h.encode().iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(
            hex,
            concat!(
                "52435052",                         // magic RCPR
                "01",                               // version
                "01",                               // kind: chunk
                "0000",                             // reserved
                "04030200",                         // body length
                "00000000",                         // reserved
                "4000000000000000",                 // log position
                "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", // volume
                "0700000000000000",                 // state the step leads to
                "03000000",                         // chunk number
                "0000000000000000",                 // reserved
                "048d8d65",                         // CRC32C of the 60 bytes before
            )
        );
        assert_eq!(RecordHeader::decode(&h.encode(), h.volume, h.pos), Ok(h));
    }

    #[test]
    fn every_bit_counts() {
        let h = RecordHeader { body_len: 4096, ..sample() };
        let good = h.encode();
        for bit in 0..HEADER_LEN * 8 {
            let mut b = good;
            b[bit / 8] ^= 1 << (bit % 8);
            assert!(RecordHeader::decode(&b, h.volume, h.pos).is_err(), "bit {bit}");
        }
        assert_eq!(
            RecordHeader::decode(&[0; 64], h.volume, h.pos),
            Err(RecordError::Magic),
            "zero-filled input is never a record"
        );
        assert_eq!(
            RecordHeader::decode(&good, h.volume, LogPos(0)),
            Err(RecordError::Misplaced { expected: LogPos(0), found: h.pos })
        );
        assert_eq!(
            RecordHeader::decode(&good, VolumeId([1; 16]), h.pos),
            Err(RecordError::Foreign(h.volume))
        );
    }
}
