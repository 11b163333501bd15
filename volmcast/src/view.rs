//! What readers of a replica see: a state, through the steps that are not yet merged (PLAY-03, 04).
//!
//! A complete step becomes visible at once by its [`Layer`], an index from blocks to places in the
//! save volume, which is consulted before the base. The engine publishes an immutable
//! [`ViewState`] at every change; a request takes one, resolves its range into [`Piece`]s and reads
//! them. A [`Pin`] holds one state for a reader: once the base has reached that state, blocks are
//! kept as before images in the snapshot area before they are overwritten, so that merging never
//! waits for a reader.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use rcp::proto::clock::Wall;
use rcp::proto::delta::{Chunk, ExtentKind, StepId};
use rcp::proto::ids::SetNumber;

use crate::bitmap::BlockSet;
use crate::capture::Capture;
use crate::snapshots::{PinId, PinKind, SnapshotStore};
use crate::units::{BlockCount, BlockIndex, LogPos};

/// Blocks in doubt that are remembered until somebody asks.
const MAX_DOUBTS: usize = 1 << 16;

/// A chunk of a layer, in the save volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LayerChunk {
    /// Position of its record.
    pub pos: LogPos,
    /// Bytes of the encoded chunk.
    pub body_len: u32,
    /// Where the stored payload begins within the encoded chunk.
    pub payload_at: u32,
    /// The payload must be decompressed as a whole.
    pub compressed: bool,
}

/// Where a run of blocks of a layer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// All zero.
    Zero,
    /// In this chunk of the layer, from this byte of the raw payload on.
    Chunk {
        /// Index into [`Layer::chunks`].
        chunk: u32,
        /// Byte offset in the raw payload.
        offset: u32,
    },
}

/// Consecutive blocks of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// First block.
    pub block: u64,
    /// How many.
    pub count: u32,
    /// Where they are.
    pub place: Place,
}

/// The index of one complete step.
#[derive(Clone, Debug)]
pub struct Layer {
    /// Which step.
    pub id: StepId,
    /// Position of its first record: the save volume keeps it while a reader may need it.
    pub first: LogPos,
    /// When it was cut.
    pub cut_time: Wall,
    /// Size of the volume in its state.
    pub blocks: BlockCount,
    /// Its chunks.
    pub chunks: Vec<LayerChunk>,
    /// Its blocks, rising.
    pub runs: Vec<Run>,
}

impl Layer {
    /// An empty index, to be filled as chunks arrive.
    #[must_use]
    pub fn new(id: StepId, first: LogPos) -> Self {
        Self {
            id,
            first,
            cut_time: Wall(0),
            blocks: BlockCount(0),
            chunks: Vec::new(),
            runs: Vec::new(),
        }
    }

    /// Adds a chunk that stands at `pos`.
    pub fn push(&mut self, pos: LogPos, chunk: &Chunk) {
        let index = u32::try_from(self.chunks.len()).unwrap_or(u32::MAX);
        self.chunks.push(LayerChunk {
            pos,
            body_len: u32::try_from(chunk.bytes().len()).unwrap_or(u32::MAX),
            payload_at: u32::try_from(chunk.payload_offset()).unwrap_or(u32::MAX),
            compressed: chunk.is_compressed(),
        });
        for e in chunk.extents() {
            let place = match e.kind {
                ExtentKind::Zero => Place::Zero,
                ExtentKind::Data => Place::Chunk {
                    chunk: index,
                    offset: u32::try_from(e.offset).unwrap_or(u32::MAX),
                },
            };
            self.runs.push(Run { block: e.block, count: e.count, place });
        }
    }

    /// Sorts the index once all chunks are in.
    pub fn seal(&mut self, cut_time: Wall, blocks: BlockCount) {
        self.cut_time = cut_time;
        self.blocks = blocks;
        self.runs.sort_unstable_by_key(|r| r.block);
        self.runs.shrink_to_fit();
    }

    /// Blocks in the step.
    #[must_use]
    pub fn blocks(&self) -> u64 {
        self.runs.iter().map(|r| u64::from(r.count)).sum()
    }

    /// Whether the step has this block.
    #[must_use]
    pub fn has(&self, block: u64) -> bool {
        self.find(block).is_ok()
    }

    /// The run that holds `block`, or how many blocks from it on the layer does not have (0: none
    /// follow).
    fn find(&self, block: u64) -> Result<&Run, Option<u64>> {
        let i = self.runs.partition_point(|r| r.block + u64::from(r.count) <= block);
        match self.runs.get(i) {
            Some(r) if r.block <= block => Ok(r),
            Some(r) => Err(Some(r.block - block)),
            None => Err(None),
        }
    }
}

