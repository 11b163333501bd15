//! Who the writer is, carried out: gates, roles on the disk, the writable side of a volume.

use std::sync::Arc;

use rcp::proto::ids::{StateId, VolumeId};
use volmcast::storage::Identity;

use super::core::{Core, Input};
use crate::clock;
use crate::mover::{Effect, NotMade};
use crate::volumes::open;

impl Core {
    /// Carries out what concerns who the writer is.
    pub(super) fn writer_effect(&mut self, e: Effect) {
        match e {
            Effect::Gate { volume, gate } => {
                if let Some(p) = self.volumes.get(&volume).and_then(|v| v.primary.as_ref()) {
                    p.gate().set(&gate);
                }
            }
            Effect::AwaitQuiet { volume, number } => {
                let Some(p) = self.volumes.get(&volume).and_then(|v| v.primary.clone()) else {
                    return;
                };
                let core = self.sender.clone();
                tokio::task::spawn_blocking(move || {
                    p.gate().await_quiet();
                    let _ = core.blocking_send(Input::Quiet { volume, number });
                });
            }
            Effect::GiveAway { ask, volume, to, standing } => {
                self.give_away(ask, volume, to, standing);
            }
            Effect::MakeWritable { volume, opens } => self.make_writable(volume, opens),
            Effect::MakeReadOnly { volume, discards } => self.make_read_only(volume, discards),
            Effect::StoreStanding { volume, standing } => {
                // Handed over, it has everything in sets: a restart is not to make another one.
                if standing.fenced.as_ref().is_some_and(|f| f.handed)
                    && let Some(p) = self.volumes.get(&volume).and_then(|v| v.primary.as_ref())
                    && let Err(why) = p.settle_extents()
                {
                    tracing::error!(%volume, "{why}: after a restart it will seem to have changes");
                }
                let stored = self.store_identity(volume, |i| i.standing = standing);
                let (now, wall) = (clock::mono(), clock::wall());
                self.mover.standing_stored(now, wall, volume, stored);
            }
            _ => {}
        }
    }

    /// Changes a volume's identity, durably or not at all.
    pub(super) fn store_identity(
        &mut self,
        id: VolumeId,
        change: impl FnOnce(&mut Identity),
    ) -> Result<(), String> {
        let Some(shared) = self.volumes.get_mut(&id) else { return Err("no such volume".into()) };
        let mut identity = shared.identity.clone();
        change(&mut identity);
        let folder = self.folder.join("volumes").join(id.to_string());
        identity.store(&folder).map_err(|e| e.to_string())?;
        shared.identity = identity;
        Ok(())
    }

    /// Makes what a writer needs, on a thread that may block.
    fn make_writable(&self, id: VolumeId, opens: StateId) {
        let Some(shared) = self.volumes.get(&id) else { return };
        let (Some(states), Some(v)) = (&shared.states, self.mover.volume(id)) else { return };
        let (files, blocks) = (states.files().clone(), v.blocks());
        let snapshots = v.config().snapshots.clone();
        let identity = shared.identity.clone();
        let core = self.sender.clone();
        tokio::task::spawn_blocking(move || {
            let made = open::make_writable(&identity, &files, snapshots, blocks)
                .map(Arc::new)
                .map_err(|e| e.to_string());
            let _ = core.blocking_send(Input::Writable { volume: id, opens, made });
        });
    }

    /// The writable side is there: the role is stored, if it is still wanted.
    pub(super) fn writable(
        &mut self,
        id: VolumeId,
        opens: StateId,
        made: Result<Arc<crate::volumes::PrimaryVolume>, String>,
    ) {
        if !self.mover.makes_writable(id, opens) {
            return;
        }
        let group = self.volumes.get(&id).map(|v| v.identity.group.clone());
        let policy = group.and_then(|g| self.plans.get(&g)).map(|plan| plan.open.cut);
        let made = match (made, policy) {
            (Err(why), _) => Err(NotMade::Unchanged(why)),
            (Ok(_), None) => Err(NotMade::Unchanged("no such volume, or group".to_owned())),
            // After an error the file may be the old one or the new one.
            (Ok(p), Some(policy)) => self
                .store_identity(id, |i| open::takes_over(i, opens))
                .map(|()| (p, policy))
                .map_err(NotMade::Unknown),
        };
        let made = made.map(|(p, policy)| {
            self.hear(id, &p);
            let capture = p.capture().clone();
            if let Some(shared) = self.volumes.get_mut(&id) {
                shared.primary = Some(p);
            }
            (capture, policy)
        });
        self.mover.made_writable(clock::mono(), clock::wall(), id, made);
    }

    fn make_read_only(&mut self, id: VolumeId, discards: bool) {
        let stored = self.store_identity(id, |i| open::steps_down(i, discards));
        let made = stored.and_then(|()| {
            let shared = self.volumes.get_mut(&id).ok_or("no such volume")?;
            let plan = self.plans.get(&shared.identity.group).ok_or("no such group")?;
            if let Some(p) = shared.primary.take() {
                p.gate().retire();
            }
            Ok(plan.open.playback)
        });
        self.mover.made_read_only(clock::mono(), clock::wall(), id, made);
    }
}
