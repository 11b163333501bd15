//! What a replica or relay receives: chunks in order, then the set header.
//!
//! A chunk is appended to the save volume and is at once available to children (cut-through); it is
//! acknowledged by the commit that makes it durable. Duplicates are ignored, holes refused: the
//! sender is told the position and continues there.

use rcp::proto::delta::{Chunk, SetFlags, SetHeader, StepId};
use rcp::proto::ids::{ChunkNumber, SetNumber};

use super::{Event, Role, Volume};
use crate::history::line_of;
use crate::save::RecordKind;
use crate::units::BlockCount;
use crate::view::Layer;

/// Why what came cannot be taken. The session goes on; the stream starts again at the position.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IntakeError {
    /// It does not follow what is here.
    #[error("set {base}→{to} does not follow the state {state} held here")]
    NotNext {
        /// State it builds on.
        base: SetNumber,
        /// State it leads to.
        to: SetNumber,
        /// State held.
        state: SetNumber,
    },
    /// A chunk is missing before it.
    #[error("chunk {got} of set {to} came where chunk {expected} was expected")]
    Hole {
        /// The set.
        to: SetNumber,
        /// What came.
        got: ChunkNumber,
        /// What should have come.
        expected: ChunkNumber,
    },
    /// The set header does not fit the chunks.
    #[error("the header of set {to} does not fit its chunks ({what})")]
    Mismatch {
        /// The set.
        to: SetNumber,
        /// What differs.
        what: &'static str,
    },
    /// It is of a writer that this node does not follow.
    #[error("set {to} is of another writer's line than the one that is followed here")]
    OtherLine {
        /// The set.
        to: SetNumber,
    },
    /// More came than was granted.
    #[error("the sender sent more than it was granted: the save volume has no room")]
    Overrun,
    /// The volume cannot take anything now.
    #[error("{0}")]
    Stopped(String),
}

/// Receiving side.
#[derive(Debug, Default)]
pub(super) struct Intake {
    /// Bytes of bodies appended since the stream was (re)attached.
    received: u64,
    /// Credit told so far: it never shrinks within one attachment.
    granted: u64,
    /// Index of the step that is arriving.
    pub(super) building: Option<Layer>,
    /// The open step was joined in its middle (its beginning was folded and given back).
    pub(super) partial: bool,
    pub(super) last_at: rcp::proto::clock::Mono,
    /// A stream from a parent is running.
    pub(super) runs: bool,
}

impl Volume {
    /// A session with the parent was set up: counts for credit start again.
    pub fn intake_attached(&mut self) {
        self.intake.received = 0;
        self.intake.granted = 0;
        self.stage_attached();
        // It may be another parent.
        self.digest.compare.hopeless = false;
    }

    /// Whether a stream from a parent is running: while there is none, nothing can come, and nobody
    /// waits in vain.
    pub fn intake_runs(&mut self, runs: bool) {
        if runs && !std::mem::replace(&mut self.intake.runs, runs) {
            self.intake.last_at = self.desk.now;
        }
        self.intake.runs = runs;
    }

    /// Total bytes of chunk and set-header bodies that the parent may have sent since it was
    /// attached. Rises as what came becomes durable and room is free.
    pub fn intake_credit(&mut self) -> u64 {
        self.intake.granted = self.intake_grantable();
        self.intake.granted
    }

    /// What that total can be now.
    #[must_use]
    pub fn intake_grantable(&self) -> u64 {
        if self.stage_is_open() {
            // First the blocks that changed.
            return self.intake.granted;
        }
        let room = self.intake_room();
        let pending = self.log.head().since(self.durable.log_head);
        let grant = self.cfg.window.saturating_sub(pending).min(room);
        self.intake.granted.max(self.intake.received + grant)
    }

    /// Bytes that the save volume can take.
    pub(super) fn intake_room(&self) -> u64 {
        let room = self.log.free().saturating_sub(self.log.ring().capacity() / 16);
        room - room / 8
    }

    /// Bytes of bodies that came since the stream was attached.
    #[must_use]
    pub fn intake_received(&self) -> u64 {
        self.intake.received
    }

    /// What is here already took credit and no room: more may be granted at once.
    fn intake_skipped(&mut self, len: u64) {
        self.intake.received += len;
        self.desk.event(Event::Room);
    }

    fn on_our_line(&self, id: StepId) -> Result<(), IntakeError> {
        match line_of(&self.want.history, id.to) {
            Some(g) if g != id.generation => Err(IntakeError::OtherLine { to: id.to }),
            _ => Ok(()),
        }
    }

