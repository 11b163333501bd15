//! First bytes of a connection to a verdict.
//!
//! Held: more bytes never change a verdict; there is one at the limit; what is taken for an opening
//! line is one, to the byte.

use rcp::proto::classify::{Verdict, classify, opening_line};
use rcp::proto::limits::{MAX_FIRST_BYTES, MAX_OPENING_LINE};

pub fn run(data: &[u8]) {
    let whole = classify(data);
    // every prefix of a short input, some of a long one
    let step = 1 + data.len() / 64;
    for n in (0..data.len()).step_by(step) {
        let v = classify(&data[..n]);
        assert!(v == Verdict::NeedMore || v == whole, "{n} bytes: {v:?}, then {whole:?}");
    }
    match whole {
        Verdict::Rcp { group, line_len } => {
            assert_eq!(opening_line(&group), &data[..line_len]);
            assert!(line_len <= MAX_OPENING_LINE);
        }
        Verdict::NeedMore => assert!(data.len() < MAX_FIRST_BYTES),
        Verdict::Refused(why) => assert!(!why.as_str().is_empty()),
        Verdict::Tls => assert_eq!(data[..2], [0x16, 3]),
        Verdict::Http | Verdict::Http2 => assert!(data.contains(&b'\n')),
    }
}
