//! The commands of the source systems, in their own words: `fs_replicate`, `server_config` and the
//! like, each as the command of `rcpctl` that does the same, or with a sentence that says what does
//! (CMD-01 to CMD-03, CMD-13 to CMD-18). `node/docs/spellings.md` has the table.
//!
//! Options of `rcpctl`, which begin with two hyphens, come last and are passed on as they are.

/// A command of `rcpctl`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Meant {
    /// Its words.
    pub(super) words: Vec<String>,
    /// What is other than it was there.
    pub(super) note: Option<&'static str>,
}

/// `LABEL`, or `LABEL:cel=NODE`.
#[derive(Clone, Debug)]
struct Operand {
    label: String,
    node: Option<String>,
}

impl Operand {
    fn new(word: &str) -> Self {
        match word.split_once(":cel=") {
            Some((label, node)) => Self { label: label.to_owned(), node: Some(cel(node)) },
            None => Self { label: word.to_owned(), node: None },
        }
    }
}

/// `cell1-ser2` is `cel1-ser2`.
fn cel(node: &str) -> String {
    let digits = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
    let numbers = node.strip_prefix("cell").and_then(|rest| rest.split_once("-ser"));
    match numbers.filter(|(cell, server)| digits(cell) && digits(server)) {
        Some((cell, server)) => format!("cel{cell}-ser{server}"),
        None => node.to_owned(),
    }
}

/// The words before options of `rcpctl`, these options, and the node that they name.
struct Said {
    words: Vec<String>,
    own: Vec<String>,
    node: Option<String>,
}

impl Said {
    fn new(words: &[String]) -> Self {
        let from = words.iter().position(|w| w.starts_with("--")).unwrap_or(words.len());
        let (mut own, mut node) = (Vec::new(), None);
        let mut rest = words[from..].iter();
        while let Some(w) = rest.next() {
            if w == "--node" {
                node = rest.next().cloned();
            } else if let Some(n) = w.strip_prefix("--node=") {
                node = Some(n.to_owned());
            } else {
                own.push(w.clone());
            }
        }
        // One argument may hold several words.
        let words = words[..from].iter().flat_map(|w| w.split_whitespace());
        Self { words: words.map(str::to_owned).collect(), own, node }
    }

    fn meant(&self, words: &[&str], note: Option<&'static str>) -> Meant {
        let words = words.iter().map(|w| (*w).to_owned()).chain(self.own.iter().cloned());
        Meant { words: words.collect(), note }
    }

    /// The same, asked of the node that was named.
    fn asked(&self, words: &[&str], note: Option<&'static str>) -> Meant {
        let mut meant = self.meant(words, note);
        if let Some(node) = &self.node {
            meant.words.extend(["--node".to_owned(), node.clone()]);
        }
        meant
    }
}

/// What a command of the source systems means here; `None`: it is none.
///
/// # Errors
/// It has no counterpart, or words are missing: what to say.
pub(super) fn meant(words: &[String]) -> Option<Result<Meant, String>> {
    let (first, rest) = words.split_first()?;
    let name = first.trim_start_matches(['.', '$']);
    // Options also appear joined to the name.
    let (name, joined) = match name.find("-") {
        Some(at) => (&name[..at], Some(name[at..].to_owned())),
        None => (name, None),
    };
    let all: Vec<String> = joined.into_iter().chain(rest.iter().cloned()).collect();
    let said = Said::new(&all);
    Some(match name {
        "fs_replicate" => replicate(&said),
        "fs_copy" => Err("a node that comes back gets by itself what changed between two states; \
             `rcpctl delta pull VOLUME STATE --to FILE` brings a file from one kept state to another, \
             and `rcpctl replicate seed VOLUME --to NODE` makes a copy anew"
            .to_owned()),
        "server_mount" => Err("a former writer is read-only as soon as it has heard of the new one \
             (`rcpctl status VOLUME` says so), and `rcpctl resync VOLUME --node NODE` comes next; \
             `rcpctl branch mount VOLUME BRANCH` shows what it held"
            .to_owned()),
        "RCP_config" => Err("an address belongs to a node in the topology file, and a node to a group: \
             `rcpctl group add GROUP NODE`"
            .to_owned()),
        "server_config" => server_config(&said),
        "rcproute" | "rcpfiletest" => {
            let words = said.words.join(" ");
            Err(format!("{name} is a command of its own: `{name} {words}`"))
        }
        _ => return None,
    })
}

fn replicate(said: &Said) -> Result<Meant, String> {
    let Some((option, rest)) = said.words.split_first() else {
        return Err(FORMS.to_owned());
    };
    match option.as_str() {
        "-failover" => failover(said, rest),
        "-failback" => failback(said, rest),
        "-resync" => resync(said, rest),
        "-status" | "-info" => status(said, rest),
        _ => Err(FORMS.to_owned()),
    }
}

const FORMS: &str = "fs_replicate takes -failover PFS:cel=OLD SFS [-sync|-now|-restartpoint [SET]], -resync SFS \
     PFS:cel=OLD, -failback PFS SFS:cel=NODE, -status PFS [SFS:cel=NODE] or -info FS [-v LINES], and then \
     options of rcpctl, such as --topology FILE";

