//! The writable volume (CAP-02, CAP-09, CAP-14, SNAP F26).
//!
//! Every change takes the same way: the activity log has its extents, durably; the gate lets it in;
//! the blocks are marked and what the draining set or a pin still needs is kept; then it reaches
//! the file. Reads go straight to the file; where another node's content was taken over, what nobody
//! has written since is held against the table of hashes.

use std::io::IoSliceMut;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;
use rustix::io::{Errno as Os, ReadWriteFlags};
use volmcast::activity::SharedLog;
use volmcast::capture::{Capture, Proof};
use volmcast::digest::table_range;
use volmcast::io::{FileId, Io, IoError, Op, Outcome, Tag};
use volmcast::snapshots::{AreaIo, SnapshotStore};
use volmcast::storage::{self, Files, Storage};
use volmcast::units::{BlockCount, BlockIndex, BlockSize};

use super::gate::WriteGate;
use super::proven;
use crate::nbd::{Errno, Export, ExportInfo, Extent, ReadError};

/// Most bytes that are marked and written as one: keeps the copies for a large write bounded.
const PIECE: u64 = 1 << 20;

/// The shared, writable side of a primary's volume.
#[derive(Debug)]
pub struct PrimaryVolume {
    files: Arc<Files>,
    capture: Arc<Capture>,
    activity: Arc<SharedLog>,
    snapshots: Arc<SnapshotStore>,
    block_size: BlockSize,
    size: AtomicU64,
    /// Bytes that were prepared for use, perhaps more than `size`: never made zero again.
    prepared: Mutex<u64>,
    description: String,
    gate: WriteGate,
}

impl PrimaryVolume {
    /// Over open files and the machines' shared parts.
    #[must_use]
    pub fn new(
        files: Arc<Files>,
        capture: Arc<Capture>,
        activity: Arc<SharedLog>,
        snapshots: Arc<SnapshotStore>,
        block_size: BlockSize,
        size: u64,
        description: String,
    ) -> Self {
        Self {
            files,
            capture,
            activity,
            snapshots,
            block_size,
            size: AtomicU64::new(size),
            prepared: Mutex::new(size),
            description,
            gate: WriteGate::default(),
        }
    }

    /// Whether writers are let in.
    #[must_use]
    pub fn gate(&self) -> &WriteGate {
        &self.gate
    }

    /// The activity log, for clearing.
    #[must_use]
    pub fn activity(&self) -> &Arc<SharedLog> {
        &self.activity
    }

    /// The capture tables.
    #[must_use]
    pub fn capture(&self) -> &Arc<Capture> {
        &self.capture
    }

    /// The open files.
    #[must_use]
    pub fn files(&self) -> &Arc<Files> {
        &self.files
    }

    /// The volume has this size from now on: clients that connect see it.
    pub fn set_blocks(&self, blocks: BlockCount) {
        self.size.store(self.block_size.offset(BlockIndex(blocks.0)), Ordering::Release);
    }

    /// Brings base and activity log to a larger size, durably; nothing uses it yet.
    ///
    /// # Errors
    /// In words, with the remedy.
    pub fn prepare_growth(&self, blocks: BlockCount) -> Result<(), String> {
        let mut prepared = self.prepared.lock();
        let from = self.size.load(Ordering::Acquire).max(*prepared);
        let len = self.block_size.offset(BlockIndex(blocks.0));
        prepare_growth(&*self.files, &self.activity, from, len, blocks)?;
        *prepared = from.max(len);
        Ok(())
    }

    /// Takes extents without marks back from the activity log, after a set was finished.
    pub fn forget_clean_extents(&self) {
        let blocks = self.size.load(Ordering::Relaxed) >> self.block_size.shift();
        self.activity.with(|log| {
            log.clear_clean(BlockIndex(0), BlockCount(blocks), &mut |first, count| {
                self.capture.any_dirty(first, count)
            })
        });
    }

    /// As [`Self::forget_clean_extents`], and durably: where nothing has changed since the last set,
    /// nothing counts as changed after a crash.
    ///
    /// # Errors
    /// In words.
    pub fn settle_extents(&self) -> Result<(), String> {
        let blocks = self.size.load(Ordering::Relaxed) >> self.block_size.shift();
        let dirty = &mut |first, count| self.capture.any_dirty(first, count);
        self.activity
            .forget(BlockIndex(0), BlockCount(blocks), dirty, &mut |io| self.files.perform(io))
            .map_err(|e| format!("the activity log could not be written: {e}"))
    }

