//! Requests that are larger than a buffer: read, applied and answered piece by piece, on the
//! connection's own thread. Memory is one piece of the budget, or the connection's own buffers
//! when the budget is spent.

use super::budget::Chunk;
use super::conn::{Conn, End};
use super::export::{Errno, Export, Extent};
use super::limits::{HOLE_MIN, PIECE};
use super::metrics::add;
use super::outbox::Hold;
use super::proto::{self, DATA_CHUNK_LEN, Request};
use super::task::{Work, put_read_header};
use std::sync::Arc;

impl Conn<'_> {
    fn piece(&self) -> Option<Chunk> {
        self.shared.budget.try_take(DATA_CHUNK_LEN + PIECE)
    }

    /// A write whose payload does not fit the receive buffer; its header is used up. One of a
    /// single piece is applied by the pool while the next request comes in.
    pub(super) fn stream_write(&mut self, r: &Request, fua: bool) -> Result<(), End> {
        let mut piece = self.piece();
        let mut offset = r.offset;
        let mut left = r.len as usize;
        let mut result = Ok(());
        self.flush_tx()?;
        while left > 0 {
            let n = match &mut piece {
                Some(chunk) => {
                    let n = left.min(PIECE);
                    self.receive_exact(&mut chunk.bytes_mut()[..n])?;
                    if n == r.len as usize
                        && let Some(data) = piece.take()
                    {
                        return self.defer(r, Work::Write { data, fua });
                    }
                    n
                }
                None => {
                    if self.rx.data().is_empty() {
                        self.fill(1).map_err(|_| End::Lost)?;
                    }
                    left.min(self.rx.data().len())
                }
            };
            let data = match &piece {
                Some(chunk) => &chunk.bytes()[..n],
                None => &self.rx.data()[..n],
            };
            if result.is_ok() {
                result = self.export.write(offset, data);
            }
            if piece.is_none() {
                self.rx.consume(n);
            }
            offset += n as u64;
            left -= n;
        }
        drop(piece);
        self.written(r, result, fua)
    }

    /// Fills `buf` from what was received, then straight from the socket.
    fn receive_exact(&mut self, buf: &mut [u8]) -> Result<(), End> {
        let mut have = self.rx.data().len().min(buf.len());
        buf[..have].copy_from_slice(&self.rx.data()[..have]);
        self.rx.consume(have);
        while have < buf.len() {
            match self.socket.recv(&mut buf[have..])? {
                0 => return Err(End::Lost),
                n => have += n,
            }
        }
        Ok(())
    }

    /// What a request that is answered in pieces reads: one state, however many pieces.
    fn one_state(&self) -> Result<Arc<dyn Export>, Errno> {
        Ok(self.export.for_one_request()?.unwrap_or_else(|| Arc::clone(&self.export)))
    }

    /// A read that is answered in pieces.
    pub(super) fn stream_read(&mut self, r: &Request, df: bool) -> Result<(), End> {
        if self.negotiated.structured && !df {
            let all = Extent { len: u64::from(r.len), hole: false, zero: false };
            return self.stream_sparse(r, &[all]);
        }
        let export = match self.one_state() {
            Ok(export) => export,
            Err(e) => return self.put_error(r.cookie, e),
        };
        // one header, then nothing but its bytes: the first piece is read before success is claimed
        let negotiated = self.negotiated;
        let structured = negotiated.structured;
        self.flush_tx()?;
        let mut piece = self.piece();
        let outbox = Arc::clone(&self.outbox);
        let mut hold = None;
        let (mut offset, mut left) = (r.offset, r.len as usize);
        let mut failed = None;
        while left > 0 {
            let buf = self.buffer(&mut piece);
            let n = left.min(buf.len() - DATA_CHUNK_LEN);
            let end = DATA_CHUNK_LEN + n;
            if failed.is_none() {
                failed = export.read(offset, &mut buf[DATA_CHUNK_LEN..end]).err();
            }
            match failed {
                Some(e) if hold.is_none() => return self.put_error(r.cookie, e),
                Some(_) if !structured => return Err(End::TornReply),
                // a chunk that has begun is filled up, then the error follows
                Some(_) => buf[DATA_CHUNK_LEN..end].fill(0),
                None => {}
            }
            match &mut hold {
                Some(hold) => Hold::send(hold, &buf[DATA_CHUNK_LEN..end])?,
                None => {
                    let start = put_read_header(buf, r, negotiated, false);
                    hold.insert(outbox.hold()?).send(&buf[start..end])?;
                }
            }
            offset += n as u64;
            left -= n;
        }
        drop(hold);
        match failed {
            Some(e) => self.put_error(r.cookie, e),
            None => {
                add(&self.shared.metrics.bytes_read, u64::from(r.len));
                if structured { self.put(&none_chunk(r)) } else { Ok(()) }
            }
        }
    }

    /// A structured reply in chunks: data in pieces, zero areas as holes.
    pub(super) fn stream_sparse(&mut self, r: &Request, extents: &[Extent]) -> Result<(), End> {
        let export = match self.one_state() {
            Ok(export) => export,
            Err(e) => return self.put_error(r.cookie, e),
        };
        let mut piece = None;
        let end = r.offset + u64::from(r.len);
        let mut offset = r.offset;
        // what the extents leave out is data
        let rest = Extent { len: u64::MAX, hole: false, zero: false };
        let mut extents = extents.iter().chain(std::iter::once(&rest)).peekable();
        while let Some(e) = extents.next() {
            let mut len = e.len;
            // neighbours of one kind travel together
            while let Some(more) = extents.next_if(|next| is_hole(next) == is_hole(e)) {
                len = len.saturating_add(more.len);
            }
            let mut left = len.min(end - offset);
            while left > 0 {
                let n = if is_hole(e) {
                    // extents were clipped to the request, whose length has 32 bits
                    let n = u32::try_from(left).unwrap_or(u32::MAX);
                    self.put(&proto::hole_chunk(r.cookie, false, offset, n))?;
                    add(&self.shared.metrics.hole_chunks, 1);
                    n
                } else {
                    match self.data_chunk(r, &*export, offset, left, &mut piece)? {
                        Some(n) => n,
                        None => return Ok(()),
                    }
                };
                offset += u64::from(n);
                left -= u64::from(n);
            }
        }
        add(&self.shared.metrics.bytes_read, u64::from(r.len));
        self.put(&none_chunk(r))
    }

    /// Sends one chunk of data from `offset`, at most `left` bytes; `None` when an error was sent.
    fn data_chunk(
        &mut self,
        r: &Request,
        export: &dyn Export,
        offset: u64,
        left: u64,
        piece: &mut Option<Chunk>,
    ) -> Result<Option<u32>, End> {
        self.flush_tx()?;
        if piece.is_none() {
            *piece = self.piece();
        }
        let outbox = Arc::clone(&self.outbox);
        let buf = self.buffer(piece);
        let room = buf.len() - DATA_CHUNK_LEN;
        let n = usize::try_from(left).map_or(room, |left| left.min(room));
        let end = DATA_CHUNK_LEN + n;
        if let Err(e) = export.read(offset, &mut buf[DATA_CHUNK_LEN..end]) {
            self.put_error(r.cookie, e)?;
            return Ok(None);
        }
        let n = u32::try_from(n).unwrap_or(0);
        buf[..DATA_CHUNK_LEN].copy_from_slice(&proto::data_chunk(r.cookie, false, offset, n));
        outbox.send(&buf[..end])?;
        Ok(Some(n))
    }

    /// Room for a header and a piece of data. Without a piece it is the reply buffer, which must
    /// have been sent.
    fn buffer<'b>(&'b mut self, piece: &'b mut Option<Chunk>) -> &'b mut [u8] {
        let buf = match piece {
            Some(chunk) => chunk.bytes_mut(),
            None => &mut self.tx,
        };
        let len = buf.len().min(DATA_CHUNK_LEN + PIECE);
        &mut buf[..len]
    }
}

/// Whether an extent is sent as a hole rather than as bytes.
pub(super) fn is_hole(e: &Extent) -> bool {
    e.zero && e.len >= HOLE_MIN
}

fn none_chunk(r: &Request) -> [u8; proto::CHUNK_LEN] {
    proto::chunk_header(r.cookie, proto::chunk::NONE, true, 0)
}
