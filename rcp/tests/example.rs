//! The example of `PROTOCOL.md`, played through the code: two sessions that send and take exactly
//! those bytes.

mod support;

use rcp::proto::classify::{Verdict, classify, opening_line};
use rcp::proto::clock::Mono;
use rcp::proto::delta::{ChunkListSum, ExtentKind};
use rcp::proto::frame::*;
use rcp::proto::session::*;
use support::*;

const DOC: &str = include_str!("../PROTOCOL.md");

/// Who speaks, what, and the bytes.
fn example() -> Vec<(usize, String, Vec<u8>)> {
    let (_, below) = DOC.split_once("\n## 12. Example\n").expect("the example");
    let block = below.split("```text\n").nth(1).and_then(|b| b.split("```").next()).expect("hex");
    let mut out: Vec<(usize, String, Vec<u8>)> = Vec::new();
    for line in block.lines() {
        match line.split_once(' ') {
            Some((">", what)) => out.push((0, what.to_owned(), vec![])),
            Some(("<", what)) => out.push((1, what.to_owned(), vec![])),
            _ => out.last_mut().map(|(_, _, b)| b.extend(unhex(line))).unwrap_or_default(),
        }
    }
    out
}

fn ends() -> [Session; 2] {
    let keepalive = std::time::Duration::from_secs(5);
    let of = |name: &str, from: u8, feeder| SessionConfig {
        instance: ascending(from),
        feeder,
        keepalive,
        ..config(name)
    };
    [
        Session::new(of("cel1", 0, 0), Side::Dialer(Role::Sender), Mono(0)),
        Session::new(of("cel2", 0x10, 1), Side::Acceptor, Mono(0)),
    ]
}

#[test]
fn the_example_is_what_the_code_does() {
    let mut ends = ends();
    let mut sum = ChunkListSum::new();
    let all = example();
    assert!(all.len() >= 10);
    let (_, _, line) = &all[0];
    assert_eq!(line, &opening_line(&group("g1")));
    assert!(matches!(classify(line), Verdict::Rcp { .. }));
    for (from, what, bytes) in &all[1..] {
        let frame = parse_frame(bytes).unwrap_or_else(|e| panic!("{what}: {e:?}"));
        assert_eq!(frame.frame_type().name(), what);
        match DecodedFrame::verify(frame.clone()).expect(what).content {
            Verified::Chunk(c) => {
                sum.add(c.number(), c.body_crc()).expect("one chunk");
                let kinds: Vec<_> = c.extents().map(|e| (e.block, e.count, e.kind)).collect();
                assert_eq!(kinds, [(5, 1, ExtentKind::Data), (6, 2, ExtentKind::Zero)]);
                assert_eq!(c.payload().expect("whole")[..17], *b"AAAAAAAAAAAAAAAA\0");
            }
            Verified::Set(h) => assert_eq!(sum.total(h.chunk_count), Some(h.chunk_list_crc)),
            Verified::None => {}
        }
        match &frame {
            Frame::Hello(_) | Frame::Welcome(_) => {}
            Frame::Goodbye { code, text } => ends[*from].close(*code, text),
            f => ends[*from].send(f.clone()).expect(what),
        }
        let sent = ends[*from].poll_transmit().expect(what);
        assert_eq!(frame_bytes(&sent), *bytes, "{what}");
        while ends[1 - from].poll_event().is_some() {}
        ends[1 - from].handle_frame(Mono(0), frame.clone());
        let passed = ends[1 - from].poll_event();
        match frame {
            Frame::Hello(_) | Frame::Welcome(_) => assert!(matches!(passed, Some(Event::Up(_)))),
            Frame::Goodbye { .. } => assert!(matches!(passed, Some(Event::Closed(_)))),
            f => assert_eq!(passed, Some(Event::Frame(f)), "{what}"),
        }
    }
    assert!(ends.iter().all(|s| s.state() == SessionState::Closed));
}
