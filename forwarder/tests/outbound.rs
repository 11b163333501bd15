//! Outbound streams: windows, numbering, seeds, and that no child waits for another.

mod support;

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use forwarder::outbound::{
    Blocked, ChunkSource, Decision, Outbound, SeedNext, SeedPiece, SeedSource, StopReason, Stored,
    StreamState,
};
use forwarder::table::Table;
use proptest::prelude::*;
use rcp::proto::clock::{Mono, Wall};
use rcp::proto::frame::{Attach, Frame, Report, StartMode, StreamId, stream_error};
use rcp::proto::ids::{ChunkNumber, GroupName, NodeName, SetNumber};
use support::{g, n, ns};

const NOW: Mono = Mono(5);
const STREAM: StreamId = StreamId(3);

/// A log in memory with a cursor per child.
#[derive(Default)]
struct Log {
    records: Vec<Stored>,
    cursors: BTreeMap<NodeName, usize>,
    /// Hands out records whatever the budget, and does not know what comes next.
    rude: bool,
    /// What is next is on disk.
    cold: bool,
}

impl Log {
    /// Sets of two chunks and their header each; bodies of `len` bytes.
    fn new(sets: u64, len: usize) -> Self {
        let mut log = Self::default();
        for to in 1..=sets {
            for chunk in 0..3u8 {
                log.records.push(Stored {
                    set_end: chunk == 2,
                    body: vec![chunk; len].into(),
                    to: SetNumber(to),
                    chunk: ChunkNumber(u32::from(chunk)),
                });
            }
        }
        log
    }
}

impl ChunkSource for Log {
    fn next(&mut self, child: &NodeName, budget: u64) -> Option<Stored> {
        let cursor = self.cursors.entry(child.clone()).or_default();
        let found = self.records.get(*cursor)?;
        if self.cold || (!self.rude && size(&found.body) > budget) {
            return None;
        }
        *cursor += 1;
        Some(found.clone())
    }

    fn peek(&mut self, child: &NodeName) -> Option<u64> {
        let cursor = self.cursors.get(child).copied().unwrap_or(0);
        self.records.get(cursor).map(|s| size(&s.body))
    }
}

fn size(b: &Bytes) -> u64 {
    u64::try_from(b.len()).expect("small")
}

fn attach(credit: u64) -> Attach {
    Attach {
        stream: STREAM,
        state: SetNumber(0),
        generation: None,
        next: None,
        credit,
        wants_seed: false,
        seed_from_block: 0,
        folded: SetNumber(0),
        over: None,
        stages: None,
    }
}

fn decision(mode: StartMode) -> Decision {
    Decision { mode, from: SetNumber(0), feeder: 7, reason: "it holds nothing".into() }
}

fn started(child: &str, mode: StartMode, credit: u64) -> Outbound {
    let mut o = Outbound::new(n(child), STREAM, NOW);
    assert!(o.pump(&mut Log::new(1, 10), 1000).is_empty(), "nothing before the start");
    o.start(&attach(credit), decision(mode), NOW).expect("offered");
    o
}

fn body(f: &Frame) -> &Bytes {
    match f {
        Frame::Chunk { body, .. } | Frame::SetEnd { body, .. } | Frame::SeedData { body, .. } => {
            body
        }
        other => panic!("no data frame: {other:?}"),
    }
}

#[test]
fn frames_are_numbered_and_share_their_bytes() {
    let mut o = Outbound::new(n("a"), STREAM, NOW);
    assert!(o.describe().contains("has not attached"));
    let start = o.start(&attach(1000), decision(StartMode::Resume), NOW).expect("offered");
    assert!(matches!(
        start,
        Frame::Start(s) if s.stream == STREAM && s.feeder == 7 && s.reason == "it holds nothing"
    ));
    let mut log = Log::new(1, 10);
    let frames = o.pump(&mut log, 1000);
    let want: Vec<Frame> = log
        .records
        .iter()
        .zip(0u64..)
        .map(|(s, seq)| {
            let body = s.body.clone();
            if s.set_end {
                Frame::SetEnd { stream: STREAM, feeder: 7, seq, body }
            } else {
                Frame::Chunk { stream: STREAM, feeder: 7, seq, body }
            }
        })
        .collect();
    assert_eq!(frames, want);
    assert!(frames.iter().zip(&log.records).all(|(f, s)| body(f).as_ptr() == s.body.as_ptr()));
    assert_eq!((o.state(), o.blocked()), (&StreamState::Streaming, Blocked::Empty));
    assert_eq!(o.last_sent(), Some((SetNumber(1), ChunkNumber(2))));
    assert_eq!((o.sent().live_bytes, o.sent().frames), (30, 3));
}