fn failover(said: &Said, words: &[String]) -> Result<Meant, String> {
    let mut operands = Vec::new();
    let mut options: Vec<String> = Vec::new();
    let mut words = words.iter().peekable();
    let mut note = None;
    while let Some(w) = words.next() {
        match w.as_str() {
            "-sync" => options.push("--sync".to_owned()),
            "-now" | "now" => options.push("--now".to_owned()),
            "-restartpoint" => match words.next_if(|w| w.parse::<u64>().is_ok()) {
                Some(set) => options.extend(["--restart-point".to_owned(), set.clone()]),
                None => {
                    note = Some(
                        "the restart point is always kept, as VOLUME@SET; a former writer that goes on \
                         writing damages nothing, and what it wrote is kept there as a branch",
                    );
                }
            },
            w if w.starts_with('-') => return Err(FORMS.to_owned()),
            w => operands.push(Operand::new(w)),
        }
    }
    let [_, new] = operands.as_slice() else { return Err(FORMS.to_owned()) };
    let Some(to) = new.node.as_ref().or(said.node.as_ref()) else {
        return Err(format!(
            "which node is to take over? Say {0}:cel=NODE, or --node NODE; `rcpctl failover {0} --plan` \
             shows who can",
            new.label
        ));
    };
    let mut meant = vec!["failover", &new.label, "--to", to, "--adopt"];
    meant.extend(options.iter().map(String::as_str));
    Ok(said.meant(&meant, note))
}

/// Names are local first; the remote one is to write again.
fn failback(said: &Said, words: &[String]) -> Result<Meant, String> {
    let operands: Vec<_> = words.iter().map(|w| Operand::new(w)).collect();
    let [local, Operand { node: Some(to), .. }] = operands.as_slice() else {
        return Err(FORMS.to_owned());
    };
    Ok(said.meant(&["failover", &local.label, "--sync", "--to", to], None))
}

/// In either order: the operand with a node is the one that was the writer.
fn resync(said: &Said, words: &[String]) -> Result<Meant, String> {
    let operands: Vec<_> = words.iter().map(|w| Operand::new(w)).collect();
    let (remote, others): (Vec<_>, Vec<_>) = operands.iter().partition(|o| o.node.is_some());
    let ([Operand { label, node: Some(old) }], [_] | [_, _]) = (&remote[..], &others[..]) else {
        return Err(FORMS.to_owned());
    };
    let note = (others.len() > 1).then_some(
        "a resync needs no restart point: which blocks differ is in the lists of changes of both nodes",
    );
    Ok(said.meant(&["resync", label, "--node", old], note))
}

fn status(said: &Said, words: &[String]) -> Result<Meant, String> {
    let (mut operands, mut lines) = (Vec::new(), None);
    let mut words = words.iter();
    while let Some(w) = words.next() {
        match w.as_str() {
            "-v" => lines = Some(words.next().ok_or_else(|| FORMS.to_owned())?),
            w if w.starts_with('-') => return Err(FORMS.to_owned()),
            w => operands.push(Operand::new(w)),
        }
    }
    let ([of] | [of, _]) = operands.as_slice() else { return Err(FORMS.to_owned()) };
    let mut meant = vec!["status", of.label.as_str()];
    if let Some(lines) = lines {
        meant.extend(["-v", lines]);
    }
    Ok(said.asked(&meant, None))
}

