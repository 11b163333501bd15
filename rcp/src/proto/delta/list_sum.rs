//! The checksum over a step's chunks, built in whatever order they come (DELTA-06).

use super::super::ids::ChunkNumber;
use super::super::limits::MAX_CHUNKS_OUT_OF_ORDER;
use super::DeltaError;

/// CRC32C over the sequence of (chunk number, body checksum) in chunk-number order.
///
/// Chunks in order cost no memory; those ahead of a gap are kept, up to a bound. The pair
/// ([`next`](Self::next), [`crc`](Self::crc)) is enough to go on after a restart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ChunkListSum {
    next: u32,
    crc: u32,
    /// Chunks ahead of `next`, by rising number.
    ahead: Vec<(u32, u32)>,
}

impl ChunkListSum {
    /// Of no chunk at all.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Goes on from what [`next`](Self::next) and [`crc`](Self::crc) said earlier.
    #[must_use]
    pub fn resume(next: ChunkNumber, crc: u32) -> Self {
        Self { next: next.0, crc, ahead: Vec::new() }
    }

    /// Adds a chunk. One that was added before is ignored (DELTA-07).
    ///
    /// # Errors
    /// [`DeltaError::Conflict`] if a chunk ahead of a gap comes again with another checksum,
    /// [`DeltaError::OutOfOrder`] if too many are ahead.
    pub fn add(&mut self, number: ChunkNumber, body_crc: u32) -> Result<(), DeltaError> {
        if number.0 > self.next {
            return self.keep(number.0, body_crc);
        }
        if number.0 == self.next {
            self.fold(body_crc);
            let mut used = 0;
            while self.ahead.get(used).is_some_and(|(n, _)| *n == self.next) {
                self.fold(self.ahead[used].1);
                used += 1;
            }
            self.ahead.drain(..used);
        }
        Ok(())
    }

    fn keep(&mut self, number: u32, crc: u32) -> Result<(), DeltaError> {
        match self.ahead.binary_search_by_key(&number, |(n, _)| *n) {
            Ok(at) if self.ahead[at].1 == crc => Ok(()),
            Ok(_) => Err(DeltaError::Conflict(number)),
            Err(_) if self.ahead.len() >= MAX_CHUNKS_OUT_OF_ORDER => Err(DeltaError::OutOfOrder),
            Err(at) => {
                self.ahead.insert(at, (number, crc));
                Ok(())
            }
        }
    }

    fn fold(&mut self, crc: u32) {
        self.crc = crc32c::crc32c_append(self.crc, &self.next.to_le_bytes());
        self.crc = crc32c::crc32c_append(self.crc, &crc.to_le_bytes());
        self.next = self.next.saturating_add(1);
    }

    /// The first chunk that is missing: all before it were added.
    #[must_use]
    pub fn next(&self) -> ChunkNumber {
        ChunkNumber(self.next)
    }

    /// The checksum over all chunks before [`next`](Self::next).
    #[must_use]
    pub fn crc(&self) -> u32 {
        self.crc
    }

    /// The checksum over `count` chunks, if exactly those were added.
    #[must_use]
    pub fn total(&self, count: u32) -> Option<u32> {
        (self.next == count && self.ahead.is_empty()).then_some(self.crc)
    }
}
