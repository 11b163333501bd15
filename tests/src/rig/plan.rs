//! What a tree is to be: a topology specification with ports that are free.

use std::collections::{BTreeMap, BTreeSet};
use std::net::TcpListener;
use std::sync::{Mutex, PoisonError};

use config::spec::{GroupSpec, HopSpec, NodeSpec, PlaybackSpec, TopologySpec, VolumeSpec};

use super::random::Random;
use super::sites::Sites;

/// Ports handed out by this process.
static TAKEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());

/// The group every plan has.
pub(super) const GROUP: &str = "g1";

/// A topology of one group, to be changed before it is started.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The topology. Addresses are filled in when the tree starts.
    pub spec: TopologySpec,
    /// Nodes that speak the oldest version of RCP.
    pub(super) older: BTreeSet<String>,
    /// Hosts of nodes that do not listen on 127.0.0.1.
    hosts: BTreeMap<String, String>,
    /// Network namespaces of nodes that run in one.
    pub(super) within: BTreeMap<String, String>,
}

impl Plan {
    /// Nodes and next hops, as in `&[("p", &["f1", "f2"]), ("f1", &["l1"])]`; the first line's node
    /// is the primary. Sets are cut on demand only, until [`Plan::cut_every`].
    #[must_use]
    pub fn new(routes: &[(&str, &[&str])]) -> Self {
        let mut spec = TopologySpec::default();
        let mut group = GroupSpec::default();
        for (from, hops) in routes {
            for name in std::iter::once(from).chain(*hops) {
                let node = NodeSpec { data: (*name).to_owned(), ..NodeSpec::default() };
                spec.nodes.insert((*name).to_owned(), node);
            }
            let hops: Vec<_> = hops.iter().map(|h| (*h).into()).collect();
            if !hops.is_empty() {
                group.routes.insert((*from).to_owned(), hops);
            }
        }
        group.primary = routes.first().map(|(p, _)| (*p).to_owned()).unwrap_or_default();
        group.policy.timeout = Some("1h".to_owned());
        group.policy.hwm = Some("1 GiB".to_owned());
        group.playback = PlaybackSpec::default();
        spec.groups.insert(GROUP.to_owned(), group);
        spec.defaults.save = Some("64 MiB".to_owned());
        spec.defaults.snapshot_area = Some("64 MiB".to_owned());
        Self { spec, older: BTreeSet::new(), hosts: BTreeMap::new(), within: BTreeMap::new() }
    }

    /// One primary, two forwarders, four leaves.
    #[must_use]
    pub fn tree() -> Self {
        Self::new(&[("p", &["f1", "f2"]), ("f1", &["l1", "l2"]), ("f2", &["l3", "l4"])])
    }

    /// The group, to be changed.
    ///
    /// # Panics
    /// Never: every plan has it.
    pub fn group(&mut self) -> &mut GroupSpec {
        self.spec.groups.get_mut(GROUP).expect("the group of a plan")
    }

    /// Adds a volume.
    #[must_use]
    pub fn volume(mut self, label: &str, mib: u64) -> Self {
        let volume = VolumeSpec { size: format!("{mib} MiB"), ..VolumeSpec::default() };
        self.group().volumes.insert(label.to_owned(), volume);
        self
    }

    /// The size of every save volume.
    #[must_use]
    pub fn save(mut self, mib: u64) -> Self {
        self.spec.defaults.save = Some(format!("{mib} MiB"));
        self
    }

    /// Sets are cut at this interval.
    #[must_use]
    pub fn cut_every(mut self, ms: u64) -> Self {
        self.group().policy.timeout = Some(format!("{ms} ms"));
        self
    }

    /// Every node has a certificate, and hops are crossed by this where they do not say otherwise.
    #[must_use]
    pub fn by(mut self, transport: &str) -> Self {
        self.spec.pki = Some("./pki".to_owned());
        self.spec.transport = Some(transport.to_owned());
        self
    }

    /// Changes one next hop.
    ///
    /// # Panics
    /// When the plan has no such route.
    #[must_use]
    pub fn hop(mut self, from: &str, to: &str, change: impl FnOnce(&mut HopSpec)) -> Self {
        let hops = self.group().routes.get_mut(from).expect("routes of this node");
        change(hops.iter_mut().find(|h| h.node == to).expect("this next hop"));
        self
    }

    /// These nodes speak RCP 1.0 to everybody.
    #[must_use]
    pub fn older(mut self, nodes: &[&str]) -> Self {
        self.older.extend(nodes.iter().map(|n| (*n).to_owned()));
        self
    }

    /// A node listens on this host, as a topology writes it.
    #[must_use]
    pub fn host(mut self, node: &str, host: &str) -> Self {
        self.hosts.insert(node.to_owned(), host.to_owned());
        self
    }

    /// These nodes run at a site, and listen there.
    #[must_use]
    pub fn at(mut self, sites: &Sites, site: usize, nodes: &[&str]) -> Self {
        for node in nodes {
            self.hosts.insert((*node).to_owned(), Sites::address(site));
            self.within.insert((*node).to_owned(), sites.name(site).to_owned());
        }
        self
    }

    /// A node keeps its data in this folder.
    #[must_use]
    pub fn data(mut self, node: &str, folder: &str) -> Self {
        if let Some(n) = self.spec.nodes.get_mut(node) {
            folder.clone_into(&mut n.data);
        }
        self
    }

    /// Gives every node addresses that are free now.
    pub(super) fn assign_ports(&mut self) {
        for (name, node) in &mut self.spec.nodes {
            let host = self.hosts.get(name).map_or("127.0.0.1", String::as_str);
            node.listen = format!("{host}:{}", free_port());
            node.nbd = Some(format!("127.0.0.1:{}", free_port()));
        }
    }
}

/// A port nobody listens on. It is below those that the system gives to outgoing connections:
/// otherwise one of these could take it while its node is down, even the parent's own dialling.
#[must_use]
pub fn free_port() -> u16 {
    let mut random = Random::quiet();
    loop {
        let port = u16::try_from(10_000 + random.below(20_000)).unwrap_or(10_000);
        let mut taken = TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
        if !taken.contains(&port) && TcpListener::bind(("127.0.0.1", port)).is_ok() {
            taken.insert(port);
            return port;
        }
    }
}
