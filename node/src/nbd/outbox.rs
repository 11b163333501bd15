//! The sending half of a connection, shared by its thread and the workers.
//!
//! Whoever sets `busy` owns the socket's sending side. The connection's thread may wait for the
//! peer; a worker never does: what does not fit at once is left to the connection's *mailman*, a
//! thread that is started when first needed. So a peer that does not read stalls nobody else.

use super::budget::Chunk;
use super::limits::{MAX_IN_FLIGHT, STACK};
use super::socket::Socket;
use parking_lot::{Condvar, Mutex, MutexGuard};
use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;

/// A finished reply on its way.
#[derive(Debug)]
pub(crate) struct Parcel {
    data: Chunk,
    start: usize,
    end: usize,
}

impl Parcel {
    pub(crate) fn new(data: Chunk, start: usize, end: usize) -> Self {
        Self { data, start, end }
    }

    pub(crate) fn small(bytes: Vec<u8>) -> Self {
        let end = bytes.len();
        Self::new(Chunk::small(bytes), 0, end)
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        self.data.bytes().get(self.start..self.end).unwrap_or_default()
    }
}

#[derive(Debug, Default)]
struct State {
    /// Replies nobody sends yet; at most [`MAX_IN_FLIGHT`].
    waiting: VecDeque<Parcel>,
    /// Requests handed to the pool whose reply is not sent.
    in_flight: usize,
    busy: bool,
    /// The peer is gone: everything is dropped.
    dead: bool,
    /// The connection ends: the mailman goes home.
    closing: bool,
    mailman: Option<JoinHandle<()>>,
}

/// The sending side, held.
#[derive(Debug)]
pub(crate) struct Hold<'a> {
    outbox: &'a Outbox,
    result: io::Result<()>,
}

impl Hold<'_> {
    /// Sends; waits as long as the peer takes.
    pub(crate) fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        if let Err(e) = self.outbox.socket.send_all(bytes) {
            self.result = Err(e.kind().into());
            return Err(e);
        }
        Ok(())
    }
}

impl Drop for Hold<'_> {
    fn drop(&mut self) {
        let mut state = self.outbox.state.lock();
        let mut result = std::mem::replace(&mut self.result, Ok(()));
        if result.is_ok() && !state.dead {
            // posted meanwhile
            result = self.outbox.send_waiting(&mut state);
        }
        self.outbox.settle(&mut state, &result);
    }
}

#[derive(Debug)]
pub(crate) struct Outbox {
    socket: Arc<Socket>,
    state: Mutex<State>,
    changed: Condvar,
}

impl Outbox {
    pub(crate) fn new(socket: Arc<Socket>) -> Arc<Self> {
        Arc::new(Self { socket, state: Mutex::default(), changed: Condvar::new() })
    }

    /// Sends `bytes`, after what already waits. For the connection's thread.
    pub(crate) fn send(&self, bytes: &[u8]) -> io::Result<()> {
        self.hold()?.send(bytes)
    }

    /// Takes the sending side and sends what waits: until the hold is dropped nothing else comes
    /// between its bytes. For the connection's thread.
    pub(crate) fn hold(&self) -> io::Result<Hold<'_>> {
        let mut state = self.state.lock();
        while state.busy && !state.dead {
            self.changed.wait(&mut state);
        }
        if state.dead {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        state.busy = true;
        let result = self.send_waiting(&mut state);
        if result.is_err() {
            self.settle(&mut state, &result);
        }
        result.map(|()| Hold { outbox: self, result: Ok(()) })
    }

    fn send_waiting(&self, state: &mut MutexGuard<'_, State>) -> io::Result<()> {
        while let Some(parcel) = state.waiting.pop_front() {
            let result = MutexGuard::unlocked(state, || self.socket.send_all(parcel.bytes()));
            state.in_flight -= 1;
            result?;
        }
        Ok(())
    }

