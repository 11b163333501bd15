//! What lies in the folder `volumes` of a node at its start, and the volumes that its topology names.
//!
//! Nothing here removes content: only what is proven to be the beginning or the rest of a volume goes,
//! and a volume that has lost its identity keeps the node from making an empty one in its place.

use std::path::Path;

use config::{GroupPlan as PlannedGroup, VolumePlan};
use rcp::proto::ids::{GroupName, Label, NodeName, VolumeId};
use volmcast::storage::{Identity, Standing, has_content};
use volmcast::units::{BlockCount, BlockSize};

use super::core::{Core, ReplicaPlan};
use super::start::{StartError, io};
use crate::clock;
use crate::mover::ClosedVolume;
use crate::volumes::arriving::{self, Arriving};
use crate::volumes::folder::{Entry, Stored, What, lost_its_name, survey, twice};
use crate::volumes::moved::Moved;
use crate::volumes::notes::Note;
use crate::volumes::open::{self, OpenPlan};

fn refused(text: String) -> StartError {
    StartError::Refused(text)
}

/// The volumes in the folder. What is proven to be no volume is removed.
fn look(all: &Path, node: &NodeName) -> Result<Vec<Stored>, StartError> {
    let mut found: Vec<Stored> = Vec::new();
    for Entry { path, what } in survey(all, node).map_err(io(all.display().to_string()))? {
        let identity = match what {
            What::Volume(identity) => *identity,
            What::Given(to) => {
                tracing::warn!(
                    "{} was given to {to}, which has not taken it yet: it is left alone; say `rcpctl \
                     volume move` again",
                    path.display()
                );
                continue;
            }
            What::Unreadable(why) => return Err(refused(why)),
            What::Unfinished => {
                tracing::warn!("{} is an unfinished volume and is removed", path.display());
                let _ = Identity::erase(&path);
                continue;
            }
            What::Unnamed => {
                // Succeeds only where nothing is in it.
                if std::fs::remove_dir(&path).is_err() {
                    return Err(refused(lost_its_name(&path, all)));
                }
                continue;
            }
            What::Other => {
                if path.file_name().is_some_and(|n| n != "lost+found") {
                    tracing::warn!("{} is no volume: it is left as it is", path.display());
                }
                continue;
            }
        };
        // A crash may have come between the two.
        Identity::finished(&path).map_err(|e| refused(e.to_string()))?;
        if let Some(other) = found.iter().find(|f| f.identity.volume == identity.volume) {
            return Err(refused(twice(&identity, &other.path, &path, all)));
        }
        found.push(Stored { path, identity });
    }
    Ok(found)
}

/// What a node finds in its data folder when it starts.
#[derive(Debug)]
pub(super) struct Found {
    /// Its volumes.
    pub(super) stored: Vec<Stored>,
    /// What it gave away, and has not got back.
    pub(super) moved: Vec<Moved>,
    /// What it is to be given, and has not taken.
    pub(super) arriving: Vec<Arriving>,
}

impl Found {
    /// What is on its way between two nodes is not made anew, whatever the topology says.
    pub(super) fn is_elsewhere(&self, group: &GroupName, label: &Label) -> bool {
        self.moved.iter().any(|m| m.is_called(group, label))
            || self.arriving.iter().any(|a| a.is_called(group, label))
    }
}

/// Looks at all of it. Words on volumes that are here by now are forgotten: they did not go, or came
/// back, or came.
pub(super) fn find(folder: &Path, node: &NodeName) -> Result<Found, StartError> {
    let stored = look(&folder.join("volumes"), node)?;
    let is_here = |id| stored.iter().any(|s| s.identity.volume == id);
    let (mut gone, mut coming) = (Vec::new(), Vec::new());
    for m in Moved::all(folder).map_err(refused)? {
        match is_here(m.volume) {
            true => Moved::forget(folder, m.volume).map_err(refused)?,
            false => gone.push(m),
        }
    }
    for a in Arriving::all(folder).map_err(refused)? {
        match is_here(a.volume) {
            // Whose folder it is said to be is known to last before it is forgotten where it was.
            true => {
                arriving::settle(folder, &a).map_err(refused)?;
                Arriving::forget(folder, a.volume).map_err(refused)?;
            }
            false => coming.push(a),
        }
    }
    Ok(Found { stored, moved: gone, arriving: coming })
}

