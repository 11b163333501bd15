//! `rcpctl node decommission`: a node leaves the tree for good, without a copy for anybody below it.
//!
//! Every step is one request to one node, durable when it is answered, and what is left of the node in
//! the tree is looked for anew each time: a command that was cut short is finished by saying it again.

mod left;
mod plan;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use clap::{Args, Subcommand};
use serde::Serialize;

use self::plan::{InGroup, Plan, Scene};
use super::client::{Client, ClientError};
use super::commands::Common;
use super::failover::adopt::route;
use super::failover::routes::Step;
use super::failover::{Nodes, RouteDone, topology};
use super::membership;
use super::output::{Failed, print, print_json};
use super::status::tame;
use super::target::Surroundings;
use crate::api::NodeStatus;
use crate::clock;
use crate::http::{paths, requests};

/// How long the nodes below may take to be in step below their new parent.
const STEP: Duration = Duration::from_secs(120);
/// How often it is said what is waited for.
const TOLD: Duration = Duration::from_secs(5);
const LOOK: Duration = Duration::from_millis(100);
/// How long it may take until somebody is fed by a route, and no longer in the place of another.
const GUEST: Duration = Duration::from_secs(20);
/// How long a node may take to stop.
const STOPS: Duration = Duration::from_secs(20);

#[derive(Debug, Subcommand)]
pub(super) enum NodeCommand {
    /// Take a node out of service for good: what it feeds gets another parent, and it is stopped
    ///
    /// Refused, with what to type, while it is a writer or has the only replica of a volume. May be said
    /// again after an interruption. Its data stays until somebody deletes it.
    Decommission(DecommissionArgs),
}

#[derive(Args, Debug)]
pub(super) struct DecommissionArgs {
    /// The node
    #[arg(id = "leaving", value_name = "NODE")]
    node: String,
    /// Who is to feed the nodes that it feeds [default: `fallbacks` of the topology, else who feeds it]
    #[arg(long, value_name = "PARENT")]
    below: Option<String>,
    /// Although it does not answer: it never comes back, on your word
    #[arg(long)]
    gone: bool,
    /// Show what would be done; changes nothing
    #[arg(long)]
    plan: bool,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Serialize)]
struct Outcome {
    node: String,
    /// Nothing was done: this is what would be.
    plan: bool,
    refused: Vec<String>,
    groups: Vec<InGroup>,
    routes: Vec<RouteDone>,
    /// Nodes that took the change of a group's members, and those that did not.
    told: Vec<String>,
    untold: BTreeMap<String, String>,
    /// It is stopped, and does not start again.
    stopped: bool,
    /// What is left to do by hand.
    by_hand: Vec<String>,
}

pub(super) async fn run(command: NodeCommand, around: &Surroundings) -> Result<(), Failed> {
    match command {
        NodeCommand::Decommission(args) => decommission(args, around).await,
    }
}

async fn look(args: &DecommissionArgs, around: &Surroundings) -> Result<(Nodes, Plan), Failed> {
    let target = &args.common.target;
    let known = topology(target)?;
    if let Some(t) = &known {
        t.require_node(&args.node).map_err(|e| Failed::new(e.to_string()))?;
        if let Some(below) = &args.below {
            t.require_node(below).map_err(|e| Failed::new(e.to_string()))?;
        }
    }
    let nodes = Nodes::ask(target, around).await?;
    let (mut fallbacks, mut named) = (BTreeMap::new(), BTreeSet::new());
    for g in known.iter().flat_map(config::Topology::groups) {
        let text = |(n, list): (&rcp::proto::ids::NodeName, &Vec<_>)| {
            (n.to_string(), list.iter().map(ToString::to_string).collect())
        };
        let is = |n: &rcp::proto::ids::NodeName| n.as_str() == args.node;
        if g.routes.iter().any(|(from, hops)| is(from) || hops.iter().any(is)) {
            named.insert(g.name.to_string());
        }
        fallbacks.insert(g.name.to_string(), g.fallbacks.iter().map(text).collect());
    }
    let scene = Scene {
        node: &args.node,
        nodes: &nodes.all,
        silent: nodes.silent(),
        named,
        listed: membership::naming(&args.node, &nodes.all),
        fallbacks,
        below: args.below.as_deref(),
        gone: args.gone,
    };
    let plan = plan::plan(&scene);
    if let Some(who) = not_asked(&nodes, known.as_ref()).filter(|_| plan.refused.is_empty()) {
        return Err(Failed::new(format!(
            "{who} not asked, and may be below {} or write a volume of it: give --topology FILE without \
             --node, and for nodes on other machines a token (--token-file). Nothing was changed",
            args.node
        )));
    }
    Ok((nodes, plan))
}

