//! Making delta sets at the primary (F10, CAP-05 to CAP-12).
//!
//! ```text
//! Idle ──trigger or demand──► Barrier ──quiet──► cut ──► Draining ──all taken, base synced──► Idle
//!   ▲                            │ nothing changed                        │ larger than the
//!   └────────────────────────────┘                                        ▼ save volume
//!                                                            set without data (BITMAP_ONLY)
//! ```
//!
//! The pause is the time between closing the gate and the cut: it waits for writes in flight and
//! does no I/O of its own. Copies that writers had to keep are taken first; runs of the old table
//! are read optimistically and claimed afterwards. The base is synced once after the cut, beside
//! the copying, because a set may leave only when the primary itself could not lose it.

mod hashing;

use std::collections::BTreeMap;

use bytes::Bytes;
use rcp::proto::clock::{Mono, Wall};
use rcp::proto::delta::{Chunk, ChunkFlags, DeltaError, SetFlags, SetHeader, StepId};
use rcp::proto::ids::{Attempt, ChunkNumber, Generation, SetNumber};

use super::demands::Demand;
use super::desk::{Purpose, Work};
use super::draft::draft;
use super::stalls::Part;
use super::switch::Switch;
use super::{CutPolicy, Event, Role, Volume};
use crate::bitmap::BlockSet;
use crate::capture::{Capture, Cause, CutError, Notice, Policy, Triggers};
use crate::digest::{BlockHash, Sum};
use crate::io::{FileId, Op, Outcome};
use crate::save::RecordKind;
use crate::snapshots::{PinId, PinKind};
use crate::units::{BlockCount, BlockIndex};

/// Gathered reads and encodings under way at once.
const PIPELINE: usize = 3;
/// How long to wait before cutting again after a set was given up.
const RETRY: std::time::Duration = std::time::Duration::from_secs(1);
/// How long not to look at the tables while nothing is under way for the draining set.
const LOOK_AGAIN: std::time::Duration = std::time::Duration::from_millis(50);
/// Longest run list of one gathered read.
const MAX_RUNS: usize = 1024;

#[derive(Debug, Default)]
enum Phase {
    #[default]
    Idle,
    Barrier,
    Draining(Box<Set>),
}

/// The set being drained.
#[derive(Debug)]
struct Set {
    id: StepId,
    cut_time: Wall,
    /// Size of the volume in its state.
    volume_blocks: BlockCount,
    began: Mono,
    /// Where the next run is looked for.
    from: BlockIndex,
    reads: usize,
    encodes: usize,
    /// What was taken from the tables for it, should it be abandoned.
    drained: BlockSet,
    /// Pieces for the next chunk.
    pieces: Vec<(u64, Bytes)>,
    piece_bytes: u64,
    next_number: u32,
    encoded: BTreeMap<u32, (Chunk, Vec<BlockHash>)>,
    appended: u32,
    blocks: u64,
    /// The base was synced since the cut.
    synced: bool,
    /// The volume's digest as far as the set is taken; `None`: it is not known.
    digest: Option<Sum>,
    /// Chunks whose old hashes are still to be read, with the sum of the new ones.
    unhashed: Vec<(Chunk, Sum)>,
    hash_reads: usize,
    /// The data does not fit the save volume: only the number and the fact remain.
    without_data: bool,
    /// Its state is to be kept.
    pin: Option<PinId>,
}

/// The primary's set maker.
#[derive(Debug, Default)]
pub(super) struct Drain {
    triggers: Option<Triggers>,
    phase: Phase,
    last_cut: Wall,
    /// Longest pause so far, for status.
    gate_closed_at: Option<Mono>,
    pub(super) longest_pause: std::time::Duration,
    deadline: Option<Mono>,
    /// After a set was given up: no cut before this.
    retry_at: Option<Mono>,
    /// A line that is to be opened when the set under way is finished.
    pub(super) opening: Option<(Generation, Wall)>,
    /// The activity log is being looked through: no cut meanwhile, because what a new set has
    /// already drained would look clean.
    forgetting: bool,
}

impl Drain {
    pub(super) fn new(policy: CutPolicy, now: Mono, last_cut: Wall) -> Self {
        let policy = Policy { hwm_bytes: policy.hwm, timeout: policy.timeout };
        Self { triggers: Some(Triggers::new(policy, now)), last_cut, ..Self::default() }
    }

