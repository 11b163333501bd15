//! One HTTP/1.1 connection, on whatever carries bytes: the shared port's TCP (with the bytes that
//! were looked at put back in front), TLS, or the Unix socket.

use std::pin::pin;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::limits::{Deadlines, MAX_HEADER_BYTES, MAX_HEADERS};
use super::stall::StallGuard;
use crate::metrics;

/// How a connection ended.
#[derive(Debug)]
pub enum End {
    /// The client closed it, or the last answer said `Connection: close`.
    Closed,
    /// The service stops; the answer under way was finished.
    Stopped,
    /// The service stops; the answer under way was not finished in time.
    CutOff,
    /// A request that is no HTTP, a deadline, or a broken connection.
    Failed(hyper::Error),
}

impl End {
    /// The word for it, for a label.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Stopped => "stopped",
            Self::CutOff => "cut_off",
            Self::Failed(_) => "failed",
        }
    }
}

/// Serves one connection until it ends, or until `stop` is cancelled and the answer under way is
/// out. How many connections there may be at a time is up to whoever accepts them.
pub async fn serve_connection<I>(
    io: I,
    router: Router,
    deadlines: Deadlines,
    stop: CancellationToken,
) -> End
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    metrics::http_opened();
    let io = TokioIo::new(StallGuard::new(io, deadlines.write_stall));
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(deadlines.header_read)
        .max_header_size(MAX_HEADER_BYTES)
        .max_headers(MAX_HEADERS)
        .max_buf_size(MAX_HEADER_BYTES);
    let mut connection = pin!(builder.serve_connection(io, TowerToHyperService::new(router)));
    let end = tokio::select! {
        result = connection.as_mut() => result.map_or_else(End::Failed, |()| End::Closed),
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            match timeout(deadlines.drain, connection).await {
                Ok(result) => result.map_or_else(End::Failed, |()| End::Stopped),
                Err(_) => End::CutOff,
            }
        }
    };
    metrics::http_closed(end.as_str());
    if let End::Failed(error) = &end {
        tracing::debug!(%error, "HTTP connection failed");
    }
    end
}
