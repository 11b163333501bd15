//! Times, durations and numbers for the eye.

use config::units::approx_size;

/// `11-26 20:11:56`, UTC: the same on every node, whatever its time zone.
pub(super) fn moment(us: u64) -> String {
    let time = i64::try_from(us).ok().and_then(|us| jiff::Timestamp::from_microsecond(us).ok());
    time.map_or_else(|| "?".to_owned(), |t| t.strftime("%m-%d %H:%M:%S").to_string())
}

/// `2026-11-26 20:11:56 UTC`: for what may be long ago.
pub(super) fn full_moment(us: u64) -> String {
    let time = i64::try_from(us).ok().and_then(|us| jiff::Timestamp::from_microsecond(us).ok());
    time.map_or_else(|| "?".to_owned(), |t| t.strftime("%Y-%m-%d %H:%M:%S UTC").to_string())
}

/// `0.8 s`, `12 s`, `4 min 5 s`, `3 h 12 min`, `2 d 4 h`.
pub(super) fn span(seconds: f64) -> String {
    if !seconds.is_finite() || seconds < 0.0 {
        return "?".to_owned();
    }
    if seconds < 9.95 {
        return format!("{} s", number(seconds));
    }
    // Beyond 2^53 seconds nobody counts.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let s = seconds.round() as u64;
    let two = |big: u64, unit: &str, small: u64, rest: &str| match small {
        0 => format!("{big} {unit}"),
        _ => format!("{big} {unit} {small} {rest}"),
    };
    match s {
        0..60 => format!("{s} s"),
        60..3_600 => two(s / 60, "min", s % 60, "s"),
        3_600..86_400 => two(s / 3_600, "h", s % 3_600 / 60, "min"),
        _ => two(s / 86_400, "d", s % 86_400 / 3_600, "h"),
    }
}

/// Time between two moments.
pub(super) fn between(from_us: u64, to_us: u64) -> String {
    // Clocks differ a little; nothing is newer than now.
    #[allow(clippy::cast_precision_loss)]
    let seconds = to_us.saturating_sub(from_us) as f64 / 1e6;
    span(if seconds < 1.0 { seconds } else { seconds.round() })
}

/// `120 µs`, `3.4 ms`, `1.2 s`.
pub(super) fn pause(us: u64) -> String {
    #[allow(clippy::cast_precision_loss)]
    let f = us as f64;
    match us {
        0..1_000 => format!("{us} µs"),
        1_000..1_000_000 => format!("{} ms", number(f / 1e3)),
        _ => span(f / 1e6),
    }
}

/// One decimal, unless it is zero.
pub(super) fn number(value: f64) -> String {
    let text = format!("{value:.1}");
    text.strip_suffix(".0").map_or(text.clone(), str::to_owned)
}

/// `29 % of 1 GiB`.
pub(super) fn fill(used: u64, capacity: u64) -> String {
    if capacity == 0 {
        return "-".to_owned();
    }
    let percent = u128::from(used) * 100 / u128::from(capacity);
    format!("{percent} % of {}", approx_size(capacity))
}

/// `1 block`, `2 blocks`.
pub(super) fn plural(n: u64, what: &str) -> String {
    if n == 1 { format!("1 {what}") } else { format!("{n} {what}s") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (seconds, text) in [
            (0.0, "0 s"),
            (0.04, "0 s"),
            (0.84, "0.8 s"),
            (9.94, "9.9 s"),
            (9.96, "10 s"),
            (59.7, "1 min"),
            (245.0, "4 min 5 s"),
            (3_600.0, "1 h"),
            (11_520.0, "3 h 12 min"),
            (187_200.0, "2 d 4 h"),
            (f64::NAN, "?"),
            (-1.0, "?"),
        ] {
            assert_eq!(span(seconds), text, "{seconds}");
        }
        assert_eq!(pause(120), "120 µs");
        assert_eq!(pause(3_400), "3.4 ms");
        assert_eq!(pause(1_200_000), "1.2 s");
        assert_eq!(between(5, 3), "0 s");
        assert_eq!(between(0, 4_200_000), "4 s");
    }

    #[test]
    fn moments_and_fills() {
        assert_eq!(moment(1_795_723_916_000_000), "11-26 20:11:56");
        assert_eq!(moment(u64::MAX), "?");
        assert_eq!(fill(300 << 20, 1 << 30), "29 % of 1 GiB");
        assert_eq!(fill(0, 0), "-");
    }
}
