//! What an operator sets for one volume on one node: replication on and off, triggers, persistency.

use std::time::Duration;

use rcp::proto::ids::VolumeId;
use volmcast::volume::{CutPolicy, PlaybackPolicy, Role};

use super::{AskId, Effect, Mover, Reply};
use crate::api::{ApiError, ApiErrorKind, PolicyChange};

/// Who waits until what was set is durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Waiter {
    /// Somebody here.
    Ask(AskId),
    /// A control block.
    Block([u8; 16]),
}

impl Mover {
    /// Stops replication of a volume here, or lets it go on; answered when a restart would find it
    /// so (CAP-15).
    ///
    /// # Errors
    /// In words, with the remedy.
    pub(super) fn replicate(&mut self, ask: AskId, name: &str, on: bool) -> Result<(), ApiError> {
        let id = self.switchable(name)?;
        self.switch(id, on, Waiter::Ask(ask));
        Ok(())
    }

    /// Stops replication of a volume, or lets it go on, for somebody who waits for that.
    pub(super) fn switch(&mut self, id: VolumeId, on: bool, waiter: Waiter) {
        self.with_volume(id, |v| v.set_replicating(on));
        if on {
            self.attach_after_stop(id);
        }
        self.set(waiter, id);
    }

    /// A volume here whose replication can be stopped.
    pub(super) fn switchable(&self, name: &str) -> Result<VolumeId, ApiError> {
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
    fn set(&mut self, waiter: Waiter, id: VolumeId) {
        if let Some(h) = self.volumes.get_mut(&id) {
            h.setting.push(waiter);
        }
        self.settings_stored(id);
    }

    /// What was set may be durable.
    pub(super) fn settings_stored(&mut self, id: VolumeId) {
        let Some(h) = self.volumes.get_mut(&id) else { return };
        if !h.volume.settings_durable() {
            return;
        }
        let on = h.volume.is_replicating();
        for waiter in std::mem::take(&mut h.setting) {
            match waiter {
                Waiter::Ask(ask) => self.effect(Effect::Reply { ask, reply: Reply::Done }),
                Waiter::Block(id) => {
                    let text = if on { "started" } else { "stopped" };
                    self.own_done(id, Ok(text.to_owned()));
                }
            }
        }
    }

    /// The volume stopped: nobody waits for its settings any more.
    pub(super) fn settings_failed(&mut self, id: VolumeId, why: &str) {
        let Some(h) = self.volumes.get_mut(&id) else { return };
        for waiter in std::mem::take(&mut h.setting) {
            match waiter {
                Waiter::Ask(ask) => {
                    let e = ApiError::new(ApiErrorKind::Unavailable, why);
                    self.effect(Effect::Reply { ask, reply: Reply::Refused(e) });
                }
                Waiter::Block(id) => self.own_done(id, Err(why.to_owned())),
            }
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
        self.set(Waiter::Ask(ask), id);
        Ok(())
    }
}
