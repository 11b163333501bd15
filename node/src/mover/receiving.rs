//! Streams from the parent: attachment at the exact position, intake, acknowledgement, credit.

use std::time::Duration;

use rcp::proto::clock::Mono;
use rcp::proto::credit::is_worth_telling;
use rcp::proto::frame::{
    Attach, DecodedFrame, Frame, HeldStep, Offer, Report, Start, StartMode, StreamId, Verified,
    stream_error,
};
use rcp::proto::ids::{ChunkNumber, GroupName, SetNumber, VolumeId};
use rcp::proto::limits::MAX_DOUBTS;
use volmcast::history::{line_of, plausible};
use volmcast::units::{BlockCount, BlockSize};
use volmcast::volume::{Question, Role};

use super::coalescing::Told;
use super::failover::Change;
use super::links::Conn;
use super::{ConnId, Effect, Level, Mover, NewReplica};

/// Labels of volumes that `rcpfiletest` makes begin with this.
const FILE_PREFIX: &str = "file-";
/// How long to wait before asking again after the parent could not serve a stream.
const RETRY: Duration = Duration::from_secs(1);

/// How long to wait instead after two detachments within this time.
const DETACHED_AGAIN: Duration = Duration::from_millis(250);

/// A stream from the parent.
#[derive(Debug)]
pub(super) struct Inbound {
    pub(super) conn: ConnId,
    pub(super) stream: StreamId,
    pub(super) stage: InStage,
    /// Why it is where it is, in words.
    pub(super) reason: Option<String>,
    /// Credit told to the sender.
    told: u64,
    pub(super) seed_told: u64,
    /// What was said last of extents: up to which block they are durable, and the total.
    pub(super) seed_said: Option<(u64, u64)>,
    pub(super) wants_seed: bool,
    /// What the next chunk or set header has for a number, and the next extent.
    seq: u64,
    seed_seq: u64,
    /// Attachments that the parent has not answered: what it says counts for the last one only.
    unanswered: u32,
    /// When it was detached last.
    detached: Option<Mono>,
    /// What the parent was told that could be staged.
    pub(super) staging: Told,
}

/// Where a stream from the parent stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum InStage {
    /// Our position was told; the answer has not come.
    Attaching,
    /// Chunks are welcome.
    Running,
    /// The parent is behind us.
    Waiting,
    /// To be tried again then.
    Retry(Mono),
    /// Not possible without an operator.
    Stopped,
}

impl Inbound {
    /// Whether a frame with data is the next one of its stream; one of another feeder is late, one
    /// that came before came twice, and neither counts (PROTOCOL.md, sections 5 and 6).
    fn in_order(&mut self, frame: &Frame, feeder: u32) -> Result<bool, String> {
        let (from, seq, next) = match frame {
            Frame::Chunk { feeder, seq, .. } | Frame::SetEnd { feeder, seq, .. } => {
                (*feeder, *seq, &mut self.seq)
            }
            Frame::SeedData { feeder, seq, .. } => (*feeder, *seq, &mut self.seed_seq),
            _ => return Ok(false),
        };
        if from != feeder || seq < *next {
            return Ok(false);
        }
        if seq > *next {
            let text = format!("frame {seq} of the stream came where frame {next} was due");
            return Err(text);
        }
        *next += 1;
        Ok(true)
    }

    pub(super) fn retry_at(&self) -> Option<Mono> {
        match self.stage {
            InStage::Retry(at) => Some(at),
            _ => None,
        }
    }
}

