//! `rcpctl failover`, `resync`, `confirm`, `history`: who the writer of a volume is (FAIL-01 to
//! FAIL-10, F31 to F33).
//!
//! Every step is one request to one node, durable when it is answered; a command that was cut short
//! is finished by saying it again.

mod history;
mod plan;
mod routes;

use std::time::Duration;

use clap::Args;
use serde::Serialize;

use self::plan::{Loss, Plan};
use self::routes::{Routes, Step};
use super::client::{Client, ClientError};
use super::output::{Failed, print, print_json, tell};
use super::status::{self, tame};
use super::target::{Endpoint, Purpose, Surroundings, Target, load};
use crate::api::{
    HistoryLine, NodeStatus, Promoted, RouteTable, VolumeInfo, WriterAnswer, WriterChange,
};
use crate::http::{paths, requests};

/// How long writers wait at most while a volume is handed over.
const HOLD: Duration = Duration::from_secs(30);
/// How long the node that takes over has to get the last set.
const LAST_SET: Duration = Duration::from_secs(25);
/// How long it has to come near before writers are held.
const NEAR: Duration = Duration::from_secs(120);
/// How long a next hop may still believe that somebody else feeds it.
const ROUTE: Duration = Duration::from_secs(30);
/// How often it is looked again.
const LOOK: Duration = Duration::from_millis(20);

#[derive(Args, Clone, Debug)]
pub(super) struct FailoverArgs {
    /// The volume
    volume: String,
    /// Show who could take over and what would be lost; changes nothing
    #[arg(long, conflicts_with_all = ["to", "take_back"])]
    plan: bool,
    /// The node that is to take over as the writer
    #[arg(long, value_name = "NODE", required_unless_present_any = ["plan", "take_back"])]
    to: Option<String>,
    /// Do not play sets that have come and are not shown yet
    #[arg(long, requires = "to", conflicts_with = "sync")]
    now: bool,
    /// Lose nothing: the old writer makes a last set and hands over; if it cannot, nothing changes
    #[arg(long, requires = "to")]
    sync: bool,
    /// Put the tree under the new writer: by the topology's `on_failover`, else the old writer's
    /// other children and the old writer itself
    #[arg(long, requires = "to")]
    adopt: bool,
    /// Undo a handing over that nobody finished: the old writer goes on
    #[arg(long)]
    take_back: bool,
    /// Print the answer as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    target: Target,
}

#[derive(Args, Clone, Debug)]
pub(super) struct ResyncArgs {
    /// The volume
    volume: String,
    /// What the new writer does not have may be given up
    #[arg(long)]
    discard: bool,
    /// Print the answer as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    target: Target,
}

#[derive(Args, Clone, Debug)]
pub(super) struct ConfirmArgs {
    /// The volume
    volume: String,
    /// Let writers in although no child has confirmed that there is no newer writer
    #[arg(long, required = true)]
    alone: bool,
    /// Print the answer as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    target: Target,
}

#[derive(Args, Clone, Debug)]
pub(super) struct HistoryArgs {
    /// The volume
    volume: String,
    /// Print it as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    target: Target,
}

/// What came of a failover.
#[derive(Debug, Serialize)]
struct Outcome {
    promoted: Promoted,
    node: String,
    /// Of finished sets.
    loss: Loss,
    /// Changes at the old writer since its last set; unknown if it did not answer.
    unfinished_bytes: Option<u64>,
    /// How long writers waited (`--sync`).
    held_ms: Option<u64>,
    routes: Vec<RouteDone>,
    notes: Vec<String>,
}

#[derive(Debug, Serialize)]
struct RouteDone {
    #[serde(flatten)]
    step: Step,
    done: bool,
    text: String,
}

/// The nodes that answered.
struct Nodes {
    all: Vec<NodeStatus>,
    clients: Vec<(String, Client)>,
}

impl Nodes {
    async fn ask(target: &Target, around: &Surroundings) -> Result<Self, Failed> {
        let (endpoints, _) = status::present(target, around)?;
        Ok(Self::of(&endpoints).await)
    }

