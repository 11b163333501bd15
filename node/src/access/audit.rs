//! The record of changes: who, from where, what, with which result. One line of JSON each.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use parking_lot::Mutex;
use serde::Serialize;

use super::{Caller, Who};

/// File name, in the data folder.
pub(super) const FILE: &str = "audit.log";
/// A record longer than this begins a new file; the one before is kept as `audit.log.1`.
const ROTATE: u64 = 16 << 20;

/// One change.
#[derive(Serialize)]
struct Line<'a> {
    /// When it was answered, UTC.
    at: String,
    who: &'a str,
    from: &'a str,
    what: &'a str,
    request: &'a str,
    /// `done`, or why not.
    result: &'a str,
}

#[derive(Debug)]
struct Open {
    file: Option<File>,
    len: u64,
}

/// Writes the record.
#[derive(Debug)]
pub struct Audit {
    path: PathBuf,
    open: Mutex<Open>,
}

impl Audit {
    /// In a data folder. The file is opened with the first record.
    #[must_use]
    pub fn new(folder: &Path) -> Self {
        Self { path: folder.join(FILE), open: Mutex::new(Open { file: None, len: 0 }) }
    }

    /// Adds a record; a failure is logged, never a reason not to answer.
    pub fn record(
        &self,
        at_us: u64,
        who: &Who,
        caller: &Caller,
        what: &str,
        request: &str,
        result: &str,
    ) {
        let at = i64::try_from(at_us)
            .ok()
            .and_then(|us| jiff::Timestamp::from_microsecond(us).ok())
            .map_or_else(String::new, |t| t.to_string());
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
