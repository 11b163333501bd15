//! Connections: tasks that read and tasks that write, nothing decided here.
//!
//! Over TCP and TLS there is one of each. Over QUIC there is one of each for the control stream, one
//! that writes for each lane that was needed, and one that reads for each lane of the peer: frames
//! of one stream id stay on one lane, so a loss on one holds up no other.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use parking_lot::Mutex;
use rcp::net::conn::{FramedReader, FramedWriter, Pieces, Verify};
use rcp::net::quic::{self, LANES, Link, SendStream, Whole};
use rcp::net::tls::{Pki, Proven};
use rcp::net::{Buffers, ByteStream, Dial, Dialled, NetError, Prefixed, dial_by};
use rcp::proto::frame::{DecodedFrame, Frame};
use rcp::proto::ids::{GroupName, NodeName};
use rcp::proto::limits::MAX_DATA_BODY;
use rcp::proto::transport::{Congestion, Hop, Transport};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::core::Input;
use super::places::Place;
use super::start::task;
use crate::limits;
use crate::mover::ConnId;

/// Bytes of one connection's frames that may wait for the core.
const READ_AHEAD: usize = 16 << 20;
/// The same for a further connection of a session: one frame, however long it is.
const FURTHER_AHEAD: usize = MAX_DATA_BODY;

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
    /// What the other side has proven, once it has.
    pub(super) proven: Option<Proven>,
    /// Tells the tasks when the core has let go of the connection.
    _held: DropGuard,
}

impl Outgoing {
    /// Hands a frame over; false if so many wait already that the peer seems to read none. A
    /// connection that has ended takes everything, and says itself why it did.
    pub(super) fn takes(&self, frame: Frame) -> bool {
        !matches!(self.frames.try_send(frame), Err(mpsc::error::TrySendError::Full(_)))
    }
}

/// What carries a session that was accepted.
pub(super) enum Wire {
    /// Plain TCP.
    Tcp(Prefixed<TcpStream>),
    /// TLS, or what came through a proxy.
    Stream(Box<dyn ByteStream>),
    /// QUIC.
    Quic(Box<quic::Connection>),
}

impl std::fmt::Debug for Wire {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Tcp(_) => "Tcp",
            Self::Stream(_) => "Stream",
            Self::Quic(_) => "Quic",
        })
    }
}

/// What the tasks of one connection share.
#[derive(Clone)]
struct Shared {
    id: ConnId,
    peer: String,
    core: mpsc::Sender<Input>,
    stop: CancellationToken,
    /// The core has let go: what is queued may still go, for a while.
    let_go: CancellationToken,
    ahead: Arc<Semaphore>,
    /// Bytes of that.
    most_ahead: usize,
    /// Of chunks that come, whatever stream they come on.
    buffers: Buffers,
}

/// Starts the tasks of a connection that was accepted.
pub(super) fn spawn(
    id: ConnId,
    wire: Wire,
    (peer, proven): (String, Option<Proven>),
    core: mpsc::Sender<Input>,
    place: Option<Place>,
) -> Outgoing {
    let (frames, queue) = mpsc::channel(limits::FRAME_QUEUE);
    let shared = Shared::new(id, peer, core);
    let held = shared.let_go.clone().drop_guard();
    task(run(shared, wire, queue, place));
    Outgoing { frames, proven, _held: held }
}

/// Says once that the kernel lacks a congestion control that a route asks for.
fn warn_without(wanted: Congestion) {
    static SAID: Mutex<BTreeSet<&'static str>> = Mutex::new(BTreeSet::new());
    let Ok(known) = std::fs::read_to_string("/proc/sys/net/ipv4/tcp_available_congestion_control")
    else {
        return;
    };
    if known.split_whitespace().any(|k| k == wanted.as_str())
        || !SAID.lock().insert(wanted.as_str())
    {
        return;
    }
    tracing::warn!(
        "congestion control {0} is not available here (this kernel has: {1}): TCP hops go on with \
         its default; `modprobe tcp_{0}` adds it, or write another one in the topology",
        wanted.as_str(),
        known.trim()
    );
}

