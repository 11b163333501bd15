//! A running tree: nodes that can be killed, stopped, started, and asked.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use node::api::{CutInfo, NodeStatus, RouteTable, VolumeInfo};
use node::cli::client::{Client, ClientError};
use node::http::{paths, requests};
use node::nbd;
use rustix::process::Signal;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::authority::Authority;
use super::binaries::program;
use super::outside;
use super::plan::{GROUP, Plan};
use super::process::{Ended, Process};
use super::sites::Sites;
use super::wait::wait_for;

/// Time for a node to be ready, or to be gone.
const UP: Duration = Duration::from_secs(20);
/// Time for an NBD request.
const NBD: Duration = Duration::from_secs(30);
/// Lines of a log that a failure shows.
const TAIL: usize = 60;

/// Nodes of one topology, each a process. Dropping it ends them all.
#[derive(Debug)]
pub struct Tree {
    dir: tempfile::TempDir,
    plan: Plan,
    nodes: BTreeMap<String, Mutex<Option<Process>>>,
    runtime: tokio::runtime::Runtime,
    /// Parts of log lines at WARN or ERROR that the test expects.
    expected: Mutex<Vec<String>>,
    authority: Authority,
}

impl Tree {
    /// Writes the topology and starts every node but those in `later`.
    ///
    /// # Panics
    /// When a node does not come up.
    #[must_use]
    pub fn start_but(mut plan: Plan, later: &[&str]) -> Self {
        // Another process may take a port between our look and the node's: then all get new ones.
        for attempt in 0.. {
            let tree = Self::prepare(&mut plan);
            let names: Vec<_> =
                tree.names().into_iter().filter(|n| !later.contains(&n.as_str())).collect();
            for n in &names {
                tree.launch(n);
            }
            let failed = names.iter().find_map(|n| tree.came_up(n).err());
            match failed {
                None => return tree,
                Some(e) if e.contains("Address already in use") && attempt < 3 => {}
                Some(e) => panic!("{e}"),
            }
        }
        unreachable!("the loop returns or panics")
    }

    /// Writes the topology and starts every node.
    ///
    /// # Panics
    /// When a node does not come up.
    #[must_use]
    pub fn start(plan: Plan) -> Self {
        Self::start_but(plan, &[])
    }

    /// Writes the topology and starts nothing.
    ///
    /// # Panics
    /// When the file cannot be written.
    #[must_use]
    pub fn prepare(plan: &mut Plan) -> Self {
        let dir = tempfile::Builder::new().prefix("rcp").tempdir().expect("a temporary folder");
        plan.assign_ports();
        let text = plan.spec.to_yaml().expect("YAML");
        std::fs::write(dir.path().join("topology.yaml"), text).expect("the topology");
        let nodes = plan.spec.nodes.keys().map(|n| (n.clone(), Mutex::new(None))).collect();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let authority = Authority::new("rcp test");
        if plan.spec.pki.is_some() {
            let names: Vec<_> = plan.spec.nodes.keys().map(String::as_str).collect();
            authority.write(&dir.path().join("pki"), &names);
        }
        let (plan, expected) = (plan.clone(), Mutex::default());
        Self { dir, plan, nodes, runtime, expected, authority }
    }

    /// Who made the certificates of the nodes.
    #[must_use]
    pub fn authority(&self) -> &Authority {
        &self.authority
    }

    /// The folder of certificates.
    #[must_use]
    pub fn pki(&self) -> PathBuf {
        self.dir().join("pki")
    }

    /// Runs something asynchronous to its end.
    pub fn block_on<T>(&self, work: impl Future<Output = T>) -> T {
        self.runtime.block_on(work)
    }

    /// The temporary folder.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The topology file.
    #[must_use]
    pub fn topology(&self) -> PathBuf {
        self.dir().join("topology.yaml")
    }

