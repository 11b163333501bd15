//! Streams to children: one per volume and session, each at the child's own pace.

use bytes::Bytes;
use rcp::proto::credit::SendWindow;
use rcp::proto::delta::Chunk;
use rcp::proto::frame::{Attach, Frame, Offer, Start, StartMode, StreamId, stream_error};
use rcp::proto::ids::{ChunkNumber, Generation, Label, NodeName, SetNumber, VolumeId};
use volmcast::history::holds;
use volmcast::save::RecordKind;
use volmcast::volume::{Attached, Role, Seeding, Volume};

use super::delay::{Brake, Delay, Meter};
use super::relaying::Wanted;
use super::{ConnId, Held, Level, Mover};

/// Where a stream to a child stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Offered; the child has not said where it is.
    Offered,
    /// Chunks flow as credit allows.
    Streaming,
    /// The child is ahead of us.
    Waiting,
    /// It is being found out what the child lacks.
    Planning,
    /// Extents of the whole content flow beside the live stream.
    Seeding,
    /// Extents of the blocks that changed flow beside the live stream.
    CatchingUp,
    /// The child cannot be served now; it asks again.
    Stopped,
}

/// One volume to one child.
#[derive(Debug)]
pub(super) struct Outbound {
    pub(super) volume: VolumeId,
    pub(super) stage: Stage,
    window: SendWindow,
    /// Of the next chunk or set header, and of the next extent.
    seq: u64,
    seed_seq: u64,
    /// Why it is where it is, in words.
    pub(super) reason: Option<String>,
    pub(super) saved: SetNumber,
    /// An operator wants the child to be seeded.
    force_seed: bool,
    /// The child held something of the history it was offered.
    holds: bool,
    /// Bytes of extents that the child granted since it attached, that may be read, and that went.
    pub(super) seed_total: u64,
    pub(super) seed_granted: u64,
    pub(super) seed_sent: u64,
    /// Blocks that the child wants again with its next attachment.
    doubts: Vec<(u64, u64)>,
    /// Bytes of the live stream that went, how fast, and what holds them back.
    pub(super) sent: u64,
    pub(super) going: Meter,
    pub(super) delay: Delay<Brake>,
}

impl Outbound {
    /// Bytes of the live stream that the child would take.
    pub(super) fn room(&self) -> u64 {
        self.window.available()
    }

    /// Bytes of the live stream that went since the child attached.
    pub(super) fn went(&self) -> u64 {
        self.window.sent()
    }

    pub(super) fn is_filled(&self) -> bool {
        matches!(self.stage, Stage::Seeding | Stage::CatchingUp)
    }

    /// The child granted more bytes of extents than were asked for.
    pub(super) fn wants_extents(&self) -> bool {
        self.is_filled() && self.seed_granted < self.seed_total
    }

    /// Bytes of extents that were asked for and did not go yet. What was granted beyond the end of
    /// a seed is none.
    pub(super) fn seed_ahead(&self) -> u64 {
        if self.is_filled() { self.seed_granted.saturating_sub(self.seed_sent) } else { 0 }
    }
}

/// What a child wants beyond what it lacks: blocks that it named, or all of the content, which is
/// what it gets for them from a node that cannot ask for them (`deaf`). True if it is seeded.
fn take_doubts(h: &mut Held, out: &mut Outbound, child: &NodeName, deaf: bool) -> bool {
    let doubts = std::mem::take(&mut out.doubts);
    let forced = std::mem::take(&mut out.force_seed) || (deaf && !doubts.is_empty());
    h.relaying.doubts = if forced { Vec::new() } else { doubts };
    h.volume.consumer_doubts(child, &h.relaying.doubts);
    forced
}

/// Runs of blocks in doubt that are taken from one child.
const MOST_DOUBTS: usize = 1 << 16;

