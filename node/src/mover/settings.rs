//! What an operator sets for one volume on one node: replication on and off, triggers, persistency.

use std::time::Duration;

use config::limits;
use config::units::{format_duration, format_size};
use rcp::proto::ids::VolumeId;
use volmcast::volume::{CutPolicy, PlaybackPolicy, Role};

use super::{AskId, Effect, Mover, Reply};
use crate::api::{ApiError, ApiErrorKind, PolicyChange};

/// The same limits as in a topology.
fn within_limits(hwm: Option<u64>, timeout: Option<Duration>, replica: bool) -> Result<(), String> {
    let sizes = limits::MIN_HWM..=limits::MAX_HWM;
    if let Some(n) = hwm.filter(|n| !sizes.contains(n)) {
        return Err(format!(
            "a high-water mark of {} is not possible: from {} to {}",
            format_size(n),
            format_size(limits::MIN_HWM),
            format_size(limits::MAX_HWM)
        ));
    }
    let least = if replica { Duration::ZERO } else { limits::MIN_TIMEOUT };
    if let Some(t) = timeout.filter(|t| !(least..=limits::MAX_TIMEOUT).contains(t)) {
        return Err(format!(
            "a timeout of {} is not possible: from {} to {}",
            format_duration(t),
            format_duration(least),
            format_duration(limits::MAX_TIMEOUT)
        ));
    }
    Ok(())
}

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

    /// Brings a mirror to a version, or has it mirror again; answered when a restart would find it
    /// so (VMC-08).
    ///
    /// # Errors
    /// In words, with the remedy.
    pub(super) fn views(&mut self, ask: AskId, name: &str, open: bool) -> Result<(), ApiError> {
        let id = self.volume_named(name)?;
        self.busy(id, name)?;
        let Some(h) = self.volumes.get(&id) else { return Ok(()) };
        if let Some(why) = h.volume.failure() {
            return Err(ApiError::new(ApiErrorKind::Unavailable, why));
        }
        let node = &self.cfg.node;
        let why = match h.volume.config().role {
            Role::Replica { .. } if h.volume.is_mirror() => None,
            Role::Replica { .. } => Some(format!(
                "volume {name} at {node} is no mirror: it is read at every state that it reaches; \
                 `views: on_demand` in the topology, for this node in `overrides`, makes it one"
            )),
            Role::Primary { .. } => {
                Some(format!("{node} writes volume {name}, and mirrors nothing"))
            }
            Role::Relay => {
                Some(format!("{node} only forwards volume {name}, and keeps none of it"))
            }
        };
        if let Some(why) = why {
            let text =
                format!("{why}; `rcpctl status {name}` shows who mirrors: name it with --node");
            return Err(ApiError::new(ApiErrorKind::Conflict, text));
        }
        self.with_volume(id, |v| v.set_opened(open));
        self.set(Waiter::Ask(ask), id);
        Ok(())
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
        let replica = self
            .volumes
            .get(&id)
            .is_some_and(|h| matches!(h.volume.config().role, Role::Replica { .. }));
        within_limits(change.hwm, timeout, replica)
            .map_err(|text| ApiError::new(ApiErrorKind::BadRequest, text))?;
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
                        ..old
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_topology_refuses_is_refused_here() {
        let ms = |n| Some(Duration::from_millis(n));
        for (hwm, timeout, replica, good) in [
            (Some(64 << 10), ms(100), false, true),
            (Some(1), None, false, false),
            (Some(u64::MAX), None, true, false),
            (None, ms(1), false, false),
            // A replica may show what comes at once.
            (None, ms(0), true, true),
            (None, ms(9999 * 86_400_000), true, false),
        ] {
            let found = within_limits(hwm, timeout, replica);
            assert_eq!(found.is_ok(), good, "{hwm:?} {timeout:?}: {found:?}");
        }
        let text = within_limits(None, ms(1), false).expect_err("too short");
        assert_eq!(text, "a timeout of 1ms is not possible: from 100ms to 365d");
    }
}
