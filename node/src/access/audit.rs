//! The record of changes: who, from where, what, with which result. One line of JSON each.
//!
//! What was refused stands in a file of its own: a stranger who asks again and again pushes other
//! refusals out of it, never a change.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use parking_lot::Mutex;
use serde::Serialize;

use super::{Caller, Who};

/// File name of what was carried out, or tried, by those who may, in the data folder.
const CHANGES: &str = "audit.log";
/// File name of what was refused to those who may not.
const REFUSALS: &str = "refused.log";
/// A file longer than this is kept as `….1`, in place of the one before, and begins anew.
const ROTATE: u64 = 16 << 20;

/// One change.
#[derive(Serialize)]
struct Line<'a> {
    /// When it was answered, UTC.
    at: String,
    who: &'a str,
    from: &'a str,
    what: &'a str,
    /// As it was sent.
    request: serde_json::Value,
    /// `done`, or why not.
    result: &'a str,
}

#[derive(Debug, Default)]
struct Open {
    file: Option<File>,
    len: u64,
}

/// One file, opened with its first line.
#[derive(Debug)]
struct Lines {
    path: PathBuf,
    open: Mutex<Open>,
}

/// Writes the record.
#[derive(Debug)]
pub struct Audit {
    changes: Lines,
    refusals: Lines,
}

impl Audit {
    /// In a data folder.
    #[must_use]
    pub fn new(folder: &Path) -> Self {
        let lines = |name| Lines { path: folder.join(name), open: Mutex::default() };
        Self { changes: lines(CHANGES), refusals: lines(REFUSALS) }
    }

    /// Adds a change; a failure is logged, never a reason not to answer.
    pub fn record(
        &self,
        at_us: u64,
        who: &Who,
        caller: &Caller,
        what: &str,
        request: &str,
        result: &str,
    ) {
        self.changes.add(at_us, who, caller, what, request, result);
    }

    /// Adds what somebody wanted who may not, and why not.
    pub fn refused(&self, at_us: u64, caller: &Caller, what: &str, why: &str) {
        self.refusals.add(at_us, &Who("nobody known".to_owned()), caller, what, "", why);
    }
}

impl Lines {
    fn add(&self, at_us: u64, who: &Who, caller: &Caller, what: &str, request: &str, result: &str) {
        let at = i64::try_from(at_us)
            .ok()
            .and_then(|us| jiff::Timestamp::from_microsecond(us).ok())
            .map_or_else(String::new, |t| t.to_string());
        let request =
            serde_json::from_str(request).unwrap_or_else(|_| serde_json::Value::from(request));
        let line = Line { at, who: &who.0, from: &caller.from, what, request, result };
        let written =
            serde_json::to_vec(&line).map_err(std::io::Error::other).and_then(|mut text| {
                text.push(b'\n');
                self.append(&text)
            });
        if let Err(e) = written {
            tracing::error!("{}: {e}: {what} by {} is not on record", self.path.display(), who.0);
        }
    }

    fn append(&self, text: &[u8]) -> std::io::Result<()> {
        let mut open = self.open.lock();
        if open.file.is_none() || open.len > ROTATE {
            if open.len > ROTATE {
                let mut old = self.path.as_os_str().to_owned();
                old.push(".1");
                std::fs::rename(&self.path, old)?;
            }
            let file = OpenOptions::new().create(true).append(true).mode(0o600).open(&self.path)?;
            open.len = file.metadata()?.len();
            open.file = Some(file);
        }
        let Some(file) = &mut open.file else { return Ok(()) };
        file.write_all(text)?;
        open.len += text.len() as u64;
        Ok(())
    }
}
