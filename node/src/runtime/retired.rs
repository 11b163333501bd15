//! A node that was taken out of service stays so, whoever starts it.

use std::path::Path;

use rcp::proto::ids::NodeName;
use volmcast::storage::replace_file;

use super::start::StartError;
use crate::api::{ApiError, ApiErrorKind, NodeStatus};

/// Name of the file that says so.
const FILE: &str = "retired";

/// Whether nothing depends on a node, as it sees itself.
///
/// # Errors
/// What does, in words.
pub(super) fn allowed(status: &NodeStatus) -> Result<(), ApiError> {
    let no = |text: String| Err(ApiError::new(ApiErrorKind::Conflict, text));
    if let Some(v) = status.volumes.iter().find(|v| v.role == "primary") {
        return no(format!(
            "{} is the writer of {}, or was: `rcpctl node decommission {}` says what to do first",
            status.node, v.label, status.node
        ));
    }
    if let Some(m) = status.moved.iter().find(|m| m.folder.is_some()) {
        return no(format!(
            "{} gave {} to {}, which has not taken it: `rcpctl group move {} --to {}` first",
            status.node, m.label, m.to, m.group, m.to
        ));
    }
    if let Some(a) = status.arriving.iter().find(|a| a.given) {
        return no(format!(
            "{} was given {} by {}, and has not taken it: `rcpctl group move {} --to {}` first",
            status.node, a.label, a.from, a.group, status.node
        ));
    }
    for g in &status.groups {
        // Who is fed in the place of another is fed from above when this one is gone.
        if let Some(c) = g.children.iter().find(|c| c.in_place_of.is_none()) {
            return no(format!(
                "{} feeds {} in {}: `rcpctl node decommission {}` gives it another parent",
                status.node, c.node, g.group, status.node
            ));
        }
    }
    Ok(())
}

/// From now on it does not start again.
///
/// # Errors
/// The system's, in words.
pub(super) fn store(folder: &Path, node: &NodeName) -> Result<(), ApiError> {
    let text = format!("{node} was taken out of service by `rcpctl node decommission`.\n");
    let stored = replace_file(&folder.join(FILE), text.as_bytes());
    stored.map_err(|e| ApiError::new(ApiErrorKind::Unavailable, e.to_string()))
}

/// A node that is to start is in service.
///
/// # Errors
/// In words: it is not.
pub(super) fn check(folder: &Path, node: &NodeName) -> Result<(), StartError> {
    let path = folder.join(FILE);
    if !path.exists() {
        return Ok(());
    }
    Err(StartError::Refused(format!(
        "node {node} was taken out of service (`rcpctl node decommission`), and its place in the tree is \
         another's: take it out of the topology file; to take it in again with what it holds, remove {}, \
         start it, and give it a parent (`rcpctl group add GROUP {node}`, or rcproute)",
        path.display()
    )))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{GroupStatus, LinkStatus, VolumeInfo};
    use crate::shift::{ArrivingStatus, MovedStatus};

    #[test]
    fn it_is_not_let_go_while_something_depends_on_it() {
        let mut status = NodeStatus { node: "f".into(), ..NodeStatus::default() };
        allowed(&status).expect("nothing does");
        let replica = VolumeInfo { role: "replica".into(), ..VolumeInfo::default() };
        status.volumes.push(replica);
        allowed(&status).expect("a copy");
        let link = LinkStatus { node: "l".into(), ..LinkStatus::default() };
        let group = GroupStatus { children: vec![link], ..GroupStatus::default() };
        status.groups.push(group);
        let e = allowed(&status).expect_err("a child");
        assert!(e.text.contains("feeds l"), "{}", e.text);
        status.groups.clear();
        let mut m = MovedStatus { label: "v".into(), to: "b".into(), ..MovedStatus::default() };
        status.moved.push(m.clone());
        allowed(&status).expect("it went");
        m.folder = Some("/f/volumes/1".into());
        status.moved = vec![m];
        let e = allowed(&status).expect_err("its files are here");
        assert!(e.text.contains("gave v to b, which has not taken it"), "{}", e.text);
        status.moved.clear();
        status.arriving = vec![ArrivingStatus { given: true, ..ArrivingStatus::default() }];
        let e = allowed(&status).expect_err("only it can take it");
        assert!(e.text.contains("and has not taken it"), "{}", e.text);
        status.arriving[0].given = false;
        allowed(&status).expect("it is the other's");
        status.volumes[0].role = "primary".into();
        let e = allowed(&status).expect_err("a writer");
        assert!(e.text.contains("is the writer"), "{}", e.text);
    }

    #[test]
    fn it_does_not_start_again() {
        let dir = tempfile::tempdir().expect("temp");
        let node = NodeName::new("f").expect("valid");
        assert!(check(dir.path(), &node).is_ok());
        store(dir.path(), &node).expect("stored");
        let e = check(dir.path(), &node).expect_err("retired").to_string();
        assert!(e.contains("was taken out of service") && e.contains("retired"), "{e}");
    }
}