#[test]
fn the_window_is_never_overrun_and_the_queue_by_one_frame() {
    let mut o = started("a", StartMode::Resume, 25);
    let mut log = Log::new(2, 10);
    assert_eq!(o.pump(&mut log, 0).len(), 0);
    assert_eq!(o.blocked(), Blocked::Queue);
    assert_eq!(o.pump(&mut log, 1).len(), 1);
    assert_eq!(o.blocked(), Blocked::Queue);
    assert_eq!(o.pump(&mut log, 1000).len(), 1);
    assert_eq!(o.blocked(), Blocked::Credit { need: 10, left: 5 });
    assert!(o.describe().contains("room for 5 bytes, the next record has 10"), "{}", o.describe());
    assert_eq!(o.state(), &StreamState::Resuming);
    o.credit(10, NOW); // late
    assert_eq!(o.pump(&mut log, 1000).len(), 0);
    o.credit(41, NOW);
    assert_eq!(o.pump(&mut log, 1000).len(), 2);
    log.cold = true;
    o.credit(1000, NOW);
    assert_eq!(o.pump(&mut log, 1000).len(), 0);
    assert_eq!(o.blocked(), Blocked::Reading);
    log.cold = false;
    assert_eq!(o.pump(&mut log, 11).len(), 2);
    assert_eq!(o.sent().live_bytes, 60);
}

#[test]
fn a_rude_source_loses_nothing() {
    let mut o = started("a", StartMode::Resume, 15);
    let mut log = Log { rude: true, ..Log::new(1, 10) };
    assert_eq!(o.pump(&mut log, 1000).len(), 1);
    assert_eq!(o.blocked(), Blocked::Credit { need: 10, left: 5 });
    assert_eq!(o.pump(&mut log, 1000).len(), 0);
    o.credit(30, NOW);
    let frames = o.pump(&mut log, 1000);
    assert_eq!(frames.iter().map(|f| body(f)[0]).collect::<Vec<_>>(), [1, 2]);
}

#[test]
fn a_child_that_is_ahead_waits() {
    let mut o = Outbound::new(n("a"), STREAM, NOW);
    let held = Attach { state: SetNumber(9), ..attach(100) };
    let ahead = Decision { from: SetNumber(9), ..decision(StartMode::Wait) };
    o.start(&held, ahead, NOW).expect("offered");
    assert!(o.pump(&mut Log::new(1, 1), 100).is_empty());
    assert!(o.heartbeat(SetNumber(1), Wall(1), SetNumber(2)).is_some());
    assert!(!o.reached(SetNumber(8)) && o.describe().contains("ahead, at 9"));
    assert!(o.reached(SetNumber(9)) && !o.reached(SetNumber(10)));
    assert_eq!(o.state(), &StreamState::Resuming);
    assert_eq!(o.confirmed().saved, SetNumber(9));
}

