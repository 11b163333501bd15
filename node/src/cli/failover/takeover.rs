//! A node becomes the writer: from what it has, or from a last set handed over to it.

use std::time::Duration;

use super::args::FailoverArgs;
use super::plan::Plan;
use super::{Nodes, change, volume_at};
use crate::api::{ApiErrorKind, CutInfo, Promoted, VolumeInfo, WriterAnswer, WriterChange};
use crate::cli::client::{Client, ClientError};
use crate::cli::output::Failed;
use crate::cli::status::tame;
use crate::http::{paths, requests};

/// How long writers wait at most while a volume is handed over.
const HOLD: Duration = Duration::from_secs(30);
/// How long the node that takes over has to get the last set.
const LAST_SET: Duration = Duration::from_secs(25);
/// How long it has to come near before writers are held.
const NEAR: Duration = Duration::from_secs(120);
/// Sets that are made to bring it near, at most: a writer may be faster than the tree.
const ROUNDS: usize = 4;
/// Content that is near enough: what is left is sent while writers are held.
const RESIDUE: u64 = 1 << 20;
/// How long the content of such a set has to be written in full, where playback lets it be.
const MERGED: Duration = Duration::from_secs(10);
/// How long it may be until playback begins with it.
const SHOWN: Duration = Duration::from_secs(1);
/// How long its parent has to heal it.
const WHOLE: Duration = Duration::from_secs(30);
/// How often it is said what is waited for.
const TOLD: Duration = Duration::from_secs(5);
/// How often it is looked again.
const LOOK: Duration = Duration::from_millis(20);

/// From what it has; the old writer is made read-only first, if it answers, and its last set, which
/// has everything that was ever written, is told.
pub(super) async fn promote(
    args: &FailoverArgs,
    plan: &Plan,
    nodes: &Nodes,
    to: &str,
    old: Option<&str>,
    notes: &mut Vec<String>,
) -> Result<(Promoted, Option<u64>), Failed> {
    let client = nodes.need(to)?;
    let mut last_set = None;
    if let Some(c) = plan.candidates.iter().find(|c| c.node == to)
        && let Some(why) = c.cannot.as_ref().filter(|_| c.role != "primary")
    {
        return Err(Failed::new(format!("{to} cannot take over: {why}. Nothing was changed")));
    }
    if let Some(c) = plan.candidates.iter().find(|c| c.node == to)
        && let Some(why) = c.damaged.as_ref().filter(|_| !args.lose_damaged_blocks)
    {
        return Err(damaged(plan, to, why));
    }
    // FAIL-06.
    let up = old.filter(|o| Some(*o) == plan.writer.as_deref() && plan.writer_is_up);
    // In a split it has nothing to hand over: it is fenced by what it hears.
    let up = up.filter(|_| !plan.split);
    if let Some((old, c)) = up.and_then(|o| Some((o, nodes.client(o)?))) {
        let volume = plan.volume.clone();
        let limit_ms = 5_000;
        let stopped = async {
            let hold = WriterChange::Hold { volume: volume.clone(), limit_ms };
            let WriterAnswer::Held(cut) = change(c, &hold).await? else { return Ok(None) };
            let (to, set, whole) = (to.to_owned(), cut.set, false);
            let over = WriterChange::HandOver { volume, to, set, whole };
            change(c, &over).await.map(|_| Some(cut.set))
        };
        match stopped.await {
            Ok(set) => {
                last_set = set;
                notes.push(format!("{old} was made read-only first"));
            }
            // It is up, and somebody there does not want it: that is not passed over.
            Err(ClientError::Refused(e)) if e.kind == ApiErrorKind::Declined => {
                return Err(Failed::new(e.text));
            }
            Err::<_, ClientError>(e) => {
                notes.push(format!("{old} could not be made read-only first: {e}"));
            }
        }
    }
    let (volume, mut above) = (plan.volume.clone(), plan.newest_counter);
    if plan.split && !names_the_split(nodes, plan, to) {
        // One of the two that has not heard of the other would be content with its own line.
        above = above.saturating_add(1);
    }
    let lose_damaged_blocks = args.lose_damaged_blocks;
    let (at, now) = (args.restart_point, args.now || args.restart_point.is_some());
    let ask = WriterChange::Promote { volume, now, at, above, lose_damaged_blocks };
    let mut asked = std::pin::pin!(change(client, &ask));
    let answer = loop {
        tokio::select! {
            answer = &mut asked => break answer,
            () = tokio::time::sleep(TOLD) => waiting(client, &plan.volume, to, now).await,
        }
    };
    match (answer, up.and_then(|old| Some((old, nodes.client(old)?)))) {
        (Ok(WriterAnswer::Promoted(p)), _) => Ok((p, last_set)),
        (Ok(_), _) => Err(not_understood(to, &plan.volume)),
        (Err(e), Some(old)) if last_set.is_some() => {
            Err(not_taken(&e, old, (to, client), &plan.volume).await)
        }
        (Err(e @ ClientError::Refused(_)), _) => Err(e.into()),
        (Err(e), _) => Err(perhaps(&e, to, &plan.volume)),
    }
}

