//! Save volumes that run full, in words, and receivers that an operator lets go of (SAVE-09).

use std::time::Duration;

use config::units::{approx_size, format_duration};
use rcp::proto::ids::{NodeName, VolumeId};
use volmcast::volume::Suspension;

use super::{Held, Level, Mover, Reply};
use crate::api::{ApiError, ApiErrorKind, DetachedCounts, SuspendedInfo, VolumeInfo};

/// Waiting for less is a moment's breath.
const TOLD: Duration = Duration::from_secs(1);

impl Mover {
    /// Who holds the room of a volume's save volume for long, in words.
    fn suspended(&self, h: &Held) -> Option<SuspendedInfo> {
        let s = h.volume.suspension()?;
        let waited = self.now.since(s.since);
        (waited >= TOLD).then(|| SuspendedInfo {
            seconds: waited.as_secs_f64(),
            by: s.by.iter().map(|(n, _)| n.to_string()).collect(),
            text: words(h, &s, waited),
        })
    }

    /// What status says of it.
    pub(super) fn describe_full(&self, h: &Held, info: &mut VolumeInfo) {
        let counts = h.volume.full_counts(self.now);
        info.suspended_ms = u64::try_from(counts.suspended.as_millis()).unwrap_or(u64::MAX);
        info.detached =
            DetachedCounts { full: counts.full, limits: counts.limits, by_hand: counts.by_hand };
        info.suspended = self.suspended(h);
        let Some(s) = &info.suspended else { return };
        let text = s.text.clone();
        info.reason = Some(match info.reason.take() {
            Some(why) => format!("{why}; {text}"),
            None => text,
        });
        if h.volume.suspension().is_some_and(|s| s.writers) {
            info.state.push_str(", writes wait");
        }
    }

    /// That writes wait for long is said once in the log, and that they go on.
    pub(super) fn tell_suspensions(&mut self) {
        let ids: Vec<VolumeId> = self.volumes.keys().copied().collect();
        for id in ids {
            let Some(h) = self.volumes.get(&id) else { continue };
            let now = self.suspended(h);
            if now.is_some() == h.suspension_told {
                continue;
            }
            let label = h.label.clone();
            let note = match now {
                Some(s) => (Level::Warn, format!("volume {label}: {}", s.text)),
                None => (Level::Info, format!("volume {label}: its save volume has room again")),
            };
            if let Some(h) = self.volumes.get_mut(&id) {
                h.suspension_told = !h.suspension_told;
            }
            self.note(note.0, note.1);
        }
    }

    /// Lets go of a receiver: what it lacks is kept for it no longer.
    ///
    /// # Errors
    /// In words; nothing was changed.
    pub(super) fn detach_child(&mut self, name: &str, child: &str) -> Result<Reply, ApiError> {
        let id = self.volume_named(name)?;
        let child = NodeName::new(child)
            .map_err(|e| ApiError::new(ApiErrorKind::BadRequest, e.to_string()))?;
        let Some(h) = self.held(id) else { return Ok(Reply::Done) };
        if h.volume.consumer_let_go(&child).is_some() {
            self.settle(id);
            return Ok(Reply::Done);
        }
        let h = self.volumes.get(&id);
        let links = h.and_then(|h| self.groups.get(&h.group)).map(|g| &g.links);
        if links.is_some_and(|l| l.contains_key(&child)) {
            return Err(ApiError::new(
                ApiErrorKind::Conflict,
                format!(
                    "{child} holds nothing back of volume {name}: it was detached already, or has \
                     taken nothing yet; nothing was changed"
                ),
            ));
        }
        let known: Vec<_> = links.into_iter().flat_map(|l| l.keys()).map(|n| n.as_str()).collect();
        let known = match known.as_slice() {
            [] => "it feeds nobody".to_owned(),
            known => format!("it feeds {}", known.join(", ")),
        };
        Err(ApiError::new(
            ApiErrorKind::NotFound,
            format!(
                "{child} is no receiver of volume {name} at {}: {known}; ask the node that feeds it \
                 (`rcproute display`)",
                self.cfg.node
            ),
        ))
    }
}

/// Who is waited for, for how long, and what to do.
fn words(h: &Held, s: &Suspension, waited: Duration) -> String {
    let capacity = approx_size(h.volume.config().save_capacity);
    let who: Vec<String> =
        s.by.iter().map(|(n, behind)| format!("{n} ({} behind)", approx_size(*behind))).collect();
    let who = if who.is_empty() { "a receiver".to_owned() } else { who.join(" and ") };
    let what = if s.writers { "writes wait" } else { "nothing more is taken from the parent" };
    let first = s.by.first().map_or("NODE", |(n, _)| n.as_str());
    format!(
        "{what}: the save volume of {capacity} has been full for {} s of what {who} has not taken; bring \
         it back, or let go of it (`rcpctl replicate detach {} --receiver {first}`): after {} it is \
         detached, and caught up later",
        waited.as_secs(),
        h.label,
        format_duration(s.limit),
    )
}
