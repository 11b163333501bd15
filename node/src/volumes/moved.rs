//! Volumes that this node gave to another with all their files: one small file each, so that the node
//! makes no empty volume in the place of one that the topology still names it for.

use std::path::{Path, PathBuf};

use rcp::proto::ids::{GroupName, Label, NodeName, VolumeId};
use volmcast::storage::{Identity, replace_file, sync_folder};

/// The folder of these files in a data folder.
const FOLDER: &str = "moved";
const FIRST_LINE: &str = "rcp-moved 1";

/// What is known of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Moved {
    pub(crate) volume: VolumeId,
    /// What its group calls it.
    pub(crate) label: Label,
    pub(crate) group: GroupName,
    /// The node it was given to.
    pub(crate) to: NodeName,
}

fn path(data: &Path, volume: VolumeId) -> PathBuf {
    data.join(FOLDER).join(volume.to_string())
}

/// A text with its checksum line.
pub(super) fn sealed(body: &str) -> String {
    format!("{body}crc32c {:08x}\n", crc32c::crc32c(body.as_bytes()))
}

/// The text, if its checksum and its first line are right.
pub(super) fn unsealed(text: &str, first: &str) -> Option<String> {
    let (body, crc) = text.trim_end().rsplit_once('\n')?;
    let body = format!("{body}\n");
    let crc = u32::from_str_radix(crc.strip_prefix("crc32c ")?, 16).ok()?;
    (crc == crc32c::crc32c(body.as_bytes()) && body.lines().next() == Some(first)).then_some(body)
}

/// The files of a folder that has one for each volume.
///
/// # Errors
/// In words.
pub(super) fn files(folder: &Path) -> Result<Vec<(PathBuf, String)>, String> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(format!("{}: {e}", folder.display())),
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.map_err(|e| format!("{}: {e}", folder.display()))?.path();
        // A crash came before it was renamed.
        if path.extension().is_some() {
            continue;
        }
        let text =
            std::fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        found.push((path, text));
    }
    found.sort();
    Ok(found)
}

/// Stores a file of such a folder, durably.
///
/// # Errors
/// In words.
pub(super) fn put(data: &Path, folder: &str, volume: VolumeId, text: &str) -> Result<(), String> {
    let all = data.join(folder);
    std::fs::create_dir_all(&all).map_err(|e| format!("{}: {e}", all.display()))?;
    sync_folder(data).map_err(|e| e.to_string())?;
    replace_file(&all.join(volume.to_string()), text.as_bytes()).map_err(|e| e.to_string())
}

/// Removes one, durably; it may be gone already.
///
/// # Errors
/// In words.
pub(super) fn drop_file(path: &Path) -> Result<(), String> {
    match std::fs::remove_file(path) {
        Ok(()) => path.parent().map_or(Ok(()), |all| sync_folder(all).map_err(|e| e.to_string())),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(format!("{}: {e}", path.display())),
    }
}

impl Moved {
    fn text(&self) -> String {
        let Self { volume, label, group, to } = self;
        sealed(&format!("{FIRST_LINE}\nvolume {volume}\nlabel {label}\ngroup {group}\nto {to}\n"))
    }

    fn parse(text: &str) -> Option<Self> {
        let body = unsealed(text, FIRST_LINE)?;
        let field = |name: &str| body.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(' '));
        Some(Self {
            volume: field("volume")?.parse().ok()?,
            label: field("label")?.parse().ok()?,
            group: field("group")?.parse().ok()?,
            to: field("to")?.parse().ok()?,
        })
    }

    /// Stores it, durably.
    ///
    /// # Errors
    /// In words.
    pub(crate) fn store(&self, data: &Path) -> Result<(), String> {
        put(data, FOLDER, self.volume, &self.text())
    }

    /// It is what stands in the way of a volume of this name.
    pub(crate) fn is_called(&self, group: &GroupName, label: &Label) -> bool {
        self.group == *group && self.label == *label
    }

    /// Its files are still here, and nobody but the node that it was given to may have them.
    pub(crate) fn waits(&self, data: &Path) -> bool {
        let folder = data.join("volumes").join(self.volume.to_string());
        Identity::load(&folder, &self.to).is_ok_and(|i| i.volume == self.volume)
    }

    /// What is said to whoever asks for it here.
    pub(crate) fn told(&self, data: &Path) -> String {
        let Self { group, to, .. } = self;
        let path = path(data, self.volume);
        format!(
            "it was moved to {to} with all its files ({} says so): open it there, and write \
             `primary: {to}` into the topology; if it is not there, say `rcpctl group move {group} --to \
             {to}` again",
            path.display()
        )
    }
}

/// It is here again, or never went.
///
/// # Errors
/// In words.
pub(crate) fn forget(data: &Path, volume: VolumeId) -> Result<(), String> {
    drop_file(&path(data, volume))
}

/// What is said of one; `None` if nothing is, or nothing that can be read.
pub(crate) fn load(data: &Path, volume: VolumeId) -> Option<Moved> {
    let text = std::fs::read_to_string(path(data, volume)).ok()?;
    Moved::parse(&text).filter(|m| m.volume == volume)
}

/// Who a volume was given to.
pub(crate) fn given_to(data: &Path, volume: VolumeId) -> Option<NodeName> {
    load(data, volume).map(|m| m.to)
}

/// All of them.
///
/// # Errors
/// In words, with the remedy: one cannot be read.
pub(crate) fn all(data: &Path) -> Result<Vec<Moved>, String> {
    let mut found = Vec::new();
    for (path, text) in files(&data.join(FOLDER))? {
        found.push(Moved::parse(&text).ok_or_else(|| {
            format!(
                "{} is damaged: it says which node a volume was given to; if no volume of group \
                 members is missing here, remove it",
                path.display()
            )
        })?);
    }
    found.sort_by_key(|m| m.volume);
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_given_away_is_remembered_and_damage_is_noticed() {
        let dir = tempfile::tempdir().expect("temp");
        assert_eq!(all(dir.path()), Ok(Vec::new()));
        let m = Moved {
            volume: VolumeId([7; 16]),
            label: Label::new("vol1").expect("valid"),
            group: GroupName::new("g1").expect("valid"),
            to: NodeName::new("cel2-ser1").expect("valid"),
        };
        m.store(dir.path()).expect("stored");
        assert_eq!(all(dir.path()), Ok(vec![m.clone()]));
        assert_eq!(given_to(dir.path(), m.volume), Some(m.to.clone()));
        let told = m.told(dir.path());
        for word in [&format!("moved/{}", m.volume), "`rcpctl group move g1 --to cel2-ser1` again"]
        {
            assert!(told.contains(word), "{told}");
        }
        let other = GroupName::new("g2").expect("valid");
        assert!(m.is_called(&m.group, &m.label) && !m.is_called(&other, &m.label));
        assert!(!m.waits(dir.path()), "there is no folder");
        let file = path(dir.path(), m.volume);
        let text = std::fs::read_to_string(&file).expect("read").replace("cel2", "cel3");
        std::fs::write(&file, text).expect("write");
        let why = all(dir.path()).expect_err("damaged");
        assert!(why.contains("is damaged"), "{why}");
        forget(dir.path(), m.volume).expect("gone");
        forget(dir.path(), m.volume).expect("again");
        assert_eq!(given_to(dir.path(), m.volume), None);
    }
}
