//! Groups made, and members taken in, by commands (CMD-01, CMD-02).
//!
//! Each member keeps the whole definition of its group; a change is told to the new member first, then
//! to the others, and only then is the route added. All of it may be said again: whoever missed a
//! change gets it then, and what is there already stays.

use std::collections::{BTreeMap, BTreeSet};

use clap::{Args, Subcommand};
use config::AddedGroup;
use config::units::{format_duration, format_size, parse_duration};
use serde::Serialize;

use super::commands::{Common, size};
use super::failover::{MoveArgs, move_group};
use super::groups::{GroupView, answered, definition, draw_group, groups};
use super::output::{Failed, print, print_json, tell};
use super::status::{self, Asked, tame};
use super::target::{Endpoint, Purpose, Surroundings, Target};
use crate::api::{GroupStatus, NodeStatus, RouteTable, RouteWay};
use crate::http::{paths, requests};

#[derive(Debug, Subcommand)]
pub(super) enum GroupCommand {
    /// Make a group that the topology file does not have, with a primary and no members yet
    ///
    /// The primary keeps it in its data folder, and so does each member that is added.
    Create(CreateArgs),
    /// Take a node into a group, and feed it: told to all members, stored, live
    ///
    /// The node has to be in the topology file of every member, and run. May be said again, for
    /// members that did not answer.
    Add {
        /// The group
        group: String,
        /// The node
        #[arg(value_name = "NODE")]
        member: String,
        /// Who feeds it [default: the primary]
        #[arg(long, value_name = "NODE")]
        below: Option<String>,
        #[command(flatten)]
        common: Common,
    },
    /// Feed a member no longer, and if a command made it one, it is none any more
    ///
    /// What is below it goes with it. Replicas stay as they are, and their node in the group, until
    /// they are deleted and this is said again.
    Remove {
        /// The group
        group: String,
        /// The node
        #[arg(value_name = "NODE")]
        member: String,
        #[command(flatten)]
        common: Common,
    },
    /// Have another node write all volumes of a group: with their files, where both share the
    /// storage, else by planned swaps
    Move {
        /// The group
        group: String,
        #[command(flatten)]
        args: MoveArgs,
    },
    /// End a group that a command made, and that has neither members nor volumes
    Delete {
        /// The group
        group: String,
        #[command(flatten)]
        common: Common,
    },
    /// Groups with their members, routes and volumes, who made them, and who is missing
    List {
        /// Only this group
        group: Option<String>,
        /// Print them as JSON
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        target: Target,
    },
}

#[derive(Args, Debug)]
pub(super) struct CreateArgs {
    /// The group
    group: String,
    /// The node that takes the writes
    #[arg(long, value_name = "NODE")]
    primary: String,
    /// High-water mark of its delta sets [default: 64MiB]
    #[arg(long, value_name = "SIZE", value_parser = size)]
    hwm: Option<u64>,
    /// Longest time between two of them [default: 600s]
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    timeout: Option<std::time::Duration>,
    #[command(flatten)]
    common: Common,
}

/// What came of it.
#[derive(Debug, Default, Serialize)]
struct Outcome {
    group: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    member: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    fed_by: Option<String>,
    /// Nodes that took the definition now.
    told: Vec<String>,
    /// Nodes that are to have it and do not, and why.
    untold: BTreeMap<String, String>,
}

impl Outcome {
    /// Prints it; whoever was not told makes it a failure.
    fn end(self, common: &Common, sentence: &str) -> Result<(), Failed> {
        tell(common.json, &self, sentence)?;
        if self.untold.is_empty() {
            return Ok(());
        }
        let lines: Vec<_> =
            self.untold.iter().map(|(node, why)| format!("{node}: {why}")).collect();
        Err(Failed::new(tame(&lines.join("\n"))))
    }
}

/// All nodes that can be asked, and what they answered.
struct Scene {
    here: Vec<Endpoint>,
    asked: Vec<Asked>,
    /// Nodes of the topology that could not be asked.
    elsewhere: Vec<String>,
    all: Vec<GroupView>,
}

impl Scene {
    async fn look(target: &Target, around: &Surroundings) -> Result<Self, Failed> {
        let (here, elsewhere) = status::present(target, around)?;
        let asked = status::ask(&here).await;
        let all = groups(&asked);
        Ok(Self { here, asked, elsewhere, all })
    }

