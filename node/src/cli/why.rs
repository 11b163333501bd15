//! `rcpctl why`: what holds the copies of a volume back, and what to mend first.

use clap::Args;
use serde::Serialize;

use super::client::ClientError;
use super::output::{Failed, print, print_json};
use super::status::{self, Asked, tame};
use super::target::{Surroundings, Target};
use super::text::{plural, span};
use crate::why::{Answer, Cause, Copy, Explained, Said, Unknown, explain};

/// Which volume, of which nodes.
#[derive(Args, Clone, Debug)]
pub(super) struct WhyArgs {
    /// The volume
    volume: String,
    /// Only this node's copy
    #[arg(long, value_name = "NODE")]
    copy: Option<String>,
    /// Print the answer as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    target: Target,
}

/// The answer for programs.
#[derive(Serialize)]
struct Answered<'a> {
    #[serde(flatten)]
    found: &'a Explained,
    not_asked: &'a [String],
}

pub(super) async fn run(args: WhyArgs, around: &Surroundings) -> Result<(), Failed> {
    let (here, elsewhere) = status::present(&args.target, around)?;
    let asked = status::ask(&here).await;
    if let [Asked { answer: Err(error), .. }] = asked.as_slice() {
        return Err(Failed::from(error.clone()));
    }
    // A folder knows whose it is, also when its node is down.
    let names = here.iter().zip(&asked).map(|(e, a)| e.node_name().unwrap_or(a.called.clone()));
    let mut found = explained(&args.volume, &names.collect::<Vec<_>>(), &asked)?;
    if let Some(node) = &args.copy {
        only(node, &mut found)?;
    }
    if args.json {
        return print_json(&Answered { found: &found, not_asked: &elsewhere });
    }
    print(&tame(&text(&found, &elsewhere)))
}

fn only(node: &str, found: &mut Explained) -> Result<(), Failed> {
    let all: Vec<String> = found.copies.iter().map(|c| c.node.clone()).collect();
    found.copies.retain(|c| c.node == node);
    if !found.copies.is_empty() {
        return Ok(());
    }
    let all = if all.is_empty() { "none of the nodes asked".to_owned() } else { all.join(", ") };
    Err(Failed::new(tame(&format!("{node} has no copy of {}: copies are at {all}", found.volume))))
}

/// What is to be said of a volume by what nodes answered.
fn explained(volume: &str, names: &[String], asked: &[Asked]) -> Result<Explained, Failed> {
    let errors: Vec<String> = asked
        .iter()
        .map(|a| a.answer.as_ref().err().map(ToString::to_string).unwrap_or_default())
        .collect();
    let answers: Vec<Answer<'_>> = asked
        .iter()
        .zip(names.iter().zip(&errors))
        .map(|(a, (node, error))| {
            let said = match &a.answer {
                Ok(status) => Said::Status(status),
                Err(ClientError::Refused(_)) => Said::Refused(error),
                Err(_) => Said::Nothing(error),
            };
            Answer { node, said }
        })
        .collect();
    let nodes = plural(asked.len() as u64, "node");
    explain(volume, &answers).map_err(|why| match why {
        Unknown::Several(groups) => Failed::new(format!(
            "{volume} is the name of a volume in each of the groups {}: name it by its UUID \
             (`rcpctl volume list`)",
            groups.join(", ")
        )),
        Unknown::Nowhere if asked.iter().any(|a| a.answer.is_ok()) => {
            let silent = asked.iter().filter(|a| a.answer.is_err()).count() as u64;
            let silent = match silent {
                0 => String::new(),
                n => format!(" ({} did not answer)", plural(n, "node")),
            };
            Failed::new(format!(
                "no volume {volume} at {nodes}{silent}: `rcpctl volume list` shows what there is"
            ))
        }
        Unknown::Nowhere => {
            let all: Vec<_> =
                names.iter().zip(&errors).map(|(n, e)| format!("\n  {n}: {e}")).collect();
            Failed::new(format!("none of {nodes} answered:{}", all.concat()))
        }
    })
}

