//! A replica takes over on real files, and the node ends between any two steps (FAIL-03 to FAIL-07).

#[path = "takeover/again.rs"]
mod again;

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use node::mover::Gate;
use node::nbd::Export;
use node::volumes::open::{self, OpenPlan, Opened};
use rcp::proto::clock::{Mono, Wall};
use rcp::proto::delta::{
    Chunk, ChunkDraft, ChunkFlags, ChunkListSum, Compression, Extent, SetFlags, SetHeader, StepId,
};
use rcp::proto::frame::Branch;
use rcp::proto::ids::{
    Attempt, ChunkNumber, Generation, GroupName, Label, NodeName, SetNumber, StateId, VolumeId,
};
use volmcast::digest::{BlockHash, Sum};
use volmcast::history::line_of;
use volmcast::snapshots::PinId;
use volmcast::storage::{Identity, Standing, Storage};
use volmcast::units::{BlockCount, BlockSize};
use volmcast::volume::{CutPolicy, Ending, Event, IntakeError, PlaybackPolicy, Role, Volume};

const VOLUME: VolumeId = VolumeId([7; 16]);
const BLOCKS: u64 = 256;
const NOW: Mono = Mono(1_000_000);
const FIRST: Generation = Generation { counter: 1, id: [1; 16] };
const SECOND: Generation = Generation { counter: 2, id: [2; 16] };
const AT_ONCE: PlaybackPolicy =
    PlaybackPolicy { hwm: 0, timeout: Duration::ZERO, on_demand: false };
const LATER: PlaybackPolicy =
    PlaybackPolicy { hwm: u64::MAX, timeout: Duration::from_secs(3600), on_demand: false };

fn me() -> NodeName {
    NodeName::new("leaf").expect("valid")
}

fn plan() -> OpenPlan {
    OpenPlan {
        node: me(),
        persistent: true,
        cut: CutPolicy { hwm: 1 << 30, timeout: Duration::from_secs(3600) },
        playback: LATER,
        compression: Compression::Never,
        import: false,
        budget: volmcast::save::Budget::new(1 << 20),
        scrub: volmcast::volume::ScrubPolicy {
            rate: 16 << 20,
            every: Duration::from_secs(24 * 3600),
        },
        full: volmcast::volume::FullPolicy::default(),
    }
}

fn line(generation: Generation, from: u64, by: &str) -> Branch {
    Branch {
        generation,
        forked_from: SetNumber(from),
        opened_by: NodeName::new(by).expect("valid"),
        opened_at: Wall(1),
    }
}

fn open_at(folder: &Path) -> Opened {
    let mut o = open::open(folder, &plan(), NOW, Wall(1)).expect("opened");
    o.volume.resume();
    drive(&mut o);
    o
}

fn drive(o: &mut Opened) {
    let v = &mut o.volume;
    loop {
        let mut more = false;
        while let Some(io) = v.poll_io() {
            let outcome = o.files.perform(&io);
            v.io_done(NOW, io.tag, outcome);
            more = true;
        }
        while let Some((tag, work)) = v.poll_work() {
            v.work_done(NOW, tag, work.run());
            more = true;
        }
        while let Some(e) = v.poll_event() {
            assert!(!matches!(e, Event::Failed { .. } | Event::Damage { .. }), "{e:?}");
            if matches!(e, Event::SetReady { .. }) {
                v.extents_forgotten();
            }
            more = true;
        }
        v.timer(NOW, Wall(1));
        if !more {
            return;
        }
    }
}

/// Set `to`: block `to` and block 0 are filled with `byte`.
fn feed(v: &mut Volume, generation: Generation, to: u64, byte: u8) -> Result<(), IntakeError> {
    feed_with(v, generation, to, byte, None)
}

