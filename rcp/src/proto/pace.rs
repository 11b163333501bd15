//! How fast a hop may send, by the time of day, and the account that keeps to it.
//!
//! A [`Limit`] is a short list of rules; the first that applies counts, and if none does, nothing is
//! limited. Times of day are **UTC**: a rule means the same on every node and in every season. A
//! [`Pace`] says when the next data frame may go; time is an argument.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use super::clock::{Mono, Wall};

/// Most rules of a limit.
pub const MAX_RULES: usize = 8;
/// Longest text of a limit.
pub const MAX_LIMIT_TEXT: usize = 256;
/// Slowest limit, in bit/s: the longest chunk takes less than ten minutes.
pub const MIN_RATE: u64 = 64_000;
/// Fastest limit, in bit/s.
pub const MAX_RATE: u64 = 1_000_000_000_000;
/// How the words for a rate begin, as [`Limit::in_words`] says them.
pub const LIMITED: &str = "limited to ";
/// What was not used of this time may be made up for.
const BURST: Duration = Duration::from_millis(100);

const DAY: u16 = 24 * 60;
const DAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];
const ALL_DAYS: u8 = 0x7f;
const UNITS: [(&str, u64); 3] =
    [("Gbit/s", 1_000_000_000), ("Mbit/s", 1_000_000), ("kbit/s", 1_000)];
const MINUTE_US: u64 = 60_000_000;

/// Bits per second, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Rule {
    /// `None`: as fast as it goes.
    rate: Option<u64>,
    /// Bit 0 is Monday. Of a span over midnight, the day on which it begins.
    days: u8,
    /// Minute of the day.
    from: u16,
    /// Minute of the day, not included; before `from` if it is one of the next day.
    to: u16,
}

impl Rule {
    fn applies(&self, day: u8, minute: u16) -> bool {
        let on = |day: u8| self.days & (1 << day) != 0;
        if self.from < self.to {
            return on(day) && (self.from..self.to).contains(&minute);
        }
        (on(day) && minute >= self.from) || (on((day + 6) % 7) && minute < self.to)
    }
}

/// How fast a hop may send, by the time of day in UTC.
///
/// Its text is `RATE`, `RATE@HH:MM-HH:MM`, `RATE@mon-fri`, `RATE@mon-fri@HH:MM-HH:MM`, or several of
/// these with commas; RATE is `64kbit/s` to `1000Gbit/s`, or `none`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limit {
    rules: Vec<Rule>,
}

/// Why a text is no limit.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{text}` is no limit: {why}; write such as 20Mbit/s, or 20Mbit/s@mon-fri@08:00-18:00 (UTC)"
)]
pub struct LimitError {
    text: String,
    why: String,
}

impl LimitError {
    /// What is wrong, without the remedy.
    #[must_use]
    pub fn why(&self) -> String {
        format!("`{}` is no limit: {}", self.text, self.why)
    }
}

impl Limit {
    /// It says `none` and nothing else.
    #[must_use]
    pub fn is_none(&self) -> bool {
        let always = Rule { rate: None, days: ALL_DAYS, from: 0, to: DAY };
        self.rules == [always]
    }

    /// Bits per second at a moment; `None`: as fast as it goes.
    #[must_use]
    pub fn at(&self, wall: Wall) -> Option<u64> {
        let (day, minute) = moment(wall);
        self.rules.iter().find(|r| r.applies(day, minute))?.rate
    }

    /// When the rate that holds now ends; `None` if it never does.
    #[must_use]
    pub fn until(&self, wall: Wall) -> Option<Wall> {
        let now = self.at(wall);
        let midnight = wall.0 / MINUTE_US / u64::from(DAY) * u64::from(DAY);
        let mut turns: Vec<u64> = (0..=8)
            .flat_map(|d| {
                let ends = self.rules.iter().flat_map(|r| [r.from, r.to]);
                ends.map(move |m| (midnight + d * u64::from(DAY) + u64::from(m)) * MINUTE_US)
            })
            .filter(|t| *t > wall.0)
            .collect();
        turns.sort_unstable();
        turns.into_iter().map(Wall).find(|t| self.at(*t) != now)
    }

