//! A parent that has what it sends in memory: what a session costs, without a volume beside it.
//!
//! It dials a [`super::sink`], offers a volume of one set, and once it is granted credit sends that
//! set's chunks over and over, as after a connection that was lost, until it has sent enough. They
//! were encoded before: a node encodes a chunk when it is captured, and never again.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;
use bytes::Bytes;
use rcp::net::conn::{FramedReader, FramedWriter, Pieces, Verify};
use rcp::net::quic::{Link, Whole};
use rcp::net::tls::Pki;
use rcp::net::{Dial, Dialled, dial_by};
use rcp::proto::clock::Wall;
use rcp::proto::delta::{
    ChunkDraft, ChunkFlags, ChunkListSum, Compression, Extent, SetFlags, SetHeader, StepId,
};
use rcp::proto::frame::{Branch, Frame, Offer, Role, Start, StartMode, StreamId};
use rcp::proto::ids::{
    Attempt, ChunkNumber, Generation, GroupName, Label, NodeName, SetNumber, VolumeId,
};
use rcp::proto::session::{Event, Peers, Session, SessionConfig, Side, VERSIONS};
use rcp::proto::transport::{Hop, Transport};
use tokio::io::AsyncRead;

use super::MIB;
use super::fill::Noise;

/// The node that it is.
pub(super) const NAME: &str = "primary";
const STREAM: StreamId = StreamId(1);
const BLOCK_SHIFT: u8 = 12;
const VOLUME: VolumeId = VolumeId(*b"a volume of one ");
const STATE: SetNumber = SetNumber(1);
/// Bytes of a chunk's payload.
const CHUNK: usize = 1 << 20;
/// Chunks of the set.
const CHUNKS: u32 = 8;
/// Bytes that are queued for the connection at once.
const QUEUE: usize = 4 << 20;

/// What to send, and where.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Args {
    #[arg(long)]
    to: SocketAddr,
    /// Which node is there.
    #[arg(long)]
    node: String,
    #[arg(long)]
    group: String,
    #[arg(long)]
    transport: Transport,
    /// The folder with certificates.
    #[arg(long)]
    pki: PathBuf,
    /// How much.
    #[arg(long)]
    mib: u64,
}

/// Sends, and ends when the receiver has acknowledged the set.
pub(super) fn main(a: &Args) -> anyhow::Result<()> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
        let group = GroupName::new(&a.group)?;
        let own = NodeName::new(NAME)?;
        let pki = match a.transport {
            Transport::Tcp => None,
            Transport::Tls | Transport::Quic => Some(Arc::new(Pki::load(&a.pki, &own)?)),
        };
        let hop = Hop { transport: Some(a.transport), ..Hop::default() };
        let (dialled, _) = dial_by(Dial {
            addr: &a.to.to_string(),
            node: &NodeName::new(&a.node)?,
            group: &group,
            hop: &hop,
            pki: pki.as_ref(),
        })
        .await?;
        let source = Source::new(own, group, a.mib * MIB)?;
        match dialled {
            Dialled::Tcp(io) => {
                let (read, write) = io.into_split();
                source.serve(read, Out::new(write)).await
            }
            Dialled::Stream(io) => {
                let (read, write) = tokio::io::split(io);
                source.serve(read, Out::new(write)).await
            }
            Dialled::Quic(c) => {
                let out = Out::with_lane(c.send, &c.link).await?;
                let done = source.serve(c.recv, out).await;
                c.link.close(Vec::new()).await;
                done
            }
        }
    })
}

/// The streams of a connection: over QUIC, data has one of its own.
struct Out<W> {
    control: FramedWriter<W>,
    lane: Option<FramedWriter<W>>,
}

impl<W: Pieces> Out<W> {
    fn new(control: W) -> Self {
        Self { control: FramedWriter::new(control, "the sink"), lane: None }
    }

    fn queue(&mut self, frame: &Frame) -> anyhow::Result<()> {
        let on_lane = rcp::net::quic::lane(frame, |_| false) != 0;
        let writer = self.lane.as_mut().filter(|_| on_lane).unwrap_or(&mut self.control);
        Ok(writer.queue(frame)?)
    }

    fn queued(&self) -> usize {
        self.control.queued() + self.lane.as_ref().map_or(0, FramedWriter::queued)
    }

    async fn flush(&mut self) -> anyhow::Result<()> {
        self.control.flush().await?;
        if let Some(lane) = &mut self.lane {
            lane.flush().await?;
        }
        Ok(())
    }
}

impl Out<Whole> {
    async fn with_lane(control: rcp::net::quic::SendStream, link: &Link) -> anyhow::Result<Self> {
        let lane = FramedWriter::new(Whole(link.open_lane().await?), "the sink");
        Ok(Self { lane: Some(lane), ..Self::new(Whole(control)) })
    }
}

/// The sending side of the session.
struct Source {
    session: Session,
    chunks: Vec<Bytes>,
    end: Bytes,
    /// The receiver's number for this session.
    feeder: u32,
    granted: bool,
    seq: u64,
    left: u64,
}

