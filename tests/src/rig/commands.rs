//! What an operator types, against a tree.

use std::process::Command;

use node::api::CutInfo;
use node::http::{paths, requests};

use super::binaries::program;
use super::outside::said;
use super::tree::Tree;

impl Tree {
    /// `rcpctl WORDS --topology …`.
    #[must_use]
    pub fn rcpctl(&self, words: &[&str]) -> Command {
        let mut c = Command::new(program("rcpctl"));
        c.args(words).arg("--topology").arg(self.topology());
        c
    }

    /// What it prints.
    ///
    /// # Errors
    /// Everything it said when it failed.
    pub fn ctl(&self, words: &[&str]) -> Result<String, String> {
        said(&mut self.rcpctl(words))
    }

    /// The same, of words with blanks between them, and shown.
    ///
    /// # Errors
    /// Everything it said when it failed.
    pub fn told(&self, words: &str) -> Result<String, String> {
        let told = self.ctl(&words.split(' ').collect::<Vec<_>>());
        let (Ok(text) | Err(text)) = &told;
        eprintln!("$ rcpctl {words}\n{text}");
        told
    }

    /// What `rcpctl WORDS --dir …` prints of one node.
    ///
    /// # Errors
    /// Everything it said when it failed.
    pub fn ctl_at(&self, node: &str, words: &[&str]) -> Result<String, String> {
        said(Command::new(program("rcpctl")).args(words).arg("--dir").arg(self.folder(node)))
    }

    /// It fails, and says so.
    ///
    /// # Panics
    /// When it is carried out, or says something else.
    #[track_caller]
    pub fn refuses(&self, words: &[&str], says: &str) {
        let e = self.ctl(words).expect_err(says);
        assert!(e.contains(says), "{words:?}: {e}");
    }

    /// Cuts volume `vol` where it is written, and keeps the state there.
    ///
    /// # Panics
    /// When it is refused.
    #[track_caller]
    pub fn cut_at(&self, node: &str) -> u64 {
        let body = requests::Cut { volume: "vol".to_owned(), keep: true };
        let cut: CutInfo =
            self.post(node, paths::CUT, &body).unwrap_or_else(|e| panic!("cut: {e}"));
        cut.set
    }

    /// All content of an export.
    ///
    /// # Errors
    /// It cannot be opened, or not be read.
    pub fn all_of(&self, node: &str, export: &str) -> Result<Vec<u8>, String> {
        let mut all = Vec::new();
        let mut c = self.open(node, export).map_err(|e| format!("{export} at {node}: {e}"))?;
        let mut take = |_, piece: &[u8]| {
            all.extend_from_slice(piece);
            Ok(())
        };
        c.read_all(4, &mut take).map_err(|e| format!("{export} at {node}: {e}"))?;
        Ok(all)
    }
}
