//! What a log may hold: sets that were finished, what crashes and changes of the writer left between
//! them, and orders that nobody writes. No positions, no bytes of the ring.

use bytes::Bytes;
use rcp::proto::clock::Wall;
use rcp::proto::delta::{
    ChunkDraft, ChunkFlags, ChunkListSum, Compression, Extent, SetFlags, SetHeader, StepId,
};
use rcp::proto::ids::{Attempt, ChunkNumber, Generation, SetNumber};
use volmcast::save::log::STAGED;

use super::super::super::node::VOLUME;
use super::super::super::rng::Rng;

/// Block size of forged volumes, as the exponent of two.
pub(super) const SHIFT: u8 = 9;

/// A record without its place.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub to: SetNumber,
    /// Of a chunk; for a set header, how many there are.
    pub number: u32,
    pub is_end: bool,
    pub body: Bytes,
}

/// What happened to a set, or to what stands in its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Deed {
    /// It was finished.
    Finished,
    /// It leads over several states.
    Joined,
    /// Some chunks were written, and then it was begun again, with a higher attempt.
    Again,
    /// The same, with the same attempt.
    Once,
    /// The same, with a lower attempt: nobody does that.
    Older,
    /// It has no data, perhaps behind what was written of it.
    Bare,
    /// It is of a line that nobody follows here.
    Foreign,
    /// Its end does not fit its chunks.
    Misfit,
    /// A chunk of it is missing, or there twice, or where another belongs.
    Disorder,
    /// It does not follow the set before it.
    Apart,
    /// A chunk of it is of another attempt, or of another set.
    Mixed,
    /// A record stands there twice.
    Twice,
    /// The set before it stands there once more.
    Repeated,
    /// A replica made it of the blocks of a catch-up.
    Staged,
    /// It was not finished.
    Open,
}

impl Deed {
    /// How it is counted.
    pub(super) fn hit(self) -> &'static str {
        match self {
            Self::Finished => "forged: a set",
            Self::Joined => "forged: a set over several states",
            Self::Again => "forged: a set begun again with a higher attempt",
            Self::Once => "forged: a set begun again with the same attempt",
            Self::Older => "forged: a set begun again with a lower attempt",
            Self::Bare => "forged: a set without data",
            Self::Foreign => "forged: a set of another line",
            Self::Misfit => "forged: an end that does not fit",
            Self::Disorder => "forged: chunks out of order",
            Self::Apart => "forged: a set that does not follow",
            Self::Mixed => "forged: a chunk of something else",
            Self::Twice => "forged: a record twice",
            Self::Repeated => "forged: the set before once more",
            Self::Staged => "forged: a staged step",
            Self::Open => "forged: a set that is not finished",
        }
    }

    /// It, if writers and their crashes leave such a thing.
    pub(super) fn or_usual(self) -> Self {
        if self.happens() { self } else { Self::Finished }
    }

    /// A writer and its crashes leave such a thing.
    fn happens(self) -> bool {
        use Deed::{Again, Bare, Finished, Foreign, Joined, Once, Open};
        matches!(self, Finished | Joined | Again | Once | Bare | Foreign | Open)
    }
}

/// A line of writers.
pub(super) fn line(counter: u32) -> Generation {
    Generation { counter, id: [u8::try_from(counter).unwrap_or(0); 16] }
}

/// How large the volume is in a state: it grows.
pub(super) fn blocks_in(set: SetNumber) -> u64 {
    64 + set.0 / 3 * 8
}

/// What is told.
pub(super) struct Story<'r> {
    pub rng: &'r mut Rng,
    pub entries: Vec<Entry>,
    /// The states that led to each entry, and to what follows the last one.
    pub stands: Vec<Vec<SetNumber>>,
    /// The line that is written now.
    pub line: Generation,
    pub deeds: Vec<Deed>,
    /// Before this entry all steps follow each other.
    pub joined: usize,
    /// The present line begins with this entry.
    pub begun: usize,
    /// The last staged step: where it leads, and whether it has its end.
    pub staged: Option<(SetNumber, bool)>,
    /// Chunks hold blocks, and are long.
    pub fat: bool,
    attempt: u32,
}

impl<'r> Story<'r> {
    /// Nothing has happened since `base`.
    pub(super) fn new(rng: &'r mut Rng, base: SetNumber, line: Generation) -> Self {
        Self {
            rng,
            entries: Vec::new(),
            stands: vec![vec![base]],
            line,
            deeds: Vec::new(),
            joined: usize::MAX,
            begun: 0,
            staged: None,
            fat: false,
            attempt: 1,
        }
    }

    /// The states that the log leads through.
    pub(super) fn chain(&self) -> &[SetNumber] {
        self.stands.last().map_or(&[], Vec::as_slice)
    }

    pub(super) fn state(&self) -> SetNumber {
        self.chain().last().copied().unwrap_or_default()
    }

    /// All that happened is what a writer and its crashes leave.
    pub(super) fn happens(&self) -> bool {
        self.deeds.iter().all(|d| d.happens())
    }

