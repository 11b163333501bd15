//! Control blocks: a command for every member of a group, and what each said.

use std::io::Read;
use std::path::{Path, PathBuf};

use clap::Subcommand;
use rcp::proto::limits::MAX_CONTROL_BLOCK;

use super::client::ClientError;
use super::commands::Common;
use super::output::{Failed, print, print_json};
use super::target::{Purpose, Surroundings};
use crate::api::MemberResult;
use crate::hex;
use crate::http::{paths, requests};

#[derive(Debug, Subcommand)]
pub(super) enum BlockCommand {
    /// Run the handler of a kind at every member of a group, at most once each
    Send {
        /// The group
        group: String,
        /// The kind: what the members' `handlers` in the topology name
        kind: String,
        /// Not before a member shows this state; without @SET, the newest
        #[arg(long, value_name = "VOLUME@SET")]
        after: Option<String>,
        /// What the handlers read from their standard input; - is this command's
        #[arg(long, value_name = "FILE")]
        data: Option<PathBuf>,
        /// Id of the block, to repeat one whose results were lost
        #[arg(long, value_name = "UUID")]
        id: Option<uuid::Uuid>,
        /// Seconds to wait for all members
        #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(..=3600))]
        wait: u64,
        #[command(flatten)]
        common: Common,
    },
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

pub(super) async fn run(command: BlockCommand, around: &Surroundings) -> Result<(), Failed> {
    let BlockCommand::Send { group, kind, after, data, id, wait, common } = command;
    let data = read(data.as_deref())?;
    let client = common.target.one(Purpose::Any, around)?.client();
    let id = id.unwrap_or_else(uuid::Uuid::new_v4);
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
        (0, _) => Err(again(&"the group has no member below the node that was asked")),
        (_, 0) => Ok(()),
        (all, n) => Err(again(&format!("{n} of {all} members have not executed it"))),
    }
}
