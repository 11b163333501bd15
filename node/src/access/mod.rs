//! Who may ask a node what: scopes, tokens, and the record of changes.
//!
//! A request comes over the Unix socket in the data folder (whoever may open it may do everything),
//! over plain TCP, or over TLS, where a node proves its name by its certificate. What it needs is a
//! [`Scope`]; what it has is decided by [`Policy::decide`], which is pure. Without certificates the
//! shared port serves reads only, and only loopback is listened on; with them, reads and changes
//! need a bearer token (RFC 6750) or, for reads, a node's certificate.

mod audit;
pub(crate) mod host;
mod tokens;

pub use audit::Audit;
pub use tokens::{Token, TokenError, Tokens};

use serde::{Deserialize, Serialize};

/// What a request needs; a higher one includes the lower.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, clap::ValueEnum,
)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// Status, routes and the bytes of volumes.
    Read,
    /// Delta sets, replication and routes.
    Operate,
    /// Volumes as such, failover, the topology, and the end of the node.
    Admin,
}

impl Scope {
    /// As written.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Operate => "operate",
            Self::Admin => "admin",
        }
    }
}

/// What a path is, as far as access goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// Open to everybody who can connect: nothing of the node is in the answer.
    Nothing,
    /// Health: open to everybody who can connect, unless the operator closed it.
    Health,
    /// Metrics: open, unless the operator closed them.
    Metrics,
    /// A scope.
    Scope(Scope),
}

/// By what a request came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Way {
    /// The Unix socket in the data folder, opened by this user.
    Socket {
        /// User id of the process at the other end.
        uid: Option<u32>,
    },
    /// TCP without TLS.
    Plain,
    /// TLS; the name in the peer's certificate, if it showed one.
    Tls {
        /// A node of the topology.
        node: Option<String>,
    },
}

/// Who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// Address, for the record.
    pub from: String,
    /// By what it came.
    pub way: Way,
}

impl Caller {
    /// Somebody at the Unix socket.
    #[must_use]
    pub fn socket(uid: Option<u32>) -> Self {
        Self { from: "rcpd.sock".to_owned(), way: Way::Socket { uid } }
    }

    /// Somebody at the shared port.
    #[must_use]
    pub fn plain(from: impl Into<String>) -> Self {
        Self { from: from.into(), way: Way::Plain }
    }
}

/// Under whose name a request is carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Who(pub String);

/// How a node guards its shared port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// The node has certificates: reads and changes over TCP need proof of who asks.
    pub secured: bool,
    /// Metrics need the scope `read` as well.
    pub metrics_closed: bool,
    /// Health too.
    pub health_closed: bool,
}

/// Why not; RFC 6750, section 3.1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Denied {
    /// Nothing that proves anything was shown (401).
    NoProof(String),
    /// What was shown is not known, has expired or was revoked (401).
    BadToken(String),
    /// It is known and not enough (403).
    Scope(String),
}

impl Denied {
    /// For people.
    #[must_use]
    pub fn text(&self) -> &str {
        match self {
            Self::NoProof(t) | Self::BadToken(t) | Self::Scope(t) => t,
        }
    }
}

impl Policy {
    /// Whether a request may be carried out, and under whose name. `token` is what followed
    /// `Bearer`, as [`Tokens::check`] found it.
    ///
    /// # Errors
    /// [`Denied`], with the remedy.
    pub fn decide(
        self,
        need: Need,
        caller: &Caller,
        token: Option<Result<Token, TokenError>>,
    ) -> Result<Who, Denied> {
        let name = match &caller.way {
            Way::Socket { uid: Some(uid) } => format!("user {uid}"),
            Way::Socket { uid: None } => "the data folder's owner".to_owned(),
            Way::Plain | Way::Tls { node: None } => "anybody".to_owned(),
            Way::Tls { node: Some(node) } => format!("node {node}"),
        };
        let anybody = Ok(Who(name));
        let scope = match (need, &caller.way) {
            (_, Way::Socket { .. }) | (Need::Nothing, _) => return anybody,
            (Need::Health, _) if !self.health_closed => return anybody,
            (Need::Metrics, _) if !self.metrics_closed => return anybody,
            (Need::Metrics | Need::Health, _) => Scope::Read,
            (Need::Scope(scope), _) => scope,
        };
        if !self.secured {
            return match scope {
                Scope::Read => anybody,
                _ => Err(Denied::Scope(
                    "this node has no certificates, so that changes are taken only on the Unix \
                     socket rcpd.sock in its data folder: use rcpctl or rcproute on that machine, \
                     or give the topology `pki:`"
                        .to_owned(),
                )),
            };
        }
        if caller.way == Way::Plain {
            return Err(Denied::NoProof(
                "this port speaks HTTPS: without TLS only health and metrics are served, unless they are \
                 closed by the topology".to_owned(),
            ));
        }
        match token {
            Some(Ok(t)) if t.scope >= scope => Ok(Who(format!("token {}", t.name))),
            Some(Ok(t)) => Err(Denied::Scope(format!(
                "token {} has the scope `{}`, and this needs `{}`",
                t.name,
                t.scope.as_str(),
                scope.as_str()
            ))),
            Some(Err(e)) => Err(Denied::BadToken(e.to_string())),
            None => match &caller.way {
                Way::Tls { node: Some(_) } if scope == Scope::Read => anybody,
                _ => Err(Denied::NoProof(format!(
                    "this needs the scope `{0}`: send `Authorization: Bearer TOKEN`; `rcpctl token \
                     create NAME --scope {0}` makes one",
                    scope.as_str()
                ))),
            },
        }
    }
}

#[cfg(test)]
mod tests;
