//! Mirrors: replicas that nobody reads before a version of them is wanted (VMC-08).
//!
//! A mirror takes what comes as every replica does: sets are saved whole, and brought into the
//! content one after the other. It has nothing of what is there for readers only: no view is open to
//! them, no state is kept, so that nothing is saved before it is overwritten. Bringing it to a version
//! lets readers in at the newest set that is here whole, whether the writer lives or not. Why live
//! sets are not folded into its content as they come: `docs/mirror.md`.

use rcp::proto::ids::SetNumber;

use super::{Role, Volume};

impl Volume {
    /// The replica is one that mirrors, unless a version of it was wanted.
    #[must_use]
    pub fn is_mirror(&self) -> bool {
        matches!(self.cfg.role, Role::Replica { policy } if policy.on_demand)
    }

    /// It mirrors now: it is not read, and not made the writer.
    #[must_use]
    pub fn is_mirroring(&self) -> bool {
        let opened = self.want.settings.opened && self.durable.settings.opened;
        self.is_mirror() && !opened
    }

    /// Brings a mirror to a version: everything that has come whole is shown, and what follows as at
    /// any replica. Or has it mirror again. [`super::Event::Settings`] says when that is durable;
    /// readers are let in no earlier, and kept out at once.
    pub fn set_opened(&mut self, on: bool) {
        self.want.settings.opened = on;
        self.playback.bring_to(if on { self.log.state() } else { SetNumber::ZERO });
        self.publish_view();
        self.commit.request();
        self.pump();
    }

    /// What an operator is told of a mirror.
    pub(super) fn mirror_words(&self) -> Option<String> {
        if !self.is_mirror() {
            return None;
        }
        let node = &self.cfg.node;
        if !self.is_mirroring() {
            return Some(format!(
                "is a mirror of which a version was wanted: it is read and goes on as every replica, \
                 until `rcpctl replicate mirror VOLUME --node {node}`"
            ));
        }
        let whole = self.log.state();
        let newest = match self.unwhole() {
            None if whole > SetNumber::ZERO => {
                format!("the newest set that is here whole is {whole}")
            }
            _ => "no set is here whole yet".to_owned(),
        };
        Some(format!("{}; {newest}", self.not_read()))
    }

    /// What readers are told of a mirror. It does not change with every set.
    pub(super) fn not_read(&self) -> String {
        format!(
            "mirrors without consistent views, and is not read: `rcpctl replicate version VOLUME --node \
             {}` brings it to a version",
            self.cfg.node
        )
    }
}