impl Mover {
    /// The child's next attachment is answered by a seed.
    pub(super) fn force_seed(&mut self, id: VolumeId, child: &NodeName) {
        let Some((conn, stream, _)) = self.stream_to(id, child) else { return };
        self.end_planning(conn, stream);
        let Some(out) = self.conns.get_mut(&conn).and_then(|c| c.streams_out.get_mut(&stream))
        else {
            return;
        };
        out.force_seed = true;
        out.stage = Stage::Stopped;
        let text = "a new seed was asked for by an operator".to_owned();
        out.reason = Some(text.clone());
        self.send(conn, Frame::StreamError { stream, code: stream_error::DETACHED, text });
    }

    /// A volume is no longer offered to children.
    pub(super) fn withdraw(&mut self, id: VolumeId, text: &str) {
        for conn in self.child_conns(id) {
            let Some(c) = self.conns.get_mut(&conn) else { continue };
            let streams: Vec<_> =
                c.streams_out.iter().filter(|(_, o)| o.volume == id).map(|(s, _)| *s).collect();
            for stream in streams {
                let Some(c) = self.conns.get_mut(&conn) else { continue };
                c.streams_out.remove(&stream);
                // Its place stays, and nobody takes anything there: the session may go on.
                if let (Some(child), Some(h)) = (c.peer.clone(), self.volumes.get_mut(&id)) {
                    h.volume.consumer_leave(&child);
                    h.relaying.forget(&child);
                }
                self.send(conn, Frame::Withdraw { stream, text: text.to_owned() });
            }
        }
    }

    /// Offers every volume of the group to a child that just came up.
    pub(super) fn offer_all(&mut self, conn: ConnId) {
        let Some(c) = self.conns.get(&conn) else { return };
        let group = c.group.clone();
        let ids: Vec<_> =
            self.volumes.iter().filter(|(_, h)| h.group == group).map(|(id, _)| *id).collect();
        for id in ids {
            self.offer(conn, id);
        }
    }

    /// Offers a new volume to all children that are up.
    pub(super) fn offer_to_children(&mut self, id: VolumeId) {
        for conn in self.child_conns(id) {
            self.offer(conn, id);
        }
    }

    pub(super) fn child_conns(&self, id: VolumeId) -> Vec<ConnId> {
        let Some(h) = self.volumes.get(&id) else { return Vec::new() };
        self.groups
            .get(&h.group)
            .map(|g| g.links.values().filter(|l| l.up).filter_map(|l| l.conn).collect())
            .unwrap_or_default()
    }

    fn offer(&mut self, conn: ConnId, id: VolumeId) {
        let Some(h) = self.volumes.get(&id) else { return };
        let m = h.volume.durable();
        // A replica that never heard of a writer has nothing to offer yet; a writer whose place was
        // taken, no more.
        if m.history.is_empty() || h.writer.is_fenced() {
            return;
        }
        let Some(c) = self.conns.get_mut(&conn) else { return };
        if c.streams_out.values().any(|o| o.volume == id) {
            return;
        }
        let stream = (1..=u16::MAX)
            .map(StreamId)
            .find(|s| !c.streams_out.contains_key(s))
            .unwrap_or(StreamId(u16::MAX));
        c.streams_out.insert(
            stream,
            Outbound {
                volume: id,
                stage: Stage::Offered,
                window: SendWindow::new(0),
                seq: 0,
                seed_seq: 0,
                reason: None,
                saved: SetNumber::ZERO,
                force_seed: false,
                holds: false,
                seed_total: 0,
                seed_granted: 0,
                seed_sent: 0,
                doubts: Vec::new(),
                sent: 0,
                going: Meter::default(),
                delay: Delay::default(),
            },
        );
        self.send_offer(conn, stream, id);
    }

