//! Made-up nodes: a small healthy tree after the printed status sample, and what may go wrong.

use crate::api::{GroupStatus, LinkStatus, NodeStatus, SecurityStatus, SetInfo, VolumeInfo};

/// `2026-11-26 HH:MM:SS` UTC in microseconds.
pub(super) fn at(time: &str) -> u64 {
    let stamp: jiff::Timestamp = format!("2026-11-26T{time}Z").parse().expect("time");
    u64::try_from(stamp.as_microsecond()).expect("after 1970")
}

/// Playback time, blocks, sets in the group.
type Played = Option<(&'static str, u64, u64)>;

/// The rows of the printed sample: set, cut, blocks, playback.
const ROWS: [(u64, &str, u64, Played); 13] = [
    (15, "20:11:56", 1, None),
    (14, "20:01:56", 1, None),
    (13, "19:51:56", 1, Some(("21:08:48", 1, 2))),
    (12, "19:41:56", 1, None),
    (11, "19:31:56", 1, Some(("20:48:48", 1, 2))),
    (10, "19:21:56", 1, None),
    (9, "19:11:56", 1, Some(("20:28:28", 1, 2))),
    (8, "18:52:40", 1, Some(("20:08:09", 1, 1))),
    (7, "18:42:40", 1, None),
    (6, "18:32:40", 1, Some(("19:48:09", 1, 2))),
    (5, "18:22:39", 1, None),
    (4, "18:12:39", 1, Some(("19:28:08", 1, 2))),
    (3, "18:02:39", 4, Some(("19:07:23", 4, 1))),
];

fn group(role: &str, parent: Option<LinkStatus>, children: Vec<LinkStatus>) -> GroupStatus {
    GroupStatus {
        group: "g1".into(),
        role: role.into(),
        parent,
        children,
        route_revision: 1,
        ..GroupStatus::default()
    }
}

fn connected(node: &str) -> LinkStatus {
    LinkStatus {
        node: node.into(),
        addr: "127.0.0.1:7102".into(),
        state: "connected".into(),
        since_us: at("18:00:00"),
        bytes: 1_536 << 10,
        sessions: 1,
        ..LinkStatus::default()
    }
}

fn node(name: &str, port: u16, group: GroupStatus, volume: VolumeInfo) -> NodeStatus {
    NodeStatus {
        moved: Vec::new(),
        arriving: Vec::new(),
        node: name.into(),
        at_us: at("21:10:00"),
        started_us: at("18:00:00"),
        version: "0.1.0".into(),
        listen: format!("127.0.0.1:{port}"),
        nbd: vec![format!("nbd+unix:///?socket=/srv/{name}/nbd.sock")],
        security: SecurityStatus::default(),
        groups: vec![group],
        volumes: vec![volume],
    }
}

/// The source of the printed sample (`sfs10`: the direction is reversed after a failover).
pub(super) fn source() -> NodeStatus {
    let sets = ROWS
        .iter()
        .map(|(set, cut, blocks, _)| SetInfo {
            set: *set,
            created_us: at(cut),
            made_in: Some(0.0),
            blocks: *blocks,
            ..SetInfo::default()
        })
        .collect();
    let volume = VolumeInfo {
        label: "pfs10".into(),
        group: "g1".into(),
        role: "primary".into(),
        state: "writable".into(),
        size: 1 << 30,
        block_size: 8 << 10,
        generation: "2-0badcafe".into(),
        state_id: "5f1d.2-0badcafe.15".into(),
        current_set: 15,
        saved_set: 15,
        merged_set: 15,
        newest_known_set: 15,
        current_cut_us: Some(at("20:11:56")),
        lag_seconds: Some(0.0),
        save_used: 136 << 10,
        save_capacity: 1 << 30,
        save_position: 1088 << 13,
        transfer_rate: (17.0667, 25.7444),
        longest_pause_us: 85,
        sets,
        ..VolumeInfo::default()
    };
    node("cel2-ser2", 7101, group("primary", None, vec![connected("cel1-ser2")]), volume)
}

/// The replica of the printed sample.
pub(super) fn replica() -> NodeStatus {
    let sets = ROWS
        .iter()
        .map(|(set, cut, blocks, played)| SetInfo {
            set: *set,
            created_us: at(cut),
            made_in: None,
            blocks: *blocks,
            played_us: played.map(|p| at(p.0)),
            played_in: played.map(|_| 0.0),
            played_blocks: played.map(|p| p.1),
            group: played.map(|p| p.2),
        })
        .collect();
    let volume = VolumeInfo {
        label: "pfs10".into(),
        group: "g1".into(),
        role: "replica".into(),
        state: "readable".into(),
        size: 1 << 30,
        block_size: 8 << 10,
        generation: "2-0badcafe".into(),
        state_id: "5f1d.2-0badcafe.14".into(),
        current_set: 14,
        saved_set: 15,
        merged_set: 14,
        newest_known_set: 15,
        current_cut_us: Some(at("20:01:56")),
        lag_seconds: Some(600.0),
        lag_bytes: 8 << 10,
        outstanding_sets: 1,
        save_used: 8 << 10,
        save_capacity: 1 << 30,
        sets,
        ..VolumeInfo::default()
    };
    node("cel1-ser2", 7102, group("leaf", Some(connected("cel2-ser2")), vec![]), volume)
}
