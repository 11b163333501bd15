//! The small tables of a data folder: routes, names, the record of control blocks.

use std::path::Path;

use config::Added;
use forwarder::table::Table;
use rcp::proto::control::Journal;

use super::{Finding, no_start};
use crate::mover::Destinations;
use crate::runtime::groups::FILE as GROUPS;

/// Reads each as the start of a node does.
pub(super) fn look(folder: &Path, findings: &mut Vec<Finding>) {
    let read = |name: &str| match std::fs::read(folder.join(name)) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => None,
        found => Some(found.map_err(|e| e.to_string())),
    };
    let at = |name: &str| folder.join(name).display().to_string();
    let mut tell = |name: &'static str, what: Result<(), String>, remedy: &str| {
        if let Err(e) = what {
            findings.push(no_start(name, format!("{}: {e}{remedy}", at(name))));
        }
    };
    if let Some(bytes) = read("routes") {
        let what = bytes.and_then(|b| Table::decode(&b).map(drop).map_err(|e| e.to_string()));
        tell("routes", what, "; remove the file to begin with the routes of the topology again");
    }
    if let Some(bytes) = read("destinations") {
        let text = bytes.and_then(|b| String::from_utf8(b).map_err(|_| "is no text".to_owned()));
        let names = |t: String| Destinations::read(&t).map(drop).map_err(|e| e.to_string());
        tell("destinations", text.and_then(names), "");
    }
    if let Some(bytes) = read(GROUPS) {
        let text = bytes.and_then(|b| String::from_utf8(b).map_err(|_| "is no text".to_owned()));
        let groups = |t: String| Added::read(&t, &at(GROUPS)).map(drop).map_err(|e| e.plain());
        let remedy = "; restore it from another member of its groups, or remove it and say `rcpctl \
                      group add` again";
        tell(GROUPS, text.and_then(groups), remedy);
    }
    if let Some(bytes) = read("blocks") {
        let what = bytes.and_then(|b| Journal::decode(&b).map(drop).map_err(|e| e.to_string()));
        let remedy = "; restore it, or remove it if it does no harm that control blocks of the last \
                      seven days may be executed again";
        tell("blocks", what, remedy);
    }
}
