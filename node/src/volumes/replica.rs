//! Reading a replica, or a kept state: through unmerged steps, before images and the base (PLAY-04,
//! F27).

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use rcp::proto::delta::Chunk;
use rcp::proto::ids::{SetNumber, StateId};
use volmcast::io::{FileId, IoError};
use volmcast::save::Ring;
use volmcast::save::record::HEADER_LEN;
use volmcast::snapshots::{Found, SnapshotError};
use volmcast::storage::{Files, Storage};
use volmcast::units::{BlockCount, BlockIndex, BlockSize};
use volmcast::view::{Layer, Pin, PinBoard, Source, ViewState};

use super::proven;
use crate::nbd::{Errno, Export, ExportInfo, Extent, ReadError};
use crate::seldom::Seldom;

/// Unpacked chunks kept for readers of steps that are not merged yet.
const UNPACKED: usize = 4;

/// A client's read failed, for this reason.
fn failed(error: String) -> Errno {
    static READS: Seldom = Seldom::new();
    if let Some(left_out) = READS.turn() {
        tracing::warn!(error, left_out, "a read of a replica failed");
    }
    Errno::Io
}

/// Shared parts of a volume that can be read at a state.
#[derive(Debug)]
pub struct ReplicaVolume<F = Files> {
    files: Arc<F>,
    board: Arc<PinBoard>,
    ring: Ring,
    block_size: BlockSize,
    unpacked: Mutex<Vec<(u64, Bytes)>>,
}

/// Why a read failed.
#[derive(Debug, thiserror::Error)]
pub enum ReadFailure {
    /// The disk.
    #[error("{0}")]
    Io(#[from] IoError),
    /// The state is gone.
    #[error("{0}")]
    Pin(#[from] SnapshotError),
    /// The content was given up: the replica is being seeded, or fetches its steps again.
    #[error("the state is gone: the replica is filled anew")]
    Lost,
    /// The content turned out not to be the primary's.
    #[error(
        "state {0} was not handed out: the content here is not the primary's (`rcpctl status` says \
         what is done about it); read it from another replica"
    )]
    Differs(SetNumber),
    /// Stored bytes are not what was stored.
    #[error("{0}")]
    Damaged(String),
    /// A block of the content is not what was stored: it is never handed out.
    #[error(
        "block {block} of state {state} was not handed out: the bytes on the disk here are not those \
         that were stored (their hash differs); read it from another replica; it is fetched again \
         from the parent (the writer waits for it to be written), and the disk below this node should be looked at"
    )]
    Rotten {
        /// The block.
        block: u64,
        /// The state that was read.
        state: SetNumber,
    },
}

impl<F: Storage> ReplicaVolume<F> {
    /// Over open files and the engine's board.
    #[must_use]
    pub fn new(files: Arc<F>, board: Arc<PinBoard>, ring: Ring, block_size: BlockSize) -> Self {
        Self { files, board, ring, block_size, unpacked: Mutex::default() }
    }

    /// Where pins are taken.
    #[must_use]
    pub fn board(&self) -> &Arc<PinBoard> {
        &self.board
    }

    /// Size of its blocks.
    #[must_use]
    pub fn block_size(&self) -> BlockSize {
        self.block_size
    }

    /// Bytes of the volume in a pinned state.
    #[must_use]
    pub fn size_of(&self, pin: &Pin) -> u64 {
        self.block_size.offset(BlockIndex(pin.blocks().0))
    }

    /// The open files.
    #[must_use]
    pub fn files(&self) -> &Arc<F> {
        &self.files
    }

    /// Reads `buf.len()` bytes at `offset` of the pinned state.
    ///
    /// # Errors
    /// [`ReadFailure`].
    pub fn read(&self, pin: &Pin, offset: u64, buf: &mut [u8]) -> Result<(), ReadFailure> {
        // Held for the whole request: the records of its layers stay in the save volume.
        let view = self.board.view();
        self.read_through(&view, pin, offset, buf)
    }

