//! A second reading of a volume's files whenever one is opened, from `volmcast/FORMAT.md` (sections 4,
//! 5, 10, 12 and 13) alone: it lists all records, cuts them into attempts, and says which of them count,
//! where the volume goes through them one by one. Both have to come to the same. Of a node of the
//! simulated world that finds its change of role cut short nothing is judged: it goes on with it at once.
//!
//! | file | what it is |
//! |---|---|
//! | `records` | the records of a save volume, cut into attempts |
//! | `pass` | which of them count, and what follows |
//! | `damage` | what follows if they cannot be read |
//! | `table` | what the table of hashes is worth |
//! | `trial` | copies of the simulated world's files |
//! | `forge` | files that chance makes up |

mod damage;
mod forge;
mod pass;
mod records;
mod table;
mod trial;

use std::collections::BTreeMap;

use bytes::Bytes;
use rcp::proto::delta::StepId;
use rcp::proto::ids::{Generation, NodeName, SetNumber, VolumeId};
use volmcast::bitmap::BlockSet;
use volmcast::mailbox::{Mailbox, SLOT_LEN, TableMark};
use volmcast::units::{BlockSize, LogPos};
use volmcast::volume::{Event, Opened, Volume};

pub use self::forge::forged;
use self::pass::Pass;
use super::options::Kind;

/// What is on the disk of a node that starts.
pub struct Files {
    /// The two slots.
    pub mailbox: Bytes,
    /// The ring.
    pub save: Bytes,
    /// The table of hashes begins so.
    pub hashes: Bytes,
    /// Bytes of the ring that count.
    pub capacity: u64,
    /// Whose it is.
    pub volume: VolumeId,
    /// Size of its blocks.
    pub block_size: BlockSize,
    /// What the node is called.
    pub node: NodeName,
    /// What the node is.
    pub kind: Kind,
    /// The line that a writer opens, or has opened.
    pub opens: Option<Generation>,
    /// A writer's content that its parent gives up: what follows from the files is given up at once.
    pub discards: bool,
}

/// What follows from them.
pub struct Reading {
    opened: Opened,
    /// Blocks of sets that only the save volume knew of.
    changed: BTreeMap<SetNumber, BlockSet>,
    /// The log was given up.
    damaged: bool,
    /// One slot was lost, and the log fits the other one.
    old: bool,
    /// States that were to be kept, and perhaps cannot be any more.
    passed: Vec<SetNumber>,
    /// How many sets only the save volume knew of.
    adopted: usize,
    primary: bool,
}

impl Files {
    /// The slot that rules, and whether the other one is damaged.
    fn slots(&self) -> Option<(Mailbox, bool)> {
        let halves: Vec<_> = self.mailbox.chunks(SLOT_LEN).take(2).collect();
        let sound: Vec<_> = halves.iter().filter_map(|s| Mailbox::decode(s).ok()).collect();
        let lost = halves.iter().any(|s| Mailbox::decode(s).is_err() && s.iter().any(|b| *b != 0));
        // Only the first commit of all leaves a slot untouched.
        let never = sound.first().is_some_and(|m| m.sequence == 1);
        let one = sound.len() == 1;
        Some((sound.into_iter().max_by_key(|m| m.sequence)?, one && (lost || !never)))
    }

    /// Reads them; `None` if what follows from them is something else at once: a line is opened, and
    /// what its content lacks goes, or the content is given up.
    #[must_use]
    pub fn read(&self) -> Option<Reading> {
        let (slot, old) = self.slots().filter(|_| !self.discards)?;
        let p = Pass::new(self, &slot, old);
        (!p.is_unopened()).then(|| p.read())
    }
}

