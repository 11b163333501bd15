//! The thin part: requests of the machines, run on real files. Blocking; called from threads that
//! may block.
//!
//! A volume's folder holds one file per [`FileId`] and `identity`; the base may lie elsewhere (an
//! outside file or a block device). The base is locked exclusively while it is open (OFD lock), and
//! the identity written beside it says whose content it is, so that a file changed or swapped
//! behind our back is noticed.

mod buffers;
mod direct;
mod identity;
mod near;
mod overlay;
mod syncs;

use std::fs::{File, OpenOptions};
use std::io::{Error, ErrorKind, IoSlice};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use bytes::{Bytes, BytesMut};
use parking_lot::{Mutex, RwLock, RwLockReadGuard};
use rustix::fs::{FallocateFlags, FlockOperation, SeekFrom};

use crate::io::{FileId, Io, IoError, Op, Outcome};
use crate::save::Ring;
use buffers::READS;
use direct::Direct;
use syncs::Syncs;

pub use identity::{Fenced, Identity, IdentityError, Standing};
pub use overlay::{Nothing, Overlay};

/// Why a volume's files cannot be opened; names the file and the remedy.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// The system refused.
    #[error("{path}: {source}", path = path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: Error,
    },
    /// Somebody else has it.
    #[error(
        "{path} is in use by another process; a volume is opened by one node at a time: stop the \
         other one first", path = .0.display()
    )]
    Locked(PathBuf),
    /// It is not what it was.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The backing file is shorter than the volume.
    #[error(
        "{path} has {found} bytes but the volume has {expected}: the backing file was truncated \
         behind our back; restore it, or delete the volume here and let it be seeded again",
        path = path.display()
    )]
    Short {
        /// Which file.
        path: PathBuf,
        /// Its size.
        found: u64,
        /// What it must have.
        expected: u64,
    },
}

fn at(path: &Path) -> impl FnOnce(Error) -> StorageError + '_ {
    move |source| StorageError::Io { path: path.to_owned(), source }
}

/// The files of one volume as those see them who may block: a request is carried out before the
/// call returns.
pub trait Storage {
    /// Carries a request out.
    fn perform(&self, io: &Io) -> Outcome;

    /// Has reads show what the disk holds: syncs a file and drops what the system keeps of it in
    /// memory, which after a sync that failed in an earlier life may be content that the disk never
    /// got and that no later sync writes.
    ///
    /// # Errors
    /// [`IoError`].
    fn settle(&self, id: FileId) -> Result<(), IoError>;

    /// Reads a range, with zeroes beyond the end of the file.
    ///
    /// # Errors
    /// [`IoError`].
    fn read_into(&self, id: FileId, offset: u64, buf: &mut [u8]) -> Result<(), IoError>;

    /// As [`read_into`](Self::read_into), into a buffer of its own.
    ///
    /// # Errors
    /// [`IoError`].
    fn read(&self, id: FileId, offset: u64, len: usize) -> Result<Bytes, IoError> {
        let mut buf = BytesMut::zeroed(len);
        self.read_into(id, offset, &mut buf)?;
        Ok(buf.freeze())
    }
}

/// The open files of one volume.
#[derive(Debug)]
pub struct Files {
    folder: PathBuf,
    base: File,
    save: File,
    mailbox: File,
    activity: File,
    snapshots: File,
    changes: File,
    hashes: File,
    /// Held by whoever writes to the table of hashes.
    table: Mutex<()>,
    /// They were let go of: another node may have them open.
    gone: RwLock<bool>,
    /// Another way into the save volume, for large records.
    direct: Option<Direct>,
    /// The base is a block device: holes cannot be found by seeking.
    device: bool,
    /// In the order of [`FileId`].
    syncs: [Syncs; 7],
}

/// How large the areas of a volume are, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// The volume itself.
    pub base: u64,
    /// Chunk area of the save volume; preallocated.
    pub save: u64,
    /// Snapshot area; sparse.
    pub snapshots: u64,
}

