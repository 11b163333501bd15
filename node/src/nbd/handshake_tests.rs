//! The handshake against the NBD specification, without a socket.

use super::*;
use crate::nbd::export::{Errno, ExportName, Extent, ReadError};
use crate::nbd::file::FixedExports;
use proptest::prelude::*;

struct Fake;

impl Export for Fake {
    fn info(&self) -> ExportInfo {
        ExportInfo {
            size: 0x10_0000,
            read_only: false,
            block_size: 65536,
            can_multi_conn: true,
            can_trim: true,
            can_zero: true,
            can_fast_zero: false,
            can_cache: false,
            cheap_status: true,
            description: "a fake".into(),
        }
    }
    fn try_read(&self, _: u64, _: &mut [u8]) -> Result<(), ReadError> {
        Err(ReadError::WouldBlock)
    }
    fn read(&self, _: u64, _: &mut [u8]) -> Result<(), Errno> {
        Err(Errno::Io)
    }
    fn write(&self, _: u64, _: &[u8]) -> Result<(), Errno> {
        Err(Errno::Io)
    }
    fn flush(&self) -> Result<(), Errno> {
        Ok(())
    }
    fn trim(&self, _: u64, _: u64) -> Result<(), Errno> {
        Ok(())
    }
    fn zero(&self, _: u64, _: u64, _: bool, _: bool) -> Result<(), Errno> {
        Ok(())
    }
    fn block_status(&self, _: u64, _: u64, _: usize) -> Result<Vec<Extent>, Errno> {
        Ok(Vec::new())
    }
}

fn exports() -> Arc<FixedExports> {
    let named = |name: &str| ExportName { name: name.into(), description: "d".into() };
    FixedExports::new(vec![(named("a"), Arc::new(Fake) as _), (named("b"), Arc::new(Fake) as _)])
}

fn option(option: u32, data: &[u8]) -> Vec<u8> {
    let mut v = b"IHAVEOPT".to_vec();
    v.extend_from_slice(&option.to_be_bytes());
    v.extend_from_slice(&u32::try_from(data.len()).unwrap().to_be_bytes());
    v.extend_from_slice(data);
    v
}

fn string(s: &[u8]) -> Vec<u8> {
    let mut v = u32::try_from(s.len()).unwrap().to_be_bytes().to_vec();
    v.extend_from_slice(s);
    v
}

/// Begun handshake with both client flags sent.
fn begun() -> Handshake {
    let mut h = Handshake::default();
    let (used, _) = h.step(&[0, 0, 0, 3], &*exports(), &mut Vec::new()).unwrap();
    assert_eq!(used, 4);
    h
}

/// Sends one option; the kinds and data of the replies.
fn ask(h: &mut Handshake, o: u32, data: &[u8]) -> (Vec<(u32, Vec<u8>)>, Outcome) {
    let mut out = Vec::new();
    let message = option(o, data);
    let (used, outcome) = h.step(&message, &*exports(), &mut out).unwrap();
    assert_eq!(used, message.len());
    let (mut f, mut replies) = (Fields(&out), Vec::new());
    while !f.0.is_empty() {
        assert_eq!(f.bytes(8).unwrap(), REPLY_MAGIC.to_be_bytes());
        assert_eq!(f.u32(), Some(o));
        let (kind, len) = (f.u32().unwrap(), f.u32().unwrap());
        replies.push((kind, f.bytes(len as usize).unwrap().to_vec()));
    }
    (replies, outcome)
}

fn kinds(replies: &[(u32, Vec<u8>)]) -> Vec<u32> {
    replies.iter().map(|(k, _)| *k).collect()
}

#[test]
fn golden_greeting_and_reply() {
    assert_eq!(&greeting(), b"NBDMAGICIHAVEOPT\x00\x03");
    let mut out = Vec::new();
    reply(&mut out, 3, rep::ERR_POLICY, b"no");
    assert_eq!(
        out,
        [
            0x00, 0x03, 0xe8, 0x89, 0x04, 0x55, 0x65, 0xa9, // magic
            0, 0, 0, 3, // LIST
            0x80, 0, 0, 2, // ERR_POLICY
            0, 0, 0, 2, b'n', b'o',
        ]
    );
}

