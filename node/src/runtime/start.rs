//! Bringing a node up and down: data folder, volumes, listeners (CAP-15: recovery before anybody is
//! let in).

use std::collections::HashMap;
use std::fs::File;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use config::{GroupPlan as PlannedGroup, NodePlan, Topology};
use forwarder::table::Table;
use rcp::net::quic::Listener;
use rcp::proto::control::Journal;
use rcp::proto::delta::Compression;
use rcp::proto::ids::NodeName;
use rcp::proto::transport::Hop;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use volmcast::save::Budget;
use volmcast::storage::{StorageError, replace_file};
use volmcast::volume::{CutPolicy, FullPolicy, Limits, PlaybackPolicy, ScrubPolicy};

use super::blocks;
use super::certificates::{self, load_pki, plain_rule};
use super::core::{Core, Input, ReplicaPlan};
use super::door;
use super::groups::Known;
use super::handle::NodeHandle;
use super::port::{Entry, Port};
use super::stored;
use super::tables::load_tables;
use crate::access::{Audit, Caller};
use crate::api::NodeApi;
use crate::http::{self, Deadlines};
use crate::metrics::Metrics;
use crate::mover::{Confirm, Destinations, GroupPlan, Mover, MoverConfig};
use crate::nbd;
use crate::volumes::Names;
use crate::volumes::door::Door;
use crate::volumes::open::OpenPlan;
use crate::{clock, limits};

/// Starts a task; the one place in this crate that does.
pub(super) fn task(f: impl Future<Output = ()> + Send + 'static) {
    tokio::spawn(f);
}

/// Why a node cannot start; names the thing and the remedy.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The system refused.
    #[error("{what}: {error}{}", remedy(.error))]
    Io {
        /// What was tried.
        what: String,
        /// Why not.
        error: std::io::Error,
    },
    /// In words.
    #[error("{0}")]
    Refused(String),
}

pub(super) fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> StartError {
    let what = what.into();
    move |error| StartError::Io { what, error }
}

fn remedy(error: &std::io::Error) -> &'static str {
    match error.kind() {
        std::io::ErrorKind::AddrInUse => {
            "; `ss -ltnup` shows by whom: stop that, or give this node another port in the topology"
        }
        std::io::ErrorKind::PermissionDenied => {
            "; run rcpd as the user that this belongs to, or give that to the user of rcpd"
        }
        _ => "",
    }
}

pub(super) fn refused(e: StorageError) -> StartError {
    StartError::Refused(e.to_string())
}

/// A node that is up.
pub struct Running {
    /// To ask it.
    pub handle: Arc<NodeHandle>,
    /// Cancelled when it should stop.
    pub stop: CancellationToken,
    /// The shared port, as bound.
    pub listen: std::net::SocketAddr,
    /// NBD URIs without export name.
    pub nbd: Vec<String>,
    server: nbd::Server,
    core: tokio::task::JoinHandle<()>,
    sender: mpsc::Sender<Input>,
    folder: PathBuf,
    _lock: File,
}

/// Opens the data folder: one process, one node, for good.
fn open_folder(folder: &Path, node: &NodeName) -> Result<File, StartError> {
    std::fs::create_dir_all(folder.join("volumes"))
        .map_err(io(format!("data folder {}", folder.display())))?;
    let path = folder.join("rcpd.lock");
    let lock = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(io(path.display().to_string()))?;
    if rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive).is_err() {
        let pid = std::fs::read_to_string(folder.join("rcpd.pid")).unwrap_or_default();
        return Err(StartError::Refused(format!(
            "{} is in use by another rcpd (process {}): stop it first, or give this node a data \
             folder of its own",
            folder.display(),
            pid.trim()
        )));
    }
    super::retired::check(folder, node)?;
    let id = folder.join("node");
    match std::fs::read_to_string(&id) {
        Ok(found) if found.trim() == node.as_str() => {}
        Ok(found) => {
            return Err(StartError::Refused(format!(
                "{} belongs to node {}, this is node {node}: start that node with it, or give this \
                 one a data folder of its own",
                folder.display(),
                found.trim()
            )));
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            replace_file(&id, format!("{node}\n").as_bytes()).map_err(refused)?;
        }
        Err(e) => return Err(io(id.display().to_string())(e)),
    }
    let pid = folder.join("rcpd.pid");
    std::fs::write(&pid, format!("{}\n", std::process::id()))
        .map_err(io(pid.display().to_string()))?;
    Ok(lock)
}

