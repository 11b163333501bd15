//! Why a volume cannot go on, in words: each of its parts has a place of its own for them, so that
//! none overwrites another's, and none takes back what another has said.

use std::collections::BTreeMap;

use super::Volume;

/// A part of a volume that may have to wait. What somebody who is woken by it should read first comes
/// first: what waits for his word, then what keeps readers out, then what only makes them wait, then
/// what a writer gets over, and last what nobody waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Part {
    /// A full seed, which would overwrite what branches rest on.
    Branches,
    /// What branches need of content that is taken back.
    Images,
    /// A seed or catch-up that comes in.
    Seed,
    /// From the save volume into the content.
    Playback,
    /// The content is to become longer.
    Size,
    /// A writer's sets.
    Sets,
    /// A writer's save volume.
    Save,
    /// The table of hashes.
    Table,
}

impl Part {
    fn name(self) -> &'static str {
        match self {
            Self::Branches => "branches",
            Self::Images => "images",
            Self::Seed => "seed",
            Self::Playback => "playback",
            Self::Size => "size",
            Self::Sets => "sets",
            Self::Save => "save",
            Self::Table => "table",
        }
    }

    /// Without it everything else goes on.
    fn is_spare(self) -> bool {
        self == Self::Table
    }
}

/// What the parts say.
#[derive(Debug, Default)]
pub(super) struct Stalls(BTreeMap<Part, String>);

impl Stalls {
    /// The part cannot go on, for this reason.
    pub(super) fn set(&mut self, part: Part, words: impl Into<String>) {
        self.0.insert(part, words.into());
    }

    /// The part goes on, or has nothing more to do.
    pub(super) fn clear(&mut self, part: Part) {
        self.0.remove(&part);
    }

    /// The volume does something else from here on. The table of hashes stays what it is.
    pub(super) fn role_changed(&mut self) {
        self.0.retain(|p, _| p.is_spare());
    }

    /// Everything that is said.
    pub(super) fn words(&self) -> Option<String> {
        joined(self.0.values())
    }

    /// The same, of what holds the volume up.
    fn holding(&self) -> Option<String> {
        joined(self.0.iter().filter(|(p, _)| !p.is_spare()).map(|(_, w)| w))
    }
}

fn joined<'a>(words: impl Iterator<Item = &'a String>) -> Option<String> {
    let all: Vec<_> = words.map(String::as_str).collect();
    (!all.is_empty()).then(|| all.join("; also: "))
}

impl Volume {
    /// Why it stands still although everybody does what he should: a full disk, most of all. In words;
    /// what is most urgent first.
    #[must_use]
    pub fn stalled(&self) -> Option<String> {
        self.stalls.holding()
    }

    /// What cannot go on, by the name of the part, with its words; the most urgent first. Other than
    /// [`Volume::stalled`] it has what nothing waits for.
    pub fn stalls(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.stalls.0.iter().map(|(p, w)| (p.name(), w.as_str()))
    }
}

#[cfg(test)]
mod tests {
    use super::{Part, Stalls};

    #[test]
    fn each_part_sets_and_clears_its_own() {
        let mut s = Stalls::default();
        assert_eq!((s.words(), s.holding()), (None, None));
        s.set(Part::Playback, "playback stopped");
        s.set(Part::Size, "the content cannot grow");
        s.clear(Part::Size);
        s.clear(Part::Seed);
        assert_eq!(s.words().as_deref(), Some("playback stopped"));
        s.set(Part::Playback, "playback stopped again");
        assert_eq!(s.words().as_deref(), Some("playback stopped again"));
        s.clear(Part::Playback);
        assert_eq!(s.words(), None);
    }

    #[test]
    fn the_most_urgent_comes_first() {
        let mut s = Stalls::default();
        s.set(Part::Playback, "no room");
        s.set(Part::Seed, "the seed has stopped");
        s.set(Part::Branches, "drop them");
        let all = "drop them; also: the seed has stopped; also: no room";
        assert_eq!(s.holding().as_deref(), Some(all));
    }

    #[test]
    fn what_nothing_waits_for_holds_nothing_up() {
        let mut s = Stalls::default();
        s.set(Part::Table, "no table");
        assert_eq!((s.words().as_deref(), s.holding()), (Some("no table"), None));
        s.set(Part::Sets, "a set was given up");
        assert_eq!(s.words().as_deref(), Some("a set was given up; also: no table"));
        assert_eq!(s.holding().as_deref(), Some("a set was given up"));
    }

    #[test]
    fn another_role_has_other_reasons() {
        let mut s = Stalls::default();
        for part in [Part::Images, Part::Playback, Part::Save, Part::Sets, Part::Table] {
            s.set(part, format!("{part:?}"));
        }
        s.role_changed();
        assert_eq!(s.words().as_deref(), Some("Table"));
    }
}
