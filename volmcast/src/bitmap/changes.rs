//! The sets of blocks that finished sets changed, kept long after their data: what a catch-up sends.
//!
//! A *region* is a row of entries, one behind the other. An entry says that the steps up to `to`
//! changed these blocks, or some of them and other entries the rest: entries of the same `to` add
//! up. The blocks that changed after a state *s* are the union of all entries with `to` > *s*. An
//! entry may hold more blocks than were changed, and a `to` that is higher; never the other way
//! round. So entries may be merged and made coarser, and the union stays a superset.
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 4 | magic `VCCH` |
//! | 4 | 1 | version, 1 |
//! | 5 | 3 | zero |
//! | 8 | 4 | bytes of the block set that follows |
//! | 12 | 4 | CRC32C of bytes 0–11 and 16–47 |
//! | 16 | 16 | volume UUID |
//! | 32 | 8 | epoch |
//! | 40 | 8 | to |
//! | 48 | n | block set, in its stored form |

use std::collections::BTreeMap;

use bytes::{Bytes, BytesMut};
use rcp::proto::ids::{SetNumber, VolumeId};

use super::BlockSet;
use crate::units::{BlockCount, BlockIndex};

/// Bytes of an entry before its block set.
pub const ENTRY_HEAD: usize = 48;
/// Most runs of one entry and of a union: a set with more is made coarser, which bounds memory.
pub const MAX_RUNS: usize = 1 << 19;

const MAGIC: [u8; 4] = *b"VCCH";
const VERSION: u8 = 1;

/// The stored form of one set of blocks, without the head that ties it to its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The blocks were changed by steps up to this one.
    pub to: SetNumber,
    /// A block set in its stored form.
    pub set: Bytes,
}

/// Why a region cannot be used: `at` is the offset of the entry in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the entry at {at} {what}")]
pub struct RegionError {
    /// Offset in the region.
    pub at: usize,
    /// What is wrong with the entry.
    pub what: &'static str,
}

impl Entry {
    /// Of a set, which is made coarser until its stored form has at most `most` bytes (at least
    /// [`ENTRY_HEAD`] and some).
    #[must_use]
    pub fn new(to: SetNumber, set: &BlockSet, most: usize) -> Self {
        let mut bytes = set.coarser(MAX_RUNS).encode();
        let mut runs = set.run_count().min(MAX_RUNS);
        while bytes.len() > most && runs > 1 {
            runs /= 2;
            bytes = set.coarser(runs).encode();
        }
        Self { to, set: bytes.into() }
    }

    /// Bytes in a region.
    #[must_use]
    pub fn stored_len(&self) -> usize {
        ENTRY_HEAD + self.set.len()
    }

    /// The head that precedes the block set in the region of this epoch.
    #[must_use]
    pub fn head(&self, volume: VolumeId, epoch: u64) -> Bytes {
        let mut b = BytesMut::zeroed(ENTRY_HEAD);
        b[..4].copy_from_slice(&MAGIC);
        b[4] = VERSION;
        b[8..12].copy_from_slice(&u32::try_from(self.set.len()).unwrap_or(u32::MAX).to_le_bytes());
        b[16..32].copy_from_slice(&volume.0);
        b[32..40].copy_from_slice(&epoch.to_le_bytes());
        b[40..48].copy_from_slice(&self.to.0.to_le_bytes());
        let crc = crc32c::crc32c_append(crc32c::crc32c(&b[..12]), &b[16..]);
        b[12..16].copy_from_slice(&crc.to_le_bytes());
        b.freeze()
    }
}

/// The entries of a whole region, which must be of this volume and epoch. The block sets are not
/// decoded yet.
///
/// # Errors
/// [`RegionError`]: nothing of the region may be used.
pub fn entries(region: &Bytes, volume: VolumeId, epoch: u64) -> Result<Vec<Entry>, RegionError> {
    let mut out = Vec::new();
    let mut at = 0;
    while at < region.len() {
        let bad = |what| RegionError { at, what };
        let h = region.get(at..at + ENTRY_HEAD).ok_or(bad("is cut off"))?;
        if h[..4] != MAGIC {
            return Err(bad("is not one (magic)"));
        }
        let crc = crc32c::crc32c_append(crc32c::crc32c(&h[..12]), &h[16..]);
        if h[12..16] != crc.to_le_bytes() {
            return Err(bad("is damaged (checksum)"));
        }
        if h[4] != VERSION || h[5..8] != [0; 3] {
            return Err(bad("is of a version that this program does not know"));
        }
        if h[16..32] != volume.0 {
            return Err(bad("is another volume's"));
        }
        if u64_at(h, 32) != epoch {
            return Err(bad("is of another epoch"));
        }
        let mut len = [0; 4];
        len.copy_from_slice(&h[8..12]);
        let from = at + ENTRY_HEAD;
        let to = from.saturating_add(u32::from_le_bytes(len) as usize);
        if to > region.len() {
            return Err(bad("is cut off"));
        }
        out.push(Entry { to: SetNumber(u64_at(h, 40)), set: region.slice(from..to) });
        at = to;
    }
    Ok(out)
}