#[test]
fn golden_go() {
    let mut h = begun();
    let mut data = string(b"a");
    data.extend_from_slice(&[0, 3, 0, 1, 0, 2, 0, 3]); // NAME, DESCRIPTION, BLOCK_SIZE
    let (replies, outcome) = ask(&mut h, opt::GO, &data);
    assert!(matches!(outcome, Outcome::Enter { .. }));
    let info: Vec<&[u8]> = replies.iter().map(|(_, d)| d.as_slice()).collect();
    assert_eq!(kinds(&replies), [rep::INFO, rep::INFO, rep::INFO, rep::INFO, rep::ACK]);
    // EXPORT, 1 MiB, HAS_FLAGS FLUSH FUA TRIM WRITE_ZEROES MULTI_CONN
    assert_eq!(info[0], [0, 0, 0, 0, 0, 0, 0, 0x10, 0, 0, 0b1, 0b0110_1101]);
    assert_eq!(info[1], b"\x00\x01a");
    assert_eq!(info[2], b"\x00\x02a fake");
    assert_eq!(info[3], [0, 3, 0, 0, 0, 1, 0, 1, 0, 0, 4, 0, 0, 0]);
}

#[test]
fn structured_replies_come_before_contexts() {
    let mut h = begun();
    let mut set = string(b"a");
    set.extend_from_slice(&[0, 0, 0, 1]);
    set.extend_from_slice(&string(b"base:allocation"));
    assert_eq!(kinds(&ask(&mut h, opt::SET_META_CONTEXT, &set).0), [rep::ERR_INVALID]);
    assert_eq!(kinds(&ask(&mut h, opt::STRUCTURED_REPLY, b"x").0), [rep::ERR_INVALID]);
    assert_eq!(kinds(&ask(&mut h, opt::STRUCTURED_REPLY, b"").0), [rep::ACK]);
    let (replies, _) = ask(&mut h, opt::SET_META_CONTEXT, &set);
    assert_eq!(kinds(&replies), [rep::META_CONTEXT, rep::ACK]);
    assert_eq!(replies[0].1, b"\x00\x00\x00\x01base:allocation");
    let go = |h: &mut Handshake, name: &[u8]| {
        let mut data = string(name);
        data.extend_from_slice(&[0, 0]);
        match ask(h, opt::GO, &data).1 {
            Outcome::Enter { negotiated, .. } => negotiated,
            _ => panic!("GO did not enter"),
        }
    };
    assert_eq!(go(&mut h, b"a"), Negotiated { structured: true, block_status: true });
    // selected for another export: not selected
    assert_eq!(go(&mut h, b"b"), Negotiated { structured: true, block_status: false });
}

#[test]
fn contexts_are_listed_and_replaced() {
    let mut h = begun();
    ask(&mut h, opt::STRUCTURED_REPLY, b"");
    let query = |queries: &[&[u8]]| {
        let mut data = string(b"a");
        data.extend_from_slice(&u32::try_from(queries.len()).unwrap().to_be_bytes());
        queries.iter().for_each(|q| data.extend_from_slice(&string(q)));
        data
    };
    let both = [rep::META_CONTEXT, rep::ACK];
    for q in [query(&[]), query(&[b"base:"]), query(&[b"x:y", b"base:allocation"])] {
        assert_eq!(kinds(&ask(&mut h, opt::LIST_META_CONTEXT, &q).0), both);
    }
    assert_eq!(kinds(&ask(&mut h, opt::LIST_META_CONTEXT, &query(&[b"x:y"])).0), [rep::ACK]);
    assert_eq!(kinds(&ask(&mut h, opt::SET_META_CONTEXT, &query(&[b"base:allocation"])).0), both);
    assert!(h.context.is_some());
    assert_eq!(kinds(&ask(&mut h, opt::SET_META_CONTEXT, &query(&[])).0), [rep::ACK]);
    assert!(h.context.is_none());
}

#[test]
fn refusals_say_why() {
    let mut h = begun();
    let mut data = string(b"nope");
    data.extend_from_slice(&[0, 0]);
    for o in [opt::INFO, opt::GO] {
        let (replies, _) = ask(&mut h, o, &data);
        assert_eq!(kinds(&replies), [rep::ERR_UNKNOWN]);
        let text = String::from_utf8(replies[0].1.clone()).unwrap();
        assert_eq!(text, "no export \"nope\" here; exports are: a, b");
    }
    assert_eq!(kinds(&ask(&mut h, opt::STARTTLS, b"").0), [rep::ERR_UNSUP]);
    assert_eq!(kinds(&ask(&mut h, 77, b"whatever").0), [rep::ERR_UNSUP]);
    assert_eq!(kinds(&ask(&mut h, opt::LIST, b"x").0), [rep::ERR_INVALID]);
    assert_eq!(kinds(&ask(&mut h, opt::LIST, b"").0), [rep::SERVER, rep::SERVER, rep::ACK]);
}

