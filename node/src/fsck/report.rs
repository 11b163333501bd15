//! What `rcpctl fsck` has to say.

use serde::Serialize;

/// How bad it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Grade {
    /// All well.
    #[default]
    Well,
    /// Damage that the node heals by itself, from what else it has or from a neighbour.
    Heals,
    /// Damage that somebody has to do something about.
    Needs,
}

impl Grade {
    /// The exit code of the command.
    #[must_use]
    pub fn code(self) -> u8 {
        match self {
            Self::Well => 0,
            Self::Heals => 1,
            Self::Needs => 2,
        }
    }
}

/// Something that is not as it was written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How bad.
    pub grade: Grade,
    /// Which part: `mailbox`, `save`, `changes`, `hashes`, `snapshots`, `activity`, `base`,
    /// `content`, `volume`; of the data folder: `node`, `volumes`, `routes`, `groups.yaml`,
    /// `destinations`, `blocks`.
    pub part: &'static str,
    /// What it is, what follows, and what can be done.
    pub text: String,
}

impl Finding {
    pub(super) fn heals(part: &'static str, text: impl Into<String>) -> Self {
        Self { grade: Grade::Heals, part, text: text.into() }
    }

    pub(super) fn needs(part: &'static str, text: impl Into<String>) -> Self {
        Self { grade: Grade::Needs, part, text: text.into() }
    }
}

/// A data folder.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Which folder.
    pub folder: String,
    /// The node's name, if the folder says it.
    pub node: Option<String>,
    /// The worst of everything.
    pub grade: Grade,
    /// What concerns the node as a whole.
    pub findings: Vec<Finding>,
    /// What the node does with what is no volume.
    pub next_start: Vec<String>,
    /// Its volumes.
    pub volumes: Vec<VolumeFound>,
}

impl Report {
    pub(super) fn graded(mut self) -> Self {
        let own = self.findings.iter().map(|f| f.grade);
        self.grade = own.chain(self.volumes.iter().map(|v| v.grade)).max().unwrap_or_default();
        self
    }
}

/// One volume.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct VolumeFound {
    /// What it is called on this node.
    pub label: String,
    /// Its UUID.
    pub volume: String,
    /// Its group.
    pub group: String,
    /// Its folder.
    pub folder: String,
    /// `primary`, `replica` or `relay`.
    pub role: String,
    /// Bytes of the volume.
    pub size: u64,
    /// The worst of its findings.
    pub grade: Grade,
    /// What is not as it was written.
    pub findings: Vec<Finding>,
    /// The line that is written or followed.
    pub line: Option<String>,
    /// Newest finished set (primary) or state that readers see.
    pub visible: u64,
    /// The state that the content holds in full.
    pub merged: u64,
    /// Reads are refused until this state is back.
    pub hidden_until: Option<u64>,
    /// The two slots of the mailbox.
    pub mailbox: Vec<Slot>,
    /// The save volume.
    pub save: Option<SaveFound>,
    /// The list of changed blocks.
    pub changes: Option<ChangesFound>,
    /// The table of hashes.
    pub digest: Option<DigestFound>,
    /// A seed, a catch-up or a way back that is under way.
    pub under_way: Option<String>,
    /// Kept states and kept branches.
    pub kept: Vec<Kept>,
    /// Children that the save volume is kept for.
    pub consumers: Vec<Consumer>,
    /// What changed role or waits for somebody; in words.
    pub standing: Vec<Change>,
    /// What the node does when it is started.
    pub next_start: Vec<String>,
}

/// Something that is not damage, and that somebody has to decide.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Change {
    /// What it is.
    pub text: String,
    /// What can be done.
    pub remedy: Option<String>,
}

/// A slot of the mailbox.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Slot {
    /// 0 or 1.
    pub slot: usize,
    /// `rules`, `older`, `untouched` or `damaged`.
    pub says: &'static str,
    /// Number of its commit.
    pub commit: Option<u64>,
    /// What is wrong with it.
    pub why: Option<String>,
}

/// The save volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SaveFound {
    /// Oldest live position.
    pub tail: u64,
    /// End of what counts.
    pub head: u64,
    /// Bytes in use.
    pub used: u64,
    /// Bytes of the ring.
    pub capacity: u64,
    /// Chunks and set headers.
    pub records: u64,
    /// Whole sets.
    pub sets: u64,
    /// State before the oldest of them.
    pub oldest: u64,
    /// State after the newest.
    pub newest: u64,
    /// A set that is there in part.
    pub open: Option<String>,
    /// What lies behind the head, and why that is as it should be.
    pub beyond: Option<String>,
}

/// The list of changed blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct ChangesFound {
    /// What changed after this state is known.
    pub since: u64,
    /// Entries.
    pub entries: usize,
    /// Blocks that they name.
    pub blocks: u64,
    /// Bytes of them.
    pub bytes: u64,
}

/// The table of hashes and the digest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DigestFound {
    /// `known`, `kept` (its sum is not known) or `absent`.
    pub table: &'static str,
    /// The volume's digest.
    pub digest: Option<String>,
    /// The state that the table has the hashes of.
    pub at: u64,
    /// Blocks that the search in the background has looked at in its round.
    pub searched: u64,
    /// When the last round ended, µs since 1970; 0: there was none.
    pub searched_at: u64,
}

/// A state that is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Kept {
    /// What it is read as: `VOLUME@NAME`.
    pub name: String,
    /// Blocks saved for it.
    pub images: u64,
    /// Why it cannot be read, or is not there yet.
    pub why: Option<String>,
}

/// A child.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Consumer {
    /// Its name.
    pub node: String,
    /// Bytes of the save volume that it has not said to have.
    pub behind: u64,
}
