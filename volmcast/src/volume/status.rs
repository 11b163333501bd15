//! What an operator is told about a volume: numbers, the delta-set table, a state in words.

use std::collections::VecDeque;
use std::time::Duration;

use rcp::proto::clock::{Mono, Wall};
use rcp::proto::delta::SetHeader;
use rcp::proto::ids::SetNumber;

use super::{Role, Volume};

/// Rows kept of the delta-set table.
const ROWS: usize = 256;

/// One row of the delta-set table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetRow {
    /// Set number.
    pub set: SetNumber,
    /// When it was cut at the source.
    pub cut_time: Wall,
    /// How long making it took; unknown at a replica.
    pub made_in: Option<Duration>,
    /// Blocks in it.
    pub blocks: u64,
    /// The group of sets that was played and begins with this one.
    pub played: Option<Played>,
}

/// A group of sets that was played (PLAY-11).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Played {
    /// When readers saw it.
    pub at: Wall,
    /// How many sets it has.
    pub sets: u64,
    /// Blocks in them.
    pub blocks: u64,
    /// How long it took from there until the content held all of it, once it does.
    pub took: Option<Duration>,
    last: SetNumber,
    began: Mono,
}

/// The newest rows.
#[derive(Debug, Default)]
pub(super) struct SetTable {
    rows: VecDeque<SetRow>,
}

impl SetTable {
    fn push(&mut self, row: SetRow) {
        if self.rows.len() >= ROWS {
            self.rows.pop_front();
        }
        self.rows.push_back(row);
    }

    pub(super) fn cut(&mut self, set: SetNumber, cut_time: Wall, blocks: u64) {
        self.push(SetRow { set, cut_time, made_in: None, blocks, played: None });
    }

    pub(super) fn drained(&mut self, set: SetNumber, blocks: u64, took: Duration) {
        if let Some(r) = self.rows.iter_mut().rev().find(|r| r.set == set) {
            r.made_in = Some(took);
            r.blocks = blocks;
        }
    }

    pub(super) fn arrived(&mut self, h: &SetHeader) {
        self.push(SetRow {
            set: h.step.to,
            cut_time: h.cut_time,
            made_in: None,
            blocks: h.block_count,
            played: None,
        });
    }

    /// The sets after `from` up to `to` became visible together; told on the lowest row.
    pub(super) fn played(&mut self, from: SetNumber, to: SetNumber, at: Wall, began: Mono) {
        let group = self.rows.iter().filter(|r| r.set > from && r.set <= to);
        let (sets, blocks) = group.fold((0, 0), |(n, b), r| (n + 1, b + r.blocks));
        if let Some(r) = self.rows.iter_mut().find(|r| r.set > from && r.set <= to) {
            r.played = Some(Played { at, sets, blocks, took: None, last: to, began });
        }
    }

    /// The content holds everything up to `merged`.
    pub(super) fn merged(&mut self, merged: SetNumber, now: Mono) {
        for p in self.rows.iter_mut().filter_map(|r| r.played.as_mut()) {
            if p.took.is_none() && p.last <= merged {
                p.took = Some(now.since(p.began));
            }
        }
    }

    fn cut_time(&self, set: SetNumber) -> Option<Wall> {
        self.rows.iter().rev().find(|r| r.set <= set).map(|r| r.cut_time)
    }
}