/// Opens what is in the folder and makes the primary's volumes that the topology names.
pub(super) fn open_volumes(
    core: &mut Core,
    groups: &[&PlannedGroup],
    node: &NodeName,
    folder: &Path,
) -> Result<(), StartError> {
    let all = folder.join("volumes");
    let mut have = Vec::new();
    let found = find(folder, node)?;
    found.moved.iter().for_each(|m| core.gave(m.clone()));
    found.arriving.iter().for_each(|a| core.expects(a.clone()));
    for Stored { path, identity } in &found.stored {
        let Some(plan) = core.plans.get(&identity.group) else {
            tracing::warn!(
                "volume {} is of group {}, which this node is not in: it stays closed",
                identity.label,
                identity.group
            );
            continue;
        };
        have.push(identity.in_group().clone());
        match open::open(path, &plan.open, clock::mono(), clock::wall()) {
            Ok(o) => core.enter(o),
            // Other volumes go on.
            Err(e) => {
                let why = open::closed(identity, &e);
                core.names.set_closed(identity.volume, identity.label.as_str(), &why);
                let Identity { label, group, role, .. } = identity.clone();
                let closed = ClosedVolume { label, group, role, why };
                core.mover.add_closed(identity.volume, closed);
            }
        }
    }
    for g in groups.iter().filter(|g| g.primary == *node) {
        let missing = |v: &&VolumePlan| !have.contains(&v.label);
        let made = |v: &&VolumePlan| !found.is_elsewhere(&g.name, &v.label);
        for v in g.volumes.iter().filter(missing).filter(made) {
            let (identity, plan) = new_primary(g, v, node, folder, &core.plans[&g.name])?;
            let path = all.join(identity.volume.to_string());
            let o = open::create(&path, &identity, &plan, clock::mono(), clock::wall())
                .map_err(|e| refused(e.to_string()))?;
            core.enter(o);
        }
    }
    Ok(())
}

