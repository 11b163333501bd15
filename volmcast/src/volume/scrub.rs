//! Looking after stored content at a replica: blocks whose content is not what their hash says, and
//! the search for them in the background.
//!
//! A block in doubt is wanted again from the parent: the next attachment names it, and the answer is
//! a catch-up of what changed, and of it. The search reads content and table at a bounded rate, only
//! while nothing is being merged: then each block's hash is in the table. Somebody may ask for a round
//! at once, at a rate of his own.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use rcp::proto::clock::{Mono, Wall};
use rcp::proto::ids::{NodeName, SetNumber};

use super::desk::{Purpose, ScrubStep, Work};
use super::{Event, Role, Volume};
use crate::bitmap::{BlockSet, Run};
use crate::digest::{BlockHash, ENTRY_LEN, Sum, TABLE_AT, hashes_in, table_range};
use crate::history::line_of;
use crate::io::{FileId, Op, Outcome};
use crate::mailbox::TableMark;
use crate::units::{BlockCount, BlockIndex};

/// When to look again whether the search may go on.
const LATER: Duration = Duration::from_secs(5);
/// The same for a round that somebody waits for.
const SOON: Duration = Duration::from_millis(100);
/// Blocks in doubt that are remembered.
pub(super) const MAX_DOUBTS: usize = 1 << 16;

/// How gently content is looked through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScrubPolicy {
    /// Bytes per second; 0: not at all.
    pub rate: u64,
    /// From the end of one round to the beginning of the next.
    pub every: Duration,
}

/// What of a block is not what was stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rotted {
    /// Its bytes, as its hash tells.
    Content,
    /// The entry of its hash, as that entry's checksum tells.
    Entry,
}

/// A round that somebody asked for.
#[derive(Clone, Copy, Debug)]
struct Asked {
    /// Bytes per second.
    rate: u64,
    /// Damaged blocks that were known when it began.
    before: u64,
    /// Blocks that were held against their hashes.
    looked: u64,
    /// All blocks were looked at: their hashes are being added up.
    adding: bool,
}

/// What came of a round that somebody asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scrubbed {
    /// Blocks that were held against their hashes; the others are zeroes that were never written.
    pub looked: u64,
    /// Blocks that turned out damaged meanwhile.
    pub damaged: u64,
    /// The volume's digest, added up from all hashes, and the state that it is of.
    pub digest: Option<(SetNumber, Sum)>,
}

/// The search.
#[derive(Debug, Default)]
pub(super) struct Scrub {
    next_at: Mono,
    run: u64,
    first: u64,
    /// Where the content has something next.
    data: Option<u64>,
    hashes: Option<Vec<BlockHash>>,
    table: Option<Bytes>,
    /// What had been merged when the step began.
    merged: (u64, SetNumber),
    busy: bool,
    /// The hashes of this round added up, while nothing was merged since it began: what had been
    /// merged by then.
    pub(super) round: Option<((u64, SetNumber), Sum)>,
    /// Blocks that turned out damaged since the start.
    found: u64,
    asked: Option<Asked>,
}

impl Volume {
    /// Reads what readers of the replica found; called now and then.
    pub fn look(&mut self) {
        let mut found = self.board.take_doubts();
        if let Some(capture) = self.capture() {
            found.content.extend(capture.take_doubts());
        }
        self.forget_written_doubts();
        self.doubt(&found.content, Rotted::Content);
        self.doubt(&found.hashes, Rotted::Entry);
        self.pump();
    }

    /// Blocks of which something is not what was stored.
    pub(super) fn doubt(&mut self, blocks: &BTreeSet<u64>, rotted: Rotted) {
        let replica = self.is_hashed() && self.durable.seed.is_none();
        if !replica && !self.digest.proves {
            return;
        }
        let mut fresh = Vec::new();
        for b in blocks {
            let b = BlockIndex(*b);
            if !self.digest.doubts.contains(b) && self.digest.doubts.count().0 < MAX_DOUBTS as u64 {
                self.digest.doubts.insert(b);
                fresh.push(b.0);
            }
        }
        let (Some(first), n) = (fresh.first(), fresh.len()) else { return };
        self.digest.scrub.found += n as u64;
        self.digest.scrub.round = None;
        let what =
            if n == 1 { format!("block {first}") } else { format!("{n} blocks from {first} on") };
        let text = if rotted == Rotted::Entry {
            format!(
                "the table of hashes is damaged: those of {what} are not what was stored, and prove \
                 nothing; they are fetched again from the parent, with the content; look at the disk"
            )
        } else if replica {
            format!(
                "the content is damaged: the bytes of {what} are not those that were stored; reads of \
                 them fail until they are fetched again from the parent; look at the disk"
            )
        } else {
            format!(
                "the content that {node} took over is damaged: the bytes of {what} are not those \
                 that were stored; reads of them, and writes to a part of one, fail until each is \
                 written in full, with what another copy has (its replicas do); look at the disk. If \
                 no copy has them: `rcpctl failover VOLUME --to {node} --lose-damaged-blocks` takes \
                 what the disk holds",
                node = self.cfg.node
            )
        };
        self.desk.event(Event::Doubts { text });
    }

