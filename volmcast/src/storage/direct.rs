//! Writes to the save volume past the system's page cache.
//!
//! What a receiver stores is, mostly, not read again from the file: children near the head are
//! served from memory. Through the page cache such a byte costs several times the processor time of
//! the rest of its way, and the sync waits for all of it at once. So large records go to the disk
//! directly, through a buffer aligned as the disk wants it.
//!
//! Records are aligned to less than a page. The page in which one ends is completed with zeroes, and
//! written again, from memory, together with the record that goes on in it: the bytes of the first
//! one do not change, whatever part of the second write a power cut leaves. Behind the record
//! appended last nothing is alive up to the end of its page
//! ([`Ring::completed`](crate::save::Ring::completed)).
//! That holds only for writes in the order of the log; one that comes out of order ends this way of
//! writing for good. Small records that follow small ones gain nothing and go through the cache.

use std::fs::{File, OpenOptions};
use std::io::Error;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use bytes::Bytes;
use parking_lot::Mutex;

use crate::save::ring::{PAGE, PAGE_LEN};

/// Shorter records are not worth a request of their own.
const LARGE: usize = 64 << 10;
/// Bytes of one request: a chunk with its headers.
const BUFFER: usize = (1 << 20) + 4 * PAGE_LEN;
/// Buffers that the process keeps.
const KEPT: usize = 4;

static BUFFERS: Mutex<Vec<Aligned>> = Mutex::new(Vec::new());

/// Memory with a page-aligned part.
#[derive(Debug)]
struct Aligned {
    memory: Vec<u8>,
    skip: usize,
}

impl Aligned {
    fn take() -> Self {
        let kept = BUFFERS.lock().pop();
        kept.unwrap_or_else(|| {
            let memory = vec![0; BUFFER + PAGE_LEN];
            let skip = memory.as_ptr().align_offset(PAGE_LEN).min(PAGE_LEN);
            Self { memory, skip }
        })
    }

    fn put(self) {
        let mut kept = BUFFERS.lock();
        if kept.len() < KEPT {
            kept.push(self);
        }
    }

    fn part(&mut self) -> &mut [u8] {
        &mut self.memory[self.skip..self.skip + BUFFER]
    }
}

/// What was written last.
#[derive(Debug, Default)]
struct State {
    /// Behind it; unknown before the first write.
    end: Option<u64>,
    /// The beginning of the page in which it ends.
    tail: Option<Vec<u8>>,
    large: bool,
    off: bool,
}

/// The save volume's file, opened past the page cache.
#[derive(Debug)]
pub(super) struct Direct {
    file: File,
    state: Mutex<State>,
}

impl Direct {
    /// `None` where the file system has no such way.
    pub(super) fn open(path: &Path) -> Option<Self> {
        let flags = i32::try_from(rustix::fs::OFlags::DIRECT.bits()).ok()?;
        let file = OpenOptions::new().read(true).write(true).custom_flags(flags).open(path).ok()?;
        Some(Self { file, state: Mutex::default() })
    }

    /// Writes pieces one behind the other; false if it is to be done the ordinary way.
    ///
    /// # Errors
    /// The system's.
    pub(super) fn write(
        &self,
        cached: &File,
        offset: u64,
        pieces: &[Bytes],
    ) -> Result<bool, Error> {
        let len: usize = pieces.iter().map(Bytes::len).sum();
        let mut s = self.state.lock();
        let follows =
            s.end.is_none_or(|e| e == offset || offset == 0 || offset == e.div_ceil(64) * 64);
        s.off |= !follows;
        let direct = !s.off && (len >= LARGE || (s.large && s.tail.is_some()));
        s.large = len >= LARGE;
        let before = s.end.replace(offset + len as u64);
        let tail = s.tail.take();
        if !direct {
            return Ok(false);
        }
        let mut buffer = Aligned::take();
        let head = usize::try_from(offset % PAGE).unwrap_or(0);
        let part = buffer.part();
        match tail {
            // Between two records there may be padding.
            Some(t) if before.is_some_and(|e| e / PAGE == offset / PAGE) && t.len() <= head => {
                part[..t.len()].copy_from_slice(&t);
                part[t.len()..head].fill(0);
            }
            _ => super::read_full(cached, offset - head as u64, &mut part[..head])?,
        }
        let done = self.write_pages(part, offset - head as u64, head, pieces);
        let done = match done {
            Ok(tail) => {
                s.tail = Some(tail);
                Ok(true)
            }
            // It can be opened, but not written to.
            Err(e) if e.raw_os_error() == Some(rustix::io::Errno::INVAL.raw_os_error()) => {
                s.off = true;
                Ok(false)
            }
            Err(e) => Err(e),
        };
        buffer.put();
        done
    }

