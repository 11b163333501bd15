//! Numbered reasons, as `PROTOCOL.md` lists them.

macro_rules! codes {
    ($(#[$doc:meta])* $ty:ident { $($(#[$vdoc:meta])* $name:ident = $n:literal $text:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $ty {
            $($(#[$vdoc])* $name,)*
            /// A code of a later version.
            Other(u16),
        }

        impl $ty {
            /// All codes of this version.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// The number on the wire.
            #[must_use]
            pub fn number(self) -> u16 {
                match self {
                    $(Self::$name => $n,)*
                    Self::Other(n) => n,
                }
            }

            /// The code of a number.
            #[must_use]
            pub fn from_number(n: u16) -> Self {
                match n {
                    $($n => Self::$name,)*
                    n => Self::Other(n),
                }
            }

            /// A name for logs and metrics labels.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                    Self::Other(_) => "other",
                }
            }
        }

        impl std::fmt::Display for $ty {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                match self {
                    Self::Other(n) => write!(f, "code {n}"),
                    known => f.pad(known.as_str()),
                }
            }
        }
    };
}

codes! {
    /// Why a session is refused.
    RefuseCode {
        /// The ranges of versions have nothing in common.
        Version = 1 "version",
        /// The group is not known here, or not the one of the opening line.
        Group = 2 "group",
        /// This node is in the path already: the tree would become a ring.
        Loop = 3 "loop",
        /// This peer may not feed, or not be fed by, this node.
        Peer = 4 "peer",
        /// Another feeder is alive.
        Fed = 5 "fed",
        /// Both want to be sender, or both receiver.
        Role = 6 "role",
        /// Too many sessions.
        Busy = 7 "busy",
        /// Not yet, or no longer: try again.
        NotReady = 8 "not-ready",
        /// The peer has this node's own name.
        Name = 9 "name",
        /// A frame that may not come first.
        Protocol = 10 "protocol",
        /// The peer has not proven to be the node that it says it is.
        Untrusted = 11 "untrusted",
        /// No such session, or not what it takes to join it.
        Join = 12 "join",
    }
}

codes! {
    /// Why a session ends.
    GoodbyeCode {
        /// The node is shutting down.
        Shutdown = 1 "shutdown",
        /// The peer broke the protocol.
        Protocol = 2 "protocol",
        /// Nothing came from the peer for too long.
        Idle = 3 "idle",
        /// A newer session takes its place.
        Replaced = 4 "replaced",
        /// The topology has changed.
        Reconfigured = 5 "reconfigured",
        /// An error of the node itself.
        Internal = 6 "internal",
        /// The peer's certificate is no longer good: revoked, or its time is over.
        Untrusted = 7 "untrusted",
    }
}

/// Codes of `StreamError` frames. Codes from 1,000 on are free for applications.
pub mod stream_error {
    /// No such stream, or not in a state to do this.
    pub const UNKNOWN_STREAM: u16 = 1;
    /// More was sent than was granted, or frames are missing.
    pub const PROTOCOL: u16 = 2;
    /// The receiver's state is not in the sender's history.
    pub const DIVERGED: u16 = 3;
    /// The receiver has another feeder for this volume.
    pub const FED: u16 = 4;
    /// No room; the receiver fell too far behind and was detached.
    pub const DETACHED: u16 = 5;
    /// Stored data are damaged.
    pub const DAMAGED: u16 = 6;
    /// Reading or writing failed.
    pub const STORAGE: u16 = 7;
    /// The stream was stopped by an operator.
    pub const STOPPED: u16 = 8;
    /// The receiver was the writer of this volume and another took its place: an operator decides.
    pub const FENCED: u16 = 9;
    /// The blocks that changed are not known: extents of a catch-up cannot be had, those of a seed
    /// can.
    pub const NO_CATCH_UP: u16 = 10;
    /// What the receiver lacks is less by another way than by this stream: it attaches again at once.
    pub const AGAIN: u16 = 11;
}
