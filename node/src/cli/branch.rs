//! `rcpctl branch`: what nodes kept of lines that ended.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use config::units::format_size;
use serde::Serialize;

use super::client::Client;
use super::columns::columns;
use super::commands::Common;
use super::mount;
use super::output::{Failed, print, print_json, tell};
use super::status::tame;
use super::target::{Purpose, Surroundings};
use crate::api::{BranchStatus, WriterAnswer, WriterChange};
use crate::http::paths;

/// Bytes asked for at a time.
const PIECE: u64 = 8 << 20;

/// Which branch.
#[derive(Args, Clone, Debug)]
pub(super) struct Which {
    /// The volume
    volume: String,
    /// The branch, as `rcpctl branch list` names it
    branch: String,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Subcommand)]
pub(super) enum BranchCommand {
    /// The branches that a node keeps of a volume
    List {
        /// The volume
        volume: String,
        #[command(flatten)]
        common: Common,
    },
    /// One branch, and how it is read
    Show(Which),
    /// Which blocks of a branch differ from a state of the line that is followed now
    Diff {
        #[command(flatten)]
        which: Which,
        /// The state, one that can be read there; without it the visible one
        #[arg(long, value_name = "SET")]
        against: Option<u64>,
    },
    /// Write a branch into a sparse file
    Export {
        #[command(flatten)]
        which: Which,
        /// The file; it must not be there
        #[arg(long, value_name = "FILE")]
        to: PathBuf,
    },
    /// Show a branch as a file that can be read and mounted, until interrupted
    ///
    /// The file is called `nbd`, and can only be read. It takes nbdfuse (Debian: libnbd-bin, fuse3),
    /// and no module of the kernel for NBD.
    Mount {
        #[command(flatten)]
        which: Which,
        /// The folder that the file appears in; made if it is not there [default: VOLUME-BRANCH]
        #[arg(value_name = "DIR")]
        at: Option<PathBuf>,
        /// Only print the commands
        #[arg(long)]
        print: bool,
        /// A client's certificate, as `rcpctl pki issue --client` makes it, for a node that is asked
        /// over TLS
        #[arg(long, value_name = "FOLDER")]
        certificate: Option<PathBuf>,
    },
    /// Give a branch up
    Drop(Which),
}

pub(super) async fn run(command: BranchCommand, around: &Surroundings) -> Result<(), Failed> {
    match command {
        BranchCommand::List { volume, common } => {
            let client = common.target.one(Purpose::Volume(&volume), around)?.client();
            let all = client.volume(&volume).await?.branches;
            if common.json {
                return print_json(&all);
            }
            if all.is_empty() {
                let node = client.status().await?.node;
                return print(&tame(&format!(
                    "{volume}: {node} keeps no branch of it; each node has its own: ask another with \
                     --node NODE or --dir DIR. `rcpctl status {volume}` names those of all nodes\n"
                )));
            }
            print(&tame(&columns(
                &["NAME", "LINE OF", ">SET", ">PARTED AT", ">SIZE", ">SAVED", "STATE"],
                &all.iter().map(row).collect::<Vec<_>>(),
            )))
        }
        BranchCommand::Show(w) => {
            let client = w.common.target.one(Purpose::Volume(&w.volume), around)?.client();
            let b = branch(&client, &w).await?;
            if w.common.json {
                return print_json(&b);
            }
            print(&tame(&shown(&w.volume, &b)))
        }
        BranchCommand::Diff { which: w, against } => {
            let client = w.common.target.one(Purpose::Volume(&w.volume), around)?.client();
            let b = branch(&client, &w).await?;
            let found = diff(&client, &w, &b, against).await?;
            if w.common.json {
                return print_json(&found);
            }
            print(&told(&found))
        }
        BranchCommand::Export { which: w, to } => {
            let client = w.common.target.one(Purpose::Volume(&w.volume), around)?.client();
            let b = branch(&client, &w).await?;
            let bytes = export(&client, &w, &b, &to).await?;
            let sentence = format!(
                "{}: branch {} is in {}: {}, {} of it data",
                w.volume,
                b.name,
                to.display(),
                format_size(b.size),
                format_size(bytes)
            );
            tell(w.common.json, &Exported { bytes: b.size, data: bytes }, &sentence)
        }
        BranchCommand::Mount { which: w, at, print: only, certificate } => {
            let endpoint = w.common.target.one(Purpose::Volume(&w.volume), around)?;
            let client = endpoint.client();
            let b = branch(&client, &w).await?;
            if b.broken {
                let why = "is broken: what it needs is gone";
                return Err(Failed::new(format!("{}: branch {} {why}", w.volume, b.name)));
            }
            let export = format!("{}@branch:{}", w.volume, b.name);
            let listens = client.status().await?.nbd;
            let uri = mount::uri(&endpoint.way, &listens, &export, certificate.as_deref())?;
            let at = at.unwrap_or_else(|| format!("{}-{}", w.volume, b.name).into());
            let m = mount::Mount { uri, at };
            if w.common.json {
                return print_json(&m);
            }
            if only { print(&m.commands()) } else { m.run().await }
        }
        BranchCommand::Drop(w) => {
            let client = w.common.target.one(Purpose::Volume(&w.volume), around)?.client();
            let change =
                WriterChange::DropBranch { volume: w.volume.clone(), branch: w.branch.clone() };
            let done: WriterAnswer = client.post(paths::WRITER, &change).await?;
            tell(w.common.json, &done, &format!("{}: branch {} is given up", w.volume, w.branch))
        }
    }
}

