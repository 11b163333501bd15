//! Which replica is to take over, from what the nodes say (FAIL-02, FAIL-10).

use std::collections::{BTreeMap, BTreeSet};

use config::units::approx_size;
use serde::Serialize;

use crate::api::{HistoryLine, NodeStatus, VolumeInfo};
use crate::cli::columns::columns;
use crate::cli::text::{plural, span};

/// What would be lost if the volume went on from some state.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(super) struct Loss {
    /// Finished sets after it that are known to exist.
    pub(super) sets: u64,
    /// Time between the cuts of that state and the newest known one, if both are known.
    pub(super) seconds: Option<f64>,
    /// Bytes of blocks in those sets, if all are known.
    pub(super) bytes: Option<u64>,
}

/// One node that holds the volume and answered.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Candidate {
    pub(super) node: String,
    pub(super) role: String,
    pub(super) state: String,
    pub(super) generation: String,
    /// Newest set that readers see.
    pub(super) visible_set: u64,
    /// Newest set that is here in full: what plain failover goes on from.
    pub(super) saved_set: u64,
    pub(super) lag_seconds: Option<f64>,
    /// Why it cannot take over; absent if it can.
    pub(super) cannot: Option<String>,
    /// What is known to be damaged there, or cannot be proved: it is not recommended, and does not
    /// take over without `--lose-damaged-blocks`.
    pub(super) damaged: Option<String>,
    /// Why it stands still: before that has ended it cannot play what it has.
    pub(super) stalled: Option<String>,
    /// By plain failover.
    pub(super) loss: Loss,
    /// By failover with `--now`.
    pub(super) loss_now: Loss,
    /// Nodes that hold more than it: they would go back, and keep that as a branch.
    pub(super) would_rewind: Vec<String>,
}

/// A node that is known of and said nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Unseen {
    pub(super) node: String,
    /// It was asked, and did not answer.
    pub(super) asked: bool,
    /// Newest set that its parent knows it has, if any.
    pub(super) saved_set: Option<u64>,
}

/// Who was asked, beside those that answered.
#[derive(Clone, Debug, Default)]
pub(super) struct Round {
    /// Asked, and silent.
    pub(super) silent: BTreeSet<String>,
    /// Members of each group, if a topology tells.
    pub(super) members: BTreeMap<String, Vec<String>>,
}

impl Round {
    /// What to say of a node that said nothing.
    pub(super) fn silence(&self, node: &str) -> &'static str {
        if self.silent.contains(node) { "did not answer" } else { "was not asked" }
    }
}

/// The whole picture.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Plan {
    pub(super) volume: String,
    /// Its UUID.
    pub(super) id: String,
    pub(super) group: String,
    pub(super) generation: String,
    /// Counter of the newest line that any of the nodes knows of.
    pub(super) newest_counter: u32,
    /// Newest finished set that any of the nodes knows of.
    pub(super) newest_known_set: u64,
    /// The node that wrote last, by the newest history.
    pub(super) writer: Option<String>,
    /// It answered, and may write.
    pub(super) writer_is_up: bool,
    /// How the writer is, in words.
    pub(super) writer_state: String,
    /// Bytes changed at the writer since its last set; unknown if it did not answer.
    pub(super) unfinished_bytes: Option<u64>,
    pub(super) candidates: Vec<Candidate>,
    pub(super) unseen: Vec<Unseen>,
    /// The nodes that were asked.
    pub(super) asked: Vec<String>,
    pub(super) recommended: Option<String>,
    pub(super) warnings: Vec<String>,
    /// Two nodes were made the writer and did not know of each other.
    pub(super) split: bool,
}

type Held<'a> = (&'a NodeStatus, &'a VolumeInfo);

fn counter(h: &[HistoryLine]) -> u64 {
    let last = h.last().and_then(|l| l.generation.split('-').next());
    last.and_then(|c| c.parse().ok()).unwrap_or(0)
}

fn begins(with: &[HistoryLine], whole: &[HistoryLine]) -> bool {
    whole.len() >= with.len()
        && with
            .iter()
            .zip(whole)
            .all(|(a, b)| a.generation == b.generation && a.forked_from == b.forked_from)
}

