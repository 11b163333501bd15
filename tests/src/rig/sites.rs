//! Two places with a link between them that can be cut: network namespaces of the test's own. Only
//! for root; taken down when dropped.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use super::outside::{lacking, said};

/// Numbers of those that this process made.
static NEXT: AtomicU32 = AtomicU32::new(0);
/// What the names of all begin with; then the process, then its number.
const PREFIX: &str = "rcptest-";
const FOLDERS: [&str; 4] = ["/usr/sbin", "/sbin", "/usr/bin", "/bin"];

/// West and east. A cut is not told to those who talk: what they send is lost.
#[derive(Debug)]
pub struct Sites {
    names: [String; 2],
}

fn program() -> Option<PathBuf> {
    FOLDERS.iter().map(|f| Path::new(f).join("ip")).find(|p| p.exists())
}

fn ip(words: &str) -> Result<String, String> {
    let program = program().ok_or("there is no program ip")?;
    said(Command::new(program).args(words.split(' ')))
}

impl Sites {
    /// Makes them; `None`, said loudly, where that is not possible.
    ///
    /// # Panics
    /// When the system refuses what root may do.
    #[must_use]
    pub fn make() -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            lacking("network namespaces need root", "run the tests as root, or in a container");
            return None;
        }
        if program().is_none() {
            lacking("ip is missing", "apt-get install iproute2");
            return None;
        }
        sweep();
        let stem =
            format!("{PREFIX}{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let names = ["west", "east"].map(|n| format!("{stem}-{n}"));
        if let Err(e) = ip(&format!("netns add {}", names[0])) {
            lacking(&format!("no network namespace ({e})"), "run where they can be made");
            return None;
        }
        let sites = Self { names };
        let [west, east] = &sites.names;
        let steps = [
            format!("netns add {east}"),
            format!("link add far netns {west} type veth peer name far netns {east}"),
            format!("-n {west} link set lo up"),
            format!("-n {east} link set lo up"),
            format!("-n {west} addr add {}/24 dev far", Self::address(0)),
            format!("-n {east} addr add {}/24 dev far", Self::address(1)),
        ];
        for words in &steps {
            ip(words).unwrap_or_else(|e| panic!("{e}"));
        }
        sites.heal();
        Some(sites)
    }

    /// The name of a namespace: 0 is west, 1 is east.
    #[must_use]
    pub fn name(&self, site: usize) -> &str {
        &self.names[site]
    }

    /// The address of all nodes of a site.
    #[must_use]
    pub fn address(site: usize) -> String {
        format!("10.77.0.{}", site + 1)
    }

    /// A program at a site.
    #[must_use]
    pub fn command(name: &str, of: &Path) -> Command {
        let mut c = Command::new(program().unwrap_or_else(|| "ip".into()));
        c.args(["netns", "exec", name]).arg(of);
        c
    }

    fn link(&self, how: &str) {
        for name in &self.names {
            ip(&format!("-n {name} link set far {how}")).unwrap_or_else(|e| panic!("{e}"));
        }
    }

    /// Nothing gets from one to the other any more.
    ///
    /// # Panics
    /// When the system refuses.
    pub fn cut(&self) {
        self.link("down");
    }

    /// Everything does again.
    ///
    /// # Panics
    /// When the system refuses.
    pub fn heal(&self) {
        self.link("up");
    }
}

impl Drop for Sites {
    fn drop(&mut self) {
        for name in &self.names {
            let _ = ip(&format!("netns del {name}"));
        }
    }
}

/// Those of a test that was killed are taken down by the next.
fn sweep() {
    let all = ip("netns list").unwrap_or_default();
    for name in all.lines().filter_map(|l| l.split(' ').next()) {
        let pid = name.strip_prefix(PREFIX).and_then(|r| r.split('-').next());
        if pid.is_some_and(|p| !Path::new("/proc").join(p).exists()) {
            let _ = ip(&format!("netns del {name}"));
        }
    }
}