impl Mover {
    /// A frame for a stream, or about the session's business, that is not data.
    pub(super) fn control_frame(&mut self, conn: ConnId, frame: Frame) {
        match frame {
            Frame::Offer(o) => self.offered(conn, o),
            Frame::Start(s) => self.start(conn, s),
            Frame::Doubt { stream, runs } => self.child_doubts(conn, stream, &runs),
            Frame::Compare { stream, first, each, sums } => {
                self.child_compares(conn, stream, Question { first, each, sums });
            }
            Frame::Sums { stream, state, first, each, sums, text } => {
                if let Some(id) = self.running(conn, stream) {
                    self.sums_told(id, state, (first, each), sums, text);
                }
            }
            Frame::Place { number } => self.place(conn, number),
            Frame::Placed { next } => self.placed(conn, next),
            Frame::Attach(a) => self.child_attached(conn, &a),
            Frame::Saved { stream, state, next_chunk, .. } => {
                self.child_saved(conn, stream, state, next_chunk);
            }
            Frame::Credit { stream, total } => self.child_credit(conn, stream, total),
            Frame::SeedAck { stream, total, .. } => self.child_seed_ack(conn, stream, total),
            Frame::SeedEnd { stream, need, .. } => {
                if let Some(id) = self.running(conn, stream) {
                    if let Some(h) = self.volumes.get_mut(&id) {
                        let g = self.groups.get(&h.group);
                        let by_writer = g.is_some_and(super::links::Group::is_fed_by_writer);
                        h.volume.receive_seed_end(need, by_writer);
                    }
                    self.settle(id);
                    self.relay_end(id, need);
                }
            }
            Frame::Heartbeat { stream, state, as_of, .. } => {
                let id = self.conns.get(&conn).and_then(|c| c.streams_in.get(&stream)).copied();
                if let Some(id) = id {
                    self.hear_newest(id, state, as_of);
                }
            }
            Frame::Clock { stream, now } => {
                let id = self.conns.get(&conn).and_then(|c| c.streams_in.get(&stream)).copied();
                if let Some(id) = id {
                    self.hear_clock(id, now);
                }
            }
            Frame::StreamError { stream, code, text } => {
                self.stream_error(conn, stream, code, text);
            }
            Frame::Fence { stream, history, text } => {
                self.child_fences(conn, stream, &history, &text);
            }
            Frame::Withdraw { stream, text } => self.withdrawn(conn, stream, &text),
            Frame::Report(r) => self.child_report(conn, r),
            Frame::RouteReport { routes } => self.child_routes(conn, routes),
            Frame::Probe { group, path, .. } => self.probed(conn, &group, &path),
            Frame::Control(block) => self.control_from_above(conn, block),
            Frame::ControlResult(r) => self.control_from_below(conn, r),
            _ => {}
        }
    }

    /// A volume is offered by the parent.
    fn offered(&mut self, conn: ConnId, offer: Offer) {
        let Some(c) = self.conns.get(&conn) else { return };
        let (group, id) = (c.group.clone(), offer.volume);
        if let Err(text) = self.may_be_offered(&group, &offer) {
            self.note(Level::Error, text.clone());
            let (stream, code) = (offer.stream, stream_error::PROTOCOL);
            self.send(conn, Frame::StreamError { stream, code, text });
            return;
        }
        if self.offered_again(conn, &offer) {
            return;
        }
        if let Some(c) = self.conns.get_mut(&conn) {
            c.streams_in.insert(offer.stream, offer.volume);
        }
        let refuse = |text: String| Frame::StreamError {
            stream: offer.stream,
            code: stream_error::PROTOCOL,
            text,
        };
        let Some(bs) = BlockSize::from_shift(offer.block_shift) else {
            let f = refuse(format!("block size 2^{} is not supported", offer.block_shift));
            self.send(conn, f);
            return;
        };
        if let Some(c) = self.closed.get(&id) {
            let text =
                format!("volume {} cannot be opened on {}: {}", c.label, self.cfg.node, c.why);
            let code = stream_error::STORAGE;
            self.send(conn, Frame::StreamError { stream: offer.stream, code, text });
            return;
        }
        if let Some(h) = self.volumes.get(&id) {
            if matches!(h.volume.config().role, Role::Primary { .. }) {
                self.offered_to_writer(conn, offer);
                return;
            }
        } else {
            let label = self.label_for(&group, &offer.label);
            if let Some((_, other)) = self
                .volumes
                .iter()
                .find(|(_, h)| h.label == label)
                .map(|(i, h)| (i, h.group.clone()))
            {
                let text = format!(
                    "{} already has another volume with the label {label} (group {other}): rename one, \
                     or give the new one another label here (`as:` in the topology)",
                    self.cfg.node
                );
                self.note(Level::Error, text.clone());
                self.send(conn, refuse(text));
                return;
            }
            let replica = self.groups.get(&group).is_some_and(|g| g.plan.replica);
            if self.creating.insert(id) {
                self.effect(Effect::CreateReplica(NewReplica {
                    volume: id,
                    label,
                    source: offer.label.clone(),
                    group: group.clone(),
                    block_size: bs,
                    blocks: BlockCount(offer.volume_blocks),
                    replica,
                }));
            }
        }
        if let Some(g) = self.groups.get_mut(&group) {
            g.pending_offers.insert(id, (conn, offer));
        }
        self.attach_pending(id);
    }

