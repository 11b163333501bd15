//! What keeps a volume on this node from being further, as far as this node can know.

use rcp::proto::clock::Mono;
use rcp::proto::ids::{NodeName, SetNumber};

use super::{Role, Volume};

/// What the newest state waits for here. Bytes are those in the save volume that it is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Waits {
    /// A primary makes a set of what was changed.
    Making {
        /// The set.
        set: SetNumber,
        /// When it was cut.
        since: Mono,
    },
    /// The disk with the save volume: the parent may send no more before what came is durable.
    Saving {
        /// Bytes that came and are not.
        bytes: u64,
    },
    /// The disk with the content: the save volume is full of what is not in it yet.
    Merging {
        /// Bytes of that.
        bytes: u64,
    },
    /// An operator: the save volume is full of what is not shown because replication was stopped
    /// here, or did not go on after a restart.
    Stopped {
        /// Bytes of that.
        bytes: u64,
    },
    /// A child: the save volume is full of what it has not taken.
    Child {
        /// Its name.
        name: NodeName,
        /// Bytes of that.
        bytes: u64,
    },
    /// Readers of older states: the save volume is full of what they may still read.
    Readers {
        /// Bytes of that.
        bytes: u64,
    },
    /// The replica's own policy: whole sets are gathered before they are shown (PLAY-06).
    Playback {
        /// How many.
        sets: usize,
        /// When they are shown at the latest.
        due: Mono,
    },
}

impl Volume {
    /// Bytes that came into the save volume, ever, and may be passed on: how fast it rises is how
    /// fast sets come.
    #[must_use]
    pub fn saved_bytes(&self) -> u64 {
        self.sendable_end().0
    }

    /// What keeps this node's copy from being newer, at this moment; nothing if it would take more
    /// at once. A cause that is there at most looks is the one to tell.
    pub fn waits_for(&mut self) -> Option<Waits> {
        if matches!(self.cfg.role, Role::Primary { .. }) {
            return self.drain.making().map(|(set, since)| Waits::Making { set, since });
        }
        let bytes = self.log.head().since(self.durable.log_head);
        if bytes >= self.cfg.window / 2 {
            return Some(Waits::Saving { bytes });
        }
        if self.intake_room() < self.cfg.window / 4 {
            return Some(self.holder());
        }
        let due = self.playback.timeout()?;
        Some(Waits::Playback { sets: self.playback.unshown(self.durable.visible), due })
    }

    /// Who keeps the oldest record of the save volume from being overwritten.
    fn holder(&mut self) -> Waits {
        let head = self.log.head();
        let own = self.own_hold();
        if let Some((name, pos)) = self.consumers.last()
            && pos < own
        {
            return Waits::Child { name, bytes: head.since(pos) };
        }
        let bytes = head.since(own);
        if self.playback.held_by_readers() && self.playback.reader_hold() == Some(own) {
            return Waits::Readers { bytes };
        }
        if !self.is_replicating() {
            return Waits::Stopped { bytes };
        }
        Waits::Merging { bytes }
    }
}
