//! What an operator sees.

use super::sample::{replica, source};
use crate::api::{ChildProgress, LinkStatus, NodeStatus};
use crate::cli::client::ClientError;
use crate::cli::status::{Asked, View, render};
use crate::http::tests::fake;

fn seen(nodes: Vec<NodeStatus>, view: &View<'_>) -> String {
    let asked: Vec<Asked> =
        nodes.into_iter().map(|n| Asked { called: n.node.clone(), answer: Ok(n) }).collect();
    render(&asked, view).expect("rendered")
}

#[track_caller]
fn same(seen: &str, expected: &str) {
    assert!(seen == expected, "seen:\n{seen}\nexpected:\n{expected}");
}

#[test]
fn show() {
    println!(
        "{}",
        seen(
            vec![replica(), source()],
            &View { volume: Some("pfs10"), lines: Some(128), ..View::default() }
        )
    );
    println!("=======\n{}", seen(vec![fake::status()], &View::default()));
    println!(
        "=======\n{}",
        seen(vec![fake::status()], &View { lines: Some(3), ..View::default() })
    );
    println!("=======\n{}", seen(vec![source(), replica()], &View::default()));
    let _ =
        (same, ChildProgress::default(), LinkStatus::default(), ClientError::Broken(String::new()));
}
