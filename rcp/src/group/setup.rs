//! What an endpoint is made of: all of it values, nothing read from files but what is named.

use std::collections::BTreeMap;
use std::future::Future;
use std::net::IpAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::inbound::Incoming;
use super::memory::Hub;
use crate::net::tls::Pki;
use crate::proto::control::{BlockId, pipe};
use crate::proto::ids::{GroupName, NameError, NodeName};
use crate::proto::limits::MAX_CONTROL_KIND;
use crate::proto::session::Peers;
use crate::proto::transport::{Hop, Transport};

/// A future that a callback gives.
pub type Answer = Pin<Box<dyn Future<Output = Result<Bytes, String>> + Send>>;
/// A callback for a kind of control blocks.
pub(super) type Handler = Arc<dyn Fn(Block) -> Answer + Send + Sync>;
/// A callback for pipes of a name.
pub(super) type PipeHandler = Arc<dyn Fn(Incoming) -> Answer + Send + Sync>;

/// How neighbours know one another.
#[derive(Clone, Debug)]
pub enum Trust {
    /// Nobody is proven, nothing is secret: only on the loopback addresses of one machine.
    Loopback,
    /// Nobody is proven, nothing is secret, from anywhere. For networks that are secured otherwise.
    InsecurePlaintext,
    /// By the certificates of a private CA (`rcpctl pki` makes them): TLS, or QUIC where a child's
    /// [`Hop`] says so. Plain connections are refused.
    Certificates(Arc<Pki>),
    /// Within this process, without sockets.
    Memory(Hub),
}

/// A control block, as a callback gets it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// Its id; a block is handed to a callback once.
    pub id: BlockId,
    /// In which group it was sent.
    pub group: GroupName,
    /// Its kind.
    pub kind: String,
    /// What the sender wrote, at most 32 KiB.
    pub body: Bytes,
}

/// A child: where it listens, and how it is reached.
#[derive(Clone, Debug)]
pub(super) struct Child {
    pub(super) addr: String,
    pub(super) hop: Hop,
}

/// A group as one endpoint takes part in it.
#[derive(Clone, Debug)]
pub struct Group {
    pub(super) name: GroupName,
    pub(super) children: BTreeMap<NodeName, Child>,
    pub(super) feeders: Peers,
    pub(super) relay: bool,
}

impl Group {
    /// A group without children here: this endpoint is a leaf of it. Any other member may feed it.
    ///
    /// # Errors
    /// [`NameError`]
    pub fn new(name: &str) -> Result<Self, NameError> {
        Ok(Self {
            name: GroupName::new(name)?,
            children: BTreeMap::new(),
            feeders: Peers::Any,
            relay: false,
        })
    }

    /// This endpoint feeds `child`, which listens on `addr` (`host:port`).
    ///
    /// # Errors
    /// [`NameError`]
    pub fn child(self, child: &str, addr: &str) -> Result<Self, NameError> {
        self.child_by(child, addr, Hop::default())
    }

    /// As [`child`](Self::child), over this transport, or through this proxy.
    ///
    /// # Errors
    /// [`NameError`]
    pub fn child_by(mut self, child: &str, addr: &str, hop: Hop) -> Result<Self, NameError> {
        self.children.insert(NodeName::new(child)?, Child { addr: addr.to_owned(), hop });
        Ok(self)
    }

    /// Only these may feed this endpoint; nobody, if the list is empty.
    ///
    /// # Errors
    /// [`NameError`]
    pub fn feeders(mut self, feeders: &[&str]) -> Result<Self, NameError> {
        let names: Result<_, _> = feeders.iter().map(|f| NodeName::new(f)).collect();
        self.feeders = Peers::Only(names?);
        Ok(self)
    }

    /// This endpoint passes blocks and pipes on, and takes none itself.
    #[must_use]
    pub fn relay_only(mut self) -> Self {
        self.relay = true;
        self
    }
}

/// Why an endpoint cannot be made; each names the thing and the remedy.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// A name has not the form it must have.
    #[error("{0}")]
    Name(#[from] NameError),
    /// The listener.
    #[error("listening on {addr}: {source}")]
    Listen {
        /// Where.
        addr: String,
        /// Why not.
        source: std::io::Error,
    },
    /// Plain text beyond this machine.
    #[error(
        "{0} is not a loopback address, and nobody is proven: listen on 127.0.0.1, or give \
         certificates (Trust::Certificates), or say Trust::InsecurePlaintext"
    )]
    Exposed(String),
    /// A kind that cannot be one.
    #[error(
        "`{0}` cannot be the kind of a control block or the name of a pipe: 1 to {MAX_CONTROL_KIND} \
         bytes, and kinds beginning with `pipe.` are taken"
    )]
    Kind(String),
    /// A child's transport needs what is not there.
    #[error("{child} is to be reached by {transport}, which needs Trust::Certificates")]
    Transport {
        /// Which child.
        child: NodeName,
        /// How.
        transport: Transport,
    },
    /// The record of control blocks.
    #[error("{0}")]
    Record(#[from] super::record::RecordError),
}

