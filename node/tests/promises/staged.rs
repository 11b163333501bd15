//! A catch-up that fits the save volume is staged: what is shown stays shown until the state that
//! follows it is whole, and nothing between the two is ever shown, kept or acknowledged.

use rcp::proto::delta::Chunk;
use volmcast::volume::{Attached, Ending};

use super::tables::{drive_for, lose_newest_slot};
use super::*;

/// What the parent's content is made of after set 20.
pub(super) const CAUGHT_UP: u8 = 77;

/// Some blocks, as of a state that is not newer than `view`.
pub(super) fn extent(blocks: std::ops::Range<u64>, view: u64) -> Chunk {
    let step = StepId {
        volume: VolumeId([7; 16]),
        generation: LINE,
        base: SetNumber::ZERO,
        to: SetNumber(view),
        attempt: Attempt(1),
    };
    let count = u32::try_from(blocks.end - blocks.start).expect("small");
    let draft = ChunkDraft {
        step,
        number: ChunkNumber(0),
        block_size_shift: 12,
        flags: ChunkFlags::SEED,
        extents: vec![Extent::data(blocks.start, count)],
        payload: Bytes::from(vec![CAUGHT_UP; count as usize * 4096]),
    };
    draft.encode(Compression::Never).expect("a chunk")
}

/// A replica that shows set 5, in which block n is n up to there.
fn behind(folder: &Path) -> Opened {
    let mut o = replica(folder);
    for set in 1..=5 {
        feed(&mut o.volume, set);
        drive(&mut o);
    }
    o
}

pub(super) fn block(o: &Opened, b: u64) -> u8 {
    let states = o.states.as_ref().expect("readable");
    let pin = states.board().pin_visible().expect("readable");
    let mut buf = [0; 4096];
    states.read(&pin, b * 4096, &mut buf).expect("read");
    buf[0]
}

/// Block `b` of kept state `set`.
pub(super) fn kept_block(o: &Opened, set: u64, b: u64) -> u8 {
    let states = o.states.as_ref().expect("readable");
    let pin = states.board().pin_kept(SetNumber(set)).expect("kept");
    let mut buf = [0; 4096];
    states.read(&pin, b * 4096, &mut buf).expect("read");
    buf[0]
}

/// A staged catch-up leads past states that were to be kept: whoever wanted them is told.
#[test]
fn a_state_that_is_led_past_is_not_given_up_in_silence() {
    let dir = tempfile::tempdir().expect("temp");
    let mut o = behind(&dir.path().join("r"));
    for set in [20, 21, 22, 23] {
        o.volume.keep_state(SetNumber(set)).expect("to come");
    }
    assert!(o.volume.catch_up_stage(SetNumber(20), BlockCount(BLOCKS), 33));
    drive(&mut o);
    o.volume.receive_seed(33, SetNumber(21), &extent(0..33, 21));
    o.volume.receive_seed_end(SetNumber(22), true);
    feed(&mut o.volume, 21);
    let told = |e: &Event| match e {
        Event::NotKept { states, text } => Some((states.clone(), text.clone())),
        _ => None,
    };
    let events = drive_but(&mut o, &|_| false);
    assert_eq!(events.iter().find_map(told), None, "it may be given up yet");
    feed(&mut o.volume, 22);
    let events = drive_but(&mut o, &|_| false);
    let (states, text) = events.iter().find_map(told).expect("they are told");
    assert_eq!(states, [SetNumber(20), SetNumber(21)]);
    let words =
        "states 20, 21 are no longer kept: a catch-up led beyond, to state 22; keep a later one";
    assert!(text.starts_with(words), "{text}");
    assert_eq!(o.volume.kept().collect::<Vec<_>>(), [SetNumber(22), SetNumber(23)]);
    feed(&mut o.volume, 23);
    drive(&mut o);
    assert_eq!((kept_block(&o, 22, 22), kept_block(&o, 22, 23)), (22, CAUGHT_UP));
    assert_eq!((kept_block(&o, 23, 22), kept_block(&o, 23, 23)), (22, 23));
}

pub(super) fn visible(o: &Opened) -> SetNumber {
    o.volume.durable().visible
}

fn old_state_is_there(o: &Opened) {
    assert_eq!(o.volume.refusal(), None);
    assert_eq!((visible(o), block(o, 3), block(o, 9), block(o, 21)), (SetNumber(5), 3, 0, 0));
    assert_eq!(o.volume.saved_position().0, SetNumber(5), "nothing more is acknowledged");
}

