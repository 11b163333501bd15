//! `rcpctl up`: every node of a topology on this machine, each its own process.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::output::Failed;
use crate::clock;
use crate::fleet::Fleet;

/// What to start.
#[derive(Args, Clone, Debug)]
pub(super) struct UpArgs {
    /// The topology file
    topology: PathBuf,
    /// Only these nodes
    #[arg(long = "node", value_name = "NAME")]
    nodes: Vec<String>,
}

pub(super) async fn run(args: UpArgs) -> Result<(), Failed> {
    let failed = |e: anyhow::Error| Failed::new(format!("{e:#}"));
    let mut fleet = Fleet::new(&args.topology).map_err(failed)?;
    for name in &args.nodes {
        if fleet.find(name).is_none() {
            let known: Vec<_> = fleet.nodes.iter().map(|n| n.name.clone()).collect();
            return Err(Failed::new(format!(
                "no node `{name}` in {}; there are: {}",
                args.topology.display(),
                known.join(", ")
            )));
        }
    }
    let mut started = Vec::new();
    for i in 0..fleet.nodes.len() {
        let name = fleet.nodes[i].name.clone();
        if !args.nodes.is_empty() && !args.nodes.contains(&name) {
            continue;
        }
        if fleet.nodes[i].status().await.is_some() {
            println!("{name:<15} is running already");
            continue;
        }
        fleet.start(i).map_err(failed)?;
        started.push(i);
    }
    let end = clock::mono().after(Duration::from_secs(30));
    for i in started {
        loop {
            if fleet.nodes[i].status().await.is_some() {
                break;
            }
            if let Some(why) = fleet.nodes[i].post_mortem() {
                return Err(Failed::new(why));
            }
            if clock::mono() > end {
                let log = fleet.nodes[i].folder.join("rcpd.log");
                return Err(Failed::new(format!(
                    "{} does not answer after 30 s; look at {}",
                    fleet.nodes[i].name,
                    log.display()
                )));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let n = &fleet.nodes[i];
        let scheme = if fleet.secured { "nbds" } else { "nbd" };
        let nbd = n.nbd.as_ref().map(|a| format!("{scheme}://{a}/  ")).unwrap_or_default();
        let http = if fleet.secured { "https" } else { "http" };
        println!(
            "{:<15} {http}://{}/  {nbd}nbd+unix:///?socket={}",
            n.name,
            n.listen,
            n.nbd_socket().display()
        );
    }
    fleet.leave_running();
    Ok(())
}
