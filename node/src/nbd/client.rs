//! A small blocking NBD client: for demonstrations, for tests, for reading a whole replica fast.
//!
//! [`Dialog`] is option haggling, [`Client`] is transmission. Every call has the timeout given at
//! connect as its deadline; after an error other than [`ClientError::Remote`] or
//! [`ClientError::Refused`] the connection is of no further use.

use super::deadline::Deadline;
use super::export::{Errno, ExportName, Extent};
use super::handshake::{
    BASE_ALLOCATION, FIXED_NEWSTYLE, INIT_MAGIC, NO_ZEROES, OPTION_MAGIC, REPLY_MAGIC, info, opt,
    rep,
};
use super::limits::PIECE;
use super::proto::{CHUNK_MAGIC, Request, SIMPLE_MAGIC, chunk, cmd, flag};
use super::socket::Socket;
use std::collections::VecDeque;
use std::io::{self, BufReader, Read};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// Option replies longer than this are not believed.
const MAX_REPLY: u32 = 1 << 20;
/// Longest BLOCK_STATUS chunk or error text that is believed.
const MAX_META: u32 = 1 << 20;

/// What can go wrong.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The connection failed or a deadline passed.
    #[error("connection: {0}")]
    Io(#[from] io::Error),
    /// The server refused an option; its own words.
    #[error("the server refused ({kind:#x}): {text}")]
    Refused {
        /// The option reply.
        kind: u32,
        /// The server's text.
        text: String,
    },
    /// The server answered a request with an error.
    #[error("{0}")]
    Remote(Errno),
    /// The server does not follow the protocol.
    #[error("protocol: {0}")]
    Protocol(&'static str),
}

type Result<T, E = ClientError> = std::result::Result<T, E>;

struct Wire {
    socket: Socket,
    timeout: Duration,
    deadline: Deadline,
}

impl Read for Wire {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.socket.limit(self.deadline)?;
        self.socket.recv(buf)
    }
}

struct Stream(BufReader<Wire>);

impl Stream {
    fn new(socket: Socket, timeout: Duration) -> Self {
        let wire = Wire { socket, timeout, deadline: Deadline::after(timeout) };
        Self(BufReader::with_capacity(64 * 1024, wire))
    }

    /// Begins a call: its deadline counts from now.
    fn begin(&mut self) {
        let wire = self.0.get_mut();
        wire.deadline = Deadline::after(wire.timeout);
    }

    fn send(&self, bytes: &[u8]) -> Result<()> {
        let wire = self.0.get_ref();
        wire.socket.limit(wire.deadline)?;
        Ok(wire.socket.send_all(bytes)?)
    }

    fn bytes<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut b = [0; N];
        self.0.read_exact(&mut b)?;
        Ok(b)
    }

    fn u16(&mut self) -> Result<u16> {
        self.bytes().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> Result<u32> {
        self.bytes().map(u32::from_be_bytes)
    }

    fn u64(&mut self) -> Result<u64> {
        self.bytes().map(u64::from_be_bytes)
    }

    fn vec(&mut self, len: u32, limit: u32) -> Result<Vec<u8>> {
        if len > limit {
            return Err(ClientError::Protocol("a reply longer than sense allows"));
        }
        let mut v = vec![0; len as usize];
        self.0.read_exact(&mut v)?;
        Ok(v)
    }
}

/// What the server says about an export.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Announced {
    /// Size in bytes.
    pub size: u64,
    /// Transmission flags, see [`flag`].
    pub flags: u16,
    /// Minimum, preferred and maximum block size, if told.
    pub block_sizes: Option<[u32; 3]>,
}

impl Announced {
    /// Writes are refused.
    pub fn read_only(&self) -> bool {
        self.flags & flag::READ_ONLY != 0
    }
}

/// A connection in option haggling.
pub struct Dialog(Stream);