/// The node did not live to say whether it is the writer now.
fn perhaps(e: &ClientError, to: &str, volume: &str) -> Failed {
    Failed::from(e.clone()).saying(format!(
        "{e}; {to} was told to take over, and whether it has is not known: promote no other node before \
         it says so. Start it if it does not run; `rcpctl status {volume}` shows what it is, and the same \
         command goes on from there"
    ))
}

/// A node of another version, most likely.
pub(super) fn not_understood(node: &str, volume: &str) -> Failed {
    Failed::new(format!(
        "{node} answered something else than it was asked: are its rcpd and this command of one version? \
         What it did is not known: `rcpctl status {volume}` shows who writes, before anything else is \
         done"
    ))
}

/// After handing over: the old writer goes on, if it is certain that the new one is none.
async fn not_taken(
    e: &ClientError,
    (old, old_client): (&str, &Client),
    (to, client): (&str, &Client),
    volume: &str,
) -> Failed {
    match stays_replica(&volume_at(client, volume).await, to) {
        Ok(()) if matches!(e, ClientError::Refused(_)) => {
            undo(e.to_string(), old, old_client, volume).await
        }
        Ok(()) => Failed::new(format!("{e}; {}", handed_over(old, to, volume))),
        // Whoever did not answer may be the writer, or about to be.
        Err(why) => Failed::new(format!("{e}; {why}; {}", handed_over(old, to, volume))),
    }
}

/// The old writer goes on.
async fn undo(why: String, old: &str, client: &Client, volume: &str) -> Failed {
    let back = change(client, &WriterChange::TakeBack { volume: volume.to_owned() }).await;
    Failed::new(match back {
        Ok(_) => format!("{why}: {old} goes on as the writer, the volume is where it was"),
        Err(e) => format!(
            "{why}, and {old} could not be told to go on ({e}): if it has not handed over, it lets writers \
             in again within {} s; if it has, `rcpctl failover {volume} --take-back` has it go on. \
             `rcpctl status {volume}` shows which",
            HOLD.as_secs()
        ),
    })
}

/// A node that is one of two writers knows of it.
fn names_the_split(nodes: &Nodes, plan: &Plan, to: &str) -> bool {
    let there = nodes.all.iter().filter(|n| n.node == to).flat_map(|n| &n.volumes);
    there.filter(|v| v.is_called(&plan.volume)).any(|v| v.split.is_some() || v.role != "primary")
}

/// Nobody is made the writer with damage that is known, unasked.
fn damaged(plan: &Plan, to: &str, why: &str) -> Failed {
    let volume = &plan.volume;
    let other = match &plan.recommended {
        Some(n) => format!("promote {n}"),
        None => "promote another replica".to_owned(),
    };
    Failed::new(format!(
        "{to} should not take over: {why}. {other}, or wait until it was fetched again; if no other \
         copy is left: `rcpctl failover {volume} --to {to} --lose-damaged-blocks`, and what was there \
         is lost. Nothing was changed"
    ))
}

/// Says on standard error what a promotion waits for.
async fn waiting(client: &Client, volume: &str, to: &str, now: bool) {
    let Some(v) = volume_at(client, volume).await else {
        eprintln!("waiting for {to}, which does not answer just now");
        return;
    };
    let way_out = if v.stalled.is_some() {
        "; it gives up after two minutes, and stays a replica then".to_owned()
    } else if now || v.saved_set <= v.current_set {
        String::new()
    } else {
        format!("; `--now`, said elsewhere, has it go on from set {}", v.current_set)
    };
    let why = v.stalled.or(v.reason).unwrap_or_default();
    eprintln!(
        "waiting for {to}: it shows set {} and has set {}: {}{way_out}",
        v.current_set,
        v.saved_set,
        tame(&why)
    );
}

