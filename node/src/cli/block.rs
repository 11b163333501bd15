//! Control blocks: a command for every member of a group, and what each said.

use std::io::Read;
use std::path::{Path, PathBuf};

use clap::Subcommand;
use config::units::parse_size;
use rcp::proto::limits::MAX_CONTROL_BLOCK;

use super::client::{Client, ClientError};
use super::commands::Common;
use super::membership::primary_of;
use super::output::{Failed, print, print_json};
use super::target::Surroundings;
use crate::api::{MemberResult, NodeStatus};
use crate::clock;
use crate::hex;
use crate::http::{paths, requests};

#[derive(Debug, Subcommand)]
pub(super) enum BlockCommand {
    /// Run the handler of a kind at every member of a group, at most once each
    ///
    /// Some kinds are the program's own: volume-playback-stop and volume-playback-start (--volume),
    /// volume-copy-extent (--volume, --extent), volume-replicate (--volume).
    Send {
        /// The group
        group: String,
        /// The kind: what the members' `handlers` in the topology name, or one of the program's own
        kind: String,
        /// Not before a member shows this state; without @SET, the newest
        #[arg(long, value_name = "VOLUME@SET")]
        after: Option<String>,
        /// What the handlers read from their standard input; - is this command's
        #[arg(long, value_name = "FILE", conflicts_with_all = ["volume", "extent"])]
        data: Option<PathBuf>,
        /// The volume that a kind of the program's own is about
        #[arg(long, value_name = "VOLUME")]
        volume: Option<String>,
        /// The extent of it: where it begins and how long it is, such as 1GiB+64KiB
        #[arg(long, value_name = "OFFSET+LENGTH", requires = "volume", value_parser = extent)]
        extent: Option<(u64, u64)>,
        /// Id of the block, to repeat one whose results were lost
        #[arg(long, value_name = "UUID")]
        id: Option<uuid::Uuid>,
        /// Seconds to wait for all members
        #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(..=3600))]
        wait: u64,
        /// Only the node that is asked and the members below it: it need not be the primary
        #[arg(long)]
        below: bool,
        #[command(flatten)]
        common: Common,
    },
}

/// An id that says when it was made, so that of two blocks the later one can be told.
pub(super) fn new_id() -> uuid::Uuid {
    let random = uuid::Uuid::new_v4();
    let mut rest = [0; 10];
    rest.copy_from_slice(&random.as_bytes()[6..]);
    uuid::Builder::from_unix_timestamp_millis(clock::wall().0 / 1000, &rest).into_uuid()
}

fn extent(text: &str) -> Result<(u64, u64), String> {
    let (offset, length) = text.split_once('+').ok_or("write OFFSET+LENGTH, as in 1GiB+64KiB")?;
    let bytes = |t: &str| if t == "0" { Ok(0) } else { parse_size(t).map_err(|e| e.to_string()) };
    Ok((bytes(offset)?, bytes(length)?))
}

fn read(data: Option<&Path>) -> Result<Vec<u8>, Failed> {
    let Some(path) = data else { return Ok(Vec::new()) };
    let at = |e: std::io::Error| Failed::new(format!("{}: {e}", path.display()));
    let from: Box<dyn Read> = if path == Path::new("-") {
        Box::new(std::io::stdin().lock())
    } else {
        Box::new(std::fs::File::open(path).map_err(at)?)
    };
    let mut bytes = Vec::new();
    from.take(MAX_CONTROL_BLOCK as u64 + 1).read_to_end(&mut bytes).map_err(at)?;
    if bytes.len() > MAX_CONTROL_BLOCK {
        return Err(Failed::new(format!(
            "{} has more than {MAX_CONTROL_BLOCK} bytes, which is the most that a block carries: put \
             it into a file of the volume, and send its name",
            path.display()
        )));
    }
    Ok(bytes)
}

/// Sends a new block, and waits for all members.
pub(super) async fn ask(
    client: &Client,
    group: &str,
    kind: String,
    after: Option<String>,
    data: &[u8],
    wait_s: u64,
) -> Result<Vec<MemberResult>, ClientError> {
    let id = new_id().to_string();
    let (group, data) = (group.to_owned(), hex::encode(data));
    let body = requests::Block { group, id, kind, after, data, wait_s };
    client.post(paths::BLOCK_SEND, &body).await
}

/// From the primary a block goes to every member; from another node only to itself and those below.
fn reaches_all(status: &NodeStatus, group: &str) -> Result<(), Failed> {
    let node = &status.node;
    match status.groups.iter().find(|g| g.group == group) {
        // The node says it better.
        None => Ok(()),
        Some(g) if g.role == "primary" => Ok(()),
        Some(g) => Err(Failed::new(format!(
            "{node} is a {} of group {group}: from here a block reaches only it and the members below it. \
             Ask the primary (--node NAME with --topology FILE, or --dir), or mean only those with \
             --below",
            g.role
        ))),
    }
}

pub(super) async fn run(command: BlockCommand, around: &Surroundings) -> Result<(), Failed> {
    let BlockCommand::Send { group, kind, after, data, volume, extent, id, wait, below, common } =
        command;
    let data = match (volume, extent) {
        (None, _) => read(data.as_deref())?,
        (Some(volume), None) => volume.into_bytes(),
        (Some(volume), Some((offset, length))) => {
            format!("{volume} {offset} {length}").into_bytes()
        }
    };
    let client = primary_of(&group, &common.target, around).await?.client();
    if !below {
        reaches_all(&client.status().await?, &group)?;
    }
    let id = id.unwrap_or_else(new_id);
    let body = requests::Block {
        group,
        id: id.to_string(),
        kind,
        after,
        data: hex::encode(&data),
        wait_s: wait,
    };
    let again = |e: &dyn std::fmt::Display| {
        Failed::new(format!("{e}\nrepeat it with --id {id}: no member executes it twice"))
    };
    let members: Vec<MemberResult> =
        client.post(paths::BLOCK_SEND, &body).await.map_err(|e: ClientError| again(&e))?;
    if common.json {
        print_json(&serde_json::json!({ "id": id.to_string(), "members": members }))?;
    } else {
        let mut text = format!("block {id}\n");
        for m in &members {
            let verdict = if m.ok { "done   " } else { "MISSING" };
            text.push_str(&format!("{:<15} {verdict} {}\n", m.node, m.text.trim_end()));
        }
        print(&text)?;
    }
    let missing = members.iter().filter(|m| !m.ok).count();
    match (members.len(), missing) {
        (0, _) => Err(again(
            &"no member below the node that was asked has anything to do for it: the group has none, \
              or it is about a volume that they do not manage",
        )),
        (_, 0) => Ok(()),
        (all, n) => Err(again(&format!("{n} of {all} members have not executed it"))),
    }
}
