//! Errors of a connection; each names the peer.

use std::io;
use std::time::Duration;

use super::tls::{TlsError, explain};
use crate::proto::frame::FrameError;

/// What went wrong with a connection.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    /// The operating system says so.
    #[error("{peer}: {what}: {source}")]
    Io {
        /// Name or address of the peer.
        peer: String,
        /// What was tried.
        what: &'static str,
        /// The cause.
        source: io::Error,
    },
    /// The peer sent what is not a sound frame, or this node tried to.
    #[error("{peer}: {source}")]
    Frame {
        /// Name or address of the peer.
        peer: String,
        /// The cause.
        source: FrameError,
    },
    /// The connection ended inside a frame.
    #[error("{peer}: the connection ended inside a frame")]
    Truncated {
        /// Name or address of the peer.
        peer: String,
    },
    /// TLS or QUIC came to nothing.
    #[error("{source}")]
    Tls {
        /// Name or address of the peer.
        peer: String,
        /// The cause; it names the certificate where it is about one.
        source: TlsError,
    },
    /// A proxy on the way said no, or what it should not.
    #[error("{proxy}: {why}")]
    Proxy {
        /// Its URL.
        proxy: String,
        /// What it said.
        why: String,
    },
    /// It took too long.
    #[error("{peer}: {what} took longer than {limit:?}")]
    Timeout {
        /// Name or address of the peer.
        peer: String,
        /// What was tried.
        what: &'static str,
        /// How long it was given.
        limit: Duration,
    },
}

impl NetError {
    /// It is about trust, not about the way: the peer is there and one of the two says no.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        matches!(self, Self::Tls { source, .. } if source.is_refusal())
    }

    /// The peer sent what is not a sound frame: it can be told so.
    #[must_use]
    pub fn is_nonsense(&self) -> bool {
        matches!(self, Self::Frame { .. })
    }

    pub(super) fn io(peer: &str, what: &'static str, source: io::Error) -> Self {
        // An alert comes as an error of reading; it is what the peer has to say.
        let said = explain(&source).map(TlsError::Told).or_else(|| super::quic::explain(&source));
        let source = match source.kind() {
            // What rustls says of it is about programming.
            io::ErrorKind::UnexpectedEof => io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the peer closed the connection, or died, without a word",
            ),
            _ => super::quic::with_reason(source),
        };
        match said {
            Some(said) => Self::Tls { peer: peer.to_owned(), source: said },
            None => Self::Io { peer: peer.to_owned(), what, source },
        }
    }

    pub(super) fn frame(peer: &str, source: FrameError) -> Self {
        Self::Frame { peer: peer.to_owned(), source }
    }
}