/// F33: nothing is lost, or it fails and changes nothing.
pub(super) async fn hand_over(
    plan: &Plan,
    nodes: &Nodes,
    to: &str,
    old: Option<&str>,
) -> Result<(Promoted, u64), Failed> {
    let volume = plan.volume.as_str();
    let new = nodes.need(to)?;
    if let Some(done) = volume_at(new, volume).await.and_then(writer_already) {
        return Ok((done, 0));
    }
    if let Some(done) = took_the_files(new, plan, volume, to).await? {
        return Ok((done, 0));
    }
    if let Err(why) = is_whole(new, volume).await {
        return Err(damaged(plan, to, &why));
    }
    // It would come near for ever.
    if volume_at(new, volume).await.is_some_and(|v| v.mirrors()) {
        return Err(Failed::new(format!(
            "{to} cannot take over: it mirrors, and no version of it was made: `rcpctl replicate version \
             {volume} --node {to}` first. Nothing was changed"
        )));
    }
    let Some(name) = old.filter(|o| nodes.client(o).is_some()) else {
        return Err(needs_the_writer(plan, nodes, to));
    };
    let old = nodes.need(name)?;
    let began = volume_at(old, volume).await;
    let handed = began.as_ref().and_then(|v| v.handed_over.clone());
    if let Some(h) = handed {
        if h.to != to {
            return Err(Failed::new(format!(
                "{name} has handed {volume} over to {} already: go on with --to {}, or take it back \
                 with --take-back",
                h.to, h.to
            )));
        }
        return match finish(new, plan, h.set).await {
            Ok(p) => Ok((p, 0)),
            Err(e) => Err(not_taken(&e, (name, old), (to, new), volume).await),
        };
    }
    if let Some(why) = began.as_ref().and_then(|v| v.fenced.clone()) {
        return Err(Failed::new(format!("{name}: {why}. Nothing was changed")));
    }
    if let Some(was) = began.as_ref().filter(|v| v.role != "primary") {
        return after_the_old_writer(was, volume_at(new, volume).await, name, to).map(|p| (p, 0));
    }
    comes_near(began, (name, old), (to, new), volume).await?;
    let clock = crate::clock::mono();
    let limit_ms = u64::try_from(HOLD.as_millis()).unwrap_or(u64::MAX);
    let hold = WriterChange::Hold { volume: volume.to_owned(), limit_ms };
    let WriterAnswer::Held(cut) = change(old, &hold).await? else {
        return Err(not_understood(name, volume));
    };
    if let Err(at) = reaches(new, volume, cut.set, LAST_SET).await {
        let why = format!("{to} {at} and did not get the last set {} in time", cut.set);
        return Err(undo(why, name, old, volume).await);
    }
    let over = WriterChange::HandOver {
        volume: volume.to_owned(),
        to: to.to_owned(),
        set: cut.set,
        whole: true,
    };
    if let Err(e) = change(old, &over).await {
        let why = format!("{name} could not hand over ({e})");
        return Err(undo(why, name, old, volume).await);
    }
    match finish(new, plan, cut.set).await {
        Ok(p) => {
            let took = crate::clock::mono().since(clock);
            Ok((p, u64::try_from(took.as_millis()).unwrap_or(u64::MAX)))
        }
        Err(e) => Err(not_taken(&e, (name, old), (to, new), volume).await),
    }
}

/// Before writers are held: the new node has what was written so far, but for a little. What is
/// dirty goes out in sets of its own while writers go on.
async fn comes_near(
    began: Option<VolumeInfo>,
    (name, old): (&str, &Client),
    (to, new): (&str, &Client),
    volume: &str,
) -> Result<(), Failed> {
    let (mut set, mut dirty) = began.map_or((0, 0), |v| (v.current_set, v.dirty_bytes));
    for round in 0..=ROUNDS {
        reaches(new, volume, set, NEAR).await.map_err(|at| {
            Failed::new(format!(
                "{to} {at} and did not reach set {set} of {name} within {} s: nothing was changed",
                NEAR.as_secs()
            ))
        })?;
        merges(new, volume, set).await;
        if dirty <= RESIDUE || round == ROUNDS {
            return Ok(());
        }
        let cut = requests::Cut { volume: volume.to_owned(), keep: false };
        // What is against a set is said by the hold, which needs one too.
        let Ok(cut) = old.post::<_, CutInfo>(paths::CUT, &cut).await else { return Ok(()) };
        let left = volume_at(old, volume).await;
        (set, dirty) = (cut.set, left.map_or(0, |v| v.dirty_bytes));
    }
    Ok(())
}

