//! A child that speaks the protocol and drops what it gets: what the wire and the sender can do.
//!
//! It says `ready` when it can be dialled, and attaches behind the newest state without credit. `go`
//! on its standard input grants credit; when a set is complete it says `end SET`, acknowledges it and
//! attaches again without credit.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;
use rcp::net::conn::{FramedReader, FramedWriter, Verify};
use rcp::net::port::{Accepted, accept, accept_tcp};
use rcp::net::quic::{Link, Listener};
use rcp::net::tls::{self, Pki};
use rcp::proto::frame::{Attach, DecodedFrame, Frame, FrameType, Offer, StreamId, Verified};
use rcp::proto::ids::{ChunkNumber, GroupName, NodeName, SetNumber};
use rcp::proto::session::{Event, Peers, Session, SessionConfig, Side, VERSIONS};
use rcp::proto::transport::Transport;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

/// More than anybody sends.
const CREDIT: u64 = 1 << 50;

/// Who it is.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Args {
    #[arg(long)]
    node: String,
    #[arg(long)]
    group: String,
    #[arg(long)]
    listen: SocketAddr,
    /// What carries the session.
    #[arg(long, default_value_t = Transport::Tcp)]
    transport: Transport,
    /// The folder with certificates.
    #[arg(long)]
    pki: Option<PathBuf>,
}

/// Frames of lanes that wait to be looked at.
const LANE_QUEUE: usize = 8;

type Orders = mpsc::Receiver<String>;

/// Serves one feeder after the other, until it is killed.
pub(super) fn main(args: &Args) -> anyhow::Result<()> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
        let (orders, mut queue) = mpsc::channel(16);
        std::thread::spawn(move || {
            for line in std::io::stdin().lines().map_while(Result::ok) {
                if orders.blocking_send(line).is_err() {
                    return;
                }
            }
        });
        if args.transport == Transport::Quic {
            return over_quic(args, &mut queue).await;
        }
        let listener = TcpListener::bind(args.listen).await?;
        println!("ready");
        loop {
            let (io, _) = listener.accept().await?;
            if let Err(e) = over_tcp(args, io, &mut queue).await {
                eprintln!("{}: {e:#}", args.node);
            }
        }
    })
}

fn pki(args: &Args) -> anyhow::Result<Arc<Pki>> {
    let folder = args.pki.as_ref().context("a proven transport needs --pki")?;
    Ok(Arc::new(Pki::load(folder, &NodeName::new(&args.node)?)?))
}

async fn over_tcp(args: &Args, io: TcpStream, orders: &mut Orders) -> anyhow::Result<()> {
    let no_lanes = mpsc::channel(1).1;
    match accept_tcp(io).await {
        Accepted::Rcp { io, .. } if args.transport == Transport::Tcp => {
            let (read, write) = tokio::io::split(io);
            serve(args, read, write, no_lanes, orders).await
        }
        Accepted::Tls { io } if args.transport == Transport::Tls => {
            let (io, _) = tls::accept(&*pki(args)?, io).await?;
            let Accepted::Rcp { io, .. } = accept(io).await else { return Ok(()) };
            let (read, write) = tokio::io::split(io);
            serve(args, read, write, no_lanes, orders).await
        }
        _ => Ok(()),
    }
}

async fn over_quic(args: &Args, orders: &mut Orders) -> anyhow::Result<()> {
    let listener = Listener::bind(args.listen, pki(args)?)?;
    println!("ready");
    while let Some(incoming) = listener.next().await {
        let (c, ..) = match incoming.accept().await {
            Ok(c) => c,
            Err(e) => {
                eprintln!("{}: {e:#}", args.node);
                continue;
            }
        };
        let (frames, lanes) = mpsc::channel(LANE_QUEUE);
        tokio::spawn(read_lanes(c.link, frames));
        if let Err(e) = serve(args, c.recv, c.send, lanes, orders).await {
            eprintln!("{}: {e:#}", args.node);
        }
    }
    Ok(())
}

async fn read_lanes(link: Link, frames: mpsc::Sender<DecodedFrame>) {
    while let Ok(lane) = link.next_lane().await {
        let frames = frames.clone();
        tokio::spawn(async move {
            let mut reader = FramedReader::new(lane, "the primary", Verify::Content);
            while let Ok(Some(f)) = reader.next().await {
                if frames.send(f).await.is_err() {
                    return;
                }
            }
        });
    }
}