impl Files {
    /// Creates a volume's folder and files; a base outside the folder keeps its content. The folder
    /// is a volume only once [`Identity::store`] has put a name into it: that comes last, when the
    /// areas have been formatted, so that a creation that was cut short is told from a volume.
    ///
    /// # Errors
    /// [`StorageError`]; what was made is left for a second try.
    pub fn create(folder: &Path, identity: &Identity, sizes: Sizes) -> Result<Self, StorageError> {
        std::fs::create_dir_all(folder).map_err(at(folder))?;
        let base = identity.base_path(folder);
        let f = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&base)
            .map_err(at(&base))?;
        if !is_device(&f) {
            let len = f.metadata().map_err(at(&base))?.len();
            if len < sizes.base {
                f.set_len(sizes.base).map_err(at(&base))?;
            }
        }
        for (name, len, preallocate) in [
            ("save", sizes.save, true),
            ("mailbox", 2 * crate::mailbox::SLOT_LEN as u64, false),
            ("activity", 0, false),
            ("snapshots", sizes.snapshots, false),
            ("changes", 0, false),
            ("hashes", 0, false),
        ] {
            let path = folder.join(name);
            let f = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .open(&path)
                .map_err(at(&path))?;
            if len > 0 && f.metadata().map_err(at(&path))?.len() < len {
                f.set_len(len).map_err(at(&path))?;
                if preallocate {
                    preallocate_range(&f, len).map_err(at(&path))?;
                }
            }
            f.sync_all().map_err(at(&path))?;
        }
        sync_folder(folder)?;
        if let Some(above) = folder.parent() {
            sync_folder(above)?;
        }
        Self::open(folder, identity, sizes.base)
    }

    /// Opens a volume's files and locks the base.
    ///
    /// # Errors
    /// [`StorageError`] names the file and what to do.
    pub fn open(folder: &Path, identity: &Identity, base_len: u64) -> Result<Self, StorageError> {
        Self::open_as(folder, identity, base_len, false)
    }

    /// Opens a volume's files for reading only: every request that writes fails. The base is locked
    /// against those who write. A file that opening would make is empty.
    ///
    /// # Errors
    /// As [`Files::open`].
    pub fn look(folder: &Path, identity: &Identity, base_len: u64) -> Result<Self, StorageError> {
        Self::open_as(folder, identity, base_len, true)
    }

    fn open_as(
        folder: &Path,
        identity: &Identity,
        base_len: u64,
        looking: bool,
    ) -> Result<Self, StorageError> {
        let open = |path: &Path| {
            OpenOptions::new().read(true).write(!looking).open(path).map_err(at(path))
        };
        let open_or_make = |path: &Path| match open(path) {
            Err(_) if looking && !path.exists() => open(Path::new("/dev/null")),
            Err(_) if !looking => open_or_make(path),
            opened => opened,
        };
        let path = identity.base_path(folder);
        let base = open(&path)?;
        let lock = match looking {
            true => FlockOperation::NonBlockingLockShared,
            false => FlockOperation::NonBlockingLockExclusive,
        };
        match rustix::fs::flock(&base, lock) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(StorageError::Locked(path)),
            Err(e) => return Err(StorageError::Io { path, source: e.into() }),
        }
        let device = is_device(&base);
        if !device {
            let found = base.metadata().map_err(at(&path))?.len();
            if found < base_len {
                return Err(StorageError::Short { path, found, expected: base_len });
            }
        }
        let save = open(&folder.join("save"))?;
        // A primary's children begin behind what it has just written: that is better cached.
        let whole = Ring::completes_pages(save.metadata().map_err(at(folder))?.len());
        let direct = (whole && identity.role != "primary" && !looking)
            .then(|| Direct::open(&folder.join("save")));
        Ok(Self {
            base,
            device,
            save,
            direct: direct.flatten(),
            mailbox: open(&folder.join("mailbox"))?,
            activity: open(&folder.join("activity"))?,
            snapshots: open(&folder.join("snapshots"))?,
            changes: open_or_make(&folder.join("changes"))?,
            hashes: open_or_make(&folder.join("hashes"))?,
            table: Mutex::default(),
            gone: RwLock::default(),
            folder: folder.to_owned(),
            syncs: Default::default(),
        })
    }

    /// The volume's folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Lets go of the files for good, so that another node may open them: waits for requests under
    /// way, has all later ones fail, makes durable what was written (who opens them may read them on
    /// another machine), and gives the lock up. Whoever uses [`Self::file`] directly has to be kept
    /// out before.
    ///
    /// # Errors
    /// The system's: they are still whose they were, and are not used by this value any more.
    pub fn let_go(&self) -> Result<(), Error> {
        *self.gone.write() = true;
        let synced = FileId::ALL.iter().try_for_each(|id| self.sync_file(*id));
        let unlocked = rustix::fs::flock(&self.base, FlockOperation::Unlock);
        synced.and(unlocked.map_err(Error::from))
    }

    /// Whether they were [let go of](Self::let_go).
    #[must_use]
    pub fn is_gone(&self) -> bool {
        *self.gone.read_recursive()
    }

    /// Keeps them from being let go of while a request is carried out.
    fn inside(&self) -> Result<RwLockReadGuard<'_, bool>, Error> {
        // A request may sync, which asks again.
        let gone = self.gone.read_recursive();
        if *gone {
            return Err(Error::other("the volume was given to another node"));
        }
        Ok(gone)
    }

    /// One of the files.
    #[must_use]
    pub fn file(&self, id: FileId) -> &File {
        match id {
            FileId::Base => &self.base,
            FileId::Save => &self.save,
            FileId::Mailbox => &self.mailbox,
            FileId::Activity => &self.activity,
            FileId::Snapshots => &self.snapshots,
            FileId::Changes => &self.changes,
            FileId::Hashes => &self.hashes,
        }
    }

    /// Makes durable what was written to a file before the call. Whoever syncs a file of a volume
    /// does it here: one that failed is remembered, and fails for everybody from then on.
    ///
    /// # Errors
    /// The system's, of this sync or of any before it.
    pub fn sync(&self, id: FileId) -> Result<(), Error> {
        let _inside = self.inside()?;
        self.sync_file(id)
    }

    fn sync_file(&self, id: FileId) -> Result<(), Error> {
        let syncs = match id {
            FileId::Base => &self.syncs[0],
            FileId::Save => &self.syncs[1],
            FileId::Mailbox => &self.syncs[2],
            FileId::Activity => &self.syncs[3],
            FileId::Snapshots => &self.syncs[4],
            FileId::Changes => &self.syncs[5],
            FileId::Hashes => &self.syncs[6],
        };
        syncs.sync(self.file(id))
    }

    /// Size of the save area as it is on disk.
    ///
    /// # Errors
    /// The system's.
    pub fn save_len(&self) -> Result<u64, Error> {
        Ok(self.save.metadata()?.len())
    }

    fn run(&self, id: FileId, op: &Op) -> Result<Outcome, Error> {
        let _inside = self.inside()?;
        let f = self.file(id);
        // Writes near each other become one, with what is between them as it was.
        let _alone = (id == FileId::Hashes && op.changes()).then(|| self.table.lock());
        match op {
            Op::Read { offset, len } => {
                let mut buf = READS.take(*len);
                read_full(f, *offset, &mut buf)?;
                Ok(Outcome::Read(READS.freeze(buf)))
            }
            Op::Gather { ranges } => {
                let total = ranges.iter().map(|(_, len)| len).sum();
                let mut buf = READS.take(total);
                if id == FileId::Hashes {
                    near::gather(f, ranges, &mut buf)?;
                } else {
                    let mut rest = &mut buf[..];
                    for (offset, len) in ranges {
                        let (now, later) = rest.split_at_mut(*len);
                        read_full(f, *offset, now)?;
                        rest = later;
                    }
                }
                Ok(Outcome::Read(READS.freeze(buf)))
            }
            Op::Write { offset, data } => {
                let direct = self.direct.as_ref().filter(|_| id == FileId::Save);
                if let Some(d) = direct
                    && d.write(f, *offset, data)?
                {
                    return Ok(Outcome::Done);
                }
                write_pieces(f, *offset, data)?;
                Ok(Outcome::Done)
            }
            Op::Scatter { writes, zeroes } if id == FileId::Hashes => {
                near::scatter(f, writes, zeroes)?;
                Ok(Outcome::Done)
            }
            Op::Scatter { writes, zeroes } => {
                for (offset, len) in zeroes {
                    zero_range(f, *offset, *len)?;
                }
                for (offset, d) in writes {
                    f.write_all_at(d, *offset)?;
                }
                Ok(Outcome::Done)
            }
            Op::Zero { offset, len } => {
                zero_range(f, *offset, *len)?;
                Ok(Outcome::Done)
            }
            Op::NextData { offset } => self.next_data(f, *offset),
            Op::Extend { from, len } => {
                self.extend(f, id, *from, *len)?;
                Ok(Outcome::Done)
            }
            Op::Sync => {
                self.sync(id)?;
                Ok(Outcome::Done)
            }
        }
    }

    fn extend(&self, f: &File, id: FileId, from: u64, len: u64) -> Result<(), Error> {
        let device = id == FileId::Base && self.device;
        let found =
            if device { rustix::fs::seek(f, SeekFrom::End(0))? } else { f.metadata()?.len() };
        if found < len {
            if device {
                return Err(rustix::io::Errno::NOSPC.into());
            }
            f.set_len(len)?;
        }
        zero_range(f, from, found.min(len).saturating_sub(from))
    }

    fn next_data(&self, f: &File, offset: u64) -> Result<Outcome, Error> {
        if self.device {
            let end = rustix::fs::seek(f, SeekFrom::End(0))?;
            return Ok(Outcome::NextData((offset < end).then_some((offset, end))));
        }
        let start = match rustix::fs::seek(f, SeekFrom::Data(offset)) {
            Ok(s) => s,
            Err(rustix::io::Errno::NXIO) => return Ok(Outcome::NextData(None)),
            Err(e) => return Err(e.into()),
        };
        let end = rustix::fs::seek(f, SeekFrom::Hole(start))?;
        Ok(Outcome::NextData(Some((start, end))))
    }
}

