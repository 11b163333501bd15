//! What must hold of a log between two calls, worked out anew from its records alone. Slow: the
//! simulator asks, a node does not.

use rcp::proto::delta::{SetFlags, SetHeader};
use rcp::proto::ids::{ChunkNumber, SetNumber};

use super::log::{Located, Log, RecordMeta, Step};
use super::ring::ALIGN;
use super::{RecordKind, Ring};
use crate::units::LogPos;

fn that(holds: bool, what: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(what()) }
}

impl Log {
    /// Whether everything that is kept about the records fits the records.
    ///
    /// # Errors
    /// What does not, in words.
    pub fn audit(&self) -> Result<(), String> {
        self.audit_records()?;
        let (mut left, mut before) = (self.records_from(LogPos(0)).peekable(), None);
        for s in self.steps() {
            let mut own = Vec::new();
            while let Some(r) = left
                .next_if(|r| r.to == s.id.to && s.end.as_ref().is_none_or(|(_, end)| r.pos < *end))
            {
                own.push(r);
            }
            that(before.is_none_or(|b| b == s.id.base), || {
                format!("the step {:?} does not follow state {before:?}", s.id)
            })?;
            before = Some(s.id.to);
            audit_step(s, &own).map_err(|e| format!("step to {}: {e}", s.id.to))?;
            self.audit_places(s, &own).map_err(|e| format!("step to {}: {e}", s.id.to))?;
        }
        that(left.peek().is_none(), || "a record belongs to no step".to_owned())?;
        let open = self.steps().filter(|s| s.end.is_none()).count();
        that(open <= 1, || format!("{open} steps are open"))?;
        let (base, state) = (self.base(), self.state());
        that(base <= state, || format!("the log begins at {base} and ends at {state}"))?;
        let at_end = self.locate(state, ChunkNumber(0));
        let next = self.open_step().and_then(|s| self.record_from(s.first)).map(|r| r.pos);
        let expected = next.unwrap_or(self.head());
        // Of an open step the first records may have been given back.
        let gone = next.is_some() && at_end == Located::Gone;
        that(gone || at_end == Located::At(expected), || {
            format!("who holds all up to {state} goes on at {expected:?}, not at {at_end:?}")
        })?;
        let beyond = self.open_step().map_or(state, |s| s.id.to).next();
        let ahead = self.locate(beyond, ChunkNumber(0));
        that(ahead == Located::Ahead, || format!("{beyond} is not here, and it is {ahead:?}"))?;
        if base > SetNumber::ZERO && self.steps().next().is_some() {
            let past = self.locate(SetNumber(base.0 - 1), ChunkNumber(0));
            that(past == Located::Gone, || format!("what follows {} is {past:?}", base.0 - 1))?;
        }
        Ok(())
    }

    fn audit_records(&self) -> Result<(), String> {
        let (mut end, mut cached) = (self.tail().min(self.head()), 0);
        that(self.tail() <= self.head(), || "the tail is beyond the head".to_owned())?;
        for r in self.records_from(LogPos(0)) {
            let len = r.end().since(r.pos);
            that(r.pos >= end && r.pos.0.is_multiple_of(ALIGN), || {
                format!("the record at {:?} begins before {end:?}", r.pos)
            })?;
            that(len <= self.ring().until_wrap(r.pos), || {
                format!("the record at {:?} crosses the end of the file", r.pos)
            })?;
            cached += r.cached.as_ref().map_or(0, |b| b.len() as u64);
            end = r.end();
        }
        that(end <= self.head(), || format!("the last record ends at {end:?}, behind the head"))?;
        self.audit_room(cached)
    }
}

