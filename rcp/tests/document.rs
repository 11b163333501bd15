//! `PROTOCOL.md` says what the code does.

use std::collections::BTreeMap;

use rcp::proto::delta;
use rcp::proto::frame::{FrameType, GoodbyeCode, RefuseCode, stream_error};
use rcp::proto::limits::*;
use rcp::proto::session::{Action, SessionState, action};

const DOC: &str = include_str!("../PROTOCOL.md");
const LIMITS: &str = include_str!("../src/proto/limits.rs");

/// The rows of the first table below a heading, without head and rule.
fn table(heading: &str) -> Vec<Vec<String>> {
    let (_, below) = DOC.split_once(&format!("\n{heading}\n")).expect(heading);
    let rows = below.lines().skip_while(|l| !l.starts_with('|'));
    let cells = |l: &str| l.trim_matches('|').split('|').map(|c| c.trim().to_owned()).collect();
    rows.take_while(|l| l.starts_with('|')).map(cells).collect()
}

fn rows(heading: &str) -> Vec<Vec<String>> {
    table(heading).into_iter().skip(2).collect()
}

#[test]
fn frame_types() {
    let listed = rows("### Frame types");
    assert_eq!(listed.len(), FrameType::ALL.len());
    for (row, t) in listed.iter().zip(FrameType::ALL) {
        assert_eq!((row[0].as_str(), row[1].as_str()), (&*t.number().to_string(), t.name()));
        assert_eq!(row[3] == "yes", t.is_stream(), "{t}");
        let body = match t.data_prefix() {
            Some(n) => format!("data, {n} bytes before it"),
            None => "control".to_owned(),
        };
        assert_eq!(row[4], body, "{t}");
        assert!(DOC.contains(&format!("\n#### {t}\n")), "the body of {t} is described");
        let passes = |s| action(s, *t) == Action::Pass;
        let direction = match (passes(SessionState::UpReceiver), passes(SessionState::UpSender)) {
            (true, false) => "down",
            (false, true) => "up",
            _ => match t {
                FrameType::Hello | FrameType::Join => "dialler",
                FrameType::Welcome | FrameType::Joined => "acceptor",
                _ => "both",
            },
        };
        assert_eq!(row[2], direction, "{t}");
    }
}

#[test]
fn codes() {
    let known = |heading: &str| -> Vec<(String, String)> {
        rows(heading).into_iter().map(|r| (r[0].clone(), r[1].clone())).collect()
    };
    let ours = |n: u16, name: &str| (n.to_string(), name.to_owned());
    let refuse: Vec<_> = RefuseCode::ALL.iter().map(|c| ours(c.number(), c.as_str())).collect();
    assert_eq!(known("### Refuse codes"), refuse);
    let goodbye: Vec<_> = GoodbyeCode::ALL.iter().map(|c| ours(c.number(), c.as_str())).collect();
    assert_eq!(known("### Goodbye codes"), goodbye);
    for n in 0..=u16::MAX {
        assert_eq!(RefuseCode::from_number(n).number(), n);
        assert_eq!(GoodbyeCode::from_number(n).number(), n);
    }
    macro_rules! stream_errors {
        ($($name:ident)*) => { vec![$(ours(stream_error::$name, stringify!($name))),*] };
    }
    let stream = stream_errors!(
        UNKNOWN_STREAM PROTOCOL DIVERGED FED DETACHED DAMAGED STORAGE STOPPED FENCED
        NO_CATCH_UP AGAIN
    );
    assert_eq!(known("### Stream errors"), stream);
}

#[test]
fn limits() {
    macro_rules! values {
        ($($name:ident)*; $($time:ident)*) => {
            BTreeMap::from([
                $((stringify!($name), $name.to_string()),)*
                $((stringify!($time), format!("{} ms", $time.as_millis())),)*
            ])
        };
    }
    let ours = values!(
        MIN_BLOCK_SHIFT MAX_BLOCK_SHIFT MAX_VOLUME_BLOCKS MAX_VOLUME_BYTES CHUNK_HEADER_LEN
        SET_HEADER_LEN EXTENT_LEN MAX_EXTENTS MAX_PAYLOAD DEFAULT_PAYLOAD MAX_CHUNK_LEN
        MAX_CHUNKS_OUT_OF_ORDER FRAME_HEADER_LEN MAX_CONTROL_BODY MAX_DATA_PREFIX MAX_DATA_BODY
        MAX_TEXT MAX_LEAF_TEXT MAX_CONTROL_KIND MAX_CONTROL_BLOCK MAX_PATH MAX_HISTORY
        MAX_REPORT_STATES MAX_REPORT_LEAVES MAX_DOUBTS MAX_SUMS MAX_ROUTE_NODES MAX_ROUTE_HOPS
        MAX_PROBE_VOLUMES MAX_OPENING_LINE MAX_FIRST_BYTES IDLE_KEEPALIVES MAX_SESSION_QUEUE
        MAX_SESSION_CONNECTIONS PLACES_WINDOW PLACES_FRAMES MAX_PLACES_BYTES MAX_PLACES_FRAMES;
        CLASSIFY_DEADLINE DIAL_DEADLINE HANDSHAKE_DEADLINE MIN_KEEPALIVE MAX_KEEPALIVE
        BACKOFF_MIN BACKOFF_SOON BACKOFF_MAX
    );
    let in_code = LIMITS.matches("\npub const ").count();
    assert_eq!(ours.len(), in_code, "every constant is compared");
    let listed = rows("## 10. Limits");
    assert_eq!(listed.len(), in_code, "every constant is listed");
    for row in listed {
        let name = row[0].trim_matches('`');
        assert_eq!(ours.get(name), Some(&row[1]), "{name}");
    }
}

#[test]
fn layouts() {
    assert_eq!(delta::MAGIC, *b"RCPD");
    for (heading, len) in [
        ("## 2. Frames", FRAME_HEADER_LEN),
        ("## 3. Chunk", CHUNK_HEADER_LEN),
        ("## 4. Set header", SET_HEADER_LEN),
    ] {
        let mut at = if len == SET_HEADER_LEN { 88 } else { 0 };
        for row in rows(heading) {
            assert_eq!(row[0], at.to_string(), "{heading}: no gap before {}", row[2]);
            at += row[1].parse::<usize>().expect("a length");
        }
        assert_eq!(at, len, "{heading}");
    }
}
