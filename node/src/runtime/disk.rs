//! Requests and computations of the volume machines, on threads that may block.
//!
//! Writes to one file take turns on one thread: the file system lets only one in at a time, and
//! those that wait for it would burn processors. Everything else runs as it comes.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;
use rcp::proto::ids::{StateId, VolumeId};
use tokio::sync::mpsc;
use volmcast::io::{FileId, Io, Tag};
use volmcast::storage::{Files, Storage};
use volmcast::volume::Work;
use xxhash_rust::xxh3::Xxh3;

use super::core::Input;
use super::handle::not_open;
use crate::api::{ApiError, Changes};
use crate::volumes::Names;

/// Bytes hashed at a time.
const PIECE: usize = 1 << 20;

/// The files of one volume, with the writes that wait.
#[derive(Debug)]
pub(super) struct Disk {
    volume: VolumeId,
    files: Arc<Files>,
    core: mpsc::Sender<Input>,
    save: Mutex<Lane>,
    base: Mutex<Lane>,
    hashes: Mutex<Lane>,
}

/// Writes to one file. Bounded by what the volume's machine has under way.
#[derive(Debug, Default)]
struct Lane {
    queue: VecDeque<Io>,
    /// A thread is at it, and takes what is queued before it leaves.
    busy: bool,
}

impl Disk {
    pub(super) fn new(volume: VolumeId, files: Arc<Files>, core: mpsc::Sender<Input>) -> Arc<Self> {
        let (save, base, hashes) = Default::default();
        Arc::new(Self { volume, files, core, save, base, hashes })
    }

    /// The files.
    pub(super) fn files(&self) -> &Arc<Files> {
        &self.files
    }

    /// Runs a request; its outcome goes to the core.
    pub(super) fn io(self: &Arc<Self>, io: Io) {
        let me = self.clone();
        let Some(lane) = self.lane(&io) else {
            tokio::task::spawn_blocking(move || me.perform(io));
            return;
        };
        let file = io.file;
        {
            let mut lane = lane.lock();
            lane.queue.push_back(io);
            if std::mem::replace(&mut lane.busy, true) {
                return;
            }
        }
        tokio::task::spawn_blocking(move || me.write_queued(file));
    }

    fn lane(&self, io: &Io) -> Option<&Mutex<Lane>> {
        io.op.changes().then(|| self.lane_of(io.file)).flatten()
    }

    fn lane_of(&self, file: FileId) -> Option<&Mutex<Lane>> {
        match file {
            FileId::Save => Some(&self.save),
            FileId::Base => Some(&self.base),
            FileId::Hashes => Some(&self.hashes),
            FileId::Mailbox | FileId::Activity | FileId::Snapshots | FileId::Changes => None,
        }
    }

    fn write_queued(&self, file: FileId) {
        let Some(lane) = self.lane_of(file) else { return };
        loop {
            let next = {
                let mut lane = lane.lock();
                let next = lane.queue.pop_front();
                lane.busy = next.is_some();
                next
            };
            let Some(io) = next else { return };
            self.perform(io);
        }
    }

    fn perform(&self, io: Io) {
        let outcome = self.files.perform(&io);
        let (volume, tag) = (self.volume, io.tag);
        drop(io);
        let _ = self.core.blocking_send(Input::IoDone { volume, tag, outcome });
    }
}

/// Runs a computation; its result goes to the core.
pub(super) fn work(volume: VolumeId, tag: Tag, work: Work, core: mpsc::Sender<Input>) {
    tokio::task::spawn_blocking(move || {
        let done = work.run();
        let _ = core.blocking_send(Input::WorkDone { volume, tag, done: Box::new(done) });
    });
}

/// Has the next set carry an extent of a volume again.
pub(super) async fn touch(
    primary: Arc<crate::volumes::PrimaryVolume>,
    offset: u64,
    length: u64,
) -> Result<(), String> {
    let touched = tokio::task::spawn_blocking(move || primary.touch(offset, length)).await;
    touched.unwrap_or_else(|e| Err(format!("the extent was not marked: {e}")))
}

/// Which blocks changed from one kept state to another: as many as the volume has may have to be
/// looked at. `None`: the search broke.
pub(super) async fn changes(
    names: Arc<Names>,
    volume: String,
    since: Option<String>,
    state: String,
    from: u64,
) -> Option<Result<Changes, ApiError>> {
    let found = tokio::task::spawn_blocking(move || {
        names.changes(&volume, since.as_deref(), &state, from).map_err(not_open)
    });
    found.await.ok()
}

/// Hashes the first `len` bytes of what is visible, which must be `state` or later.
pub(super) fn hash(
    id: [u8; 16],
    names: &Names,
    label: &str,
    state: StateId,
    len: u64,
    core: mpsc::Sender<Input>,
) {
    let opened = names.open_state(label, None);
    tokio::task::spawn_blocking(move || {
        let result = opened.map_err(|e| e.text).and_then(|view| {
            if view.set().is_none_or(|s| s < state.set) {
                return Err(format!("set {} is not visible yet", state.set));
            }
            if len > view.size() {
                return Err(format!("it has {} bytes, and {len} are to be hashed", view.size()));
            }
            let mut hash = Xxh3::new();
            let mut buf = vec![0u8; PIECE];
            let mut at = 0;
            while at < len {
                let n = PIECE.min(usize::try_from(len - at).unwrap_or(PIECE));
                view.read_at(at, &mut buf[..n])?;
                hash.update(&buf[..n]);
                at += n as u64;
            }
            Ok(format!("{:032x}", hash.digest128()))
        });
        let ok = result.is_ok();
        let text = result.unwrap_or_else(|e| e);
        let _ = core.blocking_send(Input::Hashed { id, ok, text });
    });
}
