//! Content of which nobody knows what state it is: of a line that ended and that it cannot be taken back
//! from, of a seed that was under way when the line ended, or of a replica that lost what its mailbox or
//! its save volume said of it (FAIL-12, FAIL-17).
//!
//! ```text
//! kept, hidden, marked (both slots) ─► the rest of the seed comes, if one was under way; live sets go on
//!   ─► the table of hashes is made anew from the content ─► its sum is the digest of a state: shown
//!           └► compared with the parent's hashes ([`super::compare`]) ─► what differs comes by a catch-up
//!                                                        └► its sum is the digest of a state: shown
//! ```
//!
//! To everybody it is a seed that is not at its end before that. Whatever the content was, it is shown in
//! a state whose digest is the sum of hashes that were computed from the content itself; or, where no
//! digest is told, when all of them were the parent's and every set that those can have been of is folded
//! in. So nothing has to be known of it, and what is right of it never travels. See `docs/seed.md`.

use rcp::proto::ids::SetNumber;

use super::seed_in::SeedIn;
use super::stalls::Part;
use super::{Event, Role, Volume};
use crate::bitmap::BlockSet;
use crate::mailbox::{DigestMark, SeedMark, TableMark};
use crate::units::BlockCount;

impl Volume {
    /// Blocks of the content that may be worth comparing: all before the one where a seed under way
    /// goes on.
    fn worth_comparing(&self) -> u64 {
        let seeding = self.want.seed.filter(|m| m.over.is_none());
        let empty = self.want.merged == SetNumber::ZERO && self.want.visible == SetNumber::ZERO;
        match (&self.cfg.role, seeding) {
            (Role::Relay, _) => 0,
            (_, Some(mark)) => mark.next_block,
            (_, None) if empty => 0,
            (_, None) => self.want.blocks.0.min(self.base_blocks().0),
        }
    }

    /// Nothing is known any more of what the content holds. It is hidden until it is proven; the live
    /// stream is joined anew, at `from` if the parent still has that. A seed goes on where it was.
    pub(super) fn content_unproven(&mut self, from: SetNumber) {
        self.forget_compared();
        let next_block = self.worth_comparing();
        self.hold_ends();
        self.want.seed = None;
        self.digest_seeded();
        self.seed_anew(from);
        if next_block > 0 {
            // What a crash left of content and hashes need not belong together.
            self.digest_lost();
            self.mark_unproven(from, next_block, false);
        }
    }

    /// Blocks that a comparison found to be others at the parent are found once more by the next one.
    /// They are no damage: what a branch has of them is handed out, also while no table proves it.
    fn forget_compared(&mut self) {
        let fetched = self.want.seed.is_some_and(|m| m.over.is_some());
        if fetched && self.want.digest.is_unproven() {
            self.digest.doubts = BlockSet::new();
        }
    }

    fn mark_unproven(&mut self, from: SetNumber, next_block: u64, joined: bool) {
        let view = SetNumber::ZERO;
        self.want.seed = Some(SeedMark {
            over: None,
            from,
            next_block,
            need: None,
            view,
            undo: false,
            held: None,
        });
        if !rcp::planted!(UnprovenShown) {
            self.want.digest.differs = DigestMark::UNPROVEN;
        }
        let marked_by = self.commit.next_sequence(self.durable.sequence);
        self.stalls.clear(Part::Seed);
        self.seed_in = Some(SeedIn::marking(next_block, marked_by, joined));
    }

    /// The parent has not got the position of a seed under way, and begins one at `from`, with `blocks`
    /// as the size of the volume as it told it last. If the content will be compared anyway, this seed
    /// goes on; the position to attach at is then one set before `from`, if the parent has that in its
    /// save volume, because the header of `from` has its digest. False: it does not go on.
    pub fn seed_goes_on(&mut self, from: SetNumber, blocks: BlockCount) -> bool {
        let unproven = self.want.digest.is_unproven();
        let Some(mark) = self.want.seed.filter(|_| unproven) else { return false };
        self.forget_compared();
        if self.want.digest.table != TableMark::Absent {
            // The log goes, and with it what a crash left half done and would be done again, or what is
            // under way now: content and hashes of that need not belong together.
            self.digest_lost();
        }
        let was = self.seed_in.as_ref().is_some_and(|s| s.joined);
        let at = if was { from } else { SetNumber(from.0.saturating_sub(1)) };
        let next_block = if mark.over.is_some() { blocks.0 } else { mark.next_block };
        self.want.blocks = blocks;
        self.base_shrunk();
        self.join_at(at, "detached: its parent is itself being seeded");
        self.hide(at, false);
        self.mark_unproven(at, next_block.min(blocks.0), !was);
        self.changes_reset(at);
        self.publish_view();
        self.commit.request();
        self.pump();
        true
    }

    /// The content is that of one state only once it was proven, although no blocks are missing.
    pub(super) fn seed_is_unproven(&self) -> bool {
        self.want.digest.is_unproven() && self.want.seed.is_some()
    }

