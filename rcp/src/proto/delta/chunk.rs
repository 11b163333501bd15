//! A chunk: its header, its extent table, its payload, and the proof that they are whole.

use bytes::{Bytes, BytesMut};

use super::super::ids::ChunkNumber;
use super::super::limits::{CHUNK_HEADER_LEN, EXTENT_LEN, MAX_EXTENTS, MAX_PAYLOAD, max_blocks};
use super::super::wire::{put, u32_at, u64_at};
use super::{
    ChunkFlags, DeltaError, Extent, ExtentKind, KIND_CHUNK, Preamble, StepId, check_step, compress,
};

/// The fixed part of a chunk, proved by its own checksum alone; enough to walk over a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkHeader {
    /// The step it belongs to.
    pub step: StepId,
    /// Its place in the step.
    pub number: ChunkNumber,
    /// Its flags.
    pub flags: ChunkFlags,
    /// The volume's block size, as a power of two.
    pub block_shift: u8,
    /// Entries of the extent table.
    pub extent_count: u32,
    /// Bytes of the payload as stored.
    pub stored_len: u32,
    /// Bytes of the payload when decompressed.
    pub raw_len: u32,
    /// Bytes of the whole chunk.
    pub total_len: u32,
    /// CRC32C of all bytes after the header.
    pub body_crc: u32,
}

impl ChunkHeader {
    /// Reads and checks the header at the beginning of `bytes`; the body may be missing.
    ///
    /// # Errors
    /// [`DeltaError`] says what is wrong; the body is not looked at.
    pub fn parse(bytes: &[u8]) -> Result<Self, DeltaError> {
        let b = bytes
            .first_chunk::<CHUNK_HEADER_LEN>()
            .ok_or(DeltaError::Length { have: bytes.len(), want: CHUNK_HEADER_LEN })?;
        let p = Preamble::read(b, KIND_CHUNK)?;
        if b[100..120].iter().any(|x| *x != 0) {
            return Err(DeltaError::Reserved);
        }
        let header = Self {
            step: p.step,
            number: ChunkNumber(p.number),
            flags: ChunkFlags::from_bits(p.flags)?,
            block_shift: p.block_shift,
            extent_count: u32_at(b, 88),
            stored_len: u32_at(b, 92),
            raw_len: u32_at(b, 96),
            total_len: p.total_len,
            body_crc: u32_at(b, 120),
        };
        header.check()?;
        Ok(header)
    }

    pub(super) fn encode(&self) -> [u8; CHUNK_HEADER_LEN] {
        let mut b = [0u8; CHUNK_HEADER_LEN];
        Preamble {
            kind: KIND_CHUNK,
            block_shift: self.block_shift,
            header_len: CHUNK_HEADER_LEN,
            total_len: self.total_len,
            flags: self.flags.bits(),
            number: self.number.0,
            step: self.step,
            key_id: 0,
        }
        .write(&mut b);
        put(&mut b, 88, &self.extent_count.to_le_bytes());
        put(&mut b, 92, &self.stored_len.to_le_bytes());
        put(&mut b, 96, &self.raw_len.to_le_bytes());
        put(&mut b, 120, &self.body_crc.to_le_bytes());
        let crc = crc32c::crc32c(&b[..CHUNK_HEADER_LEN - 4]);
        put(&mut b, CHUNK_HEADER_LEN - 4, &crc.to_le_bytes());
        b
    }

    /// The rules between the fields.
    pub(super) fn check(&self) -> Result<(), DeltaError> {
        if !(super::MIN_BLOCK_SHIFT..=super::MAX_BLOCK_SHIFT).contains(&self.block_shift) {
            return Err(DeltaError::Field("block size"));
        }
        check_step(&self.step, self.flags.contains(ChunkFlags::SEED))?;
        if self.extent_count == 0 || self.extents() > MAX_EXTENTS {
            return Err(DeltaError::Field("extent count"));
        }
        if self.raw() > MAX_PAYLOAD {
            return Err(DeltaError::Field("payload length"));
        }
        let zstd = self.flags.contains(ChunkFlags::ZSTD);
        let stored_ok = match zstd {
            true => self.stored_len > 0 && self.stored_len < self.raw_len,
            false => self.stored_len == self.raw_len,
        };
        if !stored_ok {
            return Err(DeltaError::Field("stored length"));
        }
        if self.payload_offset() + self.stored() != self.total() {
            return Err(DeltaError::Field("total length"));
        }
        Ok(())
    }