    fn group(&self, name: &str) -> Result<&GroupView, Failed> {
        self.all.iter().find(|g| g.group == name).ok_or_else(|| {
            let known: Vec<_> = self.all.iter().map(|g| g.group.as_str()).collect();
            let known =
                if known.is_empty() { "there are none".to_owned() } else {
                    format!("there are: {}", known.join(", "))
                };
            let silent: Vec<_> = self.asked.iter().filter(|a| a.answer.is_err()).collect();
            let silent: Vec<_> = silent.iter().map(|a| a.called.as_str()).collect();
            if self.answers().next().is_none() {
                return Failed::new(format!(
                    "no node answered ({}): whether there is a group `{name}` is not known; `rcpctl \
                     status` says of each why. Nothing was changed",
                    silent.join(", ")
                ));
            }
            let silent = match silent.as_slice() {
                [] => String::new(),
                names => format!(" ({} did not answer)", names.join(", ")),
            };
            Failed::new(format!(
                "no node that answered is in a group `{name}`{silent}; {known}. `rcpctl group create \
                 {name} --primary NODE` makes one"
            ))
        })
    }

    fn answers(&self) -> impl Iterator<Item = (&Endpoint, &NodeStatus)> {
        self.here.iter().zip(&self.asked).filter_map(|(e, a)| Some((e, a.answer.as_ref().ok()?)))
    }

    fn node(&self, name: &str) -> Result<&Endpoint, Failed> {
        if let Some((endpoint, _)) = self.answers().find(|(_, s)| s.node == name) {
            return Ok(endpoint);
        }
        let silent = self.asked.iter().find(|a| a.called == name);
        if let Some(error) = silent.and_then(|a| a.answer.as_ref().err()) {
            return Err(Failed::new(format!("{name} did not answer: {error}")));
        }
        if self.elsewhere.iter().any(|n| n == name) {
            let text = format!("{name} is on another machine and was not asked");
            return Err(Failed::new(text + super::target::BY_TOKEN));
        }
        let known: Vec<_> = self.answers().map(|(_, s)| s.node.as_str()).collect();
        Err(Failed::new(format!(
            "no node that was asked is `{name}`; those that answered are {}. A node is known by the \
             topology file: write it under `nodes`, `rcpctl topology apply`, and start it",
            known.join(", ")
        )))
    }

    /// What a node says of a group, if it is in it.
    fn at<'a>(&'a self, node: &str, group: &str) -> Option<&'a GroupStatus> {
        let (_, status) = self.answers().find(|(_, s)| s.node == node)?;
        status.groups.iter().find(|g| g.group == group)
    }

    /// Tells every member but `but` that does not have this word; who cannot be told is in `out`.
    async fn tell(&self, g: &GroupView, said: &AddedGroup, but: &str, out: &mut Outcome) {
        let mut names: Vec<_> =
            g.members.iter().map(|m| m.node.as_str()).filter(|n| *n != but).collect();
        // Of two commands at once the primary takes one, and the other one hears of it.
        names.sort_by_key(|n| g.primary.as_deref() != Some(n));
        for name in names {
            let own = self.at(name, &g.group);
            let named = said.primary.as_deref() == Some(name) || lists(said, name);
            let by_file = match own {
                Some(own) => !by_command(own, name),
                None => said.primary.is_none(),
            };
            // Who was removed may hold volumes still, and is told nothing.
            if !named && !by_file || own.and_then(|o| o.added.as_ref()) == Some(said) {
                continue;
            }
            match self.define(name, &g.group, Some(said)).await {
                Ok(()) => out.told.push(name.to_owned()),
                Err(e) => {
                    let text = format!("was not told: {}; say this again when it answers", e.text);
                    out.untold.insert(name.to_owned(), text);
                }
            }
        }
    }

    /// Makes a node a member, if it is none by the file.
    async fn take_in(
        &self,
        g: &GroupView,
        node: &str,
        from: &str,
        said: Option<AddedGroup>,
        out: &mut Outcome,
    ) -> Result<(), Failed> {
        let own = self.at(node, &g.group);
        let by_file = own.is_some_and(|own| !by_command(own, node));
        if by_file && !said.as_ref().is_some_and(|s| lists(s, node)) {
            return Ok(());
        }
        let mut new = said.unwrap_or_default();
        // Who made way for another writer is in it as it was.
        if new.feeder(node) != Some(from) && new.primary.as_deref() != Some(node) {
            new.put(node, from);
            new.revision += 1;
        }
        if own.and_then(|o| o.added.as_ref()) != Some(&new) {
            self.define(node, &g.group, Some(&new)).await?;
            out.told.push(node.to_owned());
        }
        self.tell(g, &new, node, out).await;
        match out.untold.get(from) {
            Some(why) => Err(Failed::new(tame(&format!("{from}, which is to feed {node}, {why}")))),
            None => Ok(()),
        }
    }

    async fn define(
        &self,
        node: &str,
        group: &str,
        said: Option<&AddedGroup>,
    ) -> Result<(), Failed> {
        let body = requests::GroupDefinition { group: group.to_owned(), definition: said.cloned() };
        let _: requests::Done = self.node(node)?.client().post(paths::GROUP, &body).await?;
        Ok(())
    }

    async fn unroute(&self, from: &str, group: &str, node: &str) -> Result<(), Failed> {
        let (group, next_hop) = (Some(group.to_owned()), Some(node.to_owned()));
        let body = requests::RouteDelete { group, next_hop };
        let _: RouteTable = self.node(from)?.client().post(paths::ROUTE_DELETE, &body).await?;
        Ok(())
    }
}

