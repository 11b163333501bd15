//! What happens when the area is full: who is broken, in which order.

use super::index::{BreachWrite, BrokenBecause, Index, PinId, SnapshotEvent};
use super::layout::AreaState;

/// What can be done about a full area.
#[derive(Debug)]
pub(super) enum Room {
    /// A reader's pin was broken, or nobody needs room any more: look again.
    Made,
    /// Another durable pin is being broken: look again once that is done.
    OneAtATime,
    /// This must be made durable first.
    Breach(BreachWrite),
}

impl Index {
    /// Breaks one ephemeral pin: the oldest whose end frees a slot, else the oldest. If there is
    /// none, names the oldest durable one, whose end must be made durable first.
    pub(super) fn make_room(&mut self) -> Room {
        let of_readers = || self.pins.iter().filter(|(_, p)| p.durable == 0).map(|(id, _)| *id);
        if let Some(id) = of_readers().find(|id| self.frees(*id)).or_else(|| of_readers().next()) {
            self.break_pin(id, BrokenBecause::AreaFull);
            return Room::Made;
        }
        if self.breaching {
            return Room::OneAtATime;
        }
        let Some((pin, _)) = self.pins.first_key_value() else { return Room::Made };
        let pin = *pin;
        self.breaching = true;
        let state = AreaState { broken_through: pin, sequence: self.state.sequence + 1 };
        Room::Breach(BreachWrite { pin, offset: 0, bytes: self.layout.superblocks(state) })
    }

    /// Whether the end of a pin would free a slot: an image that its older neighbour has, or that
    /// nobody older could want.
    fn frees(&self, id: PinId) -> bool {
        let Some(pin) = self.pins.get(&id) else { return false };
        match self.pins.range(..id).next_back() {
            None => !pin.map.is_empty(),
            Some((_, older)) => pin.map.keys().any(|b| older.map.contains_key(b)),
        }
    }

    /// The superblock that breaks a durable pin is durable.
    pub(super) fn breach_written(&mut self, pin: PinId) {
        self.breaching = false;
        if pin > self.state.broken_through {
            self.state = AreaState { broken_through: pin, sequence: self.state.sequence + 1 };
        }
        let gone: Vec<PinId> =
            self.pins.range(..=pin).filter(|(_, p)| p.durable > 0).map(|(id, _)| *id).collect();
        for id in gone {
            self.break_pin(id, BrokenBecause::AreaFull);
        }
    }

    pub(super) fn break_pin(&mut self, id: PinId, because: BrokenBecause) {
        let Some(mut pin) = self.pins.remove(&id) else { return };
        let (set, durable) = (pin.set, pin.durable > 0);
        self.events.push_back(SnapshotEvent::Broken { pin: id, set, durable, because });
        self.fold(id, std::mem::take(&mut pin.map));
        self.broken.insert(id, (pin, because));
    }
}
