//! Names and numbers that travel: one newtype each, checked at construction.
//!
//! A *state* is what a volume holds at a cut; its id is (volume, generation, set). State 0 is all
//! zero. A *generation* is one writer's line; two generations with the same counter and different
//! ids are a split-brain.

use std::fmt;
use std::str::FromStr;

/// A volume, for its whole life and on every node (UUID).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct VolumeId(pub [u8; 16]);

/// One writer's line of states: a counter that rises with every new writer, and a random id that
/// tells two writers with the same counter apart.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Generation {
    /// Rises by one with every promotion, failback or swap; the first writer has 1.
    pub counter: u32,
    /// Random; equal counters with different ids are a split-brain.
    pub id: [u8; 16],
}

/// Number of a delta set, and of the state it leads to. Rises by one along a generation line; 0 is
/// the state in which every block is zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct SetNumber(pub u64);

impl SetNumber {
    /// The all-zero state that every volume starts from.
    pub const ZERO: Self = Self(0);

    /// The number after this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// How often the primary began to drain this set; leftovers of an abandoned attempt never mix with
/// its successor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Attempt(pub u32);

/// Position of a chunk within its step, from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ChunkNumber(pub u32);

/// What a volume holds at a cut.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StateId {
    /// Which volume.
    pub volume: VolumeId,
    /// On whose line.
    pub generation: Generation,
    /// After which set.
    pub set: SetNumber,
}

impl fmt::Display for VolumeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, b) in self.0.iter().enumerate() {
            if matches!(i, 4 | 6 | 8 | 10) {
                f.write_str("-")?;
            }
            write!(f, "{b:02x}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for VolumeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VolumeId({self})")
    }
}

impl FromStr for VolumeId {
    type Err = NameError;

    fn from_str(s: &str) -> Result<Self, NameError> {
        parse_hex16(s).map(Self).ok_or_else(|| NameError::new("volume id", s, "32 hex digits"))
    }
}

impl fmt::Display for Generation {
    /// `counter-` and the first eight hex digits of the id: enough to tell lines apart by eye.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-", self.counter)?;
        self.id[..4].iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

impl fmt::Debug for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Generation({self})")
    }
}

impl fmt::Display for SetNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for ChunkNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for StateId {
    /// `VOLUME.COUNTER-ID.SET`, in full: the text used in ETags and URLs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}-", self.volume, self.generation.counter)?;
        self.generation.id.iter().try_for_each(|b| write!(f, "{b:02x}"))?;
        write!(f, ".{}", self.set)
    }
}

impl fmt::Debug for StateId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StateId({self})")
    }
}

impl FromStr for StateId {
    type Err = NameError;

    fn from_str(s: &str) -> Result<Self, NameError> {
        let bad = || NameError::new("state id", s, "VOLUME.COUNTER-ID.SET");
        let mut parts = s.split('.');
        let (Some(v), Some(g), Some(n), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(bad());
        };
        let (counter, id) = g.split_once('-').ok_or_else(bad)?;
        Ok(Self {
            volume: v.parse().map_err(|_| bad())?,
            generation: Generation {
                counter: counter.parse().map_err(|_| bad())?,
                id: parse_hex16(id).ok_or_else(bad)?,
            },
            set: SetNumber(n.parse().map_err(|_| bad())?),
        })
    }
}

/// Sixteen bytes from 32 hex digits; hyphens are skipped.
fn parse_hex16(s: &str) -> Option<[u8; 16]> {
    let mut out = [0u8; 16];
    let mut n = 0;
    for c in s.chars().filter(|c| *c != '-') {
        let d = c.to_digit(16)?;
        let slot = out.get_mut(n / 2)?;
        *slot = (*slot << 4) | u8::try_from(d).ok()?;
        n += 1;
    }
    (n == 32).then_some(out)
}

/// A name or id that does not have the form it must have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{value}` is not a {kind}: it must be {form}")]
pub struct NameError {
    /// What was expected.
    pub kind: &'static str,
    /// What was given.
    pub value: String,
    /// The form it must have.
    pub form: &'static str,
}

impl NameError {
    fn new(kind: &'static str, value: &str, form: &'static str) -> Self {
        Self { kind, value: value.chars().take(80).collect(), form }
    }
}

/// Longest label, node or group name, in bytes: it fits one length byte and a file name.
pub const MAX_NAME: usize = 63;

macro_rules! name {
    ($(#[$doc:meta])* $ty:ident, $kind:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $ty(std::sync::Arc<str>);

        impl $ty {
            /// Checks the form: `[a-z0-9][a-z0-9._-]{0,62}`.
            ///
            /// # Errors
            /// [`NameError`] names the value and the form it must have.
            pub fn new(s: &str) -> Result<Self, NameError> {
                let ok = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
                let b = s.as_bytes();
                let good = b.first().is_some_and(|c| ok(*c))
                    && b.len() <= MAX_NAME
                    && b.iter().all(|c| ok(*c) || matches!(c, b'.' | b'_' | b'-'));
                if good {
                    Ok(Self(s.into()))
                } else {
                    Err(NameError::new(
                        $kind,
                        s,
                        "1 to 63 of a-z, 0-9, '.', '_' and '-', beginning with a letter or digit",
                    ))
                }
            }

            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $ty {
            type Err = NameError;

            fn from_str(s: &str) -> Result<Self, NameError> {
                Self::new(s)
            }
        }

        impl fmt::Display for $ty {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl fmt::Debug for $ty {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", &*self.0)
            }
        }
    };
}

name!(
    /// A data mover, `celN-serM` in the seeds' style; unique in a topology.
    NodeName,
    "node name"
);
name!(
    /// A named set of data movers: the unit of addressing and routing.
    GroupName,
    "group name"
);
name!(
    /// What operators call a volume; renaming changes only this.
    Label,
    "volume label"
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn state_ids_survive_text() {
        let id = StateId {
            volume: VolumeId([7; 16]),
            generation: Generation { counter: 3, id: [0xab; 16] },
            set: SetNumber(42),
        };
        assert_eq!(id.to_string().parse::<StateId>(), Ok(id));
        assert!("nonsense".parse::<StateId>().is_err());
        assert!(format!("{id}.1").parse::<StateId>().is_err());
    }

    #[test]
    fn names_are_checked() {
        for good in ["a", "cel1-ser2", "0.x_y"] {
            assert_eq!(NodeName::new(good).map(|n| n.to_string()), Ok(good.to_owned()));
        }
        for bad in ["", "-a", "A", "a/b", "a b", "ä", &"x".repeat(64)] {
            let e = Label::new(bad).expect_err(bad).to_string();
            assert!(e.contains("volume label"), "{e}");
        }
    }
}
