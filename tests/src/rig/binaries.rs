//! The programs under test, as cargo builds them.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

static FOLDER: OnceLock<PathBuf> = OnceLock::new();
static EXAMPLES: OnceLock<PathBuf> = OnceLock::new();

/// A program of this workspace (`rcpd`, `rcpctl`, `rcproute`), built from the present sources.
///
/// Cargo gives a test the programs of its own package only, so it is asked for those of `node`:
/// a fraction of a second when they are fresh.
///
/// # Panics
/// When they cannot be built.
#[must_use]
pub fn program(name: &str) -> PathBuf {
    FOLDER.get_or_init(build).join(name)
}

/// An example of `rcp`, built from the present sources.
///
/// # Panics
/// When it cannot be built.
#[must_use]
pub fn example(name: &str) -> PathBuf {
    EXAMPLES.get_or_init(|| cargo(&["--package", "rcp", "--examples"])).join("examples").join(name)
}

fn build() -> PathBuf {
    let folder = cargo(&["--package", "node", "--bins"]);
    assert!(folder.join("rcpd").exists(), "the programs are not where they should be");
    folder
}

/// Builds something, and says in which folder it is.
fn cargo(what: &[&str]) -> PathBuf {
    // TARGET/PROFILE/deps/this-test
    let own = std::env::current_exe().expect("the path of this test");
    let folder = own.ancestors().nth(2).expect("the profile's folder").to_path_buf();
    let target = folder.parent().expect("the target folder");
    let profile = match folder.file_name().and_then(|n| n.to_str()) {
        None | Some("debug") => "dev".to_owned(),
        Some(other) => other.to_owned(),
    };
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace");
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(workspace).args(["build", "--quiet"]).args(what);
    cargo.args(["--profile", &profile]).arg("--target-dir").arg(target);
    let built = cargo.status();
    let built = built.is_ok_and(|s| s.success());
    assert!(built, "the programs cannot be built: {cargo:?}");
    folder
}
