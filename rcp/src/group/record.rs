//! The file that keeps the [`Journal`]: a thread of its own appends and syncs entries in their order.
//!
//! The data mover and [`Endpoint`](super::Endpoint)s use it alike.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use crate::proto::control::{Damaged, Journal};

/// Entries that wait to be written: each block under way has one at most.
const QUEUE: usize = 4096;

/// Why a record cannot be used; names the file and the remedy.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// The system says so.
    #[error("{}, the record of executed control blocks: {source}", path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Its content will not do.
    #[error(
        "{}, the record of executed control blocks: {source}; restore it, or remove it if it does no \
         harm that blocks of the last seven days may be executed again",
        path.display()
    )]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// Where.
        source: Damaged,
    },
}

/// Told when an entry is durable, or why it is not.
pub type Stored = Box<dyn FnOnce(Result<(), String>) + Send>;

/// What goes to the thread that writes the file.
struct Entry {
    bytes: Vec<u8>,
    whole: bool,
    stored: Stored,
}

/// Writes the record, one entry after the other.
#[derive(Debug)]
pub struct Records {
    queue: SyncSender<Entry>,
}

impl Records {
    /// Reads the record at `path`, without what is torn; makes it if it is not there.
    ///
    /// # Errors
    /// [`RecordError`]
    pub fn open(path: &Path) -> Result<(Journal, Self), RecordError> {
        let failed = |source| RecordError::Io { path: path.to_owned(), source };
        let bytes = match std::fs::read(path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(e) => return Err(failed(e)),
        };
        let mut journal = Journal::decode(&bytes)
            .map_err(|source| RecordError::Damaged { path: path.to_owned(), source })?;
        replace(path, &journal.compact()).map_err(failed)?;
        let (queue, entries) = sync_channel(QUEUE);
        let path = path.to_owned();
        std::thread::Builder::new()
            .name("blocks".to_owned())
            .spawn({
                let path = path.clone();
                move || write(&path, &entries)
            })
            .map_err(|source| RecordError::Io { path, source })?;
        Ok((journal, Self { queue }))
    }

    /// Has an entry written, or the whole file replaced; `stored` is called by another thread.
    pub fn store(&self, bytes: Vec<u8>, whole: bool, stored: Stored) {
        // The thread ends when this is dropped, no earlier.
        let _ = self.queue.send(Entry { bytes, whole, stored });
    }
}

fn write(path: &Path, entries: &Receiver<Entry>) {
    // After an append that failed nobody knows what the file ends with.
    let mut broken = None;
    while let Ok(Entry { bytes, whole, stored }) = entries.recv() {
        let done = match (&broken, whole) {
            (Some(e), false) => Err(format!("an earlier entry failed: {e}")),
            (_, true) => replace(path, &bytes).map_err(|e| format!("{}: {e}", path.display())),
            (None, false) => append(path, &bytes).map_err(|e| format!("{}: {e}", path.display())),
        };
        broken = done.as_ref().err().cloned();
        stored(done);
    }
}

fn append(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::options().append(true).open(path)?;
    file.write_all(bytes)?;
    file.sync_data()
}

/// Replaces a small file whole: a crash leaves the old one or the new one.
fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let new = path.with_extension("new");
    std::fs::write(&new, bytes)?;
    File::open(&new)?.sync_all()?;
    std::fs::rename(&new, path)?;
    match path.parent().filter(|p| !p.as_os_str().is_empty()) {
        Some(folder) => File::open(folder)?.sync_all(),
        None => File::open(".")?.sync_all(),
    }
}
