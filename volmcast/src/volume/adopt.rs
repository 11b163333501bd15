//! Sets that the save volume holds behind the head of an old mailbox slot.
//!
//! When one of the two slots is damaged it may have been the newer one, and what it had committed
//! was sent to children. A primary that went on from the older slot would give the numbers of those
//! sets to other content: replicas and primary would differ and nobody would know. So every whole
//! set that follows the head is taken as finished. That is right for a slot that was torn by a
//! crash as well: a set's header is appended only after the volume was synced since the cut, and
//! the next commit syncs the save volume before it names the set.
//!
//! A replica does the same, for another reason: what the newer slot had shown may be in its base, so
//! that the older state can no longer be read there. What the records say is the newest state of
//! which the base may hold anything; the replica is hidden until it has come to it again.

use rcp::proto::delta::{Chunk, ChunkListSum, SetFlags, SetHeader, StepId};
use rcp::proto::ids::SetNumber;

use super::recover::ReadFile;
use super::{Role, Volume};
use crate::io::FileId;
use crate::save::record::HEADER_LEN;
use crate::save::{RecordHeader, RecordKind, RecordMeta};
use crate::units::{BlockCount, LogPos};

/// What the records behind a head say.
pub(super) struct Beyond {
    /// Where they end.
    pub(super) end: LogPos,
    /// Newest set whose header is among them.
    pub(super) whole: SetNumber,
    /// Newest set of which there is anything.
    pub(super) any: SetNumber,
    /// The newest header of our own line.
    pub(super) newest: Option<SetHeader>,
}

impl Beyond {
    /// Nothing.
    pub(super) fn at(head: LogPos) -> Self {
        Self { end: head, whole: SetNumber::ZERO, any: SetNumber::ZERO, newest: None }
    }
}

/// A record that was read and holds what it says.
enum Content {
    Pad,
    Chunk(Box<Chunk>),
    End(Box<SetHeader>),
}

/// A set that is being read: its step, the checksum of its chunks so far, and how many those are.
type Open = (StepId, ChunkListSum, u32);

impl Content {
    fn step(&self) -> Option<StepId> {
        match self {
            Self::Pad => None,
            Self::Chunk(c) => Some(c.step()),
            Self::End(header) => Some(header.step),
        }
    }

    /// It is the first record of a set: of another attempt, of the same once more, or without its data.
    fn begins_anew(&self, open: Option<&Open>) -> bool {
        match self {
            Self::Pad => false,
            Self::Chunk(c) => {
                let step = c.step();
                let older =
                    |(id, ..): &Open| id.generation == step.generation && id.attempt > step.attempt;
                c.number().0 == 0 && !open.is_some_and(older)
            }
            Self::End(header) => header.chunk_count == 0,
        }
    }

    /// It is the next record of the set that is `open`, or the first of the one after `state`.
    fn follows(&self, open: &mut Option<Open>, state: SetNumber) -> bool {
        match self {
            Self::Pad => true,
            Self::Chunk(c) => {
                let (step, header) = (c.step(), c.header());
                let (id, sum, n) = open.get_or_insert_with(|| (step, ChunkListSum::new(), 0));
                let next = header.number.0 == *n && *id == step && step.base == state;
                *n += 1;
                next && sum.add(header.number, header.body_crc).is_ok()
            }
            Self::End(header) => match open.take() {
                Some((id, sum, n)) => {
                    id == header.step
                        && n == header.chunk_count
                        && sum.total(n) == Some(header.chunk_list_crc)
                }
                None => header.chunk_count == 0 && header.step.base == state,
            },
        }
    }
}

