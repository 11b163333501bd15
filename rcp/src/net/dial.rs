//! Opening a connection to another node, over whatever the hop is to be crossed by.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

use super::tls::{self, Pki, Proven, TlsError};
use super::{NetError, connect_tcp, quic, via};
use crate::proto::classify::opening_line;
use crate::proto::ids::{GroupName, NodeName};
use crate::proto::limits::DIAL_DEADLINE;
use crate::proto::transport::{Congestion, Hop, Transport};

/// Bytes in both directions, whatever carries them.
pub trait ByteStream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> ByteStream for S {}

/// Where to connect to, and how.
#[derive(Clone, Debug)]
pub struct Dial<'a> {
    /// `host:port` of the node.
    pub addr: &'a str,
    /// Which node must be there.
    pub node: &'a NodeName,
    /// Which group the session is for.
    pub group: &'a GroupName,
    /// How the hop is crossed; plain TCP where it says nothing.
    pub hop: &'a Hop,
    /// The certificates of this node.
    pub pki: Option<&'a Arc<Pki>>,
}

/// A connection that is open, past the opening line.
pub enum Dialled {
    /// Plain TCP.
    Tcp(TcpStream),
    /// TLS, and whatever goes through a proxy.
    Stream(Box<dyn ByteStream>),
    /// QUIC.
    Quic(Box<quic::Connection>),
}

/// Connects to `addr` (`host:port`) over plain TCP and says which group the session is for; frames
/// follow.
///
/// # Errors
/// [`NetError::Io`] or [`NetError::Timeout`], naming `addr`.
pub async fn dial(addr: &str, group: &GroupName) -> Result<TcpStream, NetError> {
    within(addr, DIAL_DEADLINE, async {
        let mut io = connect(addr, None).await?;
        open(addr, &mut io, group).await?;
        Ok(io)
    })
    .await
}

/// Connects as [`Dial`] says, within the usual deadline. With TLS and QUIC, what the other side has
/// proven comes with it: it is `node`, or there is no connection.
///
/// # Errors
/// [`NetError`]
pub async fn dial_by(d: Dial<'_>) -> Result<(Dialled, Option<Proven>), NetError> {
    within(d.addr, DIAL_DEADLINE, dial_any(&d)).await
}

async fn dial_any(d: &Dial<'_>) -> Result<(Dialled, Option<Proven>), NetError> {
    let (addr, hop) = (d.addr, d.hop);
    let failed = |source| NetError::Tls { peer: addr.to_owned(), source };
    let transport = hop.transport.unwrap_or_default();
    let pki = || {
        d.pki.ok_or_else(|| {
            let why = format!("{transport} needs certificates: set `pki` in the topology");
            failed(TlsError::Other(why))
        })
    };
    if transport == Transport::Quic {
        if hop.via.is_some() {
            let why = "QUIC does not go through an HTTP proxy: use tls".to_owned();
            return Err(failed(TlsError::Other(why)));
        }
        let (c, proven) = quic::dial(addr, d.node, d.group, pki()?, hop.congestion).await?;
        return Ok((Dialled::Quic(Box::new(c)), Some(proven)));
    }
    if let Some(proxy) = &hop.via {
        let proxied = connect(&proxy.address(), hop.congestion).await?;
        let ca = hop.ca.as_ref().map(Path::new);
        let io: Box<dyn ByteStream> = if proxy.https {
            let pki = d.pki.map(|p| &**p);
            let io = tls::connect_to_proxy(pki, ca, proxy.host_name(), proxied).await;
            Box::new(via::upgrade(io.map_err(failed)?, proxy, d.group).await?)
        } else {
            Box::new(via::upgrade(proxied, proxy, d.group).await?)
        };
        return secured(d, transport, io).await;
    }
    let mut io = connect(addr, hop.congestion).await?;
    if transport == Transport::Tcp {
        open(addr, &mut io, d.group).await?;
        return Ok((Dialled::Tcp(io), None));
    }
    let (mut io, proven) = tls::connect(pki()?, d.node, io).await.map_err(failed)?;
    open(addr, &mut io, d.group).await?;
    Ok((Dialled::Stream(Box::new(io)), Some(proven)))
}

/// The session inside a proxy's connection: a proxy that ends TLS proves nothing about who is
/// behind it, so with `tls` there is a TLS of our own from end to end.
async fn secured(
    d: &Dial<'_>,
    transport: Transport,
    mut io: Box<dyn ByteStream>,
) -> Result<(Dialled, Option<Proven>), NetError> {
    if transport == Transport::Tcp {
        open(d.addr, &mut io, d.group).await?;
        return Ok((Dialled::Stream(io), None));
    }
    let failed = |source| NetError::Tls { peer: d.addr.to_owned(), source };
    let why = || failed(TlsError::Other("tls needs certificates: set `pki`".to_owned()));
    let pki = d.pki.ok_or_else(why)?;
    let (mut io, proven) = tls::connect(pki, d.node, io).await.map_err(failed)?;
    open(d.addr, &mut io, d.group).await?;
    Ok((Dialled::Stream(Box::new(io)), Some(proven)))
}

/// A TCP connection to any address of `addr`; congestion control that the kernel does not have is left at its default.
async fn connect(addr: &str, congestion: Option<Congestion>) -> Result<TcpStream, NetError> {
    let io = connect_tcp(addr).await.map_err(|e| NetError::io(addr, "connecting", e))?;
    set_up(&io).map_err(|e| NetError::io(addr, "setting TCP_NODELAY", e))?;
    if let Some(c) = congestion {
        let _ = socket2::SockRef::from(&io).set_tcp_congestion(c.as_str().as_bytes());
    }
    Ok(io)
}

/// Bytes that the kernel takes before the network does.
const AHEAD: u32 = 512 << 10;

/// Has a TCP connection carry frames: small ones go at once, and what the network does not take stays
/// here. Otherwise megabytes wait in the kernel of a slow hop, every sign of life behind them, and
/// the hop looks as if it had taken them.
///
/// # Errors
/// The system's.
pub fn set_up(io: &TcpStream) -> std::io::Result<()> {
    // Not every kernel has it.
    let _ = socket2::SockRef::from(io).set_tcp_notsent_lowat(AHEAD);
    io.set_nodelay(true)
}

async fn open<S: AsyncWrite + Unpin>(
    addr: &str,
    io: &mut S,
    group: &GroupName,
) -> Result<(), NetError> {
    let line = opening_line(group);
    let failed = |e| NetError::io(addr, "writing the opening line", e);
    io.write_all(&line).await.map_err(failed)?;
    io.flush().await.map_err(failed)
}

async fn within<T>(
    addr: &str,
    limit: Duration,
    connect: impl Future<Output = Result<T, NetError>>,
) -> Result<T, NetError> {
    match tokio::time::timeout(limit, connect).await {
        Ok(done) => done,
        Err(_) => Err(NetError::Timeout { peer: addr.to_owned(), what: "connecting", limit }),
    }
}
