//! The writable volume (CAP-02, CAP-09, CAP-14, SNAP F26).
//!
//! Every change takes the same way: the activity log has its extents, durably; the gate lets it in;
//! the blocks are marked and what the draining set or a pin still needs is kept; then it reaches
//! the file. Reads go straight to the file.

use std::io::IoSliceMut;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;
use rustix::io::{Errno as Os, ReadWriteFlags};
use volmcast::activity::SharedLog;
use volmcast::capture::Capture;
use volmcast::digest::table_range;
use volmcast::io::{FileId, Io, IoError, Op, Outcome, Tag};
use volmcast::snapshots::{AreaIo, SnapshotStore};
use volmcast::storage::{self, Files, Storage};
use volmcast::units::{BlockCount, BlockIndex, BlockSize};

use super::gate::WriteGate;
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
        self.change_in_pieces(offset, len, &|_, _, _| Ok(()))
            .map_err(|e| format!("the {} cannot take it: {e:?}", self.description))
    }

    /// Carries a change of `offset..offset + len` through capture and pins, then `act`.
    fn change(
        &self,
        offset: u64,
        len: u64,
        act: &dyn Fn(&std::fs::File) -> Result<(), Errno>,
    ) -> Result<(), Errno> {
        let (first, count) = self.block_size.span(offset, len);
        let _pass = self.gate.enter()?;
        loop {
            self.activity
                .ensure(first, count, &mut |io| self.files.perform(io))
                .map_err(|_| Errno::Io)?;
            let mut area = Area { files: &*self.files, bs: self.block_size };
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
        if self.gate.is_retired() {
            return Err(ReadError::Failed(Errno::Io));
        }
        let want = buf.len();
        let mut slices = [IoSliceMut::new(buf)];
        let f = self.files.file(FileId::Base);
        match rustix::io::preadv2(f, &mut slices, offset, ReadWriteFlags::NOWAIT) {
            Ok(n) if n == want => Ok(()),
            Ok(_) | Err(Os::AGAIN | Os::INTR | Os::OPNOTSUPP | Os::NOSYS) => {
                Err(ReadError::WouldBlock)
            }
            Err(e) => Err(ReadError::Failed(std::io::Error::from(e).into())),
        }
    }

    fn read(&self, offset: u64, buf: &mut [u8]) -> Result<(), Errno> {
        if self.gate.is_retired() {
            return Err(Errno::Io);
        }
        Ok(storage::read_full(self.files.file(FileId::Base), offset, buf)?)
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), Errno> {
        self.change(offset, data.len() as u64, &|f| Ok(f.write_all_at(data, offset)?))
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
        let found = super::names::file_extents(f, offset, len, max_extents);
        // Asked last: what is no longer ours may have been cleared while we looked.
        if self.gate.is_retired() { Err(Errno::Io) } else { Ok(found) }
    }
}
