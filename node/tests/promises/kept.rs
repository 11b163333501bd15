//! A state that was accepted is kept, or whoever wanted it is told that it is not; also when the node is
//! killed between the moment in which the content comes to it and the commit that lists its pin.

use super::staged::kept_block;
use super::tables::{drive_for, lose_newest_slot, slots};
use super::*;

/// What was said of states that are kept no longer.
fn told(events: &[Event]) -> Vec<(Vec<SetNumber>, String)> {
    let of = |e: &Event| match e {
        Event::NotKept { states, text } => Some((states.clone(), text.clone())),
        _ => None,
    };
    events.iter().filter_map(of).collect()
}

/// It says this, of these states, and nothing else.
fn says(events: &[Event], states: &[u64], why: &str) {
    let all = told(events);
    let [(of, text)] = &all[..] else { panic!("{all:?}") };
    assert_eq!(of, &states.iter().map(|s| SetNumber(*s)).collect::<Vec<_>>());
    assert!(text.contains("no longer kept: ") && text.contains(why), "{text}");
    assert!(text.contains("`rcpctl delta keep VOLUME STATE`"), "{text}");
}

fn at(folder: &Path, set: u64) -> Opened {
    let mut o = replica(folder);
    for set in 1..=set {
        feed(&mut o.volume, set);
        drive(&mut o);
    }
    o
}

fn kept(o: &Opened) -> Vec<SetNumber> {
    o.volume.kept().collect()
}

/// The seed of a volume that has nothing but what the sets hold, to its end at set `need`.
fn seeded(o: &mut Opened, from: u64, need: u64) -> Vec<Event> {
    o.volume.receive_seed_end(SetNumber(need), true);
    for set in from + 1..=need {
        feed(&mut o.volume, set);
    }
    drive_but(o, &|_| false)
}

#[test]
fn a_seed_that_leads_past_a_state_says_so() {
    let dir = tempfile::tempdir().expect("temp");
    let folder = dir.path().join("r");
    let mut o = at(&folder, 2);
    o.volume.keep_state(SetNumber(2)).expect("visible");
    drive(&mut o);
    assert!(o.volume.is_kept_durably(SetNumber(2)));
    o.volume.seed_begin(SetNumber(9), BlockCount(BLOCKS));
    // What it overwrites was kept.
    let events = drive_but(&mut o, &|_| false);
    says(&events, &[2], "a seed or catch-up overwrites the content");
    for set in [10, 11, 12, 14] {
        o.volume.keep_state(SetNumber(set)).expect("to come");
    }
    drive(&mut o);
    let events = seeded(&mut o, 9, 12);
    says(&events, &[10, 11], "a seed led beyond, to state 12");
    assert_eq!(kept(&o), [SetNumber(12), SetNumber(14)]);
    assert_eq!((kept_block(&o, 12, 12), kept_block(&o, 12, 13)), (12, 0));
    // The slot does not name them any more: nothing is left to say.
    drop(o);
    let mut o = open_at(&folder);
    assert_eq!(told(&drive_but(&mut o, &|_| false)), []);
    assert_eq!(kept(&o), [SetNumber(12), SetNumber(14)]);
}

/// A seed ends at a state that is to be kept, and so many requests later the node is killed; its newest slot
/// is lost or not. False if all had been done.
fn is_kept_at_the_end_of_a_seed(requests: usize, slot: bool) -> bool {
    let dir = tempfile::tempdir().expect("temp");
    let folder = dir.path().join("r");
    let mut o = replica(&folder);
    o.volume.seed_begin(SetNumber(9), BlockCount(BLOCKS));
    drive(&mut o);
    o.volume.keep_state(SetNumber(10)).expect("to come");
    o.volume.keep_state(SetNumber(11)).expect("to come");
    drive(&mut o);
    // Both slots say that.
    o.volume.set_persistent(true);
    drive(&mut o);
    o.volume.receive_seed_end(SetNumber(11), true);
    feed(&mut o.volume, 10);
    feed(&mut o.volume, 11);
    let done = drive_for(&mut o, requests);
    drop(o);
    if slot {
        lose_newest_slot(&folder);
    }
    let mut o = open_at(&folder);
    let mut events = drive_but(&mut o, &|_| false);
    if o.volume.seed_position().is_some() {
        if slot {
            // Whatever it goes on with, it may be kept yet.
            assert!(kept(&o).contains(&SetNumber(11)), "killed after {requests} requests");
            return !done;
        }
        o.volume.seed_resume();
        let held = o.volume.position().0.0;
        events.extend(seeded(&mut o, held, 11));
    }
    feed(&mut o.volume, 12);
    events.extend(drive_but(&mut o, &|_| false));
    if !slot {
        healthy(&events);
    }
    let words = format!("killed after {requests} requests, slot {slot}: {:?}", told(&events));
    assert_eq!(o.volume.durable().merged, SetNumber(12), "{words}");
    assert_eq!(kept(&o), [SetNumber(11)], "{words}");
    assert_eq!((kept_block(&o, 11, 11), kept_block(&o, 11, 12)), (11, 0), "{words}");
    // It was told before the slot forgot it: in the life before, or in this one.
    assert!(told(&events).len() <= 1, "{words}");
    !done
}

#[test]
fn a_state_that_is_the_end_of_a_seed_is_kept_whenever_the_node_is_killed() {
    for slot in [false, true] {
        let all = (0..).take_while(|n| is_kept_at_the_end_of_a_seed(*n, slot)).count();
        assert!((10..100).contains(&all), "{all} requests to end a seed, slot lost: {slot}");
    }
}

#[test]
fn whoever_waits_for_a_state_of_content_that_is_given_up_is_told() {
    let dir = tempfile::tempdir().expect("temp");
    let mut o = at(&dir.path().join("r"), 2);
    for set in [2, 5] {
        o.volume.keep_state(SetNumber(set)).expect("kept");
    }
    drive(&mut o);
    let history = o.volume.history().to_vec();
    o.volume.discard("an operator said so", history);
    let all = told(&drive_but(&mut o, &|_| false));
    let of: Vec<_> = all.iter().flat_map(|(states, _)| states.clone()).collect();
    assert_eq!(of, [SetNumber(2), SetNumber(5)]);
    assert!(all.iter().all(|(_, text)| text.contains("(an operator said so)")), "{all:?}");
    assert_eq!(kept(&o), []);
}

/// State 1 is to be kept when it comes, and comes with set 2. The node is killed after so many requests, and
/// loses its newest slot. What the other one lists is kept, or said not to be. False if all had been done.
fn is_kept_or_told_of(requests: usize, seen: &mut (usize, usize)) -> bool {
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
    let wanted = slots(&folder).iter().any(|m| m.kept.iter().any(|k| k.set == SetNumber(1)));
    let mut o = open_at(&folder);
    let events = drive_but(&mut o, &|_| false);
    let (kept, told) = (kept(&o) == [SetNumber(1)], !told(&events).is_empty());
    assert_eq!(kept || told, wanted, "killed after {requests} requests: {events:?}");
    assert!(!(kept && told), "killed after {requests} requests: {events:?}");
    *seen = (seen.0 + usize::from(kept), seen.1 + usize::from(told));
    if told {
        says(&events, &[1], "a mailbox slot is damaged");
    }
    !done
}

#[test]
fn a_lost_slot_takes_no_state_in_silence() {
    let mut seen = (0, 0);
    let all = (0..).take_while(|n| is_kept_or_told_of(*n, &mut seen)).count();
    assert!((10..60).contains(&all), "{all} requests to keep a state");
    assert!(seen.0 > 0 && seen.1 > 0, "kept and told of: {seen:?}");
}
