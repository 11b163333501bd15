//! `rcpctl pki`: the private certificate authority of a topology. No node is asked.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Subcommand};
use config::{HostPort, Topology};
use rcp::proto::ids::NodeName;
use serde::Serialize;

use super::columns::columns;
use super::output::{Failed, print, print_json, tell};
use super::target::load;
use super::text::span;
use crate::clock::unix_seconds;
use crate::pki::{Authority, CA_KEY, Issued, PkiError, REVOKED, Standing, Validity};

const DAY: u64 = 86_400;

#[derive(Args, Debug)]
pub(super) struct Place {
    /// Folder with the certificates; nodes look for tokens there too
    #[arg(long, value_name = "DIR", default_value = "pki")]
    pub(super) dir: PathBuf,
    /// Print the answer as JSON
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Subcommand)]
pub(super) enum PkiCommand {
    /// Make a certificate authority, once
    Init {
        /// What people see who look at its certificate
        #[arg(long, default_value = "rcp nodes")]
        name: String,
        /// How long it is valid
        #[arg(long, default_value_t = 3650, value_parser = clap::value_parser!(u64).range(1..=36500))]
        days: u64,
        #[command(flatten)]
        place: Place,
    },
    /// Issue certificates to nodes, or to clients
    Issue {
        /// The nodes; with --topology and none named, all that have none yet
        #[arg(value_name = "NODE", required_unless_present_any = ["topology", "clients"])]
        nodes: Vec<String>,
        /// Who is no node and opens NBD exports: a virtual machine's host, a backup program
        #[arg(long = "client", value_name = "NAME", conflicts_with_all = ["nodes", "hosts"])]
        clients: Vec<String>,
        /// Take nodes, and the host names and addresses they listen on, from this topology
        #[arg(long, value_name = "FILE")]
        topology: Option<PathBuf>,
        /// A further host name or IP address, for HTTP clients; only for a single node
        #[arg(long = "host", value_name = "HOST")]
        hosts: Vec<String>,
        /// How long they are valid
        #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=3650))]
        days: u64,
        #[command(flatten)]
        place: Place,
    },
    /// Give nodes or clients new keys and certificates; running nodes take them up by themselves
    Renew {
        /// Whose; none: everybody's whose certificate ends within --within days
        #[arg(value_name = "NODE")]
        nodes: Vec<String>,
        /// How close to its end a certificate is renewed, in days
        #[arg(long, default_value_t = 10, conflicts_with = "nodes")]
        within: u64,
        /// How long the new ones are valid
        #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=3650))]
        days: u64,
        #[command(flatten)]
        place: Place,
    },
    /// Trust the certificates of a node or client no more
    Revoke {
        /// Whose
        node: String,
        #[command(flatten)]
        place: Place,
    },
    /// List what was issued, and until when it is valid
    Show {
        #[command(flatten)]
        place: Place,
    },
}

impl From<PkiError> for Failed {
    fn from(e: PkiError) -> Self {
        Self::new(e.to_string())
    }
}

fn for_days(days: u64) -> Validity {
    Validity { now: unix_seconds(), length: Duration::from_secs(days.saturating_mul(DAY)) }
}

fn parse(name: &str) -> Result<NodeName, Failed> {
    NodeName::new(name).map_err(|e| Failed::usage(e.to_string()))
}

pub(super) fn run(command: PkiCommand) -> Result<(), Failed> {
    match command {
        PkiCommand::Init { name, days, place } => init(&name, days, &place),
        PkiCommand::Issue { nodes, clients, topology, hosts, days, place } => {
            let topology = topology.map(|t| load(&t)).transpose()?;
            if !clients.is_empty() {
                return issue_clients(&clients, topology.as_ref(), days, &place);
            }
            issue(&nodes, topology.as_ref(), &hosts, days, &place)
        }
        PkiCommand::Renew { nodes, within, days, place } => renew(&nodes, within, days, &place),
        PkiCommand::Revoke { node, place } => revoke(&node, &place),
        PkiCommand::Show { place } => show(&place),
    }
}