fn new_state_is_there(o: &Opened) {
    assert_eq!(o.volume.refusal(), None);
    assert_eq!(visible(o), SetNumber(22));
    // A live set's block is newer than what came with the extents.
    assert_eq!(
        (block(o, 3), block(o, 9), block(o, 21), block(o, 22)),
        (CAUGHT_UP, CAUGHT_UP, 21, 22)
    );
    assert_eq!((block(o, 32), block(o, 40)), (CAUGHT_UP, 0));
}

/// What a parent sends that has set 22: from where the replica says it is, until it is caught up.
fn served(o: &mut Opened) {
    for _ in 0..4 {
        if visible(o) >= SetNumber(22) {
            break;
        }
        o.volume.intake_attached();
        let (state, open) = o.volume.stream_position();
        match o.volume.seed_position() {
            // Its own position is gone.
            None if state < SetNumber(20) => {
                assert!(o.volume.catch_up_stage(SetNumber(20), BlockCount(BLOCKS), 33));
            }
            None => {}
            // Nothing has come: the same answer once more.
            Some((0, _)) => {
                assert!(o.volume.catch_up_stage(SetNumber(20), BlockCount(BLOCKS), 33));
            }
            Some(_) => o.volume.seed_resume(),
        }
        drive(o);
        if let Some((next, from)) = o.volume.seed_position() {
            assert_eq!((state.max(from), open), (SetNumber(20), None));
            for (first, end) in [(0, 16), (16, 33)] {
                if next <= first {
                    o.volume.receive_seed(end, SetNumber(21), &extent(first..end, 21));
                    drive(o);
                }
            }
            o.volume.receive_seed_end(SetNumber(22), true);
            drive(o);
        }
        let held = o.volume.stream_position().0;
        for set in (21..=22).filter(|set| SetNumber(*set) > held) {
            feed(&mut o.volume, set);
            drive(o);
        }
    }
}

#[test]
fn what_is_shown_stays_shown_until_the_next_state_is_whole() {
    let dir = tempfile::tempdir().expect("temp");
    let folder = dir.path().join("r");
    let mut o = behind(&folder);
    o.volume.keep_state(SetNumber(5)).expect("kept");
    drive(&mut o);
    let states = o.states.clone().expect("readable");
    let reader = states.board().pin_visible().expect("readable");
    // States that nobody will ever see are not kept.
    o.volume.keep_state(SetNumber(20)).expect("to come");
    assert!(o.volume.catch_up_stage(SetNumber(20), BlockCount(BLOCKS), 33));
    assert_eq!((o.volume.seed_credit(), o.volume.seed_position()), (0, Some((0, SetNumber(20)))));
    drive(&mut o);
    assert!(o.volume.seed_credit() > 0, "once both slots say so");
    assert_eq!(o.volume.stream_position(), (SetNumber(20), None));
    old_state_is_there(&o);
    // Granted before the catch-up began.
    feed(&mut o.volume, 21);
    o.volume.receive_seed(16, SetNumber(21), &extent(0..16, 21));
    drive(&mut o);
    old_state_is_there(&o);
    assert_eq!(o.volume.status().state, "readable, catching up: 0.0 of 0.1 MiB");
    o.volume.receive_seed(33, SetNumber(21), &extent(16..33, 21));
    o.volume.receive_seed_end(SetNumber(22), true);
    drive(&mut o);
    old_state_is_there(&o);
    let words = "readable, catching up: all blocks have come, waiting for set 22";
    assert_eq!(o.volume.status().state, words);
    assert_eq!(o.volume.position().0, SetNumber(21), "what came early is not lost");
    // Nobody is fed with what leads to no state.
    let child = NodeName::new("child").expect("valid");
    let a = o.volume.consumer_attach(&child, SetNumber(5), ChunkNumber(0), None, None);
    assert!(matches!(a, Attached::NotNow { .. }), "{a:?}");
    feed(&mut o.volume, 22);
    drive(&mut o);
    new_state_is_there(&o);
    assert_eq!(o.volume.saved_position().0, SetNumber(22));
    assert_eq!((o.volume.durable().merged, o.volume.durable().staged), (SetNumber(22), None));
    // Who read and what was kept has what it had.
    let mut buf = [0; 4096];
    states.read(&reader, 3 * 4096, &mut buf).expect("read");
    assert_eq!((buf[0], reader.is_lost()), (3, false));
    assert_eq!((kept_block(&o, 5, 3), kept_block(&o, 5, 9)), (3, 0));
    assert_eq!(o.volume.kept().collect::<Vec<_>>(), [SetNumber(5)]);
    let a =
        o.volume.consumer_attach(&child, SetNumber(5), ChunkNumber(0), Some(SetNumber(5)), None);
    assert_eq!(a, Attached::Planning, "the step is not passed on");
    // It goes on as ever, also after a restart.
    feed(&mut o.volume, 23);
    drive(&mut o);
    drop((states, reader, o));
    let o = open_at(&folder);
    assert_eq!((visible(&o), block(&o, 23), kept_block(&o, 5, 3)), (SetNumber(23), 23, 3));
}

