//! What a released state rested on is given up. It never comes back with other content, whichever
//! mailbox slot is lost afterwards.

use super::tables::{drive_for, lose_newest_slot};
use super::*;

fn opened(folder: &Path) -> Opened {
    let o = open_at(folder);
    writable(&o).gate().set(&Gate::Open);
    o
}

/// If state 1 is there, its blocks are what they were.
fn reads_as_it_was(o: &Opened, words: &str) {
    let states = o.states.clone().expect("readable");
    let Some(pin) = states.board().pin_kept(SetNumber(1)) else { return };
    for b in 0..4 {
        let mut block = [0; 4096];
        states.read(&pin, b * 4096, &mut block).expect("read");
        assert_eq!(block, [1; 4096], "block {b}: {words}");
    }
}

/// State 1 is released, and so many requests later the node is killed; with `between`, once more
/// after it was started again. Then its newest slot is lost. False if all had been done.
fn comes_back_whole_or_not_at_all(requests: usize, between: bool) -> bool {
    let dir = tempfile::tempdir().expect("temp");
    let folder = dir.path().join("v");
    let mut o = primary(&folder);
    for b in 0..4 {
        writable(&o).write(b * 4096, &[1; 4096]).expect("written");
    }
    o.volume.demand_cut(true);
    drive(&mut o);
    assert!(o.volume.is_kept_durably(SetNumber(1)));
    writable(&o).write(0, &[2; 4096]).expect("written");
    reads_as_it_was(&o, "kept");
    assert!(o.volume.release_state(SetNumber(1)));
    let done = drive_for(&mut o, requests);
    writable(&o).write(4096, &[3; 4096]).expect("written");
    if between {
        drop(o);
        o = opened(&folder);
        writable(&o).write(2 * 4096, &[4; 4096]).expect("written");
    }
    drop(o);
    lose_newest_slot(&folder);
    let words = format!("killed after {requests} requests, started between: {between}");
    reads_as_it_was(&opened(&folder), &words);
    !done
}

#[test]
fn a_lost_slot_brings_no_released_state_back_with_other_content() {
    for between in [false, true] {
        let all = (0..).take_while(|n| comes_back_whole_or_not_at_all(*n, between)).count();
        assert!((4..40).contains(&all), "{all} requests to release a state");
    }
}

/// State 1 of a replica is to be kept when it comes, and so is set 2. The node is killed after so many
/// requests, and loses its newest slot. False if all had been done.
fn is_kept_as_it_was_or_not_at_all(requests: usize) -> bool {
    let dir = tempfile::tempdir().expect("temp");
    let folder = dir.path().join("r");
    let mut o = replica(&folder);
    drive(&mut o);
    o.volume.keep_state(SetNumber(1)).expect("to come");
    feed(&mut o.volume, 1);
    feed(&mut o.volume, 2);
    let done = drive_for(&mut o, requests);
    drop(o);
    lose_newest_slot(&folder);
    let mut o = open_at(&folder);
    drive_but(&mut o, &|_| false);
    let states = o.states.clone().expect("readable");
    if let Some(pin) = states.board().pin_kept(SetNumber(1)) {
        for b in 1..3u8 {
            let mut block = [0; 4096];
            states.read(&pin, u64::from(b) * 4096, &mut block).expect("read");
            let was = if b == 1 { 1 } else { 0 };
            assert_eq!(block, [was; 4096], "block {b}: killed after {requests} requests");
        }
    }
    !done
}

#[test]
fn a_lost_slot_lets_no_state_be_kept_that_the_content_has_passed() {
    let all = (0..).take_while(|n| is_kept_as_it_was_or_not_at_all(*n)).count();
    assert!((10..60).contains(&all), "{all} requests to keep a state");
}
