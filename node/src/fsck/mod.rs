//! Explaining the data folder of a stopped node without changing it (`rcpctl fsck`).
//!
//! There is no second reading of the formats here: each volume is opened as the node would open it,
//! by the same code, over an [`Overlay`](volmcast::storage::Overlay) that keeps what opening writes
//! in memory. What is told is what that opening found.

mod content;
mod report;
mod tables;
mod volume;

use std::fs::File;
use std::path::Path;

use rcp::proto::clock::Wall;
use rcp::proto::ids::NodeName;
use rustix::fs::{FlockOperation, flock};

pub use report::{
    Change, ChangesFound, Consumer, DigestFound, Finding, Grade, Kept, Report, SaveFound, Slot,
    VolumeFound,
};
pub use volume::examine;

use crate::volumes::arriving::Arriving;
use crate::volumes::folder::{Entry, What, lost_its_name, survey, twice};
use crate::volumes::moved::Moved;
use crate::volumes::notes::Note;

/// Why a folder cannot be looked at.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct NotExamined(pub String);

/// Looks at the data folder of a node, and with `content` also at every stored set and block.
///
/// # Errors
/// [`NotExamined`] if a node runs on the folder, or it is none.
pub fn look(folder: &Path, content: bool, wall: Wall) -> Result<Report, NotExamined> {
    let _lock = lock(folder)?;
    let mut report = Report { folder: folder.display().to_string(), ..Report::default() };
    let name = node_name(folder, &mut report)?;
    report.node = name.as_ref().map(ToString::to_string);
    tables::look(folder, &mut report.findings);
    let all = folder.join("volumes");
    // Without its name the node takes the one of the topology, and what is another's is refused.
    let Some(node) = name.or_else(|| first_owner(&all)) else { return Ok(report.graded()) };
    let entries = match survey(&all, &node) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        Err(e) => return Err(NotExamined(format!("{}: {e}", all.display()))),
    };
    let mut seen: Vec<(volmcast::storage::Identity, std::path::PathBuf)> = Vec::new();
    for Entry { path, what } in entries {
        match what {
            What::Volume(identity) => {
                if let Some((_, other)) = seen.iter().find(|(i, _)| i.volume == identity.volume) {
                    report.findings.push(no_start("volumes", twice(&identity, other, &path, &all)));
                }
                report.volumes.push(volume::look(&path, &identity, content, wall));
                seen.push((*identity, path));
            }
            What::Given(to) => report.next_start.push(format!(
                "{} was given to {to}, which has not taken it yet: it is left alone; say `rcpctl volume \
                 move` again",
                path.display()
            )),
            What::Unreadable(why) => report.findings.push(no_start("volumes", why)),
            What::Unfinished => report.next_start.push(format!(
                "removes {}: a volume whose creation or removal was cut short",
                path.display()
            )),
            What::Unnamed if is_empty(&path) => {
                report.next_start.push(format!("removes {}, which is empty", path.display()));
            }
            What::Unnamed => report.findings.push(no_start("volumes", lost_its_name(&path, &all))),
            What::Other => {
                report.next_start.push(format!("leaves {} as it is: no volume", path.display()));
            }
        }
    }
    let ways =
        [("moved/UUID", Moved::all(folder).err()), ("arriving/UUID", Arriving::all(folder).err())];
    for (part, why) in ways {
        report.findings.extend(why.map(|why| no_start(part, why)));
    }
    Ok(report.graded())
}

/// Something that keeps the node from starting.
fn no_start(part: &'static str, text: String) -> Finding {
    Finding::needs(part, format!("the node does not start: {text}"))
}

/// Held while the folder is looked at; a node that starts meanwhile is refused by it.
fn lock(folder: &Path) -> Result<Option<File>, NotExamined> {
    let no = |text: String| Err(NotExamined(text));
    let path = folder.join("rcpd.lock");
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            if folder.join("volumes").is_dir() {
                // No node has ever run on it, or somebody brought it from elsewhere.
                return Ok(None);
            }
            return no(format!(
                "{} is no data folder of a node (there is no rcpd.lock in it): name the folder that \
                 `data` of the node is in the topology",
                folder.display()
            ));
        }
        Err(e) => return no(format!("{}: {e}", path.display())),
    };
    match flock(&file, FlockOperation::NonBlockingLockShared) {
        Ok(()) => Ok(Some(file)),
        Err(rustix::io::Errno::WOULDBLOCK) => {
            let pid = std::fs::read_to_string(folder.join("rcpd.pid")).unwrap_or_default();
            no(format!(
                "a node runs on {} (process {}): `rcpctl status --dir {}` tells about it; to look \
                 at its files, stop it first (`rcpctl down --dir {}`)",
                folder.display(),
                pid.trim(),
                folder.display(),
                folder.display()
            ))
        }
        Err(e) => no(format!("{}: {e}", path.display())),
    }
}

fn node_name(folder: &Path, report: &mut Report) -> Result<Option<NodeName>, NotExamined> {
    let path = folder.join("node");
    match std::fs::read(&path) {
        Ok(bytes) => match NodeName::new(String::from_utf8_lossy(&bytes).trim()) {
            Ok(name) => Ok(Some(name)),
            Err(e) => {
                let text = format!("{}: {e}; write the node's name into it", path.display());
                report.findings.push(no_start("node", text));
                Ok(None)
            }
        },
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            let text = format!("{} is missing: the node writes it anew", path.display());
            report.findings.push(Finding::heals("node", text));
            Ok(None)
        }
        Err(e) => Err(NotExamined(format!("{}: {e}", path.display()))),
    }
}

/// The node that the first readable volume belongs to.
fn first_owner(all: &Path) -> Option<NodeName> {
    let nobody = NodeName::new("nobody").ok()?;
    std::fs::read_dir(all).ok()?.flatten().find_map(|e| {
        use volmcast::storage::{Identity, IdentityError, StorageError};
        match Identity::load(&e.path(), &nobody) {
            Ok(i) => Some(i.node),
            Err(StorageError::Identity(IdentityError::OtherNode { found, .. })) => Some(found),
            Err(_) => None,
        }
    })
}

fn is_empty(folder: &Path) -> bool {
    std::fs::read_dir(folder).is_ok_and(|mut d| d.next().is_none())
}
