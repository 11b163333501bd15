//! Disks that forget: what was written, and what of it a crash leaves.
//!
//! A write takes effect when it completes; a sync makes durable what had completed when it was
//! submitted. A sync that fails loses what it was for, and is reported once: the pages stay in memory
//! and count as clean, as in Linux. At a crash everything else – completed or under way – is kept, lost or torn at
//! sectors, each sector by itself.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use bytes::{Bytes, BytesMut};
use node::nbd::Extent;
use volmcast::io::{FileId, Io, IoError, Op, Outcome};
use volmcast::storage::{Sizes, Storage};

use super::rng::Rng;

/// Bytes that are written whole or not at all.
pub const SECTOR: usize = 512;

/// One write to a file: its pieces, `None` where it makes zeroes.
type Parts = Vec<(u64, Option<Bytes>, u64)>;

#[derive(Clone, Debug, Default)]
struct SimFile {
    /// What reads see.
    now: Vec<u8>,
    /// What a crash cannot take.
    durable: Vec<u8>,
    /// Completed, not durable: by their order of completion.
    pending: BTreeMap<u64, Parts>,
    /// Completed writes so far.
    completed: u64,
    /// Every write up to this one is durable.
    durable_through: u64,
    /// A sync failed, and the node that has the file open remembers it, as `storage::Files` does.
    failed: bool,
    /// Submitted, not completed, by the token of the request.
    under_way: BTreeMap<u64, Parts>,
}

/// What a crash did to a node's files.
#[derive(Clone, Copy, Debug, Default)]
pub struct Damage {
    /// Writes of which some sectors were kept and some lost.
    pub torn: u64,
    /// Writes lost whole.
    pub lost: u64,
}

/// The files of one volume.
#[derive(Clone, Debug, Default)]
pub struct Disk {
    files: BTreeMap<FileId, SimFile>,
    next_token: u64,
    /// What nobody may do to a disk, was done.
    pub crossed: Option<String>,
    /// The same of the content, which many may write at a primary.
    pub crossed_base: Option<String>,
}

/// A request that was submitted.
#[derive(Clone, Debug)]
pub struct Submitted {
    /// Names it on this disk.
    pub token: u64,
    /// The request.
    pub io: Io,
    /// For a sync: how many writes it covers.
    covers: u64,
}

fn parts_of(op: &Op) -> Parts {
    match op {
        Op::Write { offset, data } => {
            let mut at = *offset;
            data.iter()
                .map(|d| {
                    let from = at;
                    at += d.len() as u64;
                    (from, Some(d.clone()), d.len() as u64)
                })
                .collect()
        }
        Op::Zero { offset, len } => vec![(*offset, None, *len)],
        Op::Extend { from, len } => vec![(*from, None, len.saturating_sub(*from))],
        Op::Scatter { writes, zeroes } => zeroes
            .iter()
            .map(|(o, n)| (*o, None, *n))
            .chain(writes.iter().map(|(o, d)| (*o, Some(d.clone()), d.len() as u64)))
            .collect(),
        _ => Vec::new(),
    }
}

/// Writes the parts, or those of their sectors that `keep` chooses; says how many were left out.
fn apply(to: &mut Vec<u8>, parts: &Parts, keep: &mut dyn FnMut() -> bool) -> (u64, u64) {
    let (mut kept, mut lost) = (0, 0);
    for (offset, data, len) in parts {
        let start = usize::try_from(*offset).unwrap_or(usize::MAX);
        let end = start + usize::try_from(*len).unwrap_or(0);
        if to.len() < end {
            to.resize(end, 0);
        }
        let mut at = start;
        while at < end {
            let until = ((at / SECTOR + 1) * SECTOR).min(end);
            if keep() {
                kept += 1;
                match data {
                    Some(d) => to[at..until].copy_from_slice(&d[at - start..until - start]),
                    None => to[at..until].fill(0),
                }
            } else {
                lost += 1;
            }
            at = until;
        }
    }
    (kept, lost)
}

impl SimFile {
    fn read(&self, offset: u64, buf: &mut [u8]) {
        let from = usize::try_from(offset).unwrap_or(usize::MAX).min(self.now.len());
        let n = buf.len().min(self.now.len() - from);
        buf[..n].copy_from_slice(&self.now[from..from + n]);
        buf[n..].fill(0);
    }

    fn write(&mut self, parts: Parts) {
        apply(&mut self.now, &parts, &mut || true);
        self.completed += 1;
        self.pending.insert(self.completed, parts);
    }

    fn sync(&mut self, through: u64) {
        let later = self.pending.split_off(&(through + 1));
        for parts in std::mem::replace(&mut self.pending, later).into_values() {
            apply(&mut self.durable, &parts, &mut || true);
        }
        self.durable_through = self.durable_through.max(through);
    }

    /// The system could not write what a sync was for: some sectors are on the disk, the others
    /// never will be, and nobody will try again.
    fn lose(&mut self, through: u64, rng: &mut Rng) {
        let chance = *rng.pick(&[0, 0, 50]).unwrap_or(&0);
        let later = self.pending.split_off(&(through + 1));
        for parts in std::mem::replace(&mut self.pending, later).into_values() {
            apply(&mut self.durable, &parts, &mut || rng.percent(chance));
        }
        self.failed = true;
    }