/// How volumes of a group are run on a node whose data folder is `base`.
pub(super) fn replica_plan(
    g: &PlannedGroup,
    node: &NodeName,
    base: &Path,
    budget: &Arc<Budget>,
) -> ReplicaPlan {
    let playback = g.playback_for(node);
    let first = g.volumes.first();
    ReplicaPlan {
        open: OpenPlan {
            node: node.clone(),
            persistent: g.policy.persistent,
            cut: CutPolicy { hwm: g.policy.hwm, timeout: g.policy.timeout },
            playback: PlaybackPolicy {
                hwm: playback.hwm,
                timeout: playback.timeout,
                on_demand: playback.views == config::Views::OnDemand,
            },
            compression: match g.policy.compress {
                true => Compression::WherePays,
                false => Compression::Never,
            },
            import: false,
            budget: budget.clone(),
            scrub: ScrubPolicy { rate: playback.scrub.rate, every: playback.scrub.every },
            full: full_policy(g),
        },
        save: g.volumes.iter().map(|v| (v.label.to_string(), g.save_for(v, node))).collect(),
        default_save: first.map_or(1 << 30, |v| g.save_for(v, node)),
        snapshots: first.map_or(1 << 30, |v| v.snapshot_area),
        backing: g
            .volumes
            .iter()
            .filter_map(|v| Some((v.label.to_string(), base.join(v.backing_for(node)?))))
            .collect(),
    }
}

/// What happens when receivers of the group take nothing and room runs out.
fn full_policy(g: &PlannedGroup) -> FullPolicy {
    let limits = |k: config::Keep| Limits { bytes: k.bytes, sets: k.sets, time: k.time };
    let own = g.overrides.iter().map(|(n, o)| (n.clone(), limits(o.keep)));
    FullPolicy {
        suspend: (g.policy.on_full == config::OnFull::Suspend).then_some(g.policy.suspend_limit),
        keep: limits(g.policy.keep),
        own: own.filter(|(_, l)| !l.is_none()).collect(),
    }
}

/// Brings a node of a topology up. `versions` of RCP, oldest and newest, are spoken; `base` is the
/// folder that relative paths of the topology start from.
///
/// # Errors
/// [`StartError`]; nothing is left running.
pub async fn start(
    topology: &Topology,
    node: &NodePlan,
    versions: (u16, u16),
    base: &Path,
) -> Result<Running, StartError> {
    let folder = data_folder(base, node);
    let lock = open_folder(&folder, &node.name)?;
    let known = Arc::new(Known::load(topology, &node.name, &folder)?);
    let topology = &known.topology();
    let tables = load_tables(&folder, &node.name, topology)?;
    let pki = load_pki(topology, node, base)?;
    let (sender, queue) = mpsc::channel(limits::CORE_QUEUE);
    let names = Arc::new(Names::default());
    let (journal, records) = blocks::open(&folder)?;
    let mover = new_mover(topology, node, versions, tables, journal);
    let groups: Vec<_> = topology.groups_of(&node.name).collect();
    let plans = known.plans();
    let mut core = Core {
        mover,
        queue,
        sender: sender.clone(),
        folder: folder.clone(),
        names: names.clone(),
        volumes: HashMap::new(),
        plans,
        conns: HashMap::new(),
        asks: HashMap::new(),
        next_ask: 0,
        listen: String::new(),
        nbd: Vec::new(),
        security: certificates::status(topology, node),
        pki: pki.clone(),
        base: base.to_owned(),
        records,
        handlers: blocks::Handlers::new(node, base),
        known: known.clone(),
        ways: super::leaving::Ways::default(),
    };
    stored::open_volumes(&mut core, &groups, &node.name, &folder)?;
    // The export names are there before anybody is let in.
    core.effects();

    let listener = TcpListener::bind(node.listen.to_string())
        .await
        .map_err(io(format!("listening on {}", node.listen)))?;
    let listen = listener.local_addr().map_err(io("the listener's address"))?;
    let quic = pki.clone().map(|pki| Listener::bind(listen, pki)).transpose();
    let quic = quic.map_err(io(format!("QUIC on UDP {listen}")))?;
    let control = bind_control(&folder)?;
    let audit = Arc::new(Audit::new(&folder));
    let (judge, tls) = door::tls(node, pki.clone());
    let exports = door::exports(topology, node, names.clone(), audit.clone(), sender.clone());
    let (server, uris) = start_nbd(node, &folder, exports, tls).await?;
    core.listen = listen.to_string();
    core.nbd.clone_from(&uris);

    // Groups last: from here on neighbours are dialled.
    enter_groups(&mut core.mover, &groups, &node.name);
    let stop = CancellationToken::new();
    let handle = Arc::new(NodeHandle {
        core: sender.clone(),
        names,
        ready: AtomicBool::new(true),
        stop: stop.clone(),
        folder: folder.clone(),
        known,
    });
    let metrics = metrics_of(&server, &stop)?;
    let guard = certificates::guard(topology, node, base, audit);
    let port = Port::new(sender.clone(), pki.clone(), entry(topology, node), stop.clone());
    let routers = http::routers_with(handle.clone(), metrics, guard, Some(port.upgrades()));
    task(accept_control(control, routers.clone(), stop.clone()));
    if let Some(pki) = pki {
        task(certificates::watch(pki, sender.clone(), judge, stop.clone()));
    }
    port.open(routers, listener, quic);
    let core = tokio::spawn(core.run());
    Ok(Running { handle, stop, listen, nbd: uris, server, core, sender, folder, _lock: lock })
}

