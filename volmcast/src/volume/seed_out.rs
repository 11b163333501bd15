//! Sending seeds and catch-ups: the present content, all of it or the blocks that changed after a
//! state, extent by extent, to any number of children (COPY-05, 06; SAVE-11).
//!
//! ```text
//! Waiting ─► (Planning) ─► Idle ─► Mapping ─► Reading ─► Encoding ─► Idle … ─► Ending ─► (done)
//!   until the base holds    │             one extent at a time, as credit allows
//!   what the child folded   what changed is read
//! ```
//!
//! Extents are read from the base as it is, without pinning it: whatever changed after the child
//! joined the live stream also comes in a set. `view` names the newest state an extent may include.

use std::collections::BTreeMap;

use bytes::Bytes;
use rcp::proto::delta::{Chunk, ChunkFlags, DeltaError, StepId};
use rcp::proto::ids::{ChunkNumber, NodeName, SetNumber};

use super::changes::Reader;
use super::coalesce::Queued;
use super::demands::Demand;
use super::desk::{Purpose, Work};
use super::{Attached, Event, Role, Volume};
use crate::bitmap::{BlockSet, Run};
use crate::digest::{hashes_in, table_range, tells};
use crate::io::{FileId, Op, Outcome};
use crate::units::{BlockCount, BlockIndex};

/// How often content is read before it counts as damaged.
const PROOFS: u32 = 3;
/// Most blocks of one extent of a catch-up: each may need an entry of its own.
const MAX_EXTENT_BLOCKS: u64 = 2048;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Waiting {
        folded: SetNumber,
    },
    /// A catch-up: what changed is being read.
    Planning,
    Idle,
    Busy,
    /// All extents are sent; the end is told once the answer to this demand names the state
    /// (primary).
    Ending(Demand),
}

#[derive(Debug)]
struct SeedOut {
    /// Tells its requests from those of a seed to the same child that has ended.
    session: u64,
    state: State,
    next: u64,
    sent: u64,
    credit: u64,
    view: SetNumber,
    /// How often in a row the content of an extent was not what its hashes say.
    proofs: u32,
    catch_up: Option<CatchUp>,
}

/// What makes a seed a catch-up.
#[derive(Debug)]
struct CatchUp {
    /// The child's content is that of this state, but for blocks that changed later.
    over: SetNumber,
    /// Blocks that the child wants, whatever changed.
    doubts: BlockSet,
    /// Those blocks, once they are known.
    plan: BlockSet,
    sent: u64,
    /// The child has no answer yet: the state at which it joins, and why it must.
    answer: Option<(SetNumber, String)>,
    /// The sets that the child lacks are here: it gets them, unless this is less.
    queued: Option<Queued>,
}

/// How much of a seed or catch-up has been sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SeedProgress {
    /// Blocks that were passed (seed) or sent (catch-up).
    pub done: u64,
    /// Of how many.
    pub of: u64,
    /// It is a catch-up.
    pub catch_up: bool,
}

/// Seeds being sent, by child.
#[derive(Debug, Default)]
pub(super) struct SeedOuts {
    map: BTreeMap<NodeName, SeedOut>,
    /// What children that are about to attach want again.
    doubts: BTreeMap<NodeName, BlockSet>,
    last_session: u64,
    /// Bytes of extents sent since the start: of seeds, of catch-ups.
    sent: (u64, u64),
}

impl SeedOuts {
    /// A catch-up that waits for its list: the state over which it is.
    pub(super) fn planning(&self, child: &NodeName, session: u64) -> Option<SetNumber> {
        let s = self.map.get(child).filter(|s| s.state == State::Planning)?;
        s.catch_up.as_ref().filter(|_| s.session == session).map(|c| c.over)
    }

    /// A catch-up that was begun is one only if it is less than a queue.
    pub(super) fn queued(&mut self, child: &NodeName, queued: Queued) {
        if let Some(c) = self.map.get_mut(child).and_then(|s| s.catch_up.as_mut()) {
            c.queued = Some(queued);
        }
    }

    pub(super) fn remove(&mut self, child: &NodeName) {
        self.map.remove(child);
    }

    /// Extents for some child may be read, and nothing of it is under way.
    pub(super) fn may_go_on(&self) -> bool {
        self.map.values().any(|s| s.state == State::Idle && s.sent < s.credit)
    }

    /// The child is in the middle of a seed or catch-up.
    pub(super) fn has(&self, child: &NodeName) -> bool {
        self.map.contains_key(child)
    }