/// Makes a node a member of a group, at the place below `from`, and adds no route to it. Who was not
/// told, in words: `from` was.
///
/// # Errors
/// In words: somebody did not take it, and has to.
pub(super) async fn enlist(
    group: &str,
    node: &str,
    from: &str,
    target: &Target,
    around: &Surroundings,
) -> Result<Vec<String>, Failed> {
    let scene = Scene::look(target, around).await?;
    let said = definition(group, &scene.asked);
    let mut out = Outcome::default();
    scene.take_in(scene.group(group)?, node, from, said, &mut out).await?;
    Ok(out.untold.iter().map(|(node, why)| format!("{node}: {why}")).collect())
}

/// Groups of which commands name a node, by the newest word on each.
pub(super) fn naming(node: &str, nodes: &[NodeStatus]) -> BTreeSet<String> {
    let mut words: BTreeMap<&str, &AddedGroup> = BTreeMap::new();
    // The node itself is told nothing of its end.
    for g in nodes.iter().filter(|n| n.node != node).flat_map(|n| &n.groups) {
        let Some(added) = &g.added else { continue };
        let newest = words.entry(&g.group).or_insert(added);
        if newest.revision < added.revision {
            *newest = added;
        }
    }
    let names = |a: &AddedGroup| {
        let member = a.members().any(|m| m == node) || a.routes.contains_key(node);
        member || a.primary.as_deref() == Some(node)
    };
    words.into_iter().filter(|(_, a)| names(a)).map(|(g, _)| g.to_owned()).collect()
}

/// Who was told of a change, and who was not.
#[derive(Debug, Default)]
pub(super) struct Told {
    pub(super) told: Vec<String>,
    pub(super) untold: BTreeMap<String, String>,
}

/// A node is a member no longer, as far as commands made it one; those that were listed below it are
/// listed below `homes`.
///
/// # Errors
/// In words.
pub(super) async fn expel(
    group: &str,
    node: &str,
    homes: &[(String, String)],
    target: &Target,
    around: &Surroundings,
) -> Result<Told, Failed> {
    let scene = Scene::look(target, around).await?;
    let Some(said) = definition(group, &scene.asked) else { return Ok(Told::default()) };
    let g = scene.group(group)?;
    let mut new = without(&said, node, homes, g.primary.as_deref());
    if new != said {
        new.revision += 1;
    }
    let mut out = Outcome::default();
    scene.tell(g, &new, node, &mut out).await;
    out.untold.remove(node);
    Ok(Told { told: out.told, untold: out.untold })
}

