//! A mirror on real files: whom it refuses, what a version of it is, and what a restart finds
//! (VMC-08).

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use node::volumes::open::{self, OpenPlan, Opened};
use rcp::proto::clock::{Mono, Wall};
use rcp::proto::delta::{
    Chunk, ChunkDraft, ChunkFlags, ChunkListSum, Compression, Extent, SetFlags, SetHeader, StepId,
};
use rcp::proto::frame::Branch;
use rcp::proto::ids::{
    Attempt, ChunkNumber, Generation, GroupName, Label, NodeName, SetNumber, VolumeId,
};
use volmcast::storage::{Identity, Standing, Storage};
use volmcast::units::{BlockCount, BlockSize};
use volmcast::volume::{CutPolicy, Ending, KeepError, PlaybackPolicy, ScrubPolicy};

const VOLUME: VolumeId = VolumeId([7; 16]);
const BLOCKS: u64 = 256;
const NOW: Mono = Mono(1_000_000);
const LINE: Generation = Generation { counter: 1, id: [1; 16] };
const CUT: CutPolicy = CutPolicy { hwm: 1 << 30, timeout: Duration::from_secs(3600) };

/// Sets are brought into the content after an hour, unless somebody wants a version.
fn playback(on_demand: bool) -> PlaybackPolicy {
    PlaybackPolicy { hwm: u64::MAX, timeout: Duration::from_secs(3600), on_demand }
}

fn plan(on_demand: bool) -> OpenPlan {
    OpenPlan {
        node: NodeName::new("leaf").expect("valid"),
        persistent: true,
        cut: CUT,
        playback: playback(on_demand),
        compression: Compression::Never,
        import: false,
        budget: volmcast::save::Budget::new(1 << 20),
        scrub: ScrubPolicy { rate: 0, every: Duration::ZERO },
        full: volmcast::volume::FullPolicy::default(),
    }
}

fn drive(o: &mut Opened) {
    let v = &mut o.volume;
    loop {
        let mut more = false;
        while let Some(io) = v.poll_io() {
            v.io_done(NOW, io.tag, o.files.perform(&io));
            more = true;
        }
        while let Some((tag, work)) = v.poll_work() {
            v.work_done(NOW, tag, work.run());
            more = true;
        }
        while v.poll_event().is_some() {
            more = true;
        }
        v.timer(NOW, Wall(1));
        if !more {
            return;
        }
    }
}

/// The node ends, and starts again.
fn again(o: Opened, folder: &Path, on_demand: bool) -> Opened {
    drop(o);
    let mut o = open::open(folder, &plan(on_demand), NOW, Wall(1)).expect("opened");
    o.volume.resume();
    drive(&mut o);
    o
}

/// A mirror that has nothing yet.
fn mirror(folder: &Path) -> Opened {
    let identity = Identity {
        volume: VOLUME,
        label: Label::new("vol").expect("valid"),
        source: None,
        group: GroupName::new("g1").expect("valid"),
        node: NodeName::new("leaf").expect("valid"),
        role: "replica".to_owned(),
        block_size: BlockSize::DEFAULT,
        blocks: BlockCount(BLOCKS),
        save: 16 << 20,
        snapshots: 1 << 20,
        base: None,
        standing: Standing::default(),
    };
    let mut o = open::create(folder, &identity, &plan(true), NOW, Wall(1)).expect("created");
    o.volume.adopt_history(vec![Branch {
        generation: LINE,
        forked_from: SetNumber(0),
        opened_by: NodeName::new("prim").expect("valid"),
        opened_at: Wall(1),
    }]);
    drive(&mut o);
    o
}

/// The chunk of set `to`: blocks 0 and `to` are filled with it.
fn chunk(to: u64) -> Chunk {
    let step = StepId {
        volume: VOLUME,
        generation: LINE,
        base: SetNumber(to - 1),
        to: SetNumber(to),
        attempt: Attempt(u32::try_from(to).expect("small")),
    };
    let draft = ChunkDraft {
        step,
        number: ChunkNumber(0),
        block_size_shift: 12,
        flags: ChunkFlags::NONE,
        extents: vec![Extent::data(0, 1), Extent::data(to, 1)],
        payload: Bytes::from(vec![u8::try_from(to).expect("small"); 8192]),
    };
    draft.encode(Compression::Never).expect("a chunk")
}

fn feed(o: &mut Opened, to: u64) {
    let chunk = chunk(to);
    let mut sum = ChunkListSum::new();
    sum.add(ChunkNumber(0), chunk.body_crc()).expect("in order");
    o.volume.receive_chunk(&chunk).expect("taken");
    let end = SetHeader {
        step: chunk.step(),
        chunk_count: 1,
        block_count: 2,
        volume_blocks: BLOCKS,
        block_shift: 12,
        cut_time: Wall(to),
        flags: SetFlags::DIGEST_ABSENT,
        digest: [0; 32],
        chunk_list_crc: sum.crc(),
    };
    o.volume.receive_set_end(&end).expect("taken");
    drive(o);
}

/// What readers get: the bytes of blocks 0 to 4, or why they get nothing.
fn read(o: &Opened) -> Result<[u8; 5], String> {
    let states = o.states.as_ref().expect("states");
    let pin = states.board().pin_visible()?;
    Ok([0, 1, 2, 3, 4].map(|b| {
        let mut buf = [0; 4096];
        states.read(&pin, b * 4096, &mut buf).expect("read");
        buf[0]
    }))
}