    /// All that can be had by asking for it has come: what is left to be done is to prove it.
    pub(super) fn is_to_be_proven(&self) -> bool {
        let need = self.want.seed.and_then(|m| m.need);
        let filled = self.seed_in.as_ref().is_some_and(SeedIn::is_filled);
        self.seed_is_unproven() && filled && need.is_some_and(|n| self.want.merged >= n)
    }

    /// The table has the hashes of the content, and those of its blocks that are of another state than
    /// the parent's are not known.
    pub(super) fn may_prove(&self) -> bool {
        self.is_to_be_proven()
            && self.want.digest.table == TableMark::Kept
            && self.digest.is_summed()
            && self.digest.doubts.is_empty()
            && !self.digest.compare.hopeless
            && self.found_equal().is_none()
    }

    /// Once the set that is needed is folded in, the content is that of a state; or all of it was
    /// compared, no digest is known of this state, and the sender has said since which sets its own
    /// content was of.
    pub(super) fn seed_needs_no_proof(&mut self) -> bool {
        if !self.seed_is_unproven() {
            return true;
        }
        let ends = self.seed_in.as_ref().map_or(0, |s| s.ends);
        if self.found_equal().is_none_or(|then| ends <= then) {
            return false;
        }
        let told = self.told(self.want.merged).is_some();
        if let Some(s) = self.seed_in.as_mut().filter(|_| told) {
            // It says otherwise, or ends the seed by itself.
            s.equal = None;
        }
        !told
    }

    /// The seed is at its end.
    pub(super) fn content_is_proven(&mut self) {
        if self.seed_is_unproven() {
            self.want.digest.differs = SetNumber::ZERO;
            self.digest.compare.forget();
        }
    }

    /// How many ends of this seed had come when nothing was found to differ.
    fn found_equal(&self) -> Option<u32> {
        self.seed_in.as_ref()?.equal
    }

    /// All blocks are the parent's, of some state: it is asked of which at most.
    pub(super) fn unproven_equal(&mut self) {
        if let Some(s) = &mut self.seed_in {
            s.equal = Some(s.ends);
        }
        let text =
            "what was kept from before was compared with the parent's content, hash by hash: \
                    nothing differs"
                .to_owned();
        self.desk.event(Event::Lacks { text });
    }

    /// Why reads are refused.
    pub(super) fn unproven_words(&self, percent: u64) -> String {
        let over = self.want.seed.is_some_and(|m| m.over.is_some());
        let now = match self.want.digest.table {
            _ if !self.is_to_be_proven() && over => "what it lacks is fetched".to_owned(),
            _ if !self.is_to_be_proven() => {
                format!("it is compared with the parent's when all blocks have come ({percent}%)")
            }
            TableMark::Absent => format!(
                "it is read to be compared with the parent's: {}%",
                self.digest_progress().unwrap_or(0)
            ),
            _ if self.digest.compare.is_on() => self.compare_words().unwrap_or_default(),
            _ if self.found_equal().is_some() => {
                "it is the parent's, in the set that was the newest there".to_owned()
            }
            _ => "its hashes are to be compared with the parent's".to_owned(),
        };
        format!("content that was kept from before is not proven yet; {now}")
    }

    /// A comparison is over, and found these blocks (`words`) to be others at the parent.
    pub(super) fn unproven_differs(&mut self, words: &str) {
        let at = self.want.merged;
        if at == SetNumber::ZERO {
            // The parent has made no set yet: there is nothing that a catch-up could be over.
            return self.unproven_given_up(&format!("compared hash by hash, {words} fetched"));
        }
        if let Some(mark) = &mut self.want.seed {
            mark.over = Some(at);
        }
        self.seed_anew(at);
        self.commit.request();
        let text = format!(
            "what was kept from before was compared with the parent's content, hash by hash: {words} \
             fetched"
        );
        self.desk.event(Event::Lacks { text });
    }

    /// An ordinary seed takes its place.
    fn unproven_given_up(&mut self, why: &str) {
        self.digest.doubts = BlockSet::new();
        self.want.seed = None;
        self.digest_seeded();
        self.seed_anew(self.want.merged);
        self.commit.request();
        self.desk.event(Event::NeedsSeed { reason: why.to_owned() });
    }

    pub(super) fn pump_unproven(&mut self) {
        if !self.is_to_be_proven() {
            return;
        }
        if self.digest.compare.hopeless {
            return self.unproven_given_up(
                "what is here cannot be compared with the parent's content: the parent is of a version \
                 without that, or has no hashes to tell",
            );
        }
        let asked = !std::mem::take(&mut self.digest.doubts).is_empty();
        if asked && self.want.seed.is_some_and(|m| m.over.is_some()) {
            // What was found has come: there is something new to compare.
            self.digest.compare.fetched(self.desk.now);
        }
        let quiet = !self.table_being_written() && !self.pass_is_busy();
        if self.want.digest.table == TableMark::Absent
            && let Some(p) = self.digest.pass.as_mut().filter(|p| quiet && p.cursor == u64::MAX)
        {
            p.build = false;
            self.want.digest.table = TableMark::Kept;
            self.commit.hashes_dirty = true;
            self.commit.request();
        }
    }
}
