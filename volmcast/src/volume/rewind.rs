//! Taking content back to the last state that its line has in common with a newer one (FAIL-11 to
//! FAIL-14, FAIL-17; F28).
//!
//! ```text
//! at rest ─► one commit: branch, undo mark (over = fork), history ─► the list of changes after the
//! fork is read ─► attached: those blocks are named ─► a catch-up over the fork that sends them as
//! well ─► readable
//! ```
//!
//! The mark makes it durable: whatever happens, the content is that of `over`, but for blocks that
//! the list of changes names after it, and for those that the sender knows to have changed since.
//! `docs/rewind.md` says why that is enough.

use std::collections::BTreeSet;

use rcp::proto::ids::SetNumber;

use super::changes::Reader;
use super::intake::Intake;
use super::{Event, Role, Volume};
use crate::bitmap::BlockSet;
use crate::bitmap::changes::RegionError;
use crate::mailbox::{Branch, Mailbox, SeedMark};

/// Most runs of blocks that are named to a sender: a finer list is made coarser.
pub const MAX_UNDO_RUNS: usize = 1 << 15;

/// The blocks to be taken back.
#[derive(Debug, Default)]
pub(super) enum Undo {
    #[default]
    Unknown,
    Reading,
    Known(Vec<(u64, u64)>),
}

impl Volume {
    /// Newest state of which anything may be in the content here, shown or hidden.
    fn content_reaches(&self) -> SetNumber {
        let of = |m: &Mailbox| m.visible.max(m.merged).max(m.hidden_until);
        let shown = of(&self.want).max(of(&self.durable));
        if self.want.seed.or(self.durable.seed).is_none() {
            return shown;
        }
        // Live sets are folded in chunk by chunk.
        let open = self.log.open_step().map_or(self.log.state(), |s| s.id.to);
        let floor = self.seed_in.as_ref().map_or(SetNumber::ZERO, |s| s.floor);
        shown.max(open).max(floor).max(self.seed_view())
    }

    /// Newest state of which anything but an unfinished set is here: of the line that is followed,
    /// or of one that ended before it. A history whose fork is not before it can be taken over as it
    /// is.
    #[must_use]
    pub fn reaches(&self) -> SetNumber {
        match self.cfg.role {
            Role::Relay => self.log.state(),
            Role::Primary { .. } | Role::Replica { .. } => {
                self.log.state().max(self.content_reaches())
            }
        }
    }

    /// As [`Volume::reaches`], without sets that are only in the save volume.
    pub(super) fn shows_past(&self, fork: SetNumber) -> bool {
        let content = match self.cfg.role {
            Role::Primary { .. } => return true,
            Role::Relay => SetNumber::ZERO,
            Role::Replica { .. } => self.content_reaches(),
        };
        content > fork || self.log.base() > fork
    }

    /// Whether the content can be taken back to state `fork` by the blocks that changed since.
    ///
    /// # Errors
    /// Why not, in words.
    pub fn can_rewind(&self, fork: SetNumber) -> Result<(), String> {
        if let Some(why) = &self.failed {
            return Err(why.clone());
        }
        let writer = matches!(self.cfg.role, Role::Primary { .. });
        if matches!(self.cfg.role, Role::Relay) {
            return Err("this node only forwards".to_owned());
        }
        if fork == SetNumber::ZERO {
            return Err("no state is common to both lines".to_owned());
        }
        if let Some(why) = self.unwhole().filter(|_| !writer) {
            return Err(format!("the content here is no whole state ({why})"));
        }
        let base = self.durable.changes.base.max(self.want.changes.base);
        if base > fork {
            return Err(format!(
                "which blocks changed is known here only after set {base}, and the last common state \
                 is set {fork}"
            ));
        }
        Ok(())
    }

