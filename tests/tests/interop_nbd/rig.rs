//! Servers on a temporary file, outside programs, and waiting.

use node::nbd::{Client, Export, Exports, FileExport, FixedExports, Server, ServerConfig};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, RwLock, RwLockReadGuard};
use std::time::Duration;

pub(crate) const MIB: u64 = 1 << 20;
pub(crate) const TIMEOUT: Duration = Duration::from_secs(20);

/// Held for reading by every test with a server; for writing by the one that counts this
/// process's threads and descriptors.
pub(crate) static ALONE: RwLock<()> = RwLock::new(());

/// A server over one file or over any exports, on TCP and on a Unix socket.
pub(crate) struct Rig {
    pub(crate) server: Server,
    pub(crate) dir: tempfile::TempDir,
    pub(crate) sock: PathBuf,
    pub(crate) addr: SocketAddr,
    _lock: Option<RwLockReadGuard<'static, ()>>,
}

impl Rig {
    pub(crate) fn file(size: u64) -> Self {
        Self::file_with(size, false, ServerConfig::default())
    }

    pub(crate) fn file_with(size: u64, read_only: bool, config: ServerConfig) -> Self {
        Self::build(config, true, |dir| {
            let path = dir.join("disk.raw");
            std::fs::File::create(&path).unwrap().set_len(size).unwrap();
            FixedExports::one("disk", Arc::new(FileExport::open(&path, read_only).unwrap()))
        })
    }

    pub(crate) fn export(export: Arc<dyn Export>, config: ServerConfig) -> Self {
        Self::build(config, true, |_| FixedExports::one("disk", export))
    }

    pub(crate) fn build<E: Exports>(
        config: ServerConfig,
        lock: bool,
        exports: impl FnOnce(&Path) -> Arc<E>,
    ) -> Self {
        let lock = lock.then(|| ALONE.read().unwrap_or_else(|e| e.into_inner()));
        let dir = tempfile::tempdir().unwrap();
        let sock = dir.path().join("nbd.sock");
        let config = ServerConfig {
            tcp: vec!["127.0.0.1:0".parse().unwrap()],
            unix: vec![sock.clone()],
            ..config
        };
        let exports = exports(dir.path());
        let server = Server::start(&config, exports).unwrap();
        let addr = server.tcp_addrs()[0];
        Self { server, dir, sock, addr, _lock: lock }
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.dir.path().join("disk.raw")
    }

    pub(crate) fn content(&self) -> Vec<u8> {
        std::fs::read(self.path()).unwrap()
    }

    pub(crate) fn unix_uri(&self, name: &str) -> String {
        format!("nbd+unix:///{name}?socket={}", self.sock.display())
    }

    pub(crate) fn tcp_uri(&self, name: &str) -> String {
        format!("nbd://{}/{name}", self.addr)
    }

    pub(crate) fn client(&self) -> Client {
        Client::unix(&self.sock, "disk", TIMEOUT).unwrap()
    }

    /// One counter of the server.
    pub(crate) fn count(&self, name: &str) -> u64 {
        self.server.metrics().each().find(|(n, _)| *n == name).unwrap().1
    }
}

/// Bytes that differ from place to place; none is zero.
pub(crate) fn pattern(seed: u64, len: usize) -> Vec<u8> {
    let mut x = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..len)
        .map(|_| {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            u8::try_from(x >> 56).unwrap() | 1
        })
        .collect()
}

/// Asks again until it is so, for ten seconds.
pub(crate) fn eventually(what: &str, mut so: impl FnMut() -> bool) {
    for _ in 0..1000 {
        if so() {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("never: {what}");
}

/// An outside program, preferring the system's over whatever shadows it. `None`, said loudly, if
/// it is missing; a failure where CI is set.
pub(crate) fn tool(name: &str, package: &str) -> Option<Command> {
    let path = Path::new("/usr/bin").join(name);
    if !path.exists() {
        let lack = format!("NOT TESTED: {name} is missing; apt-get install {package}");
        assert!(std::env::var_os("CI").is_none(), "{lack}");
        eprintln!("\n*** {lack} ***\n");
        return None;
    }
    let mut command = Command::new("timeout");
    let search = std::env::var("PATH").unwrap_or_default();
    command.arg("60").arg(path).env("PATH", format!("/usr/bin:{search}")).stdin(Stdio::null());
    Some(command)
}

/// Runs to the end and returns standard output; fails with everything it said otherwise.
pub(crate) fn run(command: &mut Command) -> String {
    let Output { status, stdout, stderr } = command.output().unwrap();
    let out = String::from_utf8_lossy(&stdout).into_owned();
    let err = String::from_utf8_lossy(&stderr);
    assert!(status.success(), "{command:?}: {status}\n{out}\n{err}");
    out
}