/// What commands said of a group, without a node.
fn without(
    said: &AddedGroup,
    node: &str,
    homes: &[(String, String)],
    writer: Option<&str>,
) -> AddedGroup {
    let mut new = said.clone();
    let writer = writer.filter(|w| *w != node);
    new.take(node);
    if new.primary.as_deref() == Some(node)
        && let Some(writer) = writer
    {
        new.take(writer);
        new.primary = Some(writer.to_owned());
    }
    for child in new.routes.remove(node).into_iter().flatten() {
        let home = homes.iter().find(|(c, _)| *c == child).map(|(_, p)| p.as_str());
        if let Some(parent) = home.or(writer).filter(|p| **p != child) {
            new.put(&child, parent);
        }
    }
    new
}

/// The node that a question about a group is for: its primary by the topology, or of a group that a
/// command made, by what the nodes say.
///
/// # Errors
/// What [`Target::one`] says, if no node that answers is it either.
pub(super) async fn primary_of(
    group: &str,
    target: &Target,
    around: &Surroundings,
) -> Result<Endpoint, Failed> {
    let unknown = match target.one(Purpose::Group(group), around) {
        Ok(endpoint) => return Ok(endpoint),
        Err(e) => e,
    };
    if target.topology.is_none() || !target.node.is_empty() {
        return Err(unknown);
    }
    let Ok(scene) = Scene::look(target, around).await else { return Err(unknown) };
    let is = |s: &NodeStatus| s.groups.iter().any(|g| g.group == group && g.role == "primary");
    let found = scene.answers().find(|(_, s)| is(s)).map(|(endpoint, _)| endpoint.clone());
    found.ok_or(unknown)
}

pub(super) async fn run(command: GroupCommand, around: &Surroundings) -> Result<(), Failed> {
    match command {
        GroupCommand::Create(args) => create(args, around).await,
        GroupCommand::Add { group, member, below, common } => {
            add(&group, &member, below.as_deref(), &common, around).await
        }
        GroupCommand::Remove { group, member, common } => {
            remove(&group, &member, &common, around).await
        }
        GroupCommand::Move { group, args } => move_group(&group, &args, around).await,
        GroupCommand::Delete { group, common } => delete(&group, &common, around).await,
        GroupCommand::List { group, json, target } => list(group, json, &target, around).await,
    }
}

async fn list(
    group: Option<String>,
    json: bool,
    target: &Target,
    around: &Surroundings,
) -> Result<(), Failed> {
    let scene = Scene::look(target, around).await?;
    if let Some(name) = &group {
        scene.group(name)?;
    }
    let mut all = scene.all;
    all.retain(|g| group.as_ref().is_none_or(|name| g.group == *name));
    if json {
        print_json(&all)?;
    } else {
        let text: Vec<_> = all.iter().map(draw_group).collect();
        print(&tame(&text.join("\n")))?;
    }
    answered(&scene.asked)
}

async fn create(args: CreateArgs, around: &Surroundings) -> Result<(), Failed> {
    let scene = Scene::look(&args.common.target, around).await?;
    let (group, primary) = (args.group, args.primary);
    let mut said =
        AddedGroup { revision: 1, primary: Some(primary.clone()), ..AddedGroup::default() };
    let hwm = args.hwm.map(|n| ("hwm", format_size(n)));
    let timeout = args.timeout.map(|t| ("timeout", format_duration(t)));
    said.policy.extend(hwm.into_iter().chain(timeout).map(|(k, v)| (k.to_owned(), v)));
    let mut out = Outcome { group: group.clone(), ..Outcome::default() };
    let known = scene.all.iter().find(|g| g.group == group);
    let sentence = match (known, definition(&group, &scene.asked)) {
        (None, _) => {
            scene.define(&primary, &group, Some(&said)).await?;
            out.told.push(primary.clone());
            format!(
                "{group}: made, with {primary} as its primary; `rcpctl group add {group} NODE` takes \
                 members in"
            )
        }
        // It was said before, and nothing was said since, or members were added.
        (Some(_), Some(was)) if was.primary == said.primary && was.policy == said.policy => {
            format!("{group}: is there already, with {primary} as its primary")
        }
        (Some(g), Some(AddedGroup { primary: Some(p), .. })) => {
            let at: Vec<_> = g.members.iter().map(|m| m.node.as_str()).collect();
            return Err(Failed::new(format!(
                "there is a group {group} already: a command made it, with {p} as its primary ({}). \
                 Call this one otherwise, or end that one: `rcpctl group delete {group}`",
                at.join(", ")
            )));
        }
        (Some(_), _) => {
            return Err(Failed::new(format!(
                "group {group} is in the topology file: call this one otherwise, or take that one \
                 out there and start its nodes again"
            )));
        }
    };
    out.end(&args.common, &sentence)
}