    /// All nodes.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        self.nodes.keys().cloned().collect()
    }

    /// Nodes without next hops in the plan.
    #[must_use]
    pub fn leaves(&self) -> Vec<String> {
        let group = &self.plan.spec.groups[GROUP];
        let leaf = |n: &String| !group.routes.contains_key(n) && *n != group.primary;
        self.nodes.keys().filter(|n| leaf(n)).cloned().collect()
    }

    /// The node that takes writes.
    #[must_use]
    pub fn primary(&self) -> &str {
        &self.plan.spec.groups[GROUP].primary
    }

    /// Writes the topology as another machine has it, which has the folders of the nodes `here` and no
    /// other.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn copy_topology(&self, to: &Path, here: &[&str]) {
        let mut spec = self.plan.spec.clone();
        spec.pki = spec.pki.map(|_| self.pki().display().to_string());
        for (name, node) in &mut spec.nodes {
            let elsewhere = Path::new("/var/lib/elsewhere").join(name);
            let is_here = here.contains(&name.as_str());
            let folder = if is_here { self.dir().join(&node.data) } else { elsewhere };
            node.data = folder.display().to_string();
        }
        std::fs::write(to, spec.to_yaml().expect("YAML")).expect("the topology");
    }

    /// A node's data folder.
    #[must_use]
    pub fn folder(&self, node: &str) -> PathBuf {
        self.dir().join(&self.plan.spec.nodes[node].data)
    }

    /// The folder of a node's volume.
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    pub fn volume_folder(&self, node: &str, label: &str) -> PathBuf {
        let all = std::fs::read_dir(self.folder(node).join("volumes")).expect("volumes");
        let line = format!("\nlabel {label}\n");
        all.flatten()
            .map(|e| e.path())
            .find(|p| std::fs::read_to_string(p.join("identity")).is_ok_and(|t| t.contains(&line)))
            .unwrap_or_else(|| panic!("{node} has no volume {label}"))
    }

    /// The address of a node's shared port.
    ///
    /// # Panics
    /// Never: the plan wrote it.
    #[must_use]
    pub fn addr(&self, node: &str) -> SocketAddr {
        self.plan.spec.nodes[node].listen.parse().expect("an address")
    }

    /// The NBD URI of an export, over TCP.
    ///
    /// # Panics
    /// Never: the plan wrote it.
    #[must_use]
    pub fn uri(&self, node: &str, export: &str) -> String {
        let addr = self.plan.spec.nodes[node].nbd.as_ref().expect("an NBD address");
        format!("nbd://{addr}/{export}")
    }

    /// The NBD URI of an export, over the Unix socket.
    #[must_use]
    pub fn unix_uri(&self, node: &str, export: &str) -> String {
        format!("nbd+unix:///{export}?socket={}", self.folder(node).join("nbd.sock").display())
    }

    /// Opens an export with our own client.
    ///
    /// # Errors
    /// What the node says, or that it is not there.
    pub fn open(&self, node: &str, export: &str) -> Result<nbd::Client, nbd::ClientError> {
        nbd::Client::unix(&self.folder(node).join("nbd.sock"), export, NBD)
    }

    /// The command that runs a node of this topology.
    #[must_use]
    pub fn command(&self, node: &str) -> Command {
        let rcpd = program("rcpd");
        let mut c = match self.plan.within.get(node) {
            Some(site) => Sites::command(site, &rcpd),
            None => Command::new(rcpd),
        };
        c.arg("--topology").arg(self.topology()).args(["--node", node]);
        if self.plan.older.contains(node) {
            c.args(["--rcp-newest", "1.0"]);
        }
        c
    }

    /// Where a node's output goes.
    #[must_use]
    pub fn log_path(&self, node: &str) -> PathBuf {
        self.dir().join(format!("{node}.log"))
    }

    /// Everything a node said, over all its lives.
    #[must_use]
    pub fn log(&self, node: &str) -> String {
        String::from_utf8_lossy(&std::fs::read(self.log_path(node)).unwrap_or_default())
            .into_owned()
    }

    fn slot(&self, node: &str) -> MutexGuard<'_, Option<Process>> {
        self.nodes[node].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts a node and does not wait.
    ///
    /// # Panics
    /// When it runs already.
    pub fn launch(&self, node: &str) {
        let mut slot = self.slot(node);
        assert!(slot.is_none(), "{node} runs already");
        *slot = Some(Process::start(&mut self.command(node), &self.log_path(node)));
    }

    /// Waits until a launched node is ready; its last words if it ended instead.
    ///
    /// # Errors
    /// What it said before it ended.
    ///
    /// # Panics
    /// When it neither is ready nor ends in time.
    pub fn came_up(&self, node: &str) -> Result<(), String> {
        wait_for(&format!("{node} to be ready"), UP, || {
            let mut slot = self.slot(node);
            let Some(process) = slot.as_mut() else { return Ok(Err(format!("{node} is not run"))) };
            if let Some(end) = process.ended() {
                *slot = None;
                return Ok(Err(format!("{node} ended with {}:\n{}", end.status, end.log)));
            }
            drop(slot);
            self.runtime.block_on(self.client(node).ready()).map(Ok)
        })
    }

    /// Starts a node that is not running, and waits until it is ready.
    ///
    /// # Panics
    /// When it does not come up.
    pub fn up(&self, node: &str) {
        self.launch(node);
        if let Err(e) = self.came_up(node) {
            panic!("{e}");
        }
    }

    /// Starts a node that is expected to end by itself.
    ///
    /// # Panics
    /// When it does not end.
    pub fn refused(&self, node: &str) -> Ended {
        self.launch(node);
        let mut process = self.slot(node).take().expect("just launched");
        process.wait(UP)
    }

    /// SIGKILL.
    pub fn kill(&self, node: &str) {
        if let Some(mut p) = self.slot(node).take() {
            p.kill();
        }
    }

    /// SIGTERM, and an orderly end within `deadline`.
    ///
    /// # Panics
    /// When it is late, or its exit status is not 0.
    pub fn stop(&self, node: &str, deadline: Duration) -> Ended {
        let mut p = self.slot(node).take().unwrap_or_else(|| panic!("{node} is not running"));
        p.terminate(deadline)
    }

    /// A signal to a running node.
    ///
    /// # Panics
    /// When it is not running.
    pub fn signal(&self, node: &str, signal: Signal) {
        let slot = self.slot(node);
        slot.as_ref().unwrap_or_else(|| panic!("{node} is not running")).signal(signal);
    }

    /// The process number of a running node.
    #[must_use]
    pub fn pid(&self, node: &str) -> Option<u32> {
        self.slot(node).as_ref().map(Process::pid)
    }

    fn client(&self, node: &str) -> Client {
        Client::new(self.folder(node).join("rcpd.sock"))
    }

    /// Asks a node for a value.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn get<T: DeserializeOwned>(&self, node: &str, path: &str) -> Result<T, ClientError> {
        self.runtime.block_on(self.client(node).get(path))
    }

    /// Asks a node for a change.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn post<B: Serialize, T: DeserializeOwned>(
        &self,
        node: &str,
        path: &str,
        body: &B,
    ) -> Result<T, ClientError> {
        self.runtime.block_on(self.client(node).post(path, body))
    }

    /// The whole node.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn status(&self, node: &str) -> Result<NodeStatus, ClientError> {
        self.get(node, paths::STATUS)
    }

    /// One volume of a node.
    ///
    /// # Errors
    /// The node's, or that it has no such volume.
    pub fn volume(&self, node: &str, label: &str) -> Result<VolumeInfo, String> {
        let status = self.status(node).map_err(|e| format!("{node}: {e}"))?;
        let found = status.volumes.into_iter().find(|v| v.label == label);
        found.ok_or_else(|| format!("{node} has no volume {label}"))
    }

    /// The routing table of a node.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn routes(&self, node: &str) -> Result<RouteTable, ClientError> {
        self.get(node, paths::ROUTES)
    }

    /// Cuts a set at the primary.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn try_cut(&self, label: &str, keep: bool) -> Result<CutInfo, ClientError> {
        let body = requests::Cut { volume: label.to_owned(), keep };
        self.post(self.primary(), paths::CUT, &body)
    }

    /// Cuts a set at the primary.
    ///
    /// # Panics
    /// When the primary refuses.
    #[track_caller]
    pub fn cut(&self, label: &str, keep: bool) -> CutInfo {
        self.try_cut(label, keep).unwrap_or_else(|e| panic!("cut of {label}: {e}"))
    }

    /// Waits until a node shows a state at least as new as `set`.
    ///
    /// # Panics
    /// When it does not, with its status.
    #[track_caller]
    pub fn reaches(&self, node: &str, label: &str, set: u64, deadline: Duration) {
        wait_for(&format!("{node} to show set {set} of {label}"), deadline, || {
            let v = self.volume(node, label)?;
            if v.current_set >= set && v.state.starts_with("readable") {
                return Ok(());
            }
            Err(format!(
                "set {} of {}, {}: {:?}",
                v.current_set, v.newest_known_set, v.state, v.reason
            ))
        });
    }

    /// Every leaf shows `set` and its content is, byte for byte, the primary's kept state, as an
    /// outside program sees them.
    ///
    /// # Panics
    /// When one differs.
    #[track_caller]
    pub fn all_same(&self, label: &str, set: u64, deadline: Duration) {
        for leaf in self.leaves() {
            self.reaches(&leaf, label, set, deadline);
            self.same(&leaf, label, set);
        }
    }

    /// Compares a node's state with the primary's kept one.
    ///
    /// # Panics
    /// When they differ.
    #[track_caller]
    pub fn same(&self, node: &str, label: &str, set: u64) {
        let export = format!("{label}@{set}");
        let Some(mut compare) = outside::tool("qemu-img", "qemu-utils") else { return };
        compare.args(["compare", "-f", "raw", "-F", "raw"]);
        // With certificates, TCP takes clients that have one.
        let proven = self.plan.spec.pki.is_some();
        let uri = if proven { Self::unix_uri } else { Self::uri };
        compare.arg(uri(self, self.primary(), &export)).arg(self.unix_uri(node, &export));
        if let Err(e) = outside::said(&mut compare) {
            let all = self.names().into_iter().filter(|n| n != self.primary());
            let differ: Vec<_> = all.map(|n| self.differences(&n, &export)).collect();
            panic!("{e}\n{}", differ.join("\n"));
        }
    }

    /// Which blocks of 4 KiB differ from the primary's, and what they begin with here and there.
    fn differences(&self, node: &str, export: &str) -> String {
        let read = |n: &str| {
            let mut all = Vec::new();
            let mut c = self.open(n, export)?;
            c.read_all(4, |_, piece| {
                all.extend_from_slice(piece);
                Ok(())
            })?;
            Ok::<_, nbd::ClientError>(all)
        };
        let (here, there) = match (read(node), read(self.primary())) {
            (Ok(a), Ok(b)) => (a, b),
            (Err(e), _) | (_, Err(e)) => return format!("{node}: {e}"),
        };
        let word = |b: &[u8]| b.first_chunk().map_or(0, |w| u64::from_le_bytes(*w));
        let mut out = String::new();
        let pairs = here.chunks(4096).zip(there.chunks(4096)).enumerate();
        let wrong: Vec<_> = pairs.filter(|(_, (a, b))| a != b).collect();
        for (i, (a, b)) in wrong.iter().take(24) {
            let _ = write!(out, " {i}: {:#x}, not {:#x};", word(a), word(b));
        }
        format!("{node}: {} blocks differ:{out}", wrong.len())
    }

    /// Names a part of WARN and ERROR lines that this test provokes.
    pub fn expect(&self, part: &str) {
        self.expected.lock().unwrap_or_else(PoisonError::into_inner).push(part.to_owned());
    }

    /// Lines at ERROR, panics, and lines at WARN, that were not announced by [`Tree::expect`].
    #[must_use]
    pub fn unexpected(&self) -> Vec<String> {
        let expected = self.expected.lock().unwrap_or_else(PoisonError::into_inner);
        let loud =
            |l: &str| l.contains(" ERROR ") || l.contains(" WARN ") || l.contains("panicked at");
        let mut out = Vec::new();
        for n in self.names() {
            let log = self.log(&n);
            let lines = log.lines().filter(|l| loud(l) && !expected.iter().any(|e| l.contains(e)));
            out.extend(lines.map(|l| format!("{n}: {l}")));
        }
        out
    }

    /// Ends a test: no node said anything at WARN or ERROR that was not announced.
    ///
    /// # Panics
    /// With the lines.
    #[track_caller]
    pub fn quiet(&self) {
        let lines = self.unexpected();
        assert!(lines.is_empty(), "unexpected lines:\n{}", lines.join("\n"));
    }

    fn report(&self) -> String {
        let mut out = String::new();
        for n in self.names() {
            let log = self.log(&n);
            let lines: Vec<_> = log.lines().collect();
            let tail = lines[lines.len().saturating_sub(TAIL)..].join("\n");
            let _ = writeln!(out, "──── log of {n}, last lines\n{tail}");
            if let Ok(s) = self.status(&n) {
                for mut v in s.volumes {
                    v.sets.truncate(3);
                    let _ = writeln!(out, "──── {n}: {v:?}");
                }
            }
        }
        let _ = writeln!(out, "──── WARN and ERROR\n{}", self.unexpected().join("\n"));
        out
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.report());
        }
        for n in self.names() {
            self.kill(&n);
        }
    }
}
