//! Damage, and who the writer is: a node that knows of some is not made the writer unasked.

use rcp::proto::ids::{NodeName, VolumeId};
use volmcast::storage::Standing;

use super::failover::conflict;
use super::{Effect, Held, Level, Mover};
use crate::api::ApiError;

/// Whether what a replica holds may become the volume; `lose` is an operator's word that it may,
/// whatever is damaged.
pub(super) fn fits(h: &mut Held, node: &NodeName, lose: bool) -> Result<(), ApiError> {
    h.volume.look();
    let Some(why) = h.volume.damage() else { return Ok(()) };
    if lose {
        h.volume.take_as_it_is(true);
        return Ok(());
    }
    let name = &h.label;
    Err(conflict(format!(
        "volume {name} at {node}: {why}; as the writer it would pass that on as the volume. Promote \
         another replica (`rcpctl failover {name} --plan` shows who can), or wait until this one has \
         fetched it again from its parent; if there is no other: `rcpctl failover {name} --to {node} \
         --lose-damaged-blocks` takes what the disk holds, and what was there is lost"
    )))
}

/// What is damaged as a promotion begins, to be stored before the role is: whoever reads it later must
/// know. `None` if that is stored already.
pub(super) fn remembered(h: &mut Held) -> Option<Standing> {
    let damage = h.volume.damage();
    if h.writer.damaged == damage {
        return None;
    }
    h.writer.damaged = damage;
    Some(h.writer.standing())
}

impl Mover {
    /// At the writer: what the disk holds is the volume, on an operator's word. What was damaged, in
    /// words; `None` if nothing is known to be.
    pub(super) fn accept_damage(&mut self, id: VolumeId) -> Option<String> {
        let h = self.volumes.get_mut(&id)?;
        h.volume.look();
        let what = h.volume.doubts_words()?;
        h.volume.accept_content();
        h.writer.damaged = Some(what.clone());
        let (label, standing) = (h.label.clone(), h.writer.standing());
        self.effect(Effect::StoreStanding { volume: id, standing });
        let text = format!(
            "volume {label}: {what}; on an operator's word what the disk holds is the volume, and \
             what was there is lost"
        );
        self.note(Level::Error, text);
        self.settle(id);
        Some(what)
    }
}
