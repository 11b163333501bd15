//! `rcproute`: the routing table of a node, in the words of the source systems.

use std::process::ExitCode;

use clap::Parser;
use config::route_command::{RouteAction, RouteCommand, USAGE};

use super::client::Client;
use super::output::{Failed, asks_for_json, finish, not_understood, print, print_json};
use super::status::tame;
use super::target::{Purpose, Surroundings, Target};
use crate::api::{RouteTable, RouteWay};
use crate::http::{paths, requests};

/// Show and change to whom a node forwards
#[derive(Debug, Parser)]
#[command(name = "rcproute", version, max_term_width = 100, override_usage = FORMS)]
struct Cli {
    /// [NODE:] add group=GROUP nexthop=NODE [transport=tcp|tls|quic] [congestion=…] [via=URL [ca=FILE]] [limit=LIMIT] [connections=N] | display [group=GROUP] | delete [group=GROUP] [nexthop=NODE]
    #[arg(value_name = "COMMAND", required = true)]
    words: Vec<String>,
    /// Print the table as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    target: Target,
}

const FORMS: &str = "\
rcproute [OPTIONS] [NODE:] add group=GROUP nexthop=NODE [transport=tcp|tls|quic] [congestion=cubic|bbr|reno] [via=URL [ca=FILE]] [limit=20Mbit/s] [connections=1 to 16]
       rcproute [OPTIONS] [NODE:] display [group=GROUP]
       rcproute [OPTIONS] [NODE:] delete [group=GROUP] [nexthop=NODE]";

async fn run(cli: Cli) -> Result<(), Failed> {
    let around = Surroundings::read();
    let command = RouteCommand::parse(&cli.words)
        .map_err(|e| Failed::usage(format!("{}\n{USAGE}", e.message)))?;
    let client = find(&cli.target, &command, &around).await?;
    let table: RouteTable = match &command.action {
        RouteAction::Add { group, next_hop, by } => {
            let body = requests::RouteAdd {
                group: group.to_string(),
                next_hop: next_hop.to_string(),
                by: RouteWay::from(by),
                unasked: false,
            };
            client.post(paths::ROUTE_ADD, &body).await?
        }
        RouteAction::Display { group } => {
            // Names of groups need no escaping in a URL.
            let query = group.as_ref().map_or(String::new(), |g| format!("?group={g}"));
            client.get(&format!("{}{query}", paths::ROUTES)).await?
        }
        RouteAction::Delete { group, next_hop } => {
            let body = requests::RouteDelete {
                group: group.as_ref().map(ToString::to_string),
                next_hop: next_hop.as_ref().map(ToString::to_string),
            };
            client.post(paths::ROUTE_DELETE, &body).await?
        }
    };
    if cli.json { print_json(&table) } else { print(&shown(&table)) }
}

/// The node that the command is for: the one before the colon, or else the one of the options.
async fn find(
    target: &Target,
    command: &RouteCommand,
    around: &Surroundings,
) -> Result<Client, Failed> {
    let Some(wanted) = &command.node else {
        return Ok(target.one(Purpose::Any, around)?.client());
    };
    let endpoint = target.one(Purpose::Node(wanted.as_str()), around)?;
    let client = endpoint.client();
    let there = client.status().await?.node;
    if there != wanted.as_str() {
        return Err(Failed::new(format!(
            "the node at {} is {there}, not {wanted}: name {wanted}'s data folder with --dir, or the \
             topology with --topology",
            client.way()
        )));
    }
    Ok(client)
}

/// `g1: cel1-ser2 → cel2-ser2, cel9-ser1`, a line per node.
fn shown(table: &RouteTable) -> String {
    let mut out = String::new();
    for e in table.entries.iter().filter(|e| !e.next_hops.is_empty()) {
        let hops: Vec<_> = e
            .next_hops
            .iter()
            .map(|h| match e.ways.get(h) {
                Some(way) => format!("{h} ({way})"),
                None => h.clone(),
            })
            .collect();
        out.push_str(&format!("{}: {} → {}\n", e.group, e.node, hops.join(", ")));
    }
    if out.is_empty() {
        out.push_str("no routes\n");
    }
    out.push_str(&format!("revision {}\n", table.revision));
    tame(&out)
}

/// The whole program.
#[must_use]
pub fn main() -> ExitCode {
    let json = asks_for_json(std::env::args_os());
    // Wrong usage ends here, with 2; --help and --version with 0.
    match Cli::try_parse() {
        Ok(cli) => finish("rcproute", json, run(cli)),
        Err(e) => not_understood(&e, json),
    }
}

#[cfg(test)]
pub(super) async fn run_words(words: &[&str]) -> Result<(), Failed> {
    let cli = Cli::try_parse_from(std::iter::once(&"rcproute").chain(words))
        .map_err(|e| Failed::usage(e.to_string()))?;
    run(cli).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::RouteEntry;

    #[test]
    fn tables_are_shown_by_line() {
        let entry = |node: &str, hops: &[&str]| RouteEntry {
            group: "g1".into(),
            node: node.into(),
            next_hops: hops.iter().map(|h| (*h).to_owned()).collect(),
            ways: hops
                .iter()
                .filter(|h| **h == "cel2-ser4")
                .map(|h| ((*h).to_owned(), "transport=quic".to_owned()))
                .collect(),
        };
        let entries = vec![
            entry("cel1-ser2", &["cel2-ser2"]),
            entry("cel2-ser2", &["cel2-ser3", "cel2-ser4"]),
            entry("cel2-ser3", &[]),
        ];
        assert_eq!(
            shown(&RouteTable { revision: 4, entries }),
            "g1: cel1-ser2 → cel2-ser2\ng1: cel2-ser2 → cel2-ser3, cel2-ser4 (transport=quic)\nrevision 4\n"
        );
        assert_eq!(shown(&RouteTable::default()), "no routes\nrevision 0\n");
    }
}
