//! The table of block hashes and the volume's digest (DESIGN section 4). `docs/digest.md` says why it
//! is right.
//!
//! The table is to hashes what the base is to content: it stands at the same state, is written by
//! the same jobs, is synced by the same commits, and is read through the same steps. So nothing is
//! ever computed twice over a value that a crash may have left half new.
//!
//! ```text
//! Absent ─► built from the content ─┐                      ┌─ a log or list that was given up
//! Kept (seed, catch-up) ────────────┴─► added up ─► Known ─┴─► Kept ─► added up ─► …
//! ```
//!
//! A *pass* builds or adds up, beside everything else that writes the table: what is written before
//! the pass's cursor is taken from its sum and added to it. It ends where the content stands at one
//! state.

use std::collections::{BTreeMap, VecDeque};

use rcp::proto::clock::Mono;
use rcp::proto::delta::SetHeader;
use rcp::proto::ids::{Generation, SetNumber};

use super::check::Check;
use super::compare::Compare;
use super::desk::{MergeStep, Purpose, SeedStep, TableStep};
use super::fold::Fold;
use super::pass::{NoRoom, Pass};
use super::scrub::{Rotted, Scrub};
use super::{Event, Role, Volume};
use crate::bitmap::BlockSet;
use crate::digest::{BlockHash, ENTRY_LEN, Sum, table_bytes, table_range};
use crate::history::line_of;
use crate::mailbox::{DigestMark, Mailbox, TableMark};
use crate::units::LogPos;

/// Hashes that are read at a time.
pub(super) const AT_ONCE: u64 = 1 << 16;
/// Digests of sets that are remembered.
const TOLD: usize = 64;
/// Digests of states shown here that are remembered.
const SEEN: usize = 16;

/// What the digest needs to know.
#[derive(Debug, Default)]
pub(super) struct Digest {
    /// The newest state whose digest is known.
    pub(super) chain: Option<(SetNumber, Sum)>,
    /// Digests of states after the visible one that were found right (replica).
    pub(super) found: BTreeMap<SetNumber, Sum>,
    /// What set headers said, and the line that each belongs to.
    told: VecDeque<(SetNumber, Generation, Sum)>,
    /// The newest states that were visible here, with their digests.
    seen: VecDeque<(SetNumber, Sum)>,
    pub(super) pass: Option<Pass>,
    pub(super) no_room: NoRoom,
    last_run: u64,
    /// How many tables were given up in this life.
    pub(super) edition: u64,
    /// The commit from which on the mailbox says that there is no table, while there is none.
    lost_by: u64,
    /// Hashes of the chunks of steps that are not merged, by position (replica).
    pub(super) chunks: BTreeMap<LogPos, Vec<BlockHash>>,
    pub(super) check: Option<Check>,
    pub(super) fold: Fold,
    /// Blocks whose content is damaged: they are wanted again from the parent.
    pub(super) doubts: BlockSet,
    /// The table answers for what a writer took over.
    pub(super) proves: bool,
    pub(super) scrub: Scrub,
    /// What changed is fetched again, or was, because the content differs.
    pub(super) refetch: bool,
    /// The blocks that differ are looked for.
    pub(super) compare: Compare,
    /// When the table was added up last, or made.
    pub(super) summed_at: Option<Mono>,
    /// What the primary's digest is wrong by, as a comparison found out.
    pub(super) off: Option<Sum>,
}

impl Digest {
    /// Of a volume whose mailbox is at commit `sequence`: the other slot may still name a table.
    pub(super) fn opened(sequence: u64) -> Self {
        Self { lost_by: sequence, ..Self::default() }
    }

    /// A request number that no earlier request has.
    pub(super) fn next_run(&mut self) -> u64 {
        self.last_run += 1;
        self.last_run
    }

    /// A set header came, or was found in the save volume.
    pub(super) fn tell(&mut self, header: &SetHeader) {
        let id = header.step;
        self.told.retain(|(s, ..)| *s < id.to);
        if self.told.len() >= TOLD {
            self.told.pop_front();
        }
        self.told.extend(header.digest_sum().map(|d| (id.to, id.generation, Sum(d))));
    }

