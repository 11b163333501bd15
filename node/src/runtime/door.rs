//! The NBD door of a running node: the topology's rules, and who hears of those turned away.

use std::collections::BTreeMap;
use std::sync::Arc;

use config::{NodePlan, Topology};
use rcp::net::tls::Pki;
use tokio::sync::{mpsc, watch};

use super::core::Input;
use crate::access::{Audit, Caller};
use crate::clock;
use crate::mover::TurnedAway;
use crate::nbd;
use crate::volumes::Names;
use crate::volumes::door::{Door, Refusal, Rules, Tell};

/// TLS for the NBD server, and what has it judge again those who are connected.
pub(super) fn tls(
    node: &NodePlan,
    pki: Option<Arc<Pki>>,
) -> (watch::Sender<u64>, Option<nbd::Tls>) {
    let (judge, judged) = watch::channel(0);
    let tls = pki.map(|pki| nbd::Tls {
        pki,
        runtime: tokio::runtime::Handle::current(),
        required: !node.insecure_plaintext,
        judge: judged,
    });
    (judge, tls)
}

/// The exports of a node, for those who may open them.
pub(super) fn exports(
    topology: &Topology,
    node: &NodePlan,
    names: Arc<Names>,
    audit: Arc<Audit>,
    core: mpsc::Sender<Input>,
) -> Arc<Door> {
    Arc::new(Door::new(names, rules(topology, node), tell(audit, core)))
}

/// What the topology says. A volume's list holds at every node, also after a failover.
fn rules(topology: &Topology, node: &NodePlan) -> Rules {
    Rules {
        secured: topology.pki().is_some() && !node.insecure_plaintext,
        nodes: topology.nodes().map(|n| n.name.clone()).collect(),
        node: node.nbd_allow.clone(),
        volumes: listed(topology, node),
    }
}

/// The lists of volumes that have their own, by label at this node.
pub(super) fn listed(topology: &Topology, node: &NodePlan) -> BTreeMap<String, Vec<config::Allow>> {
    let list =
        |v: &config::VolumePlan| Some((v.label_at(&node.name).to_string(), v.nbd_allow.clone()?));
    topology.groups().flat_map(|g| g.volumes.iter().filter_map(list)).collect()
}

/// Refusals go to a metric, to `refused.log`, and to log and status, where each kind and peer stands
/// once. A port scan (no TLS where TLS was to begin) is counted only.
fn tell(audit: Arc<Audit>, core: mpsc::Sender<Input>) -> Tell {
    Arc::new(move |r: Refusal| {
        crate::metrics::nbd_refused(r.kind);
        if matches!(r.kind, "closed" | "tls" | "pki") {
            return tracing::debug!(peer = %r.from, "refused: {}", r.why);
        }
        audit.refused(clock::wall().0, &Caller::plain(r.from.to_string()), "NBD", &r.why);
        let from = r.from.ip().to_canonical().to_string();
        let who = TurnedAway { from, claims: None, why: r.why, kind: r.kind };
        // A full queue: it is on record, and the peer comes again.
        let _ = core.try_send(Input::TurnedAway { who });
    })
}
