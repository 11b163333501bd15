//! Volumes that another node is to give to this one with all their files: one small file each, from
//! before they are given until they are open here, so that no volume of their name is made meanwhile.
//! It says what this node saw of their files, and how it gets to them.

use std::path::{Path, PathBuf};

use rcp::proto::ids::{GroupName, Label, NodeName, VolumeId};

use super::moved::{self, drop_file, files, put, sealed, unsealed};
use volmcast::storage::{Identity, sync_folder};

/// The folder of these files in a data folder.
const FOLDER: &str = "arriving";
const FIRST_LINE: &str = "rcp-arriving 1";

/// What is known of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Arriving {
    pub(crate) volume: VolumeId,
    /// What its group calls it.
    pub(crate) label: Label,
    pub(crate) group: GroupName,
    /// The node that gives it.
    pub(crate) from: NodeName,
    /// Its folder at that node, by the same path here.
    pub(crate) folder: PathBuf,
    /// Content outside of it, by its path here, which was seen to be the same.
    pub(crate) base: Option<PathBuf>,
}

fn path(data: &Path, volume: VolumeId) -> PathBuf {
    data.join(FOLDER).join(volume.to_string())
}

impl Arriving {
    fn text(&self) -> Result<String, String> {
        let Self { volume, label, group, from, folder, base } = self;
        let line = |path: &Path| match path.to_str().filter(|p| !p.contains('\n')) {
            Some(p) => Ok(p.to_owned()),
            None => Err(format!("{} is no text of one line: rename it first", path.display())),
        };
        let folder = line(folder)?;
        let mut body = format!(
            "{FIRST_LINE}\nvolume {volume}\nlabel {label}\ngroup {group}\nfrom {from}\nfolder {folder}\n"
        );
        if let Some(base) = base {
            body.push_str(&format!("base {}\n", line(base)?));
        }
        Ok(sealed(&body))
    }

    fn parse(text: &str) -> Option<Self> {
        let body = unsealed(text, FIRST_LINE)?;
        let field = |name: &str| body.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(' '));
        Some(Self {
            volume: field("volume")?.parse().ok()?,
            label: field("label")?.parse().ok()?,
            group: field("group")?.parse().ok()?,
            from: field("from")?.parse().ok()?,
            folder: field("folder")?.into(),
            base: field("base").map(PathBuf::from),
        })
    }

    /// Stores it, durably.
    ///
    /// # Errors
    /// In words.
    pub(crate) fn store(&self, data: &Path) -> Result<(), String> {
        put(data, FOLDER, self.volume, &self.text()?)
    }

    /// It is what stands in the way of a volume of this name.
    pub(crate) fn is_called(&self, group: &GroupName, label: &Label) -> bool {
        self.group == *group && self.label == *label
    }

    /// It was given to `node`, which is this one, and lies where it was.
    pub(crate) fn is_given(&self, node: &NodeName) -> bool {
        let theirs = self.folder.parent().and_then(Path::parent);
        let said = theirs.and_then(|data| moved::given_to(data, self.volume));
        let named = || Identity::load(&self.folder, node).is_ok_and(|i| i.volume == self.volume);
        said.as_ref() == Some(node) && named()
    }

    /// What is said to whoever asks for it here.
    pub(crate) fn told(&self, data: &Path, node: &NodeName) -> String {
        format!(
            "it is on its way here from {from} with all its files: say `rcpctl group move {group} --to \
             {node}` again; if it is to stay at {from}, and {from} writes it, remove {} and start {node} \
             again",
            path(data, self.volume).display(),
            from = self.from,
            group = self.group
        )
    }
}

/// Whose folder it was renamed to is known to last, on both sides.
///
/// # Errors
/// In words.
pub(crate) fn settle(data: &Path, a: &Arriving) -> Result<(), String> {
    sync_folder(&data.join("volumes")).map_err(|e| e.to_string())?;
    match a.folder.parent().map(sync_folder) {
        // The other node's data folder may be gone by now.
        Some(Err(e)) if a.folder.parent().is_some_and(Path::exists) => Err(e.to_string()),
        _ => Ok(()),
    }
}

/// It is here, or does not come.
///
/// # Errors
/// In words.
pub(crate) fn forget(data: &Path, volume: VolumeId) -> Result<(), String> {
    drop_file(&path(data, volume))
}

/// What is said of one.
///
/// # Errors
/// In words: nothing is, or nothing that can be read.
pub(crate) fn load(data: &Path, volume: VolumeId) -> Result<Arriving, String> {
    let path = path(data, volume);
    match std::fs::read_to_string(&path) {
        Ok(text) => {
            Arriving::parse(&text).filter(|a| a.volume == volume).ok_or_else(|| damaged(&path))
        }
        Err(e) => Err(format!("{}: {e}", path.display())),
    }
}

fn damaged(path: &Path) -> String {
    format!(
        "{} is damaged: it says which node a volume comes from, with all its files; remove it, and say \
         `rcpctl volume move` again",
        path.display()
    )
}

/// All of them.
///
/// # Errors
/// In words, with the remedy: one cannot be read.
pub(crate) fn all(data: &Path) -> Result<Vec<Arriving>, String> {
    let found = files(&data.join(FOLDER))?.into_iter();
    found.map(|(path, text)| Arriving::parse(&text).ok_or_else(|| damaged(&path))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_on_its_way_is_remembered_and_damage_is_noticed() {
        let dir = tempfile::tempdir().expect("temp");
        let a = Arriving {
            volume: VolumeId([7; 16]),
            label: Label::new("vol1").expect("valid"),
            group: GroupName::new("g1").expect("valid"),
            from: NodeName::new("p").expect("valid"),
            folder: "/san/p data/volumes/7".into(),
            base: Some("/san/x y.img".into()),
        };
        a.store(dir.path()).expect("stored");
        assert_eq!(all(dir.path()), Ok(vec![a.clone()]));
        assert_eq!(load(dir.path(), a.volume), Ok(a.clone()));
        let bare = Arriving { base: None, ..a.clone() };
        bare.store(dir.path()).expect("replaced");
        assert_eq!(load(dir.path(), a.volume), Ok(bare));
        let node = NodeName::new("b").expect("valid");
        let told = a.told(dir.path(), &node);
        assert!(told.contains("`rcpctl group move g1 --to b` again"), "{told}");
        Arriving { folder: "/san\nx".into(), ..a.clone() }
            .store(dir.path())
            .expect_err("two lines");
        assert!(!a.is_given(&node));
        std::fs::write(path(dir.path(), a.volume), "x").expect("damage");
        assert!(all(dir.path()).expect_err("damaged").contains("is damaged"));
        forget(dir.path(), a.volume).expect("gone");
        forget(dir.path(), a.volume).expect("again");
        load(dir.path(), a.volume).expect_err("nothing");
    }
}