/// Dials, then goes on as an accepted connection does.
pub(super) fn dial(
    id: ConnId,
    to: Destination,
    pki: Option<Arc<Pki>>,
    core: mpsc::Sender<Input>,
) -> Outgoing {
    let (frames, queue) = mpsc::channel(limits::FRAME_QUEUE);
    if let Some(c) = to.hop.congestion.filter(|_| to.hop.transport != Some(Transport::Quic)) {
        warn_without(c);
    }
    let shared = Shared::new(id, to.addr.clone(), core);
    let held = shared.let_go.clone().drop_guard();
    task(async move {
        let dialled = dial_by(Dial {
            addr: &to.addr,
            node: &to.node,
            group: &to.group,
            hop: &to.hop,
            pki: pki.as_ref(),
        });
        let (wire, proven) = match dialled.await {
            Ok((Dialled::Tcp(io), p)) => (Wire::Tcp(Prefixed::new(bytes::Bytes::new(), io)), p),
            Ok((Dialled::Stream(io), p)) => (Wire::Stream(io), p),
            Ok((Dialled::Quic(c), p)) => (Wire::Quic(c), p),
            Err(e) => {
                let (reason, refused) = (e.to_string(), e.is_refusal());
                let _ = shared.core.send(Input::Lost { conn: id, reason, refused }).await;
                return;
            }
        };
        if let Some(proven) = proven {
            let _ = shared.core.send(Input::Proven { conn: id, proven }).await;
        }
        run(shared, wire, queue, None).await;
    });
    Outgoing { frames, proven: None, _held: held }
}

/// Where to dial.
pub(super) struct Destination {
    pub(super) addr: String,
    pub(super) node: NodeName,
    pub(super) group: GroupName,
    pub(super) hop: Hop,
}

/// Carries frames until the connection ends. A peer that does not read what is left to be said to
/// it is given up.
async fn run(shared: Shared, wire: Wire, queue: mpsc::Receiver<Frame>, place: Option<Place>) {
    let (stop, let_go) = (shared.stop.clone(), shared.let_go.clone());
    let given_up = async {
        let_go.cancelled().await;
        tokio::time::sleep(limits::LAST_FRAMES).await;
    };
    tokio::select! {
        () = carry(shared, wire, queue, First { lanes: None, place }) => {}
        () = given_up => stop.cancel(),
    }
}

async fn carry(shared: Shared, wire: Wire, queue: mpsc::Receiver<Frame>, first: First) {
    match wire {
        Wire::Tcp(io) => {
            let (prefix, io) = io.into_parts();
            let (read, write) = io.into_split();
            stream(shared, (Prefixed::new(prefix, read), write), queue, first).await;
        }
        Wire::Stream(io) => {
            let (read, write) = tokio::io::split(io);
            stream(shared, (read, write), queue, first).await;
        }
        Wire::Quic(c) => lanes(shared, *c, queue, first).await,
    }
}

/// One stream in both directions.
async fn stream<R, W>(
    shared: Shared,
    (read, write): (R, W),
    queue: mpsc::Receiver<Frame>,
    first: First,
) where
    R: AsyncRead + Unpin + Send + 'static,
    W: AsyncWrite + Unpin + Send + 'static,
{
    let reader = FramedReader::new(read, shared.peer.clone(), Verify::Content).greeting();
    task(read_loop(shared.clone(), reader, first));
    let (end, mut writer) =
        write_loop(&shared, FramedWriter::new(write, &*shared.peer), queue).await;
    if matches!(end, End::Told) {
        let _ = writer.shutdown().await;
        shared.stop.cancel();
    }
    shared.end(end).await;
}

/// A QUIC connection: the control stream, and lanes as they are needed.
async fn lanes(
    shared: Shared,
    c: quic::Connection,
    queue: mpsc::Receiver<Frame>,
    mut first: First,
) {
    let link = Arc::new(c.link);
    let (begins, begun) = watch::channel(false);
    first.lanes = Some(begins);
    let reader = FramedReader::new(c.recv, shared.peer.clone(), Verify::Content)
        .sharing(shared.buffers.clone())
        .greeting();
    task(read_loop(shared.clone(), reader, first));
    task(accept_lanes(shared.clone(), link.clone(), begun));
    let (end, streams) = share_out(&shared, &link, c.send, queue).await;
    if matches!(end, End::Told) {
        link.close(streams).await;
        shared.stop.cancel();
    }
    shared.end(end).await;
}