/// What is known of a step against its records that are still here.
fn audit_step(s: &Step, own: &[&RecordMeta]) -> Result<(), String> {
    let numbers: Vec<_> =
        own.iter().filter(|r| r.kind == RecordKind::Chunk).map(|r| r.chunk.0).collect();
    that(numbers.windows(2).all(|w| w[0] + 1 == w[1]), || format!("has chunks {numbers:?}"))?;
    if let Some(last) = numbers.last() {
        that(s.chunks == last + 1, || format!("{} chunks are known, {last} is last", s.chunks))?;
    }
    let whole = own.first().is_some_and(|r| r.pos == s.first);
    let bytes: u64 = own.iter().map(|r| Ring::record_len(u64::from(r.body_len))).sum();
    that(bytes <= s.bytes && (!whole || bytes == s.bytes), || {
        format!("{bytes} bytes are here, and {} are known", s.bytes)
    })?;
    let header = own.last().filter(|r| r.kind == RecordKind::SetEnd);
    that(header.is_some() == s.end.is_some(), || "its header is not where it is".to_owned())?;
    if let (Some(r), Some((h, end))) = (header, &s.end) {
        that(r.end() == *end && h.step == s.id && r.chunk.0 == h.chunk_count, || {
            format!("its header is {h:?} up to {end:?}")
        })?;
        // Of one without data some chunks may be here.
        let bare = h.flags.contains(SetFlags::BITMAP_ONLY);
        let all = bare || numbers.last().is_none_or(|last| last + 1 == h.chunk_count);
        that(all, || format!("{} chunks are announced, and it has {numbers:?}", h.chunk_count))?;
    }
    Ok(())
}

impl Log {
    /// Where somebody goes on who holds so many chunks of it: at the record that comes next, at the
    /// head if that is still to come, and nowhere if it was given back.
    fn audit_places(&self, s: &Step, own: &[&RecordMeta]) -> Result<(), String> {
        let chunks = s.end.as_ref().map_or(s.chunks, |(h, _)| h.chunk_count);
        let bare = |(h, _): &(SetHeader, LogPos)| h.flags.contains(SetFlags::BITMAP_ONLY);
        if s.end.as_ref().is_some_and(bare) {
            return Ok(());
        }
        for n in [0, 1, chunks / 2, chunks.saturating_sub(1), chunks, chunks + 1] {
            let record = own.iter().find(|r| r.chunk.0 == n).map(|r| Located::At(r.pos));
            let expected = match record {
                _ if n > chunks => Located::Ahead,
                Some(at) => at,
                None if n == chunks && s.end.is_none() => Located::At(self.head()),
                None => Located::Gone,
            };
            let found = self.locate(s.id.base, ChunkNumber(n));
            that(found == expected, || {
                format!("who has {n} of {chunks} chunks goes on at {expected:?}, not {found:?}")
            })?;
            // A step over several sets has no states between.
            let between = SetNumber(s.id.to.0 - 1);
            if between > s.id.base {
                let expected = if n == 0 { expected } else { Located::Gone };
                let found = self.locate(between, ChunkNumber(n));
                that(found == expected, || format!("within it: {found:?}, not {expected:?}"))?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use rcp::proto::delta::StepId;
    use rcp::proto::ids::{Attempt, Generation, VolumeId};

    use super::*;

    /// A log with chunks 0 and 1 of the set 1, of which the second one is entered as `second`.
    fn log(second: u32) -> Log {
        let volume = VolumeId([7; 16]);
        let ring = Ring::new(1 << 20).expect("a ring");
        let mut log = Log::new(ring, volume, LogPos(0), SetNumber(0), 1 << 20);
        let (base, to) = (SetNumber(0), SetNumber(1));
        let generation = Generation { counter: 1, id: [1; 16] };
        let id = StepId { volume, generation, base, to, attempt: Attempt(1) };
        for (n, entered) in [(0, 0), (1, second)] {
            let body = Bytes::from_static(&[1; 100]);
            let a = log.append(RecordKind::Chunk, to, ChunkNumber(n), &body).expect("room");
            log.enter_chunk(a.pos, id, ChunkNumber(entered), 0, a.end.since(a.pos));
        }
        log
    }

    #[test]
    fn what_does_not_fit_the_records_is_named() {
        assert_eq!(log(1).audit(), Ok(()));
        let e = log(4).audit().expect_err("the records have no chunk 4");
        assert_eq!(e, "step to 1: 5 chunks are known, 1 is last");
    }
}
