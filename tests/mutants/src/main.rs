//! Puts every mutant of the chosen functions into one copy of the workspace, and has the simulation
//! judge them one by one; `tests/docs/simulator.md` says how and what came of it.
//!
//! `plant COPY` makes the copy and builds it, `judge COPY` runs it, `table COPY` prints what came of it.

mod campaign;
mod chosen;
mod plant;
mod sites;
mod table;

use std::path::{Path, PathBuf};
use std::process::exit;

/// What goes wrong, in words.
type Res<T> = Result<T, String>;

/// The workspace's folder.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn read(path: &Path) -> Res<String> {
    std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))
}

fn write(path: &Path, text: &str) -> Res<()> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    }
    std::fs::write(path, text).map_err(|e| format!("{}: {e}", path.display()))
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let done = match args[..] {
        ["plant", copy] => plant::plant(Path::new(copy)),
        ["judge", copy] => campaign::judge(Path::new(copy), ""),
        ["judge", copy, only] => campaign::judge(Path::new(copy), only),
        ["table", copy] => table::table(Path::new(copy), ""),
        ["table", copy, only] => table::table(Path::new(copy), only),
        _ => Err("say `plant COPY`, `judge COPY [WORDS or K/N]` or `table COPY [WORDS or K/N]`"
            .to_owned()),
    };
    if let Err(why) = done {
        eprintln!("{why}");
        exit(1);
    }
}