#[test]
fn confirmations_are_fenced_and_never_go_back() {
    let mut o = started("a", StartMode::Resume, 100);
    assert!(!o.saved(6, SetNumber(5), ChunkNumber(0), Mono(20)), "an older feeder's");
    assert_eq!(o.last_heard(), NOW);
    assert!(o.saved(7, SetNumber(1), ChunkNumber(2), Mono(20)));
    assert!(!o.saved(7, SetNumber(1), ChunkNumber(1), Mono(30)));
    assert!(o.saved(7, SetNumber(2), ChunkNumber(0), Mono(25)));
    assert_eq!((o.confirmed().saved, o.confirmed().next_chunk), (SetNumber(2), ChunkNumber(0)));
    assert_eq!((o.confirmed().played, o.last_heard()), (None, Mono(30)));
    let report = Report {
        stream: STREAM,
        nodes: 1,
        played_min: SetNumber(1),
        played_max: SetNumber(1),
        saved_min: SetNumber(2),
        by_state: vec![],
        worst: vec![],
    };
    o.report(&Report { nodes: 0, ..report.clone() }, Mono(31));
    assert_eq!(o.confirmed().played, None);
    o.report(&report, Mono(32));
    assert_eq!((o.confirmed().played, o.last_heard()), (Some(SetNumber(1)), Mono(32)));
}

#[test]
fn an_error_of_the_stream_can_be_mended_an_end_cannot() {
    let mut o = started("a", StartMode::Resume, 10);
    assert!(o.start(&attach(1), decision(StartMode::Resume), NOW).is_err(), "started already");
    let mut log = Log::new(1, 10);
    assert_eq!(o.pump(&mut log, 100).len(), 1);
    let f = o.fail(stream_error::DETACHED, "no room; attach again");
    assert!(matches!(f, Frame::StreamError { code: stream_error::DETACHED, .. }));
    assert!(o.pump(&mut log, 100).is_empty() && o.describe().contains("no room"));
    assert!(o.heartbeat(SetNumber(1), Wall(1), SetNumber(1)).is_none());
    o.start(&attach(10), Decision { feeder: 8, ..decision(StartMode::Resume) }, NOW)
        .expect("again");
    let frames = o.pump(&mut log, 100);
    assert!(matches!(&frames[..], [Frame::Chunk { seq: 0, feeder: 8, .. }]), "{frames:?}");
    assert_eq!((o.sent().live_bytes, o.feeder()), (20, 8));

    assert!(matches!(o.withdraw("deleted"), Frame::Withdraw { stream: STREAM, .. }));
    assert!(o.start(&attach(1), decision(StartMode::Resume), NOW).is_err());
    o.stop(StopReason::SessionEnded("idle".into()));
    assert_eq!(o.state(), &StreamState::Stopped(StopReason::Withdrawn("deleted".into())));
}

/// Pieces of ten bytes.
struct Seed(VecDeque<SeedNext>);

impl SeedSource for Seed {
    fn next(&mut self, _child: &NodeName, budget: u64) -> SeedNext {
        if let Some(SeedNext::Piece(p)) = self.0.front()
            && size(&p.body) > budget
        {
            return SeedNext::TooLong(size(&p.body));
        }
        self.0.pop_front().unwrap_or(SeedNext::NotYet)
    }
}

fn piece(next_block: u64) -> SeedNext {
    SeedNext::Piece(SeedPiece { next_block, view: SetNumber(4), body: vec![0; 10].into() })
}

#[test]
fn a_seed_goes_beside_the_stream_with_credits_of_its_own() {
    let mut o = started("a", StartMode::Seed, 20);
    let (mut log, mut seed) =
        (Log::new(1, 10), Seed([piece(8), piece(16), SeedNext::NotYet, piece(24)].into()));
    seed.0.push_back(SeedNext::Done(SetNumber(6)));
    assert!(o.pump_seed(&mut seed, 100).is_empty());
    assert_eq!(o.seed_blocked(), Blocked::Credit { need: 10, left: 0 });
    assert!(o.describe().contains("seeding (it holds nothing)"), "{}", o.describe());
    assert_eq!(o.pump(&mut log, 100).len(), 2, "the stream does not wait for the seed");

    o.seed_ack(1000, NOW);
    let frames = o.pump_seed(&mut seed, 1);
    assert!(matches!(
        &frames[..],
        [Frame::SeedData { feeder: 7, seq: 0, next_block: 8, view: SetNumber(4), .. }]
    ));
    assert_eq!(o.seed_blocked(), Blocked::Queue);
    assert_eq!(o.pump_seed(&mut seed, 100).len(), 1);
    assert_eq!(o.seed_blocked(), Blocked::Reading);
    let frames = o.pump_seed(&mut seed, 100);
    assert!(matches!(
        &frames[..],
        [Frame::SeedData { seq: 2, .. }, Frame::SeedEnd { feeder: 7, need: SetNumber(6), .. }]
    ));
    assert_eq!(o.state(), &StreamState::Resuming);
    assert_eq!((o.sent().seed_bytes, o.sent().live_bytes), (30, 20));
    assert!(o.pump_seed(&mut seed, 100).is_empty());
}

