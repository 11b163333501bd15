//! A primary with its children, each a process of its own on loopback.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use config::spec::{
    GroupSpec, HopSpec, NodeSpec, PlaybackSpec, PolicySpec, TopologySpec, VolumeSpec,
};
use node::api::{CutInfo, NodeStatus, PolicyChange, VolumeInfo};
use node::cli::Client;
use node::http::{paths, requests};

use rcp::proto::transport::{Congestion, Transport};

use super::network::{self, Network};
use super::process::{self, Process};
use crate::rig::Authority;

/// The only volume, and the only group.
pub(super) const VOLUME: &str = "vol1";
pub(super) const GROUP: &str = "bench";
pub(super) const PRIMARY: &str = "primary";
/// The folder of the certificates.
const PKI: &str = "pki";
/// Longest wait for anything.
pub(super) const DEADLINE: Duration = Duration::from_secs(300);
/// A timeout that does not come.
const NEVER: &str = "1h";

/// What to build.
pub(super) struct Plan<'a> {
    pub(super) size: u64,
    /// Save volume of every node.
    pub(super) save: u64,
    pub(super) children: usize,
    /// Children keep nothing.
    pub(super) sinks: bool,
    /// What carries the hops.
    pub(super) transport: Transport,
    /// Congestion control of the hops; what is usual if none.
    pub(super) congestion: Option<Congestion>,
    /// How many connections carry each hop of the primary.
    pub(super) connections: u8,
    /// The primary has one core, and its children another.
    pub(super) pinned: bool,
    /// Each node in a namespace of its own.
    pub(super) network: Option<&'a Network>,
    /// Children are below one another, and this is what carries each hop; else all are below the
    /// primary.
    pub(super) hops: Vec<(Transport, Congestion)>,
}

impl Plan<'_> {
    /// Children over plain TCP, on whatever core.
    pub(super) fn new(size: u64, save: u64, children: usize, sinks: bool) -> Self {
        Self {
            size,
            save,
            children,
            sinks,
            transport: Transport::Tcp,
            congestion: None,
            connections: 1,
            pinned: false,
            network: None,
            hops: Vec::new(),
        }
    }
}

/// A running tree; ended when dropped.
pub(super) struct Tree {
    runtime: tokio::runtime::Runtime,
    dir: PathBuf,
    primary: (Process, Client),
    /// Real children.
    pub(super) leaves: Vec<(Process, Client)>,
    pub(super) sinks: Vec<Process>,
    /// Shared ports, the primary's first.
    pub(super) addrs: Vec<String>,
}

fn free_ports(n: usize) -> anyhow::Result<Vec<String>> {
    // All at once, so that they differ.
    let open: Vec<_> =
        (0..n).map(|_| TcpListener::bind("127.0.0.1:0")).collect::<Result<_, _>>()?;
    open.iter().map(|l| Ok(l.local_addr()?.to_string())).collect()
}

fn topology(plan: &Plan<'_>, addrs: &[String]) -> TopologySpec {
    let names: Vec<String> =
        std::iter::once(PRIMARY.to_owned()).chain((1..addrs.len()).map(leaf)).collect();
    let node = |(name, addr): (&String, &String)| {
        let spec = NodeSpec {
            listen: addr.clone(),
            data: format!("./{name}"),
            insecure_plaintext: plan.network.is_some(),
            ..NodeSpec::default()
        };
        (name.clone(), spec)
    };
    let mut routes = BTreeMap::new();
    if !plan.hops.is_empty() {
        for (ends, (transport, congestion)) in names.windows(2).zip(&plan.hops) {
            let hop = HopSpec {
                node: ends[1].clone(),
                transport: Some(transport.to_string()),
                congestion: Some(congestion.to_string()),
                ..HopSpec::default()
            };
            routes.insert(ends[0].clone(), vec![hop]);
        }
    } else if plan.children > 0 {
        let connections = (plan.connections > 1).then(|| plan.connections.to_string());
        let hop = |n: &String| HopSpec {
            node: n.clone(),
            connections: connections.clone(),
            ..HopSpec::default()
        };
        routes.insert(PRIMARY.to_owned(), names[1..].iter().map(hop).collect());
    }
    let volume = VolumeSpec {
        size: format!("{}B", plan.size),
        save: Some(format!("{}B", plan.save)),
        ..VolumeSpec::default()
    };
    let group = GroupSpec {
        primary: PRIMARY.to_owned(),
        routes,
        volumes: BTreeMap::from([(VOLUME.to_owned(), volume)]),
        policy: PolicySpec {
            hwm: Some("1TiB".to_owned()),
            timeout: Some(NEVER.to_owned()),
            ..PolicySpec::default()
        },
        playback: PlaybackSpec { timeout: Some("0s".to_owned()), ..PlaybackSpec::default() },
        transport: Some(plan.transport.to_string()),
        congestion: plan.congestion.map(|c| c.to_string()),
        ..GroupSpec::default()
    };
    TopologySpec {
        pki: (plan.transport != Transport::Tcp).then(|| PKI.to_owned()),
        nodes: names.iter().zip(addrs).map(node).collect(),
        groups: BTreeMap::from([(GROUP.to_owned(), group)]),
        ..TopologySpec::default()
    }
}

