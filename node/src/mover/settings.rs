//! What an operator sets for one volume on one node: replication on and off, triggers, persistency.

use std::time::Duration;

use rcp::proto::ids::VolumeId;
use volmcast::volume::{CutPolicy, PlaybackPolicy, Role};

use super::{AskId, Effect, Mover, Reply};
use crate::api::{ApiError, ApiErrorKind, PolicyChange};

impl Mover {
    /// Stops replication of a volume here, or lets it go on; answered when a restart would find it
    /// so (CAP-15).
    ///
    /// # Errors
    /// In words, with the remedy.
    pub(super) fn replicate(&mut self, ask: AskId, name: &str, on: bool) -> Result<(), ApiError> {
        let id = self.switchable(name)?;
        self.with_volume(id, |v| v.set_replicating(on));
        if on {
            self.attach_after_stop(id);
        }
        self.set(ask, id);
        Ok(())
    }

    /// A volume here whose replication can be stopped.
    fn switchable(&self, name: &str) -> Result<VolumeId, ApiError> {
        let id = self.volume_named(name)?;
        let Some(h) = self.volumes.get(&id) else { return Ok(id) };
        if let Some(why) = h.volume.failure() {
            return Err(ApiError::new(ApiErrorKind::Unavailable, why));
        }
        if matches!(h.volume.config().role, Role::Relay) {
            let text = format!(
                "{} only forwards volume {name}: stop replication at the primary or at a replica, \
                 or take the route away with rcproute",
                self.cfg.node
            );
            return Err(ApiError::new(ApiErrorKind::Conflict, text));
        }
        Ok(id)
    }

    /// Answers once what was set is durable.
    fn set(&mut self, ask: AskId, id: VolumeId) {
        if let Some(h) = self.volumes.get_mut(&id) {
            h.setting.push(ask);
        }
        self.settings_stored(id);
    }

    /// What was set may be durable.
    pub(super) fn settings_stored(&mut self, id: VolumeId) {
        let Some(h) = self.volumes.get_mut(&id) else { return };
        if !h.volume.settings_durable() {
            return;
        }
        for ask in std::mem::take(&mut h.setting) {
            self.effect(Effect::Reply { ask, reply: Reply::Done });
        }
    }

    /// The volume stopped: nobody waits for its settings any more.
    pub(super) fn settings_failed(&mut self, id: VolumeId, why: &str) {
        let Some(h) = self.volumes.get_mut(&id) else { return };
        for ask in std::mem::take(&mut h.setting) {
            let e = ApiError::new(ApiErrorKind::Unavailable, why);
            self.effect(Effect::Reply { ask, reply: Reply::Refused(e) });
        }
    }

    /// Changes when sets are made or shown, and whether that goes on after a restart.
    ///
    /// # Errors
    /// In words.
    pub(super) fn policy(
        &mut self,
        ask: AskId,
        name: &str,
        change: &PolicyChange,
    ) -> Result<(), ApiError> {
        let id = match change.persistent {
            None => self.volume_named(name)?,
            Some(_) => self.switchable(name)?,
        };
        let timeout = change.timeout_ms.map(Duration::from_millis);
        self.with_volume(id, |v| {
            match v.config().role {
                Role::Primary { .. } => {
                    let old = v.cut_policy();
                    v.set_cut_policy(CutPolicy {
                        hwm: change.hwm.unwrap_or(old.hwm),
                        timeout: timeout.unwrap_or(old.timeout),
                    });
                }
                Role::Replica { .. } => {
                    let old = v.playback_policy_now();
                    v.set_playback_policy(PlaybackPolicy {
                        hwm: change.hwm.unwrap_or(old.hwm),
                        timeout: timeout.unwrap_or(old.timeout),
                    });
                }
                Role::Relay => {}
            }
            if let Some(on) = change.persistent {
                v.set_persistent(on);
            }
        });
        self.set(ask, id);
        Ok(())
    }
}