/// Killed after so many requests, twice, with a mailbox slot lost or not; false if all had been done.
fn comes_to_the_new_state(requests: usize, slot: bool) -> bool {
    let dir = tempfile::tempdir().expect("temp");
    let folder = dir.path().join("r");
    let mut o = behind(&folder);
    let mut done = true;
    for life in 0..2 {
        let words = format!("life {life}, killed after {requests} requests, slot lost: {slot}");
        o.volume.intake_attached();
        if o.volume.seed_position().is_none_or(|(next, _)| next == 0)
            && o.volume.stream_position().0 < SetNumber(21)
            && visible(&o) == SetNumber(5)
            && o.volume.refusal().is_none()
            && o.volume.durable().staged.is_none_or(|m| m.need.is_none())
        {
            assert!(o.volume.catch_up_stage(SetNumber(20), BlockCount(BLOCKS), 33), "{words}");
        }
        let mut left = requests;
        let mut drive_some = |o: &mut Opened| {
            done &= drive_for(o, left);
            left = left.saturating_sub(6);
        };
        drive_some(&mut o);
        let next = o.volume.seed_position().map_or(u64::MAX, |(next, _)| next);
        for (first, end) in [(0, 16), (16, 33)].into_iter().filter(|(first, _)| next <= *first) {
            o.volume.receive_seed(end, SetNumber(21), &extent(first..end, 21));
            drive_some(&mut o);
        }
        o.volume.receive_seed_end(SetNumber(22), true);
        drive_some(&mut o);
        let saved = o.volume.saved_position().0;
        drop(o);
        if slot && life == 0 {
            lose_newest_slot(&folder);
        }
        o = open_at(&folder);
        drive_but(&mut o, &|_| false);
        assert!(o.volume.saved_position().0 >= saved || slot, "{words}");
        if o.volume.refusal().is_none() {
            match visible(&o) {
                SetNumber(5) => assert_eq!((block(&o, 3), block(&o, 9)), (3, 0), "{words}"),
                other => panic!("set {other} is shown: {words}"),
            }
        } else {
            assert!(slot, "{words}");
            return true;
        }
    }
    served(&mut o);
    new_state_is_there(&o);
    !done
}

#[test]
fn a_crash_at_any_moment_leaves_the_old_state_and_what_had_come() {
    for slot in [false, true] {
        let all = (0..80).take_while(|n| comes_to_the_new_state(*n, slot)).count();
        assert!(all > 10, "{all} requests");
    }
}

#[test]
fn a_crash_while_the_new_state_is_merged_leaves_it_shown() {
    for requests in 0..60 {
        let dir = tempfile::tempdir().expect("temp");
        let folder = dir.path().join("r");
        let mut o = behind(&folder);
        assert!(o.volume.catch_up_stage(SetNumber(20), BlockCount(BLOCKS), 33));
        drive(&mut o);
        o.volume.receive_seed(33, SetNumber(21), &extent(0..33, 21));
        o.volume.receive_seed_end(SetNumber(22), true);
        feed(&mut o.volume, 21);
        drive(&mut o);
        feed(&mut o.volume, 22);
        drive_for(&mut o, requests);
        drop(o);
        let mut o = open_at(&folder);
        drive(&mut o);
        if visible(&o) == SetNumber(5) {
            old_state_is_there(&o);
            assert_eq!(o.volume.stream_position().0, SetNumber(21), "what had come is there");
            feed(&mut o.volume, 22);
            drive(&mut o);
        }
        new_state_is_there(&o);
        assert_eq!(o.volume.durable().merged, SetNumber(22), "after {requests} requests");
    }
}

