//! Sizes and durations as operators write them. What is formatted here parses back to the same
//! value.
//!
//! Sizes are binary and say so: `B`, `KiB`, `MiB`, `GiB`, `TiB`. A bare `64M` is refused, because
//! half of the world reads it as 64 000 000. Durations have one unit: `250ms`, `600s`, `10min`,
//! `1h`, `7d`.

use crate::value::{ValueError, shown};
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

const SIZES: [(&str, u64); 5] =
    [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

const DURATIONS: [(&str, u128); 7] = [
    ("d", 86_400_000_000_000),
    ("h", 3_600_000_000_000),
    ("min", 60_000_000_000),
    ("s", 1_000_000_000),
    ("ms", 1_000_000),
    ("us", 1_000),
    ("ns", 1),
];

/// A number of bytes that reads and prints as `64MiB`, exactly.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Size(pub u64);

impl fmt::Display for Size {
    /// The largest unit that divides the size: `1536MiB`, `513B`. Never rounds.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (unit, bytes) = SIZES
            .into_iter()
            .find(|(_, bytes)| self.0 >= *bytes && self.0.is_multiple_of(*bytes))
            .unwrap_or(("B", 1));
        f.pad(&format!("{}{unit}", self.0 / bytes))
    }
}

impl FromStr for Size {
    type Err = ValueError;

    fn from_str(s: &str) -> Result<Self, ValueError> {
        parse_size(s).map(Self)
    }
}

/// Reads `64MiB`, `64 MiB` or `512B`.
///
/// # Errors
/// [`ValueError`] for anything else, with the form that was probably meant.
pub fn parse_size(text: &str) -> Result<u64, ValueError> {
    let bad = |hint: String| ValueError::new(format!("{} is not a size", shown(text)), hint);
    let (number, unit) = split(text);
    let forms = "write a whole number and one of B, KiB, MiB, GiB, TiB, such as 64MiB";
    if number.is_empty() {
        return Err(bad(forms.to_owned()));
    }
    let Some((_, bytes)) = SIZES.into_iter().find(|(name, _)| *name == unit) else {
        return Err(bad(match unit.to_ascii_lowercase().as_str() {
            "" => format!("the unit is missing: write {number}B, or {number}MiB if that was meant"),
            "k" | "kb" | "ki" | "kib" => format!("write {number}KiB (1 KiB is 1024 bytes)"),
            "m" | "mb" | "mi" | "mib" => format!("write {number}MiB (1 MiB is 1024 KiB)"),
            "g" | "gb" | "gi" | "gib" => format!("write {number}GiB (1 GiB is 1024 MiB)"),
            "t" | "tb" | "ti" | "tib" => format!("write {number}TiB (1 TiB is 1024 GiB)"),
            u if u.starts_with('.') => {
                "fractions are not read: use a smaller unit, such as 1536MiB for 1.5 GiB".to_owned()
            }
            _ => forms.to_owned(),
        }));
    };
    number.parse::<u64>().ok().and_then(|n| n.checked_mul(bytes)).ok_or_else(|| {
        ValueError::new(
            format!("{} is too large a size", shown(text)),
            "sizes end below 16777216TiB",
        )
    })
}

/// The size in a form that [`parse_size`] reads back exactly.
#[must_use]
pub fn format_size(bytes: u64) -> String {
    Size(bytes).to_string()
}

/// The size rounded for the eye: `1.4 GiB`. Not meant to be read back.
#[must_use]
pub fn approx_size(bytes: u64) -> String {
    let Some((unit, one)) = SIZES.into_iter().find(|(_, one)| bytes >= *one && *one > 1) else {
        return format!("{bytes} B");
    };
    let tenths = u128::from(bytes) * 10 / u128::from(one);
    match (tenths / 10, tenths % 10) {
        (whole, 0) => format!("{whole} {unit}"),
        (whole, part) => format!("{whole}.{part} {unit}"),
    }
}