    async fn of(endpoints: &[Endpoint]) -> Self {
        let asked = status::ask(endpoints).await;
        let mut nodes = Self { all: Vec::new(), clients: Vec::new() };
        for (a, e) in asked.into_iter().zip(endpoints) {
            if let Ok(s) = a.answer {
                nodes.clients.push((s.node.clone(), e.client()));
                nodes.all.push(s);
            }
        }
        nodes
    }

    fn client(&self, node: &str) -> Option<&Client> {
        self.clients.iter().find(|(n, _)| n == node).map(|(_, c)| c)
    }

    fn need(&self, node: &str) -> Result<&Client, Failed> {
        self.client(node).ok_or_else(|| {
            let names: Vec<_> = self.clients.iter().map(|(n, _)| n.as_str()).collect();
            Failed::new(format!(
                "{node} did not answer; those that did: {}. Nothing was changed",
                if names.is_empty() { "none".to_owned() } else { names.join(", ") }
            ))
        })
    }
}

async fn change(client: &Client, change: &WriterChange) -> Result<WriterAnswer, ClientError> {
    client.post(paths::WRITER, change).await
}

async fn volume_at(client: &Client, volume: &str) -> Option<VolumeInfo> {
    let status = client.status().await.ok()?;
    status.volumes.into_iter().find(|v| v.label == volume || v.id == volume)
}

pub(super) async fn failover(args: FailoverArgs, around: &Surroundings) -> Result<(), Failed> {
    if args.take_back {
        return take_back(&args, around).await;
    }
    let nodes = Nodes::ask(&args.target, around).await?;
    let plan = plan::plan(&args.volume, &nodes.all).map_err(Failed::new)?;
    let Some(to) = args.to.clone().filter(|_| !args.plan) else {
        return if args.json { print_json(&plan) } else { print(&tame(&plan::draw(&plan))) };
    };
    let mut notes = Vec::new();
    let old = old_writer(&plan, &nodes, &to);
    let (promoted, held_ms) = if args.sync {
        let (p, held) = hand_over(&plan, &nodes, &to, old.as_deref()).await?;
        (p, Some(held))
    } else {
        (promote(&args, &plan, &nodes, &to, old.as_deref(), &mut notes).await?, None)
    };
    let held = plan::holders(&args.volume, &nodes.all);
    let newest = plan.newest_known_set.max(promoted.newest_known_set);
    let loss = if promoted.fresh && held_ms.is_none() {
        plan::loss(&held, promoted.set, newest)
    } else {
        Loss { sets: 0, seconds: Some(0.0), bytes: Some(0) }
    };
    if let (Some(old), Some(_)) = (&old, held_ms)
        && let Some(c) = nodes.client(old)
    {
        let resync = WriterChange::Resync { volume: args.volume.clone(), discard: false };
        match change(c, &resync).await {
            Ok(_) => notes.push(format!("{old} is a replica now")),
            Err(e) => notes.push(format!("{old} did not become a replica: {e}")),
        }
    }
    let routes = if args.adopt || args.sync {
        adopt(&args, &plan, &nodes, &to, old.as_deref(), &mut notes).await?
    } else {
        Vec::new()
    };
    let undone = routes.iter().filter(|r| !r.done).count();
    let unfinished_bytes = if held_ms.is_some() { Some(0) } else { plan.unfinished_bytes };
    let outcome = Outcome { promoted, node: to, loss, unfinished_bytes, held_ms, routes, notes };
    if args.json {
        print_json(&outcome)?;
    } else {
        print(&tame(&told(&args.volume, &outcome)))?;
    }
    if undone > 0 {
        return Err(Failed::new(format!(
            "{undone} routes could not be changed; the new writer is up: say the command again when \
             the nodes can be reached, or use rcproute"
        )));
    }
    Ok(())
}

