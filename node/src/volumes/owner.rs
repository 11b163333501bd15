//! Whose a backing file is: a small record beside it, `FILE.rcp-owner`, so that no second node takes
//! the file for its own while the first one is down. While that one runs, its lock keeps others out.
//!
//! The volume's `identity` is what counts; the record says only of which volume the file is the
//! content. A device has no place beside it, and no record.

use std::ffi::OsString;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use rcp::proto::ids::{NodeName, VolumeId};
use volmcast::storage::sync_folder;

const FIRST_LINE: &str = "rcp-owner 1";

fn beside(base: &Path, end: &str) -> PathBuf {
    let mut name = OsString::from(base);
    name.push(end);
    PathBuf::from(name)
}

/// Where the record is.
fn record(base: &Path) -> PathBuf {
    beside(base, ".rcp-owner")
}

fn text(volume: VolumeId, node: &NodeName, folder: &Path) -> String {
    let folder = std::path::absolute(folder).unwrap_or_else(|_| folder.to_owned());
    format!("{FIRST_LINE}\nvolume {volume}\nnode {node}\nfolder {}\n", folder.display())
}

fn field<'t>(text: &'t str, name: &str) -> Option<&'t str> {
    text.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(' '))
}

/// A file has a record; so does one that is still to be made.
fn has_record(base: &Path) -> bool {
    match std::fs::metadata(base) {
        Ok(m) => m.is_file(),
        Err(e) => e.kind() == ErrorKind::NotFound,
    }
}

/// What a record says.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Record {
    volume: String,
    node: String,
    folder: String,
}

impl Record {
    /// What is beside a backing file; `None` if nothing is.
    fn read(base: &Path) -> Result<Option<Self>, String> {
        let path = record(base);
        let found = match std::fs::read_to_string(&path) {
            Ok(found) => found,
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(format!("{}: {e}", path.display())),
        };
        let said = field(&found, "node").zip(field(&found, "volume"));
        let Some((node, volume)) = said.filter(|_| found.starts_with(FIRST_LINE)) else {
            return Err(format!(
                "{} cannot be read: it says which node uses {}; if no other one does, remove it",
                path.display(),
                base.display()
            ));
        };
        let folder = field(&found, "folder").unwrap_or("its folder is not known");
        Ok(Some(Self { volume: volume.into(), node: node.into(), folder: folder.into() }))
    }

    /// It is of a volume of this node that is there no more: its making was cut short, or somebody
    /// removed its folder.
    fn is_left_over(&self, node: &NodeName) -> bool {
        let identity = Path::new(&self.folder).join("identity");
        self.node == node.as_str() && matches!(identity.try_exists(), Ok(false))
    }

    fn names(&self, volume: VolumeId, node: &NodeName) -> bool {
        self.node == node.as_str() && self.volume == volume.to_string()
    }

    fn refusal(&self, base: &Path) -> String {
        let Self { volume, node, folder } = self;
        format!(
            "{} is in use by node {node}: it is the content of volume {volume} ({folder}); a file is the \
             content of one volume at one node: give this node another file (`backing`), or move the \
             volume (`rcpctl volume move`); if {node} is gone for good, remove {}",
            base.display(),
            record(base).display()
        )
    }
}

/// A backing file is nobody's, or this volume's at this node. Nothing is changed.
///
/// # Errors
/// In words, with the remedy: it is another's.
pub(crate) fn check(base: &Path, volume: VolumeId, node: &NodeName) -> Result<(), String> {
    if !has_record(base) {
        return Ok(());
    }
    match Record::read(base)? {
        Some(r) if !r.names(volume, node) && !r.is_left_over(node) => Err(r.refusal(base)),
        _ => Ok(()),
    }
}

/// Which node a record names as the one that uses a backing file, if there is one.
pub(crate) fn named(base: &Path) -> Option<String> {
    Record::read(base).ok().flatten().map(|r| r.node)
}

/// Takes a backing file for a volume of this node, durably. Whoever calls it has the file locked.
///
/// A record that cannot be written leaves the volume with its lock alone, which is in the log.
///
/// # Errors
/// In words, with the remedy: it is another's.
pub(crate) fn claim(
    base: &Path,
    volume: VolumeId,
    node: &NodeName,
    folder: &Path,
) -> Result<(), String> {
    check(base, volume, node)?;
    write(base, volume, node, folder)
}