    /// Blocks that are wanted again from the parent.
    #[must_use]
    pub fn doubted(&self) -> Vec<Run> {
        self.digest.doubts.runs().collect()
    }

    /// Blocks that turned out damaged since the start.
    #[must_use]
    pub fn damaged_blocks(&self) -> u64 {
        self.digest.scrub.found
    }

    /// How far the search has come in this round, in percent, and when the last one ended.
    #[must_use]
    pub fn scrub_progress(&self) -> Option<(u64, Wall)> {
        let on = self.cfg.scrub.rate > 0 && matches!(self.cfg.role, Role::Replica { .. });
        let mark = &self.want.digest;
        let percent = mark.scrub_next.saturating_mul(100) / self.durable.blocks.0.max(1);
        on.then_some((percent.min(100), mark.scrubbed))
    }

    /// Before a child attaches: blocks that it wants, whatever changed.
    pub fn consumer_doubts(&mut self, child: &NodeName, runs: &[(u64, u64)]) {
        let mut set = BlockSet::new();
        for (first, n) in runs {
            let n = (*n).min(self.want.blocks.0.saturating_sub(*first));
            set.insert_range(BlockIndex(*first), BlockCount(n));
        }
        self.seed_outs_doubts(child, set);
    }

    pub(super) fn doubts_fetched(&mut self) {
        self.digest.scrub.round = None;
        self.digest.doubts = BlockSet::new();
    }

    /// Looks through all of the content now, at this rate, whatever the policy says; then its hashes
    /// are added up. [`Event::Scrubbed`] says what came of it. If such a round is under way, nothing
    /// changes.
    ///
    /// # Errors
    /// Why not, in words.
    pub fn scrub_now(&mut self, rate: u64) -> Result<(), String> {
        if !matches!(self.cfg.role, Role::Replica { .. }) {
            return Err("only the content of a replica is looked through".to_owned());
        }
        if let Some(why) = self.failed.clone() {
            return Err(why);
        }
        if let (Some(why), TableMark::Known(_)) = (self.differs_words(), self.want.digest.table) {
            return Err(why);
        }
        let s = &mut self.digest.scrub;
        if s.asked.is_none() {
            let asked = Asked { rate: rate.max(1), before: s.found, looked: 0, adding: false };
            // What is on its way is of the round that ends here.
            *s = Scrub { found: s.found, asked: Some(asked), ..Scrub::default() };
            self.want.digest.scrub_next = 0;
        }
        self.pump();
        Ok(())
    }

    /// How far a round that somebody asked for has come, in words.
    #[must_use]
    pub fn scrub_words(&self) -> Option<String> {
        let asked = self.digest.scrub.asked?;
        if let Some(why) = self.differs_words() {
            return Some(why);
        }
        let at = self.want.digest.scrub_next;
        let percent = at.saturating_mul(100) / self.durable.blocks.0.max(1);
        Some(match (self.digest_words(), self.doubts_words()) {
            (Some(words), _) => words,
            (_, Some(words)) => format!("{words}, and fetched again from the parent"),
            _ if asked.adding => "hashes are being added up".to_owned(),
            _ => format!("the content is being looked through: {percent}%"),
        })
    }

    /// What is asked of the search: bytes per second, and when.
    #[must_use]
    pub fn scrub_policy(&self) -> ScrubPolicy {
        self.cfg.scrub
    }

    fn scrub_is_on(&self) -> bool {
        let on = self.cfg.scrub.rate > 0 || self.digest.scrub.asked.is_some();
        on && matches!(self.cfg.role, Role::Replica { .. })
    }

    pub(super) fn scrub_timeout(&self) -> Option<Mono> {
        (self.scrub_is_on() && !self.digest.scrub.busy).then_some(self.digest.scrub.next_at)
    }