    /// Has the next set carry `offset..offset + len` again, as it is (CB-01).
    ///
    /// # Errors
    /// In words.
    pub fn touch(&self, offset: u64, len: u64) -> Result<(), String> {
        let size = self.size.load(Ordering::Acquire);
        if offset.checked_add(len).is_none_or(|end| end > size) {
            return Err(format!(
                "the extent of {len} bytes at {offset} ends beyond the volume, which has {size} bytes"
            ));
        }
        self.prove(offset, len)
            .and_then(|()| self.change_in_pieces(offset, len, &|_, _, _| Ok(())))
            .map_err(|e| format!("the {} cannot take it: {e:?}", self.description))
    }

    /// Reads, and holds what was taken over and nobody wrote since against the table of hashes.
    fn read_proven(&self, proof: &Proof, offset: u64, buf: &mut [u8]) -> Result<(), Errno> {
        let bs = self.block_size;
        let (first, count) = bs.span(offset, buf.len() as u64);
        let found =
            proven::read(&*self.files, bs, (first, count.0), offset, buf).map_err(io_errno)?;
        let Some(block) = found.wrong.into_iter().find(|b| self.is_damaged(proof, *b)) else {
            return Ok(());
        };
        tracing::error!(
            "{}: block {block} was not handed out: the bytes on the disk here are not those that were \
             stored before this node took over (their hash differs); write the block again in full, \
             with what another copy has",
            self.description
        );
        Err(Errno::Io)
    }

    /// A block that differs from its hash: not if it was written meanwhile.
    fn is_damaged(&self, proof: &Proof, block: u64) -> bool {
        let damaged = self.capture.still_proves(proof, BlockIndex(block));
        if damaged {
            self.capture.doubt(BlockIndex(block));
        }
        damaged
    }

    /// What is there is what was stored; nothing is known of it if nothing was taken over.
    fn prove(&self, offset: u64, len: u64) -> Result<(), Errno> {
        let Some(proof) = self.capture.proof() else { return Ok(()) };
        let (mut at, end) = (offset, offset + len);
        let mut piece = vec![0; usize::try_from(len.min(PIECE)).unwrap_or(0)];
        while at < end {
            let n = (end - at).min(PIECE - at % PIECE);
            self.read_proven(&proof, at, &mut piece[..usize::try_from(n).unwrap_or(0)])?;
            at += n;
        }
        Ok(())
    }

    /// The blocks of which a change leaves a part as it is: damage in it would become the client's.
    fn prove_edges(&self, offset: u64, len: u64) -> Result<(), Errno> {
        let bs = self.block_size.bytes();
        let end = offset + len;
        if !offset.is_multiple_of(bs) {
            self.prove(offset / bs * bs, 1)?;
        }
        if !end.is_multiple_of(bs) && (offset.is_multiple_of(bs) || end / bs != offset / bs) {
            self.prove(end / bs * bs, 1)?;
        }
        Ok(())
    }

    /// Carries a change of `offset..offset + len` through capture and pins, then `act`.
    fn change(
        &self,
        offset: u64,
        len: u64,
        act: &dyn Fn(&std::fs::File) -> Result<(), Errno>,
    ) -> Result<(), Errno> {
        let (first, count) = self.block_size.span(offset, len);
        let _pass = self.gate.enter(|| self.capture.must_wait())?;
        self.prove_edges(offset, len)?;
        loop {
            self.activity
                .ensure(first, count, &mut |io| self.files.perform(io))
                .map_err(|_| Errno::Io)?;
            let capture = Some(&*self.capture);
            let mut area = Area { files: &*self.files, bs: self.block_size, capture };
            self.snapshots.preserve(first, count, &mut area).map_err(io_errno)?;
            let ticket = self.capture.enter();
            let mut read_old = |b: BlockIndex, buf: &mut [u8]| {
                storage::read_full(self.files.file(FileId::Base), self.block_size.offset(b), buf)
                    .map_err(|e| storage::io_error(&e))
            };
            self.capture
                .before_write(&ticket, first, count, &mut read_old)
                .map_err(|_| Errno::Io)?;
            // A cut may have come in between: extents taken back, or a new state to keep.
            if !self.activity.map().covers(first, count)
                || !self.snapshots.needs_copy(first, count).is_empty()
            {
                drop(ticket);
                continue;
            }
            let done = act(self.files.file(FileId::Base));
            drop(ticket);
            return done;
        }
    }