    fn entry_busy(&mut self, child: &NodeName, session: u64) -> Option<&mut SeedOut> {
        self.map.get_mut(child).filter(|s| s.state == State::Busy && s.session == session)
    }
}

impl Volume {
    /// Why this node cannot seed anybody now.
    pub(super) fn cannot_seed(&self) -> Option<String> {
        match self.cfg.role {
            Role::Relay => self.relay_refusal.clone(),
            _ => self.unwhole().or_else(|| self.stage_words()),
        }
    }

    /// At a relay, before a child attaches: why a seed cannot pass through to it now, if so. Extents
    /// do not come from here.
    pub fn relay_cannot_seed(&mut self, why: Option<String>) {
        self.relay_refusal = why;
    }

    /// Begins a seed at a block, or a catch-up `over` a state. `answer`: the child waits to hear
    /// what it lacks; the state at which it joins and why.
    pub(super) fn seed_out_begin(
        &mut self,
        child: &NodeName,
        block: u64,
        folded: SetNumber,
        over: Option<SetNumber>,
        answer: Option<(SetNumber, String)>,
    ) {
        let doubts = self.seed_outs.doubts.remove(child).unwrap_or_default();
        if matches!(self.cfg.role, Role::Relay) {
            return;
        }
        self.seed_outs.last_session += 1;
        let s = SeedOut {
            session: self.seed_outs.last_session,
            state: State::Waiting { folded },
            next: block,
            sent: 0,
            credit: 0,
            view: SetNumber::ZERO,
            proofs: 0,
            catch_up: over.map(|over| {
                let plan = BlockSet::new();
                CatchUp { over, doubts, plan, sent: 0, answer, queued: None }
            }),
        };
        self.seed_outs.map.insert(child.clone(), s);
    }

    pub(super) fn seed_outs_doubts(&mut self, child: &NodeName, blocks: BlockSet) {
        self.seed_outs.doubts.remove(child);
        if !blocks.is_empty() {
            self.seed_outs.doubts.insert(child.clone(), blocks);
        }
    }

    /// The list was written anew while it was read.
    pub(super) fn seed_out_plan_again(&mut self, child: &NodeName, session: u64) {
        if self.seed_outs.planning(child, session).is_some()
            && let Some(s) = self.seed_outs.map.get_mut(child)
        {
            s.state = State::Waiting { folded: SetNumber::ZERO };
        }
    }

    /// What a child lacks is known, or why not.
    pub(super) fn seed_out_planned(
        &mut self,
        child: &NodeName,
        session: u64,
        plan: Result<BlockSet, String>,
    ) {
        if self.seed_outs.planning(child, session).is_none() {
            return;
        }
        let catch_up = self.seed_outs.map.get_mut(child).and_then(|s| s.catch_up.as_mut());
        if let Some(queued) = catch_up.and_then(|c| c.queued.take()) {
            let union = plan.as_ref().ok().map(|p| p.count().0);
            let Some(words) = self.coalesce(child, queued, union) else { return };
            let s = self.seed_outs.map.get_mut(child);
            if let Some((_, reason)) =
                s.and_then(|s| s.catch_up.as_mut()).and_then(|c| c.answer.as_mut())
            {
                *reason = words;
            }
        }
        let shift = self.cfg.block_size.shift();
        let Some(s) = self.seed_outs.map.get_mut(child) else { return };
        s.state = State::Idle;
        let Some(c) = &mut s.catch_up else { return };
        let answer = c.answer.take();
        match (plan, answer) {
            (Ok(mut plan), answer) => {
                plan.union(&c.doubts);
                plan.remove_range(BlockIndex(0), BlockCount(s.next));
                let blocks = plan.count().0;
                c.plan = plan;
                let Some((from, reason)) = answer else { return };
                let answer = Attached::CatchUp { from, reason, blocks, bytes: blocks << shift };
                self.desk.event(Event::Planned { child: child.clone(), answer });
            }
            (Err(why), Some((from, reason))) => {
                s.catch_up = None;
                let answer = Attached::Seed { from, reason: format!("{reason}; {why}") };
                self.desk.event(Event::Planned { child: child.clone(), answer });
            }
            (Err(why), None) => {
                self.consumer_forget(child);
                let reason = format!("its catch-up cannot go on: {why}");
                self.desk.event(Event::Detached { child: child.clone(), reason });
            }
        }
    }

