//! Many small ranges of one file, those that lie near each other as one.
//!
//! A set of scattered blocks reads and replaces as many runs of 16 bytes in the table of hashes; most
//! of them are in a few pages. One call for what lies between two neighbours costs less than a call
//! for each.

use std::fs::File;
use std::io::Error;
use std::os::unix::fs::FileExt;

use bytes::{Bytes, BytesMut};

use super::{read_full, zero_range};

/// Bytes between two ranges that are read along, and written back as they were. Less than a page:
/// no page is dirtied that holds none of the ranges.
const GAP: u64 = 2048;
/// Longest range that is made of several.
const SPAN: u64 = 256 << 10;
/// Longest range that is zeroed by writing zeroes among other writes; longer ones give space back.
const ZEROES: u64 = 4096;

/// Where the ranges that begin with `first` and lie near each other end, and how many there are.
fn group(first: u64, ranges: impl Iterator<Item = (u64, u64)>) -> (u64, usize) {
    let (mut end, mut n) = (first, 0);
    for (at, len) in ranges {
        let near = at >= end && at - end <= GAP && at + len - first <= SPAN;
        if n > 0 && !near {
            break;
        }
        (end, n) = (at + len, n + 1);
    }
    (end, n)
}

/// Reads `ranges` into `out`, one after the other.
pub(super) fn gather(f: &File, ranges: &[(u64, usize)], out: &mut BytesMut) -> Result<(), Error> {
    let (mut ranges, mut out) = (ranges, &mut out[..]);
    let mut span = Vec::new();
    while let Some(&(first, len)) = ranges.first() {
        let (end, n) = group(first, ranges.iter().map(|(at, len)| (*at, *len as u64)));
        let (these, rest) = ranges.split_at(n);
        ranges = rest;
        if n == 1 {
            let (now, later) = out.split_at_mut(len);
            read_full(f, first, now)?;
            out = later;
            continue;
        }
        span.resize(index(end - first), 0);
        read_full(f, first, &mut span)?;
        for (at, len) in these {
            let (now, later) = out.split_at_mut(*len);
            let from = index(at - first);
            now.copy_from_slice(&span[from..from + len]);
            out = later;
        }
    }
    Ok(())
}

/// Writes and zeroes ranges that do not overlap. Nobody else may write to the file meanwhile.
pub(super) fn scatter(
    f: &File,
    writes: &[(u64, Bytes)],
    zeroes: &[(u64, u64)],
) -> Result<(), Error> {
    static ZERO: [u8; ZEROES as usize] = [0; ZEROES as usize];
    let mut pieces: Vec<(u64, &[u8])> = writes.iter().map(|(at, d)| (*at, &d[..])).collect();
    for (at, len) in zeroes {
        match ZERO.get(..index(*len)) {
            Some(z) => pieces.push((*at, z)),
            None => zero_range(f, *at, *len)?,
        }
    }
    pieces.sort_unstable_by_key(|(at, _)| *at);
    let mut rest = &pieces[..];
    let mut span = Vec::new();
    while let Some(&(first, data)) = rest.first() {
        let (end, n) = group(first, rest.iter().map(|(at, d)| (*at, d.len() as u64)));
        let (these, later) = rest.split_at(n);
        rest = later;
        if n == 1 {
            f.write_all_at(data, first)?;
            continue;
        }
        span.resize(index(end - first), 0);
        let dense = these.iter().map(|(_, d)| d.len()).sum::<usize>() == span.len();
        if !dense {
            read_full(f, first, &mut span)?;
        }
        for (at, d) in these {
            let from = index(at - first);
            span[from..from + d.len()].copy_from_slice(d);
        }
        f.write_all_at(&span, first)?;
    }
    Ok(())
}

/// Of a range in memory.
fn index(n: u64) -> usize {
    usize::try_from(n).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Ranges in rising order, near and far, with what is done to each.
    fn ranges() -> impl Strategy<Value = Vec<(u64, u64, Option<u8>)>> {
        let one = (prop_oneof![0..64u64, 1500..2600u64, 2000..9000u64], 1..40u64, any::<u8>());
        let long = (0..9000u64, 3000..9000u64, Just(0));
        prop::collection::vec(prop_oneof![8 => one, 1 => long], 1..25).prop_map(|all| {
            let mut at = 0;
            all.into_iter()
                .map(|(gap, len, fill)| {
                    let from = at + gap * 16;
                    at = from + len * 16;
                    (from, len * 16, (fill % 4 > 0).then_some(fill))
                })
                .collect()
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn together_is_as_one_by_one(before in ranges(), change in ranges()) {
            let open = || tempfile::tempfile().expect("a file");
            let (together, single) = (open(), open());
            for changes in [&before, &change] {
                let mut writes = Vec::new();
                let mut zeroes = Vec::new();
                for (at, len, fill) in changes {
                    let data = vec![fill.unwrap_or(0); index(*len)];
                    single.write_all_at(&data, *at).expect("written");
                    match fill {
                        Some(_) => writes.push((*at, Bytes::from(data))),
                        None => zeroes.push((*at, *len)),
                    }
                }
                scatter(&together, &writes, &zeroes).expect("written");
            }
            let ranges: Vec<_> =
                before.iter().chain(&change).map(|(at, len, _)| (*at, index(*len))).collect();
            let total = ranges.iter().map(|(_, len)| len).sum();
            let (mut found, mut due) = (BytesMut::zeroed(total), Vec::new());
            gather(&together, &ranges, &mut found).expect("read");
            for (at, len) in &ranges {
                let mut one = vec![0; *len];
                read_full(&single, *at, &mut one).expect("read");
                due.extend(one);
            }
            prop_assert!(found == due);
            let whole = |f: &File| {
                let mut all = vec![0; 8 << 20];
                read_full(f, 0, &mut all).expect("read");
                all
            };
            prop_assert!(whole(&together) == whole(&single));
        }
    }
}