    /// As [`read`](Self::read), through a view that was taken before and is held.
    ///
    /// # Errors
    /// [`ReadFailure`].
    pub fn read_through(
        &self,
        view: &ViewState,
        pin: &Pin,
        offset: u64,
        buf: &mut [u8],
    ) -> Result<(), ReadFailure> {
        let read = self.read_pieces(view, pin, offset, buf);
        Self::stands(pin)?;
        read
    }

    /// Asked last: what was read before the content was given up is right.
    fn stands(pin: &Pin) -> Result<(), ReadFailure> {
        if pin.is_lost() {
            return Err(ReadFailure::Lost);
        }
        if pin.differs() {
            return Err(ReadFailure::Differs(pin.state()));
        }
        Ok(())
    }

    fn read_pieces(
        &self,
        view: &ViewState,
        pin: &Pin,
        offset: u64,
        buf: &mut [u8],
    ) -> Result<(), ReadFailure> {
        let bs = self.block_size;
        let (first, count) = bs.span(offset, buf.len() as u64);
        for piece in view.resolve(pin.through(), first, count.0, bs.shift()) {
            let start = bs.offset(piece.block).max(offset);
            let end =
                bs.offset(BlockIndex(piece.block.0 + piece.count)).min(offset + buf.len() as u64);
            let skip = usize::try_from(start - bs.offset(piece.block)).unwrap_or(0);
            let at = usize::try_from(start - offset).unwrap_or(0);
            let len = usize::try_from(end - start).unwrap_or(0);
            let out = &mut buf[at..at + len];
            match &piece.source {
                Source::Zero => out.fill(0),
                Source::Chunk { layer, chunk, offset } => {
                    self.read_layer(layer, *chunk, *offset as usize + skip, out)?;
                }
                Source::Base => self.read_base(pin, start, out)?,
            }
        }
        Ok(())
    }

    /// Which parts of a range are zero without being read. Computed from the same view as reads:
    /// zero only where no layer, image or data is. `holes(offset, len)` finds them in the base.
    ///
    /// # Errors
    /// [`ReadFailure`].
    pub fn block_status(
        &self,
        pin: &Pin,
        offset: u64,
        len: u64,
        holes: &dyn Fn(u64, u64) -> Vec<Extent>,
    ) -> Result<Vec<Extent>, ReadFailure> {
        let bs = self.block_size;
        let (first, count) = bs.span(offset, len);
        let view = self.board.view();
        let mut out: Vec<Extent> = Vec::new();
        let mut push = |len: u64, zero: bool| match out.last_mut() {
            _ if len == 0 => {}
            Some(e) if e.zero == zero => e.len += len,
            _ => out.push(Extent { len, hole: zero, zero }),
        };
        for piece in view.resolve(pin.through(), first, count.0, bs.shift()) {
            let start = bs.offset(piece.block).max(offset);
            let end = bs.offset(BlockIndex(piece.block.0 + piece.count)).min(offset + len);
            match piece.source {
                Source::Zero => push(end - start, true),
                Source::Chunk { .. } => push(end - start, false),
                Source::Base => {
                    let (b, n) = bs.span(start, end - start);
                    let holes = holes(start, end - start);
                    // A block of a hole is zero only if, looked at afterwards, it has no image.
                    let looked = self.look(pin, b, n)?;
                    let images = looked.iter().filter(|(.., f)| *f != Found::Base);
                    let images =
                        images.map(|(b, n, _)| bs.offset(*b)..bs.offset(BlockIndex(b.0 + n)));
                    zeroes(start..end, &holes, images, &mut push);
                }
            }
        }
        // What was given up may have been cleared while we looked.
        Self::stands(pin)?;
        Ok(out)
    }

