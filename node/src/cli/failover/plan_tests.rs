//! Plans for made-up trees, letter by letter.

use super::*;
use crate::api::{ChildProgress, GroupStatus, LinkStatus, SetInfo};

fn line(generation: &str, forked_from: u64, by: &str) -> HistoryLine {
    HistoryLine {
        generation: generation.into(),
        forked_from,
        opened_by: by.into(),
        opened_at_us: 0,
    }
}

fn holder(name: &str, role: &str, shown: u64, saved: u64) -> NodeStatus {
    let sets = (1..=saved.max(shown)).rev().map(|set| SetInfo {
        set,
        created_us: set * 2_000_000,
        blocks: 256,
        ..SetInfo::default()
    });
    let state = if role == "primary" { "writable" } else { "readable" };
    let v = VolumeInfo {
        label: "vol".into(),
        group: "g1".into(),
        role: role.into(),
        state: state.into(),
        generation: "1-aaaaaaaa".into(),
        block_size: 4096,
        current_set: shown,
        saved_set: saved,
        newest_known_set: saved,
        lag_seconds: Some(1.0),
        history: vec![line("1-aaaaaaaa", 0, "p")],
        sets: sets.collect(),
        ..VolumeInfo::default()
    };
    NodeStatus { node: name.into(), volumes: vec![v], ..NodeStatus::default() }
}

/// Everybody was asked.
fn everybody() -> Round {
    let names = ["p", "f1", "l1", "l2", "l3", "l4", "l5", "l9"];
    Round { silent: names.map(str::to_owned).into(), ..Round::default() }
}

#[test]
fn with_the_writer_gone_the_one_that_saved_most_is_recommended() {
    let mut f = holder("f1", "replica", 9, 9);
    f.groups = vec![GroupStatus {
        group: "g1".into(),
        parent: Some(LinkStatus { node: "p".into(), ..LinkStatus::default() }),
        routes: [("f1".to_owned(), vec!["l1".to_owned(), "l9".to_owned()])].into(),
        ..GroupStatus::default()
    }];
    f.volumes[0].newest_known_set = 12;
    f.volumes[0].children =
        vec![ChildProgress { node: "l9".into(), saved_set: 8, ..ChildProgress::default() }];
    let nodes = [f, holder("l1", "replica", 8, 10)];
    let p = plan("vol", &nodes, &everybody()).expect("a plan");
    assert_eq!(p.recommended.as_deref(), Some("l1"));
    assert_eq!(p.newest_known_set, 12);
    let c = |n: &str| p.candidates.iter().find(|c| c.node == n).expect("a candidate");
    assert_eq!(c("l1").loss, Loss { sets: 2, seconds: None, bytes: None });
    assert_eq!(c("l1").loss_now.sets, 4);
    assert_eq!(c("f1").would_rewind, ["l1"]);
    let names: Vec<_> = p.unseen.iter().map(|u| (u.node.as_str(), u.saved_set)).collect();
    assert_eq!(names, [("l9", Some(8)), ("p", None)]);
    assert_eq!(
        draw(&p),
        "volume vol of group g1, generation 1-aaaaaaaa: newest known set 12\n\
         writer: p, did not answer\n\
         \n\
         \x20 NODE  STATE     LINE        SHOWN  SAVED  LAG  WOULD LOSE                           WOULD REWIND\n\
         → l1    readable  1-aaaaaaaa      8     10  1 s  2 sets, time unknown, bytes unknown  -\n\
         \x20 f1    readable  1-aaaaaaaa      9      9  1 s  3 sets, time unknown, bytes unknown  l1\n\
         \x20 l9 did not answer, last known at set 8\n\
         \x20 p did not answer\n\
         \n\
         ! the writer did not answer: what it changed after the newest known set is lost as well, and \
         nobody can say how much\n\
         recommended: rcpctl failover vol --to l1 --adopt\n"
    );
}

#[test]
fn with_the_writer_up_a_swap_without_loss_is_recommended_and_the_loss_is_exact() {
    let nodes = [holder("p", "primary", 12, 12), holder("l1", "replica", 10, 10)];
    let p = plan("vol", &nodes, &everybody()).expect("a plan");
    let c = &p.candidates[0];
    assert_eq!(c.node, "l1");
    assert_eq!(c.loss, Loss { sets: 2, seconds: Some(4.0), bytes: Some(2 * 256 * 4096) });
    assert_eq!(p.candidates[1].cannot.as_deref(), Some("it is the writer"));
    let text = draw(&p);
    assert!(text.contains("2 sets, 4 s, 2 MiB"), "{text}");
    assert!(text.ends_with("recommended: rcpctl failover vol --sync --to l1\n"), "{text}");
}

