//! A node that is made up: it answers from memory and remembers what it was asked.

use std::sync::Arc;

use parking_lot::Mutex;

use crate::api::{
    Answer, ApiError, ApiErrorKind, Changes, ChildProgress, CutInfo, GroupStatus, LinkStatus,
    NodeApi, NodeStatus, PolicyChange, RouteEntry, RouteTable, RouteWay, SecurityStatus,
    StateReader, SubtreeStatus, VolumeInfo, VolumeSpec, WriterAnswer, WriterChange,
};

/// State id of `db` in set 16.
pub(crate) const DB_16: &str =
    "07070707-0707-0707-0707-070707070707.1-abababababababababababababababab.16";
/// State id of `db` in the kept set 12.
pub(crate) const DB_12: &str =
    "07070707-0707-0707-0707-070707070707.1-abababababababababababababababab.12";
/// Not a multiple of anything.
pub(crate) const DB_SIZE: usize = (3 << 20) + 123;

/// What every byte of a state is.
pub(crate) fn content(set: u64) -> Vec<u8> {
    (0..DB_SIZE).map(|i| u8::try_from((i as u64 * 31 + set) % 251).unwrap_or(0)).collect()
}

#[derive(Default)]
pub(crate) struct FakeNode {
    pub(crate) asked: Mutex<Vec<String>>,
    pub(crate) status: Mutex<NodeStatus>,
    pub(crate) not_ready: Mutex<Option<String>>,
    /// What it says to the next routes that it is to add; then it adds them.
    pub(crate) refuses: Mutex<Vec<ApiError>>,
}

impl FakeNode {
    pub(crate) fn new() -> Arc<Self> {
        let node = Self::default();
        *node.status.lock() = status();
        Arc::new(node)
    }

    fn note(&self, what: String) {
        self.asked.lock().push(what);
    }

    fn known(&self, volume: &str) -> Result<(), ApiError> {
        match volume {
            "db" | "live" | "broken" => Ok(()),
            other => Err(ApiError::new(
                ApiErrorKind::NotFound,
                format!("this node has no volume `{other}`; it has: broken, db, live"),
            )),
        }
    }
}

/// Reads from memory; `broken` fails from the second MiB on.
struct FakeReader {
    data: Vec<u8>,
    state: Option<&'static str>,
    fails_from: u64,
}

impl StateReader for FakeReader {
    fn size(&self) -> u64 {
        self.data.len() as u64
    }

    fn state_id(&self) -> Option<String> {
        self.state.map(str::to_owned)
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), ApiError> {
        if offset + buf.len() as u64 > self.fails_from {
            return Err(ApiError::new(ApiErrorKind::Unavailable, "state 3 of `broken` is gone"));
        }
        let from = usize::try_from(offset).expect("offset");
        buf.copy_from_slice(&self.data[from..from + buf.len()]);
        Ok(())
    }
}

fn later<'a, T: Send + 'a>(value: Result<T, ApiError>) -> Answer<'a, T> {
    Box::pin(async move { value })
}

