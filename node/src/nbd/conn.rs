//! One connection: a thread that haggles, then carries requests out.
//!
//! Small writes and reads from memory run here, many per receive, with one send for their replies.
//! What may block goes to the pool; what is too large for a buffer is streamed (`stream.rs`).

use super::budget::Budget;
use super::deadline::Deadline;
use super::export::{Errno, Export, ExportInfo, Exports, Peer, ReadError};
use super::handshake::{self, Handshake, Outcome, TLS_REQUIRED, TlsMode};
use super::limits::{
    HOLE_CHECK_MIN, OVERLAP_MIN, PIECE, RX_BUFFER, TX_BUFFER, TX_FLUSH_BYTES, TX_FLUSH_REPLIES,
};
use super::metrics::{Metrics, add};
use super::outbox::Outbox;
use super::pool::Pool;
use super::proto::{self, DATA_CHUNK_LEN, Negotiated, Op, REQUEST_LEN, Request};
use super::socket::Socket;
use super::spin::Spin;
use super::stream::is_hole;
use super::task::{Task, Work, put_read_header};
use super::tls::{Tls, Tunnel};
use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// What all connections of a server share.
pub(crate) struct Shared {
    pub(crate) exports: Arc<dyn Exports>,
    pub(crate) pool: Pool<Task>,
    pub(crate) budget: Arc<Budget>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) handshake_deadline: Duration,
    pub(crate) stopping: AtomicBool,
    pub(crate) spin: u32,
    pub(crate) tls: Option<Tls>,
}

/// Received bytes that are not used up yet.
pub(super) struct Rx {
    buf: Vec<u8>,
    start: usize,
    end: usize,
}

impl Rx {
    fn new() -> Self {
        Self { buf: vec![0; RX_BUFFER], start: 0, end: 0 }
    }

    pub(super) fn data(&self) -> &[u8] {
        &self.buf[self.start..self.end]
    }

    pub(super) fn consume(&mut self, n: usize) {
        self.start = (self.start + n).min(self.end);
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
    }

    /// Where to receive to; moves what is held to the front when `want` bytes would not fit.
    pub(super) fn room(&mut self, want: usize) -> &mut [u8] {
        if self.buf.len() - self.start < want.min(self.buf.len()) || self.end == self.buf.len() {
            self.buf.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        &mut self.buf[self.end..]
    }

    pub(super) fn received(&mut self, n: usize) {
        self.end = (self.end + n).min(self.buf.len());
    }
}

/// Why a connection ended.
#[derive(Debug)]
pub(super) enum End {
    /// The client said so, or closed between requests, or the server stops.
    Clean,
    /// The socket failed, or the client left in the middle of something.
    Lost,
    /// The client broke the protocol.
    Protocol,
    /// A read failed after its reply had begun.
    TornReply,
    /// What the client asks for is done elsewhere now ([`Export::is_handed_over`]).
    HandedOver,
}

impl From<io::Error> for End {
    fn from(_: io::Error) -> Self {
        Self::Lost
    }
}

/// Runs a connection to its end; `got_through` says whether it may open an export. Returns when
/// nothing of it is left.
pub(crate) fn serve(socket: Arc<Socket>, shared: &Shared, got_through: impl FnOnce() -> bool) {
    let mut rx = Rx::new();
    let deadline = Deadline::after(shared.handshake_deadline);
    let mut line = Line { socket, tunnel: None };
    match shake_hands(&mut line, shared, &mut rx, deadline) {
        Ok(Outcome::Enter { export, info, negotiated }) if got_through() => {
            add(&shared.metrics.transmissions, 1);
            let socket = &line.socket;
            let outbox = Outbox::new(Arc::clone(socket));
            let mut conn = Conn {
                shared,
                socket,
                outbox,
                export,
                info,
                negotiated,
                rx,
                tx: vec![0; TX_BUFFER],
                tx_len: 0,
                tx_replies: 0,
                spin: Spin::new(shared.spin),
            };
            match conn.transmission() {
                End::Clean => {
                    let _ = conn.flush_tx();
                }
                End::Protocol => {
                    add(&shared.metrics.protocol_errors, 1);
                    let _ = conn.flush_tx();
                }
                End::Lost => {}
                End::TornReply => conn.outbox.kill(),
                End::HandedOver => {
                    add(&shared.metrics.handed_over, 1);
                    conn.outbox.kill();
                }
            }
        }
        Ok(_) => {}
        Err(_) => add(&shared.metrics.handshakes_failed, 1),
    }
}

/// What a connection speaks NBD over: the socket as accepted, or the near end of a tunnel. Closed
/// when dropped.
struct Line {
    socket: Arc<Socket>,
    tunnel: Option<Tunnel>,
}

impl Drop for Line {
    fn drop(&mut self) {
        self.socket.close();
        if let Some(tunnel) = &self.tunnel {
            tunnel.finish();
        }
    }
}

/// A handshake under way.
struct Haggling<'a> {
    line: &'a mut Line,
    shared: &'a Shared,
    peer: Peer,
    /// As this peer may see them; `None`: as they are.
    exports: Option<Arc<dyn Exports>>,
}

