//! Connections that have not said yet what they are.
//!
//! They are few at a time. Who comes when there is no room takes the place of the one that has
//! waited longest: whoever speaks is through within milliseconds, so that thousands who say nothing
//! push out one another and keep nobody else away.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use crate::limits::{MAX_CLASSIFYING, MAX_CLASSIFYING_FROM_ONE};

#[derive(Debug, Default)]
struct Waiting {
    next: u64,
    guests: BTreeMap<u64, (IpAddr, CancellationToken)>,
}

/// Those who wait, in the order in which they came.
#[derive(Debug, Default)]
pub(super) struct Lobby(Mutex<Waiting>);

/// One who waits, until dropped or let through.
#[derive(Debug)]
pub(super) struct Guest {
    lobby: Arc<Lobby>,
    id: u64,
    out: CancellationToken,
}

impl Lobby {
    /// Lets somebody in, and perhaps another one out.
    pub(super) fn enter(self: &Arc<Self>, from: IpAddr) -> Guest {
        let from = from.to_canonical();
        let mut w = self.0.lock();
        let mut same = w.guests.iter().filter(|(_, (a, _))| *a == from).map(|(id, _)| *id);
        let oldest_same = same.next();
        let crowd = oldest_same.map_or(0, |_| 1 + same.count());
        let leaves = if crowd >= MAX_CLASSIFYING_FROM_ONE {
            oldest_same
        } else if w.guests.len() >= MAX_CLASSIFYING {
            w.guests.keys().next().copied()
        } else {
            None
        };
        if let Some((_, out)) = leaves.and_then(|id| w.guests.remove(&id)) {
            out.cancel();
        }
        let (id, out) = (w.next, CancellationToken::new());
        w.next += 1;
        w.guests.insert(id, (from, out.clone()));
        Guest { lobby: self.clone(), id, out }
    }
}

impl Guest {
    /// It has said what it is, and may stay.
    pub(super) fn through(&self) {
        self.lobby.0.lock().guests.remove(&self.id);
    }

    /// Ends when somebody else needs the place.
    pub(super) fn out(&self) -> CancellationToken {
        self.out.clone()
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.through();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(last: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, last])
    }

    #[test]
    fn the_silent_push_out_one_another_and_nobody_who_spoke() {
        let lobby = Arc::new(Lobby::default());
        let spoke = lobby.enter(ip(0));
        spoke.through();
        let guests: Vec<_> = (0..MAX_CLASSIFYING)
            .map(|i| lobby.enter(ip(u8::try_from(i * 4 / MAX_CLASSIFYING).unwrap())))
            .collect();
        assert!(guests.iter().all(|g| !g.out().is_cancelled()));
        let late = lobby.enter(ip(200));
        let out: Vec<_> = guests.iter().map(|g| g.out().is_cancelled()).collect();
        assert!(out[0] && !out[1..].contains(&true), "the first to come");
        assert!(!spoke.out().is_cancelled() && !late.out().is_cancelled());
        // Whoever leaves makes room.
        drop(guests);
        assert_eq!(lobby.0.lock().guests.len(), 1);
    }

    #[test]
    fn one_address_pushes_out_its_own() {
        let lobby = Arc::new(Lobby::default());
        let other = lobby.enter(ip(1));
        let all: Vec<_> = (0..3 * MAX_CLASSIFYING).map(|_| lobby.enter(ip(2))).collect();
        assert!(!other.out().is_cancelled());
        let stay = all.iter().filter(|g| !g.out().is_cancelled()).count();
        assert_eq!(stay, MAX_CLASSIFYING_FROM_ONE);
        assert!(!all[all.len() - 1].out().is_cancelled());
    }
}
