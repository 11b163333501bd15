//! `rcpctl volume move` and `rcpctl group move`: the service of volumes goes to another node (GEN-12),
//! with their files where both nodes share the storage, else by a planned swap.
//!
//! Every step is one request to one node, and what it leaves is found again by the same command.

use std::time::Duration;

use clap::Args;
use serde::Serialize;

use super::adopt::{self, Former};
use super::args::FailoverArgs;
use super::way::{self, Known, Only, Way};
use super::{Nodes, RouteDone, change, old_writer, plan, routes, swap, takeover, topology};
use crate::api::{Promoted, WriterAnswer, WriterChange};
use crate::cli::client::{Client, ClientError};
use crate::cli::commands::Common;
use crate::cli::membership;
use crate::cli::output::{Failed, print, print_json};
use crate::cli::status::tame;
use crate::cli::target::Surroundings;
use crate::clock;
use crate::http::paths;
use crate::shift::{Answered, Reach, Step};

/// How long writers wait at most.
const HOLD_MS: u64 = 30_000;
/// How long the old writer has to answer again before the tree is changed without it.
const BACK: Duration = Duration::from_secs(10);
/// How often it is asked.
const AGAIN: Duration = Duration::from_millis(250);

#[derive(Args, Clone, Debug)]
pub(in crate::cli) struct MoveArgs {
    /// The node that is to write
    #[arg(long, value_name = "NODE")]
    to: String,
    /// Show what would be done; changes nothing
    #[arg(long)]
    plan: bool,
    /// Only with all files, from storage that both nodes share
    #[arg(long, conflicts_with = "swap")]
    files: bool,
    /// Only by a planned swap with the replica there
    #[arg(long)]
    swap: bool,
    /// The content is a device, and its path at NODE is the very device that the old node uses: say
    /// that only after comparing serial numbers, nothing else shows it
    #[arg(long, conflicts_with = "swap")]
    same_device: bool,
    #[command(flatten)]
    common: Common,
}

/// What came of one volume.
#[derive(Debug, Serialize)]
struct Done {
    volume: String,
    #[serde(flatten)]
    way: Way,
    /// How long writers waited.
    held_ms: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    promoted: Option<Promoted>,
}

/// What came of all of them.
#[derive(Debug, Serialize)]
struct Outcome {
    group: String,
    to: String,
    /// Nothing was done: this is what would be.
    plan: bool,
    volumes: Vec<Done>,
    routes: Vec<RouteDone>,
    notes: Vec<String>,
}

pub(in crate::cli) async fn volume(
    name: &str,
    args: &MoveArgs,
    around: &Surroundings,
) -> Result<(), Failed> {
    let nodes = ask(name, args, around).await?;
    let all = way::of_volume(name, &args.to, &nodes.all).map_err(Failed::new)?;
    run(all, nodes, args, around).await
}

pub(in crate::cli) async fn group(
    name: &str,
    args: &MoveArgs,
    around: &Surroundings,
) -> Result<(), Failed> {
    let nodes = ask(name, args, around).await?;
    let all = way::of_group(name, &nodes.all).map_err(Failed::new)?;
    run(all, nodes, args, around).await
}

async fn ask(name: &str, args: &MoveArgs, around: &Surroundings) -> Result<Nodes, Failed> {
    if let Some(topology) = topology(&args.common.target)? {
        topology.require_node(&args.to).map_err(|e| Failed::new(e.to_string()))?;
    }
    let nodes = Nodes::ask(&args.common.target, around).await?;
    if nodes.all.is_empty() {
        return Err(Failed::new(plan::nobody_holds(name, &nodes.all, &nodes.round)));
    }
    Ok(nodes)
}

