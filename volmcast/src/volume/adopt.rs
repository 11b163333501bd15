//! Sets that the save volume holds behind the head of an old mailbox slot.
//!
//! When one of the two slots is damaged it may have been the newer one, and what it had committed
//! was sent to children. A primary that went on from the older slot would give the numbers of those
//! sets to other content: replicas and primary would differ and nobody would know. So every whole
//! set that follows the head is taken as finished. That is right for a slot that was torn by a
//! crash as well: a set's header is appended only after the volume was synced since the cut, and
//! the next commit syncs the save volume before it names the set.

use rcp::proto::delta::{Chunk, ChunkListSum, SetFlags, SetHeader, StepId};

use super::Volume;
use super::recover::ReadFile;
use crate::io::FileId;
use crate::save::record::HEADER_LEN;
use crate::save::{RecordHeader, RecordKind, RecordMeta};
use crate::units::{BlockCount, LogPos};

/// A record that was read and holds what it says.
enum Content {
    Pad,
    Chunk(Box<Chunk>),
    End(Box<SetHeader>),
}

impl Volume {
    /// Enters the whole sets from `head` on; the number of them.
    pub(super) fn adopt_sets(&mut self, head: LogPos, read: ReadFile<'_>) -> u64 {
        let mut adopted = 0;
        let mut pos = head;
        // Of the set that is being read: its records, its step, its checksum.
        let mut records: Vec<(RecordMeta, Content)> = Vec::new();
        // The head may lie within a set: room was made while it was written.
        let mut open: Option<(StepId, ChunkListSum, u32)> =
            self.log.open_step().map(|s| (s.id, s.sum.clone(), s.chunks));
        while let Some((meta, content)) = self.readable_record(pos, read) {
            let ring = self.log.ring();
            pos = match &content {
                Content::Pad => pos.plus(ring.until_wrap(pos)),
                _ => meta.end(),
            };
            if pos.since(self.log.tail()) > ring.capacity() {
                break;
            }
            let state = self.log.state();
            match &content {
                Content::Pad => {}
                Content::Chunk(c) => {
                    let step = c.step();
                    let (id, sum, n) = open.get_or_insert_with(|| (step, ChunkListSum::new(), 0));
                    let header = c.header();
                    let next = header.number.0 == *n && *id == step && step.base == state;
                    // Another writer's sets were never ours to finish.
                    let next = next && Some(step.generation) == self.want.generation();
                    if !next || sum.add(header.number, header.body_crc).is_err() {
                        break;
                    }
                    *n += 1;
                }
                Content::End(header) => {
                    let whole = match open.take() {
                        Some((id, sum, n)) => {
                            id == header.step
                                && n == header.chunk_count
                                && sum.total(n) == Some(header.chunk_list_crc)
                        }
                        None => {
                            header.chunk_count == 0
                                && header.step.base == state
                                && Some(header.step.generation) == self.want.generation()
                        }
                    };
                    if !whole {
                        break;
                    }
                    self.want.visible = header.step.to;
                    self.want.merged = header.step.to;
                    self.want.blocks = BlockCount(header.volume_blocks);
                    adopted += 1;
                }
            }
            let ended = matches!(content, Content::End(_));
            records.push((meta, content));
            if ended {
                for (meta, content) in records.drain(..) {
                    self.adopt(meta, content);
                }
            }
        }
        adopted
    }

    fn adopt(&mut self, meta: RecordMeta, content: Content) {
        let (pos, end) = (meta.pos, meta.end());
        match content {
            Content::Pad => {
                let after = pos.plus(self.log.ring().until_wrap(pos));
                self.log.skip_to(after);
            }
            Content::Chunk(c) => {
                self.log.enter_scanned(meta);
                self.scanned_header(pos, end, c.header());
                for e in c.extents() {
                    self.changes.note(c.step().to, e.block, u64::from(e.count));
                }
            }
            Content::End(header) => {
                if header.flags.contains(SetFlags::BITMAP_ONLY) {
                    // Its blocks were known to the slot that is damaged.
                    self.changes_reset(header.step.to);
                }
                self.log.enter_scanned(meta);
                self.scanned_end(pos, end, *header);
            }
        }
    }

    /// The record at `pos`, if there is one and it is undamaged.
    fn readable_record(&self, pos: LogPos, read: ReadFile<'_>) -> Option<(RecordMeta, Content)> {
        let ring = self.log.ring();
        let at = ring.offset(pos);
        let b = read(FileId::Save, at, HEADER_LEN).ok()?;
        let h = RecordHeader::decode(&b, self.cfg.volume, pos).ok()?;
        let meta = RecordMeta {
            pos,
            kind: h.kind,
            body_len: h.body_len,
            to: h.to,
            chunk: h.chunk,
            cached: None,
        };
        if h.kind == RecordKind::Pad {
            return Some((meta, Content::Pad));
        }
        if meta.end().since(pos) > ring.until_wrap(pos) {
            return None;
        }
        let body = read(FileId::Save, at + HEADER_LEN as u64, h.body_len as usize).ok()?;
        let content = match h.kind {
            RecordKind::SetEnd => Content::End(Box::new(SetHeader::parse(&body).ok()?)),
            _ => Content::Chunk(Box::new(Chunk::parse(body).ok()?)),
        };
        Some((meta, content))
    }
}