    /// `limited to 20 Mbit/s until 18:00 UTC`; `None` while nothing is limited.
    #[must_use]
    pub fn in_words(&self, wall: Wall) -> Option<String> {
        let (number, unit) = parts(self.at(wall)?);
        let until = self.until(wall).map_or(String::new(), |end| {
            let (day, minute) = moment(end);
            let far = end.since(wall) > Duration::from_secs(24 * 3600);
            let day = if far { format!("{} ", DAYS[usize::from(day)]) } else { String::new() };
            format!(" until {day}{} UTC", Clock(minute))
        });
        Some(format!("{LIMITED}{number} {unit}{until}"))
    }
}

/// Day of the week and minute of the day.
fn moment(wall: Wall) -> (u8, u16) {
    let minutes = wall.0 / MINUTE_US;
    // 1970-01-01 was a Thursday.
    let day = (minutes / u64::from(DAY) + 3) % 7;
    let minute = minutes % u64::from(DAY);
    (u8::try_from(day).unwrap_or(0), u16::try_from(minute).unwrap_or(0))
}

/// The largest unit that divides a rate.
fn parts(rate: u64) -> (u64, &'static str) {
    let (unit, bits) =
        UNITS.into_iter().find(|(_, bits)| rate.is_multiple_of(*bits)).unwrap_or(UNITS[2]);
    (rate / bits, unit)
}

/// A minute of the day as `08:00`.
struct Clock(u16);

impl fmt::Display for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02}:{:02}", self.0 / 60, self.0 % 60)
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.rate.map(parts) {
            Some((number, unit)) => write!(f, "{number}{unit}")?,
            None => f.write_str("none")?,
        }
        if self.days != ALL_DAYS {
            // Days were written as one span: it begins where the day before is none of it.
            let on = |d: usize| self.days & (1 << d) != 0;
            let first = (0..7).find(|d| on(*d) && !on((d + 6) % 7)).unwrap_or(0);
            let last = first + self.days.count_ones() as usize - 1;
            match last - first {
                0 => write!(f, "@{}", DAYS[first])?,
                _ => write!(f, "@{}-{}", DAYS[first], DAYS[last % 7])?,
            }
        }
        if (self.from, self.to) != (0, DAY) {
            write!(f, "@{}-{}", Clock(self.from), Clock(self.to))?;
        }
        Ok(())
    }
}

impl fmt::Display for Limit {
    /// The form that is read back, without spaces.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, rule) in self.rules.iter().enumerate() {
            write!(f, "{}{rule}", if i > 0 { "," } else { "" })?;
        }
        Ok(())
    }
}

impl FromStr for Limit {
    type Err = LimitError;

    /// Reads its text; `20 Mbit/s from 08:00 to 18:00 on mon-fri` as well.
    fn from_str(text: &str) -> Result<Self, LimitError> {
        let failed = |why: String| LimitError { text: text.chars().take(80).collect(), why };
        if text.len() > MAX_LIMIT_TEXT {
            return Err(failed(format!("it is longer than {MAX_LIMIT_TEXT} bytes")));
        }
        let short = text.replace(" from ", "@").replace(" to ", "-").replace(" on ", "@");
        let short: String = short.chars().filter(|c| *c != ' ').collect();
        let rules: Result<Vec<_>, _> = short.split(',').map(rule).collect();
        let rules = rules.map_err(failed)?;
        if rules.len() > MAX_RULES {
            return Err(failed(format!("it has more than {MAX_RULES} rules")));
        }
        Ok(Self { rules })
    }
}

