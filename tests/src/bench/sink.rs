//! A child that speaks the protocol and drops what it gets: what the wire and the sender can do.
//!
//! It attaches behind the newest state without credit. `go` on its standard input grants credit;
//! when a set is complete it says `end SET`, acknowledges it and attaches again without credit.

use std::net::SocketAddr;

use anyhow::Context;
use rcp::net::conn::{FramedReader, FramedWriter, Verify};
use rcp::net::port::{Accepted, accept_tcp};
use rcp::proto::frame::{Attach, DecodedFrame, Frame, FrameType, Offer, StreamId, Verified};
use rcp::proto::ids::{ChunkNumber, GroupName, NodeName, SetNumber};
use rcp::proto::session::{Event, Peers, Session, SessionConfig, Side, VERSIONS};
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
}

/// Serves one feeder after the other, until it is killed.
pub(super) fn main(args: &Args) -> anyhow::Result<()> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
        let listener = TcpListener::bind(args.listen).await?;
        let (orders, mut queue) = mpsc::channel(16);
        std::thread::spawn(move || {
            for line in std::io::stdin().lines().map_while(Result::ok) {
                if orders.blocking_send(line).is_err() {
                    return;
                }
            }
        });
        loop {
            let (io, _) = listener.accept().await?;
            if let Err(e) = serve(args, io, &mut queue).await {
                eprintln!("{}: {e:#}", args.node);
            }
        }
    })
}

struct Sink {
    session: Session,
    offer: Option<Offer>,
    state: SetNumber,
    feeder: u32,
    /// Told to go before there was an offer.
    eager: bool,
}

async fn serve(
    args: &Args,
    io: TcpStream,
    orders: &mut mpsc::Receiver<String>,
) -> anyhow::Result<()> {
    let Accepted::Rcp { io, .. } = accept_tcp(io).await else { return Ok(()) };
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
    };
    let mut sink = Sink {
        session: Session::new(cfg, Side::Acceptor, node::clock::mono()),
        offer: None,
        state: SetNumber::ZERO,
        feeder: 1,
        eager: false,
    };
    let (read, write) = tokio::io::split(io);
    let mut reader = FramedReader::new(read, "the primary", Verify::Content);
    let mut writer = FramedWriter::new(write, "the primary");
    let mut look = tokio::time::interval(node::limits::KEEPALIVE / 4);
    loop {
        tokio::select! {
            frame = reader.next() => {
                let Some(frame) = frame? else { return Ok(()) };
                sink.frame(frame)?;
            }
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
                Event::Asked(_) => {}
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
