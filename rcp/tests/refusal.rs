//! What is damaged, cut, stretched or made up is refused, and nothing ever panics.

mod support;

use bytes::{Bytes, BytesMut};
use proptest::prelude::*;
use rcp::proto::delta::{
    Chunk, ChunkDraft, ChunkFlags, ChunkHeader, ChunkListSum, Compression, DeltaError, Extent,
    SetFlags, SetHeader,
};
use rcp::proto::frame::{DecodedFrame, Frame, FrameError, FrameHeader, Offer, StreamId};
use rcp::proto::ids::{ChunkNumber, Label, SetNumber, VolumeId};
use rcp::proto::limits;
use support::*;

#[test]
fn every_bit_of_a_chunk_counts() {
    for d in [draft_raw(), draft_zero(), draft_seed(), draft_zstd()] {
        let good = d.encode(Compression::WherePays).expect("legal").bytes().to_vec();
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(Chunk::parse(bad.into()).is_err(), "bit {bit}");
        }
        for len in 0..good.len() {
            assert!(Chunk::parse(Bytes::copy_from_slice(&good[..len])).is_err(), "cut at {len}");
        }
        let longer = [&good[..], &[0]].concat();
        assert!(matches!(Chunk::parse(longer.into()), Err(DeltaError::Length { .. })));
    }
}

#[test]
fn every_bit_of_a_set_header_counts() {
    let good = set_header(7).encode();
    for bit in 0..good.len() * 8 {
        let mut bad = good;
        bad[bit / 8] ^= 1 << (bit % 8);
        assert!(SetHeader::parse(&bad).is_err(), "bit {bit}");
    }
    for len in 0..good.len() {
        assert!(SetHeader::parse(&good[..len]).is_err());
    }
    assert!(SetHeader::parse(&[&good[..], &[0]].concat()).is_err());
}

#[test]
fn zeroes_are_nothing() {
    assert_eq!(ChunkHeader::parse(&[0; 128]), Err(DeltaError::Magic));
    assert_eq!(Chunk::parse(Bytes::from_static(&[0; 4096])), Err(DeltaError::Magic));
    assert_eq!(SetHeader::parse(&[0; 192]), Err(DeltaError::Magic));
    assert_eq!(FrameHeader::parse(&[0; 16]), Err(FrameError::HeaderChecksum));
}

/// Puts a right checksum on a header that was changed on purpose.
fn reseal(b: &mut [u8], header_len: usize) {
    let crc = crc32c_of(&b[..header_len - 4]);
    b[header_len - 4..header_len].copy_from_slice(&crc.to_le_bytes());
}

/// CRC32C, bit by bit: the test does not trust the code's own.
fn crc32c_of(b: &[u8]) -> u32 {
    !b.iter().fold(!0u32, |crc, x| {
        (0..8).fold(crc ^ u32::from(*x), |c, _| (c >> 1) ^ (0x82F6_3B78 & (c & 1).wrapping_neg()))
    })
}

#[test]
fn sealed_nonsense_is_refused_as_well() {
    // offset, bytes to put there
    let cases: [(usize, &[u8]); 14] = [
        (4, &[2]),   // version
        (6, &[2]),   // kind
        (7, &[8]),   // block shift
        (7, &[21]),  // block shift
        (8, &[129]), // header length
        (10, &[1]),  // reserved
        (12, &[0]),  // total length
        (16, &[4]),  // flags
        (16, &[1]),  // zstd, but stored as long as raw
        (16, &[2]),  // a seed with a base
        (72, &[41]), // to = base
        (80, &[1]),  // key id
        (88, &[0]),  // no extents
        (110, &[1]), // reserved
    ];
    for (at, put) in cases {
        let mut b = encoded(&draft_raw()).bytes().to_vec();
        b[at..at + put.len()].copy_from_slice(put);
        reseal(&mut b, 128);
        assert!(ChunkHeader::parse(&b).is_err(), "{put:?} at {at}");
        assert!(Chunk::parse(b.into()).is_err(), "{put:?} at {at}");
    }
}

