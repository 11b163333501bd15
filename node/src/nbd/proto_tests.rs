//! Requests and replies to the byte, and what any request is judged to be.

use super::*;
use proptest::prelude::*;

fn info(size: u64) -> ExportInfo {
    ExportInfo {
        size,
        read_only: false,
        block_size: 4096,
        can_multi_conn: true,
        can_trim: true,
        can_zero: true,
        can_fast_zero: true,
        can_cache: true,
        cheap_status: true,
        description: String::new(),
    }
}

const BOTH: Negotiated = Negotiated { structured: true, block_status: true };
const PLAIN: Negotiated = Negotiated { structured: false, block_status: false };

fn req(command: u16, flags: u16, offset: u64, len: u32) -> Request {
    Request { flags, command, cookie: 7, offset, len }
}

#[test]
fn golden_request() {
    let bytes = [
        0x25, 0x60, 0x95, 0x13, // magic
        0x00, 0x01, // FUA
        0x00, 0x01, // WRITE
        1, 2, 3, 4, 5, 6, 7, 8, // cookie
        0, 0, 0, 0, 0, 0, 0x10, 0, // offset 4096
        0, 0, 2, 0, // 512 bytes
    ];
    let r = Request {
        flags: cmd::FLAG_FUA,
        command: cmd::WRITE,
        cookie: 0x0102_0304_0506_0708,
        offset: 4096,
        len: 512,
    };
    assert_eq!(Request::parse(&bytes), Ok(r));
    assert_eq!(r.encode(), bytes);
    assert_eq!(r.payload(), 512);
    let mut bad = bytes;
    bad[3] = 0x14;
    assert_eq!(Request::parse(&bad), Err(BadMagic(0x2560_9514)));
}

#[test]
fn golden_replies() {
    assert_eq!(simple(9, None), [0x67, 0x44, 0x66, 0x98, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9]);
    assert_eq!(simple(9, Some(Errno::NoSpc))[4..8], [0, 0, 0, 28]);
    assert_eq!(
        data_chunk(9, true, 0x1000, 3),
        [
            0x66, 0x8e, 0x33, 0xef, 0, 1, 0, 1, // magic, DONE, OFFSET_DATA
            0, 0, 0, 0, 0, 0, 0, 9, // cookie
            0, 0, 0, 11, // 8 + 3
            0, 0, 0, 0, 0, 0, 0x10, 0, // offset
        ]
    );
    assert_eq!(
        hole_chunk(9, false, 0x1000, 0x2000),
        [
            0x66, 0x8e, 0x33, 0xef, 0, 0, 0, 2, // magic, more follow, OFFSET_HOLE
            0, 0, 0, 0, 0, 0, 0, 9, // cookie
            0, 0, 0, 12, // length
            0, 0, 0, 0, 0, 0, 0x10, 0, // offset
            0, 0, 0x20, 0, // hole size
        ]
    );
    let mut out = Vec::new();
    error(&mut out, 9, Errno::Inval, true);
    assert_eq!(out[..8], [0x66, 0x8e, 0x33, 0xef, 0, 1, 0x80, 1]);
    assert_eq!(out[16..26], [0, 0, 0, 21, 0, 0, 0, 22, 0, 15]);
    assert_eq!(&out[26..], b"invalid request");
    out.clear();
    error(&mut out, 9, Errno::Perm, false);
    assert_eq!(out, simple(9, Some(Errno::Perm)));
}

#[test]
fn golden_block_status_clips_and_joins() {
    let data = |len| Extent { len, hole: false, zero: false };
    let hole = |len| Extent { len, hole: true, zero: true };
    let mut out = Vec::new();
    block_status(&mut out, 5, 4096, &[data(512), data(512), data(0), hole(u64::MAX)], false);
    assert_eq!(out[16..20], [0, 0, 0, 20]);
    assert_eq!(
        out[20..],
        [0, 0, 0, 1, /* context */ 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 12, 0, 0, 0, 0, 3]
    );
    out.clear();
    block_status(&mut out, 5, 4096, &[hole(1024), data(8192)], true);
    assert_eq!(out[20..], [0, 0, 0, 1, 0, 0, 4, 0, 0, 0, 0, 3]);
    out.clear();
    block_status(&mut out, 5, 4096, &[], true);
    assert_eq!(out[20..], [0, 0, 0, 1, 0, 0, 0x10, 0, 0, 0, 0, 0]);
}