impl<'a> Haggling<'a> {
    fn new(line: &'a mut Line, shared: &'a Shared) -> Self {
        let peer = line.socket.peer().map_or(Peer::Local, Peer::Plain);
        let exports = shared.exports.seen_by(&peer);
        Self { line, shared, peer, exports }
    }

    fn tls(&self) -> Option<&'a Tls> {
        self.shared.tls.as_ref().filter(|_| self.line.socket.peer().is_some())
    }

    fn exports(&self) -> &dyn Exports {
        self.exports.as_deref().unwrap_or(&*self.shared.exports)
    }

    /// The client begins TLS: from here on everything goes through the tunnel.
    fn secure(&mut self, deadline: Deadline) -> io::Result<()> {
        let (Some(tls), Some(address)) = (self.tls(), self.line.socket.peer()) else {
            return Err(ErrorKind::InvalidData.into());
        };
        match tls.begin(&self.line.socket, deadline) {
            Ok((near, tunnel, proven)) => {
                add(&self.shared.metrics.tls_handshakes, 1);
                self.line.socket = Arc::new(near);
                self.line.tunnel = Some(tunnel);
                self.peer = Peer::Tls(address, proven);
                self.exports = self.shared.exports.seen_by(&self.peer);
                Ok(())
            }
            Err(e) => {
                add(&self.shared.metrics.tls_failed, 1);
                self.shared.exports.turned_away(&self.peer, e.label(), &e.to_string());
                Err(io::Error::new(ErrorKind::InvalidData, e))
            }
        }
    }

    fn run(
        &mut self,
        state: &mut Handshake,
        rx: &mut Rx,
        deadline: Deadline,
    ) -> io::Result<Outcome> {
        let mut out = Vec::new();
        let mut more = true;
        loop {
            if more {
                self.line.socket.limit(deadline)?;
                let n = self.line.socket.recv(rx.room(1))?;
                if n == 0 {
                    return Ok(Outcome::Abort);
                }
                rx.received(n);
            }
            let step = state.step(rx.data(), self.exports(), &mut out);
            if !out.is_empty() {
                self.line.socket.send_all_by(&out, deadline)?;
                out.clear();
            }
            let (used, outcome) = step.map_err(|e| io::Error::new(ErrorKind::InvalidData, e))?;
            rx.consume(used);
            more = used == 0 || rx.data().is_empty();
            match outcome {
                Outcome::More => {}
                Outcome::Abort => return Ok(Outcome::Abort),
                // sent before TLS, and so perhaps by somebody in between
                Outcome::StartTls if !rx.data().is_empty() => {
                    return Err(ErrorKind::InvalidData.into());
                }
                Outcome::StartTls => self.secure(deadline)?,
                enter @ Outcome::Enter { .. } => {
                    self.line.socket.unlimit()?;
                    return Ok(enter);
                }
            }
        }
    }
}

fn shake_hands(
    line: &mut Line,
    shared: &Shared,
    rx: &mut Rx,
    deadline: Deadline,
) -> io::Result<Outcome> {
    line.socket.send_all_by(&handshake::greeting(), deadline)?;
    let mut haggling = Haggling::new(line, shared);
    let mut state = Handshake::new(match haggling.tls() {
        None => TlsMode::Unavailable,
        Some(tls) if tls.required => TlsMode::Required,
        Some(_) => TlsMode::Offered,
    });
    let outcome = haggling.run(&mut state, rx, deadline);
    if state.plain_refused() {
        add(&shared.metrics.plain_refused, 1);
        // whoever was told and then began TLS has been helped
        if matches!(haggling.peer, Peer::Plain(_)) {
            shared.exports.turned_away(&haggling.peer, "nbd-plain", TLS_REQUIRED);
        }
    }
    outcome
}