    /// The digest of a state as it was known here, where no header of it is remembered.
    pub(super) fn keep_own(&mut self, set: SetNumber, line: Option<Generation>, sum: Sum) {
        if let Some(line) = line.filter(|_| !self.told.iter().any(|(s, ..)| *s >= set)) {
            self.told.push_back((set, line, sum));
        }
    }

    /// Somebody above says digests.
    pub(super) fn is_told(&self) -> bool {
        !self.told.is_empty()
    }

    /// The sum of all hashes in the table is known.
    pub(super) fn is_summed(&self) -> bool {
        self.pass.as_ref().is_some_and(|p| p.cursor == u64::MAX)
    }
}

/// What a write to the content means for the table.
#[derive(Debug, Default)]
pub(super) struct TableWrite {
    pub(super) writes: Vec<(u64, bytes::Bytes)>,
    pub(super) zeroes: Vec<(u64, u64)>,
    /// Hashes that a pass has in its sum already.
    pub(super) old: Vec<(u64, usize)>,
    /// What comes in their place.
    pub(super) new: Sum,
}

impl TableWrite {
    /// More than may be read at once.
    pub(super) fn old_is_long(&self) -> bool {
        self.old.iter().map(|(_, len)| *len as u64).sum::<u64>() > AT_ONCE * ENTRY_LEN
    }

    pub(super) fn is_empty(&self) -> bool {
        self.writes.is_empty() && self.zeroes.is_empty()
    }
}

impl Volume {
    /// The digest that the primary gave for a state. Another writer's set may have the same number.
    pub(super) fn told(&self, set: SetNumber) -> Option<Sum> {
        let line = line_of(&self.want.history, set);
        let of = |(s, g, _): &&(SetNumber, Generation, Sum)| *s == set && Some(*g) == line;
        self.digest.told.iter().rev().find(of).map(|(.., d)| *d)
    }

    /// The volume's digest in the durable, visible state; `None` while it is not known here.
    #[must_use]
    pub fn digest(&self) -> Option<(SetNumber, Sum)> {
        match (self.durable.digest.table, self.want.digest.table, &self.cfg.role) {
            (_, _, Role::Relay) => None,
            // The second: it is not about to be given up, with the state that it belongs to.
            (TableMark::Known(sum), TableMark::Known(_), _) => Some((self.durable.visible, sum)),
            _ => None,
        }
    }

    /// The digests of the newest states that were visible here, as they are here; the newest first.
    pub fn digests(&self) -> impl Iterator<Item = (SetNumber, Sum)> {
        self.digest.seen.iter().rev().copied()
    }

    /// The content was found to differ from the primary's, in this state or before. (What was kept
    /// from before and is not proven yet was not found to.)
    #[must_use]
    pub fn differs(&self) -> Option<SetNumber> {
        let digest = &self.want.digest;
        Some(digest.differs).filter(|s| *s > SetNumber::ZERO && !digest.is_unproven())
    }

    /// A commit was done: the visible state's digest is remembered.
    pub(super) fn digest_committed(&mut self, before: &Mailbox) {
        let (was, now) = (before.digest.differs, self.durable.digest.differs);
        if was > SetNumber::ZERO && now == SetNumber::ZERO && self.durable.seed.is_none() {
            let text = format!(
                "the content is the primary's again, as of set {}: digests are equal, a comparison \
                 found no difference, or a seed replaced it; reads are answered",
                self.durable.visible
            );
            self.desk.event(Event::Healed { text });
            self.publish_view();
        }
        let Some(now) = self.digest() else { return };
        let seen = &mut self.digest.seen;
        if seen.back() != Some(&now) {
            // Another line, or a sum that was found anew.
            seen.retain(|(s, _)| *s < now.0);
            if seen.len() >= SEEN {
                seen.pop_front();
            }
            seen.push_back(now);
        }
    }

    /// How far the table of hashes is built or added up, in percent; `None`: it is not.
    #[must_use]
    pub fn digest_progress(&self) -> Option<u64> {
        let p = self.digest.pass.as_ref()?;
        Some(p.cursor.min(self.table_end()).saturating_mul(100) / self.table_end().max(1))
    }

