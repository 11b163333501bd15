//! Which node a command is for: from options, environment and the current folder to a socket, or to
//! an address and a token.

use std::ffi::OsString;
use std::net::{IpAddr, ToSocketAddrs, UdpSocket};
use std::path::{Path, PathBuf};

use clap::Args;
use config::{Host, HostPort, NodePlan, Topology};
use rcp::net::tls::Trusted;

use super::client::Client;
use super::output::Failed;
use super::way::{Remote, Secret, Way};

/// Name of the control socket in a data folder.
pub const SOCKET: &str = "rcpd.sock";
/// Environment variable that names a data folder.
pub const DIR_VARIABLE: &str = "RCP_DIR";
/// Environment variable that holds a token.
pub const TOKEN_VARIABLE: &str = "RCP_TOKEN";

/// For a node that is not on this machine, when there is no token.
pub(super) const BY_TOKEN: &str = "; if it is on another machine, put a token (`rcpctl token create`) into RCP_TOKEN, or name its \
     file with --token-file";

/// Where the node is. Without any of these: the folder in RCP_DIR, then the current folder. A topology
/// alone means all its nodes (status, down, history, failover) or the volume's primary.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Which node")]
pub struct Target {
    /// Data folder of the node
    #[arg(long, value_name = "DIR")]
    pub dir: Vec<PathBuf>,
    /// Control socket of the node
    #[arg(long, value_name = "FILE")]
    pub socket: Vec<PathBuf>,
    /// Topology file that the node is in; without --node: all of its nodes (status, down, history,
    /// failover, volume list), or the primary of the volume or group
    #[arg(long, value_name = "FILE")]
    pub topology: Option<PathBuf>,
    /// The node's name in the topology
    #[arg(long, value_name = "NAME", requires = "topology")]
    pub node: Vec<String>,
    /// File with a token, to ask nodes on other machines; without it the token in RCP_TOKEN
    #[arg(long, value_name = "FILE", requires = "topology")]
    pub token_file: Option<PathBuf>,
}

/// What surrounds the command.
#[derive(Clone, Debug, Default)]
pub struct Surroundings {
    /// The value of [`DIR_VARIABLE`].
    pub rcp_dir: Option<OsString>,
    /// The current folder has a socket.
    pub socket_here: bool,
    /// The value of [`TOKEN_VARIABLE`].
    pub token: Option<String>,
}

impl Surroundings {
    /// Of this process.
    #[must_use]
    pub fn read() -> Self {
        Self {
            rcp_dir: std::env::var_os(DIR_VARIABLE).filter(|v| !v.is_empty()),
            socket_here: Path::new(SOCKET).exists(),
            token: std::env::var(TOKEN_VARIABLE).ok().filter(|v| !v.is_empty()),
        }
    }
}

/// One node to ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Its name, if a topology says it.
    pub name: Option<String>,
    /// How it is reached.
    pub way: Way,
    /// It belongs on this machine, whether it runs or not.
    pub here: bool,
}

impl Endpoint {
    fn of_dir(dir: &Path) -> Self {
        Self { name: None, way: Way::socket(dir.join(SOCKET)), here: true }
    }

    /// What to call it before it has said its name.
    #[must_use]
    pub fn called(&self) -> String {
        let place = || match self.way.folder() {
            Some(folder) => {
                let full = std::path::absolute(folder).unwrap_or_else(|_| folder.to_owned());
                full.display().to_string()
            }
            None => self.way.to_string(),
        };
        self.name.clone().unwrap_or_else(place)
    }

    /// Which node it is, if the topology or its data folder says it.
    #[must_use]
    pub fn node_name(&self) -> Option<String> {
        let stored = || {
            let text = std::fs::read_to_string(self.way.folder()?.join("node")).ok()?;
            Some(text.trim().to_owned())
        };
        self.name.clone().or_else(stored)
    }

    /// It can be asked: over the network, or it belongs here. (It may have been stopped, and its
    /// socket be gone: that is worth telling.)
    #[must_use]
    pub fn is_there(&self) -> bool {
        match &self.way {
            Way::Socket { path, .. } => self.here || path.exists(),
            Way::Network(_) => true,
        }
    }

