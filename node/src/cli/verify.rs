//! `rcpctl verify`: are all replicas what the primary is?

use std::time::Duration;

use clap::Args;
use config::units::{parse_duration, parse_size};
use serde::Serialize;

use super::block;
use super::columns::columns;
use super::output::{Failed, print, print_json};
use super::status::{self, Asked};
use super::target::{Endpoint, Surroundings, Target};
use crate::api::{MemberResult, VolumeInfo};
use crate::hex;
use crate::http::{paths, requests};
use crate::mover::SCRUB;

/// How often nodes that are at different states are asked, and how long to wait in between.
const TRIES: u32 = 50;
const PAUSE: Duration = Duration::from_millis(100);

/// How long one request waits for all members; it is asked again until the time is up.
const AT_ONCE: Duration = Duration::from_secs(30);

/// Which volume, of which nodes.
#[derive(Args, Clone, Debug)]
pub(super) struct VerifyArgs {
    /// The volume
    volume: String,
    /// Have every replica of the group read all of its content now, and hold each block against its
    /// hash and all hashes against the digest; then compare
    #[arg(long)]
    deep: bool,
    /// Bytes per second that each replica reads
    #[arg(long, value_name = "RATE", default_value = "64MiB/s", requires = "deep", value_parser = rate)]
    rate: u64,
    /// How long to wait for all replicas
    #[arg(long, value_name = "TIME", default_value = "1h", requires = "deep", value_parser = duration)]
    wait: Duration,
    /// Print the answer as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    target: Target,
}

/// What came of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Verdict {
    /// It is the primary: the others are held against it.
    Primary,
    /// Its digest is the primary's.
    Equal,
    /// It is not.
    Differs,
    /// It could not be compared.
    Unknown,
}

/// One node's part of the answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Compared {
    /// The node.
    pub(super) node: String,
    /// What came of it.
    pub(super) verdict: Verdict,
    /// The state that was compared.
    pub(super) set: Option<u64>,
    /// Its digest there.
    pub(super) digest: Option<String>,
    /// What to know or to do.
    pub(super) text: Option<String>,
    /// With --deep: what came of reading all of its content.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) deep: Option<Deep>,
}

/// What a replica said of its content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Deep {
    /// All of it is what was stored.
    pub(super) ok: bool,
    /// In words.
    pub(super) text: String,
}

/// `64MiB/s`, or without the `/s`.
fn rate(text: &str) -> Result<u64, String> {
    parse_size(text.strip_suffix("/s").unwrap_or(text)).map_err(|e| e.to_string())
}

fn duration(text: &str) -> Result<Duration, String> {
    parse_duration(text).map_err(|e| e.to_string())
}

pub(super) async fn run(args: VerifyArgs, around: &Surroundings) -> Result<(), Failed> {
    let (here, elsewhere) = status::present(&args.target, around)?;
    let read = if args.deep { Some(read_all(&args, &here).await?) } else { None };
    let mut tries = 0;
    let mut all = loop {
        let asked = status::ask(&here).await;
        let all = compare(&args.volume, &asked)?;
        let open = all.iter().any(|c| c.verdict == Verdict::Unknown && c.text.is_none());
        tries += 1;
        if !open || tries >= TRIES {
            break all;
        }
        tokio::time::sleep(PAUSE).await;
    };
    for m in read.iter().flatten() {
        add(&mut all, m);
    }
    if args.json {
        print_json(&all)?;
    } else {
        print(&table(&args.volume, &all, &elsewhere))?;
    }
    outcome(&all)
}

fn outcome(all: &[Compared]) -> Result<(), Failed> {
    let count = |v| all.iter().filter(|c| c.verdict == v).count();
    let damaged = all.iter().filter(|c| c.deep.as_ref().is_some_and(|d| !d.ok)).count();
    let n = all.len();
    match (count(Verdict::Differs), damaged, count(Verdict::Unknown)) {
        (0, 0, 0) => Ok(()),
        (0, 0, k) => Err(Failed::new(format!("{k} of {n} nodes could not be compared"))),
        (0, k, _) => Err(Failed::new(format!(
            "{k} of {n} nodes had damaged content, or did not say that theirs is whole"
        ))),
        (k, ..) => Err(Failed::new(format!(
            "{k} of {n} nodes do not hold what the primary holds; reads of them are refused"
        ))),
    }
}