    /// Why the digest is not known, or what is wrong with it; in words.
    #[must_use]
    pub fn digest_words(&self) -> Option<String> {
        if matches!(self.cfg.role, Role::Relay) {
            return None;
        }
        let percent = self.digest_progress().unwrap_or(0);
        match self.want.digest.table {
            TableMark::Known(_) => None,
            TableMark::Absent => Some(format!("the table of hashes is being made: {percent}%")),
            TableMark::Kept => Some(format!("hashes are being added up: {percent}%")),
        }
    }

    /// What is read from the base can be held against the table.
    pub(super) fn is_hashed(&self) -> bool {
        matches!(self.cfg.role, Role::Replica { .. })
            && self.want.digest.table != TableMark::Absent
            && self.want.seed.is_none()
    }

    /// Reads are refused because the content is not the primary's.
    pub(super) fn differs_words(&self) -> Option<String> {
        let at = self.want.digest.differs.max(self.durable.digest.differs);
        if at == SetNumber::ZERO {
            return None;
        }
        if at == DigestMark::UNPROVEN {
            // The words for the seed say it.
            return None;
        }
        let now = match self.want.digest.table {
            _ if self.digest.compare.is_on() => self.compare_words().unwrap_or_default(),
            _ if self.want.seed.is_some() || !self.digest.doubts.is_empty() => {
                "the blocks that changed, as far as that is known here, are fetched again from the \
                 parent"
                    .to_owned()
            }
            TableMark::Known(_) => format!(
                "the content was read in full and is not; give it a new seed at its parent: \
                 `rcpctl replicate seed VOLUME --to {}`",
                self.cfg.node
            ),
            _ => format!(
                "the content is read to find out where: {}%",
                self.digest_progress().unwrap_or(0)
            ),
        };
        Some(format!("the content is not the primary's (digests differ since set {at}); {now}"))
    }

    /// The table is kept beside the content: what is written there must be written here.
    pub(super) fn keeps_table(&self) -> bool {
        match self.want.digest.table {
            TableMark::Absent => self.digest.pass.as_ref().is_some_and(|p| p.ready),
            _ => true,
        }
    }

    pub(super) fn table_end(&self) -> u64 {
        match self.cfg.role {
            Role::Primary { .. } => self.want.blocks.0,
            _ => self.base_blocks().0,
        }
    }

    /// A pass has a request under way: nobody else writes the table or, for a build, the base.
    pub(super) fn pass_is_busy(&self) -> bool {
        self.desk.any(|p| matches!(p, Purpose::Table { .. }))
    }

    /// Somebody other than a pass writes the table, or is about to.
    pub(super) fn table_being_written(&self) -> bool {
        // An extent that waits for images does not look again either.
        self.images.is_active()
            || self.desk.any(|p| {
                matches!(
                    p,
                    Purpose::Merge { step: MergeStep::OldHashes | MergeStep::Hashes, .. }
                    | Purpose::SeedIn(
                        SeedStep::OldHashes | SeedStep::Hashes | SeedStep::ClearHashes
                    )
                    // From the first step on: they do not look again before they write.
                    | Purpose::SeedOpen
                    | Purpose::Fold { .. }
                    | Purpose::ExtendTable
                )
            })
    }

    /// A request is under way that may write the table anywhere: a pass's, one of a writer's table
    /// that outlived a change of role, or the table becomes longer. Merging and seeding wait for it.
    pub(super) fn table_is_taken(&self) -> bool {
        self.pass_is_busy()
            || self.desk.any(|p| matches!(p, Purpose::Fold { .. } | Purpose::ExtendTable))
    }

    /// The table is being made empty, to its end and behind it.
    pub(super) fn table_being_reset(&self) -> bool {
        self.desk.any(|p| {
            matches!(
                p,
                Purpose::Table { step: TableStep::Reset, .. }
                    | Purpose::SeedIn(SeedStep::ClearHashes)
            )
        })
    }

