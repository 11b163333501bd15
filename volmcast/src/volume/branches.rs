//! Branches: states of lines that ended for others, kept when the content was taken back.
//!
//! A branch is a durable pin like a kept state's, that the mailbox lists apart, with its line. It
//! outlives catch-ups: what is about to be overwritten is saved for it first. Nothing but an
//! operator's word ends it at a replica; where the snapshot area is full, playback and undoing wait.
//! (At a writer, writes do not wait for it: it is broken last of all, and that is said.)

use rcp::proto::ids::SetNumber;

use super::Volume;
use crate::history::line_of;
use crate::mailbox::{KeptBranch, MAX_ENTRIES};
use crate::snapshots::PinId;

/// A branch as an operator is told of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BranchInfo {
    /// What it is.
    pub branch: KeptBranch,
    /// Blocks saved for it.
    pub images: u64,
    /// It can no longer be read.
    pub broken: bool,
}

/// The name of the branch that a pin is of.
pub(super) fn branch_of(aside: &[KeptBranch], pin: PinId) -> Option<String> {
    aside.iter().find(|k| k.pin == pin.0).map(KeptBranch::name)
}

/// Why something waits.
pub(super) fn branch_needs_room(what: &str, name: &str) -> String {
    format!(
        "{what} has stopped: the snapshot area is full, and what would be overwritten belongs to \
         branch {name}; read it if anybody may want it, then `rcpctl branch drop VOLUME {name}` gives \
         it up, and this goes on by itself"
    )
}

impl Volume {
    /// Branches that are kept, durably.
    pub fn branches(&self) -> impl Iterator<Item = BranchInfo> + '_ {
        self.durable.aside.iter().filter(|k| self.want.aside.contains(k)).map(|k| {
            let info = self.cfg.snapshots.info(PinId(k.pin));
            BranchInfo {
                branch: *k,
                images: info.map_or(0, |i| i.images),
                broken: info.is_none_or(|i| i.broken.is_some()),
            }
        })
    }

    pub(super) fn is_branch(&self, pin: PinId) -> bool {
        let listed = |a: &[KeptBranch]| a.iter().any(|k| k.pin == pin.0);
        listed(&self.want.aside) || listed(&self.durable.aside)
    }

    /// Somebody rests on the content, whatever it is hidden for.
    pub(super) fn has_branches(&self) -> bool {
        !self.want.aside.is_empty() || !self.durable.aside.is_empty()
    }

    fn kept_past(&self, fork: SetNumber) -> Vec<(PinId, SetNumber)> {
        let pins = self.cfg.snapshots.durable_pins().into_iter();
        pins.filter(|(p, s)| *s > fork && !self.is_branch(*p) && !self.releasing.contains(p))
            .collect()
    }

    /// Whether what is past `fork` can be listed as branches.
    ///
    /// # Errors
    /// In words.
    pub fn may_branch(&self, fork: SetNumber) -> Result<(), String> {
        if self.want.aside.len() + self.kept_past(fork).len() < MAX_ENTRIES {
            return Ok(());
        }
        Err(format!(
            "{} branches are kept here, and {MAX_ENTRIES} is the most: `rcpctl branch drop` one, and it \
             goes on by itself",
            self.want.aside.len()
        ))
    }

    /// Keeps the state that the base holds, and those that were kept after `fork`, as branches. The
    /// name of the first.
    pub(super) fn set_aside(&mut self, fork: SetNumber) -> Option<String> {
        let tip = self.want.visible;
        let mut sets = self.kept_past(fork);
        if !sets.iter().any(|(_, s)| *s == tip) {
            sets.push((self.pin_durably(tip), tip));
        }
        let mut name = None;
        for (pin, set) in sets {
            let line = line_of(&self.want.history, set).unwrap_or_default();
            let blocks = self.want.blocks;
            let k = KeptBranch { pin: pin.0, set, line, fork, blocks, at: self.desk.wall };
            if set == tip {
                name = Some(k.name());
            }
            self.cfg.snapshots.close_line(pin);
            self.want.aside.push(k);
        }
        self.commit.snapshots_dirty = true;
        self.commit.base_dirty = true;
        self.commit.request();
        name
    }

    /// Gives a branch up; false if there is none of that name.
    pub fn drop_branch(&mut self, name: &str) -> bool {
        let of: Vec<_> = self.want.aside.iter().filter(|k| k.name() == name).copied().collect();
        self.want.aside.retain(|k| k.name() != name);
        for k in &of {
            if !self.releasing.contains(&PinId(k.pin)) {
                self.releasing.push(PinId(k.pin));
            }
        }
        if !of.is_empty() {
            self.list_kept();
            self.images.look_again();
            self.commit.request();
            self.pump();
        }
        !of.is_empty()
    }
}
