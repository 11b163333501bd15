//! The seeds' example, and a brute-force model with crashes and a small area.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use rcp::proto::ids::SetNumber;

use super::layout::{ENTRY, TABLE_AT};
use super::rig::{Rig, SIZE, layout};
use super::*;
use crate::units::{BlockCount, BlockIndex};

const ONE: BlockCount = BlockCount(1);

struct World {
    store: SnapshotStore,
    rig: Rig,
    blocks: u64,
}

impl World {
    fn new(blocks: u64, slots: u32) -> Self {
        let l = layout(slots);
        Self { store: SnapshotStore::new(l), rig: Rig::new(blocks as usize, &l), blocks }
    }

    fn write(&mut self, block: u64, content: u8) -> bool {
        if self.store.preserve(BlockIndex(block), ONE, &mut self.rig).is_err() {
            return false;
        }
        self.rig.base.write(block * SIZE as u64, &[content; SIZE]);
        true
    }

    fn read(&mut self, pin: PinId, block: u64) -> Result<u8, PinReadError> {
        let mut buf = [0; SIZE];
        self.store.read_block(pin, BlockIndex(block), &mut buf, &mut self.rig)?;
        assert!(buf.iter().all(|x| *x == buf[0]), "mixed content");
        Ok(buf[0])
    }

    fn content(&mut self, pin: PinId) -> Vec<u8> {
        (0..self.blocks).map(|b| self.read(pin, b).expect("readable")).collect()
    }

    fn base(&self) -> Vec<u8> {
        (0..self.blocks as usize).map(|b| self.rig.base.now[b * SIZE]).collect()
    }

    fn images(&mut self, pin: PinId) -> Vec<(u64, u8)> {
        let own: Vec<u64> = self.store.with(|i| i.pins[&pin].map.keys().copied().collect());
        own.into_iter().map(|b| (b, self.read(pin, b).expect("readable"))).collect()
    }

    fn diff(&self, older: PinId, younger: PinId) -> Vec<u64> {
        self.store.difference(older, younger).expect("a difference").iter().map(|b| b.0).collect()
    }

    /// Restart with these durable pins.
    fn recover(&mut self, listed: &[(PinId, SetNumber)]) {
        let l = self.store.layout();
        let table = &self.rig.area.now[TABLE_AT as usize..][..l.slots as usize * ENTRY];
        let area = &self.rig.area.now;
        let r = SnapshotStore::recover(l.volume, l.block, &area[..8192], table, listed);
        let r = r.expect("superblocks are whole");
        assert_eq!(r.damaged, []);
        let damaged = r.store.settle(&r.unproved, &mut self.rig).expect("memory");
        assert_eq!(damaged, [], "a crash is not damage");
        self.store = r.store;
    }
}

fn set(n: u64) -> SetNumber {
    SetNumber(n)
}

