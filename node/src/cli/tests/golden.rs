//! What an operator sees.

use super::sample::{at, replica, source};
use crate::api::{ChildProgress, LinkStatus, NodeStatus};
use crate::cli::client::ClientError;
use crate::cli::status::{Asked, View, render};
use crate::http::tests::fake;

fn seen(nodes: Vec<NodeStatus>, view: &View<'_>) -> String {
    let asked: Vec<Asked> =
        nodes.into_iter().map(|n| Asked { called: n.node.clone(), answer: Ok(n) }).collect();
    render(&asked, view).expect("rendered")
}

/// Compares with a file beside this one; with UPDATE_GOLDEN=1 it is written instead.
#[track_caller]
fn same(seen: &str, file: &str) {
    let path = format!("{}/src/cli/tests/golden/{file}.txt", env!("CARGO_MANIFEST_DIR"));
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, seen).expect("write");
    }
    let expected = std::fs::read_to_string(&path).expect("golden file");
    assert!(seen == expected, "{path}: seen:\n{seen}\nexpected:\n{expected}");
}

/// The printed sample of the source texts, from two nodes in any order.
#[test]
fn the_printed_sample() {
    let view = View { volume: Some("pfs10"), lines: Some(128), ..View::default() };
    let text = seen(vec![replica(), source()], &view);
    same(&text, "sample");
    assert_eq!(seen(vec![source(), replica()], &view), text);
}

#[test]
fn a_primary_in_detail() {
    same(&seen(vec![fake::status()], &View { lines: Some(3), ..View::default() }), "primary");
}

#[test]
fn a_replica_alone_with_few_lines() {
    let elsewhere = ["cel9-ser9".to_owned()];
    let view =
        View { volume: Some("pfs10"), lines: Some(4), elsewhere: &elsewhere, ..View::default() };
    same(&seen(vec![replica()], &view), "replica");
}

#[test]
fn what_is_wrong_is_printed_last_and_the_worst_first() {
    same(&render(&trouble(), &View::default()).expect("rendered"), "trouble");
}

#[test]
fn colours_and_control_characters() {
    let view = View { colour: true, ..View::default() };
    let text = render(&trouble(), &view).expect("rendered");
    assert_eq!(text.matches('\x1b').count(), text.matches("\x1b[31m").count() * 2);
    let text = render(&trouble(), &View::default()).expect("rendered");
    assert!(!text.chars().any(|c| c.is_control() && c != '\n'));
}

#[test]
fn tables_that_contradict_each_other_end() {
    let (mut a, mut b) = (source(), replica());
    b.groups[0].children = a.groups[0].children.clone();
    b.groups[0].children[0].node = a.node.clone();
    a.groups[0].parent = None;
    let text = seen(vec![a, b], &View::default());
    assert!(text.contains("\n└── cel2-ser2") || text.contains("\n└── cel1-ser2"), "{text}");
    assert!(
        seen(vec![NodeStatus::default()], &View::default()).ends_with("No problems on 1 node.\n")
    );
    assert!(render(&[], &View::default()).expect("nothing").contains("0 nodes"));
}

/// Nearly everything that may be wrong.
fn trouble() -> Vec<Asked> {
    let mut top = source();
    let gone = LinkStatus {
        node: "cel3-ser1".into(),
        addr: "10.0.0.3:7100".into(),
        state: "refused".into(),
        reason: Some("it has another parent: cel9-ser1".into()),
        since_us: at("21:09:18"),
        ..LinkStatus::default()
    };
    top.groups[0].children.push(gone);
    top.groups[0].drift = vec!["cel1-ser2 → cel5-ser1 is not in the topology".into()];
    let v = &mut top.volumes[0];
    (v.save_used, v.save_full_in_seconds) = (1000 << 20, Some(240.0));
    v.children = vec![
        ChildProgress {
            node: "cel1-ser2".into(),
            state: "seeding".into(),
            seed_percent: Some(41.96),
            ..ChildProgress::default()
        },
        ChildProgress {
            node: "cel3-ser1".into(),
            state: "detached".into(),
            reason: Some("the save volume was full and it was furthest behind".into()),
            saved_set: 3,
            ..ChildProgress::default()
        },
    ];
    let mut below = replica();
    below.groups[0].children = vec![LinkStatus {
        node: "cel4-ser1".into(),
        addr: "10.0.0.4:7100".into(),
        state: "waiting".into(),
        reason: Some("no route to host \x1b[2J".into()),
        since_us: at("21:09:00"),
        ..LinkStatus::default()
    }];
    below.groups[0].role = "forwarder".into();
    let v = &mut below.volumes[0];
    (v.state, v.lag_seconds) = ("failed".into(), None);
    v.reason = Some("fdatasync of its save volume failed: Input/output error".into());
    let silent = ClientError::NotRunning("no rcpd is running there: there is no /srv/x".into());
    vec![
        Asked { called: "cel1-ser2".into(), answer: Ok(below) },
        Asked { called: "cel7-ser1".into(), answer: Err(silent) },
        Asked { called: "cel2-ser2".into(), answer: Ok(top) },
    ]
}