/// Who is let in at the shared port.
fn entry(topology: &Topology, node: &NodePlan) -> Entry {
    let nodes = topology.nodes().map(|n| n.name.clone()).collect();
    Entry { rule: plain_rule(topology, node), nodes }
}

fn data_folder(base: &Path, node: &NodePlan) -> PathBuf {
    let whole = base.join(&node.data);
    whole.components().filter(|c| !matches!(c, std::path::Component::CurDir)).collect()
}

/// The machine of a node that is in no group and has no volumes yet.
fn new_mover(
    topology: &Topology,
    node: &NodePlan,
    versions: (u16, u16),
    (table, destinations): (Table, Destinations),
    journal: Journal,
) -> Mover {
    let cfg = MoverConfig {
        node: node.name.clone(),
        instance: *uuid::Uuid::new_v4().as_bytes(),
        random: u64::from_le_bytes(first_eight(uuid::Uuid::new_v4().as_bytes())),
        keepalive: limits::KEEPALIVE,
        queue_bytes: limits::QUEUE_BYTES,
        addresses: topology.nodes().map(|n| (n.name.clone(), n.address.to_string())).collect(),
        table,
        proven: topology.pki().is_some(),
        versions,
        handlers: node.handlers.keys().cloned().collect(),
        writer_lost: node.writer_lost,
        journal,
        destinations,
        listed: door::listed(topology, node).into_keys().collect(),
    };
    Mover::new(cfg, clock::mono(), clock::wall())
}

fn enter_groups(mover: &mut Mover, groups: &[&PlannedGroup], node: &NodeName) {
    for g in groups {
        mover.add_group(g.name.clone(), group_plan(g, node));
    }
}

/// What a group is to this node.
pub(super) fn group_plan(g: &PlannedGroup, node: &NodeName) -> GroupPlan {
    GroupPlan {
        primary: g.primary == *node,
        replica: g.role(node).is_some_and(config::Role::has_replica),
        writer: Some(g.primary.clone()),
        planned: g.children(node).to_vec(),
        members: g.members().into_iter().chain(&g.feeders).cloned().collect(),
        relays: g.forward_only.clone(),
        confirm: match g.policy.confirm {
            config::Confirm::OneChild | config::Confirm::Always => Confirm::OneChild,
            config::Confirm::Children(n) => Confirm::Children(n),
            config::Confirm::None => Confirm::None,
        },
        hop: g.hop.clone(),
        planned_ways: g
            .hops
            .iter()
            .filter(|((from, _), _)| from == node)
            .map(|((_, to), hop)| (to.clone(), hop.clone()))
            .collect(),
        dial_up: g
            .parent(node)
            .filter(|_| g.dialling.contains(node))
            .map(|p| (p.clone(), Hop { limit: None, ..g.hop(p, node) })),
        dialled_by: g.children(node).iter().filter(|c| g.dialling.contains(*c)).cloned().collect(),
        above: std::iter::successors(g.parent(node), |n| g.parent(n)).cloned().collect(),
        fallbacks: g.fallbacks.get(node).cloned().unwrap_or_default(),
        fallback_of: g
            .fallbacks
            .iter()
            .filter(|(_, list)| list.contains(node))
            .filter_map(|(n, _)| Some((n.clone(), g.parent(n)?.clone())))
            .collect(),
        no_bypass: !g.bypass,
        max_staleness: g.playback_for(node).max_staleness,
        labels: g
            .volumes
            .iter()
            .filter_map(|v| Some((v.label.clone(), v.labels.get(node)?.clone())))
            .collect(),
    }
}

