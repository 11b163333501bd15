//! Whether two nodes see the same files: what is compared, and how the marks are written and read that
//! show it. Numbers of files and devices are compared too, and prove nothing by themselves: two file
//! systems have the same ones.

use std::ffi::OsString;
use std::io::{Read, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Component, Path, PathBuf};

use rcp::proto::ids::VolumeId;
use rustix::fs::{Mode, OFlags};

use crate::shift::{Base, MARK_BESIDE};

/// Longest mark.
const MARK_LEN: u64 = 64;

pub(super) fn shown(path: &Path) -> String {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned()).display().to_string()
}

/// Where the mark beside a file is.
pub(super) fn mark_beside(file: &Path) -> PathBuf {
    let mut name = OsString::from(file);
    name.push(MARK_BESIDE);
    PathBuf::from(name)
}

/// Writes a mark in place of an older one, and through no link.
///
/// # Errors
/// In words.
pub(super) fn put_mark(path: &Path, mark: &str) -> Result<(), String> {
    let failed = |e: std::io::Error| {
        format!(
            "{}: {e}: a mark has to be written there, which the other node reads to show that it sees \
             the same files",
            path.display()
        )
    };
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(failed(e)),
        _ => {}
    }
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let made = rustix::fs::open(path, flags, Mode::from_raw_mode(0o600));
    let mut file = std::fs::File::from(made.map_err(|e| failed(e.into()))?);
    // Another machine may be the one that reads it.
    file.write_all(mark.as_bytes()).and_then(|()| file.sync_all()).map_err(failed)
}

/// A mark is what was shown.
///
/// # Errors
/// In words: it is not, or is no mark.
pub(super) fn is_marked(path: &Path, mark: &str) -> Result<(), String> {
    let failed = |e: std::io::Error| format!("{}: {e}", path.display());
    // Whatever is there is not waited for, and no link is followed.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let opened = rustix::fs::open(path, flags, Mode::empty()).map_err(|e| failed(e.into()))?;
    let file = std::fs::File::from(opened);
    if !file.metadata().map_err(failed)?.is_file() {
        return Err(format!("{} is no file", path.display()));
    }
    let mut found = Vec::new();
    file.take(MARK_LEN + 1).read_to_end(&mut found).map_err(failed)?;
    if found.len() as u64 <= MARK_LEN && found == mark.as_bytes() {
        return Ok(());
    }
    Err(format!("{} does not say what was written there: it is another one", path.display()))
}

/// What content outside a folder is, as this node sees it.
///
/// # Errors
/// In words.
pub(super) fn look(base: &Path) -> Result<Base, String> {
    let failed = |e: std::io::Error| format!("{}: {e}", base.display());
    let m = std::fs::metadata(base).map_err(failed)?;
    let device = m.file_type().is_block_device() || m.file_type().is_char_device();
    let size = match device {
        // Its metadata says nothing of it.
        true => {
            use std::io::Seek;
            let mut file = std::fs::File::open(base).map_err(failed)?;
            file.seek(std::io::SeekFrom::End(0)).map_err(failed)?
        }
        false if m.is_file() => m.len(),
        false => return Err(format!("{} is neither a file nor a device", base.display())),
    };
    Ok(Base { path: shown(base), file: m.ino(), size, device: device.then(|| m.rdev()) })
}

/// Whether what is found here may be what the other node showed; marks say the rest of files.
///
/// # Errors
/// In words.
pub(super) fn may_be(theirs: &Base, here: &Base, same_device: bool) -> Result<(), String> {
    let no =
        |what: &str| Err(format!("{} is not what {} is there: {what}", here.path, theirs.path));
    let bytes = || format!("it has {} bytes here and {} there", here.size, theirs.size);
    match (theirs.device, here.device) {
        (Some(_), None) => no("that is a device, and this is none"),
        (None, Some(_)) => no("this is a device, and that is none"),
        _ if theirs.size != here.size => no(&bytes()),
        (None, None) if theirs.file != here.file => no("it has another number in its file system"),
        (None, None) => Ok(()),
        _ if same_device => Ok(()),
        (Some(there), Some(own)) => Err(format!(
            "{} is a device (number {own:#x}, and {there:#x} for {} there), and nothing in it shows that \
             both nodes mean the same one: look at its serial number at both, and say --same-device",
            here.path, theirs.path
        )),
    }
}