    /// Gives up the sending side; wakes those who wait for it or for room.
    fn settle(&self, state: &mut State, result: &io::Result<()>) {
        state.busy = false;
        if result.is_err() || state.dead {
            state.dead = true;
            state.in_flight -= state.waiting.len();
            state.waiting.clear();
            self.socket.close();
        }
        self.changed.notify_all();
    }

    /// Takes a place for a request in the pool. `false`: too many; do it yourself.
    pub(crate) fn enter(&self) -> bool {
        let mut state = self.state.lock();
        if state.in_flight >= MAX_IN_FLIGHT {
            return false;
        }
        state.in_flight += 1;
        true
    }

    /// Gives a place back without a reply.
    pub(crate) fn leave(&self) {
        self.state.lock().in_flight -= 1;
        self.changed.notify_all();
    }

    /// Posts the reply of a request that entered. For workers: never waits for the peer.
    pub(crate) fn post(self: &Arc<Self>, parcel: Parcel) {
        let mut state = self.state.lock();
        if state.dead {
            state.in_flight -= 1;
            drop(state);
            self.changed.notify_all();
            return;
        }
        state.waiting.push_back(parcel);
        if state.busy {
            // the owner of the sending side looks here before it gives it up
            return;
        }
        state.busy = true;
        let mut result = Ok(());
        while let Some(mut parcel) = state.waiting.pop_front() {
            let sent = MutexGuard::unlocked(&mut state, || self.socket.try_send(parcel.bytes()));
            match sent {
                Ok(n) if n == parcel.bytes().len() => state.in_flight -= 1,
                Ok(n) => {
                    parcel.start += n;
                    state.waiting.push_front(parcel);
                    break;
                }
                Err(e) => {
                    state.in_flight -= 1;
                    result = Err(e);
                    break;
                }
            }
        }
        self.settle(&mut state, &result);
        if !state.waiting.is_empty() {
            self.call_mailman(&mut state);
        }
    }

    fn call_mailman(self: &Arc<Self>, state: &mut State) {
        if state.mailman.is_none() {
            let outbox = Arc::clone(self);
            let started = std::thread::Builder::new()
                .name("nbd-mailman".into())
                .stack_size(STACK)
                .spawn(move || outbox.deliver());
            match started {
                Ok(handle) => state.mailman = Some(handle),
                // no thread to be had: the connection ends, and with it what waits
                Err(e) => self.settle(state, &Err(e)),
            }
        }
        self.changed.notify_all();
    }

    /// The mailman's day.
    fn deliver(&self) {
        let mut state = self.state.lock();
        loop {
            while !state.closing && (state.busy || state.waiting.is_empty()) {
                self.changed.wait(&mut state);
            }
            if state.closing {
                return;
            }
            let Some(parcel) = state.waiting.pop_front() else { continue };
            state.busy = true;
            let result = MutexGuard::unlocked(&mut state, || self.socket.send_all(parcel.bytes()));
            state.in_flight -= 1;
            self.settle(&mut state, &result);
        }
    }

    /// Waits until every request in the pool is finished and its reply sent or dropped.
    pub(crate) fn drain(&self) {
        let mut state = self.state.lock();
        while state.in_flight > 0 {
            if !state.busy && !state.waiting.is_empty() {
                drop(state);
                let _ = self.send(&[]);
                state = self.state.lock();
                continue;
            }
            self.changed.wait(&mut state);
        }
    }

    /// Drops what waits, and everything to come.
    pub(crate) fn kill(&self) {
        let mut state = self.state.lock();
        let gone = Err(io::ErrorKind::BrokenPipe.into());
        if state.busy {
            state.dead = true;
            self.socket.close();
            self.changed.notify_all();
        } else {
            self.settle(&mut state, &gone);
        }
    }

    /// Sends the mailman home. The connection's thread calls this last.
    pub(crate) fn close(&self) {
        let mailman = {
            let mut state = self.state.lock();
            state.closing = true;
            self.changed.notify_all();
            state.mailman.take()
        };
        if let Some(handle) = mailman {
            let _ = handle.join();
        }
    }
}
