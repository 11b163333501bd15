//! Standard output, standard error and the exit status.

use std::ffi::OsString;
use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};

use serde::Serialize;

use super::client::ClientError;
use crate::api::ApiErrorKind;

/// The exit status of a command that was interrupted, as a shell says it of one that SIGINT ended.
const INTERRUPTED: u8 = 130;

/// Where somebody is who interrupted a command that changes the tree.
pub(super) const AGAIN: &str = "what was done stays done; writers that wait for a handing over that was not \
    reached are let in again within 30 s. `rcpctl status` shows how things are, and the same command \
    goes on from there";

/// A document was written to standard output: there is one in each answer.
static ANSWERED: AtomicBool = AtomicBool::new(false);

/// Why a command ends without having done what it should.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failed {
    /// 1: refused or failed; 2: wrong usage; 130: interrupted; 0: whoever reads the output has had
    /// enough.
    pub code: u8,
    /// For programs.
    pub kind: Kind,
    /// For standard error; may be empty if everything is said already.
    pub text: String,
}

/// Kinds of failures, in words that programs can rely on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// The command refused, or failed, by itself.
    Failed,
    /// Wrong usage.
    Usage,
    /// Nobody listens there.
    NotRunning,
    /// The connection with a node broke, or its answer is not what was expected.
    Broken,
    /// The operator ended it.
    Interrupted,
    /// A node refused.
    #[serde(untagged)]
    Refused(ApiErrorKind),
}

/// What `--json` prints instead of an answer.
#[derive(Serialize)]
struct Refusal<'a> {
    error: Why<'a>,
}

#[derive(Serialize)]
struct Why<'a> {
    kind: Kind,
    text: &'a str,
    exit_status: u8,
}

impl Failed {
    /// Refused or failed.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self { code: 1, kind: Kind::Failed, text: text.into() }
    }

    /// Wrong usage.
    #[must_use]
    pub fn usage(text: impl Into<String>) -> Self {
        Self { code: 2, kind: Kind::Usage, text: text.into() }
    }

    /// The same failure, in more words.
    #[must_use]
    pub(super) fn saying(self, text: impl Into<String>) -> Self {
        Self { text: text.into(), ..self }
    }

    fn json(&self) -> String {
        let Self { code, kind, text } = self;
        let error = Why { kind: *kind, text: text.trim_end(), exit_status: *code };
        serde_json::to_string_pretty(&Refusal { error }).unwrap_or_default() + "\n"
    }
}

impl From<ClientError> for Failed {
    fn from(error: ClientError) -> Self {
        let kind = match &error {
            ClientError::NotRunning(_) => Kind::NotRunning,
            ClientError::Refused(e) => Kind::Refused(e.kind),
            ClientError::Broken(_) => Kind::Broken,
        };
        Self { kind, ..Self::new(error.to_string()) }
    }
}

impl From<io::Error> for Failed {
    /// A reader that went away (`| head`) is no failure.
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            Self { code: 0, ..Self::new("") }
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
    ANSWERED.store(true, Ordering::Relaxed);
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

/// Whether these words ask for JSON. They need not make sense otherwise.
pub(super) fn asks_for_json(words: impl IntoIterator<Item = OsString>) -> bool {
    words.into_iter().take_while(|w| w != "--").any(|w| w == "--json")
}

/// Words that are no command: with 2 and what is wrong, or with 0 and the help that was asked for.
pub(super) fn not_understood(error: &clap::Error, json: bool) -> ExitCode {
    let code = u8::try_from(error.exit_code()).unwrap_or(2);
    if json && error.use_stderr() {
        refused(&Failed { code, ..Failed::usage(error.render().to_string()) });
    }
    // Standard error may be closed; there is nobody left to tell.
    let _ = error.print();
    ExitCode::from(code)
}

/// A document that says why there is no answer, unless there was one.
fn refused(failed: &Failed) {
    if failed.code > 0 && !ANSWERED.load(Ordering::Relaxed) {
        // Nobody reads it: the exit status says the rest.
        let _ = print(&failed.json());
    }
}

/// Runs a command that changes something in steps; interrupted, it says where that leaves the operator.
pub(super) fn unless_interrupted<'a, F>(
    then: &'a str,
    command: F,
) -> impl Future<Output = Result<(), Failed>> + use<'a, F>
where
    F: Future<Output = Result<(), Failed>>,
{
    // These are long: not on the stack.
    let command = Box::pin(command);
    async move {
        tokio::select! {
            done = command => done,
            Ok(()) = tokio::signal::ctrl_c() => {
                let text = format!("interrupted: {then}");
                Err(Failed { code: INTERRUPTED, kind: Kind::Interrupted, text })
            }
        }
    }
}

/// Runs a command to its exit status.
pub(super) fn finish<F>(program: &str, json: bool, command: F) -> ExitCode
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
            if json {
                refused(&failed);
            }
            if !failed.text.is_empty() {
                // Standard error may be closed; there is nobody left to tell.
                let _ = writeln!(io::stderr(), "{program}: {}", failed.text.trim_end());
            }
            ExitCode::from(failed.code)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::ApiError;

    #[test]
    fn a_refusal_is_a_document_with_a_word_for_programs() {
        let node = ApiError::new(ApiErrorKind::Declined, "no");
        for (failed, kind, code) in [
            (Failed::new("a"), "failed", 1),
            (Failed::usage("a"), "usage", 2),
            (ClientError::NotRunning("a".into()).into(), "not_running", 1),
            (ClientError::Broken("a".into()).into(), "broken", 1),
            (ClientError::Refused(node).into(), "declined", 1),
        ] {
            let found: serde_json::Value = serde_json::from_str(&failed.json()).expect("JSON");
            let found = &found["error"];
            assert_eq!((&found["kind"], &found["exit_status"]), (&kind.into(), &code.into()));
            assert_eq!(found["text"], failed.text.as_str());
        }
    }

    #[test]
    fn json_is_asked_for_before_the_words_end() {
        let asks = |words: &str| asks_for_json(words.split(' ').map(OsString::from));
        assert!(asks("failovre vol --json"));
        assert!(!asks("failover vol --plan") && !asks("failover -- --json"));
    }
}