/// The same, and its header says the digest of the volume.
fn feed_with(
    v: &mut Volume,
    generation: Generation,
    to: u64,
    byte: u8,
    digest: Option<Sum>,
) -> Result<(), IntakeError> {
    let step = StepId {
        volume: VOLUME,
        generation,
        base: SetNumber(to - 1),
        to: SetNumber(to),
        attempt: Attempt(u32::try_from(to).expect("small")),
    };
    let chunk = ChunkDraft {
        step,
        number: ChunkNumber(0),
        block_size_shift: 12,
        flags: ChunkFlags::NONE,
        extents: vec![Extent::data(0, 1), Extent::data(to, 1)],
        payload: Bytes::from(vec![byte; 8192]),
    };
    let chunk = chunk.encode(Compression::Never).expect("a chunk");
    let mut sum = ChunkListSum::new();
    sum.add(ChunkNumber(0), chunk.body_crc()).expect("in order");
    v.receive_chunk(&chunk)?;
    v.receive_set_end(&SetHeader {
        step,
        chunk_count: 1,
        block_count: 2,
        volume_blocks: BLOCKS,
        block_shift: 12,
        cut_time: Wall(to),
        flags: digest.map_or(SetFlags::DIGEST_ABSENT, |_| SetFlags::default()),
        digest: digest.map_or([0; 32], Sum::to_header),
        chunk_list_crc: sum.crc(),
    })
}

/// A replica that shows set 2 and has set 3 in its save volume.
fn replica(folder: &Path) -> Opened {
    replica_with(folder, 1 << 20)
}

/// The same, with so many bytes for before images.
fn replica_with(folder: &Path, snapshots: u64) -> Opened {
    let identity = Identity {
        volume: VOLUME,
        label: Label::new("vol").expect("valid"),
        source: None,
        group: GroupName::new("g1").expect("valid"),
        node: me(),
        role: "replica".to_owned(),
        block_size: BlockSize::DEFAULT,
        blocks: BlockCount(BLOCKS),
        save: 16 << 20,
        snapshots,
        base: None,
        standing: Standing::default(),
    };
    let mut o = open::create(folder, &identity, &plan(), NOW, Wall(1)).expect("created");
    o.volume.adopt_history(vec![line(FIRST, 0, "prim")]);
    o.volume.set_playback_policy(AT_ONCE);
    for set in 1..=2 {
        feed(&mut o.volume, FIRST, set, u8::try_from(set).expect("small")).expect("taken");
        drive(&mut o);
    }
    o.volume.set_playback_policy(LATER);
    feed(&mut o.volume, FIRST, 3, 3).expect("taken");
    drive(&mut o);
    assert_eq!((o.volume.durable().visible, o.volume.position().0), (SetNumber(2), SetNumber(3)));
    o
}

fn bring_to_rest(o: &mut Opened, ending: Ending) -> SetNumber {
    o.volume.end_playback(Some(ending));
    drive(o);
    let at = o.volume.rest().expect("at rest");
    o.volume.keep_state(at).expect("kept");
    drive(o);
    assert!(o.volume.is_kept_durably(at));
    at
}

fn store_role(o: &Opened, folder: &Path, at: SetNumber) {
    let opens = StateId { volume: VOLUME, generation: SECOND, set: at };
    let mut identity = o.identity.clone();
    let snapshots = o.volume.config().snapshots.clone();
    let blocks = o.volume.blocks();
    open::make_writable(&identity, &o.files, snapshots, blocks).expect("writable");
    open::takes_over(&mut identity, opens);
    identity.store(folder).expect("stored");
}

fn is_primary(o: &Opened) -> bool {
    matches!(o.volume.config().role, Role::Primary { .. })
}

fn block(o: &Opened, b: u64) -> u8 {
    let mut buf = [0; 4096];
    o.primary.as_ref().expect("a primary").read(b * 4096, &mut buf).expect("read");
    buf[0]
}

