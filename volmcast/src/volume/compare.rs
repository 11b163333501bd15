//! Finding the blocks in which a replica and its parent differ, by sums of block hashes.
//!
//! A replica whose digest is not the primary's, although each of its blocks is what its hash says,
//! holds blocks and hashes of an older state together, or bytes that rotted while no table told. It
//! asks its parent for sums over ranges of the table, holds its own against them, and asks again for
//! the single hashes of ranges that differ. Both tables go on changing meanwhile: the parent's answer
//! is of the state that is merged here or of a later one, so that what differs is found, and what
//! merely changed is looked at a few times more before it counts (`rcp/PROTOCOL.md`, section 7).
//!
//! What differs comes again by a catch-up. If nothing does, the content is right, and what the primary
//! told of its digest is not. So that this holds, a replica answers only after it has added up its own
//! table lately: one that is stale itself, and whose child was filled from it, finds that out first.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use rcp::proto::clock::Mono;
use rcp::proto::ids::{NodeName, SetNumber};
use rcp::proto::limits::MAX_SUMS;

use super::desk::Purpose;
use super::scrub::Rotted;
use super::{Event, Role, Volume};
use crate::bitmap::BlockSet;
use crate::digest::{BlockHash, Sum, hashes_in, table_range};
use crate::history::line_of;
use crate::io::{FileId, Op, Outcome};
use crate::mailbox::TableMark;
use crate::units::{BlockCount, BlockIndex};

/// Sums in a question.
const SUMS: u64 = MAX_SUMS as u64;
/// Blocks in a sum of the first round: a range that differs is one question of the second.
const EACH: u64 = SUMS;
/// Most blocks that a question may be about.
const MAX_BLOCKS: u64 = EACH * SUMS;
/// A block must look different so many times before it counts.
const LOOKS: u32 = 3;
/// Between two looks at the same range.
const AGAIN: Duration = Duration::from_millis(200);
/// An answer that takes longer was lost with its session.
const LOST: Duration = Duration::from_secs(10);
/// Between two questions to a parent that has no sums now.
const UNABLE: Duration = Duration::from_secs(2);
/// After so many of those, what changed is fetched again instead.
const MAX_UNABLE: u32 = 30;
/// From the second search to the third: twice that each time after it, unless something came meanwhile.
const REST: Duration = Duration::from_secs(30);
/// For so long a replica answers for its table after it was added up.
const VOUCHED: Duration = Duration::from_secs(600);
const MAX_RESTS: u32 = 7;
/// Most runs that are named to the parent: it takes twice as many.
const MAX_RUNS: usize = 1 << 15;

/// Sums that a replica asks for, or is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Question {
    /// First block.
    pub first: u64,
    /// Blocks in each sum.
    pub each: u64,
    /// How many sums.
    pub sums: u16,
}

impl Question {
    fn blocks(self) -> u64 {
        self.each.saturating_mul(u64::from(self.sums))
    }

    /// The sums of entries from the first block on; a part with a damaged entry has none.
    fn sums_of(self, entries: &[u8]) -> Vec<Option<Sum>> {
        let hashes: Vec<_> = hashes_in(entries).collect();
        let mut parts = hashes.chunks(usize::try_from(self.each).unwrap_or(0).max(1));
        let sum = |part: &[Option<BlockHash>]| {
            part.iter().try_fold(Sum::default(), |s, h| Some(s.plus((*h)?)))
        };
        (0..self.sums).map(|_| sum(parts.next().unwrap_or_default())).collect()
    }
}

/// A range whose blocks are looked at one by one.
#[derive(Debug)]
struct Fine {
    first: u64,
    /// Not before then.
    at: Mono,
    looks: u32,
    /// Blocks that looked different each time.
    differ: Option<BTreeSet<u64>>,
}

/// A search under way.
#[derive(Debug, Default)]
struct Search {
    /// First block of the next coarse question.
    next: u64,
    /// Those to be looked at next first.
    fine: VecDeque<Fine>,
    found: BlockSet,
    /// What is being asked, and what was merged when the own table was read for it.
    asked: Option<(Question, SetNumber)>,
    mine: Option<Vec<Option<Sum>>>,
    /// Not before then.
    at: Mono,
    /// How often in a row the parent had no sums, and why.
    unable: u32,
    why: String,
}

