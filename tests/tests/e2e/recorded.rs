//! What goes over a connection between two processes, for the fuzzer's corpus and read back here.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rcp::proto::classify::opening_line;
use rcp::proto::frame::{DecodedFrame, Frame, FrameHeader, FrameType};
use rcp::proto::ids::GroupName;
use tests::rig::{Plan, Random, Tree, free_port};

const LONG: Duration = Duration::from_secs(30);

/// Bytes of one direction.
type Tape = Arc<Mutex<Vec<u8>>>;

/// Passes connections on to `to`, and keeps what goes there and back.
fn tap(port: u16, to: SocketAddr) -> [Tape; 2] {
    let tapes = [Tape::default(), Tape::default()];
    let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
    let kept = tapes.clone();
    std::thread::spawn(move || {
        for here in listener.incoming().flatten() {
            let Ok(there) = TcpStream::connect(to) else { continue };
            let ways = [(here.try_clone().unwrap(), there.try_clone().unwrap()), (there, here)];
            for ((mut from, mut to), tape) in ways.into_iter().zip(kept.clone()) {
                std::thread::spawn(move || {
                    let mut piece = [0; 4096];
                    while let Ok(n @ 1..) = from.read(&mut piece) {
                        tape.lock().unwrap().extend_from_slice(&piece[..n]);
                        if to.write_all(&piece[..n]).is_err() {
                            break;
                        }
                    }
                });
            }
        }
    });
    tapes
}

/// Frames in recorded bytes, each whole.
fn frames(mut bytes: &[u8]) -> Vec<(FrameType, Vec<u8>)> {
    let mut out = Vec::new();
    while let Some((head, rest)) = bytes.split_first_chunk::<16>() {
        let header = FrameHeader::parse(head).expect("a sound header");
        let Some((body, rest)) = rest.split_at_checked(header.len()) else { break };
        let frame = Frame::decode(&header, body.to_vec().into()).expect("a sound frame");
        DecodedFrame::verify(frame).expect("sound content");
        out.push((header.frame_type, [&head[..], body].concat()));
        bytes = rest;
    }
    out
}

/// A hop as somebody in between sees it; with `RCP_RECORD` the first frames of each type go to
/// `rcp/fuzz/recorded`.
#[test]
fn a_hop_between_processes_is_made_of_sound_frames() {
    let mut random = Random::seeded("recorded");
    let mut plan = Plan::new(&[("p", &["f1"])]).volume("vol", 16);
    let port = free_port();
    plan.spec.nodes.get_mut("f1").unwrap().address = Some(format!("127.0.0.1:{port}"));
    let tree = Tree::prepare(&mut plan);
    let tapes = tap(port, tree.addr("f1"));
    for n in ["p", "f1"] {
        tree.up(n);
    }
    let mut c = tree.open("p", "vol").unwrap();
    for i in 0..4 {
        c.write(i << 20, &random.bytes(4096), false).unwrap();
        c.flush().unwrap();
        let cut = tree.cut("vol", false);
        tree.reaches("f1", "vol", cut.set, LONG);
    }
    tree.stop("p", LONG);
    let [down, up] = tapes.map(|t| t.lock().unwrap().clone());
    let line = opening_line(&GroupName::new("g1").unwrap());
    assert!(down.starts_with(&line));
    let both = [("down", frames(&down[line.len()..])), ("up", frames(&up))];
    for t in [FrameType::Hello, FrameType::Offer, FrameType::Chunk, FrameType::SetEnd] {
        assert!(both[0].1.iter().any(|(x, _)| *x == t), "no {t}");
    }
    for t in [FrameType::Welcome, FrameType::Attach, FrameType::Saved] {
        assert!(both[1].1.iter().any(|(x, _)| *x == t), "no {t}");
    }
    if std::env::var_os("RCP_RECORD").is_some() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../rcp/fuzz/recorded");
        std::fs::create_dir_all(&folder).unwrap();
        for (way, frames) in both {
            let mut kept = Vec::new();
            for (t, bytes) in &frames {
                if kept.iter().filter(|(x, _)| *x == t).count() < 3 {
                    kept.push((t, bytes));
                }
            }
            let all: Vec<u8> = kept.into_iter().flat_map(|(_, b)| b.clone()).collect();
            std::fs::write(folder.join(way), all).unwrap();
        }
    }
    tree.expect("lost the parent");
    tree.quiet();
}