fn u64_at(b: &[u8], at: usize) -> u64 {
    let mut x = [0; 8];
    x.copy_from_slice(&b[at..at + 8]);
    u64::from_le_bytes(x)
}

/// The blocks that may have changed after state `after`, below block `end`.
///
/// # Errors
/// [`RegionError`]: nothing of the region may be used.
pub fn changed_after(
    region: &Bytes,
    volume: VolumeId,
    epoch: u64,
    after: SetNumber,
    end: BlockCount,
) -> Result<BlockSet, RegionError> {
    let mut all = BlockSet::new();
    for e in entries(region, volume, epoch)? {
        // Decoded although it is not needed: damage is told when it is seen.
        let set = decode(&e)?;
        if e.to > after {
            all.union(&set);
            if all.run_count() > MAX_RUNS {
                all = all.coarser(MAX_RUNS / 2);
            }
        }
    }
    all.remove_range(BlockIndex(end.0), BlockCount(u64::MAX - end.0));
    Ok(all)
}

fn decode(e: &Entry) -> Result<BlockSet, RegionError> {
    BlockSet::decode(&e.set).map_err(|_| RegionError { at: 0, what: "has a damaged block set" })
}

/// Makes a region smaller: entries of one step become one, then the older half is merged in pairs,
/// again and again, and what is left in the end is made coarser, until all have at most `most`
/// bytes. Nothing is dropped: a long absence costs more blocks, never a miss.
///
/// # Errors
/// [`RegionError`]: nothing of the region may be used.
pub fn compact(
    region: &Bytes,
    volume: VolumeId,
    epoch: u64,
    most: usize,
) -> Result<Vec<Entry>, RegionError> {
    let mut by_step: BTreeMap<SetNumber, Vec<Entry>> = BTreeMap::new();
    for e in entries(region, volume, epoch)? {
        by_step.entry(e.to).or_default().push(e);
    }
    let each = most / 2;
    let mut all = Vec::with_capacity(by_step.len());
    for parts in by_step.into_values() {
        all.extend(merged(&parts, each)?);
    }
    while all.iter().map(Entry::stored_len).sum::<usize>() > most {
        if all.len() < 2 {
            // One entry, made as coarse as it must be.
            let Some(only) = all.pop() else { break };
            all.push(Entry::new(only.to, &decode(&only)?, most.saturating_sub(ENTRY_HEAD)));
            break;
        }
        let younger = all.split_off(all.len().div_ceil(2).max(2));
        let older = std::mem::take(&mut all);
        for pair in older.chunks(2) {
            all.extend(merged(pair, each)?);
        }
        all.extend(younger);
    }
    Ok(all)
}

/// Entries with rising `to` as one.
fn merged(parts: &[Entry], most: usize) -> Result<Option<Entry>, RegionError> {
    let Some((first, rest)) = parts.split_first() else { return Ok(None) };
    let Some(last) = rest.last() else {
        decode(first)?;
        return Ok(Some(first.clone()));
    };
    let mut set = decode(first)?;
    for p in rest {
        set.union(&decode(p)?);
        if set.run_count() > MAX_RUNS {
            set = set.coarser(MAX_RUNS / 2);
        }
    }
    Ok(Some(Entry::new(last.to, &set, most)))
}

impl BlockSet {
    /// The same blocks and perhaps others, in at most `runs` runs (at least one): the smallest
    /// power of two of blocks is found whose whole groups make so few.
    #[must_use]
    pub fn coarser(&self, runs: usize) -> Self {
        let mut out = self.clone();
        let mut shift = 1;
        while out.run_count() > runs.max(1) {
            let mut wider = Self::new();
            for (first, count) in out.runs() {
                let from = first.0 >> shift << shift;
                let to = ((first.0 + count.0 - 1) >> shift << shift) + (1 << shift);
                wider.insert_range(BlockIndex(from), BlockCount(to - from));
            }
            out = wider;
            shift += 1;
        }
        out.remove_range(BlockIndex(super::MAX_BLOCKS), BlockCount(u64::MAX - super::MAX_BLOCKS));
        out
    }
}

