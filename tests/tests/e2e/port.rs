//! One port for RCP and HTTP, and for whoever else comes along.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::process::Stdio;
use std::time::Duration;

use rcp::proto::frame::{Frame, FrameHeader, RefuseCode};
use tests::rig::{Clock, MIB, Plan, Random, Tree, lacking, run, said, tool};

use crate::load::{Ends, Load, Writer};

const LONG: Duration = Duration::from_secs(30);
/// What is not understood is closed after this, and a little.
const CLOSED: Duration = Duration::from_millis(5_800);
const TAKEN: usize = 8 << 10;

fn connect(tree: &Tree, node: &str) -> TcpStream {
    let c = TcpStream::connect(tree.addr(node)).unwrap();
    c.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    c.set_write_timeout(Some(Duration::from_millis(50))).unwrap();
    c
}

/// Whether the other side has closed.
fn closed(c: &mut TcpStream) -> bool {
    let mut b = [0; 4096];
    match c.read(&mut b) {
        Ok(0) => true,
        Ok(_) => false,
        Err(e) => {
            !matches!(e.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut)
        }
    }
}

/// Sends `bytes` now, then one of `drip` at a time; fails if it is not closed in time.
fn is_closed(what: &str, tree: &Tree, bytes: &[u8], mut drip: impl Iterator<Item = u8>) {
    let mut c = connect(tree, "f1");
    let clock = Clock::default();
    let _ = c.write_all(bytes);
    while !closed(&mut c) {
        assert!(clock.passed() < CLOSED, "{what}: still open after {:?}", clock.passed());
        if let Some(b) = drip.next() {
            let _ = c.write_all(&[b]);
        }
    }
    eprintln!("port: {what}: closed after {:?}", clock.passed());
}

/// Sends without end until the other side closes; how much it took.
fn flood(tree: &Tree, bytes: &[u8]) -> usize {
    let mut c = connect(tree, "f1");
    let (clock, mut sent) = (Clock::default(), 0);
    while clock.passed() < CLOSED {
        match c.write(&bytes[sent % bytes.len()..][..1]) {
            Ok(n) => sent += n,
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(_) => return sent,
        }
        if sent % 512 == 0 && closed(&mut c) {
            return sent;
        }
    }
    panic!("still open after {sent} bytes");
}