/// The node that wrote until now, if it is another one.
fn old_writer(plan: &Plan, nodes: &Nodes, to: &str) -> Option<String> {
    let primaries = nodes.all.iter().filter(|n| {
        n.node != to && n.volumes.iter().any(|v| v.label == plan.volume && v.role == "primary")
    });
    let up = primaries.map(|n| n.node.clone()).next();
    let by_history = || {
        let held = plan::holders(&plan.volume, &nodes.all);
        let history = held.iter().map(|(_, v)| &v.history).max_by_key(|h| h.len())?;
        history.iter().rev().map(|l| l.opened_by.clone()).find(|n| n != to)
    };
    up.or_else(by_history)
}

async fn promote(
    args: &FailoverArgs,
    plan: &Plan,
    nodes: &Nodes,
    to: &str,
    old: Option<&str>,
    notes: &mut Vec<String>,
) -> Result<Promoted, Failed> {
    let client = nodes.need(to)?;
    if let Some(c) = plan.candidates.iter().find(|c| c.node == to)
        && let Some(why) = c.cannot.as_ref().filter(|_| c.role != "primary")
    {
        return Err(Failed::new(format!("{to} cannot take over: {why}. Nothing was changed")));
    }
    // The old writer is made read-only first, if that is possible (FAIL-06).
    let up = old.filter(|o| Some(*o) == plan.writer.as_deref() && plan.writer_is_up);
    if let Some((old, c)) = up.and_then(|o| Some((o, nodes.client(o)?))) {
        let volume = plan.volume.clone();
        let limit_ms = 5_000;
        let stopped = async {
            let hold = WriterChange::Hold { volume: volume.clone(), limit_ms };
            let WriterAnswer::Held(cut) = change(c, &hold).await? else { return Ok(None) };
            let over = WriterChange::HandOver { volume, to: to.to_owned(), set: cut.set };
            change(c, &over).await.map(|_| Some(cut.set))
        };
        match stopped.await {
            Ok(_) => notes.push(format!("{old} was made read-only first")),
            Err::<_, ClientError>(e) => {
                notes.push(format!("{old} could not be made read-only first: {e}"));
            }
        }
    }
    let ask = WriterChange::Promote { volume: plan.volume.clone(), now: args.now, at: None };
    match change(client, &ask).await? {
        WriterAnswer::Promoted(p) => Ok(p),
        _ => Err(Failed::new("an answer of the wrong kind")),
    }
}

/// F33: nothing is lost, or it fails and changes nothing.
async fn hand_over(
    plan: &Plan,
    nodes: &Nodes,
    to: &str,
    old: Option<&str>,
) -> Result<(Promoted, u64), Failed> {
    let volume = plan.volume.as_str();
    let new = nodes.need(to)?;
    if let Some(done) = volume_at(new, volume).await.and_then(writer_already) {
        return Ok((done, 0));
    }
    let Some(name) = old.filter(|o| nodes.client(o).is_some()) else {
        return Err(Failed::new(format!(
            "--sync needs the writer {}, and it did not answer: nothing was changed. Without --sync \
             the volume can go on from what {to} has; `rcpctl failover {volume} --plan` shows what \
             would be lost",
            plan.writer.as_deref().unwrap_or("(unknown)")
        )));
    };
    let old = nodes.need(name)?;
    let began = volume_at(old, volume).await;
    let handed = began.as_ref().and_then(|v| v.handed_over.clone());
    if let Some(h) = handed {
        if h.to != to {
            return Err(Failed::new(format!(
                "{name} has handed {volume} over to {} already: go on with --to {}, or take it back \
                 with --take-back",
                h.to, h.to
            )));
        }
        return finish(new, volume, h.set).await.map(|p| (p, 0));
    }
    if let Some(why) = began.as_ref().and_then(|v| v.fenced.clone()) {
        return Err(Failed::new(format!("{name}: {why}. Nothing was changed")));
    }
    let current = began.map_or(0, |v| v.current_set);
    reaches(new, volume, current, NEAR).await.map_err(|at| {
        Failed::new(format!(
            "{to} is at set {at} and did not reach set {current} of {name} within {} s: nothing was \
             changed",
            NEAR.as_secs()
        ))
    })?;
    let clock = crate::clock::mono();
    let limit_ms = u64::try_from(HOLD.as_millis()).unwrap_or(u64::MAX);
    let hold = WriterChange::Hold { volume: volume.to_owned(), limit_ms };
    let WriterAnswer::Held(cut) = change(old, &hold).await? else {
        return Err(Failed::new("an answer of the wrong kind"));
    };
    let undo = async |why: String| {
        let back = change(old, &WriterChange::TakeBack { volume: volume.to_owned() }).await;
        Failed::new(match back {
            Ok(_) => format!("{why}: {name} goes on as the writer, nothing was changed"),
            Err(e) => format!("{why}, and {name} could not be told to go on ({e})"),
        })
    };
    if let Err(at) = reaches(new, volume, cut.set, LAST_SET).await {
        let why = format!("{to} is at set {at} and did not get the last set {} in time", cut.set);
        return Err(undo(why).await);
    }
    let over =
        WriterChange::HandOver { volume: volume.to_owned(), to: to.to_owned(), set: cut.set };
    if let Err(e) = change(old, &over).await {
        return Err(undo(format!("{name} could not hand over ({e})")).await);
    }
    match finish(new, volume, cut.set).await {
        Ok(p) => {
            let took = crate::clock::mono().since(clock);
            Ok((p, u64::try_from(took.as_millis()).unwrap_or(u64::MAX)))
        }
        Err(e) => Err(undo(e.text).await),
    }
}

