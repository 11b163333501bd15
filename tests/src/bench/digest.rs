//! (g) What the hashes of blocks cost: the work on the chunks of one set, on one thread, without
//! them and with them.
//!
//! *Capture* reads the changed blocks, makes chunks and writes them to the save volume; *apply*
//! proves the chunks that came and writes their blocks to the content. With hashes, each block is
//! hashed, the hashes that it had are read from the table and the new ones are written there. Both
//! end with the syncs that a set needs, beside each other.

use std::path::Path;

use anyhow::Context;
use bytes::{Bytes, BytesMut};
use rcp::proto::delta::{Chunk, ChunkDraft, ChunkFlags, Compression, Extent, ExtentKind, StepId};
use rcp::proto::ids::{Attempt, ChunkNumber, Generation, SetNumber, VolumeId};
use volmcast::digest::{BlockHash, Sum, table_bytes, table_range};
use volmcast::io::{FileId, Io, Op, Outcome, Tag};
use volmcast::storage::{Files, Identity, Sizes, Standing, Storage};
use volmcast::units::{BlockCount, BlockSize};

use super::process;
use super::report::Report;
use super::{MIB, Options};

const TITLE: &str = "One set of 128 MiB, one thread";
const BLOCK: u64 = 4096;
const SET: u64 = 128 * MIB;
/// Blocks of a chunk.
const CHUNK: usize = 256;

struct Volume {
    files: Files,
    save_at: u64,
}

impl Volume {
    fn io(&self, file: FileId, op: Op) -> anyhow::Result<Bytes> {
        match self.files.perform(&Io { tag: Tag(0), file, op }) {
            Outcome::Read(b) => Ok(b),
            Outcome::Done => Ok(Bytes::new()),
            other => anyhow::bail!("{file:?}: {other:?}"),
        }
    }

    /// Runs of the changed blocks of a chunk.
    fn extents(blocks: &[u64]) -> Vec<Extent> {
        let mut runs: Vec<Extent> = Vec::new();
        for b in blocks {
            match runs.last_mut() {
                Some(e) if e.block + u64::from(e.count) == *b => e.count += 1,
                _ => runs.push(Extent { block: *b, count: 1, kind: ExtentKind::Data }),
            }
        }
        runs
    }

    fn capture(&mut self, number: u32, blocks: &[u64]) -> anyhow::Result<Chunk> {
        let extents = Self::extents(blocks);
        let bytes = |e: &Extent| usize::try_from(u64::from(e.count) * BLOCK).unwrap_or(0);
        let ranges = extents.iter().map(|e| (e.block * BLOCK, bytes(e))).collect();
        let payload = self.io(FileId::Base, Op::Gather { ranges })?;
        let step = StepId {
            volume: VolumeId([7; 16]),
            generation: Generation { counter: 1, id: [1; 16] },
            base: SetNumber(1),
            to: SetNumber(2),
            attempt: Attempt(1),
        };
        let draft = ChunkDraft {
            step,
            number: ChunkNumber(number),
            block_size_shift: 12,
            flags: ChunkFlags::NONE,
            extents,
            payload,
        };
        let chunk = draft.encode(Compression::Never).context("a chunk")?;
        let data = vec![chunk.bytes().clone()];
        let len = chunk.bytes().len() as u64;
        self.io(FileId::Save, Op::Write { offset: self.save_at, data })?;
        self.save_at += len;
        Ok(chunk)
    }

    fn apply(&self, chunk: &Chunk) -> anyhow::Result<()> {
        let chunk = Chunk::parse(chunk.bytes().clone()).context("a chunk")?;
        let payload = chunk.payload().context("its payload")?;
        let mut at = 0;
        let writes = chunk
            .extents()
            .map(|e| {
                let len = usize::try_from(u64::from(e.count) * BLOCK).unwrap_or(0);
                at += len;
                (e.block * BLOCK, payload.slice(at - len..at))
            })
            .collect();
        self.io(FileId::Base, Op::Scatter { writes, zeroes: Vec::new() })?;
        Ok(())
    }

    fn hash(&self, chunk: &Chunk) -> anyhow::Result<Sum> {
        let payload = chunk.payload().context("its payload")?;
        let size = usize::try_from(BLOCK)?;
        let mut contents = payload.chunks_exact(size);
        let mut writes = Vec::new();
        let mut new = Sum::default();
        for e in chunk.extents() {
            let blocks = e.block..e.block + u64::from(e.count);
            let hashes: Vec<_> =
                blocks.zip(&mut contents).map(|(b, data)| BlockHash::of(b, data)).collect();
            new = new.and(Sum::of(&hashes));
            writes.push((table_range(e.block, hashes.len() as u64).0, table_bytes(&hashes)));
        }
        let ranges = chunk.extents().map(|e| table_range(e.block, u64::from(e.count))).collect();
        let old = Sum::of_table(&self.io(FileId::Hashes, Op::Gather { ranges })?);
        let old = old.context("a hash in the table is damaged")?;
        self.io(FileId::Hashes, Op::Scatter { writes, zeroes: Vec::new() })?;
        Ok(new.minus(old))
    }