    fn read_layer(
        &self,
        layer: &Layer,
        chunk: u32,
        offset: usize,
        out: &mut [u8],
    ) -> Result<(), ReadFailure> {
        let gone = || ReadFailure::Damaged("a step's index names a chunk it does not have".into());
        let c = layer.chunks.get(chunk as usize).ok_or_else(gone)?;
        let known =
            self.unpacked.lock().iter().find(|(p, _)| *p == c.pos.0).map(|(_, b)| b.clone());
        let payload = match known {
            Some(p) => p,
            None => {
                let at = self.ring.offset(c.pos) + HEADER_LEN as u64;
                let mut b = vec![0; c.body_len as usize];
                self.files.read_into(FileId::Save, at, &mut b)?;
                let chunk = Chunk::parse(Bytes::from(b)).and_then(|c| c.payload());
                let payload = chunk.map_err(|e| {
                    ReadFailure::Damaged(format!(
                        "chunk at position {} of the save volume: {e}",
                        c.pos
                    ))
                })?;
                let mut cache = self.unpacked.lock();
                if cache.len() >= UNPACKED {
                    cache.remove(0);
                }
                cache.push((c.pos.0, payload.clone()));
                payload
            }
        };
        out.copy_from_slice(payload.get(offset..offset + out.len()).ok_or_else(gone)?);
        Ok(())
    }

    /// Which table proves what this pin has of the base, if one does: also below content that is
    /// hidden, if what is overwritten there is saved for it.
    fn table_for(&self, pin: &Pin) -> Option<u64> {
        let view = self.board.view();
        let saved = pin.is_branch() || (view.follows && pin.entry().is_some());
        view.hashed.or(view.proven.filter(|_| saved))
    }

    /// From the base, or from before images where the pin has them. What was read from the base
    /// counts only if a second look still says that it is there.
    fn read_base(&self, pin: &Pin, offset: u64, out: &mut [u8]) -> Result<(), ReadFailure> {
        let bs = self.block_size;
        let (first, count) = bs.span(offset, out.len() as u64);
        loop {
            let (mut rotten, mut unknown) = (None, Vec::new());
            // As of now: the view that a request holds may be of a time before the table was given
            // up.
            let table = self.table_for(pin);
            let now = self.board.view();
            let proof = now.writer.as_ref().and_then(|c| Some((c, c.proof()?)));
            let before = self.look(pin, first, count)?;
            for (run_first, run_count, found) in &before {
                let start = bs.offset(*run_first).max(offset);
                let end =
                    bs.offset(BlockIndex(run_first.0 + run_count)).min(offset + out.len() as u64);
                let at = usize::try_from(start - offset).unwrap_or(0);
                let part = &mut out[at..at + usize::try_from(end - start).unwrap_or(0)];
                match found {
                    Found::Base if table.is_some() || proof.is_some() => {
                        let run = (*run_first, *run_count);
                        let found = proven::read(&*self.files, bs, run, start, part)?;
                        unknown.extend(found.unknown);
                        let mut bad = found.wrong.into_iter().map(BlockIndex);
                        let bad = match &proof {
                            Some((c, p)) => bad.find(|b| c.still_proves(p, *b)),
                            None => bad.next(),
                        };
                        rotten = rotten.or(bad.map(|b| b.0));
                    }
                    Found::Base => {
                        let mut run = run_first.0..run_first.0 + run_count;
                        rotten = rotten.or(run.find(|b| now.damaged.contains(BlockIndex(*b))));
                        self.files.read_into(FileId::Base, start, part)?;
                    }
                    Found::Slot(s) => {
                        let mut block = vec![0; usize::try_from(bs.bytes()).unwrap_or(0)];
                        self.files.read_into(FileId::Snapshots, s.offset, &mut block)?;
                        if !found.verifies(&block) {
                            return Err(ReadFailure::Damaged(format!(
                                "before image of block {} of state {}",
                                run_first.0,
                                pin.state()
                            )));
                        }
                        let skip = usize::try_from(start - bs.offset(*run_first)).unwrap_or(0);
                        part.copy_from_slice(&block[skip..skip + part.len()]);
                    }
                }
            }
            // What was being overwritten meanwhile proves nothing.
            if self.look(pin, first, count)? == before {
                if rotten.is_none() && unknown.is_empty() {
                    return Ok(());
                }
                // Nor does a table that was given up meanwhile.
                if self.table_for(pin) != table {
                    continue;
                }
                // Content that is hidden comes anew anyway.
                let shown = self.board.view().hashed.is_some();
                unknown.iter().filter(|_| shown).for_each(|b| self.board.doubt_hash(*b));
                let Some(block) = rotten else { return Ok(()) };
                if shown {
                    self.board.doubt(block);
                }
                return Err(ReadFailure::Rotten { block, state: pin.state() });
            }
        }
    }