#[test]
fn a_crash_at_any_step_leaves_the_old_role_or_the_new_one() {
    for (ending, fork) in [(Ending::PlayNoMore, 2), (Ending::PlayAll, 3)] {
        let dir = tempfile::tempdir().expect("temp");
        let folder = dir.path().join("v");
        drop(replica(&folder));
        // Before the role is stored: a replica, with its set 3 and perhaps a kept state.
        let mut o = open_at(&folder);
        assert!(!is_primary(&o));
        let at = bring_to_rest(&mut o, ending);
        assert_eq!(at, SetNumber(fork));
        drop(o);
        let mut o = open_at(&folder);
        assert!(!is_primary(&o) && o.volume.position().0 == SetNumber(3));
        // Repeated: the role is stored, and nothing else happens.
        let at = bring_to_rest(&mut o, ending);
        store_role(&o, &folder, at);
        drop(o);
        let o = open_at(&folder);
        assert!(is_primary(&o));
        let history = o.volume.durable().history.clone();
        assert_eq!(history.len(), 2);
        assert_eq!((history[1].generation, history[1].forked_from), (SECOND, at));
        assert_eq!(history[1].opened_by, me());
        assert_eq!(o.volume.position().0, at, "sets that were not shown are dropped");
        assert_eq!(block(&o, 0), u8::try_from(fork).expect("small"));
        drop(o);
        // Once more: the line is not opened twice, and it can be written.
        let mut o = open_at(&folder);
        assert_eq!(o.volume.durable().history, history);
        let p = o.primary.clone().expect("writable");
        p.gate().set(&Gate::Open);
        p.write(9 * 4096, &[9; 4096]).expect("written");
        o.volume.demand_cut(false);
        drive(&mut o);
        let next = at.next();
        assert_eq!(o.volume.durable().visible, next);
        drop((p, o));
        let o = open_at(&folder);
        assert_eq!(o.volume.durable().visible, next);
        assert_eq!(line_of(o.volume.history(), next), Some(SECOND));
        assert_eq!(block(&o, 9), 9);
        assert!(o.volume.kept().any(|s| s == at), "the restart point is kept");
        let states = o.states.as_ref().expect("states");
        let pin = states.board().pin_kept(at).expect("kept");
        let mut buf = [1; 4096];
        states.read(&pin, 9 * 4096, &mut buf).expect("read");
        assert_eq!(buf[0], 0, "the restart point has no block 9");
    }
}

#[test]
fn it_goes_on_from_the_set_that_is_named() {
    let dir = tempfile::tempdir().expect("temp");
    let folder = dir.path().join("v");
    let mut o = replica(&folder);
    for set in 4..=5 {
        feed(&mut o.volume, FIRST, set, u8::try_from(set).expect("small")).expect("taken");
    }
    drive(&mut o);
    let sets = |from: u64| (from..=5).map(SetNumber).collect::<Vec<_>>();
    assert_eq!(o.volume.endings().collect::<Vec<_>>(), sets(2));
    let at = bring_to_rest(&mut o, Ending::PlayTo(SetNumber(4)));
    assert_eq!((at, o.volume.durable().visible), (SetNumber(4), SetNumber(4)));
    assert_eq!(o.volume.endings().collect::<Vec<_>>(), sets(4));
    // It was not promoted after all: what came after is there, and is shown.
    o.volume.end_playback(None);
    drop(o);
    let mut o = open_at(&folder);
    assert_eq!(o.volume.position().0, SetNumber(5));
    let at = bring_to_rest(&mut o, Ending::PlayTo(SetNumber(4)));
    store_role(&o, &folder, at);
    drop(o);
    let o = open_at(&folder);
    assert!(is_primary(&o));
    assert_eq!((o.volume.position().0, block(&o, 0), block(&o, 5)), (SetNumber(4), 4, 0));
    assert_eq!(o.volume.history()[1].forked_from, SetNumber(4));
}

#[test]
fn in_place_it_goes_on_with_its_children_and_steps_down_again() {
    let dir = tempfile::tempdir().expect("temp");
    let folder = dir.path().join("v");
    let mut o = replica(&folder);
    let at = bring_to_rest(&mut o, Ending::PlayAll);
    let (capture, _) =
        open::writable(&o.identity, &open::Tuning::default(), &*o.files, o.volume.blocks())
            .expect("tables");
    o.volume.take_over(capture, plan().cut);
    o.volume.open_generation(SECOND, Wall(1));
    drive(&mut o);
    assert!(is_primary(&o) && o.volume.is_clean());
    assert_eq!(o.volume.durable().generation(), Some(SECOND));
    // A child at set 1 of the old line goes on from the save volume.
    let child = NodeName::new("child").expect("valid");
    let how = o.volume.consumer_attach(&child, SetNumber(1), ChunkNumber(0), None, None);
    assert_eq!(how, volmcast::volume::Attached::Resume);
    o.volume.step_down(AT_ONCE);
    drive(&mut o);
    assert!(!is_primary(&o) && o.volume.durable().visible == at);
    feed(&mut o.volume, SECOND, 4, 4).expect("taken");
    drive(&mut o);
    assert_eq!(o.volume.durable().visible, SetNumber(4));
}

