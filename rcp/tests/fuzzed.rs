//! What the fuzzer looks at, on stable Rust: its corpus, and made-up bytes near it, through the same
//! functions.

#[path = "../fuzz/src/entry.rs"]
mod entry;
mod support;

use std::path::{Path, PathBuf};

use proptest::prelude::*;
use rcp::proto::frame::FrameType;
use support::*;

/// The targets, and the longest input of each that is made up here.
type Target = (&'static str, fn(&[u8]), usize);
const TARGETS: [Target; 4] = [
    ("frames", entry::frames::run, 2048),
    ("first_bytes", entry::first_bytes::run, 9000),
    ("handshake", entry::handshake::run, 512),
    ("session", entry::session::run, 2048),
];

fn folder(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target)
}

/// The corpus of a target, in an order that does not change.
fn corpus(target: &str) -> Vec<Vec<u8>> {
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(folder(target)).expect(target).flatten().map(|e| e.path()).collect();
    files.sort();
    files.iter().map(|p| std::fs::read(p).expect("a file of the corpus")).collect()
}

#[test]
fn the_corpus_passes() {
    let mut total = 0;
    for (name, run, _) in TARGETS {
        let all = corpus(name);
        assert!(all.len() >= 10, "{name} has a corpus");
        for input in &all {
            run(input);
            total += input.len();
        }
    }
    assert!(total < 1 << 20, "{total} bytes: minimise it, rcp/fuzz/README.md says how");
}

/// Every golden frame is in the corpus of the first target, and every target has a folder.
#[test]
fn the_corpus_holds_the_vectors() {
    let all: Vec<Vec<u8>> = corpus("frames");
    for (name, bytes) in sections(include_str!("vectors/frames.hex")) {
        let found = all.iter().any(|c| c.windows(bytes.len()).any(|w| w == bytes));
        assert!(found, "{name} is not there: cargo test -p rcp --test fuzzed -- --ignored");
    }
}

/// Some made-up bytes, or an input of the corpus with a few bytes changed, cut out or put in.
fn near(all: Vec<Vec<u8>>, most: usize) -> impl Strategy<Value = Vec<u8>> {
    let edit = (any::<prop::sample::Index>(), any::<u8>(), 0..4u8);
    let edits = prop::collection::vec(edit, 0..12);
    let changed = (prop::sample::select(all), edits).prop_map(|(mut b, edits)| {
        for (at, value, how) in edits {
            let i = at.index(b.len() + 1);
            match how {
                0 => b.insert(i, value),
                1 if i < b.len() => drop(b.remove(i)),
                2 if i < b.len() => b[i] ^= 1 << (value % 8),
                3 if i < b.len() => b[i] = value,
                _ => {}
            }
        }
        b
    });
    prop_oneof![1 => prop::collection::vec(any::<u8>(), 0..most), 3 => changed]
}

fn bounded(target: usize) {
    let (name, run, most) = TARGETS[target];
    let config = ProptestConfig { cases: 2000, ..ProptestConfig::default() };
    proptest!(config, |(input in near(corpus(name), most))| run(&input));
}

#[test]
fn frames_near_the_corpus() {
    bounded(0);
}

#[test]
fn first_bytes_near_the_corpus() {
    bounded(1);
}

#[test]
fn handshakes_near_the_corpus() {
    bounded(2);
}

#[test]
fn sessions_near_the_corpus() {
    bounded(3);
}

/// The form in which the feed takes a frame: type, stream, length of the body, body.
fn fed(frame: &[u8]) -> Vec<u8> {
    let t = FrameType::from_number(frame[4]).expect("a known type");
    let place = FrameType::ALL.iter().position(|x| *x == t).expect("listed");
    let body = &frame[16..];
    let mut out = vec![u8::try_from(place).expect("few")];
    if t.is_stream() {
        out.push(frame[6]);
    }
    out.extend(u16::try_from(body.len()).unwrap_or(u16::MAX).to_le_bytes());
    out.extend(body);
    out
}

/// Frames one after another in recorded bytes, at most so many.
fn split(mut bytes: &[u8], most: usize) -> Vec<Vec<u8>> {
    let mut out = Vec::new();
    while let (Some(len), true) = (bytes.first_chunk::<4>(), out.len() < most) {
        let whole = 16 + usize::try_from(u32::from_le_bytes(*len)).expect("small");
        let Some(frame) = bytes.get(..whole) else { break };
        out.push(frame.to_vec());
        bytes = &bytes[whole..];
    }
    out
}