/// As [`claim`], of a file that `from` gave to this node with the volume.
///
/// # Errors
/// In words, with the remedy: it is neither `from`'s nor this node's, or not this volume's, or cannot
/// be written.
pub(crate) fn transfer(
    base: &Path,
    volume: VolumeId,
    (from, to): (&NodeName, &NodeName),
    folder: &Path,
) -> Result<(), String> {
    if !has_record(base) {
        return Ok(());
    }
    let found = Record::read(base)?;
    if let Some(r) = found.as_ref().filter(|r| !r.names(volume, from) && !r.names(volume, to)) {
        return Err(r.refusal(base));
    }
    write(base, volume, to, folder)?;
    // What is not written is not there; only another's word is in the way.
    check(base, volume, to)
}

fn write(base: &Path, volume: VolumeId, node: &NodeName, folder: &Path) -> Result<(), String> {
    let path = record(base);
    let wanted = text(volume, node, folder);
    if !has_record(base) || std::fs::read_to_string(&path).is_ok_and(|found| found == wanted) {
        return Ok(());
    }
    let new = beside(base, &format!(".rcp-owner.{node}"));
    let written = std::fs::File::create(&new)
        .and_then(|mut f| {
            f.write_all(wanted.as_bytes())?;
            f.sync_all()
        })
        .and_then(|()| std::fs::rename(&new, &path))
        .map_err(|e| e.to_string())
        .and_then(|()| {
            let above = path.parent().filter(|p| !p.as_os_str().is_empty());
            sync_folder(above.unwrap_or(Path::new("."))).map_err(|e| e.to_string())
        });
    if let Err(e) = written {
        let _ = std::fs::remove_file(&new);
        // The lock has to do.
        tracing::warn!(
            "{} cannot be written ({e}): while this node is down, nothing but the topology keeps \
             another one from using {}",
            path.display(),
            base.display()
        );
        return Ok(());
    }
    // Where locks do not hold, of two at once the last one has it.
    check(base, volume, node)
}

