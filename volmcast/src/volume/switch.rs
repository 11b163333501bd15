//! Replication on and off, and whether it goes on by itself after a restart (CAP-15, CAP-16,
//! PLAY-08).
//!
//! | | stopped at the primary | stopped at a replica |
//! |---|---|---|
//! | goes on | writes, and marking what they change; sets on demand | the stream into the save volume, as far as it has room; merging of what is visible; a seed under way |
//! | waits | sets by size and time | showing sets that have come; being seeded |
//!
//! Both the state and the setting are in the mailbox. Changes are marked all the time, so that a
//! volume that comes back stopped knows what changed and needs no copy when it is started.

use super::{Event, Role, Volume};
use crate::mailbox::{Mailbox, Settings};

/// Whether sets are made (primary) or shown (replica) now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Switch {
    On,
    /// An operator stopped it.
    Off,
    /// The node was restarted, and it does not go on by itself.
    Waiting,
}

impl Switch {
    /// As a volume comes back.
    pub(super) fn opened(s: Settings) -> Self {
        match (s.stopped, s.transient) {
            (true, _) => Self::Off,
            (false, true) => Self::Waiting,
            (false, false) => Self::On,
        }
    }
}

impl Volume {
    /// Replication goes on here.
    #[must_use]
    pub fn is_replicating(&self) -> bool {
        self.switch == Switch::On
    }

    /// Stops or resumes making sets (primary) or showing them (replica); what is being shown or
    /// made is finished. [`Event::Settings`] says when a restart would find it so.
    pub fn set_replicating(&mut self, on: bool) {
        self.switch = if on { Switch::On } else { Switch::Off };
        self.want.settings.stopped = !on;
        self.commit.request();
        self.pump();
    }

    /// Whether replication goes on by itself after a restart; [`Event::Settings`] says when that is
    /// durable.
    pub fn set_persistent(&mut self, on: bool) {
        self.want.settings.transient = !on;
        if on && self.switch == Switch::Waiting {
            // It is to be found as it is (CAP-15): stopped.
            self.switch = Switch::Off;
            self.want.settings.stopped = true;
        }
        self.commit.request();
        self.pump();
    }

    /// What was set is what a restart would find.
    #[must_use]
    pub fn settings_durable(&self) -> bool {
        self.durable.settings == self.want.settings
    }

    pub(super) fn settings_committed(&mut self, before: &Mailbox) {
        if self.durable.settings.opened != before.settings.opened {
            self.publish_view();
        }
        if self.durable.settings != before.settings {
            self.desk.event(Event::Settings);
        }
    }

    /// Why nothing advances, if somebody wanted it so.
    pub(super) fn switched_off(&self) -> Option<String> {
        let what = match self.cfg.role {
            Role::Primary { .. } => "changes are marked and no sets are made",
            Role::Replica { .. } => "sets are saved and not shown",
            Role::Relay => return None,
        };
        let why = match self.switch {
            Switch::On => return None,
            Switch::Off => "replication was stopped here by an operator",
            Switch::Waiting => {
                "replication does not go on by itself after a restart (`rcpctl replicate persist \
                 off`)"
            }
        };
        Some(format!("{why}: {what} until `rcpctl replicate start`"))
    }
}