impl Volume {
    /// What the records say that follow each other from `head` on, damaged or not in their bodies.
    pub(super) fn look_beyond(&self, head: LogPos, read: ReadFile<'_>) -> Beyond {
        let ring = self.log.ring();
        let mut b = Beyond::at(head);
        while b.end.since(self.durable.log_tail) <= ring.capacity() {
            let Ok(bytes) = read(FileId::Save, ring.offset(b.end), HEADER_LEN) else { break };
            let Ok(h) = RecordHeader::decode(&bytes, self.cfg.volume, b.end) else { break };
            match h.kind {
                RecordKind::Pad => {
                    b.end = b.end.plus(ring.until_wrap(b.end));
                    continue;
                }
                RecordKind::SetEnd => {
                    b.whole = b.whole.max(h.to);
                    let at = ring.offset(b.end) + HEADER_LEN as u64;
                    let body = read(FileId::Save, at, h.body_len as usize).ok();
                    let header = body.and_then(|body| SetHeader::parse(&body).ok());
                    let ours = |h: &SetHeader| Some(h.step.generation) == self.want.generation();
                    b.newest = header.filter(ours).or(b.newest);
                }
                RecordKind::Chunk => {}
            }
            b.any = b.any.max(h.to);
            let (pos, kind, to, chunk) = (b.end, h.kind, h.to, h.chunk);
            b.end = RecordMeta { pos, kind, body_len: h.body_len, to, chunk, cached: None }.end();
        }
        b
    }

    /// At a primary whose log does not fit the old slot, or has a set behind its head that cannot be
    /// read: the numbers of the sets that follow its head are used up, and what they changed is in the
    /// content. Their data is given up with the log.
    pub(super) fn adopt_numbers(&mut self, newest: SetNumber, blocks: BlockCount) {
        let primary = matches!(self.cfg.role, Role::Primary { .. });
        if primary && newest > self.want.visible {
            self.want.visible = newest;
            self.want.merged = newest;
            self.want.blocks = blocks;
        }
        if primary {
            // Of some of them nobody knows which blocks they changed.
            self.changes_reset(self.want.visible);
        }
    }

    /// Blocks of the chunks that were entered of the open set; `None` if one cannot be read.
    fn blocks_of_open(&self, read: ReadFile<'_>) -> Option<Vec<(u64, u64)>> {
        let Some(step) = self.log.open_step() else { return Some(Vec::new()) };
        let mut blocks = Vec::new();
        for r in self.log.records_from(step.first).filter(|r| r.kind == RecordKind::Chunk) {
            let at = self.log.ring().offset(r.pos) + HEADER_LEN as u64;
            let body = read(FileId::Save, at, r.body_len as usize).ok()?;
            let chunk = Chunk::parse(body).ok()?;
            blocks.extend(chunk.extents().map(|e| (e.block, u64::from(e.count))));
        }
        Some(blocks)
    }

