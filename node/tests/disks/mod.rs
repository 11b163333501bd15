//! Volumes on disks in memory, driven by hand: what several tests begin with.

use std::time::Duration;

use bytes::Bytes;
use node::volumes::open::{self, Machine, OpenFailure, OpenPlan, Tuning};
use rcp::proto::clock::{Mono, Wall};
use rcp::proto::delta::{
    ChunkDraft, ChunkFlags, ChunkListSum, Compression, Extent, SetFlags, SetHeader, StepId,
};
use rcp::proto::frame::Branch;
use rcp::proto::ids::{
    Attempt, ChunkNumber, Generation, GroupName, Label, NodeName, SetNumber, VolumeId,
};
use volmcast::digest::Sum;
use volmcast::storage::{Identity, Standing, Storage};
use volmcast::units::{BlockCount, BlockSize};
use volmcast::volume::{CutPolicy, Event, PlaybackPolicy, ScrubPolicy};

/// Blocks of each volume.
pub(crate) const BLOCKS: u64 = 64;
const NOW: Mono = Mono(1_000_000);
const ID: VolumeId = VolumeId([7; 16]);

/// The line of writers.
pub(crate) fn line() -> Generation {
    Generation { counter: 1, id: [1; 16] }
}

fn me() -> NodeName {
    NodeName::new("here").expect("valid")
}

fn plan() -> OpenPlan {
    OpenPlan {
        node: me(),
        persistent: true,
        cut: CutPolicy { hwm: 1 << 30, timeout: Duration::from_secs(3600) },
        playback: PlaybackPolicy { hwm: 0, timeout: Duration::ZERO, on_demand: false },
        compression: Compression::Never,
        import: false,
        budget: volmcast::save::Budget::new(1 << 20),
        scrub: ScrubPolicy { rate: 0, every: Duration::ZERO },
        full: volmcast::volume::FullPolicy::default(),
    }
}

/// Several steps to look through a volume.
fn tuning() -> Tuning {
    Tuning { chunk_bytes: 4 * 4096, ..Tuning::default() }
}

pub(crate) fn identity(role: &str) -> Identity {
    Identity {
        volume: ID,
        label: Label::new("vol").expect("valid"),
        source: None,
        group: GroupName::new("g1").expect("valid"),
        node: me(),
        role: role.to_owned(),
        block_size: BlockSize::DEFAULT,
        blocks: BlockCount(BLOCKS),
        save: 8 << 20,
        snapshots: 1 << 20,
        base: None,
        standing: Standing::default(),
    }
}

pub(crate) fn format(identity: &Identity, disk: &dyn Storage) {
    open::format(identity, &plan(), &tuning(), disk).expect("formatted");
}

pub(crate) fn opened(identity: &Identity, files: &dyn Storage) -> Result<Machine, OpenFailure> {
    open::assemble(identity, &plan(), &tuning(), files, NOW, Wall(1))
}

/// Carries out what the volume wants.
pub(crate) fn drive(m: &mut Machine, files: &dyn Storage) -> Vec<Event> {
    drive_at(m, files, NOW)
}

/// The same at another time.
pub(crate) fn drive_at(m: &mut Machine, files: &dyn Storage, now: Mono) -> Vec<Event> {
    let v = &mut m.volume;
    let mut events = Vec::new();
    v.timer(now, Wall(now.0));
    loop {
        let mut more = false;
        while let Some(io) = v.poll_io() {
            v.io_done(now, io.tag, files.perform(&io));
            more = true;
        }
        while let Some((tag, work)) = v.poll_work() {
            v.work_done(now, tag, work.run());
            more = true;
        }
        while let Some(e) = v.poll_event() {
            if matches!(e, Event::SetReady { .. }) {
                v.extents_forgotten();
            }
            events.push(e);
            more = true;
        }
        v.timer(now, Wall(now.0));
        if !more {
            return events;
        }
    }
}

/// The replica knows whose sets it gets.
pub(crate) fn follow(m: &mut Machine) {
    m.volume.adopt_history(vec![Branch {
        generation: line(),
        forked_from: SetNumber(0),
        opened_by: NodeName::new("prim").expect("valid"),
        opened_at: Wall(1),
    }]);
}

/// Set `to` writes these blocks, in rising order; afterwards the volume has this digest.
pub(crate) fn feed(m: &mut Machine, to: u64, blocks: &[(u64, Vec<u8>)], digest: Sum) {
    feed_set(m, to, blocks, Some(digest));
}

/// As [`feed`], of a primary that may not tell its digest.
pub(crate) fn feed_set(m: &mut Machine, to: u64, blocks: &[(u64, Vec<u8>)], digest: Option<Sum>) {
    let step = StepId {
        volume: ID,
        generation: line(),
        base: SetNumber(to - 1),
        to: SetNumber(to),
        attempt: Attempt(u32::try_from(to).expect("small")),
    };
    let chunk = ChunkDraft {
        step,
        number: ChunkNumber(0),
        block_size_shift: 12,
        flags: ChunkFlags::NONE,
        extents: blocks.iter().map(|(b, _)| Extent::data(*b, 1)).collect(),
        payload: Bytes::from(blocks.iter().map(|(_, c)| &c[..]).collect::<Vec<_>>().concat()),
    };
    let chunk = chunk.encode(Compression::Never).expect("a chunk");
    let mut list = ChunkListSum::new();
    list.add(ChunkNumber(0), chunk.body_crc()).expect("in order");
    m.volume.receive_chunk(&chunk).expect("taken");
    let end = SetHeader {
        step,
        chunk_count: 1,
        block_count: blocks.len() as u64,
        volume_blocks: m.volume.blocks().0,
        block_shift: 12,
        cut_time: Wall(to),
        flags: if digest.is_none() { SetFlags::DIGEST_ABSENT } else { SetFlags::default() },
        digest: digest.map_or_else(Default::default, Sum::to_header),
        chunk_list_crc: list.crc(),
    };
    m.volume.receive_set_end(&end).expect("taken");
}
