//! `rcpctl failover`, `resync`, `confirm`, `history`: who the writer of a volume is (FAIL-01 to
//! FAIL-10, F31 to F33).
//!
//! Every step is one request to one node, durable when it is answered; a command that was cut short
//! is finished by saying it again.

pub(super) mod adopt;
mod args;
mod history;
mod moving;
mod plan;
mod rivals;
pub(super) mod routes;
mod takeover;
mod way;

use serde::Serialize;

use self::adopt::Former;
pub(super) use self::args::{ConfirmArgs, FailoverArgs, HistoryArgs, ResyncArgs};
pub(super) use self::moving::{MoveArgs, group as move_group, volume as move_volume};
use self::plan::{Loss, Plan, Round};
use self::rivals::GaveWay;
use self::routes::Step;
use super::client::{Client, ClientError};
use super::output::{Failed, print, print_json, tell};
use super::status::{self, tame};
use super::target::{Endpoint, Purpose, Surroundings, Target, load};
use crate::api::{HistoryLine, NodeStatus, Promoted, VolumeInfo, WriterAnswer, WriterChange};
use crate::http::paths;

/// What came of a failover.
#[derive(Debug, Serialize)]
pub(super) struct Outcome {
    promoted: Promoted,
    node: String,
    /// Of finished sets.
    loss: Loss,
    /// Changes at the old writer since its last set; unknown if it did not answer.
    unfinished_bytes: Option<u64>,
    /// How long writers waited (`--sync`).
    held_ms: Option<u64>,
    routes: Vec<RouteDone>,
    /// There were two writers: what the others wrote is kept there.
    split: bool,
    /// Other writers, which follow this one now.
    gave_way: Vec<GaveWay>,
    /// The state it begins at is kept under its name.
    restart_point: bool,
    notes: Vec<String>,
    /// The new writer is up, and this is to be done yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    left_to_do: Option<String>,
}

#[derive(Debug, Serialize)]
pub(super) struct RouteDone {
    #[serde(flatten)]
    pub(super) step: Step,
    pub(super) done: bool,
    pub(super) text: String,
}

impl RouteDone {
    /// In words, with a line feed.
    pub(super) fn told(&self) -> String {
        let what = if self.step.remove { "lets go of" } else { "feeds" };
        let how = if self.done { "" } else { "could not be changed: " };
        format!("route: {} {what} {}: {how}{}\n", self.step.at, self.step.hop, self.text)
    }
}

/// The nodes that answered.
pub(super) struct Nodes {
    pub(super) all: Vec<NodeStatus>,
    clients: Vec<(String, Client)>,
    /// And those that did not.
    round: Round,
}

impl Nodes {
    pub(super) async fn ask(target: &Target, around: &Surroundings) -> Result<Self, Failed> {
        let (endpoints, _) = status::present(target, around)?;
        let mut nodes = Self::of(&endpoints).await;
        if let Some(topology) = topology(target)? {
            for g in topology.groups() {
                let members = g.members().into_iter().map(ToString::to_string).collect();
                nodes.round.members.insert(g.name.to_string(), members);
            }
        }
        Ok(nodes)
    }

    async fn of(endpoints: &[Endpoint]) -> Self {
        let asked = status::ask(endpoints).await;
        let mut nodes = Self { all: Vec::new(), clients: Vec::new(), round: Round::default() };
        for (a, e) in asked.into_iter().zip(endpoints) {
            if let Ok(s) = a.answer {
                nodes.clients.push((s.node.clone(), e.client()));
                nodes.all.push(s);
            } else if let Some(name) = e.node_name() {
                nodes.round.silent.insert(name);
            }
        }
        nodes
    }

    /// Nodes that were asked, and did not answer.
    pub(super) fn silent(&self) -> std::collections::BTreeSet<String> {
        self.round.silent.clone()
    }

    pub(super) fn client(&self, node: &str) -> Option<&Client> {
        self.clients.iter().find(|(n, _)| n == node).map(|(_, c)| c)
    }