/// Both sides of comparing.
#[derive(Debug, Default)]
pub(super) struct Compare {
    search: Option<Search>,
    run: u64,
    /// Searches that have ended since the content was right.
    searches: u32,
    rest_until: Mono,
    /// The parent cannot be asked: what changed is fetched again.
    pub(super) hopeless: bool,
    /// What children want to know.
    questions: BTreeMap<NodeName, Question>,
}

impl Compare {
    /// A search is under way.
    pub(super) fn is_on(&self) -> bool {
        self.search.is_some()
    }

    /// The next search is not one after searches that changed nothing.
    pub(super) fn fetched(&mut self, now: Mono) {
        self.rest_until = self.rest_until.min(now.after(REST));
    }

    /// The content is right, or comes anew.
    pub(super) fn forget(&mut self) {
        let questions = std::mem::take(&mut self.questions);
        *self = Self { run: self.run, questions, ..Self::default() };
    }
}

impl Volume {
    /// It is for a comparison to say what is to be done.
    fn may_compare(&self) -> bool {
        self.may_prove() || self.may_compare_what_differs()
    }

    /// The content was read in full and differs, and nothing else is being done about it.
    fn may_compare_what_differs(&self) -> bool {
        let (now, durable) = (&self.want.digest, &self.durable.digest);
        matches!(self.cfg.role, Role::Replica { .. })
            && matches!(now.table, TableMark::Known(_))
            && now.differs > SetNumber::ZERO
            && (now.table, now.differs) == (durable.table, durable.differs)
            && self.want.seed.is_none()
            && self.durable.seed.is_none()
            && self.digest.doubts.is_empty()
            && !self.digest.compare.hopeless
    }

    pub(super) fn compare_timeout(&self) -> Option<Mono> {
        let c = &self.digest.compare;
        self.may_compare().then(|| c.search.as_ref().map_or(c.rest_until, |s| s.at))
    }

    /// How far a search has come, in words.
    pub(super) fn compare_words(&self) -> Option<String> {
        let s = self.digest.compare.search.as_ref()?;
        if s.unable > 0 {
            return Some(format!("its hashes are to be compared with the parent's: {}", s.why));
        }
        let percent = s.next.min(self.durable.blocks.0) * 100 / self.durable.blocks.0.max(1);
        Some(format!("its hashes are being compared with the parent's: {percent}%"))
    }

    pub(super) fn pump_compare(&mut self) {
        if !self.may_compare() {
            self.digest.compare.search = None;
            return;
        }
        let now = self.desk.now;
        if self.compare_timeout().is_none_or(|at| now < at) {
            return;
        }
        let end = self.want.blocks.0;
        let c = &mut self.digest.compare;
        let s = c.search.get_or_insert_default();
        // What had been asked by then is asked again.
        let (fine, next) = (s.fine.front().map(|f| f.first), s.next);
        let question = match fine {
            Some(first) => Question { first, each: 1, sums: MAX_SUMS as u16 },
            None if next < end => Question { first: next, each: EACH, sums: MAX_SUMS as u16 },
            None => return self.compared(),
        };
        c.run += 1;
        (s.asked, s.mine) = (Some((question, self.want.merged)), None);
        s.at = now.after(LOST);
        let (offset, len) = table_range(question.first, question.blocks());
        let purpose = Purpose::Compare { run: c.run };
        self.desk.io(purpose, FileId::Hashes, Op::Read { offset, len });
    }

    pub(super) fn compare_read(&mut self, run: u64, outcome: &Outcome) {
        let c = &mut self.digest.compare;
        let Some(s) = c.search.as_mut().filter(|_| c.run == run) else { return };
        match outcome {
            Outcome::Read(entries) => {
                let Some((question, _)) = s.asked else { return };
                s.mine = Some(question.sums_of(entries));
                self.desk.event(Event::Compare { question });
            }
            other => self.fail_io("read from the table of hashes", other),
        }
    }

    /// The parent cannot be asked at all: its version of the protocol has no such question.
    pub fn compare_hopeless(&mut self) {
        self.digest.compare.forget();
        self.digest.compare.hopeless = true;
        self.pump();
    }

