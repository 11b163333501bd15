//! Places that are taken for a while: few from one address, and not many altogether.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use parking_lot::Mutex;

#[derive(Debug, Default)]
struct Taken {
    all: usize,
    by: BTreeMap<IpAddr, usize>,
}

/// The places for one purpose.
#[derive(Debug)]
pub(super) struct Places {
    most: usize,
    from_one: usize,
    taken: Mutex<Taken>,
}

/// One of them, until dropped.
#[derive(Debug)]
pub(super) struct Place {
    of: Arc<Places>,
    from: IpAddr,
}

impl Places {
    pub(super) fn new(most: usize, from_one: usize) -> Arc<Self> {
        Arc::new(Self { most, from_one, taken: Mutex::default() })
    }

    /// A place for somebody at this address, if there is one.
    pub(super) fn take(self: &Arc<Self>, from: IpAddr) -> Option<Place> {
        let from = from.to_canonical();
        let mut t = self.taken.lock();
        let here = t.by.get(&from).copied().unwrap_or(0);
        if t.all >= self.most || here >= self.from_one {
            return None;
        }
        t.all += 1;
        t.by.insert(from, here + 1);
        Some(Place { of: self.clone(), from })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut t = self.of.taken.lock();
        t.all = t.all.saturating_sub(1);
        if let Some(n) = t.by.get_mut(&self.from) {
            *n -= 1;
            if *n == 0 {
                t.by.remove(&self.from);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_leaves_places_for_others() {
        let ip = |last| IpAddr::from([192, 0, 2, last]);
        let places = Places::new(3, 2);
        let mut first: Vec<_> = (0..4).map_while(|_| places.take(ip(1))).collect();
        assert_eq!(first.len(), 2);
        let _other = places.take(ip(2)).expect("a place");
        assert!(places.take(ip(3)).is_none(), "all are taken");
        first.pop();
        assert!(places.take(ip(2)).is_some());
        drop(first);
        assert_eq!(places.taken.lock().by.len(), 1);
    }
}
