//! Chunks and set headers: the form in which changed blocks are stored and sent (FMT-01..03,
//! DELTA-01..10).
//!
//! A *step* moves a replica from any state *s* with `base ≤ s < to` to the state `to`. Its blocks
//! travel in [`Chunk`]s, encoded once at the primary and stored and forwarded byte for byte by
//! every node below; its [`SetHeader`] goes last and says what must have come (DELTA-05). This
//! module turns values into bytes and back and proves that bytes are whole. It keeps nothing, and
//! knows nothing of sessions, files or volumes.

mod chunk;
mod compress;
mod draft;
mod error;
mod list_sum;
mod set_header;

pub use chunk::{Chunk, ChunkHeader, Extents, PlacedExtent};
pub use compress::Compression;
pub use draft::ChunkDraft;
pub use error::DeltaError;
pub use list_sum::ChunkListSum;
pub use set_header::{SetFlags, SetHeader};

use super::ids::{Attempt, Generation, SetNumber, VolumeId};
use super::limits::{MAX_BLOCK_SHIFT, MIN_BLOCK_SHIFT};
use super::wire::{array, put, u16_at, u32_at, u64_at};

/// First four bytes of every chunk and set header: `RCPD`.
pub const MAGIC: [u8; 4] = *b"RCPD";
/// The one version of the format that exists.
pub const VERSION: u16 = 1;
/// Value of the kind byte of a chunk.
pub const KIND_CHUNK: u8 = 1;
/// Value of the kind byte of a set header.
pub const KIND_SET_HEADER: u8 = 2;

/// Which step a chunk or set header belongs to.
///
/// Two attempts of the same set differ, so that leftovers of an abandoned one are never mixed with
/// its successor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StepId {
    /// Which volume.
    pub volume: VolumeId,
    /// On whose line.
    pub generation: Generation,
    /// The oldest state that the step may be applied to.
    pub base: SetNumber,
    /// The state that it gives.
    pub to: SetNumber,
    /// Which attempt at draining it.
    pub attempt: Attempt,
}

/// What an extent says about its blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ExtentKind {
    /// Their content is in the payload.
    Data,
    /// They are all zero; nothing is in the payload.
    Zero,
}

/// A run of blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Extent {
    /// First block.
    pub block: u64,
    /// How many; never 0 in a chunk.
    pub count: u32,
    /// Data or zeroes.
    pub kind: ExtentKind,
}

impl Extent {
    /// A run of blocks with content.
    #[must_use]
    pub fn data(block: u64, count: u32) -> Self {
        Self { block, count, kind: ExtentKind::Data }
    }

    /// A run of zero blocks.
    #[must_use]
    pub fn zero(block: u64, count: u32) -> Self {
        Self { block, count, kind: ExtentKind::Zero }
    }

    /// The block after the last one.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.block.saturating_add(u64::from(self.count))
    }
}

/// Flags of a chunk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct ChunkFlags(u32);

impl ChunkFlags {
    /// An ordinary part of a step.
    pub const NONE: Self = Self(0);
    /// The payload is stored as one zstd frame. The encoder sets it.
    pub const ZSTD: Self = Self(1);
    /// Extents of a seed: content that may already include states up to `to` (the *view*); `base`
    /// is 0.
    pub const SEED: Self = Self(2);

    const KNOWN: u32 = 3;

    /// Whether every flag of `other` is set.
    #[must_use]
    pub fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Both sets of flags together.
    #[must_use]
    pub fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// The bits as they are stored.
    #[must_use]
    pub fn bits(self) -> u32 {
        self.0
    }

    fn from_bits(bits: u32) -> Result<Self, DeltaError> {
        if bits & !Self::KNOWN == 0 { Ok(Self(bits)) } else { Err(DeltaError::Flags(bits)) }
    }
}

/// The 88 bytes that chunks and set headers begin with.
struct Preamble {
    kind: u8,
    block_shift: u8,
    header_len: usize,
    total_len: u32,
    flags: u32,
    /// Chunk number, or chunk count in a set header.
    number: u32,
    step: StepId,
    key_id: u64,
}

impl Preamble {
    fn write(&self, b: &mut [u8]) {
        put(b, 0, &MAGIC);
        put(b, 4, &VERSION.to_le_bytes());
        put(b, 6, &[self.kind, self.block_shift]);
        put(b, 8, &u16::try_from(self.header_len).unwrap_or(0).to_le_bytes());
        put(b, 12, &self.total_len.to_le_bytes());
        put(b, 16, &self.flags.to_le_bytes());
        put(b, 20, &self.number.to_le_bytes());
        put(b, 24, &self.step.volume.0);
        put(b, 40, &self.step.generation.counter.to_le_bytes());
        put(b, 44, &self.step.generation.id);
        put(b, 60, &self.step.attempt.0.to_le_bytes());
        put(b, 64, &self.step.base.0.to_le_bytes());
        put(b, 72, &self.step.to.0.to_le_bytes());
        put(b, 80, &self.key_id.to_le_bytes());
    }

    /// Reads a header of `b.len()` bytes, after its checksum (its last four bytes) is proved.
    fn read(b: &[u8], kind: u8) -> Result<Self, DeltaError> {
        if b[..4] != MAGIC {
            return Err(DeltaError::Magic);
        }
        let version = u16_at(b, 4);
        if version != VERSION {
            return Err(DeltaError::Version(version));
        }
        let crc_at = b.len() - 4;
        if crc32c::crc32c(&b[..crc_at]) != u32_at(b, crc_at) {
            return Err(DeltaError::HeaderChecksum);
        }
        if b[6] != kind {
            return Err(DeltaError::Kind(b[6]));
        }
        if usize::from(u16_at(b, 8)) != b.len() || u16_at(b, 10) != 0 {
            return Err(DeltaError::Field("header length"));
        }
        let block_shift = b[7];
        if !(MIN_BLOCK_SHIFT..=MAX_BLOCK_SHIFT).contains(&block_shift) {
            return Err(DeltaError::Field("block size"));
        }
        let key_id = u64_at(b, 80);
        if key_id != 0 {
            return Err(DeltaError::Field("key id"));
        }
        Ok(Self {
            kind,
            block_shift,
            header_len: b.len(),
            total_len: u32_at(b, 12),
            flags: u32_at(b, 16),
            number: u32_at(b, 20),
            step: StepId {
                volume: VolumeId(array(b, 24)),
                generation: Generation { counter: u32_at(b, 40), id: array(b, 44) },
                base: SetNumber(u64_at(b, 64)),
                to: SetNumber(u64_at(b, 72)),
                attempt: Attempt(u32_at(b, 60)),
            },
            key_id,
        })
    }
}

/// A step must lead forward; a seed starts from nothing.
fn check_step(step: &StepId, seed: bool) -> Result<(), DeltaError> {
    let ok = if seed { step.base == SetNumber::ZERO } else { step.base < step.to };
    if ok { Ok(()) } else { Err(DeltaError::Field("base and to")) }
}
