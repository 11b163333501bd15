//! The clocks for people: each node has its own, half of the worlds' are wrong, and jump.

use rcp::proto::clock::Wall;

use super::rng::Rng;
use super::world::{Event, World};

/// What the clocks showed when the world began.
const BEGAN: u64 = 1_700_000_000_000_000;
const SECOND: u64 = 1_000_000;
/// How far a clock is off: a second, minutes, an hour, a year.
const ASTRAY: [u64; 4] = [SECOND, 300 * SECOND, 3_600 * SECOND, 365 * 86_400 * SECOND];

/// How far each node's clock is off.
pub(super) struct Clocks {
    /// Chance of its own: what else happens in a world does not depend on its clocks.
    rng: Rng,
    ahead: Vec<i64>,
    /// They are right, and stay so.
    right: bool,
}

impl Clocks {
    pub(super) fn new(seed: u64, nodes: usize) -> Self {
        let mut rng = Rng::new(seed ^ 0xc10c_c10c);
        let right = rng.percent(50);
        let mut clocks = Self { rng, ahead: vec![0; nodes], right };
        for n in 0..nodes {
            if !right {
                clocks.jump(n);
            }
        }
        clocks
    }

    /// What a node's clock shows, `now` microseconds into the world.
    pub(super) fn at(&self, node: usize, now: u64) -> Wall {
        Wall((BEGAN + now).saturating_add_signed(self.ahead[node]))
    }

    /// Sets it anew: right, or wrong, forwards or backwards.
    fn jump(&mut self, node: usize) {
        let most = *self.rng.pick(&ASTRAY).unwrap_or(&SECOND);
        let by = self.rng.below(most).cast_signed();
        self.ahead[node] = match self.rng.below(4) {
            0 => 0,
            1 => by,
            _ => -by,
        };
    }
}

impl World {
    /// When the next clock jumps.
    pub(super) fn next_jump(&mut self) {
        if !self.clocks.right {
            let at = self.now + self.clocks.rng.range(100_000, 3 * SECOND);
            self.at(at, Event::Jump);
        }
    }

    /// A clock jumps; not any more once faults are over.
    pub(super) fn jump(&mut self) {
        if self.calm.is_some() {
            return;
        }
        let nodes = self.nodes.len();
        let n = usize::try_from(self.clocks.rng.below(nodes as u64)).unwrap_or(0);
        let before = self.clocks.ahead[n];
        self.clocks.jump(n);
        let by = self.clocks.ahead[n].saturating_sub(before);
        self.counters.hit("clock jumped");
        self.say(format!("the clock of n{n} jumps by {:.3} s", by as f64 / 1e6));
        self.next_jump();
    }
}
