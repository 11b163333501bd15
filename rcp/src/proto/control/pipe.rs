//! Pipes: a stream of bytes to every member of a group, as control blocks in order (`PROTOCOL.md`,
//! section 8).
//!
//! A pipe has an id of 12 bytes; the blocks of a pipe are that id and their number, from 0: one that
//! opens it, pieces of the data, one that ends it. So they stand in their order wherever blocks are
//! kept by id, a member that is told twice knows it, and a gap shows. At most [`WINDOW`] of them are
//! under way: a receiver that does not take its piece holds up the sender, not a node's memory.

use bytes::{BufMut, Bytes, BytesMut};

use super::super::frame::ControlBlock;
use super::super::limits::{MAX_CONTROL_BLOCK, MAX_CONTROL_KIND};
use super::journal::BlockId;

/// Kind of the block that opens a pipe; its body is the name of the pipe.
pub const OPEN: &str = "pipe.open";
/// Kind of a piece; its body is the data.
pub const DATA: &str = "pipe.data";
/// Kind of the block that ends a pipe.
pub const END: &str = "pipe.end";
/// What kinds of this sort begin with.
pub const KINDS: &str = "pipe.";
/// Most bytes of a piece.
pub const MAX_PIECE: usize = MAX_CONTROL_BLOCK;
/// Most pieces of a pipe that are under way.
pub const WINDOW: usize = 64;

/// A pipe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PipeId(pub [u8; 12]);

impl PipeId {
    /// The id of its block with this number.
    #[must_use]
    pub fn block(self, number: u32) -> BlockId {
        let mut id = [0; 16];
        id[..12].copy_from_slice(&self.0);
        id[12..].copy_from_slice(&number.to_be_bytes());
        id
    }

    /// The pipe and the number of a block.
    #[must_use]
    pub fn of(id: &BlockId) -> (Self, u32) {
        let (mut pipe, mut number) = ([0; 12], [0; 4]);
        pipe.copy_from_slice(&id[..12]);
        number.copy_from_slice(&id[12..]);
        (Self(pipe), u32::from_be_bytes(number))
    }
}

/// What a block of a pipe says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// It begins.
    Open {
        /// Its name.
        name: String,
    },
    /// Data.
    Data(Bytes),
    /// It ends.
    End {
        /// The sender gave it up: what came is not all.
        given_up: bool,
        /// How many bytes there were.
        bytes: u64,
        /// CRC32C of all of them.
        sum: u32,
    },
}

/// Whether a block is one of a pipe.
#[must_use]
pub fn is_pipe(kind: &str) -> bool {
    kind.starts_with(KINDS)
}

impl Piece {
    /// Reads a block of a pipe; the text says what is wrong with it.
    ///
    /// # Errors
    /// In words.
    pub fn read(block: &ControlBlock) -> Result<Self, String> {
        match block.kind.as_str() {
            OPEN if block.body.len() <= MAX_CONTROL_KIND => std::str::from_utf8(&block.body)
                .map(|name| Self::Open { name: name.to_owned() })
                .map_err(|_| "the name of a pipe is no text".to_owned()),
            OPEN => Err(format!("the name of a pipe has more than {MAX_CONTROL_KIND} bytes")),
            DATA => Ok(Self::Data(block.body.clone())),
            END => {
                let body: [u8; 13] = block.body.as_ref().try_into().map_err(|_| {
                    format!("the end of a pipe has {} bytes, not 13", block.body.len())
                })?;
                let [how, b0, b1, b2, b3, b4, b5, b6, b7, s0, s1, s2, s3] = body;
                if how > 1 {
                    return Err(format!("the end of a pipe is of kind {how}, which is not known"));
                }
                Ok(Self::End {
                    given_up: how == 1,
                    bytes: u64::from_le_bytes([b0, b1, b2, b3, b4, b5, b6, b7]),
                    sum: u32::from_le_bytes([s0, s1, s2, s3]),
                })
            }
            other => Err(format!("`{other}` is not known of pipes")),
        }
    }
}

/// The sender's side: makes the blocks.
#[derive(Clone, Debug)]
pub struct Writer {
    id: PipeId,
    next: u32,
    bytes: u64,
    sum: u32,
}

impl Writer {
    /// A pipe, and the block that opens it.
    #[must_use]
    pub fn open(id: PipeId, name: &str) -> (Self, ControlBlock) {
        let mut w = Self { id, next: 0, bytes: 0, sum: 0 };
        let open = w.block(OPEN, Bytes::copy_from_slice(name.as_bytes()));
        (w, open)
    }

    fn block(&mut self, kind: &str, body: Bytes) -> ControlBlock {
        let id = self.id.block(self.next);
        self.next = self.next.saturating_add(1);
        ControlBlock { id, kind: kind.to_owned(), after: None, body, hops: 0 }
    }

    /// The next piece, at most [`MAX_PIECE`] bytes; `None` if there were too many.
    #[must_use]
    pub fn data(&mut self, data: Bytes) -> Option<ControlBlock> {
        if self.next >= u32::MAX - 1 || data.len() > MAX_PIECE {
            return None;
        }
        self.bytes = self.bytes.saturating_add(u64::try_from(data.len()).unwrap_or(u64::MAX));
        self.sum = crc32c::crc32c_append(self.sum, &data);
        Some(self.block(DATA, data))
    }