fn resident(tree: &Tree, node: &str) -> u64 {
    let path = format!("/proc/{}/status", tree.pid(node).unwrap());
    let text = std::fs::read_to_string(path).unwrap();
    let line = text.lines().find(|l| l.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
}

#[test]
fn one_port_serves_everybody_and_closes_on_what_it_does_not_know() {
    let mut random = Random::seeded("port");
    let plan = Plan::new(&[("p", &["f1"]), ("f1", &["l1"])]).volume("vol", 32).cut_every(200);
    let tree = Tree::start(plan);
    let mut writer = Writer::new("vol", 0, 8000, random.fork());
    let load = Load::default();
    let garbage = random.bytes(4096);
    let whole = Clock::default();
    std::thread::scope(|s| {
        let _ends = Ends(&load);
        s.spawn(|| writer.work(&tree, &load, 4 * MIB));
        tree.reaches("l1", "vol", 3, LONG);
        s.spawn(|| {
            while load.on() {
                http(&tree);
            }
        });
        let (before, set) = (resident(&tree, "f1"), tree.volume("l1", "vol").unwrap().current_set);
        // Each on its own, at the same time.
        std::thread::scope(|s| {
            let none = std::iter::empty;
            let t = &tree;
            let garbage = &garbage;
            s.spawn(move || is_closed("garbage", t, garbage, none()));
            s.spawn(move || is_closed("half-open", t, b"", none()));
            s.spawn(move || is_closed("half a line", t, b"OPEN g1 RC", none()));
            let slow = std::iter::repeat(b'x');
            s.spawn(move || is_closed("byte by byte, a line", t, b"OPEN ", slow));
            let slow = b"GET /metrics HTTP/1.1\r\n".iter().copied().chain(std::iter::repeat(b'a'));
            s.spawn(move || is_closed("byte by byte, HTTP", t, b"", slow));
            // The line takes most of the time, and then there is little left for a hello.
            let slow = format!("OPEN {} RCP/1.0\r\n", "g".repeat(63)).into_bytes();
            s.spawn(move || {
                is_closed("a line byte by byte, then nothing", t, b"", slow.into_iter())
            });
            s.spawn(move || is_closed("unknown group", t, b"OPEN nogroup RCP/1.0\r\n", none()));
            s.spawn(move || is_closed("silent RCP", t, b"OPEN g1 RCP/1.0\r\n", none()));
            let slow = std::iter::repeat(0);
            s.spawn(move || is_closed("byte by byte, RCP", t, b"OPEN g1 RCP/1.0\r\n", slow));
            // A frame of 4 GiB, of every kind there may be.
            for kind in 0..=u8::MAX {
                let mut frame = b"OPEN g1 RCP/1.0\r\n".to_vec();
                frame.extend_from_slice(&[0xff; 16]);
                frame[17] = kind;
                if kind % 32 == 1 {
                    let what = format!("oversized frame {kind}");
                    s.spawn(move || is_closed(&what, t, &frame, none()));
                }
            }
            s.spawn(move || {
                is_closed("a TLS hello", t, &[22, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3], none())
            });
            for bytes in [&b"x"[..], b"OPEN ", b"GET /", b"\0"] {
                s.spawn(move || {
                    let taken = flood(t, &bytes.repeat(4096));
                    assert!(taken <= TAKEN + 4096, "{bytes:?}: {taken} bytes were taken");
                });
            }
        });
        eprintln!("port: all closed after {:?}", whole.passed());
        let after = resident(&tree, "f1");
        assert!(after < before + 32 * MIB, "resident size rose from {before} to {after}");
        let now = tree.volume("l1", "vol").unwrap().current_set;
        assert!(now > set + 5, "the stream stood still: set {set}, then {now}");
        tree.reaches("l1", "vol", now + 2, LONG);
    });
    eprintln!("port: load ended after {:?}", whole.passed());
    // A peer that leaves at once.
    connect(&tree, "f1").shutdown(Shutdown::Both).unwrap();
    let cut = tree.cut("vol", true);
    tree.all_same("vol", cut.set, LONG);
    tree.quiet();
}

/// Metrics, a range, its ETag, all while sessions run on the same port.
fn http(tree: &Tree) {
    for n in tree.names() {
        let base = format!("http://{}", tree.addr(&n));
        let curl = || {
            tool("curl", "curl").map(|mut c| {
                c.args(["-sS", "--fail", "--max-time", "20"]);
                c
            })
        };
        let Some(mut metrics) = curl() else { return };
        let text = run(metrics.arg(format!("{base}/metrics")));
        assert!(text.contains("rcp_current_delta_set"), "{text}");
        check_metrics(&text);
        run(curl().unwrap().arg(format!("{base}/healthz")));
        if n == "p" {
            continue;
        }
        let url = format!("{base}/v1/volumes/vol");
        let dump = tree.dir().join(format!("{n}.head"));
        let body = tree.dir().join(format!("{n}.body"));
        let mut range = curl().unwrap();
        range.args(["-r", "4096-1052671", "-D"]).arg(&dump).arg("-o").arg(&body).arg(&url);
        run(&mut range);
        let head = std::fs::read_to_string(&dump).unwrap();
        assert!(head.starts_with("HTTP/1.1 206"), "{head}");
        assert_eq!(std::fs::metadata(&body).unwrap().len(), MIB);
        let etag = |l: &str| l.to_ascii_lowercase().strip_prefix("etag: ").map(str::to_owned);
        let etag = head.lines().find_map(etag).expect("an ETag");
        // The stream goes on: another state does not answer for this one.
        let of = format!("If-Range: {etag}");
        let mut again = curl().unwrap();
        again.args(["-r", "0-4095", "-H", &of, "-w", "%{http_code} %{size_download}", "-o"]);
        let answer = run(again.arg("/dev/null").arg(&url));
        let size = 32 * MIB;
        assert!(answer == "206 4096" || answer == format!("200 {size}"), "{answer}");
        let of = "If-Match: \"nothing\"";
        let wrong = said(curl().unwrap().args(["-H", of]).arg(&url)).unwrap_err();
        assert!(wrong.contains("412"), "{wrong}");
    }
}

fn check_metrics(text: &str) {
    let Some(mut promtool) = tool("promtool", "prometheus") else { return };
    let child = promtool
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let Ok(mut child) = child else { return lacking("promtool does not start", "look why") };
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let out = child.wait_with_output().unwrap();
    assert!(out.status.success(), "{out:?}\n{text}");
}

/// A peer that breaks the protocol is told so, with a code of the table and a sentence.
#[test]
fn nonsense_is_answered_with_a_code() {
    let tree = Tree::start(Plan::new(&[("p", &["f1"])]).volume("vol", 16));
    for (what, frames) in [
        ("a header of zeroes", vec![0; 16]),
        ("a frame that may not come first", bytes_of(&Frame::Ping { nonce: 1 })),
    ] {
        let mut c = connect(&tree, "f1");
        c.set_read_timeout(Some(LONG)).unwrap();
        c.write_all(&[b"OPEN g1 RCP/1.0\r\n", &frames[..]].concat()).unwrap();
        let mut answer = Vec::new();
        let _ = c.read_to_end(&mut answer);
        let Some((head, body)) = answer.split_first_chunk::<16>() else {
            panic!("{what}: no answer")
        };
        let header = FrameHeader::parse(head).unwrap();
        match Frame::decode(&header, body.to_vec().into()).unwrap() {
            Frame::Refuse { code: RefuseCode::Protocol, text } => {
                assert!(text.len() > 10, "{text}")
            }
            other => panic!("{what}: {other:?}"),
        }
    }
    tree.expect("lost ");
    tree.quiet();
}

fn bytes_of(frame: &Frame) -> Vec<u8> {
    let mut out = Vec::new();
    frame.encode(&mut out).unwrap();
    out.concat()
}
