//! What is known of a control block: results by member, and who is missing and why.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::super::ids::{GroupName, NodeName};
use super::journal::BlockId;

/// What a result that is not the last word of its node begins with (`PROTOCOL.md`, section 8).
const PROVISIONAL: [&str; 2] = ["waits for ", "not connected"];

/// Whether a result is of somebody who has not executed the block *yet*.
#[must_use]
pub fn provisional(ok: bool, text: &[u8]) -> bool {
    !ok && PROVISIONAL.iter().any(|p| text.starts_with(p.as_bytes()))
}

/// What is said of a child that is away.
#[must_use]
pub fn not_connected(why: Option<&str>) -> String {
    format!("not connected, nor are those below it: {}", why.unwrap_or("never was"))
}

/// How a child is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Below {
    /// Connected.
    Up,
    /// Away, and why.
    Away(String),
    /// It has no route any more.
    Gone,
}

/// What one member says, or what is said of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Which.
    pub node: NodeName,
    /// Whether it executed the block.
    pub ok: bool,
    /// Its result, the error, or why it is missing.
    pub text: Bytes,
    /// It has not answered: the text says why.
    pub missing: bool,
}

/// What is known of a block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Of which block.
    pub id: BlockId,
    /// In which group.
    pub group: GroupName,
    pub(super) results: BTreeMap<NodeName, (bool, Bytes)>,
    pub(super) waiting: BTreeSet<NodeName>,
}

impl Report {
    /// Results so far, and who is missing and why.
    #[must_use]
    pub fn members(&self, below: impl Fn(&NodeName) -> Below) -> Vec<Member> {
        let one = |(node, (ok, text)): (&NodeName, &(bool, Bytes))| Member {
            node: node.clone(),
            ok: *ok,
            text: text.clone(),
            missing: provisional(*ok, text),
        };
        let mut out: Vec<_> = self.results.iter().map(one).collect();
        for child in &self.waiting {
            let how = below(child);
            let down = how != Below::Up;
            let why = match how {
                Below::Up => "it, or a node below it, has not finished".to_owned(),
                Below::Away(why) => why,
                Below::Gone => "its route was deleted".to_owned(),
            };
            match out.iter_mut().find(|m| m.node == *child) {
                Some(m) if down && !m.ok => (m.text, m.missing) = (Bytes::from(why), true),
                Some(_) => {}
                None => out.push(Member {
                    node: child.clone(),
                    ok: false,
                    text: Bytes::from(why),
                    missing: true,
                }),
            }
        }
        out
    }
}