#[test]
fn malformed_options_are_invalid() {
    let mut h = begun();
    ask(&mut h, opt::STRUCTURED_REPLY, b"");
    let long = string(&[b'x'; MAX_STRING + 1]);
    let cases: &[&[u8]] = &[
        b"",
        b"\0\0\0",
        b"\xff\xff\xff\xff",            // a name of 4 GiB
        b"\0\0\0\x01a",                 // no count
        b"\0\0\0\x01a\xff\xff",         // 65535 requests that are not there
        b"\0\0\0\x01a\xff\xff\xff\xff", // 4 billion queries
        b"\0\0\0\x02a\0\0\0",           // NUL in the name
        b"\0\0\0\x01\xff\0\0\0\0",      // not UTF-8
        &long,
    ];
    for data in cases {
        for o in [opt::INFO, opt::GO, opt::LIST_META_CONTEXT, opt::SET_META_CONTEXT] {
            assert_eq!(kinds(&ask(&mut h, o, data).0), [rep::ERR_INVALID], "{o} {data:?}");
        }
    }
}

#[test]
fn lengths_and_counts_are_bounded() {
    let mut h = begun();
    let mut out = Vec::new();
    let long = option(opt::LIST, &vec![0; MAX_OPTION_LEN as usize + 1]);
    // in two parts: skipped without being kept
    let (used, _) = h.step(&long[..100], &*exports(), &mut out).unwrap();
    assert_eq!(used, 100);
    let (used, _) = h.step(&long[100..], &*exports(), &mut out).unwrap();
    assert_eq!(used, long.len() - 100);
    assert_eq!(out[12..16], rep::ERR_TOO_BIG.to_be_bytes());
    assert_eq!(kinds(&ask(&mut h, opt::LIST, b"").0).len(), 3);
    let mut lie = b"IHAVEOPT".to_vec();
    lie.extend_from_slice(&[0, 0, 0, 3, 0xff, 0xff, 0xff, 0xff]);
    let lied = h.step(&lie, &*exports(), &mut out).err();
    assert_eq!(lied, Some(Violation::TooLong { option: 3, len: u32::MAX }));
    let many = option(99, b"").repeat(MAX_OPTIONS as usize + 1);
    let mut h = begun();
    let mut at = 0;
    let bored = loop {
        match h.step(&many[at..], &*exports(), &mut Vec::new()) {
            Ok((used, _)) if used > 0 => at += used,
            other => break other.err(),
        }
    };
    assert_eq!(bored, Some(Violation::TooManyOptions));
}

#[test]
fn replies_are_bounded() {
    let lists = option(opt::LIST, b"").repeat(5000);
    let (mut h, mut at, mut steps) = (begun(), 0, 0);
    while at < lists.len() {
        let mut out = Vec::new();
        let (used, _) = h.step(&lists[at..], &*exports(), &mut out).unwrap();
        assert!(used > 0 && out.len() < HANDSHAKE_OUT + 1024);
        (at, steps) = (at + used, steps + 1);
    }
    assert!(steps > 2);
}

#[test]
fn export_name_enters_or_ends() {
    let mut out = Vec::new();
    let (used, outcome) =
        begun().step(&option(opt::EXPORT_NAME, b"b"), &*exports(), &mut out).unwrap();
    assert_eq!((used, out.len()), (17, 10));
    assert!(matches!(outcome, Outcome::Enter { .. }));
    // without NO_ZEROES, 124 of them follow; what comes after the option is left alone
    let mut h = Handshake::default();
    let mut message = vec![0, 0, 0, 1];
    message.extend_from_slice(&option(opt::EXPORT_NAME, b"b"));
    message.extend_from_slice(b"next");
    out.clear();
    let (used, _) = h.step(&message, &*exports(), &mut out).unwrap();
    assert_eq!((used, out.len()), (message.len() - 4, 134));
    let refused = begun().step(&option(opt::EXPORT_NAME, b"x"), &*exports(), &mut out).err();
    assert!(matches!(refused, Some(Violation::ExportName(_))));
}

#[test]
fn violations_end_it() {
    let step = |bytes: &[u8]| Handshake::default().step(bytes, &*exports(), &mut Vec::new()).err();
    assert_eq!(step(&[0, 0, 0, 4]), Some(Violation::ClientFlags(4)));
    let http = step(b"\0\0\0\x03GET / HTTP/1.1\r\n");
    assert!(matches!(http, Some(Violation::OptionMagic(_))));
}