impl Dialog {
    /// Connects over TCP; `timeout` bounds this and every later call.
    pub fn connect_tcp(addr: SocketAddr, timeout: Duration) -> Result<Self> {
        Self::begin(Socket::tcp(TcpStream::connect_timeout(&addr, timeout)?, addr), timeout)
    }

    /// Connects over a Unix socket; `timeout` bounds this and every later call.
    pub fn connect_unix(path: &Path, timeout: Duration) -> Result<Self> {
        Self::begin(UnixStream::connect(path)?.into(), timeout)
    }

    fn begin(socket: Socket, timeout: Duration) -> Result<Self> {
        let mut s = Stream::new(socket, timeout);
        if (s.u64()?, s.u64()?) != (INIT_MAGIC, OPTION_MAGIC) {
            return Err(ClientError::Protocol("this is no newstyle NBD server"));
        }
        let offered = s.u16()?;
        if offered & FIXED_NEWSTYLE == 0 {
            return Err(ClientError::Protocol("the server does not speak fixed newstyle"));
        }
        s.send(&u32::from(offered & (FIXED_NEWSTYLE | NO_ZEROES)).to_be_bytes())?;
        Ok(Self(s))
    }

    fn ask(&mut self, option: u32, data: &[u8]) -> Result<()> {
        self.0.begin();
        let len =
            u32::try_from(data.len()).map_err(|_| ClientError::Protocol("the name is too long"))?;
        let mut message = OPTION_MAGIC.to_be_bytes().to_vec();
        message.extend_from_slice(&option.to_be_bytes());
        message.extend_from_slice(&len.to_be_bytes());
        message.extend_from_slice(data);
        self.0.send(&message)
    }

    /// The next reply to `option`; errors become [`ClientError::Refused`].
    fn answer(&mut self, option: u32) -> Result<(u32, Vec<u8>)> {
        if self.0.u64()? != REPLY_MAGIC || self.0.u32()? != option {
            return Err(ClientError::Protocol("not a reply to the option sent"));
        }
        let (kind, len) = (self.0.u32()?, self.0.u32()?);
        let data = self.0.vec(len, MAX_REPLY)?;
        if kind & rep::ERR != 0 {
            let text = String::from_utf8_lossy(&data).into_owned();
            return Err(ClientError::Refused { kind, text });
        }
        Ok((kind, data))
    }

    /// The server's exports.
    pub fn list(&mut self) -> Result<Vec<ExportName>> {
        self.ask(opt::LIST, &[])?;
        let mut names = Vec::new();
        loop {
            let (kind, data) = self.answer(opt::LIST)?;
            if kind != rep::SERVER {
                return Ok(names);
            }
            let split = data.split_first_chunk::<4>().and_then(|(len, rest)| {
                rest.split_at_checked(usize::try_from(u32::from_be_bytes(*len)).ok()?)
            });
            let Some((name, description)) = split else {
                return Err(ClientError::Protocol("a malformed name"));
            };
            names.push(ExportName {
                name: String::from_utf8_lossy(name).into_owned(),
                description: String::from_utf8_lossy(description).into_owned(),
            });
        }
    }

    fn ask_info(&mut self, option: u32, name: &str) -> Result<Announced> {
        let mut data = name_field(name);
        data.extend_from_slice(&1u16.to_be_bytes());
        data.extend_from_slice(&info::BLOCK_SIZE.to_be_bytes());
        self.ask(option, &data)?;
        let mut announced = None;
        let mut block_sizes = None;
        loop {
            let (kind, data) = self.answer(option)?;
            if kind != rep::INFO {
                break;
            }
            let at = |i: usize| {
                data.get(i..i + 4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_be_bytes)
            };
            match (data.first_chunk::<2>().map(|k| u16::from_be_bytes(*k)), data.len()) {
                (Some(info::EXPORT), 12) => {
                    let size = u64::from(at(2)) << 32 | u64::from(at(6));
                    let flags = u16::from_be_bytes([data[10], data[11]]);
                    announced = Some(Announced { size, flags, block_sizes: None });
                }
                (Some(info::BLOCK_SIZE), 14) => block_sizes = Some([at(2), at(6), at(10)]),
                _ => {}
            }
        }
        let announced = announced.ok_or(ClientError::Protocol("no size in the reply"))?;
        Ok(Announced { block_sizes, ..announced })
    }