impl NodeApi for FakeNode {
    fn status(&self) -> Answer<'_, NodeStatus> {
        later(Ok(self.status.lock().clone()))
    }

    fn ready(&self) -> Result<(), String> {
        self.not_ready.lock().clone().map_or(Ok(()), Err)
    }

    fn writes(&self, volume: &str) -> bool {
        volume == "db"
    }

    fn shows(&self, volume: &str) -> bool {
        volume == "mail"
    }

    fn cut<'a>(&'a self, volume: &'a str, keep: bool) -> Answer<'a, CutInfo> {
        self.note(format!("cut {volume} {keep}"));
        later(self.known(volume).map(|()| CutInfo {
            set: 17,
            state_id: DB_16.replace(".16", ".17"),
            fresh: !keep,
        }))
    }

    fn hash<'a>(
        &'a self,
        volume: &'a str,
        set: u64,
        len: u64,
        _wait: std::time::Duration,
    ) -> Answer<'a, Vec<crate::api::MemberResult>> {
        self.note(format!("hash {volume} {set} {len}"));
        later(self.known(volume).map(|()| Vec::new()))
    }

    fn block_send(&self, order: crate::mover::Order) -> Answer<'_, Vec<crate::api::MemberResult>> {
        self.note(format!("block {} {} {:?}", order.group, order.kind, order.after));
        later(Ok(Vec::new()))
    }

    fn keep<'a>(&'a self, volume: &'a str, set: u64) -> Answer<'a, ()> {
        self.note(format!("keep {volume} {set}"));
        later(self.known(volume))
    }

    fn release<'a>(&'a self, volume: &'a str, set: u64) -> Answer<'a, ()> {
        self.note(format!("release {volume} {set}"));
        later(Err(ApiError::new(
            ApiErrorKind::Conflict,
            format!("state {set} of `{volume}` is not kept; kept: 12"),
        )))
    }

    fn open_state<'a>(
        &'a self,
        volume: &'a str,
        state: Option<&'a str>,
    ) -> Answer<'a, Arc<dyn StateReader>> {
        let fails_from = if volume == "broken" { 1 << 20 } else { u64::MAX };
        let opened = self.known(volume).and_then(|()| {
            let (set, state) = match (volume, state) {
                ("live", None) => (99, None),
                (_, None | Some("16")) => (16, Some(DB_16)),
                (_, Some("12")) => (12, Some(DB_12)),
                (_, Some(id)) if id == DB_12 => (12, Some(DB_12)),
                (_, Some(other)) => {
                    return Err(ApiError::new(
                        ApiErrorKind::NotFound,
                        format!("`{volume}` has no state {other}; nearest: 12 and 16"),
                    ));
                }
            };
            Ok(Arc::new(FakeReader { data: content(set), state, fails_from })
                as Arc<dyn StateReader>)
        });
        later(opened)
    }

    fn changes<'a>(
        &'a self,
        volume: &'a str,
        since: Option<&'a str>,
        state: &'a str,
        from: u64,
    ) -> Answer<'a, Changes> {
        let found = self.known(volume).map(|()| Changes {
            since: since.map(str::to_owned),
            state: state.to_owned(),
            block_size: 4096,
            size: 1 << 20,
            runs: vec![(from.max(3), 2)],
            next: None,
        });
        later(found)
    }

    fn volume_create(&self, spec: VolumeSpec) -> Answer<'_, VolumeInfo> {
        self.note(format!("create {spec:?}"));
        later(Ok(VolumeInfo {
            label: spec.label,
            group: spec.group,
            size: spec.size,
            role: "primary".into(),
            state: "writable".into(),
            ..VolumeInfo::default()
        }))
    }

    fn volume_resize<'a>(&'a self, volume: &'a str, size: u64) -> Answer<'a, ()> {
        self.note(format!("resize {volume} {size}"));
        later(self.known(volume))
    }

    fn volume_rename<'a>(&'a self, volume: &'a str, label: &'a str) -> Answer<'a, ()> {
        self.note(format!("rename {volume} {label}"));
        later(self.known(volume))
    }

    fn volume_delete<'a>(&'a self, volume: &'a str) -> Answer<'a, ()> {
        self.note(format!("delete {volume}"));
        later(self.known(volume))
    }

    fn retire(&self) -> Answer<'_, ()> {
        self.note("retire".into());
        later(Ok(()))
    }

    fn volume_move(&self, step: crate::shift::Step) -> Answer<'_, crate::shift::Answered> {
        self.note(format!("{step:?}"));
        later(Ok(crate::shift::Answered::Done))
    }

    fn replicate<'a>(&'a self, volume: &'a str, on: bool) -> Answer<'a, ()> {
        self.note(format!("replicate {volume} {on}"));
        later(self.known(volume))
    }

    fn views<'a>(&'a self, volume: &'a str, open: bool) -> Answer<'a, ()> {
        self.note(format!("views {volume} {open}"));
        later(self.known(volume))
    }

    fn seed<'a>(&'a self, volume: &'a str, child: &'a str) -> Answer<'a, ()> {
        self.note(format!("seed {volume} {child}"));
        later(self.known(volume))
    }

    fn detach<'a>(&'a self, volume: &'a str, child: &'a str) -> Answer<'a, ()> {
        self.note(format!("detach {volume} {child}"));
        later(self.known(volume))
    }

    fn policy<'a>(&'a self, volume: &'a str, change: PolicyChange) -> Answer<'a, ()> {
        self.note(format!(
            "policy {volume} {:?} {:?} {:?}",
            change.hwm, change.timeout_ms, change.persistent
        ));
        later(self.known(volume))
    }

    fn writer(&self, change: WriterChange) -> Answer<'_, WriterAnswer> {
        self.note(format!("{change:?}"));
        later(Ok(WriterAnswer::Done))
    }

    fn routes<'a>(&'a self, group: Option<&'a str>) -> Answer<'a, RouteTable> {
        self.note(format!("routes {group:?}"));
        later(Ok(table()))
    }

    fn route_add<'a>(
        &'a self,
        group: &'a str,
        next_hop: &'a str,
        by: &'a RouteWay,
        unasked: bool,
    ) -> Answer<'a, RouteTable> {
        let by = by.hop().expect("a way").to_string();
        let unasked = if unasked { "unasked" } else { "" };
        let words = ["route add", group, next_hop, &by, unasked];
        let said: Vec<_> = words.into_iter().filter(|w| !w.is_empty()).collect();
        self.note(said.join(" "));
        let no = self.refuses.lock().pop();
        later(no.map_or_else(|| Ok(table()), Err))
    }

    fn route_delete<'a>(
        &'a self,
        group: Option<&'a str>,
        next_hop: Option<&'a str>,
    ) -> Answer<'a, RouteTable> {
        self.note(format!("route delete {group:?} {next_hop:?}"));
        later(Ok(RouteTable { revision: 5, entries: vec![] }))
    }

    fn topology(&self, text: String) -> Answer<'_, crate::api::TopologyTaken> {
        self.note(format!("topology {text}"));
        later(Ok(crate::api::TopologyTaken::default()))
    }

    fn group_define(
        &self,
        group: String,
        definition: Option<config::AddedGroup>,
    ) -> Answer<'_, ()> {
        self.note(format!("group {group} {:?}", definition.map(|d| (d.revision, d.primary))));
        later(Ok(()))
    }

    fn shutdown(&self) {
        self.note("shutdown".into());
    }
}

