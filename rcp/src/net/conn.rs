//! Frames over a byte stream.
//!
//! Reading: control frames through a small buffer, chunks straight into a buffer of their own, made
//! only after the header was checked against the limits. Writing: small frames are gathered, chunks
//! are written from where they are, in vectored writes. Both may be dropped at any `await` and
//! called again: nothing is lost or sent twice.

use std::collections::VecDeque;
use std::io::{self, IoSlice};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::NetError;
use super::pool::Buffers;
use crate::proto::frame::{DecodedFrame, Frame, FrameError, FrameHeader};
use crate::proto::limits::FRAME_HEADER_LEN;

/// Read at once while it is not known what comes: this much of a chunk is copied, at most.
const READ: usize = 16 << 10;
/// Pieces of one vectored write.
pub(super) const PIECES: usize = 64;

/// Whether chunks and set headers are proved as they come in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verify {
    /// In the task that reads, so that the core is spared the checksums.
    Content,
    /// Not here.
    Nothing,
}

/// Reads frames.
#[derive(Debug)]
pub struct FramedReader<R> {
    io: R,
    peer: String,
    verify: Verify,
    small: BytesMut,
    /// A data frame of which part has come.
    large: Option<(FrameHeader, BytesMut)>,
    buffers: Buffers,
    received: u64,
    /// No frame has come yet on a stream that a session begins on.
    greets: bool,
}

impl<R: AsyncRead + Unpin> FramedReader<R> {
    /// Reads from `io`; `peer` is named in errors.
    pub fn new(io: R, peer: impl Into<String>, verify: Verify) -> Self {
        Self {
            io,
            peer: peer.into(),
            verify,
            small: BytesMut::with_capacity(READ),
            large: None,
            buffers: Buffers::default(),
            received: 0,
            greets: false,
        }
    }

    /// Takes the buffers of chunks from those of the connection, which its streams share.
    #[must_use]
    pub fn sharing(mut self, buffers: Buffers) -> Self {
        self.buffers = buffers;
        self
    }

    /// A session begins on this stream: nothing large is taken from the peer before it has said who
    /// it is.
    #[must_use]
    pub fn greeting(mut self) -> Self {
        self.greets = true;
        self
    }

    /// Names the peer, once its name is known.
    pub fn set_peer(&mut self, peer: impl Into<String>) {
        self.peer = peer.into();
    }

    /// Bytes that have come so far.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.received
    }

    /// Data frames that came into a buffer which was used before.
    #[must_use]
    pub fn reused_buffers(&self) -> u64 {
        self.buffers.reused()
    }

    /// The next frame; `None` if the connection ended between two frames. Safe to cancel.
    ///
    /// # Errors
    /// [`NetError`]; the connection cannot be used any more after one.
    pub async fn next(&mut self) -> Result<Option<DecodedFrame>, NetError> {
        loop {
            if self.large.is_some() {
                return self.finish_large().await.map(Some);
            }
            if let Some(frame) = self.buffered()? {
                return Ok(Some(frame));
            }
            if self.large.is_some() {
                continue;
            }
            if self.fill().await? == 0 {
                if self.small.is_empty() {
                    return Ok(None);
                }
                return Err(NetError::Truncated { peer: self.peer.clone() });
            }
        }
    }

    /// Reads to the end and keeps nothing.
    ///
    /// # Errors
    /// [`NetError`]
    pub async fn discard(&mut self) -> Result<(), NetError> {
        self.large = None;
        loop {
            self.small.clear();
            if self.fill().await? == 0 {
                return Ok(());
            }
        }
    }

    /// A control frame that is in the small buffer already. Of a data frame, moves what is there to
    /// a buffer of its own.
    fn buffered(&mut self) -> Result<Option<DecodedFrame>, NetError> {
        let Some(head) = self.small.first_chunk::<FRAME_HEADER_LEN>() else { return Ok(None) };
        let header = FrameHeader::parse(head).map_err(|e| NetError::frame(&self.peer, e))?;
        let whole = FRAME_HEADER_LEN + header.len();
        if header.frame_type.data_prefix().is_some() {
            if self.greets {
                let (frame, have) = (header.frame_type, header.len());
                return Err(NetError::frame(&self.peer, FrameError::Length { frame, have }));
            }
            self.small.advance(FRAME_HEADER_LEN);
            let mut body = self.buffers.take(header.len());
            let have = self.small.len().min(header.len());
            body.extend_from_slice(&self.small[..have]);
            self.small.advance(have);
            self.large = Some((header, body));
            return Ok(None);
        }
        if self.small.len() < whole {
            self.small.reserve(whole - self.small.len());
            return Ok(None);
        }
        self.small.advance(FRAME_HEADER_LEN);
        let body = self.small.split_to(header.len()).freeze();
        self.greets = false;
        self.decode(header, body).map(Some)
    }

    async fn fill(&mut self) -> Result<usize, NetError> {
        if self.small.capacity() - self.small.len() < READ / 2 {
            self.small.reserve(READ);
        }
        let n = self.io.read_buf(&mut self.small).await;
        self.count(n)
    }

    async fn finish_large(&mut self) -> Result<DecodedFrame, NetError> {
        while let Some((header, body)) = &mut self.large {
            let missing = header.len().saturating_sub(body.len());
            if missing == 0 {
                break;
            }
            let n = self.io.read_buf(&mut body.limit(missing)).await;
            if self.count(n)? == 0 {
                return Err(NetError::Truncated { peer: self.peer.clone() });
            }
        }
        let Some((header, body)) = self.large.take() else {
            return Err(NetError::Truncated { peer: self.peer.clone() });
        };
        let body = self.buffers.freeze(body);
        self.decode(header, body)
    }

    fn count(&mut self, n: io::Result<usize>) -> Result<usize, NetError> {
        let n = n.map_err(|e| NetError::io(&self.peer, "reading", e))?;
        self.received = self.received.saturating_add(u64::try_from(n).unwrap_or(u64::MAX));
        Ok(n)
    }

    fn decode(&self, header: FrameHeader, body: Bytes) -> Result<DecodedFrame, NetError> {
        Frame::decode(&header, body)
            .and_then(|frame| match self.verify {
                Verify::Content => DecodedFrame::verify(frame),
                Verify::Nothing => Ok(DecodedFrame::unverified(frame)),
            })
            .map_err(|e| NetError::frame(&self.peer, e))
    }
}

