//! A writer that knows what each block may hold, through losses of its connection.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use node::nbd::{Client, ClientError};
use tests::rig::{Clock, MIB, Random, Tree};

pub(crate) const BLOCK: usize = 4096;
const BLOCK_BYTES: u64 = 4096;
/// Longest run of blocks of one request.
const RUN: u64 = 32;

/// What a block holds that was written as number `n`: no two are alike, and none compresses.
pub(crate) fn content(n: u64) -> Vec<u8> {
    if n == 0 {
        return vec![0; BLOCK];
    }
    let mut block = Random::from(n).bytes(BLOCK);
    block[..8].copy_from_slice(&n.to_le_bytes());
    block
}

/// Writes to blocks `first..first + count` of a volume, alone.
pub(crate) struct Writer {
    label: String,
    first: u64,
    count: u64,
    random: Random,
    next: u64,
    /// Numbers a block may hold: one, or more after a request that was not answered.
    may: HashMap<u64, Vec<u64>>,
    pub(crate) lost: u64,
}

/// What runs beside writers: when to end, and how much there was.
#[derive(Default)]
pub(crate) struct Load {
    pub(crate) stop: AtomicBool,
    pub(crate) bytes: AtomicU64,
}

impl Load {
    pub(crate) fn on(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }

    pub(crate) fn end(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    pub(crate) fn written(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }
}

/// Ends the load when it is dropped, so that a failed assertion does not wait for its writers.
pub(crate) struct Ends<'a>(pub(crate) &'a Load);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.end();
    }
}

impl Writer {
    pub(crate) fn new(label: &str, first: u64, count: u64, random: Random) -> Self {
        // Numbers of different writers differ.
        let next = first << 32 | 1;
        let label = label.to_owned();
        Self { label, first, count, random, next, may: HashMap::new(), lost: 0 }
    }

    /// Writes until the load ends, about `rate` bytes a second; connects again when it must.
    pub(crate) fn work(&mut self, tree: &Tree, load: &Load, rate: u64) {
        let clock = Clock::default();
        let mut own = 0u64;
        while load.on() {
            match tree.open(tree.primary(), &self.label) {
                Ok(mut c) => {
                    while load.on() {
                        match self.once(&mut c) {
                            Ok(n) => {
                                own += n;
                                load.bytes.fetch_add(n, Ordering::Relaxed);
                            }
                            Err(_) => {
                                self.lost += 1;
                                break;
                            }
                        }
                        clock.pace(Duration::from_micros(own * 1_000_000 / rate.max(1)));
                    }
                }
                Err(_) => Clock::default().pace(Duration::from_millis(20)),
            }
        }
    }

    /// Writes every block once.
    pub(crate) fn fill(&mut self, tree: &Tree) -> Result<(), ClientError> {
        let mut c = tree.open(tree.primary(), &self.label)?;
        for at in (0..self.count).step_by(256) {
            self.write(&mut c, self.first + at, 256.min(self.count - at), false)?;
        }
        c.flush()
    }

    /// One request; the bytes it was about.
    pub(crate) fn once(&mut self, c: &mut Client) -> Result<u64, ClientError> {
        let run = 1 + self.random.below(RUN.min(self.count));
        let at = self.first + self.random.below(self.count - run + 1);
        match self.random.below(24) {
            0 => self.clear(c, at, run, true)?,
            1 => self.clear(c, at, run, false)?,
            2 => c.flush()?,
            n => self.write(c, at, run, n == 3)?,
        }
        Ok(run * BLOCK_BYTES)
    }

    fn write(&mut self, c: &mut Client, at: u64, run: u64, fua: bool) -> Result<(), ClientError> {
        let mut data = Vec::new();
        let from = self.next;
        for i in 0..run {
            data.extend_from_slice(&content(from + i));
            self.may.entry(at + i).or_insert_with(|| vec![0]).push(from + i);
        }
        self.next += run;
        c.write(at * BLOCK_BYTES, &data, fua)?;
        for i in 0..run {
            self.may.insert(at + i, vec![from + i]);
        }
        Ok(())
    }

    fn clear(&mut self, c: &mut Client, at: u64, run: u64, trim: bool) -> Result<(), ClientError> {
        for i in 0..run {
            self.may.entry(at + i).or_insert_with(|| vec![0]).push(0);
        }
        let len = u32::try_from(run * BLOCK_BYTES).unwrap_or(u32::MAX);
        if trim {
            c.trim(at * BLOCK_BYTES, len)?;
        } else {
            c.zero(at * BLOCK_BYTES, len, false)?;
        }
        for i in 0..run {
            self.may.insert(at + i, vec![0]);
        }
        Ok(())
    }

    /// Every block of an export holds what it may: nothing acknowledged is lost, nothing invented.
    pub(crate) fn verify(&self, what: &str, c: &mut Client) {
        let mut block = vec![0; BLOCK];
        let mut wrong = Vec::new();
        let mut data = vec![0; usize::try_from(MIB).unwrap_or(0)];
        let per = MIB / BLOCK_BYTES;
        for at in (0..self.count).step_by(256) {
            let n = usize::try_from(per.min(self.count - at)).unwrap_or(0) * BLOCK;
            let offset = (self.first + at) * BLOCK_BYTES;
            c.read(offset, &mut data[..n]).unwrap_or_else(|e| panic!("{what}: {e}"));
            for (b, found) in (self.first + at..).zip(data[..n].chunks_exact(BLOCK)) {
                block.copy_from_slice(found);
                let may = self.may.get(&b).map_or(&[0][..], Vec::as_slice);
                if !may.iter().any(|n| content(*n) == block) {
                    wrong.push((b, u64::from_le_bytes(block[..8].try_into().unwrap()), may));
                }
            }
        }
        let (n, first) = (wrong.len(), &wrong[..wrong.len().min(8)]);
        assert!(n == 0, "{what}: {n} blocks are wrong (block, found, may be): {first:?}");
    }
}