#[test]
fn drafts_that_break_a_rule_are_refused() {
    let with = |extents: Vec<Extent>| ChunkDraft { extents, ..draft_raw() };
    let max = limits::MAX_VOLUME_BLOCKS;
    for bad in [
        with(vec![]),
        with(vec![Extent::data(5, 3)]),
        with(vec![Extent::data(5, 2), Extent::data(6, 1)]),
        with(vec![Extent::data(7, 1), Extent::data(5, 1)]),
        with(vec![Extent::data(5, 2), Extent::zero(7, 0)]),
        with(vec![Extent::data(5, 2), Extent::zero(max, 1)]),
        with(vec![Extent::data(5, 2), Extent::zero(u64::MAX, 1)]),
        with((0..5000).map(|i| Extent::zero(i, 1)).collect()),
        ChunkDraft { flags: ChunkFlags::ZSTD, ..draft_raw() },
        ChunkDraft { flags: ChunkFlags::SEED, ..draft_raw() },
        ChunkDraft { step: step(42, 42), ..draft_raw() },
        ChunkDraft { block_size_shift: 63, ..draft_raw() },
        ChunkDraft { block_size_shift: 0, ..draft_raw() },
        ChunkDraft { payload: vec![0; limits::MAX_PAYLOAD + 512].into(), ..draft_raw() },
    ] {
        assert!(bad.encode(Compression::WherePays).is_err(), "{:?}", bad.extents.first());
    }
}

#[test]
fn set_headers_that_contradict_themselves_are_refused() {
    let good = set_header(7);
    assert_eq!(good.check(), Ok(()));
    let absent = SetFlags::DIGEST_ABSENT;
    for bad in [
        SetHeader { flags: SetFlags::default(), digest: [1; 32], ..good },
        SetHeader { digest: [1; 32], ..good },
        SetHeader { flags: absent.with(SetFlags::BITMAP_ONLY), ..good },
        SetHeader { chunk_count: 0, ..good },
        SetHeader { chunk_count: 0, chunk_list_crc: 0, ..good },
        SetHeader { block_count: good.volume_blocks + 1, ..good },
        SetHeader { block_count: 2, ..good },
        SetHeader { volume_blocks: limits::MAX_VOLUME_BLOCKS + 1, ..good },
        SetHeader { volume_blocks: limits::MAX_VOLUME_BLOCKS, block_shift: 20, ..good },
        SetHeader { block_shift: 8, ..good },
        SetHeader { step: step(9, 3), ..good },
    ] {
        assert!(bad.check().is_err(), "{bad:?}");
        assert!(SetHeader::parse(&bad.encode()).is_err(), "{bad:?}");
    }
}

#[test]
fn a_payload_that_says_more_than_it_should_is_an_error() {
    // a sound chunk, but its zstd frame holds 4,096 bytes and the header says 8,192
    let mut b = unhex(include_str!("vectors/chunk_zstd.hex"));
    b[96..100].copy_from_slice(&8192u32.to_le_bytes());
    b[136] = 2; // blocks of the first extent
    b[144] = 11; // the second one moves on
    let crc = crc32c_of(&b[128..]);
    b[120..124].copy_from_slice(&crc.to_le_bytes());
    reseal(&mut b, 128);
    let c = Chunk::parse(b.into()).expect("sound but for its payload");
    assert_eq!(c.payload(), Err(DeltaError::Payload(8192)));
}

#[test]
fn compression_is_kept_only_where_it_pays() {
    let noise: Vec<u8> = (0..1u32 << 20)
        .map(|i| (i.wrapping_mul(2_654_435_761).rotate_left(i % 31) >> 13) as u8 ^ (i >> 8) as u8)
        .collect();
    let mut x = 1u64;
    let noise: Vec<u8> = noise
        .into_iter()
        .map(|b| {
            x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            b ^ (x >> 56) as u8
        })
        .collect();
    let draft = |payload: Vec<u8>| ChunkDraft {
        block_size_shift: 12,
        extents: vec![Extent::data(0, 256)],
        payload: payload.into(),
        ..draft_raw()
    };
    let c = draft(noise.clone()).encode(Compression::WherePays).expect("legal");
    assert!(!c.is_compressed());
    let c = draft(vec![7; 1 << 20]).encode(Compression::WherePays).expect("legal");
    assert!(c.is_compressed() && c.bytes().len() < 1024);
    assert_eq!(c.payload().expect("whole"), vec![7; 1 << 20]);
    let c = draft(vec![7; 1 << 20]).encode(Compression::Never).expect("legal");
    assert!(!c.is_compressed());
    // the sample shrinks, the whole does not
    let mut tricky = noise;
    let n = tricky.len();
    for at in [0, (n - (16 << 10)) / 2, n - (16 << 10)] {
        tricky[at..at + (1 << 11)].fill(0);
    }
    let c = draft(tricky.clone()).encode(Compression::WherePays).expect("legal");
    assert!(!c.is_compressed());
    assert_eq!(c.payload().expect("whole"), tricky);
}

