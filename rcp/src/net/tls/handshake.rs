//! TLS on a stream of bytes: as the one who was dialled, and as the one who dials.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio_rustls::{LazyConfigAcceptor, TlsConnector, client, server};

use super::untrusted::{Untrusted, explain, inner, told};
use super::verify::Reason;
use super::{
    ALPN_H2, ALPN_HTTP1, ALPN_RCP, Pki, PkiError, Proven, Trusted, proxy_client, server_name,
};
use crate::proto::ids::NodeName;

/// After a refusal the peer gets this long to read why.
const LINGER: Duration = Duration::from_millis(500);
/// And may still send this much.
const LINGER_BYTES: usize = 64 << 10;

/// Why there is no TLS connection.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The peer's certificate is not accepted here.
    #[error("{0}")]
    Untrusted(Untrusted),
    /// The peer does not accept this node.
    #[error("{0}")]
    Told(&'static str),
    /// The peer speaks no TLS 1.3.
    #[error("the peer speaks an older TLS than 1.3, which is refused")]
    OldVersion,
    /// The peer closed the connection in the handshake.
    #[error("the peer closed the connection instead of speaking TLS: is `pki` set there?")]
    Closed,
    /// The certificates here.
    #[error("{0}")]
    Pki(#[from] PkiError),
    /// Something else.
    #[error("TLS: {0}")]
    Other(String),
}

impl TlsError {
    /// A short name for a metric: bounded in number.
    #[must_use]
    pub fn label(&self) -> &'static str {
        match self {
            Self::Untrusted(u) => u.why.label(),
            Self::Told(_) => "told",
            Self::OldVersion => "old-tls",
            Self::Closed => "closed",
            Self::Pki(_) => "pki",
            Self::Other(_) => "tls",
        }
    }

    pub(in super::super) fn no_certificate() -> Self {
        Self::Untrusted(Untrusted { subject: String::new(), why: super::Distrust::Missing })
    }

    pub(in super::super) fn told(alert: rustls::AlertDescription) -> Self {
        told(alert).map_or_else(|| Self::Other(format!("the peer says {alert:?}")), Self::Told)
    }

    /// It is about trust, not about the way: trying again at once will not help.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        matches!(self, Self::Untrusted(_) | Self::Told(_) | Self::OldVersion | Self::Pki(_))
    }

    pub(super) fn new(e: &io::Error, reason: Option<&Reason>) -> Self {
        if let Some(u) = reason.and_then(|s| s.get()) {
            return Self::Untrusted(u.clone());
        }
        if let Some(told) = explain(e) {
            return Self::Told(told);
        }
        match inner(e) {
            Some(rustls::Error::PeerIncompatible(why)) => match why {
                rustls::PeerIncompatible::Tls12NotOffered
                | rustls::PeerIncompatible::Tls12NotOfferedOrEnabled
                | rustls::PeerIncompatible::SupportedVersionsExtensionRequired
                | rustls::PeerIncompatible::ServerDoesNotSupportTls12Or13
                | rustls::PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig => {
                    Self::OldVersion
                }
                other => Self::Other(format!("the peer is not compatible: {other:?}")),
            },
            Some(rustls::Error::NoCertificatesPresented) => Self::no_certificate(),
            Some(other) => Self::Other(other.to_string()),
            None if e.kind() == io::ErrorKind::UnexpectedEof => Self::Closed,
            None => Self::Other(e.to_string()),
        }
    }
}

/// A TLS connection that came in, with whom it is from.
pub type Served<S> = (server::TlsStream<S>, Proven);

/// Takes a TLS connection whose first byte was seen. Whoever asks for [`ALPN_RCP`] must have a
/// certificate; others may.
///
/// # Errors
/// [`TlsError`]; the peer was told by an alert.
pub async fn accept<S>(pki: &Pki, io: S) -> Result<Served<S>, TlsError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    accept_for(pki, io, &[ALPN_RCP, ALPN_H2, ALPN_HTTP1]).await
}

/// Takes a TLS connection of a protocol that both sides have agreed on already, as NBD's `STARTTLS`
/// does. A certificate is asked for and judged, not demanded: what the peer may do without one is
/// the caller's to say, in the words of that protocol.
///
/// # Errors
/// [`TlsError`]; the peer was told by an alert.
pub async fn accept_other<S>(pki: &Pki, io: S) -> Result<Served<S>, TlsError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    accept_for(pki, io, &[]).await
}

