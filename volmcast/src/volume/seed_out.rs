//! Sending seeds: the present content, extent by extent, to any number of children (COPY-05, 06).
//!
//! ```text
//! Waiting ─► Idle ─► Mapping ─► Reading ─► Encoding ─► Idle … ─► Ending ─► (done)
//!   until the base holds        one extent at a time, as credit allows
//!   what the child folded
//! ```
//!
//! Extents are read from the base as it is, without pinning it: whatever changed after the child
//! joined the live stream also comes in a set. `view` names the newest state an extent may include.

use std::collections::BTreeMap;

use rcp::proto::delta::{Chunk, ChunkFlags, DeltaError, StepId};
use rcp::proto::ids::{ChunkNumber, NodeName, SetNumber};

use super::desk::{Purpose, Work};
use super::{Event, Role, Volume};
use crate::io::{FileId, Op, Outcome};
use crate::units::BlockIndex;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Waiting {
        folded: SetNumber,
    },
    Idle,
    Busy,
    /// All extents are sent; the end is told once a cut names the state (primary).
    Ending,
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
}

/// Seeds being sent, by child.
#[derive(Debug, Default)]
pub(super) struct SeedOuts {
    map: BTreeMap<NodeName, SeedOut>,
    last_session: u64,
}

impl SeedOuts {
    pub(super) fn remove(&mut self, child: &NodeName) {
        self.map.remove(child);
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
            _ => self.refusal(),
        }
    }

    /// At a relay, before a child attaches: why a seed cannot pass through to it now, if so. Extents
    /// do not come from here.
    pub fn relay_cannot_seed(&mut self, why: Option<String>) {
        self.relay_refusal = why;
    }

    pub(super) fn seed_out_begin(&mut self, child: &NodeName, block: u64, folded: SetNumber) {
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
        };
        self.seed_outs.map.insert(child.clone(), s);
    }

    /// The child grants `total` bytes of extents in this session, and holds blocks before `next`.
    pub fn seed_out_credit(&mut self, child: &NodeName, total: u64) {
        if let Some(s) = self.seed_outs.map.get_mut(child) {
            s.credit = s.credit.max(total);
            self.pump();
        }
    }

    /// How far a child's seed is: blocks sent.
    #[must_use]
    pub fn seed_out_progress(&self, child: &NodeName) -> Option<u64> {
        self.seed_outs.map.get(child).map(|s| s.next)
    }

    pub(super) fn pump_seed_outs(&mut self) {
        let held = match self.cfg.role {
            Role::Primary { .. } => self.durable.visible,
            _ => self.want.merged,
        };
        let bs = self.cfg.block_size;
        let mut start = Vec::new();
        for (child, s) in &mut self.seed_outs.map {
            if let State::Waiting { folded } = s.state
                && held >= folded
            {
                s.state = State::Idle;
            }
            if s.state == State::Idle && s.sent < s.credit {
                s.state = State::Busy;
                start.push((child.clone(), s.session, s.next));
            }
        }
        for (child, session, next) in start {
            if next >= self.want.blocks.0 {
                self.seed_out_end(&child);
                continue;
            }
            let op = Op::NextData { offset: bs.offset(BlockIndex(next)) };
            self.desk.io(Purpose::SeedOutMap { child, session }, FileId::Base, op);
        }
    }

    pub(super) fn seed_out_mapped(&mut self, child: &NodeName, session: u64, outcome: Outcome) {
        let (bs, blocks) = (self.cfg.block_size, self.want.blocks.0);
        let Some(s) = self.seed_outs.entry_busy(child, session) else { return };
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
                let purpose = Purpose::SeedOutRead { child: child.clone(), session, first };
                self.desk.io(purpose, FileId::Base, op);
            }
            Outcome::NextData(None) => self.seed_out_end(child),
            other => self.fail_io("map of the volume's content", &other),
        }
    }

    pub(super) fn seed_out_read(
        &mut self,
        child: &NodeName,
        session: u64,
        first: u64,
        outcome: Outcome,
    ) {
        let data = match outcome {
            Outcome::Read(b) => b,
            other => {
                self.fail_io("read from the volume's content", &other);
                return;
            }
        };
        // What was read may hold writes up to this moment.
        let view = match self.cfg.role {
            Role::Primary { .. } => self.open_set(),
            _ => self.want.visible,
        };
        let shift = self.cfg.block_size.shift();
        let next_block = first + (data.len() as u64 >> shift);
        let id = StepId {
            volume: self.cfg.volume,
            generation: self.want.generation().unwrap_or_default(),
            base: SetNumber::ZERO,
            to: view,
            attempt: self.want.attempt,
        };
        let draft =
            super::draft::draft(id, ChunkNumber(0), ChunkFlags::SEED, shift, &[(first, data)]);
        let purpose = Purpose::SeedEncode { child: child.clone(), session, next_block, view };
        self.desk.work(purpose, Work::Encode(Box::new(draft), self.cfg.compression));
    }

    pub(super) fn seed_out_encoded(
        &mut self,
        child: NodeName,
        session: u64,
        next_block: u64,
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
        s.sent += chunk.bytes().len() as u64;
        s.next = next_block;
        s.view = s.view.max(view);
        s.state = State::Idle;
        self.desk.event(Event::SeedChunk { child, next_block, view, chunk });
    }

    fn seed_out_end(&mut self, child: &NodeName) {
        let blocks = self.want.blocks.0;
        let Some(s) = self.seed_outs.map.get_mut(child) else { return };
        s.state = State::Ending;
        s.next = blocks;
        if matches!(self.cfg.role, Role::Primary { .. }) {
            // The newest writes that were read are in the open set: it must be closed.
            self.demand_cut(false);
        } else {
            let need = s.view.max(self.want.visible);
            self.seed_outs.map.remove(child);
            self.desk.event(Event::SeedEnd { child: child.clone(), need });
        }
    }

    /// A cut was made or found needless: seeds that waited for it end with its state.
    /// A set that was cut before the last extents were read does not close what they show.
    pub(super) fn seed_outs_cut(&mut self, state: SetNumber, fresh: bool) {
        let done: Vec<_> = self
            .seed_outs
            .map
            .iter()
            .filter(|(_, s)| s.state == State::Ending && (!fresh || s.view <= state))
            .map(|(c, _)| c.clone())
            .collect();
        for child in done {
            self.seed_outs.map.remove(&child);
            self.desk.event(Event::SeedEnd { child, need: state });
        }
    }
}
