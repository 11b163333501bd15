//! Groups and volume multicasts (VMC-01 to VMC-05, CMD-03): who is in a group, and which volume of
//! its primary goes to which volume of each member. `membership` makes groups and members.
//!
//! A volume multicast is a source volume at the primary and a destination volume at every member,
//! whose label may differ and is fixed before the volume is made. Opening and closing it for
//! sending is starting and stopping its replication.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use clap::{Args, Subcommand};
use config::AddedGroup;
use config::units::approx_size;
use serde::Serialize;

use super::block;
use super::columns::columns;
use super::commands::{Common, size};
use super::membership::primary_of;
use super::output::{Failed, print, print_json, tell};
use super::status::{self, Asked, tame};
use super::target::{Purpose, Surroundings, Target};
use super::volumes::absolute;
use crate::api::{LinkStatus, NodeStatus, VolumeInfo, VolumeSpec};
use crate::http::{paths, requests};

#[derive(Debug, Subcommand)]
pub(super) enum VolmcastCommand {
    /// Make a source volume, and say what its copies are called
    ///
    /// Every member that is named has to answer before anything is made. A volume that is there
    /// already gets labels for the copies that are not made yet.
    Create(CreateArgs),
    /// Source volumes, and what is at each member
    List {
        /// Only this source volume
        volume: Option<String>,
        /// Print them as JSON
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        target: Target,
    },
    /// Open for sending: make and send delta sets
    Open {
        /// The source volume
        volume: String,
        #[command(flatten)]
        common: Common,
    },
    /// Close: changes are only marked
    Close {
        /// The source volume
        volume: String,
        #[command(flatten)]
        common: Common,
    },
}

#[derive(Args, Debug)]
pub(super) struct CreateArgs {
    /// Label of the source volume, and of every copy that is not called otherwise
    source: String,
    /// Its group
    #[arg(long, value_name = "GROUP")]
    group: String,
    /// What a member calls its copy; may be said for several members
    #[arg(long, value_name = "NODE=LABEL")]
    dest: Vec<String>,
    /// Size of the source volume, if it is not there yet
    #[arg(long, value_name = "SIZE", value_parser = size)]
    size: Option<u64>,
    /// Its block size [default: 4KiB]
    #[arg(long, value_name = "SIZE", value_parser = size)]
    block_size: Option<u64>,
    /// Capacity of its save volume
    #[arg(long, value_name = "SIZE", value_parser = size)]
    save: Option<u64>,
    /// Backing file or block device at the primary [default: a sparse file in the data folder]
    #[arg(long, value_name = "FILE")]
    backing: Option<PathBuf>,
    /// Seconds to wait for the members that are named
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(..=3600))]
    wait: u64,
    #[command(flatten)]
    common: Common,
}