    /// Enters the whole sets from `head` on; the number of them.
    pub(super) fn adopt_sets(&mut self, head: LogPos, read: ReadFile<'_>) -> u64 {
        let mut adopted = 0;
        let primary = matches!(self.cfg.role, Role::Primary { .. });
        // The slot that is damaged had noted these.
        let mut earlier = Some(self.blocks_of_open(read)).filter(|_| primary);
        let mut pos = head;
        // Of the set that is being read: its records, its step, its checksum.
        let mut records: Vec<(RecordMeta, Content)> = Vec::new();
        // The head may lie within a set: room was made while it was written.
        let mut open: Option<Open> = self.log.open_step().map(|s| (s.id, s.sum.clone(), s.chunks));
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
            if content.step().is_some_and(|s| Some(s.generation) != self.want.generation()) {
                // Another writer's sets were never ours to finish.
                (open, records) = (None, Vec::new());
                continue;
            }
            if content.begins_anew(open.as_ref()) {
                // What came of it before was given up.
                (open, records) = (None, Vec::new());
            }
            if !content.follows(&mut open, state) {
                break;
            }
            match &content {
                Content::Pad | Content::Chunk(_) => {}
                Content::End(header) => {
                    if primary {
                        self.want.visible = header.step.to;
                        self.want.merged = header.step.to;
                        self.want.blocks = BlockCount(header.volume_blocks);
                    }
                    match earlier.take() {
                        None => {}
                        Some(None) => self.changes_reset(header.step.to),
                        Some(Some(blocks)) => {
                            for (first, count) in blocks {
                                self.changes.note(header.step.to, first, count);
                            }
                        }
                    }
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

    /// At a primary: of the sets behind the head of an old slot the next one could not be taken over,
    /// because a record of it cannot be read. It was sent, perhaps: its number must not come again.
    pub(super) fn give_up_unreadable(&mut self, read: ReadFile<'_>) {
        if !matches!(self.cfg.role, Role::Primary { .. }) {
            return;
        }
        if let Some((newest, blocks, end)) = self.unreadable_sets(read) {
            let tail = self.log.tail();
            self.log.skip_to(end);
            self.adopt_numbers(newest, blocks);
            self.log_damaged(tail, &format!("a record of set {newest} or before cannot be read"));
        }
    }

    /// The newest of the sets that follow what was entered, if a record of the first of them cannot be
    /// read: its number, the size of the volume in it, and where it ends. What is left of an attempt
    /// that was given up is none.
    fn unreadable_sets(&self, read: ReadFile<'_>) -> Option<(SetNumber, BlockCount, LogPos)> {
        let ring = self.log.ring();
        let (mut found, mut blocks, mut unreadable) = (None, self.want.blocks, false);
        let open = self.log.open_step();
        let (mut id, mut chunks) = (open.map(|s| s.id), open.map_or(0, |s| s.chunks));
        let mut pos = self.log.head();
        while pos.since(self.log.tail()) <= ring.capacity() {
            let at = ring.offset(pos);
            let Ok(b) = read(FileId::Save, at, HEADER_LEN) else { break };
            let Ok(h) = RecordHeader::decode(&b, self.cfg.volume, pos) else { break };
            if h.kind == RecordKind::Pad {
                pos = pos.plus(ring.until_wrap(pos));
                continue;
            }
            let body = read(FileId::Save, at + HEADER_LEN as u64, h.body_len as usize).ok();
            // Of both kinds of records: the chunks before it.
            if h.chunk.0 == 0 {
                // What came before of it was given up.
                (id, chunks) = (None, 0);
            }
            let follows = h.chunk.0 == chunks;
            let (kind, body_len, to, chunk) = (h.kind, h.body_len, h.to, h.chunk);
            pos = RecordMeta { pos, kind, body_len, to, chunk, cached: None }.end();
            let mut size = blocks;
            let step = if kind == RecordKind::SetEnd {
                let header = body.and_then(|b| SetHeader::parse(&b).ok());
                size = header.as_ref().map_or(size, |h| BlockCount(h.volume_blocks));
                header.map(|h| h.step)
            } else {
                chunks += 1;
                body.and_then(|b| Chunk::parse(b).ok()).map(|c| c.step())
            };
            unreadable |= step.is_none();
            let same = step.is_none() || id.is_none() || id == step;
            if !follows || !same {
                break;
            }
            id = id.or(step);
            if kind == RecordKind::SetEnd {
                let ours = id.is_none_or(|s| Some(s.generation) == self.want.generation());
                if ours && !unreadable {
                    break;
                }
                if ours {
                    blocks = size;
                    found = Some((to, blocks, pos));
                }
                (id, chunks) = (None, 0);
            }
        }
        found
    }

    fn adopt(&mut self, meta: RecordMeta, content: Content) {
        let (pos, end) = (meta.pos, meta.end());
        let primary = matches!(self.cfg.role, Role::Primary { .. });
        match content {
            Content::Pad => {
                let after = pos.plus(self.log.ring().until_wrap(pos));
                self.log.skip_to(after);
            }
            Content::Chunk(c) => {
                self.drop_given_up(c.step(), c.number());
                self.log.enter_scanned(meta);
                self.scanned_chunk(pos, end, &c);
                // A replica notes what it merges.
                for e in c.extents().filter(|_| primary) {
                    self.changes.note(c.step().to, e.block, u64::from(e.count));
                }
            }
            Content::End(header) => {
                if primary && header.flags.contains(SetFlags::BITMAP_ONLY) {
                    // Its blocks were known to the slot that is damaged.
                    self.changes_reset(header.step.to);
                }
                self.drop_given_up(header.step, meta.chunk);
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