    /// Bytes of extents sent since the start: of seeds, and of catch-ups.
    #[must_use]
    pub fn extents_sent(&self) -> (u64, u64) {
        self.seed_outs.sent
    }

    /// The child grants `total` bytes of extents in this session, and holds blocks before `next`.
    pub fn seed_out_credit(&mut self, child: &NodeName, total: u64) {
        if let Some(s) = self.seed_outs.map.get_mut(child) {
            s.credit = s.credit.max(total);
            self.pump();
        }
    }

    /// How far a child's seed or catch-up is.
    #[must_use]
    pub fn seed_out_progress(&self, child: &NodeName) -> Option<SeedProgress> {
        self.seed_outs.map.get(child).map(|s| match &s.catch_up {
            None => SeedProgress { done: s.next, of: self.want.blocks.0, catch_up: false },
            Some(c) => SeedProgress { done: c.sent, of: c.plan.count().0, catch_up: true },
        })
    }

    pub(super) fn pump_seed_outs(&mut self) {
        let held = match self.cfg.role {
            Role::Primary { .. } => self.durable.visible,
            _ => self.want.merged,
        };
        let listed = self.durable.merged;
        let bs = self.cfg.block_size;
        let (mut start, mut plan) = (Vec::new(), Vec::new());
        for (child, s) in &mut self.seed_outs.map {
            if let State::Waiting { folded } = s.state
                && held >= folded
            {
                if s.catch_up.is_none() {
                    s.state = State::Idle;
                } else if listed >= folded {
                    s.state = State::Planning;
                    plan.push((child.clone(), s.session));
                }
            }
            if s.state == State::Idle && s.sent < s.credit {
                start.push((child.clone(), s.session, s.next));
            }
        }
        if !start.is_empty() && !self.may_leave(self.content_is_of()) {
            start.clear();
        }
        for reader in plan {
            let (child, session) = reader;
            self.changes_read(Reader::Child(child, session));
        }
        // One that ends has all of them looked at again.
        for (child, ..) in &start {
            if let Some(s) = self.seed_outs.map.get_mut(child) {
                s.state = State::Busy;
            }
        }
        for (child, session, next) in start {
            if self.seed_outs.map.get(&child).is_some_and(|s| s.catch_up.is_some()) {
                self.seed_out_changed(child, session, next);
                continue;
            }
            if next >= self.want.blocks.0 {
                self.seed_out_end(&child);
                continue;
            }
            let op = Op::NextData { offset: bs.offset(BlockIndex(next)) };
            self.desk.io(Purpose::SeedOutMap { child, session }, FileId::Base, op);
        }
    }

    /// Reads the next of the blocks that changed.
    fn seed_out_changed(&mut self, child: NodeName, session: u64, next: u64) {
        let bs = self.cfg.block_size;
        let Some(c) = self.seed_outs.map.get(&child).and_then(|s| s.catch_up.as_ref()) else {
            return;
        };
        let mut room = (self.cfg.chunk_bytes >> bs.shift()).clamp(1, MAX_EXTENT_BLOCKS);
        let (mut runs, mut at): (Vec<Run>, _) = (Vec::new(), BlockIndex(next));
        while room > 0 {
            let Some((first, n)) = c.plan.next_run(at, BlockCount(room)) else { break };
            runs.push((first, n));
            at = BlockIndex(first.0 + n.0);
            room -= n.0;
        }
        if runs.is_empty() {
            self.seed_out_end(&child);
            return;
        }
        let bytes = |n: BlockCount| usize::try_from(n.0 << bs.shift()).unwrap_or(0);
        let ranges = runs.iter().map(|(b, n)| (bs.offset(*b), bytes(*n))).collect();
        let purpose = Purpose::SeedOutRead { child, session, runs };
        self.desk.io(purpose, FileId::Base, Op::Gather { ranges });
    }