/// What a member said is shown beside what its digest says.
fn add(all: &mut Vec<Compared>, m: &MemberResult) {
    let deep = Some(Deep { ok: m.ok, text: m.text.clone() });
    match all.iter_mut().find(|c| c.node == m.node) {
        Some(c) => c.deep = deep,
        None => all.push(Compared {
            node: m.node.clone(),
            verdict: Verdict::Unknown,
            set: None,
            digest: None,
            text: None,
            deep,
        }),
    }
}

/// Has every replica read all of its content; the primary passes the order on, and gathers what
/// they say.
async fn read_all(args: &VerifyArgs, here: &[Endpoint]) -> Result<Vec<MemberResult>, Failed> {
    let label = &args.volume;
    let asked = status::ask(here).await;
    let source = here.iter().zip(&asked).find_map(|(e, a)| {
        let node = a.answer.as_ref().ok()?;
        let named = |v: &&VolumeInfo| v.label == *label || v.id == *label;
        let v = node.volumes.iter().find(named).filter(|v| v.role == "primary")?;
        Some((e.client(), v.group.clone()))
    });
    let Some((client, group)) = source else { return Err(no_primary(label)) };
    let data = hex::encode(format!("{label} {}", args.rate).as_bytes());
    let id = block::new_id().to_string();
    let mut left = args.wait;
    loop {
        let wait = left.min(AT_ONCE);
        left = left.saturating_sub(wait);
        let (kind, after) = (SCRUB.to_owned(), Some(label.clone()));
        let body = requests::Block {
            group: group.clone(),
            id: id.clone(),
            kind,
            after,
            data: data.clone(),
            wait_s: wait.as_secs().max(1),
        };
        let all: Vec<MemberResult> = client.post(paths::BLOCK_SEND, &body).await?;
        // Who is not there, or has not ended: what is said of them is not final.
        let open = |m: &MemberResult| !m.ok && is_open(&m.text);
        if left.is_zero() || !all.iter().any(open) {
            return Ok(all);
        }
    }
}

/// The words of somebody who has not executed a block yet, and will.
fn is_open(text: &str) -> bool {
    if text.contains("digests differ") {
        return false;
    }
    ["waits for ", "not connected", "it, or a node below it"].iter().any(|w| text.starts_with(w))
}

fn no_primary(label: &str) -> Failed {
    Failed::new(format!(
        "none of the nodes asked is the primary of a volume {label}: name its node, or all with \
         --topology; `rcpctl status` lists volumes"
    ))
}

/// Holds every replica against the primary, at the newest state of which both know the digest.
pub(super) fn compare(label: &str, asked: &[Asked]) -> Result<Vec<Compared>, Failed> {
    let mut held: Vec<(&str, &VolumeInfo)> = Vec::new();
    let mut out = Vec::new();
    for a in asked {
        match &a.answer {
            Ok(node) => {
                let volume = node.volumes.iter().find(|v| v.label == label && v.role != "relay");
                held.extend(volume.map(|v| (node.node.as_str(), v)));
            }
            Err(e) => out.push(Compared {
                node: a.called.clone(),
                verdict: Verdict::Unknown,
                set: None,
                digest: None,
                text: Some(e.to_string()),
                deep: None,
            }),
        }
    }
    let Some((name, primary)) = held.iter().find(|(_, v)| v.role == "primary") else {
        return Err(no_primary(label));
    };
    let known = primary.digests.first();
    out.insert(
        0,
        Compared {
            node: (*name).to_owned(),
            verdict: Verdict::Primary,
            set: known.map(|d| d.set),
            digest: known.map(|d| d.digest.clone()),
            text: primary.digest_missing.clone(),
            deep: None,
        },
    );
    for (name, v) in held.iter().filter(|(_, v)| v.role != "primary") {
        let common = v
            .digests
            .iter()
            .find_map(|d| primary.digests.iter().find(|p| p.set == d.set).map(|p| (d, p)));
        let verdict = match common {
            _ if v.differs.is_some() => Verdict::Differs,
            Some((d, p)) if d.digest == p.digest => Verdict::Equal,
            Some(_) => Verdict::Differs,
            None => Verdict::Unknown,
        };
        let missing = v.digest_missing.clone().or_else(|| primary.digest_missing.clone());
        let text = match verdict {
            Verdict::Differs => v.reason.clone(),
            Verdict::Unknown => missing,
            _ => None,
        };
        out.push(Compared {
            node: (*name).to_owned(),
            verdict,
            set: common.map(|(d, _)| d.set),
            digest: common.map(|(d, _)| d.digest.clone()),
            text,
            deep: None,
        });
    }
    suspect(label, &mut out);
    Ok(out)
}