#[test]
fn who_is_past_a_fork_seeding_or_split_is_told_so() {
    let mut old = holder("p", "primary", 12, 12);
    old.volumes[0].fenced = Some("fenced: …".into());
    let mut past = holder("l2", "replica", 12, 12);
    let mut seeding = holder("l3", "replica", 0, 0);
    seeding.volumes[0].state = "seeding".into();
    let mut new = holder("l1", "primary", 11, 11);
    new.volumes[0].history.push(line("2-bbbbbbbb", 10, "l1"));
    let p = plan("vol", &[old.clone(), past.clone(), seeding, new.clone()], &everybody())
        .expect("a plan");
    assert_eq!(p.newest_known_set, 11, "sets of the old line do not count");
    let why = |n: &str| p.candidates.iter().find(|c| c.node == n).and_then(|c| c.cannot.clone());
    assert!(why("l2").expect("cannot").contains("past set 10, where l1 took over"));
    assert!(why("l3").expect("cannot").contains("seeding"));
    assert_eq!(why("p"), None, "an operator may go back to it");
    assert!(p.writer_is_up);

    // The line after that began earlier.
    let mut last = holder("l4", "primary", 8, 8);
    last.volumes[0].history.extend([line("2-bbbbbbbb", 10, "l1"), line("3-cccccccc", 7, "l4")]);
    let ahead = holder("l5", "replica", 9, 9);
    let p = plan("vol", &[ahead, last], &everybody()).expect("a plan");
    assert_eq!(p.newest_counter, 3);
    let l5 = p.candidates.iter().find(|c| c.node == "l5").expect("l5");
    let why = l5.cannot.as_deref().expect("cannot");
    assert!(why.contains("past set 7, where l4 took over"), "{why}");

    past.volumes[0].history.push(line("2-cccccccc", 9, "l2"));
    past.volumes[0].role = "primary".into();
    let p = plan("vol", &[new, past], &everybody()).expect("a plan");
    assert!(p.warnings[0].starts_with("split-brain"), "{:?}", p.warnings);
    assert_eq!(p.recommended, None);
    assert!(plan("other", &[old], &everybody()).is_err());
}

#[test]
fn who_was_not_asked_is_not_said_to_be_gone() {
    // Only the replica was asked; the writer may be well.
    let nodes = [holder("l1", "replica", 10, 10)];
    let p = plan("vol", &nodes, &Round::default()).expect("a plan");
    assert_eq!(p.recommended, None);
    let text = draw(&p);
    assert!(text.contains("writer: p, was not asked\n"), "{text}");
    assert!(text.contains("p was not asked (only l1): give --topology FILE"), "{text}");
    assert!(!text.contains("did not answer") && !text.contains("→"), "{text}");

    // Only the writer was asked; the topology tells of the others.
    let members = [("g1".to_owned(), vec!["p".to_owned(), "l1".to_owned()])].into();
    let round = Round { members, ..Round::default() };
    let nodes = [holder("p", "primary", 12, 12)];
    let p = plan("vol", &nodes, &round).expect("a plan");
    assert_eq!(p.not_asked(), ["l1"]);
    assert!(!draw(&p).contains("did not answer"), "{}", draw(&p));

    // Asked, and silent: that is another thing.
    let round = Round { silent: ["p".to_owned()].into(), ..Round::default() };
    let p = plan("vol", &[holder("l1", "replica", 10, 10)], &round).expect("a plan");
    assert_eq!(p.recommended.as_deref(), Some("l1"));
    assert!(draw(&p).contains("writer: p, did not answer\n"), "{}", draw(&p));
}

#[test]
fn a_replica_that_stands_still_comes_after_the_others() {
    let mut full = holder("l1", "replica", 9, 12);
    full.volumes[0].stalled = Some("playback stopped: no space left".into());
    let p = plan("vol", &[full.clone(), holder("l2", "replica", 10, 10)], &everybody());
    let p = p.expect("a plan");
    assert_eq!(p.recommended.as_deref(), Some("l2"));
    let text = draw(&p);
    assert!(text.contains("! l1: playback stopped: no space left; it cannot take over"), "{text}");
    // Better than nobody.
    let p = plan("vol", &[full], &everybody()).expect("a plan");
    assert_eq!(p.recommended.as_deref(), Some("l1"));
}

#[test]
fn who_knows_of_damage_is_not_recommended_although_it_has_most() {
    let mut damaged = holder("l1", "replica", 10, 10);
    damaged.volumes[0].damage = Some("block 26 is damaged, and not fetched again yet".into());
    let nodes = [damaged.clone(), holder("l2", "replica", 8, 8)];
    let p = plan("vol", &nodes, &everybody()).expect("a plan");
    assert_eq!(p.recommended.as_deref(), Some("l2"));
    let text = draw(&p);
    for word in ["l1 is not recommended: block 26", "--to l1 --lose-damaged-blocks"] {
        assert!(text.contains(word), "{word}: {text}");
    }
    // Alone it is not recommended either.
    let p = plan("vol", &[damaged], &everybody()).expect("a plan");
    assert_eq!(p.recommended, None);
}
