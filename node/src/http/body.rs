//! A response body that reads one state of a volume, piece by piece, off the async threads.
//!
//! At most one piece is being read and one is on offer; the next read begins when a piece is
//! handed out. A read that fails ends the connection: the client sees a body that is too short,
//! never wrong bytes.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::JoinHandle;

use super::limits::PIECE;
use crate::api::{ApiError, ApiErrorKind, StateReader};

/// Bytes `first..end` of a state.
pub(crate) struct StateBody {
    reader: Arc<dyn StateReader>,
    /// Not yet handed out from here on.
    sent: u64,
    /// Not yet asked for from here on.
    asked: u64,
    end: u64,
    piece: Option<JoinHandle<Result<Bytes, ApiError>>>,
    /// The first piece, read before the answer's status was decided.
    ready: Option<Bytes>,
    _permit: OwnedSemaphorePermit,
}

impl StateBody {
    /// Reads the first piece, so that a state that cannot be read is refused with a status.
    ///
    /// # Errors
    /// What the reader says.
    pub(crate) async fn open(
        reader: Arc<dyn StateReader>,
        first: u64,
        end: u64,
        permit: OwnedSemaphorePermit,
    ) -> Result<Self, ApiError> {
        let mut body = Self {
            reader,
            sent: first,
            asked: first,
            end,
            piece: None,
            ready: None,
            _permit: permit,
        };
        body.ask();
        if let Some(piece) = body.piece.take() {
            body.ready = Some(joined(piece.await)?);
            body.ask();
        }
        Ok(body)
    }

    /// Begins to read the next piece; pieces end at multiples of [`PIECE`].
    fn ask(&mut self) {
        if self.asked >= self.end {
            return;
        }
        let from = self.asked;
        let to = (from / PIECE).saturating_add(1).saturating_mul(PIECE).min(self.end);
        self.asked = to;
        let reader = Arc::clone(&self.reader);
        self.piece = Some(tokio::task::spawn_blocking(move || {
            let len = usize::try_from(to - from).unwrap_or(0);
            let mut piece = vec![0; len];
            reader.read_at(from, &mut piece)?;
            Ok(Bytes::from(piece))
        }));
    }
}

fn joined(
    result: Result<Result<Bytes, ApiError>, tokio::task::JoinError>,
) -> Result<Bytes, ApiError> {
    result.unwrap_or_else(|e| {
        Err(ApiError::new(ApiErrorKind::Internal, format!("reading the volume ended early: {e}")))
    })
}

impl Body for StateBody {
    type Data = Bytes;
    type Error = ApiError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ApiError>>> {
        if let Some(piece) = self.ready.take() {
            self.sent += piece.len() as u64;
            return Poll::Ready(Some(Ok(Frame::data(piece))));
        }
        let Some(piece) = self.piece.as_mut() else { return Poll::Ready(None) };
        let result = joined(ready!(Pin::new(piece).poll(cx)));
        self.piece = None;
        match result {
            Ok(piece) => {
                self.ask();
                self.sent += piece.len() as u64;
                Poll::Ready(Some(Ok(Frame::data(piece))))
            }
            Err(error) => {
                tracing::warn!(%error, at = self.sent, "a volume read was cut short");
                self.asked = self.end;
                Poll::Ready(Some(Err(error)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.sent >= self.end
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.end.saturating_sub(self.sent))
    }
}