/// Reads the lanes that the peer opens, once the session has begun on the control stream.
async fn accept_lanes(shared: Shared, link: Arc<Link>, mut begun: watch::Receiver<bool>) {
    if begun.wait_for(|b| *b).await.is_err() {
        return;
    }
    loop {
        let lane = tokio::select! {
            l = link.next_lane() => l,
            () = shared.stop.cancelled() => return,
        };
        // When the connection is lost, the control stream says why.
        let Ok(lane) = lane else { return };
        let reader = FramedReader::new(lane, shared.peer.clone(), Verify::Content)
            .sharing(shared.buffers.clone());
        task(read_lane(shared.clone(), reader));
    }
}

async fn read_lane<R: AsyncRead + Unpin>(shared: Shared, mut reader: FramedReader<R>) {
    loop {
        let next = tokio::select! {
            next = shared.next(&mut reader) => next,
            () = shared.stop.cancelled() => return,
        };
        match next {
            Ok(Some(frame)) => {
                if shared.hand_over(frame).await.is_err() {
                    return;
                }
            }
            // The peer needs it no more.
            Ok(None) => return,
            Err(e) => return shared.unread(&e).await,
        }
    }
}

/// Hands each frame to the stream that it belongs on.
async fn share_out(
    shared: &Shared,
    link: &Arc<Link>,
    control: SendStream,
    mut queue: mpsc::Receiver<Frame>,
) -> (End, Vec<SendStream>) {
    let mut lanes: BTreeMap<u16, mpsc::Sender<Frame>> = BTreeMap::new();
    // One message for each lane and for the control stream: it never waits.
    let (done, mut ends) = mpsc::channel(usize::from(LANES) + 1);
    let open = |lane: u16, io: Option<SendStream>, lanes: &mut BTreeMap<_, _>| {
        let (frames, queue) = mpsc::channel(limits::FRAME_QUEUE);
        let (shared, link, done) = (shared.clone(), link.clone(), done.clone());
        task(async move {
            let io = match io {
                Some(io) => Ok(io),
                None => link.open_lane().await,
            };
            let end = match io {
                Ok(io) => {
                    let writer = FramedWriter::new(Whole(io), &*shared.peer);
                    let (end, writer) = write_loop(&shared, writer, queue).await;
                    (end, Some(writer.into_inner().0))
                }
                Err(e) => (End::Failed(e.to_string(), false), None),
            };
            let _ = done.send(end).await;
        });
        lanes.insert(lane, frames);
    };
    open(0, Some(control), &mut lanes);
    let end = loop {
        let frame = tokio::select! {
            f = queue.recv() => f,
            () = shared.stop.cancelled() => break End::Stopped,
        };
        let Some(frame) = frame else { break End::Told };
        let lane = quic::lane(&frame, |l| lanes.contains_key(&l));
        if !lanes.contains_key(&lane) {
            open(lane, None, &mut lanes);
        }
        let Some(queue) = lanes.get(&lane) else { continue };
        match queue.try_send(frame) {
            Ok(()) => {}
            Err(mpsc::error::TrySendError::Full(_)) => {
                break End::Failed("the peer does not read what it is sent".to_owned(), false);
            }
            // The lane's task says why.
            Err(mpsc::error::TrySendError::Closed(_)) => break End::Stopped,
        }
    };
    drop((lanes, done));
    let (mut worst, mut streams) = (end, Vec::new());
    while let Some((end, io)) = ends.recv().await {
        streams.extend(io);
        if matches!(end, End::Failed(..)) && !matches!(worst, End::Failed(..)) {
            worst = end;
        }
    }
    (worst, streams)
}

/// How writing ended.
enum End {
    /// Told to close: what was queued has been written.
    Told,
    /// Somebody else noticed the end, and says why.
    Stopped,
    /// In words; whether it is about trust.
    Failed(String, bool),
}

