//! The bare libraries: a program that sends what it has in memory over plain TCP, rustls or quinn,
//! and one that drops what it gets. No frames, no checksums, no acknowledgements of its own.
//!
//! The same crates, the same provider of cryptography and the same windows as in the product.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use quinn::congestion::{BbrConfig, CubicConfig};
use rcp::proto::transport::{Congestion, Transport};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, ServerConfig, StreamOwned};

use super::fill::Noise;
use super::{MIB, process};

/// The node whose certificate the receiver shows.
pub(super) const NAME: &str = "leaf1";
const ALPN: &[u8] = b"bare";
/// Bytes given to the library at once, as a chunk of the product.
const PIECE: usize = 1 << 20;
/// Windows of QUIC, as the product has them.
const STREAM_WINDOW: u32 = 16 << 20;
const WINDOW: u32 = 32 << 20;
const SOCKET_BUFFER: usize = 4 << 20;

/// What to do.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Args {
    /// What carries the bytes.
    #[arg(long)]
    transport: Transport,
    /// Who decides how fast.
    #[arg(long)]
    congestion: Option<Congestion>,
    /// The folder with certificates.
    #[arg(long)]
    pki: PathBuf,
    /// Receive here, from one sender.
    #[arg(long, conflicts_with = "to")]
    listen: Option<SocketAddr>,
    /// Send there.
    #[arg(long)]
    to: Option<SocketAddr>,
    /// How much, at most.
    #[arg(long, default_value_t = 1024)]
    mib: u64,
    /// How long, at most, in seconds.
    #[arg(long, default_value_t = 3600)]
    seconds: u64,
}

/// Receives, and says `BYTES SECONDS` from the first byte to the last; or sends.
pub(super) fn main(a: &Args) -> anyhow::Result<()> {
    match (a.listen, a.to) {
        (Some(at), _) => receive(a, at),
        (None, Some(to)) => send(a, to),
        (None, None) => anyhow::bail!("--listen or --to"),
    }
}

/// Counts what comes.
#[derive(Default)]
struct Meter {
    bytes: u64,
    began: Option<f64>,
    last: f64,
}

impl Meter {
    fn add(&mut self, n: usize) {
        self.last = process::now();
        // The clock runs from the end of the first piece on.
        match self.began {
            None => self.began = Some(self.last),
            Some(_) => self.bytes += n as u64,
        }
    }

    fn say(&self) {
        println!("{} {}", self.bytes, self.last - self.began.unwrap_or(self.last));
    }
}

/// What is sent, until it is enough.
struct Source {
    piece: Bytes,
    left: u64,
    until: f64,
}

impl Source {
    fn new(a: &Args) -> Self {
        let mut piece = vec![0; PIECE];
        Noise::new(1).fill(&mut piece);
        let until = process::now() + a.seconds as f64;
        Self { piece: piece.into(), left: a.mib * MIB, until }
    }

    fn next(&mut self) -> Option<Bytes> {
        if self.left == 0 || process::now() > self.until {
            return None;
        }
        self.left = self.left.saturating_sub(PIECE as u64);
        Some(self.piece.clone())
    }
}

fn drain(mut io: impl Read) -> anyhow::Result<()> {
    let (mut buf, mut meter) = (vec![0; PIECE], Meter::default());
    loop {
        match io.read(&mut buf) {
            Ok(0) => break,
            Ok(n) => meter.add(n),
            Err(e) => return Err(e.into()),
        }
    }
    meter.say();
    Ok(())
}

fn receive(a: &Args, at: SocketAddr) -> anyhow::Result<()> {
    if a.transport == Transport::Quic {
        return runtime()?.block_on(receive_quic(a, at));
    }
    let listener = TcpListener::bind(at)?;
    println!("ready");
    let (tcp, _) = listener.accept()?;
    tcp.set_nodelay(true)?;
    if a.transport == Transport::Tcp {
        return drain(tcp);
    }
    let session = rustls::ServerConnection::new(Arc::new(server(&a.pki)?))?;
    drain(StreamOwned::new(session, tcp))
}

