//! Who a volume folder belongs to, and where its content lies: a small text file beside the data.
//!
//! ```text
//! rcp-volume 1
//! volume 6f1c…
//! label vol1
//! group g1
//! node cel1-ser1
//! role primary
//! block-shift 12
//! blocks 65536
//! save 67108864
//! snapshots 1073741824
//! source vol7                 (only where the group calls it otherwise)
//! base /dev/vg0/vol1          (only when the base lies outside the folder)
//! opens 6f1c….2-9a0b….41      (a primary that took over: its line, and the state it began at)
//! fenced 6f1c….3-77fe….57 cel2-ser1 newer   (a primary that may not write: the line that took its
//!                              place, the last common state, who opened it; or `handed`)
//! discards yes                (a replica that gives up everything it holds)
//! damaged TEXT                (what was damaged when it took over, on an operator's word)
//! unproven yes                (a primary that the topology names: no child has said yet that it
//!                              holds no other volume of the label)
//! crc32c 1a2b3c4d
//! ```

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use rcp::proto::ids::{GroupName, Label, NodeName, StateId, VolumeId};

use super::{StorageError, at, replace_file};
use crate::units::{BlockCount, BlockSize};

/// Name of the file.
const FILE: &str = "identity";
const FIRST_LINE: &str = "rcp-volume 1";
/// Proof that what is beside it is of no volume: one that is being made, or removed. Where there is an
/// `identity` it proves nothing.
const UNFINISHED: &str = "unfinished";

/// What the file says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Which volume.
    pub volume: VolumeId,
    /// Its label.
    pub label: Label,
    /// What the group calls it, if that is something else (VMC-03).
    pub source: Option<Label>,
    /// Its group.
    pub group: GroupName,
    /// The node whose data this is.
    pub node: NodeName,
    /// `primary`, `replica` or `relay`.
    pub role: String,
    /// Block size.
    pub block_size: BlockSize,
    /// Size.
    pub blocks: BlockCount,
    /// Capacity of the save area in bytes.
    pub save: u64,
    /// Size of the snapshot area in bytes.
    pub snapshots: u64,
    /// Content outside the folder.
    pub base: Option<PathBuf>,
    /// What a change of role has left to do, or forbids.
    pub standing: Standing,
}

/// What a change of role has left to do, or forbids; a restart goes on with it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// The line this primary was told to open when it took over, and the state it began at.
    pub opens: Option<StateId>,
    /// Another writer took this primary's place.
    pub fenced: Option<Fenced>,
    /// This replica gives up everything it holds.
    pub discards: bool,
    /// This primary was made because the topology names it, and no child has said yet that it holds
    /// no other volume of the label.
    pub unproven: bool,
    /// It took over, or goes on, although something was damaged, on an operator's word: what, in
    /// words, on one line.
    pub damaged: Option<String>,
}

/// Why a primary may not write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fenced {
    /// The line that took its place (its own line, while it was handed over and has not heard of the
    /// new one), and the last state that both share.
    pub at: StateId,
    /// The node that opened it.
    pub by: NodeName,
    /// It was handed over in order, with nothing left behind.
    pub handed: bool,
}

/// Why the file cannot be believed.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// Not such a file, or damaged.
    #[error(
        "{path} is damaged or not written by this program ({what}); restore it from a backup, or \
         move the folder away and let the volume be seeded again", path = path.display()
    )]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        what: &'static str,
    },
    /// Another node's data.
    #[error(
        "{path} belongs to node {found}, this is node {expected}: start that node, or give this \
         one a data folder of its own", path = path.display()
    )]
    OtherNode {
        /// Which file.
        path: PathBuf,
        /// Whose it is.
        found: NodeName,
        /// Who asked.
        expected: NodeName,
    },
}

impl Identity {
    /// Path of the base.
    #[must_use]
    pub fn base_path(&self, folder: &Path) -> PathBuf {
        self.base.clone().unwrap_or_else(|| folder.join("base"))
    }

    fn text(&self) -> String {
        let mut t = format!(
            "{FIRST_LINE}\nvolume {}\nlabel {}\ngroup {}\nnode {}\nrole {}\nblock-shift {}\n\
             blocks {}\nsave {}\nsnapshots {}\n",
            self.volume,
            self.label,
            self.group,
            self.node,
            self.role,
            self.block_size.shift(),
            self.blocks.0,
            self.save,
            self.snapshots
        );
        if let Some(s) = &self.source {
            let _ = writeln!(t, "source {s}");
        }
        if let Some(b) = &self.base {
            let _ = writeln!(t, "base {}", b.display());
        }
        let s = &self.standing;
        if let Some(line) = &s.opens {
            let _ = writeln!(t, "opens {line}");
        }
        if let Some(f) = &s.fenced {
            let how = if f.handed { "handed" } else { "newer" };
            let _ = writeln!(t, "fenced {} {} {how}", f.at, f.by);
        }
        if s.discards {
            t.push_str("discards yes\n");
        }
        if s.unproven {
            t.push_str("unproven yes\n");
        }
        if let Some(what) = &s.damaged {
            let _ = writeln!(t, "damaged {}", what.replace('\n', " "));
        }
        let crc = crc32c::crc32c(t.as_bytes());
        let _ = writeln!(t, "crc32c {crc:08x}");
        t
    }

