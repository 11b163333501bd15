//! Volumes that another node is to give to this one with all their files: one small file each, from
//! before they are given until they are open here, so that no volume of their name is made meanwhile.
//! It says what this node saw of their files, and how it gets to them.

use std::path::{Path, PathBuf};

use rcp::proto::ids::{GroupName, Label, NodeName, VolumeId};
use volmcast::storage::{Identity, sync_folder};

use super::moved::Moved;
use super::notes::Note;

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

impl Note for Arriving {
    const FOLDER: &'static str = "arriving";
    const FIRST_LINE: &'static str = "rcp-arriving 1";
    const DAMAGED: &'static str = "it says which node a volume comes from, with all its files; remove \
                                   it, and say `rcpctl group move` again";

    fn volume(&self) -> VolumeId {
        self.volume
    }

    fn fields(&self) -> Result<Vec<(&'static str, String)>, String> {
        let line = |path: &Path| {
            let text = path.to_str().map(str::to_owned);
            text.ok_or_else(|| format!("{} is no text: rename it first", path.display()))
        };
        let mut out = vec![
            ("label", self.label.to_string()),
            ("group", self.group.to_string()),
            ("from", self.from.to_string()),
            ("folder", line(&self.folder)?),
        ];
        if let Some(base) = &self.base {
            out.push(("base", line(base)?));
        }
        Ok(out)
    }

    fn read<'a>(volume: VolumeId, field: impl Fn(&str) -> Option<&'a str>) -> Option<Self> {
        Some(Self {
            volume,
            label: field("label")?.parse().ok()?,
            group: field("group")?.parse().ok()?,
            from: field("from")?.parse().ok()?,
            folder: field("folder")?.into(),
            base: field("base").map(PathBuf::from),
        })
    }
}

impl Arriving {
    /// It is what stands in the way of a volume of this name.
    pub(crate) fn is_called(&self, group: &GroupName, label: &Label) -> bool {
        self.group == *group && self.label == *label
    }

    /// It was given to `node`, which is this one, and lies where it was.
    pub(crate) fn is_given(&self, node: &NodeName) -> bool {
        let theirs = self.folder.parent().and_then(Path::parent);
        let said = theirs.and_then(|data| Moved::given_to(data, self.volume));
        let named = || Identity::load(&self.folder, node).is_ok_and(|i| i.volume == self.volume);
        said.as_ref() == Some(node) && named()
    }

    /// What is said to whoever asks for it here.
    pub(crate) fn told(&self, data: &Path, node: &NodeName) -> String {
        format!(
            "it is on its way here from {from} with all its files: say `rcpctl group move {group} --to \
             {node}` again; if it is to stay at {from}, and {from} writes it, remove {} and start {node} \
             again",
            Self::path(data, self.volume).display(),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_on_its_way_is_remembered_in_full() {
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
        assert_eq!(Arriving::load(dir.path(), a.volume), Ok(a.clone()));
        let bare = Arriving { base: None, ..a.clone() };
        bare.store(dir.path()).expect("replaced");
        assert_eq!(Arriving::load(dir.path(), a.volume), Ok(bare));
        let node = NodeName::new("b").expect("valid");
        let told = a.told(dir.path(), &node);
        assert!(told.contains("`rcpctl group move g1 --to b` again"), "{told}");
        Arriving { folder: "/san\nx".into(), ..a.clone() }
            .store(dir.path())
            .expect_err("two lines");
        assert!(!a.is_given(&node));
    }
}
