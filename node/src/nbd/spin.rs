//! Waiting for the next request: looking a few times before going to sleep.
//!
//! Being woken costs more than a small request. A client that waits for each reply sends its next
//! request within microseconds, so a short look saves two wake-ups per request; every look gives
//! the processor to whoever wants it. A connection whose clients take longer stops looking.

use super::limits::SPIN_AGAIN;
use super::socket::Socket;
use std::io::{self, ErrorKind};

/// How a connection waits.
#[derive(Debug)]
pub(crate) struct Spin {
    most: u32,
    /// Looks before the next sleep: halved when they were in vain.
    looks: u32,
    sleeps: u32,
}

impl Spin {
    pub(crate) fn new(most: u32) -> Self {
        Self { most, looks: most, sleeps: 0 }
    }

    /// Receives, sooner or later.
    pub(crate) fn recv(&mut self, socket: &Socket, room: &mut [u8]) -> io::Result<usize> {
        for _ in 0..self.looks {
            match socket.try_recv(room) {
                Err(e) if e.kind() == ErrorKind::WouldBlock => std::thread::yield_now(),
                other => {
                    self.looks = self.most;
                    return other;
                }
            }
        }
        self.looks /= 2;
        self.sleeps += 1;
        if self.sleeps >= SPIN_AGAIN {
            (self.looks, self.sleeps) = (self.most, 0);
        }
        socket.recv(room)
    }
}