/// Reads `250ms`, `600s`, `10min`, `1h`, `7d` (and `us`, `ns`).
///
/// # Errors
/// [`ValueError`] for anything else, with the form that was probably meant.
pub fn parse_duration(text: &str) -> Result<Duration, ValueError> {
    let bad = |hint: String| ValueError::new(format!("{} is not a duration", shown(text)), hint);
    let (number, unit) = split(text);
    let forms = "write a whole number and one of ms, s, min, h, d, such as 600s or 10min";
    if number.is_empty() {
        return Err(bad(forms.to_owned()));
    }
    let Some((_, nanos)) = DURATIONS.into_iter().find(|(name, _)| *name == unit) else {
        return Err(bad(match unit.to_ascii_lowercase().as_str() {
            "" => format!("the unit is missing: write {number}s for seconds"),
            "m" => format!("write {number}min for minutes, {number}ms for milliseconds"),
            "sec" | "secs" | "second" | "seconds" | "s" => format!("write {number}s"),
            "mins" | "minute" | "minutes" | "min" => format!("write {number}min"),
            "hr" | "hrs" | "hour" | "hours" | "h" => format!("write {number}h"),
            "day" | "days" | "d" => format!("write {number}d"),
            "w" | "week" | "weeks" => "weeks are not read: write days, such as 7d".to_owned(),
            u if u.starts_with('.') => {
                "fractions are not read: use a smaller unit, such as 1500ms for 1.5 s".to_owned()
            }
            _ => forms.to_owned(),
        }));
    };
    let total = number.parse::<u64>().ok().and_then(|n| u128::from(n).checked_mul(nanos));
    total
        .and_then(|t| {
            let secs = u64::try_from(t / 1_000_000_000).ok()?;
            let rest = u32::try_from(t % 1_000_000_000).ok()?;
            Some(Duration::new(secs, rest))
        })
        .ok_or_else(|| {
            ValueError::new(format!("{} is too long a duration", shown(text)), "write less")
        })
}

/// The duration in a form that [`parse_duration`] reads back exactly, in the largest unit that
/// divides it: `90s`, `10min`, `0s`. (Only beyond 584 years, in nanoseconds, is a form refused.)
#[must_use]
pub fn format_duration(duration: Duration) -> String {
    let nanos = duration.as_nanos();
    let (unit, one) = DURATIONS
        .into_iter()
        .find(|(_, one)| nanos >= *one && nanos.is_multiple_of(*one))
        .unwrap_or(("s", 1_000_000_000));
    format!("{}{unit}", nanos / one)
}

/// Leading digits, and what follows them without the space between.
fn split(text: &str) -> (&str, &str) {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    (number, unit.trim_start())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sizes_say_their_unit() {
        for (text, bytes) in [
            ("0B", 0),
            ("512B", 512),
            ("64MiB", 64 << 20),
            ("64 MiB", 64 << 20),
            (" 4KiB ", 4096),
            ("64TiB", 64 << 40),
        ] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for (text, hint) in [
            ("64M", "write 64MiB"),
            ("64MB", "write 64MiB"),
            ("64mib", "write 64MiB"),
            ("64K", "write 64KiB"),
            ("4096", "unit is missing: write 4096B"),
            ("1.5GiB", "fractions"),
            ("", "whole number"),
            ("-1MiB", "whole number"),
            ("MiB", "whole number"),
            ("1_000B", "whole number"),
            ("99999999999999999999TiB", "16777216TiB"),
        ] {
            let e = parse_size(text).expect_err(text);
            assert!(e.hint.contains(hint), "{text}: {e}");
        }
    }

    #[test]
    fn durations_say_their_unit() {
        for (text, d) in [
            ("600s", Duration::from_secs(600)),
            ("10min", Duration::from_secs(600)),
            ("1h", Duration::from_secs(3600)),
            ("250ms", Duration::from_millis(250)),
            ("7d", Duration::from_secs(7 * 86_400)),
            ("0s", Duration::ZERO),
        ] {
            assert_eq!(parse_duration(text), Ok(d), "{text}");
        }
        for (text, hint) in [
            ("600", "write 600s"),
            ("10m", "write 10min for minutes"),
            ("2 weeks", "7d"),
            ("1.5s", "1500ms"),
            ("soon", "such as 600s"),
            ("99999999999999999999d", "write less"),
        ] {
            let e = parse_duration(text).expect_err(text);
            assert!(e.hint.contains(hint), "{text}: {e}");
        }
    }

    #[test]
    fn sizes_for_the_eye() {
        assert_eq!(approx_size(0), "0 B");
        assert_eq!(approx_size(1023), "1023 B");
        assert_eq!(approx_size(1024), "1 KiB");
        assert_eq!(approx_size((1 << 30) + (1 << 29)), "1.5 GiB");
    }

    proptest! {
        #[test]
        fn sizes_round_trip(n in any::<u64>(), shift in 0u32..41) {
            let n = n >> shift << shift;
            prop_assert_eq!(parse_size(&format_size(n)), Ok(n));
        }

        #[test]
        fn durations_round_trip(ms in 0u64..400 * 86_400_000, nanos in 0u32..1_000_000) {
            let whole = Duration::from_millis(ms);
            for d in [whole, whole + Duration::from_nanos(nanos.into())] {
                prop_assert_eq!(parse_duration(&format_duration(d)), Ok(d));
            }
        }

        #[test]
        fn no_text_panics(text in ".*") {
            let _ = (parse_size(&text), parse_duration(&text));
        }
    }
}