/// The NBD server, and its URIs without an export's name.
async fn start_nbd(
    node: &NodePlan,
    folder: &Path,
    exports: Arc<Door>,
    tls: Option<nbd::Tls>,
) -> Result<(nbd::Server, Vec<String>), StartError> {
    let socket = folder.join("nbd.sock");
    let config = nbd::ServerConfig {
        tcp: resolve(node).await?,
        unix: vec![socket.clone()],
        tls,
        ..nbd::ServerConfig::default()
    };
    let scheme = if config.tls.is_some() { "nbds" } else { "nbd" };
    let server = nbd::Server::start(&config, exports)
        .map_err(io(format!("the NBD server of {}", node.name)))?;
    let mut uris: Vec<String> =
        server.tcp_addrs().iter().map(|a| format!("{scheme}://{a}/")).collect();
    uris.push(format!("nbd+unix:///?socket={}", socket.display()));
    Ok((server, uris))
}

/// The addresses the NBD server listens on.
async fn resolve(node: &NodePlan) -> Result<Vec<std::net::SocketAddr>, StartError> {
    let Some(nbd) = &node.nbd else { return Ok(Vec::new()) };
    let what = || format!("the NBD address {nbd} of {}", node.name);
    let found = tokio::net::lookup_host(nbd.to_string()).await.map_err(io(what()))?;
    Ok(found.take(1).collect())
}

/// The metrics of this process.
fn metrics_of(server: &nbd::Server, stop: &CancellationToken) -> Result<Arc<Metrics>, StartError> {
    let refused = |e| StartError::Refused(format!("metrics cannot be set up: {e}"));
    let metrics = Metrics::install().map_err(refused)?;
    show_counters(server, &metrics);
    task(upkeep(metrics.clone(), stop.clone()));
    Ok(metrics)
}

/// What the NBD server counts stands among the metrics.
fn show_counters(server: &nbd::Server, metrics: &Metrics) {
    let counters = server.metrics();
    metrics.on_scrape(move || {
        let each: Vec<_> = counters.each().collect();
        crate::metrics::counters(crate::metrics::NBD, "NBD server", each);
    });
}

/// Keeps the metrics' sample buffers small.
async fn upkeep(metrics: Arc<Metrics>, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(Duration::from_secs(5)) => metrics.upkeep(),
            () = stop.cancelled() => return,
        }
    }
}

fn first_eight(b: &[u8; 16]) -> [u8; 8] {
    let mut out = [0; 8];
    out.copy_from_slice(&b[..8]);
    out
}

fn bind_control(folder: &Path) -> Result<UnixListener, StartError> {
    use std::os::unix::fs::PermissionsExt;
    let path = folder.join("rcpd.sock");
    // We hold the folder's lock: whoever made it is gone.
    let _ = std::fs::remove_file(&path);
    let l = UnixListener::bind(&path).map_err(io(path.display().to_string()))?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))
        .map_err(io(path.display().to_string()))?;
    Ok(l)
}

async fn accept_control(listener: UnixListener, routers: http::Routers, stop: CancellationToken) {
    loop {
        let io = tokio::select! {
            a = listener.accept() => match a {
                Ok((io, _)) => io,
                Err(_) => {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            },
            () = stop.cancelled() => return,
        };
        let uid = io.peer_cred().ok().map(|c| c.uid());
        let (router, stop) = (routers.caller(Caller::socket(uid)), stop.clone());
        task(async move {
            http::serve_connection(io, router, Deadlines::default(), stop).await;
        });
    }
}

impl Running {
    /// Ends in order: no new writes, a last set where something changed, a goodbye to neighbours.
    pub async fn shutdown(self) {
        self.handle.ready.store(false, Ordering::Release);
        self.stop.cancel();
        let server = self.server;
        let nbd = tokio::task::spawn_blocking(move || server.shutdown(Duration::from_secs(5)));
        let _ = tokio::time::timeout(limits::STOP_DEADLINE, nbd).await;
        if let Ok(s) = self.handle.status().await {
            for v in s
                .volumes
                .iter()
                .filter(|v| v.role == "primary" && v.dirty_bytes > 0 && v.replicating)
            {
                let cut = self.handle.cut(&v.label, false);
                let _ = tokio::time::timeout(Duration::from_secs(5), cut).await;
            }
        }
        let _ = self.sender.send(Input::Stop).await;
        let _ = tokio::time::timeout(Duration::from_secs(2), self.core).await;
        let _ = std::fs::remove_file(self.folder.join("rcpd.pid"));
        let _ = std::fs::remove_file(self.folder.join("rcpd.sock"));
    }
}
