//! The tree as text, for tests that read it: files, their code without tests and comments, and the
//! functions in it. Knows Rust only as `rustfmt` writes it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// One Rust file.
#[derive(Debug)]
pub(crate) struct Source {
    /// From the root, with slashes.
    pub(crate) path: String,
    /// All of it.
    pub(crate) text: String,
    /// Only compiled for tests.
    test: bool,
}

/// The workspace's folder.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn walk(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).expect("a folder") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
        if name.starts_with("target") || (name.starts_with('.') && name != ".ci") {
            continue;
        }
        if path.is_dir() { walk(&path, found) } else { found.push(path) }
    }
}

/// Every file of the tree that is text, with its path from the root.
pub(crate) fn text_files() -> Vec<(String, String)> {
    let root = root();
    let mut paths = Vec::new();
    walk(&root, &mut paths);
    paths.sort();
    let from_root = |p: &Path| {
        p.strip_prefix(&root).expect("below the root").to_string_lossy().replace('\\', "/")
    };
    let read = |p: &PathBuf| Some((from_root(p), std::fs::read_to_string(p).ok()?));
    let files: Vec<_> = paths.iter().filter_map(read).collect();
    assert!(files.len() > 100, "{} files in {}", files.len(), root.display());
    files
}

/// Every Rust file of the tree.
pub(crate) fn sources() -> Vec<Source> {
    let files: Vec<_> = text_files().into_iter().filter(|(p, _)| p.ends_with(".rs")).collect();
    let mut of_tests = BTreeSet::new();
    for (path, text) in &files {
        of_tests.extend(test_modules(path, text));
    }
    files
        .into_iter()
        .map(|(path, text)| {
            let outside = !path.contains("/src/");
            let below = of_tests
                .iter()
                .any(|m| path == format!("{m}.rs") || path.starts_with(&format!("{m}/")));
            Source { test: outside || below, path, text }
        })
        .collect()
}

/// Modules that a file declares for tests only, as paths without `.rs`.
fn test_modules(path: &str, text: &str) -> Vec<String> {
    let (dir, file) = path.rsplit_once('/').unwrap_or(("", path));
    let home = match file {
        "mod.rs" | "lib.rs" | "main.rs" => dir.to_owned(),
        _ => path.trim_end_matches(".rs").to_owned(),
    };
    let lines: Vec<&str> = text.lines().collect();
    let mut found = Vec::new();
    for (i, line) in lines.iter().enumerate() {
        if !is_test_attribute(line) {
            continue;
        }
        let mut home = home.clone();
        for next in &lines[i + 1..] {
            if let Some(p) = next.trim().strip_prefix("#[path = \"") {
                home = format!("{dir}/{}", p.trim_end_matches(".rs\"]"));
            } else if let Some(name) = declared(next) {
                found.push(if home.ends_with(name) { home } else { format!("{home}/{name}") });
                break;
            } else if !next.trim().starts_with("#[") {
                break;
            }
        }
    }
    found
}

/// The name in `mod name;`.
fn declared(line: &str) -> Option<&str> {
    let line = line.trim().trim_start_matches("pub(crate) ").trim_start_matches("pub ");
    line.strip_prefix("mod ")?.strip_suffix(';')
}

fn is_test_attribute(line: &str) -> bool {
    let l = line.trim();
    l.starts_with("#[cfg(") && l.contains("test") && !l.contains("not(test")
}

impl Source {
    /// It lies in one of these folders and is not a test.
    pub(crate) fn is_in(&self, folders: &[&str]) -> bool {
        !self.test && folders.iter().any(|f| self.path.starts_with(f))
    }

    /// Part of what is shipped.
    pub(crate) fn is_product(&self) -> bool {
        !self.test && !self.path.starts_with("tests/")
    }

    /// Lines with their numbers, without comments and without what is compiled for tests only.
    pub(crate) fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        let mut skip: Option<usize> = None;
        let mut lines = Vec::new();
        for (i, line) in self.text.lines().enumerate() {
            let indent = line.len() - line.trim_start().len();
            if let Some(at) = skip {
                let ends = line.trim_start().starts_with('}')
                    || line.ends_with([';', '}', ',']) && !line.trim_start().starts_with("#[");
                if indent == at && ends {
                    skip = None;
                }
                continue;
            }
            if is_test_attribute(line) {
                skip = Some(indent);
                continue;
            }
            let code = line.split(" // ").next().unwrap_or(line);
            if !code.trim_start().starts_with("//") {
                lines.push((i + 1, code));
            }
        }
        lines.into_iter()
    }

    /// First line, name and number of lines of every function that is not a test.
    pub(crate) fn functions(&self) -> Vec<(usize, String, usize)> {
        let lines: Vec<_> = self.code().collect();
        let mut found = Vec::new();
        for (i, (n, line)) in lines.iter().enumerate() {
            let indent = line.len() - line.trim_start().len();
            let Some(name) = function_name(line) else { continue };
            let end = lines[i..].iter().position(|(_, l)| {
                let closes = l.len() > indent
                    && l[..indent].trim().is_empty()
                    && l[indent..].starts_with('}');
                closes || (l.trim_end().ends_with(';') && l.len() - l.trim_start().len() == indent)
            });
            if line.trim_end().ends_with('}') {
                continue;
            }
            found.push((*n, name, end.map_or(1, |e| e + 1)));
        }
        found
    }
}

fn function_name(line: &str) -> Option<String> {
    let mut words = line.trim_start().split(' ');
    let name = loop {
        match words.next()? {
            "fn" => break words.next()?,
            "const" | "async" | "unsafe" | "extern" | "pub" => {}
            w if w.starts_with("pub(") => {}
            _ => return None,
        }
    };
    Some(name.split(['(', '<']).next()?.to_owned())
}

#[test]
fn code_is_told_from_tests_and_comments() {
    let text = "//! Doc.\n\
                fn short() -> u8 { 1 }\n\
                pub(crate) async fn long(\n    a: u8,\n) {\n    a; // said\n}\n\
                #[cfg(test)]\nmod tests {\n    fn t() {\n        hidden\n    }\n}\n\
                #[cfg(not(test))]\nfn last() {\n    shown\n}\n\
                #[cfg(test)]\nmod more;\n";
    let s = Source { path: "a/src/lib.rs".into(), text: text.into(), test: false };
    let code: Vec<&str> = s.code().map(|(_, l)| l).collect();
    assert!(code.contains(&"    shown") && code.contains(&"    a;"), "{code:?}");
    assert!(!code.iter().any(|l| l.contains("hidden") || l.contains("said")), "{code:?}");
    let functions = s.functions();
    assert_eq!(functions, [(3, "long".to_owned(), 5), (15, "last".to_owned(), 3)]);
    assert_eq!(test_modules(&s.path, text), ["a/src/more"]);
}