/// Vector 5.1: blocks a … h are 0 … 7; content "a1" is 1, and so on.
#[test]
fn the_seeds_example() {
    use PinKind::Ephemeral;
    let build = || {
        let mut w = World::new(8, 16);
        assert_eq!(w.store.needs_copy(BlockIndex(0), BlockCount(8)), []);
        let one = w.store.pin(set(1), Ephemeral);
        w.write(0, 1);
        w.write(1, 1);
        assert_eq!(w.base(), [1, 1, 0, 0, 0, 0, 0, 0]);
        assert_eq!(w.images(one), [(0, 0), (1, 0)]);
        assert_eq!(w.content(one), [0; 8]);
        // The derived continuation.
        let free = w.store.free_slots();
        w.write(0, 2);
        assert_eq!(w.store.free_slots(), free, "only the first change costs a copy");
        let two = w.store.pin(set(2), Ephemeral);
        w.write(0, 3);
        w.write(2, 1);
        assert_eq!(w.images(two), [(0, 2), (2, 0)]);
        (w, one, two)
    };
    let (mut w, one, two) = build();
    assert_eq!(w.content(one), [0; 8]);
    assert_eq!(w.content(two), [2, 1, 0, 0, 0, 0, 0, 0]);
    assert_eq!(w.base(), [3, 1, 1, 0, 0, 0, 0, 0]);
    let three = w.store.pin(set(3), Ephemeral);
    assert_eq!(w.diff(one, two), [0, 1]);
    assert_eq!(w.diff(one, three), [0, 1, 2]);
    assert_eq!(w.content(three)[..3], [3, 1, 1]);
    let e = SnapshotError::Order { older: two, younger: two };
    assert_eq!(w.store.difference(two, two), Err(e));
    assert!(w.store.difference(three, one).is_err());
    assert_eq!(w.store.difference(PinId(77), one), Err(SnapshotError::Unknown(PinId(77))));
    // Ranges: a and b from slots, c from the younger one's, the rest from the base.
    let found = w.store.lookup_range(one, BlockIndex(1), BlockCount(7)).expect("readable");
    assert_eq!(found.len(), 3);
    assert_eq!(found[2], ((BlockIndex(3), BlockCount(5)), Found::Base));

    // Delete the head: its slots are free, the others unchanged.
    let free = w.store.free_slots();
    w.store.release(one, Ephemeral).expect("held");
    assert_eq!(w.store.free_slots(), free + 2);
    assert_eq!(w.content(two), [2, 1, 0, 0, 0, 0, 0, 0]);
    assert_eq!(w.diff(two, three), [0, 2]);
    assert_eq!(w.store.release(one, Ephemeral), Err(SnapshotError::Unknown(one)));

    // Instead, delete the second: c0 moves to the first, a2 goes.
    let (mut w, one, two) = build();
    let three = w.store.pin(set(3), Ephemeral);
    let free = w.store.free_slots();
    w.store.release(two, Ephemeral).expect("held");
    assert_eq!(w.store.free_slots(), free + 1);
    assert_eq!(w.images(one), [(0, 0), (1, 0), (2, 0)]);
    assert_eq!(w.content(one), [0; 8]);
    assert_eq!(w.diff(one, three), [0, 1, 2]);
}

#[test]
fn pins_of_one_state_share() {
    let mut w = World::new(4, 8);
    let a = w.store.pin(set(5), PinKind::Ephemeral);
    w.write(0, 1);
    let b = w.store.pin(set(5), PinKind::Durable);
    assert_eq!((a, w.store.find(set(5))), (b, Some(a)));
    w.store.release(a, PinKind::Ephemeral).expect("held");
    assert_eq!(w.content(b), [0; 4]);
    assert_eq!(w.store.durable_pins(), [(a, set(5))]);
    assert!(w.store.release(a, PinKind::Ephemeral).is_err(), "not held that way");
    w.store.new_line();
    assert_ne!(w.store.pin(set(5), PinKind::Ephemeral), a, "another history's state 5");
}

/// A writer saves before it takes its ticket, so that a pin may come in between.
#[test]
fn a_pin_made_while_an_image_is_being_saved() {
    let mut w = World::new(4, 8);
    let one = w.store.pin(set(1), PinKind::Ephemeral);
    let Reserve::Slot(r) = w.store.reserve(BlockIndex(2)) else { panic!("there is room") };
    assert!(!r.must_sync);
    assert_eq!(w.store.reserve(BlockIndex(2)), Reserve::Wait, "one saver at a time");
    assert_eq!(w.store.share(one, PinKind::Durable), Err(SnapshotError::Busy(one)));
    let two = w.store.pin(set(1), PinKind::Durable);
    assert_ne!(one, two, "that image would not be synced for it");
    let crc = crc32c::crc32c(&[0; SIZE]);
    w.rig.area.write(r.offset, &[0; SIZE]);
    w.rig.area.write(r.entry_offset, &w.store.entry(&r, crc));
    assert!(w.store.commit_copy(&r, crc));
    assert_eq!(w.store.needs_copy(BlockIndex(0), BlockCount(4)).len(), 4, "asked again");
    let Reserve::Slot(again) = w.store.reserve(BlockIndex(2)) else { panic!("there is room") };
    assert!(again.must_sync);
    w.store.abort_copy(&again);
    assert!(w.write(2, 7));
    assert_eq!((w.content(one), w.content(two)), (vec![0; 4], vec![0; 4]));
    assert_eq!(w.diff(one, two), [2], "too much at most");
}