pub(super) fn leaf(i: usize) -> String {
    format!("leaf{i}")
}

impl Tree {
    /// Starts it and waits until every child is connected.
    pub(super) fn start(root: &Path, plan: &Plan<'_>) -> anyhow::Result<Self> {
        let dir = root.join("tree");
        std::fs::create_dir_all(&dir)?;
        let file = dir.join("topology.yaml");
        let addrs = match plan.network {
            None => free_ports(plan.children + 1)?,
            Some(_) => (0..=plan.children).map(|i| Network::address(i) + ":7101").collect(),
        };
        let program = |i: usize| match plan.network {
            None => process::ourselves_on(plan.pinned.then_some(i.min(1))),
            Some(net) => Ok(network::within(net.name(i), &std::env::current_exe()?)),
        };
        let yaml = topology(plan, &addrs).to_yaml()?;
        config::Topology::compile(&yaml, "topology.yaml")
            .map_err(|d| anyhow::anyhow!("{}", d.plain()))?;
        std::fs::write(&file, yaml)?;
        if plan.transport != Transport::Tcp {
            let names: Vec<_> = (1..=plan.children).map(leaf).collect();
            let names = names.iter().map(String::as_str).chain([PRIMARY]).collect::<Vec<_>>();
            Authority::new("bench").write(&dir.join(PKI), &names);
        }
        let run = |i: usize, name: &str| -> anyhow::Result<(Process, Client)> {
            let mut c = program(i)?;
            c.args(["node", "--node", name]).arg("--topology").arg(&file);
            let p = Process::start(&mut c, &dir.join(format!("{name}.log")), false)?;
            Ok((p, Client::new(dir.join(name).join("rcpd.sock"))))
        };
        let (mut leaves, mut sinks) = (Vec::new(), Vec::new());
        for (i, addr) in addrs.iter().enumerate().skip(1) {
            if plan.sinks {
                let mut c = program(i)?;
                c.args(["sink", "--node", &leaf(i), "--group", GROUP, "--listen", addr]);
                c.args(["--transport", plan.transport.as_str(), "--pki"]).arg(dir.join(PKI));
                sinks.push(Process::start(&mut c, &dir.join("sinks.log"), true)?);
            } else {
                leaves.push(run(i, &leaf(i))?);
            }
        }
        let primary = run(0, PRIMARY)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let mut tree = Self { runtime, dir, primary, leaves, sinks, addrs };
        tree.until("the primary is up", |t| t.status(None).ok().is_some().then_some(()))?;
        tree.until("every child is connected", |t| {
            let s = t.status(None).ok()?;
            let up = s.groups.first()?.children.iter().filter(|c| c.state == "connected").count();
            let below = if plan.hops.is_empty() { plan.children } else { 1 };
            (up == below).then_some(())
        })?;
        Ok(tree)
    }

