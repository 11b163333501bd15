//! Other writers of a volume become replicas of the one that is to stay: the end of a split.

use std::time::Duration;

use serde::Serialize;

use super::plan::Plan;
use super::{Nodes, change, volume_at};
use crate::api::{Promoted, VolumeInfo, WriterAnswer, WriterChange};
use crate::cli::client::Client;

/// How long a writer may take to hear of the newer one, over the route that leads to it now.
const HEARS: Duration = Duration::from_secs(30);
/// How often it is said what is waited for.
const TOLD: Duration = Duration::from_secs(5);
/// How often it is looked again.
const LOOK: Duration = Duration::from_millis(50);

/// What became of a writer that gave way.
#[derive(Debug, Serialize)]
pub(super) struct GaveWay {
    pub(super) node: String,
    /// It is a replica.
    pub(super) done: bool,
    /// The state it goes back to, if it held more.
    pub(super) fork: Option<u64>,
    /// The branch that keeps what it held beyond that.
    pub(super) branch: Option<String>,
    /// In words, with what to do if it is not done.
    pub(super) text: String,
}

/// Has the other writers that answered follow the one that is to stay. In a split those are all; when
/// the command is said again, those that have heard of it since.
pub(super) async fn give_way(
    plan: &Plan,
    nodes: &Nodes,
    to: &str,
    promoted: &Promoted,
) -> Vec<GaveWay> {
    let mut out = Vec::new();
    for n in nodes.all.iter().filter(|n| n.node != to) {
        let is_it =
            |v: &&VolumeInfo| v.is_called(&plan.volume) || (!v.id.is_empty() && v.id == plan.id);
        let Some(v) = n.volumes.iter().filter(is_it).find(|v| v.role == "primary") else {
            continue;
        };
        if !plan.split && !knows(v, &promoted.generation) {
            continue;
        }
        let Some(client) = nodes.client(&n.node) else { continue };
        out.push(follow(client, v.label.as_str(), &n.node, to, &promoted.generation).await);
    }
    out
}

/// It has heard of the newer line.
fn knows(v: &VolumeInfo, generation: &str) -> bool {
    v.fenced.is_some() && v.rival.iter().any(|l| l.generation == generation)
}

async fn follow(client: &Client, volume: &str, node: &str, to: &str, generation: &str) -> GaveWay {
    let resync = WriterChange::Resync { volume: volume.to_owned(), discard: false };
    let answer = match is_fenced(client, volume, node, to, generation).await {
        Ok(()) => change(client, &resync).await.map_err(|e| e.to_string()),
        Err(why) => Err(why),
    };
    let gave = |done, text| GaveWay { node: node.to_owned(), done, fork: None, branch: None, text };
    match answer {
        Ok(WriterAnswer::Rewound(r)) => {
            let kept = r.branch.as_ref().map_or_else(String::new, |name| {
                format!(
                    "; what it held beyond that is kept there as branch {name}: read it as \
                     {volume}@branch:{name}, see `rcpctl branch list {volume}` at {node}"
                )
            });
            let text = format!("is a replica of {to}, and goes back to set {}{kept}", r.fork);
            GaveWay { fork: Some(r.fork), branch: r.branch, ..gave(true, text) }
        }
        Ok(_) => gave(true, format!("is a replica of {to}; it held nothing beyond what {to} has")),
        Err(why) => gave(
            false,
            format!(
                "is not a replica yet: {why}; what it holds stays as it is: say this command again, or \
                 `rcpctl resync {volume}` at {node}"
            ),
        ),
    }
}

/// Waits until a writer has heard that there is a newer one.
async fn is_fenced(
    client: &Client,
    volume: &str,
    node: &str,
    to: &str,
    generation: &str,
) -> Result<(), String> {
    let began = crate::clock::mono();
    let (until, mut tell_at) = (began.after(HEARS), began.after(TOLD));
    loop {
        let v = volume_at(client, volume).await;
        if v.as_ref().is_some_and(|v| v.role != "primary" || knows(v, generation)) {
            return Ok(());
        }
        let now = crate::clock::mono();
        if now >= until {
            return Err(format!("it has not heard of {to} within {} s", HEARS.as_secs()));
        }
        if now >= tell_at {
            eprintln!("waiting for {node} to hear of the writer {to}");
            tell_at = now.after(TOLD);
        }
        tokio::time::sleep(LOOK).await;
    }
}
