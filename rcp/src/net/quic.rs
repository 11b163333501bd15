//! QUIC: sessions on the UDP port of the same number.
//!
//! The dialler opens one stream in both directions, the *control* stream: it begins with the
//! opening line, and carries everything that is not said below. Frames of a volume's stream that
//! go down travel on *lanes*, streams in one direction that the sender of the data opens when it
//! needs them: all frames of one stream id on one lane, so that they stay in order, and a packet
//! that is lost holds up one lane only. A lane is read after the first frame of the control stream.
//!
//! Both sides are proven as with TLS. A connection survives a change of address (RFC 9000,
//! section 9); nothing is sent before the handshake is done (no 0-RTT).

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::hmac;
use bytes::{Buf, Bytes, BytesMut};
use quinn::congestion::{BbrConfig, ControllerFactory, CubicConfig, NewRenoConfig};
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{ConnectionError, TransportConfig, VarInt};
use quinn_proto::HashedConnectionIdGenerator;
use rustls::AlertDescription;
use rustls::pki_types::CertificateDer;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

pub use quinn::{RecvStream, SendStream};

use super::conn::{PIECES, Pieces};
use super::port::PortRefusal;
use super::tls::{ALPN_RCP, Lasting, Pki, Proven, TlsError, Untrusted, server_name};
use super::{NetError, Prefixed, addresses};
use crate::proto::classify::{Verdict, classify, opening_line};
use crate::proto::frame::{Frame, StreamId};
use crate::proto::ids::{GroupName, NodeName};
use crate::proto::limits::MAX_OPENING_LINE;
use crate::proto::transport::Congestion;

/// Most lanes of a connection; stream ids share them beyond that.
pub const LANES: u16 = 64;
/// Bytes that one lane may be ahead of its reader.
const LANE_WINDOW: u32 = 16 << 20;
/// Bytes that all of them together may be ahead, and that may be on their way unacknowledged:
/// 1 Gbit/s over 250 ms.
const CONNECTION_WINDOW: u32 = 32 << 20;
/// Something is sent at least so often, so that no middle box forgets the connection.
const KEEP_ALIVE: Duration = Duration::from_secs(5);
/// Silence after which the connection is dead. Sessions notice sooner.
const IDLE: Duration = Duration::from_secs(30);
/// Buffers of the UDP socket: bursts of a fast sender.
const SOCKET_BUFFER: usize = 4 << 20;
/// Time for the last bytes to be acknowledged before the connection is closed.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// The lane that a frame goes on; 0 is the control stream. `open` says whether a lane is: a stream
/// error goes on one only from the side that sends on it, so that it keeps its place.
pub fn lane(frame: &Frame, open: impl Fn(u16) -> bool) -> u16 {
    let of = |s: StreamId| 1 + s.0 % LANES;
    match frame {
        Frame::Offer(o) => of(o.stream),
        Frame::Start(s) => of(s.stream),
        Frame::Withdraw { stream, .. }
        | Frame::Chunk { stream, .. }
        | Frame::SetEnd { stream, .. }
        | Frame::Heartbeat { stream, .. }
        | Frame::Clock { stream, .. }
        | Frame::SeedData { stream, .. }
        | Frame::SeedEnd { stream, .. } => of(*stream),
        Frame::StreamError { stream, .. } if open(of(*stream)) => of(*stream),
        _ => 0,
    }
}

fn transport(congestion: Option<Congestion>) -> Arc<TransportConfig> {
    let mut t = TransportConfig::default();
    t.max_concurrent_bidi_streams(VarInt::from_u32(1))
        .max_concurrent_uni_streams(VarInt::from_u32(LANES.into()))
        .stream_receive_window(VarInt::from_u32(LANE_WINDOW))
        .receive_window(VarInt::from_u32(CONNECTION_WINDOW))
        .send_window(CONNECTION_WINDOW.into())
        .datagram_receive_buffer_size(None)
        .keep_alive_interval(Some(KEEP_ALIVE))
        .max_idle_timeout(quinn::IdleTimeout::try_from(IDLE).ok());
    let controller: Option<Arc<dyn ControllerFactory + Send + Sync>> = match congestion {
        None => None,
        Some(Congestion::Cubic) => Some(Arc::new(CubicConfig::default())),
        Some(Congestion::Bbr) => Some(Arc::new(BbrConfig::default())),
        Some(Congestion::Reno) => Some(Arc::new(NewRenoConfig::default())),
    };
    if let Some(c) = controller {
        t.congestion_controller_factory(c);
    }
    Arc::new(t)
}