    /// A replica at rest ([`Volume::rest`]) follows another line that parted from its own at `fork`:
    /// from now on its content is that of `fork`, but for blocks that come again. What it held is
    /// kept as a branch if `keep`. The branch's name, if there is one.
    pub fn rewind(&mut self, fork: SetNumber, history: Vec<Branch>, keep: bool) -> Option<String> {
        let whole = self.is_whole();
        self.digest_rewound(whole);
        let name = if keep { self.set_aside(fork) } else { None };
        self.want.history = history;
        self.staging = None;
        self.log.reset(fork);
        self.commit.log_was_reset();
        self.detach_all("its parent takes its content back");
        self.intake = Intake::default();
        self.playback.clear();
        self.playback.ending = None;
        // Kept states up to the fork are of both lines.
        let past: BTreeSet<_> = self.kept().filter(|s| *s > fork).collect();
        for set in &past {
            self.release_quietly(*set);
        }
        self.not_kept(past, &format!("that line has ended, at state {fork}"));
        self.list_kept();
        self.board.forsake();
        self.merge.start(self.log.head(), fork);
        self.want.merged = fork;
        self.want.visible = self.want.visible.min(fork);
        self.want.hidden_until = SetNumber::ZERO;
        self.want.seed = Some(SeedMark {
            over: Some(fork),
            from: fork,
            next_block: 0,
            need: None,
            view: SetNumber::ZERO,
            undo: true,
            held: None,
        });
        self.undo = Undo::Unknown;
        self.seed_anew(fork);
        self.publish_view();
        self.commit.request();
        self.pump();
        name
    }

    /// The content is being taken back: the last common state, and whether a restart would find it
    /// so.
    #[must_use]
    pub fn undoes(&self) -> Option<(SetNumber, bool)> {
        let durable = self.durable.seed.filter(|m| m.undo).is_some();
        self.undoes_after().map(|over| (over, durable))
    }

    /// What the list of changes names after this state has to come again.
    pub(super) fn undoes_after(&self) -> Option<SetNumber> {
        let mark = self.want.seed.or(self.durable.seed)?;
        mark.over.filter(|_| mark.undo)
    }

    /// The blocks that have to come again, to be named with every attachment: none unless the content
    /// is taken back. `None`: they are being read, and [`Event::UndoKnown`] follows; or they are not
    /// known any more, and [`Event::NeedsSeed`] does.
    pub fn undo_list(&mut self) -> Option<Vec<(u64, u64)>> {
        let Some(over) = self.undoes_after() else { return Some(Vec::new()) };
        if let Undo::Known(list) = &self.undo {
            return Some(list.clone());
        }
        // What was changed last is written by the commit that says that it is to be taken back.
        if matches!(self.undo, Undo::Reading) || self.durable.seed.is_none_or(|m| !m.undo) {
            return None;
        }
        if self.durable.changes.base.max(self.want.changes.base) > over {
            self.undo_lost("the list of changed blocks was damaged");
            return None;
        }
        self.undo = Undo::Reading;
        self.changes_read(Reader::Undo);
        None
    }

    pub(super) fn undo_found(&mut self, epoch: u64, found: Result<BlockSet, RegionError>) {
        if !matches!(self.undo, Undo::Reading) {
            return;
        }
        self.undo = Undo::Unknown;
        match found {
            Ok(blocks) => {
                let few = blocks.coarser(MAX_UNDO_RUNS);
                let skip = usize::from(rcp::planted!(UndoSkips));
                let runs = few.runs().skip(skip).map(|(b, n)| (b.0, n.0));
                self.undo = Undo::Known(runs.collect());
                self.desk.event(Event::UndoKnown);
            }
            // Written anew meanwhile: once more.
            Err(_) if epoch != self.durable.changes.epoch => {
                let _ = self.undo_list();
            }
            Err(e) => {
                if self.want.changes.epoch == epoch {
                    self.changes_damaged(&e);
                }
                self.undo_lost(&format!("the list of changed blocks is damaged ({e})"));
            }
        }
    }

    /// What was changed after the fork is not known any more.
    fn undo_lost(&mut self, why: &str) {
        let reason = format!("the content cannot be taken back by what changed: {why}");
        self.give_up_kept(&reason);
        self.content_unproven(self.want.merged);
        self.commit.request();
        self.desk.event(Event::NeedsSeed { reason });
    }
}