    fn crash(&mut self, rng: &mut Rng, damage: &mut Damage) {
        // Some crashes lose everything, some nothing, most a part.
        let chance = *rng.pick(&[0, 50, 50, 80, 20, 100]).unwrap_or(&50);
        let writes: Vec<_> = std::mem::take(&mut self.pending)
            .into_values()
            .chain(std::mem::take(&mut self.under_way).into_values())
            .collect();
        for parts in writes {
            let whole = rng.percent(50);
            let keep_whole = rng.percent(chance);
            let mut keep = || if whole { keep_whole } else { rng.percent(chance) };
            let (kept, lost) = apply(&mut self.durable, &parts, &mut keep);
            damage.torn += u64::from(kept > 0 && lost > 0);
            damage.lost += u64::from(kept == 0 && lost > 0);
        }
        self.now = self.durable.clone();
        self.durable_through = self.completed;
    }
}

impl Disk {
    /// Files of the given sizes, all zero.
    #[must_use]
    pub fn new(sizes: Sizes) -> Self {
        let mut d = Self::default();
        for (id, len) in [
            (FileId::Base, sizes.base),
            (FileId::Save, sizes.save),
            (FileId::Snapshots, sizes.snapshots),
        ] {
            let zero = vec![0; usize::try_from(len).unwrap_or(0)];
            let f = SimFile { now: zero.clone(), durable: zero, ..SimFile::default() };
            d.files.insert(id, f);
        }
        d
    }

    fn file(&mut self, id: FileId) -> &mut SimFile {
        self.files.entry(id).or_default()
    }

    /// Takes a request; [`complete`](Self::complete) carries it out.
    pub fn submit(&mut self, io: Io) -> Submitted {
        self.next_token += 1;
        let token = self.next_token;
        let f = self.file(io.file);
        let parts = parts_of(&io.op);
        // Two writes under way to one place may land in either order.
        let crossing = |(at, _, len): &(u64, Option<Bytes>, u64)| {
            f.under_way.values().flatten().any(|(o, _, n)| at < &(o + n) && o < &(at + len))
        };
        if let Some((at, ..)) = parts.iter().find(|p| crossing(p)) {
            let base = io.file == FileId::Base;
            let crossed = if base { &mut self.crossed_base } else { &mut self.crossed };
            crossed.get_or_insert_with(|| {
                format!("two writes to {:?} at {at} are under way at the same time", io.file)
            });
        }
        let f = self.file(io.file);
        if !parts.is_empty() {
            f.under_way.insert(token, parts);
        }
        let covers = f.completed;
        Submitted { token, io, covers }
    }

    /// Carries a request out.
    pub fn complete(&mut self, s: &Submitted) -> Outcome {
        let f = self.file(s.io.file);
        if let Some(parts) = f.under_way.remove(&s.token) {
            f.write(parts);
            return Outcome::Done;
        }
        match &s.io.op {
            Op::Sync if f.failed => Outcome::Failed(IoError::Os(5)),
            Op::Sync => {
                f.sync(s.covers);
                Outcome::Done
            }
            Op::Read { offset, len } => {
                let mut b = BytesMut::zeroed(*len);
                f.read(*offset, &mut b);
                Outcome::Read(b.freeze())
            }
            Op::Gather { ranges } => {
                let mut out = BytesMut::new();
                for (offset, len) in ranges {
                    let mut b = BytesMut::zeroed(*len);
                    f.read(*offset, &mut b);
                    out.extend_from_slice(&b);
                }
                Outcome::Read(out.freeze())
            }
            Op::NextData { offset } => {
                let from = usize::try_from(*offset).unwrap_or(usize::MAX) / SECTOR * SECTOR;
                let data = |at: usize| {
                    let end = (at + SECTOR).min(f.now.len());
                    f.now[at..end].iter().any(|b| *b != 0)
                };
                let mut sectors = (from..f.now.len()).step_by(SECTOR);
                let Some(start) = sectors.find(|at| data(*at)) else {
                    return Outcome::NextData(None);
                };
                let end = sectors.find(|at| !data(*at)).unwrap_or(f.now.len());
                Outcome::NextData(Some((start as u64, end as u64)))
            }
            // Empty writes.
            _ => Outcome::Done,
        }
    }

    /// A request that failed without effect, or with a part of it.
    pub fn fail(&mut self, s: &Submitted, rng: &mut Rng, why: IoError) -> Outcome {
        let f = self.file(s.io.file);
        if s.io.op == Op::Sync {
            f.lose(s.covers, rng);
        }
        if let Some(parts) = f.under_way.remove(&s.token) {
            let chance = *rng.pick(&[0, 50, 100]).unwrap_or(&0);
            // What did reach the file may or may not survive: written sector by sector.
            let mut some: Parts = Vec::new();
            for (offset, data, len) in parts {
                let mut at = 0;
                while at < len {
                    let n = (len - at).min(SECTOR as u64);
                    if rng.percent(chance) {
                        let (a, b) = (
                            usize::try_from(at).unwrap_or(0),
                            usize::try_from(at + n).unwrap_or(0),
                        );
                        some.push((offset + at, data.as_ref().map(|d| d.slice(a..b)), n));
                    }
                    at += n;
                }
            }
            f.write(some);
        }
        Outcome::Failed(why)
    }