/// Copies that wait for the same thing stand together below it.
fn text(found: &Explained, elsewhere: &[String]) -> String {
    let mut out = match (&found.writer, found.newest) {
        (Some(w), Some(set)) => {
            format!("{}: {w} writes it; its newest set is {set}\n", found.volume)
        }
        _ => format!("{}: none of the nodes that answered writes it\n", found.volume),
    };
    let mut held: Vec<(&Cause, Vec<&Copy>)> = Vec::new();
    let (mut under_way, mut current) = (Vec::new(), Vec::new());
    for copy in &found.copies {
        match copy.causes.first() {
            Some(first) => {
                let same =
                    |c: &Cause| (&c.at, c.kind, &c.text) == (&first.at, first.kind, &first.text);
                match held.iter_mut().find(|(c, _)| same(c)) {
                    Some((_, copies)) => copies.push(copy),
                    None => held.push((first, vec![copy])),
                }
            }
            // Its node is among those that are not heard.
            None if found.unheard.iter().any(|u| u.node == copy.node) => {}
            None if copy.is_behind(found.newest) => under_way.push(copy.node.as_str()),
            None => current.push(copy.node.as_str()),
        }
    }
    held.sort_by_key(|(c, copies)| (!c.stops, std::cmp::Reverse(copies.len())));
    for (i, (cause, copies)) in held.into_iter().enumerate() {
        if i == 0 {
            out.push('\n');
        }
        out.push_str(&because(cause));
        for c in copies {
            out.push_str(&line(c));
        }
    }
    if out.lines().count() > 1 {
        out.push('\n');
    }
    if !under_way.is_empty() {
        out.push_str(&format!("Sets are on their way to: {}\n", under_way.join(", ")));
    }
    if !current.is_empty() {
        out.push_str(&format!("Nothing holds back: {}\n", current.join(", ")));
    }
    for u in &found.unheard {
        let why = u.why.replace('\n', " ");
        out.push_str(&format!("There, and could not be asked: {}: {why}\n", u.node));
    }
    if found.copies.is_empty() {
        out.push_str("No copies at the nodes asked\n");
    }
    if !elsewhere.is_empty() {
        out.push_str(&format!("not on this machine, not asked: {}\n", elsewhere.join(", ")));
    }
    out
}

/// `f1 -> l1: the connection takes ... (for 12 s)`, and what it follows from.
fn because(cause: &Cause) -> String {
    let mut out = String::new();
    let mut at = Some(cause);
    while let Some(c) = at {
        let sign = if out.is_empty() { "" } else { "  which follows from " };
        out.push_str(&format!("{sign}{}\n", words(c)));
        at = c.because.as_deref();
    }
    out
}

fn words(c: &Cause) -> String {
    let lasts = c.for_seconds.map_or(String::new(), |s| format!(" (for {})", span(s.round())));
    format!("{}: {}{lasts}", c.at, c.text).replace('\n', " ")
}

fn line(copy: &Copy) -> String {
    let set = copy.set.map_or(String::new(), |s| format!(" at set {s}"));
    let lag = copy.lag_seconds.map_or(String::new(), |s| format!(", {} old", span(s)));
    let mut out = format!("    holds back {}{set}{lag}\n", copy.node);
    for c in copy.causes.iter().skip(1) {
        out.push_str(&format!("        and then {}\n", words(c.root())));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::why::tests::{Net, delayed};

    #[test]
    fn copies_stand_below_what_they_wait_for() {
        let mut net = Net::new();
        net.dies("x");
        net.waits_for("f", "x");
        net.volume("f").reason = Some("older than it may be".to_owned());
        net.volume("f").replicating = false;
        net.stream("f", "l").delayed = Some(delayed("link"));
        net.volume("l").lag_seconds = Some(12.25);
        net.volume("y").current_set = 9;
        let elsewhere = ["z".to_owned()];
        let seen = text(&net.explain(), &elsewhere);
        let expected = "\
vol: p writes it; its newest set is 9

f: replication is stopped: `rcpctl replicate start vol --node f`; and older than it may be
    holds back f at set 7
        and then x: it does not answer: no rcpd is running; f says: connection refused
f: the save volume is full of what x has not taken
  which follows from x: it does not answer: no rcpd is running; f says: connection refused
    holds back l at set 7, 12 s old
        and then f -> l: because of the link (for 10 s)
x: it does not answer: no rcpd is running; f says: connection refused
    holds back x

Nothing holds back: y
not on this machine, not asked: z
";
        assert!(seen == expected, "seen:\n{seen}\nexpected:\n{expected}");
        // All is well.
        let mut net = Net::new();
        for n in ["l", "x", "y"] {
            net.volume(n).current_set = 9;
        }
        let seen = text(&net.explain(), &[]);
        let expected = "\
vol: p writes it; its newest set is 9
Sets are on their way to: f
Nothing holds back: l, x, y
";
        assert!(seen == expected, "seen:\n{seen}\nexpected:\n{expected}");
    }
}