impl Shared {
    fn new(id: ConnId, peer: String, core: mpsc::Sender<Input>) -> Self {
        let ahead = Arc::new(Semaphore::new(READ_AHEAD));
        let (stop, let_go) = (CancellationToken::new(), CancellationToken::new());
        let most_ahead = READ_AHEAD;
        Self { id, peer, core, stop, let_go, ahead, most_ahead, buffers: Buffers::default() }
    }

    /// It is a further connection of a session: one frame of each may be ahead.
    fn narrow(&mut self) {
        self.most_ahead = FURTHER_AHEAD;
        self.ahead = Arc::new(Semaphore::new(FURTHER_AHEAD));
    }

    /// The next frame. While a long one comes over a slow link, the core is told that the peer is
    /// alive.
    async fn next<R: AsyncRead + Unpin>(
        &self,
        reader: &mut FramedReader<R>,
    ) -> Result<Option<DecodedFrame>, NetError> {
        loop {
            let before = reader.received();
            let next = tokio::time::timeout(limits::PART_OF_FRAME, reader.next()).await;
            if let Ok(next) = next {
                return next;
            }
            if reader.received() > before {
                let _ = self.core.send(Input::Alive { conn: self.id }).await;
            }
        }
    }

    /// Hands a frame to the core, when there is room.
    async fn hand_over(&self, frame: DecodedFrame) -> Result<(), ()> {
        let bytes = match &frame.frame {
            Frame::Chunk { body, .. }
            | Frame::SetEnd { body, .. }
            | Frame::SeedData { body, .. } => body.len(),
            _ => 1024,
        };
        let share = u32::try_from(bytes.min(self.most_ahead)).unwrap_or(u32::MAX);
        let share = self.ahead.clone().acquire_many_owned(share).await.map_err(|_| ())?;
        let incoming = Box::new(Incoming { frame, _share: share });
        self.core.send(Input::Frame { conn: self.id, incoming }).await.map_err(|_| ())
    }

    /// Nothing more can be read. A peer that sent nonsense is told so before the end.
    async fn unread(&self, e: &NetError) {
        if e.is_nonsense() && !self.stop.is_cancelled() {
            let _ = self.core.send(Input::Nonsense { conn: self.id, text: e.to_string() }).await;
        } else {
            self.end(End::Failed(e.to_string(), e.is_refusal())).await;
        }
    }

    /// Tells the core that it is over, unless that is known.
    async fn end(&self, end: End) {
        if let End::Failed(reason, refused) = end {
            if self.stop.is_cancelled() {
                return;
            }
            self.stop.cancel();
            let _ = self.core.send(Input::Lost { conn: self.id, reason, refused }).await;
        }
    }
}

/// What changes when the first frame has come.
struct First {
    /// Lanes may be read.
    lanes: Option<watch::Sender<bool>>,
    /// The peer has introduced itself: its place is free.
    place: Option<Place>,
}

/// Reads the stream that the session begins on.
async fn read_loop<R: AsyncRead + Unpin>(
    mut shared: Shared,
    mut reader: FramedReader<R>,
    mut first: First,
) {
    loop {
        let next = tokio::select! {
            next = shared.next(&mut reader) => next,
            () = shared.stop.cancelled() => return,
            () = shared.let_go.cancelled() => {
                // Nobody looks at it; but what is not read could cost the peer our last frames.
                tokio::select! {
                    _ = reader.discard() => return,
                    () = shared.stop.cancelled() => return,
                }
            }
        };
        match next {
            Ok(Some(frame)) => {
                if matches!(frame.frame, Frame::Join(_) | Frame::Joined { .. }) {
                    shared.narrow();
                }
                if shared.hand_over(frame).await.is_err() {
                    return;
                }
            }
            Ok(None) => {
                let end = End::Failed("the peer closed the connection".to_owned(), false);
                return shared.end(end).await;
            }
            Err(e) => return shared.unread(&e).await,
        }
        drop(first.place.take());
        if let Some(begun) = first.lanes.take() {
            begun.send_replace(true);
        }
    }
}

