//! First bytes: RCP, HTTP or TLS on one port (PORT-01..06).
//!
//! The first line decides, and in it the last word: `OPEN g RCP/1.0` is RCP, `GET /RCP/1.0
//! HTTP/1.1` is HTTP. More bytes never change a verdict, and bytes that are not such a line are
//! never RCP.

use super::ids::GroupName;
use super::limits::{MAX_FIRST_BYTES, MAX_OPENING_LINE};

/// What a connection begins with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// An opening line; frames follow it.
    Rcp {
        /// The group that it names.
        group: GroupName,
        /// Bytes of the line with its end; they are consumed.
        line_len: usize,
    },
    /// A request line of HTTP/1.x; nothing is consumed.
    Http,
    /// The first line of the preface of HTTP/2; nothing is consumed.
    Http2,
    /// A TLS record; nothing is consumed.
    Tls,
    /// So far it could be anything.
    NeedMore,
    /// None of these.
    Refused(Refusal),
}

/// Why first bytes are refused; the names are labels of a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// Bytes that are not text.
    NotText,
    /// Text that is neither an opening line nor a request line.
    NoToken,
    /// RCP or HTTP in a version that is not spoken here.
    Version,
    /// An opening line with a bad group name, or otherwise not as it must be.
    BadOpening,
    /// A line that does not end within the limit.
    TooLong,
}

impl Refusal {
    /// A name for logs and metrics labels.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NotText => "not-text",
            Self::NoToken => "no-token",
            Self::Version => "version",
            Self::BadOpening => "bad-opening",
            Self::TooLong => "too-long",
        }
    }
}

/// Longest first word: `VERSION-CONTROL` is the longest method of HTTP.
const MAX_METHOD: usize = 20;

/// Decides from the first bytes of a connection.
#[must_use]
pub fn classify(prefix: &[u8]) -> Verdict {
    if prefix.first() == Some(&0x16) {
        return match prefix.get(1) {
            None => Verdict::NeedMore,
            Some(3) => Verdict::Tls,
            Some(_) => Verdict::Refused(Refusal::NotText),
        };
    }
    let mut method = true;
    for (i, byte) in prefix.iter().enumerate() {
        if i >= MAX_FIRST_BYTES {
            return Verdict::Refused(Refusal::TooLong);
        }
        match byte {
            b'\n' => return line(&prefix[..i]),
            b'\r' => match prefix.get(i + 1) {
                // the line end itself must be inside the limit
                None if i + 1 < MAX_FIRST_BYTES => return Verdict::NeedMore,
                Some(b'\n') if i + 1 < MAX_FIRST_BYTES => {}
                Some(b'\n') | None => return Verdict::Refused(Refusal::TooLong),
                Some(_) => return Verdict::Refused(Refusal::NotText),
            },
            b' ' if i > 0 => method = false,
            b'A'..=b'Z' | b'-' if method && i < MAX_METHOD => {}
            b' '..=b'~' if method => return Verdict::Refused(Refusal::NoToken),
            b' '..=b'~' => {}
            _ => return Verdict::Refused(Refusal::NotText),
        }
    }
    if prefix.len() >= MAX_FIRST_BYTES {
        Verdict::Refused(Refusal::TooLong)
    } else {
        Verdict::NeedMore
    }
}

/// The opening line that asks for a session with a group.
#[must_use]
pub fn opening_line(group: &GroupName) -> Vec<u8> {
    format!("OPEN {group} RCP/1.0\r\n").into_bytes()
}