    pub(super) fn need(&self, node: &str) -> Result<&Client, Failed> {
        self.client(node).ok_or_else(|| {
            let names: Vec<_> = self.clients.iter().map(|(n, _)| n.as_str()).collect();
            Failed::new(format!(
                "{node} {}; those that answered: {}. Nothing was changed. Start it, or see that it is \
                 reached (`rcpctl status` says what is in the way), or take another",
                self.round.silence(node),
                if names.is_empty() { "none".to_owned() } else { names.join(", ") }
            ))
        })
    }
}

/// The topology that is named, if one is and can be read more than once.
pub(super) fn topology(target: &Target) -> Result<Option<config::Topology>, Failed> {
    let file = target.topology.as_ref().filter(|f| f.as_path() != std::path::Path::new("-"));
    file.map(|f| load(f)).transpose()
}

/// A mistyped name is told from a node that does not answer.
fn known(args: &FailoverArgs, to: &str) -> Result<(), Failed> {
    let Some(topology) = topology(&args.target)? else { return Ok(()) };
    topology.require_node(to).map(drop).map_err(|e| Failed::new(e.to_string()))
}

/// Who was not asked may be the writer, or have more than who is to take over.
fn everybody_was_asked(args: &FailoverArgs, plan: &Plan, to: &str) -> Result<(), Failed> {
    let already = plan.writer_is_up && plan.writer.as_deref() == Some(to);
    let missing = plan.ask_them().filter(|_| !args.alone && !already);
    missing.map_or(Ok(()), |text| {
        Err(Failed::new(format!(
            "{text}; one of them may be the writer, or have more than {to}. On your word that they \
             are gone: --alone. Nothing was changed"
        )))
    })
}

async fn change(client: &Client, change: &WriterChange) -> Result<WriterAnswer, ClientError> {
    client.post(paths::WRITER, change).await
}

async fn volume_at(client: &Client, volume: &str) -> Option<VolumeInfo> {
    let status = client.status().await.ok()?;
    status.volumes.into_iter().find(|v| v.is_called(volume))
}

pub(super) async fn failover(args: FailoverArgs, around: &Surroundings) -> Result<(), Failed> {
    if args.take_back {
        return take_back(&args, around).await;
    }
    match &args.to {
        Some(to) => known(&args, to)?,
        None if args.plan => {}
        None => return Err(nobody_is_named(&args.volume)),
    }
    let nodes = Nodes::ask(&args.target, around).await?;
    let plan = plan::plan(&args.volume, &nodes.all, &nodes.round).map_err(Failed::new)?;
    let Some(to) = args.to.clone().filter(|_| !args.plan) else {
        return if args.json { print_json(&plan) } else { print(&tame(&plan::draw(&plan))) };
    };
    if !args.sync {
        everybody_was_asked(&args, &plan, &to)?;
    }
    let (mut outcome, stays) = carry_out(&args, &plan, &nodes, to).await?;
    let end = ended(&outcome, stays);
    outcome.left_to_do = end.as_ref().err().map(|e| e.text.clone());
    if args.json {
        print_json(&outcome)?;
    } else {
        print(&tame(&told(&args.volume, &outcome)))?;
    }
    end
}

/// Who is to take over is the operator's to say.
fn nobody_is_named(volume: &str) -> Failed {
    Failed::usage(format!(
        "who is to take over? `rcpctl failover {volume} --plan` shows who could, what would be lost, and \
         the command; while the writer is up, `--sync --to NODE` loses nothing, and when it is gone, `--to \
         NODE --adopt` goes on from what NODE has. Nothing was changed"
    ))
}

/// Where an interrupted command leaves the operator.
pub(super) fn interrupted(args: &FailoverArgs) -> String {
    let volume = &args.volume;
    if args.plan {
        return "nothing was changed".to_owned();
    }
    format!(
        "what was done stays done, and NODE may be the writer yet, if it was told already: promote no \
         other. Writers that wait for a handing over that was not reached are let in again within 30 s. \
         `rcpctl status {volume}` shows who writes; the same command goes on from there"
    )
    .replace("NODE", args.to.as_deref().unwrap_or("the old writer"))
}

