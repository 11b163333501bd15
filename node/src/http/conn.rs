//! One HTTP connection, on whatever carries bytes: the shared port's TCP (with the bytes that were
//! looked at put back in front), TLS, or the Unix socket. HTTP/2 only where the client begins with
//! its preface.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::middleware::{Next, from_fn};
use http_body_util::BodyExt;
use hyper::server::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::limits::{Deadlines, H2_ALIVE, MAX_H2_STREAMS, MAX_HEADER_BYTES, MAX_HEADERS};
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
    /// The client took nothing of an answer for too long.
    Stalled,
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
            Self::Stalled => "stalled",
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
    // With upgrades: a session may go on where HTTP ends.
    let connection = builder.serve_connection(io, TowerToHyperService::new(router)).with_upgrades();
    let mut connection = pin!(connection);
    let end = tokio::select! {
        result = connection.as_mut() => result.map_or_else(End::Failed, |()| End::Closed),
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            drained(deadlines.drain, connection).await
        }
    };
    ended(end)
}

/// Serves one HTTP/2 connection as [`serve_connection`] does HTTP/1.1. One on which no request was
/// under way for as long as headers may take is closed.
pub async fn serve_http2<I>(
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
    let at_work = Arc::new(AtWork::default());
    let counted = at_work.clone();
    let router = router.layer(from_fn(move |request: Request, next: Next| {
        let mut guard = counted.enter();
        async move {
            let response = next.run(request).await;
            guard.answering();
            // Until the body was sent, or given up.
            response.map(|body| {
                Body::new(body.map_frame(move |frame| {
                    guard.answering();
                    frame
                }))
            })
        }
    }));
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_H2_STREAMS)
        .max_header_list_size(u32::try_from(MAX_HEADER_BYTES).unwrap_or(u32::MAX))
        .keep_alive_interval(H2_ALIVE)
        .keep_alive_timeout(H2_ALIVE);
    let mut connection = pin!(builder.serve_connection(io, TowerToHyperService::new(router)));
    let end = tokio::select! {
        result = connection.as_mut() => result.map_or_else(End::Failed, |()| End::Closed),
        () = at_work.idle_for(deadlines.header_read) => {
            connection.as_mut().graceful_shutdown();
            // It may be that the client never finished its own greeting.
            drained(deadlines.header_read, connection).await
        }
        // HTTP/2 has windows of its own: nothing is written, and no write is pending.
        () = at_work.stalled_for(deadlines.write_stall) => End::Stalled,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            drained(deadlines.drain, connection).await
        }
    };
    ended(end)
}

async fn drained(within: Duration, connection: impl Future<Output = hyper::Result<()>>) -> End {
    match timeout(within, connection).await {
        Ok(result) => result.map_or_else(End::Failed, |()| End::Stopped),
        Err(_) => End::CutOff,
    }
}

fn ended(end: End) -> End {
    metrics::http_closed(end.as_str());
    if let End::Failed(error) = &end {
        tracing::debug!(%error, "HTTP connection failed");
    }
    end
}

/// Requests under way on one connection, and how many there were.
#[derive(Debug, Default)]
struct AtWork {
    now: AtomicU64,
    ever: AtomicU64,
    /// Answers under way, and how many pieces of each were asked for.
    answers: Mutex<BTreeMap<u64, u64>>,
}

/// One request under way.
struct Working {
    of: Arc<AtWork>,
    id: u64,
}

impl Working {
    /// A piece of the answer was asked for: what came before it was taken.
    fn answering(&mut self) {
        *self.of.answers.lock().entry(self.id).or_default() += 1;
    }
}

impl Drop for Working {
    fn drop(&mut self) {
        self.of.answers.lock().remove(&self.id);
        self.of.now.fetch_sub(1, Ordering::AcqRel);
        // Idleness begins here.
        self.of.ever.fetch_add(1, Ordering::AcqRel);
    }
}

impl AtWork {
    fn enter(self: &Arc<Self>) -> Working {
        self.now.fetch_add(1, Ordering::AcqRel);
        let id = self.ever.fetch_add(1, Ordering::AcqRel);
        Working { of: self.clone(), id }
    }

    /// Ends once nothing was under way for at least this long, and less than twice as long.
    async fn idle_for(&self, limit: Duration) {
        let mut before = None;
        loop {
            let ever = self.ever.load(Ordering::Acquire);
            if before == Some(ever) && self.now.load(Ordering::Acquire) == 0 {
                return;
            }
            before = Some(ever);
            tokio::time::sleep(limit).await;
        }
    }

    /// Ends once an answer did not get on for at least this long, and less than twice as long.
    async fn stalled_for(&self, limit: Duration) {
        let mut before = BTreeMap::new();
        loop {
            let now = self.answers.lock().clone();
            if now.iter().any(|(id, pieces)| before.get(id) == Some(pieces)) {
                return;
            }
            before = now;
            tokio::time::sleep(limit).await;
        }
    }
}
