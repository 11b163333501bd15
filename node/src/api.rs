//! What a data mover can be asked: one set of verbs for the Unix socket, HTTP and the commands.
//!
//! [`NodeApi`] is implemented by the running node; `http` serves it and `cli` speaks to it. The
//! types are what travels as JSON; times are microseconds since 1970, sizes are bytes.

use std::future::Future;
use std::pin::Pin;

use rcp::proto::transport::Hop;
use serde::{Deserialize, Serialize};

use crate::mover::Order;

/// An answer that comes later.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, ApiError>> + Send + 'a>>;

/// Why a request was not carried out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{text}")]
pub struct ApiError {
    /// For programs.
    pub kind: ApiErrorKind,
    /// For people: names the thing and the remedy.
    pub text: String,
}

/// Kinds of refusal; each has one HTTP status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ApiErrorKind {
    /// No such volume, group, node or state (404).
    NotFound,
    /// The request makes no sense (400).
    BadRequest,
    /// It makes sense, but not now or not here (409).
    Conflict,
    /// A program that has its say there is against it (409).
    Declined,
    /// The next hop has another feeder, until that was silent for its time: try again (409).
    Fed,
    /// Whoever asks has not shown who it is (401).
    Unauthorized,
    /// Whoever asks may not (403).
    Forbidden,
    /// The node or volume cannot serve it at present (503).
    Unavailable,
    /// Something broke (500).
    Internal,
}

impl ApiError {
    /// A refusal of `kind`.
    #[must_use]
    pub fn new(kind: ApiErrorKind, text: impl Into<String>) -> Self {
        Self { kind, text: text.into() }
    }
}

/// The whole node at one moment.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct NodeStatus {
    /// Its name.
    pub node: String,
    /// When this was true.
    pub at_us: u64,
    /// When the process started.
    pub started_us: u64,
    /// Program version.
    pub version: String,
    /// Shared RCP and HTTP address it listens on.
    pub listen: String,
    /// NBD URIs, without the export name.
    pub nbd: Vec<String>,
    /// Certificates, plain text, and who was turned away.
    #[serde(default)]
    pub security: SecurityStatus,
    /// Groups it is in.
    pub groups: Vec<GroupStatus>,
    /// Volumes it holds or forwards.
    pub volumes: Vec<VolumeInfo>,
    /// Volumes that it gave to other nodes with all their files.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub moved: Vec<crate::shift::MovedStatus>,
    /// Volumes that other nodes are to give to it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub arriving: Vec<crate::shift::ArrivingStatus>,
}

/// How a node proves who it is, and whom it turned away.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SecurityStatus {
    /// It has certificates; hops may be encrypted.
    pub proven: bool,
    /// Until when its own certificate is valid, in microseconds since 1970.
    pub certificate_until_us: Option<u64>,
    /// Sessions without certificates are taken from anywhere: `insecure_plaintext`.
    pub plaintext: bool,
    /// Why certificates on disk are not the ones in use, in words.
    pub problem: Option<String>,
    /// Peers turned away lately.
    pub strangers: Vec<Stranger>,
}

/// A peer that was turned away.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Stranger {
    /// Its address, without the port.
    pub from: String,
    /// The name it claimed; empty if it did not say.
    pub claims: String,
    /// The kind of reason, for programs.
    pub kind: String,
    /// Why, in words.
    pub why: String,
    /// How often.
    pub times: u64,
    /// When last.
    pub last_us: u64,
}

/// One group as this node sees it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct GroupStatus {
    /// Its name.
    pub group: String,
    /// `primary`, `forwarder`, `leaf` or `relay` (a forwarder without replica).
    pub role: String,
    /// The node that feeds it, if one is connected or expected.
    pub parent: Option<LinkStatus>,
    /// Next hops.
    pub children: Vec<LinkStatus>,
    /// Revision of the stored routing table.
    pub route_revision: u64,
    /// Routes below, as far as they are known: node → next hops.
    pub routes: std::collections::BTreeMap<String, Vec<String>>,
    /// How the stored routes differ from the topology file, in words; empty if they do not.
    pub drift: Vec<String>,
    /// What commands said of it: the whole of a group that they made, or the members that they added
    /// to one of the topology file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub added: Option<config::AddedGroup>,
}