    /// It has been started on this machine at some time, or can be asked over the network.
    #[must_use]
    pub fn was_there(&self) -> bool {
        match &self.way {
            Way::Socket { path, .. } => path.parent().is_some_and(Path::is_dir),
            Way::Network(_) => true,
        }
    }

    /// A client for it.
    #[must_use]
    pub fn client(&self) -> Client {
        Client::by(self.way.clone())
    }
}

/// For what a single node is looked for, when only a topology is given.
#[derive(Clone, Copy, Debug)]
pub enum Purpose<'a> {
    /// For a volume: the primary of its group.
    Volume(&'a str),
    /// For a group: its primary.
    Group(&'a str),
    /// For this node.
    Node(&'a str),
    /// For nothing that would tell.
    Any,
}

impl Target {
    /// All nodes meant.
    ///
    /// # Errors
    /// When there is none, or the topology cannot be read.
    pub fn all(&self, around: &Surroundings) -> Result<Vec<Endpoint>, Failed> {
        let mut found: Vec<Endpoint> = self.dir.iter().map(|d| Endpoint::of_dir(d)).collect();
        found.extend(self.socket.iter().map(|s| Endpoint {
            name: None,
            way: Way::socket(s),
            here: true,
        }));
        if let Some(file) = &self.topology {
            let map = Map::read(file, self, around)?;
            if self.node.is_empty() {
                found.extend(map.topology.nodes().map(|n| map.endpoint(n)));
            }
            for name in &self.node {
                found.push(map.named(name)?);
            }
        }
        if found.is_empty() {
            found.push(default_endpoint(around)?);
        }
        Ok(found)
    }

    /// The one node meant.
    ///
    /// # Errors
    /// When there is none or more than one, or the topology cannot be read.
    pub fn one(&self, purpose: Purpose<'_>, around: &Surroundings) -> Result<Endpoint, Failed> {
        let mut found = match (&self.topology, self.node.as_slice()) {
            (Some(file), []) if self.dir.is_empty() && self.socket.is_empty() => {
                vec![Map::read(file, self, around)?.endpoint_for(purpose)?]
            }
            _ => self.all(around)?,
        };
        match (found.pop(), found.as_slice()) {
            (Some(one), []) => Ok(one),
            _ => {
                Err(Failed::usage("this is asked of one node: name one --dir, --socket or --node"))
            }
        }
    }
}

/// Reads and compiles a topology file; `-` is standard input.
pub(super) fn load(file: &Path) -> Result<Topology, Failed> {
    let name = file.display();
    let text = if file == Path::new("-") {
        std::io::read_to_string(std::io::stdin())
    } else {
        std::fs::read_to_string(file)
    };
    let text = text.map_err(|e| Failed::new(format!("cannot read the topology {name}: {e}")))?;
    Topology::compile(&text, &name.to_string()).map_err(|e| {
        let colour = std::io::IsTerminal::is_terminal(&std::io::stderr());
        let said = if colour { e.coloured() } else { e.plain() };
        Failed::new(format!("the topology {name} is not usable\n{said}"))
    })
}

/// A topology, and what it takes to reach its nodes.
struct Map<'a> {
    topology: Topology,
    folder: &'a Path,
    trusted: Option<Trusted>,
    token: Option<Secret>,
}

impl<'a> Map<'a> {
    fn read(file: &'a Path, target: &Target, around: &Surroundings) -> Result<Self, Failed> {
        let topology = load(file)?;
        let folder = file.parent().unwrap_or(Path::new(""));
        let trusted = topology.pki().map(|p| Trusted::in_folder(&folder.join(p)));
        let token = token(target.token_file.as_deref(), around)?;
        Ok(Self { topology, folder, trusted, token })
    }

    fn named(&self, name: &str) -> Result<Endpoint, Failed> {
        let node = self.topology.require_node(name).map_err(|e| Failed::new(e.to_string()))?;
        Ok(self.endpoint(node))
    }

    fn endpoint(&self, node: &NodePlan) -> Endpoint {
        let folder = self.folder.join(&node.data).is_dir() && !self.shares(node);
        let here = folder || is_here(&node.address);
        Endpoint { name: Some(node.name.to_string()), way: self.way(node), here }
    }

    /// Nodes on different machines may have folders of one name.
    fn shares(&self, node: &NodePlan) -> bool {
        self.topology.nodes().filter(|n| n.data == node.data).count() > 1
    }

    /// By its socket, if the node is here; else over the network, if there is a token or, where
    /// there are no certificates, if another machine is meant.
    fn way(&self, node: &NodePlan) -> Way {
        // `DIR/./one` is `DIR/one` for the eye.
        let path: PathBuf = self.folder.join(&node.data).join(SOCKET).components().collect();
        let here = path.exists() && (!self.shares(node) || is_here(&node.address));
        let open = match self.trusted {
            Some(_) => self.token.is_some(),
            None => !node.address.is_loopback(),
        };
        if here || !open {
            let elsewhere = if self.trusted.is_some() && !open { BY_TOKEN } else { "" };
            return Way::Socket { path, elsewhere };
        }
        Way::Network(Remote {
            node: node.name.clone(),
            address: node.address.to_string(),
            trusted: self.trusted.clone(),
            token: self.token.clone().filter(|_| self.trusted.is_some()),
        })
    }

    fn endpoint_for(&self, purpose: Purpose<'_>) -> Result<Endpoint, Failed> {
        let topology = &self.topology;
        match purpose {
            Purpose::Volume(label) => {
                let (group, _) = topology.require_volume(label).map_err(|e| {
                    Failed::new(format!(
                        "{e}; if it was created later, name the node as well: --node NAME"
                    ))
                })?;
                self.named(group.primary.as_str())
            }
            Purpose::Group(group) => {
                let known = topology.require_group(group).map_err(|e| {
                    Failed::new(format!(
                        "{e}; nor is a node that answered the primary of a group of that name that a \
                         command made (`rcpctl group list`)"
                    ))
                })?;
                self.named(known.primary.as_str())
            }
            Purpose::Node(node) => self.named(node),
            Purpose::Any => {
                let names: Vec<_> = topology.nodes().map(|n| n.name.as_str()).collect();
                let text =
                    format!("name the node: --node NAME; the nodes are {}", names.join(", "));
                Err(Failed::usage(text))
            }
        }
    }
}

/// The address is one of this machine's: it can be bound to.
fn is_here(address: &HostPort) -> bool {
    let bound = |ip: IpAddr| UdpSocket::bind((ip, 0)).is_ok();
    match address.host() {
        Host::Ip(ip) => bound(*ip),
        Host::Name(name) => (name.as_str(), address.port())
            .to_socket_addrs()
            .is_ok_and(|mut all| all.any(|a| bound(a.ip()))),
    }
}

fn token(file: Option<&Path>, around: &Surroundings) -> Result<Option<Secret>, Failed> {
    let bad = |whose: &str| Failed::new(format!("{whose} holds no token: it is one word"));
    let (text, whose) = match (file, &around.token) {
        (Some(file), _) => {
            let name = file.display();
            let text = std::fs::read_to_string(file)
                .map_err(|e| Failed::new(format!("cannot read the token in {name}: {e}")))?;
            (text, name.to_string())
        }
        (None, Some(text)) => (text.clone(), TOKEN_VARIABLE.to_owned()),
        (None, None) => return Ok(None),
    };
    Secret::new(&text).map(Some).ok_or_else(|| bad(&whose))
}

fn default_endpoint(around: &Surroundings) -> Result<Endpoint, Failed> {
    match &around.rcp_dir {
        Some(dir) => Ok(Endpoint::of_dir(Path::new(dir))),
        None if around.socket_here => Ok(Endpoint::of_dir(Path::new("."))),
        None => Err(Failed::new(format!(
            "which node? Say --dir DIR (its data folder), --socket FILE, or --topology FILE with \
             --node NAME; or set {DIR_VARIABLE} to a data folder; or change into one (there is no \
             {SOCKET} in the current folder)"
        ))),
    }
}