async fn run(
    all: Vec<Known>,
    nodes: Nodes,
    args: &MoveArgs,
    around: &Surroundings,
) -> Result<(), Failed> {
    let to = args.to.as_str();
    let only = match (args.files, args.swap) {
        (true, _) => Some(Only::Files),
        (_, true) => Some(Only::Swap),
        _ => None,
    };
    let mut ways = Vec::new();
    for k in all {
        let way = way::way(&k, to, only, &nodes.all).map_err(Failed::new)?;
        // Before anything is changed for any of them.
        if let Way::Files { from } = &way {
            reach(&k, from, &nodes, args, !args.plan).await?;
        }
        ways.push((k, way));
    }
    let Some(first) = ways.first().map(|(k, _)| k.clone()) else { return Ok(()) };
    let group = first.group.clone();
    let mut out = Outcome {
        group,
        to: to.to_owned(),
        plan: args.plan,
        volumes: Vec::new(),
        routes: Vec::new(),
        notes: Vec::new(),
    };
    if args.plan {
        out.volumes = ways
            .into_iter()
            .map(|(k, way)| Done { volume: k.label, way, held_ms: 0, promoted: None })
            .collect();
        return finish(args, &out);
    }
    let mut left = Ok(());
    let mut by_files = None;
    for (k, way) in ways {
        if way == Way::Swap {
            let s = swap(&k.id, to, &args.common.target, around).await?;
            out.routes.extend(s.outcome.routes);
            out.notes.extend(s.outcome.notes);
            left = left.and(s.left);
            let promoted = Some(s.outcome.promoted);
            out.volumes.push(Done { volume: k.label, way, held_ms: s.held_ms, promoted });
            continue;
        }
        let (promoted, held_ms) = with_files(&k, &way, args, &nodes, around).await?;
        let gave = way.giver().or_else(|| way::giver(&k.id, to, &nodes.all));
        if way != Way::There || gave.is_some() {
            by_files = Some((k.clone(), gave));
        }
        out.volumes.push(Done { volume: k.label, way, held_ms, promoted });
    }
    // That of one volume is of no interest when all have moved.
    out.notes.retain(|n| !n.starts_with(adopt::WHOLE_GROUP));
    let swapped = out.volumes.iter().any(|d| d.way == Way::Swap);
    match by_files {
        Some((k, gave)) => tree(&k, gave, args, around, &mut out).await?,
        // A swap has put its tree in place, unless it was interrupted then.
        None if !swapped => finish_tree(&first, args, around, &mut out).await?,
        None => {}
    }
    finish(args, &out)?;
    left?;
    match out.routes.iter().filter(|r| !r.done).count() {
        0 => Ok(()),
        n => Err(Failed::new(format!(
            "{n} routes could not be changed; {to} is the writer: say the command again when the nodes \
             can be reached"
        ))),
    }
}

async fn step(client: &Client, step: &Step) -> Result<Answered, ClientError> {
    client.post(paths::VOLUME_MOVE, step).await
}

/// Where the files are, if the new node can have them. A plan leaves no marks there.
async fn reach(
    k: &Known,
    from: &str,
    nodes: &Nodes,
    args: &MoveArgs,
    mark: bool,
) -> Result<Reach, Failed> {
    let to = args.to.as_str();
    let show = Step::Show { volume: k.id.clone(), mark };
    let Answered::Shown(shown) = step(nodes.need(from)?, &show).await? else {
        return Err(takeover::not_understood(from, &k.label));
    };
    let reach = Reach { shown, same_device: args.same_device };
    step(nodes.need(to)?, &Step::Reach(reach.clone())).await.map_err(|e| {
        let swap = way::no_replica(&k.label, &k.group, to);
        Failed::new(format!("{e}. By a swap: {swap}"))
    })?;
    Ok(reach)
}

/// The new node stores that the volume comes, before the old one is asked to give it.
async fn expect(k: &Known, from: &str, nodes: &Nodes, args: &MoveArgs) -> Result<(), Failed> {
    // What is found there may have changed since it was looked at.
    let reach = reach(k, from, nodes, args, true).await?;
    step(nodes.need(&args.to)?, &Step::Expect(reach)).await?;
    Ok(())
}

