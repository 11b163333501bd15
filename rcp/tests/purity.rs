//! The protocol crate does no I/O unless it is asked to.

use std::path::Path;
use std::process::Command;

#[test]
fn without_the_feature_net_there_is_no_runtime_and_no_transport() {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let out = Command::new(cargo)
        .args(["tree", "--offline", "-p", "rcp", "--no-default-features", "-e", "normal"])
        .args(["--prefix", "none", "--format", "{p}"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo tree runs");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let tree = String::from_utf8_lossy(&out.stdout);
    assert!(tree.contains("crc32c "), "{tree}");
    for crate_name in [
        "tokio",
        "quinn",
        "quinn-proto",
        "rustls",
        "tokio-rustls",
        "arc-swap",
        "x509-parser",
        "socket2",
        "mio",
        "rand",
        "hyper",
    ] {
        let used = tree.lines().any(|l| l.split(' ').next() == Some(crate_name));
        assert!(!used, "{crate_name} in the tree of rcp without features:\n{tree}");
    }
}

#[test]
fn the_protocol_reads_no_clock_and_opens_nothing() {
    let mut files = Vec::new();
    collect(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src/proto"), &mut files);
    assert!(files.len() > 15, "{files:?}");
    for (path, text) in files {
        for word in ["tokio", "std::net", "std::fs", "std::thread", "Instant", "SystemTime"] {
            assert!(!text.contains(word), "{word} in {path}");
        }
        assert!(text.starts_with("//!"), "{path} says what it is for");
        assert!(text.lines().count() < 600, "{path} is too long");
    }
}

fn collect(dir: &Path, files: &mut Vec<(String, String)>) {
    for entry in std::fs::read_dir(dir).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            collect(&path, files);
        } else {
            let text = std::fs::read_to_string(&path).expect("text");
            files.push((path.display().to_string(), text));
        }
    }
}
