//! Every file in `tests/wrong` is refused with exactly the text beside it. To accept new texts,
//! read them, then run the test with `UPDATE_GOLDEN=1`.

use config::Topology;
use std::path::Path;

#[test]
fn wrong_files_are_refused_with_these_words() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/wrong");
    let mut files: Vec<_> = std::fs::read_dir(&folder)
        .expect("tests/wrong")
        .map(|f| f.expect("entry").path())
        .filter(|p| p.extension().is_some_and(|e| e == "yaml"))
        .collect();
    files.sort();
    assert!(files.len() >= 12);
    let mut differ = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(&file).expect("text");
        let found = Topology::compile(&text, "topo.yaml").expect_err(&file.to_string_lossy());
        for d in &found {
            assert!(d.hint.is_some(), "no hint: {d}");
            assert!(d.line >= 1 && d.column >= 1, "{d}");
        }
        let golden = file.with_extension("txt");
        let found = found.plain();
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(&golden, &found).expect("write");
        } else if std::fs::read_to_string(&golden).unwrap_or_default() != found {
            println!("--- {} should be:\n{found}", golden.display());
            differ.push(golden);
        }
    }
    assert!(differ.is_empty(), "{differ:?}");
}
