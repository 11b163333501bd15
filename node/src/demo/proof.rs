//! The comparison: every replica in full, over NBD, at one state.

use std::os::unix::fs::FileExt;
use std::time::Duration;

use anyhow::{Context, bail};
use serde::Serialize;
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use crate::fleet::{Fleet, NodeProcess};
use crate::nbd::Client;

const BLOCK: usize = 4096;
const DEADLINE: Duration = Duration::from_secs(60);
/// Ranges named of one replica.
const NAMED: usize = 8;

/// What the comparison of one replica gave.
#[derive(Debug, Serialize)]
pub(super) struct Verdict {
    pub(super) node: String,
    pub(super) identical: bool,
    /// 128-bit hash of the whole content.
    pub(super) hash: String,
    /// Where it differs: first byte and length, merged; the first few.
    pub(super) differs: Vec<(u64, u64)>,
    pub(super) different_blocks: u64,
}

impl Verdict {
    pub(super) fn line(&self) -> String {
        if self.identical {
            return format!("  {:<11} identical  {}", self.node, self.hash);
        }
        let at: Vec<_> =
            self.differs.iter().map(|(at, len)| format!("{len} bytes at {at}")).collect();
        format!(
            "  {:<11} DIFFERS in {} blocks: {}",
            self.node,
            self.different_blocks,
            at.join(", ")
        )
    }
}

/// Hash of the whole, and of each block.
struct Content {
    hash: u128,
    blocks: Vec<u64>,
}

fn read(node: &NodeProcess, export: &str) -> anyhow::Result<Content> {
    let mut client = Client::unix(&node.nbd_socket(), export, DEADLINE)
        .with_context(|| format!("opening {export} of {} over NBD", node.name))?;
    let mut whole = Xxh3::new();
    let mut blocks = Vec::new();
    client
        .read_all(4, |_, data| {
            whole.update(data);
            blocks.extend(data.chunks(BLOCK).map(xxh3_64));
            Ok(())
        })
        .with_context(|| format!("reading {export} of {} over NBD", node.name))?;
    let _ = client.disconnect();
    Ok(Content { hash: whole.digest128(), blocks })
}

/// Reads the primary's kept state and every replica's, and compares them.
pub(super) fn compare(fleet: &Fleet, volume: &str, set: u64) -> anyhow::Result<Vec<Verdict>> {
    let export = format!("{volume}@{set}");
    let Some((primary, replicas)) = fleet.nodes.split_first() else { bail!("no nodes") };
    let truth = read(primary, &export)?;
    replicas
        .iter()
        .map(|node| {
            let c = read(node, &export)?;
            let mut differs: Vec<(u64, u64)> = Vec::new();
            let mut different_blocks = 0;
            let pairs = truth.blocks.iter().zip(&c.blocks).enumerate();
            for (i, _) in pairs.filter(|(_, (a, b))| a != b) {
                different_blocks += 1;
                let at = i as u64 * BLOCK as u64;
                match differs.last_mut() {
                    Some((from, len)) if *from + *len == at => *len += BLOCK as u64,
                    _ => differs.push((at, BLOCK as u64)),
                }
                differs.truncate(NAMED);
            }
            let same_length = truth.blocks.len() == c.blocks.len();
            Ok(Verdict {
                node: node.name.clone(),
                identical: same_length && truth.hash == c.hash,
                hash: format!("{:032x}", c.hash),
                differs,
                different_blocks,
            })
        })
        .collect()
}

/// Flips one bit of a replica's stored content, behind its node's back; returns where.
pub(super) fn corrupt(fleet: &Fleet, node: &str) -> anyhow::Result<u64> {
    let Some(i) = fleet.find(node) else { bail!("no node {node}") };
    let volumes = fleet.nodes[i].folder.join("volumes");
    let folder = std::fs::read_dir(&volumes)
        .with_context(|| super::shown(&volumes))?
        .flatten()
        .next()
        .with_context(|| format!("no volume in {}", volumes.display()))?;
    let path = folder.path().join("base");
    let f = std::fs::File::options()
        .read(true)
        .write(true)
        .open(&path)
        .with_context(|| super::shown(&path))?;
    // Long enough after the last set for it to be merged: the base is what is read.
    std::thread::sleep(Duration::from_secs(1));
    let at = f.metadata()?.len() / 3;
    let mut byte = [0u8];
    f.read_exact_at(&mut byte, at)?;
    byte[0] ^= 0x10;
    f.write_all_at(&byte, at)?;
    Ok(at)
}
