//! A frame whose content is proved: made once, in the task of the connection.

use super::super::delta::{Chunk, ChunkFlags, DeltaError, SetHeader};
use super::{Frame, FrameError};

/// What a data frame carries, proved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verified {
    /// A control frame: nothing but its fields.
    None,
    /// The chunk of a `Chunk` or `SeedData` frame.
    Chunk(Chunk),
    /// The set header of a `SetEnd` frame.
    Set(SetHeader),
}

/// A frame together with what it carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DecodedFrame {
    /// The frame.
    pub frame: Frame,
    /// The chunk or set header in it; [`Verified::None`] if nobody asked for it to be proved.
    pub content: Verified,
}

impl DecodedFrame {
    /// Takes a frame without looking at its content.
    #[must_use]
    pub fn unverified(frame: Frame) -> Self {
        Self { frame, content: Verified::None }
    }

    /// Proves the chunk or set header that a data frame carries.
    ///
    /// # Errors
    /// [`FrameError::Content`] if it is damaged, breaks a rule, or is part of a seed in a `Chunk`
    /// frame or no part of one in a `SeedData` frame.
    pub fn verify(frame: Frame) -> Result<Self, FrameError> {
        let content = match &frame {
            Frame::Chunk { body, .. } => {
                Chunk::parse(body.clone()).and_then(|c| seed_is(false, c)).map(Verified::Chunk)
            }
            Frame::SeedData { body, .. } => {
                Chunk::parse(body.clone()).and_then(|c| seed_is(true, c)).map(Verified::Chunk)
            }
            Frame::SetEnd { body, .. } => SetHeader::parse(body).map(Verified::Set),
            _ => Ok(Verified::None),
        };
        match content {
            Ok(content) => Ok(Self { frame, content }),
            Err(source) => Err(FrameError::Content { frame: frame.frame_type(), source }),
        }
    }
}

fn seed_is(want: bool, chunk: Chunk) -> Result<Chunk, DeltaError> {
    if chunk.flags().contains(ChunkFlags::SEED) == want {
        Ok(chunk)
    } else {
        Err(DeltaError::Flags(chunk.flags().bits()))
    }
}