/// A file that may be missing: what it held is then found to be gone, and other ways are taken.
fn open_or_make(path: &Path) -> Result<File, StorageError> {
    let mut how = OpenOptions::new();
    how.read(true).write(true).create(true).truncate(false).open(path).map_err(at(path))
}

impl Storage for Files {
    fn perform(&self, io: &Io) -> Outcome {
        match self.run(io.file, &io.op) {
            Ok(o) => o,
            Err(e) => Outcome::Failed(io_error(&e)),
        }
    }

    fn settle(&self, id: FileId) -> Result<(), IoError> {
        let f = self.file(id);
        // An error of an earlier life may not have been told to anybody yet: it is told once, and
        // is answered by what follows.
        let _ = f.sync_data();
        f.sync_data().map_err(|e| io_error(&e))?;
        // Advice: without it, what was promised holds unless a sync had failed before.
        let _ = rustix::fs::fadvise(f, 0, None, rustix::fs::Advice::DontNeed);
        Ok(())
    }

    fn read_into(&self, id: FileId, offset: u64, buf: &mut [u8]) -> Result<(), IoError> {
        let _inside = self.inside().map_err(|e| io_error(&e))?;
        read_full(self.file(id), offset, buf).map_err(|e| io_error(&e))
    }
}

/// Writes pieces one behind the other, in as few calls as the system allows.
fn write_pieces(f: &File, mut offset: u64, pieces: &[Bytes]) -> Result<(), Error> {
    const AT_ONCE: usize = 16;
    let (mut next, mut skip) = (0, 0);
    while next < pieces.len() {
        let mut slices = [IoSlice::new(&[]); AT_ONCE];
        let mut used = 0;
        for (slot, p) in slices.iter_mut().zip(&pieces[next..]) {
            let from = if used == 0 { skip } else { 0 };
            *slot = IoSlice::new(&p[from..]);
            used += 1;
        }
        let mut n = match rustix::io::pwritev(f, &slices[..used], offset) {
            Ok(0) if slices[..used].iter().any(|s| !s.is_empty()) => {
                return Err(ErrorKind::WriteZero.into());
            }
            Ok(n) => n,
            Err(rustix::io::Errno::INTR) => continue,
            Err(e) => return Err(e.into()),
        };
        offset += n as u64;
        while let Some(p) = pieces.get(next) {
            if n < p.len() - skip {
                break;
            }
            n -= p.len() - skip;
            (next, skip) = (next + 1, 0);
        }
        skip += n;
    }
    Ok(())
}

