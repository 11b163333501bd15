//! The lines of writers that a volume's states belong to: opened here, or told by a sender.

use rcp::proto::clock::Wall;
use rcp::proto::ids::Generation;

use super::Volume;

impl Volume {
    /// Opens a generation: this node is the volume's writer from the present state on.
    pub fn open_generation(&mut self, generation: Generation, at: Wall) {
        self.want.history.push(crate::mailbox::Branch {
            generation,
            forked_from: self.want.visible,
            opened_by: self.cfg.node.clone(),
            opened_at: at,
        });
        self.commit.request();
        self.pump();
    }

    /// Takes over the history a sender told.
    pub fn adopt_history(&mut self, history: Vec<crate::mailbox::Branch>) {
        if self.want.history != history {
            let line = |h: &[crate::mailbox::Branch]| h.last().map(|b| b.generation);
            if line(&self.want.history) != line(&history) {
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
