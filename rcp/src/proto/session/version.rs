//! What each version of the protocol can do: the one place that knows.
//!
//! The list of changes is in `PROTOCOL.md`, and a test compares it. A session fits what its node
//! sends to the version that was chosen, and takes nothing of a later one.

use bytes::Bytes;

use super::super::delta::{SetFlags, SetHeader};
use super::super::frame::{Frame, FrameType, StartMode, stream_error};

/// Versions of the protocol that this build speaks, oldest and newest.
pub const VERSIONS: (u16, u16) = (1, 5);

/// What sessions of a version can do, and an earlier one cannot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Abilities {
    /// Its number in Hello and Welcome.
    pub version: u16,
    /// What people call it.
    pub name: &'static str,
    /// A receiver that keeps its content can be sent what changed: the field `over` of Attach, the
    /// mode `catch-up` of Start.
    pub catch_up: bool,
    /// A receiver can tell a writer that another took its place: the frame Fence.
    pub fence: bool,
    /// Set headers tell the digest of the volume, and a receiver can ask for blocks that it names:
    /// the frame Doubt.
    pub digest: bool,
    /// A receiver is told the writer's time, so that lag does not depend on clocks of nodes: the frame
    /// Clock.
    pub clock: bool,
    /// A receiver can ask for sums of block hashes: the frames Compare and Sums.
    pub compare: bool,
    /// A session can have several connections: the frames Join, Joined, Place and Placed, and the field
    /// `join` of Welcome.
    pub join: bool,
    /// A receiver can say how much it could take beside its content, so that sets which rewrite the same
    /// blocks are sent as one step: the field `stages` of Attach.
    pub coalesce: bool,
    /// What it lacks, in words; empty in the newest one.
    pub lacks: &'static str,
}

/// All versions, oldest first.
pub const ABILITIES: [Abilities; 5] = [
    Abilities {
        version: 1,
        name: "1.0",
        catch_up: false,
        fence: false,
        digest: false,
        clock: false,
        compare: false,
        join: false,
        coalesce: false,
        lacks: "no catch-ups (who fell behind the save volume is sent a seed, all of its content), \
                no fences (a writer whose place was taken is not told so through this hop), no \
                digests (the content below is not held against the primary's, and damaged blocks \
                are not fetched again), no further connections (`connections` counts for nothing), \
                and no coalescing (a receiver takes every set that it lacks)",
    },
    Abilities {
        version: 2,
        name: "1.1",
        catch_up: true,
        fence: true,
        digest: false,
        clock: false,
        compare: false,
        join: false,
        coalesce: false,
        lacks: "no digests (the content below is not held against the primary's, and damaged \
                blocks are not fetched again), no further connections (`connections` counts for \
                nothing), and no coalescing (a receiver takes every set that it lacks)",
    },
    Abilities {
        version: 3,
        name: "1.2",
        catch_up: true,
        fence: true,
        digest: true,
        clock: true,
        compare: false,
        join: false,
        coalesce: false,
        lacks: "no comparing of hashes (what differs below is looked for among the blocks that \
                changed), no further connections (`connections` counts for nothing), and no \
                coalescing (a receiver takes every set that it lacks)",
    },
    Abilities {
        version: 4,
        name: "1.3",
        catch_up: true,
        fence: true,
        digest: true,
        clock: true,
        compare: true,
        join: true,
        coalesce: false,
        lacks: "no coalescing (a receiver takes every set that it lacks, also where they rewrite the \
                same blocks again and again)",
    },
    Abilities {
        version: 5,
        name: "1.4",
        catch_up: true,
        fence: true,
        digest: true,
        clock: true,
        compare: true,
        join: true,
        coalesce: true,
        lacks: "",
    },
];

/// What sessions of a version can do. Numbers that are not listed are never chosen; they count as
/// the oldest.
#[must_use]
pub fn abilities(version: u16) -> Abilities {
    ABILITIES.into_iter().find(|a| a.version == version).unwrap_or(ABILITIES[0])
}

/// The number of a version by its name, say `1.0`.
#[must_use]
pub fn version_named(name: &str) -> Option<u16> {
    ABILITIES.iter().find(|a| a.name == name).map(|a| a.version)
}

/// Whether a version has a type of frame, or something that [`fit`] makes of it.
pub(super) fn has(version: u16, frame: FrameType) -> bool {
    let can = abilities(version);
    match frame {
        FrameType::Doubt => can.digest,
        FrameType::Clock => can.clock,
        FrameType::Compare | FrameType::Sums => can.compare,
        FrameType::Place | FrameType::Placed => can.join,
        _ => true,
    }
}

/// A frame of the node in the words of a version.
pub(super) fn fit(version: u16, frame: Frame) -> Frame {
    let can = abilities(version);
    match frame {
        Frame::Fence { stream, text, .. } if !can.fence => {
            Frame::StreamError { stream, code: stream_error::DIVERGED, text }
        }
        Frame::SetEnd { stream, feeder, seq, body } if !can.digest => {
            Frame::SetEnd { stream, feeder, seq, body: without_digest(body) }
        }
        Frame::Attach(mut a) if !can.coalesce => {
            a.over = a.over.filter(|_| can.catch_up);
            a.stages = None;
            Frame::Attach(a)
        }
        other => other,
    }
}

/// A set header that tells no digest; all else of it stays.
fn without_digest(body: Bytes) -> Bytes {
    match SetHeader::parse(&body) {
        Ok(h) if h.digest_sum().is_some() => {
            let flags = h.flags.with(SetFlags::DIGEST_ABSENT);
            SetHeader { flags, digest: [0; 32], ..h }.to_bytes()
        }
        _ => body,
    }
}

/// Whether a version knows a frame, with its fields.
pub(super) fn knows(version: u16, frame: &Frame) -> bool {
    let can = abilities(version);
    match frame {
        Frame::Fence { .. } => can.fence,
        Frame::Doubt { .. } => can.digest,
        Frame::Clock { .. } => can.clock,
        Frame::Compare { .. } | Frame::Sums { .. } => can.compare,
        Frame::Place { .. } | Frame::Placed { .. } => can.join,
        // What is no sound header is told from its own check.
        Frame::SetEnd { body, .. } if !can.digest => {
            SetHeader::parse(body).map_or(true, |h| h.digest_sum().is_none())
        }
        Frame::Attach(a) => {
            (can.catch_up || a.over.is_none()) && (can.coalesce || a.stages.is_none())
        }
        Frame::Start(s) => can.catch_up || !matches!(s.mode, StartMode::CatchUp { .. }),
        _ => true,
    }
}
