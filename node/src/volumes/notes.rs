//! What a node has to remember of volumes that are not in its folders: one small file for each, in a
//! folder of the data folder, as lines `name value` with a checksum.

use std::path::{Path, PathBuf};

use rcp::proto::ids::VolumeId;
use volmcast::storage::{replace_file, sync_folder};

/// One kind of them.
pub(crate) trait Note: Sized {
    /// The folder of these files in a data folder.
    const FOLDER: &'static str;
    /// The first line of each.
    const FIRST_LINE: &'static str;
    /// What is said of a damaged one after its path: what it is for, and what to do.
    const DAMAGED: &'static str;

    /// Of which volume; the file is called so.
    fn volume(&self) -> VolumeId;

    /// All there is to remember but the volume.
    ///
    /// # Errors
    /// In words: something cannot be written in a line.
    fn fields(&self) -> Result<Vec<(&'static str, String)>, String>;

    /// The same, read: `field` finds what stands after a name.
    fn read<'a>(volume: VolumeId, field: impl Fn(&str) -> Option<&'a str>) -> Option<Self>;

    /// Where that of a volume is.
    fn path(data: &Path, volume: VolumeId) -> PathBuf {
        data.join(Self::FOLDER).join(volume.to_string())
    }

    /// Stores it, durably.
    ///
    /// # Errors
    /// In words.
    fn store(&self, data: &Path) -> Result<(), String> {
        let all = data.join(Self::FOLDER);
        let text = text(self)?;
        std::fs::create_dir_all(&all).map_err(|e| format!("{}: {e}", all.display()))?;
        sync_folder(data).map_err(|e| e.to_string())?;
        replace_file(&Self::path(data, self.volume()), text.as_bytes()).map_err(|e| e.to_string())
    }

    /// Removes that of a volume, durably; it may be gone already.
    ///
    /// # Errors
    /// In words.
    fn forget(data: &Path, volume: VolumeId) -> Result<(), String> {
        match std::fs::remove_file(Self::path(data, volume)) {
            Ok(()) => sync_folder(&data.join(Self::FOLDER)).map_err(|e| e.to_string()),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
            Err(e) => Err(format!("{}: {e}", Self::path(data, volume).display())),
        }
    }

    /// That of a volume.
    ///
    /// # Errors
    /// In words: there is none, or it cannot be read.
    fn load(data: &Path, volume: VolumeId) -> Result<Self, String> {
        let note: Self = load(&Self::path(data, volume))?;
        if note.volume() == volume {
            Ok(note)
        } else {
            Err(damaged::<Self>(&Self::path(data, volume)))
        }
    }

    /// All of them.
    ///
    /// # Errors
    /// In words, with the remedy: one cannot be read.
    fn all(data: &Path) -> Result<Vec<Self>, String> {
        let folder = data.join(Self::FOLDER);
        let entries = match std::fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(format!("{}: {e}", folder.display())),
        };
        let mut found = Vec::new();
        for entry in entries {
            let path = entry.map_err(|e| format!("{}: {e}", folder.display()))?.path();
            // A crash came before it was renamed.
            if path.extension().is_none() {
                found.push(load(&path)?);
            }
        }
        found.sort_by_key(Self::volume);
        Ok(found)
    }
}

fn text<N: Note>(note: &N) -> Result<String, String> {
    let mut body = format!("{}\nvolume {}\n", N::FIRST_LINE, note.volume());
    for (name, value) in note.fields()? {
        if value.contains('\n') {
            return Err(format!("{value:?} is no text of one line: rename it first"));
        }
        body.push_str(&format!("{name} {value}\n"));
    }
    Ok(format!("{body}crc32c {:08x}\n", crc32c::crc32c(body.as_bytes())))
}

fn parse<N: Note>(text: &str) -> Option<N> {
    let (body, crc) = text.trim_end().rsplit_once('\n')?;
    let body = format!("{body}\n");
    let crc = u32::from_str_radix(crc.strip_prefix("crc32c ")?, 16).ok()?;
    if crc != crc32c::crc32c(body.as_bytes()) || body.lines().next() != Some(N::FIRST_LINE) {
        return None;
    }
    let lines = || body.lines().skip(1);
    let field = |name: &str| lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(' '));
    N::read(field("volume")?.parse().ok()?, field)
}

fn load<N: Note>(path: &Path) -> Result<N, String> {
    let text = std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
    parse(&text).ok_or_else(|| damaged::<N>(path))
}

fn damaged<N: Note>(path: &Path) -> String {
    format!("{} is damaged: {}", path.display(), N::DAMAGED)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq)]
    struct Word(VolumeId, String);

    impl Note for Word {
        const FOLDER: &'static str = "words";
        const FIRST_LINE: &'static str = "word 1";
        const DAMAGED: &'static str = "it is only a word; remove it";

        fn volume(&self) -> VolumeId {
            self.0
        }

        fn fields(&self) -> Result<Vec<(&'static str, String)>, String> {
            Ok(vec![("word", self.1.clone())])
        }

        fn read<'a>(volume: VolumeId, field: impl Fn(&str) -> Option<&'a str>) -> Option<Self> {
            Some(Self(volume, field("word")?.to_owned()))
        }
    }

    #[test]
    fn what_is_stored_is_found_and_damage_is_noticed() {
        let dir = tempfile::tempdir().expect("temp");
        let data = dir.path();
        let [a, b] = [1, 2].map(|n| VolumeId([n; 16]));
        assert_eq!(Word::all(data), Ok(Vec::new()));
        Word::load(data, a).expect_err("nothing");
        for (v, w) in [(b, "b"), (a, "x y")] {
            Word(v, w.to_owned()).store(data).expect("stored");
        }
        Word(a, "z".to_owned()).store(data).expect("replaced");
        assert_eq!(Word::load(data, a), Ok(Word(a, "z".to_owned())));
        // What a crash left of storing another is none.
        std::fs::write(data.join("words/left.tmp"), "x").expect("write");
        let both = vec![Word(a, "z".to_owned()), Word(b, "b".to_owned())];
        assert_eq!(Word::all(data), Ok(both));
        let why = Word(a, "two\nlines".to_owned()).store(data).expect_err("two lines");
        assert!(why.contains("rename it first"), "{why}");

        // Another's, by its name.
        std::fs::copy(Word::path(data, b), Word::path(data, a)).expect("copied");
        assert!(Word::load(data, a).expect_err("another's").contains("is damaged"));
        let file = Word::path(data, b);
        let text = std::fs::read_to_string(&file).expect("read").replace("word b", "word c");
        std::fs::write(&file, text).expect("write");
        let why = Word::all(data).expect_err("damaged");
        assert!(why.contains("is damaged: it is only a word"), "{why}");
        for v in [a, b, a] {
            Word::forget(data, v).expect("gone");
        }
        assert_eq!(std::fs::read_dir(data.join("words")).expect("read").count(), 1);
    }
}