    pub(super) fn timeout(&self) -> Option<Mono> {
        self.deadline
    }

    /// Whether this attempt is the one under way; results of an abandoned one are dropped.
    pub(super) fn is_on(&self, attempt: Attempt) -> bool {
        matches!(&self.phase, Phase::Draining(s) if s.id.attempt == attempt)
    }

    /// No set is being made.
    pub(super) fn is_idle(&self) -> bool {
        matches!(self.phase, Phase::Idle)
    }

    /// The set being drained, and when it was cut.
    pub(super) fn making(&self) -> Option<(SetNumber, Mono)> {
        match &self.phase {
            Phase::Draining(s) => Some((s.id.to, s.began)),
            _ => None,
        }
    }

    /// Number of the set being drained.
    pub(super) fn draining(&self) -> Option<SetNumber> {
        self.making().map(|(set, _)| set)
    }
}

impl Volume {
    /// As [`demand_cut`](Self::demand_cut), for whoever pumps afterwards.
    pub(super) fn add_demand(&mut self, keep: bool) -> Demand {
        let demand = self.demands.add(keep);
        if let Some(t) = &mut self.drain.triggers {
            t.demand();
        }
        demand
    }

    /// Changes when sets are made (CAP-13).
    pub fn set_cut_policy(&mut self, policy: CutPolicy) {
        if let Some(t) = &mut self.drain.triggers {
            t.set_policy(Policy { hwm_bytes: policy.hwm, timeout: policy.timeout });
        }
        if let Some(c) = self.capture() {
            c.tell_dirty_above(policy.hwm);
        }
        self.pump();
    }

    /// After [`Event::SetReady`]: the activity log has given up the extents without marks.
    pub fn extents_forgotten(&mut self) {
        self.drain.forgetting = false;
        self.pump();
    }

    /// The capture tables noticed something.
    pub fn notice(&mut self, now: Mono, wall: Wall, notice: Notice) {
        self.desk.now = self.desk.now.max(now);
        self.desk.wall = wall;
        if notice == Notice::Spoiled {
            tracing::debug!("a writer could not read what the draining set needs");
        }
        self.pump();
    }

    /// When sets are made.
    #[must_use]
    pub fn cut_policy(&self) -> CutPolicy {
        let p = self.drain.triggers.as_ref().map(Triggers::policy).unwrap_or_default();
        CutPolicy { hwm: p.hwm_bytes, timeout: p.timeout }
    }

    /// The set that a write of this moment belongs to: the one after the set that is being drained,
    /// or after the newest that is finished, be it committed or not.
    pub(super) fn open_set(&self) -> SetNumber {
        let finished = self.log.state().max(self.want.visible);
        self.drain.draining().unwrap_or(finished).next()
    }

    /// The log is to be emptied at the primary: sets that were cut and not committed have their
    /// number and their marks are gone, so that each goes on as a set without data.
    pub(super) fn forget_data_of_sets(&mut self) {
        let visible = self.want.visible;
        let finished: Vec<_> = self
            .log
            .steps()
            .filter(|s| s.id.to > visible)
            .filter_map(|s| s.end.as_ref().map(|(h, _)| *h))
            .collect();
        self.log.reset(visible);
        if let Phase::Draining(set) = &mut self.drain.phase {
            set.without_data = true;
        }
        for mut header in finished {
            header.flags = header.flags.with(SetFlags::BITMAP_ONLY);
            header.chunk_count = 0;
            header.chunk_list_crc = 0;
            let (to, n) = (header.step.to, ChunkNumber(0));
            match self.append(RecordKind::SetEnd, to, n, &header.to_bytes()) {
                Some((pos, end)) => self.log.enter_end(pos, end, header),
                None => self.fail(format!(
                    "the save volume was damaged and has no room for the header of set {to}: \
                     restart rcpd, which marks its blocks again"
                )),
            }
        }
    }

    pub(super) fn pump_drain(&mut self) {
        let Role::Primary { capture, .. } = &self.cfg.role else { return };
        let capture = capture.clone();
        self.drain.deadline = None;
        for _ in 0..4 {
            match &self.drain.phase {
                Phase::Idle => {
                    if !self.idle_step(&capture) {
                        return;
                    }
                }
                Phase::Barrier => {
                    if !self.try_cut(&capture) {
                        return;
                    }
                }
                Phase::Draining(_) => {
                    self.drain_step(&capture);
                    return;
                }
            }
        }
    }