/// What is visible, and through what.
#[derive(Debug, Default)]
pub struct ViewState {
    /// The state readers see.
    pub visible: SetNumber,
    /// When it was cut.
    pub cut_time: Wall,
    /// Size of the volume in it.
    pub blocks: BlockCount,
    /// Why reads are refused, if they are.
    pub refused: Option<String>,
    /// What is visible is read through this durable pin: the content is being overwritten.
    pub held: Option<PinId>,
    /// The content is not the primary's: nor is what pins that were taken before read of it.
    pub differs: bool,
    /// What is read from the base can be held against the table of hashes, and which table that is:
    /// another number, another table.
    pub hashed: Option<u64>,
    /// At a writer that took over: who knows what of the base the table of hashes answers for.
    pub writer: Option<Arc<Capture>>,
    /// The same of what a branch has of it, also while all else is refused.
    pub proven: Option<u64>,
    /// That table stands where the content does at every moment, so that it proves kept states as
    /// well: nobody writes here but the stream.
    pub follows: bool,
    /// Blocks of the base that are known to be damaged, whatever else proves or hides them.
    pub damaged: BlockSet,
    /// Visible steps that the base may not hold yet, oldest first.
    pub layers: Vec<Arc<Layer>>,
}

/// Where to read a run of blocks from.
#[derive(Clone, Debug)]
pub enum Source {
    /// Zeroes.
    Zero,
    /// The base, unless the pin finds a before image (ask again after reading).
    Base,
    /// A chunk in the save volume.
    Chunk {
        /// The layer.
        layer: Arc<Layer>,
        /// Index of its chunk.
        chunk: u32,
        /// Byte offset in the chunk's raw payload.
        offset: u32,
    },
}

/// A run of blocks and where it is.
#[derive(Clone, Debug)]
pub struct Piece {
    /// First block.
    pub block: BlockIndex,
    /// How many.
    pub count: u64,
    /// Where.
    pub source: Source,
}

impl ViewState {
    /// Splits `count` blocks from `first` into pieces, as of state `at`.
    #[must_use]
    pub fn resolve(&self, at: SetNumber, first: BlockIndex, count: u64, shift: u8) -> Vec<Piece> {
        let mut out = Vec::new();
        let (mut b, end) = (first.0, first.0 + count);
        while b < end {
            let mut left = end - b;
            let mut source = Source::Base;
            for layer in self.layers.iter().rev().filter(|l| l.id.to <= at) {
                match layer.find(b) {
                    Ok(r) => {
                        let skip = b - r.block;
                        left = left.min(u64::from(r.count) - skip);
                        source = match r.place {
                            Place::Zero => Source::Zero,
                            Place::Chunk { chunk, offset } => Source::Chunk {
                                layer: layer.clone(),
                                chunk,
                                offset: offset + u32::try_from(skip << shift).unwrap_or(0),
                            },
                        };
                        break;
                    }
                    Err(gap) => left = left.min(gap.unwrap_or(u64::MAX)),
                }
            }
            out.push(Piece { block: BlockIndex(b), count: left, source });
            b += left;
        }
        out
    }
}

/// A reader's hold on one state. Dropping it releases the state.
#[derive(Debug)]
pub struct Pin {
    state: SetNumber,
    blocks: BlockCount,
    /// Entry in the snapshot queue, once the base has reached the state.
    id: AtomicU64,
    /// The line of content it belongs to; see [`PinBoard::forsake`]. `None`: a branch, which
    /// outlives what is in the base.
    line: Option<u64>,
    board: Weak<PinBoard>,
    store: Arc<SnapshotStore>,
}

