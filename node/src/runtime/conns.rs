//! Connections: a reader and a writer task each, nothing decided here.

use std::sync::Arc;

use rcp::net::conn::{FramedReader, FramedWriter, Verify};
use rcp::proto::frame::{DecodedFrame, Frame};
use rcp::proto::ids::GroupName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::core::Input;
use crate::limits;
use crate::mover::ConnId;

/// Bytes of one connection's frames that may wait for the core.
const READ_AHEAD: usize = 16 << 20;

/// A frame on its way to the core, with its share of the read-ahead.
#[derive(Debug)]
pub(super) struct Incoming {
    pub(super) frame: DecodedFrame,
    _share: OwnedSemaphorePermit,
}

/// The core's end of a connection.
#[derive(Debug)]
pub(super) struct Outgoing {
    pub(super) frames: mpsc::Sender<Frame>,
}

/// Starts the two tasks of a connection.
pub(super) fn spawn<S>(id: ConnId, io: S, peer: String, core: mpsc::Sender<Input>) -> Outgoing
where
    S: AsyncRead + AsyncWrite + Send + 'static,
{
    let (read, write) = tokio::io::split(io);
    let (frames, queue) = mpsc::channel(limits::FRAME_QUEUE);
    let reader = FramedReader::new(read, peer.clone(), Verify::Content);
    let writer = FramedWriter::new(write, peer);
    let stop = tokio_util::sync::CancellationToken::new();
    super::start::task(read_loop(id, reader, core.clone(), stop.clone()));
    super::start::task(write_loop(id, writer, queue, core, stop));
    Outgoing { frames }
}

/// Dials, then goes on as an accepted connection does.
pub(super) fn dial(
    id: ConnId,
    addr: String,
    group: GroupName,
    core: mpsc::Sender<Input>,
) -> Outgoing {
    let (frames, queue) = mpsc::channel(limits::FRAME_QUEUE);
    super::start::task(async move {
        match rcp::net::dial(&addr, &group).await {
            Ok(io) => {
                let (read, write) = io.into_split();
                let reader = FramedReader::new(read, addr.clone(), Verify::Content);
                let writer = FramedWriter::new(write, addr);
                let stop = tokio_util::sync::CancellationToken::new();
                super::start::task(read_loop(id, reader, core.clone(), stop.clone()));
                write_loop(id, writer, queue, core, stop).await;
            }
            Err(e) => {
                let _ = core.send(Input::Lost { conn: id, reason: e.to_string() }).await;
            }
        }
    });
    Outgoing { frames }
}

async fn read_loop<R: AsyncRead + Unpin>(
    id: ConnId,
    mut reader: FramedReader<R>,
    core: mpsc::Sender<Input>,
    stop: tokio_util::sync::CancellationToken,
) {
    let ahead = Arc::new(Semaphore::new(READ_AHEAD));
    let reason = loop {
        let next = tokio::select! {
            next = reader.next() => next,
            () = stop.cancelled() => return,
        };
        let frame = match next {
            Ok(Some(f)) => f,
            Ok(None) => break "the peer closed the connection".to_owned(),
            Err(e) => break e.to_string(),
        };
        let bytes = match &frame.frame {
            Frame::Chunk { body, .. }
            | Frame::SetEnd { body, .. }
            | Frame::SeedData { body, .. } => body.len(),
            _ => 1024,
        };
        let share = u32::try_from(bytes.min(READ_AHEAD)).unwrap_or(u32::MAX);
        let Ok(share) = ahead.clone().acquire_many_owned(share).await else { return };
        let incoming = Incoming { frame, _share: share };
        if core.send(Input::Frame { conn: id, incoming: Box::new(incoming) }).await.is_err() {
            return;
        }
    };
    stop.cancel();
    let _ = core.send(Input::Lost { conn: id, reason }).await;
}

async fn write_loop<W: AsyncWrite + Unpin>(
    id: ConnId,
    mut writer: FramedWriter<W>,
    mut queue: mpsc::Receiver<Frame>,
    core: mpsc::Sender<Input>,
    stop: tokio_util::sync::CancellationToken,
) {
    let mut batch = Vec::with_capacity(64);
    let reason = loop {
        batch.clear();
        tokio::select! {
            n = queue.recv_many(&mut batch, 64) => if n == 0 {
                // Told to close: what was queued has been written.
                let _ = writer.shutdown().await;
                stop.cancel();
                return;
            },
            () = stop.cancelled() => return,
        }
        let mut data = 0u64;
        let mut failed = None;
        for f in &batch {
            if let Frame::Chunk { body, .. }
            | Frame::SetEnd { body, .. }
            | Frame::SeedData { body, .. } = f
            {
                data += body.len() as u64;
            }
            if let Err(e) = writer.queue(f) {
                failed = Some(e.to_string());
                break;
            }
        }
        if let Some(e) = failed {
            break e;
        }
        let flushed = tokio::select! {
            f = writer.flush() => f,
            () = stop.cancelled() => return,
        };
        if let Err(e) = flushed {
            break e.to_string();
        }
        if data > 0 && core.send(Input::Sent { conn: id, bytes: data }).await.is_err() {
            return;
        }
    };
    stop.cancel();
    let _ = core.send(Input::Lost { conn: id, reason }).await;
}
