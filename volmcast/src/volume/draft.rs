//! Chunks from blocks: what a set and a seed have in common.

use bytes::{Bytes, BytesMut};
use rcp::proto::delta::{ChunkDraft, ChunkFlags, Extent, StepId};
use rcp::proto::ids::ChunkNumber;

/// A chunk from pieces in rising block order: all-zero blocks become zero extents.
pub(super) fn draft(
    step: StepId,
    number: ChunkNumber,
    flags: ChunkFlags,
    shift: u8,
    pieces: &[(u64, Bytes)],
) -> ChunkDraft {
    let size = 1usize << shift;
    let mut extents: Vec<Extent> = Vec::new();
    let mut payload = BytesMut::with_capacity(pieces.iter().map(|(_, d)| d.len()).sum());
    for (first, data) in pieces {
        for (i, block) in data.chunks(size).enumerate() {
            let b = first + i as u64;
            let zero = crate::digest::is_zero(block);
            let next = if zero { Extent::zero(b, 1) } else { Extent::data(b, 1) };
            if !zero {
                payload.extend_from_slice(block);
            }
            match extents.last_mut() {
                Some(e) if e.kind == next.kind && e.end() == b => e.count += 1,
                _ => extents.push(next),
            }
        }
    }
    ChunkDraft { step, number, block_size_shift: shift, flags, extents, payload: payload.freeze() }
}