/// Where a [`FramedWriter`] writes to.
pub trait Pieces {
    /// Writes from the first of `pieces` on, as much as can be taken at once; how many bytes. They
    /// stay in `pieces`. Dropped before it is done, it has written nothing.
    fn write_pieces(
        &mut self,
        pieces: &VecDeque<Bytes>,
    ) -> impl Future<Output = io::Result<usize>> + Send;

    /// Has everything that was written go.
    fn flush_pieces(&mut self) -> impl Future<Output = io::Result<()>> + Send;
}

/// In vectored writes.
impl<W: AsyncWrite + Unpin + Send> Pieces for W {
    async fn write_pieces(&mut self, pieces: &VecDeque<Bytes>) -> io::Result<usize> {
        let mut slices = [IoSlice::new(&[]); PIECES];
        let mut used = 0;
        for (slot, piece) in slices.iter_mut().zip(pieces) {
            *slot = IoSlice::new(piece);
            used += 1;
        }
        self.write_vectored(&slices[..used]).await
    }

    async fn flush_pieces(&mut self) -> io::Result<()> {
        self.flush().await
    }
}

/// Writes frames.
#[derive(Debug)]
pub struct FramedWriter<W> {
    io: W,
    peer: String,
    /// Small frames, and the heads of data frames, that are not in `queue` yet.
    head: BytesMut,
    queue: VecDeque<Bytes>,
    /// Bytes in `queue`.
    queued: usize,
    sent: u64,
}

impl<W: Pieces> FramedWriter<W> {
    /// Writes to `io`; `peer` is named in errors.
    pub fn new(io: W, peer: impl Into<String>) -> Self {
        Self {
            io,
            peer: peer.into(),
            head: BytesMut::with_capacity(4096),
            queue: VecDeque::new(),
            queued: 0,
            sent: 0,
        }
    }

    /// Names the peer, once its name is known.
    pub fn set_peer(&mut self, peer: impl Into<String>) {
        self.peer = peer.into();
    }

    /// Bytes handed to the connection so far.
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.sent
    }

    /// Bytes that wait for [`flush`](Self::flush). The driver keeps this bounded: it stops adding
    /// data frames above a few MiB.
    #[must_use]
    pub fn queued(&self) -> usize {
        self.queued + self.head.len()
    }

    /// Adds a frame; its chunk is kept by reference. Nothing is written yet.
    ///
    /// # Errors
    /// [`NetError::Frame`] if the frame is over a limit; the queue is then unchanged.
    pub fn queue(&mut self, frame: &Frame) -> Result<(), NetError> {
        let tail = frame.encode_head(&mut self.head).map_err(|e| NetError::frame(&self.peer, e))?;
        if let Some(tail) = tail {
            self.seal_head();
            self.push(tail);
        }
        Ok(())
    }

    fn seal_head(&mut self) {
        if !self.head.is_empty() {
            let head = self.head.split().freeze();
            self.push(head);
        }
    }

    fn push(&mut self, piece: Bytes) {
        self.queued += piece.len();
        self.queue.push_back(piece);
    }

    /// Writes all that is queued. Safe to cancel: the next call goes on where this one stopped.
    ///
    /// # Errors
    /// [`NetError::Io`]; the connection cannot be used any more after it.
    pub async fn flush(&mut self) -> Result<(), NetError> {
        self.seal_head();
        while !self.queue.is_empty() {
            let n = self.io.write_pieces(&self.queue).await;
            let n = n.map_err(|e| NetError::io(&self.peer, "writing", e))?;
            if n == 0 {
                let e = io::ErrorKind::WriteZero.into();
                return Err(NetError::io(&self.peer, "writing", e));
            }
            self.advance(n);
        }
        self.io.flush_pieces().await.map_err(|e| NetError::io(&self.peer, "writing", e))
    }

    fn advance(&mut self, n: usize) {
        self.queued = self.queued.saturating_sub(n);
        self.sent = self.sent.saturating_add(u64::try_from(n).unwrap_or(u64::MAX));
        let mut left = n;
        while let Some(first) = self.queue.front_mut() {
            if left < first.len() {
                first.advance(left);
                return;
            }
            left -= first.len();
            self.queue.pop_front();
        }
    }

    /// [`queue`](Self::queue), then [`flush`](Self::flush).
    ///
    /// # Errors
    /// As those two.
    pub async fn send(&mut self, frame: &Frame) -> Result<(), NetError> {
        self.queue(frame)?;
        self.flush().await
    }

    /// The connection; what is queued is lost.
    pub fn into_inner(self) -> W {
        self.io
    }
}

impl<W: AsyncWrite + Unpin + Send> FramedWriter<W> {
    /// Writes what is queued and closes this direction of the connection.
    ///
    /// # Errors
    /// As [`flush`](Self::flush).
    pub async fn shutdown(&mut self) -> Result<(), NetError> {
        self.flush().await?;
        self.io.shutdown().await.map_err(|e| NetError::io(&self.peer, "closing", e))
    }
}