#[test]
fn sets_past_a_fork_are_dropped_if_nobody_saw_them_and_given_up_if_somebody_did() {
    let dir = tempfile::tempdir().expect("temp");
    let folder = dir.path().join("v");
    let mut o = replica(&folder);
    let newer = || vec![line(FIRST, 0, "prim"), line(SECOND, 2, "other")];
    assert!(!o.volume.rewind_unshown(SetNumber(1)), "set 2 is shown");
    assert!(o.volume.rewind_unshown(SetNumber(2)));
    o.volume.adopt_history(newer());
    drive(&mut o);
    drop(o);
    let mut o = open_at(&folder);
    assert_eq!(o.volume.position().0, SetNumber(2), "they do not come back with a restart");
    let old = feed(&mut o.volume, FIRST, 3, 3);
    assert_eq!(old, Err(IntakeError::OtherLine { to: SetNumber(3) }));
    o.volume.set_playback_policy(AT_ONCE);
    feed(&mut o.volume, SECOND, 3, 33).expect("taken");
    drive(&mut o);
    assert_eq!(o.volume.durable().visible, SetNumber(3));
    drop(o);
    let mut o = open_at(&folder);
    assert_eq!(o.volume.durable().visible, SetNumber(3));
    o.volume.discard("a test", newer());
    drive(&mut o);
    drop(o);
    let o = open_at(&folder);
    assert!(o.volume.is_discarded() && o.volume.refusal().is_some());
    assert_eq!(o.volume.position().0, SetNumber::ZERO);
    assert!(o.volume.seed_position().is_some());
    assert_eq!(o.volume.history(), newer(), "what is known of writers is not given up");
}

/// An extent of a seed: blocks 0 to 63 are filled with `byte`.
fn extent(view: u64, byte: u8) -> Chunk {
    let step = StepId {
        volume: VOLUME,
        generation: FIRST,
        base: SetNumber::ZERO,
        to: SetNumber(view),
        attempt: Attempt(1),
    };
    let draft = ChunkDraft {
        step,
        number: ChunkNumber(0),
        block_size_shift: 12,
        flags: ChunkFlags::SEED,
        extents: vec![Extent::data(0, 64)],
        payload: Bytes::from(vec![byte; 64 * 4096]),
    };
    draft.encode(Compression::Never).expect("a chunk")
}

#[test]
fn what_an_extent_may_hold_is_known_over_a_restart_and_to_the_next_sender() {
    let dir = tempfile::tempdir().expect("temp");
    let folder = dir.path().join("v");
    let mut o = replica(&folder);
    o.volume.set_playback_policy(AT_ONCE);
    o.volume.seed_begin(SetNumber(3), BlockCount(BLOCKS));
    drive(&mut o);
    assert_eq!(o.volume.reaches(), SetNumber(3));
    // Of the set that the writer was filling.
    o.volume.receive_seed(64, SetNumber(5), &extent(5, 5));
    drive(&mut o);
    assert_eq!(o.volume.reaches(), SetNumber(5), "a line that forks at 4 finds more than its own");
    drop(o);
    let mut o = open_at(&folder);
    assert_eq!(o.volume.reaches(), SetNumber(5));
    // A sender that is behind the one before ends the seed.
    o.volume.set_playback_policy(AT_ONCE);
    o.volume.seed_resume();
    feed(&mut o.volume, FIRST, 4, 4).expect("taken");
    o.volume.receive_seed_end(SetNumber(4), false);
    drive(&mut o);
    assert!(o.volume.refusal().is_some(), "blocks of set 5 are not shown as set 4");
    feed(&mut o.volume, FIRST, 5, 55).expect("taken");
    drive(&mut o);
    assert_eq!((o.volume.refusal(), o.volume.durable().visible), (None, SetNumber(5)));
}

/// The digest of a volume whose first 64 blocks are filled with 5, but for these.
fn digest_but(other: &[(u64, u8)]) -> Sum {
    let byte = |b: u64| other.iter().find(|(o, _)| *o == b).map_or(5, |(_, byte)| *byte);
    let blocks = (0..64).filter(|b| byte(*b) > 0);
    Sum::of(&blocks.map(|b| BlockHash::of(b, &[byte(b); 4096])).collect::<Vec<_>>())
}

