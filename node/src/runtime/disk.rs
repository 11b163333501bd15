//! Requests and computations of the volume machines, on threads that may block.

use std::sync::Arc;

use rcp::proto::ids::{StateId, VolumeId};
use tokio::sync::mpsc;
use volmcast::io::{Io, Tag};
use volmcast::storage::{Files, Storage};
use volmcast::volume::Work;
use xxhash_rust::xxh3::Xxh3;

use super::core::Input;
use crate::volumes::Names;

/// Bytes hashed at a time.
const PIECE: usize = 1 << 20;

/// Runs a request; its outcome goes to the core.
pub(super) fn io(volume: VolumeId, files: Arc<Files>, io: Io, core: mpsc::Sender<Input>) {
    tokio::task::spawn_blocking(move || {
        let outcome = files.perform(&io);
        let tag = io.tag;
        drop(io);
        let _ = core.blocking_send(Input::IoDone { volume, tag, outcome });
    });
}

/// Runs a computation; its result goes to the core.
pub(super) fn work(volume: VolumeId, tag: Tag, work: Work, core: mpsc::Sender<Input>) {
    tokio::task::spawn_blocking(move || {
        let done = work.run();
        let _ = core.blocking_send(Input::WorkDone { volume, tag, done: Box::new(done) });
    });
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
