//! May this peer be met? The checks of a hello and of a welcome.

use std::time::Duration;

use super::super::frame::{Hello, RefuseCode, Role, Welcome};
use super::super::limits::{MAX_KEEPALIVE, MIN_KEEPALIVE};
use super::{Peer, SessionConfig};

/// A refusal: its code and its words.
pub(super) type No = (RefuseCode, String);

/// The newest version that both ranges contain.
pub(super) fn choose_version(ours: (u16, u16), theirs: (u16, u16)) -> Option<u16> {
    let newest = ours.1.min(theirs.1);
    (newest >= ours.0.max(theirs.0)).then_some(newest)
}

/// Checks a hello and describes the peer.
pub(super) fn check_hello(cfg: &SessionConfig, hello: &Hello) -> Result<Peer, No> {
    let version = choose_version(cfg.versions, hello.versions).ok_or_else(|| {
        let ((a, b), (c, d)) = (cfg.versions, hello.versions);
        (RefuseCode::Version, format!("{} speaks versions {a} to {b}, not {c} to {d}", cfg.node))
    })?;
    let h = hello.clone();
    let peer = Peer {
        node: h.node,
        instance: h.instance,
        version,
        role: h.role,
        path: h.path,
        feeder: feeder(cfg, h.role, h.feeder),
        keepalive: keepalive(cfg, h.keepalive_ms),
        join: None,
    };
    check_group(cfg, &hello.group)?;
    check_peer(cfg, &peer)?;
    Ok(peer)
}

/// Checks a welcome against the role that this node asked for, and describes the peer.
pub(super) fn check_welcome(cfg: &SessionConfig, ours: Role, w: Welcome) -> Result<Peer, No> {
    if !(cfg.versions.0..=cfg.versions.1).contains(&w.version) {
        let text = format!("{} chose version {}, which was not offered", w.node, w.version);
        return Err((RefuseCode::Version, text));
    }
    if w.role != ours.other() {
        let text = format!("{} wants the role that {} has", w.node, cfg.node);
        return Err((RefuseCode::Role, text));
    }
    check_group(cfg, &w.group)?;
    let peer = Peer {
        node: w.node,
        instance: w.instance,
        version: w.version,
        role: w.role,
        path: w.path,
        feeder: feeder(cfg, w.role, w.feeder),
        keepalive: keepalive(cfg, w.keepalive_ms),
        join: w.join,
    };
    check_peer(cfg, &peer)?;
    Ok(peer)
}

fn check_group(cfg: &SessionConfig, group: &super::super::ids::GroupName) -> Result<(), No> {
    if *group == cfg.group {
        return Ok(());
    }
    Err((RefuseCode::Group, format!("this session is for group {}, not {group}", cfg.group)))
}

fn check_peer(cfg: &SessionConfig, peer: &Peer) -> Result<(), No> {
    let (us, it) = (&cfg.node, &peer.node);
    if us == it {
        return Err((RefuseCode::Name, format!("both ends are called {us}")));
    }
    match peer.role {
        Role::Receiver if !peer.path.is_empty() => {
            Err((RefuseCode::Protocol, format!("{it} is fed but sends a path")))
        }
        Role::Receiver if !cfg.children.allows(it) => {
            Err((RefuseCode::Peer, format!("{it} is not among the nodes that {us} feeds")))
        }
        Role::Receiver if cfg.path.contains(it) => {
            Err((RefuseCode::Loop, format!("{it} is on the path from the primary to {us}")))
        }
        Role::Sender if !cfg.feeders.allows(it) => {
            let text = format!(
                "{it} is not among the feeders of {us}: write it into the group's `routes` or `feeders` \
                 in the topology, and tell {us} (`rcpctl topology apply`, or a restart of it)"
            );
            Err((RefuseCode::Peer, text))
        }
        Role::Sender if peer.path.contains(us) => {
            Err((RefuseCode::Loop, format!("{us} is on the path from the primary to {it}")))
        }
        _ => Ok(()),
    }
}

/// The receiver's number counts, on both sides.
fn feeder(cfg: &SessionConfig, peer: Role, theirs: u32) -> u32 {
    match peer {
        Role::Sender => cfg.feeder,
        Role::Receiver => theirs,
    }
}

/// The shorter of the two wishes, within the limits.
fn keepalive(cfg: &SessionConfig, theirs_ms: u32) -> Duration {
    let theirs = Duration::from_millis(u64::from(theirs_ms));
    cfg.keepalive.min(theirs).clamp(MIN_KEEPALIVE, MAX_KEEPALIVE)
}