/// A swap of one volume, as `failover --sync --to` makes it, and what is left to do.
///
/// # Errors
/// In words: nothing was changed, or what to say next.
pub(super) async fn swap(
    volume: &str,
    to: &str,
    target: &Target,
    around: &Surroundings,
) -> Result<Swapped, Failed> {
    let args = FailoverArgs::swap(volume, to, target);
    let nodes = Nodes::ask(target, around).await?;
    let plan = plan::plan(volume, &nodes.all, &nodes.round).map_err(Failed::new)?;
    let (outcome, stays) = carry_out(&args, &plan, &nodes, to.to_owned()).await?;
    let left = ended(&outcome, stays);
    Ok(Swapped { held_ms: outcome.held_ms.unwrap_or(0), left, outcome })
}

/// What came of [`swap`].
pub(super) struct Swapped {
    /// How long writers waited.
    pub(super) held_ms: u64,
    /// The volume is where it is to be, and this is still to do.
    pub(super) left: Result<(), Failed>,
    pub(super) outcome: Outcome,
}

/// Makes `to` the writer, and puts the tree under it if that is asked for.
async fn carry_out(
    args: &FailoverArgs,
    plan: &Plan,
    nodes: &Nodes,
    to: String,
) -> Result<(Outcome, Option<String>), Failed> {
    let mut notes = Vec::new();
    let old = old_writer(plan, nodes, &to);
    let (promoted, held_ms, last_set) = if args.sync {
        let (p, held) = takeover::hand_over(plan, nodes, &to, old.as_deref()).await?;
        (p, Some(held), None)
    } else {
        let done = takeover::promote(args, plan, nodes, &to, old.as_deref(), &mut notes);
        let (p, last_set) = done.await?;
        (p, None, last_set)
    };
    let held = plan::holders(&args.volume, &nodes.all);
    let newest = plan.newest_known_set.max(promoted.newest_known_set).max(last_set.unwrap_or(0));
    let loss = if promoted.fresh && held_ms.is_none() && !plan.split {
        plan::loss(&held, promoted.set, newest)
    } else {
        Loss { sets: 0, seconds: Some(0.0), bytes: Some(0) }
    };
    let stays = match (&old, held_ms) {
        (Some(old), Some(_)) => old_follows(&args.volume, plan, nodes, old, &mut notes).await,
        _ => None,
    };
    let routes = if args.adopt || args.sync {
        let former = Former::of(&plan.id, &to, old, &nodes.all);
        adopt::adopt(args, plan, nodes, &to, &former, &mut notes).await?
    } else {
        if promoted.fresh {
            notes.push(format!(
                "no route was changed: `rcpctl failover {} --to {to} --adopt` puts the other nodes \
                 below {to}",
                args.volume
            ));
        }
        Vec::new()
    };
    let gave_way =
        if args.adopt { rivals::give_way(plan, nodes, &to, &promoted).await } else { Vec::new() };
    // A last set has what was unfinished.
    let whole = held_ms.is_some() || last_set.is_some() || plan.split;
    let unfinished_bytes = if whole { Some(0) } else { plan.unfinished_bytes };
    let (split, was) = (plan.split, plan.candidates.iter().find(|c| c.node == to));
    // A writer that goes on keeps nothing: what it begins at is what it had.
    let restart_point = promoted.fresh && was.is_none_or(|c| c.role != "primary");
    let outcome = Outcome {
        promoted,
        node: to,
        loss,
        unfinished_bytes,
        held_ms,
        routes,
        split,
        gave_way,
        restart_point,
        notes,
        left_to_do: None,
    };
    Ok((outcome, stays))
}

/// After a swap the old writer becomes a replica; why it did not.
async fn old_follows(
    volume: &str,
    plan: &Plan,
    nodes: &Nodes,
    old: &str,
    notes: &mut Vec<String>,
) -> Option<String> {
    let client = nodes.client(old)?;
    // Labels may differ from node to node.
    let called = if plan.id.is_empty() { volume } else { &plan.id };
    let resync = WriterChange::Resync { volume: called.to_owned(), discard: false };
    match change(client, &resync).await {
        Ok(_) => {
            notes.push(format!("{old} is a replica now"));
            None
        }
        Err(e) => Some(format!(
            "the swap is done, but {old} did not become a replica: {e}; `rcpctl resync {volume}` there \
             makes it one"
        )),
    }
}