/// One neighbour.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LinkStatus {
    /// Its name.
    pub node: String,
    /// Its address.
    pub addr: String,
    /// `connected`, `connecting`, `waiting`, `refused`.
    pub state: String,
    /// Why it is not connected, in words.
    pub reason: Option<String>,
    /// When it was connected or lost.
    pub since_us: u64,
    /// Bytes of chunks and set headers sent to it (child) or received from it (parent).
    pub bytes: u64,
    /// How often the session was set up.
    pub sessions: u64,
    /// What carries it: `tcp`, `tls`, `quic`, with the proxy it goes through.
    #[serde(default)]
    pub transport: String,
    /// Bits per second that may be sent to it now, if that is limited (child).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u64>,
    /// The same in words, with when it ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit_in_words: Option<String>,
    /// Connections that carry the session, if several do or should: how many there are of how many,
    /// and why there are fewer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connections: Option<String>,
    /// The version of RCP of the session, as in `1.1`; empty while there is none.
    #[serde(default)]
    pub version: String,
    /// It is away, or was: who is fed in its place, since when, until when, in words (child).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bypass: Option<String>,
    /// It is fed in the place of this node, which is away (child).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub in_place_of: Option<String>,
}

/// Who holds the room of a full save volume is waited for.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SuspendedInfo {
    /// For so long.
    pub seconds: f64,
    /// Who it is, the one furthest behind first.
    pub by: Vec<String>,
    /// In words, with what to do.
    pub text: String,
}

/// Children that lost their place in a save volume, by why.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DetachedCounts {
    /// It was full.
    pub full: u64,
    /// They held back more than they may (`keep_bytes`, `keep_sets`, `keep_time`).
    pub limits: u64,
    /// An operator let go of them.
    pub by_hand: u64,
}

