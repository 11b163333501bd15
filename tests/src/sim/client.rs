//! Writers at the primary, taking the way that `PrimaryVolume` takes, one event at a time.

use std::collections::BTreeMap;

use bytes::Bytes;
use node::volumes::primary::Area;
use volmcast::capture::{Capture, CaptureError, WriteTicket};
use volmcast::io::{FileId, Io, IoError, Op, Outcome, Tag};
use volmcast::storage::Storage;

use super::disk::{SECTOR, Submitted};
use super::world::{Event, World};

/// One request under way.
pub struct Request {
    /// The writer that it was let in by.
    pub node: usize,
    offset: u64,
    len: u64,
    /// `None`: make it zero.
    data: Option<Bytes>,
    fua: bool,
    flush: bool,
    /// The write is in flight for the capture tables.
    ticket: Option<WriteTicket<'static>>,
}

impl std::fmt::Debug for Request {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Request").field("offset", &self.offset).field("len", &self.len).finish()
    }
}

/// All clients.
#[derive(Debug, Default)]
pub struct Client {
    /// Requests under way.
    pub requests: BTreeMap<u64, Request>,
    stamp: u64,
    /// A burst of requests without pauses.
    pub burst: u64,
    /// Writes that were answered, and writes to the base that a flush made durable.
    pub flushed_through: BTreeMap<usize, u64>,
}

/// Most requests at once.
const DEPTH: usize = 8;

impl World {
    /// A client does something new.
    pub fn client_event(&mut self) {
        if self.calm.is_some() {
            return;
        }
        let pause = if self.client.burst > 0 {
            self.client.burst -= 1;
            300
        } else {
            self.opt.client_pause
        };
        self.after(pause / 10, pause * 2, Event::Client);
        if self.clients_pause() {
            return;
        }
        let Some(node) = self.some_writer() else { return };
        if self.client.requests.len() >= DEPTH {
            return;
        }
        let size = self.blocks * self.opt.block_size.bytes();
        let sectors = size / SECTOR as u64;
        // Some places are written more often than others.
        let hot = self.rng.percent(50);
        let first = self.rng.below(if hot { sectors / 8 } else { sectors });
        let most = if self.rng.percent(10) { sectors / 4 } else { 24 };
        let count = self.rng.range(1, most).min(sectors - first);
        let (mut offset, mut len) = (first * SECTOR as u64, count * SECTOR as u64);
        let bs = self.opt.block_size.bytes();
        if self.rng.percent(40) {
            offset = offset / bs * bs;
            len = len.next_multiple_of(bs).min(size - offset);
        }
        let kind = self.rng.below(100);
        let (data, flush) = match kind {
            0..10 => (None, true),
            10..25 => (None, false),
            _ => (Some(self.stamped(len)), false),
        };
        let fua = self.rng.percent(10);
        self.next_id += 1;
        let id = self.next_id;
        self.client
            .requests
            .insert(id, Request { node, offset, len, data, fua, flush, ticket: None });
        let life = self.nodes[node].life;
        self.after(1, 200, Event::Request { node, id, life });
    }

    /// One small write, if there is no other.
    pub(super) fn write_a_little(&mut self) {
        if !self.client.requests.is_empty() {
            return;
        }
        let Some(node) = self.some_writer() else { return };
        let data = Some(self.stamped(SECTOR as u64));
        let (offset, len, fua, flush) = (0, SECTOR as u64, false, false);
        self.next_id += 1;
        let (id, life) = (self.next_id, self.nodes[node].life);
        let request = Request { node, offset, len, data, fua, flush, ticket: None };
        self.client.requests.insert(id, request);
        self.after(1, 200, Event::Request { node, id, life });
    }

    /// Content that names its write in every sector.
    fn stamped(&mut self, len: u64) -> Bytes {
        self.client.stamp += 1;
        let zero = self.rng.percent(3);
        let noise = self.rng.percent(50);
        let mut b = vec![0u8; usize::try_from(len).unwrap_or(0)];
        if zero {
            return b.into();
        }
        for (i, s) in b.chunks_mut(SECTOR).enumerate() {
            if noise {
                for w in s.chunks_mut(8) {
                    w.copy_from_slice(&self.rng.draw().to_le_bytes()[..w.len()]);
                }
            }
            s[..8].copy_from_slice(&self.client.stamp.to_le_bytes());
            s[8..16].copy_from_slice(&(i as u64).to_le_bytes());
        }
        b.into()
    }