    /// What the group calls the volume.
    #[must_use]
    pub fn in_group(&self) -> &Label {
        self.source.as_ref().unwrap_or(&self.label)
    }

    /// Writes the file so that a crash leaves the old or the new one.
    ///
    /// # Errors
    /// [`StorageError::Io`].
    pub fn store(&self, folder: &Path) -> Result<(), StorageError> {
        replace_file(&folder.join(FILE), self.text().as_bytes())
    }

    /// Says of a new, empty folder, durably, that what will be in it is no volume yet, until
    /// [`Identity::finished`].
    ///
    /// # Errors
    /// [`StorageError`]: the system's, or there is something in the folder.
    pub fn begin(folder: &Path) -> Result<(), StorageError> {
        std::fs::create_dir_all(folder).map_err(at(folder))?;
        let mut inside = std::fs::read_dir(folder).map_err(at(folder))?;
        if inside.next().is_some() && !Self::is_unfinished(folder) {
            let source = std::io::ErrorKind::DirectoryNotEmpty.into();
            return Err(StorageError::Io { path: folder.to_owned(), source });
        }
        let mark = folder.join(UNFINISHED);
        std::fs::File::create(&mark).and_then(|f| f.sync_all()).map_err(at(&mark))?;
        super::sync_folder(folder)
    }

    /// The folder has its name: it is a volume from now on, whatever was said before.
    ///
    /// # Errors
    /// The system's.
    pub fn finished(folder: &Path) -> Result<(), StorageError> {
        let mark = folder.join(UNFINISHED);
        match std::fs::remove_file(&mark) {
            Ok(()) => super::sync_folder(folder),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
            Err(e) => Err(at(&mark)(e)),
        }
    }

    /// What is in a folder without an identity is proven to be of no volume.
    #[must_use]
    pub fn is_unfinished(folder: &Path) -> bool {
        folder.join(UNFINISHED).is_file()
    }

    /// Takes the name from a folder, durably: what is left is no volume.
    ///
    /// # Errors
    /// The system's.
    pub fn remove(folder: &Path) -> std::io::Result<()> {
        std::fs::rename(folder.join(FILE), folder.join(UNFINISHED))?;
        std::fs::File::open(folder)?.sync_all()
    }

    /// Removes a folder that [is no volume](Identity::is_unfinished); what proves that goes last.
    ///
    /// # Errors
    /// The system's; what is left can be erased again.
    pub fn erase(folder: &Path) -> std::io::Result<()> {
        std::fs::metadata(folder.join(UNFINISHED))?;
        for entry in std::fs::read_dir(folder)? {
            let entry = entry?;
            if entry.file_name() == UNFINISHED {
                continue;
            }
            if entry.file_type()?.is_dir() {
                std::fs::remove_dir_all(entry.path())?;
            } else {
                std::fs::remove_file(entry.path())?;
            }
        }
        std::fs::File::open(folder)?.sync_all()?;
        std::fs::remove_file(folder.join(UNFINISHED))?;
        std::fs::remove_dir(folder)
    }

    /// Reads the file of `folder`, which must belong to `node`.
    ///
    /// # Errors
    /// [`StorageError`].
    pub fn load(folder: &Path, node: &NodeName) -> Result<Self, StorageError> {
        let path = folder.join(FILE);
        let text = std::fs::read_to_string(&path).map_err(at(&path))?;
        let damaged = |what| IdentityError::Damaged { path: path.clone(), what };
        let (body, crc) = text
            .trim_end()
            .rsplit_once('\n')
            .and_then(|(b, last)| Some((format!("{b}\n"), last.strip_prefix("crc32c ")?)))
            .ok_or_else(|| damaged("no checksum line"))?;
        if u32::from_str_radix(crc, 16) != Ok(crc32c::crc32c(body.as_bytes())) {
            return Err(damaged("checksum").into());
        }
        if body.lines().next() != Some(FIRST_LINE) {
            return Err(damaged("first line").into());
        }
        let field = |name: &'static str| {
            body.lines()
                .find_map(|l| l.strip_prefix(name)?.strip_prefix(' '))
                .ok_or_else(|| damaged(name))
        };
        let number = |name| field(name)?.parse::<u64>().map_err(|_| damaged(name));
        let shift = number("block-shift")?;
        let id = Self {
            volume: field("volume")?.parse().map_err(|_| damaged("volume"))?,
            label: field("label")?.parse().map_err(|_| damaged("label"))?,
            source: match field("source") {
                Err(_) => None,
                Ok(text) => Some(text.parse().map_err(|_| damaged("source"))?),
            },
            group: field("group")?.parse().map_err(|_| damaged("group"))?,
            node: field("node")?.parse().map_err(|_| damaged("node"))?,
            role: field("role")?.to_owned(),
            block_size: u8::try_from(shift)
                .ok()
                .and_then(BlockSize::from_shift)
                .ok_or_else(|| damaged("block-shift"))?,
            blocks: BlockCount(number("blocks")?),
            save: number("save")?,
            snapshots: number("snapshots")?,
            base: field("base").ok().map(PathBuf::from),
            standing: Standing {
                opens: match field("opens") {
                    Err(_) => None,
                    Ok(text) => Some(text.parse().map_err(|_| damaged("opens"))?),
                },
                fenced: match field("fenced") {
                    Err(_) => None,
                    Ok(text) => Some(fenced(text).ok_or_else(|| damaged("fenced"))?),
                },
                discards: field("discards").is_ok_and(|v| v == "yes"),
                unproven: field("unproven").is_ok_and(|v| v == "yes"),
                damaged: field("damaged").ok().map(str::to_owned),
            },
        };
        if id.node == *node {
            Ok(id)
        } else {
            Err(IdentityError::OtherNode { path, found: id.node, expected: node.clone() }.into())
        }
    }
}

