//! Stream sockets, TCP and Unix alike, and the listeners that give them.

use super::deadline::Deadline;
use super::limits::{KEEPALIVE_IDLE, UNIX_SEND_BUFFER};
use rustix::net::{RecvFlags, SendFlags, Shutdown, sockopt};
use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

/// A connected stream.
#[derive(Debug)]
pub(crate) struct Socket {
    fd: OwnedFd,
    /// Who is at the other end of a TCP connection.
    peer: Option<SocketAddr>,
}

impl Socket {
    /// One that came in, or was dialled.
    pub(crate) fn tcp(s: TcpStream, peer: SocketAddr) -> Self {
        // a failure costs latency, not correctness
        let _ = s.set_nodelay(true);
        // a peer that vanished gives its place back in a few minutes
        let _ = sockopt::set_socket_keepalive(&s, true);
        let _ = sockopt::set_tcp_keepidle(&s, KEEPALIVE_IDLE);
        Self { fd: s.into(), peer: Some(peer) }
    }
}

impl From<UnixStream> for Socket {
    fn from(s: UnixStream) -> Self {
        // as above
        let _ = sockopt::set_socket_send_buffer_size(&s, UNIX_SEND_BUFFER);
        Self { fd: s.into(), peer: None }
    }
}

impl Socket {
    /// The address of the other end; `None` for a Unix socket.
    pub(crate) fn peer(&self) -> Option<SocketAddr> {
        self.peer
    }

    /// The same TCP connection for a runtime. From now on this one is good for nothing but to end
    /// it.
    pub(crate) fn nonblocking(&self) -> io::Result<TcpStream> {
        let stream = TcpStream::from(self.fd.try_clone()?);
        stream.set_nonblocking(true)?;
        Ok(stream)
    }

    fn recv_with(&self, buf: &mut [u8], flags: RecvFlags) -> io::Result<usize> {
        loop {
            match rustix::net::recv(&self.fd, &mut *buf, flags) {
                Ok((n, _)) => return Ok(n),
                Err(rustix::io::Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
    }

    /// Waits for bytes; 0 is the end.
    pub(crate) fn recv(&self, buf: &mut [u8]) -> io::Result<usize> {
        self.recv_with(buf, RecvFlags::empty())
    }

    /// Takes what is there; `WouldBlock` if nothing is.
    pub(crate) fn try_recv(&self, buf: &mut [u8]) -> io::Result<usize> {
        self.recv_with(buf, RecvFlags::DONTWAIT)
    }

    fn send_with(&self, buf: &[u8], flags: SendFlags) -> io::Result<usize> {
        loop {
            match rustix::net::send(&self.fd, buf, flags | SendFlags::NOSIGNAL) {
                Ok(n) => return Ok(n),
                Err(rustix::io::Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
    }

    /// Sends everything; waits as long as the peer takes.
    pub(crate) fn send_all(&self, mut buf: &[u8]) -> io::Result<()> {
        while !buf.is_empty() {
            match self.send_with(buf, SendFlags::empty())? {
                0 => return Err(ErrorKind::WriteZero.into()),
                n => buf = &buf[n..],
            }
        }
        Ok(())
    }

    /// Sends everything before the deadline, however slowly the peer takes it.
    pub(crate) fn send_all_by(&self, mut buf: &[u8], deadline: Deadline) -> io::Result<()> {
        while !buf.is_empty() {
            self.limit(deadline)?;
            match self.send_with(buf, SendFlags::empty())? {
                0 => return Err(ErrorKind::WriteZero.into()),
                n => buf = &buf[n..],
            }
        }
        Ok(())
    }

    /// Sends what fits at once; 0 when nothing does.
    pub(crate) fn try_send(&self, buf: &[u8]) -> io::Result<usize> {
        match self.send_with(buf, SendFlags::DONTWAIT) {
            Err(e) if e.kind() == ErrorKind::WouldBlock => Ok(0),
            other => other,
        }
    }

    /// Bounds every later wait by what is left of `deadline`; fails when nothing is.
    pub(crate) fn limit(&self, deadline: Deadline) -> io::Result<()> {
        let left = deadline.left().ok_or(ErrorKind::TimedOut)?;
        sockopt::set_socket_timeout(&self.fd, sockopt::Timeout::Recv, Some(left))?;
        sockopt::set_socket_timeout(&self.fd, sockopt::Timeout::Send, Some(left))?;
        Ok(())
    }

    /// Waits without limit from now on.
    pub(crate) fn unlimit(&self) -> io::Result<()> {
        sockopt::set_socket_timeout(&self.fd, sockopt::Timeout::Recv, None)?;
        sockopt::set_socket_timeout(&self.fd, sockopt::Timeout::Send, None)?;
        Ok(())
    }

    /// Ends reading: what arrived can still be taken, then the end shows.
    pub(crate) fn stop_reading(&self) {
        let _ = rustix::net::shutdown(&self.fd, Shutdown::Read);
    }

    /// Ends both directions at once; wakes whoever waits.
    pub(crate) fn close(&self) {
        let _ = rustix::net::shutdown(&self.fd, Shutdown::Both);
    }
}

/// A bound listener.
#[derive(Debug)]
pub(crate) enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener, PathBuf),
}

impl Listener {
    pub(crate) fn tcp(addr: SocketAddr) -> io::Result<Self> {
        TcpListener::bind(addr).map(Self::Tcp)
    }

    /// Binds a Unix socket that only its owner may use. A leftover nobody answers on is replaced.
    pub(crate) fn unix(path: &Path) -> io::Result<Self> {
        let listener = match UnixListener::bind(path) {
            Err(e) if e.kind() == ErrorKind::AddrInUse && is_leftover(path) => {
                std::fs::remove_file(path)?;
                UnixListener::bind(path)?
            }
            other => other?,
        };
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
        Ok(Self::Unix(listener, path.to_owned()))
    }

    pub(crate) fn tcp_addr(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(l) => l.local_addr().ok(),
            Self::Unix(..) => None,
        }
    }

    pub(crate) fn accept(&self) -> io::Result<Socket> {
        match self {
            Self::Tcp(l) => l.accept().map(|(s, peer)| Socket::tcp(s, peer)),
            Self::Unix(l, _) => l.accept().map(|(s, _)| s.into()),
        }
    }

    /// Makes a waiting and every later accept fail, and takes the name away.
    pub(crate) fn close(&self) {
        match self {
            Self::Tcp(l) => {
                let _ = rustix::net::shutdown(l, Shutdown::Both);
            }
            Self::Unix(l, path) => {
                let _ = rustix::net::shutdown(l, Shutdown::Both);
                let _ = std::fs::remove_file(path);
            }
        }
    }
}

fn is_leftover(path: &Path) -> bool {
    UnixStream::connect(path).is_err_and(|e| e.kind() == ErrorKind::ConnectionRefused)
}