proptest! {
    #[test]
    fn any_bytes_in_any_pieces(
        options in proptest::collection::vec(
            (0u32..14, proptest::collection::vec(any::<u8>(), 0..40)), 0..8),
        tail in proptest::collection::vec(any::<u8>(), 0..40),
        cut in 1usize..50,
    ) {
        let mut bytes = vec![0, 0, 0, 3];
        options.iter().for_each(|(o, data)| bytes.extend_from_slice(&option(*o, data)));
        bytes.extend_from_slice(&tail);
        // whole and in pieces: the same replies, the same end
        let run = |piece: usize| {
            let (mut h, mut out, mut held) = (Handshake::default(), Vec::new(), Vec::new());
            for part in bytes.chunks(piece) {
                held.extend_from_slice(part);
                match h.step(&held, &*exports(), &mut out) {
                    Ok((used, Outcome::More)) => drop(held.drain(..used)),
                    Ok(_) => return (out, "end"),
                    Err(_) => return (out, "violation"),
                }
            }
            (out, "more")
        };
        prop_assert_eq!(run(bytes.len()), run(cut));
    }
}

/// NBD, "TLS support": FORCEDTLS.
#[test]
fn before_tls_only_tls_and_goodbye_are_served() {
    let mut h = Handshake::new(TlsMode::Required);
    h.step(&[0, 0, 0, 3], &*exports(), &mut Vec::new()).unwrap();
    let mut named = string(b"a");
    named.extend_from_slice(&[0, 0]);
    for (o, data) in [
        (opt::LIST, &b""[..]),
        (opt::INFO, &named),
        (opt::GO, &named),
        (opt::STRUCTURED_REPLY, b""),
        (opt::SET_META_CONTEXT, b""),
        (77, b"whatever"),
    ] {
        let (replies, outcome) = ask(&mut h, o, data);
        assert!(matches!(outcome, Outcome::More));
        assert_eq!(kinds(&replies), [rep::ERR_TLS_REQD], "{o}");
        let text = String::from_utf8(replies[0].1.clone()).unwrap();
        assert!(text.contains("requires TLS") && !text.contains("a, b"), "{text}");
    }
    assert!(h.plain_refused());
    assert_eq!(kinds(&ask(&mut h, opt::STARTTLS, b"x").0), [rep::ERR_INVALID]);
    let message = option(opt::EXPORT_NAME, b"a");
    let e = h.step(&message, &*exports(), &mut Vec::new()).err();
    assert!(matches!(e, Some(Violation::ExportName(t)) if t.contains("requires TLS")));

    let mut h = Handshake::new(TlsMode::Required);
    h.step(&[0, 0, 0, 3], &*exports(), &mut Vec::new()).unwrap();
    let (replies, outcome) = ask(&mut h, opt::STARTTLS, b"");
    assert!(matches!(outcome, Outcome::StartTls) && !h.plain_refused());
    assert_eq!(kinds(&replies), [rep::ACK]);
    // Haggling goes on inside, and once is enough.
    assert_eq!(kinds(&ask(&mut h, opt::LIST, b"").0), [rep::SERVER, rep::SERVER, rep::ACK]);
    assert_eq!(kinds(&ask(&mut h, opt::STARTTLS, b"").0), [rep::ERR_INVALID]);
    assert!(matches!(ask(&mut h, opt::GO, &named).1, Outcome::Enter { .. }));
}

/// NBD, "TLS support": what was negotiated before is void.
#[test]
fn tls_forgets_what_was_agreed_in_plain_text() {
    let mut h = Handshake::new(TlsMode::Offered);
    h.step(&[0, 0, 0, 3], &*exports(), &mut Vec::new()).unwrap();
    assert_eq!(kinds(&ask(&mut h, opt::STRUCTURED_REPLY, b"").0), [rep::ACK]);
    // What follows the option in the same bytes is left to whoever reads on: the driver refuses it.
    let mut message = option(opt::STARTTLS, b"");
    let len = message.len();
    message.extend_from_slice(&option(opt::ABORT, b""));
    let (used, outcome) = h.step(&message, &*exports(), &mut Vec::new()).unwrap();
    assert!(matches!(outcome, Outcome::StartTls));
    assert_eq!(used, len);
    let mut named = string(b"a");
    named.extend_from_slice(&[0, 0]);
    match ask(&mut h, opt::GO, &named).1 {
        Outcome::Enter { negotiated, .. } => assert!(!negotiated.structured),
        _ => panic!("it is served"),
    };
}
