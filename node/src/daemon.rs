//! `rcpd`: one node of a topology, until it is told to stop.

use std::io::IsTerminal;
use std::path::PathBuf;

use anyhow::Context;
use clap::Parser;
use config::Topology;
use rcp::proto::session::{ABILITIES, VERSIONS, abilities, version_named};
use sd_notify::NotifyState;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

use crate::runtime;

/// Runs one node (data mover) of a topology.
#[derive(Clone, Debug, Parser)]
#[command(name = "rcpd", version)]
pub struct Args {
    /// The topology of all nodes, YAML.
    #[arg(long, value_name = "FILE")]
    pub topology: PathBuf,
    /// Which of its nodes this is.
    #[arg(long, value_name = "NAME")]
    pub node: String,
    /// The newest version of RCP to speak: 1.0, 1.1.
    #[arg(long, value_name = "VERSION", default_value = newest())]
    pub rcp_newest: String,
    /// Log lines as JSON.
    #[arg(long)]
    pub log_json: bool,
}

/// Takes as many descriptors as this process may have: what bounds connections is their number
/// ([`crate::limits`]), and the usual 1024 descriptors are fewer.
fn many_descriptors() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let most = getrlimit(Resource::Nofile).maximum;
    if let Err(e) = setrlimit(Resource::Nofile, Rlimit { current: most, maximum: most }) {
        tracing::warn!("the limit of open files stays where it is: {e}");
    }
}

/// Runs until SIGTERM or SIGINT; the exit status.
#[must_use]
pub fn main(args: &Args) -> i32 {
    let newest_spoken = match version(&args.rcp_newest) {
        Ok(v) => v,
        Err(e) => {
            eprintln!("rcpd: {e:#}");
            return 2;
        }
    };
    let filter = EnvFilter::try_from_env("RCP_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_target(false)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    if args.log_json {
        log.json().init()
    } else {
        log.init()
    }
    many_descriptors();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .max_blocking_threads(64)
        .thread_name("rcpd")
        .build();
    let result = runtime.context("the async runtime").and_then(|r| {
        let result = r.block_on(run(args, newest_spoken));
        r.shutdown_timeout(std::time::Duration::from_secs(2));
        result
    });
    match result {
        Ok(()) => 0,
        Err(e) => {
            eprintln!("rcpd: {e:#}");
            1
        }
    }
}

/// Reads and compiles a topology file.
///
/// # Errors
/// Every error of the file, rendered.
pub fn load_topology(path: &std::path::Path) -> anyhow::Result<Topology> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("the topology file {}", path.display()))?;
    Topology::compile(&text, &path.display().to_string()).map_err(|d| {
        let text = if std::io::stderr().is_terminal() { d.coloured() } else { d.plain() };
        anyhow::anyhow!("{} cannot be used:\n{text}", path.display())
    })
}

/// The newest version's name.
fn newest() -> &'static str {
    abilities(VERSIONS.1).name
}

/// The number of a version that is named.
fn version(name: &str) -> anyhow::Result<u16> {
    version_named(name).with_context(|| {
        let known: Vec<_> = ABILITIES.iter().map(|a| a.name).collect();
        format!("--rcp-newest {name}: the versions spoken here are {}", known.join(", "))
    })
}

async fn run(args: &Args, newest_spoken: u16) -> anyhow::Result<()> {
    let topology = load_topology(&args.topology)?;
    let node = topology.require_node(&args.node)?;
    let base = args.topology.parent().map(std::path::Path::to_path_buf).unwrap_or_default();
    let base =
        std::path::absolute(if base.as_os_str().is_empty() { PathBuf::from(".") } else { base })?;
    let mut term = signal(SignalKind::terminate())?;
    let mut int = signal(SignalKind::interrupt())?;
    let versions = (VERSIONS.0, newest_spoken);
    let running = runtime::start(&topology, node, versions, &base).await?;
    tracing::info!(
        "{} is up: RCP and HTTP on {}, NBD on {}",
        node.name,
        running.listen,
        running.nbd.join(" and ")
    );
    tell_service_manager(&[NotifyState::Ready]);
    tokio::select! {
        _ = term.recv() => {}
        _ = int.recv() => {}
        () = running.stop.cancelled() => {}
    }
    tracing::info!("{} stops: writes are held, a last set is made, neighbours are told", node.name);
    tell_service_manager(&[NotifyState::Stopping]);
    running.shutdown().await;
    tracing::info!("{} has stopped", node.name);
    Ok(())
}

/// Where there is one (`Type=notify`): it starts what comes after when the node is ready.
fn tell_service_manager(what: &[NotifyState<'_>]) {
    if let Err(e) = sd_notify::notify(what) {
        tracing::warn!("the service manager cannot be told that {what:?}: {e}");
    }
}