    /// Decides whether a cut is due. True if the phase changed.
    fn idle_step(&mut self, capture: &Capture) -> bool {
        self.open_when_settled();
        if self.drain.opening.is_some() || self.want.generation().is_none() {
            // A set is of a line: it waits until there is one.
            return false;
        }
        // A set that is finished but not committed yet still counts as being drained.
        if self.drain.forgetting || self.digest_waits_for_table() {
            return false;
        }
        let owes = self.owes_a_set();
        let Some(t) = &mut self.drain.triggers else { return false };
        if let Some(at) = self.drain.retry_at.filter(|at| self.desk.now < *at) {
            self.drain.deadline = Some(at);
            return false;
        }
        if self.drain.retry_at.take().is_some() && self.demands.are_open() {
            t.demand();
        }
        let settled = self.want.visible == self.durable.visible && self.log.open_step().is_none();
        let committed = self.log.state() == self.durable.visible;
        let dirty = capture.dirty_bytes();
        let due = t.due(self.desk.now, dirty, settled && committed).or_else(|| {
            // Writers wait for this cut.
            (settled && committed && capture.is_brimful()).then_some(Cause::HighWater)
        });
        // A child may wait for a set whose content came to be in an earlier one.
        let owed = dirty == 0 && settled && committed && owes;
        let empty = dirty == 0 && !owed && !self.demands.keep_next() && !self.growth.is_due();
        match due.or(owed.then_some(Cause::Timeout)) {
            Some(Cause::HighWater | Cause::Timeout) if self.switch != Switch::On => false,
            None => {
                let runs = settled && committed && self.switch == Switch::On;
                self.drain.deadline = Some(t.deadline()).filter(|_| runs);
                false
            }
            Some(_) if empty => {
                // No change, no set: the present state is current as of now.
                t.rearm(self.desk.now);
                self.drain.deadline = Some(t.deadline());
                let state = self.durable.visible;
                if let Some(demand) = self.demands.unchanged(state) {
                    self.cut_answered(demand, state, false);
                }
                false
            }
            Some(_) => {
                self.drain.gate_closed_at = Some(self.desk.now);
                capture.close_gate();
                self.drain.phase = Phase::Barrier;
                true
            }
        }
    }

    fn try_cut(&mut self, capture: &Capture) -> bool {
        let Some(generation) = self.want.generation() else {
            capture.open_gate();
            self.fail("the volume has no history: it was never opened for writing".to_owned());
            return false;
        };
        if !capture.is_quiet() {
            // Notice::Quiet comes when the last write in flight ends.
            self.drain.deadline = Some(Mono(self.desk.now.0 + 1_000));
            return false;
        }
        self.grow_tables(capture);
        let empty = capture.dirty_bytes() == 0 && capture.drained();
        if empty && !self.growth.is_due() && !self.owes_a_set() {
            self.nothing_to_cut(capture);
            return false;
        }
        let set = self.want.visible.next();
        let pin = self.demands.keep_next().then(|| self.pin_durably(set));
        let info = match capture.cut() {
            Ok(info) => info,
            Err(e) => {
                if let Some(pin) = pin {
                    let _ = self.cfg.snapshots.release(pin, PinKind::Durable);
                }
                self.no_cut(capture, e);
                return false;
            }
        };
        self.demands.cut(set);
        if let Some(at) = self.drain.gate_closed_at.take() {
            self.drain.longest_pause = self.drain.longest_pause.max(self.desk.now.since(at));
        }
        self.want.attempt = Attempt(self.want.attempt.0.wrapping_add(1));
        let cut_time = Wall(self.desk.wall.0.max(self.drain.last_cut.0 + 1));
        self.drain.last_cut = cut_time;
        if let Some(t) = &mut self.drain.triggers {
            t.rearm(self.desk.now);
        }
        let id = StepId {
            volume: self.cfg.volume,
            generation,
            base: self.want.visible,
            to: set,
            attempt: self.want.attempt,
        };
        let volume_blocks = self.next_blocks();
        self.history_table.cut(set, cut_time, info.blocks.0);
        let purpose = Purpose::DrainSync { attempt: id.attempt };
        self.desk.io(purpose, FileId::Base, Op::Sync);
        self.drain.phase = Phase::Draining(Box::new(Set {
            id,
            cut_time,
            volume_blocks,
            began: self.desk.now,
            from: BlockIndex(0),
            reads: 0,
            encodes: 0,
            drained: BlockSet::new(),
            pieces: Vec::new(),
            piece_bytes: 0,
            next_number: 0,
            encoded: BTreeMap::new(),
            appended: 0,
            blocks: 0,
            synced: false,
            digest: self.digest_at_cut(),
            unhashed: Vec::new(),
            hash_reads: 0,
            without_data: false,
            pin,
        }));
        true
    }