async fn add(
    group: &str,
    node: &str,
    below: Option<&str>,
    common: &Common,
    around: &Surroundings,
) -> Result<(), Failed> {
    let scene = Scene::look(&common.target, around).await?;
    let g = scene.group(group)?;
    scene.node(node)?;
    let said = definition(group, &scene.asked);
    let fed_by = fed_by(g, node);
    let from = feeder(g, node, below, said.as_ref()).map_err(Failed::new)?;
    let route = fed_by.is_none();
    scene.node(&from)?;
    let mut out = Outcome {
        group: group.to_owned(),
        member: Some(node.to_owned()),
        fed_by: Some(from.clone()),
        ..Outcome::default()
    };
    scene.take_in(g, node, &from, said, &mut out).await?;
    if route {
        let by = RouteWay::default();
        let body = requests::RouteAdd {
            group: group.to_owned(),
            next_hop: node.to_owned(),
            by,
            unasked: false,
        };
        let client = scene.node(&from)?.client();
        let _: RouteTable = client.post(paths::ROUTE_ADD, &body).await?;
    }
    let already = if route || !out.told.is_empty() { "" } else { " already" };
    out.end(common, &format!("{group}: {node} is fed by {from}{already}"))
}

/// A node says that a command made it a member.
fn by_command(own: &GroupStatus, node: &str) -> bool {
    own.added.as_ref().is_some_and(|a| a.primary.is_some() || lists(a, node))
}

fn lists(said: &AddedGroup, node: &str) -> bool {
    said.feeder(node).is_some()
}

/// Whose route leads to a node.
fn fed_by<'g>(g: &'g GroupView, node: &str) -> Option<&'g str> {
    let feeds = |m: &&super::groups::Member| m.next_hops.iter().any(|h| h == node);
    g.members.iter().find(feeds).map(|m| m.node.as_str())
}

/// Who feeds a node, or is to.
fn feeder(
    g: &GroupView,
    node: &str,
    below: Option<&str>,
    said: Option<&AddedGroup>,
) -> Result<String, String> {
    let group = &g.group;
    if g.primary.as_deref() == Some(node) {
        return Err(format!("{node} is the primary of {group}: `rcpctl failover` makes another"));
    }
    match (below, fed_by(g, node)) {
        (Some(below), Some(by)) if below != by => {
            Err(format!("{node} is fed by {by} in {group} already: remove it there first"))
        }
        (_, Some(by)) => Ok(by.to_owned()),
        (Some(below), None) if g.members.iter().all(|m| m.node != below) => {
            let known: Vec<_> = g.members.iter().map(|m| m.node.as_str()).collect();
            let known = known.join(", ");
            Err(format!("{below} is no member of {group}, and feeds nobody there; it has: {known}"))
        }
        (Some(below), None) => Ok(below.to_owned()),
        // It was begun, and not finished.
        (None, None) => said
            .and_then(|s| s.feeder(node))
            .map(str::to_owned)
            .or_else(|| g.primary.clone())
            .ok_or_else(|| {
                format!("the primary of {group} did not answer: say who feeds {node} (--below)")
            }),
    }
}

async fn remove(
    group: &str,
    node: &str,
    common: &Common,
    around: &Surroundings,
) -> Result<(), Failed> {
    let scene = Scene::look(&common.target, around).await?;
    let g = scene.group(group)?;
    let said = definition(group, &scene.asked);
    let (from, listed) = removable(g, node, said.as_ref()).map_err(Failed::new)?;
    let mut out =
        Outcome { group: group.to_owned(), member: Some(node.to_owned()), ..Outcome::default() };
    if let Some(from) = from {
        scene.unroute(from, group, node).await?;
    }
    let by = from.map_or(String::new(), |f| format!(" by {f}"));
    let mut sentence = format!("{group}: {node} is fed{by} no longer");
    // Said before, and the node was not told.
    let remembers = scene.at(node, group).is_some_and(|own| by_command(own, node));
    if let Some(mut new) = said.filter(|_| listed || remembers) {
        if listed {
            new.take(node);
            new.revision += 1;
        }
        scene.tell(g, &new, node, &mut out).await;
        match scene.define(node, group, None).await {
            Ok(()) => sentence.push_str(", and a member no longer"),
            Err(e) => drop(out.untold.insert(node.to_owned(), e.text)),
        }
    } else if from.is_some() {
        sentence.push_str("; it stays a member, by the topology file");
    }
    out.end(common, &sentence)
}

