//! Nodes of a topology as processes of this machine: for `rcpctl up`, the demo and trials by hand.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::Context;
use config::Topology;

use crate::api::NodeStatus;
use crate::cli::Client;

/// One node as a process.
#[derive(Debug)]
pub struct NodeProcess {
    /// Its name.
    pub name: String,
    /// Its data folder.
    pub folder: PathBuf,
    /// Its shared RCP and HTTP address.
    pub listen: String,
    /// Its NBD address, if it has one beside the Unix socket.
    pub nbd: Option<String>,
    child: Option<Child>,
}

/// All nodes of a topology on this machine.
#[derive(Debug)]
pub struct Fleet {
    topology: PathBuf,
    /// The nodes have certificates: the shared port speaks HTTPS.
    pub secured: bool,
    /// The nodes, by name.
    pub nodes: Vec<NodeProcess>,
}

impl Fleet {
    /// Reads a topology; starts nothing.
    ///
    /// # Errors
    /// The file cannot be read or compiled.
    pub fn new(topology: &Path) -> anyhow::Result<Self> {
        let t: Topology = crate::daemon::load_topology(topology)?;
        let topology = std::path::absolute(topology)?;
        let base = topology.parent().map(Path::to_path_buf).unwrap_or_default();
        let nodes = t
            .nodes()
            .map(|n| NodeProcess {
                name: n.name.to_string(),
                folder: clean(&base.join(&n.data)),
                listen: n.listen.to_string(),
                nbd: n.nbd.as_ref().map(ToString::to_string),
                child: None,
            })
            .collect();
        Ok(Self { topology, secured: t.pki().is_some(), nodes })
    }

    /// Position of a node in [`Fleet::nodes`].
    #[must_use]
    pub fn find(&self, name: &str) -> Option<usize> {
        self.nodes.iter().position(|n| n.name == name)
    }

    /// Starts a node; its log goes to `rcpd.log` in its data folder.
    ///
    /// # Errors
    /// The process cannot be started.
    pub fn start(&mut self, i: usize) -> anyhow::Result<()> {
        let topology = self.topology.clone();
        let Some(n) = self.nodes.get_mut(i) else { return Ok(()) };
        std::fs::create_dir_all(&n.folder)
            .with_context(|| format!("the data folder {}", n.folder.display()))?;
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(n.folder.join("rcpd.log"))
            .with_context(|| format!("the log of {}", n.name))?;
        let mut command = daemon_command()?;
        command
            .arg("--topology")
            .arg(&topology)
            .arg("--node")
            .arg(&n.name)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        n.child = Some(command.spawn().with_context(|| format!("starting {}", n.name))?);
        Ok(())
    }

    /// Starts every node.
    ///
    /// # Errors
    /// As [`Fleet::start`].
    pub fn start_all(&mut self) -> anyhow::Result<()> {
        (0..self.nodes.len()).try_for_each(|i| self.start(i))
    }

    /// Leaves the processes running when this value is dropped.
    pub fn leave_running(&mut self) {
        for n in &mut self.nodes {
            n.child = None;
        }
    }

    /// Tells every node to stop in order (SIGTERM), and waits.
    pub fn stop_all(&mut self, deadline: Duration) {
        for n in &mut self.nodes {
            if let Some(c) = &n.child
                && let Some(pid) =
                    i32::try_from(c.id()).ok().and_then(rustix::process::Pid::from_raw)
            {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
            }
        }
        let end = crate::clock::mono().after(deadline);
        for n in &mut self.nodes {
            let Some(mut c) = n.child.take() else { continue };
            while matches!(c.try_wait(), Ok(None)) && crate::clock::mono() < end {
                std::thread::sleep(Duration::from_millis(20));
            }
            let _ = c.kill();
            let _ = c.wait();
        }
    }
}

impl NodeProcess {
    /// Ends the process at once, as a power switch would.
    pub fn kill(&mut self) {
        if let Some(mut c) = self.child.take() {
            let _ = c.kill();
            let _ = c.wait();
        }
    }

    /// Whether the process was started here and has not ended.
    pub fn is_running(&mut self) -> bool {
        self.child.as_mut().is_some_and(|c| matches!(c.try_wait(), Ok(None)))
    }

    /// How the process ended, if it did: with the end of its log.
    pub fn post_mortem(&mut self) -> Option<String> {
        let status = self.child.as_mut()?.try_wait().ok()??;
        let log = std::fs::read_to_string(self.folder.join("rcpd.log")).unwrap_or_default();
        let tail: Vec<_> = log.lines().rev().take(5).collect();
        let tail: Vec<_> = tail.into_iter().rev().collect();
        Some(format!("{} ended ({status}):\n  {}", self.name, tail.join("\n  ")))
    }

    /// Speaks with the node.
    #[must_use]
    pub fn client(&self) -> Client {
        Client::new(self.folder.join("rcpd.sock"))
    }

    /// Its status, if it answers.
    pub async fn status(&self) -> Option<NodeStatus> {
        self.client().status().await.ok()
    }

    /// Its NBD socket.
    #[must_use]
    pub fn nbd_socket(&self) -> PathBuf {
        self.folder.join("nbd.sock")
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        for n in &mut self.nodes {
            n.kill();
        }
    }
}

/// `rcpd` beside this program; or this program itself, which can be a daemon too, so that one
/// binary is enough.
fn daemon_command() -> anyhow::Result<Command> {
    let me = std::env::current_exe().context("finding this program's own file")?;
    let beside = me.with_file_name("rcpd");
    if beside.is_file() && same_age(&me, &beside) {
        return Ok(Command::new(beside));
    }
    let mut c = Command::new(me);
    c.arg("daemon");
    Ok(c)
}

/// A daemon that is older than this program may be of another version.
fn same_age(me: &Path, other: &Path) -> bool {
    let age = |p: &Path| std::fs::metadata(p).and_then(|m| m.modified()).ok();
    matches!((age(me), age(other)), (Some(a), Some(b)) if b >= a)
}

/// Without `.` components, so that printed paths read well.
fn clean(p: &Path) -> PathBuf {
    p.components().filter(|c| !matches!(c, std::path::Component::CurDir)).collect()
}
