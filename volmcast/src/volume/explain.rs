//! What a volume that was just opened found, for somebody who only wants to know (`rcpctl fsck`).

use rcp::proto::delta::{Chunk, DeltaError, SetHeader};
use rcp::proto::ids::{ChunkNumber, SetNumber};

use super::Volume;
use super::recover::ReadFile;
use crate::bitmap::BlockSet;
use crate::bitmap::changes::{changed_after, entries};
use crate::io::{FileId, IoError};
use crate::mailbox::TableMark;
use crate::save::{RecordKind, RecordMeta};
use crate::units::{BlockCount, BlockIndex, LogPos};

/// What the save volume holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SaveContent {
    /// Oldest live position.
    pub tail: LogPos,
    /// End of what counts.
    pub head: LogPos,
    /// Bytes in use.
    pub used: u64,
    /// Bytes of the ring.
    pub capacity: u64,
    /// Chunks and set headers between the two.
    pub records: u64,
    /// Whole sets between the two, and the oldest state that they start from and the newest that
    /// they lead to.
    pub sets: u64,
    /// State before the oldest of them.
    pub oldest: SetNumber,
    /// State after the newest of them.
    pub newest: SetNumber,
    /// The set that is there in part, and how many of its chunks.
    pub open: Option<(SetNumber, ChunkNumber)>,
    /// Records behind the head that nothing acknowledged: their bytes, and the newest set of which
    /// there is anything.
    pub beyond: Option<(u64, SetNumber)>,
}

/// A stored body that is not what was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadBody {
    /// Where its record begins.
    pub pos: LogPos,
    /// The set it belongs to.
    pub to: SetNumber,
    /// What is wrong.
    pub why: String,
}

/// The list of changed blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChangesContent {
    /// Entries.
    pub entries: usize,
    /// Blocks that they name, each once.
    pub blocks: BlockCount,
}

impl Volume {
    /// What the save volume holds. To be asked before anything else is asked of the volume.
    #[must_use]
    pub fn save_content(&self, read: ReadFile<'_>) -> SaveContent {
        let log = &self.log;
        let beyond = self.look_beyond(log.head(), read);
        let bytes = beyond.end.since(log.head());
        SaveContent {
            tail: log.tail(),
            head: log.head(),
            used: log.used(),
            capacity: log.ring().capacity(),
            records: log.records_from(log.tail()).count() as u64,
            sets: log.steps().filter(|s| s.end.is_some()).count() as u64,
            oldest: log.base(),
            newest: log.state(),
            open: self.open_step().map(|(id, next)| (id.to, next)),
            beyond: (bytes > 0).then_some((bytes, beyond.any)),
        }
    }

    /// Reads every record of the save volume, and names those whose body is damaged, up to `most`.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn damaged_bodies(&self, most: usize, read: ReadFile<'_>) -> Result<Vec<BadBody>, IoError> {
        let mut bad = Vec::new();
        for r in self.log.records_from(self.log.tail()) {
            if bad.len() >= most {
                break;
            }
            let at = self.log.body_offset(r.pos);
            let body = read(FileId::Save, at, r.body_len as usize)?;
            if let Err(e) = parse(r, body) {
                bad.push(BadBody { pos: r.pos, to: r.to, why: e.to_string() });
            }
        }
        Ok(bad)
    }

    /// Reads the list of changed blocks as a catch-up would.
    ///
    /// # Errors
    /// What is wrong with it, or that the file cannot be read.
    pub fn changes_content(&self, read: ReadFile<'_>) -> Result<ChangesContent, String> {
        let mark = &self.durable.changes;
        let len = usize::try_from(mark.bytes).map_err(|_| "it is too long".to_owned())?;
        // A slot that passed its checksum names a range of the file, which has two places.
        if mark.bytes > self.cfg.changes.max(super::MIN_CHANGES) * 2 {
            return Err(format!("the mailbox names {} bytes of it", mark.bytes));
        }
        let region = read(FileId::Changes, mark.offset, len).map_err(|e| e.to_string())?;
        let (volume, epoch) = (self.cfg.volume, mark.epoch);
        let found = entries(&region, volume, epoch).map_err(|e| e.to_string())?;
        let end = self.want.blocks;
        let all = changed_after(&region, volume, epoch, SetNumber::ZERO, end);
        let blocks = all.map_err(|e| e.to_string())?.count();
        Ok(ChangesContent { entries: found.len(), blocks })
    }

    /// Blocks of steps that are not merged: base and table may hold any part of them.
    #[must_use]
    pub fn unmerged_blocks(&self) -> BlockSet {
        let mut set = BlockSet::new();
        for layer in self.playback.layers_below(SetNumber(u64::MAX)) {
            for r in &layer.runs {
                set.insert_range(BlockIndex(r.block), BlockCount(u64::from(r.count)));
            }
        }
        set
    }

    /// The mailbox says that there is a table of hashes, and what is there cannot be used.
    #[must_use]
    pub fn table_is_lost(&self) -> bool {
        self.durable.digest.table != TableMark::Absent
            && self.want.digest.table == TableMark::Absent
    }

    /// Each block of the base must be what the table says, but for [`Self::unmerged_blocks`].
    #[must_use]
    pub fn is_provable(&self) -> bool {
        self.is_hashed() && self.durable.seed.is_none()
    }
}

fn parse(r: &RecordMeta, body: bytes::Bytes) -> Result<(), DeltaError> {
    match r.kind {
        RecordKind::Chunk => Chunk::parse(body).map(drop),
        RecordKind::SetEnd => SetHeader::parse(&body).map(drop),
        RecordKind::Pad => Ok(()),
    }
}
