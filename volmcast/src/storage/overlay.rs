//! Files that are read and never written: what somebody writes is kept in memory, and read back.
//!
//! So the opening of a volume, which writes, can be done over the files of one that must stay as it
//! is.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use super::Storage;
use crate::io::{FileId, Io, IoError, Op, Outcome};

const PAGE: usize = 4096;

/// What was written, by file and number of the page.
type Pages = BTreeMap<(FileId, u64), Box<[u8; PAGE]>>;

/// Files below, and what was written over them. Space that is written is kept in memory, page by
/// page; a request that zeroes is carried out on the pages that were written alone, and is refused
/// elsewhere.
pub struct Overlay<'a> {
    below: &'a dyn Storage,
    pages: Mutex<Pages>,
}

impl<'a> Overlay<'a> {
    /// Nothing is written yet.
    #[must_use]
    pub fn new(below: &'a dyn Storage) -> Self {
        Self { below, pages: Mutex::default() }
    }

    fn pages(&self) -> MutexGuard<'_, Pages> {
        // A page is whole at any time.
        self.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes bytes over what is below.
    ///
    /// # Errors
    /// [`IoError`] of the file below, which is read where a page is not written in full.
    pub fn write(&self, file: FileId, offset: u64, bytes: &[u8]) -> Result<(), IoError> {
        let mut pages = self.pages();
        let (mut at, mut rest) = (offset, bytes);
        while !rest.is_empty() {
            let (page, within) = place(at);
            let n = rest.len().min(PAGE - within);
            let p = match pages.entry((file, page)) {
                std::collections::btree_map::Entry::Occupied(e) => e.into_mut(),
                std::collections::btree_map::Entry::Vacant(e) => {
                    let mut fresh = Box::new([0; PAGE]);
                    if n < PAGE {
                        self.below.read_into(file, page * PAGE as u64, &mut fresh[..])?;
                    }
                    e.insert(fresh)
                }
            };
            p[within..within + n].copy_from_slice(&rest[..n]);
            (at, rest) = (at + n as u64, &rest[n..]);
        }
        Ok(())
    }

    fn run(&self, file: FileId, op: &Op) -> Result<Outcome, IoError> {
        let done = |()| Outcome::Done;
        match op {
            Op::Read { offset, len } => self.read(file, *offset, *len).map(Outcome::Read),
            Op::Gather { ranges } => {
                let parts = ranges.iter().map(|(at, len)| self.read(file, *at, *len));
                let parts: Vec<Bytes> = parts.collect::<Result<_, _>>()?;
                Ok(Outcome::Read(parts.concat().into()))
            }
            Op::Write { offset, data } => {
                let mut at = *offset;
                for d in data {
                    self.write(file, at, d)?;
                    at += d.len() as u64;
                }
                Ok(Outcome::Done)
            }
            Op::Scatter { writes, zeroes } => {
                for (at, len) in zeroes {
                    self.zero(file, *at, *len)?;
                }
                writes.iter().try_for_each(|(at, d)| self.write(file, *at, d)).map(done)
            }
            Op::Zero { offset, len } => self.zero(file, *offset, *len).map(done),
            Op::NextData { offset } => Ok(self.next_data(file, *offset)),
            // What is longer reads as zeroes anyway.
            Op::Extend { .. } | Op::Sync => Ok(Outcome::Done),
        }
    }

    /// Zeroes are kept like any other bytes, which bounds what may be asked.
    fn zero(&self, file: FileId, offset: u64, len: u64) -> Result<(), IoError> {
        const MOST: u64 = 64 << 20;
        let len = usize::try_from(len.min(MOST + 1)).unwrap_or(usize::MAX);
        if len as u64 > MOST {
            return Err(IoError::NoSpace);
        }
        self.write(file, offset, &vec![0; len])
    }

