//! Chunks on their way into the save volume, and the digest of the set that they make.

use rcp::proto::ids::ChunkNumber;

use super::Phase;
use crate::digest::Sum;
use crate::io::Outcome;
use crate::save::RecordKind;
use crate::volume::Volume;
use crate::volume::stalls::Part;

impl Volume {
    /// Appends encoded chunks in their order, as far as there is room.
    pub(super) fn append_encoded(&mut self) {
        loop {
            let Phase::Draining(set) = &mut self.drain.phase else { return };
            let Some(chunk) = set.encoded.get(&set.appended).map(|(c, _)| c.clone()) else {
                return;
            };
            let (id, n) = (set.id, ChunkNumber(set.appended));
            if self.too_large_to_send(chunk.bytes().len() as u64) {
                self.give_data_up();
                return;
            }
            let Some((pos, end)) = self.append(RecordKind::Chunk, id.to, n, chunk.bytes()) else {
                self.no_room_for_set();
                return;
            };
            self.log.enter_chunk(pos, id, n, chunk.body_crc(), end.since(pos));
            let Phase::Draining(set) = &mut self.drain.phase else { return };
            set.appended += 1;
            let Some((chunk, hashes)) = set.encoded.remove(&n.0) else { return };
            if set.digest.is_some() {
                set.unhashed.push((chunk.clone(), Sum::of(&hashes)));
            }
            self.fold_fresh(pos, &chunk, hashes);
        }
    }

    /// Reads the hashes that the set replaces, once the table holds the set before it.
    pub(super) fn drain_hashes(&mut self) {
        let applied = self.digest.fold.applied();
        let Phase::Draining(set) = &mut self.drain.phase else { return };
        if applied != Some(set.id.base) {
            if applied.is_none_or(|a| a > set.id.base) && !self.keeps_table() {
                let Phase::Draining(set) = &mut self.drain.phase else { return };
                set.digest = None;
                set.unhashed.clear();
            }
            return;
        }
        let attempt = set.id.attempt;
        let chunks = std::mem::take(&mut set.unhashed);
        set.hash_reads += chunks.len();
        for (chunk, new) in chunks {
            self.drain_old_hashes(attempt, &chunk, new);
        }
    }

    pub(in super::super) fn drain_hashes_read(&mut self, new: Sum, outcome: &Outcome) {
        let Phase::Draining(set) = &mut self.drain.phase else { return };
        set.hash_reads -= 1;
        match outcome {
            Outcome::Read(b) => {
                // Without an old hash the sum of this set cannot be told; that of a later one can.
                set.digest = set.digest.and_then(|d| Some(d.and(new).minus(Sum::of_table(b)?)));
            }
            other => self.fail_io("read from the table of hashes", other),
        }
    }

    /// The save volume is full in the middle of a set. If nothing but the set itself is in it, it
    /// can never fit.
    pub(super) fn no_room_for_set(&mut self) {
        self.make_room();
        let only_this = self.log.open_step().is_some_and(|s| s.first <= self.log.tail());
        if !only_this || self.log.reclaimable() > 0 {
            return;
        }
        self.give_data_up();
    }

    /// A receiver keeps part of its save volume free while a set arrives: one with as much room as
    /// this node could not take the set under way with `more` bytes, and would wait for ever.
    fn too_large_to_send(&self, more: u64) -> bool {
        let first = self.log.open_step().map(|s| s.first);
        let have = first.map_or(0, |first| self.log.head().since(first));
        have + more > self.log.ring().capacity() / 4 * 3
    }

    /// The set under way goes on without its data.
    fn give_data_up(&mut self) {
        let Phase::Draining(set) = &mut self.drain.phase else { return };
        set.without_data = true;
        let (to, capacity) = (set.id.to, self.log.ring().capacity());
        self.log.abandon_open_step();
        self.commit.request();
        let words = format!(
            "set {to} is larger than what a save volume of {capacity} bytes takes: replicas get over \
             it by a catch-up; enlarge `save` or lower `hwm`"
        );
        self.stalls.set(Part::Sets, words);
    }
}