    /// The parent's answer: none of the sums is of a state before `state`. If there are none, `text`
    /// says why.
    pub fn sums_told(
        &mut self,
        state: SetNumber,
        (first, each): (u64, u64),
        theirs: &[u128],
        text: &str,
    ) {
        let now = self.desk.now;
        let Some(s) = self.digest.compare.search.as_mut() else { return };
        let Some((asked, merged)) = s.asked.filter(|(q, _)| (q.first, q.each) == (first, each))
        else {
            return;
        };
        let Some(mine) = s.mine.take() else { return };
        s.asked = None;
        if theirs.len() != mine.len() {
            s.unable += 1;
            s.why = if text.is_empty() { "its answer makes no sense" } else { text }.to_owned();
            s.at = now.after(UNABLE);
            self.digest.compare.hopeless = s.unable >= MAX_UNABLE;
        } else if state < merged {
            // Its table follows; what it lacks would look as if it were here.
            s.at = now.after(AGAIN);
        } else {
            s.unable = 0;
            s.at = now;
            let differ = mine.iter().zip(theirs).zip(0u64..);
            let differ = differ.filter(|((m, t), _)| m.is_none_or(|m| m.0 != **t));
            s.take(asked, differ.map(|(_, i)| first + i * each).collect(), now);
        }
        self.pump();
    }

    /// All was compared.
    fn compared(&mut self) {
        let c = &mut self.digest.compare;
        let Some(s) = c.search.take() else { return };
        // After the first one it is seen at once whether that was all.
        let rest = c.searches.checked_sub(1).map(|n| REST * (1 << n.min(MAX_RESTS)));
        c.rest_until = self.desk.now.after(rest.unwrap_or_default());
        c.searches += 1;
        let differs = self.want.digest.differs;
        if s.found.is_empty() {
            // What was kept from before may have blocks of a later state: that alone is no proof.
            if self.seed_is_unproven() {
                self.unproven_equal();
            } else {
                self.same_as_parent();
            }
            return;
        }
        let n = s.found.count().0;
        self.digest.doubts = s.found.coarser(MAX_RUNS);
        let blocks = if n == 1 { "1 block is" } else { &format!("{n} blocks are") };
        if self.want.digest.is_unproven() {
            return self.unproven_differs(blocks);
        }
        let text = format!(
            "the content differs since set {differs}, and each block is what its hash says: {blocks} \
             not what the parent has, compared hash by hash, and fetched again; look at the disk"
        );
        self.desk.event(Event::Doubts { text });
    }

    /// Whatever was told of the digest: there is no block that the parent has otherwise.
    fn same_as_parent(&mut self) {
        let TableMark::Known(here) = self.want.digest.table else { return };
        let at = self.want.visible;
        let told = self.told(at).filter(|told| *told != here);
        self.digest.off = told.map(|told| told.minus(here));
        self.want.digest.differs = SetNumber::ZERO;
        self.digest.compare.forget();
        self.commit.request();
        let text = match told {
            None => format!("the content is the parent's, compared block by block (set {at})"),
            Some(told) => format!(
                "the content is the parent's, compared block by block, although the primary told \
                 {told} of set {at} and the digest here is {here}: it is the primary's sum that is \
                 wrong; reads are answered, and later sets are held against a digest that is off by \
                 as much; look at the disk of the primary"
            ),
        };
        self.desk.event(match told {
            None => Event::Healed { text },
            Some(_) => Event::Suspect { text },
        });
    }

    /// A child asks for sums; [`Event::Sums`] answers.
    pub fn sums_asked(&mut self, child: &NodeName, question: Question) {
        // The answer to one that is being read is dropped for this one.
        let busy = self.digest.compare.questions.insert(child.clone(), question).is_some();
        self.vouch();
        if let Some(why) = self.no_sums(question) {
            self.sums_refused(child, &why);
        } else if !busy {
            self.sums_read(child.clone(), question);
        }
        self.pump();
    }

    /// A replica adds up its table before a child relies on it: what its sum went on from may have been
    /// lost by the disk since.
    fn vouch(&mut self) {
        let TableMark::Known(sum) = self.want.digest.table else { return };
        let now = self.desk.now;
        let lately = self.digest.summed_at.is_some_and(|at| now < at.after(VOUCHED));
        if lately || !matches!(self.cfg.role, Role::Replica { .. }) {
            return;
        }
        let at = self.want.visible;
        self.digest.keep_own(at, line_of(&self.want.history, at), sum);
        self.digest_unknown();
        self.commit.request();
    }

    fn sums_read(&mut self, child: NodeName, question: Question) {
        let count = question.blocks().min(self.want.blocks.0.saturating_sub(question.first));
        let (offset, len) = table_range(question.first.min(self.want.blocks.0), count);
        let state = self.digest.fold.reached().unwrap_or(self.want.merged);
        let edition = self.digest.edition;
        let purpose = Purpose::Sums { child, question, state, edition };
        self.desk.io(purpose, FileId::Hashes, Op::Read { offset, len });
    }