    /// Describes an export without entering it.
    pub fn info(&mut self, name: &str) -> Result<Announced> {
        self.ask_info(opt::INFO, name)
    }

    /// Enters transmission. With `structured`, chunks and block status are asked for as well and
    /// used if the server has them.
    pub fn go(mut self, name: &str, structured: bool) -> Result<Client> {
        let mut contexts = false;
        if structured {
            self.ask(opt::STRUCTURED_REPLY, &[])?;
            let agreed = match self.answer(opt::STRUCTURED_REPLY) {
                Err(ClientError::Refused { .. }) => false,
                other => other.map(|_| true)?,
            };
            contexts = agreed && self.set_context(name)?;
        }
        let announced = self.ask_info(opt::GO, name)?;
        Ok(Client { stream: self.0, announced, contexts, cookie: 0 })
    }

    fn set_context(&mut self, name: &str) -> Result<bool> {
        let mut data = name_field(name);
        data.extend_from_slice(&1u32.to_be_bytes());
        data.extend_from_slice(&name_field(BASE_ALLOCATION));
        self.ask(opt::SET_META_CONTEXT, &data)?;
        let mut selected = false;
        loop {
            match self.answer(opt::SET_META_CONTEXT) {
                Ok((rep::META_CONTEXT, _)) => selected = true,
                Ok(_) => return Ok(selected),
                // an unknown export is said again, with its reason, by GO
                Err(ClientError::Refused { .. }) => return Ok(false),
                Err(e) => return Err(e),
            }
        }
    }

    /// Takes leave.
    pub fn abort(mut self) -> Result<()> {
        self.ask(opt::ABORT, &[])?;
        self.answer(opt::ABORT).map(|_| ())
    }
}

fn name_field(name: &str) -> Vec<u8> {
    let mut data = u32::try_from(name.len()).unwrap_or(u32::MAX).to_be_bytes().to_vec();
    data.extend_from_slice(name.as_bytes());
    data
}

/// A request whose reply is not complete.
struct Pending {
    request: Request,
    data: Vec<u8>,
    covered: u64,
    extents: Vec<Extent>,
    error: Option<Errno>,
    done: bool,
}

impl Pending {
    fn result(&self) -> Result<()> {
        match self.error {
            Some(e) => Err(ClientError::Remote(e)),
            None => Ok(()),
        }
    }

    /// The part of the buffer that a chunk describes; refuses what lies outside the request.
    fn part(&mut self, offset: u64, len: u32) -> Result<&mut [u8]> {
        let wrong = ClientError::Protocol("a chunk outside its request");
        let Some(start) = offset.checked_sub(self.request.offset) else { return Err(wrong) };
        let start = usize::try_from(start).unwrap_or(usize::MAX);
        self.covered += u64::from(len);
        start.checked_add(len as usize).and_then(|end| self.data.get_mut(start..end)).ok_or(wrong)
    }

    fn finish(&mut self) -> Result<()> {
        self.done = true;
        let read = self.request.command == cmd::READ;
        if read && self.error.is_none() && self.covered != u64::from(self.request.len) {
            return Err(ClientError::Protocol("a read that does not cover its range"));
        }
        Ok(())
    }
}

/// A connection in transmission.
pub struct Client {
    stream: Stream,
    announced: Announced,
    contexts: bool,
    cookie: u64,
}

impl Client {
    /// Connects over TCP and enters `name`, with structured replies.
    pub fn tcp(addr: SocketAddr, name: &str, timeout: Duration) -> Result<Self> {
        Dialog::connect_tcp(addr, timeout)?.go(name, true)
    }

    /// Connects over a Unix socket and enters `name`, with structured replies.
    pub fn unix(path: &Path, name: &str, timeout: Duration) -> Result<Self> {
        Dialog::connect_unix(path, timeout)?.go(name, true)
    }