/// The folder of a volume of another node, by a path that came from outside.
///
/// # Errors
/// In words: it is none.
pub(super) fn volume_folder(text: &str, id: VolumeId, own: &Path) -> Result<PathBuf, String> {
    let folder = PathBuf::from(text);
    let no = |what: &str| Err(format!("{text}: {what}"));
    let plain = |c: Component<'_>| matches!(c, Component::RootDir | Component::Normal(_));
    let name = id.to_string();
    let above = folder.parent().and_then(Path::file_name);
    if !folder.is_absolute() || !folder.components().all(plain) {
        return no("this is no absolute path without `..`");
    }
    if folder.file_name() != Some(name.as_ref()) || above != Some("volumes".as_ref()) {
        return no(&format!("it does not end in volumes/{name}"));
    }
    let failed = |e: std::io::Error| format!("{text}: {e}");
    let there = std::fs::symlink_metadata(&folder).map_err(failed)?;
    if !there.is_dir() {
        return no("it is no folder, or a link to one");
    }
    let ours = std::fs::metadata(own).map_err(|e| format!("{}: {e}", own.display()))?;
    if there.uid() != ours.uid() {
        return no("it is another user's: both nodes have to run as the same one");
    }
    Ok(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: VolumeId = VolumeId([7; 16]);

    #[test]
    fn equal_numbers_are_not_the_same_file_and_devices_need_a_word() {
        let file = Base { path: "/p/x".into(), file: 12, size: 4096, device: None };
        let here = Base { path: "/b/x".into(), ..file.clone() };
        assert_eq!(may_be(&file, &here, false), Ok(()));
        let device =
            |path: &str, rdev| Base { path: path.into(), file: 3, size: 4096, device: Some(rdev) };
        for (there, here, same_device, says) in [
            (&file, &Base { file: 13, ..here.clone() }, true, "another number"),
            (&file, &Base { size: 8192, ..here.clone() }, true, "8192 bytes here and 4096 there"),
            (&file, &device("/dev/sda", 1), true, "this is a device"),
            (&device("/dev/sda", 1), &here, true, "and this is none"),
            (&device("/dev/sda", 1), &device("/dev/sdb", 2), false, "say --same-device"),
            (&device("/dev/sda", 1), &device("/dev/sda", 1), false, "say --same-device"),
            (
                &device("/dev/sda", 1),
                &Base { size: 1, ..device("/dev/sda", 1) },
                true,
                "1 bytes here",
            ),
        ] {
            let why = may_be(there, here, same_device).expect_err(says);
            assert!(why.contains(says), "{why}");
        }
        // What one machine calls so another one calls otherwise.
        assert_eq!(may_be(&device("/dev/sda", 1), &device("/dev/sdb", 2), true), Ok(()));
    }

    #[test]
    fn a_mark_is_a_small_file_and_no_link() {
        let dir = tempfile::tempdir().expect("temp");
        let (mark, other) = (dir.path().join("moving"), dir.path().join("other"));
        put_mark(&mark, "one").expect("written");
        put_mark(&mark, "two").expect("in its place");
        assert_eq!(is_marked(&mark, "two"), Ok(()));
        is_marked(&mark, "one").expect_err("an older one");
        is_marked(&other, "two").expect_err("none");
        std::os::unix::fs::symlink(&mark, &other).expect("a link");
        is_marked(&other, "two").expect_err("a link");
        put_mark(&other, "three").expect("in its place");
        assert_eq!(is_marked(&mark, "two"), Ok(()), "no link was followed");
        std::fs::write(&mark, "two".repeat(100)).expect("written");
        is_marked(&mark, &"two".repeat(100)).expect_err("too long");
        std::fs::remove_file(&mark).expect("removed");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &mark,
            rustix::fs::FileType::Fifo,
            Mode::from_raw_mode(0o600),
            0,
        )
        .expect("a pipe");
        is_marked(&mark, "two").expect_err("a pipe that nobody writes to is not waited for");
    }

    #[test]
    fn only_the_folder_of_that_volume_is_looked_at() {
        let dir = tempfile::tempdir().expect("temp");
        let all = dir.path().join("volumes");
        let folder = all.join(ID.to_string());
        std::fs::create_dir_all(&folder).expect("a folder");
        let text = shown(&folder);
        assert_eq!(volume_folder(&text, ID, dir.path()), Ok(folder.clone()));
        let name = ID.to_string();
        for (text, says) in [
            (format!("volumes/{name}"), "no absolute path"),
            (format!("{}/../volumes/{name}", shown(&all)), "no absolute path"),
            (shown(&all), "does not end in volumes/"),
            (format!("{}/{name}", shown(dir.path())), "does not end in volumes/"),
        ] {
            let why = volume_folder(&text, ID, dir.path()).expect_err(says);
            assert!(why.contains(says), "{why}");
        }
        let why =
            volume_folder(&text, VolumeId([8; 16]), dir.path()).expect_err("another volume's");
        assert!(why.contains("does not end in volumes/"), "{why}");
        let aside = dir.path().join("aside");
        std::fs::rename(&folder, &aside).expect("renamed");
        std::os::unix::fs::symlink(&aside, &folder).expect("a link");
        let why = volume_folder(&text, ID, dir.path()).expect_err("a link");
        assert!(why.contains("or a link to one"), "{why}");
    }
}