    /// A volume is offered in its own group only, with a history that can be.
    fn may_be_offered(&self, group: &GroupName, offer: &Offer) -> Result<(), String> {
        let here = self.volumes.get(&offer.volume);
        let of = here.map(|h| &h.group).or(self.closed.get(&offer.volume).map(|c| &c.group));
        if let Some(of) = of.filter(|of| *of != group) {
            return Err(format!(
                "volume {} is offered in group {group}, and is of group {of} at {}: it is not taken",
                offer.label, self.cfg.node
            ));
        }
        let ours = here.map_or(&[][..], |h| h.volume.history());
        plausible(ours, &offer.history).map_err(|why| {
            format!("volume {} is offered with a history that cannot be: {why}", offer.label)
        })
    }

    /// Attaches to an offer, once the volume is there.
    pub(super) fn attach_pending(&mut self, id: VolumeId) {
        let Some(h) = self.volumes.get_mut(&id) else { return };
        let elsewhere = h.change.is_promotion() || matches!(h.change, Change::Rewinding(_));
        if elsewhere || matches!(h.volume.config().role, Role::Primary { .. }) {
            return;
        }
        let Some((conn, offer)) =
            self.groups.get_mut(&h.group).and_then(|g| g.pending_offers.remove(&id))
        else {
            return;
        };
        if !self.conns.contains_key(&conn) {
            return;
        }
        let known = !h.volume.durable().history.is_empty();
        let sender = self.conns.get(&conn).and_then(|c| c.peer.clone());
        if h.fed_by.is_some() && h.fed_by != sender {
            h.volume.seed_sender_changed();
        }
        h.fed_by = sender;
        let Some(why) = self.follow(id, conn, offer.stream, &offer.history) else {
            return self.keep_pending(id, conn, offer);
        };
        let Some(h) = self.volumes.get_mut(&id) else { return };
        h.offered_newest(&offer);
        h.offered = BlockCount(offer.volume_blocks);
        h.volume.relay_resized(h.offered);
        let renamed = std::mem::replace(&mut h.source, offer.label.clone()) != offer.label;
        h.inbound = Some(Inbound {
            conn,
            stream: offer.stream,
            stage: InStage::Attaching,
            reason: why.past_fork(),
            told: 0,
            seed_told: 0,
            seed_said: None,
            wants_seed: false,
            seq: 0,
            seed_seq: 0,
            unanswered: 0,
            detached: None,
            staging: Told::default(),
        });
        if renamed {
            self.effect(Effect::Exports { volume: id });
            self.offer_again(id);
        }
        if !known {
            // From now on this node can offer the volume to its own children.
            self.offer_to_children(id);
        }
        self.attach(id);
        self.tell_rival(id, "another writer is known below");
    }

