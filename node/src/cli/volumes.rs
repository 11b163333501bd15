//! `rcpctl volume`: create, import, list, resize, rename, delete.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use config::units::{approx_size, format_size};
use serde::Serialize;

use super::columns::columns;
use super::commands::size;
use super::failover::{MoveArgs, move_volume};
use super::image;
use super::membership::primary_of;
use super::output::{AGAIN, Failed, print, print_json, tell, unless_interrupted};
use super::status::{self, Asked};
use super::target::{Endpoint, Purpose, Surroundings, Target};
use crate::api::{NodeStatus, VolumeInfo, VolumeSpec};
use crate::http::{paths, requests};

/// Block size if none is said, as in the topology.
const BLOCK_SIZE: u64 = 4 << 10;

#[derive(Debug, Subcommand)]
pub(super) enum VolumeCommand {
    /// Create a volume; its replicas are made along the routes of its group
    Create {
        /// Its label
        label: String,
        /// Its size, such as 10GiB
        #[arg(long, value_name = "SIZE", value_parser = size)]
        size: u64,
        /// Backing file or block device at the primary [default: a sparse file in the data folder]
        #[arg(long, value_name = "FILE")]
        backing: Option<PathBuf>,
        #[command(flatten)]
        spec: Spec,
    },
    /// Make a volume of a disk image or block device that has content already
    ///
    /// A raw image or device becomes the volume's backing itself: what is written to the volume is
    /// written to it. Other formats are converted by qemu-img into the data folder first; the
    /// image stays as it is.
    Import {
        /// Label of the volume
        label: String,
        /// The image
        file: PathBuf,
        /// Format of the image, if its first bytes do not tell
        #[arg(long, value_name = "FORMAT")]
        format: Option<String>,
        #[command(flatten)]
        spec: Spec,
    },
    /// List the volumes of one or more nodes
    List {
        /// Print them as JSON
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        target: Target,
    },
    /// Make a volume larger; what is new reads as zeroes, on every node
    Resize {
        /// The volume
        volume: String,
        /// Its new size, such as 20GiB
        #[arg(value_parser = size)]
        size: u64,
        /// Print the answer as JSON
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        target: Target,
    },
    /// Change the label of a volume on one node; its content and states stay, and so do the labels of
    /// its replicas
    Rename {
        /// The volume
        volume: String,
        /// Its new label
        label: String,
        /// Print the answer as JSON
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        target: Target,
    },
    /// Have another node write a volume that is the only one of its group: with its files, where both
    /// nodes share the storage, else by a planned swap
    ///
    /// Nothing acknowledged is lost; writers wait for a moment. May be said again after an interruption.
    Move {
        /// The volume
        volume: String,
        #[command(flatten)]
        args: MoveArgs,
    },
    /// Remove a volume and its content from one node; replicas elsewhere stay, and so does a backing
    /// file outside the data folder
    Delete {
        /// The volume
        volume: String,
        /// It is meant
        #[arg(long)]
        yes: bool,
        /// Print the answer as JSON
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        target: Target,
    },
}

/// What a new volume is to be, beside its size and content.
#[derive(Args, Clone, Debug)]
pub(super) struct Spec {
    /// Its group
    #[arg(long, value_name = "GROUP")]
    group: String,
    /// Its block size [default: 4KiB]
    #[arg(long, value_name = "SIZE", value_parser = size)]
    block_size: Option<u64>,
    /// Capacity of its save volume
    #[arg(long, value_name = "SIZE", value_parser = size)]
    save: Option<u64>,
    /// Print the answer as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    target: Target,
}