/// A connection in transmission.
pub(super) struct Conn<'a> {
    pub(super) shared: &'a Shared,
    pub(super) socket: &'a Socket,
    pub(super) outbox: Arc<Outbox>,
    pub(super) export: Arc<dyn Export>,
    pub(super) info: ExportInfo,
    pub(super) negotiated: Negotiated,
    pub(super) rx: Rx,
    /// Replies that are not sent yet: the first `tx_len` bytes.
    pub(super) tx: Vec<u8>,
    pub(super) tx_len: usize,
    tx_replies: usize,
    spin: Spin,
}

impl Drop for Conn<'_> {
    /// Waits for this connection's requests in the pool. Runs as well when an export panics on
    /// this thread.
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.outbox.kill();
        }
        self.outbox.drain();
        self.outbox.close();
    }
}

impl Conn<'_> {
    fn transmission(&mut self) -> End {
        loop {
            let result = self.serve_buffered().and_then(|want| self.fill(want));
            if let Err(end) = result {
                return end;
            }
        }
    }

    /// Carries out every request that is wholly here; says how many bytes the next one takes.
    fn serve_buffered(&mut self) -> Result<usize, End> {
        loop {
            let Some(header) = self.rx.data().first_chunk::<REQUEST_LEN>() else {
                return Ok(REQUEST_LEN);
            };
            let request = Request::parse(header).map_err(|_| End::Protocol)?;
            let checked = proto::check(&request, &self.info, self.negotiated);
            let whole = REQUEST_LEN + request.len as usize;
            if matches!(checked, Ok(Op::Write { .. }))
                && whole <= RX_BUFFER
                && self.rx.data().len() < whole
            {
                return Ok(whole);
            }
            self.count(&request);
            match checked {
                Ok(Op::Write { fua }) if whole > RX_BUFFER => {
                    self.rx.consume(REQUEST_LEN);
                    self.stream_write(&request, fua)?;
                }
                Ok(Op::Write { fua }) => {
                    self.write(&request, fua)?;
                    self.rx.consume(whole);
                }
                Ok(Op::Disc) => {
                    self.rx.consume(REQUEST_LEN);
                    return Err(End::Clean);
                }
                Ok(op) => {
                    self.rx.consume(REQUEST_LEN);
                    self.execute(&request, op)?;
                }
                Err(errno) => {
                    self.rx.consume(REQUEST_LEN);
                    self.discard(request.payload() as usize)?;
                    self.put_error(request.cookie, errno)?;
                }
            }
            if self.tx_replies >= TX_FLUSH_REPLIES || self.tx_len >= TX_FLUSH_BYTES {
                self.flush_tx()?;
            }
        }
    }

    /// Sends what is ready and waits for more bytes.
    pub(super) fn fill(&mut self, want: usize) -> Result<(), End> {
        self.flush_tx()?;
        let stopping = self.shared.stopping.load(Ordering::Relaxed);
        let room = self.rx.room(want);
        let received =
            if stopping { self.socket.try_recv(room) } else { self.spin.recv(self.socket, room) };
        let n = match received {
            Err(e) if stopping && e.kind() == ErrorKind::WouldBlock => 0,
            other => other?,
        };
        if n == 0 {
            return Err(if self.rx.data().is_empty() { End::Clean } else { End::Lost });
        }
        self.rx.received(n);
        Ok(())
    }

    /// Skips payload of a request that was refused.
    fn discard(&mut self, mut len: usize) -> Result<(), End> {
        loop {
            let here = self.rx.data().len().min(len);
            self.rx.consume(here);
            len -= here;
            if len == 0 {
                return Ok(());
            }
            if let Err(end) = self.fill(1) {
                return Err(if matches!(end, End::Clean) { End::Lost } else { end });
            }
        }
    }

    pub(super) fn flush_tx(&mut self) -> Result<(), End> {
        if self.tx_len > 0 {
            self.outbox.send(&self.tx[..self.tx_len])?;
            (self.tx_len, self.tx_replies) = (0, 0);
        }
        Ok(())
    }

    /// Appends to the replies, sending earlier ones if there is no room.
    pub(super) fn put(&mut self, bytes: &[u8]) -> Result<(), End> {
        if self.tx.len() - self.tx_len < bytes.len() {
            self.flush_tx()?;
        }
        let Some(room) = self.tx.get_mut(self.tx_len..self.tx_len + bytes.len()) else {
            self.outbox.send(bytes)?;
            return Ok(());
        };
        room.copy_from_slice(bytes);
        self.tx_len += bytes.len();
        self.tx_replies += 1;
        Ok(())
    }

    pub(super) fn put_error(&mut self, cookie: u64, errno: Errno) -> Result<(), End> {
        // Who was told that it is read-only did not come to write.
        if !self.info.read_only && self.export.is_handed_over() {
            return Err(End::HandedOver);
        }
        add(&self.shared.metrics.errors, 1);
        let mut out = Vec::new();
        proto::error(&mut out, cookie, errno, self.negotiated.structured);
        self.put(&out)
    }

    fn put_result(&mut self, cookie: u64, result: Result<(), Errno>) -> Result<(), End> {
        match result {
            Ok(()) => self.put(&proto::simple(cookie, None)),
            Err(e) => self.put_error(cookie, e),
        }
    }

    /// A write whose payload is in the receive buffer.
    fn write(&mut self, r: &Request, fua: bool) -> Result<(), End> {
        let len = r.len as usize;
        if self.export.write_might_block()
            && let Some(mut data) = self.shared.budget.try_take(len)
        {
            data.bytes_mut()[..len].copy_from_slice(&self.rx.data()[REQUEST_LEN..][..len]);
            match self.submit(r, Work::Write { data, fua }) {
                Ok(()) => return Ok(()),
                Err(_) => add(&self.shared.metrics.ran_inline, 1),
            }
        }
        let result = self.export.write(r.offset, &self.rx.data()[REQUEST_LEN..][..len]);
        self.written(r, result, fua)
    }

    /// Answers a write, through the pool if it has to be durable first.
    pub(super) fn written(
        &mut self,
        r: &Request,
        result: Result<(), Errno>,
        fua: bool,
    ) -> Result<(), End> {
        match result {
            Ok(()) => {
                add(&self.shared.metrics.bytes_written, u64::from(r.len));
                if fua {
                    return self.defer(r, Work::Flush);
                }
                self.put_result(r.cookie, Ok(()))
            }
            failed => self.put_result(r.cookie, failed),
        }
    }

    fn execute(&mut self, r: &Request, op: Op) -> Result<(), End> {
        let work = match op {
            Op::Read { df } => return self.read(r, df),
            Op::Flush => Work::Flush,
            Op::Trim { fua } => Work::Trim { fua },
            Op::Zero { fua, no_hole, fast } => Work::Zero { fua, no_hole, fast },
            Op::Cache => Work::Cache,
            Op::BlockStatus { one } => Work::BlockStatus { one },
            // judged by the caller, which holds their payload
            Op::Write { .. } | Op::Disc => return Err(End::Protocol),
        };
        self.defer(r, work)
    }

    fn read(&mut self, r: &Request, df: bool) -> Result<(), End> {
        let len = r.len as usize;
        if len == 0 && self.negotiated.structured {
            let done = proto::chunk_header(r.cookie, proto::chunk::NONE, true, 0);
            return self.put(&done);
        }
        let holes = self.negotiated.structured && !df && self.info.cheap_status;
        if holes && len >= HOLE_CHECK_MIN {
            match self.export.block_status(r.offset, u64::from(r.len), super::limits::MAX_EXTENTS) {
                Ok(extents) if extents.iter().any(is_hole) => {
                    return self.stream_sparse(r, &extents);
                }
                _ => {}
            }
        }
        if len > PIECE {
            return self.stream_read(r, df);
        }
        if len + DATA_CHUNK_LEN > TX_FLUSH_BYTES {
            return self.read_piece(r, df);
        }
        if self.tx.len() - self.tx_len < len + DATA_CHUNK_LEN {
            self.flush_tx()?;
        }
        // header and data end up right behind the earlier replies
        let head = if self.negotiated.structured { DATA_CHUNK_LEN } else { proto::SIMPLE_LEN };
        let start = self.tx_len + head;
        match self.export.try_read(r.offset, &mut self.tx[start..start + len]) {
            Ok(()) => {
                if self.negotiated.structured {
                    let header = proto::data_chunk(r.cookie, true, r.offset, r.len);
                    self.tx[self.tx_len..start].copy_from_slice(&header);
                } else {
                    let header = proto::simple(r.cookie, None);
                    self.tx[self.tx_len..start].copy_from_slice(&header);
                }
                self.tx_len = start + len;
                self.tx_replies += 1;
                add(&self.shared.metrics.bytes_read, u64::from(r.len));
                Ok(())
            }
            Err(ReadError::Failed(e)) => self.put_error(r.cookie, e),
            Err(ReadError::WouldBlock) => {
                add(&self.shared.metrics.reads_deferred, 1);
                match self.shared.budget.try_take(len + DATA_CHUNK_LEN) {
                    Some(chunk) => self.defer(r, Work::Read(chunk)),
                    None => self.stream_read(r, df),
                }
            }
        }
    }

    /// A read of one piece in a buffer of its own, sent from there.
    fn read_piece(&mut self, r: &Request, df: bool) -> Result<(), End> {
        let end = DATA_CHUNK_LEN + r.len as usize;
        let Some(mut chunk) = self.shared.budget.try_take(end) else {
            add(&self.shared.metrics.ran_inline, 1);
            return self.stream_read(r, df);
        };
        // more is asked for already: the copy from the export and the copy to the peer overlap
        if r.len as usize >= OVERLAP_MIN && self.rx.data().len() >= REQUEST_LEN {
            add(&self.shared.metrics.reads_overlapped, 1);
            return self.defer(r, Work::Read(chunk));
        }
        match self.export.try_read(r.offset, &mut chunk.bytes_mut()[DATA_CHUNK_LEN..end]) {
            Ok(()) => {
                add(&self.shared.metrics.bytes_read, u64::from(r.len));
                let start = put_read_header(chunk.bytes_mut(), r, self.negotiated, true);
                self.flush_tx()?;
                Ok(self.outbox.send(&chunk.bytes()[start..end])?)
            }
            Err(ReadError::Failed(e)) => self.put_error(r.cookie, e),
            Err(ReadError::WouldBlock) => {
                add(&self.shared.metrics.reads_deferred, 1);
                self.defer(r, Work::Read(chunk))
            }
        }
    }

    fn submit(&self, r: &Request, work: Work) -> Result<(), Work> {
        if !self.outbox.enter() {
            return Err(work);
        }
        let task = Task {
            request: *r,
            work: Some(work),
            negotiated: self.negotiated,
            export: Some(Arc::clone(&self.export)),
            outbox: Arc::clone(&self.outbox),
            metrics: Arc::clone(&self.shared.metrics),
            posted: false,
        };
        self.shared.pool.submit(task).map_err(|mut task| {
            task.posted = true;
            self.outbox.leave();
            task.work.take().unwrap_or(Work::Flush)
        })
    }

    /// Gives a request to the pool, or runs it here when there is no room for it.
    pub(super) fn defer(&mut self, r: &Request, work: Work) -> Result<(), End> {
        let Err(work) = self.submit(r, work) else { return Ok(()) };
        add(&self.shared.metrics.ran_inline, 1);
        self.flush_tx()?;
        let (metrics, export) = (&self.shared.metrics, &self.export);
        let parcel = super::task::carry_out(r, work, self.negotiated, &**export, metrics);
        Ok(self.outbox.send(parcel.ok_or(End::HandedOver)?.bytes())?)
    }

    fn count(&self, r: &Request) {
        use super::proto::cmd;
        let m = &self.shared.metrics;
        add(
            match r.command {
                cmd::READ => &m.reads,
                cmd::WRITE => &m.writes,
                cmd::FLUSH => &m.flushes,
                cmd::TRIM => &m.trims,
                cmd::WRITE_ZEROES => &m.zeroes,
                cmd::CACHE => &m.caches,
                cmd::BLOCK_STATUS => &m.block_statuses,
                cmd::DISC => return,
                _ => &m.unknown_commands,
            },
            1,
        );
        if r.flags & cmd::FLAG_FUA != 0 {
            add(&m.fua, 1);
        }
    }
}