    /// An offer is taken later, when the content is on its way back to its line.
    pub(super) fn keep_pending(&mut self, id: VolumeId, conn: ConnId, offer: Offer) {
        let group = self.volumes.get(&id).map(|h| h.group.clone()).filter(|_| self.rewinds(id));
        if let Some(g) = group.and_then(|g| self.groups.get_mut(&g)) {
            g.pending_offers.insert(id, (conn, offer));
        }
    }

    /// Tells the parent where we are.
    pub(super) fn attach(&mut self, id: VolumeId) {
        let conn = self.volumes.get(&id).and_then(|h| h.inbound.as_ref()).map(|i| i.conn);
        let lacks = conn.and_then(|c| self.conns.get(&c)).and_then(Conn::without_catch_ups);
        if let Some(why) = &lacks {
            self.relay_without_catch_up(id, why);
        }
        let names = conn.and_then(|c| self.conns.get(&c)).is_some_and(Conn::has_digests);
        let Some(h) = self.volumes.get_mut(&id) else { return };
        let Some(inbound) = &mut h.inbound else { return };
        let Some(undo) = h.volume.undo_list() else {
            // It is being read: this goes on when it is known.
            inbound.stage = InStage::Attaching;
            return self.settle(id);
        };
        h.volume.intake_attached();
        h.clock.forget();
        let (state, held) = h.volume.stream_position();
        let seed = h.volume.seed_position();
        let credit = h.volume.intake_credit();
        inbound.told = credit;
        inbound.seed_told = 0;
        inbound.stage = InStage::Attaching;
        inbound.unanswered += 1;
        // A relay's own position, and extents for a child.
        let passing = h.relaying.wanted().filter(|_| !inbound.wants_seed);
        let below = passing.and_then(|p| p.over);
        let seed_at = seed.or(passing.map(|p| (p.block, p.folded)));
        // What is here is of use, unless it was found not to be, or the parent has no use for it.
        let mine = h.volume.catch_up_base().filter(|_| seed.is_some() || !inbound.wants_seed);
        // To take content back, the parent has to be told what is to come again.
        let tells = names || h.volume.undoes().is_none();
        let mine = mine.filter(|_| lacks.is_none() && tells);
        let own = h.volume.doubted();
        // Damaged blocks come by a catch-up, wherever the stream stands; and so do those that are to
        // be taken back.
        let heal = names && !own.is_empty() && mine.is_some();
        let mine_named = names && mine.is_some();
        let doubts: Vec<(u64, u64)> = match passing {
            Some(_) if names => h.relaying.doubts.clone(),
            // No more is taken than so much: what is to be taken back comes first.
            None if mine_named => {
                undo.into_iter().chain(own.iter().map(|(b, n)| (b.0, n.0))).collect()
            }
            _ => Vec::new(),
        };
        let wants = inbound.wants_seed || seed_at.is_some() || heal || !doubts.is_empty();
        let stages = inbound.staging.tell(&mut h.volume, !wants && mine.is_some());
        let attach = Attach {
            stream: inbound.stream,
            state,
            generation: line_of(h.volume.history(), state).filter(|_| state > SetNumber::ZERO),
            next: held.map(|(s, next_chunk)| HeldStep {
                attempt: s.attempt,
                base: s.base,
                to: s.to,
                next_chunk,
            }),
            credit,
            wants_seed: inbound.wants_seed || seed.is_some() || heal,
            seed_from_block: seed_at.map_or(0, |(b, _)| b),
            folded: seed_at.map_or(SetNumber::ZERO, |(_, f)| f),
            over: mine.or(below),
            stages,
        };
        let (conn, stream) = (inbound.conn, inbound.stream);
        for runs in doubts.chunks(MAX_DOUBTS) {
            self.send(conn, Frame::Doubt { stream, runs: runs.to_vec() });
        }
        self.send(conn, Frame::Attach(attach));
        self.settle(id);
    }

