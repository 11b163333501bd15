//! Blows at moments at which little holds: a node has just followed another line, begun or ended a
//! seed, or pinned a state. It crashes then, and its newest mailbox slot may be lost with it.

use rcp::proto::ids::Generation;

use super::node::SimNode;
use super::world::{Event, World};

/// In a hundred moments, so many are struck at.
const STRUCK: u64 = 40;

/// What makes a moment, when it changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Moment {
    line: Option<Generation>,
    seeding: bool,
    pins: usize,
}

impl SimNode {
    fn moment_now(&self) -> Option<Moment> {
        let v = self.volume()?;
        let line = v.durable().generation();
        let pins = v.config().snapshots.durable_pins().len();
        Some(Moment { line, seeding: v.durable().seed.is_some(), pins })
    }
}

impl World {
    /// A node was called: perhaps this is a moment.
    pub(super) fn look_for_moment(&mut self, n: usize) {
        if !self.opt.moments || self.calm.is_some() {
            return;
        }
        let now = self.nodes[n].moment_now();
        let was = std::mem::replace(&mut self.nodes[n].moment, now);
        if was.is_none() || now.is_none() || was == now || !self.rng.percent(STRUCK) {
            return;
        }
        // At once, or after some requests of the disk.
        let most = *self.rng.pick(&[100, 3_000, 30_000]).unwrap_or(&100);
        let life = self.nodes[n].life;
        self.after(1, most, Event::Struck { node: n, life });
    }

    /// The blow falls.
    pub(super) fn strike_node(&mut self, n: usize) {
        self.counters.hit("struck at a moment");
        self.crash(n);
        if self.rng.percent(50) && !self.nodes[n].slot_lost {
            self.lose_slot(n);
        }
    }
}
