//! Frames and first bytes over streams: an in-memory pipe, and a real socket once.

#![cfg(feature = "net")]

mod support;

use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;
use rcp::net::conn::{FramedReader, FramedWriter, Verify};
use rcp::net::port::{Accepted, PortRefusal, accept, accept_tcp, accept_within};
use rcp::net::{NetError, dial};
use rcp::proto::classify::Refusal;
use rcp::proto::delta::{ChunkDraft, Compression, Extent};
use rcp::proto::frame::*;
use rcp::proto::limits::FRAME_HEADER_LEN;
use support::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

/// A chunk of a mebibyte.
fn big_chunk(n: u32) -> Frame {
    let draft = ChunkDraft {
        number: rcp::proto::ids::ChunkNumber(n),
        block_size_shift: 12,
        extents: vec![Extent::data(0, 256)],
        payload: vec![n as u8; 1 << 20].into(),
        ..draft_raw()
    };
    let body = draft.encode(Compression::Never).expect("legal").bytes().clone();
    Frame::Chunk { stream: StreamId(1), feeder: 1, seq: u64::from(n), body }
}

#[tokio::test]
async fn chunks_are_proved_and_their_buffers_used_again() {
    let (a, b) = duplex(64 << 10);
    let mut w = FramedWriter::new(a, "b");
    let send = async {
        for n in 0..40 {
            w.queue(&Frame::Ping { nonce: 1 }).expect("queued");
            w.send(&big_chunk(n)).await.expect("sent");
        }
        w.shutdown().await.expect("closed");
        (w.sent(), w.queued())
    };
    let receive = async {
        let mut r = FramedReader::new(b, "a", Verify::Content);
        let mut chunks = 0;
        while let Some(f) = r.next().await.expect("sound") {
            match (f.content, f.frame) {
                (Verified::Chunk(c), Frame::Chunk { body, .. }) => {
                    assert_eq!(c.number().0, chunks);
                    // a view of what came, not a copy
                    assert_eq!(c.bytes().as_ptr(), body.as_ptr());
                    chunks += 1;
                }
                (Verified::None, Frame::Ping { .. }) => {}
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(chunks, 40);
        assert!(r.reused_buffers() > 30, "{}", r.reused_buffers());
        r.received()
    };
    let ((sent, queued), received) = tokio::join!(send, receive);
    assert_eq!((sent, queued), (received, 0));
}

#[tokio::test]
async fn a_chunk_is_sent_from_where_it_is() {
    let frame = big_chunk(3);
    let Frame::Chunk { body, .. } = &frame else { panic!("a chunk") };
    let mut out: Vec<Bytes> = Vec::new();
    frame.encode(&mut out).expect("legal");
    assert_eq!(out[1].as_ptr(), body.as_ptr());
    assert_eq!(out[0].len(), 16 + 12);
}

#[tokio::test]
async fn nothing_large_is_taken_before_the_greeting() {
    let (mut a, b) = duplex(64 << 10);
    a.write_all(&frame_bytes(&big_chunk(0))[..FRAME_HEADER_LEN]).await.expect("written");
    let mut r = FramedReader::new(b, "a stranger", Verify::Content).greeting();
    let e = r.next().await.expect_err("who is it?");
    assert!(e.is_nonsense() && e.to_string().contains("a stranger"), "{e}");
    // After it, it is.
    let (mut a, b) = duplex(4 << 20);
    let hello = frame_bytes(&Frame::Ping { nonce: 1 });
    a.write_all(&[hello, frame_bytes(&big_chunk(0))].concat()).await.expect("written");
    let mut r = FramedReader::new(b, "a peer", Verify::Content).greeting();
    for _ in 0..2 {
        r.next().await.expect("sound").expect("a frame");
    }
}

#[tokio::test]
async fn damage_names_the_peer() {
    let mut bytes = frame_bytes(&big_chunk(0));
    let n = bytes.len();
    bytes[n - 1] ^= 1;
    let mut r = FramedReader::new(&bytes[..], "cel1-ser1", Verify::Content);
    let e = r.next().await.expect_err("damaged");
    assert!(matches!(&e, NetError::Frame { source: FrameError::Content { .. }, .. }));
    assert!(e.to_string().contains("cel1-ser1"), "{e}");
    // without proof, the damage is for somebody else to find
    let mut r = FramedReader::new(&bytes[..], "cel1-ser1", Verify::Nothing);
    assert!(r.next().await.expect("unproved").is_some());
    // the end inside a frame, and between two
    let mut r = FramedReader::new(&bytes[..n - 1], "x", Verify::Nothing);
    assert!(matches!(r.next().await, Err(NetError::Truncated { .. })));
    let mut r = FramedReader::new(&bytes[..7], "x", Verify::Nothing);
    assert!(matches!(r.next().await, Err(NetError::Truncated { .. })));
    let mut r = FramedReader::new(&bytes[..0], "x", Verify::Nothing);
    assert!(matches!(r.next().await, Ok(None)));
}

#[tokio::test]
async fn a_length_over_the_limit_allocates_nothing() {
    // the header of a chunk frame that announces 4 GiB, with a right checksum
    let mut b = frame_bytes(&big_chunk(0));
    b[..4].copy_from_slice(&u32::MAX.to_le_bytes());
    let crc = crc32c::crc32c(&b[..12]);
    b[12..16].copy_from_slice(&crc.to_le_bytes());
    let mut r = FramedReader::new(&b[..], "x", Verify::Content);
    assert!(matches!(
        r.next().await,
        Err(NetError::Frame { source: FrameError::Length { .. }, .. })
    ));
}

/// Reading and writing that are cancelled at every turn lose nothing.
#[tokio::test]
async fn cancelling_loses_nothing() {
    let (a, b) = duplex(1000);
    let mut w = FramedWriter::new(a, "b");
    let mut r = FramedReader::new(b, "a", Verify::Content);
    let frames: Vec<Frame> =
        (0..3).flat_map(|n| [Frame::Ping { nonce: u64::from(n) }, big_chunk(n)]).collect();
    frames.iter().for_each(|f| w.queue(f).expect("queued"));
    let (mut got, mut written) = (Vec::new(), false);
    while got.len() < frames.len() {
        tokio::select! {
            biased;
            f = r.next() => got.push(f.expect("sound").expect("more").frame),
            () = tokio::task::yield_now() => {}
        }
        if !written {
            tokio::select! {
                biased;
                done = w.flush() => { done.expect("written"); written = true; }
                () = tokio::task::yield_now() => {}
            }
        }
    }
    assert_eq!(got, frames);
}

fn in_runtime<T>(f: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime").block_on(f)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_frames_in_any_pieces(
        frames in prop::collection::vec(any_frame(), 1..12),
        pipe in 1usize..5000,
    ) {
        in_runtime(async {
            let (a, b) = duplex(pipe);
            let mut w = FramedWriter::new(a, "b");
            let mut r = FramedReader::new(b, "a", Verify::Content);
            let send = async {
                for f in &frames {
                    w.queue(f).expect("queued");
                }
                w.shutdown().await.expect("sent");
            };
            let receive = async {
                let mut got = Vec::new();
                while let Some(f) = r.next().await.expect("sound") {
                    got.push(f.frame);
                }
                got
            };
            let ((), got) = tokio::join!(send, receive);
            assert_eq!(got, frames);
        });
    }
}

#[tokio::test]
async fn first_bytes_are_replayed() {
    let (mut a, b) = duplex(64);
    let write = async {
        for piece in ["OPEN g1 RC", "P/1.0\r\nthe", " rest"] {
            a.write_all(piece.as_bytes()).await.expect("written");
            tokio::task::yield_now().await;
        }
        a.shutdown().await.expect("closed");
    };
    let ((), accepted) = tokio::join!(write, accept(b));
    assert_eq!(accepted.label(), "rcp");
    let Accepted::Rcp { group: g, mut io } = accepted else { panic!("RCP") };
    let mut rest = String::new();
    io.read_to_string(&mut rest).await.expect("read");
    assert_eq!((g, rest.as_str()), (group("g1"), "the rest"));

    for (bytes, label) in
        [(&b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"[..], "http"), (b"\x16\x03\x01xyz", "tls")]
    {
        let accepted = accept(bytes).await;
        assert_eq!(accepted.label(), label);
        let (Accepted::Http { mut io } | Accepted::Tls { mut io }) = accepted else {
            panic!("{label}");
        };
        let mut all = Vec::new();
        io.read_to_end(&mut all).await.expect("read");
        assert_eq!(all, bytes, "from the first byte");
    }
}

#[tokio::test]
async fn what_says_nothing_sensible_is_closed() {
    let (_a, b) = duplex(64);
    let soon = Duration::from_millis(20);
    let refused = accept_within(b, soon).await;
    assert!(matches!(refused, Accepted::Refused { why: PortRefusal::Timeout(_) }));
    let refused = accept(&b"OPEN g1"[..]).await;
    assert!(matches!(refused, Accepted::Refused { why: PortRefusal::Closed }));
    let refused = accept(&b"\0\x01\x02"[..]).await;
    assert!(matches!(refused, Accepted::Refused { why: PortRefusal::Bytes(Refusal::NotText) }));
    let endless = vec![b'A'; 9000];
    assert_eq!(accept(&endless[..]).await.label(), "no-token");
    let endless = [&b"GET /"[..], &endless].concat();
    assert_eq!(accept(&endless[..]).await.label(), "too-long");
}

#[tokio::test]
async fn dialling_a_real_socket() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let addr = listener.local_addr().expect("bound").to_string();
    let g = group("g1");
    let (client, server) = tokio::join!(dial(&addr, &g), listener.accept());
    let Accepted::Rcp { group: named, io } = accept_tcp(server.expect("accepted").0).await else {
        panic!("RCP");
    };
    assert_eq!(named, g);
    assert!(io.get_ref().nodelay().expect("asked"));
    let client = client.expect("dialled");
    assert!(client.nodelay().expect("asked"));
    let frame = big_chunk(1);
    let mut w = FramedWriter::new(client, "server");
    let mut r = FramedReader::new(io, "client", Verify::Content);
    let (sent, got) = tokio::join!(w.send(&frame), r.next());
    sent.expect("sent");
    assert_eq!(got.expect("sound").expect("a frame").frame, frame);
    drop(listener);
    let e = dial(&addr, &g).await.expect_err("nobody listens any more");
    assert!(e.to_string().contains(&addr), "{e}");
}
