//! States that stay readable: kept by an operator, over restarts, until they are released.
//!
//! A kept state is a durable pin. At a replica it enters the snapshot queue when the base reaches
//! the state; until then the mailbox lists it with pin 0. A pin is released only after the mailbox,
//! durably, no longer lists it. Nothing is merged on top of a state before the mailbox lists its pin:
//! after a crash the state would be waited for again, and the base would have passed it.
//!
//! A state that was accepted is given up where the content never comes to it, or goes; where this node
//! becomes the writer; or where the snapshot area is full. That is never done in silence:
//! [`Event::NotKept`].

use std::collections::BTreeSet;

use rcp::proto::ids::SetNumber;

use super::{Event, Role, Volume};
use crate::mailbox::{KeptState, MAX_ENTRIES, Mailbox};
use crate::snapshots::{PinId, PinKind};

/// Why a state cannot be kept.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeepError {
    /// At the primary only the moment of a cut can be kept.
    #[error(
        "a primary can keep a state only at the moment of its cut: `rcpctl delta cut VOLUME --keep`"
    )]
    Primary,
    /// Nothing to keep here.
    #[error("this node only forwards; it keeps no replica")]
    Relay,
    /// Nor here.
    #[error("no state can be kept: it {0}")]
    Mirrors(String),
    /// The content does not have it in full, and will have parts of later ones when it comes.
    #[error(
        "state {asked} cannot be kept: the replica is hidden until it has reached state {until}; \
         keep that one or a later one"
    )]
    Hidden {
        /// What was asked for.
        asked: SetNumber,
        /// From which one on it can be.
        until: SetNumber,
    },
    /// Blocks are coming that lead past it.
    #[error(
        "state {asked} cannot be kept: what is being received leads past it, at least to state \
         {until}; keep that one or a later one"
    )]
    Passing {
        /// What was asked for.
        asked: SetNumber,
        /// From which one on it can be.
        until: SetNumber,
    },
    /// Blocks are coming, and it is not known yet to which state they lead.
    #[error(
        "state {asked} cannot be kept now: blocks are being received that lead to a later state, and to \
         which one is known when all of them have come; ask again then (`rcpctl status`)"
    )]
    Coming {
        /// What was asked for.
        asked: SetNumber,
    },
    /// A volume keeps so many at most.
    #[error(
        "{MAX_ENTRIES} states are kept, which is the most: release one first (`rcpctl delta \
         release VOLUME STATE`)"
    )]
    Many,
    /// It has passed.
    #[error("state {asked} has passed: the visible state is {visible}{}", near(.kept))]
    Passed {
        /// What was asked for.
        asked: SetNumber,
        /// What is visible.
        visible: SetNumber,
        /// What is kept.
        kept: Vec<SetNumber>,
    },
}

fn near(kept: &[SetNumber]) -> String {
    if kept.is_empty() {
        return String::new();
    }
    let list: Vec<_> = kept.iter().map(ToString::to_string).collect();
    format!("; kept states are {}", list.join(", "))
}

impl Volume {
    pub(super) fn pin_durably(&mut self, set: SetNumber) -> PinId {
        let pin = self.cfg.snapshots.pin(set, PinKind::Durable);
        self.unlisted.insert(pin);
        // What the base and the area hold must be durable before the mailbox lists the pin.
        self.commit.snapshots_dirty = true;
        self.commit.base_dirty = true;
        self.commit.request();
        pin
    }