    /// Where the stored payload begins, from the beginning of the chunk. In a chunk that is not
    /// compressed, the content of an extent is at this plus [`PlacedExtent::offset`].
    #[must_use]
    pub fn payload_offset(&self) -> usize {
        CHUNK_HEADER_LEN + self.extents() * EXTENT_LEN
    }

    fn extents(&self) -> usize {
        wide(self.extent_count)
    }

    fn stored(&self) -> usize {
        wide(self.stored_len)
    }

    fn raw(&self) -> usize {
        wide(self.raw_len)
    }

    fn total(&self) -> usize {
        wide(self.total_len)
    }
}

/// Lengths on the wire have 32 bits; all machines we build for have at least that.
fn wide(n: u32) -> usize {
    usize::try_from(n).unwrap_or(usize::MAX >> 16)
}

/// A proved chunk: a view over the bytes that came and that go on, cheap to clone.
///
/// Whoever holds one knows that its lengths, checksums, flags and extents are right. Only the
/// decompression of the payload can still fail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chunk {
    header: ChunkHeader,
    bytes: Bytes,
}

impl Chunk {
    /// Proves that `bytes` are one chunk, no more and no less.
    ///
    /// # Errors
    /// [`DeltaError`] says which rule they break.
    pub fn parse(bytes: Bytes) -> Result<Self, DeltaError> {
        let header = ChunkHeader::parse(&bytes)?;
        if bytes.len() != header.total() {
            return Err(DeltaError::Length { have: bytes.len(), want: header.total() });
        }
        let crc = crc32c::crc32c(&bytes[CHUNK_HEADER_LEN..]);
        if crc != header.body_crc && !crate::planted!(ChecksumUnchecked) {
            return Err(DeltaError::BodyChecksum);
        }
        Table::new(&bytes[CHUNK_HEADER_LEN..header.payload_offset()]).check(&header)?;
        Ok(Self { header, bytes })
    }

    pub(super) fn from_parts(header: ChunkHeader, bytes: Bytes) -> Self {
        Self { header, bytes }
    }

    /// The fixed part.
    #[must_use]
    pub fn header(&self) -> &ChunkHeader {
        &self.header
    }

    /// The step it belongs to.
    #[must_use]
    pub fn step(&self) -> StepId {
        self.header.step
    }

    /// The same blocks as a part of another step: the header is a new one, the body is as it came.
    #[must_use]
    pub fn in_step(&self, step: StepId, number: ChunkNumber) -> Self {
        let zstd = self.header.flags.contains(ChunkFlags::ZSTD);
        let flags = if zstd { ChunkFlags::ZSTD } else { ChunkFlags::NONE };
        let header = ChunkHeader { step, number, flags, ..self.header };
        let mut bytes = BytesMut::with_capacity(self.bytes.len());
        bytes.extend_from_slice(&header.encode());
        bytes.extend_from_slice(&self.bytes[CHUNK_HEADER_LEN..]);
        Self { header, bytes: bytes.freeze() }
    }

    /// Its place in the step.
    #[must_use]
    pub fn number(&self) -> ChunkNumber {
        self.header.number
    }

    /// Its flags.
    #[must_use]
    pub fn flags(&self) -> ChunkFlags {
        self.header.flags
    }

    /// The volume's block size, as a power of two.
    #[must_use]
    pub fn block_shift(&self) -> u8 {
        self.header.block_shift
    }

    /// CRC32C of all bytes after the header, as [`super::ChunkListSum`] takes it.
    #[must_use]
    pub fn body_crc(&self) -> u32 {
        self.header.body_crc
    }

    /// The bytes as they came and as they are stored and sent on.
    #[must_use]
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Whether the payload is stored compressed.
    #[must_use]
    pub fn is_compressed(&self) -> bool {
        self.header.flags.contains(ChunkFlags::ZSTD)
    }

    /// Where the stored payload begins, from the beginning of the chunk.
    #[must_use]
    pub fn payload_offset(&self) -> usize {
        self.header.payload_offset()
    }

