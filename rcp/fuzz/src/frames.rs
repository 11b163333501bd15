//! Bytes of a connection to frames, and what they carry.
//!
//! The first byte says whether checksums are mended. Held: nothing panics; what is decoded is
//! encoded to the same bytes; nothing is longer than its limit, decompressed or not; every error
//! says something.

use bytes::Bytes;
use rcp::proto::delta::{Chunk, SetHeader};
use rcp::proto::frame::{DecodedFrame, Frame, FrameError, FrameHeader, Verified};
use rcp::proto::limits::{
    FRAME_HEADER_LEN, MAX_CONTROL_BODY, MAX_DATA_BODY, MAX_EXTENTS, MAX_PAYLOAD,
};

use super::feed::{Feed, seal};

pub fn run(data: &[u8]) {
    let mut feed = Feed::new(data);
    let mend = feed.flag();
    let _ = Chunk::parse(Bytes::copy_from_slice(feed.rest()));
    let _ = SetHeader::parse(feed.rest());
    let mut rest = feed.rest().to_vec();
    while rest.len() >= FRAME_HEADER_LEN {
        let len = u32::from_le_bytes([rest[0], rest[1], rest[2], rest[3]]);
        let whole = FRAME_HEADER_LEN.saturating_add(usize::try_from(len).unwrap_or(usize::MAX));
        let tail = if whole < rest.len() { rest.split_off(whole) } else { Vec::new() };
        if mend {
            // the last one of the input is as long as it is
            let body = rest.len() - FRAME_HEADER_LEN;
            rest[..4].copy_from_slice(&u32::try_from(body).unwrap_or(u32::MAX).to_le_bytes());
            seal(&mut rest);
        }
        if let Err(e) = one(&rest) {
            assert!(!e.to_string().is_empty());
            if !mend {
                // the connection ends here
                return;
            }
        }
        rest = tail;
    }
}

/// One frame and its content.
fn one(all: &[u8]) -> Result<(), FrameError> {
    let Some((head, body)) = all.split_first_chunk::<FRAME_HEADER_LEN>() else { return Ok(()) };
    let header = FrameHeader::parse(head)?;
    let limit = match header.frame_type.data_prefix() {
        Some(_) => MAX_DATA_BODY,
        None => MAX_CONTROL_BODY,
    };
    assert!(header.len() <= limit, "{header:?}");
    let frame = Frame::decode(&header, Bytes::copy_from_slice(body))?;
    let mut again = Vec::new();
    frame.encode(&mut again).expect("what was read can be written");
    assert_eq!(again.concat(), all, "{frame:?}");
    match DecodedFrame::verify(frame)?.content {
        Verified::Chunk(c) => {
            assert!(c.extents().count() <= MAX_EXTENTS);
            if let Ok(p) = c.payload() {
                assert!(p.len() <= MAX_PAYLOAD);
                let end = c.extents().map(|e| e.offset + e.len).max().unwrap_or(0);
                assert!(end <= p.len(), "extents end inside the payload");
            }
        }
        Verified::Set(h) => assert_eq!(h.check(), Ok(())),
        Verified::None => {}
    }
    Ok(())
}
