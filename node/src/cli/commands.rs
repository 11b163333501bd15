//! Delta sets, replication, and the end of a node.

use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgGroup, Args, Subcommand, ValueEnum};
use config::units::{format_duration, format_size, parse_duration, parse_size};
use rcp::proto::ids::Label;
use serde::Serialize;

use super::client::{Client, ClientError};
use super::output::{Failed, print, print_json, tell};
use super::pull;
use super::target::{Endpoint, Purpose, Surroundings, Target};
use super::text::{moment, plural};
use super::way::Way;
use crate::api::{CutInfo, PolicyChange, VolumeInfo};
use crate::http::{paths, requests};

/// How long `down` waits for a node to end.
const ENDING: Duration = Duration::from_secs(60);

/// How long `version` waits for what has come whole to be shown.
const SHOWN: Duration = Duration::from_secs(10);

/// What most commands take after their own words.
#[derive(Args, Clone, Debug)]
pub(super) struct Common {
    /// Print the answer as JSON
    #[arg(long)]
    pub(super) json: bool,
    #[command(flatten)]
    pub(super) target: Target,
}

/// A volume's name, as it may stand in a URL.
fn label(text: &str) -> Result<String, String> {
    Label::new(text).map(|l| l.to_string()).map_err(|e| e.to_string())
}

