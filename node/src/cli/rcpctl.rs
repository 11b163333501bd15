//! `rcpctl`: the command line and what each command calls.

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use super::block::{self, BlockCommand};
use super::branch::{self, BranchCommand};
use super::commands::{self, Delta, DownArgs, Replicate};
use super::decommission::{self, NodeCommand};
use super::failover::{self, ConfirmArgs, FailoverArgs, HistoryArgs, ResyncArgs};
use super::fsck::{self, FsckArgs};
use super::groups::{self, VolmcastCommand};
use super::membership::{self, GroupCommand};
use super::output::{AGAIN, Failed, asks_for_json, finish, not_understood, unless_interrupted};
use super::pki::{self, PkiCommand};
use super::spellings;
use super::status::{self, StatusArgs};
use super::target::Surroundings;
use super::token::{self, TokenCommand};
use super::topology::{self, TopologyCommand};
use super::up::{self, UpArgs};
use super::verify::{self, VerifyArgs};
use super::volumes::{self, VolumeCommand};
use super::why::{self, WhyArgs};
use crate::daemon;
use crate::demo::{self, DemoArgs};

/// Operate the data movers of this machine: status, delta sets, replication, volumes, topology.
#[derive(Debug, Parser)]
#[command(name = "rcpctl", version, max_term_width = 100, after_help = AFTER)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const AFTER: &str = "\
Which node: --dir DIR, --socket FILE, or --topology FILE with --node NAME;
  else the folder in RCP_DIR; else the current folder.