    /// As [`Self::change`], piece by piece.
    fn change_in_pieces(
        &self,
        offset: u64,
        len: u64,
        act: &dyn Fn(&std::fs::File, u64, u64) -> Result<(), Errno>,
    ) -> Result<(), Errno> {
        let (mut at, end) = (offset, offset + len);
        while at < end {
            let n = (end - at).min(PIECE - at % PIECE);
            self.change(at, n, &|f| act(f, at, n))?;
            at += n;
        }
        Ok(())
    }

    /// The whole blocks inside a range: TRIM leaves partial edges alone.
    fn whole_blocks(&self, offset: u64, len: u64) -> Option<(u64, u64)> {
        let bs = self.block_size.bytes();
        let from = offset.div_ceil(bs) * bs;
        let to = (offset + len) / bs * bs;
        (to > from).then(|| (from, to - from))
    }
}

/// Base and activity log of a primary get room for `blocks` blocks, `len` bytes, durably.
///
/// # Errors
/// In words, with the remedy.
pub fn prepare_growth(
    files: &dyn Storage,
    activity: &SharedLog,
    from: u64,
    len: u64,
    blocks: BlockCount,
) -> Result<(), String> {
    let (table, _) = table_range(blocks_before(from, len, blocks), 0);
    let zero = Op::Zero { offset: table, len: table_range(blocks.0, 0).0.saturating_sub(table) };
    for (file, op) in [
        (FileId::Hashes, zero),
        (FileId::Hashes, Op::Sync),
        (FileId::Base, Op::Extend { from, len }),
        (FileId::Base, Op::Sync),
    ] {
        match files.perform(&Io { tag: Tag(0), file, op }) {
            Outcome::Done => {}
            Outcome::Failed(IoError::NoSpace) => {
                return Err(format!(
                    "its content has no room for {len} bytes: make room, or enlarge the device \
                     first"
                ));
            }
            Outcome::Failed(e) => return Err(format!("its content cannot be made longer: {e}")),
            _ => return Err("an answer of the wrong kind".to_owned()),
        }
    }
    activity.grow(blocks, &mut |io| files.perform(io)).map_err(|e| e.to_string())
}

/// Blocks before byte `from`, of a volume of `len` bytes that has `blocks`.
fn blocks_before(from: u64, len: u64, blocks: BlockCount) -> u64 {
    from / (len / blocks.0.max(1)).max(1)
}

fn io_errno(e: IoError) -> Errno {
    match e {
        IoError::NoSpace => Errno::NoSpc,
        IoError::Os(_) => Errno::Io,
    }
}

/// Files as the snapshot store wants them.
pub struct Area<'a> {
    /// The volume's files.
    pub files: &'a dyn Storage,
    /// Its block size.
    pub bs: BlockSize,
    /// Tells what the table of hashes answers for.
    pub capture: Option<&'a Capture>,
}

impl Area<'_> {
    fn run(&self, op: Op) -> Result<(), IoError> {
        let io = Io { tag: Tag(0), file: FileId::Snapshots, op };
        match self.files.perform(&io) {
            Outcome::Failed(e) => Err(e),
            _ => Ok(()),
        }
    }
}

impl AreaIo for Area<'_> {
    fn read_base(&mut self, block: BlockIndex, buf: &mut [u8]) -> Result<(), IoError> {
        self.files.read_into(FileId::Base, self.bs.offset(block), buf)
    }

    fn is_damaged(&mut self, block: BlockIndex, content: &[u8]) -> bool {
        let Some((capture, proof)) = self.capture.and_then(|c| Some((c, c.proof()?))) else {
            return false;
        };
        let damaged = proven::differ(self.files, block, content, self.bs)
            .is_ok_and(|found| !found.wrong.is_empty())
            && capture.still_proves(&proof, block);
        if damaged {
            capture.doubt(block);
        }
        damaged
    }

    fn read_area(&mut self, offset: u64, buf: &mut [u8]) -> Result<(), IoError> {
        self.files.read_into(FileId::Snapshots, offset, buf)
    }

    fn write_area(&mut self, offset: u64, data: &[u8]) -> Result<(), IoError> {
        self.run(Op::Write { offset, data: vec![Bytes::copy_from_slice(data)] })
    }

    fn sync_area(&mut self) -> Result<(), IoError> {
        self.run(Op::Sync)
    }
}

