//! Processes that end with us, and what they cost.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context;

/// Seconds on the clock that never goes back.
pub(super) fn now() -> f64 {
    node::clock::mono().0 as f64 / 1e6
}

/// A process of ours that nobody waits for any more must not stay behind.
pub(super) fn die_with_parent(part: bool) {
    if part {
        let _ =
            rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL));
    }
}

/// Processes that are running now.
static RUNNING: Mutex<BTreeSet<u32>> = Mutex::new(BTreeSet::new());

fn running() -> MutexGuard<'static, BTreeSet<u32>> {
    RUNNING.lock().unwrap_or_else(PoisonError::into_inner)
}

fn kill(pid: u32) {
    if let Some(pid) = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap_or(0)) {
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
    }
}

/// When we are told to end, everything that we started ends too, and the data goes.
pub(super) fn end_in_order(dir: &Path) -> anyhow::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let dir = dir.to_owned();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::spawn(move || {
        runtime.block_on(async {
            let (Ok(mut int), Ok(mut term)) =
                (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
            else {
                return;
            };
            tokio::select! {
                _ = int.recv() => {}
                _ = term.recv() => {}
            }
            running().iter().copied().for_each(kill);
            let _ = std::fs::remove_dir_all(&dir);
            std::process::exit(130);
        });
    });
    Ok(())
}

/// Standard output of a small command.
pub(super) fn output(program: &str, args: &[&str]) -> String {
    Command::new(program)
        .args(args)
        .output()
        .map(|o| String::from_utf8_lossy(&o.stdout).trim().to_owned())
        .unwrap_or_default()
}

/// This executable with one of its hidden commands.
pub(super) fn ourselves() -> anyhow::Result<Command> {
    Ok(Command::new(std::env::current_exe()?))
}

/// A program that runs on one core only.
pub(super) fn on_core(core: usize, program: &Path) -> Command {
    let mut c = Command::new("taskset");
    c.args(["-c", &core.to_string()]).arg(program);
    c
}

/// As [`ourselves`], on one core if one is named.
pub(super) fn ourselves_on(core: Option<usize>) -> anyhow::Result<Command> {
    match core {
        Some(core) => Ok(on_core(core, &std::env::current_exe()?)),
        None => ourselves(),
    }
}

/// As `deploy/systemd` has it for nodes, and so for everybody: how fast glibc copies must not depend
/// on where two buffers happen to lie.
const TUNABLES: (&str, &str) = ("GLIBC_TUNABLES", "glibc.cpu.x86_rep_movsb_threshold=1000000000");

/// A running process; killed when dropped.
pub(super) struct Process {
    name: String,
    child: Child,
    /// Lines of its standard output, if it is listened to.
    lines: Option<Receiver<String>>,
    pub(super) stdin: Option<ChildStdin>,
}

impl Process {
    /// Starts it; with `talk` its standard input and output are ours. What it says on standard
    /// error goes to `log`.
    pub(super) fn start(command: &mut Command, log: &Path, talk: bool) -> anyhow::Result<Self> {
        let name = Path::new(command.get_program())
            .file_name()
            .unwrap_or(OsStr::new("?"))
            .to_string_lossy()
            .into_owned();
        let log_file = std::fs::File::options().create(true).append(true).open(log)?;
        command.stderr(log_file.try_clone()?).env(TUNABLES.0, TUNABLES.1);
        if talk {
            command.stdin(Stdio::piped()).stdout(Stdio::piped());
        } else {
            command.stdin(Stdio::null()).stdout(log_file);
        }
        let mut child = command.spawn().with_context(|| format!("starting {name}"))?;
        running().insert(child.id());
        let stdin = child.stdin.take();
        let lines = child.stdout.take().map(|out| {
            let (send, lines) = sync_channel(1024);
            std::thread::spawn(move || {
                for line in BufReader::new(out).lines().map_while(Result::ok) {
                    if send.send(line).is_err() {
                        return;
                    }
                }
            });
            lines
        });
        Ok(Self { name, child, lines, stdin })
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The next line it says.
    pub(super) fn line(&self, within: Duration) -> anyhow::Result<String> {
        let lines = self.lines.as_ref().context("nobody listens to this process")?;
        lines.recv_timeout(within).with_context(|| format!("{} says nothing", self.name))
    }

    /// Waits for its end.
    pub(super) fn wait(mut self, within: Duration) -> anyhow::Result<()> {
        let end = now() + within.as_secs_f64();
        loop {
            if let Some(status) = self.child.try_wait()? {
                anyhow::ensure!(status.success(), "{}: {status}", self.name);
                return Ok(());
            }
            anyhow::ensure!(now() < end, "{} takes longer than {within:?}", self.name);
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Whether it has ended, with its status.
    pub(super) fn ended(&mut self) -> Option<String> {
        let status = self.child.try_wait().ok()??;
        Some(format!("{} has ended: {status}", self.name))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        running().remove(&self.child.id());
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs a command to its end and gives its standard output.
pub(super) fn run(command: &mut Command, within: Duration) -> anyhow::Result<String> {
    let name = format!("{command:?}");
    let child = command
        .env(TUNABLES.0, TUNABLES.1)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| name.clone())?;
    let pid = child.id();
    running().insert(pid);
    let (done, ended) = sync_channel::<()>(1);
    let guard = std::thread::spawn(move || {
        if ended.recv_timeout(within) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
            kill(pid);
        }
    });
    let out = child.wait_with_output();
    let _ = done.send(());
    let _ = guard.join();
    running().remove(&pid);
    let out = out?;
    anyhow::ensure!(
        out.status.success(),
        "{name}: {}: {}",
        out.status,
        String::from_utf8_lossy(&out.stderr)
    );
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}

/// Ticks in which the kernel counts processor time.
const TICK: f64 = 100.0;

/// The sum of some fields of a process's `stat`, in seconds; fields are counted after the name.
fn stat(pid: &str, fields: &[usize]) -> f64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name, in parentheses, may contain anything.
    let rest = text.rsplit_once(')').map_or("", |(_, r)| r);
    let f: Vec<&str> = rest.split_whitespace().collect();
    fields.iter().filter_map(|i| f.get(*i)?.parse::<f64>().ok()).sum::<f64>() / TICK
}

/// Processor seconds of a running process: utime and stime of proc(5).
pub(super) fn cpu_of(pid: u32) -> f64 {
    stat(&pid.to_string(), &[11, 12])
}

/// Processor seconds of running processes, and of those that we waited for (cutime, cstime).
pub(super) fn cpu_seconds(pids: &[u32]) -> f64 {
    pids.iter().map(|p| cpu_of(*p)).sum::<f64>() + stat("self", &[13, 14])
}

/// Bytes a process has read by system calls from files and pipes.
pub(super) fn bytes_read(pid: u32) -> f64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/io")).unwrap_or_default();
    text.lines()
        .find_map(|l| l.strip_prefix("rchar: "))
        .and_then(|n| n.trim().parse().ok())
        .unwrap_or(0.0)
}

/// Writes out what others left dirty, so that nobody pays for somebody else.
pub(super) fn settle() {
    rustix::fs::sync();
}

/// As [`settle`], and lets memory that was just freed go back where it came from: in a virtual
/// machine whose host takes free pages back, they are fast only for whoever comes right behind.
pub(super) fn cool_down() {
    settle();
    std::thread::sleep(Duration::from_secs(4));
}