/// Reads `buf.len()` bytes at `offset`; zeroes beyond the end of the file.
///
/// # Errors
/// The system's.
pub fn read_full(f: &File, mut offset: u64, mut buf: &mut [u8]) -> Result<(), Error> {
    while !buf.is_empty() {
        match f.read_at(buf, offset) {
            Ok(0) => {
                buf.fill(0);
                return Ok(());
            }
            Ok(n) => {
                buf = &mut buf[n..];
                offset += n as u64;
            }
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// Makes a range read as zeroes: gives its space back where possible, else writes zeroes.
///
/// # Errors
/// The system's.
pub fn zero_range(f: &File, offset: u64, len: u64) -> Result<(), Error> {
    if zero_at_once(f, offset, len, false)? { Ok(()) } else { write_zeroes(f, offset, len) }
}

/// Makes a range read as zeroes without writing it, and says whether the file can do that. With
/// `provisioned` its space stays (or becomes) its own, so that a later write cannot want for room;
/// otherwise its space is given back.
///
/// # Errors
/// The system's, among them that there is no room.
pub fn zero_at_once(f: &File, offset: u64, len: u64, provisioned: bool) -> Result<bool, Error> {
    use rustix::io::Errno as Os;
    if len == 0 {
        return Ok(true);
    }
    let how = if provisioned { FallocateFlags::ZERO_RANGE } else { FallocateFlags::PUNCH_HOLE };
    match rustix::fs::fallocate(f, how | FallocateFlags::KEEP_SIZE, offset, len) {
        Ok(()) => Ok(true),
        Err(Os::OPNOTSUPP | Os::NODEV | Os::NOSYS | Os::INVAL) => Ok(false),
        Err(e) => Err(e.into()),
    }
}

/// Writes zeroes over a range, which is provisioned afterwards.
///
/// # Errors
/// The system's.
pub fn write_zeroes(f: &File, offset: u64, len: u64) -> Result<(), Error> {
    static ZERO: [u8; 64 << 10] = [0; 64 << 10];
    let (mut offset, end) = (offset, offset + len);
    while offset < end {
        let n = usize::try_from(end - offset).unwrap_or(usize::MAX).min(ZERO.len());
        f.write_all_at(&ZERO[..n], offset)?;
        offset += n as u64;
    }
    Ok(())
}

/// Allocated and written once: overwriting such a file syncs several times faster than growing it.
fn preallocate_range(f: &File, len: u64) -> Result<(), Error> {
    match rustix::fs::fallocate(f, FallocateFlags::empty(), 0, len) {
        Ok(()) | Err(rustix::io::Errno::OPNOTSUPP) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

/// Whether anything was ever written to a file: one that is empty, or a hole all over, has no content.
/// Whatever else lies there (a device) counts as content.
///
/// # Errors
/// The system's.
pub fn has_content(path: &Path) -> Result<bool, Error> {
    let f = File::open(path)?;
    let m = f.metadata()?;
    if !m.is_file() || m.len() == 0 {
        return Ok(!m.is_file());
    }
    match rustix::fs::seek(&f, SeekFrom::Data(0)) {
        Err(rustix::io::Errno::NXIO) => Ok(false),
        // A file system that does not say where holes are.
        Ok(_) | Err(_) => Ok(true),
    }
}

fn is_device(f: &File) -> bool {
    use std::os::unix::fs::FileTypeExt;
    f.metadata().is_ok_and(|m| m.file_type().is_block_device())
}

/// Replaces a small file whole: a crash leaves the old one or the new one.
///
/// # Errors
/// [`StorageError::Io`].
pub fn replace_file(path: &Path, bytes: &[u8]) -> Result<(), StorageError> {
    let new = path.with_extension("new");
    std::fs::write(&new, bytes).map_err(at(&new))?;
    File::open(&new).and_then(|f| f.sync_all()).map_err(at(&new))?;
    std::fs::rename(&new, path).map_err(at(path))?;
    path.parent().map_or(Ok(()), sync_folder)
}

/// Makes new names in a folder durable.
///
/// # Errors
/// [`StorageError::Io`].
pub fn sync_folder(folder: &Path) -> Result<(), StorageError> {
    File::open(folder).and_then(|d| d.sync_all()).map_err(at(folder))
}

/// The part of a system error that decisions depend on.
#[must_use]
pub fn io_error(e: &Error) -> IoError {
    match e.raw_os_error() {
        Some(n) if n == rustix::io::Errno::NOSPC.raw_os_error() => IoError::NoSpace,
        Some(n) if n == rustix::io::Errno::DQUOT.raw_os_error() => IoError::NoSpace,
        Some(n) => IoError::Os(n),
        None => IoError::Os(rustix::io::Errno::IO.raw_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Nothing reaches the files any more, what was written is synced, and somebody else may lock them.
    #[test]
    fn files_that_were_let_go_of_are_not_touched() {
        let dir = tempfile::tempdir().expect("a folder");
        let id = Identity {
            volume: rcp::proto::ids::VolumeId([3; 16]),
            label: "v".parse().expect("valid"),
            source: None,
            group: "g".parse().expect("valid"),
            node: "a".parse().expect("valid"),
            role: "primary".to_owned(),
            block_size: crate::units::BlockSize::DEFAULT,
            blocks: crate::units::BlockCount(4),
            save: 1 << 20,
            snapshots: 0,
            base: None,
            standing: Standing::default(),
        };
        let sizes = Sizes { base: 16384, save: 1 << 20, snapshots: 0 };
        let files = Files::create(dir.path(), &id, sizes).expect("created");
        let write = |data: &'static [u8]| {
            let op = Op::Write { offset: 0, data: vec![Bytes::from_static(data)] };
            files.perform(&Io { tag: crate::io::Tag(0), file: FileId::Base, op })
        };
        assert!(matches!(write(b"here"), Outcome::Done));
        let locked = Files::open(dir.path(), &id, 16384).expect_err("in use");
        assert!(matches!(locked, StorageError::Locked(_)), "{locked}");
        files.let_go().expect("let go of");
        assert!(files.is_gone());
        assert_eq!(files.syncs[0].begun(), 1, "what was written may be read on another machine");
        let theirs = Files::open(dir.path(), &id, 16384).expect("nobody's");
        assert!(matches!(write(b"gone"), Outcome::Failed(_)));
        files.sync(FileId::Base).expect_err("gone");
        files.read(FileId::Base, 0, 4).expect_err("another node may have written");
        assert_eq!(&theirs.read(FileId::Base, 0, 4).expect("read")[..], b"here");
    }

    #[test]
    fn pieces_are_written_one_behind_the_other() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("f");
        let f = File::options().read(true).write(true).create_new(true).open(path).expect("a file");
        // more than one call takes, of every length, some empty, the last too
        let pieces: Vec<Bytes> = (0..50usize)
            .map(|i| Bytes::from(vec![u8::try_from(i).expect("small") + 1; i % 7 * 1000]))
            .collect();
        write_pieces(&f, 10, &pieces).expect("written");
        write_pieces(&f, 3, &[]).expect("nothing to do");
        let want = [vec![0; 10], pieces.concat()].concat();
        let mut got = vec![0xff; want.len() + 1];
        read_full(&f, 0, &mut got).expect("read");
        assert_eq!(got[..want.len()], want);
        assert_eq!(f.metadata().expect("its length").len(), want.len() as u64);
    }
}