/// The old writer is a replica already: the command was cut short before the routes were changed,
/// and the new writer, started again, waits for those below it to confirm, which it gets with them.
fn after_the_old_writer(
    was: &VolumeInfo,
    new: Option<VolumeInfo>,
    name: &str,
    to: &str,
) -> Result<Promoted, Failed> {
    let waits = new.filter(|v| v.role == "primary" && v.confirming);
    waits.map(promoted).ok_or_else(|| {
        let volume = &was.label;
        Failed::new(format!(
            "{name} is no writer of {volume} any more, and {to} is none: nothing was changed. \
             `rcpctl failover {volume} --plan` shows who can go on; `rcpctl failover {volume} --to \
             NODE`, without --sync, makes it the writer"
        ))
    })
}

/// A node that holds the very files that were handed over to it has all there is: it opens its line.
pub(super) async fn took_the_files(
    new: &Client,
    plan: &Plan,
    volume: &str,
    to: &str,
) -> Result<Option<Promoted>, Failed> {
    let there = volume_at(new, volume).await;
    let own =
        |v: &VolumeInfo| v.role == "primary" && v.handed_over.as_ref().is_some_and(|h| h.to == to);
    let Some(v) = there.filter(own) else { return Ok(None) };
    let (now, at, lose_damaged_blocks, above) = (false, None, false, plan.newest_counter);
    let ask = WriterChange::Promote { volume: v.id, now, at, above, lose_damaged_blocks };
    match change(new, &ask).await? {
        WriterAnswer::Promoted(p) => Ok(Some(p)),
        _ => Err(not_understood(to, volume)),
    }
}

/// A swap is made with the writer, or not at all.
fn needs_the_writer(plan: &Plan, nodes: &Nodes, to: &str) -> Failed {
    let volume = &plan.volume;
    Failed::new(format!(
        "a planned swap (--sync) needs the writer {}, and it {}: nothing was changed. If it is dead, the \
         volume can go on from what {to} has: `rcpctl failover {volume} --plan` shows what would be lost, \
         and `rcpctl failover {volume} --to {to} --adopt` does it",
        plan.writer.as_deref().unwrap_or("(unknown)"),
        plan.writer.as_deref().map_or("did not answer", |w| nodes.round.silence(w))
    ))
}

/// What to do after a swap that may have come to its end.
fn handed_over(from: &str, to: &str, volume: &str) -> String {
    format!(
        "{from} has handed over and stays read-only: say `rcpctl failover {volume} --sync --to {to}` \
         again, or `rcpctl failover {volume} --take-back`, which looks at {to} first"
    )
}

/// The node that a volume was handed over to is no writer, and is not about to be one.
pub(super) fn stays_replica(there: &Option<VolumeInfo>, to: &str) -> Result<(), String> {
    match there {
        None => Err(format!("{to} does not answer: it may be the writer already")),
        Some(v) if v.role == "primary" => Err(format!("{to} is the writer already")),
        Some(v) if v.promoting => Err(format!("{to} is being promoted")),
        Some(_) => Ok(()),
    }
}

/// It took over before.
fn writer_already(v: VolumeInfo) -> Option<Promoted> {
    (v.role == "primary" && v.fenced.is_none()).then(|| promoted(v))
}

fn promoted(v: VolumeInfo) -> Promoted {
    Promoted {
        generation: v.generation,
        set: v.current_set,
        newest_known_set: v.current_set,
        fresh: false,
        damaged: None,
    }
}

async fn finish(new: &Client, plan: &Plan, set: u64) -> Result<Promoted, ClientError> {
    let (volume, above) = (plan.volume.clone(), plan.newest_counter);
    let (now, at, lose_damaged_blocks) = (false, Some(set), false);
    let ask = WriterChange::Promote { volume, now, at, above, lose_damaged_blocks };
    match change(new, &ask).await? {
        WriterAnswer::Promoted(p) if p.set >= set => Ok(p),
        WriterAnswer::Promoted(p) => Err(ClientError::Broken(format!(
            "it is the writer since set {}, and was to go on from set {set}",
            p.set
        ))),
        _ => Err(ClientError::Broken("an answer of the wrong kind".to_owned())),
    }
}

