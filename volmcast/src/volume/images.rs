//! What branches and kept states need of blocks that an extent is about to overwrite: saved first.
//!
//! ```text
//! extent opened ─► read 64 blocks ─► save them ─► (sync) ─► … ─► the extent is written
//!                                      └ no room: wait, and say so
//! ```

use std::time::Duration;

use bytes::Bytes;
use rcp::proto::clock::Mono;

use super::Volume;
use super::branches::{branch_needs_room, branch_of};
use super::desk::{Purpose, SeedStep};
use super::stalls::Part;
use crate::bitmap::BlockSet;
use crate::digest::{BlockHash, hashes_in, table_range, tells};
use crate::io::{FileId, IoError, Op, Outcome};
use crate::mailbox::{KeptBranch, TableMark};
use crate::snapshots::{PinId, Reservation, Reserve};
use crate::units::{BlockCount, BlockIndex, BlockSize};

/// Blocks saved at a time.
const BATCH: usize = 64;
/// How long to wait when there is no room.
const NO_ROOM: Duration = Duration::from_secs(1);
/// How long to wait for another who saves the same block.
const SOON: Duration = Duration::from_millis(5);

/// Blocks on their way into the snapshot area.
#[derive(Debug, Default)]
pub(super) struct Images {
    active: bool,
    left: Vec<BlockIndex>,
    reading: Vec<BlockIndex>,
    /// Their content, while it is held against its hashes.
    content: Bytes,
    written: Vec<(Reservation, u32)>,
    breach: Option<PinId>,
    /// What is being written, should the disk be full.
    write: Option<Op>,
    retry_at: Option<Mono>,
    /// What is under way may not be all: how long to wait after it.
    wait: Option<Duration>,
}

impl Images {
    pub(super) fn timeout(&self) -> Option<Mono> {
        self.retry_at
    }

    pub(super) fn is_active(&self) -> bool {
        self.active
    }

    /// There may be room now.
    pub(super) fn look_again(&mut self) {
        if self.retry_at.is_some() {
            self.retry_at = Some(Mono(0));
        }
    }
}

impl Volume {
    /// Saves what branches and kept states need of these blocks; false if there is nothing to save. When
    /// it is done the extent that waits is written.
    pub(super) fn images_first(&mut self, blocks: impl Iterator<Item = (u64, u64)>) -> bool {
        // Under a seed nothing is kept: it was given up before.
        if !self.saves_hidden() {
            return false;
        }
        let store = &self.cfg.snapshots;
        let needed = |(b, n)| store.needs_copy(BlockIndex(b), BlockCount(n));
        let left: Vec<_> = blocks.flat_map(needed).collect();
        if left.is_empty() {
            return false;
        }
        self.images = Images { active: true, left, ..Images::default() };
        self.images_read();
        true
    }

