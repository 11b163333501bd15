//! Choices that can be repeated: every test prints its seed, `SEED=N` sets it.

use xxhash_rust::xxh3::xxh3_64_with_seed;

/// A small generator.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl From<u64> for Random {
    fn from(seed: u64) -> Self {
        Self(seed)
    }
}

impl Random {
    /// From the environment's `SEED`, or a new one; printed.
    #[must_use]
    pub fn seeded(test: &str) -> Self {
        let given = std::env::var("SEED").ok().and_then(|s| s.parse().ok());
        let seed = given.unwrap_or_else(|| node::clock::wall().0 & 0xffff_ffff);
        eprintln!("{test}: SEED={seed}");
        Self(seed)
    }

    /// Unlike any other, and not to be repeated.
    #[must_use]
    pub(super) fn quiet() -> Self {
        Self(node::clock::wall().0 ^ u64::from(std::process::id()) << 40)
    }

    /// For a part of a test, with choices of its own.
    #[must_use]
    pub fn fork(&mut self) -> Self {
        Self(self.next())
    }

    /// The next 64 bits.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        xxh3_64_with_seed(&self.0.to_le_bytes(), 0)
    }

    /// Below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end.max(1)
    }

    /// One of a list.
    ///
    /// # Panics
    /// On an empty list.
    pub fn of<'a, T>(&mut self, list: &'a [T]) -> &'a T {
        &list[usize::try_from(self.below(list.len() as u64)).unwrap_or(0)]
    }

    /// Bytes that do not compress.
    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        let mut out = Vec::with_capacity(len + 8);
        while out.len() < len {
            out.extend_from_slice(&self.next().to_le_bytes());
        }
        out.truncate(len);
        out
    }
}

/// A block that carries a number in every eight bytes.
#[must_use]
pub fn stamp(number: u64, len: usize) -> Vec<u8> {
    number.to_le_bytes().repeat(len / 8)
}

/// The number a block is stamped with; `Err` with two of them if it holds several.
///
/// # Errors
/// The first and the first other number.
pub fn stamped(block: &[u8]) -> Result<u64, (u64, u64)> {
    let mut numbers = block.chunks_exact(8).map(|b| {
        let mut n = [0; 8];
        n.copy_from_slice(b);
        u64::from_le_bytes(n)
    });
    let first = numbers.next().unwrap_or(0);
    numbers.find(|n| *n != first).map_or(Ok(first), |other| Err((first, other)))
}