/// The files go from node to node; how long writers waited.
async fn with_files(
    k: &Known,
    way: &Way,
    args: &MoveArgs,
    nodes: &Nodes,
    around: &Surroundings,
) -> Result<(Option<Promoted>, u64), Failed> {
    let to = args.to.as_str();
    let new = nodes.need(to)?;
    let began = clock::mono();
    let from = match way {
        Way::There | Way::Swap => return Ok((None, 0)),
        Way::Open => return Ok((Some(open(k, to, args, around).await?), 0)),
        Way::Take { from, expected } => {
            match enter(&k.group, from, args, around).await {
                // It was made a member before it expected anything; who gave may be gone for good.
                Err(e) if *expected => eprintln!("{}", tame(&e.text)),
                done => done?,
            }
            if !expected {
                expect(k, from, nodes, args).await?;
            }
            from
        }
        Way::Files { from } => {
            enter(&k.group, from, args, around).await?;
            expect(k, from, nodes, args).await?;
            give(k, from, to, nodes).await?;
            from
        }
    };
    let begun = matches!(way, Way::Take { .. });
    let take = Step::Take { id: k.id.clone() };
    let again = |e: String| {
        Failed::new(format!(
            "{e}; the files of {} belong to {to} now, and {from} writes no more: say the same command \
             again",
            k.label
        ))
    };
    step(new, &take).await.map_err(|e| again(e.to_string()))?;
    let promoted = open(k, to, args, around).await.map_err(|e| again(e.text))?;
    let held = if begun { 0 } else { clock::mono().since(began).as_millis() };
    Ok((Some(promoted), u64::try_from(held).unwrap_or(u64::MAX)))
}

/// The new node is a member of the group, also after a restart, and all others know.
async fn enter(
    group: &str,
    from: &str,
    args: &MoveArgs,
    around: &Surroundings,
) -> Result<(), Failed> {
    let untold = membership::enlist(group, &args.to, from, &args.common.target, around).await?;
    for line in untold {
        eprintln!("{}", tame(&line));
    }
    Ok(())
}

/// The old node makes a last set and lets go. From then on only the new one can have the volume.
async fn give(k: &Known, from: &str, to: &str, nodes: &Nodes) -> Result<(), Failed> {
    let old = nodes.need(from)?;
    let hold = WriterChange::Hold { volume: k.id.clone(), limit_ms: HOLD_MS };
    let WriterAnswer::Held(cut) = change(old, &hold).await? else {
        return Err(takeover::not_understood(from, &k.label));
    };
    let give = Step::Give { volume: k.id.clone(), to: to.to_owned(), set: cut.set };
    match step(old, &give).await {
        Ok(_) => Ok(()),
        Err(e) => {
            let back = change(old, &WriterChange::TakeBack { volume: k.id.clone() }).await;
            let then = match back {
                Ok(_) => format!("{from} goes on as the writer"),
                Err(_) => "say the same command again".to_owned(),
            };
            Err(Failed::new(format!("{from} did not give {} away: {e}; {then}", k.label)))
        }
    }
}

/// The new node opens its line.
async fn open(
    k: &Known,
    to: &str,
    args: &MoveArgs,
    around: &Surroundings,
) -> Result<Promoted, Failed> {
    let nodes = Nodes::ask(&args.common.target, around).await?;
    let plan = plan::plan(&k.id, &nodes.all, &nodes.round).map_err(Failed::new)?;
    let opened = takeover::took_the_files(nodes.need(to)?, &plan, &k.id, to).await?;
    opened.ok_or_else(|| Failed::new(format!("{to} does not say that it has {}", k.label)))
}

/// The tree goes below the new writer, and what fed it until now lets it go.
async fn tree(
    k: &Known,
    gave: Option<String>,
    args: &MoveArgs,
    around: &Surroundings,
    out: &mut Outcome,
) -> Result<(), Failed> {
    let nodes = with(gave.as_deref(), args, around).await?;
    let former = match gave {
        Some(from) => {
            // Whoever was not told would not be fed by the new writer.
            if nodes.client(&from).is_some() {
                enter(&k.group, &from, args, around).await?;
            }
            Former::Gave(from)
        }
        None => Former::Unknown,
    };
    adopt(k, &former, &nodes, args, out).await
}

