//! What a replica stands at when it was opened, and what it takes from then on.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rcp::proto::clock::{Mono, Wall};
use rcp::proto::delta::{
    Chunk, ChunkDraft, ChunkFlags, ChunkListSum, Compression, Extent, SetFlags, SetHeader, StepId,
};
use rcp::proto::frame::Branch;
use rcp::proto::ids::{Attempt, ChunkNumber, Generation, NodeName, SetNumber, VolumeId};
use volmcast::io::FileId;
use volmcast::mailbox::{Mailbox, SLOT_LEN, StageMark};
use volmcast::save::{Budget, RecordHeader, RecordKind};
use volmcast::snapshots::SnapshotStore;
use volmcast::snapshots::layout::AreaLayout;
use volmcast::units::{BlockCount, BlockSize, LogPos};
use volmcast::volume::{
    FullPolicy, IntakeError, MIN_CHANGES, PlaybackPolicy, Role, ScrubPolicy, Volume, VolumeConfig,
};

const VOLUME: VolumeId = VolumeId([7; 16]);
const LINE: Generation = Generation { counter: 1, id: [1; 16] };
const SHIFT: u8 = 9;
const RING: usize = 1 << 16;

fn set_4(attempt: u32) -> StepId {
    let (base, to) = (SetNumber(3), SetNumber(4));
    StepId { volume: VOLUME, generation: LINE, base, to, attempt: Attempt(attempt) }
}

fn chunk(step: StepId, number: u32) -> Chunk {
    let draft = ChunkDraft {
        step,
        number: ChunkNumber(number),
        block_size_shift: SHIFT,
        flags: ChunkFlags::NONE,
        extents: vec![Extent::zero(u64::from(number), 1)],
        payload: Bytes::new(),
    };
    draft.encode(Compression::Never).expect("a chunk")
}

fn end(step: StepId, chunks: u32, sum: u32) -> SetHeader {
    SetHeader {
        step,
        chunk_count: chunks,
        block_count: u64::from(chunks),
        volume_blocks: 64,
        block_shift: SHIFT,
        cut_time: Wall(1),
        flags: SetFlags::DIGEST_ABSENT,
        digest: [0; 32],
        chunk_list_crc: sum,
    }
}

/// A replica at state 3, in whose log stands chunk 1 of a set that is open: the one before was given
/// back. Its slot says what `staged` says.
fn replica_within_a_set(staged: Option<StageMark>) -> Volume {
    let block_size = BlockSize::from_shift(SHIFT).expect("a size");
    let blocks = BlockCount(64);
    let chunk = chunk(set_4(1), 1);
    let h = RecordHeader {
        kind: RecordKind::Chunk,
        body_len: u32::try_from(chunk.bytes().len()).expect("short"),
        pos: LogPos(4096),
        volume: VOLUME,
        to: SetNumber(4),
        chunk: ChunkNumber(1),
    };
    let mut save = vec![0; RING];
    save[4096..4160].copy_from_slice(&h.encode());
    save[4160..4160 + chunk.bytes().len()].copy_from_slice(chunk.bytes());
    let len = (64 + chunk.bytes().len() as u64).next_multiple_of(64);
    let three = SetNumber(3);
    let m = Mailbox {
        sequence: 8,
        log_tail: LogPos(4096),
        log_head: LogPos(4096 + len),
        log_base: three,
        visible: three,
        merged: three,
        staged,
        history: vec![Branch {
            generation: LINE,
            forked_from: SetNumber::ZERO,
            opened_by: NodeName::new("w").expect("a name"),
            opened_at: Wall(1),
        }],
        ..Mailbox::empty(VOLUME, block_size, blocks)
    };
    let mut mailbox = vec![0; 2 * SLOT_LEN];
    for m in [Mailbox { sequence: 7, ..m.clone() }, m] {
        let slot = m.encode().expect("a slot");
        let at = usize::try_from(Mailbox::slot_offset(m.sequence)).expect("an offset");
        mailbox[at..at + slot.len()].copy_from_slice(&slot);
    }
    let policy = PlaybackPolicy { hwm: 0, timeout: Duration::ZERO, on_demand: false };
    let area = AreaLayout { volume: VOLUME, block: block_size, slots: 8 };
    let cfg = VolumeConfig {
        volume: VOLUME,
        node: NodeName::new("n").expect("a name"),
        block_size,
        blocks,
        save_capacity: RING as u64,
        changes: MIN_CHANGES,
        scrub: ScrubPolicy { rate: 0, every: Duration::ZERO },
        cache: 1 << 16,
        readback: 1 << 16,
        budget: Budget::new(1 << 16),
        chunk_bytes: 4096,
        window: 1 << 15,
        compression: Compression::Never,
        snapshots: Arc::new(SnapshotStore::new(area)),
        full: FullPolicy::default(),
        role: Role::Replica { policy },
        opens: None,
    };
    let mut read = |file, offset, len: usize| {
        let from = usize::try_from(offset).expect("an offset");
        let of = |file: &[u8]| Bytes::copy_from_slice(&file[from..from + len]);
        Ok(match file {
            FileId::Mailbox => of(&mailbox),
            FileId::Save => of(&save),
            _ => Bytes::from(vec![0; len]),
        })
    };
    Volume::open(cfg, Mono(1), Wall(1), &mut read).expect("it opens")
}

#[test]
fn a_set_joined_in_its_middle_ends_without_a_sum() {
    let mut v = replica_within_a_set(None);
    assert_eq!(v.opened().open, (true, true));
    assert_eq!(v.receive_chunk(&chunk(set_4(1), 2)), Ok(()));
    assert_eq!(v.receive_set_end(&end(set_4(1), 3, 77)), Ok(()));
}

#[test]
fn another_attempt_at_a_set_joined_in_its_middle_is_checked_in_full() {
    let mut v = replica_within_a_set(None);
    let first = chunk(set_4(2), 0);
    assert_eq!(v.receive_chunk(&first), Ok(()));
    let mut sum = ChunkListSum::new();
    sum.add(ChunkNumber(0), first.body_crc()).expect("the first");
    let to = SetNumber(4);
    let wrong = IntakeError::Mismatch { to, what: "checksum of chunks" };
    assert_eq!(v.receive_set_end(&end(set_4(2), 1, sum.crc() ^ 1)), Err(wrong));
    assert_eq!(v.receive_set_end(&end(set_4(2), 1, sum.crc())), Ok(()));
}

#[test]
fn nothing_is_left_of_a_set_that_was_open_when_a_catch_up_was_staged() {
    let from = SetNumber(9);
    let (over, view) = (SetNumber(3), from);
    let v = replica_within_a_set(Some(StageMark { over, from, next_block: 0, need: None, view }));
    let o = v.opened();
    assert!(o.staged.is_some() && o.steps.is_empty(), "{o:?}");
    assert_eq!(o.open, (false, false), "what comes next is no set that was joined in its middle");
}