impl Pin {
    /// The content it held was given up (a seed, or a damaged save volume): what was read under it
    /// is void, if this is true *after* reading.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        let now = self.board.upgrade().map(|b| b.line.load(Ordering::SeqCst));
        now.is_none_or(|now| self.line.is_some_and(|l| l != now))
    }

    /// The content turned out not to be the primary's. A branch is of no primary's line.
    #[must_use]
    pub fn differs(&self) -> bool {
        let differs = |b: Arc<PinBoard>| b.differs.load(Ordering::SeqCst);
        !self.is_branch() && self.board.upgrade().is_some_and(differs)
    }

    /// The state it holds.
    #[must_use]
    pub fn state(&self) -> SetNumber {
        self.state
    }

    /// It is of a line that ended.
    #[must_use]
    pub fn is_branch(&self) -> bool {
        self.line.is_none()
    }

    /// Up to which step not merged yet the state is read through: a branch through none, its
    /// numbers are those of another line.
    #[must_use]
    pub fn through(&self) -> SetNumber {
        if self.line.is_some() { self.state } else { SetNumber::ZERO }
    }

    /// Size of the volume, as of the state that was visible when it was pinned: a kept state has
    /// zeroes where the volume has grown since.
    #[must_use]
    pub fn blocks(&self) -> BlockCount {
        self.blocks
    }

    /// Its entry in the snapshot queue; `None` while the base is behind the state.
    #[must_use]
    pub fn entry(&self) -> Option<PinId> {
        match self.id.load(Ordering::Acquire) {
            0 => None,
            n => Some(PinId(n)),
        }
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        if let Some(id) = self.entry() {
            // Unknown only if the area was full and the pin was broken before.
            let _ = self.store.release(id, PinKind::Ephemeral);
        }
        if let Some(board) = self.board.upgrade() {
            board.inner.lock().waiting.retain(|_, v| {
                v.retain(|w| w.strong_count() > 0);
                !v.is_empty()
            });
        }
    }
}

/// Blocks of which something is not what was stored.
#[derive(Debug, Default)]
pub struct Doubted {
    /// Their content, as the hash tells.
    pub content: BTreeSet<u64>,
    /// Their hash, as its own checksum tells.
    pub hashes: BTreeSet<u64>,
}

#[derive(Debug, Default)]
struct Board {
    view: Arc<ViewState>,
    merged: SetNumber,
    /// Pins on states that the base has not reached.
    waiting: BTreeMap<SetNumber, Vec<Weak<Pin>>>,
    /// Durable pins that may be opened: the mailbox lists them, and their content is not given up.
    listed: BTreeSet<PinId>,
    /// Those of branches.
    branches: BTreeSet<PinId>,
}

/// Where readers and the engine meet: the published view and the pins.
#[derive(Debug)]
pub struct PinBoard {
    inner: Mutex<Board>,
    /// Rises when the content is given up.
    line: AtomicU64,
    /// As the view has it, for readers that hold an older one.
    differs: AtomicBool,
    /// What readers found.
    doubts: Mutex<Doubted>,
    store: Arc<SnapshotStore>,
}

impl PinBoard {
    /// A board over a snapshot store, with nothing visible.
    #[must_use]
    pub fn new(store: Arc<SnapshotStore>) -> Arc<Self> {
        Arc::new(Self {
            inner: Mutex::default(),
            line: AtomicU64::new(0),
            differs: AtomicBool::new(false),
            doubts: Mutex::default(),
            store,
        })
    }

    /// The snapshot store behind the pins.
    #[must_use]
    pub fn store(&self) -> &Arc<SnapshotStore> {
        &self.store
    }

    /// The view as of now.
    #[must_use]
    pub fn view(&self) -> Arc<ViewState> {
        self.inner.lock().view.clone()
    }

    /// A reader found that a block of the base is not what was stored there.
    pub fn doubt(&self, block: u64) {
        let mut d = self.doubts.lock();
        if d.content.len() < MAX_DOUBTS {
            d.content.insert(block);
        }
    }

    /// A reader found that the hash of a block is not what was stored there.
    pub fn doubt_hash(&self, block: u64) {
        let mut d = self.doubts.lock();
        if d.hashes.len() < MAX_DOUBTS {
            d.hashes.insert(block);
        }
    }

    /// What readers found since this was asked last.
    #[must_use]
    pub fn take_doubts(&self) -> Doubted {
        std::mem::take(&mut self.doubts.lock())
    }

    /// Pins the visible state.
    ///
    /// # Errors
    /// Why reads are refused now, in words.
    pub fn pin_visible(self: &Arc<Self>) -> Result<Arc<Pin>, String> {
        let mut b = self.inner.lock();
        if let Some(why) = &b.view.refused {
            return Err(why.clone());
        }
        let state = b.view.visible;
        let held = b.view.held;
        if let Some(id) = held {
            self.store.share(id, PinKind::Ephemeral).map_err(|e| e.to_string())?;
        }
        let pin = Arc::new(Pin {
            state,
            blocks: b.view.blocks,
            id: AtomicU64::new(held.map_or(0, |id| id.0)),
            line: Some(self.line.load(Ordering::SeqCst)),
            board: Arc::downgrade(self),
            store: self.store.clone(),
        });
        if held.is_some() {
            return Ok(pin);
        }
        if b.merged >= state {
            let id = self.store.pin(state, PinKind::Ephemeral);
            pin.id.store(id.0, Ordering::Release);
        } else {
            b.waiting.entry(state).or_default().push(Arc::downgrade(&pin));
        }
        Ok(pin)
    }

