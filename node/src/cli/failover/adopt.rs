//! The tree is put under the new writer.

use std::time::Duration;

use super::args::FailoverArgs;
use super::plan::Plan;
use super::routes::{self, Routes, Step};
use super::{Nodes, RouteDone};
use crate::api::{ApiErrorKind, RouteTable, RouteWay};
use crate::cli::client::{Client, ClientError};
use crate::cli::output::Failed;
use crate::cli::target::load;
use crate::http::{paths, requests};

/// How long a next hop may still believe that somebody else feeds it.
const ROUTE: Duration = Duration::from_secs(30);

/// Puts the tree under the new writer.
pub(super) async fn adopt(
    args: &FailoverArgs,
    plan: &Plan,
    nodes: &Nodes,
    to: &str,
    old: Option<&str>,
    notes: &mut Vec<String>,
) -> Result<Vec<RouteDone>, Failed> {
    let others: Vec<&str> = nodes
        .all
        .iter()
        .filter(|n| n.node != to)
        .flat_map(|n| &n.volumes)
        .filter(|v| v.group == plan.group && !v.is_called(&plan.volume))
        .filter(|v| v.role == "primary" && v.fenced.is_none())
        .map(|v| v.label.as_str())
        .collect();
    if !others.is_empty() {
        notes.push(format!(
            "routes are those of the whole group {}, and {} of it is written elsewhere: fail it over \
             to {to} as well, then say --adopt again; no route was changed",
            plan.group,
            others.join(", ")
        ));
        return Ok(Vec::new());
    }
    let mut known = routes::known(&plan.group, &nodes.all);
    let by_topology = topology_routes(args, plan, to, &mut known)?;
    let mut wanted = by_topology.unwrap_or_else(|| routes::by_default(to, old, &known));
    for lone in routes::unfed(to, &plan.group, &nodes.all, &known) {
        if !wanted.values().any(|hops| hops.contains(&lone)) {
            wanted.entry(to.to_owned()).or_default().push(lone);
        }
    }
    let mut done = Vec::new();
    for step in routes::steps(to, &wanted, &known) {
        let text = match nodes.client(&step.at) {
            None if step.remove => {
                // Whoever is gone feeds nobody; when it is back it is fenced and lets go by itself.
                let how = nodes.round.silence(&step.at);
                notes.push(format!("{} {how} and keeps its route to {}", step.at, step.hop));
                continue;
            }
            None => Err(format!("{} {}", step.at, nodes.round.silence(&step.at))),
            Some(c) => route(c, &plan.group, &step).await,
        };
        // The old writer is expected to be gone.
        if text.is_err() && Some(step.hop.as_str()) == old && nodes.client(&step.hop).is_none() {
            notes.push(format!(
                "{} is not reached; when it is back: rcproute --dir DIR add group={} nexthop={} with \
                 the data folder of {}",
                step.hop, plan.group, step.hop, step.at
            ));
            continue;
        }
        let ok = text.is_ok();
        let text = text.unwrap_or_else(|e| e);
        done.push(RouteDone { step, done: ok, text });
    }
    Ok(done)
}

/// What the topology says of this node's taking over; routes it knows of complete those known.
fn topology_routes(
    args: &FailoverArgs,
    plan: &Plan,
    to: &str,
    known: &mut Routes,
) -> Result<Option<Routes>, Failed> {
    let Some(file) = &args.target.topology else { return Ok(None) };
    let topology = load(file)?;
    let Some(group) = topology.groups().find(|g| g.name.as_str() == plan.group) else {
        return Ok(None);
    };
    let texts = |hops: &[rcp::proto::ids::NodeName]| hops.iter().map(ToString::to_string).collect();
    for (node, hops) in &group.routes {
        known.entry(node.to_string()).or_insert_with(|| texts(hops));
    }
    let table = group.on_failover.iter().find(|(n, _)| n.as_str() == to);
    Ok(table.map(|(_, t)| t.iter().map(|(n, hops)| (n.to_string(), texts(hops))).collect()))
}

async fn route(client: &Client, group: &str, step: &Step) -> Result<String, String> {
    if step.remove {
        let body = requests::RouteDelete {
            group: Some(group.to_owned()),
            next_hop: Some(step.hop.clone()),
        };
        let gone: Result<RouteTable, _> = client.post(paths::ROUTE_DELETE, &body).await;
        return gone.map(|_| "removed".to_owned()).map_err(|e| e.to_string());
    }
    let by = RouteWay::default();
    let body = requests::RouteAdd { group: group.to_owned(), next_hop: step.hop.clone(), by };
    let until = crate::clock::mono().after(ROUTE);
    loop {
        let added: Result<RouteTable, _> = client.post(paths::ROUTE_ADD, &body).await;
        match added {
            Ok(_) => return Ok("added".to_owned()),
            // It was fed by somebody else a moment ago.
            Err(ClientError::Refused(e))
                if e.kind == ApiErrorKind::Fed && crate::clock::mono() < until =>
            {
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            Err(e) => return Err(e.to_string()),
        }
    }
}