Exit status: 0 done, 1 refused or failed, 2 wrong usage, 130 interrupted.
With --json a refusal is a document as well: {\"error\": {\"kind\", \"text\", \"exit_status\"}}.
fs_replicate, server_config and their like are understood: docs/spellings.md.";

#[derive(Debug, Subcommand)]
enum Command {
    /// Show nodes, trees, volumes, lag, and what is wrong
    Status(StatusArgs),
    /// Cut delta sets, keep and release states
    #[command(subcommand)]
    Delta(Delta),
    /// Make and end groups, take members in and out, list them and who is missing
    #[command(subcommand)]
    Group(GroupCommand),
    /// Make, list, open and close volume multicasts: a source volume, and a copy at every member
    #[command(subcommand)]
    Volmcast(VolmcastCommand),
    /// Have every member of a group execute a command
    #[command(subcommand)]
    Block(BlockCommand),
    /// Start, stop and tune replication of a volume
    #[command(subcommand)]
    Replicate(Replicate),
    /// Plan a failover, make another node the writer of a volume, swap two nodes
    Failover(FailoverArgs),
    /// Make a writer whose place was taken a replica of the new one
    Resync(ResyncArgs),
    /// List, read and give up what was kept of a line that ended
    #[command(subcommand)]
    Branch(BranchCommand),
    /// Let writers in at a node that waits for a child's word
    Confirm(ConfirmArgs),
    /// Draw the writers of a volume and where their lines fork
    History(HistoryArgs),
    /// Name what holds back the copies of a volume, and what to mend first
    ///
    /// Every copy's way is walked from the writer down, over what each node on it says. What stops a
    /// copy is named before what slows it, and what follows from something else with that. A slowness is
    /// named when it has lasted two seconds. The answer is 0, whatever is found.
    Why(WhyArgs),
    /// Compare all replicas of a volume with its primary, by digest
    ///
    /// Nothing is read but the digests that every node keeps; the content itself is proved when it
    /// is read, or with --deep. The answer is 0 if all are equal (and whole), 1 if not or if somebody
    /// cannot say.
    Verify(VerifyArgs),
    /// Explain the data folder of a stopped node, without changing it
    ///
    /// Each volume is opened as the node would open it, in memory. The answer is 0 if all is well, 1
    /// if there is damage that the node heals by itself, 2 if somebody has to do something, and 3 if
    /// the folder could not be looked at, because a node runs on it for example.
    Fsck(FsckArgs),
    /// Create, import, list and change volumes
    #[command(subcommand)]
    Volume(VolumeCommand),
    /// Take nodes out of service
    #[command(subcommand)]
    Node(NodeCommand),
    /// Check and draw topology files, and tell running nodes of a changed one
    #[command(subcommand)]
    Topology(TopologyCommand),
    /// Make and renew the certificates that nodes trust one another by
    #[command(subcommand)]
    Pki(PkiCommand),
    /// Make and take back the tokens that HTTP clients show
    #[command(subcommand)]
    Token(TokenCommand),
    /// Start every node of a topology on this machine
    Up(UpArgs),
    /// Stop nodes in order
    Down(DownArgs),
    /// See the whole thing work: a tree on this machine, under load and faults, compared at the end
    Demo(DemoArgs),
    /// Be a node, as `rcpd` is
    #[command(hide = true)]
    Daemon(daemon::Args),
}

async fn run(command: Command) -> Result<(), Failed> {
    let around = Surroundings::read();
    match command {
        Command::Status(args) => status::run(args, &around).await,
        Command::Delta(command) => commands::delta(command, &around).await,
        Command::Group(command) => {
            unless_interrupted(AGAIN, membership::run(command, &around)).await
        }
        Command::Volmcast(command) => groups::volmcast(command, &around).await,
        Command::Block(command) => block::run(command, &around).await,
        Command::Replicate(command) => commands::replicate(command, &around).await,
        Command::Failover(args) => {
            let then = failover::interrupted(&args);
            unless_interrupted(&then, failover::failover(args, &around)).await
        }
        Command::Resync(args) => failover::resync(args, &around).await,
        Command::Branch(command) => branch::run(command, &around).await,
        Command::Confirm(args) => failover::confirm(args, &around).await,
        Command::Why(args) => why::run(args, &around).await,
        Command::Verify(args) => verify::run(args, &around).await,
        Command::Fsck(args) => fsck::run(&args),
        Command::History(args) => failover::history(args, &around).await,
        Command::Volume(command) => volumes::run(command, &around).await,
        Command::Node(command) => {
            unless_interrupted(AGAIN, decommission::run(command, &around)).await
        }
        Command::Topology(command) => topology::run(command, &around).await,
        Command::Pki(command) => pki::run(command),
        Command::Token(command) => token::run(command),
        Command::Up(args) => up::run(args).await,
        Command::Down(args) => commands::down(args, &around).await,
        Command::Demo(args) => match demo::run(args).await {
            Ok(true) => Ok(()),
            Ok(false) => Err(Failed::new("replicas differ")),
            Err(e) => Err(Failed::new(format!("{e:#}"))),
        },
        Command::Daemon(_) => Err(Failed::new("a daemon is not started from here")),
    }
}

/// The whole program.
#[must_use]
pub fn main() -> ExitCode {
    let words: Option<Vec<_>> = std::env::args_os().skip(1).map(|w| w.into_string().ok()).collect();
    match words.as_deref().and_then(spellings::meant) {
        None => begin(std::env::args_os().collect()),
        Some(Ok(meant)) => {
            let words = meant.words.join(" ");
            let note = meant.note.map_or(String::new(), |n| format!("; {n}"));
            eprintln!("rcpctl {words}{note}");
            main_with(&meant.words)
        }
        Some(Err(why)) => {
            let json = asks_for_json(std::env::args_os());
            finish("rcpctl", json, async { Err(Failed::usage(why)) })
        }
    }
}

/// The whole program, with these words behind its name.
#[must_use]
pub fn main_with(words: &[String]) -> ExitCode {
    begin(std::iter::once("rcpctl".into()).chain(words.iter().map(OsString::from)).collect())
}

/// What operators look for in a hurry, and what it is called.
const TRIED: [(&str, &str); 6] = [
    ("swap", "a planned swap of writer and replica is `rcpctl failover VOLUME --sync --to NODE`"),
    ("failback", "back without loss is `rcpctl failover VOLUME --sync --to NODE`"),
    ("promote", "`rcpctl failover VOLUME --plan` shows who could be the writer, and the command"),
    ("fence", "whoever hears of a newer writer fences itself: `rcpctl failover VOLUME --plan`"),
    ("move", "`rcpctl volume move VOLUME --to NODE`, or `rcpctl group move GROUP --to NODE`"),
    ("decommission", "`rcpctl node decommission NODE --plan`, and the same without --plan"),
];

/// Wrong usage ends with 2; --help and --version with 0.
fn begin(words: Vec<OsString>) -> ExitCode {
    let json = asks_for_json(words.iter().cloned());
    let cli = match Cli::try_parse_from(&words) {
        Ok(cli) => cli,
        Err(e) => {
            let tried = words.get(1).and_then(|w| TRIED.iter().find(|(tried, _)| w == tried));
            return match tried {
                Some((tried, meant)) => {
                    let why =
                        format!("there is no command `{tried}`: {meant}. Nothing was changed");
                    finish("rcpctl", json, async { Err(Failed::usage(why)) })
                }
                None => not_understood(&e, json),
            };
        }
    };
    if let Command::Daemon(args) = &cli.command {
        std::process::exit(daemon::main(args));
    }
    finish("rcpctl", json, run(cli.command))
}

/// Whether these words are a command, without running it.
#[cfg(test)]
pub(super) fn understands(words: &[String]) -> Result<(), String> {
    let all = std::iter::once("rcpctl").chain(words.iter().map(String::as_str));
    Cli::try_parse_from(all).map(drop).map_err(|e| e.to_string())
}

#[cfg(test)]
pub(super) async fn run_words(words: &[&str]) -> Result<(), Failed> {
    let cli = Cli::try_parse_from(std::iter::once(&"rcpctl").chain(words))
        .map_err(|e| Failed::usage(e.to_string()))?;
    run(cli.command).await
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    /// Commands that do not answer, but run.
    const NO_ANSWER: [&str; 3] = ["up", "demo", "daemon"];

    fn without_json(c: &clap::Command, path: &str, out: &mut Vec<String>) {
        for sub in c.get_subcommands().filter(|s| s.get_name() != "help") {
            let path = format!("{path} {}", sub.get_name()).trim().to_owned();
            let answers = sub.get_arguments().any(|a| a.get_long() == Some("json"));
            if !answers && !sub.has_subcommands() && !NO_ANSWER.contains(&path.as_str()) {
                out.push(path.clone());
            }
            without_json(sub, &path, out);
        }
    }

    #[test]
    fn every_command_that_answers_can_answer_a_program() {
        let mut found = Vec::new();
        without_json(&Cli::command(), "", &mut found);
        assert!(found.is_empty(), "without --json: {found:?}");
    }
}