    fn look(
        &self,
        pin: &Pin,
        first: BlockIndex,
        count: BlockCount,
    ) -> Result<Vec<(BlockIndex, u64, Found)>, ReadFailure> {
        let Some(id) = pin.entry() else {
            return Ok(vec![(first, count.0, Found::Base)]);
        };
        let runs = self.board.store().lookup_range(id, first, count)?;
        Ok(runs.into_iter().map(|((b, n), found)| (b, n.0, found)).collect())
    }
}

/// Tells `range` to `push` in order, by length: zero is what is in a hole of the base and has no
/// image. `extents` are the base's from the start of the range on, and end early where they were not
/// looked for any more; the images are in order.
fn zeroes(
    range: Range<u64>,
    extents: &[Extent],
    images: impl Iterator<Item = Range<u64>>,
    push: &mut impl FnMut(u64, bool),
) {
    let mut images = images.peekable();
    let mut at = range.start;
    for e in extents {
        let end = (at + e.len).min(range.end);
        while e.zero
            && let Some(image) = images.peek().filter(|i| i.start < end)
        {
            let (from, to) = (image.start.max(at), image.end.clamp(at, end));
            push(from - at, true);
            push(to - from, false);
            at = to;
            if image.end > end {
                break;
            }
            images.next();
        }
        push(end - at, e.zero);
        at = end;
    }
    push(range.end - at, false);
}

/// One state of a volume, held for a reader.
pub struct StateView {
    volume: Arc<ReplicaVolume>,
    pin: Following,
    size: u64,
    id: Option<StateId>,
    multi_conn: bool,
    description: String,
}

enum Following {
    Pinned(Arc<Pin>),
    Newest,
}

impl StateView {
    /// The volume it is of.
    #[must_use]
    pub fn volume(&self) -> &Arc<ReplicaVolume> {
        &self.volume
    }

    /// Id of the state, if it is one.
    #[must_use]
    pub fn id(&self) -> Option<StateId> {
        self.id
    }

    /// The state that it holds, if it is one.
    #[must_use]
    pub fn pin(&self) -> Option<&Pin> {
        match &self.pin {
            Following::Pinned(p) => Some(p),
            Following::Newest => None,
        }
    }

    /// A fixed state. Several connections may read it as one only if all hold the same state.
    #[must_use]
    pub fn pinned(
        volume: Arc<ReplicaVolume>,
        pin: Arc<Pin>,
        size: u64,
        id: Option<StateId>,
        multi_conn: bool,
        description: String,
    ) -> Self {
        Self { volume, pin: Following::Pinned(pin), size, id, multi_conn, description }
    }

    /// Whatever is visible at each request.
    #[must_use]
    pub fn newest(volume: Arc<ReplicaVolume>, size: u64, description: String) -> Self {
        Self { volume, pin: Following::Newest, size, id: None, multi_conn: false, description }
    }

    /// The state's full id; `None` when it follows.
    #[must_use]
    pub fn state_id(&self) -> Option<StateId> {
        self.id
    }

    /// The state's number; `None` when it follows.
    #[must_use]
    pub fn set(&self) -> Option<SetNumber> {
        match &self.pin {
            Following::Pinned(p) => Some(p.state()),
            Following::Newest => None,
        }
    }

    /// Size in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Reads a range.
    ///
    /// # Errors
    /// In words.
    pub fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), String> {
        match &self.pin {
            Following::Pinned(p) => self.volume.read(p, offset, buf).map_err(|e| e.to_string()),
            Following::Newest => {
                let pin = self.volume.board.pin_visible()?;
                self.volume.read(&pin, offset, buf).map_err(|e| e.to_string())
            }
        }
    }
}

impl Export for StateView {
    fn info(&self) -> ExportInfo {
        ExportInfo {
            size: self.size,
            read_only: true,
            block_size: u32::try_from(self.volume.block_size.bytes()).unwrap_or(4096),
            can_multi_conn: self.multi_conn,
            can_trim: false,
            can_zero: false,
            can_fast_zero: false,
            can_cache: false,
            cheap_status: false,
            description: self.description.clone(),
        }
    }