/// One volume on this node.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct VolumeInfo {
    /// Its label on this node.
    pub label: String,
    /// Its label at the source, which its group knows it by, where that is another one.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub source: String,
    /// Its UUID.
    pub id: String,
    /// Its group.
    pub group: String,
    /// `primary`, `replica` or `relay`.
    pub role: String,
    /// State in words: `writable`, `being promoted`, `fenced`, `readable`, `mirroring`, `seeding`,
    /// `catching up`, `proving`, `forwarding`, `failed` …
    pub state: String,
    /// Why it cannot advance or be read, in words.
    pub reason: Option<String>,
    /// A replica that is to mirror: whether it does now, and the way out of it, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mirror: Option<String>,
    /// Why it stands still by itself, whatever other nodes do: a full disk, most of all. In words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stalled: Option<String>,
    /// What this node's copy waits for, while it is behind although sets come or could come.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delayed: Option<Delayed>,
    /// Replication goes on here: nobody stopped it, and it did not stop with a restart.
    pub replicating: bool,
    /// It goes on by itself after a restart.
    pub persistent: bool,
    /// Size in bytes.
    pub size: u64,
    /// Block size in bytes.
    pub block_size: u64,
    /// `COUNTER-ID` of the generation, abbreviated.
    pub generation: String,
    /// State id of the newest visible state, in full (the ETag).
    pub state_id: String,
    /// Newest finished set (primary) or visible set (replica).
    pub current_set: u64,
    /// Newest set that is complete in the save volume.
    pub saved_set: u64,
    /// Set that the content holds in full.
    pub merged_set: u64,
    /// Newest set the sender is known to have.
    pub newest_known_set: u64,
    /// Cut time of the visible state.
    pub current_cut_us: Option<u64>,
    /// Seconds by which the visible state is older than what the primary has; `None`: unknown.
    pub lag_seconds: Option<f64>,
    /// Bytes known to be on their way (in save volumes above or here, not yet visible).
    pub lag_bytes: u64,
    /// Sets known but not visible.
    pub outstanding_sets: u64,
    /// Bytes of the save volume in use.
    pub save_used: u64,
    /// Its capacity.
    pub save_capacity: u64,
    /// Write position in it.
    pub save_position: u64,
    /// Seconds until it is full at the present rate, if it is filling.
    pub save_full_in_seconds: Option<f64>,
    /// It is full, and who holds its room is waited for (`on_full: suspend`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suspended: Option<SuspendedInfo>,
    /// For how long writers have waited so since the start, in milliseconds.
    #[serde(default)]
    pub suspended_ms: u64,
    /// Children that lost their place in the save volume since the start.
    #[serde(default)]
    pub detached: DetachedCounts,
    /// Bytes modified since the last cut (primary).
    pub dirty_bytes: u64,
    /// Blocks per second sent, now and on average.
    pub transfer_rate: (f64, f64),
    /// Bytes of extents sent to children since the start: of seeds.
    #[serde(default)]
    pub seed_sent: u64,
    /// The same: of catch-ups, blocks that changed while a child was away.
    #[serde(default)]
    pub catch_up_sent: u64,
    /// How many queues of sets children got as one step since the start.
    #[serde(default)]
    pub coalesced: u64,
    /// Bytes that the sets had and those steps have not.
    #[serde(default)]
    pub coalesced_saved: u64,
    /// Longest pause of writers by a cut, in microseconds.
    pub longest_pause_us: u64,
    /// States that are kept and can be opened as `LABEL@STATE`.
    pub kept: Vec<u64>,
    /// States of lines that ended, kept here.
    #[serde(default)]
    pub branches: Vec<BranchStatus>,
    /// Children that take this volume from here.
    pub children: Vec<ChildProgress>,
    /// The subtree below, summed up.
    pub subtree: Option<SubtreeStatus>,
    /// Digests of the newest states that were visible here, as they are here, newest first.
    #[serde(default)]
    pub digests: Vec<StateDigest>,
    /// Why the digest of the visible state is not known, in words.
    #[serde(default)]
    pub digest_missing: Option<String>,
    /// The content was found to differ from the primary's in this set; reads are refused.
    #[serde(default)]
    pub differs: Option<u64>,
    /// Blocks of the content that turned out damaged since the start.
    #[serde(default)]
    pub damaged_blocks: u64,
    /// What is known to be damaged here now, or cannot be proved, in words: a replica of which this
    /// is said is not made the writer unasked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub damage: Option<String>,
    /// This writer took over, or goes on, although something was damaged, on an operator's word:
    /// what was lost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub took_damage: Option<String>,
    /// How far the content has been looked through in this round, at a replica.
    #[serde(default)]
    pub scrub_percent: Option<u64>,
    /// When the last complete round ended.
    #[serde(default)]
    pub scrubbed_us: Option<u64>,
    /// Bytes per second of these rounds, at a replica; 0: there are none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scrub_rate: Option<u64>,
    /// Seconds from the end of one round to the beginning of the next, at a replica.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scrub_every_s: Option<u64>,
    /// How far a round has come that somebody asked for (`rcpctl verify --deep`), in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scrub_asked: Option<String>,
    /// The delta-set table, newest first.
    pub sets: Vec<SetInfo>,
    /// The volume's writers, oldest first.
    #[serde(default)]
    pub history: Vec<HistoryLine>,
    /// A history that contradicts this one, if this node has heard of one: newer, or a split.
    #[serde(default)]
    pub rival: Vec<HistoryLine>,
    /// Why this writer may not write, in words.
    #[serde(default)]
    pub fenced: Option<String>,
    /// That is only because nobody below has confirmed yet that there is no newer writer.
    #[serde(default)]
    pub confirming: bool,
    /// It was handed over in order, and nobody has taken over yet.
    #[serde(default)]
    pub handed_over: Option<HandedOver>,
    /// Two writers did not know of each other, in words.
    #[serde(default)]
    pub split: Option<String>,
    /// This node is about to be the writer, or it is not known yet whether it is.
    #[serde(default)]
    pub promoting: bool,
}

/// The digest of a volume in one state.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StateDigest {
    /// The state.
    pub set: u64,
    /// 32 hexadecimal digits.
    pub digest: String,
}

impl VolumeInfo {
    /// It has a whole state, whether it is read or mirrors.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.state.starts_with("readable") || self.mirrors()
    }

    /// It mirrors, and no version of it was wanted.
    #[must_use]
    pub fn mirrors(&self) -> bool {
        self.state.starts_with("mirroring")
    }

    /// What its group calls it.
    #[must_use]
    pub fn in_group(&self) -> &str {
        if self.source.is_empty() { &self.label } else { &self.source }
    }

    /// Whether an operator may mean it by this name: its label here, the group's, or its UUID.
    #[must_use]
    pub fn is_called(&self, name: &str) -> bool {
        self.label == name || self.source == name || self.id == name
    }
}

