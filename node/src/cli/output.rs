//! Standard output, standard error and the exit status.

use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;

use serde::Serialize;

use super::client::ClientError;

/// Why a command ends without having done what it should.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failed {
    /// 1: refused or failed; 2: wrong usage; 0: whoever reads the output has had enough.
    pub code: u8,
    /// For standard error; may be empty if everything is said already.
    pub text: String,
}

impl Failed {
    /// Refused or failed.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self { code: 1, text: text.into() }
    }

    /// Wrong usage.
    #[must_use]
    pub fn usage(text: impl Into<String>) -> Self {
        Self { code: 2, text: text.into() }
    }
}

impl From<ClientError> for Failed {
    fn from(error: ClientError) -> Self {
        Self::new(error.to_string())
    }
}

impl From<io::Error> for Failed {
    /// A reader that went away (`| head`) is no failure.
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            Self { code: 0, text: String::new() }
        } else {
            Self::new(format!("cannot write the output: {error}"))
        }
    }
}

/// Writes to standard output.
///
/// # Errors
/// When it cannot be written.
pub fn print(text: &str) -> Result<(), Failed> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()?;
    Ok(())
}

/// Writes a value as indented JSON to standard output.
///
/// # Errors
/// When it cannot be written.
pub fn print_json<T: Serialize>(value: &T) -> Result<(), Failed> {
    let text = serde_json::to_string_pretty(value)
        .map_err(|e| Failed::new(format!("cannot write JSON: {e}")))?;
    print(&(text + "\n"))
}

/// Prints the value as JSON, or the sentence.
pub(super) fn tell<T: Serialize>(json: bool, value: &T, sentence: &str) -> Result<(), Failed> {
    if json { print_json(value) } else { print(&format!("{sentence}\n")) }
}

/// Whether standard output is a terminal that may be coloured.
pub(super) fn colour() -> bool {
    io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty())
}

/// Runs a command to its exit status.
pub(super) fn finish<F>(program: &str, command: F) -> ExitCode
where
    F: Future<Output = Result<(), Failed>>,
{
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => {
            eprintln!("{program}: cannot start: {e}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failed) => {
            if !failed.text.is_empty() {
                // Standard error may be closed; there is nobody left to tell.
                let _ = writeln!(io::stderr(), "{program}: {}", failed.text.trim_end());
            }
            ExitCode::from(failed.code)
        }
    }
}