#[test]
fn a_seed_over_its_budget_ends_the_stream_in_words() {
    struct Rude;
    impl SeedSource for Rude {
        fn next(&mut self, _child: &NodeName, _budget: u64) -> SeedNext {
            piece(1)
        }
    }
    let mut o = started("a", StartMode::Seed, 20);
    let frames = o.pump_seed(&mut Rude, 100);
    assert!(matches!(&frames[..], [Frame::StreamError { code: stream_error::PROTOCOL, .. }]));
    assert_eq!(o.state().name(), "stopped");
}

#[test]
fn no_child_waits_for_a_sibling() {
    let mut log = Log::new(50, 100);
    let total = log.records.len();
    let names: Vec<String> = (0..20).map(|i| format!("c{i}")).collect();
    let mut children: Vec<Outbound> =
        names.iter().map(|c| started(c, StartMode::Resume, 100)).collect();
    // the first never gives credit again, the second has a link that takes nothing
    let mut got = vec![0; children.len()];
    for _ in 0..total {
        for (i, o) in children.iter_mut().enumerate() {
            let frames = o.pump(&mut log, if i == 1 { 0 } else { 1 });
            got[i] += frames.len();
            if i > 0 {
                o.credit(o.sent().live_bytes + 100, NOW);
            }
        }
    }
    for o in &mut children[2..] {
        assert!(o.pump(&mut log, 1).is_empty());
        assert_eq!(o.blocked(), Blocked::Empty);
    }
    assert_eq!((got[0], got[1]), (1, 0));
    assert!(got[2..].iter().all(|n| *n == total), "{got:?}");
    assert_eq!(children[0].blocked(), Blocked::Credit { need: 100, left: 0 });
    assert_eq!(children[1].blocked(), Blocked::Queue);
}

/// Frames sent from one node to another.
type Edges = BTreeMap<(NodeName, NodeName), usize>;

/// Sends a log down a tree of tables, each node storing what it gets and passing it on; gives who
/// sent how many frames to whom, and each node's records.
fn send_down(
    tables: &BTreeMap<NodeName, Table>,
    group: &GroupName,
    root: &str,
    records: Vec<Stored>,
) -> (Edges, BTreeMap<NodeName, Vec<Stored>>) {
    let mut edges = Edges::new();
    let mut logs = BTreeMap::from([(n(root), Log { records, ..Log::default() })]);
    let mut queue = VecDeque::from([n(root)]);
    while let Some(node) = queue.pop_front() {
        let hops = tables.get(&node).and_then(|t| t.next_hops(group).ok()).unwrap_or(&[]);
        for hop in hops {
            let mut o = started(hop.as_str(), StartMode::Resume, 1 << 20);
            let frames = o.pump(logs.get_mut(&node).expect("it was reached"), 1 << 20);
            *edges.entry((node.clone(), hop.clone())).or_default() += frames.len();
            let to_child = &mut logs.entry(hop.clone()).or_default().records;
            to_child.extend(frames.iter().enumerate().map(|(i, f)| Stored {
                set_end: matches!(f, Frame::SetEnd { .. }),
                body: body(f).clone(),
                to: SetNumber(1 + u64::try_from(i / 3).expect("small")),
                chunk: ChunkNumber(u32::try_from(i % 3).expect("small")),
            }));
            queue.push_back(hop.clone());
        }
    }
    (edges, logs.into_iter().map(|(node, l)| (node, l.records)).collect())
}

