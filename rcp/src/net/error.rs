//! Errors of a connection; each names the peer.

use std::io;
use std::time::Duration;

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
    pub(super) fn io(peer: &str, what: &'static str, source: io::Error) -> Self {
        Self::Io { peer: peer.to_owned(), what, source }
    }

    pub(super) fn frame(peer: &str, source: FrameError) -> Self {
        Self::Frame { peer: peer.to_owned(), source }
    }
}
