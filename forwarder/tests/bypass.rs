//! A child that is away is bypassed, and gets back what was its own (FWD-06, vector 5.6).

mod support;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use forwarder::bypass::{Bypass, Step, Surroundings};
use forwarder::limits::{BYPASS_ASK_AGAIN, BYPASS_HOLD, BYPASS_PATIENCE, BYPASS_PATIENCE_AT_START};
use proptest::prelude::*;
use rcp::proto::clock::Mono;
use rcp::proto::ids::NodeName;
use support::{n, ns};

/// A tree as node 2 of FIG. 16 sees it, and who has caught up with whom.
#[derive(Default)]
struct Tree {
    own: Vec<NodeName>,
    below: BTreeMap<NodeName, Vec<NodeName>>,
    behind: RefCell<BTreeSet<NodeName>>,
}

impl Surroundings for Tree {
    fn next_hops(&self, _: &NodeName, node: &NodeName) -> Vec<NodeName> {
        self.below.get(node).cloned().unwrap_or_default()
    }

    fn is_next_hop(&self, node: &NodeName) -> bool {
        self.own.contains(node)
    }

    fn has_caught_up(&self, of: &NodeName, _: &NodeName) -> Result<(), String> {
        if self.behind.borrow().contains(of) { Err("it is behind".to_owned()) } else { Ok(()) }
    }
}

fn tree() -> Tree {
    let below = [(n("n3"), ns("n4 n5")), (n("n5"), ns("n6"))];
    Tree { own: ns("n3 n7"), below: below.into_iter().collect(), ..Tree::default() }
}

fn at(ms: u64) -> Mono {
    Mono(0).after(Duration::from_millis(ms))
}

fn feed(node: &str, of: &str) -> Step {
    Step::Feed { node: n(node), of: n(of), again: false }
}

fn release(node: &str, of: &str) -> Step {
    Step::Release { node: n(node), of: n(of) }
}

/// Both children are up since the beginning.
fn up() -> Bypass {
    let mut b = Bypass::default();
    for child in ["n3", "n7"] {
        b.starts(&n(child), false, at(0));
        b.up(&n(child), at(0));
    }
    b
}

#[test]
fn the_next_hops_of_a_dead_child_are_fed_and_handed_back() {
    let (t, mut b) = (tree(), up());
    assert_eq!(b.steps(at(50_000), &t), []);
    b.lost(&n("n3"), at(60_000));
    b.lost(&n("n3"), at(60_200));
    let due = at(60_000).after(BYPASS_PATIENCE);
    assert_eq!(b.timeout(at(60_200)), Some(due));
    assert_eq!(b.steps(at(60_600), &t), []);
    assert_eq!(b.steps(due, &t), [feed("n4", "n3"), feed("n5", "n3")]);
    assert_eq!(b.steps(due, &t), []);
    assert_eq!(b.place_of(&n("n4")), Some(&n("n3")));
    for node in ["n4", "n5"] {
        b.up(&n(node), at(61_000));
    }
    let words = "n3 is away since 12 s: feeding n4 and n5 in its place";
    assert_eq!(b.words(&n("n3"), at(72_000)).as_deref(), Some(words));

    t.behind.borrow_mut().insert(n("n3"));
    b.up(&n("n3"), at(80_000));
    assert_eq!(b.steps(at(80_500), &t), [], "it is back for too short a time");
    assert_eq!(b.timeout(at(80_500)), Some(at(80_000).after(BYPASS_HOLD)));
    assert_eq!(b.steps(at(90_000), &t), [], "it is behind");
    let words = "n3 is back: feeding n4 and n5 in its place until it has caught up (it is behind)";
    assert_eq!(b.words(&n("n3"), at(90_000)).as_deref(), Some(words));
    t.behind.borrow_mut().clear();
    assert_eq!(b.steps(at(91_000), &t), [release("n4", "n3"), release("n5", "n3")]);
    assert!(!b.is_active(&n("n3")) && b.words(&n("n3"), at(91_000)).is_none());
    assert_eq!(b.place_of(&n("n4")), None);
}

#[test]
fn a_leaf_that_is_away_has_nobody_below() {
    let (t, mut b) = (tree(), up());
    b.lost(&n("n7"), at(1000));
    assert_eq!(b.steps(at(99_000), &t), []);
    assert_eq!(b.words(&n("n7"), at(99_000)), None);
}

#[test]
fn a_child_that_refuses_is_alive() {
    let (t, mut b) = (tree(), up());
    b.lost(&n("n3"), at(1000));
    b.refused(&n("n3"), false, "untrusted", at(1100));
    assert_eq!(b.steps(at(99_000), &t), []);
}

