//! Which node a command is for: from options, environment and the current folder to a socket.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::Args;
use config::Topology;

use super::client::Client;
use super::output::Failed;

/// Name of the control socket in a data folder.
pub const SOCKET: &str = "rcpd.sock";
/// Environment variable that names a data folder.
pub const DIR_VARIABLE: &str = "RCP_DIR";

/// Where the node is. Without any of these: the folder in RCP_DIR, then the current folder.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Which node")]
pub struct Target {
    /// Data folder of the node
    #[arg(long, value_name = "DIR")]
    pub dir: Vec<PathBuf>,
    /// Control socket of the node
    #[arg(long, value_name = "FILE")]
    pub socket: Vec<PathBuf>,
    /// Topology file that the node is in
    #[arg(long, value_name = "FILE")]
    pub topology: Option<PathBuf>,
    /// The node's name in the topology
    #[arg(long, value_name = "NAME", requires = "topology")]
    pub node: Vec<String>,
}

/// What surrounds the command.
#[derive(Clone, Debug, Default)]
pub struct Surroundings {
    /// The value of [`DIR_VARIABLE`].
    pub rcp_dir: Option<OsString>,
    /// The current folder has a socket.
    pub socket_here: bool,
}

impl Surroundings {
    /// Of this process.
    #[must_use]
    pub fn read() -> Self {
        Self {
            rcp_dir: std::env::var_os(DIR_VARIABLE).filter(|v| !v.is_empty()),
            socket_here: Path::new(SOCKET).exists(),
        }
    }
}

/// One node to ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Its name, if a topology says it.
    pub name: Option<String>,
    /// Its socket.
    pub socket: PathBuf,
}

impl Endpoint {
    fn of_dir(dir: &Path) -> Self {
        Self { name: None, socket: dir.join(SOCKET) }
    }

    /// What to call it before it has said its name.
    #[must_use]
    pub fn called(&self) -> String {
        let folder = || {
            let folder = self.socket.parent().unwrap_or(&self.socket);
            let full = std::path::absolute(folder).unwrap_or_else(|_| folder.to_owned());
            full.display().to_string()
        };
        self.name.clone().unwrap_or_else(folder)
    }

    /// A client for it.
    #[must_use]
    pub fn client(&self) -> Client {
        Client::new(&self.socket)
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
        found.extend(self.socket.iter().map(|s| Endpoint { name: None, socket: s.clone() }));
        if let Some(file) = &self.topology {
            let topology = load(file)?;
            if self.node.is_empty() {
                found.extend(topology.nodes().map(|n| in_topology(file, n)));
            }
            for name in &self.node {
                let node = topology.require_node(name).map_err(|e| Failed::new(e.to_string()))?;
                found.push(in_topology(file, node));
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
                vec![in_topology_for(file, purpose)?]
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

fn in_topology(file: &Path, node: &config::NodePlan) -> Endpoint {
    let folder = file.parent().unwrap_or(Path::new(""));
    // `DIR/./one` is `DIR/one` for the eye.
    let socket = folder.join(&node.data).join(SOCKET).components().collect();
    Endpoint { name: Some(node.name.to_string()), socket }
}

fn in_topology_for(file: &Path, purpose: Purpose<'_>) -> Result<Endpoint, Failed> {
    let topology = load(file)?;
    let said = |e: config::UnknownName| Failed::new(e.to_string());
    let name = match purpose {
        Purpose::Volume(label) => topology
            .require_volume(label)
            .map_err(|e| {
                Failed::new(format!(
                    "{e}; if it was created later, name the node as well: --node NAME"
                ))
            })?
            .0
            .primary
            .as_str(),
        Purpose::Group(group) => topology.require_group(group).map_err(said)?.primary.as_str(),
        Purpose::Node(node) => node,
        Purpose::Any => {
            let names: Vec<_> = topology.nodes().map(|n| n.name.as_str()).collect();
            let text = format!("name the node: --node NAME; the nodes are {}", names.join(", "));
            return Err(Failed::usage(text));
        }
    };
    topology.require_node(name).map(|n| in_topology(file, n)).map_err(said)
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
