//! A catch-up that is applied in place hides nothing where the snapshot area has room for what it
//! overwrites: readers see what was visible until the state that follows is whole, and what is kept
//! stays kept.

use super::staged::{CAUGHT_UP, block, extent, kept_block, visible};
use super::tables::{drive_for, lose_newest_slot, slots};
use super::*;

/// A replica that shows set 5 and keeps set 3; block n is n up to there.
fn keeps_3(folder: &Path) -> Opened {
    let mut o = replica(folder);
    for set in 1..=5 {
        feed(&mut o.volume, set);
        drive(&mut o);
        if set == 3 {
            o.volume.keep_state(SetNumber(3)).expect("visible");
            drive(&mut o);
        }
    }
    o
}

fn kept(o: &Opened) -> Vec<SetNumber> {
    o.volume.kept().collect()
}

/// The states of which something is pinned for longer than a reader's time.
fn pinned(o: &Opened) -> Vec<SetNumber> {
    o.volume.config().snapshots.durable_pins().into_iter().map(|(_, set)| set).collect()
}

/// State 5 is read, and state 3 if it is kept.
fn old_states_are_there(o: &Opened) {
    assert_eq!((o.volume.refusal(), visible(o)), (None, SetNumber(5)));
    let shown = [1, 3, 5, 9, 21].map(|b| block(o, b));
    assert_eq!(shown, [1, 3, 5, 0, 0]);
    if kept(o).contains(&SetNumber(3)) {
        assert_eq!([3, 4, 5, 9].map(|b| kept_block(o, 3, b)), [3, 0, 0, 0]);
    }
}

fn new_state_is_there(o: &Opened) {
    assert_eq!((o.volume.refusal(), visible(o)), (None, SetNumber(22)));
    assert_eq!([3, 9, 21, 22].map(|b| block(o, b)), [CAUGHT_UP, CAUGHT_UP, 21, 22]);
}

/// Blocks 0 to 32, as of a state between 20 and 22, which is the first that is whole.
fn comes(o: &mut Opened) {
    let (next, _) = o.volume.seed_position().expect("it goes on");
    if next < 33 {
        o.volume.receive_seed(33, SetNumber(21), &extent(next..33, 21));
    }
    o.volume.receive_seed_end(SetNumber(22), true);
    let held = o.volume.position().0.0;
    for set in held.max(20) + 1..=22 {
        feed(&mut o.volume, set);
    }
}

#[test]
fn what_was_visible_is_read_until_the_next_state_is_whole() {
    let dir = tempfile::tempdir().expect("temp");
    let folder = dir.path().join("r");
    let mut o = keeps_3(&folder);
    let states = o.states.clone().expect("readable");
    let before = states.board().pin_visible().expect("readable");
    o.volume.catch_up_begin(SetNumber(20), BlockCount(BLOCKS), 33);
    old_states_are_there(&o);
    drive(&mut o);
    let status = o.volume.status();
    assert_eq!(status.state, "catching up, state 5 is readable");
    assert_eq!(status.reason.as_deref(), Some("catching up: 0.0 of 0.1 MiB"));
    o.volume.receive_seed(33, SetNumber(21), &extent(0..33, 21));
    drive(&mut o);
    old_states_are_there(&o);
    feed(&mut o.volume, 21);
    drive(&mut o);
    old_states_are_there(&o);
    assert_eq!(kept(&o), [SetNumber(3)], "what is lent to readers nobody has asked for");
    // A reader of the time before, and one of now: both go on.
    let now = states.board().pin_visible().expect("readable");
    drop(o.volume.unwhole().expect("nothing goes on from a content that is no state"));
    o.volume.receive_seed_end(SetNumber(22), true);
    feed(&mut o.volume, 22);
    drive(&mut o);
    new_state_is_there(&o);
    for pin in [before, now] {
        let mut buf = [0; 4096];
        states.read(&pin, 5 * 4096, &mut buf).expect("read");
        assert_eq!((pin.state(), buf[0]), (SetNumber(5), 5));
    }
    old_kept_state_is_there(&o);
    assert_eq!(pinned(&o), [SetNumber(3)]);
    let listed = |m: &Mailbox| m.kept.iter().map(|k| k.set).collect::<Vec<_>>();
    assert!(
        slots(&folder).iter().all(|m| listed(m) == [SetNumber(3)]),
        "nor does a restart know it"
    );
}