/// What going on from `from` would lose.
pub(super) fn loss(held: &[Held<'_>], from: u64, newest: u64) -> Loss {
    let rows = || held.iter().flat_map(|(_, v)| v.sets.iter().map(move |s| (s, v.block_size)));
    let cut = |set: u64| {
        let exact = rows().find(|(s, _)| s.set == set).map(|(s, _)| s.created_us);
        exact.or_else(|| {
            let seen = held.iter().find(|(_, v)| v.current_set == set);
            seen.and_then(|(_, v)| v.current_cut_us)
        })
    };
    let sets = newest.saturating_sub(from);
    #[allow(clippy::cast_precision_loss)]
    let seconds = cut(newest).zip(cut(from)).map(|(b, a)| b.saturating_sub(a) as f64 / 1e6);
    let bytes = (from + 1..=newest)
        .map(|set| rows().find(|(s, _)| s.set == set).map(|(s, block)| s.blocks * block));
    let bytes = if sets > 4096 { None } else { bytes.sum() };
    Loss { sets, seconds: if sets == 0 { Some(0.0) } else { seconds }, bytes }
}

/// The nodes that hold the volume.
pub(super) fn holders<'a>(volume: &str, nodes: &'a [NodeStatus]) -> Vec<Held<'a>> {
    let named = |v: &&VolumeInfo| v.is_called(volume);
    let ids: BTreeSet<&str> =
        nodes.iter().flat_map(|n| &n.volumes).filter(named).map(|v| v.id.as_str()).collect();
    let held = nodes.iter().flat_map(|n| n.volumes.iter().map(move |v| (n, v)));
    // Some may call it otherwise.
    held.filter(|(_, v)| named(v) || (!v.id.is_empty() && ids.contains(v.id.as_str()))).collect()
}

impl Plan {
    /// Nodes that are known of and were not asked: one may be the writer, or have more.
    pub(super) fn not_asked(&self) -> Vec<&str> {
        self.unseen.iter().filter(|u| !u.asked).map(|u| u.node.as_str()).collect()
    }

    /// Who was not asked, and what to do; `None` if everybody was.
    pub(super) fn ask_them(&self) -> Option<String> {
        let missing = self.not_asked();
        let were = if missing.len() == 1 { "was" } else { "were" };
        (!missing.is_empty()).then(|| {
            format!(
                "{} {were} not asked (only {}): give --topology FILE without --node, and for nodes on \
                 other machines a token (--token-file)",
                missing.join(", "),
                self.asked.join(", ")
            )
        })
    }
}

/// How the writer is, in words, and whether it may write.
fn writer_state(
    name: &str,
    nodes: &[NodeStatus],
    up: Option<Held<'_>>,
    r: &Round,
) -> (bool, String) {
    let (up, text) = match up {
        Some((_, v)) if v.state.starts_with("failed") => {
            let why = v.reason.as_deref().map_or(String::new(), |r| format!(": {r}"));
            (false, format!("its volume has failed{why}"))
        }
        Some((_, v)) if v.fenced.is_none() => {
            (true, format!("up, {} since its last set", approx_size(v.dirty_bytes)))
        }
        Some(_) => (false, "fenced".to_owned()),
        None if nodes.iter().any(|n| n.node == name) => {
            (false, "up, and not the writer of this volume any more".to_owned())
        }
        None => (false, r.silence(name).to_owned()),
    };
    (up, text)
}

/// The name is mistyped, or whoever holds it is not reached.
pub(super) fn nobody_holds(volume: &str, nodes: &[NodeStatus], round: &Round) -> String {
    let silent: Vec<_> = round.silent.iter().map(String::as_str).collect();
    let names: Vec<_> = nodes.iter().map(|n| n.node.as_str()).collect();
    if names.is_empty() {
        return format!(
            "no node answered ({}): what there is of `{volume}`, and who writes it, is not known; \
             `rcpctl status` says of each why. Start one that has it, and say this again",
            if silent.is_empty() { "none was asked".to_owned() } else { silent.join(", ") }
        );
    }
    let labels: BTreeSet<_> = nodes.iter().flat_map(|n| &n.volumes).map(|v| v.in_group()).collect();
    let there = match labels.len() {
        0 => "they hold none".to_owned(),
        _ => format!("they hold: {}", labels.into_iter().collect::<Vec<_>>().join(", ")),
    };
    let silent = match silent.as_slice() {
        [] => String::new(),
        names => format!("; {} did not answer", names.join(", ")),
    };
    format!(
        "none of the nodes that answered ({}) holds a volume `{volume}`; {there}{silent}",
        names.join(", ")
    )
}

