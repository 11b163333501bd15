//! Time and chance of an endpoint: the only place of the library that asks for them.

use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use tokio::time::Instant;

use crate::proto::clock::{Mono, Wall};
use crate::proto::control::BlockId;

/// A clock that begins when it is made. It follows the runtime's, so that tests may stop it.
#[derive(Debug)]
pub(super) struct Clock {
    origin: Instant,
    last: Mutex<u64>,
}

impl Clock {
    #[allow(clippy::disallowed_methods)] // the place
    pub(super) fn new() -> Self {
        Self { origin: Instant::now(), last: Mutex::new(0) }
    }

    pub(super) fn mono(&self) -> Mono {
        Mono(u64::try_from(self.origin.elapsed().as_micros()).unwrap_or(u64::MAX))
    }

    /// The moment as the runtime counts it.
    pub(super) fn instant(&self, at: Mono) -> Instant {
        self.origin + at.since(Mono(0))
    }

    #[allow(clippy::disallowed_methods)] // the place
    pub(super) fn wall(&self) -> Wall {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Wall(u64::try_from(since.as_micros()).unwrap_or(u64::MAX))
    }

    /// An id of a block: those of one endpoint rise, as UUIDs of version 7 do (RFC 9562), so that
    /// blocks that are passed on again later are in the order in which they were sent.
    pub(super) fn block_id(&self) -> BlockId {
        // Milliseconds in 48 bits and a count in 12.
        let now = (self.wall().0 / 1000) << 12;
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        *last = now.max(last.saturating_add(1));
        let stamp = *last;
        drop(last);
        let mut id = random();
        id[..6].copy_from_slice(&(stamp >> 12).to_be_bytes()[2..]);
        let count = stamp & 0xfff;
        id[6] = 0x70 | u8::try_from(count >> 8).unwrap_or(0);
        id[7] = u8::try_from(count & 0xff).unwrap_or(0);
        id[8] = 0x80 | (id[8] & 0x3f);
        id
    }
}

/// Random bytes.
pub(super) fn random() -> [u8; 16] {
    let mut out = [0; 16];
    // aws-lc does not fail to give random bytes; if it did, ids would collide and be refused.
    let _ = rustls::crypto::aws_lc_rs::default_provider().secure_random.fill(&mut out);
    out
}
