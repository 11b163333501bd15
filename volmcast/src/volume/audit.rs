//! What must hold of a volume between two calls. Slow: the simulator asks, a node does not.

use super::{Role, Volume};

/// What holds or not, and what is wrong if it does not.
pub(super) type Held = (bool, &'static str);

impl Volume {
    /// Whether the parts of the volume agree with each other.
    ///
    /// # Errors
    /// Which do not, in words.
    pub fn audit(&self) -> Result<(), String> {
        // One that stopped is left as it was.
        if self.failed.is_some() {
            return Ok(());
        }
        self.log.audit()?;
        self.audit_places()?;
        for (name, c) in self.consumers.iter() {
            let (acked, next, head) = (c.acked(), c.cursor(), self.log.head());
            if acked.max(next) > head {
                let at = format!("{acked:?} and goes on at {next:?}");
                return Err(format!("{name} acknowledged {at}, and all ends at {head:?}"));
            }
            let (_, _, led) = c.standing();
            if let Some(to) = led.filter(|to| *to <= c.said()) {
                let said = c.said();
                return Err(format!("{name} is led to set {to}, and acknowledged {said}"));
            }
        }
        let at_rest = if self.commit.is_busy() { Vec::new() } else { self.held_at_rest() };
        let all = self.held().into_iter().chain(self.held_in_work()).chain(at_rest);
        let broken = all.filter(|(holds, _)| !holds);
        let broken: Vec<_> = broken.map(|(_, what)| what).collect();
        if broken.is_empty() { Ok(()) } else { Err(broken.join("; ")) }
    }

    /// At any time.
    fn held(&self) -> Vec<Held> {
        let d = &self.durable;
        let written = self.log.written().max(self.log.tail());
        vec![
            (d.log_tail <= self.log.tail(), "the slot's tail is beyond that of the log"),
            (d.log_head <= written, "the slot names what is not written"),
            (d.log_tail <= d.log_head, "the slot's tail is beyond its head"),
            (d.merged <= d.visible || d.seed.is_some(), "more is merged than shown"),
            (d.seed.is_none() || d.staged.is_none(), "it is seeded and stages at the same time"),
            (d.had_children || d.consumers.is_empty(), "it has children and never had any"),
        ]
    }

    /// While no commit is under way or to come: nothing is left that only a commit makes durable.
    fn held_at_rest(&self) -> Vec<Held> {
        let (d, w) = (&self.durable, &self.want);
        let primary = matches!(self.cfg.role, Role::Primary { .. });
        let written = self.log.written().max(self.log.tail());
        // A state whose blocks were lost is still named until the next slot.
        let kept = self.listed().filter(|k| !primary || k.set <= d.visible);
        let named = d.consumers.iter().map(|c| &c.name);
        let left = d.visible.max(d.outgoing);
        let (saved, told) = (self.saved_position(), self.commit.told());
        // Before a stream has started nobody was told anything.
        let silent = primary || told == Default::default() || self.stage_base(saved.0).is_some();
        vec![
            (d.history == w.history, "the slot has other lines"),
            (d.visible == w.visible, "the slot shows another state"),
            (d.merged == w.merged, "the slot has another merged state"),
            (d.hidden_until == w.hidden_until, "the slot hides up to another state"),
            (d.seed.is_some() == w.seed.is_some(), "the slot has another mark of a seed"),
            (primary || d.log_head == written, "the slot does not name all that was written"),
            (left >= w.outgoing, "the slot does not name what left in an extent"),
            (kept.into_iter().all(|k| d.kept.contains(&k)), "the slot lacks a kept state"),
            (named.eq(self.consumers.iter().map(|(n, _)| n)), "the slot has other children"),
            (!self.commit.owes_a_reset(), "the slot does not know that the log was emptied"),
            (silent || saved <= told, "the parent was not told all that is durable"),
            (self.shown_is_told(), "the parent was not told what is shown"),
        ]
    }
}