    /// Repeats the offer to all children that have it, because something of it has changed.
    pub(super) fn offer_again(&mut self, id: VolumeId) {
        for conn in self.child_conns(id) {
            let Some(c) = self.conns.get(&conn) else { continue };
            let streams: Vec<_> =
                c.streams_out.iter().filter(|(_, o)| o.volume == id).map(|(s, _)| *s).collect();
            for stream in streams {
                self.send_offer(conn, stream, id);
            }
        }
    }

    fn send_offer(&mut self, conn: ConnId, stream: StreamId, id: VolumeId) {
        let Some(h) = self.volumes.get(&id) else { return };
        let m = h.volume.durable();
        let (oldest, newest) = h.volume.log_range();
        let offer = Offer {
            stream,
            volume: id,
            label: h.source.clone(),
            block_shift: m.block_size.shift(),
            volume_blocks: m.blocks.0,
            history: m.history.clone(),
            oldest,
            newest,
        };
        self.send(conn, Frame::Offer(offer));
    }

    /// A child says where it is with a volume.
    pub(super) fn child_attached(&mut self, conn: ConnId, a: &Attach) {
        self.end_planning(conn, a.stream);
        let Some(c) = self.conns.get_mut(&conn) else { return };
        let (feeder, peer) = (c.feeder, c.peer.clone());
        let (Some(out), Some(child)) = (c.streams_out.get_mut(&a.stream), peer) else { return };
        let id = out.volume;
        self.look_for_relaying(id, &child);
        let deaf = self.parent_is_deaf(id);
        let Some(c) = self.conns.get_mut(&conn) else { return };
        let Some(out) = c.streams_out.get_mut(&a.stream) else { return };
        let Some(h) = self.volumes.get_mut(&id) else { return };
        out.window = SendWindow::new(a.credit);
        (out.seq, out.seed_seq) = (0, 0);
        (out.seed_total, out.seed_granted, out.seed_sent) = (0, 0, 0);
        out.saved = a.state;
        out.holds = a.generation.is_some();
        let label = h.label.clone();
        if let Some(g) = a.generation.filter(|g| !holds(h.volume.history(), *g, a.state)) {
            self.refuse_other_line(conn, a.stream, &child, &label, (g, a.state));
            return;
        }
        let forced = take_doubts(h, out, &child, deaf);
        h.volume.consumer_stages(&child, a.stages);
        let (answer, seeding) = take_on(&mut h.volume, &child, a, forced);
        let relayed = to_be_relayed(&answer, a, seeding);
        let (mode, from, reason) = match answer {
            Attached::Planning => {
                out.stage = Stage::Planning;
                self.settle(id);
                return;
            }
            Attached::NoCatchUp { reason } => {
                self.stop_stream(conn, a.stream, stream_error::NO_CATCH_UP, reason);
                self.settle(id);
                return;
            }
            Attached::CatchUp { from, reason, blocks, bytes } => {
                out.stage = Stage::CatchingUp;
                (StartMode::CatchUp { blocks, bytes }, from, reason)
            }
            Attached::Resume => {
                out.stage = filling(seeding).unwrap_or(Stage::Streaming);
                let reason = match out.stage {
                    Stage::CatchingUp => "the catch-up goes on where it was",
                    Stage::Seeding => "the seed goes on where it was",
                    _ => "",
                };
                (StartMode::Resume, a.state, reason.to_owned())
            }
            Attached::Wait => {
                out.stage = filling(seeding).unwrap_or(Stage::Waiting);
                let text = format!(
                    "{child} holds set {} and {} does not yet: it waits",
                    a.state, self.cfg.node
                );
                (StartMode::Wait, a.state, text)
            }
            Attached::Newer { here } => return self.refuse_newer(conn, id, a, &child, here),
            Attached::Seed { from, reason } => {
                out.stage = Stage::Seeding;
                (StartMode::Seed, from, reason)
            }
            Attached::NotNow { reason } => {
                let relay = matches!(h.volume.config().role, Role::Relay);
                out.force_seed = forced && !relay && h.volume.durable().visible < a.state;
                self.stop_stream(conn, a.stream, stream_error::STOPPED, reason);
                self.settle(id);
                return;
            }
        };
        let start = Start { stream: a.stream, mode, from, feeder, reason };
        self.start_child(conn, id, &child, start);
        self.settle(id);
        if let Some(wanted) = relayed {
            self.relay_seed(id, &child, wanted);
        }
        self.pump_conn(conn);
    }