#[test]
fn errors_exactly_as_the_specification_says() {
    let i = info(1 << 20);
    let ro = ExportInfo { read_only: true, ..info(1 << 20) };
    let end = 1u64 << 20;
    let cases: &[(Request, Result<Op, Errno>)] = &[
        (req(cmd::READ, 0, end, 0), Ok(Op::Read { df: false })),
        (req(cmd::READ, 0, end, 1), Err(Errno::Inval)),
        (req(cmd::READ, 0, u64::MAX, 1), Err(Errno::Inval)),
        (req(cmd::READ, 0, u64::MAX - 3, 512), Err(Errno::Inval)),
        (req(cmd::READ, cmd::FLAG_FUA, 0, 1), Ok(Op::Read { df: false })),
        (req(cmd::READ, cmd::FLAG_REQ_ONE, 0, 1), Err(Errno::Inval)),
        (req(cmd::WRITE, 0, end - 1, 2), Err(Errno::NoSpc)),
        (req(cmd::WRITE, 0, u64::MAX, 2), Err(Errno::NoSpc)),
        (req(cmd::WRITE, cmd::FLAG_FUA, 0, 2), Ok(Op::Write { fua: true })),
        (req(cmd::WRITE, cmd::FLAG_DF, 0, 2), Err(Errno::Inval)),
        (req(cmd::WRITE, 1 << 5, 0, 2), Err(Errno::Inval)),
        (req(cmd::WRITE, 1 << 15, 0, 2), Err(Errno::Inval)),
        (req(cmd::TRIM, 0, end, 1), Err(Errno::NoSpc)),
        (req(cmd::WRITE_ZEROES, cmd::FLAG_DF, 0, 1), Err(Errno::Inval)),
        (
            req(cmd::WRITE_ZEROES, cmd::FLAG_NO_HOLE | cmd::FLAG_FAST_ZERO, 0, 1),
            Ok(Op::Zero { fua: false, no_hole: true, fast: true }),
        ),
        (req(cmd::FLUSH, 0, 0, 0), Ok(Op::Flush)),
        (req(cmd::FLUSH, 0, 0, 1), Err(Errno::Inval)),
        (req(cmd::FLUSH, 0, 1, 0), Err(Errno::Inval)),
        (req(cmd::BLOCK_STATUS, 0, 0, 0), Err(Errno::Inval)),
        (req(cmd::BLOCK_STATUS, 0, end, 1), Err(Errno::Inval)),
        (req(cmd::BLOCK_STATUS, cmd::FLAG_REQ_ONE, 0, 9), Ok(Op::BlockStatus { one: true })),
        (req(cmd::CACHE, 0, 0, 9), Ok(Op::Cache)),
        (req(8, 0, 0, 1), Err(Errno::Inval)),
        (req(u16::MAX, 0, 0, 1), Err(Errno::Inval)),
        (req(cmd::DISC, u16::MAX, 3, 1), Ok(Op::Disc)),
    ];
    for (r, expected) in cases {
        assert_eq!(check(r, &i, BOTH), *expected, "{r:?}");
    }
    for c in [cmd::WRITE, cmd::TRIM, cmd::WRITE_ZEROES] {
        assert_eq!(check(&req(c, 0, 0, 1), &ro, BOTH), Err(Errno::Perm));
        assert_eq!(check(&req(c, 0, end, 1), &ro, BOTH), Err(Errno::Perm));
    }
    let big = info(u64::MAX);
    for c in [cmd::READ, cmd::WRITE] {
        assert_eq!(check(&req(c, 0, 0, MAX_PAYLOAD + 1), &big, BOTH), Err(Errno::Overflow));
        assert!(check(&req(c, 0, 0, MAX_PAYLOAD), &big, BOTH).is_ok());
    }
    assert!(check(&req(cmd::TRIM, 0, 0, u32::MAX), &big, BOTH).is_ok());
    // without what was not negotiated
    assert_eq!(check(&req(cmd::READ, cmd::FLAG_DF, 0, 1), &i, PLAIN), Err(Errno::Inval));
    assert_eq!(check(&req(cmd::BLOCK_STATUS, 0, 0, 1), &i, PLAIN), Err(Errno::Inval));
    let poor = ExportInfo { can_trim: false, can_zero: false, can_cache: false, ..info(9) };
    for c in [cmd::TRIM, cmd::WRITE_ZEROES, cmd::CACHE] {
        assert_eq!(check(&req(c, 0, 0, 1), &poor, BOTH), Err(Errno::Inval));
    }
}

#[test]
fn flags_follow_the_export() {
    let all = transmission_flags(&info(1), BOTH);
    assert_eq!(all, 0b1101_1110_1101);
    let ro = ExportInfo { read_only: true, ..info(1) };
    assert_eq!(transmission_flags(&ro, PLAIN), 0b0101_0000_0011);
}

proptest! {
    #[test]
    fn any_request_is_judged(bytes in any::<[u8; 24]>(), size in any::<u64>()) {
        let mut b = [0u8; REQUEST_LEN];
        b[..4].copy_from_slice(&REQUEST_MAGIC.to_be_bytes());
        b[4..].copy_from_slice(&bytes);
        b[6] = 0;
        b[7] &= 15;
        let r = Request::parse(&b).unwrap();
        prop_assert_eq!(r.encode(), b);
        if let Ok(op) = check(&r, &info(size), BOTH)
            && !matches!(op, Op::Disc | Op::Flush) {
                prop_assert!(r.offset + u64::from(r.len) <= size);
            }
    }

    #[test]
    fn extents_never_exceed_the_request(
        len in 1u32..,
        extents in proptest::collection::vec((any::<u64>(), any::<bool>(), any::<bool>()), 0..20),
    ) {
        let extents: Vec<Extent> =
            extents.into_iter().map(|(len, hole, zero)| Extent { len, hole, zero }).collect();
        let mut out = Vec::new();
        block_status(&mut out, 1, len, &extents, false);
        let body = &out[24..];
        prop_assert!(!body.is_empty());
        let sum: u64 = body
            .chunks(8)
            .map(|c| u64::from(u32::from_be_bytes([c[0], c[1], c[2], c[3]])))
            .sum();
        prop_assert!(sum <= u64::from(len) && sum > 0);
    }
}