fn tables(group: &GroupName, lines: &[(&str, &str)]) -> BTreeMap<NodeName, Table> {
    lines
        .iter()
        .map(|(node, hops)| {
            let plan = BTreeMap::from([(group.clone(), ns(hops))]);
            (n(node), Table::from_plan(n(node), &plan).expect("sound"))
        })
        .collect()
}

/// Worked example 5.6 (FIG. 16), normal case: who sends to whom, and each node gets each chunk once.
#[test]
fn figure_16_sends() {
    let group = g("group1");
    let tables = tables(&group, &[("n1", "n2 n9"), ("n2", "n3 n7"), ("n3", "n4 n5")]);
    let records = Log::new(4, 100).records;
    let (edges, logs) = send_down(&tables, &group, "n1", records.clone());
    let want: Vec<(NodeName, NodeName)> =
        [("n1", "n2"), ("n1", "n9"), ("n2", "n3"), ("n2", "n7"), ("n3", "n4"), ("n3", "n5")]
            .map(|(a, b)| (n(a), n(b)))
            .into();
    assert_eq!(edges.keys().cloned().collect::<Vec<_>>(), want);
    assert!(edges.values().all(|sent| *sent == records.len()));
    for name in ["n2", "n9", "n3", "n7", "n4", "n5"] {
        assert_eq!(logs[&n(name)], records, "{name}");
    }
    let e = tables[&n("n2")].next_hops(&g("group2")).expect_err("FWD-03");
    assert_eq!(e.kind(), "unknown-group");
}

/// Worked example 5.5: the first node sends once, three nodes hold it.
#[test]
fn rcproute_chain_sends() {
    let group = g("g1");
    let lines = [("cel1-ser2", "cel2-ser2"), ("cel2-ser2", "cel2-ser3 cel2-ser4")];
    let records = Log::new(2, 10).records;
    let (edges, logs) = send_down(&tables(&group, &lines), &group, "cel1-ser2", records.clone());
    let first: usize =
        edges.iter().filter(|((a, _), _)| *a == n("cel1-ser2")).map(|(_, s)| s).sum();
    assert_eq!(first, records.len());
    assert!(logs.len() == 4 && logs.values().all(|l| *l == records));
}

proptest! {
    /// Any sizes, credits and rooms: in order, without gap, within the window, at most one frame over
    /// the room, and everything arrives once the credit is there.
    #[test]
    fn pumping(
        sizes in prop::collection::vec(0usize..50, 1..40),
        steps in prop::collection::vec((0u64..60, 0u64..120), 0..60),
        rude in any::<bool>(),
    ) {
        let mut log = Log { rude, ..Log::default() };
        log.records = sizes.iter().zip(0u32..).map(|(len, i)| Stored {
            set_end: i % 3 == 2,
            body: vec![0; *len].into(),
            to: SetNumber(u64::from(i / 3)),
            chunk: ChunkNumber(i % 3),
        }).collect();
        let mut o = started("a", StartMode::Resume, 0);
        let mut granted = 0;
        let mut got = Vec::new();
        for (more, room) in steps.into_iter().chain([(10_000, 10_000)]) {
            granted += more;
            o.credit(granted, NOW);
            let frames = o.pump(&mut log, room);
            let all_but_last: u64 = frames.iter().rev().skip(1).map(|f| size(body(f))).sum();
            prop_assert!(frames.is_empty() || all_but_last < room);
            got.extend(frames);
            prop_assert!(o.sent().live_bytes <= granted);
        }
        prop_assert_eq!(got.len(), log.records.len());
        for ((f, s), i) in got.iter().zip(&log.records).zip(0u64..) {
            let want = if s.set_end {
                Frame::SetEnd { stream: STREAM, feeder: 7, seq: i, body: s.body.clone() }
            } else {
                Frame::Chunk { stream: STREAM, feeder: 7, seq: i, body: s.body.clone() }
            };
            prop_assert_eq!(f, &want);
        }
    }
}