fn init(name: &str, days: u64, place: &Place) -> Result<(), Failed> {
    let authority = Authority::init(&place.dir, name, for_days(days))?;
    let dir = place.dir.display();
    let text = format!(
        "{dir}: a certificate authority, valid until {}\n\
         {dir}/{CA_KEY} can make certificates that every node trusts: keep it off the nodes, and \
         a copy of it somewhere safe\n\
         next: rcpctl pki issue --dir {dir} --topology FILE, and `pki: {dir}` in that file",
        day(authority.until())
    );
    let answer = serde_json::json!({ "dir": place.dir, "until": authority.until() });
    tell(place.json, &answer, &text)
}

/// Host names and addresses under which clients may reach a node.
fn hosts_of(topology: &Topology, node: &NodeName) -> Vec<String> {
    let Some(plan) = topology.node(node) else { return Vec::new() };
    let mut hosts: Vec<String> = [&plan.listen, &plan.address]
        .into_iter()
        .filter(|a| !a.host().is_wildcard())
        .map(HostPort::host_text)
        .filter(|h| h != node.as_str())
        .collect();
    hosts.sort();
    hosts.dedup();
    hosts
}

fn issue(
    names: &[String],
    topology: Option<&Topology>,
    hosts: &[String],
    days: u64,
    place: &Place,
) -> Result<(), Failed> {
    let mut authority = Authority::open(&place.dir)?;
    let valid = for_days(days);
    let known: BTreeSet<NodeName> =
        topology.map(|t| t.nodes().map(|n| n.name.clone()).collect()).unwrap_or_default();
    let mut nodes = names.iter().map(|n| parse(n)).collect::<Result<Vec<_>, _>>()?;
    if let Some(unknown) = nodes.iter().find(|n| topology.is_some() && !known.contains(n)) {
        let all: Vec<&str> = known.iter().map(NodeName::as_str).collect();
        return Err(Failed::new(format!(
            "{unknown} is not in the topology; its nodes are: {}",
            all.join(", ")
        )));
    }
    if nodes.len() > 1 && !hosts.is_empty() {
        return Err(Failed::usage("--host is for one node: issue the others without it"));
    }
    if nodes.is_empty() {
        let good = |n: &NodeName| {
            authority.issued().iter().any(|i| {
                i.node == n.as_str() && matches!(i.standing(valid.now), Standing::Valid(_))
            })
        };
        nodes = known.iter().filter(|n| !good(n)).cloned().collect();
    }
    let mut made = Vec::new();
    for node in &nodes {
        let mut also = topology.map(|t| hosts_of(t, node)).unwrap_or_default();
        also.extend(hosts.iter().filter(|h| !also.contains(h)).cloned().collect::<Vec<_>>());
        made.push(authority.issue(node, &also, &known, valid)?);
    }
    if made.is_empty() {
        return tell(place.json, &made, "every node of the topology has a certificate");
    }
    report(&made, "issued", place)
}

fn issue_clients(
    names: &[String],
    topology: Option<&Topology>,
    days: u64,
    place: &Place,
) -> Result<(), Failed> {
    let mut authority = Authority::open(&place.dir)?;
    let valid = for_days(days);
    let nodes = topology.map(|t| t.nodes().map(|n| n.name.clone()).collect()).unwrap_or_default();
    let users = names.iter().map(|n| parse(n)).collect::<Result<Vec<_>, _>>()?;
    let made = users
        .iter()
        .map(|u| authority.issue_user(u, &nodes, valid))
        .collect::<Result<Vec<_>, _>>()?;
    report(&made, "issued", place)
}

fn renew(names: &[String], within: u64, days: u64, place: &Place) -> Result<(), Failed> {
    let mut authority = Authority::open(&place.dir)?;
    let valid = for_days(days);
    let mut nodes = names.iter().map(|n| parse(n)).collect::<Result<Vec<_>, _>>()?;
    if nodes.is_empty() {
        let soon = i64::try_from(within.saturating_mul(DAY)).unwrap_or(i64::MAX);
        for i in authority.issued().iter().filter(|i| !i.replaced && i.revoked.is_none()) {
            if i.until.saturating_sub(valid.now) <= soon {
                nodes.push(parse(&i.node)?);
            }
        }
        if nodes.is_empty() {
            let text = format!("no certificate ends within {within} days");
            return tell(place.json, &Vec::<Issued>::new(), &text);
        }
    }
    let made = nodes.iter().map(|n| authority.renew(n, valid)).collect::<Result<Vec<_>, _>>()?;
    report(&made, "renewed", place)
}

