//! What must hold of the places of children, and of what is staged: worked out from the records of the
//! log and from the slot. Slow: the simulator asks, a node does not.

use rcp::proto::delta::{Chunk, SetFlags};
use rcp::proto::ids::{NodeName, SetNumber};

use super::{Role, Volume};
use crate::mailbox::StageMark;
use crate::save::{RecordKind, RecordMeta};

/// A child's place in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Whose.
    pub child: NodeName,
    /// A session with the child is up.
    pub live: bool,
    /// The child holds more than this node: nothing is sent to it until that is here.
    pub waits: bool,
    /// What it gets leads it to this state, which it does not have yet.
    pub led: Option<SetNumber>,
}

impl Volume {
    /// Every child's place.
    pub fn places(&self) -> impl Iterator<Item = Place> {
        self.consumers.iter().map(|(child, c)| {
            let (live, waits, led) = c.standing();
            Place { child: child.clone(), live, waits, led }
        })
    }

    /// Whether places and what is staged fit the log.
    pub(super) fn audit_places(&self) -> Result<(), String> {
        let d = &self.durable;
        // What was given up may lie between a place and the first record behind it.
        let (head, most) = (d.log_head, 2 * self.log.ring().capacity());
        if let Some(c) = d.consumers.iter().find(|c| c.acked.0 + most < head.0) {
            let (name, at) = (&c.name, c.acked);
            return Err(format!("the slot has {name} at {at:?}, which is long gone at {head:?}"));
        }
        if let Role::Primary { .. } = self.cfg.role {
            let open = self.log.steps().filter(|s| s.id.to > d.visible);
            let bare = |f: &SetFlags| f.contains(SetFlags::BITMAP_ONLY);
            let mut whole = open.filter(|s| !s.end.as_ref().is_some_and(|(h, _)| bare(&h.flags)));
            if let Some(s) = whole.find(|s| s.first < self.log.tail()) {
                return Err(format!(
                    "set {} is not finished, and its begin is given back",
                    s.id.to
                ));
            }
        }
        let marked = d.seed.is_none() && self.stage_is_marked();
        d.staged.filter(|_| marked).map_or(Ok(()), |mark| self.audit_staged(mark))
    }

    /// The slot says of a staged catch-up no more than is in the part of the log that it names, and no
    /// less.
    fn audit_staged(&self, mark: StageMark) -> Result<(), String> {
        let head = self.durable.log_head;
        let mut staged = self.log.steps().filter(|s| s.is_staged() && s.id.to == mark.from);
        let Some(step) = staged.next() else { return Ok(()) };
        let ended = step.end.as_ref().is_some_and(|(_, end)| *end <= head);
        if mark.need.is_some() != ended {
            return Err(format!(
                "the slot has {mark:?}, and the end of the step is there: {ended}"
            ));
        }
        let first = |r: &RecordMeta| {
            let chunk = Chunk::parse(r.cached.clone()?).ok()?;
            chunk.extents().next().map(|e| e.block)
        };
        let all = self.log.records_from(step.first).take_while(|r| r.to == mark.from);
        let all: Vec<_> = all.filter(|r| r.kind == RecordKind::Chunk).collect();
        let behind = all.iter().find(|r| r.end() > head).and_then(|r| first(r));
        if let Some(block) = behind.filter(|b| *b < mark.next_block) {
            let next = mark.next_block;
            return Err(format!(
                "the slot goes on at block {next}, and does not name block {block}"
            ));
        }
        let before = all.iter().rev().find(|r| r.end() <= head).and_then(|r| first(r));
        if let Some(block) = before.filter(|b| *b >= mark.next_block) {
            return Err(format!("the slot names block {block}, and goes on at it: {mark:?}"));
        }
        Ok(())
    }

    /// What is shown, and stays, was acknowledged once nothing is left to commit; while a catch-up is
    /// staged, the state that it leads to is what the parent waits for.
    pub(super) fn shown_is_told(&self) -> bool {
        let (d, told) = (&self.durable, self.commit.told());
        let silent = matches!(self.cfg.role, Role::Primary { .. })
            || told == Default::default()
            || d.seed.is_some()
            || self.staging.is_some()
            || d.hidden_until > d.visible;
        silent || told.0 >= d.visible
    }
}