fn socket(addr: SocketAddr) -> io::Result<std::net::UdpSocket> {
    let domain = socket2::Domain::for_address(addr);
    let s = socket2::Socket::new(domain, socket2::Type::DGRAM, Some(socket2::Protocol::UDP))?;
    // The system may grant less; that is slower, not wrong.
    let _ = s.set_recv_buffer_size(SOCKET_BUFFER);
    let _ = s.set_send_buffer_size(SOCKET_BUFFER);
    s.bind(&addr.into())?;
    Ok(s.into())
}

fn endpoint(
    config: quinn::EndpointConfig,
    addr: SocketAddr,
    server: Option<quinn::ServerConfig>,
) -> io::Result<quinn::Endpoint> {
    quinn::Endpoint::new(config, server, socket(addr)?, Arc::new(quinn::TokioRuntime))
}

/// A listener that was started again tells those who still send to the one before that their
/// connections are gone (stateless reset, RFC 9000, section 10.3): for that it must know the keys
/// of the one before, which follow from the node's private key.
fn lasting_config(lasting: &Lasting) -> quinn::EndpointConfig {
    let reset = hmac::Key::new(hmac::HMAC_SHA256, &lasting.bytes("rcp/1 QUIC stateless reset"));
    let [a, b, c, d, e, f, g, h, ..] = lasting.bytes("rcp/1 QUIC connection ids");
    let ids = u64::from_le_bytes([a, b, c, d, e, f, g, h]);
    let mut config = quinn::EndpointConfig::new(Arc::new(reset));
    config.cid_generator(move || Box::new(HashedConnectionIdGenerator::from_key(ids)));
    config
}

fn server_config(pki: &Pki) -> Result<(quinn::ServerConfig, super::tls::Reason), TlsError> {
    let (config, reason) = pki.quic_server(&[ALPN_RCP])?;
    let crypto = QuicServerConfig::try_from(config).map_err(|e| TlsError::Other(e.to_string()))?;
    let mut server = quinn::ServerConfig::with_crypto(Arc::new(crypto));
    server.transport_config(transport(None));
    Ok((server, reason))
}

/// The UDP side of a shared port.
#[derive(Debug)]
pub struct Listener {
    endpoint: quinn::Endpoint,
    pki: Arc<Pki>,
}

/// A connection that comes in; nothing of it is believed yet.
#[derive(Debug)]
pub struct Incoming {
    inner: quinn::Incoming,
    pki: Arc<Pki>,
}

impl Listener {
    /// Listens on `addr`.
    ///
    /// # Errors
    /// The socket's, or that of a configuration that cannot be made.
    pub fn bind(addr: SocketAddr, pki: Arc<Pki>) -> io::Result<Self> {
        let (server, _) = server_config(&pki).map_err(|e| io::Error::other(e.to_string()))?;
        let config = lasting_config(&pki.lasting());
        Ok(Self { endpoint: endpoint(config, addr, Some(server))?, pki })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// The socket's.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.endpoint.local_addr()
    }

    /// The next connection; `None` once the listener is closed.
    pub async fn next(&self) -> Option<Incoming> {
        let inner = self.endpoint.accept().await?;
        Some(Incoming { inner, pki: self.pki.clone() })
    }

    /// Says goodbye to all connections.
    pub fn close(&self) {
        self.endpoint.close(VarInt::from_u32(0), b"the node is being stopped");
    }
}

impl Incoming {
    /// From where.
    #[must_use]
    pub fn remote(&self) -> SocketAddr {
        self.inner.remote_address()
    }

    /// Has the peer show that it can be reached at its address before anything is spent on it; true
    /// if that was asked for, and the connection will come again.
    #[must_use]
    pub fn ask_again(self) -> Option<Self> {
        if !self.inner.may_retry() || self.inner.remote_address_validated() {
            return Some(self);
        }
        let _ = self.inner.retry();
        None
    }

    /// Turns it away.
    pub fn refuse(self) {
        self.inner.refuse();
    }

