//! The outgoing side: tags, requests, computations and events that wait to be picked up.

use std::collections::{HashMap, VecDeque};

use bytes::Bytes;
use rcp::proto::clock::{Mono, Wall};
use rcp::proto::delta::{Chunk, ChunkDraft, Compression, DeltaError, ExtentKind};
use rcp::proto::ids::{Attempt, ChunkNumber, NodeName, SetNumber, VolumeId};

use super::Event;
use super::changes::Reader;
use super::compare::Question;
use crate::bitmap::changes::{Entry, RegionError, changed_after, compact};
use crate::bitmap::{BlockSet, Run};
use crate::digest::{BlockHash, Sum, hash_blocks};
use crate::io::{FileId, Io, Op, Outcome, Tag};
use crate::save::readback::SpanRead;
use crate::units::{BlockCount, BlockIndex, LogPos};

/// A computation without I/O that is too long for the owner's thread.
#[derive(Clone, Debug)]
pub enum Work {
    /// Build, compress and checksum a chunk.
    Encode(Box<ChunkDraft>, Compression),
    /// Check a stored or received chunk and unpack its payload; hash its blocks too, or not.
    Open(Bytes, bool),
    /// Hash the blocks of a stored or received chunk.
    Hash(Bytes),
    /// Hash blocks of the content: first block of each run and its content, one after the other.
    HashContent {
        /// First blocks, and how many.
        runs: Vec<Run>,
        /// Their content.
        content: Bytes,
        /// Exponent of the block size.
        shift: u8,
    },
    /// Find the blocks that changed after a state.
    Changed {
        /// Entries as they were read.
        region: Bytes,
        /// Whose they must be.
        volume: VolumeId,
        /// Of which writing.
        epoch: u64,
        /// The state.
        after: SetNumber,
        /// Blocks of the volume.
        end: BlockCount,
    },
    /// Make the entries fewer and coarser.
    Squeeze {
        /// Entries as they were read.
        region: Bytes,
        /// Whose they must be.
        volume: VolumeId,
        /// Of which writing.
        epoch: u64,
        /// Bytes that they may have.
        most: usize,
    },
}

/// A chunk that was checked and unpacked.
#[derive(Debug)]
pub struct OpenChunk {
    /// The chunk.
    pub chunk: Chunk,
    /// Its raw payload.
    pub payload: Bytes,
    /// Hashes of the blocks in the payload, in its order.
    pub hashes: Option<Vec<BlockHash>>,
}

/// Hashes of the blocks in a chunk's payload, in its order.
pub(super) fn hash_chunk(chunk: &Chunk, payload: &[u8]) -> Vec<BlockHash> {
    let shift = chunk.block_shift();
    let data = chunk.extents().filter(|e| e.kind == ExtentKind::Data);
    data.flat_map(|e| hash_blocks(e.block, payload.get(e.range()).unwrap_or_default(), shift))
        .collect()
}

/// As [`hash_chunk`], of a chunk that is to be made.
fn hash_draft(draft: &ChunkDraft) -> Vec<BlockHash> {
    let shift = draft.block_size_shift;
    let mut rest = &draft.payload[..];
    let mut hashes = Vec::with_capacity(rest.len() >> shift);
    for e in draft.extents.iter().filter(|e| e.kind == ExtentKind::Data) {
        let len = (e.count as usize) << shift;
        let (now, later) = rest.split_at(len.min(rest.len()));
        hashes.extend(hash_blocks(e.block, now, shift));
        rest = later;
    }
    hashes
}

/// What a computation gave.
#[derive(Debug)]
pub enum WorkDone {
    /// The chunk, and the hashes of the blocks in its payload.
    Encoded(Result<(Chunk, Vec<BlockHash>), DeltaError>),
    /// The chunk, its raw payload, and the hashes of the blocks in it if they were wanted.
    Opened(Result<OpenChunk, DeltaError>),
    /// The hashes of the blocks in a chunk's payload, or of content.
    Hashed(Result<Vec<BlockHash>, DeltaError>),
    /// The blocks, and perhaps others.
    Changed(Result<BlockSet, RegionError>),
    /// Fewer entries that say as much, or more.
    Squeezed(Result<Vec<Entry>, RegionError>),
}

impl Work {
    /// Does the computation here and now.
    #[must_use]
    pub fn run(self) -> WorkDone {
        match self {
            Self::Encode(draft, compression) => {
                let hashes = hash_draft(&draft);
                WorkDone::Encoded(draft.encode(compression).map(|c| (c, hashes)))
            }
            Self::Open(bytes, hash) => WorkDone::Opened(Chunk::parse(bytes).and_then(|chunk| {
                let payload = chunk.payload()?;
                let hashes = hash.then(|| hash_chunk(&chunk, &payload));
                Ok(OpenChunk { chunk, payload, hashes })
            })),
            Self::Hash(bytes) => WorkDone::Hashed(
                Chunk::parse(bytes).and_then(|c| c.payload().map(|p| hash_chunk(&c, &p))),
            ),
            Self::HashContent { runs, content, shift } => {
                let mut rest = &content[..];
                let mut hashes = Vec::new();
                for (first, n) in runs {
                    let len = usize::try_from(n.0 << shift).unwrap_or(usize::MAX).min(rest.len());
                    let (now, later) = rest.split_at(len);
                    hashes.extend(hash_blocks(first.0, now, shift));
                    rest = later;
                }
                WorkDone::Hashed(Ok(hashes))
            }
            Self::Changed { region, volume, epoch, after, end } => {
                WorkDone::Changed(changed_after(&region, volume, epoch, after, end))
            }
            Self::Squeeze { region, volume, epoch, most } => {
                WorkDone::Squeezed(compact(&region, volume, epoch, most))
            }
        }
    }
}