#[test]
fn a_full_area_breaks_readers_first_and_durable_pins_loudly() {
    use PinKind::{Durable, Ephemeral};
    let mut w = World::new(8, 3);
    let old = w.store.pin(set(1), Durable);
    let reader = w.store.pin(set(2), Ephemeral);
    (0..3).for_each(|b| assert!(w.write(b, 1)));
    let young = w.store.pin(set(3), Ephemeral);
    assert!(w.write(3, 1), "the writer never stops");
    let broken = |w: &World, p| w.store.info(p).and_then(|i| i.broken).is_some();
    // All three slots serve the durable pin; no reader's end would free one; so all go.
    assert!([old, reader, young].iter().all(|p| broken(&w, *p)));
    let durable: Vec<bool> = w
        .store
        .take_events()
        .iter()
        .map(|e| matches!(e, SnapshotEvent::Broken { durable: true, .. }))
        .collect();
    assert_eq!(durable, [false, false, true], "the durable one last");
    assert!(w.read(old, 0).is_err());
    assert_eq!(w.store.free_slots(), 3);
    // It stays broken over a crash, even if the mailbox still lists it.
    let next = w.store.pin(set(4), Durable);
    w.rig.base.sync();
    w.write(0, 9);
    w.rig.area.cut(0);
    w.recover(&[(old, set(1)), (next, set(4))]);
    assert!(broken(&w, old) && w.content(next)[0] == 1);
    w.store.release(old, Durable).expect("held");
    assert_eq!(w.store.info(old), None);
}

#[derive(Clone, Debug)]
enum Step {
    Write(u64, u8),
    Pin(bool),
    Release(usize),
    Crash(u64),
    /// The process alone ends: what was written stays, in the system's cache.
    Killed,
    CrashInWrite(u64, u32, u64, bool),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        8 => (0..10u64, any::<u8>()).prop_map(|(b, v)| Step::Write(b, v)),
        3 => any::<bool>().prop_map(Step::Pin),
        2 => any::<usize>().prop_map(Step::Release),
        1 => any::<u64>().prop_map(Step::Crash),
        1 => Just(Step::Killed),
        2 => (0..10u64, 0..6u32, any::<u64>(), any::<bool>())
            .prop_map(|(b, n, p, x)| Step::CrashInWrite(b, n, p, x)),
    ];
    prop::collection::vec(step, 1..60)
}

#[derive(Default)]
struct Model {
    /// Content at the pin, writes before it, and how it is held.
    pins: BTreeMap<PinId, (Vec<u8>, usize, PinKind)>,
    log: Vec<u64>,
    /// Saved by a write that a crash cut short: may show as changed.
    attempted: BTreeSet<u64>,
    sets: u64,
}

impl Model {
    fn check(&self, w: &mut World) {
        let mut readable = Vec::new();
        for (id, (content, at, kind)) in &self.pins {
            let info = w.store.info(*id).expect("held");
            if info.broken.is_some() {
                assert!(w.read(*id, 0).is_err());
            } else {
                assert_eq!(w.content(*id), *content, "{id:?} {kind:?}");
                readable.push((*id, *at));
            }
        }
        for (i, (older, from)) in readable.iter().enumerate() {
            let now = (None, self.log.len());
            let younger = readable[i + 1..].iter().map(|(id, at)| (Some(*id), *at)).chain([now]);
            for (y, to) in younger {
                let changed = match y {
                    Some(y) => w.store.difference(*older, y),
                    None => w.store.changed_since(*older),
                };
                let got: BTreeSet<u64> = changed.expect("readable").iter().map(|b| b.0).collect();
                let want: BTreeSet<u64> = self.log[*from..to].iter().copied().collect();
                assert!(got.is_superset(&want), "{older:?} to {y:?}: {got:?}, {want:?}");
                assert!(got.difference(&want).all(|b| self.attempted.contains(b)));
            }
        }
        let used = w.store.with(|i| i.pins.values().map(|p| p.map.len()).sum::<usize>());
        assert!(w.store.free_slots() as usize + used <= w.store.layout().slots as usize);
    }