    /// Another line begins at one of the states.
    pub(super) fn fork(&mut self, line: Generation) -> SetNumber {
        let at = self.rng.pick(self.chain().to_vec().as_slice()).copied().unwrap_or_default();
        if let Some(chain) = self.stands.last_mut() {
            chain.retain(|s| *s <= at);
        }
        self.line = line;
        self.begun = self.entries.len();
        at
    }

    /// The first `n` records were given back.
    pub(super) fn trim(&mut self, n: usize) {
        self.entries.drain(..n);
        self.stands.drain(..n);
        self.joined = self.joined.saturating_sub(n);
        self.begun = self.begun.saturating_sub(n);
    }

    fn push(&mut self, to: SetNumber, number: u32, is_end: bool, body: Bytes) {
        self.entries.push(Entry { to, number, is_end, body });
        self.stands.push(self.chain().to_vec());
    }

    /// A finished step is there.
    fn reach(&mut self, to: SetNumber) {
        if let Some(chain) = self.stands.last_mut() {
            chain.retain(|s| *s < to);
            chain.push(to);
        }
    }

    fn next_attempt(&mut self) -> u32 {
        self.attempt += 1 + u32::from(self.rng.percent(30));
        self.attempt
    }

    /// The step from the present state to the next one.
    fn next_step(&mut self) -> StepId {
        let (base, attempt) = (self.state(), Attempt(self.next_attempt()));
        StepId { volume: VOLUME, generation: self.line, base, to: base.next(), attempt }
    }

    /// Writes chunk `number` of a step; its checksum.
    fn chunk(&mut self, step: StepId, number: u32) -> (u32, u32) {
        let data = self.fat || self.rng.percent(15);
        let block = self.rng.below(48);
        let zero = Extent::zero(block, u32::try_from(self.rng.range(1, 3)).unwrap_or(1));
        let more = Extent::data(block + 4, 1);
        let fill = u8::try_from(self.rng.below(256)).unwrap_or(0);
        let draft = ChunkDraft {
            step,
            number: ChunkNumber(number),
            block_size_shift: SHIFT,
            flags: ChunkFlags::NONE,
            extents: if data { vec![zero, more] } else { vec![zero] },
            payload: if data { Bytes::from(vec![fill; 1 << SHIFT]) } else { Bytes::new() },
        };
        let chunk = draft.encode(Compression::Never).expect("a chunk");
        self.push(step.to, number, false, chunk.bytes().clone());
        (number, chunk.body_crc())
    }

    fn chunks(&mut self, step: StepId, numbers: &[u32]) -> Vec<(u32, u32)> {
        numbers.iter().map(|n| self.chunk(step, *n)).collect()
    }

    /// Writes a set header.
    fn end(&mut self, step: StepId, count: u32, crc: u32, bare: bool) {
        let flags = if bare { SetFlags::BITMAP_ONLY } else { SetFlags::default() };
        let (flags, sum) = match self.rng.percent(30) {
            true => (flags.with(SetFlags::DIGEST_ABSENT), 0),
            false => (flags, self.rng.draw()),
        };
        let mut digest = [0; 32];
        digest[..8].copy_from_slice(&sum.to_le_bytes());
        let header = SetHeader {
            step,
            chunk_count: count,
            block_count: u64::from(count),
            volume_blocks: blocks_in(step.to),
            block_shift: SHIFT,
            cut_time: Wall(step.to.0),
            flags,
            digest,
            chunk_list_crc: crc,
        };
        self.push(step.to, count, true, header.to_bytes());
    }

    /// Writes a step with these chunks and the end that fits them.
    fn write(&mut self, step: StepId, numbers: &[u32]) {
        let sums = self.chunks(step, numbers);
        self.end(step, u32::try_from(sums.len()).unwrap_or(0), sum_of(&sums), false);
    }

    fn finish(&mut self, step: StepId) {
        let n = if self.fat { self.rng.range(1, 4) } else { self.rng.below(4) };
        let numbers: Vec<_> = (0..u32::try_from(n).unwrap_or(0)).collect();
        self.write(step, &numbers);
        self.reach(step.to);
    }

    /// Some chunks of a step that comes to nothing.
    fn leave(&mut self, step: StepId) {
        let n = u32::try_from(self.rng.range(1, 3)).unwrap_or(1);
        let numbers: Vec<_> = (0..n).collect();
        self.chunks(step, &numbers);
    }