#[derive(Serialize)]
struct Exported {
    bytes: u64,
    data: u64,
}

async fn branch(client: &Client, w: &Which) -> Result<BranchStatus, Failed> {
    let all = client.volume(&w.volume).await?.branches;
    let names: Vec<_> = all.iter().map(|b| b.name.clone()).collect();
    all.into_iter().find(|b| b.name == w.branch).ok_or_else(|| {
        let known = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
        Failed::new(format!(
            "{} has no branch `{}` there; it has {known}. Each node has its own: --node NODE or --dir \
             DIR names another",
            w.volume, w.branch
        ))
    })
}

fn state(b: &BranchStatus) -> &'static str {
    if b.broken { "broken" } else { "readable" }
}

fn row(b: &BranchStatus) -> Vec<String> {
    let of = if b.opened_by.is_empty() { &b.generation } else { &b.opened_by };
    vec![
        b.name.clone(),
        of.clone(),
        b.set.to_string(),
        b.fork.to_string(),
        format_size(b.size),
        b.saved_blocks.to_string(),
        state(b).to_owned(),
    ]
}

fn shown(volume: &str, b: &BranchStatus) -> String {
    let name = &b.name;
    let mut text = format!(
        "branch    {name}, {}\nline      {}{}\nstate     set {}; it parted from what is followed now at \
         set {}\nsize      {}\nsaved     {} blocks in the snapshot area\n",
        state(b),
        b.generation,
        if b.opened_by.is_empty() { String::new() } else { format!(" of {}", b.opened_by) },
        b.set,
        b.fork,
        format_size(b.size),
        b.saved_blocks,
    );
    text.push_str(&format!(
        "read      over NBD as {volume}@branch:{name} (`qemu-img convert`, `nbdcopy`)\n          over HTTP as \
         /v1/volumes/{volume}?state=branch:{name}\nmount     rcpctl branch mount {volume} {name} DIR\nkeep      rcpctl branch export {volume} {name} --to \
         FILE\ngive up   rcpctl branch drop {volume} {name}\n",
    ));
    text
}

/// Blocks that differ.
#[derive(Serialize)]
struct Difference {
    branch: String,
    set: u64,
    block_size: u64,
    blocks: u64,
    /// First block, and how many.
    runs: Vec<(u64, u64)>,
}

async fn diff(
    client: &Client,
    w: &Which,
    b: &BranchStatus,
    against: Option<u64>,
) -> Result<Difference, Failed> {
    let v = client.volume(&w.volume).await?;
    let set = against.unwrap_or(v.current_set);
    let path = |state: &str| paths::VOLUME.replace("{name}", &w.volume) + "?state=" + state;
    let (ours, theirs) = (path(&format!("branch:{}", b.name)), path(&set.to_string()));
    let size = usize::try_from(v.block_size.max(1)).unwrap_or(usize::MAX);
    let (mut runs, mut at): (Vec<(u64, u64)>, _) = (Vec::new(), 0);
    while at < b.size.min(v.size) {
        let end = (at + PIECE).min(b.size).min(v.size);
        let (x, y) = (client.range(&ours, at, end).await?, client.range(&theirs, at, end).await?);
        for (i, (x, y)) in x.chunks(size).zip(y.chunks(size)).enumerate() {
            let block = at / v.block_size.max(1) + i as u64;
            match runs.last_mut() {
                _ if x == y => {}
                Some((first, n)) if *first + *n == block => *n += 1,
                _ => runs.push((block, 1)),
            }
        }
        at = end;
    }
    let blocks = runs.iter().map(|(_, n)| n).sum();
    Ok(Difference { branch: b.name.clone(), set, block_size: v.block_size, blocks, runs })
}

fn told(d: &Difference) -> String {
    let mut text = format!(
        "branch {} differs from set {} in {} blocks of {} bytes, in {} runs\n",
        d.branch,
        d.set,
        d.blocks,
        d.block_size,
        d.runs.len()
    );
    for (first, n) in &d.runs {
        text.push_str(&format!("{first} +{n}\n"));
    }
    text
}

async fn export(client: &Client, w: &Which, b: &BranchStatus, to: &Path) -> Result<u64, Failed> {
    let failed = |e: std::io::Error| Failed::new(format!("{}: {e}", to.display()));
    let file = File::options().write(true).create_new(true).open(to).map_err(failed)?;
    file.set_len(b.size).map_err(failed)?;
    let path = paths::VOLUME.replace("{name}", &w.volume) + "?state=branch:" + &b.name;
    let (mut at, mut data) = (0, 0);
    while at < b.size {
        let end = (at + PIECE).min(b.size);
        let piece = client.range(&path, at, end).await?;
        if piece.iter().any(|x| *x != 0) {
            file.write_all_at(&piece, at).map_err(failed)?;
            data += end - at;
        }
        at = end;
    }
    file.sync_all().map_err(failed)?;
    Ok(data)
}