    pub(super) fn seed_out_mapped(&mut self, child: &NodeName, session: u64, outcome: Outcome) {
        let (bs, blocks) = (self.cfg.block_size, self.want.blocks.0);
        let primary = matches!(self.cfg.role, Role::Primary { .. });
        let reaches = if primary { self.content_is_of() } else { SetNumber::ZERO };
        let Some(s) = self.seed_outs.entry_busy(child, session) else { return };
        // A hole that was passed may be of the open set, as content that is read may be.
        s.view = s.view.max(reaches);
        match outcome {
            Outcome::NextData(Some((from, to))) => {
                let first = (from >> bs.shift()).max(s.next);
                let last = to.div_ceil(bs.bytes()).min(blocks);
                let most = (self.cfg.chunk_bytes >> bs.shift()).max(1);
                let count = last.saturating_sub(first).min(most);
                if count == 0 {
                    self.seed_out_end(child);
                    return;
                }
                let op = Op::Read {
                    offset: bs.offset(BlockIndex(first)),
                    len: usize::try_from(count << bs.shift()).unwrap_or(0),
                };
                let runs = vec![(BlockIndex(first), BlockCount(count))];
                let purpose = Purpose::SeedOutRead { child: child.clone(), session, runs };
                self.desk.io(purpose, FileId::Base, op);
            }
            Outcome::NextData(None) => self.seed_out_end(child),
            other => self.fail_io("map of the volume's content", &other),
        }
    }

    /// At a primary: both slots say that an extent with content of `view` may have left, or that set
    /// is finished. Who has the extent waits for the set, perhaps at another node, and a crash can
    /// give its content to the set before it.
    fn may_leave(&mut self, view: SetNumber) -> bool {
        let primary = matches!(self.cfg.role, Role::Primary { .. });
        if !primary || view <= self.durable.visible.max(self.durable.outgoing) {
            return true;
        }
        if self.want.outgoing < view {
            self.want.outgoing = view;
            self.commit.request();
        }
        false
    }

    /// Extents have left that may hold content of a set whose number never came: it was given up, or
    /// its blocks were in the set before it after a crash.
    pub(super) fn owes_a_set(&self) -> bool {
        self.want.outgoing > self.want.visible
    }

    /// Newest state that anything of the content may be of: at a primary that of the set which is being
    /// filled, if there is anything in it.
    fn content_is_of(&self) -> SetNumber {
        if !matches!(self.cfg.role, Role::Primary { .. }) {
            return self.want.visible;
        }
        let open = self.open_set();
        let clean = self.capture().is_some_and(|c| c.dirty_bytes() == 0);
        if clean { SetNumber(open.0 - 1) } else { open }
    }

    pub(super) fn seed_out_read(
        &mut self,
        child: &NodeName,
        session: u64,
        runs: &[Run],
        outcome: Outcome,
    ) {
        let data = match outcome {
            Outcome::Read(b) => b,
            other => {
                self.fail_io("read from the volume's content", &other);
                return;
            }
        };
        if (self.is_hashed() && self.durable.seed.is_none()) || self.digest.proves {
            // What is damaged here must not be passed on.
            let ranges = runs.iter().map(|(b, n)| table_range(b.0, n.0)).collect();
            let (child, runs) = (child.clone(), runs.to_vec());
            let purpose = Purpose::SeedOutProof { child, session, runs, content: data };
            self.desk.io(purpose, FileId::Hashes, Op::Gather { ranges });
            return;
        }
        self.seed_out_content(child, session, runs, &data);
    }

    /// Holds content against its hashes; a block of a step that is not merged proves nothing, and
    /// follows in the live stream.
    pub(super) fn seed_out_proof(
        &mut self,
        child: &NodeName,
        session: u64,
        runs: &[Run],
        content: Bytes,
        outcome: Outcome,
    ) {
        let table = match outcome {
            Outcome::Read(b) => b,
            other => {
                self.fail_io("read from the table of hashes", &other);
                return;
            }
        };
        let size = 1usize << self.cfg.block_size.shift();
        let blocks = runs.iter().flat_map(|(b, n)| b.0..b.0 + n.0);
        let wrong = blocks
            .zip(content.chunks(size))
            .zip(hashes_in(&table))
            .filter(|((b, c), h)| tells(*h, *b, c))
            .map(|((b, _), _)| b)
            .find(|b| self.is_proven(*b) && !rcp::planted!(DamagePassedOn));
        let Some(s) = self.seed_outs.entry_busy(child, session) else { return };
        let Some(block) = wrong else {
            s.proofs = 0;
            self.seed_out_content(child, session, runs, &content);
            return;
        };
        s.proofs += 1;
        if s.proofs < PROOFS {
            // It may have been merged between the two reads.
            s.state = State::Idle;
            return;
        }
        self.board.doubt(block);
        self.consumer_forget(child);
        let reason = format!(
            "block {block} is damaged here; what {child} lacks waits for it to be whole again"
        );
        self.desk.event(Event::Detached { child: child.clone(), reason });
    }

