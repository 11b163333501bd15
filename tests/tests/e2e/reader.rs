//! Readers at a leaf while steps are played.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tests::rig::{Clock, MIB, Plan, Tree, stamp, stamped};

use crate::load::{Ends, Load};

const SIZE: u64 = 8;
const ROUNDS: u64 = 30;
const LEN: usize = 1 << 20;

/// Reads the whole export; the one number all of it is stamped with.
fn round_of(c: &mut node::nbd::Client) -> u64 {
    let mut data = vec![0; LEN];
    let mut all = None;
    for at in 0..SIZE {
        c.read(at * MIB, &mut data).unwrap();
        let n = stamped(&data).unwrap_or_else(|(a, b)| panic!("rounds {a} and {b} at {at} MiB"));
        let first = *all.get_or_insert(n);
        assert_eq!(first, n, "rounds {first} and {n} in one connection, at {at} MiB");
    }
    all.unwrap()
}

#[test]
fn a_reader_never_sees_two_rounds_at_once() {
    let tree = Tree::start(Plan::new(&[("p", &["f1"]), ("f1", &["l1", "l2"])]).volume("vol", SIZE));
    let mut writer = tree.open("p", "vol").unwrap();
    let mut round = |n: u64| {
        let data = stamp(n, LEN);
        for at in 0..SIZE {
            writer.write(at * MIB, &data, false).unwrap();
        }
        tree.cut("vol", false).set
    };
    let set = round(1);
    for l in ["l1", "l2"] {
        tree.reaches(l, "vol", set, Duration::from_secs(20));
    }
    let load = Load::default();
    let (pinned, looks, follows) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    std::thread::scope(|s| {
        let _ends = Ends(&load);
        // One connection from the beginning to the end: always the first round.
        s.spawn(|| {
            let mut c = tree.open("l1", "vol").unwrap();
            while load.on() || pinned.load(Ordering::Relaxed) < 2 {
                assert_eq!(round_of(&mut c), 1, "a pinned connection moved on");
                pinned.fetch_add(1, Ordering::Relaxed);
            }
        });
        // New connections: one round each, read twice, rounds never go back.
        s.spawn(|| {
            let mut last = 0;
            while load.on() {
                let mut c = tree.open("l2", "vol").unwrap();
                let n = round_of(&mut c);
                assert_eq!(round_of(&mut c), n, "a pinned connection moved on");
                assert!(n >= last, "round {n} after {last}");
                last = n;
                looks.fetch_add(1, Ordering::Relaxed);
            }
        });
        // One that follows, in requests of many pieces: one round per request all the same.
        s.spawn(|| {
            let mut c = tree.open("l2", "vol@follow").unwrap();
            let (mut last, mut data) = (0, vec![0; LEN * 8]);
            while load.on() || last < ROUNDS {
                c.read(0, &mut data).unwrap();
                let rounds: Vec<_> = data.chunks(LEN).map(stamped).collect();
                let n = rounds[0].unwrap_or_else(|r| panic!("two rounds: {r:?}"));
                assert!(rounds.iter().all(|r| *r == Ok(n)), "one request, rounds {rounds:?}");
                assert!(n >= last, "round {n} after {last}");
                last = n;
            }
        });
        // One that follows: one round per request, rounds never go back.
        s.spawn(|| {
            let mut c = tree.open("l1", "vol@follow").unwrap();
            let (mut last, mut data) = (0, vec![0; LEN]);
            while load.on() || last < ROUNDS {
                for at in 0..SIZE {
                    c.read(at * MIB, &mut data).unwrap();
                    let n = stamped(&data).unwrap_or_else(|r| panic!("two rounds: {r:?}"));
                    assert!(n >= last, "round {n} after {last}");
                    if n > last {
                        follows.fetch_add(1, Ordering::Relaxed);
                    }
                    last = n;
                }
            }
        });
        let mut set = 0;
        for n in 2..=ROUNDS {
            set = round(n);
            Clock::default().pace(Duration::from_millis(60));
        }
        tree.reaches("l1", "vol", set, Duration::from_secs(30));
        tree.reaches("l2", "vol", set, Duration::from_secs(30));
    });
    let [p, l, f] = [pinned, looks, follows].map(|n| n.into_inner());
    eprintln!("reader: {p} reads of the pinned state, {l} connections, {f} rounds followed");
    assert!(l > 2 && f > 2, "too little was seen: {l} connections, {f} rounds");
    assert_eq!(round_of(&mut tree.open("l1", "vol").unwrap()), ROUNDS);
    tree.quiet();
}