/// An endpoint to be: give it groups and callbacks, then [start](super::Endpoint::start) it.
pub struct Setup {
    pub(super) name: NodeName,
    pub(super) trust: Trust,
    pub(super) listen: Option<String>,
    pub(super) groups: BTreeMap<GroupName, Group>,
    pub(super) handlers: BTreeMap<String, Handler>,
    pub(super) pipes: BTreeMap<String, PipeHandler>,
    pub(super) record: Option<PathBuf>,
    pub(super) keepalive: Duration,
    pub(super) patience: Duration,
}

impl std::fmt::Debug for Setup {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Setup")
            .field("name", &self.name)
            .field("listen", &self.listen)
            .field("groups", &self.groups)
            .field("kinds", &self.handlers.keys())
            .field("pipes", &self.pipes.keys())
            .finish_non_exhaustive()
    }
}

impl Setup {
    /// An endpoint that goes by `name` and takes part in nothing yet.
    ///
    /// # Errors
    /// [`SetupError::Name`]
    pub fn new(name: &str, trust: Trust) -> Result<Self, SetupError> {
        Ok(Self {
            name: NodeName::new(name)?,
            trust,
            listen: None,
            groups: BTreeMap::new(),
            handlers: BTreeMap::new(),
            pipes: BTreeMap::new(),
            record: None,
            keepalive: Duration::from_secs(2),
            patience: Duration::from_secs(10),
        })
    }

    /// Listens on `addr` for whoever feeds it; only the first sender of a group can do without.
    #[must_use]
    pub fn listen(mut self, addr: &str) -> Self {
        self.listen = Some(addr.to_owned());
        self
    }

    /// Takes part in a group.
    #[must_use]
    pub fn group(mut self, group: Group) -> Self {
        self.groups.insert(group.name.clone(), group);
        self
    }

    /// Calls `f` for each control block of this kind, one after the other, in the order in which
    /// they came. What it gives, up to 1,024 bytes of it, goes back to the sender, as result or as
    /// refusal.
    #[must_use]
    pub fn on<F, R>(mut self, kind: &str, f: F) -> Self
    where
        F: Fn(Block) -> R + Send + Sync + 'static,
        R: Future<Output = Result<Bytes, String>> + Send + 'static,
    {
        self.handlers.insert(kind.to_owned(), Arc::new(move |b| Box::pin(f(b))));
        self
    }

    /// Calls `f` for each pipe of this name. What it gives goes back to the sender when the pipe has
    /// ended; an error before that ends this member's part.
    #[must_use]
    pub fn on_pipe<F, R>(mut self, name: &str, f: F) -> Self
    where
        F: Fn(Incoming) -> R + Send + Sync + 'static,
        R: Future<Output = Result<Bytes, String>> + Send + 'static,
    {
        self.pipes.insert(name.to_owned(), Arc::new(move |p| Box::pin(f(p))));
        self
    }

    /// Keeps the record of executed blocks in this file, so that none is executed twice, whatever
    /// crashes. Without it, the record is in memory and ends with the endpoint.
    #[must_use]
    pub fn record(mut self, path: impl Into<PathBuf>) -> Self {
        self.record = Some(path.into());
        self
    }

    /// How often neighbours see a sign of life; 2 seconds unless said otherwise. A neighbour that is
    /// silent for three of them counts as away.
    #[must_use]
    pub fn keepalive(mut self, every: Duration) -> Self {
        self.keepalive = every;
        self
    }

    /// How long a pipe waits for a child that is away, and for a callback that does not read; 10
    /// seconds unless said otherwise. Who takes longer is left out of that pipe and named in its
    /// acknowledgements; the others go on.
    #[must_use]
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    pub(super) fn check(&self) -> Result<(), SetupError> {
        for kind in self.handlers.keys().chain(self.pipes.keys()) {
            check_kind(kind)?;
        }
        if matches!(self.trust, Trust::Certificates(_)) {
            return Ok(());
        }
        for (child, c) in self.groups.values().flat_map(|g| &g.children) {
            let transport = c.hop.transport.unwrap_or_default();
            if transport != Transport::Tcp {
                return Err(SetupError::Transport { child: child.clone(), transport });
            }
        }
        Ok(())
    }
}

/// Whether something can be a kind of control blocks, or the name of a pipe.
pub(super) fn check_kind(kind: &str) -> Result<(), SetupError> {
    if kind.is_empty() || kind.len() > MAX_CONTROL_KIND || pipe::is_pipe(kind) {
        return Err(SetupError::Kind(kind.chars().take(80).collect()));
    }
    Ok(())
}

/// Whether a plain connection between these two may be.
pub(super) fn plain_allowed(trust: &Trust, local: IpAddr, peer: IpAddr) -> bool {
    match trust {
        Trust::Loopback => local.is_loopback() && peer.is_loopback(),
        Trust::InsecurePlaintext | Trust::Memory(_) => true,
        Trust::Certificates(_) => false,
    }
}