    /// Does the handshake and reads the opening line; frames follow. Not bounded in time.
    ///
    /// # Errors
    /// [`NetError`]
    pub async fn accept(self) -> Result<(Connection, Proven, GroupName), NetError> {
        let peer = self.remote().to_string();
        let tls = |source| NetError::Tls { peer: peer.clone(), source };
        let (config, reason) = server_config(&self.pki).map_err(tls)?;
        let lost = |e: &ConnectionError| tls(of_connection(e, reason.get()));
        let connecting = self.inner.accept_with(Arc::new(config)).map_err(|e| lost(&e))?;
        let link = connecting.await.map_err(|e| lost(&e))?;
        let proven = Proven::of(&chain(&link), false);
        let (send, mut recv) = link.accept_bi().await.map_err(|e| lost(&e))?;
        let mut read = BytesMut::with_capacity(MAX_OPENING_LINE);
        let group = loop {
            match classify(&read) {
                Verdict::Rcp { group, line_len } => {
                    read.advance(line_len);
                    break group;
                }
                Verdict::NeedMore if read.len() <= MAX_OPENING_LINE => {}
                _ => {
                    let why = "a QUIC stream that does not begin with an opening line".to_owned();
                    return Err(tls(TlsError::Other(why)));
                }
            }
            let n = recv.read_buf(&mut read).await;
            if n.map_err(|e| NetError::io(&peer, "reading", e))? == 0 {
                return Err(tls(TlsError::Other(PortRefusal::Closed.to_string())));
            }
        };
        let recv = Prefixed::new(read.freeze(), recv);
        Ok((Connection { send, recv, link: Link { link, _endpoint: None } }, proven, group))
    }
}

/// A connection with its control stream, past the opening line.
#[derive(Debug)]
pub struct Connection {
    /// Frames to the peer.
    pub send: SendStream,
    /// Frames from the peer.
    pub recv: Prefixed<RecvStream>,
    /// The connection, for lanes and for the end.
    pub link: Link,
}

/// A stream that takes what it is given without copying it: it keeps the pieces until the peer has
/// acknowledged them.
#[derive(Debug)]
pub struct Whole(pub SendStream);

impl Pieces for Whole {
    async fn write_pieces(&mut self, pieces: &VecDeque<Bytes>) -> io::Result<usize> {
        let mut taken = [const { Bytes::new() }; PIECES];
        let mut used = 0;
        for (slot, piece) in taken.iter_mut().zip(pieces) {
            *slot = piece.clone();
            used += 1;
        }
        Ok(self.0.write_chunks(&mut taken[..used]).await?.bytes)
    }