/// Writes the inputs that a corpus begins with: golden frames, and what went over a connection
/// between two processes (`tests/tests/e2e/recorded.rs` records it).
#[test]
#[ignore = "writes files; rcp/fuzz/README.md says when"]
fn write_the_first_inputs() {
    let put = |target: &str, name: &str, bytes: &[u8]| {
        std::fs::create_dir_all(folder(target)).expect("a folder");
        std::fs::write(folder(target).join(name), bytes).expect("written");
    };
    let named = |n: &str| n.replace(|c: char| !c.is_ascii_alphanumeric(), "-").to_lowercase();
    let golden = sections(include_str!("vectors/frames.hex"));
    // a plain configuration: versions, name, instance, group, path, feeder, keep-alive, peers, ask
    let config = |name: u8| [1, name, 1, 0, 1, name, 7, 232, 3, 1, 1, 0];
    for (name, bytes) in &golden {
        for mend in 0..2 {
            put(
                "frames",
                &format!("golden-{}-{mend}", named(name)),
                &[&[mend], &bytes[..]].concat(),
            );
        }
        for (side, word) in [(2u8, "acceptor"), (0, "dialler"), (1, "probe")] {
            let mut input = config(0).to_vec();
            input.push(side);
            if side == 0 {
                input.push(1);
            }
            input.extend([1, 3]);
            input.extend(fed(bytes));
            put("handshake", &format!("golden-{word}-{}", named(name)), &input);
        }
    }
    for (name, line) in [
        ("rcp", &b"OPEN g1 RCP/1.0\r\n\x3f\0\0\0"[..]),
        ("rcp-bad", b"OPEN  g1 RCP/1.0\r\n"),
        ("rcp-2", b"OPEN g1 RCP/2.0\r\n"),
        ("http", b"GET /RCP/1.0 HTTP/1.1\r\nHost: x\r\n\r\n"),
        ("http-10", b"POST /x HTTP/1.0\n"),
        ("http-2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
        ("tls", b"\x16\x03\x01\x02\0\x01"),
        ("method", b"VERSION-CONTROL /x HTTP/1.1\r\n"),
        ("words", b"OPEN HTTP/1.1 RCP/1.0\r\n"),
        ("nothing", b"\r\n"),
        ("bytes", b"OPEN\0g1"),
    ] {
        put("first_bytes", name, line);
    }
    put("first_bytes", "long", &[&b"GET /"[..], &[b'a'; 8200]].concat());
    // sessions: configurations, then operations; both ends ours, or not
    for own in 0..2u8 {
        for role in 0..2u8 {
            let mut input = vec![own | 2];
            input.extend(config(0));
            input.push(role);
            input.extend(config(1));
            // hello to the acceptor, welcome to the dialler
            input.extend([0x80, 0]);
            for (_, bytes) in &golden {
                for end in [0, 0x80] {
                    input.push(end | 5);
                    input.extend(fed(bytes));
                    input.push(0x80 ^ end);
                }
            }
            put("session", &format!("golden-{own}-{role}"), &input);
            for (op, word) in [(7, "time"), (8, "accept"), (9, "refuse"), (10, "close")] {
                let mut short = input[..input.len().min(60)].to_vec();
                short.extend([op, 0xff, 0x0f, 0, 0x80, op | 0x80, 0xff, 0x0f]);
                put("session", &format!("order-{word}-{own}-{role}"), &short);
            }
        }
    }
    let recorded = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/recorded");
    for file in std::fs::read_dir(recorded).into_iter().flatten().flatten() {
        let (bytes, name) = (std::fs::read(file.path()).expect("read"), file.file_name());
        let name = named(&name.to_string_lossy());
        let frames = split(&bytes, 60);
        put("frames", &format!("recorded-{name}"), &[&[0], &frames.concat()[..]].concat());
        let mut input = vec![1 | 2];
        input.extend(config(0));
        input.push(1);
        input.extend(config(1));
        for f in frames.iter().filter(|f| f.len() < 4096) {
            input.push(0x85);
            input.extend(fed(f));
        }
        put("session", &format!("recorded-{name}"), &input);
    }
}
