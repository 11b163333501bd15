//! What is said when a volume goes from one node to another with all its files (GEN-12): the steps, one
//! request each, and their answers. `node/docs/moving.md` has the whole of it.
//!
//! ```text
//! old: Show ─► new: Reach, Expect ─► old: Hold (as for a swap) ─► old: Give ─► new: Take ─► new: Promote
//! ```

use serde::{Deserialize, Serialize};

/// One step, asked of one node. Each may be asked again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "snake_case", deny_unknown_fields)]
pub enum Step {
    /// The writer, or who gave it away, says where the files are.
    Show {
        /// Label or UUID.
        volume: String,
        /// It puts marks beside them, for the other node to read. Nothing else changes.
        mark: bool,
    },
    /// The node that is to take them says whether it could. Nothing changes.
    Reach(Reach),
    /// The same; and it stores that they come, and how it gets to them. From then on it makes no
    /// volume of that name.
    Expect(Reach),
    /// After `WriterChange::Hold`: the writer lets go of the files, for good.
    Give {
        /// Label or UUID.
        volume: String,
        /// Which node they belong to from now on.
        to: String,
        /// The set that `Hold` led to.
        set: u64,
    },
    /// What it expects, and was given, becomes this node's, and is opened. Nobody writes before it is
    /// promoted.
    Take {
        /// The volume's UUID.
        id: String,
    },
}

/// What the new node is asked to look at.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reach {
    /// What the old one showed.
    pub shown: Shown,
    /// On the operator's word a device here is the very device that the old node uses.
    #[serde(default)]
    pub same_device: bool,
}

/// Where a volume's files are, as the node sees them that has them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shown {
    /// The volume's UUID.
    pub id: String,
    /// What its group calls it.
    pub label: String,
    /// Its group.
    pub group: String,
    /// The node that has it.
    pub node: String,
    /// The folder.
    pub folder: String,
    /// What stands in the file [`MARK`] in it, and beside content outside of it: who reads this sees
    /// the same storage. Missing if none was put there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mark: Option<String>,
    /// The content, if it lies outside the folder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<Base>,
}

/// Content outside a volume's folder.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Base {
    /// Where.
    pub path: String,
    /// Number of the file, or of the device's name, in its file system.
    pub file: u64,
    /// Bytes.
    pub size: u64,
    /// It is a device, of this number at that node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<u64>,
}

/// Name of the mark in a volume's folder.
pub const MARK: &str = "moving";
/// What the name of the mark beside a file ends with.
pub const MARK_BESIDE: &str = ".rcp-moving";

/// What came of a step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub enum Answered {
    /// Of `Show`.
    Shown(Shown),
    /// Of all others.
    Done,
}

/// A volume that this node gave to another with all its files.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MovedStatus {
    /// Its UUID.
    pub id: String,
    /// What its group calls it.
    pub label: String,
    /// Its group.
    pub group: String,
    /// The node it belongs to.
    pub to: String,
    /// Where its files are, as long as that node has not taken them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub folder: Option<String>,
}

/// A volume that another node is to give to this one with all its files.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArrivingStatus {
    /// Its UUID.
    pub id: String,
    /// What its group calls it.
    pub label: String,
    /// Its group.
    pub group: String,
    /// The node that gives it.
    pub from: String,
    /// It was given, and waits to be taken.
    pub given: bool,
}