pub(super) async fn run(command: VolumeCommand, around: &Surroundings) -> Result<(), Failed> {
    match command {
        VolumeCommand::Create { label, size, backing, spec } => {
            let endpoint = primary_of(&spec.group, &spec.target, around).await?;
            let backing = backing.map(|b| absolute(&b)).transpose()?;
            create(&endpoint, &spec, label, size, backing, false).await
        }
        VolumeCommand::Import { label, file, format, spec } => {
            import(label, &file, format, &spec, around).await
        }
        VolumeCommand::List { json, target } => list(json, &target, around).await,
        VolumeCommand::Resize { volume, size, json, target } => {
            let sentence = format!(
                "{volume}: its size is {}; clients see it when they connect again",
                format_size(size)
            );
            let body = requests::Resize { volume: volume.clone(), size };
            change(&target, &volume, around, paths::VOLUME_RESIZE, &body, json, &sentence).await
        }
        VolumeCommand::Rename { volume, label, json, target } => {
            let others = others(&target, &volume, around).await?;
            let mut sentence = format!("{volume}: it is called {label} now");
            if let Some(Others { here, below }) = others {
                sentence.push_str(&format!(
                    " on {here}; nodes that have a replica ({below}) go on calling it {volume}: the same \
                     command with --node NAME (or --dir) renames it there"
                ));
            }
            let body = requests::Rename { volume: volume.clone(), label };
            change(&target, &volume, around, paths::VOLUME_RENAME, &body, json, &sentence).await
        }
        VolumeCommand::Move { volume, args } => {
            unless_interrupted(AGAIN, move_volume(&volume, &args, around)).await
        }
        VolumeCommand::Delete { volume, yes, json, target } => {
            if !yes {
                return Err(Failed::new(format!(
                    "this removes the volume {volume} and its content for good; if that is meant, \
                     say --yes"
                )));
            }
            let others = others(&target, &volume, around).await?;
            let mut sentence = format!("{volume}: it is removed");
            if let Some(Others { here, below }) = others {
                sentence.push_str(&format!(
                    " on {here}; replicas stay ({below}): the same command with --node NAME (or --dir) \
                     removes them"
                ));
            }
            let body = requests::Delete { volume: volume.clone() };
            change(&target, &volume, around, paths::VOLUME_DELETE, &body, json, &sentence).await
        }
    }
}

/// Nodes that keep what one node gives up.
struct Others {
    here: String,
    below: String,
}

/// Who has a replica below the node that is asked, as far as it knows.
async fn others(
    target: &Target,
    volume: &str,
    around: &Surroundings,
) -> Result<Option<Others>, Failed> {
    let client = target.one(Purpose::Volume(volume), around)?.client();
    let node = client.status().await?;
    let Some(v) = node.volumes.iter().find(|v| v.label == volume || v.id == volume) else {
        return Ok(None);
    };
    let group = node.groups.iter().find(|g| g.group == v.group);
    let hops = group.into_iter().flat_map(|g| g.routes.iter()).flat_map(|(_, hops)| hops);
    let below: Vec<&str> = hops.map(String::as_str).collect();
    Ok((!below.is_empty()).then(|| Others { here: node.node.clone(), below: below.join(", ") }))
}

async fn change<B: Serialize>(
    target: &Target,
    volume: &str,
    around: &Surroundings,
    path: &str,
    body: &B,
    json: bool,
    sentence: &str,
) -> Result<(), Failed> {
    let client = target.one(Purpose::Volume(volume), around)?.client();
    let done: requests::Done = client.post(path, body).await?;
    tell(json, &done, sentence)
}

async fn create(
    endpoint: &Endpoint,
    spec: &Spec,
    label: String,
    size: u64,
    backing: Option<String>,
    import: bool,
) -> Result<(), Failed> {
    let body = VolumeSpec {
        label,
        group: spec.group.clone(),
        size,
        block_size: spec.block_size,
        backing,
        save: spec.save,
        import,
    };
    let made: VolumeInfo = endpoint.client().post(paths::VOLUME_CREATE, &body).await?;
    let how = if import { "imported into" } else { "created in" };
    let sentence = format!(
        "{}: {how} {}, {}; `rcpctl status {}` shows its replicas",
        made.label,
        made.group,
        approx_size(made.size),
        made.label
    );
    tell(spec.json, &made, &sentence)
}

