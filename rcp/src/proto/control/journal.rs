//! The record of control blocks that were executed here: what makes "at most once" hold across
//! crashes (CB-01 to CB-04).
//!
//! A block is entered as *begun*, durably, before anything is done, and as *done*, durably, before
//! its result is told. What was begun when a node died is never begun again: its result is that
//! nobody knows how far it came. Entries are kept for [`KEEP`], and beyond it until [`MAX_ENTRIES`] are
//! there; when so many younger ones are, further blocks are refused rather than old ones forgotten.
//!
//! The file (`blocks` in a node's data folder) is a sequence of records, each appended and synced alone:
//!
//! | bytes | |
//! |---|---|
//! | 4 | length of what follows the checksum, little endian, as all numbers |
//! | 4 | CRC32C of what follows |
//! | 1 | 1 begun, 2 done |
//! | 16 | id of the block |
//! | 8 | when, in microseconds since 1970-01-01 UTC |
//! | 16 | begun: digest of kind, state and body (XXH3, 128 bits) |
//! | 1 | done: 1 if it succeeded |
//! | rest | done: the result |
//!
//! Only the last record can be torn; it is dropped, since nobody was told of it.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use xxhash_rust::xxh3::Xxh3;

use super::super::clock::Wall;
use super::super::frame::ControlBlock;

/// How long an entry is kept, by the wall clock.
pub const KEEP: Duration = Duration::from_secs(8 * 86_400);
/// Entries kept at a time.
pub const MAX_ENTRIES: usize = 8192;
/// Longest result of a block that is put on record, so that the record stays below 9 MiB in memory
/// and twice as much on disk.
pub const MAX_RESULT: usize = 1024;

const HEAD: usize = 8;
/// Longest record, without its head.
const MAX_RECORD: usize = 1 + 16 + 8 + 1 + MAX_RESULT;
const BEGUN: u8 = 1;
const DONE: u8 = 2;

/// Id of a control block.
pub type BlockId = [u8; 16];

/// What is known of a block.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    at: Wall,
    digest: u128,
    result: Option<(bool, Bytes)>,
}

/// Whether a block may run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Known {
    /// It never ran here.
    No,
    /// It ran, or began to: this is the result.
    Result(bool, Bytes),
    /// The id was used for something else.
    Another,
}

/// Why a block cannot be put on record, and so not run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{MAX_ENTRIES} control blocks were executed here within eight days, and each is kept on record \
     that long: send fewer, larger ones"
)]
pub struct Full;

/// The file cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("damaged at byte {0}")]
pub struct Damaged(pub usize);

/// The record, in memory. Its changes are bytes to be appended to the file.
#[derive(Clone, Debug, Default)]
pub struct Journal {
    entries: BTreeMap<BlockId, Entry>,
    /// Records in the file.
    records: usize,
}

/// What a block asks for, apart from its id.
fn digest(block: &ControlBlock) -> u128 {
    let mut h = Xxh3::new();
    h.update(block.kind.as_bytes());
    h.update(&[0]);
    h.update(block.after.map(|s| s.to_string()).unwrap_or_default().as_bytes());
    h.update(&[0]);
    h.update(&block.body);
    h.digest128()
}

fn record(kind: u8, id: &BlockId, at: Wall, rest: &[&[u8]]) -> Vec<u8> {
    let mut out = vec![0; HEAD];
    out.push(kind);
    out.extend_from_slice(id);
    out.extend_from_slice(&at.0.to_le_bytes());
    for r in rest {
        out.extend_from_slice(r);
    }
    let body = out.get(HEAD..).unwrap_or_default();
    let (len, sum) = (u32::try_from(body.len()).unwrap_or(0), crc32c::crc32c(body));
    out[..4].copy_from_slice(&len.to_le_bytes());
    out[4..HEAD].copy_from_slice(&sum.to_le_bytes());
    out
}