/// Decides from a whole first line, without its `\n`; it is printable ASCII, perhaps with a `\r` at
/// its end.
fn line(raw: &[u8]) -> Verdict {
    let text = std::str::from_utf8(raw).unwrap_or("");
    let bare = text.strip_suffix('\r');
    let words = bare.unwrap_or(text);
    let (front, last) = words.rsplit_once(' ').unwrap_or(("", words));
    let refused = Verdict::Refused;
    if words == "PRI * HTTP/2.0" && bare.is_some() {
        // The preface of HTTP/2 with prior knowledge (RFC 9113, section 3.4).
        return Verdict::Http2;
    }
    if let Some(version) = last.strip_prefix("HTTP/") {
        let minor = version.strip_prefix("1.").map(str::as_bytes);
        return match minor {
            Some([b'0'..=b'9']) if front.contains(' ') => Verdict::Http,
            Some([b'0'..=b'9']) => refused(Refusal::NoToken),
            _ => refused(Refusal::Version),
        };
    }
    let Some(version) = last.strip_prefix("RCP/") else {
        return refused(Refusal::NoToken);
    };
    if version != "1.0" {
        return refused(Refusal::Version);
    }
    let line_len = raw.len() + 1;
    let group = front.strip_prefix("OPEN ").and_then(|g| GroupName::new(g).ok());
    match group {
        Some(group) if bare.is_some() && line_len <= MAX_OPENING_LINE => {
            Verdict::Rcp { group, line_len }
        }
        _ => refused(Refusal::BadOpening),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rcp(group: &str, line_len: usize) -> Verdict {
        Verdict::Rcp { group: GroupName::new(group).expect("group"), line_len }
    }

    #[test]
    fn the_digest_vectors() {
        assert_eq!(classify(b"GET /status HTTP/1.1\r\n"), Verdict::Http);
        assert_eq!(classify(b"OPEN g1 RCP/1.0\r\n"), rcp("g1", 17));
        assert_eq!(classify(b"OPEN g1 RC"), Verdict::NeedMore);
        assert_eq!(classify(b"OPEN g1 RCP/1.0\r\n\x3f\0\0\0"), rcp("g1", 17));
        assert_eq!(classify(b"GET /RCP/1.0 HTTP/1.1\r\n"), Verdict::Http);
        let long = [&b"GET /"[..], &vec![b'a'; MAX_FIRST_BYTES]].concat();
        assert_eq!(classify(&long), Verdict::Refused(Refusal::TooLong));
        assert_eq!(classify(b""), Verdict::NeedMore);
    }

    #[test]
    fn lines() {
        use Refusal::{BadOpening, NoToken, NotText, Version};
        for (bytes, want) in [
            (&b"\x16\x03\x01"[..], Verdict::Tls),
            (b"\x16", Verdict::NeedMore),
            (b"\x16\x04", Verdict::Refused(NotText)),
            (b"POST /x HTTP/1.0\n", Verdict::Http),
            (b"VERSION-CONTROL /x HTTP/1.1\r\n", Verdict::Http),
            (b"OPEN HTTP/1.1 RCP/1.0\r\n", Verdict::Refused(BadOpening)),
            (b"GET /x RCP/1.0\r\n", Verdict::Refused(BadOpening)),
            (b"OPEN g1 RCP/1.0\n", Verdict::Refused(BadOpening)),
            (b"OPEN  g1 RCP/1.0\r\n", Verdict::Refused(BadOpening)),
            (b"OPEN G1 RCP/1.0\r\n", Verdict::Refused(BadOpening)),
            (b"OPEN RCP/1.0\r\n", Verdict::Refused(BadOpening)),
            (b"OPEN g1 RCP/1.0 \r\n", Verdict::Refused(NoToken)),
            (b"OPEN g1 RCP/2.0\r\n", Verdict::Refused(Version)),
            (b"PRI * HTTP/2.0\r\n", Verdict::Http2),
            (b"PRI * HTTP/2.0\n", Verdict::Refused(Version)),
            (b"PRI / HTTP/2.0\r\n", Verdict::Refused(Version)),
            (b"GET HTTP/1.1\r\n", Verdict::Refused(NoToken)),
            (b"GET /x\r\n", Verdict::Refused(NoToken)),
            (b"get ", Verdict::Refused(NoToken)),
            (b"\r\n", Verdict::Refused(NoToken)),
            (b" ", Verdict::Refused(NoToken)),
            (b"OPEN\0", Verdict::Refused(NotText)),
            (b"OPEN g1\rx", Verdict::Refused(NotText)),
            (b"OPEN g1 RCP/1.0\r", Verdict::NeedMore),
        ] {
            assert_eq!(classify(bytes), want, "{:?}", String::from_utf8_lossy(bytes));
        }
    }

    #[test]
    fn the_opening_line_is_one() {
        let g = GroupName::new(&"g".repeat(63)).expect("group");
        let l = opening_line(&g);
        assert_eq!(classify(&l), Verdict::Rcp { group: g, line_len: l.len() });
        assert!(l.len() <= MAX_OPENING_LINE);
    }

    #[test]
    fn the_limit_holds_to_the_byte() {
        for len in MAX_FIRST_BYTES - 2..MAX_FIRST_BYTES + 3 {
            let mut l = [&b"GET /"[..], &vec![b'a'; len - 16], b" HTTP/1.1\r\n"].concat();
            assert_eq!(l.len(), len);
            let want = match len <= MAX_FIRST_BYTES {
                true => Verdict::Http,
                false => Verdict::Refused(Refusal::TooLong),
            };
            assert_eq!(classify(&l), want, "{len}");
            while l.pop().is_some() {
                let v = classify(&l);
                assert!(v == Verdict::NeedMore || v == want, "{len}, {} bytes: {v:?}", l.len());
            }
        }
    }

    proptest! {
        #[test]
        fn more_bytes_never_change_a_verdict(
            bytes in prop_oneof![
                prop::collection::vec(any::<u8>(), 0..64),
                "[A-Z]{0,5} ?[a-z/]{0,8} ?(HTTP/1.1|RCP/1.0|HTTP/2|RCP/9|x)?\r?\n?\\PC{0,8}"
                    .prop_map(String::into_bytes),
            ],
        ) {
            let whole = classify(&bytes);
            for n in 0..bytes.len() {
                let v = classify(&bytes[..n]);
                prop_assert!(v == Verdict::NeedMore || v == whole, "{} bytes: {:?}", n, v);
            }
        }

        #[test]
        fn made_up_bytes_are_never_rcp(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let rcp = matches!(classify(&bytes), Verdict::Rcp { .. });
            prop_assert!(!rcp || bytes.starts_with(b"OPEN "));
        }
    }
}