    /// The parent answered where the stream starts.
    fn start(&mut self, conn: ConnId, s: Start) {
        let Some(id) = self.conns.get(&conn).and_then(|c| c.streams_in.get(&s.stream)).copied()
        else {
            return;
        };
        let Some(h) = self.volumes.get_mut(&id) else { return };
        let Some(inbound) = h.inbound.as_mut().filter(|i| i.conn == conn) else { return };
        inbound.unanswered = inbound.unanswered.saturating_sub(1);
        if inbound.unanswered > 0 {
            return;
        }
        inbound.reason = (!s.reason.is_empty()).then(|| s.reason.clone());
        (inbound.seq, inbound.seed_seq) = (0, 0);
        inbound.seed_said = None;
        inbound.wants_seed = false;
        inbound.stage = InStage::Running;
        match s.mode {
            StartMode::Resume | StartMode::Wait => {
                if s.mode == StartMode::Wait {
                    inbound.stage = InStage::Waiting;
                }
                // Extents go on beside the live stream, and before it does.
                if h.volume.seed_position().is_some() {
                    h.volume.seed_resume();
                }
            }
            StartMode::CatchUp { bytes, .. } if inbound.staging.gives_way(&mut h.volume, bytes) => {
                return self.takes_the_sets(id);
            }
            // A stopped replica keeps what it shows.
            StartMode::Seed | StartMode::CatchUp { .. }
                if !h.volume.is_replicating()
                    && (h.volume.seed_position().is_none()
                        || h.volume.staged_progress().is_some()) =>
            {
                inbound.stage = InStage::Stopped;
                let what = if s.mode == StartMode::Seed { "seed" } else { "catch-up" };
                let text = format!(
                    "a {what} is needed ({}) and would replace what is shown, but replication is \
                     stopped here: `rcpctl replicate start`",
                    s.reason
                );
                inbound.reason = Some(text.clone());
                let (stream, code) = (s.stream, stream_error::STOPPED);
                self.send(conn, Frame::StreamError { stream, code, text });
            }
            StartMode::CatchUp { blocks, bytes } => {
                if !self.catch_up_begins(id, &s, (blocks, bytes)) {
                    return self.attach(id);
                }
            }
            // With the position that it has now.
            StartMode::Seed if self.keeps_content(conn, id, s.from) => return self.attach(id),
            StartMode::Seed => self.seed_begins(id, s.from, &s.reason),
        }
        if let Some(h) = self.volumes.get_mut(&id).filter(|h| h.is_fed()) {
            h.volume.tell_saved_anew();
        }
        self.settle(id);
        self.room_event(id);
        self.relay_grant(id);
    }

    /// The volume of a stream that is running on this connection.
    fn running(&self, conn: ConnId, stream: StreamId) -> Option<VolumeId> {
        let id = *self.conns.get(&conn)?.streams_in.get(&stream)?;
        let i = self.volumes.get(&id)?.inbound.as_ref()?;
        let on = matches!(i.stage, InStage::Running | InStage::Waiting);
        (i.conn == conn && on).then_some(id)
    }