    /// The files of a commit are synced beside each other.
    fn sync(&self, file: FileId, hashed: bool) -> anyhow::Result<()> {
        std::thread::scope(|s| {
            let table = hashed.then(|| s.spawn(|| self.io(FileId::Hashes, Op::Sync)));
            self.io(file, Op::Sync)?;
            match table.map(std::thread::ScopedJoinHandle::join) {
                None | Some(Ok(Ok(_))) => Ok(()),
                Some(Ok(Err(e))) => Err(e),
                Some(Err(_)) => anyhow::bail!("the sync of the table of hashes panicked"),
            }
        })
    }

    /// One set; its time in seconds for capture and for apply.
    fn set(&mut self, blocks: &[u64], hashed: bool) -> anyhow::Result<(f64, f64)> {
        self.save_at = 0;
        let mut chunks = Vec::new();
        let began = process::now();
        for (n, blocks) in (0..).zip(blocks.chunks(CHUNK)) {
            let chunk = self.capture(n, blocks)?;
            if hashed {
                self.hash(&chunk)?;
            }
            chunks.push(chunk);
        }
        self.sync(FileId::Save, hashed)?;
        let captured = process::now();
        for chunk in &chunks {
            self.apply(chunk)?;
            if hashed {
                self.hash(chunk)?;
            }
        }
        self.sync(FileId::Base, hashed)?;
        Ok((captured - began, process::now() - captured))
    }
}

fn make(folder: &Path, blocks: u64) -> anyhow::Result<Volume> {
    let identity = Identity {
        volume: VolumeId([7; 16]),
        label: "vol1".parse()?,
        source: None,
        group: "g1".parse()?,
        node: "n1".parse()?,
        role: "replica".to_owned(),
        block_size: BlockSize::from_bytes(BLOCK).context("a block size")?,
        blocks: BlockCount(blocks),
        save: 2 * SET,
        snapshots: MIB,
        base: None,
        standing: Standing::default(),
    };
    let sizes = Sizes { base: blocks * BLOCK, save: 2 * SET, snapshots: MIB };
    let files = Files::create(folder, &identity, sizes)?;
    Ok(Volume { files, save_at: 0 })
}

pub(super) fn measure(root: &Path, o: &Options, report: &mut Report) -> anyhow::Result<()> {
    report.note(
        "the digest's bench does the file and processor work of one set on one thread; capture and \
         apply of the product do the same on several, beside the network",
    );
    let dir = root.join("digest");
    let changed = SET / BLOCK;
    for (row, one_of) in [("in a row", 1), ("1 block of 4", 4), ("1 block of 64", 64)] {
        let span = changed * one_of;
        let mut volume = make(&dir, span)?;
        let mut noise = BytesMut::zeroed(usize::try_from(MIB)?);
        // Blocks that are not there read as zeroes, which have no hash.
        for (i, word) in (0u64..).zip(noise.chunks_exact_mut(8)) {
            word.copy_from_slice(&(i.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (i << 7)).to_le_bytes());
        }
        let noise = noise.freeze();
        for at in (0..span * BLOCK).step_by(noise.len()) {
            volume.io(FileId::Base, Op::Write { offset: at, data: vec![noise.clone()] })?;
        }
        volume.io(FileId::Base, Op::Sync)?;
        let blocks: Vec<u64> = (0..changed).map(|i| i * one_of + (i * 7 % one_of)).collect();
        volume.set(&blocks, true)?;
        for run in 0..o.runs {
            eprintln!("digest: run {} of {}: {row}", run + 1, o.runs);
            for (hashed, column) in [(false, "without"), (true, "with hashes")] {
                let (capture, apply) = volume.set(&blocks, hashed)?;
                for (what, s) in [("capture", capture), ("apply", apply)] {
                    report.add(TITLE, "ms", &format!("{what}, {row}"), column, s * 1e3);
                }
            }
        }
        for what in ["capture", "apply"] {
            let row = format!("{what}, {row}");
            report.ratio(TITLE, &row, ("with hashes", "without"), 1.1, false);
        }
        drop(volume);
        std::fs::remove_dir_all(&dir)?;
    }
    Ok(())
}