/// A stage of a commit that waits for the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CommitPart {
    SyncSave,
    SyncBase,
    SyncSnapshots,
    WriteChanges,
    SyncChanges,
    SyncHashes,
    WriteSlot,
    SyncSlot,
}

/// A stage of one chunk's way into the base.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MergeStep {
    /// The record is being read from the save volume.
    Body,
    /// The hashes of blocks that are to be kept are being read.
    ImageHashes,
    /// The present content of blocks is being read, to be kept.
    BeforeImages,
    /// A before image or its entry is being written.
    SaveImage,
    /// The snapshot area is being synced.
    SyncImages,
    /// The hashes that are to be replaced are being read.
    OldHashes,
    /// The base is being written.
    Base,
    /// So is the table of hashes.
    Hashes,
}

impl MergeStep {
    /// Content or table change, or are about to.
    pub(super) fn writes(self) -> bool {
        matches!(self, Self::OldHashes | Self::Base | Self::Hashes)
    }
}

/// A stage of an incoming seed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SeedStep {
    /// The old content is being dropped.
    Clear,
    /// The old hashes are being dropped.
    ClearHashes,
    /// The hashes that an extent replaces are being read.
    OldHashes,
    /// An extent is being written.
    Base,
    /// What a branch needs of it is being read, saved, synced.
    ImagesRead,
    ImagesProof,
    ImagesWrite,
    ImagesSync,
    /// Its hashes are being written.
    Hashes,
}

/// What is done with the table of hashes beside merging and seeding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TableStep {
    /// The file is made anew.
    Reset,
    /// Where the next hashes, or the next content, are.
    Map,
    /// Hashes are being added up.
    Sum,
    /// Content is being read to be hashed.
    Content,
    /// What was read is being hashed.
    Hash,
    /// Hashes are being written.
    Write,
}

/// A stage of looking through the content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ScrubStep {
    /// Where the content has something next.
    MapContent,
    /// Where the table has.
    MapTable,
    /// Content is read.
    Content,
    /// Its hashes are read.
    Table,
    /// It is hashed.
    Hash,
}

/// The primary brings its table to a finished set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FoldStep {
    /// A chunk is read from the save volume.
    Body,
    /// It is being hashed.
    Hash,
    /// The hashes that are to be replaced are being read.
    Old,
    /// The hashes are being written.
    Write,
}

/// Why a request or computation was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    LogWrite { pos: LogPos },
    Commit(CommitPart),
    DrainRead { attempt: Attempt, runs: Vec<(BlockIndex, BlockCount)> },
    DrainSync { attempt: Attempt },
    Encode { attempt: Attempt, number: ChunkNumber },
    RecordRead(SpanRead),
    Merge { job: u64, step: MergeStep },
    Open { job: u64 },
    ExtendTable,
    Extend,
    SeedIn(SeedStep),
    SeedOpen,
    SeedOutMap { child: NodeName, session: u64 },
    SeedOutRead { child: NodeName, session: u64, runs: Vec<Run> },
    SeedEncode { child: NodeName, session: u64, next_block: u64, blocks: u64, view: SetNumber },
    ChunkRead { pos: LogPos },
    ChunkHash { pos: LogPos },
    CheckRead { run: u64 },
    DrainHashes { attempt: Attempt, new: Sum },
    Compare { run: u64 },
    Sums { child: NodeName, question: Question, state: SetNumber, edition: u64 },
    Scrub { run: u64, step: ScrubStep },
    SeedOutProof { child: NodeName, session: u64, runs: Vec<Run>, content: Bytes },
    Fold { run: u64, step: FoldStep },
    Table { run: u64, step: TableStep },
    ChangesRead { reader: Reader, epoch: u64 },
    ChangesWork { reader: Reader, epoch: u64 },
}

/// Everything on its way out.
#[derive(Debug, Default)]
pub(super) struct Desk {
    pub(super) next_tag: u64,
    pub(super) purposes: HashMap<Tag, Purpose>,
    pub(super) ios: VecDeque<Io>,
    pub(super) works: VecDeque<(Tag, Work)>,
    pub(super) events: VecDeque<Event>,
    pub(super) now: Mono,
    pub(super) wall: Wall,
}

impl Desk {
    fn tag(&mut self, purpose: Purpose) -> Tag {
        self.next_tag += 1;
        let tag = Tag(self.next_tag);
        self.purposes.insert(tag, purpose);
        tag
    }

    pub(super) fn io(&mut self, purpose: Purpose, file: FileId, op: Op) {
        let tag = self.tag(purpose);
        self.ios.push_back(Io { tag, file, op });
    }

    pub(super) fn work(&mut self, purpose: Purpose, work: Work) {
        let tag = self.tag(purpose);
        self.works.push_back((tag, work));
    }

    pub(super) fn event(&mut self, event: Event) {
        // These two only say "look again": one waiting is as good as many.
        if matches!(event, Event::Sendable | Event::Room) && self.events.contains(&event) {
            return;
        }
        self.events.push_back(event);
    }

    /// A request or computation of this kind is under way.
    pub(super) fn any(&self, kind: impl Fn(&Purpose) -> bool) -> bool {
        self.purposes.values().any(kind)
    }

    pub(super) fn is_idle(&self) -> bool {
        self.purposes.is_empty() && self.ios.is_empty() && self.works.is_empty()
    }
}

/// For messages: what kind of outcome it was.
pub(super) fn outcome_name(o: &Outcome) -> &'static str {
    match o {
        Outcome::Read(_) => "read",
        Outcome::Done => "completion",
        Outcome::NextData(_) => "map",
        Outcome::Failed(_) => "failure",
    }
}
