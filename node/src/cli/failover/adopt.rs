//! The tree is put under the new writer.

use std::time::Duration;

use super::args::FailoverArgs;
use super::plan::Plan;
use super::routes::{self, Routes, Step};
use super::{Nodes, RouteDone, way};
use crate::api::{ApiErrorKind, NodeStatus, RouteTable, RouteWay};
use crate::cli::client::{Client, ClientError};
use crate::cli::output::Failed;
use crate::cli::status::tame;
use crate::cli::target::load;
use crate::http::{paths, requests};

/// How long a next hop may still believe that somebody else feeds it.
const ROUTE: Duration = Duration::from_secs(30);
/// How often it is asked again.
const AGAIN: Duration = Duration::from_millis(250);
/// How often it is said what is waited for.
const TOLD: Duration = Duration::from_secs(3);

/// What the note on a group that is written at two nodes begins with.
pub(super) const WHOLE_GROUP: &str = "routes are those of the whole group";

/// The node that wrote until now.
pub(super) enum Former {
    /// There was none, or nobody knows which.
    Unknown,
    /// It has a copy, and is fed like the others.
    Follows(String),
    /// It gave its files away: it has no copy, and gets none unasked.
    Gave(String),
}

impl Former {
    /// As the nodes say, of a volume that `to` writes.
    pub(super) fn of(volume: &str, to: &str, old: Option<String>, nodes: &[NodeStatus]) -> Self {
        let gave = way::giver(volume, to, nodes).map(Self::Gave);
        gave.or_else(|| old.map(Self::Follows)).unwrap_or(Self::Unknown)
    }

    fn node(&self) -> Option<&str> {
        match self {
            Self::Unknown => None,
            Self::Follows(n) | Self::Gave(n) => Some(n),
        }
    }
}

/// Puts the tree under the new writer.
pub(super) async fn adopt(
    args: &FailoverArgs,
    plan: &Plan,
    nodes: &Nodes,
    to: &str,
    former: &Former,
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
            "{WHOLE_GROUP} {}, and {} of it is written elsewhere: fail it over to {to} as well, then say \
             --adopt again; no route was changed",
            plan.group,
            others.join(", ")
        ));
        return Ok(Vec::new());
    }
    let mut known = routes::known(&plan.group, &nodes.all);
    let file = topology_routes(args, plan, to, &mut known)?;
    let mut wanted =
        file.on_failover.unwrap_or_else(|| routes::by_default(to, former.node(), &known));
    for lone in routes::unfed(to, &plan.group, &nodes.all, &known) {
        if !wanted.values().any(|hops| hops.contains(&lone)) {
            wanted.entry(to.to_owned()).or_default().push(lone);
        }
    }
    let silent = routes::silent(to, &file.routes, &nodes.all, &wanted, &known);
    wanted.entry(to.to_owned()).or_default().extend(silent);
    if let Former::Gave(node) = former {
        wanted.values_mut().for_each(|hops| hops.retain(|h| h != node));
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
            Some(c) => {
                let silent = nodes.client(&step.hop).is_none();
                match route(c, &plan.group, &step, false).await {
                    // It may be gone for good, or come back: then it is to hear of the new writer.
                    Err(_) if silent => route(c, &plan.group, &step, true).await,
                    done => done,
                }
            }
        };
        let ok = text.is_ok();
        let text = text.unwrap_or_else(|e| e);
        done.push(RouteDone { step, done: ok, text });
    }
    Ok(done)
}

/// What the topology says of a group's routes.
#[derive(Default)]
struct Written {
    /// As they begin.
    routes: Routes,
    /// When this node takes over, if that is written.
    on_failover: Option<Routes>,
}

/// What the topology says; routes it knows of complete those known.
fn topology_routes(
    args: &FailoverArgs,
    plan: &Plan,
    to: &str,
    known: &mut Routes,
) -> Result<Written, Failed> {
    let Some(file) = &args.target.topology else { return Ok(Written::default()) };
    let topology = load(file)?;
    let Some(group) = topology.groups().find(|g| g.name.as_str() == plan.group) else {
        return Ok(Written::default());
    };
    let texts = |hops: &[rcp::proto::ids::NodeName]| hops.iter().map(ToString::to_string).collect();
    let routes: Routes =
        group.routes.iter().map(|(n, hops)| (n.to_string(), texts(hops))).collect();
    for (node, hops) in &routes {
        known.entry(node.clone()).or_insert_with(|| hops.clone());
    }
    let table = group.on_failover.iter().find(|(n, _)| n.as_str() == to);
    let on_failover =
        table.map(|(_, t)| t.iter().map(|(n, hops)| (n.to_string(), texts(hops))).collect());
    Ok(Written { routes, on_failover })
}

pub(in crate::cli) async fn route(
    client: &Client,
    group: &str,
    step: &Step,
    unasked: bool,
) -> Result<String, String> {
    if step.remove {
        let body = requests::RouteDelete {
            group: Some(group.to_owned()),
            next_hop: Some(step.hop.clone()),
        };
        let gone: Result<RouteTable, _> = client.post(paths::ROUTE_DELETE, &body).await;
        return gone.map(|_| "removed".to_owned()).map_err(|e| e.to_string());
    }
    let by = RouteWay::default();
    let body =
        requests::RouteAdd { group: group.to_owned(), next_hop: step.hop.clone(), by, unasked };
    let began = crate::clock::mono();
    let (until, mut tell_at) = (began.after(ROUTE), began.after(TOLD));
    loop {
        let added: Result<RouteTable, _> = client.post(paths::ROUTE_ADD, &body).await;
        match added {
            Ok(_) if unasked => {
                let Step { at, hop, .. } = step;
                return Ok(format!(
                    "{hop} does not answer; {at} goes on dialling it until it is there"
                ));
            }
            Ok(_) => return Ok("added".to_owned()),
            // It was fed by somebody else a moment ago.
            Err(ClientError::Refused(e))
                if e.kind == ApiErrorKind::Fed && crate::clock::mono() < until =>
            {
                let now = crate::clock::mono();
                if now >= tell_at {
                    let Step { at, hop, .. } = step;
                    eprintln!("waiting for the route from {at} to {hop}: {}", tame(&e.text));
                    tell_at = now.after(TOLD);
                }
                tokio::time::sleep(AGAIN).await;
            }
            Err(e) => return Err(e.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::ApiError;
    use crate::cli::target::SOCKET;
    use crate::cli::tests::running;

    #[tokio::test]
    async fn a_feeder_that_lets_go_is_waited_for_and_nothing_else_is() {
        let r = running();
        let client = Client::new(r.dir.path().join(SOCKET));
        let step = Step { at: "f1".into(), remove: false, hop: "l2".into() };
        let fed = || ApiError::new(ApiErrorKind::Fed, "`l2` is already fed by `f2`");
        *r.node.refuses.lock() = vec![fed(), fed()];
        assert_eq!(route(&client, "g1", &step, false).await, Ok("added".to_owned()));
        assert_eq!(r.asked(), ["route add g1 l2"; 3]);
        *r.node.refuses.lock() = vec![ApiError::new(ApiErrorKind::Conflict, "a ring")];
        let no = route(&client, "g1", &step, false).await;
        assert!(no.as_ref().is_err_and(|e| e.contains("a ring")), "{no:?}");
        assert_eq!(r.asked(), ["route add g1 l2"]);
        // Who does not answer is not asked.
        let done = route(&client, "g1", &step, true).await;
        assert!(done.as_ref().is_ok_and(|t| t.contains("goes on dialling it")), "{done:?}");
        assert_eq!(r.asked(), ["route add g1 l2 unasked"]);
    }
}
