//! Volumes that this node gave to another with all their files: one small file each, so that the node
//! makes no empty volume in the place of one that the topology still names it for.

use std::path::Path;

use rcp::proto::ids::{GroupName, Label, NodeName, VolumeId};
use volmcast::storage::Identity;

use super::notes::Note;

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

impl Note for Moved {
    const FOLDER: &'static str = "moved";
    const FIRST_LINE: &'static str = "rcp-moved 1";
    const DAMAGED: &'static str = "it says which node a volume was given to; if no volume of the \
                                   groups of this node is missing here, remove it";

    fn volume(&self) -> VolumeId {
        self.volume
    }

    fn fields(&self) -> Result<Vec<(&'static str, String)>, String> {
        let Self { volume: _, label, group, to } = self;
        Ok(vec![("label", label.to_string()), ("group", group.to_string()), ("to", to.to_string())])
    }

    fn read<'a>(volume: VolumeId, field: impl Fn(&str) -> Option<&'a str>) -> Option<Self> {
        Some(Self {
            volume,
            label: field("label")?.parse().ok()?,
            group: field("group")?.parse().ok()?,
            to: field("to")?.parse().ok()?,
        })
    }
}

impl Moved {
    /// Who a volume was given to.
    pub(crate) fn given_to(data: &Path, volume: VolumeId) -> Option<NodeName> {
        Self::load(data, volume).ok().map(|m| m.to)
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
        let path = Self::path(data, self.volume);
        format!(
            "it was moved to {to} with all its files ({} says so): open it there, and write \
             `primary: {to}` into the topology; if it is not there, say `rcpctl group move {group} --to \
             {to}` again",
            path.display()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_given_away_is_remembered_in_full() {
        let dir = tempfile::tempdir().expect("temp");
        let m = Moved {
            volume: VolumeId([7; 16]),
            label: Label::new("vol1").expect("valid"),
            group: GroupName::new("g1").expect("valid"),
            to: NodeName::new("cel2-ser1").expect("valid"),
        };
        m.store(dir.path()).expect("stored");
        assert_eq!(Moved::load(dir.path(), m.volume), Ok(m.clone()));
        assert_eq!(Moved::given_to(dir.path(), m.volume), Some(m.to.clone()));
        let told = m.told(dir.path());
        for word in [&format!("moved/{}", m.volume), "`rcpctl group move g1 --to cel2-ser1` again"]
        {
            assert!(told.contains(word), "{told}");
        }
        let other = GroupName::new("g2").expect("valid");
        assert!(m.is_called(&m.group, &m.label) && !m.is_called(&other, &m.label));
        assert!(!m.waits(dir.path()), "there is no folder");
        Moved::forget(dir.path(), m.volume).expect("gone");
        assert_eq!(Moved::given_to(dir.path(), m.volume), None);
    }
}