async fn accept_for<S>(pki: &Pki, io: S, alpn: &[&[u8]]) -> Result<Served<S>, TlsError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut first = LazyConfigAcceptor::new(rustls::server::Acceptor::default(), io);
    let start = match (&mut first).await {
        Ok(start) => start,
        Err(e) => {
            if let Some(io) = first.take_io() {
                linger(io).await;
            }
            return Err(TlsError::new(&e, None));
        }
    };
    let asked = start.client_hello().alpn().is_some_and(|mut a| a.any(|a| a == ALPN_RCP));
    let rcp = asked && alpn.contains(&ALPN_RCP);
    let (config, reason) = pki.server(alpn, rcp).map_err(|e| TlsError::Other(e.to_string()))?;
    match start.into_stream(Arc::new(config)).into_fallible().await {
        Ok(io) => {
            let chain = io.get_ref().1.peer_certificates().unwrap_or_default();
            let proven = Proven::of(chain, false);
            Ok((io, proven))
        }
        Err((e, io)) => {
            linger(io).await;
            Err(TlsError::new(&e, Some(&reason)))
        }
    }
}

/// Closes so that the alert arrives: what the peer still sends would otherwise make the system
/// throw it away.
async fn linger<S: AsyncRead + AsyncWrite + Unpin>(mut io: S) {
    let drain = async {
        let _ = io.shutdown().await;
        let (mut buf, mut left) = ([0; 4096], LINGER_BYTES);
        while let Ok(n @ 1..) = io.read(&mut buf).await {
            left = left.saturating_sub(n);
            if left == 0 {
                break;
            }
        }
    };
    let _ = tokio::time::timeout(LINGER, drain).await;
}

/// A TLS connection to a node, with what it has proven.
pub type Connected<S> = (client::TlsStream<S>, Proven);

/// Speaks TLS to `peer`, and to nobody else, over `io`.
///
/// # Errors
/// [`TlsError`]
pub async fn connect<S>(pki: &Pki, peer: &NodeName, io: S) -> Result<Connected<S>, TlsError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let name = server_name(peer)?;
    let (config, reason) = pki.client(peer).map_err(|e| TlsError::Other(e.to_string()))?;
    let io = TlsConnector::from(Arc::new(config))
        .connect(name, io)
        .await
        .map_err(|e| TlsError::new(&e, Some(&reason)))?;
    let chain = io.get_ref().1.peer_certificates().unwrap_or_default();
    let proven = Proven::of_dialled(chain, peer);
    if io.get_ref().1.alpn_protocol() != Some(ALPN_RCP) {
        return Err(TlsError::Told("the peer does not speak RCP over TLS"));
    }
    Ok((io, proven))
}

/// Speaks TLS to `peer`, and to nobody else, without saying who asks. HTTP/1.1 follows.
///
/// # Errors
/// [`TlsError`]
pub async fn connect_as_guest<S>(
    trusted: &Trusted,
    peer: &NodeName,
    io: S,
) -> Result<client::TlsStream<S>, TlsError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let name = server_name(peer)?;
    let config = trusted.client()?;
    let io = TlsConnector::from(Arc::new(config)).connect(name, io).await;
    io.map_err(|e| match inner(&e) {
        Some(bad @ rustls::Error::InvalidCertificate(_)) => TlsError::Untrusted(Untrusted {
            subject: peer.to_string(),
            why: super::Distrust::of(bad, Some(peer.as_str())),
        }),
        _ => TlsError::new(&e, None),
    })
}

/// Speaks TLS to an HTTP proxy that goes by `host`.
///
/// # Errors
/// [`TlsError`]
pub async fn connect_to_proxy<S>(
    pki: Option<&Pki>,
    ca: Option<&Path>,
    host: &str,
    io: S,
) -> Result<client::TlsStream<S>, TlsError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let config = proxy_client(pki, ca)?;
    let name = ServerName::try_from(host.to_owned())
        .map_err(|_| TlsError::Other(format!("`{host}` cannot stand in a certificate")))?;
    TlsConnector::from(Arc::new(config))
        .connect(name, io)
        .await
        .map_err(|e| TlsError::Other(format!("the proxy {host}: {}", TlsError::new(&e, None))))
}
