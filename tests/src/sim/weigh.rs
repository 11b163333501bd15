//! What catch-ups may cost: the blocks that changed, and no others.

use std::collections::BTreeSet;

use rcp::proto::delta::ChunkFlags;
use rcp::proto::frame::{DecodedFrame, Frame, StartMode, Verified};
use rcp::proto::ids::SetNumber;
use volmcast::volume::Work;

use super::world::World;

impl World {
    /// The primary builds a chunk of a set.
    pub fn note_encoded(&mut self, work: &Work) {
        let Work::Encode(draft, _) = work else { return };
        if draft.flags.contains(ChunkFlags::SEED) {
            return;
        }
        let (to, attempt) = (draft.step.to, draft.step.attempt);
        let entry = self.set_blocks.entry(to).or_insert_with(|| (attempt, BTreeSet::new()));
        if entry.0 != attempt {
            *entry = (attempt, BTreeSet::new());
        }
        entry.1.extend(draft.extents.iter().flat_map(|e| e.block..e.end()));
    }

    /// A frame goes from `n` to `to`.
    pub fn weigh(&mut self, n: usize, to: usize, frame: &DecodedFrame) {
        match (&frame.frame, &frame.content) {
            (Frame::Attach(a), _) => self.nodes[n].over = a.over,
            (Frame::Start(s), _) if n == 0 && !self.opt.turns => {
                self.nodes[to].announced = None;
                if let StartMode::CatchUp { blocks, .. } = s.mode {
                    self.nodes[to].announced = Some((blocks, 0));
                    self.weigh_plan(to, s.from, blocks);
                }
            }
            (Frame::SeedData { seq, .. }, Verified::Chunk(c)) if n == 0 && !self.opt.turns => {
                let blocks = c.block_count();
                let Some((left, next)) = self.nodes[to].announced else { return };
                if *seq < next {
                    // Again, because the connection that it went over was lost.
                    return;
                }
                if left < blocks {
                    self.fail(format!("n{to} gets more blocks than its catch-up announced"));
                }
                self.nodes[to].announced = left.checked_sub(blocks).map(|left| (left, seq + 1));
                self.counters.add("blocks sent by catch-ups", blocks);
            }
            _ => {}
        }
    }

    /// The primary announces so many blocks: at most those of the sets that the child lacks.
    fn weigh_plan(&mut self, to: usize, from: SetNumber, blocks: u64) {
        let (Some(over), Some(v)) = (self.nodes[to].over, self.nodes[0].volume()) else { return };
        let rows = v.status().sets;
        let mut union: BTreeSet<u64> = BTreeSet::new();
        for set in over.0 + 1..=from.0 {
            let known = self.set_blocks.get(&SetNumber(set)).map(|(_, b)| b);
            let count = rows.iter().find(|r| r.set.0 == set).map(|r| r.blocks);
            // The blocks of a set without data are not seen here.
            let Some(b) = known.filter(|b| Some(b.len() as u64) == count) else { return };
            union.extend(b);
        }
        if self.nodes[to].spoilt.is_some() || self.nodes[to].unproven {
            // It may ask for blocks that no set changed.
            self.counters.hit("catch-up of damaged blocks");
            return;
        }
        self.counters.hit("catch-up weighed");
        self.counters.add("blocks that catch-ups had to send", union.len() as u64);
        self.counters.add("blocks that catch-ups announced", blocks);
        // A list that is too small for its sets is coarser than they are.
        if self.opt.changes > 64 << 10 && blocks > union.len() as u64 {
            self.fail(format!(
                "a catch-up of n{to} from {over} to {from} has {blocks} blocks, the sets {}",
                union.len()
            ));
        }
    }
}
