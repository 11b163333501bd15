//! Compression of payloads: once, at the primary, and only where it pays.
//!
//! Contexts are kept per thread: making one costs more than compressing a small payload.

use std::cell::RefCell;
use std::io::Cursor;

use bytes::Bytes;
use zstd::bulk::{Compressor, Decompressor};

use super::DeltaError;

/// Whether payloads are compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Compression {
    /// Never: the link is faster than the compressor.
    Never,
    /// Where a sample shrinks, and the whole then shrinks as well, by more than 6 %.
    #[default]
    WherePays,
}

/// zstd level: the fastest ordinary one; replication is bound by links, not by ratio.
const LEVEL: i32 = 1;
/// One piece of the sample.
const PIECE: usize = 16 << 10;
/// Payloads up to this size are tried whole.
const NO_SAMPLE: usize = 4 * PIECE;
/// Room for a compressed piece that does not shrink.
const PIECE_ROOM: usize = PIECE + PIECE / 128 + 512;

thread_local! {
    static COMPRESSOR: RefCell<Option<Compressor<'static>>> = const { RefCell::new(None) };
    static DECOMPRESSOR: RefCell<Option<Decompressor<'static>>> = const { RefCell::new(None) };
}

/// Most bytes that a compressed payload may have to be worth keeping.
fn worth(raw: usize) -> usize {
    raw - raw.div_ceil(16)
}

/// Compresses `raw` onto the end of `out`, within its capacity. Gives the compressed length, or
/// `None` (and `out` unchanged) if it does not pay.
pub(super) fn append(raw: &[u8], out: &mut Vec<u8>) -> Option<usize> {
    if raw.is_empty() {
        return None;
    }
    COMPRESSOR.with_borrow_mut(|slot| {
        if slot.is_none() {
            *slot = Compressor::new(LEVEL).ok();
        }
        let c = slot.as_mut()?;
        if raw.len() > NO_SAMPLE && !sample_shrinks(c, raw) {
            return None;
        }
        let head = out.len();
        let mut tail = Cursor::new(std::mem::take(out));
        tail.set_position(u64::try_from(head).unwrap_or(0));
        // an error means that the result does not fit, that is, does not pay
        let packed = c.compress_to_buffer(raw, &mut tail).ok();
        *out = tail.into_inner();
        let packed = packed.filter(|n| *n > 0 && *n <= worth(raw.len()));
        out.truncate(head + packed.unwrap_or(0));
        packed
    })
}

fn sample_shrinks(c: &mut Compressor<'static>, raw: &[u8]) -> bool {
    let mut room = [0u8; PIECE_ROOM];
    let last = raw.len() - PIECE;
    let packed: usize = [0, last / 2, last]
        .iter()
        .map(|at| c.compress_to_buffer(&raw[*at..*at + PIECE], &mut room[..]).unwrap_or(PIECE))
        .sum();
    packed <= worth(3 * PIECE)
}

/// Decompresses to exactly `raw_len` bytes; never makes more.
pub(super) fn inflate(stored: &[u8], raw_len: u32) -> Result<Bytes, DeltaError> {
    let bad = || DeltaError::Payload(raw_len);
    let want = usize::try_from(raw_len).map_err(|_| bad())?;
    DECOMPRESSOR.with_borrow_mut(|slot| {
        if slot.is_none() {
            *slot = Decompressor::new().ok();
        }
        let raw = slot.as_mut().ok_or_else(bad)?.decompress(stored, want).map_err(|_| bad())?;
        if raw.len() == want { Ok(Bytes::from(raw)) } else { Err(bad()) }
    })
}