    /// This node has no content, and its parent is too old to be asked for blocks by their number:
    /// all of the content is what a child can have.
    fn parent_is_deaf(&self, id: VolumeId) -> bool {
        let Some(h) = self.volumes.get(&id) else { return false };
        let parent = h.inbound.as_ref().and_then(|i| self.conns.get(&i.conn));
        matches!(h.volume.config().role, Role::Relay) && parent.is_some_and(|c| !c.has_digests())
    }

    /// A child names blocks that it wants again.
    pub(super) fn child_doubts(&mut self, conn: ConnId, stream: StreamId, runs: &[(u64, u64)]) {
        let out = self.conns.get_mut(&conn).and_then(|c| c.streams_out.get_mut(&stream));
        if let Some(out) = out
            && out.doubts.len() + runs.len() <= MOST_DOUBTS
        {
            out.doubts.extend_from_slice(runs);
        }
    }

    /// Something else comes before it was found out what a child lacks. Every attachment is
    /// answered, or the child would take the answer to a later one for that.
    fn end_planning(&mut self, conn: ConnId, stream: StreamId) {
        let Some(c) = self.conns.get_mut(&conn) else { return };
        let feeder = c.feeder;
        let Some(out) = c.streams_out.get_mut(&stream) else { return };
        if out.stage == Stage::Planning {
            out.stage = Stage::Waiting;
            let (mode, from) = (StartMode::Wait, out.saved);
            let reason = "it was being found out which blocks are missing".to_owned();
            self.send(conn, Frame::Start(Start { stream, mode, from, feeder, reason }));
        }
    }

    /// Tells a child how its stream starts.
    fn start_child(&mut self, conn: ConnId, id: VolumeId, child: &NodeName, start: Start) {
        let label = self.label_of(id);
        let reason = &start.reason;
        let mut holds = false;
        if let Some(out) =
            self.conns.get_mut(&conn).and_then(|c| c.streams_out.get_mut(&start.stream))
        {
            holds = out.holds;
            out.reason = (!reason.is_empty()).then(|| reason.clone());
        }
        if let Some(h) = self.volumes.get_mut(&id) {
            h.detached.remove(child);
            if start.mode == StartMode::Seed {
                h.seeded.insert(child.clone(), start.from);
            }
        }
        let bs = self.volumes.get(&id).map(|h| h.volume.config().block_size).unwrap_or_default();
        match start.mode {
            StartMode::Seed => {
                self.note(Level::Warn, format!("volume {label}: seeding {child}: {reason}"));
            }
            StartMode::CatchUp { blocks: 0, .. } => {
                let text =
                    format!("volume {label}: {child} is brought back by a catch-up: {reason}");
                self.note(Level::Info, text);
            }
            StartMode::CatchUp { blocks, bytes } => {
                let text = format!(
                    "volume {label}: {child} is brought back by {blocks} blocks of {} bytes, \
                     {bytes} bytes: {reason}",
                    bs.bytes()
                );
                self.note(Level::Info, text);
            }
            StartMode::Resume | StartMode::Wait => {}
        }
        self.send(conn, Frame::Start(start));
        self.child_confirms(id, child, holds);
    }

