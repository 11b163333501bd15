//! Why bytes are not a chunk or a set header.

/// What is wrong with a chunk, a set header or a draft. None of it is ever a panic.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DeltaError {
    /// There are fewer or more bytes than the header says.
    #[error("{have} bytes where {want} are announced")]
    Length {
        /// Bytes given.
        have: usize,
        /// Bytes announced by the header, or needed for one.
        want: usize,
    },
    /// It does not begin as a chunk or set header does.
    #[error("the first bytes are not those of a chunk or set header")]
    Magic,
    /// A version of the format that this build does not know.
    #[error("format version {0} is not known")]
    Version(u16),
    /// The other kind, or an unknown one.
    #[error("unexpected kind {0}")]
    Kind(u8),
    /// The header is damaged.
    #[error("the header's checksum does not hold")]
    HeaderChecksum,
    /// The extent table or the payload is damaged.
    #[error("the body's checksum does not hold")]
    BodyChecksum,
    /// Unknown or contradictory flags.
    #[error("flags {0:#x} are not allowed")]
    Flags(u32),
    /// A field has a value that it may not have.
    #[error("the field `{0}` has a value that is not allowed")]
    Field(&'static str),
    /// Bytes that must be zero are not.
    #[error("reserved bytes are not zero")]
    Reserved,
    /// The extent table breaks a rule.
    #[error("extent {index}: {rule}")]
    Extent {
        /// Position in the table.
        index: usize,
        /// The rule that it breaks.
        rule: &'static str,
    },
    /// The payload cannot be decompressed to the announced length.
    #[error("the payload cannot be decompressed to {0} bytes")]
    Payload(u32),
    /// The same chunk number came with two checksums.
    #[error("chunk {0} came with two different contents")]
    Conflict(u32),
    /// Too many chunks are held out of order.
    #[error("too many chunks out of order")]
    OutOfOrder,
}
