//! What is true: the volume's content at every cut, block by block as hashes.

use std::collections::BTreeMap;

use rcp::proto::clock::Wall;
use rcp::proto::ids::{Generation, SetNumber};
use volmcast::digest::{BlockHash, Sum};
use xxhash_rust::xxh3::xxh3_64;

/// A state: the line whose writer made it, and its set.
pub type State = (Generation, SetNumber);

/// The content of a volume at its cuts.
#[derive(Debug)]
pub struct Model {
    block: usize,
    /// Hash of a block of zeroes: what lies beyond the volume's end.
    zero: u64,
    cuts: BTreeMap<State, Cut>,
    /// Cuts whose number was used again after a crash.
    earlier: BTreeMap<State, Vec<Cut>>,
    /// Newest set of each line of which its writer put anything on the wire.
    pub newest_sent: BTreeMap<Generation, SetNumber>,
}

#[derive(Debug)]
struct Cut {
    hashes: Vec<u64>,
    /// Size of the volume.
    blocks: u64,
    /// Writes to the base that had completed.
    writes: u64,
    /// The volume's digest, added up from nothing.
    digest: Sum,
    /// When its writer says that it was cut.
    at: Option<Wall>,
}

impl Model {
    /// The state before the first set.
    pub const NOTHING: State = (Generation { counter: 0, id: [0; 16] }, SetNumber::ZERO);

    /// The state of a set on a line.
    #[must_use]
    pub fn state(line: Option<Generation>, set: SetNumber) -> State {
        match line {
            Some(line) if set > SetNumber::ZERO => (line, set),
            _ => Self::NOTHING,
        }
    }

    /// A volume of zeroes.
    #[must_use]
    pub fn new(block: usize, blocks: u64) -> Self {
        let zero = xxh3_64(&vec![0; block]);
        let hashes = vec![zero; usize::try_from(blocks).unwrap_or(0)];
        let nothing = Cut { hashes, blocks, writes: 0, digest: Sum::default(), at: None };
        let cuts = BTreeMap::from([(Self::NOTHING, nothing)]);
        Self { block, zero, cuts, earlier: BTreeMap::new(), newest_sent: BTreeMap::new() }
    }

    fn hashes(&self, content: &[u8]) -> Vec<u64> {
        content.chunks(self.block).map(xxh3_64).collect()
    }

    /// A writer made a cut, `at` its own time; a set number may be cut again after a crash.
    pub fn cut(
        &mut self,
        set: State,
        at: Option<Wall>,
        content: &[u8],
        (writes, blocks): (u64, u64),
    ) {
        let hashes = self.hashes(content);
        let digest = Sum::of(&self.table(content));
        if let Some(was) = self.cuts.insert(set, Cut { hashes, blocks, writes, digest, at }) {
            self.earlier.entry(set).or_default().push(was);
        }
    }

    /// A writer found a set in its save volume that its mailbox did not know of. It may have cut it
    /// again after a crash, crashed once more with the newest mailbox slot lost, and found it as it was
    /// at first: unless that was sent, it is the state from then on.
    pub fn found(&mut self, set: State, at: Option<Wall>) {
        let unsent = self.newest_sent.get(&set.0).is_none_or(|sent| *sent < set.1);
        let Some(cut) = self.cuts.get_mut(&set).filter(|c| c.at != at && unsent) else { return };
        let earlier = self.earlier.get_mut(&set);
        if let Some(first) = earlier.and_then(|all| all.iter_mut().find(|e| e.at == at)) {
            std::mem::swap(cut, first);
        }
    }

    /// The hashes of all blocks of some content, from its first block on.
    #[must_use]
    pub fn table(&self, content: &[u8]) -> Vec<BlockHash> {
        (0..).zip(content.chunks(self.block)).map(|(b, c)| BlockHash::of(b, c)).collect()
    }

    /// Checks a digest that a node gives for a state.
    ///
    /// # Errors
    /// In words.
    pub fn check_digest(&self, set: State, digest: Sum) -> Result<(), String> {
        match self.cuts.get(&set).filter(|c| c.digest != digest) {
            Some(c) => Err(format!("the digest of state {} is {}, not {digest}", set.1, c.digest)),
            None => Ok(()),
        }
    }

    /// Writes to the base that state `set` includes.
    #[must_use]
    pub fn writes_at(&self, set: State) -> u64 {
        self.cuts.get(&set).map_or(0, |c| c.writes)
    }

    /// Checks the size of the volume in state `set`. (Before the first set it is that of the offer.)
    ///
    /// # Errors
    /// In words.
    pub fn check_size(&self, set: State, blocks: u64) -> Result<(), String> {
        match self.cuts.get(&set) {
            Some(c) if set != Self::NOTHING && c.blocks != blocks => {
                Err(format!("state {} has {} blocks, {blocks} are shown", set.1, c.blocks))
            }
            _ => Ok(()),
        }
    }

    /// Checks blocks from `first` on against state `set`.
    ///
    /// # Errors
    /// In words, naming the states that the content would fit.
    pub fn check(&self, set: State, first: u64, content: &[u8]) -> Result<(), String> {
        let Some(cut) = self.cuts.get(&set) else {
            return Err(format!("state {} was never cut on line {}", set.1, set.0));
        };
        let mut wrong = Vec::new();
        for (i, h) in self.hashes(content).into_iter().enumerate() {
            let b = usize::try_from(first).unwrap_or(0) + i;
            let at = |c: &Cut| c.hashes.get(b).copied().unwrap_or(self.zero);
            if at(cut) != h {
                let fits: Vec<_> =
                    self.cuts.iter().filter(|(_, c)| at(c) == h).map(|(s, _)| *s).collect();
                wrong.push(format!("block {b} has the content of states {}", lines(&fits)));
            }
        }
        if wrong.is_empty() {
            return Ok(());
        }
        let n = wrong.len();
        wrong.truncate(4);
        Err(format!(
            "{n} blocks differ from state {} of line {}: {}",
            set.1,
            set.0,
            wrong.join("; ")
        ))
    }

    /// Whether `content` is exactly state `set`.
    #[must_use]
    pub fn is(&self, set: State, content: &[u8]) -> bool {
        self.check(set, 0, content).is_ok()
    }
}

fn lines(states: &[State]) -> String {
    let mut by: BTreeMap<Generation, Vec<u64>> = BTreeMap::new();
    for (line, set) in states {
        by.entry(*line).or_default().push(set.0);
    }
    match by.len() {
        0 => "none".to_owned(),
        1 => by.values().map(|s| spans(s)).collect(),
        _ => by.iter().map(|(l, s)| format!("{} (line {l}) ", spans(s))).collect(),
    }
}

fn spans(sets: &[u64]) -> String {
    let mut out: Vec<(u64, u64)> = Vec::new();
    for s in sets {
        match out.last_mut() {
            Some((_, to)) if *to + 1 == *s => *to = *s,
            _ => out.push((*s, *s)),
        }
    }
    if out.is_empty() {
        return "none".to_owned();
    }
    let words: Vec<_> =
        out.iter().map(|(a, b)| if a == b { a.to_string() } else { format!("{a}-{b}") }).collect();
    words.join(",")
}
