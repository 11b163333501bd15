//! The seam between the protocol and what is served: names, exports, errors.

use std::net::SocketAddr;
use std::sync::Arc;

use rcp::net::tls::Proven;

/// An error with its value on the wire (NBD, "Error values").
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum Errno {
    /// Operation not permitted: the export is read-only.
    Perm = 1,
    /// Input/output error.
    Io = 5,
    /// No memory.
    NoMem = 12,
    /// Invalid argument: unknown command or flag, or a read beyond the end.
    Inval = 22,
    /// No space left, or a write beyond the end.
    NoSpc = 28,
    /// Value too large: a request longer than the announced maximum.
    Overflow = 75,
    /// Not supported: a fast zero that would not be fast.
    NotSup = 95,
    /// The server is stopping.
    Shutdown = 108,
}

impl Errno {
    /// The value on the wire.
    pub const fn wire(self) -> u32 {
        self as u32
    }

    /// From the wire; unknown values are EIO, as the protocol asks of clients (EINVAL there).
    pub const fn from_wire(value: u32) -> Self {
        match value {
            1 => Self::Perm,
            12 => Self::NoMem,
            22 => Self::Inval,
            28 => Self::NoSpc,
            75 => Self::Overflow,
            95 => Self::NotSup,
            108 => Self::Shutdown,
            _ => Self::Io,
        }
    }

    /// Words for a person.
    pub const fn text(self) -> &'static str {
        match self {
            Self::Perm => "the export is read-only",
            Self::Io => "input/output error",
            Self::NoMem => "out of memory",
            Self::Inval => "invalid request",
            Self::NoSpc => "no space left, or beyond the end of the export",
            Self::Overflow => "the request is longer than the announced maximum",
            Self::NotSup => "not supported",
            Self::Shutdown => "the server is shutting down",
        }
    }
}

impl std::fmt::Display for Errno {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.text())
    }
}

impl std::error::Error for Errno {}

impl From<&std::io::Error> for Errno {
    fn from(e: &std::io::Error) -> Self {
        use std::io::ErrorKind as K;
        match e.kind() {
            // EDQUOT and EFBIG are ENOSPC on the wire (NBD, "Error values")
            K::StorageFull | K::QuotaExceeded | K::FileTooLarge => Self::NoSpc,
            K::PermissionDenied | K::ReadOnlyFilesystem => Self::Perm,
            K::OutOfMemory => Self::NoMem,
            K::InvalidInput => Self::Inval,
            K::Unsupported => Self::NotSup,
            _ => Self::Io,
        }
    }
}

impl From<std::io::Error> for Errno {
    fn from(e: std::io::Error) -> Self {
        Self::from(&e)
    }
}

/// Why [`Export::try_read`] gave no data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadError {
    /// The data is not in memory: call [`Export::read`] on a thread that may block.
    WouldBlock,
    /// The read failed.
    Failed(Errno),
}

/// One line of the list of exports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExportName {
    /// What a client asks for.
    pub name: String,
    /// For a person; may be empty.
    pub description: String,
}

/// Why an export cannot be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpenErrorKind {
    /// No such export, or no such state of it.
    Unknown,
    /// It exists, and this client may not have it.
    Policy,
    /// It exists, and cannot be served now.
    NotReady,
}

/// A refusal with its text for the client.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct OpenError {
    /// What kind of refusal.
    pub kind: OpenErrorKind,
    /// Sent to the client; says what to do instead.
    pub text: String,
}

impl OpenError {
    /// "No export X; there are: …", shortened to what a message may hold.
    pub fn unknown(name: &str, known: &[ExportName]) -> Self {
        const NAMED: usize = 16;
        let mut text = format!("no export {name:?} here");
        if known.is_empty() {
            text.push_str("; nothing is exported");
        } else {
            text.push_str("; exports are: ");
            let names: Vec<&str> = known.iter().take(NAMED).map(|e| e.name.as_str()).collect();
            text.push_str(&names.join(", "));
            if known.len() > NAMED {
                text.push_str(&format!(" and {} more", known.len() - NAMED));
            }
        }
        Self { kind: OpenErrorKind::Unknown, text }
    }
}