    /// The round that somebody asked for has ended, or cannot.
    fn scrub_answer(&mut self) {
        let scrub = &mut self.digest.scrub;
        let adding = scrub.asked.is_some_and(|a| a.adding);
        let reader = matches!(self.cfg.role, Role::Replica { .. });
        let summed = matches!(self.want.digest.table, TableMark::Known(_))
            && self.durable.digest.table == self.want.digest.table
            && self.durable.visible == self.want.visible;
        // What it found is fetched again before that is said; content that differs is said at once.
        let whole = adding && self.digest.doubts.is_empty();
        let over = whole || self.want.digest.differs > SetNumber::ZERO;
        if scrub.asked.is_none() || (reader && !(over && summed)) {
            return;
        }
        if let Some(asked) = self.digest.scrub.asked.take() {
            let damaged = self.digest.scrub.found - asked.before;
            let digest = self.digest().filter(|_| reader);
            let done = Scrubbed { looked: asked.looked, damaged, digest };
            self.desk.event(Event::Scrubbed(done));
        }
    }

    /// Every block of the base has its hash in the table now.
    fn at_rest(&self) -> bool {
        matches!(self.want.digest.table, TableMark::Known(_))
            && self.is_hashed()
            && self.durable.seed.is_none()
            && self.want.digest.differs == SetNumber::ZERO
            && self.merge_is_idle()
            && !self.base_being_written()
            && self.want.merged == self.want.visible
            && self.durable.visible == self.want.visible
    }

    pub(super) fn pump_scrub(&mut self) {
        self.scrub_answer();
        let now = self.desk.now;
        if self.scrub_timeout().is_none_or(|at| now < at) {
            return;
        }
        let due =
            Wall(self.want.digest.scrubbed.0.saturating_add(
                u64::try_from(self.cfg.scrub.every.as_micros()).unwrap_or(u64::MAX),
            ));
        let asked = self.digest.scrub.asked;
        let round = self.want.digest.scrub_next > 0 || self.desk.wall >= due;
        let round = asked.map_or(round, |a| !a.adding);
        if !self.at_rest() || !self.digest.doubts.is_empty() || !round {
            self.digest.scrub.next_at = now.after(if asked.is_some() { SOON } else { LATER });
            return;
        }
        let run = self.digest.next_run();
        let first = self.want.digest.scrub_next;
        let merged = (self.merge_jobs(), self.want.merged);
        let s = &mut self.digest.scrub;
        let round = if first == 0 { Some((merged, Sum::default())) } else { s.round };
        let (found, asked) = (s.found, s.asked);
        *s = Scrub { run, first, merged, busy: true, round, found, asked, ..Scrub::default() };
        let op = Op::NextData { offset: self.cfg.block_size.offset(BlockIndex(first)) };
        self.desk.io(Purpose::Scrub { run, step: ScrubStep::MapContent }, FileId::Base, op);
    }

    pub(super) fn scrub_io_done(&mut self, run: u64, step: ScrubStep, outcome: Outcome) {
        if self.digest.scrub.run != run {
            return;
        }
        let shift = self.cfg.block_size.shift();
        let end = self.durable.blocks.0;
        let most = (self.cfg.chunk_bytes >> shift).max(1);
        let s = &mut self.digest.scrub;
        match (step, outcome) {
            (ScrubStep::MapContent, Outcome::NextData(found)) => {
                s.data = found.map(|(from, _)| from >> shift);
                let op = Op::NextData { offset: table_range(s.first, 0).0 };
                self.desk.io(Purpose::Scrub { run, step: ScrubStep::MapTable }, FileId::Hashes, op);
            }
            (ScrubStep::MapTable, Outcome::NextData(found)) => {
                // A hole in one of them must be a hole in the other.
                let table = found.map(|(from, _)| from.saturating_sub(TABLE_AT) / ENTRY_LEN);
                let next = [s.data, table].into_iter().flatten().min().unwrap_or(end);
                s.first = next.max(s.first).min(end);
                let count = (end - s.first).min(most);
                if count == 0 {
                    self.scrub_round_ends();
                    return;
                }
                let first = s.first;
                let read = |(offset, len)| Op::Read { offset, len };
                let content = (first << shift, usize::try_from(count << shift).unwrap_or(0));
                let at = |step| Purpose::Scrub { run, step };
                self.desk.io(at(ScrubStep::Content), FileId::Base, read(content));
                self.desk.io(at(ScrubStep::Table), FileId::Hashes, read(table_range(first, count)));
            }
            (ScrubStep::Content, Outcome::Read(content)) => {
                let runs = vec![(BlockIndex(s.first), BlockCount(content.len() as u64 >> shift))];
                let work = Work::HashContent { runs, content, shift };
                self.desk.work(Purpose::Scrub { run, step: ScrubStep::Hash }, work);
            }
            (ScrubStep::Table, Outcome::Read(b)) => {
                s.table = Some(b);
                self.scrub_compare();
            }
            (_, other) => self.fail_io("read from the volume's content or its hashes", &other),
        }
    }