    /// Asks until there is an answer.
    pub(super) fn until<T>(
        &mut self,
        what: &str,
        mut look: impl FnMut(&Self) -> Option<T>,
    ) -> anyhow::Result<T> {
        let end = process::now() + DEADLINE.as_secs_f64();
        loop {
            if let Some(x) = look(self) {
                return Ok(x);
            }
            let (leaves, sinks) = (&mut self.leaves, &mut self.sinks);
            let all = leaves.iter_mut().map(|(p, _)| p).chain(sinks).chain([&mut self.primary.0]);
            let ended: Vec<_> = all.filter_map(Process::ended).collect();
            if let Some(text) = ended.first() {
                bail!("waiting until {what}: {text}\n{}", self.logs());
            }
            if process::now() > end {
                bail!("not within {DEADLINE:?}: {what}\n{}", self.logs());
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    fn logs(&self) -> String {
        let mut out = String::new();
        for e in std::fs::read_dir(&self.dir).into_iter().flatten().flatten() {
            if e.path().extension().is_some_and(|x| x == "log") {
                let text = std::fs::read_to_string(e.path()).unwrap_or_default();
                let from = text.lines().count().saturating_sub(12);
                let last: Vec<_> = text.lines().skip(from).collect();
                out.push_str(&format!("--- {}\n{}\n", e.path().display(), last.join("\n")));
            }
        }
        out
    }

    /// The status of the primary, or of one leaf.
    pub(super) fn status(&self, leaf: Option<usize>) -> anyhow::Result<NodeStatus> {
        let client = leaf.map_or(&self.primary.1, |i| &self.leaves[i].1);
        Ok(self.runtime.block_on(client.status())?)
    }

    /// The volume there, if it is there.
    pub(super) fn volume(&self, leaf: Option<usize>) -> Option<VolumeInfo> {
        self.status(leaf).ok()?.volumes.into_iter().next()
    }

    /// Cuts a set; returns when it is finished.
    pub(super) fn cut(&self) -> anyhow::Result<CutInfo> {
        let body = requests::Cut { volume: VOLUME.to_owned(), keep: false };
        let asked = self.primary.1.post(paths::CUT, &body);
        let answer = self.runtime.block_on(async { tokio::time::timeout(DEADLINE, asked).await });
        Ok(answer.context("no answer to a cut")??)
    }

    /// Changes the timeout of cuts; `None`: never.
    pub(super) fn cut_every(&self, timeout: Option<Duration>) -> anyhow::Result<()> {
        let ms = timeout.map_or(3_600_000, |t| u64::try_from(t.as_millis()).unwrap_or(u64::MAX));
        let change = PolicyChange { timeout_ms: Some(ms), ..PolicyChange::default() };
        let body = requests::Policy { volume: VOLUME.to_owned(), change };
        self.runtime.block_on(self.primary.1.post::<_, serde_json::Value>(paths::POLICY, &body))?;
        Ok(())
    }

    /// The topology file.
    pub(super) fn topology(&self) -> PathBuf {
        self.dir.join("topology.yaml")
    }

    /// The socket that serves the volume.
    pub(super) fn nbd(&self) -> PathBuf {
        self.dir.join(PRIMARY).join("nbd.sock")
    }

    /// The socket of a leaf, counted from 1.
    pub(super) fn leaf_nbd(&self, i: usize) -> PathBuf {
        self.dir.join(leaf(i)).join("nbd.sock")
    }

    pub(super) fn primary_pid(&self) -> u32 {
        self.primary.0.pid()
    }

    /// All processes.
    pub(super) fn pids(&self) -> Vec<u32> {
        let leaves = self.leaves.iter().map(|(p, _)| p);
        leaves.chain(&self.sinks).chain([&self.primary.0]).map(Process::pid).collect()
    }

    /// Bytes sent to each child so far.
    pub(super) fn edges(&self) -> anyhow::Result<Vec<f64>> {
        let s = self.status(None)?;
        let group = s.groups.first().context("a group")?;
        Ok(group.children.iter().map(|c| c.bytes as f64).collect())
    }

    /// Waits until every child has acknowledged a set as durable; the moment.
    pub(super) fn saved_everywhere(&mut self, set: u64) -> anyhow::Result<f64> {
        let n = self.leaves.len();
        self.until(&format!("set {set} is saved everywhere"), |t| {
            let v = t.volume(None)?;
            let there = v.children.iter().filter(|c| c.saved_set >= set).count();
            (there == n).then(process::now)
        })
    }

    /// Waits until every leaf shows a set; the moment.
    pub(super) fn visible_everywhere(&mut self, set: u64) -> anyhow::Result<f64> {
        self.each_leaf(set, "visible", |v| v.current_set)
    }

    /// Waits until every leaf's content holds a set in full; the moment.
    pub(super) fn merged_everywhere(&mut self, set: u64) -> anyhow::Result<f64> {
        self.each_leaf(set, "merged", |v| v.merged_set)
    }

    fn each_leaf(
        &mut self,
        set: u64,
        what: &str,
        at: impl Fn(&VolumeInfo) -> u64,
    ) -> anyhow::Result<f64> {
        // One after the other: those not asked are not disturbed.
        for i in 0..self.leaves.len() {
            self.until(&format!("set {set} is {what} at leaf {}", i + 1), |t| {
                (at(&t.volume(Some(i))?) >= set).then_some(())
            })?;
        }
        Ok(process::now())
    }

    /// Lets the sinks receive, and waits until each has the set in full; seconds.
    pub(super) fn pour(&mut self, set: u64) -> anyhow::Result<f64> {
        let began = process::now();
        for s in &mut self.sinks {
            s.stdin.as_mut().context("a sink's input")?.write_all(b"go\n")?;
        }
        for s in &self.sinks {
            loop {
                let line = s.line(DEADLINE)?;
                if line.strip_prefix("end ").and_then(|n| n.parse().ok()) == Some(set) {
                    break;
                }
            }
        }
        Ok(process::now() - began)
    }

    /// Ends every process and removes the data.
    pub(super) fn end(self) -> anyhow::Result<()> {
        let dir = self.dir.clone();
        drop(self);
        std::fs::remove_dir_all(dir)?;
        process::settle();
        Ok(())
    }
}