/// The same, if some node with a copy is fed by nobody: a command was interrupted.
async fn finish_tree(
    k: &Known,
    args: &MoveArgs,
    around: &Surroundings,
    out: &mut Outcome,
) -> Result<(), Failed> {
    let nodes = Nodes::ask(&args.common.target, around).await?;
    let known = routes::known(&k.group, &nodes.all);
    if routes::unfed(&args.to, &k.group, &nodes.all, &known).is_empty() {
        return Ok(());
    }
    let plan = plan::plan(&k.id, &nodes.all, &nodes.round).map_err(Failed::new)?;
    let old = old_writer(&plan, &nodes, &args.to);
    adopt(k, &Former::of(&k.id, &args.to, old, &nodes.all), &nodes, args, out).await
}

async fn adopt(
    k: &Known,
    former: &Former,
    nodes: &Nodes,
    args: &MoveArgs,
    out: &mut Outcome,
) -> Result<(), Failed> {
    let plan = plan::plan(&k.id, &nodes.all, &nodes.round).map_err(Failed::new)?;
    let words = FailoverArgs::swap(&k.id, &args.to, &args.common.target);
    let done = adopt::adopt(&words, &plan, nodes, &args.to, former, &mut out.notes);
    out.routes.extend(done.await?);
    Ok(())
}

/// The nodes, with one whose routes matter: it may be being started again.
async fn with(node: Option<&str>, args: &MoveArgs, around: &Surroundings) -> Result<Nodes, Failed> {
    let until = clock::mono().after(BACK);
    let mut told = false;
    loop {
        let nodes = Nodes::ask(&args.common.target, around).await?;
        let Some(silent) = node.filter(|n| nodes.client(n).is_none()) else { return Ok(nodes) };
        if clock::mono() >= until {
            return Ok(nodes);
        }
        if !std::mem::replace(&mut told, true) {
            eprintln!(
                "waiting for {silent}, which does not answer, to let go of the nodes it feeds"
            );
        }
        tokio::time::sleep(AGAIN).await;
    }
}

fn finish(args: &MoveArgs, out: &Outcome) -> Result<(), Failed> {
    if args.common.json { print_json(out) } else { print(&tame(&told(out))) }
}

fn told(o: &Outcome) -> String {
    let to = &o.to;
    let mut out = String::new();
    for d in &o.volumes {
        let v = &d.volume;
        let ms = d.held_ms;
        out.push_str(&match (&d.way, o.plan) {
            (Way::There, _) => format!("{v}: {to} is the writer already\n"),
            (Way::Swap, true) => format!(
                "{v}: by a planned swap: writers wait while the last set goes to {to} (30 s at most), \
                 then {to} writes and the old writer is a replica of it; nothing is lost\n"
            ),
            (Way::Files { from }, true) => format!(
                "{v}: with its files, from storage that {from} and {to} share: writers wait while {from} \
                 makes a last set and lets go of them and {to} opens them; nothing is copied, and {from} \
                 keeps no replica\n"
            ),
            (Way::Take { from, .. }, true) => {
                format!("{v}: {from} has let go of its files; {to} takes them\n")
            }
            (Way::Open, true) => format!("{v}: {to} has its files, and begins to write\n"),
            (Way::Swap, false) => format!(
                "{v}: {to} is the writer, by a swap; nothing is lost; writers waited {ms} ms\n"
            ),
            (Way::Files { from }, false) => format!(
                "{v}: {to} is the writer, with the files that {from} had; nothing was copied; writers \
                 waited {ms} ms\n"
            ),
            (Way::Take { .. } | Way::Open, false) => {
                format!("{v}: {to} is the writer, with the files that it was given before\n")
            }
        });
    }
    for r in &o.routes {
        out.push_str(&r.told());
    }
    for n in &o.notes {
        out.push_str(&format!("{n}\n"));
    }
    let moved = o.volumes.iter().any(|d| d.way != Way::There);
    if o.plan {
        out.push_str("nothing was changed\n");
    } else if moved {
        out.push_str(&format!(
            "write `primary: {to}` and the routes into the topology file when there is time; clients open \
             the volume at {to} from now on\n"
        ));
    }
    out
}
