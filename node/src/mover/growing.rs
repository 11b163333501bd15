//! A volume becomes larger: asked for at the primary, told to the tree.
//!
//! ```text
//! ask ─► files prepared (runtime) ─► Volume::grow ─► set ─► durable: answer, exports, offers
//! ```
//!
//! What is prepared is made zero, so that a size is prepared only when the one before is durable:
//! two requests at a time wait for each other.
//!
//! Children learn the size from the set header; one that is seeded needs it before the first
//! header, so that the offer of its stream is repeated with the new size (`rcp/PROTOCOL.md`,
//! section 6).

use rcp::proto::clock::{Mono, Wall};
use rcp::proto::frame::Offer;
use rcp::proto::ids::VolumeId;
use rcp::proto::limits::{MAX_VOLUME_BLOCKS, MAX_VOLUME_BYTES};
use volmcast::units::{BlockCount, BlockIndex};

use super::{AskId, ConnId, Effect, Level, Mover, Reply};
use crate::api::{ApiError, ApiErrorKind};

impl Mover {
    /// Begins to make a volume larger; the answer comes when the size is durable.
    ///
    /// # Errors
    /// In words, with the remedy.
    pub(super) fn resize(&mut self, ask: AskId, name: &str, size: u64) -> Result<(), ApiError> {
        let id = self.primary_of(name)?;
        let bad = |text: String| ApiError::new(ApiErrorKind::BadRequest, text);
        let Some(h) = self.volumes.get_mut(&id) else { return Ok(()) };
        if let Some(why) = h.volume.failure() {
            return Err(ApiError::new(ApiErrorKind::Unavailable, why));
        }
        let bs = h.volume.config().block_size;
        if size == 0 || !size.is_multiple_of(bs.bytes()) {
            return Err(bad(format!(
                "a size of {size} bytes is not a multiple of the block size {}",
                bs.bytes()
            )));
        }
        let blocks = BlockCount(size >> bs.shift());
        if size > MAX_VOLUME_BYTES || blocks.0 > MAX_VOLUME_BLOCKS {
            return Err(bad(format!(
                "a size of {size} bytes is too large: at most 64 TiB and 2^34 blocks"
            )));
        }
        let now = h.volume.next_blocks();
        if blocks < now {
            let text = format!(
                "volume {name} has {} bytes and cannot be made smaller: its end would be lost on \
                 every node, and in states that are kept; make a smaller volume with `rcpctl \
                 volume create`, copy what is needed into it over NBD, and delete this one",
                bs.offset(BlockIndex(now.0))
            );
            return Err(ApiError::new(ApiErrorKind::Conflict, text));
        }
        if blocks == now && now == h.volume.blocks() {
            self.effect(Effect::Reply { ask, reply: Reply::Done });
            return Ok(());
        }
        h.growing.push((ask, blocks));
        self.prepare_next(id);
        Ok(())
    }

    /// Has the files prepared for the smallest size that somebody waits for. One size at a time: the
    /// next one begins where the one before has ended, and clients may have written since.
    fn prepare_next(&mut self, id: VolumeId) {
        let Some(h) = self.volumes.get_mut(&id) else { return };
        let now = h.volume.next_blocks();
        if h.preparing || now > h.volume.blocks() {
            return;
        }
        let Some(blocks) = h.growing.iter().map(|(_, b)| *b).filter(|b| *b > now).min() else {
            return;
        };
        h.preparing = true;
        self.effect(Effect::PrepareGrowth { volume: id, blocks });
    }

    /// After [`Effect::PrepareGrowth`].
    pub fn growth_prepared(
        &mut self,
        now: Mono,
        wall: Wall,
        id: VolumeId,
        blocks: BlockCount,
        prepared: Result<(), String>,
    ) {
        self.time(now, wall);
        if let Some(h) = self.volumes.get_mut(&id) {
            h.preparing = false;
        }
        if let Err(why) = prepared {
            let text = format!("volume {} cannot grow: {why}", self.label_of(id));
            self.growth_refused(id, blocks, &text);
        } else if let Some(h) = self.held(id) {
            h.volume.grow(blocks);
        }
        self.prepare_next(id);
        self.settle(id);
    }

    fn growth_refused(&mut self, id: VolumeId, from: BlockCount, why: &str) {
        let Some(h) = self.volumes.get_mut(&id) else { return };
        let (refused, left) =
            std::mem::take(&mut h.growing).into_iter().partition(|(_, b)| *b >= from);
        h.growing = left;
        let refused: Vec<(AskId, BlockCount)> = refused;
        for (ask, _) in refused {
            let e = ApiError::new(ApiErrorKind::Unavailable, why);
            self.effect(Effect::Reply { ask, reply: Reply::Refused(e) });
        }
    }

    /// The volume stopped: nobody waits for a size any more.
    pub(super) fn growth_failed(&mut self, id: VolumeId, why: &str) {
        self.growth_refused(id, BlockCount(0), why);
    }

    /// The volume has another size, durably.
    pub(super) fn resized(&mut self, id: VolumeId, blocks: BlockCount) {
        let Some(h) = self.volumes.get_mut(&id) else { return };
        let bytes = h.volume.config().block_size.offset(BlockIndex(blocks.0));
        let label = h.label.clone();
        let (done, left) =
            std::mem::take(&mut h.growing).into_iter().partition(|(_, b)| *b <= blocks);
        h.growing = left;
        let done: Vec<(AskId, BlockCount)> = done;
        self.note(Level::Info, format!("volume {label} has {bytes} bytes now"));
        // Answered after the exports: who reconnects then sees it.
        self.effect(Effect::Exports { volume: id });
        for (ask, _) in done {
            self.effect(Effect::Reply { ask, reply: Reply::Done });
        }
        self.prepare_next(id);
        self.offer_again(id);
    }

    /// The parent repeats the offer of a stream that is there: what changed of it is taken over.
    /// False if it is none of those.
    pub(super) fn offered_again(&mut self, conn: ConnId, offer: &Offer) -> bool {
        let id = offer.volume;
        let Some(h) = self.volumes.get_mut(&id) else { return false };
        if !h.inbound.as_ref().is_some_and(|i| i.conn == conn && i.stream == offer.stream) {
            return false;
        }
        h.offered = BlockCount(offer.volume_blocks);
        h.offered_newest(offer);
        h.volume.relay_resized(h.offered);
        if let Some(follow) = self.follow(id, conn, offer.stream, &offer.history) {
            self.go_on(id, follow);
        } else {
            self.keep_pending(id, conn, offer.clone());
        }
        self.settle(id);
        true
    }
}
