//! Subtree reports against a computation that sees every node.

mod support;

use std::collections::BTreeMap;
use std::time::Duration;

use forwarder::aggregate::{Aggregate, Position};
use proptest::prelude::*;
use rcp::proto::clock::Mono;
use rcp::proto::frame::{LeafReport, Report, StreamId};
use rcp::proto::ids::SetNumber;
use rcp::proto::limits::{MAX_LEAF_TEXT, MAX_REPORT_LEAVES, MAX_REPORT_STATES};
use support::n;

const NOW: Mono = Mono(1_000_000);

fn position(visible: u64, saved: u64, lag: u64) -> Position {
    Position {
        visible: SetNumber(visible),
        saved: SetNumber(saved),
        lag: Duration::from_micros(lag),
        text: format!("playing {visible}"),
    }
}

fn seconds(s: u64) -> Mono {
    NOW.after(Duration::from_secs(s))
}

/// The report of a subtree with one node.
fn leaf(node: &str, p: Position) -> Report {
    let mut a = Aggregate::with_defaults(n(node));
    a.set_own(Some(p));
    a.report(StreamId(9), NOW).expect("one node")
}

#[test]
fn own_position_and_children() {
    let mut a = Aggregate::with_defaults(n("me"));
    assert_eq!(a.report(StreamId(1), NOW), None);
    a.set_own(Some(position(7, 5, 30)));
    a.child(&n("a"), leaf("a", position(4, 9, 10)), NOW).expect("sound");
    a.child(&n("b"), leaf("b", position(7, 8, 40)), NOW).expect("sound");
    let leaf_report = |name: &str, state, lag_us| LeafReport {
        node: n(name),
        state: SetNumber(state),
        lag_us,
        text: format!("playing {state}"),
    };
    let want = Report {
        stream: StreamId(1),
        nodes: 3,
        played_min: SetNumber(4),
        played_max: SetNumber(7),
        // saved is never before what is shown
        saved_min: SetNumber(7),
        by_state: vec![(SetNumber(4), 1), (SetNumber(7), 2)],
        worst: vec![leaf_report("a", 4, 10), leaf_report("b", 7, 40), leaf_report("me", 7, 30)],
    };
    assert_eq!(a.report(StreamId(1), NOW), Some(want));

    // the latest report counts; a relay speaks for others only; a forgotten child is gone
    a.child(&n("a"), leaf("a", position(9, 9, 0)), NOW).expect("sound");
    a.set_own(None);
    a.forget(&n("b"));
    let r = a.report(StreamId(1), NOW).expect("one");
    assert_eq!((r.nodes, r.played_min, r.played_max), (1, SetNumber(9), SetNumber(9)));
    a.forget(&n("a"));
    assert_eq!(a.report(StreamId(1), NOW), None);
}

#[test]
fn a_silent_child_is_kept_and_named() {
    let mut a = Aggregate::with_defaults(n("me"));
    a.child(&n("a"), leaf("x", position(4, 4, 500)), NOW).expect("sound");
    a.child(&n("b"), leaf("b", position(9, 9, 0)), NOW).expect("sound");
    a.heard(&n("b"), seconds(40));
    a.heard(&n("nobody"), seconds(40));
    assert_eq!(a.silent(seconds(29)).count(), 0);
    assert_eq!(a.silent(seconds(45)).collect::<Vec<_>>(), [&n("a")]);
    let r = a.report(StreamId(1), seconds(45)).expect("two");
    assert_eq!((r.nodes, r.played_min), (2, SetNumber(4)));
    assert_eq!(r.worst[0].text, "`a` has not reported for 45 s; before: playing 4");
    assert_eq!(r.worst[0].lag_us, 45_000_500);
    assert_eq!(r.worst[1].text, "playing 9");
}

#[test]
fn long_texts_are_cut_between_characters() {
    let mut a = Aggregate::with_defaults(n("me"));
    a.set_own(Some(Position { text: "ä€".repeat(200), ..position(1, 1, 1) }));
    let r = a.report(StreamId(1), NOW).expect("one");
    assert!(r.worst[0].text.len() <= MAX_LEAF_TEXT && r.worst[0].text.len() > MAX_LEAF_TEXT - 4);
}

