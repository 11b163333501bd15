//! Endpoints of one process, in memory and in stopped time: what an application sees of a tree.

#![cfg(feature = "group")]

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use rcp::group::{Acks, Endpoint, Group, GroupError, Hub, Outcome, Session, Setup, Trust};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const SOON: Duration = Duration::from_secs(30);

/// What the members did, in order.
type Log = Arc<Mutex<Vec<String>>>;

fn setup(hub: &Hub, name: &str, children: &[&str]) -> Setup {
    let mut group = Group::new("g1").expect("good");
    for child in children {
        group = group.child(child, child).expect("good");
    }
    Setup::new(name, Trust::Memory(hub.clone())).expect("good").listen(name).group(group)
}

/// With a callback that notes `NAME BODY` and gives it.
fn noting(setup: Setup, name: &str, log: &Log) -> Setup {
    let (name, log) = (name.to_owned(), log.clone());
    setup.on("line", move |block| {
        let said = format!("{name} {}", String::from_utf8_lossy(&block.body));
        log.lock().expect("whole").push(said.clone());
        async move { Ok(Bytes::from(said)) }
    })
}

async fn start(setup: Setup) -> Endpoint {
    Endpoint::start(setup).await.expect("started")
}

/// `root` → `mid` → `l1`, `l2`; and `l3` below `root`.
async fn tree(hub: &Hub, with: impl Fn(Setup, &str) -> Setup) -> (Session, Vec<Endpoint>) {
    let mut all = Vec::new();
    for (name, children) in [
        ("l1", &[][..]),
        ("l2", &[]),
        ("l3", &[]),
        ("mid", &["l1", "l2"]),
        ("root", &["mid", "l3"]),
    ] {
        all.push(start(with(setup(hub, name, children), name)).await);
    }
    let session = all[4].session("g1").expect("its group");
    assert!(session.connected(SOON).await.expect("running"));
    // It dials its children again once it knows the path.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let mid = all[3].session("g1").expect("its group");
    assert!(mid.connected(SOON).await.expect("running"));
    (session, all)
}

fn done(acks: &Acks, node: &str) -> String {
    match acks.of(node) {
        Some(Outcome::Done(text)) => String::from_utf8_lossy(text).into_owned(),
        other => panic!("{node}: {other:?}\n{acks}"),
    }
}

fn refused(acks: &Acks, node: &str) -> String {
    match acks.of(node) {
        Some(Outcome::Refused(why)) => why.clone(),
        other => panic!("{node}: {other:?}\n{acks}"),
    }
}