    /// A request goes on.
    pub fn client_request(&mut self, id: u64) {
        let Some(mut r) = self.client.requests.remove(&id) else { return };
        let node = r.node;
        let life = self.nodes[node].life;
        let Some(disk) = self.nodes[node].disk.clone() else { return };
        if self.nodes[node].capture.is_some_and(Capture::is_stopped) {
            // As `PrimaryVolume` has it: an error, and the request is gone.
            self.counters.hit("request refused by a volume that stopped");
            self.counters.2.operations += 1;
            return;
        }
        if r.flush {
            let io = Io { tag: Tag(0), file: FileId::Base, op: Op::Sync };
            let sub = disk.0.borrow_mut().submit(io);
            self.client.requests.insert(id, r);
            let delay = self.disk_delay(node);
            self.at(self.now + delay, Event::Written { node, id, life, sub });
            return;
        }
        if self.admit(&mut r) {
            let op = match &r.data {
                Some(d) => Op::Write { offset: r.offset, data: vec![d.clone()] },
                None => Op::Zero { offset: r.offset, len: r.len },
            };
            let sub = disk.0.borrow_mut().submit(Io { tag: Tag(0), file: FileId::Base, op });
            let delay = self.disk_delay(node);
            self.at(self.now + delay, Event::Written { node, id, life, sub });
        } else {
            self.after(100, 3_000, Event::Request { node, id, life });
        }
        self.client.requests.insert(id, r);
    }

    /// Brings a write to where it may reach the base; false: try again.
    fn admit(&mut self, r: &mut Request) -> bool {
        let n = &self.nodes[r.node];
        let (Some(capture), Some(activity), Some(disk), Some(v)) =
            (n.capture, n.activity.clone(), n.disk.clone(), n.volume())
        else {
            return false;
        };
        let snapshots = v.config().snapshots.clone();
        let bs = self.opt.block_size;
        let (first, count) = bs.span(r.offset, r.len);
        for _ in 0..100 {
            if r.ticket.is_none() {
                if capture.must_wait() {
                    self.counters.hit("write waited for room");
                    return false;
                }
                if activity.ensure(first, count, &mut |io| disk.perform(io)).is_err() {
                    self.fail("the activity log failed".to_owned());
                    return false;
                }
                let mut area = Area { files: &disk, bs, capture: Some(capture) };
                if snapshots.preserve(first, count, &mut area).is_err() {
                    self.fail("a before image could not be kept".to_owned());
                    return false;
                }
                let Some(ticket) = capture.try_enter() else {
                    self.counters.hit("write met a closed gate");
                    return false;
                };
                r.ticket = Some(ticket);
            }
            let Some(ticket) = &r.ticket else { return false };
            let bad = self.opt.bad_disks && self.calm.is_none() && self.rng.permille(2);
            let mut read_old = |b, buf: &mut [u8]| {
                if bad {
                    return Err(IoError::Os(5));
                }
                disk.read_into(FileId::Base, bs.offset(b), buf)
            };
            match capture.try_before_write(ticket, first, count, &mut read_old) {
                Ok(()) => {}
                Err(CaptureError::HeldFull) => {
                    self.counters.hit("write waited for the drain");
                    return false;
                }
                Err(CaptureError::Read { .. }) if bad => {
                    // The client gets an error, and tries again.
                    self.counters.hit("old content could not be read");
                    r.ticket = None;
                    return false;
                }
                Err(e) => {
                    self.fail(format!("{e}"));
                    return false;
                }
            }
            if activity.map().covers(first, count) && snapshots.needs_copy(first, count).is_empty()
            {
                return true;
            }
            self.counters.hit("write had to look again");
            r.ticket = None;
        }
        self.fail("a write never gets in".to_owned());
        false
    }

    /// A write or sync is done.
    pub fn client_written(&mut self, id: u64, sub: &Submitted) {
        let Some((node, flush)) = self.client.requests.get(&id).map(|r| (r.node, r.flush)) else {
            return;
        };
        let full = self.opt.aim.is_some() && self.now < self.nodes[node].full_until;
        // The client alone hears of these.
        let failed = if flush && self.nodes[node].io_errors > 0 {
            self.counters.hit("flush failed");
            self.meets(node, "failed request");
            self.nodes[node].io_errors -= 1;
            self.nodes[node].failing = true;
            Some(IoError::Os(5))
        } else if !flush && full {
            self.counters.hit("write refused by a full file system");
            self.meets(node, "no space left");
            Some(IoError::NoSpace)
        } else {
            None
        };
        let Some(mut r) = self.client.requests.remove(&id) else { return };
        let Some(disk) = self.nodes[node].disk.clone() else { return };
        let outcome = match failed {
            Some(why) => disk.0.borrow_mut().fail(sub, &mut self.rng, why),
            None => disk.0.borrow_mut().complete(sub),
        };
        r.ticket = None;
        if outcome == Outcome::Done && r.fua && !r.flush {
            // Not answered yet.
            self.counters.2.ios += 1;
        } else {
            self.counters.2.operations += 1;
        }
        if outcome != Outcome::Done {
            return;
        }
        if r.flush {
            self.counters.hit("flush");
            let d = disk.0.borrow();
            let through = self.client.flushed_through.entry(node).or_default();
            *through = (*through).max(d.durable_through(FileId::Base));
        } else {
            self.counters.hit("write");
            if r.fua {
                r.flush = true;
                r.data = None;
                self.client.requests.insert(id, r);
                let life = self.nodes[node].life;
                self.after(1, 10, Event::Request { node, id, life });
            }
        }
    }
}