/// A volume that the topology names and the primary does not have.
fn new_primary(
    g: &PlannedGroup,
    v: &VolumePlan,
    node: &NodeName,
    folder: &Path,
    plan: &ReplicaPlan,
) -> Result<(Identity, OpenPlan), StartError> {
    let base = v.backing_for(node).map(|p| folder.join(p));
    let mut import = false;
    if let Some(path) = &base
        && let Ok(m) = std::fs::metadata(path)
    {
        import = m.len() > 0 || !m.is_file();
        if m.is_file() && m.len() < v.size && has_content(path).unwrap_or(true) {
            return Err(refused(format!(
                "{} has content ({} bytes), and volume {} is to have {} bytes: if this file is \
                 meant, say `truncate -s {} {}`",
                path.display(),
                m.len(),
                v.label,
                v.size,
                v.size,
                path.display()
            )));
        }
    }
    let identity = Identity {
        volume: VolumeId(*uuid::Uuid::new_v4().as_bytes()),
        label: v.label_at(node).clone(),
        source: v.labels.get(node).map(|_| v.label.clone()),
        group: g.name.clone(),
        node: node.clone(),
        role: "primary".to_owned(),
        block_size: BlockSize::from_bytes(v.block_size).unwrap_or_default(),
        blocks: BlockCount(v.blocks()),
        save: g.save_for(v, node),
        snapshots: v.snapshot_area,
        base,
        // It may have been the primary before, and have lost its disk.
        standing: Standing {
            unproven: g.policy.confirm == config::Confirm::Always,
            ..Standing::default()
        },
    };
    Ok((identity, OpenPlan { import, ..plan.open.clone() }))
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    const ID: [u8; 16] = [7; 16];

    fn node() -> NodeName {
        NodeName::new("cel1-ser1").expect("valid")
    }

    fn identity() -> Identity {
        Identity {
            volume: VolumeId(ID),
            label: Label::new("vol1").expect("valid"),
            source: None,
            group: GroupName::new("g1").expect("valid"),
            node: node(),
            role: "primary".to_owned(),
            block_size: BlockSize::DEFAULT,
            blocks: BlockCount(16),
            save: 8 << 20,
            snapshots: 1 << 20,
            base: None,
            standing: Standing::default(),
        }
    }

    /// A folder `volumes` with one volume in it.
    fn folder() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().expect("temp");
        let path = dir.path().join(VolumeId(ID).to_string());
        std::fs::create_dir(&path).expect("a folder");
        std::fs::write(path.join("base"), "content").expect("a base");
        identity().store(&path).expect("an identity");
        (dir, path)
    }

    fn why(dir: &Path) -> String {
        look(dir, &node()).expect_err("refused").to_string()
    }

    #[test]
    fn a_volume_that_lost_its_identity_is_refused_and_keeps_its_content() {
        let (dir, path) = folder();
        assert_eq!(look(dir.path(), &node()).expect("a volume").len(), 1);
        std::fs::rename(path.join("identity"), dir.path().join("elsewhere")).expect("moved");
        let text = why(dir.path());
        assert!(text.contains("has content and no identity: restore"), "{text}");
        assert_eq!(std::fs::read(path.join("base")).expect("still there"), b"content");
        // One that cannot be read is not one that is absent.
        std::fs::create_dir(path.join("identity")).expect("something else");
        let text = why(dir.path());
        assert!(text.contains("identity"), "{text}");
        assert!(path.join("base").exists());
    }

    #[test]
    fn folders_and_files_of_others_are_left_as_they_are() {
        let (dir, _) = folder();
        std::fs::create_dir(dir.path().join("backup")).expect("a folder");
        std::fs::write(dir.path().join("backup/important.img"), "x").expect("a file");
        std::fs::create_dir(dir.path().join("lost+found")).expect("a folder");
        std::fs::write(dir.path().join("notes"), "x").expect("a file");
        assert_eq!(look(dir.path(), &node()).expect("one volume").len(), 1);
        assert!(dir.path().join("backup/important.img").exists());
        assert!(dir.path().join("lost+found").exists() && dir.path().join("notes").exists());
    }

    #[test]
    fn only_what_is_proven_to_be_unfinished_is_removed() {
        let (dir, path) = folder();
        let begun = dir.path().join(VolumeId([8; 16]).to_string());
        Identity::begin(&begun).expect("a creation begins");
        std::fs::write(begun.join("base"), "part").expect("and is cut short");
        let empty = dir.path().join(VolumeId([9; 16]).to_string());
        std::fs::create_dir(&empty).expect("before that");
        // The mark of a volume that was finished means nothing.
        std::fs::write(path.join("unfinished"), "").expect("left by a crash");
        assert_eq!(look(dir.path(), &node()).expect("one volume").len(), 1);
        assert!(!begun.exists() && !empty.exists());
        assert!(path.join("base").exists() && !path.join("unfinished").exists());
        // A removal that was cut short ends.
        Identity::remove(&path).expect("removed");
        assert!(look(dir.path(), &node()).expect("none").is_empty());
        assert!(!path.exists());
    }

    #[test]
    fn a_copy_of_a_volume_beside_it_is_refused() {
        let (dir, path) = folder();
        let copy = dir.path().join("copy");
        std::fs::create_dir(&copy).expect("a folder");
        std::fs::copy(path.join("identity"), copy.join("identity")).expect("a copy");
        let text = why(dir.path());
        assert!(text.contains("are the same volume vol1"), "{text}");
    }
}