/// Where all replicas differ in the same way, it is the primary that is to be looked at.
fn suspect(label: &str, all: &mut [Compared]) {
    let Some((primary, others)) = all.split_first_mut() else { return };
    let held: Vec<&Compared> =
        others.iter().filter(|c| matches!(c.verdict, Verdict::Equal | Verdict::Differs)).collect();
    let same =
        |a: &&Compared, b: &&Compared| (a.set, &a.digest) == (b.set, &b.digest) && a.set.is_some();
    let all_differ = held.iter().all(|c| c.verdict == Verdict::Differs);
    if held.len() > 1 && all_differ && held.is_sorted_by(same) {
        primary.text = Some(format!(
            "all {} replicas hold the same, and something else than this: it is the content or the \
             hashes here that are the suspect; look at the disk, and read what matters at a replica \
             before anything else is done (`rcpctl failover {label} --plan`)",
            held.len()
        ));
    }
}

/// What the content is found to be goes before what the digest is found to be.
fn words(c: &Compared) -> String {
    let deep = c.deep.as_ref().map(|d| match d.ok {
        true => format!("read in full: {}", d.text),
        false => format!("READ IN FULL: {}", d.text),
    });
    deep.into_iter().chain(c.text.clone()).collect::<Vec<_>>().join("; ")
}

fn table(label: &str, all: &[Compared], elsewhere: &[String]) -> String {
    let rows: Vec<Vec<String>> = all
        .iter()
        .map(|c| {
            let verdict = match c.verdict {
                Verdict::Primary => "primary",
                Verdict::Equal => "equal",
                Verdict::Differs => "DIFFERS",
                Verdict::Unknown => "not known",
            };
            let dash = || "-".to_owned();
            vec![
                c.node.clone(),
                verdict.to_owned(),
                c.set.map_or_else(dash, |s| s.to_string()),
                c.digest.clone().unwrap_or_else(dash),
                words(c),
            ]
        })
        .collect();
    let mut out = columns(&["NODE", label, ">SET", "DIGEST", ""], &rows);
    if !elsewhere.is_empty() {
        out.push_str(&format!("not on this machine, not asked: {}\n", elsewhere.join(", ")));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{NodeStatus, StateDigest};

    fn node(name: &str, role: &str, digests: &[(u64, &str)]) -> Asked {
        let digests = digests
            .iter()
            .map(|(set, d)| StateDigest { set: *set, digest: (*d).to_owned() })
            .collect();
        let volume = VolumeInfo {
            label: "vol1".to_owned(),
            role: role.to_owned(),
            digests,
            ..VolumeInfo::default()
        };
        let status =
            NodeStatus { node: name.to_owned(), volumes: vec![volume], ..NodeStatus::default() };
        Asked { called: name.to_owned(), answer: Ok(status) }
    }

    #[test]
    fn replicas_are_held_against_the_primary_at_a_common_state() {
        let asked = [
            node("b", "replica", &[(3, "aa"), (2, "bb")]),
            node("a", "primary", &[(4, "cc"), (3, "aa"), (2, "xx")]),
            node("c", "replica", &[(2, "bb")]),
            node("d", "replica", &[(1, "dd")]),
            node("e", "relay", &[]),
        ];
        let all = compare("vol1", &asked).expect("a primary");
        let said: Vec<_> = all.iter().map(|c| (c.node.as_str(), c.verdict, c.set)).collect();
        assert_eq!(
            said,
            [
                ("a", Verdict::Primary, Some(4)),
                ("b", Verdict::Equal, Some(3)),
                ("c", Verdict::Differs, Some(2)),
                ("d", Verdict::Unknown, None),
            ]
        );
        assert!(table("vol1", &all, &[]).contains("DIFFERS"));
        assert_eq!(all[0].text, None, "one that is equal speaks for the primary");
        assert!(compare("other", &asked).is_err());
        // All replicas against the primary.
        let asked = [
            node("a", "primary", &[(3, "aa")]),
            node("b", "replica", &[(3, "bb")]),
            node("c", "replica", &[(3, "bb")]),
        ];
        let all = compare("vol1", &asked).expect("a primary");
        assert!(all[0].text.as_ref().is_some_and(|t| t.contains("the suspect")), "{all:?}");
        let asked = [
            node("a", "primary", &[(3, "aa")]),
            node("b", "replica", &[(3, "bb")]),
            node("c", "replica", &[(3, "cc")]),
        ];
        assert_eq!(compare("vol1", &asked).expect("a primary")[0].text, None);
    }
}