async fn import(
    label: String,
    file: &Path,
    format: Option<String>,
    spec: &Spec,
    around: &Surroundings,
) -> Result<(), Failed> {
    let endpoint = primary_of(&spec.group, &spec.target, around).await?;
    let Some(folder) = endpoint.way.folder() else {
        return Err(Failed::new(format!(
            "a volume is imported from a file of the node's machine: run this on the machine of {}",
            endpoint.called()
        )));
    };
    let unreadable =
        |e: std::io::Error| Failed::new(format!("cannot read {}: {e}", file.display()));
    let format = match format {
        Some(format) => format,
        None => image::format_of(file).map_err(unreadable)?.to_owned(),
    };
    // Before hours are spent on a conversion: can it succeed?
    let node = endpoint.client().status().await?;
    could_take(&node, &label, &spec.group)?;
    let block = spec.block_size.unwrap_or(BLOCK_SIZE);
    if format == "raw" {
        let size = image::size_of(file).map_err(unreadable)?;
        if size == 0 || !size.is_multiple_of(block.max(1)) {
            return Err(Failed::new(format!(
                "{} has {size} bytes, which is not a multiple of the block size {}: fill it up \
                 with `truncate -s %{block} {}`, or say --block-size",
                file.display(),
                format_size(block),
                file.display()
            )));
        }
        return create(&endpoint, spec, label, size, Some(absolute(file)?), true).await;
    }
    let folder = folder.join("imported");
    std::fs::create_dir_all(&folder)
        .map_err(|e| Failed::new(format!("cannot make the folder {}: {e}", folder.display())))?;
    let raw = folder.join(format!("{label}.img"));
    let size = image::to_raw(&format, file, &raw, block).await?;
    let made = create(&endpoint, spec, label, size, Some(absolute(&raw)?), true).await;
    if let Err(e) = &made
        && e.code == 1
    {
        let text = format!("{}\nthe converted image is {}", e.text, raw.display());
        return Err(Failed::new(text));
    }
    made
}

fn could_take(node: &NodeStatus, label: &str, group: &str) -> Result<(), Failed> {
    if node.volumes.iter().any(|v| v.label == label) {
        return Err(Failed::new(format!("{} has a volume `{label}` already", node.node)));
    }
    match node.groups.iter().find(|g| g.group == group) {
        Some(g) if g.role == "primary" => Ok(()),
        Some(g) => Err(Failed::new(format!(
            "{} is a {} of {group}: volumes are made at the group's primary",
            node.node, g.role
        ))),
        None => {
            let known: Vec<&str> = node.groups.iter().map(|g| g.group.as_str()).collect();
            let text = format!(
                "{} is not in a group `{group}`; it is in: {}",
                node.node,
                known.join(", ")
            );
            Err(Failed::new(text))
        }
    }
}

pub(super) fn absolute(path: &Path) -> Result<String, Failed> {
    let full = std::path::absolute(path)
        .map_err(|e| Failed::new(format!("cannot find {}: {e}", path.display())))?;
    full.into_os_string().into_string().map_err(|bad| {
        Failed::new(format!("the path {} is not UTF-8: give it another name", bad.display()))
    })
}

/// A volume with the node that has it.
#[derive(Serialize)]
struct Listed<'a> {
    node: &'a str,
    #[serde(flatten)]
    volume: &'a VolumeInfo,
}

async fn list(json: bool, target: &Target, around: &Surroundings) -> Result<(), Failed> {
    let (here, _) = status::present(target, around)?;
    let asked = status::ask(&here).await;
    let mut all = Vec::new();
    let mut silent = Vec::new();
    for Asked { called, answer } in &asked {
        match answer {
            Ok(s) => all.extend(s.volumes.iter().map(|volume| Listed { node: &s.node, volume })),
            Err(e) => silent.push(format!("{called}: {e}")),
        }
    }
    all.sort_by_key(|l| (l.volume.label.clone(), l.volume.role != "primary"));
    if json {
        print_json(&all)?;
    } else if all.is_empty() && silent.is_empty() {
        print("no volumes\n")?;
    } else if !all.is_empty() {
        print(&listing(&all))?;
    }
    if silent.is_empty() { Ok(()) } else { Err(Failed::new(silent.join("\n"))) }
}

fn listing(all: &[Listed<'_>]) -> String {
    let rows: Vec<Vec<String>> = all
        .iter()
        .map(|Listed { node, volume: v }| {
            let kept: Vec<String> = v.kept.iter().map(u64::to_string).collect();
            vec![
                v.label.clone(),
                (*node).to_owned(),
                v.group.clone(),
                v.role.clone(),
                approx_size(v.size),
                approx_size(v.block_size),
                v.state.clone(),
                v.current_set.to_string(),
                if kept.is_empty() { "-".to_owned() } else { kept.join(" ") },
            ]
        })
        .collect();
    let headings = ["VOLUME", "NODE", "GROUP", "ROLE", ">SIZE", ">BLOCK", "STATE", ">SET", "KEPT"];
    status::tame(&columns(&headings, &rows))
}