#[test]
fn contradictions_are_refused_and_the_old_report_stays() {
    let good = leaf("a", position(4, 4, 1));
    let mut a = Aggregate::with_defaults(n("me"));
    a.child(&n("a"), good.clone(), NOW).expect("sound");
    let worst = good.worst[0].clone();
    let bad = [
        Report { played_max: SetNumber(3), ..good.clone() },
        Report { nodes: 0, ..good.clone() },
        Report { by_state: vec![(SetNumber(4), 2)], ..good.clone() },
        Report { by_state: vec![(SetNumber(4), u32::MAX); 2], nodes: u32::MAX, ..good.clone() },
        Report { by_state: vec![(SetNumber(5), 1)], ..good.clone() },
        Report { by_state: vec![(SetNumber(4), 0); 17], ..good.clone() },
        Report { worst: vec![worst.clone(); 2], ..good.clone() },
        Report { worst: vec![worst.clone(); 9], nodes: 9, ..good.clone() },
        Report { worst: vec![LeafReport { state: SetNumber(9), ..worst }], ..good.clone() },
    ];
    for r in bad {
        let e = a.child(&n("a"), r, NOW).expect_err("bad");
        assert!(e.to_string().contains("`a`"), "{e}");
        assert_eq!(a.latest(&n("a")), Some(&good));
    }
    // no details at all is sound: those nodes count as the oldest
    let bare = Report { nodes: 5, by_state: vec![], worst: vec![], ..good };
    a.child(&n("a"), bare, NOW).expect("sound");
    let r = a.report(StreamId(1), NOW).expect("five");
    assert_eq!((r.nodes, r.by_state), (5, vec![(SetNumber(4), 5)]));
}

#[test]
fn the_oldest_and_the_most_frequent_states_stay() {
    let mut a = Aggregate::with_defaults(n("me"));
    // states 0 to 19, one node each, and a second one at 1 to 5
    for (i, state) in (0..20).chain(1..6).enumerate() {
        let child = format!("c{i}");
        a.child(&n(&child), leaf(&child, position(state, state, 0)), NOW).expect("sound");
    }
    let r = a.report(StreamId(1), NOW).expect("many");
    let counts = [(0, 5)].into_iter().chain((1..6).map(|s| (s, 2))).chain((10..20).map(|s| (s, 1)));
    assert_eq!(r.by_state, counts.map(|(s, c)| (SetNumber(s), c)).collect::<Vec<_>>());
    assert_eq!(r.nodes, 25);
}

#[test]
fn the_cost_does_not_grow_with_leaves() {
    let huge = Report { nodes: 3_000_000_000, ..leaf("a", position(4, 4, 1)) };
    let mut a = Aggregate::with_defaults(n("me"));
    for i in 0..256 {
        a.child(&n(&format!("c{i}")), huge.clone(), NOW).expect("sound");
    }
    let r = a.report(StreamId(1), NOW).expect("many");
    assert_eq!((r.nodes, r.by_state.len()), (u32::MAX, 1));
    assert_eq!(r.worst.len(), MAX_REPORT_LEAVES);
}

/// A tree: each node but the first has a parent before it, and a position or none.
fn any_tree() -> impl Strategy<Value = Vec<(usize, Option<Position>)>> {
    let own = prop::option::weighted(0.8, (0u64..40, 0u64..50, 0u64..5));
    prop::collection::vec((any::<prop::sample::Index>(), own), 1..80).prop_map(|nodes| {
        nodes
            .into_iter()
            .enumerate()
            .map(|(i, (parent, own))| {
                let own = own.map(|(v, s, l)| position(v, v.max(s), l));
                (if i == 0 { 0 } else { parent.index(i) }, own)
            })
            .collect()
    })
}

proptest! {
    #[test]
    fn equal_to_brute_force(tree in any_tree()) {
        let name = |i: usize| n(&format!("n{i:02}"));
        let mut all: Vec<Aggregate> =
            (0..tree.len()).map(|i| Aggregate::with_defaults(name(i))).collect();
        for i in (0..tree.len()).rev() {
            all[i].set_own(tree[i].1.clone());
            if let (true, Some(r)) = (i > 0, all[i].report(StreamId(2), NOW)) {
                all[tree[i].0].child(&name(i), r, NOW).expect("sound");
            }
        }
        let got = all[0].report(StreamId(1), NOW);

        let mut each: Vec<_> = tree.iter().enumerate().filter_map(|(i, (_, p))| Some((i, p.as_ref()?))).collect();
        prop_assert_eq!(got.is_some(), !each.is_empty());
        let Some(got) = got else { return Ok(()) };
        prop_assert_eq!(usize::try_from(got.nodes), Ok(each.len()));
        prop_assert_eq!(Some(got.played_min), each.iter().map(|(_, p)| p.visible).min());
        prop_assert_eq!(Some(got.played_max), each.iter().map(|(_, p)| p.visible).max());
        prop_assert_eq!(Some(got.saved_min), each.iter().map(|(_, p)| p.saved).min());

        each.sort_by_key(|(i, p)| (p.visible, std::cmp::Reverse(p.lag), *i));
        let worst: Vec<_> = each.iter().take(MAX_REPORT_LEAVES).map(|(i, p)| LeafReport {
            node: name(*i),
            state: p.visible,
            lag_us: u64::try_from(p.lag.as_micros()).expect("small"),
            text: p.text.clone(),
        }).collect();
        prop_assert_eq!(&got.worst, &worst);

        let mut counts: BTreeMap<SetNumber, u32> = BTreeMap::new();
        each.iter().for_each(|(_, p)| *counts.entry(p.visible).or_default() += 1);
        let by_state: BTreeMap<SetNumber, u32> = got.by_state.iter().copied().collect();
        prop_assert!(got.by_state.is_sorted() && by_state.len() == got.by_state.len());
        prop_assert_eq!(by_state.values().sum::<u32>(), got.nodes);
        prop_assert_eq!(got.by_state[0].0, got.played_min);
        prop_assert_eq!(by_state.len(), counts.len().min(MAX_REPORT_STATES));
        if counts.len() <= MAX_REPORT_STATES {
            prop_assert_eq!(&by_state, &counts);
        }
        // never more nodes at or beyond a state than there are
        for s in 0..50 {
            let beyond = |m: &BTreeMap<SetNumber, u32>| m.range(SetNumber(s)..).map(|(_, n)| n).sum::<u32>();
            prop_assert!(beyond(&by_state) <= beyond(&counts));
        }
    }
}