    async fn flush_pieces(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A connection without its control stream.
#[derive(Debug)]
pub struct Link {
    link: quinn::Connection,
    /// A dialler's own socket.
    _endpoint: Option<quinn::Endpoint>,
}

impl Link {
    /// Opens a lane.
    ///
    /// # Errors
    /// When the connection is lost.
    pub async fn open_lane(&self) -> io::Result<SendStream> {
        Ok(self.link.open_uni().await?)
    }

    /// The next lane that the peer opens.
    ///
    /// # Errors
    /// When the connection is lost.
    pub async fn next_lane(&self) -> io::Result<RecvStream> {
        Ok(self.link.accept_uni().await?)
    }

    /// Where the peer is now.
    #[must_use]
    pub fn remote(&self) -> SocketAddr {
        self.link.remote_address()
    }

    /// Waits until the peer has everything that was written to these streams, which are finished,
    /// and closes; not for long.
    pub async fn close(&self, streams: Vec<SendStream>) {
        let all = async {
            for mut s in streams {
                let _ = s.finish();
                let _ = s.stopped().await;
            }
        };
        let _ = tokio::time::timeout(LAST_WORDS, all).await;
        self.link.close(VarInt::from_u32(0), b"");
    }
}

/// Connects to `addr`, where `peer` must be, and says which group the session is for.
pub(super) async fn dial(
    addr: &str,
    peer: &NodeName,
    group: &GroupName,
    pki: &Pki,
    congestion: Option<Congestion>,
) -> Result<(Connection, Proven), NetError> {
    let tls = |source| NetError::Tls { peer: addr.to_owned(), source };
    server_name(peer).map_err(|e| tls(e.into()))?;
    let found = tokio::net::lookup_host(addr).await;
    let found = found.map_err(|e| NetError::io(addr, "looking up", e))?;
    let made = addresses::first(found, |remote| shake_hands(addr, remote, peer, pki, congestion));
    let nowhere = || Err(NetError::io(addr, "looking up", io::ErrorKind::NotFound.into()));
    let link = made.await.unwrap_or_else(nowhere)?;
    let proven = Proven::of_dialled(&chain(&link.link), peer);
    let opened = link.link.open_bi().await;
    let (mut send, recv) = opened.map_err(|e| tls(of_connection(&e, None)))?;
    let failed = |e| NetError::io(addr, "writing the opening line", e);
    send.write_all(&opening_line(group)).await.map_err(|e| failed(e.into()))?;
    send.flush().await.map_err(failed)?;
    let recv = Prefixed::new(Bytes::new(), recv);
    Ok((Connection { send, recv, link }, proven))
}

async fn shake_hands(
    addr: &str,
    remote: SocketAddr,
    peer: &NodeName,
    pki: &Pki,
    congestion: Option<Congestion>,
) -> Result<Link, NetError> {
    let tls = |source| NetError::Tls { peer: addr.to_owned(), source };
    let (config, reason) = pki.quic_client(peer).map_err(tls)?;
    let crypto =
        QuicClientConfig::try_from(config).map_err(|e| tls(TlsError::Other(e.to_string())))?;
    let mut config = quinn::ClientConfig::new(Arc::new(crypto));
    config.transport_config(transport(congestion));
    let any: SocketAddr = match remote {
        SocketAddr::V4(_) => (std::net::Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (std::net::Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let endpoint = endpoint(quinn::EndpointConfig::default(), any, None)
        .map_err(|e| NetError::io(addr, "opening a UDP socket", e))?;
    let connecting = endpoint
        .connect_with(config, remote, peer.as_str())
        .map_err(|e| tls(TlsError::Other(e.to_string())))?;
    let link = connecting.await.map_err(|e| tls(of_connection(&e, reason.get())))?;
    Ok(Link { link, _endpoint: Some(endpoint) })
}

fn chain(link: &quinn::Connection) -> Vec<CertificateDer<'static>> {
    link.peer_identity()
        .and_then(|any| any.downcast::<Vec<CertificateDer<'static>>>().ok())
        .map(|c| *c)
        .unwrap_or_default()
}

/// What a lost connection says, in the words that TLS has for it.
fn of_connection(e: &ConnectionError, here: Option<&Untrusted>) -> TlsError {
    if let Some(u) = here {
        return TlsError::Untrusted(u.clone());
    }
    let code = match e {
        ConnectionError::ConnectionClosed(c) => Some(u64::from(c.error_code)),
        ConnectionError::TransportError(t) => Some(u64::from(t.code)),
        _ => None,
    };
    // RFC 9001, section 4.8: an alert is 0x100 and its number.
    let alert = code.and_then(|c| c.checked_sub(0x100)).and_then(|c| u8::try_from(c).ok());
    match (alert.map(AlertDescription::from), e) {
        (Some(AlertDescription::CertificateRequired), ConnectionError::TransportError(_)) => {
            TlsError::no_certificate()
        }
        (Some(alert), ConnectionError::ConnectionClosed(_)) => TlsError::told(alert),
        _ => TlsError::Other(e.to_string()),
    }
}

/// Why the connection of a QUIC stream was lost, if that is what the error says.
fn lost(e: &io::Error) -> Option<&ConnectionError> {
    let inner = e.get_ref()?;
    if let Some(quinn::ReadError::ConnectionLost(e)) = inner.downcast_ref() {
        return Some(e);
    }
    if let Some(quinn::WriteError::ConnectionLost(e)) = inner.downcast_ref() {
        return Some(e);
    }
    inner.downcast_ref()
}

/// What an I/O error of a QUIC stream says, if the connection was lost in words of TLS.
pub(super) fn explain(e: &io::Error) -> Option<TlsError> {
    match of_connection(lost(e)?, None) {
        TlsError::Other(_) => None,
        said => Some(said),
    }
}

/// The same with the reason in words, if the connection was lost: the stream's own words leave it
/// out.
pub(super) fn with_reason(e: io::Error) -> io::Error {
    use io::ErrorKind::{ConnectionReset, TimedOut};
    let Some(lost) = lost(&e) else { return e };
    match lost {
        ConnectionError::Reset => io::Error::new(
            ConnectionReset,
            "the peer was started again and knows nothing of this connection",
        ),
        ConnectionError::TimedOut => {
            io::Error::new(TimedOut, format!("nothing came for {} s", IDLE.as_secs()))
        }
        other => io::Error::new(e.kind(), format!("the connection was lost: {other}")),
    }
}