fn old_kept_state_is_there(o: &Opened) {
    assert_eq!(kept(o), [SetNumber(3)]);
    assert_eq!([3, 4, 5, 9, 21].map(|b| kept_block(o, 3, b)), [3, 0, 0, 0, 0]);
}

/// Killed after so many requests of a catch-up in place, or of its beginning, with its newest slot lost or
/// not, the node shows a state, goes on and ends; false if all had been done.
fn is_shown_through_a_kill(requests: usize, begins: bool, slot: bool) -> bool {
    let dir = tempfile::tempdir().expect("temp");
    let folder = dir.path().join("r");
    let mut o = keeps_3(&folder);
    o.volume.catch_up_begin(SetNumber(20), BlockCount(BLOCKS), 33);
    if !begins {
        drive(&mut o);
        comes(&mut o);
    }
    let done = drive_for(&mut o, requests);
    drop(o);
    if slot {
        lose_newest_slot(&folder);
    }
    let mut o = open_at(&folder);
    drive_but(&mut o, &|_| false);
    let at = format!("{requests} requests, begins {begins}, slot {slot}");
    if slot && !begins && o.volume.refusal().is_some() {
        // The lost slot has perhaps shown what comes after.
        assert!(o.volume.seed_position().is_none() || !done, "{at}");
        return !done;
    }
    if visible(&o) == SetNumber(5) {
        old_states_are_there(&o);
        if o.volume.seed_position().is_none() {
            o.volume.catch_up_begin(SetNumber(20), BlockCount(BLOCKS), 33);
        }
        o.volume.seed_resume();
        drive(&mut o);
        old_states_are_there(&o);
        comes(&mut o);
        drive(&mut o);
    }
    new_state_is_there(&o);
    old_kept_state_is_there(&o);
    assert_eq!(pinned(&o), [SetNumber(3)], "{at}");
    !done
}

#[test]
fn a_node_that_is_killed_shows_what_it_showed() {
    for begins in [true, false] {
        for slot in [false, true] {
            let mut requests = 0;
            while is_shown_through_a_kill(requests, begins, slot) {
                requests += 1;
            }
            assert!(requests > 6, "{requests}");
        }
    }
}

#[test]
fn what_is_shown_can_be_kept_and_released() {
    let dir = tempfile::tempdir().expect("temp");
    let folder = dir.path().join("r");
    for keeps in [true, false] {
        let _ = std::fs::remove_dir_all(&folder);
        let mut o = keeps_3(&folder);
        if !keeps {
            o.volume.keep_state(SetNumber(5)).expect("visible");
            drive(&mut o);
        }
        o.volume.catch_up_begin(SetNumber(20), BlockCount(BLOCKS), 33);
        drive(&mut o);
        if keeps {
            assert!(!o.volume.is_listed_durably(SetNumber(5)));
            o.volume.keep_state(SetNumber(5)).expect("shown");
            let passed = o.volume.keep_state(SetNumber(4));
            assert!(matches!(passed, Err(KeepError::Hidden { .. })), "{passed:?}");
        } else {
            assert!(o.volume.release_state(SetNumber(5)));
        }
        drive(&mut o);
        assert_eq!(o.volume.is_listed_durably(SetNumber(5)), keeps);
        // As a restart finds it.
        drop(o);
        let mut o = open_at(&folder);
        o.volume.seed_resume();
        drive(&mut o);
        old_states_are_there(&o);
        comes(&mut o);
        drive(&mut o);
        new_state_is_there(&o);
        let left: &[u64] = if keeps { &[3, 5] } else { &[3] };
        assert_eq!(kept(&o), left.iter().map(|s| SetNumber(*s)).collect::<Vec<_>>());
        assert_eq!(pinned(&o), kept(&o));
        if keeps {
            assert_eq!([5, 9].map(|b| kept_block(&o, 5, b)), [5, 0]);
        }
    }
}