/// How far a child is with one volume.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ChildProgress {
    /// The child.
    pub node: String,
    /// `resuming`, `streaming`, `waiting`, `seeding`, `catching up`, `detached`, `offline`.
    pub state: String,
    /// Why, in words.
    pub reason: Option<String>,
    /// Last set durable at the child.
    pub saved_set: u64,
    /// Bytes of the save volume it still has to acknowledge.
    pub behind_bytes: u64,
    /// Percent of a seed or catch-up sent.
    pub seed_percent: Option<f64>,
    /// What holds back the stream to it, while it is behind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delayed: Option<Delayed>,
}

/// Why something is behind, as far as the node that says so can see.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Delayed {
    /// `disk`, `link`, `limit`, `child`, `readers`, `playback`, `stopped` or `parent`.
    pub cause: String,
    /// The node that it is about, where that is another one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// The same for people.
    pub text: String,
    /// Since when something that exists is waited for.
    pub since_us: u64,
}

/// What is known of the subtree below a node.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SubtreeStatus {
    /// Nodes with a replica.
    pub nodes: u32,
    /// Oldest and newest visible set.
    pub played: (u64, u64),
    /// Oldest saved set.
    pub saved_min: u64,
    /// Visible set → number of replicas.
    pub by_state: Vec<(u64, u32)>,
    /// The leaves furthest behind: name, set, lag in seconds, words.
    pub worst: Vec<(String, u64, f64, String)>,
}

/// What came of a changed topology at a running node, in words.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopologyTaken {
    /// Taken: addresses, and who may feed this node.
    pub taken: Vec<String>,
    /// Routes that differ, and what changes them.
    pub routes: Vec<String>,
    /// What takes effect only when the node is started again.
    pub restart: Vec<String>,
}

/// A row of the delta-set table.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SetInfo {
    /// Set number.
    pub set: u64,
    /// When it was cut at the source.
    pub created_us: u64,
    /// Seconds it took to make; unknown at a replica.
    pub made_in: Option<f64>,
    /// Blocks in it.
    pub blocks: u64,
    /// When the playback group that begins with it was played.
    pub played_us: Option<u64>,
    /// Seconds that playback took, if known.
    #[serde(default)]
    pub played_in: Option<f64>,
    /// Distinct blocks of the playback group, if known.
    #[serde(default)]
    pub played_blocks: Option<u64>,
    /// Sets in that group.
    pub group: Option<u64>,
}

/// The blocks that changed from one kept state to another (DIFF-01): what to read of the younger to
/// make it of the older.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changes {
    /// Id of the older state; without one, every block is listed.
    pub since: Option<String>,
    /// Id of the younger state.
    pub state: String,
    /// Bytes of a block.
    pub block_size: u64,
    /// Bytes of the volume in the younger state.
    pub size: u64,
    /// First block and how many, in rising order.
    pub runs: Vec<(u64, u64)>,
    /// There are more, from this block on.
    pub next: Option<u64>,
}

/// Answer to a demanded cut.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CutInfo {
    /// The state.
    pub set: u64,
    /// Its id in full.
    pub state_id: String,
    /// A new set was made; false if nothing had changed.
    pub fresh: bool,
}

/// One writer's line in a volume's history.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistoryLine {
    /// Its generation, abbreviated.
    pub generation: String,
    /// Last state that it shares with the line before it.
    pub forked_from: u64,
    /// The node that opened it.
    pub opened_by: String,
    /// When.
    pub opened_at_us: u64,
}

/// A writer that made room for another.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HandedOver {
    /// The node that is to take over.
    pub to: String,
    /// The last set, which that node has.
    pub set: u64,
}

/// A node became the writer of a volume.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Promoted {
    /// The line it opened, abbreviated.
    pub generation: String,
    /// The last state that the new line shares with the one before: the restart point, which is
    /// kept.
    pub set: u64,
    /// Newest set that this node knew of; sets after `set` up to here are lost.
    pub newest_known_set: u64,
    /// False: it was the writer already.
    pub fresh: bool,
    /// What was damaged there, and is lost; in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub damaged: Option<String>,
}