/// The volume is gone from this node, and its backing file is nobody's.
pub(crate) fn release(base: &Path, volume: VolumeId, node: &NodeName) {
    if let Ok(Some(r)) = Record::read(base)
        && r.names(volume, node)
    {
        let _ = std::fs::remove_file(record(base));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(n: &str) -> NodeName {
        NodeName::new(n).expect("valid")
    }

    const ONE: VolumeId = VolumeId([1; 16]);
    const TWO: VolumeId = VolumeId([2; 16]);
    /// A volume's folder.
    fn volume(dir: &Path) -> PathBuf {
        let folder = dir.join("1");
        std::fs::create_dir(&folder).expect("a folder");
        std::fs::write(folder.join("identity"), "").expect("a volume");
        folder
    }

    #[test]
    fn a_file_of_one_node_is_refused_to_another_in_words() {
        let dir = tempfile::tempdir().expect("temp");
        let base = dir.path().join("vol1.img");
        let (a, b, folder) = (node("a"), node("b"), &*volume(dir.path()));
        claim(&base, ONE, &a, folder).expect("nobody's");
        claim(&base, ONE, &a, folder).expect("its own");
        let why = claim(&base, TWO, &b, folder).expect_err("another's");
        for word in ["is in use by node a", "/1)", "rcpctl volume move", "vol1.img.rcp-owner"] {
            assert!(why.contains(word), "{word}: {why}");
        }
        claim(&base, TWO, &a, folder).expect_err("of another volume of the same node");
        release(&base, TWO, &a);
        check(&base, TWO, &b).expect_err("still a's");
        release(&base, ONE, &a);
        claim(&base, TWO, &b, folder).expect("nobody's");
        std::fs::write(record(&base), "x").expect("damage");
        let why = claim(&base, TWO, &b, folder).expect_err("unreadable");
        assert!(why.contains("remove it"), "{why}");
        // A device has no record.
        claim(Path::new("/dev/null"), ONE, &a, folder).expect("no file");
        assert!(!Path::new("/dev/null.rcp-owner").exists());
    }

    /// A replica has the UUID of its writer: who has the volume says nothing of whose the file is.
    #[test]
    fn one_volume_at_two_nodes_has_two_files() {
        let dir = tempfile::tempdir().expect("temp");
        let base = dir.path().join("vol1.img");
        let (a, b, c, folder) = (node("a"), node("b"), node("c"), &*volume(dir.path()));
        claim(&base, ONE, &a, folder).expect("nobody's");
        let why = claim(&base, ONE, &b, folder).expect_err("the writer's");
        assert!(why.contains("is in use by node a"), "{why}");
        assert_eq!(named(&base).as_deref(), Some("a"));
        release(&base, ONE, &b);
        assert_eq!(named(&base).as_deref(), Some("a"), "a replica that goes takes nothing along");
        // Only what was given changes hands.
        transfer(&base, ONE, (&c, &b), folder).expect_err("it is not c's to give");
        transfer(&base, TWO, (&a, &b), folder).expect_err("another volume's");
        transfer(&base, ONE, (&a, &b), folder).expect("given");
        transfer(&base, ONE, (&a, &b), folder).expect("said again");
        claim(&base, ONE, &b, folder).expect("its own");
        claim(&base, ONE, &a, folder).expect_err("b's now");
    }

    #[test]
    fn what_a_volume_that_was_never_finished_took_is_free_again() {
        let dir = tempfile::tempdir().expect("temp");
        let base = dir.path().join("vol1.img");
        let (a, b, folder) = (node("a"), node("b"), &*volume(dir.path()));
        claim(&base, ONE, &a, folder).expect("nobody's");
        claim(&base, TWO, &a, folder).expect_err("there is a volume");
        std::fs::remove_file(folder.join("identity")).expect("removed");
        claim(&base, TWO, &b, folder).expect_err("what another has is not seen from here");
        claim(&base, TWO, &a, folder).expect("nobody's any more");
    }

    /// What another process has open is not taken, whatever is or is not beside it.
    #[test]
    fn the_lock_comes_before_the_record() {
        use crate::volumes::open::{self, OpenPlan};
        use rcp::proto::clock::{Mono, Wall};
        use volmcast::units::{BlockCount, BlockSize};
        use volmcast::volume::{CutPolicy, PlaybackPolicy, ScrubPolicy};
        let dir = tempfile::tempdir().expect("temp");
        let (base, folder) = (dir.path().join("vol1.img"), dir.path().join("1"));
        let identity = volmcast::storage::Identity {
            volume: ONE,
            label: "v".parse().expect("valid"),
            source: None,
            group: "g".parse().expect("valid"),
            node: node("a"),
            role: "primary".to_owned(),
            block_size: BlockSize::DEFAULT,
            blocks: BlockCount(16),
            save: 8 << 20,
            snapshots: 1 << 20,
            base: Some(base.clone()),
            standing: volmcast::storage::Standing::default(),
        };
        let plan = OpenPlan {
            node: node("a"),
            persistent: true,
            cut: CutPolicy { hwm: 1, timeout: std::time::Duration::ZERO },
            playback: PlaybackPolicy {
                hwm: 0,
                timeout: std::time::Duration::ZERO,
                on_demand: false,
            },
            compression: rcp::proto::delta::Compression::Never,
            import: false,
            budget: volmcast::save::Budget::new(1 << 20),
            scrub: ScrubPolicy { rate: 1, every: std::time::Duration::from_secs(1) },
            full: volmcast::volume::FullPolicy::default(),
        };
        let make = || open::create(&folder, &identity, &plan, Mono(0), Wall(0));
        let theirs = std::fs::File::create(&base).expect("a file");
        rustix::fs::flock(&theirs, rustix::fs::FlockOperation::LockExclusive).expect("locked");
        let why = make().expect_err("in use").to_string();
        assert!(why.contains("is in use by another process") && !record(&base).exists(), "{why}");
        drop(theirs);
        drop(make().expect("nobody has it"));
        assert_eq!(named(&base).as_deref(), Some("a"));
        // The same when it is opened again.
        std::fs::remove_file(record(&base)).expect("removed");
        let theirs = std::fs::File::open(&base).expect("a file");
        rustix::fs::flock(&theirs, rustix::fs::FlockOperation::LockExclusive).expect("locked");
        open::open(&folder, &plan, Mono(0), Wall(0)).expect_err("in use");
        assert!(!record(&base).exists());
    }

    #[test]
    fn a_record_that_cannot_be_written_keeps_no_volume_closed() {
        let dir = tempfile::tempdir().expect("temp");
        let base = dir.path().join("vol1.img");
        let (a, folder) = (node("a"), &*volume(dir.path()));
        // Whatever the reason is: here it is a folder of that name.
        std::fs::create_dir(beside(&base, ".rcp-owner.a")).expect("in the way");
        claim(&base, ONE, &a, folder).expect("the lock has to do");
        assert!(!record(&base).exists());
        claim(&base, ONE, &node("b"), folder).expect("nobody's");
        claim(&base, ONE, &a, folder).expect_err("another's");
    }
}