    /// It is known now what a child lacks that attached.
    pub(super) fn child_planned(&mut self, id: VolumeId, child: &NodeName, answer: Attached) {
        let Some((conn, stream, feeder)) = self.stream_to(id, child) else { return };
        let out = self.conns.get_mut(&conn).and_then(|c| c.streams_out.get_mut(&stream));
        let Some(out) = out.filter(|o| o.stage == Stage::Planning) else { return };
        let (mode, from, reason) = match answer {
            Attached::CatchUp { from, reason, blocks, bytes } => {
                out.stage = Stage::CatchingUp;
                (StartMode::CatchUp { blocks, bytes }, from, reason)
            }
            Attached::Seed { from, reason } => {
                out.stage = Stage::Seeding;
                (StartMode::Seed, from, reason)
            }
            Attached::Resume => {
                out.stage = Stage::Streaming;
                (StartMode::Resume, out.saved, String::new())
            }
            _ => return,
        };
        self.start_child(conn, id, child, Start { stream, mode, from, feeder, reason });
        self.pump_conn(conn);
    }

    /// The child holds more of this writer's line than the writer.
    fn refuse_newer(
        &mut self,
        conn: ConnId,
        id: VolumeId,
        a: &Attach,
        child: &NodeName,
        here: SetNumber,
    ) {
        let text = format!(
            "{child} holds set {} of this line, and its writer {} only set {here}: nothing can follow \
             before an operator says which of both is to stay",
            a.state, self.cfg.node
        );
        self.stop_stream(conn, a.stream, stream_error::DIVERGED, text);
        self.child_is_newer(id, child, here);
        self.settle(id);
    }

    /// The child holds states of a line that is not known here.
    fn refuse_other_line(
        &mut self,
        conn: ConnId,
        stream: StreamId,
        child: &NodeName,
        label: &Label,
        (line, state): (Generation, SetNumber),
    ) {
        let text = format!(
            "volume {label} at {child} is at set {state} of generation {line}, which {} does not have \
             in its history: it must be rewound before it can follow; to give its content up, \
             delete the volume there",
            self.cfg.node
        );
        self.stop_stream(conn, stream, stream_error::DIVERGED, text);
    }

    /// A child's stream stops, which it is told with the reason.
    pub(super) fn stop_stream(&mut self, conn: ConnId, stream: StreamId, code: u16, text: String) {
        self.end_planning(conn, stream);
        if let Some(out) = self.conns.get_mut(&conn).and_then(|c| c.streams_out.get_mut(&stream)) {
            out.stage = Stage::Stopped;
            out.reason = Some(text.clone());
        }
        self.send(conn, Frame::StreamError { stream, code, text });
    }

    /// A child's durable position.
    pub(super) fn child_saved(
        &mut self,
        conn: ConnId,
        stream: StreamId,
        state: SetNumber,
        next: ChunkNumber,
    ) {
        let Some(c) = self.conns.get_mut(&conn) else { return };
        let (Some(child), Some(out)) = (c.peer.clone(), c.streams_out.get_mut(&stream)) else {
            return;
        };
        out.saved = out.saved.max(state);
        if out.stage == Stage::Waiting {
            out.stage = Stage::Streaming;
            out.reason = None;
        }
        let id = out.volume;
        if let Some(h) = self.volumes.get_mut(&id) {
            h.volume.consumer_ack(&child, state, next);
        }
        self.settle(id);
    }

    /// A child grants more bytes.
    pub(super) fn child_credit(&mut self, conn: ConnId, stream: StreamId, total: u64) {
        if let Some(out) = self.conns.get_mut(&conn).and_then(|c| c.streams_out.get_mut(&stream)) {
            out.window.grant(total);
        }
        self.pump_conn(conn);
    }

    /// A child's seed progressed, and more extents are granted.
    pub(super) fn child_seed_ack(&mut self, conn: ConnId, stream: StreamId, total: u64) {
        if let Some(out) = self.conns.get_mut(&conn).and_then(|c| c.streams_out.get_mut(&stream)) {
            out.seed_total = out.seed_total.max(total);
        }
        self.grant_seeds(conn);
    }