/// Whose route leads to a node that may be removed, and whether commands made it a member.
fn removable<'g>(
    g: &'g GroupView,
    node: &str,
    said: Option<&AddedGroup>,
) -> Result<(Option<&'g str>, bool), String> {
    let group = &g.group;
    if g.primary.as_deref() == Some(node) {
        return Err(format!("{node} is the primary of {group}: `rcpctl failover` makes another"));
    }
    if let Some(s) = said.filter(|s| s.primary.as_deref() == Some(node)) {
        let other = s.members().find(|m| *m != node);
        return Err(format!(
            "{group} was made with {node} as its primary, and all members know it by that: {node} stays \
             a member. `rcproute delete group={group} nexthop={node}` at the node above ends what it is sent; a group \
             without it is made anew (`rcpctl group create NAME --primary {}`)",
            other.unwrap_or("NODE")
        ));
    }
    let listed = said.is_some_and(|s| lists(s, node));
    let from = fed_by(g, node);
    let Some(member) =
        g.members.iter().find(|m| m.node == node).filter(|_| from.is_some() || said.is_some())
    else {
        let all: Vec<_> = g.members.iter().map(|m| m.node.as_str()).collect();
        return Err(format!(
            "nobody that answered feeds {node} in {group}, which has: {}. Nothing was changed",
            all.join(", ")
        ));
    };
    let below = said.and_then(|s| s.routes.get(node)).into_iter().flatten();
    let mut below: Vec<_> = below.chain(member.next_hops.iter().filter(|_| listed)).collect();
    below.sort();
    below.dedup();
    if let Some(first) = below.first() {
        let all: Vec<_> = below.iter().map(|b| b.as_str()).collect();
        return Err(format!(
            "{node} feeds {} in {group}: `rcpctl group remove {group} {first}` first",
            all.join(", ")
        ));
    }
    Ok((from, listed))
}

async fn delete(group: &str, common: &Common, around: &Surroundings) -> Result<(), Failed> {
    let scene = Scene::look(&common.target, around).await?;
    let g = scene.group(group)?;
    let said = definition(group, &scene.asked).unwrap_or_default();
    let Some(primary) = said.primary.clone() else {
        return Err(Failed::new(format!(
            "group {group} is in the topology file: take it out there, and start its nodes again"
        )));
    };
    let hops = g.members.iter().flat_map(|m| &m.next_hops).map(String::as_str);
    let members: Vec<_> = BTreeSet::from_iter(hops.chain(said.members())).into_iter().collect();
    if let Some(first) = members.first() {
        return Err(Failed::new(format!(
            "{group} has members: {}. Remove each first: `rcpctl group remove {group} {first}`",
            members.join(", ")
        )));
    }
    let mut out = Outcome { group: group.to_owned(), ..Outcome::default() };
    // The primary last: as long as it knows the group, this can be said again.
    let mut names: Vec<_> = g.members.iter().map(|m| m.node.as_str()).collect();
    names.sort_by_key(|n| *n == primary);
    for name in names.iter().filter(|n| scene.at(n, group).is_some()) {
        scene.define(name, group, None).await?;
        out.told.push((*name).to_owned());
    }
    for name in names.into_iter().filter(|n| scene.at(n, group).is_none()) {
        if let Err(e) = scene.node(name) {
            out.untold.insert(name.to_owned(), e.text);
        }
    }
    out.end(common, &format!("{group}: ended at {}", out_of(&scene, group)))
}

/// Nodes that were in a group, in words.
fn out_of(scene: &Scene, group: &str) -> String {
    let of = |s: &NodeStatus| s.groups.iter().any(|g| g.group == group);
    let names: Vec<_> =
        scene.answers().filter(|(_, s)| of(s)).map(|(_, s)| s.node.as_str()).collect();
    names.join(", ")
}