    /// The next range below, or written, whichever comes first.
    fn next_data(&self, file: FileId, offset: u64) -> Outcome {
        let io = Io { tag: crate::io::Tag(0), file, op: Op::NextData { offset } };
        let below = match self.below.perform(&io) {
            Outcome::NextData(found) => found,
            other => return other,
        };
        let (first, _) = place(offset);
        let above =
            self.pages().range((file, first)..=(file, u64::MAX)).next().map(|((_, p), _)| *p);
        let above = above.map(|p| ((p * PAGE as u64).max(offset), (p + 1) * PAGE as u64));
        Outcome::NextData(match (below, above) {
            (Some(b), Some(a)) => Some(if a.0 < b.0 { a } else { b }),
            (b, a) => b.or(a),
        })
    }
}

fn place(offset: u64) -> (u64, usize) {
    let within = usize::try_from(offset % PAGE as u64).unwrap_or(0);
    (offset / PAGE as u64, within)
}

impl Storage for Overlay<'_> {
    fn perform(&self, io: &Io) -> Outcome {
        self.run(io.file, &io.op).unwrap_or_else(Outcome::Failed)
    }

    /// Nothing is synced, and nothing is dropped.
    fn settle(&self, _: FileId) -> Result<(), IoError> {
        Ok(())
    }

    fn read_into(&self, file: FileId, offset: u64, buf: &mut [u8]) -> Result<(), IoError> {
        self.below.read_into(file, offset, buf)?;
        let end = offset + buf.len() as u64;
        let pages = self.pages();
        for ((_, page), bytes) in pages.range((file, place(offset).0)..(file, end.div_ceil(4096))) {
            let at = page * PAGE as u64;
            let from = at.max(offset);
            let to = (at + PAGE as u64).min(end);
            let index = |x: u64, of: u64| usize::try_from(x - of).unwrap_or(0);
            buf[index(from, offset)..index(to, offset)]
                .copy_from_slice(&bytes[index(from, at)..index(to, at)]);
        }
        Ok(())
    }
}

/// Files that hold nothing: with an [`Overlay`], a disk in memory.
#[derive(Clone, Copy, Debug)]
pub struct Nothing;

impl Storage for Nothing {
    fn perform(&self, io: &Io) -> Outcome {
        match &io.op {
            Op::Read { len, .. } => Outcome::Read(vec![0; *len].into()),
            Op::Gather { ranges } => {
                Outcome::Read(vec![0; ranges.iter().map(|(_, len)| len).sum()].into())
            }
            Op::NextData { .. } => Outcome::NextData(None),
            Op::Sync => Outcome::Done,
            _ => Outcome::Failed(IoError::NoSpace),
        }
    }

    fn settle(&self, _: FileId) -> Result<(), IoError> {
        Ok(())
    }

    fn read_into(&self, _: FileId, _: u64, buf: &mut [u8]) -> Result<(), IoError> {
        buf.fill(0);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back_and_what_is_below_stays() {
        let disk = Overlay::new(&Nothing);
        disk.write(FileId::Save, 100, &[7; 9000]).expect("written");
        let over = Overlay::new(&disk);
        over.write(FileId::Save, 4000, &[8; 200]).expect("written");
        let read = |s: &dyn Storage, at, len| s.read(FileId::Save, at, len).expect("read");
        assert_eq!(read(&over, 99, 2)[..], [0, 7]);
        assert_eq!(read(&over, 3999, 202)[..], [&[7][..], &[8; 200], &[7]].concat());
        assert_eq!(read(&over, 9099, 2)[..], [7, 0]);
        assert_eq!(read(&disk, 4000, 200)[..], [7; 200], "below nothing changed");
        assert_eq!(over.read(FileId::Base, 0, 4).expect("read")[..], [0; 4]);
        let next = |at| {
            let op = Op::NextData { offset: at };
            over.perform(&Io { tag: crate::io::Tag(1), file: FileId::Save, op })
        };
        assert_eq!(next(0), Outcome::NextData(Some((0, 4096))));
        assert_eq!(next(5000), Outcome::NextData(Some((5000, 8192))));
        assert_eq!(next(20_000), Outcome::NextData(None));
        let zero = Op::Zero { offset: 4000, len: 10 };
        let io = Io { tag: crate::io::Tag(1), file: FileId::Save, op: zero };
        assert_eq!(over.perform(&io), Outcome::Done);
        assert_eq!(read(&over, 3999, 12)[..], [&[7][..], &[0; 10], &[8]].concat());
    }
}
