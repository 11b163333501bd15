//! The shared port: RCP, HTTP and TLS behind one number (PORT-01..06).
//!
//! [`classify`] decides; this reads for it, within a deadline and a limit, and gives back the
//! stream with the bytes that it read. It counts nothing: every outcome has a
//! [`label`](Accepted::label) for whoever does.

use std::io;
use std::time::Duration;

use bytes::{Buf, BufMut, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::net::TcpStream;

use super::{Prefixed, set_up};
use crate::proto::classify::{Refusal, Verdict, classify};
use crate::proto::ids::GroupName;
use crate::proto::limits::{CLASSIFY_DEADLINE, MAX_FIRST_BYTES};

/// What a connection turned out to be.
#[derive(Debug)]
pub enum Accepted<S> {
    /// A session for a group; the opening line is consumed.
    Rcp {
        /// The group that the opening line names.
        group: GroupName,
        /// The stream after the opening line.
        io: Prefixed<S>,
    },
    /// HTTP/1.x, from its first byte.
    Http {
        /// The whole stream.
        io: Prefixed<S>,
    },
    /// HTTP/2 with prior knowledge, from its first byte.
    Http2 {
        /// The whole stream.
        io: Prefixed<S>,
    },
    /// TLS, from its first byte.
    Tls {
        /// The whole stream.
        io: Prefixed<S>,
    },
    /// Nothing that is served here; the stream is closed.
    Refused {
        /// Why.
        why: PortRefusal,
    },
}

/// Why a connection was closed without being served.
#[derive(Debug, thiserror::Error)]
pub enum PortRefusal {
    /// Its first bytes are none that are known.
    #[error("its first bytes are neither RCP, HTTP nor TLS ({})", .0.as_str())]
    Bytes(Refusal),
    /// It said too little for too long.
    #[error("it did not say within {0:?} what it is")]
    Timeout(Duration),
    /// It was closed before it said what it is.
    #[error("it was closed before it said what it is")]
    Closed,
    /// Reading failed.
    #[error("reading failed: {0}")]
    Io(io::Error),
}

impl<S> Accepted<S> {
    /// A short name for a metric: bounded in number.
    #[must_use]
    pub fn label(&self) -> &'static str {
        match self {
            Self::Rcp { .. } => "rcp",
            Self::Http { .. } => "http",
            Self::Http2 { .. } => "http2",
            Self::Tls { .. } => "tls",
            Self::Refused { why: PortRefusal::Bytes(r) } => r.as_str(),
            Self::Refused { why: PortRefusal::Timeout(_) } => "timeout",
            Self::Refused { why: PortRefusal::Closed } => "closed",
            Self::Refused { why: PortRefusal::Io(_) } => "io",
        }
    }
}

/// Finds out what a fresh connection is, within the usual deadline.
pub async fn accept<S: AsyncRead + Unpin>(io: S) -> Accepted<S> {
    accept_within(io, CLASSIFY_DEADLINE).await
}

/// [`accept`] for a TCP connection, which is also set up for frames.
pub async fn accept_tcp(io: TcpStream) -> Accepted<TcpStream> {
    match set_up(&io) {
        Ok(()) => accept(io).await,
        Err(e) => Accepted::Refused { why: PortRefusal::Io(e) },
    }
}

/// [`accept`] with another deadline.
pub async fn accept_within<S: AsyncRead + Unpin>(mut io: S, deadline: Duration) -> Accepted<S> {
    let mut read = BytesMut::with_capacity(1024);
    let verdict = match tokio::time::timeout(deadline, first_bytes(&mut io, &mut read)).await {
        Ok(v) => v,
        Err(_) => Err(PortRefusal::Timeout(deadline)),
    };
    match verdict {
        Ok(Verdict::Rcp { group, line_len }) => {
            read.advance(line_len);
            Accepted::Rcp { group, io: Prefixed::new(read.freeze(), io) }
        }
        Ok(Verdict::Http) => Accepted::Http { io: Prefixed::new(read.freeze(), io) },
        Ok(Verdict::Http2) => Accepted::Http2 { io: Prefixed::new(read.freeze(), io) },
        Ok(Verdict::Tls) => Accepted::Tls { io: Prefixed::new(read.freeze(), io) },
        Ok(Verdict::Refused(r)) => Accepted::Refused { why: PortRefusal::Bytes(r) },
        Ok(Verdict::NeedMore) => Accepted::Refused { why: PortRefusal::Closed },
        Err(why) => Accepted::Refused { why },
    }
}

/// Reads until there is a verdict; `NeedMore` if the stream ends before.
async fn first_bytes<S: AsyncRead + Unpin>(
    io: &mut S,
    read: &mut BytesMut,
) -> Result<Verdict, PortRefusal> {
    loop {
        let room = MAX_FIRST_BYTES.saturating_sub(read.len());
        let n = io.read_buf(&mut read.limit(room)).await.map_err(PortRefusal::Io)?;
        let verdict = classify(read);
        if n == 0 || verdict != Verdict::NeedMore {
            return Ok(verdict);
        }
    }
}