    /// What the server said about the export.
    pub fn announced(&self) -> Announced {
        self.announced
    }

    /// Size of the export in bytes.
    pub fn size(&self) -> u64 {
        self.announced.size
    }

    fn issue(&mut self, command: u16, flags: u16, offset: u64, len: u32) -> Result<Pending> {
        self.cookie += 1;
        let request = Request { flags, command, cookie: self.cookie, offset, len };
        self.stream.send(&request.encode())?;
        let data = if command == cmd::READ { vec![0; len as usize] } else { Vec::new() };
        Ok(Pending { request, data, covered: 0, extents: Vec::new(), error: None, done: false })
    }

    /// Receives one reply or chunk.
    fn receive(&mut self, pending: &mut VecDeque<Pending>) -> Result<()> {
        let s = &mut self.stream;
        let magic = s.u32()?;
        if magic == SIMPLE_MAGIC {
            let (error, cookie) = (s.u32()?, s.u64()?);
            let p = find(pending, cookie)?;
            if error != 0 {
                p.error = Some(Errno::from_wire(error));
            } else {
                p.covered += p.data.len() as u64;
                s.0.read_exact(&mut p.data)?;
            }
            return p.finish();
        }
        if magic != CHUNK_MAGIC {
            return Err(ClientError::Protocol("not the magic of a reply"));
        }
        let (flags, kind, cookie, len) = (s.u16()?, s.u16()?, s.u64()?, s.u32()?);
        let p = find(pending, cookie)?;
        match (kind, len) {
            (chunk::NONE, 0) => {}
            (chunk::OFFSET_DATA, 9..) => {
                let offset = s.u64()?;
                s.0.read_exact(p.part(offset, len - 8)?)?;
            }
            (chunk::OFFSET_HOLE, 12) => {
                let (offset, hole) = (s.u64()?, s.u32()?);
                p.part(offset, hole)?.fill(0);
            }
            (chunk::BLOCK_STATUS, _) => {
                let body = s.vec(len, MAX_META)?;
                let (extents, rest) = body.get(4..).unwrap_or_default().as_chunks::<8>();
                if extents.is_empty() || !rest.is_empty() {
                    return Err(ClientError::Protocol("a malformed block status"));
                }
                p.extents = extents.iter().map(extent).collect();
            }
            (kind, 6..) if kind & 1 << 15 != 0 => {
                let body = s.vec(len, MAX_META)?;
                let wire = body.first_chunk().map_or(0, |b| u32::from_be_bytes(*b));
                p.error = Some(Errno::from_wire(wire));
            }
            _ => return Err(ClientError::Protocol("an unknown chunk")),
        }
        if flags & chunk::FLAG_DONE != 0 { p.finish() } else { Ok(()) }
    }

    fn complete(&mut self, pending: Pending) -> Result<Pending> {
        let mut one = VecDeque::from([pending]);
        while !one[0].done {
            self.receive(&mut one)?;
        }
        let p = one.pop_front().ok_or(ClientError::Protocol("no reply"))?;
        p.result().map(|()| p)
    }

    fn call(&mut self, command: u16, flags: u16, offset: u64, len: u32) -> Result<Pending> {
        self.stream.begin();
        let pending = self.issue(command, flags, offset, len)?;
        self.complete(pending)
    }

    /// Reads; at most 64 MiB.
    pub fn read(&mut self, offset: u64, buf: &mut [u8]) -> Result<()> {
        let p = self.call(cmd::READ, 0, offset, length(buf.len())?)?;
        buf.copy_from_slice(&p.data);
        Ok(())
    }

    /// Writes; at most 64 MiB; durable when it returns if `fua`.
    pub fn write(&mut self, offset: u64, data: &[u8], fua: bool) -> Result<()> {
        self.stream.begin();
        let flags = if fua { cmd::FLAG_FUA } else { 0 };
        let pending = self.issue(cmd::WRITE, flags, offset, length(data.len())?)?;
        self.stream.send(data)?;
        self.complete(pending).map(|_| ())
    }