#[test]
fn seeds_and_steps_are_not_mixed_up() {
    let (stream, feeder, seq) = (rcp::proto::frame::StreamId(1), 0, 0);
    let seed = encoded(&draft_seed()).bytes().clone();
    let bad = Frame::Chunk { stream, feeder, seq, body: seed };
    assert!(DecodedFrame::verify(bad).is_err());
    let chunk = encoded(&draft_raw()).bytes().clone();
    let view = rcp::proto::ids::SetNumber(1);
    let bad = Frame::SeedData { stream, feeder, seq, next_block: 0, view, body: chunk };
    assert!(DecodedFrame::verify(bad).is_err());
}

#[test]
fn an_encoder_refuses_what_a_decoder_would() {
    let mut head = BytesMut::from(&b"kept"[..]);
    let long = Frame::RouteReport {
        routes: vec![(node("a"), vec![node("b"); limits::MAX_ROUTE_HOPS + 1])],
    };
    assert!(long.encode_head(&mut head).is_err());
    let big = Frame::RouteReport {
        routes: vec![(node(&"a".repeat(63)), vec![node(&"b".repeat(63)); 200]); 10],
    };
    assert!(matches!(big.encode_head(&mut head), Err(FrameError::Length { .. })));
    assert_eq!(&head[..], b"kept");
    let text = Frame::ProbeReply { ok: true, text: "ä".repeat(5000) };
    let Ok(Frame::ProbeReply { text, .. }) = parse_frame(&frame_bytes(&text)) else {
        panic!("a long text is cut, not refused");
    };
    assert_eq!(text.len(), limits::MAX_TEXT);
}