impl Source {
    fn new(node: NodeName, group: GroupName, len: u64) -> anyhow::Result<Self> {
        let (chunks, end) = set()?;
        let cfg = SessionConfig {
            versions: VERSIONS,
            path: vec![node.clone()],
            node,
            instance: *b"a memory source.",
            group,
            feeder: 0,
            keepalive: node::limits::KEEPALIVE,
            feeders: Peers::Only(Vec::new()),
            children: Peers::Any,
            ask: false,
            join: None,
        };
        let session = Session::new(cfg, Side::Dialer(Role::Sender), node::clock::mono());
        Ok(Self { session, chunks, end, feeder: 0, granted: false, seq: 0, left: len })
    }

    async fn serve<R, W>(mut self, read: R, mut out: Out<W>) -> anyhow::Result<()>
    where
        R: AsyncRead + Unpin,
        W: Pieces,
    {
        let mut reader = FramedReader::new(read, "the sink", Verify::Content);
        let mut look = tokio::time::interval(node::limits::KEEPALIVE / 4);
        loop {
            while let Some(f) = self.session.poll_transmit() {
                out.queue(&f)?;
            }
            while out.queued() < QUEUE
                && let Some(f) = self.next()
            {
                self.session.check_send(f.frame_type())?;
                out.queue(&f)?;
            }
            let waiting = out.queued() > 0;
            tokio::select! {
                done = out.flush(), if waiting => done?,
                frame = reader.next() => {
                    let frame = frame?.context("the sink closed the connection")?.frame;
                    self.session.handle_frame(node::clock::mono(), frame);
                }
                _ = look.tick() => self.session.handle_timeout(node::clock::mono()),
            }
            while let Some(e) = self.session.poll_event() {
                if self.hear(e)? {
                    return Ok(());
                }
            }
        }
    }

    /// The next frame of the set, if it may be sent.
    fn next(&mut self) -> Option<Frame> {
        if !self.granted {
            return None;
        }
        let (stream, feeder, seq) = (STREAM, self.feeder, self.seq);
        self.seq += 1;
        if self.left == 0 {
            self.granted = false;
            return Some(Frame::SetEnd { stream, feeder, seq, body: self.end.clone() });
        }
        self.left = self.left.saturating_sub(CHUNK as u64);
        let body = self.chunks[usize::try_from(seq % u64::from(CHUNKS)).unwrap_or(0)].clone();
        Some(Frame::Chunk { stream, feeder, seq, body })
    }

    /// Whether that was all.
    fn hear(&mut self, e: Event) -> anyhow::Result<bool> {
        match e {
            Event::Up(peer) => {
                self.feeder = peer.feeder;
                self.session.send(Frame::Offer(offer()?))?;
            }
            Event::Frame(Frame::Attach(_)) => {
                let start = Start {
                    stream: STREAM,
                    mode: StartMode::Resume,
                    from: SetNumber::ZERO,
                    feeder: self.feeder,
                    reason: "all of it is in memory".to_owned(),
                };
                self.session.send(Frame::Start(start))?;
                println!("ready");
            }
            Event::Frame(Frame::Credit { .. }) => self.granted = true,
            Event::Frame(Frame::Saved { state, .. }) => return Ok(state == STATE),
            Event::Closed(why) => anyhow::bail!("closed: {why}"),
            _ => {}
        }
        Ok(false)
    }
}

fn generation() -> Generation {
    Generation { counter: 1, id: *b"the only writer." }
}

fn offer() -> anyhow::Result<Offer> {
    let branch = Branch {
        generation: generation(),
        forked_from: SetNumber::ZERO,
        opened_by: NodeName::new(NAME)?,
        opened_at: Wall(0),
    };
    Ok(Offer {
        stream: STREAM,
        volume: VOLUME,
        label: Label::new("memory")?,
        block_shift: BLOCK_SHIFT,
        volume_blocks: blocks() * u64::from(CHUNKS),
        history: vec![branch],
        oldest: SetNumber::ZERO,
        newest: SetNumber::ZERO,
    })
}

/// Blocks of a chunk.
fn blocks() -> u64 {
    (CHUNK >> BLOCK_SHIFT) as u64
}

/// The chunks of the set, and its header.
fn set() -> anyhow::Result<(Vec<Bytes>, Bytes)> {
    let step = StepId {
        volume: VOLUME,
        generation: generation(),
        base: SetNumber::ZERO,
        to: STATE,
        attempt: Attempt(0),
    };
    let (mut noise, mut sum) = (Noise::new(1), ChunkListSum::new());
    let mut chunks = Vec::new();
    for n in 0..CHUNKS {
        let mut payload = vec![0; CHUNK];
        noise.fill(&mut payload);
        let chunk = ChunkDraft {
            step,
            number: ChunkNumber(n),
            block_size_shift: BLOCK_SHIFT,
            flags: ChunkFlags::NONE,
            extents: vec![Extent::data(u64::from(n) * blocks(), u32::try_from(blocks())?)],
            payload: payload.into(),
        }
        .encode(Compression::Never)?;
        sum.add(chunk.number(), chunk.body_crc())?;
        chunks.push(chunk.bytes().clone());
    }
    let header = SetHeader {
        step,
        chunk_count: CHUNKS,
        block_count: blocks() * u64::from(CHUNKS),
        volume_blocks: blocks() * u64::from(CHUNKS),
        block_shift: BLOCK_SHIFT,
        cut_time: Wall(0),
        flags: SetFlags::DIGEST_ABSENT,
        digest: [0; 32],
        chunk_list_crc: sum.total(CHUNKS).context("a sum of all chunks")?,
    };
    Ok((chunks, header.to_bytes()))
}