    fn seed_out_content(&mut self, child: &NodeName, session: u64, runs: &[Run], data: &Bytes) {
        // What was read may hold writes up to this moment.
        let view = self.content_is_of();
        if !self.may_leave(view) {
            if let Some(s) = self.seed_outs.entry_busy(child, session) {
                s.state = State::Idle;
            }
            return;
        }
        let shift = self.cfg.block_size.shift();
        let (mut pieces, mut at, mut next_block, mut blocks) = (Vec::new(), 0, 0, 0);
        for (first, n) in runs {
            let end = at + usize::try_from(n.0 << shift).unwrap_or(usize::MAX);
            let Some(_) = data.get(at..end) else {
                self.fail("internal: the blocks of an extent came short".to_owned());
                return;
            };
            pieces.push((first.0, data.slice(at..end)));
            at = end;
            next_block = first.0 + n.0;
            blocks += n.0;
        }
        let id = StepId {
            volume: self.cfg.volume,
            generation: self.want.generation().unwrap_or_default(),
            base: SetNumber::ZERO,
            to: view,
            attempt: self.want.attempt,
        };
        let draft = super::draft::draft(id, ChunkNumber(0), ChunkFlags::SEED, shift, &pieces);
        let child = child.clone();
        let purpose = Purpose::SeedEncode { child, session, next_block, blocks, view };
        self.desk.work(purpose, Work::Encode(Box::new(draft), self.cfg.compression));
    }

    pub(super) fn seed_out_encoded(
        &mut self,
        child: NodeName,
        session: u64,
        (next_block, blocks): (u64, u64),
        view: SetNumber,
        chunk: Result<Chunk, DeltaError>,
    ) {
        let chunk = match chunk {
            Ok(c) => c,
            Err(e) => {
                self.fail(format!("internal: an extent could not be built: {e}"));
                return;
            }
        };
        let Some(s) = self.seed_outs.entry_busy(&child, session) else { return };
        let len = chunk.bytes().len() as u64;
        s.sent += len;
        s.next = next_block;
        let catch_up = s.catch_up.is_some();
        if let Some(c) = &mut s.catch_up {
            c.sent += blocks;
        }
        s.view = s.view.max(view);
        s.state = State::Idle;
        let (seeds, catch_ups) = &mut self.seed_outs.sent;
        *(if catch_up { catch_ups } else { seeds }) += len;
        self.desk.event(Event::SeedChunk { child, next_block, view, chunk });
    }

    fn seed_out_end(&mut self, child: &NodeName) {
        let blocks = self.want.blocks.0;
        let Some(s) = self.seed_outs.map.get_mut(child) else { return };
        s.next = blocks;
        if matches!(self.cfg.role, Role::Primary { .. }) {
            // The newest writes that were read are in the open set: it must be closed.
            self.seed_out_demands_cut(child);
            self.pump();
        } else {
            let need = s.view.max(self.want.visible);
            self.seed_out_ends(child.clone(), need);
        }
    }

    /// All of it was sent: with the sets up to `need` it is a state.
    fn seed_out_ends(&mut self, child: NodeName, need: SetNumber) {
        self.seed_outs.map.remove(&child);
        self.consumers.leads_to(&child, need);
        self.coalesce_later(&child);
        self.desk.event(Event::SeedEnd { child, need });
    }

    fn seed_out_demands_cut(&mut self, child: &NodeName) {
        let demand = self.add_demand(false);
        if let Some(s) = self.seed_outs.map.get_mut(child) {
            s.state = State::Ending(demand);
        }
    }

    /// A demand was answered, by a cut or because nothing had changed: seeds that waited for it end
    /// with that state, unless newer content was read for them. Then they wait for the next cut.
    pub(super) fn seed_outs_cut(&mut self, demand: Demand, state: SetNumber, fresh: bool) {
        let unchanged = !fresh && state == self.durable.visible;
        let answered = |s: &SeedOut| matches!(s.state, State::Ending(own) if own <= demand);
        let (done, again): (Vec<_>, Vec<_>) = self
            .seed_outs
            .map
            .iter()
            .filter(|(_, s)| answered(s))
            .map(|(child, s)| (child.clone(), unchanged || s.view <= state))
            .partition(|(_, ends)| *ends);
        for (child, _) in done {
            self.seed_out_ends(child, state);
        }
        // A set that was given up gave its number to the next one, with all its content: what was
        // read under a higher number is in that.
        for (child, _) in again {
            self.seed_out_demands_cut(&child);
        }
    }
}
