//! `rcpctl topology`: checks and draws a file, and tells running nodes of it.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use clap::Subcommand;
use config::Topology;
use serde::Serialize;

use super::client::ClientError;
use super::output::{Failed, print, print_json};
use super::status;
use super::target::{BY_TOKEN, Surroundings, Target, load};
use super::text::plural;
use crate::api::TopologyTaken;
use crate::http::{paths, requests};

#[derive(Debug, Subcommand)]
pub(super) enum TopologyCommand {
    /// Say whether a topology file is usable, and if not, everything that is wrong with it
    Check {
        /// The file; - is standard input
        file: PathBuf,
        /// Print what was found as JSON
        #[arg(long)]
        json: bool,
    },
    /// Tell running nodes of a changed topology file: addresses, and who may feed whom. Routes stay what
    /// the nodes have stored; whatever else has changed is named, and waits for a restart
    Apply {
        /// The file. Every node reads its own copy when it starts: put it there as well
        file: PathBuf,
        /// Only these nodes
        #[arg(long = "node", value_name = "NAME")]
        nodes: Vec<String>,
        /// File with a token, to ask nodes on other machines; without it the token in RCP_TOKEN
        #[arg(long, value_name = "FILE")]
        token_file: Option<PathBuf>,
        /// Print the answers as JSON
        #[arg(long)]
        json: bool,
    },
    /// Draw the trees of a topology file
    Graph {
        /// The file; - is standard input
        file: PathBuf,
        /// For Graphviz
        #[arg(long, conflicts_with = "json")]
        dot: bool,
        /// The checked topology, with every default written out, as JSON
        #[arg(long)]
        json: bool,
    },
}

pub(super) async fn run(command: TopologyCommand, around: &Surroundings) -> Result<(), Failed> {
    match command {
        TopologyCommand::Apply { file, nodes, token_file, json } => {
            let target =
                Target { topology: Some(file), node: nodes, token_file, ..Target::default() };
            apply(&target, json, around).await
        }
        TopologyCommand::Check { file, json: false } => {
            let topology = load(&file)?;
            print(&sentence(&file, &topology))
        }
        TopologyCommand::Check { file, json: true } => check_json(&file),
        TopologyCommand::Graph { file, dot, json } => {
            let topology = load(&file)?;
            if json {
                return print_json(&topology.to_spec());
            }
            let mut text = if dot { topology.dot() } else { topology.graph() };
            if !text.ends_with('\n') {
                text.push('\n');
            }
            if text.trim().is_empty() && std::io::stdout().is_terminal() {
                text = "there are no groups\n".to_owned();
            }
            print(&text)
        }
    }
}

/// What became of it at one node.
#[derive(Serialize)]
struct Told {
    node: String,
    #[serde(flatten)]
    taken: Option<TopologyTaken>,
    error: Option<String>,
}

async fn apply(target: &Target, json: bool, around: &Surroundings) -> Result<(), Failed> {
    let file = target.topology.as_deref().unwrap_or(Path::new("-"));
    let at = |e| Failed::new(format!("cannot read the topology {}: {e}", file.display()));
    let text = std::fs::read_to_string(file).map_err(at)?;
    let (endpoints, elsewhere) = status::present(target, around)?;
    let body = requests::TopologyText { text };
    let mut all = Vec::new();
    let mut failed = elsewhere.len();
    for e in &endpoints {
        let answer: Result<TopologyTaken, _> = e.client().post(paths::TOPOLOGY, &body).await;
        let node = e.called();
        all.push(match answer {
            Ok(taken) => Told { node, taken: Some(taken), error: None },
            // One that is started later reads the file then.
            Err(ClientError::NotRunning(_)) if e.here => {
                let text = "is not running: it reads its topology when it is started";
                Told { node, taken: None, error: Some(text.to_owned()) }
            }
            Err(e) => {
                failed += 1;
                Told { node, taken: None, error: Some(e.to_string()) }
            }
        });
    }
    for node in elsewhere {
        let error = Some(format!("is on another machine and was not asked{BY_TOKEN}"));
        all.push(Told { node, taken: None, error });
    }
    if json {
        print_json(&all)?;
    } else {
        print(&status::tame(&all.iter().map(in_words).collect::<String>()))?;
    }
    match failed {
        0 => Ok(()),
        n => Err(Failed::new(format!("{n} of {} nodes were not told", all.len()))),
    }
}

fn in_words(told: &Told) -> String {
    let node = &told.node;
    let Some(t) = &told.taken else {
        return format!("{node}: {}\n", told.error.as_deref().unwrap_or_default());
    };
    let mut lines: Vec<String> = t.taken.iter().chain(&t.routes).cloned().collect();
    lines.extend(t.restart.iter().map(|c| format!("{c}: at its next start")));
    if lines.is_empty() {
        return format!("{node}: nothing new\n");
    }
    format!("{node}:\n  {}\n", lines.join("\n  "))
}

fn sentence(file: &Path, topology: &Topology) -> String {
    let volumes: usize = topology.groups().map(|g| g.volumes.len()).sum();
    format!(
        "{}: good: {}, {}, {}\n",
        file.display(),
        plural(topology.nodes().len() as u64, "node"),
        plural(topology.groups().len() as u64, "group"),
        plural(volumes as u64, "volume")
    )
}

fn check_json(file: &Path) -> Result<(), Failed> {
    let name = file.display().to_string();
    let text = std::fs::read_to_string(file)
        .map_err(|e| Failed::new(format!("cannot read the topology {name}: {e}")))?;
    match Topology::compile(&text, &name) {
        Ok(_) => print_json(&serde_json::json!({"file": name, "errors": []})),
        Err(found) => {
            print_json(&found)?;
            Err(Failed::new(String::new()))
        }
    }
}
