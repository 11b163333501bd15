//! `rcpctl verify`: are all replicas what the primary is?

use std::time::Duration;

use clap::Args;
use serde::Serialize;

use super::columns::columns;
use super::output::{Failed, print, print_json};
use super::status::{self, Asked};
use super::target::{Surroundings, Target};
use crate::api::VolumeInfo;

/// How often nodes that are at different states are asked, and how long to wait in between.
const TRIES: u32 = 50;
const PAUSE: Duration = Duration::from_millis(100);

/// Which volume, of which nodes.
#[derive(Args, Clone, Debug)]
pub(super) struct VerifyArgs {
    /// The volume
    volume: String,
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
}

pub(super) async fn run(args: VerifyArgs, around: &Surroundings) -> Result<(), Failed> {
    let (here, elsewhere) = status::present(&args.target, around)?;
    let mut tries = 0;
    let all = loop {
        let asked = status::ask(&here).await;
        let all = compare(&args.volume, &asked)?;
        let open = all.iter().any(|c| c.verdict == Verdict::Unknown && c.text.is_none());
        tries += 1;
        if !open || tries >= TRIES {
            break all;
        }
        tokio::time::sleep(PAUSE).await;
    };
    if args.json {
        print_json(&all)?;
    } else {
        print(&table(&args.volume, &all, &elsewhere))?;
    }
    let count = |v| all.iter().filter(|c| c.verdict == v).count();
    match (count(Verdict::Differs), count(Verdict::Unknown)) {
        (0, 0) => Ok(()),
        (0, n) => Err(Failed::new(format!("{n} of {} nodes could not be compared", all.len()))),
        (n, _) => Err(Failed::new(format!(
            "{n} of {} nodes do not hold what the primary holds; reads of them are refused",
            all.len()
        ))),
    }
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
            }),
        }
    }
    let Some((name, primary)) = held.iter().find(|(_, v)| v.role == "primary") else {
        return Err(Failed::new(format!(
            "none of the nodes asked is the primary of a volume {label}: name its node, or all \
             with --topology; `rcpctl status` lists volumes"
        )));
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
        });
    }
    Ok(out)
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
                c.text.clone().unwrap_or_default(),
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
        assert!(compare("other", &asked).is_err());
    }
}