    /// A child cannot take a stream; it asks again by itself.
    pub(super) fn child_stream_error(&mut self, conn: ConnId, stream: StreamId, text: String) {
        let Some(c) = self.conns.get_mut(&conn) else { return };
        let Some(child) = c.peer.clone() else { return };
        if let Some(out) = c.streams_out.get_mut(&stream) {
            out.stage = Stage::Stopped;
            out.reason = Some(text);
            if let Some(h) = self.volumes.get_mut(&out.volume) {
                h.relaying.forget(&child);
            }
        }
    }

    /// Sends to every child of a volume what it can take.
    pub(super) fn pump_children(&mut self, id: VolumeId) {
        for conn in self.child_conns(id) {
            self.pump_conn(conn);
        }
    }

    /// Sends at most one record; true if there may be another.
    pub(super) fn pump_stream(&mut self, conn: ConnId, stream: StreamId) -> bool {
        let Some(c) = self.conns.get_mut(&conn) else { return false };
        let feeder = c.feeder;
        let (Some(child), Some(out)) = (c.peer.clone(), c.streams_out.get_mut(&stream)) else {
            return false;
        };
        if !matches!(
            out.stage,
            Stage::Streaming | Stage::Waiting | Stage::Seeding | Stage::CatchingUp
        ) {
            return false;
        }
        let id = out.volume;
        let Some(h) = self.volumes.get_mut(&id) else { return false };
        if out.stage == Stage::Waiting && !h.volume.consumer_waits(&child) {
            out.stage = Stage::Streaming;
            out.reason = None;
        }
        let Some(r) = h.volume.consumer_next(&child, out.window.available()) else {
            // It may have asked for a read.
            while let Some(io) = h.volume.poll_io() {
                self.effects.push_back(super::Effect::Io { volume: id, io });
            }
            return false;
        };
        let len = r.body.len();
        if !out.window.take(len) {
            return false;
        }
        h.fill.sent += len as u64;
        out.sent += len as u64;
        let (seq, body) = (out.seq, r.body);
        out.seq += 1;
        let frame = match r.kind {
            RecordKind::SetEnd => Frame::SetEnd { stream, feeder, seq, body },
            _ => Frame::Chunk { stream, feeder, seq, body },
        };
        self.send_data(conn, frame, len);
        true
    }

    pub(super) fn send_data(&mut self, conn: ConnId, frame: Frame, len: usize) {
        self.spend(conn, len);
        self.send(conn, frame);
    }

    /// Data go to a child: they count on the account of the hop, whichever connection they take.
    pub(super) fn spend(&mut self, conn: ConnId, len: usize) {
        let (now, wall) = (self.now, self.wall);
        let Some(c) = self.conns.get(&conn) else { return };
        let (group, peer) = (c.group.clone(), c.peer.clone());
        if let Some(l) = peer.and_then(|p| self.link(&group, &p)) {
            l.bytes += len as u64;
            let rate = l.by.limit.as_ref().and_then(|limit| limit.at(wall));
            l.pace.spend(now, rate, len);
        }
    }

    /// An extent for a child is ready.
    pub(super) fn seed_chunk(
        &mut self,
        id: VolumeId,
        child: &NodeName,
        next_block: u64,
        view: SetNumber,
        chunk: &Chunk,
    ) {
        let Some((conn, stream, feeder)) = self.stream_to(id, child) else { return };
        let body: Bytes = chunk.bytes().clone();
        let Some(out) = self.conns.get_mut(&conn).and_then(|c| c.streams_out.get_mut(&stream))
        else {
            return;
        };
        let seq = out.seed_seq;
        out.seed_seq += 1;
        let frame = Frame::SeedData { stream, feeder, seq, next_block, view, body };
        self.send_or_hold(conn, frame);
    }