/// The new writer is up; what is still to do makes it a failure.
fn ended(outcome: &Outcome, stays: Option<String>) -> Result<(), Failed> {
    stays.or_else(|| left_over(outcome)).map_or(Ok(()), |text| Err(Failed::new(text)))
}

/// What has to be done yet, although the new writer is up.
fn left_over(o: &Outcome) -> Option<String> {
    let undone = o.routes.iter().filter(|r| !r.done).count();
    if undone > 0 {
        return Some(format!(
            "{undone} routes could not be changed; the new writer is up: say the command again when \
             the nodes can be reached, or use rcproute"
        ));
    }
    let in_the_way = o.gave_way.iter().filter(|g| !g.done).count();
    let were = if in_the_way == 1 { "writer is" } else { "writers are" };
    (in_the_way > 0).then(|| {
        format!(
            "the new writer is up, and {in_the_way} other {were} not a replica of it yet: see above"
        )
    })
}

/// The node that wrote until now, if it is another one.
fn old_writer(plan: &Plan, nodes: &Nodes, to: &str) -> Option<String> {
    let primaries = nodes.all.iter().filter(|n| {
        n.node != to && n.volumes.iter().any(|v| v.is_called(&plan.volume) && v.role == "primary")
    });
    let up = primaries.map(|n| n.node.clone()).next();
    let by_history = || {
        let held = plan::holders(&plan.volume, &nodes.all);
        let history = held.iter().map(|(_, v)| &v.history).max_by_key(|h| h.len())?;
        history.iter().rev().map(|l| l.opened_by.clone()).find(|n| n != to)
    };
    up.or_else(by_history)
}

fn told(volume: &str, o: &Outcome) -> String {
    let mut out = if o.promoted.fresh {
        let kept = if o.restart_point {
            format!("; the restart point is kept as {volume}@{}", o.promoted.set)
        } else {
            String::new()
        };
        format!(
            "{volume}: {} is the writer since set {} (generation {}){kept}\n",
            o.node, o.promoted.set, o.promoted.generation
        )
    } else {
        format!("{volume}: {} was the writer already\n", o.node)
    };
    if let Some(ms) = o.held_ms {
        out.push_str(&format!("nothing is lost; writers waited {ms} ms\n"));
    } else if o.split {
        out.push_str(
            "the split-brain ends: nothing is merged, and nothing is discarded: what the other writer \
             wrote stays there, and is kept as a branch once it is a replica\n",
        );
    } else if o.promoted.fresh {
        let nothing = o.loss.sets == 0 && o.unfinished_bytes == Some(0);
        let lost = if nothing { "nothing".to_owned() } else { plan::told(&o.loss) };
        out.push_str(&format!("lost: {lost}"));
        if o.loss.sets > 0 {
            let first = o.promoted.set + 1;
            out.push_str(&format!(" (sets {first} to {})", o.promoted.set + o.loss.sets));
        }
        out.push_str(match o.unfinished_bytes {
            Some(0) => "\n",
            Some(_) | None => "; and what the old writer changed after its last finished set\n",
        });
    }
    if let Some(what) = &o.promoted.damaged {
        out.push_str(&format!("taken as the disk holds it, and lost: {what}\n"));
    }
    for r in &o.routes {
        out.push_str(&r.told());
    }
    for g in &o.gave_way {
        out.push_str(&format!("{} {}\n", g.node, g.text));
    }
    for n in &o.notes {
        out.push_str(&format!("{n}\n"));
    }
    out
}

