//! A raw file or block device as an export: the reference for tests and comparisons.

use super::export::{Errno, Export, ExportInfo, ExportName, Exports, Extent, OpenError, ReadError};
use rustix::fs::{FallocateFlags, SeekFrom, fallocate, seek};
use rustix::io::{Errno as Os, ReadWriteFlags};
use std::fs::{File, OpenOptions};
use std::io::{self, IoSliceMut, Seek};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Zeroes for where the file system has none to give.
const ZEROES: &[u8] = &[0; 256 * 1024];

/// An export over a raw file.
#[derive(Debug)]
pub struct FileExport {
    file: File,
    size: u64,
    read_only: bool,
    /// Reads never wait: the file lives in memory.
    in_memory: bool,
    /// A sync failed: what was written since the last one may be lost, and no later sync can
    /// tell. Nothing is called durable any more.
    failed: AtomicBool,
}

impl FileExport {
    /// Opens a file or a block device. Its size stays what it is now.
    pub fn open(path: &Path, read_only: bool) -> io::Result<Self> {
        let mut file = OpenOptions::new().read(true).write(!read_only).open(path)?;
        let size = file.seek(io::SeekFrom::End(0))?;
        const TMPFS_MAGIC: i64 = 0x0102_1994;
        let kind = rustix::fs::fstatfs(&file)?.f_type;
        let in_memory = i128::from(kind) == i128::from(TMPFS_MAGIC);
        Ok(Self { file, size, read_only, in_memory, failed: AtomicBool::new(false) })
    }

    fn write_zeroes(&self, mut offset: u64, mut len: u64) -> Result<(), Errno> {
        while len > 0 {
            let n = len.min(ZEROES.len() as u64);
            self.write(offset, &ZEROES[..usize::try_from(n).unwrap_or(0)])?;
            offset += n;
            len -= n;
        }
        Ok(())
    }

    fn fallocate(&self, mode: FallocateFlags, offset: u64, len: u64) -> Result<(), Os> {
        if len == 0 {
            return Ok(());
        }
        loop {
            match fallocate(&self.file, mode | FallocateFlags::KEEP_SIZE, offset, len) {
                Err(Os::INTR) => {}
                other => return other,
            }
        }
    }
}

fn unsupported(e: Os) -> bool {
    matches!(e, Os::OPNOTSUPP | Os::NOSYS | Os::NODEV)
}

fn errno(e: Os) -> Errno {
    io::Error::from(e).into()
}

impl Export for FileExport {
    fn info(&self) -> ExportInfo {
        ExportInfo {
            size: self.size,
            read_only: self.read_only,
            block_size: 4096,
            can_multi_conn: true,
            can_trim: true,
            can_zero: true,
            can_fast_zero: true,
            can_cache: true,
            cheap_status: true,
            description: String::new(),
        }
    }

    fn try_read(&self, offset: u64, buf: &mut [u8]) -> Result<(), ReadError> {
        if self.in_memory {
            return self.read(offset, buf).map_err(ReadError::Failed);
        }
        let want = buf.len();
        let mut slices = [IoSliceMut::new(buf)];
        match rustix::io::preadv2(&self.file, &mut slices, offset, ReadWriteFlags::NOWAIT) {
            Ok(n) if n == want => Ok(()),
            // the rest is not in the page cache, or the file system cannot tell
            Ok(_) | Err(Os::AGAIN | Os::INTR | Os::OPNOTSUPP | Os::NOSYS) => {
                Err(ReadError::WouldBlock)
            }
            Err(e) => Err(ReadError::Failed(errno(e))),
        }
    }

    fn read(&self, offset: u64, buf: &mut [u8]) -> Result<(), Errno> {
        Ok(self.file.read_exact_at(buf, offset)?)
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), Errno> {
        Ok(self.file.write_all_at(data, offset)?)
    }

    fn flush(&self) -> Result<(), Errno> {
        if self.failed.load(Ordering::Acquire) {
            return Err(Errno::Io);
        }
        self.file.sync_data().map_err(|e| {
            self.failed.store(true, Ordering::Release);
            Errno::from(e)
        })
    }

    fn trim(&self, offset: u64, len: u64) -> Result<(), Errno> {
        match self.fallocate(FallocateFlags::PUNCH_HOLE, offset, len) {
            // a hint that cannot be followed
            Err(e) if unsupported(e) => Ok(()),
            other => other.map_err(errno),
        }
    }

    fn zero(&self, offset: u64, len: u64, no_hole: bool, fast: bool) -> Result<(), Errno> {
        let mode = if no_hole { FallocateFlags::ZERO_RANGE } else { FallocateFlags::PUNCH_HOLE };
        match self.fallocate(mode, offset, len) {
            Err(e) if unsupported(e) && fast => Err(Errno::NotSup),
            Err(e) if unsupported(e) => self.write_zeroes(offset, len),
            other => other.map_err(errno),
        }
    }

    fn cache(&self, offset: u64, len: u64) -> Result<(), Errno> {
        let len = std::num::NonZeroU64::new(len);
        rustix::fs::fadvise(&self.file, offset, len, rustix::fs::Advice::WillNeed).map_err(errno)
    }

    fn block_status(
        &self,
        offset: u64,
        len: u64,
        max_extents: usize,
    ) -> Result<Vec<Extent>, Errno> {
        let all = |len| vec![Extent { len, hole: false, zero: false }];
        let end = offset.saturating_add(len);
        let mut extents = Vec::new();
        let mut at = offset;
        while at < end && extents.len() < max_extents {
            let data = match seek(&self.file, SeekFrom::Data(at)) {
                Ok(data) => data.min(end),
                // nothing but a hole up to the end
                Err(Os::NXIO) => end,
                Err(_) => return Ok(all(len)),
            };
            if data > at {
                extents.push(Extent { len: data - at, hole: true, zero: true });
                at = data;
                continue;
            }
            let hole = match seek(&self.file, SeekFrom::Hole(at)) {
                Ok(hole) => hole.min(end),
                Err(_) => return Ok(all(len)),
            };
            if hole <= at {
                // changed between the two questions
                extents.push(Extent { len: end - at, hole: false, zero: false });
                break;
            }
            extents.push(Extent { len: hole - at, hole: false, zero: false });
            at = hole;
        }
        Ok(extents)
    }
}

/// A fixed list of exports by name; the empty name is the only one's, if there is only one.
pub struct FixedExports(Vec<(ExportName, Arc<dyn Export>)>);

impl FixedExports {
    /// From names, descriptions and exports.
    pub fn new(exports: Vec<(ExportName, Arc<dyn Export>)>) -> Arc<Self> {
        Arc::new(Self(exports))
    }

    /// One export.
    pub fn one(name: &str, export: Arc<dyn Export>) -> Arc<Self> {
        let name = ExportName { name: name.to_owned(), description: export.info().description };
        Self::new(vec![(name, export)])
    }
}

impl Exports for FixedExports {
    fn list(&self) -> Vec<ExportName> {
        self.0.iter().map(|(name, _)| name.clone()).collect()
    }

    fn open(&self, name: &str) -> Result<Arc<dyn Export>, OpenError> {
        match self.0.iter().find(|(n, _)| n.name == name) {
            Some((_, export)) => Ok(Arc::clone(export)),
            None => match self.0.as_slice() {
                [(_, only)] if name.is_empty() => Ok(Arc::clone(only)),
                _ => Err(OpenError::unknown(name, &self.list())),
            },
        }
    }
}