#[cfg(all(test, not(shuttle)))]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    const V: VolumeId = VolumeId([3; 16]);

    fn set(blocks: &[(u64, u64)]) -> BlockSet {
        blocks.iter().map(|(f, n)| (BlockIndex(*f), BlockCount(*n))).collect()
    }

    fn region(list: &[Entry], epoch: u64) -> Bytes {
        let mut b = BytesMut::new();
        for e in list {
            b.extend_from_slice(&e.head(V, epoch));
            b.extend_from_slice(&e.set);
        }
        b.freeze()
    }

    #[test]
    fn golden_vector() {
        let e = Entry::new(SetNumber(7), &set(&[(3, 2), (9, 1)]), 1000);
        let hex: String = region(&[e], 5).iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(
            hex,
            concat!(
                "56434348",                         // magic VCCH
                "01",                               // version
                "000000",                           // reserved
                "28000000",                         // bytes of the block set
                "3b5d4f0d",                         // CRC32C of the rest of the head
                "03030303030303030303030303030303", // volume
                "0500000000000000",                 // epoch
                "0700000000000000",                 // to
                "56434253010000000200000000000000", // the block set
                "03000000000000000400000000000000",
                "03010300",
                "8c596f3f",
            )
        );
    }

    #[test]
    fn a_coarser_set_holds_all_of_the_finer() {
        let fine = set(&[(1, 1), (4, 1), (1000, 3), (super::super::MAX_BLOCKS - 1, 1)]);
        let coarse = fine.coarser(2);
        assert!(coarse.run_count() <= 2);
        assert!(fine.iter().all(|b| coarse.contains(b)));
        assert_eq!(fine.coarser(4), fine, "nothing to do");
        assert!(BlockSet::decode(&coarse.encode()).is_ok(), "inside the largest volume");
    }

    #[test]
    fn every_bit_of_a_region_counts() {
        let list = [
            Entry::new(SetNumber(7), &set(&[(3, 2)]), 1000),
            Entry::new(SetNumber(8), &set(&[(5, 1)]), 1000),
        ];
        let good = region(&list, 5);
        assert_eq!(entries(&good, V, 5), Ok(list.to_vec()));
        let all = |b: &Bytes, v, e| changed_after(b, v, e, SetNumber(7), BlockCount(100));
        assert_eq!(all(&good, V, 5), Ok(set(&[(5, 1)])));
        for bit in 0..good.len() * 8 {
            let mut b = good.to_vec();
            b[bit / 8] ^= 1 << (bit % 8);
            assert!(all(&b.into(), V, 5).is_err(), "bit {bit}");
        }
        let second = list[0].stored_len();
        for cut in (1..good.len()).filter(|c| *c != second) {
            assert!(all(&good.slice(..cut), V, 5).is_err(), "cut at {cut}");
        }
        assert!(all(&good, V, 4).is_err(), "another epoch");
        assert!(all(&good, VolumeId([4; 16]), 5).is_err(), "another volume");
        assert!(all(&Bytes::from_static(&[0; 64]), V, 5).is_err(), "zeroes");
    }

    proptest! {
        /// Against a list of what changed when: whatever is compacted, no block is ever missed,
        /// and with enough room none is too many.
        #[test]
        fn nothing_is_missed(
            steps in prop::collection::vec((0u64..3, prop::collection::vec((0u64..500, 1u64..20), 0..20)), 1..20),
            compactions in prop::collection::vec((0usize..20, 300usize..3000), 0..4),
            after in 0u64..40,
        ) {
            let mut to = 1;
            let mut list = Vec::new();
            let mut model: Vec<(u64, BTreeSet<u64>)> = Vec::new();
            let mut squeezed = false;
            for (i, (rise, runs)) in steps.iter().enumerate() {
                to += rise;
                list.push(Entry::new(SetNumber(to), &set(runs), 100_000));
                model.push((to, runs.iter().flat_map(|(f, n)| *f..f + n).collect()));
                for (at, most) in &compactions {
                    if *at == i {
                        let before: usize = list.iter().map(Entry::stored_len).sum();
                        squeezed |= before > *most;
                        list = compact(&region(&list, 1), V, 1, *most).expect("sound");
                        let len: usize = list.iter().map(Entry::stored_len).sum();
                        prop_assert!(len <= *most, "{len} of {most}");
                    }
                }
            }
            let found = changed_after(&region(&list, 1), V, 1, SetNumber(after), BlockCount(600)).expect("sound");
            let wanted: BTreeSet<u64> = model
                .iter().filter(|(t, _)| *t > after).flat_map(|(_, b)| b.iter().copied()).collect();
            for b in &wanted {
                prop_assert!(found.contains(BlockIndex(*b)), "block {b} is missed");
            }
            if !squeezed {
                prop_assert_eq!(found.count().0, wanted.len() as u64);
            }
        }

        /// Whatever bytes are given, nothing panics.
        #[test]
        fn any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = compact(&bytes.into(), V, 1, 500);
        }
    }
}
