//! How a node is reached: by the socket in its data folder, or over the network with a token.

use std::fmt;
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rcp::net::tls::{self, Trusted};
use rcp::net::{ByteStream, connect_tcp};
use rcp::proto::ids::NodeName;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

use super::client::ClientError;

/// Time to get a connection, TLS included.
const CONNECT: Duration = Duration::from_secs(5);
/// A node that is gone in the middle of a long answer is noticed after about four of these.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// Longest path of a Unix socket that the kernel takes, with its final zero.
const MAX_SOCKET_PATH: usize = 108;

/// What is said to somebody whose node is not running.
pub(super) const HOW_TO_START: &str =
    "start it with `rcpctl up TOPOLOGY`, or as the service that runs rcpd on this machine";

/// What proves over the network who asks; never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// A token as `rcpctl token create` printed it; `None` if it cannot be one.
    #[must_use]
    pub fn new(text: &str) -> Option<Self> {
        let text = text.trim();
        let good = !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic());
        good.then(|| Self(text.to_owned()))
    }

    /// The value of the `Authorization` header (RFC 6750, section 2.1).
    pub(super) fn header(&self) -> String {
        format!("Bearer {}", self.0)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// A node that is asked over the network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remote {
    /// Its name, which its certificate must prove.
    pub node: NodeName,
    /// `host:port`
    pub address: String,
    /// Whose certificates are believed; without, the node is asked in plain text.
    pub trusted: Option<Trusted>,
    /// Without one, only what is open to everybody is answered.
    pub token: Option<Secret>,
}

/// Where a node is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Way {
    /// On this machine: its control socket.
    Socket {
        /// The socket.
        path: PathBuf,
        /// What to do if the node is elsewhere; may be empty.
        elsewhere: &'static str,
    },
    /// At its shared port.
    Network(Remote),
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket { path, .. } => write!(f, "{}", path.display()),
            Self::Network(r) => write!(f, "{} ({})", r.address, r.node),
        }
    }
}

impl Way {
    /// A socket.
    #[must_use]
    pub fn socket(path: impl Into<PathBuf>) -> Self {
        Self::Socket { path: path.into(), elsewhere: "" }
    }

    /// The data folder of a node on this machine.
    #[must_use]
    pub fn folder(&self) -> Option<&Path> {
        match self {
            Self::Socket { path, .. } => Some(path.parent().unwrap_or(Path::new("."))),
            Self::Network(_) => None,
        }
    }

    /// A new connection, ready for HTTP/1.1.
    pub(super) async fn connect(&self) -> Result<Box<dyn ByteStream>, ClientError> {
        let late = |_| Err(ClientError::Broken(format!("rcpd at {self} does not answer")));
        timeout(CONNECT, self.open()).await.unwrap_or_else(late)
    }

    async fn open(&self) -> Result<Box<dyn ByteStream>, ClientError> {
        match self {
            Self::Socket { path, elsewhere } => match unix(path).await {
                Ok(io) => Ok(Box::new(io)),
                Err(e) => Err(no_socket(path, elsewhere, &e)),
            },
            Self::Network(remote) => remote.open().await,
        }
    }
}

impl Remote {
    async fn open(&self) -> Result<Box<dyn ByteStream>, ClientError> {
        let Self { node, address, .. } = self;
        let io = tcp(address).await.map_err(|e| match e.kind() {
            io::ErrorKind::ConnectionRefused => ClientError::NotRunning(format!(
                "no rcpd is running at {address} ({node}), or a firewall refuses in its place"
            )),
            _ => ClientError::Broken(format!("cannot reach {node} at {address}: {e}")),
        })?;
        let Some(trusted) = &self.trusted else { return Ok(Box::new(io)) };
        let io = tls::connect_as_guest(trusted, node, io).await;
        io.map(|io| Box::new(io) as Box<dyn ByteStream>)
            .map_err(|e| ClientError::Broken(format!("no TLS with {node} at {address}: {e}")))
    }
}

async fn tcp(address: &str) -> io::Result<TcpStream> {
    let io = connect_tcp(address).await?;
    io.set_nodelay(true)?;
    let alive = TcpKeepalive::new().with_time(KEEP_ALIVE).with_interval(KEEP_ALIVE);
    SockRef::from(&io).set_tcp_keepalive(&alive.with_retries(3))?;
    Ok(io)
}

async fn unix(socket: &Path) -> io::Result<UnixStream> {
    if socket.as_os_str().len() < MAX_SOCKET_PATH {
        return UnixStream::connect(socket).await;
    }
    // Too long for the kernel's address: go through the open folder.
    let (Some(folder), Some(name)) = (socket.parent(), socket.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let folder = std::fs::File::open(folder)?;
    let path = Path::new("/proc/self/fd").join(folder.as_raw_fd().to_string()).join(name);
    UnixStream::connect(path).await
}

fn is_socket(path: &Path) -> bool {
    use std::os::unix::fs::FileTypeExt;
    std::fs::metadata(path).is_ok_and(|m| m.file_type().is_socket())
}

fn no_socket(path: &Path, elsewhere: &str, error: &io::Error) -> ClientError {
    let socket = path.display();
    match error.kind() {
        io::ErrorKind::NotFound => ClientError::NotRunning(format!(
            "no rcpd is running there: there is no {socket}; {HOW_TO_START}{elsewhere}"
        )),
        io::ErrorKind::ConnectionRefused if !is_socket(path) => {
            ClientError::Broken(format!("{socket} is no socket: a node's is DATA-FOLDER/rcpd.sock"))
        }
        io::ErrorKind::ConnectionRefused => ClientError::NotRunning(format!(
            "no rcpd is running there: {socket} is left over from one that ended; {HOW_TO_START}"
        )),
        io::ErrorKind::PermissionDenied => ClientError::Broken(format!(
            "no permission to use {socket}: run this as the user that rcpd runs as"
        )),
        _ => ClientError::Broken(format!("cannot reach rcpd at {socket}: {error}")),
    }
}