    fn no_cut(&mut self, capture: &Capture, why: CutError) {
        let wait = match why {
            CutError::NotQuiet => 1_000,
            CutError::Open | CutError::NotDrained => {
                capture.open_gate();
                self.drain.phase = Phase::Idle;
                10_000
            }
        };
        self.drain.deadline = Some(Mono(self.desk.now.0 + wait));
    }

    /// A writer could not read the old content of a block: the set cannot be completed. What was
    /// taken for it belongs to the next one.
    fn abandon_spoiled(&mut self, capture: &Capture) {
        let Phase::Draining(set) = std::mem::take(&mut self.drain.phase) else { return };
        capture.abandon_old(&set.drained);
        self.log.abandon_open_step();
        self.commit.request();
        if let Some(pin) = set.pin {
            // The number will be that of another content.
            let _ = self.cfg.snapshots.release(pin, PinKind::Durable);
            self.unlisted.remove(&pin);
            self.cfg.snapshots.new_line();
        }
        self.demands.given_up(set.pin.is_some());
        self.drain.retry_at = Some(self.desk.now.after(RETRY));
        let words = format!(
            "set {} was given up: the volume's content could not be read while a client \
             overwrote it; its changes go into the next set; look at the disk below the volume",
            set.id.to
        );
        self.stalls.set(Part::Sets, words);
    }

    /// Only a state to keep closed the gate; nothing has changed since it.
    fn nothing_to_cut(&mut self, capture: &Capture) {
        let state = self.durable.visible;
        // Kept once, it is given up at once.
        if self.demands.keep_next() && !self.kept().any(|s| s == state) {
            self.pin_durably(state);
        }
        let answered = self.demands.unchanged(state);
        capture.open_gate();
        self.drain.gate_closed_at = None;
        self.drain.phase = Phase::Idle;
        if let Some(t) = &mut self.drain.triggers {
            t.rearm(self.desk.now);
        }
        if let Some(demand) = answered {
            self.cut_answered(demand, state, false);
        }
        self.keep_answered();
    }

    /// A state that is to be kept may be, durably.
    pub(super) fn keep_answered(&mut self) {
        let listed = &self.durable.kept;
        let durably = |state| listed.iter().any(|k| k.set == state && k.pin > 0);
        if let Some((demand, state)) = self.demands.kept(durably) {
            self.cut_answered(demand, state, false);
        }
    }