    /// A power cut that keeps some sectors, or only the end of the process.
    fn crash(&mut self, w: &mut World, pick: Option<u64>) {
        let breach = w.rig.fuse.take().is_some() && w.store.free_slots() == 0;
        if let Some(pick) = pick {
            w.rig.base.cut(pick);
            w.rig.area.cut(!pick);
        }
        self.pins.retain(|_, (_, _, kind)| *kind == PinKind::Durable);
        let broken: Vec<PinId> =
            self.pins.keys().copied().filter(|p| w.store.check(*p).is_err()).collect();
        let listed: Vec<_> = self.pins.keys().map(|id| (*id, set(0))).collect();
        w.recover(&listed);
        assert!(broken.iter().all(|p| w.store.check(*p).is_err()), "stays broken");
        // A breach under way may have reached the disk: broken too early, but not in silence.
        let kept = |p: &PinId| broken.contains(p) || w.store.check(*p).is_ok();
        assert!(breach || listed.iter().all(|(p, _)| kept(p)));
    }
}

impl SnapshotStore {
    fn check(&self, pin: PinId) -> Result<(), SnapshotError> {
        self.lookup(pin, BlockIndex(0)).map(|_| ())
    }
}

#[test]
fn a_pin_of_a_line_that_ended_is_shared_by_none_of_the_same_number() {
    let mut w = World::new(4, 8);
    w.write(0, 1);
    let branch = w.store.pin(SetNumber(7), PinKind::Durable);
    w.store.close_line(branch);
    w.write(0, 2);
    // Set 7 of the line that is followed now.
    let visible = w.store.pin(SetNumber(7), PinKind::Ephemeral);
    assert_ne!(visible, branch);
    assert_eq!((w.read(branch, 0), w.read(visible, 0)), (Ok(1), Ok(2)));
    w.store.release(visible, PinKind::Ephemeral).expect("held");
    assert_ne!(w.store.pin(SetNumber(7), PinKind::Ephemeral), branch);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    #[test]
    fn it_agrees_with_copies(slots in 2u32..40, steps in steps()) {
        let mut w = World::new(10, slots);
        let mut m = Model::default();
        for step in steps {
            match step {
                Step::Write(b, v) => {
                    prop_assert!(w.write(b, v), "a full area never stops the writer");
                    m.log.push(b);
                }
                Step::Pin(durable) => {
                    let kind = if durable { PinKind::Durable } else { PinKind::Ephemeral };
                    m.sets += 1;
                    let id = w.store.pin(set(m.sets), kind);
                    if durable {
                        w.rig.base.sync();
                        w.rig.area.sync();
                    }
                    m.pins.insert(id, (w.base(), m.log.len(), kind));
                }
                Step::Release(n) if !m.pins.is_empty() => {
                    let id = *m.pins.keys().nth(n % m.pins.len()).expect("in range");
                    let (_, _, kind) = m.pins.remove(&id).expect("there");
                    w.store.release(id, kind).expect("held");
                }
                Step::Release(_) => {}
                Step::Crash(pick) => m.crash(&mut w, Some(pick)),
                Step::Killed => m.crash(&mut w, None),
                Step::CrashInWrite(b, calls, pick, power) => {
                    w.rig.fuse = Some(calls);
                    if w.write(b, 77) {
                        m.log.push(b);
                    } else {
                        m.attempted.insert(b);
                    }
                    m.crash(&mut w, power.then_some(pick));
                }
            }
            m.check(&mut w);
        }
    }
}