impl Reading {
    /// What it came upon, if anything.
    #[must_use]
    pub fn found(&self) -> Option<&'static str> {
        match (self.damaged, self.adopted) {
            (true, _) => Some("log given up on trial"),
            (false, 0) => None,
            (false, _) => Some("sets of the save volume taken over on trial"),
        }
    }

    /// Holds what the volume made of the files against it.
    ///
    /// # Errors
    /// What it takes for something else, in words.
    pub fn check(&self, v: &Volume) -> Result<(), String> {
        let (mut expected, found) = (self.opened.clone(), v.opened());
        if self.damaged {
            // What becomes of what was staged is its own business.
            expected.staged = found.staged;
            if found.staged.is_some() {
                // And so is what is waited for within that.
                expected.waiting.clone_from(&found.waiting);
            }
            let bare =
                |(id, chunks, _): &(StepId, u32, _)| id.to > expected.visible && *chunks == 0;
            if self.primary && found.steps.iter().all(bare) {
                // Headers of sets that were whole before the damage, and that no slot named.
                expected.steps.clone_from(&found.steps);
                expected.log.1 = found.log.1;
            }
        }
        if found.digest.table == TableMark::Absent {
            // What state there is no table of has no meaning.
            expected.digest.hashed = found.digest.hashed;
        }
        if found.merges_from.is_none() {
            // It has no use for what comes.
            expected.open = found.open;
        }
        if found != expected {
            let parts = parts_of(&expected).into_iter().zip(parts_of(&found));
            let other = parts.filter(|(e, f)| e != f);
            let other: Vec<_> =
                other.map(|((what, e), (_, f))| format!("{what} {e}, it has {f}")).collect();
            return Err(format!("the files say {}", other.join("; ")));
        }
        let unknown = self.changed.iter().find(|(set, blocks)| !v.knows_changed(**set, blocks));
        match unknown {
            Some((set, _)) => Err(format!("blocks that set {set} changed are not noted")),
            None => Ok(()),
        }
    }

    /// Holds what the volume said while it was opened against it: an operator has to know what was
    /// damaged, how many sets were found, and which states are not kept.
    ///
    /// # Errors
    /// What was not said, or said without being true, in words.
    fn check_words(&self, events: &[Event]) -> Result<(), String> {
        let said = |part: &str| {
            let text = |e: &Event| matches!(e, Event::Damage { text } if text.contains(part));
            events.iter().any(text)
        };
        let sets = format!("with {} sets that", self.adopted);
        let finds = self.adopted > 0;
        for (is, part) in [
            (self.old, "one of the two mailbox slots is damaged"),
            (finds, "sets that the save volume holds beyond it"),
            (self.damaged && self.primary, "the volume itself is whole"),
        ] {
            if said(part) != is {
                let not = if is { "not " } else { "" };
                return Err(format!("it is {not}said that \"{part}\": {events:?}"));
            }
        }
        let passed = events.iter().filter_map(|e| match e {
            Event::NotKept { states, text } => text.contains("perhaps passed").then_some(states),
            _ => None,
        });
        if !passed.flatten().eq(&self.passed) {
            let passed = &self.passed;
            return Err(format!("it is not said that {passed:?} are not kept: {events:?}"));
        }
        let exact = [(finds, sets.as_str()), (self.damaged, "the save volume ")];
        match exact.iter().find(|(is, part)| *is && !said(part)) {
            Some((_, part)) => Err(format!("it is not said that \"{part}\": {events:?}")),
            None => Ok(()),
        }
    }
}

/// What an opening comes to, in words.
fn parts_of(o: &Opened) -> Vec<(&'static str, String)> {
    let step = |(id, chunks, end): &(StepId, u32, Option<LogPos>)| {
        let end = end.map_or("open".to_owned(), |end| format!("up to {end}"));
        format!("{} to {} (attempt {}, {chunks} chunks, {end})", id.base, id.to, id.attempt.0)
    };
    vec![
        ("steps", o.steps.iter().map(step).collect::<Vec<_>>().join(", ")),
        ("log", format!("{:?} over {}", o.log, o.base)),
        ("visible", format!("{} merged {}", o.visible, o.merged)),
        ("hidden until", o.hidden_until.to_string()),
        ("size", format!("{:?}", o.blocks)),
        ("indexed", format!("{:?} {:?}", o.indexed, o.open)),
        ("merge from", format!("{:?}", o.merges_from)),
        ("seed", format!("{:?}", o.seed)),
        ("staged", format!("{:?}", o.staged)),
        ("still to keep", format!("{:?}", o.waiting)),
        ("children", format!("{:?}", o.children)),
        ("changes known after", o.changes_from.to_string()),
        ("table of hashes", format!("{:?}", o.digest)),
    ]
}