    fn drain_step(&mut self, capture: &Capture) {
        if capture.spoiled() {
            self.abandon_spoiled(capture);
            return;
        }
        self.append_encoded();
        if let Phase::Draining(set) = &mut self.drain.phase
            && set.without_data
        {
            // Only the tables are emptied: the next set begins clean.
            let all = set.volume_blocks;
            for (first, n) in capture.take_read(BlockIndex(0), all) {
                set.blocks += n.0;
                set.drained.insert_range(first, n);
            }
            for (b, _) in capture.take_held(u64::MAX) {
                set.blocks += 1;
                set.drained.insert(b);
            }
            set.pieces.clear();
            set.piece_bytes = 0;
            set.encoded.clear();
            set.digest = None;
            set.unhashed.clear();
        }
        self.drain_hashes();
        let (bs, chunk) =
            (self.cfg.block_size, self.cfg.chunk_bytes.max(self.cfg.block_size.bytes()));
        while let Phase::Draining(set) = &mut self.drain.phase {
            if set.without_data || set.reads + set.encodes + set.encoded.len() >= PIPELINE {
                break;
            }
            let held = capture.take_held(chunk - set.piece_bytes.min(chunk - bs.bytes()));
            for (b, data) in held {
                set.drained.insert(b);
                set.piece_bytes += data.len() as u64;
                set.pieces.push((b.0, data));
            }
            if set.piece_bytes >= chunk {
                self.encode_pieces();
                continue;
            }
            let mut runs = Vec::new();
            let mut room = (chunk - set.piece_bytes) >> bs.shift();
            while room > 0 && runs.len() < MAX_RUNS {
                let Some((first, n)) = capture.next_run(set.from, BlockCount(room)) else { break };
                set.from = BlockIndex(first.0 + n.0);
                room -= n.0;
                runs.push((first, n));
            }
            if runs.is_empty() {
                break;
            }
            set.reads += 1;
            let ranges = runs
                .iter()
                .map(|(b, n)| (bs.offset(*b), usize::try_from(n.0 << bs.shift()).unwrap_or(0)))
                .collect();
            let purpose = Purpose::DrainRead { attempt: set.id.attempt, runs };
            self.desk.io(purpose, FileId::Base, Op::Gather { ranges });
        }
        self.finish_set(capture);
        if let Phase::Draining(set) = &self.drain.phase
            && set.reads + set.encodes == 0
        {
            // Only a notice of the tables would set it going again, and notices can be lost.
            self.drain.deadline = Some(self.desk.now.after(LOOK_AGAIN));
        }
    }

    pub(super) fn drain_read_done(&mut self, runs: &[(BlockIndex, BlockCount)], outcome: Outcome) {
        let Some(capture) = self.capture().cloned() else { return };
        let bs = self.cfg.block_size;
        let Phase::Draining(set) = &mut self.drain.phase else { return };
        set.reads -= 1;
        let data = match outcome {
            Outcome::Read(b) => b,
            other => {
                self.fail_io("read from the volume's content", &other);
                return;
            }
        };
        if set.piece_bytes > 0 && set.piece_bytes + data.len() as u64 > self.cfg.chunk_bytes {
            // What came meanwhile makes a chunk of its own: none is longer than it may be.
            self.encode_pieces();
        }
        let Phase::Draining(set) = &mut self.drain.phase else { return };
        let mut at = 0usize;
        for (first, n) in runs {
            let len = usize::try_from(n.0 << bs.shift()).unwrap_or(0);
            for (b, k) in capture.take_read(*first, *n) {
                let skip = usize::try_from((b.0 - first.0) << bs.shift()).unwrap_or(0);
                let take = usize::try_from(k.0 << bs.shift()).unwrap_or(0);
                let Some(_) = data.get(at + skip..at + skip + take) else {
                    self.fail("internal: a gathered read came short".to_owned());
                    return;
                };
                set.drained.insert_range(b, k);
                set.pieces.push((b.0, data.slice(at + skip..at + skip + take)));
                set.piece_bytes += take as u64;
            }
            at += len;
        }
        if set.piece_bytes >= self.cfg.chunk_bytes / 2 {
            self.encode_pieces();
        }
    }

    /// Turns the gathered pieces into a chunk.
    fn encode_pieces(&mut self) {
        let bs = self.cfg.block_size;
        let Phase::Draining(set) = &mut self.drain.phase else { return };
        let mut pieces = std::mem::take(&mut set.pieces);
        set.piece_bytes = 0;
        pieces.sort_unstable_by_key(|(b, _)| *b);
        let draft =
            draft(set.id, ChunkNumber(set.next_number), ChunkFlags::NONE, bs.shift(), &pieces);
        set.blocks += draft.extents.iter().map(|e| u64::from(e.count)).sum::<u64>();
        let (attempt, number) = (set.id.attempt, ChunkNumber(set.next_number));
        set.next_number += 1;
        set.encodes += 1;
        let work = Work::Encode(Box::new(draft), self.cfg.compression);
        self.desk.work(Purpose::Encode { attempt, number }, work);
    }

    pub(super) fn drain_encoded(
        &mut self,
        number: ChunkNumber,
        chunk: Result<(Chunk, Vec<BlockHash>), DeltaError>,
    ) {
        let Phase::Draining(set) = &mut self.drain.phase else { return };
        set.encodes -= 1;
        match chunk {
            Ok(c) => {
                set.encoded.insert(number.0, c);
            }
            Err(e) => self.fail(format!("internal: a chunk could not be built: {e}")),
        }
    }