    /// Why nothing can be said of the hashes here.
    fn no_sums(&self, question: Question) -> Option<String> {
        let node = &self.cfg.node;
        if question.each == 0
            || question.sums == 0
            || usize::from(question.sums) > MAX_SUMS
            || question.blocks() > MAX_BLOCKS
        {
            return Some(format!("a question about at most {MAX_BLOCKS} blocks can be answered"));
        }
        let known = matches!(self.want.digest.table, TableMark::Known(_));
        match self.cfg.role {
            Role::Relay => Some(format!("{node} keeps no content")),
            Role::Primary { .. } => {
                let whole = known || self.want.digest.table == TableMark::Kept;
                (!whole || self.digest.fold.reached().is_none())
                    .then(|| format!("the table of hashes at {node} is being made"))
            }
            Role::Replica { .. } if self.want.seed.is_some() || self.durable.seed.is_some() => {
                Some(format!("{node} is being filled itself"))
            }
            Role::Replica { .. } if self.want.digest.differs > SetNumber::ZERO => {
                Some(format!("{node} differs from the primary itself"))
            }
            Role::Replica { .. } if !self.digest.doubts.is_empty() => {
                Some(format!("{node} has damaged blocks itself"))
            }
            Role::Replica { .. } => {
                (!known).then(|| format!("the hashes at {node} are being added up"))
            }
        }
    }

    fn sums_refused(&mut self, child: &NodeName, why: &str) {
        let Some(question) = self.digest.compare.questions.remove(child) else { return };
        let (child, text) = (child.clone(), why.to_owned());
        let state = SetNumber::ZERO;
        self.desk.event(Event::Sums { child, state, question, sums: Vec::new(), text });
    }

    pub(super) fn sums_entries(
        &mut self,
        child: NodeName,
        (asked, state, edition): (Question, SetNumber, u64),
        outcome: &Outcome,
    ) {
        let Some(question) = self.digest.compare.questions.get(&child).copied() else { return };
        let entries = match outcome {
            Outcome::Read(b) => b,
            other => return self.fail_io("read from the table of hashes", other),
        };
        if let Some(why) = self.no_sums(question) {
            return self.sums_refused(&child, &why);
        }
        if question != asked || edition != self.digest.edition {
            return self.sums_read(child, question);
        }
        let sums: Option<Vec<u128>> =
            question.sums_of(entries).into_iter().map(|s| s.map(|s| s.0)).collect();
        let Some(sums) = sums else {
            self.sums_refused(&child, "the table of hashes there is damaged");
            return self.entries_rotted(question.first, entries);
        };
        self.digest.compare.questions.remove(&child);
        self.desk.event(Event::Sums { child, state, question, sums, text: String::new() });
    }

    /// Entries of the table are damaged. A replica has their blocks fetched again, with their hashes.
    /// A writer, which has nobody to ask, makes all of it anew.
    pub(super) fn entries_rotted(&mut self, first: u64, entries: &[u8]) {
        if matches!(self.cfg.role, Role::Primary { .. }) {
            self.digest_lost();
            return;
        }
        let damaged = hashes_in(entries).zip(first..).filter(|(e, _)| e.is_none());
        self.doubt(&damaged.map(|(_, b)| b).collect(), Rotted::Entry);
    }
}

impl Search {
    /// What an answer says: the first blocks of the parts that differ.
    fn take(&mut self, asked: Question, differ: Vec<u64>, now: Mono) {
        if asked.each > 1 {
            self.next = asked.first + asked.blocks();
            let fine = |first| Fine { first, at: now, looks: 0, differ: None };
            self.fine = differ.into_iter().map(fine).collect();
            return;
        }
        let Some(mut f) = self.fine.pop_front() else { return };
        let mut blocks: BTreeSet<u64> = differ.into_iter().collect();
        if let Some(before) = f.differ.take() {
            blocks.retain(|b| before.contains(b));
        }
        f.looks += 1;
        if f.looks < LOOKS && !blocks.is_empty() {
            f.differ = Some(blocks);
            f.at = now.after(AGAIN);
            // Meanwhile the others have their turn.
            self.fine.push_back(f);
        } else {
            for b in blocks {
                self.found.insert_range(BlockIndex(b), BlockCount(1));
            }
        }
        self.at = self.fine.front().map_or(now, |f| f.at.max(now));
    }
}