async fn write_loop<W: Pieces>(
    shared: &Shared,
    mut writer: FramedWriter<W>,
    mut queue: mpsc::Receiver<Frame>,
) -> (End, FramedWriter<W>) {
    let mut batch = Vec::with_capacity(64);
    let failed = loop {
        batch.clear();
        tokio::select! {
            n = queue.recv_many(&mut batch, 64) => if n == 0 { return (End::Told, writer) },
            () = shared.stop.cancelled() => return (End::Stopped, writer),
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
                failed = Some(e);
                break;
            }
        }
        if let Some(e) = failed {
            break e;
        }
        let flushed = tokio::select! {
            f = writer.flush() => f,
            () = shared.stop.cancelled() => return (End::Stopped, writer),
        };
        if let Err(e) = flushed {
            break e;
        }
        if data > 0 && shared.core.send(Input::Sent { conn: shared.id, bytes: data }).await.is_err()
        {
            return (End::Stopped, writer);
        }
    };
    if !failed.is_refusal() {
        // What the peer said last is better than that it was gone when it was written to.
        let _ = tokio::time::timeout(limits::LAST_WORDS, shared.stop.cancelled()).await;
    }
    (End::Failed(failed.to_string(), failed.is_refusal()), writer)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::BytesMut;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

    use super::*;

    const KIB: usize = 1024;

    fn connection() -> (Outgoing, DuplexStream, mpsc::Receiver<Input>) {
        let (here, there) = duplex(64 * KIB);
        let (core, inputs) = mpsc::channel(16);
        let io: Box<dyn ByteStream> = Box::new(here);
        let out = spawn(ConnId(1), Wire::Stream(io), ("there".to_owned(), None), core, None);
        (out, there, inputs)
    }

    const FRAMES: usize = 256;

    fn frame() -> Frame {
        Frame::Withdraw { stream: rcp::proto::frame::StreamId(1), text: "x".repeat(KIB) }
    }

    fn bytes_of(frame: &Frame) -> BytesMut {
        let mut bytes = BytesMut::new();
        frame.encode_head(&mut bytes).expect("it fits");
        bytes
    }

    #[tokio::test(start_paused = true)]
    async fn only_a_peer_that_reads_nothing_is_taken_for_one() {
        let (out, there, mut inputs) = connection();
        while out.takes(frame()) {}
        drop(there);
        let why = loop {
            if let Input::Lost { reason, .. } = inputs.recv().await.expect("a reason") {
                break reason;
            }
        };
        assert!(!why.contains("does not read"), "{why}");
        out.frames.closed().await;
        assert!(out.takes(frame()), "what has ended was taken for a peer that does not read");
    }

    #[tokio::test(start_paused = true)]
    async fn part_of_a_frame_is_a_sign_of_life() {
        let (_out, mut there, mut inputs) = connection();
        let bytes = bytes_of(&frame());
        let (last, most) = bytes.split_last().expect("bytes");
        for part in most.chunks(300) {
            there.write_all(part).await.expect("taken");
            let heard = inputs.recv().await;
            assert!(matches!(heard, Some(Input::Alive { .. })), "{heard:?}");
        }
        // Silence is none.
        let silence = tokio::time::timeout(Duration::from_secs(60), inputs.recv()).await;
        assert!(silence.is_err(), "{silence:?}");
        there.write_all(&[*last]).await.expect("taken");
        let heard = inputs.recv().await;
        assert!(matches!(heard, Some(Input::Frame { .. })), "{heard:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn who_does_not_read_is_given_up_after_the_session() {
        let (out, mut there, _inputs) = connection();
        for _ in 0..FRAMES {
            out.frames.try_send(frame()).expect("room");
        }
        drop(out);
        tokio::time::sleep(limits::LAST_FRAMES + Duration::from_secs(1)).await;
        let mut got = Vec::new();
        there.read_to_end(&mut got).await.expect("the end");
        assert!(got.len() <= 64 * KIB, "{} bytes came after it was given up", got.len());
    }

    #[tokio::test]
    async fn who_reads_gets_everything_after_the_session() {
        let (out, mut there, _inputs) = connection();
        for _ in 0..FRAMES {
            out.frames.try_send(frame()).expect("room");
        }
        drop(out);
        let mut got = Vec::new();
        there.read_to_end(&mut got).await.expect("the end");
        assert_eq!(got.len(), FRAMES * bytes_of(&frame()).len());
    }
}