fn send(a: &Args, to: SocketAddr) -> anyhow::Result<()> {
    if a.transport == Transport::Quic {
        return runtime()?.block_on(send_quic(a, to));
    }
    let mut tcp = TcpStream::connect(to)?;
    tcp.set_nodelay(true)?;
    if let Some(c) = a.congestion {
        rustix::net::sockopt::set_tcp_congestion(&tcp, c.as_str())?;
    }
    let mut source = Source::new(a);
    if a.transport == Transport::Tcp {
        while let Some(piece) = source.next() {
            tcp.write_all(&piece)?;
        }
        return Ok(());
    }
    let name = ServerName::try_from(NAME)?;
    let session = rustls::ClientConnection::new(Arc::new(client(&a.pki)?), name)?;
    let mut io = StreamOwned::new(session, tcp);
    while let Some(piece) = source.next() {
        io.write_all(&piece)?;
    }
    io.conn.send_close_notify();
    io.flush()?;
    // Whoever closes with bytes unread resets the connection, and what is on its way is lost.
    io.sock.shutdown(Shutdown::Write)?;
    while io.sock.read(&mut [0; 1024])? > 0 {}
    Ok(())
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

fn server(pki: &Path) -> anyhow::Result<ServerConfig> {
    let cert = CertificateDer::from_pem_file(pki.join(format!("{NAME}.pem")))?;
    let key = PrivateKeyDer::from_pem_file(pki.join(format!("{NAME}.key")))?;
    let mut c = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_single_cert(vec![cert], key)?;
    c.alpn_protocols = vec![ALPN.to_vec()];
    c.send_tls13_tickets = 0;
    Ok(c)
}

fn client(pki: &Path) -> anyhow::Result<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(pki.join("ca.pem"))?)?;
    let mut c = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots)
        .with_no_client_auth();
    c.alpn_protocols = vec![ALPN.to_vec()];
    Ok(c)
}

fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}

fn transport(congestion: Option<Congestion>) -> Arc<quinn::TransportConfig> {
    let mut t = quinn::TransportConfig::default();
    t.stream_receive_window(STREAM_WINDOW.into())
        .receive_window(WINDOW.into())
        .send_window(WINDOW.into());
    match congestion {
        Some(Congestion::Bbr) => {
            t.congestion_controller_factory(Arc::new(BbrConfig::default()));
        }
        Some(Congestion::Cubic) => {
            t.congestion_controller_factory(Arc::new(CubicConfig::default()));
        }
        _ => {}
    }
    Arc::new(t)
}

fn socket(at: SocketAddr) -> anyhow::Result<std::net::UdpSocket> {
    let s = std::net::UdpSocket::bind(at)?;
    // The system may grant less.
    let _ = rustix::net::sockopt::set_socket_recv_buffer_size(&s, SOCKET_BUFFER);
    let _ = rustix::net::sockopt::set_socket_send_buffer_size(&s, SOCKET_BUFFER);
    Ok(s)
}

fn endpoint(
    at: SocketAddr,
    server: Option<quinn::ServerConfig>,
) -> anyhow::Result<quinn::Endpoint> {
    let runtime = Arc::new(quinn::TokioRuntime);
    Ok(quinn::Endpoint::new(quinn::EndpointConfig::default(), server, socket(at)?, runtime)?)
}

async fn receive_quic(a: &Args, at: SocketAddr) -> anyhow::Result<()> {
    let crypto = quinn::crypto::rustls::QuicServerConfig::try_from(server(&a.pki)?)?;
    let mut config = quinn::ServerConfig::with_crypto(Arc::new(crypto));
    config.transport_config(transport(a.congestion));
    let endpoint = endpoint(at, Some(config))?;
    println!("ready");
    let link = endpoint.accept().await.context("a connection")?.await?;
    let mut stream = link.accept_uni().await?;
    let mut meter = Meter::default();
    while let Some(chunk) = stream.read_chunk(PIECE, true).await? {
        meter.add(chunk.bytes.len());
    }
    meter.say();
    link.close(0u32.into(), b"");
    endpoint.wait_idle().await;
    Ok(())
}

async fn send_quic(a: &Args, to: SocketAddr) -> anyhow::Result<()> {
    let crypto = quinn::crypto::rustls::QuicClientConfig::try_from(client(&a.pki)?)?;
    let mut config = quinn::ClientConfig::new(Arc::new(crypto));
    config.transport_config(transport(a.congestion));
    let endpoint = endpoint((Ipv4Addr::UNSPECIFIED, 0).into(), None)?;
    let link = endpoint.connect_with(config, to, NAME)?.await?;
    let mut stream = link.open_uni().await?;
    let mut source = Source::new(a);
    while let Some(piece) = source.next() {
        stream.write_chunk(piece).await?;
    }
    stream.finish()?;
    let _ = tokio::time::timeout(Duration::from_secs(60), link.closed()).await;
    Ok(())
}