/// What a connection learns about an export when it opens it. Constant while it is open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExportInfo {
    /// Size in bytes.
    pub size: u64,
    /// Writes are refused with EPERM.
    pub read_only: bool,
    /// Preferred request alignment in bytes; announced as at least 4096.
    pub block_size: u32,
    /// FLUSH and FUA on one connection cover writes of all connections.
    pub can_multi_conn: bool,
    /// TRIM is offered.
    pub can_trim: bool,
    /// WRITE_ZEROES is offered.
    pub can_zero: bool,
    /// FAST_ZERO is offered: `zero(fast)` is quick or fails at once with [`Errno::NotSup`].
    pub can_fast_zero: bool,
    /// CACHE is offered.
    pub can_cache: bool,
    /// `block_status` is cheap and does not block: reads ask it for zero areas.
    pub cheap_status: bool,
    /// Text for a person; may be empty.
    pub description: String,
}

/// A run of bytes of one kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// Length in bytes.
    pub len: u64,
    /// Not allocated: a write may meet ENOSPC.
    pub hole: bool,
    /// Reads as zeroes.
    pub zero: bool,
}

/// Who is at the other end of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Peer {
    /// Somebody who may open the Unix socket.
    Local,
    /// Somebody at this address, in plain text.
    Plain(SocketAddr),
    /// Somebody at this address over TLS, and what that has proven; perhaps nothing.
    Tls(SocketAddr, Proven),
}

/// Names to exports.
pub trait Exports: Send + Sync + 'static {
    /// What the list option shows.
    fn list(&self) -> Vec<ExportName>;

    /// Whether this client may ask for the list at all.
    ///
    /// # Errors
    /// The refusal, with the remedy.
    fn may_list(&self) -> Result<(), OpenError> {
        Ok(())
    }

    /// These exports as one client may see and open them; `None`: as they are.
    fn seen_by(&self, _peer: &Peer) -> Option<Arc<dyn Exports>> {
        None
    }

    /// A client was turned away before it could ask for anything. `kind` is one of few.
    fn turned_away(&self, _peer: &Peer, _kind: &'static str, _why: &str) {}

    /// Opens an export for one connection that enters transmission. What is opened stays pinned
    /// until the last reference is dropped.
    fn open(&self, name: &str) -> Result<Arc<dyn Export>, OpenError>;

    /// Describes an export without entering it.
    fn describe(&self, name: &str) -> Result<ExportInfo, OpenError> {
        self.open(name).map(|export| export.info())
    }
}

/// One open export. Ranges are checked before every call: they lie within `info().size`.
///
/// Calls come from many threads at once. The order of overlapping requests in flight is the
/// client's matter (NBD, "Ordering of messages and writes").
pub trait Export: Send + Sync {
    /// Constant for the life of this value.
    fn info(&self) -> ExportInfo;

    /// Reads if that needs no waiting. `buf` may be scribbled on when this fails.
    fn try_read(&self, offset: u64, buf: &mut [u8]) -> Result<(), ReadError>;

    /// What one long request reads from beginning to end, piece by piece, where that is not this
    /// value itself: an export that follows what changes gives one state of it.
    ///
    /// # Errors
    /// It cannot be read now.
    fn for_one_request(&self) -> Result<Option<Arc<dyn Export>>, Errno> {
        Ok(None)
    }

    /// Reads; may block.
    fn read(&self, offset: u64, buf: &mut [u8]) -> Result<(), Errno>;

    /// Writes. Runs on the connection's thread unless [`Export::write_might_block`].
    fn write(&self, offset: u64, data: &[u8]) -> Result<(), Errno>;

    /// Whether writes go to the worker pool just now.
    fn write_might_block(&self) -> bool {
        false
    }

    /// Makes durable every write that returned before this call; may block.
    fn flush(&self) -> Result<(), Errno>;

    /// The range's content is no longer needed; may block.
    fn trim(&self, offset: u64, len: u64) -> Result<(), Errno>;

    /// The range reads as zeroes from now on; may block. `no_hole` keeps it allocated; `fast` asks
    /// for [`Errno::NotSup`] when it would take as long as writing zeroes.
    fn zero(&self, offset: u64, len: u64, no_hole: bool, fast: bool) -> Result<(), Errno>;

    /// The range will be read soon; may block.
    fn cache(&self, _offset: u64, _len: u64) -> Result<(), Errno> {
        Ok(())
    }

    /// The content is written elsewhere from now on, from the very state on that it had here: a
    /// request that fails gets no answer, but its connection ends, so that a client that connects
    /// again and repeats it finds the writer.
    fn is_handed_over(&self) -> bool {
        false
    }

    /// Consecutive extents from `offset`: at least one, at most `max_extents`. They need not reach
    /// the end of the range and may pass it.
    fn block_status(&self, offset: u64, len: u64, max_extents: usize)
    -> Result<Vec<Extent>, Errno>;
}