    /// A child's seed has been read to its end.
    pub(super) fn seed_end(&mut self, id: VolumeId, child: &NodeName, need: SetNumber) {
        let Some((conn, stream, feeder)) = self.stream_to(id, child) else { return };
        self.send_or_hold(conn, Frame::SeedEnd { stream, feeder, need });
    }

    pub(super) fn stream_to(
        &self,
        id: VolumeId,
        child: &NodeName,
    ) -> Option<(ConnId, StreamId, u32)> {
        let h = self.volumes.get(&id)?;
        let conn = self.groups.get(&h.group)?.links.get(child)?.conn?;
        let c = self.conns.get(&conn)?;
        let (stream, _) = c.streams_out.iter().find(|(_, o)| o.volume == id)?;
        Some((conn, *stream, c.feeder))
    }

    /// A child lost its place in the save volume.
    pub(super) fn detached(&mut self, id: VolumeId, child: &NodeName, reason: String) {
        let label = self.label_of(id);
        self.note(Level::Warn, format!("volume {label}: {child} {reason}"));
        if let Some(h) = self.volumes.get_mut(&id) {
            h.detached.insert(child.clone(), reason.clone());
            h.relaying.forget(child);
        }
        if let Some((conn, stream, _)) = self.stream_to(id, child) {
            self.end_planning(conn, stream);
            if let Some(out) =
                self.conns.get_mut(&conn).and_then(|c| c.streams_out.get_mut(&stream))
            {
                out.stage = Stage::Stopped;
                out.reason = Some(reason.clone());
            }
            let code = stream_error::DETACHED;
            self.send(conn, Frame::StreamError { stream, code, text: reason });
        }
    }
}

/// Takes a child on: what it gets, and the seed or catch-up that it is in the middle of.
fn take_on(
    volume: &mut Volume,
    child: &NodeName,
    a: &Attach,
    forced: bool,
) -> (Attached, Option<Seeding>) {
    let next = a.next.as_ref().map_or(ChunkNumber(0), |n| n.next_chunk);
    // A relay asks for extents for a child, beside its own stream.
    let passing = !a.wants_seed && a.folded > SetNumber::ZERO;
    let folded = a.folded.max(a.state);
    let seeding = (passing || a.wants_seed && a.seed_from_block > 0).then_some(Seeding {
        block: a.seed_from_block,
        folded,
        over: a.over,
        passing,
    });
    let answer = if forced {
        let why = "asked for by an operator".to_owned();
        volume.consumer_seed(child, a.state, None, why)
    } else if a.wants_seed && seeding.is_none() {
        let (state, what) = match a.over {
            Some(_) => (folded, "the child asked for a catch-up"),
            None => (a.state, "the child asked for a seed"),
        };
        volume.consumer_seed(child, state, a.over, what.to_owned())
    } else {
        let over = a.over.filter(|_| !passing);
        volume.consumer_attach(child, a.state, next, over, seeding)
    };
    (answer, seeding)
}

/// What a child is filled with, whether the live stream goes on at once or waits for this node.
fn filling(seeding: Option<Seeding>) -> Option<Stage> {
    seeding.map(|s| if s.over.is_some() { Stage::CatchingUp } else { Stage::Seeding })
}

/// What a node without content has to ask its parent for.
fn to_be_relayed(answer: &Attached, a: &Attach, seeding: Option<Seeding>) -> Option<Wanted> {
    match answer {
        Attached::Seed { from, .. } => Some(Wanted { block: 0, folded: *from, over: None }),
        // What the child has folded in, be it of a set that never came to its end here, the extents
        // must include.
        Attached::CatchUp { from, .. } => {
            Some(Wanted { block: 0, folded: a.folded.max(*from), over: a.over })
        }
        Attached::Resume | Attached::Wait => {
            seeding.map(|s| Wanted { block: s.block, folded: s.folded, over: s.over })
        }
        Attached::Planning
        | Attached::NoCatchUp { .. }
        | Attached::NotNow { .. }
        | Attached::Newer { .. } => None,
    }
}
