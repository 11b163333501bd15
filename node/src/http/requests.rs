//! Bodies of the changes, as JSON. Unknown fields are refused: a mistyped one would silently do
//! something else.

use serde::{Deserialize, Serialize};

use crate::api::{PolicyChange, RouteWay};
use crate::hex;
use crate::mover::Order;

/// Cut a delta set now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cut {
    /// Which volume.
    pub volume: String,
    /// The state stays readable at the primary.
    #[serde(default)]
    pub keep: bool,
}

/// Keep a state, or give it up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeptState {
    /// Which volume.
    pub volume: String,
    /// Which state.
    pub set: u64,
}

/// Have every replica hash the first bytes of a state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hash {
    /// Which volume.
    pub volume: String,
    /// Which state.
    pub set: u64,
    /// How many bytes.
    pub len: u64,
    /// How long to wait for all members, in seconds.
    pub wait_s: u64,
}

/// Have every member of a group execute a control block.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Block {
    /// Which group.
    pub group: String,
    /// UUID of the block; a node executes the same one once.
    pub id: String,
    /// What to do.
    pub kind: String,
    /// `VOLUME@SET`, or `VOLUME` for its newest state: not before that is visible.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
    /// For the handler: at most 32 KiB, in hexadecimal digits.
    #[serde(default)]
    pub data: String,
    /// How long to wait for all members, in seconds; at most an hour.
    pub wait_s: u64,
}

impl std::fmt::Debug for Block {
    /// Without the data: this goes on record.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { group, id, kind, after, data, .. } = self;
        let after = after.as_deref().unwrap_or("nothing");
        write!(f, "Block {{ {group}, {kind}, {id}, after {after}, {} bytes }}", data.len() / 2)
    }
}

impl Block {
    /// What the node is asked.
    ///
    /// # Errors
    /// In words: the id, the state or the data cannot be read.
    pub fn order(&self) -> Result<Order, String> {
        let id: uuid::Uuid = self.id.parse().map_err(|e| format!("the id of a block: {e}"))?;
        let after = match self.after.as_deref().map(|a| a.split_once('@').ok_or(a)) {
            None => None,
            Some(Err(volume)) => Some((volume.to_owned(), None)),
            Some(Ok((volume, set))) => {
                let set = set.parse().map_err(|_| {
                    format!("`{set}` is no state of {volume}: write {volume}@NUMBER")
                })?;
                Some((volume.to_owned(), Some(set)))
            }
        };
        Ok(Order {
            group: self.group.clone(),
            id: *id.as_bytes(),
            kind: self.kind.clone(),
            after,
            body: hex::decode(&self.data)
                .ok_or("the data of a block is not in hexadecimal digits")?
                .into(),
            wait: std::time::Duration::from_secs(self.wait_s),
        })
    }
}

/// Change a volume's size.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Resize {
    /// Which volume.
    pub volume: String,
    /// New size in bytes, not smaller than the present one.
    pub size: u64,
}

/// Change a volume's label.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rename {
    /// Which volume.
    pub volume: String,
    /// The new label.
    pub label: String,
}

/// Remove a volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Delete {
    /// Which volume.
    pub volume: String,
}

/// Start or stop replication.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Replicate {
    /// Which volume.
    pub volume: String,
    /// Start or stop.
    pub on: bool,
}

/// Bring a mirror to a version, or have it mirror again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Views {
    /// Which volume.
    pub volume: String,
    /// Whether it is read from now on.
    pub open: bool,
}

/// Seed a child again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Seed {
    /// Which volume.
    pub volume: String,
    /// Which child.
    pub child: String,
}

/// Let go of a child that takes nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Detach {
    /// Which volume.
    pub volume: String,
    /// Which child.
    pub child: String,
}

/// Change when sets are made or played.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// Which volume.
    pub volume: String,
    /// What changes.
    pub change: PolicyChange,
}

/// Take a changed topology.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TopologyText {
    /// The file.
    pub text: String,
}

/// Make, change or forget a group beside the topology file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GroupDefinition {
    /// Which group.
    pub group: String,
    /// The whole of it; none to forget it.
    #[serde(default)]
    pub definition: Option<config::AddedGroup>,
}

/// Add a next hop.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RouteAdd {
    /// In which group.
    pub group: String,
    /// The node to send to.
    pub next_hop: String,
    /// How it is reached.
    #[serde(default, skip_serializing_if = "RouteWay::is_default")]
    pub by: RouteWay,
    /// Stored without asking the next hop, which is dialled until it is there: for one that cannot be
    /// reached.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unasked: bool,
}

/// Remove next hops.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RouteDelete {
    /// Of which group; of all if absent.
    #[serde(default)]
    pub group: Option<String>,
    /// Which; all if absent.
    #[serde(default)]
    pub next_hop: Option<String>,
}

/// A change of which nothing is to be said.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Nothing {}

/// The answer to a change that has nothing to tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {
    /// Always true: a refusal has another status and another body.
    pub done: bool,
}