/// A change of who the writer of a volume is, asked of one node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "change", rename_all = "snake_case", deny_unknown_fields)]
pub enum WriterChange {
    /// It takes over (FAIL-03); a writer that was fenced, or split, opens a line newer than all it
    /// knows.
    Promote {
        /// Label or UUID.
        volume: String,
        /// Complete sets that are not shown yet are not played (FAIL-07).
        #[serde(default)]
        now: bool,
        /// Only if everything that is there ends with this set; with `now`: complete sets are
        /// played up to this one.
        #[serde(default)]
        at: Option<u64>,
        /// Counter of the newest line that is known anywhere: the new one is above it.
        #[serde(default)]
        above: u32,
        /// Although blocks are known to be damaged here, or nothing proves the content: what the
        /// disk holds is the volume then.
        #[serde(default)]
        lose_damaged_blocks: bool,
    },
    /// Writers wait, and a last set is made (F33). Without what follows, they go on after a while.
    Hold {
        /// Label or UUID.
        volume: String,
        /// How long.
        limit_ms: u64,
    },
    /// After `Hold`: it writes no more, `to` takes over.
    HandOver {
        /// Label or UUID.
        volume: String,
        /// Which node.
        to: String,
        /// The set that `Hold` led to.
        set: u64,
        /// `to` has that set, and goes on from it: clients that connect again may repeat there what
        /// was not answered here. Otherwise they are refused.
        #[serde(default)]
        whole: bool,
    },
    /// Undoes `Hold` and `HandOver`, if nobody took over.
    TakeBack {
        /// Label or UUID.
        volume: String,
    },
    /// A writer whose place was taken becomes a replica.
    Resync {
        /// Label or UUID.
        volume: String,
        /// What the new writer does not have may be given up.
        #[serde(default)]
        discard: bool,
    },
    /// Gives a branch up.
    DropBranch {
        /// Label or UUID.
        volume: String,
        /// Its name.
        branch: String,
    },
    /// Writers are let in although no child has confirmed that there is no newer one.
    Alone {
        /// Label or UUID.
        volume: String,
    },
}

impl WriterChange {
    /// Label or UUID of the volume that it is about.
    #[must_use]
    pub fn volume(&self) -> &str {
        match self {
            Self::Promote { volume, .. }
            | Self::Hold { volume, .. }
            | Self::HandOver { volume, .. }
            | Self::TakeBack { volume }
            | Self::Resync { volume, .. }
            | Self::DropBranch { volume, .. }
            | Self::Alone { volume } => volume,
        }
    }
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub enum WriterAnswer {
    /// It is the writer.
    Promoted(Promoted),
    /// Writers wait; this was the last set.
    Held(CutInfo),
    /// A former writer is a replica, and its content is on its way back.
    Rewound(Rewound),
    /// Done.
    Done,
}

/// Content that is taken back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rewound {
    /// The state it goes back to.
    pub fork: u64,
    /// The branch that keeps what was held.
    pub branch: Option<String>,
}

/// A state of a line that ended, kept at a node that was past its end.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BranchStatus {
    /// What it is called: it is read as `LABEL@branch:NAME`.
    pub name: String,
    /// `COUNTER-ID` of its line.
    pub generation: String,
    /// Who opened that line, if known here.
    pub opened_by: String,
    /// Its state.
    pub set: u64,
    /// Last state that it has in common with the line that is followed.
    pub fork: u64,
    /// Size in bytes.
    pub size: u64,
    /// Blocks of it in the snapshot area.
    pub saved_blocks: u64,
    /// It can no longer be read.
    pub broken: bool,
    /// When it was kept.
    pub kept_us: u64,
}

/// What a volume is to be.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VolumeSpec {
    /// Its label.
    pub label: String,
    /// Its group.
    pub group: String,
    /// Size in bytes.
    pub size: u64,
    /// Block size in bytes.
    pub block_size: Option<u64>,
    /// Backing file or block device; default: a sparse file in the data folder.
    pub backing: Option<String>,
    /// Capacity of the save volume in bytes.
    pub save: Option<u64>,
    /// The backing file already holds content that must become the first state.
    pub import: bool,
}

