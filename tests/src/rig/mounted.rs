//! File systems for a test: an export as a mounted one, a small one that can be full. Only for
//! root; taken down when dropped.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::outside::{lacking, said, tool};
use super::process::Process;
use super::wait::wait_for;

/// Whether this test may mount; said loudly if not.
#[must_use]
pub fn may_mount(what: &str) -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        lacking(what, "mounting needs root: run the tests as root, or in a container");
    }
    root
}

/// An NBD export as a block device, through nbdfuse and a loop device.
#[derive(Debug)]
pub struct Device {
    /// The loop device.
    pub path: PathBuf,
    folder: PathBuf,
    fuse: Process,
}

impl Device {
    /// Attaches an NBD URI; `None`, said loudly, where a tool or a device is missing.
    ///
    /// # Panics
    /// When the folder cannot be made.
    #[must_use]
    pub fn attach(uri: &str, folder: &Path) -> Option<Self> {
        std::fs::create_dir_all(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
        tool("losetup", "mount")?;
        tool("nbdfuse", "libnbd-bin")?;
        if !Path::new("/dev/fuse").exists() {
            lacking("there is no /dev/fuse", "give the container this device");
            return None;
        }
        let file = folder.join("disk");
        let mut fuse = Command::new("/usr/bin/nbdfuse");
        let fuse = Process::start(fuse.arg(&file).arg(uri), &folder.with_extension("log"));
        wait_for("nbdfuse to show its file", Duration::from_secs(10), || {
            std::fs::metadata(&file).map_err(|e| format!("{e}; {}", fuse.log()))
        });
        let mut losetup = tool("losetup", "mount")?;
        let path = said(losetup.args(["--direct-io=on", "-f", "--show"]).arg(&file));
        match path {
            Ok(path) => Some(Self { path: path.trim().into(), folder: folder.to_owned(), fuse }),
            Err(e) => {
                unmount_fuse(folder);
                lacking(&format!("no loop device ({e})"), "run where loop devices can be made");
                None
            }
        }
    }
}

fn unmount_fuse(folder: &Path) {
    let _ = Command::new("umount").arg("-l").arg(folder).status();
}

impl Drop for Device {
    fn drop(&mut self) {
        let _ = Command::new("/usr/sbin/losetup").arg("-d").arg(&self.path).status();
        unmount_fuse(&self.folder);
        self.fuse.kill();
    }
}

/// A mounted file system.
#[derive(Debug)]
pub struct Mounted {
    /// Where.
    pub at: PathBuf,
}

impl Mounted {
    /// Mounts with the arguments of mount(8) but the last.
    ///
    /// # Errors
    /// What mount says.
    pub fn new(arguments: &[&str], at: &Path) -> Result<Self, String> {
        std::fs::create_dir_all(at).map_err(|e| e.to_string())?;
        let mut mount = tool("mount", "mount").ok_or("no mount")?;
        said(mount.args(arguments).arg(at))?;
        Ok(Self { at: at.to_owned() })
    }

    /// A file system in memory of this many MiB.
    ///
    /// # Errors
    /// What mount says.
    pub fn small(mib: u64, at: &Path) -> Result<Self, String> {
        Self::new(&["-t", "tmpfs", "-o", &format!("size={mib}M"), "none"], at)
    }

    /// Changes the size of one in memory.
    ///
    /// # Panics
    /// When mount refuses.
    pub fn resize(&self, mib: u64) {
        let option = format!("remount,size={mib}M");
        let done = tool("mount", "mount").map(|mut m| said(m.args(["-o", &option]).arg(&self.at)));
        assert!(matches!(done, Some(Ok(_))), "{done:?}");
    }

    /// Unmounts, and waits until everything is written.
    ///
    /// # Panics
    /// When umount refuses.
    pub fn unmount(self) {
        let done = tool("umount", "mount").map(|mut m| said(m.arg(&self.at)));
        assert!(matches!(done, Some(Ok(_))), "{done:?}");
        std::mem::forget(self);
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.at).status();
    }
}