    /// The runs of blocks, by rising number.
    #[must_use]
    pub fn extents(&self) -> Extents<'_> {
        Extents {
            table: Table::new(&self.bytes[CHUNK_HEADER_LEN..self.payload_offset()]),
            shift: self.header.block_shift,
            at: 0,
            offset: 0,
        }
    }

    /// Blocks of all its extents, data and zero.
    #[must_use]
    pub fn block_count(&self) -> u64 {
        self.extents().map(|e| u64::from(e.count)).sum()
    }

    /// The content of the data extents, in table order: a slice of the chunk, or decompressed.
    ///
    /// # Errors
    /// [`DeltaError::Payload`] if it does not decompress to the announced length.
    pub fn payload(&self) -> Result<Bytes, DeltaError> {
        let stored = self.bytes.slice(self.payload_offset()..);
        if self.is_compressed() {
            compress::inflate(&stored, self.header.raw_len)
        } else {
            Ok(stored)
        }
    }
}

/// An extent and the place of its content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlacedExtent {
    /// First block.
    pub block: u64,
    /// How many blocks.
    pub count: u32,
    /// Data or zeroes.
    pub kind: ExtentKind,
    /// Where its content begins in the raw payload; meaningless for zeroes.
    pub offset: usize,
    /// Bytes of its content in the raw payload; 0 for zeroes.
    pub len: usize,
}

impl PlacedExtent {
    /// The block after the last one.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.block + u64::from(self.count)
    }

    /// Its place in the raw payload.
    #[must_use]
    pub fn range(&self) -> std::ops::Range<usize> {
        self.offset..self.offset + self.len
    }
}

/// Iterator over the extents of a proved chunk.
#[derive(Clone, Debug)]
pub struct Extents<'a> {
    table: Table<'a>,
    shift: u8,
    at: usize,
    offset: usize,
}

impl Iterator for Extents<'_> {
    type Item = PlacedExtent;

    fn next(&mut self) -> Option<PlacedExtent> {
        let Extent { block, count, kind } = self.table.entry(self.at)?;
        self.at += 1;
        let len = match kind {
            ExtentKind::Data => wide(count) << self.shift,
            ExtentKind::Zero => 0,
        };
        let placed = PlacedExtent { block, count, kind, offset: self.offset, len };
        self.offset += len;
        Some(placed)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = self.table.len().saturating_sub(self.at);
        (left, Some(left))
    }
}

/// The bytes of an extent table.
#[derive(Clone, Copy, Debug)]
pub(super) struct Table<'a>(&'a [u8]);

impl<'a> Table<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    fn len(self) -> usize {
        self.0.len() / EXTENT_LEN
    }

    /// Entry `at`; `None` past the end. The kind is 0 or 1 in a proved table.
    fn entry(self, at: usize) -> Option<Extent> {
        let b = self.0.chunks_exact(EXTENT_LEN).nth(at)?;
        let kind = if b[12] == 0 { ExtentKind::Data } else { ExtentKind::Zero };
        Some(Extent { block: u64_at(b, 0), count: u32_at(b, 8), kind })
    }

    /// The rules of the table: known kinds, rising, inside the largest volume, and data blocks that
    /// make up the payload.
    pub(super) fn check(self, header: &ChunkHeader) -> Result<(), DeltaError> {
        let limit = max_blocks(header.block_shift);
        let (mut end, mut data) = (0u64, 0u64);
        for (index, b) in self.0.chunks_exact(EXTENT_LEN).enumerate() {
            let broken = |rule| Err(DeltaError::Extent { index, rule });
            let (block, count) = (u64_at(b, 0), u64::from(u32_at(b, 8)));
            if b[12] > 1 || b[13..16] != [0; 3] {
                return broken("unknown kind");
            }
            if count == 0 {
                return broken("no blocks");
            }
            if block < end {
                return broken("not after the one before it");
            }
            end = match block.checked_add(count) {
                Some(e) if e <= limit => e,
                _ => return broken("beyond the largest volume"),
            };
            if b[12] == 0 {
                data += count;
            }
        }
        // at most 4,096 extents of less than 2^34 blocks, shifted by at most 20: fits
        if data << header.block_shift != u64::from(header.raw_len) {
            return Err(DeltaError::Field("payload length"));
        }
        Ok(())
    }
}
