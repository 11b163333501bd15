//! Room in a ring, to the last byte: a record is placed where its last page is free to its end, if
//! pages are completed, and where it fits, if they are not (`volmcast/FORMAT.md`, section 5).

use bytes::Bytes;
use rcp::proto::ids::{ChunkNumber, SetNumber};
use volmcast::save::ring::{MIN_CAPACITY, PAGE};
use volmcast::save::{Log, RecordKind, Ring};
use volmcast::units::LogPos;

use super::super::super::node::VOLUME;
use super::super::super::rng::Rng;

/// Bytes of the longest record here.
const LONG: u64 = 1 << 20;

/// Appends a record that takes so many bytes.
fn append(log: &mut Log, zeroes: &Bytes, len: u64) -> bool {
    let body = zeroes.slice(..usize::try_from(len - 64).unwrap_or(0));
    log.append(RecordKind::Chunk, SetNumber(1), ChunkNumber(0), &body).is_ok()
}

/// Fills rings until the next record reaches the page of the oldest one.
pub(super) fn fill(rng: &mut Rng) -> Result<(), String> {
    let whole_pages = rng.percent(50);
    let odd = if whole_pages { 0 } else { 64 * rng.range(1, 63) };
    let large = whole_pages || rng.percent(50);
    let capacity = if large { MIN_CAPACITY } else { 16 << 10 } + PAGE * rng.below(3) + odd;
    let offset = capacity / 2 / PAGE * PAGE + 64 * rng.below(64);
    let tail = LogPos(capacity * rng.below(3) + offset);
    let ring = Ring::new(capacity).ok_or("no ring")?;
    let mut log = Log::new(ring, VOLUME, tail, SetNumber(0), 0);
    let zeroes = Bytes::from(vec![0; usize::try_from(LONG).unwrap_or(0)]);
    // To the end of the file, and on to where so many bytes are left.
    let left = 64 * rng.below(128).min(offset / 64 - 2);
    for mut rest in [capacity - offset, offset - left] {
        while rest > 0 {
            let len = if rest > LONG + 128 { LONG } else { rest.min(LONG) };
            let len = if rest > len && rest - len < 128 { len - 128 } else { len };
            rest -= len;
            let end = log.head().plus(len);
            let page = (end.0 % capacity).next_multiple_of(PAGE);
            let used = end.since(tail) + if whole_pages { page - end.0 % capacity } else { 0 };
            let placed = append(&mut log, &zeroes, len);
            if placed != (used <= capacity) {
                return Err(format!(
                    "a ring of {capacity} bytes: a record that ends at {end}, with {left} bytes \
                     free behind it up to the oldest one, is placed: {placed}"
                ));
            }
        }
    }
    Ok(())
}
