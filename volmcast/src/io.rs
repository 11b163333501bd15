//! Tagged requests on the files of one volume, and their completions.
//!
//! The machines of this crate never touch a file: they return an [`Io`] with a [`Tag`] and are
//! later handed the tag back with an [`Outcome`]. Requests may complete in any order. A write is
//! durable only when a [`Op::Sync`] of the same file, submitted after the write completed, has
//! itself completed; a failed sync is final (the volume must be re-opened and verified).

use bytes::Bytes;

/// Which file of the volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FileId {
    /// The volume's content: a sparse raw file or a block device.
    Base,
    /// The chunk area of the save volume.
    Save,
    /// The mailbox: two alternating slots, the commit point.
    Mailbox,
    /// The activity log of the primary: which extents may hold writes that no finished set has.
    Activity,
    /// Before images of the pinned states.
    Snapshots,
    /// The sets of blocks that finished sets changed.
    Changes,
    /// The table of block hashes: 20 bytes for each block of the content.
    Hashes,
}

impl FileId {
    /// Every file.
    pub const ALL: [Self; 7] = [
        Self::Base,
        Self::Save,
        Self::Mailbox,
        Self::Activity,
        Self::Snapshots,
        Self::Changes,
        Self::Hashes,
    ];

    /// What it is called in the volume's folder (`base` may lie elsewhere).
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Base => "base",
            Self::Save => "save",
            Self::Mailbox => "mailbox",
            Self::Activity => "activity",
            Self::Snapshots => "snapshots",
            Self::Changes => "changes",
            Self::Hashes => "hashes",
        }
    }
}

/// Names one outstanding request; chosen by the machine that made it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tag(pub u64);

/// One request. Offsets and lengths are bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Io {
    /// Handed back with the outcome.
    pub tag: Tag,
    /// On which file.
    pub file: FileId,
    /// What to do.
    pub op: Op,
}

/// What to do with the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Read exactly `len` bytes at `offset`.
    Read {
        /// First byte.
        offset: u64,
        /// How many.
        len: usize,
    },
    /// Write the pieces one after the other, from `offset` on.
    Write {
        /// First byte.
        offset: u64,
        /// Pieces of the data; several, so that a header and a payload need not be joined.
        data: Vec<Bytes>,
    },
    /// Make the range read as zeroes, giving its space back where the file system can.
    Zero {
        /// First byte.
        offset: u64,
        /// How many.
        len: u64,
    },
    /// Read several ranges; the outcome is their bytes, one after the other.
    Gather {
        /// Offset and length of each.
        ranges: Vec<(u64, usize)>,
    },
    /// Write and zero several ranges that do not overlap; no order among them.
    Scatter {
        /// Offset and data of each write.
        writes: Vec<(u64, Bytes)>,
        /// Offset and length of each range that must read as zeroes.
        zeroes: Vec<(u64, u64)>,
    },
    /// Find the first range at or after `offset` that may hold anything but zeroes.
    NextData {
        /// Where to begin looking.
        offset: u64,
    },
    /// Make the file at least `len` bytes long, and what lies from `from` up to there zeroes,
    /// whatever it was. A block device that is shorter has no room ([`IoError::NoSpace`]).
    Extend {
        /// End of what is in use.
        from: u64,
        /// Bytes of the file afterwards, unless it is longer already.
        len: u64,
    },
    /// Make every completed write durable (`fdatasync`).
    Sync,
}

/// How a request ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The bytes read.
    Read(Bytes),
    /// Written, zeroed or synced.
    Done,
    /// Answer to [`Op::NextData`]: the bytes `start..end`, or `None` if only zeroes follow.
    NextData(Option<(u64, u64)>),
    /// It failed; nothing may be assumed about the range, or, for a sync, about anything written
    /// since the last one that succeeded.
    Failed(IoError),
}

/// Why a request failed, as far as decisions depend on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IoError {
    /// No room on the device or in the quota (`ENOSPC`, `EDQUOT`).
    #[error("no space left")]
    NoSpace,
    /// Everything else, with the number the system gave.
    #[error("input/output error (os error {0})")]
    Os(i32),
}

impl Op {
    /// Whether the file's content may be other afterwards.
    #[must_use]
    pub fn changes(&self) -> bool {
        match self {
            Self::Write { .. } | Self::Zero { .. } | Self::Scatter { .. } | Self::Extend { .. } => {
                true
            }
            Self::Read { .. } | Self::Gather { .. } | Self::NextData { .. } | Self::Sync => false,
        }
    }

    /// Bytes this request moves.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        match self {
            Self::Read { len, .. } => *len as u64,
            Self::Write { data, .. } => data.iter().map(|d| d.len() as u64).sum(),
            Self::Gather { ranges } => ranges.iter().map(|(_, len)| *len as u64).sum(),
            Self::Scatter { writes, .. } => writes.iter().map(|(_, d)| d.len() as u64).sum(),
            Self::Zero { .. } | Self::NextData { .. } | Self::Extend { .. } | Self::Sync => 0,
        }
    }
}
