//! The outgoing side: tags, requests, computations and events that wait to be picked up.

use std::collections::{HashMap, VecDeque};

use bytes::Bytes;
use rcp::proto::clock::{Mono, Wall};
use rcp::proto::delta::{Chunk, ChunkDraft, Compression, DeltaError};
use rcp::proto::ids::{Attempt, ChunkNumber, NodeName, SetNumber, VolumeId};

use super::Event;
use super::changes::Reader;
use crate::bitmap::changes::{Entry, RegionError, changed_after, compact};
use crate::bitmap::{BlockSet, Run};
use crate::io::{FileId, Io, Op, Outcome, Tag};
use crate::save::readback::SpanRead;
use crate::units::{BlockCount, BlockIndex, LogPos};

/// A computation without I/O that is too long for the owner's thread.
#[derive(Clone, Debug)]
pub enum Work {
    /// Build, compress and checksum a chunk.
    Encode(Box<ChunkDraft>, Compression),
    /// Check a stored or received chunk and unpack its payload.
    Open(Bytes),
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

/// What a computation gave.
#[derive(Debug)]
pub enum WorkDone {
    /// The chunk.
    Encoded(Result<Chunk, DeltaError>),
    /// The chunk and its raw payload.
    Opened(Result<(Chunk, Bytes), DeltaError>),
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
            Self::Encode(draft, compression) => WorkDone::Encoded(draft.encode(compression)),
            Self::Open(bytes) => WorkDone::Opened(Chunk::parse(bytes).and_then(|c| {
                let payload = c.payload()?;
                Ok((c, payload))
            })),
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
    WriteSlot,
    SyncSlot,
}

/// A stage of one chunk's way into the base.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MergeStep {
    /// The record is being read from the save volume.
    Body,
    /// The present content of blocks is being read, to be kept.
    BeforeImages,
    /// A before image or its entry is being written.
    SaveImage,
    /// The snapshot area is being synced.
    SyncImages,
    /// The base is being written.
    Base,
}

/// A stage of an incoming seed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SeedStep {
    /// The old content is being dropped.
    Clear,
    /// An extent is being written.
    Base,
    /// What a branch needs of it is being read, saved, synced.
    ImagesRead,
    ImagesWrite,
    ImagesSync,
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
    Extend,
    SeedIn(SeedStep),
    SeedOpen,
    SeedOutMap { child: NodeName, session: u64 },
    SeedOutRead { child: NodeName, session: u64, runs: Vec<Run> },
    SeedEncode { child: NodeName, session: u64, next_block: u64, blocks: u64, view: SetNumber },
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
