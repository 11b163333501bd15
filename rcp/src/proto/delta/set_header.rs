//! The set header: sent last, it says what must have come before the step may be shown.

use bytes::Bytes;

use super::super::clock::Wall;
use super::super::limits::{SET_HEADER_LEN, max_blocks};
use super::super::wire::{array, put, u32_at, u64_at};
use super::{DeltaError, KIND_SET_HEADER, Preamble, StepId, check_step};

/// Flags of a set header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct SetFlags(u32);

impl SetFlags {
    /// The data of the set is not available as chunks (`chunk_count` is 0): a receiver gets over it
    /// by catch-up or by a seed.
    pub const BITMAP_ONLY: Self = Self(1);
    /// There is no volume digest: the primary does not know it (yet).
    pub const DIGEST_ABSENT: Self = Self(2);

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
}

/// What a step must consist of, and what it leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SetHeader {
    /// Which step.
    pub step: StepId,
    /// How many chunks it has.
    pub chunk_count: u32,
    /// How many blocks, data and zero.
    pub block_count: u64,
    /// Size of the volume in the state `to`, in blocks.
    pub volume_blocks: u64,
    /// The volume's block size, as a power of two.
    pub block_shift: u8,
    /// When the state `to` was cut at the primary.
    pub cut_time: Wall,
    /// [`SetFlags::DIGEST_ABSENT`], [`SetFlags::BITMAP_ONLY`], both or none.
    pub flags: SetFlags,
    /// Digest of the whole volume in the state `to`: a sum of 16 bytes and 16 zero bytes; all zero
    /// when absent.
    pub digest: [u8; 32],
    /// What [`super::ChunkListSum`] gives for its chunks.
    pub chunk_list_crc: u32,
}

impl SetHeader {
    /// The bytes as they are stored and sent.
    #[must_use]
    pub fn encode(&self) -> [u8; SET_HEADER_LEN] {
        let mut b = [0u8; SET_HEADER_LEN];
        Preamble {
            kind: KIND_SET_HEADER,
            block_shift: self.block_shift,
            header_len: SET_HEADER_LEN,
            total_len: u32::try_from(SET_HEADER_LEN).unwrap_or(0),
            flags: self.flags.0,
            number: self.chunk_count,
            step: self.step,
            key_id: 0,
        }
        .write(&mut b);
        put(&mut b, 88, &self.block_count.to_le_bytes());
        put(&mut b, 96, &self.volume_blocks.to_le_bytes());
        put(&mut b, 104, &self.cut_time.0.to_le_bytes());
        put(&mut b, 112, &self.digest);
        put(&mut b, 144, &self.chunk_list_crc.to_le_bytes());
        let crc = crc32c::crc32c(&b[..SET_HEADER_LEN - 4]);
        put(&mut b, SET_HEADER_LEN - 4, &crc.to_le_bytes());
        b
    }

    /// [`encode`](Self::encode) as `Bytes`, for a frame's body.
    #[must_use]
    pub fn to_bytes(&self) -> Bytes {
        Bytes::copy_from_slice(&self.encode())
    }

    /// The sum that is the volume's digest in the state `to`, little-endian; `None` when absent.
    #[must_use]
    pub fn digest_sum(&self) -> Option<u128> {
        let absent = self.flags.contains(SetFlags::DIGEST_ABSENT);
        (!absent).then(|| u128::from_le_bytes(array(&self.digest, 0)))
    }

    /// Reads and checks exactly one set header.
    ///
    /// # Errors
    /// [`DeltaError`] says which rule the bytes break.
    pub fn parse(bytes: &[u8]) -> Result<Self, DeltaError> {
        let b: &[u8; SET_HEADER_LEN] = bytes
            .try_into()
            .map_err(|_| DeltaError::Length { have: bytes.len(), want: SET_HEADER_LEN })?;
        let p = Preamble::read(b, KIND_SET_HEADER)?;
        if usize::try_from(p.total_len) != Ok(SET_HEADER_LEN) {
            return Err(DeltaError::Field("total length"));
        }
        if b[148..188].iter().any(|x| *x != 0) {
            return Err(DeltaError::Reserved);
        }
        let header = Self {
            step: p.step,
            chunk_count: p.number,
            block_count: u64_at(b, 88),
            volume_blocks: u64_at(b, 96),
            block_shift: p.block_shift,
            cut_time: Wall(u64_at(b, 104)),
            flags: SetFlags(p.flags),
            digest: array(b, 112),
            chunk_list_crc: u32_at(b, 144),
        };
        header.check()?;
        Ok(header)
    }

    /// The rules between the fields; what breaks none of them survives encoding and parsing.
    ///
    /// # Errors
    /// [`DeltaError`] names the field.
    pub fn check(&self) -> Result<(), DeltaError> {
        if !(super::MIN_BLOCK_SHIFT..=super::MAX_BLOCK_SHIFT).contains(&self.block_shift) {
            return Err(DeltaError::Field("block size"));
        }
        check_step(&self.step, false)?;
        if self.flags.0 & !SetFlags::KNOWN != 0 {
            return Err(DeltaError::Flags(self.flags.0));
        }
        let absent = self.flags.contains(SetFlags::DIGEST_ABSENT);
        if self.digest[if absent { 0 } else { 16 }..].iter().any(|b| *b != 0) {
            return Err(DeltaError::Field("digest"));
        }
        if self.volume_blocks > max_blocks(self.block_shift) {
            return Err(DeltaError::Field("volume size"));
        }
        if self.block_count > self.volume_blocks {
            return Err(DeltaError::Field("block count"));
        }
        let bitmap_only = self.flags.contains(SetFlags::BITMAP_ONLY);
        let chunks_ok = match self.chunk_count {
            0 => self.chunk_list_crc == 0 && (bitmap_only || self.block_count == 0),
            n => !bitmap_only && self.block_count >= u64::from(n),
        };
        if chunks_ok { Ok(()) } else { Err(DeltaError::Field("chunk count")) }
    }
}