    /// Flips a bit for good, as a rotten sector does.
    pub fn flip(&mut self, id: FileId, at: u64, bit: u8) {
        let f = self.file(id);
        let at = usize::try_from(at).unwrap_or(usize::MAX);
        for content in [&mut f.now, &mut f.durable] {
            if let Some(b) = content.get_mut(at) {
                *b ^= 1 << (bit & 7);
            }
        }
    }

    /// Somebody puts back what was there.
    pub fn put_back(&mut self, id: FileId, at: u64, bytes: &[u8]) {
        let f = self.file(id);
        let at = usize::try_from(at).unwrap_or(usize::MAX);
        for content in [&mut f.now, &mut f.durable] {
            if let Some(b) = content.get_mut(at..at.saturating_add(bytes.len())) {
                b.copy_from_slice(bytes);
            }
        }
    }

    /// Lets parts of the writes under way be seen already.
    pub fn smear(&mut self, id: FileId, rng: &mut Rng) {
        let f = self.file(id);
        for parts in f.under_way.values() {
            let chance = rng.below(101);
            apply(&mut f.now, parts, &mut || rng.percent(chance));
        }
    }

    /// The power goes.
    pub fn crash(&mut self, rng: &mut Rng) -> Damage {
        let mut damage = Damage::default();
        for f in self.files.values_mut() {
            f.crash(rng, &mut damage);
            f.failed = false;
        }
        damage
    }

    /// The process ends, the machine goes on: completed writes stay in the cache; of those under
    /// way some happen.
    pub fn kill(&mut self, rng: &mut Rng) {
        for f in self.files.values_mut() {
            f.failed = false;
            for parts in std::mem::take(&mut f.under_way).into_values() {
                if rng.percent(50) {
                    f.write(parts);
                }
            }
        }
    }

    /// Writes that have completed on a file.
    #[must_use]
    pub fn completed(&self, id: FileId) -> u64 {
        self.files.get(&id).map_or(0, |f| f.completed)
    }

    /// Every write up to this one is durable.
    #[must_use]
    pub fn durable_through(&self, id: FileId) -> u64 {
        self.files.get(&id).map_or(0, |f| f.durable_through)
    }

    /// Parts of a range of the base that are zero, as a sparse file tells them.
    #[must_use]
    pub fn holes(&self, offset: u64, len: u64) -> Vec<Extent> {
        let now = self.bytes(FileId::Base);
        let at = |o: u64| usize::try_from(o).unwrap_or(usize::MAX).min(now.len());
        let part = &now[at(offset)..at(offset + len)];
        let mut out: Vec<Extent> = Vec::new();
        for s in part.chunks(SECTOR) {
            let zero = s.iter().all(|b| *b == 0);
            match out.last_mut() {
                Some(e) if e.zero == zero => e.len += s.len() as u64,
                _ => out.push(Extent { len: s.len() as u64, hole: zero, zero }),
            }
        }
        let left = len - part.len() as u64;
        if left > 0 {
            out.push(Extent { len: left, hole: true, zero: true });
        }
        out
    }

    /// What reads of a file see.
    #[must_use]
    pub fn bytes(&self, id: FileId) -> &[u8] {
        self.files.get(&id).map_or(&[], |f| &f.now)
    }

    /// A file's content as whoever opens it next finds it: without what a failed sync lost.
    #[must_use]
    pub fn settled(&self, id: FileId) -> Vec<u8> {
        let Some(f) = self.files.get(&id) else { return Vec::new() };
        let mut content = f.durable.clone();
        for parts in f.pending.values() {
            apply(&mut content, parts, &mut || true);
        }
        content
    }
}

/// A disk that several hold: the volume's requests, its opening, readers and writers.
#[derive(Clone, Debug)]
pub struct SharedDisk(pub Rc<RefCell<Disk>>);

impl Storage for SharedDisk {
    fn perform(&self, io: &Io) -> Outcome {
        let mut d = self.0.borrow_mut();
        let s = d.submit(io.clone());
        d.complete(&s)
    }

    fn settle(&self, id: FileId) -> Result<(), IoError> {
        let mut d = self.0.borrow_mut();
        let f = d.file(id);
        f.sync(f.completed);
        f.now.clone_from(&f.durable);
        Ok(())
    }

    fn read_into(&self, id: FileId, offset: u64, buf: &mut [u8]) -> Result<(), IoError> {
        if let Some(f) = self.0.borrow().files.get(&id) {
            f.read(offset, buf);
        } else {
            buf.fill(0);
        }
        Ok(())
    }
}