#[track_caller]
fn mirrors(o: &Opened, newest: &str) {
    let e = read(o).expect_err("nobody reads a mirror");
    assert!(e.contains("mirrors without consistent views"), "{e}");
    assert!(o.volume.is_mirroring() && o.volume.unwhole().is_none());
    let s = o.volume.status();
    assert!(s.state.starts_with("mirroring"), "{}", s.state);
    assert_eq!(s.reason, None);
    let said = s.mirror.expect("words");
    assert!(said.starts_with(&e) && said.ends_with(newest), "{said}");
}

#[test]
fn a_version_is_the_newest_whole_set_and_what_follows_is_shown() {
    let dir = tempfile::tempdir().expect("temp");
    let folder = dir.path().join("v");
    let mut o = mirror(&folder);
    mirrors(&o, "no set is here whole yet");
    for set in 1..=3 {
        feed(&mut o, set);
    }
    // Of the next one there is a part, which never gets its end.
    o.volume.receive_chunk(&chunk(4)).expect("taken");
    drive(&mut o);
    mirrors(&o, "whole is 3");
    assert_eq!(o.volume.saved_position(), (SetNumber(3), ChunkNumber(1)), "acknowledged");
    let no = o.volume.keep_state(SetNumber(9)).expect_err("nothing is kept for readers");
    assert!(matches!(no, KeepError::Mirrors(_)), "{no}");

    o.volume.set_opened(true);
    assert!(read(&o).is_err(), "not before a restart would find it so");
    drive(&mut o);
    assert!(o.volume.settings_durable());
    assert_eq!(read(&o), Ok([3, 1, 2, 3, 0]));
    assert_eq!(o.volume.status().reason, None);
    o.volume.keep_state(SetNumber(3)).expect("kept");
    let mut o = again(o, &folder, true);
    assert_eq!(read(&o), Ok([3, 1, 2, 3, 0]));
    // From here on the playback policy counts, as at any replica.
    o.volume.set_playback_policy(PlaybackPolicy { hwm: 0, ..playback(true) });
    feed(&mut o, 4);
    assert_eq!(read(&o), Ok([4, 1, 2, 3, 4]));

    // Whoever has a state reads it on; nobody gets another, from the first moment.
    let states = o.states.clone().expect("states");
    let pin = states.board().pin_visible().expect("readable");
    o.volume.set_opened(false);
    mirrors(&o, "whole is 4");
    drive(&mut o);
    feed(&mut o, 5);
    let mut buf = [0; 4096];
    states.read(&pin, 0, &mut buf).expect("read");
    assert_eq!(buf[0], 4);
    drop((pin, states));
    let mut o = again(o, &folder, true);
    mirrors(&o, "whole is 5");
    o.volume.set_opened(true);
    drive(&mut o);
    assert_eq!(read(&o).map(|b| b[0]), Ok(5));
}

#[test]
fn a_crash_before_the_wish_is_durable_leaves_what_was_and_the_topology_decides_who_mirrors() {
    let dir = tempfile::tempdir().expect("temp");
    let folder = dir.path().join("v");
    let mut o = mirror(&folder);
    feed(&mut o, 1);
    o.volume.set_opened(true);
    let mut o = again(o, &folder, true);
    assert!(o.volume.is_mirroring() && read(&o).is_err());
    o.volume.set_opened(true);
    drive(&mut o);
    assert_eq!(read(&o).map(|b| b[0]), Ok(1));
    o.volume.set_opened(false);
    let o = again(o, &folder, true);
    assert_eq!(read(&o).map(|b| b[0]), Ok(1), "the wish was lost with the crash");
    // Without the setting it is a replica; with it again, one that was brought to a version.
    let mut o = again(o, &folder, false);
    assert_eq!((read(&o).map(|b| b[0]), o.volume.is_mirror()), (Ok(1), false));
    o.volume.set_opened(false);
    drive(&mut o);
    assert_eq!(read(&o).map(|b| b[0]), Ok(1));
    let o = again(o, &folder, true);
    mirrors(&o, "whole is 1");
}

#[test]
fn a_time_as_the_writer_ends_the_wish() {
    let dir = tempfile::tempdir().expect("temp");
    let folder = dir.path().join("v");
    let mut o = mirror(&folder);
    feed(&mut o, 1);
    o.volume.set_opened(true);
    drive(&mut o);
    o.volume.end_playback(Some(Ending::PlayAll));
    drive(&mut o);
    assert_eq!(o.volume.rest(), Some(SetNumber(1)));
    // It keeps the state that it goes on from, as every replica does.
    o.volume.keep_state(SetNumber(1)).expect("kept");
    drive(&mut o);
    let tuning = open::Tuning::default();
    let (capture, _) =
        open::writable(&o.identity, &tuning, &*o.files, o.volume.blocks()).expect("tables");
    o.volume.take_over(capture, CUT);
    let line = Generation { counter: 2, id: [2; 16] };
    o.volume.open_generation(line, Wall(2));
    drive(&mut o);
    assert_eq!((o.volume.refusal(), o.volume.is_mirroring()), (None, false));
    assert!(o.volume.is_clean());
    o.volume.step_down(playback(true));
    drive(&mut o);
    mirrors(&o, "whole is 1");
}
