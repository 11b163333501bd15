//! The certificates of a running node: read at its start, looked at while it runs, and what follows
//! from having them or not.

use std::path::Path;
use std::sync::Arc;

use config::{Door, GroupPlan as PlannedGroup, NodePlan, Topology};
use rcp::net::tls::{Pki, Reload};
use rcp::proto::transport::Transport;
use tokio::sync::{mpsc, watch as signal};
use tokio_util::sync::CancellationToken;

use super::core::Input;
use super::port::PlainRule;
use super::start::StartError;
use crate::api::SecurityStatus;
use crate::{access, clock, http, limits};

/// What the status says from the start.
pub(super) fn status(topology: &Topology, node: &NodePlan) -> SecurityStatus {
    SecurityStatus {
        proven: topology.pki().is_some(),
        plaintext: node.insecure_plaintext,
        ..SecurityStatus::default()
    }
}

/// Who may ask over HTTP: with certificates, whoever shows a token or one of them.
pub(super) fn guard(
    topology: &Topology,
    node: &NodePlan,
    base: &Path,
    audit: Arc<access::Audit>,
) -> http::Guard {
    let pki = topology.pki();
    http::Guard {
        policy: access::Policy {
            secured: pki.is_some(),
            metrics_closed: node.metrics == Door::Closed,
            health_closed: node.health == Door::Closed,
        },
        tokens: pki.map(|dir| access::Tokens::of(&base.join(dir))),
        audit,
        host: node.address.host_text(),
    }
}

/// The certificates of a node, if the topology has any.
pub(super) fn load_pki(
    topology: &Topology,
    node: &NodePlan,
    base: &Path,
) -> Result<Option<Arc<Pki>>, StartError> {
    if node.insecure_plaintext {
        tracing::warn!(
            "{}: insecure_plaintext is set: whoever reaches {} can feed this node under any name, \
             and reads everything",
            node.name,
            node.listen
        );
    }
    let Some(folder) = topology.pki() else { return Ok(None) };
    let pki = Pki::load(&base.join(folder), &node.name)
        .map_err(|e| StartError::Refused(format!("the certificates of {}: {e}", node.name)))?;
    for note in pki.notes() {
        tracing::warn!("{note}");
    }
    Ok(Some(Arc::new(pki)))
}

/// Who may come without a certificate.
pub(super) fn plain_rule(topology: &Topology, node: &NodePlan) -> PlainRule {
    let tcp = |g: &PlannedGroup| {
        // Hops that somebody else dials.
        let up = g.parent(&node.name).filter(|_| !g.dialling.contains(&node.name));
        let up = up.map(|p| g.hop(p, &node.name));
        let down = g.children(&node.name).iter().filter(|c| g.dialling.contains(*c));
        let mut all = up.into_iter().chain(down.map(|c| g.hop(&node.name, c)));
        all.any(|h| h.transport == Some(Transport::Tcp))
    };
    let loopback = topology.pki().is_none() || topology.groups_of(&node.name).any(tcp);
    PlainRule { node: node.name.clone(), anywhere: node.insecure_plaintext, loopback }
}

/// Takes certificates that change on disk, also at SIGHUP, and has sessions judged again.
pub(super) async fn watch(
    pki: Arc<Pki>,
    core: mpsc::Sender<Input>,
    nbd: signal::Sender<u64>,
    stop: CancellationToken,
) {
    let hup = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::hangup());
    let Ok(mut hup) = hup else { return };
    let mut judged = clock::mono();
    let mut problem = None;
    let mut stale = stale_list(&pki, None);
    if stale.is_some() && core.send(Input::Judge { problem: stale.clone() }).await.is_err() {
        return;
    }
    loop {
        tokio::select! {
            () = tokio::time::sleep(limits::PKI_POLL) => {}
            _ = hup.recv() => tracing::info!("SIGHUP: the certificates are looked at again"),
            () = stop.cancelled() => return,
        }
        let look = pki.clone();
        let Ok(found) = tokio::task::spawn_blocking(move || look.reload()).await else { continue };
        match found {
            Reload::Same if clock::mono().since(judged) < limits::PKI_JUDGE => continue,
            Reload::Same => {}
            Reload::Loaded(notes) => {
                tracing::info!("new certificates and revocation lists are in use");
                notes.iter().for_each(|n| tracing::warn!("{n}"));
                problem = None;
            }
            Reload::Kept(e) => {
                tracing::error!("certificates on disk cannot be used, the old ones stay: {e}");
                problem = Some(format!("certificates on disk are not in use: {e}"));
            }
        }
        judged = clock::mono();
        stale = stale_list(&pki, stale.as_deref());
        nbd.send_modify(|n| *n += 1);
        let problem = problem.clone().or_else(|| stale.clone());
        if core.send(Input::Judge { problem }).await.is_err() {
            return;
        }
    }
}

/// What is to be said of a revocation list that is out of date; logged when it was not so before.
fn stale_list(pki: &Pki, before: Option<&str>) -> Option<String> {
    pki.stale_list(clock::unix_seconds())?;
    let text = format!(
        "{} should have been replaced by its own word (nextUpdate): whom it lists is refused, whoever \
         was revoked since is not; copy a new one here",
        pki.crl().display()
    );
    if before != Some(&text) {
        tracing::warn!("{text}");
    }
    Some(text)
}