#[test]
fn what_does_not_fit_is_applied_in_place() {
    let dir = tempfile::tempdir().expect("temp");
    let mut o = behind(&dir.path().join("r"));
    let blocks = o.volume.config().save_capacity >> 12;
    assert!(!o.volume.catch_up_stage(SetNumber(20), BlockCount(BLOCKS), blocks / 2));
    assert!(!o.volume.catch_up_stage(SetNumber(20), BlockCount(BLOCKS), 0), "nobody knows");
    assert!(!o.volume.catch_up_stage(SetNumber(5), BlockCount(BLOCKS), 3), "nothing is missing");
    // A sender that sends more than it said.
    assert!(o.volume.catch_up_stage(SetNumber(20), BlockCount(BLOCKS), 33));
    drive(&mut o);
    let mut next = 0;
    let given_up = loop {
        o.volume.receive_seed(next + 64, SetNumber(20), &extent(next..next + 64, 20));
        let events = drive_but(&mut o, &|_| false);
        next += 64;
        if let Some(Event::Staged { text }) =
            events.into_iter().find(|e| matches!(e, Event::Staged { .. }))
        {
            break text;
        }
        assert!(next < blocks, "the save volume holds no more");
    };
    assert!(given_up.contains("has no room"), "{given_up}");
    old_state_is_there(&o);
    assert_eq!((o.volume.stream_position().0, o.volume.seed_position()), (SetNumber(5), None));
    assert!(!o.volume.catch_up_stage(SetNumber(20), BlockCount(BLOCKS), 33), "not once more");
    o.volume.catch_up_begin(SetNumber(20), BlockCount(BLOCKS), 33);
    drive(&mut o);
    assert_eq!(o.volume.status().state, "catching up, state 5 is readable");
}

#[test]
fn a_set_that_does_not_come_is_not_waited_for_without_end() {
    let dir = tempfile::tempdir().expect("temp");
    let mut o = behind(&dir.path().join("r"));
    assert!(o.volume.catch_up_stage(SetNumber(20), BlockCount(BLOCKS), 33));
    drive(&mut o);
    o.volume.receive_seed_end(SetNumber(22), true);
    drive(&mut o);
    // Nothing can come while there is no stream.
    let long = Mono(NOW.0 + 3_600_000_000);
    assert_eq!(drive_at(&mut o, long, &|_| None), []);
    o.volume.intake_runs(true);
    let late = Mono(long.0 + 10_000_000);
    assert_eq!(o.volume.poll_timeout().map(|t| t <= late), Some(true));
    let events = drive_at(&mut o, late, &|_| None);
    assert!(events.iter().any(|e| matches!(e, Event::Staged { .. })), "{events:?}");
    old_state_is_there(&o);
}

#[test]
fn a_replica_that_takes_over_does_so_with_what_it_shows() {
    let dir = tempfile::tempdir().expect("temp");
    let folder = dir.path().join("r");
    let mut o = behind(&folder);
    assert!(o.volume.catch_up_stage(SetNumber(20), BlockCount(BLOCKS), 33));
    drive(&mut o);
    o.volume.receive_seed(33, SetNumber(21), &extent(0..33, 21));
    o.volume.receive_seed_end(SetNumber(22), true);
    feed(&mut o.volume, 21);
    drive(&mut o);
    assert_eq!(o.volume.endings().collect::<Vec<_>>(), [SetNumber(5)]);
    o.volume.end_playback(Some(Ending::PlayAll));
    drive(&mut o);
    assert_eq!(o.volume.rest(), Some(SetNumber(5)));
    old_state_is_there(&o);
    // Nor does it come back with a restart, or mix with what comes next.
    feed(&mut o.volume, 6);
    drive(&mut o);
    drop(o);
    let mut o = open_at(&folder);
    drive(&mut o);
    assert_eq!((visible(&o), block(&o, 6), block(&o, 9)), (SetNumber(6), 6, 0));
}

#[test]
fn what_is_staged_of_a_writer_that_is_followed_no_more_is_dropped() {
    let dir = tempfile::tempdir().expect("temp");
    let folder = dir.path().join("r");
    let mut o = behind(&folder);
    assert!(o.volume.catch_up_stage(SetNumber(20), BlockCount(BLOCKS), 33));
    drive(&mut o);
    o.volume.receive_seed(16, SetNumber(23), &extent(0..16, 23));
    drive(&mut o);
    let mut history = o.volume.history().to_vec();
    history.push(Branch {
        generation: Generation { counter: 2, id: [2; 16] },
        forked_from: SetNumber(20),
        opened_by: NodeName::new("other").expect("valid"),
        opened_at: Wall(2),
    });
    o.volume.adopt_history(history);
    drive(&mut o);
    assert_eq!((o.volume.stream_position().0, o.volume.seed_position()), (SetNumber(5), None));
    old_state_is_there(&o);
    drop(o);
    let o = open_at(&folder);
    assert_eq!((o.volume.stream_position().0, o.volume.seed_position()), (SetNumber(5), None));
    old_state_is_there(&o);
}
