//! Reading and writing fixed layouts: little-endian integers, length-prefixed text.
//!
//! [`Cursor`] never reads past its end and never panics; the array helpers take offsets that are
//! constants of a layout, checked against its fixed size.

use bytes::{BufMut, Bytes, BytesMut};

/// `K` bytes at a constant offset of a fixed layout.
pub(crate) fn array<const K: usize>(b: &[u8], at: usize) -> [u8; K] {
    let mut out = [0u8; K];
    out.copy_from_slice(&b[at..at + K]);
    out
}

pub(crate) fn u16_at(b: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(array(b, at))
}

pub(crate) fn u32_at(b: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(array(b, at))
}

pub(crate) fn u64_at(b: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(array(b, at))
}

/// Copies `src` to a constant offset of a fixed layout.
pub(crate) fn put(b: &mut [u8], at: usize, src: &[u8]) {
    b[at..at + src.len()].copy_from_slice(src);
}

/// What is wrong with a variable-length body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Malformed {
    /// It ends inside a field.
    Short,
    /// A length or count is over its limit.
    TooLong(&'static str),
    /// A field has a value that it may not have.
    Value(&'static str),
}

/// A bounded reader over the body of a control frame.
pub(crate) struct Cursor {
    rest: Bytes,
}

impl Cursor {
    pub(crate) fn new(body: Bytes) -> Self {
        Self { rest: body }
    }

    /// What has not been read yet.
    pub(crate) fn rest(&self) -> &[u8] {
        &self.rest
    }

    pub(crate) fn take(&mut self, n: usize) -> Result<Bytes, Malformed> {
        if n > self.rest.len() { Err(Malformed::Short) } else { Ok(self.rest.split_to(n)) }
    }

    pub(crate) fn array<const K: usize>(&mut self) -> Result<[u8; K], Malformed> {
        let out = *self.rest.first_chunk::<K>().ok_or(Malformed::Short)?;
        self.take(K)?;
        Ok(out)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, Malformed> {
        self.array::<1>().map(|[b]| b)
    }

    pub(crate) fn u16(&mut self) -> Result<u16, Malformed> {
        self.array().map(u16::from_le_bytes)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, Malformed> {
        self.array().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Result<u64, Malformed> {
        self.array().map(u64::from_le_bytes)
    }

    /// One byte, 0 or 1.
    pub(crate) fn bool(&mut self, what: &'static str) -> Result<bool, Malformed> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Malformed::Value(what)),
        }
    }

    /// A count in two bytes, bounded.
    pub(crate) fn count(&mut self, max: usize, what: &'static str) -> Result<usize, Malformed> {
        let n = usize::from(self.u16()?);
        if n > max { Err(Malformed::TooLong(what)) } else { Ok(n) }
    }

    /// Text: a length in two bytes, then UTF-8.
    pub(crate) fn text(&mut self, max: usize, what: &'static str) -> Result<String, Malformed> {
        let n = self.count(max, what)?;
        let raw = self.take(n)?;
        std::str::from_utf8(&raw).map(str::to_owned).map_err(|_| Malformed::Value(what))
    }

    /// Bytes: a length in four bytes, then the bytes.
    pub(crate) fn blob(&mut self, max: usize, what: &'static str) -> Result<Bytes, Malformed> {
        let n = usize::try_from(self.u32()?).map_err(|_| Malformed::TooLong(what))?;
        if n > max { Err(Malformed::TooLong(what)) } else { self.take(n) }
    }
}

/// Writes text with its length; `max` is far below 65,536 everywhere.
pub(crate) fn put_text(out: &mut BytesMut, s: &str, max: usize) {
    let s = cut(s, max);
    out.put_u16_le(u16::try_from(s.len()).unwrap_or(0));
    out.put_slice(s.as_bytes());
}

/// The longest prefix of at most `max` bytes that ends at a character.
fn cut(s: &str, max: usize) -> &str {
    let mut end = s.len().min(max);
    while !s.is_char_boundary(end) {
        end -= 1;
    }
    s.get(..end).unwrap_or("")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_cut_at_a_character() {
        assert_eq!(cut("häß", 3), "hä");
        assert_eq!(cut("häß", 2), "h");
        assert_eq!(cut("abc", 9), "abc");
    }

    #[test]
    fn a_cursor_stops_at_the_end() {
        let mut c = Cursor::new(Bytes::from_static(&[1, 0, b'x', 9]));
        assert_eq!(c.text(1, "t").as_deref(), Ok("x"));
        assert_eq!(c.u16(), Err(Malformed::Short));
        assert_eq!(c.bool("b"), Err(Malformed::Value("b")));
        assert!(c.rest().is_empty());
    }
}