    /// What waits for images, in words.
    fn saving_for(&self) -> &'static str {
        if self.undoes_after().is_some() { "taking the content back" } else { "the catch-up" }
    }

    /// Something durable rests on content that nobody may read.
    pub(super) fn saves_hidden(&self) -> bool {
        !self.cfg.snapshots.durable_pins().is_empty()
    }

    fn images_read(&mut self) {
        let bs = self.cfg.block_size;
        let i = &mut self.images;
        if i.left.is_empty() {
            self.images = Images::default();
            self.stalls.clear(Part::Images);
            self.seed_extent_go();
            return;
        }
        i.reading = i.left.split_off(i.left.len().saturating_sub(BATCH));
        let len = usize::try_from(bs.bytes()).unwrap_or(0);
        let ranges = i.reading.iter().map(|b| (bs.offset(*b), len)).collect();
        self.desk.io(Purpose::SeedIn(SeedStep::ImagesRead), FileId::Base, Op::Gather { ranges });
    }

    /// Content that is hidden can be held against the table of hashes, which stands where it stands.
    pub(super) fn proves_images(&self) -> bool {
        self.saves_hidden() && self.want.digest.table != TableMark::Absent
    }

    /// What the extent that waits writes to a block: `None` if that is zeroes.
    fn replacement(&self, block: BlockIndex) -> Option<Bytes> {
        let bs = self.cfg.block_size;
        let ready = self.seed_in.as_ref()?.ready.as_ref()?;
        let at = bs.offset(block);
        let i = ready.writes.partition_point(|(o, d)| o + d.len() as u64 <= at);
        let (first, data) = ready.writes.get(i).filter(|(o, _)| *o <= at)?;
        let from = usize::try_from(at - first).ok()?;
        let len = usize::try_from(bs.bytes()).ok()?;
        data.get(from..from + len).map(|_| data.slice(from..from + len))
    }

    fn images_proof(&mut self, content: &Bytes) {
        if !self.proves_images() {
            self.images_save(content, &[]);
            return;
        }
        self.images.content = content.clone();
        let ranges = self.images.reading.iter().map(|b| table_range(b.0, 1)).collect();
        let purpose = Purpose::SeedIn(SeedStep::ImagesProof);
        self.desk.io(purpose, FileId::Hashes, Op::Gather { ranges });
    }

    fn images_save(&mut self, data: &Bytes, hashes: &[Option<BlockHash>]) {
        let len = usize::try_from(self.cfg.block_size.bytes()).unwrap_or(0);
        let store = &self.cfg.snapshots;
        let reading = std::mem::take(&mut self.images.reading);
        let waits = self.seed_in.as_ref().is_some_and(|s| s.ready.is_some());
        let same: Vec<bool> = reading
            .iter()
            .filter(|_| waits)
            .zip(data.chunks(len.max(1)))
            .map(|(b, now)| match self.replacement(*b) {
                Some(next) => next == now,
                None => now.iter().all(|x| *x == 0),
            })
            .collect();
        let i = &mut self.images;
        let (mut writes, mut breach) = (Vec::new(), None);
        for (at, b) in reading.into_iter().enumerate() {
            if data.get(at * len..(at + 1) * len).is_none() {
                self.fail("internal: the blocks of an image came short".to_owned());
                return;
            }
            // What stays as it is needs no image.
            if same.get(at) == Some(&true) {
                continue;
            }
            match store.reserve(b) {
                Reserve::Slot(r) => {
                    let image = data.slice(at * len..(at + 1) * len);
                    let mut crc = crc32c::crc32c(&image);
                    if hashes.get(at).is_some_and(|h| tells(*h, b.0, &image)) {
                        // Damaged content never becomes an image that proves itself.
                        crc = !crc;
                    }
                    writes.push((r.entry_offset, store.entry(&r, crc)));
                    writes.push((r.offset, image));
                    i.written.push((r, crc));
                }
                Reserve::NotNeeded => {}
                Reserve::Wait => {
                    i.left.push(b);
                    i.wait = Some(SOON);
                }
                Reserve::Breach(w) => {
                    i.left.push(b);
                    breach = Some(w);
                }
            }
        }
        if let Some(w) = breach {
            let branch = branch_of(&self.want.aside, w.pin);
            if self.hold_gives_room() {
                self.cfg.snapshots.breach_declined();
                self.images.wait = Some(SOON);
            } else if let Some(name) = branch {
                self.cfg.snapshots.breach_declined();
                self.images.wait = Some(NO_ROOM);
                let words = branch_needs_room(self.saving_for(), &name);
                self.stalls.set(Part::Images, words);
            } else {
                self.images.breach = Some(w.pin);
                writes.push((w.offset, w.bytes));
            }
        }
        if writes.is_empty() {
            self.images_saved();
            return;
        }
        let op = Op::Scatter { writes, zeroes: Vec::new() };
        self.images.write = Some(op.clone());
        self.desk.io(Purpose::SeedIn(SeedStep::ImagesWrite), FileId::Snapshots, op);
    }

    pub(super) fn images_io_done(&mut self, step: SeedStep, outcome: &Outcome) {
        match (step, outcome) {
            (SeedStep::ImagesRead, Outcome::Read(b)) => self.images_proof(b),
            (SeedStep::ImagesProof, Outcome::Read(table)) => {
                let content = std::mem::take(&mut self.images.content);
                let hashes: Vec<_> = hashes_in(table).collect();
                self.images_save(&content, &hashes);
            }
            (SeedStep::ImagesWrite, Outcome::Failed(IoError::NoSpace)) => {
                self.images.retry_at = Some(self.desk.now.after(NO_ROOM));
                let words = format!(
                    "{} has stopped: no space left to keep what it overwrites of branches and kept \
                     states; free space on its file system, or drop one, and it goes on by itself",
                    self.saving_for()
                );
                self.stalls.set(Part::Images, words);
            }
            (SeedStep::ImagesWrite, Outcome::Done) => {
                let i = &mut self.images;
                i.write = None;
                if i.breach.is_some() || i.written.iter().any(|(r, _)| r.must_sync) {
                    let purpose = Purpose::SeedIn(SeedStep::ImagesSync);
                    self.desk.io(purpose, FileId::Snapshots, Op::Sync);
                } else {
                    self.images_saved();
                }
            }
            (SeedStep::ImagesSync, Outcome::Done) => self.images_saved(),
            (_, other) => self.fail_io("saving what branches need", other),
        }
    }

    fn images_saved(&mut self) {
        let store = &self.cfg.snapshots;
        for (r, crc) in std::mem::take(&mut self.images.written) {
            store.commit_copy(&r, crc);
        }
        if let Some(pin) = self.images.breach.take() {
            store.breach_written(pin);
            // Others waited for no more than that.
            self.images.wait = None;
        }
        match self.images.wait.take() {
            None => {
                self.stalls.clear(Part::Images);
                self.images_read();
            }
            Some(d) => self.images.retry_at = Some(self.desk.now.after(d)),
        }
    }

    /// A seed would overwrite what branches rest on: an operator decides.
    pub(super) fn seed_waits_for_branches(&mut self) -> bool {
        if !self.has_branches() {
            self.stalls.clear(Part::Branches);
            return false;
        }
        let names: Vec<_> = self.want.aside.iter().map(KeptBranch::name).collect();
        let words = format!(
            "the volume can only be filled by a full seed, which would overwrite what branches rest \
             on ({}): read them if anybody may want them, then `rcpctl branch drop VOLUME NAME` gives \
             them up, and it goes on by itself",
            names.join(", ")
        );
        self.stalls.set(Part::Branches, words);
        true
    }

    /// Goes on with what waited for room.
    pub(super) fn pump_images(&mut self) {
        if self.images.retry_at.is_none_or(|t| self.desk.now < t) {
            return;
        }
        self.images.retry_at = None;
        match self.images.write.clone() {
            Some(op) => self.desk.io(Purpose::SeedIn(SeedStep::ImagesWrite), FileId::Snapshots, op),
            None => self.images_read(),
        }
    }
}

/// Which blocks are written.
pub(super) fn blocks_of(
    bs: BlockSize,
    writes: &[(u64, Bytes)],
    zeroes: &[(u64, u64)],
) -> impl Iterator<Item = (u64, u64)> {
    let shift = bs.shift();
    let writes = writes.iter().map(|(at, b)| (*at, b.len() as u64));
    writes.chain(zeroes.iter().copied()).map(move |(at, len)| (at >> shift, len >> shift))
}

/// The parts of `count` blocks from `first` that are not in `touched`.
pub(super) fn untouched(touched: &BlockSet, first: u64, count: u64) -> Vec<(u64, u64)> {
    let mut out = Vec::new();
    let (mut at, end) = (first, first + count);
    while at < end {
        match touched.next_run(BlockIndex(at), BlockCount(end - at)) {
            Some((first, count)) if first.0 < end => {
                if first.0 > at {
                    out.push((at, first.0 - at));
                }
                at = first.0 + count.0;
            }
            _ => {
                out.push((at, end - at));
                break;
            }
        }
    }
    out
}