/// Waits until nothing is known to be damaged at a node: its parent is up, and heals it.
async fn is_whole(client: &Client, volume: &str) -> Result<(), String> {
    let until = crate::clock::mono().after(WHOLE);
    loop {
        let damage = volume_at(client, volume).await.and_then(|v| v.damage);
        let Some(why) = damage else { return Ok(()) };
        if crate::clock::mono() >= until {
            return Err(why);
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Waits until a node could go on from a set; else where it is, in words.
async fn reaches(client: &Client, volume: &str, set: u64, limit: Duration) -> Result<(), String> {
    let mut at = "does not answer".to_owned();
    let until = crate::clock::mono().after(limit);
    loop {
        if let Some(v) = volume_at(client, volume).await {
            match could_go_on(&v, set) {
                Ok(()) => return Ok(()),
                Err(why) => at = why,
            }
        }
        if crate::clock::mono() >= until {
            return Err(at);
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Gives a node time to have the content of a set in full, so that its promotion need not write it.
/// Where it is not shown soon (playback may be paused), or not done in time, the promotion does it.
async fn merges(client: &Client, volume: &str, set: u64) {
    let began = crate::clock::mono();
    while let Some(v) = volume_at(client, volume).await
        && v.merged_set < set
        && v.stalled.is_none()
    {
        let limit = if v.current_set < set { SHOWN } else { MERGED };
        if crate::clock::mono() >= began.after(limit) {
            return;
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// A node may have received a set, and still lack blocks of the state below it.
fn could_go_on(v: &VolumeInfo, set: u64) -> Result<(), String> {
    match v.saved_set {
        at if at < set => Err(format!("is at set {at}")),
        at if v.mirrors() => {
            Err(format!("has set {at} and mirrors (`rcpctl replicate version` makes it a replica)"))
        }
        at if !v.state.starts_with("readable") => {
            Err(format!("has set {at} and holds no whole state ({})", v.state))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_writer_that_waits_to_be_confirmed_gets_its_routes() {
        let there = |role: &str, confirming| VolumeInfo {
            label: "vol".to_owned(),
            role: role.to_owned(),
            confirming,
            fenced: confirming.then(|| "fenced: waiting".to_owned()),
            current_set: 7,
            ..VolumeInfo::default()
        };
        let old = there("replica", false);
        let done = after_the_old_writer(&old, Some(there("primary", true)), "p", "l1");
        let done = done.expect("it is the writer");
        assert_eq!((done.set, done.fresh), (7, false));
        for new in [None, Some(there("replica", false)), Some(there("primary", false))] {
            let e = after_the_old_writer(&old, new, "p", "l1").expect_err("nobody writes");
            assert!(format!("{e:?}").contains("without --sync"), "{e:?}");
        }
    }

    #[test]
    fn nothing_is_handed_over_to_a_node_that_lacks_blocks() {
        let there = |state: &str, saved_set| VolumeInfo {
            state: state.to_owned(),
            saved_set,
            ..VolumeInfo::default()
        };
        assert_eq!(could_go_on(&there("readable, 2 sets to merge", 7), 7), Ok(()));
        assert_eq!(could_go_on(&there("readable", 6), 7), Err("is at set 6".to_owned()));
        let why = could_go_on(&there("mirroring, 1 sets to merge", 8), 7).expect_err("not read");
        assert!(why.contains("rcpctl replicate version"), "{why}");
        let why = could_go_on(&there("catching up", 8), 7).expect_err("not whole");
        assert_eq!(why, "has set 8 and holds no whole state (catching up)");
    }

    #[test]
    fn only_a_replica_that_says_so_lets_the_old_writer_go_on() {
        let there = |role: &str, promoting| {
            Some(VolumeInfo { role: role.to_owned(), promoting, ..VolumeInfo::default() })
        };
        assert_eq!(stays_replica(&there("replica", false), "b"), Ok(()));
        for (v, word) in [
            (None, "does not answer"),
            (there("primary", false), "is the writer"),
            (there("replica", true), "is being promoted"),
        ] {
            let why = stays_replica(&v, "b").expect_err("refused");
            assert!(why.contains(word), "{why}");
        }
    }
}
