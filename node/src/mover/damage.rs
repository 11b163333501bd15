//! Damage, and who the writer is: a node that knows of some is not made the writer unasked.

use rcp::proto::ids::{NodeName, VolumeId};
use volmcast::storage::Standing;
use volmcast::volume::Scrubbed;

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

/// What came of a round through the content; false if it is not as it should be.
fn scrub_result(h: &Held, done: Scrubbed) -> (bool, String) {
    let Scrubbed { looked, damaged, digest } = done;
    if let Some(why) = h.volume.refusal().filter(|_| h.volume.differs().is_some()) {
        return (false, why);
    }
    let Some((set, sum)) = digest else {
        return (false, "it is no replica any more".to_owned());
    };
    let digest = format!("digest {sum} at set {set}");
    match damaged {
        0 => (true, format!("{looked} blocks are what was stored; {digest}")),
        n => (
            false,
            format!(
                "{n} of {looked} blocks were damaged, and were fetched again from the parent; \
                 {digest}; look at the disk"
            ),
        ),
    }
}

impl Mover {
    /// A round through the content has ended that blocks had asked for.
    pub(super) fn scrubbed(&mut self, id: VolumeId, done: Scrubbed) {
        let Some(h) = self.volumes.get_mut(&id) else { return };
        let asked = std::mem::take(&mut h.scrubbing);
        let (ok, text) = scrub_result(h, done);
        for block in asked {
            self.own_done(block, if ok { Ok(text.clone()) } else { Err(text.clone()) });
        }
    }

    /// The volume has stopped: no round goes on.
    pub(super) fn scrubs_failed(&mut self, id: VolumeId, why: &str) {
        let Some(h) = self.volumes.get_mut(&id) else { return };
        for block in std::mem::take(&mut h.scrubbing) {
            self.own_done(block, Err(why.to_owned()));
        }
    }

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

impl Mover {
    /// Blocks are not what was stored: they are fetched again with the next attachment, if the parent
    /// can be asked for them.
    pub(super) fn doubts(&mut self, id: VolumeId, text: &str) {
        let Some(h) = self.volumes.get(&id) else { return };
        let (label, incurable) = (h.label.clone(), self.incurable(h));
        let but = incurable.as_ref().map(|why| format!("; {why}")).unwrap_or_default();
        self.note(Level::Error, format!("volume {label}: {text}{but}"));
        if incurable.is_none() {
            self.reattach(id, "damaged blocks are fetched again");
        }
    }

    /// Why the damaged blocks of a replica are not fetched again, and what to do; in words. `None`: they
    /// are, or there are none.
    pub(super) fn incurable(&self, h: &Held) -> Option<String> {
        if h.volume.doubted().is_empty() || h.volume.seed_position().is_some() {
            return None;
        }
        let parent = self.conns.get(&h.inbound.as_ref()?.conn)?;
        let why = parent.without_doubts()?;
        let (label, node) = (&h.label, &self.cfg.node);
        Some(format!(
            "{why}, so that they stay refused: update the older of the two nodes, or give this one a \
             new seed at its parent: `rcpctl replicate seed {label} --to {node}`"
        ))
    }
}
