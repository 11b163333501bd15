//! Which bytes a `Range` header asks for (RFC 9110, section 14.2). Pure.
//!
//! A unit that is not `bytes` is ignored, as the RFC says. Anything else that cannot be served as
//! one range is refused rather than ignored: the whole of a volume may be terabytes.

use http_range_header::{EndPosition, RangeUnsatisfiableError, StartPosition, parse_range_header};

/// What to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Selection {
    /// All of it (200).
    Whole,
    /// `first..end`, not empty (206).
    Part { first: u64, end: u64 },
    /// Nothing of it (416), and why.
    Refused(&'static str),
}

/// What `header` selects of `size` bytes.
pub(crate) fn select(header: Option<&str>, size: u64) -> Selection {
    let Some(header) = header.map(str::trim) else { return Selection::Whole };
    match header.split_once('=') {
        Some((unit, _)) if unit.trim().eq_ignore_ascii_case("bytes") => {}
        _ => return Selection::Whole,
    }
    let ranges =
        match header.split_once('=').map(|(_, r)| parse_range_header(&format!("bytes={r}"))) {
            Some(Ok(parsed)) => parsed.ranges,
            Some(Err(RangeUnsatisfiableError::ZeroSuffix)) => {
                return Selection::Refused("it asks for the last 0 bytes");
            }
            _ => return Selection::Refused("it is not of the form bytes=FIRST-LAST"),
        };
    let [range] = ranges.as_slice() else {
        return Selection::Refused("one range at a time is served: ask for each by itself");
    };
    let first = match range.start {
        StartPosition::Index(first) => first,
        StartPosition::FromLast(count) => size.saturating_sub(count),
    };
    let end = match range.end {
        EndPosition::Index(last) if last < first => {
            return Selection::Refused("its last byte is before its first");
        }
        EndPosition::Index(last) => last.saturating_add(1).min(size),
        EndPosition::LastByte => size,
    };
    if first >= end {
        return Selection::Refused("it begins past the end");
    }
    Selection::Part { first, end }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn part(first: u64, end: u64) -> Selection {
        Selection::Part { first, end }
    }

    #[test]
    fn examples_of_the_rfc() {
        for (header, expected) in [
            ("bytes=0-499", part(0, 500)),
            ("bytes=500-999", part(500, 1000)),
            ("bytes=-500", part(9_500, 10_000)),
            ("bytes=9500-", part(9_500, 10_000)),
            ("bytes=0-0", part(0, 1)),
            ("bytes=-1", part(9_999, 10_000)),
            ("Bytes=0-0", part(0, 1)),
            ("bytes=9000-20000", part(9_000, 10_000)),
            ("bytes=-20000", part(0, 10_000)),
            ("bytes=0-18446744073709551615", part(0, 10_000)),
            ("blocks=0-1", Selection::Whole),
            ("nonsense", Selection::Whole),
        ] {
            assert_eq!(select(Some(header), 10_000), expected, "{header}");
        }
        assert_eq!(select(None, 10_000), Selection::Whole);
        for header in [
            "bytes=10000-",
            "bytes=5-4",
            "bytes=-0",
            "bytes=",
            "bytes=a-b",
            "bytes=0-0,2-3",
            "bytes=99999999999999999999-",
            "bytes=--1",
        ] {
            assert!(matches!(select(Some(header), 10_000), Selection::Refused(_)), "{header}");
        }
        assert!(matches!(select(Some("bytes=0-"), 0), Selection::Refused(_)));
    }

    proptest! {
        #[test]
        fn ranges_are_slices(
            data in proptest::collection::vec(any::<u8>(), 0..300),
            a in 0usize..400,
            b in 0usize..400,
        ) {
            let size = data.len() as u64;
            let cut = |s: Selection| match s {
                Selection::Part { first, end } => {
                    Some(&data[usize::try_from(first).unwrap()..usize::try_from(end).unwrap()])
                }
                _ => None,
            };
            let to = (b + 1).min(data.len());
            let expected = if a <= b { data.get(a..to).filter(|s| !s.is_empty()) } else { None };
            prop_assert_eq!(cut(select(Some(&format!("bytes={a}-{b}")), size)), expected);
            let expected = data.get(a..).filter(|s| !s.is_empty());
            prop_assert_eq!(cut(select(Some(&format!("bytes={a}-")), size)), expected);
            let from = data.len().saturating_sub(b);
            let expected = Some(&data[from..]).filter(|s| !s.is_empty());
            prop_assert_eq!(cut(select(Some(&format!("bytes=-{b}")), size)), expected);
        }

        #[test]
        fn no_header_panics_or_leaves_the_volume(header in ".{0,40}", rest in "[0-9,=-]{0,30}", size: u64) {
            for h in [header, format!("bytes={rest}")] {
                if let Selection::Part { first, end } = select(Some(&h), size) {
                    prop_assert!(first < end && end <= size);
                }
            }
        }
    }
}