#[tokio::test(start_paused = true)]
async fn every_member_answers_by_name() {
    let (hub, log) = (Hub::new(), Log::default());
    let (session, _all) = tree(&hub, |s, n| noting(s, n, &log)).await;
    let acks = session.send("line", "hello", SOON).await.expect("sent");
    assert!(acks.all_done() && acks.members.len() == 4, "{acks}");
    assert_eq!(done(&acks, "l2"), "l2 hello");
    // The same id again: the same answers, and nothing is done.
    let again = session.send_as(acks.id, "line", "hello", SOON).await.expect("sent");
    assert_eq!(again, acks);
    assert_eq!(log.lock().expect("whole").len(), 4);
    // The same id for something else.
    let other = session.send_as(acks.id, "line", "bye", SOON).await.expect("sent");
    assert!(refused(&other, "l3").contains("used for another control block"), "{other}");
    let too_long = session.send("line", vec![0; 40_000], SOON).await;
    assert_eq!(too_long, Err(GroupError::TooLong(40_000)));
    assert!(matches!(session.send("pipe.x", "", SOON).await, Err(GroupError::Kind(_))));
    assert!(session.pipe("").await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_kind_without_callback_names_kind_and_member() {
    let (hub, log) = (Hub::new(), Log::default());
    let some = |s, n: &str| if n == "l1" { s } else { noting(s, n, &log) };
    let (session, _all) = tree(&hub, some).await;
    let acks = session.send("line", "x", SOON).await.expect("sent");
    assert_eq!(refused(&acks, "l1"), "no callback for control blocks `line` at l1");
    assert_eq!(acks.members.iter().filter(|a| matches!(a.outcome, Outcome::Done(_))).count(), 3);
    let none = session.send("other", "x", SOON).await.expect("sent");
    for m in ["mid", "l1", "l2", "l3"] {
        assert_eq!(refused(&none, m), format!("no callback for control blocks `other` at {m}"));
    }
    assert!(!none.all_done());
}

#[tokio::test(start_paused = true)]
async fn callbacks_say_no_and_break_alone() {
    let hub = Hub::new();
    let (session, _all) = tree(&hub, |s, n| {
        let n = n.to_owned();
        s.on("line", move |_| {
            let n = n.clone();
            async move {
                assert!(n != "l2", "it breaks");
                if n == "l1" { Err("no room".to_owned()) } else { Ok(Bytes::new()) }
            }
        })
    })
    .await;
    let acks = session.send("line", "x", SOON).await.expect("sent");
    assert_eq!((refused(&acks, "l1").as_str(), done(&acks, "l3").as_str()), ("no room", "done"));
    assert_eq!(refused(&acks, "l2"), "the callback panicked");
    let acks = session.send("line", "y", SOON).await.expect("sent");
    assert_eq!(refused(&acks, "l2"), "the callback panicked");
}

#[tokio::test(start_paused = true)]
async fn blocks_are_executed_in_the_order_in_which_they_are_sent() {
    let (hub, log) = (Hub::new(), Log::default());
    let (session, _all) = tree(&hub, |s, n| noting(s, n, &log)).await;
    let sent: Vec<_> = (0..200)
        .map(|n| {
            let session = session.clone();
            async move { session.send("line", n.to_string(), SOON).await }
        })
        .collect();
    let mut waiting = tokio::task::JoinSet::new();
    for s in sent {
        waiting.spawn(s);
        tokio::task::yield_now().await;
    }
    while let Some(acks) = waiting.join_next().await {
        assert!(acks.expect("no panic").expect("sent").all_done());
    }
    let log = log.lock().expect("whole");
    for m in ["mid", "l1", "l2", "l3"] {
        let mine: Vec<_> = log.iter().filter_map(|l| l.strip_prefix(&format!("{m} "))).collect();
        let want: Vec<_> = (0..200).map(|n| n.to_string()).collect();
        assert_eq!(mine, want, "{m}");
    }
}

#[tokio::test(start_paused = true)]
async fn who_is_away_is_missing_and_gets_it_when_it_is_back() {
    let (hub, log) = (Hub::new(), Log::default());
    let (session, mut all) = tree(&hub, |s, n| noting(s, n, &log)).await;
    let mid = all.remove(3);
    mid.stop().await;
    for n in 0..5 {
        let acks = session.send("line", n.to_string(), Duration::from_secs(1)).await.expect("sent");
        let Some(Outcome::Missing(why)) = acks.of("mid") else { panic!("{acks}") };
        assert!(why.starts_with("not connected, nor are those below it: "), "{why}");
        assert_eq!(done(&acks, "l3"), format!("l3 {n}"));
        assert_eq!(acks.of("l1"), None);
    }
    // Another process by that name takes its place, and everything that is missing comes, in order.
    all.push(start(noting(setup(&hub, "mid", &["l1", "l2"]), "mid", &log)).await);
    let acks = session.send("line", "5", SOON).await.expect("sent");
    assert!(acks.all_done() && acks.members.len() == 4, "{acks}");
    let log = log.lock().expect("whole");
    for m in ["mid", "l1", "l2", "l3"] {
        let mine: Vec<_> = log.iter().filter_map(|l| l.strip_prefix(&format!("{m} "))).collect();
        assert_eq!(mine, ["0", "1", "2", "3", "4", "5"], "{m}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_member_below_waits_for_is_told_upward() {
    let (hub, log) = (Hub::new(), Log::default());
    let (session, mut all) = tree(&hub, |s, n| noting(s, n, &log)).await;
    all.remove(1).stop().await;
    let acks = session.send("line", "x", Duration::from_secs(3)).await.expect("sent");
    let Some(Outcome::Missing(why)) = acks.of("l2") else { panic!("{acks}") };
    assert!(why.starts_with("not connected"), "{why}");
    assert_eq!((done(&acks, "mid"), done(&acks, "l1")), ("mid x".to_owned(), "l1 x".to_owned()));
}

#[tokio::test]
async fn a_record_in_a_file_holds_across_restarts() {
    let (hub, log) = (Hub::new(), Log::default());
    let dir = tempfile::tempdir().expect("a folder");
    let leaf = || noting(setup(&hub, "leaf", &[]), "leaf", &log).record(dir.path().join("blocks"));
    let one = start(leaf()).await;
    let root = start(setup(&hub, "root", &["leaf"])).await;
    let session = root.session("g1").expect("its group");
    let acks = session.send("line", "x", SOON).await.expect("sent");
    assert_eq!(done(&acks, "leaf"), "leaf x");
    one.stop().await;
    let _two = start(leaf()).await;
    let again = session.send_as(acks.id, "line", "x", SOON).await.expect("sent");
    assert_eq!(again, acks);
    assert_eq!(log.lock().expect("whole").len(), 1, "executed once");
    std::fs::write(dir.path().join("bad"), [1; 2000]).expect("written");
    let bad = setup(&hub, "bad", &[]).record(dir.path().join("bad"));
    let e = Endpoint::start(bad).await.expect_err("damaged").to_string();
    assert!(e.contains("bad") && e.contains("damaged at byte 0"), "{e}");
}

#[tokio::test(start_paused = true)]
async fn a_second_feeder_is_refused_and_a_ring_too() {
    let (hub, log) = (Hub::new(), Log::default());
    let (_session, _all) = tree(&hub, |s, n| noting(s, n, &log)).await;
    let other = start(setup(&hub, "other", &["l1"])).await;
    let session = other.session("g1").expect("its group");
    assert!(!session.connected(Duration::from_secs(5)).await.expect("running"));
    let why = session.children().await.expect("running")[0].why.clone().expect("a reason");
    assert!(why.contains("l1 is fed by mid"), "{why}");
    let none = other.session("g2").expect_err("not its group").to_string();
    assert_eq!(none, "this endpoint is not in a group g2; its groups are: g1");

    let hub = Hub::new();
    let a = start(noting(setup(&hub, "a", &["b"]), "a", &log)).await;
    let _b = start(noting(setup(&hub, "b", &["a"]), "b", &log)).await;
    let session = a.session("g1").expect("its group");
    tokio::time::sleep(Duration::from_secs(60)).await;
    let acks = session.send("line", "x", Duration::from_secs(5)).await.expect("sent");
    let ring = acks.members.iter().any(|m| {
        matches!(&m.outcome, Outcome::Missing(w)
        if w.contains("is on the path from the primary to"))
    });
    assert!(ring, "{acks}");
}

#[tokio::test(start_paused = true)]
async fn both_ends_are_open_in_both_directions() {
    let (hub, log) = (Hub::new(), Log::default());
    let group = |name: &str| Group::new(name).expect("good");
    let both = |name: &str, there: Group, back: Group| {
        let s = Setup::new(name, Trust::Memory(hub.clone())).expect("good").listen(name);
        noting(s.group(there).group(back), name, &log)
    };
    let a = start(both("a", group("there").child("b", "b").expect("good"), group("back"))).await;
    let b = start(both("b", group("there"), group("back").child("a", "a").expect("good"))).await;
    let there = a.session("there").expect("its group");
    let back = b.session("back").expect("its group");
    let (x, y) = tokio::join!(there.send("line", "x", SOON), back.send("line", "y", SOON));
    assert_eq!(done(&x.expect("sent"), "b"), "b x");
    assert_eq!(done(&y.expect("sent"), "a"), "a y");
}

/// With a callback for pipes that reads everything, and gives length and sum.
fn reading(setup: Setup) -> Setup {
    setup.on_pipe("data", |mut pipe| async move {
        let mut all = Vec::new();
        pipe.read_to_end(&mut all).await.map_err(|e| e.to_string())?;
        Ok(Bytes::from(format!("{} {:08x}", all.len(), crc32c::crc32c(&all))))
    })
}

fn bytes(n: usize) -> Vec<u8> {
    (0..n).map(|i| (i * 7 + i / 251) as u8).collect()
}

fn said(data: &[u8]) -> String {
    format!("{} {:08x}", data.len(), crc32c::crc32c(data))
}

#[tokio::test(start_paused = true)]
async fn a_pipe_goes_to_every_member() {
    let hub = Hub::new();
    let (session, _all) = tree(&hub, |s, _| reading(s)).await;
    for n in [0, 1, 100_000, 9_000_000] {
        let data = bytes(n);
        let mut pipe = session.pipe("data").await.expect("opened");
        pipe.write_all(&data).await.expect("written");
        let acks = pipe.finish(SOON).await.expect("finished");
        for m in ["mid", "l1", "l2", "l3"] {
            assert_eq!(done(&acks, m), said(&data));
        }
    }
}

#[tokio::test]
async fn a_pipe_goes_to_files_that_are_whole_or_not_there() {
    let (hub, dir) = (Hub::new(), tempfile::tempdir().expect("a folder"));
    let path = |n: &str| dir.path().join(n);
    let (session, _all) = tree(&hub, |s, n| {
        let file = path(n);
        s.on_pipe("file", move |pipe| {
            let file = file.clone();
            async move { pipe.to_file(file).await.map(|n| Bytes::from(n.to_string())) }
        })
    })
    .await;
    let data = bytes(300_000);
    let mut pipe = session.pipe("file").await.expect("opened");
    pipe.write_all(&data).await.expect("written");
    let acks = pipe.finish(SOON).await.expect("finished");
    assert!(acks.all_done(), "{acks}");
    for m in ["mid", "l1", "l2", "l3"] {
        assert_eq!(std::fs::read(path(m)).expect("there"), data, "{m}");
        std::fs::remove_file(path(m)).expect("removed");
    }
    // One that is given up leaves nothing.
    let mut pipe = session.pipe("file").await.expect("opened");
    pipe.write_all(&data).await.expect("written");
    drop(pipe);
    let mut pipe = session.pipe("file").await.expect("opened");
    pipe.write_all(b"x").await.expect("written");
    assert!(pipe.finish(SOON).await.expect("finished").all_done());
    for _ in 0..100 {
        tokio::time::sleep(Duration::from_millis(20)).await;
        if std::fs::read_dir(dir.path()).expect("a folder").count() == 4 {
            break;
        }
    }
    assert_eq!(std::fs::read(path("l1")).expect("there"), b"x");
    assert_eq!(std::fs::read_dir(dir.path()).expect("a folder").count(), 4);
}

#[tokio::test(start_paused = true)]
async fn nobody_takes_a_pipe_and_one_does_not() {
    let hub = Hub::new();
    let (session, _all) = tree(&hub, |s, n| if n == "l1" { s } else { reading(s) }).await;
    let e = session.pipe("other").await.expect_err("nobody").to_string();
    assert!(e.contains("l3: refused: no callback for pipes `other` at l3"), "{e}");
    let mut pipe = session.pipe("data").await.expect("opened");
    pipe.write_all(&bytes(5_000_000)).await.expect("written");
    let acks = pipe.finish(SOON).await.expect("finished");
    assert_eq!(done(&acks, "l2"), said(&bytes(5_000_000)));
    assert!(refused(&acks, "l1").contains("no callback for pipes `data` at l1"), "{acks}");
}

/// A callback that does not read holds up the sender at the window, for as long as it is waited for.
#[tokio::test(start_paused = true)]
async fn a_slow_member_holds_up_the_sender_and_is_left_out() {
    let hub = Hub::new();
    let (session, _all) = tree(&hub, |s, n| {
        if n != "l2" {
            return reading(s);
        }
        s.on_pipe("data", |pipe| async move {
            tokio::time::sleep(Duration::from_secs(3600)).await;
            drop(pipe);
            Ok(Bytes::new())
        })
    })
    .await;
    let mut pipe = session.pipe("data").await.expect("opened");
    let written = Arc::new(AtomicUsize::new(0));
    let count = written.clone();
    let data = bytes(8_000_000);
    let sent = data.clone();
    let writing = tokio::spawn(async move {
        for piece in sent.chunks(10_000) {
            pipe.write_all(piece).await.expect("written");
            count.fetch_add(piece.len(), Ordering::Relaxed);
        }
        pipe.finish(SOON).await.expect("finished")
    });
    tokio::time::sleep(Duration::from_secs(5)).await;
    let held = written.load(Ordering::Relaxed);
    assert!(held > 1_000_000 && held < 3_000_000, "{held}");
    let acks = writing.await.expect("no panic");
    assert!(refused(&acks, "l2").contains("its callback did not read for 10 s"), "{acks}");
    assert_eq!(done(&acks, "l1"), said(&data));
}

#[tokio::test(start_paused = true)]
async fn a_dead_member_is_left_out_of_a_pipe_and_the_others_go_on() {
    let hub = Hub::new();
    let (session, mut all) = tree(&hub, |s, _| reading(s)).await;
    let data = bytes(20_000_000);
    let mut pipe = session.pipe("data").await.expect("opened");
    pipe.write_all(&data[..5_000_000]).await.expect("written");
    all.remove(1).stop().await;
    pipe.write_all(&data[5_000_000..]).await.expect("written");
    let acks = pipe.finish(SOON).await.expect("finished");
    assert_eq!((done(&acks, "l1"), done(&acks, "l3")), (said(&data), said(&data)));
    assert!(refused(&acks, "l2").contains("left out of this pipe: not connected"), "{acks}");
}

/// A forwarder that is started again in the middle of a pipe loses its own part only.
#[tokio::test(start_paused = true)]
async fn a_forwarder_started_again_in_the_middle_passes_every_byte_on() {
    let hub = Hub::new();
    let (session, mut all) = tree(&hub, |s, _| reading(s)).await;
    let data = bytes(20_000_000);
    let mut pipe = session.pipe("data").await.expect("opened");
    pipe.write_all(&data[..5_000_000]).await.expect("written");
    all.remove(3).stop().await;
    let more = tokio::spawn(async move {
        pipe.write_all(&data[5_000_000..]).await.expect("written");
        pipe.finish(SOON).await.expect("finished")
    });
    tokio::time::sleep(Duration::from_secs(3)).await;
    all.push(start(reading(setup(&hub, "mid", &["l1", "l2"]))).await);
    let acks = more.await.expect("no panic");
    for m in ["l1", "l2", "l3"] {
        assert_eq!(done(&acks, m), said(&bytes(20_000_000)));
    }
    assert!(refused(&acks, "mid").contains("started again in the middle of the pipe"), "{acks}");
}

#[tokio::test]
async fn what_cannot_be_is_refused_at_the_start() {
    let s = |addr: &str| Setup::new("a", Trust::Loopback).expect("good").listen(addr);
    let e = Endpoint::start(s("0.0.0.0:0")).await.expect_err("exposed").to_string();
    assert!(e.contains("0.0.0.0:0 is not a loopback address"), "{e}");
    assert!(Setup::new("A B", Trust::Loopback).is_err());
    let taken = s("127.0.0.1:0").on("pipe.data", |_| async { Ok(Bytes::new()) });
    let e = Endpoint::start(taken).await.expect_err("taken").to_string();
    assert!(e.contains("`pipe.data` cannot be the kind of a control block"), "{e}");
    let tls: rcp::proto::transport::Hop = rcp::proto::transport::Hop {
        transport: Some(rcp::proto::transport::Transport::Tls),
        ..Default::default()
    };
    let g = Group::new("g1").expect("good").child_by("b", "127.0.0.1:1", tls).expect("good");
    let e = Endpoint::start(s("127.0.0.1:0").group(g)).await.expect_err("no pki").to_string();
    assert!(e.contains("b is to be reached by tls, which needs Trust::Certificates"), "{e}");
}