    /// Holds a kept state once more, for a reader; `None` if it is not kept.
    pub fn pin_kept(self: &Arc<Self>, state: SetNumber) -> Option<Arc<Pin>> {
        // Before the state is looked up: if it is given up after that, the pin is lost from birth.
        let line = self.line.load(Ordering::SeqCst);
        let pins = self.store.durable_pins();
        let listed = self.inner.lock().listed.clone();
        let (id, _) = pins.into_iter().rev().find(|(id, s)| *s == state && listed.contains(id))?;
        self.store.share(id, PinKind::Ephemeral).ok()?;
        let blocks = self.inner.lock().view.blocks;
        Some(Arc::new(Pin {
            state,
            blocks,
            id: AtomicU64::new(id.0),
            line: Some(line),
            board: Arc::downgrade(self),
            store: self.store.clone(),
        }))
    }

    /// Holds a state of a line that ended, of so many blocks; `None` if it is not kept.
    pub fn pin_branch(
        self: &Arc<Self>,
        id: PinId,
        state: SetNumber,
        blocks: BlockCount,
    ) -> Option<Arc<Pin>> {
        if !self.inner.lock().branches.contains(&id) {
            return None;
        }
        self.store.share(id, PinKind::Ephemeral).ok()?;
        Some(Arc::new(Pin {
            state,
            blocks,
            id: AtomicU64::new(id.0),
            line: None,
            board: Arc::downgrade(self),
            store: self.store.clone(),
        }))
    }

    /// The engine publishes a new view; the one before is handed back, for its layers' sake.
    pub fn publish(&self, view: Arc<ViewState>) -> Arc<ViewState> {
        let mut b = self.inner.lock();
        self.differs.store(view.differs, Ordering::SeqCst);
        std::mem::replace(&mut b.view, view)
    }

    /// The mailbox lists these pins, durably, and none of them is given up.
    pub fn list_kept(&self, pins: impl Iterator<Item = PinId>) {
        self.inner.lock().listed = pins.collect();
    }

    /// The pins that [`list_kept`](Self::list_kept) named last.
    #[must_use]
    pub fn kept(&self) -> BTreeSet<PinId> {
        self.inner.lock().listed.iter().copied().collect()
    }

    /// As [`list_kept`](Self::list_kept), of the pins of branches.
    pub fn list_branches(&self, pins: impl Iterator<Item = PinId>) {
        self.inner.lock().branches = pins.collect();
    }

    /// The base, or the steps over it, are about to be overwritten with something else: every pin is
    /// lost. Called before the first write. Nothing can be pinned until the next view is published:
    /// a pin of the moment in between would be of the new line, and read what the old one left.
    pub fn forsake(&self) {
        let mut b = self.inner.lock();
        b.waiting.clear();
        let (visible, cut_time, blocks) = (b.view.visible, b.view.cut_time, b.view.blocks);
        let refused = Some("the content is about to be replaced".to_owned());
        let view =
            Arc::new(ViewState { visible, cut_time, blocks, refused, ..ViewState::default() });
        let old = std::mem::replace(&mut b.view, view);
        self.line.fetch_add(1, Ordering::SeqCst);
        self.store.new_line();
        drop(b);
        drop(old);
    }

    /// [`forsake`](Self::forsake), with the kept states: none can be opened from here on, although the
    /// mailbox may list them a moment longer.
    pub fn forsake_kept(&self) {
        self.inner.lock().listed.clear();
        self.forsake();
    }

    /// The base now holds `merged` in full: pins that waited for it enter the snapshot queue. Must
    /// be called before any block of a later step is written to the base.
    pub fn advance(&self, merged: SetNumber) {
        let mut b = self.inner.lock();
        b.merged = merged;
        let later = b.waiting.split_off(&merged.next());
        // Held until the lock is gone: the last owner of a pin may drop it here, and dropping locks.
        let mut held = Vec::new();
        for (state, pins) in std::mem::replace(&mut b.waiting, later) {
            for pin in pins.iter().filter_map(Weak::upgrade) {
                let id = self.store.pin(state, PinKind::Ephemeral);
                pin.id.store(id.0, Ordering::Release);
                held.push(pin);
            }
        }
        drop(b);
    }
}
