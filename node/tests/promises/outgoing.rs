//! Extents leave a writer with what its open set holds, and whoever has them waits for that set. A crash
//! gives the content of two sets to the first of them: the second still comes, without content.

use super::tables::lose_newest_slot;
use super::*;

/// Carries out so many requests; the newest state that an extent which left may be of, and whether
/// there are no more requests.
fn sent_within(o: &mut Opened, mut requests: usize) -> (SetNumber, bool) {
    let (v, mut view) = (&mut o.volume, SetNumber::ZERO);
    loop {
        let mut more = false;
        // The oldest request last: the set is still being made when extents are read.
        let mut asked: Vec<_> = std::iter::from_fn(|| v.poll_io()).collect();
        asked.sort_by_key(|io| io.file == FileId::Save);
        for io in asked {
            if requests == 0 {
                return (view, false);
            }
            requests -= 1;
            v.io_done(NOW, io.tag, o.files.perform(&io));
            more = true;
        }
        while let Some((tag, work)) = v.poll_work() {
            v.work_done(NOW, tag, work.run());
            more = true;
        }
        while let Some(e) = v.poll_event() {
            match e {
                Event::SetReady { .. } => v.extents_forgotten(),
                Event::SeedChunk { view: of, .. } => view = view.max(of),
                _ => {}
            }
            more = true;
        }
        if !more {
            return (view, true);
        }
    }
}

/// A child is seeded while set 2 is made and set 3 is written to, and so many requests later the writer
/// is killed; the newest state of what had left, the one that clients' writes led to afterwards, and
/// whether all was done before.
fn killed_after(requests: usize, slot_is_lost: bool) -> (SetNumber, SetNumber, bool) {
    let dir = tempfile::tempdir().expect("temp");
    let folder = dir.path().join("v");
    let mut o = primary(&folder);
    writable(&o).write(0, &[1; 4096]).expect("written");
    o.volume.demand_cut(false);
    drive(&mut o);
    let child = NodeName::new("below").expect("valid");
    o.volume.consumer_seed(&child, SetNumber::ZERO, None, "it is empty".to_owned());
    writable(&o).write(4096, &[2; 4096]).expect("written");
    o.volume.demand_cut(false);
    assert_eq!(o.volume.draining(), Some(SetNumber(2)));
    writable(&o).write(8192, &[3; 4096]).expect("written");
    o.volume.seed_out_credit(&child, 1 << 20);
    let (view, done) = sent_within(&mut o, requests);
    drop(o);
    if slot_is_lost {
        lose_newest_slot(&folder);
    }
    let mut o = open_at(&folder);
    o.volume.demand_cut(false);
    drive_but(&mut o, &|_| false);
    (view, o.volume.durable().visible, done)
}

#[test]
fn every_set_that_extents_are_of_comes_also_after_a_crash() {
    for slot_is_lost in [false, true] {
        let mut left = false;
        for requests in 0.. {
            let (view, visible, done) = killed_after(requests, slot_is_lost);
            assert!(
                visible >= view,
                "killed after {requests} requests, lost: {slot_is_lost}: something of set {view} has \
                 left, and the newest is {visible}"
            );
            if done {
                break;
            }
            left |= view == SetNumber(3);
        }
        assert!(left, "an extent of set 3 left before all was done");
    }
}