    pub(super) fn scrub_hashed(&mut self, run: u64, hashes: Vec<BlockHash>) {
        if self.digest.scrub.run == run {
            self.digest.scrub.hashes = Some(hashes);
            self.scrub_compare();
        }
    }

    fn scrub_compare(&mut self) {
        let quiet = self.at_rest();
        let merged = (self.merge_jobs(), self.want.merged);
        let shift = self.cfg.block_size.shift();
        let s = &mut self.digest.scrub;
        let (now, rate) = (self.desk.now, s.asked.map_or(self.cfg.scrub.rate.max(1), |a| a.rate));
        let (Some(hashes), Some(table)) = (&s.hashes, &s.table) else { return };
        let n = hashes.len() as u64;
        let micros = (n << shift).saturating_mul(1_000_000) / rate;
        s.next_at = now.after(Duration::from_micros(micros));
        s.busy = false;
        // What was merged meanwhile proves nothing: once more.
        if !quiet || merged != s.merged {
            return;
        }
        let blocks = || hashes.iter().zip(hashes_in(table)).zip(s.first..);
        let wrong = blocks().filter(|((is, entry), _)| entry.is_some_and(|h| h != **is));
        let wrong: BTreeSet<u64> = wrong.map(|(_, block)| block).collect();
        let unknown = blocks().filter(|((_, entry), _)| entry.is_none());
        let unknown: BTreeSet<u64> = unknown.map(|(_, block)| block).collect();
        s.round = s.round.filter(|(m, _)| *m == merged && wrong.is_empty());
        s.round = s.round.and_then(|(m, sum)| Some((m, sum.and(Sum::of_table(table)?))));
        if let Some(a) = &mut s.asked {
            a.looked += n;
        }
        self.want.digest.scrub_next = s.first + n;
        let end = self.want.digest.scrub_next >= self.durable.blocks.0;
        self.doubt(&wrong, Rotted::Content);
        self.doubt(&unknown, Rotted::Entry);
        if end {
            self.scrub_round_ends();
        }
    }

    fn scrub_round_ends(&mut self) {
        self.digest.scrub.busy = false;
        self.digest.scrub.next_at = self.desk.now.after(LATER);
        self.want.digest.scrub_next = 0;
        self.want.digest.scrubbed = self.desk.wall;
        self.commit.request();
        let round = self.digest.scrub.round.take();
        if let Some(a) = &mut self.digest.scrub.asked {
            a.adding = true;
        }
        let merged = (self.merge_jobs(), self.want.merged);
        if let TableMark::Known(sum) = self.want.digest.table {
            match round {
                Some((m, here)) if m == merged && self.at_rest() && here == sum => {}
                Some((m, here)) if m == merged && self.at_rest() => self.stale_together(sum, here),
                _ => self.add_up_again(sum),
            }
        }
        self.scrub_answer();
    }

    /// Steps were merged while the blocks were looked at, so that their hashes do not make the sum of
    /// one state: they are added up in a pass, which follows what is merged, and the sum is compared
    /// with what the primary says of the state at which that ends.
    fn add_up_again(&mut self, sum: Sum) {
        if !self.digest.is_told() {
            // There is nothing to compare with but what is known.
            return;
        }
        let at = self.want.visible;
        self.digest.keep_own(at, line_of(&self.want.history, at), sum);
        self.digest_unknown();
        self.commit.request();
    }

    /// Each block is what its hash says, and the hashes are not those that were written: blocks and
    /// their hashes are of an older state, together.
    fn stale_together(&mut self, was: Sum, here: Sum) {
        let at = self.want.visible;
        self.want.digest.differs = at;
        let text = format!(
            "the content here is not the primary's: the hashes that are stored make the digest \
             {here}, and those of set {at} made {was}; writes to the disk were lost; reads are \
             refused, and the content is read to find out more"
        );
        self.desk.event(Event::Differs { text });
        // What was known of the state is compared again when the content was read.
        self.digest.keep_own(at, line_of(&self.want.history, at), was);
        self.digest_lost();
    }
}