fn rule(text: &str) -> Result<Rule, String> {
    let mut parts = text.split('@');
    let rate = rate(parts.next().unwrap_or_default())?;
    let (mut days, mut span) = (None, None);
    for part in parts {
        let twice = if part.starts_with(|c: char| c.is_ascii_digit()) {
            span.replace(times(part)?).is_some()
        } else {
            days.replace(weekdays(part)?).is_some()
        };
        if twice {
            return Err(format!("`{text}` says twice when; separate rules with commas"));
        }
    }
    let (from, to) = span.unwrap_or((0, DAY));
    Ok(Rule { rate, days: days.unwrap_or(ALL_DAYS), from, to })
}

fn rate(text: &str) -> Result<Option<u64>, String> {
    if text == "none" {
        return Ok(None);
    }
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    if number.is_empty() {
        return Err(format!("`{text}` does not begin with a number, and is not `none`"));
    }
    let Some((_, bits)) = UNITS.into_iter().find(|(name, _)| *name == unit) else {
        return Err(match unit.to_ascii_lowercase().as_str() {
            "" => format!("the unit is missing: {number}Mbit/s if that was meant"),
            "kbit" | "kbps" | "kbit/s" => format!("in `{text}`, write {number}kbit/s"),
            "mbit" | "mbps" | "mbit/s" => format!("in `{text}`, write {number}Mbit/s"),
            "gbit" | "gbps" | "gbit/s" => format!("in `{text}`, write {number}Gbit/s"),
            u if u.starts_with('.') => "fractions are not read: use a smaller unit".to_owned(),
            u if u.ends_with("b/s") || u.ends_with("bytes/s") => {
                format!("in `{text}`, rates are in bits: 8Mbit/s are a megabyte per second")
            }
            _ => format!("`{unit}` is none of kbit/s, Mbit/s and Gbit/s"),
        });
    };
    match number.parse::<u64>().ok().and_then(|n| n.checked_mul(bits)) {
        Some(rate) if (MIN_RATE..=MAX_RATE).contains(&rate) => Ok(Some(rate)),
        Some(0) => Err("nothing would ever be sent; `none` is no limit".to_owned()),
        _ => Err(format!("`{text}` is not between 64kbit/s and 1000Gbit/s")),
    }
}

fn times(text: &str) -> Result<(u16, u16), String> {
    let clock = |t: &str| {
        let (h, m) = t.split_once(':')?;
        let digits = |s: &str| s.len() == 2 && s.bytes().all(|b| b.is_ascii_digit());
        let (h, m) = (digits(h) && digits(m)).then(|| (h.parse::<u16>(), m.parse::<u16>()))?;
        let minute = h.ok()? * 60 + m.clone().ok()?;
        (m.ok()? < 60 && minute <= DAY).then_some(minute)
    };
    let (from, to) = text.split_once('-').ok_or_else(|| format!("`{text}` is not HH:MM-HH:MM"))?;
    match (clock(from), clock(to)) {
        (Some(from), Some(to)) if from == to || from == DAY || to == 0 => {
            Err(format!("`{text}` is no span of a day; a day ends at 24:00"))
        }
        (Some(from), Some(to)) => Ok((from, to)),
        _ => Err(format!("`{text}` is not HH:MM-HH:MM, from 00:00 to 24:00")),
    }
}

fn weekdays(text: &str) -> Result<u8, String> {
    let day = |t: &str| {
        let found = DAYS.iter().position(|d| *d == t);
        found.ok_or_else(|| format!("`{t}` is none of {}", DAYS.join(", ")))
    };
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (day(first)?, day(last)?);
    let many = (last + 7 - first) % 7;
    Ok((0..=many).fold(0, |days, i| days | 1 << ((first + i) % 7)))
}

/// When the next data frame may go, so that over time no more is sent than a rate allows.
///
/// A frame goes as a whole when the account is even; then nothing goes until it is even again. So no
/// frame waits in the middle, and what is not data never waits.
#[derive(Clone, Copy, Debug, Default)]
pub struct Pace {
    even_at: Mono,
    /// The rate that it was charged by.
    rate: u64,
}

