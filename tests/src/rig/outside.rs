//! Programs that are not ours.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// Where distributions put programs. Before `PATH`, since a pyenv or the like may shadow it.
const FOLDERS: [&str; 4] = ["/usr/bin", "/usr/sbin", "/sbin", "/bin"];

/// Says loudly what cannot be tested and how to mend it; where `CI` is set, fails.
///
/// # Panics
/// Where `CI` is set.
pub fn lacking(what: &str, remedy: &str) {
    let text = format!("NOT TESTED: {what}; {remedy}");
    assert!(std::env::var_os("CI").is_none(), "{text}");
    eprintln!("\n*** {text} ***\n");
}

/// An outside program with a time limit; `None`, said loudly, if it is missing.
#[must_use]
pub fn tool(name: &str, package: &str) -> Option<Command> {
    let found: Option<PathBuf> =
        FOLDERS.iter().map(|f| Path::new(f).join(name)).find(|p| p.exists());
    let Some(path) = found else {
        lacking(&format!("{name} is missing"), &format!("apt-get install {package}"));
        return None;
    };
    let mut command = Command::new("timeout");
    let search = std::env::var("PATH").unwrap_or_default();
    command.args(["-k", "5", "90"]).arg(path);
    command.env("PATH", format!("{}:{search}", FOLDERS.join(":"))).stdin(Stdio::null());
    Some(command)
}

/// Runs to the end and returns standard output.
///
/// # Panics
/// With everything it said, if it fails.
#[track_caller]
pub fn run(command: &mut Command) -> String {
    match said(command) {
        Ok(out) => out,
        Err(e) => panic!("{e}"),
    }
}

/// Runs to the end and returns standard output, or everything it said if it fails.
///
/// # Errors
/// The command, its exit status and what it said.
pub fn said(command: &mut Command) -> Result<String, String> {
    let Output { status, stdout, stderr } =
        command.output().map_err(|e| format!("{command:?}: {e}"))?;
    let out = String::from_utf8_lossy(&stdout).into_owned();
    let err = String::from_utf8_lossy(&stderr);
    if status.success() { Ok(out) } else { Err(format!("{command:?}: {status}\n{out}\n{err}")) }
}
