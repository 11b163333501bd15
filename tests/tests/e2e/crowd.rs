//! Strangers in numbers, and strangers with tricks, beside a stream that goes on: what a node holds
//! in memory stays under its bound, and whoever has business there is let in.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use rcp::net::conn::FramedWriter;
use rcp::net::tls::Pki;
use rcp::net::{Dial, dial_by};
use rcp::proto::frame::{Frame, Hello, Role};
use rcp::proto::ids::{GroupName, NodeName};
use rcp::proto::session::VERSIONS;
use rcp::proto::transport::{Hop, Transport};
use tests::rig::{
    Clock, Crowd, MIB, Plan, Random, Tree, connect_from, lacking, many_descriptors, wait_for,
};

use crate::load::{Ends, Load, Writer};

const LONG: Duration = Duration::from_secs(30);
/// What the topology gives a node, and the program itself.
const BOUND: u64 = (256 + 32) * MIB;

/// The most that a node ever had in memory.
fn peak(tree: &Tree, node: &str) -> u64 {
    let path = format!("/proc/{}/status", tree.pid(node).unwrap());
    let text = std::fs::read_to_string(path).unwrap();
    let line = text.lines().find(|l| l.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
}

/// Runs `beside` while a stream goes from `p` over `f1` to `l1`; nobody stands still or grows.
fn beside_a_stream(by: Option<&str>, beside: impl FnOnce(&Tree)) {
    let mut random = Random::seeded("crowd");
    let mut plan = Plan::new(&[("p", &["f1"]), ("f1", &["l1"])]).volume("vol", 32).cut_every(200);
    if let Some(by) = by {
        plan = plan.by(by);
    }
    let tree = Tree::start(plan);
    tree.expect("refused a peer");
    tree.expect("connections are open");
    let mut writer = Writer::new("vol", 0, 8000, random.fork());
    let load = Load::default();
    std::thread::scope(|s| {
        let _ends = Ends(&load);
        s.spawn(|| writer.work(&tree, &load, 4 * MIB));
        tree.reaches("l1", "vol", 3, LONG);
        let before = tree.volume("l1", "vol").unwrap().current_set;
        beside(&tree);
        tree.reaches("l1", "vol", before + 5, LONG);
    });
    let cut = tree.cut("vol", true);
    tree.all_same("vol", cut.set, LONG);
    for n in tree.names() {
        let peak = peak(&tree, &n);
        eprintln!("crowd: {n} had {} MiB at most", peak / MIB);
        assert!(peak < BOUND, "{n} had {peak} bytes");
    }
    tree.quiet();
}

fn healthy(tree: &Tree) -> Duration {
    let clock = Clock::default();
    let mut s = connect_from(Ipv4Addr::new(127, 0, 0, 1), tree.addr("f1")).unwrap();
    s.set_read_timeout(Some(LONG)).unwrap();
    s.write_all(b"GET /healthz HTTP/1.1\r\nHost: f1\r\nConnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    s.read_to_string(&mut text).unwrap();
    assert!(text.starts_with("HTTP/1.1 200"), "{text}");
    clock.passed()
}

#[test]
fn ten_thousand_who_say_nothing_keep_nobody_out() {
    const CROWD: usize = 10_000;
    if many_descriptors() < CROWD as u64 + 500 {
        return lacking("10,000 connections need as many descriptors", "ulimit -Hn 20000");
    }
    beside_a_stream(Some("tls"), |tree| {
        let clock = Clock::default();
        let mut crowd = Crowd::default();
        let mut waited = Vec::new();
        while crowd.len() < CROWD {
            crowd.knock(tree.addr("f1"), 1000);
            waited.push(healthy(tree));
        }
        eprintln!("crowd: {} after {:?}; {waited:?}", crowd.len(), clock.passed());
        // A neighbour that comes back finds its way through them.
        tree.kill("p");
        tree.expect(" WARN ");
        tree.up("p");
        let connected = || {
            let s = tree.status("f1").map_err(|e| e.to_string())?;
            let parent = s.groups[0].parent.clone();
            match parent {
                Some(p) if p.state == "connected" => Ok(()),
                other => Err(format!("{other:?}")),
            }
        };
        wait_for("p to feed f1 again", LONG, connected);
        crowd.knock(tree.addr("f1"), 500);
        healthy(tree);
        // Those who are still here are shown out by the deadline.
        wait_for("everybody to be shown out", LONG, || {
            crowd.thin_out();
            if crowd.is_empty() { Ok(()) } else { Err(format!("{} are here", crowd.len())) }
        });
    });
}

fn hello(node: &str) -> Frame {
    Frame::Hello(Hello {
        versions: VERSIONS,
        node: NodeName::new(node).unwrap(),
        instance: [9; 16],
        group: GroupName::new("g1").unwrap(),
        role: Role::Sender,
        path: vec![NodeName::new(node).unwrap()],
        feeder: 0,
        keepalive_ms: 1000,
    })
}

/// Frames as they travel.
fn bytes(tree: &Tree, frames: &[Frame]) -> Vec<u8> {
    let mut w = FramedWriter::new(Vec::new(), "nobody");
    tree.block_on(async {
        for f in frames {
            w.send(f).await.unwrap();
        }
    });
    w.into_inner()
}

/// Sends it to `f1`, and waits until it has enough of us.
fn is_shown_out(what: &str, tree: &Tree, sent: &[u8]) {
    let mut s = TcpStream::connect(tree.addr("f1")).unwrap();
    s.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    let _ = s.write_all(sent);
    let clock = Clock::default();
    let mut buf = [0; 4096];
    loop {
        match s.read(&mut buf) {
            Ok(0) => return,
            Ok(_) => {}
            Err(e) if matches!(e.kind(), std::io::ErrorKind::WouldBlock) => {}
            Err(_) => return,
        }
        // 5 s for the hello, then keep-alives that nobody answers (3 s at most).
        assert!(clock.passed() < Duration::from_secs(15), "{what}: still here");
    }
}

#[test]
fn frames_that_lie_end_their_connection_only() {
    beside_a_stream(None, |tree| {
        let mut random = Random::seeded("lying frames");
        let open = b"OPEN g1 RCP/1.0\r\n".to_vec();
        let with = |frames: &[u8]| [&open[..], frames].concat();
        let one = bytes(tree, &[hello("x")]);
        let ping = bytes(tree, &[Frame::Ping { nonce: 1 }]);
        let mut all: Vec<(String, Vec<u8>)> = vec![
            ("a hello twice".into(), with(&[&one[..], &one].concat())),
            ("a ping before the hello".into(), with(&[&ping[..], &one].concat())),
            ("half a hello".into(), with(&one[..one.len() / 2])),
            ("a hello without its line".into(), one.clone()),
            ("the line twice".into(), with(&[&open[..], &one].concat())),
        ];
        // Each byte of the header says something else: kind, flags, stream, length, checksum.
        for at in 0..16 {
            for value in [0, 0x7f, 0xff] {
                let mut bad = one.clone();
                bad[at] = value;
                all.push((format!("header byte {at} is {value}"), with(&bad)));
            }
        }
        for i in 0..48 {
            let mut bad = one.clone();
            let at = usize::try_from(random.below(bad.len() as u64)).unwrap();
            bad[at] ^= 1 << random.below(8);
            all.push((format!("flipped bit {i} in byte {at}"), with(&bad)));
        }
        std::thread::scope(|s| {
            for (what, sent) in &all {
                s.spawn(move || is_shown_out(what, tree, sent));
            }
        });
        // Many who ask for everything and read nothing.
        let greedy: Vec<_> = (0..64)
            .map(|_| {
                let mut s = TcpStream::connect(tree.addr("f1")).unwrap();
                s.write_all(b"GET /v1/volumes/vol HTTP/1.1\r\nHost: f1\r\n\r\n").unwrap();
                s
            })
            .collect();
        let set = tree.volume("l1", "vol").unwrap().current_set;
        tree.reaches("l1", "vol", set + 5, LONG);
        drop(greedy);
    });
}

#[test]
fn a_handshake_that_was_listened_to_is_good_for_nothing() {
    beside_a_stream(Some("tls"), |tree| {
        // Somebody between a real member and f1 writes down what the member says.
        let ear = TcpListener::bind("127.0.0.1:0").unwrap();
        let (at, to) = (ear.local_addr().unwrap().to_string(), tree.addr("f1"));
        let listener = std::thread::spawn(move || {
            let (from, _) = ear.accept().unwrap();
            let there = TcpStream::connect(to).unwrap();
            let (mut back, mut out) = (there.try_clone().unwrap(), from.try_clone().unwrap());
            let answers = std::thread::spawn(move || {
                let _ = std::io::copy(&mut back, &mut out);
            });
            let (mut from, mut there, mut heard) = (from, there, Vec::new());
            let mut buf = [0; 4096];
            while let Ok(n @ 1..) = from.read(&mut buf) {
                heard.extend_from_slice(&buf[..n]);
                let _ = there.write_all(&buf[..n]);
            }
            let _ = there.shutdown(std::net::Shutdown::Both);
            let _ = answers.join();
            heard
        });
        let pki = Arc::new(Pki::load(&tree.pki(), &NodeName::new("l1").unwrap()).unwrap());
        let (node, group) = (NodeName::new("f1").unwrap(), GroupName::new("g1").unwrap());
        let hop = Hop { transport: Some(Transport::Tls), ..Hop::default() };
        tree.block_on(async {
            let dial = Dial { addr: &at, node: &node, group: &group, hop: &hop, pki: Some(&pki) };
            let (io, _) = dial_by(dial).await.expect("a real handshake");
            drop(io);
        });
        let heard = listener.join().unwrap();
        // TLS records: one byte of kind, two of version, two of length.
        let mut records = Vec::new();
        let mut rest = &heard[..];
        while rest.len() >= 5 {
            let len = 5 + usize::from(u16::from_be_bytes([rest[3], rest[4]]));
            records.push(&rest[..len.min(rest.len())]);
            rest = &rest[len.min(rest.len())..];
        }
        assert!(records.len() >= 3, "{} records", records.len());
        let mut turned: Vec<&[u8]> = records.clone();
        turned.reverse();
        let mut swapped: Vec<&[u8]> = records.clone();
        swapped.swap(1, 2);
        let mut twice: Vec<&[u8]> = records.clone();
        twice.insert(0, records[0]);
        for (what, sent) in [
            ("replayed", records.concat()),
            ("from the end", turned.concat()),
            ("reordered", swapped.concat()),
            ("a hello twice", twice.concat()),
            ("without its hello", records[1..].concat()),
        ] {
            is_shown_out(what, tree, &sent);
        }
        let s = tree.status("f1").unwrap();
        assert!(s.groups[0].parent.as_ref().is_some_and(|p| p.node == "p"), "{:?}", s.groups);
    });
}