/// A change of policy; `None` leaves a value as it is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PolicyChange {
    /// High-water mark in bytes.
    pub hwm: Option<u64>,
    /// Timeout in milliseconds.
    pub timeout_ms: Option<u64>,
    /// Replication persists over a restart.
    pub persistent: Option<bool>,
}

/// What one member of a group said.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MemberResult {
    /// Which node.
    pub node: String,
    /// It did what was asked.
    pub ok: bool,
    /// The result, or why there is none.
    pub text: String,
}

/// A line of a group's routing table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RouteEntry {
    /// The group.
    pub group: String,
    /// The node the line belongs to.
    pub node: String,
    /// Its next hops.
    pub next_hops: Vec<String>,
    /// How next hops are reached that say something of their own: `transport=quic`.
    #[serde(default, skip_serializing_if = "std::collections::BTreeMap::is_empty")]
    pub ways: std::collections::BTreeMap<String, String>,
}

/// How a next hop is reached; what is not given is as the topology says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RouteWay {
    /// `tcp`, `tls` or `quic`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transport: Option<String>,
    /// `cubic`, `bbr` or `reno`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub congestion: Option<String>,
    /// URL of the HTTP proxy it goes through.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub via: Option<String>,
    /// File with the CA of that proxy, on the node's machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<String>,
    /// How fast it may be, by the time of day in UTC: `20Mbit/s@08:00-18:00`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<String>,
    /// How many connections carry it, from `1` to `16`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connections: Option<String>,
}

impl RouteWay {
    /// Nothing is given.
    #[must_use]
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// In values.
    ///
    /// # Errors
    /// What is wrong, in words.
    pub fn hop(&self) -> Result<Hop, String> {
        fn read<T: std::str::FromStr>(text: Option<&String>) -> Result<Option<T>, String>
        where
            T::Err: std::fmt::Display,
        {
            text.map(|t| t.parse().map_err(|e: T::Err| e.to_string())).transpose()
        }
        Ok(Hop {
            transport: read(self.transport.as_ref())?,
            congestion: read(self.congestion.as_ref())?,
            via: read(self.via.as_ref())?,
            ca: self.ca.clone().filter(|c| !c.is_empty() && c.len() <= config::limits::MAX_PATH),
            limit: read(self.limit.as_ref())?,
            connections: read(self.connections.as_ref())?,
        })
    }
}

impl From<&Hop> for RouteWay {
    fn from(hop: &Hop) -> Self {
        Self {
            transport: hop.transport.map(|t| t.to_string()),
            congestion: hop.congestion.map(|c| c.to_string()),
            via: hop.via.as_ref().map(ToString::to_string),
            ca: hop.ca.clone(),
            limit: hop.limit.as_ref().map(ToString::to_string),
            connections: hop.connections.map(|n| n.to_string()),
        }
    }
}

/// The routing table of a node.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RouteTable {
    /// Rises with every change.
    pub revision: u64,
    /// This node's own lines first, then those known from below.
    pub entries: Vec<RouteEntry>,
}

/// Bytes of one state of a volume, for HTTP.
pub trait StateReader: Send + Sync {
    /// Size in bytes.
    fn size(&self) -> u64;
    /// State id in full: the ETag. `None` for a primary's live content, which has no fixed state.
    fn state_id(&self) -> Option<String>;
    /// Reads exactly `buf.len()` bytes. May block: call it off the async threads.
    ///
    /// # Errors
    /// When the state can no longer be read, or the disk fails.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), ApiError>;
}