/// One line for each certificate.
fn report(made: &[Issued], what: &str, place: &Place) -> Result<(), Failed> {
    let dir = place.dir.display();
    let lines: Vec<String> = made
        .iter()
        .map(|i| {
            let also = match i.also.as_slice() {
                [] => String::new(),
                hosts => format!(" (also {})", hosts.join(", ")),
            };
            let until = day(i.until);
            let name = &i.node;
            if i.user {
                format!(
                    "{name}: a client, {what}, valid until {until}: {dir}/{name}/ (QEMU: --object \
                     tls-creds-x509,dir=…; libnbd: ?tls-certificates=…)"
                )
            } else {
                format!("{name}{also}: {what}, valid until {until}: {dir}/{name}.pem, .key")
            }
        })
        .collect();
    tell(place.json, &made, &lines.join("\n"))
}

fn revoke(name: &str, place: &Place) -> Result<(), Failed> {
    let node = parse(name)?;
    let count = Authority::open(&place.dir)?.revoke(&node, unix_seconds())?;
    let list = place.dir.join(REVOKED);
    let text = format!(
        "{node}: {count} certificate{} taken back; a node refuses {node} once it has {}",
        if count == 1 { "" } else { "s" },
        list.display()
    );
    tell(place.json, &serde_json::json!({ "node": name, "revoked": count, "list": list }), &text)
}

/// One row of `show`.
#[derive(Serialize)]
struct Row<'a> {
    #[serde(flatten)]
    issued: &'a Issued,
    state: String,
}

fn show(place: &Place) -> Result<(), Failed> {
    let authority = Authority::open(&place.dir)?;
    let now = unix_seconds();
    let rows: Vec<Row<'_>> = authority
        .issued()
        .iter()
        .map(|issued| Row { issued, state: standing(issued, now) })
        .collect();
    if place.json {
        return print_json(&serde_json::json!({
            "dir": place.dir, "until": authority.until(), "certificates": rows,
        }));
    }
    let mut text = shown(&rows);
    if text.is_empty() {
        text = format!(
            "nothing was issued yet: `rcpctl pki issue --dir {} NODE`\n",
            place.dir.display()
        );
    }
    print(&format!("{}: valid until {}\n{text}", place.dir.display(), day(authority.until())))?;
    for line in exposed(&place.dir) {
        print(&format!("warning: {line}\n"))?;
    }
    Ok(())
}

fn shown(rows: &[Row<'_>]) -> String {
    if rows.is_empty() {
        return String::new();
    }
    let rows: Vec<Vec<String>> = rows
        .iter()
        .map(|r| {
            let also = if r.issued.user { "client".to_owned() } else { r.issued.also.join(", ") };
            vec![r.issued.node.clone(), day(r.issued.until), r.state.clone(), also]
        })
        .collect();
    columns(&["NODE", "UNTIL", "STATE", "ALSO"], &rows)
}

fn standing(issued: &Issued, now: i64) -> String {
    // Whole seconds of a certificate's life fit a float.
    #[allow(clippy::cast_precision_loss)]
    let text = |s: i64| span(s as f64);
    match issued.standing(now) {
        Standing::Revoked => "revoked".to_owned(),
        Standing::Valid(left) if issued.replaced => format!("replaced, ends in {}", text(left)),
        Standing::Valid(left) => format!("valid, ends in {}", text(left)),
        Standing::Expired(since) => format!("expired {} ago", text(since)),
    }
}

/// Keys that others than their owner may read.
fn exposed(dir: &Path) -> Vec<String> {
    use std::os::unix::fs::PermissionsExt;
    let Ok(entries) = std::fs::read_dir(dir) else { return Vec::new() };
    let mut found: Vec<String> = entries
        .filter_map(Result::ok)
        .filter(|e| e.path().extension().is_some_and(|x| x == "key"))
        .filter(|e| e.metadata().is_ok_and(|m| m.permissions().mode() & 0o077 != 0))
        .map(|e| {
            let path = e.path();
            let path = path.display();
            format!("{path} can be read by others: chmod 600 {path}, and renew it")
        })
        .collect();
    found.sort();
    found
}

/// A day, UTC.
fn day(seconds: i64) -> String {
    jiff::Timestamp::from_second(seconds)
        .map_or_else(|_| "?".to_owned(), |t| t.strftime("%Y-%m-%d %H:%M UTC").to_string())
}