struct Sink {
    session: Session,
    offer: Option<Offer>,
    state: SetNumber,
    feeder: u32,
    /// Told to go before there was an offer.
    eager: bool,
}

async fn serve<R, W>(
    args: &Args,
    read: R,
    write: W,
    mut lanes: mpsc::Receiver<DecodedFrame>,
    orders: &mut Orders,
) -> anyhow::Result<()>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin + Send,
{
    let cfg = SessionConfig {
        versions: VERSIONS,
        node: NodeName::new(&args.node)?,
        instance: *b"a memory sink...",
        group: GroupName::new(&args.group)?,
        path: Vec::new(),
        feeder: 1,
        keepalive: node::limits::KEEPALIVE,
        feeders: Peers::Any,
        children: Peers::Only(Vec::new()),
        ask: false,
        join: None,
    };
    let mut sink = Sink {
        session: Session::new(cfg, Side::Acceptor, node::clock::mono()),
        offer: None,
        state: SetNumber::ZERO,
        feeder: 1,
        eager: false,
    };
    let mut reader = FramedReader::new(read, "the primary", Verify::Content);
    let mut writer = FramedWriter::new(write, "the primary");
    let mut look = tokio::time::interval(node::limits::KEEPALIVE / 4);
    loop {
        tokio::select! {
            frame = reader.next() => {
                let Some(frame) = frame? else { return Ok(()) };
                sink.frame(frame)?;
            }
            Some(frame) = lanes.recv() => sink.frame(frame)?,
            order = orders.recv() => {
                anyhow::ensure!(order.is_some(), "nobody gives orders any more");
                sink.go();
            }
            _ = look.tick() => sink.session.handle_timeout(node::clock::mono()),
        }
        while let Some(e) = sink.session.poll_event() {
            match e {
                Event::Frame(f) => sink.control(f),
                Event::Closed(why) => anyhow::bail!("closed: {why}"),
                Event::Up(p) => sink.feeder = p.feeder,
                Event::Asked(_) | Event::Joins(_) | Event::Joined => {}
            }
        }
        while let Some(f) = sink.session.poll_transmit() {
            writer.queue(&f)?;
        }
        if writer.queued() > 0 {
            writer.flush().await?;
        }
    }
}

impl Sink {
    fn send(&mut self, f: Frame) {
        if let Err(e) = self.session.send(f) {
            eprintln!("a frame could not be sent: {e}");
        }
    }

    fn frame(&mut self, f: DecodedFrame) -> anyhow::Result<()> {
        let now = node::clock::mono();
        let kind = f.frame.frame_type();
        if !matches!(kind, FrameType::Chunk | FrameType::SetEnd | FrameType::SeedData) {
            self.session.handle_frame(now, f.frame);
            return Ok(());
        }
        anyhow::ensure!(kind != FrameType::SeedData, "a seed for a sink");
        if self.session.admit(now, kind)
            && let Verified::Set(header) = f.content
        {
            self.state = header.step.to;
            let stream = self.stream().context("a stream")?;
            self.send(Frame::Saved {
                stream,
                feeder: self.feeder,
                state: self.state,
                next_chunk: ChunkNumber(0),
            });
            self.attach();
            println!("end {}", self.state);
        }
        Ok(())
    }

    fn control(&mut self, f: Frame) {
        match f {
            Frame::Offer(o) => {
                self.state = o.newest;
                self.offer = Some(o);
                self.attach();
                if std::mem::take(&mut self.eager) {
                    self.go();
                }
            }
            Frame::StreamError { text, .. } => eprintln!("the stream was stopped: {text}"),
            _ => {}
        }
    }

    fn stream(&self) -> Option<StreamId> {
        self.offer.as_ref().map(|o| o.stream)
    }

    /// Behind what is held, without credit.
    fn attach(&mut self) {
        let Some(o) = &self.offer else { return };
        let generation = o.history.last().map(|b| b.generation);
        let attach = Attach {
            stream: o.stream,
            state: self.state,
            generation: generation.filter(|_| self.state > SetNumber::ZERO),
            next: None,
            credit: 0,
            wants_seed: false,
            seed_from_block: 0,
            folded: SetNumber::ZERO,
            over: None,
            stages: None,
        };
        self.send(Frame::Attach(attach));
    }

    fn go(&mut self) {
        match self.stream() {
            Some(stream) => self.send(Frame::Credit { stream, total: CREDIT }),
            None => self.eager = true,
        }
    }
}
