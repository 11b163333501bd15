//! The lines of writers that a volume's states belong to: opened here, or told by a sender.

use rcp::proto::clock::Wall;
use rcp::proto::ids::Generation;

use super::{Role, Volume};
use crate::mailbox::Branch;

impl Volume {
    /// Opens a generation: this node is the volume's writer from its newest finished set on. A set
    /// that is being made belongs to the line before; the new one begins when that is committed, and
    /// no other set is begun before.
    pub fn open_generation(&mut self, generation: Generation, at: Wall) {
        self.drain.opening = Some((generation, at));
        if matches!(self.cfg.role, Role::Primary { .. }) {
            self.open_when_settled();
        }
        self.pump();
    }

    /// A line that was to be opened is not: false if it is already.
    pub fn forget_opening(&mut self) -> bool {
        self.drain.opening.take().is_some()
    }

    /// Every set that was begun is finished, and durable.
    fn is_settled(&self) -> bool {
        self.drain.is_idle()
            && self.log.open_step().is_none()
            && self.want.visible == self.durable.visible
            && self.log.state() == self.durable.visible
    }

    pub(super) fn open_when_settled(&mut self) {
        if !self.is_settled() {
            return;
        }
        let Some((generation, opened_at)) = self.drain.opening.take() else { return };
        self.want.history.push(Branch {
            generation,
            forked_from: self.want.visible,
            opened_by: self.cfg.node.clone(),
            opened_at,
        });
        self.commit.request();
    }

    /// Takes over the history a sender told.
    pub fn adopt_history(&mut self, history: Vec<Branch>) {
        if self.want.history != history {
            let line = |h: &[Branch]| h.last().map(|b| b.generation);
            if line(&self.want.history) != line(&history) {
                // What is staged may hold more of the old line than any set that came.
                if self.stage_lacks() {
                    self.stage_drop();
                }
                // What came of the old writer's open set will never be whole.
                let open = self.log.open_step().map(|s| s.id);
                let of = open.and_then(|s| crate::history::line_of(&history, s.to));
                if open.is_some_and(|s| of != Some(s.generation)) {
                    self.log.abandon_open_step();
                    self.intake.building = None;
                    self.intake.partial = false;
                }
            }
            self.want.history = history;
            self.commit.request();
            self.pump();
        }
    }
}