impl Journal {
    /// Reads the file's content.
    ///
    /// # Errors
    /// [`Damaged`]; a torn last record is none.
    pub fn decode(bytes: &[u8]) -> Result<Self, Damaged> {
        let mut j = Self::default();
        let mut rest = bytes;
        while !rest.is_empty() {
            let at = bytes.len() - rest.len();
            let number = |i: usize| {
                rest.get(i..i + 4).and_then(|b| Some(u32::from_le_bytes(*b.first_chunk()?)))
            };
            let (Some(len), Some(sum)) = (number(0), number(4)) else { break };
            let len = usize::try_from(len).unwrap_or(usize::MAX);
            let end = HEAD.saturating_add(len);
            let Some(body) = rest.get(HEAD..end) else {
                // No record is longer: a length that reaches further is a lie.
                if rest.len() > HEAD + MAX_RECORD {
                    return Err(Damaged(at));
                }
                break;
            };
            if len == 0 || crc32c::crc32c(body) != sum {
                // Torn, if nothing was ever written behind it.
                if rest.get(end..).is_none_or(|r| r.iter().all(|b| *b == 0)) {
                    break;
                }
                return Err(Damaged(at));
            }
            j.take(body).ok_or(Damaged(at))?;
            rest = rest.get(end..).unwrap_or_default();
        }
        Ok(j)
    }

    fn take(&mut self, body: &[u8]) -> Option<()> {
        let (kind, rest) = body.split_first()?;
        let (id, rest) = rest.split_first_chunk::<16>()?;
        let (at, rest) = rest.split_first_chunk::<8>()?;
        let at = Wall(u64::from_le_bytes(*at));
        match *kind {
            BEGUN => {
                let digest = u128::from_le_bytes(*rest.first_chunk::<16>()?);
                self.entries.insert(*id, Entry { at, digest, result: None });
            }
            DONE => {
                let (ok, text) = rest.split_first()?;
                // What it belongs to may have been forgotten while it ran.
                if let Some(e) = self.entries.get_mut(id) {
                    e.result = Some((*ok == 1, Bytes::copy_from_slice(text)));
                }
            }
            _ => return None,
        }
        self.records += 1;
        Some(())
    }

    /// The whole file anew.
    #[must_use]
    pub fn compact(&mut self) -> Vec<u8> {
        let mut out = Vec::new();
        self.records = 0;
        for (id, e) in &self.entries {
            out.extend(record(BEGUN, id, e.at, &[&e.digest.to_le_bytes()]));
            self.records += 1;
            if let Some((ok, text)) = &e.result {
                out.extend(record(DONE, id, e.at, &[&[u8::from(*ok)], text]));
                self.records += 1;
            }
        }
        out
    }

    /// Makes room. A clock that was set may make an entry look old, so none is forgotten sooner than
    /// that, and none that runs.
    fn forget(&mut self, now: Wall) {
        let keep = u64::try_from(KEEP.as_micros()).unwrap_or(u64::MAX);
        let old = |e: &Entry| now.0.saturating_sub(e.at.0) >= keep;
        self.entries.retain(|_, e| e.result.is_none() || !old(e));
    }

    /// Whether most of the file is about blocks that are forgotten.
    #[must_use]
    pub fn is_wasteful(&self) -> bool {
        self.records > 2 * MAX_ENTRIES + 256
    }

    /// What is known of a block.
    #[must_use]
    pub fn known(&self, block: &ControlBlock) -> Known {
        match self.entries.get(&block.id) {
            None => Known::No,
            Some(e) if e.digest != digest(block) => Known::Another,
            Some(Entry { result: Some((ok, text)), .. }) => Known::Result(*ok, text.clone()),
            Some(_) => Known::Result(
                false,
                Bytes::from_static(
                    b"it was begun, and the node was stopped before it ended: it is not begun again; \
                      look at what it did, then send it under a new id if need be",
                ),
            ),
        }
    }

    /// Puts on record that a block begins; the bytes must be durable before it does.
    ///
    /// # Errors
    /// [`Full`].
    pub fn begin(&mut self, block: &ControlBlock, now: Wall) -> Result<Vec<u8>, Full> {
        if self.entries.len() >= MAX_ENTRIES {
            self.forget(now);
        }
        if self.entries.len() >= MAX_ENTRIES {
            return Err(Full);
        }
        let digest = digest(block);
        self.entries.insert(block.id, Entry { at: now, digest, result: None });
        self.records += 1;
        Ok(record(BEGUN, &block.id, now, &[&digest.to_le_bytes()]))
    }