#[test]
fn nodes_that_are_fed_in_anothers_place_are_counted_once() {
    let mut mid = Aggregate::with_defaults(n("mid"));
    mid.set_own(Some(position(9, 9, 1)));
    for (leaf_name, state) in [("a", 4), ("b", 8)] {
        mid.child(&n(leaf_name), leaf(leaf_name, position(state, state, 1)), NOW).expect("sound");
    }
    let mut me = Aggregate::with_defaults(n("me"));
    me.child(&n("mid"), mid.report(StreamId(1), NOW).expect("three"), NOW).expect("sound");
    assert_eq!(me.report(StreamId(1), NOW).expect("three").nodes, 3);
    for (leaf_name, left) in [("a", 3), ("b", 3)] {
        for state in [10, 11] {
            let r = leaf(leaf_name, position(state, state, 1));
            me.child_in_place(&n(leaf_name), &n("mid"), r, NOW).expect("sound");
            let r = me.report(StreamId(1), NOW).expect("three");
            assert_eq!((r.nodes, r.by_state.iter().map(|(_, n)| n).sum::<u32>()), (left, 3));
            // What is left of the other's report counts as its oldest.
            assert_eq!(r.played_min, SetNumber(4));
        }
    }
    let r = me.report(StreamId(1), NOW).expect("three");
    let names: Vec<_> = r.worst.iter().map(|l| l.node.as_str().to_owned()).collect();
    assert_eq!(names, ["mid", "a", "b"]);
    // It is back, and reports of itself alone; then it has them again.
    let alone = leaf("mid", position(12, 12, 1));
    me.child(&n("mid"), alone, NOW).expect("sound");
    assert_eq!(me.report(StreamId(1), NOW).expect("three").nodes, 3);
    me.forget(&n("a"));
    me.forget(&n("b"));
    assert_eq!(me.report(StreamId(1), NOW).expect("one").nodes, 1);
}

#[test]
fn who_is_fed_in_anothers_place_once_more_is_not_taken_out_of_its_report_again() {
    // One whose report names everybody, and one that has more below it than it can name.
    for many in [2u32, 20] {
        let mut mid = Aggregate::with_defaults(n("mid"));
        mid.set_own(Some(position(9, 9, 1)));
        for i in 0..many {
            let name = format!("a{i}");
            mid.child(&n(&name), leaf(&name, position(4, 4, 1)), NOW).expect("sound");
        }
        let mut me = Aggregate::with_defaults(n("me"));
        let r = mid.report(StreamId(1), NOW).expect("all");
        me.child(&n("mid"), r, NOW).expect("sound");
        for _ in 0..3 {
            for name in ["a0", "a1"] {
                let r = leaf(name, position(10, 10, 1));
                me.child_in_place(&n(name), &n("mid"), r, NOW).expect("sound");
            }
            assert_eq!(me.report(StreamId(1), NOW).expect("all").nodes, many + 1);
            me.forget(&n("a0"));
            me.forget(&n("a1"));
        }
    }
    // It reported before it had heard of the one below it.
    let mut me = Aggregate::with_defaults(n("me"));
    me.child(&n("mid"), leaf("mid", position(9, 9, 1)), NOW).expect("sound");
    let r = leaf("a", position(10, 10, 1));
    me.child_in_place(&n("a"), &n("mid"), r, NOW).expect("sound");
    assert_eq!(me.report(StreamId(1), NOW).expect("both").nodes, 2);
}