/// Makes the plan; pure.
pub(super) fn plan(volume: &str, nodes: &[NodeStatus], round: &Round) -> Result<Plan, String> {
    let held = holders(volume, nodes);
    let Some((_, first)) = held.first() else { return Err(nobody_holds(volume, nodes, round)) };
    let (label, group) = (first.in_group().to_owned(), first.group.clone());
    let mut warnings = Vec::new();
    let histories = held.iter().flat_map(|(_, v)| [&v.history, &v.rival]);
    let newest =
        histories.clone().max_by_key(|h| (counter(h), h.len())).cloned().unwrap_or_default();
    let contradicts = |h: &&Vec<HistoryLine>| {
        counter(h) == counter(&newest) && !begins(h, &newest) && !newest.is_empty()
    };
    let split = histories.clone().any(|h| contradicts(&h));
    if split {
        warnings.push(
            format!(
                "split-brain: there are two writers with one counter; `rcpctl history {label}` shows \
                 them; `rcpctl failover {label} --to NODE --adopt` with the one that is to stay ends it: \
                 the other follows it, and what that wrote is kept there as a branch"
            ),
        );
    }
    let followed: Vec<Held<'_>> =
        held.iter().copied().filter(|(_, v)| begins(&v.history, &newest)).collect();
    let known = |v: &VolumeInfo| {
        let below = v.children.iter().map(|c| c.saved_set).max().unwrap_or(0);
        v.newest_known_set.max(v.saved_set).max(v.current_set).max(below)
    };
    let last = newest.last().map_or(0, |l| l.forked_from);
    let newest_known = followed
        .iter()
        .filter(|(_, v)| v.history.len() == newest.len())
        .map(|(_, v)| known(v))
        .max()
        .unwrap_or(last);
    let writer = newest.last().map(|l| l.opened_by.clone());
    let up = held.iter().find(|(n, v)| v.role == "primary" && Some(&n.node) == writer.as_ref());
    let name = writer.as_deref().unwrap_or_default();
    let (writer_is_up, writer_state) = writer_state(name, nodes, up.copied(), round);
    let unseen = unseen(&label, &group, name, nodes, &held, round);
    let mut candidates: Vec<Candidate> = held
        .iter()
        .filter(|(_, v)| v.role != "relay")
        .map(|h| {
            candidate(*h, &held, &followed, newest_known, cannot(&h.0.node, h.1, &newest, split))
        })
        .collect();
    candidates.sort_by(better);
    // Nobody can be recommended in the place of who may be up, or have more.
    let sure = writer_is_up || unseen.iter().all(|u| u.asked);
    let best = candidates.iter().find(|c| c.is_whole() && c.role == "replica" && !split && sure);
    let recommended = best.map(|c| c.node.clone());
    let silent = up.is_none() && round.silent.contains(name);
    warnings.extend(about_writer(&label, name, writer_is_up, silent));
    warnings.extend(candidates.iter().filter_map(Candidate::stands_still));
    warnings.extend(candidates.iter().filter_map(|c| c.is_damaged(&label)));
    Ok(Plan {
        asked: nodes.iter().map(|n| n.node.clone()).chain(round.silent.iter().cloned()).collect(),
        unseen,
        writer_state,
        volume: label,
        id: first.id.clone(),
        group,
        generation: newest.last().map(|l| l.generation.clone()).unwrap_or_default(),
        newest_counter: u32::try_from(counter(&newest)).unwrap_or(u32::MAX),
        newest_known_set: newest_known,
        writer,
        writer_is_up,
        unfinished_bytes: up.map(|(_, v)| v.dirty_bytes),
        candidates,
        recommended,
        warnings,
        split,
    })
}

