//! What would be found if the power went just now, perhaps with the newest mailbox slot or a bit of the
//! save volume: a copy of the files is opened, and nothing of it is seen by the simulated world.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use node::volumes::ReplicaVolume;
use node::volumes::open::{self, OpenPlan};
use volmcast::history::line_of;
use volmcast::io::FileId;
use volmcast::mailbox::{Mailbox, SLOT_LEN};
use volmcast::save::Budget;
use volmcast::snapshots::PinId;
use volmcast::view::Pin;
use volmcast::volume::{Event, Volume};

use super::super::disk::{Disk, SharedDisk};
use super::super::model::{Model, State};
use super::super::node::SimNode;
use super::super::options::Kind;
use super::super::rng::Rng;
use super::super::world::World;

/// One step in so many is followed by a trial.
const TRIED: u64 = 1009;

/// What goes beside the power.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Loss {
    Nothing,
    /// The newest mailbox slot.
    Slot,
    /// The same, and a bit of the save volume.
    SlotAndBit,
    /// A bit of the save volume.
    Bit,
}

impl Loss {
    fn hit(self) -> &'static str {
        match self {
            Self::Nothing => "opened on trial",
            Self::Slot => "opened on trial without the newest slot",
            Self::SlotAndBit => {
                "opened on trial without the newest slot and a bit of the save volume"
            }
            Self::Bit => "opened on trial without a bit of the save volume",
        }
    }
}

/// Spoils what is to be lost; false if there is nothing to lose.
fn lose(d: &mut Disk, loss: Loss, rng: &mut Rng) -> bool {
    let slots: Vec<_> = d
        .bytes(FileId::Mailbox)
        .chunks(SLOT_LEN)
        .map(|s| Mailbox::decode(s).ok().map(|m| (m.sequence, m.log_tail, m.log_head)))
        .collect();
    let [Some(a), Some(b)] = slots[..] else { return loss == Loss::Nothing };
    let (older, newer) = if a.0 < b.0 { (a, b) } else { (b, a) };
    if matches!(loss, Loss::Slot | Loss::SlotAndBit) {
        d.flip(FileId::Mailbox, Mailbox::slot_offset(newer.0) + 60, 3);
    }
    if matches!(loss, Loss::Bit | Loss::SlotAndBit) {
        // Among the records that the newer slot names, or the older one does not, or behind both.
        let from = if rng.percent(50) { older.2.min(newer.2) } else { older.1 };
        let save = d.bytes(FileId::Save).len() as u64;
        let at = from.0 + rng.below(newer.2.since(from).max(4096) + 512);
        d.flip(FileId::Save, at % save.max(1), u8::try_from(rng.below(8)).unwrap_or(0));
    }
    true
}

impl World {
    /// Opens a copy of a node's files, now and then.
    pub(in super::super) fn try_opening(&mut self, n: usize) {
        let steps = self.counters.2.all();
        if !steps.is_multiple_of(TRIED) || self.nodes[n].mover.is_none() {
            return;
        }
        // Its own chance: the world goes on as if nothing had been.
        let mut rng = Rng::new(self.seed ^ steps.rotate_left(32));
        let all = [Loss::Nothing, Loss::Slot, Loss::Slot, Loss::SlotAndBit, Loss::Bit];
        let loss = *rng.pick(&all).unwrap_or(&Loss::Nothing);
        match self.opened_on_trial(n, loss, &mut rng) {
            Ok(true) => self.counters.hit(loss.hit()),
            Ok(false) => {}
            Err(e) => self.fail(format!("n{n}: if the power went now ({loss:?} lost): {e}")),
        }
    }