#[test]
fn a_seed_waits_for_no_set_that_was_lost_once_the_digest_proves_its_content() {
    for restarts in [false, true] {
        let dir = tempfile::tempdir().expect("temp");
        let folder = dir.path().join("v");
        let mut o = replica(&folder);
        o.volume.set_playback_policy(AT_ONCE);
        o.volume.seed_begin(SetNumber(3), BlockCount(BLOCKS));
        drive(&mut o);
        // Block 5 was written in a set that the writer lost in a crash, as it lost set 6.
        o.volume.receive_seed(64, SetNumber(6), &extent(6, 5));
        drive(&mut o);
        if restarts {
            drop(o);
            o = open_at(&folder);
            o.volume.set_playback_policy(AT_ONCE);
            o.volume.seed_resume();
            // What was not durable comes again.
            assert_eq!(o.volume.seed_position(), Some((0, SetNumber(3))));
            o.volume.receive_seed(64, SetNumber(6), &extent(6, 5));
            drive(&mut o);
        }
        o.volume.seed_sender_changed();
        o.volume.receive_seed_end(SetNumber(3), false);
        let sum = digest_but(&[(0, 4), (4, 4), (5, 0)]);
        feed_with(&mut o.volume, FIRST, 4, 4, Some(sum)).expect("taken");
        drive(&mut o);
        assert!(o.volume.refusal().is_some(), "block 5 is not shown as of set 4");
        // The first set after the crash holds all that may have been written before it.
        let sum = digest_but(&[(0, 55), (4, 4), (5, 55)]);
        feed_with(&mut o.volume, FIRST, 5, 55, Some(sum)).expect("taken");
        drive(&mut o);
        if restarts {
            assert!(o.volume.refusal().is_some(), "content may have come without its hashes");
            // Nothing comes for a while: all of it is read.
            o.volume.timer(NOW.after(Duration::from_secs(20)), Wall(1));
            drive(&mut o);
        }
        assert_eq!((o.volume.refusal(), o.volume.durable().visible), (None, SetNumber(5)));
        let known = o.volume.digest();
        assert_eq!((known, o.volume.differs()), (Some((SetNumber(5), sum)), None));
    }
}

#[test]
fn a_line_is_opened_after_the_set_that_is_being_made() {
    let dir = tempfile::tempdir().expect("temp");
    let folder = dir.path().join("v");
    let mut o = replica(&folder);
    let at = bring_to_rest(&mut o, Ending::PlayAll);
    store_role(&o, &folder, at);
    drop(o);
    let mut o = open_at(&folder);
    let p = o.primary.clone().expect("writable");
    p.gate().set(&Gate::Open);
    p.write(9 * 4096, &[9; 4096]).expect("written");
    o.volume.demand_cut(false);
    assert_eq!(o.volume.draining(), Some(at.next()));
    let third = Generation { counter: 3, id: [3; 16] };
    o.volume.open_generation(third, Wall(1));
    assert_eq!(o.volume.history().len(), 2, "the set under way is of the line before");
    drive(&mut o);
    let history = o.volume.durable().history.clone();
    assert_eq!((history.len(), history[2].forked_from), (3, at.next()));
    p.write(10 * 4096, &[10; 4096]).expect("written");
    o.volume.demand_cut(false);
    drive(&mut o);
    drop((p, o));
    let o = open_at(&folder);
    assert_eq!(o.volume.durable().visible, SetNumber(at.0 + 2), "both sets are there");
    assert_eq!(o.volume.position().0, SetNumber(at.0 + 2));
}

/// Blocks 0 to 3 and 40 of the only branch.
fn branch(o: &Opened) -> [u8; 5] {
    let all: Vec<_> = o.volume.branches().collect();
    let [b] = &all[..] else { panic!("one branch: {all:?}") };
    assert!(!b.broken);
    let states = o.states.as_ref().expect("states");
    let pin = states.board().pin_branch(PinId(b.branch.pin), b.branch.set, b.branch.blocks);
    let pin = pin.expect("a branch");
    [0, 1, 2, 3, 40].map(|b| {
        let mut buf = [0; 4096];
        states.read(&pin, b * 4096, &mut buf).expect("read");
        buf[0]
    })
}

