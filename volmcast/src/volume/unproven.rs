//! Content of which nobody knows what state it is: of a line that ended and that it cannot be taken back
//! from, of a seed that was under way when the line ended, or of a replica that lost what its mailbox or
//! its save volume said of it (FAIL-12, FAIL-17).
//!
//! ```text
//! kept, hidden, marked (both slots) ─► the rest of the seed comes, if one was under way; live sets go on
//!   ─► the table of hashes is made anew from the content ─► the digest is the primary's: shown
//!                                                        └► compared with the parent's hashes ([`super::compare`])
//!   ─► what differs comes by a catch-up ─► shown
//! ```
//!
//! Whatever the content was, it is shown after its digest, or each of its blocks, was found equal to the
//! parent's. So nothing has to be known of it, and what is right of it never travels. If the parent cannot
//! compare, a seed follows. See `docs/seed.md`.

use std::time::Duration;

use rcp::proto::clock::Mono;
use rcp::proto::ids::SetNumber;

use super::seed_in::SeedIn;
use super::stalls::Part;
use super::{Event, Role, Volume};
use crate::mailbox::{DigestMark, SeedMark, TableMark};
use crate::units::BlockCount;

/// Between two requests for a seed.
const AGAIN: Duration = Duration::from_secs(30);

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
        let next_block = self.worth_comparing();
        self.want.seed = None;
        self.digest_seeded();
        self.seed_anew(from);
        if next_block > 0 {
            // What a crash left of content and hashes need not belong together.
            self.digest_lost();
            self.mark_unproven(from, next_block);
        }
    }

    fn mark_unproven(&mut self, from: SetNumber, next_block: u64) {
        let view = SetNumber::ZERO;
        self.want.seed =
            Some(SeedMark { over: None, from, next_block, need: None, view, undo: false });
        if !rcp::planted!(UnprovenShown) {
            self.want.digest.differs = DigestMark::UNPROVEN;
        }
        let marked_by = self.commit.next_sequence(self.durable.sequence);
        self.stalls.clear(Part::Seed);
        self.seed_in = Some(SeedIn::marking(next_block, marked_by));
    }

    /// The parent has not got the position of a seed under way: it is joined at `from`, with `blocks`
    /// as the size of the volume as the parent told it last, and the seed goes on if its content will
    /// be compared anyway. False: it does not.
    pub fn seed_goes_on(&mut self, from: SetNumber, blocks: BlockCount) -> bool {
        let unproven = self.want.digest.is_unproven();
        let Some(mark) = self.want.seed.filter(|m| unproven && m.over.is_none()) else {
            return false;
        };
        self.want.blocks = blocks;
        self.base_shrunk();
        self.join_at(from, "detached: its parent is itself being seeded");
        self.hide(from, false);
        self.mark_unproven(from, mark.next_block.min(blocks.0));
        self.changes_reset(from);
        self.publish_view();
        self.commit.request();
        self.pump();
        true
    }

    /// The content is that of one state only once it was proven, although no blocks are missing.
    pub(super) fn seed_is_unproven(&self) -> bool {
        self.want.digest.is_unproven() && self.want.seed.is_some()
    }

    /// Why reads are refused, once all of the content is there.
    pub(super) fn unproven_words(&self) -> Option<String> {
        let seed = self.want.seed.or(self.durable.seed);
        let now = match self.want.digest.table {
            // The words for the seed say it.
            _ if seed.is_some_and(|m| m.over.is_none()) => return None,
            _ if self.digest.compare.is_on() => self.compare_words().unwrap_or_default(),
            _ if seed.is_some() || !self.digest.doubts.is_empty() => {
                "what it lacks is fetched from the parent".to_owned()
            }
            TableMark::Known(_) => "its hashes are to be compared with the parent's".to_owned(),
            _ => format!(
                "it is read to be compared with the parent's: {}%",
                self.digest_progress().unwrap_or(0)
            ),
        };
        Some(format!("what is here was kept from before, and is not proven yet; {now}"))
    }

    /// A comparison is over, and found blocks that the parent has otherwise.
    pub(super) fn unproven_differs(&mut self, blocks: &str) {
        if self.catch_up_base().is_none() {
            // The parent has made no set yet: there is nothing that a catch-up could be over.
            self.doubts_fetched();
            let reason = format!("compared hash by hash, {blocks} fetched");
            return self.desk.event(Event::NeedsSeed { reason });
        }
        let text = format!(
            "what was kept from before was compared with the parent's content, hash by hash: {blocks} \
             fetched"
        );
        self.desk.event(Event::Lacks { text });
    }

    pub(super) fn unproven_timeout(&self) -> Option<Mono> {
        self.is_beyond_proof().then_some(self.digest.compare.seed_at)
    }

    fn is_beyond_proof(&self) -> bool {
        let seeding = self.want.seed.is_some() || self.durable.seed.is_some();
        self.want.digest.is_unproven() && self.digest.compare.hopeless && !seeding
    }

    /// The parent cannot compare.
    pub(super) fn pump_unproven(&mut self) {
        if !self.is_beyond_proof() || self.desk.now < self.digest.compare.seed_at {
            return;
        }
        self.digest.compare.seed_at = self.desk.now.after(AGAIN);
        let reason =
            "what is here cannot be compared with the parent's content: it is of a version \
                      without that, or has no hashes to tell"
                .to_owned();
        self.desk.event(Event::NeedsSeed { reason });
    }
}