/// A group as far as it is known.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(super) struct GroupView {
    pub(super) group: String,
    /// `file` or `command`.
    made_by: String,
    pub(super) primary: Option<String>,
    pub(super) members: Vec<Member>,
    volumes: Vec<String>,
    missing: Vec<Missing>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Member {
    pub(super) node: String,
    /// Who made it a member: `file` or `command`.
    from: String,
    /// `primary`, `forwarder`, `leaf`, `relay`; none if it was not asked.
    role: Option<String>,
    pub(super) fed_by: Option<String>,
    /// Of the session with its parent; none at the primary, and where nobody told.
    state: Option<String>,
    pub(super) next_hops: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
struct Missing {
    node: String,
    why: String,
}

/// A source volume and its copies.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct VolmcastView {
    source: String,
    id: String,
    group: String,
    /// The node that sends it, if that was asked.
    primary: Option<String>,
    /// Delta sets are made and sent.
    open: Option<bool>,
    size: u64,
    destinations: Vec<Destination>,
    /// Members without a copy, or that did not answer.
    missing: Vec<Missing>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
struct Destination {
    node: String,
    label: String,
    role: String,
    state: String,
    set: u64,
    lag_seconds: Option<f64>,
    reason: Option<String>,
}

/// The groups of all nodes that answered.
pub(super) fn groups(asked: &[Asked]) -> Vec<GroupView> {
    let nodes: Vec<&NodeStatus> = asked.iter().filter_map(|a| a.answer.as_ref().ok()).collect();
    let names: BTreeSet<&str> =
        nodes.iter().flat_map(|n| &n.groups).map(|g| g.group.as_str()).collect();
    names.into_iter().map(|group| one_group(group, &nodes, asked)).collect()
}

/// The newest word of commands on a group, of all that answered.
pub(super) fn definition(group: &str, asked: &[Asked]) -> Option<AddedGroup> {
    let nodes = asked.iter().filter_map(|a| a.answer.as_ref().ok());
    let of = nodes.flat_map(|n| &n.groups).filter(|g| g.group == group);
    // Two commands at once may have made two of one number: the primary's is the one that holds.
    let words = of.filter_map(|g| Some((g.added.as_ref()?, g.role == "primary")));
    words.max_by_key(|(a, primary)| (a.revision, *primary)).map(|(a, _)| a.clone())
}

fn one_group(group: &str, nodes: &[&NodeStatus], asked: &[Asked]) -> GroupView {
    let mut parents: BTreeMap<&str, &str> = BTreeMap::new();
    let mut hops: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    let mut links: BTreeMap<&str, &LinkStatus> = BTreeMap::new();
    let mut roles: BTreeMap<&str, &str> = BTreeMap::new();
    let here = || nodes.iter().flat_map(|n| n.groups.iter().map(move |g| (*n, g)));
    for (n, g) in here().filter(|(_, g)| g.group == group) {
        roles.insert(&n.node, &g.role);
        let routed = |c: &&LinkStatus| c.in_place_of.is_none();
        hops.insert(&n.node, g.children.iter().filter(routed).map(|c| c.node.clone()).collect());
        for c in &g.children {
            if routed(&c) {
                parents.insert(&c.node, &n.node);
            }
            // Who is fed in another's place is not missing.
            if links.get(&*c.node).is_none_or(|known| known.state != "connected") {
                links.insert(&c.node, c);
            }
        }
    }
    // What nobody said of itself.
    for (n, g) in here().filter(|(_, g)| g.group == group) {
        if let Some(p) = &g.parent {
            parents.entry(&n.node).or_insert(&p.node);
            links.entry(&n.node).or_insert(p);
        }
        for (from, to) in g.routes.iter().filter(|(from, _)| !roles.contains_key(from.as_str())) {
            hops.entry(from).or_insert_with(|| to.clone());
            for child in to {
                parents.entry(child).or_insert(from);
            }
        }
    }
    let said = definition(group, asked);
    let mut names: BTreeSet<&str> = parents.iter().flat_map(|(c, p)| [*c, *p]).collect();
    names.extend(roles.keys());
    names.extend(said.iter().flat_map(|s| s.members().chain(s.primary.as_deref())));
    let silent = |name: &str| {
        let error = asked.iter().filter(|a| a.called == name).find_map(|a| a.answer.as_ref().err());
        error.map(ToString::to_string)
    };
    let missing = |name: &&str| {
        let link = links.get(name).filter(|l| l.state != "connected");
        let why = link.map(|l| l.reason.clone().unwrap_or_else(|| l.state.clone()));
        let why = why.or_else(|| silent(name))?;
        Some(Missing { node: (*name).to_owned(), why })
    };
    let root = names.iter().find(|n| !parents.contains_key(**n) && hops.contains_key(**n));
    let primary = roles.iter().find(|(_, r)| **r == "primary").map(|(n, _)| n).or(root).copied();
    let primary = primary.or(said.as_ref().and_then(|s| s.primary.as_deref()));
    let of = nodes.iter().flat_map(|n| &n.volumes).filter(|v| v.group == group);
    let volumes: BTreeSet<_> = of.map(|v| v.in_group().to_owned()).collect();
    let made = said.as_ref().is_some_and(|a| a.primary.is_some());
    let by = |by_command: bool| if by_command { "command" } else { "file" }.to_owned();
    let listed = |name: &str| said.as_ref().is_some_and(|a| a.feeder(name).is_some());
    let member = |name: &&str| Member {
        node: (*name).to_owned(),
        from: by(made || listed(name)),
        role: roles.get(name).map(|r| (*r).to_owned()),
        fed_by: parents.get(name).map(|p| (*p).to_owned()),
        state: links.get(name).map(|l| l.state.clone()),
        next_hops: hops.get(name).cloned().unwrap_or_default(),
    };
    GroupView {
        group: group.to_owned(),
        made_by: by(made),
        primary: primary.map(str::to_owned),
        members: names.iter().map(member).collect(),
        volumes: volumes.into_iter().collect(),
        missing: names.iter().filter_map(missing).collect(),
    }
}

/// The source volumes of all nodes that answered, and their copies.
pub(super) fn volmcasts(asked: &[Asked]) -> Vec<VolmcastView> {
    let groups = groups(asked);
    let mut out: BTreeMap<(String, String), VolmcastView> = BTreeMap::new();
    let nodes = asked.iter().filter_map(|a| a.answer.as_ref().ok());
    let mut held: Vec<(&NodeStatus, &VolumeInfo)> =
        nodes.flat_map(|n| n.volumes.iter().map(move |v| (n, v))).collect();
    // The source says what it is called.
    held.sort_by_key(|(n, v)| (v.role != "primary", &n.node));
    for (n, v) in held {
        let key = (v.group.clone(), v.id.clone());
        let view = out.entry(key).or_insert_with(|| VolmcastView {
            source: v.in_group().to_owned(),
            id: v.id.clone(),
            group: v.group.clone(),
            primary: None,
            open: None,
            size: v.size,
            destinations: Vec::new(),
            missing: Vec::new(),
        });
        if v.role == "primary" && view.primary.is_none() {
            view.primary = Some(n.node.clone());
            view.open = Some(v.replicating);
            continue;
        }
        view.destinations.push(Destination {
            node: n.node.clone(),
            label: v.label.clone(),
            role: v.role.clone(),
            state: v.state.clone(),
            set: v.current_set,
            lag_seconds: v.lag_seconds,
            reason: v.reason.clone(),
        });
    }
    for view in out.values_mut() {
        let Some(g) = groups.iter().find(|g| g.group == view.group) else { continue };
        let has: BTreeSet<&String> =
            view.destinations.iter().map(|d| &d.node).chain(&view.primary).collect();
        for m in g.members.iter().filter(|m| !has.contains(&m.node)) {
            let known = g.missing.iter().find(|x| x.node == m.node).map(|x| x.why.clone());
            let asked = if m.role.is_some() { "has no copy yet" } else { "was not asked" };
            let why = known.unwrap_or_else(|| asked.to_owned());
            view.missing.push(Missing { node: m.node.clone(), why });
        }
    }
    let mut all: Vec<_> = out.into_values().collect();
    all.sort_by(|a, b| (&a.source, &a.group).cmp(&(&b.source, &b.group)));
    all
}

fn absent(missing: &[Missing]) -> String {
    missing.iter().map(|m| format!("missing: {}: {}\n", m.node, m.why)).collect()
}

pub(super) fn draw_group(g: &GroupView) -> String {
    let dash = |t: Option<&String>| t.map_or("-", String::as_str).to_owned();
    let list = |l: &[String]| if l.is_empty() { "none".to_owned() } else { l.join(", ") };
    let row = |m: &Member| {
        let role = m.role.clone().unwrap_or_else(|| "not asked".to_owned());
        let hops = if m.next_hops.is_empty() { "-".to_owned() } else { m.next_hops.join(" ") };
        vec![
            m.node.clone(),
            m.from.clone(),
            role,
            dash(m.fed_by.as_ref()),
            dash(m.state.as_ref()),
            hops,
        ]
    };
    let rows: Vec<_> = g.members.iter().map(row).collect();
    format!(
        "GROUP {}{}, primary {}, volumes: {}\n{}{}",
        g.group,
        if g.made_by == "command" { " (made by a command)" } else { "" },
        g.primary.as_deref().unwrap_or("unknown"),
        list(&g.volumes),
        columns(&["MEMBER", "FROM", "ROLE", "FED BY", "SESSION", "NEXT HOPS"], &rows),
        absent(&g.missing)
    )
}

fn draw_volmcast(v: &VolmcastView) -> String {
    let state = match v.open {
        Some(true) => "open",
        Some(false) => "closed",
        None => "its source was not asked",
    };
    let rows: Vec<_> = v
        .destinations
        .iter()
        .map(|d| {
            let state = match &d.reason {
                Some(why) => format!("{}: {why}", d.state),
                None => d.state.clone(),
            };
            vec![d.node.clone(), d.label.clone(), d.role.clone(), d.set.to_string(), state]
        })
        .collect();
    format!(
        "VOLMCAST {} of {} at {}, {}, {state}\n{}{}",
        v.source,
        v.group,
        v.primary.as_deref().unwrap_or("unknown"),
        approx_size(v.size),
        columns(&["DESTINATION", "VOLUME", "ROLE", ">SET", "STATE"], &rows),
        absent(&v.missing)
    )
}

/// Those that did not answer make the list incomplete.
pub(super) fn answered(asked: &[Asked]) -> Result<(), Failed> {
    let silent = asked.iter().filter_map(|a| Some((a, a.answer.as_ref().err()?)));
    let silent: Vec<_> = silent.map(|(a, e)| format!("{}: {e}", a.called)).collect();
    if silent.is_empty() { Ok(()) } else { Err(Failed::new(silent.join("\n"))) }
}

pub(super) async fn volmcast(
    command: VolmcastCommand,
    around: &Surroundings,
) -> Result<(), Failed> {
    match command {
        VolmcastCommand::Create(args) => create(args, around).await,
        VolmcastCommand::List { volume, json, target } => {
            let (here, _) = status::present(&target, around)?;
            let asked = status::ask(&here).await;
            let mut all = volmcasts(&asked);
            all.retain(|v| volume.as_ref().is_none_or(|x| v.source == *x || v.id == *x));
            if json {
                print_json(&all)?;
            } else {
                let text: Vec<_> = all.iter().map(draw_volmcast).collect();
                print(&tame(&text.join("\n")))?;
            }
            answered(&asked)?;
            match volume {
                Some(x) if all.is_empty() => {
                    Err(Failed::new(format!("no node has a volume that its group calls `{x}`")))
                }
                _ => Ok(()),
            }
        }
        VolmcastCommand::Open { volume, common } => switch(volume, true, &common, around).await,
        VolmcastCommand::Close { volume, common } => switch(volume, false, &common, around).await,
    }
}

async fn switch(
    volume: String,
    on: bool,
    common: &Common,
    around: &Surroundings,
) -> Result<(), Failed> {
    let client = common.target.one(Purpose::Volume(&volume), around)?.client();
    let sentence = if on {
        format!("{volume}: open for sending")
    } else {
        format!("{volume}: closed; changes are marked until `rcpctl volmcast open {volume}`")
    };
    let body = requests::Replicate { volume, on };
    let done: requests::Done = client.post(paths::REPLICATE, &body).await?;
    tell(common.json, &done, &sentence)
}

/// What was made.
#[derive(Serialize)]
struct Created {
    source: VolumeInfo,
    destinations: BTreeMap<String, String>,
}

async fn create(args: CreateArgs, around: &Surroundings) -> Result<(), Failed> {
    let endpoint = primary_of(&args.group, &args.common.target, around).await?;
    let client = endpoint.client();
    let node = client.status().await?;
    match node.groups.iter().find(|g| g.group == args.group) {
        Some(g) if g.role == "primary" => {}
        Some(_) | None => {
            return Err(Failed::new(format!(
                "{} is not the primary of a group {}: source volumes are made there",
                node.node, args.group
            )));
        }
    }
    let of = |v: &&VolumeInfo| v.group == args.group && v.is_called(&args.source);
    let there = node.volumes.iter().find(of);
    let size = match (there, args.size) {
        (Some(v), Some(size)) if v.size != size => {
            let is = approx_size(v.size);
            let text = format!("{} is there, and has {is}: leave --size away", args.source);
            return Err(Failed::new(text));
        }
        (None, None) => {
            let text = format!("{} is not there yet: how large is it to be? (--size)", args.source);
            return Err(Failed::usage(text));
        }
        (_, size) => size,
    };
    let backing = args.backing.as_deref().map(absolute).transpose()?;
    let members = if args.dest.is_empty() {
        Vec::new()
    } else {
        let data = format!("{} {}", args.source, args.dest.join(" "));
        let kind = "volume-destination".to_owned();
        block::ask(&client, &args.group, kind, None, data.as_bytes(), args.wait).await?
    };
    let bad: Vec<_> = members.iter().filter(|m| !m.ok).collect();
    if !bad.is_empty() || (members.is_empty() && !args.dest.is_empty()) {
        let lines: Vec<_> = bad.iter().map(|m| format!("{}: {}", m.node, m.text)).collect();
        return Err(Failed::new(format!(
            "no volume was made, for not every member of {} can take it:\n{}",
            args.group,
            tame(&lines.join("\n"))
        )));
    }
    let source = match (there, size) {
        (Some(v), _) => v.clone(),
        (None, size) => {
            let spec = VolumeSpec {
                label: args.source.clone(),
                group: args.group.clone(),
                size: size.unwrap_or_default(),
                block_size: args.block_size,
                backing,
                save: args.save,
                import: false,
            };
            client.post(paths::VOLUME_CREATE, &spec).await?
        }
    };
    let pairs = args.dest.iter().filter_map(|d| d.split_once('='));
    let destinations = pairs.map(|(n, l)| (n.to_owned(), l.to_owned())).collect();
    let made = if there.is_some() { "was there" } else { "is made" };
    let mut text =
        format!("{}: {made} at {}, {}", args.source, node.node, approx_size(source.size));
    for d in &args.dest {
        text.push_str(&format!("\n{}", d.replacen('=', ": ", 1)));
    }
    tell(args.common.json, &Created { source, destinations }, &text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::GroupStatus;
    use crate::cli::client::ClientError;

    fn link(node: &str, state: &str, reason: Option<&str>) -> LinkStatus {
        LinkStatus {
            node: node.to_owned(),
            state: state.to_owned(),
            reason: reason.map(str::to_owned),
            ..LinkStatus::default()
        }
    }

    fn volume(label: &str, source: &str, role: &str) -> VolumeInfo {
        VolumeInfo {
            label: label.to_owned(),
            source: source.to_owned(),
            id: "6f1c".to_owned(),
            group: "g1".to_owned(),
            role: role.to_owned(),
            state: if role == "primary" { "writable" } else { "readable" }.to_owned(),
            replicating: true,
            current_set: 7,
            size: 1 << 20,
            ..VolumeInfo::default()
        }
    }

    fn asked(node: &str, group: GroupStatus, volumes: Vec<VolumeInfo>) -> Asked {
        let groups = vec![GroupStatus { group: "g1".to_owned(), ..group }];
        let status = NodeStatus { node: node.to_owned(), groups, volumes, ..NodeStatus::default() };
        Asked { called: node.to_owned(), answer: Ok(status) }
    }

    fn tree() -> Vec<Asked> {
        let primary = GroupStatus {
            role: "primary".to_owned(),
            children: vec![
                link("f1", "connected", None),
                link("l3", "waiting", Some("connection refused")),
            ],
            routes: [("f1".to_owned(), vec!["l1".to_owned(), "l2".to_owned()])].into(),
            ..GroupStatus::default()
        };
        let leaf = GroupStatus {
            role: "leaf".to_owned(),
            parent: Some(link("f1", "connected", None)),
            ..GroupStatus::default()
        };
        let silent = ClientError::NotRunning("nobody listens".to_owned());
        vec![
            asked("p", primary, vec![volume("vol1", "", "primary")]),
            asked("l1", leaf.clone(), vec![volume("vol9", "vol1", "replica")]),
            asked("l2", leaf, Vec::new()),
            Asked { called: "f1".to_owned(), answer: Err(silent) },
        ]
    }

    #[test]
    fn a_group_lists_its_members_its_volumes_and_who_is_missing() {
        let all = groups(&tree());
        let [g] = all.as_slice() else { panic!("{all:?}") };
        assert_eq!((g.group.as_str(), g.primary.as_deref()), ("g1", Some("p")));
        let names: Vec<_> = g.members.iter().map(|m| m.node.as_str()).collect();
        assert_eq!(names, ["f1", "l1", "l2", "l3", "p"]);
        assert_eq!(g.volumes, ["vol1"]);
        let f1 = &g.members[0];
        assert_eq!((f1.role.as_deref(), f1.fed_by.as_deref()), (None, Some("p")));
        assert_eq!(f1.next_hops, ["l1", "l2"]);
        let missing: Vec<_> = g.missing.iter().map(|m| (m.node.as_str(), m.why.as_str())).collect();
        assert_eq!(missing, [("f1", "nobody listens"), ("l3", "connection refused")]);
        let from: Vec<_> = g.members.iter().map(|m| m.from.as_str()).collect();
        assert_eq!((g.made_by.as_str(), from), ("file", vec!["file"; 5]));
        let text = draw_group(g);
        assert!(text.starts_with("GROUP g1, primary p, volumes: vol1\n"), "{text}");
        assert!(text.ends_with("missing: l3: connection refused\n"), "{text}");
    }

    #[test]
    fn a_volmcast_lists_the_label_at_each_member() {
        let all = volmcasts(&tree());
        let [v] = all.as_slice() else { panic!("{all:?}") };
        assert_eq!((v.source.as_str(), v.primary.as_deref()), ("vol1", Some("p")));
        assert_eq!(v.open, Some(true));
        let [d] = v.destinations.as_slice() else { panic!("{v:?}") };
        assert_eq!((d.node.as_str(), d.label.as_str(), d.set), ("l1", "vol9", 7));
        let missing: Vec<_> = v.missing.iter().map(|m| (m.node.as_str(), m.why.as_str())).collect();
        let silent = ("f1", "nobody listens");
        assert_eq!(missing, [silent, ("l2", "has no copy yet"), ("l3", "connection refused")]);
        let text = draw_volmcast(v);
        assert!(text.starts_with("VOLMCAST vol1 of g1 at p, 1 MiB, open\n"), "{text}");
    }
}