impl Pace {
    /// Whether a frame may go. Another rate than before begins with an even account.
    pub fn ready(&mut self, now: Mono, rate: Option<u64>) -> bool {
        if rate.is_none_or(|r| r != self.rate) {
            *self = Self { even_at: Mono(0), rate: rate.unwrap_or(0) };
        }
        self.even_at <= now
    }

    /// A frame of so many bytes went.
    pub fn spend(&mut self, now: Mono, rate: Option<u64>, bytes: usize) {
        let Some(rate) = rate.filter(|r| *r > 0) else { return };
        let micros = (bytes as u128 * 8 * 1_000_000).div_ceil(u128::from(rate));
        let burst = u64::try_from(BURST.as_micros()).unwrap_or(0);
        let from = self.even_at.0.max(now.0.saturating_sub(burst));
        self.even_at = Mono(from.saturating_add(u64::try_from(micros).unwrap_or(u64::MAX)));
        self.rate = rate;
    }

    /// When the account is even.
    #[must_use]
    pub fn even_at(&self) -> Mono {
        self.even_at
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HOUR: u64 = 60 * MINUTE_US;
    /// A Thursday, and the Saturday after it.
    const THU: u64 = 0;
    const SAT: u64 = 48 * HOUR;

    fn limit(text: &str) -> Limit {
        text.parse().expect(text)
    }

    #[test]
    fn the_first_rule_that_applies_counts() {
        let l = limit("20Mbit/s@mon-fri@08:00-18:00, none@sat, 100 Mbit/s");
        let at = |us| l.at(Wall(us)).map(|r| r / 1_000_000);
        assert_eq!(at(THU + 8 * HOUR), Some(20));
        assert_eq!(at(THU + 18 * HOUR - 1), Some(20));
        assert_eq!(at(THU + 18 * HOUR), Some(100));
        assert_eq!(at(THU + 8 * HOUR - 1), Some(100));
        assert_eq!(at(SAT + 9 * HOUR), None);
        assert_eq!(at(SAT + 33 * HOUR), Some(100));
        assert_eq!(limit("1Gbit/s@08:00-18:00").at(Wall(THU)), None);
    }

    #[test]
    fn a_night_belongs_to_the_day_on_which_it_begins() {
        let l = limit("64kbit/s@fri@22:00-06:00");
        let fri = THU + 24 * HOUR;
        for (us, limited) in [
            (fri + 21 * HOUR, false),
            (fri + 22 * HOUR, true),
            (SAT + 5 * HOUR, true),
            (SAT + 6 * HOUR, false),
            (SAT + 22 * HOUR, false),
            (fri + 5 * HOUR, false),
        ] {
            assert_eq!(l.at(Wall(us)).is_some(), limited, "{us}");
        }
    }

    #[test]
    fn words() {
        let l = limit("20 Mbit/s from 08:00 to 18:00 on mon-fri");
        let words = |us| l.in_words(Wall(us));
        let said = "limited to 20 Mbit/s until 18:00 UTC";
        assert_eq!(words(THU + 9 * HOUR).as_deref(), Some(said));
        assert_eq!(words(THU), None);
        assert_eq!(l.until(Wall(SAT)), Some(Wall(SAT + 56 * HOUR)), "Monday at 8");
        let weekend = limit("1500kbit/s@sat-sun").in_words(Wall(SAT)).expect("limited");
        assert_eq!(weekend, "limited to 1500 kbit/s until mon 00:00 UTC");
        let always = limit("2Gbit/s").in_words(Wall(SAT)).expect("limited");
        assert_eq!(always, "limited to 2 Gbit/s");
        assert!(limit("none").is_none() && !limit("none@sat").is_none());
    }

    #[test]
    fn errors_say_what_to_write() {
        for (text, why) in [
            ("", "does not begin with a number"),
            ("fast", "does not begin with a number"),
            ("20", "the unit is missing: 20Mbit/s"),
            ("20Mbps", "write 20Mbit/s"),
            ("20MB/s", "rates are in bits"),
            ("1.5Mbit/s", "fractions"),
            ("0Mbit/s", "`none` is no limit"),
            ("1kbit/s", "between 64kbit/s and 1000Gbit/s"),
            ("99999999999999999999Mbit/s", "between"),
            ("20Mbit/s@8:00-18:00", "HH:MM-HH:MM"),
            ("20Mbit/s@08:00", "HH:MM-HH:MM"),
            ("20Mbit/s@08:00-25:00", "from 00:00 to 24:00"),
            ("20Mbit/s@08:60-09:00", "from 00:00 to 24:00"),
            ("20Mbit/s@08:00-08:00", "no span of a day"),
            ("20Mbit/s@monday", "`monday` is none of mon, tue"),
            ("20Mbit/s@mon@tue", "says twice when"),
            ("20Mbit/s,", "does not begin with a number"),
            ("9Mbit/s,9Mbit/s,9Mbit/s,9Mbit/s,9Mbit/s,9Mbit/s,9Mbit/s,9Mbit/s,9Mbit/s", "8 rules"),
        ] {
            let e = text.parse::<Limit>().expect_err(text).to_string();
            assert!(e.contains(why) && e.contains("write such as 20Mbit/s"), "{text}: {e}");
        }
    }

    #[test]
    fn a_new_rate_counts_at_once() {
        let mut p = Pace::default();
        let (slow, fast) = (Some(64_000), Some(1_000_000_000));
        assert!(p.ready(Mono(1_000_000), slow));
        p.spend(Mono(1_000_000), slow, 1 << 20);
        assert!(!p.ready(Mono(2_000_000), slow));
        assert!(p.ready(Mono(2_000_000), fast));
        p.spend(Mono(2_000_000), slow, 1 << 20);
        assert!(!p.ready(Mono(2_000_000), slow) && p.ready(Mono(2_000_000), None));
    }

    proptest! {
        #[test]
        fn over_time_as_much_is_sent_as_the_rate_allows(
            rate in 64_000u64..10_000_000_000,
            frames in proptest::collection::vec((1usize..4 << 20, 0u64..50_000), 1..200),
        ) {
            let (begin, mut now, mut p) = (Mono(10_000_000), Mono(10_000_000), Pace::default());
            // Each frame is charged in full microseconds.
            let slack = frames.len() as u128 * (u128::from(rate) / 8_000_000 + 1);
            let mut sent = 0u64;
            for (len, late) in frames {
                if !p.ready(now, Some(rate)) {
                    now = Mono(p.even_at().0 + late);
                    prop_assert!(p.ready(now, Some(rate)));
                }
                // Before this frame no more went than the time allows, and the burst.
                let us = now.since(begin).as_micros() + BURST.as_micros();
                let may = us * u128::from(rate) / 8_000_000;
                prop_assert!(u128::from(sent) <= may, "{sent} > {may}");
                p.spend(now, Some(rate), len);
                sent += len as u64;
            }
            // Who is never late by more than the burst loses nothing.
            let least = p.even_at().since(begin).as_micros() * u128::from(rate) / 8_000_000;
            prop_assert!(u128::from(sent) + slack >= least, "{sent} < {least}");
        }

        #[test]
        fn no_text_panics_and_good_ones_are_read_back(
            text in "(none|[0-9]{1,4}(k|M|G)bit/s)(@(mon|tue|sun)(-(fri|sun))?)?(@[0-2][0-9]:[0-5]0-[0-2][0-9]:00)?(,64kbit/s)?.?",
            us in any::<u64>(),
        ) {
            if let Ok(l) = text.parse::<Limit>() {
                prop_assert_eq!(l.to_string().parse(), Ok(l.clone()));
                let wall = Wall(us >> 8);
                if let Some(end) = l.until(wall) {
                    prop_assert!(end > wall && l.at(end) != l.at(wall));
                    prop_assert_eq!(l.at(Wall(end.0 - 1)), l.at(wall));
                }
                let _ = l.in_words(wall);
            }
        }
    }
}