/// The verbs of a running node.
pub trait NodeApi: Send + Sync + 'static {
    /// Everything at once.
    fn status(&self) -> Answer<'_, NodeStatus>;
    /// Ready to serve: recovery is done, listeners are up. The text says what is missing.
    fn ready(&self) -> Result<(), String>;
    /// Whether the volume takes writes here, now.
    fn writes(&self, volume: &str) -> bool;
    /// Whether a replica of the volume can be read here, now.
    fn shows(&self, volume: &str) -> bool;
    /// Cuts a set now; with `keep` the state stays readable at the primary.
    fn cut<'a>(&'a self, volume: &'a str, keep: bool) -> Answer<'a, CutInfo>;
    /// Keeps a visible or future state readable as `LABEL@STATE`.
    fn keep<'a>(&'a self, volume: &'a str, set: u64) -> Answer<'a, ()>;
    /// Gives a kept state up.
    fn release<'a>(&'a self, volume: &'a str, set: u64) -> Answer<'a, ()>;
    /// Opens a state for reading: the present one, or `state` (a set number or a full state id).
    fn open_state<'a>(
        &'a self,
        volume: &'a str,
        state: Option<&'a str>,
    ) -> Answer<'a, std::sync::Arc<dyn StateReader>>;
    /// The blocks, from block `from` on, that changed from kept state `since` to kept state
    /// `state`; without `since` all.
    fn changes<'a>(
        &'a self,
        volume: &'a str,
        since: Option<&'a str>,
        state: &'a str,
        from: u64,
    ) -> Answer<'a, Changes>;
    /// Creates or imports a volume at the primary of its group.
    fn volume_create(&self, spec: VolumeSpec) -> Answer<'_, VolumeInfo>;
    /// Grows a volume to `size` bytes; answered when the new size is durable and can be used.
    fn volume_resize<'a>(&'a self, volume: &'a str, size: u64) -> Answer<'a, ()>;
    /// Changes a volume's label.
    fn volume_rename<'a>(&'a self, volume: &'a str, label: &'a str) -> Answer<'a, ()>;
    /// Removes a volume and, unless it is an outside file or device, its content.
    fn volume_delete<'a>(&'a self, volume: &'a str) -> Answer<'a, ()>;
    /// Out of service for good: stores that, and ends. Refused while something depends on it.
    fn retire(&self) -> Answer<'_, ()>;
    /// One step of a volume's way to another node.
    fn volume_move(&self, step: crate::shift::Step) -> Answer<'_, crate::shift::Answered>;
    /// Makes and sends delta sets (true), or only marks changes (false).
    fn replicate<'a>(&'a self, volume: &'a str, on: bool) -> Answer<'a, ()>;
    /// Takes from a topology (its text) what a running node can take.
    fn topology(&self, text: String) -> Answer<'_, TopologyTaken>;
    /// Takes what a command says of a group, durably and at once; without a definition the group is
    /// forgotten, of which no volume may be here.
    fn group_define(&self, group: String, definition: Option<config::AddedGroup>)
    -> Answer<'_, ()>;
    /// Brings a child back by a new seed.
    fn seed<'a>(&'a self, volume: &'a str, child: &'a str) -> Answer<'a, ()>;
    /// Lets go of a child, so that what it lacks is kept for it no longer.
    fn detach<'a>(&'a self, volume: &'a str, child: &'a str) -> Answer<'a, ()>;
    /// Changes when sets are made or played.
    fn policy<'a>(&'a self, volume: &'a str, change: PolicyChange) -> Answer<'a, ()>;
    /// Brings a mirror to a version (true), or has it mirror again.
    fn views<'a>(&'a self, volume: &'a str, open: bool) -> Answer<'a, ()>;
    /// Changes who the writer of a volume is; answered when that is durable.
    fn writer(&self, change: WriterChange) -> Answer<'_, WriterAnswer>;
    /// Has every replica hash the first `len` bytes of a state (XXH3, 128 bits), and waits for all.
    fn hash<'a>(
        &'a self,
        volume: &'a str,
        set: u64,
        len: u64,
        wait: std::time::Duration,
    ) -> Answer<'a, Vec<MemberResult>>;
    /// Has every member of a group execute a control block, at most once each, and waits for all.
    fn block_send(&self, order: Order) -> Answer<'_, Vec<MemberResult>>;
    /// The routing table, of one group if named.
    fn routes<'a>(&'a self, group: Option<&'a str>) -> Answer<'a, RouteTable>;
    /// Adds a next hop: probed, stored and live when this returns; `unasked`: stored, and dialled until
    /// it is there.
    fn route_add<'a>(
        &'a self,
        group: &'a str,
        next_hop: &'a str,
        by: &'a RouteWay,
        unasked: bool,
    ) -> Answer<'a, RouteTable>;
    /// Removes one next hop, or all of a group, or all.
    fn route_delete<'a>(
        &'a self,
        group: Option<&'a str>,
        next_hop: Option<&'a str>,
    ) -> Answer<'a, RouteTable>;
    /// Ends the process in order.
    fn shutdown(&self);
}
