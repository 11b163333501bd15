//! A writer that was a replica, or gave an attempt up, knows of its own sets with an older mailbox slot.

use rcp::proto::ids::StateId;

use super::tables::{drive_for, lose_newest_slot};
use super::*;

const SECOND: Generation = Generation { counter: 2, id: [2; 16] };
const LATER: PlaybackPolicy =
    PlaybackPolicy { hwm: u64::MAX, timeout: Duration::from_secs(3600), on_demand: false };

/// A replica that shows and keeps set 2. Of set 3, which it does not show, it is told before that is
/// durable, or behind it.
fn at_rest(folder: &Path, late: bool) -> Opened {
    let mut o = replica(folder);
    // A child that is behind holds the log back.
    let child = NodeName::new("child").expect("valid");
    o.volume.consumer_attach(&child, SetNumber(0), ChunkNumber(0), None, None);
    for set in 1..=2 {
        feed(&mut o.volume, set);
        drive(&mut o);
    }
    o.volume.set_playback_policy(LATER);
    if !late {
        feed(&mut o.volume, 3);
        drive(&mut o);
    }
    o.volume.end_playback(Some(volmcast::volume::Ending::PlayNoMore));
    drive(&mut o);
    assert_eq!(o.volume.rest(), Some(SetNumber(2)));
    o.volume.keep_state(SetNumber(2)).expect("kept");
    drive(&mut o);
    if late {
        feed(&mut o.volume, 3);
        drive(&mut o);
    }
    assert_eq!(o.volume.position().0, SetNumber(3));
    o
}

/// It is the writer now, says its identity.
fn promoted(o: &Opened, folder: &Path) {
    let opens = StateId { volume: VolumeId([7; 16]), generation: SECOND, set: SetNumber(2) };
    let mut identity = o.identity.clone();
    let snapshots = o.volume.config().snapshots.clone();
    open::make_writable(&identity, &o.files, snapshots, o.volume.blocks()).expect("writable");
    open::takes_over(&mut identity, opens);
    identity.store(folder).expect("stored");
}

fn writes_a_set(o: &mut Opened, byte: u8) {
    writable(o).gate().set(&Gate::Open);
    writable(o).write(9 * 4096, &[byte; 4096]).expect("written");
    o.volume.demand_cut(false);
    drive_but(o, &|_| false);
}

/// The new writer makes its first set, is killed after so many requests, and loses its newest slot.
/// False if all had been done.
fn the_first_set_is_known(requests: usize) -> bool {
    let dir = tempfile::tempdir().expect("temp");
    let folder = dir.path().join("v");
    let o = at_rest(&folder, false);
    promoted(&o, &folder);
    drop(o);
    let mut o = open_at(&folder);
    drive_but(&mut o, &|_| false);
    writable(&o).gate().set(&Gate::Open);
    writable(&o).write(9 * 4096, &[9; 4096]).expect("written");
    o.volume.demand_cut(false);
    let done = drive_for(&mut o, requests);
    let made = o.volume.durable().visible;
    drop(o);
    lose_newest_slot(&folder);
    let o = open_at(&folder);
    assert!(o.volume.position().0 >= made, "killed after {requests} requests, with set {made}");
    assert_eq!(o.volume.history().last().map(|b| b.generation), Some(SECOND));
    !done
}

#[test]
fn a_lost_slot_takes_no_set_from_a_writer_that_had_dropped_what_it_received() {
    let all = (0..).take_while(|n| the_first_set_is_known(*n)).count();
    assert!((3..60).contains(&all), "{all} requests to make a set");
}

#[test]
fn a_lost_slot_gives_a_new_writer_no_set_that_its_content_lacks() {
    let dir = tempfile::tempdir().expect("temp");
    let folder = dir.path().join("v");
    let o = at_rest(&folder, true);
    promoted(&o, &folder);
    drop(o);
    lose_newest_slot(&folder);
    let mut o = open_at(&folder);
    drive_but(&mut o, &|_| false);
    let line = o.volume.history().last().expect("opened");
    assert_eq!((line.generation, line.forked_from), (SECOND, SetNumber(2)));
    assert_eq!(o.volume.durable().visible, SetNumber(2));
}

/// A set is begun, and after so many requests a child attaches, so that a slot names a part of the
/// set; so many later the node ends. It makes the set once more, and loses its newest slot. False if
/// all had been done before.
fn the_next_attempt_is_known(before: usize, after: usize) -> bool {
    let dir = tempfile::tempdir().expect("temp");
    let folder = dir.path().join("v");
    let mut o = primary(&folder);
    writes_a_set(&mut o, 1);
    writable(&o).write(8 * 4096, &[2; 4096]).expect("written");
    o.volume.demand_cut(false);
    let done = drive_for(&mut o, before);
    let child = NodeName::new("child").expect("valid");
    o.volume.consumer_attach(&child, SetNumber(1), ChunkNumber(0), None, None);
    drive_for(&mut o, after);
    drop(o);
    let mut o = open_at(&folder);
    writes_a_set(&mut o, 3);
    let made = o.volume.durable().visible;
    assert!(made >= SetNumber(2));
    drop(o);
    lose_newest_slot(&folder);
    let o = open_at(&folder);
    assert_eq!(o.volume.position().0, made, "attached after {before}, ended {after} later");
    !done
}

#[test]
fn a_lost_slot_takes_no_set_that_was_begun_once_before() {
    for after in 0..6 {
        let all = (0..).take_while(|n| the_next_attempt_is_known(*n, after)).count();
        assert!((3..40).contains(&all), "{all} requests to make a set");
    }
}