    /// The block that ends it.
    #[must_use]
    pub fn end(mut self, given_up: bool) -> ControlBlock {
        let mut body = BytesMut::with_capacity(13);
        body.put_u8(u8::from(given_up));
        body.put_u64_le(self.bytes);
        body.put_u32_le(self.sum);
        self.block(END, body.freeze())
    }
}

/// What a receiver makes of a block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    /// It is the next one.
    Next,
    /// It was seen before.
    Again,
    /// It does not fit, in words: the pipe is over.
    Wrong(String),
}

/// The receiver's side: holds pieces against their order, count and sum.
#[derive(Clone, Debug, Default)]
pub struct Reader {
    next: u32,
    bytes: u64,
    sum: u32,
}

impl Reader {
    /// Bytes seen so far.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// A block came.
    pub fn see(&mut self, number: u32, piece: &Piece) -> Seen {
        if number < self.next {
            return Seen::Again;
        }
        if number > self.next {
            return Seen::Wrong(format!(
                "block {} of the pipe is missing: this member was away for too long, or was started \
                 again in the middle; send it again in a new pipe",
                self.next
            ));
        }
        match piece {
            Piece::Open { .. } if number != 0 => {
                return Seen::Wrong("a pipe is opened twice".to_owned());
            }
            Piece::Data(_) | Piece::End { .. } if number == 0 => {
                return Seen::Wrong("a pipe does not begin with its name".to_owned());
            }
            Piece::End { given_up: true, .. } => {
                return Seen::Wrong("the sender gave the pipe up".to_owned());
            }
            Piece::End { bytes, sum, .. } if (*bytes, *sum) != (self.bytes, self.sum) => {
                return Seen::Wrong(format!(
                    "{} bytes came that are not the {bytes} that were sent",
                    self.bytes
                ));
            }
            Piece::Data(d) => {
                self.bytes = self.bytes.saturating_add(u64::try_from(d.len()).unwrap_or(u64::MAX));
                self.sum = crc32c::crc32c_append(self.sum, d);
            }
            Piece::Open { .. } | Piece::End { .. } => {}
        }
        self.next = self.next.saturating_add(1);
        Seen::Next
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn blocks(pieces: &[Vec<u8>]) -> Vec<ControlBlock> {
        let (mut w, open) = Writer::open(PipeId([7; 12]), "data");
        let mut all = vec![open];
        all.extend(pieces.iter().filter_map(|p| w.data(Bytes::from(p.clone()))));
        all.push(w.end(false));
        all
    }

    fn see(r: &mut Reader, b: &ControlBlock) -> Seen {
        let (pipe, number) = PipeId::of(&b.id);
        assert_eq!(pipe, PipeId([7; 12]));
        r.see(number, &Piece::read(b).expect("sound"))
    }

    #[test]
    fn ids_stand_in_the_order_of_the_data() {
        let all = blocks(&vec![vec![1]; 300]);
        assert!(all.windows(2).all(|w| w[0].id < w[1].id));
    }

    #[test]
    fn what_is_missing_wrong_or_given_up_is_said() {
        let all = blocks(&[vec![1, 2], vec![3]]);
        let mut r = Reader::default();
        assert_eq!(see(&mut r, &all[0]), Seen::Next);
        assert!(matches!(see(&mut r, &all[2]), Seen::Wrong(t) if t.contains("block 1 ")));
        assert!(matches!(see(&mut Reader::default(), &all[1]), Seen::Wrong(_)));
        let (mut w, open) = Writer::open(PipeId([7; 12]), "data");
        let mut r = Reader::default();
        see(&mut r, &open);
        let _ = w.data(Bytes::from_static(b"lost"));
        let mut lie = w.clone().end(false);
        lie.id = PipeId([7; 12]).block(1);
        assert!(matches!(see(&mut r.clone(), &lie), Seen::Wrong(t) if t.contains("0 bytes came")));
        let mut end = w.end(true);
        end.id = PipeId([7; 12]).block(1);
        assert!(matches!(see(&mut r, &end), Seen::Wrong(t) if t.contains("gave the pipe up")));
    }

    proptest! {
        /// Told as often as may be, the bytes come once, in order.
        #[test]
        fn every_byte_once(
            pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..50), 0..20),
            back in prop::collection::vec(0usize..6, 0..40),
        ) {
            let all = blocks(&pieces);
            let (mut r, mut got, mut at) = (Reader::default(), Vec::new(), 0);
            let mut back = back.into_iter();
            while at < all.len() {
                match see(&mut r, &all[at]) {
                    Seen::Next => if let Ok(Piece::Data(d)) = Piece::read(&all[at]) {
                        got.extend_from_slice(&d);
                    },
                    Seen::Again => {}
                    Seen::Wrong(t) => prop_assert!(false, "{t}"),
                }
                at = (at + 1).saturating_sub(back.next().unwrap_or(0));
            }
            prop_assert_eq!(got, pieces.concat());
        }

        #[test]
        fn any_body_is_read_or_refused(
            kind in prop::sample::select(vec![OPEN, DATA, END, "pipe.x"]),
            body in prop::collection::vec(any::<u8>(), 0..80),
            number in any::<u32>(),
        ) {
            let block = ControlBlock {
                id: PipeId([0; 12]).block(number),
                kind: kind.to_owned(),
                after: None,
                body: Bytes::from(body),
                hops: 0,
            };
            if let Ok(p) = Piece::read(&block) {
                let _ = Reader::default().see(number, &p);
            }
        }
    }
}