    /// Keeps the visible state, or one still to come, at a replica.
    ///
    /// # Errors
    /// [`KeepError`].
    pub fn keep_state(&mut self, set: SetNumber) -> Result<(), KeepError> {
        match self.cfg.role {
            Role::Primary { .. } => return Err(KeepError::Primary),
            Role::Relay => return Err(KeepError::Relay),
            Role::Replica { .. } => {}
        }
        if let Some(words) = self.mirror_words().filter(|_| self.is_mirroring()) {
            return Err(KeepError::Mirrors(words));
        }
        if self.kept().any(|s| s == set) || self.hold_is_kept(set, true) {
            return Ok(());
        }
        self.may_keep()?;
        // Hidden, the base holds parts of states up to the one it is hidden until, and a seed or
        // catch-up that is wanted overwrites it as soon as its mark is durable.
        let visible = self.durable.visible;
        let seeded = self.want.seed.or(self.durable.seed);
        let hidden = self.want.hidden_until.max(self.durable.hidden_until);
        if let Some(mark) = seeded {
            let until = hidden
                .max(visible)
                .max(self.want.visible)
                .max(mark.from)
                .max(mark.need.unwrap_or_default());
            if set <= until {
                return Err(KeepError::Hidden { asked: set, until: until.next() });
            }
        } else if set < hidden && hidden > visible.min(self.want.visible) {
            return Err(KeepError::Hidden { asked: set, until: hidden });
        }
        match self.stage_passes(set) {
            Some(Some(until)) => return Err(KeepError::Passing { asked: set, until }),
            Some(None) => return Err(KeepError::Coming { asked: set }),
            None => {}
        }
        // A later one may be of a line that was given up.
        if set <= visible.min(self.want.visible) && self.keep_again(set) {
            return Ok(());
        }
        if set < visible {
            let kept = self.kept().collect();
            return Err(KeepError::Passed { asked: set, visible, kept });
        }
        // Anything later is merged only when it is visible, durably: the base is at rest.
        if set == visible && self.want.merged == set {
            self.pin_durably(set);
        } else {
            self.keeps_waiting.insert(set);
            self.commit.request();
        }
        self.pump();
        Ok(())
    }

    /// A state whose release is not durable yet is there in full: the release is taken back.
    fn keep_again(&mut self, set: SetNumber) -> bool {
        let held = self.cfg.snapshots.durable_pins();
        let branch = |p: &PinId| self.is_branch(*p);
        let of = |p: &PinId| held.iter().any(|(h, s)| h == p && *s == set) && !branch(p);
        let Some(pin) = self.releasing.iter().copied().find(of) else { return false };
        self.releasing.retain(|p| *p != pin || rcp::planted!(ReleaseNotTakenBack));
        self.list_kept();
        self.commit.request();
        self.pump();
        true
    }

    /// Whether one more state can be kept: the mailbox has room for so many.
    ///
    /// # Errors
    /// [`KeepError::Many`].
    pub fn may_keep(&self) -> Result<(), KeepError> {
        if self.listed().count() >= MAX_ENTRIES { Err(KeepError::Many) } else { Ok(()) }
    }

    /// What the mailbox lists, durably, of what is kept: also a state that is still to come.
    #[must_use]
    pub fn is_listed_durably(&self, set: SetNumber) -> bool {
        let lists = |m: &Mailbox| m.keeps().any(|k| k.set == set);
        // Nor is it about to be forgotten by a commit that knows of its release alone.
        lists(&self.durable) && self.commit.being_written().is_none_or(lists)
    }

    /// Gives a kept state up; false if it is not kept.
    pub fn release_state(&mut self, set: SetNumber) -> bool {
        if self.hold_is_kept(set, false) {
            return true;
        }
        let found = self.release_quietly(set);
        if found {
            self.list_kept();
            self.commit.request();
            self.pump();
        }
        found
    }

    pub(super) fn release_quietly(&mut self, set: SetNumber) -> bool {
        let mut found = self.keeps_waiting.remove(&set);
        for (pin, s) in self.cfg.snapshots.durable_pins() {
            if s == set && !self.releasing.contains(&pin) && !self.is_branch(pin) {
                self.releasing.push(pin);
                found = true;
            }
        }
        found
    }

    /// States that are kept, or will be.
    pub fn kept(&self) -> impl Iterator<Item = SetNumber> {
        self.keeping().map(|k| k.set).collect::<Vec<_>>().into_iter()
    }

    /// What the mailbox lists: also a state that is only lent to readers.
    pub(super) fn listed(&self) -> impl Iterator<Item = KeptState> {
        let pins = self.cfg.snapshots.durable_pins();
        let releasing = self.releasing.clone();
        pins.into_iter()
            .filter(move |(pin, _)| !releasing.contains(pin) && !self.is_branch(*pin))
            .map(|(pin, set)| KeptState { pin: pin.0, set })
            .chain(self.keeps_waiting.iter().map(|set| KeptState { pin: 0, set: *set }))
    }