/// The order of candidates: the best first.
fn better(a: &Candidate, b: &Candidate) -> std::cmp::Ordering {
    let stands = |c: &Candidate| c.stalled.is_some();
    let key = |c: &Candidate| (!c.is_whole(), stands(c), std::cmp::Reverse(c.saved_set));
    let lag = |c: &Candidate| c.lag_seconds.unwrap_or(f64::MAX);
    key(a).cmp(&key(b)).then(lag(a).total_cmp(&lag(b))).then(a.node.cmp(&b.node))
}

impl Candidate {
    /// It can take over, and nothing is known to be damaged there.
    fn is_whole(&self) -> bool {
        self.cannot.is_none() && self.damaged.is_none()
    }

    /// It could take over, but for damage.
    fn is_damaged(&self, label: &str) -> Option<String> {
        let why = self.damaged.as_ref().filter(|_| self.cannot.is_none())?;
        let node = &self.node;
        Some(format!(
            "{node} is not recommended: {why}; as the writer it would pass that on. Only if no other \
             copy is left: `rcpctl failover {label} --to {node} --lose-damaged-blocks`"
        ))
    }

    /// It could take over, but for what keeps it from playing.
    fn stands_still(&self) -> Option<String> {
        let why = self.stalled.as_ref().filter(|_| self.cannot.is_none())?;
        Some(format!("{}: {why}; it cannot take over before that has ended", self.node))
    }
}

