//! What lies in the folder `volumes` of a node. Nothing is changed here.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use rcp::proto::ids::{NodeName, VolumeId};
use volmcast::storage::{Identity, IdentityError, StorageError};

use super::moved::Moved;

/// A volume's folder.
#[derive(Debug)]
pub(crate) struct Stored {
    pub(crate) path: PathBuf,
    pub(crate) identity: Identity,
}

/// Something in the folder.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) path: PathBuf,
    pub(crate) what: What,
}

/// What it is.
#[derive(Debug)]
pub(crate) enum What {
    /// A volume of this node.
    Volume(Box<Identity>),
    /// A volume whose identity is damaged, cannot be read or is another node's; in words.
    Unreadable(String),
    /// A volume that was given to this other node, which has not taken it yet.
    Given(NodeName),
    /// The beginning or the rest of a volume: proven to be of no use.
    Unfinished,
    /// A folder with the name of a volume and nothing that says whose it is.
    Unnamed,
    /// Nothing of ours.
    Other,
}

/// What is in the folder, in the order of names.
///
/// # Errors
/// It cannot be read.
pub(crate) fn survey(all: &Path, node: &NodeName) -> std::io::Result<Vec<Entry>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(all)? {
        let entry = entry?;
        let path = entry.path();
        let named = entry.file_name().to_str().is_some_and(|n| n.parse::<VolumeId>().is_ok());
        let folder = entry.file_type()?.is_dir();
        let given = |found: &NodeName| {
            let id = entry.file_name().to_str().and_then(|n| n.parse().ok());
            let to = all.parent().zip(id).and_then(|(data, id)| Moved::given_to(data, id));
            to.as_ref() == Some(found)
        };
        let what = match Identity::load(&path, node) {
            Ok(identity) => What::Volume(Box::new(identity)),
            Err(StorageError::Identity(IdentityError::OtherNode { found, .. }))
                if given(&found) =>
            {
                What::Given(found)
            }
            Err(e) if !is_absent(&e) => What::Unreadable(e.to_string()),
            Err(_) if folder && Identity::is_unfinished(&path) => What::Unfinished,
            Err(_) if folder && named => What::Unnamed,
            Err(_) => What::Other,
        };
        found.push(Entry { path, what });
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(found)
}

/// A volume that has lost its identity.
pub(crate) fn lost_its_name(path: &Path, all: &Path) -> String {
    format!(
        "{} has content and no identity: restore the file `identity` in it from a backup, or move \
         the folder out of {}; nothing of it was touched",
        path.display(),
        all.display()
    )
}

/// Two folders hold one volume.
pub(crate) fn twice(identity: &Identity, one: &Path, other: &Path, all: &Path) -> String {
    format!(
        "{} and {} are the same volume {} ({}): move the one that is a copy out of {}",
        one.display(),
        other.display(),
        identity.label,
        identity.volume,
        all.display()
    )
}

/// There is no identity; it is not merely one that cannot be read.
fn is_absent(e: &StorageError) -> bool {
    let absent = |k| matches!(k, ErrorKind::NotFound | ErrorKind::NotADirectory);
    matches!(e, StorageError::Io { source, .. } if absent(source.kind()))
}