    /// A chunk came.
    ///
    /// # Errors
    /// [`IntakeError`]: the stream must be attached again at the position that is held.
    pub fn receive_chunk(&mut self, chunk: &Chunk) -> Result<(), IntakeError> {
        if let Some(why) = &self.failed {
            return Err(IntakeError::Stopped(why.clone()));
        }
        if self.stage_is_open() {
            return self.stage_early_chunk(chunk);
        }
        let (id, n) = (chunk.step(), chunk.number());
        let len = chunk.bytes().len() as u64;
        let state = self.log.state();
        if id.to <= state {
            self.intake_skipped(len);
            return Ok(());
        }
        self.on_our_line(id)?;
        let open = self.log.open_step().map(|s| (s.id, s.chunks));
        let expected = match open {
            Some((open, chunks)) if open == id => chunks,
            Some((open, _)) if open.to == id.to && id.attempt > open.attempt => {
                // A newer attempt of the same set: leftovers never mix.
                self.log.abandon_open_step();
                self.intake.building = None;
                self.intake.partial = false;
                self.want.log_base = self.log.base();
                0
            }
            Some(_) => {
                return Err(IntakeError::NotNext { base: id.base, to: id.to, state });
            }
            None if id.base <= state => 0,
            None => return Err(IntakeError::NotNext { base: id.base, to: id.to, state }),
        };
        if n.0 < expected {
            self.intake_skipped(len);
            return Ok(());
        }
        if n.0 > expected {
            return Err(IntakeError::Hole { to: id.to, got: n, expected: ChunkNumber(expected) });
        }
        let Some((pos, end)) = self.append(RecordKind::Chunk, id.to, n, chunk.bytes()) else {
            return Err(IntakeError::Overrun);
        };
        self.intake.received += len;
        self.intake.last_at = self.desk.now;
        self.log.enter_chunk(pos, id, n, chunk.body_crc(), end.since(pos));
        if matches!(self.cfg.role, Role::Replica { .. }) {
            let layer = self.intake.building.get_or_insert_with(|| Layer::new(id, pos));
            layer.push(pos, chunk);
            self.hash_chunk_at(pos, chunk.bytes().clone());
        }
        self.desk.event(Event::Sendable);
        self.pump();
        Ok(())
    }

    /// The header that closes a step came.
    ///
    /// # Errors
    /// As for [`Volume::receive_chunk`].
    pub fn receive_set_end(&mut self, header: &SetHeader) -> Result<(), IntakeError> {
        if let Some(why) = &self.failed {
            return Err(IntakeError::Stopped(why.clone()));
        }
        if self.stage_is_open() {
            return self.stage_early_end(header);
        }
        let bytes = header.to_bytes();
        let (id, state) = (header.step, self.log.state());
        if id.to <= state {
            self.intake_skipped(bytes.len() as u64);
            return Ok(());
        }
        self.on_our_line(id)?;
        if header.flags.contains(SetFlags::BITMAP_ONLY) {
            let reason = format!("set {} came without data", id.to);
            self.desk.event(Event::NeedsSeed { reason });
            return Err(IntakeError::NotNext { base: id.base, to: id.to, state });
        }
        match self.log.open_step() {
            Some(s) if s.id == id => {
                if s.chunks != header.chunk_count {
                    return Err(IntakeError::Mismatch { to: id.to, what: "number of chunks" });
                }
                let sum = s.sum.total(header.chunk_count);
                if !self.intake.partial && sum != Some(header.chunk_list_crc) {
                    return Err(IntakeError::Mismatch { to: id.to, what: "checksum of chunks" });
                }
            }
            None if header.chunk_count == 0 && id.base <= state => {}
            _ => return Err(IntakeError::NotNext { base: id.base, to: id.to, state }),
        }
        let n = ChunkNumber(header.chunk_count);
        let Some((pos, end)) = self.append(RecordKind::SetEnd, id.to, n, &bytes) else {
            return Err(IntakeError::Overrun);
        };
        self.intake.received += bytes.len() as u64;
        self.intake.last_at = self.desk.now;
        self.intake.partial = false;
        self.log.enter_end(pos, end, *header);
        let blocks = BlockCount(header.volume_blocks);
        self.history_table.arrived(header);
        self.digest.tell(header);
        if matches!(self.cfg.role, Role::Replica { .. }) {
            let mut layer = self.intake.building.take().unwrap_or_else(|| Layer::new(id, pos));
            layer.seal(header.cut_time, blocks);
            self.playback.complete(layer, end);
        } else {
            self.want.blocks = blocks;
        }
        self.desk.event(Event::Sendable);
        self.pump();
        Ok(())
    }
}