    /// The entry could not be made durable, and the block was not begun.
    pub fn not_begun(&mut self, id: &BlockId) {
        self.entries.remove(id);
    }

    /// Puts a result on record, cut to [`MAX_RESULT`] bytes; the bytes must be durable before it is
    /// told.
    pub fn done(&mut self, id: &BlockId, ok: bool, text: &Bytes, now: Wall) -> Vec<u8> {
        let text = text.slice(..text.len().min(MAX_RESULT));
        if let Some(e) = self.entries.get_mut(id) {
            e.result = Some((ok, text.clone()));
        }
        self.records += 1;
        record(DONE, id, now, &[&[u8::from(ok)], &text])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(n: u8, body: &'static [u8]) -> ControlBlock {
        let body = Bytes::from_static(body);
        ControlBlock { id: [n; 16], kind: "say".to_owned(), after: None, body, hops: 0 }
    }

    fn known(j: &Journal, n: u8) -> Known {
        j.known(&block(n, b"x"))
    }

    #[test]
    fn what_ran_is_known_after_a_restart_and_what_was_cut_short_too() {
        let (mut j, now) = (Journal::default(), Wall(5));
        let mut file = j.begin(&block(1, b"x"), now).expect("room");
        file.extend(j.done(&[1; 16], true, &Bytes::from_static(b"fine"), now));
        file.extend(j.begin(&block(2, b"x"), now).expect("room"));
        let after = Journal::decode(&file).expect("good");
        assert_eq!(known(&after, 1), Known::Result(true, Bytes::from_static(b"fine")));
        assert!(
            matches!(known(&after, 2), Known::Result(false, t) if t.starts_with(b"it was begun"))
        );
        assert_eq!(known(&after, 3), Known::No);
        assert_eq!(after.known(&block(1, b"other")), Known::Another);
        let again = Journal::decode(&after.clone().compact()).expect("good");
        assert_eq!(again.entries, after.entries);
    }

    #[test]
    fn a_torn_end_is_dropped_and_damage_is_reported() {
        let (mut j, now) = (Journal::default(), Wall(5));
        let first = j.begin(&block(1, b"x"), now).expect("room");
        let mut file = first.clone();
        file.extend(j.begin(&block(2, b"x"), now).expect("room"));
        for cut in first.len()..file.len() {
            let j = Journal::decode(&file[..cut]).expect("torn");
            assert_eq!((j.entries.len(), known(&j, 2)), (1, Known::No), "{cut}");
            let mut zeroed = file[..cut].to_vec();
            zeroed.resize(file.len() + 100, 0);
            assert_eq!(Journal::decode(&zeroed).expect("torn").entries.len(), 1, "{cut}");
        }
        for at in HEAD..first.len() {
            let mut bad = file.clone();
            bad[at] ^= 1;
            assert_eq!(Journal::decode(&bad).err(), Some(Damaged(0)), "{at}");
        }
    }

    #[test]
    fn seven_days_are_kept_and_a_full_record_refuses() {
        let (mut j, day) = (Journal::default(), 86_400_000_000);
        for n in 0..MAX_ENTRIES {
            let mut b = block(0, b"x");
            b.id[..8].copy_from_slice(&(n as u64).to_le_bytes());
            j.begin(&b, Wall(day)).expect("room");
            if n > 0 {
                let _ = j.done(&b.id, true, &Bytes::new(), Wall(day));
            }
        }
        // A clock that jumps makes nothing forgotten that there is room for, nor what runs.
        let after = Journal::decode(&j.clone().compact()).expect("good");
        assert_eq!(after.entries.len(), MAX_ENTRIES);
        assert_eq!(j.begin(&block(9, b"x"), Wall(8 * day)), Err(Full));
        assert!(j.begin(&block(9, b"x"), Wall(9 * day)).is_ok());
        assert_eq!(j.entries.len(), 2, "the new one, and the one that runs");
        // The result of one that was forgotten stands alone, and does no harm.
        let alone = j.done(&[7; 16], true, &Bytes::new(), Wall(9 * day));
        assert!(Journal::decode(&alone).is_ok());
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..512)) {
            let _ = Journal::decode(&bytes);
        }
    }
}