    /// Does one thing more.
    pub(super) fn tell(&mut self, deed: Deed) {
        self.deeds.push(deed);
        let step = self.next_step();
        match deed {
            Deed::Finished => self.finish(step),
            Deed::Joined => {
                let to = SetNumber(step.to.0 + self.rng.range(1, 3));
                self.finish(StepId { to, ..step });
            }
            Deed::Again => {
                self.leave(step);
                let attempt = Attempt(self.next_attempt());
                self.finish(StepId { attempt, ..step });
            }
            Deed::Once => {
                self.leave(step);
                self.finish(step);
            }
            Deed::Older => {
                let later = Attempt(self.next_attempt());
                self.leave(StepId { attempt: later, ..step });
                self.finish(step);
            }
            Deed::Bare => {
                if self.rng.percent(50) {
                    self.leave(step);
                }
                let attempt = Attempt(step.attempt.0 + u32::from(self.rng.percent(50)));
                self.end(StepId { attempt, ..step }, 0, 0, true);
                self.reach(step.to);
            }
            Deed::Foreign => {
                let generation = line(if self.rng.percent(50) { 9 } else { self.line.counter - 1 });
                self.leave(StepId { generation, ..step });
                if self.rng.percent(60) {
                    self.write(StepId { generation, ..step }, &[0, 1]);
                }
            }
            Deed::Misfit => self.misfit(step),
            Deed::Disorder => {
                let orders: [&[u32]; 7] =
                    [&[0, 2], &[0, 0, 1], &[1, 0], &[0, 1, 1], &[1], &[0, 2, 1], &[1, 2]];
                let order = self.rng.pick(&orders).copied().unwrap_or(&[0, 2]);
                self.write(step, order);
            }
            Deed::Apart => self.apart(step),
            Deed::Mixed => {
                let attempt = Attempt(self.next_attempt());
                let other = match self.rng.below(3) {
                    0 => StepId { attempt, ..step },
                    1 => StepId { to: step.to.next(), ..step },
                    _ => StepId { to: step.to.next(), base: step.to, ..step },
                };
                let mut sums = self.chunks(step, &[0]);
                sums.push(self.chunk(other, 1));
                let end = if self.rng.percent(70) { step } else { other };
                if end != step {
                    self.comes_apart();
                }
                self.end(end, 2, sum_of(&sums), false);
            }
            Deed::Twice => {
                if let Some(last) = self.entries.last().cloned() {
                    self.push(last.to, last.number, last.is_end, last.body);
                }
            }
            Deed::Repeated => self.repeat(step),
            Deed::Staged => {
                let attempt = Attempt(STAGED | step.attempt.0);
                let to = SetNumber(step.to.0 + self.rng.below(2));
                let whole = self.rng.percent(60);
                self.staged = Some((to, whole));
                let step = StepId { attempt, to, ..step };
                if whole { self.finish(step) } else { self.leave(step) }
            }
            Deed::Open => self.leave(step),
        }
    }

    /// What follows leads from another state than the last one: no slot stands behind it.
    fn comes_apart(&mut self) {
        self.joined = self.joined.min(self.entries.len());
    }

    fn misfit(&mut self, step: StepId) {
        let sums = self.chunks(step, &[0, 1]);
        let (count, crc) = (2, sum_of(&sums));
        let other = Attempt(self.next_attempt());
        match self.rng.below(6) {
            0 => self.end(step, count + 1, crc, false),
            1 => self.end(step, count - 1, sum_of(&sums[..1]), false),
            2 => self.end(step, count, crc ^ 1, false),
            3 => self.end(StepId { attempt: other, ..step }, count, crc, false),
            4 => {
                self.comes_apart();
                self.end(StepId { to: step.to.next(), ..step }, count, crc, false);
            }
            // The chunks of the set are those of another one.
            _ => {
                self.end(step, count, crc, false);
                self.reach(step.to);
                let next = self.next_step();
                self.end(next, count, crc, false);
            }
        }
        if self.rng.percent(50) {
            self.reach(step.to);
        }
    }

    /// A set after one that is not there, or after one before the last.
    fn apart(&mut self, step: StepId) {
        self.comes_apart();
        let before = step.base.0.saturating_sub(1);
        let (base, to) = match self.rng.below(3) {
            0 => (step.to, step.to.next()),
            1 => (SetNumber(before), step.to),
            _ => (step.base.next().next(), step.to.next().next()),
        };
        let step = StepId { base, to, ..step };
        if self.rng.percent(30) {
            self.end(step, 0, 0, true);
        } else if self.rng.percent(80) {
            self.write(step, &[0]);
        } else {
            self.leave(step);
        }
        if self.rng.percent(50) {
            self.reach(to);
        }
    }

    /// The header of the set that was finished last, once more, of a volume of another size.
    fn repeat(&mut self, step: StepId) {
        let chain = self.chain();
        let before = chain.len().checked_sub(2).and_then(|i| chain.get(i));
        let Some(base) = before.copied() else { return };
        let step = StepId { base, to: step.base, ..step };
        let flags = SetFlags::DIGEST_ABSENT.with(SetFlags::BITMAP_ONLY);
        let header = SetHeader {
            step,
            chunk_count: 0,
            block_count: 1,
            volume_blocks: blocks_in(step.to) + 16,
            block_shift: SHIFT,
            cut_time: Wall(step.to.0),
            flags,
            digest: [0; 32],
            chunk_list_crc: 0,
        };
        self.push(step.to, 0, true, header.to_bytes());
    }
}

/// The checksum of a set header over these chunks.
fn sum_of(chunks: &[(u32, u32)]) -> u32 {
    let mut sum = ChunkListSum::new();
    for (number, crc) in chunks {
        let _ = sum.add(ChunkNumber(*number), *crc);
    }
    sum.crc()
}