    /// Makes durable what was written.
    pub fn flush(&mut self) -> Result<()> {
        self.call(cmd::FLUSH, 0, 0, 0).map(|_| ())
    }

    /// The range is no longer needed.
    pub fn trim(&mut self, offset: u64, len: u32) -> Result<()> {
        self.call(cmd::TRIM, 0, offset, len).map(|_| ())
    }

    /// Zeroes the range; keeps it allocated if `no_hole`.
    pub fn zero(&mut self, offset: u64, len: u32, no_hole: bool) -> Result<()> {
        let flags = if no_hole { cmd::FLAG_NO_HOLE } else { 0 };
        self.call(cmd::WRITE_ZEROES, flags, offset, len).map(|_| ())
    }

    /// Has the server read ahead.
    pub fn cache(&mut self, offset: u64, len: u32) -> Result<()> {
        self.call(cmd::CACHE, 0, offset, len).map(|_| ())
    }

    /// Extents from `offset`: at least one, perhaps fewer than the range has.
    pub fn block_status(&mut self, offset: u64, len: u32) -> Result<Vec<Extent>> {
        if !self.contexts {
            return Err(ClientError::Protocol("block status was not negotiated"));
        }
        self.call(cmd::BLOCK_STATUS, 0, offset, len).map(|p| p.extents)
    }

    /// Sends any request and waits for its reply: for tests of what a server refuses. `payload`
    /// follows the header as it is.
    pub fn raw(&mut self, r: Request, payload: &[u8]) -> Result<()> {
        self.stream.begin();
        let pending = self.issue(r.command, r.flags, r.offset, r.len)?;
        self.stream.send(payload)?;
        self.complete(pending).map(|_| ())
    }

    /// Reads the whole export in order, 1 MiB at a time with `depth` requests in flight, and hands
    /// each piece to `sink` with its offset. The timeout holds for each piece.
    pub fn read_all(
        &mut self,
        depth: usize,
        mut sink: impl FnMut(u64, &[u8]) -> io::Result<()>,
    ) -> Result<()> {
        let mut pending: VecDeque<Pending> = VecDeque::new();
        let mut next = 0;
        loop {
            self.stream.begin();
            while pending.len() < depth.max(1) && next < self.announced.size {
                let len = (self.announced.size - next).min(PIECE as u64);
                let len32 = u32::try_from(len).unwrap_or(u32::MAX);
                let p = self.issue(cmd::READ, 0, next, len32)?;
                pending.push_back(p);
                next += len;
            }
            match pending.front() {
                None => return Ok(()),
                Some(p) if p.done => {
                    p.result()?;
                    sink(p.request.offset, &p.data)?;
                    pending.pop_front();
                }
                Some(_) => self.receive(&mut pending)?,
            }
        }
    }

    /// Ends the connection as the protocol wants it.
    pub fn disconnect(mut self) -> Result<()> {
        self.stream.begin();
        self.issue(cmd::DISC, 0, 0, 0).map(|_| ())
    }
}

fn find(pending: &mut VecDeque<Pending>, cookie: u64) -> Result<&mut Pending> {
    pending
        .iter_mut()
        .find(|p| p.request.cookie == cookie && !p.done)
        .ok_or(ClientError::Protocol("a reply to no request"))
}

fn length(len: usize) -> Result<u32> {
    u32::try_from(len).map_err(|_| ClientError::Protocol("longer than a request can say"))
}

fn extent(b: &[u8; 8]) -> Extent {
    let [l0, l1, l2, l3, s0, s1, s2, s3] = *b;
    let state = u32::from_be_bytes([s0, s1, s2, s3]);
    Extent {
        len: u64::from(u32::from_be_bytes([l0, l1, l2, l3])),
        hole: state & chunk::STATE_HOLE != 0,
        zero: state & chunk::STATE_ZERO != 0,
    }
}