    /// Writes whole pages from `at` on: `used` bytes that are in the buffer, then the pieces, then
    /// zeroes. The beginning of the last page, if it was not filled.
    fn write_pages(
        &self,
        part: &mut [u8],
        mut at: u64,
        mut used: usize,
        pieces: &[Bytes],
    ) -> Result<Vec<u8>, Error> {
        for p in pieces {
            let mut rest = &p[..];
            while !rest.is_empty() {
                if used == part.len() {
                    self.file.write_all_at(part, at)?;
                    at += used as u64;
                    used = 0;
                }
                let n = rest.len().min(part.len() - used);
                part[used..used + n].copy_from_slice(&rest[..n]);
                used += n;
                rest = &rest[n..];
            }
        }
        let whole = used.next_multiple_of(PAGE_LEN);
        part[used..whole].fill(0);
        self.file.write_all_at(&part[..whole], at)?;
        Ok(part[used - used % PAGE_LEN..used].to_vec())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers that look random.
    fn next(x: &mut u64) -> usize {
        *x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(*x >> 33).expect("small")
    }

    #[test]
    fn records_come_out_as_they_went_in() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("save");
        let f = File::options().read(true).write(true).create_new(true).open(&path).expect("made");
        f.set_len(16 << 20).expect("its length");
        let Some(d) = Direct::open(&path) else { return };
        let (mut x, mut at, mut want) = (1, 0usize, vec![0u8; 16 << 20]);
        let mut went = [0, 0];
        for i in 0..200u32 {
            let large = i % 7 < 3;
            let len = if large { LARGE + next(&mut x) % 150_000 } else { 1 + next(&mut x) % 5000 };
            let body = vec![u8::try_from(i).expect("small") + 1; len];
            let pieces =
                [Bytes::from(body[..len / 3].to_vec()), Bytes::from(body[len / 3..].to_vec())];
            if at + len > want.len() {
                break;
            }
            want[at..at + len].copy_from_slice(&body);
            let direct = d.write(&f, at as u64, &pieces).expect("written");
            if !direct {
                super::super::write_pieces(&f, at as u64, &pieces).expect("written");
            }
            went[usize::from(direct)] += 1;
            let mut got = vec![0; at + len];
            super::super::read_full(&f, 0, &mut got).expect("read");
            assert!(got == want[..at + len], "after record {i}");
            at = (at + len).next_multiple_of(64);
            if i == 100 {
                // As after a restart: the page is read from the file.
                *d.state.lock() = State::default();
            }
        }
        assert!(d.state.lock().off || (went[0] > 20 && went[1] > 20), "{went:?}");
    }

    #[test]
    fn longer_than_the_buffer_and_out_of_order() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("save");
        let f = File::options().read(true).write(true).create_new(true).open(&path).expect("made");
        f.set_len(16 << 20).expect("its length");
        let Some(d) = Direct::open(&path) else { return };
        let body = Bytes::from(
            (0..5u32 << 20).map(|i| i.to_le_bytes()[i as usize % 3]).collect::<Vec<_>>(),
        );
        if !d.write(&f, 64, std::slice::from_ref(&body)).expect("written") {
            return;
        }
        let mut got = vec![0; body.len()];
        super::super::read_full(&f, 64, &mut got).expect("read");
        assert!(got == body);
        assert!(!d.write(&f, 8 << 20, std::slice::from_ref(&body)).expect("nothing is wrong"));
        assert!(d.state.lock().off, "something was left out: no page may be completed any more");
    }
}