    fn opened_on_trial(&mut self, n: usize, loss: Loss, rng: &mut Rng) -> Result<bool, String> {
        let node = &self.nodes[n];
        let stored = node.on_disk.as_ref().or(node.identity.as_ref());
        let (Some(disk), Some(identity)) = (&node.disk, stored) else { return Ok(false) };
        let mut copy = disk.0.borrow().clone();
        copy.crash(rng);
        if !lose(&mut copy, loss, rng) {
            return Ok(false);
        }
        let disk = SharedDisk(Rc::new(RefCell::new(copy)));
        let files = node.files_to_open(identity, &disk);
        let Some(reading) = files.read() else { return Ok(false) };
        let plan = OpenPlan { budget: Budget::new(self.opt.cache / 2), ..node.plan.clone() };
        let (now, wall) = (self.mono(), self.wall(n));
        let mut m = open::assemble(identity, &plan, &node.tuning, &disk, now, wall)
            .map_err(|e| e.to_string())?;
        reading.check(&m.volume)?;
        if let Some(found) = reading.found() {
            self.counters.hit(found);
        }
        let node = &self.nodes[n];
        let rotten = node.damaged() || node.rotten_before.is_some() || node.slot_lost;
        if rotten || !matches!(loss, Loss::Nothing | Loss::Slot) {
            return Ok(true);
        }
        if files.kind == Kind::Relay {
            return Ok(true);
        }
        let (board, bs) = (m.volume.board().clone(), self.opt.block_size);
        #[allow(clippy::arc_with_non_send_sync)]
        let states = ReplicaVolume::new(Arc::new(disk), board, m.ring, bs);
        if files.kind == Kind::Primary {
            self.has_what_left(&m.volume)?;
        } else {
            self.shows_a_state(node, &m.volume, &states)?;
        }
        let read = self.keeps_what_it_lists(&mut m.volume, &states)?;
        self.counters.add("kept states read on trial", read);
        Ok(true)
    }

    /// What the slot that rules lists is kept, and is what it was; or somebody is told that it is not.
    fn keeps_what_it_lists(
        &self,
        v: &mut Volume,
        states: &ReplicaVolume<SharedDisk>,
    ) -> Result<u64, String> {
        let mut told = Vec::new();
        while let Some(e) = v.poll_event() {
            if let Event::NotKept { states, .. } = e {
                told.extend(states);
            }
        }
        let (board, kept): (_, Vec<_>) = (v.board(), v.kept().collect());
        if board.store().has_broken() {
            return Ok(0);
        }
        let mut read = 0;
        for k in v.durable().keeps() {
            let set = k.set;
            if !kept.contains(&set) && !told.contains(&set) {
                return Err(format!("state {set} was to be kept, and is not, and nobody is told"));
            }
            if k.pin > 0 && kept.contains(&set) {
                let pin = board.pin_kept(set);
                let pin = pin.ok_or_else(|| format!("kept state {set} cannot be opened"))?;
                let state = Model::state(line_of(v.history(), set), set);
                self.is_on_trial(states, &pin, state).map_err(|e| format!("kept {e}"))?;
                read += 1;
            }
        }
        for k in &v.durable().aside {
            let pin = board.pin_branch(PinId(k.pin), k.set, k.blocks);
            let pin = pin.ok_or_else(|| format!("branch {} cannot be opened", k.name()))?;
            self.is_on_trial(states, &pin, (k.line, k.set)).map_err(|e| format!("branch: {e}"))?;
            read += 1;
        }
        Ok(read)
    }

    /// What is read of a pin is this state, in every block.
    fn is_on_trial(
        &self,
        states: &ReplicaVolume<SharedDisk>,
        pin: &Pin,
        state: State,
    ) -> Result<(), String> {
        let len = pin.blocks().0 * self.opt.block_size.bytes();
        let mut content = vec![0; usize::try_from(len).unwrap_or(0)];
        states.read(pin, 0, &mut content).map_err(|e| format!("state {}: {e}", state.1))?;
        self.model.check(state, 0, &content)
    }

    /// A writer knows every set of which anything has left it.
    fn has_what_left(&self, v: &Volume) -> Result<(), String> {
        let Some(line) = v.history().last().map(|b| b.generation) else { return Ok(()) };
        let sent = self.model.newest_sent.get(&line).copied().unwrap_or_default();
        let held = v.opened().visible;
        if held < sent {
            return Err(format!("it goes on after set {held}, and {sent} has left it"));
        }
        Ok(())
    }

    /// What a replica shows is a state, in every block.
    fn shows_a_state(
        &self,
        node: &SimNode,
        v: &Volume,
        states: &ReplicaVolume<SharedDisk>,
    ) -> Result<(), String> {
        if v.board().view().refused.is_some() {
            return Ok(());
        }
        let Ok(pin) = v.board().pin_visible() else { return Ok(()) };
        let state = Model::state(line_of(v.history(), pin.state()), pin.state());
        self.is_on_trial(states, &pin, state).map_err(|e| format!("{}: {e}", node.index))
    }
}