/// Nodes of the topology that nobody has asked.
fn not_asked(nodes: &Nodes, topology: Option<&config::Topology>) -> Option<String> {
    let silent = nodes.silent();
    let asked = |n: &str| silent.contains(n) || nodes.all.iter().any(|s| s.node == n);
    let all = topology.into_iter().flat_map(config::Topology::nodes).map(|n| n.name.to_string());
    let missing: Vec<_> = all.filter(|n| !asked(n)).collect();
    let were = if missing.len() == 1 { "was" } else { "were" };
    (!missing.is_empty()).then(|| format!("{} {were}", missing.join(", ")))
}

async fn decommission(args: DecommissionArgs, around: &Surroundings) -> Result<(), Failed> {
    let (nodes, plan) = look(&args, around).await?;
    let mut out = Outcome {
        node: args.node.clone(),
        plan: args.plan,
        refused: plan.refused.clone(),
        groups: plan.groups.clone(),
        routes: Vec::new(),
        told: Vec::new(),
        untold: BTreeMap::new(),
        stopped: false,
        by_hand: left::by_hand(&args.node, &nodes, &args.common.target)?,
    };
    if args.plan {
        return show(&args, &out);
    }
    if !plan.refused.is_empty() {
        if args.common.json {
            print_json(&out)?;
        }
        let lines: Vec<_> = plan.refused.iter().map(|r| format!("  {r}")).collect();
        return Err(Failed::new(tame(&format!(
            "{} cannot be taken out of service; nothing was changed:\n{}",
            args.node,
            lines.join("\n")
        ))));
    }
    carry_out(&args, &plan, nodes, around, &mut out).await?;
    show(&args, &out)?;
    if out.untold.is_empty() {
        return Ok(());
    }
    let lines: Vec<_> = out.untold.iter().map(|(node, why)| format!("{node}: {why}")).collect();
    Err(Failed::new(tame(&lines.join("\n"))))
}

async fn carry_out(
    args: &DecommissionArgs,
    plan: &Plan,
    nodes: Nodes,
    around: &Surroundings,
    out: &mut Outcome,
) -> Result<(), Failed> {
    // What a node that is silent feeds is known by its parent, which takes nobody on before that is
    // forgotten.
    if nodes.client(&args.node).is_none() {
        for g in &plan.groups {
            no_longer_fed(args, &nodes, g, out).await?;
        }
    }
    for g in &plan.groups {
        for home in &g.homes {
            let go = Step { at: args.node.clone(), remove: true, hop: home.child.clone() };
            let feeds = |n: &NodeStatus| {
                let of = n.groups.iter().find(|own| own.group == g.group);
                of.is_some_and(|own| own.children.iter().any(|c| c.node == home.child))
            };
            if nodes.all.iter().any(|n| n.node == args.node && feeds(n)) {
                change(&nodes, &g.group, go, out).await?;
            }
            take_on(&nodes, &g.group, &home.parent, &home.child, out).await?;
        }
    }
    in_step(args, plan, around).await?;
    for g in &plan.groups {
        if nodes.client(&args.node).is_some() {
            no_longer_fed(args, &nodes, g, out).await?;
        }
        let homes: Vec<_> = g.homes.iter().map(|h| (h.child.clone(), h.parent.clone())).collect();
        let target = &args.common.target;
        let expelled = membership::expel(&g.group, &args.node, &homes, target, around).await?;
        out.told.extend(expelled.told);
        out.untold.extend(expelled.untold);
    }
    out.told.sort();
    out.told.dedup();
    if let Some(client) = nodes.client(&args.node) {
        retire(client).await.map_err(|e| {
            Failed::new(format!(
                "{} is out of the tree, and was not stopped: {e}; say the same command again",
                args.node
            ))
        })?;
        out.stopped = true;
    }
    Ok(())
}