    /// What blocks with these hashes mean for the table: `None` for zeroes.
    pub(super) fn table_write<'a>(
        &self,
        runs: impl Iterator<Item = (u64, u64, Option<&'a [BlockHash]>)>,
    ) -> TableWrite {
        let mut w = TableWrite::default();
        if !self.keeps_table() {
            return w;
        }
        let pass = self.digest.pass.as_ref();
        let tracked = pass.map_or(0, |p| p.cursor);
        // A build writes what lies behind its cursor itself.
        let written = pass.filter(|p| p.build).map_or(u64::MAX, |p| p.cursor);
        for (first, count, hashes) in runs {
            let n = count.min(written.saturating_sub(first));
            if n == 0 {
                continue;
            }
            let take = |n: u64| hashes.map(|h| &h[..usize::try_from(n).unwrap_or(0).min(h.len())]);
            let (at, len) = table_range(first, n);
            match take(n) {
                Some(h) => w.writes.push((at, table_bytes(h))),
                None => w.zeroes.push((at, len as u64)),
            }
            let n = count.min(tracked.saturating_sub(first));
            if n > 0 {
                w.old.push(table_range(first, n));
                w.new = take(n).map_or(w.new, |h| w.new.and(Sum::of(h)));
            }
        }
        w
    }

    /// The old hashes were read and the new ones are being written.
    pub(super) fn pass_replaces(&mut self, old: &[u8], new: Sum) {
        let Some(old) = Sum::of_table(old) else {
            // Nobody knows what the sum has of them.
            self.pass_again();
            return;
        };
        // A pass that began anew meanwhile has none of these blocks yet.
        if let Some(p) = self.digest.pass.as_mut().filter(|p| p.cursor > 0) {
            p.sum = p.sum.minus(old).and(new);
        }
    }

    /// Something was written to the table that the sum cannot follow: it is added up anew.
    pub(super) fn pass_again(&mut self) {
        if let Some(p) = &mut self.digest.pass {
            *p = Pass::new(p.build);
        }
    }

    /// The table follows the content from here on; its sum is to be found out.
    pub(super) fn digest_unknown(&mut self) {
        if let TableMark::Known(_) = self.want.digest.table {
            self.want.digest.table = TableMark::Kept;
        }
        self.digest_layers_gone();
    }

    /// What the table holds is worth nothing: it is made anew from the content.
    pub(super) fn digest_lost(&mut self) {
        self.want.digest.table = TableMark::Absent;
        self.want.digest.hashed = SetNumber::ZERO;
        self.prove_no_more();
        self.digest.edition += 1;
        self.digest.lost_by = self.commit.next_sequence(self.durable.sequence);
        self.digest.pass = None;
        self.digest.fold = Fold::default();
        self.digest_layers_gone();
        self.publish_view();
        self.commit.request();
    }

    /// What is in the table may be overwritten: no slot names it any more. Else a crash would leave one
    /// that is half made, and sets would be folded into it as if it were whole.
    pub(super) fn no_slot_names_table(&mut self) -> bool {
        let both = self.durable.sequence > self.digest.lost_by;
        if !both {
            self.commit.request();
        }
        both
    }

    /// Steps behind the visible state are gone, or their digests are to be found out again.
    pub(super) fn digest_layers_gone(&mut self) {
        let d = &mut self.digest;
        d.scrub.round = None;
        d.check = None;
        d.found.clear();
        d.chain = match self.want.digest.table {
            TableMark::Known(sum) => Some((self.want.visible, sum)),
            _ => None,
        };
    }

    /// A seed is to begin. A table that proves nothing does so until it is empty, like the base: a
    /// branch may hold both back.
    pub(super) fn digest_seeded(&mut self) {
        if self.want.digest.table != TableMark::Absent {
            self.want.digest.table = TableMark::Kept;
        }
        self.want.digest.hashed = SetNumber::ZERO;
        self.want.digest.differs = SetNumber::ZERO;
        self.digest.pass = None;
        // They may be of another line.
        self.digest.seen.clear();
        self.digest.refetch = false;
        self.digest.compare.forget();
        self.digest_layers_gone();
    }

