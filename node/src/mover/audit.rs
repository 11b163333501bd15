//! What must hold of a mover between two calls. Slow: the simulator asks, a node does not.

use volmcast::volume::Place;

use super::sending::Stage;
use super::{Held, Mover};

impl Mover {
    /// Whether what is kept for children fits the connections to them, and what is said of them.
    ///
    /// # Errors
    /// What does not, in words.
    pub fn audit(&self) -> Result<(), String> {
        for (id, h) in self.volumes.iter().filter(|(_, h)| h.volume.failure().is_none()) {
            let of = |p: &Place| self.audit_place(h, p).map_err(|e| format!("{}: {e}", p.child));
            h.volume.places().try_for_each(|p| of(&p))?;
            let outs = self.conns.values().flat_map(|c| c.streams_out.values());
            for out in outs.filter(|o| o.volume == *id) {
                let went = out.went();
                if out.sent < went || h.fill.sent < went {
                    let (child, all) = (out.sent, h.fill.sent);
                    return Err(format!("{went} bytes went, and it counts {child} of {all}"));
                }
            }
        }
        Ok(())
    }

    fn audit_place(&self, h: &Held, p: &Place) -> Result<(), String> {
        let Some(g) = self.groups.get(&h.group) else { return Ok(()) };
        let conn = g.links.get(&p.child).and_then(|l| l.conn);
        let id = h.volume.config().volume;
        let mut outs =
            conn.and_then(|c| self.conns.get(&c)).into_iter().flat_map(|c| &c.streams_out);
        let out = outs.find(|(_, o)| o.volume == id).map(|(_, o)| o);
        match out {
            None if p.live => Err("its connection has ended, and it is taken for there".to_owned()),
            Some(o) if p.live && p.waits && o.stage == Stage::Streaming => {
                Err("it waits until more is here, and is said to be sent what comes".to_owned())
            }
            _ => Ok(()),
        }
    }
}