    /// A chunk, set header or extent, already verified.
    pub(super) fn data_frame(&mut self, conn: ConnId, frame: DecodedFrame) {
        let stream = frame.frame.stream();
        // What was on its way before we attached again belongs to no one.
        let Some(id) = self.running(conn, stream) else { return };
        let feeder = self.conns.get(&conn).map_or(0, |c| c.feeder);
        let Some(h) = self.held(id) else { return };
        let Some(i) = &mut h.inbound else { return };
        match i.in_order(&frame.frame, feeder) {
            Ok(true) => i.stage = InStage::Running,
            Ok(false) => return,
            Err(why) => return self.reattach(id, &why),
        }
        let group = h.group.clone();
        let (mut bytes, mut extent) = (0u64, None);
        let taken = match (&frame.frame, &frame.content) {
            (Frame::Chunk { .. }, Verified::Chunk(c)) => {
                bytes = c.bytes().len() as u64;
                h.newest = h.newest.max(c.step().to);
                h.volume.receive_chunk(c)
            }
            (Frame::SetEnd { body, .. }, Verified::Set(header)) => {
                bytes = body.len() as u64;
                h.volume.receive_set_end(header)
            }
            (Frame::SeedData { next_block, view, .. }, Verified::Chunk(c)) => {
                bytes = c.bytes().len() as u64;
                h.volume.receive_seed(*next_block, *view, c);
                extent = Some((*next_block, *view, c.clone()));
                Ok(())
            }
            _ => Ok(()),
        };
        if let Some(f) = self.groups.get_mut(&group).and_then(|g| g.feeder.as_mut()) {
            f.bytes += bytes;
        }
        self.settle(id);
        if let Some((next_block, view, chunk)) = extent {
            self.relay_extent(id, next_block, view, &chunk);
        }
        if let Err(e) = taken {
            self.reattach(id, &e.to_string());
        }
    }

    /// The stream must start again from our position.
    pub(super) fn reattach(&mut self, id: VolumeId, why: &str) {
        let at = self.now.after(RETRY);
        let Some(h) = self.volumes.get_mut(&id) else { return };
        let Some(i) = &mut h.inbound else { return };
        if i.stage == InStage::Stopped || matches!(i.stage, InStage::Retry(_)) {
            return;
        }
        i.reason = Some(why.to_owned());
        i.stage = InStage::Retry(at);
        let label = h.label.clone();
        self.note(Level::Warn, format!("volume {label}: the stream starts again: {why}"));
    }

    /// Replication goes on after an operator stopped it: so does a stream that stopped for it.
    pub(super) fn attach_after_stop(&mut self, id: VolumeId) {
        let now = self.now;
        let Some(i) = self.volumes.get_mut(&id).and_then(|h| h.inbound.as_mut()) else { return };
        if i.stage == InStage::Stopped {
            i.stage = InStage::Retry(now);
            self.retry_attach(id);
        }
    }

    /// Attaches again when the time has come.
    pub(super) fn retry_attach(&mut self, id: VolumeId) {
        let now = self.now;
        let due = self
            .volumes
            .get(&id)
            .and_then(|h| h.inbound.as_ref())
            .and_then(Inbound::retry_at)
            .is_some_and(|t| t <= now);
        if due {
            self.attach(id);
        }
    }

    fn stream_error(&mut self, conn: ConnId, stream: StreamId, code: u16, text: String) {
        let now = self.now;
        let Some(c) = self.conns.get(&conn) else { return };
        if c.streams_out.contains_key(&stream) && !c.streams_in.contains_key(&stream) {
            self.child_stream_error(conn, stream, text);
            return;
        }
        let Some(id) = c.streams_in.get(&stream).copied() else { return };
        let Some(h) = self.volumes.get_mut(&id) else { return };
        let Some(i) = h.inbound.as_mut().filter(|i| i.conn == conn) else { return };
        let answers = [stream_error::DIVERGED, stream_error::STOPPED, stream_error::NO_CATCH_UP];
        if answers.contains(&code) {
            i.unanswered = i.unanswered.saturating_sub(1);
            if i.unanswered > 0 {
                return;
            }
        }
        let again = i.reason.as_deref() == Some(text.as_str());
        i.reason = Some(text.clone());
        i.stage = match code {
            stream_error::DIVERGED | stream_error::PROTOCOL | stream_error::FENCED => {
                InStage::Stopped
            }
            // Detached: our position is told at once, and what moves the fewest bytes follows;
            // unless that led to the same, as it does while the parent has no room at all.
            stream_error::DETACHED => {
                let last = i.detached.replace(now);
                let soon = last.is_some_and(|t| now.since(t) < DETACHED_AGAIN);
                InStage::Retry(if soon { now.after(DETACHED_AGAIN) } else { now })
            }
            stream_error::NO_CATCH_UP | stream_error::AGAIN => InStage::Retry(now),
            _ => InStage::Retry(now.after(RETRY)),
        };
        let label = h.label.clone();
        let refused = code == stream_error::STOPPED;
        if refused {
            self.relay_refused(id, &text);
        } else if code == stream_error::NO_CATCH_UP {
            self.relay_no_catch_up(id, &text);
        }
        if !again {
            let called = code == stream_error::AGAIN;
            let level = if called { Level::Info } else { Level::Warn };
            let text = format!("volume {label}: the parent stopped the stream: {text}");
            self.note(level, text);
        }
        self.retry_attach(id);
    }

