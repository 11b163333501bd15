//! Where the bytes come from: the narrow view that the fan-out has of stored chunks.

use bytes::Bytes;
use rcp::proto::ids::{ChunkNumber, NodeName, SetNumber};

/// One stored chunk or set header, as it travels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Whether it is the set header that ends a step.
    pub set_end: bool,
    /// Its bytes; shared with all other children and with the save volume's ring.
    pub body: Bytes,
    /// The state that its step leads to.
    pub to: SetNumber,
    /// Its number in the step; of a set header, the number of chunks before it.
    pub chunk: ChunkNumber,
}

/// Stored chunks in stream order, with one cursor per child. Nothing here blocks: what is not in
/// memory yet is not there, and the node pumps again when it is.
pub trait ChunkSource {
    /// Hands out the next record and moves the child's cursor past it, if it has at most `budget`
    /// bytes.
    fn next(&mut self, child: &NodeName, budget: u64) -> Option<Stored>;

    /// Length of the record at the child's cursor, also one that still has to be read from disk;
    /// `None` if the child has all that there is. It tells "nothing to send" from "no room".
    fn peek(&mut self, child: &NodeName) -> Option<u64>;
}

/// One piece of a seed, as it travels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeedPiece {
    /// First block of which nothing has been said yet after this.
    pub next_block: u64,
    /// State that its content may already include.
    pub view: SetNumber,
    /// The bytes of a chunk with the seed flag.
    pub body: Bytes,
}

/// What a seed has next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SeedNext {
    /// This piece; the cursor has moved past it.
    Piece(SeedPiece),
    /// A piece of this many bytes, which is over the budget; the cursor has not moved.
    TooLong(u64),
    /// Nothing just now: it is being read.
    NotYet,
    /// Nothing more: the child may be read once it has folded this set.
    Done(SetNumber),
}

/// The pieces of the seeds of a volume, with one cursor per child.
pub trait SeedSource {
    /// Hands out the next piece of at most `budget` bytes.
    fn next(&mut self, child: &NodeName, budget: u64) -> SeedNext;
}