#[test]
fn the_whole_tree_may_be_starting() {
    let (t, mut b) = (tree(), Bypass::default());
    b.starts(&n("n3"), false, at(0));
    b.lost(&n("n3"), at(100));
    assert_eq!(b.steps(at(5000), &t), []);
    assert_eq!(b.steps(at(0).after(BYPASS_PATIENCE_AT_START), &t).len(), 2);
    // This node was away, in the middle of a bypass.
    let mut b = Bypass::default();
    b.starts(&n("n3"), true, at(0));
    assert_eq!(b.steps(at(0).after(BYPASS_PATIENCE), &t).len(), 2);
}

#[test]
fn whoever_feeds_a_node_goes_on_and_is_not_disturbed_often() {
    let (t, mut b) = (tree(), up());
    b.lost(&n("n3"), at(0));
    let mut now = at(0).after(BYPASS_PATIENCE);
    assert_eq!(b.steps(now, &t).len(), 2);
    b.up(&n("n5"), now);
    // 3 is only cut off from here, and feeds 4.
    let mut asked = Vec::new();
    for _ in 0..9 {
        b.refused(&n("n4"), true, "fed by n3", now);
        assert_eq!(b.place_of(&n("n4")), None);
        let words = b.words(&n("n3"), now).expect("a bypass");
        assert!(words.ends_with("n4 is left to who feeds it: fed by n3"), "{words}");
        let next = b.timeout(now).expect("asked again");
        assert_eq!(b.steps(next, &t), [Step::Feed { node: n("n4"), of: n("n3"), again: true }]);
        assert_eq!(b.steps(next, &t), []);
        asked.push(next.since(now).as_secs());
        now = next;
    }
    assert_eq!(asked, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
    assert_eq!(asked[0], BYPASS_ASK_AGAIN.as_secs());
    // Now it takes us.
    b.up(&n("n4"), now);
    assert_eq!(b.place_of(&n("n4")), Some(&n("n3")));
    b.up(&n("n3"), now);
    let steps = b.steps(now.after(BYPASS_HOLD), &t);
    assert_eq!(steps, [release("n4", "n3"), release("n5", "n3")]);
}

#[test]
fn a_next_hop_that_is_away_as_well_is_bypassed_too() {
    let (t, mut b) = (tree(), up());
    b.lost(&n("n3"), at(0));
    let first = at(0).after(BYPASS_PATIENCE);
    assert_eq!(b.steps(first, &t).len(), 2);
    b.up(&n("n4"), first);
    b.lost(&n("n5"), first);
    let second = first.after(BYPASS_PATIENCE);
    assert_eq!(b.steps(second, &t), [feed("n6", "n5")]);
    assert_eq!(b.root(&n("n6")), Some(&n("n3")));
    b.up(&n("n6"), second);
    // 3 comes back and may not know of 6: 5 and 6 stay.
    b.up(&n("n3"), second);
    let third = second.after(BYPASS_HOLD);
    assert_eq!(b.steps(third, &t), [release("n4", "n3")]);
    assert!(b.words(&n("n3"), third).expect("still").ends_with("(n5 is away as well)"));
    // 5 is fed by 3 again, as it says.
    b.refused(&n("n5"), true, "fed by n3", third);
    assert_eq!(b.steps(third, &t), [release("n6", "n5"), release("n5", "n3")]);
}

#[test]
fn a_return_that_does_not_last_makes_the_next_hold_longer() {
    let (t, mut b) = (tree(), up());
    let mut now = at(0);
    let mut holds = Vec::new();
    for _ in 0..9 {
        b.lost(&n("n3"), now);
        now = now.after(BYPASS_PATIENCE);
        assert_eq!(b.steps(now, &t).len(), 2);
        b.up(&n("n4"), now);
        b.up(&n("n5"), now);
        b.up(&n("n3"), now);
        let back = b.timeout(now).expect("the hold");
        holds.push(back.since(now).as_secs());
        assert_eq!(b.steps(Mono(back.0 - 1), &t), []);
        assert_eq!(b.steps(back, &t).len(), 2);
        now = back.after(Duration::from_secs(1));
    }
    assert_eq!(holds, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
    b.lost(&n("n3"), now.after(Duration::from_secs(400)));
    now = now.after(Duration::from_secs(401));
    assert_eq!(b.steps(now, &t).len(), 2);
    b.up(&n("n3"), now);
    assert_eq!(b.steps(now.after(BYPASS_HOLD), &t).len(), 2, "it had lasted");
}

#[test]
fn nobody_is_left_without_a_feeder_by_a_route_that_was_lost() {
    let (mut t, mut b) = (tree(), up());
    b.lost(&n("n3"), at(0));
    assert_eq!(b.steps(at(1000), &t).len(), 2);
    b.up(&n("n4"), at(1000));
    b.up(&n("n5"), at(1000));
    t.below.insert(n("n3"), ns("n5"));
    b.up(&n("n3"), at(2000));
    assert_eq!(b.steps(at(9000), &t), [release("n5", "n3")]);
    let words = b.words(&n("n3"), at(9000)).expect("still");
    assert!(words.contains("it has no route to n4 any more: `rcproute delete` it here, then `rcproute add` it at n3"), "{words}");
    // An operator lets it go: not again before 3 is back.
    b.leave(&n("n4"));
    assert_eq!(b.words(&n("n3"), at(9000)), None);
    t.below.insert(n("n3"), ns("n4"));
    b.forget(&n("n4"));
    b.lost(&n("n3"), at(10_000));
    assert_eq!(b.steps(at(20_000), &t), [feed("n4", "n3")], "it was up since");
    b.leave(&n("n4"));
    b.forget(&n("n4"));
    assert_eq!(b.steps(at(30_000), &t), []);
}

#[test]
fn a_route_that_is_deleted_takes_its_bypass_along() {
    let (t, mut b) = (tree(), up());
    b.lost(&n("n3"), at(0));
    assert_eq!(b.steps(at(1000), &t).len(), 2);
    b.lost(&n("n5"), at(1000));
    assert_eq!(b.steps(at(3000), &t), [feed("n6", "n5"),]);
    let mut gone = b.forget(&n("n3"));
    gone.sort();
    assert_eq!(gone, ns("n4 n5 n6"));
    assert_eq!((b.steps(at(99_000), &t), b.timeout(at(3000))), (Vec::new(), None));
}

#[test]
fn it_can_be_switched_off() {
    let (t, mut b) = (tree(), up());
    b.set_on(false);
    b.lost(&n("n3"), at(0));
    assert_eq!(b.steps(at(99_000), &t), []);
    b.set_on(true);
    assert_eq!(b.steps(at(99_000), &t).len(), 2);
}

#[derive(Clone, Copy, Debug)]
enum Happens {
    Lost(usize),
    Up(usize),
    Fed(usize),
    Forgotten(usize),
    Passes(u64),
}

fn happens() -> impl Strategy<Value = Happens> {
    prop_oneof![
        (0..5usize).prop_map(Happens::Lost),
        (0..5usize).prop_map(Happens::Up),
        (0..5usize).prop_map(Happens::Fed),
        (1..5usize).prop_map(Happens::Forgotten),
        (1..20_000u64).prop_map(Happens::Passes),
    ]
}

proptest! {
    /// Whatever happens: who is let go was fed, nobody is fed twice or beside a route, and when all
    /// are up for long, nobody is fed in another's place.
    #[test]
    fn every_feeding_ends(what in prop::collection::vec(happens(), 0..60)) {
        let names = ["n3", "n4", "n5", "n6", "n7"].map(n);
        let (t, mut b) = (tree(), up());
        let mut fed = BTreeSet::new();
        let mut now = at(0);
        for h in what {
            match h {
                Happens::Lost(i) if i == 0 || i == 4 || fed.contains(&names[i]) => {
                    b.lost(&names[i], now);
                }
                Happens::Up(i) if i == 0 || i == 4 || fed.contains(&names[i]) => b.up(&names[i], now),
                Happens::Fed(i) if fed.remove(&names[i]) => {
                    b.refused(&names[i], true, "fed", now);
                }
                Happens::Forgotten(i) if fed.remove(&names[i]) => {
                    for below in b.forget(&names[i]) {
                        fed.remove(&below);
                    }
                }
                Happens::Lost(_) | Happens::Up(_) | Happens::Fed(_) | Happens::Forgotten(_) => {}
                Happens::Passes(ms) => now = now.after(Duration::from_millis(ms)),
            }
            for step in b.steps(now, &t) {
                match step {
                    Step::Feed { node, .. } => {
                        prop_assert!(!t.own.contains(&node));
                        prop_assert!(fed.insert(node));
                    }
                    Step::Release { node, .. } => { fed.remove(&node); }
                }
            }
        }
        for _ in 0..20 {
            for node in names.iter().filter(|n| t.own.contains(n) || fed.contains(*n)) {
                b.up(node, now);
            }
            now = now.after(Duration::from_secs(61));
            for step in b.steps(now, &t) {
                match step {
                    Step::Feed { node, .. } => { fed.insert(node); }
                    Step::Release { node, .. } => { fed.remove(&node); }
                }
            }
        }
        prop_assert!(fed.is_empty(), "{fed:?}");
        prop_assert!(names.iter().all(|n| b.words(n, now).is_none()));
    }
}