    fn try_read(&self, _offset: u64, _buf: &mut [u8]) -> Result<(), ReadError> {
        // Several places may have to be looked at: not on the connection's thread.
        Err(ReadError::WouldBlock)
    }

    fn for_one_request(&self) -> Result<Option<Arc<dyn Export>>, Errno> {
        let Following::Newest = &self.pin else { return Ok(None) };
        let pin = self.volume.board.pin_visible().map_err(failed)?;
        let (volume, text) = (self.volume.clone(), self.description.clone());
        Ok(Some(Arc::new(Self::pinned(volume, pin, self.size, None, false, text))))
    }

    fn read(&self, offset: u64, buf: &mut [u8]) -> Result<(), Errno> {
        self.read_at(offset, buf).map_err(failed)
    }

    fn write(&self, _offset: u64, _data: &[u8]) -> Result<(), Errno> {
        Err(Errno::Perm)
    }

    fn flush(&self) -> Result<(), Errno> {
        Ok(())
    }

    fn trim(&self, _offset: u64, _len: u64) -> Result<(), Errno> {
        Err(Errno::Perm)
    }

    fn zero(&self, _o: u64, _l: u64, _n: bool, _f: bool) -> Result<(), Errno> {
        Err(Errno::Perm)
    }

    fn block_status(
        &self,
        offset: u64,
        len: u64,
        max_extents: usize,
    ) -> Result<Vec<Extent>, Errno> {
        let all = vec![Extent { len, hole: false, zero: false }];
        let Following::Pinned(pin) = &self.pin else { return Ok(all) };
        let base = self.volume.files.file(FileId::Base);
        let most = max_extents.max(64);
        let holes = |offset, len| super::names::file_extents(base, offset, len, most);
        let found = self.volume.block_status(pin, offset, len, &holes);
        let mut out = found.map_err(|_| Errno::Io)?;
        // Asked last, as at a writer.
        if self.volume.files.is_gone() {
            return Err(Errno::Io);
        }
        out.truncate(max_extents.max(1));
        Ok(out)
    }
}

impl crate::api::StateReader for StateView {
    fn size(&self) -> u64 {
        self.size
    }

    fn state_id(&self) -> Option<String> {
        self.id.map(|s| s.to_string())
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), crate::api::ApiError> {
        Self::read_at(self, offset, buf)
            .map_err(|e| crate::api::ApiError::new(crate::api::ApiErrorKind::Unavailable, e))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Zero extents as `(offset, end)`.
    fn told(range: Range<u64>, extents: &[(u64, bool)], images: &[Range<u64>]) -> Vec<(u64, u64)> {
        let extents: Vec<_> = extents
            .iter()
            .map(|(len, zero)| Extent { len: *len, hole: *zero, zero: *zero })
            .collect();
        let (mut at, mut out) = (range.start, Vec::new());
        let (end, images) = (range.end, images.iter().cloned());
        zeroes(range, &extents, images, &mut |len, zero| {
            if zero && len > 0 {
                out.push((at, at + len));
            }
            at += len;
        });
        assert_eq!(at, end, "all of it is told");
        out
    }

    #[test]
    fn a_hole_is_zero_but_for_the_blocks_that_have_an_image() {
        let hole = [(100, true)];
        assert_eq!(told(50..150, &hole, &[]), [(50, 150)]);
        assert_eq!(
            told(50..150, &hole, &[60..70, 70..80, 100..110]),
            [(50, 60), (80, 100), (110, 150)]
        );
        // Images that are only partly within, or in data.
        assert_eq!(told(50..150, &hole, &[40..52, 148..156]), [(52, 148)]);
        let mixed = [(20, true), (30, false), (50, true)];
        assert_eq!(told(50..150, &mixed, &[66..74, 80..90, 96..104]), [(50, 66), (104, 150)]);
        // What nobody looked for is data.
        assert_eq!(told(50..150, &[(10, true)], &[52..53, 55..56]), [(50, 52), (53, 55), (56, 60)]);
        assert_eq!(told(50..150, &[], &[]), []);
    }
}