impl Export for PrimaryVolume {
    fn info(&self) -> ExportInfo {
        ExportInfo {
            size: self.size.load(Ordering::Relaxed),
            read_only: self.gate.is_closed(),
            block_size: u32::try_from(self.block_size.bytes()).unwrap_or(4096),
            can_multi_conn: true,
            can_trim: true,
            can_zero: true,
            can_fast_zero: true,
            can_cache: true,
            cheap_status: true,
            description: self.description.clone(),
        }
    }

    fn try_read(&self, offset: u64, buf: &mut [u8]) -> Result<(), ReadError> {
        if self.capture.proof().is_some() {
            // Content and hashes are read: not on the connection's thread.
            return Err(ReadError::WouldBlock);
        }
        let want = buf.len();
        let mut slices = [IoSliceMut::new(buf)];
        let f = self.files.file(FileId::Base);
        self.gate.reading(ReadError::Failed(Errno::Io), || {
            match rustix::io::preadv2(f, &mut slices, offset, ReadWriteFlags::NOWAIT) {
                Ok(n) if n == want => Ok(()),
                Ok(_) | Err(Os::AGAIN | Os::INTR | Os::OPNOTSUPP | Os::NOSYS) => {
                    Err(ReadError::WouldBlock)
                }
                Err(e) => Err(ReadError::Failed(std::io::Error::from(e).into())),
            }
        })
    }

    fn read(&self, offset: u64, buf: &mut [u8]) -> Result<(), Errno> {
        self.gate.reading(Errno::Io, || match self.capture.proof() {
            Some(proof) => self.read_proven(&proof, offset, buf),
            None => Ok(storage::read_full(self.files.file(FileId::Base), offset, buf)?),
        })
    }

    fn write_might_block(&self) -> bool {
        // Reads behind it on the same connection are served meanwhile.
        self.capture.must_wait() || self.gate.might_hold()
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), Errno> {
        self.change(offset, data.len() as u64, &|f| Ok(f.write_all_at(data, offset)?))
    }

    fn is_handed_over(&self) -> bool {
        self.gate.is_handed_over()
    }

    fn flush(&self) -> Result<(), Errno> {
        self.files.sync(FileId::Base)?;
        // Stopped: nothing is acknowledged any more.
        if self.capture.is_stopped() { Err(Errno::Io) } else { Ok(()) }
    }

    fn trim(&self, offset: u64, len: u64) -> Result<(), Errno> {
        match self.whole_blocks(offset, len) {
            None => Ok(()),
            Some((offset, len)) => self.zero(offset, len, false, false),
        }
    }

    fn zero(&self, offset: u64, len: u64, no_hole: bool, fast: bool) -> Result<(), Errno> {
        self.change_in_pieces(offset, len, &|f, at, n| {
            if storage::zero_at_once(f, at, n, no_hole)? {
                Ok(())
            } else if fast {
                Err(Errno::NotSup)
            } else {
                Ok(storage::write_zeroes(f, at, n)?)
            }
        })
    }

    fn cache(&self, offset: u64, len: u64) -> Result<(), Errno> {
        let f = self.files.file(FileId::Base);
        let len = std::num::NonZeroU64::new(len);
        rustix::fs::fadvise(f, offset, len, rustix::fs::Advice::WillNeed)
            .map_err(|e| std::io::Error::from(e).into())
    }

    fn block_status(
        &self,
        offset: u64,
        len: u64,
        max_extents: usize,
    ) -> Result<Vec<Extent>, Errno> {
        let f = self.files.file(FileId::Base);
        self.gate.reading(Errno::Io, || Ok(super::names::file_extents(f, offset, len, max_extents)))
    }
}
