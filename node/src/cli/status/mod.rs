//! `rcpctl status`: what the nodes say of themselves, as one picture.

mod problems;
mod sets;
mod trees;
mod view;
mod volumes;

use std::io::IsTerminal;
use std::time::Duration;

use clap::Args;
use serde::Serialize;

use super::client::ClientError;
use super::output::{Failed, colour, print, print_json};
use super::target::{Endpoint, Surroundings, Target};
use super::text::moment;
use super::way::{HOW_TO_START, Way};
use crate::api::NodeStatus;

pub(super) use view::tame;
pub use view::{View, render};

/// Lines of the delta-set table when a volume is named.
const LINES: usize = 10;

/// What is to be shown.
#[derive(Args, Clone, Debug)]
pub(super) struct StatusArgs {
    /// Only this volume, in detail and with its delta sets
    volume: Option<String>,
    /// Detail of every volume, with this many lines of its delta-set table
    #[arg(short = 'v', long, value_name = "LINES")]
    lines: Option<usize>,
    /// Print what the nodes answered as JSON
    #[arg(long)]
    json: bool,
    /// Redraw each second until interrupted
    #[arg(long)]
    watch: bool,
    #[command(flatten)]
    target: Target,
}

/// What one node answered.
#[derive(Clone, Debug)]
pub struct Asked {
    /// What to call it if it did not answer.
    pub called: String,
    /// Its status, or why there is none.
    pub answer: Result<NodeStatus, ClientError>,
}

/// The answers as JSON.
#[derive(Serialize)]
struct Answers<'a> {
    nodes: Vec<&'a NodeStatus>,
    silent: Vec<Silent<'a>>,
}

#[derive(Serialize)]
struct Silent<'a> {
    node: &'a str,
    error: String,
}

/// Asks all nodes at the same time; the answers come in the order of the endpoints.
pub(super) async fn ask(endpoints: &[Endpoint]) -> Vec<Asked> {
    let tasks: Vec<_> = endpoints
        .iter()
        .map(|e| {
            let client = e.client();
            (e.called(), tokio::spawn(async move { client.status().await }))
        })
        .collect();
    let mut asked = Vec::with_capacity(tasks.len());
    for (called, task) in tasks {
        let answer = task.await.unwrap_or_else(|e| Err(ClientError::Broken(e.to_string())));
        asked.push(Asked { called, answer });
    }
    asked
}

/// The nodes that can be asked, and the names of those of a topology that are not on this machine.
pub(super) fn present(
    target: &Target,
    around: &Surroundings,
) -> Result<(Vec<Endpoint>, Vec<String>), Failed> {
    let all = target.all(around)?;
    // Whoever names nodes wants an answer about exactly those.
    if target.topology.is_none() || !target.node.is_empty() {
        return Ok((all, Vec::new()));
    }
    let (here, elsewhere): (Vec<_>, Vec<_>) = all.into_iter().partition(Endpoint::is_there);
    let by_token = here.iter().chain(&elsewhere).find_map(|e| match &e.way {
        Way::Socket { elsewhere, .. } => Some(*elsewhere),
        Way::Network(_) => None,
    });
    let elsewhere: Vec<String> = elsewhere.iter().map(Endpoint::called).collect();
    if !here.iter().any(Endpoint::was_there) {
        let elsewhere: Vec<String> = here.iter().map(Endpoint::called).chain(elsewhere).collect();
        return Err(Failed::new(format!(
            "none of the topology's nodes has a socket on this machine ({}); {HOW_TO_START}{}",
            elsewhere.join(", "),
            by_token.unwrap_or_default()
        )));
    }
    Ok((here, elsewhere))
}

pub(super) async fn run(args: StatusArgs, around: &Surroundings) -> Result<(), Failed> {
    loop {
        let (here, elsewhere) = present(&args.target, around)?;
        let asked = ask(&here).await;
        let view = View {
            volume: args.volume.as_deref(),
            lines: args.lines.or(args.volume.is_some().then_some(LINES)),
            elsewhere: &elsewhere,
            colour: colour(),
        };
        if args.watch {
            redraw(&args, &asked, &view)?;
            tokio::time::sleep(Duration::from_secs(1)).await;
            continue;
        }
        return once(&args, &asked, &view);
    }
}

fn once(args: &StatusArgs, asked: &[Asked], view: &View<'_>) -> Result<(), Failed> {
    if let [Asked { answer: Err(error), .. }] = asked {
        return Err(Failed::from(error.clone()));
    }
    // Also for a program, a volume that is nowhere is an error.
    let text = render(asked, view)?;
    if args.json {
        print_json(&answers(asked))?;
    } else {
        print(&text)?;
    }
    unanswered(asked)
}

/// Who refused has answered.
fn unanswered(asked: &[Asked]) -> Result<(), Failed> {
    let refused = |a: &&Asked| matches!(a.answer, Err(ClientError::Refused(_)));
    let no = asked.iter().filter(refused).count();
    let silent = asked.iter().filter(|a| a.answer.is_err()).count() - no;
    let all = asked.len();
    let texts = [(silent, "did not answer"), (no, "refused to say how they are")].into_iter();
    let texts: Vec<_> = texts
        .filter(|(n, _)| *n > 0)
        .map(|(n, what)| format!("{n} of {all} nodes {what}"))
        .collect();
    if texts.is_empty() { Ok(()) } else { Err(Failed::new(texts.join(", "))) }
}

fn redraw(args: &StatusArgs, asked: &[Asked], view: &View<'_>) -> Result<(), Failed> {
    if args.json {
        let line = serde_json::to_string(&answers(asked)).unwrap_or_default();
        return print(&format!("{line}\n"));
    }
    let clock = asked.iter().find_map(|a| a.answer.as_ref().ok());
    let clock = clock.map_or("-".to_owned(), |s| moment(s.at_us));
    let text = render(asked, view).unwrap_or_else(|e| e.text + "\n");
    let text = format!("{clock} UTC, each second; Ctrl-C ends\n\n{text}");
    if std::io::stdout().is_terminal() {
        // Home, each line cleared to its end, and everything below.
        print(&format!("\x1b[H{}\x1b[J", text.replace('\n', "\x1b[K\n")))
    } else {
        print(&format!("{text}\n"))
    }
}

fn answers(asked: &[Asked]) -> Answers<'_> {
    let mut answers = Answers { nodes: Vec::new(), silent: Vec::new() };
    for a in asked {
        match &a.answer {
            Ok(status) => answers.nodes.push(status),
            Err(e) => answers.silent.push(Silent { node: &a.called, error: e.to_string() }),
        }
    }
    answers
}
