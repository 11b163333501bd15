//! Making a chunk.

use bytes::Bytes;

use super::super::ids::ChunkNumber;
use super::super::limits::{CHUNK_HEADER_LEN, EXTENT_LEN, MAX_EXTENTS, MAX_PAYLOAD};
use super::chunk::{ChunkHeader, Table};
use super::{Chunk, ChunkFlags, Compression, DeltaError, Extent, ExtentKind, StepId, compress};

/// The parts of a chunk before it is encoded.
#[derive(Clone, Debug)]
pub struct ChunkDraft {
    /// The step it belongs to.
    pub step: StepId,
    /// Its place in the step.
    pub number: ChunkNumber,
    /// The volume's block size, as a power of two.
    pub block_size_shift: u8,
    /// [`ChunkFlags::NONE`] or [`ChunkFlags::SEED`]; whether it is compressed is decided here.
    pub flags: ChunkFlags,
    /// Runs of blocks by strictly rising number, not overlapping.
    pub extents: Vec<Extent>,
    /// Content of the data extents, in table order, not compressed.
    pub payload: Bytes,
}

impl ChunkDraft {
    /// Encodes the chunk, once and for every hop.
    ///
    /// # Errors
    /// [`DeltaError`] if the draft breaks a rule that [`Chunk::parse`] would hold against it: what
    /// this gives can always be parsed.
    pub fn encode(&self, compress: Compression) -> Result<Chunk, DeltaError> {
        let (count, raw) = (self.extents.len(), self.payload.len());
        if count > MAX_EXTENTS || raw > MAX_PAYLOAD {
            return Err(DeltaError::Field("payload or extents over the limit"));
        }
        let head = CHUNK_HEADER_LEN + count * EXTENT_LEN;
        let mut out = Vec::with_capacity(head + raw);
        out.resize(CHUNK_HEADER_LEN, 0);
        for e in &self.extents {
            out.extend_from_slice(&encode_extent(e));
        }
        let packed = match compress {
            Compression::Never => None,
            Compression::WherePays => compress::append(&self.payload, &mut out),
        };
        let mut flags = self.flags;
        if flags.contains(ChunkFlags::ZSTD) {
            return Err(DeltaError::Flags(flags.bits()));
        }
        if packed.is_some() {
            flags = flags.with(ChunkFlags::ZSTD);
            out.shrink_to_fit();
        } else {
            out.extend_from_slice(&self.payload);
        }
        let len32 = |n: usize| u32::try_from(n).map_err(|_| DeltaError::Field("length"));
        let header = ChunkHeader {
            step: self.step,
            number: self.number,
            flags,
            block_shift: self.block_size_shift,
            extent_count: len32(count)?,
            stored_len: len32(out.len() - head)?,
            raw_len: len32(raw)?,
            total_len: len32(out.len())?,
            body_crc: crc32c::crc32c(&out[CHUNK_HEADER_LEN..]),
        };
        out[..CHUNK_HEADER_LEN].copy_from_slice(&header.encode());
        header.check()?;
        Table::new(&out[CHUNK_HEADER_LEN..head]).check(&header)?;
        Ok(Chunk::from_parts(header, Bytes::from(out)))
    }
}

fn encode_extent(e: &Extent) -> [u8; EXTENT_LEN] {
    let mut b = [0u8; EXTENT_LEN];
    b[..8].copy_from_slice(&e.block.to_le_bytes());
    b[8..12].copy_from_slice(&e.count.to_le_bytes());
    b[12] = match e.kind {
        ExtentKind::Data => 0,
        ExtentKind::Zero => 1,
    };
    b
}