    pub(super) fn drain_synced(&mut self, outcome: &Outcome) {
        if *outcome != Outcome::Done {
            self.fail_io("sync of the volume's content", outcome);
            return;
        }
        if let Phase::Draining(set) = &mut self.drain.phase {
            set.synced = true;
        }
    }

    fn finish_set(&mut self, capture: &Capture) {
        let Phase::Draining(set) = &mut self.drain.phase else { return };
        if set.reads + set.encodes + set.hash_reads > 0
            || !set.encoded.is_empty()
            || !set.unhashed.is_empty()
            || !capture.drained()
        {
            return;
        }
        if !set.pieces.is_empty() {
            self.encode_pieces();
            return;
        }
        if !set.synced && !rcp::planted!(CutWithoutSync) {
            return;
        }
        let (id, count, without_data) = (set.id, set.appended, set.without_data);
        let sum = self.log.open_step().map_or(0, |s| s.sum.crc());
        let digest = set.digest.filter(|_| !without_data);
        let mut flags = match digest {
            Some(_) => SetFlags::default(),
            None => SetFlags::DIGEST_ABSENT,
        };
        if without_data {
            flags = flags.with(SetFlags::BITMAP_ONLY);
        }
        let header = SetHeader {
            step: id,
            chunk_count: if without_data { 0 } else { count },
            // What was gathered and given up counts as well.
            block_count: if without_data {
                set.drained.runs().map(|(_, n)| n.0).sum()
            } else {
                set.blocks
            },
            volume_blocks: set.volume_blocks.0,
            block_shift: self.cfg.block_size.shift(),
            cut_time: set.cut_time,
            flags,
            digest: digest.unwrap_or_default().to_header(),
            chunk_list_crc: if without_data { 0 } else { sum },
        };
        let took = self.desk.now.since(set.began);
        let n = ChunkNumber(header.chunk_count);
        let Some((pos, end)) = self.append(RecordKind::SetEnd, id.to, n, &header.to_bytes()) else {
            self.no_room_for_set();
            return;
        };
        if let Phase::Draining(set) = &self.drain.phase
            && !rcp::planted!(ChangesForgotten)
        {
            for (first, n) in set.drained.runs() {
                self.changes.note(id.to, first.0, n.0);
            }
        }
        self.digest.chain = digest.map(|d| (id.to, d));
        self.history_table.drained(id.to, header.block_count, took);
        if !without_data {
            self.stalls.clear(Part::Sets);
            self.stalls.clear(Part::Save);
        }
        self.log.enter_end(pos, end, header);
        self.drain.phase = Phase::Idle;
    }

    /// A commit was done: tell of the sets that are finished now.
    pub(super) fn sets_became_ready(&mut self, before: SetNumber) {
        let after = self.durable.visible;
        if after == before {
            return;
        }
        let ready: Vec<_> = self
            .log
            .steps()
            .filter(|s| s.id.to > before && s.id.to <= after)
            .filter_map(|s| s.end.as_ref().map(|(h, _)| *h))
            .collect();
        self.drain.forgetting = !ready.is_empty();
        for h in ready {
            if h.flags.contains(SetFlags::BITMAP_ONLY) {
                for child in self.consumers.clear() {
                    self.seed_outs.remove(&child);
                    let reason = format!(
                        "set {} is larger than the save volume: a catch-up follows",
                        h.step.to
                    );
                    self.desk.event(Event::Detached { child, reason });
                }
                self.forget_read();
                self.commit.request();
            }
            self.desk.event(Event::SetReady {
                set: h.step.to,
                blocks: h.block_count,
                cut_time: h.cut_time,
            });
        }
        self.desk.event(Event::Sendable);
        if let Some(demand) = self.demands.committed(after) {
            self.cut_answered(demand, after, true);
        }
    }

    fn cut_answered(&mut self, demand: Demand, state: SetNumber, fresh: bool) {
        self.desk.event(Event::CutDone { demand, state, fresh });
        self.pass_cut(demand, state, fresh);
        self.seed_outs_cut(demand, state, fresh);
    }
}