async fn take_back(args: &FailoverArgs, around: &Surroundings) -> Result<(), Failed> {
    let nodes = Nodes::ask(&args.target, around).await?;
    let here = |n: &&NodeStatus| {
        let of = |v: &VolumeInfo| v.is_called(&args.volume) && v.handed_over.is_some();
        n.volumes.iter().any(of)
    };
    let Some(node) = nodes.all.iter().find(here) else {
        return Err(Failed::new(nothing_to_take_back(&args.volume, &nodes)));
    };
    let volumes = || node.volumes.iter().filter(|v| v.is_called(&args.volume));
    let to = volumes().find_map(|v| Some(v.handed_over.as_ref()?.to.clone())).unwrap_or_default();
    let there = match nodes.client(&to) {
        Some(c) => volume_at(c, &args.volume).await,
        None => None,
    };
    if let Err(why) = takeover::stays_replica(&there, &to)
        && !(there.is_none() && args.alone)
    {
        let word = if there.is_none() {
            "; if it is gone for good and was not promoted: --take-back --alone"
        } else {
            ""
        };
        return Err(Failed::new(format!(
            "{} was handed over to {to}, and {why}: nothing was changed{word}",
            args.volume
        )));
    }
    let back = WriterChange::TakeBack { volume: args.volume.clone() };
    let done = change(nodes.need(&node.node)?, &back).await?;
    tell(args.json, &done, &format!("{}: {} goes on as the writer", args.volume, node.node))
}

/// Nobody says that it has handed the volume over.
fn nothing_to_take_back(volume: &str, nodes: &Nodes) -> String {
    if plan::holders(volume, &nodes.all).is_empty() {
        return plan::nobody_holds(volume, &nodes.all, &nodes.round) + ". Nothing was changed";
    }
    let silent: Vec<_> = nodes.silent().into_iter().collect();
    let silent = match silent.as_slice() {
        [] => String::new(),
        names => format!(" ({} did not answer, and may have)", names.join(", ")),
    };
    format!(
        "no node that answered has handed {volume} over{silent}: nothing was changed. `rcpctl status \
         {volume}` shows who the writer is"
    )
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
    let mut text = format!(
        "{}: this node is a replica; `rcpctl status {}` shows how far it is, and it is fed once the \
         new writer has a route to it",
        args.volume, args.volume
    );
    if let WriterAnswer::Rewound(r) = &done {
        let kept = r.branch.as_ref().map_or_else(String::new, |name| {
            format!(
                "; what it held beyond that is kept as branch {name}: read it as {}@branch:{name}, see \
                 `rcpctl branch list {}`",
                args.volume, args.volume
            )
        });
        text = format!("{text}; its content is taken back to set {}{kept}", r.fork);
    }
    tell(args.json, &done, &text)
}

pub(super) async fn confirm(args: ConfirmArgs, around: &Surroundings) -> Result<(), Failed> {
    if !args.alone {
        let volume = &args.volume;
        return Err(Failed::usage(format!(
            "a writer that waits lets clients in by itself as soon as one of its children has confirmed \
             it; start one, or see that it is reached. Only if all of them are gone for good, and \
             `rcpctl failover {volume} --plan` shows that nobody was promoted: `rcpctl confirm {volume} \
             --alone`. Nothing was changed"
        )));
    }
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
    /// It took over with damage: what was lost.
    #[serde(skip_serializing_if = "Option::is_none")]
    took_damage: Option<String>,
}

pub(super) async fn history(args: HistoryArgs, around: &Surroundings) -> Result<(), Failed> {
    let nodes = Nodes::ask(&args.target, around).await?;
    let held = plan::holders(&args.volume, &nodes.all);
    if held.is_empty() {
        return Err(Failed::new(plan::nobody_holds(&args.volume, &nodes.all, &nodes.round)));
    }
    let known: Vec<Known> = held
        .iter()
        .map(|(n, v)| Known {
            node: n.node.clone(),
            history: v.history.clone(),
            rival: v.rival.clone(),
            took_damage: v.took_damage.clone(),
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
    let mut out = history::draw(&args.volume, &lines);
    for (k, what) in known.iter().filter_map(|k| Some((k, k.took_damage.as_ref()?))) {
        out.push_str(&format!("! {} took over with damage, which is lost: {what}\n", k.node));
    }
    print(&tame(&out))
}