fn fenced(text: &str) -> Option<Fenced> {
    let words: Vec<_> = text.split(' ').collect();
    let [at, by, how] = words.as_slice() else { return None };
    let handed = match *how {
        "handed" => true,
        "newer" => false,
        _ => return None,
    };
    Some(Fenced { at: at.parse().ok()?, by: by.parse().ok()?, handed })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn survives_and_notices_damage_and_strangers() {
        let dir = tempfile::tempdir().expect("temp");
        let node = NodeName::new("cel1-ser1").expect("valid");
        let generation = rcp::proto::ids::Generation { counter: 2, id: [9; 16] };
        let set = rcp::proto::ids::SetNumber(41);
        let at = StateId { volume: VolumeId([3; 16]), generation, set };
        let id = Identity {
            volume: VolumeId([3; 16]),
            label: Label::new("vol1").expect("valid"),
            source: Some(Label::new("vol7").expect("valid")),
            group: GroupName::new("g1").expect("valid"),
            node: node.clone(),
            role: "primary".to_owned(),
            block_size: BlockSize::DEFAULT,
            blocks: BlockCount(65536),
            save: 64 << 20,
            snapshots: 1 << 30,
            base: Some("/some where/x.raw".into()),
            standing: Standing {
                opens: Some(at),
                fenced: Some(Fenced { at, by: node.clone(), handed: true }),
                discards: true,
                unproven: true,
                damaged: Some("block 7 is damaged".to_owned()),
            },
        };
        id.store(dir.path()).expect("store");
        assert_eq!(Identity::load(dir.path(), &node).expect("load"), id);
        let other = NodeName::new("cel9-ser9").expect("valid");
        let e = Identity::load(dir.path(), &other).expect_err("stranger").to_string();
        assert!(e.contains("belongs to node cel1-ser1"), "{e}");
        assert!(!dir.path().join("identity.new").exists());
        let path = dir.path().join(FILE);
        let mut bytes = std::fs::read(&path).expect("read");
        bytes[40] ^= 4;
        std::fs::write(&path, bytes).expect("write");
        let e = Identity::load(dir.path(), &node).expect_err("damage").to_string();
        assert!(e.contains("checksum"), "{e}");
        assert!(!Identity::is_unfinished(dir.path()));
        Identity::remove(dir.path()).expect("remove");
        assert!(matches!(Identity::load(dir.path(), &node), Err(StorageError::Io { .. })));
        assert!(Identity::is_unfinished(dir.path()));
    }

    #[test]
    fn only_an_empty_folder_is_marked_and_only_a_marked_one_is_erased() {
        let dir = tempfile::tempdir().expect("temp");
        let (fresh, theirs) = (dir.path().join("fresh"), dir.path().join("theirs"));
        std::fs::create_dir(&theirs).expect("a folder");
        std::fs::write(theirs.join("base"), "content").expect("a file");
        Identity::begin(&theirs).expect_err("somebody's content");
        Identity::erase(&theirs).expect_err("no mark");
        assert!(theirs.join("base").is_file());
        Identity::begin(&fresh).expect("an empty one");
        std::fs::write(fresh.join("base"), "part").expect("a file");
        Identity::begin(&fresh).expect("a second try");
        Identity::erase(&fresh).expect("a marked one");
        assert!(!fresh.exists());
        Identity::begin(&fresh).expect("again");
        Identity::finished(&fresh).expect("it is a volume");
        assert!(!Identity::is_unfinished(&fresh));
    }
}