fn server_config(said: &Said) -> Result<Meant, String> {
    let words: Vec<&str> = said.words.iter().map(String::as_str).collect();
    match words[..] {
        [server, "rep", group, "add", _] => Ok(said.meant(
            &["group", "create", group, "--primary", &cel(server)],
            Some("addresses are those of the topology file; `rcpctl group add` takes members in"),
        )),
        [_, "volmcast", group, "-src", volume] => {
            Ok(said.meant(&["volmcast", "create", volume, "--group", group], None))
        }
        [server, "volmcast", group, "-dest", volume] => Err(format!(
            "what a member calls its copy is said with the source volume: `rcpctl volmcast create SOURCE \
             --group {group} --dest {}={volume}`",
            cel(server)
        )),
        _ => Err("server_config takes SERVER rep GROUP add ADDRESS, or SERVER volmcast GROUP -src VOLUME, \
             and then options of rcpctl"
            .to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::rcpctl::understands;

    const MEANT: &[(&str, &str)] = &[
        (
            "fs_replicate -failover pfs:cel=cel1-ser1 sfs:cel=cel2-ser2 --topology t",
            "failover sfs --to cel2-ser2 --adopt --topology t",
        ),
        (
            ".fs_replicate -failover pfs:cel=cell1-ser1 sfs:cel=cell2-ser2 -sync --topology t",
            "failover sfs --to cel2-ser2 --adopt --sync --topology t",
        ),
        (
            "$fs_replicate-failover pfs:cel=a sfs -now --topology t --node b --json",
            "failover sfs --to b --adopt --now --topology t --json",
        ),
        (
            "fs_replicate -failover pfs:cel=a sfs now --node=b --topology t",
            "failover sfs --to b --adopt --now --topology t",
        ),
        (
            "fs_replicate -failover pfs:cel=a sfs:cel=b -restartpoint --topology t",
            "failover sfs --to b --adopt --topology t",
        ),
        (
            "fs_replicate -failover pfs:cel=a sfs:cel=b -restartpoint 41 --topology t",
            "failover sfs --to b --adopt --restart-point 41 --topology t",
        ),
        ("fs_replicate -resync sfs pfs:cel=a --topology t", "resync pfs --node a --topology t"),
        ("fs_replicate -resync pfs:cel=a sfs --topology t", "resync pfs --node a --topology t"),
        (
            "fs_replicate -resync pfs:cel=a sfs ckpt --topology t",
            "resync pfs --node a --topology t",
        ),
        ("fs_replicate -status pfs sfs:cel=b --dir d", "status pfs --dir d"),
        ("fs_replicate -info sfs10 -v 128", "status sfs10 -v 128"),
        ("fs_replicate -info fs --topology t --node b", "status fs --topology t --node b"),
        (
            "fs_replicate -failback sfs pfs:cel=a --topology t",
            "failover sfs --sync --to a --topology t",
        ),
        (
            ".server_config cell1-ser2 rep g1 add 10.0.1.2 --topology t",
            "group create g1 --primary cel1-ser2 --topology t",
        ),
        (
            ".server_config cel1-ser2 volmcast_g1_-src_vol7 --size 1GiB --topology t",
            "volmcast create vol7 --group g1 --size 1GiB --topology t",
        ),
    ];

    const REFUSED: &[(&str, &str)] = &[
        ("fs_replicate", "-failover PFS:cel=OLD SFS"),
        ("fs_replicate -restart pfs", "-failover PFS:cel=OLD SFS"),
        ("fs_replicate -failover pfs:cel=a sfs", "Say sfs:cel=NODE, or --node NODE"),
        ("fs_replicate -failover pfs:cel=a sfs:cel=b -fast", "-sync|-now|-restartpoint"),
        ("fs_replicate -failover sfs", "PFS:cel=OLD SFS"),
        ("fs_replicate -failback pfs sfs", "-failback PFS SFS:cel=NODE"),
        ("fs_replicate -resync pfs sfs", "-resync SFS PFS:cel=OLD"),
        ("fs_replicate -info fs -v", "[-v LINES]"),
        ("fs_copy -start fs_ckpt2 sfs:cel=b -fromfs fs_ckpt1", "`rcpctl delta pull"),
        ("server_mount server_2 -o ro pfs /pfs", "`rcpctl resync VOLUME --node NODE`"),
        (".RCP_config cel1-ser2 add 10.0.1.2", "`rcpctl group add GROUP NODE`"),
        (
            ".server_config cell2-ser3 volmcast_g1_-dest_vol9",
            "`rcpctl volmcast create SOURCE --group g1 --dest cel2-ser3=vol9`",
        ),
        (".server_config cel1-ser2", "SERVER rep GROUP add ADDRESS"),
        ("rcproute add group=g1 nexthop=b", "`rcproute add group=g1 nexthop=b`"),
        ("rcpfiletest data=F group=g1", "`rcpfiletest data=F group=g1`"),
    ];

    /// Words; an underline within `volmcast_…` stands for a blank within one word.
    fn words(line: &str) -> Vec<String> {
        let one = |w: &str| match w.starts_with("volmcast_") {
            true => w.replace('_', " "),
            false => w.to_owned(),
        };
        line.split(' ').map(one).collect()
    }

    #[test]
    fn every_command_of_the_source_systems_means_one_of_ours() {
        for (line, expected) in MEANT {
            let m =
                meant(&words(line)).expect("a spelling").unwrap_or_else(|e| panic!("{line}: {e}"));
            assert_eq!(m.words, expected.split(' ').collect::<Vec<_>>(), "{line}");
            understands(&m.words).unwrap_or_else(|e| panic!("{line}: {e}"));
        }
    }

    #[test]
    fn what_has_no_counterpart_says_what_to_use() {
        for (line, says) in REFUSED {
            let why = meant(&words(line)).expect("a spelling").expect_err(line);
            assert!(why.contains(says), "{line}: {why}");
        }
        for own in ["failover", "status", "rcp", "fs", "up"] {
            assert_eq!(meant(&words(own)), None);
        }
    }

    #[test]
    fn the_document_names_every_command() {
        let doc = include_str!("../../docs/spellings.md");
        for (line, _) in MEANT.iter().chain(REFUSED) {
            let name =
                line.trim_start_matches(['.', '$']).split([' ', '-']).next().expect("a name");
            assert!(doc.contains(name), "{name}");
        }
        for option in ["-failover", "-sync", "-now", "-restartpoint", "-resync", "-status", "-info"]
        {
            assert!(doc.contains(option), "{option}");
        }
    }
}
