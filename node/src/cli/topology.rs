//! `rcpctl topology`: checks and draws a file; no node is asked.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use clap::Subcommand;
use config::Topology;

use super::output::{Failed, print, print_json};
use super::target::load;
use super::text::plural;

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

pub(super) fn run(command: TopologyCommand) -> Result<(), Failed> {
    match command {
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
