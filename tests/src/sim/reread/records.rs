//! The records of a save volume, and the attempts at steps that they are of.

use rcp::proto::delta::{Chunk, ChunkHeader, ChunkListSum, SetHeader, StepId};
use rcp::proto::ids::{SetNumber, VolumeId};
use volmcast::save::{RecordHeader, RecordKind};
use volmcast::units::LogPos;

/// Bytes of a record's header, and what records are aligned to.
const HEADER: u64 = 64;

/// A file that is a ring, and whose it is.
pub(super) struct Save<'a> {
    pub bytes: &'a [u8],
    pub capacity: u64,
    pub volume: VolumeId,
}

/// A record whose header is whole.
pub(super) struct Record {
    pub pos: LogPos,
    pub end: LogPos,
    pub to: SetNumber,
    /// Of a chunk; for a set header, how many there are.
    pub number: u32,
    pub body: Body,
}

/// What stands behind the header.
pub(super) enum Body {
    /// Its header, and all of it if that is whole.
    Chunk(Option<ChunkHeader>, Option<Chunk>),
    End(Option<SetHeader>),
}

impl Record {
    /// The step that it is of, if its own header can be read.
    pub(super) fn step(&self) -> Option<StepId> {
        match &self.body {
            Body::Chunk(h, _) => h.as_ref().map(|h| h.step),
            Body::End(h) => h.as_ref().map(|h| h.step),
        }
    }

    pub(super) fn is_end(&self) -> bool {
        matches!(self.body, Body::End(_))
    }

    /// All of it can be read.
    pub(super) fn is_whole(&self) -> bool {
        matches!(&self.body, Body::Chunk(_, Some(_)) | Body::End(Some(_)))
    }
}

/// What stands in the ring from one position on.
pub(super) struct Walk {
    pub records: Vec<Record>,
    /// Behind the last of them, and behind a pad that follows it.
    pub end: LogPos,
    /// One does not fit where it stands.
    pub crosses: bool,
}

impl Save<'_> {
    fn offset(&self, pos: LogPos) -> usize {
        usize::try_from(pos.0 % self.capacity).unwrap_or(usize::MAX)
    }

    /// The records that follow each other from `from` on, as long as one begins before `until`.
    pub(super) fn walk(&self, from: LogPos, until: LogPos) -> Walk {
        let mut w = Walk { records: Vec::new(), end: from, crosses: false };
        while w.end < until {
            let at = self.offset(w.end);
            let left = self.capacity - at as u64;
            let Some(head) = self.bytes.get(at..at + HEADER as usize) else { break };
            let Ok(h) = RecordHeader::decode(head, self.volume, w.end) else { break };
            if h.kind == RecordKind::Pad {
                w.end = LogPos(w.end.0 + left);
                continue;
            }
            let len = u64::from(h.body_len) + HEADER;
            let end = LogPos(w.end.0 + len.next_multiple_of(HEADER));
            w.crosses |= end.0 - w.end.0 > left;
            let body = self.bytes.get(at + HEADER as usize..at + usize::try_from(len).unwrap_or(0));
            let body = body.unwrap_or_default();
            let body = match h.kind {
                RecordKind::SetEnd => Body::End(SetHeader::parse(body).ok()),
                _ => Body::Chunk(
                    ChunkHeader::parse(body).ok(),
                    Chunk::parse(bytes::Bytes::copy_from_slice(body)).ok(),
                ),
            };
            w.records.push(Record { pos: w.end, end, to: h.to, number: h.chunk.0, body });
            w.end = end;
        }
        w
    }
}

/// The step that a record's body says it is of.
pub(super) fn step_of(body: &[u8], is_end: bool) -> Option<StepId> {
    match is_end {
        true => SetHeader::parse(body).ok().map(|h| h.step),
        false => ChunkHeader::parse(body).ok().map(|h| h.step),
    }
}

/// Records of one step that follow each other without a hole: one attempt at it.
pub(super) struct Run<'a> {
    pub id: StepId,
    pub records: Vec<&'a Record>,
}

impl<'a> Run<'a> {
    /// Cuts records into runs: one ends with its set header, or where something else begins.
    pub(super) fn cut(records: impl IntoIterator<Item = &'a Record>) -> Vec<Self> {
        let mut runs: Vec<Self> = Vec::new();
        for r in records {
            let Some(id) = r.step() else { break };
            match runs.last_mut().filter(|run| run.id == id && run.next() == Some(r.number)) {
                Some(run) => run.records.push(r),
                None => runs.push(Self { id, records: vec![r] }),
            }
        }
        runs
    }

    /// The number that the next record of it has; none after its set header.
    fn next(&self) -> Option<u32> {
        self.header().is_none().then(|| self.chunks())
    }

    /// The number behind its last chunk.
    pub(super) fn chunks(&self) -> u32 {
        let chunks = self.records.iter().filter(|r| !r.is_end());
        chunks.map(|r| r.number + 1).next_back().unwrap_or(0)
    }

    /// Its set header.
    pub(super) fn header(&self) -> Option<&SetHeader> {
        match &self.records.last()?.body {
            Body::End(h) => h.as_ref(),
            Body::Chunk(..) => None,
        }
    }

    /// Behind its set header.
    pub(super) fn end(&self) -> Option<LogPos> {
        self.header().and_then(|_| self.records.last()).map(|r| r.end)
    }

    pub(super) fn first(&self) -> &'a Record {
        self.records[0]
    }

    /// It has all its chunks, and they are those that its set header means.
    pub(super) fn is_proven(&self) -> bool {
        let mut sum = ChunkListSum::new();
        for r in &self.records {
            if let Body::Chunk(Some(h), _) = &r.body
                && sum.add(h.number, h.body_crc).is_err()
            {
                return false;
            }
        }
        let chunks = self.records.iter().filter(|r| !r.is_end()).count();
        self.header().is_some_and(|h| {
            let all = usize::try_from(h.chunk_count) == Ok(chunks);
            all && (chunks == 0 || sum.total(h.chunk_count) == Some(h.chunk_list_crc))
        })
    }
}