/// What is lent to readers goes before a state that somebody wants.
#[test]
fn readers_are_let_go_of_before_a_kept_state_is_broken() {
    let dir = tempfile::tempdir().expect("temp");
    let mut o = keeps_3(&dir.path().join("r"));
    let room = u64::from(o.volume.config().snapshots.free_slots());
    assert!(room < BLOCKS);
    // The sender sends more than it said.
    o.volume.catch_up_begin(SetNumber(20), BlockCount(BLOCKS), room / 2);
    drive(&mut o);
    let mut said = Vec::new();
    for first in (0..BLOCKS).step_by(32) {
        o.volume.receive_seed(first + 32, SetNumber(20), &extent(first..first + 32, 20));
        for wait in 0..20 {
            let now = Mono(NOW.0 + (first * 20 + wait) * 10_000);
            for e in drive_at(&mut o, now, &|_| None) {
                match e {
                    Event::Hidden { text } => said.push(text),
                    Event::NotKept { text, .. } => said.push(text),
                    Event::Failed { text } => panic!("{text}"),
                    _ => {}
                }
            }
        }
        if said.is_empty() {
            old_states_are_there(&o);
        }
    }
    let [hidden, broken] = &said[..] else { panic!("{said:?}") };
    assert!(hidden.starts_with("state 5 is not readable any more"), "{hidden}");
    assert!(broken.starts_with("state 3 is no longer kept: the snapshot area is full"), "{broken}");
    assert!(o.volume.refusal().is_some_and(|w| w.starts_with("catching up")));
    assert_eq!((kept(&o), pinned(&o)), (vec![], vec![]));
    o.volume.receive_seed_end(SetNumber(20), true);
    drive(&mut o);
    assert_eq!((o.volume.refusal(), visible(&o), block(&o, 5)), (None, SetNumber(20), CAUGHT_UP));
}

#[test]
fn where_there_is_no_room_for_it_readers_are_refused() {
    let dir = tempfile::tempdir().expect("temp");
    let folder = dir.path().join("r");
    let mut o = keeps_3(&folder);
    let room = u64::from(o.volume.config().snapshots.free_slots());
    drop(o);
    // Too many, nobody knows how many, and a sender that is behind.
    for (from, blocks) in [(20, room / 2 + 1), (20, 0), (5, 33)] {
        let folder = dir.path().join(format!("r{from}-{blocks}"));
        o = keeps_3(&folder);
        o.volume.catch_up_begin(SetNumber(from), BlockCount(BLOCKS), blocks);
        drive(&mut o);
        assert!(o.volume.refusal().is_some_and(|w| w.starts_with("catching up")));
        assert_eq!(kept(&o), [SetNumber(3)], "what is kept stays kept");
        assert_eq!(kept_block(&o, 3, 3), 3);
    }
}

#[test]
fn a_seed_that_follows_ends_it() {
    let dir = tempfile::tempdir().expect("temp");
    let folder = dir.path().join("r");
    let mut o = keeps_3(&folder);
    o.volume.catch_up_begin(SetNumber(20), BlockCount(BLOCKS), 33);
    drive(&mut o);
    o.volume.receive_seed(33, SetNumber(21), &extent(0..33, 21));
    drive(&mut o);
    o.volume.seed_begin(SetNumber(30), BlockCount(BLOCKS));
    let events = drive_but(&mut o, &|_| false);
    let told: Vec<_> = events
        .iter()
        .filter_map(|e| match e {
            Event::NotKept { states, .. } => Some(states.clone()),
            _ => None,
        })
        .collect();
    assert_eq!(told, [[SetNumber(3)]], "nobody asked for the one that was lent");
    assert!(o.volume.refusal().is_some_and(|w| w.starts_with("being seeded")));
    assert_eq!((kept(&o), pinned(&o)), (vec![], vec![]));
    drop(o);
    let o = open_at(&folder);
    assert_eq!((o.volume.refusal().is_some(), pinned(&o)), (true, vec![]));
}