    /// A catch-up begins: the sum goes on from here if it is that of what the base holds.
    pub(super) fn digest_caught_up(&mut self, whole: bool) {
        if let TableMark::Known(sum) = self.want.digest.table {
            let known = whole && !self.table_being_written();
            self.digest.pass = known.then(|| Pass::done(sum));
        } else if self.want.digest.table == TableMark::Absent {
            self.digest.pass = None;
        }
        self.digest_unknown();
    }

    /// The same, and what was told of digests is of another line.
    pub(super) fn digest_rewound(&mut self, whole: bool) {
        self.digest_caught_up(whole);
        self.digest.seen.clear();
    }

    /// Whether a seed or catch-up may end: its digest is known, or cannot be.
    pub(super) fn digest_ready(&self) -> bool {
        match self.want.digest.table {
            TableMark::Kept => self.digest.is_summed() && !self.table_being_written(),
            _ => true,
        }
    }

    /// The pass waits for the content to be one state.
    pub(super) fn digest_waits(&self) -> bool {
        let hidden = self.want.hidden_until > SetNumber::ZERO;
        let seeding = self.want.seed.is_some() || self.durable.seed.is_some();
        self.digest.is_summed() && !hidden && !seeding
    }

    /// As [`digest_waits`](Self::digest_waits), at a primary between two sets.
    pub(super) fn digest_waits_for_table(&self) -> bool {
        let at = self.durable.visible;
        let need = self.digest.pass.as_ref().and_then(|p| p.need);
        self.digest.is_summed() && need.is_some_and(|n| n <= at)
    }

    /// A pass was all that a seed or catch-up waited for.
    pub(super) fn seed_waits_for_pass(&self) -> bool {
        self.want.seed.is_some() && self.digest.is_summed()
    }

    /// What a commit says of the digest, at a primary.
    pub(super) fn digest_commit(&self, m: &mut Mailbox) {
        if m.visible > self.durable.visible
            && let TableMark::Known(_) = m.digest.table
        {
            let header = self.log.step_to(m.visible).and_then(|s| s.end.as_ref());
            m.digest.table = header
                .and_then(|(h, _)| h.digest_sum())
                .map_or(TableMark::Kept, |s| TableMark::Known(Sum(s)));
        }
        m.digest.hashed = self.digest.fold.reached().unwrap_or(m.digest.hashed);
    }

    /// The sum of the table is the digest of the state `at`, here; it is compared with what the
    /// primary said.
    pub(super) fn digest_settled(&mut self, at: SetNumber) {
        if !self.digest.is_summed() {
            return;
        }
        let Some(p) = self.digest.pass.take() else { return };
        self.doubt(&p.torn, Rotted::Entry);
        self.want.digest.table = TableMark::Known(p.sum);
        self.digest.summed_at = Some(self.desk.now);
        if matches!(self.cfg.role, Role::Primary { .. }) {
            self.want.digest.hashed = at;
        }
        self.digest.chain = Some((at, p.sum));
        self.digest.found.clear();
        self.commit.hashes_dirty = true;
        self.commit.request();
        self.publish_view();
        if matches!(self.cfg.role, Role::Primary { .. }) {
            return;
        }
        if !self.compare_digest(at, p.sum) && !p.build {
            // It may be the table that is damaged.
            self.digest_lost();
        }
    }

    /// Compares what is here in a state with what the primary said of it.
    pub(super) fn compare_digest(&mut self, at: SetNumber, here: Sum) -> bool {
        let Some(told) = self.told(at) else { return true };
        let differed = self.want.digest.differs > SetNumber::ZERO;
        if told == here {
            self.digest.off = None;
            if differed {
                // Reads are answered once that is durable.
                self.want.digest.differs = SetNumber::ZERO;
                self.digest.refetch = false;
                self.digest.compare.forget();
                self.commit.request();
            }
            return true;
        }
        if !differed && self.digest.off == Some(told.minus(here)) {
            return true;
        }
        if !differed {
            self.want.digest.differs = at;
            let text = format!(
                "the content here is not the primary's: in set {at} its digest is {here}, the \
                 primary's is {told}; reads are refused, and the content is read to find out more"
            );
            self.desk.event(Event::Differs { text });
            self.publish_view();
        }
        self.commit.request();
        false
    }
}