#[test]
fn what_was_held_is_a_branch_before_anything_of_it_is_overwritten() {
    // With room for all of it, and for a quarter of what an extent overwrites.
    for slots in [200, 16] {
        let dir = tempfile::tempdir().expect("temp");
        let folder = dir.path().join("v");
        let mut o = replica_with(&folder, slots * (4096 + 32));
        assert!(o.volume.can_rewind(SetNumber(0)).is_err(), "nothing is common");
        o.volume.can_rewind(SetNumber(1)).expect("possible");
        o.volume.end_playback(Some(Ending::PlayNoMore));
        drive(&mut o);
        assert_eq!(o.volume.rest(), Some(SetNumber(2)));
        let newer = vec![line(FIRST, 0, "prim"), line(SECOND, 1, "other")];
        let name = o.volume.rewind(SetNumber(1), newer.clone(), true).expect("a branch");
        assert_eq!(name, "1-01010101-2");
        drive(&mut o);
        drop(o);
        let mut o = open_at(&folder);
        assert_eq!(o.volume.undoes(), Some((SetNumber(1), true)));
        assert_eq!((o.volume.history(), branch(&o)), (&newer[..], [2, 1, 2, 0, 0]));
        assert!(o.volume.refusal().is_some_and(|r| r.contains("taken back to set 1")));
        // What changed after set 1, as its own list says.
        assert_eq!(o.volume.undo_list(), None, "it is read first");
        drive(&mut o);
        assert_eq!(o.volume.undo_list(), Some(vec![(0, 1), (2, 1)]));
        assert_eq!(o.volume.seed_position(), Some((0, SetNumber(1))));
        o.volume.catch_up_begin(SetNumber(1), BlockCount(BLOCKS), 64);
        drive(&mut o);
        o.volume.receive_seed(64, SetNumber(1), &extent(1, 9));
        drive(&mut o);
        assert_eq!(branch(&o), [2, 1, 2, 0, 0]);
        let reason = o.volume.status().reason.unwrap_or_default();
        if slots == 16 {
            assert!(reason.contains(&format!("branch drop VOLUME {name}")), "{reason}");
            assert!(!o.volume.drop_branch("2-01010101-2"));
            assert!(o.volume.drop_branch(&name));
            drive(&mut o);
            assert_eq!(o.volume.branches().count(), 0);
        } else {
            assert!(!reason.contains("stopped"), "{reason}");
        }
        o.volume.receive_seed_end(SetNumber(1), true);
        drive(&mut o);
        assert_eq!((o.volume.durable().visible, o.volume.refusal()), (SetNumber(1), None));
        let states = o.states.clone().expect("states");
        let pin = states.board().pin_visible().expect("readable");
        let mut buf = [0; 4096];
        states.read(&pin, 40 * 4096, &mut buf).expect("read");
        assert_eq!(buf[0], 9);
        drop((pin, states, o));
        let mut o = open_at(&folder);
        if slots == 200 {
            assert_eq!(branch(&o), [2, 1, 2, 0, 0]);
            // A seed would overwrite all of it: it waits for an operator.
            o.volume.seed_begin(SetNumber(4), BlockCount(BLOCKS));
            drive(&mut o);
            assert_eq!(branch(&o), [2, 1, 2, 0, 0]);
            let reason = o.volume.status().reason.unwrap_or_default();
            assert!(reason.contains("branch drop"), "{reason}");
            assert!(o.volume.drop_branch(&name));
            drive(&mut o);
            assert!(!o.volume.status().reason.unwrap_or_default().contains("branch"));
        }
    }
}

#[test]
fn a_kept_state_is_held_against_the_table_while_newer_content_is_taken_back() {
    use std::os::unix::fs::FileExt;
    use volmcast::io::FileId;
    let dir = tempfile::tempdir().expect("temp");
    let folder = dir.path().join("v");
    let mut o = replica(&folder);
    o.volume.keep_state(SetNumber(2)).expect("kept");
    o.volume.end_playback(Some(Ending::PlayAll));
    drive(&mut o);
    assert_eq!(o.volume.rest(), Some(SetNumber(3)));
    let newer = vec![line(FIRST, 0, "prim"), line(SECOND, 2, "other")];
    o.volume.rewind(SetNumber(2), newer, true).expect("a branch");
    drive(&mut o);
    assert!(o.volume.refusal().is_some(), "its content is hidden");
    // A bit of block 1 rots, which set 3 did not change.
    let content = o.files.file(FileId::Base);
    content.write_all_at(&[1 ^ 4], 4096 + 9).expect("written");
    let states = o.states.clone().expect("states");
    let pin = states.board().pin_kept(SetNumber(2)).expect("kept");
    let read = |b: u64| {
        let mut buf = [0; 4096];
        states.read(&pin, b * 4096, &mut buf).map(|()| buf[9]).map_err(|e| e.to_string())
    };
    assert!(read(1).expect_err("damaged").contains("block 1 of state 2"));
    assert_eq!([0, 2, 3].map(read), [Ok(2), Ok(2), Ok(0)]);
}