    /// States that are to be kept once the base reaches them.
    #[must_use]
    pub fn keeps_waiting(&self) -> &BTreeSet<SetNumber> {
        &self.keeps_waiting
    }

    /// What is kept here, or will be (pin 0), and nobody has released.
    pub fn keeping(&self) -> impl Iterator<Item = KeptState> {
        let lent = self.lent();
        self.listed().filter(move |k| k.pin == 0 || Some(k.set) != lent)
    }

    /// The base now holds `merged` in full: a state that waited for it is pinned. One before it is inside
    /// what `step` brought at once, and was never there.
    pub(super) fn keep_reached(&mut self, merged: SetNumber, step: &str) {
        if self.keeps_waiting.remove(&merged) {
            self.pin_durably(merged);
        }
        let later = self.keeps_waiting.split_off(&merged);
        let passed = std::mem::replace(&mut self.keeps_waiting, later);
        self.not_kept(passed, &format!("{step} led beyond, to state {merged}"));
    }

    /// What was still to come is not waited for any more.
    pub(super) fn keep_no_more(&mut self, why: &str) {
        let waiting = std::mem::take(&mut self.keeps_waiting);
        self.not_kept(waiting, why);
    }

    /// These states are given up, and nobody has released them: whoever wanted them is told.
    pub(super) fn not_kept(&mut self, states: BTreeSet<SetNumber>, why: &str) {
        if states.is_empty() {
            return;
        }
        let list: Vec<_> = states.iter().map(ToString::to_string).collect();
        let (state, are) = if list.len() == 1 { ("state", "is") } else { ("states", "are") };
        let remedy = match self.cfg.role {
            Role::Primary { .. } => "keep one of its own: `rcpctl delta cut VOLUME --keep`",
            _ => "keep a later one: `rcpctl delta keep VOLUME STATE`",
        };
        let text = format!("{state} {} {are} no longer kept: {why}; {remedy}", list.join(", "));
        self.desk.event(Event::NotKept { states: states.into_iter().collect(), text });
        self.commit.request();
    }

    /// The content that kept states rest on is about to be overwritten: the commit that says so
    /// lists none of them.
    pub(super) fn give_up_kept(&mut self, why: &str) {
        let mut states = BTreeSet::new();
        for (pin, set) in self.cfg.snapshots.durable_pins() {
            if !self.releasing.contains(&pin) && !self.is_branch(pin) {
                self.releasing.push(pin);
                states.extend(Some(set).filter(|s| Some(*s) != self.lent()));
            }
        }
        self.list_kept();
        self.not_kept(states, why);
    }

    /// Readers may open what the mailbox lists and nobody gave up.
    pub(super) fn list_kept(&self) {
        let releasing = &self.releasing;
        let lent = self.lent();
        let listed = self.durable.keeps().filter(|k| Some(k.set) != lent).map(|k| PinId(k.pin));
        let aside = &self.want.aside;
        let here = |p: &PinId| !releasing.contains(p) && !aside.iter().any(|k| k.pin == p.0);
        self.board.list_kept(listed.filter(|p| p.0 > 0 && here(p)));
        let aside = self.durable.aside.iter().map(|k| PinId(k.pin));
        self.board.list_branches(aside.filter(|p| !releasing.contains(p)));
    }

    /// The mailbox no longer lists what was given up.
    pub(super) fn release_unlisted(&mut self) {
        self.list_kept();
        let kept = self.durable.kept.iter().map(|k| PinId(k.pin));
        let aside = self.durable.aside.iter().map(|k| PinId(k.pin));
        let listed: Vec<_> = kept.chain(aside).collect();
        let releasing = &self.releasing;
        // One that was broken meanwhile will never be listed.
        let held: Vec<_> = self.cfg.snapshots.durable_pins().into_iter().map(|(p, _)| p).collect();
        self.unlisted.retain(|p| held.contains(p) && !listed.contains(p) && !releasing.contains(p));
        for pin in std::mem::take(&mut self.releasing) {
            if listed.contains(&pin) {
                self.releasing.push(pin);
            } else {
                let _ = self.cfg.snapshots.release(pin, PinKind::Durable);
            }
        }
    }
}