/// A volume at one moment.
#[derive(Clone, Debug)]
pub struct VolumeStatus {
    /// `primary`, `replica` or `relay`.
    pub role: &'static str,
    /// In words.
    pub state: String,
    /// Why it cannot advance or be read, if so.
    pub reason: Option<String>,
    /// A replica that is to mirror: whether it does now, and the way out of it, in words.
    pub mirror: Option<String>,
    /// Newest finished set (primary) or visible state (replica).
    pub visible: SetNumber,
    /// Newest complete set in the save volume.
    pub saved: SetNumber,
    /// State the base holds in full.
    pub merged: SetNumber,
    /// Cut time of the visible state, if known.
    pub visible_cut_time: Option<Wall>,
    /// Bytes of the save volume in use.
    pub save_used: u64,
    /// Its capacity.
    pub save_capacity: u64,
    /// Write position in it.
    pub save_position: u64,
    /// Bytes modified since the last cut (primary).
    pub dirty_bytes: u64,
    /// Longest pause of writers by a cut.
    pub longest_pause: Duration,
    /// Newest rows first.
    pub sets: Vec<SetRow>,
}

impl Volume {
    /// When a state, or the newest known one before it, was cut.
    #[must_use]
    pub fn cut_time(&self, set: SetNumber) -> Option<Wall> {
        self.history_table.cut_time(set)
    }

    /// Bytes that are here but not visible yet.
    #[must_use]
    pub fn lag_bytes(&self) -> u64 {
        let shown = self.durable.visible;
        self.log.steps().filter(|s| s.id.to > shown).map(|s| s.bytes).sum()
    }

    /// The set that is being made, at a primary.
    #[must_use]
    pub fn draining(&self) -> Option<SetNumber> {
        self.drain.draining()
    }

    /// The volume as of now.
    #[must_use]
    pub fn status(&self) -> VolumeStatus {
        let role = match self.cfg.role {
            Role::Primary { .. } => "primary",
            Role::Replica { .. } => "replica",
            Role::Relay => "relay",
        };
        let visible = match self.cfg.role {
            Role::Relay => self.saved_position().0,
            _ => self.durable.visible,
        };
        let saved = self.saved_position().0;
        // That a mirror is not read was wanted so.
        let refused = self.unwhole().or_else(|| self.too_old.clone());
        let refused = refused.filter(|_| role != "relay");
        let reason = match (refused, self.stalls.words()) {
            (Some(a), Some(b)) if a != b => Some(format!("{a}; {b}")),
            (a, b) => a.or(b),
        };
        let reason = reason.or_else(|| self.switched_off());
        let state = match (&self.failed, role) {
            (Some(_), _) => "failed".to_owned(),
            (None, "primary") => match self.drain.draining() {
                Some(set) => format!("writable, making set {set}"),
                None if !self.is_replicating() => "writable, replication stopped".to_owned(),
                None => "writable".to_owned(),
            },
            (None, "relay") => "forwarding".to_owned(),
            _ if self.held_pin().is_some() && self.refusal().is_none() => {
                format!("catching up, state {visible} is readable")
            }
            _ if self.is_to_be_proven() => "proving".to_owned(),
            _ if self.durable.seed.is_some_and(|s| s.over.is_some()) => "catching up".to_owned(),
            _ if self.durable.seed.is_some() => "seeding".to_owned(),
            _ if self.durable.hidden_until > visible => "fetching again".to_owned(),
            _ => {
                let is = if self.is_mirroring() { "mirroring" } else { "readable" };
                match self.playback.unmerged() {
                    _ if self.staging_words().is_some() => {
                        format!("{is}, {}", self.staging_words().unwrap_or_default())
                    }
                    _ if !self.is_replicating() => format!("{is}, replication stopped"),
                    0 => is.to_owned(),
                    n => format!("{is}, {n} sets to merge"),
                }
            }
        };
        VolumeStatus {
            role,
            state,
            reason,
            mirror: self.mirror_words(),
            visible,
            saved,
            merged: self.durable.merged,
            visible_cut_time: self.history_table.cut_time(visible),
            save_used: self.log.used(),
            save_capacity: self.log.ring().capacity(),
            save_position: self.log.ring().offset(self.log.head()),
            dirty_bytes: self.capture().map_or(0, |c| c.dirty_bytes()),
            longest_pause: self.drain.longest_pause,
            sets: self.history_table.rows.iter().rev().cloned().collect(),
        }
    }
}