#[test]
fn a_volume_of_more_than_the_most_blocks_is_refused_by_writer_and_reader() {
    let offer = |volume_blocks| {
        Frame::Offer(Offer {
            stream: StreamId(1),
            volume: VolumeId([7; 16]),
            label: Label::new("vol").expect("label"),
            block_shift: 12,
            volume_blocks,
            oldest: SetNumber(1),
            newest: SetNumber(2),
            history: vec![],
        })
    };
    let most = limits::max_blocks(12);
    assert_eq!((most, limits::max_blocks(20)), (1 << 34, 1 << 26));
    assert!(offer(most + 1).encode_head(&mut BytesMut::new()).is_err());
    let mut b = frame_bytes(&offer(most)).to_vec();
    assert!(parse_frame(&b).is_ok());
    let at = b.windows(8).position(|w| w == most.to_le_bytes()).expect("its size");
    b[at..at + 8].copy_from_slice(&(most + 1).to_le_bytes());
    let body = crc32c_of(&b[limits::FRAME_HEADER_LEN..]);
    b[8..12].copy_from_slice(&body.to_le_bytes());
    reseal(&mut b, limits::FRAME_HEADER_LEN);
    let Err(Some(e)) = parse_frame(&b) else { panic!("one block too many") };
    assert!(e.to_string().contains("volume size"), "{e}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn chunks_survive(d in any_draft(), pays in any::<bool>()) {
        let how = if pays { Compression::WherePays } else { Compression::Never };
        let c = d.encode(how).expect("a legal draft");
        let again = Chunk::parse(c.bytes().clone()).expect("its own bytes");
        prop_assert_eq!(&again, &c);
        prop_assert_eq!(again.payload().expect("whole"), d.payload.clone());
        let extents: Vec<Extent> =
            c.extents().map(|e| Extent { block: e.block, count: e.count, kind: e.kind }).collect();
        prop_assert_eq!(extents, d.extents);
    }

    #[test]
    fn a_flipped_bit_is_seen(d in any_draft(), at in any::<prop::sample::Index>()) {
        let mut b = d.encode(Compression::WherePays).expect("legal").bytes().to_vec();
        let bit = at.index(b.len() * 8);
        b[bit / 8] ^= 1 << (bit % 8);
        prop_assert!(Chunk::parse(b.into()).is_err());
    }

    #[test]
    fn made_up_bytes_do_not_panic(mut b in prop::collection::vec(any::<u8>(), 0..600)) {
        let _ = Chunk::parse(b.clone().into());
        let _ = SetHeader::parse(&b);
        let _ = parse_frame(&b);
        // and with everything right that is looked at first
        if b.len() > 128 {
            let n = b.len();
            b[..4].copy_from_slice(b"RCPD");
            b[4..12].copy_from_slice(&[1, 0, 1, 9, 128, 0, 0, 0]);
            b[80..88].fill(0);
            b[100..120].fill(0);
            let body = crc32c_of(&b[128..]);
            b[12..16].copy_from_slice(&u32::try_from(n).expect("small").to_le_bytes());
            let (flags, extents) = (b[16] & 3, b[88] % 8);
            b[16..20].copy_from_slice(&u32::from(flags).to_le_bytes());
            b[88..92].copy_from_slice(&u32::from(extents).to_le_bytes());
            b[120..124].copy_from_slice(&body.to_le_bytes());
            reseal(&mut b, 128);
            if let Ok(c) = Chunk::parse(b.into()) {
                let _ = c.payload();
            }
        }
    }

    #[test]
    fn frames_survive(f in any_frame()) {
        let b = frame_bytes(&f);
        prop_assert_eq!(parse_frame(&b), Ok(f.clone()));
        prop_assert!(DecodedFrame::verify(f).is_ok());
    }

    #[test]
    fn a_frame_cut_anywhere_is_an_error(f in any_frame()) {
        let b = frame_bytes(&f);
        for len in 0..b.len() {
            prop_assert!(parse_frame(&b[..len]).is_err());
        }
        prop_assert!(parse_frame(&[&b[..], &[0]].concat()).is_err());
    }

    #[test]
    fn a_bit_flipped_in_a_frame_is_an_error(f in any_frame(), at in any::<prop::sample::Index>()) {
        let good = frame_bytes(&f);
        let covered = match f.frame_type().data_prefix() {
            Some(n) => 16 + n,
            None => good.len(),
        };
        for bit in (0..128).chain([at.index(covered * 8)]) {
            let mut b = good.clone();
            b[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(parse_frame(&b).is_err(), "bit {}", bit);
        }
    }

    /// Bodies whose checksums hold, but which nobody meant.
    #[test]
    fn sealed_made_up_bodies_do_not_panic(
        n in prop::sample::select(rcp::proto::frame::FrameType::ALL),
        body in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        let mut b = vec![0u8; 16];
        b[..4].copy_from_slice(&u32::try_from(body.len()).expect("small").to_le_bytes());
        b[4] = n.number();
        let covered = n.data_prefix().unwrap_or(body.len()).min(body.len());
        b[8..12].copy_from_slice(&crc32c_of(&body[..covered]).to_le_bytes());
        let crc = crc32c_of(&b[..12]);
        b[12..16].copy_from_slice(&crc.to_le_bytes());
        b.extend_from_slice(&body);
        if let Ok(f) = parse_frame(&b) {
            prop_assert_eq!(frame_bytes(&f), b);
        }
    }

    #[test]
    fn the_list_sum_does_not_depend_on_the_order(
        crcs in prop::collection::vec(any::<u32>(), 1..60),
        seed in any::<u64>(),
    ) {
        let mut order: Vec<usize> = (0..crcs.len()).chain(0..crcs.len()).collect();
        let mut x = seed;
        for i in (1..order.len()).rev() {
            x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            order.swap(i, (x >> 33) as usize % (i + 1));
        }
        let count = u32::try_from(crcs.len()).expect("few");
        let mut sum = ChunkListSum::new();
        for i in order {
            sum.add(ChunkNumber(u32::try_from(i).expect("few")), crcs[i]).expect("no conflict");
        }
        let list: Vec<u8> = (0u32..)
            .zip(&crcs)
            .flat_map(|(n, c)| [n.to_le_bytes(), c.to_le_bytes()].concat())
            .collect();
        prop_assert_eq!(sum.total(count), Some(crc32c_of(&list)));
        prop_assert_eq!(sum.total(count + 1), None);
        let resumed = ChunkListSum::resume(sum.next(), sum.crc());
        prop_assert_eq!(resumed.total(count), sum.total(count));
    }
}

#[test]
fn the_list_sum_notices_contradictions() {
    let mut sum = ChunkListSum::new();
    sum.add(ChunkNumber(2), 5).expect("ahead");
    sum.add(ChunkNumber(2), 5).expect("the same again");
    assert_eq!(sum.add(ChunkNumber(2), 6), Err(DeltaError::Conflict(2)));
    assert_eq!(sum.total(3), None);
}