/// It took over before.
fn writer_already(v: VolumeInfo) -> Option<Promoted> {
    (v.role == "primary" && v.fenced.is_none()).then_some(Promoted {
        generation: v.generation,
        set: v.current_set,
        newest_known_set: v.current_set,
        fresh: false,
    })
}

async fn finish(new: &Client, volume: &str, set: u64) -> Result<Promoted, Failed> {
    let ask = WriterChange::Promote { volume: volume.to_owned(), now: false, at: Some(set) };
    match change(new, &ask).await? {
        WriterAnswer::Promoted(p) => Ok(p),
        _ => Err(Failed::new("an answer of the wrong kind")),
    }
}

/// Waits until a node holds a set; else the set it is at.
async fn reaches(client: &Client, volume: &str, set: u64, limit: Duration) -> Result<(), u64> {
    let mut at = 0;
    let until = crate::clock::mono().after(limit);
    loop {
        if let Some(v) = volume_at(client, volume).await {
            at = v.saved_set;
            if at >= set {
                return Ok(());
            }
        }
        if crate::clock::mono() >= until {
            return Err(at);
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Puts the tree under the new writer.
async fn adopt(
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
        .filter(|v| v.group == plan.group && v.label != plan.volume)
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
    let wanted = by_topology.unwrap_or_else(|| routes::by_default(to, old, &known));
    let mut done = Vec::new();
    for step in routes::steps(to, &wanted, &known) {
        let text = match nodes.client(&step.at) {
            None if step.remove => {
                // Whoever is gone feeds nobody; when it is back it is fenced and lets go by itself.
                notes.push(format!(
                    "{} did not answer and keeps its route to {}",
                    step.at, step.hop
                ));
                continue;
            }
            None => Err(format!("{} did not answer", step.at)),
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
    let by = crate::api::RouteWay::default();
    let body = requests::RouteAdd { group: group.to_owned(), next_hop: step.hop.clone(), by };
    let until = crate::clock::mono().after(ROUTE);
    loop {
        let added: Result<RouteTable, _> = client.post(paths::ROUTE_ADD, &body).await;
        match added {
            Ok(_) => return Ok("added".to_owned()),
            // It was fed by somebody else a moment ago.
            Err(e) if e.to_string().contains("is fed by") && crate::clock::mono() < until => {
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            Err(e) => return Err(e.to_string()),
        }
    }
}

fn told(volume: &str, o: &Outcome) -> String {
    let mut out = if o.promoted.fresh {
        format!(
            "{volume}: {} is the writer since set {} (generation {}); the restart point is kept as \
             {volume}@{}\n",
            o.node, o.promoted.set, o.promoted.generation, o.promoted.set
        )
    } else {
        format!("{volume}: {} was the writer already\n", o.node)
    };
    if let Some(ms) = o.held_ms {
        out.push_str(&format!("nothing is lost; writers waited {ms} ms\n"));
    } else if o.promoted.fresh {
        out.push_str(&format!("lost: {}", plan::told(&o.loss)));
        if o.loss.sets > 0 {
            let first = o.promoted.set + 1;
            out.push_str(&format!(" (sets {first} to {})", o.promoted.set + o.loss.sets));
        }
        out.push_str(match o.unfinished_bytes {
            Some(0) => "\n",
            Some(_) | None => "; and what the old writer changed after its last finished set\n",
        });
    }
    for r in &o.routes {
        let what = if r.step.remove { "lets go of" } else { "feeds" };
        let how = if r.done { "" } else { "could not be changed: " };
        out.push_str(&format!("route: {} {what} {}: {how}{}\n", r.step.at, r.step.hop, r.text));
    }
    for n in &o.notes {
        out.push_str(&format!("{n}\n"));
    }
    out
}

async fn take_back(args: &FailoverArgs, around: &Surroundings) -> Result<(), Failed> {
    let nodes = Nodes::ask(&args.target, around).await?;
    let here = |n: &&NodeStatus| {
        let of = |v: &VolumeInfo| v.label == args.volume && v.handed_over.is_some();
        n.volumes.iter().any(of)
    };
    let Some(node) = nodes.all.iter().find(here) else {
        return Err(Failed::new(format!(
            "no node that answered has handed {} over: nothing was changed",
            args.volume
        )));
    };
    let back = WriterChange::TakeBack { volume: args.volume.clone() };
    let done = change(nodes.need(&node.node)?, &back).await?;
    tell(args.json, &done, &format!("{}: {} goes on as the writer", args.volume, node.node))
}

async fn one(
    volume: &str,
    target: &Target,
    around: &Surroundings,
    wanted: &WriterChange,
) -> Result<WriterAnswer, Failed> {
    let client = target.one(Purpose::Volume(volume), around)?.client();
    Ok(change(&client, wanted).await?)
}

pub(super) async fn resync(args: ResyncArgs, around: &Surroundings) -> Result<(), Failed> {
    let wanted = WriterChange::Resync { volume: args.volume.clone(), discard: args.discard };
    let done = one(&args.volume, &args.target, around, &wanted).await?;
    let text = format!(
        "{}: this node is a replica; `rcpctl status {}` shows how far it is, and it is fed once the \
         new writer has a route to it",
        args.volume, args.volume
    );
    tell(args.json, &done, &text)
}

pub(super) async fn confirm(args: ConfirmArgs, around: &Surroundings) -> Result<(), Failed> {
    let wanted = WriterChange::Alone { volume: args.volume.clone() };
    let done = one(&args.volume, &args.target, around, &wanted).await?;
    let text = format!(
        "{}: writers are let in on your word that nobody else was made the writer",
        args.volume
    );
    tell(args.json, &done, &text)
}

#[derive(Serialize)]
struct Known {
    node: String,
    history: Vec<HistoryLine>,
    rival: Vec<HistoryLine>,
}

pub(super) async fn history(args: HistoryArgs, around: &Surroundings) -> Result<(), Failed> {
    let nodes = Nodes::ask(&args.target, around).await?;
    let held = plan::holders(&args.volume, &nodes.all);
    if held.is_empty() {
        return Err(Failed::new(format!(
            "none of the nodes that answered holds a volume `{}`",
            args.volume
        )));
    }
    let known: Vec<Known> = held
        .iter()
        .map(|(n, v)| Known {
            node: n.node.clone(),
            history: v.history.clone(),
            rival: v.rival.clone(),
        })
        .collect();
    if args.json {
        return print_json(&known);
    }
    let mut lines: Vec<_> = known.iter().map(|k| (k.node.clone(), k.history.clone())).collect();
    for k in known.iter().filter(|k| !k.rival.is_empty()) {
        let by = k.rival.last().map_or("", |l| l.opened_by.as_str());
        lines.push((format!("{by} (heard of by {})", k.node), k.rival.clone()));
    }
    print(&tame(&history::draw(&args.volume, &lines)))
}
