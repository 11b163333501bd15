//! The feeder rule over every state and event.

mod support;

use std::time::Duration;

use forwarder::feeder::{Feeder, FeederState, RefuseKind};
use proptest::prelude::*;
use rcp::proto::clock::Mono;
use rcp::proto::frame::RefuseCode;
use rcp::proto::limits::MAX_PATH;
use support::{g, n, ns};

const SILENCE: Duration = Duration::from_secs(10);

fn at(seconds: u64) -> Mono {
    Mono(0).after(Duration::from_secs(seconds))
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Want {
    Number(u32),
    Refused(RefuseKind),
}

/// The three states at second 1; number 1 was given to `a` in the last two.
fn states() -> [(&'static str, Feeder); 3] {
    let none = Feeder::with_defaults(n("me"), g("g1"));
    let mut fed = none.clone();
    let accepted = fed.offer(&n("a"), &ns("p a"), at(0)).expect("free");
    assert_eq!((accepted.feeder_number, accepted.replaces_silent), (1, false));
    assert!(fed.heard(1, at(1)));
    let mut released = fed.clone();
    assert!(released.released(1, at(1)));
    [("NoFeeder", none), ("Fed", fed), ("Released", released)]
}

fn name(f: &Feeder) -> &'static str {
    match f.state() {
        FeederState::NoFeeder => "NoFeeder",
        FeederState::Fed { .. } => "Fed",
        FeederState::Released { .. } => "Released",
    }
}

#[test]
fn offers_in_every_state() {
    use Want::{Number, Refused};
    let deep: Vec<_> = (0..MAX_PATH).map(|i| n(&format!("n{i}"))).collect();
    let offers = [
        ("me", ns("p"), 2, [Refused(RefuseKind::Itself); 3]),
        ("b", ns("p me x b"), 2, [Refused(RefuseKind::Loop); 3]),
        ("a", ns("me a"), 99, [Refused(RefuseKind::Loop); 3]),
        ("b", deep[..].to_vec(), 99, [Refused(RefuseKind::TooDeep); 3]),
        ("b", deep[1..].to_vec(), 99, [Number(1), Number(2), Number(2)]),
        ("a", ns("p a"), 2, [Number(1), Number(2), Number(2)]),
        ("a", ns("p a"), 99, [Number(1), Number(2), Number(2)]),
        ("b", ns("p b"), 2, [Number(1), Refused(RefuseKind::Fed), Number(2)]),
        ("b", ns(""), 10, [Number(1), Refused(RefuseKind::Fed), Number(2)]),
        ("b", ns(""), 11, [Number(1), Number(2), Number(2)]),
    ];
    for (node, path, second, wants) in offers {
        for ((state, before), want) in states().into_iter().zip(wants) {
            let mut f = before.clone();
            let asked = f.check(&n(node), &path, at(second));
            let got = match f.offer(&n(node), &path, at(second)) {
                Ok(a) => {
                    assert_eq!(asked, Ok(a.replaces_silent));
                    assert_eq!(a.replaces_silent, state == "Fed" && node == "b");
                    assert_eq!(name(&f), "Fed");
                    assert_eq!(f.number(), a.feeder_number);
                    assert_eq!(f.silent_at(), Some(at(second).after(SILENCE)));
                    assert!(!f.is_current(a.feeder_number - 1) && f.is_current(a.feeder_number));
                    Number(a.feeder_number)
                }
                Err(e) => {
                    assert_eq!(asked, Err(e.clone()));
                    assert_eq!(f.state(), before.state());
                    for word in ["me", "g1"] {
                        assert!(e.text.contains(&format!("`{word}`")), "{e}");
                    }
                    Refused(e.kind)
                }
            };
            assert_eq!(got, want, "{state}: {node} {path:?} at {second}");
        }
    }
}

#[test]
fn signs_of_life_and_releases_in_every_state() {
    for (state, before) in states() {
        for number in [0, 1, 2] {
            let current = state == "Fed" && number == 1;
            let mut f = before.clone();
            assert_eq!(f.heard(number, at(5)), current, "{state} {number}");
            assert_eq!(name(&f), state);
            let silent_at = f.silent_at();
            assert_eq!(silent_at == Some(at(15)), current, "{state} {number}");
            // time that goes back changes nothing
            f.heard(number, at(3));
            assert_eq!(f.silent_at(), silent_at);

            let mut f = before.clone();
            assert_eq!(f.released(number, at(5)), current, "{state} {number}");
            assert_eq!(name(&f), if current { "Released" } else { state });
            assert!(state != "Fed" || f.is_current(1) != current);
        }
        assert_eq!(before.is_silent(at(11)), state == "Fed");
        assert!(!before.is_silent(at(10)));
    }
}

#[test]
fn refusals_say_what_to_do() {
    let [_, (_, mut fed), _] = states();
    let e = fed.offer(&n("b"), &ns("p b"), at(3)).expect_err("fed");
    assert_eq!(e.kind.code(), RefuseCode::Fed);
    for words in ["fed by `a`", "heard 2.0 s ago", "10.0 s of silence", "nexthop=me` at `a`"] {
        assert!(e.text.contains(words), "{e}");
    }
    let e = fed.offer(&n("b"), &ns("p me x b"), at(3)).expect_err("ring");
    assert_eq!(e.kind.code(), RefuseCode::Loop);
    assert!(e.text.contains("me -> x -> b -> me"), "{e}");
}

proptest! {
    /// Whatever happens, numbers rise, at most one is current, and a change from one live node to
    /// another needs a release or silence between them.
    #[test]
    fn one_feeder_at_a_time(events in prop::collection::vec((0u8..4, 0usize..3, 0u64..15), 1..60)) {
        let mut f = Feeder::new(n("me"), g("g1"), SILENCE);
        let (mut now, mut highest, mut current) = (0, 0, None::<(usize, u64)>);
        for (what, who, wait) in events {
            now += wait;
            let node = n(["a", "b", "c"][who]);
            match what {
                0 | 1 => {
                    let free = current.is_none_or(|(c, heard)| c == who || now - heard >= 10);
                    match f.offer(&node, &[], at(now)) {
                        Ok(a) => {
                            prop_assert!(free && a.feeder_number > highest);
                            highest = a.feeder_number;
                            current = Some((who, now));
                        }
                        Err(_) => prop_assert!(!free),
                    }
                }
                2 => {
                    if f.heard(highest, at(now)) {
                        current = current.map(|(c, _)| (c, now));
                    }
                }
                _ => {
                    prop_assert_eq!(f.released(highest, at(now)), current.is_some());
                    current = None;
                }
            }
            prop_assert_eq!(f.is_current(highest), current.is_some());
            prop_assert!((0..highest).all(|old| !f.is_current(old)));
        }
    }
}

/// `me` is fed by `c`, which is below `b`, which is below `p`; at second 1 the session breaks.
fn broken() -> Feeder {
    let mut f = Feeder::with_defaults(n("me"), g("g1"));
    f.offer(&n("c"), &ns("p b c"), at(0)).expect("free");
    for node in ["p", "b", "x"] {
        let e = f.check(&n(node), &ns("p"), at(1)).expect_err("c is alive");
        assert_eq!(e.kind, RefuseKind::Fed);
    }
    assert!(!f.broke(7) && f.broke(1));
    f
}

#[test]
fn a_node_of_the_line_takes_a_broken_feeders_place_at_once_and_gives_it_back() {
    let mut f = broken();
    // A stranger waits for the silence, and late frames of the old number count for nothing.
    let e = f.offer(&n("x"), &ns("p x"), at(2)).expect_err("not of the line");
    assert_eq!(e.kind, RefuseKind::Fed);
    assert!(f.check(&n("x"), &ns("p x"), at(11)).expect("silent"));
    let a = f.offer(&n("b"), &ns("p b"), at(2)).expect("the node above");
    assert_eq!((a.feeder_number, a.replaces_silent), (2, true));
    assert!(f.is_current(2) && !f.heard(1, at(3)));
    // One at a time: also the parent waits until it is let go.
    assert_eq!(f.check(&n("c"), &ns("p b c"), at(3)).expect_err("b lives").kind, RefuseKind::Fed);
    // The line stays that of the parent, which may come at once when b breaks off, as may p.
    assert_eq!(f.line(), ns("p b c"));
    assert!(f.broke(2));
    for node in ["c", "p", "b"] {
        assert!(f.check(&n(node), &ns("p"), at(3)).is_ok(), "{node}");
    }
    assert!(f.check(&n("x"), &ns("p x"), at(3)).is_err());
    f.offer(&n("c"), &ns("p d c"), at(3)).expect("the parent");
    assert_eq!(f.line(), ns("p d c"));
}

#[test]
fn whom_the_topology_names_may_step_in() {
    let mut f = broken();
    f.set_named(ns("x"));
    assert!(f.check(&n("x"), &ns("p x"), at(2)).is_ok());
    assert!(f.check(&n("y"), &ns("p y"), at(2)).is_err());
    // What is below this node may not, whoever named it.
    f.set_named(ns("y"));
    let e = f.check(&n("y"), &ns("p me y"), at(2)).expect_err("a loop");
    assert_eq!(e.kind, RefuseKind::Loop);
}