    fn withdrawn(&mut self, conn: ConnId, stream: StreamId, text: &str) {
        let Some(id) = self.conns.get_mut(&conn).and_then(|c| c.streams_in.remove(&stream)) else {
            return;
        };
        let Some(h) = self.volumes.get_mut(&id) else { return };
        h.inbound = None;
        let label = h.label.clone();
        if label.as_str().starts_with(FILE_PREFIX) {
            // A file that was sent for a test: it goes as it came.
            self.withdraw(id, text);
            self.volumes.remove(&id);
            self.effect(Effect::RemoveVolume { volume: id });
            return;
        }
        let text = format!("volume {label}: no longer offered by the parent: {text}");
        self.note(Level::Warn, text);
    }

    /// Something became durable: tell the parent, grant more.
    pub(super) fn saved_event(&mut self, id: VolumeId, state: SetNumber, next: ChunkNumber) {
        let Some(h) = self.volumes.get(&id) else { return };
        if let Some(i) = h.inbound.as_ref().filter(|i| i.stage == InStage::Running) {
            let (conn, stream) = (i.conn, i.stream);
            let feeder = self.conns.get(&conn).map_or(0, |c| c.feeder);
            self.send(conn, Frame::Saved { stream, feeder, state, next_chunk: next });
        }
        self.room_event(id);
    }

    /// Grants what can be granted.
    pub(super) fn room_event(&mut self, id: VolumeId) {
        let Some(h) = self.volumes.get_mut(&id) else { return };
        let Some(i) = &mut h.inbound else { return };
        if !matches!(i.stage, InStage::Running | InStage::Waiting) {
            return;
        }
        let (conn, stream) = (i.conn, i.stream);
        let total = h.volume.intake_credit();
        let quantum = h.volume.config().window / 8;
        let grant = is_worth_telling(total, i.told, h.volume.intake_received(), quantum);
        if grant {
            i.told = total;
        }
        let seed = h.volume.seed_credit();
        let seed_grant = seed >= i.seed_told + quantum;
        let next_block = h.volume.seed_position().map_or(0, |(b, _)| b);
        if seed_grant {
            i.seed_told = seed;
            i.seed_said = Some((next_block, seed));
        }
        if grant {
            self.send(conn, Frame::Credit { stream, total });
        }
        if seed_grant {
            self.send(conn, Frame::SeedAck { stream, next_block, total: seed });
        }
    }

    fn child_report(&mut self, conn: ConnId, r: Report) {
        let Some(c) = self.conns.get(&conn) else { return };
        let Some(id) = c.streams_out.get(&r.stream).map(|o| o.volume) else { return };
        let (Some(child), now) = (c.peer.clone(), self.now) else { return };
        let link = self.groups.get(&c.group).and_then(|g| g.links.get(&child));
        let of = link.and_then(|l| l.in_place_of.clone());
        let Some(h) = self.volumes.get_mut(&id) else { return };
        let taken = match of {
            Some(of) => h.below.child_in_place(&child, &of, r, now),
            None => h.below.child(&child, r, now),
        };
        if let Err(e) = taken {
            self.note(Level::Warn, e.to_string());
        }
    }
}
