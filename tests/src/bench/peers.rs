//! The programs that are measured beside ours.

use std::path::PathBuf;

use super::Options;
use super::report::Report;

/// Where a program is; if it is nowhere, the report says so with the command that installs it.
pub(super) fn find(
    program: &str,
    package: &str,
    o: &Options,
    report: &mut Report,
) -> Option<PathBuf> {
    if o.no_peers && program != "fio" {
        return None;
    }
    // The system's own before anything that shadows it.
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = [PathBuf::from("/usr/bin"), PathBuf::from("/usr/sbin")];
    let found = folders
        .into_iter()
        .chain(std::env::split_paths(&path))
        .map(|d| d.join(program))
        .find(|p| p.is_file());
    if found.is_none() {
        report.lacks(format!("{program} is not installed: sudo apt-get install {package}"));
    }
    found
}