fn table() -> RouteTable {
    let entry = |node: &str, hops: &[&str]| RouteEntry {
        group: "g1".into(),
        node: node.into(),
        next_hops: hops.iter().map(|h| (*h).to_owned()).collect(),
        ways: std::collections::BTreeMap::new(),
    };
    RouteTable {
        revision: 4,
        entries: vec![
            entry("cel1-ser2", &["cel2-ser2"]),
            entry("cel2-ser2", &["cel2-ser3", "cel2-ser4"]),
        ],
    }
}

/// A primary with two children, one of which is gone.
pub(crate) fn status() -> NodeStatus {
    let at_us = 1_795_723_200_000_000; // 2026-11-26 20:00:00 UTC
    let link = |node: &str, state: &str, reason: Option<&str>, ago: u64| LinkStatus {
        node: node.into(),
        addr: "127.0.0.1:7102".into(),
        state: state.into(),
        reason: reason.map(str::to_owned),
        since_us: at_us - ago * 1_000_000,
        bytes: 5 << 20,
        sessions: 2,
        transport: "tls".into(),
        version: "1.4".into(),
        ..LinkStatus::default()
    };
    let child = |node: &str, state: &str, saved: u64, behind: u64| ChildProgress {
        node: node.into(),
        state: state.into(),
        saved_set: saved,
        behind_bytes: behind,
        ..ChildProgress::default()
    };
    NodeStatus {
        moved: Vec::new(),
        arriving: Vec::new(),
        node: "cel1-ser2".into(),
        at_us,
        started_us: at_us - 7_384_000_000,
        version: "0.1.0".into(),
        listen: "127.0.0.1:7101".into(),
        nbd: vec!["nbd://127.0.0.1:10809".into()],
        security: SecurityStatus::default(),
        groups: vec![GroupStatus {
            group: "g1".into(),
            role: "primary".into(),
            parent: None,
            children: vec![
                link("cel2-ser2", "connected", None, 7_200),
                link("cel9-ser1", "waiting", Some("connection refused"), 12),
            ],
            route_revision: 4,
            routes: [
                ("cel1-ser2".to_owned(), vec!["cel2-ser2".to_owned(), "cel9-ser1".to_owned()]),
                ("cel2-ser2".to_owned(), vec!["cel2-ser3".to_owned()]),
            ]
            .into(),
            drift: vec![],
            added: None,
        }],
        volumes: vec![VolumeInfo {
            label: "db".into(),
            id: "07070707-0707-0707-0707-070707070707".into(),
            group: "g1".into(),
            role: "primary".into(),
            state: "writable, making set 17".into(),
            size: 10 << 30,
            block_size: 4096,
            generation: "1-abababab".into(),
            state_id: DB_16.into(),
            current_set: 16,
            saved_set: 16,
            merged_set: 16,
            newest_known_set: 16,
            current_cut_us: Some(at_us - 4_000_000),
            lag_seconds: Some(0.0),
            save_used: 300 << 20,
            save_capacity: 1 << 30,
            save_position: 700 << 20,
            save_full_in_seconds: Some(5_400.0),
            dirty_bytes: 3 << 20,
            transfer_rate: (17.0667, 25.7444),
            longest_pause_us: 120,
            kept: vec![12],
            children: vec![
                child("cel2-ser2", "streaming", 16, 0),
                child("cel9-ser1", "offline", 11, 300 << 20),
            ],
            subtree: Some(SubtreeStatus {
                nodes: 3,
                played: (11, 16),
                saved_min: 11,
                by_state: vec![(16, 2), (11, 1)],
                worst: vec![("cel9-ser1".into(), 11, 3_004.0, "offline".into())],
            }),
            ..VolumeInfo::default()
        }],
    }
}