/// It says that it is out of service, and stops; its answer may be lost with it.
async fn retire(client: &Client) -> Result<(), ClientError> {
    let until = clock::mono().after(STOPS);
    let mut asked = false;
    loop {
        let done: Result<requests::Done, _> =
            client.post(paths::RETIRE, &serde_json::json!({})).await;
        match done {
            Ok(_) => return Ok(()),
            Err(ClientError::NotRunning(_)) if asked => return Ok(()),
            Err(ClientError::Broken(_)) if clock::mono() < until => asked = true,
            Err(e) => return Err(e),
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Who feeds the node lets go of it.
async fn no_longer_fed(
    args: &DecommissionArgs,
    nodes: &Nodes,
    g: &InGroup,
    out: &mut Outcome,
) -> Result<(), Failed> {
    let Some(parent) = &g.parent else { return Ok(()) };
    let go = Step { at: parent.clone(), remove: true, hop: args.node.clone() };
    change(nodes, &g.group, go, out).await
}

/// The new parent feeds a child; it may have done so already, in the place of a node that is away.
async fn take_on(
    nodes: &Nodes,
    group: &str,
    parent: &str,
    child: &str,
    out: &mut Outcome,
) -> Result<(), Failed> {
    let client = nodes.need(parent)?;
    let until = clock::mono().after(GUEST);
    loop {
        let status = client.status().await?;
        let of = status.groups.iter().find(|own| own.group == group);
        let guest = of
            .is_some_and(|g| g.children.iter().any(|c| c.node == child && c.in_place_of.is_some()));
        if guest {
            let go = Step { at: parent.to_owned(), remove: true, hop: child.to_owned() };
            let _ = route(client, group, &go, false).await;
        }
        let come = Step { at: parent.to_owned(), remove: false, hop: child.to_owned() };
        match change(nodes, group, come, out).await {
            Err(_) if guest && clock::mono() < until => tokio::time::sleep(LOOK).await,
            done => return done,
        }
    }
}

async fn change(nodes: &Nodes, group: &str, step: Step, out: &mut Outcome) -> Result<(), Failed> {
    let text = route(nodes.need(&step.at)?, group, &step, false).await.map_err(|e| {
        Failed::new(format!(
            "{}: {e}; what was done stays done: say the same command again",
            step.at
        ))
    })?;
    out.routes.push(RouteDone { step, done: true, text });
    Ok(())
}

/// What a child still lacks below its new parent, in words; `None` if nothing. It has to have what the
/// parent had when it was looked at first, which is in `goals`.
fn lacks(
    child: &str,
    parent: &str,
    group: &str,
    all: &[NodeStatus],
    goals: &mut BTreeMap<(String, String), u64>,
) -> Option<String> {
    let of = |n: &str| all.iter().find(|s| s.node == n);
    let (Some(c), Some(p)) = (of(child), of(parent)) else {
        return Some(format!("{child} or {parent} does not answer"));
    };
    let own = c.groups.iter().find(|g| g.group == group).and_then(|g| g.parent.as_ref());
    if !own.is_some_and(|l| l.node == parent && l.state == "connected") {
        return Some(format!("{child} is not connected with {parent} yet"));
    }
    for v in p.volumes.iter().filter(|v| v.group == group) {
        let Some(copy) = c.volumes.iter().find(|o| o.id == v.id) else {
            return Some(format!("{child} has no copy of {} yet", v.label));
        };
        // One that only forwards shows nothing.
        let (has, whole) = match copy.role.as_str() {
            "relay" => (copy.saved_set, true),
            _ => (copy.current_set, copy.is_whole()),
        };
        let goal = *goals.entry((child.to_owned(), v.id.clone())).or_insert(v.current_set);
        if has < goal || !whole {
            let why = copy.reason.as_deref().map_or(String::new(), |r| format!(" ({r})"));
            return Some(format!(
                "{child} is at set {has} of {}, {}{why}, and has to have set {goal} of {parent}",
                v.label, copy.state
            ));
        }
    }
    None
}

/// Waits until everybody who was given another parent is in step below it.
async fn in_step(
    args: &DecommissionArgs,
    plan: &Plan,
    around: &Surroundings,
) -> Result<(), Failed> {
    let homes = || plan.groups.iter().flat_map(|g| g.homes.iter().map(move |h| (g, h)));
    let (until, mut told) = (clock::mono().after(STEP), clock::mono().after(TOLD));
    let (mut done, mut goals) = (BTreeSet::new(), BTreeMap::new());
    while homes().count() > done.len() {
        let nodes = Nodes::ask(&args.common.target, around).await?;
        let mut waits = Vec::new();
        for (g, h) in homes() {
            match lacks(&h.child, &h.parent, &g.group, &nodes.all, &mut goals) {
                None => drop(done.insert((g.group.clone(), h.child.clone()))),
                Some(_) if done.contains(&(g.group.clone(), h.child.clone())) => {}
                Some(why) => waits.push(why),
            }
        }
        let now = clock::mono();
        if !waits.is_empty() && now >= until {
            return Err(Failed::new(tame(&format!(
                "not in step within {} s: {}; {} still runs and is fed: say the same command again",
                STEP.as_secs(),
                waits.join("; "),
                args.node
            ))));
        }
        if !waits.is_empty() && now >= told {
            told = now.after(TOLD);
            eprintln!("waiting: {}", tame(&waits.join("; ")));
        }
        tokio::time::sleep(LOOK).await;
    }
    Ok(())
}

fn show(args: &DecommissionArgs, out: &Outcome) -> Result<(), Failed> {
    if args.common.json { print_json(out) } else { print(&tame(&told(out))) }
}

fn told(o: &Outcome) -> String {
    let node = &o.node;
    let mut out = String::new();
    for g in &o.groups {
        let group = &g.group;
        for h in &g.homes {
            let (child, parent) = (&h.child, &h.parent);
            let done = if o.plan { "would be fed" } else { "is fed" };
            out.push_str(&format!("{group}: {child} {done} by {parent}, from where it is\n"));
        }
        if let Some(parent) = g.parent.as_ref().filter(|_| o.plan) {
            out.push_str(&format!("{group}: {parent} would feed {node} no longer\n"));
        }
    }
    for r in &o.routes {
        out.push_str(&r.told());
    }
    if !o.told.is_empty() {
        out.push_str(&format!("a member no longer, as {} know\n", o.told.join(", ")));
    }
    for why in &o.refused {
        out.push_str(&format!("not possible: {why}\n"));
    }
    out.push_str(&match (o.plan, o.stopped) {
        (true, _) => "nothing was changed\n".to_owned(),
        (_, true) => format!("{node} is out of service: it is stopped, and refuses to start\n"),
        (_, false) => format!("{node} is out of service: nobody feeds it, and it feeds nobody\n"),
    });
    if !o.by_hand.is_empty() {
        out.push_str("left to do by hand:\n");
    }
    for line in &o.by_hand {
        out.push_str(&format!("  {line}\n"));
    }
    out
}