#[derive(Debug, Subcommand)]
pub(super) enum Delta {
    /// Cut a delta set now
    Cut {
        /// The volume
        volume: String,
        /// Keep the state readable as VOLUME@SET
        #[arg(long)]
        keep: bool,
        #[command(flatten)]
        common: Common,
    },
    /// Keep a state readable as VOLUME@SET
    Keep {
        /// The volume
        volume: String,
        /// The set; it may still be to come
        set: u64,
        #[command(flatten)]
        common: Common,
    },
    /// List the blocks that changed from one kept state to a younger one
    Diff {
        /// The volume
        #[arg(value_parser = label)]
        volume: String,
        /// The older state
        since: u64,
        /// The younger state
        state: u64,
        #[command(flatten)]
        common: Common,
    },
    /// Copy a kept state into a file; into one that was pulled before, only what changed since
    ///
    /// FILE.state says which state the file holds; that one must still be kept where it is pulled
    /// from. A pull that was interrupted is finished by the same command.
    Pull {
        /// The volume
        #[arg(value_parser = label)]
        volume: String,
        /// The state
        state: u64,
        /// The file
        #[arg(long, value_name = "FILE")]
        to: PathBuf,
        /// The file was copied since it was pulled, and not written to otherwise
        #[arg(long)]
        as_noted: bool,
        #[command(flatten)]
        common: Common,
    },
    /// Give a kept state up
    Release {
        /// The volume
        volume: String,
        /// The set
        set: u64,
        #[command(flatten)]
        common: Common,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum Replicate {
    /// Make and send delta sets, or show them at a replica
    Start {
        /// The volume
        volume: String,
        #[command(flatten)]
        common: Common,
    },
    /// Only mark changes, or at a replica (--dir) only save sets; readers keep the state they have
    Stop {
        /// The volume
        volume: String,
        #[command(flatten)]
        common: Common,
    },
    /// Bring a child back by a new seed
    Seed {
        /// The volume
        volume: String,
        /// The child
        #[arg(long, value_name = "NODE")]
        to: String,
        #[command(flatten)]
        common: Common,
    },
    /// Let go of a receiver that takes nothing: what it lacks is kept for it no longer
    ///
    /// When it is back it catches up by the blocks that changed meanwhile. Ask the node that feeds
    /// it; without --dir or --node that is the primary.
    Detach {
        /// The volume
        volume: String,
        /// The receiver: a next hop of the node that is asked
        #[arg(long, value_name = "NODE")]
        receiver: String,
        #[command(flatten)]
        common: Common,
    },
    /// Change when delta sets are made (at the primary) or played back (at a replica)
    #[command(group = ArgGroup::new("what").required(true).multiple(true).args(["hwm", "timeout"]))]
    Policy {
        /// The volume
        volume: String,
        /// High-water mark: bytes of modified data, such as 64MiB
        #[arg(long, value_name = "SIZE", value_parser = size)]
        hwm: Option<u64>,
        /// Longest time between sets, such as 600s or 10min
        #[arg(long, value_name = "TIME", value_parser = duration)]
        timeout: Option<Duration>,
        #[command(flatten)]
        common: Common,
    },
    /// Bring a mirror (`views: on_demand`) to a version: the newest set that has come whole is read,
    /// and can be promoted; from then on it is a replica as any other
    Version {
        /// The volume
        volume: String,
        #[command(flatten)]
        common: Common,
    },
    /// Have a replica that was brought to a version mirror again; nothing is copied for that
    Mirror {
        /// The volume
        volume: String,
        #[command(flatten)]
        common: Common,
    },
    /// Whether replication goes on by itself after a restart
    Persist {
        /// On or off
        to: OnOff,
        /// The volume
        volume: String,
        #[command(flatten)]
        common: Common,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum OnOff {
    /// It does
    On,
    /// It waits for `rcpctl replicate start`
    Off,
}

/// Which nodes to stop.
#[derive(Args, Clone, Debug)]
pub(super) struct DownArgs {
    /// Print the answer as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    target: Target,
}

pub(super) fn size(text: &str) -> Result<u64, String> {
    parse_size(text).map_err(|e| e.to_string())
}

fn duration(text: &str) -> Result<Duration, String> {
    parse_duration(text).map_err(|e| e.to_string())
}

/// One change of one volume: asks, and says in a sentence what happened.
async fn change<B: Serialize>(
    volume: &str,
    common: &Common,
    around: &Surroundings,
    path: &str,
    body: &B,
    sentence: String,
) -> Result<(), Failed> {
    let client = common.target.one(Purpose::Volume(volume), around)?.client();
    let done: requests::Done = client.post(path, body).await?;
    tell(common.json, &done, &sentence)
}

pub(super) async fn delta(command: Delta, around: &Surroundings) -> Result<(), Failed> {
    match command {
        Delta::Cut { volume, keep, common } => {
            let client = common.target.one(Purpose::Volume(&volume), around)?.client();
            let body = requests::Cut { volume: volume.clone(), keep };
            let cut: CutInfo = client.post(paths::CUT, &body).await?;
            tell(common.json, &cut, &cut_sentence(&volume, keep, &cut))
        }
        Delta::Keep { volume, set, common } => {
            let body = requests::KeptState { volume: volume.clone(), set };
            let client = common.target.one(Purpose::Volume(&volume), around)?.client();
            let done: requests::Done = client.post(paths::KEEP, &body).await?;
            let known = known_set(&client, &volume).await;
            tell(common.json, &done, &kept_sentence(&volume, set, known))
        }
        Delta::Diff { volume, since, state, common } => {
            let client = common.target.one(Purpose::Volume(&volume), around)?.client();
            let found =
                pull::all_changes(&client, &volume, Some(&since.to_string()), state).await?;
            if common.json {
                return print_json(&found);
            }
            print(&pull::told(&volume, &found))
        }
        Delta::Pull { volume, state, to, as_noted, common } => {
            let client = common.target.one(Purpose::Volume(&volume), around)?.client();
            let done = pull::run(&client, &volume, state, &to, as_noted).await?;
            tell(common.json, &done, &done.sentence(&volume))
        }
        Delta::Release { volume, set, common } => {
            let body = requests::KeptState { volume: volume.clone(), set };
            let sentence = format!("{volume}: state {set} is given up");
            change(&volume, &common, around, paths::RELEASE, &body, sentence).await
        }
    }
}

fn kept_sentence(volume: &str, set: u64, known: Option<u64>) -> String {
    match known.filter(|known| *known < set) {
        Some(known) => {
            format!("{volume}: state {set} will be kept when it comes (newest known is {known})")
        }
        None => format!("{volume}: state {set} is kept; read it as {volume}@{set}"),
    }
}

/// The newest set that a node knows of.
async fn known_set(client: &Client, volume: &str) -> Option<u64> {
    let status = client.status().await.ok()?;
    let v = status.volumes.into_iter().find(|v| v.label == volume || v.id == volume)?;
    Some(v.newest_known_set.max(v.current_set))
}

fn cut_sentence(volume: &str, keep: bool, cut: &CutInfo) -> String {
    let kept =
        if keep { format!("; kept, read it as {volume}@{}", cut.set) } else { String::new() };
    if cut.fresh {
        format!("{volume}: cut state {}{kept}", cut.set)
    } else {
        format!("{volume}: nothing has changed since state {}{kept}", cut.set)
    }
}

pub(super) async fn replicate(command: Replicate, around: &Surroundings) -> Result<(), Failed> {
    match command {
        Replicate::Start { volume, common } => {
            let body = requests::Replicate { volume: volume.clone(), on: true };
            let sentence = format!("{volume}: delta sets are made, or at a replica shown");
            change(&volume, &common, around, paths::REPLICATE, &body, sentence).await
        }
        Replicate::Stop { volume, common } => {
            let body = requests::Replicate { volume: volume.clone(), on: false };
            let sentence = format!(
                "{volume}: changes are only marked, or at a replica only saved, until `rcpctl \
                 replicate start {volume}`"
            );
            change(&volume, &common, around, paths::REPLICATE, &body, sentence).await
        }
        Replicate::Seed { volume, to, common } => {
            let body = requests::Seed { volume: volume.clone(), child: to.clone() };
            let sentence = format!(
                "{volume}: {to} is asked to take a seed; `rcpctl status {volume} --watch` shows how far"
            );
            change(&volume, &common, around, paths::SEED, &body, sentence).await
        }
        Replicate::Detach { volume, receiver, common } => {
            let body = requests::Detach { volume: volume.clone(), child: receiver.clone() };
            let sentence = format!(
                "{volume}: what {receiver} lacks is kept for it no longer; it catches up by the blocks \
                 that changed when it is back"
            );
            change(&volume, &common, around, paths::DETACH, &body, sentence).await
        }
        Replicate::Policy { volume, hwm, timeout, common } => {
            let timeout_ms = timeout.map(|t| u64::try_from(t.as_millis()).unwrap_or(u64::MAX));
            let policy = PolicyChange { hwm, timeout_ms, persistent: None };
            let body = requests::Policy { volume: volume.clone(), change: policy };
            let words: Vec<String> = [
                hwm.map(|h| format!("high-water mark {}", format_size(h))),
                timeout.map(|t| format!("timeout {}", format_duration(t))),
            ]
            .into_iter()
            .flatten()
            .collect();
            let sentence = format!("{volume}: {} from now on", words.join(", "));
            change(&volume, &common, around, paths::POLICY, &body, sentence).await
        }
        Replicate::Version { volume, common } => version(&volume, &common, around).await,
        Replicate::Mirror { volume, common } => {
            let body = requests::Views { volume: volume.clone(), open: false };
            let sentence = format!(
                "{volume}: it mirrors again, and is not read; whoever has a state open reads that one on"
            );
            change(&volume, &common, around, paths::VIEWS, &body, sentence).await
        }
        Replicate::Persist { to, volume, common } => {
            let on = to == OnOff::On;
            let policy = PolicyChange { persistent: Some(on), ..PolicyChange::default() };
            let body = requests::Policy { volume: volume.clone(), change: policy };
            let sentence = if on {
                format!("{volume}: replication goes on by itself after a restart")
            } else {
                format!("{volume}: after a restart, `rcpctl replicate start {volume}` is needed")
            };
            change(&volume, &common, around, paths::POLICY, &body, sentence).await
        }
    }
}

async fn version(volume: &str, common: &Common, around: &Surroundings) -> Result<(), Failed> {
    let client = common.target.one(Purpose::Volume(volume), around)?.client();
    let body = requests::Views { volume: volume.to_owned(), open: true };
    let done: requests::Done = client.post(paths::VIEWS, &body).await?;
    let until = crate::clock::mono().after(SHOWN);
    let sentence = loop {
        let status = client.status().await?;
        let Some(v) = status.volumes.iter().find(|v| v.is_called(volume)) else {
            return Err(Failed::new(format!("volume {volume} is gone from {}", status.node)));
        };
        let comes = v.state.starts_with("readable") && v.replicating && v.current_set < v.saved_set;
        if !comes || crate::clock::mono() >= until {
            break version_sentence(volume, &status.node, v);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    tell(common.json, &done, &sentence)
}

fn version_sentence(volume: &str, node: &str, v: &VolumeInfo) -> String {
    if !v.state.starts_with("readable") || v.current_set == 0 {
        let why = v.reason.as_deref().map_or(String::new(), |r| format!(": {r}"));
        return format!(
            "{volume}: a version of it at {node} is wanted, and not there yet ({}{why}); it is read from \
             then on",
            v.state
        );
    }
    let cut = v.current_cut_us.map_or(String::new(), |us| format!(", cut {} UTC", moment(us)));
    let lacks = match v.newest_known_set.saturating_sub(v.current_set) {
        0 => String::new(),
        n => format!("; it lacks {} of which it knows", plural(n, "newer set")),
    };
    format!(
        "{volume}: {node} has version {}{cut}{lacks}; it is read and goes on as a replica, until \
         `rcpctl replicate mirror {volume} --node {node}`",
        v.current_set
    )
}

/// What became of one node.
#[derive(Serialize)]
struct Ended {
    node: String,
    stopped: bool,
    text: String,
}

pub(super) async fn down(args: DownArgs, around: &Surroundings) -> Result<(), Failed> {
    let mut here = args.target.all(around)?;
    if args.target.node.is_empty() {
        // A topology means its nodes on this machine, as with `rcpctl up`.
        here.retain(|e| matches!(e.way, Way::Socket { .. }) && e.is_there());
        if here.is_empty() {
            return Err(Failed::new(
                "none of the topology's nodes is on this machine; to stop one elsewhere: --node NAME, \
                 and a token of the scope admin",
            ));
        }
    }
    let mut ended = Vec::new();
    // All are told before any is waited for.
    let mut told = Vec::new();
    for endpoint in &here {
        let client = endpoint.client();
        let answer: Result<requests::Done, ClientError> =
            client.post(paths::SHUTDOWN, &serde_json::json!({})).await;
        told.push((endpoint, client, answer));
    }
    for (endpoint, client, answer) in told {
        let (stopped, text) = match answer {
            Ok(_) => gone(&client).await,
            Err(ClientError::NotRunning(_)) if holds_folder(&client) => gone(&client).await,
            Err(ClientError::NotRunning(_)) => (true, "was not running".to_owned()),
            Err(e) => (false, e.to_string()),
        };
        let node = Endpoint::called(endpoint);
        if !args.json {
            print(&format!("{node}: {text}\n"))?;
        }
        ended.push(Ended { node, stopped, text });
    }
    if args.json {
        print_json(&ended)?;
    }
    match ended.iter().filter(|e| !e.stopped).count() {
        0 => Ok(()),
        n => Err(Failed::new(format!("{n} of {} nodes did not stop", ended.len()))),
    }
}

/// A process that answers no more may still have the data folder.
fn holds_folder(client: &Client) -> bool {
    use rustix::fs::{FlockOperation, flock};
    let Some(folder) = client.folder() else { return false };
    let Ok(lock) = std::fs::File::open(folder.join("rcpd.lock")) else { return false };
    flock(&lock, FlockOperation::NonBlockingLockShared) == Err(rustix::io::Errno::WOULDBLOCK)
}

/// Waits until nobody answers, and the process has ended.
async fn gone(client: &Client) -> (bool, String) {
    let waiting = async {
        while !matches!(client.ready().await, Err(ClientError::NotRunning(_))) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        while holds_folder(client) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    match tokio::time::timeout(ENDING, waiting).await {
        Ok(()) => (true, "stopped".to_owned()),
        Err(_) => (false, format!("was told to stop, and still runs after {} s", ENDING.as_secs())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_that_is_to_come_is_not_said_to_be_kept() {
        let text = kept_sentence("v", 99, Some(1));
        assert_eq!(text, "v: state 99 will be kept when it comes (newest known is 1)");
        assert_eq!(kept_sentence("v", 1, Some(1)), "v: state 1 is kept; read it as v@1");
    }

    #[test]
    fn what_a_version_has_and_lacks_is_said() {
        let at = |state: &str, current_set, newest_known_set| VolumeInfo {
            state: state.to_owned(),
            current_set,
            newest_known_set,
            reason: (state == "seeding").then(|| "no parent".to_owned()),
            ..VolumeInfo::default()
        };
        let says = |v| version_sentence("v", "n", &v);
        let text = says(at("readable", 7, 7));
        let way = "`rcpctl replicate mirror v --node n`";
        assert_eq!(
            text,
            format!("v: n has version 7; it is read and goes on as a replica, until {way}")
        );
        let text = says(at("readable, 1 sets to merge", 7, 9));
        assert!(text.contains("version 7; it lacks 2 newer sets of which it knows"), "{text}");
        for none in [at("seeding", 7, 7), at("readable", 0, 0)] {
            let text = says(none);
            assert!(text.contains("is wanted, and not there yet"), "{text}");
        }
        assert!(says(at("seeding", 7, 7)).contains("(seeding: no parent)"));
    }

    #[test]
    fn a_process_that_answers_no_more_may_still_have_its_folder() {
        use rustix::fs::{FlockOperation, flock};
        let dir = tempfile::tempdir().expect("a folder");
        let client = Client::new(dir.path().join("rcpd.sock"));
        assert!(!holds_folder(&client));
        let lock = std::fs::File::create(dir.path().join("rcpd.lock")).expect("a lock");
        flock(&lock, FlockOperation::NonBlockingLockExclusive).expect("locked");
        assert!(holds_folder(&client));
        drop(lock);
        assert!(!holds_folder(&client));
    }
}
