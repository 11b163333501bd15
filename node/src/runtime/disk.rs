//! Requests and computations of the volume machines, on threads that may block.

use std::sync::Arc;

use rcp::proto::ids::VolumeId;
use tokio::sync::mpsc;
use volmcast::io::{Io, Tag};
use volmcast::storage::{Files, Storage};
use volmcast::volume::Work;

use super::core::Input;

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
