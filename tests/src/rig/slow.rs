//! A disk that takes only so many bytes a second.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::mounted::{Device, Mounted};
use super::outside::{run, tool};
use super::process::Process;
use super::wait::wait_for;

/// A file system on it; taken down when dropped. Only for root.
#[derive(Debug)]
pub struct SlowDisk {
    // In the order in which they have to go.
    _mounted: Mounted,
    _device: Device,
    _server: Process,
    rate: PathBuf,
}

impl SlowDisk {
    /// Mounts one of `size` bytes at `at`, with its files in `dir`; `None`, said loudly, where a tool
    /// or a device is missing.
    ///
    /// # Panics
    /// When it cannot be made for another reason.
    #[must_use]
    pub fn mount(dir: &Path, at: &Path, size: u64, rate: u64) -> Option<Self> {
        let (raw, sock) = (dir.join("slow.raw"), dir.join("slow.sock"));
        std::fs::File::create(&raw).and_then(|f| f.set_len(size)).expect("a file for the disk");
        run(tool("mke2fs", "e2fsprogs")?.args(["-q", "-F", "-t", "ext4"]).arg(&raw));
        tool("nbdkit", "nbdkit")?;
        let file = dir.join("slow.rate");
        write_rate(&file, rate);
        let mut nbdkit = Command::new("/usr/bin/nbdkit");
        nbdkit.args(["-f", "--filter=rate", "-U"]).arg(&sock).arg("file").arg(&raw);
        nbdkit.arg(format!("rate={}", rate * 8)).arg(format!("rate-file={}", file.display()));
        let server = Process::start(&mut nbdkit, &dir.join("slow.log"));
        wait_for("nbdkit", Duration::from_secs(60), || {
            if sock.exists() { Ok(()) } else { Err(server.log()) }
        });
        let uri = format!("nbd+unix:///?socket={}", sock.display());
        let device = Device::attach(&uri, &dir.join("slow"))?;
        let path = device.path.to_str().expect("a path in UTF-8");
        let mounted = Mounted::new(&[path], at).expect("mounted");
        Some(Self { _mounted: mounted, _device: device, _server: server, rate: file })
    }

    /// It takes this many bytes a second from now on.
    pub fn limit(&self, rate: u64) {
        write_rate(&self.rate, rate);
    }
}

/// In bits a second, as a whole.
fn write_rate(file: &Path, rate: u64) {
    let new = file.with_extension("new");
    std::fs::write(&new, format!("{}\n", rate * 8)).expect("the new rate");
    std::fs::rename(&new, file).expect("the new rate in its place");
}
