//! One program: its process, its log, its end.

use std::fs::OpenOptions;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use super::wait::wait_for;

/// A running program whose output goes to a log file. Dropping it kills it.
#[derive(Debug)]
pub struct Process {
    child: Child,
    log: PathBuf,
    from: u64,
}

/// How a program ended, and what it said.
#[derive(Clone, Debug)]
pub struct Ended {
    /// Its exit status.
    pub status: ExitStatus,
    /// Its output since it was started.
    pub log: String,
}

impl Ended {
    /// The exit code; `None` if it was killed.
    #[must_use]
    pub fn code(&self) -> Option<i32> {
        self.status.code()
    }
}

impl Process {
    /// Starts it, its output appended to `log`.
    ///
    /// # Panics
    /// When the program or the log cannot be opened.
    #[must_use]
    pub fn start(command: &mut Command, log: &Path) -> Self {
        let mut out = OpenOptions::new().create(true).append(true).open(log).expect("the log");
        let from = out.seek(SeekFrom::End(0)).expect("the log's end");
        let both = out.try_clone().expect("the log twice");
        let child = command
            .stdin(Stdio::null())
            .stdout(both)
            .stderr(out)
            .spawn()
            .unwrap_or_else(|e| panic!("{command:?}: {e}"));
        Self { child, log: log.to_owned(), from }
    }

    /// Its process number.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it said so far.
    #[must_use]
    pub fn log(&self) -> String {
        let mut text = Vec::new();
        if let Ok(mut f) = std::fs::File::open(&self.log) {
            let _ = f.seek(SeekFrom::Start(self.from));
            let _ = f.read_to_end(&mut text);
        }
        String::from_utf8_lossy(&text).into_owned()
    }

    /// How it ended, if it did.
    ///
    /// # Panics
    /// When the system does not know the process.
    pub fn ended(&mut self) -> Option<Ended> {
        let status = self.child.try_wait().expect("the state of a process")?;
        Some(Ended { status, log: self.log() })
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        if let Some(pid) = i32::try_from(self.pid()).ok().and_then(Pid::from_raw) {
            let _ = kill_process(pid, signal);
        }
    }

    /// SIGKILL, and waits for the end.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// SIGTERM, and waits for an orderly end.
    ///
    /// # Panics
    /// When it has not ended within `deadline`, or not with status 0.
    pub fn terminate(&mut self, deadline: Duration) -> Ended {
        self.signal(Signal::TERM);
        let end = self.wait(deadline);
        assert!(end.status.success(), "ended with {} after SIGTERM:\n{}", end.status, end.log);
        end
    }

    /// Waits for it to end by itself.
    ///
    /// # Panics
    /// When it has not ended within `deadline`.
    pub fn wait(&mut self, deadline: Duration) -> Ended {
        let what = format!("the end of process {}", self.pid());
        wait_for(&what, deadline, || self.ended().ok_or("still running"))
    }

    /// The signal it was killed by.
    #[must_use]
    pub fn killed_by(end: &Ended) -> Option<i32> {
        end.status.signal()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}