fn candidate(
    (n, v): Held<'_>,
    held: &[Held<'_>],
    followed: &[Held<'_>],
    newest: u64,
    cannot: Option<String>,
) -> Candidate {
    let primary = v.role == "primary";
    let saved = if primary { v.current_set } else { v.saved_set.max(v.current_set) };
    let rewinds = followed
        .iter()
        .filter(|(m, o)| m.node != n.node && o.role == "replica" && o.saved_set > saved)
        .map(|(m, _)| m.node.clone())
        .collect();
    Candidate {
        node: n.node.clone(),
        role: v.role.clone(),
        state: v.state.clone(),
        generation: v.generation.clone(),
        visible_set: v.current_set,
        saved_set: saved,
        lag_seconds: v.lag_seconds,
        cannot,
        damaged: v.damage.clone().filter(|_| !primary),
        stalled: v.stalled.clone(),
        loss: loss(held, saved, newest),
        loss_now: loss(held, v.current_set, newest),
        would_rewind: rewinds,
    }
}

fn about_writer(label: &str, name: &str, is_up: bool, silent: bool) -> Option<String> {
    if is_up {
        return Some(format!(
            "the writer {name} is up: `rcpctl failover {label} --sync --to NODE` loses nothing"
        ));
    }
    silent.then(|| {
        "the writer did not answer: what it changed after the newest known set is lost as well, and \
         nobody can say how much"
            .to_owned()
    })
}

fn cannot(node: &str, v: &VolumeInfo, newest: &[HistoryLine], split: bool) -> Option<String> {
    if v.role == "primary" {
        return match (&v.fenced, split) {
            (None, false) => Some("it is the writer".to_owned()),
            _ => None,
        };
    }
    if v.mirrors() {
        return Some(format!(
            "it mirrors, and no version of it was made: `rcpctl replicate version {} --node {node}`",
            v.label
        ));
    }
    if !v.state.starts_with("readable") {
        return Some(format!("it holds no whole state ({})", v.state));
    }
    let line = newest.last().map_or("", |l| l.generation.as_str());
    if !begins(&v.history, newest) {
        return Some(format!("it follows another writer ({}, not {line})", v.generation));
    }
    // A later line may begin before the next one does.
    let next = newest.get(v.history.len()..).unwrap_or_default();
    if let Some(n) =
        next.iter().min_by_key(|n| n.forked_from).filter(|n| v.saved_set > n.forked_from)
    {
        return Some(format!(
            "it follows an older writer ({}) past set {}, where {} took over",
            v.generation, n.forked_from, n.opened_by
        ));
    }
    None
}

fn unseen(
    label: &str,
    group: &str,
    writer: &str,
    nodes: &[NodeStatus],
    held: &[Held<'_>],
    round: &Round,
) -> Vec<Unseen> {
    let seen: BTreeSet<&str> = nodes.iter().map(|n| n.node.as_str()).collect();
    let mut out: BTreeMap<String, Option<u64>> = BTreeMap::new();
    let members = round.members.get(group).into_iter().flatten().cloned();
    for name in members.chain((!writer.is_empty()).then(|| writer.to_owned())) {
        out.entry(name).or_default();
    }
    for g in nodes.iter().flat_map(|n| &n.groups).filter(|g| g.group == group) {
        let parent = g.parent.iter().map(|p| p.node.clone());
        let routes = g.routes.iter().flat_map(|(n, hops)| hops.iter().chain([n]).cloned());
        for name in parent.chain(routes) {
            out.entry(name).or_default();
        }
    }
    for (_, v) in held.iter().filter(|(_, v)| v.is_called(label)) {
        for c in v.children.iter().filter(|c| c.saved_set > 0) {
            let known = out.entry(c.node.clone()).or_default();
            *known = (*known).max(Some(c.saved_set));
        }
        for (node, set, ..) in v.subtree.iter().flat_map(|s| &s.worst) {
            let known = out.entry(node.clone()).or_default();
            *known = (*known).max(Some(*set));
        }
    }
    out.into_iter()
        .filter(|(n, _)| !seen.contains(n.as_str()))
        .map(|(node, saved_set)| Unseen { asked: round.silent.contains(&node), node, saved_set })
        .collect()
}

/// A loss in words.
pub(super) fn told(l: &Loss) -> String {
    if l.sets == 0 {
        return "nothing that is known".to_owned();
    }
    let time = l.seconds.map_or_else(|| "time unknown".to_owned(), span);
    let bytes = l.bytes.map_or_else(|| "bytes unknown".to_owned(), approx_size);
    format!("{}, {time}, {bytes}", plural(l.sets, "set"))
}

/// The plan as text.
pub(super) fn draw(p: &Plan) -> String {
    let mut out = format!(
        "volume {} of group {}, generation {}: newest known set {}\nwriter: {}\n\n",
        p.volume,
        p.group,
        if p.generation.is_empty() { "unknown" } else { &p.generation },
        p.newest_known_set,
        match &p.writer {
            None => "unknown".to_owned(),
            Some(w) => format!("{w}, {}", p.writer_state),
        }
    );
    let rows: Vec<Vec<String>> = p
        .candidates
        .iter()
        .map(|c| {
            let mark = if Some(&c.node) == p.recommended.as_ref() { "→ " } else { "  " };
            vec![
                format!("{mark}{}", c.node),
                c.state.clone(),
                c.generation.clone(),
                c.visible_set.to_string(),
                c.saved_set.to_string(),
                c.lag_seconds.map_or_else(|| "?".to_owned(), span),
                match &c.cannot {
                    Some(why) => format!("cannot: {why}"),
                    None => match &c.damaged {
                        Some(_) => format!("{}; damaged blocks", told(&c.loss)),
                        None => told(&c.loss),
                    },
                },
                if c.would_rewind.is_empty() { "-".to_owned() } else { c.would_rewind.join(", ") },
            ]
        })
        .collect();
    let head =
        ["  NODE", "STATE", "LINE", ">SHOWN", ">SAVED", ">LAG", "WOULD LOSE", "WOULD REWIND"];
    out.push_str(&columns(&head, &rows));
    for u in &p.unseen {
        let last = u.saved_set.map_or_else(String::new, |s| format!(", last known at set {s}"));
        let how = if u.asked { "did not answer" } else { "was not asked" };
        out.push_str(&format!("  {} {how}{last}\n", u.node));
    }
    out.push('\n');
    for w in &p.warnings {
        out.push_str(&format!("! {w}\n"));
    }
    out.push_str(&match &p.recommended {
        Some(n) if p.writer_is_up => {
            format!("recommended: rcpctl failover {} --sync --to {n}\n", p.volume)
        }
        Some(n) => format!("recommended: rcpctl failover {} --to {n} --adopt\n", p.volume),
        None => match p.ask_them().filter(|_| !p.writer_is_up) {
            Some(text) => format!("recommended: nothing yet: {text}\n"),
            None => "recommended: nobody can take over as things are\n".to_owned(),
        },
    });
    out
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
