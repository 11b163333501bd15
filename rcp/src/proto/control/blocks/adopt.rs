//! Children that come and go while a block is under way.

use super::Blocks;
use crate::proto::clock::Mono;
use crate::proto::ids::{GroupName, NodeName};

impl<A: Copy, C: Copy> Blocks<A, C> {
    /// A node is a child from now on that was below one before: it is told what that one has not
    /// finished, and is waited for.
    pub fn adopt(&mut self, group: &GroupName, child: &NodeName, of: &NodeName) {
        for p in self.pending.values_mut().filter(|p| p.group == *group && p.waiting.contains(of)) {
            if p.children.insert(child.clone()) {
                p.waiting.insert(child.clone());
                // What children say has room of its own.
                p.text -= p.said_by(child);
            }
        }
    }

    /// The reverse of [`Blocks::adopt`]: it is not waited for here any more, and what is said of it
    /// may come through another.
    pub fn passed_on(&mut self, group: &GroupName, child: &NodeName, now: Mono) {
        for id in self.ids() {
            let Some(p) = self.pending.get_mut(&id).filter(|p| p.group == *group) else { continue };
            if p.children.remove(child) {
                p.text += p.said_by(child);
            }
            if p.waiting.remove(child) {
                self.check(id, now);
            }
        }
    }
}
